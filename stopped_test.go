//go:build darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd

package modfetch_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/internal/filelock"
	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/dirhash"
	"golang.org/x/sys/unix"
)

// The tests of this file show that nothing waits for ever, and that no wait outlives its caller: a lock may be held by a
// process that does not go on, and a name in a cache may be one that opening it would wait for somebody else.

const holdVar = "MODFETCH_TEST_HOLD"

// TestHoldInChild is not a test but the other process: it takes the locks named in the environment, says so, and keeps them.
func TestHoldInChild(t *testing.T) {
	names := filepath.SplitList(os.Getenv(holdVar))
	if len(names) == 0 {
		t.Skip("for the other tests")
	}
	for _, name := range names {
		f, err := filelock.Open(t.Context(), name, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
	}
	fmt.Println("held")
	select {}
}

// stopHolder starts a process that takes a lock on each of the named files, and stops it.
func stopHolder(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestHoldInChild$", "-test.v=false")
	cmd.Env = append(os.Environ(), holdVar+"="+strings.Join(names, string(filepath.ListSeparator)))
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(unix.SIGCONT)
		cmd.Process.Kill()
		cmd.Wait()
	})
	if said, err := bufio.NewReader(stdout).ReadString('\n'); said != "held\n" {
		t.Fatalf("the holder says %q, %v", said, err)
	}
	if err := cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(cmd.Process.Pid, &status, unix.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Fatalf("the holder has not stopped: %v, %v", status, err)
	}
}

// openFiles returns what this process has open, by descriptor.
func openFiles(t *testing.T) map[string]string {
	t.Helper()
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	open := make(map[string]string)
	for _, e := range entries {
		if file, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil { // not that of dir itself
			open[e.Name()] = file
		}
	}
	return open
}

// isOpen reports whether this process has a file open.
func isOpen(t *testing.T, file string) bool {
	t.Helper()
	file, err := filepath.EvalSymlinks(file)
	if err != nil {
		t.Fatal(err)
	}
	return slices.Contains(slices.Collect(maps.Values(openFiles(t))), file)
}

// awaitOpen waits until this process has a file open. It fails the test if the work that is to open it ends before.
func awaitOpen(t *testing.T, file string, done <-chan error) {
	t.Helper()
	for !isOpen(t, file) {
		select {
		case err := <-done:
			t.Fatalf("returned %v too early", err)
		default:
		}
	}
}

// endsWith cancels work, which must end within a second.
func endsWith(t *testing.T, cancel func(), done <-chan error) {
	t.Helper()
	left := time.Now()
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("error %v, want context.Canceled", err)
		}
	case <-time.After(20 * time.Second):
	}
	if took := time.Since(left); took > time.Second {
		t.Fatalf("no return within a second of the cancellation: %s", took)
	}
}

