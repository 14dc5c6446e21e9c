package main

import (
	"cmp"
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
	"sync"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/graph"
	"golang.org/x/mod/module"
	"golang.org/x/sync/errgroup"
)

const verifyHelp = `usage: modfetch verify [flags] [module@version ...]

Verify hashes what the go command's module cache holds: go.mod files, zips and
extracted trees. It compares them with the project's go.sum, if there is a
project, and else with the checksum database, and prints what differs.

Without arguments it verifies what the project needs, as 'modfetch download'
does, and all go.mod files that lead there. Modules that are not in the cache
are named, and are no failure.

Meanwhile it asks all mirrors for the tree head of the checksum database that
they show, and proves that these are heads of one log. It names mirrors whose
head lags, or cannot be compared; neither is a failure.

  -C dir         work in dir; other directories are relative to it
  -mirrors list  use these mirrors instead of those in GOPROXY; the form is
                 alike: 'https://goproxy.cn|https://corp.example,direct';
                 cn stands for five public mirrors that can be reached from
                 mainland China, taken as equal
  -modcache dir  verify this module cache instead of GOMODCACHE
  -repair        download again what differs; without this flag, modules and
                 go.mod files in the cache stay as they are
  -json          print an object for each tree head and each module

The objects that -json prints have these fields, if there is something in them:

  Path, Version  of the module
  NotCached      true if neither its zip nor its tree is in the cache
  Differences    a list: the Name of the file or directory, the hash it has as
                 Got, the hash on record as Want, and whose record, as Source
  Repaired       true if nothing of that differs any more
  Error          why the module could not be verified or repaired

Those of tree heads have these instead:

  Database       the name of the checksum database
  Mirror         that was asked for its head
  Size           records in the tree
  Behind         records by which it lags behind the largest tree seen
  Error          why the mirror has shown no head, or it cannot be compared

The exit code is 0 if nothing differs, or all of it was repaired; 1 if something
does, or a module could not be verified, or tree heads contradict each other; 2
for a mistake in the command line, and 130 after an interrupt.
`

// A verification is one run of modfetch verify.
type verification struct {
	settings
	repair  bool
	json    bool
	modules []module.Version // from the arguments, or those that the project needs

	project *project // nil outside of one
	fetcher *modfetch.Fetcher
	stdout  io.Writer
	stderr  io.Writer

	mu     sync.Mutex // guards goMods
	goMods map[module.Version]modfetch.Difference
}

// A verified is what was found out about one module, and what -json prints of it.
type verified struct {
	Path        string
	Version     string
	NotCached   bool                  `json:",omitempty"`
	Differences []modfetch.Difference `json:",omitempty"`
	Repaired    bool                  `json:",omitempty"`
	Error       string                `json:",omitempty"`
}

// A head is what was found out about the tree head that a mirror shows, and what -json prints of it.
type head struct {
	Database string
	Mirror   string
	Size     int64  `json:",omitempty"`
	Behind   int64  `json:",omitempty"`
	Error    string `json:",omitempty"`
}

func runVerify(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	v, err := parseVerify(args)
	if err != nil {
		return err
	}
	v.stdout, v.stderr = stdout, stderr
	v.project, err = findProject(v.dir)
	if errors.Is(err, fs.ErrNotExist) {
		if len(v.modules) == 0 {
			return fmt.Errorf("no go.mod or go.work in %s or above; change there, or name modules, as in: "+
				"modfetch verify golang.org/x/text@v0.3.0", v.dir)
		}
	} else if err != nil {
		return err
	}
	if v.modCache = cmp.Or(v.modCache, v.env.GOMODCACHE); v.modCache == "" {
		return errNoModCache
	}
	if v.fetcher, err = v.settings.fetcher(v.project, modfetch.WithPolicy(modfetch.Policy{Rehash: v.repair})); err != nil {
		return err
	}
	defer v.fetcher.Close()
	if err = v.run(ctx); ctx.Err() != nil {
		return errInterrupted
	}
	return err
}

