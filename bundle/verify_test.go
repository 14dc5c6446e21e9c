package bundle_test

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/bundle"
	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	modzip "golang.org/x/mod/zip"
)

// problems returns the names of the files that Verify finds something wrong with.
func (w *world) problems(name string) map[string]string {
	w.t.Helper()
	list, err := bundle.Verify(w.t.Context(), name, w.GOSUMDB())
	if err != nil {
		w.t.Fatal(err)
	}
	found := make(map[string]string)
	for _, p := range list {
		found[p.Name] = p.Text
	}
	return found
}

// TestVerifyReportsEveryFlippedBit flips a bit in each of 100 random bytes, and then in many files at once.
func TestVerifyReportsEveryFlippedBit(t *testing.T) {
	w := newWorld(t)
	dir := w.bundle(mainMod, "b", bundle.Options{})
	w.verify(dir)
	random := mathrand.New(mathrand.NewPCG(1, 2))
	all := slices.DeleteFunc(names(t, dir), func(name string) bool { return len(read(t, dir, name)) == 0 })
	for range 100 {
		name := all[random.IntN(len(all))]
		good := read(t, dir, name)
		at, bit := random.IntN(len(good)), byte(1)<<random.IntN(8)
		bad := bytes.Clone(good)
		bad[at] ^= bit
		write(t, filepath.Join(dir, name), string(bad))
		found := w.problems(dir)
		if found[name] == "" && (name != "SHA256SUMS" || len(found) == 0) {
			t.Errorf("bit %b of byte %d of %s is flipped, and found is %v", bit, at, name, found)
		}
		if len(found) > 1 && name != "SHA256SUMS" {
			t.Errorf("only %s is damaged, and found is %v", name, found)
		}
		write(t, filepath.Join(dir, name), string(good))
	}
	for _, name := range all {
		bad := read(t, dir, name)
		bad[random.IntN(len(bad))] ^= 1 << random.IntN(8)
		if name != "SHA256SUMS" {
			write(t, filepath.Join(dir, name), string(bad))
		}
	}
	if found := w.problems(dir); len(found) != len(all)-1 {
		t.Errorf("%d files are damaged, and found is %v", len(all)-1, found)
	}
}

// TestVerifyReportsEveryFlippedBitOfAZip covers what is between the files too.
func TestVerifyReportsEveryFlippedBitOfAZip(t *testing.T) {
	w := newWorld(t)
	name := w.bundle(mainMod, "b.zip", bundle.Options{})
	good := read(t, name)
	random := mathrand.New(mathrand.NewPCG(3, 4))
	flip := func(at int) {
		t.Helper()
		bad := bytes.Clone(good)
		bad[at] ^= 1 << random.IntN(8)
		write(t, name, string(bad))
		if found, err := bundle.Verify(t.Context(), name, w.GOSUMDB()); err == nil && len(found) == 0 {
			t.Errorf("byte %d of %d is damaged, and nothing is found", at, len(good))
		}
	}
	for range 100 {
		flip(random.IntN(len(good)))
	}
	for range 100 { // in the directory at its end
		flip(len(good) - 1 - random.IntN(1500))
	}
	for _, bad := range []string{string(good) + "x", "x" + string(good)} {
		write(t, name, bad)
		if found, err := bundle.Verify(t.Context(), name, w.GOSUMDB()); err == nil && len(found) == 0 {
			t.Error("a byte too many is not found")
		}
	}
}

