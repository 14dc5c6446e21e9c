package modfetch_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/modfetchtest"
	"golang.org/x/mod/module"
)

const bigZip = "/example.com/big/@v/v1.0.0.zip"

// setAside returns the only file that an interrupted transfer has left, or "".
func setAside(t testing.TB, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, "cache", "modfetch"))
	entries = slices.DeleteFunc(entries, func(e os.DirEntry) bool { return e.Name() == "sumdb" }) // the tree head
	if err != nil && !os.IsNotExist(err) || len(entries) > 1 {
		t.Fatal(err, entries)
	}
	if len(entries) == 0 {
		return ""
	}
	return filepath.Join(dir, "cache", "modfetch", entries[0].Name())
}

// interrupt lets a process fetch the big zip, and ends it after d.
func (b *bubble) interrupt(list string, d time.Duration) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), d)
	defer cancel()
	f, _ := b.fetcher(list)
	z, err := f.Zip(ctx, bigModule)
	if err == nil {
		z.Close()
		b.Fatal("it was not interrupted")
	}
}

// TestInterruptedTransfersGoOn: the next process asks only for what the one before has not got.
func TestInterruptedTransfersGoOn(t *testing.T) {
	t.Parallel()
	origin, sums := newBigWorld(t)
	size := int64(len(httpGetIn(t, origin, bigZip)))
	for name, c := range map[string]struct {
		fault, then, later modfetchtest.Fault // of the mirror: at first, and when the next process asks
		list               string
		after              time.Duration
		spoil              func(t *testing.T, file string)
		most               int64 // bytes sent to the second process
		nothing            bool  // is set aside
	}{
		"cancelled":                   {fault: modfetchtest.Stall(2 << 20), list: "a", after: time.Second, most: size - 2<<20},
		"cancelled in many parts":     {fault: modfetchtest.Fault{}.Bandwidth(100 << 10), list: "a", after: 3 * time.Second, most: size - 1<<20},
		"all mirrors fail":            {fault: modfetchtest.Truncate(2 << 20).Times(1), then: modfetchtest.Status(500), list: "a", after: time.Hour, most: size - 2<<20},
		"almost nothing had arrived":  {fault: modfetchtest.Stall(100 << 10), list: "a", after: time.Second / 10, most: size, nothing: true},
		"another mirror goes on":      {fault: modfetchtest.Stall(2 << 20), later: modfetchtest.Status(500), list: "a|c", after: time.Second, most: size - 2<<20 + 1<<10},
		"one refuses, another does":   {fault: modfetchtest.Stall(2 << 20), later: modfetchtest.Status(403), list: "a|c", after: time.Second, most: size - 2<<20 + 1<<10},
		"ranges are ignored":          {fault: modfetchtest.Stall(2 << 20), later: modfetchtest.Fault{}.Ignore("Range"), list: "a", after: time.Second, most: size + 64<<10},
		"the range cannot be had":     {fault: modfetchtest.Stall(2 << 20), later: unsatisfiable(), list: "a", after: time.Second, most: size + 64<<10},
		"ranges are garbled":          {fault: modfetchtest.Stall(2 << 20), later: modfetchtest.Fault{}.Header("Content-Range", "x"), list: "a", after: time.Second, most: 2*size + 64<<10},
		"the mirror states a size":    {fault: modfetchtest.Stall(2 << 20), later: otherRange(), list: "a", after: time.Second, most: 2*size + 64<<10},
		"what was set aside is wrong": {fault: modfetchtest.Stall(2 << 20), list: "a", after: time.Second, spoil: flipByte(1 << 20), most: 2 * size},
		"the list is cut off":         {fault: modfetchtest.Stall(2 << 20), list: "a", after: time.Second, spoil: cutOff(3), most: size},
		"the file is cut off":         {fault: modfetchtest.Stall(2 << 20), list: "a", after: time.Second, spoil: cutOff(2 << 20), most: size},
		"it is no file": {fault: modfetchtest.Stall(2 << 20), list: "a", after: time.Second, most: size, spoil: func(t *testing.T, file string) {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("/dev/zero", file); err != nil {
				t.Skip(err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			a := origin.Mirror()
			a.Fault("*.zip", c.then)
			a.Fault("*.zip", c.fault)
			dir := tempDir(t)
			inBubble(t, origin, sums, map[string]*modfetchtest.Server{"a": a, "c": origin.Mirror()}, func(t *testing.T, b *bubble) {
				b.dir = dir
				b.interrupt("a", c.after)
				if (setAside(t, dir) == "") != c.nothing {
					t.Fatalf("set aside: %q", setAside(t, dir))
				}
				for _, name := range files(t, dir) {
					if strings.Contains(name, "@v") && !strings.HasSuffix(name, ".lock") {
						t.Errorf("left where the go command looks: %s", name)
					}
				}
				if c.spoil != nil {
					c.spoil(t, setAside(t, dir))
				}
				a.ClearFaults()
				a.Fault("*.zip", c.later)
				before := b.sent()
				f, _ := b.fetcher(c.list)
				b.wantBig(f, dir)
				if sent := b.sent() - before; sent > c.most {
					t.Errorf("%d bytes were sent again, want at most %d: %v", sent, c.most, a.Log())
				}
				if left := setAside(t, dir); left != "" && name != "it is no file" {
					t.Errorf("left behind: %s", left)
				}
				if condemned := b.condemned(); condemned != strings.HasPrefix(name, "what was set aside is wrong") {
					t.Errorf("what was put together was condemned: %t", condemned)
				}
				for _, i := range f.Mirrors() {
					if i.Mirror == "http://a.test" && len(i.Failures) > 0 && !strings.HasPrefix(name, "another") && !strings.HasPrefix(name, "one refuses") && !strings.HasPrefix(name, "the mirror states") {
						t.Errorf("the mirror is said to have failed: %v", i.Failures)
					}
				}
			})
		})
	}
}

// unsatisfiable answers a range with 416, once.
func unsatisfiable() modfetchtest.Fault { return modfetchtest.Status(416).Times(1) }

// onRange answers ranges, and leaves the whole to the mirror.
func onRange(answer http.HandlerFunc) modfetchtest.Fault {
	return modfetchtest.Middleware(func(honest http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Range") != "" {
				answer(w, r)
				return
			}
			honest.ServeHTTP(w, r)
		})
	})
}

