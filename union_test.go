package modfetch_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/modfetchtest"
)

const (
	pathU   = "example.com/u"
	pseudoA = "v0.0.0-20200101000000-aaaaaaaaaaaa"
	pseudoB = "v0.0.0-20210101000000-bbbbbbbbbbbb"
)

// newUnionWorld starts an origin of a few versions, all of them on record.
func newUnionWorld(t *testing.T) *modfetchtest.Server {
	s := modfetchtest.NewServer(t, nil)
	addVersions(s, pathU, map[string]string{"v1.0.0": "go 1.20", "v1.1.0": "go 1.20", "v1.2.0": "go 1.20", "v1.3.0": "go 1.20", pseudoA: "go 1.20", pseudoB: "go 1.20"})
	return s
}

// A union is a Fetcher in a bubble, and what it tells.
type union struct {
	*modfetch.Fetcher

	mu        sync.Mutex // guards the following
	asked     []modfetch.AttemptInfo
	lagging   []modfetch.LagInfo
	unvouched []modfetch.AttemptInfo
}

// newUnion makes a Fetcher of mirrors such as "a|b", which are hosts below .test, that asks all within a second.
func newUnion(b *bubble, list string, opts ...modfetch.Option) *union {
	b.Helper()
	u := new(union)
	items := []string{"direct", "direct", "off", "off"} // stay as they are
	for _, item := range strings.FieldsFunc(list, func(r rune) bool { return r == '|' || r == ',' }) {
		items = append(items, item, "http://"+item+".test")
	}
	var err error
	u.Fetcher, err = modfetch.New(append([]modfetch.Option{
		modfetch.WithGOPROXY(strings.NewReplacer(items...).Replace(list)), modfetch.WithSumDB(cmp.Or(b.gosumdb, b.origin.GOSUMDB())),
		modfetch.WithHTTPClient(&http.Client{Transport: wholeSums{b}}), modfetch.WithTrace(&modfetch.Trace{
			AttemptDone: func(_ context.Context, i modfetch.AttemptInfo) {
				u.mu.Lock()
				defer u.mu.Unlock()
				u.asked = append(u.asked, i)
			},
			Lagging: func(_ context.Context, i modfetch.LagInfo) {
				u.mu.Lock()
				defer u.mu.Unlock()
				u.lagging = append(u.lagging, i)
			},
			Unvouched: func(_ context.Context, i modfetch.AttemptInfo) {
				u.mu.Lock()
				defer u.mu.Unlock()
				u.unvouched = append(u.unvouched, i)
			},
		})}, opts...)...)
	if err != nil {
		b.Fatal(err)
	}
	return u
}

var askAll = modfetch.WithPolicy(modfetch.Policy{AskAll: time.Second})

// count counts the requests to a mirror for files whose path ends so.
func (u *union) count(mirror, suffix string) (n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, i := range u.asked {
		if strings.Contains(i.Mirror, mirror) && strings.HasSuffix(i.Path, suffix) {
			n++
		}
	}
	return n
}

// A wholeSums is a bubble in which the checksum database's answers come whole: streamed, those of unknown length may be cut.
type wholeSums struct{ *bubble }

func (w wholeSums) RoundTrip(r *http.Request) (*http.Response, error) {
	h := w.hosts[strings.TrimSuffix(r.URL.Host, ".test")]
	if h == nil || !strings.HasPrefix(r.URL.Path, "/sumdb/") {
		return w.bubble.RoundTrip(r)
	}
	in := r.Clone(r.Context())
	in.Host, in.URL.Host = "", ""
	whole := httptest.NewRecorder()
	h.ServeHTTP(whole, in)
	return whole.Result(), nil
}

// sized serves a text, with its length.
func sized(s string) modfetchtest.Fault {
	return body(s).Header("Content-Length", strconv.Itoa(len(s)))
}

// lines serves a list.
func lines(versions ...string) modfetchtest.Fault { return sized(strings.Join(versions, "\n") + "\n") }

// names serves an .info file.
func names(version string) modfetchtest.Fault { return sized(`{"Version":"` + version + `"}`) }

