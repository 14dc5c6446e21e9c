package modfetch_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/modfetchtest"
)

// Paths of what no hash covers.
const (
	listOfM   = "/example.com/m/@v/list"
	latestOfM = "/example.com/m/@latest"
	branchOfM = "/example.com/m/@v/main.info"
	infoOfM   = "/example.com/m/@v/v1.0.0.info"
)

// The defaults of a Handler.
const (
	defaultTTL     = time.Minute
	defaultInfoTTL = 24 * time.Hour
	defaultAbsence = 30 * time.Second
	defaultStale   = 24 * time.Hour
	failurePause   = 10 * time.Second // in which a mirror that failed is not asked again for an answer that is kept
	patience       = 3 * time.Second  // with a mirror, while an old answer could be served
)

// A frontReply is what a client of a Handler gets, and what the Handler says of it.
type frontReply struct {
	code   int
	body   string
	header http.Header
	info   modfetch.ServedInfo
	took   time.Duration
}

type frontInfoKey struct{}

// telling makes a Handler say what it has served.
func telling(h *modfetch.Handler) *modfetch.Handler {
	h.Served = func(ctx context.Context, i modfetch.ServedInfo) {
		if to, ok := ctx.Value(frontInfoKey{}).(*modfetch.ServedInfo); ok {
			*to = i
		}
	}
	return h
}

// askFront asks a Handler that tells.
func askFront(ctx context.Context, h *modfetch.Handler, path string) (r frontReply) {
	w := httptest.NewRecorder()
	req := httptest.NewRequestWithContext(context.WithValue(ctx, frontInfoKey{}, &r.info), "GET", "http://proxy.test/", nil)
	req.URL.Path = path
	start := time.Now()
	h.ServeHTTP(w, req)
	r.took = time.Since(start)
	r.code, r.body, r.header = w.Code, w.Body.String(), w.Header()
	return r
}

// listOf names those in a list.
func listOf(list ...string) string { return strings.Join(list, "\n") + "\n" }

// unknownAge is that of an .info file in a cache where nobody may be asked.
const unknownAge = -time.Second

// want checks an answer, and all that is said of its age: "" is a fresh one.
func (r frontReply) want(t testing.TB, code int, body string, age time.Duration, stale string) {
	t.Helper()
	if r.code != code || body != "" && r.body != body {
		t.Errorf("answer %d %q, want %d %q (%v)", r.code, r.body, code, body, r.info.Err)
		return
	}
	if code != http.StatusOK {
		if r.header.Get("Cache-Control") != "no-store" || r.header.Get("Age") != "" {
			t.Errorf("a failure has the header %v", r.header)
		}
		return
	}
	if got := r.header.Get("Age"); got != strconv.Itoa(int(age.Seconds())) && (age != unknownAge || got != "") {
		t.Errorf("Age is %q, want %s", got, age)
	}
	if r.info.Stale != stale {
		t.Errorf("stale is %q, want %q", r.info.Stale, stale)
	}
	status := r.header.Get("Cache-Status")
	if stale == "" {
		if status != "" {
			t.Errorf("Cache-Status of a fresh answer is %q", status)
		}
		return
	}
	ttl, detail := 0, ""
	if n, err := fmt.Sscanf(status, "modfetch; hit; ttl=%d; detail=%q", &ttl, &detail); n != 2 || ttl >= 0 || detail != stale {
		t.Errorf("Cache-Status is %q, want one with a negative ttl and %q: %v", status, stale, err)
	}
	if limit := r.header.Get("Cache-Control"); limit != "max-age="+strconv.Itoa(ttl+int(age.Seconds())) &&
		limit != "max-age="+strconv.Itoa(ttl+1+int(age.Seconds())) {
		t.Errorf("Cache-Control %q does not fit the age %s and %q", limit, age, status)
	}
}

// A front is a Handler over mirrors in a bubble.
type front struct {
	*bubble
	*modfetch.Handler
	origin *modfetchtest.Server
}

// newDatedOrigin starts a server of a module whose newest version has the branch main.
func newDatedOrigin(t testing.TB) *modfetchtest.Server {
	t.Helper()
	s := modfetchtest.NewServer(t, nil)
	releaseM(s, "v1.0.0")
	return s
}

func releaseM(s *modfetchtest.Server, version string) {
	s.Add(modfetchtest.NewModule("example.com/m", version).File("m.go", "package m // "+version+"\n").
		File(".info", `{"Version": "`+version+`", "Time": "2024-01-02T03:04:05Z", "Origin": {"VCS": "git", "Ref": "refs/heads/main"}}`))
}

// inFront runs a test of a Handler over the mirror "a", and others, in fake time. What hangs has no end there but the test's.
func inFront(t *testing.T, origin *modfetchtest.Server, h *modfetch.Handler, run func(t *testing.T, f *front)) {
	t.Helper()
	inBubble(t, origin, new(modfetch.GoSum), map[string]*modfetchtest.Server{"a": origin}, func(t *testing.T, b *bubble) {
		f := &front{b, telling(h), origin}
		if h.Fetcher == nil {
			h.Fetcher, _ = b.fetcher("a")
		}
		run(t, f)
		time.Sleep(10 * time.Minute) // whatever is still asked for ends
	})
}

func (f *front) get(path string) frontReply { return askFront(f.Context(), f.Handler, path) }

// settled waits until nothing is asked for in the background.
func (f *front) settled() { synctest.Wait() }

// asked counts requests to the mirror in what follows.
func (f *front) asked(path string) func() int {
	before := f.origin.Count(path)
	return func() int { return f.origin.Count(path) - before }
}