// TestVerifyBelievesNoManifest changes files as somebody would who can write a manifest, but not sign.
func TestVerifyBelievesNoManifest(t *testing.T) {
	w := newWorld(t)
	head := w.bundle(mainMod, "old.zip", bundle.Options{})
	older, err := bundle.Head(head)
	if err != nil {
		t.Fatal(err)
	}
	w.AddRecords(20000)
	good := w.bundle(mainMod, "b", bundle.Options{Onto: [][]byte{older}})
	db, _, _ := strings.Cut(w.GOSUMDB(), "+")
	sums := "sumdb/" + db + "/"
	replace := func(old, new string) func([]byte) []byte {
		return func(data []byte) []byte { return bytes.Replace(data, []byte(old), []byte(new), 1) }
	}
	text := func(s string) func([]byte) []byte { return func([]byte) []byte { return []byte(s) } }
	flip := func(data []byte) []byte {
		data[len(data)-1] ^= 1
		return data
	}
	type test struct {
		name   string
		change func([]byte) []byte // nil removes the file
		want   string              // another file that is found instead
	}
	tests := []test{
		{"example.com/a/@v/v1.0.0.mod", replace("c v1.0.0", "c v1.1.0"), ""},
		{"example.com/c/@v/v1.0.0.mod", text("module example.com/evil\n"), ""}, // of which there is no zip
		{"example.com/a/@v/v1.0.0.zip", func([]byte) []byte { return moduleZip(t, "example.com/a@v1.0.0/a.go", "package evil\n") }, ""},
		{"example.com/a/@v/v1.0.0.zip", text("no zip"), ""},
		{"example.com/a/@v/v1.0.0.zip", nil, ""},
		{"example.com/a/@v/v1.0.0.mod", nil, ""},
		{"example.com/a/@v/v1.0.0.info", nil, ""},
		{"example.com/a/@v/v1.0.0.info", text(`{"Version":"v1.0.1"}`), ""},
		{"example.com/a/@v/v1.0.0.info", text("no JSON"), ""},
		{"example.com/a/@v/v1.0.0.info", replace("}", `,"Origin":{"URL":"https://evil.test"}}`), ""},
		{"example.com/a/@v/v1.0.0.info", replace("{", "{ "), ""},
		{"example.com/c/@v/v1.0.0.info", nil, ""}, // of which there is no zip
		{"example.com/d/@v/v1.0.0.info", text(`{"Version":"v1.0.0"}`), sums + "lookup/example.com/d@v1.0.0"},
		{"example.com/a/@v/list", text("v1.0.0\nv1.0.1\n"), ""},
		{"example.com/a/@v/list", nil, ""},
		{"example.com/nobody/@v/list", text(""), ""},
		{"example.com/nobody/@v/v1.0.0.mod", text("module example.com/nobody\n"), sums + "lookup/example.com/nobody@v1.0.0"},
		{"example.com/a/@latest", text("{}"), ""},
		{"go.sum", replace("example.com/a", "example.com/z"), ""},
		{"go.sum", nil, ""},
		{"mine", text("mine"), ""},
		{"supported", text(""), ""},
		{"example.com/c/@v/v1.0.0.mod", nil, ""},
		{"sumdb/other.test/latest", text("mine"), ""},
		{sums + "supported", text("no"), ""},
		{sums + "supported", nil, ""},
		{sums + "latest", flip, ""},
		{sums + "latest", text(string(older)), sums + "lookup/example.com/a@v1.0.0"},
		{sums + "latest", nil, ""},
		{sums + "lookup/example.com/a@v1.0.0", replace("h1:", "h1:x"), ""},
		{sums + "lookup/example.com/a@v1.0.0", replace("\n", "\nexample.com/a v1.0.0 h1:x\n"), ""},
		{sums + "lookup/example.com/a@v1.0.0", replace("100", "101"), ""},
		{sums + "lookup/example.com/a@v1.0.0", text("no record"), ""},
		{sums + "lookup/example.com/a@v1.0.0", flip, ""},
		{sums + "lookup/example.com/a@v1.0.0", nil, ""},
		{sums + "tile/8/0/000.p/7", text(strings.Repeat("x", 7*32)), ""},
		{sums + "tile/8/0/000", text(strings.Repeat("x", 256*32)), ""},
		{sums + "tile/8/0/x001/000", text(strings.Repeat("x", 256*32)), ""},
		{sums + "tile/8/6/000", text(strings.Repeat("x", 256*32)), ""},
		{sums + "tile/8/0/x999/x999/x999/x999/x999/999", text(strings.Repeat("x", 256*32)), ""},
		{sums + "tile/8/5/x999/x999/999", text(strings.Repeat("x", 256*32)), ""},
		{sums + "tile/8/data/000.p/1", text(strings.Repeat("x", 32)), ""},
		{sums + "lookup/example.com/a@v1.0.0", replace("100", "999999999999999100"), ""},
		{sums + "tile/8/2/000.p/1", text(strings.Repeat("x", 32)), ""},
		{sums + "tile/8/0/003", nil, ""},
	}
	for _, name := range names(t, good) {
		if strings.HasPrefix(name, sums+"tile/") {
			tests = append(tests, test{name, flip, ""}, test{name, text("short"), ""})
		}
	}
	for _, test := range tests {
		if test.want == "" {
			test.want = test.name
		}
		dir := filepath.Join(t.TempDir(), "b")
		if err := os.CopyFS(dir, os.DirFS(good)); err != nil {
			t.Fatal(err)
		}
		var data []byte
		if test.change == nil {
			if err := os.Remove(filepath.Join(dir, test.name)); err != nil {
				t.Fatal(err)
			}
		} else {
			data, _ = os.ReadFile(filepath.Join(dir, test.name))
			changed := test.change(bytes.Clone(data))
			if bytes.Equal(changed, data) && len(data) > 0 {
				t.Errorf("%s is not changed", test.name)
			}
			write(t, filepath.Join(dir, test.name), string(changed))
		}
		writeManifest(t, dir)
		if found := w.problems(dir); found[test.want] == "" {
			t.Errorf("%s was %.60q, and found is %v", test.name, data, found)
		}
	}
}

