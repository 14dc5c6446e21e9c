package modfetch_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/modfetchtest"
	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/tlog"
)

// newTallWorld starts a world whose database has full and partial tiles at two levels.
func newTallWorld(t testing.TB) *modfetchtest.Server {
	t.Helper()
	s := newWorld(t)
	s.AddRecords(3*256 + 17 - len(allModules))
	return s
}

// tallTiles are some of its tiles: full ones, partial ones, and partial ones of which the full ones are there.
var tallTiles = []string{"tile/8/0/000", "tile/8/0/002", "tile/8/0/003.p/17", "tile/8/0/003.p/1", "tile/8/0/001.p/255", "tile/8/1/000.p/3", "tile/8/1/000.p/2"}

// A sumShelf is where a Fetcher keeps what it knows of the database: a module cache, a Cache, or nowhere.
type sumShelf struct {
	dir     string // "" for nowhere
	options []modfetch.Option
	tiles   string // directory of tiles and lookups
	heads   []string
}

func sumShelves(t testing.TB, s *modfetchtest.Server) map[string]sumShelf {
	mod, cache, both := tempDir(t), t.TempDir(), tempDir(t)
	name := "sumdb/" + databaseOf(s)
	return map[string]sumShelf{
		"module cache": {mod, []modfetch.Option{modfetch.WithModCache(mod)}, filepath.Join(mod, "cache/download", name),
			[]string{filepath.Join(mod, "cache/modfetch", name, "latest"), filepath.Join(mod, "cache/modfetch/fresh", name, "latest")}},
		"Cache": {cache, []modfetch.Option{modfetch.WithCache(modfetch.DirCache(cache))}, filepath.Join(cache, name),
			[]string{filepath.Join(cache, "modfetch", name, "latest"), filepath.Join(cache, "modfetch/fresh", name, "latest")}},
		"go command's": {both, []modfetch.Option{modfetch.WithGoEnv(modfetch.GoEnv{GOPATH: filepath.Join(both, "gopath"), GOMODCACHE: both})},
			filepath.Join(both, "cache/download", name),
			[]string{filepath.Join(both, "gopath/pkg", name, "latest"), filepath.Join(both, "cache/modfetch/fresh", name, "latest")}},
		"nowhere": {},
	}
}

// sumHandler makes a Handler of mirrors behind which the database cannot be reached, as a new process would.
func (shelf sumShelf) handler(t testing.TB, s *modfetchtest.Server, list string) *modfetch.Handler {
	t.Helper()
	opts := append([]modfetch.Option{modfetch.WithGOPROXY(list), modfetch.WithSumDB(s.GOSUMDB()), (&homeHost{}).option()}, shelf.options...)
	return telling(&modfetch.Handler{Fetcher: newBareFetcher(t, opts...)})
}

// askSum asks a Handler for a file of the database.
func askSum(ctx context.Context, h *modfetch.Handler, s *modfetchtest.Server, file string) frontReply {
	return askFront(ctx, h, "/sumdb/"+databaseOf(s)+"/"+file)
}

// honestSum is what an honest server says.
func honestSum(t testing.TB, s *modfetchtest.Server, file string) string {
	t.Helper()
	return string(httpGet(t, s.URL+"/sumdb/"+databaseOf(s)+"/"+file))
}

// lookups of all modules.
func lookupsOf(mods ...module.Version) (files []string) {
	for _, m := range mods {
		path, _ := module.EscapePath(m.Path)
		version, _ := module.EscapeVersion(m.Version)
		files = append(files, "lookup/"+path+"@"+version)
	}
	return files
}

// treeIn reads the head at the end of an answer.
func treeIn(t testing.TB, r frontReply) tlog.Tree {
	t.Helper()
	tree, err := tlog.ParseTree([]byte(r.body))
	if err != nil || r.code != http.StatusOK {
		t.Fatalf("a head is %d %q: %v, %v", r.code, r.body, err, r.info.Err)
	}
	return tree
}

// TestDatabaseIsServed as an honest server does, then from what is kept though no mirror can be asked, and after a restart.
func TestDatabaseIsServed(t *testing.T) {
	origin := newTallWorld(t)
	files := slices.Concat([]string{"supported", "latest"}, lookupsOf(allModules...), tallTiles)
	for name, shelf := range sumShelves(t, origin) {
		t.Run(name, func(t *testing.T) {
			s := origin.Mirror()
			s.Fault("*/tile/8/0/00*.p/*", modfetchtest.Status(404)) // only full ones, but for the last
			s.Fault("*/tile/8/0/003.p/17", modfetchtest.Fault{})
			check := func(h *modfetch.Handler) {
				t.Helper()
				for _, file := range files {
					want := ""
					if file != "supported" {
						want = honestSum(t, origin, file)
					}
					r := askSum(t.Context(), h, origin, file)
					if r.code != http.StatusOK || r.body != want {
						t.Errorf("%s: %d %.100q, want %.100q: %v", file, r.code, r.body, want, r.info.Err)
						continue
					}
					kind, limit, what := "text/plain; charset=utf-8", "max-age=", strings.Split(file, "/")[0]
					if what == "tile" {
						kind, limit = "application/octet-stream", "immutable"
					} else if what == "latest" {
						what, limit = "head", "max-age=60"
					}
					if got := r.header.Get("Content-Type"); got != kind || r.info.File != what || !strings.Contains(r.header.Get("Cache-Control"), limit) || r.header.Get("ETag") == "" {
						t.Errorf("%s: %q is a %q with the header %v", file, got, r.info.File, r.header)
					}
				}
			}
			first := shelf.handler(t, origin, s.URL)
			check(first)
			n := s.Count("*")
			check(first)
			if got := s.Count("*") - n; got > 0 {
				t.Errorf("%d requests for what has been served a moment before", got)
			}
			s.Fault("*", modfetchtest.Status(500))
			check(first)
			if name == "nowhere" {
				return
			}
			check(shelf.handler(t, origin, s.URL))
			n = s.Count("*")
			offline := shelf.handler(t, origin, s.URL)
			offline.CacheOnly = true
			check(offline)
			if got := s.Count("*") - n; got > 0 {
				t.Errorf("%d requests, though no mirror may be asked", got)
			}
			os.RemoveAll(shelf.tiles)
			check(first) // what it has proven itself
		})
	}
}

