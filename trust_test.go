package modfetch_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
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
)

// The tests of this file are named after the invariants of the package; each goes red when the line that guards it is
// removed.

// published lists the files of m that are visible under final names.
func published(t testing.TB, modCache string, m module.Version) []string {
	t.Helper()
	path, _ := module.EscapePath(m.Path)
	version, _ := module.EscapeVersion(m.Version)
	var out []string
	for _, name := range files(t, modCache) {
		if strings.HasPrefix(name, path+"@"+version+"/") || strings.HasPrefix(name, "cache/download/"+path+"/@v/"+version+".") {
			out = append(out, name)
		}
	}
	return out
}

func TestI1NothingIsSeenBeforeSomebodyVouches(t *testing.T) {
	t.Run("wrong zip", func(t *testing.T) {
		s := newWorld(t)
		s.Fault("*/m/@v/v1.0.0.zip", modfetchtest.Corrupt())
		f, modCache := newFetcher(t, s.Options()...)
		_, err := f.Dir(t.Context(), moduleM)
		var sum *modfetch.ChecksumError
		if !errors.As(err, &sum) || sum.Mirror != s.URL || modfetch.KindOf(err) != modfetch.Corrupt {
			t.Errorf("error %v, want a checksum mismatch that names %s", err, s.URL)
		}
		if left := published(t, modCache, moduleM); len(left) > 0 {
			t.Errorf("published: %q", left)
		}
	})
	t.Run("wrong go.mod", func(t *testing.T) {
		s := newWorld(t)
		s.Fault("*/m/@v/v1.0.0.mod", modfetchtest.Corrupt())
		f, modCache := newFetcher(t, s.Options()...)
		if data, err := f.GoMod(t.Context(), moduleM); modfetch.KindOf(err) != modfetch.Corrupt {
			t.Errorf("got %q, %v, want a checksum mismatch", data, err)
		}
		if left := published(t, modCache, moduleM); len(left) > 0 {
			t.Errorf("published: %q", left)
		}
	})
	t.Run("while the database is silent", func(t *testing.T) {
		s := newWorld(t)
		s.Fault("/sumdb/*/lookup/*", modfetchtest.Hang())
		f, modCache := newFetcher(t, s.Options()...)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			_, err := f.Dir(ctx, moduleM)
			done <- err
		}()
		// The zip has arrived and been extracted once its staging tree is complete.
		for !slices.ContainsFunc(files(t, modCache), func(name string) bool { return strings.HasSuffix(name, "/testdata/big.txt") }) {
			runtime.Gosched()
		}
		if left := published(t, modCache, moduleM); slices.ContainsFunc(left, func(name string) bool { return !strings.HasSuffix(name, ".tmp") }) {
			t.Errorf("published: %q", left)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want context.Canceled", err)
		}
		if left := files(t, modCache); len(left) > 0 {
			t.Errorf("left after cancellation: %q", left)
		}
	})
	t.Run("not on record", func(t *testing.T) {
		s := newWorld(t)
		s.Add(modfetchtest.NewModule("example.com/unlisted", "v1.0.0").File("x.go", "package x\n").Unlisted())
		f, modCache := newFetcher(t, s.Options()...)
		m := module.Version{Path: "example.com/unlisted", Version: "v1.0.0"}
		if _, err := f.Dir(t.Context(), m); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("error %v, want one that is not an absence", err)
		}
		if left := published(t, modCache, m); len(left) > 0 {
			t.Errorf("published: %q", left)
		}
	})
	t.Run("exempt", func(t *testing.T) {
		s := newWorld(t)
		for setting, opts := range map[string][]modfetch.Option{
			"GOSUMDB=off":               {modfetch.WithGOPROXY(s.URL), modfetch.WithSumDB("off")},
			"GONOSUMDB=example.com/*":   append(s.Options(), modfetch.WithGoEnv(modfetch.GoEnv{GONOSUMDB: "example.com/*"})),
			`WithRoute("example.com")`:  append(s.Options(), modfetch.WithRoute("example.com", s.URL)),
			"GOPRIVATE=*.com,corp.test": append(s.Options(), modfetch.WithGoEnv(modfetch.GoEnv{GOPRIVATE: "*.com,corp.test", GONOPROXY: "none"})),
		} {
			f, _ := newFetcher(t, opts...)
			m := download(t, f, moduleM)[moduleM.Path]
			if m.Unverified != setting || m.VerifiedBy != "" || m.Sum == "" {
				t.Errorf("unverified because of %q, verified by %q, sum %q; want %q alone, and a sum", m.Unverified, m.VerifiedBy, m.Sum, setting)
			}
			strict, modCache := newFetcher(t, append(opts, modfetch.WithPolicy(modfetch.Policy{RequireVerified: true}))...)
			if _, err := strict.Dir(t.Context(), moduleM); !errors.Is(err, modfetch.ErrForbidden) || !strings.Contains(err.Error(), setting) {
				t.Errorf("with RequireVerified: %v, want a refusal that names %s", err, setting)
			}
			if left := published(t, modCache, moduleM); len(left) > 0 {
				t.Errorf("published: %q", left)
			}
		}
	})
}

