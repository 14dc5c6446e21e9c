// Package flight joins concurrent callers of the same work.
package flight

import (
	"context"
	"sync"
)

// A Group runs one function at a time for each key; the zero value is ready to use.
//
// The function runs under a context that carries the first caller's values but not its cancellation: a caller that leaves
// does not disturb the others, and the last one to leave cancels the work. Nothing is remembered once it has ended.
type Group[K comparable, V any] struct {
	Joined func(ctx, work context.Context, key K) // if set, called with the contexts of each caller that joins another one's call, and of the call
	Held   func(v V, callers int)                 // if set, called with each result and how many callers get it, before they do
	Unused func(V)                                // if set, called once for each caller that Held counted and that left all the same, or if none was left

	mu    sync.Mutex // guards calls and the waiters of each call
	calls map[K]*call[V]
}

type call[V any] struct {
	done    chan struct{} // closed once val and err are set
	work    context.Context
	cancel  context.CancelFunc
	waiters int
	ended   bool // guarded by mu
	val     V
	err     error
}

// Do returns the result of fn for key, joining a call already under way. It returns early with ctx's error if ctx ends.
func (g *Group[K, V]) Do(ctx context.Context, key K, fn func(context.Context) (V, error)) (V, error) {
	g.mu.Lock()
	c := g.calls[key]
	joins := c != nil
	if !joins {
		work, cancel := context.WithCancel(context.WithoutCancel(ctx))
		c = &call[V]{done: make(chan struct{}), work: work, cancel: cancel}
		if g.calls == nil {
			g.calls = make(map[K]*call[V])
		}
		g.calls[key] = c
		go func() { // ends with fn, which ends when work is cancelled
			c.val, c.err = fn(work)
			g.end(key, c)
			cancel()
			close(c.done)
		}()
	}
	c.waiters++
	g.mu.Unlock()
	if joins && g.Joined != nil {
		g.Joined(ctx, c.work, key)
	}

	select {
	case <-c.done:
		return c.val, c.err
	case <-ctx.Done():
	}
	g.mu.Lock()
	if c.ended {
		g.mu.Unlock()
		if c.err == nil && g.Unused != nil {
			g.Unused(c.val)
		}
		var zero V
		return zero, context.Cause(ctx)
	}
	c.waiters--
	last := c.waiters == 0
	if last && g.calls[key] == c {
		delete(g.calls, key) // who comes now starts afresh
	}
	g.mu.Unlock()
	if last {
		c.cancel()
		<-c.done // its temporary files are gone when we return
	}
	var zero V
	return zero, context.Cause(ctx)
}

// end gives the result to those who wait for it at this moment; who comes now starts afresh.
func (g *Group[K, V]) end(key K, c *call[V]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c.ended = true
	switch {
	case c.err != nil:
	case c.waiters > 0 && g.Held != nil:
		g.Held(c.val, c.waiters)
	case c.waiters == 0 && g.Unused != nil:
		g.Unused(c.val)
	}
	if g.calls[key] == c {
		delete(g.calls, key)
	}
}
