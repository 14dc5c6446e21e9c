package modfetch

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

type goVars = map[string]string

// A goEnvCase describes a machine. In its texts $HOME is the home directory, $SDK the Go installation and $LIST the
// separator of GOPATH.
type goEnvCase struct {
	name    string
	process goVars
	user    string // the user's file
	sdk     string // go.env of the installation
	want    goVars // name: value < source
}

const sdkGoEnv = "# comment\nGOPROXY=https://sdk.example,direct\nGOSUMDB=sum.golang.org\n"

var goEnvCases = []goEnvCase{
	{
		name: "nothing set", sdk: sdkGoEnv,
		want: goVars{
			"GOPROXY": "https://sdk.example,direct < $SDK/go.env", "GOSUMDB": "sum.golang.org < $SDK/go.env",
			"GOPRIVATE": " < default", "GONOPROXY": " < default", "GONOSUMDB": " < default",
			"GOPATH": "$HOME/go < default", "GOMODCACHE": "$HOME/go/pkg/mod < default",
			"GOFLAGS": " < default", "GOAUTH": "netrc < default", "NETRC": " < default",
		},
	},
	{
		name: "the process environment comes first", sdk: sdkGoEnv,
		process: goVars{
			"GOPROXY": "https://process.example", "GOSUMDB": "off", "GOPRIVATE": "p.example", "GONOPROXY": "none",
			"GOMODCACHE": "$HOME/mods", "GOPATH": "$HOME/gp", "GOFLAGS": "-mod=mod", "GOAUTH": "off", "NETRC": "$HOME/n",
		},
		user: "GOPROXY=https://user.example\nGOSUMDB=sum.golang.org\nGOFLAGS=-v\n",
		want: goVars{
			"GOPROXY": "https://process.example < environment", "GOSUMDB": "off < environment",
			"GOPRIVATE": "p.example < environment", "GONOPROXY": "none < environment", "GONOSUMDB": "p.example < default",
			"GOMODCACHE": "$HOME/mods < environment", "GOPATH": "$HOME/gp < environment",
			"GOFLAGS": "-mod=mod < environment", "GOAUTH": "off < environment", "NETRC": "$HOME/n < environment",
		},
	},
	{
		name: "the user's file precedes go.env", sdk: sdkGoEnv,
		user: "GOPROXY=https://user.example\nGONOSUMDB=n.example\nGOPRIVATE=p.example\nGOAUTH=off\n",
		want: goVars{
			"GOPROXY": "https://user.example < $HOME/goenv", "GOSUMDB": "sum.golang.org < $SDK/go.env",
			"GONOPROXY": "p.example < default", "GONOSUMDB": "n.example < $HOME/goenv", "GOAUTH": "off < $HOME/goenv",
		},
	},
	{
		name: "an empty process value counts as unset", sdk: sdkGoEnv + "GOPRIVATE=p.example\n",
		process: goVars{"GOPROXY": "", "GOPRIVATE": ""}, user: "GOPROXY=https://user.example\n",
		want: goVars{"GOPROXY": "https://user.example < $HOME/goenv", "GOPRIVATE": "p.example < $SDK/go.env"},
	},
	{
		name: "an empty value in the user's file hides go.env", sdk: sdkGoEnv + "GOPRIVATE=p.example\n",
		user: "GOPROXY=\nGOSUMDB=\nGOPRIVATE=\n",
		want: goVars{
			"GOPROXY": " < $HOME/goenv", "GOSUMDB": " < $HOME/goenv",
			"GOPRIVATE": " < $HOME/goenv", "GONOPROXY": " < default",
		},
	},
	{
		name: "an empty value in the user's file does not hide a default", sdk: sdkGoEnv,
		user: "GOAUTH=\nGOPATH=\nGOMODCACHE=\nGONOPROXY=\nGOPRIVATE=p.example\n",
		want: goVars{
			"GOAUTH": "netrc < default", "GONOPROXY": "p.example < default",
			"GOPATH": "$HOME/go < default", "GOMODCACHE": "$HOME/go/pkg/mod < default",
		},
	},
	{
		name: "a carriage return stays", sdk: sdkGoEnv,
		user: "GOPROXY=https://user.example\r\nGOSUMDB=off\r\n",
		want: goVars{"GOPROXY": "https://user.example\r < $HOME/goenv", "GOSUMDB": "off\r < $HOME/goenv"},
	},
	{
		name: "only lines of a capital letter and an equals sign count", sdk: sdkGoEnv,
		user: "#GOPROXY=a\n GOPROXY=b\ngoproxy=c\nGOPROXY\nGOPROXY =d\n=e\n\nGOPRIVATE=x=y ",
		want: goVars{"GOPROXY": "https://sdk.example,direct < $SDK/go.env", "GOPRIVATE": "x=y  < $HOME/goenv"},
	},
	{
		name: "of two lines the last in the user's file and the first in go.env",
		user: "GOPRIVATE=one.example\nGOPRIVATE=two.example\n",
		sdk:  "GOSUMDB=sum.golang.org\nGOPROXY=https://one.example\nGOPROXY=https://two.example\n",
		want: goVars{"GOPRIVATE": "two.example < $HOME/goenv", "GOPROXY": "https://one.example < $SDK/go.env"},
	},
	{
		name: "GOENV=off", sdk: sdkGoEnv,
		process: goVars{"GOENV": "off"}, user: "GOPROXY=https://user.example\n",
		want: goVars{"GOPROXY": "https://sdk.example,direct < $SDK/go.env"},
	},
	{
		name: "GOENV names no file", sdk: sdkGoEnv,
		process: goVars{"GOENV": "$HOME/absent/env"},
		want:    goVars{"GOPROXY": "https://sdk.example,direct < $SDK/go.env"},
	},
	{
		name: "GOENV and NETRC count in the process environment only", sdk: sdkGoEnv + "NETRC=$HOME/n\n",
		user: "GOENV=off\nNETRC=$HOME/n\nGOPROXY=https://user.example\n",
		want: goVars{"NETRC": " < default", "GOPROXY": "https://user.example < $HOME/goenv"},
	},
	{
		name: "GOROOT in the user's file says where go.env is", sdk: sdkGoEnv,
		process: goVars{"GOROOT": "$HOME"}, user: "GOROOT=$SDK\n",
		want: goVars{"GOPROXY": "https://sdk.example,direct < $SDK/go.env"},
	},
	{
		name: "the module cache is in the first element of GOPATH", sdk: sdkGoEnv,
		process: goVars{"GOPATH": "$HOME/one$LIST$LIST$HOME/two"},
		want: goVars{
			"GOPATH": "$HOME/one$LIST$LIST$HOME/two < environment", "GOMODCACHE": "$HOME/one/pkg/mod < default",
		},
	},
	{
		name: "an empty first element of GOPATH", sdk: sdkGoEnv,
		process: goVars{"GOPATH": "$LIST$HOME/two"},
		want:    goVars{"GOMODCACHE": " < default"},
	},
	{
		name: "GOROOT where GOPATH would be",
		process: goVars{
			"HOME": "$HOME/sub", "USERPROFILE": "$HOME/sub", "GOROOT": "$HOME/sub/go", "GOSUMDB": "off",
		},
		want: goVars{"GOPATH": " < default", "GOMODCACHE": " < default"},
	},
	{
		name: "no home directory", sdk: sdkGoEnv,
		process: goVars{"HOME": "", "USERPROFILE": ""},
		want:    goVars{"GOPATH": " < default", "GOMODCACHE": " < default"},
	},
}

