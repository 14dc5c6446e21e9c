package modfetch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"
)

// SumFiles returns the files of the checksum database that prove the records of mods under one signed tree head, by their
// names below the address of a mirror: the head itself as "sumdb/<name>/latest", the records with the note of that head in
// place of the one they came with, and all tiles that a client reads on the way, as wide as it asks for them under that head.
//
// The head is the given one, else the newest that a mirror shows, that is kept, or that is among the older ones; the same head
// gives the same files. With older heads they also prove that these lie on one line with it, as a client wants to see that
// knows one of them, with its own tiles or without.
//
// Heads that the database has not signed, that contradict each other or the one that is kept are an error of kind Security. A
// module that is not looked up, or not in the tree under the head, is an error too.
func (f *Fetcher) SumFiles(ctx context.Context, mods []module.Version, head []byte, older ...[]byte) (files map[string][]byte, err error) {
	defer func() {
		if err != nil && ctx.Err() != nil && KindOf(err) != Security {
			err = fmt.Errorf("proving records of the checksum database: %w", context.Cause(ctx)) // which not all that fails by it wraps
		}
	}()
	db := f.db
	if db == nil {
		return nil, failf(ErrForbidden, "GOSUMDB is off, so there is no checksum database that proves anything")
	}
	for _, m := range mods {
		if err := check(m); err != nil {
			return nil, err
		}
		if setting := f.exemption(m.Path); setting != "" {
			return nil, failf(ErrForbidden, "%s is not looked up in the checksum database, so nothing proves it: %s", m, setting)
		}
	}
	var under sumHead
	if head != nil { // before anybody is asked
		if under, err = db.openHead(head, nil); err != nil {
			return nil, failf(ErrSecurity, "the tree head to prove everything under is not signed by %s: %v", db.name, err)
		}
	}
	olds := make([]sumHead, len(older))
	for i, signed := range older {
		if olds[i], err = db.openHead(signed, nil); err != nil {
			return nil, failf(ErrSecurity, "older tree head %d is not signed by %s: %v", i+1, db.name, err)
		}
	}

	records := make([][]byte, len(mods))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(f.jobs)
	for i, m := range mods {
		g.Go(func() error {
			r, err := db.proveRecord(gctx, m)
			records[i] = r.signed
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	kept, err := db.keptHead(ctx)
	if err != nil {
		return nil, err
	}
	known := append(slices.Clip(olds), kept)
	if head == nil {
		if under, err = db.newest(ctx, known); err != nil { // not before the lookups: some add a record to the log
			return nil, err
		}
	}
	for _, h := range known {
		report, err := db.compare(ctx, h, under, db.all())
		if report != "" {
			return nil, db.stop(ctx, report)
		}
		if err != nil {
			return nil, unavailable("two tree heads of "+db.name+" cannot be compared", err)
		}
	}
	return db.filesUnder(ctx, under, olds, mods, records)
}

// newest returns the largest of the heads that are known and those that mirrors show by now. The database's own host, which
// not everybody can reach, is only asked if they show none.
func (db *sumDB) newest(ctx context.Context, known []sumHead) (sumHead, error) {
	bases := db.all()
	shown := make([]sumHead, len(bases))
	var asked sync.WaitGroup
	for i, base := range bases {
		if base != db.host {
			asked.Go(func() { // ends within headTimeout
				if h, err := db.askHead(ctx, sumPlace{tiers: []tier{{mirrors: []Mirror{base}}}}); err == nil {
					db.saw(ctx, h)
					shown[i] = h
				}
			})
		}
	}
	asked.Wait()
	largest := func(heads ...sumHead) sumHead {
		return slices.MaxFunc(heads, func(a, b sumHead) int { return cmp.Compare(a.tree.N, b.tree.N) })
	}
	h, before := largest(append(shown, sumHead{})...), largest(append(known, sumHead{})...)
	if h.tree.N == 0 {
		var err error
		if h, err = db.askAnyHead(ctx); err != nil && (before.tree.N == 0 || KindOf(err) == Security || ctx.Err() != nil) {
			return sumHead{}, err
		}
	}
	return largest(h, before), nil
}

// filesUnder returns the files that prove records, and older heads, under a head.
func (db *sumDB) filesUnder(ctx context.Context, head sumHead, older []sumHead, mods []module.Version, records [][]byte) (map[string][]byte, error) {
	files := map[string][]byte{db.prefix() + "supported": {}, db.prefix() + "latest": head.note}
	indexes, want := make([]int64, len(mods)), make([]tlog.Hash, len(mods))
	for i, m := range mods {
		id, text, _, err := tlog.ParseRecord(records[i])
		if err != nil {
			return nil, err
		}
		if id >= head.tree.N {
			return nil, failf(ErrForbidden, "the record of %s came to %s after a tree head of %d records: take a newer one", m, db.name, head.tree.N)
		}
		indexes[i], want[i] = tlog.StoredHashIndex(0, id), tlog.RecordHash(text)
		record, err := tlog.FormatRecord(id, text)
		if err != nil {
			return nil, err
		}
		files[db.prefix()+(&lookup{module: m}).lookupName()] = append(record, head.note...)
	}

	plan := make(tilePlan)
	r := tlog.TileHashReader(head.tree, plan)
	if _, err := r.ReadHashes(indexes); err != errPlanned {
		return nil, err
	}
	for _, h := range older {
		if h.tree.N > head.tree.N {
			return nil, failf(ErrForbidden, "the tree head of %d records is older than one of %d that it has to prove: take a newer one, or none for the newest", head.tree.N, h.tree.N)
		}
		if h.tree.N == 0 {
			continue
		}
		// The go command also hashes the tree that it knows anew, with tiles as wide as that tree has them: it may have lost
		// its own with the module cache.
		for _, r := range []tlog.HashReader{r, tlog.TileHashReader(h.tree, plan)} {
			if _, err := tlog.TreeHash(h.tree.N, r); err != errPlanned {
				return nil, err
			}
		}
	}
	tiles := slices.Collect(maps.Keys(plan))
	data := make([][]byte, len(tiles))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(proveWidth)
	for i, tile := range tiles {
		g.Go(func() (err error) {
			data[i], err = db.provenTile(gctx, tile, head)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for i, tile := range tiles {
		plan[tile] = data[i]
		files[db.prefix()+tile.Path()] = data[i]
	}
	got, err := r.ReadHashes(indexes)
	if err != nil {
		return nil, err
	}
	for i, m := range mods {
		if got[i] != want[i] {
			return nil, failf(ErrSecurity, "the record of %s is not in the tree of %d records that %s has signed", m, head.tree.N, db.name)
		}
	}
	return files, nil
}

// A tilePlan is a tlog.TileReader that notes the tiles of a proof, and gives them once it has them all.
type tilePlan map[tlog.Tile][]byte

var errPlanned = errors.New("not all tiles are here yet")

func (p tilePlan) Height() int { return tileHeight }

func (p tilePlan) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var data [][]byte
	var err error
	for _, tile := range tiles {
		if p[tile] == nil {
			p[tile], err = nil, errPlanned
		}
		data = append(data, p[tile])
	}
	return data, err
}

func (p tilePlan) SaveTiles([]tlog.Tile, [][]byte) {}
