package modfetch_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/modfetchtest"
	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/dirhash"
)

const cachedName = "example.com/!m/@v/v1.0.0.zip"

// put stores text in a cache.
func put(t testing.TB, c modfetch.Cache, name, text string) {
	t.Helper()
	if err := c.Put(t.Context(), name, strings.NewReader(text)); err != nil {
		t.Fatal(err)
	}
}

// stored returns what a cache has under a name.
func stored(t testing.TB, c modfetch.Cache, name string) (string, error) {
	t.Helper()
	r, err := c.Open(t.Context(), name)
	if err != nil {
		if r != nil {
			t.Errorf("Open of %s returns both a reader and %v", name, err)
		}
		return "", err
	}
	defer func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if again, err := io.ReadAll(r); err != nil || !bytes.Equal(again, data) {
		t.Errorf("read again after Seek: %d bytes, %v; %d the first time", len(again), err, len(data))
	}
	return string(data), nil
}

// expect checks what a cache has under a name.
func expect(t testing.TB, c modfetch.Cache, name, want string) {
	t.Helper()
	if got, err := stored(t, c, name); err != nil || got != want {
		t.Errorf("%s is %.40q, %v; want %.40q", name, got, err, want)
	}
}

// caches are all those that the contract of Cache is held against.
func caches(t *testing.T) map[string]modfetch.Cache {
	return map[string]modfetch.Cache{
		"DirCache":           modfetch.DirCache(t.TempDir()),
		"DirCache to be":     modfetch.DirCache(filepath.Join(t.TempDir(), "not", "yet")),
		"MemCache":           new(modfetch.MemCache),
		"Tiered":             modfetch.Tiered(new(modfetch.MemCache), modfetch.DirCache(t.TempDir())),
		"Tiered small":       modfetch.Tiered(&modfetch.MemCache{MaxBytes: 5}, modfetch.DirCache(t.TempDir())),
		"Tiered in Tiered":   modfetch.Tiered(new(modfetch.MemCache), modfetch.Tiered(new(modfetch.MemCache), new(modfetch.MemCache))),
		"Tiered broken near": modfetch.Tiered(readOnlyCache{}, new(modfetch.MemCache)),
	}
}

// A readOnlyCache is empty and stays so without complaint.
type readOnlyCache struct{ brokenCache }

func (readOnlyCache) Put(context.Context, string, io.ReadSeeker) error { return nil }

func TestCacheContract(t *testing.T) {
	for name, c := range caches(t) {
		t.Run(name, func(t *testing.T) {
			if _, err := stored(t, c, cachedName); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("before Put: %v, want fs.ErrNotExist", err)
			}
			put(t, c, cachedName, "first")
			expect(t, c, cachedName, "first")
			put(t, c, "example.com/!m/@v/v1.0.0.mod", "another")
			expect(t, c, cachedName, "first")
			for _, text := range []string{"a longer text than the first", "short", "", strings.Repeat("x", 1<<20)} {
				put(t, c, cachedName, text)
				expect(t, c, cachedName, text)
			}
			put(t, c, "modfetch/fresh/example.com/!m/@v/list", "v1.0.0\n")
			expect(t, c, "modfetch/fresh/example.com/!m/@v/list", "v1.0.0\n")
			for _, name := range []string{"example.com/!m/@v/v1.0.1.zip", "example.org/x", "modfetch/fresh/example.com/!n/@v/list"} {
				if _, err := stored(t, c, name); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s: %v, want fs.ErrNotExist", name, err)
				}
			}
		})
	}
}

func TestCacheConformance(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(t *testing.T) modfetch.Cache{
		"DirCache": func(t *testing.T) modfetch.Cache { return modfetch.DirCache(t.TempDir()) },
		"MemCache": func(*testing.T) modfetch.Cache { return new(modfetch.MemCache) },
		"Tiered": func(t *testing.T) modfetch.Cache {
			return modfetch.Tiered(new(modfetch.MemCache), modfetch.DirCache(t.TempDir()))
		},
	} {
		t.Run(name, func(t *testing.T) { modfetchtest.TestCache(t, open) })
	}
}

