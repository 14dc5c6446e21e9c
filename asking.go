package modfetch

import (
	"context"
	"sync/atomic"
)

// askedKey is the context key of an *asking.
type askedKey struct{}

// An asking tells whether a mirror was asked for a client: by its own work, or by another's that it joined.
type asking struct {
	asked  atomic.Bool
	joined atomic.Pointer[asking]
}

// anybody reports whether a mirror was asked at all.
func (a *asking) anybody() bool {
	joined := a.joined.Load()
	return a.asked.Load() || joined != nil && joined.asked.Load()
}

func noteAsked(ctx context.Context) {
	if a, ok := ctx.Value(askedKey{}).(*asking); ok {
		a.asked.Store(true)
	}
}

func shareAsked(ctx, work context.Context) {
	a, ok := ctx.Value(askedKey{}).(*asking)
	if first, _ := work.Value(askedKey{}).(*asking); ok {
		a.joined.Store(first)
	}
}
