package modfetch_test

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/modfetchtest"
	"golang.org/x/mod/module"
)

// strangeSum is the hash of nothing in the tests.
const strangeSum = "h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="

// sumsOf returns the true hashes of a module's zip and go.mod file.
func sumsOf(s *modfetchtest.Server, m module.Version) (zip, goMod string) {
	f := strings.Fields(s.GoSum(m.Path, m.Version))
	return f[2], f[5]
}

func goSum(t testing.TB, lines ...string) *modfetch.GoSum {
	t.Helper()
	s, err := modfetch.ParseGoSum("dir/go.sum", []byte(strings.Join(lines, "\n")+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A fixedSource is a SumSource with one answer, which remembers what it was asked.
type fixedSource struct {
	name string
	sums []string
	err  error

	mu    sync.Mutex // guards asked
	asked []string
}

func (s *fixedSource) String() string { return s.name }

func (s *fixedSource) Sums(_ context.Context, m module.Version) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, m.String())
	return s.sums, s.err
}

func TestGoSumIsAskedFirst(t *testing.T) {
	s := newWorld(t)
	zip, goMod := sumsOf(s, moduleM)
	source := &fixedSource{name: "source", err: errors.New("asked")}
	for name, c := range map[string]struct {
		lines    []string
		verified string
		asked    bool // the database
		wrong    bool
	}{
		"both lines":              {lines: []string{"v1.0.0 " + zip, "v1.0.0/go.mod " + goMod}, verified: "go.sum"},
		"first line decides":      {lines: []string{"v1.0.0 " + zip, "v1.0.0 " + strangeSum, "v1.0.0/go.mod " + goMod}, verified: "go.sum"},
		"first line is wrong":     {lines: []string{"v1.0.0 " + strangeSum, "v1.0.0 " + zip, "v1.0.0/go.mod " + goMod}, wrong: true, asked: true},
		"unknown algorithm first": {lines: []string{"v1.0.0 h2:x", "v1.0.0 " + zip, "v1.0.0/go.mod h9:x", "v1.0.0/go.mod " + goMod}, verified: "go.sum"},
		"unknown algorithm alone": {lines: []string{"v1.0.0 h2:x", "v1.0.0/go.mod " + goMod}, verified: databaseOf(s), asked: true},
		"another version":         {lines: []string{"v1.0.1 " + strangeSum, "v1.0.1/go.mod " + strangeSum}, verified: databaseOf(s), asked: true},
		"only the zip's line":     {lines: []string{"v1.0.0 " + zip}, verified: "go.sum", asked: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := s.Mirror()
			for i, line := range c.lines {
				c.lines[i] = moduleM.Path + " " + line
			}
			f, modCache := newFetcher(t, append(s.Options(), modfetch.WithGoSum(goSum(t, c.lines...)))...)
			for m, err := range f.Download(t.Context(), []module.Version{moduleM}) {
				if m.VerifiedBy != c.verified || c.wrong != (err != nil) {
					t.Errorf("verified by %q, want %q; error %v", m.VerifiedBy, c.verified, err)
				}
			}
			if asked := s.Count("/sumdb/*") > 0; asked != c.asked {
				t.Errorf("the mirror was asked %q, want the database asked: %t", s.Requests(), c.asked)
			}
			if left := published(t, modCache, moduleM); c.wrong && slices.ContainsFunc(left, func(name string) bool { return !strings.HasSuffix(name, ".info") && !strings.HasSuffix(name, ".mod") }) {
				t.Errorf("published %q", left)
			}
		})
	}
	t.Run("before other sources", func(t *testing.T) {
		f, _ := newFetcher(t, append(s.Options(), modfetch.WithSums(source), modfetch.WithGoSum(goSum(t, s.GoSum(moduleM.Path, moduleM.Version))))...)
		download(t, f, moduleM)
		if len(source.asked) > 0 {
			t.Errorf("the source was asked for %q", source.asked)
		}
	})
}

