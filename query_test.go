package modfetch_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/modfetchtest"
	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
)

// body serves text in place of an honest answer.
func body(text string) modfetchtest.Fault {
	return modfetchtest.Handler(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, text) })
}

// TestLatestIsTheGoCommands compares every answer with the go command's own.
func TestLatestIsTheGoCommands(t *testing.T) {
	goCommand := needGo(t)
	const pseudo1, pseudo2 = "v0.0.0-20200101000000-aaaaaaaaaaaa", "v0.0.0-20210101000000-bbbbbbbbbbbb"
	s := modfetchtest.NewServer(t, nil)
	want := make(map[string]string)
	for name, c := range map[string]struct {
		mods         map[string]string // go.mod file behind the module line, by version; "" is as from before there were modules
		list, latest *modfetchtest.Fault
		want         string // "" if there is none
	}{
		"releases":     {mods: map[string]string{"v1.0.0": "go 1.20", "v1.10.0": "go 1.20", "v1.9.0": "go 1.20"}, want: "v1.10.0"},
		"pre":          {mods: map[string]string{"v1.0.0": "go 1.20", "v1.1.0-pre": "go 1.20"}, want: "v1.0.0"},
		"onlypre":      {mods: map[string]string{"v0.1.0-alpha": "go 1.20", "v0.1.0-beta": "go 1.20"}, want: "v0.1.0-beta"},
		"moved":        {mods: map[string]string{"v1.0.0": "go 1.20", "v2.0.0+incompatible": ""}, want: "v1.0.0"},
		"require":      {mods: map[string]string{"v1.0.0": "require example.com/pre v1.0.0", "v2.0.0+incompatible": ""}, want: "v1.0.0"},
		"comment":      {mods: map[string]string{"v1.0.0": "// a comment", "v2.0.0+incompatible": ""}, want: "v1.0.0"},
		"onlyretract":  {mods: map[string]string{"v1.0.0": "", "v1.1.0": "retract v1.0.1", "v2.0.0+incompatible": ""}, want: "v1.1.0"},
		"legacy":       {mods: map[string]string{"v1.0.0": "", "v2.0.0+incompatible": ""}, want: "v2.0.0+incompatible"},
		"onlylegacy":   {mods: map[string]string{"v2.0.0+incompatible": "", "v3.1.0+incompatible": ""}, want: "v3.1.0+incompatible"},
		"movedpre":     {mods: map[string]string{"v1.0.0-pre": "go 1.20", "v2.0.0+incompatible": ""}, want: "v1.0.0-pre"},
		"movedlate":    {mods: map[string]string{"v1.0.0": "", "v1.1.0-pre": "go 1.20", "v2.0.0+incompatible": ""}, want: "v1.0.0"},
		"retracted":    {mods: map[string]string{"v1.0.0": "go 1.20", "v1.1.0": "retract v1.1.0"}, want: "v1.0.0"},
		"range":        {mods: map[string]string{"v1.0.0": "go 1.20", "v1.1.0": "", "v1.2.0": "", "v1.3.0": "retract [v1.1.0, v1.3.0]"}, want: "v1.0.0"},
		"topre":        {mods: map[string]string{"v1.0.0-pre": "go 1.20", "v1.0.0": "retract v1.0.0"}, want: "v1.0.0-pre"},
		"prehasnosay":  {mods: map[string]string{"v1.0.0": "go 1.20", "v1.1.0-pre": "retract v1.0.0"}, want: "v1.0.0"},
		"oldhasnosay":  {mods: map[string]string{"v1.0.0": "retract v1.1.0", "v1.1.0": "go 1.20"}, want: "v1.1.0"},
		"allretracted": {mods: map[string]string{"v1.0.0": "go 1.20", "v1.0.1": "retract [v1.0.0, v1.0.1]"}, want: ""},
		"v2/v2":        {mods: map[string]string{"v2.0.0": "go 1.20", "v2.1.0": "go 1.20"}, want: "v2.1.0"},
		"untagged":     {mods: map[string]string{pseudo1: "go 1.20", pseudo2: "go 1.20"}, want: pseudo2},
		"nolatest": {
			mods: map[string]string{pseudo1: "go 1.20", pseudo2: "go 1.20"}, latest: new(modfetchtest.Status(404)),
			list: new(body(pseudo2 + "\n" + pseudo1 + "\n")), want: pseudo2,
		},
		"times": {
			mods: map[string]string{pseudo1: "go 1.20", pseudo2: "go 1.20"}, latest: new(modfetchtest.Status(410)),
			list: new(body(pseudo1 + " 2024-01-01T00:00:00Z\n" + pseudo2 + " 2023-01-01T00:00:00Z\n")), want: pseudo1,
		},
		"carriage": {mods: map[string]string{"v1.0.0": "go 1.20", "v1.1.0": "go 1.20"}, list: new(body("v1.0.0\r\nv1.1.0\r\n")), want: "v1.1.0"},
		"nothing":  {mods: map[string]string{pseudo1: "go 1.20"}, latest: new(modfetchtest.Status(404)), want: ""},
		"denied":   {mods: map[string]string{pseudo1: "go 1.20"}, latest: new(modfetchtest.Status(403)), list: new(body(pseudo1 + "\n")), want: ""},
		"nolist":   {mods: map[string]string{pseudo1: "go 1.20"}, list: new(modfetchtest.Status(404)), want: ""},
	} {
		path := "example.com/" + name
		for version, text := range c.mods {
			m := modfetchtest.NewModule(path, version).File("x.go", "package x\n")
			if text != "" && !strings.HasSuffix(version, "+incompatible") {
				m = m.File("go.mod", "module "+path+"\n\n"+text+"\n")
			}
			s.Add(m)
		}
		if c.list != nil {
			s.Fault("/"+path+"/@v/list", *c.list)
		}
		if c.latest != nil {
			s.Fault("/"+path+"/@latest", *c.latest)
		}
		want[path] = c.want
	}
	args := []string{"list", "-m", "-e", "-f", "{{.Path}} {{if not .Error}}{{.Version}}{{end}}"}
	for path := range want {
		args = append(args, path+"@latest")
	}
	theirs := make(map[string]string)
	for line := range strings.Lines(runGo(t, goCommand, s.Env(t), args...)) {
		path, version, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		theirs[strings.TrimSuffix(path, "@latest")] = version
	}
	f, _ := newFetcher(t, s.Options()...)
	for path, want := range want {
		info, err := f.Info(t.Context(), path, "latest")
		if info.Version != want || (err == nil) != (want != "") {
			t.Errorf("%s: latest is %q, %v, want %q", path, info.Version, err, want)
		}
		if got, ok := theirs[path]; !ok || got != want {
			t.Errorf("%s: the go command takes %q for the latest, want %q", path, got, want)
		}
	}
	if n := s.Count("/example.com/nolist/@latest"); n > 0 {
		t.Errorf("@latest was asked for %d times where the list is absent", n)
	}
}

