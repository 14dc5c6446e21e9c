package main

import (
	"context"
	"slices"
	"strings"

	"github.com/modfetch/modfetch"
	"golang.org/x/mod/module"
	"golang.org/x/sync/errgroup"
)

// A target is a module as an argument names it.
type target struct {
	path  string
	query string
}

func (t target) String() string { return t.path + "@" + t.query }

// parseTargets reads arguments of the form module[@query]. One that is given twice counts once.
func parseTargets(args []string) ([]target, error) {
	var targets []target
	for _, arg := range args {
		t, err := parseTarget(arg)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(targets, t) {
			targets = append(targets, t)
		}
	}
	return targets, nil
}

func parseTarget(arg string) (target, error) {
	path, query, ok := strings.Cut(arg, "@")
	if !ok {
		query = "latest"
	}
	if err := module.CheckPath(path); err != nil {
		return target{}, usagef("argument %q: %v; want a module such as example.com/name@v1.2.3", arg, err)
	}
	if query == "" {
		return target{}, usagef("argument %q has nothing behind the @; want a version such as v1.2.3, or latest", arg)
	}
	// What is left of a range, a branch or a version has to be one element of a request's path.
	name := strings.TrimLeft(query, "<>=")
	if _, err := module.EscapeVersion(name); err != nil || strings.ContainsAny(name, " @") {
		return target{}, usagef("argument %q: %q cannot be a version; want one such as v1.2.3, or latest", arg, query)
	}
	return target{path, query}, nil
}

// resolve finds the versions that targets ask for, at most limit of them at a time.
func resolve(ctx context.Context, f *modfetch.Fetcher, targets []target, limit int) ([]modfetch.Info, []error) {
	infos := make([]modfetch.Info, len(targets))
	errs := make([]error, len(targets))
	var g errgroup.Group
	g.SetLimit(limit)
	for i, t := range targets {
		g.Go(func() error {
			if infos[i], errs[i] = f.Info(ctx, t.path, t.query); errs[i] != nil {
				errs[i] = withNear(ctx, f, errs[i])
			}
			return nil
		})
	}
	g.Wait()
	return infos, errs
}

// parsePaths reads arguments that are module paths. One that is given twice counts once.
func parsePaths(args []string) ([]string, error) {
	var paths []string
	for _, arg := range args {
		if path, _, ok := strings.Cut(arg, "@"); ok {
			return nil, usagef("argument %q has a version or query; want the module alone, %q", arg, path)
		}
		if err := module.CheckPath(arg); err != nil {
			return nil, usagef("argument %q: %v; want a module such as example.com/name", arg, err)
		}
		if !slices.Contains(paths, arg) {
			paths = append(paths, arg)
		}
	}
	return paths, nil
}