// TestStoppedHolder cancels calls that wait for a process that does not go on: a thousand of them behind the lock on a
// version, and some behind each of the others.
func TestStoppedHolder(t *testing.T) {
	if _, err := os.Stat("/proc/self/fd"); err != nil {
		t.Skip("this system does not tell what a process has open")
	}
	type call func(context.Context, *modfetch.Fetcher) error
	dir := func(ctx context.Context, f *modfetch.Fetcher) error { _, err := f.Dir(ctx, moduleM); return err }
	zip := func(ctx context.Context, f *modfetch.Fetcher) error {
		z, err := f.Zip(ctx, moduleM)
		if err == nil {
			z.Close()
		}
		return err
	}
	goMod := func(ctx context.Context, f *modfetch.Fetcher) error { _, err := f.GoMod(ctx, moduleM); return err }
	all := func(ctx context.Context, f *modfetch.Fetcher) (err error) {
		for _, e := range f.Download(ctx, []module.Version{moduleM}) {
			err = errors.Join(err, e)
		}
		return err
	}
	for _, test := range []struct {
		name  string
		file  string // below the module cache, or GOPATH
		times int
		calls []call
	}{
		{"version", "mod/" + cacheM + ".lock", 1000, []call{dir, zip, all}},
		{"recorded hash", "mod/" + cacheM + ".ziphash", 40, []call{dir, zip, all}},
		{"list", "mod/cache/download/example.com/m/@v/list", 40, []call{goMod, all}},
		{"tree head", "pkg/sumdb/DATABASE/latest", 40, []call{goMod, dir, zip, all}},
		{"tile", "mod/cache/download/sumdb/DATABASE/tile/8/0/000.p/4", 40, []call{goMod, dir, zip, all}},
		{"record", "mod/cache/download/sumdb/DATABASE/lookup/example.com/m@v1.0.0", 40, []call{goMod, dir, zip, all}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newWorld(t)
			env := modfetch.GoEnv{GOPATH: tempDir(t)}
			env.GOMODCACHE = filepath.Join(env.GOPATH, "mod")
			file := filepath.Join(env.GOPATH, strings.ReplaceAll(test.file, "DATABASE", databaseOf(s)))
			stopHolder(t, file)
			f, err := modfetch.New(append(s.Options(), modfetch.WithGoEnv(env))...)
			if err != nil {
				t.Fatal(err)
			}
			goroutines, before := runtime.NumGoroutine(), openFiles(t)
			for n := range test.times {
				// Once the file is there nobody waits for the list that it would change.
				os.Remove(filepath.Join(env.GOMODCACHE, cacheM+".mod"))
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- test.calls[n%len(test.calls)](ctx, f) }()
				awaitOpen(t, file, done) // to be locked
				endsWith(t, cancel, done)
				if isOpen(t, file) { // at once, before the garbage collector closes it
					t.Fatalf("call %d has left %s open", n, file)
				}
			}
			f.Close() // its idle connections
			deadline := time.Now().Add(10 * time.Second)
			for runtime.NumGoroutine() > goroutines || len(openFiles(t)) > len(before) {
				if runtime.Gosched(); time.Now().After(deadline) {
					t.Fatalf("%d goroutines, %d before; open files\n%v\nand before\n%v", runtime.NumGoroutine(), goroutines, openFiles(t), before)
				}
			}
			for _, name := range files(t, env.GOMODCACHE) {
				if strings.Contains(name, ".tmp") {
					t.Errorf("left %s", name)
				}
			}
		})
	}
}

