package modfetchtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/internal/filelock"
	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"
)

// keepLookup keeps a record under the head that is kept, or, if that is too old for it, all records under its own, which must
// continue the old one; and the tiles that prove them.
func (m *recorder) keepLookup(ctx context.Context, database, name string, data []byte) error {
	id, _, head, err := tlog.ParseRecord(data)
	if err != nil {
		return nil // every client will refuse it
	}
	tree, err := tlog.ParseTree(head)
	if err != nil || id < 0 || id >= tree.N {
		return nil
	}
	lock, err := m.wait(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()

	lookups := make(map[string][]byte)
	var older tlog.Tree // to prove
	kept, signed, err := m.rec.head(database)
	if err != nil {
		return err
	}
	if id < kept.N {
		head, tree = signed, kept
	} else {
		older = kept // has no records if there is none
		if lookups, err = m.rec.lookups(database); err != nil {
			return m.rec.failed(name, err)
		}
	}
	lookups[name] = data
	if err := m.prove(ctx, database, tree, older, lookups); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		// No tile's absence is that of the record.
		return fmt.Errorf("recording the proof of %s in %s: %v; if the mirror has once sent something false, remove the recording and make it anew",
			name, string(m.rec), err)
	}
	for name, lookup := range lookups {
		record, _, _ := bytes.Cut(lookup, []byte("\n\n"))
		if err := m.rec.keep(name, slices.Concat(record, []byte("\n\n"), head)); err != nil {
			return err
		}
	}
	if tree == kept {
		return nil
	}
	return m.keepHead(ctx, database, tree, head)
}

