package modfetchtest_test

import (
	"archive/zip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/modfetch/modfetch/modfetchtest"
)

const (
	zipPath  = "/example.com/m/@v/v1.0.0.zip"
	modPath  = "/example.com/m/@v/v1.0.0.mod"
	infoPath = "/example.com/m/@v/v1.0.0.info"
)

// honest returns a server, and what it answers for path while it has no faults.
func honest(t *testing.T, path string) (*modfetchtest.Server, string) {
	t.Helper()
	s := modfetchtest.NewServer(t, testdata())
	resp, body := get(t, s.URL+path)
	if resp.StatusCode != 200 {
		t.Fatalf("%s: status %d", path, resp.StatusCode)
	}
	return s, body
}

func TestStatus(t *testing.T) {
	s, _ := honest(t, zipPath)
	s.Fault("*.zip", modfetchtest.Status(429, "slow down", "please").Header("Retry-After", "7"))
	resp, body := get(t, s.URL+zipPath)
	if resp.StatusCode != 429 || body != "slow down\nplease\n" || resp.Header.Get("Retry-After") != "7" ||
		resp.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("%v, body %q", resp, body)
	}
	if log := s.Log(); log[len(log)-1].Status != 429 {
		t.Errorf("logged as %d", log[len(log)-1].Status)
	}
}

func TestHTML(t *testing.T) {
	s, _ := honest(t, zipPath)
	s.Fault("*", modfetchtest.HTML())
	resp, body := get(t, s.URL+zipPath)
	if resp.StatusCode != 200 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") || !strings.HasPrefix(body, "<!DOCTYPE html>") {
		t.Errorf("%v, body %q", resp, body)
	}
	if log := s.Log(); log[len(log)-1].Status != 200 {
		t.Errorf("logged as %d", log[len(log)-1].Status)
	}
}

func TestRedirect(t *testing.T) {
	s, body := honest(t, "/example.com/!odd/under_score/@v/v1.2.3.zip")
	m := s.Mirror()
	s.Fault("/example.com/!odd/*", modfetchtest.Redirect(m.URL+"/"))
	s.Fault("*.mod", modfetchtest.Redirect("http://192.0.2.1/latest"))
	for path, want := range map[string]string{
		"/example.com/%21odd/under_score/@v/v1.2.3.zip": m.URL + "/example.com/%21odd/under_score/@v/v1.2.3.zip",
		modPath: "http://192.0.2.1/latest",
	} {
		if resp, _ := get(t, s.URL+path); resp.StatusCode != 302 || resp.Header.Get("Location") != want {
			t.Errorf("%s: %d to %s, want 302 to %s", path, resp.StatusCode, resp.Header.Get("Location"), want)
		}
	}
	resp, err := http.Get(s.URL + "/example.com/!odd/under_score/@v/v1.2.3.zip")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, _ := io.ReadAll(resp.Body); string(got) != body {
		t.Error("following the redirect leads to another file")
	}
}

func TestReset(t *testing.T) {
	s, _ := honest(t, zipPath)
	s.Fault("*.zip", modfetchtest.Reset().Header("X", "1").Bandwidth(1))
	if _, _, err := request(http.MethodPost, s.URL+zipPath); err == nil || errors.Is(err, io.EOF) { // POST is never retried
		t.Errorf("error %v, want that of a reset connection", err)
	}
}

func TestHang(t *testing.T) {
	s, _ := honest(t, zipPath)
	s.Fault("*.zip", modfetchtest.Hang())
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+zipPath, nil)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		_, err := http.DefaultTransport.RoundTrip(req)
		done <- err
	}()
	for s.Count("*.zip") < 2 {
		runtime.Gosched()
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want the client's own", err)
	}
	s.Close() // waits for the handler
	if log := s.Log(); log[1].Status != 0 {
		t.Errorf("logged as %d, want 0", log[1].Status)
	}
}

func TestAClientThatLeavesEndsTheHandler(t *testing.T) {
	s, _ := honest(t, zipPath)
	arrived, left := make(chan bool), make(chan bool)
	s.Fault("*.zip", modfetchtest.Handler(func(w http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
		close(left)
	}))
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+zipPath, nil)
	if err != nil {
		t.Fatal(err)
	}
	go http.DefaultTransport.RoundTrip(req)
	<-arrived
	cancel()
	<-left
}

