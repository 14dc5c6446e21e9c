package modfetch

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-cleanhttp"
)

// An ownTransport is the transport of a client that no caller has given. Where a mirror was reached at a public address, or
// through a proxy, it follows redirects to public addresses only: a mirror must not be able to reach servers inside
// through us. What goes through a proxy is for the proxy to check.
type ownTransport struct {
	*http.Transport
	public *http.Transport // for such redirects: with idle connections of its own
	inside func(netip.AddrPort) bool

	mu    sync.Mutex // guards lanes
	lanes map[int]*ownTransport
}

// laneKey is that of a request's lane in its context.
type laneKey struct{}

// lane returns the transport of a lane: over HTTP/2 all requests to a host share one connection of a transport.
func (t *ownTransport) lane(ctx context.Context) *ownTransport {
	n, _ := ctx.Value(laneKey{}).(int)
	if n == 0 {
		return t
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lanes[n] == nil {
		if t.lanes == nil {
			t.lanes = make(map[int]*ownTransport)
		}
		t.lanes[n] = &ownTransport{Transport: t.Transport.Clone(), public: t.public.Clone()}
	}
	return t.lanes[n]
}

// newHTTPClient returns a client made for hundreds of small requests to few hosts.
func newHTTPClient() *http.Client {
	t := &ownTransport{inside: inside}
	t.Transport = newTransport(nil)
	t.public = newTransport(t.refuseInside)
	return &http.Client{Transport: t}
}

func newTransport(control func(context.Context, string, string, syscall.RawConn) error) *http.Transport {
	t := cleanhttp.DefaultPooledTransport()
	t.DialContext = (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second, ControlContext: control}).DialContext
	t.MaxIdleConnsPerHost = t.MaxIdleConns
	t.MaxResponseHeaderBytes = maxHeader
	t.ResponseHeaderTimeout = headerTimeout // of each try, where the engine bounds all of them
	return t
}

// A reach is how the first request of a chain of redirects reached its server. The context of each request of the chain
// carries it to the next.
type reach struct{ inside bool }

type reachKey struct{}

func (t *ownTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	proxy, err := t.Proxy(req)
	if err != nil {
		// The cause quotes the setting, password and all.
		return nil, failf(ErrForbidden, "no request to %s is possible: the proxy that HTTPS_PROXY or HTTP_PROXY names is not a URL "+
			"such as http://proxy.example:8080; special characters in its password have to be escaped", req.URL.Host)
	}
	lane := t.lane(req.Context())
	ctx, transport, r := req.Context(), lane.Transport, new(reach)
	switch {
	case req.Response != nil:
		r = req.Response.Request.Context().Value(reachKey{}).(*reach)
		if !r.inside && proxy == nil {
			transport = lane.public
		}
	case proxy == nil:
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
			a, err := netip.ParseAddrPort(info.Conn.RemoteAddr().String())
			r.inside = err == nil && t.inside(a)
		}})
	}
	return transport.RoundTrip(req.WithContext(context.WithValue(ctx, reachKey{}, r)))
}

// proxyFor returns the proxy that a request goes through, as far as the transport is one that tells.
func proxyFor(req *http.Request, transport http.RoundTripper) *url.URL {
	switch t := transport.(type) {
	case guardTransport:
		return proxyFor(req, t.transport)
	case *authTransport:
		return proxyFor(req, t.RoundTripper)
	case *ownTransport:
		return proxyFor(req, t.Transport)
	case *http.Transport:
		if t.Proxy != nil {
			proxy, _ := t.Proxy(req)
			return proxy
		}
	}
	return nil
}

// refuseInside is called with the address that a name has resolved to, before it is dialled.
func (t *ownTransport) refuseInside(_ context.Context, _, address string, _ syscall.RawConn) error {
	if a, err := netip.ParseAddrPort(address); err != nil || t.inside(a) {
		return failf(ErrSecurity, "refused: a mirror outside may not redirect to a server inside; if this one is meant to, "+
			"give an http.Client of your own by WithHTTPClient")
	}
	return nil
}

