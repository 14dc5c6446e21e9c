package modfetch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/modfetch/modfetch/internal/flight"
	"golang.org/x/mod/sumdb/tlog"
)

// A sumPlace is where the database may be read; if it cannot be read there, the next one is tried.
type sumPlace struct {
	tiers []tier
	retry *atomic.Int64 // Unix time in nanoseconds before which the place is passed over; nil is never
}

const placePause = time.Minute

func (p sumPlace) paused() bool { return p.retry != nil && time.Now().UnixNano() < p.retry.Load() }

// places returns where the database may be read: at the URL that GOSUMDB names, at the given mirrors, and last at its own
// host, unless GOSUMDB names another. GOSUMDB names who may hear of every path that is looked up.
func (db *sumDB) places(mirrors []tier) []sumPlace {
	var places []sumPlace
	if db.explicit != nil {
		own, below := db.explicit[0], db.explicit[1]
		if below.good.Load() {
			own, below = below, own
		}
		places = append(places, sumPlace{[]tier{{mirrors: []Mirror{own, below}}}, &db.urlRetry})
	}
	var tiers []tier
	for _, t := range mirrors {
		var bases []Mirror
		for _, m := range t.mirrors {
			if m != db.routes.direct && m != (off{}) && !isOffline(m) {
				bases = append(bases, db.base(m))
			}
		}
		if bases != nil {
			tiers = append(tiers, tier{bases, t.equal})
		}
	}
	if tiers != nil {
		places = append(places, sumPlace{tiers: tiers})
	}
	if db.explicit == nil {
		places = append(places, sumPlace{[]tier{{mirrors: []Mirror{db.host}}}, &db.hostRetry})
	}
	return places
}

// toOffline returns the database as it is known here: read at mirrors to keep, and not at its own host.
func (db *sumDB) toOffline(r *routes, keep func(Mirror) bool) *sumDB {
	out := &sumDB{name: db.name, key: db.key, public: db.public, verifier: db.verifier, routes: r, engine: db.engine, store: db.store,
		host: &sumBase{Mirror: offline{}, prefix: db.prefix()}}
	if db.explicit != nil && keep(db.explicit[0].Mirror) {
		out.explicit = db.explicit
	}
	return out
}

// prefer moves a base as far to the front as the order of places and tiers allows: no `,` is crossed by it.
func prefer(places []sumPlace, base *sumBase) []sumPlace {
	for i, p := range places {
		for _, t := range p.tiers {
			if j := slices.Index(t.mirrors, Mirror(base)); j >= 0 {
				copy(t.mirrors[1:j+1], t.mirrors[:j])
				t.mirrors[0] = base
				copy(places[1:i+1], places[:i])
				places[0] = p
				return places
			}
		}
	}
	return places
}

// lookupPlaces returns who may hear that a module path is looked up.
func (db *sumDB) lookupPlaces(path string) []sumPlace { return db.places(db.routes.to(path)) }

// all returns every base that can be reached, as far as is known. Tiles and tree heads name no path, so any of them may be
// asked for those.
func (db *sumDB) all() []*sumBase {
	var bases []*sumBase
	for _, p := range db.places(db.routes.tiers) {
		for _, t := range p.tiers {
			for _, m := range t.mirrors {
				if !p.paused() {
					bases = append(bases, m.(*sumBase))
				}
			}
		}
	}
	return bases
}

// headPlaces returns by itself each place that may be asked for a tree head, also one that is passed over otherwise. The two
// ways to read the URL in GOSUMDB are one place.
func (db *sumDB) headPlaces() []sumPlace {
	var places []sumPlace
	for _, p := range db.places(db.routes.tiers) {
		if p.retry != nil {
			places = append(places, p)
			continue
		}
		for _, t := range p.tiers {
			for _, m := range t.mirrors {
				places = append(places, sumPlace{tiers: []tier{{mirrors: []Mirror{m}}}})
			}
		}
	}
	return places
}

// base returns the database's place at a mirror.
func (db *sumDB) base(m Mirror) *sumBase {
	db.mu.Lock()
	defer db.mu.Unlock()
	b := db.bases[m]
	if b == nil {
		b = &sumBase{Mirror: m, prefix: db.prefix(), below: true}
		if db.bases == nil {
			db.bases = make(map[Mirror]*sumBase)
		}
		db.bases[m] = b
	}
	return b
}

