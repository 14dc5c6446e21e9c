package modfetch_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/internal/filelock"
	"github.com/modfetch/modfetch/modfetchtest"
	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/note"
)

// databaseOf returns the name of a server's checksum database, which is a host that nobody can resolve.
func databaseOf(s *modfetchtest.Server) string {
	name, _, _ := strings.Cut(s.GOSUMDB(), "+")
	return name
}

// addModule serves a small module and puts it on record.
func addModule(s *modfetchtest.Server, name string) module.Version {
	m := module.Version{Path: "example.com/" + name, Version: "v1.0.0"}
	s.Add(modfetchtest.NewModule(m.Path, m.Version).File("x.go", "package x // "+name+"\n"))
	return m
}

// newBareFetcher makes a Fetcher of nothing but opts.
func newBareFetcher(t testing.TB, opts ...modfetch.Option) *modfetch.Fetcher {
	t.Helper()
	f, err := modfetch.New(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// goEnvOf reads the settings that matter here from an environment in the form of os.Environ.
func goEnvOf(environ []string) (env modfetch.GoEnv) {
	for _, kv := range environ {
		switch name, value, _ := strings.Cut(kv, "="); name {
		case "GOPROXY":
			env.GOPROXY = value
		case "GOSUMDB":
			env.GOSUMDB = value
		case "GOPATH":
			env.GOPATH = value
		case "GOMODCACHE":
			env.GOMODCACHE = value
		}
	}
	return env
}

// A homeHost is a transport by which databases can be reached under their own names: at a server, or nowhere.
type homeHost struct {
	server *modfetchtest.Server // nil refuses

	mu    sync.Mutex // guards asked
	asked []string   // URLs
}

func (h *homeHost) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Hostname() == "127.0.0.1" {
		return http.DefaultTransport.RoundTrip(r)
	}
	h.mu.Lock()
	h.asked = append(h.asked, r.URL.String())
	h.mu.Unlock()
	if h.server == nil {
		return nil, errors.New("out of reach")
	}
	inner, err := http.NewRequestWithContext(r.Context(), r.Method, h.server.URL+"/sumdb/"+r.URL.Host+r.URL.EscapedPath(), nil)
	if err != nil {
		return nil, err
	}
	return http.DefaultTransport.RoundTrip(inner)
}

func (h *homeHost) option() modfetch.Option {
	return modfetch.WithHTTPClient(&http.Client{Transport: h})
}

// lookups lists the paths that were looked up.
func (h *homeHost) lookups() (paths []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, url := range h.asked {
		if _, path, ok := strings.Cut(url, "/lookup/"); ok && !slices.Contains(paths, path) {
			paths = append(paths, path)
		}
	}
	return paths
}

// keyNamed makes the key of a database with the given name.
func keyNamed(t testing.TB, name string) string {
	t.Helper()
	key, err := note.NewEd25519VerifierKey(name, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestGOSUMDBForms(t *testing.T) {
	key := modfetchtest.NewServer(t, nil).GOSUMDB()
	mirrors := modfetch.WithGOPROXY("https://mirror.test")
	for name, good := range map[string]string{
		"name":                     "sum.golang.org",
		"name and URL":             "sum.golang.org https://sums.mirror.example",
		"name in China":            "sum.golang.google.cn",
		"key":                      key,
		"key and URL":              key + " https://sums.mirror.example/path",
		"key and host":             key + " sums.mirror.example",
		"more spaces than needed":  " " + key + "  https://sums.mirror.example ",
		"off":                      "off",
		"key that has a path":      keyNamed(t, "sums.example/go"),
		"key of the public one":    "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8",
		"key and loopback address": key + " http://127.0.0.1:1",
	} {
		if _, err := modfetch.New(mirrors, modfetch.WithSumDB(good)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, c := range map[string]struct{ setting, want string }{
		"nothing":             {"", "want off, or the name or key"},
		"spaces":              {"  ", "want off, or the name or key"},
		"three fields":        {key + " https://a.example https://b.example", "want off, or the name or key"},
		"unknown name":        {"sums.example", "neither a database known by name"},
		"off in other words":  {"OFF", "neither a database known by name"},
		"key cut short":       {key[:len(key)-4], "verifier key"},
		"key with wrong hash": {strings.Replace(key, key[strings.Index(key, "+"):][:9], "+00000000", 1), "verifier key"},
		"scheme":              {key + " ftp://sums.example", "want an http, https or file URL"},
		"no host":             {key + " https://", "host"},
		"password in clear":   {key + " http://user:s3cret@sums.example", "use https"},
		"word for a URL":      {key + " direct", "want an http, https or file URL"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := modfetch.New(mirrors, modfetch.WithSumDB(c.setting))
			if err == nil || !strings.Contains(err.Error(), "WithSumDB is ") || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("WithSumDB: %v, want one that names WithSumDB and says %q, and no secret", err, c.want)
			}
			if strings.TrimSpace(c.setting) == "" {
				return // an unset GOSUMDB is the default
			}
			_, err = modfetch.New(mirrors, modfetch.WithGoEnv(modfetch.GoEnv{GOSUMDB: c.setting}))
			if err == nil || !strings.Contains(err.Error(), "GOSUMDB is ") || strings.Contains(err.Error(), "WithSumDB") {
				t.Errorf("WithGoEnv: %v, want one that names GOSUMDB", err)
			}
		})
	}
	t.Run("host name", func(t *testing.T) {
		for _, host := range []string{"sums.example?x", "sums.example#x", "user@sums.example", "sums example", "[sums"} {
			_, err := modfetch.New(mirrors, modfetch.WithSumDB(keyNamed(t, host)))
			if err == nil || !strings.Contains(err.Error(), "WithSumDB is ") {
				t.Errorf("a database named %q: error %v", host, err)
			}
		}
	})
}

func TestDatabaseIsFoundWhereGOSUMDBSays(t *testing.T) {
	for name, c := range map[string]struct {
		setting func(other *modfetchtest.Server) string
		mirror  int    // requests for the database at the mirror, of two lookups
		other   string // where both lookups arrive at the other server
		strays  int    // requests for lookups elsewhere on the other server
		home    string // where they are tried otherwise
		fails   bool
	}{
		"key":               {setting: (*modfetchtest.Server).GOSUMDB, mirror: 3},
		"URL of a database": {setting: (*modfetchtest.Server).GOSUMDBDirect, other: "/sumdb/*/lookup/*"},
		"URL of a mirror": {
			setting: func(s *modfetchtest.Server) string { return s.GOSUMDB() + " " + s.URL },
			other:   "/sumdb/*/lookup/*", strays: 1,
		},
		"URL out of reach": {setting: func(s *modfetchtest.Server) string { return s.GOSUMDB() + " https://sums.test" }, mirror: 3, home: "https://sums.test/lookup/"},
		"name":             {setting: func(*modfetchtest.Server) string { return "sum.golang.org" }, mirror: 1, home: "https://sum.golang.org/lookup/", fails: true},
		"name in China":    {setting: func(*modfetchtest.Server) string { return "sum.golang.google.cn" }, mirror: 1, home: "https://sum.golang.google.cn/lookup/", fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newWorld(t)
			other := s.Mirror()
			home := &homeHost{}
			f, _ := newFetcher(t, modfetch.WithGOPROXY(s.URL), modfetch.WithSumDB(c.setting(other)), home.option())
			for _, m := range []module.Version{moduleM, moduleV2} {
				if _, err := f.GoMod(t.Context(), m); (err != nil) != c.fails {
					t.Errorf("%s: error %v", m, err)
				}
			}
			if n := s.Count("/sumdb/*") - s.Count("/sumdb/*/tile/*"); n != c.mirror {
				t.Errorf("the mirror got %d requests for the database, want %d", n, c.mirror)
			}
			if n := other.Count(c.other); c.other != "" && n != 2 || c.other == "" && len(other.Log()) > 0 {
				t.Errorf("the other server got %q, want two of %q", other.Requests(), c.other)
			}
			if n := other.Count("/lookup/*"); n != c.strays {
				t.Errorf("the other server got %d requests for lookups elsewhere, want %d", n, c.strays)
			}
			if (len(home.asked) > 0) != (c.home != "") || c.home != "" && !strings.HasPrefix(home.asked[0], c.home) {
				t.Errorf("other hosts got %q, want %q", home.asked, c.home)
			}
			if !c.fails && slices.Contains(home.lookups(), moduleV2.String()) {
				t.Errorf("other hosts got %q, though they were out of reach a moment before", home.asked)
			}
		})
	}
}

// changed is a fault that rewrites honest answers.
func changed(change func([]byte) []byte) modfetchtest.Fault {
	return modfetchtest.Middleware(func(honest http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			a := httptest.NewRecorder()
			honest.ServeHTTP(a, r)
			w.WriteHeader(a.Code)
			if a.Code == http.StatusOK {
				w.Write(change(a.Body.Bytes()))
			}
		})
	})
}

