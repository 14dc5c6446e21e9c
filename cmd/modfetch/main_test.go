package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/modfetch/modfetch/modfetchtest"
)

// A world is a mirror with a checksum database, and a machine that knows no other.
type world struct {
	*modfetchtest.Server
	t   *testing.T
	env []string // of a go command, with a module cache of its own
	dir string   // the working directory
}

// newWorld serves example.com/a, which requires example.com/b, which requires example.com/c. Since b is not a pruned module,
// the go.mod file of the c that it requires is read even where a higher version is used.
func newWorld(t *testing.T) *world {
	server := modfetchtest.NewServer(t, nil)
	const origin = `{"Version":"v1.1.0","Time":"2024-05-06T07:08:09Z",` +
		`"Origin":{"VCS":"git","URL":"https://example.com/a","Hash":"0123456789abcdef0123456789abcdef01234567","Ref":"refs/tags/v1.1.0"}}`
	const b = "module example.com/b\n\ngo 1.16\n\nrequire example.com/c v1.0.0\n"
	const a = "module example.com/a\n\ngo 1.22\n\nrequire example.com/b v1.0.0\n\nrequire example.com/c v1.0.0 // indirect\n"
	for _, m := range []modfetchtest.Module{
		modfetchtest.NewModule("example.com/a", "v1.0.0").File("go.mod", a).File("a.go", "package a\n\nimport _ \"example.com/b\"\n"),
		modfetchtest.NewModule("example.com/a", "v1.1.0").File("go.mod", a).File("a.go", "package a\n\nimport _ \"example.com/b\"\n").
			File(".info", origin),
		modfetchtest.NewModule("example.com/b", "v1.0.0").File("go.mod", b).File("b.go", "package b\n\nimport _ \"example.com/c\"\n"),
		modfetchtest.NewModule("example.com/c", "v1.0.0").File("go.mod", "module example.com/c\n").File("c.go", "package c\n"),
		modfetchtest.NewModule("example.com/c", "v1.1.0").File("go.mod", "module example.com/c\n").File("c.go", "package c\n"),
	} {
		server.Add(m)
	}
	w := &world{Server: server, t: t, env: server.Env(t), dir: t.TempDir()}
	for _, setting := range server.Env(t) {
		name, value, _ := strings.Cut(setting, "=")
		t.Setenv(name, value)
	}
	t.Setenv("GOWORK", "")
	return w
}

// modfetch runs the command in the world's directory.
func (w *world) modfetch(args ...string) (code int, stdout, stderr string) {
	w.t.Helper()
	return w.modfetchUntil(w.t.Context(), args...)
}

func (w *world) modfetchUntil(ctx context.Context, args ...string) (code int, stdout, stderr string) {
	w.t.Helper()
	if slices.Contains([]string{"download", "verify"}, args[0]) {
		args = append([]string{args[0], "-C", w.dir}, args[1:]...)
	}
	var out, err bytes.Buffer
	code = run(ctx, args, &out, &err)
	w.t.Logf("modfetch %s: exit code %d\n%s", strings.Join(args, " "), code, err.String())
	return code, out.String(), err.String()
}

// goCommand runs the go command in a directory and returns its standard output. It may fail.
func (w *world) goCommand(dir string, args ...string) string {
	w.t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Dir, cmd.Env = dir, append(w.env, "PWD="+dir)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	w.t.Logf("go %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	return string(out)
}

func (w *world) setting(name string) string {
	i := slices.IndexFunc(w.env, func(s string) bool { return strings.HasPrefix(s, name+"=") })
	return strings.TrimPrefix(w.env[i], name+"=")
}

// write writes files below dir, given by name and content in turn.
func (w *world) write(dir string, files ...string) {
	w.t.Helper()
	for i := 0; i < len(files); i += 2 {
		name := filepath.Join(dir, files[i])
		if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
			w.t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(files[i+1]), 0o666); err != nil {
			w.t.Fatal(err)
		}
	}
}

// read returns a file's content, or "" if there is none.
func (w *world) read(elem ...string) string {
	w.t.Helper()
	data, err := os.ReadFile(filepath.Join(elem...))
	if err != nil && !os.IsNotExist(err) {
		w.t.Fatal(err)
	}
	return string(data)
}

// steady takes out of an output what differs from run to run.
func (w *world) steady(text string) string {
	text = strings.ReplaceAll(text, w.URL, "MIRROR")
	text = regexp.MustCompile(`\d+(\.\d+)?m?s\b`).ReplaceAllString(text, "TIME")
	return regexp.MustCompile(`\d+(\.\d)? k?B`).ReplaceAllString(text, "SIZE")
}

