package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const mainGo = "package main\n\nimport _ \"example.com/a\"\n\nfunc main() {}\n"

// TestUpdateSum compares go.sum with what go mod tidy writes.
func TestUpdateSum(t *testing.T) {
	w := newWorld(t)
	w.write(w.dir, "go.mod", mainMod, "main.go", mainGo)
	theirs := t.TempDir()
	w.write(theirs, "go.mod", mainMod, "main.go", mainGo)
	w.goCommand(theirs, "mod", "tidy")
	if got := w.read(theirs, "go.mod"); got != mainMod {
		t.Fatalf("the test's go.mod is not tidy:\n%s", got)
	}
	want := w.read(theirs, "go.sum")
	if strings.Count(want, "\n") != 7 {
		t.Fatalf("go.sum of the go command:\n%s", want)
	}

	if code, _, stderr := w.modfetch("download", "-update-sum"); code != exitOK || !strings.HasSuffix(stderr, "\ngo.sum: 7 lines added\n") {
		t.Errorf("exit code %d", code)
	}
	if got := w.read(w.dir, "go.sum"); got != want {
		t.Errorf("go.sum\n%sthe go command's\n%s", got, want)
	}

	// What is there stays: lines of other modules, permissions, and the file behind a symbolic link.
	const other = "example.com/z v1.0.0 h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"
	name := filepath.Join(w.dir, "go.sum")
	if err := os.Rename(name, filepath.Join(w.dir, "real.sum")); err != nil {
		t.Fatal(err)
	}
	w.write(w.dir, "real.sum", other)
	if err := os.Chmod(filepath.Join(w.dir, "real.sum"), 0o640); err != nil {
		t.Fatal(err)
	}
	old, err := os.Lstat(filepath.Join(w.dir, "real.sum"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real.sum", name); err != nil {
		t.Skip(err)
	}
	w.modfetch("download", "-update-sum")
	if got := w.read(w.dir, "real.sum"); got != want+other {
		t.Errorf("with another line in it\n%s", got)
	}
	info, err := os.Lstat(filepath.Join(w.dir, "real.sum"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != old.Mode() {
		t.Errorf("the mode of go.sum was %v and is %v", old.Mode(), info.Mode())
	}
	if _, err := os.Readlink(name); err != nil {
		t.Error(err)
	}
	if files, _ := filepath.Glob(filepath.Join(w.dir, "*.tmp")); len(files) > 0 {
		t.Errorf("left behind: %v", files)
	}

	// Nothing is missing, so nothing is written.
	if err := os.Chmod(w.dir, 0o555); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(w.dir, 0o777)
	before := info.ModTime()
	if code, _, stderr := w.modfetch("download", "-update-sum"); code != exitOK || !strings.HasSuffix(stderr, "\ngo.sum: 0 lines added\n") {
		t.Errorf("exit code %d", code)
	}
	if info, err := os.Stat(name); err != nil || !info.ModTime().Equal(before) {
		t.Errorf("a complete go.sum was written again: %v", err)
	}
}

func TestUpdateSumOfArguments(t *testing.T) {
	w := newWorld(t)
	w.write(w.dir, "go.mod", "module example.com/main\n\ngo 1.22\n\nrequire example.com/c v1.0.0\n")
	w.modfetch("download", "-update-sum", "example.com/c@v1.0.0")
	theirs := t.TempDir()
	w.write(theirs, "go.mod", w.read(w.dir, "go.mod"))
	w.goCommand(theirs, "mod", "download", "example.com/c@v1.0.0")
	got, want := w.read(w.dir, "go.sum"), w.read(theirs, "go.sum")
	if got == "" || got != want {
		t.Errorf("go.sum\n%sthe go command's\n%s", got, want)
	}
}

func TestUpdateSumOfWorkspace(t *testing.T) {
	w := newWorld(t)
	theirs := t.TempDir()
	for _, dir := range []string{w.dir, theirs} {
		w.write(dir,
			"go.work", "go 1.22\n\nuse ./x\n\nuse ./y\n",
			"x/go.mod", "module example.com/x\n\ngo 1.22\n\nrequire example.com/c v1.0.0\n",
			"x/go.sum", w.GoSum("example.com/c", "v1.0.0"),
			"y/go.mod", "module example.com/y\n\ngo 1.22\n\nrequire example.com/b v1.0.0\n\nrequire example.com/c v1.0.0 // indirect\n",
		)
	}
	w.goCommand(theirs, "mod", "download")
	code, _, stderr := w.modfetch("download", "-update-sum")
	got, want := w.read(w.dir, "go.work.sum"), w.read(theirs, "go.work.sum")
	if code != exitOK || want == "" || got != want || !strings.Contains(stderr, "go.work.sum: 2 lines added\n") {
		t.Errorf("exit code %d; go.work.sum\n%sthe go command's\n%s", code, got, want)
	}
	if !strings.Contains(stderr, "  by go.sum\n") {
		t.Errorf("the member's go.sum was not heeded")
	}
	if w.read(w.dir, "y/go.sum") != "" {
		t.Errorf("a member's go.sum was written")
	}
}

func TestGoSumIsLeftAlone(t *testing.T) {
	for _, test := range []struct {
		name string
		args []string
	}{
		{"project", nil},
		{"arguments", []string{"example.com/c@v1.0.0", "example.com/a@latest"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			w.write(w.dir, "go.mod", mainMod)
			if code, _, _ := w.modfetch(append([]string{"download"}, test.args...)...); code != exitOK {
				t.Errorf("exit code %d", code)
			}
			entries, err := os.ReadDir(w.dir)
			if err != nil || len(entries) != 1 {
				t.Errorf("beside go.mod there is %v, %v", entries, err)
			}
		})
	}
}

// TestGoSumCounts has a go.sum that contradicts the checksum database.
func TestGoSumCounts(t *testing.T) {
	for _, test := range []struct {
		name  string
		files []string
		args  []string
	}{
		{"project", []string{"go.mod", mainMod, "go.sum"}, nil},
		{"arguments", []string{"go.mod", mainMod, "go.sum"}, []string{"example.com/c@v1.1.0"}},
		{"above", []string{"../go.mod", mainMod, "../go.sum"}, []string{"example.com/c@v1.1.0"}},
		{"workspace", []string{"../go.work", "go 1.22\n\nuse ./m\n", "../m/go.mod", mainMod, "../m/go.sum"}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			w.dir = filepath.Join(w.dir, "dir")
			lines := "example.com/c v1.1.0 h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"
			w.write(w.dir, "keep", "")
			w.write(w.dir, append(slices.Clone(test.files), lines)...)
			code, _, stderr := w.modfetch(append([]string{"download"}, test.args...)...)
			if code != exitFailed || !strings.Contains(stderr, "checksum mismatch for example.com/c@v1.1.0") {
				t.Errorf("exit code %d", code)
			}
		})
	}
}

func TestGOWORK(t *testing.T) {
	w := newWorld(t)
	w.write(w.dir,
		"go.mod", "module example.com/main\n\ngo 1.22\n\nrequire example.com/c v1.0.0\n",
		"elsewhere/go.work", "go 1.22\n\nuse ./x\n",
		"elsewhere/x/go.mod", "module example.com/x\n\ngo 1.22\n\nrequire example.com/b v1.0.0\n\nrequire example.com/c v1.0.0 // indirect\n",
		"go.work", "this is no workspace\n",
	)
	t.Setenv("GOWORK", "off")
	if _, _, stderr := w.modfetch("download"); !strings.Contains(stderr, "1 module: ") {
		t.Errorf("off is not heeded")
	}
	t.Setenv("GOWORK", filepath.Join(w.dir, "elsewhere", "go.work"))
	if _, _, stderr := w.modfetch("download"); !strings.Contains(stderr, "2 modules: ") {
		t.Errorf("the file is not heeded")
	}
	t.Setenv("GOWORK", filepath.Join(w.dir, "nowhere", "go.work"))
	if code, _, stderr := w.modfetch("download"); code != exitFailed || !strings.Contains(stderr, "GOWORK=off") {
		t.Errorf("exit code %d for a file that does not exist", code)
	}
}
