package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/modfetchtest"
)

func TestRun(t *testing.T) {
	srv := modfetchtest.NewServer(t, nil)
	srv.Add(modfetchtest.NewModule("example.com/m", "v1.0.0").File("m.go", "package m\n"))
	env := modfetch.GoEnv{GOPROXY: srv.URL, GOSUMDB: srv.GOSUMDB(), GOMODCACHE: t.TempDir(), GOFLAGS: "-modcacherw"}
	var out bytes.Buffer
	if err := run(t.Context(), env, []string{"example.com/m@v1.0.0"}, &out); err != nil {
		t.Fatal(err)
	}
	want := "example.com/m@v1.0.0\t" + filepath.Join(env.GOMODCACHE, "example.com", "m@v1.0.0") + "\tverified by sumdb-"
	if !strings.HasPrefix(out.String(), want) {
		t.Errorf("printed %q, want it to begin with %q", out.String(), want)
	}
}
