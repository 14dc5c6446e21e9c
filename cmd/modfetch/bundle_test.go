package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modfetch/modfetch/modfetchtest"
)

// bundle runs the command in the world's directory.
func (w *world) bundle(args ...string) (code int, stdout, stderr string) {
	w.t.Helper()
	return w.modfetch(append([]string{"bundle", "-C", w.dir}, args...)...)
}

func TestBundle(t *testing.T) {
	w := newWorld(t)
	w.AddRecords(1000)
	w.write(w.dir, "go.mod", mainMod)
	code, stdout, stderr := w.bundle("-o", "out/b", "-json")
	dir := filepath.Join(w.dir, "out", "b")
	if want := "out/b: 4 module versions, SIZE, under a tree head of 1005 records\n"; code != exitOK || w.steady(stderr) != want {
		t.Fatalf("exit code %d, printed %q, want %q", code, w.steady(stderr), want)
	}
	listed := make(map[string]bundled)
	for d := json.NewDecoder(strings.NewReader(stdout)); ; {
		var m bundled
		if err := d.Decode(&m); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		listed[m.Path+" "+m.Version] = m
		sums := w.GoSum(m.Path, m.Version)
		if !strings.Contains(sums, m.Version+"/go.mod "+m.GoModSum+"\n") || !strings.Contains(sums, m.Version+" "+m.Sum) {
			t.Errorf("%s: sums %s and %s, want %s", m.Path, m.Sum, m.GoModSum, sums)
		}
		for _, f := range m.Files {
			text := w.read(dir, f.Name)
			if f.Size != int64(len(text)) || !strings.Contains(w.read(dir, "SHA256SUMS"), f.SHA256+"  "+f.Name+"\n") {
				t.Errorf("%+v is not what was written", f)
			}
			if len(f.URLs) != 1 || f.URLs[0] != w.URL+"/"+f.Name {
				t.Errorf("URLs %q", f.URLs)
			}
		}
	}
	if c := listed["example.com/c v1.0.0"]; len(listed) != 4 || len(c.Files) != 2 || c.Sum != "" || len(listed["example.com/a v1.0.0"].Files) != 3 {
		t.Errorf("printed %s", stdout)
	}

	w.Close()
	if code, stdout, stderr := w.bundle("-verify", "out/b"); code != exitOK || stdout != "" || stderr != "out/b: all files are as they should be\n" {
		t.Errorf("exit code %d, printed %q", code, stdout)
	}
	t.Setenv("GOMODCACHE", t.TempDir())
	if code, _, stderr := w.modfetch("download", "-mirrors", "file://"+filepath.ToSlash(dir)); code != exitOK || !strings.Contains(stderr, "3 modules: 3 downloaded") {
		t.Errorf("exit code %d from a download", code)
	}
	w.write(dir, "example.com/c/@v/v1.0.0.mod", "module evil\n")
	if code, stdout, _ := w.bundle("-verify", dir); code != exitFailed || strings.Count(stdout, "\n") != 1 || !strings.HasPrefix(stdout, "example.com/c/@v/v1.0.0.mod: its SHA-256 sum is ") {
		t.Errorf("exit code %d, printed %q", code, stdout)
	}
	if code, stdout, _ := w.bundle("-json", "-verify", dir); code != exitFailed || !strings.Contains(stdout, `"Name": "example.com/c/@v/v1.0.0.mod",`) {
		t.Errorf("exit code %d, printed %q", code, stdout)
	}
	t.Setenv("GOSUMDB", modfetchtest.NewServer(t, nil).GOSUMDB())
	if code, stdout, _ := w.bundle("-verify", dir); code != exitFailed || !strings.Contains(stdout, "/latest: ") {
		t.Errorf("exit code %d, printed %q with another key", code, stdout)
	}
}

func TestBundleHeads(t *testing.T) {
	w := newWorld(t)
	w.AddRecords(1000)
	w.write(w.dir, "go.mod", mainMod)
	db, _, _ := strings.Cut(w.GOSUMDB(), "+")
	run := func(args ...string) {
		t.Helper()
		if code, _, _ := w.bundle(args...); code != exitOK {
			t.Fatalf("exit code %d", code)
		}
	}
	tiles := func(dir string) int {
		t.Helper()
		n := 0
		for line := range strings.Lines(w.read(w.dir, dir, "SHA256SUMS")) {
			n += strings.Count(line, "/tile/8/")
		}
		return n
	}
	run("-o", "one.zip")
	w.AddRecords(20000)
	run("-o", "two.zip", "-head", "one.zip")
	if one := w.read(w.dir, "one.zip"); one == "" || one != w.read(w.dir, "two.zip") {
		t.Error("two bundles under one head differ")
	}
	latest := filepath.Join(os.Getenv("GOPATH"), "pkg", "sumdb", db, "latest")
	run("-o", "plain")
	w.AddRecords(20000)
	run("-o", "newer")
	code, _, stderr := w.bundle("-o", "b", "-head", "one.zip", "-onto", "newer")
	if code != exitFailed || !strings.Contains(stderr, "-onto newer: its tree head of 41005 records is newer than that of -head, which has 1005") {
		t.Errorf("exit code %d, printed %s", code, stderr)
	}
	run("-o", "onto", "-onto", "one.zip", "-onto", "plain", "-onto", latest)
	if plain, onto := tiles("newer"), tiles("onto"); onto <= plain {
		t.Errorf("%d tiles prove other heads too, and %d without them", onto, plain)
	}
	run("-o", "plain") // which is added to
	for _, name := range []string{"one.zip", "two.zip", "plain", "newer", "onto"} {
		if code, _, _ := w.bundle("-verify", name); code != exitOK {
			t.Errorf("%s: exit code %d", name, code)
		}
	}
}

