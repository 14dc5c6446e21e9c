package modfetchtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/modfetch/modfetch"
)

// TestCache holds an implementation of [modfetch.Cache] against its contract, in subtests of t. Each calls open for an empty
// cache, which open may clean up after with its own t.
//
//	func TestMyCache(t *testing.T) {
//		modfetchtest.TestCache(t, func(t *testing.T) modfetch.Cache { return mycache.New(t.TempDir()) })
//	}
//
// It stores a few files of 9 MiB, and finds most with the race detector on. Beyond what Cache says it expects what a Fetcher
// is served well by: names that are not slash-separated paths of elements (see [fs.ValidPath]) are refused; a failure other
// than absence is not fs.ErrNotExist; a cancelled Put stores nothing; a reader that is open while its file is replaced goes
// on with the old content or fails; nothing that was opened and closed leaves a goroutine behind; and Open and Put, which get
// little to do, return within a minute.
func TestCache(t *testing.T, open func(t *testing.T) modfetch.Cache) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, c modfetch.Cache)
	}{
		{"absence", testCacheAbsence},
		{"names", testCacheNames},
		{"malformed names", testCacheMalformedNames},
		{"put and replace", testCacheReplace},
		{"read and seek", testCacheSeek},
		{"never a part", testCacheNeverAPart},
		{"content that fails", testCacheContentFails},
		{"cancelled put", testCacheCancelledPut},
		{"cancelled open", testCacheCancelledOpen},
		{"reader outlives its context", testCacheReaderOutlivesContext},
		{"replaced while open", testCacheReplacedWhileOpen},
		{"many at once", testCacheManyAtOnce},
		{"goroutines", testCacheGoroutines},
	} {
		var c *promptCache
		t.Run(test.name, func(t *testing.T) {
			c = &promptCache{Cache: open(t), t: t}
			test.run(t, c)
		})
		if c != nil && c.hangs.Load() {
			return // as it would in all the others
		}
	}
}

// A promptCache fails the test when the cache does not return.
type promptCache struct {
	modfetch.Cache
	t     *testing.T
	hangs atomic.Bool // it is not asked again
}

func (c *promptCache) Open(ctx context.Context, name string) (io.ReadSeekCloser, error) {
	c.t.Helper()
	if c.hangs.Load() {
		return nil, errHangs
	}
	r, err := inTime(c.t, "Open "+name, nil, func() (io.ReadSeekCloser, error) { return c.Cache.Open(ctx, name) })
	if err == errHangs {
		c.hangs.Store(true)
	}
	return r, err
}

func (c *promptCache) Put(ctx context.Context, name string, content io.ReadSeeker) error {
	c.t.Helper()
	if c.hangs.Load() {
		return errHangs
	}
	_, err := inTime(c.t, "Put "+name, nil, func() (struct{}, error) { return struct{}{}, c.Cache.Put(ctx, name, content) })
	if err == errHangs {
		c.hangs.Store(true)
	}
	return err
}

const (
	cacheName  = "example.com/!m/@v/v1.0.0.zip"
	largeCache = 9<<20 + 345 // more than a buffer, more than one part of an upload
)

// A cacheContent is bytes made up as they are read. Two of different seeds differ in every byte, so that one cannot hold a
// piece of the other unseen.
type cacheContent struct {
	seed     byte
	size, at int64
	stop     int64        // where during is called, if it is not nil
	during   func() error // its error ends reading
}

// cachePeriods has what the content of each seed repeats. The length is a prime: no buffer's size falls in step with it.
var cachePeriods = sync.OnceValue(func() *[8][65521]byte {
	var periods [8][65521]byte
	for seed := range periods {
		for i := range periods[seed] {
			periods[seed][i] = byte(i) ^ byte(i>>8) + byte(seed)
		}
	}
	return &periods
})