// inUnion runs a test in fake time over mirrors that meet with faults, each for a path that ends so; " " for none.
func inUnion(t *testing.T, origin *modfetchtest.Server, faults map[string]map[string]modfetchtest.Fault, run func(t *testing.T, b *bubble)) {
	t.Helper()
	hosts := make(map[string]*modfetchtest.Server)
	for name, of := range faults {
		hosts[name] = origin.Mirror()
		for suffix, fault := range of {
			hosts[name].Fault("/"+pathU+"/*"+suffix, fault)
		}
	}
	inBubble(t, origin, nil, hosts, run)
}

type mirrors = map[string]map[string]modfetchtest.Fault

func TestListsArePutTogether(t *testing.T) {
	origin := newUnionWorld(t)
	soon, late := 100*time.Millisecond, 300*time.Millisecond
	a, c := lines("v1.0.0", "v1.1.0", pseudoA), lines("v1.2.0", "v1.0.0", pseudoB)
	for name, x := range map[string]struct {
		list, versions string
		mirrors        mirrors
		after          time.Duration
		lag            string
	}{
		"all in time": {"a|c", "v1.0.0 v1.1.0 v1.2.0", mirrors{"a": {"list": a.Latency(late)}, "c": {"list": c.Latency(soon)}}, late,
			"a shows v1.1.0 and misses 1, c shows v1.2.0 and misses 1"},
		"one hangs": {"a|b|c", "v1.0.0 v1.1.0 v1.2.0", mirrors{"a": {"list": a}, "b": {"list": modfetchtest.Hang()}, "c": {"list": c.Latency(late)}}, time.Second,
			"a shows v1.1.0 and misses 1, c shows v1.2.0 and misses 1"},
		"one is late":           {"a|c", "v1.0.0 v1.2.0", mirrors{"a": {"list": a.Latency(2 * time.Second)}, "c": {"list": c}}, time.Second, ""},
		"all are late":          {"a|c", "v1.0.0 v1.1.0", mirrors{"a": {"list": a.Latency(3 * time.Second)}, "c": {"list": c.Latency(5 * time.Second)}}, 3 * time.Second, ""},
		"only failures so far":  {"a|b|c", "v1.0.0 v1.2.0", mirrors{"a": {"list": modfetchtest.Status(500)}, "b": {"list": modfetchtest.Status(404)}, "c": {"list": c.Latency(2 * time.Second)}}, 2 * time.Second, ""},
		"a page and garbage":    {"a|b|c", "v1.0.0 v1.2.0", mirrors{"a": {"list": modfetchtest.HTML()}, "b": {"list": lines("x")}, "c": {"list": c}}, 0, ""},
		"one sends slowly":      {"a|c", "v1.0.0 v1.1.0", mirrors{"a": {"list": a}, "c": {"list": c.Bandwidth(10)}}, time.Second, ""},
		"alike":                 {"a|c", "v1.0.0 v1.1.0", mirrors{"a": {"list": a}, "c": {"list": a}}, 0, ""},
		"one shows nothing":     {"a|c", "v1.0.0 v1.1.0", mirrors{"a": {"list": lines()}, "c": {"list": a}}, 0, "a shows  and misses 2"},
		"no tier of several":    {"a,c", "v1.0.0 v1.1.0", mirrors{"a": {"list": a}, "c": {"list": c}}, 0, ""},
		"the first tier":        {"a|c,b", "v1.0.0 v1.1.0 v1.2.0", mirrors{"a": {"list": a}, "c": {"list": c}, "b": {"list": lines("v1.3.0")}}, 0, "a shows v1.1.0 and misses 1, c shows v1.2.0 and misses 1"},
		"one request at a time": {"a|c", "v1.0.0 v1.1.0", mirrors{"a": {"list": a.Latency(2 * time.Second)}, "c": {"list": a.Latency(2 * time.Second)}}, 2 * time.Second, ""},
	} {
		t.Run(name, func(t *testing.T) {
			inUnion(t, origin, x.mirrors, func(t *testing.T, b *bubble) {
				opts := []modfetch.Option{askAll}
				if name == "one request at a time" {
					opts = append(opts, modfetch.WithJobs(1))
				}
				f := newUnion(b, x.list, opts...)
				start := time.Now()
				got, err := f.Versions(t.Context(), pathU)
				if err != nil || strings.Join(got, " ") != x.versions {
					t.Errorf("got %q, %v, want %s", got, err, x.versions)
				}
				if took := time.Since(start); took != x.after {
					t.Errorf("took %s, want %s", took, x.after)
				}
				var lag []string
				for _, i := range f.lagging {
					if i.Module != pathU || i.Path != pathU+"/@v/list" || i.Lacks != "" {
						t.Errorf("told of %+v", i)
					}
					lag = append(lag, fmt.Sprintf("%s shows %s and misses %d", strings.TrimSuffix(strings.TrimPrefix(i.Mirror, "http://"), ".test"), i.Newest, i.Missing))
				}
				if told := strings.Join(lag, ", "); told != x.lag {
					t.Errorf("lagging: %s; want: %s", told, x.lag)
				}
				for _, i := range f.Mirrors() { // who was told to stop has not failed
					if n := i.Failures[modfetch.Canceled] + i.Failures[modfetch.Transient]; n > 0 && !strings.Contains(name, "failures") {
						t.Errorf("%s has failed %d times", i.Mirror, n)
					}
				}
			})
		})
	}
}

