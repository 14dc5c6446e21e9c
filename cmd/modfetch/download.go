package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/graph"
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

Without a network, -offline finds what is in the module cache, or in a bundle:
-offline -mirrors file:///absolute/dir; 'modfetch help bundle' tells of them.

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
  -jobs n           send each mirror at most n requests at a time; the
                    default is 64
  -offline          use no network: of the mirrors, ask only directories, those
                    with file:// URLs; what is neither there nor in the module
                    cache fails
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

// A download is one run of modfetch download.
type download struct {
	settings
	noExtract bool
	offline   bool
	updateSum bool
	json      bool
	x         bool
	targets   []target

	project *project // nil outside of one
	fetcher *modfetch.Fetcher
	report  *report
	stdout  io.Writer
	screen  *screen
	live    *liveLine // nil if there is none

	modules []module.Version
	asked   map[module.Version][]asked // why each of them is downloaded; one entry or more
	sums    sums                       // for go.sum
}

// asked is what an argument has asked for, zero for a module of the project.
type asked struct {
	query  string           // "" if it is the version
	origin *modfetch.Origin // nil with a query: the version's origin does not tell where the answer came from
}

func runDownload(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	d, err := parseDownload(args)
	if err != nil {
		return err
	}
	d.stdout, d.screen = stdout, &screen{w: stderr}
	d.project, err = findProject(d.dir)
	if errors.Is(err, fs.ErrNotExist) {
		switch {
		case len(d.targets) == 0:
			return fmt.Errorf("no go.mod or go.work in %s or above; change there, or name modules, as in: "+
				"modfetch download golang.org/x/text@latest", d.dir)
		case d.updateSum:
			return usagef("-update-sum: no go.mod or go.work in %s or above, so there is no go.sum", d.dir)
		}
	} else if err != nil {
		return err
	}
	if d.fetcher, err = d.newFetcher(); err != nil {
		return err
	}
	defer d.fetcher.Close()

	if d.progress == "always" || d.progress == "auto" && isTerminal(stderr) && !(d.json && isTerminal(stdout)) {
		d.live = startLiveLine(d.screen, d.report)
	}
	err = d.run(ctx)
	d.live.stop()
	if err != nil || ctx.Err() != nil {
		d.report.broken(stderr, d.fetcher.Mirrors())
	}
	if ctx.Err() != nil {
		return fmt.Errorf("interrupted; %s complete, in the cache", count(d.report.downloaded+d.report.cached, "module"))
	}
	if err != nil {
		return err
	}
	d.report.summary(stderr, d.fetcher.Mirrors(), d.json)
	if d.updateSum {
		added, err := d.project.addSums(ctx, d.sums)
		if err != nil {
			return fmt.Errorf("updating %s: %w", d.project.goSums[0], err)
		}
		fmt.Fprintf(stderr, "%s: %s added\n", filepath.Base(d.project.goSums[0]), count(added, "line"))
	}
	if len(d.report.failed) > 0 {
		return errFailed
	}
	if len(d.targets) == 0 && len(d.modules) > 0 && !d.updateSum && !d.json {
		if _, err := os.Stat(d.project.goSums[0]); errors.Is(err, fs.ErrNotExist) {
			fmt.Fprintf(stderr, "there is no %s, which go build asks for: -update-sum writes it\n", filepath.Base(d.project.goSums[0]))
		}
	}
	return nil
}

func parseDownload(args []string) (*download, error) {
	d := &download{settings: settings{jobs: 64}, report: newReport(), asked: make(map[module.Version][]asked), sums: make(sums)}
	set := flag.NewFlagSet("download", flag.ContinueOnError)
	set.BoolVar(&d.noExtract, "no-extract", false, "")
	set.BoolVar(&d.offline, "offline", false, "")
	set.BoolVar(&d.updateSum, "update-sum", false, "")
	set.BoolVar(&d.json, "json", false, "")
	set.BoolVar(&d.x, "x", false, "")
	if err := d.settings.parse(set, args, "C", "mirrors", "modcache", "race", "stagger", "jobs", "progress"); err != nil {
		return nil, err
	}
	var err error
	d.targets, err = parseTargets(set.Args())
	return d, err
}

func (d *download) newFetcher() (*modfetch.Fetcher, error) {
	if d.modCache == "" && d.env.GOMODCACHE == "" {
		return nil, errNoModCache
	}
	return d.settings.fetcher(d.project,
		modfetch.WithPolicy(modfetch.Policy{NoExtract: d.noExtract, Offline: d.offline}),
		modfetch.WithTrace(d.trace()),
	)
}

func (d *download) trace() *modfetch.Trace {
	t := d.screen.trace(d.report)
	if d.x {
		t.AttemptDone = func(ctx context.Context, i modfetch.AttemptInfo) {
			d.report.attemptDone(ctx, i)
			line := fmt.Sprintf("%s %s  %s  %s", i.Mirror, i.Path, size(i.Bytes), i.Duration.Round(time.Millisecond))
			if i.Err != nil {
				line += fmt.Sprintf("  %s: %s", i.Kind, strings.ReplaceAll(i.Err.Error(), "\n", "\n\t"))
			}
			d.screen.Println(line)
		}
	}
	return t
}

