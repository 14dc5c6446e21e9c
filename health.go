package modfetch

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// A health is what an engine has learned of one mirror. Where mirrors are equal it orders them; elsewhere it only keeps a
// mirror that is known to be dead, or whose bytes were condemned, from being waited for while another can be asked.
type health struct {
	// Requests under way: each mirror has its own slots, or one that hangs would take those of all. A zip begins only with
	// one of zipSlots too, so that small files, and further parts of a slow zip, never wait for many large ones.
	slots, zipSlots *semaphore.Weighted

	mu       sync.Mutex // guards the following
	latency  time.Duration
	silent   int               // failures in a row that may pass
	wrong    int               // files condemned, and no good one since
	until    time.Time         // passed over until then; then one request is let through to see
	asks     time.Time         // passed over until then too, as the mirror has asked for that: no other answer ends it
	explored bool              // somebody asks it because nothing is known of it
	doomed   bool              // until is because of condemned bytes: an answer alone does not end it
	odd      time.Time         // until then its bytes are not put beside those of others
	info     MirrorInfo        // but for what tell adds
	recent   [64]time.Duration // latencies, of which the median is told
	answers  int
}

// MirrorInfo is what a Fetcher has learned of one mirror.
type MirrorInfo struct {
	Mirror   string        // redacted
	Files    int           // got from it, and not condemned
	Bytes    int64         // received
	Latency  time.Duration // median of the latest 64 answers, up to the header
	Rate     float64       // bytes per second of one connection, a moving average; 0 if unknown
	Failures map[Kind]int  // NotFound is none
	Until    time.Time     // passed over until then, while another can be asked; zero if it is not
}

// Times for which a mirror is passed over after a failure; twice as long after each further one.
const (
	deadPause   = 5 * time.Second
	doomedPause = time.Minute
	mostPause   = 10 * time.Minute // and half as long again, by jitter
	silentMost  = 3                // answers in a row that are failures, such as a 503, until a mirror counts as dead
	wrongMost   = 3                // condemned files in a row: an honest mirror may have a broken one
	rateSample  = 64 << 10         // bytes of a body from which on its rate tells something
)

// healths of all mirrors that were asked.
type healths struct {
	jobs int // requests to one mirror at a time

	mu   sync.Mutex // guards the following
	of   map[Mirror]*health
	list []*health // as first asked
}

