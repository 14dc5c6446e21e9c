package main

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/modfetch/modfetch/modfetchtest"
	"golang.org/x/mod/module"
)

// TestMain lets the test binary be the programs that bench runs of itself, and one that never ends.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "exec", "floor", "fetch":
			if err := run(context.Background(), os.Args[1:], os.Stdout, os.Stderr); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		case "idle":
			for {
				time.Sleep(time.Hour)
			}
		case "fail":
			fmt.Fprintln(os.Stderr, "alas")
			os.Exit(3)
		}
	}
	os.Setenv("GORACE", "atexit_sleep_ms=0") // or each process of TestAllCases would wait for a second
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		os.Setenv("GOFLAGS", strings.TrimSpace(os.Getenv("GOFLAGS")+" -race")) // else all that the command imports is built once more
	}
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		os.Setenv(name, "http://127.0.0.1:9")
	}
	os.Unsetenv("NO_PROXY")
	os.Unsetenv("no_proxy")
	os.Exit(m.Run())
}

// tinyModules are the smallest real set: upper case in a path, and versions that are not simple.
var tinyModules = []module.Version{
	{Path: "tiny.test/a", Version: "v1.0.0"},
	{Path: "tiny.test/B/v2", Version: "v2.1.0-rc.1"},
	{Path: "tiny.test/c", Version: "v3.0.0+incompatible"},
}

// newTiny makes the set of tinyModules in place of the real one.
func newTiny(t *testing.T) (data string, s *set) {
	t.Helper()
	data = t.TempDir()
	s = &set{dir: filepath.Join(data, realSet)}
	for _, dir := range []string{s.project(), s.tree()} {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	err := s.add(tinyModules, func(i int, w *zip.Writer, prefix string) error {
		to, err := w.Create(prefix + "sub/dir/notes.txt")
		if err != nil {
			return err
		}
		if _, err := io.WriteString(to, strings.Repeat(fmt.Sprintln("note", i), 2000)); err != nil {
			return err
		}
		return noise(w, prefix, 2+i, 10_000)
	})
	if err != nil {
		t.Fatal(err)
	}
	if s, err = loadSet(s.dir); err != nil {
		t.Fatal(err)
	}
	return data, s
}

// newBench returns one that has built modfetch, unless a test gives another command.
func newBench(t *testing.T, data, modfetch string) *bench {
	t.Helper()
	b := &bench{data: data, modfetch: modfetch, rounds: 1, limit: time.Minute, progress: t.Output()}
	t.Cleanup(func() { removeAll(b.temp) })
	if err := b.setUp(t.Context(), t.TempDir()); err != nil {
		t.Fatal(err)
	}
	return b
}

// near takes from a case what costs time: far, slow and silent mirrors.
func near(s scenario) scenario {
	for i := range s.subjects {
		s.subjects[i].mirrors = slices.Clone(s.subjects[i].mirrors)
		for j := range s.subjects[i].mirrors {
			c := &s.subjects[i].mirrors[j]
			c.latency, c.rate, c.hang, c.dies = 0, 0, false, min(c.dies, 2)
		}
	}
	return s
}

// TestAllCases measures every case in a world of three modules.
func TestAllCases(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("there is no go command to measure")
	}
	data, _ := newTiny(t)
	b := newBench(t, data, "")
	var results []result
	for _, s := range cases() {
		switch {
		case s.set == "huge": // takes some time to make
			s.set = ""
		case s.set != "":
			s.set = "copies-4"
		}
		r, err := b.measure(t.Context(), near(s))
		if err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		results = append(results, r)
		for _, subject := range r.Subjects {
			m := subject.Median
			if m.Failed != "" {
				t.Errorf("%s: %s: %s", s.name, subject.Name, m.Failed)
			}
			if m.Wall <= 0 || m.CPU <= 0 || m.RSS < 1<<20 && runtime.GOOS != "windows" {
				t.Errorf("%s: %s: nothing measured: %+v", s.name, subject.Name, m)
			}
			if asks := s.name != "warm" && subject.Name != floorName; asks != (m.Requests > 0) || asks != (m.Sent > 0) {
				t.Errorf("%s: %s: %v requests, %v bytes", s.name, subject.Name, m.Requests, m.Sent)
			}
		}
		if len(r.Goals) != len(s.goals) {
			t.Errorf("%s: %d goals, want %d", s.name, len(r.Goals), len(s.goals))
		}
		for _, g := range r.Goals {
			if g.Value <= 0 {
				t.Errorf("%s: %s", s.name, g)
			}
		}
	}
	if homes, err := filepath.Glob(filepath.Join(b.temp, "home-*")); err != nil || len(homes) > 0 {
		t.Errorf("left behind: %q, %v", homes, err)
	}
	find := func(name, subject string) sample {
		i := slices.IndexFunc(results, func(r result) bool { return r.Case == name })
		return results[i].subject(subject).Median
	}
	// .info, .mod and .zip of each; the database adds a head, lookups and tiles.
	if n := find("cold/0ms", modfetchName).Requests; n != 9 {
		t.Errorf("%v requests for three modules, want 9", n)
	}
	if n := find("nosum/100ms", modfetchName).Requests; n < 9+1+3+3 {
		t.Errorf("%v requests for three modules and their lookups", n)
	}
	corrupt, single := find("mirrors/corrupt", "chain"), find("mirrors/corrupt", "one good mirror")
	if n := corrupt.Failures["mirror 1: corrupt"]; n < 1 {
		t.Errorf("failures %v, want those of zips at the first mirror", corrupt.Failures)
	}
	if single.Read < 90_000 || corrupt.Read <= single.Read || len(single.Failures) > 0 {
		t.Errorf("read %v bytes in vain and otherwise, and %v, %v, of a good mirror", corrupt.Read, single.Read, single.Failures)
	}
}

