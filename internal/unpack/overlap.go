package unpack

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// extents are the parts of a zip that its entries take up, each from its local header to the end of its data. In an honest
// zip they lie apart, whatever lies between them. Entries that share bytes are how a small zip comes to hold a large tree.
type extents []extent

type extent struct{ start, end uint32 } // no zip within the bounds has more bytes

// localLen is the least length of a local header.
const localLen = 30

// add refuses an entry that lies outside of the data.
func (x *extents) add(dir *directory, e entry) error {
	data, err := e.DataOffset()
	if err != nil {
		return fmt.Errorf("its local header cannot be read: %w", err)
	}
	length := e.CompressedSize64
	if strings.HasSuffix(e.Name, "/") {
		length = 0 // nobody reads what a directory has for data
	}
	all := dir.start - dir.base
	if data > all || length > uint64(all-data) {
		return errors.New("its data does not lie before the central directory")
	}
	start := binary.LittleEndian.Uint32(e.header[42:])
	if start == overflow32 { // then a field of zip64 has it; this much is certain
		start = uint32(data) - localLen
	}
	*x = append(*x, extent{start, uint32(data) + uint32(length)})
	return nil
}

// check sorts x.
func (x extents) check() error {
	slices.SortFunc(x, func(a, b extent) int { return cmp.Compare(a.start, b.start) })
	for i := 1; i < len(x); i++ {
		if x[i].start < x[i-1].end {
			return fmt.Errorf("its entries overlap at byte %d", x[i].start)
		}
	}
	return nil
}