// instead is a fault that answers with what is at another path.
func instead(old, new string) modfetchtest.Fault {
	return modfetchtest.Middleware(func(honest http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r = r.Clone(r.Context())
			r.URL.Path = strings.Replace(r.URL.Path, old, new, 1)
			honest.ServeHTTP(w, r)
		})
	})
}

func TestDatabaseIsReadFromTheNextMirror(t *testing.T) {
	origin := newWorld(t)
	origin.AddRecords(600)
	for name, c := range map[string]struct {
		path   string
		fault  modfetchtest.Fault
		sep    string
		second bool // the second mirror is asked for the database
		home   bool // so is the database's own host
	}{
		"not supported":                {"*/supported", modfetchtest.Status(404), ",", true, false},
		"gone":                         {"*/supported", modfetchtest.Status(410), ",", true, false},
		"supported fails, comma":       {"*/supported", modfetchtest.Status(500), ",", false, true},
		"supported fails, bar":         {"*/supported", modfetchtest.Status(500), "|", true, false},
		"supported is forbidden":       {"*/supported", modfetchtest.Status(403), "|", true, false},
		"supported, not on record":     {"*/lookup/*", modfetchtest.Status(404), ",", true, false},
		"lookup fails, comma":          {"*/lookup/*", modfetchtest.Status(500), ",", false, true},
		"lookup fails, bar":            {"*/lookup/*", modfetchtest.Status(500), "|", true, false},
		"page for a lookup":            {"*/lookup/*", modfetchtest.HTML(), "|", true, false},
		"page for a lookup, comma":     {"*/lookup/*", modfetchtest.HTML(), ",", false, true},
		"garbage for a lookup":         {"*/lookup/*", changed(func([]byte) []byte { return []byte("4\nexample.com/m v1.0.0 h1:x\n\nno note\n") }), "|", true, false},
		"signature is wrong":           {"*/lookup/*", changed(func(b []byte) []byte { return append(b[:len(b)-9], "AAAAAAA=\n"...) }), "|", true, false},
		"signature is wrong, comma":    {"*/lookup/*", changed(func(b []byte) []byte { return append(b[:len(b)-9], "AAAAAAA=\n"...) }), ",", false, true},
		"tiles are missing":            {"*/tile/*", modfetchtest.Status(404), ",", true, false},
		"tiles are too short":          {"*/tile/*", changed(func(b []byte) []byte { return b[:len(b)-32] }), "|", true, false},
		"tiles are too long":           {"*/tile/*", changed(func(b []byte) []byte { return append(b, b[:32]...) }), "|", true, false},
		"tiles are pages":              {"*/tile/*", modfetchtest.HTML(), "|", true, false},
		"connection breaks on a tile":  {"*/tile/*", modfetchtest.Reset(), "|", true, false},
		"lookup breaks off":            {"*/lookup/*", modfetchtest.Truncate(20), "|", true, false},
		"everything hangs up, comma":   {"/sumdb/*", modfetchtest.Reset(), ",", false, true},
		"nothing of it is there":       {"/sumdb/*", modfetchtest.Status(404), ",", true, false},
		"only full tiles are there":    {"*.p/*", modfetchtest.Status(404), ",", true, false},
		"honest":                       {"/none", modfetchtest.Fault{}, ",", false, false},
		"honest, and the order stands": {"/none", modfetchtest.Fault{}, "|", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			for _, reachable := range []bool{true, false} {
				first, second := origin.Mirror(), origin.Mirror()
				first.Fault("/sumdb"+strings.TrimPrefix(c.path, "/sumdb"), c.fault)
				home := &homeHost{}
				if reachable {
					home.server = origin
				}
				f, _ := newFetcher(t, modfetch.WithGOPROXY(first.URL+c.sep+second.URL), modfetch.WithSumDB(first.GOSUMDB()), home.option())
				_, err := f.GoMod(t.Context(), moduleM)
				if ok := !c.home || reachable; ok != (err == nil) || errors.Is(err, fs.ErrNotExist) {
					t.Errorf("own host reachable %t: error %v, want none: %t, and no absence", reachable, err, ok)
				}
				if asked := second.Count("/sumdb/*") > 0; asked != c.second {
					t.Errorf("the second mirror was asked %q, want it asked: %t", second.Requests(), c.second)
				}
				if asked := len(home.asked) > 0; asked != c.home {
					t.Errorf("the database's own host was asked %q, want it asked: %t", home.asked, c.home)
				}
			}
		})
	}
}

