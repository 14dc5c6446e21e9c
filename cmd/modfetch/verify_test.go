package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/modfetch/modfetch/modfetchtest"
	"golang.org/x/mod/module"
)

// cached returns the names of what the module cache may hold of a module.
func cached(path, version string) files {
	v := verification{settings: settings{modCache: os.Getenv("GOMODCACHE")}}
	return v.files(module.Version{Path: path, Version: version})
}

// newVerifyWorld is newWorld with a checksum database that can be reached: at an address of its own, and through the mirror.
func newVerifyWorld(t *testing.T) *world {
	w := newWorld(t)
	t.Setenv("GOSUMDB", w.GOSUMDBDirect())
	return w
}

// damage replaces a file's content, or that of a file in a tree, in spite of its permissions.
func (w *world) damage(name string) {
	w.t.Helper()
	info, err := os.Stat(name)
	if err != nil {
		w.t.Fatal(err)
	}
	if info.IsDir() {
		name = filepath.Join(name, "c.go")
	}
	if err := os.Chmod(name, 0o666); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte("module example.com/evil\n"), 0o666); err != nil {
		w.t.Fatal(err)
	}
}

// verified reads what -json printed of modules.
func (w *world) verified(stdout string) []verified {
	w.t.Helper()
	all, _ := w.verifiedJSON(stdout)
	return all
}

// verifiedJSON reads what -json printed of modules and of tree heads.
func (w *world) verifiedJSON(stdout string) (modules []verified, heads []head) {
	w.t.Helper()
	for d := json.NewDecoder(strings.NewReader(stdout)); ; {
		var object json.RawMessage
		if err := d.Decode(&object); errors.Is(err, io.EOF) {
			return modules, heads
		} else if err != nil {
			w.t.Fatalf("%v in:\n%s", err, stdout)
		}
		var h head
		var v verified
		if err := errors.Join(json.Unmarshal(object, &h), json.Unmarshal(object, &v)); err != nil {
			w.t.Fatalf("%v in:\n%s", err, object)
		}
		if h.Database != "" {
			heads = append(heads, h)
		} else {
			modules = append(modules, v)
		}
	}
}

func TestVerifyProject(t *testing.T) {
	w := newVerifyWorld(t)
	w.write(w.dir, "go.mod", mainMod)
	w.modfetch("download", "-update-sum")
	w.Close() // nobody is needed

	code, stdout, stderr := w.modfetch("verify")
	if code != exitOK || stdout != "" || !strings.HasSuffix(stderr, "\nall 3 modules verified\n") || strings.Count(stderr, ": no tree head: ") != 2 {
		t.Errorf("exit code %d, printed %s", code, stdout)
	}
	code, stdout, stderr = w.modfetch("verify", "-json", "example.com/c@v1.1.0")
	if got := w.verified(stdout); code != exitOK || len(got) != 1 || got[0].Path != "example.com/c" || stderr != "all 1 module verified\n" {
		t.Errorf("exit code %d, printed %s", code, stdout)
	}
}

