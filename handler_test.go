package modfetch_test

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/modfetchtest"
	"golang.org/x/mod/module"
)

// An answered is what a Handler has answered.
type answered struct {
	*http.Response
	body string
}

// startHandler listens with a Handler over a Fetcher with the options, and returns its URL.
func startHandler(t testing.TB, h *modfetch.Handler, opts ...modfetch.Option) string {
	t.Helper()
	if h.Fetcher == nil {
		f, err := modfetch.New(opts...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		h.Fetcher = f
	}
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server.URL
}

// askHandler sends a request; header holds keys and values in turn.
func askHandler(t testing.TB, method, address string, header ...string) answered {
	t.Helper()
	a, err := tryHandler(t.Context(), method, address, header...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func tryHandler(ctx context.Context, method, address string, header ...string) (answered, error) {
	req, err := http.NewRequestWithContext(ctx, method, address, nil)
	if err != nil {
		return answered{}, err
	}
	req.Header.Set("Accept-Encoding", "identity")
	for pair := range slices.Chunk(header, 2) {
		req.Header.Set(pair[0], pair[1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req) // which follows no redirects
	if err != nil {
		return answered{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answered{resp, string(body)}, err
}

func sha256Of(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// oneLine is what the body of an error may say: kinds, and the places of mirrors.
var oneLine = regexp.MustCompile(strings.ReplaceAll(`^[a-z][a-zA-Z ,-]*(: WHO: [a-z ]+(; WHO: [a-z ]+)*)?\n$`,
	"WHO", `(mirror [1-9][0-9]*|the checksum database's host)`))

// wantRefusal checks an answer that is no file.
func wantRefusal(t testing.TB, what string, a answered, status int) {
	t.Helper()
	if a.StatusCode != status || !oneLine.MatchString(a.body) {
		t.Errorf("%s: %s, %q; want %d and one line of kinds", what, a.Status, a.body, status)
	}
	if got := a.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("%s: %s may be kept: %q", what, a.Status, got)
	}
	if got := a.Header.Get("Content-Type"); got != "text/plain; charset=utf-8" || a.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%s: %s is said to be %q", what, a.Status, got)
	}
	if a.Header.Get("ETag") != "" || a.Header.Get("Last-Modified") != "" {
		t.Errorf("%s: %s has a validator: %v", what, a.Status, a.Header)
	}
}

const pathM = "/example.com/m/@v/v1.0.0" // of moduleM, without a suffix

func TestHandlerAnswersHeadLikeGet(t *testing.T) {
	s := newWorld(t)
	s.Fault("/example.com/broken/*", modfetchtest.Status(500))
	base := startHandler(t, &modfetch.Handler{Deny: "example.com/denied"}, append(s.Options(), modfetch.WithModCache(tempDir(t)))...)
	db := "/sumdb/" + databaseOf(s)
	modSum := func(m module.Version) func(string) string {
		_, sum := sumsOf(s, m)
		return func(string) string { return sum }
	}
	const text, object, long = "text/plain; charset=utf-8", "application/json", "max-age=31536000, immutable"
	for path, c := range map[string]struct {
		status       int
		kind, limits string
		tag          func(body string) string // nil for that of a small file
		file         string                   // at the mirror; "" for any
	}{
		"/example.com/m/@v/list":                        {200, text, "max-age=60", nil, "v1.0.0\n"},
		"/example.com/m/@latest":                        {200, object, "max-age=60", nil, ""},
		"/example.com/m/@v/0123456789ab.info":           {200, object, "max-age=60", nil, ""},
		pathM + ".info":                                 {200, object, "max-age=86400", nil, ""},
		pathM + ".mod":                                  {200, text, long, modSum(moduleM), "module example.com/m\n\ngo 1.26\n"},
		pathM + ".zip":                                  {200, "application/zip", long, sha256Of, string(httpGet(t, s.URL+pathM+".zip"))},
		"/example.com/!upper/!case/@v/v1.0.0-!r!c1.mod": {200, text, long, modSum(moduleUpper), ""},
		"/example.com/old/@v/v3.0.0+incompatible.zip":   {200, "application/zip", long, sha256Of, ""},
		db + "/lookup/example.com/m@v1.0.0":             {200, text, "max-age=86400", nil, ""},
		db + "/tile/8/0/000.p/4":                        {200, "application/octet-stream", long, nil, ""},
		db + "/latest":                                  {200, text, "max-age=60", nil, ""},
		db + "/supported":                               {200, text, "max-age=86400", func(string) string { return "supported" }, ""},
		"/example.com/none/@v/list":                     {status: 404},
		"/example.com/none/@v/v1.0.0.zip":               {status: 404},
		"/example.com/m/@v/main.zip":                    {status: 404},
		"/example.com/denied/@v/v1.0.0.zip":             {status: 403},
		"/example.com/broken/@v/v1.0.0.zip":             {status: 502},
	} {
		t.Run(path, func(t *testing.T) {
			for _, when := range []string{"cold", "warm"} {
				get, head := askHandler(t, "GET", base+path), askHandler(t, "HEAD", base+path)
				if when == "cold" && get.StatusCode == 404 {
					continue // the second is told less: that it was absent a moment ago
				}
				if head.StatusCode != get.StatusCode || head.body != "" || head.ContentLength != get.ContentLength {
					t.Errorf("%s: HEAD has %s, %d bytes of %d; GET %s, %d", when, head.Status, len(head.body), head.ContentLength, get.Status, get.ContentLength)
				}
				if get.ContentLength != int64(len(get.body)) {
					t.Errorf("%s: Content-Length %d of %d bytes", when, get.ContentLength, len(get.body))
				}
				for _, varies := range []string{"Date", "Age"} { // by a second
					if (get.Header.Get(varies) == "") != (head.Header.Get(varies) == "") {
						t.Errorf("%s: %s is %q, and of HEAD %q", when, varies, get.Header.Get(varies), head.Header.Get(varies))
					}
					get.Header.Del(varies)
					head.Header.Del(varies)
				}
				if g, h := fmt.Sprint(get.Header), fmt.Sprint(head.Header); g != h {
					t.Errorf("%s: GET has the header\n%s\nand HEAD\n%s", when, g, h)
				}
				if c.status != 200 {
					wantRefusal(t, when, get, c.status)
					continue
				}
				tag := sha256Of(get.body)
				if c.tag != nil {
					tag = c.tag(get.body)
				}
				for key, want := range map[string]string{"Content-Type": c.kind, "Cache-Control": c.limits, "Etag": `"` + tag + `"`, "X-Content-Type-Options": "nosniff"} {
					if got := get.Header.Get(key); got != want {
						t.Errorf("%s: %s is %q, want %q", when, key, got, want)
					}
				}
				if get.StatusCode != 200 || c.file != "" && get.body != c.file {
					t.Errorf("%s: %s, %.100q, want %.100q", when, get.Status, get.body, c.file)
				}
			}
		})
	}
}

func TestHandlerRefusesMethods(t *testing.T) {
	s := newWorld(t)
	base := startHandler(t, &modfetch.Handler{}, s.Options()...)
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "get", "PURGE"} {
		for _, path := range []string{pathM + ".zip", "/sumdb/" + databaseOf(s) + "/latest", "/", "/example.com/denied"} {
			a := askHandler(t, method, base+path)
			wantRefusal(t, method+" "+path, a, 405)
			if got := a.Header.Get("Allow"); got != "GET, HEAD" {
				t.Errorf("%s %s: Allow is %q", method, path, got)
			}
		}
	}
	if asked := s.Requests(); len(asked) > 0 {
		t.Errorf("the mirror was asked for %q", asked)
	}
}

func TestHandlerPassesNothingMalformedOn(t *testing.T) {
	s := newWorld(t)
	base := startHandler(t, &modfetch.Handler{ServePrivate: true, ServeDirect: true}, s.Options()...)
	long := strings.Repeat("a/", 4<<10)
	for name, path := range map[string]string{
		"root":                      "/",
		"two slashes":               "//",
		"leading slash of a path":   "//example.com/m/@v/list",
		"slash within a path":       "/example.com//m/@v/list",
		"dot":                       "/./example.com/m/@v/list",
		"dots":                      "/../example.com/m/@v/list",
		"dots within":               "/example.com/x/../m/@v/list",
		"escaped dots":              "/example.com/%2e%2e/m/@v/list",
		"escaped slash and dots":    "/example.com%2f..%2fm/@v/list",
		"NUL":                       "/example.com/m%00/@v/list",
		"NUL in a version":          "/example.com/m/@v/v1.0.0%00.zip",
		"newline":                   "/example.com/m%0a/@v/list",
		"not UTF-8":                 "/example.com/%ff/@v/list",
		"backslash":                 "/example.com%5cm/@v/list",
		"very long":                 "/example.com/" + long + "@v/list",
		"long version":              "/example.com/m/@v/v1.0.0-" + strings.Repeat("a", 300) + ".zip",
		"long revision":             "/example.com/m/@v/" + strings.Repeat("a", 300) + ".info",
		"trailing slash":            "/example.com/m/@v/list/",
		"trailing slash of a zip":   pathM + ".zip/",
		"trailing slash of latest":  "/example.com/m/@latest/",
		"no module":                 "/@v/list",
		"no module's latest":        "/@latest",
		"no module, no file":        "/@v/",
		"no file":                   "/example.com/m/@v/",
		"no at":                     "/example.com/m/v/list",
		"at alone":                  "/example.com/m/@",
		"module alone":              "/example.com/m",
		"no dot in the host":        "/example/m/@v/list",
		"nor of latest":             "/example/@latest",
		"no suffix":                 pathM,
		"dot alone":                 "/example.com/m/@v/.zip",
		"dot alone of an info":      "/example.com/m/@v/.info",
		"other suffix":              pathM + ".ziphash",
		"lock":                      pathM + ".lock",
		"upper case suffix":         pathM + ".ZIP",
		"short version's zip":       "/example.com/m/@v/v1.zip",
		"short version's info":      "/example.com/m/@v/v1.info",
		"shorter version's mod":     "/example.com/m/@v/v1.0.mod",
		"version without v":         "/example.com/m/@v/1.0.0.zip",
		"leading zero":              "/example.com/m/@v/v1.00.0.zip",
		"build metadata":            "/example.com/m/@v/v1.0.0+meta.zip",
		"version of another major":  "/example.com/m/@v/v2.1.0.zip",
		"go.mod of another major":   "/example.com/m/v2/@v/v1.0.0.mod",
		"branch's mod":              "/example.com/m/@v/master.mod",
		"branch's zip":              "/example.com/m/@v/master.zip",
		"commit's zip":              "/example.com/m/@v/0123456789ab.zip",
		"latest's info":             "/example.com/m/@v/latest.info",
		"upgrade's info":            "/example.com/m/@v/upgrade.info",
		"patch's info":              "/example.com/m/@v/patch.info",
		"none's info":               "/example.com/m/@v/none.info",
		"range":                     "/example.com/m/@v/%3Ev1.0.0.info",
		"option":                    "/example.com/m/@v/-x.info",
		"branch with a slash":       "/example.com/m/@v/feature/x.info",
		"upper case path":           "/example.com/Upper/Case/@v/list",
		"upper case version":        "/example.com/!upper/!case/@v/v1.0.0-RC1.mod",
		"upper case branch":         "/example.com/m/@v/Main.info",
		"escape of nothing":         "/example.com/m!/@v/list",
		"escape of upper case":      "/example.com/!M/@v/list",
		"escape of a digit":         "/example.com/!1/@v/list",
		"two ats":                   "/example.com/m@v1.0.0/@v/list",
		"two files":                 "/example.com/m/@v/list/@v/list",
		"latest of a bad path":      "/example.com/M/@latest",
		"cached only":               "/cached-only/example.com/m/@v/list",
		"own entries":               "/modfetch/fresh/example.com/m/@v/list",
		"query in the path":         "/example.com/m%3Fx=y/@v/list",
		"unknown database":          "/sumdb/sum.other.test/supported",
		"unknown database's lookup": "/sumdb/sum.other.test/lookup/example.com/m@v1.0.0",
		"no database":               "/sumdb/",
		"database alone":            "/sumdb/" + databaseOf(s),
		"database's root":           "/sumdb/" + databaseOf(s) + "/",
		"lookup of a branch":        "/sumdb/" + databaseOf(s) + "/lookup/example.com/m@master",
		"lookup of upper case":      "/sumdb/" + databaseOf(s) + "/lookup/example.com/M@v1.0.0",
		"no tile":                   "/sumdb/" + databaseOf(s) + "/tile/8/0/x",
	} {
		t.Run(name, func(t *testing.T) {
			for _, method := range []string{"GET", "HEAD"} {
				a := askHandler(t, method, base+path)
				if method == "HEAD" {
					a.body = "not found\n"
				}
				wantRefusal(t, method, a, 404)
				if a.body != "not found\n" {
					t.Errorf("%s: %q", method, a.body)
				}
			}
		})
	}
	if asked := s.Requests(); len(asked) > 0 {
		t.Errorf("the mirror was asked for %q", asked)
	}

	// A query is no part of what is asked for.
	for _, query := range []string{"?go-get=1", "?", "?/../@v/list", "?x=%zz"} {
		if a := askHandler(t, "GET", base+pathM+".mod"+query); a.StatusCode != 200 || a.body != "module example.com/m\n\ngo 1.26\n" {
			t.Errorf("%s: %s, %q", query, a.Status, a.body)
		}
	}
	for _, r := range s.Log() {
		if r.Query != "" {
			t.Errorf("the mirror got the query %q", r.Query)
		}
	}
}

func TestHandlerServesPartsAndComparesValidators(t *testing.T) {
	s := newWorld(t)
	for name, opts := range map[string][]modfetch.Option{
		"module cache": {modfetch.WithModCache(tempDir(t))},
		"Cache":        {modfetch.WithCache(new(modfetch.MemCache))},
		"no cache":     nil,
	} {
		t.Run(name, func(t *testing.T) {
			base := startHandler(t, &modfetch.Handler{}, append(s.Options(), opts...)...)
			for _, path := range []string{pathM + ".zip", pathM + ".mod", pathM + ".info", "/example.com/m/@v/list", "/example.com/m/@latest"} {
				whole := askHandler(t, "GET", base+path)
				size, tag := len(whole.body), whole.Header.Get("ETag")
				if whole.StatusCode != 200 || size < 5 || tag == "" || whole.Header.Get("Accept-Ranges") != "bytes" {
					t.Fatalf("%s: %s, %d bytes, %v", path, whole.Status, size, whole.Header)
				}
				end := strconv.Itoa(size - 1)
				for _, c := range []struct {
					header   []string
					status   int
					from, to int
					contents string // Content-Range
				}{
					{[]string{"Range", "bytes=1-3"}, 206, 1, 4, "bytes 1-3/"},
					{[]string{"Range", "bytes=2-"}, 206, 2, size, "bytes 2-" + end + "/"},
					{[]string{"Range", "bytes=-4"}, 206, size - 4, size, "bytes " + strconv.Itoa(size-4) + "-" + end + "/"},
					{[]string{"Range", "bytes=0-999999999"}, 206, 0, size, "bytes 0-" + end + "/"},
					{[]string{"Range", "bytes=1-3", "If-Range", tag}, 206, 1, 4, "bytes 1-3/"},
					{[]string{"Range", "bytes=1-3", "If-Range", `"other"`}, 200, 0, size, ""},
					{[]string{"If-None-Match", tag}, 304, 0, 0, ""},
					{[]string{"If-None-Match", `"other", W/` + tag}, 304, 0, 0, ""},
					{[]string{"If-None-Match", "*"}, 304, 0, 0, ""},
					{[]string{"If-None-Match", `"other"`}, 200, 0, size, ""},
					{[]string{"If-None-Match", tag, "Range", "bytes=1-3"}, 304, 0, 0, ""},
					{[]string{"If-Match", tag}, 200, 0, size, ""},
					{[]string{"If-Match", `"other"`}, 412, 0, 0, ""},
				} {
					a := askHandler(t, "GET", base+path, c.header...)
					want := c.contents
					if want != "" {
						want += strconv.Itoa(size)
					}
					if a.StatusCode != c.status || a.body != whole.body[c.from:c.to] || a.Header.Get("Content-Range") != want {
						t.Errorf("%s with %q: %s, %q, %d bytes", path, c.header, a.Status, a.Header.Get("Content-Range"), len(a.body))
					}
					if a.StatusCode < 400 && a.Header.Get("ETag") != tag {
						t.Errorf("%s with %q: ETag %s, want %s", path, c.header, a.Header.Get("ETag"), tag)
					}
				}
				a := askHandler(t, "GET", base+path, "Range", "bytes=0-0,2-3")
				if kind := a.Header.Get("Content-Type"); a.StatusCode != 206 || !strings.HasPrefix(kind, "multipart/byteranges") ||
					!strings.Contains(a.body, "Content-Range: bytes 0-0/"+strconv.Itoa(size)) || !strings.Contains(a.body, "\r\n\r\n"+whole.body[2:4]+"\r\n") {
					t.Errorf("%s: of two ranges %s, %s, %.200q", path, a.Status, kind, a.body)
				}
				a = askHandler(t, "GET", base+path, "Range", "bytes="+strconv.Itoa(size)+"-")
				if got := a.Header.Get("Content-Range"); a.StatusCode != 416 || got != "bytes */"+strconv.Itoa(size) {
					t.Errorf("%s: beyond the end %s, Content-Range %q", path, a.Status, got)
				}
				if limits := a.Header.Get("Cache-Control"); strings.Contains(limits, "max-age") {
					t.Errorf("%s: beyond the end Cache-Control is %q", path, limits)
				}
				modified := whole.Header.Get("Last-Modified")
				if isFile := name == "module cache" && path == pathM+".zip"; isFile != (modified != "") { // of others it is not known
					t.Errorf("%s: Last-Modified %q", path, modified)
				}
				if modified == "" {
					continue
				}
				if a := askHandler(t, "GET", base+path, "If-Modified-Since", modified); a.StatusCode != 304 || a.body != "" {
					t.Errorf("%s since %s: %s", path, modified, a.Status)
				}
				if a := askHandler(t, "GET", base+path, "If-Modified-Since", "Mon, 02 Jan 2006 15:04:05 GMT"); a.StatusCode != 200 || a.body != whole.body {
					t.Errorf("%s since 2006: %s", path, a.Status)
				}
			}
		})
	}
}

// TestWarmZipIsHeldAgainstGoSum: a line for another go.mod file refuses the zip too, though the zip has been verified before.
func TestWarmZipIsHeldAgainstGoSum(t *testing.T) {
	s := newWorld(t)
	f, _ := newFetcher(t, s.Options()...)
	z, err := f.Zip(t.Context(), moduleM)
	if err != nil {
		t.Fatal(err)
	}
	z.Close()
	other := new(modfetch.GoSum)
	other.Add(module.Version{Path: moduleM.Path, Version: moduleM.Version + "/go.mod"}, "h1:"+strings.Repeat("A", 43)+"=")
	for name, c := range map[string]struct {
		sums   *modfetch.GoSum
		status int
	}{"no line": {new(modfetch.GoSum), 200}, "a line for another go.mod file": {other, 502}} {
		base := startHandler(t, &modfetch.Handler{Fetcher: f.WithGoSum(c.sums)})
		if a := askHandler(t, "GET", base+pathM+".zip"); a.StatusCode != c.status {
			t.Errorf("%s: %s, want %d", name, a.Status, c.status)
		}
	}
}

// TestHandlerBehindAnEncoder: whoever wraps the Handler to compress its answers sends other lengths.
func TestHandlerBehindAnEncoder(t *testing.T) {
	f, _ := newFetcher(t, newWorld(t).Options()...)
	h := &modfetch.Handler{Fetcher: f}
	for _, file := range []string{".zip", ".mod", ".info"} {
		w := httptest.NewRecorder()
		w.Header().Set("Content-Encoding", "br")
		h.ServeHTTP(w, httptest.NewRequest("GET", pathM+file, nil))
		if length := w.Header().Get("Content-Length"); w.Code != 200 || length != "" || w.Body.Len() == 0 {
			t.Errorf("%s: %d, Content-Length %q, %d bytes", file, w.Code, length, w.Body.Len())
		}
	}
}

// TestZipWithoutATime: a file of the first second of 1970 has the time of a program that did not know it.
func TestZipWithoutATime(t *testing.T) {
	f, dir := newFetcher(t, newWorld(t).Options()...)
	base := startHandler(t, &modfetch.Handler{Fetcher: f})
	askHandler(t, "GET", base+pathM+".zip")
	if err := os.Chtimes(filepath.Join(dir, "cache", "download", filepath.FromSlash(pathM)+".zip"), time.Unix(0, 0), time.Unix(0, 0)); err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{"GET", "HEAD"} {
		if a := askHandler(t, method, base+pathM+".zip"); a.StatusCode != 200 || a.Header.Get("Last-Modified") != "" {
			t.Errorf("%s: %s, Last-Modified %q", method, a.Status, a.Header.Get("Last-Modified"))
		}
	}
}

// twin returns another zip of the same names and contents, and so of the same h1.
func twin(t testing.TB, data []byte) []byte {
	t.Helper()
	old, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	for _, f := range slices.Backward(old.File) {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		to, err := w.CreateHeader(&zip.FileHeader{Name: f.Name, Method: zip.Store})
		if err == nil {
			_, err = io.Copy(to, r)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestHandlerTellsZipsOfOneSumApart(t *testing.T) {
	s := newWorld(t)
	other := s.Mirror()
	first := httpGet(t, s.URL+pathM+".zip")
	second := twin(t, first)
	other.Fault("*.zip", sendsZip(second))
	tags := make(map[string]bool)
	for _, cached := range []bool{false, true} {
		for _, m := range []*modfetchtest.Server{s, other} {
			opts := []modfetch.Option{modfetch.WithGOPROXY(m.URL), modfetch.WithSumDB(s.GOSUMDB())}
			if cached {
				opts = append(opts, modfetch.WithModCache(tempDir(t)))
			}
			base := startHandler(t, &modfetch.Handler{}, opts...)
			for range 2 {
				a := askHandler(t, "GET", base+pathM+".zip")
				if want := `"` + sha256Of(a.body) + `"`; a.StatusCode != 200 || a.Header.Get("ETag") != want {
					t.Errorf("%s, ETag %s, want %s", a.Status, a.Header.Get("ETag"), want)
				}
				tags[a.Header.Get("ETag")] = true
			}
		}
	}
	if len(tags) != 2 {
		t.Errorf("ETags %v of two files", tags)
	}

	// The file may be replaced while it is served: by another process, after it was condemned, or by the go command.
	modCache := tempDir(t)
	base := startHandler(t, &modfetch.Handler{}, append(s.Options(), modfetch.WithModCache(modCache))...)
	before := askHandler(t, "GET", base+pathM+".zip")
	file := filepath.Join(modCache, "cache", "download", filepath.FromSlash(pathM)+".zip")
	if err := os.WriteFile(file+".new", second, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
	after := askHandler(t, "GET", base+pathM+".zip", "If-None-Match", before.Header.Get("ETag"))
	if after.StatusCode != 200 || after.body != string(second) || after.Header.Get("ETag") != `"`+sha256Of(after.body)+`"` {
		t.Errorf("of another file %s, %d bytes, ETag %s", after.Status, len(after.body), after.Header.Get("ETag"))
	}
}

func TestHandlerServesTheMirrorsInfo(t *testing.T) {
	s := newWorld(t)
	want := string(httpGet(t, s.URL+pathM+".info"))
	cache := modfetch.DirCache(t.TempDir())
	for range 2 { // the second has it from the cache
		base := startHandler(t, &modfetch.Handler{}, append(s.Options(), modfetch.WithCache(cache))...)
		if a := askHandler(t, "GET", base+pathM+".info"); a.body != want || !strings.Contains(a.body, `"TagSum": "t1:x"`) {
			t.Errorf("%s, %q, want %q", a.Status, a.body, want)
		}
	}
	modCache := tempDir(t)
	for range 2 { // the second has what the go command keeps of it
		base := startHandler(t, &modfetch.Handler{}, append(s.Options(), modfetch.WithModCache(modCache))...)
		if a := askHandler(t, "GET", base+pathM+".info"); a.StatusCode != 200 || !strings.Contains(a.body, "0123456789abcdef") {
			t.Errorf("%s, %q, want the Origin", a.Status, a.body)
		}
	}
	if n := s.Count(pathM + ".info"); n != 3 {
		t.Errorf("the mirror was asked %d times, want once by the test and once for each cache", n)
	}
}

// kinds of files, by their paths.
var filesOfM = map[string]string{
	"list":     "/example.com/m/@v/list",
	"latest":   "/example.com/m/@latest",
	"info":     pathM + ".info",
	"mod":      pathM + ".mod",
	"zip":      pathM + ".zip",
	"revision": "/example.com/m/@v/0123456789ab.info",
}

// TestHandlerTellsFailureFromAbsence has a mirror fail in every way, for every file. Its words carry what may not be told.
func TestHandlerTellsFailureFromAbsence(t *testing.T) {
	const secret = "s3cret-words of https://inner.test/path?token=x"
	s, closed := newWorld(t), newWorld(t)
	closed.Close()
	for name, c := range map[string]struct {
		path   string // "" for all
		fault  modfetchtest.Fault
		status int
		kind   modfetch.Kind
		says   string // of the body; "" for that of mirror 1
		only   string // files; "" for all
	}{
		"404":                   {fault: modfetchtest.Status(404, secret), status: 404, kind: modfetch.NotFound},
		"410":                   {fault: modfetchtest.Status(410, secret), status: 404, kind: modfetch.NotFound},
		"401":                   {fault: modfetchtest.Status(401, secret), status: 403, kind: modfetch.Forbidden},
		"403":                   {fault: modfetchtest.Status(403, secret), status: 403, kind: modfetch.Forbidden},
		"418":                   {fault: modfetchtest.Status(418, secret), status: 403, kind: modfetch.Forbidden},
		"429":                   {fault: modfetchtest.Status(429, secret), status: 502, kind: modfetch.Transient},
		"500":                   {fault: modfetchtest.Status(500, secret), status: 502, kind: modfetch.Transient},
		"504":                   {fault: modfetchtest.Status(504, secret), status: 502, kind: modfetch.Transient},
		"204":                   {fault: modfetchtest.Status(204, secret), status: 502, kind: modfetch.Corrupt},
		"304":                   {fault: modfetchtest.Status(304, secret), status: 502, kind: modfetch.Corrupt},
		"page":                  {fault: modfetchtest.HTML(), status: 502, kind: modfetch.Corrupt},
		"reset":                 {fault: modfetchtest.Reset(), status: 502, kind: modfetch.Transient},
		"redirect into nothing": {fault: modfetchtest.Redirect(closed.URL + "/"), status: 502, kind: modfetch.Transient},
		"cut":                   {fault: modfetchtest.Truncate(-2), status: 502, kind: modfetch.Transient},
		"wrong bytes":           {fault: modfetchtest.Corrupt(), status: 502, kind: modfetch.Corrupt, only: "mod zip"},
		"no JSON":               {fault: modfetchtest.CorruptRaw(0), status: 502, kind: modfetch.Corrupt, only: "info latest revision"},
		"other version":         {fault: modfetchtest.WrongVersion("v9.9.9"), status: 502, kind: modfetch.Corrupt, only: "info latest revision"},
		"no zip":                {fault: modfetchtest.Status(200, secret), status: 502, kind: modfetch.Corrupt},
		"database's 404":        {path: "/sumdb/*", fault: modfetchtest.Status(404, secret), status: 502, only: "mod zip"},
		"database's 500":        {path: "/sumdb/*", fault: modfetchtest.Status(500, secret), status: 502, only: "mod zip"},
		"lookup's 404":          {path: "/sumdb/*/lookup/*", fault: modfetchtest.Status(404, secret), status: 502, only: "mod zip"},
		"lookup's page":         {path: "/sumdb/*/lookup/*", fault: modfetchtest.HTML(), status: 502, only: "mod zip"},
		"tile's 404":            {path: "/sumdb/*/tile/*", fault: modfetchtest.Status(404, secret), status: 502, only: "mod zip"},
	} {
		for _, verbose := range []bool{false, true} {
			for file, path := range filesOfM {
				if c.only != "" && !slices.Contains(strings.Fields(c.only), file) || verbose && file != "mod" {
					continue
				}
				t.Run(fmt.Sprintf("%s/%s/verbose=%t", name, file, verbose), func(t *testing.T) {
					s.ClearFaults()
					pattern := c.path
					if pattern == "" {
						pattern = path
					}
					s.Fault(pattern, c.fault)
					if file == "latest" && c.status == 404 {
						s.Fault("/example.com/m/*", c.fault)
					}
					log := new(servedLog)
					base := startHandler(t, &modfetch.Handler{VerboseErrors: verbose, Served: log.add}, append(s.Options(), modfetch.WithModCache(tempDir(t)))...)
					a := askHandler(t, "GET", base+path)
					last := log.last()
					if last.Err == nil || last.Status != c.status || c.kind != "" && modfetch.KindOf(last.Err) != c.kind {
						t.Errorf("Served was told of %d and %v (%s)", last.Status, last.Err, modfetch.KindOf(last.Err))
					}
					if c.path == "" && !strings.Contains(last.Err.Error(), s.URL) && file != "revision" {
						t.Errorf("the cause does not name the mirror: %v", last.Err)
					}
					if verbose {
						if a.StatusCode != c.status || a.body != last.Err.Error()+"\n" || a.Header.Get("Cache-Control") != "no-store" {
							t.Errorf("%s, %q, want %d and %q", a.Status, a.body, c.status, last.Err)
						}
						return
					}
					wantRefusal(t, path, a, c.status)
					if want := fmt.Sprintf("%s: mirror 1: %[1]s\n", c.kind); c.path == "" && a.body != want {
						t.Errorf("%q, want %q", a.body, want)
					}
					for _, told := range []string{"s3cret", "127.0.0.1", "://", "test", "example"} {
						if strings.Contains(a.body, told) {
							t.Errorf("the client is told %q", a.body)
						}
					}
					if name == "404" && !strings.Contains(last.Err.Error(), "s3cret") {
						t.Errorf("the cause lacks the server's words: %v", last.Err)
					}
				})
			}
		}
	}
}

// A servedLog keeps what Served was told.
type servedLog struct {
	mu    sync.Mutex // guards infos
	infos []modfetch.ServedInfo
}

func (l *servedLog) add(_ context.Context, i modfetch.ServedInfo) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.infos = append(l.infos, i)
}

func (l *servedLog) all() []modfetch.ServedInfo {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.infos)
}

// last waits for one, because a client may have the answer before.
func (l *servedLog) last() modfetch.ServedInfo {
	for {
		if all := l.all(); len(all) > 0 {
			return all[len(all)-1]
		}
		runtime.Gosched()
	}
}

func TestHandlerTellsWhoIsProvenWrong(t *testing.T) {
	s := newWorld(t)
	zipSum, modSum := sumsOf(s, moduleM)
	wrong := goSum(t, "example.com/m v1.0.0 "+modSum, "example.com/m v1.0.0/go.mod "+zipSum)
	closed := s.Mirror()
	closed.Close()
	for name, c := range map[string]struct {
		opts   []modfetch.Option
		file   string
		status int
		want   string
	}{
		"go.sum's line of a zip is wrong":     {append(s.Options(), modfetch.WithGoSum(wrong)), "zip", 502, "security\n"},
		"go.sum's line of a go.mod is wrong":  {append(s.Options(), modfetch.WithGoSum(wrong)), "mod", 502, "security\n"},
		"go.sum's line without a database":    {[]modfetch.Option{modfetch.WithGOPROXY(s.URL), modfetch.WithSumDB("off"), modfetch.WithGoSum(wrong)}, "zip", 502, "corrupt: mirror 1: corrupt\n"},
		"connection refused":                  {[]modfetch.Option{modfetch.WithGOPROXY(closed.URL), modfetch.WithSumDB("off")}, "list", 502, "transient: mirror 1: transient\n"},
		"connection refused, of a zip":        {[]modfetch.Option{modfetch.WithGOPROXY(closed.URL), modfetch.WithSumDB("off")}, "zip", 502, "transient: mirror 1: transient\n"},
		"one of two refuses connections":      {[]modfetch.Option{modfetch.WithGOPROXY(closed.URL + "|" + s.URL + "/none"), modfetch.WithSumDB("off")}, "zip", 502, "transient: mirror 1: transient; mirror 2: not found\n"},
		"nobody has it":                       {[]modfetch.Option{modfetch.WithGOPROXY(s.URL + "/a," + s.URL + "/b"), modfetch.WithSumDB("off")}, "zip", 404, "not found: mirror 1: not found; mirror 2: not found\n"},
		"off":                                 {[]modfetch.Option{modfetch.WithGOPROXY("off"), modfetch.WithSumDB("off")}, "zip", 403, "forbidden: mirror 1: forbidden\n"},
		"nobody vouches, and that is refused": {[]modfetch.Option{modfetch.WithGOPROXY(s.URL), modfetch.WithSumDB("off"), modfetch.WithPolicy(modfetch.Policy{RequireVerified: true})}, "zip", 403, ""},
	} {
		t.Run(name, func(t *testing.T) {
			log := new(servedLog)
			base := startHandler(t, &modfetch.Handler{Served: log.add}, c.opts...)
			a := askHandler(t, "GET", base+filesOfM[c.file])
			wantRefusal(t, c.file, a, c.status)
			if c.want != "" && a.body != c.want {
				t.Errorf("%q, want %q", a.body, c.want)
			}
		})
	}
	t.Run("forked database", func(t *testing.T) {
		s := newWorld(t)
		base := startHandler(t, &modfetch.Handler{}, append(s.Options(), modfetch.WithModCache(tempDir(t)))...)
		if a := askHandler(t, "GET", base+filesOfM["zip"]); a.StatusCode != 200 {
			t.Fatalf("%s, %q", a.Status, a.body)
		}
		fork := s.Fork()
		later := modfetchtest.NewModule("example.com/later", "v1.0.0").File("x.go", "package x\n")
		s.Add(later)
		fork.Add(later)
		fork.AddRecords(5)
		if a := askHandler(t, "GET", base+"/example.com/later/@v/v1.0.0.mod"); a.StatusCode != 200 { // its head is kept
			t.Fatalf("%s, %q", a.Status, a.body)
		}
		s.Fault("/sumdb/*", modfetchtest.Handler(fork.ServeHTTP))
		for _, path := range []string{"/example.com/!upper/!case/@v/v1.0.0-!r!c1.zip", "/example.com/old/@v/v3.0.0+incompatible.mod"} {
			a := askHandler(t, "GET", base+path)
			wantRefusal(t, path, a, 502)
			if !strings.HasPrefix(a.body, "security") {
				t.Errorf("%s: %q", path, a.body)
			}
		}
	})
}

// TestHandlerGivesUpInTime has a mirror that takes requests and never answers.
func TestHandlerGivesUpInTime(t *testing.T) {
	for file, path := range filesOfM {
		for name, hang := range map[string]func(*http.Request) (*http.Response, error){
			"no header": func(r *http.Request) (*http.Response, error) {
				<-r.Context().Done()
				return nil, r.Context().Err()
			},
			"no end": func(r *http.Request) (*http.Response, error) {
				resp, err := reply(r, 200, "")
				resp.ContentLength = -1
				resp.Body = io.NopCloser(readerFunc(func([]byte) (int, error) {
					<-r.Context().Done()
					return 0, r.Context().Err()
				}))
				return resp, err
			},
		} {
			t.Run(file+"/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					n := &network{answer: hang}
					f, err := modfetch.New(modfetch.WithGOPROXY("https://mirror.test"), modfetch.WithSumDB("off"), modfetch.WithHTTPClient(n.client()))
					if err != nil {
						t.Fatal(err)
					}
					start, w := time.Now(), httptest.NewRecorder()
					(&modfetch.Handler{Fetcher: f}).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", path, nil))
					wantRefusal(t, path, answered{w.Result(), w.Body.String()}, 504)
					if w.Body.String() != "timeout: mirror 1: transient\n" {
						t.Errorf("%q", w.Body)
					}
					if waited := time.Since(start); waited > 5*time.Minute {
						t.Errorf("waited for %s", waited)
					}
				})
			})
		}
	}
}

// TestHandlerKeepsPrivatePaths checks who is served what a setting singles out, and who is asked for it.
func TestHandlerKeepsPrivatePaths(t *testing.T) {
	s := newWorld(t)
	secure := httptest.NewTLSServer(s)
	t.Cleanup(secure.Close)
	host := strings.TrimPrefix(secure.URL, "https://")
	withUser := strings.Replace(secure.URL, "https://", "https://user:s3cret@", 1)
	client := modfetch.WithHTTPClient(secure.Client())
	netrc := writeFile(t, "machine "+host+" login user password s3cret\n")
	const path = "example.com/m"
	for name, c := range map[string]struct {
		proxy  string
		env    modfetch.GoEnv
		opts   []modfetch.Option
		sent   string // what the mirror gets where private paths are served
		direct bool   // only the repository has it
		looked bool   // lookups are served then
	}{
		"GONOPROXY":                       {proxy: s.URL, env: modfetch.GoEnv{GONOPROXY: path}, direct: true},
		"GONOSUMDB":                       {proxy: s.URL, env: modfetch.GoEnv{GONOSUMDB: path}},
		"GOPRIVATE":                       {proxy: s.URL, env: modfetch.GoEnv{GOPRIVATE: "other.test," + path}, direct: true},
		"GOPRIVATE of a parent":           {proxy: s.URL, env: modfetch.GoEnv{GOPRIVATE: "*.com"}, direct: true},
		"WithPrivate":                     {proxy: s.URL, opts: []modfetch.Option{modfetch.WithPrivate(path)}, direct: true},
		"WithRoute":                       {proxy: "https://mirror.test", opts: []modfetch.Option{modfetch.WithRoute(path, s.URL)}},
		"query":                           {proxy: s.URL + "?token=s3cret", sent: "token=s3cret", looked: true},
		"user name":                       {proxy: withUser, opts: []modfetch.Option{client}, sent: basic("user", "s3cret"), looked: true},
		"user name behind a mirror":       {proxy: s.URL + "," + withUser, opts: []modfetch.Option{client}, looked: true},
		"user name beside a mirror":       {proxy: s.URL + "|" + withUser, opts: []modfetch.Option{client}, looked: true},
		"netrc":                           {proxy: secure.URL, env: modfetch.GoEnv{GOAUTH: "netrc", NETRC: netrc}, opts: []modfetch.Option{client}, sent: basic("user", "s3cret"), looked: true},
		"a command that knows beforehand": {proxy: secure.URL, env: modfetch.GoEnv{GOAUTH: script(t, "printf '"+secure.URL+"\\n\\nAuthorization: s3cret\\n\\n'")}, opts: []modfetch.Option{client}, sent: "s3cret", looked: true},
	} {
		t.Run(name, func(t *testing.T) {
			opts := append(c.opts, modfetch.WithGoEnv(c.env), modfetch.WithGOPROXY(c.proxy), modfetch.WithSumDB(s.GOSUMDB()))
			closedTo := startHandler(t, &modfetch.Handler{}, opts...)
			asked := len(s.Requests())
			lookup := "/sumdb/" + databaseOf(s) + "/lookup/example.com/m@v1.0.0"
			for file, path := range filesOfM {
				a := askHandler(t, "GET", closedTo+path)
				wantRefusal(t, file, a, 403)
				want := "forbidden\n" // that the server has credentials is nobody's business
				if setting, _, _ := strings.Cut(name, " "); !c.looked {
					want = "forbidden by the setting " + setting + " of this server\n"
				}
				if a.body != want {
					t.Errorf("%s: %q, want %q", file, a.body, want)
				}
			}
			wantRefusal(t, "lookup", askHandler(t, "GET", closedTo+lookup), 403)
			if all := s.Requests()[asked:]; len(all) > 0 {
				t.Errorf("the mirror was asked for %q", all)
			}

			open := startHandler(t, &modfetch.Handler{ServePrivate: true}, opts...)
			asked = len(s.Log())
			want := 200
			if c.direct {
				want = 403 // it takes ServeDirect too
			}
			for file, path := range filesOfM {
				if a := askHandler(t, "GET", open+path); a.StatusCode != want {
					t.Errorf("%s with ServePrivate: %s, %q", file, a.Status, a.body)
				}
			}
			all := s.Log()[asked:]
			for _, r := range all {
				if got := r.Header.Get("Authorization") + r.Query; !strings.Contains(got, c.sent) || c.sent == "" && name != "user name beside a mirror" && got != "" {
					t.Errorf("the mirror got %q with %s", got, r.Path)
				}
			}
			if (len(all) > 0) == c.direct {
				t.Errorf("%d requests with ServePrivate", len(all))
			}
			if a := askHandler(t, "GET", open+lookup); (a.StatusCode == 200) != c.looked {
				t.Errorf("lookup with ServePrivate: %s, %q", a.Status, a.body)
			}
		})
	}
}

// TestHandlerDoesNotSendForClients shows that what somebody sends along with a request is not sent on, and that what a
// GOAUTH command would find after a refusal is not asked for.
func TestHandlerDoesNotSendForClients(t *testing.T) {
	s := newWorld(t)
	base := startHandler(t, &modfetch.Handler{ServePrivate: true, VerboseErrors: true}, s.Options()...)
	for _, path := range append(slices.Collect(maps.Values(filesOfM)), "/sumdb/"+databaseOf(s)+"/lookup/example.com/m@v1.0.0", "/sumdb/"+databaseOf(s)+"/latest") {
		req, err := http.NewRequest("GET", strings.Replace(base, "://", "://user-s3cret:word-s3cret@", 1)+path+"?q=s3cret", strings.NewReader("s3cret"))
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"Cookie", "X-Token", "Proxy-Authorization", "X-Forwarded-For", "Forwarded", "Referer", "User-Agent", "Via", "Private-Token", "Traceparent", "If-None-Match"} {
			req.Header.Set(key, "a=s3cret")
		}
		if req.Header.Get("Authorization") == "" {
			req.SetBasicAuth("user-s3cret", "word-s3cret")
		}
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("%s: %v, %v", path, resp, err)
		}
		resp.Body.Close()
	}
	for _, r := range s.Log() {
		if sent := fmt.Sprint(r.Query, r.Header); strings.Contains(sent, "s3cret") || r.Header.Get("Authorization") != "" {
			t.Errorf("%s was asked for with %s", r.Path, sent)
		}
	}

	helper := script(t, `
echo $# >>"$dir/log"
if [ $# = 1 ]; then printf 'https://corp.test:8443/go\n\nX-Token: s3cret\n\n'; fi`)
	n := guarded(401, "X-Token", "s3cret")
	f := authFetcher(t, n, modfetch.GoEnv{GOAUTH: helper})
	stranger := startHandler(t, &modfetch.Handler{Fetcher: f})
	list := filesOfM["list"]
	a := askHandler(t, "GET", stranger+list)
	wantRefusal(t, "list", a, 403)
	if got := n.asked[0].Header.Get("X-Token"); len(n.asked) != 1 || got != "" || beside(t, helper, "log") != "0\n" {
		t.Errorf("%d requests, the first with the token %q; the command ran with %q", len(n.asked), got, beside(t, helper, "log"))
	}
	if _, err := f.Versions(t.Context(), moduleM.Path); err != nil { // the owner is given it
		t.Fatal(err)
	}
	asked := len(n.urls())
	wantRefusal(t, "list", askHandler(t, "GET", stranger+list), 403)
	wantRefusal(t, "latest", askHandler(t, "GET", stranger+filesOfM["latest"]), 403)
	if all := n.urls()[asked:]; len(all) > 0 {
		t.Errorf("asked for %q in the owner's name, or to no end", all)
	}
	friend := startHandler(t, &modfetch.Handler{Fetcher: f, ServePrivate: true})
	if a := askHandler(t, "GET", friend+list); a.StatusCode != 200 || a.body != "v1.0.0\n" {
		t.Errorf("with ServePrivate: %s, %q", a.Status, a.body)
	}
}

func TestHandlerFetchesFromRepositoriesOnlyIfTold(t *testing.T) {
	s := newWorld(t)
	t.Setenv("PATH", t.TempDir()) // without a go command, so that `direct` fails, and is no absence
	const missing = "/example.com/missing/@v/v1.0.0.zip"
	for _, c := range []struct {
		proxy  string
		served bool
		path   string
		status int
		body   string // of a refusal
		asked  int    // requests to the mirror
	}{
		{s.URL + ",direct", false, missing, 404, "not found: mirror 1: not found\n", 1},
		{s.URL + "|direct", false, missing, 404, "not found: mirror 1: not found\n", 1},
		{s.URL + ",direct", true, missing, 403, "forbidden: mirror 1: not found; mirror 2: forbidden\n", 1},
		{s.URL + ",direct", false, filesOfM["zip"], 200, "", 2},
		{"direct", false, filesOfM["zip"], 403, "forbidden\n", 0},
		{"direct", true, filesOfM["zip"], 403, "forbidden: mirror 1: forbidden\n", 0},
	} {
		count := func() int { return s.Count("*.zip") + s.Count("*.mod") }
		asked := count()
		base := startHandler(t, &modfetch.Handler{ServeDirect: c.served}, modfetch.WithGOPROXY(c.proxy), modfetch.WithSumDB(s.GOSUMDBDirect()))
		a := askHandler(t, "GET", base+c.path)
		if a.StatusCode != c.status || c.body != "" && a.body != c.body || count()-asked != c.asked {
			t.Errorf("%s of %s, ServeDirect %t: %s, %q after %d requests", c.path, c.proxy, c.served, a.Status, a.body, count()-asked)
		}
	}
	for h, want := range map[*modfetch.Handler]string{
		{ServePrivate: true}:                    "forbidden\n",
		{ServeDirect: true}:                     "forbidden by the setting WithPrivate of this server\n",
		{ServePrivate: true, ServeDirect: true}: "forbidden: mirror 1: forbidden\n", // as far as there is a go command
	} {
		base := startHandler(t, h, append(s.Options(), modfetch.WithPrivate("example.com"))...)
		a := askHandler(t, "GET", base+filesOfM["zip"])
		wantRefusal(t, "private", a, 403)
		if a.body != want {
			t.Errorf("%+v: %q, want %q", h, a.body, want)
		}
	}
}

func TestHandlerAllowsAndDenies(t *testing.T) {
	s := newWorld(t)
	db := "/sumdb/" + databaseOf(s)
	const allow, deny = "example.com/m,example.com/old", "example.com/m/v2,other.test"
	start := func(log *servedLog) string {
		return startHandler(t, &modfetch.Handler{Allow: allow, Deny: deny, ServePrivate: true, VerboseErrors: true, Served: log.add}, s.Options()...)
	}
	for path, setting := range map[string]string{"/example.com/m/v2/@v/v2.1.0.zip": "Deny", "/example.com/m/v2/@latest": "Deny", "/example.com/!upper/!case/@v/list": "Allow",
		"/other.test/x/@v/list": "Deny", "/example.com/mm/@v/list": "Allow", db + "/lookup/example.com/m/v2@v2.1.0": "Deny",
		db + "/lookup/example.com/!upper/!case@v1.0.0-!r!c1": "Allow"} {
		log := new(servedLog)
		a := askHandler(t, "GET", start(log)+path)
		wantRefusal(t, path, a, 403)
		if a.body != "forbidden by the setting "+setting+" of this server\n" {
			t.Errorf("%s: %q, because of %s", path, a.body, setting)
		}
		if err := log.last().Err; err == nil || !strings.HasSuffix(err.Error(), " because of "+setting+"="+map[string]string{"Allow": allow, "Deny": deny}[setting]) {
			t.Errorf("%s: told of %v, because of %s", path, err, setting)
		}
	}
	if all := s.Requests(); len(all) > 0 {
		t.Errorf("the mirror was asked for %q", all)
	}
	base := start(new(servedLog))
	for _, path := range []string{filesOfM["zip"], filesOfM["latest"], "/example.com/old/@v/list", db + "/lookup/example.com/m@v1.0.0", db + "/latest", db + "/supported"} {
		if a := askHandler(t, "GET", base+path); a.StatusCode != 200 {
			t.Errorf("%s: %s, %q", path, a.Status, a.body)
		}
	}
}

// TestHandlerFromTheCacheAlone compares a Handler that may ask nobody, or was told by the client to ask nobody, with what is
// in the cache, which others have filled.
func TestHandlerFromTheCacheAlone(t *testing.T) {
	s := newWorld(t)
	db := "/sumdb/" + databaseOf(s)
	paths := append(slices.Collect(maps.Values(filesOfM)), db+"/latest", db+"/lookup/example.com/m@v1.0.0", db+"/tile/8/0/000.p/4")
	for name, opts := range map[string]func() []modfetch.Option{
		"module cache": func() []modfetch.Option { return []modfetch.Option{modfetch.WithModCache(tempDir(t))} },
		"Cache":        func() []modfetch.Option { return []modfetch.Option{modfetch.WithCache(modfetch.DirCache(t.TempDir()))} },
		"both": func() []modfetch.Option {
			return []modfetch.Option{modfetch.WithModCache(tempDir(t)), modfetch.WithCache(modfetch.DirCache(t.TempDir()))}
		},
	} {
		t.Run(name, func(t *testing.T) {
			opts := append(s.Options(), opts()...)
			shut, open := startHandler(t, &modfetch.Handler{CacheOnly: true}, opts...), startHandler(t, &modfetch.Handler{}, opts...)
			asked := len(s.Requests())
			for _, path := range paths {
				wantRefusal(t, path, askHandler(t, "GET", shut+path), 503)
				wantRefusal(t, path, askHandler(t, "GET", open+path, "Disable-Module-Fetch", "true"), 404)
				wantRefusal(t, path, askHandler(t, "GET", shut+path, "Disable-Module-Fetch", "true"), 404)
			}
			if a := askHandler(t, "GET", shut+db+"/supported"); a.StatusCode != 200 {
				t.Errorf("supported: %s", a.Status)
			}
			if all := s.Requests()[asked:]; len(all) > 0 {
				t.Errorf("the mirror was asked for %q", all)
			}
			bodies := make(map[string]string)
			for _, path := range paths {
				a := askHandler(t, "GET", open+path, "Disable-Module-Fetch", "false")
				if bodies[path] = a.body; a.StatusCode != 200 {
					t.Errorf("%s: %s, %q", path, a.Status, a.body)
				}
			}
			asked = len(s.Requests())
			log := new(servedLog)
			later := startHandler(t, &modfetch.Handler{CacheOnly: true, Served: log.add}, opts...)
			polite := startHandler(t, &modfetch.Handler{}, opts...)
			for _, path := range paths {
				for what, a := range map[string]answered{
					"the same Handler":                askHandler(t, "GET", open+path, "Disable-Module-Fetch", "true"),
					"one that was empty":              askHandler(t, "GET", shut+path),
					"a later one":                     askHandler(t, "GET", later+path),
					"a later one, told to ask nobody": askHandler(t, "GET", polite+path, "Disable-Module-Fetch", "1"),
				} {
					kept := name != "Cache" && path == filesOfM["info"] && strings.Contains(a.body, "0123456789abcdef") // as the go command keeps it
					if a.StatusCode != 200 || a.body != bodies[path] && !kept {
						t.Errorf("%s of %s: %s, %.100q, want %.100q", path, what, a.Status, a.body, bodies[path])
					}
				}
			}
			if all := s.Requests()[asked:]; len(all) > 0 {
				t.Errorf("the mirror was asked for %q", all)
			}
			for _, i := range log.all() {
				if !i.Hit {
					t.Errorf("no hit: %+v", i)
				}
			}
		})
	}
}

// TestHandlerFetchesAZipOnce has 64 clients ask at once for a zip that is nowhere, and some of them leave.
func TestHandlerFetchesAZipOnce(t *testing.T) {
	const clients = 64
	for name, cached := range map[string]func(t *testing.T) []modfetch.Option{
		"module cache": func(t *testing.T) []modfetch.Option { return []modfetch.Option{modfetch.WithModCache(tempDir(t))} },
		"Cache": func(t *testing.T) []modfetch.Option {
			return []modfetch.Option{modfetch.WithCache(modfetch.DirCache(t.TempDir()))}
		},
		"no cache": func(*testing.T) []modfetch.Option { return nil },
	} {
		for _, leaving := range []int{0, clients / 2, clients} {
			t.Run(fmt.Sprintf("%s/%d leave", name, leaving), func(t *testing.T) {
				temp := t.TempDir()
				t.Setenv("TMPDIR", temp)
				opts := cached(t)
				s := newWorld(t)
				want := string(httpGet(t, s.URL+pathM+".zip"))
				asked, open, ended := make(chan bool), make(chan bool), make(chan bool)
				s.Fault("*.zip", modfetchtest.Middleware(func(honest http.Handler) http.Handler {
					return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						asked <- true
						select {
						case <-open:
							honest.ServeHTTP(w, r)
						case <-r.Context().Done():
							close(ended)
						}
					})
				}))
				var joined atomic.Int32
				all := make(chan bool)
				trace := &modfetch.Trace{Joined: func(_ context.Context, m module.Version) {
					if joined.Add(1) == clients-1 {
						close(all)
					}
				}}
				before := goroutines()
				f, err := modfetch.New(append(s.Options(), append(opts, modfetch.WithTrace(trace))...)...)
				if err != nil {
					t.Fatal(err)
				}
				log, gone := new(servedLog), make(chan bool, clients)
				h := &modfetch.Handler{Fetcher: f, Served: func(ctx context.Context, i modfetch.ServedInfo) {
					if i.File != "mod" {
						log.add(ctx, i)
					}
					if i.Status == 499 {
						gone <- true
					}
				}}
				server := httptest.NewServer(h)
				askHandler(t, "GET", server.URL+pathM+".mod") // so that nobody joins who asks for it
				transport := &http.Transport{}
				stay, leave := context.WithCancel(t.Context())
				defer leave()
				var wg sync.WaitGroup
				var served atomic.Int32
				for n := range clients {
					ctx := t.Context()
					if n < leaving {
						ctx = stay
					}
					wg.Go(func() {
						req, err := http.NewRequestWithContext(ctx, "GET", server.URL+pathM+".zip", nil)
						if err != nil {
							t.Error(err)
							return
						}
						resp, err := transport.RoundTrip(req)
						if ctx == stay {
							if !errors.Is(err, context.Canceled) {
								t.Errorf("who leaves got %v, %v", resp, err)
							}
							return
						}
						if err != nil {
							t.Error(err)
							return
						}
						defer resp.Body.Close()
						body, err := io.ReadAll(resp.Body)
						if err != nil || resp.StatusCode != 200 || string(body) != want {
							t.Errorf("%s, %d bytes, %v", resp.Status, len(body), err)
						}
						served.Add(1)
					})
				}
				<-asked
				<-all
				leave()
				for range leaving {
					<-gone
				}
				if leaving == clients {
					<-ended // though the mirror has not answered
				}
				close(open)
				wg.Wait()
				server.Close()
				transport.CloseIdleConnections()
				if n := s.Count(pathM + ".zip"); n != 2 || served.Load() != int32(clients-leaving) { // one is the test's own
					t.Errorf("%d requests for the zip, %d clients served", n-1, served.Load())
				}
				for _, i := range log.all() {
					if left := i.Status == 499; i.Hit || i.File != "zip" || left != (i.Bytes < 100) || left != errors.Is(i.Err, context.Canceled) {
						t.Errorf("Served was told %+v", i)
					}
				}
				if n := len(log.all()); n != clients {
					t.Errorf("Served was called %d times", n)
				}
				f.Close()
				s.Close()
				http.DefaultTransport.(*http.Transport).CloseIdleConnections()
				if left := files(t, temp); len(left) > 0 {
					t.Errorf("left: %q", left)
				}
				var running map[string]string
				for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); runtime.Gosched() {
					running = goroutines()
					if maps.DeleteFunc(running, func(id, _ string) bool { return before[id] != "" }); len(running) == 0 {
						break
					}
				}
				if len(running) > 0 {
					t.Errorf("goroutines left: %q", running)
				}
			})
		}
	}
}