// setUp makes the process see the machine that c describes, and returns how to expand its texts.
func (c goEnvCase) setUp(t *testing.T) *strings.Replacer {
	t.Helper()
	home, sdk := t.TempDir(), t.TempDir()
	expand := strings.NewReplacer("$HOME", home, "$SDK", sdk, "$LIST", string(filepath.ListSeparator))
	process := goVars{
		"GOENV": "$HOME/goenv", "GOROOT": "$SDK", "HOME": "$HOME", "USERPROFILE": "$HOME",
		"XDG_CONFIG_HOME": "", "AppData": "$HOME/AppData", "GOTOOLCHAIN": "local", "GOWORK": "off",
	}
	for name := range new(GoEnv).settings() {
		process[name] = ""
	}
	maps.Copy(process, c.process)
	for name, value := range process {
		t.Setenv(name, expand.Replace(value))
	}
	t.Chdir(home)
	for _, dir := range []string{"sub/go", "sub/go.env"} {
		if err := os.MkdirAll(filepath.FromSlash(dir), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	writeGoEnvFile(t, "off", "GOPROXY=https://off.example\n") // not what GOENV=off means
	writeGoEnvFile(t, "goenv", expand.Replace(c.user))
	writeGoEnvFile(t, filepath.Join(sdk, "go.env"), expand.Replace(c.sdk))
	if dir, err := os.UserConfigDir(); err == nil {
		// Otherwise the go command leaves a process behind that writes here while the directory is removed.
		writeGoEnvFile(t, filepath.Join(dir, "go", "telemetry", "mode"), "off\n")
	}
	return expand
}

func writeGoEnvFile(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
}

func TestSystemGoEnv(t *testing.T) {
	for _, c := range goEnvCases {
		t.Run(c.name, c.check)
	}
}

func (c goEnvCase) check(t *testing.T) {
	expand := c.setUp(t)
	e, err := SystemGoEnv()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range c.want {
		value, source, _ := strings.Cut(expand.Replace(want), " < ")
		if strings.HasPrefix(want, "$HOME") {
			value = filepath.FromSlash(value)
		}
		if got := *e.settings()[name]; got != value {
			t.Errorf("%s = %q, want %q", name, got, value)
		}
		if got := e.Source(name); filepath.ToSlash(got) != filepath.ToSlash(source) {
			t.Errorf("Source(%q) = %q, want %q", name, got, source)
		}
	}
}

func TestSystemGoEnvAgreesWithTheGoCommand(t *testing.T) {
	command := findGoCommand(t)
	for _, c := range goEnvCases {
		t.Run(c.name, func(t *testing.T) {
			c.setUp(t)
			compareWithGoEnv(t, command)
		})
	}
	t.Run("the real installation", func(t *testing.T) {
		goEnvCase{process: goVars{"GOROOT": ""}, user: "GOPRIVATE=p.example\n"}.setUp(t)
		compareWithGoEnv(t, command)
	})
	t.Run("the file where go env -w writes it", func(t *testing.T) {
		goEnvCase{process: goVars{"GOENV": ""}, sdk: sdkGoEnv}.setUp(t)
		if out, err := exec.Command(command, "env", "-w", "GOPROXY=https://written.example").CombinedOutput(); err != nil {
			t.Fatalf("go env -w: %v\n%s", err, out)
		}
		if e := compareWithGoEnv(t, command); e.GOPROXY != "https://written.example" {
			t.Errorf("GOPROXY = %q, want what go env -w wrote", e.GOPROXY)
		}
	})
}

func findGoCommand(t *testing.T) string {
	t.Helper()
	command, err := exec.LookPath("go")
	if err != nil {
		t.Skipf("no go command to compare with: %v", err)
	}
	return command
}

// compareWithGoEnv holds SystemGoEnv against what the go command prints in the same environment.
func compareWithGoEnv(t *testing.T, command string) GoEnv {
	t.Helper()
	e, err := SystemGoEnv()
	if err != nil {
		t.Fatal(err)
	}
	settings := e.settings()
	delete(settings, "NETRC") // go env does not print it
	cmd := exec.Command(command, append([]string{"env", "-json"}, slices.Sorted(maps.Keys(settings))...)...)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go env: %v", err)
	}
	want := make(goVars)
	if err := json.Unmarshal(out, &want); err != nil {
		t.Fatal(err)
	}
	if len(want) != len(settings) {
		t.Fatalf("go env printed %d settings, want %d", len(want), len(settings))
	}
	for name, got := range settings {
		if *got != want[name] {
			t.Errorf("%s = %q, go env says %q", name, *got, want[name])
		}
	}
	return e
}

func TestSystemGoEnvWithoutAnInstallation(t *testing.T) {
	goEnvCase{
		process: goVars{"GOROOT": "$HOME/absent"},
		want:    goVars{"GOPROXY": " < default", "GOSUMDB": "sum.golang.org < default"},
	}.check(t)
}

// The home directory of a service user may be no directory at all.
func TestSystemGoEnvWithAHomeThatIsAFile(t *testing.T) {
	goEnvCase{process: goVars{"GOENV": ""}}.setUp(t)
	file := filepath.Join(t.TempDir(), "null")
	writeGoEnvFile(t, file, "")
	for _, name := range []string{"HOME", "USERPROFILE", "AppData"} {
		t.Setenv(name, file)
	}
	e, err := SystemGoEnv()
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(file, "go"); e.GOPATH != want {
		t.Errorf("GOPATH = %q, want %q", e.GOPATH, want)
	}
}

func TestSystemGoEnvFindsTheInstallationOnPATH(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("needs symbolic links and a script")
	}
	goEnvCase{process: goVars{"GOROOT": ""}}.setUp(t)
	bin := t.TempDir()
	sdk, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	command := filepath.Join(sdk, "bin", "go")
	writeGoEnvFile(t, command, "#!/bin/sh\nexit 1\n")
	if err := os.Chmod(command, 0o777); err != nil {
		t.Fatal(err)
	}
	writeGoEnvFile(t, filepath.Join(sdk, "go.env"), "GOPROXY=https://linked.example\n")
	if err := os.Symlink(command, filepath.Join(bin, "go")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin)

	e, err := SystemGoEnv()
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(sdk, "go.env"); e.GOPROXY != "https://linked.example" || e.Source("GOPROXY") != want {
		t.Errorf("GOPROXY = %q from %q, want that of %s", e.GOPROXY, e.Source("GOPROXY"), want)
	}
}

