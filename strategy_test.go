package modfetch_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
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
	"golang.org/x/mod/module"
)

// A bubble is a world without sockets: mirrors in it answer in fake time, which is exact and free.
type bubble struct {
	testing.TB
	origin *modfetchtest.Server
	sums   *modfetch.GoSum
	hosts  map[string]http.Handler

	gosumdb string // "" for the origin's
	dir     string // the module cache of all Fetchers; "" for a new one each

	mu    sync.Mutex // guards the following
	bytes int64
	ended []modfetch.AttemptInfo
}

// bigModule has a zip that does not compress.
var bigModule = module.Version{Path: "example.com/big", Version: "v1.0.0"}

const bigSize = 3 << 20

// newBigWorld returns the origin of all bubbles. It has sockets, and so is started before time is faked; tests ask mirrors
// of it.
func newBigWorld(t testing.TB) (*modfetchtest.Server, *modfetch.GoSum) {
	t.Helper()
	w, err := bigWorld()
	if err != nil {
		t.Fatal(err)
	}
	return w.Server, w.sums
}

type bigWorldOf struct {
	*modfetchtest.Server
	sums *modfetch.GoSum
}

var bigWorld = sync.OnceValues(func() (w bigWorldOf, err error) {
	if w.Server, err = modfetchtest.Start(nil); err != nil {
		return w, err
	}
	random := make([]byte, bigSize)
	rand.NewChaCha8([32]byte{1}).Read(random)
	w.Add(modfetchtest.NewModule(bigModule.Path, bigModule.Version).File("big.bin", string(random)))
	var lines []string
	for _, m := range append(slices.Clone(allModules), bigModule) {
		if m != bigModule {
			w.Add(modfetchtest.NewModule(m.Path, m.Version).File("x.go", "package x // "+m.Path+"\n"))
		}
		lines = append(lines, w.GoSum(m.Path, m.Version))
	}
	w.sums, err = modfetch.ParseGoSum("go.sum", []byte(strings.Join(lines, "")))
	return w, err
})

// inBubble runs a test in fake time.
func inBubble(t *testing.T, origin *modfetchtest.Server, sums *modfetch.GoSum, hosts map[string]*modfetchtest.Server, run func(t *testing.T, b *bubble)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bubble{TB: t, origin: origin, sums: sums, hosts: make(map[string]http.Handler)}
		for name, s := range hosts {
			b.hosts[name] = s
		}
		run(t, b)
	})
}

// fetcher makes a Fetcher of mirrors such as "a|b", which are hosts below .test; without a list, those of opts.
func (b *bubble) fetcher(list string, opts ...modfetch.Option) (*modfetch.Fetcher, string) {
	b.Helper()
	var items []string
	for _, item := range strings.FieldsFunc(list, func(r rune) bool { return r == '|' || r == ',' }) {
		items = append(items, item, "http://"+item+".test")
	}
	dir := b.dir
	if dir == "" {
		dir = tempDir(b)
	}
	if list != "" {
		opts = append(opts, modfetch.WithGOPROXY(strings.NewReplacer(items...).Replace(list)))
	}
	f, err := modfetch.New(append([]modfetch.Option{
		modfetch.WithGoSum(b.sums), modfetch.WithSumDB(cmp.Or(b.gosumdb, b.origin.GOSUMDB())),
		modfetch.WithModCache(dir), modfetch.WithHTTPClient(&http.Client{Transport: b}), modfetch.WithTrace(&modfetch.Trace{
			AttemptDone: func(_ context.Context, i modfetch.AttemptInfo) {
				b.mu.Lock()
				defer b.mu.Unlock()
				b.ended = append(b.ended, i)
			},
		})}, opts...)...)
	if err != nil {
		b.Fatal(err)
	}
	return f, dir
}