// TestTilesThatNobodyAsksFor have hashes in them that are in the tree, under names that are no client's: of another height, and
// of a number so large that what is computed with it overflows.
func TestTilesThatNobodyAsksFor(t *testing.T) {
	w := newWorld(t)
	dir := w.bundle("module example.com/main\n\ngo 1.22\n\nrequire example.com/before v1.0.0\n", "b", bundle.Options{})
	db, _, _ := strings.Cut(w.GOSUMDB(), "+")
	good := read(t, dir, "sumdb", db, "tile/8/0/000")
	leaf := func(i int) tlog.Hash { return tlog.Hash(good[i*tlog.HashSize:][:tlog.HashSize]) }
	pair := tlog.NodeHash(leaf(20), leaf(21)) // which is stored with the index 40, the number of levels
	for name, data := range map[string]string{
		"tile/4/0/000":      string(good[:16*tlog.HashSize]),
		"tile/8/5/x032/768": strings.Repeat(string(pair[:]), 256),
	} {
		name = "sumdb/" + db + "/" + name
		write(t, filepath.Join(dir, name), data)
		writeManifest(t, dir)
		if found := w.problems(dir); found[name] == "" {
			t.Errorf("%s: found %v", name, found)
		}
	}
}

// TestVerifyHoldsFilesAgainstTheManifest has files too many and too few, of which nothing else could tell.
func TestVerifyHoldsFilesAgainstTheManifest(t *testing.T) {
	w := newWorld(t)
	older, err := bundle.Head(w.bundle(mainMod, "old.zip", bundle.Options{}))
	if err != nil {
		t.Fatal(err)
	}
	w.AddRecords(20000)
	plain := w.bundle(mainMod, "b", bundle.Options{})
	onto := w.bundle(mainMod, "b", bundle.Options{Onto: [][]byte{older}})
	tile := ""
	for _, name := range names(t, onto) {
		if _, err := os.Stat(filepath.Join(plain, name)); err != nil && strings.Contains(name, ".p/") {
			tile = name
		}
	}
	write(t, filepath.Join(plain, tile), string(read(t, onto, tile)))
	if found := w.problems(plain); len(found) != 1 || found[tile] != "it is not in SHA256SUMS" {
		t.Errorf("%s was added, and found is %v", tile, found)
	}
	for _, dir := range []string{plain, onto} {
		if err := os.Remove(filepath.Join(dir, tile)); err != nil {
			t.Fatal(err)
		}
	}
	w.verify(plain)
	if found := w.problems(onto); len(found) != 1 || found[tile] != "it is in SHA256SUMS, but not there" {
		t.Errorf("%s was removed, and found is %v", tile, found)
	}
	text := string(read(t, plain, "SHA256SUMS"))
	first, rest, _ := strings.Cut(text, "\n")
	for _, bad := range []string{"", first, first + "\n" + first + "\n" + rest, rest + first + "\n", "x" + text} {
		write(t, filepath.Join(plain, "SHA256SUMS"), bad)
		if found := w.problems(plain); len(found) == 0 {
			t.Errorf("a manifest is taken that begins with %.100q", bad)
		}
	}
}

// writeManifest makes the manifest fit.
func writeManifest(t *testing.T, dir string) {
	t.Helper()
	var text strings.Builder
	list := names(t, dir)
	slices.Sort(list)
	for _, name := range list {
		if name != "SHA256SUMS" {
			fmt.Fprintf(&text, "%x  %s\n", sha256.Sum256(read(t, dir, name)), name)
		}
	}
	write(t, filepath.Join(dir, "SHA256SUMS"), text.String())
}