func TestAnswersAreFreshForTheirTime(t *testing.T) {
	set := func() *modfetch.Handler {
		return &modfetch.Handler{ListTTL: 5 * time.Minute, LatestTTL: 7 * time.Minute, InfoTTL: time.Hour, AbsenceTTL: 2 * time.Minute}
	}
	unset := func() *modfetch.Handler { return new(modfetch.Handler) }
	for _, c := range []struct {
		path    string
		handler func() *modfetch.Handler
		code    int
		ttl     time.Duration
	}{
		{listOfM, unset, 200, defaultTTL},
		{latestOfM, unset, 200, defaultTTL},
		{branchOfM, unset, 200, defaultTTL},
		{infoOfM, unset, 200, defaultInfoTTL},
		{listOfM, set, 200, 5 * time.Minute},
		{latestOfM, set, 200, 7 * time.Minute},
		{branchOfM, set, 200, 7 * time.Minute},
		{infoOfM, set, 200, time.Hour},
		{"/example.com/none/@v/list", unset, 404, defaultAbsence},
		{"/example.com/none/@latest", unset, 404, defaultAbsence},
		{"/example.com/m/@v/nowhere.info", unset, 404, defaultAbsence},
		{"/example.com/m/@v/v1.9.0.info", unset, 404, defaultAbsence},
		{"/example.com/m/@v/v1.9.0.mod", unset, 404, defaultAbsence},
		{"/example.com/m/@v/v1.9.0.zip", unset, 404, defaultAbsence},
		{"/example.com/none/@v/list", set, 404, 2 * time.Minute},
		{"/example.com/m/@v/v1.9.0.zip", set, 404, 2 * time.Minute},
	} {
		h := c.handler()
		name := "default"
		if h.ListTTL != 0 {
			name = "set"
		}
		t.Run(name+c.path, func(t *testing.T) {
			inFront(t, newDatedOrigin(t), h, func(t *testing.T, f *front) {
				f.get(c.path).want(t, c.code, "", 0, "")
				asked := f.asked("*")
				time.Sleep(c.ttl - time.Second)
				r := f.get(c.path)
				r.want(t, c.code, "", c.ttl-time.Second, "")
				if !r.info.Hit {
					t.Error("what is fresh is said to have been asked for")
				}
				if f.settled(); asked() > 0 {
					t.Errorf("%d requests for what is fresh", asked())
				}
				if want := "max-age=" + strconv.Itoa(int(c.ttl.Seconds())); c.code == 200 && r.header.Get("Cache-Control") != want {
					t.Errorf("Cache-Control is %q, want %q", r.header.Get("Cache-Control"), want)
				}
				time.Sleep(2 * time.Second)
				f.get(c.path).want(t, c.code, "", c.ttl+time.Second, "revalidating")
				if f.settled(); asked() == 0 {
					t.Error("nobody was asked for what is no longer fresh")
				}
			})
		})
	}
}

// TestStaleAnswerIsServedAtOnceAndRenewedOnce: for many clients, and without a goroutine for each while the mirror hangs.
func TestStaleAnswerIsServedAtOnceAndRenewedOnce(t *testing.T) {
	const clients, latency = 2000, 5 * time.Second
	inFront(t, newDatedOrigin(t), new(modfetch.Handler), func(t *testing.T, f *front) {
		f.get(listOfM).want(t, 200, listOf("v1.0.0"), 0, "")
		releaseM(f.origin, "v1.1.0")
		f.origin.Fault(listOfM, modfetchtest.Fault{}.Latency(latency))
		asked := f.asked(listOfM)
		time.Sleep(defaultTTL + time.Second)
		before := runtime.NumGoroutine()
		for range clients {
			r := f.get(listOfM)
			r.want(t, 200, listOf("v1.0.0"), defaultTTL+time.Second, "revalidating")
			if r.took > 0 || !r.info.Hit {
				t.Fatalf("took %s, for which nobody was asked: %t", r.took, r.info.Hit)
			}
		}
		f.settled()
		if n := runtime.NumGoroutine() - before; n > 50 {
			t.Errorf("%d goroutines wait for one answer", n)
		}
		time.Sleep(latency + time.Second)
		for range 10 {
			f.get(listOfM).want(t, 200, listOf("v1.0.0", "v1.1.0"), time.Second, "")
		}
		if f.settled(); asked() != 1 {
			t.Errorf("the mirror was asked %d times", asked())
		}
	})
}

// A slowWriter is a client who takes a second for each write.
type slowWriter struct{ *httptest.ResponseRecorder }

func (w slowWriter) Write(p []byte) (int, error) {
	time.Sleep(time.Second)
	return w.ResponseRecorder.Write(p)
}

// TestWhoDoesNotWaitHasAskedNobody, though somebody was asked before the answer was out.
func TestWhoDoesNotWaitHasAskedNobody(t *testing.T) {
	inFront(t, newDatedOrigin(t), new(modfetch.Handler), func(t *testing.T, f *front) {
		f.get(listOfM)
		asked := f.asked(listOfM)
		time.Sleep(2 * defaultTTL)
		var info modfetch.ServedInfo
		r := httptest.NewRequestWithContext(context.WithValue(t.Context(), frontInfoKey{}, &info), "GET", listOfM, nil)
		f.ServeHTTP(slowWriter{httptest.NewRecorder()}, r)
		if asked() != 1 || info.Stale != "revalidating" || !info.Hit {
			t.Errorf("%d requests, stale %q, hit %t", asked(), info.Stale, info.Hit)
		}
	})
}

