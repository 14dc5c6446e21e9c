package modfetch_test

import (
	"bytes"
	"compress/flate"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/modfetchtest"
	"golang.org/x/mod/module"
)

// A bomb is a zip that a mirror sends to do harm.
type bomb struct {
	name string
	zip  func(m module.Version) []byte
	says string // in the error
}

// bombs break a bound or a rule.
var bombs = []bomb{
	{"3,000,000 empty entries", emptyEntries(3_000_000, 3_000_000), "states 3000000 entries"},
	{"3,000,000 empty entries that are not stated", emptyEntries(3_000_000, 0), "goes on beyond 131072 entries"},
	{"600 GiB declared", entries(151, func(i int) rawEntry {
		return rawEntry{name: strconv.Itoa(i), data: "x", declared: 1<<32 - 2}
	}), "too large"},
	{"more data than declared", entries(1, func(int) rawEntry {
		return rawEntry{name: "zeros", data: deflated(make([]byte, 8<<20)), method: 8, declared: 10}
	}), "not a valid zip file"},
	{"1,000 entries of the same bytes", sameBytes(strings.Repeat("x", 100_000)), "overlap"},
	{"1,000 entries of the same header", sameBytes(""), "overlap"},
	{"entries within entries", func(m module.Version) []byte {
		var z rawZip
		var at []int
		for i := range 100 {
			at = append(at, z.local(rawEntry{name: fmt.Sprintf("%s/%02d", m, i), data: "x"}))
		}
		all := string(z.data)
		for i := range 100 {
			name := fmt.Sprintf("%s/%02d", m, i)
			z.list(rawEntry{name: name, data: all[at[i]+30+len(name):]}, at[i])
		}
		return z.bytes()
	}, "overlap"},
	{"the central directory within an entry", func(m module.Version) []byte {
		var z rawZip
		z.list(rawEntry{name: m.String() + "/a", data: "x" + strings.Repeat("y", 20)}, z.local(rawEntry{name: m.String() + "/a", data: "x"}))
		return z.bytes()
	}, "does not lie before the central directory"},
	{"files that differ in case", named("a/b.go", "a/B.go"), "case-insensitive collision"},
	{"directories that differ in case", named("a/b/x.go", "a/c/y.go", "A/b/z.go"), "case-insensitive collision"},
	{"names that differ in case beyond ASCII", named("straſe", "strase"), "case-insensitive collision"},
	{"../ as the last of 10,000 entries", lastOf10000("../../../../../../evil"), `invalid path element ".."`},
	{"../ within the last of 10,000 names", lastOf10000("a/../../evil"), "not clean"},
	{"100,000 bad names", entries(100_000, func(i int) rawEntry { return rawEntry{name: strconv.Itoa(i) + "*"} }), "invalid char"},
	{"300,000 directories", entries(300, func(i int) rawEntry {
		return rawEntry{name: fmt.Sprintf("%d%s/f", i, strings.Repeat("/a", 999))}
	}), "at most 65536 directories"},
	{"a path longer than a path may be", named("a.go", strings.Repeat("d/", 2000)+"f"), "checksum mismatch"},
	{"a name too long for the disk", named("a.go", strings.Repeat("x", 300)), "malformed module zip: file name too long"},
}

