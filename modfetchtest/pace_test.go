package modfetchtest_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modfetch/modfetch/modfetchtest"
)

// A line is what a client sees of an answer, and when. It is in memory, so that a bubble's clock drives the handler, and
// like a socket's it passes nothing on before it is flushed.
type line struct {
	*httptest.ResponseRecorder
	start   time.Time
	header  time.Duration // when it came
	passed  int           // bytes of the body
	most    int           // of them at once
	ended   time.Duration
	aborted bool
}

func (l *line) Flush() {
	if l.passed == 0 {
		l.header = time.Since(l.start)
	}
	l.most = max(l.most, l.Body.Len()-l.passed)
	l.passed = l.Body.Len()
}

// serve asks s in a bubble.
func serve(ctx context.Context, s http.Handler, path string) (l *line) {
	l = &line{ResponseRecorder: httptest.NewRecorder(), start: time.Now()}
	defer func() {
		l.Flush()
		l.ended = time.Since(l.start)
		if p := recover(); p == http.ErrAbortHandler {
			l.aborted = true
		} else if p != nil {
			panic(p)
		}
	}()
	s.ServeHTTP(l, httptest.NewRequestWithContext(ctx, http.MethodGet, path, nil))
	return l
}

// tenK is a file of 10,000 bytes.
func tenK(t *testing.T) *modfetchtest.Server {
	s := modfetchtest.NewServer(t, nil)
	s.Add(modfetchtest.NewModule("example.com/m", "v1.0.0").RawZip([]byte(strings.Repeat("0123456789", 1000))))
	return s
}

func TestLatency(t *testing.T) {
	for name, test := range map[string]struct {
		fault   modfetchtest.Fault
		status  int
		size    int
		aborted bool
	}{
		"honest":    {modfetchtest.Fault{}, 200, 10_000, false},
		"corrupt":   {modfetchtest.CorruptRaw(0), 200, 10_000, false},
		"truncated": {modfetchtest.Truncate(10), 200, 10, true},
		"status":    {modfetchtest.Status(503, "busy"), 503, 5, false},
		"reset":     {modfetchtest.Reset(), 200, 0, true}, // 200 is what a recorder has that was told nothing
	} {
		t.Run(name, func(t *testing.T) {
			s := tenK(t)
			s.Fault("*", test.fault.Latency(time.Hour))
			synctest.Test(t, func(t *testing.T) {
				l := serve(t.Context(), s, zipPath)
				if l.Code != test.status || l.passed != test.size || l.aborted != test.aborted {
					t.Errorf("status %d, %d bytes, aborted %t", l.Code, l.passed, l.aborted)
				}
				if l.header != time.Hour || l.ended != time.Hour {
					t.Errorf("header after %v, end after %v, want an hour and no more", l.header, l.ended)
				}
			})
		})
	}
}

func TestBandwidth(t *testing.T) {
	for name, test := range map[string]struct {
		fault         modfetchtest.Fault
		rate          int
		size          int
		header, ended time.Duration
	}{
		"honest":           {modfetchtest.Fault{}, 1000, 10_000, 0, 9990 * time.Millisecond},
		"not whole pieces": {modfetchtest.Fault{}, 3000, 10_000, 0, 3330 * time.Millisecond},
		"slow":             {modfetchtest.Fault{}, 1, 10_000, 0, 9999 * time.Second},
		"fast":             {modfetchtest.Fault{}, 1_000_000, 10_000, 0, 0},
		"truncated":        {modfetchtest.Truncate(500), 1000, 500, 0, 490 * time.Millisecond},
		"corrupt":          {modfetchtest.CorruptRaw(0), 1000, 10_000, 0, 9990 * time.Millisecond},
		"late":             {modfetchtest.Fault{}.Latency(time.Minute), 1000, 10_000, time.Minute, time.Minute + 9990*time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			s := tenK(t)
			s.Fault("*", test.fault.Bandwidth(test.rate))
			synctest.Test(t, func(t *testing.T) {
				l := serve(t.Context(), s, zipPath)
				if l.passed != test.size || l.ended.Round(time.Microsecond) != test.ended {
					t.Errorf("%d bytes in %v, want %d in %v", l.passed, l.ended, test.size, test.ended)
				}
				if l.header != test.header {
					t.Errorf("header after %v, want %v", l.header, test.header)
				}
				if l.most != min(max(test.rate/100, 1), test.size) {
					t.Errorf("%d bytes at once", l.most)
				}
			})
		})
	}
}