// TestOldAnswerWaitsForANewOne: for a bounded time, and only while the client does.
func TestOldAnswerWaitsForANewOne(t *testing.T) {
	const old = 10*defaultTTL + time.Second
	for latency, want := range map[time.Duration]struct {
		took  time.Duration
		body  string
		age   time.Duration
		stale string
	}{
		time.Second:      {time.Second, listOf("v1.0.0", "v1.1.0"), 0, ""},
		10 * time.Second: {patience, listOf("v1.0.0"), old + patience, "revalidating"},
	} {
		t.Run(latency.String(), func(t *testing.T) {
			inFront(t, newDatedOrigin(t), new(modfetch.Handler), func(t *testing.T, f *front) {
				f.get(listOfM)
				releaseM(f.origin, "v1.1.0")
				f.origin.Fault(listOfM, modfetchtest.Fault{}.Latency(latency))
				asked := f.asked(listOfM)
				time.Sleep(old)
				var clients sync.WaitGroup
				for range 20 {
					clients.Go(func() {
						r := f.get(listOfM)
						r.want(t, 200, want.body, want.age, want.stale)
						if r.took != want.took || r.info.Hit {
							t.Errorf("took %s, want %s; nobody was asked: %t", r.took, want.took, r.info.Hit)
						}
					})
				}
				clients.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
					defer cancel()
					if r := askFront(ctx, f.Handler, listOfM); r.took != 100*time.Millisecond || r.code == http.StatusOK {
						t.Errorf("who has left after 100ms was answered %d after %s", r.code, r.took)
					}
				})
				clients.Wait()
				time.Sleep(latency)
				f.get(listOfM).want(t, 200, listOf("v1.0.0", "v1.1.0"), want.took, "")
				if asked() != 1 {
					t.Errorf("the mirror was asked %d times", asked())
				}
			})
		})
	}
}

// TestStaleOnError: while mirrors fail, up to MaxStale, and then as good as ever.
func TestStaleOnError(t *testing.T) {
	for name, fault := range map[string]modfetchtest.Fault{
		"500":       modfetchtest.Status(500),
		"forbidden": modfetchtest.Status(403),
		"page":      modfetchtest.HTML(),
		"cut":       modfetchtest.Truncate(3),
		"hang":      modfetchtest.Hang(),
		"refused":   {},
	} {
		for _, path := range []string{listOfM, latestOfM, branchOfM} {
			t.Run(name+path, func(t *testing.T) {
				const most = 2 * time.Hour
				inFront(t, newDatedOrigin(t), &modfetch.Handler{MaxStale: most}, func(t *testing.T, f *front) {
					good := f.get(path)
					good.want(t, 200, "", 0, "")
					start := time.Now()
					releaseM(f.origin, "v1.1.0")
					fail := func() {
						if f.origin.Fault(path, fault); name == "refused" {
							f.hosts["a"] = nil
						}
					}
					fail()
					for _, at := range []time.Duration{defaultTTL + time.Second, 5 * time.Minute, 50 * time.Minute, most - 3*time.Minute} {
						time.Sleep(at - time.Since(start))
						first := f.get(path) // asks
						if first.code != 200 || first.body != good.body || first.info.Stale == "" || first.took > patience {
							t.Fatalf("after %s: %d %q, stale %q, after %s", at, first.code, first.body, first.info.Stale, first.took)
						}
						if name != "hang" {
							time.Sleep(2 * time.Second)
							r := f.get(path)
							r.want(t, 200, good.body, time.Since(start), "error")
							if r.info.Err == nil || r.took > 0 {
								t.Errorf("after %s: because of %v, after %s", at, r.info.Err, r.took)
							}
						}
					}
					time.Sleep(most + 5*time.Minute - time.Since(start))
					want := http.StatusBadGateway
					switch name {
					case "hang":
						want = http.StatusGatewayTimeout
					case "forbidden":
						want = http.StatusForbidden
					}
					f.get(path).want(t, want, "", 0, "")

					f.origin.ClearFaults()
					f.hosts["a"] = f.origin
					time.Sleep(15 * time.Minute) // in which the mirror may be passed over
					r := f.get(path)
					r.want(t, 200, "", 0, "")
					if !strings.Contains(r.body, "v1.1.0") {
						t.Errorf("after the recovery: %q", r.body)
					}
				})
			})
		}
	}
}

// TestDefaultOfMaxStale counts from when an answer is no longer fresh, however long that is.
func TestDefaultOfMaxStale(t *testing.T) {
	for _, ttl := range []time.Duration{0, 48 * time.Hour} {
		t.Run(ttl.String(), func(t *testing.T) {
			inFront(t, newDatedOrigin(t), &modfetch.Handler{ListTTL: ttl}, func(t *testing.T, f *front) {
				f.get(listOfM)
				f.origin.Fault("*", modfetchtest.Status(500))
				time.Sleep(ttl + defaultStale - time.Minute)
				if r := f.get(listOfM); r.code != 200 || r.body != listOf("v1.0.0") || r.info.Stale == "" {
					t.Errorf("a minute before: %d %q, stale %q", r.code, r.body, r.info.Stale)
				}
				time.Sleep(3 * time.Minute)
				f.get(listOfM).want(t, 502, "", 0, "")
			})
		})
	}
}

