package modfetch_test

import (
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
	"time"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/modfetchtest"
	"golang.org/x/mod/module"
)

// The module of the repository that newOrigin makes.
var (
	origin1 = module.Version{Path: "corp.test/repo.git", Version: "v1.0.0"}
	origin2 = module.Version{Path: "corp.test/repo.git", Version: "v1.1.0"}
)

// originModule is what the repository has at a tag.
func originModule(m module.Version) modfetchtest.Module {
	return modfetchtest.NewModule(m.Path, m.Version).File("go.mod", "module "+m.Path+"\n\ngo 1.21\n").File("x.go", "package x // "+m.Version+"\n")
}

// newOrigin makes git find the repository of a module in a local directory, and serves the same module, or not.
func newOrigin(t *testing.T) *modfetchtest.Server {
	t.Helper()
	needGo(t)
	git, err := exec.LookPath("git")
	if err != nil {
		t.Skip("there is no git")
	}
	root := t.TempDir()
	dir := filepath.Join(root, "repo")
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GIT_CONFIG_SYSTEM", os.DevNull)
	t.Setenv("GIT_CONFIG_GLOBAL", os.DevNull)
	run := func(args ...string) {
		cmd := exec.CommandContext(t.Context(), git, append([]string{"-c", "user.name=a", "-c", "user.email=a@corp.test"}, args...)...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %q: %v\n%s", args, err, out)
		}
	}
	write := func(name, text string) {
		if err := os.WriteFile(name, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	run("init", "-q")
	write(filepath.Join(dir, "go.mod"), "module corp.test/repo.git\n\ngo 1.21\n")
	for _, m := range []module.Version{origin1, origin2} {
		write(filepath.Join(dir, "x.go"), "package x // "+m.Version+"\n")
		run("add", ".")
		run("commit", "-q", "-m", m.Version)
		run("tag", m.Version)
	}
	run("branch", "branch")
	config := filepath.Join(root, "gitconfig")
	write(config, "[url \"file://"+filepath.ToSlash(root)+"/\"]\n\tinsteadOf = https://corp.test/\n")
	t.Setenv("GIT_CONFIG_GLOBAL", config)

	s := newWorld(t)
	s.Add(originModule(origin1))
	s.Add(originModule(origin2))
	return s
}

func TestDirectIsTheLastOfAList(t *testing.T) {
	s := newOrigin(t)
	s.Fault("/corp.test/*", modfetchtest.Status(404))
	f, modCache := newFetcher(t, modfetch.WithGOPROXY(s.URL+",direct"), modfetch.WithSumDB(s.GOSUMDB()))
	got := download(t, f, origin1, moduleM)
	if m := got[origin1.Path]; m.Mirror != "direct" || m.VerifiedBy != databaseOf(s) || m.GoModVerifiedBy != databaseOf(s) {
		t.Errorf("from %q, verified by %q and %q; want it from its origin, and verified by the database", m.Mirror, m.VerifiedBy, m.GoModVerifiedBy)
	}
	if m := got[moduleM.Path]; m.Mirror != s.URL {
		t.Errorf("%s came from %q", moduleM, m.Mirror)
	}
	if data, err := os.ReadFile(filepath.Join(modCache, "corp.test/repo.git@v1.0.0/x.go")); err != nil || string(data) != "package x // v1.0.0\n" {
		t.Errorf("extracted %q, %v", data, err)
	}
	for name, fault := range map[string]modfetchtest.Fault{"a refusal": modfetchtest.Status(403), "an outage": modfetchtest.Status(500)} {
		s.Fault("/corp.test/*", fault)
		f, _ := newFetcher(t, modfetch.WithGOPROXY(s.URL+",direct"), modfetch.WithSumDB(s.GOSUMDB()))
		if _, err := f.GoMod(t.Context(), origin1); err == nil {
			t.Errorf("%s sent the path to its origin", name)
		}
	}
}

func TestDirectAnswersLikeAMirror(t *testing.T) {
	newOrigin(t)
	f, _ := newFetcher(t, modfetch.WithGOPROXY("direct"), modfetch.WithSumDB("off"))
	if list, err := f.Versions(t.Context(), origin1.Path); err != nil || !slices.Equal(list, []string{"v1.0.0", "v1.1.0"}) {
		t.Errorf("list: %q, %v", list, err)
	}
	if info, err := f.Info(t.Context(), origin1.Path, "latest"); err != nil || info.Version != "v1.1.0" || info.Time.IsZero() {
		t.Errorf("latest: %+v, %v", info, err)
	}
	info, err := f.Info(t.Context(), origin1.Path, "v1.0.0")
	if err != nil || info.Version != "v1.0.0" || info.Origin == nil || info.Origin.VCS != "git" || info.Origin.Ref != "refs/tags/v1.0.0" {
		t.Errorf("info: %+v, %v", info, err)
	}
	if info, err := f.Info(t.Context(), origin1.Path, "branch"); err != nil || info.Version != "v1.1.0" {
		t.Errorf("branch: %+v, %v", info, err)
	}
	if data, err := f.GoMod(t.Context(), origin1); err != nil || string(data) != "module corp.test/repo.git\n\ngo 1.21\n" {
		t.Errorf("go.mod: %q, %v", data, err)
	}
	z, err := f.Zip(t.Context(), origin1)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	fsys, err := z.FS()
	if err != nil {
		t.Fatal(err)
	}
	if data, err := fs.ReadFile(fsys, "corp.test/repo.git@v1.0.0/x.go"); err != nil || string(data) != "package x // v1.0.0\n" {
		t.Errorf("x.go in the zip: %q, %v", data, err)
	}
	unknown := module.Version{Path: origin1.Path, Version: "v1.9.0"}
	for what, do := range map[string]func() error{
		"info":   func() error { _, err := f.Info(t.Context(), unknown.Path, unknown.Version); return err },
		"go.mod": func() error { _, err := f.GoMod(t.Context(), unknown); return err },
		"zip":    func() error { _, err := f.Zip(t.Context(), unknown); return err },
		"branch": func() error { _, err := f.Info(t.Context(), unknown.Path, "v1.9.0-no-branch"); return err },
	} {
		if err := do(); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "v1.9.0") {
			t.Errorf("%s of an unknown version: %v, want an absence", what, err)
		}
	}
	if _, err := f.Versions(t.Context(), "corp.test/none.git"); err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "the go command said") {
		t.Errorf("repository that cannot be reached: %v, want the go command's words, and no absence", err)
	}
}

