package modfetch

import (
	"bytes"
	"context"
	"strings"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"
)

// serveSumDB serves a file of the Fetcher's checksum database, and of no other. Whatever goes out has been proven under a head
// that the database has signed: what is kept on disk is not believed for being there.
func (q *request) serveSumDB(ctx context.Context, file string) error {
	db := q.f.db
	if db == nil {
		return errUnknown
	}
	name, ok := strings.CutPrefix(file, db.name+"/")
	if !ok {
		return errUnknown
	}
	for _, db := range []*sumDB{q.h.Fetcher.db, q.h.offline.db} { // each has found its own forks
		if err := db.stopped(); err != nil {
			return err
		}
	}
	if name == "supported" {
		q.info.File = name
		q.sendBytes(nil, plainText, "supported", q.h.infoTTL())
		return nil
	}
	if name == "latest" {
		q.info.File = "head"
		return q.serveHead(ctx)
	}
	if escaped, ok := strings.CutPrefix(name, "lookup/"); ok {
		path, version, _ := strings.Cut(escaped, "@")
		m := module.Version{}
		var err error
		if m.Path, err = module.UnescapePath(path); err != nil {
			return errUnknown
		}
		if m.Version, err = module.UnescapeVersion(version); err != nil || !canonical(m.Path, m.Version) {
			return errUnknown
		}
		q.info.File, q.info.Module = "lookup", m
		return q.serveLookup(ctx, m)
	}
	tile, err := tlog.ParseTilePath(name)
	if err != nil || tile.H != tileHeight || tile.L < 0 || tile.L > maxTileLevel || tile.N >= maxTile>>(tileHeight*tile.L) {
		return errUnknown
	}
	q.info.File = "tile"
	a, err := q.proven(ctx, db.prefix()+name, func(ctx context.Context) ([]byte, error) {
		head, err := q.headOver(ctx, (tile.N<<tileHeight+int64(tile.W))<<(tileHeight*tile.L))
		if err != nil {
			return nil, err
		}
		return db.provenTile(ctx, tile, head)
	})
	if err != nil {
		return err
	}
	q.sendBytes(a.body, "application/octet-stream", a.tag, forEver)
	return nil
}

const (
	tileHeight   = 8           // as sumdb.Client has it
	maxTileLevel = 5           // a tree of 2^48 records has no higher ones
	maxTile      = 1 << 40     // of the lowest level; the numbers of records in a larger tree would overflow
	headPause    = time.Second // in which no larger head is asked for again
)

// serveHead serves a signed head, never an older one than before: without end, because nobody else could have made it.
func (q *request) serveHead(ctx context.Context) error {
	asks := q.head()
	a, err := q.h.answers.get(ctx, asks, q.offline)
	if err != nil && KindOf(err) != Security {
		if kept, _ := q.f.db.keptHead(ctx); kept.note != nil {
			a, err = &answer{body: kept.note, tag: tagOf(kept.note), stale: staleError, err: err}, nil
		}
	}
	if err != nil {
		return err
	}
	if h, err := q.f.db.openHead(a.body, nil); err == nil {
		q.h.Fetcher.db.serve(h)
	}
	q.sendAnswer(a, asks, plainText)
	return nil
}

// head is the question for the database's head.
func (q *request) head() question {
	db := q.f.db
	return question{name: db.prefix() + "latest", fresh: q.h.latestTTL(),
		check: func(ctx context.Context, data []byte) error {
			h, err := db.openHead(data, nil)
			if err != nil {
				return err
			}
			kept, _ := db.keptHead(ctx)
			if least := max(kept.tree.N, q.h.Fetcher.db.servedHead().tree.N); h.tree.N < least {
				return failf(ErrCorrupt, "the tree head that is kept is of %d records, after one of %d", h.tree.N, least)
			}
			return nil
		},
		ask: func(ctx context.Context, e *earlier) ([]byte, error) { return db.newestHead(ctx, e.data) },
	}
}

// serveLookup serves the record of a module version.
func (q *request) serveLookup(ctx context.Context, m module.Version) error {
	if err := q.allow(ctx, m.Path); err != nil {
		return err
	}
	if setting := q.f.exemption(m.Path); setting != "" {
		return failf(ErrForbidden, "%s is not looked up in the checksum database: %s", m.Path, setting)
	}
	db := q.f.db
	a, err := q.proven(ctx, db.prefix()+"lookup/"+proxyPath(m, ""), func(ctx context.Context) ([]byte, error) {
		r, err := db.proveRecord(ctx, m)
		return r.signed, err
	})
	if err != nil {
		return err
	}
	q.sendBytes(a.body, plainText, a.tag, q.h.infoTTL())
	return nil
}

// proven returns a file of the database from memory, or as get proves it, once for all who want it.
func (q *request) proven(ctx context.Context, name string, get func(context.Context) ([]byte, error)) (*answer, error) {
	if a, ok := q.h.answers.near.get(name); ok {
		return a, nil
	}
	key := name
	if q.offline {
		key += " offline" // whose failure is nobody else's
	}
	return q.h.answers.flights.Do(ctx, key, func(ctx context.Context) (*answer, error) {
		data, err := get(ctx)
		if err != nil {
			return nil, err
		}
		a := &answer{body: data}
		q.h.answers.put(name, a)
		return a, nil
	})
}

