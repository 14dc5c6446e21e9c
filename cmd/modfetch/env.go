package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/modfetch/modfetch"
)

const envHelp = `usage: modfetch env [flags] [module ...]

Env prints the go command's settings that modfetch follows, and where each comes
from: the environment, the file that 'go env -w' writes, the Go installation's
file, or the default. User names, passwords and queries of URLs are not printed.

For each module it prints who would be asked about it, and asks nobody: the
mirrors in order, a line for those that | joins, where a further line is what
comes after a comma; and the checksum database with the places where it would be
read, or the setting because of which it would not be asked.

  -json  print one object

The object that -json prints has these fields:

  Settings   a list: Name, Value, and where it comes from, as Source
  Routes     a list, for each module: its Path; Mirrors, a list of lists; Sums,
             the checksum database, and SumsAt, a list; Exempts instead, the
             setting because of which it would not be asked

The exit code is 0 if all went well, 1 if the settings are wrong, and 2 for a
mistake in the command line.
`

// An envJSON is what env -json prints.
type envJSON struct {
	Settings []setting
	Routes   []routeJSON `json:",omitempty"`
}

type setting struct{ Name, Value, Source string }

type routeJSON struct {
	Path    string
	Mirrors [][]string
	Sums    string   `json:",omitempty"`
	SumsAt  []string `json:",omitempty"`
	Exempts string   `json:",omitempty"`
}

func runEnv(_ context.Context, args []string, stdout, _ io.Writer) error {
	var s settings
	set := flag.NewFlagSet("env", flag.ContinueOnError)
	asJSON := set.Bool("json", false, "")
	if err := s.parse(set, args); err != nil {
		return err
	}
	paths, err := parsePaths(set.Args())
	if err != nil {
		return err
	}
	out := envJSON{Settings: effective(s.env)}
	routes, routesErr := findRoutes(s.env, paths) // reported behind the settings, in which the mistake is
	out.Routes = routes
	if *asJSON {
		err = printJSON(stdout, out)
	} else {
		_, err = io.WriteString(stdout, out.plain())
	}
	if err != nil {
		return err
	}
	return routesErr
}

// effective returns the settings without secrets.
func effective(env modfetch.GoEnv) []setting {
	list := []setting{
		{Name: "GOPROXY", Value: withoutSecrets(env.GOPROXY)},
		{Name: "GOSUMDB", Value: withoutSecrets(env.GOSUMDB)},
		{Name: "GOPRIVATE", Value: withoutSecrets(env.GOPRIVATE)},
		{Name: "GONOPROXY", Value: withoutSecrets(env.GONOPROXY)},
		{Name: "GONOSUMDB", Value: withoutSecrets(env.GONOSUMDB)},
		{Name: "GOMODCACHE", Value: env.GOMODCACHE},
		{Name: "GOPATH", Value: env.GOPATH},
		{Name: "GOFLAGS", Value: withoutSecrets(env.GOFLAGS)},
		{Name: "GOAUTH", Value: withoutSecrets(env.GOAUTH)},
		{Name: "NETRC", Value: env.NETRC},
	}
	for i := range list {
		list[i].Source = env.Source(list[i].Name)
	}
	return list
}

func findRoutes(env modfetch.GoEnv, paths []string) ([]routeJSON, error) {
	if len(paths) == 0 {
		return nil, nil
	}
	f, err := modfetch.New(modfetch.WithGoEnv(env))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var routes []routeJSON
	for _, path := range paths {
		r := f.Route(path)
		out := routeJSON{Path: path, Sums: r.Sums, SumsAt: slices.Compact(names(r.SumsAt)), Exempts: withoutSecrets(r.Exempts)}
		for _, tier := range r.Tiers {
			out.Mirrors = append(out.Mirrors, names(tier))
		}
		routes = append(routes, out)
	}
	return routes, nil
}

func names(mirrors []modfetch.Mirror) []string {
	var list []string
	for _, m := range mirrors {
		list = append(list, m.String())
	}
	return list
}

func (e envJSON) plain() string {
	var text strings.Builder
	for _, s := range e.Settings {
		fmt.Fprintf(&text, "%s=%s  # %s\n", s.Name, printable(s.Value), s.Source)
	}
	for _, r := range e.Routes {
		fmt.Fprintf(&text, "%s\n", r.Path)
		label := "mirrors"
		for _, tier := range r.Mirrors {
			printField(&text, label, strings.Join(tier, "|"))
			label = "then"
		}
		sums := "not looked up, because of " + r.Exempts
		if r.Exempts == "" {
			sums = r.Sums + "  at " + strings.Join(r.SumsAt, ", ")
		}
		printField(&text, "checksums", sums)
	}
	return text.String()
}

// withoutSecrets replaces user names, passwords and queries of the URLs in a setting. In doubt it replaces more: a
// password may have in it what the go command takes for the end of a URL.
func withoutSecrets(value string) string {
	var text strings.Builder
	for value != "" {
		// One URL at a time: up to where the next one begins, or where an item is none.
		n := nextItem(value)
		item := value[:n]
		value = value[n:]
		end := len(strings.TrimRight(item, ",|; "))
		item, sep := item[:end], item[end:]
		scheme, rest, ok := strings.Cut(item, "://")
		if ok {
			scheme += "://"
		} else {
			scheme, rest = "", item
		}
		rest, query, ok := strings.Cut(rest, "?")
		switch at := strings.LastIndexByte(rest, '@'); {
		case strings.Contains(query, "@"): // whose the question mark is cannot be told
			rest = "***"
		case at >= 0:
			rest = "***" + rest[at:]
		}
		if ok {
			rest += "?***"
		}
		text.WriteString(scheme + rest + sep)
	}
	return text.String()
}

// nextItem returns where the second URL or word of a list begins.
func nextItem(list string) int {
	for i := 1; i < len(list); i++ {
		if !strings.ContainsRune(",|; ", rune(list[i-1])) {
			continue
		}
		word := list[i:]
		if end := strings.IndexAny(word, ",|; "); end >= 0 {
			word = word[:end]
		}
		if word == "direct" || word == "off" || strings.Contains(word, "://") {
			return i
		}
	}
	return len(list)
}
