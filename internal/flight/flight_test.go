package flight_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modfetch/modfetch/internal/flight"
)

// A result is what Do returned to one caller.
type result struct {
	val string
	err error
}

// do calls Do in a goroutine of its own.
func do(ctx context.Context, g *flight.Group[string, string], key string, fn func(context.Context) (string, error)) <-chan result {
	ch := make(chan result, 1)
	go func() {
		val, err := g.Do(ctx, key, fn)
		ch <- result{val, err}
	}()
	return ch
}

func never(t *testing.T) func(context.Context) (string, error) {
	return func(context.Context) (string, error) {
		t.Error("the function ran again")
		return "", nil
	}
}

func TestCallersOfOneKeyJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g flight.Group[string, string]
		release := make(chan struct{})
		callers := []<-chan result{do(t.Context(), &g, "a", func(context.Context) (string, error) {
			<-release
			return "once", nil
		})}
		synctest.Wait()
		for range 20 {
			callers = append(callers, do(t.Context(), &g, "a", never(t)))
		}
		synctest.Wait()
		close(release)
		for _, c := range callers {
			if r := <-c; r.val != "once" || r.err != nil {
				t.Errorf("got %q, %v", r.val, r.err)
			}
		}
	})
}

func TestOtherKeysDoNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g flight.Group[string, string]
		release := make(chan struct{})
		a := do(t.Context(), &g, "a", func(context.Context) (string, error) {
			<-release
			return "a", nil
		})
		synctest.Wait()
		if val, err := g.Do(t.Context(), "b", func(context.Context) (string, error) { return "b", nil }); val != "b" || err != nil {
			t.Errorf("got %q, %v", val, err)
		}
		close(release)
		if r := <-a; r.val != "a" {
			t.Errorf("got %q, %v", r.val, r.err)
		}
	})
}

func TestNothingIsRemembered(t *testing.T) {
	for _, test := range []struct {
		name string
		err  error
	}{{"failure", errors.New("failed")}, {"success", nil}} {
		t.Run(test.name, func(t *testing.T) {
			var g flight.Group[string, string]
			for i := range 3 {
				want := fmt.Sprint(i)
				if val, err := g.Do(t.Context(), "a", func(context.Context) (string, error) { return want, test.err }); val != want || err != test.err {
					t.Errorf("call %d: got %q, %v", i, val, err)
				}
			}
		})
	}
}

func TestACallerThatLeavesDisturbsNobody(t *testing.T) {
	cause := errors.New("the first has left")
	for _, test := range []struct {
		name string
		who  int
	}{{"first", 0}, {"second", 1}, {"last", 2}} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var g flight.Group[string, string]
				release := make(chan struct{})
				var callers []<-chan result
				var leave []context.CancelCauseFunc
				for i := range 3 {
					ctx, cancel := context.WithCancelCause(t.Context())
					fn := never(t)
					if i == 0 {
						fn = func(ctx context.Context) (string, error) {
							select {
							case <-release:
								return "done", nil
							case <-ctx.Done():
								return "", ctx.Err()
							}
						}
					}
					leave = append(leave, cancel)
					callers = append(callers, do(ctx, &g, "a", fn))
					synctest.Wait()
				}
				leave[test.who](cause)
				if r := <-callers[test.who]; r.err != cause || r.val != "" {
					t.Errorf("who left got %q, %v, want %v", r.val, r.err, cause)
				}
				synctest.Wait()
				close(release)
				for i, c := range callers {
					if i == test.who {
						continue
					}
					if r := <-c; r.val != "done" || r.err != nil {
						t.Errorf("caller %d got %q, %v", i, r.val, r.err)
					}
				}
			})
		})
	}
}

func TestTheLastToLeaveCancelsAndWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g flight.Group[string, string]
		const cleanup = 10 * time.Second
		cleaned := false
		first, leaveFirst := context.WithCancel(t.Context())
		second, leaveSecond := context.WithCancel(t.Context())
		a := do(first, &g, "a", func(ctx context.Context) (string, error) {
			<-ctx.Done()
			time.Sleep(cleanup)
			cleaned = true
			return "", ctx.Err()
		})
		synctest.Wait()
		b := do(second, &g, "a", never(t))
		synctest.Wait()

		start := time.Now()
		leaveFirst()
		if r := <-a; r.err != context.Canceled || time.Since(start) > 0 {
			t.Errorf("the first got %v after %v, want context.Canceled at once", r.err, time.Since(start))
		}
		leaveSecond()
		synctest.Wait()
		// While it winds up, whoever comes starts afresh.
		if val, err := g.Do(t.Context(), "a", func(context.Context) (string, error) { return "fresh", nil }); val != "fresh" || err != nil {
			t.Errorf("a new caller got %q, %v", val, err)
		}
		if r := <-b; r.err != context.Canceled || !cleaned || time.Since(start) != cleanup {
			t.Errorf("the last got %v after %v, cleaned up %t; want context.Canceled after %v", r.err, time.Since(start), cleaned, cleanup)
		}
	})
}

