package modfetchtest_test

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/modfetch/modfetch/modfetchtest"
	"golang.org/x/mod/sumdb/dirhash"
)

func testdata() fs.FS { return os.DirFS("testdata/mod") }

// get returns a whole answer, or fails the test.
func get(t *testing.T, url string, header ...string) (*http.Response, string) {
	t.Helper()
	resp, body, err := request(http.MethodGet, url, header...)
	if err != nil {
		t.Fatal(err)
	}
	return resp, body
}

func request(method, url string, header ...string) (*http.Response, string, error) {
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		return nil, "", err
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req) // follows no redirect
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp, string(body), err
}

// h1 returns the hash of a zip, and fails the test if a checksum in it is wrong.
func h1(t *testing.T, body string) string {
	t.Helper()
	zr, err := zip.NewReader(strings.NewReader(body), int64(len(body)))
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]*zip.File)
	var names []string
	for _, f := range zr.File {
		files[f.Name] = f
		names = append(names, f.Name)
	}
	sum, err := dirhash.Hash1(names, func(name string) (io.ReadCloser, error) { return files[name].Open() })
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

func zipNames(t *testing.T, body string) []string {
	t.Helper()
	zr, err := zip.NewReader(strings.NewReader(body), int64(len(body)))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range zr.File {
		names = append(names, f.Name)
	}
	return names
}

func TestProtocol(t *testing.T) {
	s := modfetchtest.NewServer(t, testdata())
	const (
		json  = "application/json"
		plain = "text/plain; charset=utf-8"
	)
	tests := []struct {
		name, path  string
		status      int
		contentType string
		body        string // "" is not compared
	}{
		{"list", "/example.com/m/@v/list", 200, plain, "v1.0.0\n"},
		{"list of a higher major version", "/example.com/m/v2/@v/list", 200, plain, "v2.1.0-RC.1\n"},
		{"list leaves out pseudo-versions", "/example.com/old/@v/list", 200, plain, "v3.0.0+incompatible\n"},
		{"latest", "/example.com/old/@latest", 200, json, `{"Version":"v3.0.0+incompatible","Time":"2020-01-01T00:00:00Z"}`},
		{"latest of pre-releases only", "/example.com/m/v2/@latest", 200, json, `{"Version":"v2.1.0-RC.1","Time":"2020-01-01T00:00:00Z"}`},
		{"info", "/example.com/m/@v/v1.0.0.info", 200, json, `{"Version":"v1.0.0","Time":"2020-01-01T00:00:00Z"}`},
		{"info of a branch", "/example.com/old/@v/main.info", 200, json, ""},
		{"info of a short commit", "/example.com/old/@v/abcdef0.info", 200, json, ""},
		{"info of a commit too short", "/example.com/old/@v/abcdef.info", 404, plain, ""},
		{"mod of a branch", "/example.com/old/@v/main.mod", 404, plain, ""},
		{"mod", "/example.com/tree/@v/v1.0.0.mod", 200, plain, "module example.com/tree\n\nretract v0.9.0\n"},
		{"synthesized mod", "/example.com/!odd/under_score/@v/v1.2.3.mod", 200, plain, "module example.com/Odd/under_score\n"},
		{"upper case in a version", "/example.com/m/v2/@v/v2.1.0-!r!c.1.mod", 200, plain, "module example.com/m/v2\n"},
		{"zip", "/example.com/m/@v/v1.0.0.zip", 200, "application/zip", ""},
		{"upper case not escaped", "/example.com/Odd/under_score/@v/v1.2.3.mod", 404, plain, ""},
		{"version in upper case not escaped", "/example.com/m/v2/@v/v2.1.0-RC.1.mod", 404, plain, ""},
		{"unknown module", "/example.com/none/@v/list", 404, plain, ""},
		{"unknown version", "/example.com/m/@v/v1.0.1.info", 404, plain, ""},
		{"unknown file", "/example.com/m/@v/v1.0.0.txt", 404, plain, ""},
		{"no file", "/example.com/m", 404, plain, ""},
		{"root", "/", 404, plain, ""},
		{"another database", "/sumdb/sum.example/supported", 404, plain, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			resp, body := get(t, s.URL+test.path)
			if resp.StatusCode != test.status || resp.Header.Get("Content-Type") != test.contentType {
				t.Errorf("status %d, type %q; want %d, %q", resp.StatusCode, resp.Header.Get("Content-Type"), test.status, test.contentType)
			}
			if test.body != "" && body != test.body {
				t.Errorf("body %q, want %q", body, test.body)
			}
			if test.status == 200 && resp.Header.Get("ETag") != fmt.Sprintf(`"%x"`, sha256.Sum256([]byte(body))) {
				t.Errorf("ETag %s is not the SHA-256 of the body", resp.Header.Get("ETag"))
			}
		})
	}
}