// TestNobodyIsAskedBesideAnother: where no record could tell what is invented, and without the policy.
func TestNobodyIsAskedBesideAnother(t *testing.T) {
	origin := newUnionWorld(t)
	for name, x := range map[string]struct {
		list string
		opts []modfetch.Option
	}{
		"without the policy": {"a|c", nil},
		"a routed path":      {"a|c", []modfetch.Option{askAll, modfetch.WithRoute(pathU, "http://a.test|http://c.test")}},
		"an exempt path":     {"a|c", []modfetch.Option{askAll, modfetch.WithGoEnv(modfetch.GoEnv{GONOSUMDB: "example.com"})}},
		"no database":        {"a|c", []modfetch.Option{askAll}},
		"before direct":      {"a|direct", []modfetch.Option{askAll}},
		"before off":         {"a|off", []modfetch.Option{askAll}},
	} {
		t.Run(name, func(t *testing.T) {
			list := lines("v1.0.0").Latency(300 * time.Millisecond)
			inUnion(t, origin, mirrors{"a": {"list": list, "@latest": names(pseudoA), "main.info": names(pseudoA)}, "c": {}}, func(t *testing.T, b *bubble) {
				if name == "no database" {
					b.gosumdb = "off"
				}
				f := newUnion(b, x.list, x.opts...)
				if _, err := f.Versions(t.Context(), pathU); err != nil {
					t.Error(err)
				}
				for _, query := range []string{"v1", "main"} {
					if _, err := f.Info(t.Context(), pathU, query); err != nil {
						t.Error(err)
					}
				}
				for _, i := range f.asked {
					if i.Mirror != "http://a.test" {
						t.Errorf("%s was asked for %s", i.Mirror, i.Path)
					}
				}
			})
		})
	}
	t.Run("a private path", func(t *testing.T) {
		inUnion(t, origin, mirrors{"a": {}, "c": {}}, func(t *testing.T, b *bubble) {
			t.Setenv("PATH", "") // so that direct has no go command
			f := newUnion(b, "a|c", askAll, modfetch.WithPrivate("example.com"))
			if _, err := f.Versions(t.Context(), pathU); modfetch.KindOf(err) != modfetch.Forbidden {
				t.Errorf("got %v", err)
			}
			if n := f.count(".test", ""); n > 0 {
				t.Errorf("%d requests to mirrors for a private path", n)
			}
		})
	})
}

// TestDirectAndOffComeAfterTheMirrors that are asked at once.
func TestDirectAndOffComeAfterTheMirrors(t *testing.T) {
	origin := newUnionWorld(t)
	for _, last := range []string{"direct", "off"} {
		inUnion(t, origin, mirrors{"a": {"list": modfetchtest.Status(403)}, "c": {"list": lines("v1.1.0").Latency(2 * time.Second)}}, func(t *testing.T, b *bubble) {
			t.Setenv("PATH", "")
			f := newUnion(b, "a|c|"+last, askAll)
			if got, err := f.Versions(t.Context(), pathU); err != nil || len(got) != 1 || f.count(last, "") > 0 {
				t.Errorf("got %q, %v, and %s was asked %d times", got, err, last, f.count(last, ""))
			}
			b.hosts["c"] = b.hosts["a"]
			if got, err := f.Versions(t.Context(), pathU); err == nil || f.count(last, "") != 1 {
				t.Errorf("got %q, %v, and %s was asked %d times", got, err, last, f.count(last, ""))
			}
		})
	}
}

