package modfetch

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
)

// A splice fills a file from a mirror's answer, and from further ones where that breaks off or is slow. Whatever is missing
// is asked for by range: of the same mirror, or of others of its tier. Nobody is believed for it: the whole file is judged
// afterwards, and so its hash has to be known.
type splice struct {
	r       *round
	size    int64
	began   time.Time
	sources []*source // the leader, and those that may stand in for it
	many    bool      // all of them may send at once

	mu     sync.Mutex // guards the following
	todo   []span     // nobody is sending
	parts  []*part    // under way
	pieces []piece    // there
	err    error      // last failure of a part
	fatal  error      // of our own disk

	wake chan struct{} // holds a token once something has changed
	wg   sync.WaitGroup
}

// A span is a range of bytes of the file.
type span struct{ from, to int64 }

// A source is a mirror that may send ranges.
type source struct {
	mirror Mirror
	place  int // in its tier
	etag   string
	fails  int
	slow   bool           // asked only if the others fail
	lanes  [maxLanes]bool // connections in use
}

// A part is a range that is being received.
type part struct {
	span // what is still missing; an end that is moved closer has been given to another part
	a    *attempt
	src  *source
	lane int
	sent span // what it has sent
	lead bool // its attempt ends with the verdict on the file
	open bool // has been answered

	last  int64   // from at the last look
	looks int     // since it was answered
	rate  float64 // bytes per second
	slow  int     // looks in a row at which it was below floorRate
}

// A piece is who has sent a range.
type piece struct {
	span
	mirror Mirror
	sum    [sha256.Size]byte
}

// When a transfer is spread over several connections, and when one that is slow is given up.
const (
	lookEvery    = 250 * time.Millisecond
	spreadETA    = 1500 * time.Millisecond // a transfer that will take longer is spread
	minSegment   = 256 << 10               // bytes
	maxParts     = 24
	maxLanes     = 16       // connections to one mirror
	floorRate    = 16 << 10 // bytes per second
	slowLooks    = 20
	partPatience = time.Second // with who is asked for a range, at least
	maxFails     = 2           // of a mirror in one file, without having sent a segment
)

var (
	errSlow      = &failure{kind: ErrTransient, msg: fmt.Sprintf("sent less than %d KiB a second, while others can be asked", floorRate>>10)}
	errRange     = &failure{kind: ErrTransient, msg: "ignores or refuses ranges, or has another file by now"}
	errOtherFile = &failure{kind: ErrTransient, msg: "cannot go on with what has arrived so far: it is fetched whole"}
	errSpliced   = &failure{kind: ErrTransient, msg: "put together from several answers, and condemned: it is fetched whole"}
)

// receive fills the file from a's answer.
func (r *round) receive(ctx context.Context, a *attempt) error {
	u := r.w.unfinished
	if offset, _ := u.rest(); u.size > 0 && (a.req.Offset+a.req.Length == 0 || a.resp.Size != u.size || a.resp.Offset != offset) {
		u.drop()
	}
	if u.size == 0 {
		if a.resp.Offset != 0 {
			return errOtherFile
		}
		if err := r.w.into.Truncate(0); err != nil {
			return &fatalError{err}
		}
	}
	s := &splice{r: r, size: a.resp.Size, began: time.Now(), wake: make(chan struct{}, 1), many: r.t.equal && r.w.race, pieces: u.pieces}
	s.sources = []*source{{mirror: a.mirror, place: a.place, etag: a.resp.ETag}}
	if strings.HasPrefix(a.resp.ETag, "W/") || r.refused[a.place] {
		s.sources[0].fails = maxFails // its file may differ from one request to the next, or it sends no parts
	}
	for _, place := range r.queue {
		if !r.paused[place] && !a.health.isOdd() && !r.e.healths.get(r.t.mirrors[place]).isOdd() {
			s.sources = append(s.sources, &source{mirror: r.t.mirrors[place], place: place})
		}
	}
	err := s.run(ctx, a, u.missing())
	if err == nil && s.size < 0 && len(s.pieces) > 0 {
		s.size = s.pieces[0].to
	}
	if s.size > 0 && (err == nil || !r.whole && r.known(ctx)) {
		*u = unfinished{size: s.size, pieces: s.pieces}
	}
	return err
}

// known reports whether parts of different answers may be put together.
func (r *round) known(ctx context.Context) bool { return r.w.known != nil && r.w.known(ctx) }

