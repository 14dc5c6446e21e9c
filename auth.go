package modfetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"github.com/modfetch/modfetch/internal/flight"
)

// An authTransport adds the credentials that GOAUTH finds to requests over https. It works below redirects, so that a hop
// gets what belongs to its own URL; one that leaves the origin that was asked gets nothing, and asks no source: a mirror
// must not be able to send us elsewhere in the user's name.
type authTransport struct {
	http.RoundTripper
	sources []*authSource
}

// An authSource is one item of GOAUTH and what it has answered.
type authSource struct {
	authAsker
	byHost bool // one question at a time for each host; else for each URL

	questions flight.Group[string, struct{}]

	mu    sync.Mutex // guards the following
	begun bool
	known map[string]http.Header // by prefix of URLs: host, or host/path
}

// withAuth wraps a client's transport with the credentials of a GOAUTH setting. Items are not quoted in errors: the
// arguments of a command may be secrets.
func withAuth(client *http.Client, env GoEnv) (*http.Client, error) {
	if env.GOAUTH == "" {
		return client, nil
	}
	t := &authTransport{}
	items := strings.Split(env.GOAUTH, ";")
	for i, item := range items {
		refuse := func(why string) (*http.Client, error) {
			return nil, fmt.Errorf("%s: item %d %s", env.cite("GOAUTH"), i+1, why)
		}
		words, err := splitQuoted(item)
		switch {
		case err != nil:
			return refuse("has a quote that is never closed")
		case len(words) == 0:
			return refuse("is empty; want off, netrc, git and a directory, or a command")
		case words[0] == "off":
			if len(items) > 1 {
				return refuse("is off, which stands alone or not at all")
			}
			return client, nil
		case words[0] == "netrc":
			t.sources = append(t.sources, &authSource{authAsker: netrcFile(env.NETRC)})
		case words[0] == "git":
			if len(words) != 2 || !filepath.IsAbs(words[1]) {
				return refuse("is git; want one absolute directory after it, in which git is run")
			}
			t.sources = append(t.sources, &authSource{authAsker: &gitAuth{dir: words[1]}, byHost: true})
		default:
			t.sources = append(t.sources, &authSource{authAsker: commandAuth(words)})
		}
	}
	c := *client
	if t.RoundTripper = c.Transport; c.Transport == nil {
		t.RoundTripper = http.DefaultTransport
	}
	c.Transport = t
	return &c, nil
}

// RoundTrip sends the request with what is known for its URL. After a refusal it asks the sources, and the server once more
// if that brought something new. A 404 is a refusal too, because that is how many servers hide what is private.
//
// A source that fails is no reason not to ask the server; but what the server then refuses is not absent.
func (t *authTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if anonymous := req.Context().Value(anonymousKey{}) != nil; anonymous || req.URL.Scheme != "https" || req.Header.Get("Authorization") != "" || !atFirstOrigin(req) {
		return t.RoundTripper.RoundTrip(req)
	}
	ctx := req.Context()
	for _, s := range t.sources {
		if err := s.begin(ctx); err != nil {
			return nil, err
		}
	}
	used := t.find(req.URL)
	resp, err := t.send(req, used)
	if err != nil || !refused(resp) {
		return resp, err
	}
	var failures []error
	if now := t.find(req.URL); now.header == nil || now.same(used) { // else another request has asked meanwhile
		for _, s := range t.sources {
			if err := s.refresh(ctx, req.URL, resp); err != nil {
				failures = append(failures, err)
			}
		}
	}
	if ctx.Err() != nil {
		resp.Body.Close()
		return nil, context.Cause(ctx)
	}
	if now := t.find(req.URL); now.header != nil && !now.same(used) {
		io.CopyN(io.Discard, resp.Body, maxDetail) // a body read to its end leaves the connection usable
		resp.Body.Close()
		resp, err = t.send(req, now)
		if err != nil || !refused(resp) {
			return resp, err
		}
	}
	if failures != nil {
		resp.Body.Close()
		return nil, failf(ErrForbidden, "%d %s; credentials may be missing: %v",
			resp.StatusCode, http.StatusText(resp.StatusCode), errors.Join(failures...))
	}
	return resp, nil
}

// anonymousKey is the context key of requests that are sent without the credentials of GOAUTH.
type anonymousKey struct{}