// TestHandlerHashesAZipForWhoStays has one of two clients leave while the file is read for its ETag.
func TestHandlerHashesAZipForWhoStays(t *testing.T) {
	s := modfetchtest.NewServer(t, nil)
	random := make([]byte, 4<<20)
	rand.NewChaCha8([32]byte{2}).Read(random)
	s.Add(modfetchtest.NewModule("example.com/m", "v1.0.0").File("random.bin", string(random)))
	f, _ := newFetcher(t, s.Options()...)
	z, err := f.Zip(t.Context(), moduleM)
	if err != nil {
		t.Fatal(err)
	}
	size := z.Size
	z.Close()
	for n := range 12 {
		h := &modfetch.Handler{Fetcher: f} // to which the file is new
		first, leave := context.WithCancel(t.Context())
		begun := make(chan bool)
		var wg sync.WaitGroup
		wg.Go(func() {
			close(begun)
			h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(first, "HEAD", pathM+".zip", nil))
		})
		<-begun
		for range n * 50 {
			runtime.Gosched()
		}
		wg.Go(func() {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "HEAD", pathM+".zip", nil))
			if got := w.Header().Get("Content-Length"); w.Code != 200 || got != strconv.FormatInt(size, 10) {
				t.Errorf("round %d: who stays got %d, Content-Length %s, %q", n, w.Code, got, w.Body)
			}
		})
		for range n * 50 {
			runtime.Gosched()
		}
		leave()
		wg.Wait()
	}
}