// largest keep all rules and lie just within the bounds, each with as much of one thing as is accepted: so only their hashes
// condemn them.
var largest = []bomb{
	{"most entries", entries(1<<17, func(i int) rawEntry { return rawEntry{name: strconv.Itoa(i)} }), "checksum mismatch"},
	{"most entries with the longest names", entries(1<<17, func(i int) rawEntry { return rawEntry{name: fmt.Sprintf("%0130d", i)} }), "checksum mismatch"},
	{"most entries with capitals", entries(1<<17, func(i int) rawEntry { return rawEntry{name: fmt.Sprintf("%d%s", i, strings.Repeat("Ä", 62))} }), "checksum mismatch"},
	{"longest names", entries(3800, func(i int) rawEntry {
		return rawEntry{name: fmt.Sprintf("%d%s", i, strings.Repeat("/"+strings.Repeat("A", 230), 17))}
	}), "checksum mismatch"},
	{"deepest names", entries(32, func(i int) rawEntry { return rawEntry{name: fmt.Sprintf("%d%s", i, strings.Repeat("/A", 2000))} }), "checksum mismatch"},
	{"most directories", entries(1<<16, func(i int) rawEntry { return rawEntry{name: fmt.Sprintf("%d/f", i)} }), "checksum mismatch"},
	{"longest comments", entries(255, func(i int) rawEntry {
		return rawEntry{name: strconv.Itoa(i), comment: strings.Repeat("c", 65_000), extra: strings.Repeat("e", 65_000)}
	}), "checksum mismatch"},
}

// TestBombs has the first of two mirrors send a bomb. go.sum vouches for the other's zip, and once the checksum database.
func TestBombs(t *testing.T) {
	for _, b := range bombs {
		t.Run(b.name, func(t *testing.T) {
			if strings.Contains(b.says, "too long") && runtime.GOOS == "windows" {
				t.Skip("Windows says so in another way")
			}
			fetchBehind(t, b, true)
		})
	}
	t.Run("without go.sum", func(t *testing.T) { fetchBehind(t, bombs[2], false) })
}