func TestCachePutsFromTheBeginning(t *testing.T) {
	for name, c := range caches(t) {
		t.Run(name, func(t *testing.T) {
			r := strings.NewReader("all of it")
			r.Seek(4, io.SeekStart)
			if err := c.Put(t.Context(), cachedName, r); err != nil {
				t.Fatal(err)
			}
			expect(t, c, cachedName, "all of it")
		})
	}
}

// A faultyReader breaks where it is told to.
type faultyReader struct {
	io.ReadSeeker
	seek, read error
}

func (r faultyReader) Seek(offset int64, whence int) (int64, error) {
	if r.seek != nil {
		return 0, r.seek
	}
	return r.ReadSeeker.Seek(offset, whence)
}

func (r faultyReader) Read(p []byte) (int, error) {
	n, err := r.ReadSeeker.Read(p[:min(len(p), 3)])
	if err == io.EOF && r.read != nil {
		err = r.read
	}
	return n, err
}

func TestCacheKeepsTheOldAfterAnError(t *testing.T) {
	broken := errors.New("broken")
	for name, c := range caches(t) {
		t.Run(name, func(t *testing.T) {
			put(t, c, cachedName, "old")
			for what, r := range map[string]io.ReadSeeker{
				"read": faultyReader{strings.NewReader("newer"), nil, broken},
				"seek": faultyReader{strings.NewReader("newer"), broken, nil},
			} {
				if err := c.Put(t.Context(), cachedName, r); !errors.Is(err, broken) {
					t.Errorf("%s: error %v, want %v", what, err, broken)
				}
				expect(t, c, cachedName, "old")
				if err := c.Put(t.Context(), "example.com/!n/@v/v1.0.0.zip", r); err == nil {
					t.Errorf("%s: no error for a new name", what)
				}
				if _, err := stored(t, c, "example.com/!n/@v/v1.0.0.zip"); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s: a new name is there after an error: %v", what, err)
				}
			}
		})
	}
}

