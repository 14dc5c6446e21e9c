package modfetch_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modfetch/modfetch"
)

// A network answers HTTP requests without sockets, so that time is free in a bubble, and logs them.
type network struct {
	answer func(*http.Request) (*http.Response, error)

	mu    sync.Mutex // guards asked
	asked []*http.Request
}

func (n *network) RoundTrip(r *http.Request) (*http.Response, error) {
	n.mu.Lock()
	n.asked = append(n.asked, r)
	n.mu.Unlock()
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return n.answer(r)
}

// urls lists what was asked for, in order.
func (n *network) urls() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []string
	for _, r := range n.asked {
		out = append(out, r.URL.String())
	}
	return out
}

func (n *network) client() *http.Client { return &http.Client{Transport: n} }

// reply makes a response; header holds keys and values in turn.
func reply(r *http.Request, code int, body string, header ...string) (*http.Response, error) {
	h := make(http.Header)
	for pair := range slices.Chunk(header, 2) {
		h.Set(pair[0], pair[1])
	}
	return &http.Response{
		StatusCode: code, ProtoMajor: 1, ProtoMinor: 1, Header: h, Request: r,
		Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
	}, nil
}

// always makes a network that answers everything alike.
func always(code int, body string, header ...string) *network {
	return &network{answer: func(r *http.Request) (*http.Response, error) { return reply(r, code, body, header...) }}
}

func httpMirror(t testing.TB, base string, client *http.Client) modfetch.Mirror {
	t.Helper()
	m, err := modfetch.HTTPMirror(base, client)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// get fetches one file whole.
func get(t testing.TB, m modfetch.Mirror, r modfetch.Request) (string, error) {
	t.Helper()
	resp, err := m.Fetch(t.Context(), r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return string(data), err
}

func TestHTTPMirrorWireForm(t *testing.T) {
	for name, c := range map[string]struct{ base, path, want string }{
		"upper case":          {"https://mirror.example", "example.com/!upper/@v/v1.0.0-!r!c1.info", "https://mirror.example/example.com/%21upper/@v/v1.0.0-%21r%21c1.info"},
		"plus stays":          {"https://mirror.example", "example.com/old/@v/v3.0.0+incompatible.zip", "https://mirror.example/example.com/old/@v/v3.0.0+incompatible.zip"},
		"tilde stays":         {"https://mirror.example", "example.com/~user/m/@v/list", "https://mirror.example/example.com/~user/m/@v/list"},
		"path":                {"https://mirror.example/go/proxy", "a.b/c/@latest", "https://mirror.example/go/proxy/a.b/c/@latest"},
		"trailing slash":      {"https://mirror.example/", "a.b/c/@latest", "https://mirror.example/a.b/c/@latest"},
		"trailing slashes":    {"https://mirror.example/go//", "a.b/c/@latest", "https://mirror.example/go/a.b/c/@latest"},
		"escapes in the base": {"https://mirror.example/a%2Fb", "a.b/!c/@latest", "https://mirror.example/a%2Fb/a.b/%21c/@latest"},
		"query":               {"https://mirror.example/go?token=x&y=1", "a.b/c/@latest", "https://mirror.example/go/a.b/c/@latest?token=x&y=1"},
		"port":                {"http://mirror.example:8081", "a.b/c/@latest", "http://mirror.example:8081/a.b/c/@latest"},
	} {
		t.Run(name, func(t *testing.T) {
			n := always(200, "content")
			if data, err := get(t, httpMirror(t, c.base, n.client()), modfetch.Request{Path: c.path}); err != nil || data != "content" {
				t.Errorf("got %q, %v", data, err)
			}
			if got := n.urls(); !slices.Equal(got, []string{c.want}) {
				t.Errorf("asked for %q, want %q", got, c.want)
			}
			if got := n.asked[0].Header.Get("Accept-Encoding"); got != "identity" {
				t.Errorf("Accept-Encoding %q, want identity: sizes and ranges are those of the file", got)
			}
		})
	}
}

func TestHTTPMirrorSaysNoSecret(t *testing.T) {
	const base = "https://s3cret-user:s3cret-word@mirror.example/go?token=s3cret-query"
	answers := map[string]func(*http.Request) (*http.Response, error){
		"200":     func(r *http.Request) (*http.Response, error) { return reply(r, 200, "") },
		"404":     func(r *http.Request) (*http.Response, error) { return reply(r, 404, "") },
		"failure": func(r *http.Request) (*http.Response, error) { return nil, errors.New("connection refused") },
		"gzip":    func(r *http.Request) (*http.Response, error) { return reply(r, 200, "", "Content-Encoding", "gzip") },
		"to http": func(r *http.Request) (*http.Response, error) {
			return reply(r, 302, "", "Location", "http://u:s3cret@b.example/?s3cret")
		},
		"in rings": func(r *http.Request) (*http.Response, error) { return reply(r, 302, "", "Location", r.URL.Path) },
	}
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			for _, retry := range []bool{false, true} {
				n := &network{answer: answer}
				m := httpMirror(t, base, n.client())
				if m.String() != "https://mirror.example/go" {
					t.Errorf("mirror is called %s", m)
				}
				_, err := get(t, m, modfetch.Request{Path: "example.com/m/@v/list", Retry: retry})
				if (err == nil) != (name == "200") {
					t.Errorf("error %v", err)
				}
				if said := fmt.Sprintf("%v %+v", err, err); strings.Contains(said, "s3cret") {
					t.Errorf("error %s holds a secret", said)
				}
				user, word, _ := n.asked[0].BasicAuth()
				if user != "s3cret-user" || word != "s3cret-word" || n.asked[0].URL.RawQuery != "token=s3cret-query" {
					t.Errorf("asked as %q with query %q", user, n.asked[0].URL.RawQuery)
				}
			}
		})
	}
}