func TestGoSumThatContradictsTheDatabaseIsToBlame(t *testing.T) {
	origin := newWorld(t)
	zip, goMod := sumsOf(origin, moduleM)
	for name, c := range map[string]struct {
		line, file string
		opts       []modfetch.Option
		blames     bool
	}{
		"zip":             {line: "v1.0.0 " + strangeSum, file: "*.zip", blames: true},
		"go.mod":          {line: "v1.0.0/go.mod " + strangeSum, file: "*.mod", blames: true},
		"zip, exempt":     {line: "v1.0.0 " + strangeSum, file: "*.zip", opts: []modfetch.Option{modfetch.WithGoEnv(modfetch.GoEnv{GONOSUMDB: "*.com"})}},
		"go.mod, no base": {line: "v1.0.0/go.mod " + strangeSum, file: "*.mod", opts: []modfetch.Option{modfetch.WithSumDB("off")}},
	} {
		t.Run(name, func(t *testing.T) {
			first, second := origin.Mirror(), origin.Mirror()
			opts := append(c.opts, modfetch.WithGOPROXY(first.URL+"|"+second.URL), modfetch.WithGoSum(goSum(t, moduleM.Path+" "+c.line)))
			if name != "go.mod, no base" {
				opts = append(opts, modfetch.WithSumDB(first.GOSUMDB()))
			}
			f, modCache := newFetcher(t, opts...)
			var err error
			want := goMod
			if c.file == "*.zip" {
				_, err = f.Dir(t.Context(), moduleM)
				want = zip
			} else {
				_, err = f.GoMod(t.Context(), moduleM)
			}
			var sum *modfetch.ChecksumError
			if !errors.As(err, &sum) || sum.Want != strangeSum || sum.Got != want || sum.Source != "dir/go.sum" || errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("error %v, want a mismatch with dir/go.sum", err)
			}
			if n := second.Count(c.file); (n > 0) == c.blames {
				t.Errorf("the second mirror was asked %d times", n)
			}
			if c.blames && (sum.Blame != "dir/go.sum" || modfetch.KindOf(err) != modfetch.Security) {
				t.Errorf("%s error that blames %q, want one of security that blames dir/go.sum", modfetch.KindOf(err), sum.Blame)
			}
			if !c.blames && (sum.Blame != "" || modfetch.KindOf(err) != modfetch.Corrupt) {
				t.Errorf("%s error that blames %q without proof", modfetch.KindOf(err), sum.Blame)
			}
			if left := published(t, modCache, moduleM); len(left) > 0 {
				t.Errorf("published %q", left)
			}
		})
	}
	t.Run("the mirror contradicts both", func(t *testing.T) {
		first, second := origin.Mirror(), origin.Mirror()
		first.Fault("*.mod", modfetchtest.Corrupt())
		f, _ := newFetcher(t, modfetch.WithGOPROXY(first.URL+"|"+second.URL), modfetch.WithSumDB(first.GOSUMDB()),
			modfetch.WithGoSum(goSum(t, origin.GoSum(moduleM.Path, moduleM.Version))))
		if _, err := f.GoMod(t.Context(), moduleM); err != nil || second.Count("*.mod") != 1 {
			t.Errorf("error %v, want the second mirror's file", err)
		}
	})
}

func TestSourcesAreAskedInOrder(t *testing.T) {
	s := newWorld(t)
	_, goMod := sumsOf(s, moduleM)
	lists := func(name string, sums ...string) *fixedSource { return &fixedSource{name: name, sums: sums} }
	fails := func(name string, err error) *fixedSource { return &fixedSource{name: name, err: err} }
	unlisted := func() *fixedSource { return fails("unlisted", modfetch.ErrUnlisted) }
	onFire := errors.New("disk on fire")
	for name, c := range map[string]struct {
		sources  []*fixedSource
		verified string // "" is an error
		want     string // in it
		asked    int    // sources
	}{
		"first that lists it":       {sources: []*fixedSource{unlisted(), lists("two", goMod), lists("three")}, verified: "two", asked: 2},
		"first hash counts":         {sources: []*fixedSource{lists("one", "h2:x", goMod, strangeSum)}, verified: "one", asked: 1},
		"unlisted, wrapped":         {sources: []*fixedSource{fails("one", errors.Join(errors.New("no row"), modfetch.ErrUnlisted))}, verified: databaseOf(s), asked: 1},
		"says nothing":              {sources: []*fixedSource{lists("one")}, verified: databaseOf(s), asked: 1},
		"knows other algorithms":    {sources: []*fixedSource{lists("one", "h2:x")}, verified: databaseOf(s), asked: 1},
		"nobody lists it":           {sources: []*fixedSource{unlisted(), unlisted()}, verified: databaseOf(s), asked: 2},
		"condemns":                  {sources: []*fixedSource{lists("one", strangeSum), lists("two", goMod)}, want: "recorded in one", asked: 1},
		"fails":                     {sources: []*fixedSource{fails("one", onFire), lists("two", goMod)}, want: "one: disk on fire", asked: 1},
		"fails, before one that is": {sources: []*fixedSource{unlisted(), fails("two", onFire), lists("three", goMod)}, want: "two: disk on fire", asked: 2},
	} {
		t.Run(name, func(t *testing.T) {
			first, second := s.Mirror(), s.Mirror()
			opts := []modfetch.Option{modfetch.WithGOPROXY(first.URL + "|" + second.URL), modfetch.WithSumDB(s.GOSUMDB())}
			for _, source := range c.sources {
				opts = append(opts, modfetch.WithSums(source))
			}
			var by string
			opts = append(opts, modfetch.WithTrace(&modfetch.Trace{Vouched: func(_ context.Context, i modfetch.VouchInfo) { by = i.By }}))
			f, modCache := newFetcher(t, opts...)
			_, err := f.GoMod(t.Context(), moduleM)
			if by != c.verified || (err == nil) != (c.verified != "") || err != nil && !strings.Contains(err.Error(), c.want) || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("verified by %q, want %q; error %v, want one about %q", by, c.verified, err, c.want)
			}
			for i, source := range c.sources {
				if asked := slices.Contains(source.asked, "example.com/m@v1.0.0/go.mod"); asked != (i < c.asked) {
					t.Errorf("source %s was asked for %q", source.name, source.asked)
				}
			}
			if asked := first.Count("/sumdb/*") > 0; asked != (c.verified == databaseOf(s)) {
				t.Errorf("the database was asked %q", first.Requests())
			}
			if strings.Contains(c.want, "on fire") && second.Count("*.mod") > 0 {
				t.Error("the second mirror was asked, though it is not the first one's fault")
			}
			if left := published(t, modCache, moduleM); c.verified == "" && len(left) > 0 {
				t.Errorf("published %q", left)
			}
		})
	}
}

