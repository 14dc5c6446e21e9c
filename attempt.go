package modfetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"
)

// An attempt is one request to one mirror, and the answer to it: bounded, and watched while it is read.
type attempt struct {
	e       *engine
	mirror  Mirror
	health  *health
	w       want
	req     Request
	wait    time.Duration // for the header
	part    bool          // of a file, of which the rest comes by other requests
	place   int           // of the mirror in its tier
	others  bool          // another mirror can be asked instead
	hurried bool          // wait is less than usual: that there was no answer says little

	ctx     context.Context
	caller  context.Context
	cancel  context.CancelCauseFunc
	release func() // of its slots; nil before it has them
	start   time.Time
	info    AttemptInfo
	resp    *Response
	body    *body
	data    []byte // of a small file
	err     error
	closed  bool
	ended   bool
}

// Times after which a transfer is ended. A stalled or starved body is an attempt that failed, not one that waits.
const (
	headerTimeout = 30 * time.Second
	retryTimeout  = 2 * time.Minute // for all the tries of a request with Retry
	stallTimeout  = 30 * time.Second
	rateGrace     = time.Minute
	minRate       = 4 << 10         // bytes per second on average, once rateGrace is over
	pausedTimeout = 2 * time.Second // for the header of a mirror that is asked though it was found dead
	progressEvery = 100 * time.Millisecond
)

// Failures of an attempt.
var (
	errPage      = &failure{kind: ErrCorrupt, msg: "sent an HTML page, not the file"}
	errCut       = &failure{kind: ErrTransient, msg: "cut short"}
	errDoomed    = &failure{kind: ErrTransient, msg: "given up, because other files from there were condemned"}
	errOvertaken = fmt.Errorf("overtaken by another mirror: %w", context.Canceled)
)

func newAttempt(ctx context.Context, e *engine, m Mirror, w want, req Request) *attempt {
	a := &attempt{e: e, mirror: m, health: e.healths.get(m), w: w, req: req, caller: ctx, wait: headerTimeout}
	a.ctx, a.cancel = context.WithCancelCause(ctx)
	if req.Retry {
		a.wait = retryTimeout
	}
	if _, ok := m.(*direct); ok {
		a.wait = directTimeout
	}
	a.info = AttemptInfo{Module: w.module, Path: w.path, Mirror: m.String(), Offset: req.Offset, Size: -1}
	return a
}

// open sends the request and checks the header of the answer. Afterwards err or body is set.
func (a *attempt) open() {
	if a.release, a.err = a.health.acquire(a.ctx, a.w.into != nil && !a.part); a.err != nil {
		return
	}
	a.start = time.Now()
	noteAsked(a.caller)
	a.e.trace.attemptStarted(a.caller, a.info)
	silence := time.AfterFunc(a.wait, func() { a.cancel(timeoutf("no answer within %s", a.wait)) })
	defer silence.Stop()
	var before []byte
	if a.w.before != nil {
		a.req.ETag, before = a.w.before(a.mirror)
	}
	a.resp, a.err = a.mirror.Fetch(a.ctx, a.req)
	if before != nil && errors.Is(a.err, ErrNotModified) {
		a.resp, a.err = &Response{Body: io.NopCloser(bytes.NewReader(before)), Size: int64(len(before)), ETag: a.req.ETag}, nil
	}
	if a.err != nil {
		return
	}
	a.health.answered(time.Since(a.start))
	a.info.Size = a.resp.Size
	kind := strings.ToLower(a.resp.ContentType)
	switch {
	case a.resp.Offset != 0 && a.resp.Offset != a.req.Offset:
		a.err = failf(ErrCorrupt, "sent the file from byte %d on", a.resp.Offset)
	case a.resp.Size > a.w.limit:
		a.err = failf(ErrCorrupt, "states a size of %d bytes; at most %d are accepted", a.resp.Size, a.w.limit)
	case strings.HasPrefix(kind, "text/html"), strings.HasPrefix(kind, "application/xhtml"):
		a.err = errPage
	default:
		a.body = newBody(a)
	}
}

// leave reports whether the rest is not worth having: the mirror has been found out, and there are others.
func (a *attempt) leave() bool { return a.others && a.w.into != nil && a.health.isDoomed() }

// end closes the answer, notes what the attempt has taught, and returns err in our own words.
func (a *attempt) end(err error) error {
	err = a.close(err)
	if a.start.IsZero() || a.ended { // it never began, or has ended: the first sender of a file that others completed
		return err
	}
	a.ended = true
	blameless := errors.Is(err, errDoomed) || errors.Is(err, errSpliced) || errors.Is(err, errOtherFile) || errors.Is(err, errRange)
	if err != nil && !blameless {
		a.health.failed(err, a.resp != nil || isStatus(err) || a.hurried)
	}
	a.info.Err, a.info.Kind, a.info.Overtaken = err, KindOf(err), errors.Is(err, errOvertaken)
	a.e.trace.attemptDone(a.caller, a.info)
	return err
}

