package modfetchtest_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/modfetchtest"
)

// TestTestCacheFinds runs TestCache over caches that are wrong, each in a process of its own, and in one that is right.
func TestTestCacheFinds(t *testing.T) {
	for _, test := range []struct{ fault, in, says string }{
		{"", "absence", ""}, {"", "never a part", ""}, {"", "names", ""}, {"", "malformed names", ""}, {"", "cancelled put", ""}, {"", "cancelled open", ""},
		{"absence is any error", "absence", ""},
		{"anything is there", "absence", ""},
		{"absent once, absent for ever", "absence", "Open example.com/!m/@v/v1.0.0.zip: open example.com/!m/@v/v1.0.0.zip: file does not exist"},
		{"a slash is a dash", "names", "example.com/m-x/@v/v1.0.0.zip: other bytes than were put"},
		{"a tilde is lost", "names", "example.com/a~b/c_d.e-f/@v/v2.0.0+incompatible.info: other bytes than were put"},
		{"names are cut at 255", "names", "/v1.0.0.zip: other bytes than were put"},
		{"a part is visible", "never a part", "Open example.com/!m/@v/v1.0.1.zip: <nil>, want fs.ErrNotExist"},
		{"Open hangs", "absence", "Open example.com/!m/@v/v1.0.0.zip hangs"},
		{"Put hangs", "absence", "Put example.com/!m/@v/v1.0.0.zip hangs"},
		{"cancelled Put hangs", "cancelled put", "Put example.com/!m/@v/v1.0.0.zip hangs"},
		{"case is lost", "names", ""},
		{"any name", "malformed names", ""},
		{"any name to open", "malformed names", ""},
		{"put from where it is", "put and replace", ""},
		{"first content stays", "put and replace", ""},
		{"empty is absent", "put and replace", ""},
		{"only the start", "put and replace", ""},
		{"no seek", "read and seek", ""},
		{"half is kept", "content that fails", ""},
		{"a failure empties", "content that fails", ""},
		{"errors are lost", "content that fails", ""},
		{"cancellation is ignored", "cancelled put", ""},
		{"cancelled is absent", "cancelled open", ""},
		{"reader ends with context", "reader outlives its context", ""},
		{"in place", "replaced while open", ""},
		{"goroutine stays", "goroutines", ""},
		{"cannot be closed", "goroutines", ""},
	} {
		t.Run(test.fault+" in "+test.in, func(t *testing.T) {
			t.Parallel()
			in := strings.ReplaceAll(test.in, " ", "_")
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFaultyCache$/^"+regexp.QuoteMeta(in)+"$", "-test.v")
			cmd.Env = append(os.Environ(), "MODFETCH_TEST_FAULTY_CACHE="+test.fault+".")
			out, err := cmd.CombinedOutput()
			if !bytes.Contains(out, []byte("=== RUN   TestFaultyCache/"+in+"\n")) {
				t.Fatalf("it did not run: %v\n%s", err, out)
			}
			if (err != nil) != (test.fault != "") {
				t.Errorf("%v\n%s", err, out)
			}
			if bytes.Contains(out, []byte("panic")) || !bytes.Contains(out, []byte(test.says)) {
				t.Errorf("want %q:\n%s", test.says, out)
			}
		})
	}
}

func TestFaultyCache(t *testing.T) {
	fault, ok := strings.CutSuffix(os.Getenv("MODFETCH_TEST_FAULTY_CACHE"), ".")
	if !ok {
		t.Skip("run by TestTestCacheFinds")
	}
	if strings.HasSuffix(fault, "hangs") {
		modfetchtest.SetPatience(time.Second)
	}
	modfetchtest.TestCache(t, func(t *testing.T) modfetch.Cache {
		return &faultyCache{fault: fault, files: make(map[string]*sharedFile)}
	})
}

// A faultyCache is a cache in memory with one fault, or none.
type faultyCache struct {
	fault string

	mu    sync.Mutex // guards the following
	files map[string]*sharedFile
	never map[string]bool
}

