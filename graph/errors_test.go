package graph_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modfetch/modfetch/graph"
	"golang.org/x/mod/module"
)

// A goModOf is a Source of one module and of modules that have nothing but a name.
type goModOf func(ctx context.Context, m module.Version) (string, error)

func (f goModOf) GoMod(ctx context.Context, m module.Version) ([]byte, error) {
	text, err := f(ctx, m)
	return []byte(expand(text)), err
}

var errorCases = []struct {
	name    string
	project files
	goMods  map[string]string // by X/path@version
	want    []string          // parts of the message
	absent  bool              // it is an fs.ErrNotExist
}{
	{
		name:    "a missing module names those that lead to it",
		project: files{"go.mod": "module X/main\ngo 1.17\nrequire X/a v1.0.0"},
		goMods:  map[string]string{"X/a@v1.0.0": "module X/a\nrequire X/b v1.2.3"},
		want:    []string{"go.mod: ", "X/main requires X/a@v1.0.0 requires X/b@v1.2.3: ", "file does not exist"},
		absent:  true,
	},
	{
		name:    "a missing module that was raised names who raised it",
		project: files{"go.mod": "module X/main\ngo 1.17\nrequire X/a v1.0.0\nrequire X/b v1.0.0"},
		goMods:  map[string]string{"X/a@v1.0.0": "module X/a\ngo 1.17\nrequire X/b v1.2.3", "X/b@v1.0.0": "module X/b"},
		want:    []string{"X/main requires X/a@v1.0.0 requires X/b@v1.2.3: file does not exist"},
		absent:  true,
	},
	{
		name: "a missing module of a workspace names the member",
		project: files{
			"go.work":    "go 1.24\nuse ./one\nuse ./two",
			"one/go.mod": "module X/one\ngo 1.17",
			"two/go.mod": "module X/two\ngo 1.17\nrequire X/a v1.0.0",
		},
		want:   []string{"X/two requires X/a@v1.0.0: file does not exist"},
		absent: true,
	},
	{
		name: "a member that is required at a version that nobody has",
		project: files{
			"go.work":    "go 1.24\nuse ./one\nuse ./two",
			"one/go.mod": "module X/one\ngo 1.17\nrequire X/two v0.0.0",
			"two/go.mod": "module X/two\ngo 1.17",
		},
		want:   []string{"X/one requires X/two@v0.0.0: file does not exist"},
		absent: true,
	},
	{
		name:    "a malformed go.mod",
		project: files{"go.mod": "module X/main\ngo 1.17\nrequire X/a v1.0.0"},
		goMods:  map[string]string{"X/a@v1.0.0": "module X/a\nrequire X/b latest"},
		want:    []string{"X/main requires X/a@v1.0.0: go.mod:2: ", `"latest" invalid`},
	},
	{
		name:    "a go.mod that is too large to parse",
		project: files{"go.mod": "module X/main\ngo 1.17\nrequire X/a v1.0.0"},
		goMods:  map[string]string{"X/a@v1.0.0": "module X/a\n" + strings.Repeat("//\n", 1<<20/3)},
		want:    []string{"X/main requires X/a@v1.0.0: its go.mod has 1048596 bytes; at most 1048576 are read"},
	},
	{
		name:    "an error in each of many lines",
		project: files{"go.mod": "module X/main\ngo 1.17\nrequire X/a v1.0.0"},
		goMods:  map[string]string{"X/a@v1.0.0": "module X/a\nrequire (\n" + strings.Repeat("x y\n", 10000) + ")"},
		want:    []string{"X/main requires X/a@v1.0.0: go.mod:3: "},
	},
	{
		name:    "a page instead of a go.mod",
		project: files{"go.mod": "module X/main\ngo 1.17\nrequire X/a v1.0.0"},
		goMods:  map[string]string{"X/a@v1.0.0": "<!DOCTYPE html>\n<p>Log in first</p>"},
		want:    []string{"X/main requires X/a@v1.0.0: its go.mod has no module line"},
	},
	{
		name:    "another module's go.mod",
		project: files{"go.mod": "module X/main\ngo 1.17\nrequire X/a v1.0.0"},
		goMods:  map[string]string{"X/a@v1.0.0": "module X/b"},
		want:    []string{"X/main requires X/a@v1.0.0: its go.mod says that it is module X/b"},
	},
	{
		name:    "another module's go.mod in a replacement",
		project: files{"go.mod": "module X/main\ngo 1.17\nrequire X/a v1.0.0\nreplace X/a => X/fork v1.0.0"},
		goMods:  map[string]string{"X/fork@v1.0.0": "module X/b"},
		want:    []string{"X/main requires X/a@v1.0.0: replaced by X/fork@v1.0.0: its go.mod says that it is module X/b"},
	},
	{
		name:    "a replacement directory without a go.mod",
		project: files{"go.mod": "module X/main\ngo 1.17\nrequire X/a v1.0.0\nreplace X/a => ../nowhere"},
		want:    []string{"X/main requires X/a@v1.0.0: replaced by ", filepath.Join("nowhere", "go.mod")},
		absent:  true,
	},
	{
		name:    "no go.mod",
		project: files{"other.mod": "module X/main"},
		want:    []string{"go.mod"},
		absent:  true,
	},
	{
		name:    "no module line",
		project: files{"go.mod": "go 1.17"},
		want:    []string{"go.mod: no module line"},
	},
	{
		name:    "no module path",
		project: files{"go.mod": "module toolchain"},
		want:    []string{`go.mod: "toolchain" is no path for a module`},
	},
	{
		name:    "an unknown directive",
		project: files{"go.mod": "module X/main\nfuture 1"},
		want:    []string{"go.mod:2: unknown directive: future"},
	},
	{
		name:    "a branch as a version",
		project: files{"go.mod": "module X/main\nrequire X/a master"},
		want:    []string{"go.mod:2: ", `"master" is not a full version, such as v1.2.3; go mod tidy would look it up`},
	},
	{
		name:    "a version for another major version",
		project: files{"go.mod": "module X/main\nrequire X/a/v2 v1.0.0"},
		want:    []string{"go.mod:2: ", "should be v2, not v1"},
	},
	{
		name:    "a replacement with a version for another major version",
		project: files{"go.mod": "module X/main\nreplace X/a => X/b/v2 v1.0.0"},
		want:    []string{"go.mod:2: ", "should be v2, not v1"},
	},
	{
		name:    "a version that is empty",
		project: files{"go.mod": "module X/main\nrequire X/a \"\""},
		want:    []string{"go.mod:2: "},
	},
	{
		name:    "two replacements of one module",
		project: files{"go.mod": "module X/main\nreplace X/a => ../a\nreplace X/a => X/b v1.0.0"},
		want:    []string{"go.mod: X/a is replaced by both ", " and X/b@v1.0.0; keep one of them"},
	},
	{
		name: "members that contradict each other",
		project: files{
			"go.work":    "go 1.24\nuse ./one\nuse ./two",
			"one/go.mod": "module X/one\nreplace X/a => ../a",
			"two/go.mod": "module X/two\nreplace X/a => ./a",
		},
		want: []string{"go.work: X/a is replaced by both ", "keep one of them"},
	},
	{
		name:    "a workspace that replaces its member",
		project: files{"go.work": "go 1.24\nuse ./one\nreplace X/one => ../a", "one/go.mod": "module X/one"},
		want:    []string{"go.work replaces its own member X/one"},
	},
	{
		name:    "two members of one name",
		project: files{"go.work": "go 1.24\nuse ./one\nuse ./two", "one/go.mod": "module X/one", "two/go.mod": "module X/one"},
		want:    []string{"are both module X/one; use one of them"},
	},
	{
		name:    "a member that is not there",
		project: files{"go.work": "go 1.24\nuse ./one"},
		want:    []string{"go.work uses ", "one: ", "go.mod"},
		absent:  true,
	},
	{
		name:    "an empty workspace",
		project: files{"go.work": "go 1.24"},
		want:    []string{"go.work uses no module; add one with go work use"},
	},
	{
		name:    "a go.work of something else",
		project: files{"go.work": "module X/main"},
		want:    []string{"go.work:1: unknown directive: module"},
	},
}

