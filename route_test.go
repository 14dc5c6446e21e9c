package modfetch_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"testing/synctest"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/modfetchtest"
)

func TestFirstMirrorIsAskedForEachFile(t *testing.T) {
	for _, code := range []int{404, 410} {
		second := newWorld(t)
		first := second.Mirror()
		first.Fault("*", modfetchtest.Status(code))
		f, _ := newFetcher(t, modfetch.WithGOPROXY(first.URL+","+second.URL), modfetch.WithSumDB(second.GOSUMDB()))
		download(t, f, allModules...)
		for _, m := range allModules {
			for _, suffix := range []string{".info", ".mod", ".zip"} {
				name := "/" + proxyPath(t, m) + suffix
				if a, b := first.Count(name), second.Count(name); a != 1 || b != 1 {
					t.Errorf("%d: %s was asked for %d times from the first mirror and %d times from the second", code, name, a, b)
				}
			}
		}
	}
}

func TestSeparatorsDecideWhoIsAsked(t *testing.T) {
	const refused, page, otherVersion = -1, -2, -3
	for name, c := range map[string]struct {
		list    string // host names stand for themselves
		answers map[string]int
		asked   string // hosts in order, each once in a row
		kind    modfetch.Kind
		says    string
	}{
		"comma after 200":              {list: "a,b", asked: "a"},
		"comma after 404":              {list: "a,b", answers: map[string]int{"a": 404}, asked: "a b"},
		"comma after 410":              {list: "a,b", answers: map[string]int{"a": 410}, asked: "a b"},
		"comma after 401":              {list: "a,b", answers: map[string]int{"a": 401}, asked: "a", kind: modfetch.Forbidden, says: "401"},
		"comma after 403":              {list: "a,b", answers: map[string]int{"a": 403}, asked: "a", kind: modfetch.Forbidden, says: "403"},
		"comma after 429":              {list: "a,b", answers: map[string]int{"a": 429}, asked: "a", kind: modfetch.Transient, says: "429"},
		"comma after 500":              {list: "a,b", answers: map[string]int{"a": 500}, asked: "a", kind: modfetch.Transient, says: "500"},
		"comma after 204":              {list: "a,b", answers: map[string]int{"a": 204}, asked: "a", kind: modfetch.Corrupt, says: "204"},
		"comma after 206":              {list: "a,b", answers: map[string]int{"a": 206}, asked: "a", kind: modfetch.Corrupt, says: "206"},
		"comma after a refusal":        {list: "a,b", answers: map[string]int{"a": refused}, asked: "a", kind: modfetch.Transient, says: "refused"},
		"comma after a page":           {list: "a,b", answers: map[string]int{"a": page}, asked: "a", kind: modfetch.Corrupt, says: "page"},
		"comma after another version":  {list: "a,b", answers: map[string]int{"a": otherVersion}, asked: "a", kind: modfetch.Corrupt, says: "v9.9.9"},
		"bar after 404":                {list: "a|b", answers: map[string]int{"a": 404}, asked: "a b"},
		"bar after 403":                {list: "a|b", answers: map[string]int{"a": 403}, asked: "a b"},
		"bar after 500":                {list: "a|b", answers: map[string]int{"a": 500}, asked: "a b"},
		"bar after 204":                {list: "a|b", answers: map[string]int{"a": 204}, asked: "a b"},
		"bar after a refusal":          {list: "a|b", answers: map[string]int{"a": refused}, asked: "a b"},
		"bar after a page":             {list: "a|b", answers: map[string]int{"a": page}, asked: "a b"},
		"bar after another version":    {list: "a|b", answers: map[string]int{"a": otherVersion}, asked: "a b"},
		"500 tells more than 404":      {list: "a|b", answers: map[string]int{"a": 500, "b": 404}, asked: "a b", kind: modfetch.Transient, says: "500"},
		"the later 404 is told":        {list: "a,b", answers: map[string]int{"a": 404, "b": 410}, asked: "a b", kind: modfetch.NotFound, says: "410"},
		"off tells more than 404":      {list: "a,off", answers: map[string]int{"a": 404}, asked: "a", kind: modfetch.Forbidden, says: "ends in off"},
		"500 tells more than off":      {list: "a|off", answers: map[string]int{"a": 500}, asked: "a", kind: modfetch.Transient, says: "500"},
		"off alone":                    {list: "off", kind: modfetch.Forbidden, says: "ends in off"},
		"all say 404":                  {list: "a|b,c", answers: map[string]int{"a": 404, "b": 404, "c": 404}, asked: "a b c", kind: modfetch.NotFound},
		"last of a tier says 404":      {list: "a|b,c", answers: map[string]int{"a": 500, "b": 404}, asked: "a b c"},
		"first of a tier says 404":     {list: "a|b,c", answers: map[string]int{"a": 404, "b": 500}, asked: "a b", kind: modfetch.Transient, says: "500"},
		"bar behind a comma":           {list: "a,b|c", answers: map[string]int{"a": 404, "b": 500}, asked: "a b c"},
		"comma bars the tier behind":   {list: "a,b|c", answers: map[string]int{"a": 403}, asked: "a", kind: modfetch.Forbidden, says: "403"},
		"comma and bar count as comma": {list: "a,|b", answers: map[string]int{"a": 500}, asked: "a", kind: modfetch.Transient},
		"bar and comma count as bar":   {list: "a|,b", answers: map[string]int{"a": 500}, asked: "a b"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &network{answer: func(r *http.Request) (*http.Response, error) {
					switch code := c.answers[strings.TrimSuffix(r.URL.Host, ".example")]; code {
					case 0:
						return reply(r, 200, `{"Version":"v1.0.0"}`)
					case refused:
						return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
					case page:
						return reply(r, 200, "<html>", "Content-Type", "text/html; charset=utf-8")
					case otherVersion:
						return reply(r, 200, `{"Version":"v9.9.9"}`)
					default:
						return reply(r, code, "")
					}
				}}
				list := strings.NewReplacer("a", "https://a.example", "b", "https://b.example", "c", "https://c.example").Replace(c.list)
				f, err := modfetch.New(modfetch.WithGOPROXY(list), modfetch.WithSumDB("off"), modfetch.WithHTTPClient(n.client()))
				if err != nil {
					t.Fatal(err)
				}
				err = askInfo(t.Context(), f)
				var asked []string
				for _, r := range n.asked {
					asked = append(asked, strings.TrimSuffix(r.URL.Host, ".example"))
				}
				if n := strings.Count(c.list, "|"); n == 0 || err == nil {
					asked = slices.Compact(asked)
				} else { // the tier is gone round again
					slices.Sort(asked)
					asked = slices.Compact(asked)
				}
				if got := strings.Join(asked, " "); got != c.asked {
					t.Errorf("asked %s, want %s", got, c.asked)
				}
				if c.kind == "" {
					if err != nil {
						t.Error(err)
					}
					return
				}
				var failed *modfetch.FetchError
				if !errors.As(err, &failed) || modfetch.KindOf(err) != c.kind || !strings.Contains(failed.Unwrap().Error(), c.says) {
					t.Errorf("error %v, want one that is %s and tells most of %q", err, c.kind, c.says)
				}
			})
		})
	}
}

