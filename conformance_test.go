package modfetch_test

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/modfetchtest"
	"golang.org/x/mod/module"
)

// The tests of the files conformance_*_test.go ask modfetch and the go command the same, each in a world of its own, and
// hold what becomes of it against one expectation: the error, the requests, what is in the module cache. Where the two
// differ on purpose, the test says what each of them does, and DIFFERENCES.md why.

// A client is modfetch or the go command, with a module cache, and mirrors of the same modules, of its own.
type client struct {
	goCommand string // "" for modfetch
	base      *modfetchtest.Server
	a, b      *modfetchtest.Server // mirrors, with faults and logs of their own
	settings  map[string]string    // of the go command's environment
	dir       string               // where the question is asked: an empty directory, or a module's
}

// asBoth runs a test as modfetch and, if there is one, as the go command.
func asBoth(t *testing.T, test func(*testing.T, *client)) {
	t.Run("modfetch", func(t *testing.T) {
		t.Parallel()
		test(t, newClient(t, ""))
	})
	t.Run("go", func(t *testing.T) {
		t.Parallel()
		test(t, newClient(t, needGo(t)))
	})
}

func newClient(t *testing.T, goCommand string) *client {
	t.Helper()
	c := &client{goCommand: goCommand, base: modfetchtest.NewServer(t, nil), dir: t.TempDir(), settings: make(map[string]string)}
	for _, m := range allModules {
		c.base.Add(modfetchtest.NewModule(m.Path, m.Version).File("m.go", "package m\n"))
	}
	c.a, c.b = c.base.Mirror(), c.base.Mirror()
	for _, kv := range append(c.base.Env(t), "GOPROXY="+c.a.URL, "GOAUTH=off") {
		key, value, _ := strings.Cut(kv, "=")
		c.settings[key] = value
	}
	t.Cleanup(func() { chmodAll(c.modCache()) })
	return c
}

func (c *client) isGo() bool { return c.goCommand != "" }

// either returns what is expected of modfetch or of the go command, where they differ.
func either[T any](c *client, modfetch, goCommand T) T {
	if c.isGo() {
		return goCommand
	}
	return modfetch
}

func (c *client) modCache() string { return c.settings["GOMODCACHE"] }

// set changes settings such as "GOPROXY=<a>,<b>", in which <a> and <b> stand for the mirrors.
func (c *client) set(settings ...string) {
	for _, kv := range settings {
		key, value, _ := strings.Cut(kv, "=")
		c.settings[key] = strings.NewReplacer("<a>", c.a.URL, "<b>", c.b.URL).Replace(value)
	}
}

// An outcome is what became of a question.
type outcome struct {
	err        error
	kind       modfetch.Kind // of modfetch's error
	says       string        // the error's text
	version    string        // that was found
	a, b       string        // what the mirrors were asked for, each file once in a row: "info mod zip"
	sumA, sumB string        // what they were asked for of the checksum database: "supported lookup tile"
	elsewhere  []string      // hosts that were asked beside them
}

// ask wants a module's files, as `go mod download path@query` does.
func (c *client) ask(t *testing.T, path, query string) (o outcome) {
	t.Helper()
	logged := map[*modfetchtest.Server]int{c.a: len(c.a.Log()), c.b: len(c.b.Log()), c.base: len(c.base.Log())}
	if c.isGo() {
		o = c.askGo(t, path, query)
	} else {
		o = c.askModfetch(t, path, query)
	}
	o.a, o.sumA = summary(c.a.Requests()[logged[c.a]:])
	o.b, o.sumB = summary(c.b.Requests()[logged[c.b]:])
	for _, r := range c.base.Log()[logged[c.base]:] { // by which the go command wants to leave
		o.elsewhere = append(o.elsewhere, strings.TrimSuffix(r.Path, ":443"))
	}
	if o.err != nil {
		o.version = "" // the go command repeats the query
		o.says += o.err.Error()
	}
	slices.Sort(o.elsewhere)
	o.elsewhere = slices.Compact(o.elsewhere)
	return o
}

