package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/modfetch/modfetch"
)

// A readiness tells at /readyz what is wrong: that the directory cannot be written, that the server is ending, or that
// mirrors fail. While mirrors fail the answer is 200 nevertheless: they fail for all replicas, and one that serves what it
// has is better than none.
//
// Everybody may ask. Which mirrors fail is for the log.
type readiness struct {
	try func() error // to write to the directory

	mu      sync.Mutex      // guards the following
	failing map[string]bool // mirrors that have failed since the last good answer of any
	streak  int             // failures since then
	failed  time.Time       // the last one
	ending  bool

	disk    sync.Mutex // guards the following; a disk that hangs must not hold up attempts, which need mu
	checked time.Time  // when try was called last
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
			r.failing = make(map[string]bool)
		}
		r.failing[i.Mirror] = true
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
	ending, failing := r.ending, 0
	if r.streak >= outage && time.Since(r.failed) < outageAge {
		failing = len(r.failing)
	}
	r.mu.Unlock()
	if ending {
		return http.StatusServiceUnavailable, "degraded: shutting down"
	}
	if why := r.writable(); why != nil {
		var path *fs.PathError
		if errors.As(why, &path) {
			why = path.Err // where the directory is, is nobody's business
		}
		return http.StatusServiceUnavailable, "degraded: the cache directory cannot be written: " + why.Error()
	}
	if failing > 0 {
		return http.StatusOK, fmt.Sprint("degraded: mirrors that fail: ", failing)
	}
	return http.StatusOK, "ok"
}

func (r *readiness) writable() error {
	r.disk.Lock()
	defer r.disk.Unlock()
	if now := time.Now(); now.Sub(r.checked) >= dirInterval {
		r.checked, r.dirErr = now, r.try()
	}
	return r.dirErr
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
