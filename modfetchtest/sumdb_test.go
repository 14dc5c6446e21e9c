package modfetchtest_test

import (
	"fmt"
	"io/fs"
	"maps"
	"strings"
	"sync"
	"testing"

	"github.com/modfetch/modfetch/modfetchtest"
	"golang.org/x/mod/sumdb"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func databaseName(s *modfetchtest.Server) string {
	name, _, _ := strings.Cut(s.GOSUMDB(), "+")
	return name
}

// clientOps is a sumdb.ClientOps in memory, over the database at url.
type clientOps struct {
	key, url string
	next     string // the URL to ask for what is not at the first; "" is none

	mu       sync.Mutex // guards the fields below
	config   map[string][]byte
	cache    map[string][]byte
	security string // the last security error
}

func newClientOps(s *modfetchtest.Server) *clientOps {
	return &clientOps{
		key:    s.GOSUMDB(),
		url:    s.URL + "/sumdb/" + databaseName(s),
		config: make(map[string][]byte),
		cache:  make(map[string][]byte),
	}
}

func (c *clientOps) ReadRemote(path string) ([]byte, error) {
	resp, body, err := request("GET", c.url+path)
	if err == nil && resp.StatusCode == 404 && c.next != "" {
		resp, body, err = request("GET", c.next+path)
	}
	if err == nil && resp.StatusCode != 200 {
		err = fmt.Errorf("%s: %s", path, resp.Status)
	}
	return []byte(body), err
}

func (c *clientOps) ReadConfig(file string) ([]byte, error) {
	if file == "key" {
		return []byte(c.key), nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.config[file], nil
}

func (c *clientOps) WriteConfig(file string, old, new []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if string(c.config[file]) != string(old) {
		return sumdb.ErrWriteConflict
	}
	c.config[file] = new
	return nil
}

func (c *clientOps) ReadCache(file string) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if data, ok := c.cache[file]; ok {
		return data, nil
	}
	return nil, fs.ErrNotExist
}

func (c *clientOps) WriteCache(file string, data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cache[file] = data
}

func (c *clientOps) Log(string) {}

func (c *clientOps) SecurityError(msg string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.security = msg
}

// lookup asks with a client of its own, because a client remembers its failures; what ops holds it keeps.
func lookup(ops *clientOps, path, version string) (string, error) {
	lines, err := sumdb.NewClient(ops).Lookup(path, version)
	return strings.Join(lines, "\n") + "\n", err
}

func TestDatabaseNameCarriesTheKey(t *testing.T) {
	a, b := modfetchtest.NewServer(t, nil), modfetchtest.NewServer(t, nil)
	if databaseName(a) == databaseName(b) {
		t.Errorf("two servers have databases of one name, %s", databaseName(a))
	}
	if !strings.HasSuffix(databaseName(a), ".modfetch.test") {
		t.Errorf("name %s may resolve", databaseName(a))
	}
	if want := a.GOSUMDB() + " " + a.URL + "/sumdb/" + databaseName(a); a.GOSUMDBDirect() != want {
		t.Errorf("GOSUMDBDirect is %q, want %q", a.GOSUMDBDirect(), want)
	}
	if resp, _ := get(t, a.URL+"/sumdb/"+databaseName(a)+"/supported"); resp.StatusCode != 200 {
		t.Errorf("supported: status %d", resp.StatusCode)
	}
}

func TestLookupInALargeTree(t *testing.T) {
	s := modfetchtest.NewServer(t, testdata())
	s.AddRecords(70_000)
	s.Add(modfetchtest.NewModule("example.com/late", "v1.0.0"))
	s.AddRecords(1_000)
	ops := newClientOps(s)
	for _, m := range []struct{ path, version string }{
		{"example.com/m", "v1.0.0"},
		{"example.com/Odd/under_score", "v1.2.3"},
		{"example.com/m/v2", "v2.1.0-RC.1"},
		{"example.com/old", "v3.0.0+incompatible"},
		{"example.com/late", "v1.0.0"},
	} {
		want, _, _ := strings.Cut(s.GoSum(m.path, m.version), "\n")
		if got, err := lookup(ops, m.path, m.version); err != nil || got != want+"\n" {
			t.Errorf("%s@%s: %q, %v; want %q", m.path, m.version, got, err, want)
		}
		_, want, _ = strings.Cut(s.GoSum(m.path, m.version), "\n")
		if got, err := lookup(ops, m.path, m.version+"/go.mod"); err != nil || got != want {
			t.Errorf("%s@%s/go.mod: %q, %v; want %q", m.path, m.version, got, err, want)
		}
	}
	if _, err := lookup(ops, "filler.modfetch.test/r69999", "v1.0.0"); err != nil {
		t.Error(err)
	}
	// The head of a smaller tree, seen before, is proven to be a prefix.
	s.AddRecords(300)
	if _, err := lookup(ops, "filler.modfetch.test/r71200", "v1.0.0"); err != nil || ops.security != "" {
		t.Errorf("after growth: %v\n%s", err, ops.security)
	}
	for _, level := range []string{"*/tile/8/0/*.p/*", "*/tile/8/0/*", "*/tile/8/1/*", "*/tile/8/2/*"} {
		if s.Count(level) == 0 {
			t.Errorf("no tile %s was asked for", level)
		}
	}
}

func TestTiles(t *testing.T) {
	s := modfetchtest.NewServer(t, nil)
	s.AddRecords(70_000)
	verifier, err := note.NewVerifier(s.GOSUMDB())
	if err != nil {
		t.Fatal(err)
	}
	_, head := get(t, s.URL+"/sumdb/"+databaseName(s)+"/latest")
	n, err := note.Open([]byte(head), note.VerifierList(verifier))
	if err != nil {
		t.Fatal(err)
	}
	tree, err := tlog.ParseTree([]byte(n.Text))
	if err != nil || tree.N != 70_000 {
		t.Fatalf("tree of %d records, %v", tree.N, err)
	}
	for path, status := range map[string]int{
		"tile/8/0/000":                          200,
		"tile/8/0/272":                          200,
		"tile/8/0/273":                          404, // not yet full
		"tile/8/0/273.p/112":                    200,
		"tile/8/0/273.p/113":                    404,
		"tile/8/0/274.p/1":                      404,
		"tile/8/1/000":                          200,
		"tile/8/1/001.p/17":                     200,
		"tile/8/1/001.p/18":                     404,
		"tile/8/2/000.p/1":                      200,
		"tile/8/2/000.p/2":                      404,
		"tile/8/3/000.p/1":                      404,
		"tile/8/63/000.p/1":                     404,
		"tile/30/63/000.p/1":                    404,
		"tile/8/0/x999/x999/x999/x999/999":      404,
		"tile/8/data/000":                       200,
		"tile/8/data/273.p/112":                 200,
		"tile/8/data/273.p/113":                 404,
		"tile/8/data/x999/x999/x999/999":        404,
		"tile/30/data/x999/x999/x999/999":       404,
		"tile/30/data/x008/x589/x934/592.p/1":   404, // would start at -1<<63
		"tile/8/0/0":                            400,
		"lookup/example.com/none@v1.0.0":        404,
		"lookup/example.com/none":               400,
		"lookup/filler.modfetch.test/r0@v1.0.0": 200,
	} {
		if resp, body := get(t, s.URL+"/sumdb/"+databaseName(s)+"/"+path); resp.StatusCode != status {
			t.Errorf("%s: %d %q, want %d", path, resp.StatusCode, body, status)
		}
	}
}

func TestUnlisted(t *testing.T) {
	s := modfetchtest.NewServer(t, nil)
	s.Add(modfetchtest.NewModule("example.com/private", "v1.0.0").Unlisted())
	if _, err := lookup(newClientOps(s), "example.com/private", "v1.0.0"); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("lookup: %v, want a 404", err)
	}
	if resp, _ := get(t, s.URL+"/example.com/private/@v/list"); resp.StatusCode != 200 {
		t.Errorf("list: %d", resp.StatusCode)
	}
}

