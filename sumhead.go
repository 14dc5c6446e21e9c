package modfetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

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

// CompareHeads asks all places where lookups may read the checksum database, the mirrors and its own host, for the signed
// tree head that they show, all at the same time. It proves that these heads and the one that is kept lie on one line: each
// under the largest, with the tiles of either mirror, and the largest beside the one that is kept. For each place it tells
// by how many records it lags, and in Err why it has shown no head, or one that could not be compared.
//
// Heads that contradict each other are an error of kind Security with both notes and the proof, also kept as evidence; the
// database is not used any more then. If nobody has shown a head, the error says why; it is never fs.ErrNotExist. The head
// that is kept stays as it is, because it moves only with the tiles that prove it. With GOSUMDB=off there is nothing to
// compare: no heads and no error.
//
// It finds neither a fork of which all mirrors and this machine have only ever seen one side, nor that all of them lag.
func (f *Fetcher) CompareHeads(ctx context.Context) ([]HeadInfo, error) {
	if f.db == nil {
		return nil, nil
	}
	return f.db.compareHeads(ctx)
}

// Times after which one mirror is not waited for any longer when heads are compared: there are others.
const (
	headTimeout  = 10 * time.Second // for its head
	proofTimeout = 30 * time.Second // for the tiles of one proof
)

func (db *sumDB) compareHeads(ctx context.Context) ([]HeadInfo, error) {
	if err := db.stopped(); err != nil {
		return nil, err
	}
	kept, err := db.keptHead(ctx)
	if err != nil {
		return nil, err
	}
	heads, infos := db.askHeads(ctx)
	if ctx.Err() != nil {
		return nil, fmt.Errorf("comparing the tree heads of %s: %w", db.name, context.Cause(ctx))
	}
	top := -1 // the place of the largest
	for i, h := range heads {
		if infos[i].Err == nil && (top < 0 || h.tree.N > heads[top].tree.N) {
			top = i
		}
	}
	if top < 0 {
		failed := &FetchError{Path: db.prefix() + "latest"}
		for _, info := range infos {
			failed.Attempts = append(failed.Attempts, Attempt{info.Mirror, KindOf(info.Err), info.Err})
		}
		return infos, unavailable("no tree head to compare: the checksum database "+db.name, failed)
	}
	largest := heads[top]
	db.mu.Lock()
	db.largest = max(db.largest, largest.tree.N, kept.tree.N)
	db.mu.Unlock()

	forks := make([]string, len(heads))
	var proofs sync.WaitGroup
	for i, h := range heads {
		if infos[i].Err != nil {
			continue
		}
		infos[i] = db.saw(ctx, h)
		whose, bases := "that of "+largest.from.String(), []*sumBase{largest.from, h.from}
		if i == top {
			h, whose, bases = kept, "the one that is kept", db.basesFor(largest)
		}
		proofs.Go(func() { // ends with ctx, or when nobody's tiles are left to try
			fork, err := db.compare(ctx, h, largest, bases)
			if err != nil {
				infos[i].Err = unavailable("its tree head cannot be compared with "+whose, err)
			}
			forks[i] = fork
		})
	}
	proofs.Wait()
	for i, fork := range forks {
		if fork != "" {
			infos[i].Err = db.stop(ctx, fork)
		}
	}
	if err := db.stopped(); err != nil {
		return infos, err
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("comparing the tree heads of %s: %w", db.name, context.Cause(ctx))
	}
	return infos, db.placeOther(ctx)
}

// askHeads asks for all heads. An info has an Err where there is no head.
func (db *sumDB) askHeads(ctx context.Context) ([]sumHead, []HeadInfo) {
	places := db.headPlaces()
	heads, infos := make([]sumHead, len(places)), make([]HeadInfo, len(places))
	var asked sync.WaitGroup
	for i, p := range places {
		infos[i] = HeadInfo{Database: db.name, Mirror: p.tiers[0].mirrors[0].String()}
		asked.Go(func() { heads[i], infos[i].Err = db.askHead(ctx, p) }) // ends within headTimeout
	}
	asked.Wait()
	return heads, infos
}

