package bundle_test

import (
	archivezip "archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/bundle"
	"github.com/modfetch/modfetch/modfetchtest"
	"golang.org/x/mod/module"
)

// TestMain lets no Fetcher of its own client leave this machine.
func TestMain(m *testing.M) {
	var escaped atomic.Int32
	fence := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		if !strings.HasSuffix(host, ".test") {
			escaped.Add(1)
		}
		http.Error(w, "the tests stay on this machine", http.StatusForbidden)
	}))
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		os.Setenv(name, fence.URL)
	}
	os.Unsetenv("NO_PROXY")
	os.Unsetenv("no_proxy")
	code := m.Run()
	fence.Close()
	if n := escaped.Load(); n > 0 {
		fmt.Fprintf(os.Stderr, "%d requests to other machines\n", n)
		code = 1
	}
	os.Exit(code)
}

// A world is a mirror with a checksum database of a few thousand records.
type world struct {
	*modfetchtest.Server
	t *testing.T
}

// newWorld serves example.com/a, which requires example.com/Upper/b, which requires example.com/c. Since b is not a pruned
// module, the go.mod file of the c that it requires is read even where a higher version is used. Their records are far from
// those that come first and last.
func newWorld(t *testing.T) *world {
	s := modfetchtest.NewServer(t, nil)
	s.Add(modfetchtest.NewModule("example.com/before", "v1.0.0").File("before.go", "package before\n"))
	s.AddRecords(1000)
	const a = "module example.com/a\n\ngo 1.22\n\nrequire example.com/Upper/b v1.0.0-RC1\n\nrequire example.com/c v1.0.0 // indirect\n"
	const b = "module example.com/Upper/b\n\ngo 1.16\n\nrequire example.com/c v1.0.0\n"
	for _, m := range []modfetchtest.Module{
		modfetchtest.NewModule("example.com/a", "v1.0.0").File("go.mod", a).File("a.go", "package a\n\nimport _ \"example.com/Upper/b\"\n").
			File("testdata/text", strings.Repeat("some text that compresses\n", 1000)),
		modfetchtest.NewModule("example.com/Upper/b", "v1.0.0-RC1").File("go.mod", b).File("b.go", "package b\n\nimport _ \"example.com/c\"\n"),
		modfetchtest.NewModule("example.com/c", "v1.0.0").File("go.mod", "module example.com/c\n").File("c.go", "package c\n"),
		modfetchtest.NewModule("example.com/c", "v1.1.0").File("go.mod", "module example.com/c\n").File("c.go", "package c\n"),
		modfetchtest.NewModule("example.com/d", "v0.0.0-20240102030405-0123456789ab").File("d.go", "package d\n"),
	} {
		s.Add(m)
	}
	s.AddRecords(3000)
	return &world{s, t}
}

const mainMod = "module example.com/main\n\ngo 1.22\n\nrequire example.com/a v1.0.0\n\n" +
	"require (\n\texample.com/Upper/b v1.0.0-RC1 // indirect\n\texample.com/c v1.1.0 // indirect\n)\n"

const otherMod = "module example.com/main\n\ngo 1.22\n\nrequire example.com/d v0.0.0-20240102030405-0123456789ab\n"

// project returns the go.mod file of a new directory with a main package.
func project(t *testing.T, goMod string) string {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "go.mod"), goMod)
	imports := "example.com/a"
	if goMod == otherMod {
		imports = "example.com/d"
	}
	write(t, filepath.Join(dir, "main.go"), "package main\n\nimport _ \""+imports+"\"\n\nfunc main() {}\n")
	return filepath.Join(dir, "go.mod")
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o777), os.WriteFile(name, []byte(text), 0o666)); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, elem ...string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// fetcher returns a Fetcher over a module cache that nobody else has.
func (w *world) fetcher(opts ...modfetch.Option) *modfetch.Fetcher {
	w.t.Helper()
	f, err := modfetch.New(append(append(opts, w.Options()...), modfetch.WithModCache(w.t.TempDir()),
		modfetch.WithPolicy(modfetch.Policy{NoExtract: true}))...)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { f.Close() })
	return f
}

