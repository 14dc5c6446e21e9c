package redislock_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"
)

func TestWaitersAreTold(t *testing.T) {
	url, prefix := testRedis(t), newPrefix(t)
	c, holder := client(t, url), open(t, url, prefix)
	unlock := lock(t, holder)
	waiter := open(t, url, prefix)
	waiter.WithoutPolling()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	for range 8 {
		wg.Go(func() {
			unlock, err := waiter.Lock(ctx, "held")
			if err != nil {
				t.Errorf("not told that the lock is free: %v", err)
			} else if err := unlock(); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, "they listen", func() bool { return c.PubSubNumSub(t.Context(), prefix).Val()[prefix] == 1 })
	if err := unlock(); err != nil {
		t.Error(err)
	}
}

func TestCanceledWaiterIsToldNothing(t *testing.T) {
	url, prefix := testRedis(t), newPrefix(t)
	unlock := lock(t, open(t, url, prefix))
	waiter := open(t, url, prefix)
	waiter.WithoutPolling()
	ctx, cancel := context.WithTimeout(t.Context(), lease/10)
	defer cancel()
	if _, err := waiter.Lock(ctx, "held"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	if err := unlock(); err != nil {
		t.Error(err)
	}
}

func TestWaitersFindOutWhatTheyAreNotTold(t *testing.T) {
	url, prefix := testRedis(t), newPrefix(t)
	c := client(t, url)
	c.Set(t.Context(), prefix+"held", "a token", time.Hour)
	got := make(chan error, 1)
	l := open(t, url, prefix)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		unlock, err := l.Lock(ctx, "held")
		if err == nil {
			err = unlock()
		}
		got <- err
	}()
	eventually(t, "it listens", func() bool { return c.PubSubNumSub(t.Context(), prefix).Val()[prefix] == 1 })
	c.Del(t.Context(), prefix+"held") // without a message
	if err := <-got; err != nil {
		t.Error(err)
	}
}

// TestWithoutTheRightToPublish is about a Redis user who has keys, and no channel.
func TestWithoutTheRightToPublish(t *testing.T) {
	s := startServer(t, "--user", "who", "on", ">secret", "~modfetch:*", "resetchannels", "+@all")
	url := "redis://who:secret@" + s.url[len("redis://"):]
	holder, waiter := open(t, url, ""), open(t, url, "")
	unlock := lock(t, holder)
	got := make(chan error, 1)
	go func() {
		unlock, err := waiter.Lock(t.Context(), "held")
		if err == nil {
			err = unlock()
		}
		got <- err
	}()
	select {
	case err := <-got:
		t.Fatalf("the waiter did not wait: %v", err)
	case <-time.After(lease / 4):
	}
	if err := unlock(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-got:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the waiter did not find out")
	}
}
