package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/modfetch/modfetch"
)

const infoHelp = `usage: modfetch info [flags] module[@query] ...

Info resolves queries to versions, and prints what a mirror says of them. A
query is a version such as v1.2.3, a prefix such as v1.2, a range such as
<v1.2.3, the name of a branch, tag or commit, or latest, which is also meant
where there is none.

Versions that a query chooses have a go.mod file that the checksum database
vouches for. Nobody vouches for times and origins. A deprecation is only looked
for where a version is chosen from the list.

  -mirrors list  use these mirrors instead of those in GOPROXY; the form is
                 alike: 'https://goproxy.cn|https://corp.example,direct';
                 cn stands for five public mirrors that can be reached from
                 mainland China, taken as equal
  -json          print an object for each argument

The objects that -json prints have these fields, if there is something in them:

  Path           of the module
  Query          as asked
  Version        that it resolves to
  Time           of the commit
  Origin         VCS, URL, Subdir, Hash, Ref and so on, as in the go command
  Deprecated     what the author has to say of it
  Error          instead: why there is no version

The exit code is 0 if all went well, 1 if an argument failed, 2 for a mistake in
the command line, and 130 after an interrupt.
`

// An infoJSON is what info -json prints of an argument.
type infoJSON struct {
	Path       string
	Query      string
	Version    string           `json:",omitempty"`
	Time       time.Time        `json:",omitzero"`
	Origin     *modfetch.Origin `json:",omitempty"`
	Deprecated string           `json:",omitempty"`
	Error      string           `json:",omitempty"`
}

func runInfo(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var s settings
	set := flag.NewFlagSet("info", flag.ContinueOnError)
	asJSON := set.Bool("json", false, "")
	if err := s.parse(set, args, "mirrors"); err != nil {
		return err
	}
	targets, err := parseTargets(set.Args())
	if err != nil {
		return err
	}
	if len(targets) == 0 {
		return usagef("no module is named; want one, as in: modfetch info golang.org/x/text@latest")
	}
	f, err := s.fetcher(nil)
	if err != nil {
		return err
	}
	defer f.Close()

	infos, errs := resolve(ctx, f, targets, atOnce)
	if ctx.Err() != nil {
		return errInterrupted
	}
	for i, t := range targets {
		out := infoJSON{Path: t.path, Query: t.query}
		if errs[i] != nil {
			out.Error = message(errs[i], t)
			err = errFailed
		} else {
			info := infos[i]
			out.Version, out.Time, out.Origin, out.Deprecated = info.Version, info.Time, info.Origin, info.Deprecated
		}
		switch {
		case *asJSON:
			if err := printJSON(stdout, out); err != nil {
				return err
			}
		case out.Error != "":
			fmt.Fprintln(stderr, "modfetch:", out.Error)
		default:
			if _, err := io.WriteString(stdout, out.plain()); err != nil {
				return err
			}
		}
	}
	return err
}

// plain is the version in one line, and what is known of it in further ones.
func (i infoJSON) plain() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%s %s\n", i.Path, i.Version)
	line := func(label, value string) {
		if value != "" {
			printField(&text, label, value)
		}
	}
	if !i.Time.IsZero() {
		line("time", i.Time.UTC().Format(time.RFC3339))
	}
	if o := i.Origin; o != nil {
		line("vcs", o.VCS)
		line("url", o.URL)
		line("subdir", o.Subdir)
		line("hash", o.Hash)
		line("ref", o.Ref)
	}
	line("deprecated", i.Deprecated)
	return text.String()
}
