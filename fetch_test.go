package modfetch_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/modfetchtest"
	"golang.org/x/mod/module"
)

// TestMain puts a fence around the tests: whatever would leave this machine goes to a proxy on loopback that refuses it and
// remembers the host. A host outside of the reserved domain .test, which the tests use for hosts that nobody can reach,
// fails the run. Live tests, behind MODFETCH_LIVE=1, run without it.
func TestMain(m *testing.M) {
	if os.Getenv("MODFETCH_LIVE") != "" {
		os.Exit(m.Run())
	}
	modfetch.Hurry()
	var mu sync.Mutex
	var escaped []string
	fence := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		if !strings.HasSuffix(host, ".test") {
			mu.Lock()
			escaped = append(escaped, r.Method+" "+r.Host)
			mu.Unlock()
		}
		http.Error(w, "the tests stay on this machine", http.StatusBadGateway)
	}))
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		os.Setenv(name, fence.URL)
	}
	os.Unsetenv("NO_PROXY")
	os.Unsetenv("no_proxy")
	code := m.Run()
	fence.Close()
	if len(escaped) > 0 {
		fmt.Fprintf(os.Stderr, "these requests would have left the machine: %q\n", escaped)
		code = 1
	}
	os.Exit(code)
}

// TestFenceHolds shows that the default client's requests to other machines end at the fence.
func TestFenceHolds(t *testing.T) {
	m, err := modfetch.HTTPMirror("https://mirror.test", nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = m.Fetch(t.Context(), modfetch.Request{Path: "example.com/m/@v/list"})
	if err == nil || !strings.Contains(err.Error(), "Bad Gateway") {
		t.Fatalf("error %v, want the fence's refusal", err)
	}
}

// Modules of the world that most tests use.
var (
	moduleM     = module.Version{Path: "example.com/m", Version: "v1.0.0"}
	moduleUpper = module.Version{Path: "example.com/Upper/Case", Version: "v1.0.0-RC1"}
	moduleV2    = module.Version{Path: "example.com/m/v2", Version: "v2.1.0"}
	moduleOld   = module.Version{Path: "example.com/old", Version: "v3.0.0+incompatible"}
	allModules  = []module.Version{moduleM, moduleUpper, moduleV2, moduleOld}
)

// newWorld starts a mirror and checksum database with a few modules.
func newWorld(t testing.TB) *modfetchtest.Server {
	t.Helper()
	s := modfetchtest.NewServer(t, nil)
	s.Add(modfetchtest.NewModule("example.com/m", "v1.0.0").
		File(".info", `{"Version": "v1.0.0", "Time": "2024-01-02T03:04:05Z", "Name": "abc", "Origin": {"VCS": "git", "URL": "https://example.com/m",
			"Subdir": "sub", "Hash": "0123456789abcdef", "TagPrefix": "sub/", "TagSum": "t1:x", "Ref": "refs/tags/v1.0.0", "RepoSum": "r1:x"}}`).
		File("go.mod", "module example.com/m\n\ngo 1.26\n").
		File("m.go", "package m\n").
		File("internal/deep/deep.go", "package deep\n").
		File("testdata/big.txt", strings.Repeat("some text that compresses\n", 2000)))
	s.Add(modfetchtest.NewModule(moduleUpper.Path, moduleUpper.Version).File("c.go", "package c\n"))
	s.Add(modfetchtest.NewModule(moduleV2.Path, moduleV2.Version).File("m.go", "package m\n"))
	s.Add(modfetchtest.NewModule(moduleOld.Path, moduleOld.Version).File("old.go", "package old\n"))
	return s
}

// newFetcher makes a Fetcher over a module cache of its own.
func newFetcher(t testing.TB, opts ...modfetch.Option) (f *modfetch.Fetcher, modCache string) {
	t.Helper()
	modCache = tempDir(t)
	f, err := modfetch.New(append(opts, modfetch.WithModCache(modCache))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f, modCache
}

// tempDir is t.TempDir for trees whose directories are read-only.
func tempDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() { chmodAll(dir) })
	return dir
}

