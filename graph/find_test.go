package graph_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/modfetch/modfetch/graph"
)

var findCases = []struct {
	name   string
	files  files
	dir    string
	gowork string // $DIR is the directory of the test
	want   string // "" for none
}{
	{name: "go.mod here", files: files{"a/go.mod": "module X/a"}, dir: "a", want: "a/go.mod"},
	{name: "go.mod above", files: files{"a/go.mod": "module X/a", "a/b/c/x": ""}, dir: "a/b/c", want: "a/go.mod"},
	{name: "the nearest go.mod", files: files{"a/go.mod": "module X/a", "a/b/go.mod": "module X/b"}, dir: "a/b", want: "a/b/go.mod"},
	{name: "go.work above go.mod", files: files{"a/go.work": "go 1.24\nuse ./b", "a/b/go.mod": "module X/b"}, dir: "a/b", want: "a/go.work"},
	{name: "go.work that does not use the module", files: files{"a/go.work": "go 1.24", "a/b/go.mod": "module X/b"}, dir: "a/b", want: "a/go.work"},
	{name: "auto", files: files{"a/go.work": "go 1.24", "a/go.mod": "module X/a"}, dir: "a", gowork: "auto", want: "a/go.work"},
	{name: "off", files: files{"a/go.work": "go 1.24", "a/go.mod": "module X/a"}, dir: "a", gowork: "off", want: "a/go.mod"},
	{name: "off without go.mod", files: files{"a/go.work": "go 1.24"}, dir: "a", gowork: "off"},
	{name: "a named workspace", files: files{"a/go.work": "go 1.24", "w/my.work": "go 1.24"}, dir: "a", gowork: "$DIR/w/my.work", want: "w/my.work"},
	{name: "directories of these names", files: files{"a/go.mod": "module X/a", "a/b/go.mod/x": "", "a/b/go.work/x": ""}, dir: "a/b", want: "a/go.mod"},
	{name: "nothing", files: files{"a/x": ""}, dir: "a"},
	{name: "go.mod in the directory for temporary files", files: files{"go.mod": "module X/tmp", "a/x": ""}, dir: "a"},
}

func TestFind(t *testing.T) {
	for _, c := range findCases {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			c.files.write(t, root)
			t.Setenv("TMPDIR", root)
			t.Setenv("TMP", root)
			dir := filepath.Join(root, filepath.FromSlash(c.dir))
			gowork := os.Expand(c.gowork, func(string) string { return root })
			want := ""
			if c.want != "" {
				want = filepath.Join(root, filepath.FromSlash(c.want))
			}

			got, err := graph.Find(dir, gowork)
			if got != want || errors.Is(err, fs.ErrNotExist) != (want == "") {
				t.Errorf("Find returned %q and the error %v, want %q", got, err, want)
			}

			t.Chdir(dir)
			if relative, err := graph.Find(".", gowork); relative != got {
				t.Errorf("Find of . returned %q and the error %v, want %q", relative, err, got)
			}

			g := newGoCommand(t, "off", gowork)
			g.env = append(g.env, "TMPDIR="+root, "TMP="+root)
			out, err := g.run(dir, "env", "-json", "GOMOD", "GOWORK")
			if err != nil {
				t.Fatal(err)
			}
			var found struct{ GOMOD, GOWORK string }
			if err := json.Unmarshal([]byte(out), &found); err != nil {
				t.Fatal(err)
			}
			if found.GOWORK == "" || found.GOWORK == "off" {
				found.GOWORK = found.GOMOD
			}
			if found.GOWORK == os.DevNull {
				found.GOWORK = ""
			}
			if found.GOWORK != want {
				t.Errorf("the go command finds %q, want %q", found.GOWORK, want)
			}
		})
	}
}

func TestFindBadGOWORK(t *testing.T) {
	got, err := graph.Find(t.TempDir(), "go.work")
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Find returned %q and the error %v, want one that refuses a relative GOWORK", got, err)
	}
}