// fetchBehind fetches a module of which the first mirror sends a bomb.
func fetchBehind(t *testing.T, b bomb, inGoSum bool) {
	good := newWorld(t)
	bad := good.Mirror()
	bad.Fault("*.zip", sendsZip(b.zip(moduleM)))
	top := tempDir(t)
	modCache, temp := filepath.Join(top, "outer", "mod"), filepath.Join(top, "temp")
	for _, dir := range []string{modCache, temp} {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("TMPDIR", temp)
	lines, voucher := "", databaseOf(good)
	if inGoSum {
		lines, voucher = good.GoSum(moduleM.Path, moduleM.Version), "go.sum"
	}
	sums, err := modfetch.ParseGoSum("go.sum", []byte(lines))
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var attempts []modfetch.AttemptInfo
	var vouched []string
	trace := &modfetch.Trace{
		AttemptDone: func(_ context.Context, i modfetch.AttemptInfo) {
			mu.Lock()
			defer mu.Unlock()
			switch {
			case !strings.HasSuffix(i.Path, ".zip"):
			case i.Offset > 0: // a part, which a slow machine asks for, and these mirrors do not send
				if i.Kind != modfetch.Transient {
					t.Errorf("a part: %+v", i)
				}
			default:
				attempts = append(attempts, i)
			}
		},
		Vouched: func(_ context.Context, i modfetch.VouchInfo) {
			mu.Lock()
			defer mu.Unlock()
			vouched = append(vouched, i.By)
		},
	}
	f, err := modfetch.New(modfetch.WithGoSum(sums), modfetch.WithSumDB(good.GOSUMDB()), modfetch.WithTrace(trace),
		modfetch.WithGOPROXY(bad.URL+"|"+good.URL), modfetch.WithModCache(modCache))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Dir(t.Context(), moduleM); err != nil {
		t.Fatal(err)
	}
	if len(attempts) != 2 || attempts[0].Mirror != bad.URL || attempts[0].Kind != modfetch.Corrupt ||
		!strings.Contains(attempts[0].Err.Error(), b.says) || attempts[1].Mirror != good.URL || attempts[1].Err != nil {
		t.Errorf("attempts %+v, want one at %s that says %q and a good one at %s", attempts, bad.URL, b.says, good.URL)
	}

	if !slices.Equal(vouched, []string{voucher}) {
		t.Errorf("%q vouched, want %s", vouched, voucher)
	}
	honest, want := newFetcher(t, good.Options()...)
	if _, err := honest.Dir(t.Context(), moduleM); err != nil {
		t.Fatal(err)
	}
	if diff := diffTrees(t, modCache, want); diff != "" {
		t.Errorf("the module cache is not that of an honest mirror:\n%s", diff)
	}
	for name := range snapshot(t, top) {
		if !strings.HasPrefix(name, "outer/mod/") && !slices.Contains([]string{".", "outer", "outer/mod", "temp"}, name) {
			t.Errorf("written outside of the module cache: %s", name)
		}
	}
}

// maxPeak is what a process may take in memory, whatever mirrors send.
const maxPeak = 96 << 10 // KiB

// TestBombMemory measures processes that download modules of which the first mirror sends bombs.
func TestBombMemory(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("the memory of a process is read from /proc")
	}
	program := filepath.Join(t.TempDir(), "peak")
	cmd := exec.CommandContext(t.Context(), needGo(t), "build", "-o", program, "./testdata/peak")
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOPROXY=off", "GOTOOLCHAIN=local")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	measure := func(t *testing.T, b bomb, n int, flags ...string) {
		good := modfetchtest.NewServer(t, nil)
		data := b.zip(module.Version{Path: "example.com/m0", Version: "v1.0.0"})
		var mirrors, modules []string
		for i := range n {
			path := "example.com/m" + strconv.Itoa(i)
			good.Add(modfetchtest.NewModule(path, "v1.0.0").File("m.go", "package m\n"))
			modules = append(modules, path+"@v1.0.0")
			bad := good.Mirror() // a mirror of its own for each, because one that sends many bombs is given up
			bad.Fault("*.zip", modfetchtest.Status(404))
			sent := data
			if i > 0 {
				sent = bytes.ReplaceAll(data, []byte("example.com/m0@"), []byte(path+"@"))
			}
			bad.Fault("/"+path+"/@v/v1.0.0.zip", sendsZip(sent))
			mirrors = append(mirrors, bad.URL)
		}
		args := append(flags, strings.Join(append(mirrors, good.URL), "|"), good.GOSUMDB(), t.TempDir())
		args = append(args, modules...)
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Env = append(os.Environ(), "GOGC=100", "GOMEMLIMIT=off")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%.2000s", err, out)
		}
		if strings.Count(string(out), good.URL) != n || strings.Count(string(out), b.says) != n {
			t.Errorf("not all %d modules are the good mirror's, or of some it was not said that %s:\n%s", n, b.says, out)
		}
		_, report, _ := strings.Cut(string(out), "VmHWM:")
		var peak int // KiB
		if _, err := fmt.Sscan(report, &peak); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Logf("%d MiB for %d zip(s) of %d MiB", peak>>10, n, len(data)>>20)
		if peak > maxPeak {
			t.Errorf("a peak of %d KiB, want at most %d", peak, maxPeak)
		}
	}
	for _, b := range bombs {
		t.Run(b.name, func(t *testing.T) { measure(t, b, 1) })
	}
	for _, b := range largest {
		t.Run(b.name, func(t *testing.T) { measure(t, b, 1, "-zips") })
	}
	t.Run("six at once", func(t *testing.T) { measure(t, largest[1], 6, "-zips") })
}

func sendsZip(data []byte) modfetchtest.Fault {
	return modfetchtest.Handler(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		w.Write(data)
	})
}

// emptyEntries makes a zip of n entries without even a name, of which it states fewer.
func emptyEntries(n, stated int) func(module.Version) []byte {
	return func(module.Version) []byte {
		header := make([]byte, 46)
		copy(header, "PK\x01\x02")
		return append(bytes.Repeat(header, n), endRecords(n*len(header), stated, stated*len(header), 0)...)
	}
}