func moduleZip(t *testing.T, name, content string) []byte {
	t.Helper()
	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	f, err := z.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte(content)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// TestDamageIsCaughtWithoutVerify has a Fetcher and the go command use a bundle that is damaged.
func TestDamageIsCaughtWithoutVerify(t *testing.T) {
	w := newWorld(t)
	good := w.bundle(mainMod, "b", bundle.Options{})
	w.Close()
	db, _, _ := strings.Cut(w.GOSUMDB(), "+")
	tile := ""
	for _, name := range names(t, good) {
		if strings.Contains(name, "/tile/8/0/") && !strings.Contains(name, ".p/") {
			tile = name // of the modules: the partial one is at the end of the tree
		}
	}
	const lookup = "/lookup/example.com/a@v1.0.0"
	for _, test := range []struct {
		name, content, rename string
	}{
		{"example.com/a/@v/v1.0.0.zip", string(moduleZip(t, "example.com/a@v1.0.0/a.go", "package evil\n")), ""},
		{"example.com/a/@v/v1.0.0.mod", "module example.com/a\n", ""},
		{"example.com/c/@v/v1.0.0.mod", "module example.com/c\n\ngo 1.22\n", ""},
		{"example.com/a/@v/v1.0.0.zip", "", "example.com/a/@v/v1.0.1.zip"},
		{"sumdb/" + db + lookup, strings.Replace(string(read(t, good, "sumdb", db, lookup)), "h1:", "h1:x", 1), ""},
		{"sumdb/" + db + lookup, string(read(t, good, "sumdb", db, "/lookup/example.com/c@v1.1.0")), ""},
		{tile, strings.Repeat("x", 256*32), ""},
	} {
		dir := filepath.Join(t.TempDir(), "b")
		if err := os.CopyFS(dir, os.DirFS(good)); err != nil {
			t.Fatal(err)
		}
		if test.rename != "" {
			if err := os.Rename(filepath.Join(dir, test.name), filepath.Join(dir, test.rename)); err != nil {
				t.Fatal(err)
			}
		} else {
			write(t, filepath.Join(dir, test.name), test.content)
		}
		m := w.machine()
		m.offline(dir)
		if err := m.run(project(t, mainMod), "mod", "download"); err == nil {
			t.Errorf("%s: the go command has not noticed", test.name)
		}
		url := "file://" + filepath.ToSlash(dir)
		f, err := modfetch.New(modfetch.WithGOPROXY(url), modfetch.WithSumDB(w.GOSUMDB()+" "+url+"/sumdb/"+db), modfetch.WithModCache(t.TempDir()))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := bundle.Write(t.Context(), f, project(t, mainMod), filepath.Join(t.TempDir(), "b"), bundle.Options{}); err == nil {
			t.Errorf("%s: a Fetcher has not noticed", test.name)
		}
	}
}

// TestAnotherKey has a bundle that is in order, but for who has signed it: a database of the same name.
func TestAnotherKey(t *testing.T) {
	w := newWorld(t)
	dir := w.bundle(mainMod, "b", bundle.Options{})
	db, _, _ := strings.Cut(w.GOSUMDB(), "+")
	_, key, err := note.GenerateKey(rand.Reader, db)
	if err != nil {
		t.Fatal(err)
	}
	found, err := bundle.Verify(t.Context(), dir, key)
	if err != nil || len(found) != 1 || found[0].Name != "sumdb/"+db+"/latest" || !strings.Contains(found[0].Text, "not signed by the key") {
		t.Errorf("found %v, error %v", found, err)
	}
	if _, err := bundle.Verify(t.Context(), dir, "off"); err == nil {
		t.Error("verified without a key")
	}
	if found, err := bundle.Verify(t.Context(), dir, ""); err != nil || len(found) == 0 {
		t.Errorf("sum.golang.org has signed it: %v", err)
	}

	w.Close()
	modCache := t.TempDir()
	f, err := modfetch.New(modfetch.WithGOPROXY("file://"+filepath.ToSlash(dir)), modfetch.WithSumDB(key+" file://"+filepath.ToSlash(dir)), modfetch.WithModCache(modCache))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for m, err := range f.Download(t.Context(), []module.Version{{Path: "example.com/a", Version: "v1.0.0"}}) {
		if err == nil {
			t.Errorf("%s: accepted", m.Version)
		}
	}
	for _, name := range names(t, modCache) {
		if strings.HasSuffix(name, ".zip") || strings.HasSuffix(name, ".mod") || strings.Contains(name, "/lookup/") {
			t.Errorf("%s was published", name)
		}
	}
	m := w.machine()
	m.env = append(m.env, "GOSUMDB="+key)
	m.offline(dir)
	if m.run(project(t, mainMod), "mod", "download") == nil {
		t.Error("the go command has accepted it")
	}

	out := filepath.Join(t.TempDir(), "b")
	if _, err := bundle.Write(t.Context(), f, project(t, mainMod), out, bundle.Options{}); err == nil {
		t.Error("written")
	}
	if left := names(t, filepath.Dir(out)); len(left) > 0 {
		t.Errorf("left %q", left)
	}
}

// TestVerifyTakesLittleMemory has records and tiles that nobody has signed, of files that take no room on the disk. The context
// looks how much memory is in use whenever it is asked.
func TestVerifyTakesLittleMemory(t *testing.T) {
	w := newWorld(t)
	dir := w.bundle(mainMod, "b", bundle.Options{})
	db, _, _ := strings.Cut(w.GOSUMDB(), "+")
	base := filepath.Join(dir, "sumdb", db)
	const n = 100
	var text strings.Builder
	text.WriteString("123\n")
	for i := range n {
		fmt.Fprintf(&text, "evil.test/m%d v1.0.0 h1:%s\nevil.test/m%d v1.0.0/go.mod h1:x\n", i, strings.Repeat("x", 5000), i)
	}
	text.WriteString("\n" + string(read(t, base, "latest")))
	write(t, filepath.Join(base, "lookup/evil.test/m0@v1.0.0"), text.String())
	write(t, filepath.Join(base, "tile/8/0/x001/000"), strings.Repeat("x", 256*tlog.HashSize))
	for i := 1; i < n; i++ {
		for _, name := range []string{"lookup/evil.test/m%d@v1.0.0", "tile/8/0/x001/%03d"} {
			if err := os.Link(filepath.Join(base, strings.ReplaceAll(strings.ReplaceAll(name, "%d", "0"), "%03d", "000")), filepath.Join(base, fmt.Sprintf(name, i))); err != nil {
				t.Skip(err)
			}
		}
	}
	writeManifest(t, dir)
	ctx := &watch{Context: t.Context()}
	ctx.Err()
	before := ctx.peak
	found, err := bundle.Verify(ctx, dir, w.GOSUMDB())
	if err != nil || len(found) < 2*n {
		t.Errorf("found %d problems, error %v", len(found), err)
	}
	if grown := ctx.peak - before; grown > 6<<20 { // the records have 50 MB
		t.Errorf("%d bytes are in use", grown)
	}
}

// A watch is a context that keeps the largest amount of memory that was in use when it was asked for its error.
type watch struct {
	context.Context
	peak uint64
}

func (w *watch) Err() error {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	w.peak = max(w.peak, m.HeapAlloc)
	return w.Context.Err()
}

// TestTooMuchToRead has bundles that are small, and would take hours or gigabytes.
func TestTooMuchToRead(t *testing.T) {
	w := newWorld(t)
	dir := w.bundle(mainMod, "b", bundle.Options{})
	if err := os.Truncate(filepath.Join(dir, "example.com/a/@v/v1.0.0.zip"), modzip.MaxZipFile+1); err != nil {
		t.Skip(err)
	}
	if found := w.problems(dir); !strings.HasSuffix(found["example.com/a/@v/v1.0.0.zip"], fmt.Sprintf("at most %d are read", modzip.MaxZipFile)) {
		t.Errorf("found %v", found)
	}

	good := read(t, w.bundle(mainMod, "b.zip", bundle.Options{}))
	le := binary.LittleEndian
	const entries = 6<<16 + 1 // of which 16 bits say that it is one
	entry := append([]byte("PK\x01\x02"), make([]byte, 42)...)
	many := bytes.Repeat(entry, entries)
	end := func(entries uint16, length, start uint32) string {
		b := le.AppendUint16(le.AppendUint16([]byte("PK\x05\x06\x00\x00\x00\x00"), entries), entries)
		return string(le.AppendUint16(le.AppendUint32(le.AppendUint32(b, length), start), 0))
	}
	end64 := func(at, entries, length, start uint64) string {
		b := append([]byte("PK\x06\x06"), make([]byte, 28)...)
		b = le.AppendUint64(le.AppendUint64(le.AppendUint64(b, entries), length), start)
		return string(le.AppendUint32(le.AppendUint64(append(b, "PK\x06\x07\x00\x00\x00\x00"...), at), 1))
	}
	stored := func(n int) string { // n entries for the content of the first one
		var buf bytes.Buffer
		z := zip.NewWriter(&buf)
		for i := range n {
			f, err := z.CreateRaw(&zip.FileHeader{Name: fmt.Sprintf("%03d", i), CompressedSize64: 10000, UncompressedSize64: 10000})
			if err != nil {
				t.Fatal(err)
			}
			if i == n-1 {
				f.Write(make([]byte, 10000))
			}
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		return buf.String()
	}
	all := end(65535, 1<<32-1, 1<<32-1)
	for name, test := range map[string]struct{ content, want string }{
		"many entries":               {string(many) + end(1, uint32(len(many)), 0), "bytes are read"},
		"many that it is silent of":  {string(many) + end(1, 46, 0), "not a valid zip file"},
		"more than fit":              {string(many) + end(2, 46, uint32(len(many)-46)), "bytes are read"},
		"many in zip64":              {string(many) + end64(uint64(len(many)), entries, uint64(len(many)), 0) + all, "bytes are read"},
		"zip64, with a lie in it":    {string(many) + end64(uint64(len(many)), 1<<40, 46, uint64(len(many)-46)) + all, "bytes are read"},
		"zip64, and smaller numbers": {string(many) + end64(uint64(len(many)), 0, 0, uint64(len(many))) + end(65535, uint32(len(many)), 0), "not a valid zip file"},
		"zip64 elsewhere": {string(many) + end64(0, entries, uint64(len(many)), 0)[:56] + end64(uint64(len(many)), 0, 0, uint64(len(many)+56)) + all,
			"not a valid zip file"},
		"a comment":          {string(good[:len(good)-2]) + "\x01\x00x", "not a valid zip file"},
		"one over the other": {stored(20), "one over the other"},
		"cut short":          {string(good[:50]), "not a valid zip file"},
		"empty":              {"", "not a valid zip file"},
	} {
		file := filepath.Join(t.TempDir(), "b.zip")
		write(t, file, test.content)
		_, err := bundle.Verify(t.Context(), file, w.GOSUMDB())
		if err == nil || !strings.Contains(err.Error(), "is no bundle: ") || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %q", name, err, test.want)
		}
	}
}

// TestAZipWithManyFiles has more of them than the end record has room for.
func TestAZipWithManyFiles(t *testing.T) {
	w := newWorld(t)
	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	for i := range 66_000 {
		if _, err := z.CreateHeader(&zip.FileHeader{Name: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if f, err := z.CreateHeader(&zip.FileHeader{Name: "SHA256SUMS"}); err != nil || f == nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "b.zip")
	write(t, name, buf.String())
	if found := w.problems(name); len(found) != 66_000+1 { // and the head
		t.Errorf("found %d problems", len(found))
	}
}

func TestEmptyDirectories(t *testing.T) {
	w := newWorld(t)
	dir := w.bundle(mainMod, "b", bundle.Options{})
	const name = "example.com/a/pkg/@v/list" // which the go command cannot read
	mkdir(t, dir, name)
	if found := w.problems(dir); len(found) != 1 || found[name] == "" {
		t.Errorf("found %v", found)
	}
}

func TestNoBundle(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "mine"), "mine")
	if _, err := bundle.Verify(t.Context(), dir, w.GOSUMDB()); err == nil || !strings.Contains(err.Error(), dir+" is no bundle") {
		t.Errorf("error %v", err)
	}
	for _, name := range []string{dir, filepath.Join(dir, "mine"), filepath.Join(dir, "nothing")} {
		if _, err := bundle.Head(name); err == nil || strings.Count(err.Error(), name) != 1 {
			t.Errorf("error %v", err)
		}
	}
}

// TestOddFiles has files that can be no part of a bundle.
func TestOddFiles(t *testing.T) {
	w := newWorld(t)
	dir := w.bundle(mainMod, "b", bundle.Options{})
	list := filepath.Join(dir, "example.com/a/@v/list")
	if err := os.Rename(list, filepath.Join(filepath.Dir(dir), "list")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(filepath.Dir(dir), "list"), list); err != nil {
		t.Skip(err)
	}
	if found := w.problems(dir); found["example.com/a/@v/list"] == "" {
		t.Errorf("found %v", found)
	}
}
