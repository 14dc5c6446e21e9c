package graph_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/modfetch/modfetch/graph"
)

// TestHugo compares with the go command for a large real project, which it downloads: some 190 MB, 1.3 GB on disk. The
// numbers of files are those of this version and do not change.
func TestHugo(t *testing.T) {
	if os.Getenv("MODFETCH_LIVE") != "1" {
		t.Skip("set MODFETCH_LIVE=1 to download a real project")
	}
	dir := t.TempDir()
	if shm, err := os.MkdirTemp("/dev/shm", "modfetch-graph-"); err == nil {
		t.Cleanup(func() { os.RemoveAll(shm) })
		dir = shm
	}
	// This test alone uses the machine's own GOPROXY and GOSUMDB.
	machine := func(modCache string) *goCommand {
		g := newGoCommand(t, "", "off")
		g.modCache = filepath.Join(dir, modCache)
		g.env = append(os.Environ(), "GOWORK=off", "GOTOOLCHAIN=local", "GOFLAGS=-modcacherw", "GOMODCACHE="+g.modCache)
		return g
	}

	out, err := machine("hugo").run(dir, "mod", "download", "-json", "github.com/gohugoio/hugo@v0.140.0")
	if err != nil {
		t.Fatal(err)
	}
	var hugo struct{ Dir string }
	if err := json.Unmarshal([]byte(out), &hugo); err != nil {
		t.Fatal(err)
	}
	project := filepath.Join(dir, "project")
	for _, name := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join(hugo.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(project, name), string(text))
	}
	file := filepath.Join(project, "go.mod")

	g := machine("mod")
	if _, err := g.run(project, "mod", "download"); err != nil {
		t.Fatal(err)
	}
	mods, zips := g.cached(t, ".mod"), g.cached(t, ".zip")

	src := &mirror{dir: filepath.Join(g.modCache, "cache", "download")}
	start := time.Now()
	got, err := graph.Load(t.Context(), src, file, 0)
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(start)
	asked := src.takeAsked(t)
	t.Logf("the go command: %d .mod, %d .zip; Load: %d .mod, %d modules of a build list of %d, in %v",
		len(mods), len(zips), len(asked), len(got.Modules), len(got.BuildList), took.Round(time.Millisecond))
	compare(t, ".mod", asked, mods)
	compare(t, ".zip", got.Modules, zips)
	if len(mods) != 682 || len(zips) != 162 {
		t.Errorf("the go command fetched %d .mod and %d .zip, want 682 and 162", len(mods), len(zips))
	}
}