func TestI2PrivatePathsGoNowhere(t *testing.T) {
	private := module.Version{Path: "corp.test/secret", Version: "v1.0.0"}
	for name, fault := range map[string]modfetchtest.Fault{
		"honest": {}, "404": modfetchtest.Status(404), "500": modfetchtest.Status(500), "reset": modfetchtest.Reset(),
		"corrupt": modfetchtest.Corrupt(), "HTML": modfetchtest.HTML(),
	} {
		t.Run(name, func(t *testing.T) {
			first := newWorld(t)
			second, routed := first.Mirror(), first.Mirror()
			first.Add(modfetchtest.NewModule("routed.test/m", "v1.0.0").File("x.go", "package x\n"))
			first.Add(modfetchtest.NewModule("hidden.test/m", "v1.0.0").File("x.go", "package x\n"))
			for _, s := range []*modfetchtest.Server{first, second} {
				s.Fault("*", fault)
			}
			t.Setenv("PATH", "") // no go command for direct
			for _, opts := range [][]modfetch.Option{
				{modfetch.WithPrivate("corp.test")},
				{modfetch.WithGoEnv(modfetch.GoEnv{GOPRIVATE: "corp.test"})},
				{modfetch.WithGoEnv(modfetch.GoEnv{GONOPROXY: "c*.test", GONOSUMDB: "*.test"})},
			} {
				f, _ := newFetcher(t, append(opts,
					modfetch.WithGOPROXY(first.URL+"|"+second.URL), modfetch.WithSumDB(first.GOSUMDB()),
					modfetch.WithRoute("routed.test", routed.URL))...)
				for _, m := range []module.Version{private, moduleM} {
					f.GoMod(t.Context(), m)
					f.Dir(t.Context(), m)
					f.Versions(t.Context(), m.Path)
					f.Info(t.Context(), m.Path, "latest")
					f.Info(t.Context(), m.Path, m.Version)
				}
				download(t, f, module.Version{Path: "routed.test/m", Version: "v1.0.0"})
			}
			// A path may be for mirrors and yet not for the database.
			f, _ := newFetcher(t, modfetch.WithGoEnv(modfetch.GoEnv{GONOSUMDB: "hidden.test"}),
				modfetch.WithGOPROXY(first.URL+"|"+second.URL), modfetch.WithSumDB(first.GOSUMDB()))
			f.Dir(t.Context(), module.Version{Path: "hidden.test/m", Version: "v1.0.0"})

			for name, s := range map[string]*modfetchtest.Server{"first": first, "second": second} {
				for _, path := range s.Requests() {
					if strings.Contains(path, "corp.test") || strings.Contains(path, "routed.test") || strings.Contains(path, "/lookup/hidden.test") {
						t.Errorf("the %s mirror was asked for %s", name, path)
					}
				}
			}
			if n := routed.Count("/sumdb/*"); n > 0 {
				t.Errorf("the routed mirror was asked for the checksum database %d times", n)
			}
		})
	}
}