// attempted says which mirrors were asked, in order, when none of them has what was asked for.
func attempted(t testing.TB, f *modfetch.Fetcher, path string) string {
	t.Helper()
	_, err := f.Versions(t.Context(), path)
	var failed *modfetch.FetchError
	if !errors.As(err, &failed) {
		t.Fatalf("%s: error %v, want a FetchError", path, err)
	}
	var names []string
	for _, a := range failed.Attempts {
		names = append(names, a.Mirror)
	}
	return strings.Join(names, " ")
}

func TestGOPROXYGrammar(t *testing.T) {
	t.Setenv("PATH", "") // no go command for direct, which is then a refusal
	for name, c := range map[string]struct{ list, asked string }{
		"one":                  {"https://a.example", "https://a.example"},
		"two":                  {"https://a.example,https://b.example", "https://a.example https://b.example"},
		"bar":                  {"https://a.example|https://b.example", "https://a.example https://b.example"},
		"spaces":               {" https://a.example , direct ", "https://a.example direct"},
		"tabs and line breaks": {"\thttps://a.example\r\n,\n direct\n", "https://a.example direct"},
		"empty items":          {",,https://a.example,|,https://b.example||,", "https://a.example https://b.example"},
		"only spaces between":  {"https://a.example, ,|https://b.example", "https://a.example https://b.example"},
		"host alone":           {"a.example", "https://a.example"},
		"host and path":        {"a.example/go", "https://a.example/go"},
		"host and port":        {"localhost:1", "https://localhost:1"},
		"scheme in capitals":   {"HTTPS://a.example", "https://a.example"},
		"http":                 {"http://a.example", "http://a.example"},
		"user and query":       {"https://user:pass@a.example/go?token", "https://a.example/go"},
		"the same twice":       {"https://a.example,https://a.example", "https://a.example https://a.example"},
		"direct":               {"direct", "direct"},
		"nonsense after it":    {"direct,foo", "direct"},
		"nonsense after off":   {"off,foo", "off"},
		"mirror after direct":  {"https://a.example,direct,https://b.example", "https://a.example direct"},
		"mirror after off":     {"https://a.example,off|https://b.example", "https://a.example off"},
		"bar before direct":    {"https://a.example|direct", "https://a.example direct"},
	} {
		t.Run(name, func(t *testing.T) {
			for setting, opt := range map[string]modfetch.Option{
				"WithGOPROXY": modfetch.WithGOPROXY(c.list), "GOPROXY": modfetch.WithGoEnv(modfetch.GoEnv{GOPROXY: c.list}),
			} {
				f, err := modfetch.New(opt, modfetch.WithSumDB("off"), modfetch.WithHTTPClient(always(404, "").client()))
				if err != nil {
					t.Fatal(err)
				}
				if got := attempted(t, f, moduleM.Path); got != c.asked {
					t.Errorf("%s: asked %s, want %s", setting, got, c.asked)
				}
			}
		})
	}
}

