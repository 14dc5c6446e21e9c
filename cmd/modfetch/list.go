package main

import (
	"context"
	"flag"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"
)

const listHelp = `usage: modfetch list [flags] module ...

List prints the versions of modules that a mirror knows, in ascending order,
one on a line; with several modules, each line is a module path and a version.
Pseudo-versions are left out, retracted versions are not. Nobody vouches for a
list: it may be incomplete or old.

  -mirrors list  use these mirrors instead of those in GOPROXY; the form is
                 alike: 'https://goproxy.cn|https://corp.example,direct';
                 cn stands for five public mirrors that can be reached from
                 mainland China, taken as equal
  -json          print an object for each module

The objects that -json prints have these fields:

  Path           of the module
  Versions       in ascending order; empty if the module has none
  Error          instead: why there is no list

The exit code is 0 if all went well, 1 if a module failed, 2 for a mistake in
the command line, and 130 after an interrupt.
`

// A listJSON is what list -json prints of a module.
type listJSON struct {
	Path     string
	Versions []string `json:",omitzero"` // an empty list is an answer
	Error    string   `json:",omitempty"`
}

func runList(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var s settings
	set := flag.NewFlagSet("list", flag.ContinueOnError)
	asJSON := set.Bool("json", false, "")
	if err := s.parse(set, args, "mirrors"); err != nil {
		return err
	}
	paths, err := parsePaths(set.Args())
	if err != nil {
		return err
	}
	if len(paths) == 0 {
		return usagef("no module is named; want one, as in: modfetch list golang.org/x/text")
	}
	f, err := s.fetcher(nil)
	if err != nil {
		return err
	}
	defer f.Close()

	lists := make([][]string, len(paths))
	errs := make([]error, len(paths))
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i, path := range paths {
		g.Go(func() error {
			lists[i], errs[i] = f.Versions(ctx, path)
			return nil
		})
	}
	g.Wait()
	if ctx.Err() != nil {
		return errInterrupted
	}
	for i, path := range paths {
		out := listJSON{Path: path, Versions: append([]string{}, lists[i]...)}
		if errs[i] != nil {
			out.Versions, out.Error = nil, message(errs[i], target{path: path})
			err = errFailed
		}
		if *asJSON {
			if err := printJSON(stdout, out); err != nil {
				return err
			}
			continue
		}
		if out.Error != "" {
			fmt.Fprintln(stderr, "modfetch:", out.Error)
		}
		for _, v := range out.Versions {
			if len(paths) > 1 {
				v = path + " " + v
			}
			if _, err := fmt.Fprintln(stdout, v); err != nil {
				return err
			}
		}
	}
	return err
}
