package unpack_test

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/modfetch/modfetch/internal/unpack"
	"golang.org/x/mod/sumdb/dirhash"
)

// endOf returns the end record of a zip without a comment; writing to it changes the zip.
func endOf(data []byte) []byte { return data[len(data)-22:] }

// withComment returns a zip with a comment.
func withComment(data []byte, comment string) []byte {
	data = append(bytes.Clone(data), comment...)
	binary.LittleEndian.PutUint16(data[len(data)-len(comment)-2:], uint16(len(comment)))
	return data
}

// as64 returns a zip with zip64 records, which edit may change, and whose end record refers to them.
func as64(data []byte, edit func(end64, locator, end []byte)) []byte {
	end := bytes.Clone(endOf(data))
	data = bytes.Clone(data[:len(data)-22])
	end64, locator := end64Record(len(data), int(binary.LittleEndian.Uint16(end[10:])),
		int(binary.LittleEndian.Uint32(end[12:])), int(binary.LittleEndian.Uint32(end[16:])))
	binary.LittleEndian.PutUint16(end[8:], 0xffff)
	binary.LittleEndian.PutUint16(end[10:], 0xffff)
	binary.LittleEndian.PutUint32(end[12:], 0xffffffff)
	binary.LittleEndian.PutUint32(end[16:], 0xffffffff)
	if edit != nil {
		edit(end64, locator, end)
	}
	return append(append(append(data, end64...), locator...), end...)
}

