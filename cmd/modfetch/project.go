package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/graph"
	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/dirhash"
)

// A project is the main module or the workspace that a directory belongs to.
type project struct {
	file   string   // go.mod or go.work
	goSums []string // that apply to it; new lines go into the first one
}

// findProject returns the project of a directory, or an error that satisfies errors.Is(err, fs.ErrNotExist).
func findProject(dir string) (*project, error) {
	file, err := graph.Find(dir, os.Getenv("GOWORK"))
	if err != nil {
		return nil, err
	}
	goSums, err := graph.GoSums(file)
	if err != nil {
		text := err.Error() // not the error: there is a project, which must not be taken for none
		if !strings.HasSuffix(file, ".mod") {
			text += "; with GOWORK=off, the workspace is ignored"
		}
		return nil, errors.New(text)
	}
	return &project{file, goSums}, nil
}

// A sumRecorder is a graph.Source that notes the hashes of the go.mod files it hands out.
type sumRecorder struct {
	src  graph.Source
	mu   sync.Mutex // guards sums
	sums sums
}

// sums maps modules to hashes as go.sum does: the version ends in "/go.mod" for a go.mod file.
type sums map[module.Version]string

func (s sums) addGoMod(m module.Version, sum string) {
	s[module.Version{Path: m.Path, Version: m.Version + "/go.mod"}] = sum
}

func (r *sumRecorder) GoMod(ctx context.Context, m module.Version) ([]byte, error) {
	data, err := r.src.GoMod(ctx, m)
	if err != nil {
		return nil, err
	}
	sum, err := dirhash.Hash1([]string{"go.mod"}, func(string) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data)), nil
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sums.addGoMod(m, sum)
	return data, err
}

// addSums adds what none of the go.sum files has to the first of them, and returns the number of lines. A file that is
// complete is not touched.
func (p *project) addSums(ctx context.Context, s sums) (added int, err error) {
	all, err := modfetch.LoadGoSum(p.goSums...)
	if err != nil {
		return 0, err
	}
	own, err := modfetch.LoadGoSum(p.goSums[0])
	if err != nil {
		return 0, err
	}
	for m, sum := range s {
		if have, _ := all.Sums(ctx, m); !slices.Contains(have, sum) {
			own.Add(m, sum)
			added++
		}
	}
	if added == 0 {
		return 0, nil
	}
	var text bytes.Buffer
	if _, err := own.WriteTo(&text); err != nil {
		return 0, err
	}
	return added, replaceFile(p.goSums[0], text.Bytes())
}

// replaceFile writes a file beside the named one and renames it. Permissions stay as they are, and a symbolic link goes
// on pointing where it did.
func replaceFile(name string, data []byte) (err error) {
	if file, err := filepath.EvalSymlinks(name); err == nil {
		name = file
	}
	temp := name + "." + strconv.FormatInt(time.Now().UnixNano(), 36) + ".tmp"
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close() // may be closed already
			os.Remove(temp)
		}
	}()
	if info, err := os.Stat(name); err == nil {
		if err := f.Chmod(info.Mode().Perm()); err != nil {
			return err
		}
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(temp, name)
}
