package unpack

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/mod/module"
	modzip "golang.org/x/mod/zip"
)

// A checker holds the entries of an archive against the rules of [golang.org/x/mod/zip], one after the other. CheckZip of
// that package would keep the whole directory in memory, and all paths that the names speak of.
type checker struct {
	archive *Archive
	size    uint64 // declared so far, in bytes
	paths   paths
	extents extents
}

func (a *Archive) check(ctx context.Context) error {
	c := checker{archive: a, paths: paths{seed: maphash.MakeSeed(), seen: make(map[uint64]uint64)}, extents: make(extents, 0, a.dir.entries)}
	for r := a.read(); ; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		e, err := r.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return malformed(err)
		}
		if err := c.entry(e); err != nil {
			return e.malformed(err)
		}
	}
	if err := c.extents.check(); err != nil {
		return malformed(err)
	}
	return nil
}

func (c *checker) entry(e entry) error {
	if err := c.extents.add(c.archive.dir, e); err != nil {
		return err
	}
	name, ok := strings.CutPrefix(e.Name, c.archive.prefix)
	if !ok {
		return fmt.Errorf("its name lacks the prefix %s", c.archive.prefix)
	}
	if name == "" {
		return nil
	}
	name, isDir := strings.CutSuffix(name, "/")
	if path.Clean(name) != name {
		return errors.New("its name is not clean")
	}
	if err := module.CheckFilePath(name); err != nil {
		return errors.Unwrap(err) // without the name
	}
	if err := c.paths.add(name, isDir); err != nil || isDir {
		return err
	}
	if base := path.Base(name); strings.EqualFold(base, "go.mod") {
		if base != name {
			return errors.New("a go.mod file that is not in module root")
		}
		if name != "go.mod" {
			return errors.New("go.mod must be lowercase")
		}
	}
	if e.UncompressedSize64 > modzip.MaxZipFile-c.size {
		return fmt.Errorf("too large: with it, the files would have more than %d bytes", modzip.MaxZipFile)
	}
	c.size += e.UncompressedSize64
	if name == "go.mod" && e.UncompressedSize64 > modzip.MaxGoMod || name == "LICENSE" && e.UncompressedSize64 > modzip.MaxLICENSE {
		return fmt.Errorf("%s file too large: %d bytes", name, e.UncompressedSize64)
	}
	return nil
}

// paths remembers files and directories: under a hash of the path that does not depend on case, a hash of its spelling, of
// which the lowest bit is that of a directory. The seed is of this zip alone, so nobody can make paths that clash by hash.
type paths struct {
	seed maphash.Seed
	seen map[uint64]uint64
	dirs int
}

// add remembers a path and the directories that it is in, unless a file system that ignores case could not have them
// beside those it remembers.
func (p *paths) add(name string, isDir bool) error {
	folded := fold(name)
	for {
		hash := maphash.String(p.seed, name) &^ 1
		if isDir {
			hash |= 1
		}
		key := maphash.String(p.seed, folded)
		other, ok := p.seen[key]
		switch {
		case !ok:
			p.seen[key] = hash
			if isDir {
				p.dirs++
			}
			if p.dirs > maxDirs {
				return fmt.Errorf("at most %d directories are accepted", maxDirs)
			}
		case other == hash && isDir:
			return nil // and so are those that it is in
		case other == hash:
			return errors.New("multiple entries have this name")
		case other == hash^1:
			return fmt.Errorf("both a file and a directory: %s", name)
		default:
			return fmt.Errorf("case-insensitive collision of %s with another spelling", name)
		}
		slash := strings.LastIndexByte(name, '/')
		if slash < 0 {
			return nil
		}
		name, folded, isDir = name[:slash], folded[:strings.LastIndexByte(folded, '/')], true
	}
}

// fold gives all texts that strings.EqualFold takes for equal one spelling.
func fold(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return 'A' <= r && r <= 'Z' || r >= utf8.RuneSelf }) < 0 {
		return s
	}
	return strings.Map(func(r rune) rune {
		least := r
		for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
			least = min(least, next)
		}
		if 'A' <= least && least <= 'Z' { // so that small letters stay as they are
			least += 'a' - 'A'
		}
		return least
	}, s)
}