func (db *sumDB) askHead(ctx context.Context, p sumPlace) (h sumHead, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, headTimeout, timeoutf("no answer within %s", headTimeout))
	defer cancel()
	_, err = db.read(ctx, []sumPlace{p}, "latest", maxHead, func(data []byte, from *sumBase) (err error) {
		if h, err = db.openHead(data, from); err != nil {
			return failf(ErrCorrupt, "sent a tree head that is not signed by %s: %v", db.name, err)
		}
		return nil
	})
	var failed *FetchError
	if errors.As(err, &failed) && len(failed.Attempts) > 0 {
		err = failed.Unwrap() // who was asked for what is known
	}
	if err != nil {
		return sumHead{}, fmt.Errorf("no tree head: %w", err)
	}
	return h, nil
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
func (db *sumDB) saw(ctx context.Context, h sumHead) HeadInfo {
	db.mu.Lock()
	db.largest = max(db.largest, h.tree.N)
	behind := db.largest - h.tree.N
	db.mu.Unlock()
	info := HeadInfo{Database: db.name, Mirror: h.from.String(), Size: h.tree.N, Behind: behind}
	db.engine.trace.head(ctx, info)
	return info
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
		if fork, _ := db.compare(ctx, kept, h, db.basesFor(h)); fork != "" {
			return db.stop(ctx, fork)
		}
	}
	return context.Cause(ctx)
}

// basesFor returns all bases, but first the one that has shown h: its own tiles are the likeliest to tell.
func (db *sumDB) basesFor(h sumHead) []*sumBase {
	if h.from == nil {
		return db.all()
	}
	others := slices.DeleteFunc(db.all(), func(b *sumBase) bool { return b == h.from })
	return slices.Insert(others, 0, h.from)
}

// placeOther places the head that somebody else keeps, the go command or another process, beside our own.
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

// compare proves the smaller of two trees under the larger one, with the tiles of each base in turn until one is enough to
// tell. The report is that of a fork, or "" if they lie on one line; an error says that nobody's tiles can tell.
func (db *sumDB) compare(ctx context.Context, a, b sumHead, bases []*sumBase) (report string, err error) {
	if a.tree.N > b.tree.N {
		a, b = b, a
	}
	switch {
	case a.tree.N == 0, a.tree == b.tree:
		return "", nil
	case a.tree.N == b.tree.N:
		return fmt.Sprintf("two heads of %d records:\n\n%s\n\n%s\n", a.tree.N, a.note, b.note), nil
	}
	for _, base := range bases {
		report, unproven := db.compareAt(ctx, a, b, base)
		if unproven == nil {
			return report, nil
		}
		if err == nil || rank(unproven) > rank(err) {
			err = unproven
		}
	}
	return "", err
}

// compareAt compares with the tiles of one base. Tiles are held against the larger head: if they do not fit it, they prove
// nothing.
func (db *sumDB) compareAt(ctx context.Context, a, b sumHead, base *sumBase) (report string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, proofTimeout, timeoutf("no proof from %s within %s", base, proofTimeout))
	defer cancel()
	tiles := &headTiles{db: db, ctx: ctx, base: base}
	defer func() {
		if err != nil && tiles.failed == nil {
			err = failf(ErrCorrupt, "%s sent tiles that do not belong to a tree of %d records: %v", base, b.tree.N, err)
		}
	}()
	r := tlog.TileHashReader(b.tree, tiles)
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
	db     *sumDB
	ctx    context.Context
	base   *sumBase
	failed error // a tile could not be got
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
	t.failed = g.Wait()
	return data, t.failed
}

func (t *headTiles) SaveTiles([]tlog.Tile, [][]byte) {}

// stop ends the use of the database: it has signed two histories.
func (db *sumDB) stop(ctx context.Context, report string) error {
	where, notKept := db.store.keepEvidence(ctx, report)
	if notKept != nil {
		where = fmt.Sprintf("in this message only, because %v", notKept)
	}
	err := failf(ErrSecurity, "the checksum database %s has signed two histories that contradict each other, so it is not used any more; "+
		"the evidence is %s:\n%s", db.name, where, report)
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.forked == nil {
		db.forked = err
	}
	return db.forked
}

// stopped returns the error with which the use of the database has ended, or nil.
func (db *sumDB) stopped() error {
	db.mu.Lock()
	defer db.mu.Unlock()
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
	where, notKept := db.store.keepEvidence(ctx, s.String())
	if notKept != nil {
		where = fmt.Sprintf("in this message only, because %v:\n%s", notKept, s.String())
	}
	slices.Sort(used)
	return failf(ErrSecurity, "the record of %s in the checksum database %s cannot be proven with the tiles of %s, with or without local files: %v; "+
		"the evidence is %s", m, db.name, strings.Join(slices.Compact(used), ", or "), why, where)
}