func TestLatestOfAMirrorThatIsNotBelieved(t *testing.T) {
	for name, c := range map[string]struct {
		latest answer
		list   string
		kind   modfetch.Kind
	}{
		"403":             {says(403), "v0.0.0-20200101000000-aaaaaaaaaaaa", modfetch.Forbidden},
		"500":             {says(500), "v0.0.0-20200101000000-aaaaaaaaaaaa", modfetch.Transient},
		"not JSON":        {sends("v1.0.0"), "v0.0.0-20200101000000-aaaaaaaaaaaa", modfetch.Corrupt},
		"no version":      {sends("{}"), "", modfetch.Corrupt},
		"wrong major":     {sends(`{"Version":"v2.0.0"}`), "", modfetch.Corrupt},
		"not canonical":   {sends(`{"Version":"v1"}`), "", modfetch.Corrupt},
		"build metadata":  {sends(`{"Version":"v1.0.0+meta"}`), "", modfetch.Corrupt},
		"branch":          {sends(`{"Version":"master"}`), "", modfetch.Corrupt},
		"path":            {sends(`{"Version":"../../x"}`), "", modfetch.Corrupt},
		"list is garbage": {sends(`{"Version":"v1.0.0"}`), "<html>\n", modfetch.Corrupt},
	} {
		t.Run(name, func(t *testing.T) {
			m := fake("mirror", func(ctx context.Context, r modfetch.Request) (*modfetch.Response, error) {
				switch {
				case strings.HasSuffix(r.Path, "/@latest"):
					return c.latest(ctx, r)
				case strings.HasSuffix(r.Path, "/@v/list"):
					return sends(c.list)(ctx, r)
				}
				return says(404)(ctx, r)
			})
			info, err := over(t, [][]*fakeMirror{{m}}).Info(t.Context(), moduleM.Path, "latest")
			if err == nil || modfetch.KindOf(err) != c.kind || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("got %v, %v of kind %s, want %s", info, err, modfetch.KindOf(err), c.kind)
			}
		})
	}
	t.Run("and is not mixed up with the next", func(t *testing.T) {
		named := func(name, latest string) *fakeMirror {
			return fake(name, func(ctx context.Context, r modfetch.Request) (*modfetch.Response, error) {
				switch {
				case strings.HasSuffix(r.Path, "/@latest"):
					return sends(latest)(ctx, r)
				case strings.HasSuffix(r.Path, ".mod"):
					return sends("module example.com/m\n")(ctx, r)
				case strings.HasSuffix(r.Path, ".info"):
					return good(ctx, r)
				}
				return sends("")(ctx, r)
			})
		}
		first, second := named("first", `{"Version":"v1.0.0","Time":"never"}`), named("second", `{}`)
		if info, err := over(t, [][]*fakeMirror{{first, second}}).Info(t.Context(), moduleM.Path, "latest"); modfetch.KindOf(err) != modfetch.Corrupt {
			t.Errorf("got %v, %v, want a refusal of both answers", info, err)
		}
	})
}

