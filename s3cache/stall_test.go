package s3cache_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/modfetch/modfetch/s3cache"
)

// inBubble runs a test against a store whose network is pipes, on the bubble's clock.
func inBubble(t *testing.T, s *store, test func(t *testing.T, c *s3cache.Cache)) {
	synctest.Test(t, func(t *testing.T) {
		defer time.Sleep(time.Minute) // the server closes connections with a delay
		l := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
		server := &http.Server{Handler: s}
		go server.Serve(l)
		defer server.Close()
		s.end = make(chan struct{})
		defer close(s.end)
		transport := &http.Transport{DialContext: l.dial}
		defer transport.CloseIdleConnections()
		client, err := minio.New("store.test", &minio.Options{
			Creds: credentials.NewStaticV4(accessKey, secretKey, ""), Region: "us-east-1", Transport: transport, MaxRetries: 3,
		})
		if err != nil {
			t.Fatal(err)
		}
		test(t, s3cache.New(client, bucket, "prefix"))
	})
}

// pipes is a net.Listener without a network.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case l.conns <- far:
		return near, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Close() error {
	close(l.closed)
	return nil
}

func (l *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// stall answers nothing.
func (s *store) stall() bool {
	<-s.end
	return true
}

func TestStalledOpen(t *testing.T) {
	s := newStore()
	s.before = func(http.ResponseWriter, *http.Request) bool { return s.stall() }
	inBubble(t, s, func(t *testing.T, c *s3cache.Cache) {
		begin := time.Now()
		if _, err := c.Open(t.Context(), name); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begin) != s3cache.Patience {
			t.Errorf("%v after %v, want a timeout after %v", err, time.Since(begin), s3cache.Patience)
		}
	})
}

func TestStalledRead(t *testing.T) {
	s := newStore()
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Last-Modified", "Sun, 09 Sep 2001 01:46:40 GMT")
		w.Header().Set("ETag", `"1"`)
		w.Header().Set("Content-Length", "1000")
		io.WriteString(w, strings.Repeat("x", 500))
		w.(http.Flusher).Flush()
		return s.stall()
	}
	inBubble(t, s, func(t *testing.T, c *s3cache.Cache) {
		r, err := c.Open(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		time.Sleep(time.Hour) // what the caller does is not timed
		buf := make([]byte, 250)
		if _, err := io.ReadFull(r, buf); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if _, err := io.ReadFull(r, buf); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if n, err := r.Read(buf); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begin) != s3cache.Patience {
			t.Errorf("%d bytes, %v after %v, want a timeout after %v", n, err, time.Since(begin), s3cache.Patience)
		}
	})
}

// TestStalledPut has the store stall at each step. What it aborts then is not answered either.
func TestStalledPut(t *testing.T) {
	for _, method := range []string{http.MethodPost, http.MethodPut, "complete"} {
		for _, size := range []int64{10, s3cache.PartSize + 1} {
			if size == 10 && method != http.MethodPut {
				continue
			}
			s := newStore()
			s.put(name, "old")
			var stalled atomic.Bool
			s.before = func(w http.ResponseWriter, r *http.Request) bool {
				completes := r.Method == http.MethodPost && r.URL.Query().Has("uploadId")
				if r.Method == method || method == "complete" && completes {
					stalled.Store(true)
				}
				return stalled.Load() && s.stall()
			}
			inBubble(t, s, func(t *testing.T, c *s3cache.Cache) {
				begin := time.Now()
				err := c.Put(t.Context(), name, &zeros{size: size})
				if took := time.Since(begin); !errors.Is(err, os.ErrDeadlineExceeded) || took < s3cache.Patience || took > s3cache.Patience+time.Second {
					t.Errorf("%s of %d bytes: %v after %v, want a timeout after %v", method, size, err, took, s3cache.Patience)
				}
			})
			if got, _ := s.object(name); got != "old" {
				t.Errorf("the object is %q", got)
			}
		}
	}
}

// TestSlowPut shows that a store that is slow, but moves, is waited for, and so is content.
func TestSlowPut(t *testing.T) {
	for _, size := range []int64{10, 2 * s3cache.PartSize} {
		s := newStore()
		s.before = func(w http.ResponseWriter, r *http.Request) bool {
			r.Body = &slowBody{ReadCloser: r.Body}
			return false
		}
		inBubble(t, s, func(t *testing.T, c *s3cache.Cache) {
			begin := time.Now()
			content := &zeros{size: size, during: func() error {
				time.Sleep(time.Hour)
				return nil
			}}
			if err := c.Put(t.Context(), name, content); err != nil {
				t.Errorf("%v after %v", err, time.Since(begin))
			}
			if got, _ := s.object(name); int64(len(got)) != size {
				t.Errorf("%d bytes are stored, want %d", len(got), size)
			}
		})
	}
}

// A slowBody waits before each MiB.
type slowBody struct {
	io.ReadCloser
	left int
}

func (b *slowBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		time.Sleep(s3cache.Patience - time.Second)
		b.left = 1 << 20
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// TestCancellation shows that nobody who cancels waits longer than a second, though the store answers nothing any more.
func TestCancellation(t *testing.T) {
	for what, call := range map[string]func(ctx context.Context, c *s3cache.Cache) error{
		"open": func(ctx context.Context, c *s3cache.Cache) error {
			_, err := c.Open(ctx, name)
			return err
		},
		"put": func(ctx context.Context, c *s3cache.Cache) error { return c.Put(ctx, name, &zeros{size: 10}) },
		"parts": func(ctx context.Context, c *s3cache.Cache) error {
			return c.Put(ctx, name, &zeros{size: s3cache.PartSize + 1})
		},
	} {
		t.Run(what, func(t *testing.T) {
			s := newStore()
			s.before = func(w http.ResponseWriter, r *http.Request) bool {
				return !r.URL.Query().Has("uploads") && s.stall()
			}
			inBubble(t, s, func(t *testing.T, c *s3cache.Cache) {
				gone := errors.New("the caller has left")
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(5*time.Second, func() { cancel(gone) })
				begin := time.Now()
				if err := call(ctx, c); !errors.Is(err, gone) || time.Since(begin) > 6*time.Second {
					t.Errorf("%v after %v", err, time.Since(begin))
				}
			})
		})
	}
}
