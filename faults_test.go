package modfetch_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/modfetchtest"
	"golang.org/x/mod/module"
)

// A matrixFault is one way in which a mirror fails, and what comes of it. All of it is written down here, not observed.
type matrixFault struct {
	name  string
	paths string // that meet with the fault, separated by spaces
	fault modfetchtest.Fault

	// at, if it is set, returns the URL of a mirror that has the fault on real sockets. The others fail in fake time.
	at func(t testing.TB, s *modfetchtest.Server, i int) string

	kind modfetch.Kind // of the error where both mirrors have the fault

	// A zip may come from a mirror that has the fault, alone or together with another: "proven" if there is a hash to hold
	// it against, "exempt" if there is none.
	zips string

	unseen bool // where nobody vouches, also if both have it
}

var matrixFaults = []matrixFault{
	{name: "unknown host", at: nobodyAt("http://nowhere.test", "http://elsewhere.test"), kind: modfetch.Transient},
	{name: "refused", at: nobodyAt("http://127.0.0.1:1", "http://127.0.0.1:2"), kind: modfetch.Transient},
	{name: "black hole", paths: "*", fault: modfetchtest.Hang(), kind: modfetch.Transient},
	{name: "reset", paths: "*", fault: modfetchtest.Reset(), at: plainServer, kind: modfetch.Transient},
	{name: "unknown CA", at: strangeServer, kind: modfetch.Security},
	{name: "403", paths: "*", fault: modfetchtest.Status(403), kind: modfetch.Forbidden},
	{name: "404", paths: "*", fault: modfetchtest.Status(404), kind: modfetch.NotFound},
	{name: "429", paths: "*", fault: modfetchtest.Status(429).Header("Retry-After", "7"), kind: modfetch.Transient},
	{name: "500", paths: "*", fault: modfetchtest.Status(500), kind: modfetch.Transient},
	{name: "HTML", paths: "*", fault: modfetchtest.HTML(), kind: modfetch.Corrupt},
	{name: "truncated", paths: "*", fault: modfetchtest.Truncate(-1), kind: modfetch.Transient, zips: "proven"},
	{name: "changed byte", paths: "*.zip /example.com/*.mod", fault: modfetchtest.Corrupt(), kind: modfetch.Corrupt,
		zips: "exempt", unseen: true}, // of a go.mod file it would be seen: TestChangedGoModWhereNobodyVouches
	{name: "stall", paths: "*", fault: modfetchtest.Stall(10), kind: modfetch.Transient, zips: "proven"},
	{name: "wrong .info", paths: "*.info", fault: modfetchtest.WrongVersion("v9.9.9"), kind: modfetch.Corrupt, zips: "proven exempt"},
}

var (
	exemptModule  = module.Version{Path: "exempt.test/e", Version: "v1.0.0"}
	routedModule  = module.Version{Path: "routed.test/r", Version: "v1.0.0"}
	privateModule = module.Version{Path: "private.test/p", Version: "v1.0.0"}
	matrixModules = []module.Version{moduleM, moduleUpper, exemptModule, routedModule, privateModule}
)

// TestFaultMatrix downloads modules from two mirrors that are joined by `|`, of which one or both have a fault: one module
// that go.sum vouches for, one that the database does, one exempt by GONOSUMDB, one that has a route to a third mirror, and
// one that GOPRIVATE keeps from all of them.
func TestFaultMatrix(t *testing.T) {
	goCommand := needGo(t)
	origin := newWorld(t)
	for _, m := range matrixModules[2:] {
		origin.Add(modfetchtest.NewModule(m.Path, m.Version).File("f.go", "package f\n"))
	}
	sums, err := modfetch.ParseGoSum("go.sum", []byte(origin.GoSum(moduleM.Path, moduleM.Version)))
	if err != nil {
		t.Fatal(err)
	}
	theirs := tempDir(t)
	args := []string{"mod", "download"}
	for _, m := range matrixModules {
		args = append(args, m.String())
	}
	runGo(t, goCommand, append(origin.Env(t), "GOMODCACHE="+theirs, "GOFLAGS=", "GONOSUMDB=*.test"), args...)
	oracle, names := snapshot(t, theirs), files(t, theirs)

	t.Setenv("PATH", "") // without a go command `direct` fails at once
	cells := 0
	for _, fault := range matrixFaults {
		for position, faulty := range map[string][2]bool{"first": {true, false}, "second": {false, true}, "both": {true, true}} {
			for name, strategy := range map[string]modfetch.Strategy{
				"chain": modfetch.Chain(), "stagger": modfetch.Stagger(300 * time.Millisecond), "race": modfetch.Race(),
			} {
				cells++
				t.Run(fault.name+", "+position+", "+name, func(t *testing.T) {
					c := &cell{matrixFault: fault, faulty: faulty, strategy: strategy, origin: origin, sums: sums, oracle: oracle, names: names}
					c.start(t)
				})
			}
		}
	}
	if cells != 14*3*3 {
		t.Errorf("%d cells", cells)
	}
}

