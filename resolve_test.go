package modfetch_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/modfetchtest"
	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
)

// addVersions serves versions of a module; a text is the go.mod file behind the module line, and "" is what is made up for
// a module without one.
func addVersions(s *modfetchtest.Server, path string, versions map[string]string) {
	for version, text := range versions {
		m := modfetchtest.NewModule(path, version).File("x.go", "package x\n")
		if text != "" && !strings.HasSuffix(version, "+incompatible") {
			m = m.File("go.mod", "module "+path+"\n\n"+text+"\n")
		}
		s.Add(m)
	}
}

// goAnswers asks the go command for each path@query, and returns the versions; "" for an error.
func goAnswers(t *testing.T, env []string, queries []string, flags ...string) []string {
	t.Helper()
	args := append(flags, "list", "-m", "-e", "-f", "{{if .Error}}-{{else}}{{.Version}}{{end}}")
	out := runGo(t, needGo(t), env, append(args, queries...)...)
	var answers []string
	for line := range strings.Lines(out) {
		answers = append(answers, strings.Trim(line, "-\n"))
	}
	if len(answers) != len(queries) {
		t.Fatalf("%d answers to %d queries:\n%s", len(answers), len(queries), out)
	}
	return answers
}

// wantAnswers checks what a Fetcher answers to each path@query, and what the go command has answered; "" is an error.
func wantAnswers(t *testing.T, f *modfetch.Fetcher, queries, wants, theirs []string) {
	t.Helper()
	for i, q := range queries {
		path, query, _ := strings.Cut(q, "@")
		info, err := f.Info(t.Context(), path, query)
		if info.Version != wants[i] || (err == nil) != (wants[i] != "") {
			t.Errorf("%s is %q, %v, want %q", q, info.Version, err, wants[i])
		}
		if theirs[i] != wants[i] {
			t.Errorf("%s: the go command answers %q, want %q", q, theirs[i], wants[i])
		}
	}
}

