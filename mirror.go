package modfetch

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-retryablehttp"
	"golang.org/x/mod/module"
)

// A Mirror serves files by their GOPROXY path. It is not trusted: what it sends is bounded, timed and verified by the
// [Fetcher]. Implementations must be safe for concurrent use.
type Mirror interface {
	// Fetch answers a request for an escaped GOPROXY path. Only the mirror's own statement that the path does not exist
	// (404, 410, no such file) satisfies errors.Is(err, fs.ErrNotExist). Cancelling ctx fails reads of the body.
	Fetch(ctx context.Context, r Request) (*Response, error)

	// String names the mirror for people: no user name, password, query or token.
	String() string
}

// A Request asks a mirror for one file, or a part of it.
type Request struct {
	Path   string // escaped GOPROXY path without a leading slash: "example.com/!m/@v/v1.0.0.zip"
	Offset int64  // first byte wanted; a mirror may ignore it, Response.Offset says so
	Length int64  // bytes wanted from there; 0 is all of them
	ETag   string // send a part only of this very file, else the whole; asked for the whole, send it unless it is this very file
	Lane   int    // requests of different lanes, of which there are up to 16, should not share a connection
	Retry  bool   // no other mirror can be asked: the mirror itself should retry what may pass
}

// ErrNotModified is a Mirror's answer to a Request for a whole file that still has the Request's ETag.
var ErrNotModified = errors.New("not modified")

// A Response is a mirror's answer. The receiver closes Body.
type Response struct {
	Body        io.ReadCloser
	Offset      int64  // of the first byte of Body in the file
	Size        int64  // of the whole file; -1 if unknown
	ETag        string // as sent; one that begins with W/ is weak; "" if there is none
	ContentType string // as stated by the mirror
}

// proxyPath returns the escaped GOPROXY path of one of m's files, whose path and version have been checked.
func proxyPath(m module.Version, suffix string) string {
	version, _ := module.EscapeVersion(m.Version)
	return escapePath(m.Path) + "/@v/" + version + "." + suffix
}

// escapePath is module.EscapePath for a path that has been checked, which need not be done for each of its files again.
func escapePath(path string) string {
	if strings.ToLower(path) != path {
		path, _ = module.EscapePath(path)
	}
	return path
}

// Limits of what a mirror may send or make us wait for.
const (
	maxHeader     = 64 << 10 // bytes of a response header
	maxRedirects  = 5
	maxDetail     = 8 << 10 // bytes read of an error page in search of 8 lines worth quoting
	dialTimeout   = 10 * time.Second
	maxRetryAfter = 30 * time.Second
	retries       = 3
)

type httpMirror struct {
	base   *url.URL // without user name and password
	auth   string   // the Authorization header; "" for none
	name   string
	client *http.Client          // follows redirects by our rules
	retry  *retryablehttp.Client // the same, for requests with Retry
}

// HTTPMirror returns the mirror with the given base URL, such as https://goproxy.cn. User name and password in the URL
// are sent as basic authentication, to that origin only; its query is repeated on every request. None of them is in an
// error, also where the server repeats them, unless it is shorter than 3 bytes.
//
// The client is copied, and its CheckRedirect replaced: at most 5 redirects, never from https to http, credentials and
// Referer never to another origin. Its transport should bound response headers as ours does, to 64 KiB. It must not have
// a Timeout, which would cut off large zips; nil means a client that honours HTTPS_PROXY and NO_PROXY, and that a mirror
// at a public address cannot redirect to a loopback, link-local or private one. A client that is given dials by its own
// transport: that check, and whom a client certificate is shown to, are up to it.
func HTTPMirror(base string, client *http.Client) (Mirror, error) {
	u, err := url.Parse(base)
	if err != nil {
		return nil, fmt.Errorf("mirror %q: %w", withoutSecrets(base), errMalformed)
	}
	m, err := newHTTPMirror(u, client)
	if err != nil {
		return nil, fmt.Errorf("mirror %q: %w", withoutSecrets(base), err)
	}
	return m, nil
}

// errMalformed stands for the errors of url.Parse, which quote passwords.
var errMalformed = errors.New("malformed URL; in a password or query, a comma is written %2C, a bar %7C, a colon %3A, an @ %40")

