//go:build unix

package redislock_test

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/modfetch/modfetch/redislock"
)

// TestRedisStops stops a Redis, as for a snapshot of its machine, while a lock is held and somebody waits for it.
func TestRedisStops(t *testing.T) {
	for name, test := range map[string]struct{ stop, resume func(t *testing.T, s *server) }{
		"and goes on": {
			func(t *testing.T, s *server) { s.pause(t) },
			func(t *testing.T, s *server) { s.resume(t) },
		},
		"and is started again, empty": {
			func(t *testing.T, s *server) { s.kill() },
			func(t *testing.T, s *server) { s.start(t) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t)
			var w, x warnings
			holder, waiter := openWith(t, s.url, w.add), openWith(t, s.url, x.add)
			unlock := lock(t, holder)
			got := make(chan error, 1)
			go func() {
				unlock, err := waiter.Lock(context.Background(), "held")
				if err == nil {
					err = unlock()
				}
				got <- err
			}()
			c := client(t, s.url)
			eventually(t, "somebody waits", func() bool { return c.PubSubNumSub(t.Context(), "modfetch:").Val()["modfetch:"] > 0 })
			test.stop(t, s)
			select {
			case err := <-got:
				if err != nil {
					t.Errorf("the waiter got the error %v", err)
				}
			case <-time.After(time.Minute):
				t.Fatal("the waiter hangs")
			}
			if err := lock(t, holder)(); err != nil {
				t.Errorf("while Redis is down: %v", err)
			}
			eventually(t, "the holder knows", func() bool { return !renewing() })
			test.resume(t, s)
			if err := unlock(); err == nil {
				t.Error("a lost lock was unlocked without an error")
			}
			x.one(t, "")
			for name, l := range map[string]*redislock.Locker{"holder": holder, "waiter": waiter} {
				eventually(t, "the "+name+" uses Redis again", func() bool {
					unlock := lock(t, l)
					during := c.Exists(t.Context(), "modfetch:held").Val()
					if err := unlock(); err != nil {
						t.Error(err)
					}
					return during == 1 && c.Exists(t.Context(), "modfetch:held").Val() == 0
				})
			}
		})
	}
}

func (s *server) pause(t *testing.T)  { s.signal(t, syscall.SIGSTOP) }
func (s *server) resume(t *testing.T) { s.signal(t, syscall.SIGCONT) }

func (s *server) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := s.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}