func TestHandlerTellsWhatItServed(t *testing.T) {
	s := newWorld(t)
	db := "/sumdb/" + databaseOf(s)
	log := new(servedLog)
	h := &modfetch.Handler{Served: log.add, Deny: "example.com/denied"}
	base := startHandler(t, h, append(s.Options(), modfetch.WithModCache(tempDir(t)))...)
	list := module.Version{Path: "example.com/m"}
	for _, c := range []struct {
		method, path string
		file         string
		m            module.Version
		status       int
		hit          bool // at first
		kind         modfetch.Kind
		header       []string
	}{
		{method: "GET", path: filesOfM["list"], file: "list", m: list, status: 200},
		{method: "GET", path: filesOfM["latest"], file: "latest", m: list, status: 200},
		{method: "GET", path: filesOfM["zip"], file: "zip", m: moduleM, status: 200},
		{method: "GET", path: "/example.com/!upper/!case/@v/v1.0.0-!r!c1.zip", file: "zip", m: moduleUpper, status: 200},
		{method: "HEAD", path: "/example.com/old/@v/v3.0.0+incompatible.zip", file: "zip", m: moduleOld, status: 200},
		{method: "GET", path: "/example.com/m/v2/@v/v2.1.0.mod", file: "mod", m: moduleV2, status: 200},
		{method: "GET", path: "/example.com/m/v2/@v/v2.1.0.info", file: "info", m: moduleV2, status: 200},
		{method: "GET", path: filesOfM["revision"], file: "info", m: module.Version{Path: "example.com/m", Version: "0123456789ab"}, status: 200},
		{method: "GET", path: filesOfM["zip"], file: "zip", m: moduleM, status: 206, hit: true, header: []string{"Range", "bytes=5-9"}},
		{method: "GET", path: filesOfM["zip"], file: "zip", m: moduleM, status: 304, hit: true, header: []string{"If-None-Match", "*"}},
		{method: "GET", path: filesOfM["zip"], file: "zip", m: moduleM, status: 416, hit: true, header: []string{"Range", "bytes=99999999-"}},
		{method: "GET", path: db + "/supported", file: "supported", status: 200, hit: true},
		{method: "GET", path: db + "/latest", file: "head", status: 200},
		{method: "GET", path: db + "/lookup/example.com/m@v1.0.0", file: "lookup", m: moduleM, status: 200, hit: true},
		{method: "GET", path: db + "/tile/8/0/000.p/4", file: "tile", status: 200, hit: true},
		{method: "GET", path: "/example.com/none/@v/v1.0.0.mod", file: "mod", m: module.Version{Path: "example.com/none", Version: "v1.0.0"}, status: 404, kind: modfetch.NotFound},
		{method: "GET", path: "/example.com/denied/@v/list", file: "list", m: module.Version{Path: "example.com/denied"}, status: 403, hit: true, kind: modfetch.Forbidden},
		{method: "GET", path: "/", status: 404, hit: true, kind: modfetch.NotFound},
		{method: "HEAD", path: "/", status: 404, hit: true, kind: modfetch.NotFound},
		{method: "GET", path: "/sumdb/other.test/latest", status: 404, hit: true, kind: modfetch.NotFound},
		{method: "POST", path: filesOfM["zip"], status: 405, hit: true, kind: modfetch.Transient},
	} {
		for _, again := range []bool{false, true} {
			before := len(log.all())
			a := askHandler(t, c.method, base+c.path, c.header...)
			for len(log.all()) == before {
				runtime.Gosched()
			}
			i := log.last()
			if n := len(log.all()); n != before+1 {
				t.Errorf("%s %s: Served was called %d times", c.method, c.path, n-before)
			}
			bytes := int64(len(a.body))
			if i.Method != c.method || i.Path != strings.ReplaceAll(c.path, "%20", " ") || i.File != c.file || i.Module != c.m || i.Status != c.status || a.StatusCode != c.status ||
				i.Bytes != bytes || i.Hit != (c.hit || again) || modfetch.KindOf(i.Err) != c.kind || i.Stale != "" || i.Duration <= 0 {
				t.Errorf("%s %s, again %t: %d bytes of %s, Served was told %+v", c.method, c.path, again, bytes, a.Status, i)
			}
		}
	}
	for _, i := range log.all() {
		if i.File == "zip" && i.Method == "GET" && i.Status == 200 && i.Bytes < 100 {
			t.Errorf("a zip of %d bytes", i.Bytes)
		}
	}
}

