// Package offlinetest shows how a program that fetches modules is tested without a network.
package offlinetest

import (
	"errors"
	"testing"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/modfetchtest"
	"golang.org/x/mod/module"
)

func TestCorruptMirrorIsPassedOver(t *testing.T) {
	m := module.Version{Path: "example.com/m", Version: "v1.0.0"}
	good := modfetchtest.NewServer(t, nil)
	good.Add(modfetchtest.NewModule(m.Path, m.Version).File("m.go", "package m\n"))
	bad := good.Mirror()
	bad.Fault("*.zip", modfetchtest.Corrupt())

	f, err := modfetch.New(modfetch.WithGOPROXY(bad.URL+"|"+good.URL), modfetch.WithSumDB(good.GOSUMDB()))
	if err != nil {
		t.Fatal(err)
	}
	z, err := f.Zip(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	z.Close()
}

func TestCorruptMirrorAloneIsAnError(t *testing.T) {
	srv := modfetchtest.NewServer(t, nil)
	srv.Add(modfetchtest.NewModule("example.com/m", "v1.0.0").File("m.go", "package m\n"))
	srv.Fault("*.zip", modfetchtest.Corrupt())
	f, err := modfetch.New(srv.Options()...)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Zip(t.Context(), module.Version{Path: "example.com/m", Version: "v1.0.0"})
	var sum *modfetch.ChecksumError
	if !errors.As(err, &sum) || sum.Mirror != srv.URL {
		t.Errorf("error %v, want a checksum mismatch that names %s", err, srv.URL)
	}
}
