package modfetch_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/modfetchtest"
	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// What follows attacks the checksum database in a log of more than 70,000 records: full tiles at two levels, partial ones
// at three. Each attack says what kind of error it must end in, what is kept as evidence, and that the head stays.

// logSize has so many bits set that the client's proof of the tree needs many subtrees in few tiles; see
// TestForgedTilesOfAnOldAdvisory.
const logSize = 1<<16 + 1<<13 - 1

// newLog starts a world with a large database.
func newLog(t testing.TB) *modfetchtest.Server {
	t.Helper()
	s := newWorld(t)
	s.AddRecords(logSize - len(allModules))
	if size := shownHead(t, s).N; size != logSize {
		t.Fatalf("the log has %d records, not %d", size, logSize)
	}
	return s
}

// lookupReply returns what a server answers to a lookup.
func lookupReply(t testing.TB, s *modfetchtest.Server, m module.Version) []byte {
	t.Helper()
	return httpGet(t, s.URL+"/sumdb/"+databaseOf(s)+"/lookup/"+m.String())
}

// shownHead returns the tree that a server shows.
func shownHead(t testing.TB, s *modfetchtest.Server) tlog.Tree {
	t.Helper()
	_, head, _ := bytes.Cut(lookupReply(t, s, moduleM), []byte("\n\n"))
	tree, err := tlog.ParseTree(head)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// A goClient is a Fetcher with the state of a go command: its own GOPATH and module cache.
type goClient struct {
	*modfetch.Fetcher
	env    modfetch.GoEnv
	latest string // file of the kept head
	tiles  string // directory
}

// newGoClient makes a client of the mirrors in list, behind which nothing can be reached.
func newGoClient(t testing.TB, s *modfetchtest.Server, list string, opts ...modfetch.Option) *goClient {
	t.Helper()
	env := modfetch.GoEnv{GOPATH: t.TempDir(), GOMODCACHE: tempDir(t), GOPROXY: list, GOSUMDB: s.GOSUMDB()}
	return &goClient{
		Fetcher: newBareFetcher(t, append(opts, modfetch.WithGoEnv(env), (&homeHost{}).option())...),
		env:     env,
		latest:  filepath.Join(env.GOPATH, "pkg/sumdb", databaseOf(s), "latest"),
		tiles:   filepath.Join(stateDir(env.GOMODCACHE, s), "tile"),
	}
}

func (c *goClient) mustLookUp(t testing.TB, m module.Version) {
	t.Helper()
	if _, err := c.GoMod(t.Context(), m); err != nil {
		t.Fatal(err)
	}
}

// wantSecurity looks m up and wants an error of security that says so, evidence with so many signed heads, and the kept
// head as it was.
func (c *goClient) wantSecurity(t testing.TB, m module.Version, says string, heads int) {
	t.Helper()
	before, beforeErr := os.ReadFile(c.latest)
	_, err := c.GoMod(t.Context(), m)
	if modfetch.KindOf(err) != modfetch.Security || !strings.Contains(fmt.Sprint(err), says) {
		t.Fatalf("%s error %v, want one of security that says %q", modfetch.KindOf(err), err, says)
	}
	if after, afterErr := os.ReadFile(c.latest); !bytes.Equal(before, after) || os.IsNotExist(beforeErr) != os.IsNotExist(afterErr) {
		t.Errorf("the kept head went from %q (%v) to %q (%v)", before, beforeErr, after, afterErr)
	}
	evidence, _ := filepath.Glob(filepath.Join(filepath.Dir(c.latest), "evidence-*.txt"))
	if heads == 0 {
		if len(evidence) > 0 {
			t.Errorf("there is evidence %q of nothing", evidence)
		}
		return
	}
	if len(evidence) != 1 || !strings.Contains(err.Error(), evidence[0]) {
		t.Fatalf("evidence %q, of which the error says %v", evidence, err)
	}
	text, err := os.ReadFile(evidence[0])
	if got := strings.Count(string(text), "— "); err != nil || got != heads && heads > 0 {
		t.Errorf("%d signed heads in the evidence, want %d: %v\n%s", got, heads, err, text)
	}
}

// failLookups makes a mirror one that cannot be asked for records, but has all tiles.
func failLookups(s *modfetchtest.Server) { s.Fault("*/lookup/*", modfetchtest.Status(500)) }

func TestForkOfALargeLog(t *testing.T) {
	t.Parallel()
	origin := newLog(t)
	for name, grow := range map[string][2]int{
		"neither side has grown": {0, 0},
		"ours has grown":         {300, 0},
		"theirs has grown":       {0, 300},
		"both have grown":        {300, 600},
	} {
		for _, tiles := range []string{"with tiles", "without tiles"} {
			for _, list := range []string{"theirs alone", "ours first", "theirs first"} {
				t.Run(name+", "+tiles+", "+list, func(t *testing.T) {
					ours := origin.Fork()
					theirs := ours.Fork()
					c := newGoClient(t, ours, ours.URL)
					c.mustLookUp(t, moduleM)
					if tiles == "without tiles" {
						os.RemoveAll(c.tiles)
					}
					ours.AddRecords(grow[0])
					theirs.AddRecords(grow[1])
					if grow[0] > 0 {
						c.mustLookUp(t, moduleOld)
					}
					failLookups(ours)
					c.env.GOPROXY = map[string]string{"theirs alone": theirs.URL, "ours first": ours.URL + "|" + theirs.URL, "theirs first": theirs.URL + "|" + ours.URL}[list]
					c.Fetcher = newBareFetcher(t, modfetch.WithGoEnv(c.env), (&homeHost{}).option())
					c.wantSecurity(t, moduleV2, "two histories", 2)
				})
			}
		}
	}
}

// TestForkIsFoundBehindAnHonestAnswer: the record is proven through one mirror, but another has shown a head that the
// database must not have signed.
func TestForkIsFoundBehindAnHonestAnswer(t *testing.T) {
	t.Parallel()
	ours := newLog(t)
	theirs := ours.Fork()
	c := newGoClient(t, ours, ours.URL)
	c.mustLookUp(t, moduleM)
	theirs.AddRecords(300)
	// The first tile that is asked for at theirs is lost, so that the first attempt ends with tiles of both.
	theirs.Fault("*/tile/8/0/*.p/*", modfetchtest.Status(500).Times(2))
	c.env.GOPROXY = theirs.URL + "|" + ours.URL
	c.Fetcher = newBareFetcher(t, modfetch.WithGoEnv(c.env), (&homeHost{}).option())
	c.wantSecurity(t, moduleV2, "two histories", 2)
}

// TestMirrorsThatEquivocate: nothing was kept before, and each of two mirrors shows another history.
func TestMirrorsThatEquivocate(t *testing.T) {
	one := newLog(t)
	two := one.Fork()
	one.AddRecords(10)
	two.AddRecords(20)
	c := newGoClient(t, one, one.URL+"|"+two.URL)
	c.mustLookUp(t, moduleM)
	failLookups(one)
	c.wantSecurity(t, moduleV2, "two histories", 2)
	if _, err := c.GoMod(t.Context(), moduleM); modfetch.KindOf(err) != modfetch.Security {
		t.Errorf("a module looked up before: %v, want the database to be used no more", err)
	}
}

func TestRollbackAndLagAreStatedInRecords(t *testing.T) {
	s := newLog(t)
	old := lookupReply(t, s, moduleV2)
	s.AddRecords(300)
	fresh, lagging := s.Mirror(), s.Mirror()
	lagging.Fault("*/lookup/*", modfetchtest.Handler(func(w http.ResponseWriter, _ *http.Request) { w.Write(old) }))
	var mu sync.Mutex
	behind := make(map[string]int64)
	trace := &modfetch.Trace{Head: func(_ context.Context, i modfetch.HeadInfo) {
		mu.Lock()
		defer mu.Unlock()
		behind[i.Mirror] = i.Behind
		if i.Database != databaseOf(s) || i.Size != logSize+300-i.Behind {
			t.Errorf("%+v", i)
		}
	}}
	c := newGoClient(t, s, fresh.URL+"|"+lagging.URL, modfetch.WithTrace(trace))
	c.mustLookUp(t, moduleM)
	head, err := os.ReadFile(c.latest)
	if err != nil {
		t.Fatal(err)
	}
	failLookups(fresh)
	c.mustLookUp(t, moduleV2)
	if now, err := os.ReadFile(c.latest); err != nil || !bytes.Equal(now, head) {
		t.Errorf("the kept head went from %q to %q, %v", head, now, err)
	}
	if behind[fresh.URL] != 0 || behind[lagging.URL] != 300 {
		t.Errorf("behind by %v records, want 300 for %s", behind, lagging.URL)
	}
}

// latestOf returns the head that a server shows.
func latestOf(t testing.TB, s *modfetchtest.Server) []byte {
	t.Helper()
	return httpGet(t, s.URL+"/sumdb/"+databaseOf(s)+"/latest")
}

// shows makes a mirror answer with one file.
func shows(content []byte) modfetchtest.Fault {
	return modfetchtest.Handler(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		w.Write(content)
	})
}

