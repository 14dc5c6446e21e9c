package bundle_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/bundle"
	"github.com/modfetch/modfetch/modfetchtest"
)

// write is bundle.Write with a new project and module cache.
func (w *world) write(goMod, name string, o bundle.Options, opts ...modfetch.Option) error {
	w.t.Helper()
	_, err := bundle.Write(w.t.Context(), w.fetcher(opts...), project(w.t, goMod), name, o)
	return err
}

// holds fails the test unless a bundle is in order, and all that a project's bundle should be with the modules a and d; and
// unless nothing is beside it.
func (w *world) holds(name string, modules ...string) {
	w.t.Helper()
	w.verify(name)
	f, err := modfetch.New(modfetch.WithGOPROXY("file://"+filepath.ToSlash(name)), modfetch.WithSumDB(w.GOSUMDB()), modfetch.WithModCache(w.t.TempDir()))
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	for _, m := range modules {
		if _, err := f.Versions(w.t.Context(), m); err != nil {
			w.t.Errorf("%s is not in %s: %v", m, name, err)
		}
	}
	entries, err := os.ReadDir(filepath.Dir(name))
	if err != nil || len(entries) != 1 {
		w.t.Errorf("beside %s is %v: %v", name, entries, err)
	}
}

func mkdir(t *testing.T, elem ...string) string {
	t.Helper()
	name := filepath.Join(elem...)
	if err := os.MkdirAll(name, 0o777); err != nil {
		t.Fatal(err)
	}
	return name
}

func symlink(t *testing.T, target, name string) {
	t.Helper()
	if err := os.Symlink(target, name); err != nil {
		t.Skip(err)
	}
}

func TestTwoWriters(t *testing.T) {
	w := newWorld(t)
	for range 3 {
		dir := filepath.Join(t.TempDir(), "b")
		var writers sync.WaitGroup
		var errs [2]error
		for i, goMod := range []string{mainMod, otherMod} {
			f, p := w.fetcher(), project(t, goMod)
			writers.Go(func() { _, errs[i] = bundle.Write(t.Context(), f, p, dir, bundle.Options{}) })
		}
		writers.Wait()
		if err := errors.Join(errs[:]...); err != nil {
			t.Error(err)
		}
		w.holds(dir, "example.com/a", "example.com/d")
	}
}

