// Package unpack checks a module zip and reads it in one pass: each entry is inflated once, feeding its SHA-256 and, when
// a tree is wanted, its file.
package unpack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"strings"
	"syscall"
	"unicode"

	"golang.org/x/mod/module"
	modzip "golang.org/x/mod/zip"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
)

// An Archive is a module zip whose central directory is within the bounds. It keeps no more of the zip than where that
// directory lies: whatever needs the entries reads them anew, a piece at a time.
type Archive struct {
	prefix string // "path@version/"
	dir    *directory
}

// ErrMalformed is what errors about the zip satisfy, as opposed to those of the disk.
var ErrMalformed = errors.New("malformed module zip")

// Open finds the central directory of a module zip, and checks the bounds on it.
func Open(r io.ReaderAt, size int64, m module.Version) (*Archive, error) {
	if canonical := module.CanonicalVersion(m.Version); canonical != m.Version {
		return nil, malformed(fmt.Errorf("version %s is not canonical, as %s is", m.Version, canonical))
	}
	if err := module.Check(m.Path, m.Version); err != nil {
		return nil, malformed(err)
	}
	if size > modzip.MaxZipFile {
		return nil, malformed(fmt.Errorf("it is too large: %d bytes; at most %d are accepted", size, modzip.MaxZipFile))
	}
	prefix := m.String() + "/"
	dir, err := findDirectory(r, size, prefix)
	if err != nil {
		return nil, malformed(err)
	}
	return &Archive{prefix: prefix, dir: dir}, nil
}

// read starts to read the entries.
func (a *Archive) read() *reader { return &reader{dir: a.dir} }

// malformed blames the zip, unless the disk is at fault. That a name is too long for the disk is the zip's fault.
func malformed(err error) error {
	var disk syscall.Errno
	switch {
	case errors.Is(err, syscall.ENAMETOOLONG):
		err = fmt.Errorf("%w: %w", syscall.ENAMETOOLONG, err)
	case errors.As(err, &disk):
		return err
	}
	return fmt.Errorf("%w: %s", ErrMalformed, tame(err.Error()))
}

// tame shortens a text with names from a zip, and drops what could rewrite a terminal.
func tame(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s[:min(len(s), maxText)], "?"))
	return s
}

const maxText = 640 // bytes of an error

// name returns an entry's slash-separated path in the tree.
func (a *Archive) name(e entry) string { return strings.TrimPrefix(e.Name, a.prefix) }

// GoMod returns the root go.mod file, and whether there is one.
func (a *Archive) GoMod() (data []byte, ok bool, err error) {
	for r := a.read(); ; {
		e, err := r.next()
		switch {
		case err == io.EOF:
			return nil, false, nil
		case err != nil:
			return nil, false, malformed(err)
		case a.name(e) != "go.mod":
		case e.UncompressedSize64 > modzip.MaxGoMod:
			return nil, true, malformed(errors.New("its go.mod file is too large"))
		default:
			data := bytes.NewBuffer(make([]byte, 0, e.UncompressedSize64))
			_, err := a.stream(context.Background(), e, data, make([]byte, 32<<10))
			return data.Bytes(), true, err
		}
	}
}

// Hash returns the h1: sum of the archive, if it keeps all rules for module zips. The contents have not been verified before
// somebody vouches for that sum. Slots bounds the goroutines that inflate, over all archives that share it.
func (a *Archive) Hash(ctx context.Context, slots *semaphore.Weighted) (string, error) {
	return a.pass(ctx, slots, nil)
}

// Extract is Hash that also writes the tree into an existing empty directory, once the rules are checked. Files get mode 0444,
// whatever the archive says, and there are no directories but those of files.
func (a *Archive) Extract(ctx context.Context, slots *semaphore.Weighted, dir string) (string, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	return a.pass(ctx, slots, root)
}

// memory bounds what the archives of this process take together, as directory.memory has it: large ones wait for one
// another. The garbage collector may double it.
var memory = semaphore.NewWeighted(maxMemory)