// compared compares heads, which must not be an error, and returns what is told of each mirror.
func (c *goClient) compared(t testing.TB) map[string]modfetch.HeadInfo {
	t.Helper()
	before, _ := os.ReadFile(c.latest)
	infos, err := c.CompareHeads(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if after, _ := os.ReadFile(c.latest); !bytes.Equal(before, after) {
		t.Errorf("the kept head went from %q to %q", before, after)
	}
	if evidence, _ := filepath.Glob(filepath.Join(filepath.Dir(c.latest), "evidence-*")); len(evidence) > 0 {
		t.Errorf("there is evidence %q of nothing", evidence)
	}
	told := make(map[string]modfetch.HeadInfo)
	for _, i := range infos {
		told[i.Mirror] = i
		if errors.Is(i.Err, fs.ErrNotExist) && i.Size > 0 {
			t.Errorf("%s: what could not be compared looks absent: %v", i.Mirror, i.Err)
		}
	}
	return told
}

func TestHeadsAreCompared(t *testing.T) {
	t.Parallel()
	s := newLog(t)
	behind := latestOf(t, s)
	stale := s.Lag() // it has none of the tiles to come
	s.AddRecords(300)
	foreign := latestOf(t, newWorld(t))
	gone, down, flip := modfetchtest.Status(404), modfetchtest.Reset(), modfetchtest.CorruptRaw(-1)
	type faults map[string]modfetchtest.Fault
	for name, c := range map[string]struct {
		first, second faults
		stale         bool // the second is, and shows what it has
		lag           int64
		kind          modfetch.Kind // of the second's error
		says          string
	}{
		"both alike":                 {},
		"one lags":                   {stale: true, lag: 300},
		"one lags, but has tiles":    {second: faults{"*/latest": shows(behind)}, lag: 300},
		"only the one behind helps":  {first: faults{"*/tile/*": gone}, second: faults{"*/latest": shows(behind)}, lag: 300},
		"the one ahead sends others": {first: faults{"*/tile/*": flip}, second: faults{"*/latest": shows(behind)}, lag: 300},
		"the one ahead breaks off":   {first: faults{"*/tile/*": down}, second: faults{"*/latest": shows(behind)}, lag: 300},
		"the one behind has no use":  {second: faults{"*/latest": shows(behind), "*/tile/*": down}, lag: 300},
		"nobody has tiles":           {first: faults{"*/tile/*": gone}, stale: true, lag: 300, kind: modfetch.Forbidden, says: "cannot be compared"},
		"nobody gets through":        {first: faults{"*/tile/*": down}, stale: true, lag: 300, kind: modfetch.Transient, says: "cannot be compared"},
		"tiles are forged":           {first: faults{"*/tile/*": flip}, stale: true, lag: 300, kind: modfetch.Corrupt, says: "do not belong to a tree"},
		"no database":                {second: faults{"*/supported": gone}, kind: modfetch.NotFound, says: "does not serve"},
		"no head":                    {second: faults{"*/latest": gone}, kind: modfetch.NotFound, says: "404"},
		"a page":                     {second: faults{"*/latest": modfetchtest.HTML()}, kind: modfetch.Corrupt, says: "HTML"},
		"another key":                {second: faults{"*/latest": shows(foreign)}, kind: modfetch.Corrupt, says: "not signed by"},
		"another key, renamed":       {second: faults{"*/latest": shows(bytes.Replace(behind, []byte("— "), []byte("— x"), 1))}, kind: modfetch.Corrupt, says: "not signed by"},
		"too long":                   {second: faults{"*/latest": shows(bytes.Repeat([]byte("x"), 2<<20))}, kind: modfetch.Corrupt, says: "accepted"},
		"out of reach":               {second: faults{"*": down}, kind: modfetch.Transient},
	} {
		for _, order := range []string{"first,second", "second|first"} {
			for _, kept := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, %s, kept %t", name, order, kept), func(t *testing.T) {
					first, second := s.Mirror(), s.Mirror()
					if c.stale {
						second = stale.Mirror()
					}
					var mu sync.Mutex
					traced := make(map[string]modfetch.HeadInfo)
					client := newGoClient(t, s, s.URL)
					if kept {
						client.mustLookUp(t, moduleM)
					}
					client.env.GOPROXY = strings.NewReplacer("first", first.URL, "second", second.URL).Replace(order)
					client.Fetcher = newBareFetcher(t, modfetch.WithGoEnv(client.env), (&homeHost{}).option(),
						modfetch.WithTrace(&modfetch.Trace{Head: func(_ context.Context, i modfetch.HeadInfo) {
							mu.Lock()
							defer mu.Unlock()
							traced[i.Mirror] = i
						}}))
					for path, fault := range c.first {
						first.Fault(path, fault)
					}
					for path, fault := range c.second {
						second.Fault(path, fault)
					}
					told := client.compared(t)
					if len(told) != 3 {
						t.Errorf("told %+v, want both mirrors and the database's own host", told)
					}
					host := told["https://"+databaseOf(s)]
					if host.Err == nil || modfetch.KindOf(host.Err) != modfetch.Transient {
						t.Errorf("the database's own host: %+v, want it out of reach", host)
					}
					size, lag := int64(logSize+300)-c.lag, c.lag
					if c.kind != "" && c.lag == 0 {
						size = 0 // no head
					}
					got := told[second.URL]
					if got.Size != size || got.Behind != lag || got.Database != databaseOf(s) {
						t.Errorf("the second mirror: %+v, want %d records, %d behind", got, size, lag)
					}
					if modfetch.KindOf(got.Err) != c.kind || !strings.Contains(fmt.Sprint(got.Err), c.says) {
						t.Errorf("the second mirror: %s error %v, want %q that says %q", modfetch.KindOf(got.Err), got.Err, c.kind, c.says)
					}
					got.Err = nil
					if traced[second.URL] != got && size > 0 {
						t.Errorf("the trace was told %+v, not %+v", traced[second.URL], got)
					}
					if got := told[first.URL]; got.Size != logSize+300 || got.Behind != 0 || got.Err != nil {
						t.Errorf("the first mirror: %+v", got)
					}
					first.ClearFaults()
					client.mustLookUp(t, moduleV2) // the database is still used
				})
			}
		}
	}
}