func TestExemptionsAndRequireVerified(t *testing.T) {
	s := newWorld(t)
	zip, goMod := sumsOf(s, moduleM)
	for name, c := range map[string]struct {
		opts    []modfetch.Option
		setting string // "" for verified all the same
	}{
		"off":                       {[]modfetch.Option{modfetch.WithSumDB("off")}, "GOSUMDB=off"},
		"off in the environment":    {[]modfetch.Option{modfetch.WithGoEnv(modfetch.GoEnv{GOSUMDB: "off"})}, "GOSUMDB=off"},
		"GONOSUMDB":                 {[]modfetch.Option{modfetch.WithSumDB(s.GOSUMDB()), modfetch.WithGoEnv(modfetch.GoEnv{GONOSUMDB: "x.test,*.com"})}, "GONOSUMDB=x.test,*.com"},
		"GONOSUMDB beats GOPRIVATE": {[]modfetch.Option{modfetch.WithSumDB(s.GOSUMDB()), modfetch.WithGoEnv(modfetch.GoEnv{GONOSUMDB: "x.test", GOPRIVATE: "*.com", GONOPROXY: "x.test"})}, ""},
		"GOPRIVATE":                 {[]modfetch.Option{modfetch.WithSumDB(s.GOSUMDB()), modfetch.WithGoEnv(modfetch.GoEnv{GOPRIVATE: "example.com/m", GONOPROXY: "none"})}, "GOPRIVATE=example.com/m"},
		"route":                     {[]modfetch.Option{modfetch.WithSumDB(s.GOSUMDB()), modfetch.WithRoute("example.com/*", s.URL)}, `WithRoute("example.com/*")`},
		"route, and off":            {[]modfetch.Option{modfetch.WithSumDB("off"), modfetch.WithRoute("example.com/*", s.URL)}, `WithRoute("example.com/*")`},
	} {
		t.Run(name, func(t *testing.T) {
			opts := append(c.opts, modfetch.WithGOPROXY(s.URL))
			f, _ := newFetcher(t, opts...)
			got := download(t, f, moduleM)[moduleM.Path]
			if got.Unverified != c.setting || got.Sum != zip || got.GoModSum != goMod || (got.VerifiedBy == "") != (c.setting != "") {
				t.Errorf("%+v, want it unverified because of %q", got, c.setting)
			}
			opts = append(opts, modfetch.WithPolicy(modfetch.Policy{RequireVerified: true}))
			f, _ = newFetcher(t, opts...)
			_, err := f.GoMod(t.Context(), moduleM)
			if c.setting == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if modfetch.KindOf(err) != modfetch.Forbidden || !strings.Contains(err.Error(), c.setting) || !strings.Contains(err.Error(), "RequireVerified") {
				t.Errorf("%s error %v, want a forbidden one that names %s and RequireVerified", modfetch.KindOf(err), err, c.setting)
			}
			if got := download(t, f.WithGoSum(goSum(t, s.GoSum(moduleM.Path, moduleM.Version))), moduleM)[moduleM.Path]; got.VerifiedBy != "go.sum" || got.Unverified != "" {
				t.Errorf("with a line in go.sum: verified by %q, unverified because of %q", got.VerifiedBy, got.Unverified)
			}
			// An exemption is one from the database, not from go.sum.
			if _, err := f.WithGoSum(goSum(t, "example.com/m v1.0.0 "+strangeSum)).Dir(t.Context(), moduleM); modfetch.KindOf(err) != modfetch.Corrupt {
				t.Errorf("with a wrong line in go.sum: %v, want a mismatch", err)
			}
		})
	}
}