func TestI3FailureNeverLooksLikeAbsence(t *testing.T) {
	for name, fault := range map[string]modfetchtest.Fault{
		"corrupt": modfetchtest.Corrupt(), "reset": modfetchtest.Reset(), "403": modfetchtest.Status(403), "500": modfetchtest.Status(500),
		"204": modfetchtest.Status(204), "HTML": modfetchtest.HTML(), "cut": modfetchtest.Truncate(5), "wrong version": modfetchtest.WrongVersion("v9.9.9"),
		"list without a valid line": modfetchtest.Handler(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "not a version\n") }),
	} {
		t.Run(name, func(t *testing.T) {
			s := newWorld(t)
			s.Fault("/example.com/*", fault)
			f, _ := newFetcher(t, s.Options()...)
			calls := map[string]func() error{
				"GoMod":    func() error { _, err := f.GoMod(t.Context(), moduleM); return err },
				"Dir":      func() error { _, err := f.Dir(t.Context(), moduleM); return err },
				"Zip":      func() error { _, err := f.Zip(t.Context(), moduleM); return err },
				"Versions": func() error { _, err := f.Versions(t.Context(), moduleM.Path); return err },
				"Info":     func() error { _, err := f.Info(t.Context(), moduleM.Path, moduleM.Version); return err },
			}
			for call, do := range calls {
				err := do()
				if errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s: %v looks like an absence", call, err)
				}
				if call == "Versions" && err == nil && name != "wrong version" {
					t.Errorf("a broken list looks like a module without versions")
				}
			}
		})
	}
	t.Run("lookup or tile is 404", func(t *testing.T) {
		for _, path := range []string{"/sumdb/*/lookup/*", "/sumdb/*/tile/*", "/sumdb/*/supported"} {
			s := newWorld(t)
			s.AddRecords(1000)
			s.Fault(path, modfetchtest.Status(404))
			f, _ := newFetcher(t, s.Options()...)
			if _, err := f.GoMod(t.Context(), moduleM); err == nil || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: error %v, want one that is not an absence", path, err)
			}
		}
	})
	t.Run("lookup is 404 wherever the database could be", func(t *testing.T) {
		s := newWorld(t)
		s.Fault("/sumdb/*/lookup/*", modfetchtest.Status(404))
		f, _ := newFetcher(t, modfetch.WithGOPROXY(s.URL), modfetch.WithSumDB(s.GOSUMDBDirect()))
		if _, err := f.GoMod(t.Context(), moduleM); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("error %v, want one that is not an absence", err)
		}
	})
	t.Run("one mirror fails and one says 404", func(t *testing.T) {
		first := newWorld(t)
		second := first.Mirror()
		first.Fault("/example.com/*", modfetchtest.Status(500))
		second.Fault("/example.com/*", modfetchtest.Status(404))
		for _, list := range []string{first.URL + "|" + second.URL, second.URL + "," + first.URL} {
			f, _ := newFetcher(t, modfetch.WithGOPROXY(list), modfetch.WithSumDB(first.GOSUMDB()))
			if _, err := f.GoMod(t.Context(), moduleM); errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %v looks like an absence", list, err)
			}
		}
	})
	t.Run("a dialler whose socket is missing", func(t *testing.T) {
		client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(t.TempDir(), "missing"))
		}}}
		f, _ := newFetcher(t, modfetch.WithGOPROXY("http://corp.test"), modfetch.WithHTTPClient(client))
		if _, err := f.GoMod(t.Context(), moduleM); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("error %v, want one that is not an absence", err)
		}
	})
	t.Run("absence itself", func(t *testing.T) {
		s := newWorld(t)
		f, _ := newFetcher(t, s.Options()...)
		if _, err := f.GoMod(t.Context(), module.Version{Path: "example.com/none", Version: "v1.0.0"}); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("error %v, want fs.ErrNotExist", err)
		}
	})
}