// TestQueriesAreTheGoCommands compares every answer with the go command's own.
func TestQueriesAreTheGoCommands(t *testing.T) {
	const modern = "go 1.20"
	s := modfetchtest.NewServer(t, nil)
	var queries, wants []string
	for path, c := range map[string]struct {
		versions map[string]string
		want     map[string]string // by query; "" is an error
	}{
		"example.com/plain": {
			map[string]string{"v0.9.0": modern, "v1.2.0-pre": modern, "v1.2.0": modern, "v1.2.9": modern, "v1.2.10": modern,
				"v1.3.0-rc.1": modern, "v1.20.0": modern, "v1.21.0-beta": modern},
			map[string]string{
				"v0": "v0.9.0", "v1": "v1.20.0", "v1.2": "v1.2.10", "v1.3": "", "v1.21": "", "v1.4": "", "v2": "",
				"<v1.2.0": "v0.9.0", "<=v1.2.0": "v1.2.0", ">v1.2.0": "v1.2.9", ">=v1.2.0": "v1.2.0", "<v1.2": "v0.9.0", ">=v1": "v1.2.0",
				"<=v1.2": "", ">v1": "", "<v0.9.0": "", ">v1.20.0": "v1.21.0-beta", ">=v1.21.0": "", ">v1.2.0-pre": "v1.2.0",
				"<v1.2.0+meta": "v0.9.0", "<=v1.2.10+meta": "v1.2.10", "<v2.0.0": "v1.20.0", ">=v2.0.0": "",
				"v1.2.0": "v1.2.0", "v1.2.0-pre": "v1.2.0-pre", "v1.2.0+meta": "v1.2.0", "v1.2.1": "", "v1.2.1+meta": "",
				"latest": "v1.20.0",
				"<":      "", "<1.2.0": "", "< v1.2.0": "", "<v1.2.0 >v1": "", "v1.2.0/x": "", "a/b": "", "nobranch": "", "1.2.0": "", "none": "",
			},
		},
		"example.com/onlypre": {
			map[string]string{"v1.0.0-a": modern, "v1.0.0-b": modern, "v1.0.1-a": modern},
			map[string]string{"latest": "v1.0.1-a", "v1": "v1.0.1-a", "v1.0": "v1.0.1-a", "<v1.0.0": "v1.0.0-b", ">v1.0.0-a": "v1.0.0-b", "v0": ""},
		},
		"example.com/legacy": {
			map[string]string{"v1.0.0": "", "v2.0.0+incompatible": "", "v2.1.0+incompatible": "", "v3.0.0+incompatible": ""},
			map[string]string{
				"latest": "v3.0.0+incompatible", "v1": "v1.0.0", "v2": "v2.1.0+incompatible", "<v3.0.0": "v2.1.0+incompatible", ">v1.0.0": "v2.0.0+incompatible",
				">=v1.0.0": "v1.0.0", "v2.0.0+incompatible": "v2.0.0+incompatible", "v2.0.0": "", "<=v9.0.0": "v3.0.0+incompatible",
			},
		},
		"example.com/moved": {
			map[string]string{"v1.0.0": modern, "v1.1.0": modern, "v2.0.0+incompatible": "", "v3.0.0+incompatible": ""},
			map[string]string{
				"latest": "v1.1.0", "v2": "v2.0.0+incompatible", ">v1.0.0": "v1.1.0", ">v1.1.0": "v2.0.0+incompatible", "<v3.0.0": "v2.0.0+incompatible",
				"<=v1.9.0": "v1.1.0", ">=v3": "v3.0.0+incompatible",
			},
		},
		"example.com/retracted": {
			map[string]string{"v1.0.0": modern, "v1.1.0": modern, "v1.2.0": modern, "v1.2.1-pre": modern, "v1.3.0": "retract [v1.1.0, v1.2.0]\nretract v1.3.0"},
			map[string]string{
				"latest": "v1.0.0", "v1": "v1.0.0", "v1.1": "", "v1.2": "v1.2.1-pre", "v1.3": "", ">v1.0.0": "v1.2.1-pre", "<v1.2.0": "v1.0.0", ">=v1.3.0": "",
				"v1.1.0": "v1.1.0", "v1.3.0": "v1.3.0", "v1.1.0+meta": "v1.1.0",
			},
		},
		"example.com/ranges": { // one within another, and two that overlap
			map[string]string{"v1.0.0": modern, "v1.1.0": "", "v1.2.0": "", "v1.3.0": "", "v1.4.0": "", "v1.5.0": "", "v1.6.0": "", "v1.7.0": "",
				"v1.8.0": "retract (\n[v1.5.0, v1.6.0]\nv1.2.0\n[v1.1.0, v1.3.0]\n[v1.6.0, v1.7.0]\n)"},
			map[string]string{
				"latest": "v1.8.0", "<v1.8.0": "v1.4.0", "<v1.4.0": "v1.0.0", ">=v1.1.0": "v1.4.0", ">v1.4.0": "v1.8.0", "v1.1": "", "v1.2": "", "v1.3": "",
				"v1.4": "v1.4.0", "v1.5": "", "v1.6": "", "v1.7": "",
			},
		},
		"example.com/Upper/Case": {
			map[string]string{"v1.0.0": modern, "v1.1.0-RC1": modern},
			map[string]string{"latest": "v1.0.0", ">v1.0.0": "v1.1.0-RC1", "v1.1.0-RC1": "v1.1.0-RC1", "v1.1.0-rc1": ""},
		},
		"example.com/unparsable": {
			map[string]string{"v1.0.0": modern, "v1.1.0": "retract v1.0.0\n)("},
			map[string]string{"v1.0": "v1.0.0", "v1": "v1.1.0", "latest": "v1.1.0"},
		},
		"example.com/untagged": {
			map[string]string{"v0.0.0-20200101000000-aaaaaaaaaaaa": modern, "v0.0.0-20210101000000-bbbbbbbbbbbb": modern},
			map[string]string{
				"latest": "v0.0.0-20210101000000-bbbbbbbbbbbb", "v0": "", "v0.0": "", "<v1.0.0": "", ">v0.0.0-0": "",
				"v0.0.0-20200101000000-aaaaaaaaaaaa": "v0.0.0-20200101000000-aaaaaaaaaaaa", "aaaaaaaaaaaa": "v0.0.0-20200101000000-aaaaaaaaaaaa",
			},
		},
		"example.com/gone": {
			map[string]string{"v0.0.0-20200101000000-aaaaaaaaaaaa": "retract [v0.0.0-0, v0.0.1]"},
			map[string]string{"latest": "", "aaaaaaaaaaaa": "v0.0.0-20200101000000-aaaaaaaaaaaa"},
		},
		"example.com/onto": { // all that is tagged is retracted, but the mirror names something newer
			map[string]string{"v0.1.0": "retract v0.1.0"},
			map[string]string{"latest": "v0.1.1-0.20210101000000-bbbbbbbbbbbb", "v0": "", "v0.1.0": "v0.1.0"},
		},
		"example.com/v2/v2": {
			map[string]string{"v2.0.0": modern, "v2.1.0-rc.1": modern},
			map[string]string{"latest": "v2.0.0", "v2": "v2.0.0", "v2.1": "", ">=v2.1.0-0": "v2.1.0-rc.1", "v1": "", "<v3.0.0": "v2.0.0", ">v1.0.0": "v2.0.0", "v1.0.0": "", "v2.0.0+x": "v2.0.0",
				"v2.0.0+incompatible": "", "v3.0.0+incompatible": "", "branch": "v2.0.1-0.20200101000000-aaaaaaaaaaaa"},
		},
		"gopkg.in/yaml.v2": {
			map[string]string{"v2.0.0": modern, "v2.1.0": modern},
			map[string]string{"latest": "v2.1.0", "v2.0": "v2.0.0", "v2": "v2.1.0", ">v2.0.0": "v2.1.0", "v1": "", "v3.0.0": "",
				"v3.0.0+incompatible": "", "branch": "v2.0.1-0.20200101000000-aaaaaaaaaaaa"},
		},
		"gopkg.in/old.v1": { // whose pseudo-versions may begin so
			map[string]string{"v0.0.0-20200101000000-aaaaaaaaaaaa": modern},
			map[string]string{"latest": "v0.0.0-20200101000000-aaaaaaaaaaaa", "aaaaaaaaaaaa": "v0.0.0-20200101000000-aaaaaaaaaaaa", "v1": ""},
		},
	} {
		addVersions(s, path, c.versions)
		for query, want := range c.want {
			queries, wants = append(queries, path+"@"+query), append(wants, want)
		}
	}
	s.Fault("/example.com/onto/@latest", body(`{"Version":"v0.1.1-0.20210101000000-bbbbbbbbbbbb"}`))
	s.Fault("/example.com/onto/@v/list", body("v0.1.0\n"))
	s.Add(modfetchtest.NewModule("example.com/onto", "v0.1.1-0.20210101000000-bbbbbbbbbbbb"))

	for _, path := range []string{"example.com/v2/v2", "gopkg.in/yaml.v2"} {
		const onBranch = "v2.0.1-0.20200101000000-aaaaaaaaaaaa"
		s.Add(modfetchtest.NewModule(path, onBranch))
		s.Fault("/"+path+"/@v/branch.info", body(`{"Version":"`+onBranch+`"}`))
		s.Fault("/"+path+"/@v/trunk.info", body(`{"Version":"v3.0.0-20200101000000-aaaaaaaaaaaa"}`))
	}

	f, _ := newFetcher(t, s.Options()...)
	wantAnswers(t, f, queries, wants, goAnswers(t, s.Env(t), queries))
	for _, path := range []string{"example.com/v2/v2", "gopkg.in/yaml.v2"} { // which the go command believes
		if info, err := f.Info(t.Context(), path, "trunk"); modfetch.KindOf(err) != modfetch.Corrupt {
			t.Errorf("%s@trunk is %q, %v, want a refusal of another major version", path, info.Version, err)
		}
	}
}

