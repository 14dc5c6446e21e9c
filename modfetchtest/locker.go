package modfetchtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modfetch/modfetch"
)

// TestLocker tests that a Locker keeps its promises. Each call of open returns a Locker on which nothing is locked; what it
// needs ends with the test that is passed to open.
//
// A Lock whose context has ended, and an unlock, have to return within a minute.
//
// A Locker that is meant for several processes should be tested as several too: with an open that returns a Locker which
// takes each lock through another instance.
func TestLocker(t *testing.T, open func(t *testing.T) modfetch.Locker) {
	const name, other = "example.com/!m/@v/v1.0.0.zip", "example.com/!m/@v/v1.0.1.zip"
	prompt := func(t *testing.T) modfetch.Locker { return promptLocker{open(t), t} }

	t.Run("one holder at a time", func(t *testing.T) {
		l := prompt(t)
		lock(t, l, name)()                                          // and what is unlocked can be locked again
		ctx, cancel := context.WithTimeout(t.Context(), 2*patience) // who is not served by then has starved
		defer cancel()
		const waiters = 64
		var holders, served atomic.Int32
		var wg sync.WaitGroup
		for range waiters {
			wg.Go(func() {
				unlock, err := l.Lock(ctx, name)
				if err != nil {
					t.Errorf("a waiter did not get the lock: %v", err)
					return
				}
				if n := holders.Add(1); n > 1 {
					t.Errorf("%d hold the lock at once", n)
				}
				served.Add(1)
				for range 100 {
					runtime.Gosched() // to the others, who must not come in
				}
				holders.Add(-1)
				if err := unlock(); err != nil {
					t.Errorf("unlock: %v", err)
				}
			})
		}
		wg.Wait()
		if n := served.Load(); n != waiters {
			t.Errorf("%d of %d waiters got the lock", n, waiters)
		}
	})

	t.Run("not while it is held", func(t *testing.T) {
		l := prompt(t)
		unlock := lock(t, l, name)
		mustWait(t, l, name)
		mustWait(t, l, name) // the one who gave up took nothing away
		unlock()
		lock(t, l, name)()
	})

	t.Run("names are independent", func(t *testing.T) {
		l := prompt(t)
		unlock := lock(t, l, name)
		defer unlock()
		lock(t, l, other)()
		mustWait(t, l, name) // still
	})

	t.Run("a canceled waiter leaves", func(t *testing.T) {
		l := prompt(t)
		unlock := lock(t, l, name)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(20*time.Millisecond, cancel)
		for range 2 { // the second has left before it came
			if err := wait(t, ctx, l, name); !errors.Is(err, context.Canceled) {
				t.Errorf("a waiter whose context was canceled got the error %v", err)
			}
		}
		unlock()
		lock(t, l, name)() // the canceled one does not hold it
	})

	t.Run("nothing is left behind", func(t *testing.T) {
		l := prompt(t)
		const rounds = 40
		round := func() {
			unlock := lock(t, l, name)
			mustWait(t, l, name)
			unlock()
		}
		round() // what an instance needs once
		goroutines, files := runtime.NumGoroutine(), openFiles()
		for range rounds {
			round()
		}
		// What ends with a lock may do so a moment later.
		for deadline := time.Now().Add(patience); ; runtime.Gosched() {
			g, f := runtime.NumGoroutine()-goroutines, openFiles()-files
			if g < rounds/2 && f < rounds/2 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d goroutines and %d open files more after %d locks", g, f, rounds)
			}
		}
	})
}

// lock takes a lock that is free, and returns how to unlock it.
func lock(t *testing.T, l modfetch.Locker, name string) (unlock func()) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), patience, fmt.Errorf("%s is free, and cannot be locked", name))
	defer cancel()
	release, err := l.Lock(ctx, name)
	if err != nil {
		t.Fatalf("Lock: %v: %v", err, context.Cause(ctx))
	}
	return func() {
		t.Helper()
		if err := release(); err != nil {
			t.Errorf("unlock: %v", err)
		}
	}
}

// mustWait fails the test unless a lock is held by somebody else.
func mustWait(t *testing.T, l modfetch.Locker, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := wait(t, ctx, l, name); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a waiter whose context ended got the error %v", err)
	}
}

// wait waits for a lock until ctx ends, and fails the test if it gets it.
func wait(t *testing.T, ctx context.Context, l modfetch.Locker, name string) error {
	t.Helper()
	unlock, err := l.Lock(ctx, name)
	if err == nil {
		unlock()
		t.Fatal("Lock succeeded for one who should wait, or be gone")
	}
	return err
}

// A promptLocker fails the test when the Locker does not return.
type promptLocker struct {
	modfetch.Locker
	t *testing.T
}

func (l promptLocker) Lock(ctx context.Context, name string) (func() error, error) {
	l.t.Helper()
	unlock, err := inTime(l.t, "Lock of "+name+", whose context has ended,", ctx.Done(), func() (func() error, error) {
		return l.Locker.Lock(ctx, name)
	})
	if err != nil {
		return nil, err
	}
	return func() error {
		_, err := inTime(l.t, "unlock of "+name, nil, func() (struct{}, error) { return struct{}{}, unlock() })
		return err
	}, nil
}

// openFiles counts this process's file descriptors, where the system shows them.
func openFiles() int {
	entries, _ := os.ReadDir("/dev/fd")
	return len(entries)
}