// TestFailingMirrorIsNotAskedForEachRequest, as long as there is something to serve.
func TestFailingMirrorIsNotAskedForEachRequest(t *testing.T) {
	t.Parallel()
	inFront(t, newDatedOrigin(t), new(modfetch.Handler), func(t *testing.T, f *front) {
		f.get(listOfM)
		f.origin.Fault(listOfM, modfetchtest.Status(403))
		asked := f.asked(listOfM)
		for _, age := range []time.Duration{2 * defaultTTL, 20 * defaultTTL} {
			time.Sleep(age)
			before := asked()
			for range 100 {
				f.get(listOfM)
				time.Sleep(failurePause / 100)
				f.settled()
			}
			if n := asked() - before; n != 1 {
				t.Errorf("asked %d times within %s", n, failurePause)
			}
			time.Sleep(failurePause)
		}
		// Many paths that fail make nobody forget that.
		f.get(listOfM)
		f.settled()
		before := asked()
		f.origin.Fault("/example.com/m/@v/x*", modfetchtest.Status(403))
		for i := range 4200 {
			f.get(fmt.Sprintf("/example.com/m/@v/x%d.info", i))
		}
		f.get(listOfM)
		if f.settled(); asked() != before {
			t.Error("asked again, because others have failed too")
		}
	})
}

func TestRevalidationByETag(t *testing.T) {
	for _, path := range []string{listOfM, latestOfM, branchOfM} {
		t.Run(path, func(t *testing.T) {
			inFront(t, newDatedOrigin(t), new(modfetch.Handler), func(t *testing.T, f *front) {
				old := f.get(path)
				last := func() modfetchtest.Request {
					var r modfetchtest.Request
					for _, l := range f.origin.Log() {
						if l.Path == path {
							r = l
						}
					}
					return r
				}
				if r := last(); r.Header.Get("If-None-Match") != "" {
					t.Errorf("the first request has If-None-Match %q", r.Header.Get("If-None-Match"))
				}
				age := 0 * time.Second
				for range 3 {
					time.Sleep(2 * defaultTTL)
					f.get(path).want(t, 200, old.body, age+2*defaultTTL, "revalidating")
					f.settled()
					if r := last(); r.Status != http.StatusNotModified || r.Header.Get("If-None-Match") == "" {
						t.Errorf("asked with If-None-Match %q, answered %d", r.Header.Get("If-None-Match"), r.Status)
					}
					age = defaultTTL - time.Second
					time.Sleep(age)
					f.get(path).want(t, 200, old.body, age, "")
				}
				releaseM(f.origin, "v1.1.0")
				time.Sleep(2 * time.Second)
				f.get(path)
				f.settled()
				r := f.get(path)
				r.want(t, 200, "", 0, "")
				if last().Status != 200 || !strings.Contains(r.body, "v1.1.0") {
					t.Errorf("after a change: %d, %q", last().Status, r.body)
				}
				// One who gives no ETag gets none.
				f.origin.Fault(path, modfetchtest.Fault{}.Header("ETag", ""))
				releaseM(f.origin, "v1.2.0")
				for range 2 {
					time.Sleep(2 * defaultTTL)
					f.get(path)
					f.settled()
				}
				if tag := last().Header.Get("If-None-Match"); tag != "" {
					t.Errorf("If-None-Match %q, though the last answer had no ETag", tag)
				}
			})
		})
	}
}

// TestETagIsForItsMirrorOnly: what another mirror has said cannot be confirmed.
func TestETagIsForItsMirrorOnly(t *testing.T) {
	for name, policy := range map[string]modfetch.Policy{"in turn": {}, "all at once": {AskAll: time.Second}} {
		t.Run(name, func(t *testing.T) {
			origin := newDatedOrigin(t)
			other := origin.Mirror()
			inBubble(t, origin, new(modfetch.GoSum), map[string]*modfetchtest.Server{"a": origin, "b": other}, func(t *testing.T, b *bubble) {
				fetcher, _ := b.fetcher("a|b", modfetch.WithPolicy(policy))
				h := telling(&modfetch.Handler{Fetcher: fetcher})
				askFront(t.Context(), h, listOfM)
				time.Sleep(2 * defaultTTL)
				origin.Fault(listOfM, modfetchtest.Status(500))
				askFront(t.Context(), h, listOfM)
				time.Sleep(10 * time.Second)
				askFront(t.Context(), h, listOfM).want(t, 200, listOf("v1.0.0"), 10*time.Second, "")
				origin.ClearFaults()
				time.Sleep(2 * defaultTTL)
				askFront(t.Context(), h, listOfM)
				time.Sleep(10 * time.Second)
				for host, s := range map[string]*modfetchtest.Server{"a": origin, "b": other} {
					tags := 0
					for _, r := range s.Log() {
						if r.Path == listOfM && r.Header.Get("If-None-Match") != "" {
							tags++
						}
					}
					if want := map[string]int{"a in turn": 1}[host+" "+name]; tags != want {
						t.Errorf("%s got an ETag %d times, want %d", host, tags, want)
					}
				}
				time.Sleep(10 * time.Minute)
			})
		})
	}
}