func TestLatestPrefersReleases(t *testing.T) {
	s := modfetchtest.NewServer(t, nil)
	for _, step := range []struct{ add, latest string }{
		{"v0.2.0-0.20300102030405-abcdef012345", `"v0.2.0-0.20300102030405-abcdef012345","Time":"2030-01-02T03:04:05Z"`},
		{"v0.1.0-beta.2", `"v0.1.0-beta.2"`},
		{"v0.1.0-beta.10", `"v0.1.0-beta.10"`},
		{"v0.0.9", `"v0.0.9"`},
		{"v0.0.10", `"v0.0.10"`},
		{"v0.0.8", `"v0.0.10"`},
	} {
		s.Add(modfetchtest.NewModule("example.com/m", step.add))
		if _, body := get(t, s.URL+"/example.com/m/@latest"); !strings.Contains(body, step.latest) {
			t.Errorf("with %s, @latest is %s, want %s", step.add, body, step.latest)
		}
	}
}

func TestMethods(t *testing.T) {
	s := modfetchtest.NewServer(t, testdata())
	for _, path := range []string{"/example.com/m/@v/v1.0.0.zip", "/sumdb/" + databaseName(s) + "/latest"} {
		resp, body, err := request(http.MethodHead, s.URL+path)
		if err != nil || resp.StatusCode != 200 || body != "" || resp.ContentLength <= 0 {
			t.Errorf("HEAD %s: %v, %v, body %q", path, resp, err, body)
		}
		resp, _, err = request(http.MethodPost, s.URL+path)
		if err != nil || resp.StatusCode != 405 || resp.Header.Get("Allow") != "GET, HEAD" {
			t.Errorf("POST %s: %v, %v", path, resp, err)
		}
	}
}

func TestRange(t *testing.T) {
	s := modfetchtest.NewServer(t, testdata())
	url := s.URL + "/example.com/m/@v/v1.0.0.zip"
	whole, content := get(t, url)
	etag := whole.Header.Get("ETag")

	resp, part := get(t, url, "Range", "bytes=5-9", "If-Range", etag)
	if resp.StatusCode != 206 || part != content[5:10] {
		t.Errorf("bytes 5-9: status %d, %q, want %q", resp.StatusCode, part, content[5:10])
	}
	resp, part = get(t, url, "Range", "bytes=5-9", "If-Range", `"another"`)
	if resp.StatusCode != 200 || part != content {
		t.Errorf("range of another file: status %d, %d bytes, want 200 and all %d", resp.StatusCode, len(part), len(content))
	}
	if resp, _ = get(t, url, "If-None-Match", etag); resp.StatusCode != 304 {
		t.Errorf("file not changed: status %d, want 304", resp.StatusCode)
	}
}

