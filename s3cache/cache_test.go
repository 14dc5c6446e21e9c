package s3cache_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/modfetchtest"
	"github.com/modfetch/modfetch/s3cache"
	"golang.org/x/mod/module"
)

var _ modfetch.Cache = (*s3cache.Cache)(nil)

const name = "example.com/!m/@v/v1.0.0.zip"

var prefixes atomic.Int64

// realCache returns a cache in the store that a test was started beside, in a part of its bucket that is empty.
func realCache(t *testing.T) *s3cache.Cache {
	t.Helper()
	c, err := s3cache.Open(realURL(t, fmt.Sprintf("%d/%d", os.Getpid(), prefixes.Add(1))))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func realURL(t *testing.T, prefix string) string {
	t.Helper()
	store := os.Getenv("MODFETCH_TEST_S3")
	if store == "" {
		t.Skip("MODFETCH_TEST_S3 is not set: scripts/with-stores.sh go test ./s3cache/... starts an S3 server for this")
	}
	bucket, query, _ := strings.Cut(store, "?")
	return bucket + "/" + prefix + "?" + query
}

// inStores runs a test in a real store and in one in memory.
func inStores(t *testing.T, test func(t *testing.T, open func(t *testing.T) *s3cache.Cache)) {
	t.Run("real", func(t *testing.T) {
		realURL(t, "") // to skip once
		test(t, realCache)
	})
	t.Run("memory", func(t *testing.T) {
		test(t, func(t *testing.T) *s3cache.Cache { return newStore().cache(t) })
	})
}

func TestCache(t *testing.T) {
	inStores(t, func(t *testing.T, open func(t *testing.T) *s3cache.Cache) {
		modfetchtest.TestCache(t, func(t *testing.T) modfetch.Cache { return open(t) })
	})
}

func put(t *testing.T, c modfetch.Cache, text string) {
	t.Helper()
	if err := c.Put(t.Context(), name, strings.NewReader(text)); err != nil {
		t.Fatal(err)
	}
}

func stored(t *testing.T, c modfetch.Cache, name string) (string, error) {
	t.Helper()
	r, err := c.Open(t.Context(), name)
	if err != nil {
		return "", err
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	return string(data), err
}

// TestCondemnedObjectsAreReplaced has others write into the bucket.
func TestCondemnedObjectsAreReplaced(t *testing.T) {
	inStores(t, func(t *testing.T, open func(t *testing.T) *s3cache.Cache) {
		m := module.Version{Path: "example.com/m", Version: "v1.0.0"}
		const zip, goMod = "example.com/m/@v/v1.0.0.zip", "example.com/m/@v/v1.0.0.mod"
		served := func(t *testing.T, s *modfetchtest.Server, file string) string {
			t.Helper()
			resp, err := http.Get(s.URL + "/" + file)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			data, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Fatal(resp.Status, err)
			}
			return string(data)
		}
		good, evil := modfetchtest.NewServer(t, nil), modfetchtest.NewServer(t, nil)
		good.Add(modfetchtest.NewModule(m.Path, m.Version).File("m.go", "package m\n"))
		evil.Add(modfetchtest.NewModule(m.Path, m.Version).File("m.go", "package evil\n").File("go.mod", "module example.com/m\n\ngo 1.99\n"))
		want := map[string]string{zip: served(t, good, zip), goMod: served(t, good, goMod)}
		for what, planted := range map[string]map[string]string{
			"no zip":            {zip: "wrong bytes", goMod: want[goMod]},
			"half a zip":        {zip: want[zip][:len(want[zip])/2], goMod: want[goMod]},
			"nothing":           {zip: "", goMod: ""},
			"another's version": {zip: served(t, evil, zip), goMod: served(t, evil, goMod)},
		} {
			t.Run(what, func(t *testing.T) {
				c := open(t)
				for name, text := range planted {
					if err := c.Put(t.Context(), name, strings.NewReader(text)); err != nil {
						t.Fatal(err)
					}
				}
				fetch := func() {
					t.Helper()
					f, err := modfetch.New(append(good.Options(), modfetch.WithCache(c))...)
					if err != nil {
						t.Fatal(err)
					}
					defer f.Close()
					z, err := f.Zip(t.Context(), m)
					if err != nil {
						t.Fatal(err)
					}
					defer z.Close()
					data, err := io.ReadAll(io.NewSectionReader(z, 0, z.Size))
					if err != nil || string(data) != want[zip] {
						t.Errorf("the zip is %d bytes, %v, not those of the mirror", len(data), err)
					}
					if data, err := f.GoMod(t.Context(), m); err != nil || string(data) != want[goMod] {
						t.Errorf("go.mod is %q, %v", data, err)
					}
				}
				fetch()
				for name, text := range want {
					if got, err := stored(t, c, name); err != nil || got != text {
						t.Errorf("%s has not been replaced: %d bytes, %v", name, len(got), err)
					}
				}
				before := good.Count("*.zip") + good.Count("*.mod")
				fetch()
				if after := good.Count("*.zip") + good.Count("*.mod"); after != before {
					t.Errorf("%d more requests to the mirror for what is in the bucket now", after-before)
				}
			})
		}
	})
}

// TestRealUploadsAreAborted has Put fail between two parts.
func TestRealUploadsAreAborted(t *testing.T) {
	c := realCache(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	broken := errors.New("broken")
	for _, during := range []func() error{
		func() error { return broken },
		func() error { cancel(); return nil },
	} {
		var begun []string
		content := &zeros{size: 3 * s3cache.PartSize, stop: 2*s3cache.PartSize + 1, during: func() (err error) {
			if begun == nil {
				if begun, err = c.Uploads(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			return during()
		}}
		if err := c.Put(ctx, name, content); !errors.Is(err, broken) && !errors.Is(err, context.Canceled) {
			t.Errorf("Put: %v", err)
		}
		if left, err := c.Uploads(t.Context()); err != nil || len(left) > 0 || len(begun) != 1 {
			t.Errorf("uploads of %q, %v; %q when it failed", left, err, begun)
		}
	}
}

// TestRealRefusals shows that what a real server says to strangers is not absence.
func TestRealRefusals(t *testing.T) {
	rawURL := realURL(t, "x")
	put(t, realCache(t), "text")
	elsewhere, err := s3cache.Open(strings.Replace(rawURL, "s3://modfetch-test/", "s3://no-such-bucket/", 1))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_SECRET_ACCESS_KEY", "wrong")
	stranger, err := s3cache.Open(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	anonymous, err := s3cache.Open(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]*s3cache.Cache{"no bucket": elsewhere, "wrong secret": stranger, "anonymous": anonymous} {
		if _, err := stored(t, c, name); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Open, %s: %v", what, err)
		}
		for _, size := range []int64{10, s3cache.PartSize + 1} {
			if err := c.Put(t.Context(), name, &zeros{size: size}); err == nil || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Put of %d bytes, %s: %v", size, what, err)
			}
		}
	}
}

// zeros is content without memory.
type zeros struct {
	size, at int64
	stop     int64
	during   func() error // called at stop; its error ends reading
}

func (z *zeros) Read(p []byte) (int, error) {
	if z.during != nil && z.at >= z.stop {
		if err := z.during(); err != nil {
			return 0, err
		}
	}
	if z.at >= z.size {
		return 0, io.EOF
	}
	n := min(int64(len(p)), z.size-z.at)
	if z.during != nil && z.at < z.stop {
		n = min(n, z.stop-z.at)
	}
	clear(p[:n])
	z.at += n
	return int(n), nil
}

func (z *zeros) Seek(offset int64, whence int) (int64, error) {
	if whence == io.SeekEnd {
		offset += z.size
	}
	z.at = offset
	return offset, nil
}

// TestMemory shows that all that is allocated in the course of a large Put, and of reading it, is little.
func TestMemory(t *testing.T) {
	const size, bound = 500 << 20, 32 << 20
	var received atomic.Int64
	buf := make([]byte, 64<<10)
	s := newStore()
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet {
			w.Header().Set("Content-Length", fmt.Sprint(size))
			w.Header().Set("Last-Modified", "Sun, 09 Sep 2001 01:46:40 GMT")
			for range size / len(buf) {
				w.Write(buf)
			}
			return true
		}
		if r.Method != http.MethodPut {
			return false
		}
		for {
			n, err := r.Body.Read(buf)
			received.Add(int64(n))
			if err != nil {
				break
			}
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, upload := range s.uploads {
			var n int
			fmt.Sscan(r.URL.Query().Get("partNumber"), &n)
			upload[n] = nil
		}
		w.Header().Set("ETag", etag(nil))
		return true
	}
	c := s.cache(t)
	allocated := func(f func()) uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	n := allocated(func() {
		if err := c.Put(t.Context(), name, &zeros{size: size}); err != nil {
			t.Fatal(err)
		}
	})
	t.Logf("Put of %d MiB: %.1f MiB", size>>20, float64(n)/(1<<20))
	if n > bound || received.Load() != size {
		t.Errorf("%d bytes were allocated to put %d, want no more than %d", n, received.Load(), bound)
	}
	n = allocated(func() {
		r, err := c.Open(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if n, err := io.Copy(io.Discard, struct{ io.Reader }{r}); n != size || err != nil {
			t.Errorf("read %d bytes, %v", n, err)
		}
	})
	t.Logf("reading it: %.1f MiB", float64(n)/(1<<20))
	if n > 1<<20 {
		t.Errorf("%d bytes were allocated to read %d", n, size)
	}
}

// TestRequests pins what the store is asked, which is what is paid for.
func TestRequests(t *testing.T) {
	s := newStore()
	c := s.cache(t)
	expect := func(what string, want ...string) {
		t.Helper()
		if got := s.asked(); !slices.Equal(got, want) {
			t.Errorf("%s: requests %q, want %q", what, got, want)
		}
	}
	const key = "prefix/" + name
	stored(t, c, name)
	expect("absence", "GET "+key)
	put(t, c, "")
	stored(t, c, name)
	expect("empty", "PUT "+key, "GET "+key)
	put(t, c, "0123456789")
	stored(t, c, name)
	expect("small", "PUT "+key, "GET "+key)
	if err := c.Put(t.Context(), name, &zeros{size: 2*s3cache.PartSize + 1}); err != nil {
		t.Fatal(err)
	}
	part := "PUT " + key + " partNumber uploadId"
	expect("large", "POST "+key+" uploads", part, part, part, "POST "+key+" uploadId")
	r, err := c.Open(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	r.Seek(0, io.SeekEnd)
	io.ReadAll(r)
	r.Seek(0, io.SeekStart)
	io.ReadFull(r, make([]byte, 100))
	r.Seek(0, io.SeekCurrent)
	r.Seek(100, io.SeekStart)
	io.ReadFull(r, make([]byte, 100))
	expect("one that was only asked for its size between", "GET "+key, "GET "+key)
	r.Seek(10, io.SeekStart)
	io.ReadFull(r, make([]byte, 100))
	expect("another place", "GET "+key)
}

func TestOnlyNoSuchKeyIsAbsence(t *testing.T) {
	page := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "<html>nothing here</html>", status) }
	}
	said := func(status int, code string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { refuse(w, status, code, "in words") }
	}
	for what, test := range map[string]struct {
		answer http.HandlerFunc
		absent bool
		want   string // in the error
	}{
		"no key":              {said(404, "NoSuchKey"), true, "not exist"},
		"no bucket":           {said(404, "NoSuchBucket"), false, "404 NoSuchBucket: in words"},
		"no upload":           {said(404, "NoSuchUpload"), false, "404 NoSuchUpload"},
		"forbidden":           {said(403, "AccessDenied"), false, "403 AccessDenied: in words"},
		"forbidden key":       {said(403, "NoSuchKey"), false, "403 NoSuchKey"},
		"a page not found":    {page(404), false, "404 Not Found"},
		"a page forbidden":    {page(403), false, "403 Forbidden"},
		"a page gone":         {page(410), false, "410 Gone"},
		"nothing found":       {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, false, "404 Not Found"},
		"elsewhere":           {said(301, "PermanentRedirect"), false, "301 PermanentRedirect"},
		"elsewhere, silently": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/x", http.StatusFound) }, false, "302 Found"},
		"internal":            {said(501, "NotImplemented"), false, "501 NotImplemented"},
		"a header's code": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Minio-Error-Code", "NoSuchKey")
			w.WriteHeader(404)
		}, false, "404 Not Found"},
		"cut": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, false, "Connection closed"},
		"no length": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Last-Modified", "Sun, 09 Sep 2001 01:46:40 GMT")
			w.(http.Flusher).Flush()
		}, false, "size"},
	} {
		t.Run(what, func(t *testing.T) {
			s := newStore()
			s.before = func(w http.ResponseWriter, r *http.Request) bool { test.answer(w, r); return true }
			c := s.cache(t)
			r, err := c.Open(t.Context(), name)
			if err == nil || errors.Is(err, fs.ErrNotExist) != test.absent || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Open: %v, want %q, absent: %v", err, test.want, test.absent)
			}
			if r != nil {
				t.Error("and a reader")
			}
			if what == "no length" {
				return
			}
			for _, size := range []int64{1, s3cache.PartSize + 1} {
				if err := c.Put(t.Context(), name, &zeros{size: size}); err == nil {
					t.Errorf("Put of %d bytes: no error", size)
				}
			}
		})
	}
	t.Run("refused", func(t *testing.T) {
		server := httptest.NewServer(nil)
		server.Close()
		c := openAt(t, server.URL)
		if _, err := c.Open(t.Context(), name); err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "refused") || strings.Contains(err.Error(), "http:") {
			t.Errorf("Open: %v", err)
		}
	})
}