// TestBundleShowsHowFarItIs has a mirror that fails at last: what there is to say of mirrors is said then.
func TestBundleShowsHowFarItIs(t *testing.T) {
	w := newWorld(t)
	w.write(w.dir, "go.mod", mainMod)
	code, _, stderr := w.bundle("-o", "b", "-progress", "always", "-jobs", "2", "-race")
	if code != exitOK || !strings.Contains(stderr, "\r") || !strings.HasSuffix(stderr, " records\n") {
		t.Errorf("exit code %d, printed %q", code, stderr)
	}
	if code, _, stderr := w.bundle("-o", "b", "-progress", "never"); code != exitOK || strings.Contains(stderr, "\r") {
		t.Errorf("exit code %d, printed %q", code, stderr)
	}
	w.Fault("*.zip", modfetchtest.Status(http.StatusForbidden))
	t.Setenv("GOMODCACHE", t.TempDir())
	if code, _, _ := w.bundle("-o", "b"); code != exitOK {
		t.Errorf("exit code %d, though all zips are in the bundle", code)
	}
	t.Setenv("GOMODCACHE", t.TempDir())
	code, _, stderr = w.bundle("-o", "other")
	if code != exitFailed || !strings.Contains(w.steady(stderr), "  mirror      MIRROR  ") || !strings.Contains(stderr, "403 Forbidden") {
		t.Errorf("exit code %d, printed %q", code, stderr)
	}
}

// TestBundleHelpLeadsOn has the words that somebody searches the help for, whose go command has failed with them.
func TestBundleHelpLeadsOn(t *testing.T) {
	for _, words := range []string{"checking tree#", " against tree#", "no such file or directory", "GOTOOLCHAIN=local", "-onto"} {
		if !strings.Contains(bundleHelp, words) {
			t.Errorf("the help does not say %q", words)
		}
		page, err := os.ReadFile(filepath.Join("..", "..", "docs", "bundle.md"))
		if err != nil || !strings.Contains(string(page), words) {
			t.Errorf("docs/bundle.md does not say %q: %v", words, err)
		}
	}
}

func TestBundleMistakes(t *testing.T) {
	w := newWorld(t)
	w.write(w.dir, "notes", "no bundle\n")
	for _, test := range []struct {
		args string // separated by semicolons
		code int
		want string
	}{
		{"-h", exitOK, "usage: modfetch bundle"},
		{"", exitUsage, "say by -o where to"},
		{"-o;b;example.com/a", exitUsage, `"example.com/a": takes no modules`},
		{"-o;b;-verify;b", exitUsage, "-verify goes without -o"},
		{"-verify;b;-onto;b", exitUsage, "-verify goes without -o"},
		{"-o;b", exitFailed, "no go.mod or go.work in"},
		{"-verify;b", exitFailed, "no such file"},
		{"-verify;notes", exitFailed, "notes is no bundle"},
		{"-verify;.", exitFailed, "is no bundle: it has neither a tree head nor SHA256SUMS"},
		{"-o;b;-jobs;0", exitUsage, "want a whole number, 1 or more"},
		{"-o;b;-progress;perhaps", exitUsage, "want auto, always or never"},
		{"-o;b;-race;-stagger;1s", exitUsage, "-race and -stagger contradict each other"},
	} {
		var args []string
		if test.args != "" {
			args = strings.Split(test.args, ";")
		}
		code, stdout, stderr := w.bundle(args...)
		if code != test.code || !strings.Contains(stdout+stderr, test.want) {
			t.Errorf("%s: exit code %d, want %d, and in the output %q:\n%s", test.args, code, test.code, test.want, stdout+stderr)
		}
	}
	w.write(w.dir, "go.mod", mainMod)
	for _, name := range []string{"nothing", "notes"} {
		for _, flag := range []string{"-onto", "-head"} {
			code, _, stderr := w.bundle("-o", "b", flag, name)
			if code != exitFailed || !strings.Contains(stderr, flag+": ") || !strings.Contains(stderr, filepath.Join(w.dir, name)) {
				t.Errorf("%s %s: exit code %d, printed %s", flag, name, code, stderr)
			}
		}
	}
	t.Setenv("GOSUMDB", "off")
	if code, _, stderr := w.bundle("-o", "b"); code != exitFailed || !strings.Contains(stderr, "GOSUMDB is off") {
		t.Errorf("exit code %d", code)
	}
	if code, _, stderr := w.bundle("-verify", "notes"); code != exitFailed || !strings.Contains(stderr, "GOSUMDB is off") {
		t.Errorf("exit code %d", code)
	}
	entries, err := os.ReadDir(w.dir)
	if text := fmt.Sprint(entries); err != nil || len(entries) != 2 {
		t.Errorf("left %s, error %v", text, err)
	}
}