// TestETagOfOneMirrorIsNotThatOfAUnion: what was put together from several answers is nobody's to confirm.
func TestETagOfOneMirrorIsNotThatOfAUnion(t *testing.T) {
	origin := newDatedOrigin(t)
	more := modfetchtest.NewServer(t, nil)
	releaseM(more, "v1.0.0")
	releaseM(more, "v1.1.0")
	inBubble(t, origin, new(modfetch.GoSum), map[string]*modfetchtest.Server{"a": origin, "b": more}, func(t *testing.T, b *bubble) {
		fetcher, _ := b.fetcher("a|b", modfetch.WithPolicy(modfetch.Policy{AskAll: time.Second}))
		h := telling(&modfetch.Handler{Fetcher: fetcher})
		ask := func() frontReply {
			time.Sleep(10 * time.Minute)
			askFront(t.Context(), h, listOfM)
			time.Sleep(20 * time.Second)
			return askFront(t.Context(), h, listOfM)
		}
		for _, s := range []*modfetchtest.Server{origin, more} { // all at once fails, in turn it does not
			s.Fault(listOfM, modfetchtest.Status(500).Times(1))
		}
		ask()
		if r := ask(); r.body != listOf("v1.0.0", "v1.1.0") {
			t.Fatalf("the union is %d %q", r.code, r.body)
		}
		for _, s := range []*modfetchtest.Server{origin, more} {
			s.Fault(listOfM, modfetchtest.Status(500).Times(1))
		}
		ask()
		var tags []string
		for _, s := range []*modfetchtest.Server{origin, more} {
			for _, r := range s.Log() {
				if tag := r.Header.Get("If-None-Match"); tag != "" {
					tags = append(tags, tag)
				}
			}
		}
		if len(tags) > 0 {
			t.Errorf("asked whether a union is still %q", tags)
		}
		time.Sleep(10 * time.Minute)
	})
}

// TestAbsenceTakesThePlaceOfAnAnswer, and is believed for a short time only.
func TestAbsenceTakesThePlaceOfAnAnswer(t *testing.T) {
	for _, code := range []int{404, 410} {
		for _, path := range []string{listOfM, latestOfM, branchOfM} {
			t.Run(fmt.Sprint(code, path), func(t *testing.T) {
				inFront(t, newDatedOrigin(t), new(modfetch.Handler), func(t *testing.T, f *front) {
					f.get(path)
					f.origin.Fault("/example.com/m/*", modfetchtest.Status(code))
					asked := f.asked(path)
					time.Sleep(2 * defaultTTL)
					f.get(path).want(t, 200, "", 2*defaultTTL, "revalidating")
					f.settled()
					before := asked()
					time.Sleep(defaultAbsence - time.Second)
					f.get(path).want(t, 404, "", 0, "")
					if asked() != before {
						t.Error("asked again at once")
					}
					// A failure then is no absence any more, and neither is the answer of before.
					f.origin.Fault("/example.com/m/*", modfetchtest.Status(500))
					time.Sleep(2 * time.Second)
					f.get(path).want(t, 502, "", 0, "")
					f.origin.ClearFaults()
					time.Sleep(20 * time.Second)
					f.get(path).want(t, 200, "", 0, "")
				})
			})
		}
	}
}

// TestFailureIsNeverCachedAsAbsence (I3), nor as anything.
func TestFailureIsNeverCachedAsAbsence(t *testing.T) {
	for name, fault := range map[string]modfetchtest.Fault{
		"500": modfetchtest.Status(500), "403": modfetchtest.Status(403), "429": modfetchtest.Status(429), "page": modfetchtest.HTML(),
		"reset": modfetchtest.Reset(), "cut": modfetchtest.Truncate(1), "no version": modfetchtest.Handler(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("nonsense\n")) }),
	} {
		for _, path := range []string{listOfM, latestOfM, branchOfM, infoOfM, "/example.com/m/@v/v1.0.0.mod", "/example.com/m/@v/v1.0.0.zip"} {
			t.Run(name+path, func(t *testing.T) {
				cache := new(modfetch.MemCache)
				inFront(t, newDatedOrigin(t), new(modfetch.Handler), func(t *testing.T, f *front) {
					f.Fetcher, _ = f.fetcher("a", modfetch.WithCache(cache))
					f.origin.Fault("/example.com/m/*", fault)
					for range 3 {
						if r := f.get(path); r.code == 200 || r.code == 404 || r.code == 410 {
							t.Fatalf("answer %d %q", r.code, r.body)
						}
					}
					f.origin.ClearFaults()
					time.Sleep(30 * time.Second)
					if r := f.get(path); r.code != 200 {
						t.Errorf("answer %d %q after the failure: %v", r.code, r.body, r.info.Err)
					}
				})
			})
		}
	}
}

// TestAnswersOutliveTheHandler: in the module cache, or in the Cache.
func TestAnswersOutliveTheHandler(t *testing.T) {
	for name, option := range map[string]modfetch.Option{
		"module cache": modfetch.WithModCache(tempDir(t)),
		"Cache":        modfetch.WithCache(modfetch.DirCache(t.TempDir())),
	} {
		for _, path := range []string{listOfM, latestOfM, branchOfM, infoOfM} {
			t.Run(name+path, func(t *testing.T) {
				origin := newDatedOrigin(t)
				inBubble(t, origin, nil, map[string]*modfetchtest.Server{"a": origin}, func(t *testing.T, b *bubble) {
					handler := func(offline bool) *modfetch.Handler {
						f, err := modfetch.New(option, modfetch.WithGOPROXY("http://a.test"), modfetch.WithSumDB(origin.GOSUMDB()),
							modfetch.WithHTTPClient(&http.Client{Transport: b}))
						if err != nil {
							t.Fatal(err)
						}
						return telling(&modfetch.Handler{Fetcher: f, CacheOnly: offline})
					}
					good := askFront(t.Context(), handler(false), path)
					good.want(t, 200, "", 0, "")
					n := origin.Count("*")
					age := 30 * time.Second
					time.Sleep(age)
					if path == infoOfM {
						age = 0 // the file has no time: it is the first answer after the start
					}
					askFront(t.Context(), handler(false), path).want(t, 200, good.body, age, "")
					offline := askFront(t.Context(), handler(true), path)
					if path == infoOfM {
						age = unknownAge
					}
					offline.want(t, 200, good.body, age, "")
					if origin.Count("*") != n {
						t.Error("asked for what is kept and fresh")
					}
					b.hosts["a"] = nil
					time.Sleep(time.Hour)
					r := askFront(t.Context(), handler(false), path)
					if r.code != 200 || r.body != good.body || (r.info.Stale == "") != (path == infoOfM) {
						t.Errorf("with nobody to ask: %d %q, stale %q: %v", r.code, r.body, r.info.Stale, r.info.Err)
					}
					r = askFront(t.Context(), handler(true), path)
					if r.code != 200 || r.body != good.body || !r.info.Hit {
						t.Errorf("where nobody may be asked: %d %q, %v", r.code, r.body, r.info.Err)
					}
					time.Sleep(10 * time.Minute)
				})
			})
		}
	}
}

