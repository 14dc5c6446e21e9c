package redislock_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modfetch/modfetch/redislock"
	"github.com/redis/go-redis/v9"
)

// TestMain lets the test binary be a holder that can be killed, and lets nothing be written to stderr by go-redis.
func TestMain(m *testing.M) {
	if url := os.Getenv("REDISLOCK_HOLD"); url != "" {
		hold(url, os.Getenv("REDISLOCK_PREFIX"))
	}
	var log logged
	redis.SetLogger(&log)
	code := m.Run()
	if n := log.lines.Load(); n > 0 {
		fmt.Fprintf(os.Stderr, "go-redis logged %d lines, the last: %s\n", n, log.last.Load())
		code = 1
	}
	os.Exit(code)
}

type logged struct {
	lines atomic.Int32
	last  atomic.Value
}

func (l *logged) Printf(_ context.Context, format string, v ...any) {
	l.lines.Add(1)
	l.last.Store(fmt.Sprintf(format, v...))
}

// hold locks "held", says so, and keeps it until it is killed.
func hold(url, prefix string) {
	l, err := redislock.Open(url)
	if err == nil {
		l.Prefix = prefix
		_, err = l.Lock(context.Background(), "held")
	}
	fmt.Println("held", err)
	io.Copy(io.Discard, os.Stdin) // or until the test that started it is gone
	os.Exit(1)
}

// testRedis returns the URL of a Redis that tests share.
func testRedis(t *testing.T) string {
	t.Helper()
	url := os.Getenv("MODFETCH_TEST_REDIS")
	if url == "" {
		t.Skip("MODFETCH_TEST_REDIS is not set to the URL of a Redis: run the tests by scripts/with-stores.sh")
	}
	return url
}

// open returns a Locker that shares its locks with those of the same prefix, and fails the test if it warns.
func open(t *testing.T, url, prefix string) *redislock.Locker {
	t.Helper()
	l := openWith(t, url, func(err error) { t.Errorf("warned: %v", err) })
	l.Prefix = prefix
	return l
}

func openWith(t *testing.T, url string, warn func(error)) *redislock.Locker {
	t.Helper()
	l, err := redislock.Open(url)
	if err != nil {
		t.Fatal(err)
	}
	l.Warn = warn
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return l
}

// newPrefix keeps one test's locks apart from all others in a Redis.
func newPrefix(t *testing.T) string {
	return fmt.Sprintf("test:%s:%d:%d:", t.Name(), os.Getpid(), time.Now().UnixNano())
}

// client returns a client to look at, and meddle with, what the Lockers do.
func client(t *testing.T, url string) *redis.Client {
	t.Helper()
	o, err := redis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	c := redis.NewClient(o)
	t.Cleanup(func() { c.Close() })
	return c
}

// eventually waits until ok, or long enough to be sure that it never will.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	for tick := time.NewTicker(10 * time.Millisecond); !ok(); {
		select {
		case <-deadline:
			t.Fatalf("still not: %s", what)
		case <-tick.C:
		}
	}
}

// lock locks "held", which a test says is free, or which Redis is in no state to guard.
func lock(t *testing.T, l *redislock.Locker) (unlock func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	unlock, err := l.Lock(ctx, "held")
	if err != nil {
		t.Fatal(err)
	}
	return unlock
}

// A server is a Redis of one test's own, which may stop it.
type server struct {
	*exec.Cmd
	url  string
	args []string
}

// startServer starts redis-server on a loopback port, without a disk.
func startServer(t *testing.T, args ...string) *server {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Skip("no redis-server to stop and start: run the tests by scripts/with-stores.sh, which installs one")
	}
	addr := freeAddr(t)
	_, port, _ := strings.Cut(addr, ":")
	s := &server{url: "redis://" + addr, args: append([]string{"--bind", "127.0.0.1", "--port", port,
		"--dir", t.TempDir(), "--save", "", "--appendonly", "no", "--daemonize", "no"}, args...)}
	s.start(t)
	t.Cleanup(s.kill)
	return s
}

func (s *server) start(t *testing.T) {
	t.Helper()
	s.Cmd = exec.Command("redis-server", s.args...)
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	o, err := redis.ParseURL(s.url)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "redis-server listens", func() bool { return dial(o.Addr) == nil })
}

func (s *server) kill() {
	s.Process.Kill()
	s.Wait()
}