// newHTTPMirror is HTTPMirror with errors that leave it to the caller to name the URL.
func newHTTPMirror(u *url.URL, client *http.Client) (Mirror, error) {
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, errors.New("want an http or https URL with a host, such as https://goproxy.cn")
	}
	if _, err := strconv.ParseUint(u.Port(), 10, 16); u.Port() != "" && err != nil {
		return nil, errMalformed // rather half a password than a port
	}
	if u.User != nil && u.Scheme != "https" {
		return nil, errors.New("its user name and password would cross the network in the clear; use https")
	}
	if client == nil {
		client = newHTTPClient()
	}
	client, err := guardClient(client)
	if err != nil {
		return nil, err
	}
	m := &httpMirror{base: u, name: redact(u), client: client}
	if u.User != nil {
		password, _ := u.User.Password()
		m.auth = "Basic " + base64.StdEncoding.EncodeToString([]byte(u.User.Username()+":"+password))
		u.User = nil
	}
	m.retry = &retryablehttp.Client{
		HTTPClient:   client,
		RetryMax:     retries,
		RetryWaitMin: retryPause,
		RetryWaitMax: 20 * retryPause,
		CheckRetry:   worthRetrying,
		Backoff:      backoff,
		ErrorHandler: retryablehttp.PassthroughErrorHandler,
	}
	return m, nil
}

func (m *httpMirror) String() string { return m.name }

// credentialed reports whether the mirror gives files for the user's own credentials.
func (m *httpMirror) credentialed(ctx context.Context) bool {
	if m.auth != "" || m.base.RawQuery != "" {
		return true
	}
	guard, _ := m.client.Transport.(guardTransport)
	auth, ok := guard.transport.(*authTransport)
	return ok && auth.knows(ctx, m.base)
}

func (m *httpMirror) Fetch(ctx context.Context, r Request) (*Response, error) {
	u := *m.base
	// RawPath keeps whatever escapes the base came with; the rest is escaped by the rules of net/url, which turn the `!`
	// of an escaped upper-case letter into %21 and leave `+` alone, as the go command does.
	u.RawPath = strings.TrimRight(u.EscapedPath(), "/") + "/" + (&url.URL{Path: r.Path}).EscapedPath()
	u.Path = strings.TrimRight(u.Path, "/") + "/" + r.Path

	ctx = context.WithValue(ctx, laneKey{}, r.Lane)
	var sent []*http.Request
	req, err := http.NewRequestWithContext(context.WithValue(ctx, sentKey{}, &sent), http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("mirror %s: %w", m.name, errMalformed)
	}
	req.Header.Set("Accept-Encoding", "identity") // ranges and sizes must be those of the file
	if m.auth != "" {
		req.Header.Set("Authorization", m.auth)
	}
	if r.Offset > 0 || r.Length > 0 {
		end := ""
		if r.Length > 0 {
			end = strconv.FormatInt(r.Offset+r.Length-1, 10)
		}
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%s", r.Offset, end))
		if r.ETag != "" {
			req.Header.Set("If-Range", r.ETag)
		}
	} else if r.ETag != "" {
		req.Header.Set("If-None-Match", r.ETag)
	}

	var resp *http.Response
	if r.Retry {
		resp, err = m.retry.Do(&retryablehttp.Request{Request: req})
	} else {
		resp, err = m.client.Do(req)
	}
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err // drops the URL, which may carry a query
		}
		if absent(err) { // such as a dialler's missing socket: no word of the mirror's
			err = &failure{ErrTransient, "no connection", err}
		}
		if text := m.quote(err.Error(), sent); text != err.Error() {
			return nil, &quotedError{text, &err}
		}
		return nil, err
	}
	out, err := m.response(resp, r, sent)
	if err != nil {
		resp.Body.Close()
		return nil, err
	}
	return out, nil
}

// response checks a reply's header against what was asked.
func (m *httpMirror) response(resp *http.Response, r Request, sent []*http.Request) (*Response, error) {
	out := &Response{Body: resp.Body, Size: resp.ContentLength, ETag: resp.Header.Get("ETag"), ContentType: resp.Header.Get("Content-Type")}
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotModified:
		if r.Offset != 0 || r.Length != 0 || r.ETag == "" {
			return nil, m.statusError(resp, r, sent)
		}
		return nil, ErrNotModified
	case http.StatusPartialContent:
		if r.Offset == 0 && r.Length == 0 {
			return nil, m.statusError(resp, r, sent)
		}
		var last int64
		_, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-%d/%d", &out.Offset, &last, &out.Size)
		if err != nil || out.Offset != r.Offset || last < out.Offset || last >= out.Size {
			return nil, failf(ErrCorrupt, "asked for bytes from %d, got Content-Range %q", r.Offset, m.quote(resp.Header.Get("Content-Range"), sent))
		}
	default:
		return nil, m.statusError(resp, r, sent)
	}
	if enc := resp.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return nil, failf(ErrCorrupt, "sent %q where the plain file was asked for", m.quote(enc, sent))
	}
	return out, nil
}