// TestNewestThatIsVouchedFor: of what mirrors name for the latest, a branch or a commit.
func TestNewestThatIsVouchedFor(t *testing.T) {
	origin := newUnionWorld(t)
	const invented = "v0.0.0-20990101000000-ffffffffffff"
	for name, x := range map[string]struct {
		a, b, c         modfetchtest.Fault
		want            string
		lag, passedOver string // mirrors
	}{
		"the newest":         {names(pseudoA), names(pseudoB), names(pseudoA), pseudoB, "a c", ""},
		"a release":          {names("v1.0.0"), names(pseudoB), names("v1.2.0"), "v1.2.0", "a b", ""},
		"made up":            {names(pseudoA), names(invented), names(pseudoB), pseudoB, "a", "b"},
		"made up twice":      {names(pseudoA), names(invented), names("v1.9.9"), pseudoA, "", "c b"},
		"alike":              {names(pseudoA), names(pseudoA), names(pseudoA), pseudoA, "", ""},
		"not in time":        {names(pseudoA), names(pseudoB).Latency(2 * time.Second), names(pseudoA), pseudoA, "", ""},
		"another major":      {names(pseudoA), names("v2.0.0"), names(pseudoA), pseudoA, "", ""},
		"absent at some":     {modfetchtest.Status(404), names(pseudoA), modfetchtest.Status(410), pseudoA, "", ""},
		"made up by all":     {names(invented), names(invented), names(invented), "", "", ""},
		"absent":             {modfetchtest.Status(404), modfetchtest.Status(404), modfetchtest.Status(404), "absent", "", ""},
		"absent but for one": {modfetchtest.Status(404), modfetchtest.Status(403), modfetchtest.Status(404), "", "", ""},
	} {
		for query, suffix := range map[string]string{"latest": "@latest", "main": "main.info"} {
			t.Run(name+", "+query, func(t *testing.T) {
				of := func(fault modfetchtest.Fault) map[string]modfetchtest.Fault {
					return map[string]modfetchtest.Fault{suffix: fault, "list": lines()}
				}
				inUnion(t, origin, mirrors{"a": of(x.a), "b": of(x.b), "c": of(x.c)}, func(t *testing.T, b *bubble) {
					f := newUnion(b, "a|b|c", askAll)
					info, err := f.Info(t.Context(), pathU, query)
					switch {
					case x.want == "absent" && query == "latest": // the module exists, without versions
						var no *modfetch.NoMatchError
						if !errors.As(err, &no) {
							t.Errorf("got %v, %v", info, err)
						}
					case x.want == "absent", x.want == "":
						if err == nil || errors.Is(err, fs.ErrNotExist) != (x.want == "absent") {
							t.Errorf("got %v, %v", info, err)
						}
					case err != nil || info.Version != x.want:
						t.Errorf("got %v, %v, want %s", info, err, x.want)
					}
					var lag, passedOver []string
					for _, i := range f.lagging {
						if i.Module != pathU || !strings.HasSuffix(i.Path, suffix) || i.Lacks != x.want || i.Newest == x.want || i.Missing != 0 {
							t.Errorf("told of %+v", i)
						}
						lag = append(lag, i.Mirror[len("http://"):len("http://a")])
					}
					for _, i := range f.unvouched {
						if i.Module.Path != pathU || i.Module.Version == x.want || i.Err == nil || i.Kind != modfetch.KindOf(i.Err) || !strings.HasSuffix(i.Path, suffix) {
							t.Errorf("told of %+v", i)
						}
						passedOver = append(passedOver, i.Mirror[len("http://"):len("http://a")])
					}
					if l, p := strings.Join(lag, " "), strings.Join(passedOver, " "); l != x.lag || p != x.passedOver {
						t.Errorf("lagging: %s; passed over: %s; want %s; %s", l, p, x.lag, x.passedOver)
					}
				})
			})
		}
	}
}

