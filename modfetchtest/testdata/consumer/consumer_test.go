// Package consumer stands for a build tool outside of modfetch's own tree; these are its tests.
package consumer

import (
	"errors"
	"testing"
	"testing/fstest"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/modfetchtest"
	"golang.org/x/mod/module"
)

var world = fstest.MapFS{
	"example.com_greet_v1.0.0.txt": {Data: []byte(`
-- go.mod --
module example.com/greet

require example.com/word v1.2.0
-- greet.go --
package greet

import "example.com/word"

const Greeting = "hello, " + word.World
`)},
	"example.com_word_v1.2.0.txt": {Data: []byte(`
-- word.go --
package word

const World = "world"
`)},
	"corp.test_secret_v0.1.0.txt": {Data: []byte(`
-- secret.go --
package secret
`)},
}

var (
	greet  = module.Version{Path: "example.com/greet", Version: "v1.0.0"}
	word   = module.Version{Path: "example.com/word", Version: "v1.2.0"}
	secret = module.Version{Path: "corp.test/secret", Version: "v0.1.0"}
)

func newFetcher(t *testing.T, opts ...modfetch.Option) *modfetch.Fetcher {
	f, err := modfetch.New(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestModulesAreVerified(t *testing.T) {
	srv := modfetchtest.NewServer(t, world)
	f := newFetcher(t, srv.Options()...)
	for m, err := range f.Download(t.Context(), []module.Version{greet, word, secret}) {
		if err != nil || m.VerifiedBy == "" {
			t.Errorf("%s: %v, verified by %q", m.Version, err, m.VerifiedBy)
		}
	}
}

func TestCorruptMirrorIsPassedOver(t *testing.T) {
	bad := modfetchtest.NewServer(t, world)
	good := bad.Mirror()
	bad.Fault("*.zip", modfetchtest.Corrupt())
	f := newFetcher(t, modfetch.WithGOPROXY(bad.URL+"|"+good.URL), modfetch.WithSumDB(bad.GOSUMDB()))
	z, err := f.Zip(t.Context(), greet)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	if bad.Count("*.zip") != 1 || good.Count("*.zip") != 1 {
		t.Errorf("%d zips of the bad mirror, %d of the good one", bad.Count("*.zip"), good.Count("*.zip"))
	}
}

func TestForkedDatabaseIsCaught(t *testing.T) {
	srv := modfetchtest.NewServer(t, world)
	fork := srv.Fork()
	f := newFetcher(t, srv.Options()...)
	if _, err := f.GoMod(t.Context(), greet); err != nil {
		t.Fatal(err)
	}
	srv.Fault("/sumdb/*", modfetchtest.Handler(fork.ServeHTTP))
	if _, err := f.GoMod(t.Context(), word); !errors.Is(err, modfetch.ErrSecurity) {
		t.Errorf("error %v, want a security error", err)
	}
}

func TestPrivatePathIsNeverSent(t *testing.T) {
	public := modfetchtest.NewServer(t, world)
	private := public.Mirror()
	f := newFetcher(t, append(public.Options(), modfetch.WithRoute("corp.test", private.URL))...)
	for m, err := range f.Download(t.Context(), []module.Version{greet, secret}) {
		if err != nil {
			t.Errorf("%s: %v", m.Version, err)
		}
	}
	if public.Count("*corp.test*") > 0 || private.Count("*corp.test*") == 0 {
		t.Errorf("the public mirror saw %q", public.Requests())
	}
}