func TestI4CommaIsCrossedOnlyForAbsenceOrProvenRubbish(t *testing.T) {
	type world struct {
		first, second *modfetchtest.Server
		goSum         *modfetch.GoSum
	}
	for name, c := range map[string]struct {
		fault   modfetchtest.Fault
		opts    func(world) []modfetch.Option
		private bool // the database is not the public one
		sep     string
		crosses bool
	}{
		"404":                       {fault: modfetchtest.Status(404), crosses: true},
		"410":                       {fault: modfetchtest.Status(410), crosses: true},
		"500":                       {fault: modfetchtest.Status(500)},
		"403":                       {fault: modfetchtest.Status(403)},
		"reset":                     {fault: modfetchtest.Reset()},
		"page":                      {fault: modfetchtest.HTML()},
		"corrupt":                   {fault: modfetchtest.Corrupt(), crosses: true},
		"cut short":                 {fault: modfetchtest.Truncate(9), crosses: true},
		"corrupt, other database":   {fault: modfetchtest.Corrupt(), private: true},
		"corrupt, behind a bar":     {fault: modfetchtest.Corrupt(), private: true, sep: "|", crosses: true},
		"corrupt, pinned by go.sum": {fault: modfetchtest.Corrupt(), opts: func(w world) []modfetch.Option { return []modfetch.Option{modfetch.WithGoSum(w.goSum)} }},
		"page, behind a bar":        {fault: modfetchtest.HTML(), sep: "|", crosses: true},
		"corrupt, StrictComma": {fault: modfetchtest.Corrupt(), opts: func(world) []modfetch.Option {
			return []modfetch.Option{modfetch.WithPolicy(modfetch.Policy{StrictComma: true})}
		}},
		"corrupt, exempt": {fault: modfetchtest.CorruptRaw(0), opts: func(world) []modfetch.Option {
			return []modfetch.Option{modfetch.WithGoEnv(modfetch.GoEnv{GONOSUMDB: "example.com"})}
		}},
		"corrupt, routed": {fault: modfetchtest.CorruptRaw(0), opts: func(w world) []modfetch.Option {
			return []modfetch.Option{modfetch.WithRoute("example.com", w.first.URL+","+w.second.URL)}
		}},
		"cut short, not in a database": {fault: modfetchtest.Truncate(9), opts: func(world) []modfetch.Option {
			return []modfetch.Option{modfetch.WithGoEnv(modfetch.GoEnv{GONOSUMDB: "example.com"})}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var w world
			w.first = newWorld(t)
			w.second = w.first.Mirror()
			w.first.Fault("*.zip", c.fault)
			var err error
			if w.goSum, err = modfetch.ParseGoSum("go.sum", []byte(w.first.GoSum(moduleM.Path, moduleM.Version))); err != nil {
				t.Fatal(err)
			}
			if c.sep == "" {
				c.sep = ","
			}
			var mu sync.Mutex
			crossed := 0
			opts := []modfetch.Option{
				modfetch.WithGOPROXY(w.first.URL + c.sep + w.second.URL), modfetch.WithSumDB(w.first.GOSUMDB()),
				modfetch.WithTrace(&modfetch.Trace{Crossed: func(context.Context, modfetch.AttemptInfo) { mu.Lock(); crossed++; mu.Unlock() }}),
			}
			if c.opts != nil {
				opts = append(opts, c.opts(w)...)
			}
			f, modCache := newFetcher(t, opts...)
			if !c.private {
				modfetch.TreatAsPublic(f)
			}
			_, err = f.Dir(t.Context(), moduleM)
			asked := w.second.Count("*.zip")
			if c.crosses != (asked == 1) || c.crosses != (err == nil) {
				t.Errorf("the second mirror was asked %d times, error %v; want the comma crossed: %t", asked, err, c.crosses)
			}
			proven := c.crosses && c.sep == "," && (strings.HasPrefix(name, "corrupt") || strings.HasPrefix(name, "cut"))
			if proven != (crossed == 1) {
				t.Errorf("the trace was told of %d crossings", crossed)
			}
			if err != nil {
				if !strings.Contains(err.Error(), w.first.URL) || !strings.Contains(err.Error(), "with | before it") {
					t.Errorf("error %v, want it to name the mirror and to say what | would do", err)
				}
				if left := published(t, modCache, moduleM); len(left) > 0 {
					t.Errorf("published: %q", left)
				}
			}
		})
	}
}

func TestI5EachAttemptIsJudged(t *testing.T) {
	bad := newWorld(t)
	good := bad.Mirror()
	bad.Fault("*.zip", modfetchtest.Corrupt())
	bad.Fault("*.mod", modfetchtest.HTML())
	bad.Fault("*.info", modfetchtest.WrongVersion("v9.9.9"))
	var mu sync.Mutex
	condemned := make(map[string]error)
	f, _ := newFetcher(t, modfetch.WithGOPROXY(bad.URL+"|"+good.URL), modfetch.WithSumDB(bad.GOSUMDB()), modfetch.WithTrace(&modfetch.Trace{
		AttemptDone: func(_ context.Context, i modfetch.AttemptInfo) {
			mu.Lock()
			defer mu.Unlock()
			if i.Err != nil && i.Mirror == bad.URL {
				condemned[i.Path] = i.Err
			}
		},
	}))
	for _, m := range download(t, f, allModules...) {
		if m.Mirror != good.URL {
			t.Errorf("%s came from %s", m.Version, m.Mirror)
		}
	}
	found := 0
	for path, err := range condemned {
		switch {
		case modfetch.KindOf(err) == modfetch.Corrupt:
			found++
		case !strings.Contains(err.Error(), "other files from there were condemned"):
			t.Errorf("%s: %v", path, err)
		}
	}
	if found < 3 {
		t.Errorf("%d files condemned: %v", found, condemned)
	}
}

