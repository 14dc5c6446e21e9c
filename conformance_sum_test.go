package modfetch_test

import (
	"cmp"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/graph"
	"github.com/modfetch/modfetch/modfetchtest"
	"golang.org/x/mod/module"
)

const wrongSum = "h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="

// inModule makes the client ask from inside of a module that needs moduleM, with this go.sum.
func (c *client) inModule(t *testing.T, goSum string) {
	t.Helper()
	for name, text := range map[string]string{
		"go.mod":  "module corp.example/main\n\ngo 1.26\n\nrequire example.com/m v1.0.0\n",
		"go.sum":  goSum,
		"main.go": "package main\n\nimport _ \"example.com/m\"\n\nfunc main() {}\n",
	} {
		if err := os.WriteFile(filepath.Join(c.dir, name), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
}

// goModLine is the line of go.sum for moduleM's go.mod file.
func (c *client) goModLine() string {
	_, line, _ := strings.Cut(c.base.GoSum(moduleM.Path, moduleM.Version), "\n")
	return line
}

func TestGoSumOfGoModFilesIsEnoughForTheGraph(t *testing.T) { // case 2
	asBoth(t, func(t *testing.T, c *client) {
		c.inModule(t, c.goModLine())
		if c.isGo() {
			if out, stderr, err := c.runGo(t, "list", "-m", "all"); err != nil || string(out) != "corp.example/main\nexample.com/m v1.0.0\n" {
				t.Errorf("build list %s, %v\n%s", out, err, stderr)
			}
		} else {
			f, err := c.fetcher(t)
			if err != nil {
				t.Fatal(err)
			}
			g, err := graph.Load(t.Context(), f, filepath.Join(c.dir, "go.mod"), 0)
			if err != nil || !slices.Contains(g.Modules, moduleM) {
				t.Errorf("graph %+v, %v", g, err)
			}
		}
		// The go command also wants the time of each version that it lists.
		if files, sums := summary(c.a.Requests()); files != either(c, "mod", "mod info") || sums != "" {
			t.Errorf("asked for %q, and of the database for %q, want no zip and nothing", files, sums)
		}
		// The go command insists on a line for the zip, modfetch asks the database instead.
		if c.isGo() {
			_, stderr, err := c.runGo(t, "build", "-o", os.DevNull, ".")
			if err == nil || !strings.Contains(string(stderr), "missing go.sum entry") || c.a.Count("*.zip") > 0 {
				t.Errorf("error %v, %d zips asked for; want a missing go.sum entry\n%s", err, c.a.Count("*.zip"), stderr)
			}
		} else if o := c.ask(t, moduleM.Path, moduleM.Version); o.err != nil || o.sumA != "supported lookup tile" {
			t.Errorf("error %s, asked the database for %q", o.says, o.sumA)
		}
	})
}

func TestGoSumIsEnforcedWithoutADatabase(t *testing.T) { // case 27
	for name, q := range map[string]struct {
		goSum   func(*client) string
		a       string
		b, bToo string // of the go command, and of modfetch, which asks whether another mirror has the right bytes
	}{
		"zip": {func(c *client) string { return "example.com/m v1.0.0 " + wrongSum + "\n" + c.goModLine() }, "info mod zip", "", "zip"},
		"mod": {func(c *client) string { return "example.com/m v1.0.0/go.mod " + wrongSum + "\n" }, "info mod", "", "mod"},
	} {
		for _, setting := range []string{"GOSUMDB=off", "GONOSUMDB=example.com"} {
			t.Run(name+" "+setting, func(t *testing.T) {
				asBoth(t, func(t *testing.T, c *client) {
					c.inModule(t, q.goSum(c))
					c.set("GOPROXY=<a>|<b>", setting)
					o := c.ask(t, moduleM.Path, moduleM.Version)
					if o.err == nil || !strings.Contains(o.says, "checksum mismatch") || !strings.Contains(o.says, "go.sum") || !c.isGo() && o.kind != modfetch.Corrupt {
						t.Errorf("error of kind %q: %s", o.kind, o.says)
					}
					if o.a != q.a || o.b != either(c, q.bToo, q.b) || o.sumA != "" {
						t.Errorf("a was asked for %q and b for %q", o.a, o.b)
					}
					if c.has("cache/download/example.com/m/@v/v1.0.0.zip") || c.has("example.com/m@v1.0.0") {
						t.Error("the zip was kept")
					}
					if left := slices.ContainsFunc(files(t, c.modCache()), func(name string) bool { return strings.HasSuffix(name, ".tmp") }); left != (c.isGo() && name == "zip") {
						t.Errorf("a temporary file was left: %t", left) // by the go command, which ends at once
					}
				})
			})
		}
	}
}

func TestDatabaseContradictsAMirror(t *testing.T) { // case 28
	for name, q := range map[string]struct {
		list, corrupt  string
		b, goB         string
		fails, goFails bool
	}{
		"go.mod, bar":   {list: "<a>|<b>", corrupt: "*.mod", b: "mod", goB: "mod"},
		"go.mod, comma": {list: "<a>,<b>", corrupt: "*.mod", fails: true, goFails: true},
		"zip, bar":      {list: "<a>|<b>", corrupt: "*.zip", b: "zip", goFails: true}, // the go command judges it behind the loop
		"zip, comma":    {list: "<a>,<b>", corrupt: "*.zip", fails: true, goFails: true},
	} {
		t.Run(name, func(t *testing.T) {
			asBoth(t, func(t *testing.T, c *client) {
				c.set("GOPROXY=" + q.list)
				c.a.Fault(q.corrupt, modfetchtest.Corrupt())
				o := c.ask(t, moduleM.Path, moduleM.Version)
				if fails := either(c, q.fails, q.goFails); (o.err != nil) != fails || fails && !strings.Contains(o.says, "checksum mismatch") {
					t.Errorf("error %s, want one: %t", o.says, fails)
				}
				if want := either(c, q.b, q.goB); o.b != want {
					t.Errorf("b was asked for %q, want %q", o.b, want)
				}
			})
		})
	}
}

// wrongLookup answers every lookup with the record of moduleOld.
var wrongLookup = modfetchtest.Middleware(func(honest http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r = r.Clone(r.Context())
		before, _, _ := strings.Cut(r.URL.Path, "/lookup/")
		r.URL.Path = before + "/lookup/" + moduleOld.String()
		honest.ServeHTTP(w, r)
	})
})

