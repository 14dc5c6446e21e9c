package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/modfetchtest"
)

// A serving is a modfetch serve that runs.
type serving struct {
	*world
	url       string
	admin     string // host:port; "" if it is the same
	cache     string
	interrupt context.CancelFunc
	code      chan int // of the process

	mu   sync.Mutex // guards logs
	more *sync.Cond
	logs []map[string]any
	over bool
}

// serve starts modfetch serve, with its cache in a new directory unless the flags name one.
func (w *world) serve(flags ...string) *serving {
	w.t.Helper()
	s := &serving{world: w, cache: filepath.Join(w.t.TempDir(), "cache"), code: make(chan int, 1)}
	ctx, interrupt := context.WithCancel(w.t.Context())
	s.interrupt, s.more = interrupt, sync.NewCond(&s.mu)
	r, stderr := io.Pipe()
	go func() {
		s.code <- run(ctx, append([]string{"serve", "-addr", "127.0.0.1:0", "-cache", s.cache}, flags...), io.Discard, stderr)
		stderr.Close()
	}()
	lines := bufio.NewScanner(r)
	if !lines.Scan() {
		w.t.Fatalf("nothing is printed: %v", lines.Err())
	}
	first := lines.Text()
	_, s.url, _ = strings.Cut(first, "GOPROXY=")
	if _, admin, ok := strings.Cut(first, "metrics on "); ok {
		s.admin, _, _ = strings.Cut(admin, ";")
	}
	if s.url == "" {
		w.t.Fatalf("printed first: %s", first)
	}
	done := make(chan bool)
	go func() {
		defer close(done)
		for lines.Scan() {
			var line map[string]any
			if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
				line = map[string]any{"msg": lines.Text()}
			}
			s.mu.Lock()
			s.logs = append(s.logs, line)
			s.more.Broadcast()
			s.mu.Unlock()
		}
		s.mu.Lock()
		s.over = true
		s.more.Broadcast()
		s.mu.Unlock()
	}()
	w.t.Cleanup(func() {
		interrupt()
		<-done
		if w.t.Failed() {
			for _, line := range s.lines("") {
				w.t.Log(line)
			}
		}
	})
	return s
}

// lines returns the lines of the log with a message; all for "".
func (s *serving) lines(message string) (lines []map[string]any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, line := range s.logs {
		if message == "" || line["msg"] == message {
			lines = append(lines, line)
		}
	}
	return lines
}

// await returns when a line with the message is in the log.
func (s *serving) await(message string) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for !slices.ContainsFunc(s.logs, func(line map[string]any) bool { return line["msg"] == message }) {
		if s.over {
			s.t.Fatalf("%q is not logged", message)
		}
		s.more.Wait()
	}
}

// stop interrupts the server, and returns its exit code when all is logged.
func (s *serving) stop() int {
	s.interrupt()
	s.mu.Lock()
	for !s.over {
		s.more.Wait()
	}
	s.mu.Unlock()
	return <-s.code
}

