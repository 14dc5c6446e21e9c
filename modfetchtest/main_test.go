package modfetchtest_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
)

// TestMain lets no test of this process reach anything but loopback addresses.
func TestMain(m *testing.M) {
	var strays atomic.Int32
	transport := http.DefaultTransport.(*http.Transport)
	transport.Proxy = nil
	transport.DialContext = (&net.Dialer{
		Resolver: &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
			strays.Add(1)
			return nil, errors.New("a test wants to resolve a name")
		}},
		Control: func(network, address string, _ syscall.RawConn) error {
			if ap, err := netip.ParseAddrPort(address); err != nil || !ap.Addr().IsLoopback() {
				strays.Add(1)
				return fmt.Errorf("a test wants to reach %s %s", network, address)
			}
			return nil
		},
	}).DialContext
	code := m.Run()
	if n := strays.Load(); n > 0 {
		fmt.Fprintf(os.Stderr, "%d attempts to leave loopback\n", n)
		code = 1
	}
	os.Exit(code)
}
