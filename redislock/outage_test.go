package redislock_test

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modfetch/modfetch/redislock"
)

// warnings is where a Locker's warnings go.
type warnings struct {
	mu   sync.Mutex
	list []string
}

func (w *warnings) add(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.list = append(w.list, err.Error())
}

func (w *warnings) any() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.list) > 0
}

// one fails the test unless there was one warning, with this text in it.
func (w *warnings) one(t *testing.T, text string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.list) != 1 || !strings.Contains(w.list[0], text) {
		t.Errorf("warnings %q, want one about %q", w.list, text)
	}
	for _, line := range w.list {
		if strings.Contains(line, "secret") || strings.Contains(line, "who") {
			t.Errorf("a warning with credentials: %s", line)
		}
	}
}

// goroutines shows what all goroutines do.
func goroutines() string {
	stack := make([]byte, 1<<20)
	return string(stack[:runtime.Stack(stack, true)])
}

// renewing says whether any lease is being renewed.
func renewing() bool { return strings.Contains(goroutines(), "redislock.(*Locker).keep") }

func TestNoRedis(t *testing.T) {
	const who = "who:secret@"
	for name, test := range map[string]struct {
		addr func(t *testing.T) string
		says string
	}{
		"refuses connections": {freeAddr, "connection refused"},
		"hangs": {func(t *testing.T) string {
			return newFake(t, func([]string) (string, bool) { return "", false }).url[len("redis://"):]
		}, "no answer within 2s"},
		"hangs after the greeting": {func(t *testing.T) string {
			return newFake(t, func(c []string) (string, bool) {
				if c[0] == "hello" {
					return "-ERR unknown command\r\n", true
				}
				return "+OK\r\n", c[0] != "set"
			}).url[len("redis://"):]
		}, "no answer within 2s"},
		"refuses the password": {func(t *testing.T) string {
			return startServer(t, "--requirepass", "another").url[len("redis://"):]
		}, "it answers WRONGPASS"},
		"repeats what it was sent": {func(t *testing.T) string {
			return newFake(t, func(c []string) (string, bool) {
				return fmt.Sprintf("-ERR unknown command %s\r\n", strings.Join(c, " ")), true
			}).url[len("redis://"):]
		}, "it answers ERR"},
		"repeats only what it was sent": {func(t *testing.T) string {
			return newFake(t, func(c []string) (string, bool) { return fmt.Sprintf("-%s\r\n", c[len(c)-1]), true }).url[len("redis://"):]
		}, "it answers with an error"},
		"is no Redis": {func(t *testing.T) string {
			return newFake(t, func(c []string) (string, bool) {
				return fmt.Sprintf("HTTP/1.1 400 %s\r\n", strings.Join(c, " ")), true
			}).url[len("redis://"):]
		}, "not an answer of Redis"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr := test.addr(t)
			var w warnings
			l := openWith(t, "redis://"+who+addr, w.add)
			var wg sync.WaitGroup
			for range 32 {
				wg.Go(func() {
					for range 4 {
						if err := lock(t, l)(); err != nil {
							t.Errorf("unlocking what is not locked: %v", err)
						}
					}
				})
			}
			wg.Wait()
			w.one(t, test.says)
			w.one(t, addr)
		})
	}
}

// TestNoTLS is about credentials that may only be sent over TLS.
func TestNoTLS(t *testing.T) {
	f := newFake(t, func(c []string) (string, bool) {
		t.Errorf("sent without TLS: %q", c)
		return "+OK\r\n", true
	})
	var w warnings
	l := openWith(t, strings.Replace(f.url, "redis://", "rediss://who:secret@", 1), w.add)
	if err := lock(t, l)(); err != nil {
		t.Error(err)
	}
	w.one(t, "")
}

// TestLongOutage lets time fly over a Redis that closes every connection.
func TestLongOutage(t *testing.T) {
	f := newFake(t, nil)
	synctest.Test(t, func(t *testing.T) {
		var w warnings
		l, err := redislock.Open(f.url)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		l.Warn = w.add
		const minutes = 5
		for range minutes * 60 {
			if err := lock(t, l)(); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Second)
		}
		if n := len(w.list); n != minutes {
			t.Errorf("%d warnings in %d minutes: %q", n, minutes, w.list)
		}
		if n := f.connections.Load(); n != minutes*60/3 {
			t.Errorf("asked %d times in %d minutes, want every three seconds", n, minutes)
		}
	})
}

// TestRedisThatHangsIsAskedSeldom keeps an outage from costing each fetch the wait for an answer.
func TestRedisThatHangsIsAskedSeldom(t *testing.T) {
	t.Parallel()
	f := newFake(t, func([]string) (string, bool) { return "", false })
	l := openWith(t, f.url, nil)
	for range 100 { // which would take more than three minutes
		if err := lock(t, l)(); err != nil {
			t.Error(err)
		}
	}
	if n := f.connections.Load(); n > 10 {
		t.Errorf("asked %d times", n)
	}
}