// RoundTrip calls a handler, whose body streams.
func (b *bubble) RoundTrip(r *http.Request) (*http.Response, error) {
	h := b.hosts[strings.TrimSuffix(r.URL.Host, ".test")]
	if h == nil {
		return nil, errors.New("connection refused")
	}
	ctx, cancel := context.WithCancel(r.Context())
	pr, pw := io.Pipe()
	w := &pipeWriter{b: b, header: make(http.Header), pipe: pw, ready: make(chan struct{})}
	stop := context.AfterFunc(ctx, func() { pr.CloseWithError(context.Cause(ctx)) })
	go func() {
		defer cancel()
		defer stop() // what has been written is still to be read
		defer func() {
			if recover() != nil { // http.ErrAbortHandler
				pw.CloseWithError(io.ErrUnexpectedEOF)
			}
			w.WriteHeader(http.StatusOK)
			pw.Close()
		}()
		in := r.Clone(ctx)
		in.Host, in.URL.Host = "", ""
		h.ServeHTTP(w, in)
	}()
	select {
	case <-w.ready:
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	size := int64(-1)
	fmt.Sscan(w.sent.Get("Content-Length"), &size)
	return &http.Response{StatusCode: w.code, Status: fmt.Sprint(w.code), Header: w.sent, ContentLength: size, Request: r, ProtoMajor: 1, ProtoMinor: 1,
		Body: &pipeBody{pr, size, func() { stop(); cancel(); pr.Close() }}}, nil
}

// A pipeBody ends as net/http's would: a body that is too short is an error.
type pipeBody struct {
	io.Reader
	left  int64
	close func()
}

func (p *pipeBody) Read(buf []byte) (int, error) {
	n, err := p.Reader.Read(buf)
	if p.left >= 0 {
		if p.left -= int64(n); p.left == 0 {
			return n, io.EOF
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
	}
	return n, err
}

func (p *pipeBody) Close() error { p.close(); return nil }

type pipeWriter struct {
	b      *bubble
	header http.Header
	sent   http.Header // as it was with the code
	pipe   *io.PipeWriter
	code   int
	once   sync.Once
	ready  chan struct{}
}

func (w *pipeWriter) Header() http.Header { return w.header }
func (w *pipeWriter) Flush()              {}

func (w *pipeWriter) WriteHeader(code int) {
	w.once.Do(func() { w.code, w.sent = code, w.header.Clone(); close(w.ready) })
}

func (w *pipeWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	n, err := w.pipe.Write(p)
	w.b.mu.Lock()
	defer w.b.mu.Unlock()
	w.b.bytes += int64(n)
	return n, err
}

// sent counts the bytes of all bodies.
func (b *bubble) sent() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.bytes
}

// failures lists the attempts at a mirror that failed, but for those that were overtaken.
func (b *bubble) failures(host string) (list []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, i := range b.ended {
		if i.Mirror == "http://"+host+".test" && i.Err != nil && i.Kind != modfetch.Canceled {
			list = append(list, fmt.Sprintf("%s: %s: %v", i.Path, i.Kind, i.Err))
		}
	}
	return list
}

// wantBig checks that the big module is there, and nothing but what belongs to modules.
func (b *bubble) wantBig(f *modfetch.Fetcher, dir string) {
	b.Helper()
	z, err := f.Zip(b.Context(), bigModule)
	if err != nil {
		b.Fatal(err)
	}
	defer z.Close()
	got, err := io.ReadAll(io.NewSectionReader(z, 0, z.Size))
	if err != nil {
		b.Fatal(err)
	}
	if want := httpGetIn(b, b.origin, "/example.com/big/@v/v1.0.0.zip"); !bytes.Equal(got, want) {
		b.Errorf("the zip has %d bytes, not the %d that it should have", len(got), len(want))
	}
	for _, name := range files(b, dir) {
		if strings.Contains(name, "tmp") || strings.Contains(name, "staging") {
			b.Errorf("left behind: %s", name)
		}
	}
}

// httpGetIn asks a server without a socket.
func httpGetIn(t testing.TB, s *modfetchtest.Server, path string) []byte {
	t.Helper()
	w := &recorder{header: make(http.Header)}
	r, err := http.NewRequest("GET", "http:"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.ServeHTTP(w, r)
	return w.Bytes()
}

type recorder struct {
	bytes.Buffer
	header http.Header
}

func (r *recorder) Header() http.Header { return r.header }

func (r *recorder) WriteHeader(int) {
	size, _ := strconv.Atoi(r.header.Get("Content-Length"))
	r.Buffer = *bytes.NewBuffer(make([]byte, 0, size))
}

func TestStaggerOvertakesWhatDoesNotAnswer(t *testing.T) {
	origin, sums := newBigWorld(t)
	silent, quick := origin.Mirror(), origin.Mirror()
	silent.Fault("*", modfetchtest.Hang())
	inBubble(t, origin, sums, map[string]*modfetchtest.Server{"silent": silent, "quick": quick}, func(t *testing.T, b *bubble) {
		f, _ := b.fetcher("silent|quick", modfetch.WithStrategy(modfetch.Stagger(300*time.Millisecond)))
		start := time.Now()
		if _, err := f.GoMod(t.Context(), moduleM); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != 300*time.Millisecond {
			t.Errorf("overtaken after %s, want 300ms", took)
		}
		if list := b.failures("silent"); len(list) > 0 {
			t.Errorf("who is overtaken has not failed: %q", list)
		}
		// Whoever is known to be quick is asked first, and overtaken sooner.
		start = time.Now()
		if _, err := f.GoMod(t.Context(), moduleV2); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > 50*time.Millisecond {
			t.Errorf("the second file took %s", took)
		}
	})
}

// TestMirrorThatHangsHoldsUpNobody: not even if all requests that may be under way are its.
func TestMirrorThatHangsHoldsUpNobody(t *testing.T) {
	origin, sums := newBigWorld(t)
	for name, strategy := range map[string]modfetch.Strategy{"stagger": modfetch.Stagger(300 * time.Millisecond), "race": modfetch.Race()} {
		for _, list := range []string{"hang|slow|good", "good|slow|hang"} {
			t.Run(name+" "+list, func(t *testing.T) {
				hang, slow, good := origin.Mirror(), origin.Mirror(), origin.Mirror()
				hang.Fault("*", modfetchtest.Hang())
				slow.Fault("*", modfetchtest.Fault{}.Latency(2*time.Second))
				good.Fault("*", modfetchtest.Fault{}.Latency(50*time.Millisecond))
				inBubble(t, origin, sums, map[string]*modfetchtest.Server{"hang": hang, "slow": slow, "good": good}, func(t *testing.T, b *bubble) {
					f, _ := b.fetcher(list, modfetch.WithStrategy(strategy), modfetch.WithJobs(2))
					start := time.Now()
					var wg sync.WaitGroup
					for _, m := range append(slices.Clone(allModules), bigModule) {
						wg.Go(func() {
							if _, err := f.GoMod(t.Context(), m); err != nil {
								t.Error(err)
							}
						})
					}
					wg.Wait()
					if took := time.Since(start); took > 3*time.Second {
						t.Errorf("took %s", took)
					}
				})
			})
		}
	}
}

// TestPatienceWithWhoHasNeverAnswered: that others were sooner so far says nothing of how long it usually takes.
func TestPatienceWithWhoHasNeverAnswered(t *testing.T) {
	origin, sums := newBigWorld(t)
	hang, good := origin.Mirror(), origin.Mirror()
	hang.Fault("*", modfetchtest.Hang())
	inBubble(t, origin, sums, map[string]*modfetchtest.Server{"hang": hang, "good": good}, func(t *testing.T, b *bubble) {
		f, _ := b.fetcher("hang|good", modfetch.WithStrategy(modfetch.Stagger(300*time.Millisecond)))
		if _, err := f.GoMod(t.Context(), moduleM); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, err := f.Info(t.Context(), moduleM.Path, moduleM.Version); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != 500*time.Millisecond {
			t.Errorf("took %s", took)
		}
	})
}

func TestStaggerFollowsTheUsualLatency(t *testing.T) {
	origin, sums := newBigWorld(t)
	a, c := origin.Mirror(), origin.Mirror()
	a.Fault("*", modfetchtest.Fault{}.Latency(40*time.Millisecond))
	c.Fault("*", modfetchtest.Fault{}.Latency(60*time.Millisecond))
	inBubble(t, origin, sums, map[string]*modfetchtest.Server{"a": a, "c": c}, func(t *testing.T, b *bubble) {
		f, _ := b.fetcher("a|c", modfetch.WithStrategy(modfetch.Stagger(10*time.Second)))
		for _, m := range allModules[:3] {
			if _, err := f.GoMod(t.Context(), m); err != nil {
				t.Fatal(err)
			}
		}
		if n := c.Count("*"); n != 1 {
			t.Errorf("the second was asked %d times, want once, to learn how soon it answers: the first answers as usual", n)
		}
		b.hosts["a"] = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		start := time.Now()
		if _, err := f.GoMod(t.Context(), moduleOld); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != (120+60)*time.Millisecond {
			t.Errorf("overtaken so that it took %s, want three times 40ms and then 60ms", took)
		}
	})
}

func TestRaceAsksAllAndBlamesNobody(t *testing.T) {
	origin, sums := newBigWorld(t)
	slow, quick, silent := origin.Mirror(), origin.Mirror(), origin.Mirror()
	slow.Fault("*", modfetchtest.Fault{}.Latency(time.Second))
	quick.Fault("*", modfetchtest.Fault{}.Latency(100*time.Millisecond))
	silent.Fault("*", modfetchtest.Hang())
	hosts := map[string]*modfetchtest.Server{"slow": slow, "quick": quick, "silent": silent}
	inBubble(t, origin, sums, hosts, func(t *testing.T, b *bubble) {
		f, dir := b.fetcher("slow|silent|quick", modfetch.WithStrategy(modfetch.Race()))
		start := time.Now()
		if _, err := f.GoMod(t.Context(), bigModule); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != 100*time.Millisecond {
			t.Errorf("took %s, want 100ms", took)
		}
		b.wantBig(f, dir)
		for name, s := range hosts {
			if n := s.Count("*.mod"); n != 1 {
				t.Errorf("%s was asked %d times for the go.mod file", name, n)
			}
			if list := b.failures(name); len(list) > 0 {
				t.Errorf("%q", list)
			}
		}
		if size := int64(len(httpGetIn(t, origin, "/example.com/big/@v/v1.0.0.zip"))); b.sent() > size*11/10 {
			t.Errorf("%d bytes were sent for a zip of %d", b.sent(), size)
		}
	})
}

// TestNobodyRacesWhereItMatters: across a comma, for a routed or exempt path, and for files that nobody can vouch for.
func TestNobodyRacesWhereItMatters(t *testing.T) {
	origin, sums := newBigWorld(t)
	for name, c := range map[string]struct {
		list string
		opts []modfetch.Option
		path string
	}{
		"across a comma":     {"slow,other", nil, "*"},
		"a routed path":      {"slow|other", []modfetch.Option{modfetch.WithRoute("example.com", "http://slow.test|http://other.test")}, "*"},
		"an exempt path":     {"slow|other", []modfetch.Option{modfetch.WithGoEnv(modfetch.GoEnv{GONOSUMDB: "example.com"})}, "*"},
		"files without hash": {"slow|other", nil, "*.info"},
	} {
		for strategy, s := range map[string]modfetch.Strategy{"race": modfetch.Race(), "stagger": modfetch.Stagger(time.Millisecond)} {
			t.Run(name+", "+strategy, func(t *testing.T) {
				slow, other := origin.Mirror(), origin.Mirror()
				slow.Fault("*", modfetchtest.Fault{}.Latency(400*time.Millisecond))
				inBubble(t, origin, sums, map[string]*modfetchtest.Server{"slow": slow, "other": other}, func(t *testing.T, b *bubble) {
					sumdb := modfetch.WithStrategy(s)
					f, _ := b.fetcher(c.list, append(c.opts, sumdb)...)
					for _, err := range f.Download(t.Context(), []module.Version{moduleM}) {
						if err != nil {
							t.Fatal(err)
						}
					}
					if n := other.Count(c.path); n > 0 {
						t.Errorf("the other was asked for %q", other.Requests())
					}
				})
			})
		}
	}
}

func TestDeadMirrorCostsItsTimeOnce(t *testing.T) {
	origin, sums := newBigWorld(t)
	dead, good := origin.Mirror(), origin.Mirror()
	dead.Fault("*", modfetchtest.Hang())
	inBubble(t, origin, sums, map[string]*modfetchtest.Server{"dead": dead, "good": good}, func(t *testing.T, b *bubble) {
		f, _ := b.fetcher("dead|good")
		start := time.Now()
		for _, m := range allModules { // one after the other
			if _, err := f.GoMod(t.Context(), m); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took > 31*time.Second {
			t.Errorf("took %s: the dead mirror was waited for more than once", took)
		}
		infos := f.Mirrors()
		if len(infos) != 2 || infos[0].Until.IsZero() || infos[0].Failures[modfetch.Transient] != 1 || infos[1].Files != 4 || !infos[1].Until.IsZero() {
			t.Errorf("known of the mirrors: %+v", infos)
		}
		// It comes back.
		dead.ClearFaults()
		time.Sleep(time.Minute)
		if _, err := f.GoMod(t.Context(), bigModule); err != nil {
			t.Fatal(err)
		}
		if infos := f.Mirrors(); infos[0].Files != 1 || !infos[0].Until.IsZero() {
			t.Errorf("it is up again, but was not asked: %+v", infos)
		}
	})
}

func TestSoleMirrorIsAlwaysAsked(t *testing.T) {
	origin, sums := newBigWorld(t)
	only := origin.Mirror()
	only.Fault("*", modfetchtest.Status(503).Times(100))
	inBubble(t, origin, sums, map[string]*modfetchtest.Server{"only": only}, func(t *testing.T, b *bubble) {
		f, _ := b.fetcher("only")
		for range 3 {
			if _, err := f.GoMod(t.Context(), moduleM); err == nil {
				t.Fatal("no error")
			}
		}
		only.ClearFaults()
		if _, err := f.GoMod(t.Context(), moduleM); err != nil {
			t.Errorf("it is up again: %v", err)
		}
	})
}

// TestSlowMirrorIsOutrun: one that answers first, but sends slowly, does not hold up a zip that an equal one has too.
func TestSlowMirrorIsOutrun(t *testing.T) {
	origin, sums := newBigWorld(t)
	slow, quick := origin.Mirror(), origin.Mirror()
	slow.Fault("*.zip", modfetchtest.Fault{}.Bandwidth(100<<10))
	quick.Fault("*.zip", modfetchtest.Fault{}.Latency(100*time.Millisecond).Bandwidth(10<<20))
	inBubble(t, origin, sums, map[string]*modfetchtest.Server{"slow": slow, "quick": quick}, func(t *testing.T, b *bubble) {
		f, dir := b.fetcher("slow|quick", modfetch.WithStrategy(modfetch.Stagger(time.Second)))
		start := time.Now()
		b.wantBig(f, dir)
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("took %s", took)
		}
		if failed := b.failures("slow"); len(failed) > 0 {
			t.Errorf("who is outrun has not failed: %v", failed)
		}
	})
}

// TestMirrorThatAsksForPatienceGetsIt: as long as another one can be asked.
func TestMirrorThatAsksForPatienceGetsIt(t *testing.T) {
	origin, sums := newBigWorld(t)
	busy, free := origin.Mirror(), origin.Mirror()
	busy.Fault("*", modfetchtest.Status(429).Header("Retry-After", "20").Times(1))
	inBubble(t, origin, sums, map[string]*modfetchtest.Server{"busy": busy, "free": free}, func(t *testing.T, b *bubble) {
		f, _ := b.fetcher("busy|free")
		for i, wait := range []time.Duration{0, time.Second, 18 * time.Second, 2 * time.Second} {
			time.Sleep(wait)
			if _, err := f.GoMod(t.Context(), allModules[i]); err != nil {
				t.Fatal(err)
			}
			if n, want := busy.Count("*"), []int{1, 1, 1, 2}[i]; n != want {
				t.Errorf("file %d: asked %d times, want %d", i, n, want)
			}
		}
	})
}

func TestCondemnedMirrorIsPassedOver(t *testing.T) {
	origin, sums := newBigWorld(t)
	for _, list := range []string{"bad|good", "good|bad"} {
		bad, good := origin.Mirror(), origin.Mirror()
		bad.Fault("*.zip", modfetchtest.Corrupt())
		inBubble(t, origin, sums, map[string]*modfetchtest.Server{"bad": bad, "good": good}, func(t *testing.T, b *bubble) {
			f, _ := b.fetcher(list, modfetch.WithJobs(1))
			for _, m := range append(slices.Clone(allModules), bigModule) {
				if _, err := f.Dir(t.Context(), m); err != nil {
					t.Fatal(err)
				}
			}
			if n := bad.Count("*.zip"); n > 3 {
				t.Errorf("%s: asked for %d zips", list, n)
			}
		})
	}
}

func TestTransfersAreResumed(t *testing.T) {
	t.Parallel()
	origin, sums := newBigWorld(t)
	cut := modfetchtest.Truncate(1 << 20).Times(1)
	size := int64(len(httpGetIn(t, origin, "/example.com/big/@v/v1.0.0.zip")))
	weak := modfetchtest.Fault{}.Header("ETag", `W/"weak"`)
	for name, c := range map[string]struct {
		list  string
		a, c  []modfetchtest.Fault // the first counts
		extra int64                // bytes that may be sent twice
		fromC bool
	}{
		"by the same mirror":                {"a", []modfetchtest.Fault{cut}, nil, 0, false},
		"by the same mirror, of two":        {"a|c", []modfetchtest.Fault{cut}, nil, 0, false},
		"twice":                             {"a", []modfetchtest.Fault{modfetchtest.Truncate(1 << 19).Times(1), cut}, nil, 0, false},
		"by the next":                       {"a|c", []modfetchtest.Fault{cut, modfetchtest.Status(500)}, nil, 0, true},
		"by the next, which is cut too":     {"a|c", []modfetchtest.Fault{cut, modfetchtest.Status(500)}, []modfetchtest.Fault{cut}, 0, true},
		"not where ranges are ignored":      {"a|c", []modfetchtest.Fault{cut.Ignore("Range"), modfetchtest.Fault{}.Ignore("Range")}, nil, size, true},
		"whole where all ignore ranges":     {"a|c", []modfetchtest.Fault{cut.Ignore("Range"), modfetchtest.Fault{}.Ignore("Range")}, []modfetchtest.Fault{modfetchtest.Fault{}.Ignore("Range")}, 3 * size, true},
		"whole by the only one that does":   {"a", []modfetchtest.Fault{cut.Ignore("Range"), modfetchtest.Fault{}.Ignore("Range")}, nil, 3 * size, false},
		"not by a weak validator":           {"a|c", []modfetchtest.Fault{cut.Header("ETag", `W/"x"`), weak}, nil, 0, true},
		"after one stall":                   {"a|c", []modfetchtest.Fault{modfetchtest.Stall(1 << 20).Times(1)}, nil, 1 << 20, true},
		"after a stall, by the next":        {"a|c", []modfetchtest.Fault{modfetchtest.Stall(1 << 20)}, nil, 1 << 20, true},
		"where a page comes instead":        {"a|c", []modfetchtest.Fault{cut, modfetchtest.HTML()}, nil, 0, true},
		"after a drip":                      {"a|c", []modfetchtest.Fault{modfetchtest.Fault{}.Bandwidth(1000)}, nil, 1 << 20, true},
		"where the size changes in between": {"a|c", []modfetchtest.Fault{cut, modfetchtest.Fault{}.Header("Content-Range", "bytes 1048576-1048600/1048601")}, nil, 1 << 20, true},
	} {
		t.Run(name, func(t *testing.T) {
			servers := map[string]*modfetchtest.Server{"a": origin.Mirror(), "c": origin.Mirror()}
			for host, faults := range map[string][]modfetchtest.Fault{"a": c.a, "c": c.c} {
				for _, fault := range slices.Backward(faults) {
					servers[host].Fault("*.zip", fault)
				}
			}
			inBubble(t, origin, sums, servers, func(t *testing.T, b *bubble) {
				f, dir := b.fetcher(c.list)
				b.wantBig(f, dir)
				sent := b.sent()
				if sent > size+c.extra+(64<<10) {
					t.Errorf("%d bytes were sent for a zip of %d: %v %v", sent, size, servers["a"].Log(), servers["c"].Log())
				}
				if from := servers["c"].Count("*.zip") > 0; from != c.fromC {
					t.Errorf("the other mirror was asked: %t, want %t", from, c.fromC)
				}
			})
		})
	}
}

// TestBlameOfASplicedZipNeedsProof: who sent good bytes is not blamed for what another added.
func TestBlameOfASplicedZipNeedsProof(t *testing.T) {
	origin, sums := newBigWorld(t)
	honest, liar, third := origin.Mirror(), origin.Mirror(), origin.Mirror()
	honest.Fault("*.zip", modfetchtest.Status(500).Times(2))
	honest.Fault("*.zip", modfetchtest.Truncate(1<<20).Times(1))
	liar.Fault("*.zip", modfetchtest.CorruptRaw(-10000))
	hosts := map[string]*modfetchtest.Server{"honest": honest, "liar": liar, "third": third}
	inBubble(t, origin, sums, hosts, func(t *testing.T, b *bubble) {
		f, dir := b.fetcher("honest|liar|third")
		b.wantBig(f, dir)
		blamed := make(map[string]bool)
		for _, i := range b.ended {
			if i.Err != nil && strings.Contains(i.Err.Error(), "not those of the verified file") {
				blamed[i.Mirror] = true
			}
		}
		if len(blamed) != 1 || !blamed["http://liar.test"] {
			t.Errorf("blamed are %v: %+v", blamed, b.ended)
		}
	})
}

// TestRubbishInPartsIsFoundOut: a mirror that breaks off, and sends rubbish for the rest, is known for it.
func TestRubbishInPartsIsFoundOut(t *testing.T) {
	origin, sums := newBigWorld(t)
	liar, honest := origin.Mirror(), origin.Mirror()
	liar.Fault("*.zip", modfetchtest.Truncate(1<<20))
	hosts := map[string]*modfetchtest.Server{"liar": liar, "honest": honest}
	inBubble(t, origin, sums, hosts, func(t *testing.T, b *bubble) {
		h := b.hosts["liar"]
		b.hosts["liar"] = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var from int
			if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err != nil {
				h.ServeHTTP(w, r)
				return
			}
			size := len(httpGetIn(t, origin, bigZip))
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, size-1, size))
			w.Header().Set("Content-Length", strconv.Itoa(size-from))
			w.WriteHeader(http.StatusPartialContent)
			w.Write(make([]byte, size-from))
		})
		f, dir := b.fetcher("liar|honest")
		b.wantBig(f, dir)
		if failed := b.failures("liar"); !slices.ContainsFunc(failed, func(s string) bool { return strings.Contains(s, "not those of the verified file") }) {
			t.Errorf("the liar is not named: %v", failed)
		}
		if failed := b.failures("honest"); len(failed) > 0 {
			t.Errorf("the honest one is: %v", failed)
		}
		asked := liar.Count("*.zip")
		if _, err := f.Dir(t.Context(), moduleM); err != nil || liar.Count("*.zip") != asked {
			t.Errorf("the liar was asked for the next zip too, error %v", err)
		}
	})
}