func TestMirrorThatDiesInBetweenIsReplaced(t *testing.T) {
	first := newWorld(t)
	last := addModule(first, "last")
	first.AddRecords(600)
	second := first.Mirror()
	t.Cleanup(second.Close)
	f, _ := newFetcher(t, modfetch.WithGOPROXY(first.URL+"|"+second.URL), modfetch.WithSumDB(first.GOSUMDB()))
	if _, err := f.GoMod(t.Context(), moduleM); err != nil {
		t.Fatal(err)
	}
	first.AddRecords(600) // tiles that nobody has yet
	first.Fault("/sumdb/*/tile/*", modfetchtest.Reset())
	if _, err := f.GoMod(t.Context(), moduleV2); err != nil {
		t.Error("dead from the tiles on:", err)
	}
	first.Fault("*", modfetchtest.Reset())
	if _, err := f.GoMod(t.Context(), last); err != nil {
		t.Error("dead:", err)
	}
	if n := second.Count("*/supported"); n != 1 {
		t.Errorf("the second mirror was asked %d times whether it has the database", n)
	}
}

func TestLookupOfWhatIsNowhereIsNoAbsence(t *testing.T) {
	first := newWorld(t)
	second := first.Mirror()
	m := module.Version{Path: "example.com/unlisted", Version: "v1.0.0"}
	first.Add(modfetchtest.NewModule(m.Path, m.Version).Unlisted())
	for name, setting := range map[string]string{"through mirrors": first.GOSUMDB(), "at its own URL": first.GOSUMDBDirect()} {
		home := &homeHost{server: second}
		f, modCache := newFetcher(t, modfetch.WithGOPROXY(first.URL+","+second.URL+",direct"), modfetch.WithSumDB(setting), home.option())
		_, err := f.GoMod(t.Context(), m)
		if err == nil || strings.Contains(err.Error(), "direct") || errors.Is(err, fs.ErrNotExist) || modfetch.KindOf(err) != modfetch.Forbidden || !strings.Contains(err.Error(), databaseOf(first)) {
			t.Errorf("%s: %s error %v, want a forbidden one that names the database", name, modfetch.KindOf(err), err)
		}
		if left := published(t, modCache, m); len(left) > 0 {
			t.Errorf("%s: published %q", name, left)
		}
		if asked := home.lookups(); (len(asked) == 1) != (name == "through mirrors") {
			t.Errorf("%s: the database's own host got %q, want one lookup at last, but not beside a URL", name, asked)
		}
	}
}

func TestOwnHostOutOfReachIsLeftAloneForAWhile(t *testing.T) {
	s := newWorld(t)
	s.Fault("*/lookup/*", modfetchtest.Status(404))
	home := &homeHost{}
	f, _ := newFetcher(t, append(s.Options(), home.option())...)
	for range 2 {
		if _, err := f.GoMod(t.Context(), moduleM); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("error %v, want one that is no absence", err)
		}
	}
	asked := len(home.asked)
	if _, err := f.GoMod(t.Context(), moduleV2); err == nil || errors.Is(err, fs.ErrNotExist) || len(home.asked) > asked || asked == 0 || len(home.lookups()) != 1 {
		t.Errorf("error %v after it was asked for %q", err, home.asked)
	}
	s.ClearFaults()
	if _, err := f.GoMod(t.Context(), moduleM); err != nil {
		t.Errorf("the mirror has the record now: %v", err)
	}
}