func (s *splice) run(ctx context.Context, lead *attempt, gaps []span) error {
	ctx, cancel := context.WithCancel(ctx)
	defer s.wg.Wait()
	defer cancel()
	if gaps == nil {
		gaps = []span{{0, s.size}}
		if s.size < 0 {
			gaps[0].to = s.r.w.limit + 1 // reading ends before
		}
	}
	p := &part{span: gaps[0], src: s.sources[0], a: lead, lead: true, open: true}
	p.last, p.sent = p.from, span{p.from, p.from}
	s.todo = gaps[1:]
	p.src.lanes[0] = true
	s.parts = []*part{p}
	s.wg.Go(func() { s.receive(p) })
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		s.mu.Lock()
		fatal, err, running, missing := s.fatal, s.err, len(s.parts), len(s.todo) > 0
		s.mu.Unlock()
		switch {
		case fatal != nil:
			return &fatalError{fatal}
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case running == 0 && !missing:
			return nil
		case missing && (s.size < 0 || s.r.whole || !s.r.known(ctx)):
			return err
		case missing && s.begin(ctx):
			continue // there may be more
		case missing && running == 0:
			return cmp.Or(err, error(errRange)) // nobody is left to ask
		}
		select {
		case <-s.wake:
		case <-look.C:
			s.look(ctx)
		case <-ctx.Done():
		}
	}
}

// begin asks for the first missing range. It reports whether there is somebody to ask.
func (s *splice) begin(ctx context.Context) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	src, lane := s.pick()
	if src == nil {
		return false
	}
	p := &part{span: s.todo[0], src: src, lane: lane}
	p.last, p.sent = p.from, span{p.from, p.from}
	s.todo = s.todo[1:]
	p.src.lanes[lane] = true
	p.a = newAttempt(ctx, s.r.e, src.mirror, s.r.w, Request{Path: s.r.w.path, Offset: p.from, Length: p.to - p.from, ETag: src.etag, Lane: lane})
	p.a.place, p.a.others, p.a.part = src.place, true, true
	if s.another(src) {
		latency, _ := p.a.health.usual()
		p.a.wait, p.a.hurried = min(max(partPatience, 4*latency), p.a.wait), true
	}
	s.parts = append(s.parts, p)
	s.wg.Go(func() {
		if p.a.open(); p.a.err != nil && !mayPass(p.a.err) {
			p.a.err = errRange // which says nothing of the file
		}
		if p.a.err == nil {
			switch {
			case p.a.resp.Offset != p.sent.from:
				p.a.err = errRange
			case p.a.resp.Size != s.size:
				p.a.err = failf(ErrTransient, "states a size of %s, where %s were stated before", sizeText(p.a.resp.Size), sizeText(s.size))
			}
		}
		s.mu.Lock()
		p.open = true
		s.mu.Unlock()
		s.receive(p)
	})
	return true
}

// pick returns the mirror to ask next and a free connection to it: where all may send the least busy one, else the first
// that still works. s.mu is held.
func (s *splice) pick() (best *source, lane int) {
	load := maxLanes
	for _, src := range s.sources {
		if src.fails >= maxFails || src.slow && s.another(src) {
			continue
		}
		busy, free := 0, -1
		for i, used := range src.lanes {
			if used {
				busy++
			} else if free < 0 {
				free = i
			}
		}
		if busy < load {
			best, lane, load = src, free, busy
		}
		if !s.many {
			break
		}
	}
	return best, lane
}

// receive writes what a part's mirror sends. What is missing at its end is to be asked for again.
func (s *splice) receive(p *part) {
	err := p.a.err
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for err == nil {
		var n int
		n, err = p.a.body.Read(*buf)
		s.mu.Lock()
		at := p.from
		n = int(min(int64(n), p.to-at))
		p.from += int64(n)
		p.sent.to = p.from
		full := p.from == p.to
		s.mu.Unlock()
		if _, writeErr := s.r.w.into.WriteAt((*buf)[:n], at); writeErr != nil {
			s.mu.Lock()
			s.fatal = writeErr         // a full disk is no mirror's fault
			p.from, p.sent.to = at, at // nothing of it is there
			s.mu.Unlock()
			err = writeErr
		} else if full {
			err = io.EOF
		}
	}
	if err == io.EOF {
		err = nil
	}
	s.finish(p, err)
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 128<<10); return &b }}