func TestLookupThatAnswersForAnotherModule(t *testing.T) { // case 29
	for name, q := range map[string]struct {
		list           string
		fails, goFails bool
	}{
		"from the only mirror": {"<a>", true, true},
		"from all mirrors":     {"<b>|<a>", true, true},
		"from one mirror":      {"<a>|<b>", false, true}, // the go command reads the database at one mirror only
	} {
		t.Run(name, func(t *testing.T) {
			asBoth(t, func(t *testing.T, c *client) {
				c.set("GOPROXY=" + q.list)
				c.a.Fault("/sumdb/*/lookup/*", wrongLookup)
				if name == "from all mirrors" {
					c.b.Fault("/sumdb/*/lookup/*", wrongLookup)
				}
				o := c.ask(t, moduleM.Path, moduleM.Version)
				if fails := either(c, q.fails, q.goFails); (o.err != nil) != fails {
					t.Fatalf("error %s, want one: %t", o.says, fails)
				}
				if o.err == nil {
					return
				}
				if c.isGo() && !strings.Contains(o.says, "SECURITY ERROR") || !c.isGo() && o.kind != modfetch.Security {
					t.Errorf("error of kind %q: %s, want a security failure", o.kind, o.says)
				}
				if c.has("cache/download/example.com/m/@v/v1.0.0.mod") {
					t.Error("the go.mod file was kept")
				}
			})
		})
	}
}