// TestHashingATreeIsCancelled has a file in a tree that takes a day to be hashed.
func TestHashingATreeIsCancelled(t *testing.T) {
	if _, err := os.Stat("/proc/self/fd"); err != nil {
		t.Skip("this system does not tell what a process has open")
	}
	for name, call := range map[string]func(context.Context, *modfetch.Fetcher) error{
		"Verify": func(ctx context.Context, f *modfetch.Fetcher) error { _, err := f.Verify(ctx, moduleM); return err },
		"Dir":    func(ctx context.Context, f *modfetch.Fetcher) error { _, err := f.Dir(ctx, moduleM); return err },
	} {
		t.Run(name, func(t *testing.T) {
			s := newWorld(t)
			f, modCache := newFetcher(t, append(s.Options(), modfetch.WithPolicy(modfetch.Policy{Rehash: true}))...)
			download(t, f, moduleM)
			file := filepath.Join(modCache, treeM, "m.go")
			if err := errors.Join(os.Chmod(file, 0o666), os.Truncate(file, 1<<40)); err != nil {
				t.Skip("there can be no large files here:", err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- call(ctx, f) }()
			awaitOpen(t, file, done)
			endsWith(t, cancel, done)
		})
	}
}

// returns fails the test if a call does not return.
func returns[T any](t *testing.T, name string, call func() (T, error)) (T, error) {
	t.Helper()
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() { value, err := call(); done <- result{value, err} }()
	select {
	case r := <-done:
		return r.value, r.err
	case <-time.After(20 * time.Second):
		t.Fatalf("%s does not return", name)
		panic("unreachable")
	}
}

// TestNoFileInPlaceOfAFile puts what is no file where one is expected. What is replaced by a rename is replaced; where files
// are rewritten in place there is an error that names it.
func TestNoFileInPlaceOfAFile(t *testing.T) {
	t.Parallel()
	for what, create := range map[string]func(name string) error{
		"FIFO":      func(name string) error { return unix.Mkfifo(name, 0o666) },
		"device":    func(name string) error { return os.Symlink("/dev/zero", name) },
		"directory": func(name string) error { return os.Mkdir(name, 0o777) },
	} {
		for _, test := range []struct {
			file  string // below the module cache, GOPATH or the Cache
			lose  string // in the module cache, so that the file is used
			heals bool
		}{
			{file: "mod/" + cacheM + ".info", heals: true},
			{file: "mod/" + cacheM + ".mod", heals: true},
			{file: "mod/" + cacheM + ".zip", heals: true},
			{file: "mod/" + cacheM + ".partial", heals: true},
			{file: "mod/" + treeM, heals: true},
			{file: "mod/" + treeM + "/m.go", heals: true},
			{file: "mod/" + cacheM + ".ziphash"},
			{file: "mod/" + cacheM + ".lock"},
			{file: "mod/cache/download/example.com/m/@v/list", lose: "mod"},
			{file: "pkg/sumdb/DATABASE/latest"},
			{file: "mod/cache/download/sumdb/DATABASE/lookup/example.com/m@v1.0.0", heals: true},
			{file: "mod/cache/download/sumdb/DATABASE/tile/8/0/000.p/4", heals: true},
			{file: "cache/example.com/m/@v/v1.0.0.mod", lose: "mod", heals: true},
			{file: "cache/example.com/m/@v/v1.0.0.zip", lose: "zip", heals: true},
		} {
			t.Run(what+" "+filepath.Base(test.file), func(t *testing.T) {
				s := newWorld(t)
				dir := tempDir(t)
				env := modfetch.GoEnv{GOPATH: dir, GOMODCACHE: filepath.Join(dir, "mod")}
				cache := modfetch.DirCache(filepath.Join(dir, "cache"))
				opts := append(s.Options(), modfetch.WithGoEnv(env), modfetch.WithCache(cache), modfetch.WithPolicy(modfetch.Policy{Rehash: true}))
				first, err := modfetch.New(opts...)
				if err != nil {
					t.Fatal(err)
				}
				download(t, first, moduleM)
				tree, err := dirhash.HashDir(part(env.GOMODCACHE, "tree"), moduleM.String(), dirhash.Hash1)
				if err != nil {
					t.Fatal(err)
				}
				if test.lose != "" {
					lose(test.lose)(t, env.GOMODCACHE, "")
				}
				file := filepath.Join(dir, strings.ReplaceAll(test.file, "DATABASE", databaseOf(s)))
				chmodAll(part(env.GOMODCACHE, "tree"))
				if err := errors.Join(os.RemoveAll(file), create(file)); err != nil {
					t.Fatal(err)
				}

				f, err := modfetch.New(opts...)
				if err != nil {
					t.Fatal(err)
				}
				var errs []error
				check := func(method string, good bool, err error) {
					if err != nil {
						errs = append(errs, err)
						if errors.Is(err, fs.ErrNotExist) {
							t.Errorf("%s: %v, which looks like absence", method, err)
						}
					} else if !good {
						t.Errorf("%s: not what was served", method)
					}
				}
				_, err = returns(t, "Verify", func() ([]modfetch.Difference, error) { return f.Verify(t.Context(), moduleM) })
				check("Verify", true, err)
				info, err := returns(t, "Info", func() (modfetch.Info, error) { return f.Info(t.Context(), moduleM.Path, moduleM.Version) })
				check("Info", info.Version == moduleM.Version, err)
				goMod, err := returns(t, "GoMod", func() ([]byte, error) { return f.GoMod(t.Context(), moduleM) })
				check("GoMod", string(goMod) == "module example.com/m\n\ngo 1.26\n", err)
				z, err := returns(t, "Zip", func() (*modfetch.Zip, error) { return f.Zip(t.Context(), moduleM) })
				check("Zip", err == nil && z.Sum == tree, err)
				if err == nil {
					z.Close()
				}
				extracted, err := returns(t, "Dir", func() (string, error) { return f.Dir(t.Context(), moduleM) })
				got, _ := dirhash.HashDir(extracted, moduleM.String(), dirhash.Hash1)
				check("Dir", got == tree, err)

				err = errors.Join(errs...)
				if test.heals && what != "directory" {
					if err != nil {
						t.Error(err)
					}
				} else if !test.heals && (err == nil || !strings.Contains(err.Error(), file)) {
					t.Errorf("error %v, want one that names %s", err, file)
				}
			})
		}
	}
}