// bundle writes a bundle and returns its name.
func (w *world) bundle(goMod, name string, o bundle.Options) string {
	w.t.Helper()
	if !filepath.IsAbs(name) {
		name = filepath.Join(w.t.TempDir(), name)
	}
	if _, err := bundle.Write(w.t.Context(), w.fetcher(), project(w.t, goMod), name, o); err != nil {
		w.t.Fatal(err)
	}
	return name
}

// verify fails the test if there are problems.
func (w *world) verify(name string) {
	w.t.Helper()
	problems, err := bundle.Verify(w.t.Context(), name, w.GOSUMDB())
	if err != nil || len(problems) > 0 {
		w.t.Errorf("%s: %v, %v", name, problems, err)
	}
}

// names returns the names of all files in a directory.
func names(t *testing.T, dir string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			name, _ := filepath.Rel(dir, file)
			list = append(list, filepath.ToSlash(name))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// A machine is a go command with a GOPATH of its own.
type machine struct {
	t   *testing.T
	env []string
}

func (w *world) machine() *machine {
	w.t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		w.t.Skip("there is no go command to show that a bundle is enough")
	}
	return &machine{w.t, w.Env(w.t)}
}

func (m *machine) setting(name string) (value string) {
	for _, kv := range m.env {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			value = v
		}
	}
	return value
}

// offline makes a bundle all that the machine has.
func (m *machine) offline(dir string) { m.env = append(m.env, "GOPROXY=file://"+filepath.ToSlash(dir)) }