// TestHeadsAreHeldAgainstTheKeptOne: what a single mirror shows is compared with what was seen before.
func TestHeadsAreHeldAgainstTheKeptOne(t *testing.T) {
	t.Parallel()
	s := newLog(t)
	behind := latestOf(t, s)
	stale := s.Lag()
	s.AddRecords(300)
	for name, c := range map[string]struct {
		grow   int
		kind   modfetch.Kind
		lag    int64
		mirror func() *modfetchtest.Server
	}{
		"ahead":                    {mirror: s.Mirror, grow: 300},
		"rolled back":              {mirror: func() *modfetchtest.Server { m := s.Mirror(); m.Fault("*/latest", shows(behind)); return m }, lag: 300},
		"rolled back, tiles too":   {mirror: stale.Mirror, lag: 300, kind: modfetch.Forbidden},
		"ahead, but without tiles": {mirror: func() *modfetchtest.Server { m := s.Mirror(); m.Fault("*/tile/*", modfetchtest.Status(404)); return m }, grow: 300, kind: modfetch.Forbidden},
	} {
		t.Run(name, func(t *testing.T) {
			client := newGoClient(t, s, s.URL)
			client.mustLookUp(t, moduleM)
			size := shownHead(t, s).N
			s.AddRecords(c.grow)
			mirror := c.mirror()
			client.env.GOPROXY = mirror.URL
			client.Fetcher = newBareFetcher(t, modfetch.WithGoEnv(client.env), (&homeHost{}).option())
			got := client.compared(t)[mirror.URL]
			if modfetch.KindOf(got.Err) != c.kind || c.lag > 0 && got.Behind != size-logSize || c.lag == 0 && got.Behind != 0 {
				t.Errorf("%+v, want an error of kind %q and the lag behind %d records", got, c.kind, size)
			}
			if got.Err != nil && !strings.Contains(got.Err.Error(), "the one that is kept") {
				t.Errorf("error %v, want one that names the kept head", got.Err)
			}
		})
	}
}

func TestComparedHeadsThatContradictEachOther(t *testing.T) {
	t.Parallel()
	origin := newLog(t)
	for name, grow := range map[string][2]int{"of one size": {0, 0}, "of two sizes": {0, 300}, "far apart": {300, 9000}} {
		for _, shown := range []string{"one|two", "two,one", "two, to one kept", "one|two, nothing kept", "two without tiles|one"} {
			t.Run(name+", "+shown, func(t *testing.T) {
				one := origin.Fork()
				fork := one.Fork()
				one.AddRecords(grow[0])
				fork.AddRecords(grow[1])
				two := fork.Mirror()
				list, _, _ := strings.Cut(shown, ", ")
				c := newGoClient(t, one, one.URL)
				if !strings.HasSuffix(shown, "nothing kept") {
					c.mustLookUp(t, moduleM)
				}
				if strings.Contains(shown, "without tiles") {
					if grow[1] > grow[0] {
						t.Skip("then nobody can tell")
					}
					two.Fault("*/tile/*", modfetchtest.Status(404))
				}
				c.env.GOPROXY = strings.NewReplacer("one", one.URL, "two without tiles", two.URL, "two", two.URL).Replace(list)
				c.Fetcher = newBareFetcher(t, modfetch.WithGoEnv(c.env), (&homeHost{}).option())
				before, beforeErr := os.ReadFile(c.latest)
				infos, err := c.CompareHeads(t.Context())
				if modfetch.KindOf(err) != modfetch.Security || !strings.Contains(fmt.Sprint(err), "two histories") || len(infos) == 0 {
					t.Fatalf("%+v, %s error %v, want one of security", infos, modfetch.KindOf(err), err)
				}
				if after, afterErr := os.ReadFile(c.latest); !bytes.Equal(before, after) || (beforeErr == nil) != (afterErr == nil) {
					t.Errorf("the kept head went from %q to %q, %v", before, after, afterErr)
				}
				evidence, _ := filepath.Glob(filepath.Join(filepath.Dir(c.latest), "evidence-*.txt"))
				if len(evidence) != 1 || !strings.Contains(err.Error(), evidence[0]) {
					t.Fatalf("evidence %q, of which the error says %v", evidence, err)
				}
				text, readErr := os.ReadFile(evidence[0])
				for _, head := range [][]byte{latestOf(t, one), latestOf(t, fork)} {
					if readErr != nil || !bytes.Contains(text, head) || !strings.Contains(err.Error(), string(head)) {
						t.Errorf("the head %q is not in the evidence\n%s\nor the error %v", head, text, err)
					}
				}
				if grow[0] != grow[1] && !bytes.Contains(text, []byte("The proof:\n")) {
					t.Errorf("no proof in the evidence\n%s", text)
				}
				asked := one.Count("/sumdb/*") + two.Count("/sumdb/*")
				if _, err := c.GoMod(t.Context(), moduleV2); modfetch.KindOf(err) != modfetch.Security {
					t.Errorf("a lookup afterwards: %v, want the database to be used no more", err)
				}
				if _, err := c.CompareHeads(t.Context()); modfetch.KindOf(err) != modfetch.Security {
					t.Errorf("comparing again: %v, want the same error", err)
				}
				if n := one.Count("/sumdb/*") + two.Count("/sumdb/*"); n > asked {
					t.Errorf("the database was asked %d times more", n-asked)
				}
			})
		}
	}
}