func TestErrorsHideSecrets(t *testing.T) {
	repeat := func(w http.ResponseWriter, r *http.Request) {
		refuse(w, 403, "SignatureDoesNotMatch", "You sent "+r.Header.Get("Authorization")+" "+r.Header.Get("X-Amz-Security-Token")+
			" to http://host/?"+r.URL.RawQuery+"&X-Amz-Signature=deadbeef and your secret is "+secretKey+"\n\x1b[31m"+strings.Repeat("long ", 1000))
	}
	cut := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	for what, answer := range map[string]http.HandlerFunc{"repeated": repeat, "cut": cut} {
		t.Run(what, func(t *testing.T) {
			s := newStore()
			var mu sync.Mutex // guards the following
			secrets := []string{accessKey, secretKey, token, "deadbeef", "upload-1", "\x1b", "\n"}
			s.before = func(w http.ResponseWriter, r *http.Request) bool {
				_, signature, _ := strings.Cut(r.Header.Get("Authorization"), "Signature=")
				mu.Lock()
				secrets = append(secrets, signature)
				mu.Unlock()
				if r.URL.Query().Has("uploads") {
					return false // so that the parts fail
				}
				answer(w, r)
				return true
			}
			c := s.cache(t)
			_, opened := c.Open(t.Context(), name)
			for what, err := range map[string]error{
				"Open":  opened,
				"Put":   c.Put(t.Context(), name, &zeros{size: 1}),
				"parts": c.Put(t.Context(), name, &zeros{size: s3cache.PartSize + 1}),
			} {
				if err == nil {
					t.Fatalf("%s: no error", what)
				}
				mu.Lock()
				known := slices.Clone(secrets)
				mu.Unlock()
				for _, secret := range known {
					if strings.Contains(err.Error(), secret) {
						t.Errorf("%s: %q in %v", what, secret, err)
					}
				}
				if _, ok := errors.AsType[minio.ErrorResponse](err); ok {
					t.Errorf("%s: the store's words can be unwrapped", what)
				}
				if _, ok := errors.AsType[*url.Error](err); ok {
					t.Errorf("%s: a URL can be unwrapped", what)
				}
				if !strings.Contains(err.Error(), "s3://bucket/prefix/"+name) || len(err.Error()) > 500 {
					t.Errorf("%s: %v", what, err)
				}
			}
		})
	}
}