func (t *ownTransport) CloseIdleConnections() {
	t.Transport.CloseIdleConnections()
	t.public.CloseIdleConnections()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, lane := range t.lanes {
		lane.CloseIdleConnections()
	}
}

// inside reports whether an address is that of this machine or of a network that is not the Internet. 198.18.0.0/15 counts
// as outside: it is what tunnels answer for every public name.
func inside(a netip.AddrPort) bool {
	ip := a.Addr().Unmap()
	if nat64.Contains(ip) {
		b := ip.As16()
		ip = netip.AddrFrom4([4]byte(b[12:]))
	}
	return ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() ||
		thisNetwork.Contains(ip) || sharedNetwork.Contains(ip) || siteLocal.Contains(ip) || ip == broadcast
}

var (
	thisNetwork   = netip.MustParsePrefix("0.0.0.0/8")
	sharedNetwork = netip.MustParsePrefix("100.64.0.0/10") // carrier-grade NAT
	siteLocal     = netip.MustParsePrefix("fec0::/10")
	nat64         = netip.MustParsePrefix("64:ff9b::/96") // an IPv4 address behind it
	broadcast     = netip.AddrFrom4([4]byte{255, 255, 255, 255})
)

// guardClient copies a client and makes it follow redirects by our rules.
func guardClient(client *http.Client) (*http.Client, error) {
	if client.Timeout != 0 {
		return nil, fmt.Errorf("the http.Client has a Timeout of %s over the whole exchange, which would cut off large zips; "+
			"leave it zero, stalled transfers are ended anyway", client.Timeout)
	}
	c := *client
	if c.Transport == nil {
		c.Transport = http.DefaultTransport
	}
	c.Transport = guardTransport{c.Transport}
	c.CheckRedirect = checkRedirect
	return &c, nil
}

// A guardTransport hides a transport's CloseIdleConnections: go-retryablehttp calls it on every failed request, and one 404
// must not cost the connections that other requests would use next. It also keeps the cookies of a client's jar, which know
// neither ports nor subdomains, at the origin that was asked.
type guardTransport struct{ transport http.RoundTripper }

func (t guardTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Header.Get("Cookie") != "" && !atFirstOrigin(req) {
		req = req.Clone(req.Context())
		req.Header.Del("Cookie")
	}
	logSent(req)
	resp, err := t.transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if resp.Request == nil { // some transports leave that out
		resp.Request = req
	}
	// net/http would quote a malformed URL, as long as it is and with whatever secrets it repeats.
	if _, err := url.Parse(resp.Header.Get("Location")); err != nil && resp.StatusCode/100 == 3 {
		resp.Body.Close()
		return nil, failf(ErrCorrupt, "sent a malformed redirect")
	}
	return resp, nil
}

func checkRedirect(req *http.Request, via []*http.Request) error {
	origin := via[0].URL
	switch {
	case len(via) > maxRedirects:
		return failf(ErrCorrupt, "more than %d redirects", maxRedirects)
	case via[len(via)-1].URL.Scheme == "https" && req.URL.Scheme != "https":
		return failf(ErrSecurity, "refused a redirect from https to %s", printable(redact(req.URL)))
	}
	req.Header.Del("Referer")
	if req.URL.Scheme != origin.Scheme || req.URL.Host != origin.Host {
		req.Header.Del("Authorization")
	}
	return nil
}

// atFirstOrigin reports whether a request goes to the scheme, host and port that the chain of redirects began with.
func atFirstOrigin(req *http.Request) bool {
	first := req
	for first.Response != nil {
		if first = first.Response.Request; first == nil {
			return false // a transport that does not say
		}
	}
	return req.URL.Scheme == first.URL.Scheme && req.URL.Host == first.URL.Host
}