func TestWhoHearsOfALookup(t *testing.T) {
	s := newWorld(t)
	modCache := tempDir(t)
	// Modules that are in the cache already, but not the database's record of them: only lookups are asked for.
	download(t, newBareFetcher(t, append(s.Options(), modfetch.WithModCache(modCache))...), allModules...)
	for name, c := range map[string]struct {
		opts       []modfetch.Option
		mirrors    bool // they hear of it
		home       bool // the database's own host does
		unverified string
	}{
		"public":             {mirrors: true},
		"GONOPROXY":          {opts: []modfetch.Option{modfetch.WithGoEnv(modfetch.GoEnv{GONOPROXY: "example.com/m"})}, home: true},
		"GONOSUMDB":          {opts: []modfetch.Option{modfetch.WithGoEnv(modfetch.GoEnv{GONOSUMDB: "*.com/m"})}, unverified: "GONOSUMDB=*.com/m"},
		"GOPRIVATE":          {opts: []modfetch.Option{modfetch.WithGoEnv(modfetch.GoEnv{GOPRIVATE: "example.com"})}, unverified: "GOPRIVATE=example.com"},
		"WithPrivate":        {opts: []modfetch.Option{modfetch.WithPrivate("example.com")}, unverified: "WithPrivate=example.com"},
		"WithRoute":          {opts: []modfetch.Option{modfetch.WithRoute("example.com", s.URL)}, unverified: `WithRoute("example.com")`},
		"another is private": {opts: []modfetch.Option{modfetch.WithPrivate("example.com/mm,example.com/m/v2/x")}, mirrors: true},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.RemoveAll(filepath.Join(modCache, "cache/download/sumdb")); err != nil {
				t.Fatal(err)
			}
			before := len(s.Requests())
			home := &homeHost{server: s.Mirror()}
			f := newBareFetcher(t, append(c.opts, home.option(), modfetch.WithModCache(modCache), modfetch.WithGOPROXY(s.URL), modfetch.WithSumDB(s.GOSUMDB()))...)
			if got := download(t, f, moduleM)[moduleM.Path]; got.Unverified != c.unverified || (got.VerifiedBy != "") != (c.unverified == "") {
				t.Errorf("verified by %q, unverified because of %q; want %q", got.VerifiedBy, got.Unverified, c.unverified)
			}
			heard := strings.Contains(strings.Join(s.Requests()[before:], " "), "/lookup/")
			if heard != c.mirrors {
				t.Errorf("the mirror was asked %q, want a lookup: %t", s.Requests()[before:], c.mirrors)
			}
			if asked := home.lookups(); (len(asked) > 0) != c.home {
				t.Errorf("the database's own host was asked %q, want a lookup: %t", asked, c.home)
			}
		})
	}
}

func TestManyLookupsAtOnce(t *testing.T) {
	first := newWorld(t)
	var mods []module.Version
	for i := range 50 {
		mods = append(mods, addModule(first, fmt.Sprint("lib", i)))
	}
	first.AddRecords(600)
	second := first.Mirror()
	first.Fault("*/supported", modfetchtest.Status(404))
	f, _ := newFetcher(t, modfetch.WithGOPROXY(first.URL+","+second.URL), modfetch.WithSumDB(first.GOSUMDB()))
	var wg sync.WaitGroup
	for _, m := range mods {
		wg.Go(func() {
			if _, err := f.GoMod(t.Context(), m); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, s := range []*modfetchtest.Server{first, second} {
		if n := s.Count("*/supported"); n != 1 {
			t.Errorf("a mirror was asked %d times whether it has the database", n)
		}
	}
	if n := second.Count("*/lookup/*"); n != len(mods) {
		t.Errorf("%d lookups for %d modules", n, len(mods))
	}
}

func TestLookupsOfOneModuleAreJoined(t *testing.T) {
	for _, path := range []string{"*/lookup/*", "*/tile/*", "*/supported"} {
		s := newWorld(t)
		s.Fault("/sumdb/"+path, modfetchtest.Status(403))
		f, modCache := newFetcher(t, s.Options()...)
		if _, err := f.GoMod(t.Context(), moduleM); err == nil {
			t.Fatal("no error")
		}
		failed := s.Count("*/lookup/*")
		s.ClearFaults() // failures are not remembered
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				var err error
				if i%2 == 0 {
					_, err = f.GoMod(t.Context(), moduleM)
				} else {
					_, err = f.Dir(t.Context(), moduleM)
				}
				if err != nil {
					t.Errorf("after a failure of %s: %v", path, err)
				}
			})
		}
		wg.Wait()
		// Afterwards the record is known.
		if err := os.RemoveAll(filepath.Join(modCache, "cache")); err != nil {
			t.Fatal(err)
		}
		download(t, f, moduleM)
		if n := s.Count("*/lookup/*") - failed; n != 1 {
			t.Errorf("after a failure of %s: %d lookups of one module", path, n)
		}
	}
}

func TestCancelledLookupReturns(t *testing.T) {
	for _, path := range []string{"*/supported", "*/lookup/*", "*/tile/*"} {
		t.Run(path, func(t *testing.T) {
			s := newWorld(t)
			s.Fault("/sumdb/"+path, modfetchtest.Hang())
			f, modCache := newFetcher(t, s.Options()...)
			before := runtime.NumGoroutine()
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 2)
			go func() { _, err := f.GoMod(ctx, moduleM); done <- err }()
			go func() { _, err := f.GoMod(ctx, moduleV2); done <- err }()
			for s.Count("/sumdb/"+path) == 0 {
				runtime.Gosched()
			}
			cancel()
			for range 2 {
				select {
				case err := <-done:
					if !errors.Is(err, context.Canceled) {
						t.Errorf("error %v, want context.Canceled", err)
					}
				case <-time.After(time.Second):
					t.Fatal("no return within a second")
				}
			}
			f.Close() // its idle connections
			for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() {
				if time.Now().After(deadline) {
					t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
				}
			}
			for _, m := range []module.Version{moduleM, moduleV2} {
				if left := published(t, modCache, m); len(left) > 0 {
					t.Errorf("published %q", left)
				}
			}
		})
	}
}