// TestNewestPseudoVersionOfLists counts where mirrors know neither a tag nor the latest version.
func TestNewestPseudoVersionOfLists(t *testing.T) {
	origin := newUnionWorld(t)
	shows := func(v string) map[string]modfetchtest.Fault {
		return map[string]modfetchtest.Fault{"list": lines(v), "@latest": modfetchtest.Status(404)}
	}
	inUnion(t, origin, mirrors{"a": shows(pseudoB), "b": shows("v0.0.0-20990101000000-ffffffffffff"), "c": shows(pseudoA)}, func(t *testing.T, b *bubble) {
		f := newUnion(b, "a|b|c", askAll)
		if info, err := f.Info(t.Context(), pathU, "latest"); err != nil || info.Version != pseudoB {
			t.Errorf("got %v, %v, want %s", info, err, pseudoB)
		}
		if len(f.unvouched) != 1 || f.unvouched[0].Mirror != "http://b.test" {
			t.Errorf("told of %+v", f.unvouched)
		}
	})
}

// TestSoleMirrorIsAskedOnce: there is nothing to put together.
func TestSoleMirrorIsAskedOnce(t *testing.T) {
	origin := newUnionWorld(t)
	for _, list := range []string{"a", "a,c", "a|direct"} {
		inUnion(t, origin, mirrors{"a": {"list": modfetchtest.Status(404)}, "c": {"list": modfetchtest.Status(404)}}, func(t *testing.T, b *bubble) {
			t.Setenv("PATH", "")
			f := newUnion(b, list, askAll)
			if got, err := f.Versions(t.Context(), pathU); len(got) > 0 || f.count("a.test", "list") != 1 {
				t.Errorf("%s: got %q, %v after %d requests", list, got, err, f.count("a.test", "list"))
			}
		})
	}
}

// TestInventedVersionsSpoilNoQuery: neither one, nor thousands, nor those for which a mirror serves a go.mod file.
func TestInventedVersionsSpoilNoQuery(t *testing.T) {
	origin := newUnionWorld(t)
	addVersions(origin, pathU, map[string]string{"v2.0.0+incompatible": "", "v1.4.0-pre": "go 1.20"})
	honest := []string{"v1.0.0", "v1.1.0", "v1.2.0"}
	var thousands []string
	for i := range 10_000 {
		thousands = append(thousands, fmt.Sprintf("v1.9.%d", i))
	}
	serves := sized("module " + pathU + "\n")
	for name, x := range map[string]struct {
		honest, liar []string
		faults       map[string]modfetchtest.Fault // of the liar
		want         map[string]string
		tries        int // go.mod files of what does not exist that the liar may be asked for
	}{
		"one":          {honest, []string{"v1.9.9"}, nil, map[string]string{"latest": "v1.2.0", "v1": "v1.2.0", "<v1.2.0": "v1.1.0", "v1.0": "v1.0.0"}, 1},
		"served":       {honest, []string{"v1.9.9"}, map[string]modfetchtest.Fault{"v1.9.9.mod": serves}, map[string]string{"latest": "v1.2.0"}, 2},
		"hanging":      {honest, []string{"v1.9.9"}, map[string]modfetchtest.Fault{"v1.9.9.mod": modfetchtest.Hang()}, map[string]string{"latest": "v1.2.0"}, 2},
		"refused":      {honest, []string{"v1.9.9"}, map[string]modfetchtest.Fault{"v1.9.9.mod": modfetchtest.Status(403)}, map[string]string{"latest": "v1.2.0"}, 1},
		"thousands":    {honest, thousands, nil, map[string]string{"latest": "v1.2.0", "v1": "v1.2.0"}, 3},
		"lowest":       {honest, []string{"v1.0.1"}, nil, map[string]string{">v1.0.0": "v1.1.0"}, 1},
		"incompatible": {honest, []string{"v1.9.9", "v9.0.0+incompatible"}, nil, map[string]string{"latest": "v1.2.0"}, 2},
		"only there":   {honest, []string{"v1.9.9", "v1.3.0"}, nil, map[string]string{"latest": "v1.3.0"}, 1},
		"unfit":        {honest, []string{"v3.0.0"}, nil, map[string]string{"latest": "v1.2.0"}, 0},
		"nothing else": {honest, []string{"v3.0.0+incompatible"}, nil, map[string]string{"v3": ""}, 1},
		"untagged":     {nil, []string{"v1.9.9"}, nil, map[string]string{"latest": "v2.0.0+incompatible"}, 1},
	} {
		for query, want := range x.want {
			t.Run(name+", "+query, func(t *testing.T) {
				faults := map[string]modfetchtest.Fault{"list": lines(x.liar...)}
				for suffix, fault := range x.faults {
					faults[suffix] = fault
				}
				inUnion(t, origin, mirrors{"liar": faults, "a": {"list": lines(x.honest...)}}, func(t *testing.T, b *bubble) {
					f := newUnion(b, "liar|a", askAll)
					info, err := f.Info(t.Context(), pathU, query)
					if info.Version != want || (err == nil) != (want != "") || errors.Is(err, fs.ErrNotExist) {
						t.Errorf("got %v, %v, want %s", info, err, want)
					}
					if no := new(modfetch.NoMatchError); errors.As(err, &no) { // it was named, but could not be verified
						t.Errorf("got %v, which does not say why", err)
					}
					tries := 0
					for _, v := range x.liar {
						if v != "v1.3.0" {
							tries += f.count("liar", "/"+v+".mod")
						}
					}
					if tries > x.tries {
						t.Errorf("%d requests for go.mod files that do not exist, want %d", tries, x.tries)
					}
					for _, i := range f.unvouched {
						if i.Mirror != "http://liar.test" || !slices.Contains(x.liar, i.Module.Version) || i.Err == nil || !strings.HasSuffix(i.Path, "/@v/list") {
							t.Errorf("told of %+v", i)
						}
					}
					if len(f.unvouched) == 0 && x.tries > 0 {
						t.Error("not told of the liar")
					}
				})
			})
		}
	}
}

