package modfetch

import (
	"archive/zip"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/modfetch/modfetch/internal/unpack"
	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/dirhash"
	"golang.org/x/sync/semaphore"
)

// The go command is the oracle for what a module cache looks like: it downloads from a tree of files, and the same files
// are put into a modCache.

var (
	cachedM     = module.Version{Path: "example.com/m", Version: "v1.0.0"}
	cachedUpper = module.Version{Path: "example.com/Upper", Version: "v1.0.0-RC1"}
)

// newModCache returns an empty cache, whose read-only directories are removed after the test.
func newModCache(t *testing.T) *modCache {
	dir := filepath.Join(t.TempDir(), "mod")
	t.Cleanup(func() { removeAll(dir) })
	return &modCache{dir: dir}
}

// writeModule writes a module's files into a GOPROXY tree, and returns the name of its zip.
func writeModule(t *testing.T, proxy string, m module.Version, files ...string) string {
	t.Helper()
	name := func(suffix string) string { return filepath.Join(proxy, filepath.FromSlash(proxyPath(m, suffix))) }
	write(t, name("info"), `{"Version":"`+m.Version+`","Time":"2024-01-02T03:04:05Z"}`)
	write(t, name("mod"), "module "+m.Path+"\n")
	f, err := os.Create(name("zip"))
	if err != nil {
		t.Fatal(err)
	}
	zw := zip.NewWriter(f)
	for _, file := range append(files, "go.mod") {
		w, err := zw.Create(m.String() + "/" + file)
		if err != nil {
			t.Fatal(err)
		}
		w.Write([]byte("module " + m.Path + "\n"))
	}
	if err := errors.Join(zw.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	return name("zip")
}

// write writes a file and its directories.
func write(t *testing.T, name, data string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o777), os.WriteFile(name, []byte(data), 0o666)); err != nil {
		t.Fatal(err)
	}
}