func TestRunWritesFiles(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("there is no go command to measure")
	}
	data, _ := newTiny(t)
	temp, out := t.TempDir(), t.TempDir()
	jsonFile, svgFile := filepath.Join(out, "results.json"), filepath.Join(out, "chart.svg")
	args := []string{"-case", "^graph/0ms$", "-n", "2", "-seed", "7", "-modfetch", "none", "-data", data, "-temp", temp, "-json", jsonFile, "-svg", svgFile}
	var table bytes.Buffer
	if err := run(t.Context(), args, &table, t.Output()); err != nil {
		t.Fatal(err)
	}
	if text := table.String(); !strings.Contains(text, "medians of 2, seed 7\n\ngraph/0ms: go.mod files only\n") {
		t.Errorf("printed %s", text)
	}
	text, err := os.ReadFile(jsonFile)
	if err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(text, &r); err != nil || r.Seed != 7 || len(r.Results) != 1 || len(r.Results[0].Subjects) != 2 ||
		len(r.Results[0].Subjects[1].Runs) != 2 || r.Results[0].Subjects[1].Median.Requests != 3 {
		t.Errorf("%v in %s", err, text)
	}
	if svg, err := os.ReadFile(svgFile); err != nil || !bytes.HasPrefix(svg, []byte("<svg ")) {
		t.Errorf("%s, %v", svg, err)
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestAFailureIsReported(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("there is no go command to measure")
	}
	data, s := newTiny(t)
	if err := os.Remove(filepath.Join(s.tree(), zipFile(tinyModules[0]))); err != nil {
		t.Fatal(err)
	}
	args := []string{"-case", "^mirrors/bytes$", "-n", "1", "-modfetch", "none", "-data", data, "-temp", t.TempDir()}
	var table bytes.Buffer
	if err := run(t.Context(), args, &table, t.Output()); err == nil || !strings.Contains(err.Error(), "mirrors/bytes") {
		t.Errorf("error %v", err)
	}
	if text := table.String(); !strings.Contains(text, "FAILED: chain: exit status 1: tiny.test/a@v1.0.0") {
		t.Errorf("printed %s", text)
	}
}

func TestEnvIsNobodysOwn(t *testing.T) {
	for _, key := range []string{"GOPROXY", "GOPRIVATE", "GONOSUMDB", "GOFLAGS", "GOENV", "GOMODCACHE", "GOAUTH", "HOME", "NETRC",
		"HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"} {
		t.Setenv(key, "the user's")
	}
	_, s := newTiny(t)
	env := (&bench{}).env("/home", s, "http://127.0.0.1:1")
	for _, kv := range env {
		if strings.Contains(kv, "the user's") {
			t.Error(kv)
		}
	}
	for _, want := range []string{"GOPROXY=http://127.0.0.1:1", "GOENV=off", "HTTPS_PROXY=http://127.0.0.1:9", "HTTP_PROXY=http://127.0.0.1:9"} {
		if !slices.Contains(env, want) {
			t.Errorf("no %s in %q", want, env)
		}
	}
}