// TestWhatAllShowIsNotPassedOver: nobody has made that up, so it is a failure, and no older version takes its place.
func TestWhatAllShowIsNotPassedOver(t *testing.T) {
	origin := newUnionWorld(t)
	broken := map[string]modfetchtest.Fault{"list": lines("v1.0.0", "v1.2.0"), "v1.2.0.mod": modfetchtest.Status(500)}
	inUnion(t, origin, mirrors{"a": broken, "c": broken}, func(t *testing.T, b *bubble) {
		f := newUnion(b, "a|c", askAll)
		if info, err := f.Info(t.Context(), pathU, "latest"); modfetch.KindOf(err) != modfetch.Transient || len(f.unvouched) > 0 {
			t.Errorf("got %v, %v, told of %+v", info, err, f.unvouched)
		}
	})
}

// TestLagBehindTheAnswer tells who does not show the version that is the answer.
func TestLagBehindTheAnswer(t *testing.T) {
	origin := newUnionWorld(t)
	inUnion(t, origin, mirrors{"a": {"list": lines("v1.0.0", "v1.1.0")}, "c": {"list": lines("v1.0.0", "v1.2.0", "v1.3.0")}}, func(t *testing.T, b *bubble) {
		f := newUnion(b, "a|c", askAll)
		if info, err := f.Info(t.Context(), pathU, "<v1.3.0"); err != nil || info.Version != "v1.2.0" {
			t.Errorf("got %v, %v", info, err)
		}
		want := []modfetch.LagInfo{
			{Module: pathU, Path: pathU + "/@v/list", Mirror: "http://a.test", Newest: "v1.1.0", Lacks: "v1.2.0", Missing: 2},
			{Module: pathU, Path: pathU + "/@v/list", Mirror: "http://c.test", Newest: "v1.3.0", Missing: 1},
		}
		if !slices.Equal(f.lagging, want) {
			t.Errorf("told of %+v, want %+v", f.lagging, want)
		}
	})
}

