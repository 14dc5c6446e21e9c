package modfetch_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/modfetch/modfetch"
)

func TestContradictionsAndBadSettings(t *testing.T) {
	mirror := modfetch.FSMirror(fstest.MapFS{})
	some := []modfetch.Option{modfetch.WithGOPROXY("https://mirror.example"), modfetch.WithSumDB("off")}
	dir := t.TempDir()
	cache := modfetch.DirCache(dir)
	with := func(opts ...modfetch.Option) []modfetch.Option { return append(opts, some...) }
	for name, c := range map[string]struct {
		opts []modfetch.Option
		say  []string
	}{
		"nothing":                   {nil, []string{"no mirrors", "WithGOPROXY", "WithMirrors", "WithGoEnv"}},
		"empty GoEnv":               {[]modfetch.Option{modfetch.WithGoEnv(modfetch.GoEnv{})}, []string{"no mirrors", "WithGOPROXY", "WithMirrors", "WithGoEnv"}},
		"empty list":                {[]modfetch.Option{modfetch.WithGOPROXY("")}, []string{"WithGOPROXY", "names no mirror"}},
		"mirrors and GOPROXY":       {with(modfetch.WithMirrors(mirror)), []string{"WithMirrors", "WithGOPROXY", "contradict"}},
		"no mirror in WithMirrors":  {[]modfetch.Option{modfetch.WithMirrors(mirror), modfetch.WithMirrors()}, []string{"WithMirrors", "no mirror"}},
		"nil mirror":                {[]modfetch.Option{modfetch.WithMirrors(mirror, nil)}, []string{"WithMirrors", "<nil>"}},
		"uncomparable mirror":       {[]modfetch.Option{modfetch.WithMirrors(sliceMirror{})}, []string{"sliceMirror", "give a pointer"}},
		"env twice":                 {with(modfetch.WithGoEnv(modfetch.GoEnv{}), modfetch.WithGoEnv(modfetch.GoEnv{})), []string{"WithGoEnv is given 2 times"}},
		"GOPROXY twice":             {with(modfetch.WithGOPROXY("https://mirror.example")), []string{"WithGOPROXY is given 2 times"}},
		"go.sum twice":              {with(modfetch.WithGoSum(nil), modfetch.WithGoSum(new(modfetch.GoSum))), []string{"WithGoSum is given 2 times"}},
		"GOSUMDB twice":             {with(modfetch.WithSumDB("sum.golang.org")), []string{"WithSumDB is given 2 times"}},
		"module cache twice":        {with(modfetch.WithModCache(dir), modfetch.WithModCache(dir)), []string{"WithModCache is given 2 times"}},
		"cache twice":               {with(modfetch.WithCache(cache), modfetch.WithCache(cache)), []string{"WithCache is given 2 times"}},
		"locker twice":              {with(modfetch.WithLocker(noLocker{}), modfetch.WithLocker(noLocker{})), []string{"WithLocker is given 2 times"}},
		"client twice":              {with(modfetch.WithHTTPClient(nil), modfetch.WithHTTPClient(nil)), []string{"WithHTTPClient is given 2 times"}},
		"jobs thrice":               {with(modfetch.WithJobs(1), modfetch.WithJobs(2), modfetch.WithJobs(3)), []string{"WithJobs is given 3 times"}},
		"trace twice":               {with(modfetch.WithTrace(nil), modfetch.WithTrace(nil)), []string{"WithTrace is given 2 times"}},
		"policy twice":              {with(modfetch.WithPolicy(modfetch.Policy{}), modfetch.WithPolicy(modfetch.Policy{})), []string{"WithPolicy is given 2 times"}},
		"two options twice":         {with(modfetch.WithJobs(1), modfetch.WithJobs(1), modfetch.WithTrace(nil), modfetch.WithTrace(nil)), []string{"WithJobs", "WithTrace"}},
		"no jobs":                   {with(modfetch.WithJobs(0)), []string{"WithJobs(0)", "at least one"}},
		"fewer than no jobs":        {with(modfetch.WithJobs(-3)), []string{"WithJobs(-3)"}},
		"client with a timeout":     {with(modfetch.WithHTTPClient(&http.Client{Timeout: time.Minute})), []string{"WithHTTPClient", "Timeout of 1m0s"}},
		"locker without a cache":    {with(modfetch.WithLocker(noLocker{})), []string{"WithLocker without WithCache"}},
		"relative module cache":     {with(modfetch.WithModCache("mod")), []string{`WithModCache is "mod"`, "absolute"}},
		"empty module cache":        {with(modfetch.WithModCache("")), []string{`WithModCache is ""`, "absolute"}},
		"relative GOMODCACHE":       {with(modfetch.WithGoEnv(modfetch.GoEnv{GOMODCACHE: "mod"})), []string{`GOMODCACHE is "mod"`, "absolute"}},
		"GOFLAGS":                   {with(modfetch.WithGoEnv(modfetch.GoEnv{GOMODCACHE: dir, GOFLAGS: "-modcacherw=maybe"})), []string{"GOFLAGS", "-modcacherw=maybe"}},
		"glob in WithPrivate":       {with(modfetch.WithPrivate("a.example,[b")), []string{"WithPrivate", `"[b"`}},
		"spaces in WithPrivate":     {with(modfetch.WithPrivate("a.example, b.example")), []string{"WithPrivate", `" b.example"`, "spaces"}},
		"nothing in WithPrivate":    {with(modfetch.WithPrivate("")), []string{"WithPrivate", "no patterns"}},
		"commas in WithPrivate":     {with(modfetch.WithPrivate(",,")), []string{"WithPrivate", "no patterns"}},
		"glob in WithRoute":         {with(modfetch.WithRoute("[b", "off")), []string{"WithRoute", `"[b"`}},
		"nothing in WithRoute":      {with(modfetch.WithRoute("", "off")), []string{"WithRoute", "no patterns"}},
		"no list in WithRoute":      {with(modfetch.WithRoute("a.example", "")), []string{`WithRoute("a.example")`, "names no mirror"}},
		"glob in GOPRIVATE":         {with(modfetch.WithGoEnv(modfetch.GoEnv{GOPRIVATE: "a.example,[b"})), []string{"GOPRIVATE", `"[b"`}},
		"glob in GONOPROXY":         {with(modfetch.WithGoEnv(modfetch.GoEnv{GONOPROXY: `a\`})), []string{"GONOPROXY", `a\`}},
		"glob in GONOSUMDB":         {with(modfetch.WithGoEnv(modfetch.GoEnv{GONOSUMDB: "[]"})), []string{"GONOSUMDB", `"[]"`}},
		"spaces in GOPRIVATE":       {with(modfetch.WithGoEnv(modfetch.GoEnv{GOPRIVATE: "a.example ,b"})), []string{"GOPRIVATE", `"a.example "`, "spaces"}},
		"no such database":          {[]modfetch.Option{some[0], modfetch.WithSumDB("sum.example")}, []string{`WithSumDB is "sum.example"`, "sum.golang.org", "verifier key"}},
		"empty database":            {[]modfetch.Option{some[0], modfetch.WithSumDB("")}, []string{`WithSumDB is ""`, "want off"}},
		"three fields":              {[]modfetch.Option{some[0], modfetch.WithSumDB("sum.golang.org https://a.example https://b.example")}, []string{"WithSumDB", "want off"}},
		"database at a bad address": {[]modfetch.Option{some[0], modfetch.WithSumDB("sum.golang.org foo")}, []string{"WithSumDB", `"foo"`}},
		"OFF in capitals":           {[]modfetch.Option{some[0], modfetch.WithSumDB("OFF")}, []string{`WithSumDB is "OFF"`}},
		"password, http":            {[]modfetch.Option{some[0], modfetch.WithSumDB("sum.golang.org http://user:s3cret@sum.example")}, []string{"WithSumDB", "use https"}},
		"address alone":             {[]modfetch.Option{some[0], modfetch.WithSumDB("https://user:s3cret@sum.example")}, []string{"WithSumDB", "sum.example"}},
		"single slash":              {[]modfetch.Option{some[0], modfetch.WithSumDB("sum.golang.org https:/user:s3cret@sum.example")}, []string{"WithSumDB"}},
		"GOSUMDB in GoEnv":          {[]modfetch.Option{some[0], modfetch.WithGoEnv(modfetch.GoEnv{GOSUMDB: "on"})}, []string{`GOSUMDB is "on"`}},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := modfetch.New(c.opts...)
			if err == nil || f != nil {
				t.Fatalf("got %v, %v, want an error", f, err)
			}
			if !strings.HasPrefix(err.Error(), "modfetch: ") || strings.HasSuffix(err.Error(), ".") {
				t.Errorf("error %q", err)
			}
			for _, say := range c.say {
				if !strings.Contains(err.Error(), say) {
					t.Errorf("error %v, want one that says %q", err, say)
				}
			}
			if strings.Contains(err.Error(), "s3cret") {
				t.Errorf("error %v holds a secret", err)
			}
			slices.Reverse(c.opts)
			if _, reversed := modfetch.New(c.opts...); reversed == nil || reversed.Error() != err.Error() {
				t.Errorf("in reverse: error %v, want %v", reversed, err)
			}
		})
	}
}

// A sliceMirror cannot be compared.
type sliceMirror struct{ _ []int }

func (sliceMirror) String() string { return "slice" }

func (sliceMirror) Fetch(context.Context, modfetch.Request) (*modfetch.Response, error) {
	return nil, context.Canceled
}

type noLocker struct{}

func (noLocker) Lock(context.Context, string) (func() error, error) { return nil, context.Canceled }

func TestBadSettingsAreCitedWithTheirSource(t *testing.T) {
	file := filepath.Join(t.TempDir(), "env")
	t.Setenv("GOENV", file)
	for _, name := range []string{"GOPROXY", "GOSUMDB", "GOPRIVATE", "GONOPROXY", "GONOSUMDB", "GOMODCACHE", "GOFLAGS"} {
		t.Setenv(name, "")
	}
	for setting, bad := range map[string]string{
		"GOPROXY": "foo", "GOSUMDB": "foo", "GOPRIVATE": "[", "GONOPROXY": "[", "GONOSUMDB": "[", "GOFLAGS": "-modcacherw=maybe",
	} {
		text := "GOPROXY=https://mirror.example\nGOSUMDB=off\n" + setting + "=" + bad + "\n"
		for source, prepare := range map[string]func(){
			"environment": func() { t.Setenv(setting, bad) },
			file:          func() { t.Setenv(setting, "") },
		} {
			if err := os.WriteFile(file, []byte(text), 0o666); err != nil {
				t.Fatal(err)
			}
			prepare()
			env, err := modfetch.SystemGoEnv()
			if err != nil {
				t.Fatal(err)
			}
			_, err = modfetch.New(modfetch.WithGoEnv(env))
			if err == nil || !strings.Contains(err.Error(), setting+" ("+source+")") {
				t.Errorf("error %v, want one that cites %s (%s)", err, setting, source)
			}
		}
		t.Setenv(setting, "")
	}
}

func TestAnEmptyGOPROXYOfTheUserIsNotNothing(t *testing.T) {
	file := filepath.Join(t.TempDir(), "env")
	t.Setenv("GOENV", file)
	t.Setenv("GOPROXY", "")
	t.Setenv("GOSUMDB", "")
	if err := os.WriteFile(file, []byte("GOPROXY=\nGOSUMDB=off\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	env, err := modfetch.SystemGoEnv()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := modfetch.New(modfetch.WithGoEnv(env)); err == nil || !strings.Contains(err.Error(), "GOPROXY ("+file+") names no mirror") {
		t.Errorf("error %v, want one that names the file", err)
	}
}

func TestOrderOfOptionsDoesNotMatter(t *testing.T) {
	t.Setenv("PATH", "") // no go command for direct
	dir := t.TempDir()
	n := always(404, "")
	opts := []modfetch.Option{
		modfetch.WithGoEnv(modfetch.GoEnv{
			GOPROXY: "https://env.example", GOSUMDB: "nonsense", GOPRIVATE: "private.example", GOMODCACHE: "relative",
		}),
		modfetch.WithGOPROXY("https://first.example|https://second.example"),
		modfetch.WithRoute("corp.example", "https://corp.example"),
		modfetch.WithPrivate("hidden.example"),
		modfetch.WithHTTPClient(n.client()),
		modfetch.WithSumDB("off"),
		modfetch.WithModCache(dir),
		modfetch.WithJobs(1),
		modfetch.WithCache(modfetch.DirCache(dir)),
		modfetch.WithLocker(noLocker{}),
	}
	for range len(opts) {
		opts = append(opts[1:], opts[0])
		for range 2 {
			slices.Reverse(opts)
			f, err := modfetch.New(opts...)
			if err != nil {
				t.Fatal(err)
			}
			for path, want := range map[string]string{
				"example.com/m":     "https://first.example https://second.example",
				"corp.example/x":    "https://corp.example",
				"hidden.example/x":  "direct",
				"private.example/x": "direct",
			} {
				if got := attempted(t, f, path); got != want {
					t.Errorf("%s: asked %s, want %s", path, got, want)
				}
			}
		}
	}
}

func TestNewTouchesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "absent")
	t.Setenv("GOPROXY", "nonsense")
	t.Setenv("GOPRIVATE", "[")
	n := always(200, "")
	before := runtime.NumGoroutine()
	f, err := modfetch.New(modfetch.WithGOPROXY("https://mirror.example,direct"), modfetch.WithHTTPClient(n.client()),
		modfetch.WithModCache(dir), modfetch.WithCache(modfetch.DirCache(dir)), modfetch.WithGoEnv(modfetch.GoEnv{GOPATH: dir}))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) || n.urls() != nil || runtime.NumGoroutine() > before {
		t.Errorf("made %s (%v), asked %q, left %d goroutines", dir, err, n.urls(), runtime.NumGoroutine()-before)
	}
}

func TestDefaultDatabaseIsNeverOff(t *testing.T) {
	for name, opts := range map[string][]modfetch.Option{
		"nothing said":    {modfetch.WithGOPROXY("https://mirror.example")},
		"GoEnv says none": {modfetch.WithGoEnv(modfetch.GoEnv{GOPROXY: "https://mirror.example"})},
	} {
		t.Run(name, func(t *testing.T) {
			n := &network{answer: func(r *http.Request) (*http.Response, error) {
				if strings.HasPrefix(r.URL.Path, "/example.com/") {
					return reply(r, 200, "module example.com/m\n")
				}
				return reply(r, 404, "")
			}}
			f, err := modfetch.New(append(opts, modfetch.WithHTTPClient(n.client()))...)
			if err != nil {
				t.Fatal(err)
			}
			if data, err := f.GoMod(t.Context(), moduleM); err == nil || !strings.Contains(err.Error(), "sum.golang.org") {
				t.Errorf("got %q, %v, want an error that names sum.golang.org", data, err)
			}
			if !slices.ContainsFunc(n.urls(), func(u string) bool { return strings.Contains(u, "/sumdb/sum.golang.org/") }) {
				t.Errorf("asked %q, and not for the database", n.urls())
			}
		})
	}
}

func TestCloseClosesIdleConnectionsOfItsOwnClient(t *testing.T) {
	closed := make(chan struct{}, 1)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "v1.0.0\n") }))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			closed <- struct{}{}
		}
	}
	s.Start()
	defer s.Close()
	f, err := modfetch.New(modfetch.WithGOPROXY(s.URL), modfetch.WithSumDB("off"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Versions(t.Context(), moduleM.Path); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	select {
	case <-closed:
	case <-time.After(5 * time.Second):
		t.Error("the connection is still open")
	}

	p := &pooled{network: always(200, "v1.0.0\n")}
	f, err = modfetch.New(modfetch.WithGOPROXY(s.URL), modfetch.WithSumDB("off"), modfetch.WithHTTPClient(&http.Client{Transport: p}))
	if err != nil {
		t.Fatal(err)
	}
	if f.Close(); p.closed > 0 {
		t.Error("Close reached into the caller's client")
	}
}
