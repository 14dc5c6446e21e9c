package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/modfetch/modfetch"
)

// A readiness tells at /readyz what is wrong: that the directory cannot be written, that the server is ending, or that
// mirrors fail. While mirrors fail the answer is 200 nevertheless: they fail for all replicas, and one that serves what it
// has is better than none.
type readiness struct {
	dir string

	mu      sync.Mutex               // guards the following
	failing map[string]modfetch.Kind // mirrors that have failed since the last good answer of any
	streak  int                      // failures since then
	failed  time.Time                // the last one
	ending  bool
	checked time.Time // when dir was written last
	dirErr  error
}

const (
	outage      = 3               // failures in a row that are taken for one: a mirror may have one broken file
	outageAge   = 5 * time.Minute // after which nobody knows whether it goes on
	dirInterval = time.Second     // between two tries to write
)

// attemptDone notes what a mirror has answered. That something does not exist is a good answer; a refusal tells nothing.
func (r *readiness) attemptDone(_ context.Context, i modfetch.AttemptInfo) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch i.Kind {
	case "", modfetch.NotFound:
		r.failing, r.streak = nil, 0
	case modfetch.Transient, modfetch.Corrupt, modfetch.Security:
		if i.Overtaken {
			return
		}
		if r.failing == nil {
			r.failing = make(map[string]modfetch.Kind)
		}
		r.failing[i.Mirror] = i.Kind
		r.streak++
		r.failed = time.Now()
	}
}

// end makes the server not ready for good.
func (r *readiness) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ending = true
}

func (r *readiness) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	status, text := r.state()
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	io.WriteString(w, text+"\n")
}

func (r *readiness) state() (status int, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ending {
		return http.StatusServiceUnavailable, "degraded: shutting down"
	}
	if now := time.Now(); now.Sub(r.checked) >= dirInterval {
		r.checked, r.dirErr = now, tryWrite(r.dir)
	}
	if r.dirErr != nil {
		why := r.dirErr
		var path *fs.PathError
		if errors.As(why, &path) {
			why = path.Err // where the directory is, is nobody's business
		}
		return http.StatusServiceUnavailable, "degraded: the cache directory cannot be written: " + why.Error()
	}
	if r.streak >= outage && time.Since(r.failed) < outageAge {
		var list []string
		for _, mirror := range slices.Sorted(maps.Keys(r.failing)) {
			list = append(list, fmt.Sprintf("%s (%s)", mirror, r.failing[mirror]))
		}
		return http.StatusOK, "degraded: no good answer from " + strings.Join(list, ", ")
	}
	return http.StatusOK, "ok"
}

// tryWrite writes a byte, since an empty file can be created on a full disk.
func tryWrite(dir string) error {
	f, err := os.CreateTemp(dir, ".modfetch-readyz-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	_, err = f.Write([]byte{0})
	return err
}