// TestDeadMirrorIsNotAskedWithTheOthers until its pause is over.
func TestDeadMirrorIsNotAskedWithTheOthers(t *testing.T) {
	origin := newUnionWorld(t)
	inUnion(t, origin, mirrors{"a": {"list": lines("v1.0.0")}, "c": {"list": lines("v1.1.0")}}, func(t *testing.T, b *bubble) {
		f := newUnion(b, "dead|a|c", askAll)
		for range 3 {
			if got, err := f.Versions(t.Context(), pathU); err != nil || len(got) != 2 {
				t.Errorf("got %q, %v", got, err)
			}
		}
		if n := f.count("dead", "list"); n != 1 {
			t.Errorf("asked %d times though it is dead", n)
		}
		b.hosts["dead"] = b.hosts["a"]
		time.Sleep(time.Minute)
		if got, err := f.Versions(t.Context(), pathU); err != nil || len(got) != 2 || f.count("dead", "list") != 2 {
			t.Errorf("got %q, %v, after %d requests to the one that is up again", got, err, f.count("dead", "list"))
		}
	})
}

// TestLeavingWhileAllAreAsked ends every request at once: a goroutine that stayed would fail the bubble.
func TestLeavingWhileAllAreAsked(t *testing.T) {
	origin := newUnionWorld(t)
	for name, x := range map[string]struct {
		a     modfetchtest.Fault
		after time.Duration
	}{
		"before the deadline": {lines("v1.0.0"), time.Second / 2},
		"after it":            {modfetchtest.Status(500), 5 * time.Second},
		"in a body":           {lines("v1.0.0").Bandwidth(1), 3 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inUnion(t, origin, mirrors{"a": {"list": x.a}, "b": {"list": modfetchtest.Hang()}, "c": {"list": modfetchtest.Stall(1)}}, func(t *testing.T, b *bubble) {
				f := newUnion(b, "a|b|c", askAll)
				ctx, cancel := context.WithTimeout(t.Context(), x.after)
				defer cancel()
				start := time.Now()
				got, err := f.Versions(ctx, pathU)
				if !errors.Is(err, context.DeadlineExceeded) || got != nil {
					t.Errorf("got %q, %v", got, err)
				}
				if took := time.Since(start); took != x.after {
					t.Errorf("returned after %s", took)
				}
				for _, i := range f.Mirrors() {
					if n := i.Failures[modfetch.Transient]; n > 1 || n == 1 && i.Mirror != "http://a.test" {
						t.Errorf("%s is blamed: %v", i.Mirror, i.Failures)
					}
				}
			})
		})
	}
}

// TestLeavingWhileAVersionIsVerified accuses nobody of having made it up.
func TestLeavingWhileAVersionIsVerified(t *testing.T) {
	origin := newUnionWorld(t)
	hang := modfetchtest.Hang()
	for _, query := range []string{"latest", "main"} {
		a := map[string]modfetchtest.Fault{"list": lines("v1.0.0"), "main.info": names("v1.0.0"), "v1.9.8.mod": hang}
		liar := map[string]modfetchtest.Fault{"list": lines("v1.9.8", "v1.9.9"), "main.info": names("v1.9.9"), "v1.9.8.mod": hang}
		if query == "main" {
			a["v1.9.9.mod"], liar["v1.9.9.mod"] = hang, hang
		}
		inUnion(t, origin, mirrors{"a": a, "liar": liar}, func(t *testing.T, b *bubble) {
			f := newUnion(b, "a|liar", askAll)
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			start := time.Now()
			info, err := f.Info(ctx, pathU, query)
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 3*time.Second {
				t.Errorf("%s: got %v, %v after %s", query, info, err, time.Since(start))
			}
			for _, i := range f.unvouched {
				if query == "main" || i.Module.Version != "v1.9.9" {
					t.Errorf("%s: told of %+v", query, i)
				}
			}
		})
	}
}

// A leaver is a context that ends when it has been looked at so often.
type leaver struct {
	context.Context
	cancel context.CancelFunc
	left   atomic.Int64
}

func (l *leaver) Err() error {
	if l.left.Add(-1) == 0 {
		l.cancel()
	}
	return l.Context.Err()
}