func TestLatestGoesToTheNextMirror(t *testing.T) {
	const pseudo = "v0.0.0-20200101000000-aaaaaaaaaaaa"
	second := modfetchtest.NewServer(t, nil)
	second.Add(modfetchtest.NewModule("example.com/m", pseudo))
	first := second.Mirror()
	first.Fault("*/@latest", modfetchtest.Status(404))
	for _, sep := range []string{"|", ","} {
		f, _ := newFetcher(t, modfetch.WithGOPROXY(first.URL+sep+second.URL), modfetch.WithSumDB(second.GOSUMDB()))
		if info, err := f.Info(t.Context(), "example.com/m", "latest"); err != nil || info.Version != pseudo {
			t.Errorf("behind %s: got %v, %v", sep, info, err)
		}
	}
}

// TestLatestIsVouchedFor holds what is promised of an answer that no hash covers: its go.mod file is verified.
func TestLatestIsVouchedFor(t *testing.T) {
	for name, path := range map[string]string{"from the list": "example.com/m", "from @latest": "example.com/untagged"} {
		t.Run(name, func(t *testing.T) {
			s := newWorld(t)
			s.Add(modfetchtest.NewModule("example.com/untagged", "v0.0.0-20200101000000-aaaaaaaaaaaa"))
			s.Fault("*.mod", modfetchtest.Corrupt())
			f, _ := newFetcher(t, s.Options()...)
			if info, err := f.Info(t.Context(), path, "latest"); modfetch.KindOf(err) != modfetch.Corrupt {
				t.Errorf("got %v, %v, want a checksum mismatch", info, err)
			}
		})
	}
}

