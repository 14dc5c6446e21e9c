package unpack_test

import (
	"archive/zip"
	"bufio"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/modfetch/modfetch/internal/unpack"
	"golang.org/x/mod/module"
)

var moduleM = module.Version{Path: "example.com/m", Version: "v1.0.0"}

// in is the prefix of moduleM's entries.
const in = "example.com/m@v1.0.0/"

// An entry is one file of a zip under test.
type entry struct {
	name   string
	data   string
	mode   fs.FileMode
	stored bool
	lie    func(*zip.FileHeader) // changes the header, which is right before
}

// writeZip returns the bytes of a zip.
func writeZip(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	zw := zip.NewWriter(&buf)
	for _, e := range entries {
		h := &zip.FileHeader{
			Name:               e.name,
			Method:             zip.Deflate,
			CRC32:              crc32.ChecksumIEEE([]byte(e.data)),
			UncompressedSize64: uint64(len(e.data)),
		}
		if e.mode != 0 {
			h.SetMode(e.mode)
		}
		body := []byte(e.data)
		if e.stored {
			h.Method = zip.Store
		} else {
			var deflated bytes.Buffer
			fw, _ := flate.NewWriter(&deflated, flate.BestSpeed)
			fw.Write(body)
			fw.Close()
			body = deflated.Bytes()
		}
		h.CompressedSize64 = uint64(len(body))
		if e.lie != nil {
			e.lie(h)
		}
		w, err := zw.CreateRaw(h)
		if err != nil {
			t.Fatal(err)
		}
		w.Write(body)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// open writes a file and opens it.
func open(t testing.TB, data []byte) *os.File {
	t.Helper()
	name := filepath.Join(t.TempDir(), "test.zip")
	if err := os.WriteFile(name, data, 0o666); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// openChecked opens a zip and holds it against the rules.
func openChecked(t testing.TB, f *os.File, size int64, m module.Version) (*unpack.Archive, error) {
	a, err := unpack.Open(f, size, m)
	if err == nil {
		err = a.Check(t.Context())
	}
	return a, err
}

// directoryHeader returns the header of an entry in a central directory, without anything but a name.
func directoryHeader(name string) []byte {
	b := make([]byte, 46, 46+len(name))
	copy(b, "PK\x01\x02")
	binary.LittleEndian.PutUint16(b[28:], uint16(len(name)))
	return append(b, name...)
}

// endRecord returns an end record without a comment.
func endRecord(count, size, offset int) []byte {
	b := make([]byte, 22)
	copy(b, "PK\x05\x06")
	binary.LittleEndian.PutUint16(b[8:], uint16(count))
	binary.LittleEndian.PutUint16(b[10:], uint16(count))
	binary.LittleEndian.PutUint32(b[12:], uint32(size))
	binary.LittleEndian.PutUint32(b[16:], uint32(offset))
	return b
}

// end64Record returns a zip64 end record and the locator that points at it.
func end64Record(at, count, size, offset int) (end, locator []byte) {
	end = make([]byte, 56)
	copy(end, "PK\x06\x06")
	binary.LittleEndian.PutUint64(end[4:], 44)
	binary.LittleEndian.PutUint64(end[24:], uint64(count))
	binary.LittleEndian.PutUint64(end[32:], uint64(count))
	binary.LittleEndian.PutUint64(end[40:], uint64(size))
	binary.LittleEndian.PutUint64(end[48:], uint64(offset))
	locator = make([]byte, 20)
	copy(locator, "PK\x06\x07")
	binary.LittleEndian.PutUint64(locator[8:], uint64(at))
	binary.LittleEndian.PutUint32(locator[16:], 1)
	return end, locator
}

// writeDirectory writes a file of nothing but a central directory and what end makes of its size, without holding it in
// memory.
func writeDirectory(t testing.TB, entries int, name func(int) string, end func(size int) []byte) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "test.zip"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	w := bufio.NewWriterSize(f, 1<<20)
	size := 0
	for i := range entries {
		n, _ := w.Write(directoryHeader(name(i)))
		size += n
	}
	w.Write(end(size))
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return f
}

// sizeOf returns a file's size.
func sizeOf(t testing.TB, f *os.File) int64 {
	t.Helper()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}