func TestDirectLeavesWhatTheGoCommandLeaves(t *testing.T) {
	s := newOrigin(t)
	f, ours := newFetcher(t, modfetch.WithGOPROXY("direct"), modfetch.WithSumDB("off"))
	download(t, f, origin1)
	env := append(s.Env(t), "GOPROXY=direct", "GOSUMDB=off", "GOFLAGS=")
	theirs := goEnvOf(env).GOMODCACHE
	t.Cleanup(func() { chmodAll(theirs) })
	runGo(t, needGo(t), env, "mod", "download", origin1.String())
	for _, dir := range []string{"corp.test", "cache/download/corp.test"} {
		if diff := diffTrees(t, filepath.Join(ours, dir), filepath.Join(theirs, dir)); diff != "" {
			t.Errorf("the module caches differ:\n%s", diff)
		}
	}
}

func TestDirectIsVerified(t *testing.T) {
	s := newOrigin(t)
	s.LieAbout(origin1.Path, origin1.Version, strangeSum)
	f, modCache := newFetcher(t, modfetch.WithGOPROXY("direct"), modfetch.WithSumDB(s.GOSUMDBDirect()))
	_, err := f.Dir(t.Context(), origin1)
	var sum *modfetch.ChecksumError
	if !errors.As(err, &sum) || sum.Mirror != "direct" || sum.Source != databaseOf(s) || modfetch.KindOf(err) != modfetch.Corrupt {
		t.Errorf("error %v, want a mismatch of direct with the database", err)
	}
	if left := published(t, modCache, origin1); len(left) > 0 {
		t.Errorf("published %q", left)
	}
}