func TestVerifyNamesWhatDiffersAndRepairsIt(t *testing.T) {
	for _, test := range []struct {
		name    string
		version string // of example.com/c; v1.0.0 is only there as a go.mod file
		part    func(files) string
		args    []string
	}{
		{"go.mod", "v1.1.0", func(f files) string { return f.goMod }, nil},
		{"zip", "v1.1.0", func(f files) string { return f.zip }, nil},
		{"recorded hash", "v1.1.0", func(f files) string { return f.zip + "hash" }, nil},
		{"tree", "v1.1.0", func(f files) string { return f.tree }, nil},
		{"go.mod of the graph", "v1.0.0", func(f files) string { return f.goMod }, nil},
		{"argument", "v1.1.0", func(f files) string { return f.tree }, []string{"example.com/c@v1.1.0", "example.com/a@v1.0.0"}},
	} {
		for _, withSum := range []bool{false, true} {
			name := test.name + " by the checksum database"
			if withSum {
				name = test.name + " by go.sum"
			}
			t.Run(name, func(t *testing.T) {
				w := newVerifyWorld(t)
				w.write(w.dir, "go.mod", mainMod)
				source, _, _ := strings.Cut(w.GOSUMDB(), "+")
				w.modfetch("download")
				if withSum {
					w.modfetch("download", "-update-sum")
					source = filepath.Join(w.dir, "go.sum")
				}
				part := test.part(cached("example.com/c", test.version))
				w.damage(part)

				for range 2 { // nothing is changed by looking
					code, stdout, stderr := w.modfetch(append([]string{"verify", "-json"}, test.args...)...)
					var bad []verified
					for _, v := range w.verified(stdout) {
						if v.Differences != nil || v.Error != "" {
							bad = append(bad, v)
						}
					}
					if code != exitFailed || len(bad) != 1 || len(bad[0].Differences) != 1 || !strings.Contains(stderr, ", 1 not what is on record\n") {
						t.Fatalf("exit code %d, printed %s", code, stdout)
					}
					v, d := bad[0], bad[0].Differences[0]
					if v.Path != "example.com/c" || v.Version != test.version || v.Repaired || v.Error != "" || v.NotCached ||
						d.Name != part || d.Got == d.Want || !strings.HasPrefix(d.Want, "h1:") || d.Source != source {
						t.Errorf("printed %s", stdout)
					}
				}
				code, plain, _ := w.modfetch(append([]string{"verify"}, test.args...)...)
				want := "example.com/c " + test.version + ": " + part + "\n  got         "
				if code != exitFailed || !strings.HasPrefix(plain, want) || !strings.HasSuffix(plain, "\n  source      "+source+"\n") ||
					strings.Count(plain, "\n") != 4 {
					t.Errorf("exit code %d, printed %swant %s", code, plain, want)
				}

				code, plain, stderr := w.modfetch(append([]string{"verify", "-repair"}, test.args...)...)
				if code != exitOK || !strings.HasSuffix(plain, "\nexample.com/c "+test.version+": repaired\n") || !strings.Contains(stderr, " verified, 1 repaired\n") {
					t.Errorf("with -repair exit code %d, printed %s", code, plain)
				}
				code, plain, stderr = w.modfetch(append([]string{"verify"}, test.args...)...)
				if code != exitOK || plain != "" || !strings.HasPrefix(stderr, "all ") {
					t.Errorf("after the repair exit code %d, printed %s", code, plain)
				}
			})
		}
	}
}

func TestVerifyOfWhatIsNotCached(t *testing.T) {
	w := newVerifyWorld(t)
	w.write(w.dir, "go.mod", mainMod)
	code, stdout, stderr := w.modfetch("verify")
	const want = "example.com/a v1.0.0: not in the cache\nexample.com/b v1.0.0: not in the cache\nexample.com/c v1.1.0: not in the cache\n"
	if code != exitOK || stdout != want || stderr != "3 modules: 3 not in the cache\n" {
		t.Errorf("exit code %d, printed %s", code, stdout)
	}
	filepath.WalkDir(filepath.Join(os.Getenv("GOMODCACHE"), "cache", "download", "example.com"), func(name string, _ fs.DirEntry, err error) error {
		if err == nil {
			t.Errorf("made: %s", name)
		}
		return nil
	})

	w.modfetch("download", "example.com/c@v1.1.0")
	code, stdout, stderr = w.modfetch("verify", "-json")
	var absent []string
	for _, v := range w.verified(stdout) {
		if v.NotCached {
			absent = append(absent, v.Path)
		}
	}
	if code != exitOK || !slices.Equal(absent, []string{"example.com/a", "example.com/b"}) || stderr != "all 1 module verified; 2 not in the cache\n" {
		t.Errorf("exit code %d, absent %q", code, absent)
	}
}

