package graph_test

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/modfetch/modfetch/graph"
	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"
)

// A mirror is the directory of a file:// GOPROXY, and a Source that reads there. It counts what it is asked for.
type mirror struct {
	dir string

	mu    sync.Mutex
	asked map[module.Version]int
}

func newMirror(t *testing.T) *mirror { return &mirror{dir: t.TempDir()} }

// goproxy returns the URL. The name of a test is in it, and a comma there must not end it.
func (p *mirror) goproxy() string {
	return "file://" + strings.ReplaceAll(filepath.ToSlash(p.dir), ",", "%2C")
}

func (p *mirror) GoMod(ctx context.Context, m module.Version) ([]byte, error) {
	p.mu.Lock()
	if p.asked == nil {
		p.asked = make(map[module.Version]int)
	}
	p.asked[m]++
	p.mu.Unlock()
	return os.ReadFile(p.file(m, ".mod"))
}

// takeAsked returns what was asked for since the last call, and fails the test if anything was asked for twice.
func (p *mirror) takeAsked(t *testing.T) []module.Version {
	t.Helper()
	var list []module.Version
	for m, times := range p.asked {
		if times > 1 {
			t.Errorf("the go.mod of %v was requested %d times", m, times)
		}
		list = append(list, m)
	}
	p.asked = nil
	module.Sort(list)
	return list
}

func (p *mirror) file(m module.Version, suffix string) string {
	path, err := module.EscapePath(m.Path)
	if err != nil {
		panic(err)
	}
	version, err := module.EscapeVersion(m.Version)
	if err != nil {
		panic(err)
	}
	return filepath.Join(p.dir, filepath.FromSlash(path), "@v", version+suffix)
}

func (p *mirror) add(t *testing.T, m module.Version, goMod string) {
	t.Helper()
	list := filepath.Join(filepath.Dir(p.file(m, "")), "list")
	old, _ := os.ReadFile(list)
	writeFile(t, list, string(old)+m.Version+"\n")
	writeFile(t, p.file(m, ".info"), fmt.Sprintf(`{"Version":%q}`, m.Version))
	writeFile(t, p.file(m, ".mod"), goMod)
	f, err := os.Create(p.file(m, ".zip"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := zip.Create(f, m, []zip.File{onlyGoMod(goMod)}); err != nil {
		t.Fatalf("zip of %v: %v", m, err)
	}
}

// onlyGoMod is the zip.File of a module's only file.
type onlyGoMod string

func (g onlyGoMod) Path() string                { return "go.mod" }
func (g onlyGoMod) Lstat() (fs.FileInfo, error) { return goModInfo{size: int64(len(g))}, nil }
func (g onlyGoMod) Open() (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(string(g))), nil
}

type goModInfo struct {
	fs.FileInfo
	size int64
}

func (i goModInfo) Size() int64       { return i.size }
func (i goModInfo) Mode() fs.FileMode { return 0o444 }
func (i goModInfo) IsDir() bool       { return false }

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
}

// A goCommand runs the real go command in an environment of its own.
type goCommand struct {
	modCache string
	env      []string
}

func needGo(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("there is no go command to compare with")
	}
}

func newGoCommand(t *testing.T, goproxy, gowork string) *goCommand {
	t.Helper()
	needGo(t)
	dir := t.TempDir()
	g := &goCommand{modCache: filepath.Join(dir, "mod")}
	// There is no HOME, so that nothing is read from it and no telemetry is written to it in the background.
	g.env = []string{
		"PATH=" + os.Getenv("PATH"), "SystemRoot=" + os.Getenv("SystemRoot"),
		"GOPATH=" + filepath.Join(dir, "gopath"), "GOCACHE=" + filepath.Join(dir, "cache"), "GOMODCACHE=" + g.modCache,
		"GOENV=off", "GOTOOLCHAIN=local", "GOSUMDB=off", "GOFLAGS=-modcacherw",
		"GOPROXY=" + goproxy, "GOWORK=" + gowork,
	}
	return g
}

