package modfetch

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/modfetch/modfetch/internal/flight"
)

// An answer is what was said where no hash covers it, and when: a list, the latest version, a tree head. It is served for as
// long as it is fresh, and somewhat longer while nobody gives another.
type answer struct {
	Time   time.Time
	Absent bool   `json:",omitempty"` // the mirrors said that there is nothing
	Mirror string `json:",omitempty"` // who said it; redacted
	ETag   string `json:",omitempty"` // by which that mirror can be asked whether it would say the same now

	body  []byte
	tag   string // ETag of the body, ours
	stale string // why it is served though it is not fresh; see ServedInfo
	err   error  // why there is no other
}

// staled returns the answer as one that is served though it is not fresh.
func (a *answer) staled(why string, err error) *answer {
	b := *a
	b.stale, b.err = why, err
	return &b
}

func (a *answer) age() time.Duration { return time.Since(a.Time) }

// A question is what leads to an answer.
type question struct {
	name  string        // GOPROXY path
	fresh time.Duration // for which an answer is
	stale time.Duration // for which it is served afterwards at most, while nobody gives another; 0 is without end

	// check says what is wrong with an answer that was kept in the Cache, for other processes and for the time after a restart:
	// others may write there. Nil is for an answer that is not kept.
	check func(context.Context, []byte) error

	ask func(context.Context, *earlier) ([]byte, error)
}

// answers are what a Handler was told and may say again: in memory, and in the Cache for other processes.
type answers struct {
	absence time.Duration // for which an absence is believed
	near    lru[*answer]  // which are not changed any more
	far     Cache         // nil for none
	trace   *Trace
	alone   func(ctx context.Context, name string) (unlock func() error, err error)

	flights flight.Group[string, *answer]

	mu       sync.Mutex // guards the following
	closed   bool
	renewals map[string]*renewal
	failed   map[string]failedQuestion
}

// A renewal asks for another answer in the background.
type renewal struct {
	cancel context.CancelFunc
	done   chan struct{} // closed once a and err are set
	a      *answer
	err    error
}

type failedQuestion struct {
	at  time.Time
	err error
}

const (
	nearAnswers    = 16 << 20         // bytes in memory
	answerSize     = 512              // bytes that an answer has besides its name and body, about
	maxAnswer      = maxList + 64<<10 // bytes of one in the Cache
	freshTimes     = 10               // an answer this many times as old as a fresh one is served at once; an older one waits for another
	freshPatience  = 3 * time.Second  // for another answer, where one that is not fresh can be served
	failedPause    = 10 * time.Second // after a failure, while nobody is asked for another answer
	refreshTimeout = 2 * time.Minute
	maxFailed      = 1 << 12 // questions whose failure is remembered
	maxRenewals    = 1 << 8  // at a time
)

// errKnownAbsent is the answer to a question to which the answer was a moment ago that there is nothing.
var errKnownAbsent = fmt.Errorf("the mirrors have said so a moment ago: %w", fs.ErrNotExist)