// TestNothingToServe: where nothing is kept and nobody can, or may, be asked.
func TestNothingToServe(t *testing.T) {
	for _, path := range []string{listOfM, latestOfM, branchOfM, infoOfM} {
		inFront(t, newDatedOrigin(t), &modfetch.Handler{CacheOnly: true}, func(t *testing.T, f *front) {
			f.get(path).want(t, 503, "", 0, "")
			if n := f.origin.Count("*"); n > 0 {
				t.Errorf("%d requests", n)
			}
		})
	}
}

// TestProcessesShareAnswers: what another process has been told is used before a mirror is asked.
func TestProcessesShareAnswers(t *testing.T) {
	for _, path := range []string{listOfM, latestOfM, branchOfM} {
		t.Run(path, func(t *testing.T) {
			cache := modfetch.DirCache(t.TempDir())
			inFront(t, newDatedOrigin(t), new(modfetch.Handler), func(t *testing.T, f *front) {
				f.Fetcher, _ = f.fetcher("a", modfetch.WithCache(cache))
				other := &front{f.bubble, telling(new(modfetch.Handler)), f.origin}
				other.Fetcher, _ = f.fetcher("a", modfetch.WithCache(cache))
				f.get(path)
				time.Sleep(50 * time.Second)
				asked := f.asked(path)
				other.get(path).want(t, 200, "", 50*time.Second, "")
				if asked() > 0 {
					t.Error("the second process asked for what the first had been told")
				}
				releaseM(f.origin, "v1.1.0")
				time.Sleep(15 * time.Second)
				other.get(path).want(t, 200, "", 65*time.Second, "revalidating")
				f.settled()
				before := asked()
				r := f.get(path)
				r.want(t, 200, "", 0, "")
				if asked() != before || !strings.Contains(r.body, "v1.1.0") {
					t.Errorf("the first asked %d times for what the second had been told; it serves %q", asked()-before, r.body)
				}
			})
		})
	}
}

// TestPublishedElsewhereInTheMeantime: an absence that is no longer believed is no reason to ask a mirror before looking at what
// another process has been told.
func TestPublishedElsewhereInTheMeantime(t *testing.T) {
	cache := modfetch.DirCache(t.TempDir())
	origin := modfetchtest.NewServer(t, nil)
	inFront(t, origin, new(modfetch.Handler), func(t *testing.T, f *front) {
		f.Fetcher, _ = f.fetcher("a", modfetch.WithCache(cache))
		other := &front{f.bubble, telling(new(modfetch.Handler)), f.origin}
		other.Fetcher, _ = f.fetcher("a", modfetch.WithCache(cache))
		f.get(listOfM).want(t, 404, "", 0, "")
		releaseM(origin, "v1.0.0")
		time.Sleep(35 * time.Second)
		other.get(listOfM).want(t, 200, listOf("v1.0.0"), 0, "")
		asked := f.asked(listOfM)
		time.Sleep(5 * time.Second)
		f.get(listOfM).want(t, 200, listOf("v1.0.0"), 5*time.Second, "")
		if asked() > 0 {
			t.Error("the mirror was asked for what the other process had been told")
		}
	})
}

