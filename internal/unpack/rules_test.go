package unpack_test

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/modfetch/modfetch/internal/unpack"
	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/dirhash"
	modzip "golang.org/x/mod/zip"
)

// TestNames holds names against the rules for module zips, each beside the nearest one that is allowed. That x/mod agrees
// shows that the rules are the go command's.
func TestNames(t *testing.T) {
	for _, test := range []struct {
		name  string
		files []string // in the order of the zip
		want  string   // in the error; "" if allowed
	}{
		{"prefix", []string{in + "m.go"}, ""},
		{"no prefix", []string{"m.go"}, "prefix"},
		{"another module", []string{in + "m.go", "example.com/n@v1.0.0/m.go"}, "prefix"},
		{"another version", []string{in + "m.go", "example.com/m@v1.0.1/m.go"}, "prefix"},
		{"a longer version", []string{"example.com/m@v1.0.0-rc.1/m.go"}, "prefix"},
		{"upper-case prefix", []string{"example.com/M@v1.0.0/m.go"}, "prefix"},
		{"absolute", []string{"/" + in + "m.go"}, "prefix"},
		{"no name", []string{""}, "prefix"},

		{"two dots in a name", []string{in + "a..b"}, ""},
		{"parent directory", []string{in + "../m.go"}, "invalid path element"},
		{"parent directory within", []string{in + "a/../m.go"}, "clean"},
		{"parent directory at the end", []string{in + "a/.."}, "clean"},
		{"current directory", []string{in + "./m.go"}, "clean"},
		{"double slash", []string{in + "a//m.go"}, "clean"},
		{"absolute below the prefix", []string{in + "/m.go"}, "empty path element"},

		{"letters", []string{in + "ünïcode.txt"}, ""},
		{"punctuation", []string{in + "a b(1).txt"}, ""},
		{"backslash", []string{in + `a\m.go`}, "invalid char"},
		{"colon", []string{in + "c:m.go"}, "invalid char"},
		{"asterisk", []string{in + "*.go"}, "invalid char"},
		{"quote", []string{in + "it's"}, "invalid char"},
		{"newline", []string{in + "a\nb"}, "invalid char"},
		{"NUL", []string{in + "a\x00b"}, "invalid char"},
		{"emoji", []string{in + "🙂.go"}, "invalid char"},
		{"invalid UTF-8", []string{in + "a\xff.go"}, "UTF-8"},

		{"dot first", []string{in + ".github/x"}, ""},
		{"trailing dot", []string{in + "a."}, "trailing dot"},
		{"trailing dot of a directory", []string{in + "a./m.go"}, "trailing dot"},
		{"three dots", []string{in + ".../m.go"}, "invalid path element"},
		{"like a Windows device", []string{in + "auxiliary.go", in + "com10"}, ""},
		{"Windows device", []string{in + "aux.go"}, "Windows"},
		{"Windows device as a directory", []string{in + "NUL/m.go"}, "Windows"},
		{"Windows device before two dots", []string{in + "com1.tar.gz"}, "Windows"},

		{"names that differ", []string{in + "a.go", in + "b.go"}, ""},
		{"same name", []string{in + "a.go", in + "a.go"}, "multiple entries"},
		{"case", []string{in + "a.go", in + "A.go"}, "case-insensitive"},
		{"case of a directory", []string{in + "a/x.go", in + "A/y.go"}, "case-insensitive"},
		{"case beyond ASCII", []string{in + "ß", in + "ẞ"}, "case-insensitive"},
		{"kelvin sign", []string{in + "k", in + "\u212a"}, "case-insensitive"},
		{"file, then directory", []string{in + "a", in + "a/m.go"}, "both a file and a directory"},
		{"directory, then file", []string{in + "a/m.go", in + "a"}, "both a file and a directory"},
		{"directory entry and file", []string{in + "a/", in + "a"}, "both a file and a directory"},
		{"directory entry twice", []string{in + "a/", in + "a/", in + "a/m.go"}, ""},
		{"prefix twice", []string{in, in, in + "m.go"}, ""},
		{"directory entry that is not clean", []string{in + "a//"}, "clean"},

		{"go.mod", []string{in + "go.mod"}, ""},
		{"go.mod directory", []string{in + "go.mod/m.go"}, ""},
		{"go.mod in a subdirectory", []string{in + "sub/go.mod"}, "not in module root"},
		{"GO.MOD in a subdirectory", []string{in + "sub/GO.MOD"}, "not in module root"},
		{"Go.mod", []string{in + "Go.mod"}, "lowercase"},
		{"GO.MOD", []string{in + "GO.MOD"}, "lowercase"},
		{"vendored", []string{in + "vendor/example.com/x/x.go"}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			var entries []entry
			for _, name := range test.files {
				entries = append(entries, entry{name: name, stored: true})
			}
			refuses(t, writeZip(t, entries...), moduleM, test.want)
		})
	}
}

