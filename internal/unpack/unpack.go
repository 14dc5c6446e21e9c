// Package unpack checks a module zip and reads it in one pass: each entry is inflated once, feeding its SHA-256 and, when
// a tree is wanted, its file.
package unpack

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"unicode"

	"github.com/klauspost/compress/flate"
	"golang.org/x/mod/module"
	modzip "golang.org/x/mod/zip"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
)

// An Archive is a module zip whose central directory keeps all rules for module zips. Its contents have not been
// verified: compare the sum that Hash or Extract returns before they are used.
type Archive struct {
	prefix string // "path@version/"
	zip    *zip.Reader
	dirs   []string // of the tree, parents first, without the root
}

// ErrMalformed is what Open's errors, and errors about an entry's data, satisfy.
var ErrMalformed = errors.New("malformed module zip")

// Open checks the module zip in the named file: the bounds on its central directory before anything is allocated for its
// entries, then names, sizes and the place of go.mod by the rules of [golang.org/x/mod/zip]. f must be that very file.
func Open(f *os.File, size int64, m module.Version) (*Archive, error) {
	if err := checkDirectory(f, size); err != nil {
		return nil, malformed(err)
	}
	checked, err := modzip.CheckZip(m, f.Name())
	switch {
	case err != nil:
		return nil, malformed(err)
	case checked.SizeError != nil:
		return nil, malformed(checked.SizeError)
	case len(checked.Invalid) > 0: // one of perhaps very many
		return nil, malformed(checked.Invalid[0])
	}
	z, err := zip.NewReader(f, size)
	if err != nil {
		return nil, malformed(err)
	}
	z.RegisterDecompressor(zip.Deflate, inflate)
	a := &Archive{prefix: m.String() + "/", zip: z}
	seen := map[string]bool{".": true}
	for _, e := range z.File {
		if strings.HasSuffix(e.Name, "/") {
			continue // the go command makes no directories but those of files
		}
		var missing []string
		for dir := path.Dir(a.name(e)); !seen[dir]; dir = path.Dir(dir) {
			seen[dir] = true
			missing = append(missing, dir)
		}
		slices.Reverse(missing)
		a.dirs = append(a.dirs, missing...)
	}
	return a, nil
}

