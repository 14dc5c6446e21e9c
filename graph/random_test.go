package graph_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/module"
)

// TestRandomWorlds holds Load against the real go command, in worlds made from a seed. MODFETCH_SEED repeats a run.
func TestRandomWorlds(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("MODFETCH_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("MODFETCH_SEED: %v", err)
		}
	}
	t.Logf("MODFETCH_SEED=%d", seed)
	needGo(t)
	worlds, projects := 6, 9
	if testing.Short() {
		worlds = 2
	}
	for i := range worlds {
		w := &world{Rand: rand.New(rand.NewPCG(seed, uint64(i))), mirror: newMirror(t)}
		w.paths, w.requires, w.old = 6+w.IntN(16), 1+w.IntN(4), []int{10, 30, 60}[i%3]
		w.fill(t)
		for j := range projects {
			t.Run(fmt.Sprintf("%d/%d", i, j), func(t *testing.T) {
				dir := t.TempDir()
				file := w.project(t, dir)
				got, asked, err := load(t, w.mirror, file)
				compareWithGo(t, w.mirror, file, got, asked, err)
				if t.Failed() {
					t.Logf("MODFETCH_SEED=%d", seed)
					showFiles(t, dir)
				}
			})
		}
	}
}

// A world is a set of modules that require each other at random. Worlds differ in size, in density, and in how many of
// their modules prune: where everything requires everything, no mistake shows.
type world struct {
	*rand.Rand
	mirror   *mirror
	modules  []module.Version
	paths    int
	requires int // at most, by one dependency
	old      int // percent of the modules that do not prune
}

func (w *world) chance(percent int) bool     { return w.IntN(100) < percent }
func (w *world) module() module.Version      { return w.modules[w.IntN(len(w.modules))] }
func (w *world) oneOf(list ...string) string { return list[w.IntN(len(list))] }

func (w *world) fill(t *testing.T) {
	// The main modules of the projects have versions too, so that others can require them.
	for _, path := range []string{"example.com/main", "example.com/second", "example.com/third"} {
		w.modules = append(w.modules, module.Version{Path: path, Version: "v1.0.0"}, module.Version{Path: path, Version: "v1.1.0"})
	}
	for i := range w.paths {
		path := fmt.Sprintf("example.com/%c", 'a'+i)
		versions := []string{"v1.0.0", "v1.1.0", "v1.2.0-rc.1", "v1.2.0"}
		switch i {
		case 0:
			path = "example.com/Upper/Case"
		case 1:
			path += "/v2"
			versions = []string{"v2.0.0", "v2.0.1", "v2.1.0"}
		case 2:
			versions = []string{"v0.0.0-20200102030405-abcdefabcdef", "v1.5.0", "v2.3.0+incompatible"}
		case 3:
			path = "gopkg.in/d.v3"
			versions = []string{"v3.0.0", "v3.0.1", "v3.1.0"}
		}
		for _, v := range versions[:1+w.IntN(len(versions))] {
			w.modules = append(w.modules, module.Version{Path: path, Version: v})
		}
	}
	for _, m := range w.modules {
		w.mirror.add(t, m, w.dependency(m.Path))
	}
}

// goLine favours the versions around which the go command changes its mind.
func (w *world) goLine() string {
	if w.chance(w.old) {
		return w.oneOf("", "go 1.15\n", "go 1.16\n", "go 1.16\n")
	}
	return w.oneOf("go 1.17\n", "go 1.17\n", "go 1.20\n", "go 1.21\n", "go 1.21.0\n", "go 1.23.4\n")
}

func (w *world) require(b *strings.Builder, max int) {
	for range w.IntN(max + 1) {
		m := w.module()
		fmt.Fprintf(b, "require %s %s%s\n", m.Path, m.Version, w.oneOf("", " // indirect"))
	}
}

func (w *world) dependency(path string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "module %s\n%s", path, w.goLine())
	w.require(&b, w.requires)
	if w.chance(20) {
		// Only the main module may say such things.
		fmt.Fprintf(&b, "replace %v => %s v9.9.9\nexclude %[1]v %[3]s\n", w.module().Path, "example.com/absent", "v1.0.0")
	}
	if w.chance(20) {
		b.WriteString("toolchain go1.99.0\nsomething from the future\nfuture (\n\tblock\n)\n")
	}
	return b.String()
}

// project writes a project and returns its go.mod or go.work.
func (w *world) project(t *testing.T, dir string) string {
	if w.chance(50) {
		file := filepath.Join(dir, "go.mod")
		writeFile(t, file, w.mainModule(t, "example.com/main", dir))
		return file
	}
	var b strings.Builder
	b.WriteString("go 1.25\n")
	for i, path := range []string{"example.com/main", "example.com/second", "example.com/third"}[:1+w.IntN(3)] {
		member := w.oneOf("./", "./sub/") + strconv.Itoa(i)
		fmt.Fprintf(&b, "use %s\n", member)
		at := filepath.Join(dir, filepath.FromSlash(member))
		writeFile(t, filepath.Join(at, "go.mod"), w.mainModule(t, path, at))
	}
	if w.chance(40) {
		w.replace(t, &b, dir)
	}
	file := filepath.Join(dir, "go.work")
	writeFile(t, file, b.String())
	return file
}

func (w *world) mainModule(t *testing.T, path, dir string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "module %s\n%s", path, w.goLine())
	w.require(&b, 6)
	for range w.IntN(3) {
		m := w.module()
		fmt.Fprintf(&b, "exclude %s %s\n", m.Path, m.Version)
	}
	if w.chance(50) {
		w.replace(t, &b, dir)
	}
	if w.chance(20) {
		b.WriteString("tool example.com/c/cmd/x\nignore ./node_modules\nretract v1.0.0\n")
	}
	return b.String()
}

// replace writes a replacement for a file in dir. It may contradict another one.
func (w *world) replace(t *testing.T, b *strings.Builder, dir string) {
	old, to := w.module(), w.module()
	fmt.Fprintf(b, "replace %s ", old.Path)
	if w.chance(50) {
		fmt.Fprintf(b, "%s ", old.Version)
	}
	if w.chance(60) {
		fmt.Fprintf(b, "=> %s %s\n", to.Path, to.Version)
		return
	}
	fmt.Fprintf(b, "=> ./local\n")
	var local strings.Builder
	fmt.Fprintf(&local, "%s%s", w.oneOf("module example.com/c\n", "module other.example/name\n", ""), w.goLine())
	w.require(&local, 4)
	writeFile(t, filepath.Join(dir, "local", "go.mod"), local.String())
}

func showFiles(t *testing.T, dir string) {
	filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			text, _ := os.ReadFile(name)
			t.Logf("%s:\n%s", name, text)
		}
		return err
	})
}
