package s3cache_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestWhatIsOpenIsNeverMixed replaces an object between two requests of a reader, in stores with and without conditions.
func TestWhatIsOpenIsNeverMixed(t *testing.T) {
	serve := func(w http.ResponseWriter, r *http.Request, text, etag string) {
		if etag != "" {
			w.Header().Set("ETag", etag)
		}
		http.ServeContent(w, r, "", time.Unix(1e9, 0), strings.NewReader(text))
	}
	old, replacement := strings.Repeat("o", 1000), strings.Repeat("n", 1000)
	for what, test := range map[string]struct {
		open, then func(w http.ResponseWriter, r *http.Request)
		works      bool
	}{
		"the same": {
			func(w http.ResponseWriter, r *http.Request) { serve(w, r, old, `"old"`) },
			func(w http.ResponseWriter, r *http.Request) { serve(w, r, old, `"old"`) },
			true,
		},
		"replaced": {
			func(w http.ResponseWriter, r *http.Request) { serve(w, r, old, `"old"`) },
			func(w http.ResponseWriter, r *http.Request) { serve(w, r, replacement, `"new"`) },
			false,
		},
		"replaced by a larger one, without conditions": {
			func(w http.ResponseWriter, r *http.Request) { serve(w, r, old, `"old"`) },
			func(w http.ResponseWriter, r *http.Request) {
				r.Header.Del("If-Match")
				serve(w, r, replacement+"n", `"old"`)
			},
			false,
		},
		"replaced, without conditions": {
			func(w http.ResponseWriter, r *http.Request) { serve(w, r, old, `"old"`) },
			func(w http.ResponseWriter, r *http.Request) {
				r.Header.Del("If-Match")
				serve(w, r, replacement, `"new"`)
			},
			false,
		},
		"without ranges": {
			func(w http.ResponseWriter, r *http.Request) { serve(w, r, old, `"old"`) },
			func(w http.ResponseWriter, r *http.Request) {
				r.Header.Del("Range")
				serve(w, r, old, `"old"`)
			},
			false,
		},
		"another range": {
			func(w http.ResponseWriter, r *http.Request) { serve(w, r, old, `"old"`) },
			func(w http.ResponseWriter, r *http.Request) {
				r.Header.Set("Range", "bytes=0-499")
				serve(w, r, old, `"old"`)
			},
			false,
		},
		"no ETag": {
			func(w http.ResponseWriter, r *http.Request) { serve(w, r, old, "") },
			func(w http.ResponseWriter, r *http.Request) { serve(w, r, old, "") },
			false,
		},
		"gone": {
			func(w http.ResponseWriter, r *http.Request) { serve(w, r, old, `"old"`) },
			func(w http.ResponseWriter, r *http.Request) { refuse(w, 404, "NoSuchKey", "gone") },
			false,
		},
	} {
		t.Run(what, func(t *testing.T) {
			s, opened := newStore(), false
			s.before = func(w http.ResponseWriter, r *http.Request) bool {
				if opened {
					test.then(w, r)
				} else {
					opened = true
					test.open(w, r)
				}
				return true
			}
			r, err := s.cache(t).Open(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			buf := make([]byte, 100)
			if _, err := io.ReadFull(r, buf); err != nil || string(buf) != old[:100] {
				t.Fatalf("read %q, %v", buf, err)
			}
			for _, at := range []int64{500, 0} {
				if _, err := r.Seek(at, io.SeekStart); err != nil {
					t.Fatal(err)
				}
				rest, err := io.ReadAll(r)
				works := test.works || what == "without ranges" && at == 0
				if works && (err != nil || string(rest) != old[at:]) {
					t.Errorf("from %d on: %q, %v", at, rest, err)
				}
				if !works && (err == nil || len(rest) > 0) {
					t.Errorf("from %d on: %d bytes, %v, want an error", at, len(rest), err)
				}
			}
		})
	}
}

func TestBodyIsCut(t *testing.T) {
	s := newStore()
	cut := true
	text := strings.Repeat("0123456789", 100_000)
	s.put(name, text)
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		if !cut {
			return false
		}
		cut = false
		w.Header().Set("ETag", etag([]byte(text)))
		w.Header().Set("Last-Modified", "Sun, 09 Sep 2001 01:46:40 GMT")
		w.Header().Set("Content-Length", "1000000")
		io.WriteString(w, text[:500_000])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	r, err := s.cache(t).Open(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var got bytes.Buffer
	if _, err := got.ReadFrom(r); err == nil || errors.Is(err, fs.ErrNotExist) || !strings.HasPrefix(text, got.String()) || got.Len() == len(text) {
		t.Errorf("read %d bytes, %v, want an error", got.Len(), err)
	}
	if _, err := got.ReadFrom(r); err != nil || got.String() != text { // who reads on gets the rest
		t.Errorf("and then %d bytes, %v", got.Len(), err)
	}
}

func TestClosed(t *testing.T) {
	s := newStore()
	s.put(name, "text")
	r, err := s.cache(t).Open(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	s.asked()
	if n, err := r.Read(make([]byte, 10)); n > 0 || !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Read: %d, %v", n, err)
	}
	if _, err := r.Seek(0, io.SeekStart); err == nil {
		t.Error("Seek: no error")
	}
	if err := r.Close(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Close: %v", err)
	}
	if got := s.asked(); len(got) > 0 {
		t.Errorf("requests %q", got)
	}
}
