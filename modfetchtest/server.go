package modfetchtest

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb"
)

// A Server is a module mirror and, under /sumdb/, a checksum database, both on a loopback port. [NewServer] and [Start]
// make one; the zero Server is of no use. Its methods may be called by several goroutines at once.
type Server struct {
	URL string // http://127.0.0.1:port, a GOPROXY

	mirror *mirror
	db     *database    // where records are added
	shown  *database    // what clients see: db, or what it was when Lag was called
	sumdb  http.Handler // of shown

	http   *http.Server
	stop   context.CancelFunc // ends the requests under way
	served chan struct{}      // closed when no more connections are accepted
	conns  sync.WaitGroup     // connections open
	once   sync.Once          // for Close

	mu        sync.Mutex // guards the fields below
	rules     []*rule    // the last one that matches wins
	log       []Request
	offshoots []*Server // made by Mirror, Lag and Fork, closed with this one
}

// NewServer starts a server of the modules in fsys, which may be nil, and closes it when the test is over. It fails the
// test if fsys has a module that cannot be served.
func NewServer(tb testing.TB, fsys fs.FS) *Server {
	tb.Helper()
	s, err := Start(fsys)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Close)
	return s
}

// Start is [NewServer] without a test: the caller closes the server.
func Start(fsys fs.FS) (*Server, error) {
	db, err := newDatabase()
	if err != nil {
		return nil, fmt.Errorf("modfetchtest: making a key: %w", err)
	}
	mods, err := load(fsys)
	if err != nil {
		return nil, fmt.Errorf("modfetchtest: %w", err)
	}
	m := new(mirror)
	for _, mod := range mods {
		if err := add(m, db, mod); err != nil {
			return nil, fmt.Errorf("modfetchtest: %w", err)
		}
	}
	return listen(m, db, db)
}

// Add serves a module, here and at every server that [Server.Mirror] or [Server.Lag] made of the same modules, and appends
// its record to the checksum database. A version added again is served with the new content, but the database, which never
// changes its mind, keeps the old record. Add panics if the module cannot be built; see [NewModule].
func (s *Server) Add(m Module) {
	if err := add(s.mirror, s.db, m); err != nil {
		panic("modfetchtest: " + err.Error())
	}
}

func add(m *mirror, db *database, mod Module) error {
	a, err := mod.build()
	if err != nil {
		return err
	}
	m.add(mod.id, a)
	if !mod.unlisted {
		db.add(mod.id, a.sum, a.modSum)
	}
	return nil
}

// GoSum returns the two go.sum lines of a module that s serves: the true ones, whatever the checksum database says. It
// returns "" if there is no such module.
func (s *Server) GoSum(path, version string) string {
	m := module.Version{Path: path, Version: version}
	a := s.mirror.artifacts(m)
	if a == nil {
		return ""
	}
	return string(record(m, a.sum, a.modSum))
}

// Mirror starts a second server of the same modules and the same checksum database, with faults and a log of its own.
// Closing s closes it too. Mirror panics if there is no port to listen on.
func (s *Server) Mirror() *Server { return s.spawn(s.mirror, s.db, s.shown) }

func (s *Server) spawn(m *mirror, db, shown *database) *Server {
	t, err := listen(m, db, shown)
	if err != nil {
		panic(err.Error())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.offshoots = append(s.offshoots, t)
	return t
}

// Close breaks off all requests and connections, waits for their ends, and closes the servers made by [Server.Mirror],
// [Server.Lag] and [Server.Fork]. The port then refuses connections; the log stays readable. Closing again does nothing.
func (s *Server) Close() {
	s.once.Do(func() {
		s.mu.Lock()
		offshoots := s.offshoots
		s.mu.Unlock()
		for _, t := range offshoots {
			t.Close()
		}
		s.stop()
		s.http.Close()
		<-s.served
		s.conns.Wait()
	})
}

func listen(m *mirror, db, shown *database) (*Server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("modfetchtest: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &Server{
		URL:    "http://" + l.Addr().String(),
		mirror: m,
		db:     db,
		shown:  shown,
		sumdb:  http.StripPrefix("/sumdb/"+db.name, sumdb.NewServer(shown)),
		stop:   stop,
		served: make(chan struct{}),
	}
	s.http = &http.Server{
		Handler:     s,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				s.conns.Add(1)
			case http.StateClosed, http.StateHijacked:
				s.conns.Done()
			}
		},
	}
	go func() { // until Close
		defer close(s.served)
		s.http.Serve(l)
	}()
	return s, nil
}

// ServeHTTP answers a request that came in some other way than over s's own port, with the same faults and into the same
// log: over TLS or HTTP/2, without a socket in a [testing/synctest] bubble, where latency costs no time, or through another
// Server, by [Handler](s.ServeHTTP). Such a request ends with its own context; [Server.Close] does not know of it.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w = s.record(w, r)
	s.fault(requestPath(r)).serve(w, r, http.HandlerFunc(s.answer))
}

// answer is what an honest server says.
func (s *Server) answer(w http.ResponseWriter, r *http.Request) {
	path := requestPath(r)
	rest, isDB := strings.CutPrefix(path, "/sumdb/")
	switch {
	case !strings.HasPrefix(path, "/"):
		text(w, http.StatusForbidden, "this is a server for tests, not a way to "+path)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		text(w, http.StatusMethodNotAllowed, "only GET and HEAD are answered")
	case !isDB:
		s.mirror.ServeHTTP(w, r)
	case rest == s.db.name+"/supported":
	case strings.HasPrefix(rest, s.db.name+"/"):
		s.sumdb.ServeHTTP(w, r)
	default:
		text(w, http.StatusNotFound, "the checksum database here is "+s.db.name)
	}
}

// requestPath is the path of a request, or, without the leading slash, the foreign address that somebody who takes the
// server for an HTTP proxy wants to reach.
func requestPath(r *http.Request) string {
	return r.URL.Host + r.URL.Path
}

func text(w http.ResponseWriter, code int, body string) {
	setDefault(w.Header(), "Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	fmt.Fprintln(w, body)
}

// setDefault leaves alone what a [Fault.Header] has set, or left out.
func setDefault(h http.Header, key, value string) {
	if _, ok := h[http.CanonicalHeaderKey(key)]; !ok {
		h.Set(key, value)
	}
}