func TestSystemGoEnvErrors(t *testing.T) {
	for _, c := range []struct {
		name    string
		process goVars
		user    string
		want    []string // all in the message
	}{
		{"relative GOMODCACHE", goVars{"GOMODCACHE": "mods"}, "", []string{"GOMODCACHE (environment)", `"mods"`, "absolute"}},
		{"relative GOMODCACHE in the user's file", nil, "GOMODCACHE=mods\n", []string{"GOMODCACHE ($HOME/goenv)", `"mods"`}},
		{"relative GOPATH", goVars{"GOPATH": "~/go"}, "", []string{"GOPATH (environment)", `"~/go"`}},
		{"relative element of GOPATH", nil, "GOPATH=$HOME/one$LISTtwo\n", []string{"GOPATH ($HOME/goenv)", `"two"`}},
		{"relative home directory", goVars{"HOME": "sub", "USERPROFILE": "sub"}, "", []string{"GOPATH (default)", `"sub`, "home directory"}},
		{"user's file is a directory", goVars{"GOENV": "$HOME/sub"}, "", []string{"$HOME/sub", "GOENV=off"}},
		{"user's file too large", nil, "GOPRIVATE=p.example\n" + strings.Repeat("#", 1<<20), []string{"$HOME/goenv", "1 MiB"}},
		{"go.env is a directory", goVars{"GOROOT": "$HOME/sub"}, "", []string{"$HOME/sub/go.env", "installation"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			expand := goEnvCase{process: c.process, user: c.user}.setUp(t)
			e, err := SystemGoEnv()
			if err == nil {
				t.Fatalf("no error, but %+v", e)
			}
			for _, want := range c.want {
				if want = expand.Replace(want); !strings.Contains(filepath.ToSlash(err.Error()), filepath.ToSlash(want)) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
		})
	}
}

func TestGoEnvSource(t *testing.T) {
	if got := (GoEnv{GOPROXY: "off"}).Source("GOPROXY"); got != "" {
		t.Errorf("source in a literal is %q, want none", got)
	}
	goEnvCase{user: "GOVCS=off\n", sdk: sdkGoEnv}.setUp(t)
	e, err := SystemGoEnv()
	if err != nil {
		t.Fatal(err)
	}
	if got := e.Source("GOVCS"); got != "" {
		t.Errorf("source of a name that is no field is %q, want none", got)
	}
	e.GOSUMDB = "off"
	if got := e.Source("GOSUMDB"); got != "" {
		t.Errorf("source of a field that was changed is %q, want none", got)
	}
}

func TestGoEnvSumdbDir(t *testing.T) {
	list := string(filepath.ListSeparator)
	wants := goVars{"": "", "/one": "/one/pkg/sumdb", "/one" + list + "/two": "/one/pkg/sumdb", list + "/two": ""}
	for gopath, want := range wants {
		e := GoEnv{GOPATH: gopath, GOMODCACHE: "/elsewhere"}
		if got := filepath.ToSlash(e.sumdbDir()); got != want {
			t.Errorf("sumdbDir() with GOPATH=%s is %q, want %q", gopath, got, want)
		}
	}
}

var goFlagsCases = []struct {
	name, flags string
	rw          bool
	mod         string
	err         string // in the message of one method at least
}{
	{name: "empty"},
	{name: "spaces", flags: " \t\n"},
	{name: "other flags", flags: "-trimpath -tags=a,b"},
	{name: "modcacherw", flags: "-modcacherw", rw: true},
	{name: "two dashes", flags: "--modcacherw --mod=mod", rw: true, mod: "mod"},
	{name: "true", flags: "-modcacherw=true", rw: true},
	{name: "1", flags: "-modcacherw=1", rw: true},
	{name: "false", flags: "-modcacherw=false"},
	{name: "the last counts", flags: "-modcacherw -mod=mod -modcacherw=false -mod=readonly", mod: "readonly"},
	{name: "a longer name", flags: "-modcacherwx=true -modfile=x.mod"},
	{name: "quoted whole", flags: `'-modcacherw' "-mod=mod"`, rw: true, mod: "mod"},
	{name: "quotes that touch", flags: `'-modcacherw'"-mod=mod"`, rw: true, mod: "mod"},
	{name: "a flag inside another", flags: `"-ldflags=-s -modcacherw" '-gcflags=-mod=mod "x"'`},
	{name: "a quote inside an item", flags: `-tags=it's -modcacherw`, rw: true},
	{name: "-mod empty", flags: "-mod="},
	{name: "-mod without a value", flags: "-mod", err: "-mod lacks a value"},
	{name: "-mod unknown", flags: "-mod=rw", err: "-mod=rw is unknown"},
	{name: "not a bool", flags: "-modcacherw=yes", err: "-modcacherw=yes is neither"},
	{name: "an empty bool", flags: "-modcacherw=", err: "-modcacherw= is neither"},
	{name: "an early bad value", flags: "-modcacherw=yes -modcacherw", err: "-modcacherw=yes is neither"},
	{name: "a quoted value", flags: "-modcacherw='true'", err: "-modcacherw='true' is neither"},
	{name: "no dash", flags: "-v modcacherw", err: `"modcacherw" is not a flag`},
	{name: "three dashes", flags: "---modcacherw", err: `"---modcacherw" is not a flag`},
	{name: "one dash alone", flags: "-", err: `"-" is not a flag`},
	{name: "two dashes alone", flags: "--", err: `"--" is not a flag`},
	{name: "no name", flags: "-=true", err: `"-=true" is not a flag`},
	{name: "no name after two dashes", flags: "--=true", err: `"--=true" is not a flag`},
	{name: "an empty item", flags: "-v ''", err: `"" is not a flag`},
	{name: "a quote that is not closed", flags: `-v "-mod=mod`, err: `never closed: "-mod=mod`},
}

func TestGoEnvGOFLAGS(t *testing.T) {
	for _, c := range goFlagsCases {
		t.Run(c.name, func(t *testing.T) {
			e := GoEnv{GOFLAGS: c.flags}
			rw, rwErr := e.modCacheRW()
			mod, modErr := e.modFlag()
			err := errors.Join(rwErr, modErr)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) || !strings.Contains(err.Error(), "GOFLAGS: ") {
					t.Errorf("error is %v, want one about GOFLAGS with %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if rw != c.rw || mod != c.mod {
				t.Errorf("modCacheRW, modFlag = %v, %q, want %v, %q", rw, mod, c.rw, c.mod)
			}
		})
	}
}

func TestGoEnvGOFLAGSErrorNamesTheSource(t *testing.T) {
	expand := goEnvCase{user: "GOFLAGS=modcacherw\n"}.setUp(t)
	e, err := SystemGoEnv()
	if err != nil {
		t.Fatal(err)
	}
	_, err = e.modCacheRW()
	if want := expand.Replace("GOFLAGS ($HOME/goenv): "); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("error is %v, want one that begins with %q", err, want)
	}
}