func TestHTTPMirrorRefusesBadBases(t *testing.T) {
	for name, c := range map[string]struct {
		base string
		say  string
	}{
		"password over http":     {"http://user:s3cret@mirror.example", "use https"},
		"user over http":         {"http://s3cret@mirror.example", "use https"},
		"no host":                {"https:///go", "with a host"},
		"single slash":           {"https:/user:s3cret@mirror.example/go", "with a host"},
		"no scheme":              {"mirror.example", "http or https"},
		"ftp":                    {"ftp://user:s3cret@mirror.example", "http or https"},
		"empty":                  {"", "http or https"},
		"slash in the password":  {"https://user:s3cret/more@mirror.example", "malformed"},
		"escape in the password": {"https://user:s3cret%zz@mirror.example", "malformed"},
		"control character":      {"https://user:s3cret@mirror.example/\x7f", "malformed"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := modfetch.HTTPMirror(c.base, nil)
			if err == nil || !strings.Contains(err.Error(), c.say) {
				t.Fatalf("error %v, want one that says %q", err, c.say)
			}
			if strings.Contains(err.Error(), "s3cret") {
				t.Errorf("error %v holds a secret", err)
			}
		})
	}
}

func TestHTTPMirrorRefusesAClientWithATimeout(t *testing.T) {
	_, err := modfetch.HTTPMirror("https://mirror.example", &http.Client{Timeout: time.Minute})
	if err == nil || !strings.Contains(err.Error(), "Timeout of 1m0s") || !strings.Contains(err.Error(), "leave it zero") {
		t.Errorf("error %v, want one that names the Timeout and says what to do", err)
	}
}

func TestHTTPMirrorLeavesTheClientAlone(t *testing.T) {
	n := always(302, "", "Location", "https://other.example/")
	client := n.client()
	follow := errors.New("the caller's own rule")
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return follow }
	get(t, httpMirror(t, "https://mirror.example", client), modfetch.Request{Path: "example.com/m/@v/list"})
	if _, err := client.Get("https://mirror.example"); !errors.Is(err, follow) || client.Transport != n {
		t.Errorf("the client was changed: %v", err)
	}
}