// newestHead asks for the database's head, proves that it lies on one line with those that were served or kept before, and
// returns the largest of them.
func (db *sumDB) newestHead(ctx context.Context, before []byte) ([]byte, error) {
	newest, err := db.askAnyHead(ctx)
	if err != nil {
		return nil, err
	}
	kept, err := db.keptHead(ctx)
	if err != nil {
		return nil, err
	}
	served, _ := db.openHead(before, nil)
	for _, h := range []sumHead{kept, served, db.servedHead()} {
		report, err := db.compare(ctx, h, newest, db.basesFor(newest))
		if report != "" {
			return nil, db.stop(ctx, report)
		}
		if err != nil {
			return nil, unavailable("a tree head of "+db.name+" cannot be compared with the one that was served before", err)
		}
		if h.tree.N > newest.tree.N {
			newest = h
		}
	}
	return db.serve(newest).note, nil
}

// serve returns the head to serve: an older one than before is never served.
func (db *sumDB) serve(h sumHead) sumHead {
	db.mu.Lock()
	defer db.mu.Unlock()
	if h.tree.N >= db.served.tree.N {
		db.served = h
	}
	return db.served
}

func (db *sumDB) servedHead() sumHead {
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.served
}

// askAnyHead asks for a head wherever the database may be read first.
func (db *sumDB) askAnyHead(ctx context.Context) (h sumHead, err error) {
	_, err = db.read(ctx, db.places(db.routes.tiers), "latest", maxHead, func(data []byte, from *sumBase) (err error) {
		if h, err = db.openHead(data, from); err != nil {
			return failf(ErrCorrupt, "sent a tree head that is not signed by %s: %v", db.name, err)
		}
		return nil
	})
	if err != nil {
		return sumHead{}, unavailable("no tree head of the checksum database "+db.name, err)
	}
	db.saw(ctx, h)
	return h, nil
}

// provenTile returns a tile that is part of the tree under a signed head. A wider tile begins with a narrower one.
func (db *sumDB) provenTile(ctx context.Context, tile tlog.Tile, head sumHead) ([]byte, error) {
	indexes := make([]int64, tile.W)
	for i := range indexes {
		indexes[i] = tlog.StoredHashIndex(tileHeight*tile.L, tile.N<<tileHeight+int64(i))
	}
	// What cannot be proven may be the fault of a local file, or of one mirror.
	sources := []*tileSource{{db: db, ctx: ctx}}
	for _, base := range db.all() {
		sources = append(sources, &tileSource{db: db, ctx: ctx, base: base, bare: true})
	}
	var first error
	for _, source := range sources {
		hashes, err := tlog.TileHashReader(head.tree, source).ReadHashes(indexes)
		if err == nil {
			var data []byte
			for _, h := range hashes {
				data = append(data, h[:]...)
			}
			return data, nil
		}
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case source.failed != nil:
			err = source.failed
		default:
			err = failf(ErrCorrupt, "not proven: %v", err)
		}
		if first == nil || rank(err) > rank(first) {
			first = err
		}
	}
	return nil, unavailable("a tile of the checksum database "+db.name, first)
}

// headOver returns a head of a tree with at least n records.
func (q *request) headOver(ctx context.Context, n int64) (sumHead, error) {
	db := q.f.db
	kept, err := db.keptHead(ctx)
	if err != nil || kept.tree.N >= n {
		return kept, err
	}
	asks := q.head()
	asks.fresh = headPause
	a := q.h.answers.look(ctx, asks)
	for asked := false; ; asked = true {
		if a != nil && !a.Absent {
			if h, err := db.openHead(a.body, nil); err != nil || h.tree.N >= n {
				return h, err
			}
		}
		switch {
		case q.offline:
			return sumHead{}, &OfflineError{asks.name}
		case asked:
			return sumHead{}, failf(ErrTransient, "no head of the checksum database %s is known of a tree with the %d records that the tile needs", db.name, n)
		}
		if err := q.h.answers.failure(asks.name); err != nil {
			return sumHead{}, err
		}
		if a, err = q.h.answers.refresh(ctx, asks, a); err != nil {
			return sumHead{}, err
		}
	}
}

// A tileSource reads the tiles of one proof: local ones unless it is bare, and others from its base, or from the first that has
// them. Those of a proof that holds are kept.
type tileSource struct {
	db     *sumDB
	ctx    context.Context
	base   *sumBase
	bare   bool
	failed error // a tile could not be got
}

func (s *tileSource) Height() int { return tileHeight }

func (s *tileSource) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	var g errgroup.Group
	for i, tile := range tiles {
		g.Go(func() error {
			if local, err := s.db.store.read(s.ctx, tile.Path()); err == nil && !s.bare && len(local) == tile.W*tlog.HashSize {
				data[i] = local
				return nil
			}
			file, err := s.db.readTile(s.ctx, tile, s.base)
			data[i] = file.data
			return err
		})
	}
	s.failed = g.Wait()
	return data, s.failed
}

// SaveTiles keeps proven tiles that are not there yet.
func (s *tileSource) SaveTiles(tiles []tlog.Tile, data [][]byte) {
	for i, tile := range tiles {
		if local, err := s.db.store.read(s.ctx, tile.Path()); err != nil || !bytes.Equal(local, data[i]) {
			s.db.store.write(s.ctx, tile.Path(), data[i])
		}
	}
}