// TestUploadsAreAborted has the store fail at each step.
func TestUploadsAreAborted(t *testing.T) {
	for _, failing := range []string{"POST uploads", "PUT 1", "PUT 3", "POST complete"} {
		t.Run(failing, func(t *testing.T) {
			s := newStore()
			s.put(name, "old")
			s.before = func(w http.ResponseWriter, r *http.Request) bool {
				query := r.URL.Query()
				step := r.Method + " " + query.Get("partNumber")
				if query.Has("uploads") {
					step += "uploads"
				} else if r.Method == http.MethodPost {
					step += "complete"
				}
				if step != failing {
					return false
				}
				refuse(w, 403, "AccessDenied", "not this")
				return true
			}
			c := s.cache(t)
			if err := c.Put(t.Context(), name, &zeros{size: 3 * s3cache.PartSize}); err == nil || !strings.Contains(err.Error(), "not this") {
				t.Errorf("Put: %v", err)
			}
			if n := s.unfinished(); n > 0 {
				t.Errorf("%d uploads are left", n)
			}
			if got, _ := s.object(name); got != "old" {
				t.Errorf("the object has %d bytes now", len(got))
			}
		})
	}
}

func TestUploadsAreAbortedForCallersWhoLeave(t *testing.T) {
	s := newStore()
	c := s.cache(t)
	ctx, cancel := context.WithCancel(t.Context())
	content := &zeros{size: 2 * s3cache.PartSize, stop: s3cache.PartSize + 1, during: func() error {
		cancel()
		return nil
	}}
	if err := c.Put(ctx, name, content); !errors.Is(err, context.Canceled) {
		t.Errorf("Put: %v", err)
	}
	if n := s.unfinished(); n > 0 {
		t.Errorf("%d uploads are left", n)
	}
}

