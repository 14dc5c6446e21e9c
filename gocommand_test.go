package modfetch_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// needGo returns the go command, the oracle for what it leaves behind.
func needGo(t testing.TB) string {
	t.Helper()
	name, err := exec.LookPath("go")
	if err != nil {
		t.Skip("there is no go command to compare with")
	}
	return name
}

// runGo runs the go command in an empty directory and returns its output.
func runGo(t testing.TB, name string, env []string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = t.TempDir()
	cmd.Env = env
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// diffTrees compares two trees by name, permissions and content, but for lock files and the state of checksum databases.
func diffTrees(t testing.TB, a, b string) string {
	t.Helper()
	var diff strings.Builder
	x, y := snapshot(t, a), snapshot(t, b)
	for name, what := range x {
		if other, ok := y[name]; !ok {
			fmt.Fprintf(&diff, "only in %s: %s\n", a, name)
		} else if other != what {
			fmt.Fprintf(&diff, "%s: %.100q and %.100q\n", name, what, other)
		}
	}
	for name := range y {
		if _, ok := x[name]; !ok {
			fmt.Fprintf(&diff, "only in %s: %s\n", b, name)
		}
	}
	return diff.String()
}

func snapshot(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		if strings.HasSuffix(name, ".lock") || name == "cache/lock" {
			return nil
		}
		switch name {
		case "cache/download/sumdb", "cache/modfetch/sumdb":
			return fs.SkipDir
		case "cache/modfetch":
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		what := info.Mode().String()
		if !d.IsDir() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			what += " " + string(bytes.Clone(data))
		}
		out[name] = what
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// chmodAll lets a tree with read-only directories be removed.
func chmodAll(dir string) {
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			os.Chmod(path, 0o777)
		}
		return nil
	})
}
