package redislock

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	lease   = 2 * time.Second // after the last renewal, somebody else may have the lock
	renewal = lease * 3 / 10  // so that one that fails can be repeated, twice
)

// A token tells one holder from another: who has lost a lock must neither prolong nor end somebody else's.
var (
	renew = redis.NewScript(`
if redis.call('get', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('pexpire', KEYS[1], ARGV[2])`)

	// Publishing may be forbidden where the keys are not; then the waiters find out by polling.
	release = redis.NewScript(`
if redis.call('get', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('del', KEYS[1])
redis.pcall('publish', ARGV[2], KEYS[1])
return 1`)
)

var errLost = errors.New("redislock: the lock was lost before it was unlocked; somebody else may have had it since")

// take asks for the lock once. A caller that leaves does not wait for the answer; what is granted to it is given back.
func (l *Locker) take(ctx context.Context, key, token string) (held bool, err error) {
	type answer struct {
		held bool
		err  error
	}
	answers := make(chan answer) // without a buffer: either the caller has the lock, or it is given back
	started := l.start(func() {
		op, cancel := context.WithTimeout(l.life, patience)
		defer cancel()
		held, err := l.client.SetNX(op, key, token, lease).Result()
		l.report(err)
		select {
		case answers <- answer{held, err}:
		case <-ctx.Done():
			if held {
				l.giveBack(key, token)
			}
		}
	})
	if !started {
		return false, errClosed
	}
	select {
	case a := <-answers:
		return a.held, a.err
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}

// hold renews the lease that was asked for at start, until it is unlocked or lost.
func (l *Locker) hold(key, token string, start time.Time) (unlock func() error) {
	ctx, stop := context.WithCancelCause(l.life)
	l.start(func() {
		if err := l.keep(ctx, key, token, start.Add(lease)); err != nil {
			stop(err)
		}
	})
	return sync.OnceValue(func() error {
		stop(nil) // changes nothing if the lock is lost already, or the Locker closed
		if err := context.Cause(ctx); err != context.Canceled {
			return err
		}
		return l.giveBack(key, token)
	})
}

// keep renews a lease that lasts until the given time. It returns an error if the lease is lost, and nil if ctx ends.
func (l *Locker) keep(ctx context.Context, key, token string, until time.Time) error {
	tick := time.NewTicker(renewal)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		start := time.Now()
		op, cancel := context.WithTimeout(ctx, renewal)
		held, err := renew.Run(op, l.client, []string{key}, token, lease.Milliseconds()).Bool()
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil && held:
			until = start.Add(lease)
		case err == nil:
			return errLost
		case time.Now().After(until):
			l.report(err)
			return errLost
		}
	}
}

// giveBack ends a lease and tells those who wait.
func (l *Locker) giveBack(key, token string) error {
	var held bool
	err := errDown
	if l.usable() {
		op, cancel := context.WithTimeout(l.life, patience)
		defer cancel()
		held, err = release.Run(op, l.client, []string{key}, token, l.prefix()).Bool()
		l.report(err)
	}
	switch {
	case err != nil:
		return fmt.Errorf("redislock: unlocking, which will happen by itself within %v: %w", lease, l.plain(err))
	case !held:
		return errLost
	}
	return nil
}