// run runs the go command beside a go.mod file.
func (m *machine) run(goMod string, args ...string) error {
	m.t.Helper()
	cmd := exec.CommandContext(m.t.Context(), "go", args...)
	cmd.Dir = filepath.Dir(goMod)
	cmd.Env = append(m.env, "PWD="+cmd.Dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

func (m *machine) mustRun(goMod string, args ...string) {
	m.t.Helper()
	if err := m.run(goMod, args...); err != nil {
		m.t.Fatal(err)
	}
}

// latest returns the head that the go command keeps.
func (m *machine) latest(w *world) []byte {
	name, _, _ := strings.Cut(w.GOSUMDB(), "+")
	return read(m.t, m.setting("GOPATH"), "pkg", "sumdb", name, "latest")
}

func TestABundleIsAllThatAGoCommandNeeds(t *testing.T) {
	w := newWorld(t)
	dir := w.bundle(mainMod, "b", bundle.Options{})
	m := w.machine()
	w.Close()
	w.verify(dir)
	m.offline(dir)

	m.mustRun(project(t, mainMod), "mod", "download") // all sums are looked up
	m.mustRun(project(t, mainMod), "mod", "download", "example.com/c@latest")
	goMod := project(t, mainMod)
	write(t, filepath.Join(filepath.Dir(goMod), "go.sum"), string(read(t, dir, "go.sum")))
	m.env = append(m.env, "GOMODCACHE="+t.TempDir(), "GOFLAGS=-mod=readonly -modcacherw")
	m.mustRun(goMod, "list", "-m", "all") // needs the line of c v1.0.0, which is no module of the bundle
	m.mustRun(goMod, "list", "-deps", ".")
	m.mustRun(goMod, "mod", "verify")
}

// TestListAll has a project of which go.mod names one module, so that of the others in its build list there is no zip.
func TestListAll(t *testing.T) {
	w := newWorld(t)
	const goMod = "module example.com/main\n\ngo 1.22\n\nrequire example.com/a v1.0.0\n"
	dir := w.bundle(goMod, "b", bundle.Options{})
	machines := []*machine{w.machine(), w.machine()}
	w.Close()
	w.verify(dir)
	if text := strings.Join(names(t, dir), " "); strings.Count(text, ".zip") != 1 || strings.Count(text, ".info") != 3 {
		t.Errorf("the bundle has %s", text)
	}
	for _, m := range machines {
		m.env = append(m.env, "GOFLAGS=-mod=mod")
		m.offline(dir)
	}
	machines[0].mustRun(project(t, goMod), "list", "-m", "all")
	if err := os.Remove(filepath.Join(dir, "example.com/c/@v/v1.0.0.info")); err != nil {
		t.Fatal(err)
	}
	if machines[1].run(project(t, goMod), "list", "-m", "all") == nil {
		t.Error("the go command does not need the .info files, so this test shows nothing")
	}
}

// TestListedButNotThere has versions in the build list that nobody needs, and that nobody has: one that no mirror knows, one
// that go.mod replaces, and one that is private. The go command does not need them either.
func TestListedButNotThere(t *testing.T) {
	w := newWorld(t)
	const e = "module example.com/e\n\ngo 1.22\n\nrequire (\n\texample.com/c v1.0.0\n\texample.com/gone v1.0.0\n\texample.com/replaced v1.0.0\n\tcorp.test/secret v1.0.0\n)\n"
	w.Add(modfetchtest.NewModule("example.com/e", "v1.0.0").File("go.mod", e).File("e.go", "package e\n"))
	corp := modfetchtest.NewServer(t, nil)
	const goMod = "module example.com/main\n\ngo 1.22\n\nrequire example.com/e v1.0.0\n\nreplace example.com/replaced => ./replaced\n"
	file := project(t, goMod)
	write(t, filepath.Join(filepath.Dir(file), "replaced/go.mod"), "module example.com/replaced\n")
	dir := filepath.Join(t.TempDir(), "b")
	if _, err := bundle.Write(t.Context(), w.fetcher(modfetch.WithRoute("corp.test/*", corp.URL)), file, dir, bundle.Options{}); err != nil {
		t.Fatal(err)
	}
	w.verify(dir)
	for _, path := range append(w.Requests(), corp.Requests()...) {
		if strings.Contains(path, "replaced") || strings.Contains(path, "secret") || strings.Contains(path, "lookup/example.com/gone") {
			t.Errorf("requested %s", path)
		}
	}
	if text := strings.Join(names(t, dir), " "); !strings.Contains(text, "example.com/c/@v/v1.0.0.info ") || strings.Contains(text, "gone") {
		t.Errorf("the bundle has %s", text)
	}
}

func TestABundleIsAllThatAFetcherNeeds(t *testing.T) {
	w := newWorld(t)
	dir := w.bundle(mainMod, "b", bundle.Options{})
	w.Close()
	f, err := modfetch.New(modfetch.WithGOPROXY("file://"+filepath.ToSlash(dir)), modfetch.WithSumDB(w.GOSUMDB()), modfetch.WithModCache(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mods := []module.Version{{Path: "example.com/a", Version: "v1.0.0"}, {Path: "example.com/c", Version: "v1.1.0"}}
	for m, err := range f.Download(t.Context(), mods) {
		if name, _, _ := strings.Cut(w.GOSUMDB(), "+"); err != nil || m.VerifiedBy != name {
			t.Errorf("%v: verified by %q: %v", m.Version, m.VerifiedBy, err)
		}
	}
}

// TestOntoAnOlderHead shows what a go command with a past needs, and that it needs it.
func TestOntoAnOlderHead(t *testing.T) {
	w := newWorld(t)
	lag := &world{w.Lag(), t} // shows the tree as it is now
	w.AddRecords(20000)
	w.Add(modfetchtest.NewModule("example.com/last", "v1.0.0").File("last.go", "package last\n"))
	const lastMod = "module example.com/main\n\ngo 1.22\n\nrequire example.com/last v1.0.0\n"
	var machines []*machine
	for range 3 {
		m := w.machine()
		m.env = append(m.env, "GOPROXY="+lag.URL)
		m.mustRun(project(t, mainMod), "mod", "download", "example.com/before@v1.0.0")
		machines = append(machines, m)
	}
	plain := w.bundle(lastMod, "plain", bundle.Options{})
	onto := w.bundle(lastMod, "onto", bundle.Options{Onto: [][]byte{machines[0].latest(w)}})
	w.Close()
	w.verify(plain)
	w.verify(onto)

	machines[0].offline(plain)
	err := machines[0].run(project(t, lastMod), "mod", "download")
	if err == nil {
		t.Fatal("the go command does not need the tiles that prove its head, so this test shows nothing")
	}
	// The help of modfetch bundle quotes this.
	if words := regexp.MustCompile(`checking tree#\d+ against tree#\d+: reading file://\S+/tile/8/\S+: no such file or directory`); !words.MatchString(err.Error()) {
		t.Errorf("the go command has other words now: %v", err)
	}
	machines[1].offline(onto)
	machines[1].mustRun(project(t, lastMod), "mod", "download")
	machines[2].offline(onto)
	machines[2].mustRun(project(t, mainMod), "clean", "-modcache")
	machines[2].mustRun(project(t, lastMod), "mod", "download")
}

func TestOntoAnEarlierBundle(t *testing.T) {
	for _, clean := range []bool{false, true} {
		w := newWorld(t)
		first := w.bundle(mainMod, "first.zip", bundle.Options{})
		firstDir := w.bundle(mainMod, "first", bundle.Options{})
		head, err := bundle.Head(first)
		if err != nil {
			t.Fatal(err)
		}
		w.AddRecords(20000)
		second := w.bundle(otherMod, "second", bundle.Options{Onto: [][]byte{head}})
		m := w.machine()
		w.Close()
		w.verify(second)
		m.offline(firstDir)
		m.mustRun(project(t, mainMod), "mod", "download")
		if clean {
			m.mustRun(project(t, mainMod), "clean", "-modcache")
		}
		m.offline(second)
		m.mustRun(project(t, otherMod), "mod", "download")
	}
}

func TestAPinnedHeadMakesTheSameBytes(t *testing.T) {
	w := newWorld(t)
	zip := w.bundle(mainMod, "b.zip", bundle.Options{})
	head, err := bundle.Head(zip)
	if err != nil {
		t.Fatal(err)
	}
	dir := w.bundle(mainMod, "b", bundle.Options{Head: head})
	w.AddRecords(500)
	again := w.bundle(mainMod, "b.zip", bundle.Options{Head: head})
	if !bytes.Equal(read(t, zip), read(t, again)) {
		t.Error("two zips under the same head differ")
	}
	newer := w.bundle(mainMod, "b.zip", bundle.Options{})
	if bytes.Equal(read(t, zip), read(t, newer)) {
		t.Error("a newer head has made the same zip")
	}
	againDir := w.bundle(mainMod, "b", bundle.Options{Head: head})
	if a, b := names(t, dir), names(t, againDir); !slices.Equal(a, b) {
		t.Errorf("files %q, and then %q", a, b)
	}
	for _, name := range names(t, dir) {
		if !bytes.Equal(read(t, dir, name), read(t, againDir, name)) {
			t.Errorf("%s differs", name)
		}
	}
	w.verify(zip)
	w.verify(dir)
	w.verify(newer)
	z, err := archivezip.OpenReader(zip)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	for _, file := range z.File {
		if year := file.Modified.UTC().Year(); year != 1980 {
			t.Errorf("%s is of the year %d: the bytes depend on the clock", file.Name, year)
		}
		if content := read(t, dir, file.Name); file.UncompressedSize64 != uint64(len(content)) {
			t.Errorf("%s: %d bytes in the zip, and %d in the directory", file.Name, file.UncompressedSize64, len(content))
		}
	}
}

func TestAddingFetchesWhatIsMissing(t *testing.T) {
	w := newWorld(t)
	dir := w.bundle(mainMod, "b", bundle.Options{})
	m := w.machine()
	m.offline(dir)
	m.mustRun(project(t, mainMod), "mod", "download")
	zip := read(t, dir, "example.com/a/@v/v1.0.0.zip")
	if err := os.Remove(filepath.Join(dir, "example.com/c/@v/v1.1.0.zip")); err != nil { // which makes it missing
		t.Fatal(err)
	}
	w.AddRecords(20000)

	before := len(w.Requests())
	f := w.fetcher(modfetch.WithCache(bundle.Cache(dir)))
	if _, err := bundle.Write(t.Context(), f, project(t, otherMod), dir, bundle.Options{}); err != nil {
		t.Fatal(err)
	}
	var asked []string
	for _, path := range w.Requests()[before:] {
		if strings.Contains(path, "/@v/") {
			asked = append(asked, path)
		}
	}
	slices.Sort(asked)
	const d = "/example.com/d/@v/v0.0.0-20240102030405-0123456789ab"
	var want []string
	for _, name := range []string{"!upper/b/@v/v1.0.0-!r!c1.info", "a/@v/v1.0.0.info", "c/@v/v1.0.0.info", "c/@v/v1.1.0.info", "c/@v/v1.1.0.zip"} {
		want = append(want, "/example.com/"+name)
	}
	if want := append(want, d+".info", d+".mod", d+".zip"); !slices.Equal(asked, want) {
		t.Errorf("requested %q, want %q", asked, want)
	}
	w.Close()
	w.verify(dir)
	if !bytes.Equal(zip, read(t, dir, "example.com/a/@v/v1.0.0.zip")) {
		t.Error("a zip that was there has changed")
	}
	if list := read(t, dir, "example.com/d/@v/list"); len(list) > 0 {
		t.Errorf("pseudo-versions are listed: %s", list)
	}
	m.mustRun(project(t, otherMod), "mod", "download") // under the new head, with the old one kept
	m.env = append(m.env, "GOMODCACHE="+t.TempDir())
	m.mustRun(project(t, mainMod), "mod", "download")
}

func TestFetched(t *testing.T) {
	w := newWorld(t)
	var calls []string
	w.bundle(mainMod, "b", bundle.Options{Fetched: func(done, all int) { calls = append(calls, fmt.Sprint(done, " of ", all)) }})
	if want := []string{"1 of 3", "2 of 3", "3 of 3"}; !slices.Equal(calls, want) {
		t.Errorf("called with %q, want %q", calls, want)
	}
}

func TestNothingElseIsWrittenTo(t *testing.T) {
	w := newWorld(t)
	good := w.bundle(mainMod, "b", bundle.Options{})
	write(t, filepath.Join(good, "mine"), "mine")
	other := t.TempDir()
	write(t, filepath.Join(other, "mine"), "mine")
	linked := w.bundle(mainMod, "b", bundle.Options{})
	if err := os.Symlink(good, filepath.Join(linked, "mine")); err != nil {
		t.Skip(err)
	}
	for _, dir := range []string{good, other, linked} {
		before := names(t, dir)
		_, err := bundle.Write(t.Context(), w.fetcher(), project(t, otherMod), dir, bundle.Options{})
		if err == nil || !strings.Contains(err.Error(), "nothing is written to it") {
			t.Errorf("error %v", err)
		}
		if after := names(t, dir); !slices.Equal(before, after) {
			t.Errorf("files %q, and then %q", before, after)
		}
	}
}

// TestWhatIsNotProvenIsNotWritten has databases, heads and settings that nothing can be proven with.
func TestWhatIsNotProvenIsNotWritten(t *testing.T) {
	w := newWorld(t)
	fork := &world{w.Fork(), t}
	forked, err := bundle.Head(fork.bundle(mainMod, "b.zip", bundle.Options{}))
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := bundle.Head(newWorld(t).bundle(mainMod, "b.zip", bundle.Options{}))
	if err != nil {
		t.Fatal(err)
	}
	old, err := bundle.Head(w.bundle(mainMod, "b.zip", bundle.Options{}))
	if err != nil {
		t.Fatal(err)
	}
	w.Add(modfetchtest.NewModule("example.com/late", "v1.0.0").File("late.go", "package late\n"))
	newest, err := bundle.Head(w.bundle(mainMod, "b.zip", bundle.Options{}))
	if err != nil {
		t.Fatal(err)
	}
	const lateMod = "module example.com/main\n\ngo 1.22\n\nrequire example.com/late v1.0.0\n"
	for _, test := range []struct {
		name    string
		goMod   string
		options bundle.Options
		setting []modfetch.Option
		want    error
		text    string
	}{
		{"foreign head", mainMod, bundle.Options{Head: foreign}, nil, modfetch.ErrSecurity, "is not signed by"},
		{"foreign older head", mainMod, bundle.Options{Onto: [][]byte{foreign}}, nil, modfetch.ErrSecurity, "is not signed by"},
		{"forked head", mainMod, bundle.Options{Head: forked}, nil, modfetch.ErrSecurity, "two histories"},
		{"forked older head", mainMod, bundle.Options{Onto: [][]byte{forked}}, nil, modfetch.ErrSecurity, "two histories"},
		{"head before the record", lateMod, bundle.Options{Head: old}, nil, modfetch.ErrForbidden, "take a newer one"},
		{"newer older head", mainMod, bundle.Options{Head: old, Onto: [][]byte{newest}}, nil, modfetch.ErrForbidden, "is older than one"},
		{"no head", mainMod, bundle.Options{Onto: [][]byte{{}}}, nil, modfetch.ErrSecurity, "is not signed by"},
		{"private module", mainMod, bundle.Options{}, []modfetch.Option{modfetch.WithRoute("example.com/c", w.URL)}, modfetch.ErrForbidden, "nothing proves it"},
	} {
		t.Run(test.name, func(t *testing.T) {
			name := filepath.Join(t.TempDir(), "b")
			_, err := bundle.Write(t.Context(), w.fetcher(test.setting...), project(t, test.goMod), name, test.options)
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("error %v", err)
			}
			if left := names(t, filepath.Dir(name)); len(left) > 0 {
				t.Errorf("left %q", left)
			}
		})
	}
}

// TestWhatContradictsTheDatabaseIsNotWritten has files that go.sum vouches for, of which the database says something else.
func TestWhatContradictsTheDatabaseIsNotWritten(t *testing.T) {
	for _, version := range []string{"v1.1.0", "v1.1.0/go.mod"} {
		w := newWorld(t)
		goSum, err := modfetch.ParseGoSum("go.sum", []byte(w.GoSum("example.com/c", "v1.1.0")))
		if err != nil {
			t.Fatal(err)
		}
		w.LieAbout("example.com/c", version, "h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
		name := filepath.Join(t.TempDir(), "b")
		_, err = bundle.Write(t.Context(), w.fetcher(modfetch.WithGoSum(goSum)), project(t, mainMod), name, bundle.Options{})
		if err == nil || !strings.Contains(err.Error(), "but the checksum database has h1:AAAA") {
			t.Errorf("%s: error %v", version, err)
		}
		if left := names(t, filepath.Dir(name)); len(left) > 0 {
			t.Errorf("left %q", left)
		}
	}
}

// TestAnInterruptedWriteLeavesNothing cancels while the proofs arrive, and while the last files do.
func TestAnInterruptedWriteLeavesNothing(t *testing.T) {
	for _, pattern := range []string{"/sumdb/*/tile/*", "*.zip"} {
		testInterrupted(t, pattern)
	}
}

func testInterrupted(t *testing.T, pattern string) {
	w := newWorld(t)
	dir := w.bundle(mainMod, "b", bundle.Options{})
	before := names(t, filepath.Dir(dir))
	ctx, cancel := context.WithCancel(t.Context())
	w.Fault(pattern, modfetchtest.Middleware(func(honest http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			cancel()
			honest.ServeHTTP(rw, r)
		})
	}))
	f := w.fetcher(modfetch.WithCache(bundle.Cache(dir)))
	if _, err := bundle.Write(ctx, f, project(t, otherMod), dir, bundle.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("%s: error %v", pattern, err)
	}
	if after := names(t, filepath.Dir(dir)); !slices.Equal(before, after) {
		t.Errorf("files %q, and then %q", before, after)
	}
	w.verify(dir)
}