func TestAddedAgain(t *testing.T) {
	s := modfetchtest.NewServer(t, nil)
	s.Add(modfetchtest.NewModule("example.com/m", "v1.0.0"))
	listed, _, _ := strings.Cut(s.GoSum("example.com/m", "v1.0.0"), "\n")
	s.Add(modfetchtest.NewModule("example.com/m", "v1.0.0").File("m.go", "package m\n"))
	if served, _, _ := strings.Cut(s.GoSum("example.com/m", "v1.0.0"), "\n"); served == listed {
		t.Errorf("still served with %s", served)
	}
	if got, err := lookup(newClientOps(s), "example.com/m", "v1.0.0"); err != nil || got != listed+"\n" {
		t.Errorf("listed with %q, %v; want %q", got, err, listed)
	}
}

func TestLieAbout(t *testing.T) {
	s := modfetchtest.NewServer(t, testdata())
	const sum = "h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	ops := newClientOps(s)
	if _, err := lookup(ops, "example.com/m", "v1.0.0"); err != nil {
		t.Fatal(err)
	}
	s.LieAbout("example.com/m", "v1.0.0", sum)
	s.LieAbout("example.com/tree", "v1.0.0/go.mod", sum)
	s.LieAbout("example.com/none", "v1.0.0", sum)
	truth := strings.Fields(s.GoSum("example.com/m", "v1.0.0") + s.GoSum("example.com/tree", "v1.0.0"))
	clear(ops.cache) // the record seen, not the head: that must still be a prefix
	for _, test := range []struct{ name, path, version, want string }{
		{"zip", "example.com/m", "v1.0.0", sum},
		{"go.mod beside it", "example.com/m", "v1.0.0/go.mod", truth[5]},
		{"go.mod", "example.com/tree", "v1.0.0/go.mod", sum},
		{"zip beside it", "example.com/tree", "v1.0.0", truth[8]},
		{"module that does not exist", "example.com/none", "v1.0.0", sum},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got, err := lookup(ops, test.path, test.version); err != nil || !strings.HasSuffix(got, " "+test.want+"\n") {
				t.Errorf("%q, %v, want %s", got, err, test.want)
			}
		})
	}
	if ops.security != "" {
		t.Errorf("the log is not consistent: %s", ops.security)
	}
}