// The go command must refuse the same GOFLAGS. It also refuses flags that do not exist, which no case here may have.
func TestGoEnvGOFLAGSAgreesWithTheGoCommand(t *testing.T) {
	command := findGoCommand(t)
	goEnvCase{process: goVars{"GOROOT": ""}}.setUp(t)
	t.Setenv("GOCACHE", t.TempDir())
	writeGoEnvFile(t, "go.mod", "module m.example\n\ngo 1.26\n")
	for _, c := range goFlagsCases {
		if strings.Contains(c.flags, "modcacherwx") {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("GOFLAGS", c.flags)
			out, err := exec.Command(command, "list", "unsafe").CombinedOutput()
			if refused := err != nil; refused != (c.err != "") {
				t.Errorf("go list with GOFLAGS=%q: %v, want an error: %v\n%s", c.flags, err, c.err != "", out)
			}
		})
	}
}

func FuzzGoEnvLines(f *testing.F) {
	for _, c := range goEnvCases {
		f.Add(c.user)
		f.Add(c.sdk)
	}
	f.Add("A=\xff\x00\r\nB==\nC")
	line := regexp.MustCompile(`(?m)^([A-Z][^=\n]*)=([^\n]*)`)
	f.Fuzz(func(t *testing.T, text string) {
		var got, want [][2]string
		for key, value := range goEnvLines(text) {
			got = append(got, [2]string{key, value})
		}
		for _, m := range line.FindAllStringSubmatch(text, -1) {
			want = append(want, [2]string{m[1], m[2]})
		}
		if !slices.Equal(got, want) {
			t.Errorf("lines of %q are %q, want %q", text, got, want)
		}
	})
}