func TestMalformedGOPROXY(t *testing.T) {
	t.Setenv("GOENV", "off")
	for name, c := range map[string]struct{ list, say string }{
		"empty":                     {"", "names no mirror"},
		"only separators":           {" , |,, ", "names no mirror"},
		"word":                      {"foo", `"foo"`},
		"word before a URL":         {"foo,https://mirror.example", `"foo"`},
		"word behind a URL":         {"https://mirror.example|foo", `"foo"`},
		"directory":                 {"/var/goproxy", "file URL"},
		"other scheme":              {"ftp://user:s3cret@mirror.example", "http, https or file URL"},
		"no host":                   {"https://", "with a host"},
		"space in the host":         {"https://user:s3cret@mirror example", `"https://mirror example": malformed URL`},
		"bad escape":                {"https://user:s3cret%zz@mirror.example", "https://mirror.example"},
		"slash in the password":     {"https://user:s3cret/word@mirror.example", "https://mirror.example"},
		"slash ahead of a password": {"user:/s3cret@mirror.example", "mirror.example"},
		"single slash":              {"https:/user:s3cret@mirror.example", "with a host"},
		"password over http":        {"http://user:s3cret@mirror.example", "use https"},
		"file with a host":          {"file://user:s3cret@host/dir", "file:///"},
		"file without a path":       {"file://", "file:///"},
		"relative file":             {"file:../dir", `has "file:../dir": a directory is given as file:///absolute/dir`},
		"relative file, no dots":    {"file:dir", "a directory is given as file:///absolute/dir"},
		"relative directory":        {"https://mirror.example|../dir", `has "../dir": a directory is given as file:///absolute/dir`},
		"this directory":            {".", "a directory is given as file:///absolute/dir"},
		"password for a user file":  {"file:s3cret@mirror.example", "file:///"},
		"file with a query":         {"file:///dir?s3cret", "file:///"},
		"file with a fragment":      {"file:///dir#x", "file:///"},
		"comma in the password":     {"https://user:s3cret,s3cret@mirror.example", "item 1 of the list"},
		"bar in the password":       {"direct.example,https://user:s3cret|s3cret@mirror.example", "item 2 of the list"},
		"two commas in it":          {"https://user:12,s3cret,x@mirror.example", "item 2 of the list"},
		"two commas, a scheme":      {"https://user:12,ftp://s3cret,x@mirror.example", "item 2 of the list"},
		"comma behind an @ in it":   {"http://user:x@s3cret,x@mirror.example", "item 1 of the list"},
		"comma, and all malformed":  {"https://user:12,s3cret%zz@mirror.example", `"mirror.example"`},
		"comma in the query":        {"https://mirror.example?token=a,s3cret", "item 2 of the list"},
		"comma in the fragment":     {"https://mirror.example#a|x|s3cret|direct", "item 2 of the list"},
		"@ in the query":            {"ftp://mirror.example?token=user@s3cret", "item 1 of the list"},
		"password and no host":      {"https://user:s3cret", "item 1 of the list"},
		"password and no scheme":    {"user:s3cret", "item 1 of the list"},
		"colon in the path":         {"ftp://mirror.example/user:s3cret", "item 1 of the list"},
		"token and a colon":         {"https://s3cret:x-oauth-basic", "item 1 of the list"},
		"digits for a password":     {"https://s3cret.example:902107", "malformed URL"},
		"word behind a password":    {"https://user:s3cret@mirror.example,dirct", `has "dirct": want an http`},
		"word and a bar":            {"https://user:s3cret@mirror.example|dirct,direct", `has "dirct": want an http`},
		"word before a password":    {"dirct,https://user:s3cret@mirror.example", "item 1 of the list"},
		"scheme mistyped":           {"htps://goproxy.cn,direct", `has "htps://goproxy.cn": want an http`},
		"capitals":                  {"Direct", `has "Direct": want an http`},
		"space for a comma":         {"https://goproxy.cn https://goproxy.io", `has "https://goproxy.cn https://goproxy.io": malformed`},
	} {
		t.Run(name, func(t *testing.T) {
			n := always(200, "v1.0.0")
			common := []modfetch.Option{modfetch.WithSumDB("off"), modfetch.WithHTTPClient(n.client())}
			check := func(setting string, opts ...modfetch.Option) {
				t.Helper()
				_, err := modfetch.New(append(opts, common...)...)
				if err == nil || !strings.HasPrefix(err.Error(), "modfetch: "+setting) || !strings.Contains(err.Error(), c.say) {
					t.Errorf("error %v, want one that names %s and says %q", err, setting, c.say)
				} else if strings.Contains(err.Error(), "s3cret") {
					t.Errorf("error %v holds a secret", err)
				}
			}
			check("WithGOPROXY ", modfetch.WithGOPROXY(c.list))
			check(`WithRoute("corp.example") `, modfetch.WithGOPROXY("https://mirror.example"), modfetch.WithRoute("corp.example", c.list))
			if c.list != "" { // which is no setting at all
				t.Setenv("GOPROXY", c.list)
				env, err := modfetch.SystemGoEnv()
				if err != nil {
					t.Fatal(err)
				}
				check("GOPROXY (environment) ", modfetch.WithGoEnv(env))
			}
			if n.urls() != nil {
				t.Errorf("asked %q", n.urls())
			}
		})
	}
}