func parseVerify(args []string) (*verification, error) {
	v := &verification{goMods: make(map[module.Version]modfetch.Difference)}
	set := flag.NewFlagSet("verify", flag.ContinueOnError)
	set.BoolVar(&v.repair, "repair", false, "")
	set.BoolVar(&v.json, "json", false, "")
	if err := v.settings.parse(set, args, "C", "mirrors", "modcache"); err != nil {
		return nil, err
	}
	targets, err := parseTargets(set.Args())
	if err != nil {
		return nil, err
	}
	for _, t := range targets {
		if module.CanonicalVersion(t.query) != t.query || module.Check(t.path, t.query) != nil {
			return nil, usagef("argument %q: want a module with a full version, such as example.com/name@v1.2.3", t)
		}
		v.modules = append(v.modules, module.Version{Path: t.path, Version: t.query})
	}
	return v, nil
}

// run verifies, repairs and reports.
func (v *verification) run(ctx context.Context) error {
	var loadErr error
	if len(v.modules) == 0 {
		v.modules, loadErr = v.load(ctx)
	}
	results := make([]verified, len(v.modules))
	for i, m := range v.modules {
		results[i] = verified{Path: m.Path, Version: m.Version}
	}
	for m, d := range v.goMods {
		if !slices.Contains(v.modules, m) {
			results = append(results, verified{Path: m.Path, Version: m.Version, Differences: []modfetch.Difference{d}})
		}
	}
	slices.SortStableFunc(results[len(v.modules):], func(a, b verified) int {
		return cmp.Or(strings.Compare(a.Path, b.Path), strings.Compare(a.Version, b.Version))
	})

	var g errgroup.Group
	g.SetLimit(atOnce)
	var heads []modfetch.HeadInfo
	var headsErr error
	g.Go(func() error {
		heads, headsErr = v.fetcher.CompareHeads(ctx)
		return nil
	})
	for i := range results {
		g.Go(func() error {
			v.verify(ctx, &results[i])
			return nil
		})
	}
	g.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	headsFailed := v.reportHeads(heads, headsErr)
	failed := v.report(results, loadErr == nil)
	return cmp.Or(loadErr, headsFailed, failed)
}

// load finds the modules that the project needs, and compares the go.mod files on the way. It leaves the module cache
// alone: a Fetcher that works in it would put right what is to be reported.
func (v *verification) load(ctx context.Context) ([]module.Version, error) {
	s := v.settings
	s.modCache, s.env.GOMODCACHE = "", ""
	reader, err := s.fetcher(v.project,
		modfetch.WithCache(readOnly{modfetch.DirCache(filepath.Join(v.modCache, "cache", "download"))}),
		modfetch.WithTrace(&modfetch.Trace{Cache: v.found}))
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	g, err := graph.Load(ctx, reader, v.project.file, 0)
	if err != nil {
		return nil, withNear(ctx, reader, err)
	}
	return g.Modules, nil
}

// found notes a go.mod file in the cache that is not what is on record.
func (v *verification) found(_ context.Context, i modfetch.CacheInfo) {
	var sum *modfetch.ChecksumError
	version, isGoMod := "", false
	if errors.As(i.Err, &sum) {
		version, isGoMod = strings.CutSuffix(sum.Module.Version, "/go.mod")
	}
	if !isGoMod {
		return
	}
	m := module.Version{Path: sum.Module.Path, Version: version}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.goMods[m] = modfetch.Difference{Name: v.files(m).goMod, Got: sum.Got, Want: sum.Want, Source: sum.Source}
}

// A readOnly cache is a directory in which nothing is kept.
type readOnly struct{ modfetch.DirCache }

func (readOnly) Put(context.Context, string, io.ReadSeeker) error { return nil }

// verify finds out what differs of a module, unless it is known already, and repairs it if that is asked for.
func (v *verification) verify(ctx context.Context, r *verified) {
	m := module.Version{Path: r.Path, Version: r.Version}
	var err error
	if r.Differences == nil {
		r.NotCached = !exists(v.files(m).zip) && !exists(v.files(m).tree)
		r.Differences, err = v.fetcher.Verify(ctx, m)
	}
	if err == nil && r.Differences != nil && v.repair {
		err = v.repairModule(ctx, m, r.Differences)
		r.Repaired = err == nil
	}
	if err != nil {
		r.Error = message(err, target{m.Path, m.Version})
	}
}

// repairModule downloads again what differs. The Fetcher has Policy.Rehash.
func (v *verification) repairModule(ctx context.Context, m module.Version, differences []modfetch.Difference) error {
	if _, err := v.fetcher.GoMod(ctx, m); err != nil {
		return err
	}
	goMod := v.files(m).goMod
	if slices.ContainsFunc(differences, func(d modfetch.Difference) bool { return d.Name != goMod }) {
		if _, err := v.fetcher.Dir(ctx, m); err != nil {
			return err
		}
	}
	left, err := v.fetcher.Verify(ctx, m)
	if err != nil {
		return err
	}
	for _, d := range left {
		if slices.ContainsFunc(differences, func(old modfetch.Difference) bool { return old.Name == d.Name }) {
			return fmt.Errorf("downloading it again has not repaired %s", d.Name)
		}
	}
	return nil
}

