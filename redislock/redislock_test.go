package redislock_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/modfetchtest"
	"github.com/modfetch/modfetch/redislock"
	"golang.org/x/mod/module"
)

func TestLocker(t *testing.T) {
	url := testRedis(t)
	t.Run("one process", func(t *testing.T) {
		modfetchtest.TestLocker(t, func(t *testing.T) modfetch.Locker { return open(t, url, newPrefix(t)) })
	})
	t.Run("several processes", func(t *testing.T) {
		modfetchtest.TestLocker(t, func(t *testing.T) modfetch.Locker {
			prefix := newPrefix(t)
			return &fleet{lockers: []*redislock.Locker{open(t, url, prefix), open(t, url, prefix), open(t, url, prefix)}}
		})
	})
}

// A fleet takes each lock through another Locker.
type fleet struct {
	lockers []*redislock.Locker
	next    atomic.Uint32
}

func (f *fleet) Lock(ctx context.Context, name string) (func() error, error) {
	return f.lockers[int(f.next.Add(1))%len(f.lockers)].Lock(ctx, name)
}

func TestFleetsWithOtherPrefixesShareNothing(t *testing.T) {
	url := testRedis(t)
	defer lock(t, open(t, url, newPrefix(t)))()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	unlock, err := open(t, url, newPrefix(t)+"other:").Lock(ctx, "held")
	if err != nil {
		t.Fatal(err)
	}
	if err := unlock(); err != nil {
		t.Error(err)
	}
}

// TestFleetFetchesOnce has what a fleet is for: one of many machines asks the mirror, the others find the zip in the cache.
func TestFleetFetchesOnce(t *testing.T) {
	url, prefix := testRedis(t), newPrefix(t)
	s := modfetchtest.NewServer(t, nil)
	s.Add(modfetchtest.NewModule("example.com/m", "v1.0.0").File("m.go", "package m\n"))
	s.Fault("*.zip", modfetchtest.Fault{}.Latency(lease/4)) // for all to come before the first has it
	cache := modfetch.DirCache(t.TempDir())
	var wg sync.WaitGroup
	for range 8 {
		f, err := modfetch.New(append(s.Options(), modfetch.WithCache(cache), modfetch.WithLocker(open(t, url, prefix)))...)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		wg.Go(func() {
			z, err := f.Zip(t.Context(), module.Version{Path: "example.com/m", Version: "v1.0.0"})
			if err != nil {
				t.Error(err)
				return
			}
			z.Close()
		})
	}
	wg.Wait()
	if n := s.Count("*.zip"); n != 1 {
		t.Errorf("the zip was asked for %d times", n)
	}
}

// TestFetchesGoOnWithoutRedis is the same without a Redis.
func TestFetchesGoOnWithoutRedis(t *testing.T) {
	s := modfetchtest.NewServer(t, nil)
	s.Add(modfetchtest.NewModule("example.com/m", "v1.0.0").File("m.go", "package m\n"))
	var w warnings
	f, err := modfetch.New(append(s.Options(), modfetch.WithCache(new(modfetch.MemCache)),
		modfetch.WithLocker(openWith(t, "redis://"+freeAddr(t), w.add)))...)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := f.Zip(t.Context(), module.Version{Path: "example.com/m", Version: "v1.0.0"})
	if err != nil {
		t.Fatal(err)
	}
	z.Close()
	w.one(t, "connection refused")
}

func TestOpenDoesNotRepeatCredentials(t *testing.T) {
	for _, url := range []string{
		"", "redis", "http://who:secret@127.0.0.1:6379", "redis://who:secret@127.0.0.1:6379/one/two",
		"redis://who:secret@127.0.0.1:port", "redis://who:sec%zzret@127.0.0.1", "redis://127.0.0.1/secret",
		"redis://127.0.0.1?password=secret",
	} {
		_, err := redislock.Open(url)
		if err == nil {
			t.Errorf("%q is a Redis", url)
		} else if strings.Contains(err.Error(), "sec") || strings.Contains(err.Error(), "who") {
			t.Errorf("an error with credentials: %v", err)
		}
	}
	for _, url := range []string{"redis://127.0.0.1", "redis://:p@127.0.0.1:1/3", "rediss://u:p@127.0.0.1:1", "unix:///nowhere?db=1"} {
		l, err := redislock.Open(url)
		if err != nil {
			t.Errorf("%q: %v", url, err)
			continue
		}
		l.Close()
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	url := testRedis(t)
	prefix, name := newPrefix(t), "redislock-test"
	count := func() int {
		list, err := client(t, url).ClientList(t.Context()).Result()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(list, "name="+name+" ")
	}
	l := open(t, url+"?client_name="+name, prefix)
	l.WithoutPolling()
	unlock := lock(t, l)
	const waiters = 8
	var wg sync.WaitGroup
	for range waiters {
		wg.Go(func() {
			unlock, err := l.Lock(t.Context(), "held")
			if err != nil {
				t.Errorf("a waiter failed before its context ended: %v", err)
			} else if err := unlock(); err != nil {
				t.Errorf("unlock: %v", err)
			}
		})
	}
	c := client(t, url)
	eventually(t, "somebody listens", func() bool { return c.PubSubNumSub(t.Context(), prefix).Val()[prefix] > 0 })
	if count() == 0 {
		t.Error("no connections to be closed")
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if err := l.Close(); err != nil {
		t.Errorf("Close again: %v", err)
	}
	if err := unlock(); err == nil {
		t.Error("what was held when the Locker was closed could be unlocked")
	}
	if err := lock(t, l)(); err != nil {
		t.Errorf("a lock that locks nothing: %v", err)
	}
	eventually(t, "all connections are gone", func() bool { return count() == 0 })
	eventually(t, "no goroutine is left", func() bool { return !strings.Contains(goroutines(), "redislock.(*Locker)") })
}

// TestCloseMeanwhile closes Lockers at any time, for the race detector.
func TestCloseMeanwhile(t *testing.T) {
	f := newFake(t, nil)
	for range 200 {
		l, err := redislock.Open(f.url)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				unlock, err := l.Lock(t.Context(), "held")
				if err != nil {
					t.Error(err)
					return
				}
				unlock()
			})
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
	}
}

func TestContextEndsWhileRedisHangs(t *testing.T) {
	f := newFake(t, func([]string) (string, bool) { return "", false })
	var w warnings
	l := openWith(t, f.url, w.add)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := l.Lock(ctx, "held"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	if w.any() {
		t.Error("waited until Redis was given up")
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if strings.Contains(goroutines(), "redislock.(*Locker)") {
		t.Errorf("left behind by Close:\n%s", goroutines())
	}
}

// TestGrantedTooLate has a caller leave before it hears that the lock is its.
func TestGrantedTooLate(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	token, released := make(chan string, 1), make(chan []string, 1)
	gone := make(chan struct{})
	f := newFake(t, func(command []string) (string, bool) {
		switch strings.ToLower(command[0]) {
		case "set":
			token <- command[2]
			cancel()
			<-gone
			return "+OK\r\n", true
		case "evalsha":
			released <- command[3:]
			return ":1\r\n", true
		}
		return "-ERR unknown command\r\n", true
	})
	l := openWith(t, f.url, nil)
	if _, err := l.Lock(ctx, "held"); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want %v", err, context.Canceled)
	}
	close(gone)
	select {
	case args := <-released:
		if want := []string{"modfetch:held", <-token, "modfetch:"}; strings.Join(args, " ") != strings.Join(want, " ") {
			t.Errorf("released %q, want %q", args, want)
		}
	case <-time.After(time.Minute):
		t.Error("what was granted was not given back")
	}
}
