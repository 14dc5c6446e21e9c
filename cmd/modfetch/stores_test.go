package main

import (
	"crypto/rand"
	"io"
	"log/slog"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/modfetch/modfetch"
)

func TestServersShareStores(t *testing.T) {
	bucket, err := url.Parse(os.Getenv("MODFETCH_TEST_S3"))
	redis := os.Getenv("MODFETCH_TEST_REDIS")
	if err != nil || bucket.Host == "" || redis == "" {
		t.Skip("MODFETCH_TEST_S3 and MODFETCH_TEST_REDIS are not set: run this by scripts/with-stores.sh go test")
	}
	bucket.Path = "/" + rand.Text()
	w := newWorld(t)
	flags := []string{"-cache", bucket.String(), "-lock", redis, "-cache-max", "1GB"}
	first := w.serve(append(flags, "-near", t.TempDir())...)
	_, want := first.get("/example.com/a/@v/v1.0.0.zip")
	goMod := first.status("/example.com/a/@v/v1.0.0.mod")
	asked := w.Count("/example.com/*")

	second := w.serve(append(flags, "-near", t.TempDir())...)
	resp, got := second.get("/example.com/a/@v/v1.0.0.zip")
	if goMod != 200 || resp.StatusCode != 200 || got != want || second.status("/example.com/a/@v/v1.0.0.mod") != 200 {
		t.Errorf("%s, %d bytes, want %d", resp.Status, len(got), len(want))
	}
	if n := w.Count("/example.com/*"); n != asked {
		t.Errorf("the second server has asked the mirror: %d requests, want %d", n, asked)
	}
	all, _ := strconv.ParseFloat(second.metric("modfetch_cache_bytes"), 64)
	mirror, _ := strconv.ParseFloat(second.metric(`modfetch_upstream_bytes_total{mirror="`+w.URL+`"}`), 64)
	if all-mirror < float64(len(want)) {
		t.Errorf("%v bytes have arrived, and %v of them from the mirror: those of a zip of %d bytes from the bucket are not counted",
			all, mirror, len(want))
	}
	for _, s := range []*serving{first, second} {
		if lines := s.lines("cache"); len(lines) > 0 {
			t.Errorf("trouble with the bucket: %v", lines)
		}
		if code := s.stop(); code != exitOK {
			t.Errorf("exit code %d", code)
		}
	}
}

func TestStoresThatAreNone(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for _, test := range []struct{ cache, lock, want string }{
		{"s3://user:secret@bucket", "", "-cache: credentials belong"},
		{"s3://", "", "-cache: want a URL like s3://bucket/prefix"},
		{"s3://bucket", "http://user:secret@x.example", "-lock: not the URL of a Redis"},
	} {
		_, err := openStores(test.cache, test.lock, log)
		if err == nil || !strings.HasPrefix(err.Error(), test.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s, %s: %v, want %s", test.cache, test.lock, err, test.want)
		}
	}
}

func TestBytesOfSharedCacheAreCounted(t *testing.T) {
	var far modfetch.MemCache
	if err := far.Put(t.Context(), "x", strings.NewReader("12345")); err != nil {
		t.Fatal(err)
	}
	e := new(evictor)
	c := countedCache{&far, e.arrived}
	r, err := c.Open(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if text, err := io.ReadAll(r); string(text) != "12345" || err != nil || e.written.Load() != 5 {
		t.Errorf("%q, %v, %d bytes", text, err, e.written.Load())
	}
	if r, err := c.Open(t.Context(), "y"); r != nil || !os.IsNotExist(err) {
		t.Errorf("of what is not there: %v, %v", r, err)
	}
}
