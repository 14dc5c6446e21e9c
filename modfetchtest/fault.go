package modfetchtest

import (
	"archive/zip"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Fault is a way to answer wrongly, late, or not at all. The functions that return one say what is answered; [Handler] and
// [Middleware] make others. Its methods say how that arrives, and which requests meet with it. The zero Fault answers
// honestly: Fault{} exempts paths from a wider fault, and Fault{}.Latency(d) is a mirror that is good, but far away.
//
// The methods return a changed copy, and their order does not matter. What one of them sets stays until it is called again,
// with the same key if it has one.
//
// What changes a body leaves alone every answer but 200 and 206: what is not there cannot be corrupted.
type Fault struct {
	middleware func(http.Handler) http.Handler // nil is the honest answer

	latency time.Duration
	rate    int               // bytes per second; 0 is no limit
	header  map[string]string // canonical keys; "" leaves the header out
	ignored []string          // headers of the request

	every, times int // 0 is always
}

type rule struct {
	pattern   string
	fault     Fault
	seen, met int // requests that matched, and those of them that met with the fault
}

// Fault makes the requests whose path matches pattern meet with f, from now on. In a pattern each * stands for any text,
// slashes included, and everything else for itself; the pattern must match the whole path, which is that of the GOPROXY
// protocol, starting with a slash: "*.zip", "/sumdb/*", "/example.com/!upper/@v/list". If several faults match, only the
// last one given applies.
func (s *Server) Fault(pattern string, f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rules = append(s.rules, &rule{pattern: pattern, fault: f})
}

// ClearFaults makes s honest again. Requests under way keep their faults.
func (s *Server) ClearFaults() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rules = nil
}

// fault returns what a request for path meets with.
func (s *Server) fault(path string) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range slices.Backward(s.rules) {
		if match(r.pattern, path) && r.meets() {
			return r.fault
		}
	}
	return Fault{}
}

// meets counts a request that matches, and reports whether it meets with the fault.
func (r *rule) meets() bool {
	r.seen++
	if r.seen%max(r.fault.every, 1) != 0 || r.fault.times > 0 && r.met == r.fault.times {
		return false
	}
	r.met++
	return true
}

func (f Fault) serve(w http.ResponseWriter, r *http.Request, honest http.Handler) {
	if f.latency > 0 {
		pause(r, f.latency)
	}
	if f.rate > 0 {
		w = &pacedWriter{ResponseWriter: w, request: r, rate: f.rate}
	}
	if f.header != nil {
		f.setHeader(w) // for handlers that go by it, as by an ETag
		w = &headerWriter{w, func(int) { f.setHeader(w) }}
	}
	if f.ignored != nil {
		r = r.Clone(r.Context())
		for _, key := range f.ignored {
			r.Header.Del(key)
		}
	}
	if f.middleware != nil {
		honest = f.middleware(honest)
	}
	honest.ServeHTTP(w, r)
}

func (f Fault) setHeader(w http.ResponseWriter) {
	for key, value := range f.header {
		if value == "" {
			w.Header()[key] = nil // so net/http does not add its own
		} else {
			w.Header().Set(key, value)
		}
	}
}

// Times limits f to the first n requests that meet with it; later ones meet with the fault given before it, if any. It
// panics if n is less than one.
func (f Fault) Times(n int) Fault {
	f.times = positive("Times", n)
	return f
}

// Every limits f to every nth of the requests that match; the others meet with the fault given before it, if any. With
// [Fault.Times] too, that many of them meet with it. It panics if n is less than one.
func (f Fault) Every(n int) Fault {
	f.every = positive("Every", n)
	return f
}

// Latency delays the answer, header and all, by d.
func (f Fault) Latency(d time.Duration) Fault {
	f.latency = d
	return f
}

// Bandwidth lets the body of each answer pass at a rate, from its first byte on; the header is not delayed. It panics if the
// rate is less than one.
func (f Fault) Bandwidth(bytesPerSecond int) Fault {
	f.rate = positive("Bandwidth", bytesPerSecond)
	return f
}