func TestEndRecord(t *testing.T) {
	good := writeZip(t, entry{name: in + "go.mod", data: "module example.com/m\n"}, entry{name: in + "a/b.go", data: "package b\n"})
	edit := func(at int, value ...byte) []byte {
		data := bytes.Clone(good)
		copy(endOf(data)[at:], value)
		return data
	}
	want, err := dirhash.HashZip(open(t, good).Name(), dirhash.Hash1)
	if err != nil {
		t.Fatal(err)
	}
	put64 := binary.LittleEndian.PutUint64
	for _, test := range []struct {
		name string
		data []byte
		want string // in the error; "" if accepted
	}{
		{"honest", good, ""},
		{"comment", withComment(good, "some comment"), ""},
		{"longest comment", withComment(good, strings.Repeat("x", 65535)), ""},
		{"a comment that looks like an end record", withComment(good, string(endRecord(1, 1, 1))), "malformed"}, // archive/zip takes the last one
		{"a comment cut short", withComment(good, "some comment")[:len(good)+5], "does not fit"},
		{"a comment that does not fit", edit(20, 1, 0), "does not fit"},
		{"bytes behind the comment", append(withComment(good, "some"), "more"...), ""},
		{"a longer tail than any comment", append(bytes.Clone(good), make([]byte, 65536)...), "not a zip file"},
		{"prepended data", append([]byte("#!/bin/sh\nexit\n"), good...), ""},
		{"count too low", edit(10, 1, 0), "malformed"},
		{"count too high", edit(10, 3, 0), "malformed"},
		{"count far too high", edit(10, 0xfe, 0xff), "malformed"},
		{"directory too long for the file", edit(12, 0, 0, 0, 1), "malformed"},
		{"directory too long for anyone", edit(12, 1, 0, 0, 2), "states a central directory of 33554433 bytes"},
		{"directory said to lie further on", edit(16, 0, 0, 0, 1), "does not lie where"},
		{"directory too short", edit(12, 1, 0, 0, 0), ""}, // where the offset says, there is one,

		{"zip64", as64(good, nil), ""},
		{"zip64 with a comment", withComment(as64(good, nil), "some comment"), ""},
		{"zip64 by its count alone", as64(good, func(_, _, end []byte) { copy(end[12:20], endOf(good)[12:20]) }), ""},
		{"zip64 by its offset alone", as64(good, func(_, _, end []byte) { copy(end[8:16], endOf(good)[8:16]) }), ""},
		{"zip64 by a directory size of 4 GiB, which is no sign", as64(good, func(_, _, end []byte) {
			copy(end[8:12], endOf(good)[8:12])
			copy(end[16:], endOf(good)[16:20])
		}), "states a central directory of 4294967295 bytes"},
		{"zip64 by a directory size of 65535", as64(good, func(_, _, end []byte) {
			copy(end[8:20], endOf(good)[8:20])
			copy(end[12:], "\xff\xff\x00\x00")
		}), ""},
		{"zip64 that nobody needs", as64(good, func(end64, _, end []byte) {
			copy(end[8:20], endOf(good)[8:20])
			put64(end64[32:], 1<<40)
		}), ""},
		{"zip64 count too low", as64(good, func(end64, _, _ []byte) { put64(end64[32:], 1) }), "malformed"},
		{"zip64 count too high", as64(good, func(end64, _, _ []byte) { put64(end64[32:], 3) }), "malformed"},
		{"zip64 count of very many", as64(good, func(end64, _, _ []byte) { put64(end64[32:], 131073) }), "states 131073 entries"},
		{"zip64 count beyond 63 bits", as64(good, func(end64, _, _ []byte) { put64(end64[32:], 1<<63+2) }), "entries"},
		{"zip64 directory too long", as64(good, func(end64, _, _ []byte) { put64(end64[40:], 32<<20+1) }), "central directory of 33554433 bytes"},
		{"zip64 directory beyond 63 bits", as64(good, func(end64, _, _ []byte) { put64(end64[40:], 1<<63) }), "central directory of"},
		{"zip64 offset beyond 63 bits", as64(good, func(end64, _, _ []byte) { put64(end64[48:], 1<<63) }), "malformed"},
		{"zip64 record without its signature", as64(good, func(end64, _, _ []byte) { end64[0] = 'Q' }), "no zip64 end record"},
		{"zip64 record behind the end", as64(good, func(_, locator, _ []byte) { put64(locator[8:], 1<<40) }), "beyond the end"},
		{"zip64 record before the file", as64(good, func(_, locator, _ []byte) { put64(locator[8:], 1<<64-1) }), "beyond the end"},
		{"zip64 record cut short", as64(good, func(_, locator, _ []byte) {
			put64(locator[8:], uint64(len(good)-22+56+20))
		}), "cut short"},
		{"zip64 without a locator", as64(good, func(_, locator, _ []byte) { locator[0] = 'Q' }), "states"},
		{"zip64 without room for a locator", endRecord(0xffff, 0, 0), "malformed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := open(t, test.data)
			a, err := openChecked(t, f, int64(len(test.data)), moduleM)
			switch {
			case test.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case test.want == "":
				if sum, err := a.Hash(t.Context(), newSlots(t)); sum != want {
					t.Errorf("sum %s, %v, want %s", sum, err, want)
				}
			case !errors.Is(err, unpack.ErrMalformed) || !strings.Contains(err.Error(), test.want):
				t.Errorf("error %v, want ErrMalformed that says %q", err, test.want)
			}
		})
	}
}