func TestVersions(t *testing.T) {
	for name, c := range map[string]struct {
		path, list string
		want       []string
		corrupt    bool
	}{
		"sorted":               {list: "v1.10.0\nv1.9.0\nv1.9.0-rc.1\n", want: []string{"v1.9.0-rc.1", "v1.9.0", "v1.10.0"}},
		"no last line break":   {list: "v1.0.0\nv1.1.0", want: []string{"v1.0.0", "v1.1.0"}},
		"CRLF":                 {list: "v1.0.0\r\n\r\nv1.1.0\r\n", want: []string{"v1.0.0", "v1.1.0"}},
		"times":                {list: "v1.0.0 2020-01-01T00:00:00Z\nv1.1.0\tyesterday\n", want: []string{"v1.0.0", "v1.1.0"}},
		"twice":                {list: "v1.0.0\nv1.0.0\n", want: []string{"v1.0.0"}},
		"twice, and not quite": {list: "v1.0.0+incompatible\nv1.0.0\nv1.0.0+incompatible\nv1.0.0\n", want: []string{"v1.0.0", "v1.0.0+incompatible"}},
		"build metadata":       {list: "v1.0.0+meta\nv1.0.0\n", want: []string{"v1.0.0"}},
		"shorthand":            {list: "v1\nv1.2\nv1.2.3\n", want: []string{"v1.2.3"}},
		"other major versions": {list: "v1.0.0\nv2.0.0\nv3.0.0+incompatible\n", want: []string{"v1.0.0", "v3.0.0+incompatible"}},
		"of v2":                {path: "example.com/m/v2", list: "v1.0.0\nv2.0.0\nv3.0.0+incompatible\n", want: []string{"v2.0.0"}},
		"of gopkg.in":          {path: "gopkg.in/yaml.v2", list: "v2.0.0\nv3.0.0\nv2.1.0\n", want: []string{"v2.0.0", "v2.1.0"}},
		"pseudo-versions":      {list: "v0.0.0-20200101000000-aaaaaaaaaaaa\nv1.0.0\n", want: []string{"v1.0.0"}},
		"only pseudo-versions": {list: "v0.0.0-20200101000000-aaaaaaaaaaaa\n"},
		"empty":                {list: ""},
		"blank":                {list: " \n\r\n\t\n"},
		"garbage between":      {list: "v1.0.0\n<p>\nmaster\n\x00\n", want: []string{"v1.0.0"}},
		"garbage":              {list: "garbage\n", corrupt: true},
		"page":                 {list: "<!DOCTYPE html>\n<title>Welcome</title>\n", corrupt: true},
		"JSON":                 {list: `{"versions":["v1.0.0"]}`, corrupt: true},
		"too long":             {list: "v1.0.0\nv1.1.0-" + strings.Repeat("a", 256-len("v1.1.0-")) + "\n", want: []string{"v1.0.0"}},
		"long":                 {list: "v1.0.0-" + strings.Repeat("a", 255-len("v1.0.0-")) + "\n", want: []string{"v1.0.0-" + strings.Repeat("a", 255-len("v1.0.0-"))}},
		"all of another major": {list: "v2.0.0\nv3.0.0\n", corrupt: true},
		"NUL":                  {list: "\x00", corrupt: true},
	} {
		t.Run(name, func(t *testing.T) {
			if c.path == "" {
				c.path = "example.com/m"
			}
			f, err := modfetch.New(modfetch.WithMirrors(modfetch.FSMirror(fstest.MapFS{c.path + "/@v/list": {Data: []byte(c.list)}})), modfetch.WithSumDB("off"))
			if err != nil {
				t.Fatal(err)
			}
			got, err := f.Versions(t.Context(), c.path)
			if c.corrupt {
				if modfetch.KindOf(err) != modfetch.Corrupt || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), c.path) {
					t.Errorf("got %q, %v, want an error that is corrupt and no absence", got, err)
				}
				return
			}
			if err != nil || !slices.Equal(got, c.want) {
				t.Errorf("got %q, %v, want %q", got, err, c.want)
			}
		})
	}
}