func (c *client) askGo(t *testing.T, path, query string) (o outcome) {
	stdout, stderr, err := c.runGo(t, "mod", "download", "-json", path+"@"+query)
	var said struct{ Version, Error string }
	json.Unmarshal(stdout, &said) // it prints nothing where it gives up altogether
	return outcome{err: err, version: said.Version, says: said.Error + string(stderr)}
}

func (c *client) runGo(t *testing.T, args ...string) (stdout, stderr []byte, err error) {
	cmd := exec.CommandContext(t.Context(), c.goCommand, args...)
	cmd.Dir = c.dir
	for key, value := range c.settings {
		cmd.Env = append(cmd.Env, key+"="+value)
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	stdout, err = cmd.Output()
	return stdout, said.Bytes(), err
}

// askModfetch asks for one file after another, because the go command does.
func (c *client) askModfetch(t *testing.T, path, query string) (o outcome) {
	var mu sync.Mutex
	f, err := c.fetcher(t, modfetch.WithTrace(&modfetch.Trace{AttemptStarted: func(_ context.Context, i modfetch.AttemptInfo) {
		mu.Lock()
		defer mu.Unlock()
		if host, ok := strings.CutPrefix(i.Mirror, "https://"); ok {
			o.elsewhere = append(o.elsewhere, host)
		}
	}}))
	if err != nil {
		return outcome{err: err}
	}
	info, err := f.Info(t.Context(), path, query)
	m := module.Version{Path: path, Version: info.Version}
	if err == nil {
		_, err = f.GoMod(t.Context(), m)
	}
	if err == nil {
		_, err = f.Dir(t.Context(), m)
	}
	o.err, o.version = err, info.Version
	if err != nil {
		o.kind = modfetch.KindOf(err)
	}
	return o
}

// fetcher makes a Fetcher by the client's settings.
func (c *client) fetcher(t *testing.T, opts ...modfetch.Option) (*modfetch.Fetcher, error) {
	s := c.settings
	sums, err := modfetch.LoadGoSum(filepath.Join(c.dir, "go.sum"))
	if err != nil {
		return nil, err
	}
	f, err := modfetch.New(append(opts, modfetch.WithGoSum(sums), modfetch.WithGoEnv(modfetch.GoEnv{
		GOPROXY: s["GOPROXY"], GOSUMDB: s["GOSUMDB"], GOPRIVATE: s["GOPRIVATE"], GONOPROXY: s["GONOPROXY"], GONOSUMDB: s["GONOSUMDB"],
		GOMODCACHE: s["GOMODCACHE"], GOPATH: s["GOPATH"], GOFLAGS: s["GOFLAGS"], GOAUTH: s["GOAUTH"],
	}))...)
	if err == nil {
		t.Cleanup(func() { f.Close() })
	}
	return f, err
}

// summary tells the kinds of files that were asked for, in order.
func summary(requests []string) (module, sumdb string) {
	var files, sums []string
	for _, name := range requests {
		switch rest, ok := strings.CutPrefix(name, "/sumdb/"); {
		case ok:
			sums = append(sums, strings.Split(rest, "/")[1])
		case path.Ext(name) != "" && strings.Contains(name, "/@v/"):
			files = append(files, path.Ext(name)[1:])
		default:
			files = append(files, strings.TrimPrefix(path.Base(name), "@"))
		}
	}
	return strings.Join(slices.Compact(files), " "), strings.Join(slices.Compact(sums), " ")
}

// has reports whether a file is in the client's module cache.
func (c *client) has(name string) bool {
	_, err := os.Lstat(filepath.Join(c.modCache(), filepath.FromSlash(name)))
	return err == nil
}

// read returns a file of the client's module cache, "" if it is not there.
func (c *client) read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(c.modCache(), filepath.FromSlash(name)))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return string(data)
}

// zipOf makes a module zip without asking whether it keeps the rules. Names stand below path@version/.
func zipOf(t *testing.T, m module.Version, files map[string]string) []byte {
	t.Helper()
	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	for name, content := range files {
		w, err := z.Create(m.String() + "/" + name)
		if err == nil {
			_, err = w.Write([]byte(content))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}