// Header adds a header to the answer, such as Retry-After, or in place of an honest one, such as an ETag. An empty value
// leaves the honest one out.
func (f Fault) Header(key, value string) Fault {
	f.header = maps.Clone(f.header)
	if f.header == nil {
		f.header = make(map[string]string)
	}
	f.header[http.CanonicalHeaderKey(key)] = value
	return f
}

// Ignore answers as if the request did not have a header: without Range the file comes whole, without If-Range a part of it
// comes even if it has changed.
func (f Fault) Ignore(key string) Fault {
	f.ignored = append(slices.Clip(f.ignored), key)
	return f
}

func positive(method string, n int) int {
	if n < 1 {
		panic("modfetchtest: " + method + "(" + strconv.Itoa(n) + ") is a fault that cannot happen")
	}
	return n
}

// Handler lets h answer. It must return when the request's context is done, or [Server.Close] waits for it. The writer
// supports [http.ResponseController].
func Handler(h http.HandlerFunc) Fault {
	return Middleware(func(http.Handler) http.Handler { return h })
}

// Middleware is [Handler] for a handler that may call the honest one: before it, to delay or count; with another request;
// or with another writer.
func Middleware(m func(honest http.Handler) http.Handler) Fault { return Fault{middleware: m} }

// Status answers with a status code and lines of plain text; without lines, with the name of the code.
func Status(code int, lines ...string) Fault {
	body := cmp.Or(strings.Join(lines, "\n"), http.StatusText(code))
	return Handler(func(w http.ResponseWriter, r *http.Request) { text(w, code, body) })
}

// HTML answers 200 with a web page, as a captive portal does.
func HTML() Fault {
	const page = "<!DOCTYPE html>\n<title>Welcome</title>\n<p>Please accept the terms of this network.</p>\n"
	return Handler(func(w http.ResponseWriter, r *http.Request) {
		setDefault(w.Header(), "Content-Type", "text/html; charset=utf-8")
		io.WriteString(w, page)
	})
}

// Redirect answers 302 to an address. If it ends in a slash, the path of the request is appended: Redirect(other.URL+"/").
func Redirect(url string) Fault {
	return Handler(func(w http.ResponseWriter, r *http.Request) {
		to := url
		if strings.HasSuffix(url, "/") {
			to += strings.TrimPrefix(r.URL.EscapedPath(), "/")
		}
		http.Redirect(w, r, to, http.StatusFound)
	})
}

// Hang takes the request and never answers.
func Hang() Fault {
	return Handler(func(w http.ResponseWriter, r *http.Request) { hang(r) })
}

// Reset breaks the connection off without an answer, with a TCP RST.
func Reset() Fault {
	return Handler(func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		if tcp, ok := conn.(*net.TCPConn); ok {
			tcp.SetLinger(0)
		}
		conn.Close()
	})
}

// Truncate sends the full length in the header and only the first n bytes of the body, or, if n is negative, all but the
// last -n; then it closes the connection. A body that has no more than n bytes arrives whole.
func Truncate(n int) Fault {
	return partial(n, func(*http.Request) { panic(http.ErrAbortHandler) })
}

// Stall sends what [Truncate] does, and then nothing, but leaves the connection open until the client or the server closes
// it. A body that has no more than n bytes arrives whole.
func Stall(n int) Fault {
	return partial(n, hang)
}

// hang waits until the client is gone or the server closes; then nothing more is sent.
func hang(r *http.Request) {
	<-r.Context().Done()
	panic(http.ErrAbortHandler)
}

func partial(n int, end func(*http.Request)) Fault {
	return Middleware(func(honest http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			a := capture(w, honest, r)
			body := a.Body.Bytes()
			cut := min(n, len(body))
			if n < 0 {
				cut = max(len(body)+n, 0)
			}
			if cut == len(body) || a.Code != http.StatusOK && a.Code != http.StatusPartialContent {
				replay(w, a)
				return
			}
			setDefault(w.Header(), "Content-Length", strconv.Itoa(len(body)))
			w.WriteHeader(a.Code)
			w.Write(body[:cut])
			http.NewResponseController(w).Flush()
			end(r)
		})
	})
}