func TestZipContents(t *testing.T) {
	s := modfetchtest.NewServer(t, testdata())
	s.Add(modfetchtest.NewModule("example.com/legacy", "v1.0.0").File(".mod", "module example.com/legacy\n").File("a.go", "package a\n"))
	s.Add(modfetchtest.NewModule("example.com/twice", "v1.0.0").File("a.go", "package x\n").File("a.go", "package a\n"))
	for _, test := range []struct {
		name, path string
		want       []string
	}{
		{"go.mod given", "/example.com/m/@v/v1.0.0.zip", []string{"example.com/m@v1.0.0/go.mod", "example.com/m@v1.0.0/m.go"}},
		{"go.mod synthesized", "/example.com/!odd/under_score/@v/v1.2.3.zip",
			[]string{"example.com/Odd/under_score@v1.2.3/go.mod", "example.com/Odd/under_score@v1.2.3/odd.go"}},
		{"incompatible", "/example.com/old/@v/v3.0.0+incompatible.zip", []string{"example.com/old@v3.0.0+incompatible/old.go"}},
		{"only .mod given", "/example.com/legacy/@v/v1.0.0.zip", []string{"example.com/legacy@v1.0.0/a.go"}},
		{"directory", "/example.com/tree/@v/v1.0.0.zip", []string{"example.com/tree@v1.0.0/go.mod",
			"example.com/tree@v1.0.0/sub/notes.txt", "example.com/tree@v1.0.0/sub/sub.go", "example.com/tree@v1.0.0/tree.go"}},
		{"file given again", "/example.com/twice/@v/v1.0.0.zip", []string{"example.com/twice@v1.0.0/a.go", "example.com/twice@v1.0.0/go.mod"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, body := get(t, s.URL+test.path); !slices.Equal(zipNames(t, body), test.want) {
				t.Errorf("zip has %q, want %q", zipNames(t, body), test.want)
			}
		})
	}
}

func TestZipIsDeterministic(t *testing.T) {
	var zips []string
	for range 2 {
		m := modfetchtest.NewModule("example.com/m", "v1.0.0")
		for i := range 50 {
			m = m.File(fmt.Sprintf("f%02d.go", i), "package m\n")
		}
		s := modfetchtest.NewServer(t, nil)
		s.Add(m)
		_, body := get(t, s.URL+"/example.com/m/@v/v1.0.0.zip")
		zips = append(zips, body)
	}
	if zips[0] != zips[1] {
		t.Error("the same files make different zips")
	}
}

func TestNames(t *testing.T) {
	for _, test := range []struct{ name, file, comment, path string }{
		{"plain", "example.com_m_v2_v2.0.0.txt", "", "/example.com/m/v2/@v/v2.0.0.mod"},
		{"upper case", "example.com_Upper_v1.0.0-RC.txt", "", "/example.com/!upper/@v/v1.0.0-!r!c.mod"},
		{"escaped", "example.com_!upper_v1.0.0-!r!c.txt", "", "/example.com/!upper/@v/v1.0.0-!r!c.mod"},
		{"escaped in the comment", "x.txt", "example.com/!upper@v1.0.0-!r!c\n", "/example.com/!upper/@v/v1.0.0-!r!c.mod"},
		{"directories above", "some/where/example.com_m_v1.0.0.txtar", "", "/example.com/m/@v/v1.0.0.mod"},
		{"comment of prose", "example.com_m_v1.0.0.txt", "Written by hand.\n", "/example.com/m/@v/v1.0.0.mod"},
		{"comment resolves underscores", "example.com_a_b_c_v1.0.0.txt", "example.com/a_b/c v1.0.0\n", "/example.com/a_b/c/@v/v1.0.0.mod"},
		{"comment with escaped name", "example.com_!a_b_v1.0.0.txt", "example.com/A_b v1.0.0\n", "/example.com/!a_b/@v/v1.0.0.mod"},
		{"comment with carriage return", "x.txt", "module example.com/m@v1.0.0\r\n", "/example.com/m/@v/v1.0.0.mod"},
		{"go.mod of another module and .mod", "example.com_m_v1.0.0.txt", "-- go.mod --\nmodule example.com/n\n-- .mod --\nmodule example.com/n\n",
			"/example.com/m/@v/v1.0.0.mod"},
		{"directory", "example.com/m@v1.0.0/m.go", "", "/example.com/m/@v/v1.0.0.mod"},
		{"escaped directory", "example.com/!upper@v1.0.0-!r!c/m.go", "", "/example.com/!upper/@v/v1.0.0-!r!c.mod"},
		{"major version directory", "example.com/m/v2@v2.0.0/m.go", "", "/example.com/m/v2/@v/v2.0.0.mod"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := modfetchtest.NewServer(t, fstest.MapFS{test.file: {Data: []byte(test.comment)}})
			if resp, body := get(t, s.URL+test.path); resp.StatusCode != 200 {
				t.Errorf("%s: status %d, %q", test.path, resp.StatusCode, body)
			}
		})
	}
}

