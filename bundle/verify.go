package bundle

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strings"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/internal/unpack"
	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	modzip "golang.org/x/mod/zip"
	"golang.org/x/sync/semaphore"
)

// A Problem is a file of a bundle that is not as it should be.
type Problem struct {
	Name string // of the file; "" for the zip around the files
	Text string // what is wrong with it
}

// Verify returns what is wrong with a bundle, by the names of its files: all that differ from the manifest, are missing or do
// not belong there; and if there are none, because anybody can write a manifest, all that the checksum database has not signed.
// The database and its key are those of gosumdb, a setting like GOSUMDB; what the bundle says of itself counts for nothing.
//
// No hash on record covers the time in an .info file, nor the bytes of a zip besides the names and contents of its files.
//
// The error is that of a bundle which cannot be read at all, of the setting, or of ctx.
func Verify(ctx context.Context, name, gosumdb string) ([]Problem, error) {
	key, err := modfetch.SumDBKey(gosumdb)
	if err != nil {
		return nil, err
	}
	verifier, err := note.NewVerifier(key)
	if err != nil {
		return nil, err
	}
	r, err := open(name)
	if err != nil {
		return nil, err
	}
	defer r.close()
	v := &verification{reader: r, verifier: verifier, prefix: "sumdb/" + verifier.Name() + "/", found: make(map[string]string)}
	for _, name := range r.odd {
		v.bad(name, "it is no regular file, or there twice")
	}
	if err := v.checkManifest(ctx); err != nil {
		return nil, err
	}
	tree, head, ok := v.openHead()
	if ok && (len(v.found) == 0 || len(v.found) == 1 && v.found[manifestName] != "") {
		if err := v.checkContent(ctx, tree, head); err != nil {
			return nil, err
		}
	}
	var problems []Problem
	for _, name := range slices.Sorted(maps.Keys(v.found)) {
		problems = append(problems, Problem{name, v.found[name]})
	}
	return problems, nil
}

type verification struct {
	*reader
	verifier note.Verifier
	prefix   string            // of the database's files
	found    map[string]string // what is wrong, by name; the first finding counts
}

func (v *verification) bad(name, format string, args ...any) {
	if _, ok := v.found[name]; !ok {
		v.found[name] = fmt.Sprintf(format, args...)
	}
}

// checkManifest holds all files against the manifest, and a zip against what its files make.
func (v *verification) checkManifest(ctx context.Context) error {
	sums, err := v.manifest()
	if err != nil {
		v.bad(manifestName, "%v", err)
	}
	for _, name := range v.names {
		if name == manifestName {
			continue
		}
		got, err := v.sha256(ctx, name)
		want, listed := sums[name]
		delete(sums, name)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			v.bad(name, "%v", err)
		case sums == nil: // the manifest cannot be read
		case !listed:
			v.bad(name, "it is not in %s", manifestName)
		case got != want:
			v.bad(name, "its SHA-256 sum is %s, and in %s it is %s", got, manifestName, want)
		}
	}
	for name := range sums {
		v.bad(name, "it is in %s, but not there", manifestName)
	}
	if v.file == nil || len(v.found) > 0 {
		return nil
	}
	packed, err := v.packed(ctx)
	if !packed && err == nil {
		v.bad("", "the zip has something in it besides its files")
	}
	return err
}

func (v *verification) sha256(ctx context.Context, name string) (string, error) {
	f, c, err := v.open(name)
	if err != nil {
		return "", err
	}
	defer c.Close()
	sum := sha256.New()
	for n := int64(1); n > 0 && err == nil && ctx.Err() == nil; {
		if n, err = io.CopyN(sum, f, 16<<20); errors.Is(err, io.EOF) {
			n, err = 0, nil
		}
	}
	return hex.EncodeToString(sum.Sum(nil)), err
}

// openHead reads the signed head.
func (v *verification) openHead() (tree tlog.Tree, head []byte, ok bool) {
	name := v.prefix + "latest"
	head, err := v.read(name, maxSmall)
	if err != nil {
		v.bad(name, "%v", err)
		return tlog.Tree{}, nil, false
	}
	signed, err := note.Open(head, note.VerifierList(v.verifier))
	if err != nil {
		v.bad(name, "it is not signed by the key of %s that is known here: %v", v.verifier.Name(), err)
		return tlog.Tree{}, nil, false
	}
	if tree, err = tlog.ParseTree([]byte(signed.Text)); err != nil {
		v.bad(name, "%v", err)
	}
	return tree, head, err == nil
}

