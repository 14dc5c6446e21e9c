package graph_test

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/modfetch/modfetch/graph"
	"golang.org/x/mod/module"
)

// In the texts of these tests X/ is example.com/.
func expand(text string) string { return strings.ReplaceAll(text, "X/", "example.com/") }

// addAll adds the modules that the lines describe: X/path@version, perhaps = and what its module line says instead; the
// go version, or - for none; and what it requires.
func (p *mirror) addAll(t *testing.T, lines string) {
	t.Helper()
	for line := range strings.Lines(expand(lines)) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		name, path, _ := strings.Cut(words[0], "=")
		list := modules(name)
		text := "module " + cmp.Or(path, list[0].Path) + "\n"
		if words[1] != "-" {
			text += "go " + words[1] + "\n"
		}
		for _, m := range modules(words[2:]...) {
			text += fmt.Sprintf("require %s %s\n", m.Path, m.Version)
		}
		p.add(t, list[0], text)
	}
}

func wordsOf(list []module.Version) string {
	var words []string
	for _, m := range list {
		words = append(words, strings.Replace(m.String(), "example.com/", "X/", 1))
	}
	return strings.Join(words, " ")
}

// files are texts by name. In the texts $DIR is the directory that they are written to.
type files map[string]string

func (f files) write(t *testing.T, dir string) {
	t.Helper()
	for name, text := range f {
		text = strings.ReplaceAll(expand(text), "$DIR", filepath.ToSlash(dir))
		writeFile(t, filepath.Join(dir, filepath.FromSlash(name)), text)
	}
}