// knows reports whether there is a credential for u, as far as a source tells without having been refused.
func (t *authTransport) knows(ctx context.Context, u *url.URL) bool {
	known := 0
	for _, s := range t.sources {
		if s.begin(ctx) != nil {
			return true // who has left is answered nothing
		}
		s.mu.Lock()
		known += len(s.known)
		s.mu.Unlock()
	}
	return known > 0 && u.Scheme == "https" && t.find(u).header != nil
}

// refused reports whether credentials could have led to another answer. 408 and 429 are about time.
func refused(resp *http.Response) bool {
	switch code := resp.StatusCode; code {
	case http.StatusRequestTimeout, http.StatusTooManyRequests:
		return false
	default:
		return code >= 400 && code < 500
	}
}

// A credential is what a source knows for a URL; the zero value is nothing.
type credential struct {
	source *authSource
	prefix string
	header http.Header
}

func (c credential) same(d credential) bool {
	return c.source == d.source && maps.EqualFunc(c.header, d.header, func(a, b []string) bool {
		return strings.Join(a, "\n") == strings.Join(b, "\n")
	})
}

// find looks for the longest prefix of u, in whole path elements. Of sources that know the same prefix the first counts.
func (t *authTransport) find(u *url.URL) credential {
	for prefix := path.Join(u.Host, u.Path); ; prefix = path.Dir(prefix) {
		for _, s := range t.sources {
			s.mu.Lock()
			header := s.known[prefix]
			s.mu.Unlock()
			if header != nil {
				return credential{s, prefix, header}
			}
		}
		if !strings.Contains(prefix, "/") {
			return credential{}
		}
	}
}

// send sends a request with c, and tells git what became of it.
func (t *authTransport) send(req *http.Request, c credential) (*http.Response, error) {
	if c.header == nil {
		return t.RoundTripper.RoundTrip(req)
	}
	req = req.Clone(req.Context())
	for name, values := range c.header {
		req.Header[name] = append(req.Header[name], values...)
	}
	logSent(req)
	resp, err := t.RoundTripper.RoundTrip(req)
	if g, ok := c.source.authAsker.(*gitAuth); ok && err == nil {
		switch {
		case resp.StatusCode < 300:
			g.settle(req.Context(), req.URL.Host, c.header, "approve")
		case resp.StatusCode == http.StatusUnauthorized:
			c.source.forget(c)
			g.settle(req.Context(), req.URL.Host, c.header, "reject")
		}
	}
	return resp, err
}

// begin asks for what is known without a URL, once. A failure is not told here: it matters to who is refused, and then the
// source is asked again.
func (s *authSource) begin(ctx context.Context) error {
	s.mu.Lock()
	begun := s.begun
	s.mu.Unlock()
	if begun {
		return nil
	}
	s.questions.Do(ctx, "", func(ctx context.Context) (v struct{}, _ error) {
		s.mu.Lock()
		begun := s.begun // by a call that ended a moment ago
		s.mu.Unlock()
		if begun {
			return v, nil
		}
		found, _ := s.ask(ctx, nil, nil)
		s.learn(found)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.begun = ctx.Err() == nil
		return v, nil
	})
	return context.Cause(ctx)
}

// refresh asks about a refused URL, without its query, which may be a secret and would be seen in a list of processes.
func (s *authSource) refresh(ctx context.Context, u *url.URL, refusal *http.Response) error {
	u = &url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}
	key := u.String()
	if s.byHost {
		key = u.Host
	}
	_, err := s.questions.Do(ctx, key, func(ctx context.Context) (v struct{}, _ error) {
		found, err := s.ask(ctx, u, refusal)
		s.learn(found)
		return v, err
	})
	return err
}

// learn keeps what a source has found; an empty header takes back what it has found before.
func (s *authSource) learn(found map[string]http.Header) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known == nil {
		s.known = make(map[string]http.Header)
	}
	for prefix, header := range found {
		if s.known[prefix] = header; len(header) == 0 {
			delete(s.known, prefix)
		}
	}
}

// forget drops c, unless something else is known by now.
func (s *authSource) forget(c credential) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.same(credential{s, c.prefix, s.known[c.prefix]}) {
		delete(s.known, c.prefix)
	}
}