// TestTransientFailures has each request fail once.
func TestTransientFailures(t *testing.T) {
	s := newStore()
	failed := make(map[string]bool)
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		id := r.Method + r.URL.String()
		if failed[id] {
			return false
		}
		failed[id] = true
		io.CopyN(io.Discard, r.Body, 100)
		refuse(w, 503, "SlowDown", "Please reduce your request rate.")
		return true
	}
	c := s.cache(t)
	text := strings.Repeat("0123456789", s3cache.PartSize/10+1)
	put(t, c, text)
	if got, err := stored(t, c, name); err != nil || got != text {
		t.Errorf("%d bytes, %v, want %d", len(got), err, len(text))
	}
}

// TestContentThatIsShorter has content that says to be longer than it is.
func TestContentThatIsShorter(t *testing.T) {
	for _, size := range []int64{1, 10, s3cache.PartSize + 1, 2 * s3cache.PartSize} {
		s := newStore()
		s.put(name, "old")
		c := s.cache(t)
		content := &zeros{size: size, stop: size / 2, during: func() error { return io.EOF }}
		if err := c.Put(t.Context(), name, content); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("Put of half of %d bytes: %v", size, err)
		}
		if got, _ := s.object(name); got != "old" || s.unfinished() > 0 {
			t.Errorf("the object has %d bytes now, and %d uploads are left", len(got), s.unfinished())
		}
	}
}
