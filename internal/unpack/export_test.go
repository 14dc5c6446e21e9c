package unpack

import (
	"archive/zip"
	"context"
	"io"

	"golang.org/x/mod/module"
)

// Bounds on a zip's central directory.
const (
	MaxDirectory = maxDirectory
	MaxEntries   = maxEntries
	MaxMemory    = maxMemory
)

// CheckDirectory is what Open runs before it uses memory for the entries.
func CheckDirectory(r io.ReaderAt, size int64) error {
	_, err := findDirectory(r, size, "")
	return err
}

// Entries returns what a reader reads.
func (a *Archive) Entries() (all []*zip.File, err error) {
	for r := a.read(); ; {
		e, err := r.next()
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		all = append(all, e.File)
	}
}

// Check is what Hash and Extract do before they inflate anything.
func (a *Archive) Check(ctx context.Context) error { return a.check(ctx) }

// Unchecked makes an Archive of a zip that need not keep any rule.
func Unchecked(r io.ReaderAt, size int64, m module.Version) (*Archive, error) {
	prefix := m.String() + "/"
	dir, err := findDirectory(r, size, prefix)
	return &Archive{prefix: prefix, dir: dir}, err
}

// Memory is what archives share.
var Memory = memory

// Inflate is what archive/zip is given to inflate entries with.
var Inflate = newInflater

// Fold gives names that differ only in case one spelling.
var Fold = fold

// MaxWhole bounds the entries that are inflated in memory.
const MaxWhole = maxWhole

// Whole returns the contents that a room has of entries. Those of the others are left to archive/zip.
func (a *Archive) Whole() (map[string]string, error) {
	all, room := make(map[string]string), new(room)
	for r := a.read(); ; {
		e, err := r.next()
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		if content, ok := room.inflate(a.dir, e); ok {
			all[e.Name] = string(content)
		}
	}
}

// WriteInto writes all entries as Extract does, but into one writer.
func (a *Archive) WriteInto(ctx context.Context, dst io.Writer) error {
	w, room := worker{archive: a}, new(room)
	for r := a.read(); ; {
		e, err := r.next()
		if err == io.EOF {
			return nil
		}
		if err == nil {
			_, err = w.inflate(ctx, e, dst, room)
		}
		if err != nil {
			return err
		}
	}
}
