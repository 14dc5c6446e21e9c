package modfetchtest

import (
	"net/http"
	"slices"
	"strings"
)

// A Request is what a client asked of a [Server], and how it was answered.
type Request struct {
	Method string
	Path   string      // percent-decoded: "/example.com/!upper/@v/v1.0.0.zip"; or a foreign "host:port", see [Server.Env]
	Query  string      // without the question mark
	Header http.Header // not to be changed
	Status int         // 0 if no header was sent, or none yet
}

// Log returns all requests so far, in the order they came in.
func (s *Server) Log() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.log)
}

// Requests returns the paths of all requests so far, in the order they came in.
func (s *Server) Requests() []string {
	var paths []string
	for _, r := range s.Log() {
		paths = append(paths, r.Path)
	}
	return paths
}

// Count returns how many requests so far had a path that matches pattern, by the rule of [Server.Fault].
func (s *Server) Count(pattern string) int {
	n := 0
	for _, r := range s.Log() {
		if match(pattern, r.Path) {
			n++
		}
	}
	return n
}

// match reports whether pattern, in which each * stands for any text, is all of path.
func match(pattern, path string) bool {
	head, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == path
	}
	path, ok := strings.CutPrefix(path, head)
	for ok {
		part, more, star := strings.Cut(rest, "*")
		if !star {
			return strings.HasSuffix(path, rest)
		}
		_, path, ok = strings.Cut(path, part)
		rest = more
	}
	return false
}

// record logs r, and returns a writer that notes the status.
func (s *Server) record(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := len(s.log)
	s.log = append(s.log, Request{
		Method: r.Method,
		Path:   requestPath(r),
		Query:  r.URL.RawQuery,
		Header: r.Header.Clone(),
	})
	return &headerWriter{w, func(code int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if r := &s.log[i]; r.Status < 200 { // after an informational one comes another
			r.Status = code
		}
	}}
}

// A headerWriter calls leaving before a header leaves, so that a client that has the answer finds it in the log, and with
// each piece of the body after it.
type headerWriter struct {
	http.ResponseWriter
	leaving func(code int)
}

func (w *headerWriter) WriteHeader(code int) {
	w.leaving(code)
	w.ResponseWriter.WriteHeader(code)
}

func (w *headerWriter) Write(b []byte) (int, error) {
	w.leaving(http.StatusOK)
	return w.ResponseWriter.Write(b)
}

func (w *headerWriter) Flush() {
	w.leaving(http.StatusOK)
	http.NewResponseController(w.ResponseWriter).Flush()
}

// Unwrap is for [http.ResponseController].
func (w *headerWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