func TestHTTPMirrorOverTLS(t *testing.T) {
	for name, h2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2.0": true} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				user, word, _ := r.BasicAuth()
				fmt.Fprintf(w, "%s %s %s %s", r.Proto, user, word, r.URL.EscapedPath())
			}))
			s.EnableHTTP2 = h2
			s.StartTLS()
			defer s.Close()
			base := strings.Replace(s.URL, "https://", "https://gopher:pass@", 1)
			m := httpMirror(t, base, s.Client())
			for _, retry := range []bool{false, true} {
				data, err := get(t, m, modfetch.Request{Path: "example.com/!m/@v/list", Retry: retry})
				if want := name + " gopher pass /example.com/%21m/@v/list"; err != nil || data != want {
					t.Errorf("got %q, %v, want %q", data, err, want)
				}
			}
		})
	}
}

func TestHTTPMirrorStatusKinds(t *testing.T) {
	for code, want := range map[int]modfetch.Kind{
		200: "", 204: modfetch.Corrupt, 206: modfetch.Corrupt, 301: modfetch.Corrupt, 304: modfetch.Corrupt,
		400: modfetch.Forbidden, 401: modfetch.Forbidden, 403: modfetch.Forbidden, 404: modfetch.NotFound,
		408: modfetch.Transient, 410: modfetch.NotFound, 429: modfetch.Transient, 451: modfetch.Forbidden,
		500: modfetch.Transient, 502: modfetch.Transient, 503: modfetch.Transient, 504: modfetch.Transient, 522: modfetch.Transient,
	} {
		t.Run(fmt.Sprint(code, http.StatusText(code)), func(t *testing.T) {
			m := httpMirror(t, "https://mirror.example/go", always(code, "").client())
			_, err := get(t, m, modfetch.Request{Path: "example.com/m/@v/list"})
			if want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if got := modfetch.KindOf(err); got != want {
				t.Errorf("%v is %s, want %s", err, got, want)
			}
			if got := errors.Is(err, fs.ErrNotExist); got != (want == modfetch.NotFound) {
				t.Errorf("%v is fs.ErrNotExist: %t", err, got)
			}
			var status *modfetch.StatusError
			if !errors.As(err, &status) || status.Code != code || status.Mirror != m.String() || status.Path != "example.com/m/@v/list" {
				t.Errorf("error %#v, want a StatusError with all its fields", err)
			}
			if s := err.Error(); s != strings.TrimSpace(s) || !strings.HasPrefix(s, fmt.Sprint(code)) {
				t.Errorf("text %q", s)
			}
		})
	}
}