// TestLeavingWhileAListIsRead: a large one takes seconds to read, and as many to sort.
func TestLeavingWhileAListIsRead(t *testing.T) {
	const n = 10_000
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("v1.0.%d", i*7919%n)
	}
	f := over(t, [][]*fakeMirror{{fake("mirror", sends(strings.Join(list, "\n")))}})
	for name, looks := range map[string]int64{"reading": n / 2, "sorting": 2 * n} {
		ctx, cancel := context.WithCancel(t.Context())
		l := &leaver{Context: ctx, cancel: cancel}
		l.left.Store(looks)
		if got, err := f.Versions(l, pathU); !errors.Is(err, context.Canceled) || got != nil {
			t.Errorf("%s: got %d versions, %v", name, len(got), err)
		}
		if name == "reading" && l.left.Load() < -10 {
			t.Errorf("%s: went on for %d lines", name, -l.left.Load())
		}
		cancel()
	}
}

func TestAskAllIsATime(t *testing.T) {
	_, err := modfetch.New(modfetch.WithGOPROXY("off"), modfetch.WithPolicy(modfetch.Policy{AskAll: -1}))
	if err == nil || !strings.Contains(err.Error(), "AskAll is -1ns") {
		t.Errorf("error %v", err)
	}
}

// TestAskingAllMeansTheSame holds, for tiers, faults and times made from a seed, that a failure stays the failure and an absence
// the absence that it is without the policy, and that answers are made of good ones, none in time left out. MODFETCH_SEED repeats
// a run.
func TestAskingAllMeansTheSame(t *testing.T) {
	r := seeded(t)
	unions, failures := 0, 0
	for range 300 {
		var text strings.Builder
		var all, plain []modfetch.Option
		may, must := make(map[string]bool), make(map[string]bool) // be in the union
		several := false
		for i := range 1 + r.IntN(3) {
			var beside, inOrder []modfetch.Mirror
			for j := range 1 + r.IntN(3) {
				several = several || i == 0 && j > 0
				delay, v, kind := time.Duration(1+r.IntN(3000))*time.Millisecond, fmt.Sprintf("v1.0.%d", r.IntN(10)), r.IntN(8)
				a := []answer{says(404), says(410), says(403), says(500), hangs, sends("<html>"), sends("<html>"), sends(v + "\nv1.1.0")}[kind]
				if kind == 7 && i == 0 {
					may[v], may["v1.1.0"] = true, true
					if delay < time.Second {
						must[v] = true
					}
				}
				slow := func(ctx context.Context, r modfetch.Request) (*modfetch.Response, error) {
					select {
					case <-time.After(delay):
						return a(ctx, r)
					case <-ctx.Done():
						return nil, ctx.Err()
					}
				}
				name := fmt.Sprintf("%d after %s", kind, delay)
				fmt.Fprintf(&text, "%s|", name)
				beside, inOrder = append(beside, fake(name, slow)), append(inOrder, fake(name, slow))
			}
			text.WriteString(", ")
			all, plain = append(all, modfetch.WithMirrors(beside...)), append(plain, modfetch.WithMirrors(inOrder...))
		}
		synctest.Test(t, func(t *testing.T) {
			versions := func(opts []modfetch.Option) ([]string, error) {
				f, err := modfetch.New(opts...)
				if err != nil {
					t.Fatal(err)
				}
				return f.Versions(t.Context(), pathU)
			}
			got, err := versions(append(all, askAll))
			same, sameErr := versions(plain)
			if len(may) > 0 && several {
				unions++
				if err != nil || slices.ContainsFunc(got, func(v string) bool { return !may[v] }) {
					t.Errorf("%s got %q, %v, want some of %v", &text, got, err, may)
				}
				for v := range must {
					if !slices.Contains(got, v) {
						t.Errorf("%s got %q, want also %s", &text, got, v)
					}
				}
				return
			}
			if err != nil {
				failures++
			}
			if !slices.Equal(got, same) || modfetch.KindOf(err) != modfetch.KindOf(sameErr) || errors.Is(err, fs.ErrNotExist) != errors.Is(sameErr, fs.ErrNotExist) {
				t.Errorf("%s got %q, %v; without the policy %q, %v", &text, got, err, same, sameErr)
			}
		})
	}
	if unions < 20 || failures < 20 {
		t.Errorf("%d unions, %d failures: too few to tell", unions, failures)
	}
}