func (c *cacheContent) Read(p []byte) (int, error) {
	if c.during != nil && c.at >= c.stop {
		if err := c.during(); err != nil {
			return 0, err
		}
	}
	if c.at >= c.size {
		return 0, io.EOF
	}
	end := c.size
	if c.during != nil && c.at < c.stop {
		end = min(end, c.stop)
	}
	period := cachePeriods()[c.seed][:]
	n := copy(p[:min(int64(len(p)), end-c.at)], period[c.at%int64(len(period)):])
	c.at += int64(n)
	return n, nil
}

func (c *cacheContent) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += c.at
	case io.SeekEnd:
		offset += c.size
	}
	c.at = offset
	return c.at, nil
}

// differs reads r to its end, and says how it is not the content from at on. Read errors are returned as they are.
func (c *cacheContent) differs(r io.Reader, at int64) (difference string, err error) {
	want := &cacheContent{seed: c.seed, size: c.size, at: at}
	got, expected := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := r.Read(got)
		m, _ := io.ReadFull(want, expected[:n])
		if !bytes.Equal(got[:n], expected[:m]) {
			return fmt.Sprintf("other bytes than were put, of %d, between %d and %d", c.size, want.at-int64(m), want.at), nil
		}
		if err == io.EOF && want.at < c.size {
			return fmt.Sprintf("%d of %d bytes", want.at, c.size), nil
		}
		if err == io.EOF {
			return "", nil
		}
		if err != nil {
			return "", err
		}
	}
}

// put stores content, and must be able to.
func (c *cacheContent) put(t *testing.T, in modfetch.Cache, name string) {
	t.Helper()
	if err := in.Put(t.Context(), name, c); err != nil {
		t.Fatalf("Put %s: %v", name, err)
	}
}

// expect checks that a cache has the content under a name.
func (c *cacheContent) expect(t *testing.T, in modfetch.Cache, name string) {
	t.Helper()
	r, err := in.Open(t.Context(), name)
	if err != nil {
		t.Errorf("Open %s: %v", name, err)
		return
	}
	difference, err := c.differs(r, 0)
	if difference != "" || err != nil {
		t.Errorf("%s: %s, %v", name, difference, err)
	}
	if err := r.Close(); err != nil {
		t.Errorf("Close %s: %v", name, err)
	}
}

// expectAbsent checks that a cache says of a name that it has nothing.
func expectAbsent(t *testing.T, c modfetch.Cache, name string) {
	t.Helper()
	r, err := c.Open(t.Context(), name)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open %s: %v, want fs.ErrNotExist", name, err)
	}
	if r == nil {
		return
	}
	if err == nil {
		r.Close()
	} else {
		t.Errorf("Open %s returns both a reader and %v", name, err)
	}
}

func testCacheAbsence(t *testing.T, c modfetch.Cache) {
	expectAbsent(t, c, cacheName)
	content := &cacheContent{size: 10}
	content.put(t, c, cacheName)
	content.expect(t, c, cacheName) // although it was absent before
	for _, name := range []string{
		"example.com/!m/@v/v1.0.0.mod", "example.com/!m/@v/v1.0.0.zi", "example.com/!m/@v/v1.0.0.zip2", "example.com/m/@v/v1.0.0.zip",
		"example.com/!n/@v/v1.0.0.zip", "modfetch/fresh/example.com/!m/@v/list",
	} {
		expectAbsent(t, c, name)
	}
}

