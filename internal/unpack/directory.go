package unpack

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Bounds on a zip's central directory. The largest modules have some 30,000 files, 5,000 directories and 4 MB of it.
const (
	maxDirectory = 32 << 20 // bytes
	maxEntries   = 1 << 17
	maxDirs      = 1 << 16  // that the names speak of
	maxName      = 4096     // bytes, as long as a path may be
	maxMemory    = 24 << 20 // bytes that all archives together may take; see directory.memory
)

// Sizes and signatures of the records, from the zip file format specification (APPNOTE.TXT 4.3).
const (
	endLen       = 22
	maxComment   = 1<<16 - 1
	locatorLen   = 20
	end64Len     = 56
	headerLen    = 46
	endSig       = "PK\x05\x06"
	locatorSig   = "PK\x06\x07"
	end64Sig     = "PK\x06\x06"
	headerSig    = "PK\x01\x02"
	overflow16   = 1<<16 - 1
	overflow32   = 1<<32 - 1
	endCountAt   = 10
	endSizeAt    = 12
	endOffsetAt  = 16
	endCommentAt = 20
)

// A directory is the central directory of a zip, within the bounds.
type directory struct {
	zip        io.ReaderAt
	start, end int64 // in the file
	base       int64 // of the file, from where the directory counts offsets; not 0 if something lies before the zip

	entries int
	names   int // bytes of them all, each without the prefix
	dirs    int // that the names speak of; some may count twice
}

// memory is about how many bytes it takes to check the names, or to sum the archive up.
func (d *directory) memory() int64 {
	return int64(d.names+48*d.entries+40*d.dirs) + 8*min(d.end-d.start, pieceLen)
}

// findDirectory finds the directory that archive/zip would read, or refuses the zip. All names should have a prefix.
func findDirectory(r io.ReaderAt, size int64, prefix string) (*directory, error) {
	tail := make([]byte, min(size, endLen+maxComment))
	if _, err := r.ReadAt(tail, size-int64(len(tail))); err != nil && err != io.EOF {
		return nil, err
	}
	at := len(tail) - endLen
	for ; at >= 0 && string(tail[at:at+4]) != endSig; at-- {
	}
	if at < 0 {
		return nil, errors.New("not a zip file")
	}
	record := tail[at:]
	if endLen+int(binary.LittleEndian.Uint16(record[endCommentAt:])) > len(record) {
		return nil, errors.New("the comment of its end record does not fit")
	}
	end := size - int64(len(record))
	count := uint64(binary.LittleEndian.Uint16(record[endCountAt:]))
	length := uint64(binary.LittleEndian.Uint32(record[endSizeAt:]))
	offset := uint64(binary.LittleEndian.Uint32(record[endOffsetAt:]))
	// archive/zip takes a length of 0xffff, and not one of 0xffffffff, for a sign of a zip64 archive, so this must.
	if count == overflow16 || length == overflow16 || offset == overflow32 {
		if big, bigAt, err := readEnd64(r, end); err != nil {
			return nil, err
		} else if big != nil {
			end = bigAt
			count = binary.LittleEndian.Uint64(big[32:])
			length = binary.LittleEndian.Uint64(big[40:])
			offset = binary.LittleEndian.Uint64(big[48:])
		}
	}
	if count > maxEntries {
		return nil, fmt.Errorf("states %d entries; at most %d are accepted", count, maxEntries)
	}
	if length > maxDirectory {
		return nil, fmt.Errorf("states a central directory of %d bytes; at most %d are accepted", length, maxDirectory)
	}
	d := &directory{zip: r, start: end - int64(length)}
	if d.start < 0 || offset > uint64(d.start) {
		return nil, errors.New("its central directory does not lie where the end record says")
	}
	// The length leads to the directory even if something lies before the zip; but the offset goes first if it does, too.
	d.base = d.start - int64(offset)
	var sig [len(headerSig)]byte
	if _, err := r.ReadAt(sig[:], int64(offset)); err != nil && err != io.EOF {
		return nil, err
	}
	if string(sig[:]) == headerSig {
		d.start, d.base = int64(offset), 0
	}
	if err := d.measure(end, len(prefix)); err != nil {
		return nil, err
	}
	if uint16(d.entries) != uint16(count) { // of which a zip without zip64 records states 16 bits
		return nil, fmt.Errorf("states %d entries, but has %d", count, d.entries)
	}
	if d.memory() > maxMemory {
		return nil, fmt.Errorf("checking its %d names, of %d bytes and some %d directories, would take too much memory", d.entries, d.names, d.dirs)
	}
	return d, nil
}