func TestStartRefuses(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	for _, test := range []struct {
		name string
		fsys fstest.MapFS
		want string
	}{
		{"no module named", fstest.MapFS{"notes.txt": file("My notes.\n")}, "notes.txt: no module is named"},
		{"version not canonical", fstest.MapFS{"example.com_m_v1.txt": file("")}, `"v1" is not canonical`},
		{"name against comment", fstest.MapFS{"example.com_m_v1.0.0.txt": file("example.com/n@v1.0.0\n")},
			"the file name means example.com/m@v1.0.0, but the comment begins with example.com/n@v1.0.0"},
		{"twice", fstest.MapFS{"example.com_m_v1.0.0.txt": file(""), "m.txt": file("module example.com/m@v1.0.0\n")},
			"example.com/m@v1.0.0 is both in example.com_m_v1.0.0.txt and in m.txt"},
		{"directory without version", fstest.MapFS{"example.com/m@/m.go": file("")}, "example.com/m@: a directory with an @"},
		{"bad file name", fstest.MapFS{"m.txt": file("example.com/m@v1.0.0\n-- a?b --\n")}, "example.com/m@v1.0.0: create zip: a?b"},
		{"go.mod of another module", fstest.MapFS{"example.com_m_v1.0.0.txt": file("-- go.mod --\nmodule example.com/n\n")},
			"example.com_m_v1.0.0.txt is example.com/m@v1.0.0, but its go.mod says module example.com/n"},
		{"go.mod of another module in a directory", fstest.MapFS{"example.com/m@v1.0.0/go.mod": file("module example.com/n\n")},
			"example.com/m@v1.0.0 is example.com/m@v1.0.0, but its go.mod says module example.com/n"},
		{"major version without suffix", fstest.MapFS{"example.com_m_v2.0.0.txt": file("")}, "should be v0 or v1, not v2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, err := modfetchtest.Start(test.fsys)
			if err == nil {
				s.Close()
				t.Fatal("started")
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %q, want %q in it", err, test.want)
			}
		})
	}
}

func TestNewModulePanics(t *testing.T) {
	for _, test := range []struct{ name, path, version string }{
		{"path", "Example.com", "v1.0.0"},
		{"version", "example.com/m", "v1.0"},
		{"branch", "example.com/m", "main"},
	} {
		t.Run(test.name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Errorf("NewModule(%q, %q) did not panic", test.path, test.version)
				}
			}()
			modfetchtest.NewModule(test.path, test.version)
		})
	}
}

func TestModuleIsAValue(t *testing.T) {
	base := modfetchtest.NewModule("example.com/m", "v1.0.0").File("a.go", "package m\n").File("b.go", "package m\n").File("c.go", "package m\n")
	one := base.File("one.go", "package m\n")
	base.File("two.go", "package m\n")
	s := modfetchtest.NewServer(t, nil)
	s.Add(one)
	if _, body := get(t, s.URL+"/example.com/m/@v/v1.0.0.zip"); !slices.Contains(zipNames(t, body), "example.com/m@v1.0.0/one.go") {
		t.Errorf("zip has %q: another module's file took the place of one.go", zipNames(t, body))
	}
}