// finish takes a part off the list.
func (s *splice) finish(p *part, err error) {
	if p.lead && err == nil {
		p.a.close(nil)
	} else {
		err = p.a.end(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p.src.lanes[p.lane] = false
	s.parts = slices.DeleteFunc(s.parts, func(o *part) bool { return o == p })
	if err == nil && s.size < 0 {
		p.to = p.from // the mirror has said where it ends
	}
	if errors.Is(err, errDoomed) {
		p.from = p.sent.from // nothing that it has sent is worth having
	} else if p.sent.to > p.sent.from {
		s.pieces = append(s.pieces, piece{span: p.sent, mirror: p.src.mirror})
	}
	if p.from < p.to {
		s.todo = append(s.todo, p.span)
	}
	if err != nil && p.a.caller.Err() == nil {
		outrun := errors.Is(err, errOvertaken)
		if (p.lead || s.err == nil) && !outrun {
			s.err = err
		}
		slow := outrun || errors.Is(err, errSlow)
		if p.sent.to-p.sent.from < minSegment && !slow {
			p.src.fails++
		}
		switch {
		case slow:
			p.src.slow = true
		case errors.Is(err, errRange), KindOf(err) != Transient:
			p.src.fails = maxFails
		}
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// look spreads a slow transfer over more connections, and gives up those that hold it up.
func (s *splice) look(ctx context.Context) {
	s.mu.Lock()
	var total float64
	var missing int64
	for _, p := range s.parts {
		rate := float64(p.from-p.last) / lookEvery.Seconds()
		if p.rate == 0 {
			p.rate = rate
		}
		p.rate += (rate - p.rate) / 2
		p.last = p.from
		if p.slow++; p.rate >= floorRate || !p.open {
			p.slow = 0
		}
		if p.open {
			p.looks++
		}
		total += p.rate
		missing += p.to - p.from
	}
	if s.size < 0 || s.r.whole || len(s.parts) == 0 {
		s.mu.Unlock()
		return
	}
	mean := total / float64(len(s.parts))
	for _, p := range s.parts {
		held := p.looks >= 2 && p.to-p.from <= 2*minSegment && p.rate < mean/4 && len(s.parts) > 1
		switch {
		case !s.another(p.src):
		case p.slow >= slowLooks:
			p.a.cancel(errSlow)
		case held || s.outrun(p):
			p.a.cancel(errOvertaken)
		}
	}
	more := 0
	if time.Since(s.began) >= 2*lookEvery && float64(missing) > total*spreadETA.Seconds() {
		more = min(3*len(s.parts), maxParts-len(s.parts))
	}
	s.mu.Unlock()
	if more == 0 || !s.r.known(ctx) {
		return
	}
	for range more {
		if !s.split() || !s.begin(ctx) {
			return
		}
	}
}

// another reports whether anybody but src can be asked, who has not been slow. s.mu is held.
func (s *splice) another(src *source) bool {
	return slices.ContainsFunc(s.sources, func(o *source) bool { return o != src && o.fails < maxFails && !o.slow })
}

// outrun reports whether another mirror, of those that may all send, would bring the rest of a part in half the time. s.mu is
// held.
func (s *splice) outrun(p *part) bool {
	if !s.many || p.looks < 2 {
		return false // it is too early to tell
	}
	left := float64(p.to - p.from)
	return slices.ContainsFunc(s.sources, func(o *source) bool {
		latency, rate := s.r.e.healths.get(o.mirror).usual()
		return o != p.src && o.fails < maxFails && !o.slow && rate > 0 &&
			2*(latency.Seconds()+lookEvery.Seconds()+left/rate)*p.rate < left
	})
}

// split takes the second half of the longest part.
func (s *splice) split() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if src, _ := s.pick(); src == nil || len(s.parts) == 0 {
		return false
	}
	p := slices.MaxFunc(s.parts, func(a, b *part) int { return cmp.Compare(a.to-a.from, b.to-b.from) })
	if p.to-p.from < 2*minSegment {
		return false
	}
	middle := p.from + (p.to-p.from)/2
	s.todo = append([]span{{middle, p.to}}, s.todo...)
	p.to = middle
	return true
}

// suspect keeps what each mirror has sent of a condemned file, until the good one is there.
func (r *round) suspect() error {
	r.suspects = slices.Clone(r.w.unfinished.pieces)
	for i := range r.suspects {
		sum, err := r.sum(r.suspects[i].span)
		if err != nil {
			return err
		}
		r.suspects[i].sum = sum
	}
	return nil
}

func (r *round) sum(s span) (sum [sha256.Size]byte, err error) {
	h := sha256.New()
	_, err = io.Copy(h, io.NewSectionReader(r.w.into, s.from, s.to-s.from))
	return [sha256.Size]byte(h.Sum(nil)), err
}

// blame holds what each mirror has sent of a condemned file against the good one. Who sent other bytes is named, and its
// bytes are not put beside those of others for a while; it is not condemned, as h1 does not cover how a zip is encoded.
func (r *round) blame(ctx context.Context) {
	for _, p := range r.suspects {
		if p.mirror == nil {
			continue // an earlier process has got it
		}
		if sum, err := r.sum(p.span); err != nil || sum == p.sum {
			continue
		}
		err := failf(ErrTransient, "bytes %d to %d are not those of the verified file: wrong, or of another encoding of it", p.from, p.to)
		r.e.healths.get(p.mirror).differs()
		r.e.trace.attemptDone(ctx, AttemptInfo{Module: r.w.module, Path: r.w.path, Mirror: p.mirror.String(),
			Offset: p.from, Size: -1, Kind: KindOf(err), Err: err})
	}
}
