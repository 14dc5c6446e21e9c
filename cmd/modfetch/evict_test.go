package main

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modfetch/modfetch/internal/filelock"
	"github.com/modfetch/modfetch/modfetchtest"
	"golang.org/x/mod/module"
)

// A fullCache is a module cache that an evictor looks after.
type fullCache struct {
	*evictor
	t    *testing.T
	logs bytes.Buffer
}

func newFullCache(t *testing.T) *fullCache {
	c := &fullCache{t: t}
	c.evictor = &evictor{mod: t.TempDir(), log: slog.New(slog.NewTextHandler(&c.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	return c
}

// put writes a file of a size below cache/download, as old as that.
func (c *fullCache) put(name string, size int, age time.Duration) {
	c.t.Helper()
	c.write(filepath.Join(c.downloads(), filepath.FromSlash(name)), size, age)
}

// answer does the same with what the Handler keeps of a list or a branch.
func (c *fullCache) answer(name string, size int, age time.Duration) {
	c.t.Helper()
	c.write(filepath.Join(c.mod, "cache", "modfetch", "fresh", filepath.FromSlash(name)), size, age)
}

func (c *fullCache) write(name string, size int, age time.Duration) {
	c.t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(name, make([]byte, size), 0o666); err != nil {
		c.t.Fatal(err)
	}
	c.age(name, age)
}

func (c *fullCache) age(name string, age time.Duration) {
	c.t.Helper()
	if err := os.Chtimes(name, time.Time{}, time.Now().Add(-age)); err != nil {
		c.t.Fatal(err)
	}
}

// version writes what the cache holds of a version with a zip of 1000 bytes, fetched and last used so long ago.
func (c *fullCache) version(name string, fetched, used time.Duration) {
	c.put(name+".info", 20, fetched)
	c.put(name+".mod", 30, fetched)
	c.put(name+".zip", 1000, fetched)
	c.put(name+".ziphash", 47, used)
	c.put(name+".lock", 0, fetched)
}

// left returns the names of the files below cache/download that are left, but for locks.
func (c *fullCache) left() (names []string) { return c.below(c.downloads()) }

func (c *fullCache) below(dir string) (names []string) {
	c.t.Helper()
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && filepath.Ext(name) != ".lock" {
			name, err = filepath.Rel(dir, name)
			names = append(names, filepath.ToSlash(name))
		}
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return names
}

func (c *fullCache) has(name string) bool { return slices.Contains(c.left(), name) }

const day = 24 * time.Hour

func TestEvictLeastRecentlyUsed(t *testing.T) {
	c := newFullCache(t)
	c.version("a.example/m/@v/v1.0.0", 30*day, 1*day)
	c.version("a.example/m/@v/v1.1.0", 2*day, 20*day) // its hash was on record before
	c.version("b.example/!m/@v/v1.0.0", 10*day, 10*day)
	c.version("c.example/m/@v/v1.0.0", 20*day, 5*day)
	for _, test := range []struct {
		max     int64
		evicted int64    // so far
		zips    []string // that are left
	}{
		{5000, 0, []string{"a.example/m/@v/v1.0.0", "a.example/m/@v/v1.1.0", "b.example/!m/@v/v1.0.0", "c.example/m/@v/v1.0.0"}},
		{4388, 0, []string{"a.example/m/@v/v1.0.0", "a.example/m/@v/v1.1.0", "b.example/!m/@v/v1.0.0", "c.example/m/@v/v1.0.0"}},
		{4387, 1, []string{"a.example/m/@v/v1.0.0", "a.example/m/@v/v1.1.0", "c.example/m/@v/v1.0.0"}},
		{2700, 2, []string{"a.example/m/@v/v1.0.0", "a.example/m/@v/v1.1.0"}},
		{1500, 4, nil}, // not 1388 of 1500 bytes: there would be no room for long
	} {
		c.max = test.max
		c.walk(t.Context())
		var zips []string
		for _, name := range c.left() {
			if base, ok := strings.CutSuffix(name, ".zip"); ok {
				zips = append(zips, base)
			}
		}
		if !slices.Equal(zips, test.zips) || c.evictions.Load() != test.evicted || c.evicted.Load() != 1000*test.evicted {
			t.Errorf("with a limit of %d, %d zips of %d bytes are evicted, and left are %v, want %v",
				test.max, c.evictions.Load(), c.evicted.Load(), zips, test.zips)
		}
		if want := 4388 - 1000*test.evicted; c.bytes.Load() != want {
			t.Errorf("with a limit of %d, the size is %d, want %d", test.max, c.bytes.Load(), want)
		}
	}
	for _, name := range []string{"b.example/!m/@v/v1.0.0.info", "b.example/!m/@v/v1.0.0.mod", "b.example/!m/@v/v1.0.0.ziphash"} {
		if !c.has(name) {
			t.Errorf("%s is gone without need", name)
		}
	}
	if !strings.Contains(c.logs.String(), `msg="made room in the cache" answers=0 versions=2 removed=2000 bytes=388 limit=1500`) {
		t.Errorf("logged: %s", c.logs.String())
	}
}

func TestEvictAnswersFirst(t *testing.T) {
	c := newFullCache(t)
	c.version("a.example/m/@v/v1.0.0", 30*day, 30*day) // 1097 bytes
	c.answer("a.example/m/@v/list", 200, 3*day)
	c.answer("a.example/m/@latest", 100, 2*day)
	c.answer("a.example/m/@v/main.info", 300, 1*day) // looks like a file of a version
	evicted := func(max int64, answers, versions int, left ...string) {
		t.Helper()
		c.max = max
		c.logs.Reset()
		c.walk(t.Context())
		if got := c.below(filepath.Join(c.mod, "cache", "modfetch")); !slices.Equal(got, left) {
			t.Errorf("with a limit of %d, the answers left are %v, want %v", max, got, left)
		}
		if want := fmt.Sprintf(" answers=%d versions=%d ", answers, versions); !strings.Contains(c.logs.String(), want) && answers+versions > 0 {
			t.Errorf("with a limit of %d, logged: %s", max, c.logs.String())
		}
		if c.has("a.example/m/@v/v1.0.0.zip") != (versions == 0) {
			t.Errorf("with a limit of %d, left are %v", max, c.left())
		}
	}
	evicted(1697, 0, 0, "fresh/a.example/m/@latest", "fresh/a.example/m/@v/list", "fresh/a.example/m/@v/main.info")
	if c.bytes.Load() != 1697 {
		t.Errorf("the size is %d, want 1697", c.bytes.Load())
	}
	evicted(1696, 1, 0, "fresh/a.example/m/@latest", "fresh/a.example/m/@v/main.info")
	evicted(1400, 2, 0)
	if c.bytes.Load() != 1097 || c.evictions.Load() != 3 || c.evicted.Load() != 600 {
		t.Errorf("the size is %d, after %d evictions of %d bytes", c.bytes.Load(), c.evictions.Load(), c.evicted.Load())
	}
	evicted(1000, 0, 1)
	err := filepath.WalkDir(c.answers(), func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			t.Errorf("%s is left", name) // one lock for each answer would be no less than the answer
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestEvictSmallFilesLast(t *testing.T) {
	c := newFullCache(t)
	c.version("a.example/m/@v/v1.0.0", 3*day, 3*day)
	c.put("a.example/m/@v/v1.1.0.mod", 30, 2*day)
	c.put("a.example/m/@v/v1.2.0.mod", 30, 1*day)
	c.put("a.example/m/@v/list", 0, day)
	list := filepath.Join(c.downloads(), "a.example", "m", "@v", "list")
	if err := os.WriteFile(list, []byte("v1.0.0\nv1.1.0\nv1.2.0\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	sums := []string{"sumdb/sum.golang.org/lookup/a.example/m@v1.0.0-of.mod", "sumdb/sum.golang.org/tile/8/0/000"}
	for _, name := range sums {
		c.put(name, 40, 100*day)
	}
	c.max = 220 // of 80 bytes of sums, 47 of a hash, 14 of the list, and one go.mod file
	c.walk(t.Context())
	want := append([]string{"a.example/m/@v/list", "a.example/m/@v/v1.0.0.ziphash", "a.example/m/@v/v1.2.0.mod"}, sums...)
	if left := c.left(); !slices.Equal(left, want) {
		t.Errorf("left are %v, want %v", left, want)
	}
	if text, _ := os.ReadFile(list); string(text) != "v1.2.0\n" {
		t.Errorf("the list is %q", text)
	}
	if strings.Contains(c.logs.String(), "level=WARN") {
		t.Errorf("logged: %s", c.logs.String())
	}

	c.max = 100
	c.walk(t.Context())
	if left := c.left(); !slices.Contains(left, sums[0]) || !slices.Contains(left, sums[1]) || len(left) != 4 {
		t.Errorf("left are %v", left)
	}
	if !strings.Contains(c.logs.String(), "level=WARN") {
		t.Errorf("that the limit cannot be kept is not said: %s", c.logs.String())
	}
}

func TestEvictNothingInUse(t *testing.T) {
	c := newFullCache(t)
	c.version("a.example/m/@v/v1.0.0", 3*day, 3*day)
	c.version("b.example/m/@v/v1.0.0", 2*day, 2*day)
	c.put("c.example/m/@v/v1.0.0.mod", 30, 4*day)
	hold := func(module string) io.Closer {
		t.Helper()
		lock, err := filelock.Open(t.Context(), filepath.Join(c.downloads(), module, "m", "@v", "v1.0.0.lock"), nil)
		if err != nil {
			t.Fatal(err)
		}
		return lock
	}
	lock := hold("a.example")
	defer hold("c.example").Close()
	c.max = 1500
	c.walk(t.Context())
	lock.Close()
	if !c.has("a.example/m/@v/v1.0.0.zip") || !c.has("a.example/m/@v/v1.0.0.mod") || c.has("b.example/m/@v/v1.0.0.zip") {
		t.Errorf("while a version is locked, left are %v", c.left())
	}
	if !strings.Contains(c.logs.String(), `level=DEBUG msg="not removed from the cache" files=`) {
		t.Errorf("logged: %s", c.logs.String())
	}

	_, _, versions, err := c.find(t.Context())
	if err != nil || len(versions) != 3 {
		t.Fatal(versions, err)
	}
	c.used(module.Version{Path: "a.example/m", Version: "v1.0.0"})
	c.max = 100
	if left := c.evict(t.Context(), versions, 1000, 0, func(v *cachedVersion) *part { return &v.zip }, locked(removeZip)); left != 1000 || !c.has("a.example/m/@v/v1.0.0.zip") {
		t.Errorf("a zip that was used after the walk is gone, %d bytes left", left)
	}
	c.evict(t.Context(), versions, 1000, 0, func(v *cachedVersion) *part { return &v.rest }, locked(removeRest))
	if !c.has("a.example/m/@v/v1.0.0.mod") || c.has("b.example/m/@v/v1.0.0.mod") {
		t.Errorf("of small files, those beside a zip are to stay; left are %v", c.left())
	}
	c.max = 1
	if c.walk(t.Context()); !c.has("c.example/m/@v/v1.0.0.mod") || c.has("a.example/m/@v/v1.0.0.mod") {
		t.Errorf("of small files, those of a locked version are to stay; left are %v", c.left())
	}
}

func TestUseIsNoted(t *testing.T) {
	c := newFullCache(t)
	m := module.Version{Path: "a.example/M", Version: "v1.0.0"}
	c.version("a.example/!m/@v/v1.0.0", 3*day, 3*day)
	base := filepath.Join(c.downloads(), "a.example", "!m", "@v", "v1.0.0")
	age := func(suffix string) time.Duration {
		info, err := os.Stat(base + suffix)
		if err != nil {
			t.Fatal(err)
		}
		return time.Since(info.ModTime()).Round(time.Minute)
	}
	c.used(m)
	if age(".ziphash") != 0 || age(".zip") != 3*day {
		t.Errorf("after use, the hash is %s old, and the zip %s", age(".ziphash"), age(".zip"))
	}
	c.age(base+".ziphash", 30*time.Minute)
	if c.used(m); age(".ziphash") != 30*time.Minute {
		t.Error("use is noted more often than needed")
	}
	c.used(module.Version{Path: "a.example/nope", Version: "v1.0.0"})
	c.used(module.Version{Path: "../../x", Version: "v1.0.0"})
	if len(c.left()) != 4 {
		t.Errorf("a note of what is not there makes files: %v", c.left())
	}
}

func TestEvictorWalksWhenNeeded(t *testing.T) {
	c := newFullCache(t)
	synctest.Test(t, func(t *testing.T) {
		c.max = 3000
		done := make(chan bool)
		stopped := t.Context()
		go func() {
			defer close(done)
			c.run(stopped)
		}()
		look := func(after time.Duration, seen int64) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			if got := c.bytes.Load(); got != seen {
				t.Errorf("the evictor has seen %d bytes, want %d", got, seen)
			}
		}
		look(time.Second, 0)
		if c.logs.Len() > 0 {
			t.Errorf("of a cache in which nothing is yet, it says %s", c.logs.String())
		}
		c.version("a.example/m/@v/v1.0.0", 0, 0)
		look(2*time.Minute, 0) // nothing has come from a mirror
		c.arrived(3000)
		look(2*time.Minute, 0) // it cannot be too much
		c.arrived(1)
		look(30*time.Second, 0)
		look(30*time.Second, 1097)
		if c.written.Load() != 0 {
			t.Error("the next walk comes too soon")
		}
	})
}

// TestEvictWhileServing has clients take zips out of a cache in which there is never room for one.
func TestEvictWhileServing(t *testing.T) {
	w := newWorld(t)
	content := strings.Repeat("0123456789abcdef", 20000)
	const versions = 5
	for i := range versions {
		w.Add(modfetchtest.NewModule("example.com/big", fmt.Sprintf("v1.0.%d", i)).File("a.txt", content+fmt.Sprint(i)))
	}
	s := w.serve("-cache-max", "1KB")
	var want [versions]string
	path := func(i int) string { return fmt.Sprintf("/example.com/big/@v/v1.0.%d.zip", i) }
	for i := range want {
		_, want[i] = s.get(path(i))
	}
	e := &evictor{mod: filepath.Join(s.cache, "pkg", "mod"), max: 1000, log: slog.New(slog.DiscardHandler)}
	stop, stopped := make(chan bool), make(chan bool)
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				e.walk(t.Context())
				runtime.Gosched()
			}
		}
	}()
	var clients sync.WaitGroup
	for client := range 4 {
		clients.Go(func() {
			for n := range 25 {
				i := (client + n) % versions
				resp, err := http.Get(s.url + path(i))
				if err != nil {
					t.Error(err)
					continue
				}
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != 200 || string(body) != want[i] {
					t.Errorf("%s: %s, %d bytes of %d, %v", path(i), resp.Status, len(body), len(want[i]), err)
				}
			}
		})
	}
	clients.Wait()
	close(stop)
	<-stopped
	if e.evictions.Load() == 0 {
		t.Error("nothing was evicted")
	}
	t.Logf("%d evictions", e.evictions.Load())
}