// read returns the content of a file, or "-" if there is none.
func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "-"
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// names lists what is below dir, with the permissions of each.
func names(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		out = append(out, info.Mode().String()+" "+filepath.ToSlash(rel))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// goModDownload runs go mod download with a module cache and a GOPROXY tree.
func goModDownload(t *testing.T, modCache, proxy string, mods ...module.Version) {
	t.Helper()
	name, err := exec.LookPath("go")
	if err != nil {
		t.Skip("there is no go command to compare with")
	}
	args := []string{"mod", "download"}
	for _, m := range mods {
		args = append(args, m.String())
	}
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "GOMODCACHE="+modCache, "GOPROXY=file://"+filepath.ToSlash(proxy), "GOSUMDB=off",
		"GOFLAGS=-mod=mod", "GOWORK=off", "GOENV=off", "GOTOOLCHAIN=local", "GOPATH="+t.TempDir(), "GOPRIVATE=", "GONOPROXY=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// fill puts a module into a cache in the order in which a Fetcher does.
func fill(t *testing.T, c *modCache, m module.Version, zipName string) {
	t.Helper()
	dir := filepath.Dir(zipName)
	version := strings.TrimSuffix(filepath.Base(zipName), ".zip")
	if err := c.put(proxyPath(m, "info"), []byte(read(t, filepath.Join(dir, version+".info")))); err != nil {
		t.Fatal(err)
	}
	if err := c.putGoMod(t.Context(), m, []byte(read(t, filepath.Join(dir, version+".mod")))); err != nil {
		t.Fatal(err)
	}
	publish(t, c, m, zipName)
}

// publish puts a module's zip and tree into a cache, and returns the hash.
func publish(t *testing.T, c *modCache, m module.Version, zipName string) (sum string) {
	t.Helper()
	unlock, err := c.lock(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	f, err := c.stageZip(m)
	if err != nil {
		t.Fatal(err)
	}
	data := read(t, zipName)
	if _, err := f.WriteString(data); err != nil {
		t.Fatal(err)
	}
	a, err := unpack.Open(f, int64(len(data)), m)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := c.stageTree(m)
	if err != nil {
		t.Fatal(err)
	}
	if sum, err = a.Extract(t.Context(), semaphore.NewWeighted(2), tree); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Close(), c.publishZip(t.Context(), m, f.Name(), sum), c.publishTree(m, tree)); err != nil {
		t.Fatal(err)
	}
	return sum
}

func TestModCacheLayout(t *testing.T) {
	for _, m := range []module.Version{cachedM, cachedUpper, {Path: "example.com/m/v2", Version: "v2.1.0"},
		{Path: "example.com/old", Version: "v3.0.0+incompatible"}, {Path: "gopkg.in/yaml.v3", Version: "v3.0.0-20240102030405-0123456789ab"}} {
		t.Run(m.String(), func(t *testing.T) {
			proxy := t.TempDir()
			zipName := writeModule(t, proxy, m, "m.go", "a/b/c.go", "a/x", "z/y/x/w")
			theirs, ours := newModCache(t), newModCache(t)
			goModDownload(t, theirs.dir, proxy, m)
			fill(t, ours, m, zipName)
			got, want := names(t, ours.dir), slices.DeleteFunc(names(t, theirs.dir), func(s string) bool { return strings.HasSuffix(s, " cache/lock") })
			if !slices.Equal(got, want) {
				t.Errorf("we leave\n%s\nand the go command\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			for _, suffix := range []string{"info", "mod", "zip", "ziphash", "lock"} {
				if got, want := read(t, ours.file(proxyPath(m, suffix))), read(t, theirs.file(proxyPath(m, suffix))); got != want {
					t.Errorf("%s is %.100q, the go command's is %.100q", suffix, got, want)
				}
			}
			if sum, err := dirhash.HashZip(zipName, dirhash.Hash1); err != nil || ours.zipHash(m) != sum || theirs.zipHash(m) != sum {
				t.Errorf("hashes %s and %s, want %s, %v", ours.zipHash(m), theirs.zipHash(m), sum, err)
			}
			if !ours.complete(m) || !theirs.complete(m) {
				t.Errorf("complete: ours %t, the go command's %t", ours.complete(m), theirs.complete(m))
			}
		})
	}
}

func TestModCacheList(t *testing.T) {
	proxy := t.TempDir()
	var mods []module.Version
	for _, v := range []string{"v1.10.0", "v1.9.0", "v1.9.0-rc.1", "v1.9.0-RC.2", "v0.0.0-20240102030405-0123456789ab", "v1.0.0", "v2.0.0+incompatible"} {
		m := module.Version{Path: "example.com/m", Version: v}
		writeModule(t, proxy, m, "m.go")
		mods = append(mods, m)
	}
	theirs, ours := newModCache(t), newModCache(t)
	goModDownload(t, theirs.dir, proxy, mods...)
	for _, m := range mods {
		if err := ours.putGoMod(t.Context(), m, []byte("module example.com/m\n")); err != nil {
			t.Fatal(err)
		}
	}
	list := ours.file("example.com/m/@v/list")
	want := read(t, theirs.file("example.com/m/@v/list"))
	if got := read(t, list); got != want || !strings.Contains(got, "v1.10.0\n") || strings.Contains(got, "RC.2") || strings.Contains(got, "!r!c.2") {
		t.Errorf("list\n%sthe go command's\n%s", got, want)
	}

	dir := filepath.Dir(list)
	for _, name := range []string{".mod", "master.mod", "v1.mod", "v1.0.1.info", "v1.0.2.mod123.tmp"} {
		write(t, filepath.Join(dir, name), "")
	}
	for what, damage := range map[string]string{"empty": "", "with zero bytes": strings.Repeat("\x00", len(want)), "with more": want + "v9.0.0\n", "with less": want[:10], "with other versions": strings.ToUpper(want)} {
		write(t, list, damage)
		before, err := os.Stat(list)
		if err != nil {
			t.Fatal(err)
		}
		if err := ours.rebuildList(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
		if got := read(t, list); got != want {
			t.Errorf("%s: rebuilt as\n%s", what, got)
		}
		if after, err := os.Stat(list); err != nil || !os.SameFile(before, after) {
			t.Errorf("%s: the file was replaced by another, %v", what, err)
		}
	}
}

func TestModCacheZipHash(t *testing.T) {
	good := "h1:" + strings.Repeat("A", 43) + "="
	for _, test := range []struct {
		name string
		data string
		want string
	}{
		{"good", good, good},
		{"empty", "", ""},
		{"newline at the end", good + "\n", ""},
		{"cut short", good[:46], ""},
		{"zero bytes", strings.Repeat("\x00", 47), ""},
		{"zero bytes at the end", good[:40] + strings.Repeat("\x00", 7), ""},
		{"another algorithm", "h2" + good[2:], ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newModCache(t)
			if got := c.zipHash(cachedM); got != "" {
				t.Errorf("without a file: %q", got)
			}
			write(t, c.file(proxyPath(cachedM, "ziphash")), test.data)
			if got := c.zipHash(cachedM); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

func TestModCacheComplete(t *testing.T) {
	c := newModCache(t)
	if c.complete(cachedM) {
		t.Error("complete without a tree")
	}
	write(t, filepath.Join(c.tree(cachedM), "m.go"), "package m\n")
	if !c.complete(cachedM) {
		t.Error("not complete with a tree")
	}
	partial := c.file(proxyPath(cachedM, "partial"))
	write(t, partial, "")
	if c.complete(cachedM) {
		t.Error("complete in spite of the marker")
	}
	if err := c.clearPartial(cachedM); err != nil || read(t, partial) != "" {
		t.Errorf("the marker was cleared while the tree was there, %v", err)
	}
	if err := c.distrust(cachedM); err != nil || exists(c.tree(cachedM)) || read(t, partial) != "" {
		t.Errorf("after distrust: tree %t, marker %q, %v", exists(c.tree(cachedM)), read(t, partial), err)
	}
	for range 2 {
		if err := c.clearPartial(cachedM); err != nil || exists(partial) {
			t.Errorf("the marker was not cleared, %v", err)
		}
	}
	if err := c.distrust(cachedM); err != nil || exists(partial) {
		t.Errorf("a marker was left though there was no tree, %v", err)
	}
	write(t, c.tree(cachedM), "a file where the tree should be")
	if c.complete(cachedM) {
		t.Error("complete with a file for a tree")
	}
}

func TestModCacheTreeIsReadOnly(t *testing.T) {
	for _, rw := range []bool{false, true} {
		c := newModCache(t)
		c.rw = rw
		publish(t, c, cachedM, writeModule(t, t.TempDir(), cachedM, "m.go", "a/b/c.go"))
		for _, what := range names(t, filepath.Dir(c.tree(cachedM))) {
			mode, name, _ := strings.Cut(what, " ")
			isDir := mode[0] == 'd'
			if writable := strings.Contains(mode, "w"); writable != (isDir && rw) {
				t.Errorf("with rw %t: %s %s", rw, mode, name)
			}
		}
	}
}

func TestPublishTreeReplaces(t *testing.T) {
	c := newModCache(t)
	first := publish(t, c, cachedM, writeModule(t, t.TempDir(), cachedM, "old.go", "dir/old.go"))
	write(t, c.file(proxyPath(cachedM, "partial")), "")
	second := publish(t, c, cachedM, writeModule(t, t.TempDir(), cachedM, "new.go", "new/new.go"))
	if first == second {
		t.Fatal("the zips are the same")
	}
	if exists(filepath.Join(c.tree(cachedM), "old.go")) || !exists(filepath.Join(c.tree(cachedM), "new", "new.go")) {
		t.Errorf("the tree is %q", names(t, c.tree(cachedM)))
	}
	if exists(c.file(proxyPath(cachedM, "partial"))) || !c.complete(cachedM) || c.zipHash(cachedM) != second {
		t.Errorf("complete %t, hash %s, want %s", c.complete(cachedM), c.zipHash(cachedM), second)
	}
	for _, what := range names(t, c.dir) {
		if strings.Contains(what, "tmp") {
			t.Errorf("left: %s", what)
		}
	}
}

func TestPublishZip(t *testing.T) {
	zipA, zipB := writeModule(t, t.TempDir(), cachedM, "a.go"), writeModule(t, t.TempDir(), cachedM, "b.go")
	sumA, errA := dirhash.HashZip(zipA, dirhash.Hash1)
	sumB, errB := dirhash.HashZip(zipB, dirhash.Hash1)
	if err := errors.Join(errA, errB); err != nil {
		t.Fatal(err)
	}
	stage := func(t *testing.T, c *modCache, zipName string) string {
		t.Helper()
		f, err := c.stageZip(cachedM)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(read(t, zipName)); err != nil {
			t.Fatal(err)
		}
		f.Close()
		return f.Name()
	}
	zipFile := func(c *modCache) string { return c.file(proxyPath(cachedM, "zip")) }
	hashFile := func(c *modCache) string { return c.file(proxyPath(cachedM, "ziphash")) }

	t.Run("another zip drops the tree", func(t *testing.T) {
		c := newModCache(t)
		publish(t, c, cachedM, zipA)
		if err := c.publishZip(t.Context(), cachedM, stage(t, c, zipB), sumB); err != nil {
			t.Fatal(err)
		}
		if exists(c.tree(cachedM)) || !exists(c.file(proxyPath(cachedM, "partial"))) || read(t, zipFile(c)) != read(t, zipB) || c.zipHash(cachedM) != sumB {
			t.Errorf("tree %t, hash %s, want %s", exists(c.tree(cachedM)), c.zipHash(cachedM), sumB)
		}
	})
	t.Run("the same zip keeps the tree", func(t *testing.T) {
		c := newModCache(t)
		publish(t, c, cachedM, zipA)
		if err := c.publishZip(t.Context(), cachedM, stage(t, c, zipA), sumA); err != nil {
			t.Fatal(err)
		}
		if !c.complete(cachedM) || c.zipHash(cachedM) != sumA {
			t.Errorf("complete %t, hash %s", c.complete(cachedM), c.zipHash(cachedM))
		}
	})
	t.Run("in place", func(t *testing.T) {
		c := newModCache(t)
		write(t, zipFile(c), read(t, zipA))
		if err := c.publishZip(t.Context(), cachedM, zipFile(c), sumA); err != nil {
			t.Fatal(err)
		}
		if read(t, zipFile(c)) != read(t, zipA) || read(t, hashFile(c)) != sumA {
			t.Errorf("hash %s, want %s", read(t, hashFile(c)), sumA)
		}
	})
	// A hash that cannot be written shows what had been done before.
	t.Run("where there is no zip, its hash comes first", func(t *testing.T) {
		c := newModCache(t)
		write(t, filepath.Join(hashFile(c), "in the way"), "")
		if err := c.publishZip(t.Context(), cachedM, stage(t, c, zipA), sumA); err == nil {
			t.Error("no error")
		}
		if exists(zipFile(c)) {
			t.Error("the zip is there without its hash")
		}
	})
	t.Run("where there is a zip, its hash comes last", func(t *testing.T) {
		c := newModCache(t)
		write(t, zipFile(c), read(t, zipA))
		write(t, filepath.Join(hashFile(c), "in the way"), "")
		if err := c.publishZip(t.Context(), cachedM, stage(t, c, zipB), sumB); err == nil {
			t.Error("no error")
		}
		if read(t, zipFile(c)) != read(t, zipB) {
			t.Error("the old zip would be extracted under the new hash")
		}
	})
	t.Run("damaged hash", func(t *testing.T) {
		c := newModCache(t)
		write(t, hashFile(c), sumB+" and a longer text than any hash has")
		before, err := os.Stat(hashFile(c))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.publishZip(t.Context(), cachedM, stage(t, c, zipA), sumA); err != nil {
			t.Fatal(err)
		}
		if got := read(t, hashFile(c)); got != sumA {
			t.Errorf("hash %q, want %q", got, sumA)
		}
		if after, err := os.Stat(hashFile(c)); err != nil || !os.SameFile(before, after) {
			t.Errorf("the file, which the go command locks, was replaced by another, %v", err)
		}
	})
}

func TestLeftoversAreRemoved(t *testing.T) {
	c := newModCache(t)
	dir, trees := filepath.Dir(c.file(proxyPath(cachedM, "zip"))), filepath.Dir(c.tree(cachedM))
	keep := []string{
		filepath.Join(dir, "v1.0.0.zip"), filepath.Join(dir, "v1.0.0.ziphash"), filepath.Join(dir, "v1.0.0.mod7.tmp"),
		filepath.Join(dir, "v1.0.0.info7.tmp"), filepath.Join(dir, "v1.0.1.zip7.tmp"), filepath.Join(dir, "v1.0.0-rc.zip7.tmp"),
		filepath.Join(trees, "m@v1.0.1.tmp-7", "m.go"), filepath.Join(trees, "m@v1.0.0", "m.go"), filepath.Join(trees, "n@v1.0.0.tmp-7", "m.go"),
	}
	drop := []string{
		filepath.Join(dir, "v1.0.0.zip7.tmp"), filepath.Join(dir, "v1.0.0.zip123456789.tmp"),
		filepath.Join(trees, "m@v1.0.0.tmp-7", "deep", "er", "m.go"), filepath.Join(trees, "m@v1.0.0.tmp-8", "m.go"),
	}
	for _, name := range slices.Concat(keep, drop) {
		write(t, name, "")
	}
	if err := os.Chmod(filepath.Join(trees, "m@v1.0.0.tmp-7", "deep"), 0o555); err != nil {
		t.Fatal(err)
	}
	f, err := c.stageZip(cachedM)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := c.stageTree(cachedM); err != nil {
		t.Fatal(err)
	}
	for _, name := range keep {
		if !exists(name) && (runtime.GOOS != "windows" || !strings.Contains(name, "m@v1.0.0"+string(filepath.Separator))) {
			t.Errorf("%s was removed", name)
		}
	}
	for _, name := range drop {
		if exists(name) {
			t.Errorf("%s is still there", name)
		}
	}
}

// TestTheGoCommandRemovesOurLeftovers shows that the names of staging files are those that it knows.
func TestTheGoCommandRemovesOurLeftovers(t *testing.T) {
	proxy := t.TempDir()
	writeModule(t, proxy, cachedUpper, "m.go")
	c := newModCache(t)
	f, err := c.stageZip(cachedUpper)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	tree, err := c.stageTree(cachedUpper)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(tree, "half.go"), "")
	goModDownload(t, c.dir, proxy, cachedUpper)
	for _, name := range []string{f.Name(), filepath.Join(tree, "half.go")} {
		if exists(name) {
			t.Errorf("%s is still there", name)
		}
	}
	if !c.complete(cachedUpper) {
		t.Error("the go command's own tree is not there")
	}
}

func TestModCacheLock(t *testing.T) {
	c := newModCache(t)
	unlock, err := c.lock(t.Context(), cachedM)
	if err != nil {
		t.Fatal(err)
	}
	gone := errors.New("the caller has left")
	ctx, cancel := context.WithCancelCause(t.Context())
	var told []string
	other := &modCache{dir: c.dir, trace: &Trace{LockWaiting: func(_ context.Context, name string) {
		told = append(told, name)
		cancel(gone)
	}}}
	if _, err := other.lock(ctx, cachedM); !errors.Is(err, gone) {
		t.Errorf("error %v, want %v", err, gone)
	}
	if want := []string{c.file("example.com/m/@v/v1.0.0.lock")}; !slices.Equal(told, want) {
		t.Errorf("told of %q, want %q", told, want)
	}
	free, err := other.lock(t.Context(), cachedUpper)
	if err != nil {
		t.Fatal(err)
	}
	free()
	unlock()
	again, err := other.lock(t.Context(), cachedM)
	if err != nil {
		t.Fatal(err)
	}
	again()
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "file")
	text := func(s string) func(*os.File) error {
		return func(f *os.File) error {
			_, err := f.WriteString(s)
			return err
		}
	}
	for _, s := range []string{"first", "second"} {
		if err := writeFile(name, text(s)); err != nil || read(t, name) != s {
			t.Fatalf("content %q, %v", read(t, name), err)
		}
	}
	broken := errors.New("broken")
	err := writeFile(name, func(f *os.File) error {
		if base := filepath.Base(f.Name()); !strings.HasPrefix(base, "file") || !strings.HasSuffix(base, ".tmp") || read(t, name) != "second" {
			t.Errorf("writing to %s", base)
		}
		return errors.Join(text("third")(f), broken)
	})
	if !errors.Is(err, broken) || read(t, name) != "second" {
		t.Errorf("content %q, %v; want what was there, and %v", read(t, name), err, broken)
	}
	if err := writeFile(filepath.Join(dir, "missing", "file"), text("")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want fs.ErrNotExist", err)
	}
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("left: %q", got)
	}
}