// TestForgedAnswers: what others have put into the Cache is served only if it could have been an answer.
func TestForgedAnswers(t *testing.T) {
	t.Parallel()
	header := func(age time.Duration, more string) string {
		return `{"Time":"` + time.Now().Add(-age).Format(time.RFC3339Nano) + `"` + more + "}\n"
	}
	huge := "v1.9.9\n" + strings.Repeat(" ", 17<<20) + "\n"
	for name, forged := range map[string]struct{ list, latest func() string }{
		"empty":           {func() string { return "" }, nil},
		"garbage":         {func() string { return "\x00\xff garbage \n v1.9.9" }, nil},
		"no header":       {func() string { return "v1.9.9\n" }, func() string { return `{"Version":"v1.9.9"}` }},
		"cut in header":   {func() string { return header(time.Second, "")[:20] }, nil},
		"half a header":   {func() string { return header(time.Second, `,"Mirror":7`) + "v1.9.9\n" }, func() string { return header(time.Second, `,"Mirror":7`) + `{"Version":"v1.9.9"}` }},
		"null":            {func() string { return "null\nv1.9.9\n" }, func() string { return "null\n{\"Version\":\"v1.9.9\"}" }},
		"from the past":   {func() string { return header(100*time.Hour, "") + "v1.9.9\n" }, func() string { return header(100*time.Hour, "") + `{"Version":"v1.9.9"}` }},
		"from the future": {func() string { return header(-time.Hour, "") + "v1.9.9\n" }, func() string { return header(-time.Hour, "") + `{"Version":"v1.9.9"}` }},
		"does not fit":    {func() string { return header(time.Second, "") + "v1.9.9/../../x\n9\nv9\n" }, func() string { return header(time.Second, "") + `{"Version":"v2.9.9"}` }},
		"not JSON":        {nil, func() string { return header(time.Second, "") + `v1.9.9` }},
		"huge": {func() string { return header(time.Second, "") + huge }, func() string {
			return header(time.Second, "") + `{"Version":"v1.9.9"` + strings.Repeat(" ", 17<<20) + "}"
		}},
		"huge header": {func() string { return `{"Mirror":"` + huge }, nil},
		"evil ETag, old": {func() string {
			return header(time.Hour, `,"Mirror":"http://a.test","ETag":"\"a\r\nEvil: x\""`) + "v1.0.0\n"
		},
			func() string {
				return header(time.Hour, `,"Mirror":"http://a.test","ETag":"\"a\r\nEvil: x\""`) + `{"Version":"v1.0.0"}`
			}},
	} {
		if forged.latest == nil {
			forged.latest = forged.list
		}
		for path, content := range map[string]func() string{listOfM: forged.list, latestOfM: forged.latest} {
			if content == nil {
				continue
			}
			t.Run(name+path, func(t *testing.T) {
				inFront(t, newDatedOrigin(t), new(modfetch.Handler), func(t *testing.T, f *front) {
					cache := new(modfetch.MemCache)
					f.Fetcher, _ = f.fetcher("a", modfetch.WithCache(cache))
					put := func() {
						if err := cache.Put(t.Context(), "modfetch/fresh"+path, strings.NewReader(content())); err != nil {
							t.Fatal(err)
						}
					}
					put()
					f.hosts["a"] = nil
					if r := f.get(path); strings.Contains(r.body, "9.9") || r.code == 404 {
						t.Fatalf("with nobody to ask: %d %.100q", r.code, r.body)
					}
					put()
					f.hosts["a"] = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						if strings.ContainsAny(r.Header.Get("If-None-Match"), "\r\n") {
							panic(http.ErrAbortHandler) // net/http's transport does not even send it
						}
						f.origin.ServeHTTP(w, r)
					})
					time.Sleep(15 * time.Minute)
					f.get(path)
					time.Sleep(5 * time.Second)
					r := f.get(path)
					if r.want(t, 200, "", 5*time.Second, ""); strings.Contains(r.body, "9.9") {
						t.Errorf("served: %.100q", r.body)
					}
					kept, err := cache.Open(t.Context(), "modfetch/fresh"+path)
					if err != nil {
						t.Fatal(err)
					}
					defer kept.Close()
					var now bytes.Buffer
					now.ReadFrom(kept)
					if strings.Contains(now.String(), "9.9") || strings.Contains(now.String(), "Evil") {
						t.Errorf("still kept: %.100q", now.String())
					}
				})
			})
		}
	}
}

// TestWhatIsVerifiedNeverExpires, and an .info file is asked for again, but served on without end.
func TestWhatIsVerifiedNeverExpires(t *testing.T) {
	inFront(t, newDatedOrigin(t), new(modfetch.Handler), func(t *testing.T, f *front) {
		paths := []string{infoOfM, "/example.com/m/@v/v1.0.0.mod", "/example.com/m/@v/v1.0.0.zip"}
		good := make(map[string]string)
		for _, path := range paths {
			good[path] = f.get(path).body
		}
		f.origin.Fault("*", modfetchtest.Status(500))
		asked, askedInfo := f.asked("*"), f.asked(infoOfM)
		start := time.Now()
		for _, age := range []time.Duration{23 * time.Hour, 25 * time.Hour, 100 * 24 * time.Hour, 10 * 365 * 24 * time.Hour} {
			time.Sleep(age - time.Since(start))
			for _, path := range paths {
				if r := f.get(path); r.code != 200 || r.body != good[path] {
					t.Fatalf("%s after %s: %d %q: %v", path, age, r.code, r.body, r.info.Err)
				}
			}
			f.settled()
			time.Sleep(time.Second)
			if stale := f.get(infoOfM).info.Stale; (stale == "error") != (age > defaultInfoTTL) {
				t.Errorf("after %s the .info file is stale: %q", age, stale)
			}
		}
		if asked() != askedInfo() || asked() == 0 {
			t.Errorf("asked %d times, %d of them for the .info file", asked(), askedInfo())
		}
		f.origin.ClearFaults()
		f.origin.Fault(infoOfM, modfetchtest.Handler(func(w http.ResponseWriter, _ *http.Request) {
			w.Write([]byte(`{"Version":"v1.0.0","Time":"2025-01-01T00:00:00Z"}`))
		}))
		time.Sleep(time.Hour)
		f.get(infoOfM)
		time.Sleep(10 * time.Second)
		if r := f.get(infoOfM); !strings.Contains(r.body, "2025-01-01") || r.info.Stale != "" {
			t.Errorf("after the recovery: %q, stale %q", r.body, r.info.Stale)
		}
	})
}

