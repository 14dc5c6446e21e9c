package modfetch

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"
)

// A sumHead is a tree head that the database has signed: what it says that its log holds. Nobody else can make one, so two
// that do not lie on one line prove that the database has told two stories.
type sumHead struct {
	note []byte
	tree tlog.Tree
	from *sumBase // nil for one that was kept
}

// openHead reads a signed head.
func (db *sumDB) openHead(signed []byte, from *sumBase) (sumHead, error) {
	n, err := note.Open(signed, note.VerifierList(db.verifier))
	if err != nil {
		return sumHead{}, err
	}
	tree, err := tlog.ParseTree([]byte(n.Text))
	return sumHead{signed, tree, from}, err
}

// saw tells how far a mirror lags. Heads carry no time: it is behind by so many records.
func (db *sumDB) saw(ctx context.Context, h sumHead) {
	db.mu.Lock()
	db.largest = max(db.largest, h.tree.N)
	behind := db.largest - h.tree.N
	db.mu.Unlock()
	db.engine.trace.head(ctx, HeadInfo{Database: db.name, Mirror: h.from.String(), Size: h.tree.N, Behind: behind})
}

func (h sumHead) in(heads []sumHead) bool {
	return slices.ContainsFunc(heads, func(o sumHead) bool { return bytes.Equal(o.note, h.note) })
}

// place holds heads against the one that is kept, with the tiles of each base in turn until one is enough to tell. A head
// that contradicts it ends the use of the database; one that nobody's tiles reach is no proof of anything.
func (db *sumDB) place(ctx context.Context, heads []sumHead) error {
	kept, err := db.keptHead(ctx)
	if err != nil || kept.tree.N == 0 {
		return err
	}
	for i, h := range heads {
		if bytes.Equal(h.note, kept.note) || h.in(heads[:i]) {
			continue
		}
		bases := db.all()
		if h.from != nil {
			bases = slices.Insert(bases, 0, h.from) // its own tiles are the likeliest to tell
		}
		for _, base := range bases {
			fork, err := db.compare(ctx, kept, h, base)
			if fork != "" {
				return db.stop(ctx, fork)
			}
			if err == nil {
				break
			}
		}
	}
	return context.Cause(ctx)
}

// placeOther places the go command's head beside the one that is kept in its stead.
func (db *sumDB) placeOther(ctx context.Context) error {
	signed := db.store.takeOther()
	if signed == nil {
		return nil
	}
	h, err := db.openHead(signed, nil)
	if err != nil {
		return nil // readHead has checked it
	}
	return db.place(ctx, []sumHead{h})
}

func (db *sumDB) keptHead(ctx context.Context) (sumHead, error) {
	signed, err := db.store.readHead(ctx)
	if err != nil || len(signed) == 0 {
		return sumHead{}, err
	}
	return db.openHead(signed, nil)
}

// compare proves the smaller of two trees under the larger one, with the tiles of one base. The report is that of a fork, or
// "" if they lie on one line; an error says that these tiles cannot tell.
func (db *sumDB) compare(ctx context.Context, a, b sumHead, base *sumBase) (report string, err error) {
	if a.tree.N > b.tree.N {
		a, b = b, a
	}
	if a.tree.N == b.tree.N && a.tree.Hash != b.tree.Hash {
		return fmt.Sprintf("two heads of %d records:\n\n%s\n\n%s\n", a.tree.N, a.note, b.note), nil
	}
	r := tlog.TileHashReader(b.tree, &headTiles{db, ctx, base})
	hash, err := tlog.TreeHash(a.tree.N, r)
	if err != nil || hash == a.tree.Hash {
		return "", err
	}
	proof, err := tlog.ProveTree(b.tree.N, a.tree.N, r)
	if err != nil {
		return "", err
	}
	var s strings.Builder
	fmt.Fprintf(&s, "a head of %d records:\n\n%s\n", a.tree.N, a.note)
	fmt.Fprintf(&s, "a head of %d records:\n\n%s\n", b.tree.N, b.note)
	fmt.Fprintf(&s, "Under the second, the first %d records hash to %v, not to %v. The proof:\n", a.tree.N, hash, a.tree.Hash)
	for _, h := range proof {
		fmt.Fprintf(&s, "%v\n", h)
	}
	return s.String(), nil
}

// headTiles is the tlog.TileReader of one comparison. It keeps nothing: the go command's files are written by lookups.
type headTiles struct {
	db   *sumDB
	ctx  context.Context
	base *sumBase
}

func (t *headTiles) Height() int { return 8 } // as sumdb.Client has it

func (t *headTiles) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	var g errgroup.Group
	for i, tile := range tiles {
		g.Go(func() error {
			file, err := t.db.readTile(t.ctx, tile, t.base)
			data[i] = file.data
			return err
		})
	}
	return data, g.Wait()
}

func (t *headTiles) SaveTiles([]tlog.Tile, [][]byte) {}

// stop ends the use of the database: it has signed two histories.
func (db *sumDB) stop(ctx context.Context, report string) error {
	err := failf(ErrSecurity, "the checksum database %s has signed two histories that contradict each other, so it is not used any more; "+
		"the evidence is %s:\n%s", db.name, db.store.keepEvidence(ctx, report), report)
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.forked == nil {
		db.forked = err
	}
	return db.forked
}

// cannotProve is the end of a lookup that nobody's tiles prove.
func (db *sumDB) cannotProve(ctx context.Context, m module.Version, why error, heads []sumHead, used []string) error {
	var s strings.Builder
	fmt.Fprintf(&s, "The record of %s in the checksum database %s: %v\n\n", m, db.name, why)
	kept, _ := db.keptHead(ctx)
	if kept.note != nil {
		fmt.Fprintf(&s, "the head that is kept:\n\n%s\n", kept.note)
	}
	for i, h := range heads {
		if !bytes.Equal(h.note, kept.note) && !h.in(heads[:i]) {
			fmt.Fprintf(&s, "a head from %s:\n\n%s\n", h.from, h.note)
		}
	}
	slices.Sort(used)
	return failf(ErrSecurity, "the record of %s in the checksum database %s cannot be proven with the tiles of %s, with or without local files: %v; "+
		"the evidence is %s", m, db.name, strings.Join(slices.Compact(used), ", or "), why, db.store.keepEvidence(ctx, s.String()))
}
