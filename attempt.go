package modfetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/sync/semaphore"
)

// An engine gets one file from many mirrors. One mirror at a time is asked, and its bytes are judged before the next
// one is given up: a mirror that sends a corrupt, cut or foreign file is passed over like one that does not answer.
type engine struct {
	slots  *semaphore.Weighted // requests under way
	strict bool                // Policy.StrictComma
	trace  *Trace
}

// A want is one file to get, and how its bytes are judged.
type want struct {
	module module.Version
	path   string // escaped GOPROXY path
	limit  int64  // bytes

	// take reads the body to its end and judges it. An error passes this mirror over, a fatalError ends the fetch. take may
	// be called again for the next mirror.
	take func(ctx context.Context, m Mirror, b *body) error

	// crosses says whether a file that was condemned or cut short may be asked for behind a `,`, because the public
	// checksum database has this very version on record. Nil is never.
	crosses func(ctx context.Context) bool
}

// Times after which a transfer is ended. A stalled or starved body is an attempt that failed, not one that waits.
const (
	headerTimeout = 30 * time.Second
	retryTimeout  = 2 * time.Minute // for all the tries of a request with Retry
	stallTimeout  = 30 * time.Second
	rateGrace     = time.Minute
	minRate       = 4 << 10 // bytes per second on average, once rateGrace is over
	rounds        = 2       // times a tier is gone through while all its failures may pass
	progressEvery = 100 * time.Millisecond
)

// retryPause is the least time before the same mirror is asked again; shorter in tests.
var retryPause = 200 * time.Millisecond

// fetch asks the mirrors of tiers for w in order until one of them has good bytes, and returns that mirror.
func (e *engine) fetch(ctx context.Context, tiers []tier, w want) (Mirror, error) {
	failed := &FetchError{Module: w.module, Path: w.path}
	for i, t := range tiers {
		m, last, err := e.fetchTier(ctx, t, w, failed)
		if err != nil || m != nil {
			return m, err
		}
		if i == len(tiers)-1 || last.Kind == NotFound {
			continue
		}
		if !e.mayCross(ctx, last, w) {
			failed.Hint = stopHint(last, tiers[i+1])
			break
		}
		e.trace.crossed(ctx, AttemptInfo{Module: w.module, Path: w.path, Mirror: last.Mirror, Kind: last.Kind, Err: last.Err})
	}
	return nil, failed
}

// fetch asks the mirrors that may see a module path.
func (f *Fetcher) fetch(ctx context.Context, path string, w want) (Mirror, error) {
	m, err := f.engine.fetch(ctx, f.routes.to(path), w)
	var failed *FetchError
	if setting := matching(f.routes.noProxy, path); setting != "" && f.routes.rule(path) == nil && errors.As(err, &failed) {
		failed.Hint = setting + " keeps this path from all mirrors"
	}
	return m, err
}

// fetchTier asks each mirror of a tier. It returns the one with good bytes, or the attempt of the last-written one, or
// an error that ends the whole fetch.
func (e *engine) fetchTier(ctx context.Context, t tier, w want, failed *FetchError) (m Mirror, last Attempt, err error) {
	for round := range rounds {
		again := true
		for _, m := range t.mirrors {
			cut, err := e.try(ctx, m, w, len(t.mirrors) == 1 && round == 0)
			if err == nil {
				return m, last, nil
			}
			if ctx.Err() != nil {
				return nil, last, fmt.Errorf("fetching %s: %w", w.path, context.Cause(ctx))
			}
			var end *fatalError
			if errors.As(err, &end) {
				return nil, last, end.err
			}
			last = Attempt{Mirror: m.String(), Kind: KindOf(err), Err: err}
			if round == 0 || last.Kind != Transient {
				failed.Attempts = append(failed.Attempts, last)
			}
			// A sole mirror has already retried everything up to its header itself.
			again = again && last.Kind == Transient && (cut || len(t.mirrors) > 1)
		}
		if !again || round == rounds-1 {
			break
		}
		select {
		case <-time.After(2*retryPause + rand.N(3*retryPause)):
		case <-ctx.Done():
		}
	}
	return nil, last, nil
}

// mayCross applies the one addition to the meaning of `,`: bytes that are provably not the file are no answer at all, so
// the next tier is asked, provided that the path is public anyway. A page is a refusal and never crosses.
func (e *engine) mayCross(ctx context.Context, last Attempt, w want) bool {
	if e.strict || w.crosses == nil || errors.Is(last.Err, errPage) {
		return false
	}
	if !errors.Is(last.Err, errCut) && last.Kind != Corrupt {
		return false
	}
	return w.crosses(ctx)
}

// stopHint tells what would have let the fetch go on.
func stopHint(last Attempt, next tier) string {
	return fmt.Sprintf("not asked: %s, because a , goes on only after a 404 or 410; with | before it, it would be asked after any failure of %s",
		next.mirrors[0], last.Mirror)
}

// A fatalError ends a fetch without asking any further mirror.
type fatalError struct{ err error }