// TestHandlerTellsHitsFromMisses has clients ask at once for what has to be fetched, and once more for what is there.
func TestHandlerTellsHitsFromMisses(t *testing.T) {
	const clients = 16
	s := newWorld(t)
	for file, path := range filesOfM {
		t.Run(file, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				release := make(chan bool)
				n := &network{answer: func(r *http.Request) (*http.Response, error) {
					<-release
					return reply(r, 200, string(httpGetIn(t, s, r.URL.Path)))
				}}
				f, err := modfetch.New(modfetch.WithGOPROXY("https://mirror.test"), modfetch.WithSumDB("off"), modfetch.WithHTTPClient(n.client()),
					modfetch.WithCache(slowCache{new(modfetch.MemCache)}))
				if err != nil {
					t.Fatal(err)
				}
				log := new(servedLog)
				h := &modfetch.Handler{Fetcher: f, Served: log.add}
				ask := func() (together *sync.WaitGroup) {
					together = new(sync.WaitGroup)
					for range clients {
						together.Go(func() {
							w := httptest.NewRecorder()
							if h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", path, nil)); w.Code != 200 {
								t.Errorf("%d, %q", w.Code, w.Body)
							}
						})
					}
					synctest.Wait() // all of them wait, most for others
					return together
				}
				misses := ask()
				close(release)
				misses.Wait()
				for _, i := range log.all() {
					if i.Hit {
						t.Errorf("a hit, though nothing was there: %+v", i)
					}
				}
				ask().Wait()
				for _, i := range log.all()[clients:] {
					if !i.Hit {
						t.Errorf("no hit, though it was there: %+v", i)
					}
				}
			})
		})
	}
}