// otherRange answers a range of another file, once.
func otherRange() modfetchtest.Fault {
	return modfetchtest.Fault{}.Header("Content-Range", "bytes 2097152-3000000/3000001").Times(1)
}

func flipByte(at int64) func(t *testing.T, file string) {
	return func(t *testing.T, file string) {
		f, err := os.OpenFile(file, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		var c [1]byte
		if _, err := f.ReadAt(c[:], at); err != nil {
			t.Fatal(err)
		}
		c[0]++
		if _, err := f.WriteAt(c[:], at); err != nil {
			t.Fatal(err)
		}
	}
}

func cutOff(n int64) func(t *testing.T, file string) {
	return func(t *testing.T, file string) {
		info, err := os.Stat(file)
		if err == nil {
			err = os.Truncate(file, info.Size()-n)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestWhatIsSetAsideIsBound: to a known hash, to a day, and to the verdict on it.
func TestWhatIsSetAsideIsBound(t *testing.T) {
	origin, sums := newBigWorld(t)
	stalling := func() *modfetchtest.Server {
		a := origin.Mirror()
		a.Fault("*.zip", modfetchtest.Stall(2<<20))
		return a
	}
	t.Run("hash", func(t *testing.T) {
		a := stalling()
		inBubble(t, origin, nil, map[string]*modfetchtest.Server{"a": a}, func(t *testing.T, b *bubble) {
			b.dir, b.gosumdb = tempDir(t), "off"
			b.interrupt("a", time.Second)
			if left := setAside(t, b.dir); left != "" {
				t.Errorf("nobody vouches for it, and yet it is kept: %s", left)
			}
			a.ClearFaults()
			plant(t, b.dir, bigModule, "", httpGetIn(t, origin, "/example.com/m/@v/v1.0.0.zip"), "null")
			f, dir := b.fetcher("a")
			b.wantBig(f, dir)
		})
	})
	t.Run("go.sum", func(t *testing.T) {
		wrong, err := modfetch.ParseGoSum("go.sum", []byte(bigModule.Path+" "+bigModule.Version+" h1:"+strings.Repeat("A", 43)+"=\n"))
		if err != nil {
			t.Fatal(err)
		}
		inBubble(t, origin, wrong, map[string]*modfetchtest.Server{"a": origin.Mirror()}, func(t *testing.T, b *bubble) {
			b.dir = tempDir(t)
			f, _ := b.fetcher("a")
			if z, err := f.Zip(t.Context(), bigModule); modfetch.KindOf(err) != modfetch.Security {
				t.Errorf("got %v, %v", z, err)
			}
			if left := setAside(t, b.dir); left != "" {
				t.Errorf("go.sum is to blame, and yet the zip is kept: %s", left)
			}
		})
	})
	t.Run("module", func(t *testing.T) { // nobody is asked for the hash of what was not interrupted
		a := stalling()
		inBubble(t, origin, nil, map[string]*modfetchtest.Server{"a": a}, func(t *testing.T, b *bubble) {
			b.dir = tempDir(t)
			plant(t, b.dir, bigModule, "h1:x", nil, "null")
			f, _ := b.fetcher("a")
			a.Fault("*", modfetchtest.Status(404))
			if z, err := f.Zip(t.Context(), moduleM); modfetch.KindOf(err) != modfetch.NotFound {
				t.Errorf("got %v, %v", z, err)
			}
			if n := a.Count("/sumdb/*"); n > 0 {
				t.Errorf("the database was asked for what is nowhere: %d requests", n)
			}
		})
	})
	t.Run("day", func(t *testing.T) {
		inBubble(t, origin, sums, map[string]*modfetchtest.Server{"a": stalling()}, func(t *testing.T, b *bubble) {
			b.dir = tempDir(t)
			b.interrupt("a", time.Second)
			file := setAside(t, b.dir)
			for i, age := range []time.Duration{23 * time.Hour, 25 * time.Hour} {
				if err := os.Chtimes(file, time.Time{}, time.Now().Add(-age)); err != nil {
					t.Fatal(err)
				}
				f, _ := b.fetcher("a")
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				f.Zip(ctx, allModules[i]) // any other
				cancel()
				if kept := setAside(t, b.dir) != ""; kept != (age < 24*time.Hour) {
					t.Errorf("after %v it is kept: %t", age, kept)
				}
			}
		})
	})
	t.Run("verdict", func(t *testing.T) {
		a := stalling()
		inBubble(t, origin, sums, map[string]*modfetchtest.Server{"a": a}, func(t *testing.T, b *bubble) {
			b.dir = tempDir(t)
			b.interrupt("a", time.Second)
			a.ClearFaults()
			a.Fault("*.zip", modfetchtest.CorruptRaw(-10000))
			f, _ := b.fetcher("a")
			if z, err := f.Zip(t.Context(), bigModule); modfetch.KindOf(err) != modfetch.Corrupt {
				t.Errorf("got %v, %v", z, err)
			}
			if left := setAside(t, b.dir); left != "" {
				t.Errorf("condemned, and yet kept: %s", left)
			}
		})
	})
	t.Run("all of it is there", func(t *testing.T) {
		a := stalling()
		inBubble(t, origin, sums, map[string]*modfetchtest.Server{"a": a}, func(t *testing.T, b *bubble) {
			b.dir = tempDir(t)
			b.interrupt("a", time.Second)
			line := strings.Fields(origin.GoSum(bigModule.Path, bigModule.Version))
			plant(t, b.dir, bigModule, line[2], httpGetIn(t, origin, bigZip), "null")
			synctest.Wait()
			asked := a.Count("*.zip")
			f, dir := b.fetcher("a")
			b.wantBig(f, dir)
			if a.Count("*.zip") != asked || setAside(t, dir) != "" {
				t.Errorf("asked %d times for what is there; left is %q", a.Count("*.zip")-asked, setAside(t, dir))
			}
		})
	})
}

// TestRangesThatFail: what has arrived must not keep anybody from a file that can be had only whole.
func TestRangesThatFail(t *testing.T) {
	t.Parallel()
	origin, sums := newBigWorld(t)
	line := strings.Fields(origin.GoSum(bigModule.Path, bigModule.Version))
	zip := httpGetIn(t, origin, bigZip)
	for name, fault := range map[string]http.HandlerFunc{
		"500":     func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) },
		"404":     func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) },
		"416":     func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(416) },
		"hangs":   func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"garbled": func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Range", "x"); w.WriteHeader(206) },
		"page": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(200)
		},
	} {
		for _, gaps := range []string{"[[0,1000]]", fmt.Sprintf("[[2000000,%d]]", len(zip)), fmt.Sprintf("[[0,1000],[2000000,%d]]", len(zip))} {
			t.Run(name+" "+gaps, func(t *testing.T) {
				a := origin.Mirror()
				a.Fault("*.zip", onRange(fault))
				inBubble(t, origin, sums, map[string]*modfetchtest.Server{"a": a}, func(t *testing.T, b *bubble) {
					b.dir = tempDir(t)
					plant(t, b.dir, bigModule, line[2], zip, gaps)
					f, dir := b.fetcher("a")
					b.wantBig(f, dir)
					if b.condemned() {
						t.Error("it was judged with a hole in it")
					}
				})
			})
		}
	}
}

