package unpack

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/mod/module"
)

// Bounds on a zip's central directory. archive/zip keeps some 300 bytes in memory for each entry, however empty, and
// allocates by the count that the end record states: both must be bounded before it sees the file.
const (
	maxDirectory = 32 << 20 // bytes
	maxEntries   = 1 << 17
	maxName      = 4096 // bytes of an entry's name, as long as a path may be; checking one takes the square of it
	maxInvalid   = 1000
	maxElements  = 1 << 20  // directories that all names speak of, each of which is remembered while names are checked
	maxPrefixes  = 64 << 20 // bytes of all their names
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

// checkDirectory bounds what archive/zip will read and allocate when it opens r.
func checkDirectory(r io.ReaderAt, size int64) error {
	tail := make([]byte, min(size, endLen+maxComment))
	if _, err := r.ReadAt(tail, size-int64(len(tail))); err != nil && err != io.EOF {
		return err
	}
	at := len(tail) - endLen
	for ; at >= 0 && string(tail[at:at+4]) != endSig; at-- {
	}
	if at < 0 {
		return errors.New("not a zip file")
	}
	end := tail[at:]
	if endLen+int(binary.LittleEndian.Uint16(end[endCommentAt:])) > len(end) {
		return errors.New("the comment of its end record does not fit")
	}
	endAt := size - int64(len(end))
	count := uint64(binary.LittleEndian.Uint16(end[endCountAt:]))
	length := uint64(binary.LittleEndian.Uint32(end[endSizeAt:]))
	offset := uint64(binary.LittleEndian.Uint32(end[endOffsetAt:]))
	// archive/zip also takes a length of 0xffff for the sign of a zip64 archive, so this must.
	if count == overflow16 || length == overflow16 || length == overflow32 || offset == overflow32 {
		if big, bigAt, err := readEnd64(r, endAt); err != nil {
			return err
		} else if big != nil {
			endAt = bigAt
			count = binary.LittleEndian.Uint64(big[32:])
			length = binary.LittleEndian.Uint64(big[40:])
			offset = binary.LittleEndian.Uint64(big[48:])
		}
	}
	if count > maxEntries {
		return fmt.Errorf("states %d entries; at most %d are accepted", count, maxEntries)
	}
	if length > maxDirectory {
		return fmt.Errorf("states a central directory of %d bytes; at most %d are accepted", length, maxDirectory)
	}
	// A reader goes on for as long as headers follow one another, whatever the end record says, from where the directory
	// should start counting back from its end, or from the stated offset: so walk both.
	for _, start := range []int64{endAt - int64(length), int64(offset)} {
		if start < 0 || start > endAt {
			continue
		}
		if err := walk(io.NewSectionReader(r, start, size-start)); err != nil {
			return err
		}
	}
	return nil
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

// walk bounds the directory headers from the start of r on, and their names.
func walk(r io.Reader) error {
	b := bufio.NewReaderSize(r, 64<<10)
	var total int64
	elements, prefixes, invalid := 0, 0, 0
	for n := 0; ; n++ {
		header, err := b.Peek(headerLen)
		if err != nil || !bytes.HasPrefix(header, []byte(headerSig)) {
			return nil
		}
		name := int(binary.LittleEndian.Uint16(header[28:]))
		length := headerLen + name + int(binary.LittleEndian.Uint16(header[30:])) + int(binary.LittleEndian.Uint16(header[32:]))
		if total += int64(length); n >= maxEntries || total > maxDirectory {
			return fmt.Errorf("its central directory goes on beyond %d entries or %d bytes", maxEntries, maxDirectory)
		}
		if name > maxName {
			return fmt.Errorf("it has a name of %d bytes; at most %d are accepted", name, maxName)
		}
		if header, err = b.Peek(headerLen + name); err != nil {
			return nil
		}
		for i, c := range header[headerLen:] {
			if c == '/' {
				elements++
				prefixes += i
			}
		}
		if elements > maxElements || prefixes > maxPrefixes {
			return fmt.Errorf("its names speak of more than %d directories, or of too long ones", maxElements)
		}
		// x/mod/zip would collect an error for each bad name. Of long names there cannot be very many.
		if 0 < name && name <= 512 && module.CheckFilePath(strings.TrimSuffix(string(header[headerLen:]), "/")) != nil {
			if invalid++; invalid > maxInvalid {
				return fmt.Errorf("it has more than %d bad names, such as %q", maxInvalid, header[headerLen:])
			}
		}
		if _, err := b.Discard(length); err != nil {
			return nil
		}
	}
}