// A slowCache takes its time, so that clients join each other.
type slowCache struct{ modfetch.Cache }

func (c slowCache) Open(ctx context.Context, name string) (io.ReadSeekCloser, error) {
	time.Sleep(time.Second)
	return c.Cache.Open(ctx, name)
}

// TestGoCommandBehindAHandler has a go command that can reach nothing but a Handler, the checksum database included.
func TestGoCommandBehindAHandler(t *testing.T) {
	t.Parallel()
	goCommand := needGo(t)
	s := newWorld(t)
	const replaced = "module example.com/chain\n\ngo 1.26\n\nrequire (\n\texample.com/m v1.0.0\n\texample.com/Upper/Case v1.0.0-RC1\n\texample.com/old v3.0.0+incompatible\n)\n"
	s.Add(modfetchtest.NewModule("example.com/chain", "v1.0.0").File("go.mod", replaced).File("x.go", "package x\n\nimport _ \"example.com/m\"\n"))
	s.Add(modfetchtest.NewModule("example.com/chain", "v1.1.0").File("go.mod", replaced).File("x.go", "package x\n\nimport _ \"example.com/m\"\n"))
	s.Add(modfetchtest.NewModule("example.com/tagged", "v3.0.0+incompatible").File(".info", `{"Version":"v3.0.0+incompatible","Time":"2024-01-02T03:04:05Z","Origin":{"VCS":"git","Ref":"refs/tags/v3.0.0"}}`).File("x.go", "package x\n"))
	log := new(servedLog)
	base := startHandler(t, &modfetch.Handler{Served: log.add, Deny: "example.com/denied"}, append(s.Options(), modfetch.WithModCache(tempDir(t)))...)
	nowhere := modfetchtest.NewServer(t, nil) // an HTTP proxy that leads nowhere
	newEnv := func(settings ...string) []string {
		return append(append(nowhere.Env(t), "GOPROXY="+base, "GOSUMDB="+s.GOSUMDB(), "GOFLAGS=-modcacherw -mod=mod"), settings...)
	}
	project := func() string {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module example.com/main\n\ngo 1.26\n\nrequire example.com/chain v1.0.0\n"), 0o666); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte("package main\n\nimport _ \"example.com/chain\"\n\nfunc main() {}\n"), 0o666); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	run := func(env []string, dir string, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), goCommand, args...)
		cmd.Dir, cmd.Env = dir, env
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	must := func(want string, env []string, dir string, args ...string) {
		t.Helper()
		if out, err := run(env, dir, args...); err != nil || !strings.Contains(out, want) {
			t.Errorf("go %s: %v\n%s\nwant %q", strings.Join(args, " "), err, out, want)
		}
	}

	dir := project()
	must("example.com/m v1.0.0\nexample.com/old v3.0.0+incompatible\n", newEnv(), dir, "list", "-m", "all")
	must("example.com/chain v1.0.0 [v1.1.0]\n", newEnv(), dir, "list", "-m", "-u", "all")
	if n := s.Count("*.zip"); n > 0 {
		t.Errorf("go list -m all has caused %d requests for zips", n)
	}
	for _, i := range log.all() {
		if i.Err != nil && modfetch.KindOf(i.Err) != modfetch.NotFound {
			t.Errorf("%+v", i)
		}
	}
	if s.Count("*.mod") == 0 || s.Count("/sumdb/*/lookup/*") == 0 {
		t.Errorf("asked for %q", s.Requests())
	}
	must("example.com/chain v1.0.0 v1.1.0\n", newEnv(), dir, "list", "-m", "-versions", "example.com/chain")
	must("", newEnv(), dir, "mod", "download", "all")
	for _, m := range allModules {
		if m != moduleV2 && s.Count("/"+proxyPath(t, m)+".zip") != 1 {
			t.Errorf("%s: %d requests for the zip", m, s.Count("/"+proxyPath(t, m)+".zip"))
		}
	}
	asked := len(s.Requests())
	env := newEnv()
	must("", env, project(), "mod", "download", "all")
	must("", env, project(), "mod", "tidy")
	for _, path := range s.Requests()[asked:] {
		if strings.HasSuffix(path, ".zip") || strings.HasSuffix(path, ".mod") {
			t.Errorf("asked again for %s", path)
		}
	}
	must("", newEnv(), project(), "build", "-o", os.DevNull, ".")
	dir = project()
	must("upgraded example.com/chain v1.0.0 => v1.1.0", newEnv(), dir, "get", "example.com/chain@latest")
	must("added example.com/m/v2 v2.1.0", newEnv(), dir, "get", "example.com/m/v2@v2")
	must("v1.0.0\n", newEnv(), dir, "list", "-m", "-f", "{{.Version}}", "example.com/m@0123456789ab")
	must("v3.0.0+incompatible\n", newEnv("GOPROXY="+s.URL), dir, "list", "-m", "-f", "{{.Version}}", "example.com/tagged@v3.0.0")
	must("v3.0.0+incompatible\n", newEnv(), dir, "list", "-m", "-f", "{{.Version}}", "example.com/tagged@v3.0.0")
	must("v1.0.0\n", newEnv("GOPROXY="+s.URL), dir, "list", "-m", "-f", "{{.Version}}", "example.com/m@v1.0.0+meta")
	must("v1.0.0\n", newEnv(), dir, "list", "-m", "-f", "{{.Version}}", "example.com/m@v1.0.0+meta")

	// An absence leads on behind a `,`, a refusal does not.
	other := modfetchtest.NewServer(t, nil)
	other.Add(modfetchtest.NewModule("example.com/elsewhere", "v1.0.0").File("x.go", "package x\n"))
	other.Add(modfetchtest.NewModule("example.com/denied", "v1.0.0").File("x.go", "package x\n"))
	both := newEnv("GOPROXY="+base+","+other.URL, "GONOSUMDB=example.com/elsewhere,example.com/denied")
	must("", both, dir, "mod", "download", "example.com/elsewhere@v1.0.0")
	if out, err := run(both, dir, "mod", "download", "example.com/denied@v1.0.0"); err == nil || !strings.Contains(out, "403 Forbidden") || other.Count("*denied*") > 0 {
		t.Errorf("what is denied: %v, %s", err, out)
	}
	if all := nowhere.Requests(); len(all) > 0 {
		t.Errorf("tried to reach %q", all)
	}
	if _, err := run(newEnv(), dir, "mod", "download", "example.com/missing@v1.0.0"); err == nil {
		t.Error("what is missing was downloaded")
	}
}