// malformed blames the zip, unless it is the disk that could not be read.
func malformed(err error) error {
	var disk syscall.Errno
	if errors.As(err, &disk) && disk != syscall.EINVAL { // which is what an offset beyond all numbers gives
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
func (a *Archive) name(e *zip.File) string { return strings.TrimPrefix(e.Name, a.prefix) }

// Dirs lists the directories of the tree below its root, parents first.
func (a *Archive) Dirs() []string { return a.dirs }

// GoMod returns the root go.mod file, and whether there is one.
func (a *Archive) GoMod() (data []byte, ok bool, err error) {
	for _, e := range a.zip.File {
		if a.name(e) == "go.mod" {
			var buf bytes.Buffer
			_, err := a.read(context.Background(), e, &buf, make([]byte, 32<<10)) // 16 MiB at most
			return buf.Bytes(), true, err
		}
	}
	return nil, false, nil
}

// Hash returns the h1: sum of the archive. Slots bounds the goroutines that inflate, over all archives that share it.
func (a *Archive) Hash(ctx context.Context, slots *semaphore.Weighted) (string, error) {
	return a.pass(ctx, slots, nil)
}

// Extract writes the tree into an existing empty directory and returns the h1: sum of the archive. The tree is not to be
// trusted before that sum is. Files get mode 0444, whatever the archive says.
func (a *Archive) Extract(ctx context.Context, slots *semaphore.Weighted, dir string) (string, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	for _, d := range a.dirs {
		if err := root.Mkdir(d, 0o777); err != nil {
			return "", err
		}
	}
	return a.pass(ctx, slots, root)
}

// batch is how many compressed bytes a worker takes on while it holds a slot.
const batch = 256 << 10

// pass inflates every entry once. Workers take entries in order from a shared counter.
func (a *Archive) pass(ctx context.Context, slots *semaphore.Weighted, root *os.Root) (string, error) {
	sums := make([][sha256.Size]byte, len(a.zip.File))
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range min(runtime.GOMAXPROCS(0), len(a.zip.File)) {
		g.Go(func() error {
			w := worker{archive: a, root: root, buf: buffers.Get().(*[]byte)}
			defer buffers.Put(w.buf)
			defer w.close()
			for {
				if err := slots.Acquire(ctx, 1); err != nil {
					return context.Cause(ctx)
				}
				for n := int64(0); n < batch; {
					i := int(next.Add(1)) - 1
					if i >= len(a.zip.File) {
						slots.Release(1)
						return nil
					}
					e := a.zip.File[i]
					sum, err := w.entry(ctx, e)
					if err != nil {
						slots.Release(1)
						return err
					}
					sums[i] = sum
					n += int64(e.CompressedSize64) + 1<<10
				}
				slots.Release(1)
			}
		})
	}
	if err := g.Wait(); err != nil {
		return "", err
	}
	return a.h1(sums), nil
}

// h1 combines the hashes of the entries by Hash1 of [golang.org/x/mod/sumdb/dirhash].
func (a *Archive) h1(sums [][sha256.Size]byte) string {
	order := make([]int, len(sums))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int { return strings.Compare(a.zip.File[i].Name, a.zip.File[j].Name) })
	h := sha256.New()
	for _, i := range order {
		fmt.Fprintf(h, "%x  %s\n", sums[i], a.zip.File[i].Name)
	}
	return "h1:" + base64.StdEncoding.EncodeToString(h.Sum(nil))
}

// A worker writes entries one after the other. It keeps the last directory open, because neighbours in a zip mostly
// share one.
type worker struct {
	archive *Archive
	root    *os.Root // nil if no tree is wanted
	dir     *os.Root
	dirName string
	buf     *[]byte
}

func (w *worker) close() {
	if w.dir != nil {
		w.dir.Close()
	}
}

func (w *worker) entry(ctx context.Context, e *zip.File) (sum [sha256.Size]byte, err error) {
	name := w.archive.name(e)
	if w.root == nil || strings.HasSuffix(name, "/") || name == "" {
		return w.archive.read(ctx, e, io.Discard, *w.buf)
	}
	if dir := path.Dir(name); w.dir == nil || dir != w.dirName {
		w.close()
		if w.dir, err = w.root.OpenRoot(dir); err != nil {
			return sum, err
		}
		w.dirName = dir
	}
	f, err := w.dir.OpenFile(path.Base(name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return sum, err
	}
	sum, err = w.archive.read(ctx, e, f, *w.buf)
	return sum, errors.Join(err, f.Close())
}

// read inflates one entry into dst and returns its hash.
func (a *Archive) read(ctx context.Context, e *zip.File, dst io.Writer, buf []byte) (sum [sha256.Size]byte, err error) {
	r, err := e.Open()
	if err != nil {
		return sum, malformed(fmt.Errorf("%s: %w", e.Name, err))
	}
	defer r.Close()
	h := sha256.New()
	left := int64(e.UncompressedSize64)
	for {
		if ctx.Err() != nil {
			return sum, context.Cause(ctx)
		}
		n, err := r.Read(buf)
		if left -= int64(n); left < 0 {
			return sum, malformed(fmt.Errorf("%s: more data than its %d declared bytes", e.Name, e.UncompressedSize64))
		}
		h.Write(buf[:n])
		if _, err := dst.Write(buf[:n]); err != nil {
			return sum, err
		}
		if err == io.EOF {
			h.Sum(sum[:0])
			return sum, nil
		}
		if err != nil {
			return sum, malformed(fmt.Errorf("%s: %w", e.Name, err))
		}
	}
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}

// inflaters pools decompressors: each holds some 40 KiB that a module of small files would allocate thousands of times.
var inflaters sync.Pool

func inflate(r io.Reader) io.ReadCloser {
	d, _ := inflaters.Get().(io.ReadCloser)
	if d == nil {
		d = flate.NewReader(r)
	} else {
		d.(flate.Resetter).Reset(r, nil)
	}
	return &inflater{d}
}

type inflater struct{ io.ReadCloser }

func (i *inflater) Read(p []byte) (int, error) {
	if i.ReadCloser == nil {
		return 0, errors.New("read after close")
	}
	return i.ReadCloser.Read(p)
}

func (i *inflater) Close() error {
	if i.ReadCloser == nil {
		return nil
	}
	err := i.ReadCloser.Close()
	inflaters.Put(i.ReadCloser)
	i.ReadCloser = nil
	return err
}