func TestHTTPMirrorQuotesTheServer(t *testing.T) {
	lines := strings.Repeat("line\n", 20)
	for name, c := range map[string]struct{ contentType, body, want string }{
		"plain":              {"text/plain", "no such module\n", "no such module"},
		"charset":            {"text/plain; charset=utf-8", "no such module", "no such module"},
		"capitals":           {"Text/Plain", "no such module", "no such module"},
		"page":               {"text/html", "<p>no such module", ""},
		"JSON":               {"application/json", `"no such module"`, ""},
		"no type":            {"", "no such module", ""},
		"eight lines":        {"text/plain", lines, strings.TrimSuffix(strings.Repeat("line\n\t", 8), "\n\t")},
		"terminal sequences": {"text/plain", "red \x1b[31malert\x07\x00\r\n\u009b2J", "red [31malert\n\t2J"},
		"direction of text":  {"text/plain", "a\u202eb\u2066c\u200fd\u061ce", "abcde"},
		"separators":         {"text/plain", "a\u2028b\u2029c\ufeffd", "abcd"},
		"not UTF-8":          {"text/plain", "a\xff\xfeb", "ab"},
		"one long line":      {"text/plain", strings.Repeat("x", 5000), strings.Repeat("x", 640) + " ..."},
		"cut in a letter":    {"text/plain", strings.Repeat("x", 639) + "ä", strings.Repeat("x", 639) + " ..."},
	} {
		t.Run(name, func(t *testing.T) {
			m := httpMirror(t, "https://mirror.example", always(404, c.body, "Content-Type", c.contentType).client())
			_, err := get(t, m, modfetch.Request{Path: "example.com/m/@v/list"})
			var status *modfetch.StatusError
			if !errors.As(err, &status) || status.Detail != c.want {
				t.Errorf("error %v, want detail %q", err, c.want)
			}
		})
	}
	t.Run("of another origin", func(t *testing.T) {
		n := &network{answer: func(r *http.Request) (*http.Response, error) {
			if r.URL.Host == "mirror.example" {
				return reply(r, 302, "", "Location", "https://other.example/x")
			}
			return reply(r, 404, "secrets of the inner network", "Content-Type", "text/plain")
		}}
		_, err := get(t, httpMirror(t, "https://mirror.example", n.client()), modfetch.Request{Path: "example.com/m/@v/list"})
		if err == nil || err.Error() != "404 Not Found" {
			t.Errorf("error %v, want the status alone", err)
		}
	})
	t.Run("without end", func(t *testing.T) {
		read := 0
		n := &network{answer: func(r *http.Request) (*http.Response, error) {
			resp, err := reply(r, 500, "", "Content-Type", "text/plain")
			resp.Body, resp.ContentLength = io.NopCloser(readerFunc(func(p []byte) (int, error) {
				read += len(p)
				return len(p), nil
			})), -1
			return resp, err
		}}
		get(t, httpMirror(t, "https://mirror.example", n.client()), modfetch.Request{Path: "example.com/m/@v/list"})
		if read > 16<<10 {
			t.Errorf("read %d bytes of an error page", read)
		}
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestHTTPMirrorPartOfAFile(t *testing.T) {
	const etag = `"the-very-file"`
	for name, c := range map[string]struct {
		ask            modfetch.Request
		wantRange      string
		code           int
		contentRange   string
		offset, size   int64
		wantKind       modfetch.Kind
		withoutIfRange bool
	}{
		"from here on":            {ask: modfetch.Request{Offset: 5, ETag: etag}, wantRange: "bytes=5-", code: 206, contentRange: "bytes 5-9/10", offset: 5, size: 10},
		"from here to there":      {ask: modfetch.Request{Offset: 5, Length: 3, ETag: etag}, wantRange: "bytes=5-7", code: 206, contentRange: "bytes 5-7/10", offset: 5, size: 10},
		"the first bytes":         {ask: modfetch.Request{Length: 3, ETag: etag}, wantRange: "bytes=0-2", code: 206, contentRange: "bytes 0-2/10", size: 10},
		"without an ETag":         {ask: modfetch.Request{Offset: 5}, wantRange: "bytes=5-", code: 206, contentRange: "bytes 5-9/10", offset: 5, size: 10, withoutIfRange: true},
		"the whole file instead":  {ask: modfetch.Request{Offset: 5, ETag: etag}, wantRange: "bytes=5-", code: 200, size: 5},
		"part not asked for":      {code: 206, contentRange: "bytes 0-4/5", wantKind: modfetch.Corrupt},
		"other part":              {ask: modfetch.Request{Offset: 5}, wantRange: "bytes=5-", code: 206, contentRange: "bytes 4-9/10", wantKind: modfetch.Corrupt},
		"no Content-Range":        {ask: modfetch.Request{Offset: 5}, wantRange: "bytes=5-", code: 206, wantKind: modfetch.Corrupt},
		"size not stated":         {ask: modfetch.Request{Offset: 5}, wantRange: "bytes=5-", code: 206, contentRange: "bytes 5-9/*", wantKind: modfetch.Corrupt},
		"end before the start":    {ask: modfetch.Request{Offset: 5}, wantRange: "bytes=5-", code: 206, contentRange: "bytes 5-4/10", wantKind: modfetch.Corrupt},
		"end behind the file":     {ask: modfetch.Request{Offset: 5}, wantRange: "bytes=5-", code: 206, contentRange: "bytes 5-10/10", wantKind: modfetch.Corrupt},
		"beyond the end":          {ask: modfetch.Request{Offset: 50}, wantRange: "bytes=50-", code: 416, wantKind: modfetch.Forbidden},
		"ETag without a position": {ask: modfetch.Request{ETag: etag}, code: 200, size: 5},
	} {
		t.Run(name, func(t *testing.T) {
			n := always(c.code, "01234", "Content-Range", c.contentRange)
			c.ask.Path = "example.com/m/@v/v1.0.0.zip"
			resp, err := httpMirror(t, "https://mirror.example", n.client()).Fetch(t.Context(), c.ask)
			sent := n.asked[0].Header
			if got := sent.Get("Range"); got != c.wantRange {
				t.Errorf("Range %q, want %q", got, c.wantRange)
			}
			wantIfRange := ""
			if c.wantRange != "" {
				wantIfRange = c.ask.ETag
			}
			if got := sent.Get("If-Range"); got != wantIfRange {
				t.Errorf("If-Range %q, want %q", got, wantIfRange)
			}
			if c.wantKind != "" {
				if modfetch.KindOf(err) != c.wantKind {
					t.Fatalf("error %v, want one that is %s", err, c.wantKind)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.Offset != c.offset || resp.Size != c.size {
				t.Errorf("offset %d of %d, want %d of %d", resp.Offset, resp.Size, c.offset, c.size)
			}
		})
	}
}

func TestHTTPMirrorResponseHeader(t *testing.T) {
	for name, c := range map[string]struct {
		header   []string
		wantETag string
		corrupt  bool
	}{
		"strong ETag": {header: []string{"ETag", `"x"`, "Content-Type", "application/zip"}, wantETag: `"x"`},
		"weak ETag":   {header: []string{"ETag", `W/"x"`, "Content-Type", "application/zip"}, wantETag: `W/"x"`},
		"identity":    {header: []string{"Content-Encoding", "identity", "Content-Type", "application/zip"}},
		"gzip":        {header: []string{"Content-Encoding", "gzip"}, corrupt: true},
		"brotli":      {header: []string{"Content-Encoding", "br\x1b"}, corrupt: true},
	} {
		t.Run(name, func(t *testing.T) {
			resp, err := httpMirror(t, "https://mirror.example", always(200, "01234", c.header...).client()).
				Fetch(t.Context(), modfetch.Request{Path: "example.com/m/@v/list"})
			if c.corrupt {
				if modfetch.KindOf(err) != modfetch.Corrupt || strings.Contains(err.Error(), "\x1b") {
					t.Errorf("error %q, want a printable one that is corrupt", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if resp.ETag != c.wantETag || resp.Size != 5 || resp.ContentType != "application/zip" {
				t.Errorf("response %+v", resp)
			}
		})
	}
}

func TestHTTPMirrorHeaderSize(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kib := 0
		fmt.Sscanf(filepath.Base(r.URL.Path), "%d", &kib)
		w.Header().Set("X-Padding", strings.Repeat("x", kib<<10))
	}))
	defer s.Close()
	m := httpMirror(t, s.URL, nil)
	if _, err := get(t, m, modfetch.Request{Path: "60"}); err != nil {
		t.Errorf("header of 60 KiB: %v", err)
	}
	if _, err := get(t, m, modfetch.Request{Path: "65"}); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("header of 65 KiB: error %v, want a refusal", err)
	}
}

func TestHTTPMirrorRedirects(t *testing.T) {
	for name, c := range map[string]struct {
		base, location string
		retarget       string // what is asked for then; "" if the redirect is refused
		credentials    bool   // are still sent
		kind           modfetch.Kind
	}{
		"same origin":           {location: "https://example.com/other", retarget: "https://example.com/other", credentials: true},
		"same origin, relative": {location: "/other", retarget: "https://example.com/other", credentials: true},
		"other port":            {location: "https://example.com:8443/other", retarget: "https://example.com:8443/other"},
		"other host":            {location: "https://example.net/other", retarget: "https://example.net/other"},
		"subdomain":             {location: "https://cdn.example.com/other", retarget: "https://cdn.example.com/other"},
		"https to http":         {location: "http://example.com/other", kind: modfetch.Security},
		"https to file":         {location: "file:///etc/passwd", kind: modfetch.Security},
		"http to https":         {base: "http://example.com/go", location: "https://example.com/other", retarget: "https://example.com/other"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.base == "" {
				c.base = "https://gopher:pass@example.com/go?q"
			}
			n := &network{answer: func(r *http.Request) (*http.Response, error) {
				if strings.HasSuffix(r.URL.Path, "/other") {
					return reply(r, 200, "content")
				}
				return reply(r, 302, "", "Location", c.location)
			}}
			jar, err := cookiejar.New(nil)
			if err != nil {
				t.Fatal(err)
			}
			origin, _ := url.Parse(c.base)
			jar.SetCookies(origin, []*http.Cookie{{Name: "session", Value: "s3cret", Path: "/", Domain: "example.com"}})
			client := n.client()
			client.Jar = jar
			data, err := get(t, httpMirror(t, c.base, client), modfetch.Request{Path: "example.com/m/@v/list"})
			if c.retarget == "" {
				if modfetch.KindOf(err) != c.kind || len(n.asked) != 1 {
					t.Errorf("error %v after %q, want a refusal of kind %s", err, n.urls(), c.kind)
				}
				return
			}
			if err != nil || data != "content" || len(n.asked) != 2 || n.urls()[1] != c.retarget {
				t.Fatalf("got %q, %v by %q, want the content by %s", data, err, n.urls(), c.retarget)
			}
			sent := n.asked[1].Header
			if got := sent.Get("Authorization"); (got != "") != c.credentials {
				t.Errorf("sent Authorization: %q, want it sent: %t", got, c.credentials)
			}
			if got := sent.Get("Cookie"); got != "" && !c.credentials {
				t.Errorf("sent Cookie: %q", got)
			}
			if got := sent.Get("Referer"); got != "" {
				t.Errorf("sent Referer: %q", got)
			}
		})
	}
	for hops, ok := range map[int]bool{1: true, 5: true, 6: false} {
		t.Run(fmt.Sprint(hops, " hops"), func(t *testing.T) {
			n := &network{answer: func(r *http.Request) (*http.Response, error) {
				left := hops
				fmt.Sscanf(r.URL.Path, "/hop/%d", &left)
				if left == 0 {
					return reply(r, 200, "content")
				}
				return reply(r, 302, "", "Location", fmt.Sprint("/hop/", left-1))
			}}
			_, err := get(t, httpMirror(t, "https://mirror.example", n.client()), modfetch.Request{Path: "example.com/m/@v/list", Retry: true})
			if (err == nil) != ok || !ok && (modfetch.KindOf(err) != modfetch.Corrupt || !strings.Contains(err.Error(), "more than 5 redirects")) {
				t.Errorf("error %v, want success: %t", err, ok)
			}
			if len(n.asked) != min(hops, 5)+1 {
				t.Errorf("asked %q", n.urls())
			}
		})
	}
}

// Not every transport says which request it answers.
func TestHTTPMirrorOverATransportWithoutRequests(t *testing.T) {
	n := &network{answer: func(r *http.Request) (*http.Response, error) {
		code, location := 302, "https://other.test/x"
		if r.URL.Host == "other.test" {
			code = 404
		}
		resp, err := reply(r, code, "no such module", "Content-Type", "text/plain", "Location", location)
		resp.Request = nil
		return resp, err
	}}
	_, err := get(t, httpMirror(t, "https://gopher:pass@mirror.test", n.client()), modfetch.Request{Path: "example.com/m/@v/list"})
	if err == nil || err.Error() != "404 Not Found" {
		t.Errorf("error %v, want the status alone", err)
	}
	if len(n.asked) != 2 || n.asked[1].Header.Get("Authorization") != "" {
		t.Errorf("asked %q, want two requests, the second without credentials", n.urls())
	}
}

func TestHTTPMirrorRefusesABase(t *testing.T) {
	for base, say := range map[string]string{
		"https://user:s3cret%zz@mirror.test":      "malformed URL",
		"https://mirror.test:s3cret":              "malformed URL",
		"https://user:9021077":                    "malformed URL", // no port, so half of user:password@host
		"http://user:s3cret@mirror.test":          `mirror "http://mirror.test": its user name`,
		"https:///dir?s3cret":                     `mirror "https:///dir": want an http or https URL`,
		"ftp://user:s3cret@mirror.test":           `mirror "mirror.test": want an http or https URL`,
		"ftp://mirror.test/?token=user@s3cret":    "want an http or https URL",
		"https:/user:s3cret@mirror.test":          `mirror "https://mirror.test": want`,
		"https:///user:s3cret":                    "want an http or https URL",
		"mirror.test":                             `mirror "mirror.test": want`,
		"https:user:s3cret":                       "want an http or https URL",
		"https://mirror.test mirror.test":         `mirror "https://mirror.test mirror.test": malformed`,
		"https://user:s3cret\x1b[31m@mirror.test": "malformed URL",
	} {
		_, err := modfetch.HTTPMirror(base, nil)
		if err == nil || !strings.Contains(err.Error(), say) || strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), "9021077") {
			t.Errorf("%s: error %v, want one that says %q and no secret", base, err, say)
		}
	}
}

// A pooled network counts how often its idle connections are closed.
type pooled struct {
	*network
	closed int
}

func (p *pooled) CloseIdleConnections() { p.closed++ }

func TestHTTPMirrorKeepsIdleConnections(t *testing.T) {
	for name, n := range map[string]*network{
		"404": always(404, ""), "500": always(500, ""),
		"failure": {answer: func(*http.Request) (*http.Response, error) { return nil, &net.DNSError{IsNotFound: true} }},
	} {
		t.Run(name, func(t *testing.T) {
			p := &pooled{network: n}
			m := httpMirror(t, "https://mirror.example", &http.Client{Transport: p})
			for _, retry := range []bool{false, true} {
				if _, err := get(t, m, modfetch.Request{Path: "example.com/m/@v/list", Retry: retry}); err == nil {
					t.Error("no error")
				}
			}
			if p.closed > 0 {
				t.Errorf("idle connections closed %d times by failed requests", p.closed)
			}
		})
	}
}

// TestHTTPMirrorWritesNothing runs itself in a process of its own, because a logger keeps the stderr it was born with.
func TestHTTPMirrorWritesNothing(t *testing.T) {
	if os.Getenv("MODFETCH_TEST_QUIET") == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestHTTPMirrorWritesNothing$")
		cmd.Env = append(os.Environ(), "MODFETCH_TEST_QUIET=1")
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Run(); err != nil || stderr.Len() > 0 || !strings.HasPrefix(stdout.String(), "PASS\n") {
			t.Errorf("%v, written:\n%s%s", err, stdout.String(), stderr.String())
		}
		return
	}
	for _, n := range []*network{
		always(200, ""), always(404, ""), always(500, ""),
		{answer: func(*http.Request) (*http.Response, error) { return nil, errors.New("connection refused") }},
	} {
		get(t, httpMirror(t, "https://mirror.example", n.client()), modfetch.Request{Path: "example.com/m/@v/list", Retry: true})
	}
}