// files lists the files below dir but lock files, by slash-separated path.
func files(t testing.TB, dir string) []string {
	t.Helper()
	var names []string
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.HasSuffix(path, ".lock") {
			rel, _ := filepath.Rel(dir, path)
			names = append(names, filepath.ToSlash(rel))
		}
		return nil
	})
	return names
}

// download downloads modules and returns them by path, failing on any error.
func download(t testing.TB, f *modfetch.Fetcher, mods ...module.Version) map[string]modfetch.Module {
	t.Helper()
	out := make(map[string]modfetch.Module)
	for m, err := range f.Download(t.Context(), mods) {
		if err != nil {
			t.Errorf("%s: %v", m.Version, err)
		}
		out[m.Path] = m
	}
	return out
}

func TestDownloadLeavesWhatTheGoCommandLeaves(t *testing.T) {
	goCommand := needGo(t)
	s := newWorld(t)
	f, ours := newFetcher(t, s.Options()...)
	got := download(t, f, allModules...)

	env := s.Env(t)
	theirs := ""
	for _, kv := range env {
		if dir, ok := strings.CutPrefix(kv, "GOMODCACHE="); ok {
			theirs = dir
		}
	}
	env = append(env, "GOFLAGS=") // read-only trees
	t.Cleanup(func() { chmodAll(theirs) })
	for _, m := range allModules {
		runGo(t, goCommand, env, "mod", "download", m.String())
	}
	if diff := diffTrees(t, ours, theirs); diff != "" {
		t.Errorf("the module caches differ:\n%s", diff)
	}
	for _, m := range allModules {
		g := got[m.Path]
		if g.VerifiedBy == "" || g.VerifiedBy != g.GoModVerifiedBy || g.Unverified != "" || g.Mirror != s.URL {
			t.Errorf("%s: verified by %q and %q, unverified %q, from %q", m, g.VerifiedBy, g.GoModVerifiedBy, g.Unverified, g.Mirror)
		}
		for _, name := range []string{g.Dir, g.Zip, g.GoMod, g.Info} {
			if _, err := os.Stat(name); err != nil {
				t.Errorf("%s: %v", m, err)
			}
		}
		if want := s.GoSum(m.Path, m.Version); !strings.Contains(want, g.Sum) || !strings.Contains(want, g.GoModSum) {
			t.Errorf("%s: sums %s and %s, want those of\n%s", m, g.Sum, g.GoModSum, want)
		}
	}
}

func TestDownloadAgainAsksNobody(t *testing.T) {
	s := newWorld(t)
	f, modCache := newFetcher(t, s.Options()...)
	download(t, f, allModules...)
	asked := len(s.Requests())
	again, err := modfetch.New(append(s.Options(), modfetch.WithModCache(modCache))...)
	if err != nil {
		t.Fatal(err)
	}
	for path, m := range download(t, again, allModules...) {
		if m.Mirror != "" || m.Dir == "" || m.VerifiedBy == "" {
			t.Errorf("%s: mirror %q, directory %q, verified by %q; want all from the cache", path, m.Mirror, m.Dir, m.VerifiedBy)
		}
	}
	for _, path := range s.Requests()[asked:] {
		if !strings.HasPrefix(path, "/sumdb/") {
			t.Errorf("asked again for %s", path)
		}
	}
}