func TestPrivatePathsGoDirect(t *testing.T) {
	s := newOrigin(t)
	for name, c := range map[string]struct {
		opts   []modfetch.Option
		lookup bool // at the database's own host
	}{
		"WithPrivate":         {opts: []modfetch.Option{modfetch.WithPrivate("corp.test")}},
		"GOPRIVATE":           {opts: []modfetch.Option{modfetch.WithGoEnv(modfetch.GoEnv{GOPRIVATE: "*.test"})}},
		"GONOPROXY":           {opts: []modfetch.Option{modfetch.WithGoEnv(modfetch.GoEnv{GONOPROXY: "corp.test/repo.git"})}, lookup: true},
		"GONOPROXY, GOPROXY=": {opts: []modfetch.Option{modfetch.WithGoEnv(modfetch.GoEnv{GONOPROXY: "corp.test"}), modfetch.WithGOPROXY("off")}, lookup: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := s.Mirror()
			home := &homeHost{server: s.Mirror()}
			opts := append(c.opts, modfetch.WithSumDB(s.GOSUMDB()), home.option())
			if len(c.opts) == 1 {
				opts = append(opts, modfetch.WithGOPROXY(s.URL+",direct"))
			}
			f, _ := newFetcher(t, opts...)
			got := download(t, f, origin1)[origin1.Path]
			if got.Mirror != "direct" || (got.VerifiedBy == databaseOf(s)) != c.lookup {
				t.Errorf("from %q, verified by %q, unverified because of %q", got.Mirror, got.VerifiedBy, got.Unverified)
			}
			if _, err := f.Info(t.Context(), origin1.Path, "latest"); err != nil {
				t.Error(err)
			}
			asked := slices.DeleteFunc(s.Requests(), func(name string) bool { // the database's tiles name no path
				return c.lookup && (strings.HasSuffix(name, "/supported") || strings.Contains(name, "/tile/"))
			})
			if len(asked) > 0 {
				t.Errorf("the mirror was asked for %q", asked)
			}
			if asked := home.lookups(); (len(asked) > 0) != c.lookup {
				t.Errorf("the database's own host was asked for %q, want a lookup: %t", asked, c.lookup)
			}
		})
	}
}

func TestDirectNeedsAGoCommand(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	s := newWorld(t)
	s.Fault("/example.com/*", modfetchtest.Status(404))
	f, _ := newFetcher(t, modfetch.WithGOPROXY(s.URL+",direct"), modfetch.WithSumDB(s.GOSUMDB()))
	_, err := f.GoMod(t.Context(), moduleM)
	if modfetch.KindOf(err) != modfetch.Forbidden || !strings.Contains(err.Error(), "install Go, or set GOPROXY") {
		t.Errorf("error %v, want one that says what to do", err)
	}
}