func TestRoutesDecideWhoSeesAPath(t *testing.T) {
	t.Setenv("PATH", "")
	opts := []modfetch.Option{
		modfetch.WithRoute("corp.example/special,*.corp.example", "https://special.example"),
		modfetch.WithRoute("corp.example", "https://corp-a.example|https://corp-b.example"),
		modfetch.WithRoute("corp.example/special/never", "https://unreachable.example"),
		modfetch.WithRoute("closed.example", "off"),
		modfetch.WithRoute("own.example", "direct"),
		modfetch.WithPrivate("private.example/*,corp.example"),
		modfetch.WithSumDB("off"), modfetch.WithHTTPClient(always(404, "").client()),
	}
	for name, c := range map[string]struct {
		env  modfetch.GoEnv
		want map[string]string
	}{
		"over a list": {
			modfetch.GoEnv{GOPROXY: "https://public.example"},
			map[string]string{
				"example.com/m":                "https://public.example",
				"corp.example":                 "https://corp-a.example https://corp-b.example",
				"corp.example/x/y":             "https://corp-a.example https://corp-b.example",
				"corp.example/special":         "https://special.example",
				"corp.example/special/never":   "https://special.example",
				"git.corp.example/x":           "https://special.example",
				"corp.example.com/x":           "https://public.example",
				"xcorp.example/x":              "https://public.example",
				"closed.example/x":             "off",
				"own.example/x":                "direct",
				"private.example/x/y":          "direct",
				"private.example":              "https://public.example", // which the pattern does not cover
				"example.com/corp.example":     "https://public.example",
				"example.com/private.example/": "",
			},
		},
		"GONOPROXY beats off": {
			modfetch.GoEnv{GOPROXY: "off", GONOPROXY: "free.example"},
			map[string]string{"example.com/m": "off", "free.example/x": "direct", "private.example/x": "direct", "corp.example/x": "https://corp-a.example https://corp-b.example"},
		},
		"GOPRIVATE stands in for GONOPROXY": {
			modfetch.GoEnv{GOPROXY: "https://public.example", GOPRIVATE: "free.example"},
			map[string]string{"example.com/m": "https://public.example", "free.example/x": "direct"},
		},
		"GONOPROXY none": {
			modfetch.GoEnv{GOPROXY: "https://public.example", GOPRIVATE: "free.example", GONOPROXY: "none"},
			map[string]string{"free.example/x": "https://public.example", "private.example/x": "direct"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := modfetch.New(append(opts, modfetch.WithGoEnv(c.env))...)
			if err != nil {
				t.Fatal(err)
			}
			for path, want := range c.want {
				if want == "" {
					if _, err := f.Versions(t.Context(), path); err == nil {
						t.Errorf("%s: no error", path)
					}
					continue
				}
				if got := attempted(t, f, path); got != want {
					t.Errorf("%s: asked %s, want %s", path, got, want)
				}
			}
		})
	}
}

