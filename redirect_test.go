package modfetch_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/modfetch/modfetch"
)

// A listServer answers every request with a list of versions, or with a redirect.
type listServer struct {
	*httptest.Server
	redirect    string // URL; "" for an answer
	connections atomic.Int32
	requests    atomic.Int32
}

func newListServer(t testing.TB) *listServer {
	s := new(listServer)
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		if s.redirect != "" && !strings.HasSuffix(r.URL.Path, "/self") {
			http.Redirect(w, r, s.redirect, http.StatusFound)
			return
		}
		io.WriteString(w, "v1.0.0\n")
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.connections.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// port returns the end of s's addresses, by which tests tell servers apart: all of them are on loopback.
func (s *listServer) port() string { return s.URL[strings.LastIndexByte(s.URL, ':'):] }

func (s *listServer) is(a netip.AddrPort) bool { return strings.HasSuffix(a.String(), s.port()) }

func direct(*http.Request) (*url.URL, error) { return nil, nil }

func listFetcher(t testing.TB, list string, opts ...modfetch.Option) *modfetch.Fetcher {
	t.Helper()
	f, err := modfetch.New(append(opts, modfetch.WithGOPROXY(list), modfetch.WithSumDB("off"))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestMirrorOutsideDoesNotReachInside(t *testing.T) {
	for name, c := range map[string]struct {
		mirrorInside bool
		target       string // of the redirect; PORT is that of the server
		between      bool   // another public server comes between
		idle         bool   // there is an idle connection to the target
		targetPublic bool
		reached      bool
	}{
		"by address":         {target: "http://127.0.0.1PORT/x"},
		"by name":            {target: "http://localhostPORT/x"},
		"by mapped address":  {target: "http://[::ffff:127.0.0.1]PORT/x"},
		"second hop":         {target: "http://127.0.0.1PORT/x", between: true},
		"idle connection":    {target: "http://127.0.0.1PORT/x", idle: true},
		"from inside":        {target: "http://127.0.0.1PORT/x", mirrorInside: true, reached: true},
		"from inside, twice": {target: "http://127.0.0.1PORT/x", mirrorInside: true, between: true, reached: true},
		"to outside":         {target: "http://127.0.0.1PORT/x", targetPublic: true, reached: true},
	} {
		t.Run(name, func(t *testing.T) {
			mirror, between, target := newListServer(t), newListServer(t), newListServer(t)
			mirror.redirect = strings.ReplaceAll(c.target, "PORT", target.port())
			if c.between {
				mirror.redirect, between.redirect = between.URL, mirror.redirect
			}
			f := listFetcher(t, mirror.URL, modfetch.WithRoute("warm.test", target.URL))
			modfetch.SetNetwork(f, func(a netip.AddrPort) bool {
				return mirror.is(a) && c.mirrorInside || target.is(a) && !c.targetPublic
			}, direct)
			if c.idle {
				if _, err := f.Versions(t.Context(), "warm.test/m"); err != nil {
					t.Fatal(err)
				}
			}
			connections, requests := target.connections.Load(), target.requests.Load()
			got, err := f.Versions(t.Context(), "example.com/m")
			if c.reached {
				if err != nil || len(got) != 1 {
					t.Errorf("got %q, %v", got, err)
				}
				return
			}
			if !errors.Is(err, modfetch.ErrSecurity) || !strings.Contains(err.Error(), "redirect to a server inside") ||
				!strings.Contains(err.Error(), "WithHTTPClient") {
				t.Errorf("got %q, %v; want a refusal", got, err)
			}
			if n := target.connections.Load() - connections; n > 0 {
				t.Errorf("%d connections to the server inside", n)
			}
			if n := target.requests.Load() - requests; n > 0 {
				t.Errorf("%d requests to the server inside", n)
			}
		})
	}
}

// A name that points inside only once it has been trusted is caught, because each address is looked at before it is dialled.
func TestMirrorOutsideDoesNotReachInsideByRebinding(t *testing.T) {
	mirror := newListServer(t)
	mirror.redirect = "/self"
	f := listFetcher(t, strings.Replace(mirror.URL, "127.0.0.1", "localhost", 1))
	var rebound atomic.Bool
	modfetch.SetNetwork(f, func(netip.AddrPort) bool { return rebound.Swap(true) }, direct)
	if got, err := f.Versions(t.Context(), "example.com/m"); !errors.Is(err, modfetch.ErrSecurity) || mirror.requests.Load() != 1 {
		t.Errorf("got %q, %v after %d requests; want a refusal after the first", got, err, mirror.requests.Load())
	}
}

func TestRedirectsThroughAProxy(t *testing.T) {
	for name, c := range map[string]struct {
		target  string
		reached bool
	}{
		"proxied to proxied": {"http://other.test/x", true},
		"proxied to inside":  {"http://127.0.0.1PORT/x", false},
	} {
		t.Run(name, func(t *testing.T) {
			inside, proxy := newListServer(t), newListServer(t)
			proxy.redirect = strings.ReplaceAll(c.target, "PORT", inside.port())
			var mu sync.Mutex
			var asked []string
			handler := proxy.Config.Handler
			proxy.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				asked = append(asked, r.Host)
				mu.Unlock()
				if r.Host == "other.test" {
					r.URL.Path = "/self"
				}
				handler.ServeHTTP(w, r)
			})
			f := listFetcher(t, "http://mirror.test")
			modfetch.SetNetwork(f, func(netip.AddrPort) bool { return true }, func(r *http.Request) (*url.URL, error) {
				if strings.HasSuffix(r.URL.Hostname(), ".test") {
					return url.Parse(proxy.URL)
				}
				return nil, nil
			})
			got, err := f.Versions(t.Context(), "example.com/m")
			if c.reached != (err == nil) || !c.reached && !errors.Is(err, modfetch.ErrSecurity) {
				t.Errorf("got %q, %v by %q; want success: %t", got, err, asked, c.reached)
			}
			if inside.connections.Load() > 0 {
				t.Error("the server inside was reached")
			}
		})
	}
}

func TestMalformedProxyIsNotQuoted(t *testing.T) {
	f := listFetcher(t, "http://mirror.test")
	modfetch.SetNetwork(f, func(netip.AddrPort) bool { return false }, func(*http.Request) (*url.URL, error) {
		malformed := strings.ReplaceAll("http://user:s3cret_zz@proxy.test", "_", "%")
		_, err := url.Parse(malformed)
		return nil, fmt.Errorf("invalid proxy address %w", err)
	})
	_, err := f.Versions(t.Context(), "example.com/m")
	if !errors.Is(err, modfetch.ErrForbidden) || !strings.Contains(err.Error(), "HTTPS_PROXY") || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("error %v, want one that names the setting and not its value", err)
	}
}