// pass checks the rules, and then inflates every entry once. Workers take entries in order from a shared listing.
func (a *Archive) pass(ctx context.Context, slots *semaphore.Weighted, root *os.Root) (string, error) {
	if err := memory.Acquire(ctx, a.dir.memory()); err != nil {
		return "", context.Cause(ctx)
	}
	defer memory.Release(a.dir.memory())
	if err := a.check(ctx); err != nil {
		return "", err
	}
	l := a.list()
	g, ctx := errgroup.WithContext(ctx)
	for range min(runtime.GOMAXPROCS(0), a.dir.entries) {
		g.Go(func() error {
			w := worker{archive: a, list: l, root: root}
			defer w.close()
			for {
				if err := slots.Acquire(ctx, 1); err != nil {
					return context.Cause(ctx)
				}
				err := w.batch(ctx)
				slots.Release(1)
				if err == io.EOF {
					return nil
				}
				if err != nil {
					return err
				}
			}
		})
	}
	if err := g.Wait(); err != nil {
		return "", err
	}
	return l.h1(), nil
}

// A worker inflates entries one after the other. It keeps the last directory open, because neighbours in a zip mostly
// share one.
type worker struct {
	archive *Archive
	list    *listing
	root    *os.Root // nil if no tree is wanted
	dir     *os.Root
	dirName string
}

func (w *worker) close() {
	if w.dir != nil {
		w.dir.Close()
	}
}

// batchLen is how many compressed bytes a worker takes on while it holds a slot.
const batchLen = 256 << 10

// batch returns io.EOF if there are no more entries.
func (w *worker) batch(ctx context.Context) error {
	r := rooms.Get().(*room)
	defer rooms.Put(r)
	for n := int64(0); n < batchLen; {
		i, e, err := w.list.next()
		if err == io.EOF {
			return err
		}
		if err != nil {
			return malformed(err)
		}
		if w.list.sums[i], err = w.entry(ctx, e, r); err != nil {
			return err
		}
		n += int64(e.CompressedSize64) + 1<<10
	}
	return nil
}

func (w *worker) entry(ctx context.Context, e entry, r *room) (sum [sha256.Size]byte, err error) {
	name := w.archive.name(e)
	if w.root == nil || strings.HasSuffix(name, "/") || name == "" {
		return w.inflate(ctx, e, io.Discard, r)
	}
	if dir := path.Dir(name); w.dir == nil || dir != w.dirName {
		if err := w.enter(dir); err != nil {
			return sum, malformed(err)
		}
	}
	f, err := w.dir.OpenFile(path.Base(name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return sum, malformed(err)
	}
	sum, err = w.inflate(ctx, e, f, r)
	return sum, errors.Join(err, f.Close())
}

// enter opens a directory of the tree, and makes it if it is the first to do so.
func (w *worker) enter(dir string) error {
	w.close()
	d, err := w.root.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if err := w.root.MkdirAll(dir, 0o777); err != nil {
			return err
		}
		d, err = w.root.OpenRoot(dir)
	}
	w.dir, w.dirName = d, dir
	return err
}

// inflate writes one entry into dst and returns its hash.
func (w *worker) inflate(ctx context.Context, e entry, dst io.Writer, r *room) (sum [sha256.Size]byte, err error) {
	if ctx.Err() != nil {
		return sum, context.Cause(ctx)
	}
	if content, ok := r.inflate(w.archive.dir, e); ok {
		_, err := dst.Write(content)
		return sha256.Sum256(content), err
	}
	return w.archive.stream(ctx, e, dst, r.out[:64<<10])
}

// stream is inflate for entries of any size, a part after the other.
func (a *Archive) stream(ctx context.Context, e entry, dst io.Writer, buf []byte) (sum [sha256.Size]byte, err error) {
	r, err := e.Open()
	if err != nil {
		return sum, e.malformed(err)
	}
	defer r.Close()
	h := sha256.New()
	for {
		if ctx.Err() != nil {
			return sum, context.Cause(ctx)
		}
		n, err := r.Read(buf) // which fails at the first byte beyond the declared size
		h.Write(buf[:n])
		if _, err := dst.Write(buf[:n]); err != nil {
			return sum, err
		}
		if err == io.EOF {
			h.Sum(sum[:0])
			return sum, nil
		}
		if err != nil {
			return sum, e.malformed(err)
		}
	}
}