func TestRawZip(t *testing.T) {
	var link bytes.Buffer
	zw := zip.NewWriter(&link)
	w, err := zw.Create("example.com/m@v3.0.0/A.go")
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, "package m\n")
	zw.Create("example.com/m@v3.0.0/a.go")
	zw.Close()

	s := modfetchtest.NewServer(t, nil)
	s.Add(modfetchtest.NewModule("example.com/m", "v3.0.0").RawZip(link.Bytes())) // no zip that x/mod/zip would make
	s.Add(modfetchtest.NewModule("example.com/n", "v1.0.0").RawZip([]byte("no zip")))
	s.Add(modfetchtest.NewModule("example.com/good", "v1.0.0"))

	_, body := get(t, s.URL+"/example.com/m/@v/v3.0.0.zip")
	if body != link.String() {
		t.Error("the zip is not the one given")
	}
	if sum := h1(t, body); !strings.HasPrefix(s.GoSum("example.com/m", "v3.0.0"), "example.com/m v3.0.0 "+sum+"\n") {
		t.Errorf("listed as %q, want %s", s.GoSum("example.com/m", "v3.0.0"), sum)
	}
	if _, body := get(t, s.URL+"/example.com/n/@v/v1.0.0.zip"); body != "no zip" {
		t.Errorf("zip %q is not the one given", body)
	}
	if sum := s.GoSum("example.com/n", "v1.0.0"); !strings.HasPrefix(sum, "example.com/n v1.0.0 h1:") {
		t.Errorf("listed as %q", sum)
	}
	if sum := s.GoSum("example.com/none", "v1.0.0"); sum != "" {
		t.Errorf("GoSum of no module is %q", sum)
	}
}

func TestMirrorHasItsOwnFaultsAndLog(t *testing.T) {
	s := modfetchtest.NewServer(t, nil)
	m := s.Mirror()
	s.Add(modfetchtest.NewModule("example.com/m", "v1.0.0"))
	s.Fault("*", modfetchtest.Status(500))
	if resp, _ := get(t, s.URL+"/example.com/m/@v/list"); resp.StatusCode != 500 {
		t.Errorf("status %d, want 500", resp.StatusCode)
	}
	if resp, body := get(t, m.URL+"/example.com/m/@v/list"); resp.StatusCode != 200 || body != "v1.0.0\n" {
		t.Errorf("mirror: status %d, %q", resp.StatusCode, body)
	}
	if m.Count("*") != 1 || s.Count("*") != 1 || m.GOSUMDB() != s.GOSUMDB() {
		t.Errorf("%d and %d requests; keys %s and %s", s.Count("*"), m.Count("*"), s.GOSUMDB(), m.GOSUMDB())
	}
}

// TestOtherWaysIn has a server answer over TLS and HTTP/2.
func TestOtherWaysIn(t *testing.T) {
	s := modfetchtest.NewServer(t, testdata())
	front := httptest.NewUnstartedServer(s)
	front.EnableHTTP2 = true
	front.StartTLS()
	t.Cleanup(front.Close)
	s.Fault("*.zip", modfetchtest.Truncate(20))
	s.Fault("*.mod", modfetchtest.Reset())
	resp, err := front.Client().Get(front.URL + "/example.com/m/@v/v1.0.0.zip")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if resp.ProtoMajor != 2 || resp.StatusCode != 200 || len(body) != 20 || err == nil {
		t.Errorf("%v, %d bytes, %v", resp, len(body), err)
	}
	if _, err := front.Client().Get(front.URL + "/example.com/m/@v/v1.0.0.mod"); err == nil || !strings.Contains(err.Error(), "stream error") {
		t.Errorf("error %v, want that of a stream", err)
	}
	if log := s.Log(); len(log) != 2 || log[0].Path != "/example.com/m/@v/v1.0.0.zip" || log[0].Status != 200 {
		t.Errorf("requests %+v", log)
	}
}

func TestRequestsAreLeftAlone(t *testing.T) {
	s := modfetchtest.NewServer(t, testdata())
	s.Fault("*", modfetchtest.Fault{}.Ignore("Range"))
	r := httptest.NewRequest(http.MethodGet, "/example.com/m/@v/v1.0.0.zip", nil)
	r.Header.Set("Range", "bytes=1-")
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	if w.Code != 200 || r.Header.Get("Range") != "bytes=1-" || s.Log()[0].Header.Get("Range") != "bytes=1-" {
		t.Errorf("status %d, request %v", w.Code, r.Header)
	}
}