// TestComparedWithTheGoCommandsHead: a head that somebody else keeps, beside ours, is held against it too.
func TestComparedWithTheGoCommandsHead(t *testing.T) {
	one := newLog(t)
	two := one.Fork()
	one.AddRecords(10) // whoever is ahead can tell
	env, cache := modfetch.GoEnv{GOPATH: t.TempDir()}, new(modfetch.MemCache)
	opts := []modfetch.Option{modfetch.WithGOPROXY(one.URL), modfetch.WithSumDB(one.GOSUMDB()), modfetch.WithCache(cache), (&homeHost{}).option()}
	if _, err := newBareFetcher(t, opts...).GoMod(t.Context(), moduleM); err != nil {
		t.Fatal(err)
	}
	latest := filepath.Join(env.GOPATH, "pkg/sumdb", databaseOf(one), "latest")
	if err := errors.Join(os.MkdirAll(filepath.Dir(latest), 0o777), os.WriteFile(latest, latestOf(t, two), 0o666)); err != nil {
		t.Fatal(err)
	}
	f := newBareFetcher(t, append(opts, modfetch.WithGoEnv(env))...)
	_, err := f.CompareHeads(t.Context())
	if modfetch.KindOf(err) != modfetch.Security || !strings.Contains(fmt.Sprint(err), "two histories") {
		t.Errorf("%s error %v, want one of security", modfetch.KindOf(err), err)
	}
}

func TestNoHeadToCompare(t *testing.T) {
	s := newWorld(t)
	foreign := latestOf(t, newWorld(t))
	for name, c := range map[string]struct {
		path  string
		fault modfetchtest.Fault
		kind  modfetch.Kind
	}{
		"outage":      {"*", modfetchtest.Status(503), modfetch.Transient},
		"reset":       {"*", modfetchtest.Reset(), modfetch.Transient},
		"no database": {"*/supported", modfetchtest.Status(404), modfetch.Forbidden},
		"no head":     {"*/latest", modfetchtest.Status(410), modfetch.Forbidden},
		"refused":     {"*/latest", modfetchtest.Status(403), modfetch.Forbidden},
		"a page":      {"*/latest", modfetchtest.HTML(), modfetch.Corrupt},
		"another key": {"*/latest", shows(foreign), modfetch.Corrupt},
	} {
		for setting, url := range map[string]string{"through mirrors": s.GOSUMDB(), "at its own URL": s.GOSUMDBDirect(), "at a mirror's": s.GOSUMDB() + " " + s.URL} {
			s.ClearFaults()
			s.Fault(c.path, c.fault)
			f, _ := newFetcher(t, modfetch.WithGOPROXY(s.URL), modfetch.WithSumDB(url), (&homeHost{server: s}).option())
			kind := c.kind
			if c.path == "*/supported" && setting != "at a mirror's" {
				kind = "" // the database's own place is not asked that
			}
			infos, err := f.CompareHeads(t.Context())
			if modfetch.KindOf(err) != kind || errors.Is(err, fs.ErrNotExist) || len(infos) != 2 {
				t.Errorf("%s, %s: %s error %v, and told %+v, want an error of kind %q", name, setting, modfetch.KindOf(err), err, infos, kind)
			}
			if err != nil && !strings.Contains(err.Error(), databaseOf(s)) {
				t.Errorf("%s, %s: error %v, want one that names the database", name, setting, err)
			}
		}
	}
	f := newBareFetcher(t, modfetch.WithGOPROXY(s.URL), modfetch.WithSumDB("off"))
	if infos, err := f.CompareHeads(t.Context()); err != nil || infos != nil {
		t.Errorf("GOSUMDB=off: %+v, %v, want nothing", infos, err)
	}
}

// TestComparingHeadsWaitsForNobodyForLong: a mirror that hangs is told of, and a caller that leaves is let go at once.
func TestComparingHeadsWaitsForNobodyForLong(t *testing.T) {
	s := newLog(t)
	behind := latestOf(t, s)
	s.AddRecords(300)
	for name, c := range map[string]struct {
		path   string // where the mirror hangs that is ahead
		both   bool   // and the other too
		leaves time.Duration
		took   time.Duration
		says   string
	}{
		"head":                     {path: "*/latest", took: 10 * time.Second, says: "no answer within 10s"},
		"heads":                    {path: "*/latest", both: true, took: 10 * time.Second, says: "no answer within 10s"},
		"whether it has one":       {path: "*/supported", took: 10 * time.Second, says: "no answer within 10s"},
		"tiles":                    {path: "*/tile/*", took: 30 * time.Second},
		"head, caller leaves":      {path: "*/latest", leaves: time.Second, took: time.Second},
		"heads, caller leaves":     {path: "*/latest", both: true, leaves: time.Second, took: time.Second},
		"supported, caller leaves": {path: "*/supported", leaves: time.Second, took: time.Second},
		"tiles, caller leaves":     {path: "*/tile/*", leaves: 20 * time.Second, took: 20 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			ahead, back := s.Mirror(), s.Mirror()
			back.Fault("*", modfetchtest.CorruptRaw(1<<30)) // as it is, but with its length, which a bubble needs
			back.Fault("*/latest", shows(behind))
			ahead.Fault("*/latest", shows(latestOf(t, s)))
			ahead.Fault(c.path, modfetchtest.Hang())
			if c.both {
				back.Fault(c.path, modfetchtest.Hang())
			}
			inBubble(t, s, nil, map[string]*modfetchtest.Server{"ahead": ahead, "back": back}, func(t *testing.T, b *bubble) {
				f, _ := b.fetcher("ahead|back")
				ctx := t.Context()
				if c.leaves > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithCancel(ctx)
					defer cancel()
					time.AfterFunc(c.leaves, cancel)
				}
				start := time.Now()
				infos, err := f.CompareHeads(ctx)
				if took := time.Since(start); took < c.took || took > c.took+100*time.Millisecond {
					t.Errorf("it took %s, want %s", took, c.took)
				}
				if c.leaves > 0 {
					if !errors.Is(err, context.Canceled) || modfetch.KindOf(err) != modfetch.Canceled {
						t.Errorf("%s error %v, want context.Canceled", modfetch.KindOf(err), err)
					}
					return
				}
				if len(infos) != 3 || c.both != (err != nil) || c.both && modfetch.KindOf(err) != modfetch.Transient {
					t.Fatalf("%+v, %v", infos, err)
				}
				if got := infos[0]; c.says != "" && (modfetch.KindOf(got.Err) != modfetch.Transient || !strings.Contains(got.Err.Error(), c.says)) {
					t.Errorf("%s error %v, want a transient one that says %q", modfetch.KindOf(got.Err), got.Err, c.says)
				}
				if got := infos[1]; !c.both && (got.Size != logSize || got.Err != nil) {
					t.Errorf("%+v, want a head that was compared with its own tiles", got)
				}
			})
		})
	}
}

