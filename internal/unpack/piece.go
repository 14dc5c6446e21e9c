package unpack

import (
	"archive/zip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A reader reads the entries of a directory in their order, and keeps only a piece of them. archive/zip by itself keeps
// them all, each with some 200 bytes and its header twice: more than 100 MB for a directory within the bounds.
type reader struct {
	dir     *directory
	read    int64   // bytes of the directory
	entries int     // that have been read
	rest    []entry // of them, those that next has not returned
}

// An entry is one file of a zip, and what the directory says of it.
type entry struct {
	*zip.File
	header []byte
}

// malformed is malformed for an entry. Its name, which may be very long, comes last.
func (e entry) malformed(err error) error { return malformed(fmt.Errorf("%w: %s", err, e.Name)) }

// pieceLen is the length of a piece. The longest header fits.
const pieceLen = headerLen + maxName + 2*(1<<16-1)

// next returns the next entry, or io.EOF.
func (r *reader) next() (entry, error) {
	if len(r.rest) == 0 {
		if err := r.fill(); err != nil {
			return entry{}, err
		}
	}
	e := r.rest[0]
	r.rest = r.rest[1:]
	return e, nil
}

// errChanged says that the directory is no longer the one that was measured.
var errChanged = errors.New("its central directory was changed while it was read")

func (r *reader) fill() error {
	at := r.dir.start + r.read
	if at == r.dir.end && r.entries == r.dir.entries {
		return io.EOF
	}
	headers := make([]byte, min(r.dir.end-at, pieceLen))
	if _, err := r.dir.zip.ReadAt(headers, at); err == io.EOF {
		return errChanged
	} else if err != nil {
		return err
	}
	length := 0
	for length+headerLen <= len(headers) && length+headerLength(headers[length:]) <= len(headers) {
		r.rest = append(r.rest, entry{header: headers[length:][:headerLen]})
		length += headerLength(headers[length:])
	}
	r.read += int64(length)
	r.entries += len(r.rest)
	if length == 0 || r.entries > r.dir.entries {
		return errChanged
	}
	z, err := openPiece(r.dir, headers[:length], len(r.rest))
	if err != nil {
		return err
	}
	for i, f := range z.File {
		r.rest[i].File = f
	}
	return nil
}

// A piece is a zip that has the data of another one, and n of its headers.
type piece struct {
	dir  *directory
	data int64  // bytes before the directory
	tail []byte // the headers and the end records
}

func openPiece(dir *directory, headers []byte, n int) (*zip.Reader, error) {
	p := &piece{dir: dir, data: dir.start - dir.base}
	// With the records of zip64, in which no value has a meaning of its own.
	end := make([]byte, end64Len+locatorLen+endLen)
	copy(end, end64Sig)
	binary.LittleEndian.PutUint64(end[32:], uint64(n))
	binary.LittleEndian.PutUint64(end[40:], uint64(len(headers)))
	binary.LittleEndian.PutUint64(end[48:], uint64(p.data))
	locator := end[end64Len:]
	copy(locator, locatorSig)
	binary.LittleEndian.PutUint64(locator[8:], uint64(p.data)+uint64(len(headers)))
	locator[16] = 1 // disk
	copy(locator[locatorLen:], endSig)
	binary.LittleEndian.PutUint16(locator[locatorLen+endCountAt:], overflow16)
	p.tail = append(headers, end...)
	z, err := zip.NewReader(p, p.data+int64(len(p.tail)))
	if err != nil {
		return nil, err
	}
	z.RegisterDecompressor(zip.Deflate, newInflater)
	return z, nil
}

func (p *piece) ReadAt(b []byte, off int64) (n int, err error) {
	if off < p.data {
		n, err = p.dir.zip.ReadAt(b[:min(int64(len(b)), p.data-off)], p.dir.base+off)
		if n == len(b) || err != nil {
			return n, err
		}
	}
	if at := off + int64(n) - p.data; at < int64(len(p.tail)) {
		n += copy(b[n:], p.tail[at:])
	}
	if n < len(b) {
		err = io.EOF
	}
	return n, err
}