// checkContent holds all files against what the database has signed, and against each other.
func (v *verification) checkContent(ctx context.Context, tree tlog.Tree, head []byte) error {
	records, files := make(map[module.Version]record), make(map[module.Version]map[string]bool)
	tiles := make(tileFiles)
	for _, name := range v.names {
		m, ext, ok := parseName(name)
		sumName, inDB := strings.CutPrefix(name, v.prefix)
		switch {
		case ok && !strings.HasPrefix(name, "sumdb/"):
			if files[m] == nil {
				files[m] = make(map[string]bool)
			}
			files[m][ext] = true
		case name == manifestName, name == goSumName, strings.HasSuffix(name, "/@v/list"), inDB && sumName == "latest":
			// They are not read here.
		case !inDB:
			v.bad(name, "it belongs neither to a module nor to %s", v.verifier.Name())
		case sumName == "supported":
			v.equals(name, nil)
		case strings.HasPrefix(sumName, "lookup/"):
			v.readRecord(name, sumName, records)
		default:
			v.readTile(name, sumName, tiles)
		}
	}
	v.checkProofs(tree, head, records, tiles)

	sums, versions := new(modfetch.GoSum), make(map[string][]string)
	for m, has := range files {
		r, ok := records[m]
		if !ok {
			v.bad(v.prefix+lookupName(m), "it is missing: nothing proves %s", m)
			continue
		}
		sums.Add(module.Version{Path: m.Path, Version: m.Version + "/go.mod"}, r.goMod)
		if has[".zip"] {
			sums.Add(m, r.zip)
			versions[m.Path] = append(versions[m.Path], m.Version)
		}
		if err := v.checkModule(ctx, m, has, r); err != nil {
			return err
		}
	}
	for m := range records {
		if files[m] == nil {
			v.bad(fileName(m, ".mod"), "it is missing")
		}
	}
	var goSum bytes.Buffer
	if _, err := sums.WriteTo(&goSum); err != nil {
		return err
	}
	v.equals(goSumName, goSum.Bytes())
	for path, versions := range versions {
		v.equals(listName(path), versionList(versions))
	}
	for _, name := range v.names {
		dir, isList := strings.CutSuffix(name, "/@v/list")
		if path, err := module.UnescapePath(dir); isList && (err != nil || versions[path] == nil) {
			v.bad(name, "it belongs to no module")
		}
	}
	return nil
}

// equals holds a file against what it should be.
func (v *verification) equals(name string, want []byte) {
	if got, err := v.read(name, maxManifest); err != nil {
		v.bad(name, "%v", err)
	} else if !bytes.Equal(got, want) {
		v.bad(name, "it is not what the other files make of it")
	}
}

func (v *verification) readRecord(name, sumName string, records map[module.Version]record) {
	data, err := v.read(name, maxSmall)
	if err != nil {
		v.bad(name, "%v", err)
		return
	}
	path, version, _ := strings.Cut(strings.TrimPrefix(sumName, "lookup/"), "@")
	m, _, ok := parseName(path + "/@v/" + version + ".mod")
	if !ok {
		v.bad(name, "it belongs to no module")
		return
	}
	r, err := parseRecord(data, m)
	if err != nil {
		v.bad(name, "%v", err)
		return
	}
	records[m] = r
}

func (v *verification) readTile(name, sumName string, tiles tileFiles) {
	tile, err := tlog.ParseTilePath(sumName)
	if err != nil || tile.H != tiles.Height() || tile.L < 0 || tile.L > maxTileLevel || tile.N >= maxTile>>(tile.H*tile.L) {
		v.bad(name, "it is no file of a checksum database")
		return
	}
	data, err := v.read(name, int64(tile.W*tlog.HashSize))
	if err == nil && len(data) != tile.W*tlog.HashSize {
		err = fmt.Errorf("it has %d bytes, not %d", len(data), tile.W*tlog.HashSize)
	}
	if err != nil {
		v.bad(name, "%v", err)
		return
	}
	tiles[tile] = data
}