// files are the names of what the module cache may hold of a module.
type files struct{ goMod, zip, tree string }

func (v *verification) files(m module.Version) files {
	path, _ := module.EscapePath(m.Path) // whoever has named m, it has been checked
	version, _ := module.EscapeVersion(m.Version)
	base := filepath.Join(v.modCache, "cache", "download", filepath.FromSlash(path), "@v", version)
	return files{base + ".mod", base + ".zip", filepath.Join(v.modCache, filepath.FromSlash(path)+"@"+version)}
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

// reportHeads prints which mirrors lag or could not be compared. Its error is errFailed if heads contradict each other, or the
// one that is kept is not good; that nobody has shown one is no failure.
func (v *verification) reportHeads(heads []modfetch.HeadInfo, err error) error {
	for _, i := range heads {
		h := head{Database: i.Database, Mirror: i.Mirror, Size: i.Size, Behind: i.Behind}
		if i.Err != nil {
			h.Error = i.Err.Error()
		}
		if v.json {
			if err := printJSON(v.stdout, h); err != nil {
				return err
			}
			continue
		}
		if i.Behind > 0 {
			fmt.Fprintf(v.stderr, "%s at %s: lags by %s\n", i.Database, i.Mirror, count(int(i.Behind), "record"))
		}
		if i.Err != nil {
			fmt.Fprintf(v.stderr, "%s at %s: %s\n", i.Database, i.Mirror, printable(reason(i.Err)))
		}
	}
	var unreached *modfetch.FetchError
	if err == nil || errors.As(err, &unreached) {
		return nil
	}
	fmt.Fprintln(v.stderr, "modfetch:", err)
	return errFailed
}

// report prints the results. Its error is errFailed if something differs or was not verified. The count is left out where
// not all modules are known.
func (v *verification) report(results []verified, all bool) error {
	var good, repaired, bad, absent, failed int
	for _, r := range results {
		switch {
		case r.Repaired:
			repaired++
		case r.Differences != nil:
			bad++
		case r.Error != "":
			failed++
		case r.NotCached:
			absent++
		default:
			good++
		}
		if v.json {
			if err := printJSON(v.stdout, r); err != nil {
				return err
			}
			continue
		}
		if _, err := io.WriteString(v.stdout, r.plain()); err != nil {
			return err
		}
		if r.Error != "" {
			fmt.Fprintln(v.stderr, "modfetch:", r.Error)
		}
	}

	var parts []string
	for _, part := range []struct {
		n    int
		what string
	}{{good, "verified"}, {repaired, "repaired"}, {bad, "not what is on record"}, {failed, "not verified"}, {absent, "not in the cache"}} {
		if part.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", part.n, part.what))
		}
	}
	text := count(len(results), "module") + ": " + strings.Join(parts, ", ")
	switch {
	case len(results) == 0:
		text = "no modules to verify"
	case good == len(results):
		text = fmt.Sprintf("all %s verified", count(good, "module"))
	case good+absent == len(results) && good > 0:
		text = fmt.Sprintf("all %s verified; %d not in the cache", count(good, "module"), absent)
	}
	if all {
		fmt.Fprintln(v.stderr, text)
	}
	if bad+failed > 0 {
		return errFailed
	}
	return nil
}

// plain is what there is to say of a module, "" for one that is as it should be.
func (r verified) plain() string {
	var text strings.Builder
	if r.NotCached && r.Differences == nil && r.Error == "" {
		fmt.Fprintf(&text, "%s %s: not in the cache\n", r.Path, r.Version)
	}
	for _, d := range r.Differences {
		fmt.Fprintf(&text, "%s %s: %s\n", r.Path, r.Version, d.Name)
		printField(&text, "got", cmp.Or(d.Got, "no hash"))
		printField(&text, "want", d.Want)
		printField(&text, "source", d.Source)
	}
	if r.Repaired {
		fmt.Fprintf(&text, "%s %s: repaired\n", r.Path, r.Version)
	}
	return text.String()
}