func TestDownloadAgainComparesWhatIsThere(t *testing.T) {
	s := newWorld(t)
	goSum, err := modfetch.ParseGoSum("go.sum", []byte(s.GoSum(moduleM.Path, moduleM.Version)))
	if err != nil {
		t.Fatal(err)
	}
	options := append(s.Options(), modfetch.WithGoSum(goSum))
	for damaged, policy := range map[string]modfetch.Policy{"info": {}, "mod": {}, "ziphash": {}, "zip": {NoExtract: true}} {
		t.Run(damaged, func(t *testing.T) {
			f, modCache := newFetcher(t, options...)
			file := strings.TrimSuffix(download(t, f, moduleM)[moduleM.Path].Zip, "zip") + damaged
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, bytes.Repeat([]byte("x"), len(want)), 0o666); err != nil {
				t.Fatal(err)
			}
			again, err := modfetch.New(append(options, modfetch.WithModCache(modCache), modfetch.WithPolicy(policy))...)
			if err != nil {
				t.Fatal(err)
			}
			download(t, again, moduleM)
			if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want) {
				t.Errorf("the %s file is still %.40q, error %v", damaged, got, err)
			}
		})
	}
}

func TestDownloadGoesOnAfterAnErrorAndStopsAtABreak(t *testing.T) {
	s := newWorld(t)
	f, _ := newFetcher(t, s.Options()...)
	missing := module.Version{Path: "example.com/missing", Version: "v1.0.0"}
	errs := make(map[string]error)
	for m, err := range f.Download(t.Context(), append([]module.Version{missing, {Path: "Bad Path", Version: "v1.0.0"}}, allModules...)) {
		errs[m.Path] = err
	}
	if !errors.Is(errs["example.com/missing"], fs.ErrNotExist) {
		t.Errorf("missing module: %v, want one that says it does not exist", errs["example.com/missing"])
	}
	if errs["Bad Path"] == nil {
		t.Error("no error for a malformed path")
	}
	for _, m := range allModules {
		if err, ok := errs[m.Path]; err != nil || !ok {
			t.Errorf("%s: yielded %t, error %v", m, ok, err)
		}
	}
	n := 0
	for range f.Download(t.Context(), allModules) {
		n++
		break
	}
	if n != 1 {
		t.Errorf("%d modules after a break", n)
	}
}

func TestZipAndExtractWithoutAModuleCache(t *testing.T) {
	s := newWorld(t)
	for name, opts := range map[string][]modfetch.Option{
		"no cache":  nil,
		"in memory": {modfetch.WithCache(new(modfetch.MemCache))},
		"directory": {modfetch.WithCache(modfetch.DirCache(t.TempDir()))},
	} {
		t.Run(name, func(t *testing.T) {
			temp := t.TempDir()
			t.Setenv("TMPDIR", temp)
			f, err := modfetch.New(append(s.Options(), opts...)...)
			if err != nil {
				t.Fatal(err)
			}
			z, err := f.Zip(t.Context(), moduleM)
			if err != nil {
				t.Fatal(err)
			}
			fsys, err := z.FS()
			if err != nil {
				t.Fatal(err)
			}
			data, err := fs.ReadFile(fsys, "example.com/m@v1.0.0/m.go")
			if err != nil || string(data) != "package m\n" {
				t.Errorf("m.go in the zip: %q, %v", data, err)
			}
			dir := filepath.Join(t.TempDir(), "new", "dir")
			if err := f.Extract(t.Context(), moduleM, dir); err != nil {
				t.Fatal(err)
			}
			if data, err := os.ReadFile(filepath.Join(dir, "internal/deep/deep.go")); err != nil || string(data) != "package deep\n" {
				t.Errorf("extracted: %q, %v", data, err)
			}
			if err := f.Extract(t.Context(), moduleM, dir); err == nil {
				t.Error("extracted over a directory that is not empty")
			}
			if err := z.Close(); err != nil {
				t.Error(err)
			}
			if left := files(t, temp); len(left) > 0 {
				t.Errorf("temporary files left: %q", left)
			}
			if _, err := f.Dir(t.Context(), moduleM); err == nil || !strings.Contains(err.Error(), "WithModCache") {
				t.Errorf("Dir without a module cache: %v, want an error that names WithModCache", err)
			}
		})
	}
}