// TestGoCommandVerifiesThroughAHandler: its database's own host does not exist, and later neither does the mirror.
func TestGoCommandVerifiesThroughAHandler(t *testing.T) {
	goCommand := needGo(t)
	origin := newTallWorld(t)
	for name, shelf := range sumShelves(t, origin) {
		t.Run(name, func(t *testing.T) {
			s := origin.Mirror()
			verify := func(h *modfetch.Handler) {
				t.Helper()
				proxy := httptest.NewServer(h)
				defer proxy.Close()
				env := append(origin.Env(t), "GOPROXY="+proxy.URL)
				args := []string{"mod", "download"}
				for _, m := range allModules {
					args = append(args, m.String())
				}
				runGo(t, goCommand, env, args...)
				goEnv := goEnvOf(env)
				if kept := files(t, filepath.Join(goEnv.GOMODCACHE, "cache/download/sumdb")); len(kept) == 0 {
					t.Error("the go command has verified nothing")
				}
				wantHonestState(t, goEnv.GOMODCACHE, origin)
			}
			first := shelf.handler(t, origin, s.URL)
			verify(first)
			s.Fault("*", modfetchtest.Status(500))
			if name == "nowhere" {
				return // the zips are gone
			}
			verify(first)
			verify(shelf.handler(t, origin, s.URL))
			offline := shelf.handler(t, origin, s.URL)
			offline.CacheOnly = true
			verify(offline)
		})
	}
}

// TestForgedFilesAreNeverServed: what others have put into the module cache or the Cache is replaced, or refused.
func TestForgedFilesAreNeverServed(t *testing.T) {
	t.Parallel()
	origin := newTallWorld(t)
	served := slices.Concat([]string{"latest"}, lookupsOf(allModules...), tallTiles)
	lag := origin.Lag()
	old := honestSum(t, lag, "latest")
	origin.AddRecords(300)
	for name, forge := range map[string]func(file string, honest []byte) []byte{
		"a bit":     func(_ string, b []byte) []byte { b = bytes.Clone(b); b[len(b)/2] ^= 1; return b },
		"cut":       func(_ string, b []byte) []byte { return b[:len(b)/2] },
		"empty":     func(string, []byte) []byte { return nil },
		"garbage":   func(string, []byte) []byte { return []byte("\n\n— x y\n\xff") },
		"old head":  func(file string, b []byte) []byte { return bytes.Replace(b, headIn(b), []byte(old), 1) },
		"a forgery": func(file string, b []byte) []byte { return bytes.ReplaceAll(b, []byte("h1:"), []byte("h1:AAAA")) },
	} {
		for where, shelf := range sumShelves(t, origin) {
			if shelf.dir == "" {
				continue
			}
			for _, upstream := range []string{"honest", "gone"} {
				t.Run(name+", "+where+", "+upstream, func(t *testing.T) {
					s := origin.Mirror()
					first := shelf.handler(t, origin, s.URL)
					for _, file := range served {
						if r := askSum(t.Context(), first, origin, file); r.code != http.StatusOK {
							t.Fatalf("%s: %d %q", file, r.code, r.body)
						}
					}
					kept := append(filesBelow(t, shelf.tiles), shelf.heads...)
					before := make(map[string][]byte)
					for _, file := range kept {
						honest, err := os.ReadFile(file)
						if err != nil {
							continue // no head of that kind is kept
						}
						before[file] = honest
						os.Chmod(file, 0o666)
						if strings.HasPrefix(name, "old") != (filepath.Base(file) == "latest") && name == "old head" {
							continue
						}
						if strings.Contains(file, "gopath") && name != "empty" && name != "old head" {
							continue // whoever forges this is told of: see TestHeadThatIsNotTheDatabases
						}
						if err := os.WriteFile(file, forge(file, honest), 0o666); err != nil {
							t.Fatal(err)
						}
					}
					defer func() {
						for file, honest := range before {
							os.WriteFile(file, honest, 0o666)
						}
					}()
					if len(before) < 10 {
						t.Fatalf("only %d files are kept", len(before))
					}
					if upstream == "gone" {
						s.Fault("*", modfetchtest.Status(500))
					}
					h := shelf.handler(t, origin, s.URL)
					for range 2 {
						for _, file := range served {
							r := askSum(t.Context(), h, origin, file)
							want := honestSum(t, origin, file)
							switch {
							case r.code == http.StatusOK && r.body == want:
							case r.code == http.StatusOK && file == "latest" && r.body == old && name == "old head":
								// signed, and nothing here tells of a newer one until it is no longer fresh
							case upstream == "honest" && where != "go command's" && r.info.Err != nil && strings.Contains(r.info.Err.Error(), "not signed by the key"):
								// a damaged head beside the tiles is told of, not repaired
							case upstream == "honest" || r.code == http.StatusOK || r.code == http.StatusNotFound:
								t.Errorf("%s: %d %.200q, want %.100q: %v", file, r.code, r.body, want, r.info.Err)
							}
						}
					}
				})
			}
		}
	}
}

