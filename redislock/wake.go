package redislock

import (
	"context"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
)

const silence = time.Minute // after it, a subscription may be dead, or nobody needs it

// enqueue makes the caller one of those who wait for key, until it leaves.
func (l *Locker) enqueue(key string) (woken <-chan struct{}, leave func()) {
	c := make(chan struct{}, 1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting[key] = append(l.waiting[key], c)
	return c, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		rest := slices.DeleteFunc(l.waiting[key], func(w chan<- struct{}) bool { return w == c })
		if l.waiting[key] = rest; len(rest) == 0 {
			delete(l.waiting, key)
		}
	}
}

// wake has the first of those who wait for key try again: only one can succeed.
func (l *Locker) wake(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w := l.waiting[key]; len(w) > 0 {
		select {
		case w[0] <- struct{}{}:
		default: // it has been woken and is about to try
		}
	}
}

// listen sees to it that waiters are woken. One subscription serves all of them, until it fails or has been silent for long;
// who polls then makes the next one.
func (l *Locker) listen() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.listening || l.life.Err() != nil {
		return
	}
	l.listening = true
	l.running.Go(func() {
		l.hear()
		select {
		case <-l.life.Done():
		case <-time.After(time.Second): // it may be forbidden, and fail each time
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.listening = false
	})
}

// hear wakes those whose keys are released, as long as the subscription lasts.
func (l *Locker) hear() {
	sub := l.client.Subscribe(l.life, l.prefix())
	defer sub.Close()
	defer context.AfterFunc(l.life, func() { sub.Close() })()
	for {
		m, err := sub.ReceiveTimeout(l.life, silence)
		if err != nil {
			return
		}
		if m, ok := m.(*redis.Message); ok {
			l.wake(m.Payload)
		}
	}
}
