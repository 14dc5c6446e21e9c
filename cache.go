package modfetch

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/modfetch/modfetch/internal/filelock"
	"github.com/modfetch/modfetch/internal/regular"
)

// A Cache stores files by their GOPROXY path, such as "example.com/!m/@v/v1.0.0.zip", and some of modfetch's own below
// "modfetch/". A name's content never changes in meaning, and only verified content is put. Implementations must be safe
// for concurrent use, also by several processes if they share storage.
//
// A Fetcher does not trust what it opens: it compares it with go.sum or the checksum database again.
type Cache interface {
	// Open returns the content put last under name, or an error that satisfies errors.Is(err, fs.ErrNotExist).
	// ctx covers Open only, not the reads that follow.
	Open(ctx context.Context, name string) (io.ReadSeekCloser, error)

	// Put stores content under name, replacing what is there. A concurrent Open sees all of the old content or all of the
	// new, never a part; after an error the old is still there.
	Put(ctx context.Context, name string, content io.ReadSeeker) error
}

// A Locker keeps processes that share a Cache from doing the same work at once. Correctness does not depend on it.
type Locker interface {
	// Lock waits until nobody else holds name, or ctx ends. The holder calls unlock once.
	Lock(ctx context.Context, name string) (unlock func() error, err error)
}

// DirCache is a Cache, and a Locker, in the named directory. The directory is a GOPROXY tree: a file:// mirror.
type DirCache string

// Open opens a file of the cache.
func (d DirCache) Open(ctx context.Context, name string) (io.ReadSeekCloser, error) {
	file, err := d.file("open", name)
	if err != nil {
		return nil, err
	}
	f, err := regular.Open(file, os.O_RDONLY)
	if err != nil {
		return nil, err // not f, which would be a non-nil interface around a nil file
	}
	return f, nil
}

// Put writes a temporary file beside the final one and renames it.
func (d DirCache) Put(ctx context.Context, name string, content io.ReadSeeker) error {
	file, err := d.file("put", name)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o777); err != nil {
		return err
	}
	return writeFile(file, func(f *os.File) error {
		if _, err := content.Seek(0, io.SeekStart); err != nil {
			return err
		}
		_, err := io.Copy(f, content)
		return errors.Join(err, context.Cause(ctx))
	})
}

// Lock takes a lock on the file name.lock, which stays.
func (d DirCache) Lock(ctx context.Context, name string) (unlock func() error, err error) {
	file, err := d.file("lock", name)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o777); err != nil {
		return nil, err
	}
	f, err := filelock.Open(ctx, file+".lock", nil)
	if err != nil {
		return nil, err
	}
	return f.Close, nil
}

func (d DirCache) file(op, name string) (string, error) {
	local, err := filepath.Localize(name)
	if err != nil || name == "." || d == "" {
		return "", &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	return filepath.Join(string(d), local), nil
}

// MemCache is a Cache in memory. The zero value is an empty cache without a limit.
type MemCache struct {
	MaxBytes int64 // content beyond it pushes out what was used longest ago; 0 is no limit

	files lru[[]byte]
}

// Open returns the content put last under name.
func (c *MemCache) Open(_ context.Context, name string) (io.ReadSeekCloser, error) {
	data, ok := c.files.get(name)
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return memReader{bytes.NewReader(data)}, nil
}

// Put keeps a copy of content, unless it is larger than MaxBytes.
func (c *MemCache) Put(ctx context.Context, name string, content io.ReadSeeker) error {
	if _, err := filepath.Localize(name); err != nil || name == "." {
		return &fs.PathError{Op: "put", Path: name, Err: fs.ErrInvalid}
	}
	size, err := content.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if _, err := content.Seek(0, io.SeekStart); err != nil {
		return err
	}
	var data bytes.Buffer
	if c.MaxBytes <= 0 || size <= c.MaxBytes {
		data = *bytes.NewBuffer(make([]byte, 0, min(max(size, 0), maxStated)+bytes.MinRead))
		if _, err := data.ReadFrom(content); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	c.files.put(name, data.Bytes(), size, c.MaxBytes)
	return nil
}

const maxStated = 1 << 20 // bytes for which there is space before they are there: a store may state any size

type memReader struct{ *bytes.Reader }

func (memReader) Close() error { return nil }

// Tiered returns a Cache that looks in near, then in far, and keeps in near what it found in far: as far has it, so near is
// to be trusted no more than far. What is put goes to both.
func Tiered(near, far Cache) Cache { return tiered{near, far} }

type tiered struct{ near, far Cache }

func (t tiered) Open(ctx context.Context, name string) (io.ReadSeekCloser, error) {
	if r, err := t.near.Open(ctx, name); err == nil {
		return r, nil
	}
	r, err := t.far.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	// A near cache that cannot store is a slow one, not a broken one.
	if err := t.near.Put(ctx, name, r); err == nil {
		if near, err := t.near.Open(ctx, name); err == nil {
			r.Close()
			return near, nil
		}
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

func (t tiered) Put(ctx context.Context, name string, content io.ReadSeeker) error {
	if err := t.far.Put(ctx, name, content); err != nil {
		return err
	}
	return t.near.Put(ctx, name, content)
}