func TestI5BlameNeedsProof(t *testing.T) {
	first := newWorld(t)
	second := first.Mirror()
	wrong, err := modfetch.ParseGoSum("go.sum", []byte("example.com/m v1.0.0 h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"))
	if err != nil {
		t.Fatal(err)
	}
	f, _ := newFetcher(t, modfetch.WithGOPROXY(first.URL+"|"+second.URL), modfetch.WithSumDB(first.GOSUMDB()), modfetch.WithGoSum(wrong))
	_, err = f.Dir(t.Context(), moduleM)
	var sum *modfetch.ChecksumError
	if !errors.As(err, &sum) || sum.Blame != "go.sum" || modfetch.KindOf(err) != modfetch.Security {
		t.Errorf("error %v, want one that blames go.sum", err)
	}
	if n := second.Count("*.zip"); n > 0 {
		t.Errorf("the second mirror was asked %d times for bytes that were right", n)
	}
}

func TestI6OneFillForManyCallers(t *testing.T) {
	s := newWorld(t)
	arrived, release := make(chan struct{}, 1), make(chan struct{})
	s.Fault("*/m/@v/v1.0.0.zip", modfetchtest.Middleware(func(honest http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			arrived <- struct{}{}
			select {
			case <-release:
			case <-r.Context().Done():
			}
			honest.ServeHTTP(w, r)
		})
	}))
	var joined sync.WaitGroup
	f, _ := newFetcher(t, append(s.Options(), modfetch.WithTrace(&modfetch.Trace{
		Joined: func(context.Context, module.Version) { joined.Done() },
	}))...)

	ctx, leave := context.WithCancel(t.Context())
	first := make(chan error)
	go func() { _, err := f.Dir(ctx, moduleM); first <- err }()
	<-arrived
	var wg sync.WaitGroup
	joined.Add(20)
	for range 20 {
		wg.Go(func() {
			if _, err := f.Dir(t.Context(), moduleM); err != nil {
				t.Error(err)
			}
		})
	}
	joined.Wait()
	leave()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("the caller that left got %v", err)
	}
	close(release)
	wg.Wait()
	if n := s.Count("*/m/@v/v1.0.0.zip"); n != 1 {
		t.Errorf("%d requests for one zip", n)
	}

	t.Run("the last to leave cancels it", func(t *testing.T) {
		s := newWorld(t)
		s.Fault("*.zip", modfetchtest.Stall(10))
		f, modCache := newFetcher(t, s.Options()...)
		ctx, cancel := context.WithCancel(t.Context())
		wg.Go(func() { f.Dir(ctx, moduleM) })
		for s.Count("*.zip") == 0 {
			runtime.Gosched()
		}
		cancel()
		ended := make(chan struct{})
		go func() { wg.Wait(); close(ended) }()
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Fatal("still under way after its last caller has left")
		}
		if left := files(t, modCache); slices.ContainsFunc(left, func(name string) bool { return strings.HasSuffix(name, ".tmp") }) {
			t.Errorf("left: %q", left)
		}
	})
	t.Run("failures are not remembered", func(t *testing.T) {
		s := newWorld(t)
		f, _ := newFetcher(t, s.Options()...)
		s.Fault("*", modfetchtest.Status(403))
		if _, err := f.Dir(t.Context(), moduleM); err == nil {
			t.Fatal("no error")
		}
		s.ClearFaults()
		if _, err := f.Dir(t.Context(), moduleM); err != nil {
			t.Error(err)
		}
	})
}

