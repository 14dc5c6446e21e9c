package graph

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
	"golang.org/x/sync/errgroup"
)

// A walk follows requirements from the main modules and selects the highest version of each path it meets.
type walk struct {
	reader *reader

	mu       sync.Mutex // guards the following while an errgroup runs
	visited  map[visit]bool
	todo     []visit                             // of the visited, those that nobody has begun
	workers  int                                 // goroutines that take from it
	requires map[module.Version][]module.Version // of the modules that were read
	selected map[string]string                   // version by path; "" for a main module
	requirer map[module.Version]module.Version   // who was first seen to require a module
}

// A visit is a module to read, and how far to follow its requirements. Also those that are not followed take part in the
// selection.
type visit struct {
	module module.Version
	follow follow
}

type follow int

const (
	everything follow = iota // what it requires, what that requires, and so on
	nothing                  // or everything, if the module does not prune: for what a pruning module requires
	direct                   // what it requires, and no further where the module prunes: for a main module
)

// next says how to follow what mod requires, if at all.
func (f follow) next(mod *goMod) (follow, bool) {
	switch {
	case f == everything, !mod.prunes:
		return everything, true
	case f == direct:
		return nothing, true
	}
	return 0, false
}

// selectVersions walks the graph as the go command does for the project.
func selectVersions(ctx context.Context, r *reader) (*walk, error) {
	p := r.project
	w := newWalk(r, make(map[module.Version]module.Version))
	if p.workspace {
		return w, w.members(ctx)
	}

	main := p.goMod(p.members[0].parsed)
	if !main.prunes {
		return w, w.from(ctx, main)
	}
	// A go.mod that prunes is read as if each path stood in it once, at the version that the whole graph selects. A
	// root that is raised brings other requirements, so look again until nothing moves.
	w.add(module.Version{Path: main.path}, main.require)
	for {
		roots := w.raise(main.require)
		main = &goMod{path: main.path, prunes: true, require: roots}
		w = newWalk(r, w.requirer)
		if err := w.from(ctx, main); err != nil {
			return nil, err
		}
		if slices.Equal(w.raise(roots), roots) {
			return w, nil
		}
	}
}

func newWalk(r *reader, requirer map[module.Version]module.Version) *walk {
	w := &walk{
		reader:   r,
		visited:  make(map[visit]bool),
		requires: make(map[module.Version][]module.Version),
		selected: make(map[string]string),
		requirer: requirer,
	}
	for _, m := range r.project.members {
		w.selected[m.path] = ""
	}
	return w
}

// from walks from the one main module.
func (w *walk) from(ctx context.Context, main *goMod) error {
	group, ctx := errgroup.WithContext(ctx)
	w.mu.Lock()
	w.enter(ctx, group, visit{module.Version{Path: main.path}, direct}, main)
	w.mu.Unlock()
	return group.Wait()
}

// members walks from the members of a workspace.
//
// Members are not kept consistent with each other, so what one of them lists may be raised by another, and then its
// list says nothing about the higher version. Such a version is treated like a member, and so is what it raises in turn.
func (w *walk) members(ctx context.Context) error {
	group, groupCtx := errgroup.WithContext(ctx)
	like := make(map[module.Version]bool)
	w.mu.Lock()
	for _, m := range w.reader.project.members {
		main := module.Version{Path: m.path}
		like[main] = true
		w.enter(groupCtx, group, visit{main, direct}, w.reader.project.goMod(m.parsed))
	}
	w.mu.Unlock()
	if err := group.Wait(); err != nil {
		return err
	}
	for {
		raised := w.raisedBy(like)
		if len(raised) == 0 {
			return nil
		}
		group, groupCtx := errgroup.WithContext(ctx)
		w.mu.Lock()
		for _, m := range raised {
			like[m] = true
			w.visit(groupCtx, group, visit{m, direct})
		}
		w.mu.Unlock()
		if err := group.Wait(); err != nil {
			return err
		}
	}
}

// raisedBy returns the selected versions that are not in like, but are of the path of one that is, or are required at a
// lower version by one that is selected.
func (w *walk) raisedBy(like map[module.Version]bool) []module.Version {
	var raised []module.Version
	for m := range like {
		s := module.Version{Path: m.Path, Version: w.selected[m.Path]}
		if !like[s] {
			raised = append(raised, s)
			continue
		}
		for _, r := range w.requires[s] {
			s := module.Version{Path: r.Path, Version: w.selected[r.Path]}
			if !like[s] && semver.Compare(s.Version, r.Version) > 0 {
				raised = append(raised, s)
			}
		}
	}
	return raised
}

// visit has a module read by a goroutine of the group, which goes on from there. w.mu is held.
func (w *walk) visit(ctx context.Context, group *errgroup.Group, v visit) {
	if w.visited[v] {
		return
	}
	w.visited[v] = true
	w.todo = append(w.todo, v)
	if w.workers < w.reader.jobs {
		w.workers++
		group.Go(func() error { return w.work(ctx, group) })
	}
}

// work reads modules until none is left to do. A goroutine for each would be simpler, but spend more time on growing its
// stack than on a file that is in a cache.
func (w *walk) work(ctx context.Context, group *errgroup.Group) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.todo) > 0 {
		v := w.todo[0]
		w.todo = w.todo[1:]
		w.mu.Unlock()
		mod, err := w.reader.read(ctx, v.module)
		w.mu.Lock()
		if err != nil {
			return fmt.Errorf("%s: %w", w.chain(v.module), err)
		}
		w.enter(ctx, group, v, mod)
	}
	w.workers--
	return nil
}

// enter takes in what a module requires, and visits it as far as v says. w.mu is held.
func (w *walk) enter(ctx context.Context, group *errgroup.Group, v visit, mod *goMod) {
	w.add(v.module, mod.require)
	if next, ok := v.follow.next(mod); ok {
		for _, m := range mod.require {
			w.visit(ctx, group, visit{m, next})
		}
	}
}

// add takes in what a module requires. w.mu is held.
func (w *walk) add(m module.Version, require []module.Version) {
	w.requires[m] = require
	for _, r := range require {
		if v, ok := w.selected[r.Path]; !ok || v != "" && semver.Compare(r.Version, v) > 0 {
			w.selected[r.Path] = r.Version
		}
		if _, ok := w.requirer[r]; !ok {
			w.requirer[r] = m
		}
	}
}

// raise returns the selected version of each path in a list, sorted, without the main module.
func (w *walk) raise(list []module.Version) []module.Version {
	var raised []module.Version
	for _, m := range list {
		if v := w.selected[m.Path]; v != "" {
			raised = append(raised, module.Version{Path: m.Path, Version: v})
		}
	}
	module.Sort(raised)
	return raised
}

// buildList returns the selected version of every path, sorted, without the main modules.
func (w *walk) buildList() []module.Version {
	var list []module.Version
	for path, v := range w.selected {
		if v != "" {
			list = append(list, module.Version{Path: path, Version: v})
		}
	}
	module.Sort(list)
	return list
}

// chain says who requires m, from the main module on.
func (w *walk) chain(m module.Version) string {
	text := m.String()
	for {
		by, ok := w.requirer[m]
		if !ok {
			return text
		}
		text = by.String() + " requires " + text
		m = by
	}
}