func TestSamplesOfFailures(t *testing.T) {
	_, s := newTiny(t)
	b := newBench(t, "", "none")
	for _, test := range []struct {
		name, want string
		args       []string
		leaves     leaves
		limit      time.Duration
	}{
		{"exit", "exit status 3: alas", []string{"bench", "fail"}, nothing, time.Minute},
		{"nothing done", "no such file", []string{"bench", "floor", "-hash"}, zips, time.Minute},
		{"limit", "not done within 2s", []string{"bench", "idle"}, nothing, 2 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			b.limit = test.limit
			home, err := b.newHome(scenario{}, s)
			if err != nil {
				t.Fatal(err)
			}
			got, err := b.run(t.Context(), scenario{}, subject{args: test.args, leaves: test.leaves}, s, home)
			if err != nil || !strings.Contains(got.Failed, test.want) {
				t.Errorf("failed with %q, %v, want %q", got.Failed, err, test.want)
			}
			if got.Wall == 0 { // as told by the process in between, once it has waited for the other
				t.Error("the process has not been ended")
			}
		})
	}
}

func TestInterruptEndsTheProcess(t *testing.T) {
	_, s := newTiny(t)
	b := newBench(t, "", "none")
	home, err := b.newHome(scenario{}, s)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("enough")
	cancel(reason)
	if _, err := b.run(ctx, scenario{}, subject{args: []string{"bench", "idle"}}, s, home); !errors.Is(err, reason) {
		t.Errorf("%v, want %v", err, reason)
	}
}

func TestLargest(t *testing.T) {
	_, s := newTiny(t)
	b := newBench(t, "", "none")
	sc := scenario{largest: true}
	home, err := b.newHome(sc, s)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(home, "project", "go.mod")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the project is there: %v", err) // whose go.mod files the go command would read
	}
	if got, err := b.run(t.Context(), sc, library("", "chain", conditions{}), s, home); err != nil || got.Failed != "" {
		t.Fatal(got.Failed, err)
	}
	var left []module.Version
	for _, m := range tinyModules {
		if _, err := os.Stat(filepath.Join(modCache(home), "cache", "download", zipFile(m))); err == nil {
			left = append(left, m)
		}
	}
	if !slices.Equal(left, tinyModules[2:]) {
		t.Errorf("downloaded %v, want %v", left, tinyModules[2:])
	}
}

// TestCheck damages what a subject has left.
func TestCheck(t *testing.T) {
	_, s := newTiny(t)
	modCache := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for m := range s.zips {
		data, err := os.ReadFile(filepath.Join(s.tree(), zipFile(m)))
		must(err)
		file := filepath.Join(modCache, "cache", "download", zipFile(m))
		must(os.MkdirAll(filepath.Dir(file), 0o777))
		must(os.WriteFile(file, data, 0o666))
	}
	for dir, noises := range map[string]int{"tiny.test/a@v1.0.0": 2, "tiny.test/!b/v2@v2.1.0-rc.1": 3, "tiny.test/c@v3.0.0+incompatible": 4} {
		sub := filepath.Join(modCache, dir, "sub", "dir")
		must(os.MkdirAll(sub, 0o777))
		must(os.WriteFile(filepath.Join(sub, "notes.txt"), make([]byte, 2000*len("note 0\n")), 0o666))
		for i := range noises {
			must(os.WriteFile(filepath.Join(modCache, dir, fmt.Sprint("noise", i)), make([]byte, 10_000), 0o666))
		}
		goMod, err := os.ReadFile(filepath.Join(s.tree(), strings.Replace(dir, "@", "/@v/", 1)+".mod"))
		must(err)
		must(os.WriteFile(filepath.Join(modCache, dir, "go.mod"), goMod, 0o666))
	}
	must(check(s, s.zips, modCache, zipsAndTrees))

	noise := filepath.Join(modCache, "tiny.test/a@v1.0.0/noise1")
	must(os.Truncate(noise, 9999))
	if err := check(s, s.zips, modCache, zipsAndTrees); err == nil || !strings.Contains(err.Error(), "9999 bytes") {
		t.Errorf("a short file: %v", err)
	}
	must(check(s, s.zips, modCache, zips))
	must(os.Remove(noise))
	if err := check(s, s.zips, modCache, trees); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	file := filepath.Join(modCache, "cache", "download", zipFile(tinyModules[1]))
	data, err := os.ReadFile(file)
	must(err)
	data[len(data)/2] ^= 1
	must(os.WriteFile(file, data, 0o666))
	if err := check(s, s.zips, modCache, zips); err == nil || !strings.Contains(err.Error(), "tiny.test/B/v2@v2.1.0-rc.1") {
		t.Errorf("a wrong zip: %v", err)
	}
	must(os.Remove(file))
	if err := check(s, s.zips, modCache, zips); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no zip: %v", err)
	}
}

