package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/bundle"
)

const bundleHelp = `usage: modfetch bundle [flags] -o dir|file.zip
       modfetch bundle -verify dir|file.zip

Bundle writes what a project needs to a directory or a zip, for machines that
have no network: the modules that 'modfetch download' would download, the go.mod
and .info files of all versions that go mod graph and go list -m all name, and
the part of the checksum database that proves them. There, with the directory, or
the zip unpacked, this is enough for modfetch and for the go command, which verify
all of it as ever:

	GOPROXY=file:///dir

The Go toolchain is not in it: the machine needs one as new as go.mod says, and
GOTOOLCHAIN=local.

A bundle that is there already is added to: what it holds stays in it. What is in
a directory is not downloaded again. Modules of which the checksum database is
not asked, as GONOSUMDB says, cannot be proven, and are refused.

The checksum database signs its growing log as a whole, in tree heads, and all
of a bundle is proven under one of them. The go command remembers the newest
head that it has seen. On a machine that was once online, or was given another
bundle, it wants a proof that its head and that of the bundle lie on one line.
Where there is none it says:

	checking tree#51929436 against tree#71848828: reading
	file:///dir/sumdb/sum.golang.org/tile/8/2/003: no such file or directory

The numbers are those of the two heads; that of the bundle is in the second line
of sumdb/sum.golang.org/latest in it. If it is the larger one, write the bundle
anew with -onto and the machine's GOPATH/pkg/sumdb/sum.golang.org/latest. If it
is the smaller one, the bundle is older than what the machine has seen: the same
helps, without -head.

  -o name         write the bundle there
  -onto name      prove under the bundle's tree head the one in this file or
                  bundle, such as GOPATH/pkg/sumdb/sum.golang.org/latest of the
                  machine that will use it, or the bundle it was given last; may
                  be given several times
  -head name      take the tree head in this file or bundle, not the newest; the
                  same head makes the same bundle of the same modules
  -verify name    report which files of a bundle are damaged, or are not what the
                  database in GOSUMDB has signed; needs no network. That nothing
                  is missing of what a project needs, it cannot tell
  -C dir          work in dir; other names are relative to it
  -mirrors list   use these mirrors instead of those in GOPROXY; the form is
                  alike: 'https://goproxy.cn|https://corp.example,direct';
                  cn stands for five public mirrors that can be reached from
                  mainland China, taken as equal
  -stagger d, -race, -jobs n, -progress when
                  as for 'modfetch download'
  -modcache dir   use this module cache instead of GOMODCACHE, which keeps what
                  is downloaded
  -json           print an object for each module; with -verify, for each file
                  that is not as it should be

The objects that -json prints of modules have these fields:

  Path, Version  of the module
  Sum            the h1: hash of its zip; absent if the zip is not in the bundle
  GoModSum       the h1: hash of its go.mod file
  Files          a list: the Name in the bundle, the Size in bytes, the SHA256
                 sum, and the URLs where mirrors have the file

Those of -verify have a Name, empty for a zip as such, and a Problem.

The exit code is 0 if the bundle was written, or is as it should be, 1 if not, 2
for a mistake in the command line, and 130 after an interrupt.
`

// A bundling is one run of modfetch bundle.
type bundling struct {
	settings
	output string
	verify string
	head   string
	onto   []string
	json   bool

	fetcher *modfetch.Fetcher
	stdout  io.Writer
	screen  *screen
	stderr  io.Writer
}

// A bundled is what -json prints of a module.
type bundled struct {
	Path     string
	Version  string
	Sum      string `json:",omitempty"`
	GoModSum string
	Files    []bundledFile
}

type bundledFile struct {
	Name   string
	Size   int64
	SHA256 string
	URLs   []string `json:",omitempty"`
}

func runBundle(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	b, err := parseBundle(args)
	if err != nil {
		return err
	}
	b.stdout, b.screen, b.stderr = stdout, &screen{w: stderr}, stderr
	if b.verify != "" {
		err = b.runVerify(ctx)
	} else {
		err = b.write(ctx)
	}
	if ctx.Err() != nil {
		return errInterrupted
	}
	return err
}

func parseBundle(args []string) (*bundling, error) {
	b := new(bundling)
	set := flag.NewFlagSet("bundle", flag.ContinueOnError)
	set.StringVar(&b.output, "o", "", "")
	set.StringVar(&b.verify, "verify", "", "")
	set.StringVar(&b.head, "head", "", "")
	set.BoolVar(&b.json, "json", false, "")
	set.Func("onto", "", func(name string) error {
		b.onto = append(b.onto, name)
		return nil
	})
	if err := b.settings.parse(set, args, "C", "mirrors", "modcache", "race", "stagger", "jobs", "progress"); err != nil {
		return nil, err
	}
	switch {
	case set.NArg() > 0:
		return nil, usagef("%q: takes no modules: a bundle holds what the project needs", set.Arg(0))
	case b.verify != "" && (b.output != "" || b.head != "" || b.onto != nil):
		return nil, usagef("-verify goes without -o, -head and -onto")
	case b.verify == "" && b.output == "":
		return nil, usagef("say by -o where to, such as -o bundle.zip, or by -verify what is to be verified")
	}
	return b, nil
}