func testCacheNames(t *testing.T, c modfetch.Cache) {
	long := strings.Repeat("long", 45)
	names := []string{
		"example.com/m/@v/v1.0.0.zip", "example.com/!m/@v/v1.0.0.zip", "example.com/m/!m/@v/v1.0.0.mod",
		"example.com/a~b/c_d.e-f/@v/v2.0.0+incompatible.info", "example.com/m/v2/@v/v2.0.0-0.20200101000000-abcdefabcdef.zip",
		"modfetch/fresh/example.com/!m/@v/list", "x", strings.Join([]string{long, long, long, long, "v1.0.0.zip"}, "/"),
		// What some storage takes for one:
		"example.com/m-x/@v/v1.0.0.zip", "example.com/m/x/@v/v1.0.0.zip", "example.com/m.x/@v/v1.0.0.zip", "example.com/m_x/@v/v1.0.0.zip",
		"example.com/ab/c_d.e-f/@v/v2.0.0+incompatible.info", "example.com/a~b/c_d.e-f/@v/v2.0.0-incompatible.info",
		strings.Join([]string{long, long, long, long, "v1.0.0.mod"}, "/"),
	}
	content := func(i int) *cacheContent { return &cacheContent{seed: byte(i % 8), size: int64(100 + i)} }
	for i, name := range names {
		content(i).put(t, c, name)
	}
	for i, name := range names {
		content(i).expect(t, c, name)
	}
}

func testCacheMalformedNames(t *testing.T, c modfetch.Cache) {
	const sibling = "a/b"
	(&cacheContent{size: 10}).put(t, c, sibling)
	for _, name := range []string{"", ".", "..", "/", "/x", "x/", "a//b", "../x", "a/../b", "./a", "a/./b", "a/..", "a/b/", "a\x00b"} {
		if err := c.Put(t.Context(), name, &cacheContent{seed: 1, size: 10}); err == nil {
			t.Errorf("Put %q: no error", name)
		}
		if r, err := c.Open(t.Context(), name); err == nil {
			t.Errorf("Open %q: no error", name)
			r.Close()
		}
	}
	(&cacheContent{size: 10}).expect(t, c, sibling)
	expectAbsent(t, c, "x")
	expectAbsent(t, c, "b")
}

func testCacheReplace(t *testing.T, c modfetch.Cache) {
	for seed, size := range []int64{100, 99, 0, 1, largeCache, 70_000, largeCache + 1, 0} {
		content := &cacheContent{seed: byte(seed), size: size, at: size / 2} // Put begins at the beginning
		content.put(t, c, cacheName)
		content.expect(t, c, cacheName)
		content.expect(t, c, cacheName)
	}
}

