//go:build unix

package modfetch_test

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/modfetch/modfetch"
)

// TestCancelEndsChildren looks at what the go command and the helpers of GOAUTH have started, by a pipe that all of it
// inherits: its end says that the last of them is gone.
func TestCancelEndsChildren(t *testing.T) {
	viaDirect := func(t *testing.T, program string) func(context.Context) error {
		needGo(t)
		bin := filepath.Dir(program)
		if err := os.Rename(program, filepath.Join(bin, "git")); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
		f, _ := newFetcher(t, modfetch.WithGOPROXY("direct"), modfetch.WithSumDB("off"))
		return func(ctx context.Context) error { _, err := f.GoMod(ctx, origin1); return err }
	}
	viaCommand := func(t *testing.T, program string) func(context.Context) error {
		f := authFetcher(t, always(401, ""), modfetch.GoEnv{GOAUTH: program})
		return func(ctx context.Context) error { _, err := f.Versions(ctx, moduleM.Path); return err }
	}
	viaGit := func(t *testing.T, program string) func(context.Context) error {
		return viaCommand(t, "git "+gitDir(t, program))
	}
	const (
		sleeps = "echo started >&9; sleep 60"
		cleans = "trap 'echo cleaned >&9; exit 1' TERM; echo started >&9; sleep 60 & wait"
		stays  = "trap '' TERM; echo started >&9; sleep 60"
	)
	for name, c := range map[string]struct {
		via    func(t *testing.T, program string) func(context.Context) error
		script string
		cleans bool
	}{
		"direct":                         {via: viaDirect, script: sleeps},
		"direct, git cleans up":          {via: viaDirect, script: cleans, cleans: true},
		"direct, git does not want to":   {via: viaDirect, script: stays},
		"command":                        {via: viaCommand, script: sleeps},
		"command that cleans up":         {via: viaCommand, script: cleans, cleans: true},
		"command that does not want to":  {via: viaCommand, script: stays},
		"git's helper":                   {via: viaGit, script: sleeps},
		"git's helper, does not want to": {via: viaGit, script: stays},
	} {
		t.Run(name, func(t *testing.T) {
			pipe := filepath.Join(t.TempDir(), "pipe")
			if err := syscall.Mkfifo(pipe, 0o600); err != nil {
				t.Fatal(err)
			}
			call := c.via(t, script(t, "exec 9>'"+pipe+"'\n"+c.script))
			lines := make(chan string)
			go func() { // ends with the last of those that have the pipe
				defer close(lines)
				r, err := os.Open(pipe) // once there is a writer
				if err != nil {
					t.Error(err)
					return
				}
				defer r.Close()
				for s := bufio.NewScanner(r); s.Scan(); {
					lines <- s.Text()
				}
			}()

			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- call(ctx) }()
			select {
			case <-lines:
			case err := <-done:
				t.Fatalf("the program was not run: %v", err)
			}
			cancel()
			select {
			case err := <-done:
				if !errors.Is(err, context.Canceled) {
					t.Errorf("error %v, want context.Canceled", err)
				}
			case <-time.After(time.Second):
				t.Error("no return within a second")
			}
			var said []string
			for late := time.After(10 * time.Second); ; {
				select {
				case line, ok := <-lines:
					if said = append(said, line); ok {
						continue
					}
				case <-late:
					t.Error("a process is left")
				}
				break
			}
			if cleaned := strings.Contains(strings.Join(said, " "), "cleaned"); cleaned != c.cleans {
				t.Errorf("told to clean up: %t, want %t", cleaned, c.cleans)
			}
		})
	}
}

// A daemon has left the session, and may keep what it was given open for as long as it likes.
func TestCancelDoesNotWaitForDaemons(t *testing.T) {
	setsid, err := exec.LookPath("setsid")
	if err != nil {
		t.Skip("there is no setsid")
	}
	goes := script(t, setsid+` sh -c ': >"$0"; sleep 5' "$dir/started" & sleep 5`)
	bin := filepath.Dir(goes)
	if err := os.Link(goes, filepath.Join(bin, "go")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
	direct, _ := newFetcher(t, modfetch.WithGOPROXY("direct"), modfetch.WithSumDB("off"))
	for name, f := range map[string]*modfetch.Fetcher{"direct": direct, "command": authFetcher(t, always(401, ""), modfetch.GoEnv{GOAUTH: goes})} {
		started := filepath.Join(bin, "started")
		os.Remove(started)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { _, err := f.Versions(ctx, moduleM.Path); done <- err }()
		for _, err := os.Stat(started); err != nil; _, err = os.Stat(started) {
			runtime.Gosched()
		}
		cancel()
		select {
		case <-done:
		case <-time.After(time.Second):
			t.Errorf("%s: no return within a second", name)
		}
	}
}
