package modfetch_test

import (
	"encoding/pem"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/modfetchtest"
	"golang.org/x/mod/module"
)

func TestMirrorsAreAskedInTheOrderOfTheList(t *testing.T) {
	const all = "info mod zip"
	status := modfetchtest.Status
	for name, q := range map[string]struct {
		list       string
		a, b       modfetchtest.Fault // for modules
		refused    bool               // by a
		askA, askB string
		says       string        // the error; "" for success
		kind       modfetch.Kind // modfetch's
	}{
		"comma after 404": {list: "<a>,<b>", a: status(404), askA: all, askB: all}, // case 1
		"comma after 410": {list: "<a>,<b>", a: status(410), askA: all, askB: all},
		// case 3
		"comma after 401": {list: "<a>,<b>", a: status(401), askA: "info", says: "401 Unauthorized", kind: modfetch.Forbidden},
		"comma after 403": {list: "<a>,<b>", a: status(403), askA: "info", says: "403 Forbidden", kind: modfetch.Forbidden},
		"comma after 429": {list: "<a>,<b>", a: status(429), askA: "info", says: "429 Too Many Requests", kind: modfetch.Transient},
		"comma after 500": {list: "<a>,<b>", a: status(500), askA: "info", says: "500 Internal Server Error", kind: modfetch.Transient},
		"comma after 204": {list: "<a>,<b>", a: status(204), askA: "info", says: "204 No Content", kind: modfetch.Corrupt},
		"comma after 206": {list: "<a>,<b>", a: status(206), askA: "info", says: "206 Partial Content", kind: modfetch.Corrupt},
		// case 4
		"bar after 403":       {list: "<a>|<b>", a: status(403), askA: all, askB: all},
		"bar after 500":       {list: "<a>|<b>", a: status(500), askA: all, askB: all},
		"bar after 204":       {list: "<a>|<b>", a: status(204), askA: all, askB: all},
		"bar after a refusal": {list: "<a>|<b>", refused: true, askB: all},
		// case 5
		"500 tells more than 404": {list: "<a>|<b>", a: status(500), b: status(404), askA: "info", askB: "info", says: "500 Internal Server Error", kind: modfetch.Transient},
		// case 6
		"the later absence is told": {list: "<a>,<b>", a: status(404), b: status(410), askA: "info", askB: "info", says: "410 Gone", kind: modfetch.NotFound},
		// case 7
		"off tells more than 404": {list: "<a>,off", a: status(404), askA: "info", says: "off", kind: modfetch.Forbidden},
		"500 tells more than off": {list: "<a>|off", a: status(500), askA: "info", says: "500 Internal Server Error", kind: modfetch.Transient},
		// case 10
		"spaces around items": {list: " <a> , direct", askA: all},
		"empty items":         {list: ",, <a> ,|,<b>", askA: all},
		// case 24
		"comma after another version": {list: "<a>,<b>", a: modfetchtest.WrongVersion("v9.9.9"), askA: "info", says: "v9.9.9", kind: modfetch.Corrupt},
		"bar after another version":   {list: "<a>|<b>", a: modfetchtest.WrongVersion("v9.9.9"), askA: "info", askB: "info", says: "v9.9.9", b: modfetchtest.WrongVersion("v9.9.9"), kind: modfetch.Corrupt},
	} {
		t.Run(name, func(t *testing.T) {
			asBoth(t, func(t *testing.T, c *client) {
				c.set("GOPROXY=" + q.list)
				c.a.Fault("/example.com/*", q.a)
				c.b.Fault("/example.com/*", q.b)
				if q.refused {
					c.a.Close()
				}
				o := c.ask(t, moduleM.Path, moduleM.Version)
				if o.a != q.askA || o.b != q.askB {
					t.Errorf("a was asked for %q and b for %q, want %q and %q", o.a, o.b, q.askA, q.askB)
				}
				if (o.err == nil) != (q.says == "") || !strings.Contains(o.says, q.says) || !c.isGo() && o.kind != q.kind {
					t.Errorf("error of kind %q: %s, want %q that says %q", o.kind, o.says, q.kind, q.says)
				}
				if got := c.has("example.com/m@v1.0.0/m.go"); got != (q.says == "") {
					t.Errorf("extracted: %t", got)
				}
			})
		})
	}
}