// TestUnverifiedZipsAreNotSpliced: where no hash is known, a file comes whole from one mirror.
func TestUnverifiedZipsAreNotSpliced(t *testing.T) {
	origin, _ := newBigWorld(t)
	a, c := origin.Mirror(), origin.Mirror()
	a.Fault("*.zip", modfetchtest.Truncate(1<<20))
	inBubble(t, origin, nil, map[string]*modfetchtest.Server{"a": a, "c": c}, func(t *testing.T, b *bubble) {
		empty, err := modfetch.ParseGoSum("go.sum", nil)
		if err != nil {
			t.Fatal(err)
		}
		b.sums, b.gosumdb = empty, "off"
		f, dir := b.fetcher("a|c")
		b.wantBig(f, dir)
		for _, s := range []*modfetchtest.Server{a, c} {
			for _, r := range s.Log() {
				if strings.HasSuffix(r.Path, ".zip") && r.Header.Get("Range") != "" {
					t.Errorf("a part was asked for: %v", r)
				}
			}
		}
	})
}

func TestSlowTransferIsSpread(t *testing.T) {
	origin, sums := newBigWorld(t)
	for name, c := range map[string]struct {
		list     string
		strategy modfetch.Strategy
		least    float64
	}{
		"one mirror":        {"a", modfetch.Chain(), 2.5},
		"three equal":       {"a|b|c", modfetch.Race(), 2.5},
		"three equal, lazy": {"a|b|c", modfetch.Stagger(time.Second), 2.5},
	} {
		t.Run(name, func(t *testing.T) {
			hosts := make(map[string]*modfetchtest.Server)
			for _, host := range []string{"a", "b", "c"} {
				hosts[host] = origin.Mirror()
				hosts[host].Fault("*.zip", modfetchtest.Fault{}.Bandwidth(500<<10))
			}
			inBubble(t, origin, sums, hosts, func(t *testing.T, b *bubble) {
				f, dir := b.fetcher(c.list, modfetch.WithStrategy(c.strategy))
				start := time.Now()
				b.wantBig(f, dir)
				took := time.Since(start)
				if alone := time.Duration(float64(bigSize) / (500 << 10) * float64(time.Second)); alone.Seconds()/took.Seconds() < c.least {
					t.Errorf("took %s, where one connection takes %s", took, alone)
				}
			})
		})
	}
}