// run finds out what to download, and downloads it. What go.mod requires is nearly always needed as it is, so that begins
// while it is still found out. An error is none of a module's.
func (d *download) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var fetches []<-chan result
	defer func() {
		cancel()
		for _, results := range fetches {
			for r := range results { // until nothing runs any more
				if r.err == nil {
					d.report.moduleDone(r.module)
				}
			}
		}
	}()
	find := d.resolve
	early := make(map[module.Version]bool)
	if len(d.targets) == 0 {
		find = d.load
		required, _ := graph.Required(d.project.file) // what is wrong with it is told by load
		for _, m := range required {
			early[m] = true
		}
		fetches = append(fetches, d.fetch(ctx, required))
	}
	if err := find(ctx); err != nil {
		return err
	}
	d.live.setTotal(len(d.modules))
	rest := slices.DeleteFunc(slices.Clone(d.modules), func(m module.Version) bool { return early[m] })
	fetches = append(fetches, d.fetch(ctx, rest))
	for _, results := range fetches {
		for r := range results {
			if r.err != nil && ctx.Err() != nil {
				return ctx.Err()
			}
			if d.asked[r.module.Version] == nil {
				continue // it was raised
			}
			if err := d.done(r.module, r.err); err != nil {
				return err
			}
		}
	}
	return nil
}

// A result is what became of a module.
type result struct {
	module modfetch.Module
	err    error
}

// fetch begins to download modules. The channel holds all of them.
func (d *download) fetch(ctx context.Context, mods []module.Version) <-chan result {
	results := make(chan result, len(mods))
	go func() { // ends with the last module, which has failed if ctx has ended
		defer close(results)
		for m, err := range d.fetcher.Download(ctx, mods) {
			results <- result{m, err}
		}
	}()
	return results
}

// load finds the modules that the project needs.
func (d *download) load(ctx context.Context) error {
	d.live.setPhase("reading go.mod files")
	var source graph.Source = d.fetcher
	if d.updateSum {
		source = &sumRecorder{src: d.fetcher, sums: d.sums}
	}
	g, err := graph.Load(ctx, source, d.project.file, d.jobs)
	if err != nil {
		return withNear(ctx, d.fetcher, err)
	}
	d.modules = g.Modules
	for _, m := range g.Modules {
		d.asked[m] = []asked{{}}
	}
	return nil
}

// resolve finds the versions that the arguments ask for.
func (d *download) resolve(ctx context.Context) error {
	d.live.setPhase("looking up versions")
	infos, errs := resolve(ctx, d.fetcher, d.targets, d.jobs)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	for i, t := range d.targets {
		m := module.Version{Path: t.path, Version: infos[i].Version}
		if errs[i] != nil {
			if err := d.failed(moduleJSON{Path: t.path, Version: t.query}, errs[i]); err != nil {
				return err
			}
			continue
		}
		a := asked{query: t.query}
		if t.query == m.Version {
			a = asked{origin: infos[i].Origin}
		}
		if d.asked[m] == nil {
			d.modules = append(d.modules, m)
		}
		d.asked[m] = append(d.asked[m], a)
	}
	return nil
}

// done reports a module that Download has yielded.
func (d *download) done(m modfetch.Module, err error) error {
	d.live.moduleDone()
	if err == nil {
		d.report.moduleDone(m)
		d.sums[m.Version] = m.Sum
		d.sums.addGoMod(m.Version, m.GoModSum)
		if m.Mirror != "" && d.live == nil && !d.json {
			d.screen.Println(plain(m))
		}
	}
	for _, a := range d.asked[m.Version] {
		out := moduleJSON{
			Path: m.Path, Version: m.Version.Version, Query: a.query,
			Info: m.Info, GoMod: m.GoMod, Zip: m.Zip, Dir: m.Dir, Sum: m.Sum, GoModSum: m.GoModSum, Origin: a.origin,
			Mirror: m.Mirror, VerifiedBy: m.VerifiedBy, GoModVerifiedBy: m.GoModVerifiedBy, Unverified: m.Unverified,
		}
		if err != nil {
			if err := d.failed(out, err); err != nil {
				return err
			}
		} else if err := d.print(out); err != nil {
			return err
		}
	}
	return nil
}

// plain is the line for a module that was downloaded.
func plain(m modfetch.Module) string {
	var bytes int64
	if info, err := os.Stat(m.Zip); err == nil {
		bytes = info.Size()
	}
	by := m.VerifiedBy
	if m.Unverified != "" {
		by = "unverified because of " + m.Unverified
	}
	return fmt.Sprintf("%s %s  %s  %s  %s", m.Path, m.Version.Version, size(bytes), m.Mirror, by)
}

// failed reports a module that failed.
func (d *download) failed(out moduleJSON, err error) error {
	out.Error = message(err, target{out.Path, out.Version})
	d.report.moduleFailed(out.Error)
	if !d.json {
		d.screen.Println("modfetch: " + out.Error)
	}
	return d.print(out)
}

func (d *download) print(m moduleJSON) error {
	if !d.json {
		return nil
	}
	return printJSON(d.stdout, m)
}