// TestSlowMirrorWithoutRanges: parts are asked for of a slow file, and of a mirror that does not send them it is taken whole.
func TestSlowMirrorWithoutRanges(t *testing.T) {
	origin, sums := newBigWorld(t)
	zip := httpGetIn(t, origin, bigZip)
	for _, latency := range []time.Duration{0, time.Second, 8 * time.Second} {
		for _, rate := range []int{50 << 10, 250 << 10} {
			t.Run(fmt.Sprintf("%v %d", latency, rate), func(t *testing.T) {
				a := origin.Mirror()
				a.Fault("*.zip", onRange(func(w http.ResponseWriter, _ *http.Request) {
					time.Sleep(latency)
					w.Header().Set("Content-Length", strconv.Itoa(len(zip)))
					w.Write(zip)
				}).Bandwidth(rate))
				inBubble(t, origin, sums, map[string]*modfetchtest.Server{"a": a}, func(t *testing.T, b *bubble) {
					f, dir := b.fetcher("a")
					b.wantBig(f, dir)
					if b.condemned() {
						t.Error("it was judged with a hole in it")
					}
				})
			})
		}
	}
}

// TestGapsThatNobodyFills: what is not complete is never judged.
func TestGapsThatNobodyFills(t *testing.T) {
	origin, sums := newBigWorld(t)
	a := origin.Mirror()
	a.Fault("*.zip", modfetchtest.Fault{}.Header("ETag", `W/"weak"`)) // so that only the first gap is asked for
	zip := httpGetIn(t, origin, bigZip)
	inBubble(t, origin, sums, map[string]*modfetchtest.Server{"a": a}, func(t *testing.T, b *bubble) {
		b.dir = tempDir(t)
		line := strings.Fields(origin.GoSum(bigModule.Path, bigModule.Version))
		holes := bytes.Clone(zip)
		clear(holes[:1000])
		clear(holes[2000000:])
		plant(t, b.dir, bigModule, line[2], holes, fmt.Sprintf("[[0,1000],[2000000,%d]]", len(zip)))
		f, dir := b.fetcher("a")
		b.wantBig(f, dir)
		if b.condemned() {
			t.Error("it was judged with a hole in it")
		}
	})
}

