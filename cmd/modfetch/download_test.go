package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/modfetch/modfetch/modfetchtest"
)

const mainMod = "module example.com/main\n\ngo 1.22\n\nrequire example.com/a v1.0.0\n\n" +
	"require (\n\texample.com/b v1.0.0 // indirect\n\texample.com/c v1.1.0 // indirect\n)\n"

// object is a JSON object and the order of its keys.
type object struct {
	fields map[string]any
	keys   []string
}

// objects reads what -json printed, by the modules' paths. File names are made relative to the module cache.
func objects(t *testing.T, text, modCache string) map[string]object {
	t.Helper()
	all := make(map[string]object)
	for d := json.NewDecoder(strings.NewReader(text)); ; {
		var raw json.RawMessage
		if err := d.Decode(&raw); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("%v in:\n%s", err, text)
		}
		o := object{fields: make(map[string]any)}
		if err := json.Unmarshal(raw, &o.fields); err != nil {
			t.Fatal(err)
		}
		for key, value := range o.fields {
			if name, ok := value.(string); ok {
				o.fields[key] = strings.TrimPrefix(name, modCache)
			}
		}
		for line := range strings.Lines(string(raw)) {
			if key, ok := strings.CutPrefix(line, "\t\""); ok {
				key, _, _ = strings.Cut(key, `"`)
				o.keys = append(o.keys, key)
			}
		}
		all[o.fields["Path"].(string)] = o
	}
}

// TestJSON compares what is printed of a module with what the go command prints.
func TestJSON(t *testing.T) {
	ours := []string{"Mirror", "VerifiedBy", "GoModVerifiedBy", "Unverified"}
	for _, test := range []struct {
		name string
		args []string
		code int
	}{
		{"project", nil, exitOK},
		{"version", []string{"example.com/a@v1.1.0"}, exitOK},
		{"latest", []string{"example.com/a@latest"}, exitOK},
		{"several", []string{"example.com/a@latest", "example.com/b@v1.0.0"}, exitOK},
		{"no such version", []string{"example.com/a@v1.7.0", "example.com/b@v1.0.0"}, exitFailed},
		{"no latest version", []string{"example.com/nope@latest"}, exitFailed},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			if test.args == nil {
				w.write(w.dir, "go.mod", strings.Replace(mainMod, "a v1.0.0", "a v1.1.0", 1))
			}
			theirText := w.goCommand(w.dir, append([]string{"mod", "download", "-json"}, test.args...)...)
			code, ourText, stderr := w.modfetch(append([]string{"download", "-json"}, test.args...)...)
			if code != test.code {
				t.Errorf("exit code %d, want %d", code, test.code)
			}
			if strings.Contains(stderr, "modfetch: ") {
				t.Errorf("errors are printed twice")
			}
			want, got := objects(t, theirText, w.setting("GOMODCACHE")), objects(t, ourText, os.Getenv("GOMODCACHE"))
			if len(want) == 0 || len(want) != len(got) {
				t.Fatalf("%d modules, want %d:\n%s", len(got), len(want), ourText)
			}
			for path, want := range want {
				got := got[path]
				if text, ok := want.fields["Error"].(string); ok {
					if got.fields["Error"] == nil || !strings.Contains(stderr, "failed      fetching "+path) {
						t.Errorf("%s: no error; the go command has %s", path, text)
					}
					delete(want.fields, "Error")
					delete(got.fields, "Error")
				} else if got.fields["Mirror"] != w.URL || got.fields["VerifiedBy"] == nil || got.fields["GoModVerifiedBy"] == nil {
					t.Errorf("%s: sent by %v, vouched for by %v and %v", path,
						got.fields["Mirror"], got.fields["VerifiedBy"], got.fields["GoModVerifiedBy"])
				}
				maps.DeleteFunc(got.fields, func(key string, _ any) bool { return slices.Contains(ours, key) })
				keys := slices.DeleteFunc(slices.Clone(got.keys), func(key string) bool { return slices.Contains(ours, key) })
				if !reflect.DeepEqual(got.fields, want.fields) || !slices.Equal(keys, want.keys) {
					t.Errorf("printed\n%s\nthe go command\n%s", ourText, theirText)
				}
				for i, key := range got.keys {
					if slices.Contains(ours, key) && i < len(keys) {
						t.Errorf("%s comes before a field of the go command's", key)
					}
				}
			}
		})
	}
}