func TestAFailureThatMayPassIsTriedAgain(t *testing.T) {
	for name, q := range map[string]struct {
		path  string
		fault modfetchtest.Fault
	}{
		"503":               {"*.info", modfetchtest.Status(503)},
		"no answer":         {"*.info", modfetchtest.Reset()},
		"zip that is cut":   {"*.zip", modfetchtest.Truncate(-9)},
		"lookup that fails": {"/sumdb/*/lookup/*", modfetchtest.Status(502)},
	} {
		t.Run(name, func(t *testing.T) {
			asBoth(t, func(t *testing.T, c *client) {
				c.a.Fault(q.path, q.fault.Times(1))
				if o := c.ask(t, moduleM.Path, moduleM.Version); (o.err != nil) != c.isGo() {
					t.Errorf("error %s; only the go command gives up", o.says)
				}
			})
		})
	}
}

func TestListsThatAreRefused(t *testing.T) {
	for name, q := range map[string]struct {
		list, says string
		hides      string
	}{
		"word among URLs":    {list: "foo,<a>", says: "foo"},                                                       // case 9
		"password over http": {list: "http://user:s3cret@mirror.example", says: "mirror.example", hides: "s3cret"}, // case 11
		"nothing in it":      {list: " , ", says: "GOPROXY"},
	} {
		t.Run(name, func(t *testing.T) {
			asBoth(t, func(t *testing.T, c *client) {
				c.set("GOPROXY=" + q.list)
				o := c.ask(t, moduleM.Path, moduleM.Version)
				if o.err == nil || !strings.Contains(o.says, q.says) || q.hides != "" && strings.Contains(o.says, q.hides) {
					t.Errorf("error %s, want one that says %q", o.says, q.says)
				}
				if o.a+o.b+o.sumA+o.sumB != "" || o.elsewhere != nil {
					t.Errorf("requests %+v, want none", o)
				}
			})
		})
	}
}

func TestPatternsThatMatchNothing(t *testing.T) {
	for _, setting := range []string{"GOPRIVATE=corp.example/[", "GONOSUMDB=corp.example, example.com", "GONOPROXY=corp.example,["} {
		t.Run(setting, func(t *testing.T) {
			asBoth(t, func(t *testing.T, c *client) {
				c.set(setting)
				name, _, _ := strings.Cut(setting, "=")
				// The go command passes them over in silence, and a path that was to be private is asked for.
				o := c.ask(t, moduleM.Path, moduleM.Version)
				if (o.err == nil) != c.isGo() || !c.isGo() && (!strings.Contains(o.says, name) || o.a != "") {
					t.Errorf("asked for %q, error %s", o.a, o.says)
				}
			})
		})
	}
}

func TestDirectEndsTheList(t *testing.T) { // case 8
	asBoth(t, func(t *testing.T, c *client) {
		c.set("GOPROXY=direct,foo")
		o := c.ask(t, "corp.test/m", "v1.0.0")
		if o.err == nil || strings.Contains(o.says, "foo") || !strings.Contains(o.says, "corp.test/m") {
			t.Errorf("error %s, want one of the path alone", o.says)
		}
	})
}