// headIn returns the signed head at the end of what a database says.
func headIn(b []byte) []byte {
	if i := bytes.LastIndex(b, []byte("go.sum database tree\n")); i >= 0 {
		return b[i:]
	}
	return []byte("no head")
}

// filesBelow lists files below dir but lock files.
func filesBelow(t testing.TB, dir string) (names []string) {
	for _, name := range files(t, dir) {
		names = append(names, filepath.Join(dir, filepath.FromSlash(name)))
	}
	return names
}

// TestLyingMirror: what it says is not served, it is no absence, and an honest mirror behind it heals.
func TestLyingMirror(t *testing.T) {
	t.Parallel()
	origin := newTallWorld(t)
	lag := origin.Lag()
	old := honestSum(t, lag, "latest")
	fork := origin.Fork()
	origin.AddRecords(5)
	forked := honestSum(t, fork, "latest")
	says := func(content string) modfetchtest.Fault { return shows([]byte(content)) }
	lookup := lookupsOf(moduleM)[0]
	for name, c := range map[string]struct {
		pattern string
		fault   modfetchtest.Fault
		file    string
	}{
		"forged tile":       {"*/tile/8/0/001", changed(func(b []byte) []byte { b[40] ^= 1; return b }), "tile/8/0/001"},
		"forged parent":     {"*/tile/8/1/*", changed(func(b []byte) []byte { b[40] ^= 1; return b }), "tile/8/0/001"},
		"another tile":      {"*/tile/8/0/001", instead("/001", "/002"), "tile/8/0/001"},
		"short tile":        {"*/tile/8/0/001", changed(func(b []byte) []byte { return b[:32] }), "tile/8/0/001"},
		"long tile":         {"*/tile/8/0/001", changed(func(b []byte) []byte { return append(b, 1) }), "tile/8/0/001"},
		"no tile":           {"*/tile/8/0/*", modfetchtest.Status(404), "tile/8/0/001"},
		"another's record":  {"*/lookup/*", instead(moduleM.String(), moduleV2.String()), lookup},
		"forged record":     {"*/lookup/*", changed(func(b []byte) []byte { return bytes.Replace(b, []byte("h1:"), []byte("h1:AAAA"), 1) }), lookup},
		"unsigned record":   {"*/lookup/*", changed(func(b []byte) []byte { return b[:bytes.LastIndex(b, []byte("— "))] }), lookup},
		"no record":         {"*/lookup/*", modfetchtest.Status(404), lookup},
		"a gone record":     {"*/lookup/*", modfetchtest.Status(410), lookup},
		"page for a record": {"*/lookup/*", modfetchtest.HTML(), lookup},
		"unsigned head":     {"*/latest", changed(func(b []byte) []byte { return b[:bytes.LastIndex(b, []byte("— "))] }), "latest"},
		"forged head":       {"*/latest", changed(func(b []byte) []byte { return bytes.Replace(b, []byte("\n7"), []byte("\n8"), 1) }), "latest"},
		"page for a head":   {"*/latest", modfetchtest.HTML(), "latest"},
		"no head":           {"*/latest", modfetchtest.Status(404), "latest"},
		"older head":        {"*/latest", says(old), "latest"},
		"forked head":       {"*/latest", says(forked), "latest"},
	} {
		for where, shelf := range sumShelves(t, origin) {
			if !strings.HasPrefix(name, "forked") && (where == "module cache" || where == "go command's") {
				continue // no other than the Cache
			}
			for _, second := range []string{"alone", "with an honest one"} {
				t.Run(name+", "+where+", "+second, func(t *testing.T) {
					shelf := shelf.fresh(t, origin)
					lies := origin.Mirror()
					list := lies.URL
					if second != "alone" {
						list += "|" + origin.Mirror().URL
					}
					h := shelf.handler(t, origin, list)
					if c.pattern == "*/latest" { // the head is known already
						if r := askSum(t.Context(), h, origin, lookup); r.code != http.StatusOK {
							t.Fatalf("%d %q: %v", r.code, r.body, r.info.Err)
						}
					}
					lies.Fault(c.pattern, c.fault)
					want := honestSum(t, origin, c.file)
					isFork := strings.HasPrefix(name, "forked") && c.file == "latest"
					for range 2 {
						r := askSum(t.Context(), h, origin, c.file)
						switch {
						case isFork && r.code == http.StatusBadGateway:
						case r.code == http.StatusOK && r.body == want && !isFork && (second != "alone" || c.file == "latest"):
							if bad := name != "older head" && second == "alone"; bad != (r.info.Stale == "error") {
								t.Errorf("stale %q: %v", r.info.Stale, r.info.Err)
							}
						case second == "alone" && !isFork && c.file != "latest" && (r.code == http.StatusBadGateway || r.code == http.StatusForbidden):
							if r.code == http.StatusForbidden && !strings.HasPrefix(name, "no ") && !strings.HasPrefix(name, "a gone") {
								t.Errorf("answer %d %q", r.code, r.body)
							}
						default:
							t.Errorf("answer %d %.200q, want %.100q: %v", r.code, r.body, want, r.info.Err)
						}
					}
					if isFork {
						if !strings.Contains(fmt.Sprint(h.Fetcher.GoMod(t.Context(), moduleOld)), "two histories") {
							t.Error("the Fetcher goes on using a database that has signed two histories")
						}
						for _, file := range []string{"supported", "latest", lookup, "tile/8/0/000"} {
							if r := askSum(t.Context(), h, origin, file); r.code != http.StatusBadGateway {
								t.Errorf("%s is served as before: %d %q", file, r.code, r.body)
							}
						}
						evidence := 0
						for _, file := range filesBelow(t, shelf.dir) {
							if strings.HasPrefix(filepath.Base(file), "evidence-") {
								evidence++
							}
						}
						if evidence != 1 && shelf.dir != "" {
							t.Errorf("%d files of evidence", evidence)
						}
					}
				})
			}
		}
	}
}