func TestI7BothWorkInOneModuleCacheAtOnce(t *testing.T) {
	goCommand := needGo(t)
	s := newWorld(t)
	env := append(s.Env(t), "GOFLAGS=")
	var shared, gopath string
	for _, kv := range env {
		if dir, ok := strings.CutPrefix(kv, "GOMODCACHE="); ok {
			shared = dir
		} else if dir, ok := strings.CutPrefix(kv, "GOPATH="); ok {
			gopath = dir
		}
	}
	t.Cleanup(func() { chmodAll(shared) })
	var wg sync.WaitGroup
	for range 2 {
		f, err := modfetch.New(append(s.Options(), modfetch.WithGoEnv(modfetch.GoEnv{GOMODCACHE: shared, GOPATH: gopath}))...)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { download(t, f, allModules...) })
	}
	wg.Go(func() {
		args := []string{"mod", "download"}
		for _, m := range allModules {
			args = append(args, m.String())
		}
		runGo(t, goCommand, env, args...)
	})
	wg.Wait()

	alone := append(s.Env(t), "GOFLAGS=")
	var theirs string
	for _, kv := range alone {
		if dir, ok := strings.CutPrefix(kv, "GOMODCACHE="); ok {
			theirs = dir
		}
	}
	t.Cleanup(func() { chmodAll(theirs) })
	for _, m := range allModules {
		runGo(t, goCommand, alone, "mod", "download", m.String())
	}
	if diff := diffTrees(t, shared, theirs); diff != "" {
		t.Errorf("the module caches differ:\n%s", diff)
	}
	for _, m := range allModules {
		if n := s.Count("/" + proxyPath(t, m) + ".zip"); n != 2 { // one into each module cache
			t.Errorf("%s: %d requests for its zip, want 2", m, n)
		}
	}
}

func proxyPath(t testing.TB, m module.Version) string {
	t.Helper()
	path, err := module.EscapePath(m.Path)
	if err != nil {
		t.Fatal(err)
	}
	version, err := module.EscapeVersion(m.Version)
	if err != nil {
		t.Fatal(err)
	}
	return path + "/@v/" + version
}

func TestI8WhatAMirrorSendsIsBounded(t *testing.T) {
	endless := func(stated int) modfetchtest.Fault {
		return modfetchtest.Handler(func(w http.ResponseWriter, r *http.Request) {
			if stated > 0 {
				w.Header().Set("Content-Length", fmt.Sprint(stated))
			}
			block := []byte(strings.Repeat("v1.0.0\n", 10000))
			for n := 0; n < 64<<20 && r.Context().Err() == nil; n += len(block) {
				if _, err := w.Write(block); err != nil {
					return
				}
			}
		})
	}
	for name, c := range map[string]struct {
		path  string
		fault modfetchtest.Fault
	}{
		"list without end":    {"*/list", endless(0)},
		"list stated too big": {"*/list", endless(17 << 20)},
		".mod without end":    {"*.mod", endless(0)},
		".info without end":   {"*.info", endless(0)},
		"zip stated too big":  {"*.zip", endless(501 << 20)},
		"lookup without end":  {"/sumdb/*/lookup/*", endless(0)},
		"header too big":      {"*.zip", modfetchtest.Fault{}.Header("X-Padding", strings.Repeat("x", 100<<10))},
	} {
		t.Run(name, func(t *testing.T) {
			s := newWorld(t)
			s.Fault(c.path, c.fault)
			f, _ := newFetcher(t, s.Options()...)
			var err error
			switch c.path {
			case "*/list":
				_, err = f.Versions(t.Context(), moduleM.Path)
			case "*.info":
				_, err = f.Info(t.Context(), moduleM.Path, moduleM.Version)
			case "*.mod":
				_, err = f.GoMod(t.Context(), moduleM)
			default:
				_, err = f.Dir(t.Context(), moduleM)
			}
			if err == nil || errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("error %v, want a refusal", err)
			}
			if name != "header too big" && !strings.Contains(err.Error(), "are accepted") {
				t.Errorf("error %v, want one that states the bound", err)
			}
		})
	}
}