// readEnd64 returns the zip64 end record before the end record at endAt and its place, or nil if there is none.
func readEnd64(r io.ReaderAt, endAt int64) ([]byte, int64, error) {
	if endAt < locatorLen {
		return nil, 0, nil
	}
	locator := make([]byte, locatorLen)
	if _, err := r.ReadAt(locator, endAt-locatorLen); err != nil {
		return nil, 0, err
	}
	disk, disks := binary.LittleEndian.Uint32(locator[4:]), binary.LittleEndian.Uint32(locator[16:])
	if string(locator[:4]) != locatorSig || disk != 0 || disks != 1 {
		return nil, 0, nil // archive/zip goes by the end record then
	}
	at := binary.LittleEndian.Uint64(locator[8:])
	if at > uint64(endAt) {
		return nil, 0, errors.New("its zip64 end record lies beyond the end")
	}
	big := make([]byte, end64Len)
	if _, err := r.ReadAt(big, int64(at)); err != nil {
		return nil, 0, errors.New("its zip64 end record is cut short")
	}
	if string(big[:4]) != end64Sig {
		return nil, 0, errors.New("it has no zip64 end record where one should be")
	}
	return big, int64(at), nil
}

// measure goes from header to header up to end. As for archive/zip, the directory goes on for as long as they follow one
// another, whatever the end record says.
func (d *directory) measure(end int64, prefix int) error {
	b := bufio.NewReaderSize(io.NewSectionReader(d.zip, d.start, end-d.start), 64<<10)
	d.end = d.start
	var last []byte
	for {
		header, err := b.Peek(headerLen)
		if !bytes.HasPrefix(header, []byte(headerSig)) && (err == nil || err == io.EOF) {
			return nil
		}
		if err == nil {
			name, length := nameLength(header), headerLength(header)
			d.entries++
			d.end += int64(length)
			if d.entries > maxEntries || d.end-d.start > maxDirectory {
				return fmt.Errorf("its central directory goes on beyond %d entries or %d bytes", maxEntries, maxDirectory)
			}
			if name > maxName {
				return fmt.Errorf("it has a name of %d bytes; at most %d are accepted", name, maxName)
			}
			header, err = b.Peek(headerLen + name)
			if err == nil {
				d.names += max(name-prefix, 0)
				d.dirs += newDirs(last, header[headerLen:])
				last = append(last[:0], header[headerLen:]...)
				_, err = b.Discard(length)
			}
		}
		if err == io.EOF {
			return errors.New("its central directory is cut short")
		}
		if err != nil {
			return err
		}
	}
}

// newDirs counts the directories of a name that it does not share with the one before it.
func newDirs(last, name []byte) int {
	n := 0
	for n < min(len(last), len(name)) && last[n] == name[n] {
		n++
	}
	return bytes.Count(name[n:], []byte("/"))
}

func nameLength(header []byte) int { return int(binary.LittleEndian.Uint16(header[28:])) }

// headerLength is that of an entry's header with all that follows it.
func headerLength(header []byte) int {
	return headerLen + nameLength(header) + int(binary.LittleEndian.Uint16(header[30:])) + int(binary.LittleEndian.Uint16(header[32:]))
}