// fresh returns an empty shelf of the same kind.
func (shelf sumShelf) fresh(t testing.TB, s *modfetchtest.Server) sumShelf {
	for _, other := range sumShelves(t, s) {
		if len(other.heads) == len(shelf.heads) && strings.HasSuffix(other.tiles, strings.TrimPrefix(shelf.tiles, shelf.dir)) {
			if len(shelf.heads) == 0 || strings.TrimPrefix(other.heads[0], other.dir) == strings.TrimPrefix(shelf.heads[0], shelf.dir) {
				return other
			}
		}
	}
	t.Fatal("no such shelf")
	return shelf
}

// TestHeadNeverGoesBack: with a mirror that lags in turn, alone, after long, and in a process that is started then.
func TestHeadNeverGoesBack(t *testing.T) {
	origin := newTallWorld(t)
	for name := range sumShelves(t, origin) {
		t.Run(name, func(t *testing.T) {
			new := origin.Mirror()
			lag := origin.Lag()
			origin.AddRecords(300)
			shelf := sumShelves(t, origin)[name]
			inBubble(t, origin, nil, map[string]*modfetchtest.Server{"new": new, "lag": lag}, func(t *testing.T, b *bubble) {
				handler := func() *modfetch.Handler {
					opts := append([]modfetch.Option{modfetch.WithGOPROXY("http://lag.test|http://new.test"), modfetch.WithSumDB(origin.GOSUMDB()),
						modfetch.WithHTTPClient(&http.Client{Transport: b})}, shelf.options...)
					f, err := modfetch.New(opts...)
					if err != nil {
						t.Fatal(err)
					}
					return telling(&modfetch.Handler{Fetcher: f})
				}
				h := handler()
				b.hosts["lag"] = nil
				if r := askSum(t.Context(), h, origin, lookupsOf(moduleM)[0]); r.code != http.StatusOK {
					t.Fatalf("%d %q: %v", r.code, r.body, r.info.Err)
				}
				b.hosts["lag"] = lag
				b.hosts["new"] = nil
				first := treeIn(t, askSum(t.Context(), h, origin, "latest")) // at least the lookup's
				b.hosts["new"] = new
				origin.AddRecords(10)
				b.hosts["lag"] = nil
				time.Sleep(time.Hour)
				askSum(t.Context(), h, origin, "latest")
				time.Sleep(5 * time.Second)
				largest := treeIn(t, askSum(t.Context(), h, origin, "latest"))
				if largest.N != first.N+10 {
					t.Fatalf("the largest head is of %d records after one of %d", largest.N, first.N)
				}
				b.hosts["lag"], b.hosts["new"] = lag, nil
				for range 6 {
					for range 3 {
						r := askSum(t.Context(), h, origin, "latest")
						if tree := treeIn(t, r); tree.N < largest.N {
							t.Fatalf("a head of %d records after one of %d", tree.N, largest.N)
						}
						time.Sleep(10 * time.Second)
					}
					if name != "nowhere" {
						h = handler()
					}
					time.Sleep(10 * time.Hour)
				}
				time.Sleep(10 * time.Minute)
			})
		})
	}
}