// TestMirrorsThatAnswerSomethingElse: a Mirror may answer a range with whatever it has; what has arrived is not mixed with it.
func TestMirrorsThatAnswerSomethingElse(t *testing.T) {
	origin, sums := newBigWorld(t)
	zip := httpGetIn(t, origin, bigZip)
	size := int64(len(zip))
	for name, otherwise := range map[string]func(r *modfetch.Response){
		"a later offset":   func(r *modfetch.Response) { r.Offset += 1000; io.CopyN(io.Discard, r.Body, 1000) },
		"an early offset":  func(r *modfetch.Response) { r.Offset -= 1000; r.Body = prefixed(make([]byte, 1000), r.Body) },
		"a larger size":    func(r *modfetch.Response) { r.Size++; r.Body = prefixed([]byte{0}, r.Body) },
		"a smaller size":   func(r *modfetch.Response) { r.Size -= 10 },
		"the size is open": func(r *modfetch.Response) { r.Size = -1; r.Body = prefixed([]byte{0}, r.Body) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, origin, sums, map[string]*modfetchtest.Server{"a": origin.Mirror()}, func(t *testing.T, b *bubble) {
				b.dir = tempDir(t)
				line := strings.Fields(origin.GoSum(bigModule.Path, bigModule.Version))
				plant(t, b.dir, bigModule, line[2], zip, fmt.Sprintf("[[2000000,%d]]", size))
				m, err := modfetch.HTTPMirror("http://a.test", &http.Client{Transport: b})
				if err != nil {
					t.Fatal(err)
				}
				f, dir := b.fetcher("", modfetch.WithMirrors(&otherMirror{m, otherwise}))
				b.wantBig(f, dir)
				if b.condemned() {
					t.Error("the answer was mixed with what had arrived")
				}
			})
		})
	}
}