var loadCases = []struct {
	name    string
	modules string
	project files  // with a go.work if the case is about a workspace
	mods    string // requested
	zips    string // Modules
	list    string // BuildList
}{
	{
		name:    "nothing required",
		project: files{"go.mod": "module X/main\ngo 1.26"},
	},
	{
		name: "what a pruned module requires is listed but not read",
		modules: `X/a@v1.0.0 1.17 X/b@v1.0.0
			X/b@v1.0.0 1.17 X/c@v1.0.0
			X/c@v1.0.0 1.17`,
		project: files{"go.mod": "module X/main\ngo 1.17\nrequire X/a v1.0.0"},
		mods:    "X/a@v1.0.0", zips: "X/a@v1.0.0", list: "X/a@v1.0.0 X/b@v1.0.0",
	},
	{
		name: "an old module is followed all the way",
		modules: `X/a@v1.0.0 1.16 X/b@v1.0.0
			X/b@v1.0.0 1.17 X/c@v1.0.0
			X/c@v1.0.0 1.17`,
		project: files{"go.mod": "module X/main\ngo 1.17\nrequire X/a v1.0.0"},
		mods:    "X/a@v1.0.0 X/b@v1.0.0 X/c@v1.0.0", zips: "X/a@v1.0.0", list: "X/a@v1.0.0 X/b@v1.0.0 X/c@v1.0.0",
	},
	{
		name: "a dependency without a go line is old",
		modules: `X/a@v1.0.0 - X/b@v1.0.0
			X/b@v1.0.0 1.17`,
		project: files{"go.mod": "module X/main\ngo 1.17\nrequire X/a v1.0.0"},
		mods:    "X/a@v1.0.0 X/b@v1.0.0", zips: "X/a@v1.0.0", list: "X/a@v1.0.0 X/b@v1.0.0",
	},
	{
		name: "an old main module needs everything",
		modules: `X/a@v1.0.0 1.17 X/b@v1.0.0 X/c@v1.1.0
			X/b@v1.0.0 1.17 X/c@v1.0.0
			X/c@v1.0.0 1.17
			X/c@v1.1.0 1.17`,
		project: files{"go.mod": "module X/main\ngo 1.16\nrequire X/a v1.0.0"},
		mods:    "X/a@v1.0.0 X/b@v1.0.0 X/c@v1.0.0 X/c@v1.1.0",
		zips:    "X/a@v1.0.0 X/b@v1.0.0 X/c@v1.1.0", list: "X/a@v1.0.0 X/b@v1.0.0 X/c@v1.1.0",
	},
	{
		name: "a main module without a go line is read like an old one and downloaded like a new one",
		modules: `X/a@v1.0.0 1.17 X/b@v1.0.0
			X/b@v1.0.0 1.17`,
		project: files{"go.mod": "module X/main\nrequire X/a v1.0.0"},
		mods:    "X/a@v1.0.0 X/b@v1.0.0", zips: "X/a@v1.0.0", list: "X/a@v1.0.0 X/b@v1.0.0",
	},
	{
		name: "indirect requirements are downloaded too",
		modules: `X/a@v1.0.0 1.17 X/b@v1.0.0
			X/b@v1.0.0 1.17`,
		project: files{"go.mod": "module X/main\ngo 1.17\nrequire X/a v1.0.0\nrequire X/b v1.0.0 // indirect"},
		mods:    "X/a@v1.0.0 X/b@v1.0.0", zips: "X/a@v1.0.0 X/b@v1.0.0", list: "X/a@v1.0.0 X/b@v1.0.0",
	},
	{
		name: "a requirement that is too low is raised, twice",
		modules: `X/a@v1.0.0 1.17 X/b@v1.1.0
			X/b@v1.0.0 1.17
			X/b@v1.1.0 1.17 X/c@v1.1.0
			X/c@v1.0.0 1.17
			X/c@v1.1.0 1.17 X/d@v1.0.0
			X/d@v1.0.0 1.17`,
		project: files{"go.mod": "module X/main\ngo 1.17\nrequire X/a v1.0.0\nrequire X/b v1.0.0\nrequire X/c v1.0.0"},
		mods:    "X/a@v1.0.0 X/b@v1.0.0 X/b@v1.1.0 X/c@v1.0.0 X/c@v1.1.0",
		zips:    "X/a@v1.0.0 X/b@v1.1.0 X/c@v1.1.0", list: "X/a@v1.0.0 X/b@v1.1.0 X/c@v1.1.0 X/d@v1.0.0",
	},
	{
		name: "of two requirements on one path the lower is not read",
		modules: `X/a@v1.0.0 1.17 X/b@v1.0.0
			X/a@v1.1.0 1.17`,
		project: files{"go.mod": "module X/main\ngo 1.17\nrequire X/a v1.1.0\nrequire X/a v1.0.0"},
		mods:    "X/a@v1.1.0", zips: "X/a@v1.1.0", list: "X/a@v1.1.0",
	},
	{
		name: "of two requirements in an old main module both are read",
		modules: `X/a@v1.0.0 1.17 X/b@v1.0.0
			X/a@v1.1.0 1.17
			X/b@v1.0.0 1.17`,
		project: files{"go.mod": "module X/main\ngo 1.16\nrequire X/a v1.0.0\nrequire X/a v1.1.0"},
		mods:    "X/a@v1.0.0 X/a@v1.1.0 X/b@v1.0.0", zips: "X/a@v1.1.0 X/b@v1.0.0", list: "X/a@v1.1.0 X/b@v1.0.0",
	},
	{
		name: "the main module is selected over any version of itself, which is read nevertheless",
		modules: `X/a@v1.0.0 1.16 X/main@v1.5.0
			X/main@v1.5.0 1.16 X/b@v1.0.0
			X/b@v1.0.0 1.16`,
		project: files{"go.mod": "module X/main\ngo 1.16\nrequire X/a v1.0.0"},
		mods:    "X/a@v1.0.0 X/b@v1.0.0 X/main@v1.5.0", zips: "X/a@v1.0.0 X/b@v1.0.0", list: "X/a@v1.0.0 X/b@v1.0.0",
	},
	{
		name: "an excluded version counts nowhere",
		modules: `X/a@v1.0.0 1.16 X/b@v1.1.0
			X/b@v1.0.0 1.16
			X/b@v1.1.0 1.16`,
		project: files{"go.mod": "module X/main\ngo 1.17\nrequire X/a v1.0.0\nrequire X/b v1.0.0\nexclude X/b v1.1.0"},
		mods:    "X/a@v1.0.0 X/b@v1.0.0", zips: "X/a@v1.0.0 X/b@v1.0.0", list: "X/a@v1.0.0 X/b@v1.0.0",
	},
	{
		name: "an excluded requirement gives way to what others require of its path",
		modules: `X/a@v1.0.0 1.17 X/b@v1.0.0
			X/b@v1.0.0 1.17
			X/b@v1.1.0 1.17`,
		project: files{"go.mod": "module X/main\ngo 1.17\nrequire X/a v1.0.0\nrequire X/b v1.1.0\nexclude X/b v1.1.0"},
		mods:    "X/a@v1.0.0 X/b@v1.0.0", zips: "X/a@v1.0.0 X/b@v1.0.0", list: "X/a@v1.0.0 X/b@v1.0.0",
	},
	{
		name:    "an excluded requirement that nobody else has is dropped",
		modules: `X/a@v1.0.0 1.17`,
		project: files{"go.mod": "module X/main\ngo 1.17\nrequire X/a v1.0.0\nexclude X/a v1.0.0"},
	},
	{
		name: "a replacement is read and downloaded in place of a version",
		modules: `X/a@v1.0.0 1.17
			X/fork@v1.0.1 1.16 X/b@v1.0.0
			X/b@v1.0.0 1.16`,
		project: files{"go.mod": "module X/main\ngo 1.17\nrequire X/a v1.0.0\nreplace X/a v1.0.0 => X/fork v1.0.1"},
		mods:    "X/b@v1.0.0 X/fork@v1.0.1", zips: "X/fork@v1.0.1", list: "X/a@v1.0.0 X/b@v1.0.0",
	},
	{
		name:    "a directory with an absolute name",
		project: files{"go.mod": "module X/main\ngo 1.17\nrequire X/a v1.0.0\nreplace X/a => $DIR/a", "a/go.mod": "module X/a"},
		list:    "X/a@v1.0.0",
	},
	{
		name: "requirements in a circle",
		modules: `X/a@v1.0.0 1.16 X/b@v1.0.0
			X/b@v1.0.0 1.16 X/a@v1.1.0
			X/a@v1.1.0 1.16 X/b@v1.0.0 X/a@v1.0.0`,
		project: files{"go.mod": "module X/main\ngo 1.16\nrequire X/a v1.0.0"},
		mods:    "X/a@v1.0.0 X/a@v1.1.0 X/b@v1.0.0", zips: "X/a@v1.1.0 X/b@v1.0.0", list: "X/a@v1.1.0 X/b@v1.0.0",
	},
	{
		name:    "nobody fetches go or toolchain",
		modules: `X/a@v1.0.0 1.16 go@v1.16.0 toolchain@v1.16.0`,
		project: files{"go.mod": "module X/main\ngo 1.16\nrequire X/a v1.0.0"},
		mods:    "X/a@v1.0.0", zips: "X/a@v1.0.0", list: "X/a@v1.0.0",
	},
	{
		name: "a replacement of one version beats that of all",
		modules: `X/a@v1.1.0 1.17
			X/a@v1.2.0 1.17`,
		project: files{"go.mod": "module X/main\ngo 1.17\nrequire X/a v1.0.0\nreplace X/a => X/a v1.2.0\nreplace X/a v1.0.0 => X/a v1.1.0"},
		mods:    "X/a@v1.1.0", zips: "X/a@v1.1.0", list: "X/a@v1.0.0",
	},
	{
		name:    "modules with the same replacement are one download",
		modules: `X/a@v1.0.0 1.17`,
		project: files{"go.mod": `module X/main
			go 1.17
			require X/a v1.0.0
			require X/b v1.0.0
			require X/c v1.0.0
			replace X/b => X/a v1.0.0
			replace X/c => X/a v1.0.0`},
		mods: "X/a@v1.0.0", zips: "X/a@v1.0.0", list: "X/a@v1.0.0 X/b@v1.0.0 X/c@v1.0.0",
	},
	{
		name:    "a replacement may bear the name of what it replaces",
		modules: `X/fork@v1.0.0=X/a 1.17`,
		project: files{"go.mod": "module X/main\ngo 1.17\nrequire X/a v1.0.0\nreplace X/a => X/fork v1.0.0"},
		mods:    "X/fork@v1.0.0", zips: "X/fork@v1.0.0", list: "X/a@v1.0.0",
	},
	{
		name:    "a directory counts with its requirements and is not downloaded",
		modules: `X/b@v1.0.0 1.17`,
		project: files{
			"go.mod":          "module X/main\ngo 1.17\nrequire X/a v1.0.0\nreplace X/a => ./fork/a",
			"fork/a/go.mod":   "module whatever.example/name\ngo 1.16\nrequire X/b v1.0.0",
			"fork/fork/a/not": "",
		},
		mods: "X/b@v1.0.0", list: "X/a@v1.0.0 X/b@v1.0.0",
	},
	{
		name:    "new directives",
		modules: `X/a@v1.0.0 1.17`,
		project: files{"go.mod": `module X/main
			go 1.25.0
			toolchain go1.25.1
			godebug default=go1.21
			require X/a v1.0.0
			tool X/a/cmd/a
			ignore ./node_modules
			retract [v1.0.0, v1.2.0]`},
		mods: "X/a@v1.0.0", zips: "X/a@v1.0.0", list: "X/a@v1.0.0",
	},
	{
		name: "a workspace needs everything, and the go.mod of what it prunes",
		modules: `X/a@v1.0.0 1.17 X/b@v1.0.0
			X/b@v1.0.0 1.17 X/c@v1.0.0
			X/c@v1.0.0 1.17`,
		project: files{
			"go.work":      "go 1.24\nuse ./one\nuse ./two",
			"one/go.mod":   "module X/one\ngo 1.17\nrequire X/a v1.0.0",
			"two/go.mod":   "module X/two\ngo 1.17",
			"three/go.mod": "module X/three\ngo 1.17\nrequire X/unused v1.0.0",
		},
		mods: "X/a@v1.0.0 X/b@v1.0.0", zips: "X/a@v1.0.0 X/b@v1.0.0", list: "X/a@v1.0.0 X/b@v1.0.0",
	},
	{
		name: "what one member requires and another raises is followed a step further",
		modules: `X/a@v1.0.0 1.17
			X/a@v1.1.0 1.17 X/b@v1.0.0
			X/b@v1.0.0 1.17 X/c@v1.0.0
			X/c@v1.0.0 1.17`,
		project: files{
			"go.work":    "go 1.24\nuse ./one\nuse ./two",
			"one/go.mod": "module X/one\ngo 1.17\nrequire X/a v1.0.0",
			"two/go.mod": "module X/two\ngo 1.17\nrequire X/a v1.1.0",
		},
		mods: "X/a@v1.0.0 X/a@v1.1.0 X/b@v1.0.0 X/c@v1.0.0",
		zips: "X/a@v1.1.0 X/b@v1.0.0 X/c@v1.0.0", list: "X/a@v1.1.0 X/b@v1.0.0 X/c@v1.0.0",
	},
	{
		name: "what was raised once is followed further when it is raised again",
		modules: `X/x@v1.0.0 1.17
			X/x@v1.1.0 1.17 X/a@v1.0.0
			X/x@v1.2.0 1.17
			X/a@v1.0.0 1.17
			X/a@v1.1.0 1.17 X/c@v1.0.0
			X/a@v1.2.0 1.17 X/d@v1.0.0
			X/c@v1.0.0 1.17 X/x@v1.2.0 X/a@v1.2.0
			X/d@v1.0.0 1.17 X/e@v1.0.0
			X/e@v1.0.0 1.17
			X/y@v1.0.0 1.17 X/a@v1.1.0
			X/z@v1.0.0 1.17 X/x@v1.1.0`,
		project: files{
			"go.work":    "go 1.24\nuse ./one\nuse ./two",
			"one/go.mod": "module X/one\ngo 1.17\nrequire X/x v1.0.0\nrequire X/y v1.0.0",
			"two/go.mod": "module X/two\ngo 1.17\nrequire X/z v1.0.0",
		},
		mods: "X/a@v1.0.0 X/a@v1.1.0 X/a@v1.2.0 X/c@v1.0.0 X/d@v1.0.0 X/e@v1.0.0 X/x@v1.0.0 X/x@v1.1.0 X/x@v1.2.0 X/y@v1.0.0 X/z@v1.0.0",
		zips: "X/a@v1.2.0 X/c@v1.0.0 X/d@v1.0.0 X/e@v1.0.0 X/x@v1.2.0 X/y@v1.0.0 X/z@v1.0.0",
		list: "X/a@v1.2.0 X/c@v1.0.0 X/d@v1.0.0 X/e@v1.0.0 X/x@v1.2.0 X/y@v1.0.0 X/z@v1.0.0",
	},
	{
		name: "members in directories with absolute names",
		project: files{
			"go.work":    "go 1.24\nuse $DIR/one\nuse $DIR/two/../two",
			"one/go.mod": "module X/one\ngo 1.17",
			"two/go.mod": "module X/two\ngo 1.17",
		},
	},
	{
		name:    "where the go.work replaces a version, members may differ about the others, and the last one wins",
		modules: `X/a@v1.4.0 1.17`,
		project: files{
			"go.work":    "go 1.24\nuse ./one\nuse ./two\nreplace X/a v1.0.0 => X/a v1.2.0",
			"one/go.mod": "module X/one\ngo 1.17\nrequire X/a v1.1.0\nreplace X/a => X/a v1.3.0",
			"two/go.mod": "module X/two\ngo 1.17\nrequire X/a v1.1.0\nreplace X/a => X/a v1.4.0",
		},
		mods: "X/a@v1.4.0", zips: "X/a@v1.4.0", list: "X/a@v1.1.0",
	},
	{
		name: "members require each other",
		modules: `X/two@v1.0.0 1.17 X/a@v1.0.0
			X/a@v1.0.0 1.17`,
		project: files{
			"go.work":    "go 1.24\nuse ./one\nuse ./two",
			"one/go.mod": "module X/one\ngo 1.17\nrequire X/two v1.0.0",
			"two/go.mod": "module X/two\ngo 1.17",
		},
		mods: "X/a@v1.0.0 X/two@v1.0.0", zips: "X/a@v1.0.0", list: "X/a@v1.0.0",
	},
	{
		name: "the replacements of a go.work come first, those of members next, each from its own directory",
		modules: `X/a@v1.2.0 1.17
			X/a@v1.3.0 1.17`,
		project: files{
			"go.work":            "go 1.24\nuse ./one\nuse ./two\nreplace X/a => X/a v1.3.0",
			"one/go.mod":         "module X/one\ngo 1.17\nrequire X/a v1.0.0\nrequire X/b v1.0.0\nreplace X/a => X/a v1.2.0\nreplace X/b => ../two/b",
			"two/go.mod":         "module X/two\ngo 1.17\nrequire X/b v1.0.0\nreplace X/b => ./b",
			"two/b/go.mod":       "module X/b\ngo 1.17",
			"two/../b/elsewhere": "",
		},
		mods: "X/a@v1.3.0", zips: "X/a@v1.3.0", list: "X/a@v1.0.0 X/b@v1.0.0",
	},
	{
		name:    "what one member excludes is excluded for all",
		modules: `X/a@v1.0.0 1.17`,
		project: files{
			"go.work":    "go 1.24\nuse ./one\nuse ./two",
			"one/go.mod": "module X/one\ngo 1.17\nrequire X/a v1.0.0\nexclude X/a v1.1.0",
			"two/go.mod": "module X/two\ngo 1.17\nrequire X/a v1.1.0",
		},
		mods: "X/a@v1.0.0", zips: "X/a@v1.0.0", list: "X/a@v1.0.0",
	},
}

