package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/modfetch/modfetch/modfetchtest"
	"golang.org/x/mod/module"
)

// commandVar is set in processes that are to be the command itself.
const commandVar = "MODFETCH_TEST_COMMAND"

// TestCommandInChild is not a test but the command, run in a process of its own.
func TestCommandInChild(t *testing.T) {
	args := os.Getenv(commandVar)
	if args == "" {
		t.Skip("for the other tests")
	}
	os.Args = strings.Fields("modfetch " + args)
	main()
}

// roundsVar says how many rounds TestTogether is to have.
const roundsVar = "MODFETCH_TOGETHER"

// TestTogether runs four modfetch download and two go mod download at once, in one project over one cold module cache, and
// compares what they leave with what a go mod download alone leaves. Half of the rounds have no go.sum: all six ask the
// checksum database. Four rounds are enough for every day; MODFETCH_TOGETHER=20 makes it twenty.
func TestTogether(t *testing.T) {
	goCommand, err := exec.LookPath("go")
	if err != nil {
		t.Skip("there is no go command to work with")
	}
	rounds := 4
	if text := os.Getenv(roundsVar); text != "" {
		if rounds, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	s := modfetchtest.NewServer(t, nil)
	goMod, goSum := largeProject(s)
	s.AddRecords(300) // of others: the tree has more than one level of tiles
	env := append(s.Env(t), "GOFLAGS=", "GORACE=atexit_sleep_ms=0")
	world := func(withSum bool) (dir string) { // a project, and a GOPATH to be
		dir = memoryDir(t)
		files := map[string]string{"go.mod": goMod}
		if withSum {
			files["go.sum"] = goSum
		}
		for name, text := range files {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	command := func(dir string, mirror *modfetchtest.Server, name string, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir = dir
		cmd.Env = append(slices.Clone(env), "PWD="+dir, "GOPROXY="+mirror.URL,
			"GOPATH="+filepath.Join(dir, "gopath"), "GOMODCACHE="+filepath.Join(dir, "gopath", "pkg", "mod"))
		return cmd
	}

	want := make(map[bool]map[string]string)
	for _, withSum := range []bool{true, false} {
		dir := world(withSum)
		if out, err := command(dir, s, goCommand, "mod", "download").CombinedOutput(); err != nil {
			t.Fatalf("the go command alone: %v\n%s", err, out)
		}
		want[withSum] = snapshot(t, dir)
	}
	zips := s.Count("*.zip") / 2
	if zips != 30 || len(want[true]) < 1000 || len(want[false]) <= len(want[true]) {
		t.Fatalf("the go command alone left %d and %d files of %d modules", len(want[true]), len(want[false]), zips)
	}

	var ours, theirs int // zips downloaded
	for round := range rounds {
		// With two jobs each, as the go command has on two processors, everybody gets some of the modules.
		withSum, jobs := round%2 == 0, []string{"2", "64"}[round/2%2]
		t.Run(fmt.Sprintf("%d with go.sum %t, %s jobs", round, withSum, jobs), func(t *testing.T) {
			dir := world(withSum)
			reading, downloading := newBarrier(6), newBarrier(6)
			var cmds []*exec.Cmd
			var mirrors []*modfetchtest.Server
			outs := make([]bytes.Buffer, 6)
			errs := make(chan error)
			for i := range outs {
				m := s.Mirror()
				defer m.Close()
				reads := sync.OnceFunc(reading.arrive)
				downloads := sync.OnceFunc(func() { reads(); downloading.arrive() }) // modfetch may do that first
				m.Fault("*.mod", reading.hold(reads))
				m.Fault("*.info", downloading.hold(downloads)) // of which no lock keeps anybody
				m.Fault("*.zip", downloading.hold(downloads))
				cmd := command(dir, m, goCommand, "mod", "download")
				if i%3 != 1 {
					cmd = command(dir, m, os.Args[0], "-test.run=^TestCommandInChild$")
					cmd.Env = append(cmd.Env, commandVar+"=download -jobs "+jobs)
				}
				cmd.Stdout, cmd.Stderr = &outs[i], &outs[i]
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				go func() {
					err := cmd.Wait()
					downloads() // if it has failed before, the others are not to wait
					errs <- err
				}()
				cmds, mirrors = append(cmds, cmd), append(mirrors, m)
			}
			for range cmds {
				if err := <-errs; err != nil {
					t.Error(err)
				}
			}
			asked := 0
			for i, m := range mirrors {
				n := m.Count("*.zip")
				if asked += n; i%3 == 1 {
					theirs += n
					continue
				}
				ours += n
				if !strings.Contains(outs[i].String(), fmt.Sprintf("%d modules: ", zips)) {
					t.Errorf("%s does not say how it ended", cmds[i])
				}
			}
			if asked != zips {
				t.Errorf("%d zips were asked for, want each of %d once", asked, zips)
			}
			got := snapshot(t, dir)
			for _, name := range slices.Sorted(maps.Keys(want[withSum])) {
				if w, g := want[withSum][name], got[name]; g != w {
					t.Errorf("%s: %.200q; the go command alone leaves %.200q", name, g, w)
				}
				delete(got, name)
			}
			for _, name := range slices.Sorted(maps.Keys(got)) {
				t.Errorf("%s: %.200q; the go command alone leaves nothing", name, got[name])
			}
			if t.Failed() {
				for i := range outs {
					t.Logf("%s\n%s", cmds[i], &outs[i])
				}
			}
		})
	}
	t.Logf("%d rounds: modfetch downloaded %d zips, the go command %d", rounds, ours, theirs)
	if ours == 0 || theirs == 0 {
		t.Errorf("modfetch downloaded %d zips and the go command %d: they have not worked together", ours, theirs)
	}
}

// A barrier holds answers back until as many processes as it was made for have asked for something.
type barrier struct {
	missing atomic.Int32
	open    chan struct{}
}

func newBarrier(n int32) *barrier {
	b := &barrier{open: make(chan struct{})}
	b.missing.Store(n)
	return b
}

func (b *barrier) arrive() {
	if b.missing.Add(-1) == 0 {
		close(b.open)
	}
}

func (b *barrier) hold(asked func()) modfetchtest.Fault {
	return modfetchtest.Middleware(func(honest http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked()
			select {
			case <-b.open:
			case <-r.Context().Done():
			}
			honest.ServeHTTP(w, r)
		})
	})
}

// largeProject adds modules of many kinds to a server, and returns a project's go.mod file that needs all of them, and its
// go.sum.
func largeProject(s *modfetchtest.Server) (goMod, goSum string) {
	var main, sum strings.Builder
	main.WriteString("module example.com/main\n\ngo 1.22\n\nrequire (\n")
	add := func(needed bool, m modfetchtest.Module, path, version string) {
		s.Add(m)
		if needed {
			fmt.Fprintf(&main, "\t%s %s\n", path, version)
		}
		sum.WriteString(s.GoSum(path, version))
	}
	odd := []module.Version{
		{Path: "example.com/Upper/Case", Version: "v1.0.0-RC1"}, {Path: "example.com/lib/v2", Version: "v2.3.0"},
		{Path: "example.com/old", Version: "v3.0.0+incompatible"}, {Path: "gopkg.in/dots.v3", Version: "v3.0.1"},
		{Path: "example.com/pseudo", Version: "v0.0.0-20240102030405-0123456789ab"}, {Path: "github.com/BurntSushi/Toml", Version: "v1.4.0"},
	}
	for _, m := range odd {
		add(true, modfetchtest.NewModule(m.Path, m.Version).File("a.go", "package a\n"), m.Path, m.Version)
	}
	many := modfetchtest.NewModule("example.com/many", "v1.2.3")
	for i := range 600 {
		many = many.File(fmt.Sprintf("dir%d/Sub%d/file%d.go", i%7, i%31, i), fmt.Sprintf("package file%d\n", i))
	}
	add(true, many, "example.com/many", "v1.2.3")
	add(true, modfetchtest.NewModule("example.com/big", "v1.0.0").File("big.txt", strings.Repeat("some text that compresses\n", 100_000)), "example.com/big", "v1.0.0")
	// Each of these needs an older version of the next one, of which only the go.mod file is read.
	const chain = 22
	for i := range chain {
		path := fmt.Sprintf("example.com/chain/m%d", i)
		for _, version := range []string{"v1.0.0", "v1.1.0"} {
			text := "module " + path + "\n\ngo 1.16\n"
			if i+1 < chain {
				text += fmt.Sprintf("\nrequire example.com/chain/m%d v1.0.0\n", i+1)
			}
			m := modfetchtest.NewModule(path, version).File("go.mod", text)
			for j := range 10 {
				m = m.File(fmt.Sprintf("p%d/p.go", j), fmt.Sprintf("package p // %s %s %d\n", path, version, j))
			}
			add(version == "v1.1.0", m, path, version)
		}
	}
	return main.String() + ")\n", sum.String()
}

// memoryDir is t.TempDir, in memory where that is possible, for trees with read-only directories.
func memoryDir(t *testing.T) string {
	t.Helper()
	parent := "/dev/shm"
	if info, err := os.Stat(parent); err != nil || !info.IsDir() {
		parent = ""
	}
	dir, err := os.MkdirTemp(parent, "modfetch-together-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				os.Chmod(name, 0o777)
			}
			return nil
		})
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// snapshot returns what is below dir: permissions and content, by name.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, file)
		all[name] = info.Mode().String()
		if err == nil && info.Mode().IsRegular() {
			data, readErr := os.ReadFile(file)
			all[name] += " " + string(data)
			err = readErr
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