// TestUpgradeAndPatchAreTheGoCommands compares with the go command in a module that requires nothing yet; in others the two
// are relative to what it requires.
func TestUpgradeAndPatchAreTheGoCommands(t *testing.T) {
	s := modfetchtest.NewServer(t, nil)
	var queries, wants []string
	for path, c := range map[string]struct {
		versions map[string]string
		upgrade  string // patch is an error
	}{
		"example.com/plain":     {map[string]string{"v1.0.0": "go 1.20", "v1.1.0": "go 1.20", "v1.2.0-pre": "go 1.20"}, "v1.1.0"},
		"example.com/onlypre":   {map[string]string{"v1.0.0-a": "go 1.20", "v1.0.0-b": "go 1.20"}, "v1.0.0-b"},
		"example.com/retracted": {map[string]string{"v1.0.0": "go 1.20", "v1.1.0": "retract v1.1.0"}, "v1.0.0"},
		"example.com/moved":     {map[string]string{"v1.0.0": "go 1.20", "v2.0.0+incompatible": ""}, "v1.0.0"},
		"example.com/untagged":  {map[string]string{"v0.0.0-20200101000000-aaaaaaaaaaaa": "go 1.20"}, "v0.0.0-20200101000000-aaaaaaaaaaaa"},
		"example.com/v2/v2":     {map[string]string{"v2.0.0": "go 1.20", "v2.1.0": "go 1.20"}, "v2.1.0"},
		"gopkg.in/yaml.v2":      {map[string]string{"v2.0.0": "go 1.20", "v2.1.0": "go 1.20"}, "v2.1.0"},
	} {
		addVersions(s, path, c.versions)
		queries, wants = append(queries, path+"@upgrade", path+"@latest", path+"@patch"), append(wants, c.upgrade, c.upgrade, "")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module main.test\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	f, _ := newFetcher(t, s.Options()...)
	wantAnswers(t, f, queries, wants, goAnswers(t, append(s.Env(t), "GOFLAGS=-modcacherw"), queries, "-C", dir))
}

// TestRandomQueriesAreTheGoCommands does so for lists, retractions and queries made from a seed. MODFETCH_SEED repeats a run.
func TestRandomQueriesAreTheGoCommands(t *testing.T) {
	t.Parallel()
	r := seeded(t)
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	number := func(path string) string { // without the v
		major := r.IntN(4)
		if _, suffix, _ := module.SplitPathVersion(path); suffix != "" {
			major = 2
		}
		return fmt.Sprintf("%d.%d.%d", major, r.IntN(3), r.IntN(3)) + pick("", "", "", "-pre", "-rc.1")
	}
	s := modfetchtest.NewServer(t, nil)
	var queries []string
	for i := range 40 {
		path := fmt.Sprintf(pick("example.com/r%d", "example.com/r%d", "example.com/r%d/v2", "gopkg.in/r%d.v2"), i)
		versions := make(map[string]string)
		for range r.IntN(9) {
			v := "v" + number(path)
			if module.Check(path, v) != nil {
				v += "+incompatible"
			}
			versions[v] = pick("", "go 1.20", "go 1.20", "// Deprecated: not really\nretract v"+number(path), "retract [v0.0.0-0, v"+number(path)+"]")
			if strings.Contains(versions[v], "[") && r.IntN(2) == 0 { // rarely all of them
				versions[v] = "retract v" + number(path)
			}
		}
		var list []string
		for _, v := range slices.Sorted(maps.Keys(versions)) {
			list = append(list, v+pick("\n", "\r\n", " 2020-01-01T00:00:00Z\n"))
		}
		_, suffix, _ := module.SplitPathVersion(path)
		pseudo := "v" + pick("0.0.0-", "0.1.1-0.") + "20210101000000-aaaaaaaaaaaa"
		if suffix != "" {
			pseudo = "v2.0.0-20210101000000-aaaaaaaaaaaa"
		}
		if r.IntN(3) == 0 {
			versions[pseudo] = pick("", "go 1.20", "retract "+pseudo)
			if r.IntN(2) == 0 {
				list = append(list, pseudo+"\n")
			}
		}
		if len(versions) == 0 {
			continue
		}
		addVersions(s, path, versions)
		r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		s.Fault("/"+path+"/@v/list", body(strings.Join(list, "")))
		if _, ok := versions[pseudo]; ok && r.IntN(2) == 0 {
			s.Fault("/"+path+"/@latest", body(`{"Version":"`+pseudo+`"}`))
		} else if r.IntN(2) == 0 {
			s.Fault("/"+path+"/@latest", modfetchtest.Status(404))
		}
		queries = append(queries, path+"@latest")
		for range 12 {
			full := number(path)
			minor := full[:strings.LastIndex(full, ".")]
			if i := strings.Index(full, "-"); i > 0 {
				minor = full[:strings.LastIndex(full[:i], ".")]
			}
			major, _, _ := strings.Cut(full, ".")
			queries = append(queries, path+"@"+pick("<", "<=", ">", ">=")+"v"+pick(full, full, full+"+x", minor, major))
			queries = append(queries, path+"@v"+pick(full, full+"+x", minor, minor, major))
		}
	}
	theirs := goAnswers(t, s.Env(t), queries)
	f, _ := newFetcher(t, s.Options()...)
	wantAnswers(t, f, queries, theirs, theirs)
	answered := 0
	for _, v := range theirs {
		if v != "" {
			answered++
		}
	}
	if answered < len(queries)/10 {
		t.Errorf("only %d of %d queries have an answer", answered, len(queries))
	}
}

const (
	pseudoMain = "v1.0.1-0.20240102030405-0123456789ab"
	hashMain   = "0123456789abcdef0123456789abcdef01234567"
)

// newRevisions serves a module whose branches and tags have names.
func newRevisions(t *testing.T) *modfetchtest.Server {
	s := modfetchtest.NewServer(t, nil)
	for version, origin := range map[string]string{
		pseudoMain:            `"Hash":"` + hashMain + `","Ref":"refs/heads/main","TagSum":"t1:x"`,
		"v1.0.0":              `"Hash":"aaaabbbbccccddddeeeeffff0000111122223333","Ref":"refs/tags/Release-1","RepoSum":"r1:x"`,
		"v3.0.0+incompatible": `"Ref":"refs/tags/v3.0.0"`,
	} {
		s.Add(modfetchtest.NewModule("example.com/m", version).File("m.go", "package m\n").
			File(".info", `{"Version":"`+version+`","Time":"2024-01-02T03:04:05Z","Origin":{"VCS":"git",`+origin+`}}`))
	}
	return s
}

// TestRevisionsAreTheGoCommands compares answers, and what they leave in the module cache: nothing under the revision's name.
func TestRevisionsAreTheGoCommands(t *testing.T) {
	for rev, want := range map[string]string{
		"main":                pseudoMain,
		"Release-1":           "v1.0.0",
		hashMain:              pseudoMain,
		hashMain[:12]:         pseudoMain,
		"aaaabbbb":            "v1.0.0",
		"v3.0.0":              "v3.0.0+incompatible",
		"v3.0.0+incompatible": "v3.0.0+incompatible",
		"v3.0.0+meta":         "v3.0.0+incompatible",
		"v1.0.0+meta":         "v1.0.0",
		pseudoMain:            pseudoMain,
	} {
		t.Run(rev, func(t *testing.T) {
			s := newRevisions(t)
			f, ours := newFetcher(t, s.Options()...)
			info, err := f.Info(t.Context(), "example.com/m", rev)
			if err != nil || info.Version != want || info.Time.IsZero() || info.Origin == nil || info.Origin.VCS != "git" {
				t.Errorf("got %+v, %v, want %s", info, err, want)
			}
			if _, err := f.GoMod(t.Context(), module.Version{Path: "example.com/m", Version: want}); err != nil {
				t.Error(err)
			}
			env := s.Env(t)
			if got := goAnswers(t, env, []string{"example.com/m@" + rev}); got[0] != want {
				t.Errorf("the go command answers %q, want %q", got[0], want)
			}
			for _, kv := range env {
				if theirs, ok := strings.CutPrefix(kv, "GOMODCACHE="); ok {
					if diff := diffTrees(t, ours, theirs); diff != "" {
						t.Errorf("the module cache is not as the go command leaves it:\n%s", diff)
					}
				}
			}
		})
	}
}

func TestRevisionsAreAskedForEachTime(t *testing.T) {
	s := newRevisions(t)
	cache := t.TempDir()
	f, modCache := newFetcher(t, append(s.Options(), modfetch.WithCache(modfetch.DirCache(cache)))...)
	if _, err := f.Info(t.Context(), "example.com/m", "v1.0.0"); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{pseudoMain, pseudoMain, "v1.0.0", pseudoMain} {
		if want == "v1.0.0" {
			s.Fault("*/main.info", body(`{"Version":"v1.0.0"}`))
		} else {
			s.ClearFaults()
		}
		if info, err := f.Info(t.Context(), "example.com/m", "main"); err != nil || info.Version != want {
			t.Errorf("got %v, %v, want %s", info, err, want)
		}
		if n := s.Count("*/main.info"); n != i+1 {
			t.Errorf("asked %d times, want %d", n, i+1)
		}
	}
	for _, dir := range []string{modCache, cache} {
		for _, name := range files(t, dir) {
			if strings.Contains(name, "main") {
				t.Errorf("%s is in %s", name, dir)
			}
		}
	}
	// What a branch's answer says of a version does not take the place of what is there.
	if data, err := os.ReadFile(filepath.Join(modCache, "cache/download/example.com/m/@v/v1.0.0.info")); err != nil || !strings.Contains(string(data), "aaaabbbb") {
		t.Errorf("the module cache has %s, %v", data, err)
	}
}

// A Cache that calls a function for each name it is given.
type puts func(name string)

func (p puts) Open(context.Context, string) (io.ReadSeekCloser, error) { return nil, fs.ErrNotExist }

func (p puts) Put(_ context.Context, name string, _ io.ReadSeeker) error { p(name); return nil }

func TestOwnDiskIsNoAbsence(t *testing.T) {
	if _, err := os.Stat("/proc/self"); err != nil {
		t.Skip("needs a directory in which nothing can be made because it does not exist")
	}
	s := newRevisions(t)
	var modCache string
	var f *modfetch.Fetcher
	f, modCache = newFetcher(t, append(s.Options(), modfetch.WithCache(puts(func(name string) {
		if strings.HasSuffix(name, ".mod") { // before the .info file is written
			cache := filepath.Join(modCache, "cache")
			if err := errors.Join(os.Rename(cache, cache+"-gone"), os.Symlink("/proc", cache)); err != nil {
				t.Error(err)
			}
		}
	})))...)
	_, err := f.Info(t.Context(), "example.com/m", "main")
	if modfetch.KindOf(err) != modfetch.Transient || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "keeping example.com/m@"+pseudoMain) {
		t.Errorf("error %v of kind %s, want one of our own disk that is no absence", err, modfetch.KindOf(err))
	}
}

