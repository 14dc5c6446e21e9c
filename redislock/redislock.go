// Package redislock keeps processes that share a cache, but no disk, from fetching the same file at once: a
// [github.com/modfetch/modfetch.Locker] in Redis.
//
//	locker, err := redislock.Open("redis://cache.example:6379")
//	defer locker.Close()
//	f, err := modfetch.New(modfetch.WithCache(shared), modfetch.WithLocker(locker))
//
// A lock is a lease of two seconds, renewed while it is held, so that a holder that is killed stands in nobody's way for
// longer. A lease can be lost, by a process that is paused or a Redis that restarts, and while Redis cannot be used nothing is
// locked. Then a file is fetched twice, and no more than that: every fetch is verified, and a Cache replaces files atomically.
//
// Redis is trusted with the names of what is fetched, and to keep no fetch waiting for ever; with nothing else. Users of one
// Redis who do not trust each other need credentials of their own, limited to the keys and the channel of their Prefix.
package redislock

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	mrand "math/rand/v2"

	"github.com/redis/go-redis/v9"
)

const (
	patience = 2 * time.Second        // how long Redis may take to answer
	polling  = 200 * time.Millisecond // at least; a killed holder's lease ends without a message
)

// A Locker locks names in Redis. Make one with Open, and set its fields before the first Lock; then it is safe for concurrent
// use.
type Locker struct {
	// Prefix begins the name of each key, and is the channel on which waiters hear of unlocked ones: "modfetch:" if it
	// is "". Processes that share a cache need the same.
	Prefix string

	// Warn, if it is not nil, is told why Redis cannot be used, once a minute at most. The error names Redis by its address,
	// and never quotes credentials.
	Warn func(error)

	client  *redis.Client
	addr    string
	poll    time.Duration
	running sync.WaitGroup

	life context.Context // ends with Close
	end  context.CancelCauseFunc

	mu        sync.Mutex // guards the following
	retry     time.Time  // when to ask Redis again; zero while it answers
	warned    time.Time
	waiting   map[string][]chan<- struct{} // by key, who came first in front
	listening bool
}

var errClosed = errors.New("redislock: closed")

// Open returns a Locker for the Redis at a URL such as redis://host:port/db, rediss://user:password@host:port (TLS) or
// unix:///path/to/socket?db=1. It does not connect: a Redis that cannot be reached is no error, now or later.
func Open(url string) (*Locker, error) {
	o, err := redis.ParseURL(url)
	if err != nil {
		// Without err and url, which may show a password.
		return nil, errors.New("redislock: not the URL of a Redis, such as redis://host:port/db or rediss://user:password@host:port")
	}
	l := &Locker{addr: o.Addr, poll: polling, waiting: make(map[string][]chan<- struct{})}
	l.life, l.end = context.WithCancelCause(context.Background())
	o.Dialer = l.dialer(o)
	o.Protocol = 2 // all that is needed, and what the most servers speak
	o.DisableIdentity = true
	o.ContextTimeoutEnabled = true // ours are shorter
	o.DialerRetries, o.MaxRetries = 1, -1
	o.ConnMaxIdleTime = time.Minute // middleboxes forget connections in silence, and asking over such a one looks like an outage
	l.client = redis.NewClient(o)
	return l, nil
}

// Lock waits until nobody else holds name, or ctx ends; then it fails. If Redis cannot be used, or not any longer, it returns
// within about two seconds, without an error and with nothing locked. The error of unlock says that the lock was lost, or could
// not be given back and will end by itself.
func (l *Locker) Lock(ctx context.Context, name string) (unlock func() error, err error) {
	key, token := l.prefix()+name, rand.Text()
	woken, leave := l.enqueue(key)
	defer leave()
	for {
		if !l.usable() {
			return nothing, nil
		}
		start := time.Now()
		held, err := l.take(ctx, key, token)
		switch {
		case held:
			return l.hold(key, token, start), nil
		case ctx.Err() != nil:
			return nil, waitError(ctx, name)
		case err != nil:
			return nothing, nil
		}
		l.listen()
		select {
		case <-ctx.Done():
			return nil, waitError(ctx, name)
		case <-l.life.Done(): // nothing is usable any longer
		case <-woken:
		case <-time.After(l.poll + mrand.N(l.poll)):
		}
	}
}

// nothing unlocks what is not locked.
func nothing() error { return nil }

// Close gives up waiting and keeps no lock any longer: who wants a lock, or waits for one, gets one that locks nothing.
func (l *Locker) Close() error {
	l.mu.Lock() // nothing is started from here on
	l.end(errClosed)
	l.mu.Unlock()
	err := l.client.Close()
	l.running.Wait()
	if errors.Is(err, redis.ErrClosed) {
		return nil
	}
	return err
}

func waitError(ctx context.Context, name string) error {
	return fmt.Errorf("redislock: waiting for %s: %w", name, context.Cause(ctx))
}

func (l *Locker) prefix() string { return cmp.Or(l.Prefix, "modfetch:") }

// start runs f in a goroutine that Close waits for, unless the Locker is closed.
func (l *Locker) start(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.life.Err() != nil {
		return false
	}
	l.running.Go(f)
	return true
}