// TestOlderHeadOfAnotherProcess: one that shares the Cache may keep an older head, later.
func TestOlderHeadOfAnotherProcess(t *testing.T) {
	origin := newTallWorld(t)
	lag := origin.Lag()
	origin.AddRecords(300)
	cache := new(modfetch.MemCache)
	inBubble(t, origin, nil, map[string]*modfetchtest.Server{"a": origin, "lag": lag}, func(t *testing.T, b *bubble) {
		h := telling(new(modfetch.Handler))
		var err error
		if h.Fetcher, err = modfetch.New(modfetch.WithGOPROXY("http://a.test"), modfetch.WithSumDB(origin.GOSUMDB()), modfetch.WithCache(cache),
			modfetch.WithHTTPClient(&http.Client{Transport: b})); err != nil {
			t.Fatal(err)
		}
		largest := treeIn(t, askSum(t.Context(), h, origin, "latest"))
		time.Sleep(2 * time.Minute)
		old := httpGetIn(t, lag, "/sumdb/"+databaseOf(origin)+"/latest")
		name := "modfetch/fresh/sumdb/" + databaseOf(origin) + "/latest"
		header := `{"Time":"` + time.Now().Add(-time.Second).Format(time.RFC3339Nano) + "\"}\n"
		if err := cache.Put(t.Context(), name, strings.NewReader(header+string(old))); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if tree := treeIn(t, askSum(t.Context(), h, origin, "latest")); tree.N < largest.N {
				t.Errorf("a head of %d records after one of %d", tree.N, largest.N)
			}
			time.Sleep(time.Second)
		}
		// After a restart, what is kept beside the tiles tells the same.
		if r := askSum(t.Context(), h, origin, lookupsOf(moduleM)[0]); r.code != http.StatusOK {
			t.Fatalf("%d %q: %v", r.code, r.body, r.info.Err)
		}
		if err := cache.Put(t.Context(), name, strings.NewReader(header+string(old))); err != nil {
			t.Fatal(err)
		}
		h = telling(&modfetch.Handler{Fetcher: h.Fetcher})
		if h.Fetcher, err = modfetch.New(modfetch.WithGOPROXY("http://a.test"), modfetch.WithSumDB(origin.GOSUMDB()), modfetch.WithCache(cache),
			modfetch.WithHTTPClient(&http.Client{Transport: b})); err != nil {
			t.Fatal(err)
		}
		if tree := treeIn(t, askSum(t.Context(), h, origin, "latest")); tree.N < largest.N {
			t.Errorf("after a restart a head of %d records after one of %d", tree.N, largest.N)
		}
		time.Sleep(10 * time.Minute)
	})
}

// TestMalformedPathsOfTheDatabase are 404, and nobody is asked.
func TestMalformedPathsOfTheDatabase(t *testing.T) {
	s := newTallWorld(t)
	h := sumShelves(t, s)["nowhere"].handler(t, s, s.URL)
	paths := []string{"", "latest/", "supported/x", "Latest", "lookup", "lookup/", "lookup/example.com/m", "lookup/example.com/m@", "lookup/@v1.0.0",
		"lookup/example.com/m@latest", "lookup/example.com/m@v1", "lookup/example.com/m@main", "lookup/example.com/m@v1.0.0/go.mod", "lookup/example.com/m@v2.0.0",
		"lookup/example.com/Upper/Case@v1.0.0-!r!c1", "lookup/example.com/!upper/!case@v1.0.0-RC1", "lookup/../example.com/m@v1.0.0", "lookup/example.com/m@v1.0.0@v1.0.0",
		"lookup/example.com/m@v1.0.0+meta", "lookup/" + strings.Repeat("a", 5000) + ".com/m@v1.0.0",
		"tile", "tile/", "tile/8", "tile/8/0", "tile/8/0/", "tile/8/0/0", "tile/8/0/00", "tile/8/0/0000", "tile/8/0/x000", "tile/8/0/x001", "tile/8/0/x000/001", "tile/8/0/001/001",
		"tile/8/0/000.p", "tile/8/0/000.p/0", "tile/8/0/000.p/256", "tile/8/0/000.p/257", "tile/8/0/000.p/01", "tile/8/0/000.p/-1", "tile/8/0/000.p/+1", "tile/8/0/000.p/1/2",
		"tile/8/data/000", "tile/8/data/000.p/5", "tile/8/-1/000", "tile/8/00/000", "tile/8/6/000", "tile/8/7/000.p/1", "tile/8/63/000", "tile/8/255/000", "tile/8/9223372036854775807/000",
		"tile/1/0/000", "tile/7/0/000", "tile/9/0/000", "tile/0/0/000", "tile/30/0/000", "tile/31/0/000", "tile/-8/0/000", "tile/08/0/000",
		"tile/8/0/-01", "tile/8/0/+01", "tile/8/0/x001/-01", "tile/8/0/ 00", "tile/8/0/000 ", "tile/8/0//000", "tile//8/0/000",
		"tile/8/0/x" + strings.Repeat("999/x", 6) + "999/999", "tile/8/0/" + strings.Repeat("x999/", 40) + "999", "tile/8/0/" + strings.Repeat("x000/", 30) + "000",
		"tile/8/0/x009/x223/x372/x036/x854/x775/807", "tile/8/0/x018/x446/x744/x073/x709/x551/616", "tile/8/0/x001/x099/x511/x627/776",
		"tile/8/1/x004/x294/x967/296", "tile/8/2/x016/x777/216", "tile/8/3/x065/536", "tile/8/4/256", "tile/8/5/001", "tile/8/5/001.p/1",
		// whose last record's number overflows to a small one
		"tile/8/5/x065/535", "tile/8/4/x016/x777/215", "tile/8/3/x004/x294/x967/295", "tile/8/2/x001/x099/x511/x627/775", "tile/8/5/x065/536.p/1", "tile/8/5/x065/535.p/255",
	}
	before := s.Count("*")
	for _, path := range paths {
		r := askSum(t.Context(), h, s, path)
		if r.want(t, http.StatusNotFound, "", 0, ""); r.code != http.StatusNotFound {
			t.Errorf("... for %s", path)
		}
	}
	for _, path := range []string{"/sumdb", "/sumdb/", "/sumdb/sum.golang.org/supported", "/sumdb/sum.golang.org/latest", "/sumdb/sum.golang.org/lookup/example.com/m@v1.0.0",
		"/sumdb/" + databaseOf(s), "/sumdb/" + databaseOf(s) + ".evil.test/latest", "/sumdb/x" + databaseOf(s) + "/latest", "/sumdb/" + strings.ToUpper(databaseOf(s)) + "/latest",
		"/sumdb//latest", "//sumdb/" + databaseOf(s) + "/latest", "/sumdb/../sumdb/" + databaseOf(s) + "/latest"} {
		if r := askFront(t.Context(), h, path); r.code != http.StatusNotFound {
			t.Errorf("%s: %d %q", path, r.code, r.body)
		}
	}
	if n := s.Count("*") - before; n > 0 {
		t.Errorf("%d requests: %q", n, s.Requests()[before:])
	}
	off := telling(&modfetch.Handler{Fetcher: newBareFetcher(t, modfetch.WithGOPROXY(s.URL), modfetch.WithSumDB("off"))})
	for _, file := range []string{"supported", "latest", "tile/8/0/000"} {
		if r := askSum(t.Context(), off, s, file); r.code != http.StatusNotFound {
			t.Errorf("without a database, %s: %d %q", file, r.code, r.body)
		}
	}
}