func TestDirectLeavesNothing(t *testing.T) {
	newOrigin(t)
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	f := newBareFetcher(t, modfetch.WithGOPROXY("direct"), modfetch.WithSumDB("off"), modfetch.WithModCache(tempDir(t)))
	if err := f.Close(); err != nil {
		t.Errorf("closing what has done nothing: %v", err)
	}
	if _, err := f.Dir(t.Context(), origin1); err != nil {
		t.Fatal(err)
	}
	if left := files(t, temp); len(left) == 0 {
		t.Error("the test looks for temporary files in the wrong place")
	}
	for range 2 {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestDirectIsIsolated lets the go command run under settings of its parent that would make it fail, or ask others.
func TestDirectIsIsolated(t *testing.T) {
	s := newOrigin(t)
	elsewhere := t.TempDir()
	work := filepath.Join(elsewhere, "go.work")
	if err := os.WriteFile(work, []byte("go 1.21\n\nuse ./nowhere\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"GOFLAGS": "-garbage -mod=vendor", "GOPROXY": s.URL, "GOWORK": work, "GO111MODULE": "off", "GOTOOLCHAIN": "go9.9.9",
		"GOSUMDB": "garbage", "GOPATH": filepath.Join(elsewhere, "gopath"), "GOMODCACHE": filepath.Join(elsewhere, "modcache"),
		"GONOPROXY": "corp.test", "PWD": elsewhere,
	} {
		t.Setenv(name, value)
	}
	f, _ := newFetcher(t, modfetch.WithGOPROXY("direct"), modfetch.WithSumDB("off"))
	download(t, f, origin1)
	if _, err := f.Versions(t.Context(), origin1.Path); err != nil {
		t.Error(err)
	}
	if len(s.Requests()) > 0 {
		t.Errorf("the parent's GOPROXY was asked for %q", s.Requests())
	}
	if left := files(t, elsewhere); len(left) != 1 {
		t.Errorf("written into the parent's directories: %q", left)
	}
}

// TestDirectChild looks at the go command from the side of the go command.
func TestDirectChild(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("needs a shell")
	}
	bin, seen := t.TempDir(), filepath.Join(t.TempDir(), "seen")
	script := "#!/bin/sh\n{ pwd; echo $(ls -A); echo \"$@\"; env; cat; } > " + seen + "\necho '{\"Version\": \"v1.2.3\"}'\n"
	if err := os.WriteFile(filepath.Join(bin, "go"), []byte(script), 0o777); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
	t.Setenv("GOFLAGS", "-garbage")
	f, _ := newFetcher(t, modfetch.WithGOPROXY("direct"), modfetch.WithSumDB("off"))
	if _, err := f.GoMod(t.Context(), origin1); err == nil {
		t.Fatal("no error, though the go command has left no file")
	}
	data, err := os.ReadFile(seen)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(data), "\n")
	if lines[1] != "" && lines[1] != "go.mod" || lines[2] != "list -m -json corp.test/repo.git@v1.0.0" {
		t.Errorf("ran %q in a directory of %q", lines[2], lines[1])
	}
	env := make(map[string]string)
	for _, kv := range lines[3:] {
		name, value, _ := strings.Cut(kv, "=")
		if _, twice := env[name]; twice && name != "" {
			t.Errorf("%s is set twice", name)
		}
		env[name] = value
	}
	for name, want := range map[string]string{
		"GOWORK": "off", "GOFLAGS": "-modcacherw", "GOTOOLCHAIN": "local", "GOPROXY": "direct", "GOSUMDB": "off", "GIT_TERMINAL_PROMPT": "0", "PWD": lines[0],
	} {
		if env[name] != want {
			t.Errorf("%s is %q, want %q", name, env[name], want)
		}
	}
	if own := filepath.Dir(lines[0]); !strings.HasPrefix(env["GOMODCACHE"], own) || !strings.HasPrefix(env["GOPATH"], own) {
		t.Errorf("GOMODCACHE is %q and GOPATH %q, want them in %s", env["GOMODCACHE"], env["GOPATH"], own)
	}
}

func TestDirectIsCancelled(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("needs a shell")
	}
	bin := t.TempDir()
	started := filepath.Join(bin, "started")
	if err := os.WriteFile(filepath.Join(bin, "go"), []byte("#!/bin/sh\n: > "+started+"\nexec sleep 600\n"), 0o777); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
	f, _ := newFetcher(t, modfetch.WithGOPROXY("direct"), modfetch.WithSumDB("off"))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { _, err := f.GoMod(ctx, origin1); done <- err }()
	for {
		if _, err := os.Stat(started); err == nil {
			break
		}
		runtime.Gosched()
	}
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want context.Canceled", err)
		}
	case <-time.After(time.Second):
		t.Fatal("no return within a second")
	}
}
