package unpack_test

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/modfetch/modfetch/internal/unpack"
)

// TestWhole has entries that are inflated in memory, and others that are better left to archive/zip. What comes of them is
// the same.
func TestWhole(t *testing.T) {
	text := strings.Repeat("package m // and so on\n", 1000)
	noise := make([]byte, unpack.MaxWhole)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	one := func(data string, lie func(*zip.FileHeader)) []byte {
		return writeZip(t, entry{name: in + "a", data: data, lie: lie})
	}
	// A descriptor is a signature, a CRC-32 and two sizes, before the directory.
	withDescriptor := described(t, in+"a")
	descriptor := func(change func([]byte)) []byte {
		data := bytes.Clone(withDescriptor)
		change(data[bytes.LastIndex(data, []byte("PK\x01\x02"))-16:])
		return data
	}
	// followed puts some bytes behind the data.
	followed := func(by string) []byte {
		data := one(text, nil)
		at := bytes.LastIndex(data, []byte("PK\x01\x02"))
		size := binary.LittleEndian.Uint32(data[at+20:])
		binary.LittleEndian.PutUint32(data[at+20:], size+uint32(len(by)))
		binary.LittleEndian.PutUint32(endOf(data)[16:], uint32(at+len(by)))
		return slices.Concat(data[:at], []byte(by), data[at:])
	}
	for _, test := range []struct {
		name  string
		data  []byte
		whole bool
	}{
		{"plain", one(text, nil), true},
		{"empty", one("", nil), true},
		{"prepended", append([]byte("#!/bin/sh\nexit\n"), one(text, nil)...), true},
		{"followed by more", followed("and more"), true},
		{"of the largest size", one(string(make([]byte, unpack.MaxWhole)), nil), true},
		{"larger", one(string(make([]byte, unpack.MaxWhole+1)), nil), false},
		{"larger when compressed", one(string(noise), nil), false},
		{"stored", writeZip(t, entry{name: in + "a", data: text, stored: true}), false},
		{"directory", bytes.ReplaceAll(writeZip(t, entry{name: in + "a_"}), []byte(in+"a_"), []byte(in+"a/")), false},
		{"less data than declared", one(text, func(h *zip.FileHeader) { h.UncompressedSize64++ }), false},
		{"more data than declared", one(text, func(h *zip.FileHeader) { h.UncompressedSize64-- }), false},
		{"cut short", one(text, func(h *zip.FileHeader) { h.CompressedSize64-- }), false},
		{"wrong CRC", one(text, func(h *zip.FileHeader) { h.CRC32++ }), false},
		{"no CRC", one(text, func(h *zip.FileHeader) { h.CRC32 = 0 }), false},
		{"descriptor", withDescriptor, true},
		{"descriptor without a signature", descriptor(func(b []byte) { copy(b[:12], b[4:]) }), true},
		{"descriptor with another CRC", descriptor(func(b []byte) { b[4]++ }), false},
		{"descriptor with another signature", descriptor(func(b []byte) { b[3]++ }), false},
		{"descriptor with other sizes", descriptor(func(b []byte) { copy(b[8:], "no sizes") }), true},
	} {
		t.Run(test.name, func(t *testing.T) {
			check(t, filepath.Join(t.TempDir(), "test.zip"), test.data)
			a, err := unpack.Unchecked(bytes.NewReader(test.data), int64(len(test.data)), moduleM)
			if err != nil {
				t.Fatal(err)
			}
			whole, err := a.Whole()
			if err != nil || len(whole) > 0 != test.whole {
				t.Errorf("%d entries are inflated in memory, %v; want %t", len(whole), err, test.whole)
			}
		})
	}
}

// A full disk takes no more bytes.
type full struct{}

var errFull = errors.New("disk full")

func (full) Write([]byte) (int, error) { return 0, errFull }

func TestWriteErrors(t *testing.T) {
	for _, stored := range []bool{false, true} {
		data := writeZip(t, entry{name: in + "a", data: "text", stored: stored})
		a, err := unpack.Open(bytes.NewReader(data), int64(len(data)), moduleM)
		if err != nil {
			t.Fatal(err)
		}
		if err := a.WriteInto(t.Context(), full{}); err != errFull {
			t.Errorf("stored %t: error %v, want %v", stored, err, errFull)
		}
		cause := errors.New("the caller has left")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		var written bytes.Buffer
		if err := a.WriteInto(ctx, &written); err != cause || written.Len() > 0 {
			t.Errorf("stored %t: error %v after %d bytes, want %v", stored, err, written.Len(), cause)
		}
	}
}

// A torn zip cannot be read from the second time on that something, which is there twice, begins what is read.
type torn struct {
	*bytes.Reader
	begins []byte
	n      int
}

func (z *torn) ReadAt(p []byte, off int64) (int, error) {
	n, err := z.Reader.ReadAt(p, off)
	if bytes.HasPrefix(p[:n], z.begins) {
		if z.n++; z.n > 1 {
			return 0, errTorn
		}
	}
	return n, err
}

var errTorn = errors.New("cannot be read")

func TestReadErrors(t *testing.T) {
	data := writeZip(t, entry{name: in + "a", data: "the same"}, entry{name: in + "b", data: "the same"})
	at := bytes.Index(data, []byte(in+"a")) + len(in+"a")
	a, err := unpack.Unchecked(&torn{bytes.NewReader(data), data[at : at+8], 0}, int64(len(data)), moduleM)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.WriteInto(t.Context(), io.Discard); err == nil || !strings.Contains(err.Error(), errTorn.Error()) {
		t.Errorf("error %v, want %v", err, errTorn)
	}
}