// TestLiarBesideAnHonestMirror: what one mirror says about the log never keeps another from answering, however they share
// the work, and a path is told to nobody behind a `,`.
func TestLiarBesideAnHonestMirror(t *testing.T) {
	t.Parallel()
	honest := newLog(t)
	flip := modfetchtest.CorruptRaw(-1)
	for name, lie := range map[string]func(liar *modfetchtest.Server){
		"forged tiles": func(s *modfetchtest.Server) { s.Fault("*/tile/*", flip) },
		"forged tiles, no lookups": func(s *modfetchtest.Server) {
			s.Fault("*/tile/*", flip)
			s.Fault("*/lookup/*", modfetchtest.Status(404))
		},
		"forged tiles, lookups fail": func(s *modfetchtest.Server) { s.Fault("*/tile/*", flip); failLookups(s) },
		"forged upper tiles":         func(s *modfetchtest.Server) { s.Fault("*/tile/8/1/*", flip) },
		"another's records": func(s *modfetchtest.Server) {
			s.Fault("*/lookup/*", instead("/"+moduleM.String(), "/"+moduleV2.String()))
		},
		"a record without the line": func(s *modfetchtest.Server) {
			s.Fault("*/lookup/*", changed(func(b []byte) []byte { return bytes.ReplaceAll(b, []byte(moduleM.Version+" h1"), []byte("v1.0.9 h1")) }))
		},
		"forged records": func(s *modfetchtest.Server) {
			s.Fault("*/lookup/*", changed(func(b []byte) []byte { return bytes.Replace(b, []byte("h1:"), []byte("h1:AAAA"), 1) }))
		},
		"no database":  func(s *modfetchtest.Server) { s.Fault("*/supported", modfetchtest.Status(404)) },
		"lost records": func(s *modfetchtest.Server) { s.Fault("*/lookup/*", modfetchtest.Status(404)) },
	} {
		for _, order := range []string{"liar|honest", "honest|liar", "liar,honest", "honest,liar"} {
			t.Run(name+", "+order, func(t *testing.T) {
				liar, good := honest.Mirror(), honest.Mirror()
				lie(liar)
				c := newGoClient(t, honest, strings.NewReplacer("liar", liar.URL, "honest", good.URL).Replace(order))
				_, err := c.GoMod(t.Context(), moduleM)
				asked := good.Count("*/lookup/*")
				switch {
				case order != "liar,honest":
					if err != nil {
						t.Errorf("with an honest mirror that may be asked: %v", err)
					}
				case strings.Contains(name, "records") && name != "lost records", name == "a record without the line", strings.HasSuffix(name, "fail"):
					// Whoever stands before a `,` and answers, answers alone.
					if err == nil || asked > 0 {
						t.Errorf("error %v, and behind the comma %d lookups", err, asked)
					}
				case err != nil:
					t.Errorf("with honest tiles: %v", err)
				case asked > 0 && name != "no database" && name != "lost records" && name != "forged tiles, no lookups":
					t.Errorf("%d lookups behind the comma", asked)
				}
				wantHonestState(t, c.env.GOMODCACHE, honest)
			})
		}
	}
}

// TestOneLookupAtATimeStaysLinear: a head that grows between lookups costs each lookup its own proof, not that of all before.
func TestOneLookupAtATimeStaysLinear(t *testing.T) {
	t.Parallel()
	s := newLog(t)
	c := newGoClient(t, s, s.URL)
	var most int
	for i := range 20 {
		m := addModule(s, fmt.Sprint("one", i))
		s.AddRecords(300)
		before := s.Count("/sumdb/*")
		c.mustLookUp(t, m)
		if i > 0 {
			most = max(most, s.Count("/sumdb/*")-before)
		}
	}
	if most > 12 { // a lookup, the tiles of its record, and those of the right edge of two trees
		t.Errorf("up to %d requests for one lookup", most)
	}
}