func (g *goCommand) run(dir string, args ...string) (stdout string, err error) {
	cmd := exec.Command("go", args...)
	cmd.Dir, cmd.Env = dir, g.env
	out, err := cmd.Output()
	if exit, ok := err.(*exec.ExitError); ok {
		err = fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, exit.Stderr)
	}
	return string(out), err
}

// cached returns the modules with a file of that suffix in the module cache.
func (g *goCommand) cached(t *testing.T, suffix string) []module.Version {
	t.Helper()
	var list []module.Version
	root := filepath.Join(g.modCache, "cache", "download")
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		dir, file := filepath.Split(name)
		if filepath.Base(dir) != "@v" || !strings.HasSuffix(file, suffix) {
			return nil
		}
		rel, err := filepath.Rel(root, filepath.Dir(filepath.Clean(dir)))
		if err != nil {
			return err
		}
		path, err := module.UnescapePath(filepath.ToSlash(rel))
		if err != nil {
			return err
		}
		version, err := module.UnescapeVersion(strings.TrimSuffix(file, suffix))
		if err != nil {
			return err
		}
		list = append(list, module.Version{Path: path, Version: version})
		return nil
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	module.Sort(list)
	return list
}

// load calls Load and returns what it asked the mirror for, too.
func load(t *testing.T, p *mirror, file string) (got *graph.Graph, asked []module.Version, err error) {
	t.Helper()
	got, err = graph.Load(t.Context(), p, file, 4)
	return got, p.takeAsked(t), err
}

// compareWithGo holds what Load returned for a file, and what it asked for, against what the go command does there.
func compareWithGo(t *testing.T, p *mirror, file string, got *graph.Graph, asked []module.Version, loadErr error) {
	t.Helper()
	dir, gowork := filepath.Dir(file), "off"
	if strings.HasSuffix(file, ".work") {
		gowork = file
	}
	g := newGoCommand(t, p.goproxy(), gowork)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, goErr := g.run(dir, "mod", "download")
	if goErr != nil && loadErr == nil {
		if strings.Contains(goErr.Error(), "not a known dependency") {
			// It dropped an excluded requirement from go.mod, and then missed it. The next run would pass.
			goErr = nil
		} else if strings.Contains(goErr.Error(), "conflicting replacements found for") {
			// One member replaces a module, a later one a version of it. Load lets the later one have it.
			return
		}
	}
	if (loadErr != nil) != (goErr != nil) {
		t.Fatalf("Load: %v\nthe go command: %v", loadErr, goErr)
	}
	if loadErr != nil {
		return
	}
	compare(t, ".mod", asked, g.cached(t, ".mod"))
	compare(t, ".zip", got.Modules, g.cached(t, ".zip"))

	args := []string{"list", "-m", "-f", "{{if not .Main}}{{.Path}}@{{.Version}}{{end}}", "all"}
	if gowork == "off" {
		// The download may have raised the go line of go.mod, and another graph hangs on that.
		writeFile(t, filepath.Join(dir, "before.mod"), string(text))
		args = slices.Insert(args, 1, "-mod=mod", "-modfile=before.mod")
	}
	out, err := g.run(dir, args...)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, "build list", got.BuildList, modules(strings.Fields(out)...))
}

// modules reads module@version words.
func modules(words ...string) []module.Version {
	var list []module.Version
	for _, word := range words {
		path, version, _ := strings.Cut(word, "@")
		list = append(list, module.Version{Path: path, Version: version})
	}
	module.Sort(list)
	return list
}

// compare reports how two sorted lists differ.
func compare(t *testing.T, what string, got, want []module.Version) {
	t.Helper()
	for _, m := range want {
		if !slices.Contains(got, m) {
			t.Errorf("%s: %v is missing, the go command has it", what, m)
		}
	}
	for _, m := range got {
		if !slices.Contains(want, m) {
			t.Errorf("%s: %v is too much, the go command does not have it", what, m)
		}
	}
	if !t.Failed() && !slices.Equal(got, want) {
		t.Errorf("%s: %v is not in the order of module.Sort", what, got)
	}
}
