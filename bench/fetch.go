package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/graph"
	"golang.org/x/mod/module"
)

// strategies are the ways to ask several mirrors that are measured.
var strategies = []strategy{
	{"chain", nil},
	{"race", []modfetch.Option{modfetch.WithStrategy(modfetch.Race())}},
	{"stagger", []modfetch.Option{modfetch.WithStrategy(modfetch.Stagger(300 * time.Millisecond))}},
}

// A strategy is known by its name and made by options.
type strategy struct {
	name    string
	options []modfetch.Option
}

// clientStats is what a Fetcher's Trace has told.
type clientStats struct {
	Read     int64          // bytes of all bodies, also of those that were of no use
	Failures map[string]int // attempts by Mirror and Kind
}

// runFetch drives the library: it downloads what the project in this directory needs, or the modules in args.
func runFetch(args []string) error {
	flags := flag.NewFlagSet("fetch", flag.ContinueOnError)
	graphOnly := flags.Bool("graph", false, "")
	name := flags.String("strategy", "chain", "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	env, err := modfetch.SystemGoEnv()
	if err != nil {
		return err
	}
	stats := clientStats{Failures: make(map[string]int)}
	var mu sync.Mutex // guards stats
	options := []modfetch.Option{modfetch.WithGoEnv(env), modfetch.WithTrace(&modfetch.Trace{
		AttemptDone: func(_ context.Context, i modfetch.AttemptInfo) {
			mu.Lock()
			defer mu.Unlock()
			stats.Read += i.Bytes
			if i.Err != nil {
				stats.Failures[i.Mirror+" "+string(i.Kind)]++
			}
		},
	})}
	known := false
	for _, s := range strategies {
		if s.name == *name {
			options, known = append(options, s.options...), true
		}
	}
	if !known {
		return fmt.Errorf("no strategy %q", *name)
	}
	var modules []module.Version
	for _, arg := range flags.Args() {
		path, version, _ := strings.Cut(arg, "@")
		modules = append(modules, module.Version{Path: path, Version: version})
	}
	if len(modules) == 0 {
		goSum, err := modfetch.LoadGoSum("go.sum")
		if err != nil {
			return err
		}
		options = append(options, modfetch.WithGoSum(goSum))
	}
	f, err := modfetch.New(options...)
	if err != nil {
		return err
	}
	defer f.Close()
	ctx := context.Background() // the process is killed
	if len(modules) == 0 {
		g, err := graph.Load(ctx, f, "go.mod", 0)
		if err != nil {
			return err
		}
		modules = g.Modules
	}
	var failed []error
	if !*graphOnly {
		for m, err := range f.Download(ctx, modules) {
			if err != nil {
				failed = append(failed, fmt.Errorf("%s: %w", m.Version, err))
			}
		}
	}
	mu.Lock()
	defer mu.Unlock()
	data, err := json.Marshal(stats)
	if err != nil {
		return err
	}
	return errors.Join(append(failed, os.WriteFile(os.Getenv(statsVariable), data, 0o666))...)
}