func TestWhatTheDatabaseSaysIsHeldAgainstEveryMirror(t *testing.T) {
	for name, c := range map[string]struct {
		version, sum string // that it lies about
		zip, goMod   modfetch.Kind
		mirrors      int // that are asked
	}{
		"zip":               {"v1.0.0", strangeSum, modfetch.Corrupt, "", 2},
		"go.mod":            {"v1.0.0/go.mod", strangeSum, "", modfetch.Corrupt, 2},
		"zip has no hash":   {"v1.0.0", "", modfetch.Security, "", 1},
		"zip has another":   {"v1.0.0", "h2:x", modfetch.Security, "", 1},
		"go.mod has no h1:": {"v1.0.0/go.mod", "h2:x", "", modfetch.Security, 1},
	} {
		t.Run(name, func(t *testing.T) {
			first := newWorld(t)
			second := first.Mirror()
			first.LieAbout(moduleM.Path, c.version, c.sum)
			f, modCache := newFetcher(t, modfetch.WithGOPROXY(first.URL+"|"+second.URL), modfetch.WithSumDB(first.GOSUMDB()))
			_, zipErr := f.Dir(t.Context(), moduleM)
			_, goModErr := f.GoMod(t.Context(), moduleM)
			for file, e := range map[string]struct {
				err  error
				kind modfetch.Kind
			}{"zip": {zipErr, c.zip}, "go.mod": {goModErr, c.goMod}} {
				if e.kind == "" {
					if e.err != nil {
						t.Errorf("%s: %v", file, e.err)
					}
					continue
				}
				var sum *modfetch.ChecksumError
				if modfetch.KindOf(e.err) != e.kind || !strings.Contains(e.err.Error(), databaseOf(first)) {
					t.Errorf("%s: %s error %v, want a %s one that names the database", file, modfetch.KindOf(e.err), e.err, e.kind)
				}
				if e.kind == modfetch.Corrupt && (!errors.As(e.err, &sum) || sum.Source != databaseOf(first) || sum.Want != strangeSum || sum.Blame != "") {
					t.Errorf("%s: %v, want a mismatch with the database", file, e.err)
				}
				suffix := "*." + strings.TrimPrefix(file, "go.")
				if n := first.Count(suffix) + second.Count(suffix); n != c.mirrors {
					t.Errorf("%s was asked for %d times, want %d", file, n, c.mirrors)
				}
			}
			for _, name := range published(t, modCache, moduleM) {
				if strings.HasSuffix(name, "/v1.0.0.mod") && c.goMod != "" || strings.HasSuffix(name, ".zip") && c.zip != "" {
					t.Errorf("published %s", name)
				}
			}
		})
	}
}