func (h *healths) get(m Mirror) *health {
	if b, ok := m.(*sumBase); ok {
		m = b.Mirror // the same host
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	x := h.of[m]
	if x == nil {
		if h.of == nil {
			h.of = make(map[Mirror]*health)
		}
		x = &health{info: MirrorInfo{Mirror: m.String()}}
		x.slots, x.zipSlots = semaphore.NewWeighted(int64(h.jobs)), semaphore.NewWeighted(int64(max(1, h.jobs/2)))
		h.of[m] = x
		h.list = append(h.list, x)
	}
	return x
}

// Mirrors tells what was learned of each mirror that was asked, in the order in which they were asked first.
func (f *Fetcher) Mirrors() []MirrorInfo {
	f.engine.healths.mu.Lock()
	list := slices.Clone(f.engine.healths.list)
	f.engine.healths.mu.Unlock()
	var out []MirrorInfo
	for _, h := range list {
		out = append(out, h.tell())
	}
	return out
}

func (h *health) tell() MirrorInfo {
	h.mu.Lock()
	defer h.mu.Unlock()
	info := h.info
	info.Failures = maps.Clone(info.Failures)
	if n := min(h.answers, len(h.recent)); n > 0 {
		latencies := slices.Sorted(slices.Values(h.recent[:n]))
		info.Latency = latencies[n/2]
	}
	if until := slices.MaxFunc([]time.Time{h.until, h.asks}, time.Time.Compare); time.Now().Before(until) {
		info.Until = until
	}
	return info
}

// acquire takes the slots for a request, of a whole zip or of something else.
func (h *health) acquire(ctx context.Context, zip bool) (release func(), err error) {
	if zip {
		if err := h.zipSlots.Acquire(ctx, 1); err != nil {
			return nil, err
		}
	}
	release = func() {
		h.slots.Release(1)
		if zip {
			h.zipSlots.Release(1)
		}
	}
	if err := h.slots.Acquire(ctx, 1); err != nil {
		if zip {
			h.zipSlots.Release(1)
		}
		return nil, err
	}
	return release, nil
}

// answered notes a header.
func (h *health) answered(latency time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.recent[h.answers%len(h.recent)] = latency
	h.answers++
	latency = max(latency, 1)
	if h.latency == 0 {
		h.latency = latency
	}
	h.latency += (latency - h.latency) / 4
}

// overtaken notes that another mirror has answered first: this one takes at least so long.
func (h *health) overtaken(after time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.latency = max(h.latency, after)
}

// received notes the bytes of a body.
func (h *health) received(n int64, in time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.info.Bytes += n
	if n < rateSample || in <= 0 {
		return
	}
	rate := float64(n) / in.Seconds()
	if h.info.Rate == 0 {
		h.info.Rate = rate
	}
	h.info.Rate += (rate - h.info.Rate) / 4
}

// served notes a good file. Whoever sends bad zips is not better for good small files.
func (h *health) served(zip bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.info.Files++
	h.silent = 0
	if zip {
		h.wrong, h.doomed = 0, false
	}
	if !h.doomed {
		h.until = time.Time{}
	}
}

// failed notes a failure. Absence is an answer, and who was told to stop did not fail.
func (h *health) failed(err error, answered bool) {
	kind := KindOf(err)
	if kind == Canceled {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	var status *StatusError
	if errors.As(err, &status) && status.RetryAfter > 0 {
		h.asks = time.Now().Add(status.RetryAfter)
	}
	if kind == NotFound || kind == Forbidden {
		h.silent = 0
		if !h.doomed {
			h.until = time.Time{}
		}
		if kind == NotFound {
			return
		}
	}
	if h.info.Failures == nil {
		h.info.Failures = make(map[Kind]int)
	}
	h.info.Failures[kind]++
	switch {
	case kind == Corrupt:
		if h.wrong++; h.wrong >= wrongMost {
			h.doomed = true
			h.pause(doomedPause, h.wrong-wrongMost+1)
		}
	case kind == Transient, kind == Security:
		h.silent++
		if !answered {
			h.pause(deadPause, h.silent)
		} else if h.silent >= silentMost {
			h.pause(deadPause, h.silent-silentMost+1)
		}
	}
}

// pause passes the mirror over for a while, jittered so that many do not come back at once. h.mu is held.
func (h *health) pause(first time.Duration, times int) {
	d := min(first<<min(times-1, 16), mostPause)
	if until := time.Now().Add(d/2 + rand.N(d)); until.After(h.until) {
		h.until = until
	}
}

// passOver reports whether the mirror is to be passed over if another can be asked. When the pause is over, one caller is let
// through: who gets false is taken to ask, and the others pass the mirror over for a while longer.
func (h *health) passOver() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if now.Before(h.asks) {
		return true
	}
	if h.until.IsZero() || now.Before(h.until) {
		return !h.until.IsZero()
	}
	h.until = now.Add(deadPause)
	return false
}

// explore reports, once, that somebody should ask the mirror to learn how soon it answers.
func (h *health) explore() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	first := !h.explored
	h.explored = true
	return first
}

// differs notes that the mirror has sent other bytes than the one whose file was good.
func (h *health) differs() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.odd = time.Now().Add(doomedPause)
}

func (h *health) isOdd() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Now().Before(h.odd)
}

// isDoomed reports whether the mirror's bytes were condemned of late.
func (h *health) isDoomed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.doomed && time.Now().Before(h.until)
}

func (h *health) hasAnswered() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.answers > 0
}

// usual returns the latency to expect, and the rate; 0 if unknown.
func (h *health) usual() (latency time.Duration, rate float64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.latency, h.info.Rate
}