// TestPeakRSSIsTheProcessesOwn holds on to memory while it measures a process that needs none.
func TestPeakRSSIsTheProcessesOwn(t *testing.T) {
	const size = 256 << 20
	ballast := bytes.Repeat([]byte{1}, size)
	cmd := exec.Command(os.Args[0], "exec", os.Args[0], "-test.run=^$")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	out, err := cmd.Output()
	runtime.KeepAlive(ballast)
	var s sample
	if err = errors.Join(err, json.Unmarshal(out, &s)); err != nil || s.Failed != "" {
		t.Fatal(err, s.Failed)
	}
	if s.RSS >= size/2 {
		t.Errorf("%s for a program that does nothing", mebibytes(s.RSS))
	}
}

// TestDownloadedSet makes the set of a real project, from the mirrors of a Go environment that is a test's.
func TestDownloadedSet(t *testing.T) {
	server := modfetchtest.NewServer(t, nil)
	server.Add(modfetchtest.NewModule("example.com/dep", "v1.0.0").File("go.mod", "module example.com/dep\n\ngo 1.24\n\nrequire example.com/pruned v0.1.0\n"))
	server.Add(modfetchtest.NewModule("example.com/pruned", "v0.1.0"))
	goSum := server.GoSum("example.com/dep", "v1.0.0") + server.GoSum("example.com/pruned", "v0.1.0")
	server.Add(modfetchtest.NewModule("example.com/project", "v1.0.0").
		File("go.mod", "module example.com/project\n\ngo 1.24\n\nrequire example.com/dep v1.0.0\n").File("go.sum", goSum))
	for _, kv := range server.Env(t) {
		if key, value, _ := strings.Cut(kv, "="); strings.HasPrefix(key, "GO") {
			t.Setenv(key, value)
		}
	}
	s := &set{dir: t.TempDir()}
	for _, dir := range []string{s.project(), s.tree()} {
		if err := os.Mkdir(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.download(t.Context(), module.Version{Path: "example.com/project", Version: "v1.0.0"}); err != nil {
		t.Fatal(err)
	}
	s, err := loadSet(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	if dep := (module.Version{Path: "example.com/dep", Version: "v1.0.0"}); len(s.zips) != 1 || s.zips[dep] == 0 || s.largest() != dep {
		t.Errorf("zips %v, want that of %s", s.zips, dep)
	}
	for m := range s.log.ids {
		if _, err := os.Stat(filepath.Join(s.tree(), proxyPath(m, "mod"))); err != nil || m.Path == "example.com/project" {
			t.Errorf("%s: %v", m, err)
		}
	}
	if got, err := os.ReadFile(filepath.Join(s.project(), "go.sum")); err != nil || string(got) != goSum {
		t.Errorf("go.sum %q, %v, want %q", got, err, goSum)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "cache")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the module cache is left: %v", err)
	}
}

func TestUnknownSetAndCase(t *testing.T) {
	data := t.TempDir()
	if _, err := openSet(t.Context(), data, "other"); err == nil || !strings.Contains(err.Error(), "no such set") {
		t.Error(err)
	}
	if left, err := os.ReadDir(data); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
	for want, args := range map[string][]string{
		"no case matches":                   {"-case", "nonesuch"},
		"neither prepare, measure nor draw": {"race"},
		"at least one round":                {"-n", "0"},
		"flags come before":                 {"measure", "-n", "1", "cold"},
		"error parsing regexp":              {"-case", "("},
		"flag provided but not defined":     {"-race"},
		"missing closing ]: `[`":            {"prepare", "-case", "["},
		"invalid value \"x\" for flag -n":   {"-n", "x"},
	} {
		if err := run(t.Context(), args, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", args, err, want)
		}
	}
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-list", "-case", "^warm$"}, &out, io.Discard); err != nil || out.String() != fmt.Sprintf("%-18s %s\n", "warm", "everything in the cache") {
		t.Errorf("%q, %v", out.String(), err)
	}
}