func testCacheSeek(t *testing.T, c modfetch.Cache) {
	for _, size := range []int64{0, 1, 2000} {
		content := &cacheContent{size: size}
		content.put(t, c, cacheName)
		content.Seek(0, io.SeekStart)
		all, _ := io.ReadAll(content)
		r, err := c.Open(t.Context(), cacheName)
		if err != nil {
			t.Fatal(err)
		}
		if err := iotest.TestReader(r, all); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
		r.Close()
	}
	content := &cacheContent{size: largeCache}
	content.put(t, c, cacheName)
	r, err := c.Open(t.Context(), cacheName)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	buf := make([]byte, 1000)
	for _, step := range []struct {
		offset int64
		whence int
		at     int64
	}{
		{0, io.SeekEnd, largeCache},
		{0, io.SeekStart, 0}, // and 1000 are read each time
		{0, io.SeekCurrent, 1000},
		{largeCache / 2, io.SeekStart, largeCache / 2},
		{5000, io.SeekCurrent, largeCache/2 + 6000},
		{-3000, io.SeekCurrent, largeCache/2 + 4000},
		{-10, io.SeekEnd, largeCache - 10},
		{10, io.SeekEnd, largeCache + 10},
		{-1500, io.SeekEnd, largeCache - 1500},
	} {
		at, err := r.Seek(step.offset, step.whence)
		if err != nil || at != step.at {
			t.Fatalf("Seek(%d, %d) is %d, %v, want %d", step.offset, step.whence, at, err, step.at)
		}
		n, err := io.ReadFull(r, buf)
		want := max(0, min(largeCache-at, 1000))
		if int64(n) != want || (n == len(buf)) != (err == nil) {
			t.Fatalf("at %d: %d bytes, %v, want %d", at, n, err, want)
		}
		expected := make([]byte, n)
		io.ReadFull(&cacheContent{size: largeCache, at: at}, expected)
		if !bytes.Equal(buf[:n], expected) {
			t.Errorf("other bytes at %d", at)
		}
	}
	if _, err := r.Seek(-1, io.SeekStart); err == nil {
		t.Error("Seek before the beginning: no error")
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if difference, err := content.differs(r, 0); difference != "" || err != nil {
		t.Errorf("all of it, after these: %s, %v", difference, err)
	}
}

// testCacheNeverAPart opens a new name and an old one while content for it is read.
func testCacheNeverAPart(t *testing.T, c modfetch.Cache) {
	old := &cacheContent{seed: 1, size: 5000}
	old.put(t, c, cacheName)
	const newName = "example.com/!m/@v/v1.0.1.zip"
	for _, size := range []int64{1000, largeCache} {
		for name, see := range map[string]func(){
			cacheName: func() { old.expect(t, c, cacheName) },
			newName:   func() { expectAbsent(t, c, newName) },
		} {
			for _, stop := range []int64{0, size - size/10} {
				content := &cacheContent{seed: 2, size: size, stop: stop, during: func() error {
					see()
					return errCacheContent
				}}
				if err := c.Put(t.Context(), name, content); err == nil {
					t.Errorf("Put of content that fails at %d of %d bytes: no error", stop, size)
				}
			}
		}
	}
}

var errCacheContent = errors.New("the content cannot be read on")

func testCacheContentFails(t *testing.T, c modfetch.Cache) {
	old := &cacheContent{seed: 1, size: 5000}
	old.put(t, c, cacheName)
	for _, size := range []int64{1, 70_000, largeCache} {
		for _, stop := range []int64{0, size / 2, size - size/10, size} {
			for _, name := range []string{cacheName, "example.com/!m/@v/v1.0.1.zip"} {
				content := &cacheContent{seed: 2, size: size, stop: stop, during: func() error { return errCacheContent }}
				if stop == size {
					content.size++ // one is missing
				}
				if err := c.Put(t.Context(), name, content); !errors.Is(err, errCacheContent) {
					t.Errorf("Put of %d bytes that fails at %d: %v, want the content's error", size, stop, err)
				}
			}
			old.expect(t, c, cacheName)
			expectAbsent(t, c, "example.com/!m/@v/v1.0.1.zip")
		}
	}
}

func testCacheCancelledPut(t *testing.T, c modfetch.Cache) {
	old := &cacheContent{seed: 1, size: 5000}
	old.put(t, c, cacheName)
	for _, size := range []int64{1, 70_000, largeCache} {
		for _, name := range []string{cacheName, "example.com/!m/@v/v1.0.1.zip"} {
			if err := c.Put(cancelled(t), name, &cacheContent{seed: 2, size: size}); err == nil {
				t.Errorf("Put of %d bytes, cancelled before: no error", size)
			}
			ctx, cancel := context.WithCancel(t.Context())
			content := &cacheContent{seed: 2, size: size, stop: size / 2, during: func() error {
				cancel()
				return nil
			}}
			if err := c.Put(ctx, name, content); err == nil && ctx.Err() != nil {
				t.Errorf("Put of %d bytes, cancelled in the middle: no error", size)
			}
			cancel()
		}
		old.expect(t, c, cacheName)
		expectAbsent(t, c, "example.com/!m/@v/v1.0.1.zip")
		if t.Failed() {
			return // there is nothing old any more
		}
	}
}

func cancelled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

// A cache may answer a caller who has left, but it may not tell him that a file is absent.
func testCacheCancelledOpen(t *testing.T, c modfetch.Cache) {
	content := &cacheContent{size: 5000}
	content.put(t, c, cacheName)
	r, err := c.Open(cancelled(t), cacheName)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Open: %v of a file that is there", err)
		}
		return
	}
	defer r.Close()
	if difference, err := content.differs(r, 0); difference != "" || err != nil {
		t.Errorf("%s, %v", difference, err)
	}
}

