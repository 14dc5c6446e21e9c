package modfetch_test

import (
	"archive/zip"
	"bytes"
	"context"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/modfetchtest"
	"golang.org/x/mod/module"
)

const (
	cacheM = "cache/download/example.com/m/@v/v1.0.0" // where moduleM's files are in a module cache, without their ends
	treeM  = "example.com/m@v1.0.0"
)

func TestNamesOnTheWireAndOnDisk(t *testing.T) {
	for name, q := range map[string]struct {
		m       module.Version
		wire    string
		escaped string // path@version
		list    string
	}{
		// cases 12 and 13: a version with an upper-case letter is in no list, because names are read in their escaped form
		"upper case":   {moduleUpper, "/example.com/%21upper/%21case/@v/v1.0.0-%21r%21c1", "example.com/!upper/!case@v1.0.0-!r!c1", ""},
		"incompatible": {moduleOld, "/example.com/old/@v/v3.0.0+incompatible", "example.com/old@v3.0.0+incompatible", "v3.0.0+incompatible\n"}, // case 14
	} {
		t.Run(name, func(t *testing.T) {
			asBoth(t, func(t *testing.T, c *client) {
				var mu sync.Mutex
				var wire []string
				c.a.Fault("/example.com/*", modfetchtest.Middleware(func(honest http.Handler) http.Handler {
					return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						mu.Lock()
						wire = append(wire, r.RequestURI)
						mu.Unlock()
						honest.ServeHTTP(w, r)
					})
				}))
				if o := c.ask(t, q.m.Path, q.m.Version); o.err != nil {
					t.Fatal(o.says)
				}
				if want := []string{q.wire + ".info", q.wire + ".mod", q.wire + ".zip"}; !slices.Equal(wire, want) {
					t.Errorf("asked for %q, want %q", wire, want)
				}
				path, version, _ := strings.Cut(q.escaped, "@")
				dir := "cache/download/" + path + "/@v/"
				for _, name := range []string{dir + version + ".info", dir + version + ".mod", dir + version + ".ziphash", q.escaped + "/m.go"} {
					if !c.has(name) {
						t.Errorf("%s is not there", name)
					}
				}
				if list := c.read(t, dir+"list"); list != q.list {
					t.Errorf("list %q, want %q", list, q.list)
				}
				r, err := zip.OpenReader(filepath.Join(c.modCache(), dir+version+".zip"))
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				for _, f := range r.File {
					if !strings.HasPrefix(f.Name, q.m.String()+"/") {
						t.Errorf("%s in the zip", f.Name)
					}
				}
			})
		})
	}
}

func TestInfoIsKeptInItsShortForm(t *testing.T) { // case 25
	const origin = `"Origin": {"VCS": "git", "URL": "https://example.com/m", "Hash": "0123", "TagPrefix": "sub/", "TagSum": "t1:x", "RepoSum": "r1:x", "Ref": "refs/tags/x"}`
	for name, q := range map[string]struct{ version, sent, kept string }{
		"extras and Origin": {"v1.5.0", "{\n  \"Version\": \"v1.5.0\",\n  \"Time\": \"2024-01-02T03:04:05Z\", \"Name\": \"abc\", " + origin + "}\n",
			`{"Version":"v1.5.0","Time":"2024-01-02T03:04:05Z","Origin":{"VCS":"git","URL":"https://example.com/m","Hash":"0123","Ref":"refs/tags/x"}}`},
		"pseudo-version": {"v0.0.0-20240102030405-abcdef012345", `{"Version": "v0.0.0-20240102030405-abcdef012345", ` + origin + "}",
			`{"Version":"v0.0.0-20240102030405-abcdef012345","Time":"0001-01-01T00:00:00Z","Origin":{"VCS":"git","URL":"https://example.com/m","Hash":"0123"}}`},
		"case of keys": {"v1.5.0", `{"version": "v1.5.0", "TIME": "2024-01-02T03:04:05+02:00"}`, `{"Version":"v1.5.0","Time":"2024-01-02T03:04:05+02:00"}`},
	} {
		t.Run(name, func(t *testing.T) {
			asBoth(t, func(t *testing.T, c *client) {
				c.base.Add(modfetchtest.NewModule(moduleM.Path, q.version).File(".info", q.sent))
				if o := c.ask(t, moduleM.Path, q.version); o.err != nil {
					t.Fatal(o.says)
				}
				if kept := c.read(t, "cache/download/example.com/m/@v/"+q.version+".info"); kept != q.kept {
					t.Errorf("kept %s, want %s", kept, q.kept)
				}
			})
		})
	}
}