func TestCacheIsAtomic(t *testing.T) {
	texts := []string{strings.Repeat("a", 200_000), strings.Repeat("b", 120_000), strings.Repeat("c", 1000)}
	for name, c := range caches(t) {
		t.Run(name, func(t *testing.T) {
			put(t, c, cachedName, texts[0])
			var wg sync.WaitGroup
			for i := range 3 {
				wg.Go(func() {
					for j := range 12 {
						if err := c.Put(t.Context(), cachedName, strings.NewReader(texts[(i+j)%len(texts)])); err != nil {
							t.Error(err)
						}
					}
				})
				wg.Go(func() {
					for range 12 {
						r, err := c.Open(t.Context(), cachedName)
						if err != nil {
							t.Error(err)
							return
						}
						data, err := io.ReadAll(r)
						r.Close()
						if err != nil || !slices.Contains(texts, string(data)) {
							t.Errorf("read %d bytes that nobody put together, %v", len(data), err)
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// TestCacheDoesNotChangeWhatIsOpen shows that a reader goes on with what it has opened.
func TestCacheDoesNotChangeWhatIsOpen(t *testing.T) {
	for name, c := range caches(t) {
		t.Run(name, func(t *testing.T) {
			put(t, c, cachedName, "old")
			r, err := c.Open(t.Context(), cachedName)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			put(t, c, cachedName, "new")
			if data, err := io.ReadAll(r); err != nil || string(data) != "old" {
				t.Errorf("read %q, %v, want what was there when it was opened", data, err)
			}
		})
	}
}

func TestCacheRefusesNamesThatEscape(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "cache")
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(top, "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o666); err != nil {
		t.Fatal(err)
	}
	c := modfetch.DirCache(dir)
	for _, name := range []string{"", ".", "/", "..", "../secret", "a/../../secret", "a/../b", "./a", "a//b", "a/", secret, "a\x00b"} {
		t.Run(fmt.Sprintf("%q", name), func(t *testing.T) {
			if r, err := c.Open(t.Context(), name); err == nil || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Open: %v, want a refusal", err)
				if r != nil {
					r.Close()
				}
			}
			if err := c.Put(t.Context(), name, strings.NewReader("evil")); err == nil {
				t.Error("Put: no error")
			}
			if unlock, err := c.Lock(t.Context(), name); err == nil {
				t.Error("Lock: no error")
				unlock()
			}
		})
	}
	if got := files(t, top); !slices.Equal(got, []string{"secret"}) {
		t.Errorf("files %q", got)
	}
	if entries, _ := os.ReadDir(top); len(entries) != 2 {
		t.Errorf("beside the cache: %v", entries)
	}
	if data, _ := os.ReadFile(secret); string(data) != "secret" {
		t.Errorf("the file outside is now %q", data)
	}
}

func TestMemCacheRefusesMalformedNames(t *testing.T) {
	for _, name := range []string{"", "/a", "../a", "a/../b", "a//b", "a/"} {
		if err := new(modfetch.MemCache).Put(t.Context(), name, strings.NewReader("x")); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q: error %v, want fs.ErrInvalid", name, err)
		}
	}
}

func TestDirCacheWithoutADirectory(t *testing.T) {
	t.Chdir(t.TempDir())
	var c modfetch.DirCache
	if _, err := c.Open(t.Context(), cachedName); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("Open: %v, want fs.ErrInvalid", err)
	}
	if err := c.Put(t.Context(), cachedName, strings.NewReader("x")); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("Put: %v, want fs.ErrInvalid", err)
	}
	if _, err := c.Lock(t.Context(), cachedName); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("Lock: %v, want fs.ErrInvalid", err)
	}
	if left := files(t, "."); len(left) > 0 {
		t.Errorf("files %q", left)
	}
}

func TestDirCacheLeavesNoTemporaryFiles(t *testing.T) {
	dir := t.TempDir()
	c := modfetch.DirCache(dir)
	put(t, c, cachedName, "old")
	gone := errors.New("the caller has left")
	ctx, cancel := context.WithCancelCause(t.Context())
	for name, try := range map[string]func() error{
		"read error": func() error {
			return c.Put(t.Context(), cachedName, faultyReader{strings.NewReader("new"), nil, gone})
		},
		"seek error": func() error {
			return c.Put(t.Context(), cachedName, faultyReader{strings.NewReader("new"), gone, nil})
		},
		"cancelled": func() error {
			cancel(gone)
			return c.Put(ctx, cachedName, strings.NewReader("new"))
		},
	} {
		if err := try(); !errors.Is(err, gone) {
			t.Errorf("%s: error %v, want %v", name, err, gone)
		}
		if got := files(t, dir); !slices.Equal(got, []string{cachedName}) {
			t.Errorf("%s: files %q", name, got)
		}
		expect(t, c, cachedName, "old")
	}
	// The final name is taken by what cannot be replaced.
	if err := c.Put(t.Context(), "example.com/!m", strings.NewReader("new")); err == nil {
		t.Error("a directory was replaced")
	}
	if got := files(t, dir); !slices.Equal(got, []string{cachedName}) {
		t.Errorf("files %q", got)
	}
}

func TestDirCacheIsAGOPROXY(t *testing.T) {
	goCommand := needGo(t)
	s := newWorld(t)
	dir := t.TempDir()
	f, err := modfetch.New(append(s.Options(), modfetch.WithCache(modfetch.DirCache(dir)))...)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, m := range allModules {
		if _, err := f.Info(t.Context(), m.Path, m.Version); err != nil {
			t.Fatal(err)
		}
		if _, err := f.GoMod(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		z, err := f.Zip(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		z.Close()
	}
	env := append(s.Env(t), "GOPROXY=file://"+filepath.ToSlash(dir), "GOSUMDB=off", "GOFLAGS=-modcacherw")
	for _, m := range allModules {
		runGo(t, goCommand, env, "mod", "download", m.String())
	}
}

func TestDirCacheLock(t *testing.T) {
	dir := t.TempDir()
	var c modfetch.Locker = modfetch.DirCache(dir)
	var inside atomic.Int32
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 5 {
				// Two values of one directory, as two processes have.
				unlock, err := modfetch.DirCache(dir).Lock(t.Context(), cachedName)
				if err != nil {
					t.Error(err)
					return
				}
				if n := inside.Add(1); n != 1 {
					t.Errorf("%d hold the lock", n)
				}
				inside.Add(-1)
				if err := unlock(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()

	unlock, err := c.Lock(t.Context(), cachedName)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	other, err := c.Lock(t.Context(), "example.com/!n/@v/v1.0.0.zip")
	if err != nil {
		t.Fatal(err)
	}
	other()
	put(t, modfetch.DirCache(dir), cachedName, "put by the holder")
	expect(t, modfetch.DirCache(dir), cachedName, "put by the holder")
	gone := errors.New("the caller has left")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	if _, err := c.Lock(ctx, cachedName); !errors.Is(err, gone) {
		t.Errorf("error %v, want %v", err, gone)
	}
}

func TestMemCacheEviction(t *testing.T) {
	for _, test := range []struct {
		name string
		max  int64
		do   string // space-separated: +name puts three bytes, !name ten, ?name opens
		want string
	}{
		{"no limit", 0, "+a +b +c +d !e", "a b c d e"},
		{"within the limit", 9, "+a +b +c", "a b c"},
		{"oldest first", 9, "+a +b +c +d", "b c d"},
		{"several at once", 10, "+a +b +c !d", "d"},
		{"what is opened stays", 9, "+a +b +c ?a +d", "a c d"},
		{"what is put again stays", 9, "+a +b +c +a +d", "a c d"},
		{"what is put again counts once", 9, "+a +a +a +a +b +c", "a b c"},
		{"larger than the limit", 9, "+a !b", "a"},
		{"larger than the limit replaces", 9, "+a +b !a", "b"},
		{"a miss changes nothing", 9, "+a +b +c ?x +d", "b c d"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := &modfetch.MemCache{MaxBytes: test.max}
			for _, op := range strings.Fields(test.do) {
				switch op[0] {
				case '+':
					put(t, c, op[1:], "123")
				case '!':
					put(t, c, op[1:], "1234567890")
				case '?':
					stored(t, c, op[1:])
				}
			}
			var got []string
			for _, name := range []string{"a", "b", "c", "d", "e"} {
				if _, err := stored(t, c, name); err == nil {
					got = append(got, name)
				} else if !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s: %v", name, err)
				}
			}
			if strings.Join(got, " ") != test.want {
				t.Errorf("it holds %q, want %q", got, test.want)
			}
		})
	}
}

// A measuredReader has a size and counts what is read of it.
type measuredReader struct{ size, read int64 }

func (r *measuredReader) Seek(offset int64, whence int) (int64, error) {
	if whence == io.SeekEnd {
		return r.size + offset, nil
	}
	return offset, nil
}

func (r *measuredReader) Read(p []byte) (int, error) {
	n := int(min(int64(len(p)), r.size-r.read))
	if r.read += int64(n); n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// TestMemCacheDoesNotReadWhatItWillNotKeep shows that a small cache takes no memory for a large zip.
// A sizedReader states a size of its own, as a store can.
type sizedReader struct {
	io.ReadSeeker
	size int64
}

func (r sizedReader) Seek(offset int64, whence int) (int64, error) {
	if whence == io.SeekEnd {
		return r.size, nil
	}
	return r.ReadSeeker.Seek(offset, whence)
}

func TestMemCacheBelievesNoSize(t *testing.T) {
	for _, size := range []int64{math.MinInt64, -1000, 0, 1, 1 << 46, math.MaxInt64} {
		var c modfetch.MemCache
		if err := c.Put(t.Context(), cachedName, sizedReader{strings.NewReader("content"), size}); err != nil {
			t.Errorf("%d: %v", size, err)
		}
		expect(t, &c, cachedName, "content")
	}
}

func TestMemCacheDoesNotReadWhatItWillNotKeep(t *testing.T) {
	c := &modfetch.MemCache{MaxBytes: 1 << 10}
	r := &measuredReader{size: 1 << 22}
	if err := c.Put(t.Context(), cachedName, r); err != nil {
		t.Fatal(err)
	}
	if r.read > 64<<10 {
		t.Errorf("%d bytes were read into memory for a cache of %d", r.read, c.MaxBytes)
	}
	if _, err := stored(t, c, cachedName); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want fs.ErrNotExist", err)
	}
}

// A countingCache counts what it is asked for.
type countingCache struct {
	modfetch.Cache
	opens, puts []string
}

func (c *countingCache) Open(ctx context.Context, name string) (io.ReadSeekCloser, error) {
	c.opens = append(c.opens, name)
	return c.Cache.Open(ctx, name)
}

func (c *countingCache) Put(ctx context.Context, name string, r io.ReadSeeker) error {
	c.puts = append(c.puts, name)
	return c.Cache.Put(ctx, name, r)
}

func TestTiered(t *testing.T) {
	near, far := &countingCache{Cache: new(modfetch.MemCache)}, &countingCache{Cache: new(modfetch.MemCache)}
	c := modfetch.Tiered(near, far)
	put(t, far.Cache, "a", "far away")
	expect(t, c, "a", "far away")
	expect(t, near.Cache, "a", "far away")
	expect(t, c, "a", "far away")
	if len(far.opens) != 1 || len(near.puts) != 1 {
		t.Errorf("far was asked for %q and near given %q, want both once", far.opens, near.puts)
	}
	put(t, c, "b", "both")
	expect(t, near.Cache, "b", "both")
	expect(t, far.Cache, "b", "both")
	put(t, near.Cache, "c", "only near")
	expect(t, c, "c", "only near")
	if _, err := stored(t, far.Cache, "c"); err == nil {
		t.Error("what near had was put into far")
	}
}

func TestTieredWithABrokenCache(t *testing.T) {
	mem := new(modfetch.MemCache)
	put(t, mem, "a", "text")
	for name, near := range map[string]modfetch.Cache{
		"near cannot open or put": brokenCache{},
		"near forgets":            readOnlyCache{},
		"near cannot put":         putlessCache{new(modfetch.MemCache)},
		"near is too small":       &modfetch.MemCache{MaxBytes: 1},
	} {
		t.Run(name, func(t *testing.T) {
			c := modfetch.Tiered(near, mem)
			expect(t, c, "a", "text")
			if _, err := stored(t, c, "b"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("error %v, want fs.ErrNotExist", err)
			}
		})
	}
	t.Run("far", func(t *testing.T) {
		c := modfetch.Tiered(mem, brokenCache{})
		expect(t, c, "a", "text")
		if _, err := stored(t, c, "b"); !errors.Is(err, errBroken) || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("error %v, want that of far", err)
		}
		if err := c.Put(t.Context(), "c", strings.NewReader("text")); !errors.Is(err, errBroken) {
			t.Errorf("error %v, want that of far", err)
		}
	})
}

// A putlessCache reads part of what it is to store, and fails.
type putlessCache struct{ modfetch.Cache }

func (putlessCache) Put(_ context.Context, _ string, r io.ReadSeeker) error {
	r.Read(make([]byte, 2))
	return errBroken
}

// TestTieredClosesFar shows that the far reader is closed, whoever answers.
func TestTieredClosesFar(t *testing.T) {
	for name, near := range map[string]modfetch.Cache{"near keeps": new(modfetch.MemCache), "near is broken": brokenCache{}} {
		t.Run(name, func(t *testing.T) {
			far := &closeCounter{Cache: new(modfetch.MemCache)}
			put(t, far.Cache, "a", "text")
			expect(t, modfetch.Tiered(near, far), "a", "text")
			if far.open != 0 {
				t.Errorf("%d readers are open", far.open)
			}
		})
	}
}

type closeCounter struct {
	modfetch.Cache
	open int
}

func (c *closeCounter) Open(ctx context.Context, name string) (io.ReadSeekCloser, error) {
	r, err := c.Cache.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	c.open++
	return closeFunc{r, func() { c.open-- }}, nil
}

type closeFunc struct {
	io.ReadSeekCloser
	closed func()
}

func (c closeFunc) Close() error {
	c.closed()
	return c.ReadSeekCloser.Close()
}

// TestNoTrustIsLent has Fetchers that accept different bytes of one version work in one cache, each after each other one.
func TestNoTrustIsLent(t *testing.T) {
	t.Parallel()
	s := newWorld(t)
	evil := modfetchtest.NewServer(t, nil)
	evil.Add(modfetchtest.NewModule(moduleM.Path, moduleM.Version).File("m.go", "package evil\n").File("go.mod", "module example.com/m\n\ngo 1.99\n"))
	sum, goModSum := sumsOf(s, moduleM)
	evilSum, evilGoModSum := sumsOf(evil, moduleM)
	pinned := goSum(t, moduleM.Path+" v1.0.0 "+evilSum, moduleM.Path+" v1.0.0/go.mod "+evilGoModSum)
	off := []modfetch.Option{modfetch.WithGOPROXY(evil.URL), modfetch.WithSumDB("off")}

	type policy struct {
		name      string
		opts      []modfetch.Option
		sums      [2]string // of the zip and the go.mod file; none if anything is accepted
		by        string    // who vouches
		forbidden bool      // nothing is accepted
	}
	policies := []policy{
		{"database", s.Options(), [2]string{sum, goModSum}, databaseOf(s), false},
		{"go.sum for others", append(off, modfetch.WithGoSum(pinned)), [2]string{evilSum, evilGoModSum}, "go.sum", false},
		{"no database", off, [2]string{}, "", false},
		{"no database, but required", append(off, modfetch.WithPolicy(modfetch.Policy{RequireVerified: true})), [2]string{}, "", true},
	}
	for name, in := range map[string]func(t *testing.T) []modfetch.Option{
		"module cache": func(t *testing.T) []modfetch.Option { return []modfetch.Option{modfetch.WithModCache(tempDir(t))} },
		"Cache": func(t *testing.T) []modfetch.Option {
			return []modfetch.Option{modfetch.WithCache(new(modfetch.MemCache))}
		},
		"both": func(t *testing.T) []modfetch.Option {
			return []modfetch.Option{modfetch.WithModCache(tempDir(t)), modfetch.WithCache(modfetch.DirCache(t.TempDir()))}
		},
	} {
		t.Run(name, func(t *testing.T) {
			shared := in(t)
			fetchers := make([]*modfetch.Fetcher, len(policies))
			for i, p := range policies {
				f, err := modfetch.New(append(slices.Clone(p.opts), shared...)...)
				if err != nil {
					t.Fatal(err)
				}
				fetchers[i] = f
			}
			use := func(f *modfetch.Fetcher, p policy, after string) {
				for m, err := range f.Download(t.Context(), []module.Version{moduleM}) {
					if p.forbidden {
						if modfetch.KindOf(err) != modfetch.Forbidden {
							t.Errorf("%s after %s: error %v, want a refusal", p.name, after, err)
						}
						continue
					}
					if err != nil {
						t.Errorf("%s after %s: %v", p.name, after, err)
					}
					if got := [2]string{m.Sum, m.GoModSum}; p.by != "" && got != p.sums {
						t.Errorf("%s after %s: hashes %q, want %q", p.name, after, got, p.sums)
					}
					if m.VerifiedBy != p.by || m.GoModVerifiedBy != p.by || (m.Unverified == "") != (p.by != "") {
						t.Errorf("%s after %s: verified by %q and %q, unverified %q; want %q", p.name, after, m.VerifiedBy, m.GoModVerifiedBy, m.Unverified, p.by)
					}
				}
				goMod, err := f.GoMod(t.Context(), moduleM)
				if (err != nil) != p.forbidden || p.by != "" && strings.Contains(string(goMod), "1.99") != (p.sums[0] == evilSum) {
					t.Errorf("%s after %s: go.mod %q, %v", p.name, after, goMod, err)
				}
				dir := filepath.Join(t.TempDir(), "extracted")
				err = f.Extract(t.Context(), moduleM, dir)
				dirs := []string{dir}
				if name != "Cache" && err == nil {
					if dir, err = f.Dir(t.Context(), moduleM); err == nil {
						dirs = append(dirs, dir)
					}
				}
				if (err != nil) != p.forbidden {
					t.Errorf("%s after %s: %v", p.name, after, err)
					return
				}
				for _, dir := range dirs {
					if got, _ := dirhash.HashDir(dir, moduleM.String(), dirhash.Hash1); p.by != "" && got != p.sums[0] {
						t.Errorf("%s after %s: tree %s, want %s", p.name, after, got, p.sums[0])
					}
				}
			}
			after := "nobody"
			for i, first := range policies {
				for j, second := range policies {
					use(fetchers[i], first, after)
					use(fetchers[j], second, first.name)
					after = second.name
				}
			}
		})
	}
}

// TestManyCallersComeAndGo cancels callers at random while one Fetcher works for all of them: those who stay get what they
// asked for, those who leave their own error.
func TestManyCallersComeAndGo(t *testing.T) {
	text := map[module.Version][2]string{ // a file, and what is in it
		moduleM:     {"m.go", "package m\n"},
		moduleUpper: {"c.go", "package c\n"},
		moduleV2:    {"m.go", "package m\n"},
		moduleOld:   {"old.go", "package old\n"},
	}
	const callers, calls, rounds = 16, 8, 4
	for name, in := range map[string]func(t *testing.T) []modfetch.Option{
		"module cache": func(t *testing.T) []modfetch.Option { return []modfetch.Option{modfetch.WithModCache(tempDir(t))} },
		"Cache": func(t *testing.T) []modfetch.Option {
			dir := modfetch.DirCache(t.TempDir())
			return []modfetch.Option{modfetch.WithCache(dir), modfetch.WithLocker(dir)}
		},
		"no cache": func(t *testing.T) []modfetch.Option { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			s := newWorld(t)
			temp := t.TempDir()
			t.Setenv("TMPDIR", temp)
			goroutines := runtime.NumGoroutine()
			var stayed, left atomic.Int32
			for round := range rounds {
				var mu sync.Mutex // guards the following
				random := rand.New(rand.NewPCG(uint64(round), 1))
				cancels := make([]context.CancelFunc, callers)
				happened := func() {
					mu.Lock()
					defer mu.Unlock()
					if n := random.IntN(4 * callers); n < callers && cancels[n] != nil {
						cancels[n]()
					}
				}
				attempt := func(context.Context, modfetch.AttemptInfo) { happened() }
				opts := in(t)
				f, err := modfetch.New(append(append(s.Options(), opts...), modfetch.WithTrace(&modfetch.Trace{
					AttemptStarted: attempt, AttemptDone: attempt, Progress: attempt,
					Cache:       func(context.Context, modfetch.CacheInfo) { happened() },
					Vouched:     func(context.Context, modfetch.VouchInfo) { happened() },
					LockWaiting: func(context.Context, string) { happened() },
					Joined:      func(context.Context, module.Version) { happened() },
				}))...)
				if err != nil {
					t.Fatal(err)
				}
				call := func(ctx context.Context, which int, m module.Version) (err error) {
					file := text[m][0]
					var data []byte
					switch which {
					case 0:
						var goMod []byte
						if goMod, err = f.GoMod(ctx, m); err == nil && !strings.HasPrefix(string(goMod), "module "+m.Path+"\n") {
							t.Errorf("%s: go.mod %q", m, goMod)
						}
						return err
					case 1:
						for _, e := range f.Download(ctx, allModules) {
							err = cmp.Or(err, e)
						}
						return err
					case 2:
						dir := ""
						if name == "module cache" {
							dir, err = f.Dir(ctx, m)
						} else {
							dir = filepath.Join(t.TempDir(), "new")
							err = f.Extract(ctx, m, dir)
						}
						if err != nil {
							return err
						}
						data, err = os.ReadFile(filepath.Join(dir, file))
					default:
						z, zipErr := f.Zip(ctx, m)
						if zipErr != nil {
							return zipErr
						}
						defer z.Close()
						var fsys fs.FS
						if fsys, err = z.FS(); err == nil {
							data, err = fs.ReadFile(fsys, m.String()+"/"+file)
						}
					}
					if err != nil || string(data) != text[m][1] {
						t.Errorf("%s: %s is %q, %v", m, file, data, err)
					}
					return nil
				}
				var wg sync.WaitGroup
				for caller := range callers {
					wg.Go(func() {
						for range calls {
							ctx, cancel := context.WithCancel(t.Context())
							mu.Lock()
							cancels[caller] = cancel
							which, m := random.IntN(4), allModules[random.IntN(len(allModules))]
							mu.Unlock()
							switch err := call(ctx, which, m); {
							case err == nil:
								stayed.Add(1)
							case ctx.Err() != nil && errors.Is(err, context.Canceled):
								left.Add(1)
							default:
								t.Errorf("%s, call %d: %v (own context: %v)", m, which, err, ctx.Err())
							}
							cancel()
						}
					})
				}
				wg.Wait()
				again, err := modfetch.New(append(s.Options(), opts...)...)
				if err != nil {
					t.Fatal(err)
				}
				download(t, again, allModules...)
				f.Close()
				again.Close()
			}
			if stayed.Load() == 0 || left.Load() == 0 {
				t.Errorf("%d calls were left alone, and %d cancelled", stayed.Load(), left.Load())
			}
			if left := files(t, temp); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
			for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > goroutines; runtime.Gosched() {
				if time.Now().After(deadline) {
					t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), goroutines)
				}
			}
		})
	}
}
