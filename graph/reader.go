package graph

import (
	"context"
	"errors"
	"fmt"
	"go/version"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
)

// A reader reads the go.mod files of dependencies, each file once. It is safe for concurrent use, by jobs goroutines at most.
type reader struct {
	project *project
	src     Source
	jobs    int
	parsers chan struct{} // as many as there are processors: parsing may take 350 times a file's size in memory

	mu    sync.Mutex                  // guards files
	files map[module.Version]readFunc // by what is read, which is a replacement and not what it replaces
}

type readFunc func() (*goMod, error)

// read returns the go.mod of m, or of its replacement.
func (r *reader) read(ctx context.Context, m module.Version) (*goMod, error) {
	from := r.project.replaced(m)
	r.mu.Lock()
	read, ok := r.files[from]
	if !ok {
		read = sync.OnceValues(func() (*goMod, error) { return r.readFile(ctx, from) })
		r.files[from] = read
	}
	r.mu.Unlock()

	mod, err := read()
	switch {
	case err != nil:
	case from.Version == "":
		// A directory may call itself what it likes.
	case mod.path == "":
		err = errors.New("its go.mod has no module line")
	case mod.path != m.Path && mod.path != from.Path:
		err = fmt.Errorf("its go.mod says that it is module %s", mod.path)
	}
	if err != nil && from != m {
		err = fmt.Errorf("replaced by %v: %w", from, err)
	}
	return mod, err
}

func (r *reader) readFile(ctx context.Context, m module.Version) (*goMod, error) {
	name := "go.mod"
	var text []byte
	var err error
	if m.Version == "" {
		name = filepath.Join(m.Path, name)
		text, err = os.ReadFile(name)
	} else {
		text, err = r.request(ctx, m)
	}
	if err != nil {
		return nil, err
	}
	if len(text) > maxGoMod {
		return nil, fmt.Errorf("its go.mod has %d bytes; at most %d are read", len(text), maxGoMod)
	}
	r.parsers <- struct{}{}
	defer func() { <-r.parsers }()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if mod, ok := r.project.plain(text); ok {
		return mod, nil
	}
	f, err := modfile.ParseLax(name, text, nil)
	if list := (modfile.ErrorList)(nil); errors.As(err, &list) && len(list) > maxErrors {
		err = slices.Clone(list[:maxErrors]) // a clone, to let go of what may be one for each line
	}
	if err != nil {
		return nil, err
	}
	return r.project.goMod(f), nil
}

const (
	maxGoMod  = 1 << 20 // bytes
	maxErrors = 5       // of one file
)

// request asks the source for a go.mod file.
func (r *reader) request(ctx context.Context, m module.Version) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return r.src.GoMod(ctx, m)
}

// A goMod is what the go.mod file of one module says.
type goMod struct {
	path    string // of its module line; "" if it has none
	prunes  bool
	require []module.Version // without what the project excludes
}

func (p *project) goMod(f *modfile.File) *goMod {
	mod := &goMod{}
	if f.Go != nil {
		mod.prunes = prunes(f.Go.Version)
	}
	if f.Module != nil {
		mod.path = f.Module.Mod.Path
	}
	for _, r := range f.Require {
		p.require(mod, r.Mod)
	}
	return mod
}

// require takes in a line of mod, unless it is one that the project excludes.
func (p *project) require(mod *goMod, m module.Version) {
	if !p.exclude[m] && !isToolchain(m.Path) {
		mod.require = append(mod.require, m)
	}
}

// prunes reports whether a go.mod file with this go line is complete, as it is since go 1.17: it lists every module that its
// packages import from, directly or not, so that the requirements of those can be left alone. Without a go line it is an old
// one.
func prunes(goVersion string) bool {
	return goVersion != "" && version.Compare("go"+goVersion, "go1.17") >= 0
}

// isToolchain reports whether a path stands for a version of Go, and for nothing that can be fetched.
func isToolchain(path string) bool { return path == "go" || path == "toolchain" }