func TestInfoOfAnExactVersion(t *testing.T) {
	long := strings.Repeat("a", 500_000)
	for name, c := range map[string]struct {
		text string
		ok   bool
	}{
		"compact":           {`{"Version":"v1.0.0","Time":"2020-01-01T00:00:00Z"}`, true},
		"pretty":            {"{\n\t\"Version\": \"v1.0.0\"\n}\n", true},
		"case of keys":      {`{"version":"v1.0.0","TIME":"2020-01-01T00:00:00Z"}`, true},
		"unknown keys":      {`{"Version":"v1.0.0","Name":"abc","Short":"a","X":{"Y":[1]}}`, true},
		"another version":   {`{"Version":"v1.0.1"}`, false},
		"longer version":    {`{"Version":"v1.0.0-pre"}`, false},
		"shorthand":         {`{"Version":"v1"}`, false},
		"control character": {`{"Version":"v1.0.0\u001b[31m"}`, false},
		"no version":        {`{}`, false},
		"null":              {`null`, false},
		"array":             {`["v1.0.0"]`, false},
		"plain":             {`v1.0.0`, false},
		"nothing":           {``, false},
		"cut":               {`{"Version":"v1.0.0"`, false},
		"two":               {`{"Version":"v1.0.0"}{"Version":"v1.0.0"}`, false},
		"time":              {`{"Version":"v1.0.0","Time":"yesterday"}`, false},
		"page":              {`<html>`, false},
		"long version":      {`{"Version":"` + long + `"}`, false},
		"long time":         {`{"Version":"v1.0.0","Time":"` + long + `"}`, false},
		"long number":       {`{"Version":` + strings.Repeat("1", len(long)) + `}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			f := over(t, [][]*fakeMirror{{fake("mirror", sends(c.text))}})
			info, err := f.Info(t.Context(), moduleM.Path, moduleM.Version)
			if c.ok {
				if err != nil || info.Version != moduleM.Version {
					t.Errorf("got %v, %v", info, err)
				}
				return
			}
			if modfetch.KindOf(err) != modfetch.Corrupt || info.Version != "" || errors.Is(err, fs.ErrNotExist) || strings.Contains(err.Error(), "\x1b") {
				t.Errorf("got %.2000v, %.2000q, want a printable error that is corrupt", info, err)
			}
			if err != nil && len(err.Error()) > 2000 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
		})
	}
}

// Callers that joined may change what they got.
func TestOriginIsEachCallersOwn(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	mirror := fake("mirror", func(ctx context.Context, r modfetch.Request) (*modfetch.Response, error) {
		close(arrived)
		<-release
		return sends(`{"Version":"v1.0.0","Origin":{"VCS":"git"}}`)(ctx, r)
	})
	joined := make(chan struct{})
	f := over(t, [][]*fakeMirror{{mirror}}, modfetch.WithTrace(&modfetch.Trace{Joined: func(context.Context, module.Version) { close(joined) }}))
	var infos [2]modfetch.Info
	var wg sync.WaitGroup
	ask := func(i int) {
		var err error
		if infos[i], err = f.Info(t.Context(), moduleM.Path, moduleM.Version); err != nil {
			t.Error(err)
		}
	}
	wg.Go(func() { ask(0) })
	<-arrived
	wg.Go(func() { ask(1) })
	<-joined
	close(release)
	wg.Wait()
	if a, b := infos[0].Origin, infos[1].Origin; a == nil || b == nil || a == b || *a != *b {
		t.Errorf("origins %v at %p and %v at %p, want the same twice", a, a, b, b)
	}
}

func TestWhatCannotBeIsNotAsked(t *testing.T) {
	m := fake("mirror", good)
	f := over(t, [][]*fakeMirror{{m}})
	for name, path := range map[string]string{
		"empty": "", "ends in v1": "example.com/m/v1", "leading zero": "example.com/m/v02", "no dot": "example/m", "capital host": "Example.com/m",
		"escaped": "example.com/!m", "climbing": "example.com/../m", "absolute": "/example.com/m", "space": "example.com/a b",
		"gopkg.in without a version": "gopkg.in/yaml", "control character": "example.com/\x1b[31m",
	} {
		for _, query := range []string{"latest", "v1.0.0"} {
			if _, err := f.Info(t.Context(), path, query); err == nil || !strings.Contains(err.Error(), "of a path such as example.com/m") && !strings.Contains(err.Error(), "want a path such as example.com/m") {
				t.Errorf("%s: error %v, want one that says what a path is", name, err)
			}
		}
		if _, err := f.Versions(t.Context(), path); err == nil || !strings.Contains(err.Error(), "want a path such as example.com/m") {
			t.Errorf("%s: versions: error %v, want one that says what a path is", name, err)
		}
	}
	for _, version := range []string{"", "v1", "v1.2", "v1.0.0+meta", "v1.02.0", "latest", "main", "v2.0.0", "v1.0.0-../../x"} {
		bad := module.Version{Path: "example.com/m", Version: version}
		_, modErr := f.GoMod(t.Context(), bad)
		_, zipErr := f.Zip(t.Context(), bad)
		for _, err := range []error{modErr, zipErr} {
			if err == nil || !strings.Contains(err.Error(), "version such as v1.2.3") || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%q: error %v, want one that says what a version is", version, err)
			}
		}
	}
	if n := m.count(); n > 0 {
		t.Errorf("%d requests: %v", n, m.asked)
	}
}

// TestInfoInTheModuleCacheIsTheGoCommands compares .info files of many forms with what the go command makes of them.
func TestInfoInTheModuleCacheIsTheGoCommands(t *testing.T) {
	goCommand := needGo(t)
	const pseudo = "v0.0.0-20200101000000-aaaaaaaaaaaa"
	origin := `"Origin":{"VCS":"git","URL":"https://example.com/m?a=1&b=<2>","Subdir":"sub","Hash":"abc","TagPrefix":"sub/","TagSum":"t1:x","Ref":"refs/tags/v1","RepoSum":"r1:y"}`
	s := modfetchtest.NewServer(t, nil)
	var mods []module.Version
	for name, c := range map[string]struct{ version, info string }{
		"pretty":   {"v1.0.0", "{\n  \"Version\": \"v1.0.0\",\n  \"Time\": \"2020-02-03T04:05:06Z\"\n}\n"},
		"extras":   {"v1.0.0", `{"Name":"abc","Short":"a","Version":"v1.0.0","Time":"2020-02-03T04:05:06Z","X":[1,2]}`},
		"keys":     {"v1.0.0", `{"time":"2020-02-03T04:05:06Z","VERSION":"v1.0.0"}`},
		"no-time":  {"v1.0.0", `{"Version":"v1.0.0"}`},
		"zone":     {"v1.0.0", `{"Version":"v1.0.0","Time":"2020-02-03T04:05:06.789+02:30"}`},
		"origin":   {"v1.0.0", `{"Version":"v1.0.0","Time":"2020-02-03T04:05:06Z",` + origin + `}`},
		"pseudo":   {pseudo, `{"Version":"` + pseudo + `","Time":"2020-01-01T00:00:00Z",` + origin + `}`},
		"null":     {"v1.0.0", `{"Version":"v1.0.0","Time":"2020-02-03T04:05:06Z","Origin":null}`},
		"nothing":  {"v1.0.0", `{"Version":"v1.0.0","Time":"2020-02-03T04:05:06Z","Origin":{}}`},
		"unknown":  {"v1.0.0", `{"Version":"v1.0.0","Time":"2020-02-03T04:05:06Z","Origin":{"VCS":"git","Y":1}}`},
		"Capitals": {"v1.0.0-RC1", `{"Version":"v1.0.0-RC1","Time":"2020-02-03T04:05:06Z"}`},
	} {
		m := module.Version{Path: "example.com/" + name, Version: c.version}
		s.Add(modfetchtest.NewModule(m.Path, m.Version).File(".info", c.info))
		mods = append(mods, m)
	}
	cache := modfetch.DirCache(t.TempDir())
	f, ours := newFetcher(t, append(s.Options(), modfetch.WithCache(cache))...)
	args := []string{"mod", "download"}
	for _, m := range mods {
		if _, err := f.Info(t.Context(), m.Path, m.Version); err != nil {
			t.Error(err)
		}
		args = append(args, m.String())
	}
	env := s.Env(t)
	runGo(t, goCommand, env, args...)
	theirs := ""
	for _, kv := range env {
		if dir, ok := strings.CutPrefix(kv, "GOMODCACHE="); ok {
			theirs = dir
		}
	}
	for _, m := range mods {
		name := proxyPath(t, m) + ".info"
		got, err := os.ReadFile(filepath.Join(ours, "cache/download", name))
		if err != nil {
			t.Error(err)
		}
		want, err := os.ReadFile(filepath.Join(theirs, "cache/download", name))
		if err != nil {
			t.Error(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: module cache has\n%s\nwant\n%s", m, got, want)
		}
		served, err := get(t, httpMirror(t, s.URL, nil), modfetch.Request{Path: name})
		if err != nil {
			t.Error(err)
		}
		if kept, err := os.ReadFile(filepath.Join(string(cache), name)); err != nil || string(kept) != served {
			t.Errorf("%s: Cache has %q, %v, want the mirror's bytes %q", m, kept, err, served)
		}
	}
}

func TestDamagedInfoInTheCacheIsReplaced(t *testing.T) {
	for name, damage := range map[string]string{"empty": "", "cut": `{"Version":"v1.0`, "another version": `{"Version":"v9.9.9"}`, "large": strings.Repeat(" ", 1<<20+1)} {
		t.Run(name, func(t *testing.T) {
			s := newWorld(t)
			f, modCache := newFetcher(t, s.Options()...)
			file := filepath.Join(modCache, "cache/download/example.com/m/@v/v1.0.0.info")
			if _, err := f.Info(t.Context(), moduleM.Path, moduleM.Version); err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(damage), 0o666); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if info, err := f.Info(t.Context(), moduleM.Path, moduleM.Version); err != nil || info.Version != moduleM.Version {
					t.Errorf("got %v, %v", info, err)
				}
			}
			if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want) {
				t.Errorf("the cache has %q, %v, want %q", got, err, want)
			}
			if n := s.Count("*.info"); n != 2 {
				t.Errorf("asked %d times, want once more after the damage", n)
			}
		})
	}
}