// close ends the answer, so that another request can begin, but not the attempt: its bytes may still have to be judged. It
// returns err in our own words, not in what the transport made of them.
func (a *attempt) close(err error) error {
	if a.closed {
		return err
	}
	a.closed = true
	if cause := context.Cause(a.ctx); err != nil && (a.caller.Err() == nil || cause == errOvertaken) {
		switch {
		case cause != nil && KindOf(err) != Corrupt && KindOf(err) != Security:
			err = cause
		case KindOf(err) == Canceled:
			err = &failure{ErrTransient, "timed out", err} // a dial's own deadline, not the caller's
		}
	}
	if a.body != nil {
		a.body.stall.Stop()
		a.health.received(a.info.Bytes, time.Since(a.body.start))
	}
	if a.resp != nil {
		a.resp.Body.Close()
	}
	if !a.start.IsZero() {
		a.info.Duration = time.Since(a.start)
	}
	a.cancel(nil)
	if a.release != nil {
		a.release()
	}
	return err
}

// A body is what a mirror sends: bounded, and watched while it is read.
type body struct {
	a     *attempt
	stall *time.Timer
	start time.Time
	told  time.Time // when Progress was last called
	size  int64     // of what comes, -1 if unknown
}

func newBody(a *attempt) *body {
	b := &body{a: a, start: time.Now(), size: a.resp.Size}
	if b.size >= 0 {
		b.size -= a.resp.Offset
	}
	b.stall = time.AfterFunc(stallTimeout, func() { a.cancel(timeoutf("sent nothing for %s", stallTimeout)) })
	return b
}

func (b *body) Read(p []byte) (int, error) {
	a := b.a
	n, err := a.resp.Body.Read(p)
	a.info.Bytes += int64(n)
	if n > 0 {
		b.stall.Reset(stallTimeout)
	}
	now := time.Now()
	if elapsed := now.Sub(b.start); elapsed > rateGrace && a.info.Bytes < int64(elapsed.Seconds()*minRate) {
		a.cancel(timeoutf("sent %d bytes in %s: too slow", a.info.Bytes, elapsed.Round(time.Second)))
		return n, context.Cause(a.ctx)
	}
	if now.Sub(b.told) >= progressEvery {
		b.told, a.info.Duration = now, now.Sub(b.start)
		a.e.trace.progress(a.caller, a.info)
	}
	switch {
	case a.resp.Offset+a.info.Bytes > a.w.limit:
		return n, failf(ErrCorrupt, "sent more than the %d bytes that are accepted", a.w.limit)
	case err != nil && a.ctx.Err() != nil:
		return n, context.Cause(a.ctx)
	case a.leave():
		return n, errDoomed
	case err == io.EOF && b.size >= 0 && a.info.Bytes < b.size, err != nil && err != io.EOF:
		return n, fmt.Errorf("%w after %d of %s", errCut, a.info.Bytes, sizeText(b.size))
	}
	return n, err
}

func sizeText(size int64) string {
	if size < 0 {
		return "an unknown number of bytes"
	}
	return fmt.Sprintf("%d bytes", size)
}

// all reads a small file. One that turns out to be large waits on the disk until its end has come, and so its size is known:
// a mirror that sends too much does not get it into memory.
func (b *body) all() ([]byte, error) {
	var buf bytes.Buffer
	if b.size > 0 {
		buf.Grow(int(min(b.size, 64<<10)) + bytes.MinRead)
	}
	if n, err := buf.ReadFrom(io.LimitReader(b, maxHeld)); err != nil || n < maxHeld {
		return buf.Bytes(), err
	}
	rest, err := os.CreateTemp("", "modfetch-*")
	if err != nil {
		return nil, &fatalError{&failure{ErrTransient, "receiving " + b.a.w.path, err}}
	}
	defer os.Remove(rest.Name())
	defer rest.Close()
	n, err := io.Copy(onlyWriter{rest}, b)
	data := []byte(nil)
	if err == nil {
		data = make([]byte, maxHeld+n)
		copy(data, buf.Bytes())
		_, err = rest.ReadAt(data[maxHeld:], 0)
	}
	var disk *fs.PathError
	if errors.As(err, &disk) {
		return nil, &fatalError{&failure{ErrTransient, "receiving " + b.a.w.path, err}}
	}
	return data, err
}

const maxHeld = 1 << 20 // bytes of a file in memory before its size is known