// TestHandlerKeepsNoRequestLines: what is remembered by a path keeps nothing of the query behind it.
func TestHandlerKeepsNoRequestLines(t *testing.T) {
	const asked, query, most = 60, 900 << 10, 16 << 20
	s := newWorld(t)
	f, _ := newFetcher(t, s.Options()...)
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	for name, c := range map[string]struct {
		h      *modfetch.Handler
		path   string
		status int
	}{
		"denied": {&modfetch.Handler{Fetcher: f, Deny: "*"}, "/example.com/a%d/@v/list", 403},
		"absent": {&modfetch.Handler{Fetcher: f}, "/example.com/m/@v/v1.9.%d.mod", 404},
	} {
		before := heap()
		for i := range asked {
			w := httptest.NewRecorder()
			c.h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", fmt.Sprintf(c.path, i)+"?"+strings.Repeat("q", query), nil))
			if w.Code != c.status {
				t.Fatalf("%s: %d %q", name, w.Code, w.Body)
			}
		}
		if grown := heap() - before; grown > most {
			t.Errorf("%s: %d requests of %d KiB are kept in %d MiB", name, asked, query>>10, grown>>20)
		}
		c.h.Close()
	}
}

// TestHandlerMemory measures a Handler, as a process of its own, of which clients ask for what a mirror makes 400 MiB long.
func TestHandlerMemory(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("the memory of a process is read from /proc")
	}
	program := filepath.Join(t.TempDir(), "serve")
	cmd := exec.CommandContext(t.Context(), needGo(t), "build", "-o", program, "./testdata/serve")
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOPROXY=off", "GOTOOLCHAIN=local")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	const most = 16 << 10 // KiB
	endless := func(status int, line string) modfetchtest.Fault {
		return modfetchtest.Handler(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.WriteHeader(status) // without a Content-Length
			chunk := []byte(strings.Repeat(line, 64<<10/len(line)))
			for sent := 0; sent < 400<<20; sent += len(chunk) {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		})
	}
	for name, c := range map[string]struct {
		file   string
		fault  modfetchtest.Fault
		status int
	}{
		"list of one version": {"list", endless(200, "v1.0.0\n"), 502},
		"list of no version":  {"list", endless(200, "x"), 502},
		"list without lines":  {"list", endless(200, " "), 502},
		"info":                {"info", endless(200, " "), 502},
		"latest":              {"latest", endless(200, " "), 502},
		"mod":                 {"mod", endless(200, "// comment\n"), 502},
		"error of a list":     {"list", endless(500, "error\n"), 502},
		"absence of a mod":    {"mod", endless(404, "error"), 404},
		"refusal of an info":  {"info", endless(403, "error"), 403},
		"error of a zip":      {"zip", endless(503, "error"), 502},
	} {
		t.Run(name, func(t *testing.T) {
			s := newWorld(t)
			child := exec.CommandContext(t.Context(), program, s.URL, s.GOSUMDB(), t.TempDir())
			child.Env = append(os.Environ(), "GOGC=100", "GOMEMLIMIT=off")
			input, err := child.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			output, err := child.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := child.Start(); err != nil {
				t.Fatal(err)
			}
			defer child.Wait()
			defer input.Close()
			var address string
			if _, err := fmt.Fscan(output, &address); err != nil {
				t.Fatal(err)
			}
			peak := func() (kib int) {
				status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", child.Process.Pid))
				_, report, _ := strings.Cut(string(status), "VmHWM:")
				if err == nil {
					_, err = fmt.Sscan(report, &kib)
				}
				if err != nil {
					t.Fatal(err)
				}
				return kib
			}
			for _, path := range filesOfM { // what it takes to serve anything
				upper := strings.NewReplacer("/m/", "/!upper/!case/", "v1.0.0", "v1.0.0-!r!c1").Replace(path)
				askHandler(t, "GET", "http://"+address+upper)
			}
			before := peak()
			s.Fault(filesOfM[c.file], c.fault)
			for range 3 {
				if a := askHandler(t, "GET", "http://"+address+filesOfM[c.file]); a.StatusCode != c.status {
					t.Errorf("%s, %q", a.Status, a.body)
				}
			}
			after := peak()
			t.Logf("a peak of %d KiB, %d before: %d more", after, before, after-before)
			if after-before > most {
				t.Errorf("a peak of %d KiB, %d before: %d more, want at most %d", after, before, after-before, most)
			}
		})
	}
}

