package bundle

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/modfetch/modfetch/internal/regular"
)

// A writer takes the files of a bundle, one after the other.
type writer interface {
	add(name string, content io.Reader) (int64, error)
	close() error
}

// create begins a new bundle, under a name that nothing has yet.
func create(name string, isZip bool) (writer, error) {
	if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
		return nil, err
	}
	if !isZip {
		return dirWriter(name), os.Mkdir(name, 0o777)
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return nil, err
	}
	return zipWriter{zip.NewWriter(f), f}, nil
}

// A dirWriter is the directory that it writes to.
type dirWriter string

func (d dirWriter) add(name string, content io.Reader) (int64, error) {
	file := filepath.Join(string(d), filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(file), 0o777); err != nil {
		return 0, err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(f, content)
	return n, errors.Join(err, f.Close())
}

func (d dirWriter) close() error { return nil }

// A zipWriter writes the same zip of the same files, whenever and by whatever release of Go: nothing is compressed, which
// zips of modules are already, and all times are the same.
type zipWriter struct {
	zip  *zip.Writer
	file io.Closer // nil if it is the caller's
}

func (w zipWriter) add(name string, content io.Reader) (int64, error) {
	f, err := w.zip.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store, Modified: zipTime})
	if err != nil {
		return 0, err
	}
	return io.Copy(f, content)
}

func (w zipWriter) close() error {
	err := w.zip.Close()
	if w.file != nil {
		err = errors.Join(err, w.file.Close())
	}
	return err
}

var zipTime = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC) // the first that a zip can tell

// A reader reads the files of a bundle, whose content may be anything.
type reader struct {
	names []string // in the order of the zip; sorted in a directory
	odd   []string // names of what is no regular file, or is there twice
	dir   string   // "" for a zip

	file *os.File // the zip, or nil
	size int64
	zip  map[string]*zip.File // by name
}

// open opens a bundle.
func open(name string) (*reader, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return openDir(name)
	}
	f, err := regular.Open(name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	r := &reader{file: f, size: info.Size(), zip: make(map[string]*zip.File)}
	z, err := zip.NewReader(f, r.size)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s is no bundle: %w", name, err)
	}
	for _, file := range z.File {
		if !fs.ValidPath(file.Name) || !file.Mode().IsRegular() || file.Method != zip.Store ||
			file.UncompressedSize64 != file.CompressedSize64 || r.zip[file.Name] != nil {
			r.odd = append(r.odd, file.Name)
			continue
		}
		r.names = append(r.names, file.Name)
		r.zip[file.Name] = file
	}
	return r, nil
}

func openDir(dir string) (*reader, error) {
	r := &reader{dir: dir}
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, file)
		if name = filepath.ToSlash(name); !d.Type().IsRegular() {
			r.odd = append(r.odd, name)
		} else {
			r.names = append(r.names, name)
		}
		return err
	})
	slices.Sort(r.names)
	return r, err
}

func (r *reader) close() error {
	if r.file == nil {
		return nil
	}
	return r.file.Close()
}

// open opens a file of the bundle.
func (r *reader) open(name string) (*io.SectionReader, io.Closer, error) {
	if r.file == nil {
		f, err := regular.Open(filepath.Join(r.dir, filepath.FromSlash(name)), os.O_RDONLY)
		if err != nil {
			return nil, nil, err
		}
		info, err := f.Stat()
		if err != nil {
			f.Close()
			return nil, nil, err
		}
		return io.NewSectionReader(f, 0, info.Size()), f, nil
	}
	file := r.zip[name]
	if file == nil {
		return nil, nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	start, err := file.DataOffset()
	return io.NewSectionReader(r.file, start, int64(file.UncompressedSize64)), io.NopCloser(nil), err
}

// read returns the content of a small file.
func (r *reader) read(name string, limit int64) ([]byte, error) {
	f, c, err := r.open(name)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if f.Size() > limit {
		return nil, fmt.Errorf("it has %d bytes; at most %d are read", f.Size(), limit)
	}
	return io.ReadAll(f)
}

// manifest returns the SHA-256 sums of all other files, by name.
func (r *reader) manifest() (map[string]string, error) {
	data, err := r.read(manifestName, maxManifest)
	if err != nil {
		return nil, err
	}
	sums := make(map[string]string)
	last := ""
	for line := range strings.Lines(string(data)) {
		sum, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		if raw, err := hex.DecodeString(sum); err != nil || len(raw) != 32 || !strings.HasSuffix(line, "\n") || name <= last {
			return nil, fmt.Errorf("%s has a line that is none: %.100q", manifestName, line)
		}
		sums[name], last = sum, name
	}
	return sums, nil
}

// head returns the signed tree head in the bundle.
func (r *reader) head() ([]byte, error) {
	prefix := sumPrefix(r.names)
	if prefix == "" {
		return nil, errors.New("it has no tree head of a checksum database")
	}
	return r.read(prefix+"latest", maxSmall)
}

const (
	maxManifest = 64 << 20 // bytes
	maxSmall    = 1 << 20  // of a head, a record, an .info file
)

// Head returns the signed tree head in a file, such as the go command's GOPATH/pkg/sumdb/<name>/latest, or in a bundle. Who
// signed it is not checked.
func Head(name string) ([]byte, error) {
	r, err := open(name)
	if err == nil {
		defer r.close()
		head, err := r.head()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return head, nil
	}
	if errors.Is(err, fs.ErrNotExist) || strings.HasSuffix(name, ".zip") {
		return nil, err
	}
	head, err := regular.Read(name, maxSmall)
	return bytes.Trim(head, "\x00"), err // which a write that was broken off may have left
}

// packed reports whether the zip is, byte for byte, what a writer makes of its files: nothing lies between them.
func (r *reader) packed(ctx context.Context) (bool, error) {
	same := &comparer{r: io.NewSectionReader(r.file, 0, r.size)}
	w := zipWriter{zip: zip.NewWriter(same)}
	for _, name := range r.names {
		f, c, err := r.open(name)
		if err != nil {
			return false, err
		}
		defer c.Close()
		if _, err := w.add(name, f); err != nil {
			break // of the comparer
		}
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
	}
	err := w.close()
	return err == nil && same.n == r.size, nil
}

// A comparer is a writer that fails where it is given something else than it reads.
type comparer struct {
	r   *io.SectionReader
	n   int64 // bytes that were the same
	buf []byte
}

var errDiffers = errors.New("differs")

func (c *comparer) Write(p []byte) (int, error) {
	c.buf = slices.Grow(c.buf[:0], len(p))[:len(p)]
	if _, err := io.ReadFull(c.r, c.buf); err != nil || !bytes.Equal(p, c.buf) {
		return 0, errDiffers
	}
	c.n += int64(len(p))
	return len(p), nil
}