func TestCancelledLookupReturnsThoughTheHeadIsLocked(t *testing.T) {
	s := newWorld(t)
	env := modfetch.GoEnv{GOPATH: t.TempDir(), GOMODCACHE: tempDir(t)}
	latest := filepath.Join(env.GOPATH, "pkg/sumdb", databaseOf(s), "latest")
	if err := os.MkdirAll(filepath.Dir(latest), 0o777); err != nil {
		t.Fatal(err)
	}
	lock, err := filelock.Open(t.Context(), latest, nil) // by another process
	if err != nil {
		t.Fatal(err)
	}
	last := &fixedSource{name: "asked just before the database", err: modfetch.ErrUnlisted}
	f := newBareFetcher(t, append(s.Options(), modfetch.WithGoEnv(env), modfetch.WithSums(last))...)
	reached := func(n int) {
		for asked := 0; asked < n; runtime.Gosched() {
			last.mu.Lock()
			asked = len(last.asked)
			last.mu.Unlock()
		}
		for range 1000 { // so that they wait for the lock
			runtime.Gosched()
		}
	}
	patient, impatient := make(chan error, 1), make(chan error, len(allModules))
	go func() { _, err := f.GoMod(t.Context(), moduleM); patient <- err }()
	reached(1)
	ctx, cancel := context.WithCancel(t.Context())
	for _, m := range allModules[1:] {
		go func() { _, err := f.GoMod(ctx, m); impatient <- err }()
	}
	reached(len(allModules))
	cancel()
	for range allModules[1:] {
		select {
		case err := <-impatient:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("error %v, want context.Canceled", err)
			}
		case <-time.After(time.Second):
			t.Error("no return within a second")
		}
	}
	lock.Close()
	if err := <-patient; err != nil {
		t.Error(err)
	}
}

// stateDir returns where a module cache keeps what was proven of a server's checksum database.
func stateDir(modCache string, s *modfetchtest.Server) string {
	return filepath.Join(modCache, "cache/download/sumdb", databaseOf(s))
}

// wantHonestState checks that a module cache holds nothing of the database but what an honest server says.
func wantHonestState(t testing.TB, modCache string, honest *modfetchtest.Server) {
	t.Helper()
	dir := stateDir(modCache, honest)
	for _, name := range files(t, dir) {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if want := httpGet(t, honest.URL+"/sumdb/"+databaseOf(honest)+"/"+name); !bytes.Equal(data, want) {
			t.Errorf("%s is kept as %q, not as %q", name, data, want)
		}
	}
}

func httpGet(t testing.TB, url string) []byte {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", url, resp.Status, err)
	}
	return data
}

func TestWhatCannotBeProvenIsNotBelieved(t *testing.T) {
	origin := newWorld(t)
	origin.AddRecords(600)
	flip := modfetchtest.CorruptRaw(-1)
	for name, c := range map[string]struct {
		path  string
		fault modfetchtest.Fault
	}{
		"a bit of every tile":      {"*/tile/*", flip},
		"a bit of the upper tiles": {"*/tile/8/1/*", flip},
		"a bit of full tiles":      {"*/tile/8/0/000", flip},
		"a bit of partial tiles":   {"*/tile/8/0/*.p/*", flip},
		"another tile":             {"*/tile/8/0/000", instead("/000", "/001")},
		"the record of another":    {"*/lookup/*", instead("/m@v1.0.0", "/m/v2@v2.1.0")},
		"another hash":             {"*/lookup/*", changed(func(b []byte) []byte { return bytes.Replace(b, []byte("h1:"), []byte("h1:AAAA"), 1) })},
		"another number":           {"*/lookup/*", changed(func(b []byte) []byte { return append([]byte("9"), b...) })},
		"a number beyond the tree": {"*/lookup/*", changed(func(b []byte) []byte { return append([]byte("999999"), b...) })},
	} {
		t.Run(name, func(t *testing.T) {
			first, second := origin.Mirror(), origin.Mirror()
			first.Fault("/sumdb/"+c.path, c.fault)
			f, modCache := newFetcher(t, modfetch.WithGOPROXY(first.URL+"|"+second.URL), modfetch.WithSumDB(first.GOSUMDB()))
			got := download(t, f, moduleM)[moduleM.Path]
			if got.VerifiedBy != databaseOf(first) || first.Count("/sumdb/"+c.path) == 0 || second.Count("/sumdb/*") == 0 {
				t.Errorf("verified by %q; the second mirror got %q", got.VerifiedBy, second.Requests())
			}
			wantHonestState(t, modCache, second)

			// Where nobody else can be asked, it is not for want of an answer.
			for _, setting := range []string{first.GOSUMDB(), first.GOSUMDBDirect()} {
				home := &homeHost{}
				f, modCache = newFetcher(t, modfetch.WithGOPROXY(first.URL), modfetch.WithSumDB(setting), home.option())
				_, err := f.GoMod(t.Context(), moduleM)
				says := "cannot be proven"
				if name == "the record of another" {
					says = "without a line for"
				}
				if modfetch.KindOf(err) != modfetch.Security || !strings.Contains(err.Error(), says) {
					t.Errorf("GOSUMDB=%s: %s error %v, want one of security", setting, modfetch.KindOf(err), err)
				}
				if left := published(t, modCache, moduleM); len(left) > 0 {
					t.Errorf("published %q", left)
				}
				wantHonestState(t, modCache, second)
			}
		})
	}
}

