package unpack_test

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/modfetch/modfetch/internal/unpack"
)

// described returns a zip as archive/zip writes it to a stream: what its local headers leave open follows the data.
func described(t testing.TB, names ...string) []byte {
	t.Helper()
	var buf bytes.Buffer
	zw := zip.NewWriter(&buf)
	for _, name := range names {
		w, err := zw.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		w.Write([]byte("package m\n"))
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestOverlap(t *testing.T) {
	// Two entries of 4 bytes each: a local header of 30 bytes, a name of len(in)+1 and the data, then the directory.
	plain := writeZip(t, entry{name: in + "a", data: "aaaa", stored: true}, entry{name: in + "b", data: "bbbb", stored: true})
	const header = 46 + len(in) + 1
	const second = 30 + len(in) + 1 + 4
	// edit changes the headers in the directory.
	edit := func(data []byte, change func(a, b []byte)) []byte {
		data = bytes.Clone(data)
		at := len(data) - 22 - 2*header
		change(data[at:at+header], data[at+header:])
		return data
	}
	offset := func(header []byte, n int) { binary.LittleEndian.PutUint32(header[42:], uint32(n)) }
	size := func(header []byte, n int) {
		binary.LittleEndian.PutUint32(header[20:], uint32(n))
		binary.LittleEndian.PutUint32(header[24:], uint32(n))
	}
	// moved puts n bytes between the data and the directory.
	moved := func(n int) []byte {
		at := len(plain) - 22 - 2*header
		data := append(append(bytes.Clone(plain[:at]), make([]byte, n)...), plain[at:]...)
		binary.LittleEndian.PutUint32(endOf(data)[16:], uint32(at+n))
		return data
	}
	// by64 gives the second header a field of zip64 for its offset.
	by64 := func(at int) []byte {
		directory := len(plain) - 22 - 2*header
		b := bytes.Clone(plain[directory+header : len(plain)-22])
		binary.LittleEndian.PutUint32(b[42:], 0xffffffff)
		binary.LittleEndian.PutUint16(b[30:], 12)
		b = binary.LittleEndian.AppendUint64(append(b, 1, 0, 8, 0), uint64(at))
		return slices.Concat(plain[:directory+header], b, endRecord(2, header+len(b), directory))
	}
	// within has an entry whose local header and data are what the directory says of another one.
	within := func() []byte {
		local := append([]byte("PK\x03\x04"), make([]byte, 26)...)
		a := directoryHeader(in + "a")
		binary.LittleEndian.PutUint16(a[32:], uint16(len(local)))
		at := len(plain) - 22 - 2*header
		b := directoryHeader(in + "b")
		offset(b, at+len(a))
		return slices.Concat(plain[:at], a, local, b, endRecord(2, len(a)+len(local)+len(b), at))
	}
	const overlap, outside = "overlap at byte", "does not lie before the central directory"
	for _, test := range []struct {
		name string
		data []byte
		want string // in the error; "" if accepted
	}{
		{"side by side", plain, ""},
		{"data descriptors", described(t, in+"a", in+"b"), ""},
		{"zip64", as64(plain, nil), ""},
		{"a gap before the directory", moved(100), ""},
		{"something before the zip", append([]byte("#!/bin/sh\nexit\n"), plain...), ""},
		{"listed in another order", edit(plain, func(a, b []byte) {
			offset(a, second)
			offset(b, 0)
			copy(a[46:], in+"b")
			copy(b[46:], in+"a")
		}), ""},
		{"an entry that ends where the next begins", edit(plain, func(a, _ []byte) { size(a, 4) }), ""},
		{"an entry that ends a byte later", edit(plain, func(a, _ []byte) { size(a, 5) }), overlap},
		{"the same local header", edit(plain, func(a, b []byte) { offset(b, 0) }), overlap},
		{"the same local header, empty", edit(plain, func(a, b []byte) {
			offset(b, 0)
			size(a, 0)
			size(b, 0)
		}), overlap},
		{"one within the other", edit(plain, func(a, _ []byte) { size(a, second+4) }), overlap},
		{"a directory that claims data", writeZip(t, entry{name: in + "d/", data: "x", stored: true, lie: func(h *zip.FileHeader) { h.UncompressedSize64 = 0 }}, entry{name: in + "d/a"}), ""},
		{"up to the directory", edit(plain, func(_, b []byte) { size(b, 4) }), ""},
		{"into the directory", edit(plain, func(_, b []byte) { size(b, 5) }), outside},
		{"within the directory", within(), outside},
		{"an offset of zip64", by64(second), ""},
		{"an offset of zip64 that another entry has", by64(0), overlap},
		{"beyond the end", edit(plain, func(_, b []byte) { size(b, 1<<30) }), outside},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := open(t, test.data)
			_, err := openChecked(t, f, int64(len(test.data)), moduleM)
			switch {
			case test.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case test.want != "" && (!errors.Is(err, unpack.ErrMalformed) || !strings.Contains(err.Error(), test.want)):
				t.Errorf("error %v, want ErrMalformed that says %q", err, test.want)
			}
		})
	}
}