func TestTruncate(t *testing.T) {
	for _, test := range []struct {
		name   string
		n      int
		header []string
		want   func(body string) string
		whole  bool
	}{
		{name: "nothing", n: 0, want: func(b string) string { return "" }},
		{name: "start", n: 10, want: func(b string) string { return b[:10] }},
		{name: "all but the end", n: -1, want: func(b string) string { return b[:len(b)-1] }},
		{name: "part of a range", n: 3, header: []string{"Range", "bytes=5-9"}, want: func(b string) string { return b[5:8] }},
		{name: "longer than the body", n: 1 << 30, want: func(b string) string { return b }, whole: true},
		{name: "shorter than nothing", n: -1 << 30, want: func(b string) string { return "" }},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, content := honest(t, zipPath)
			s.Fault("*.zip", modfetchtest.Truncate(test.n))
			resp, body, err := request(http.MethodGet, s.URL+zipPath, test.header...)
			if resp == nil {
				t.Fatal(err)
			}
			if (err == nil) != test.whole || err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("error %v", err)
			}
			if body != test.want(content) {
				t.Errorf("%d bytes, want %d", len(body), len(test.want(content)))
			}
			size := int64(len(content))
			if test.header != nil {
				size = 5
			}
			if resp.ContentLength != size {
				t.Errorf("Content-Length %d, want %d", resp.ContentLength, size)
			}
		})
	}
}

func TestStall(t *testing.T) {
	s, content := honest(t, zipPath)
	s.Fault("*.zip", modfetchtest.Stall(7))
	resp, err := http.Get(s.URL + zipPath)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got := make([]byte, 7)
	if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != content[:7] {
		t.Fatalf("%q, %v, want %q", got, err, content[:7])
	}
	next := make(chan error)
	go func() {
		_, err := resp.Body.Read(make([]byte, 1))
		next <- err
	}()
	select {
	case err := <-next:
		t.Fatalf("the body goes on with %v", err)
	default: // nothing yet; Close is what ends it
	}
	s.Close()
	if err := <-next; !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("after Close: %v, want an unexpected EOF", err)
	}
}

func TestStallPastTheEnd(t *testing.T) {
	s, content := honest(t, zipPath)
	s.Fault("*.zip", modfetchtest.Stall(1<<30))
	for range 2 { // the second over the same connection
		if _, body := get(t, s.URL+zipPath); body != content {
			t.Errorf("%d bytes, want %d", len(body), len(content))
		}
	}
}

func TestCorrupt(t *testing.T) {
	s, content := honest(t, zipPath)
	resp, _ := get(t, s.URL+zipPath)
	etag := resp.Header.Get("ETag")
	_, mod := get(t, s.URL+modPath)
	s.Fault("/example.com/*", modfetchtest.Corrupt())

	resp, body := get(t, s.URL+zipPath)
	if h1(t, body) == h1(t, content) {
		t.Error("the zip has the same h1")
	}
	if got := zipFile(t, body, "example.com/m@v1.0.0/go.mod"); got != mod {
		t.Errorf("go.mod in the zip is changed to %q", got)
	}
	if resp.Header.Get("ETag") == etag {
		t.Error("another file has the same ETag")
	}
	if a, b := zipNames(t, body), zipNames(t, content); strings.Join(a, " ") != strings.Join(b, " ") {
		t.Errorf("zip has %q, want %q", a, b)
	}
	if resp, part := get(t, s.URL+zipPath, "Range", "bytes=10-"); resp.StatusCode != 206 || part != body[10:] {
		t.Errorf("status %d; a part is not of the changed file", resp.StatusCode)
	}
	if _, body := get(t, s.URL+modPath); len(body) != len(mod) || differing(body, mod) != 1 {
		t.Errorf("go.mod %q, want one byte of %q changed", body, mod)
	}
	if resp, _ := get(t, s.URL+"/example.com/none/@v/list"); resp.StatusCode != 404 {
		t.Errorf("status %d of nothing to corrupt, want 404", resp.StatusCode)
	}
	if resp, _, err := request(http.MethodPost, s.URL+zipPath); err != nil || resp.StatusCode != 405 {
		t.Errorf("POST: %v, %v", resp, err)
	}
	if resp, _, err := request(http.MethodHead, s.URL+zipPath); err != nil || resp.ContentLength != int64(len(body)) {
		t.Errorf("HEAD: %v, %v", resp, err)
	}
}