// TestFold tries all letters: those get the same spelling that strings.EqualFold takes for equal, and only those.
func TestFold(t *testing.T) {
	first := make(map[string]string)
	for r := range rune(0x20000) { // beyond, none have case
		s := "a/" + string(r)
		folded := unpack.Fold(s)
		other, ok := first[folded]
		if !ok {
			first[folded] = s
		} else if !strings.EqualFold(s, other) && r != utf8.RuneError && utf8.ValidRune(r) {
			t.Errorf("%q and %q are both %q", s, other, folded)
		}
		if next := "a/" + string(unicode.SimpleFold(r)); unpack.Fold(next) != folded {
			t.Errorf("%q is %q, and %q is %q", s, folded, next, unpack.Fold(next))
		}
	}
}

// refuses checks that a zip is refused with an error that contains want, or accepted if want is "", and that x/mod does the
// same.
func refuses(t *testing.T, data []byte, m module.Version, want string) {
	t.Helper()
	err := verdict(t, data, m)
	switch {
	case want == "" && err != nil:
		t.Errorf("refused: %v", err)
	case want != "" && err == nil:
		t.Error("accepted")
	case want != "" && (!errors.Is(err, unpack.ErrMalformed) || !strings.Contains(err.Error(), want)):
		t.Errorf("error %q, want one that is ErrMalformed and says %q", err, want)
	}
}

// verdict holds a zip against the rules, and checks that x/mod comes to the same end.
func verdict(t *testing.T, data []byte, m module.Version) error {
	t.Helper()
	f := open(t, data)
	checked, theirs := modzip.CheckZip(m, f.Name())
	if theirs == nil {
		theirs = checked.Err()
	}
	a, err := openChecked(t, f, int64(len(data)), m)
	if (err == nil) != (theirs == nil) {
		t.Errorf("error %v, but x/mod has %v", err, theirs)
	}
	if a != nil && err != nil {
		if _, hashErr := a.Hash(t.Context(), newSlots(t)); hashErr == nil || hashErr.Error() != err.Error() {
			t.Errorf("error %v of Hash, want %v", hashErr, err)
		}
	}
	return err
}

// TestDirectories tries as many directories as are accepted, and one more.
func TestDirectories(t *testing.T) {
	var entries []entry
	for i := range 64 {
		entries = append(entries, entry{name: fmt.Sprint(in, i, strings.Repeat("/a", 1023), "/b"), stored: true})
	}
	refuses(t, writeZip(t, entries...), moduleM, "")
	data := writeZip(t, append(entries, entry{name: in + "one/more", stored: true})...)
	if _, err := openChecked(t, open(t, data), int64(len(data)), moduleM); !errors.Is(err, unpack.ErrMalformed) || !strings.Contains(err.Error(), "65536 directories") {
		t.Errorf("error %v, want ErrMalformed that says how many directories are accepted", err)
	}
}

func TestModules(t *testing.T) {
	for _, test := range []struct {
		name string
		m    module.Version
		want string
	}{
		{"upper case", module.Version{Path: "example.com/Upper", Version: "v1.0.0-RC1"}, ""},
		{"incompatible", module.Version{Path: "example.com/m", Version: "v2.0.0+incompatible"}, ""},
		{"version not canonical", module.Version{Path: "example.com/m", Version: "v1.0"}, "not canonical"},
		{"version of another major", module.Version{Path: "example.com/m/v2", Version: "v1.0.0"}, "v2"},
		{"malformed path", module.Version{Path: "example.com/m m", Version: "v1.0.0"}, "invalid char"},
	} {
		t.Run(test.name, func(t *testing.T) {
			refuses(t, writeZip(t, entry{name: test.m.String() + "/m.go"}), test.m, test.want)
		})
	}
}

