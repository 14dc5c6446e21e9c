package modfetch

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/sync/semaphore"
)

// An engine gets one file from many mirrors. What a mirror sends is judged before it is believed: one that sends a corrupt,
// cut or foreign file is passed over like one that does not answer.
type engine struct {
	judging  *semaphore.Weighted // large files, no more than processors: each is done sooner, and a mirror found out
	strict   bool                // Policy.StrictComma
	strategy Strategy
	trace    *Trace
	healths  healths
}

// A want is one file to get, and how its bytes are judged.
type want struct {
	module module.Version
	path   string // escaped GOPROXY path
	limit  int64  // bytes

	// race says that the bytes can be proven and the path may be seen by all mirrors of a tier: so it does not matter who
	// sends them, and mirrors that are equal may be asked in any order, or several at once.
	race bool

	// into receives the file; if it is nil, data does. Of what is in it already, unfinished tells.
	into       *os.File
	unfinished *unfinished

	// before, if set, returns what a mirror has sent last, and its ETag: it is asked only for what has changed. The ETag of what
	// it sends now goes to tagged.
	before func(m Mirror) (etag string, data []byte)
	tagged func(m Mirror, etag string)

	// begun, if set, is called when the first mirror has answered.
	begun func()

	// known reports whether the hash is known, so that parts of different answers may be put together. Nil is never.
	known func(context.Context) bool

	// inspect, if set, is called once into is full, before judge, for no more files at a time than there are processors. An
	// error is no mirror's fault and ends the fetch.
	inspect func(context.Context) error

	// judge decides whether what was received is the file. An error passes the mirror over, a fatalError ends the fetch.
	judge func(ctx context.Context, m Mirror, data []byte) error

	// crosses says whether a file that was condemned or cut short may be asked for behind a `,`, because the public
	// checksum database has this very version on record. Nil is never.
	crosses func(ctx context.Context) bool
}

const rounds = 2 // times a tier is gone through while all its failures may pass

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
			if !isOffline(tiers[i+1].mirrors[0]) { // who would not be asked anyway
				failed.Hint = stopHint(last, tiers[i+1])
			}
			break
		}
		e.trace.crossed(ctx, AttemptInfo{Module: w.module, Path: w.path, Mirror: last.Mirror, Kind: last.Kind, Err: last.Err})
	}
	return nil, failed
}

// fetchTier asks the mirrors of a tier. It returns the one with good bytes, or the attempt of the last-written one, or an
// error that ends the whole fetch.
func (e *engine) fetchTier(ctx context.Context, t tier, w want, failed *FetchError) (m Mirror, last Attempt, err error) {
	if isOffline(t.mirrors[0]) { // who is not asked, and of whom nothing is learned
		last = Attempt{t.mirrors[0].String(), Forbidden, &OfflineError{w.path}}
		failed.Attempts = append(failed.Attempts, last)
		return nil, last, nil
	}
	whole := false // asked for, though a part of it has arrived
	for n := 0; ; n++ {
		had := w.unfinished.arrived()
		r := newRound(e, t, w, n == 0)
		r.whole = whole
		if m, err = r.run(ctx); m != nil || err != nil {
			return m, last, err
		}
		if had > 0 && w.unfinished.arrived() <= had && !whole {
			whole = true // it may be only the rest that cannot be had
			n--
			continue
		}
		last = r.attempts[len(t.mirrors)-1]
		for _, a := range r.attempts { // what failed again in passing is told once
			if a.Mirror != "" && (n == 0 || a.Kind != Transient) {
				failed.Attempts = append(failed.Attempts, a)
			}
		}
		if !r.again || n == rounds-1 {
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

// fetch asks the mirrors that may see a module path.
func (f *Fetcher) fetch(ctx context.Context, path string, w want) (Mirror, error) {
	m, err := f.engine.fetch(ctx, f.routes.to(path), w)
	var failed *FetchError
	if setting := matching(f.routes.noProxy, path); setting != "" && f.routes.rule(path) == nil && errors.As(err, &failed) {
		failed.Hint = setting + " keeps this path from all mirrors"
	}
	var missing *OfflineError
	if f.policy.Offline && errors.As(err, &failed) && errors.As(err, &missing) {
		failed.Hint = "Policy.Offline: add a file system that has it, by file:// or FSMirror"
		if w.module.Version != "" { // and it is kept
			failed.Hint += ", or fetch it once without"
		}
	}
	return m, err
}

// A fatalError ends a fetch without asking any further mirror.
type fatalError struct{ err error }

func (e *fatalError) Error() string { return e.err.Error() }
func (e *fatalError) Unwrap() error { return e.err }