func TestPlainOutput(t *testing.T) {
	w := newWorld(t)
	name, _, _ := strings.Cut(w.GOSUMDB(), "+")
	_, stdout, stderr := w.modfetch("download", "example.com/c@v1.0.0")
	want := "example.com/c v1.0.0  SIZE  MIRROR  " + name + "\n" +
		"1 module: 1 downloaded; SIZE in TIME\n" +
		"  mirror      MIRROR  5 files, SIZE, answers in TIME\n" +
		"  verified    2 files  by " + name + "\n"
	if got := w.steady(stderr); got != want || stdout != "" {
		t.Errorf("printed\n%swant\n%s", got, want)
	}
	if _, _, stderr := w.modfetch("download", "example.com/c@v1.0.0"); stderr != "1 module: all in the cache\n" {
		t.Errorf("the second time\n%s", stderr)
	}
	// Another module, and one that is there.
	_, _, stderr = w.modfetch("download", "example.com/c@v1.0.0", "example.com/b@v1.0.0")
	if got := w.steady(stderr); strings.Contains(got, "example.com/c") || !strings.Contains(got, "2 modules: 1 downloaded, 1 in the cache; ") {
		t.Errorf("with one in the cache\n%s", got)
	}
}

func TestNothingToDownload(t *testing.T) {
	w := newWorld(t)
	w.write(w.dir, "go.mod", "module example.com/main\n\ngo 1.22\n")
	if code, stdout, stderr := w.modfetch("download", "-json"); code != exitOK || stdout != "" || stderr != "no modules to download\n" {
		t.Errorf("exit code %d, printed %s", code, stdout)
	}
}

func TestUnverifiedIsSaid(t *testing.T) {
	w := newWorld(t)
	t.Setenv("GONOSUMDB", "example.com")
	_, _, stderr := w.modfetch("download", "example.com/c@v1.0.0")
	for _, want := range []string{
		"  unverified because of GONOSUMDB=example.com\n",
		"  unverified  2 files  because of GONOSUMDB=example.com\n",
	} {
		if !strings.Contains(stderr, want) {
			t.Errorf("not in the output: %q", want)
		}
	}
	if _, _, stderr := w.modfetch("download", "example.com/c@v1.0.0"); !strings.Contains(stderr, "2 files  because of GONOSUMDB") {
		t.Errorf("said only the first time")
	}
}

func TestCondemnedFileIsNamed(t *testing.T) {
	w := newWorld(t)
	bad := w.Mirror()
	bad.Fault("*.zip", modfetchtest.Corrupt())
	code, _, stderr := w.modfetch("download", "-mirrors", bad.URL+"|"+w.URL, "example.com/c@v1.0.0")
	want := "condemned   example.com/c/@v/v1.0.0.zip  from " + bad.URL + ": "
	if code != exitOK || !strings.Contains(stderr, want) || !strings.Contains(stderr, "1 corrupt") {
		t.Errorf("exit code %d; not in the output: %q", code, want)
	}
}

func TestFailureDoesNotStopOthers(t *testing.T) {
	w := newWorld(t)
	w.Fault("/example.com/b/*", modfetchtest.Status(http.StatusForbidden, "no entry"))
	w.Fault("/example.com/a/@v/*.zip", modfetchtest.Status(http.StatusForbidden, "no exit"))
	code, _, stderr := w.modfetch("download", "example.com/a@v1.0.0", "example.com/b@v1.0.0", "example.com/c@v1.0.0")
	for _, want := range []string{
		"modfetch: fetching example.com/a@v1.0.0 (zip): " + w.URL + ": 403 Forbidden: no exit\n",
		"modfetch: fetching example.com/b@v1.0.0 (info): " + w.URL + ": 403 Forbidden: no entry\n",
		"3 modules: 1 downloaded, 2 failed; ",
	} {
		if code != exitFailed || !strings.Contains(stderr, want) {
			t.Errorf("exit code %d; not in the output: %q", code, want)
		}
	}
	if w.read(os.Getenv("GOMODCACHE"), "example.com/c@v1.0.0/c.go") == "" {
		t.Errorf("the third module is not there")
	}
}

func TestNearVersions(t *testing.T) {
	w := newWorld(t)
	for _, v := range []string{"v1.0.0", "v1.1.0", "v1.2.0", "v1.2.1", "v1.2.2", "v1.3.0", "v1.4.0", "v1.5.0"} {
		w.Add(modfetchtest.NewModule("example.com/many", v))
	}
	const want = "\n\tversions near it: v1.2.0, v1.2.1, v1.2.2, v1.3.0, v1.4.0, ... v1.5.0\n"
	if _, _, stderr := w.modfetch("download", "example.com/many@v1.2.9"); !strings.Contains(stderr, want) {
		t.Errorf("not in the output: %q", want)
	}
	w.write(w.dir, "go.mod", "module example.com/main\n\ngo 1.22\n\nrequire example.com/many v1.2.9\n")
	if code, _, stderr := w.modfetch("download"); code != exitFailed || !strings.Contains(stderr, want) {
		t.Errorf("for a project exit code %d; not in the output: %q", code, want)
	}
	// The version exists, and the list says so.
	w.Fault("/example.com/many/@v/v1.2.1.info", modfetchtest.Status(http.StatusForbidden))
	if _, _, stderr := w.modfetch("download", "example.com/many@v1.2.1"); strings.Contains(stderr, "near it") {
		t.Errorf("a version that exists is said not to")
	}
}