func (e *fatalError) Error() string { return e.err.Error() }
func (e *fatalError) Unwrap() error { return e.err }

// Failures of a body.
var (
	errPage = &failure{kind: ErrCorrupt, msg: "sent an HTML page, not the file"}
	errCut  = &failure{kind: ErrTransient, msg: "cut short"}
)

// try asks one mirror. It reports whether a body had begun to arrive and broke off.
func (e *engine) try(ctx context.Context, m Mirror, w want, retry bool) (cut bool, err error) {
	if err := e.slots.Acquire(ctx, 1); err != nil {
		return false, err
	}
	release := sync.OnceFunc(func() { e.slots.Release(1) })
	defer release()

	attempt, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	wait := headerTimeout
	if retry {
		wait = retryTimeout
	}
	if _, ok := m.(*direct); ok {
		wait = directTimeout
	}
	start := time.Now()
	silence := time.AfterFunc(wait, func() { cancel(failf(ErrTransient, "no answer within %s", wait)) })
	defer silence.Stop()
	info := AttemptInfo{Module: w.module, Path: w.path, Mirror: m.String(), Size: -1}
	e.trace.attemptStarted(ctx, info)
	defer func() {
		if err != nil && ctx.Err() == nil {
			switch cause := context.Cause(attempt); {
			case cause != nil && KindOf(err) != Corrupt:
				err = cause // our own words, not what the transport made of them
			case KindOf(err) == Canceled:
				err = &failure{ErrTransient, "timed out", err} // a dial's own deadline, not the caller's
			}
		}
		info.Duration, info.Err, info.Kind = time.Since(start), err, KindOf(err)
		e.trace.attemptDone(ctx, info)
	}()

	resp, err := m.Fetch(attempt, Request{Path: w.path, Retry: retry})
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	silence.Stop()
	info.Size = resp.Size
	if resp.Offset != 0 {
		return false, failf(ErrCorrupt, "sent the file from byte %d on", resp.Offset)
	}
	if resp.Size > w.limit {
		return false, failf(ErrCorrupt, "states a size of %d bytes; at most %d are accepted", resp.Size, w.limit)
	}
	if strings.HasPrefix(resp.ContentType, "text/html") {
		return false, errPage
	}
	stall := time.AfterFunc(stallTimeout, func() { cancel(failf(ErrTransient, "sent nothing for %s", stallTimeout)) })
	defer stall.Stop()
	b := &body{e: e, ctx: attempt, cancel: cancel, stall: stall, start: time.Now(), info: &info,
		r: resp.Body, size: resp.Size, limit: w.limit}
	b.arrived = func() { // judging the bytes, and waiting for who vouches for them, is not the mirror's time
		stall.Stop()
		release()
	}
	err = w.take(attempt, m, b)
	return errors.Is(err, errCut) || context.Cause(attempt) != nil, err
}

// A body is what a mirror sends: bounded, and watched while it is read.
type body struct {
	e       *engine
	ctx     context.Context
	cancel  context.CancelCauseFunc
	stall   *time.Timer
	start   time.Time // of the body
	told    time.Time // when Progress was last called
	info    *AttemptInfo
	arrived func() // called at the end of the body

	r     io.Reader
	size  int64 // -1 if unknown
	limit int64
	n     int64
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	b.n += int64(n)
	b.info.Bytes = b.n
	if n > 0 {
		b.stall.Reset(stallTimeout)
	}
	now := time.Now()
	if elapsed := now.Sub(b.start); elapsed > rateGrace && b.n < int64(elapsed.Seconds()*minRate) {
		b.cancel(failf(ErrTransient, "sent %d bytes in %s: too slow", b.n, elapsed.Round(time.Second)))
		return n, context.Cause(b.ctx)
	}
	if now.Sub(b.told) >= progressEvery {
		b.told, b.info.Duration = now, now.Sub(b.start)
		b.e.trace.progress(b.ctx, *b.info)
	}
	switch {
	case b.n > b.limit:
		return n, failf(ErrCorrupt, "sent more than the %d bytes that are accepted", b.limit)
	case err != nil && b.ctx.Err() != nil:
		return n, context.Cause(b.ctx)
	case err == io.EOF && b.size >= 0 && b.n < b.size, err != nil && err != io.EOF:
		return n, fmt.Errorf("%w after %d of %s", errCut, b.n, sizeText(b.size))
	case err == io.EOF:
		b.arrived()
	}
	return n, err
}

func sizeText(size int64) string {
	if size < 0 {
		return "an unknown number of bytes"
	}
	return fmt.Sprintf("%d bytes", size)
}

// all reads the rest of a small file.
func (b *body) all() ([]byte, error) {
	var buf bytes.Buffer
	if b.size > 0 {
		buf.Grow(int(min(b.size, 64<<10)) + bytes.MinRead)
	}
	_, err := buf.ReadFrom(b)
	return buf.Bytes(), err
}

// absent reports whether an error is a mirror's own statement that a file does not exist.
func absent(err error) bool { return errors.Is(err, fs.ErrNotExist) }