// get returns the answer to a request. Header fields are given by name and value in turn.
func (s *serving) get(path string, header ...string) (*http.Response, string) {
	s.t.Helper()
	r, err := http.NewRequest("GET", s.url+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp, string(body)
}

func (s *serving) status(path string) int {
	s.t.Helper()
	resp, _ := s.get(path)
	return resp.StatusCode
}

// metric returns the value of a metric with its labels, or "".
func (s *serving) metric(name string) string {
	s.t.Helper()
	_, text := s.get("/metrics")
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func TestServe(t *testing.T) {
	w := newWorld(t)
	s := w.serve()
	w.write(w.dir, "go.mod", "module example.com/main\n\ngo 1.22\n\nrequire example.com/a v1.0.0\n")
	for i, setting := range w.env {
		if strings.HasPrefix(setting, "GOPROXY=") {
			w.env[i] = "GOPROXY=" + s.url
		}
	}
	if out := w.goCommand(w.dir, "mod", "download", "-json", "all"); strings.Count(out, `"Sum"`) != 3 || strings.Contains(out, "Error") {
		t.Errorf("go mod download: %s", out)
	}
	asked := w.Count("*.zip")
	if status := s.status("/example.com/a/@v/v1.0.0.zip"); status != 200 || w.Count("*.zip") != asked {
		t.Errorf("a zip once more: %d, and %d requests instead of %d", status, w.Count("*.zip"), asked)
	}
	if sums := s.cache + "/pkg/sumdb"; !exists(sums) || !exists(s.cache+"/pkg/mod/cache/download/example.com/a/@v/v1.0.0.zip") {
		t.Errorf("%s is not laid out as a GOPATH", s.cache)
	}
	if exists(s.cache + "/pkg/mod/example.com/a@v1.0.0") {
		t.Error("a module was extracted, which nobody needs")
	}
	if code := s.stop(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

func TestServeLogs(t *testing.T) {
	w := newWorld(t)
	s := w.serve()
	resp, _ := s.get("/example.com/a/@v/v1.0.0.info?token=secret", "X-Request-Id", "the one", "Authorization", "Basic secret")
	if id := resp.Header.Get("X-Request-Id"); id == "the one" || len(id) < 16 {
		t.Errorf("a request named with a space is named %q", id)
	}
	s.get("/example.com/a/@v/v1.0.0.info", "X-Request-Id", "job-1/2")
	w.Fault("*/example.com/b/@v/v1.0.0.zip", modfetchtest.Corrupt())
	resp, body := s.get("/example.com/b/@v/v1.0.0.zip", "X-Request-Id", "bad")
	if resp.StatusCode != 502 || resp.Header.Get("X-Request-Id") != "bad" || strings.Contains(body, "h1:") {
		t.Errorf("a bad zip: %s %s, named %q", resp.Status, body, resp.Header.Get("X-Request-Id"))
	}
	s.get("/healthz")
	s.stop()
	lines := s.lines("request")
	if len(lines) != 3 {
		t.Fatalf("%d requests are logged, want 3", len(lines))
	}
	for i, want := range []map[string]any{
		{"file": "info", "hit": false, "status": 200.0, "path": "/example.com/a/@v/v1.0.0.info", "method": "GET", "level": "INFO"},
		{"file": "info", "hit": true, "id": "job-1/2"},
		{"file": "zip", "hit": false, "status": 502.0, "id": "bad", "level": "WARN"},
	} {
		for key, value := range want {
			if lines[i][key] != value {
				t.Errorf("line %d: %s is %v, want %v", i, key, lines[i][key], value)
			}
		}
		if remote, _ := lines[i]["remote"].(string); !strings.HasPrefix(remote, "127.0.0.1:") || lines[i]["bytes"].(float64) <= 0 || lines[i]["ms"].(float64) <= 0 {
			t.Errorf("line %d: %v", i, lines[i])
		}
	}
	if err, _ := lines[2]["err"].(string); !strings.Contains(err, "checksum mismatch for example.com/b@v1.0.0") || lines[0]["err"] != nil {
		t.Errorf("the cause is %q", err)
	}
	condemned := s.lines("condemned")
	if len(condemned) == 0 || condemned[0]["id"] != "bad" || condemned[0]["mirror"] != w.URL || condemned[0]["level"] != "WARN" {
		t.Errorf("condemned: %v", condemned)
	}
	if text := fmt.Sprint(s.lines("")); strings.Contains(text, "secret") {
		t.Errorf("a secret in the log: %s", text)
	}
}

func TestServeMetrics(t *testing.T) {
	w := newWorld(t)
	s := w.serve("-cache-max", "1GB", "-deny", "example.com/denied")
	for range 2 {
		s.status("/example.com/a/@v/v1.0.0.mod")
	}
	s.status("/example.com/nope/@v/list")
	s.status("/example.com/denied/@v/list")
	s.status("/not a path")
	if resp, err := http.Post(s.url+"/example.com/a/@v/v1.0.0.mod", "text/plain", nil); err != nil {
		t.Error(err)
	} else if resp.Body.Close(); resp.StatusCode != 405 {
		t.Errorf("POST: %s", resp.Status)
	}
	resp, _ := s.get("/example.com/a/@v/v1.0.0.zip")
	for header, want := range map[[2]string]int{
		{"If-None-Match", resp.Header.Get("ETag")}: 304,
		{"Range", "bytes=0-9"}:                     206,
		{"Range", "bytes=1000000-"}:                416,
	} {
		if resp, _ := s.get("/example.com/a/@v/v1.0.0.zip", header[0], header[1]); resp.StatusCode != want {
			t.Errorf("%s: %s, want %d", header, resp.Status, want)
		}
	}
	w.Fault("*/example.com/b/@v/v1.0.0.zip", modfetchtest.Corrupt())
	s.status("/example.com/b/@v/v1.0.0.zip")
	for name, want := range map[string]string{
		`modfetch_requests_total{file="mod",outcome="ok"}`:         "2",
		`modfetch_requests_total{file="list",outcome="not found"}`: "1",
		`modfetch_requests_total{file="none",outcome="not found"}`: "1",
		`modfetch_requests_total{file="none",outcome="refused"}`:   "1",
		`modfetch_requests_total{file="list",outcome="forbidden"}`: "1",
		`modfetch_requests_total{file="zip",outcome="failed"}`:     "1",
		`modfetch_hits_total{file="mod"}`:                          "1",
		`modfetch_hits_total{file="zip"}`:                          "2",
		`modfetch_hits_total{file="list"}`:                         "", // refused
		`modfetch_hits_total{file="none"}`:                         "",
		`modfetch_misses_total{file="mod"}`:                        "1",
		`modfetch_misses_total{file="zip"}`:                        "1",
		`modfetch_misses_total{file="list"}`:                       "",
		`modfetch_upstream_passed_over{mirror="` + w.URL + `"}`:    "0",
		`modfetch_requests_in_flight`:                              "0",
		`modfetch_cache_limit_bytes`:                               "1e+09",
		`modfetch_evictions_total`:                                 "0",
	} {
		if got := s.metric(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	_, text := s.get("/metrics")
	for _, pattern := range []string{
		`modfetch_upstream_condemned_total{mirror="` + regexp.QuoteMeta(w.URL) + `"} [1-9]`,
		`modfetch_upstream_failures_total{kind="corrupt",mirror="` + regexp.QuoteMeta(w.URL) + `"} [1-9]`,
		`modfetch_upstream_bytes_total{mirror="` + regexp.QuoteMeta(w.URL) + `"} [1-9]`,
		`modfetch_upstream_duration_seconds_count{mirror="` + regexp.QuoteMeta(w.URL) + `"} [1-9]`,
		`modfetch_response_bytes_total{file="mod"} [1-9]`,
		`process_resident_memory_bytes [1-9]`,
	} {
		if !regexp.MustCompile(pattern).MatchString(text) {
			t.Errorf("no metric %s", pattern)
		}
	}
	if strings.Contains(text, "example.com") {
		t.Error("a module path is a label: clients can make any number of them")
	}
	if t.Failed() {
		t.Log(text)
	}
}

func TestServeIsReady(t *testing.T) {
	w := newWorld(t)
	s := w.serve()
	ready := func(want int, text string) {
		t.Helper()
		if resp, body := s.get("/readyz"); resp.StatusCode != want || !strings.Contains(body, text) {
			t.Errorf("/readyz is %s, %q, want %d, %q", resp.Status, body, want, text)
		}
	}
	s.status("/example.com/a/@v/v1.0.0.zip")
	ready(200, "ok\n")

	w.Fault("*", modfetchtest.HTML()) // of a network that wants a login; failures that are tried again take longer
	for _, path := range []string{"/example.com/b/@v/v1.0.0.mod", "/example.com/c/@v/v1.0.0.mod", "/example.com/c/@v/v1.1.0.mod"} {
		if status := s.status(path); status != 502 {
			t.Errorf("%s: status %d", path, status)
		}
	}
	ready(200, "degraded: mirrors that fail: 1\n")
	if s.status("/example.com/a/@v/v1.0.0.zip") != 200 || s.status("/healthz") != 200 {
		t.Error("what is in the cache is not served while mirrors fail")
	}

	w.ClearFaults()
	if status := s.status("/example.com/c/@v/v1.0.0.mod"); status != 200 {
		t.Errorf("after the outage: %d", status)
	}
	ready(200, "ok\n")
	s.stop()
	if lines := s.lines("request"); !strings.Contains(fmt.Sprint(lines[1]["err"]), w.URL) {
		t.Errorf("which mirror has failed is not in the log: %v", lines[1])
	}
}

func TestServeAdminApart(t *testing.T) {
	w := newWorld(t)
	s := w.serve("-admin", "127.0.0.1:0")
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		if status := s.status(path); status != 404 {
			t.Errorf("%s where modules are served: %d", path, status)
		}
		resp, err := http.Get("http://" + s.admin + path)
		if err != nil {
			t.Fatal(err)
		}
		if resp.Body.Close(); resp.StatusCode != 200 {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	resp, err := http.Get("http://" + s.admin + "/example.com/a/@v/list")
	if err != nil {
		t.Fatal(err)
	}
	if resp.Body.Close(); resp.StatusCode != 404 || w.Count("*") > 0 {
		t.Errorf("a module where none are served: %s", resp.Status)
	}
}

// hold makes the mirror wait with a file. It returns when the mirror is asked.
func (s *serving) hold(pattern string) (asked <-chan bool, release func()) {
	begun, released := make(chan bool, 64), make(chan bool)
	s.Fault(pattern, modfetchtest.Middleware(func(honest http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			begun <- true
			select {
			case <-released:
				honest.ServeHTTP(w, r)
			case <-r.Context().Done():
			}
		})
	}))
	return begun, sync.OnceFunc(func() { close(released) })
}

// ask sends a request, and returns the status code of the answer when that is complete; 0 for one that is not.
func (s *serving) ask(path string) <-chan int {
	status := make(chan int, 1)
	go func() {
		resp, err := http.Get(s.url + path)
		if err != nil {
			status <- 0
			return
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			resp.StatusCode = 0
		}
		status <- resp.StatusCode
	}()
	return status
}

func TestServeEndsTransfers(t *testing.T) {
	w := newWorld(t)
	s := w.serve("-admin", "127.0.0.1:0")
	asked, release := s.hold("*/a/@v/v1.0.0.zip")
	status := s.ask("/example.com/a/@v/v1.0.0.zip")
	<-asked
	s.interrupt()
	s.await("shutting down")
	if _, err := http.Get(s.url + "/readyz"); err == nil {
		t.Error("a server that ends takes new connections")
	}
	if resp, err := http.Get("http://" + s.admin + "/readyz"); err != nil {
		t.Error(err)
	} else if text, _ := io.ReadAll(resp.Body); resp.Body.Close() != nil || resp.StatusCode != 503 || string(text) != "degraded: shutting down\n" {
		t.Errorf("a server that ends is ready: %s, %q", resp.Status, text)
	}
	release()
	if got := <-status; got != 200 {
		t.Errorf("the transfer under way: %d", got)
	}
	if code := s.stop(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

func TestServeCutsTransfers(t *testing.T) {
	w := newWorld(t)
	s := w.serve("-grace", "10ms")
	asked, release := s.hold("*/a/@v/v1.0.0.zip")
	defer release()
	status := s.ask("/example.com/a/@v/v1.0.0.zip")
	<-asked
	if code := s.stop(); code != exitInterrupted {
		t.Errorf("exit code %d", code)
	}
	if got := <-status; got != 0 {
		t.Errorf("the transfer that is cut is complete: %d", got)
	}
	s.await("modfetch: transfers were cut, 10ms after the interrupt")
}

func TestServeLimitsRequests(t *testing.T) {
	w := newWorld(t)
	s := w.serve("-max-requests", "1")
	asked, release := s.hold("*/a/@v/v1.0.0.zip")
	status := s.ask("/example.com/a/@v/v1.0.0.zip")
	<-asked
	resp, _ := s.get("/example.com/b/@v/v1.0.0.mod")
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "1" || resp.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("a request too many: %s, %v", resp.Status, resp.Header)
	}
	if s.status("/healthz") != 200 || s.metric("modfetch_requests_in_flight") != "1" {
		t.Errorf("requests in flight: %s", s.metric("modfetch_requests_in_flight"))
	}
	release()
	if got := <-status; got != 200 {
		t.Errorf("the request before: %d", got)
	}
	if status := s.status("/example.com/b/@v/v1.0.0.mod"); status != 200 {
		t.Errorf("after it: %d", status)
	}
}

func TestServeOffline(t *testing.T) {
	w := newWorld(t)
	s := w.serve()
	s.status("/example.com/a/@v/v1.0.0.zip")
	s.stop()
	asked := w.Count("*")
	s = w.serve("-offline", "-cache", s.cache)
	if status := s.status("/example.com/a/@v/v1.0.0.zip"); status != 200 {
		t.Errorf("from the cache: %d", status)
	}
	if status := s.status("/example.com/b/@v/v1.0.0.zip"); status != 503 {
		t.Errorf("what is not in the cache: %d", status)
	}
	if w.Count("*") != asked {
		t.Error("the mirror was asked")
	}
}

func TestServeTTL(t *testing.T) {
	s := newWorld(t).serve("-ttl", "7m")
	for _, path := range []string{"/example.com/a/@v/list", "/example.com/a/@latest"} {
		if resp, _ := s.get(path); resp.StatusCode != 200 || resp.Header.Get("Cache-Control") != "max-age=420" {
			t.Errorf("%s: %s, %q", path, resp.Status, resp.Header.Get("Cache-Control"))
		}
	}
}

func TestServeTellsEvictor(t *testing.T) {
	s := newWorld(t).serve("-cache-max", "1GB")
	s.status("/example.com/a/@v/v1.0.0.zip")
	if answers := (&evictor{mod: filepath.Join(s.cache, "pkg", "mod")}).answers(); s.status("/example.com/a/@v/list") != 200 ||
		!exists(filepath.Join(answers, "example.com", "a", "@v", "list")) {
		t.Errorf("a list is not kept in %s, where the evictor looks", answers)
	}
	if bytes := s.metric("modfetch_cache_bytes"); len(bytes) < 3 {
		t.Errorf("the mirror has sent %s bytes", bytes)
	}
	hash := filepath.Join(s.cache, "pkg", "mod", "cache", "download", "example.com", "a", "@v", "v1.0.0.ziphash")
	long := time.Now().Add(-48 * time.Hour)
	if err := os.Chtimes(hash, long, long); err != nil {
		t.Fatal(err)
	}
	s.status("/example.com/a/@v/v1.0.0.zip")
	if info, err := os.Stat(hash); err != nil || time.Since(info.ModTime()) > 24*time.Hour {
		t.Errorf("that the zip was used is not noted: %v", err)
	}
}

func TestServeLimitsHeaders(t *testing.T) {
	s := newWorld(t).serve()
	if resp, _ := s.get("/example.com/a/@v/list", "X-Long", strings.Repeat("x", 32<<10)); resp.StatusCode != 431 {
		t.Errorf("a header of 32 KiB: %s", resp.Status)
	}
}

func TestTraceIsLogged(t *testing.T) {
	var log bytes.Buffer
	s := &server{log: slog.New(slog.NewTextHandler(&log, nil)), metrics: newMetrics(), ready: new(readiness)}
	s.metrics.mirrors = func() []modfetch.MirrorInfo { return nil }
	trace := s.trace()
	ctx := context.WithValue(t.Context(), answerKey{}, &answer{id: "job-1"})
	bad := modfetch.AttemptInfo{Mirror: "https://a.example", Path: "x.example/@v/v1.0.0.zip", Kind: modfetch.Security, Err: errors.New("forged")}
	down := modfetch.AttemptInfo{Mirror: "https://a.example", Kind: modfetch.Transient, Err: errors.New("down")}
	absent := modfetch.CacheInfo{Name: "x.example/@v/list", Err: fmt.Errorf("no such key: %w", fs.ErrNotExist)}
	for _, test := range []struct {
		name string
		call func()
		want string // in the log; "" if nothing is logged
	}{
		{"condemned", func() { trace.AttemptDone(ctx, bad) },
			"level=WARN msg=condemned mirror=https://a.example file=x.example/@v/v1.0.0.zip err=forged id=job-1"},
		{"for nobody", func() { trace.AttemptDone(t.Context(), bad) }, "err=forged\n"},
		{"failed", func() { trace.AttemptDone(ctx, down) }, ""},
		{"crossed", func() { trace.Crossed(ctx, bad) }, "level=WARN msg=\"crossed a comma: the file was corrupt\" mirror=https://a.example"},
		{"cache", func() { trace.Cache(ctx, modfetch.CacheInfo{Name: "x.example/@v/list", Err: errors.New("full")}) },
			"level=WARN msg=cache file=x.example/@v/list err=full id=job-1"},
		{"cache hit", func() { trace.Cache(ctx, modfetch.CacheInfo{Hit: true}) }, ""},
		{"not in the cache", func() { trace.Cache(ctx, absent) }, ""},
		{"gone client", func() { trace.Cache(ctx, modfetch.CacheInfo{Err: context.Canceled}) }, ""},
		{"head", func() { trace.Head(ctx, modfetch.HeadInfo{Mirror: "https://a.example"}) }, ""},
		{"lagging head", func() { trace.Head(ctx, modfetch.HeadInfo{Mirror: "https://a.example", Behind: 7}) }, "lags"},
		{"still", func() { trace.Head(ctx, modfetch.HeadInfo{Mirror: "https://a.example", Behind: 8}) }, ""},
		{"another", func() { trace.Head(ctx, modfetch.HeadInfo{Mirror: "https://b.example", Behind: 8}) }, "records=8"},
	} {
		log.Reset()
		if test.call(); !strings.Contains(log.String(), test.want) || test.want == "" && log.Len() > 0 {
			t.Errorf("%s: logged %q, want %q", test.name, log.String(), test.want)
		}
	}
}

func TestDemotionsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMetrics()
		var until time.Time
		m.mirrors = func() []modfetch.MirrorInfo {
			a := modfetch.MirrorInfo{Mirror: "https://a.example", Until: until}
			if time.Now().After(until) {
				a.Until = time.Time{}
			}
			return []modfetch.MirrorInfo{a, a} // of two accounts there
		}
		fails := func(pause time.Duration) {
			if pause > 0 {
				until = time.Now().Add(pause)
			}
			m.attemptDone(t.Context(), modfetch.AttemptInfo{Mirror: "https://a.example", Kind: modfetch.Transient})
		}
		count := func(want string) {
			t.Helper()
			w := httptest.NewRecorder()
			m.handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
			if text := w.Body.String(); w.Code != 200 || !strings.Contains(text, want+"\n") {
				t.Errorf("want %s in:\n%s", want, text)
			}
		}
		fails(0)
		count(`modfetch_upstream_passed_over{mirror="https://a.example"} 0`)
		fails(5 * time.Second)
		count(`modfetch_upstream_demotions_total{mirror="https://a.example"} 1`)
		count(`modfetch_upstream_passed_over{mirror="https://a.example"} 1`)
		fails(10 * time.Second) // while it is passed over
		count(`modfetch_upstream_demotions_total{mirror="https://a.example"} 1`)
		time.Sleep(11 * time.Second)
		fails(5 * time.Second)
		count(`modfetch_upstream_demotions_total{mirror="https://a.example"} 2`)
	})
}

func TestServeAccess(t *testing.T) {
	const a, b, c = "/example.com/a/@v/list", "/example.com/b/@v/list", "/example.com/c/@v/list"
	for _, test := range []struct {
		name    string
		flags   []string
		private string
		want    map[string]int
		why     string // in the log, of a refusal
	}{
		{"all", nil, "", map[string]int{a: 200, b: 200}, ""},
		{"allow", []string{"-allow", "example.com/a,example.com/b"}, "", map[string]int{a: 200, b: 200, c: 403}, "Allow=example.com/a,example.com/b"},
		{"deny", []string{"-deny", "example.com/b", "-allow", "example.com"}, "", map[string]int{a: 200, b: 403}, "Deny=example.com/b"},
		{"private", nil, "example.com/a", map[string]int{a: 403, b: 200}, "GOPRIVATE=example.com/a"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			t.Setenv("GOPRIVATE", test.private)
			t.Setenv("GONOPROXY", "none")
			t.Setenv("GONOSUMDB", test.private)
			s := w.serve(test.flags...)
			for path, want := range test.want {
				if status := s.status(path); status != want {
					t.Errorf("%s: status %d, want %d", path, status, want)
				}
			}
			s.stop()
			for _, line := range s.lines("request") {
				if err, _ := line["err"].(string); line["status"] == 403.0 && !strings.HasSuffix(err, " because of "+test.why) {
					t.Errorf("logged: %v, want %s", line, test.why)
				}
			}
		})
	}
	t.Run("served although private", func(t *testing.T) {
		w := newWorld(t)
		t.Setenv("GONOSUMDB", "example.com/a")
		if s := w.serve("-private"); s.status(a) != 200 {
			t.Error("not served")
		}
	})
}

func TestServeFlags(t *testing.T) {
	w := newWorld(t)
	for _, test := range []struct {
		args string // separated by semicolons
		code int
		want string // in what is printed
	}{
		{"-h", exitOK, "usage: modfetch serve"},
		{"x", exitUsage, `takes no arguments, only flags; "x" is none`},
		{"-jobs;0", exitUsage, "want a whole number, 1 or more"},
		{"-max-requests;-1", exitUsage, "want a whole number, 1 or more"},
		{"-ttl;soon", exitUsage, "want a time above 0, such as 1m"},
		{"-grace;0s", exitUsage, "want a time above 0, such as 1m"},
		{"-cache-max;20", exitOK, ""},
		{"-cache-max;20 pounds", exitUsage, "want a size such as 20GB or 500MiB"},
		{"-deny;[", exitUsage, `malformed pattern "["`},
		{"-allow;example.com/a, example.com/b", exitUsage, "has spaces"},
		{"-log;loud", exitUsage, "loud"},
		{"-near;x", exitUsage, "-near is for a -cache that is no directory"},
		{"-lock;redis://127.0.0.1:1", exitUsage, "-lock is for servers with the same"},
		{"-cache;gs://bucket", exitUsage, "gs:// is not known"},
		{"-cache;a" + string(filepath.ListSeparator) + "b", exitUsage, "separates the directories of a GOPATH"},
		{"-addr;nowhere", exitUsage, `"nowhere" for flag -addr: want host:port, such as 127.0.0.1:8080`},
		{"-addr;127.0.0.1:99999", exitUsage, `"127.0.0.1:99999" for flag -addr: want host:port`},
		{"-admin;9090", exitUsage, `"9090" for flag -admin: want host:port`},
		{"-mirrors;http://localhost:PORT,direct", exitFailed, "-mirrors has http://localhost:PORT, which is this server itself"},
		{"-mirrors;http://127.0.0.1:PORT", exitFailed, "which is this server itself"},
		{"-mirrors; , direct,https://x.test", exitFailed, "-mirrors names no mirror before direct, so nothing could be served"},
		{"-mirrors;direct;-direct", exitOK, ""},
		{"-mirrors;https://x.test,direct", exitOK, ""},
		{"-mirrors;off", exitOK, ""}, // what is in the cache is served
	} {
		t.Run(test.args, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			_, port, _ := net.SplitHostPort(l.Addr().String())
			l.Close()
			args := append([]string{"serve", "-addr", "127.0.0.1:" + port, "-cache", t.TempDir()},
				strings.Split(strings.ReplaceAll(test.args, "PORT", port), ";")...)
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			var out bytes.Buffer
			code := run(ctx, args, &out, &out)
			if code == exitInterrupted {
				code = exitFailed // as ctx has ended
			}
			if want := strings.ReplaceAll(test.want, "PORT", port); code != test.code || !strings.Contains(out.String(), want) {
				t.Errorf("exit code %d, want %d, and in the output %q:\n%s", code, test.code, want, out.String())
			}
		})
	}
	if w.Count("*") > 0 {
		t.Error("the mirror was asked")
	}
}

func TestServeOnlyDirect(t *testing.T) {
	w := newWorld(t)
	t.Setenv("GOPROXY", "direct")
	code, _, stderr := w.modfetch("serve", "-addr", "127.0.0.1:0", "-cache", t.TempDir())
	if code != exitFailed || !strings.HasPrefix(stderr, "modfetch: GOPROXY names no mirror before direct") || !strings.Contains(stderr, "by -mirrors") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

func TestServePortInUse(t *testing.T) {
	w := newWorld(t)
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	for name, flags := range map[string][]string{
		"-addr":  {"-addr", busy.Addr().String()},
		"-admin": {"-addr", "127.0.0.1:0", "-admin", busy.Addr().String()},
	} {
		code, _, stderr := w.modfetch(append([]string{"serve", "-cache", t.TempDir()}, flags...)...)
		if code != exitFailed || !strings.HasPrefix(stderr, "modfetch: "+name+": listen tcp "+busy.Addr().String()) {
			t.Errorf("%s: exit code %d: %s", name, code, stderr)
		}
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{
		"1": 1, "1b": 1, "20GB": 20e9, "20gb": 20e9, "1.5 GiB": 3 << 29, "500MiB": 500 << 20, "3kB": 3000, "1TB": 1e12, "2tib": 2 << 40,
	} {
		if got, err := parseSize(text); got != want || err != nil {
			t.Errorf("%s is %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "GB", "-1GB", "0", "20G", "20 pounds", "1e99", "NaN", "1iB", "1BB", "1KKB", "1PB"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q is %d", text, got)
		}
	}
}
