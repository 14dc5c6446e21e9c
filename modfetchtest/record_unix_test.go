//go:build unix

package modfetchtest_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/modfetchtest"
)

// TestReplayOpensNoFIFO would wait for a writer, whatever the context says.
func TestReplayOpensNoFIFO(t *testing.T) {
	dir := t.TempDir()
	record(t, dir, &answers{})
	name := filepath.Join(dir, "1/a.test/@v/list")
	if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(name, 0o666); err != nil {
		t.Skip(err)
	}
	f, err := modfetch.New(modfetch.WithMirrors(replay(t, dir)), modfetch.WithSumDB(modfetchtest.NewServer(t, nil).GOSUMDB()))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := f.Versions(t.Context(), "a.test")
		done <- err
	}()
	select {
	case err = <-done:
	case <-time.After(10 * time.Second):
		w, _ := os.OpenFile(name, os.O_WRONLY, 0)
		w.Close()
		t.Error("it has been opened")
		err = <-done
	}
	if err == nil {
		t.Error("a FIFO was taken for a list")
	}
}