func (m *httpMirror) statusError(resp *http.Response, r Request, sent []*http.Request) error {
	e := &StatusError{Mirror: m.name, Path: r.Path, Code: resp.StatusCode, RetryAfter: retryAfter(resp)}
	sameOrigin := resp.Request.URL.Scheme == m.base.Scheme && resp.Request.URL.Host == m.base.Host
	if kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); kind == "text/plain" && sameOrigin {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, maxDetail))
		lines := strings.SplitN(strings.TrimSpace(string(text)), "\n", 9)
		e.Detail = m.quote(strings.Join(lines[:min(8, len(lines))], "\n\t"), sent)
	}
	return e
}

// worthRetrying says whether the same request may succeed a moment later: not after a 4xx other than 408 and 429, nor for a host
// that does not resolve or whose certificate does not hold.
func worthRetrying(ctx context.Context, resp *http.Response, err error) (bool, error) {
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if err != nil {
		var dns *net.DNSError
		kind := KindOf(err) // Canceled is a dial's own deadline here
		return (kind == Transient || kind == Canceled) && !(errors.As(err, &dns) && dns.IsNotFound), nil
	}
	return resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusRequestTimeout, nil
}

// backoff waits as long as the server asks, within reason, else exponentially with jitter.
func backoff(least, most time.Duration, attempt int, resp *http.Response) time.Duration {
	if resp != nil {
		if d := retryAfter(resp); d > 0 {
			return d
		}
	}
	d := min(least<<attempt, most)
	return d/2 + rand.N(d/2+1)
}

func retryAfter(resp *http.Response) time.Duration {
	s, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	if err != nil || s < 0 {
		return 0
	}
	return time.Duration(min(s, int(maxRetryAfter/time.Second))) * time.Second
}

type fsMirror struct {
	fsys fs.FS
	name string
}

// FSMirror serves a GOPROXY tree in a file system: os.DirFS of a bundle or of a module cache's cache/download directory, an
// embed.FS, of which fs.Sub leads to the tree. It opens no socket. Its name is what a String method of fsys says.
//
// A module cache has no checksum database; what comes from it go.sum has to vouch for. A tree without any file is no mirror
// that lacks one, but perhaps a disk that is not mounted: that is Transient, not an absence.
func FSMirror(fsys fs.FS) Mirror {
	name := fmt.Sprintf("%T", fsys)
	if v := reflect.ValueOf(fsys); v.Kind() == reflect.String { // os.DirFS
		name = v.String()
	}
	if s, ok := fsys.(fmt.Stringer); ok {
		name = s.String()
	}
	return &fsMirror{fsys, "file system " + name}
}

func (m *fsMirror) String() string { return m.name }

func (m *fsMirror) Fetch(ctx context.Context, r Request) (*Response, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	info, err := fs.Stat(m.fsys, r.Path)
	if errors.Is(err, fs.ErrNotExist) {
		err = cmp.Or(m.isThere(), err)
	} else if err == nil && !info.Mode().IsRegular() { // to open a FIFO never ends
		err = failf(ErrCorrupt, "%s is no regular file", r.Path)
	}
	if err != nil {
		return nil, err
	}
	f, err := m.fsys.Open(r.Path)
	if err != nil {
		return nil, err
	}
	out := &Response{Body: fsBody{f, ctx}, Size: info.Size()}
	if s, ok := f.(io.Seeker); ok && r.Offset > 0 {
		if _, err := s.Seek(r.Offset, io.SeekStart); err != nil {
			f.Close()
			return nil, err
		}
		out.Offset = r.Offset
	}
	return out, nil
}

// isThere returns an error if there is no file at all.
func (m *fsMirror) isThere() error {
	root, err := m.fsys.Open(".")
	if errors.Is(err, fs.ErrNotExist) {
		return failf(ErrTransient, "there is no such directory: is its disk mounted?")
	} else if err != nil {
		return nil // and who asked for a file learns why
	}
	defer root.Close()
	if dir, ok := root.(fs.ReadDirFile); ok {
		if _, err := dir.ReadDir(1); err == io.EOF {
			return failf(ErrTransient, "the directory is empty: is its disk mounted?")
		}
	}
	return nil
}

// An fsBody is a file that cannot be read after ctx has ended.
type fsBody struct {
	fs.File
	ctx context.Context
}

func (b fsBody) Read(p []byte) (int, error) {
	if err := context.Cause(b.ctx); err != nil {
		return 0, err
	}
	return b.File.Read(p)
}

// fileMirror serves the directory of a file:// URL.
func fileMirror(u *url.URL) Mirror {
	dir := u.Path
	if len(dir) > 2 && dir[0] == '/' && dir[2] == ':' { // file:///C:/dir
		dir = dir[1:]
	}
	return &fsMirror{os.DirFS(dir), redact(u)}
}