// TestForgedTilesOfAnOldAdvisory replays CVE-2026-56865: tiles that come after those of the tree's own proof were not held
// against their parents, so a mirror could forge a record's tile and the one above it. It succeeds against
// golang.org/x/mod v0.39.0.
func TestForgedTilesOfAnOldAdvisory(t *testing.T) {
	t.Parallel()
	s := newLog(t)
	honest := lookupReply(t, s, moduleM)
	evil := bytes.Replace(honest, []byte("h1:"), []byte("h1:AAAA"), 1)
	id, text, _, err := tlog.ParseRecord(evil)
	if err != nil {
		t.Fatal(err)
	}
	below, above := tlog.Tile{H: 8, L: 0, N: id / 256, W: 256}, tlog.Tile{H: 8, L: 1, N: id / 65536, W: 256}
	get := func(tile tlog.Tile) []byte {
		return httpGet(t, s.URL+"/sumdb/"+databaseOf(s)+"/"+tile.Path())
	}
	forged := get(below)
	hash := tlog.RecordHash(text)
	copy(forged[id%256*32:], hash[:])
	row := make([]tlog.Hash, 256)
	for i := range row {
		row[i] = tlog.Hash(forged[i*32 : i*32+32])
	}
	for ; len(row) > 1; row = row[:len(row)/2] {
		for i := range len(row) / 2 {
			row[i] = tlog.NodeHash(row[2*i], row[2*i+1])
		}
	}
	upper := get(above)
	copy(upper[id/256%256*32:], row[0][:])

	mirror := s.Mirror()
	c := newGoClient(t, s, mirror.URL)
	c.mustLookUp(t, moduleV2)
	os.RemoveAll(c.tiles)
	for path, content := range map[string][]byte{"*/lookup/" + moduleM.String(): evil, "*/" + below.Path(): forged, "*/" + above.Path(): upper} {
		mirror.Fault(path, modfetchtest.Handler(func(w http.ResponseWriter, _ *http.Request) { w.Write(content) }))
	}
	c.wantSecurity(t, moduleM, "cannot be proven", 1)
	wantHonestState(t, c.env.GOMODCACHE, s)
	if mirror.Count("*/"+below.Path()) == 0 || mirror.Count("*/"+above.Path()) == 0 {
		t.Errorf("the forged tiles were never asked for: %q", mirror.Requests())
	}
}

// TestUnauthenticatedLinesOfAnOldAdvisory replays CVE-2026-56864: lines beside the tree head are signed, but in no record of
// the log. They were taken for the record's by golang.org/x/mod v0.39.0.
func TestUnauthenticatedLinesOfAnOldAdvisory(t *testing.T) {
	s := newWorld(t)
	secret, key, err := note.GenerateKey(rand.Reader, "evil.modfetch.test")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(secret)
	if err != nil {
		t.Fatal(err)
	}
	zip, goMod := sumsOf(s, moduleM)
	text := fmt.Sprintf("%s %s/go.mod %s\n", moduleM.Path, moduleM.Version, goMod)
	root := tlog.RecordHash([]byte(text)) // of a tree of one record
	record, err := tlog.FormatRecord(0, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	beside := fmt.Sprintf("%s %s %s\n", moduleM.Path, moduleM.Version, zip)
	head, err := note.Sign(&note.Note{Text: string(tlog.FormatTree(tlog.Tree{N: 1, Hash: root})) + beside}, signer)
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string][]byte{"supported": nil, "lookup/*": append(record, head...), "tile/8/0/000.p/1": root[:]} {
		s.Fault("/sumdb/evil.modfetch.test/"+path, modfetchtest.Handler(func(w http.ResponseWriter, _ *http.Request) { w.Write(content) }))
	}
	f, modCache := newFetcher(t, modfetch.WithGOPROXY(s.URL), modfetch.WithSumDB(key))
	if _, err := f.GoMod(t.Context(), moduleM); err != nil {
		t.Errorf("the line that is in the log: %v", err)
	}
	_, err = f.Dir(t.Context(), moduleM)
	if modfetch.KindOf(err) != modfetch.Security || !strings.Contains(err.Error(), "no h1: hash") {
		t.Errorf("%s error %v, want one of security", modfetch.KindOf(err), err)
	}
	for _, name := range published(t, modCache, moduleM) {
		if strings.Contains(name, "zip") {
			t.Errorf("%s was published", name)
		}
	}
}

// TestHeadIsKeptInACache: without a module cache, the head lies beside the tiles, survives the process, and is held against
// the go command's, which is never written.
func TestHeadIsKeptInACache(t *testing.T) {
	t.Run("Cache", func(t *testing.T) {
		testKeptHead(t, "", func(dir string) modfetch.Option { return modfetch.WithCache(modfetch.DirCache(dir)) })
	})
	t.Run("module cache", func(t *testing.T) { testKeptHead(t, "cache/", modfetch.WithModCache) })
}

