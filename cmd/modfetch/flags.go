package main

import (
	"errors"
	"flag"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/module"
)

const downloadHelp = `usage: modfetch download [flags] [module[@query] ...]

Download puts verified modules into the go command's module cache.

Without arguments it downloads what the project needs: the modules that
'go mod download' would, for the go.work or go.mod file in this directory or
the nearest one above it, or for the one in GOWORK. With arguments it downloads
those modules, whether or not the project uses them. A query is a version such
as v1.2.3, or latest, which is also meant where there is none.

Settings are the go command's: GOPROXY, GOSUMDB, GOPRIVATE, GOMODCACHE and so
on, from the environment, from the file that 'go env -w' writes, and from the
Go installation. Files are held against the project's go.sum, if there is a
project, and else against the checksum database.

  -C dir            work in dir; other directories are relative to it
  -mirrors list     use these mirrors instead of those in GOPROXY; the form is
                    alike: 'https://goproxy.cn|https://corp.example,direct';
                    cn stands for five public mirrors that can be reached from
                    mainland China, taken as equal
  -stagger d        take mirrors joined by | as equal: ask the quicker ones
                    first, and the next one too if there is no answer within d,
                    such as 300ms, or within three times what is usual
  -race             take them as equal, and ask all of them at once; for a zip,
                    only until it is known which are quick
  -modcache dir     use this module cache instead of GOMODCACHE
  -jobs n           send at most n requests at a time; the default is 64
  -no-extract       leave modules as zip files
  -update-sum       add missing sums to go.sum, or to a workspace's go.work.sum:
                    of the modules, and of all go.mod files of the project;
                    without this flag those files are never written
  -json             print an object to standard output as each module completes
  -progress when    show a live line on standard error: always, never, or auto,
                    which is on a terminal and the default; without it, print a
                    line for each module that was not in the cache
  -x                print a line to standard error for each request

The objects that -json prints have the fields of 'go mod download -json', and:

  Mirror            that sent the zip; absent if it was in the cache
  VerifiedBy        who vouched for the zip: go.sum, or the checksum database
  GoModVerifiedBy   the same for the go.mod file
  Unverified        instead: the setting that exempts the module

The exit code is 0 if all went well, 1 if a module failed, 2 for a mistake in
the command line, and 130 after an interrupt. What was complete by then is in
the cache, and need not be downloaded again.
`

// downloadFlags are the arguments of modfetch download.
type downloadFlags struct {
	settings
	jobs      int
	noExtract bool
	updateSum bool
	json      bool
	progress  string // auto, always or never
	x         bool
	targets   []target
}

// A target is a module as an argument names it.
type target struct {
	path  string
	query string
}

func (t target) String() string { return t.path + "@" + t.query }

func parseDownload(args []string) (*downloadFlags, error) {
	f := &downloadFlags{jobs: 64, progress: "auto"}
	set := flag.NewFlagSet("download", flag.ContinueOnError)
	set.BoolVar(&f.noExtract, "no-extract", false, "")
	set.BoolVar(&f.updateSum, "update-sum", false, "")
	set.BoolVar(&f.json, "json", false, "")
	set.BoolVar(&f.x, "x", false, "")
	set.Func("jobs", "", func(s string) (err error) {
		if f.jobs, err = strconv.Atoi(s); err != nil || f.jobs < 1 {
			return errors.New("want a whole number, 1 or more")
		}
		return nil
	})
	set.Func("progress", "", func(s string) error {
		f.progress = s
		if !slices.Contains([]string{"auto", "always", "never"}, s) {
			return errors.New("want auto, always or never")
		}
		return nil
	})
	if err := f.settings.parse(set, args, "C", "mirrors", "modcache", "race", "stagger"); err != nil {
		return nil, err
	}
	var err error
	f.targets, err = parseTargets(set.Args())
	return f, err
}

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
	if strings.HasPrefix(arg, "-") {
		return target{}, usagef("%q comes after a module; flags go before modules", arg)
	}
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