func TestCorruptRaw(t *testing.T) {
	for _, test := range []struct {
		name            string
		offset, changed int
	}{
		{"start", 0, 1},
		{"end", -1, 1},
		{"past the end", 1 << 30, 0},
		{"before the start", -1 << 30, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, content := honest(t, zipPath)
			s.Fault("*.zip", modfetchtest.CorruptRaw(test.offset))
			_, body := get(t, s.URL+zipPath)
			if len(body) != len(content) || differing(body, content) != test.changed {
				t.Errorf("%d bytes differ, want %d", differing(body, content), test.changed)
			}
			if test.changed == 1 && body[(test.offset+len(body))%len(body)] == content[(test.offset+len(body))%len(body)] {
				t.Error("the byte that differs is another one")
			}
		})
	}
}

func TestHeaderWinsOverHonestOnes(t *testing.T) {
	s, _ := honest(t, zipPath)
	for name, f := range map[string]modfetchtest.Fault{
		"honest":   {},
		"rewrite":  modfetchtest.CorruptRaw(0),
		"truncate": modfetchtest.Truncate(1 << 30),
		"page":     modfetchtest.HTML(),
	} {
		t.Run(name, func(t *testing.T) {
			s.Fault("*.zip", f.Header("ETag", `"truth"`).Header("Content-Type", "x/y").Header("etag", `"lie"`).Header("Accept-Ranges", "none"))
			resp, _ := get(t, s.URL+zipPath)
			if resp.Header.Get("ETag") != `"lie"` || resp.Header.Get("Content-Type") != "x/y" || resp.Header.Get("Accept-Ranges") != "none" {
				t.Errorf("header %v", resp.Header)
			}
			s.Fault("*.zip", f.Header("ETag", "").Header("Content-Type", "").Header("Accept-Ranges", ""))
			resp, _ = get(t, s.URL+zipPath)
			for _, key := range []string{"Etag", "Content-Type", "Accept-Ranges"} {
				if _, ok := resp.Header[key]; ok {
					t.Errorf("%s is not left out of %v", key, resp.Header)
				}
			}
		})
	}
}

func TestHeaderOfInformationalAnswers(t *testing.T) {
	s, _ := honest(t, zipPath)
	s.Fault("*", modfetchtest.Handler(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("X", "honest")
		w.WriteHeader(http.StatusTeapot)
	}).Header("X", "lie"))
	if resp, _ := get(t, s.URL+zipPath); resp.StatusCode != 418 || resp.Header.Get("X") != "lie" {
		t.Errorf("%v", resp)
	}
}

func TestHeaderOfFlushedAnswers(t *testing.T) {
	s, _ := honest(t, zipPath)
	s.Fault("*", modfetchtest.Handler(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X", "honest")
		http.NewResponseController(w).Flush()
	}).Header("X", "lie"))
	resp, _ := get(t, s.URL+zipPath)
	if log := s.Log(); resp.Header.Get("X") != "lie" || log[len(log)-1].Status != 200 {
		t.Errorf("header %v, logged as %d", resp.Header, log[len(log)-1].Status)
	}
}