func testKeptHead(t *testing.T, below string, store func(dir string) modfetch.Option) {
	one := newLog(t)
	two := one.Fork()
	two.AddRecords(1)
	own := below + "modfetch/sumdb/" + databaseOf(one) + "/latest"
	lookUp := func(dir string, s *modfetchtest.Server, m module.Version, opts ...modfetch.Option) error {
		t.Helper()
		f := newBareFetcher(t, append(opts, modfetch.WithGOPROXY(s.URL), modfetch.WithSumDB(one.GOSUMDB()), store(dir), (&homeHost{}).option())...)
		_, err := f.GoMod(t.Context(), m)
		return err
	}
	read := func(dir, name string) string {
		data, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return string(data)
	}
	wantFork := func(dir string, err error) {
		t.Helper()
		if modfetch.KindOf(err) != modfetch.Security || !strings.Contains(fmt.Sprint(err), "two histories") {
			t.Fatalf("%s error %v, want one of security about two histories", modfetch.KindOf(err), err)
		}
		found := false
		filepath.WalkDir(dir, func(path string, d fs.DirEntry, _ error) error {
			found = found || strings.HasPrefix(d.Name(), "evidence-")
			return nil
		})
		if !found {
			t.Error("no evidence is kept")
		}
	}

	dir := t.TempDir()
	if err := lookUp(dir, one, moduleM); err != nil {
		t.Fatal(err)
	}
	kept := read(dir, own)
	if !strings.Contains(kept, fmt.Sprintf("\n%d\n", shownHead(t, one).N)) {
		t.Fatalf("kept head %q", kept)
	}
	wantFork(dir, lookUp(dir, two, moduleV2))
	if now := read(dir, own); now != kept {
		t.Errorf("the kept head went from %q to %q", kept, now)
	}
	one.AddRecords(300)
	if err := lookUp(dir, one, moduleV2); err != nil {
		t.Errorf("after the honest log has grown: %v", err)
	}
	if read(dir, own) == kept {
		t.Error("the kept head did not move forward")
	}

	// The go command has seen the other history: our own head was kept alone until GOPATH was named.
	gopath := t.TempDir()
	latest := filepath.Join(gopath, "pkg/sumdb", databaseOf(one), "latest")
	_, theirs, _ := bytes.Cut(lookupReply(t, two, moduleM), []byte("\n\n"))
	if err := os.MkdirAll(filepath.Dir(latest), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(latest, theirs, 0o666); err != nil {
		t.Fatal(err)
	}
	both := one.Mirror()
	both.Fault("*/tile/*", modfetchtest.Middleware(func(honest http.Handler) http.Handler { return honest }))
	wantFork(gopath, lookUp(dir, one, moduleOld, modfetch.WithGoEnv(modfetch.GoEnv{GOPATH: gopath})))
	if now := read(gopath, "pkg/sumdb/"+databaseOf(one)+"/latest"); now != string(theirs) {
		t.Errorf("the go command's head was changed to %q", now)
	}

	// What a crash has left of the file is no head.
	if err := os.WriteFile(filepath.Join(dir, filepath.FromSlash(own)), make([]byte, len(kept)), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := lookUp(dir, one, moduleV2); err != nil {
		t.Errorf("with a file of zeros: %v", err)
	}

	// What lies there under another key is not overwritten.
	stranger := newWorld(t)
	_, foreign, _ := bytes.Cut(lookupReply(t, stranger, moduleM), []byte("\n\n"))
	if err := os.WriteFile(filepath.Join(dir, filepath.FromSlash(own)), foreign, 0o666); err != nil {
		t.Fatal(err)
	}
	err := lookUp(dir, one, moduleUpper)
	if modfetch.KindOf(err) != modfetch.Security || !strings.Contains(fmt.Sprint(err), filepath.Join(dir, filepath.FromSlash(own))) {
		t.Errorf("%s error %v, want one of security that names %s", modfetch.KindOf(err), err, own)
	}
	if now := read(dir, own); now != string(foreign) {
		t.Errorf("it was changed to %q", now)
	}
}

// TestKeptHeadDoesNotGoBack: of two processes that share a store, one moves forward behind a mirror that lags, after the other
// has seen more.
func TestKeptHeadDoesNotGoBack(t *testing.T) {
	for name, store := range map[string]func(dir string) modfetch.Option{
		"Cache":        func(dir string) modfetch.Option { return modfetch.WithCache(modfetch.DirCache(dir)) },
		"module cache": modfetch.WithModCache,
	} {
		t.Run(name, func(t *testing.T) {
			s := modfetchtest.NewServer(t, nil)
			add := func(name string) module.Version {
				m := module.Version{Path: "example.com/" + name, Version: "v1.0.0"}
				s.Add(modfetchtest.NewModule(m.Path, m.Version).File("m.go", "package m\n"))
				return m
			}
			first := add("first")
			old := s.Lag()
			second := add("second")
			s.AddRecords(500)
			lag := s.Lag()
			s.AddRecords(3000)
			third := add("third")
			dir := tempDir(t)
			lookUp := func(f *modfetch.Fetcher, m module.Version) (head string) {
				t.Helper()
				if _, err := f.GoMod(t.Context(), m); err != nil {
					t.Fatal(err)
				}
				for _, file := range filesBelow(t, dir) {
					if strings.HasSuffix(filepath.ToSlash(file), "modfetch/sumdb/"+databaseOf(s)+"/latest") {
						data, err := os.ReadFile(file)
						if err != nil {
							t.Fatal(err)
						}
						head = string(data)
					}
				}
				return head
			}
			process := func(list string) *modfetch.Fetcher {
				return newBareFetcher(t, modfetch.WithGOPROXY(list), modfetch.WithSumDB(s.GOSUMDB()), store(dir), (&homeHost{}).option())
			}
			slow := process(old.URL + "," + lag.URL)
			before := lookUp(slow, first)
			newest := lookUp(process(s.URL), third)
			if after := lookUp(slow, second); before == newest || after != newest {
				t.Errorf("the kept head was %q, then %q, and is %q", before, newest, after)
			}
		})
	}
}

// A sharedCache is that of one of two processes. When each of them has read the head as often as is wanted, and found none, they
// put theirs: in turn, if somebody's turn is to be the first.
type sharedCache struct {
	*modfetch.MemCache
	reads atomic.Int32
	want  int32
	found *sync.WaitGroup
	turn  <-chan struct{} // nil to put at once
	put   func()
}

func (c *sharedCache) Open(ctx context.Context, name string) (io.ReadSeekCloser, error) {
	if strings.HasSuffix(name, "/latest") && c.reads.Add(1) == c.want {
		c.found.Done()
		c.found.Wait()
		return nil, fs.ErrNotExist
	}
	return c.MemCache.Open(ctx, name)
}

func (c *sharedCache) Put(ctx context.Context, name string, content io.ReadSeeker) error {
	if strings.HasSuffix(name, "/latest") && c.turn != nil {
		<-c.turn
		defer c.put()
	}
	return c.MemCache.Put(ctx, name, content)
}

// TestProcessesThatShareACache: each keeps its head in the same Cache, and what the one puts there is held against the
// other's. It is read when a process begins, and again before it is replaced.
func TestProcessesThatShareACache(t *testing.T) {
	for name, c := range map[string]struct {
		reads int32
		last  int // of the two who puts last; -1 if they do not wait for each other
	}{"at once": {1, -1}, "the first overwrites the second": {2, 0}, "the second overwrites the first": {2, 1}} {
		t.Run(name, func(t *testing.T) { shareACache(t, c.reads, c.last) })
	}
}

func shareACache(t *testing.T, reads int32, last int) {
	one := newLog(t)
	two := one.Fork()
	caches := [2]*sharedCache{{MemCache: new(modfetch.MemCache)}, {}}
	var found sync.WaitGroup
	found.Add(len(caches))
	first, second := make(chan struct{}), make(chan struct{})
	close(first)
	for i, c := range caches {
		c.MemCache, c.want, c.found = caches[0].MemCache, reads, &found
		switch last {
		case i:
			c.turn, c.put = second, func() {}
		case 1 - i:
			c.turn, c.put = first, sync.OnceFunc(func() { close(second) })
		}
	}
	fetcher := func(s *modfetchtest.Server, c modfetch.Cache) *modfetch.Fetcher {
		return newBareFetcher(t, modfetch.WithGOPROXY(s.URL), modfetch.WithSumDB(one.GOSUMDB()), modfetch.WithCache(c), (&homeHost{}).option())
	}
	f, g := fetcher(one, caches[0]), fetcher(two, caches[1])
	errs := make(chan error, 2)
	go func() { _, err := f.GoMod(t.Context(), moduleM); errs <- err }()
	go func() { _, err := g.GoMod(t.Context(), moduleV2); errs <- err }()
	all := []error{<-errs, <-errs}
	// Whoever has the larger tree can tell.
	one.AddRecords(10)
	_, err := f.GoMod(t.Context(), moduleOld)
	all = append(all, err)
	two.AddRecords(20)
	_, err = g.GoMod(t.Context(), moduleUpper)
	all = append(all, err)
	noticed := 0
	for _, err := range all {
		if err != nil && (modfetch.KindOf(err) != modfetch.Security || !strings.Contains(err.Error(), "two histories")) {
			t.Errorf("%s error %v, want none or one of security about two histories", modfetch.KindOf(err), err)
		}
		if err != nil {
			noticed++
		}
	}
	if noticed == 0 {
		t.Error("neither noticed that the other is told another history")
	}
}

// TestEvidenceIsNotPiledUp: a mirror can cause any number of lookups that cannot be proven, and none of them pushes out what
// was kept before, nor is any of them lost: it is in the error then.
func TestEvidenceIsNotPiledUp(t *testing.T) {
	t.Parallel()
	const most = 64
	s := newWorld(t)
	one := s.Fork()
	two := one.Fork()
	mirror := one.Mirror()
	for name, option := range map[string]func(dir string) modfetch.Option{
		"beside the head": func(dir string) modfetch.Option {
			return modfetch.WithGoEnv(modfetch.GoEnv{GOPATH: dir, GOMODCACHE: tempDir(t)})
		},
		"in the cache": func(dir string) modfetch.Option { return modfetch.WithCache(modfetch.DirCache(dir)) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			evidence := func() map[string]string {
				all := make(map[string]string)
				for _, name := range files(t, dir) {
					if strings.HasPrefix(filepath.Base(name), "evidence-") {
						data, err := os.ReadFile(filepath.Join(dir, name))
						if err != nil {
							t.Fatal(err)
						}
						all[name] = string(data)
					}
				}
				return all
			}
			f := newBareFetcher(t, option(dir), modfetch.WithGOPROXY(mirror.URL), modfetch.WithSumDB(s.GOSUMDB()), (&homeHost{}).option())
			if _, err := f.GoMod(t.Context(), moduleM); err != nil {
				t.Fatal(err)
			}
			mirror.Fault("*/lookup/*", changed(func(b []byte) []byte { return bytes.Replace(b, []byte("h1:"), []byte("h1:AAAA"), 1) }))
			var before map[string]string
			for i := range most + 3 {
				m := addModule(mirror, fmt.Sprint(strings.ReplaceAll(name, " ", "-"), i))
				if i == most {
					before = evidence()
				}
				_, err := f.GoMod(t.Context(), m)
				if modfetch.KindOf(err) != modfetch.Security || !strings.Contains(err.Error(), "cannot be proven") {
					t.Fatalf("%s error %v, want one of security", modfetch.KindOf(err), err)
				}
				if inMessage := strings.Contains(err.Error(), "in this message only") && strings.Contains(err.Error(), "— "+databaseOf(s)); inMessage != (i >= most) {
					t.Fatalf("evidence %d in the message: %t: %v", i, inMessage, err)
				}
				if i == most-1 {
					if _, again := f.GoMod(t.Context(), m); again.Error() != err.Error() {
						t.Errorf("the last one that has a file, again: %v, want %v", again, err)
					}
				}
			}
			after := evidence()
			if len(before) != most || !maps.Equal(before, after) {
				t.Errorf("%d files of evidence at the limit of %d, %d later", len(before), most, len(after))
			}
			// Proof of a fork is in the error in any case.
			mirror.Fault("*/latest", shows(latestOf(t, two)))
			_, err := f.CompareHeads(t.Context())
			if modfetch.KindOf(err) != modfetch.Security || !strings.Contains(err.Error(), "in this message only") || strings.Count(err.Error(), "— "+databaseOf(s)) != 2 {
				t.Errorf("%s error %v, want one of security with both heads", modfetch.KindOf(err), err)
			}
			if !maps.Equal(before, evidence()) {
				t.Error("the evidence has changed")
			}
			mirror.ClearFaults()
		})
	}
}

// TestProofInTheEvidenceHolds computes from the evidence alone that the two heads contradict each other.
func TestProofInTheEvidenceHolds(t *testing.T) {
	ours := newLog(t)
	theirs := ours.Fork()
	theirs.AddRecords(300)
	cache := t.TempDir()
	gopath := t.TempDir()
	latest := filepath.Join(gopath, "pkg/sumdb", databaseOf(ours), "latest")
	_, other, _ := bytes.Cut(lookupReply(t, ours, moduleM), []byte("\n\n"))
	for _, s := range []*modfetchtest.Server{theirs, theirs} {
		f := newBareFetcher(t, modfetch.WithGOPROXY(s.URL), modfetch.WithSumDB(s.GOSUMDB()), modfetch.WithCache(modfetch.DirCache(cache)),
			modfetch.WithGoEnv(modfetch.GoEnv{GOPATH: gopath}), (&homeHost{}).option())
		f.GoMod(t.Context(), moduleM)
		if err := os.MkdirAll(filepath.Dir(latest), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(latest, other, 0o666); err != nil {
			t.Fatal(err)
		}
		os.RemoveAll(filepath.Join(cache, "example.com"))
	}
	found, _ := filepath.Glob(filepath.Join(filepath.Dir(latest), "evidence-*.txt"))
	if len(found) != 1 {
		t.Fatalf("evidence %q", found)
	}
	text, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	_, first, _ := strings.Cut(string(text), "\n\n")
	_, second, _ := strings.Cut(first, " records:\n\n")
	a, errA := tlog.ParseTree([]byte(first))
	b, errB := tlog.ParseTree([]byte(second))
	if errA != nil || errB != nil || a.N >= b.N {
		t.Fatalf("heads %v %v, %v %v in\n%s", a, errA, b, errB, text)
	}
	_, said, _ := strings.Cut(second, " records hash to ")
	said, _, _ = strings.Cut(said, ",")
	hash := parseHash(t, said)
	_, list, _ := strings.Cut(second, "The proof:\n")
	var proof tlog.TreeProof
	for line := range strings.Lines(list) {
		proof = append(proof, parseHash(t, strings.TrimSpace(line)))
	}
	if err := tlog.CheckTree(proof, b.N, b.Hash, a.N, hash); err != nil {
		t.Errorf("the proof does not hold: %v", err)
	}
	if err := tlog.CheckTree(proof, b.N, b.Hash, a.N, a.Hash); err == nil || hash == a.Hash {
		t.Error("the heads do not contradict each other")
	}
}

func parseHash(t testing.TB, s string) tlog.Hash {
	t.Helper()
	data, err := base64.StdEncoding.DecodeString(s)
	if err != nil || len(data) != tlog.HashSize {
		t.Fatalf("hash %s: %v", strconv.Quote(s), err)
	}
	return tlog.Hash(data)
}
