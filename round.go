package modfetch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

const (
	usualTimes    = 3 // of its usual latency after which a mirror is overtaken
	leastOvertake = 10 * time.Millisecond
	zipOvertake   = 200 * time.Millisecond // at least for a zip: what is asked for twice is large
	leastPatience = 500 * time.Millisecond // with a mirror that is asked alone though others are equal to it
)

// A round goes through the mirrors of a tier: one after the other, or by the strategy several at the same time.
type round struct {
	e     *engine
	t     tier
	w     want
	first bool // there may be another round

	queue    []int        // mirrors still to be asked, by their place in the tier
	paused   map[int]bool // by their place, those to be asked only when nobody else is left
	refused  map[int]bool // by their place, those that do not go on with what has arrived
	running  []*attempt   // asked, and not answered yet
	results  chan *attempt
	attempts []Attempt // what became of each mirror
	again    bool      // all failures may pass

	suspects []piece // of one that was put together, and condemned
	whole    bool    // it is now fetched whole
}

// newRound makes a round of all mirrors of a tier.
func newRound(e *engine, t tier, w want, first bool) *round {
	r := &round{e: e, t: t, w: w, first: first, again: true, paused: make(map[int]bool), refused: make(map[int]bool),
		results: make(chan *attempt, len(t.mirrors)), attempts: make([]Attempt, len(t.mirrors))}
	for i, m := range t.mirrors {
		r.queue = append(r.queue, i)
		h := e.healths.get(m)
		r.paused[i] = len(t.mirrors) > 1 && (h.passOver() || w.into != nil && h.isOdd())
	}
	r.order()
	return r
}

// order sorts the mirrors that are still to be asked: those that are equal by how soon they will have sent the file, one of
// which nothing is known first, by one small file; and last those that are known to be dead, or to send what was condemned.
func (r *round) order() {
	explores := r.w.into == nil && r.e.strategy.equal
	cost := make(map[int]float64) // seconds
	for _, i := range r.queue {
		h := r.e.healths.get(r.t.mirrors[i])
		latency, rate := h.usual()
		switch {
		case r.paused[i]:
			cost[i] = math.Inf(1)
		case !r.t.equal || !r.w.race:
		case r.attempts[i].Mirror != "": // asked already
			cost[i] = math.MaxFloat64
		case latency == 0 && explores && h.explore():
			explores = false
		case latency == 0:
			cost[i] = math.MaxFloat64
		case r.w.into != nil && rate > 0:
			cost[i] = latency.Seconds() + zipSize/rate
		default:
			cost[i] = latency.Seconds()
		}
	}
	slices.SortStableFunc(r.queue, func(a, b int) int { return cmp.Compare(cost[a], cost[b]) })
}

const zipSize = 1 << 20 // bytes: a usual zip, by which latency is weighed against rate

// run returns the mirror that had good bytes, or nil; an error ends the fetch.
func (r *round) run(ctx context.Context) (Mirror, error) {
	defer r.stop()
	for {
		if len(r.running) == 0 {
			if len(r.queue) == 0 {
				return nil, nil
			}
			r.ask(ctx)
		}
		a := r.next(ctx)
		err := a.err
		switch {
		case err == nil:
			err = r.take(ctx, a)
		case a.req.Offset+a.req.Length > 0 && !mayPass(err):
			err = errOtherFile // what it refuses, or garbles, may be the range
		}
		if errors.Is(err, errRange) && !r.refused[a.place] {
			err = errOtherFile // it was to send a part besides, and nobody else can
		}
		err = a.end(err)
		if err == nil {
			r.served(a)
			return a.mirror, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("fetching %s: %w", r.w.path, context.Cause(ctx))
		}
		var end *fatalError
		if errors.As(err, &end) {
			return nil, end.err
		}
		r.note(a, err)
	}
}

// ask starts a request to the next mirror of the queue.
func (r *round) ask(ctx context.Context) {
	place := r.queue[0]
	r.queue = r.queue[1:]
	req := Request{Path: r.w.path, Retry: len(r.t.mirrors) == 1 && r.first}
	if r.w.into != nil && !r.whole && !r.refused[place] {
		req.Offset, req.Length = r.w.unfinished.rest()
	}
	a := newAttempt(ctx, r.e, r.t.mirrors[place], r.w, req)
	a.place, a.others = place, len(r.queue)+len(r.running) > 0
	if wait := r.patience(a); wait > 0 && wait < a.wait {
		a.wait, a.hurried = wait, true
	}
	r.running = append(r.running, a)
	go func() { // ends with the request, at the latest when the attempt is cancelled
		if a.open(); a.err == nil && r.w.into == nil {
			a.data, a.err = a.body.all()
		}
		if a.err != nil || r.w.into == nil {
			a.err = a.close(a.err) // judging the bytes, and waiting for who vouches for them, is not the mirror's time
		}
		r.results <- a
	}()
}

// patience returns how long to wait for a mirror's answer where that is less than usual: because it is known to be dead, or
// because it is asked alone for a file that equal mirrors have too.
func (r *round) patience(a *attempt) time.Duration {
	switch {
	case len(r.t.mirrors) == 1:
		return 0
	case r.paused[a.place] && r.attempts[a.place].Mirror == "":
		return pausedTimeout
	case r.e.strategy.equal && r.t.equal && !r.w.race && r.attempts[a.place].Mirror == "" && len(r.queue) > 0 && !r.paused[r.queue[0]]:
		latency, _ := a.health.usual()
		if !a.health.hasAnswered() {
			latency = 0 // it is only known that others were sooner
		}
		return min(max(leastPatience, r.e.strategy.after, 4*latency), headerTimeout)
	}
	return 0
}