func TestRangeFaults(t *testing.T) {
	resumed := []string{"Range", "bytes=5-9", "If-Range", "ETAG"} // ETAG stands for the honest one
	for _, test := range []struct {
		name   string
		fault  modfetchtest.Fault
		header []string
		status int
		whole  bool   // else bytes 5 to 9
		key    string // of the answer
		value  string
	}{
		{"honest", modfetchtest.Fault{}, resumed, 206, false, "Content-Range", "bytes 5-9/SIZE"},
		{"Range is ignored", modfetchtest.Fault{}.Ignore("range"), resumed, 200, true, "Content-Range", ""},
		{"no ETag", modfetchtest.Fault{}.Header("ETag", ""), resumed[:2], 206, false, "ETag", ""},
		{"no ETag, so If-Range fails", modfetchtest.Fault{}.Header("ETag", ""), resumed, 200, true, "ETag", ""},
		{"weak ETag", modfetchtest.Fault{}.Header("ETag", `W/"1"`), []string{"Range", "bytes=5-9", "If-Range", `W/"1"`}, 200, true, "ETag", `W/"1"`},
		{"another ETag", modfetchtest.Fault{}.Header("ETag", `"1"`), resumed, 200, true, "ETag", `"1"`},
		{"another ETag, and If-Range is ignored", modfetchtest.Fault{}.Header("ETag", `"1"`).Ignore("If-Range"), resumed, 206, false, "ETag", `"1"`},
		{"another total", modfetchtest.Fault{}.Header("Content-Range", "bytes 5-9/4096"), resumed, 206, false, "Content-Range", "bytes 5-9/4096"},
		{"another range", modfetchtest.Fault{}.Header("Content-Range", "bytes 6-10/4096"), resumed, 206, false, "Content-Range", "bytes 6-10/4096"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, content := honest(t, zipPath)
			first, _ := get(t, s.URL+zipPath)
			s.Fault("*.zip", test.fault)
			header := slices.Clone(test.header)
			for i, v := range header {
				header[i] = strings.Replace(v, "ETAG", first.Header.Get("ETag"), 1)
			}
			want := content
			if !test.whole {
				want = content[5:10]
			}
			resp, body := get(t, s.URL+zipPath, header...)
			if resp.StatusCode != test.status || body != want {
				t.Errorf("status %d and %d bytes, want %d and %d", resp.StatusCode, len(body), test.status, len(want))
			}
			value := strings.Replace(test.value, "SIZE", strconv.Itoa(len(content)), 1)
			if got := resp.Header.Get(test.key); got != value {
				t.Errorf("%s: %s, want %s", test.key, got, value)
			}
		})
	}
}

// TestFileThatChanges is what a client meets with that resumes where it was cut off.
func TestFileThatChanges(t *testing.T) {
	s, content := honest(t, zipPath)
	s.Fault("*.zip", modfetchtest.Corrupt())
	s.Fault("*.zip", modfetchtest.Truncate(20).Times(1))
	first, start, err := request(http.MethodGet, s.URL+zipPath)
	if !errors.Is(err, io.ErrUnexpectedEOF) || start != content[:20] {
		t.Fatalf("%d bytes, %v", len(start), err)
	}
	resp, body := get(t, s.URL+zipPath, "Range", "bytes=20-", "If-Range", first.Header.Get("ETag"))
	if resp.StatusCode != 200 || h1(t, body) == h1(t, content) {
		t.Errorf("status %d, want all of another file", resp.StatusCode)
	}
	s.Fault("*.zip", modfetchtest.Corrupt().Ignore("If-Range").Header("ETag", first.Header.Get("ETag")))
	again, rest := get(t, s.URL+zipPath, "Range", "bytes=20-", "If-Range", first.Header.Get("ETag"))
	if again.StatusCode != 206 || rest != body[20:] || again.Header.Get("ETag") != first.Header.Get("ETag") {
		t.Errorf("status %d, ETag %s, want the end of another file under the same ETag", again.StatusCode, again.Header.Get("ETag"))
	}
}

func TestContentLengthThatLies(t *testing.T) {
	s, content := honest(t, zipPath)
	s.Fault("*.zip", modfetchtest.Fault{}.Header("Content-Length", strconv.Itoa(len(content)+1)))
	resp, body, err := request(http.MethodGet, s.URL+zipPath)
	if !errors.Is(err, io.ErrUnexpectedEOF) || body != content || resp.ContentLength != int64(len(content)+1) {
		t.Errorf("%d bytes of %d, %v", len(body), resp.ContentLength, err)
	}
}