func TestVerifyNothing(t *testing.T) {
	w := newVerifyWorld(t)
	w.write(w.dir, "go.mod", "module example.com/main\n\ngo 1.22\n")
	if code, stdout, stderr := w.modfetch("verify"); code != exitOK || stdout != "" || stderr != "no modules to verify\n" {
		t.Errorf("exit code %d, printed %s", code, stdout)
	}
}

func TestVerifyModCacheFlag(t *testing.T) {
	w := newVerifyWorld(t)
	w.modfetch("download", "-modcache", "cache", "example.com/c@v1.1.0")
	w.damage(filepath.Join(w.dir, "cache/example.com/c@v1.1.0"))
	if code, stdout, _ := w.modfetch("verify", "-modcache", "cache", "example.com/c@v1.1.0"); code != exitFailed || !strings.Contains(stdout, w.dir) {
		t.Errorf("exit code %d, printed %s", code, stdout)
	}
	if code, _, stderr := w.modfetch("verify", "example.com/c@v1.1.0"); code != exitOK || stderr != "1 module: 1 not in the cache\n" {
		t.Errorf("exit code %d for the cache in GOMODCACHE", code)
	}
}

// TestVerifyThatCannotRepair has a mirror that has nothing better.
func TestVerifyThatCannotRepair(t *testing.T) {
	w := newVerifyWorld(t)
	w.write(w.dir, "go.mod", mainMod)
	w.modfetch("download", "-update-sum")
	w.damage(cached("example.com/c", "v1.1.0").zip)
	w.Fault("*.zip", modfetchtest.Corrupt())
	code, stdout, stderr := w.modfetch("verify", "-repair")
	if code != exitFailed || strings.Contains(stdout, "repaired") || !strings.Contains(stderr, "checksum mismatch") ||
		!strings.HasSuffix(stderr, "3 modules: 2 verified, 1 not what is on record\n") {
		t.Errorf("exit code %d, printed %s", code, stdout)
	}
}

// TestVerifyThatHasNotRepaired has somebody who does damage again.
func TestVerifyThatHasNotRepaired(t *testing.T) {
	w := newVerifyWorld(t)
	w.modfetch("download", "example.com/c@v1.1.0")
	part := cached("example.com/c", "v1.1.0")
	w.damage(part.goMod)
	w.damage(part.zip)
	w.Fault("*.zip", modfetchtest.Middleware(func(honest http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if err := os.WriteFile(part.goMod, []byte("module example.com/evil\n"), 0o666); err != nil {
				t.Error(err)
			}
			honest.ServeHTTP(rw, r)
		})
	}))
	code, stdout, stderr := w.modfetch("verify", "-repair", "example.com/c@v1.1.0")
	if code != exitFailed || strings.Contains(stdout, "repaired") || !strings.Contains(stderr, "has not repaired "+part.goMod+"\n") {
		t.Errorf("exit code %d, printed %s", code, stdout)
	}
}

// TestVerifyWithoutAnybodyToAsk has a graph that cannot be read, and says what is wrong as far as it is known.
func TestVerifyWithoutAnybodyToAsk(t *testing.T) {
	w := newVerifyWorld(t)
	w.write(w.dir, "go.mod", mainMod)
	w.modfetch("download", "-update-sum")
	part := cached("example.com/b", "v1.0.0").goMod
	w.damage(part)
	w.Fault("*.mod", modfetchtest.Status(http.StatusForbidden))
	code, stdout, stderr := w.modfetch("verify")
	if code != exitFailed || !strings.HasPrefix(stdout, "example.com/b v1.0.0: "+part+"\n") || !strings.Contains(stderr, "403 Forbidden") ||
		strings.Contains(stderr, "1 module") {
		t.Errorf("exit code %d, printed %s", code, stdout)
	}
}

