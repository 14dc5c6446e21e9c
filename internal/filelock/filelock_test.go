//go:build darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd || windows

package filelock_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modfetch/modfetch/internal/filelock"
)

// lockName returns the name of a lock file that does not exist yet.
func lockName(t *testing.T) string { return filepath.Join(t.TempDir(), "lock") }

// hold takes a lock.
func hold(t *testing.T, name string) *os.File {
	t.Helper()
	f, err := filelock.Open(t.Context(), name, func() { t.Error("had to wait") })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestOpenExcludes(t *testing.T) {
	name := lockName(t)
	first := hold(t, name)
	waiting := make(chan bool)
	var held atomic.Bool
	held.Store(true)
	done := make(chan error, 1)
	go func() {
		second, err := filelock.Open(t.Context(), name, func() { close(waiting) }) // panics if called twice
		if err == nil && held.Load() {
			err = errors.New("locked while somebody else held the lock")
		}
		if second != nil {
			second.Close()
		}
		done <- err
	}()
	select {
	case <-waiting:
	case err := <-done:
		t.Fatal(err)
	}
	held.Store(false)
	first.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	hold(t, name)
}

func TestOneAtATime(t *testing.T) {
	name := lockName(t)
	var inside atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5 {
				f, err := filelock.Open(t.Context(), name, nil)
				if err != nil {
					t.Error(err)
					return
				}
				if n := inside.Add(1); n != 1 {
					t.Errorf("%d hold the lock", n)
				}
				runtime.Gosched()
				inside.Add(-1)
				f.Close()
			}
		})
	}
	wg.Wait()
}

func TestAWaitCanBeCancelled(t *testing.T) {
	cause := errors.New("the caller has left")
	for _, test := range []struct {
		name string
		wait func(ctx context.Context, name string, waiting func()) error
	}{
		{"Open", func(ctx context.Context, name string, waiting func()) error {
			_, err := filelock.Open(ctx, name, waiting)
			return err
		}},
		{"Read", func(ctx context.Context, name string, waiting func()) error {
			waiting()
			_, err := filelock.Read(ctx, name, 1<<20)
			return err
		}},
		{"Write", func(ctx context.Context, name string, waiting func()) error {
			waiting()
			return filelock.Write(ctx, name, []byte("new"))
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			name := lockName(t)
			f := hold(t, name)
			if err := filelock.Overwrite(f, []byte("old")); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			files := openFiles(t)
			var left time.Time
			err := test.wait(ctx, name, func() {
				left = time.Now()
				cancel(cause)
			})
			var path *fs.PathError
			if !errors.Is(err, cause) || !errors.As(err, &path) || path.Path != name {
				t.Errorf("error %v, want %v and the name of the file", err, cause)
			}
			if took := time.Since(left); took > time.Second {
				t.Errorf("returned %v after the cancellation", took)
			}
			if n := openFiles(t); n > files {
				t.Errorf("%d files are open, %d were before", n, files)
			}
			f.Close()
			hold(t, name).Close() // nobody else holds it now
			if data, err := filelock.Read(t.Context(), name, 1<<20); err != nil || string(data) != "old" {
				t.Errorf("content %q, %v", data, err)
			}
		})
	}
}

// openFiles returns the number of files this process has open, or 0 where that is not known.
func openFiles(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if errors.Is(err, fs.ErrNotExist) {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestReadAndWrite(t *testing.T) {
	name := lockName(t)
	if _, err := filelock.Read(t.Context(), name, 1<<20); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want fs.ErrNotExist", err)
	}
	if _, err := os.Stat(name); err == nil {
		t.Error("reading has created the file")
	}
	var before fs.FileInfo
	for _, text := range []string{"first", "", "a longer text than the first", "short", strings.Repeat("x", 1<<20), "last"} {
		if err := filelock.Write(t.Context(), name, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if data, err := filelock.Read(t.Context(), name, 1<<20); err != nil || string(data) != text {
			t.Errorf("read %.20q, %v; wrote %.20q", data, err, text)
		}
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if before != nil && !os.SameFile(info, before) {
			t.Error("the file was replaced by another")
		}
		before = info
	}
	for limit, want := range map[int64]string{0: "", 3: "las", 4: "last", 5: "last"} {
		if data, err := filelock.Read(t.Context(), name, limit); err != nil || string(data) != want {
			t.Errorf("read %q, %v with a limit of %d, want %q", data, err, limit, want)
		}
	}
	if err := filelock.Write(t.Context(), filepath.Join(name, "below"), nil); err == nil {
		t.Error("wrote below a file")
	}
}

func TestReadSeesWholeWrites(t *testing.T) {
	name := lockName(t)
	texts := [][]byte{bytes.Repeat([]byte("a"), 100_000), bytes.Repeat([]byte("b"), 60_000), {}}
	if err := filelock.Write(t.Context(), name, texts[0]); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for j := range 15 {
				if err := filelock.Write(t.Context(), name, texts[(i+j)%len(texts)]); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			for range 15 {
				data, err := filelock.Read(t.Context(), name, 1<<20)
				if err != nil || !bytes.Equal(data, texts[0]) && !bytes.Equal(data, texts[1]) && len(data) > 0 {
					t.Errorf("read %d bytes that nobody wrote together, %v", len(data), err)
				}
			}
		})
	}
	wg.Wait()
}

func TestOverwriteKeepsTheLock(t *testing.T) {
	name := lockName(t)
	f := hold(t, name)
	for _, text := range []string{"some text", "less", ""} {
		if err := filelock.Overwrite(f, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(name); err != nil || info.Size() != int64(len(text)) {
			t.Errorf("size %v, %v, want %d", info, err, len(text))
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := filelock.Open(ctx, name, cancel); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v: somebody else got the lock", err)
	}
}

func TestOpenOfWhatCannotBeOpened(t *testing.T) {
	for _, name := range []string{t.TempDir(), filepath.Join(t.TempDir(), "missing", "lock")} {
		if _, err := filelock.Open(t.Context(), name, nil); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