// Corrupt serves a file in which one byte is another one. A zip stays a valid zip, with the right checksums inside, but a
// file in it differs, and so does its h1; of any other file, and a zip without content, the first byte is
// changed.
func Corrupt() Fault {
	return rewrite(func(body []byte) []byte {
		if z, err := corruptZip(body); err == nil {
			return z
		}
		return flip(body, 0)
	})
}

// CorruptRaw serves a file in which the byte at offset, from the end if negative, is another one. A file that has no such
// byte arrives as it is.
func CorruptRaw(offset int) Fault {
	return rewrite(func(body []byte) []byte { return flip(body, offset) })
}

// WrongVersion serves an .info that names another version. What is not JSON arrives as it is.
func WrongVersion(version string) Fault {
	return rewrite(func(body []byte) []byte {
		var info map[string]any
		if json.Unmarshal(body, &info) != nil {
			return body
		}
		info["Version"] = version
		wrong, err := json.Marshal(info)
		if err != nil {
			return body
		}
		return wrong
	})
}

// rewrite serves a file that has changed, in part and with an ETag like any other.
func rewrite(change func([]byte) []byte) Fault {
	return Middleware(func(honest http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			whole := r.Clone(r.Context())
			if whole.Method == http.MethodHead {
				whole.Method = http.MethodGet
			}
			for _, h := range []string{"Range", "If-Range", "If-Match", "If-None-Match"} {
				whole.Header.Del(h)
			}
			a := httptest.NewRecorder()
			honest.ServeHTTP(a, whole)
			if a.Code != http.StatusOK {
				honest.ServeHTTP(w, r)
				return
			}
			serveContent(w, r, a.Header().Get("Content-Type"), change(a.Body.Bytes()))
		})
	})
}

// capture returns the honest answer and puts its header into that of w, but for what [Fault.Header] has set there.
func capture(w http.ResponseWriter, honest http.Handler, r *http.Request) *httptest.ResponseRecorder {
	a := httptest.NewRecorder()
	maps.Copy(a.Header(), w.Header().Clone())
	honest.ServeHTTP(a, r)
	maps.Copy(w.Header(), a.Header())
	return a
}

func replay(w http.ResponseWriter, a *httptest.ResponseRecorder) {
	w.WriteHeader(a.Code)
	w.Write(a.Body.Bytes())
}

// flip changes body.
func flip(body []byte, offset int) []byte {
	if offset < 0 {
		offset += len(body)
	}
	if offset < 0 || offset >= len(body) {
		return body
	}
	body[offset] ^= 1
	return body
}

// corruptZip changes the first byte of the first file that has one and is not the module's go.mod: that would be noticed
// by who compares it with the .mod file, before a hash is.
func corruptZip(body []byte) ([]byte, error) {
	zr, err := zip.NewReader(bytes.NewReader(body), int64(len(body)))
	if err != nil {
		return nil, err
	}
	victim := slices.IndexFunc(zr.File, func(f *zip.File) bool {
		return f.UncompressedSize64 > 0 && !strings.HasSuffix(f.Name, "/go.mod")
	})
	if victim < 0 {
		victim = slices.IndexFunc(zr.File, func(f *zip.File) bool { return f.UncompressedSize64 > 0 })
	}
	if victim < 0 {
		return nil, errors.New("nothing in it to change")
	}
	var buf bytes.Buffer
	zw := zip.NewWriter(&buf)
	for i, f := range zr.File {
		if i != victim {
			if err := zw.Copy(f); err != nil {
				return nil, err
			}
			continue
		}
		r, err := f.Open()
		if err != nil {
			return nil, err
		}
		content, err := io.ReadAll(r)
		r.Close()
		if err != nil {
			return nil, err
		}
		w, err := zw.Create(f.Name)
		if err != nil {
			return nil, err
		}
		w.Write(flip(content, 0))
	}
	if err := zw.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}
