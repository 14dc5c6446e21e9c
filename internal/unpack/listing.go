package unpack

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// A listing hands out the entries of an archive, and remembers of each what the archive's sum is made of.
type listing struct {
	mu     sync.Mutex // guards reader, names and ends
	reader *reader
	prefix string // of all names
	names  []byte // the rest of each, one after the other
	ends   []uint32

	sums [][sha256.Size]byte
}

func (a *Archive) list() *listing {
	return &listing{
		reader: a.read(),
		prefix: a.prefix,
		names:  make([]byte, 0, a.dir.names),
		ends:   make([]uint32, 0, a.dir.entries),
		sums:   make([][sha256.Size]byte, a.dir.entries),
	}
}

// next returns the next entry and its index, or io.EOF.
func (l *listing) next() (i int, e entry, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e, err = l.reader.next(); err != nil {
		return 0, e, err
	}
	name, ok := strings.CutPrefix(e.Name, l.prefix)
	if !ok {
		return 0, e, errChanged
	}
	l.names = append(l.names, name...)
	l.ends = append(l.ends, uint32(len(l.names)))
	return len(l.ends) - 1, e, nil
}

// name returns what follows the prefix.
func (l *listing) name(i uint32) []byte {
	if i == 0 {
		return l.names[:l.ends[0]]
	}
	return l.names[l.ends[i-1]:l.ends[i]]
}

// h1 combines the hashes of the entries by Hash1 of [golang.org/x/mod/sumdb/dirhash].
func (l *listing) h1() string {
	order := make([]uint32, len(l.ends))
	for i := range order {
		order[i] = uint32(i)
	}
	slices.SortFunc(order, func(i, j uint32) int { return bytes.Compare(l.name(i), l.name(j)) })
	h := sha256.New()
	for _, i := range order {
		fmt.Fprintf(h, "%x  %s%s\n", l.sums[i], l.prefix, l.name(i))
	}
	return "h1:" + base64.StdEncoding.EncodeToString(h.Sum(nil))
}