func TestErrors(t *testing.T) {
	for _, c := range errorCases {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			c.project.write(t, dir)
			file := filepath.Join(dir, "go.mod")
			if _, ok := c.project["go.work"]; ok {
				file = filepath.Join(dir, "go.work")
			}
			src := goModOf(func(_ context.Context, m module.Version) (string, error) {
				text, ok := c.goMods[wordsOf([]module.Version{m})]
				if !ok {
					return "", fs.ErrNotExist
				}
				return text, nil
			})
			got, err := graph.Load(t.Context(), src, file, 0)
			if err == nil {
				t.Fatalf("Load returned %+v and no error", got)
			}
			for _, part := range c.want {
				if !strings.Contains(err.Error(), expand(part)) {
					t.Errorf("%v\nshould contain %q", err, expand(part))
				}
			}
			if n := len(err.Error()); n > 4<<10 {
				t.Errorf("a message of %d bytes", n)
			}
			if errors.Is(err, fs.ErrNotExist) != c.absent {
				t.Errorf("%v\nis an fs.ErrNotExist: %v, want %v", err, !c.absent, c.absent)
			}
		})
	}
}

// FuzzLoad feeds foreign text to every parser: Load returns a result or an error.
func FuzzLoad(f *testing.F) {
	f.Add("module example.com/main\ngo 1.17\nrequire example.com/a v1.0.0\n", "go 1.24\nuse .\n", "module example.com/a\nrequire example.com/b/v2 v2.0.0\n")
	f.Add("module example.com/main\nrequire (\n\texample.com/a v1.0.0 // indirect\n)\nreplace example.com/a => ./a\nexclude example.com/a v1.0.0\n", "use (\n\t.\n\t./b\n)\nreplace example.com/a => example.com/b v1.0.0\n", "<html>")
	f.Add("module \"\"\n", "use \"\"\n", "module go\ngo 99999999999.1\nrequire go v1.0.0\n")
	f.Add("module example.com/main\nrequire example.com/main v1.0.0\nretract [v1.0.0, v2.0.0]\n", "toolchain default\n", "module example.com/main\nrequire example.com/main v1.0.0+incompatible\n")
	f.Fuzz(func(t *testing.T, goMod, goWork, dependency string) {
		dir := t.TempDir()
		src := goModOf(func(context.Context, module.Version) (string, error) { return dependency, nil })
		for name, text := range map[string]string{"go.mod": goMod, "go.work": goWork} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range []string{"go.mod", "go.work"} {
			got, err := graph.Load(t.Context(), src, filepath.Join(dir, name), 0)
			if (got == nil) == (err == nil) {
				t.Errorf("%s: Load returned %v and the error %v", name, got, err)
			}
		}
	})
}
