package modfetch_test

import (
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/modfetchtest"
	"golang.org/x/mod/module"
)

// notAsked fails the test on every request.
type notAsked struct{ t testing.TB }

func (n notAsked) RoundTrip(r *http.Request) (*http.Response, error) {
	n.t.Errorf("asked for %s", r.URL)
	return nil, errors.New("nobody may be asked")
}

func nobody(t testing.TB) modfetch.Option {
	return modfetch.WithHTTPClient(&http.Client{Transport: notAsked{t}})
}

// newTree fetches modules and returns a GOPROXY tree of them, with what the checksum database has on them.
func newTree(t testing.TB, s *modfetchtest.Server, mods ...module.Version) string {
	t.Helper()
	f, modCache := newFetcher(t, s.Options()...)
	download(t, f, mods...)
	dir := filepath.Join(modCache, "cache", "download")
	databases, err := filepath.Glob(filepath.Join(dir, "sumdb", "*"))
	if err != nil || len(databases) != 1 {
		t.Fatalf("databases %q, error %v", databases, err)
	}
	if err := os.WriteFile(filepath.Join(databases[0], "supported"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	return dir
}

func fileURL(dir string) string {
	return "file:///" + strings.TrimPrefix(filepath.ToSlash(dir), "/") // C:/dir
}

func TestOfflineAsksOnlyFileSystems(t *testing.T) {
	s := newWorld(t)
	tree := newTree(t, s, moduleM)
	bare := t.TempDir() // without the database
	if err := os.CopyFS(filepath.Join(bare, "example.com"), os.DirFS(filepath.Join(tree, "example.com"))); err != nil {
		t.Fatal(err)
	}
	key := s.GOSUMDB()
	web, err := modfetch.HTTPMirror("https://mirror.test", &http.Client{Transport: notAsked{t}})
	if err != nil {
		t.Fatal(err)
	}
	offline := modfetch.Policy{Offline: true}
	for name, opts := range map[string][]modfetch.Option{
		"list":      {modfetch.WithGOPROXY("https://mirror.test," + fileURL(tree) + ",direct"), modfetch.WithSumDB(key)},
		"off":       {modfetch.WithGOPROXY(fileURL(tree) + ",off"), modfetch.WithSumDB(key)},
		"one tier":  {modfetch.WithGOPROXY("https://mirror.test|" + fileURL(tree) + "|direct"), modfetch.WithSumDB(key)},
		"mirrors":   {modfetch.WithMirrors(web, modfetch.FSMirror(os.DirFS(tree))), modfetch.WithSumDB(key)},
		"two tiers": {modfetch.WithMirrors(web), modfetch.WithMirrors(modfetch.FSMirror(os.DirFS(tree))), modfetch.WithSumDB(key)},
		"race": {modfetch.WithGOPROXY("https://mirror.test|" + fileURL(tree)), modfetch.WithSumDB(key),
			modfetch.WithStrategy(modfetch.Race())},
		"database elsewhere": {modfetch.WithGOPROXY("https://mirror.test|" + fileURL(tree)),
			modfetch.WithSumDB(key + " https://sum.test")},
		"database in files": {modfetch.WithGOPROXY("https://mirror.test|" + fileURL(bare)), modfetch.WithSumDB(key + " " + fileURL(tree))},
	} {
		for _, askAll := range []time.Duration{0, time.Minute} {
			t.Run(name+" "+askAll.String(), func(t *testing.T) {
				offline := offline
				offline.AskAll = askAll
				f, _ := newFetcher(t, append(opts, nobody(t), modfetch.WithPolicy(offline), modfetch.WithPrivate("corp.test"))...)
				got := download(t, f, moduleM)[moduleM.Path]
				if got.VerifiedBy == "" || got.Dir == "" || !strings.HasPrefix(got.Mirror, "file") {
					t.Errorf("got %+v, want it from the files, verified by the database", got)
				}
				if versions, err := f.Versions(t.Context(), moduleM.Path); err != nil || !slices.Equal(versions, []string{moduleM.Version}) {
					t.Errorf("versions %q, error %v", versions, err)
				}
				if info, err := f.Info(t.Context(), moduleM.Path, "latest"); err != nil || info.Version != moduleM.Version {
					t.Errorf("latest: %+v, error %v", info, err)
				}
				wantOfflineErrors(t, f, moduleUpper)
				wantOfflineErrors(t, f, module.Version{Path: "corp.test/private", Version: "v1.0.0"})
				if heads, err := f.CompareHeads(t.Context()); err == nil {
					t.Errorf("heads %+v, though nobody could be asked", heads)
				}
			})
		}
	}
}

// wantOfflineErrors asks for what is not there in every way.
func wantOfflineErrors(t testing.TB, f *modfetch.Fetcher, m module.Version) {
	t.Helper()
	var missing [6]error
	_, missing[0] = f.GoMod(t.Context(), m)
	_, missing[1] = f.Zip(t.Context(), m)
	_, missing[2] = f.Info(t.Context(), m.Path, m.Version)
	_, missing[3] = f.Info(t.Context(), m.Path, "latest")
	_, missing[4] = f.Info(t.Context(), m.Path, "main")
	_, missing[5] = f.Versions(t.Context(), m.Path)
	for i, err := range missing {
		var offline *modfetch.OfflineError
		if !errors.As(err, &offline) || !strings.HasPrefix(offline.Path, strings.ToLower(m.Path[:4])) {
			t.Errorf("question %d about %s: %v, want an OfflineError", i, m, err)
			continue
		}
		if errors.Is(err, fs.ErrNotExist) || modfetch.KindOf(err) != modfetch.Forbidden {
			t.Errorf("question %d about %s: kind %s: %v", i, m, modfetch.KindOf(err), err)
		}
		if !strings.Contains(err.Error(), "Policy.Offline") || !strings.Contains(err.Error(), "file://") {
			t.Errorf("question %d about %s: %v, which does not say what to do", i, m, err)
		}
		if isKept := i < 3; isKept != strings.Contains(err.Error(), "fetch it once") {
			t.Errorf("question %d about %s: %v", i, m, err)
		}
	}
	for _, mirror := range f.Mirrors() {
		if mirror.Mirror == "offline" {
			t.Errorf("who was not asked is told of: %+v", mirror)
		}
	}
}

func TestOfflineRoute(t *testing.T) {
	offline := modfetch.WithPolicy(modfetch.Policy{Offline: true})
	f, _ := newFetcher(t, modfetch.WithGOPROXY("https://a.test,file:///files|https://b.test,direct"), offline, nobody(t),
		modfetch.WithRoute("routed.test", "https://c.test|file:///other"), modfetch.WithPrivate("corp.test"),
		modfetch.WithGoSum(new(modfetch.GoSum)))
	for path, want := range map[string]string{
		"example.com/m": "file:///files, offline",
		"routed.test/m": "file:///other, offline",
		"corp.test/m":   "offline",
	} {
		var tiers []string
		for _, t := range f.Route(path).Tiers {
			var names []string
			for _, m := range t {
				names = append(names, m.String())
			}
			tiers = append(tiers, strings.Join(names, "|"))
		}
		if got := strings.Join(tiers, ", "); got != want {
			t.Errorf("%s would go to %s, want %s", path, got, want)
		}
	}
	var sums []string
	for _, m := range f.Route("example.com/m").SumsAt {
		sums = append(sums, m.String())
	}
	if got := strings.Join(sums, ", "); got != "file:///files, offline" {
		t.Errorf("the database would be read at %s", got)
	}
}

func TestOfflineTakesWhatIsKept(t *testing.T) {
	s := newWorld(t)
	f, modCache := newFetcher(t, s.Options()...)
	before := download(t, f, moduleM, moduleV2)
	cache := modfetch.DirCache(t.TempDir())
	g, err := modfetch.New(append(s.Options(), modfetch.WithCache(cache))...)
	if err != nil {
		t.Fatal(err)
	}
	download(t, g, moduleM, moduleV2)
	s.Close()

	for name, kept := range map[string]modfetch.Option{"module cache": modfetch.WithModCache(modCache), "cache": modfetch.WithCache(cache)} {
		t.Run(name, func(t *testing.T) {
			f, err := modfetch.New(append(s.Options(), nobody(t), modfetch.WithPolicy(modfetch.Policy{Offline: true}), kept)...)
			if err != nil {
				t.Fatal(err)
			}
			for path, m := range download(t, f, moduleM, moduleV2) {
				if m.Sum != before[path].Sum || m.VerifiedBy != before[path].VerifiedBy || m.Mirror != "" {
					t.Errorf("%s: %+v, want what there was before: %+v", path, m, before[path])
				}
			}
			wantOfflineErrors(t, f, moduleUpper)
			h := &modfetch.Handler{Fetcher: f}
			defer h.Close()
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/"+proxyPath(t, moduleUpper)+".mod", nil))
			if body := w.Body.String(); w.Code != http.StatusServiceUnavailable || body != "not in the cache, and no mirror is asked\n" {
				t.Errorf("a Handler answers %d %q", w.Code, body)
			}
		})
	}
}

// TestOfflineAbsence holds files to their word where nobody else was to be asked.
func TestOfflineAbsence(t *testing.T) {
	s := newWorld(t)
	tree := newTree(t, s, moduleM)
	f, _ := newFetcher(t, modfetch.WithMirrors(modfetch.FSMirror(os.DirFS(tree))), modfetch.WithSumDB(s.GOSUMDB()),
		nobody(t), modfetch.WithPolicy(modfetch.Policy{Offline: true}))
	if _, err := f.Info(t.Context(), moduleUpper.Path, moduleUpper.Version); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the only mirror is a file system that does not have it: %v", err)
	}
}

func TestOfflineFailureOfFiles(t *testing.T) {
	s := newWorld(t)
	tree := newTree(t, s, moduleM)
	zip := filepath.Join(tree, "example.com", "m", "@v", "v1.0.0.zip")
	if err := os.WriteFile(zip, []byte("no zip"), 0o666); err != nil {
		t.Fatal(err)
	}
	f, _ := newFetcher(t, modfetch.WithGOPROXY(fileURL(tree)+",https://mirror.test"), modfetch.WithSumDB(s.GOSUMDB()),
		nobody(t), modfetch.WithPolicy(modfetch.Policy{Offline: true}))
	_, err := f.Zip(t.Context(), moduleM)
	if modfetch.KindOf(err) != modfetch.Corrupt || strings.Contains(err.Error(), "not asked") {
		t.Errorf("error %v, want that the file is corrupt, and no advice on who else could be asked", err)
	}
}

func TestOfflineHandler(t *testing.T) {
	s := newWorld(t)
	f, _ := newFetcher(t, modfetch.WithGOPROXY("https://mirror.test,"+fileURL(newTree(t, s, moduleM))), modfetch.WithSumDB(s.GOSUMDB()),
		nobody(t), modfetch.WithPolicy(modfetch.Policy{Offline: true}))
	h := &modfetch.Handler{Fetcher: f}
	for path, want := range map[string]int{
		"/example.com/m/@v/v1.0.0.zip": http.StatusOK,
		"/example.com/m/@v/v1.0.1.zip": http.StatusServiceUnavailable,
		"/example.com/m/@v/list":       http.StatusOK,
		"/example.com/none/@v/list":    http.StatusServiceUnavailable,
		"/sumdb/" + s.GOSUMDB()[:strings.Index(s.GOSUMDB(), "+")] + "/lookup/example.com/m@v1.0.0": http.StatusOK,
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != want {
			t.Errorf("%s: %d %s, want %d", path, w.Code, w.Body, want)
		}
	}
}