func TestMalformedRedirectIsNotQuoted(t *testing.T) {
	mirror := newListServer(t)
	mirror.redirect = "http://other.test/%zz?token=s3cret"
	f := listFetcher(t, mirror.URL)
	if _, err := f.Versions(t.Context(), "example.com/m"); !errors.Is(err, modfetch.ErrCorrupt) || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("error %v, want one that does not repeat the URL", err)
	}
}

func TestWhatIsInside(t *testing.T) {
	for addr, want := range map[string]bool{
		"127.0.0.1": true, "127.8.9.1": true, "::1": true, "::ffff:127.0.0.1": true, // loopback
		"10.1.2.3": true, "172.16.0.1": true, "172.31.255.255": true, "192.168.1.1": true, "fd00::1": true, "::ffff:10.0.0.1": true, // private
		"169.254.169.254": true, "fe80::1%eth0": true, "fe80::1": true, "fec0::1": true, // link-local, site-local
		"0.0.0.0": true, "0.0.0.1": true, "::": true, "255.255.255.255": true, "224.0.0.1": true, "ff02::1": true,
		"100.64.0.1": true, "100.127.255.255": true, "::ffff:100.64.0.1": true, // carrier-grade NAT
		"64:ff9b::7f00:1": true, "64:ff9b::a00:1": true, "64:ff9b::808:808": false,
		"8.8.8.8": false, "100.63.0.1": false, "100.128.0.1": false, "172.32.0.1": false, "192.0.2.1": false, "198.18.0.7": false,
		"2606:4700::1111": false, "::ffff:8.8.8.8": false,
	} {
		if got := modfetch.Inside(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s is inside: %t, want %t", addr, got, want)
		}
	}
}