// TestBandwidthOfSmallWrites holds a handler that writes two bytes at a time to the same rate.
func TestBandwidthOfSmallWrites(t *testing.T) {
	s := tenK(t)
	s.Fault("*", modfetchtest.Handler(func(w http.ResponseWriter, r *http.Request) {
		for range 50 {
			if n, err := w.Write([]byte("xy")); n != 2 || err != nil {
				t.Errorf("%d bytes, %v", n, err)
			}
		}
	}).Bandwidth(10))
	synctest.Test(t, func(t *testing.T) {
		if l := serve(t.Context(), s, zipPath); l.passed != 100 || l.ended.Round(time.Microsecond) != 9900*time.Millisecond {
			t.Errorf("%d bytes in %v, want 100 in 9.9s", l.passed, l.ended)
		}
	})
}

func TestBandwidthPassesErrorsOn(t *testing.T) {
	s := tenK(t)
	failed := make(chan error, 1)
	s.Fault("*", modfetchtest.Handler(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1")
		_, err := w.Write([]byte("xy"))
		failed <- err
	}).Bandwidth(1000))
	request(http.MethodGet, s.URL+zipPath)
	if err := <-failed; !errors.Is(err, http.ErrContentLength) {
		t.Errorf("error %v, want that of a body too long", err)
	}
}

func TestSlowAnswersEndWithTheRequest(t *testing.T) {
	for name, test := range map[string]struct {
		fault modfetchtest.Fault
		size  int
	}{
		"latency":   {modfetchtest.Fault{}.Latency(time.Hour), 0},
		"bandwidth": {modfetchtest.Fault{}.Bandwidth(1), 2},
	} {
		t.Run(name, func(t *testing.T) {
			s := tenK(t)
			s.Fault("*", test.fault)
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
				defer cancel()
				if l := serve(ctx, s, zipPath); l.ended != 1500*time.Millisecond || !l.aborted || l.passed != test.size {
					t.Errorf("end after %v with %d bytes, aborted %t", l.ended, l.passed, l.aborted)
				}
			})
		})
	}
}

// TestSlowHeaderAndBody shows over a socket that the header does not wait for the body.
func TestSlowHeaderAndBody(t *testing.T) {
	s := tenK(t)
	s.Fault("*", modfetchtest.Fault{}.Bandwidth(1).Latency(time.Millisecond))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+zipPath, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 || resp.ContentLength != 10_000 {
		t.Errorf("%v", resp)
	}
	if n, err := resp.Body.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("%d bytes, %v, want one", n, err)
	}
	s.Close()
	if _, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%v after Close, want an unexpected EOF", err)
	}
}

func TestOrderOfMethodsDoesNotMatter(t *testing.T) {
	for name, f := range map[string]modfetchtest.Fault{
		"one way":   modfetchtest.Truncate(100).Latency(time.Second).Bandwidth(1000).Header("Content-Length", "200").Ignore("Range").Times(1),
		"the other": modfetchtest.Truncate(100).Times(1).Ignore("Range").Header("Content-Length", "200").Bandwidth(1000).Latency(time.Second),
	} {
		t.Run(name, func(t *testing.T) {
			s := tenK(t)
			s.Fault("*", f)
			synctest.Test(t, func(t *testing.T) {
				l := serve(t.Context(), s, zipPath)
				if l.header != time.Second || l.ended.Round(time.Microsecond) != time.Second+90*time.Millisecond || l.Header().Get("Content-Length") != "200" {
					t.Errorf("header after %v, end after %v, %v", l.header, l.ended, l.Header())
				}
				if l := serve(t.Context(), s, zipPath); l.ended != 0 || l.aborted {
					t.Errorf("second request: %v", l.ended)
				}
			})
		})
	}
}
