package modfetch

import (
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"time"
)

// TreatAsPublic makes the Fetcher take its checksum database for the public one, whose key no test has.
func TreatAsPublic(f *Fetcher) { f.db.public = true }

// Hurry makes retries all but immediate, for all Fetchers of the test binary.
func Hurry() { retryPause = time.Millisecond }

// SetNetwork decides which addresses a Fetcher's own client takes for inside, and through which proxies it goes.
func SetNetwork(f *Fetcher, inside func(netip.AddrPort) bool, proxy func(*http.Request) (*url.URL, error)) {
	t := f.routes.tiers[0].mirrors[0].(*httpMirror).client.Transport.(guardTransport).transport.(*ownTransport)
	t.inside = inside
	t.Proxy = proxy
}

// Inside is what decides without SetNetwork.
func Inside(a netip.Addr) bool { return inside(netip.AddrPortFrom(a, 443)) }

// ParseUnfinished returns the size of a file that was set aside, and what is missing of it.
func ParseUnfinished(r io.ReaderAt, length int64) (size int64, missing [][2]int64, err error) {
	u, err := parseUnfinished(r, length)
	for _, gap := range u.missing() {
		missing = append(missing, [2]int64{gap.from, gap.to})
	}
	return u.size, missing, err
}

// Parsers of foreign text.
var (
	ParseNetrc = parseNetrc
	ParseAuth  = parseAuth
)
