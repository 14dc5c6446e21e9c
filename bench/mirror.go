package main

import (
	"archive/zip"
	"cmp"
	"context"
	"encoding/pem"
	"fmt"
	"hash/fnv"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A mirror serves a set, and its checksum database, on a loopback port, and counts what it is asked and sends.
type mirror struct {
	conditions
	set    *set
	root   *os.Root // the tree
	sumdb  http.Handler
	server *httptest.Server
	seed   uint64

	requests, sent atomic.Int64 // sent in bytes, headers and TLS records included
	zips           atomic.Int64 // requests for one

	mu  sync.Mutex // guards cut
	cut map[string]bool
}

// conditions are what is to be endured with a mirror. The zero conditions are those of a good one next door.
type conditions struct {
	latency time.Duration // before each answer
	rate    int           // bytes per second of each connection; 0 is no limit
	h2      bool          // TLS and HTTP/2
	hang    bool          // accepts requests and never answers
	dies    int           // closes at this request for a zip; 0 is never
	cutOnce bool          // breaks off the first answer for each zip at a random byte
	corrupt bool          // has a wrong byte in each zip
}

func startMirror(s *set, c conditions, seed uint64) (*mirror, error) {
	root, err := os.OpenRoot(s.tree())
	if err != nil {
		return nil, err
	}
	m := &mirror{conditions: c, set: s, root: root, sumdb: s.log.handler(), seed: seed, cut: make(map[string]bool)}
	m.server = httptest.NewUnstartedServer(m)
	m.server.Listener = &listener{m.server.Listener, m}
	m.server.Config.ErrorLog = log.New(io.Discard, "", 0) // clients that hang up are what is measured
	if c.h2 {
		m.server.EnableHTTP2 = true
		m.server.StartTLS()
	} else {
		m.server.Start()
	}
	return m, nil
}

// close ends what is under way.
func (m *mirror) close() {
	m.server.CloseClientConnections()
	m.server.Close()
	m.root.Close()
}

// certificate is what a client has to trust, in PEM.
func (m *mirror) certificate() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.server.Certificate().Raw})
}

func (m *mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.requests.Add(1)
	if m.hang {
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	}
	if m.latency > 0 {
		pause(r.Context(), m.latency)
	}
	if strings.HasPrefix(r.URL.Path, "/sumdb/") {
		m.sumdb.ServeHTTP(w, r)
		return
	}
	name := strings.TrimPrefix(r.URL.Path, "/")
	f, err := m.root.Open(name)
	if err != nil {
		http.Error(w, "not found: "+name, http.StatusNotFound)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		http.Error(w, "not found: "+name, http.StatusNotFound)
		return
	}
	var content io.ReadSeeker = f
	contentType := "text/plain; charset=utf-8"
	tag := info.ModTime().UnixNano()
	switch path.Ext(name) {
	case ".info":
		contentType = "application/json"
	case ".zip":
		contentType = "application/zip"
		if n := m.zips.Add(1); n == int64(m.dies) {
			go m.server.CloseClientConnections() // which waits for handlers
			m.server.Listener.Close()
			panic(http.ErrAbortHandler)
		}
		if m.corrupt {
			at, err := inLargestFile(f, info.Size())
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			tag++
			content = io.NewSectionReader(&flipped{f, at}, 0, info.Size())
		}
		if m.cutOnce && m.firstFor(name) {
			h := fnv.New64a()
			io.WriteString(h, name)
			w = &cutWriter{w, rand.New(rand.NewPCG(m.seed, h.Sum64())).Int64N(info.Size())}
		}
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("ETag", fmt.Sprintf(`"%x-%x"`, info.Size(), tag))
	http.ServeContent(w, r, "", time.Time{}, content)
}

func (m *mirror) firstFor(name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	first := !m.cut[name]
	m.cut[name] = true
	return first
}

// pause waits for d, unless the client leaves.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		panic(http.ErrAbortHandler)
	}
}

// inLargestFile returns a place in the data of a zip's largest file: names and headers, some of which no hash covers, stay
// as they are.
func inLargestFile(r io.ReaderAt, size int64) (int64, error) {
	z, err := zip.NewReader(r, size)
	if err != nil || len(z.File) == 0 {
		return 0, fmt.Errorf("nothing to corrupt: %v", err)
	}
	largest := slices.MaxFunc(z.File, func(a, b *zip.File) int {
		return cmp.Compare(a.CompressedSize64, b.CompressedSize64)
	})
	start, err := largest.DataOffset()
	return start + int64(largest.CompressedSize64)/2, err
}

// A flipped file has one wrong byte.
type flipped struct {
	io.ReaderAt
	at int64
}

func (f *flipped) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.ReaderAt.ReadAt(p, off)
	if off <= f.at && f.at < off+int64(n) {
		p[f.at-off] ^= 0xff
	}
	return n, err
}

// A cutWriter breaks off after so many bytes.
type cutWriter struct {
	http.ResponseWriter
	left int64
}

func (w *cutWriter) Write(p []byte) (int, error) {
	if int64(len(p)) < w.left {
		w.left -= int64(len(p))
		return w.ResponseWriter.Write(p)
	}
	w.ResponseWriter.Write(p[:w.left])
	http.NewResponseController(w.ResponseWriter).Flush()
	panic(http.ErrAbortHandler)
}

// A listener makes connections that count for a mirror, and are as slow as it should be.
type listener struct {
	net.Listener
	mirror *mirror
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, mirror: l.mirror}, nil
}

type conn struct {
	net.Conn
	mirror *mirror
	due    time.Time // when the next byte may leave; net/http writes to a connection from one goroutine at a time
}

func (c *conn) Write(b []byte) (n int, err error) {
	rate := c.mirror.rate
	if rate == 0 {
		n, err = c.Conn.Write(b)
		c.mirror.sent.Add(int64(n))
		return n, err
	}
	for piece := range slices.Chunk(b, max(rate/50, 1)) {
		time.Sleep(time.Until(c.due))
		m, err := c.Conn.Write(piece)
		n += m
		c.mirror.sent.Add(int64(m))
		if err != nil {
			return n, err
		}
		if now := time.Now(); c.due.Before(now) {
			c.due = now // time in which nothing was to be sent is lost
		}
		c.due = c.due.Add(time.Duration(m) * time.Second / time.Duration(rate))
	}
	return n, nil
}

// ReadFrom lets files go out without a copy, which would cost those who are measured.
func (c *conn) ReadFrom(r io.Reader) (n int64, err error) {
	if c.mirror.rate > 0 {
		return io.Copy(struct{ io.Writer }{c}, r)
	}
	n, err = io.Copy(c.Conn, r)
	c.mirror.sent.Add(n)
	return n, err
}