func TestFullTileStandsInForAPartialOne(t *testing.T) {
	origin := newWorld(t)
	origin.AddRecords(600)
	old := httpGet(t, origin.URL+"/sumdb/"+databaseOf(origin)+"/lookup/example.com/m@v1.0.0")
	origin.AddRecords(600)
	for name, fault := range map[string]modfetchtest.Fault{"honest": {}, "forged": modfetchtest.CorruptRaw(-1)} {
		first, second := origin.Mirror(), origin.Mirror()
		for _, s := range []*modfetchtest.Server{first, second} {
			s.Fault("*/lookup/*", modfetchtest.Handler(func(w http.ResponseWriter, _ *http.Request) { w.Write(old) }))
			s.Fault("*/tile/8/0/*.p/*", modfetchtest.Status(404))
		}
		first.Fault("*/tile/8/0/002", fault)
		home := &homeHost{server: second}
		f, _ := newFetcher(t, modfetch.WithGOPROXY(first.URL+"|"+second.URL), modfetch.WithSumDB(origin.GOSUMDB()), home.option())
		if _, err := f.GoMod(t.Context(), moduleM); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if n := first.Count("*/tile/8/0/002"); n != 1 {
			t.Errorf("%s: %d requests for the full tile", name, n)
		}
	}
}

