//go:build darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd

package filelock_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/modfetch/modfetch/internal/filelock"
)

// The tests of this file show that the locks are those of the go command, which calls flock.

const childVar = "MODFETCH_TEST_FLOCK"

// TestFlockInChild is not a test but the other process: it takes the lock named in the environment, says so, and holds it
// until its standard input ends.
func TestFlockInChild(t *testing.T) {
	how, name, ok := strings.Cut(os.Getenv(childVar), " ")
	if !ok {
		t.Skip("for the other tests")
	}
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	flags := map[string]int{"shared": syscall.LOCK_SH, "exclusive": syscall.LOCK_EX}[how]
	if err := syscall.Flock(int(f.Fd()), flags|syscall.LOCK_NB); err != nil {
		fmt.Println("refused:", err)
		return
	}
	fmt.Println("held")
	io.Copy(io.Discard, os.Stdin)
}

// startChild starts a process that takes a lock, and returns what it says, and what ends it.
func startChild(t *testing.T, how, name string) (said string, end func()) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFlockInChild$", "-test.v=false")
	cmd.Env = append(os.Environ(), childVar+"="+how+" "+name, "GORACE=atexit_sleep_ms=0")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said, err = bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	ended := false
	end = func() {
		if !ended {
			ended = true
			stdin.Close()
			io.Copy(io.Discard, stdout)
			cmd.Wait()
		}
	}
	t.Cleanup(end)
	return strings.TrimSpace(said), end
}

func TestFlockOfAnotherProcess(t *testing.T) {
	open := func(ctx context.Context, name string, waiting func()) error {
		f, err := filelock.Open(ctx, name, waiting)
		if err == nil {
			f.Close()
		}
		return err
	}
	read := func(ctx context.Context, name string, _ func()) error {
		_, err := filelock.Read(ctx, name, 1<<20)
		return err
	}
	for _, test := range []struct {
		name  string
		how   string
		take  func(ctx context.Context, name string, waiting func()) error
		waits bool
	}{
		{"Open behind exclusive", "exclusive", open, true},
		{"Open behind shared", "shared", open, true},
		{"Read behind exclusive", "exclusive", read, true},
		{"Read beside shared", "shared", read, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			name := lockName(t)
			said, end := startChild(t, test.how, name)
			if said != "held" {
				t.Fatal(said)
			}
			if test.waits {
				ctx, cancel := context.WithTimeout(t.Context(), deadline)
				defer cancel()
				told := 0
				if err := test.take(ctx, name, func() { told++ }); !errors.Is(err, context.DeadlineExceeded) || told > 1 {
					t.Fatalf("error %v, told %d times; want one that says that the wait has ended, and to be told once", err, told)
				}
				end()
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := test.take(ctx, name, nil); err != nil {
				t.Error(err)
			}
		})
	}
}

// deadline is how long a test waits for a lock that it must not get.
const deadline = 30 * time.Millisecond

func TestOpenWaitsUntilTheOtherProcessEnds(t *testing.T) {
	name := lockName(t)
	said, end := startChild(t, "exclusive", name)
	if said != "held" {
		t.Fatal(said)
	}
	times := 0
	f, err := filelock.Open(t.Context(), name, func() {
		times++
		end()
	})
	if err != nil || times != 1 {
		t.Fatalf("error %v, told to wait %d times, want once", err, times)
	}
	f.Close()
}

func TestAnotherProcessIsExcluded(t *testing.T) {
	for _, how := range []string{"shared", "exclusive"} {
		t.Run(how, func(t *testing.T) {
			name := lockName(t)
			f := hold(t, name)
			if said, _ := startChild(t, how, name); !strings.HasPrefix(said, "refused") {
				t.Errorf("while the lock is held: %s", said)
			}
			f.Close()
			if said, _ := startChild(t, how, name); said != "held" {
				t.Errorf("afterwards: %s", said)
			}
		})
	}
}