func TestSizes(t *testing.T) {
	declare := func(n uint64) func(*zip.FileHeader) { return func(h *zip.FileHeader) { h.UncompressedSize64 = n } }
	for _, test := range []struct {
		name    string
		entries []entry
		want    string
	}{
		{"go.mod of 16 MiB", []entry{{name: in + "go.mod", lie: declare(16 << 20)}}, ""},
		{"go.mod of 17 MiB", []entry{{name: in + "go.mod", data: string(make([]byte, 17<<20))}}, "go.mod file too large"},
		{"LICENSE of 17 MiB", []entry{{name: in + "LICENSE", lie: declare(17 << 20)}}, "LICENSE file too large"},
		{"LICENSE of 17 MiB below", []entry{{name: in + "sub/LICENSE", lie: declare(17 << 20)}}, ""},
		{"500 MiB", []entry{{name: in + "a", lie: declare(250 << 20)}, {name: in + "b", lie: declare(250 << 20)}}, ""},
		{"more than 500 MiB", []entry{{name: in + "a", lie: declare(250 << 20)}, {name: in + "b", lie: declare(250<<20 + 1)}}, "too large"},
		{"more than 500 MiB at once", []entry{{name: in + "a", lie: declare(500<<20 + 1)}}, "too large"},
		{"more than 4 GiB", []entry{{name: in + "a", lie: declare(1 << 33)}}, "too large"},
		{"negative", []entry{{name: in + "a", lie: declare(1<<64 - 1)}}, "too large"},
	} {
		t.Run(test.name, func(t *testing.T) { refuses(t, writeZip(t, test.entries...), moduleM, test.want) })
	}
	t.Run("file of more than 500 MiB", func(t *testing.T) {
		data := writeZip(t, entry{name: in + "a"})
		f := open(t, data)
		// The file is sparse: its directory lies at its end.
		big, err := os.Create(f.Name() + ".big")
		if err != nil {
			t.Fatal(err)
		}
		defer big.Close()
		const at = 500 << 20
		if _, err := big.WriteAt(data, at); err != nil {
			t.Fatal(err)
		}
		if _, err := openChecked(t, big, at+int64(len(data)), moduleM); !errors.Is(err, unpack.ErrMalformed) || !strings.Contains(err.Error(), "too large") {
			t.Errorf("error %v, want one that says it is too large", err)
		}
	})
}

// TestNoZip tries what mirrors answer instead of a zip.
func TestNoZip(t *testing.T) {
	good := writeZip(t, entry{name: in + "m.go", data: "package m\n"}, entry{name: in + "n.go", data: "package n\n"})
	for _, test := range []struct {
		name string
		data []byte
	}{
		{"nothing", nil},
		{"one byte", []byte("P")},
		{"a page", []byte("<!DOCTYPE html>\n<html><body><h1>Sign in to the network</h1></body></html>\n")},
		{"text", []byte("not found: module example.com/m: no matching versions\n")},
		{"noise", bytes.Repeat([]byte{0xa5, 0x5a, 0x00, 0xff}, 50000)},
		{"a signature alone", []byte("PK\x05\x06")},
		{"the first half", good[:len(good)/2]},
		{"all but the last byte", good[:len(good)-1]},
		{"all but the end record", good[:len(good)-22]},
		{"the end record without what it speaks of", good[len(good)-22:]},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := openChecked(t, open(t, test.data), int64(len(test.data)), moduleM)
			if !errors.Is(err, unpack.ErrMalformed) {
				t.Errorf("error %v, want ErrMalformed", err)
			}
		})
	}
}