// A sumFile is what a base has sent, not proven yet.
type sumFile struct {
	data []byte
	base *sumBase
}

// read gets one file of the database, one that passes check, from the first place that has it. A place that could not be
// reached is passed over for a while, if there is another.
func (db *sumDB) read(ctx context.Context, places []sumPlace, name string, limit int64, check func([]byte, *sumBase) error) (sumFile, error) {
	var data []byte
	w := want{path: db.prefix() + name, limit: limit, race: true, judge: func(_ context.Context, m Mirror, got []byte) error {
		data = got
		return check(got, m.(*sumBase))
	}}
	var attempts []Attempt
	for i, p := range places {
		alone := len(attempts) == 0 && i == len(places)-1
		if p.paused() && !alone {
			continue
		}
		m, err := db.engine.fetch(ctx, p.tiers, w)
		if err == nil {
			base := m.(*sumBase)
			base.good.Store(true)
			return sumFile{data, base}, nil
		}
		if ctx.Err() != nil {
			return sumFile{}, err
		}
		if p.retry != nil && KindOf(err) == Transient {
			p.retry.Store(time.Now().Add(placePause).UnixNano())
		}
		var failed *FetchError
		if !errors.As(err, &failed) {
			return sumFile{}, err
		}
		attempts = append(attempts, failed.Attempts...)
	}
	return sumFile{}, &FetchError{Path: w.path, Attempts: attempts}
}

// readTile gets a tile: from one base, or with nil from the first that has it. A partial tile may be gone once the full one
// is there, which begins with it.
func (db *sumDB) readTile(ctx context.Context, tile tlog.Tile, only *sumBase) (sumFile, error) {
	if only != nil {
		return db.readTileAt(ctx, tile, []sumPlace{{tiers: []tier{{mirrors: []Mirror{only}}}}})
	}
	return db.tiles.Do(ctx, tile, func(ctx context.Context) (sumFile, error) {
		return db.readTileAt(ctx, tile, db.places(db.routes.tiers))
	})
}

func (db *sumDB) readTileAt(ctx context.Context, tile tlog.Tile, places []sumPlace) (sumFile, error) {
	size := tile.W * tlog.HashSize
	file, err := db.read(ctx, places, tile.Path(), int64(size), func(data []byte, _ *sumBase) error {
		if len(data) != size {
			return failf(ErrCorrupt, "sent a tile of %d bytes, not %d", len(data), size)
		}
		return nil
	})
	if full := 1 << tile.H; err != nil && absent(err) && tile.W < full {
		tile.W = full
		if file, err = db.readTileAt(ctx, tile, places); err == nil {
			file.data = file.data[:size]
		}
	}
	return file, err
}

// A sumBase is a place where a checksum database can be read, as a mirror of its files.
type sumBase struct {
	Mirror
	prefix string      // "sumdb/<name>/", with which all requests begin
	below  bool        // the database lies under prefix, if the mirror supports it; else at the root
	good   atomic.Bool // it has sent something valid

	probes flight.Group[struct{}, error]
	answer atomic.Pointer[error] // to the probe: nil inside for yes; remembered only if it was an answer
}

// Fetch asks once whether the database is supported. Only an answer is remembered, not a failure to get one.
func (b *sumBase) Fetch(ctx context.Context, r Request) (*Response, error) {
	if b.below {
		refusal, err := b.refusal(ctx, r.Retry)
		if err == nil {
			err = refusal
		}
		if err != nil {
			return nil, err
		}
	} else {
		r.Path = strings.TrimPrefix(r.Path, b.prefix)
	}
	return b.Mirror.Fetch(ctx, r)
}

// refusal returns what the mirror said if it does not serve the database.
func (b *sumBase) refusal(ctx context.Context, retry bool) (refusal, err error) {
	if known := b.answer.Load(); known != nil {
		return *known, nil
	}
	return b.probes.Do(ctx, struct{}{}, func(ctx context.Context) (error, error) {
		var refusal error
		resp, err := b.Mirror.Fetch(ctx, Request{Path: b.prefix + "supported", Retry: retry})
		switch {
		case err == nil:
			resp.Body.Close()
		case absent(err):
			refusal = fmt.Errorf("does not serve this checksum database: %w", err)
		default:
			return nil, err
		}
		b.answer.Store(&refusal)
		return refusal, nil
	})
}
