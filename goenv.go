package modfetch

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// GoEnv holds the settings of the go command that modfetch follows, under their own names and in their own syntax.
//
// [SystemGoEnv] finds what the go command would use on this machine. A literal is a complete description of its own:
// it inherits nothing, and the zero value means that nothing is set. A GoEnv may be copied and used concurrently.
type GoEnv struct {
	GOPROXY    string
	GOSUMDB    string
	GOPRIVATE  string
	GONOPROXY  string // from SystemGoEnv: GOPRIVATE where it is not set itself
	GONOSUMDB  string // likewise
	GOMODCACHE string // from SystemGoEnv: absolute, or "" where neither it nor a GOPATH is known
	GOPATH     string // a list of directories, as in PATH
	GOFLAGS    string
	GOAUTH     string
	NETRC      string // "" means the usual file of the user

	found map[string]foundSetting // by SystemGoEnv; never written afterwards
}

// A foundSetting is a value together with the place it was read from.
type foundSetting struct{ value, source string }

const (
	fromProcess = "environment"
	fromDefault = "default"
)

// SystemGoEnv returns the settings as the go command finds them, without running it. The first place that has a setting
// decides: the process environment, where an empty value counts as absent; the user's file that go env -w writes; the
// file go.env of the Go installation; the default. NETRC comes from the process environment alone.
//
// Without a Go installation there is no default GOPROXY, but GOSUMDB is still sum.golang.org. A GOSUMDB or GOPROXY that
// the user's file sets to nothing stays empty, because that hides the installation's.
//
// A file that exists but cannot be read is an error, and so is a GOPATH or GOMODCACHE that is not absolute.
func SystemGoEnv() (GoEnv, error) {
	found := make(map[string]foundSetting)
	userFile := userGoEnvFile()
	text, err := readGoEnvFile(userFile)
	if err != nil {
		return GoEnv{}, fmt.Errorf("%w; repair the file, or set GOENV=off to go without it", err)
	}
	for key, value := range goEnvLines(text) {
		found[key] = foundSetting{value, userFile}
	}

	if goroot := findGOROOT(found["GOROOT"].value); goroot != "" {
		file := filepath.Join(goroot, "go.env")
		text, err := readGoEnvFile(file)
		if err != nil {
			return GoEnv{}, fmt.Errorf("%w; it belongs to the Go installation and should be readable", err)
		}
		for key, value := range goEnvLines(text) {
			// Unlike in the user's file, the first line for a key counts here.
			if _, ok := found[key]; !ok {
				found[key] = foundSetting{value, file}
			}
		}
	}

	var e GoEnv
	delete(found, "NETRC")
	settings := e.settings()
	for name := range settings {
		if value := os.Getenv(name); value != "" {
			found[name] = foundSetting{value, fromProcess}
		}
	}
	if _, ok := found["GOSUMDB"]; !ok {
		found["GOSUMDB"] = foundSetting{"sum.golang.org", fromDefault}
	}
	byDefault := func(name, value string) {
		if found[name].value == "" {
			found[name] = foundSetting{value, fromDefault}
		}
	}
	byDefault("GONOPROXY", found["GOPRIVATE"].value)
	byDefault("GONOSUMDB", found["GOPRIVATE"].value)
	byDefault("GOAUTH", "netrc")
	byDefault("GOPATH", defaultGOPATH())
	byDefault("GOMODCACHE", inFirstGOPATH(found["GOPATH"].value, "pkg/mod"))

	for name, value := range settings {
		if _, ok := found[name]; !ok {
			found[name] = foundSetting{"", fromDefault}
		}
		*value = found[name].value
	}
	e.found = found

	for _, dir := range filepath.SplitList(e.GOPATH) {
		if dir != "" && !filepath.IsAbs(dir) {
			return GoEnv{}, e.mustBeAbsolute("GOPATH", dir)
		}
	}
	if e.GOMODCACHE != "" && !filepath.IsAbs(e.GOMODCACHE) {
		return GoEnv{}, e.mustBeAbsolute("GOMODCACHE", e.GOMODCACHE)
	}
	return e, nil
}

// Source says, for people, where the value of the named setting came from: "environment", the path of the user's go env
// file, the path of the Go installation's go.env, or "default", which includes a value derived from another setting,
// such as a GOMODCACHE inside GOPATH. It is "" where the value is not SystemGoEnv's, and for a name that is not a field.
func (e GoEnv) Source(name string) string {
	value, ok := e.settings()[name]
	if !ok || e.found[name].value != *value {
		return ""
	}
	return e.found[name].source
}