// serving is a mirror of a few files.
func serving(name string, files map[string]string) *fakeMirror {
	tree := make(fstest.MapFS)
	for name, text := range files {
		tree["example.com/m/"+name] = &fstest.MapFile{Data: []byte(text)}
	}
	return fake(name, modfetch.FSMirror(tree).Fetch)
}

func TestRevisionsAreAskedInOrder(t *testing.T) {
	knows := map[string]string{"@v/main.info": `{"Version":"v1.0.0"}`, "@v/v1.0.0.mod": "module example.com/m\n"}
	other := map[string]string{"@v/main.info": `{"Version":"v1.1.0"}`, "@v/v1.1.0.mod": "module example.com/m\n"}
	first, second := serving("first", knows), serving("second", other)
	for name, c := range map[string]struct {
		tiers [][]*fakeMirror
		want  string
	}{
		"the first answers": {[][]*fakeMirror{{first, second}}, "v1.0.0"},
		"before a comma":    {[][]*fakeMirror{{first}, {second}}, "v1.0.0"},
		"absent":            {[][]*fakeMirror{{serving("none", map[string]string{"@v/v1.2.0.mod": ""})}, {second}}, "v1.1.0"},
		"refused":           {[][]*fakeMirror{{fake("refuses", says(403)), second}}, "v1.1.0"},
		"refused, a comma":  {[][]*fakeMirror{{fake("refuses", says(403))}, {second}}, ""},
		"lies":              {[][]*fakeMirror{{fake("lies", sends(`{"Version":"main"}`)), second}}, "v1.1.0"},
	} {
		info, err := over(t, c.tiers).Info(t.Context(), "example.com/m", "main")
		if info.Version != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: got %v, %v, want %q", name, info, err, c.want)
		}
	}
	for _, r := range second.asked[:len(second.asked)-1] {
		if strings.Contains(r.Path, "v1.0.0") {
			t.Errorf("the second was asked for %s, which the first has", r.Path)
		}
	}
}

