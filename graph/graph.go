// Package graph finds out what a project needs: the modules that `go mod download` without arguments would fetch for a
// go.mod or go.work file.
//
// [Find] finds the file that applies in a directory. [Load] reads it, asks a [Source] for the go.mod files that the go
// command would read, each as soon as another one names it, and selects versions by minimal version selection with
// graph pruning, replacements and exclusions. [Required] reads what the file lists itself, and asks nobody.
//
// The Source is trusted to verify what it returns; this package only parses it. The project's own files, local
// replacements among them, are read from disk and believed.
package graph

import (
	"context"
	"fmt"
	"maps"
	"runtime"
	"slices"

	"golang.org/x/mod/module"
	"golang.org/x/sync/errgroup"
)

// A Source gives verified go.mod files. A *modfetch.Fetcher is one. It must be safe for concurrent use.
type Source interface {
	// GoMod returns the go.mod file of m, or of the placeholder where the module has none. It has to check m, which is
	// as some other go.mod file names it, and has to return soon after ctx is done.
	GoMod(ctx context.Context, m module.Version) ([]byte, error)
}

// A Graph is what a main module or a workspace needs.
type Graph struct {
	// Modules are the modules to download, in the order of module.Sort. A replaced module is listed as its replacement,
	// and not at all if that is a directory.
	//
	// They are the modules that go.mod requires, at their selected versions; in a workspace, and for a main module
	// before go 1.17, all selected modules. A go.mod without a go line counts as a new one, as in the go command, which
	// adds the line while it downloads.
	Modules []module.Version

	// BuildList is the selected version of every module in the graph but the main modules, in the order of module.Sort
	// and without regard to replacements.
	BuildList []module.Version
}

const defaultJobs = 64

// Load returns what a go.mod or go.work file needs. A name that ends in .mod is a go.mod file, any other a go.work.
//
// It asks src once for each go.mod file that `go mod download` would read: those in the module graph, and those of the
// Modules that pruning left out of it. At most jobs requests run at a time; 0 means 64, because go.mod files are small
// and a graph is some ten of them deep.
//
// Requirements that are lower than what the graph selects are raised, as `go mod download` does, but no file is
// written. A version in the project's own go.mod that is not canonical, such as a branch, is an error. Go versions are
// not held against each other, and a vendor directory is ignored.
//
// The first failure ends the loading. Its error names the requirements that lead to the module, and wraps what src
// returned, or the error of ctx. No goroutine outlives the call.
func Load(ctx context.Context, src Source, file string, jobs int) (*Graph, error) {
	if jobs <= 0 {
		jobs = defaultJobs
	}
	p, err := readProject(file)
	if err != nil {
		return nil, err
	}
	r := &reader{project: p, src: src, jobs: jobs, parsers: make(chan struct{}, runtime.GOMAXPROCS(0)), files: make(map[module.Version]readFunc)}
	g, err := load(ctx, r)
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err() // what src made of it need not wrap it
		}
		return nil, fmt.Errorf("module graph of %s: %w", file, err)
	}
	return g, nil
}

func load(ctx context.Context, r *reader) (*Graph, error) {
	p := r.project
	w, err := selectVersions(ctx, r)
	if err != nil {
		return nil, err
	}
	g := &Graph{BuildList: w.buildList()}

	needed := g.BuildList
	if !p.needsAll() {
		needed = w.raise(p.explicit())
	}
	modules := p.toDownload(needed)
	g.Modules = sorted(modules)

	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(r.jobs)
	for _, m := range g.Modules {
		if _, ok := r.files[m]; !ok {
			// Nobody parses it, neither here nor in the go command.
			group.Go(func() error {
				if _, err := r.request(ctx, m); err != nil {
					return fmt.Errorf("%s: %w", w.chain(modules[m]), err)
				}
				return nil
			})
		}
	}
	return g, group.Wait()
}

// Required returns what Load would return as Modules if nothing in a go.mod file had to be raised, as is so after `go mod
// tidy`. It asks nobody, so that a download can begin while Load still reads. For a workspace, and for a main module before
// go 1.17, only Load can tell: there are none.
func Required(file string) ([]module.Version, error) {
	p, err := readProject(file)
	if err != nil || p.needsAll() {
		return nil, err
	}
	return sorted(p.toDownload(p.goMod(p.members[0].parsed).require)), nil
}

func sorted(modules map[module.Version]module.Version) []module.Version {
	list := slices.Collect(maps.Keys(modules))
	module.Sort(list)
	return list
}