// TestDamagedEntries tries zips whose directory keeps all rules.
func TestDamagedEntries(t *testing.T) {
	text := strings.Repeat("package m // and so on\n", 10000)
	good := writeZip(t, entry{name: in + "m.go", data: text})
	change := func(at int, b byte) []byte {
		data := bytes.Clone(good)
		data[at] ^= b
		return data
	}
	lie := func(stored bool, lie func(*zip.FileHeader)) []byte {
		return writeZip(t, entry{name: in + "a", data: "first"}, entry{name: in + "m.go", data: text, stored: stored, lie: lie}, entry{name: in + "z", data: "last"})
	}
	localName := bytes.Index(good, []byte("m.go"))
	directory := bytes.LastIndex(good, []byte("PK\x01\x02"))
	for _, test := range []struct {
		name string
		data []byte
	}{
		{"more data than declared", lie(false, func(h *zip.FileHeader) { h.UncompressedSize64-- })},
		{"far more data than declared", lie(false, func(h *zip.FileHeader) { h.UncompressedSize64 = 1 })},
		{"more stored data than declared", lie(true, func(h *zip.FileHeader) { h.UncompressedSize64-- })},
		{"less data than declared", lie(false, func(h *zip.FileHeader) { h.UncompressedSize64++ })},
		{"less stored data than declared", lie(true, func(h *zip.FileHeader) { h.UncompressedSize64++ })},
		{"wrong CRC", lie(false, func(h *zip.FileHeader) { h.CRC32 ^= 1 })},
		{"wrong CRC of stored data", lie(true, func(h *zip.FileHeader) { h.CRC32 ^= 1 })},
		{"compressed size too small", lie(false, func(h *zip.FileHeader) { h.CompressedSize64 = 10 })},
		{"stored and said to be deflated", lie(true, func(h *zip.FileHeader) { h.Method = zip.Deflate })},
		{"unknown method", lie(false, func(h *zip.FileHeader) { h.Method = 99 })},
		{"no local header", change(0, 0xff)},
		{"first deflated byte", change(localName+len("m.go"), 0x07)},
		{"local header elsewhere", func() []byte {
			data := bytes.Clone(good)
			binary.LittleEndian.PutUint32(data[directory+42:], 7)
			return data
		}()},
		{"local header behind the end", func() []byte {
			data := bytes.Clone(good)
			binary.LittleEndian.PutUint32(data[directory+42:], 1<<30)
			return data
		}()},
		{"local header before the file", at64(good, 1<<64-1)},
		{"local header behind any file", at64(good, 1<<62)},
		{"local header at the end of all numbers", at64(good, 1<<63-1)},
		{"data of a directory", writeZip(t, entry{name: in + "d/", data: "x", stored: true}, entry{name: in + "m.go", data: text})},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := open(t, test.data)
			if sum, err := dirhash.HashZip(f.Name(), dirhash.Hash1); err == nil {
				t.Errorf("x/mod takes no offence: %s", sum)
			}
			a, err := unpack.Open(f, int64(len(test.data)), moduleM)
			if err != nil {
				t.Fatalf("the directory is refused: %v", err)
			}
			s := newSlots(t)
			if sum, err := a.Hash(t.Context(), s); sum != "" || !errors.Is(err, unpack.ErrMalformed) || !strings.Contains(err.Error(), in) {
				t.Errorf("Hash is %q, %v, want ErrMalformed that names the entry", sum, err)
			}
			if sum, err := a.Extract(t.Context(), s, t.TempDir()); sum != "" || !errors.Is(err, unpack.ErrMalformed) || !strings.Contains(err.Error(), in) {
				t.Errorf("Extract's sum is %q, %v, want ErrMalformed that names the entry", sum, err)
			}
		})
	}
}

// at64 moves the local header of a zip's only entry by a zip64 field.
func at64(data []byte, offset uint64) []byte {
	end := endOf(data)
	at := int(binary.LittleEndian.Uint32(end[16:]))
	header := bytes.Clone(data[at : len(data)-22])
	binary.LittleEndian.PutUint32(header[42:], 0xffffffff)
	binary.LittleEndian.PutUint16(header[30:], 12)
	header = append(header, 1, 0, 8, 0)
	header = binary.LittleEndian.AppendUint64(header, offset)
	return slices.Concat(data[:at], header, endRecord(1, len(header), at))
}

func TestModes(t *testing.T) {
	data := writeZip(t,
		entry{name: in + "executable", data: "#!", mode: 0o755},
		entry{name: in + "link", data: "/etc/passwd", mode: fs.ModeSymlink | 0o777},
		entry{name: in + "pipe", mode: fs.ModeNamedPipe | 0o666},
		entry{name: in + "d/setuid", data: "x", mode: fs.ModeSetuid | 0o777})
	a, err := openChecked(t, open(t, data), int64(len(data)), moduleM)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if _, err := a.Extract(t.Context(), newSlots(t), dir); err != nil {
		t.Fatal(err)
	}
	got := tree(t, dir)
	for name, what := range map[string]string{"executable": "#!", "link": "/etc/passwd", "pipe": "", "d/setuid": "x"} {
		if want := "-r--r--r-- " + what; got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
}