func TestAnswersThatAreNotBelieved(t *testing.T) {
	long := strings.Repeat("a", 500_000)
	for name, c := range map[string]struct {
		query, answer string
		kind          modfetch.Kind
	}{
		"no version":         {"main", `{}`, modfetch.Corrupt},
		"no JSON":            {"main", `v1.0.0`, modfetch.Corrupt},
		"shorthand":          {"main", `{"Version":"v1"}`, modfetch.Corrupt},
		"build metadata":     {"main", `{"Version":"v1.0.0+meta"}`, modfetch.Corrupt},
		"another major":      {"main", `{"Version":"v2.0.0"}`, modfetch.Corrupt},
		"its own name":       {"v2.0.0", `{"Version":"v2.0.0"}`, modfetch.Corrupt},
		"climbing":           {"main", `{"Version":"v1.0.0-../../../x"}`, modfetch.Corrupt},
		"long version":       {"main", `{"Version":"` + long + `"}`, modfetch.Corrupt},
		"long but canonical": {"main", `{"Version":"v1.0.0-` + long + `"}`, modfetch.Corrupt},
		"long time":          {"main", `{"Version":"v1.4.0","Time":"` + long + `"}`, modfetch.Corrupt},
		"long number":        {"main", `{"Version":` + strings.Repeat("1", len(long)) + `}`, modfetch.Corrupt},
		"another commit":     {strings.Repeat("c", 40), `{"Version":"` + pseudoMain + `"}`, modfetch.Corrupt},
		"condemned go.mod":   {"main", `{"Version":"v1.0.0"}`, modfetch.Corrupt},
		"missing go.mod":     {"main", `{"Version":"v1.2.0"}`, modfetch.Transient},
		"condemned, latest":  {"latest", "v1.0.0\n", modfetch.Corrupt},
		"missing, latest":    {"latest", "v1.2.0\n", modfetch.Transient},
		"condemned, prefix":  {"v1", "v1.0.0\n", modfetch.Corrupt},
		"missing, range":     {">v1.0.0", "v1.2.0\n", modfetch.Transient},
		"condemned choice":   {"v1.0", "v1.0.0\nv1.4.0\n", modfetch.Corrupt},
		"missing choice":     {"v1.2", "v1.2.0\nv1.4.0\n", modfetch.Transient},
		"condemned newest":   {"<v1.0.0", "v0.1.0\nv1.0.0\n", modfetch.Corrupt},
		"missing newest":     {"<v1.0.0", "v0.1.0\nv1.2.0\n", modfetch.Transient},
		"condemned, go.mod?": {"v2", "v1.0.0\nv2.0.0+incompatible\n", modfetch.Corrupt},
	} {
		t.Run(name, func(t *testing.T) {
			s := newRevisions(t)
			addVersions(s, "example.com/m", map[string]string{"v0.1.0": "", "v1.4.0": ""})
			s.Fault("*/v1.0.0.mod", modfetchtest.Corrupt())
			s.Fault("*/"+c.query+".info", body(c.answer))
			s.Fault("*/@v/list", body(c.answer))
			f, modCache := newFetcher(t, s.Options()...)
			info, err := f.Info(t.Context(), "example.com/m", c.query)
			if info.Version != "" || modfetch.KindOf(err) != c.kind || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("got %.2000v, %.2000v of kind %s, want %s", info, err, modfetch.KindOf(err), c.kind)
			}
			if err != nil && len(err.Error()) > 2000 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			for _, name := range files(t, modCache) {
				if strings.HasSuffix(name, ".info") || strings.HasSuffix(name, "v1.0.0.mod") {
					t.Errorf("%s is in the module cache", name)
				}
			}
		})
	}
}