func TestExitCodes(t *testing.T) {
	w := newWorld(t)
	for _, test := range []struct {
		name string
		args string // separated by semicolons
		code int
		want string // in what is printed
	}{
		{"nothing", "", exitUsage, "usage: modfetch command"},
		{"help", "help", exitOK, "download   download modules"},
		{"help flag", "--help", exitOK, "download   download modules"},
		{"help on a command", "help;download", exitOK, "-update-sum"},
		{"help by a flag", "download;-h", exitOK, "-update-sum"},
		{"help on nothing known", "help;fly", exitUsage, `no help on "fly"`},
		{"help on too much", "help;download;version", exitUsage, "help takes one command"},
		{"unknown command", "fly", exitUsage, `modfetch: unknown command "fly"` + "\nRun 'modfetch help' for usage."},
		{"version", "version", exitOK, "modfetch "},
		{"version of what", "version;download", exitUsage, "modfetch version: takes no arguments"},
		{"download", "download;example.com/a@v1.0.0", exitOK, "1 module: 1 downloaded"},
		{"no such version", "download;example.com/a@v1.0.7", exitFailed, "404 Not Found"},
		{"no project", "download", exitFailed, "no go.mod or go.work in"},
		{"no query", "download;example.com/a@", exitUsage, `argument "example.com/a@" has nothing behind the @`},
		{"bad path", "download;foo@v1.0.0", exitUsage, `argument "foo@v1.0.0": malformed module path "foo"`},
		{"bad query", "download;example.com/a@bad version", exitUsage, `"bad version" cannot be a version`},
		{"two queries", "download;example.com/a@v1.0.0@v1.0.1", exitUsage, `"v1.0.0@v1.0.1" cannot be a version`},
		{"unknown flag", "download;-fly", exitUsage, "-fly\nRun 'modfetch help download' for usage."},
		{"late flag", "download;example.com/a@v1.0.0;-json", exitUsage, `"-json" comes after a module`},
		{"no jobs", "download;-jobs;0", exitUsage, `"0" for flag -jobs: want a whole number, 1 or more`},
		{"half a job", "download;-jobs;0.5", exitUsage, `"0.5" for flag -jobs: want a whole number, 1 or more`},
		{"progress", "download;-progress;yes", exitUsage, `"yes" for flag -progress: want auto, always or never`},
		{"bad mirror", "download;-mirrors;ftp://u:secret@x.example", exitUsage, `x.example": want an http`},
		{"directory for a mirror", "download;-mirrors;../b1", exitUsage, `-mirrors has "../b1": a directory is given as file:///absolute/dir`},
		{"relative file URL", "download;-mirrors;file:../b1", exitUsage, `-mirrors has "file:../b1": a directory is given as file:///absolute/dir`},
		{"no mirror", "download;-mirrors;", exitUsage, `"" for flag -mirrors: leave it out`},
		{"race and stagger", "download;-race;-stagger;1s", exitUsage, "-race and -stagger contradict each other"},
		{"no stagger", "download;-stagger;0s", exitUsage, `"0s" for flag -stagger: want a time above 0, such as 300ms`},
		{"bad stagger", "download;-stagger;soon", exitUsage, `"soon" for flag -stagger: want a time above 0, such as 300ms`},
		{"no cache", "download;-modcache;", exitUsage, `"" for flag -modcache: leave it out`},
		{"no directory", "download;-C;/no/such/directory", exitUsage, "-C: "},
		{"list help", "list;-h", exitOK, "usage: modfetch list"},
		{"list", "list;example.com/c", exitOK, "v1.0.0\nv1.1.0\n"},
		{"list nothing", "list", exitUsage, "no module is named"},
		{"list a version", "list;example.com/c@v1.0.0", exitUsage, `want the module alone, "example.com/c"`},
		{"list a bad path", "list;foo", exitUsage, `argument "foo": malformed module path`},
		{"list with a late flag", "list;example.com/c;-json", exitUsage, `"-json" comes after a module`},
		{"list with a bad mirror", "list;-mirrors;ftp://u:secret@x.example;example.com/c", exitUsage, `x.example": want an http`},
		{"list of no module", "list;example.com/nope", exitFailed, "modfetch: fetching example.com/nope"},
		{"info help", "info;-h", exitOK, "usage: modfetch info"},
		{"info", "info;example.com/c", exitOK, "example.com/c v1.1.0\n"},
		{"info on nothing", "info", exitUsage, "no module is named"},
		{"info with a bad query", "info;example.com/a@bad version", exitUsage, `"bad version" cannot be a version`},
		{"info with a foreign flag", "info;-modcache;x;example.com/a", exitUsage, "-modcache\nRun 'modfetch help info' for usage."},
		{"verify help", "verify;-h", exitOK, "usage: modfetch verify"},
		{"verify a query", "verify;example.com/c@latest", exitUsage, `argument "example.com/c@latest": want a module with a full version`},
		{"verify a prefix", "verify;example.com/c@v1.1", exitUsage, `argument "example.com/c@v1.1": want a module with a full version`},
		{"verify a major version", "verify;example.com/c@v2.0.0", exitUsage, `argument "example.com/c@v2.0.0": want a module with a full`},
		{"verify no project", "verify;-C;" + w.dir, exitFailed, "no go.mod or go.work in"},
		{"verify no cache", "verify;-modcache;", exitUsage, `"" for flag -modcache: leave it out`},
		{"env help", "env;-h", exitOK, "usage: modfetch env"},
		{"env", "env", exitOK, "GOPROXY=" + w.URL + "  # environment\n"},
		{"env of a version", "env;example.com/c@v1.0.0", exitUsage, `want the module alone, "example.com/c"`},
		{"no go.sum", "download;-update-sum;example.com/a@v1.0.0", exitUsage, "-update-sum: no go.mod or go.work in"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var args []string
			if test.args != "" {
				args = strings.Split(test.args, ";")
			}
			if len(args) > 0 && args[0] == "download" {
				args = append([]string{"download", "-C", w.dir}, args[1:]...)
			}
			var out, err bytes.Buffer
			code := run(t.Context(), args, &out, &err)
			text := out.String() + err.String()
			if code != test.code || !strings.Contains(text, test.want) || strings.Contains(text, "secret") {
				t.Errorf("exit code %d, want %d, and in the output %q:\n%s", code, test.code, test.want, text)
			}
			if code == exitOK && strings.HasPrefix(test.args, "help") && err.Len() > 0 {
				t.Errorf("help that was asked for went to standard error")
			}
			if code == exitUsage && out.Len() > 0 {
				t.Errorf("help that nobody has asked for went to standard output")
			}
		})
	}
}
