package modfetch_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/graph"
	"golang.org/x/mod/module"
)

// The live tests use the mirrors of the Go environment:
//
//	MODFETCH_LIVE=1 go test -run Live .

// hugo is a project of some 160 modules, and 680 go.mod files in its graph.
const hugo = "github.com/gohugoio/hugo@v0.140.0"

// liveProject copies the go.mod file, and go.sum if wanted, of hugo into a new directory.
func liveProject(t *testing.T, withGoSum bool) (goCommand, dir string) {
	t.Helper()
	if os.Getenv("MODFETCH_LIVE") == "" {
		t.Skip("needs the network: set MODFETCH_LIVE=1")
	}
	goCommand = needGo(t)
	var out struct{ Dir string }
	if err := json.Unmarshal([]byte(runGo(t, goCommand, os.Environ(), "mod", "download", "-json", hugo)), &out); err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	for _, name := range []string{"go.mod", "go.sum"} {
		data, err := os.ReadFile(filepath.Join(out.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if name == "go.sum" && !withGoSum {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return goCommand, dir
}

// liveDownload downloads the project in dir into a GOPATH of its own, and returns that and who vouched, with counts.
func liveDownload(t *testing.T, dir string) (gopath string, by map[string]int) {
	t.Helper()
	gopath = tempDir(t)
	t.Setenv("GOPATH", gopath)
	t.Setenv("GOMODCACHE", filepath.Join(gopath, "pkg", "mod"))
	env, err := modfetch.SystemGoEnv()
	if err != nil {
		t.Fatal(err)
	}
	sums, err := modfetch.LoadGoSum(filepath.Join(dir, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := modfetch.New(modfetch.WithGoEnv(env), modfetch.WithGoSum(sums))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	g, err := graph.Load(t.Context(), f, filepath.Join(dir, "go.mod"), 0)
	if err != nil {
		t.Fatal(err)
	}
	by = make(map[string]int)
	for m, err := range f.Download(t.Context(), g.Modules) {
		if err != nil {
			t.Errorf("%s: %v", m.Version, err)
		}
		by[m.VerifiedBy]++
		by["go.mod "+m.GoModVerifiedBy]++
	}
	return gopath, by
}

func runGoIn(t *testing.T, goCommand, dir string, env []string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), goCommand, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func TestLiveProjectWithGoSum(t *testing.T) {
	goCommand, dir := liveProject(t, true)
	gopath, by := liveDownload(t, dir)
	if by["go.sum"] != 162 || by["go.mod go.sum"] != 162 {
		t.Errorf("verified by %v, want 162 by go.sum", by)
	}
	offline := []string{"GOPROXY=off", "GOFLAGS=-mod=readonly"}
	for _, args := range [][]string{{"mod", "graph"}, {"mod", "verify"}, {"mod", "download"}} {
		runGoIn(t, goCommand, dir, offline, args...)
	}
	theirs := tempDir(t)
	runGoIn(t, goCommand, dir, []string{"GOMODCACHE=" + theirs}, "mod", "download")
	if diff := diffTrees(t, filepath.Join(gopath, "pkg", "mod"), theirs); diff != "" {
		t.Errorf("the module caches differ:\n%s", diff)
	}
}

func TestLiveProjectWithoutGoSum(t *testing.T) {
	goCommand, dir := liveProject(t, false)
	_, by := liveDownload(t, dir)
	if by["sum.golang.org"] != 162 || by["go.mod sum.golang.org"] != 162 {
		t.Errorf("verified by %v, want 162 by sum.golang.org", by)
	}
	// Without go.sum the go command looks up everything again: in what is kept, because there is nobody to ask.
	runGoIn(t, goCommand, dir, []string{"GOPROXY=off", "GOFLAGS=-mod=mod"}, "mod", "download")
}

func TestLiveLatest(t *testing.T) {
	if os.Getenv("MODFETCH_LIVE") == "" {
		t.Skip("needs the network: set MODFETCH_LIVE=1")
	}
	env, err := modfetch.SystemGoEnv()
	if err != nil {
		t.Fatal(err)
	}
	f, err := modfetch.New(modfetch.WithGoEnv(env), modfetch.WithModCache(tempDir(t)))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"golang.org/x/mod", "github.com/BurntSushi/toml", "gopkg.in/yaml.v3", "github.com/docker/docker", "rsc.io/quote/v3"} {
		info, err := f.Info(t.Context(), path, "latest")
		if err != nil || module.CanonicalVersion(info.Version) != info.Version {
			t.Errorf("%s: %+v, %v", path, info, err)
		}
		t.Log(path, info.Version)
	}
}