type namedFS struct{ fs.FS }

func (namedFS) String() string { return "mine" }

func TestFSMirror(t *testing.T) {
	m := modfetch.FSMirror(fstest.MapFS{
		"example.com/!m/@v/v1.0.0.zip": {Data: []byte("0123456789")},
		"example.com/dir/@v/list/x":    {Data: []byte("x")},
	})
	for path, want := range map[string]modfetch.Kind{
		"example.com/!m/@v/v1.0.0.zip": "",
		"example.com/!m/@v/v1.1.0.zip": modfetch.NotFound,
		"example.com/dir/@v/list":      modfetch.Corrupt,
	} {
		data, err := get(t, m, modfetch.Request{Path: path})
		if (err == nil) != (want == "") || err != nil && modfetch.KindOf(err) != want {
			t.Errorf("%s: got %q, %v, want %q", path, data, err, want)
		}
		if err == nil && data != "0123456789" {
			t.Errorf("%s: got %q", path, data)
		}
	}
	denied := modfetch.FSMirror(fsFunc(func(name string) (fs.File, error) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}))
	if _, err := get(t, denied, modfetch.Request{Path: "example.com/!m/@v/v1.0.0.zip"}); modfetch.KindOf(err) != modfetch.Forbidden {
		t.Errorf("error %v, want a refusal", err)
	}
	for _, path := range []string{"../etc/passwd", "/etc/passwd", "", "a//b"} {
		if data, err := get(t, modfetch.FSMirror(os.DirFS(t.TempDir())), modfetch.Request{Path: path}); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: got %q, %v, want an error that is not an absence", path, data, err)
		}
	}
	t.Run("none there", func(t *testing.T) {
		gone := filepath.Join(t.TempDir(), "gone")
		for _, fsys := range []fs.FS{os.DirFS(gone), os.DirFS(t.TempDir()), fstest.MapFS{}} {
			_, err := get(t, modfetch.FSMirror(fsys), modfetch.Request{Path: "example.com/m/@v/list"})
			if modfetch.KindOf(err) != modfetch.Transient || !strings.Contains(fmt.Sprint(err), "is its disk mounted?") {
				t.Errorf("%v: %s error %v, want a transient one about a disk", fsys, modfetch.KindOf(err), err)
			}
		}
		s := newWorld(t)
		f := newBareFetcher(t, modfetch.WithGOPROXY("file://"+filepath.ToSlash(gone)+","+s.URL), modfetch.WithSumDB("off"), modfetch.WithCache(new(modfetch.MemCache)))
		if _, err := f.GoMod(t.Context(), moduleM); err == nil || len(s.Requests()) > 0 {
			t.Errorf("error %v, and requests %v behind a comma", err, s.Requests())
		}
	})
	t.Run("named", func(t *testing.T) {
		sub, _ := fs.Sub(fstest.MapFS{}, "dir")
		for fsys, want := range map[fs.FS]string{os.DirFS("/stick"): "file system /stick", sub: "file system *fs.subFS", namedFS{sub}: "file system mine"} {
			if got := fmt.Sprint(modfetch.FSMirror(fsys)); got != want {
				t.Errorf("named %q, want %q", got, want)
			}
		}
	})
	t.Run("part", func(t *testing.T) {
		resp, err := m.Fetch(t.Context(), modfetch.Request{Path: "example.com/!m/@v/v1.0.0.zip", Offset: 7})
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(resp.Body)
		if err != nil || string(data) != "789" || resp.Offset != 7 || resp.Size != 10 {
			t.Errorf("got %q, %v from %d of %d", data, err, resp.Offset, resp.Size)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		resp, err := m.Fetch(ctx, modfetch.Request{Path: "example.com/!m/@v/v1.0.0.zip"})
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		if data, err := io.ReadAll(resp.Body); !errors.Is(err, context.Canceled) {
			t.Errorf("read %q, %v after the cancellation", data, err)
		}
		if _, err := m.Fetch(ctx, modfetch.Request{Path: "example.com/!m/@v/v1.0.0.zip"}); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want context.Canceled", err)
		}
	})
}

