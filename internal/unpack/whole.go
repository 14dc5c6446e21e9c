package unpack

import (
	"archive/zip"
	"encoding/binary"
	"hash/crc32"
	"strings"
	"sync"

	"github.com/modfetch/modfetch/internal/inflate"
)

// maxWhole bounds the bytes, compressed and not, of an entry that is inflated in memory: that takes half the time.
const maxWhole = 1 << 20

// A room is memory to inflate entries in.
type room struct {
	decoder inflate.Decoder
	in      [maxWhole + 4*descriptorField]byte
	out     [maxWhole]byte
}

// rooms has as many as there are workers with a slot.
var rooms = sync.Pool{New: func() any { return new(room) }}

// Of the record behind an entry's data, if there is one: signature, which may be missing, CRC-32, and two sizes.
const (
	descriptorFlag  = 1 << 3
	descriptorSig   = "PK\x07\x08"
	descriptorField = 4
)

// inflate returns the content of a small entry until the next call, if there is nothing wrong with it. What is said of an
// entry in which something is wrong, and whether it matters, is left to archive/zip.
func (r *room) inflate(dir *directory, e entry) (content []byte, ok bool) {
	if e.Method != zip.Deflate || max(e.CompressedSize64, e.UncompressedSize64) > maxWhole || strings.HasSuffix(e.Name, "/") {
		return nil, false
	}
	at, err := e.DataOffset()
	if err != nil {
		return nil, false
	}
	in := r.in[:e.CompressedSize64]
	if e.Flags&descriptorFlag != 0 {
		in = r.in[:e.CompressedSize64+4*descriptorField]
	}
	if _, err := dir.zip.ReadAt(in, dir.base+at); err != nil {
		return nil, false
	}
	in, descriptor := in[:e.CompressedSize64], in[e.CompressedSize64:]
	content = r.out[:e.UncompressedSize64]
	if r.decoder.Decode(content, in) != nil || crc32.ChecksumIEEE(content) != e.CRC32 {
		return nil, false
	}
	if len(descriptor) > 0 {
		if string(descriptor[:descriptorField]) == descriptorSig {
			descriptor = descriptor[descriptorField:]
		}
		if binary.LittleEndian.Uint32(descriptor) != e.CRC32 {
			return nil, false
		}
	}
	return content, true
}