// TestAnOldCallDoesNotForgetTheNew shows that a cancelled call that ends late leaves alone the one that has taken its key.
func TestAnOldCallDoesNotForgetTheNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g flight.Group[string, string]
		endOld, endNew := make(chan struct{}), make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		old := do(ctx, &g, "a", func(context.Context) (string, error) {
			<-endOld
			return "old", nil
		})
		synctest.Wait()
		cancel()
		synctest.Wait()
		fresh := do(t.Context(), &g, "a", func(context.Context) (string, error) {
			<-endNew
			return "new", nil
		})
		synctest.Wait()
		close(endOld)
		if r := <-old; r.err != context.Canceled {
			t.Errorf("the old caller got %q, %v", r.val, r.err)
		}
		joined := do(t.Context(), &g, "a", never(t))
		synctest.Wait()
		close(endNew)
		for _, c := range []<-chan result{fresh, joined} {
			if r := <-c; r.val != "new" || r.err != nil {
				t.Errorf("got %q, %v", r.val, r.err)
			}
		}
	})
}

func TestUnusedResults(t *testing.T) {
	failed := errors.New("failed")
	for _, test := range []struct {
		name  string
		leave int // how many of two callers leave
		err   error
		want  int
	}{
		{"nobody leaves", 0, nil, 0},
		{"one leaves", 1, nil, 0},
		{"both leave", 2, nil, 1},
		{"both leave a failure", 2, failed, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var unused []string
				g := flight.Group[string, string]{Unused: func(val string) { unused = append(unused, val) }}
				end := make(chan struct{})
				fn := func(context.Context) (string, error) {
					<-end
					return "result", test.err
				}
				var callers []<-chan result
				for i := range 2 {
					ctx, cancel := context.WithCancel(t.Context())
					callers = append(callers, do(ctx, &g, "a", fn))
					synctest.Wait()
					defer cancel()
					if i < test.leave {
						time.AfterFunc(time.Duration(i+1), cancel)
					}
				}
				time.Sleep(time.Second)
				close(end)
				for _, c := range callers {
					<-c
				}
				synctest.Wait()
				if len(unused) != test.want || test.want > 0 && unused[0] != "result" {
					t.Errorf("unused: %q, want %d", unused, test.want)
				}
			})
		})
	}
}

type ctxKey struct{}

func TestTheFirstCallersContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var joined []any
		g := flight.Group[string, string]{Joined: func(ctx, work context.Context, key string) {
			joined = append(joined, ctx.Value(ctxKey{}), work.Value(ctxKey{}), key)
		}}
		ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), ctxKey{}, "first"), time.Hour)
		defer cancel()
		var work context.Context
		release := make(chan struct{})
		first := do(ctx, &g, "a", func(ctx context.Context) (string, error) {
			work = ctx
			<-release
			return "", ctx.Err()
		})
		synctest.Wait()
		if len(joined) > 0 {
			t.Errorf("the first caller is said to have joined: %v", joined)
		}
		if _, ok := work.Deadline(); ok || work.Value(ctxKey{}) != "first" {
			t.Errorf("deadline %t, value %v; want the first caller's values without its deadline", ok, work.Value(ctxKey{}))
		}
		second := do(context.WithValue(t.Context(), ctxKey{}, "second"), &g, "a", never(t))
		synctest.Wait()
		if len(joined) != 3 || joined[0] != "second" || joined[1] != "first" || joined[2] != "a" {
			t.Errorf("Joined was called with %v, want the contexts of the second caller and of the first, and the key", joined)
		}
		close(release)
		if r := <-first; r.err != nil {
			t.Error(r.err)
		}
		<-second
		if work.Err() == nil {
			t.Error("the context of work that has ended is not released")
		}
	})
}

func TestACallerThatIsLateLeavesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g flight.Group[string, string]
		release := make(chan struct{})
		first := do(t.Context(), &g, "a", func(context.Context) (string, error) {
			<-release
			return "done", nil
		})
		synctest.Wait()
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := g.Do(gone, "a", never(t)); err != context.Canceled {
			t.Errorf("error %v, want context.Canceled", err)
		}
		close(release)
		if r := <-first; r.val != "done" || r.err != nil {
			t.Errorf("the first caller got %q, %v", r.val, r.err)
		}
	})
}

// TestManyCallers lets callers come and go. That every goroutine ends is checked by synctest.
func TestManyCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g flight.Group[string, string]
		var running atomic.Int32
		var wg sync.WaitGroup
		for i := range 300 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+i%7)*time.Millisecond)
				defer cancel()
				time.Sleep(time.Duration(i/10) * time.Millisecond)
				val, err := g.Do(ctx, fmt.Sprint(i%3), func(ctx context.Context) (string, error) {
					running.Add(1)
					defer running.Add(-1)
					select {
					case <-time.After(5 * time.Millisecond):
						return "done", nil
					case <-ctx.Done():
						return "", ctx.Err()
					}
				})
				if err == nil && val != "done" || err != nil && ctx.Err() == nil && !errors.Is(err, context.Canceled) {
					t.Errorf("got %q, %v", val, err)
				}
			})
		}
		wg.Wait()
		synctest.Wait()
		if n := running.Load(); n != 0 {
			t.Errorf("%d calls go on", n)
		}
	})
}