// keepLatest keeps the first head of a database that is shown.
func (m *recorder) keepLatest(ctx context.Context, database string, head []byte) error {
	tree, err := tlog.ParseTree(head)
	if err != nil {
		return nil // every client will refuse it
	}
	lock, err := m.wait(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	if kept, _, err := m.rec.head(database); err != nil || kept.N > 0 {
		return err
	}
	return m.keepHead(ctx, database, tree, head)
}

// keepHead keeps a head, and the tiles that prove it and the other mirrors' heads to be of one tree: a client of all of them
// sees them all. Those that are of another tree no client takes, so there is no proof to keep.
func (m *recorder) keepHead(ctx context.Context, database string, tree tlog.Tree, head []byte) error {
	for _, other := range m.recorders {
		theirs, _, _ := other.rec.head(database)
		switch {
		case theirs.N == 0:
		case theirs.N > tree.N:
			other.prove(ctx, database, theirs, tree, nil)
		default:
			m.prove(ctx, database, tree, theirs, nil)
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return m.rec.keep(database+"/latest", head)
}

// head returns the head that is kept of a database, or one of no records.
func (r recording) head(database string) (tree tlog.Tree, signed []byte, err error) {
	signed, err = os.ReadFile(r.file(database + "/latest"))
	if errors.Is(err, fs.ErrNotExist) {
		return tree, nil, nil
	}
	if err == nil {
		tree, err = tlog.ParseTree(signed)
	}
	if err != nil {
		err = r.failed(database+"/latest", err)
	}
	return tree, signed, err
}

// sumdbPath returns the path of a checksum database, and which of its files a path is.
func sumdbPath(path string) (database, file string) {
	if !strings.HasPrefix(path, "sumdb/") {
		return "", ""
	}
	if base, ok := strings.CutSuffix(path, "/latest"); ok && !strings.Contains(path, "/lookup/") {
		return base, "latest"
	}
	if base, _, ok := strings.Cut(path, "/lookup/"); ok {
		return base, "lookup"
	}
	if base, _, ok := strings.Cut(path, "/tile/"); ok {
		return base, "tile"
	}
	return "", ""
}

// wait waits until nobody else changes lookups.
func (s *session) wait(ctx context.Context) (*os.File, error) {
	f, err := filelock.Open(ctx, s.lock, nil)
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("recording in %s: %v", filepath.Dir(s.lock), err) // no absence
	}
	return f, err
}

// lookups returns all that are kept of a database, by path.
func (r recording) lookups(database string) (map[string][]byte, error) {
	lookups := make(map[string][]byte)
	dir := os.DirFS(string(r))
	err := fs.WalkDir(dir, database+"/lookup", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		lookups[path], err = fs.ReadFile(dir, path)
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return lookups, err
}

// sum returns what a lookup that is kept says is the hash of a .mod or .zip file, or "".
func (r recording) sum(file string) string {
	ext := path.Ext(file)
	escaped, version, ok := strings.Cut(strings.TrimSuffix(file, ext), "/@v/")
	if !ok || ext != ".mod" && ext != ".zip" {
		return ""
	}
	databases, _ := os.ReadDir(r.file("sumdb"))
	for _, db := range databases {
		lookup, _ := os.ReadFile(r.file("sumdb/" + db.Name() + "/lookup/" + escaped + "@" + version))
		for line := range strings.Lines(string(lookup)) {
			if f := strings.Fields(line); len(f) == 3 && strings.HasSuffix(f[1], "/go.mod") == (ext == ".mod") {
				return f[2]
			}
		}
	}
	return ""
}

// prove makes sure that the tiles are there by which lookups and an older head can be proven to be in a tree.
func (m *recorder) prove(ctx context.Context, database string, tree, older tlog.Tree, lookups map[string][]byte) error {
	tiles := &tileKeeper{ctx: ctx, recorder: m, database: database}
	reader := tlog.TileHashReader(tree, tiles)
	var indexes []int64
	var want []tlog.Hash
	paths := slices.Sorted(maps.Keys(lookups))
	for _, path := range paths {
		id, text, _, err := tlog.ParseRecord(lookups[path])
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		indexes = append(indexes, tlog.StoredHashIndex(0, id))
		want = append(want, tlog.RecordHash(text))
	}
	hashes, err := reader.ReadHashes(indexes)
	if err != nil {
		return err
	}
	for i, hash := range hashes {
		if hash != want[i] {
			return fmt.Errorf("%s is not what the database has signed", paths[i])
		}
	}
	if older.N > 0 {
		hash, err := tlog.TreeHash(older.N, reader)
		if err != nil {
			return err
		}
		if hash != older.Hash {
			return fmt.Errorf("the tree of %d records does not continue the one of %d that is kept", tree.N, older.N)
		}
	}
	return tiles.failed
}

// A tileKeeper is the [tlog.TileReader] that reads tiles of a recording or else of its mirror, and keeps those that belong to
// the tree.
type tileKeeper struct {
	*recorder
	ctx      context.Context
	database string
	failed   error // to keep one
}

func (k *tileKeeper) Height() int { return 8 } // as every client has it

func (k *tileKeeper) path(t tlog.Tile) string { return k.database + "/" + t.Path() }

func (k *tileKeeper) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	var g errgroup.Group
	g.SetLimit(8)
	for i, t := range tiles {
		g.Go(func() (err error) {
			data[i], err = os.ReadFile(k.rec.file(k.path(t)))
			if err != nil || len(data[i]) != t.W*tlog.HashSize {
				data[i], err = k.fetch(t)
			}
			return err
		})
	}
	return data, g.Wait()
}

// fetch gets a tile. A partial one may be gone once the full one is there, which begins with it.
func (k *tileKeeper) fetch(t tlog.Tile) ([]byte, error) {
	resp, err := k.Mirror.Fetch(k.ctx, modfetch.Request{Path: k.path(t), Retry: true})
	if full := 1 << t.H; errors.Is(err, fs.ErrNotExist) && t.W < full {
		whole := t
		whole.W = full
		data, err := k.fetch(whole)
		return data[:min(len(data), t.W*tlog.HashSize)], err
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", k.path(t), err)
	}
	defer resp.Body.Close()
	size := t.W * tlog.HashSize
	data, err := io.ReadAll(io.LimitReader(resp.Body, int64(size)+1))
	if err == nil && len(data) != size {
		err = fmt.Errorf("%s has %d bytes, not %d", k.path(t), len(data), size)
	}
	return data, err
}

func (k *tileKeeper) SaveTiles(tiles []tlog.Tile, data [][]byte) {
	for i, t := range tiles {
		if err := k.rec.keep(k.path(t), data[i]); err != nil && k.failed == nil {
			k.failed = err
		}
	}
}