func TestAddingToAZip(t *testing.T) {
	w := newWorld(t)
	name := w.bundle(mainMod, "b.zip", bundle.Options{})
	w.AddRecords(20000)
	if err := w.write(otherMod, name, bundle.Options{}); err != nil {
		t.Fatal(err)
	}
	w.verify(name)
	both := filepath.Join(t.TempDir(), "b")
	for _, goMod := range []string{mainMod, otherMod} {
		if err := w.write(goMod, both, bundle.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	text := string(read(t, name))
	for _, file := range names(t, both) {
		// Which tiles prove an older head depends on that head.
		if !strings.Contains(file, "/tile/") && !strings.Contains(text, file) {
			t.Errorf("%s is missing", file)
		}
	}
}

// TestAddingToADamagedBundle repairs it, where that leaves an empty directory too.
func TestAddingToADamagedBundle(t *testing.T) {
	w := newWorld(t)
	dir := w.bundle(mainMod, "b", bundle.Options{})
	db, _, _ := strings.Cut(w.GOSUMDB(), "+")
	for _, name := range []string{"example.com/a", filepath.Join("sumdb", db, "lookup/example.com/!upper/b@v1.0.0-!r!c1")} {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.write(otherMod, dir, bundle.Options{}); err != nil {
		t.Fatal(err)
	}
	w.holds(dir, "example.com/a", "example.com/d")
}

// TestLeftoversOfAKilledRun has what a run leaves that ends before it has removed its directory.
func TestLeftoversOfAKilledRun(t *testing.T) {
	w := newWorld(t)
	for _, moved := range []bool{false, true} { // the old bundle, to make room for the next
		dir := w.bundle(mainMod, "b", bundle.Options{})
		temp := mkdir(t, dir+".modfetch-tmp")
		write(t, filepath.Join(temp, "lock"), "")
		write(t, filepath.Join(temp, "next/example.com/a/@v/v1.0.0.zip"), "half a z")
		if moved {
			if err := os.Rename(dir, filepath.Join(temp, "previous")); err != nil {
				t.Fatal(err)
			}
		} else {
			write(t, filepath.Join(temp, "previous/go.sum"), "what was not removed")
		}
		if err := w.write(otherMod, dir, bundle.Options{}); err != nil {
			t.Error(err)
		}
		w.holds(dir, "example.com/a", "example.com/d")
	}
}

// TestAHostilePlace has things beside the bundle that are no leftovers, on a medium that somebody else has written.
func TestAHostilePlace(t *testing.T) {
	w := newWorld(t)
	for _, test := range []struct{ name, target string }{
		{"b.modfetch-tmp", "home"},
		{"b.modfetch-tmp/lock", "home/nothing"},
		{"b.modfetch-tmp/lock", "home/previous/mine"},
	} {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "home/previous/mine"), "mine")
		write(t, filepath.Join(dir, "home/next/mine"), "mine")
		before := names(t, filepath.Join(dir, "home"))
		mkdir(t, dir, filepath.Dir(test.name))
		symlink(t, filepath.Join(dir, test.target), filepath.Join(dir, test.name))
		if err := w.write(mainMod, filepath.Join(dir, "b"), bundle.Options{}); err == nil || !strings.Contains(err.Error(), "is not what modfetch has left") {
			t.Errorf("%s to %s: error %v", test.name, test.target, err)
		}
		if after := names(t, filepath.Join(dir, "home")); !slices.Equal(before, after) {
			t.Errorf("files %q, and then %q", before, after)
		}
	}
}

func TestLinksToABundle(t *testing.T) {
	w := newWorld(t)
	dir := w.bundle(mainMod, "b", bundle.Options{})
	link := filepath.Join(t.TempDir(), "link")
	symlink(t, dir, link)
	w.verify(link)
	if _, err := bundle.Head(link); err != nil {
		t.Error(err)
	}
	if err := w.write(otherMod, link, bundle.Options{}); err != nil {
		t.Error(err)
	}
	w.holds(dir, "example.com/a", "example.com/d")
	if target, err := os.Readlink(link); target != dir {
		t.Errorf("the link leads to %s: %v", target, err)
	}

	home := t.TempDir()
	write(t, filepath.Join(home, "mine"), "mine")
	for target, want := range map[string]string{
		filepath.Join(home, "mine"):             "is no bundle",
		filepath.Join(home, "no such disk.zip"): "leads nowhere",
	} {
		name := filepath.Join(t.TempDir(), "b.zip")
		symlink(t, target, name)
		if err := w.write(mainMod, name, bundle.Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("a link to %s: error %v", target, err)
		}
	}
	name := filepath.Join(t.TempDir(), "b")
	symlink(t, filepath.Join(home, "no such disk"), name)
	if err := w.write(mainMod, name, bundle.Options{}); err == nil || !strings.Contains(err.Error(), "leads nowhere") {
		t.Errorf("error %v", err)
	}
	good := w.bundle(mainMod, "b.zip", bundle.Options{})
	before := read(t, good)
	name = filepath.Join(t.TempDir(), "b.zip")
	symlink(t, good, name)
	if err := w.write(otherMod, name, bundle.Options{}); err != nil {
		t.Error(err)
	}
	if info, err := os.Lstat(name); err != nil || !info.Mode().IsRegular() || string(read(t, good)) != string(before) {
		t.Errorf("a link to a zip: %v, %v", info, err)
	}
	if text := strings.Join(names(t, home), " "); text != "mine" || string(read(t, home, "mine")) != "mine" {
		t.Errorf("there is %s", text)
	}
}

// TestWhatCannotBeReplacedIsRefusedFirst has places that a bundle cannot come to, and asks nobody for it.
func TestWhatCannotBeReplacedIsRefusedFirst(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file"), "mine")
	mkdir(t, dir, "dir.zip")
	tests := map[string]string{"file": "is a file", "dir.zip": "is a directory", "file/b": ""}
	if os.Getuid() > 0 { // root may do it
		if err := os.Chmod(mkdir(t, dir, "fixed"), 0o555); err != nil {
			t.Fatal(err)
		}
		tests["fixed"] = "cannot be replaced"
	}
	before, asked := names(t, dir), len(w.Requests())
	for name, want := range tests {
		if err := w.write(mainMod, filepath.Join(dir, name), bundle.Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", name, err, want)
		}
	}
	if all := w.Requests(); len(all) > asked {
		t.Errorf("requested %q", all[asked:])
	}
	if after := names(t, dir); !slices.Equal(before, after) {
		t.Errorf("files %q, and then %q", before, after)
	}
}

func TestTheModeIsKept(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"b", "b.zip"} {
		name := w.bundle(mainMod, name, bundle.Options{})
		if err := os.Chmod(name, 0o700); err != nil {
			t.Fatal(err)
		}
		before, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.write(otherMod, name, bundle.Options{}); err != nil {
			t.Fatal(err)
		}
		if after, err := os.Stat(name); err != nil || after.Mode() != before.Mode() {
			t.Errorf("%s: mode %v, and then %v: %v", name, before.Mode(), after.Mode(), err)
		}
	}
}

func TestAHostilePreviousBundle(t *testing.T) {
	w := newWorld(t)
	top := t.TempDir()
	write(t, filepath.Join(top, "home/mine"), "mine")
	dir := filepath.Join(top, "b")
	mkdir(t, dir+".modfetch-tmp")
	symlink(t, filepath.Join(top, "home"), dir+".modfetch-tmp/previous")
	if err := w.write(mainMod, dir, bundle.Options{}); err != nil {
		t.Error(err)
	}
	w.verify(dir)
	if left := names(t, filepath.Join(top, "home")); !slices.Equal(left, []string{"mine"}) {
		t.Errorf("where a link led there is %q", left)
	}
}

