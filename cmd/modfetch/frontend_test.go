package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestRequestID(t *testing.T) {
	for _, test := range []struct {
		id   string
		keep bool
	}{
		{"", false},
		{"7f3a-9:b/c=", true},
		{strings.Repeat("x", 64), true},
		{strings.Repeat("x", 65), false},
		{"two words", false},
		{"bell\a", false},
		{"\x7f", false},
		{"é", false},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("X-Request-Id", test.id)
		if id := requestID(r); (id == test.id) != test.keep || id == "" || len(id) > 64 {
			t.Errorf("%q becomes %q", test.id, id)
		}
	}
}

// pipes is a Listener without sockets, so that time can be faked.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if c, ok := <-p; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (p pipes) Close() error   { return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

// readSlowly serves a megabyte to a client that reads n bytes each time that the pause is over, and returns what it gets.
func readSlowly(t *testing.T, n int64, pause time.Duration) (got int64, logged string) {
	content := make([]byte, 1<<20)
	rand.Read(content)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, content, 0o666); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		f := &frontend{metrics: newMetrics(), slots: make(chan struct{}, 1), patience: time.Minute,
			log: slog.New(slog.NewJSONHandler(&log, nil))}
		f.next = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, file) })
		listener := make(pipes, 1)
		server := &http.Server{Handler: f}
		go server.Serve(listener)
		defer synctest.Wait()
		defer server.Close()
		defer close(listener)

		client, conn := net.Pipe()
		defer client.Close()
		listener <- conn
		io.WriteString(client, "GET / HTTP/1.1\r\nHost: x.example\r\nConnection: close\r\n\r\n")
		for {
			time.Sleep(pause)
			m, err := io.CopyN(io.Discard, client, n)
			got += m
			if err != nil {
				return
			}
		}
	})
	return got, log.String()
}

func TestSlowClientIsServed(t *testing.T) {
	got, log := readSlowly(t, 64<<10, 15*time.Second) // for 4 minutes
	if got < 1<<20 || !strings.Contains(log, `"status":200,"bytes":1048576`) || strings.Contains(log, `"cut"`) {
		t.Errorf("a slow client got %d bytes: %s", got, log)
	}
}

func TestStuckClientIsDropped(t *testing.T) {
	got, log := readSlowly(t, 300<<10, 61*time.Second)
	if got >= 1<<20 || strings.Contains(log, `"bytes":1048576`) || !strings.Contains(log, `"cut":true`) {
		t.Errorf("a client that takes nothing for a minute got %d bytes: %s", got, log)
	}
}

// A kernel is a ResponseWriter that can be told to copy a file to the connection.
type kernel struct {
	http.ResponseWriter
	got       bytes.Buffer
	calls     int
	files     int // calls with a file
	deadlines int
	fail      error
}

func (k *kernel) ReadFrom(r io.Reader) (int64, error) {
	k.calls++
	if part, ok := r.(*io.LimitedReader); ok {
		if _, ok := part.R.(*os.File); ok {
			k.files++
		}
	}
	if k.fail != nil {
		return 0, k.fail
	}
	return k.got.ReadFrom(r)
}

func (k *kernel) Write(p []byte) (int, error)         { return k.got.Write(p) }
func (k *kernel) SetWriteDeadline(at time.Time) error { k.deadlines++; return nil }