// TestDirectoryBombs tries directories that must be refused before memory is allocated for their entries.
func TestDirectoryBombs(t *testing.T) {
	const empty = 46              // bytes of an empty entry's header
	const thrice = 3<<16 - 1      // 0xffff if only 16 bits are looked at
	const length = thrice * empty // bytes
	zip64 := func(count, length, offset int, change func(end64, locator, end []byte)) func(int) []byte {
		return func(size int) []byte {
			end64, locator := end64Record(size, count, length, offset)
			end := endRecord(0xffff, 0xffffffff, 0xffffffff)
			if change != nil {
				change(end64, locator, end)
			}
			return append(append(end64, locator...), end...)
		}
	}
	// A reader that finds the zip64 records no good falls back to the end record, whose size reaches back over them all.
	fallBack := func(field int, value uint32) func(int) []byte {
		return zip64(0, 0, 5, func(_, locator, end []byte) {
			binary.LittleEndian.PutUint32(locator[field:], value)
			binary.LittleEndian.PutUint32(end[12:], length+56+20)
			binary.LittleEndian.PutUint32(end[16:], 5)
		})
	}
	nameless := func(int) string { return "" }
	for _, test := range []struct {
		name    string
		entries int
		entry   func(int) string
		end     func(size int) []byte
	}{
		{"three million", 3_000_000, nameless, func(size int) []byte { return endRecord(3_000_000, size, 0) }},
		{"one too many", unpack.MaxEntries + 1, nameless, func(size int) []byte { return endRecord(unpack.MaxEntries+1, size, 0) }},
		{"long names", 9000, func(int) string { return strings.Repeat("x", 4000) }, func(int) []byte { return endRecord(9000, 0, 0) }},
		{"a size of none", thrice, nameless, func(int) []byte { return endRecord(thrice, 0, 0) }},
		{"a size of one entry", thrice, nameless, func(int) []byte { return endRecord(thrice, empty, 0) }},
		{"a size of 65535", thrice, nameless, func(int) []byte { return endRecord(thrice, 65535, 0) }},
		{"a count of none", 3 << 16, nameless, func(size int) []byte { return endRecord(0, size, 0) }},
		{"an offset that lies", thrice, nameless, func(size int) []byte { return endRecord(thrice, size, size-empty) }},
		{"entries behind the end record", unpack.MaxEntries - 1, nameless, func(size int) []byte {
			const more = 1000
			around := directoryHeader(strings.Repeat("x", 22))[:empty] // whose name is the end record
			end := endRecord(unpack.MaxEntries+more, size+empty, 0)
			return withComment(append(around, end...), strings.Repeat(string(directoryHeader("")), more))
		}},
		{"zip64", thrice, nameless, zip64(thrice, length, 0, nil)},
		{"zip64 with none stated", 3 << 16, nameless, zip64(0, 0, 0, nil)},
		{"zip64 by a size of 65535", thrice, nameless, zip64(thrice, length, 0, func(_, _, end []byte) {
			copy(end, endRecord(1, 65535, 5))
		})},
		{"zip64 by an offset alone", thrice, nameless, zip64(thrice, length, 0, func(_, _, end []byte) {
			copy(end, endRecord(1, 0, 0xffffffff))
		})},
		{"zip64 with an offset that lies and a gap", thrice, nameless, func(size int) []byte {
			end64, locator := end64Record(size, 0xffff, size, 5)
			return slices.Concat(end64, make([]byte, 100), locator, endRecord(0xffff, 0, 0))
		}},
		{"zip64 on another disk", thrice, nameless, fallBack(4, 1)},
		{"zip64 on two disks", thrice, nameless, fallBack(16, 2)},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := writeDirectory(t, test.entries, test.entry, test.end)
			size := sizeOf(t, f)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := openChecked(t, f, size, moduleM)
			runtime.ReadMemStats(&after)
			if !errors.Is(err, unpack.ErrMalformed) {
				t.Errorf("error %v, want ErrMalformed", err)
			} else if len(err.Error()) > 8<<10 {
				t.Errorf("the error is a text of %d bytes", len(err.Error()))
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
				t.Errorf("%d bytes were allocated for a file of %d", n, size)
			}
		})
	}
}

// TestLongNames tries the longest name that is accepted, and one that is longer by a byte.
func TestLongNames(t *testing.T) {
	for n, want := range map[int]string{4096: "", 4097: "a name of 4097 bytes"} {
		f := writeDirectory(t, 1, func(int) string { return in + strings.Repeat("a", n-len(in)) },
			func(size int) []byte { return endRecord(1, size, 0) })
		_, err := unpack.Open(f, sizeOf(t, f), moduleM)
		if want == "" && err != nil || want != "" && (!errors.Is(err, unpack.ErrMalformed) || !strings.Contains(err.Error(), want)) {
			t.Errorf("error %v, want one that says %q", err, want)
		}
	}
}

// TestErrorTextIsTame shows that names from the zip reach no terminal as they are.
func TestErrorTextIsTame(t *testing.T) {
	f := open(t, writeZip(t, entry{name: "\x1b[2J\u202e", stored: true}, entry{name: in + "a\nb", stored: true}))
	_, err := openChecked(t, f, sizeOf(t, f), moduleM)
	if err == nil || strings.ContainsAny(err.Error(), "\x1b\u202e") || strings.Contains(err.Error(), "a\nb") {
		t.Errorf("error %q", err)
	}
}