func TestLoad(t *testing.T) {
	for _, c := range loadCases {
		t.Run(c.name, func(t *testing.T) {
			p, dir := newMirror(t), t.TempDir()
			p.addAll(t, c.modules)
			c.project.write(t, dir)
			file := filepath.Join(dir, "go.mod")
			if _, ok := c.project["go.work"]; ok {
				file = filepath.Join(dir, "go.work")
			}

			got, asked, err := load(t, p, file)
			if err != nil {
				t.Fatal(err)
			}
			for _, list := range []struct {
				what string
				got  []module.Version
				want string
			}{
				{"requested", asked, c.mods}, {"Modules", got.Modules, c.zips}, {"BuildList", got.BuildList, c.list},
			} {
				if text := wordsOf(list.got); text != list.want {
					t.Errorf("%s: %s\nwant: %s", list.what, text, list.want)
				}
			}
			compareWithGo(t, p, file, got, asked, err)
		})
	}
}

func TestGoSums(t *testing.T) {
	dir := t.TempDir()
	files{
		"go.work":    "go 1.24\nuse ./two\nuse ./one",
		"one/go.mod": "module X/one\ngo 1.24",
		"two/go.mod": "module X/two\ngo 1.24",
		"alt.mod":    "module X/alt\ngo 1.24",
	}.write(t, dir)
	for file, want := range map[string][]string{
		"go.work":    {"go.work.sum", "two/go.sum", "one/go.sum"},
		"one/go.mod": {"one/go.sum"},
		"alt.mod":    {"alt.sum"},
	} {
		t.Run(file, func(t *testing.T) {
			file := filepath.Join(dir, filepath.FromSlash(file))
			got, err := graph.GoSums(file)
			if err != nil {
				t.Fatal(err)
			}
			var sums []string
			for _, name := range want {
				sums = append(sums, filepath.Join(dir, filepath.FromSlash(name)))
			}
			if !slices.Equal(got, sums) {
				t.Errorf("%v, want %v", got, sums)
			}
		})
	}
}