// An otherMirror answers ranges otherwise.
type otherMirror struct {
	modfetch.Mirror
	otherwise func(r *modfetch.Response)
}

func (m *otherMirror) Fetch(ctx context.Context, r modfetch.Request) (*modfetch.Response, error) {
	resp, err := m.Mirror.Fetch(ctx, r)
	if err == nil && resp.Offset > 0 {
		m.otherwise(resp)
	}
	return resp, err
}

// prefixed returns a body with something before it.
func prefixed(before []byte, body io.ReadCloser) io.ReadCloser {
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(before), body), body}
}

// condemned reports whether anything that was put together was.
func (b *bubble) condemned() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.ContainsFunc(b.ended, func(i modfetch.AttemptInfo) bool {
		return i.Err != nil && strings.Contains(i.Err.Error(), "and condemned")
	})
}

// TestOnlyWhatWasSetAsideIsRemoved: the directory may have been put there, with other people's files in it.
func TestOnlyWhatWasSetAsideIsRemoved(t *testing.T) {
	origin, sums := newBigWorld(t)
	dir, other := tempDir(t), tempDir(t)
	file := filepath.Join(other, "thesis.txt")
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "cache"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(other, filepath.Join(dir, "cache", "modfetch")); err != nil {
		t.Skip(err)
	}
	inBubble(t, origin, sums, map[string]*modfetchtest.Server{"a": origin.Mirror()}, func(t *testing.T, b *bubble) {
		if err := os.Chtimes(file, time.Time{}, time.Now().Add(-25*time.Hour)); err != nil {
			t.Fatal(err)
		}
		b.dir = dir
		f, _ := b.fetcher("a")
		b.wantBig(f, dir)
		if _, err := os.Stat(file); err != nil {
			t.Error(err)
		}
	})
}

// plant writes what an interrupted process would have set aside, with a list of what is missing.
func plant(t testing.TB, dir string, m module.Version, sum string, zip []byte, gaps string) {
	t.Helper()
	name := fmt.Sprintf("%x-%x.zip", sha256.Sum256([]byte(m.String())), sha256.Sum256([]byte(sum)))
	name = filepath.Join(dir, "cache", "modfetch", name)
	whole := binary.BigEndian.AppendUint64(append(bytes.Clone(zip), gaps...), uint64(len(zip)))
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o777), os.WriteFile(name, whole, 0o666)); err != nil {
		t.Fatal(err)
	}
}

func FuzzUnfinished(f *testing.F) {
	for _, list := range []string{"null", "[]", "[[0,3]]", "[[1,2],[4,5]]", "[[0,9]]", "[[2,1]]", "[[3,4],[1,2]]", "{"} {
		f.Add(binary.BigEndian.AppendUint64([]byte("12345"+list), 5))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		size, missing, err := modfetch.ParseUnfinished(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		list, jsonErr := json.Marshal(missing)
		again := binary.BigEndian.AppendUint64(append(bytes.Clone(data[:size]), list...), uint64(size))
		size2, missing2, err := modfetch.ParseUnfinished(bytes.NewReader(again), int64(len(again)))
		list2, _ := json.Marshal(missing2)
		if jsonErr != nil || err != nil || size2 != size || !bytes.Equal(list, list2) {
			t.Errorf("%d %s, then %d %s %v", size, list, size2, list2, err)
		}
	})
}
