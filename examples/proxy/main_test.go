package main

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/modfetchtest"
	"golang.org/x/mod/module"
)

// TestOneMirrorBehindAnother fetches through the proxy as from any mirror, and looks up in the database behind it.
func TestOneMirrorBehindAnother(t *testing.T) {
	srv := modfetchtest.NewServer(t, nil)
	srv.Add(modfetchtest.NewModule("example.com/Upper", "v1.0.0").File("m.go", "package m\n"))
	upstream, err := modfetch.New(append(srv.Options(), modfetch.WithModCache(t.TempDir()), modfetch.WithGoEnv(modfetch.GoEnv{GOFLAGS: "-modcacherw"}))...)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httptest.NewServer(&modfetch.Handler{Fetcher: upstream})
	defer proxy.Close()

	f, err := modfetch.New(modfetch.WithGOPROXY(proxy.URL), modfetch.WithSumDB(srv.GOSUMDB()))
	if err != nil {
		t.Fatal(err)
	}
	m := module.Version{Path: "example.com/Upper", Version: "v1.0.0"}
	z, err := f.Zip(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	z.Close()
	if data, err := f.GoMod(t.Context(), m); err != nil || string(data) != "module example.com/Upper\n" {
		t.Errorf("go.mod %q, %v", data, err)
	}

	srv.Fault("*", modfetchtest.Status(500))
	for path, want := range map[string]int{
		"/example.com/none/@v/v1.0.0.zip":  http.StatusBadGateway,
		"/example.com/!upper/@v/list":      http.StatusBadGateway,
		"/example.com/Upper/@v/v1.0.0.zip": http.StatusNotFound, // not escaped
		"/example.com/!upper/@v/v1.0.0.md": http.StatusNotFound,
	} {
		resp, err := http.Get(proxy.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %d, want %d", path, resp.StatusCode, want)
		}
	}
}