func TestNoMatchIsNoAbsence(t *testing.T) {
	listed := "v0.1.0\nv1.0.0\nv1.1.0\nv1.2.0\nv1.3.0\n"
	for name, c := range map[string]struct {
		query, list, gomod string
		near, retracted    []string
	}{
		"prefix":        {"v2", listed, "", []string{"v1.1.0", "v1.2.0", "v1.3.0"}, nil},
		"low":           {"<v0.1.0", listed, "", []string{"v0.1.0", "v1.0.0"}, nil},
		"between":       {"v1.0", "v0.1.0\nv1.0.0-pre\nv1.1.0\nv1.2.0\nv1.3.0\n", "", []string{"v0.1.0", "v1.0.0-pre", "v1.1.0", "v1.2.0"}, nil},
		"high":          {">v1.3.0", listed, "", []string{"v1.0.0", "v1.1.0", "v1.2.0", "v1.3.0"}, nil},
		"retracted":     {"v1.1", listed, "retract v1.1.0", nil, []string{"v1.1.0"}},
		"all retracted": {"latest", listed, "retract [v0.0.0, v9.0.0]", nil, []string{"v0.1.0", "v1.0.0", "v1.1.0", "v1.2.0", "v1.3.0"}},
		"no version":    {"latest", "", "", nil, nil},
		"no release":    {"v1", "", "", nil, nil},
	} {
		has := map[string]string{"@v/list": c.list, "@v/v1.3.0.mod": "module example.com/m\n" + c.gomod + "\n"}
		if c.gomod != "" {
			has["@latest"] = `{"Version":"v1.3.0"}`
		}
		m := serving("mirror", has)
		info, err := over(t, [][]*fakeMirror{{m}}).Info(t.Context(), "example.com/m", c.query)
		var no *modfetch.NoMatchError
		if !errors.As(err, &no) || errors.Is(err, fs.ErrNotExist) || info.Version != "" {
			t.Errorf("%s: got %v, %v, want a NoMatchError that is no absence", name, info, err)
			continue
		}
		if no.Path != "example.com/m" || no.Query != c.query || !slices.Equal(no.Near, c.near) || !slices.Equal(no.Retracted, c.retracted) {
			t.Errorf("%s: got %+v, want near %q and retracted %q", name, no, c.near, c.retracted)
		}
		for _, v := range append(no.Near, no.Retracted...) {
			if !strings.Contains(err.Error(), v) {
				t.Errorf("%s: %v does not name %s", name, err, v)
			}
		}
	}
	for _, query := range []string{"latest", "v1", "<v1.0.0", "main", "v1.0.0", "v1.0.0+meta", "v2.0.0"} {
		for code, absence := range map[int]bool{404: true, 410: true, 403: false, 500: false} {
			_, err := over(t, [][]*fakeMirror{{fake("mirror", says(code))}}).Info(t.Context(), "example.com/m", query)
			if err == nil || errors.Is(err, fs.ErrNotExist) != absence {
				t.Errorf("%s: error %v after a %d, want an absence: %t", query, err, code, absence)
			}
			if query == "v2.0.0" && strings.Contains(err.Error(), "another path: example.com/m/v2") != absence {
				t.Errorf("error %v after a %d, want one that names the other path: %t", err, code, absence)
			}
		}
	}
}

