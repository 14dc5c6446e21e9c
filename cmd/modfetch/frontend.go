package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"math"
	"net/http"
	"os"
	"time"

	"github.com/modfetch/modfetch"
)

// A frontend answers requests by the next handler, at most so many at a time, and writes one line about each. It drops
// clients that take nothing.
type frontend struct {
	next     http.Handler
	log      *slog.Logger
	metrics  *metrics
	slots    chan struct{} // requests in flight
	patience time.Duration // with a client that takes nothing
}

const (
	maxRequestID = 64        // bytes
	maxLogged    = 1 << 10   // bytes of a path
	step         = 128 << 10 // bytes that a client has to take within patience
)

// An answer is what was written for a request. It is the ResponseWriter of the next handler, too.
type answer struct {
	http.ResponseWriter
	id       string
	patience time.Duration
	until    time.Time // of the deadline that is set
	status   int
	bytes    int64
	returned bool                // the handler has
	err      error               // of a write
	info     modfetch.ServedInfo // from the Handler; zero if it was not asked
}

func (f *frontend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	a := &answer{ResponseWriter: w, id: requestID(r), patience: f.patience}
	w.Header().Set("X-Request-Id", a.id)
	if r.ContentLength != 0 { // a body is not read, and must not be waited for
		http.NewResponseController(w).SetReadDeadline(start.Add(headerTimeout))
	}
	defer func() {
		a.extend() // for what net/http still has to send
		f.answered(r, a, time.Since(start))
	}()
	select {
	case f.slots <- struct{}{}:
	default:
		w.Header().Set("Retry-After", "1")
		w.Header().Set("Cache-Control", "no-store")
		http.Error(a, "too many requests at a time", http.StatusServiceUnavailable)
		a.returned = true
		return
	}
	f.metrics.inFlight.Inc()
	defer func() {
		f.metrics.inFlight.Dec()
		<-f.slots
	}()
	f.next.ServeHTTP(a, r.WithContext(context.WithValue(r.Context(), answerKey{}, a)))
	a.returned = true
}

// served is the Handler's Served hook.
func (f *frontend) served(ctx context.Context, i modfetch.ServedInfo) {
	if a := answerOf(ctx); a != nil {
		a.info = i
	}
}

type answerKey struct{}

// answerOf returns the answer on behalf of which something is done, or nil. It may have been given by now.
func answerOf(ctx context.Context) *answer {
	a, _ := ctx.Value(answerKey{}).(*answer)
	return a
}

// requestID returns the client's own name for the request if that can be printed, else a new one.
func requestID(r *http.Request) string {
	id := r.Header.Get("X-Request-Id")
	if id == "" || len(id) > maxRequestID {
		return rand.Text()
	}
	for _, c := range []byte(id) {
		if c <= ' ' || c > '~' {
			return rand.Text()
		}
	}
	return id
}

// answered counts and logs a request.
func (f *frontend) answered(r *http.Request, a *answer, elapsed time.Duration) {
	if r.Method == http.MethodHead {
		a.bytes = 0 // net/http has not sent it
	}
	if a.status == 0 {
		a.status = http.StatusOK
	}
	f.metrics.answered(a, elapsed)
	level := slog.LevelInfo
	if a.status >= 500 {
		level = slog.LevelWarn
	}
	if !f.log.Enabled(r.Context(), level) {
		return
	}
	attrs := make([]slog.Attr, 0, 12)
	attrs = append(attrs, slog.String("id", a.id), slog.String("remote", r.RemoteAddr), slog.String("method", r.Method),
		slog.String("path", r.URL.Path[:min(len(r.URL.Path), maxLogged)]), slog.Int("status", a.status),
		slog.Int64("bytes", a.bytes), slog.Float64("ms", float64(elapsed.Microseconds())/1000))
	if a.info.File != "" {
		attrs = append(attrs, slog.String("file", a.info.File), slog.Bool("hit", a.info.Hit))
	}
	if a.info.Stale != "" {
		attrs = append(attrs, slog.String("stale", a.info.Stale))
	}
	if a.cut() {
		attrs = append(attrs, slog.Bool("cut", true))
	}
	if a.info.Err != nil {
		attrs = append(attrs, slog.String("err", a.info.Err.Error()))
	}
	f.log.LogAttrs(r.Context(), level, "request", attrs...)
}

// cut reports whether not all of the answer was sent.
func (a *answer) cut() bool { return !a.returned || a.err != nil }

// outcome sorts an answer by its status.
func (a *answer) outcome() string {
	switch a.status {
	case http.StatusNotModified:
		return "not modified"
	case http.StatusForbidden, http.StatusUnauthorized:
		return "forbidden"
	case http.StatusNotFound, http.StatusGone:
		return "not found"
	case http.StatusServiceUnavailable:
		return "unavailable"
	case 499: // by the Handler, where nobody waits any more
		return "cut"
	case http.StatusGatewayTimeout:
		return "timeout"
	}
	switch {
	case a.cut():
		return "cut"
	case a.status >= 500:
		return "failed"
	case a.status >= 400:
		return "refused"
	}
	return "ok"
}

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (a *answer) Write(p []byte) (int, error) {
	a.extend()
	n, err := a.ResponseWriter.Write(p)
	a.bytes += int64(n)
	a.err = cmp.Or(a.err, err)
	return n, err
}

// ReadFrom implements io.ReaderFrom, so that the kernel can copy a file to the connection. It does so in steps: the client
// need not be quick, but each step has to end within the time that Write has.
func (a *answer) ReadFrom(src io.Reader) (n int64, err error) {
	limited, _ := src.(*io.LimitedReader)
	if limited == nil {
		limited = &io.LimitedReader{R: src, N: math.MaxInt64}
	}
	if _, ok := limited.R.(*os.File); !ok {
		return io.Copy(struct{ io.Writer }{a}, src) // of what is in memory, net/http would send the first bytes apart
	}
	for limited.N > 0 {
		a.extend()
		part := io.LimitedReader{R: limited.R, N: min(step, limited.N)} // not a reader around limited: net looks into one only
		want := part.N
		m, err := io.Copy(a.ResponseWriter, &part)
		n += m
		a.bytes += m
		limited.N -= m
		a.err = cmp.Or(a.err, err)
		if err != nil || m < want {
			return n, err
		}
	}
	return n, nil
}

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// extend moves the deadline for what is written next, unless it was moved just now.
func (a *answer) extend() {
	until := time.Now().Add(a.patience)
	if until.Sub(a.until) < a.patience/64 {
		return
	}
	a.until = until
	http.NewResponseController(a.ResponseWriter).SetWriteDeadline(until) // all net/http's own writers have one
}