func TestPathsAreCheckedBeforeAnybodyIsAsked(t *testing.T) {
	for name, q := range map[string]struct {
		m   module.Version
		bad bool
	}{
		"major version 1 in the path": {module.Version{Path: "example.com/m/v1", Version: "v1.0.0"}, true}, // case 16
		"major version 2 in the path": {moduleV2, false},
		"major version with a zero":   {module.Version{Path: "example.com/m/v02", Version: "v2.0.0"}, true},
		"no dot in the host":          {module.Version{Path: "example/m", Version: "v1.0.0"}, true},
		"upper case in the host":      {module.Version{Path: "Example.com/m", Version: "v1.0.0"}, true},
		"device of Windows":           {module.Version{Path: "example.com/con", Version: "v1.0.0"}, true},
		"slash in the version":        {module.Version{Path: "example.com/m", Version: "x/y"}, true}, // case 23
	} {
		t.Run(name, func(t *testing.T) {
			asBoth(t, func(t *testing.T, c *client) {
				o := c.ask(t, q.m.Path, q.m.Version)
				if asked := o.a != ""; asked == q.bad || (o.err != nil) != q.bad {
					t.Errorf("asked for %q, error %s", o.a, o.says)
				}
			})
		})
	}
}

func TestVersionThatDoesNotFitThePath(t *testing.T) { // case 15
	for name, q := range map[string]struct {
		m     module.Version
		asked string // by modfetch; a mirror could know v3.0.0 as v3.0.0+incompatible
	}{
		"no suffix":      {module.Version{Path: "example.com/big", Version: "v3.0.0"}, "info"},
		"another suffix": {module.Version{Path: "example.com/big/v2", Version: "v1.0.0"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			asBoth(t, func(t *testing.T, c *client) {
				c.base.Add(modfetchtest.NewModule(q.m.Path, q.m.Version).RawZip(zipOf(t, q.m, map[string]string{"m.go": "package m\n"})))
				o := c.ask(t, q.m.Path, q.m.Version)
				// The go command finds out when it extracts the zip, and then keeps it.
				if want := either(c, q.asked, "info mod zip"); o.err == nil || o.a != want {
					t.Errorf("asked for %q, want %q; error %s", o.a, want, o.says)
				}
				if kept := c.has("cache/download/" + proxyPath(t, q.m) + ".zip"); kept != c.isGo() {
					t.Errorf("the zip was kept: %t", kept)
				}
				if c.isGo() {
					return
				}
				f, err := c.fetcher(t)
				if err != nil {
					t.Fatal(err)
				}
				before := len(c.a.Log())
				_, err = f.Dir(t.Context(), q.m)
				if asked := c.a.Requests()[before:]; err == nil || len(asked) > 0 {
					t.Errorf("asked for %q, error %v, want a refusal", asked, err)
				}
			})
		})
	}
}

func TestA4xxIsAskedForOnce(t *testing.T) { // case 40
	if runtime.GOOS != "linux" {
		t.Skip("the go command trusts a certificate from a file only on Linux")
	}
	for _, secure := range []bool{true, false} {
		t.Run(map[bool]string{true: "https", false: "http"}[secure], func(t *testing.T) {
			asBoth(t, func(t *testing.T, c *client) {
				var mu sync.Mutex
				n := 0
				s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					mu.Lock()
					n++
					mu.Unlock()
					http.NotFound(w, r)
				}))
				defer s.Close()
				var opts []modfetch.Option
				if secure {
					s.StartTLS()
					file := filepath.Join(t.TempDir(), "cert.pem")
					block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
					if err := os.WriteFile(file, block, 0o666); err != nil {
						t.Fatal(err)
					}
					c.set("SSL_CERT_FILE=" + file)
					opts = append(opts, modfetch.WithHTTPClient(s.Client()))
				} else {
					s.Start()
				}
				c.set("GOPROXY=" + s.URL)
				if c.isGo() {
					if o := c.ask(t, moduleM.Path, moduleM.Version); !strings.Contains(o.says, "404 Not Found") {
						t.Errorf("error %s, want 404", o.says)
					}
				} else {
					f, err := c.fetcher(t, opts...)
					if err != nil {
						t.Fatal(err)
					}
					if _, err := f.Info(t.Context(), moduleM.Path, moduleM.Version); !errors.Is(err, fs.ErrNotExist) {
						t.Errorf("error %v, want 404", err)
					}
				}
				if want := either(c, 1, map[bool]int{true: 2, false: 1}[secure]); n != want {
					t.Errorf("%d requests, want %d", n, want)
				}
			})
		})
	}
}