func TestDamagedModuleCache(t *testing.T) {
	write := func(t *testing.T, c *client, name, content string) {
		t.Helper()
		file := filepath.Join(c.modCache(), filepath.FromSlash(name))
		if strings.HasPrefix(name, treeM) { // whose files are read-only
			os.Chmod(file, 0o666)
		}
		if err := os.WriteFile(file, []byte(content), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(t *testing.T, c *client, name string) {
		t.Helper()
		if err := os.RemoveAll(filepath.Join(c.modCache(), filepath.FromSlash(name))); err != nil {
			t.Fatal(err)
		}
	}
	swapZip := func(t *testing.T, c *client) {
		write(t, c, cacheM+".zip", string(zipOf(t, moduleM, map[string]string{"go.mod": "module example.com/m\n", "m.go": "package evil\n"})))
	}
	for name, q := range map[string]struct {
		damage        func(*testing.T, *client)
		inModule      bool   // with the right go.sum
		asked, goAsks string // of mirror a; otherwise everything is offline
		goFails       bool
		left          bool // by the go command: the damage
	}{
		"no ziphash":        {damage: func(t *testing.T, c *client) { remove(t, c, cacheM+".ziphash") }}, // case 33
		"ziphash cut short": {damage: func(t *testing.T, c *client) { write(t, c, cacheM+".ziphash", "h1:AAAA") }},
		"broken extraction": {damage: func(t *testing.T, c *client) { // case 34
			write(t, c, cacheM+".partial", "")
			write(t, c, treeM+"/stray.go", "package stray\n")
			write(t, c, treeM+"/m.go", "pack")
		}},
		"no tree":         {damage: func(t *testing.T, c *client) { remove(t, c, treeM) }},
		"info is no JSON": {damage: func(t *testing.T, c *client) { write(t, c, cacheM+".info", "<html>") }, asked: "info", goAsks: "info"},
		"info of another version": {damage: func(t *testing.T, c *client) {
			write(t, c, cacheM+".info", `{"Version":"v1.0.0-other"}`)
		}, asked: "info", goAsks: "info mod", goFails: true, left: true}, // it is believed
		"go.mod is not that of the database": {damage: func(t *testing.T, c *client) { write(t, c, cacheM+".mod", "module evil\n") },
			asked: "mod", goAsks: "mod", left: true}, // it is fetched anew each time, but not kept
		"go.mod is not that of go.sum": {damage: func(t *testing.T, c *client) { write(t, c, cacheM+".mod", "module evil\n") },
			inModule: true, asked: "mod", goFails: true, left: true},
		"another zip, no tree": {damage: func(t *testing.T, c *client) { swapZip(t, c); remove(t, c, treeM) }, asked: "zip", left: true},
		"another zip and ziphash": {damage: func(t *testing.T, c *client) {
			swapZip(t, c)
			write(t, c, cacheM+".ziphash", wrongSum)
			remove(t, c, treeM)
		}, asked: "zip", goFails: true, left: true},
	} {
		t.Run(name, func(t *testing.T) {
			asBoth(t, func(t *testing.T, c *client) {
				if q.inModule {
					c.inModule(t, c.base.GoSum(moduleM.Path, moduleM.Version))
				}
				if o := c.ask(t, moduleM.Path, moduleM.Version); o.err != nil {
					t.Fatal(o.says)
				}
				before := snapshot(t, c.modCache())
				q.damage(t, c)
				o := c.ask(t, moduleM.Path, moduleM.Version)
				if want := either(c, q.asked, q.goAsks); o.a != want {
					t.Errorf("asked for %q, want %q", o.a, want)
				}
				if fails := c.isGo() && q.goFails; (o.err != nil) != fails {
					t.Errorf("error %s, want one: %t", o.says, fails)
				}
				after := snapshot(t, c.modCache())
				var differ []string
				for name := range after {
					if before[name] != after[name] {
						differ = append(differ, name)
					}
				}
				for name := range before {
					if _, ok := after[name]; !ok {
						differ = append(differ, name)
					}
				}
				if left := c.isGo() && q.left; left != (differ != nil) {
					t.Errorf("the module cache is not as it was before the damage: %q; want that: %t", differ, left)
				}
			})
		})
	}
}

func TestZipsAgainstTheRules(t *testing.T) {
	t.Parallel()
	raw := func(t *testing.T, names ...string) []byte {
		t.Helper()
		var buf bytes.Buffer
		z := zip.NewWriter(&buf)
		for _, name := range names {
			w, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate, NonUTF8: true})
			if err == nil {
				_, err = w.Write([]byte("package m\n"))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		return buf.Bytes()
	}
	bad := module.Version{Path: "example.com/bad", Version: "v1.0.0"}
	for name, q := range map[string]struct {
		zip  []byte
		kept bool // by the go command, which finds out when it extracts the zip
	}{
		// case 35
		"another module":        {zip: raw(t, "example.com/bad@v1.0.0/m.go", "example.com/other@v1.0.0/m.go")},
		"directory above":       {zip: raw(t, "x/example.com/bad@v1.0.0/m.go")},
		"no zip at all":         {zip: []byte("this is no zip")},
		"name is no UTF-8":      {zip: raw(t, "example.com/bad@v1.0.0/m\xff.go"), kept: true}, // case 36
		"go.mod in a directory": {zip: raw(t, "example.com/bad@v1.0.0/sub/go.mod"), kept: true},
		"names differ by case":  {zip: raw(t, "example.com/bad@v1.0.0/M.go", "example.com/bad@v1.0.0/m.go"), kept: true},
		"go.mod of 17 MiB":      {zip: zipOf(t, bad, map[string]string{"go.mod": "// " + strings.Repeat("x", 17<<20) + "\n"}), kept: true}, // case 37
	} {
		t.Run(name, func(t *testing.T) {
			asBoth(t, func(t *testing.T, c *client) {
				c.base.Add(modfetchtest.NewModule(bad.Path, bad.Version).RawZip(q.zip))
				o := c.ask(t, bad.Path, bad.Version)
				if o.err == nil || o.a != "info mod zip" || !c.isGo() && o.kind != modfetch.Corrupt {
					t.Errorf("asked for %q, error of kind %q: %s", o.a, o.kind, o.says)
				}
				if c.has("example.com/bad@v1.0.0") {
					t.Error("it was extracted")
				}
				for _, end := range []string{"zip", "ziphash"} {
					if kept := c.has("cache/download/example.com/bad/@v/v1.0.0." + end); kept != (c.isGo() && q.kept) {
						t.Errorf("the %s was kept: %t", end, kept)
					}
				}
			})
		})
	}
}

func TestLargeGoModAlone(t *testing.T) { // case 37
	asBoth(t, func(t *testing.T, c *client) {
		big := "// " + strings.Repeat("x", 17<<20) + "\nmodule example.com/bad\n"
		c.base.Add(modfetchtest.NewModule("example.com/bad", "v1.0.0").File(".mod", big).File("m.go", "package m\n"))
		o := c.ask(t, "example.com/bad", "v1.0.0")
		if (o.err != nil) == c.isGo() || !c.isGo() && o.kind != modfetch.Corrupt {
			t.Errorf("error of kind %q: %s", o.kind, o.says)
		}
	})
}

func TestPageInsteadOfAGoMod(t *testing.T) {
	asBoth(t, func(t *testing.T, c *client) {
		c.set("GOSUMDB=off")
		c.a.Fault("*.mod", modfetchtest.HTML())
		o := c.ask(t, moduleM.Path, moduleM.Version)
		if kept := c.has(cacheM + ".mod"); kept != c.isGo() || (o.err == nil) != c.isGo() {
			t.Errorf("the page was kept: %t; error %s", kept, o.says)
		}
	})
}

func TestGoModBesideAZipThatNobodyVouchesFor(t *testing.T) {
	asBoth(t, func(t *testing.T, c *client) {
		c.base.Add(modfetchtest.NewModule("example.com/two", "v1.0.0").
			File(".mod", "module example.com/two\n\ngo 1.26\n").File("go.mod", "module example.com/two\n\ngo 1.25\n"))
		c.set("GOSUMDB=off")
		o := c.ask(t, "example.com/two", "v1.0.0")
		if (o.err == nil) != c.isGo() || !c.isGo() && o.kind != modfetch.Corrupt {
			t.Errorf("error of kind %q: %s", o.kind, o.says)
		}
	})
}

func TestModesOfExtractedFiles(t *testing.T) { // case 38
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no such modes")
	}
	m := module.Version{Path: "example.com/modes", Version: "v1.0.0"}
	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	for name, mode := range map[string]fs.FileMode{"go.mod": 0o644, "run.sh": 0o755, "link": fs.ModeSymlink | 0o777, "sub/all": 0o666, "sub/none": 0, "made/": fs.ModeDir | 0o777} {
		h := &zip.FileHeader{Name: m.String() + "/" + name, Method: zip.Deflate}
		h.SetMode(mode)
		w, err := z.CreateHeader(h)
		if err == nil {
			_, err = w.Write([]byte(map[string]string{"go.mod": "module example.com/modes\n", "link": "run.sh"}[name]))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	asBoth(t, func(t *testing.T, c *client) {
		c.base.Add(modfetchtest.NewModule(m.Path, m.Version).RawZip(buf.Bytes()))
		c.set("GOFLAGS=") // read-only directories
		if o := c.ask(t, m.Path, m.Version); o.err != nil {
			t.Fatal(o.says)
		}
		for name, want := range map[string]fs.FileMode{"": fs.ModeDir, "go.mod": 0, "run.sh": 0, "link": 0, "sub": fs.ModeDir, "sub/all": 0, "sub/none": 0} {
			info, err := os.Lstat(filepath.Join(c.modCache(), "example.com/modes@v1.0.0", name))
			if err != nil {
				t.Error(err)
			} else if mode := info.Mode(); mode.Type() != want || mode&0o222 != 0 || mode&0o400 == 0 || !mode.IsDir() && mode&0o111 != 0 {
				t.Errorf("%s has mode %s", name, mode)
			}
		}
		if c.has("example.com/modes@v1.0.0/made") {
			t.Error("there is a directory without files")
		}
		if text := c.read(t, "example.com/modes@v1.0.0/link"); text != "run.sh" {
			t.Errorf("the link is a file that says %q", text)
		}
	})
}

func TestOneOfManyProcessesFetchesAZip(t *testing.T) { // case 39
	goCommand := needGo(t)
	for _, first := range []string{"go", "modfetch"} {
		t.Run(first+" first", func(t *testing.T) {
			c := newClient(t, goCommand)
			arrived, waiting, release := make(chan string, 9), make(chan string, 9), make(chan struct{})
			c.a.Fault("*.zip", modfetchtest.Middleware(func(honest http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					arrived <- r.URL.Path
					select {
					case <-release:
					case <-r.Context().Done():
					}
					honest.ServeHTTP(w, r)
				})
			}))
			askedGoMod := make(chan string, 9)
			c.a.Fault("*.mod", modfetchtest.Middleware(func(honest http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					askedGoMod <- r.URL.Path
					honest.ServeHTTP(w, r)
				})
			}))
			var wg sync.WaitGroup
			end := sync.OnceFunc(func() { close(release); wg.Wait() })
			defer end()
			next := func(news <-chan string) string {
				t.Helper()
				select {
				case name := <-news:
					return name
				case <-time.After(time.Minute):
					t.Fatal("nothing happens")
				}
				return ""
			}
			askGo := func() {
				wg.Go(func() {
					if o := c.askGo(t, moduleM.Path, moduleM.Version); o.err != nil {
						t.Errorf("go: %v: %s", o.err, o.says)
					}
				})
			}
			askModfetch := func() {
				f, err := c.fetcher(t, modfetch.WithTrace(&modfetch.Trace{LockWaiting: func(_ context.Context, name string) { waiting <- name }}))
				if err != nil {
					t.Fatal(err)
				}
				wg.Go(func() {
					if _, err := f.Dir(t.Context(), moduleM); err != nil {
						t.Errorf("modfetch: %v", err)
					}
				})
			}
			others := []func(){askModfetch, askModfetch}
			if first == "go" {
				askGo()
			} else {
				askModfetch()
				others[0] = askGo
			}
			next(arrived) // whoever has asked for the zip holds the lock
			for _, ask := range others {
				ask()
			}
			if first == "go" {
				for range others {
					if name := next(waiting); filepath.Base(name) != "v1.0.0.lock" {
						t.Errorf("waiting for %s", name)
					}
				}
			} else {
				next(waiting)
				next(askedGoMod) // behind which the go command wants the lock, but does not say that it waits
			}
			end()
			if n := c.a.Count("*.zip"); n != 1 {
				t.Errorf("%d requests for one zip", n)
			}
			if c.read(t, treeM+"/m.go") != "package m\n" {
				t.Error("the tree is not there")
			}
		})
	}
}