// TestLookupsThatAreRefused: of paths that are private, denied or exempt nobody hears.
func TestLookupsThatAreRefused(t *testing.T) {
	s := newWorld(t)
	m := lookupsOf(moduleM)[0]
	env := func(e modfetch.GoEnv) []modfetch.Option {
		e.GOPROXY, e.GOSUMDB = s.URL, s.GOSUMDB()
		return []modfetch.Option{modfetch.WithGoEnv(e), (&homeHost{}).option()}
	}
	for name, c := range map[string]struct {
		handler *modfetch.Handler
		opts    []modfetch.Option
	}{
		"GOPRIVATE":                 {&modfetch.Handler{}, env(modfetch.GoEnv{GOPRIVATE: "example.com"})},
		"GONOSUMDB":                 {&modfetch.Handler{}, env(modfetch.GoEnv{GONOSUMDB: "example.com/m"})},
		"GONOPROXY":                 {&modfetch.Handler{}, env(modfetch.GoEnv{GONOPROXY: "*.com"})},
		"WithPrivate":               {&modfetch.Handler{}, append(env(modfetch.GoEnv{}), modfetch.WithPrivate("example.com/m"))},
		"WithRoute":                 {&modfetch.Handler{}, append(env(modfetch.GoEnv{}), modfetch.WithRoute("example.com/m", s.URL))},
		"Deny":                      {&modfetch.Handler{Deny: "example.com/m"}, env(modfetch.GoEnv{})},
		"not Allow":                 {&modfetch.Handler{Allow: "example.org"}, env(modfetch.GoEnv{})},
		"GOPRIVATE, ServePrivate":   {&modfetch.Handler{ServePrivate: true}, env(modfetch.GoEnv{GOPRIVATE: "example.com"})},
		"GONOSUMDB, ServePrivate":   {&modfetch.Handler{ServePrivate: true}, env(modfetch.GoEnv{GONOSUMDB: "example.com"})},
		"WithPrivate, ServePrivate": {&modfetch.Handler{ServePrivate: true}, append(env(modfetch.GoEnv{}), modfetch.WithPrivate("example.com"))},
		"WithRoute, ServePrivate":   {&modfetch.Handler{ServePrivate: true}, append(env(modfetch.GoEnv{}), modfetch.WithRoute("example.com", s.URL))},
	} {
		t.Run(name, func(t *testing.T) {
			c.handler.Fetcher = newBareFetcher(t, c.opts...)
			before := s.Count("*")
			for _, file := range []string{m, "lookup/example.com/m@v1.9.9"} {
				askSum(t.Context(), telling(c.handler), s, file).want(t, http.StatusForbidden, "", 0, "")
			}
			if n := s.Count("*") - before; n > 0 {
				t.Errorf("%d requests: %q", n, s.Requests()[before:])
			}
			if r := askSum(t.Context(), c.handler, s, "latest"); r.code != http.StatusOK {
				t.Errorf("a head names no path, but %d %q", r.code, r.body)
			}
		})
	}
}