// settings returns the fields by name.
func (e *GoEnv) settings() map[string]*string {
	return map[string]*string{
		"GOPROXY":    &e.GOPROXY,
		"GOSUMDB":    &e.GOSUMDB,
		"GOPRIVATE":  &e.GOPRIVATE,
		"GONOPROXY":  &e.GONOPROXY,
		"GONOSUMDB":  &e.GONOSUMDB,
		"GOMODCACHE": &e.GOMODCACHE,
		"GOPATH":     &e.GOPATH,
		"GOFLAGS":    &e.GOFLAGS,
		"GOAUTH":     &e.GOAUTH,
		"NETRC":      &e.NETRC,
	}
}

// cite names a setting in an error, with its source where that is known.
func (e GoEnv) cite(name string) string {
	if source := e.Source(name); source != "" {
		return fmt.Sprintf("%s (%s)", name, source)
	}
	return name
}

func (e GoEnv) mustBeAbsolute(name, dir string) error {
	what := "a directory"
	if e.Source(name) == fromDefault {
		what = "it, or the home directory it is derived from,"
	}
	return fmt.Errorf("%s is %q, which is relative; set %s to an absolute path", e.cite(name), dir, what)
}

// sumdbDir returns the directory in which the go command keeps the tree heads of checksum databases,
// "" without a GOPATH. It does not follow GOMODCACHE.
func (e GoEnv) sumdbDir() string {
	return inFirstGOPATH(e.GOPATH, "pkg/sumdb")
}

// modCacheRW reports whether GOFLAGS asks for a module cache whose directories stay writable.
func (e GoEnv) modCacheRW() (bool, error) {
	flags, err := e.goFlags()
	if err != nil {
		return false, err
	}
	rw := false
	for _, f := range flags {
		if f.name != "modcacherw" {
			continue
		}
		rw = true
		if f.hasValue {
			if rw, err = strconv.ParseBool(f.value); err != nil {
				return false, fmt.Errorf("%s: -modcacherw=%s is neither true nor false; write -modcacherw or -modcacherw=false",
					e.cite("GOFLAGS"), f.value)
			}
		}
	}
	return rw, nil
}

// modFlag returns the value of -mod in GOFLAGS: "mod", "readonly", "vendor", or "" where the go command chooses.
func (e GoEnv) modFlag() (string, error) {
	flags, err := e.goFlags()
	if err != nil {
		return "", err
	}
	mod := ""
	for _, f := range flags {
		if f.name != "mod" {
			continue
		}
		if !f.hasValue {
			return "", fmt.Errorf("%s: -mod lacks a value; write -mod=mod, -mod=readonly or -mod=vendor", e.cite("GOFLAGS"))
		}
		mod = f.value
	}
	if !slices.Contains([]string{"", "mod", "readonly", "vendor"}, mod) {
		return "", fmt.Errorf("%s: -mod=%s is unknown; write -mod=mod, -mod=readonly or -mod=vendor", e.cite("GOFLAGS"), mod)
	}
	return mod, nil
}

// A goFlag is one item of GOFLAGS, its name without dashes.
type goFlag struct {
	name, value string
	hasValue    bool // it has a "=", perhaps with nothing behind it
}

// goFlags parses GOFLAGS. Flags that modfetch does not know are kept: only the go command knows them all.
func (e GoEnv) goFlags() ([]goFlag, error) {
	items, err := splitQuoted(e.GOFLAGS)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", e.cite("GOFLAGS"), err)
	}
	var flags []goFlag
	for _, item := range items {
		name, dash := strings.CutPrefix(item, "-")
		name = strings.TrimPrefix(name, "-")
		name, value, hasValue := strings.Cut(name, "=")
		if !dash || name == "" || name[0] == '-' {
			return nil, fmt.Errorf("%s: %q is not a flag; write -name or -name=value, with quotes around the whole of one that holds a space",
				e.cite("GOFLAGS"), item)
		}
		flags = append(flags, goFlag{name, value, hasValue})
	}
	return flags, nil
}