func TestI9CancellingEndsEverything(t *testing.T) {
	s := newWorld(t)
	f, modCache := newFetcher(t, s.Options()...)
	download(t, f, moduleUpper) // connections and caches are warm

	lockFile := filepath.Join(modCache, "cache/download/example.com/m/@v/v1.0.0.lock")
	if err := os.MkdirAll(filepath.Dir(lockFile), 0o777); err != nil {
		t.Fatal(err)
	}
	lock, err := filelock.Open(t.Context(), lockFile, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()

	waits := []struct {
		name  string
		begin func()
		sign  func() bool // that the wait has begun
	}{
		{"for a lock", func() {}, func() bool { return true }},
		{"for a header", func() { lock.Close(); s.Fault("*.zip", modfetchtest.Hang()) }, func() bool { return s.Count("*/m/@v/v1.0.0.zip") > 0 }},
		{"for the rest of a zip", func() { s.ClearFaults(); s.Fault("*.zip", modfetchtest.Stall(100)) }, func() bool { return s.Count("*/m/@v/v1.0.0.zip") > 0 }},
	}
	for _, w := range waits {
		w.begin()
		before := runtime.NumGoroutine()
		for range 20 {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { _, err := f.Dir(ctx, moduleM); done <- err }()
			for !w.sign() {
				runtime.Gosched()
			}
			cancel()
			select {
			case err := <-done:
				if !errors.Is(err, context.Canceled) {
					t.Errorf("waiting %s: error %v, want context.Canceled", w.name, err)
				}
			case <-time.After(time.Second):
				t.Fatalf("waiting %s: no return within a second of the cancellation", w.name)
			}
		}
		for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before+5; runtime.Gosched() {
			if time.Now().After(deadline) {
				t.Fatalf("waiting %s: %d goroutines, %d before", w.name, runtime.NumGoroutine(), before)
			}
		}
		for _, name := range files(t, modCache) {
			if strings.Contains(name, ".tmp") {
				t.Errorf("waiting %s: left %s", w.name, name)
			}
		}
	}
}

func TestI10CredentialsStayWithTheirOrigin(t *testing.T) {
	var mu sync.Mutex
	var leaked []string
	other := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		for _, name := range []string{"Authorization", "Referer", "Cookie"} {
			if v := r.Header.Get(name); v != "" {
				leaked = append(leaked, name+": "+v)
			}
		}
		if strings.Contains(r.URL.String(), "s3cret") {
			leaked = append(leaked, r.URL.String())
		}
		io.WriteString(w, `{"Version":"v1.0.0"}`)
	}))
	defer other.Close()
	authorized := 0
	origin := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user == "user-s3cret" && password == "word-s3cret" && r.URL.Query().Get("token") == "query-s3cret" {
			mu.Lock()
			authorized++
			mu.Unlock()
		}
		if strings.HasSuffix(r.URL.Path, ".mod") {
			http.Error(w, "denied", http.StatusForbidden)
			return
		}
		http.Redirect(w, r, other.URL+"/elsewhere", http.StatusFound)
	}))
	defer origin.Close()
	client := origin.Client()
	client.Transport.(*http.Transport).TLSClientConfig.InsecureSkipVerify = true // two test servers, two certificates

	var said []string
	tell := func(_ context.Context, i modfetch.AttemptInfo) {
		mu.Lock()
		defer mu.Unlock()
		said = append(said, fmt.Sprintf("%+v", i))
	}
	list := strings.Replace(origin.URL, "https://", "https://user-s3cret:word-s3cret@", 1) + "?token=query-s3cret"
	f, err := modfetch.New(modfetch.WithGOPROXY(list), modfetch.WithSumDB("off"), modfetch.WithHTTPClient(client),
		modfetch.WithTrace(&modfetch.Trace{AttemptStarted: tell, AttemptDone: tell}))
	if err != nil {
		t.Fatal(err)
	}
	info, err := f.Info(t.Context(), moduleM.Path, moduleM.Version)
	if err != nil || info.Version != "v1.0.0" {
		t.Errorf("info %v, %v", info, err)
	}
	_, err = f.GoMod(t.Context(), moduleM)
	if !errors.Is(err, modfetch.ErrForbidden) {
		t.Errorf("error %v, want a refusal", err)
	}
	said = append(said, fmt.Sprintf("%v %+v", err, err))
	if authorized == 0 {
		t.Error("the mirror itself got no credentials")
	}
	if len(leaked) > 0 {
		t.Errorf("the other origin got %q", leaked)
	}
	for _, s := range said {
		if strings.Contains(s, "s3cret") {
			t.Errorf("a secret in %s", s)
		}
	}
}
