package modfetch_test

import (
	"cmp"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/modfetchtest"
)

// serves answers 200 with a text.
func serves(text string) modfetchtest.Fault {
	return modfetchtest.Handler(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, text) })
}

func TestWhoIsAskedForTheLatestVersion(t *testing.T) {
	const (
		older = "v0.0.0-20200101000000-aaaaaaaaaaaa"
		newer = "v0.0.0-20210101000000-bbbbbbbbbbbb"
	)
	none := modfetchtest.Status(404)
	for name, q := range map[string]struct {
		list                     string
		listA, latestA           modfetchtest.Fault
		want, goWant             string // "" is an error
		asksLatestA, asksLatestB int
		goAsksLatestA            int // where that is not the same
	}{
		"no list, comma":              {list: "<a>,<b>", listA: none, want: "v1.0.0", goWant: "v1.0.0"},                                                                                               // case 17
		"empty list":                  {list: "<a>,<b>", listA: serves(""), want: "v1.0.0", goWant: "v1.0.0", asksLatestA: 1},                                                                         // case 18
		"pseudo-versions in the list": {list: "<a>", listA: serves(newer + "\n" + older + "\n"), latestA: none, want: newer, goWant: newer, asksLatestA: 1},                                           // case 19
		"times in the list":           {list: "<a>", listA: serves(newer + " 2020-01-01T00:00:00Z\n" + older + " 2021-01-01T00:00:00Z\n"), latestA: none, want: older, goWant: older, asksLatestA: 1}, // case 20
		// case 21: to the go command the list and the latest version are one question
		"empty list and no latest, comma": {list: "<a>,<b>", listA: serves(""), latestA: none, want: "v1.0.0", goWant: "", asksLatestA: 1, asksLatestB: 1},
		"empty list and no latest, bar":   {list: "<a>|<b>", listA: serves(""), latestA: none, want: "v1.0.0", goWant: "v1.0.0", asksLatestA: 1, asksLatestB: 1},
		"empty list and no latest, alone": {list: "<a>", listA: serves(""), latestA: none, asksLatestA: 1},
		// to the go command a list without versions, whatever it is
		"nonsense for a list": {list: "<a>", listA: serves("Welcome!\nPlease log in.\n"), goWant: "v1.0.0", goAsksLatestA: 1},
	} {
		t.Run(name, func(t *testing.T) {
			asBoth(t, func(t *testing.T, c *client) {
				for _, v := range []string{older, newer} {
					c.base.Add(modfetchtest.NewModule(moduleM.Path, v))
				}
				c.set("GOPROXY=" + q.list)
				c.a.Fault("*/@v/list", q.listA)
				c.a.Fault("*/@latest", q.latestA)
				o := c.ask(t, moduleM.Path, "latest")
				if want := either(c, q.want, q.goWant); o.version != want || (o.err == nil) != (want != "") {
					t.Errorf("version %q, error %s, want %q", o.version, o.says, want)
				}
				wantA, wantB := either(c, q.asksLatestA, cmp.Or(q.goAsksLatestA, q.asksLatestA)), either(c, q.asksLatestB, 0) // b has a list
				if a, b := c.a.Count("*/@latest"), c.b.Count("*/@latest"); a != wantA || b != wantB {
					t.Errorf("a was asked %d times for the latest version, and b %d times; want %d and %d", a, b, wantA, wantB)
				}
			})
		})
	}
}

func TestBranchesAndTags(t *testing.T) {
	const (
		path   = "example.com/branch"
		pseudo = "v0.0.0-20240102030405-abcdef012345"
	)
	for name, q := range map[string]struct {
		query        string
		fault        modfetchtest.Fault // of the .info that is asked for
		want, goWant string             // "" is nothing
		asked        string
		silent       bool // the go command says nothing and fetches nothing
	}{
		"branch":                    {query: "main", want: pseudo, goWant: pseudo, asked: "info mod zip"}, // case 22
		"commit":                    {query: "abcdef0", want: pseudo, goWant: pseudo, asked: "info mod zip"},
		"slash in it":               {query: "x/y"}, // case 23
		"no such branch":            {query: "other", asked: "info"},
		"build metadata":            {query: "v1.0.0+meta", want: "v1.0.0", goWant: "v1.0.0", asked: "info mod zip"}, // case 26
		"answer without version":    {query: "main", fault: serves(`{"Time":"2024-01-02T03:04:05Z"}`), asked: "info", silent: true},
		"answer that is no version": {query: "main", fault: serves(`{"Version":"main"}`), asked: "info"},
	} {
		t.Run(name, func(t *testing.T) {
			asBoth(t, func(t *testing.T, c *client) {
				c.base.Add(modfetchtest.NewModule(path, "v1.0.0"))
				c.base.Add(modfetchtest.NewModule(path, pseudo).File("m.go", "package m\n").
					File(".info", `{"Version":"`+pseudo+`","Time":"2024-01-02T03:04:05Z","Origin":{"VCS":"git","Ref":"refs/heads/main"}}`))
				c.a.Fault("*/main.info", q.fault)
				o := c.ask(t, path, q.query)
				want := either(c, q.want, q.goWant)
				if o.version != want || (o.err == nil) != (want != "" || c.isGo() && q.silent) {
					t.Errorf("version %q, error %s, want %q", o.version, o.says, want)
				}
				if o.a != q.asked {
					t.Errorf("asked for %q, want %q", o.a, q.asked)
				}
				if want != "" && !c.has("cache/download/"+path+"/@v/"+want+".info") {
					t.Error("the answer was not kept under the version's name")
				}
				for _, name := range files(t, c.modCache()) {
					if strings.Contains(name, "main") || strings.Contains(name, "meta") || strings.Contains(name, "abcdef0.") {
						t.Errorf("%s was kept", name)
					}
				}
				if !c.isGo() && o.kind == modfetch.NotFound && q.query != "other" {
					t.Errorf("error %s looks like an absence", o.says)
				}
			})
		})
	}
}
