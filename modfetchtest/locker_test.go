package modfetchtest_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/modfetchtest"
)

func TestDirCacheIsALocker(t *testing.T) {
	modfetchtest.TestLocker(t, func(t *testing.T) modfetch.Locker { return modfetch.DirCache(t.TempDir()) })
}

// TestTestLockerFinds runs TestLocker over Lockers that are wrong, each in a process of its own, and over one that is right.
func TestTestLockerFinds(t *testing.T) {
	for fault, says := range map[string]string{
		"":                        "--- PASS: TestFaultyLocker/nothing_is_left_behind",
		"excludes nobody":         "hold the lock at once",
		"fails at once":           "a waiter whose context ended got the error busy",
		"all names are one":       "example.com/!m/@v/v1.0.1.zip is free, and cannot be locked",
		"ignores its context":     "whose context has ended, hangs",
		"cancelled gets it":       "Lock succeeded for one who should wait, or be gone",
		"who leaves unlocks":      "Lock succeeded for one who should wait, or be gone",
		"unlock does nothing":     "example.com/!m/@v/v1.0.0.zip is free, and cannot be locked",
		"unlock fails":            "unlock: lost",
		"unlock hangs":            "unlock of example.com/!m/@v/v1.0.0.zip hangs",
		"Lock hangs":              "Lock of example.com/!m/@v/v1.0.0.zip, whose context has ended, hangs",
		"a goroutine stays":       "goroutines and",
		"an error hides the case": "a waiter whose context was canceled got the error gone",
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFaultyLocker$", "-test.v")
			cmd.Env = append(os.Environ(), "MODFETCH_TEST_FAULTY_LOCKER="+fault+".")
			out, err := cmd.CombinedOutput()
			if (err != nil) != (fault != "") || !bytes.Contains(out, []byte(says)) || bytes.Contains(out, []byte("panic")) {
				t.Errorf("%v, want %q:\n%s", err, says, out)
			}
		})
	}
}

func TestFaultyLocker(t *testing.T) {
	fault, ok := strings.CutSuffix(os.Getenv("MODFETCH_TEST_FAULTY_LOCKER"), ".")
	if !ok {
		t.Skip("run by TestTestLockerFinds")
	}
	if fault != "" {
		modfetchtest.SetPatience(300 * time.Millisecond)
	}
	modfetchtest.TestLocker(t, func(t *testing.T) modfetch.Locker {
		return &faultyLocker{fault: fault, locks: make(map[string]chan struct{})}
	})
}

// A faultyLocker is a Locker in memory with one fault, or none.
type faultyLocker struct {
	fault string

	mu    sync.Mutex // guards locks
	locks map[string]chan struct{}
}

func (l *faultyLocker) Lock(ctx context.Context, name string) (unlock func() error, err error) {
	switch l.fault {
	case "excludes nobody":
		return func() error { return nil }, nil
	case "Lock hangs":
		select {}
	case "a goroutine stays":
		go func() { select {} }()
	case "all names are one":
		name = ""
	case "cancelled gets it":
		if ctx.Err() != nil {
			return func() error { return nil }, nil
		}
	}
	l.mu.Lock()
	lock := l.locks[name]
	if lock == nil {
		lock = make(chan struct{}, 1)
		l.locks[name] = lock
	}
	l.mu.Unlock()
	left := ctx.Done()
	if l.fault == "ignores its context" {
		left = nil
	}
	if l.fault == "fails at once" && len(lock) > 0 {
		return nil, errors.New("busy")
	}
	select {
	case lock <- struct{}{}:
	case <-left:
		switch l.fault {
		case "who leaves unlocks":
			<-lock
		case "an error hides the case":
			return nil, errors.New("gone")
		}
		return nil, ctx.Err()
	}
	return func() error {
		switch l.fault {
		case "unlock does nothing":
			return nil
		case "unlock hangs":
			select {}
		}
		<-lock
		if l.fault == "unlock fails" {
			return errors.New("lost")
		}
		return nil
	}, nil
}