func TestWrongVersion(t *testing.T) {
	s, _ := honest(t, infoPath)
	s.Fault("*", modfetchtest.WrongVersion("v9.9.9"))
	_, body := get(t, s.URL+infoPath)
	var info struct{ Version, Time string }
	if err := json.Unmarshal([]byte(body), &info); err != nil || info.Version != "v9.9.9" || info.Time != "2020-01-01T00:00:00Z" {
		t.Errorf("%q, %v", body, err)
	}
	if _, body := get(t, s.URL+"/example.com/m/@v/list"); body != "v1.0.0\n" {
		t.Errorf("list %q", body)
	}
}

func TestWhichFault(t *testing.T) {
	s, content := honest(t, modPath)
	status := func(want ...int) {
		t.Helper()
		for i, code := range want {
			if resp, _ := get(t, s.URL+modPath); resp.StatusCode != code {
				t.Errorf("answer %d of %d: %d, want %d", i+1, len(want), resp.StatusCode, code)
			}
		}
	}
	s.Fault("*", modfetchtest.Status(500))
	s.Fault("*.mod", modfetchtest.Status(502).Times(2))
	s.Fault("*.zip", modfetchtest.Status(503))
	status(502, 502, 500, 500)
	s.Fault("*.mod", modfetchtest.Fault{})
	status(200)
	s.Fault("*", modfetchtest.Status(404))
	status(404)
	s.Fault("*", modfetchtest.Status(502).Every(3).Times(2))
	get(t, s.URL+infoPath) // counts as well
	status(404, 502, 404, 404, 502, 404, 404, 404)
	s.Fault("*", modfetchtest.Status(503).Every(2))
	s.Fault("*", modfetchtest.Status(500).Times(1)) // what meets with a later fault does not count
	status(500, 404, 503, 404, 503)
	s.Fault("*", modfetchtest.Status(429).Every(1))
	status(429, 429)
	s.ClearFaults()
	if _, body := get(t, s.URL+modPath); body != content {
		t.Errorf("after ClearFaults: %q", body)
	}
}

func TestFaultsThatCannotHappenPanic(t *testing.T) {
	for name, call := range map[string]func(){
		"Times(0)":     func() { modfetchtest.HTML().Times(0) },
		"Every(0)":     func() { modfetchtest.HTML().Every(0) },
		"Bandwidth(0)": func() { modfetchtest.HTML().Bandwidth(0) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if msg, _ := recover().(string); !strings.Contains(msg, name) {
					t.Errorf("panic %q, want one that names %s", msg, name)
				}
			}()
			call()
		})
	}
}

func TestFaultIsAValue(t *testing.T) {
	s, body := honest(t, zipPath)
	base := modfetchtest.Fault{}.Header("X-Base", "1").Ignore("A").Ignore("B").Ignore("C")
	f := base.Header("X-More", "1").Ignore("Range")
	base.Header("X-Other", "1").Ignore("D")
	s.Fault("*", f)
	resp, got := get(t, s.URL+zipPath, "Range", "bytes=1-")
	if resp.StatusCode != 200 || got != body {
		t.Errorf("status %d: what another fault ignores took the place of Range", resp.StatusCode)
	}
	if resp.Header.Get("X-Base") != "1" || resp.Header.Get("X-More") != "1" || resp.Header.Get("X-Other") != "" {
		t.Errorf("header %v", resp.Header)
	}
}

func TestMiddlewareReachesTheHonestHandler(t *testing.T) {
	s, content := honest(t, modPath)
	gate := make(chan struct{})
	s.Fault("*", modfetchtest.Middleware(func(honest http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			<-gate
			honest.ServeHTTP(w, r)
		})
	}))
	close(gate)
	if _, body := get(t, s.URL+modPath); body != content {
		t.Errorf("body %q, want %q", body, content)
	}
}

func zipFile(t *testing.T, body, name string) string {
	t.Helper()
	zr, err := zip.NewReader(strings.NewReader(body), int64(len(body)))
	if err != nil {
		t.Fatal(err)
	}
	data, err := fs.ReadFile(zr, name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func differing(a, b string) int {
	n := 0
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			n++
		}
	}
	return n
}