func TestWhereTheDatabaseIsRead(t *testing.T) {
	const all = "supported lookup tile"
	for name, q := range map[string]struct {
		list             string
		path             string // of the database that meets with a fault; else whether it is supported
		a, b             int    // status; 0 is an honest answer
		sumA, sumB       string
		goSumA, goSumB   string // the same for the go command, where it differs
		fails, goFails   bool
		leaves, goLeaves bool // for the database's own host, which nobody can reach
	}{
		// case 30
		"supported by a":     {list: "<a>,<b>", sumA: all},
		"404 then supported": {list: "<a>,<b>", a: 404, sumA: "supported", sumB: all, goSumB: all},
		"500 before a comma": {list: "<a>,<b>", a: 500, sumA: "supported", fails: true, goFails: true, leaves: true},
		"403 before a comma": {list: "<a>,<b>", a: 403, sumA: "supported", fails: true, goFails: true, leaves: true},
		"500 before a bar":   {list: "<a>|<b>", a: 500, sumA: "supported", sumB: all, goSumB: all},
		"404 alone":          {list: "<a>", a: 404, sumA: "supported", fails: true, goFails: true, leaves: true, goLeaves: true},
		"500 alone":          {list: "<a>", a: 500, sumA: "supported", fails: true, goFails: true, leaves: true},
		// case 31
		"500 and 404":                  {list: "<a>|<b>", a: 500, b: 404, sumA: "supported", sumB: "supported", goSumB: "supported", fails: true, goFails: true, leaves: true},
		"500 and 404 and off":          {list: "<a>|<b>,off", a: 500, b: 404, sumA: "supported", sumB: "supported", goSumB: "supported", fails: true, goFails: true, leaves: true},
		"500 and 404 and direct":       {list: "<a>|<b>,direct", a: 500, b: 404, sumA: "supported", sumB: "supported", goSumB: "supported", fails: true, goFails: true, leaves: true, goLeaves: true},
		"lookup is 500 before a bar":   {list: "<a>|<b>", path: "/sumdb/*/lookup/*", a: 500, sumA: all, goSumA: "supported lookup", sumB: "supported lookup", goFails: true},
		"lookup is 404 before a comma": {list: "<a>,<b>", path: "/sumdb/*/lookup/*", a: 404, sumA: all, goSumA: "supported lookup", sumB: "supported lookup", goFails: true},
	} {
		t.Run(name, func(t *testing.T) {
			asBoth(t, func(t *testing.T, c *client) {
				c.set("GOPROXY=" + q.list)
				for s, status := range map[*modfetchtest.Server]int{c.a: q.a, c.b: q.b} {
					if status != 0 {
						s.Fault(cmp.Or(q.path, "/sumdb/*/supported"), modfetchtest.Status(status))
					}
				}
				o := c.ask(t, moduleM.Path, moduleM.Version)
				if fails := either(c, q.fails, q.goFails); (o.err != nil) != fails || fails && !strings.Contains(strings.ToLower(o.says), "verify") {
					t.Errorf("error %s, want one: %t", o.says, fails)
				}
				if !c.isGo() && o.kind == modfetch.NotFound {
					t.Errorf("error %s looks like an absence", o.says)
				}
				a, b := either(c, q.sumA, cmp.Or(q.goSumA, q.sumA)), either(c, q.sumB, q.goSumB)
				if o.sumA != a || o.sumB != b {
					t.Errorf("the database was asked at a for %q and at b for %q, want %q and %q", o.sumA, o.sumB, a, b)
				}
				c.leaves(t, o, either(c, q.leaves, q.goLeaves))
			})
		})
	}
}

// leaves holds that the database's own host was asked, or that nobody was, beside the mirrors.
func (c *client) leaves(t *testing.T, o outcome, want bool) {
	t.Helper()
	var hosts []string
	if want {
		name, _, _ := strings.Cut(c.base.GOSUMDB(), "+")
		hosts = []string{name}
	}
	if !slices.Equal(o.elsewhere, hosts) {
		t.Errorf("asked %q beside the mirrors, want %q", o.elsewhere, hosts)
	}
}

