// Bench measures modfetch beside the go command, and many mirrors beside one good one, on loopback.
//
//	go run ./bench [prepare | measure] [flags]
//	go run ./bench draw results.json... >chart.svg
//
// Prepare downloads, once, what the project github.com/gohugoio/hugo@v0.140.0 needs, 162 zips of 189 MB, from the mirrors of
// the Go environment, and makes what else the chosen cases need out of it. Measure, which is the default, prepares what is
// not there yet, and then contacts nothing but its own mirrors: it starts them for each process anew, and gives that process
// an empty home directory and module cache. Draw draws results that were written before.
//
// In each round the subjects of a case run one after the other, each round in another order. Printed are medians over the
// rounds, and medians of the ratios within a round:
//
//	wall      time
//	cpu       user and system time of the process
//	peak rss  its largest resident memory; less than 10 MiB cannot be told
//	requests  that the mirrors have received
//	sent      bytes that the mirrors have sent, headers included; they may have been on their way when the client left
//	read      bytes of bodies that the library has read, also those of no use; the commands do not tell
//
// The subjects are the go command in PATH, modfetch as this tree has it, the library with a strategy, and, as a floor, a
// program that only inflates, hashes and writes the files of the same zips. What a subject leaves behind is checked each
// time.
//
// The flags are:
//
//	-case regexp    measure only the cases whose names match; all of them take some two hours
//	-list           list the cases, and measure nothing
//	-n rounds       the default is 5; for warm caches five times as many
//	-json file      write the results, each single run included
//	-svg file       draw the ratios, for a README
//	-modfetch file  measure this command instead of building it
//	-limit d        end a process after this time; the default is 10m
//	-seed n         for what is random: where bodies break off
//	-data dir       keep downloads there; the default is modfetch-bench in the user's cache directory
//	-temp dir       make module caches there; the default is /dev/shm if there is one, else the system's directory
//
// The exit code is 1 if a subject failed. A goal that is missed is only printed.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	verb := "measure"
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		verb, args = args[0], args[1:]
	}
	switch verb {
	case "prepare", "measure":
	case "exec": // this and the following are what bench runs of itself
		return runExec(args)
	case "floor":
		return runFloor(args)
	case "fetch":
		return runFetch(args)
	case "draw":
		return draw(stdout, args)
	default:
		return fmt.Errorf("%q is neither prepare, measure nor draw", verb)
	}

	b := &bench{progress: stderr}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	pattern := flags.String("case", "", "regexp: only the cases whose names match")
	list := flags.Bool("list", false, "list the cases")
	flags.IntVar(&b.rounds, "n", 5, "rounds")
	jsonFile := flags.String("json", "", "file for the results")
	svgFile := flags.String("svg", "", "file for a chart")
	flags.StringVar(&b.modfetch, "modfetch", "", "the command to measure instead of building it")
	flags.DurationVar(&b.limit, "limit", defaultLimit, "time for one process")
	flags.Uint64Var(&b.seed, "seed", rand.Uint64N(1e6), "for what is random")
	flags.StringVar(&b.data, "data", "", "directory to keep downloads in (default modfetch-bench in the user's cache directory)")
	temp := flags.String("temp", "", "directory to make module caches in (default /dev/shm if there is one)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("what is %q? flags come before, and there is nothing else", flags.Arg(0))
	}
	if b.rounds < 1 {
		return errors.New("-n: at least one round")
	}
	chosen, err := regexp.Compile(*pattern)
	if err != nil {
		return fmt.Errorf("-case: %w", err)
	}
	var scenarios []scenario
	for _, s := range cases() {
		if chosen.MatchString(s.name) {
			scenarios = append(scenarios, s)
		}
	}
	if len(scenarios) == 0 {
		return fmt.Errorf("no case matches %q; -list lists them", *pattern)
	}
	if *list {
		for _, s := range scenarios {
			fmt.Fprintf(stdout, "%-18s %s\n", s.name, s.about)
		}
		return nil
	}
	if b.data == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return fmt.Errorf("%w; or give -data", err)
		}
		b.data = filepath.Join(dir, "modfetch-bench")
	}
	for _, s := range scenarios {
		if _, err := openSet(ctx, b.data, cmp.Or(s.set, realSet)); err != nil {
			return err
		}
		if verb == "prepare" {
			fmt.Fprintf(stderr, "%s: what it needs is in %s\n", s.name, b.data)
		}
	}
	if verb == "prepare" {
		return nil
	}

	defer func() {
		if b.temp != "" {
			removeAll(b.temp)
		}
	}()
	if err := b.setUp(ctx, *temp); err != nil {
		return err
	}
	r, err := b.report(ctx, scenarios, stdout)
	if *jsonFile != "" {
		data, _ := json.MarshalIndent(r, "", "\t") // numbers and strings
		err = errors.Join(err, os.WriteFile(*jsonFile, append(data, '\n'), 0o666))
	}
	if *svgFile != "" {
		err = errors.Join(err, writeFile(*svgFile, func(w io.Writer) error { return writeChart(w, r.Results) }))
	}
	return err
}

// setUp finds the programs to measure, and makes a place for them to work in.
func (b *bench) setUp(ctx context.Context, temp string) (err error) {
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	if b.goCommand, err = exec.LookPath("go"); err != nil {
		return err
	}
	if info, err := os.Stat("/dev/shm"); temp == "" && err == nil && info.IsDir() {
		temp = "/dev/shm"
	}
	if b.temp, err = os.MkdirTemp(temp, "modfetch-bench-"); err != nil {
		return err
	}
	if b.modfetch == "" {
		b.modfetch, err = buildModfetch(ctx, b.goCommand, b.temp)
	} else {
		b.modfetch, err = filepath.Abs(b.modfetch)
	}
	return err
}

// buildModfetch builds the command of the tree that this program belongs to.
func buildModfetch(ctx context.Context, goCommand, dir string) (string, error) {
	list := exec.CommandContext(ctx, goCommand, "list", "-m", "-f", "{{.Dir}}", "github.com/modfetch/modfetch")
	list.Stderr = os.Stderr
	root, err := list.Output()
	if err != nil {
		return "", fmt.Errorf("finding modfetch from this directory, which should be in its tree: %w", err)
	}
	file := filepath.Join(dir, "modfetch")
	if runtime.GOOS == "windows" {
		file += ".exe"
	}
	build := exec.CommandContext(ctx, goCommand, "build", "-o", file, ".")
	build.Dir = filepath.Join(strings.TrimSpace(string(root)), "cmd", "modfetch")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building modfetch: %w\n%s", err, out)
	}
	return file, nil
}

func writeFile(name string, write func(io.Writer) error) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}