func TestDownloadOffline(t *testing.T) {
	w := newWorld(t)
	w.modfetch("download", "example.com/c@v1.0.0")
	asked := w.Count("*")
	if code, _, stderr := w.modfetch("download", "-offline", "example.com/c@v1.0.0"); code != exitOK || stderr != "1 module: all in the cache\n" {
		t.Errorf("from the cache: exit code %d", code)
	}
	if code, _, stderr := w.modfetch("download", "-offline", "example.com/c@v1.1.0"); code != exitFailed || !strings.Contains(stderr, "is not in the cache") {
		t.Errorf("what is not in the cache: exit code %d", code)
	}
	t.Setenv("GONOSUMDB", "example.com") // a module cache has no database behind it
	dir := "file:///" + strings.TrimPrefix(filepath.ToSlash(os.Getenv("GOMODCACHE")), "/") + "/cache/download"
	code, _, stderr := w.modfetch("download", "-offline", "-mirrors", w.URL+"|"+dir, "-modcache", "other", "-no-extract", "example.com/c@v1.0.0")
	if code != exitOK || !strings.Contains(stderr, "1 module: 1 downloaded") {
		t.Errorf("from a directory: exit code %d", code)
	}
	if n := w.Count("*"); n != asked {
		t.Errorf("the mirror was asked %d times", n-asked)
	}
}

func TestInterrupt(t *testing.T) {
	w := newWorld(t)
	ctx, interrupt := context.WithCancel(t.Context())
	var at time.Time
	w.Fault("/example.com/b/@v/*.zip", modfetchtest.Handler(func(_ http.ResponseWriter, r *http.Request) {
		at = time.Now()
		interrupt()
		<-r.Context().Done()
	}))
	code, stdout, stderr := w.modfetchUntil(ctx, "download", "-json", "-jobs", "1", "example.com/b@v1.0.0")
	if code != exitInterrupted || stdout != "" || !strings.HasSuffix(stderr, "modfetch: interrupted; 0 modules complete, in the cache\n") {
		t.Errorf("exit code %d", code)
	}
	if !strings.HasPrefix(stderr, "  mirror ") || !strings.Contains(stderr, " canceled\n") {
		t.Errorf("no word of the mirror that was waited for: %q", stderr)
	}
	if wait := time.Since(at); wait > time.Second {
		t.Errorf("it took %v", wait)
	}
}

func TestRequestsAreLogged(t *testing.T) {
	w := newWorld(t)
	_, _, stderr := w.modfetch("download", "-x", "example.com/c@v1.0.0", "example.com/nope@v1.0.0")
	for _, want := range []string{
		"\nMIRROR example.com/c/@v/v1.0.0.zip  SIZE  ",
		"\nMIRROR example.com/nope/@v/v1.0.0.info  SIZE  ",
		"  not found: 404 Not Found",
	} {
		if !strings.Contains("\n"+w.steady(stderr), want) {
			t.Errorf("not in the output: %q", want)
		}
	}
	lines, requests := strings.Count("\n"+stderr, "\n"+w.URL), w.Count("*")-w.Count("*/supported")
	if lines != requests {
		t.Errorf("%d lines for %d requests", lines, requests)
	}
}

func TestMirrorThatDoesNotAnswerIsOvertaken(t *testing.T) {
	w := newWorld(t)
	silent := w.Mirror()
	silent.Fault("*", modfetchtest.Hang())
	for _, flags := range [][]string{{"-race"}, {"-stagger", "50ms"}} {
		args := append([]string{"download", "-modcache", t.TempDir(), "-mirrors", silent.URL + "|" + w.URL}, flags...)
		code, _, stderr := w.modfetch(append(args, "-no-extract", "example.com/c@v1.0.0")...)
		if code != exitOK || !strings.Contains(stderr, "1 module: 1 downloaded") {
			t.Errorf("%q: exit code %d", flags, code)
		}
	}
}

func TestChinaMirrors(t *testing.T) {
	f, err := parseDownload([]string{"-mirrors", "cn"})
	if err != nil || f.mirrors != chinaMirrors || f.stagger != chinaStagger || f.race {
		t.Errorf("%+v, %v", f, err)
	}
	if f, err = parseDownload([]string{"-mirrors", "cn", "-race"}); err != nil || f.stagger != 0 || !f.race {
		t.Errorf("with -race: %+v, %v", f, err)
	}
	if n := strings.Count(chinaMirrors, "https://"); n != 5 {
		t.Errorf("%d mirrors, want 5", n)
	}
}

func TestModCacheFlag(t *testing.T) {
	w := newWorld(t)
	w.modfetch("download", "-modcache", "cache", "-no-extract", "example.com/c@v1.0.0")
	if _, err := os.Stat(filepath.Join(w.dir, "cache/cache/download/example.com/c/@v/v1.0.0.zip")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(w.dir, "cache/example.com/c@v1.0.0")); err == nil {
		t.Errorf("extracted in spite of -no-extract")
	}
}