func TestOffDoesNotSpareTheDatabase(t *testing.T) { // case 32
	asBoth(t, func(t *testing.T, c *client) {
		sumDB := c.settings["GOSUMDB"]
		c.set("GOSUMDB=off")
		if o := c.ask(t, moduleM.Path, moduleM.Version); o.err != nil {
			t.Fatal(o.says)
		}
		c.set("GOSUMDB="+sumDB, "GOPROXY=off")
		o := c.ask(t, moduleM.Path, moduleM.Version)
		if o.err == nil || o.a != "" || !c.isGo() && o.kind == modfetch.NotFound {
			t.Errorf("error %s, asked a for %q", o.says, o.a)
		}
		c.leaves(t, o, true)
	})
}

func TestLookupsOfPathsThatMirrorsMustNotSee(t *testing.T) {
	asBoth(t, func(t *testing.T, c *client) {
		sumDB := c.settings["GOSUMDB"]
		c.set("GOSUMDB=off")
		if o := c.ask(t, moduleM.Path, moduleM.Version); o.err != nil {
			t.Fatal(o.says)
		}
		c.set("GOSUMDB="+sumDB, "GONOPROXY=example.com")
		o := c.ask(t, moduleM.Path, moduleM.Version)
		// The go command tells the mirrors a path that is to be kept from them, modfetch only the database itself.
		if want := either(c, "", "supported lookup tile"); o.sumA != want || (o.err != nil) == c.isGo() {
			t.Errorf("asked for %q, want %q; error %s", o.sumA, want, o.says)
		}
		c.leaves(t, o, !c.isGo())
	})
}

func TestDamagedFilesOfTheDatabase(t *testing.T) {
	flip := func(data []byte) { data[0] ^= 1 }
	for name, q := range map[string]struct {
		glob, list string
		damage     func(data []byte)
		then       module.Version // asked for with the damage
	}{
		"tile":                             {"tile/8/0/*.p/*", "<a>|<b>", flip, moduleM},
		"tile, one mirror":                 {"tile/8/0/*.p/*", "<a>", flip, moduleM},
		"tile, unknown record":             {"tile/8/0/*.p/*", "<a>|<b>", flip, moduleV2},
		"tile, unknown record, one mirror": {"tile/8/0/*.p/*", "<a>", flip, moduleV2},
		"record":                           {"lookup/example.com/m@*", "<a>|<b>", flip, moduleM},
		"record, one mirror":               {"lookup/example.com/m@*", "<a>", flip, moduleM},
		"signature of a record":            {"lookup/example.com/m@*", "<a>", func(data []byte) { data[len(data)-9] ^= 1 }, moduleM},
	} {
		t.Run(name, func(t *testing.T) {
			asBoth(t, func(t *testing.T, c *client) {
				c.set("GOPROXY=" + q.list)
				if o := c.ask(t, moduleM.Path, moduleM.Version); o.err != nil {
					t.Fatal(o.says)
				}
				db, _, _ := strings.Cut(c.base.GOSUMDB(), "+")
				found, err := filepath.Glob(filepath.Join(c.modCache(), "cache/download/sumdb", db, q.glob))
				if err != nil || len(found) != 1 {
					t.Fatalf("found %q, %v", found, err)
				}
				data, err := os.ReadFile(found[0])
				if err != nil {
					t.Fatal(err)
				}
				q.damage(data)
				if err := os.WriteFile(found[0], data, 0o666); err != nil {
					t.Fatal(err)
				}
				// The go command fails until somebody removes the file.
				if o := c.ask(t, q.then.Path, q.then.Version); (o.err != nil) != c.isGo() {
					t.Errorf("error of kind %q: %s", o.kind, o.says)
				}
			})
		})
	}
}