// TestVersionThatMirrorsHaveDropped: its zip and go.mod file are served on, so its .info file is too.
func TestVersionThatMirrorsHaveDropped(t *testing.T) {
	inFront(t, newDatedOrigin(t), new(modfetch.Handler), func(t *testing.T, f *front) {
		paths := []string{infoOfM, "/example.com/m/@v/v1.0.0.mod", "/example.com/m/@v/v1.0.0.zip"}
		for _, path := range paths {
			if r := f.get(path); r.code != 200 {
				t.Fatalf("%s: %d %q", path, r.code, r.body)
			}
		}
		f.origin.Fault("/example.com/m/*", modfetchtest.Status(404))
		for range 4 {
			time.Sleep(15 * time.Hour)
			for range 2 {
				for _, path := range paths {
					if r := f.get(path); r.code != 200 {
						t.Fatalf("%s: %d %q", path, r.code, r.body)
					}
				}
				f.settled()
			}
		}
	})
}

// TestRandomNamesFillNothing: names that clients make up are remembered within bounds, and never on disk.
func TestRandomNamesFillNothing(t *testing.T) {
	const names, length, most = 6000, 3800, 22 << 20
	dir, origin := tempDir(t), newDatedOrigin(t)
	nowhere := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "not found", http.StatusNotFound) })
	synctest.Test(t, func(t *testing.T) {
		b := &bubble{TB: t, origin: origin, sums: new(modfetch.GoSum), hosts: map[string]http.Handler{"a": nowhere}, gosumdb: "off", dir: dir}
		h := &modfetch.Handler{}
		h.Fetcher, _ = b.fetcher("a")
		heap := func() int64 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return int64(m.HeapAlloc)
		}
		ask := func(kind string, names, want int) {
			before := heap()
			for i := range names {
				path := fmt.Sprintf("/example.com/%s/%d/%s/@v/list", kind, i, strings.Repeat("l", length))
				w := httptest.NewRecorder()
				if h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", path, nil)); w.Code != want {
					t.Fatalf("%d %q", w.Code, w.Body)
				}
				b.mu.Lock()
				b.ended = nil
				b.mu.Unlock()
			}
			if grown := heap() - before; grown > most {
				t.Errorf("%d names that are %s take %d MiB", names, kind, grown>>20)
			}
		}
		ask("absent", names, 404)
		for i := range 100 { // which a disk could hold
			for _, file := range []string{"list", "v1.0.0.zip"} {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", fmt.Sprintf("/example.com/n%d/@v/%s", i, file), nil))
			}
		}
		b.hosts["a"] = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusForbidden) })
		ask("forbidden", names/2, 403)
		runtime.KeepAlive(h)
	})
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 { // not even of locks
		t.Errorf("on disk is %v, error %v", entries, err)
	}
}

// TestGoCommandSeesTheSameThroughAHandler compares with what it sees directly.
func TestGoCommandSeesTheSameThroughAHandler(t *testing.T) {
	goCommand := needGo(t)
	s := newWorld(t)
	for _, v := range []string{"v1.1.0", "v1.2.0-pre", "v1.10.0"} {
		releaseM(s, v)
	}
	s.Add(modfetchtest.NewModule("example.com/untagged", "v0.0.0-20240102030405-0123456789ab").File("x.go", "package x\n"))
	f, _ := newFetcher(t, s.Options()...)
	proxy := httptest.NewServer(&modfetch.Handler{Fetcher: f})
	defer proxy.Close()
	for _, args := range [][]string{
		{"list", "-m", "-versions", "example.com/m"},
		{"list", "-m", "-versions", "example.com/Upper/Case"},
		{"list", "-m", "-versions", "example.com/untagged"},
		{"list", "-m", "-json", "example.com/m@latest"},
		{"list", "-m", "-json", "example.com/m@main"},
		{"list", "-m", "-json", "example.com/m@v1.1"},
		{"list", "-m", "-json", "example.com/m@<v1.1.0"},
		{"list", "-m", "-json", "example.com/untagged@latest"},
		{"list", "-m", "-json", "example.com/old@latest"},
	} {
		t.Run(strings.Join(args[1:], " "), func(t *testing.T) {
			run := func(proxy string) string {
				env := s.Env(t)
				dir := ""
				for _, kv := range env {
					if d, ok := strings.CutPrefix(kv, "GOMODCACHE="); ok {
						dir = d
					}
				}
				return strings.ReplaceAll(runGo(t, goCommand, append(env, "GOPROXY="+proxy), args...), dir, "")
			}
			if direct, through := run(s.URL), run(proxy.URL); direct != through || direct == "" {
				t.Errorf("directly %q, through the Handler %q", direct, through)
			}
		})
	}
}

// TestAnswersAreKeptWhereTheDocsSay: below modfetch/fresh, out of the way of the protocol's own names.
func TestAnswersAreKeptWhereTheDocsSay(t *testing.T) {
	inFront(t, newDatedOrigin(t), new(modfetch.Handler), func(t *testing.T, f *front) {
		var dir string
		f.Fetcher, dir = f.fetcher("a")
		for _, path := range []string{listOfM, latestOfM, branchOfM, infoOfM} {
			f.get(path)
			kept := filepath.Join(dir, "cache/modfetch/fresh", filepath.FromSlash(path))
			if _, err := os.Stat(kept); (err == nil) != (path != infoOfM) {
				t.Errorf("%s: %v", kept, err)
			}
		}
		for _, name := range files(t, dir) {
			if strings.HasSuffix(name, "@latest") && !strings.HasPrefix(name, "cache/modfetch/") || strings.HasSuffix(name, "download/example.com/m/@v/main.info") {
				t.Errorf("%s is there", name)
			}
		}
	})
}
