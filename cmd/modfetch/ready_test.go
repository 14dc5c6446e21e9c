package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modfetch/modfetch"
)

func TestReadiness(t *testing.T) {
	failed := func(mirror string, kind modfetch.Kind) modfetch.AttemptInfo {
		return modfetch.AttemptInfo{Mirror: mirror, Kind: kind}
	}
	a, b := failed("https://a.example", modfetch.Transient), failed("https://b.example", modfetch.Security)
	overtaken := modfetch.AttemptInfo{Mirror: "https://c.example", Kind: modfetch.Transient, Overtaken: true}
	for _, test := range []struct {
		name     string
		attempts []modfetch.AttemptInfo
		after    time.Duration
		want     string
	}{
		{"nothing yet", nil, 0, "ok"},
		{"one failure", []modfetch.AttemptInfo{a, a}, 0, "ok"},
		{"outage", []modfetch.AttemptInfo{b, a, a}, 0, "degraded: mirrors that fail: 2"},
		{"outage a while ago", []modfetch.AttemptInfo{a, a, a}, 4 * time.Minute, "degraded: mirrors that fail: 1"},
		{"outage long ago", []modfetch.AttemptInfo{a, a, a}, 6 * time.Minute, "ok"},
		{"a good answer", []modfetch.AttemptInfo{a, a, a, failed("https://b.example", "")}, 0, "ok"},
		{"a 404", []modfetch.AttemptInfo{a, a, a, failed("https://b.example", modfetch.NotFound)}, 0, "ok"},
		{"only one left", []modfetch.AttemptInfo{b, a, a, failed("https://a.example", ""), b, b, b}, 0,
			"degraded: mirrors that fail: 1"},
		{"refusals", []modfetch.AttemptInfo{a, a, failed("https://b.example", modfetch.Forbidden)}, 0, "ok"},
		{"slower than others", []modfetch.AttemptInfo{overtaken, overtaken, overtaken}, 0, "ok"},
		{"gone clients", []modfetch.AttemptInfo{a, a, failed("https://a.example", modfetch.Canceled)}, 0, "ok"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				r := &readiness{try: func() error { return tryWrite(dir) }}
				for _, i := range test.attempts {
					r.attemptDone(t.Context(), i)
				}
				time.Sleep(test.after)
				if status, text := r.state(); status != 200 || text != test.want {
					t.Errorf("%d %s, want 200 %s", status, text, test.want)
				}
				r.end()
				if status, text := r.state(); status != 503 || text != "degraded: shutting down" {
					t.Errorf("at the end: %d %s", status, text)
				}
			})
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Errorf("left in the directory: %v", left)
			}
		})
	}
}

func TestReadinessOfDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	synctest.Test(t, func(t *testing.T) {
		r := &readiness{try: func() error { return tryWrite(dir) }}
		state := func(want int) {
			t.Helper()
			status, text := r.state()
			if status != want || strings.Contains(text, dir) || want == 503 && !strings.HasPrefix(text, "degraded: the cache directory cannot be written: no ") {
				t.Errorf("%d %s, want %d", status, text, want)
			}
		}
		time.Sleep(time.Hour)
		state(503)
		if err := os.Mkdir(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		state(503) // it is not tried for each request
		time.Sleep(dirInterval)
		state(200)
	})
}

func TestHangingDiskHoldsUpNoFetch(t *testing.T) {
	trying, goOn := make(chan bool), make(chan bool)
	r := &readiness{try: func() error {
		trying <- true
		<-goOn
		return nil
	}}
	asked := make(chan bool)
	go func() {
		defer close(asked)
		r.state()
	}()
	defer func() {
		close(goOn)
		<-asked
	}()
	<-trying
	if !r.mu.TryLock() {
		t.Fatal("what every attempt needs is locked while the disk is waited for")
	}
	r.mu.Unlock()
	r.attemptDone(t.Context(), modfetch.AttemptInfo{Mirror: "https://a.example", Kind: modfetch.Transient})
	r.end()
	if status, text := r.state(); status != 503 || text != "degraded: shutting down" {
		t.Errorf("at the end: %d %s", status, text)
	}
}