// TestRandomFaults lets mirrors fail at random while one of them stays honest: everything arrives, by whatever way, and
// nothing is left. A failure prints the seed.
func TestRandomFaults(t *testing.T) {
	t.Parallel()
	origin, sums := newBigWorld(t)
	rounds, _ := strconv.Atoi(cmp.Or(os.Getenv("MODFETCH_ROUNDS"), "25"))
	base := rand.Uint64()
	var spliced atomic.Int64
	for n := range rounds {
		seed := base + uint64(n)
		if !t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 0))
			hosts := map[string]*modfetchtest.Server{"a": origin.Mirror(), "b": origin.Mirror(), "c": origin.Mirror()}
			names := []string{"a", "b", "c"}
			honest := names[rnd.IntN(3)]
			for _, name := range names {
				if name == honest {
					if rnd.IntN(2) == 0 {
						hosts[name].Fault("*", modfetchtest.Fault{}.Latency(time.Duration(rnd.IntN(2000))*time.Millisecond).Bandwidth(100<<10+rnd.IntN(4<<20)))
					}
					continue
				}
				for range 1 + rnd.IntN(3) {
					fault := []modfetchtest.Fault{modfetchtest.Hang(), modfetchtest.Status(500), modfetchtest.Status(403), modfetchtest.Reset(), modfetchtest.HTML(),
						modfetchtest.Truncate(rnd.IntN(bigSize)), modfetchtest.Stall(rnd.IntN(bigSize)), modfetchtest.Corrupt(), modfetchtest.CorruptRaw(rnd.IntN(bigSize)),
						modfetchtest.Fault{}.Ignore("Range"), modfetchtest.Fault{}.Bandwidth(1 + rnd.IntN(100<<10))}[rnd.IntN(11)]
					if rnd.IntN(2) == 0 {
						fault = fault.Every(1 + rnd.IntN(3))
					}
					if rnd.IntN(3) == 0 {
						fault = fault.Times(1 + rnd.IntN(3))
					}
					hosts[name].Fault([]string{"*.zip", "*.mod", "*"}[rnd.IntN(3)], fault)
				}
			}
			strategy := []modfetch.Strategy{modfetch.Chain(), modfetch.Race(), modfetch.Stagger(300 * time.Millisecond)}[rnd.IntN(3)]
			inBubble(t, origin, sums, hosts, func(t *testing.T, b *bubble) {
				f, dir := b.fetcher("a|b|c", modfetch.WithStrategy(strategy), modfetch.WithJobs(1+rnd.IntN(8)))
				for m, err := range f.Download(t.Context(), []module.Version{bigModule, moduleM, moduleUpper}) {
					if err != nil {
						t.Errorf("honest is %s: %s: %v", honest, m.Version, err)
					}
				}
				b.wantBig(f, dir)
				for _, i := range b.ended {
					if i.Offset > 0 && i.Err == nil {
						spliced.Add(1)
					}
				}
			})
		}) {
			break
		}
	}
	if spliced.Load() == 0 {
		t.Error("not one file was put together from several answers")
	}
}