func TestFork(t *testing.T) {
	s := modfetchtest.NewServer(t, testdata())
	s.AddRecords(600)
	seen := newClientOps(s) // what a client knows from before
	if _, err := lookup(seen, "example.com/m", "v1.0.0"); err != nil {
		t.Fatal(err)
	}
	fork := s.Fork()
	if fork.GOSUMDB() != s.GOSUMDB() {
		t.Fatal("the fork has another key")
	}
	for _, test := range []struct {
		name         string
		first, other *modfetchtest.Server
	}{
		{"original first", s, fork},
		{"fork first", fork, s},
	} {
		t.Run(test.name, func(t *testing.T) {
			ops := newClientOps(test.first)
			ops.config = maps.Clone(seen.config)
			if _, err := lookup(ops, "example.com/tree", "v1.0.0"); err != nil {
				t.Errorf("either history extends what was seen before, but: %v", err)
			}
			ops.url = newClientOps(test.other).url
			if _, err := lookup(ops, "example.com/old", "v3.0.0+incompatible"); err == nil || ops.security == "" {
				t.Errorf("a client of the one history follows the other: error %v, security message %q", err, ops.security)
			}
			test.other.AddRecords(1000) // growth does not heal it
			if _, err := lookup(ops, "example.com/old", "v3.0.0+incompatible"); err == nil {
				t.Error("a client of the one history follows the other once that has grown")
			}
		})
	}
	s.Add(modfetchtest.NewModule("example.com/m", "v1.0.1"))
	if fork.GoSum("example.com/m", "v1.0.1") != "" {
		t.Error("the fork has a version added later to the original")
	}
}

