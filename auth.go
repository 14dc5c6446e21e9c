package modfetch

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httputil"
	"net/textproto"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"
)

// An authTransport adds the credentials that GOAUTH finds to requests over https. It works below redirects, so each hop
// gets those of its own origin and no other.
type authTransport struct {
	http.RoundTripper
	sources []authSource // of several, the first with something for a URL counts
}

// An authSource is one item of GOAUTH.
type authSource interface {
	// header returns what to add to a request for u, or nil.
	header(ctx context.Context, u *url.URL) (http.Header, error)

	// refresh is called with a refusal. It reports whether header now has something else to say, once for each place.
	refresh(ctx context.Context, u *url.URL, refusal *http.Response) (bool, error)
}

const (
	authTimeout = time.Minute
	maxAuth     = 1 << 20 // bytes of a netrc file or a command's output
)

// withAuth wraps a client's transport with the credentials of a GOAUTH setting.
func withAuth(client *http.Client, env GoEnv) (*http.Client, error) {
	var sources []authSource
	items := strings.Split(env.GOAUTH, ";")
	for _, item := range items {
		item = strings.TrimSpace(item)
		words, err := splitQuoted(item)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%s: malformed command %q: %w", env.cite("GOAUTH"), item, err)
		case len(words) == 0:
		case item == "off":
			if len(items) > 1 {
				return nil, fmt.Errorf("%s: off stands alone, or not at all", env.cite("GOAUTH"))
			}
		case item == "netrc":
			sources = append(sources, &netrc{file: env.NETRC})
		case words[0] == "git":
			if len(words) != 2 || !filepath.IsAbs(words[1]) {
				return nil, fmt.Errorf("%s: %q: want git and one absolute directory", env.cite("GOAUTH"), item)
			}
			sources = append(sources, &gitAuth{dir: words[1]})
		default:
			sources = append(sources, &commandAuth{words: words})
		}
	}
	if sources == nil {
		return client, nil
	}
	c := *client
	if c.Transport == nil {
		c.Transport = http.DefaultTransport
	}
	c.Transport = &authTransport{c.Transport, sources}
	return &c, nil
}

// RoundTrip sends the request with what is known for its URL. After a refusal it asks the sources again, and the server once
// more if they have an answer: a 404 counts as a refusal too, because that is how many servers hide what is private.
func (t *authTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" || req.Header.Get("Authorization") != "" {
		return t.RoundTripper.RoundTrip(req)
	}
	resp, err := t.send(req)
	if err != nil || resp.StatusCode < 400 || resp.StatusCode >= 500 {
		return resp, err
	}
	for _, s := range t.sources {
		again, err := s.refresh(req.Context(), req.URL, resp)
		if err != nil {
			resp.Body.Close()
			return nil, err
		}
		if again {
			resp.Body.Close()
			return t.send(req)
		}
	}
	return resp, nil
}

func (t *authTransport) send(req *http.Request) (*http.Response, error) {
	for _, s := range t.sources {
		h, err := s.header(req.Context(), req.URL)
		if err != nil {
			return nil, err
		}
		if h != nil {
			req = req.Clone(req.Context())
			maps.Copy(req.Header, h)
			break
		}
	}
	return t.RoundTripper.RoundTrip(req)
}

// forURL finds the entry for the longest prefix of u, in whole path elements, among keys of host and path.
func forURL(known map[string]http.Header, u *url.URL) http.Header {
	for key := path.Join(u.Host, u.Path); ; key = path.Dir(key) {
		if h, ok := known[key]; ok {
			return h
		}
		if !strings.Contains(key, "/") {
			return nil
		}
	}
}

func basicAuth(user, password string) http.Header {
	r := http.Request{Header: make(http.Header)}
	r.SetBasicAuth(user, password)
	return r.Header
}

// netrc holds the machines of a netrc file.
type netrc struct {
	file string // "" is the user's

	once  sync.Once
	known map[string]http.Header
	err   error
}

func (n *netrc) header(_ context.Context, u *url.URL) (http.Header, error) {
	n.once.Do(func() {
		name := n.file
		if name == "" {
			home, err := os.UserHomeDir()
			if err != nil {
				return // no home, no file
			}
			name = filepath.Join(home, ".netrc")
			if runtime.GOOS == "windows" && !exists(name) {
				name = filepath.Join(home, "_netrc")
			}
		}
		f, err := os.Open(name)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				n.err = failf(ErrForbidden, "reading credentials: %v", err)
			}
			return
		}
		defer f.Close()
		data, err := io.ReadAll(io.LimitReader(f, maxAuth))
		if err != nil {
			n.err = failf(ErrForbidden, "reading credentials: %v", err)
		}
		n.known = parseNetrc(string(data))
	})
	return n.known[u.Host], n.err
}

func (n *netrc) refresh(context.Context, *url.URL, *http.Response) (bool, error) { return false, nil }