// TestHandlerServesALargeGoMod serves files around the size from which one does not lie in memory while it arrives.
func TestHandlerServesALargeGoMod(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	t.Setenv("TMP", temp)
	s := modfetchtest.NewServer(t, nil)
	base := startHandler(t, &modfetch.Handler{}, s.Options()...)
	serve := func(size int) (path, text string) {
		m := module.Version{Path: fmt.Sprintf("example.com/m%d", size), Version: "v1.0.0"}
		text = "module " + m.Path + "\n//"
		for n := 0; len(text) < size; n++ {
			text += strings.Repeat(strconv.Itoa(n), 1000)
		}
		text = text[:size]
		s.Add(modfetchtest.NewModule(m.Path, m.Version).File(".mod", text).File("x.go", "package x\n"))
		return "/" + proxyPath(t, m) + ".mod", text
	}
	for _, size := range []int{1<<20 - 1, 1 << 20, 1<<20 + 1, 3 << 20} {
		path, text := serve(size)
		if a := askHandler(t, "GET", base+path); a.StatusCode != 200 || a.body != text {
			t.Errorf("of %d bytes: %s, %d bytes", size, a.Status, len(a.body))
		}
	}
	path, _ := serve(2 << 20)
	s.Fault(path, modfetchtest.Truncate(3<<19))
	wantRefusal(t, "cut", askHandler(t, "GET", base+path), 502)
	if left := files(t, temp); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	s.ClearFaults()
	if err := os.Remove(temp); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, "no directory for it", askHandler(t, "GET", base+path), 502)
	if err := os.Mkdir(temp, 0o777); err != nil {
		t.Fatal(err)
	}
	if a := askHandler(t, "GET", base+path); a.StatusCode != 200 {
		t.Errorf("afterwards: %s, %q", a.Status, a.body)
	}
}