type fsFunc func(string) (fs.File, error)

func (f fsFunc) Open(name string) (fs.File, error) { return f(name) }

// TestFileMirror uses a module cache as the go command and modfetch leave it as the mirror for another one.
func TestFileMirror(t *testing.T) {
	s := newWorld(t)
	f, modCache := newFetcher(t, s.Options()...)
	download(t, f, allModules...)
	url := "file://" + filepath.ToSlash(filepath.Join(modCache, "cache", "download"))
	if !strings.HasPrefix(url, "file:///") {
		url = strings.Replace(url, "file://", "file:///", 1) // C:/dir
	}
	again, _ := newFetcher(t, modfetch.WithGOPROXY(url+","+s.URL), modfetch.WithSumDB(s.GOSUMDB()))
	before := s.Count("/example.com/*")
	for _, m := range download(t, again, allModules...) {
		if m.Mirror != url {
			t.Errorf("%s came from %s, want %s", m.Version, m.Mirror, url)
		}
	}
	if n := s.Count("/example.com/*"); n != before {
		t.Errorf("the mirror behind was asked %d times", n-before)
	}

	t.Run("a missing file is an absence", func(t *testing.T) {
		f, err := modfetch.New(modfetch.WithGOPROXY(url), modfetch.WithSumDB("off"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Versions(t.Context(), "example.com/none"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("error %v, want fs.ErrNotExist", err)
		}
	})
	t.Run("a file in the way is none", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "example.com"), nil, 0o666); err != nil {
			t.Fatal(err)
		}
		f, err := modfetch.New(modfetch.WithGOPROXY("file://"+filepath.ToSlash(dir)), modfetch.WithSumDB("off"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Versions(t.Context(), "example.com/none"); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("error %v, want one that is not an absence", err)
		}
	})
}

// FuzzGOPROXY holds that no list makes New panic, and that an item's password is in no message.
func FuzzGOPROXY(f *testing.F) {
	for _, seed := range []struct{ before, scheme, after string }{
		{"", "https://", "mirror.example"}, {"", "http://", "mirror.example"}, {"", "", "mirror.example"}, {"", "file://", "/dir"},
		{"https://a.example", "https:/", "mirror.example"}, {"direct", "ftp://", "mirror.example"}, {" , |", "https://", " mirror.example"},
		{"off", "https://", "%zz"}, {"foo", "https:///", "x"}, {"a.example", "://", ":99999999/x"}, {"", "https://", "[::1"}, {"", "https://", "a@b?c#d"},
	} {
		f.Add(seed.before, seed.scheme, seed.after)
	}
	client := always(404, "").client()
	f.Fuzz(func(t *testing.T, before, scheme, after string) {
		if strings.ContainsAny(scheme, ",|@?#") || strings.Count(scheme, "//") > 1 {
			t.Skip("the marker would not be a password")
		}
		const half = "MARKED"
		for _, password := range []string{half, half + "," + half, half + "|x," + half, "12," + half + ",x"} {
			for _, list := range []string{before + "," + scheme + "user:" + password + "@" + after, before + "|" + scheme + "user:" + password + "@" + after} {
				_, err := modfetch.New(modfetch.WithGOPROXY(list), modfetch.WithSumDB("off"), modfetch.WithHTTPClient(client))
				if err != nil && strings.Contains(err.Error(), half) {
					t.Errorf("%q: error %v holds the password", list, err)
				}
			}
		}
	})
}