func TestBuildMetadata(t *testing.T) {
	for name, c := range map[string]struct {
		full, canonical answer
		want            string
		absence         bool
	}{
		"known by it":            {sends(`{"Version":"v1.0.1-pre"}`), says(404), "v1.0.1-pre", false},
		"known without it":       {says(404), good, "v1.0.0", false},
		"refused with it":        {says(403), good, "v1.0.0", false},
		"unknown":                {says(404), says(404), "", true},
		"unknown with, refused":  {says(404), says(403), "", false},
		"refused, unknown":       {says(403), says(404), "", false},
		"not itself without it":  {says(404), sends(`{"Version":"v1.0.1"}`), "", false},
		"not canonical, unknown": {sends(`{"Version":"v1.0.0+meta"}`), says(404), "", false},
	} {
		m := fake("mirror", func(ctx context.Context, r modfetch.Request) (*modfetch.Response, error) {
			switch r.Path {
			case "example.com/m/@v/v1.0.0+meta.info":
				return c.full(ctx, r)
			case "example.com/m/@v/v1.0.0.info":
				return c.canonical(ctx, r)
			}
			return sends("module example.com/m\n")(ctx, r)
		})
		info, err := over(t, [][]*fakeMirror{{m}}).Info(t.Context(), "example.com/m", "v1.0.0+meta")
		if info.Version != c.want || (err == nil) != (c.want != "") || errors.Is(err, fs.ErrNotExist) != c.absence {
			t.Errorf("%s: got %v, %v, want %q, an absence: %t", name, info, err, c.want, c.absence)
		}
	}
}

func TestMalformedQueriesAreNotAsked(t *testing.T) {
	m := fake("mirror", good)
	f := over(t, [][]*fakeMirror{{m}})
	for name, c := range map[string]struct{ query, say string }{
		"nothing":            {"", "the query is empty; want an exact version"},
		"patch":              {"patch", "relative to a version in use"},
		"none":               {"none", "names no version"},
		"long":               {strings.Repeat("a", 256), "longer than the 255 bytes"},
		"long version":       {"v1.0.0-" + strings.Repeat("a", 1<<20), "longer than the 255 bytes"},
		"slash":              {"feature/x", "with a slash, only for the hash of its commit"},
		"climbing":           {"../../etc", "with a slash"},
		"dots":               {"..", "no name that a mirror can be asked for"},
		"escaped":            {"!main", "no name"},
		"option":             {"-json", "no name"},
		"control character":  {"ma\x1b[31min", "no name"},
		"not UTF-8":          {"main\xff", "no name"},
		"question mark":      {"main?x=y", "no name"},
		"bare operator":      {">=", "want one range such as <v1.2.3"},
		"no v":               {"<1.2.3", `"1.2.3" is not a version`},
		"two ranges":         {">=v1.0.0 <v2.0.0", "want one range"},
		"double operator":    {"<<v1.0.0", "want one range"},
		"other order":        {"<=>v1.0.0", "want one range"},
		"range of a branch":  {"<main", "want one range"},
		"range with a slash": {"<a/b", "want one range"},
		"up to a prefix":     {"<=v1.2", "want a full version such as <=v1.2.0"},
		"beyond a prefix":    {">v1", "want a full version such as >v1.0.0"},
	} {
		_, err := f.Info(t.Context(), "example.com/m", c.query)
		if err == nil || !strings.Contains(err.Error(), c.say) || strings.Contains(err.Error(), "\x1b") || len(err.Error()) > 2000 || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: error %.2000q, want one that says %q", name, err, c.say)
		}
	}
	for _, path := range []string{"example.com/m/v2", "gopkg.in/m.v3"} {
		for _, query := range []string{"v1.0.0", "v1.0.0+meta", "v4.0.0-pre"} {
			if _, err := f.Info(t.Context(), path, query); err == nil || !strings.Contains(err.Error(), "should be v") {
				t.Errorf("%s@%s: error %v, want one that names the right major version", path, query, err)
			}
		}
	}
	if m.count() > 0 {
		t.Errorf("requests: %v", m.asked)
	}
}

// TestLargeGoModIsNotParsed bounds what an author, or the mirror of a path that nobody vouches for, can make us parse. What
// it might retract is not passed over in silence.
func TestLargeGoModIsNotParsed(t *testing.T) {
	const retracts = "// Deprecated: old.\nmodule example.com/m\nretract v1.1.0\n//"
	for name, c := range map[string]struct {
		size int
		want string // "" is an error
	}{
		"as large as may be": {1 << 20, "v1.0.0"},
		"larger":             {1<<20 + 1, ""},
		"as large as served": {16 << 20, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := over(t, [][]*fakeMirror{{serving("mirror", map[string]string{
				"@v/list": "v1.0.0\nv1.1.0\n", "@v/v1.0.0.info": `{"Version":"v1.0.0"}`, "@v/v1.0.0.mod": "module example.com/m\n",
				"@v/v1.1.0.info": `{"Version":"v1.1.0"}`, "@v/v1.1.0.mod": retracts + strings.Repeat("x", c.size-len(retracts)),
			})}})
			for _, query := range []string{"latest", "v1", "<v1.1.0"} {
				info, err := f.Info(t.Context(), "example.com/m", query)
				switch {
				case c.want != "" && (err != nil || info.Version != c.want || info.Deprecated != "old."):
					t.Errorf("%s: got %+v, %v, want %s", query, info, err, c.want)
				case c.want == "" && (modfetch.KindOf(err) != modfetch.Corrupt || !strings.Contains(err.Error(), "go.mod file of v1.1.0 has")):
					t.Errorf("%s: got %+v, %v, want a refusal", query, info, err)
				}
			}
			if info, err := f.Info(t.Context(), "example.com/m", "v1.1.0"); err != nil || info.Version != "v1.1.0" {
				t.Errorf("exact version: got %+v, %v", info, err)
			}
		})
	}
}