func TestForgedLocalStateIsReplaced(t *testing.T) {
	s := newWorld(t)
	s.AddRecords(600)
	another := httpGet(t, s.URL+"/sumdb/"+databaseOf(s)+"/lookup/example.com/old@v3.0.0+incompatible")
	for name, c := range map[string]struct {
		kind  string // of files
		forge func([]byte) []byte
	}{
		"bit of a tile":       {"tile", func(b []byte) []byte { b[len(b)-1] ^= 1; return b }},
		"tile cut short":      {"tile", func(b []byte) []byte { return b[:len(b)-32] }},
		"tile too long":       {"tile", func(b []byte) []byte { return append(b, b[:32]...) }},
		"empty tile":          {"tile", func([]byte) []byte { return nil }},
		"garbage for a tile":  {"tile", func([]byte) []byte { return []byte("garbage") }},
		"nothing but zeros":   {"tile", func(b []byte) []byte { return make([]byte, len(b)) }},
		"empty lookup":        {"lookup", func([]byte) []byte { return nil }},
		"garbage for lookups": {"lookup", func([]byte) []byte { return []byte("garbage") }},
		"changed lookup":      {"lookup", func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("h1:"), []byte("h1:A")) }},
		"unsigned lookup":     {"lookup", func(b []byte) []byte { return append(b[:len(b)-9], "AAAAAAA=\n"...) }},
		"broken off write":    {"lookup", func(b []byte) []byte { return append(b[:20], make([]byte, len(b)-20)...) }},
		"another's lookup":    {"lookup", func([]byte) []byte { return another }},
	} {
		t.Run(name, func(t *testing.T) {
			for _, m := range []module.Version{moduleM, moduleUpper} { // a record that is stored, and one that is not
				f, modCache := newFetcher(t, s.Options()...)
				download(t, f, moduleM, moduleV2)
				dir := filepath.Join(stateDir(modCache, s), c.kind)
				for _, name := range files(t, dir) {
					file := filepath.Join(dir, name)
					data, err := os.ReadFile(file)
					if err == nil {
						err = os.WriteFile(file, c.forge(data), 0o666)
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				tiles := s.Count("*/tile/*")
				again := newBareFetcher(t, append(s.Options(), modfetch.WithModCache(modCache))...)
				if got := download(t, again, m)[m.Path]; got.VerifiedBy != databaseOf(s) {
					t.Errorf("verified by %q", got.VerifiedBy)
				}
				if n := s.Count("*/tile/*") - tiles; n > 0 && name == "empty lookup" { // which is a write that was broken off, no forgery
					t.Errorf("%d tiles were asked for again", n)
				}
				for _, other := range []module.Version{moduleM, moduleV2} { // what is not asked for may stay forged
					if other != m {
						if err := os.Remove(filepath.Join(stateDir(modCache, s), "lookup", other.String())); err != nil {
							t.Fatal(err)
						}
					}
				}
				wantHonestState(t, modCache, s)
			}
		})
	}
}

func TestForkedDatabaseIsNotUsedAnyMore(t *testing.T) {
	for name, more := range map[string]int{"of the same size": 0, "longer": 1, "much longer": 1000} {
		t.Run(name, func(t *testing.T) {
			one := newWorld(t)
			other := addModule(one, "other")
			one.AddRecords(600)
			two := one.Fork()
			two.AddRecords(more)
			env := modfetch.GoEnv{GOPATH: t.TempDir(), GOMODCACHE: tempDir(t)}
			latest := filepath.Join(env.GOPATH, "pkg/sumdb", databaseOf(one), "latest")
			f := newBareFetcher(t, modfetch.WithGoEnv(env), modfetch.WithGOPROXY(one.URL+"|"+two.URL), modfetch.WithSumDB(one.GOSUMDB()))
			if _, err := f.GoMod(t.Context(), moduleM); err != nil {
				t.Fatal(err)
			}
			head, err := os.ReadFile(latest)
			if err != nil {
				t.Fatal(err)
			}
			one.Fault("*/lookup/*", modfetchtest.Status(500))
			_, err = f.GoMod(t.Context(), moduleV2)
			if modfetch.KindOf(err) != modfetch.Security || !strings.Contains(err.Error(), "two histories") || strings.Count(err.Error(), "— "+databaseOf(one)) != 2 {
				t.Errorf("%s error %v, want one of security with both signed heads", modfetch.KindOf(err), err)
			}
			one.ClearFaults()
			asked := one.Count("/sumdb/*") + two.Count("/sumdb/*")
			if _, err := f.GoMod(t.Context(), other); modfetch.KindOf(err) != modfetch.Security {
				t.Errorf("another module: %v, want an error of security", err)
			}
			if err := os.RemoveAll(filepath.Join(env.GOMODCACHE, "cache")); err != nil {
				t.Fatal(err)
			}
			if _, err := f.GoMod(t.Context(), moduleM); modfetch.KindOf(err) != modfetch.Security {
				t.Errorf("a module that was looked up before: %v, want an error of security", err)
			}
			if n := one.Count("/sumdb/*") + two.Count("/sumdb/*"); n > asked {
				t.Errorf("the database was asked %d times more", n-asked)
			}
			if now, err := os.ReadFile(latest); err != nil || !bytes.Equal(now, head) {
				t.Errorf("the kept head is %q, %v; want it unchanged: %q", now, err, head)
			}
			sums, err := modfetch.ParseGoSum("go.sum", []byte(one.GoSum(other.Path, other.Version)))
			if err != nil {
				t.Fatal(err)
			}
			if got := download(t, f.WithGoSum(sums), other)[other.Path]; got.VerifiedBy != "go.sum" {
				t.Errorf("verified by %q, want go.sum to vouch still", got.VerifiedBy)
			}
		})
	}
}

func TestForkIsNoOutageWhenBothSidesHaveGrown(t *testing.T) {
	for name, more := range map[string]int{"a little": 1, "much": 1000} {
		one := newWorld(t)
		one.AddRecords(600)
		two := one.Fork()
		f, _ := newFetcher(t, modfetch.WithGOPROXY(one.URL+","+two.URL), modfetch.WithSumDB(one.GOSUMDB()))
		if _, err := f.GoMod(t.Context(), moduleM); err != nil {
			t.Fatal(err)
		}
		one.AddRecords(more + 3)
		two.AddRecords(more)
		one.Fault("*/lookup/*", modfetchtest.Status(404))
		if _, err := f.GoMod(t.Context(), moduleV2); modfetch.KindOf(err) != modfetch.Security {
			t.Errorf("%s: %s error %v, want one of security", name, modfetch.KindOf(err), err)
		}
	}
}

func TestOlderHeadIsFine(t *testing.T) {
	s := newWorld(t)
	s.AddRecords(600)
	old := httpGet(t, s.URL+"/sumdb/"+databaseOf(s)+"/lookup/example.com/m@v1.0.0")
	s.AddRecords(600)
	env := modfetch.GoEnv{GOPATH: t.TempDir(), GOMODCACHE: tempDir(t)}
	latest := filepath.Join(env.GOPATH, "pkg/sumdb", databaseOf(s), "latest")
	f := newBareFetcher(t, append(s.Options(), modfetch.WithGoEnv(env))...)
	if _, err := f.GoMod(t.Context(), moduleV2); err != nil {
		t.Fatal(err)
	}
	head, _ := os.ReadFile(latest)
	s.Fault("*/lookup/*", modfetchtest.Handler(func(w http.ResponseWriter, _ *http.Request) { w.Write(old) }))
	if _, err := f.GoMod(t.Context(), moduleM); err != nil {
		t.Error(err)
	}
	if now, err := os.ReadFile(latest); err != nil || !bytes.Equal(now, head) || !strings.Contains(string(head), "\n1204\n") {
		t.Errorf("the kept head went from %q to %q, %v", head, now, err)
	}
}

func TestHeadThatIsNotTheDatabases(t *testing.T) {
	s, stranger := newWorld(t), newWorld(t)
	reply := httpGet(t, stranger.URL+"/sumdb/"+databaseOf(stranger)+"/lookup/example.com/m@v1.0.0")
	_, foreign, _ := bytes.Cut(reply, []byte("\n\n"))
	for name, head := range map[string][]byte{
		"another key":          foreign,
		"another key, renamed": bytes.ReplaceAll(foreign, []byte(databaseOf(stranger)), []byte(databaseOf(s))),
		"garbage":              []byte("garbage\n"),
	} {
		for _, when := range []string{"before", "in between"} {
			t.Run(name+", "+when, func(t *testing.T) {
				env := modfetch.GoEnv{GOPATH: t.TempDir(), GOMODCACHE: tempDir(t)}
				latest := filepath.Join(env.GOPATH, "pkg/sumdb", databaseOf(s), "latest")
				f := newBareFetcher(t, append(s.Options(), modfetch.WithGoEnv(env))...)
				if when == "in between" {
					if _, err := f.GoMod(t.Context(), moduleV2); err != nil {
						t.Fatal(err)
					}
				}
				if err := errors.Join(os.MkdirAll(filepath.Dir(latest), 0o777), os.WriteFile(latest, head, 0o666)); err != nil {
					t.Fatal(err)
				}
				_, err := f.GoMod(t.Context(), moduleM)
				if modfetch.KindOf(err) != modfetch.Security || !strings.Contains(err.Error(), latest) {
					t.Errorf("%s error %v, want one of security that names %s", modfetch.KindOf(err), err, latest)
				}
				if now, err := os.ReadFile(latest); err != nil || !bytes.Equal(now, head) {
					t.Errorf("the file is now %q, %v", now, err)
				}
				os.Remove(latest)
				if _, err := f.GoMod(t.Context(), moduleM); err != nil {
					t.Errorf("after the file is moved away: %v", err)
				}
			})
		}
	}
}

// wantOffline lets the go command verify modules of which everything must be in its caches already.
func wantOffline(t testing.TB, goCommand string, s *modfetchtest.Server, env []string, mods []module.Version) {
	t.Helper()
	asked := len(s.Requests())
	args := []string{"mod", "download"}
	for _, m := range mods {
		args = append(args, m.String())
	}
	runGo(t, goCommand, append(env, "GOPROXY=off"), args...)
	if more := s.Requests()[asked:]; len(more) > 0 { // the server is the go command's way to all other hosts too
		t.Errorf("the go command asked for %q", more)
	}
}

func TestGoCommandVerifiesOffline(t *testing.T) {
	goCommand := needGo(t)
	s := newWorld(t)
	s.AddRecords(70_000) // full tiles at two levels, partial ones at three
	last := addModule(s, "last")
	env := s.Env(t)
	f := newBareFetcher(t, modfetch.WithGoEnv(goEnvOf(env)))
	mods := append(slices.Clone(allModules), last)
	download(t, f, mods...)
	for i, n := range []int{0, 1, 300} { // each lookup carries another head
		s.AddRecords(n)
		mods = append(mods, addModule(s, fmt.Sprint("later", i)))
		download(t, f, mods[len(mods)-1])
	}
	wantOffline(t, goCommand, s, env, mods)
}

func TestGoCommandVerifiesOfflineThoughTheHeadMovedElsewhere(t *testing.T) {
	goCommand := needGo(t)
	s := newWorld(t)
	env := s.Env(t)
	elsewhere := goEnvOf(env)
	elsewhere.GOMODCACHE = tempDir(t)
	f, g := newBareFetcher(t, modfetch.WithGoEnv(goEnvOf(env))), newBareFetcher(t, modfetch.WithGoEnv(elsewhere))
	download(t, f, moduleM)
	s.AddRecords(300)
	download(t, g, addModule(s, "elsewhere")) // moves the head of both, and keeps the proof in a cache of its own
	s.AddRecords(300)
	later := addModule(s, "later")
	download(t, f, later)
	wantOffline(t, goCommand, s, env, []module.Version{moduleM, later})
}

func TestHeadStaysWhereTilesCannotBeKept(t *testing.T) {
	s := newWorld(t)
	env := modfetch.GoEnv{GOPATH: t.TempDir(), GOMODCACHE: tempDir(t)}
	f := newBareFetcher(t, append(s.Options(), modfetch.WithGoEnv(env))...)
	if _, err := f.GoMod(t.Context(), moduleM); err != nil {
		t.Fatal(err)
	}
	latest := filepath.Join(env.GOPATH, "pkg/sumdb", databaseOf(s), "latest")
	head, err := os.ReadFile(latest)
	if err != nil {
		t.Fatal(err)
	}
	tiles := filepath.Join(stateDir(env.GOMODCACHE, s), "tile")
	if err := errors.Join(os.RemoveAll(tiles), os.WriteFile(tiles, nil, 0o666)); err != nil {
		t.Fatal(err)
	}
	for _, m := range allModules[1:] {
		s.AddRecords(300)
		if _, err := f.GoMod(t.Context(), m); err != nil {
			t.Error(err)
		}
	}
	if now, err := os.ReadFile(latest); err != nil || !bytes.Equal(now, head) {
		t.Errorf("the go command's head went from %q to %q, %v, and nothing that is kept proves it", head, now, err)
	}
}

func TestHeadOfTheGoCommandIsOnlyReadFromBesideItsCache(t *testing.T) {
	for name, option := range map[string]func() modfetch.Option{
		"no module cache":      func() modfetch.Option { return modfetch.WithCache(new(modfetch.MemCache)) },
		"another module cache": func() modfetch.Option { return modfetch.WithModCache(tempDir(t)) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newWorld(t)
			s.AddRecords(600)
			theirs := modfetch.GoEnv{GOPATH: t.TempDir(), GOMODCACHE: tempDir(t)}
			latest := filepath.Join(theirs.GOPATH, "pkg/sumdb", databaseOf(s), "latest")
			ours := theirs
			if name == "no module cache" {
				ours.GOMODCACHE = ""
			}
			fetch := func(env modfetch.GoEnv, opts ...modfetch.Option) error {
				_, err := newBareFetcher(t, append(opts, modfetch.WithSumDB(s.GOSUMDB()), modfetch.WithGoEnv(env))...).GoMod(t.Context(), moduleM)
				return err
			}
			if err := fetch(ours, modfetch.WithGOPROXY(s.URL), option()); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(latest); err == nil {
				t.Error("the go command's head was written")
			}
			if err := fetch(theirs, modfetch.WithGOPROXY(s.URL)); err != nil {
				t.Fatal(err)
			}
			head, err := os.ReadFile(latest)
			if err != nil {
				t.Fatal(err)
			}
			s.AddRecords(600)
			fork := s.Fork()
			if err := fetch(ours, modfetch.WithGOPROXY(s.URL), option()); err != nil {
				t.Fatal(err)
			}
			if now, err := os.ReadFile(latest); err != nil || !bytes.Equal(now, head) {
				t.Errorf("the go command's head went from %q to %q, %v", head, now, err)
			}

			_, head, _ = bytes.Cut(httpGet(t, s.URL+"/sumdb/"+databaseOf(s)+"/lookup/example.com/m@v1.0.0"), []byte("\n\n"))
			if err := os.WriteFile(latest, head, 0o666); err != nil {
				t.Fatal(err)
			}
			fork.AddRecords(600)
			s.Fault("*/lookup/*", modfetchtest.Status(500))
			err = fetch(ours, modfetch.WithGOPROXY(s.URL+"|"+fork.URL), option())
			if modfetch.KindOf(err) != modfetch.Security || !strings.Contains(err.Error(), "two histories") {
				t.Errorf("%s error %v for a head that contradicts the go command's, want one of security", modfetch.KindOf(err), err)
			}
		})
	}
}