// TestDirectoriesInPieces shows that whole directories are read, as archive/zip reads them.
func TestDirectoriesInPieces(t *testing.T) {
	longest := func(i int) []byte {
		h := directoryHeader(fmt.Sprintf("%04096d", i))
		binary.LittleEndian.PutUint16(h[30:], 0xffff)
		binary.LittleEndian.PutUint16(h[32:], 0xffff)
		return append(h, make([]byte, 2*0xffff)...)
	}
	for _, test := range []struct {
		name    string
		entries int
		header  func(int) []byte
	}{
		{"most entries", unpack.MaxEntries, func(int) []byte { return directoryHeader("") }},
		{"longest names", 500, func(i int) []byte { return directoryHeader(fmt.Sprintf("%04096d", i)) }},
		{"names of many lengths", 20_000, func(i int) []byte { return directoryHeader(strings.Repeat("x", i%1000)) }},
		{"longest headers", 9, longest},
	} {
		t.Run(test.name, func(t *testing.T) {
			var data bytes.Buffer
			for i := range test.entries {
				data.Write(test.header(i))
			}
			data.Write(endRecord(test.entries, data.Len(), 0))
			r := bytes.NewReader(data.Bytes())
			a, err := unpack.Unchecked(r, r.Size(), moduleM)
			if err != nil {
				t.Fatal(err)
			}
			got, err := a.Entries()
			if err != nil {
				t.Fatal(err)
			}
			z, err := zip.NewReader(r, r.Size())
			if err != nil {
				t.Fatal(err)
			}
			same := func(a, b *zip.File) bool {
				return a.Name == b.Name && a.Comment == b.Comment && string(a.Extra) == string(b.Extra)
			}
			if len(got) != test.entries || !slices.EqualFunc(got, z.File, same) {
				t.Errorf("%d entries are read; archive/zip reads %d, want the same", len(got), len(z.File))
			}
		})
	}
}

// TestLongDirectory tries a directory that is only long.
func TestLongDirectory(t *testing.T) {
	header := directoryHeader(in + "a")
	binary.LittleEndian.PutUint16(header[32:], 0xffff)
	header = append(header, make([]byte, 0xffff)...)
	n := unpack.MaxDirectory/len(header) + 1
	data := append(bytes.Repeat(header, n), endRecord(n, 0, 0)...)
	_, err := unpack.Open(bytes.NewReader(data), int64(len(data)), moduleM)
	if !errors.Is(err, unpack.ErrMalformed) || !strings.Contains(err.Error(), "goes on beyond") {
		t.Errorf("error %v, want ErrMalformed that says that it goes on", err)
	}
}

// TestMemoryBound tries directories that would take somewhat less, and somewhat more, memory than is there for them.
func TestMemoryBound(t *testing.T) {
	const entries = unpack.MaxMemory / 4096
	for _, test := range []struct {
		name  string
		entry func(int) string
		want  string
	}{
		{"names", func(i int) string { return fmt.Sprint(in, i, strings.Repeat("x", 3800)) }, ""},
		{"longer names", func(i int) string { return fmt.Sprint(in, i, strings.Repeat("x", 4000)) }, "too much memory"},
		{"directories", func(i int) string { return fmt.Sprint(in, i, strings.Repeat("/a", 90)) }, ""},
		{"more directories", func(i int) string { return fmt.Sprint(in, i, strings.Repeat("/a", 100)) }, "too much memory"},
		{"the same directories", func(i int) string { return fmt.Sprint(in, strings.Repeat("a/", 100), i) }, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := writeDirectory(t, entries, test.entry, func(size int) []byte { return endRecord(entries, size, 0) })
			_, err := unpack.Open(f, sizeOf(t, f), moduleM)
			if test.want == "" && err != nil || test.want != "" && (!errors.Is(err, unpack.ErrMalformed) || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("error %v, want one that says %q", err, test.want)
			}
		})
	}
}