// splitQuoted splits s at spaces. An item that begins with a quote, single or double, reaches to the next such quote
// and may hold spaces; there is no escaping, and a quote elsewhere is an ordinary character.
func splitQuoted(s string) ([]string, error) {
	const spaces = " \t\r\n"
	var items []string
	for s = strings.TrimLeft(s, spaces); s != ""; s = strings.TrimLeft(s, spaces) {
		var item string
		if quote := s[:1]; quote == `"` || quote == `'` {
			var closed bool
			if item, s, closed = strings.Cut(s[1:], quote); !closed {
				return nil, fmt.Errorf("a quote is never closed: %s%s; end the item with another %s", quote, item, quote)
			}
		} else {
			end := strings.IndexAny(s, spaces)
			if end < 0 {
				end = len(s)
			}
			item, s = s[:end], s[end:]
		}
		items = append(items, item)
	}
	return items, nil
}

// userGoEnvFile returns the file that go env -w writes, "" if there is none.
func userGoEnvFile() string {
	switch file := os.Getenv("GOENV"); file {
	case "off":
		return ""
	case "":
	default:
		return file
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "go", "env")
}

// readGoEnvFile returns the text of a file of settings, "" if there is no such file.
func readGoEnvFile(file string) (string, error) {
	const maxBytes = 1 << 20
	if file == "" {
		return "", nil
	}
	f, err := os.Open(file)
	// ENOTDIR is a home or configuration directory that is none, such as HOME=/dev/null.
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading Go settings: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err != nil {
		return "", fmt.Errorf("reading Go settings: %w", err)
	}
	if len(text) > maxBytes {
		// Half a file could lack the line that keeps a path private.
		return "", fmt.Errorf("reading Go settings: %s is larger than 1 MiB", file)
	}
	return string(text), nil
}

// goEnvLines yields the KEY=value lines of text in order, values verbatim: a carriage return at the end is part of one.
// Lines that do not begin with a capital letter A to Z or lack a "=" are comments.
func goEnvLines(text string) iter.Seq2[string, string] {
	return func(yield func(key, value string) bool) {
		for line := range strings.SplitSeq(text, "\n") {
			key, value, ok := strings.Cut(line, "=")
			if !ok || key == "" || key[0] < 'A' || key[0] > 'Z' {
				continue
			}
			if !yield(key, value) {
				return
			}
		}
	}
}

// findGOROOT returns the root of the Go installation, "" if there is none. The setting in the user's file precedes
// the process environment, unlike for any other name: the go command looks for go.env in that order.
func findGOROOT(inUserFile string) string {
	if inUserFile != "" {
		return filepath.Clean(inUserFile)
	}
	if dir := os.Getenv("GOROOT"); dir != "" {
		return filepath.Clean(dir)
	}
	// LookPath fails on a go in the current directory, which is as well: a module's author could have put it there.
	if file, err := exec.LookPath("go"); err == nil {
		if file, err = filepath.EvalSymlinks(file); err == nil {
			if dir := filepath.Dir(filepath.Dir(file)); isGOROOT(dir) {
				return dir
			}
		}
	}
	// Only places that an ordinary user cannot create, as anyone can C:\Go.
	usual := []string{
		"/usr/local/go", "/usr/lib/go", "/usr/lib/golang", "/snap/go/current",
		"/opt/homebrew/opt/go/libexec", "/usr/local/opt/go/libexec",
	}
	if runtime.GOOS == "windows" {
		usual = []string{`C:\Program Files\Go`}
	}
	if i := slices.IndexFunc(usual, isGOROOT); i >= 0 {
		return usual[i]
	}
	return ""
}

func isGOROOT(dir string) bool {
	for _, name := range []string{"go.env", "pkg/tool", "src/runtime"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return true
		}
	}
	return false
}

// defaultGOPATH returns the directory go in the home directory, unless the process environment says that Go itself is
// installed there. A Go installed there without a GOROOT shares that directory: so the go command does.
func defaultGOPATH() string {
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	if dir := filepath.Join(home, "go"); dir != filepath.Clean(os.Getenv("GOROOT")) {
		return dir
	}
	return ""
}

// inFirstGOPATH returns dir inside the first element of gopath, "" if that is empty.
func inFirstGOPATH(gopath, dir string) string {
	list := filepath.SplitList(gopath)
	if len(list) == 0 || list[0] == "" {
		return ""
	}
	return filepath.Join(list[0], dir)
}