// overtake returns after which time without an answer the next mirror is asked too.
func (r *round) overtake() (after time.Duration, ok bool) {
	if !r.e.strategy.equal || !r.t.equal || !r.w.race || len(r.queue) == 0 || r.paused[r.queue[0]] {
		return 0, false
	}
	latency, _ := r.running[len(r.running)-1].health.usual()
	soon := max(usualTimes*latency, leastOvertake)
	if r.w.into != nil {
		soon = max(soon, zipOvertake)
	}
	switch {
	case latency == 0:
		return r.e.strategy.after, true
	case r.e.strategy.after == 0 && r.w.into != nil:
		return soon, true // what the losers of a race for a zip have under way would be many times its size
	}
	return min(r.e.strategy.after, soon), true
}

// next returns the next attempt that has an answer, or has failed.
func (r *round) next(ctx context.Context) *attempt {
	for {
		var overtake <-chan time.Time
		if after, ok := r.overtake(); ok {
			if after == 0 {
				r.ask(ctx)
				continue
			}
			overtake = time.After(after)
		}
		select {
		case a := <-r.results:
			r.running = slices.DeleteFunc(r.running, func(o *attempt) bool { return o == a })
			return a
		case <-overtake:
			r.order() // by now more may be known
			r.ask(ctx)
		}
	}
}

// take judges what a mirror sends. Of a large file the first to answer sends the rest.
func (r *round) take(ctx context.Context, a *attempt) error {
	if r.w.begun != nil {
		r.w.begun()
	}
	if r.w.into == nil {
		if r.w.tagged != nil {
			r.w.tagged(a.mirror, a.resp.ETag)
		}
		return r.w.judge(ctx, a.mirror, a.data)
	}
	r.stop()
	if err := r.receive(ctx, a); err != nil {
		return err
	}
	err := r.inspect(ctx, a)
	if err == nil {
		err = r.w.judge(ctx, a.mirror, nil)
	}
	var end *fatalError
	switch {
	case err == nil:
		r.blame(ctx)
		return nil
	case errors.As(err, &end):
		return err // no verdict on what has arrived
	case KindOf(err) == Corrupt && len(r.w.unfinished.pieces) > 1:
		if err := r.suspect(); err != nil {
			return &fatalError{err}
		}
		r.whole = true
		err = errSpliced
	}
	r.w.unfinished.drop()
	return err
}

// served credits those who sent the good file.
func (r *round) served(a *attempt) {
	if a.info.Err == nil { // else others have sent what it did not
		a.health.served(r.w.into != nil)
	}
	if r.w.into == nil {
		return
	}
	pieces := r.w.unfinished.pieces
	for i, p := range pieces {
		if p.mirror != nil && p.mirror != a.mirror && p.to-p.from >= minSegment && !slices.ContainsFunc(pieces[:i], func(o piece) bool { return o.mirror == p.mirror }) {
			r.e.healths.get(p.mirror).served(true)
		}
	}
}

// inspect has a large file looked at, unless its mirror has been found out while it waited for its turn.
func (r *round) inspect(ctx context.Context, a *attempt) error {
	if err := r.e.judging.Acquire(ctx, 1); err != nil {
		return &fatalError{err} // the caller has left: no verdict
	}
	defer r.e.judging.Release(1)
	sent := slices.ContainsFunc(r.w.unfinished.pieces, func(p piece) bool { return p.mirror == a.mirror })
	if sent && a.leave() {
		return errDoomed
	}
	if err := r.w.inspect(ctx); err != nil {
		return &fatalError{err}
	}
	return nil
}

// stop tells all that still run to stop, and waits for it. They have not failed: they may be asked again.
func (r *round) stop() {
	for _, a := range r.running {
		a.cancel(errOvertaken)
	}
	for range r.running {
		a := <-r.results
		if a.resp == nil && !a.start.IsZero() { // else it still waited for a slot, which is not the mirror's time
			a.health.overtaken(time.Since(a.start))
		}
		a.end(errOvertaken)
		r.queue = append(r.queue, a.place)
	}
	r.running = nil
}

// note keeps what became of a mirror.
func (r *round) note(a *attempt, err error) {
	if errors.Is(err, errOtherFile) {
		r.refused[a.place] = true
		r.queue = slices.Insert(r.queue, 0, a.place)
		return
	}
	last := Attempt{Mirror: a.mirror.String(), Kind: KindOf(err), Err: err}
	hurried := a.hurried && a.resp == nil && last.Kind == Transient // it was not waited for long enough to be given up
	if errors.Is(err, errSpliced) || hurried && !(r.paused[a.place] && r.answered()) {
		r.queue = append(r.queue, a.place)
	}
	r.attempts[a.place] = last
	// A sole mirror has already retried everything up to its header itself.
	r.again = r.again && last.Kind == Transient && (a.body != nil || len(r.t.mirrors) > 1)
}

// answered reports whether a mirror has said that the file does not exist: then nobody is waited for longer than usual.
func (r *round) answered() bool {
	return slices.ContainsFunc(r.attempts, func(a Attempt) bool { return a.Kind == NotFound })
}