func TestLog(t *testing.T) {
	s := modfetchtest.NewServer(t, testdata())
	get(t, s.URL+"/example.com/%21odd/under_score/@v/v1.2.3.mod?key=value", "Authorization", "Basic c2VjcmV0")
	get(t, s.URL+"/example.com/none/@v/list")
	if want := []string{"/example.com/!odd/under_score/@v/v1.2.3.mod", "/example.com/none/@v/list"}; !slices.Equal(s.Requests(), want) {
		t.Errorf("requests %q, want %q", s.Requests(), want)
	}
	log := s.Log()
	if r := log[0]; r.Method != "GET" || r.Query != "key=value" || r.Header.Get("Authorization") != "Basic c2VjcmV0" || r.Status != 200 {
		t.Errorf("first request %+v", r)
	}
	if log[1].Status != 404 {
		t.Errorf("second request %+v", log[1])
	}
}

func TestCount(t *testing.T) {
	s := modfetchtest.NewServer(t, nil)
	get(t, s.URL+"/example.com/m/@v/v1.0.0.zip")
	for _, test := range []struct {
		pattern string
		want    int
	}{
		{"*", 1},
		{"*.zip", 1},
		{"/example.com/*", 1},
		{"/*/m/@v/*.zip", 1},
		{"/example.com/m/@v/v1.0.0.zip", 1},
		{"*m*m*", 1},
		{"*/m/*m*", 0},
		{"/example.com/m/@v/v1.0.0.zip*", 1},
		{"*.zi", 0},
		{"example.com/*", 0},
		{"/example.com/m", 0},
		{"*zip*zip", 0},
		{"/example.com/?/*", 0},
		{"", 0},
	} {
		if n := s.Count(test.pattern); n != test.want {
			t.Errorf("Count(%q) = %d, want %d", test.pattern, n, test.want)
		}
	}
}

func TestClose(t *testing.T) {
	before := runtime.NumGoroutine()
	s, err := modfetchtest.Start(testdata())
	if err != nil {
		t.Fatal(err)
	}
	m := s.Mirror()
	s.Fault("/example.com/m/*", modfetchtest.Hang())
	s.Fault("/example.com/tree/*", modfetchtest.Stall(3))
	s.Fault("/example.com/m/v2/*", modfetchtest.Fault{}.Latency(time.Hour))
	s.Fault("/example.com/old/*", modfetchtest.Fault{}.Bandwidth(1)) // of more than an hour's worth
	s.Add(modfetchtest.NewModule("example.com/old", "v1.0.0").RawZip(make([]byte, 5000)))
	failed := make(chan error)
	paths := []string{"/example.com/m/@v/list", "/example.com/tree/@v/list", "/example.com/m/v2/@v/list", "/example.com/old/@v/v1.0.0.zip"}
	for _, path := range paths {
		go func() {
			_, _, err := request(http.MethodGet, s.URL+path)
			failed <- err
		}()
	}
	for s.Count("*") < len(paths) {
		runtime.Gosched()
	}
	s.Close()
	s.Close()
	for range paths {
		if err := <-failed; err == nil {
			t.Error("a request under way was answered")
		}
	}
	for _, url := range []string{s.URL, m.URL} {
		if _, _, err := request(http.MethodGet, url); err == nil {
			t.Errorf("%s still answers", url)
		}
	}
	if s.Count("*") != len(paths) {
		t.Errorf("%d requests in the log after Close, want %d", s.Count("*"), len(paths))
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	// The client's own goroutines end when they notice.
	deadline := time.Now().Add(10 * time.Second)
	for runtime.NumGoroutine() > before {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<16)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
		}
		runtime.Gosched()
	}
}

func TestCloseWaitsForHandlers(t *testing.T) {
	s, err := modfetchtest.Start(nil)
	if err != nil {
		t.Fatal(err)
	}
	arrived := make(chan bool)
	var ended atomic.Bool
	s.Fault("*", modfetchtest.Handler(func(w http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
		for range 10_000 {
			runtime.Gosched()
		}
		ended.Store(true)
	}))
	// A request whose body is not read: that its connection is closed goes unnoticed.
	go http.Post(s.URL, "text/plain", strings.NewReader("body"))
	<-arrived
	s.Close()
	if !ended.Load() {
		t.Error("Close did not wait for a handler")
	}
}