func TestLag(t *testing.T) {
	s := modfetchtest.NewServer(t, testdata())
	s.AddRecords(600)
	lag := s.Lag()
	s.LieAbout("example.com/m", "v1.0.0", "h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
	s.AddRecords(1000)
	lag.Add(modfetchtest.NewModule("example.com/late", "v1.0.0"))
	if lag.GOSUMDB() != s.GOSUMDB() {
		t.Fatal("it lags behind another database")
	}

	ops := newClientOps(s)
	if _, err := lookup(ops, "example.com/late", "v1.0.0"); err != nil {
		t.Errorf("a module added to the one that lags is not listed: %v", err)
	}
	ahead := string(ops.config[databaseName(s)+"/latest"])
	ops.next, ops.url = ops.url, newClientOps(lag).url // which has not the tiles of the tree that is ahead
	want, _, _ := strings.Cut(s.GoSum("example.com/m", "v1.0.0"), "\n")
	if got, err := lookup(ops, "example.com/m", "v1.0.0"); err != nil || got != want+"\n" || ops.security != "" {
		t.Errorf("what is old in a tree that lags: %q, %v, want %q\n%s", got, err, want, ops.security)
	}
	if head := string(ops.config[databaseName(s)+"/latest"]); head != ahead {
		t.Errorf("the client's head went back to %q", head)
	}
	for _, m := range []*modfetchtest.Server{lag, lag.Mirror(), lag.Lag()} {
		if _, err := lookup(newClientOps(m), "example.com/late", "v1.0.0"); err == nil || !strings.Contains(err.Error(), "404") {
			t.Errorf("a record that is newer: %v, want a 404", err)
		}
		if resp, _ := get(t, m.URL+"/example.com/late/@v/v1.0.0.zip"); resp.StatusCode != 200 {
			t.Errorf("the new module's zip: status %d", resp.StatusCode)
		}
		if m.Count("/sumdb/*/lookup/*") == 0 || m.Count("*.zip") != 1 {
			t.Errorf("requests %q", m.Requests())
		}
	}
	if s.Count("*.zip") != 0 || s.Count("/sumdb/*/lookup/example.com/m@*") != 0 {
		t.Errorf("the server that is ahead was asked for %q", s.Requests())
	}

	// One that has seen nothing newer goes on from there.
	ops = newClientOps(lag)
	if _, err := lookup(ops, "example.com/tree", "v1.0.0"); err != nil {
		t.Error(err)
	}
	ops.url = newClientOps(s).url
	if _, err := lookup(ops, "example.com/late", "v1.0.0"); err != nil || ops.security != "" {
		t.Errorf("from an older head: %v\n%s", err, ops.security)
	}
}

// TestEquivocation has one server tell the story of its database and that of a fork in turn.
func TestEquivocation(t *testing.T) {
	s := modfetchtest.NewServer(t, testdata())
	fork := s.Fork()
	ops := newClientOps(s)
	if _, err := lookup(ops, "example.com/m", "v1.0.0"); err != nil {
		t.Fatal(err)
	}
	asked := fork.Count("*")
	s.Fault("/sumdb/*", modfetchtest.Handler(fork.ServeHTTP))
	if _, err := lookup(ops, "example.com/tree", "v1.0.0"); err == nil || ops.security == "" {
		t.Errorf("error %v, security message %q", err, ops.security)
	}
	if asked != 0 || fork.Count("/sumdb/*/lookup/example.com/tree@v1.0.0") != 1 || s.Count("/sumdb/*/lookup/example.com/tree@v1.0.0") != 1 {
		t.Errorf("requests %q, and to the fork %q", s.Requests(), fork.Requests())
	}
}

func TestDatabaseThatIsNotServed(t *testing.T) {
	s := modfetchtest.NewServer(t, testdata())
	m := s.Mirror()
	m.Fault("/sumdb/*", modfetchtest.Status(404))
	for _, path := range []string{"/supported", "/latest", "/lookup/example.com/m@v1.0.0"} {
		if resp, _ := get(t, m.URL+"/sumdb/"+databaseName(m)+path); resp.StatusCode != 404 {
			t.Errorf("%s: status %d, want 404", path, resp.StatusCode)
		}
		if resp, _ := get(t, s.URL+"/sumdb/"+databaseName(s)+path); resp.StatusCode != 200 {
			t.Errorf("%s of the other: status %d, want 200", path, resp.StatusCode)
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	s := modfetchtest.NewServer(t, testdata())
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			path := fmt.Sprintf("example.com/c%d", i)
			s.Add(modfetchtest.NewModule(path, "v1.0.0"))
			s.AddRecords(20)
			s.Fault(path, modfetchtest.Status(500).Times(1))
			if _, err := lookup(newClientOps(s), path, "v1.0.0"); err != nil {
				t.Error(err)
			}
			if resp, _, err := request("GET", s.URL+"/"+path+"/@v/list"); err != nil || resp.StatusCode != 200 {
				t.Errorf("%v, %v", resp, err)
			}
			s.LieAbout(path, "v1.0.0", "h1:")
			if fork := s.Fork(); fork.Count("*") != 0 || s.Mirror().URL == s.Lag().URL {
				t.Error("a new server has a log")
			}
		})
	}
	wg.Wait()
}
