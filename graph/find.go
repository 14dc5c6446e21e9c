package graph

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Find returns the file that applies in a directory: the go.work in it or in the nearest directory above it, else the
// go.mod. The name is absolute.
//
// The second argument is the value of GOWORK: off ignores workspaces, an absolute file name is the workspace, and "" or
// auto searches for it. As in the go command, a go.mod directly in the system's directory for temporary files is
// ignored.
//
// Where nothing applies, the error satisfies errors.Is(err, fs.ErrNotExist).
func Find(dir, gowork string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	switch gowork {
	case "off":
	case "", "auto":
		if file := above(dir, "go.work"); file != "" {
			return file, nil
		}
	default:
		if !filepath.IsAbs(gowork) {
			return "", fmt.Errorf("GOWORK=%s: must be an absolute file name, off or auto", gowork)
		}
		return gowork, nil
	}
	file := above(dir, "go.mod")
	if file == "" || isTempDir(filepath.Dir(file)) {
		return "", fmt.Errorf("no go.work or go.mod in %s or above: %w", dir, fs.ErrNotExist)
	}
	return file, nil
}

// above returns the file of that name in dir or the nearest directory above it, or "".
func above(dir, name string) string {
	for {
		file := filepath.Join(dir, name)
		if info, err := os.Stat(file); err == nil && !info.IsDir() {
			return file
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return ""
		}
		dir = parent
	}
}

func isTempDir(dir string) bool {
	a, err := os.Stat(dir)
	if err != nil {
		return false
	}
	b, err := os.Stat(os.TempDir())
	return err == nil && os.SameFile(a, b)
}