// get answers a question: at once if the answer is fresh, else with a new one, else with the one that there is.
func (s *answers) get(ctx context.Context, q question, offline bool) (*answer, error) {
	a := s.look(ctx, q)
	switch {
	case a != nil && a.Absent && s.isFresh(a, q):
		return nil, errKnownAbsent
	case a != nil && a.Absent:
		a = nil
	case a != nil && s.isFresh(a, q):
		return a, nil
	case a != nil && offline:
		return a.staled(staleError, nil), nil
	}
	if offline {
		return nil, &OfflineError{q.name}
	}
	if a == nil || q.stale > 0 && a.age() > q.fresh+q.stale {
		return s.refresh(ctx, q, a)
	}
	if failed := s.failure(q.name); failed != nil {
		return a.staled(staleError, failed), nil
	}
	r := s.renew(ctx, q, a)
	if r == nil || a.age() < freshTimes*q.fresh {
		return a.staled(staleRevalidating, nil), nil
	}
	noteAsked(ctx)
	select {
	case <-r.done:
		if r.err != nil && !absent(r.err) {
			return a.staled(staleError, r.err), nil
		}
		return r.a, r.err
	case <-time.After(freshPatience):
		return a.staled(staleRevalidating, nil), nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// isFresh reports whether nobody needs to be asked for another answer.
func (s *answers) isFresh(a *answer, q question) bool {
	if a.Absent {
		return a.age() < s.absence
	}
	return a.age() < q.fresh
}

// renew asks for another answer than before, once for all who come meanwhile, whether they wait for it or not. It returns nil
// while too many are asked for already, and once the Handler is closed.
func (s *answers) renew(ctx context.Context, q question, before *answer) *renewal {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.renewals[q.name]; r != nil {
		return r
	}
	if s.closed || len(s.renewals) >= maxRenewals {
		return nil
	}
	if s.renewals == nil {
		s.renewals = make(map[string]*renewal)
	}
	ctx = context.WithValue(context.WithoutCancel(ctx), askedKey{}, nil) // who does not wait has asked nobody
	ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
	r := &renewal{done: make(chan struct{}), cancel: cancel}
	s.renewals[q.name] = r
	go func() { // ends with the refresh, at the latest when the Handler is closed
		defer cancel()
		r.a, r.err = s.refresh(ctx, q, before)
		s.mu.Lock()
		delete(s.renewals, q.name)
		s.mu.Unlock()
		close(r.done)
	}()
	return r
}

// close ends what is asked for in the background.
func (s *answers) close() {
	s.mu.Lock()
	s.closed = true
	renewals := slices.Collect(maps.Values(s.renewals))
	s.mu.Unlock()
	for _, r := range renewals {
		r.cancel()
		<-r.done
	}
}

// What ServedInfo.Stale says.
const (
	staleRevalidating = "revalidating"
	staleError        = "error"
)

// refresh asks for an answer, once for all who want it.
func (s *answers) refresh(ctx context.Context, q question, before *answer) (*answer, error) {
	return s.flights.Do(ctx, q.name, func(ctx context.Context) (*answer, error) {
		if q.check != nil {
			unlock, err := s.alone(ctx, farName(q.name))
			if err != nil {
				return nil, err
			}
			defer unlock()
			if a := s.look(ctx, q); a != nil && !a.Absent && a.age() < q.fresh {
				return a, nil // by another process
			}
		}
		var e earlier
		if before != nil {
			e = earlier{before.Mirror, before.ETag, before.body}
		}
		body, err := q.ask(ctx, &e)
		if before != nil && absent(err) && q.stale == 0 {
			body, err = before.body, nil // what is served without end does not go when a mirror drops it
		}
		a := &answer{Time: time.Now(), Absent: absent(err), Mirror: e.mirror, ETag: e.etag, body: body}
		if before != nil {
			s.note(q.name, err)
		}
		if err == nil || a.Absent {
			s.put(q.name, a)
			if q.check != nil && (before != nil || !a.Absent) {
				s.keep(ctx, q.name, a)
			}
		}
		if err != nil {
			return nil, err
		}
		return a, nil
	})
}

// failure returns why the question could not be answered a moment ago.
func (s *answers) failure(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f, ok := s.failed[name]; ok && time.Since(f.at) < failedPause {
		return f.err
	}
	return nil
}

// note remembers a failure, where there is something to serve in its stead.
func (s *answers) note(name string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil || absent(err) || errors.Is(err, context.Canceled) {
		delete(s.failed, name)
		return
	}
	if s.failed == nil || len(s.failed) >= maxFailed {
		s.failed = make(map[string]failedQuestion)
	}
	s.failed[name] = failedQuestion{time.Now(), err}
}

// look returns the answer that there is, or nil. Another process may have put a newer one into the Cache.
func (s *answers) look(ctx context.Context, q question) *answer {
	near, _ := s.near.get(q.name)
	if near != nil && s.isFresh(near, q) || q.check == nil || s.far == nil {
		return near
	}
	far := s.loadFar(ctx, q.name)
	if far == nil || near != nil && !far.Time.After(near.Time) || !far.Absent && q.check(ctx, far.body) != nil {
		return near
	}
	s.put(q.name, far)
	return far
}

func farName(name string) string { return "modfetch/fresh/" + name }

// load reads an answer. One from the future has been forged, or the clock has been set back: it is none. Neither is one whose
// ETag could not be sent.
func load(ctx context.Context, c Cache, name string) *answer {
	r, err := c.Open(ctx, name)
	if err != nil {
		return nil
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, maxAnswer+1))
	header, body, ok := bytes.Cut(data, []byte("\n"))
	a := &answer{body: body}
	if err != nil || !ok || len(data) > maxAnswer || json.Unmarshal(header, a) != nil || a.age() < 0 || strings.ContainsFunc(a.ETag, unicode.IsControl) {
		return nil
	}
	return a
}

// put keeps an answer in memory.
func (s *answers) put(name string, a *answer) {
	a.tag = cmp.Or(a.tag, tagOf(a.body))
	s.near.put(name, a, int64(len(name)+len(a.body)+answerSize), nearAnswers)
}

// loadFar reads an answer from the Cache, which is not waited for for long: there are others to ask.
func (s *answers) loadFar(ctx context.Context, name string) *answer {
	ctx, cancel := context.WithTimeout(ctx, freshPatience)
	defer cancel()
	got := make(chan *answer, 1)
	go func() { got <- load(ctx, s.far, farName(name)) }() // ends when the Cache has answered, or given up
	select {
	case a := <-got:
		return a
	case <-ctx.Done():
		return nil
	}
}

// keep keeps an answer in the Cache; if that fails it is asked for again some time.
func (s *answers) keep(ctx context.Context, name string, a *answer) {
	if s.far == nil {
		return
	}
	if header, err := json.Marshal(a); err == nil {
		if err := s.far.Put(ctx, farName(name), bytes.NewReader(append(append(header, '\n'), a.body...))); err != nil {
			s.trace.cache(ctx, CacheInfo{Name: farName(name), Err: err})
		}
	}
}