func TestOnlyTheDatabaseVouchesForToolchains(t *testing.T) {
	toolchain := module.Version{Path: "golang.org/toolchain", Version: "v0.0.1-go1.99.0.linux-amd64"}
	s := newWorld(t)
	s.Add(modfetchtest.NewModule(toolchain.Path, toolchain.Version).File("bin/go", "a go command\n"))
	zip, goMod := sumsOf(s, toolchain)
	evil := newWorld(t)
	evil.Add(modfetchtest.NewModule(toolchain.Path, toolchain.Version).File("bin/go", "another go command\n"))
	evilSums := evil.GoSum(toolchain.Path, toolchain.Version)
	evilZip, _ := sumsOf(evil, toolchain)
	anybody := &fixedSource{name: "anybody", sums: []string{evilZip}}
	name := toolchain.Path + " " + toolchain.Version
	for about, c := range map[string]struct {
		from *modfetchtest.Server // nil for the honest one
		opts []modfetch.Option
		off  bool
		kind modfetch.Kind // "" for verified by the database
		want string
	}{
		"plain":                        {},
		"GONOSUMDB":                    {opts: []modfetch.Option{modfetch.WithGoEnv(modfetch.GoEnv{GONOSUMDB: "golang.org"})}},
		"GOPRIVATE":                    {opts: []modfetch.Option{modfetch.WithGoEnv(modfetch.GoEnv{GOPRIVATE: "golang.org", GONOPROXY: "none"})}},
		"route":                        {opts: []modfetch.Option{modfetch.WithRoute("golang.org", s.URL)}},
		"go.sum agrees":                {opts: []modfetch.Option{modfetch.WithGoSum(goSum(t, name+" "+zip, name+"/go.mod "+goMod))}},
		"GOSUMDB=off":                  {off: true, kind: modfetch.Forbidden, want: "GOSUMDB is off"},
		"GOSUMDB=off, go.sum agrees":   {off: true, opts: []modfetch.Option{modfetch.WithGoSum(goSum(t, name+" "+zip, name+"/go.mod "+goMod))}, kind: modfetch.Forbidden, want: "GOSUMDB is off"},
		"GOSUMDB=off, a source agrees": {off: true, opts: []modfetch.Option{modfetch.WithSums(&fixedSource{name: "anybody", sums: []string{zip}})}, kind: modfetch.Forbidden, want: "GOSUMDB is off"},
		"evil mirror":                  {from: evil, kind: modfetch.Corrupt, want: databaseOf(s)},
		"evil mirror, GONOSUMDB":       {from: evil, opts: []modfetch.Option{modfetch.WithGoEnv(modfetch.GoEnv{GONOSUMDB: "golang.org"})}, kind: modfetch.Corrupt, want: databaseOf(s)},
		"evil mirror and source":       {from: evil, opts: []modfetch.Option{modfetch.WithSums(anybody)}, kind: modfetch.Security, want: "anybody"},
		"a source condemns":            {opts: []modfetch.Option{modfetch.WithSums(anybody)}, kind: modfetch.Security, want: "anybody"},
		"evil mirror and go.sum":       {from: evil, opts: []modfetch.Option{modfetch.WithGoSum(goSum(t, strings.TrimSpace(evilSums)))}, kind: modfetch.Security, want: "dir/go.sum"},
		"go.sum condemns":              {opts: []modfetch.Option{modfetch.WithGoSum(goSum(t, name+" "+strangeSum))}, kind: modfetch.Security, want: "dir/go.sum"},
		"go.sum condemns, GONOSUMDB":   {opts: []modfetch.Option{modfetch.WithGoSum(goSum(t, name+" "+strangeSum)), modfetch.WithGoEnv(modfetch.GoEnv{GONOSUMDB: "golang.org"})}, kind: modfetch.Security, want: "dir/go.sum"},
	} {
		t.Run(about, func(t *testing.T) {
			files := c.from
			if files == nil {
				files = s
			}
			setting := s.GOSUMDBDirect()
			if c.off {
				setting = "off"
			}
			opts := append(c.opts, modfetch.WithGOPROXY(files.URL), modfetch.WithSumDB(setting))
			f, modCache := newFetcher(t, opts...)
			// What is in the cache already is judged the same way.
			for _, cached := range []bool{false, true} {
				if cached {
					filled := newBareFetcher(t, modfetch.WithGOPROXY(files.URL), modfetch.WithSumDB(files.GOSUMDB()), modfetch.WithModCache(modCache))
					if _, err := filled.Dir(t.Context(), toolchain); err != nil {
						t.Fatal(err)
					}
				}
				_, err := f.Dir(t.Context(), toolchain)
				if c.kind == "" {
					if got := download(t, f, toolchain)[toolchain.Path]; got.VerifiedBy != databaseOf(s) || got.GoModVerifiedBy != databaseOf(s) || got.Unverified != "" {
						t.Errorf("cached %t: verified by %q and %q, want the database; %v", cached, got.VerifiedBy, got.GoModVerifiedBy, err)
					}
					continue
				}
				if err == nil || modfetch.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.want) {
					t.Errorf("cached %t: %s error %v, want a %s one that names %q", cached, modfetch.KindOf(err), err, c.kind, c.want)
				}
				if left := published(t, modCache, toolchain); !cached && slices.ContainsFunc(left, func(name string) bool { return !strings.HasSuffix(name, ".mod") }) {
					t.Errorf("published %q", left)
				}
			}
		})
	}
}
