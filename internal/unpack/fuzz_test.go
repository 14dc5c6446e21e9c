package unpack_test

import (
	"archive/zip"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/modfetch/modfetch/internal/unpack"
	"golang.org/x/mod/sumdb/dirhash"
	modzip "golang.org/x/mod/zip"
	"golang.org/x/sync/semaphore"
)

// seeds are small zips of all shapes.
func seeds(t testing.TB) [][]byte {
	plain := writeZip(t, entry{name: in + "go.mod", data: "module example.com/m\n"}, entry{name: in + "a/b.go", data: "package b\n", stored: true})
	dirs := writeZip(t, entry{name: in, stored: true}, entry{name: in + "a/", stored: true}, entry{name: in + "a/x", data: "xxxxxxxxxxxxxxxxxxxxxxx"})
	return [][]byte{
		plain, dirs, writeZip(t),
		as64(plain, nil), as64(dirs, nil),
		withComment(plain, "a comment"),
		append([]byte("prepended"), plain...),
		described(t, in+"go.mod", in+"A/b.go", in+"a/c.go"),
		slices.Concat(plain[:len(plain)-22], make([]byte, 9), plain[len(plain)-22:]),
	}
}

// check holds what is made of one file against archive/zip and x/mod. The file is overwritten.
func check(t *testing.T, name string, data []byte) {
	if err := os.WriteFile(name, data, 0o666); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size := int64(len(data))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	a, err := openChecked(t, f, size, moduleM)
	runtime.ReadMemStats(&after)
	// For each byte of the directory there are a few of memory, and some are needed for any file.
	if n := after.TotalAlloc - before.TotalAlloc; n > 4<<20+64*uint64(size) {
		t.Errorf("Open allocates %d bytes for a file of %d", n, size)
	}
	z, theirs := zip.NewReader(f, size)
	if theirs == nil {
		_, theirs = modzip.CheckZip(moduleM, name)
	}
	if err != nil {
		if !errors.Is(err, unpack.ErrMalformed) {
			t.Errorf("error %v is not ErrMalformed", err)
		}
		if _, damaged := dirhash.HashZip(name, dirhash.Hash1); theirs == nil && damaged == nil && !stricter(err) {
			t.Errorf("refused: %v", err)
		}
		return
	}
	if theirs != nil {
		t.Fatalf("accepted, but x/mod has %v", theirs)
	}
	got, err := a.Entries()
	if err != nil || !slices.EqualFunc(got, z.File, func(a, b *zip.File) bool { return reflect.DeepEqual(a.FileHeader, b.FileHeader) }) {
		t.Errorf("%d entries are read, %v; archive/zip has %d", len(got), err, len(z.File))
	}

	slots := semaphore.NewWeighted(2)
	sum, err := a.Hash(t.Context(), slots)
	want, wantErr := dirhash.HashZip(name, dirhash.Hash1)
	if (err == nil) != (wantErr == nil) || sum != want {
		t.Errorf("Hash is %q, %v; x/mod has %q, %v", sum, err, want, wantErr)
	}
	if err != nil && !errors.Is(err, unpack.ErrMalformed) {
		t.Errorf("error %v is not ErrMalformed", err)
	}
	if err == nil {
		ours, theirs := t.TempDir(), t.TempDir()
		if got, err := a.Extract(t.Context(), slots, ours); err != nil || got != want {
			t.Errorf("Extract's sum is %s, %v; want %s", got, err, want)
		}
		if err := modzip.Unzip(theirs, moduleM, name); err != nil {
			t.Errorf("x/mod does not extract it: %v", err)
		}
		if diff := differ(tree(t, ours), tree(t, theirs)); diff != "" {
			t.Errorf("the trees differ:\n%s", diff)
		}
	}
	if !slots.TryAcquire(2) {
		t.Error("slots were not given back")
	}
}

// stricter reports whether a zip was refused by a rule that x/mod does not have.
func stricter(err error) bool {
	for _, rule := range []string{"overlap", "does not lie", "cut short", "at most"} {
		if strings.Contains(err.Error(), rule) {
			return true
		}
	}
	return false
}

func FuzzOpen(f *testing.F) {
	for _, seed := range seeds(f) {
		f.Add(seed)
	}
	name := filepath.Join(f.TempDir(), "fuzz.zip")
	f.Fuzz(func(t *testing.T, data []byte) { check(t, name, data) })
}

// FuzzNames holds lists of names, one a line, against x/mod.
func FuzzNames(f *testing.F) {
	f.Add("a/b.go\na/c/d.go\nGO.MOD")
	f.Add("a/B\nA/c\nk\n\u212a\n\u017f\nSS\nß")
	f.Add("a\na/\na/b/\na/b\n\n/\n../x\ncon.txt")
	f.Fuzz(func(t *testing.T, text string) {
		var entries []entry
		for name := range strings.SplitSeq(text, "\n") {
			entries = append(entries, entry{name: in + name, stored: true})
		}
		verdict(t, writeZip(t, entries...), moduleM)
	})
}

// TestMutatedZips is what a fuzzer does, in little and always the same.
func TestMutatedZips(t *testing.T) {
	name := filepath.Join(t.TempDir(), "mutated.zip")
	all := seeds(t)
	for seed := range uint64(1500) {
		r := rand.New(rand.NewPCG(seed, 1))
		data := append([]byte(nil), all[r.IntN(len(all))]...)
		for range 1 + r.IntN(4) {
			if len(data) == 0 {
				break
			}
			// Most of what matters lies at the end.
			at := len(data) - 1 - r.IntN(len(data))
			if r.IntN(2) == 0 {
				at = len(data) - 1 - r.IntN(min(len(data), 100))
			}
			switch r.IntN(6) {
			case 0:
				data[at] ^= 1 << r.IntN(8)
			case 1:
				data[at] = byte(r.Uint32())
			case 2:
				for i := at; i < min(at+1+r.IntN(8), len(data)); i++ {
					data[i] = 0xff
				}
			case 3:
				for i := at; i < min(at+1+r.IntN(8), len(data)); i++ {
					data[i] = 0
				}
			case 4:
				data = data[:at]
			case 5:
				n := min(len(data)-at, 1+r.IntN(64))
				data = append(data[:at:at], append(append([]byte(nil), data[at:at+n]...), data[at:]...)...)
			}
		}
		check(t, name, data)
		if t.Failed() {
			t.Fatalf("seed %d: %q", seed, data)
		}
	}
}