// TestChangedGoModWhereNobodyVouches: what a mirror that lies about the go.mod file has sent must not be held against the
// next one, nor stay.
func TestChangedGoModWhereNobodyVouches(t *testing.T) {
	s := newWorld(t)
	s.Add(modfetchtest.NewModule(exemptModule.Path, exemptModule.Version).File("f.go", "package f\n"))
	liar, honest := s.Mirror(), s.Mirror()
	liar.Fault("*.mod", modfetchtest.Corrupt())
	f, _ := newFetcher(t, modfetch.WithGoEnv(modfetch.GoEnv{GONOSUMDB: "exempt.test"}), modfetch.WithSumDB(s.GOSUMDB()),
		modfetch.WithGOPROXY(liar.URL+"|"+honest.URL))
	m := download(t, f, exemptModule)[exemptModule.Path]
	if m.Mirror != honest.URL {
		t.Errorf("from %q, want %s", m.Mirror, honest.URL)
	}
	kept, err := os.ReadFile(m.GoMod)
	lines := s.GoSum(exemptModule.Path, exemptModule.Version)
	if err != nil || string(kept) != "module "+exemptModule.Path+"\n" || m.GoModSum == "" || !strings.Contains(lines, m.GoModSum) {
		t.Errorf("the go.mod file is %q, %v, its sum %s; want\n%s", kept, err, m.GoModSum, lines)
	}
	for _, i := range f.Mirrors() {
		if i.Mirror == honest.URL && len(i.Failures) > 0 {
			t.Errorf("the honest one is said to have failed: %v", i.Failures)
		}
	}
}

// A cell is one fault at one place under one strategy. It is the transport of its Fetcher.
type cell struct {
	matrixFault
	faulty   [2]bool
	strategy modfetch.Strategy
	origin   *modfetchtest.Server
	sums     *modfetch.GoSum
	oracle   map[string]string // what the go command leaves in a module cache
	names    []string          // of its files, those of the checksum database among them

	servers   [3]*modfetchtest.Server // first, second, and the third one, of the route
	urls      [3]string
	transport http.Transport

	mu      sync.Mutex          // guards the following
	asked   map[string][]string // paths that were sent to a host, whether or not it is there
	started int                 // attempts
	ended   []modfetch.AttemptInfo
}

func (c *cell) start(t *testing.T) {
	c.asked = make(map[string][]string)
	for i, name := range []string{"first", "second", "third"} {
		c.servers[i], c.urls[i] = c.origin.Mirror(), "http://"+name+".test"
		t.Cleanup(c.servers[i].Close)
		at := c.at
		if i == 2 || !c.faulty[i] {
			at = plainServer
		} else {
			for pattern := range strings.FieldsSeq(c.paths) {
				c.servers[i].Fault(pattern, c.fault)
			}
		}
		if c.at != nil {
			c.urls[i] = at(t, c.servers[i], i)
		}
	}
	if c.at == nil {
		synctest.Test(t, func(t *testing.T) {
			c.transport.DialContext = c.dialPipe(t)
			c.run(t, synctest.Wait)
		})
		return
	}
	c.transport.DialContext = (&net.Dialer{Resolver: emptyResolver(t)}).DialContext
	c.run(t, func() { time.Sleep(time.Millisecond) }) // for the servers' ends of the connections
}