// TestManyRetractions would not end in time if each version were held against each retraction.
func TestManyRetractions(t *testing.T) {
	var list, gomod strings.Builder
	gomod.WriteString("module example.com/m\nretract (\n")
	for i := range 100_000 {
		fmt.Fprintf(&list, "v1.0.%d\n", i)
		if i < 70_000 {
			fmt.Fprintf(&gomod, "v1.0.%d\n", i)
		}
	}
	gomod.WriteString("[v1.0.70000, v1.0.99998]\n)\n")
	list.WriteString("v1.1.0\n")
	f := over(t, [][]*fakeMirror{{serving("mirror", map[string]string{
		"@v/list": list.String(), "@v/v1.1.0.mod": gomod.String(), "@v/v1.0.99999.mod": "module example.com/m\n", "@v/v1.0.99999.info": `{"Version":"v1.0.99999"}`,
	})}})
	if info, err := f.Info(t.Context(), "example.com/m", ">v1.0.0"); err != nil || info.Version != "v1.0.99999" {
		t.Errorf("got %v, %v, want the only version that is not retracted", info, err)
	}
}

func TestDeprecated(t *testing.T) {
	s := modfetchtest.NewServer(t, nil)
	addVersions(s, "example.com/m", map[string]string{"v1.0.0": "go 1.20", "v1.0.1": "go 1.20"})
	const lie = `{"Version":"v1.0.0","Deprecated":"a lie","deprecated":"a lie"}`
	s.Add(modfetchtest.NewModule("example.com/m", "v1.1.0").
		File("go.mod", "// Deprecated: use example.com/m/v2.\nmodule example.com/m\n\nretract v1.1.0 // published by mistake\n"))
	s.Fault("*/v1.0.0.info", body(lie))
	s.Fault("*/main.info", body(lie))
	for query, want := range map[string]string{"latest": "use example.com/m/v2.", "v1.0": "use example.com/m/v2.", "<v1.0.1": "use example.com/m/v2.", "v1.0.0": "", "main": ""} {
		f, _ := newFetcher(t, s.Options()...)
		before := len(s.Requests())
		info, err := f.Info(t.Context(), "example.com/m", query)
		if err != nil || info.Deprecated != want {
			t.Errorf("%s: got %+v, %v, want %q", query, info, err, want)
		}
		if n := len(s.Requests()) - before; query == "v1.0.0" && n != 1 {
			t.Errorf("%d requests for an exact version, want one", n)
		}
	}
	out := runGo(t, needGo(t), s.Env(t), "list", "-m", "-u", "-f", "{{.Deprecated}}", "example.com/m@latest")
	if out != "use example.com/m/v2.\n" {
		t.Errorf("the go command says %q", out)
	}
}

// FuzzQuery holds that a mirror is asked only for well-formed names, and only those that the query is about.
func FuzzQuery(f *testing.F) {
	for _, seed := range []string{"", "latest", "upgrade", "patch", "none", "v1", "v1.2", "v1.2.3", "v1.0.0+meta", "v2.0.0", "v3.0.0+incompatible", pseudoMain, "<v1", ">=v1.0.0-pre",
		"<=v1.2", ">", "<>v1", "main", "a/b", "..", "x!", "-x", "\x00", "\xff", "@", "%2f", "v1.", "v01.0.0", hashMain, "Main", "main.info"} {
		f.Add("example.com/m", seed)
		f.Add("example.com/m/v2", seed)
	}
	f.Fuzz(func(t *testing.T, path, query string) {
		var asked []string
		m := fake("mirror", func(ctx context.Context, r modfetch.Request) (*modfetch.Response, error) {
			asked = append(asked, r.Path)
			switch {
			case strings.HasSuffix(r.Path, "/@v/list"):
				return sends("v1.0.0\nv1.2.0-pre\nv2.0.0\nv3.0.0+incompatible\n")(ctx, r)
			case strings.HasSuffix(r.Path, ".mod"):
				return sends("module x\n")(ctx, r)
			}
			return good(ctx, r)
		})
		info, err := over(t, [][]*fakeMirror{{m}}).Info(t.Context(), path, query)
		if err == nil && (module.Check(path, info.Version) != nil || module.CanonicalVersion(info.Version) != info.Version) {
			t.Errorf("%q@%q is %q", path, query, info.Version)
		}
		escaped, pathErr := module.EscapePath(path)
		rev, revErr := module.EscapeVersion(query)
		chooses := query == "latest" || query == "upgrade" || semver.IsValid(strings.TrimLeft(query, "<>="))
		if len(asked) > 0 && (pathErr != nil || revErr != nil && !chooses || query == "patch" || query == "none") {
			t.Errorf("%q@%q: asked for %q", path, query, asked)
		}
		for _, name := range asked {
			file, ok := strings.CutPrefix(name, escaped+"/@")
			if file == "v/list" && chooses || file == "latest" && chooses || ok && file == "v/"+rev+".info" {
				continue
			}
			version := strings.TrimSuffix(strings.TrimSuffix(strings.TrimPrefix(file, "v/"), ".info"), ".mod")
			if plain, err := module.UnescapeVersion(version); !ok || err != nil || module.CanonicalVersion(plain) != plain {
				t.Errorf("%q@%q: asked for %q", path, query, name)
			}
		}
	})
}