func FuzzSplitQuoted(f *testing.F) {
	for _, c := range goFlagsCases {
		f.Add(c.flags)
	}
	isSpace := func(r rune) bool { return strings.ContainsRune(" \t\r\n", r) }
	f.Fuzz(func(t *testing.T, s string) {
		GoEnv{GOFLAGS: s}.modCacheRW()
		GoEnv{GOFLAGS: s}.modFlag()
		items, err := splitQuoted(s)
		if err != nil {
			_, withDouble := splitQuoted(s + `"`)
			_, withSingle := splitQuoted(s + `'`)
			if withDouble != nil && withSingle != nil {
				t.Errorf("%q is refused (%v), and one more quote does not mend it", s, err)
			}
			return
		}
		if !strings.ContainsAny(s, `"'`) && !slices.Equal(items, strings.FieldsFunc(s, isSpace)) {
			t.Errorf("%q has no quotes and splits to %q", s, items)
		}
		var quoted []string
		for _, item := range items {
			switch {
			case !strings.Contains(item, `"`):
				item = `"` + item + `"`
			case !strings.Contains(item, `'`):
				item = `'` + item + `'`
			case strings.ContainsFunc(item, isSpace):
				t.Errorf("%q has the item %q, which nothing can quote", s, item)
			}
			quoted = append(quoted, item)
		}
		again, err := splitQuoted(strings.Join(quoted, " "))
		if err != nil || !slices.Equal(again, items) {
			t.Errorf("%q splits to %q, which quoted splits to %q (%v)", s, items, again, err)
		}
	})
}