func TestVerifyWithoutTheDatabase(t *testing.T) {
	w := newVerifyWorld(t)
	w.modfetch("download", "example.com/c@v1.1.0")
	if err := os.RemoveAll(filepath.Join(os.Getenv("GOMODCACHE"), "cache", "download", "sumdb")); err != nil {
		t.Fatal(err)
	}
	w.Fault("/sumdb/*", modfetchtest.Status(http.StatusForbidden))
	code, stdout, stderr := w.modfetch("verify", "example.com/c@v1.1.0")
	if code != exitFailed || stdout != "" || !strings.Contains(stderr, "modfetch: ") || !strings.HasSuffix(stderr, "1 module: 1 not verified\n") {
		t.Errorf("exit code %d, printed %s", code, stdout)
	}
}

func TestVerifyComparesTreeHeads(t *testing.T) {
	w := newVerifyWorld(t)
	w.write(w.dir, "go.mod", mainMod)
	w.modfetch("download", "-update-sum")
	stale, bare := w.Lag(), w.Mirror()
	bare.Fault("*/supported", modfetchtest.Status(http.StatusNotFound))
	w.AddRecords(300)
	name, _, _ := strings.Cut(w.GOSUMDB(), "+")
	list := stale.URL + "|" + bare.URL

	code, stdout, stderr := w.modfetch("verify", "-mirrors", list)
	if want := name + " at " + stale.URL + ": lags by 300 records\n" +
		name + " at " + bare.URL + ": no tree head: does not serve this checksum database: 404 Not Found: Not Found\n" +
		"all 3 modules verified\n"; code != exitOK || stdout != "" || stderr != want {
		t.Errorf("exit code %d, printed %s%swant %s", code, stdout, stderr, want)
	}
	code, stdout, _ = w.modfetch("verify", "-mirrors", list, "-json")
	modules, heads := w.verifiedJSON(stdout)
	if code != exitOK || len(modules) != 3 || len(heads) != 3 {
		t.Fatalf("exit code %d, printed %s", code, stdout)
	}
	for i, want := range []head{
		{name, w.URL + "/sumdb/" + name, 305, 0, ""},
		{name, stale.URL, 5, 300, ""},
		{name, bare.URL, 0, 0, "no tree head: does not serve this checksum database: 404 Not Found: Not Found"},
	} {
		if heads[i] != want {
			t.Errorf("%+v, want %+v", heads[i], want)
		}
	}
	// Two heads that are the database's, but nobody has tiles for the larger.
	w.Fault("*/tile/*", modfetchtest.Status(http.StatusInternalServerError))
	code, _, stderr = w.modfetch("verify", "-mirrors", list)
	if code != exitOK || !strings.Contains(stderr, name+" at "+stale.URL+": its tree head cannot be compared with that of "+w.URL) {
		t.Errorf("exit code %d, printed %s", code, stderr)
	}
	w.ClearFaults()

	// go.sum vouches for all modules, but the database has told two stories.
	fork := w.Fork()
	code, _, stderr = w.modfetch("verify", "-mirrors", fork.URL)
	if code != exitFailed || !strings.Contains(stderr, "modfetch: the checksum database "+name+" has signed two histories") || !strings.HasSuffix(stderr, "\nall 3 modules verified\n") {
		t.Errorf("exit code %d, printed %s", code, stderr)
	}

	t.Setenv("GOSUMDB", "off")
	if code, stdout, stderr = w.modfetch("verify"); code != exitOK || stdout != "" || stderr != "all 3 modules verified\n" {
		t.Errorf("GOSUMDB=off: exit code %d, printed %s%s", code, stdout, stderr)
	}
}

func TestVerifyIsInterrupted(t *testing.T) {
	w := newVerifyWorld(t)
	w.write(w.dir, "go.mod", mainMod)
	ctx, interrupt := context.WithCancel(t.Context())
	w.Fault("*", modfetchtest.Handler(func(_ http.ResponseWriter, r *http.Request) {
		interrupt()
		<-r.Context().Done()
	}))
	code, stdout, stderr := w.modfetchUntil(ctx, "verify", "-json", "-C", w.dir)
	if code != exitInterrupted || stdout != "" || stderr != "modfetch: interrupted\n" {
		t.Errorf("exit code %d, printed %s", code, stdout)
	}
}
