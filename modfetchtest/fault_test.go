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
	s.Fault("*.zip", modfetchtest.Reset())
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
			s.Fault("*.zip", f.Header("ETag", `"lie"`).Header("Content-Type", "x/y"))
			if resp, _ := get(t, s.URL+zipPath); resp.Header.Get("ETag") != `"lie"` || resp.Header.Get("Content-Type") != "x/y" {
				t.Errorf("header %v", resp.Header)
			}
		})
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
	s.ClearFaults()
	if _, body := get(t, s.URL+modPath); body != content {
		t.Errorf("after ClearFaults: %q", body)
	}
	defer func() {
		if recover() == nil {
			t.Error("Times(0) did not panic")
		}
	}()
	modfetchtest.HTML().Times(0)
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