// file returns a name that a flag has given.
func (b *bundling) file(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(b.dir, name)
}

func (b *bundling) write(ctx context.Context) error {
	project, err := findProject(b.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no go.mod or go.work in %s or above: a bundle holds what a project needs", b.dir)
	} else if err != nil {
		return err
	}
	if b.modCache == "" && b.env.GOMODCACHE == "" {
		return errNoModCache
	}
	options, err := b.heads()
	if err != nil {
		return err
	}
	output, report := b.file(b.output), newReport()
	opts := []modfetch.Option{modfetch.WithPolicy(modfetch.Policy{NoExtract: true}), modfetch.WithTrace(b.screen.trace(report))}
	if !strings.HasSuffix(output, ".zip") {
		opts = append(opts, modfetch.WithCache(bundle.Cache(output)))
	}
	if b.fetcher, err = b.settings.fetcher(project, opts...); err != nil {
		return err
	}
	defer b.fetcher.Close()
	var live *liveLine
	if b.progress == "always" || b.progress == "auto" && isTerminal(b.stderr) {
		live = startLiveLine(b.screen, report)
	}
	live.setPhase("finding out what is needed")
	options.Fetched = func(_, all int) {
		live.setTotal(all)
		live.moduleDone()
	}
	modules, err := bundle.Write(ctx, b.fetcher, project.file, output, options)
	live.stop()
	if err != nil {
		report.broken(b.stderr, b.fetcher.Mirrors())
		return withNear(ctx, b.fetcher, err)
	}
	head, err := bundle.Head(output)
	if err != nil {
		return err
	}
	var bytes int64
	for _, m := range modules {
		for _, f := range m.Files {
			bytes += f.Size
		}
		if b.json {
			if err := printJSON(b.stdout, b.describe(m)); err != nil {
				return err
			}
		}
	}
	_, err = fmt.Fprintf(b.stderr, "%s: %s, %s, under a tree head of %d records\n", b.output, count(len(modules), "module version"), size(bytes), records(head))
	return err
}

// heads reads the tree heads that flags name.
func (b *bundling) heads() (o bundle.Options, err error) {
	if b.head != "" {
		if o.Head, err = bundle.Head(b.file(b.head)); err != nil {
			return o, fmt.Errorf("-head: %w", err)
		}
	}
	for _, name := range b.onto {
		head, err := bundle.Head(b.file(name))
		if err != nil {
			return o, fmt.Errorf("-onto: %w", err)
		}
		if o.Head != nil && records(head) > records(o.Head) {
			return o, fmt.Errorf("-onto %s: its tree head of %d records is newer than that of -head, which has %d; leave -head out", name, records(head), records(o.Head))
		}
		o.Onto = append(o.Onto, head)
	}
	return o, nil
}

// records is how many records there are in the tree of a head, whose second line says it.
func records(head []byte) (n int64) {
	fmt.Sscanf(string(head), "go.sum database tree\n%d\n", &n)
	return n
}

// describe says what is bundled of a module, and where mirrors have it.
func (b *bundling) describe(m bundle.Module) bundled {
	out := bundled{Path: m.Path, Version: m.Version.Version, Sum: m.Sum, GoModSum: m.GoModSum}
	tiers := b.fetcher.Route(m.Path).Tiers
	for _, f := range m.Files {
		file := bundledFile{Name: f.Name, Size: f.Size, SHA256: f.SHA256}
		for _, tier := range tiers {
			for _, name := range names(tier) {
				if strings.Contains(name, "://") { // and not direct or off
					file.URLs = append(file.URLs, strings.TrimSuffix(name, "/")+"/"+f.Name)
				}
			}
		}
		out.Files = append(out.Files, file)
	}
	return out
}

func (b *bundling) runVerify(ctx context.Context) error {
	problems, err := bundle.Verify(ctx, b.file(b.verify), b.env.GOSUMDB)
	if err != nil {
		return err
	}
	for _, p := range problems {
		if b.json {
			err = printJSON(b.stdout, struct{ Name, Problem string }{p.Name, p.Text})
		} else if p.Name == "" {
			_, err = fmt.Fprintf(b.stdout, "%s: %s\n", b.verify, printable(p.Text))
		} else {
			_, err = fmt.Fprintf(b.stdout, "%s: %s\n", printable(p.Name), printable(p.Text))
		}
		if err != nil {
			return err
		}
	}
	if len(problems) > 0 {
		fmt.Fprintf(b.stderr, "%s: %s with a problem\n", b.verify, count(len(problems), "file"))
		return errFailed
	}
	_, err = fmt.Fprintf(b.stderr, "%s: all files are as they should be\n", b.verify)
	return err
}