// TestLookupOfAnUnknownVersionIsNoAbsence, and nothing of it is kept.
func TestLookupOfAnUnknownVersionIsNoAbsence(t *testing.T) {
	s := newWorld(t)
	h := sumShelves(t, s)["Cache"].handler(t, s, s.URL)
	for range 2 {
		r := askSum(t.Context(), h, s, "lookup/example.com/m@v1.5.0")
		if r.code == http.StatusOK || r.code == http.StatusNotFound || r.code == http.StatusGone {
			t.Errorf("answer %d %q", r.code, r.body)
		}
	}
	s.Add(modfetchtest.NewModule("example.com/m", "v1.5.0").File("m.go", "package m\n"))
	if r := askSum(t.Context(), h, s, "lookup/example.com/m@v1.5.0"); r.code != http.StatusOK || r.body != honestSum(t, s, "lookup/example.com/m@v1.5.0") {
		t.Errorf("once it is on record: %d %q", r.code, r.body)
	}
}

// TestTilesOfATreeThatNobodyKnows: a larger head is asked for, once for many, and what is beyond it is no absence.
func TestTilesOfATreeThatNobodyKnows(t *testing.T) {
	origin := newTallWorld(t)
	inBubble(t, origin, new(modfetch.GoSum), map[string]*modfetchtest.Server{"a": origin}, func(t *testing.T, b *bubble) {
		h := telling(new(modfetch.Handler))
		h.Fetcher, _ = b.fetcher("a")
		if r := askSum(t.Context(), h, origin, lookupsOf(moduleM)[0]); r.code != http.StatusOK {
			t.Fatalf("%d %q: %v", r.code, r.body, r.info.Err)
		}
		origin.AddRecords(600)
		time.Sleep(time.Hour)
		want := httpGetIn(t, origin, "/sumdb/"+databaseOf(origin)+"/tile/8/0/004")
		if r := askSum(t.Context(), h, origin, "tile/8/0/004"); r.code != http.StatusOK || r.body != string(want) {
			t.Errorf("%d %.50q: %v", r.code, r.body, r.info.Err)
		}
		time.Sleep(time.Hour)
		heads, all := origin.Count("*/latest"), origin.Count("*")
		for i := range 200 {
			if r := askSum(t.Context(), h, origin, fmt.Sprintf("tile/8/0/x%03d/900", i+1)); r.code != http.StatusBadGateway {
				t.Fatalf("beyond the tree: %d %q", r.code, r.body)
			}
		}
		if n := origin.Count("*/latest") - heads; n != 1 {
			t.Errorf("the head was asked for %d times", n)
		}
		if n := origin.Count("*") - all; n > 20 {
			t.Errorf("%d requests for what does not exist", n)
		}
		origin.AddRecords(256) // not even the head that is served is old by then
		time.Sleep(2 * time.Second)
		if r := askSum(t.Context(), h, origin, "tile/8/0/005"); r.code != http.StatusOK {
			t.Errorf("%d %.50q: %v", r.code, r.body, r.info.Err)
		}
		time.Sleep(10 * time.Minute)
	})
}

// TestManyClientsOfOneTile come one after the other while it is proven.
func TestManyClientsOfOneTile(t *testing.T) {
	for name := range sumShelves(t, newWorld(t)) {
		t.Run(name, func(t *testing.T) {
			origin := newTallWorld(t)
			shelf := sumShelves(t, origin)[name]
			origin.Fault("*/tile/8/0/*", modfetchtest.Fault{}.Latency(time.Second))
			origin.Fault("*/tile/8/1/*", modfetchtest.Fault{}.Latency(3*time.Second))
			origin.Fault("*/latest", modfetchtest.Fault{}.Latency(time.Second))
			inBubble(t, origin, nil, map[string]*modfetchtest.Server{"a": origin}, func(t *testing.T, b *bubble) {
				f, err := modfetch.New(append([]modfetch.Option{modfetch.WithGOPROXY("http://a.test"), modfetch.WithSumDB(origin.GOSUMDB()),
					modfetch.WithHTTPClient(&http.Client{Transport: b})}, shelf.options...)...)
				if err != nil {
					t.Fatal(err)
				}
				h := telling(&modfetch.Handler{Fetcher: f})
				want := httpGetIn(t, origin, "/sumdb/"+databaseOf(origin)+"/tile/8/0/001")
				was := origin.Count("*/tile/8/0/001")
				var clients sync.WaitGroup
				for range 64 {
					clients.Go(func() {
						if r := askSum(t.Context(), h, origin, "tile/8/0/001"); r.code != http.StatusOK || r.body != string(want) {
							t.Errorf("%d %.50q: %v", r.code, r.body, r.info.Err)
						}
					})
					time.Sleep(100 * time.Millisecond)
				}
				clients.Wait()
				if n := origin.Count("*/tile/8/0/001") - was; n != 1 {
					t.Errorf("fetched %d times", n)
				}
				if n := origin.Count("*/latest"); n != 1 {
					t.Errorf("the head was fetched %d times", n)
				}
				time.Sleep(10 * time.Minute)
			})
		})
	}
}

