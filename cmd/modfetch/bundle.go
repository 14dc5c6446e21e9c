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
	"strings"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/bundle"
)

const bundleHelp = `usage: modfetch bundle [flags] -o dir|file.zip
       modfetch bundle -verify dir|file.zip

Bundle writes what a project needs to a directory or a zip, for machines that
have no network: the modules that 'modfetch download' would download, all
go.mod files that lead there, and the part of the checksum database that proves
them. There, with the directory, or the zip unpacked, this is enough for
modfetch and for the go command, which verify all of it as ever:

	GOPROXY=file:///dir

A bundle in the directory is added to: what it holds stays in it, and is not
downloaded again. A zip is replaced. Modules of which the checksum database is
not asked, as GONOSUMDB says, cannot be proven, and are refused.

The checksum database signs its growing log as a whole, in tree heads, and all
of a bundle is proven under one of them. The go command remembers the newest
head that it has seen. It accepts only bundles with a head that is as new, and
with the proof that the one it remembers came before: -onto adds it.

  -o name        write the bundle there
  -onto name     prove under the bundle's tree head the one in this file or
                 bundle, such as GOPATH/pkg/sumdb/sum.golang.org/latest of the
                 machine that will use it, or the bundle it was given last; may
                 be given several times
  -head name     take the tree head in this file or bundle, not the newest; the
                 same head makes the same bundle of the same modules
  -verify name   report which files of a bundle are damaged, or are not what the
                 database in GOSUMDB has signed; needs no network
  -C dir         work in dir; other names are relative to it
  -mirrors list  use these mirrors instead of those in GOPROXY; the form is
                 alike: 'https://goproxy.cn|https://corp.example,direct';
                 cn stands for five public mirrors that can be reached from
                 mainland China, taken as equal
  -modcache dir  use this module cache instead of GOMODCACHE, which keeps what
                 is downloaded
  -json          print an object for each module; with -verify, for each file
                 that is not as it should be

The objects that -json prints of modules have these fields:

  Path, Version  of the module
  Sum            the h1: hash of its zip; absent if there is only a go.mod file
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
	b.stdout, b.stderr = stdout, stderr
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
	if err := b.settings.parse(set, args, "C", "mirrors", "modcache"); err != nil {
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
	var options bundle.Options
	if b.head != "" {
		if options.Head, err = bundle.Head(b.file(b.head)); err != nil {
			return fmt.Errorf("-head: %w", err)
		}
	}
	for _, name := range b.onto {
		head, err := bundle.Head(b.file(name))
		if err != nil {
			return fmt.Errorf("-onto: %w", err)
		}
		options.Onto = append(options.Onto, head)
	}
	output := b.file(b.output)
	opts := []modfetch.Option{modfetch.WithPolicy(modfetch.Policy{NoExtract: true})}
	if !strings.HasSuffix(output, ".zip") {
		opts = append(opts, modfetch.WithCache(readOnly{modfetch.DirCache(output)}))
	}
	if b.fetcher, err = b.settings.fetcher(project, opts...); err != nil {
		return err
	}
	defer b.fetcher.Close()
	modules, err := bundle.Write(ctx, b.fetcher, project.file, output, options)
	if err != nil {
		return withNear(ctx, b.fetcher, err)
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
	_, err = fmt.Fprintf(b.stderr, "%s: %s, %s\n", b.output, count(len(modules), "module version"), size(bytes))
	return err
}

// describe says what is bundled of a module, and where mirrors have it.
func (b *bundling) describe(m bundle.Module) bundled {
	out := bundled{Path: m.Path, Version: m.Version.Version, Sum: m.Sum, GoModSum: m.GoModSum}
	for _, f := range m.Files {
		file := bundledFile{Name: f.Name, Size: f.Size, SHA256: f.SHA256}
		for _, tier := range b.fetcher.Route(m.Path).Tiers {
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
	if _, err := os.Stat(b.file(b.verify)); err != nil {
		return err
	}
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
