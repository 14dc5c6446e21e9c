package graph_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modfetch/modfetch/graph"
	"golang.org/x/mod/module"
)

// oldGoMod writes a go.mod whose whole graph is read, and which requires these modules.
func oldGoMod(t *testing.T, require ...string) (file string) {
	file = filepath.Join(t.TempDir(), "go.mod")
	text := "module X/main\ngo 1.16\n"
	for _, r := range require {
		text += "require " + r + "\n"
	}
	writeFile(t, file, expand(text))
	return file
}

func TestRequestsStartAsSoonAsTheyAreKnown(t *testing.T) {
	file := oldGoMod(t, "X/slow v1.0.0", "X/fast v1.0.0")
	synctest.Test(t, func(t *testing.T) {
		src := goModOf(func(ctx context.Context, m module.Version) (string, error) {
			switch m.Path {
			case "example.com/fast":
				time.Sleep(time.Second)
				return "module X/fast\nrequire X/next v1.0.0", nil
			default:
				time.Sleep(10 * time.Second)
				return "module " + m.Path, nil
			}
		})
		start := time.Now()
		if _, err := graph.Load(t.Context(), src, file, 2); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != 11*time.Second {
			t.Errorf("Load took %v, want 11s: next follows fast and does not wait for slow", took)
		}
	})
}

func TestJobs(t *testing.T) {
	for jobs, want := range map[int]int32{1: 1, 4: 4, 0: 64, -1: 64, 200: 150} {
		t.Run(fmt.Sprintf("%d jobs", jobs), func(t *testing.T) {
			var require []string
			for i := range 150 {
				require = append(require, fmt.Sprintf("X/m%d v1.0.0", i))
			}
			file := oldGoMod(t, require...)
			synctest.Test(t, func(t *testing.T) {
				var running, most atomic.Int32
				src := goModOf(func(ctx context.Context, m module.Version) (string, error) {
					most.Store(max(most.Load(), running.Add(1)))
					defer running.Add(-1)
					time.Sleep(time.Second)
					return "module " + m.Path, nil
				})
				if _, err := graph.Load(t.Context(), src, file, jobs); err != nil {
					t.Fatal(err)
				}
				if most.Load() != want {
					t.Errorf("%d requests ran at a time, want %d", most.Load(), want)
				}
			})
		})
	}
}

// In a bubble, Test fails if a goroutine outlives Load.
func TestCancel(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer error // of the source, once ctx is done
	}{
		{"the source returns the error of ctx", context.Canceled},
		{"the source returns an error of its own", errors.New("connection torn down")},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := oldGoMod(t, "X/a v1.0.0", "X/b v1.0.0", "X/c v1.0.0")
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(time.Second, cancel)
				src := goModOf(func(ctx context.Context, m module.Version) (string, error) {
					<-ctx.Done()
					return "", c.answer
				})
				start := time.Now()
				got, err := graph.Load(ctx, src, file, 2)
				if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), file) {
					t.Errorf("Load returned %v and the error %v, want context.Canceled and the name of the file", got, err)
				}
				if took := time.Since(start); took != time.Second {
					t.Errorf("Load took %v, want 1s", took)
				}
			})
		})
	}
}

func TestNothingIsRequestedAfterCancelling(t *testing.T) {
	file := oldGoMod(t, "X/a v1.0.0", "X/b v1.0.0", "X/c v1.0.0", "X/d v1.0.0", "X/e v1.0.0")
	ctx, cancel := context.WithCancel(t.Context())
	var requests atomic.Int32
	src := goModOf(func(_ context.Context, m module.Version) (string, error) {
		requests.Add(1)
		cancel()
		return "module " + m.Path, nil
	})
	if _, err := graph.Load(ctx, src, file, 1); !errors.Is(err, context.Canceled) || requests.Load() != 1 {
		t.Errorf("Load made %d requests and returned the error %v, want one request and context.Canceled", requests.Load(), err)
	}
}

func TestTheFirstFailureEndsTheRest(t *testing.T) {
	file := oldGoMod(t, "X/a v1.0.0", "X/bad v1.0.0", "X/c v1.0.0")
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		src := goModOf(func(ctx context.Context, m module.Version) (string, error) {
			if m.Path == "example.com/bad" {
				time.Sleep(time.Second)
				return "", broken
			}
			<-ctx.Done()
			return "", ctx.Err()
		})
		_, err := graph.Load(t.Context(), src, file, 0)
		if !errors.Is(err, broken) || !strings.Contains(err.Error(), "example.com/main requires example.com/bad@v1.0.0: broken") {
			t.Errorf("Load returned the error %v, want the one that came first", err)
		}
	})
}