func TestCacheBehindTheModuleCacheIsFilledAndUsed(t *testing.T) {
	s := newWorld(t)
	cache := modfetch.DirCache(t.TempDir())
	f, _ := newFetcher(t, append(s.Options(), modfetch.WithCache(cache))...)
	download(t, f, allModules...)

	s.Fault("/example.com/*", modfetchtest.Status(500))
	again, modCache := newFetcher(t, append(s.Options(), modfetch.WithCache(cache))...)
	download(t, again, allModules...)
	if _, err := os.Stat(filepath.Join(modCache, "example.com/m@v1.0.0/m.go")); err != nil {
		t.Error(err)
	}
}

func TestBrokenCacheDoesNotFailAFetch(t *testing.T) {
	s := newWorld(t)
	var told []error
	var mu sync.Mutex
	f, _ := newFetcher(t, append(s.Options(), modfetch.WithCache(brokenCache{}), modfetch.WithTrace(&modfetch.Trace{
		Cache: func(_ context.Context, i modfetch.CacheInfo) {
			mu.Lock()
			defer mu.Unlock()
			if errors.Is(i.Err, errBroken) {
				told = append(told, i.Err)
			}
		},
	}))...)
	download(t, f, allModules...)
	if len(told) == 0 {
		t.Error("the trace was not told of the broken cache")
	}
}

var errBroken = errors.New("broken on purpose")

type brokenCache struct{}

func (brokenCache) Open(context.Context, string) (io.ReadSeekCloser, error) { return nil, errBroken }

func (brokenCache) Put(context.Context, string, io.ReadSeeker) error { return errBroken }

func TestWithGoSumHoldsEachCallerAgainstItsOwn(t *testing.T) {
	s := newWorld(t)
	f, _ := newFetcher(t, s.Options()...)
	good, err := modfetch.ParseGoSum("good/go.sum", []byte(s.GoSum(moduleM.Path, moduleM.Version)))
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := modfetch.ParseGoSum("wrong/go.sum", []byte("example.com/m v1.0.0 h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := f.WithGoSum(good).Dir(t.Context(), moduleM); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			_, err := f.WithGoSum(wrong).Dir(t.Context(), moduleM)
			var sum *modfetch.ChecksumError
			if !errors.As(err, &sum) || sum.Blame != "wrong/go.sum" {
				t.Errorf("error %v, want one that blames wrong/go.sum", err)
			}
		})
	}
	wg.Wait()
}

func TestUpdateOfGoSum(t *testing.T) {
	s := newWorld(t)
	sums := new(modfetch.GoSum)
	f, _ := newFetcher(t, append(s.Options(), modfetch.WithGoSum(sums))...)
	for _, m := range download(t, f, moduleM, moduleUpper) {
		sums.Add(m.Version, m.Sum)
		sums.Add(module.Version{Path: m.Path, Version: m.Version.Version + "/go.mod"}, m.GoModSum)
	}
	var got bytes.Buffer
	if _, err := sums.WriteTo(&got); err != nil {
		t.Fatal(err)
	}
	want := s.GoSum(moduleUpper.Path, moduleUpper.Version) + s.GoSum(moduleM.Path, moduleM.Version)
	if got.String() != want {
		t.Errorf("go.sum:\n%swant:\n%s", got.String(), want)
	}
}

// TestZipsWithoutACacheAreSharedSafely has many callers take and release one temporary file.
func TestZipsWithoutACacheAreSharedSafely(t *testing.T) {
	s := newWorld(t)
	t.Setenv("TMPDIR", t.TempDir())
	f, err := modfetch.New(s.Options()...)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for n := range 32 {
		wg.Go(func() {
			for range 10 {
				if n%2 == 0 {
					download(t, f, moduleM)
					continue
				}
				z, err := f.Zip(t.Context(), moduleM)
				if err != nil {
					t.Error(err)
					continue
				}
				if _, err := z.FS(); err != nil {
					t.Error(err)
				}
				z.Close()
			}
		})
	}
	wg.Wait()
	if left := files(t, os.Getenv("TMPDIR")); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// seeded returns a source of random numbers. MODFETCH_SEED repeats those of an earlier run, which has logged its seed.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv("MODFETCH_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("MODFETCH_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}
