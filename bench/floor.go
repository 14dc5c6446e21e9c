package main

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/internal/inflate"
	"golang.org/x/mod/module"
	"golang.org/x/sync/errgroup"
)

// runFloor inflates, hashes and writes the files of local zips with all cores, and does nothing else: no network, no
// locks, no staging, no names to check. What does more is not faster.
func runFloor(args []string) error {
	flags := flag.NewFlagSet("floor", flag.ContinueOnError)
	hashOnly := flags.Bool("hash", false, "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	goSum, err := modfetch.LoadGoSum("go.sum")
	if err != nil {
		return err
	}
	to := os.Getenv("GOMODCACHE")
	if *hashOnly {
		to = ""
	}
	work := make(chan *batch)
	g, ctx := errgroup.WithContext(context.Background())
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() error {
			w := floorWorker{inflater: flate.NewReader(bytes.NewReader(nil))}
			for b := range work {
				for i := b.from; i < b.to; i++ {
					if err := w.file(b.zip, i); err != nil {
						return fmt.Errorf("%s: %w", b.zip.files[i].Name, err)
					}
				}
				if err := b.zip.done(b.to-b.from, goSum); err != nil {
					return err
				}
			}
			return nil
		})
	}
	g.Go(func() error {
		defer close(work)
		root := os.Getenv(treeVariable)
		return filepath.WalkDir(root, func(name string, _ os.DirEntry, err error) error {
			if err != nil || filepath.Ext(name) != ".zip" {
				return err
			}
			rel, _ := filepath.Rel(root, name)
			z, err := openFloorZip(name, filepath.ToSlash(rel), to)
			if err != nil {
				return err
			}
			for from := 0; from < len(z.files); {
				b := &batch{zip: z, from: from}
				for size := uint64(0); from < len(z.files) && size < 256<<10; from++ {
					size += z.files[from].CompressedSize64 + 1<<10
				}
				b.to = from
				select {
				case work <- b:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return nil
		})
	})
	return g.Wait()
}

// A floorZip is one zip, and the hashes of its files so far.
type floorZip struct {
	module module.Version
	file   *os.File
	files  []*zip.File
	to     string // directory of the tree; "" to only hash

	mu   sync.Mutex // guards left
	left int        // files
	sums [][sha256.Size]byte
}

// A batch is some files of a zip.
type batch struct {
	zip      *floorZip
	from, to int
}

func openFloorZip(name, proxyPath, to string) (*floorZip, error) {
	m, _, err := parseProxyPath(proxyPath)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	r, err := zip.NewReader(f, info.Size())
	if err != nil {
		return nil, err
	}
	z := &floorZip{module: m, file: f, files: r.File, left: len(r.File), sums: make([][sha256.Size]byte, len(r.File))}
	if to == "" {
		return z, nil
	}
	z.to = filepath.Join(to, filepath.FromSlash(treeName(m)))
	made := ""
	for _, e := range r.File {
		if dir := filepath.Dir(z.place(e)); dir != made {
			if err := os.MkdirAll(dir, 0o777); err != nil {
				return nil, err
			}
			made = dir
		}
	}
	return z, nil
}

func (z *floorZip) place(e *zip.File) string {
	return filepath.Join(z.to, filepath.FromSlash(e.Name[len(z.module.String())+1:]))
}

// done counts n files, and after the last one compares the whole with go.sum: a floor that is wrong is none.
func (z *floorZip) done(n int, goSum *modfetch.GoSum) error {
	z.mu.Lock()
	z.left -= n
	last := z.left == 0
	z.mu.Unlock()
	if !last {
		return nil
	}
	defer z.file.Close()
	order := make([]int, len(z.files))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int { return strings.Compare(z.files[i].Name, z.files[j].Name) })
	h := sha256.New()
	for _, i := range order {
		fmt.Fprintf(h, "%x  %s\n", z.sums[i], z.files[i].Name)
	}
	sum := "h1:" + base64.StdEncoding.EncodeToString(h.Sum(nil))
	if want, err := goSum.Sums(context.Background(), z.module); err != nil || !slices.Contains(want, sum) {
		return fmt.Errorf("%s: %s is not what go.sum has, %q %v", z.module, sum, want, err)
	}
	return nil
}

// A floorWorker reuses its memory. Files up to wholeFile are held in it, compressed and not.
type floorWorker struct {
	whole    inflate.Decoder // for these, as in modfetch, so that a comparison with the floor is one of all the rest
	inflater io.ReadCloser   // for larger ones
	in, out  []byte
}

const wholeFile = 1 << 20 // bytes, as in modfetch

func (w *floorWorker) file(z *floorZip, i int) error {
	e := z.files[i]
	start, err := e.DataOffset()
	if err != nil {
		return err
	}
	in := io.NewSectionReader(z.file, start, int64(e.CompressedSize64))
	var out io.Writer = io.Discard
	if z.to != "" {
		f, err := os.OpenFile(z.place(e), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o444)
		if err != nil {
			return err
		}
		defer f.Close()
		out = f
	}
	if max(e.CompressedSize64, e.UncompressedSize64) > wholeFile {
		return w.stream(in, out, e.Method, &z.sums[i])
	}
	w.in = slices.Grow(w.in[:0], int(e.CompressedSize64))[:e.CompressedSize64]
	if _, err := io.ReadFull(in, w.in); err != nil {
		return err
	}
	content := w.in
	if e.Method == zip.Deflate {
		w.out = slices.Grow(w.out[:0], int(e.UncompressedSize64))[:e.UncompressedSize64]
		if err := w.whole.Decode(w.out, w.in); err != nil {
			return err
		}
		content = w.out
	}
	z.sums[i] = sha256.Sum256(content)
	_, err = out.Write(content)
	return err
}

func (w *floorWorker) stream(in io.Reader, out io.Writer, method uint16, sum *[sha256.Size]byte) error {
	if method == zip.Deflate {
		if err := w.inflater.(flate.Resetter).Reset(in, nil); err != nil {
			return err
		}
		in = w.inflater
	}
	w.out = slices.Grow(w.out[:0], 1<<20)[:1<<20]
	h := sha256.New()
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(out, h)}, struct{ io.Reader }{in}, w.out); err != nil {
		return err
	}
	h.Sum(sum[:0])
	return nil
}