func TestKernelSendsFiles(t *testing.T) {
	content := make([]byte, 3*step+5)
	rand.Read(content)
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, content, 0o666); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name  string
		src   func(io.Reader) io.Reader
		want  []byte
		steps int
	}{
		{"whole", func(r io.Reader) io.Reader { return r }, content, 4},
		{"limited", func(r io.Reader) io.Reader { return io.LimitReader(r, step+3) }, content[:step+3], 2},
		{"limited beyond its end", func(r io.Reader) io.Reader { return io.LimitReader(r, 1<<40) }, content, 4},
		{"nothing", func(r io.Reader) io.Reader { return io.LimitReader(r, 0) }, nil, 0},
		{"in memory", func(r io.Reader) io.Reader { return io.LimitReader(bytes.NewReader(content), 100) }, content[:100], 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			file, err := os.Open(name)
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			k := new(kernel)
			a := &answer{ResponseWriter: k, patience: time.Minute}
			src := test.src(file)
			n, err := a.ReadFrom(src)
			if n != int64(len(test.want)) || a.bytes != n || err != nil || !bytes.Equal(k.got.Bytes(), test.want) {
				t.Errorf("sent %d bytes, counted %d, %v", n, a.bytes, err)
			}
			if k.calls != test.steps || k.files != test.steps {
				t.Errorf("the kernel was asked %d times, and %d of them for a file, want %d", k.calls, k.files, test.steps)
			}
			if limited, ok := src.(*io.LimitedReader); ok && test.name == "limited" && limited.N != 0 {
				t.Errorf("%d bytes seem to be left", limited.N)
			}
		})
	}
	t.Run("broken connection", func(t *testing.T) {
		file, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		k := &kernel{fail: errors.New("broken")}
		a := &answer{ResponseWriter: k, patience: time.Minute}
		if n, err := a.ReadFrom(file); n != 0 || !errors.Is(err, k.fail) || k.files != 1 {
			t.Errorf("sent %d bytes in %d steps, %v", n, k.files, err)
		}
	})
}

func TestDeadlineIsSetForEveryAnswer(t *testing.T) {
	f := &frontend{metrics: newMetrics(), slots: make(chan struct{}, 1), patience: time.Minute, log: slog.New(slog.DiscardHandler)}
	f.next = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {})
	k := &kernel{ResponseWriter: httptest.NewRecorder()}
	f.ServeHTTP(k, httptest.NewRequest("HEAD", "/", nil))
	if k.deadlines != 1 { // that of the answer before, on the same connection, may have passed
		t.Errorf("%d deadlines", k.deadlines)
	}
}

func TestSilentClientIsDropped(t *testing.T) {
	const request = " / HTTP/1.1\r\nHost: x.example\r\n"
	for _, test := range []struct {
		name, sent string
		want       time.Duration // until the connection is closed
	}{
		{"nothing", "", headerTimeout},
		{"half a header", "GET" + request, headerTimeout},
		{"half a body", "POST" + request + "Content-Length: 100\r\n\r\nhalf", headerTimeout},
		{"one request", "GET" + request + "\r\n", idleTimeout},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &server{log: slog.New(slog.DiscardHandler)}
				f := &frontend{next: http.NotFoundHandler(), log: s.log, metrics: newMetrics(), slots: make(chan struct{}, 1), patience: slowest}
				listener, server := make(pipes, 1), s.newHTTPServer(f)
				go server.Serve(listener)
				defer synctest.Wait()
				defer server.Close()
				defer close(listener)
				client, conn := net.Pipe()
				defer client.Close()
				listener <- conn
				start := time.Now()
				go io.WriteString(client, test.sent)
				io.Copy(io.Discard, client)
				if took := time.Since(start).Round(time.Second); took != test.want {
					t.Errorf("the connection was kept for %s, want %s", took, test.want)
				}
			})
		})
	}
}

func TestPanicIsCounted(t *testing.T) {
	var log bytes.Buffer
	f := &frontend{metrics: newMetrics(), slots: make(chan struct{}, 1), patience: time.Minute, log: slog.New(slog.NewJSONHandler(&log, nil))}
	f.next = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "half")
		panic(http.ErrAbortHandler)
	})
	for range 2 { // the second one finds the slot free
		func() {
			defer func() { recover() }()
			f.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
		}()
	}
	if lines := strings.Split(strings.TrimSpace(log.String()), "\n"); len(lines) != 2 || !strings.Contains(lines[1], `"status":200,"bytes":4`) ||
		!strings.Contains(lines[1], `"cut":true`) {
		t.Errorf("logged %s", log.String())
	}
}

func TestAnswerOfNobody(t *testing.T) {
	if a := answerOf(context.Background()); a != nil {
		t.Errorf("the answer to no request is %v", a)
	}
}