// parseNetrc reads machine, login and password tokens. The first complete entry for a machine counts; default entries,
// which would send a password to anybody, and macros are passed over.
func parseNetrc(data string) map[string]http.Header {
	known := make(map[string]http.Header)
	var machine, login, password string
	macro := false
	for line := range strings.Lines(data) {
		if macro {
			macro = strings.TrimSpace(line) != "" // a macro ends with an empty line
			continue
		}
		f := strings.Fields(line)
		for i := 0; i < len(f); i += 2 {
			if f[i] == "default" {
				machine = ""
				i-- // it has no value
				continue
			}
			if i+1 == len(f) {
				break
			}
			switch f[i] {
			case "machine":
				machine, login, password = f[i+1], "", ""
			case "login":
				login = f[i+1]
			case "password":
				password = f[i+1]
			case "macdef":
				macro = true
			}
			if machine != "" && login != "" && password != "" {
				if _, ok := known[machine]; !ok {
					known[machine] = basicAuth(login, password)
				}
				machine = ""
			}
		}
	}
	return known
}

// gitAuth asks git's credential helpers, but only for a host that has refused a request.
type gitAuth struct {
	dir string

	mu    sync.Mutex // guards the following; held while git runs, so that a person is asked once
	asked map[string]bool
	known map[string]http.Header
}

func (g *gitAuth) header(_ context.Context, u *url.URL) (http.Header, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.known[u.Host], nil
}

func (g *gitAuth) refresh(ctx context.Context, u *url.URL, _ *http.Response) (bool, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.asked[u.Host] {
		return false, nil
	}
	if g.asked == nil {
		g.asked, g.known = make(map[string]bool), make(map[string]http.Header)
	}
	g.asked[u.Host] = true
	out, err := runAuth(ctx, g.dir, fmt.Sprintf("protocol=https\nhost=%s\npath=%s\n\n", u.Host, strings.TrimPrefix(u.Path, "/")),
		"git", "credential", "fill")
	if err != nil {
		return false, nil // git knows nothing: the server's refusal says more
	}
	values := make(map[string]string)
	for line := range strings.Lines(out) {
		key, value, _ := strings.Cut(strings.TrimRight(line, "\r\n"), "=")
		values[key] = value
	}
	if values["username"] == "" || values["password"] == "" {
		return false, nil
	}
	g.known[u.Host] = basicAuth(values["username"], values["password"])
	return true, nil
}

// commandAuth runs a program that prints headers for URLs.
type commandAuth struct {
	words []string

	mu    sync.Mutex // guards the following; held while the command runs
	begun bool
	asked map[string]bool // by URL
	known map[string]http.Header
}

func (c *commandAuth) header(ctx context.Context, u *url.URL) (http.Header, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.begun {
		known, err := c.run(ctx, "")
		if err != nil {
			return nil, err
		}
		c.begun, c.known, c.asked = true, known, make(map[string]bool)
	}
	return forURL(c.known, u), nil
}

func (c *commandAuth) refresh(ctx context.Context, u *url.URL, refusal *http.Response) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asked[u.String()] {
		return false, nil
	}
	c.asked[u.String()] = true
	head, err := httputil.DumpResponse(refusal, false)
	if err != nil {
		return false, err
	}
	before := forURL(c.known, u)
	known, err := c.run(ctx, string(head), u.String())
	if err != nil {
		return false, err
	}
	maps.Copy(c.known, known)
	after := forURL(c.known, u)
	return after != nil && !maps.EqualFunc(before, after, func(a, b []string) bool { return strings.Join(a, "\n") == strings.Join(b, "\n") }), nil
}

// run runs the command and reads groups of URLs and headers, each ended by an empty line.
func (c *commandAuth) run(ctx context.Context, stdin string, args ...string) (map[string]http.Header, error) {
	out, err := runAuth(ctx, "", stdin, c.words[0], append(c.words[1:len(c.words):len(c.words)], args...)...)
	if err != nil {
		return nil, failf(ErrForbidden, "the GOAUTH command %s failed: %v", c.words[0], err)
	}
	known := make(map[string]http.Header)
	r := textproto.NewReader(bufio.NewReader(strings.NewReader(out)))
	for {
		var keys []string
		line, err := r.ReadLine()
		if err == io.EOF {
			return known, nil
		}
		for ; err == nil && line != ""; line, err = r.ReadLine() {
			u, urlErr := url.Parse(line)
			if urlErr != nil || u.Scheme != "https" || u.Host == "" {
				return nil, failf(ErrForbidden, "the GOAUTH command %s printed a line that is no https URL where one should be", c.words[0])
			}
			keys = append(keys, path.Join(u.Host, u.Path))
		}
		header, headerErr := r.ReadMIMEHeader()
		if err != nil || headerErr != nil && headerErr != io.EOF {
			return nil, failf(ErrForbidden, "the GOAUTH command %s printed no headers, or malformed ones, after its URLs", c.words[0])
		}
		for _, key := range keys {
			known[key] = http.Header(header)
		}
	}
}

// runAuth runs a program that knows secrets. Its output is in no error.
func runAuth(ctx context.Context, dir, stdin, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, authTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_TERMINAL_PROMPT=0")
	cmd.Stdin = strings.NewReader(stdin)
	cmd.WaitDelay = time.Second
	var out limitedBuffer
	cmd.Stdout = &out
	if err := cmd.Run(); err != nil {
		return "", err
	}
	return out.String(), nil
}