// TestAnOldBundleThatCannotBeRemoved is no failure to write the new one.
func TestAnOldBundleThatCannotBeRemoved(t *testing.T) {
	if os.Getuid() <= 0 {
		t.Skip("here everything can be removed")
	}
	w := newWorld(t)
	dir := w.bundle(mainMod, "b", bundle.Options{})
	fixed := filepath.Join(dir, "example.com/a/@v")
	if err := os.Chmod(fixed, 0o555); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // else it cannot be removed with the test's directory either
		filepath.WalkDir(filepath.Dir(dir), func(name string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				os.Chmod(name, 0o777)
			}
			return nil
		})
	})
	if err := w.write(otherMod, dir, bundle.Options{}); err != nil {
		t.Error(err)
	}
	w.verify(dir)
	read(t, dir, "example.com/d/@v/list")
	if err := w.write(mainMod, dir, bundle.Options{}); err == nil || !strings.Contains(err.Error(), "remove "+dir+".modfetch-tmp") {
		t.Errorf("the next time: error %v, want one that says what to remove", err)
	}
}

// TestNothingOfSomebodyElsesIsLost has files that a manifest lists, and that are no part of a bundle.
func TestNothingOfSomebodyElsesIsLost(t *testing.T) {
	w := newWorld(t)
	db, _, _ := strings.Cut(w.GOSUMDB(), "+")
	for _, name := range []string{"notes/README", "sumdb/notes", "sumdb/" + db + "/notes", "sumdb/" + db + "/lookup/notes", "not a path/@v/list", "\x1b]0;owned\a"} {
		dir := w.bundle(mainMod, "b", bundle.Options{})
		write(t, filepath.Join(dir, name), "my only copy")
		writeManifest(t, dir)
		err := w.write(otherMod, dir, bundle.Options{})
		if err == nil || !strings.Contains(err.Error(), "is no part of the bundle") || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%q: error %q", name, err)
		}
		if text := read(t, dir, name); string(text) != "my only copy" {
			t.Errorf("%q is %q", name, text)
		}
	}
}

// TestAHostileBundleNamesNobody has an old bundle that nobody has signed, and that names modules.
func TestAHostileBundleNamesNobody(t *testing.T) {
	w := newWorld(t)
	w.Add(modfetchtest.NewModule("secret.corp.test/x", "v1.0.0").File("x.go", "package x\n"))
	dir := newWorld(t).bundle(mainMod, "b", bundle.Options{})
	write(t, filepath.Join(dir, "secret.corp.test/x/@v/v1.0.0.zip"), "x")
	writeManifest(t, dir)
	if err := w.write(otherMod, dir, bundle.Options{}); !errors.Is(err, modfetch.ErrSecurity) {
		t.Errorf("error %v", err)
	}
	for _, path := range w.Requests() {
		if strings.Contains(path, "secret.corp.test") || strings.Contains(path, "example.com/a") {
			t.Errorf("requested %s", path)
		}
	}
}

func TestPrivateModulesAreRefusedFirst(t *testing.T) {
	w := newWorld(t)
	corp := modfetchtest.NewServer(t, nil)
	corp.Add(modfetchtest.NewModule("corp.test/secret", "v1.0.0").File("s.go", "package s\n"))
	err := w.write(mainMod+"\nrequire corp.test/secret v1.0.0\n", filepath.Join(t.TempDir(), "b"), bundle.Options{}, modfetch.WithRoute("corp.test/*", corp.URL))
	if !errors.Is(err, modfetch.ErrForbidden) || !strings.Contains(err.Error(), "corp.test/secret") {
		t.Errorf("error %v", err)
	}
	for _, path := range append(w.Requests(), corp.Requests()...) {
		if !strings.HasSuffix(path, ".mod") && !strings.HasPrefix(path, "/sumdb/") {
			t.Errorf("requested %s", path)
		}
	}
}

// TestAnInfoOfTheOldBundleIsNotBelieved changes one: nothing on record covers it.
func TestAnInfoOfTheOldBundleIsNotBelieved(t *testing.T) {
	w := newWorld(t)
	dir := w.bundle(mainMod, "b", bundle.Options{})
	const info = "example.com/a/@v/v1.0.0.info"
	honest := read(t, dir, info)
	write(t, filepath.Join(dir, info), `{"Version":"v1.0.0","Time":"1999-09-09T09:09:09Z","Origin":{"URL":"https://evil.test"}}`)
	modCache := t.TempDir()
	f, err := modfetch.New(append(w.Options(), modfetch.WithCache(bundle.Cache(dir)), modfetch.WithModCache(modCache))...)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := bundle.Write(t.Context(), f, project(t, otherMod), dir, bundle.Options{}); err != nil {
		t.Fatal(err)
	}
	if now := read(t, dir, info); string(now) != string(honest) {
		t.Errorf("it was %s and is %s", honest, now)
	}
	for _, name := range names(t, modCache) {
		if strings.Contains(string(read(t, modCache, name)), "evil.test") {
			t.Errorf("%s was published", name)
		}
	}
}