func testCacheReaderOutlivesContext(t *testing.T, c modfetch.Cache) {
	content := &cacheContent{size: largeCache}
	content.put(t, c, cacheName)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := c.Open(ctx, cacheName)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	n, err := io.ReadFull(r, make([]byte, 1000))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if difference, err := content.differs(r, int64(n)); difference != "" || err != nil {
		t.Errorf("after the cancellation: %s, %v", difference, err)
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if difference, err := content.differs(r, 0); difference != "" || err != nil {
		t.Errorf("from the beginning: %s, %v", difference, err)
	}
}

func testCacheReplacedWhileOpen(t *testing.T, c modfetch.Cache) {
	for _, newSize := range []int64{largeCache, 5000, largeCache + 5000} {
		old, replacement := &cacheContent{seed: 1, size: largeCache}, &cacheContent{seed: 2, size: newSize}
		old.put(t, c, cacheName)
		r, err := c.Open(t.Context(), cacheName)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		n, err := io.ReadFull(r, make([]byte, 1000))
		if err != nil {
			t.Fatal(err)
		}
		replacement.put(t, c, cacheName)
		// It may fail, but what it reads is old.
		if difference, err := old.differs(r, int64(n)); err == nil && difference != "" {
			t.Errorf("the rest: %s", difference)
		}
		for _, at := range []int64{0, largeCache / 2, 4000} {
			if _, err := r.Seek(at, io.SeekStart); err != nil {
				continue
			}
			if difference, err := old.differs(r, at); err == nil && difference != "" {
				t.Errorf("from %d on: %s", at, difference)
			}
		}
		replacement.expect(t, c, cacheName)
	}
}

func testCacheManyAtOnce(t *testing.T, c modfetch.Cache) {
	names := []string{cacheName, "example.com/!m/@v/v1.0.1.zip"}
	contents := make([]cacheContent, 4)
	for i := range contents {
		contents[i] = cacheContent{seed: byte(i), size: int64(i * 60_000)}
	}
	for _, name := range names {
		content := contents[0]
		content.put(t, c, name)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		name := names[i%len(names)]
		wg.Go(func() {
			for j := range 12 {
				content := contents[(i+j)%len(contents)]
				if err := c.Put(t.Context(), name, &content); err != nil {
					t.Errorf("Put: %v", err)
				}
			}
		})
		wg.Go(func() {
			for range 12 {
				r, err := c.Open(t.Context(), name)
				if err != nil {
					t.Errorf("Open: %v", err)
					continue
				}
				all, err := io.ReadAll(r)
				r.Close()
				if err != nil {
					continue // it has been replaced
				}
				content := contents[len(all)/60_000%len(contents)]
				if difference, _ := content.differs(bytes.NewReader(all), 0); difference != "" {
					t.Errorf("%d bytes that nobody put together: %s", len(all), difference)
				}
			}
		})
	}
	wg.Wait()
}

func testCacheGoroutines(t *testing.T, c modfetch.Cache) {
	content := &cacheContent{size: 1 << 20}
	cycle := func() {
		content.put(t, c, cacheName)
		c.Put(cancelled(t), cacheName, content)
		c.Put(t.Context(), cacheName, &cacheContent{size: 1 << 20, stop: 1 << 19, during: func() error { return errCacheContent }})
		expectAbsent(t, c, "example.com/!m/@v/v1.0.1.zip")
		if r, err := c.Open(cancelled(t), cacheName); err == nil {
			r.Close()
		}
		r, err := c.Open(t.Context(), cacheName)
		if err != nil {
			t.Fatal(err)
		}
		io.ReadFull(r, make([]byte, 10))
		r.Seek(1<<19, io.SeekStart)
		io.ReadFull(r, make([]byte, 10))
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	const cycles, pooled = 40, 20 // a pool's idle connections have goroutines too, but do not grow with use
	cycle()
	before := runtime.NumGoroutine()
	for range cycles {
		cycle()
	}
	for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before+pooled; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines after %d rounds, %d before", runtime.NumGoroutine(), cycles, before)
		}
	}
}
