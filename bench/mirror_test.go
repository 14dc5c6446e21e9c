package main

import (
	"archive/zip"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func startTiny(t *testing.T, c conditions) (m *mirror, url, content string) {
	t.Helper()
	_, s := newTiny(t)
	m, err := startMirror(s, c, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.close)
	data, err := os.ReadFile(filepath.Join(s.tree(), zipFile(tinyModules[0])))
	if err != nil {
		t.Fatal(err)
	}
	return m, m.server.URL + "/" + proxyPath(tinyModules[0], "zip"), string(data)
}

// get returns what arrives of a file, from an offset on.
func get(t *testing.T, client *http.Client, url, offset string) (string, *http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if offset != "" {
		req.Header.Set("Range", "bytes="+offset+"-")
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), resp, err
}

func TestGoodMirror(t *testing.T) {
	m, url, content := startTiny(t, conditions{})
	body, resp, err := get(t, m.server.Client(), url, "")
	if err != nil || body != content || resp.Header.Get("ETag") == "" {
		t.Errorf("%d bytes, want %d: %v, %v", len(body), len(content), resp, err)
	}
	if body, resp, err = get(t, m.server.Client(), url, "10"); err != nil || body != content[10:] || resp.StatusCode != http.StatusPartialContent {
		t.Errorf("a part: %d bytes, want %d: %v, %v", len(body), len(content)-10, resp, err)
	}
	if _, resp, err := get(t, m.server.Client(), m.server.URL+"/tiny.test/a/@v/v9.9.9.zip", ""); err != nil || resp.StatusCode != http.StatusNotFound {
		t.Errorf("no such version: %v, %v", resp, err)
	}
	if _, resp, err := get(t, m.server.Client(), m.server.URL+"/tiny.test/a/@v", ""); err != nil || resp.StatusCode != http.StatusNotFound {
		t.Errorf("a directory: %v, %v", resp, err)
	}
	if n, sent := m.requests.Load(), m.sent.Load(); n != 4 || sent < int64(2*len(content)-10) || sent > int64(2*len(content)+2000) {
		t.Errorf("%d requests, %d bytes sent for a file of %d, twice", n, sent, len(content))
	}
}

func TestMirrorOverHTTP2(t *testing.T) {
	m, url, content := startTiny(t, conditions{h2: true})
	body, resp, err := get(t, m.server.Client(), url, "")
	if err != nil || body != content || resp.ProtoMajor != 2 {
		t.Errorf("%d bytes, want %d: %v, %v", len(body), len(content), resp, err)
	}
}

func TestCutOnce(t *testing.T) {
	m, url, content := startTiny(t, conditions{cutOnce: true})
	begin, resp, err := get(t, m.server.Client(), url, "")
	if err == nil || len(begin) >= len(content) || begin != content[:len(begin)] || resp.ContentLength != int64(len(content)) {
		t.Errorf("%d bytes of %d, %v, %v", len(begin), len(content), resp, err)
	}
	if again, _, err := get(t, m.server.Client(), url, ""); err != nil || again != content {
		t.Errorf("the second time: %d bytes of %d, %v", len(again), len(content), err)
	}
	other, err := startMirror(m.set, m.conditions, m.seed)
	if err != nil {
		t.Fatal(err)
	}
	defer other.close()
	if same, _, _ := get(t, other.server.Client(), other.server.URL+url[len(m.server.URL):], ""); same != begin {
		t.Errorf("with the same seed %d bytes, not %d", len(same), len(begin))
	}
}

func TestCorrupt(t *testing.T) {
	m, url, content := startTiny(t, conditions{corrupt: true})
	body, _, err := get(t, m.server.Client(), url, "")
	if err != nil || len(body) != len(content) {
		t.Fatalf("%d bytes, want %d: %v", len(body), len(content), err)
	}
	var differ []int
	for i := range body {
		if body[i] != content[i] {
			differ = append(differ, i)
		}
	}
	if len(differ) != 1 {
		t.Fatalf("bytes %v differ, want one", differ)
	}
	z, err := zip.NewReader(strings.NewReader(content), int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range z.File {
		if e.Name == tinyModules[0].String()+"/noise0" { // one of the two largest, and the first of them
			if start, err := e.DataOffset(); err != nil || int64(differ[0]) < start || int64(differ[0]) >= start+int64(e.CompressedSize64) {
				t.Errorf("byte %d differs, want one of the %d from %d on, %v", differ[0], e.CompressedSize64, start, err)
			}
		}
	}
	if part, _, err := get(t, m.server.Client(), url, "1"); err != nil || part != body[1:] {
		t.Errorf("a part is of another file: %v", err)
	}
}

func TestDies(t *testing.T) {
	m, url, content := startTiny(t, conditions{dies: 2})
	if body, _, err := get(t, m.server.Client(), url, ""); err != nil || body != content {
		t.Errorf("the first: %d bytes, want %d: %v", len(body), len(content), err)
	}
	other := &http.Client{Transport: &http.Transport{}}
	if _, resp, err := get(t, other, url, ""); err == nil {
		t.Errorf("the second: %v", resp)
	}
	tries := 0 // over the connection of the first, as long as it lives
	for err := error(nil); err == nil && tries < 10_000; tries++ {
		_, _, err = get(t, m.server.Client(), url, "")
	}
	if tries == 10_000 {
		t.Error("a connection survives")
	}
	if _, resp, err := get(t, other, url, ""); err == nil {
		t.Errorf("an answer of a dead mirror: %v", resp)
	}
}

func TestHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		left := make(chan any, 1)
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		go func() {
			defer func() { left <- recover() }()
			(&mirror{conditions: conditions{hang: true}}).ServeHTTP(httptest.NewRecorder(), r)
		}()
		select {
		case <-left:
			t.Error("it has answered")
		case <-time.After(24 * time.Hour):
		}
	})
}

func TestLatency(t *testing.T) {
	_, s := newTiny(t)
	synctest.Test(t, func(t *testing.T) {
		m := &mirror{conditions: conditions{latency: 200 * time.Millisecond}, set: s, sumdb: s.log.handler()}
		start := time.Now()
		w := httptest.NewRecorder()
		m.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/sumdb/"+logName+"/supported", nil))
		if d := time.Since(start); d != 200*time.Millisecond || w.Code != http.StatusOK {
			t.Errorf("%d after %v, want 200 after 200ms", w.Code, d)
		}
	})
}

// TestRate sends over a connection that has no buffer, on a clock that costs no time.
func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		go io.Copy(io.Discard, far)
		m := &mirror{conditions: conditions{rate: 1000}}
		c := &conn{Conn: near, mirror: m}
		var r io.Reader = io.LimitReader(zeros{}, 10_000)
		start := time.Now()
		if n, err := c.ReadFrom(r); n != 10_000 || err != nil {
			t.Fatal(n, err)
		}
		if d := time.Since(start); d < 9900*time.Millisecond || d > 10*time.Second {
			t.Errorf("%v for 10,000 bytes at 1,000 in a second", d)
		}
		time.Sleep(time.Hour) // saves nothing up
		start = time.Now()
		if n, err := c.Write(make([]byte, 10_000)); n != 10_000 || err != nil {
			t.Fatal(n, err)
		}
		if d := time.Since(start); d < 9900*time.Millisecond || d > 10*time.Second {
			t.Errorf("%v for as many after an hour", d)
		}
		if n := m.sent.Load(); n != 20_000 {
			t.Errorf("%d bytes counted", n)
		}
		near.Close()
		far.Close()
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