// FuzzVersionList holds that a list gives versions that fit, in order, or is called corrupt.
func FuzzVersionList(f *testing.F) {
	for _, seed := range []string{"", "v1.0.0\n", "v1.0.0 2020-01-01T00:00:00Z\r\nv1.0.1", "v0.0.0-20200101000000-aaaaaaaaaaaa x", "garbage", "v2.0.0+incompatible\nv1", "\x00\xff"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, list []byte) {
		m := modfetch.FSMirror(fstest.MapFS{"example.com/m/@v/list": {Data: list}})
		fetcher, err := modfetch.New(modfetch.WithMirrors(m), modfetch.WithSumDB("off"))
		if err != nil {
			t.Fatal(err)
		}
		versions, err := fetcher.Versions(t.Context(), "example.com/m")
		if err != nil && (modfetch.KindOf(err) != modfetch.Corrupt || versions != nil) {
			t.Errorf("got %q, %v", versions, err)
		}
		// Only of pseudo-versions, each of which has a dash, nothing is left.
		if err == nil && len(versions) == 0 && len(bytes.TrimSpace(list)) > 0 && !bytes.Contains(list, []byte("-")) {
			t.Errorf("nothing read of %q, and no error", list)
		}
		for i, v := range versions {
			if module.Check("example.com/m", v) != nil || module.IsPseudoVersion(v) || i > 0 && semver.Compare(versions[i-1], v) > 0 {
				t.Errorf("version %q of %q", v, versions)
			}
		}
	})
}

// FuzzInfo holds that what is believed names the version that was asked for.
func FuzzInfo(f *testing.F) {
	for _, seed := range []string{`{"Version":"v1.0.0"}`, `{"Version":"v1.0.1","Time":""}`, `{"version":"v1.0.0","Origin":{"URL":1}}`, `null`, `[`, "\xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		info, err := over(t, [][]*fakeMirror{{fake("mirror", sends(text))}}).Info(t.Context(), moduleM.Path, moduleM.Version)
		if err == nil && info.Version != moduleM.Version || err != nil && modfetch.KindOf(err) != modfetch.Corrupt {
			t.Errorf("got %v, %v", info, err)
		}
	})
}