// dialPipe starts the servers without sockets, so that time is fake and only theirs.
func (c *cell) dialPipe(t testing.TB) func(ctx context.Context, _, addr string) (net.Conn, error) {
	listeners := make(map[string]pipeListener)
	for i, s := range c.servers {
		l := make(pipeListener)
		listeners[strings.TrimPrefix(c.urls[i], "http://")+":80"] = l
		server := &http.Server{Handler: s}
		go server.Serve(l) // until Close
		t.Cleanup(func() { server.Close() })
	}
	return func(ctx context.Context, _, addr string) (net.Conn, error) {
		l := listeners[addr]
		if l == nil {
			return nil, errors.New("connection refused")
		}
		here, there := net.Pipe()
		l <- there
		return here, nil
	}
}

type pipeListener chan net.Conn

func (l pipeListener) Accept() (net.Conn, error) {
	conn, ok := <-l
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (l pipeListener) Close() error   { close(l); return nil }
func (l pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

func (c *cell) RoundTrip(r *http.Request) (*http.Response, error) {
	c.mu.Lock()
	c.asked[r.URL.Host] = append(c.asked[r.URL.Host], r.URL.Path)
	c.mu.Unlock()
	return c.transport.RoundTrip(r)
}

// run downloads everything and checks what came of it. It calls settle until all goroutines have ended.
func (c *cell) run(t *testing.T, settle func()) {
	dir, temp := tempDir(t), t.TempDir()
	t.Setenv("TMPDIR", temp)
	before := goroutines()
	f, err := modfetch.New(modfetch.WithGOPROXY(c.urls[0]+"|"+c.urls[1]), modfetch.WithStrategy(c.strategy),
		modfetch.WithGoEnv(modfetch.GoEnv{GOPRIVATE: "private.test", GONOSUMDB: "private.test,exempt.test"}),
		modfetch.WithRoute("routed.test", c.urls[2]), modfetch.WithGoSum(c.sums), modfetch.WithSumDB(c.origin.GOSUMDB()),
		modfetch.WithModCache(dir), modfetch.WithHTTPClient(&http.Client{Transport: c}), modfetch.WithTrace(&modfetch.Trace{
			AttemptStarted: func(context.Context, modfetch.AttemptInfo) {
				c.mu.Lock()
				defer c.mu.Unlock()
				c.started++
			},
			AttemptDone: func(_ context.Context, i modfetch.AttemptInfo) {
				c.mu.Lock()
				defer c.mu.Unlock()
				c.ended = append(c.ended, i)
			},
		}))
	if err != nil {
		t.Fatal(err)
	}
	left := slices.Clone(matrixModules)
	for m, err := range f.Download(t.Context(), matrixModules) {
		left = slices.DeleteFunc(left, func(o module.Version) bool { return o == m.Version })
		c.checkModule(t, m, err)
	}
	if len(left) > 0 {
		t.Errorf("nothing came of %v", left)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	running := goroutines()
	for n := 0; n < 1000 && len(running) > 0; n++ {
		c.transport.CloseIdleConnections()
		settle()
		running = goroutines()
		maps.DeleteFunc(running, func(id, _ string) bool { return before[id] != "" })
	}
	if len(running) > 0 {
		t.Errorf("goroutines left: %q", running)
	}
	c.checkAttempts(t, f)
	c.checkPrivacy(t)
	c.checkFiles(t, dir, temp)
}

// goroutines returns the stacks of all goroutines.
func goroutines() map[string]string {
	stacks := make([]byte, 1<<20)
	out := make(map[string]string)
	for stack := range strings.SplitSeq(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
		id, _, _ := strings.Cut(stack, " [")
		out[id] = stack
	}
	return out
}

// want says what becomes of a module: it comes from one of the mirrors by, or fails with the kind.
func (c *cell) want(m module.Version) (by []string, kind modfetch.Kind) {
	how := "proven"
	switch m {
	case privateModule:
		return nil, modfetch.Forbidden // `direct` has no go command
	case routedModule:
		return c.urls[2:], ""
	case exemptModule:
		how = "exempt"
	}
	switch unseen := c.unseen && how == "exempt"; {
	case c.faulty == [2]bool{true, true} && !unseen:
		return nil, c.kind
	case strings.Contains(c.zips, how):
		return c.urls[:2], ""
	case c.faulty[0]:
		return c.urls[1:2], ""
	}
	return c.urls[:1], ""
}

func (c *cell) checkModule(t *testing.T, m modfetch.Module, err error) {
	by, kind := c.want(m.Version)
	if modfetch.KindOf(err) != kind {
		t.Errorf("%s: kind %q, want %q: %v", m.Version, modfetch.KindOf(err), kind, err)
		return
	}
	if absent := errors.Is(err, fs.ErrNotExist); absent != (kind == modfetch.NotFound) {
		t.Errorf("%s: absent is %t: %v", m.Version, absent, err)
	}
	if err != nil {
		var failed *modfetch.FetchError
		if !errors.As(err, &failed) {
			t.Fatalf("%s: %T, want a FetchError: %v", m.Version, err, err)
		}
		asked := []string{"direct"}
		if m.Version != privateModule {
			asked = c.urls[:2]
		}
		for _, url := range asked {
			if !slices.ContainsFunc(failed.Attempts, func(a modfetch.Attempt) bool { return a.Mirror == url }) {
				t.Errorf("%s: the error does not say what became of %s: %v", m.Version, url, err)
			}
		}
		for _, a := range failed.Attempts {
			if a.Kind != kind && !c.excused(a.Mirror, a.Err) || !slices.Contains(asked, a.Mirror) {
				t.Errorf("%s: attempt at %s: kind %q, want %q: %v", m.Version, a.Mirror, a.Kind, kind, a.Err)
			}
		}
		return
	}
	if !slices.Contains(by, m.Mirror) {
		t.Errorf("%s: from %s, want %s", m.Version, m.Mirror, by)
	}
	name, _, _ := strings.Cut(c.origin.GOSUMDB(), "+")
	want := map[module.Version][2]string{moduleM: {"go.sum", ""}, moduleUpper: {name, ""},
		exemptModule: {"", "GONOSUMDB=private.test,exempt.test"}, routedModule: {"", `WithRoute("routed.test")`}}[m.Version]
	if m.VerifiedBy != want[0] || m.GoModVerifiedBy != want[0] || m.Unverified != want[1] {
		t.Errorf("%s: verified by %q and %q, unverified %q; want %q", m.Version, m.VerifiedBy, m.GoModVerifiedBy, m.Unverified, want)
	}
	if m.Dir == "" || m.Zip == "" || m.GoMod == "" || m.Info == "" {
		t.Errorf("%s: not all files are there: %+v", m.Version, m)
	}
}

// checkAttempts checks that whoever is honest is not said to have failed, and that others are said to have failed as they
// did. Who was overtaken has not failed.
func (c *cell) checkAttempts(t *testing.T, f *modfetch.Fetcher) {
	failures := 0
	for _, i := range c.ended {
		switch {
		case i.Kind == modfetch.Canceled:
		case c.honest(i.Mirror):
			if i.Err != nil && !c.excused(i.Mirror, i.Err) {
				t.Errorf("%s, which is honest: %s: %s: %v", i.Mirror, i.Path, i.Kind, i.Err)
			}
		case !slices.Contains(c.urls[:], i.Mirror): // the database's own host
		case i.Err == nil:
			if c.zips == "" {
				t.Errorf("%s, which cannot have it, is said to have sent %s", i.Mirror, i.Path)
			}
		default:
			if failures++; i.Kind != c.kind && !c.excused(i.Mirror, i.Err) {
				t.Errorf("%s: %s: kind %q, want %q: %v", i.Mirror, i.Path, i.Kind, c.kind, i.Err)
			}
		}
	}
	if c.started != len(c.ended) {
		t.Errorf("%d attempts were begun, and %d ended", c.started, len(c.ended))
	}
	if failures == 0 && c.faulty[0] && c.strategy == modfetch.Chain() {
		t.Error("nobody has failed")
	}
	for _, i := range f.Mirrors() {
		if c.at == nil && c.honest(i.Mirror) && len(i.Failures) > 0 {
			t.Errorf("%s is honest, but is said to have failed: %v", i.Mirror, i.Failures)
		}
	}
}

func (c *cell) honest(mirror string) bool {
	i := slices.Index(c.urls[:], mirror)
	return i == 2 || i >= 0 && !c.faulty[i]
}

// excused reports whether an attempt was ended for another reason than the fault: because of what the mirror has sent
// before, or, where time is real, because this machine was busy.
func (c *cell) excused(mirror string, err error) bool {
	return c.kind == modfetch.Corrupt && !c.honest(mirror) && strings.HasPrefix(err.Error(), "given up, because other files") ||
		c.at != nil && strings.HasPrefix(err.Error(), "no answer within")
}

// checkPrivacy looks into all request logs.
func (c *cell) checkPrivacy(t *testing.T) {
	database, _, _ := strings.Cut(c.origin.GOSUMDB(), "+")
	roles := map[string]string{database: "database"}
	for i, role := range []string{"first", "second", "third"} {
		_, host, _ := strings.Cut(c.urls[i], "://")
		roles[host] = role
		c.asked[host] = append(c.asked[host], c.servers[i].Requests()...) // in case something was asked in another way
	}
	seen := make(map[string]bool)
	for host, paths := range c.asked {
		for _, path := range paths {
			role, lookup := roles[host], strings.HasPrefix(path, "/sumdb/") || roles[host] == "database"
			seen[strings.Split(path, "/")[1]] = true
			may := lookup && role != "third" // tiles and heads name no path
			switch {
			case role == "", strings.Contains(path, "private.test"):
				may = false
			case strings.Contains(path, "routed.test"):
				may = role == "third" && !lookup
			case strings.Contains(path, "exempt.test"):
				// In list order, so that the second is asked only if the first has failed. On real sockets it may be slow.
				may = !lookup && (role == "first" || role == "second" && (c.faulty[0] || c.at != nil))
			case strings.Contains(path, "example.com"):
				may = role != "third"
			}
			if !may {
				t.Errorf("%s, the %s mirror, was asked for %s", host, role, path)
			}
		}
	}
	for _, must := range []string{"routed.test", "exempt.test", "example.com"} {
		if !seen[must] {
			t.Errorf("nobody was asked for anything in %s", must)
		}
	}
}

// checkFiles holds the module cache against what the go command leaves there, byte for byte, but for what is missing
// because it failed.
func (c *cell) checkFiles(t *testing.T, dir, temp string) {
	for name, what := range snapshot(t, dir) {
		if want, ok := c.oracle[name]; !ok {
			t.Errorf("left behind: %s", name)
		} else if what != want && !(c.unseen && strings.Contains(name, "exempt.test")) {
			t.Errorf("%s: %.100q, want %.100q", name, what, want)
		}
	}
	for _, name := range append(files(t, dir), files(t, temp)...) {
		if !slices.Contains(c.names, name) && !strings.HasPrefix(name, "cache/modfetch/sumdb/") { // the tree head
			t.Errorf("left behind: %s", name)
		}
	}
}

func plainServer(_ testing.TB, s *modfetchtest.Server, _ int) string { return s.URL }

// nobodyAt returns URLs at which nobody is.
func nobodyAt(urls ...string) func(testing.TB, *modfetchtest.Server, int) string {
	return func(_ testing.TB, _ *modfetchtest.Server, i int) string { return urls[i] }
}

// strangeServer has a certificate that nobody knows.
func strangeServer(t testing.TB, s *modfetchtest.Server, _ int) string {
	server := httptest.NewUnstartedServer(s)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL
}

// emptyResolver asks a name server on this machine that knows no name.
func emptyResolver(t testing.TB) *net.Resolver {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() { // until conn is closed
		buf := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if n > 3 {
				buf[2] |= 0x80 // an answer
				buf[3] = 3     // NXDOMAIN
				conn.WriteTo(buf[:n], from)
			}
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}