// TestHandlerFallsBackToTheList has a mirror without an @latest, which the protocol allows.
func TestHandlerFallsBackToTheList(t *testing.T) {
	s := newWorld(t)
	for name, c := range map[string]struct {
		latest, list modfetchtest.Fault
		status       int
	}{
		"absent":                          {modfetchtest.Status(404), modfetchtest.Fault{}, 200},
		"absent, and so is the list":      {modfetchtest.Status(404), modfetchtest.Status(410), 404},
		"absent, and the list is empty":   {modfetchtest.Status(404), modfetchtest.Status(200, "\n"), 404},
		"absent, and the list fails":      {modfetchtest.Status(404), modfetchtest.Status(500), 502},
		"absent, and the list is refused": {modfetchtest.Status(404), modfetchtest.Status(403), 403},
		"refused, and there is a list":    {modfetchtest.Status(403), modfetchtest.Fault{}, 403},
		"false, and there is a list":      {modfetchtest.WrongVersion("v9.9.9"), modfetchtest.Fault{}, 502},
	} {
		t.Run(name, func(t *testing.T) {
			s.ClearFaults()
			s.Fault(filesOfM["latest"], c.latest)
			s.Fault(filesOfM["list"], c.list)
			base := startHandler(t, &modfetch.Handler{}, s.Options()...)
			a := askHandler(t, "GET", base+filesOfM["latest"])
			if c.status != 200 {
				wantRefusal(t, name, a, c.status)
			} else if a.StatusCode != 200 || !strings.Contains(a.body, `"Version":"v1.0.0"`) {
				t.Errorf("%s, %q", a.Status, a.body)
			}
		})
	}
}
