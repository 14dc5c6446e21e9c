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
	"io/fs"
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
// No hash on record covers the time in an .info file, nor the bytes of a zip besides the names and contents of its files. Nothing
// tells whether a bundle is complete: somebody may have taken modules out of it, or the proof of an older head.
//
// The error is that of what is no bundle or cannot be read at all, of the setting, or of ctx.
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
	if sumPrefix(r.names) == "" && !slices.Contains(r.names, manifestName) {
		return nil, fmt.Errorf("%s is no bundle: it has neither a tree head nor %s", name, manifestName)
	}
	v := &verification{reader: r, verifier: verifier, prefix: "sumdb/" + verifier.Name() + "/", found: make(map[string]string)}
	for _, name := range r.odd {
		v.bad(name, "it is no regular file, or there twice")
	}
	for _, name := range r.empty {
		v.bad(name, "it is a directory with nothing in it")
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
	tree     tlog.Tree         // that is signed
	hashes   tlog.HashReader   // of hashes that are proven to be in it
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
	if f.Size() > modzip.MaxZipFile {
		return "", fmt.Errorf("it has %d bytes; at most %d are read", f.Size(), modzip.MaxZipFile)
	}
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
	v.tree, v.hashes = tree, tlog.TileHashReader(tree, tileFiles{v})
	records, files := make(map[module.Version]record), make(map[module.Version]map[string]bool)
	for _, name := range v.names {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		m, ext, ok := parseName(name)
		sumName, inDB := strings.CutPrefix(name, v.prefix)
		switch {
		case ok && !strings.HasPrefix(name, "sumdb/"):
			if files[m] == nil {
				files[m] = make(map[string]bool)
			}
			files[m][ext] = true
		case name == manifestName, name == goSumName, strings.HasSuffix(name, "/@v/list"), inDB && (sumName == "latest" || sumName == "supported"):
			// They are not read here.
		case !inDB:
			v.bad(name, "it belongs neither to a module nor to %s", v.verifier.Name())
		case strings.HasPrefix(sumName, "lookup/"):
			if m, ok := parseLookupName(sumName); !ok {
				v.bad(name, "it belongs to no module")
			} else if r, err := v.record(name, m, head); err != nil {
				v.bad(name, "%v", err)
			} else {
				records[m] = r
			}
		default:
			if err := v.checkTile(name, sumName); err != nil {
				v.bad(name, "%v", err)
			}
		}
	}

	goSum, _ := v.read(goSumName, maxManifest) // what is wrong with it is found below
	for line := range strings.Lines(string(goSum)) {
		path, rest, _ := strings.Cut(line, " ")
		version, _, _ := strings.Cut(rest, " ")
		if has := files[module.Version{Path: path, Version: version}]; has != nil {
			has[".zip"] = true // or should be there
		}
	}
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
	var want bytes.Buffer
	if _, err := sums.WriteTo(&want); err != nil {
		return err
	}
	v.equals(goSumName, want.Bytes())
	v.equals(v.prefix+"supported", nil)
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

// record returns the record of m, once it is proven under the head. Nothing else is kept of the file.
func (v *verification) record(name string, m module.Version, head []byte) (record, error) {
	data, err := v.read(name, maxSmall)
	if err != nil {
		return record{}, err
	}
	id, text, note, err := tlog.ParseRecord(data)
	if err != nil {
		return record{}, err
	}
	if !bytes.Equal(note, head) {
		return record{}, errors.New("its tree head is not that of the bundle")
	}
	got, err := v.proven(tlog.StoredHashIndex(0, id))
	if err != nil {
		return record{}, err
	}
	if got[0] != tlog.RecordHash(text) {
		return record{}, fmt.Errorf("it is not the record with number %d that is signed", id)
	}
	return parseRecord(text, m)
}

// checkTile proves a tile under the head. One that is narrower than it could be proves an older head; it is proven with the
// wider one.
func (v *verification) checkTile(name, sumName string) error {
	tile, err := tlog.ParseTilePath(sumName)
	if err != nil || tile.H != tileHeight || tile.L < 0 || tile.L > maxTileLevel || tile.N >= maxTile>>(tile.H*tile.L) {
		return errors.New("it is no file of a checksum database")
	}
	data, err := v.readTile(tile)
	if err != nil {
		return err
	}
	indexes := make([]int64, tile.W)
	for i := range indexes {
		indexes[i] = tlog.StoredHashIndex(tile.H*tile.L, tile.N<<tile.H+int64(i))
	}
	hashes, err := v.proven(indexes...)
	if err != nil {
		return err
	}
	for i, hash := range hashes {
		if !bytes.Equal(hash[:], data[i*tlog.HashSize:][:tlog.HashSize]) {
			return fmt.Errorf("it is not in the tree of %d records", v.tree.N)
		}
	}
	return nil
}

const (
	tileHeight   = 8       // as clients have it
	maxTileLevel = 5       // of a tree of 2^48 records
	maxTile      = 1 << 40 // of the lowest level, so that no number overflows
)

// proven returns hashes that are in the tree.
func (v *verification) proven(indexes ...int64) ([]tlog.Hash, error) {
	hashes, err := v.hashes.ReadHashes(indexes)
	if err != nil {
		return nil, fmt.Errorf("it cannot be proven under the head of %d records: %w", v.tree.N, err)
	}
	return hashes, nil
}

func (v *verification) readTile(tile tlog.Tile) ([]byte, error) {
	data, err := v.read(v.prefix+tile.Path(), int64(tile.W*tlog.HashSize))
	if err == nil && len(data) != tile.W*tlog.HashSize {
		err = fmt.Errorf("it has %d bytes, not %d", len(data), tile.W*tlog.HashSize)
	}
	return data, err
}

// tileFiles is the tlog.TileReader of a verification. What a proof needs and cannot read is bad by itself.
type tileFiles struct{ *verification }

func (tileFiles) Height() int { return tileHeight }

func (t tileFiles) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	for i, tile := range tiles {
		var err error
		if data[i], err = t.readTile(tile); errors.Is(err, fs.ErrNotExist) {
			t.bad(t.prefix+tile.Path(), "it is missing: a proof needs it")
		}
		if err != nil {
			return nil, err
		}
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

	name = fileName(m, ".info")
	var info version
	data, err := v.read(name, maxSmall)
	if err == nil {
		err = json.Unmarshal(data, &info)
	}
	if want, _ := json.Marshal(version{m.Version, info.Time}); err != nil {
		v.bad(name, "%v", err)
	} else if !bytes.Equal(data, want) {
		v.bad(name, "it says something else than the version and its time: %.100q", data)
	}

	if !has[".zip"] {
		return nil
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
