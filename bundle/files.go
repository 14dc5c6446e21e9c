package bundle

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/internal/regular"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// A writer takes the files of a bundle, one after the other.
type writer interface {
	add(name string, content io.Reader) (int64, error)
	close() error
}

// create begins a new bundle, under a name that nothing has yet.
func create(name string, isZip bool) (writer, error) {
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
	file *os.File // nil if it is the caller's
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
		err = errors.Join(err, w.file.Sync(), w.file.Close()) // the medium may be pulled out
	}
	return err
}

var zipTime = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC) // the first that a zip can tell

// A reader reads the files of a bundle, whose content may be anything.
type reader struct {
	names []string // in the order of the zip; sorted in a directory
	odd   []string // names of what is no regular file, or is there twice
	empty []string // names of directories with nothing in them
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
	if err := r.openZip(); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s is no bundle: %w", name, err)
	}
	return r, nil
}

func (r *reader) openZip() error {
	if err := checkZipEnd(r.file, r.size); err != nil {
		return err
	}
	z, err := zip.NewReader(r.file, r.size)
	if err != nil {
		return err
	}
	left := uint64(r.size)
	for _, file := range z.File {
		if !fs.ValidPath(file.Name) || !file.Mode().IsRegular() || file.Method != zip.Store ||
			file.UncompressedSize64 != file.CompressedSize64 || r.zip[file.Name] != nil {
			r.odd = append(r.odd, file.Name)
			continue
		}
		if file.UncompressedSize64 > left {
			return errors.New("its files lie one over the other")
		}
		left -= file.UncompressedSize64
		r.names = append(r.names, file.Name)
		r.zip[file.Name] = file
	}
	return nil
}

// Bounds on the end of a zip, and the records there, from the zip file format specification (APPNOTE.TXT 4.3).
const (
	maxZipDirectory = 16 << 20 // bytes, of some 100,000 files

	headerLen  = 46
	endLen     = 22
	locatorLen = 20
	end64Len   = 56
)

// checkZipEnd refuses a zip that does not end as those of a zipWriter do, or whose directory is too large: archive/zip takes
// memory for as many entries as the end speaks of, and then for as many as there are.
func checkZipEnd(f io.ReaderAt, size int64) error {
	var tail [end64Len + locatorLen + endLen]byte
	if _, err := f.ReadAt(tail[:], size-int64(len(tail))); err != nil {
		return zip.ErrFormat // it is shorter
	}
	le := binary.LittleEndian
	locator, end := string(tail[end64Len:][:locatorLen]), string(tail[end64Len+locatorLen:])
	at, entries, length, start := size-endLen, uint64(le.Uint16(tail[86:])), uint64(le.Uint32(tail[88:])), uint64(le.Uint32(tail[92:]))
	if strings.HasPrefix(locator, "PK\x06\x07") { // zip64 has larger numbers elsewhere
		at, entries, length, start = size-int64(len(tail)), le.Uint64(tail[32:]), le.Uint64(tail[40:]), le.Uint64(tail[48:])
		want := le.AppendUint32(le.AppendUint64([]byte("PK\x06\x07\x00\x00\x00\x00"), uint64(at)), 1)
		if locator != string(want) || end[8:20] != strings.Repeat("\xff", 12) {
			return zip.ErrFormat
		}
	}
	if !strings.HasPrefix(end, "PK\x05\x06\x00\x00\x00\x00") {
		return zip.ErrFormat
	}
	if length > maxZipDirectory || entries > length/headerLen {
		return fmt.Errorf("its directory has %d bytes and %d entries; at most %d bytes are read", length, entries, maxZipDirectory)
	}
	if start != uint64(at)-length {
		return zip.ErrFormat
	}
	return nil
}

func openDir(dir string) (*reader, error) {
	r := &reader{dir: dir}
	err := r.list("")
	slices.Sort(r.names)
	return r, err
}

// list lists the files in a directory. Of the root a link may be given; others are odd.
func (r *reader) list(dir string) error {
	entries, err := os.ReadDir(filepath.Join(r.dir, filepath.FromSlash(dir)))
	if err != nil {
		return err
	}
	if len(entries) == 0 && dir != "" {
		r.empty = append(r.empty, dir)
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		switch {
		case e.IsDir():
			if err := r.list(name); err != nil {
				return err
			}
		case e.Type().IsRegular():
			r.names = append(r.names, name)
		default:
			r.odd = append(r.odd, name)
		}
	}
	return nil
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
	var head []byte
	switch {
	case err == nil:
		defer r.close()
		if head, err = r.head(); err != nil {
			err = fmt.Errorf("%s: %w", name, err)
		}
	case !errors.Is(err, fs.ErrNotExist) && !strings.HasSuffix(name, ".zip"):
		head, err = regular.Read(name, maxSmall)
		head = bytes.Trim(head, "\x00") // which a write that was broken off may have left
	}
	if err != nil {
		return nil, err
	}
	_, err = note.Open(head, note.VerifierList())
	var unverified *note.UnverifiedNoteError
	if errors.As(err, &unverified) {
		_, err = tlog.ParseTree([]byte(unverified.Note.Text))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: neither a bundle nor a tree head of a checksum database: %w", name, err)
	}
	return head, nil
}

// A Cache is a [modfetch.Cache] of the zips and go.mod files of the bundle in the named directory. Nothing is put into it. The
// rest of a bundle is nothing that a hash on record covers, and no cache should give it.
type Cache string

// Open opens a zip or a go.mod file.
func (c Cache) Open(ctx context.Context, name string) (io.ReadSeekCloser, error) {
	if ext := path.Ext(name); ext != ".zip" && ext != ".mod" {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return modfetch.DirCache(c).Open(ctx, name)
}

// Put does nothing.
func (Cache) Put(context.Context, string, io.ReadSeeker) error { return nil }

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