// checkProofs proves all tiles and records under the head.
func (v *verification) checkProofs(tree tlog.Tree, head []byte, records map[module.Version]record, tiles tileFiles) {
	hashes := tlog.TileHashReader(tree, tiles)
	prove := func(name string, indexes ...int64) []tlog.Hash {
		got, err := hashes.ReadHashes(indexes)
		var missing missingTile
		if errors.As(err, &missing) {
			v.bad(v.prefix+missing.Path(), "it is missing: a proof needs it")
		}
		if err != nil {
			v.bad(name, "it cannot be proven under the head of %d records: %v", tree.N, err)
			return nil
		}
		return got
	}
	for tile, data := range tiles {
		name := v.prefix + tile.Path()
		// One that is narrower than it could be proves an older head. It is proven with the wider one.
		indexes := make([]int64, tile.W)
		for i := range indexes {
			indexes[i] = tlog.StoredHashIndex(tile.H*tile.L, tile.N<<tile.H+int64(i))
		}
		for i, hash := range prove(name, indexes...) {
			if !bytes.Equal(hash[:], data[i*tlog.HashSize:][:tlog.HashSize]) {
				v.bad(name, "it is not in the tree of %d records", tree.N)
			}
		}
	}
	for m, r := range records {
		name := v.prefix + lookupName(m)
		if !bytes.Equal(r.note, head) {
			v.bad(name, "its tree head is not that of the bundle")
		}
		if got := prove(name, tlog.StoredHashIndex(0, r.id)); got != nil && got[0] != tlog.RecordHash(r.text) {
			v.bad(name, "it is not the record with number %d that is signed", r.id)
		}
	}
}

const (
	maxTileLevel = 5       // of a tree of 2^48 records
	maxTile      = 1 << 40 // of the lowest level, so that no number overflows
)

// tileFiles is a tlog.TileReader.
type tileFiles map[tlog.Tile][]byte

type missingTile struct{ tlog.Tile }

func (t missingTile) Error() string { return t.Path() + " is missing" }

func (tileFiles) Height() int { return 8 } // as clients have it

func (t tileFiles) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var data [][]byte
	for _, tile := range tiles {
		if t[tile] == nil {
			return nil, missingTile{tile}
		}
		data = append(data, t[tile])
	}
	return data, nil
}

func (tileFiles) SaveTiles([]tlog.Tile, [][]byte) {}

// checkModule holds the files of m against its record.
func (v *verification) checkModule(ctx context.Context, m module.Version, has map[string]bool, r record) error {
	name := fileName(m, ".mod")
	if data, err := v.read(name, modzip.MaxGoMod); err != nil {
		v.bad(name, "%v", err)
	} else if got := goModSum(data); got != r.goMod {
		v.bad(name, "it is %s, but the checksum database has %s", got, r.goMod)
	}
	if !has[".zip"] && !has[".info"] {
		return nil
	}

	name = fileName(m, ".info")
	var info version
	if data, err := v.read(name, maxSmall); err != nil {
		v.bad(name, "%v", err)
	} else if err := json.Unmarshal(data, &info); err != nil {
		v.bad(name, "%v", err)
	} else if info.Version != m.Version {
		v.bad(name, "it is that of version %q", info.Version)
	}

	name = fileName(m, ".zip")
	if got, err := v.zipSum(ctx, name, m); ctx.Err() != nil {
		return ctx.Err()
	} else if err != nil {
		v.bad(name, "%v", err)
	} else if got != r.zip {
		v.bad(name, "it is %s, but the checksum database has %s", got, r.zip)
	}
	return nil
}

func (v *verification) zipSum(ctx context.Context, name string, m module.Version) (string, error) {
	f, c, err := v.open(name)
	if err != nil {
		return "", err
	}
	defer c.Close()
	a, err := unpack.Open(f, f.Size(), m)
	if err != nil {
		return "", err
	}
	return a.Hash(ctx, semaphore.NewWeighted(int64(runtime.GOMAXPROCS(0))))
}