// key is the name under which a file is kept.
func (c *faultyCache) key(name string) string {
	switch c.fault {
	case "case is lost":
		return strings.ReplaceAll(name, "!", "")
	case "a slash is a dash":
		return strings.ReplaceAll(name, "/", "-")
	case "a tilde is lost":
		return strings.ReplaceAll(name, "~", "")
	case "names are cut at 255":
		return name[:min(len(name), 255)]
	}
	return name
}

// A sharedFile is read by all its readers as it is now.
type sharedFile struct {
	mu   sync.Mutex // guards the following
	data []byte
}

func (c *faultyCache) Open(ctx context.Context, name string) (io.ReadSeekCloser, error) {
	if !fs.ValidPath(name) || name == "." || strings.ContainsRune(name, 0) {
		if c.fault == "any name to open" {
			return &sharedReader{cache: c, file: new(sharedFile)}, nil
		}
		return nil, fs.ErrInvalid
	}
	if c.fault == "cancelled is absent" && ctx.Err() != nil {
		return nil, fs.ErrNotExist
	}
	if c.fault == "goroutine stays" {
		go func() { select {} }()
	}
	if c.fault == "Open hangs" {
		select {}
	}
	name = c.key(name)
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.files[name]
	if f == nil {
		switch c.fault {
		case "absence is any error":
			return nil, errors.New("there is nothing")
		case "anything is there":
			return &sharedReader{cache: c, file: new(sharedFile)}, nil
		}
		if c.never == nil {
			c.never = make(map[string]bool)
		}
		c.never[name] = true
	}
	if f == nil || c.fault == "absent once, absent for ever" && c.never[name] || c.fault == "empty is absent" && len(f.data) == 0 {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &sharedReader{cache: c, file: f, ctx: ctx}, nil
}

func (c *faultyCache) Put(ctx context.Context, name string, content io.ReadSeeker) error {
	if c.fault != "any name" && (!fs.ValidPath(name) || name == "." || strings.ContainsRune(name, 0)) {
		return fs.ErrInvalid
	}
	if c.fault == "Put hangs" || c.fault == "cancelled Put hangs" && ctx.Err() != nil {
		select {}
	}
	name = c.key(name)
	if c.fault != "put from where it is" {
		if _, err := content.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
	if c.fault == "a part is visible" && c.files[name] == nil {
		part := new(sharedFile)
		c.files[name] = part
		defer func() {
			if c.files[name] == part {
				delete(c.files, name)
			}
		}()
	}
	data, err := io.ReadAll(content)
	switch {
	case c.fault == "half is kept":
	case c.fault == "a failure empties" && err != nil:
		data = nil
	case c.fault == "errors are lost" && err != nil:
		return nil
	case c.fault == "cancellation is ignored" && err == nil:
	case err != nil:
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	}
	if c.fault == "only the start" {
		data = data[:min(len(data), 1<<20)]
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.files[name]
	if f == nil || c.fault != "in place" && c.fault != "first content stays" {
		c.files[name] = &sharedFile{data: data}
		return err
	}
	if c.fault == "in place" {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.data = data
	}
	return err
}

type sharedReader struct {
	cache *faultyCache
	file  *sharedFile
	at    int64
	ctx   context.Context
}

func (r *sharedReader) Read(p []byte) (int, error) {
	if r.cache.fault == "reader ends with context" && r.ctx.Err() != nil {
		return 0, r.ctx.Err()
	}
	r.file.mu.Lock()
	defer r.file.mu.Unlock()
	if r.at >= int64(len(r.file.data)) {
		return 0, io.EOF
	}
	n := copy(p, r.file.data[r.at:])
	r.at += int64(n)
	return n, nil
}

func (r *sharedReader) Seek(offset int64, whence int) (int64, error) {
	r.file.mu.Lock()
	defer r.file.mu.Unlock()
	switch whence {
	case io.SeekCurrent:
		offset += r.at
	case io.SeekEnd:
		offset += int64(len(r.file.data))
	}
	if offset < 0 {
		return 0, fs.ErrInvalid
	}
	if r.cache.fault != "no seek" {
		r.at = offset
	}
	return offset, nil
}

func (r *sharedReader) Close() error {
	if r.cache.fault == "cannot be closed" {
		return errors.New("it stays open")
	}
	return nil
}
