package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/graph"
	"golang.org/x/mod/module"
	"golang.org/x/sync/errgroup"
)

// A download is one run of modfetch download.
type download struct {
	*downloadFlags
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
	flags, err := parseDownload(args)
	if err != nil {
		return err
	}
	d := &download{
		downloadFlags: flags,
		report:        newReport(),
		stdout:        stdout,
		screen:        &screen{w: stderr},
		asked:         make(map[module.Version][]asked),
		sums:          make(sums),
	}
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

func (d *download) newFetcher() (*modfetch.Fetcher, error) {
	env, err := modfetch.SystemGoEnv()
	if err != nil {
		return nil, err
	}
	if d.modCache == "" && env.GOMODCACHE == "" {
		return nil, errNoModCache
	}
	return d.settings.fetcher(env, d.project,
		modfetch.WithJobs(d.jobs),
		modfetch.WithPolicy(modfetch.Policy{NoExtract: d.noExtract}),
		modfetch.WithTrace(d.trace()),
	)
}

func (d *download) trace() *modfetch.Trace {
	t := &modfetch.Trace{
		AttemptStarted: d.report.attemptStarted,
		Progress:       d.report.progress,
		AttemptDone:    d.report.attemptDone,
		Vouched:        d.report.vouch,
		LockWaiting: func(_ context.Context, name string) {
			d.screen.Println("waiting for another process, which holds " + name)
		},
	}
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

// run finds out what to download, and downloads it. An error is none of a module's.
func (d *download) run(ctx context.Context) error {
	find := d.resolve
	if len(d.targets) == 0 {
		find = d.load
	}
	if err := find(ctx); err != nil {
		return err
	}
	d.live.setTotal(len(d.modules))
	for m, err := range d.fetcher.Download(ctx, d.modules) {
		if err != nil && ctx.Err() != nil {
			break
		}
		if err = d.done(m, err); err != nil {
			return err
		}
		d.live.moduleDone()
	}
	return nil
}

// load finds the modules that the project needs.
func (d *download) load(ctx context.Context) error {
	d.live.setPhase("reading go.mod files")
	source := &sumRecorder{src: d.fetcher, sums: d.sums}
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
	infos := make([]modfetch.Info, len(d.targets))
	errs := make([]error, len(d.targets))
	var g errgroup.Group
	g.SetLimit(d.jobs)
	for i, t := range d.targets {
		g.Go(func() error {
			if infos[i], errs[i] = d.fetcher.Info(ctx, t.path, t.query); errs[i] != nil {
				errs[i] = withNear(ctx, d.fetcher, errs[i])
			}
			return nil
		})
	}
	g.Wait()
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
	if err == nil {
		d.report.moduleDone(m)
		d.sums[m.Version] = m.Sum
		d.sums[module.Version{Path: m.Path, Version: m.Version.Version + "/go.mod"}] = m.GoModSum
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