// entries makes a zip of n entries whose names lack the module's prefix.
func entries(n int, entry func(int) rawEntry) func(module.Version) []byte {
	return func(m module.Version) []byte {
		var z rawZip
		for i := range n {
			e := entry(i)
			e.name = m.String() + "/" + e.name
			z.list(e, z.local(e))
		}
		return z.bytes()
	}
}

func named(names ...string) func(module.Version) []byte {
	return entries(len(names), func(i int) rawEntry { return rawEntry{name: names[i], data: "x"} })
}

func lastOf10000(name string) func(module.Version) []byte {
	return entries(10_000, func(i int) rawEntry {
		if i == 9_999 {
			return rawEntry{name: name, data: "evil"}
		}
		return rawEntry{name: strconv.Itoa(i), data: "x"}
	})
}

// sameBytes makes a zip of 1,000 entries that are all the first one.
func sameBytes(data string) func(module.Version) []byte {
	return func(m module.Version) []byte {
		var z rawZip
		at := z.local(rawEntry{name: m.String() + "/000", data: data})
		for i := range 1000 {
			z.list(rawEntry{name: fmt.Sprintf("%s/%03d", m, i), data: data}, at)
		}
		return z.bytes()
	}
}

func deflated(data []byte) string {
	var b strings.Builder
	w, _ := flate.NewWriter(&b, flate.BestSpeed)
	w.Write(data)
	w.Close()
	return b.String()
}

// A rawZip is a zip that no program for zips would write.
type rawZip struct {
	data, directory []byte
	entries         int
}

// A rawEntry is what a zip says of an entry.
type rawEntry struct {
	name           string
	data           string // as it is in the zip
	method         uint16 // 0 for stored data
	declared       uint32 // bytes, if not those of data
	extra, comment string
}

// local writes an entry's own header and its data, and returns where.
func (z *rawZip) local(e rawEntry) (at int) {
	at = len(z.data)
	h := make([]byte, 30)
	copy(h, "PK\x03\x04")
	binary.LittleEndian.PutUint16(h[26:], uint16(len(e.name)))
	z.data = append(append(append(z.data, h...), e.name...), e.data...)
	return at
}

// list writes an entry's header in the central directory.
func (z *rawZip) list(e rawEntry, at int) {
	h := make([]byte, 46)
	copy(h, "PK\x01\x02")
	binary.LittleEndian.PutUint16(h[10:], e.method)
	binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE([]byte(e.data)))
	binary.LittleEndian.PutUint32(h[20:], uint32(len(e.data)))
	binary.LittleEndian.PutUint32(h[24:], uint32(len(e.data)))
	if e.declared > 0 {
		binary.LittleEndian.PutUint32(h[24:], e.declared)
	}
	binary.LittleEndian.PutUint16(h[28:], uint16(len(e.name)))
	binary.LittleEndian.PutUint16(h[30:], uint16(len(e.extra)))
	binary.LittleEndian.PutUint16(h[32:], uint16(len(e.comment)))
	binary.LittleEndian.PutUint32(h[42:], uint32(at))
	z.directory = append(append(append(append(z.directory, h...), e.name...), e.extra...), e.comment...)
	z.entries++
}

func (z *rawZip) bytes() []byte {
	all := append(z.data, z.directory...)
	return append(all, endRecords(len(all), z.entries, len(z.directory), len(z.data))...)
}

// endRecords returns the end records of a zip64 archive that follow at a place, and what they state of the directory.
func endRecords(at, entries, length, offset int) []byte {
	end := make([]byte, 56+20+22)
	copy(end, "PK\x06\x06")
	binary.LittleEndian.PutUint64(end[32:], uint64(entries))
	binary.LittleEndian.PutUint64(end[40:], uint64(length))
	binary.LittleEndian.PutUint64(end[48:], uint64(offset))
	copy(end[56:], "PK\x06\x07")
	binary.LittleEndian.PutUint64(end[64:], uint64(at))
	end[72] = 1 // disk
	copy(end[76:], "PK\x05\x06\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")
	return end
}