// TestClientsOfTheDatabaseThatLeave end within a second, and take the requests with them.
func TestClientsOfTheDatabaseThatLeave(t *testing.T) {
	tall := newTallWorld(t)
	for _, file := range append([]string{"latest", "tile/8/0/000", "tile/8/0/003.p/17"}, lookupsOf(moduleM)...) {
		for _, hang := range []string{"*", "*/tile/*", "*/latest", "*/lookup/*"} {
			t.Run(file+" "+hang, func(t *testing.T) {
				origin := tall.Mirror()
				origin.Fault(hang, modfetchtest.Hang())
				inBubble(t, origin, new(modfetch.GoSum), map[string]*modfetchtest.Server{"a": origin}, func(t *testing.T, b *bubble) {
					h := telling(new(modfetch.Handler))
					h.Fetcher, _ = b.fetcher("a")
					ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
					defer cancel()
					r := askSum(ctx, h, origin, file)
					if r.took > 1500*time.Millisecond || r.code == http.StatusNotFound {
						t.Errorf("answer %d after %s", r.code, r.took)
					}
					synctest.Wait()
				})
			})
		}
	}
}

// TestEmptyDatabase: the head of a tree without records is one like others.
func TestEmptyDatabase(t *testing.T) {
	s := modfetchtest.NewServer(t, nil)
	for name, shelf := range sumShelves(t, s) {
		r := askSum(t.Context(), shelf.handler(t, s, s.URL), s, "latest")
		if r.code != http.StatusOK || r.body == "" || r.body != honestSum(t, s, "latest") {
			t.Errorf("%s: %d %q: %v", name, r.code, r.body, r.info.Err)
		}
		if r := askSum(t.Context(), shelf.handler(t, s, s.URL), s, "tile/8/0/000.p/1"); r.code != http.StatusBadGateway {
			t.Errorf("%s: a tile of nothing: %d %q", name, r.code, r.body)
		}
	}
}

// TestDisabledClients who want nothing to be fetched wait for nobody else's request, and fail nobody else's.
func TestDisabledClients(t *testing.T) {
	origin := newTallWorld(t)
	origin.Fault("*", modfetchtest.Fault{}.Latency(time.Second))
	inBubble(t, origin, new(modfetch.GoSum), map[string]*modfetchtest.Server{"a": origin}, func(t *testing.T, b *bubble) {
		h := telling(new(modfetch.Handler))
		h.Fetcher, _ = b.fetcher("a")
		for _, file := range append([]string{"latest", "tile/8/0/001"}, lookupsOf(moduleM)...) {
			var clients sync.WaitGroup
			clients.Go(func() {
				if r := askSum(t.Context(), h, origin, file); r.code != http.StatusOK {
					t.Errorf("%s: %d %q: %v", file, r.code, r.body, r.info.Err)
				}
			})
			time.Sleep(500 * time.Millisecond)
			w, start := httptest.NewRecorder(), time.Now()
			r := httptest.NewRequestWithContext(t.Context(), "GET", "http://proxy.test/sumdb/"+databaseOf(origin)+"/"+file, nil)
			r.Header.Set("Disable-Module-Fetch", "true")
			if h.ServeHTTP(w, r); w.Code != http.StatusNotFound && w.Code != http.StatusOK || time.Since(start) > 0 {
				t.Errorf("%s for who wants nothing to be fetched: %d %q after %s", file, w.Code, w.Body, time.Since(start))
			}
			clients.Wait()
		}
		time.Sleep(10 * time.Minute)
	})
}

// TestNoHeadIsNoAbsence: not even if everybody says so.
func TestNoHeadIsNoAbsence(t *testing.T) {
	s := newWorld(t)
	s.Fault("*/latest", modfetchtest.Status(404))
	h := telling(&modfetch.Handler{Fetcher: newBareFetcher(t, append(s.Options(), (&homeHost{server: s}).option())...)})
	for _, file := range []string{"latest", "tile/8/0/000.p/1"} {
		askSum(t.Context(), h, s, file).want(t, http.StatusForbidden, "", 0, "")
	}
}

// TestForkIsFoundForATile of a tree that nobody knows yet.
func TestForkIsFoundForATile(t *testing.T) {
	origin := newTallWorld(t)
	fork := origin.Fork()
	origin.AddRecords(5)
	s := origin.Mirror()
	h := sumShelves(t, origin)["Cache"].handler(t, origin, s.URL)
	if r := askSum(t.Context(), h, origin, lookupsOf(moduleM)[0]); r.code != http.StatusOK {
		t.Fatalf("%d %q: %v", r.code, r.body, r.info.Err)
	}
	s.Fault("*/latest", shows([]byte(honestSum(t, fork, "latest"))))
	for _, file := range []string{"tile/8/0/005", "supported", "latest", "tile/8/0/000", lookupsOf(moduleM)[0]} {
		if r := askSum(t.Context(), h, origin, file); r.code != http.StatusBadGateway || modfetch.KindOf(r.info.Err) != modfetch.Security {
			t.Errorf("%s: %d %q: %v", file, r.code, r.body, r.info.Err)
		}
	}
}
