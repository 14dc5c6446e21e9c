package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/modfetch/modfetch"
)

// settings are the flags of several commands, and the go command's settings, which count less.
type settings struct {
	dir      string // absolute
	mirrors  string // "" for GOPROXY
	race     bool
	stagger  time.Duration
	modCache string         // absolute; "" for GOMODCACHE
	jobs     int            // 0 for the default
	progress string         // auto, always or never
	env      modfetch.GoEnv // the go command's settings
}

// chinaMirrors are public mirrors that can be reached from mainland China.
const chinaMirrors = "https://goproxy.cn|https://goproxy.io|https://mirrors.aliyun.com/goproxy/" +
	"|https://repo.huaweicloud.com/repository/goproxy/|https://mirrors.cloud.tencent.com/go/,direct"

// chinaStagger is after which time the next of them is asked, unless a flag says otherwise.
const chinaStagger = time.Second

// parse adds the named flags, of C, mirrors, modcache, race, stagger, jobs and progress, to those that a command has of its
// own, and reads them all, and the Go environment.
func (s *settings) parse(set *flag.FlagSet, args []string, names ...string) error {
	s.dir, s.progress = ".", "auto"
	fields := map[string]*string{"mirrors": &s.mirrors, "modcache": &s.modCache}
	for _, name := range names {
		switch name {
		case "C":
			set.StringVar(&s.dir, name, s.dir, "")
		case "race":
			set.BoolVar(&s.race, name, false, "")
		case "stagger":
			set.Func(name, "", func(text string) (err error) {
				if s.stagger, err = time.ParseDuration(text); err != nil || s.stagger <= 0 {
					return errors.New("want a time above 0, such as 300ms")
				}
				return nil
			})
		case "jobs":
			set.Func(name, "", atLeastOne(&s.jobs))
		case "progress":
			set.Func(name, "", func(text string) error {
				s.progress = text
				if !slices.Contains([]string{"auto", "always", "never"}, text) {
					return errors.New("want auto, always or never")
				}
				return nil
			})
		default:
			set.Func(name, "", func(text string) error {
				if *fields[name] = text; text == "" {
					return errors.New("leave it out to use the go command's setting")
				}
				return nil
			})
		}
	}
	set.SetOutput(io.Discard)
	if err := set.Parse(args); errors.Is(err, flag.ErrHelp) {
		return errHelp
	} else if err != nil {
		return usagef("%v", err)
	}
	for _, arg := range set.Args() {
		if strings.HasPrefix(arg, "-") {
			return usagef("%q comes after a module; flags go before modules", arg)
		}
	}

	var err error
	if s.dir, err = filepath.Abs(s.dir); err != nil {
		return err
	}
	if info, err := os.Stat(s.dir); err != nil {
		return usagef("-C: %v", err)
	} else if !info.IsDir() {
		return usagef("-C: %s is not a directory", s.dir)
	}
	if s.modCache != "" && !filepath.IsAbs(s.modCache) {
		s.modCache = filepath.Join(s.dir, s.modCache)
	}
	if s.race && s.stagger > 0 {
		return usagef("-race and -stagger contradict each other")
	}
	if s.mirrors == "cn" {
		s.mirrors = chinaMirrors
		if !s.race && s.stagger == 0 {
			s.stagger = chinaStagger
		}
	}
	if s.mirrors != "" {
		if _, err := modfetch.New(modfetch.WithGOPROXY(s.mirrors)); err != nil {
			return usagef("-mirrors %s", strings.TrimPrefix(err.Error(), "modfetch: WithGOPROXY "))
		}
	}
	s.env, err = modfetch.SystemGoEnv()
	return err
}

// fetcher returns a Fetcher with these settings, and the go.sum of the project, which may be nil.
func (s *settings) fetcher(p *project, options ...modfetch.Option) (*modfetch.Fetcher, error) {
	if strings.Contains(s.env.GOFLAGS, "-modfile") {
		return nil, fmt.Errorf("GOFLAGS (%s) has -modfile, which modfetch does not follow: it reads go.mod", s.env.Source("GOFLAGS"))
	}
	options = append(options, modfetch.WithGoEnv(s.env))
	if s.mirrors != "" {
		options = append(options, modfetch.WithGOPROXY(s.mirrors))
	}
	switch {
	case s.race:
		options = append(options, modfetch.WithStrategy(modfetch.Race()))
	case s.stagger > 0:
		options = append(options, modfetch.WithStrategy(modfetch.Stagger(s.stagger)))
	}
	if s.modCache != "" {
		options = append(options, modfetch.WithModCache(s.modCache))
	}
	if s.jobs > 0 {
		options = append(options, modfetch.WithJobs(s.jobs))
	}
	if p != nil {
		goSum, err := modfetch.LoadGoSum(p.goSums...)
		if err != nil {
			return nil, err
		}
		options = append(options, modfetch.WithGoSum(goSum))
	}
	return modfetch.New(options...)
}

var errNoModCache = errors.New("no module cache: set GOMODCACHE, GOPATH or HOME, or give -modcache dir")

func positive(d *time.Duration) func(string) error {
	return func(text string) (err error) {
		if *d, err = time.ParseDuration(text); err != nil || *d <= 0 {
			return errors.New("want a time above 0, such as 1m")
		}
		return nil
	}
}

func atLeastOne(n *int) func(string) error {
	return func(text string) (err error) {
		if *n, err = strconv.Atoi(text); err != nil || *n < 1 {
			return errors.New("want a whole number, 1 or more")
		}
		return nil
	}
}
