// Command modfetch downloads Go modules from mirrors that may be slow, broken or hostile, and verifies them.
//
// It works in the go command's own module cache and takes the go command's own settings. Run modfetch help for a list
// of its commands.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
)

// Exit codes.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

func main() {
	if os.Getenv("GOGC") == "" && os.Getenv("GOMEMLIMIT") == "" {
		// A run that finds everything in the cache ends before collecting garbage pays; the limit keeps a long one small.
		debug.SetGCPercent(400)
		debug.SetMemoryLimit(40 << 20)
	}
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		signals = append(signals, syscall.SIGHUP) // a closed terminal: git and the like have to be ended too
	}
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	context.AfterFunc(ctx, stop) // a second signal ends the process where it stands
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// A command is what the first argument names.
type command struct {
	name    string
	summary string // one line
	help    string
	run     func(ctx context.Context, args []string, stdout, stderr io.Writer) error
}

var commands = []command{
	{"download", "download modules to the module cache", downloadHelp, runDownload},
	{"verify", "verify what the module cache holds", verifyHelp, runVerify},
	{"list", "list the versions of modules", listHelp, runList},
	{"info", "resolve queries to versions", infoHelp, runInfo},
	{"bundle", "carry modules to machines without a network", bundleHelp, runBundle},
	{"serve", "serve modules to go commands", serveHelp, runServe},
	{"env", "print the settings, and who would be asked", envHelp, runEnv},
	{"version", "print the version of modfetch", versionHelp, runVersion},
}

func lookup(name string) *command {
	for i := range commands {
		if commands[i].name == name {
			return &commands[i]
		}
	}
	return nil
}

// A usageError is a mistake in the command line; it says what would be right.
type usageError struct{ msg string }

func (e *usageError) Error() string { return e.msg }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

var (
	errHelp   = errors.New("help requested")      // by a flag
	errFailed = errors.New("some modules failed") // each of which has been reported

	errInterrupted = errors.New("interrupted") // as the context says too
)

// atOnce is how many modules list, info and verify work on at the same time. Requests have a limit of their own.
const atOnce = 16

// run runs the command that args name and returns the exit code of the process.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		printHelp(stderr)
		return exitUsage
	}
	name, args := args[0], args[1:]
	var err error
	switch c := lookup(name); {
	case c != nil:
		if err = c.run(ctx, args, stdout, stderr); errors.Is(err, errHelp) {
			fmt.Fprint(stdout, c.help)
			return exitOK
		}
	case name == "help", strings.TrimLeft(name, "-") == "help", name == "-h":
		name, err = "", runHelp(args, stdout)
	default:
		name, err = "", usagef("unknown command %q", name)
	}

	var usage *usageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &usage):
		fmt.Fprintln(stderr, strings.TrimRight("modfetch "+name, " ")+":", usage.msg)
		fmt.Fprintf(stderr, "Run '%s' for usage.\n", strings.TrimRight("modfetch help "+name, " "))
		return exitUsage
	case ctx.Err() != nil:
		fmt.Fprintln(stderr, "modfetch:", err)
		return exitInterrupted
	case err != errFailed:
		fmt.Fprintln(stderr, "modfetch:", strings.TrimPrefix(err.Error(), "modfetch: "))
	}
	return exitFailed
}

func runHelp(args []string, stdout io.Writer) error {
	switch len(args) {
	case 0:
		printHelp(stdout)
		return nil
	case 1:
		if c := lookup(args[0]); c != nil {
			fmt.Fprint(stdout, c.help)
			return nil
		}
		return usagef("no help on %q, which is not a command", args[0])
	}
	return usagef("help takes one command, as in: modfetch help download")
}

func printHelp(w io.Writer) {
	fmt.Fprint(w, "modfetch makes several unreliable Go module mirrors behave like one reliable, trusted one.\n\n"+
		"usage: modfetch command [arguments]\n\n")
	for _, c := range commands {
		fmt.Fprintf(w, "\t%-10s %s\n", c.name, c.summary)
	}
	fmt.Fprint(w, "\nRun 'modfetch help command' for more about one of them.\n\n"+
		"Exit codes: 0 success, 1 failure, 2 a mistake in the command line, 130 interrupted.\n")
}

const versionHelp = `usage: modfetch version

Version prints the version of modfetch, and the Go release and the platform that it was built with and for.
`

func runVersion(_ context.Context, args []string, stdout, _ io.Writer) error {
	if len(args) > 0 {
		return usagef("takes no arguments")
	}
	version := "(unknown)"
	if info, ok := debug.ReadBuildInfo(); ok {
		version = info.Main.Version
	}
	fmt.Fprintf(stdout, "modfetch %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return nil
}
