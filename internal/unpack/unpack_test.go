package unpack_test

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modfetch/modfetch/internal/unpack"
	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/dirhash"
	modzip "golang.org/x/mod/zip"
	"golang.org/x/sync/semaphore"
)

// slots is how many goroutines of a test may inflate at once.
const slots = 2

// newSlots returns slots, and checks at the end of the test that all have been given back.
func newSlots(t testing.TB) *semaphore.Weighted {
	s := semaphore.NewWeighted(slots)
	t.Cleanup(func() {
		if !s.TryAcquire(slots) {
			t.Error("slots were not given back")
		}
	})
	return s
}

// tree describes what is below dir: directories, and the modes and contents of files.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := make(map[string]string)
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		what := info.Mode().String()
		if !d.IsDir() {
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			what += " " + string(data)
		}
		rel, err := filepath.Rel(dir, name)
		out[filepath.ToSlash(rel)] = what
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// differ says in what two trees differ.
func differ(got, want map[string]string) string {
	var diff strings.Builder
	for name, what := range want {
		if other, ok := got[name]; !ok {
			fmt.Fprintf(&diff, "missing: %s\n", name)
		} else if other != what {
			fmt.Fprintf(&diff, "%s: %.60q, want %.60q\n", name, other, what)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			fmt.Fprintf(&diff, "unexpected: %s\n", name)
		}
	}
	return diff.String()
}

// agrees holds Hash and Extract against what x/mod makes of the same zip.
func agrees(t *testing.T, data []byte, m module.Version) {
	t.Helper()
	f := open(t, data)
	a, err := unpack.Open(f, int64(len(data)), m)
	if err != nil {
		t.Fatal(err)
	}
	want, err := dirhash.HashZip(f.Name(), dirhash.Hash1)
	if err != nil {
		t.Fatal(err)
	}
	s := newSlots(t)
	if got, err := a.Hash(t.Context(), s); err != nil || got != want {
		t.Errorf("Hash is %s, %v; want %s", got, err, want)
	}
	ours, theirs := t.TempDir(), t.TempDir()
	if got, err := a.Extract(t.Context(), s, ours); err != nil || got != want {
		t.Errorf("Extract's sum is %s, %v; want %s", got, err, want)
	}
	if err := modzip.Unzip(theirs, m, f.Name()); err != nil {
		t.Fatal(err)
	}
	got := tree(t, ours)
	if diff := differ(got, tree(t, theirs)); diff != "" {
		t.Errorf("the trees differ:\n%s", diff)
	}
	for name, what := range got {
		if !strings.HasPrefix(what, "d") && !strings.HasPrefix(what, "-r--r--r-- ") {
			t.Errorf("%s has mode %.10s", name, what)
		}
	}
}

func TestAgreesWithXMod(t *testing.T) {
	noise := make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	for _, test := range []struct {
		name    string
		entries []entry
	}{
		{"no entries", nil},
		{"one file", []entry{{name: in + "m.go", data: "package m\n"}}},
		{"stored and deflated", []entry{{name: in + "a", data: "aaaa", stored: true}, {name: in + "b", data: "bbbb"}}},
		{"empty files", []entry{{name: in + "a"}, {name: in + "b", stored: true}}},
		{"the prefix alone", []entry{{name: in, stored: true}}},
		{"directory entries", []entry{{name: in, stored: true}, {name: in + "d/", stored: true}, {name: in + "d/f", data: "f"}, {name: in + "empty/", stored: true}}},
		{"nested directories", []entry{{name: in + "a/b/c/d/e/f", data: "1"}, {name: in + "a/b/x", data: "2"}, {name: in + "a/y/z", data: "3"}}},
		{"directories in turn", []entry{{name: in + "a/1", data: "1"}, {name: in + "b/1", data: "2"}, {name: in + "a/2", data: "3"}, {name: in + "3", data: "4"}}},
		{"a child before its parent's files", []entry{{name: in + "z/y/x", data: "1"}, {name: in + "z/a", data: "2"}, {name: in + "A", data: "3"}}},
		{"unicode", []entry{{name: in + "größe/日本語/файл.txt", data: "ü"}, {name: in + "é", data: "1"}}},
		{"punctuation", []entry{{name: in + "a b!#$%&()+,-.=@[]^_{}~", data: "1"}, {name: in + ".hidden/.x", data: "2"}}},
		{"names that sort apart from their entries", []entry{{name: in + "b", data: "1"}, {name: in + "a-", data: "2"}, {name: in + "a/b", data: "3"}, {name: in + "a.", data: ""}}[:3]},
		{"modes that are not kept", []entry{{name: in + "run", data: "#!", mode: 0o755}, {name: in + "set", data: "x", mode: 0o4777}, {name: in + "none", data: "x", mode: 0o000}}},
		{"a symbolic link", []entry{{name: in + "link", data: "../../../etc/passwd", mode: fs.ModeSymlink | 0o777}}},
		{"a device", []entry{{name: in + "null", mode: fs.ModeDevice | fs.ModeCharDevice | 0o666}}},
		{"large entries", []entry{{name: in + "noise", data: string(noise)}, {name: in + "stored", data: string(noise), stored: true}, {name: in + "zeros", data: string(make([]byte, 8<<20))}, {name: in + "last", data: "x"}}},
	} {
		t.Run(test.name, func(t *testing.T) { agrees(t, writeZip(t, test.entries...), moduleM) })
	}
}

// A memFile is a file for x/mod/zip.Create.
type memFile struct {
	name string
	data []byte
}

func (f memFile) Path() string                 { return f.name }
func (f memFile) Open() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(f.data)), nil }
func (f memFile) Lstat() (fs.FileInfo, error)  { return f, nil }
func (f memFile) Name() string                 { return filepath.Base(f.name) }
func (f memFile) Size() int64                  { return int64(len(f.data)) }
func (f memFile) Mode() fs.FileMode            { return 0o644 }
func (f memFile) ModTime() time.Time           { return time.Time{} }
func (f memFile) IsDir() bool                  { return false }
func (f memFile) Sys() any                     { return nil }

func TestAgreesOnRandomModules(t *testing.T) {
	elements := []string{"internal", "cmd", "a", "b-c", "größe", "文件", "x.y", "_z", "testdata", "v2"}
	for seed := range 10 {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			source := rand.NewChaCha8([32]byte{byte(seed)})
			r := rand.New(source)
			files := []modzip.File{memFile{"go.mod", []byte("module example.com/Mixed/v2\n")}}
			for i := range r.IntN(60) {
				var name strings.Builder
				for range r.IntN(5) {
					name.WriteString(elements[r.IntN(len(elements))] + "/")
				}
				data := make([]byte, r.IntN(1<<r.IntN(18)+1))
				source.Read(data[r.IntN(len(data)+1):]) // so that some compress well, and some do not
				files = append(files, memFile{fmt.Sprintf("%sf%d.go", &name, i), data})
			}
			m := module.Version{Path: "example.com/Mixed/v2", Version: "v2.0.1-RC.1"}
			var buf bytes.Buffer
			if err := modzip.Create(&buf, m, files); err != nil {
				t.Fatal(err)
			}
			agrees(t, buf.Bytes(), m)
		})
	}
}

func TestGoMod(t *testing.T) {
	const text = "module example.com/m\n"
	for _, test := range []struct {
		name    string
		entries []entry
		want    string
		ok, bad bool
	}{
		{name: "none", entries: []entry{{name: in + "m.go", data: "package m\n"}, {name: in + "go.mod.txt", data: "x"}}},
		{name: "first", entries: []entry{{name: in + "go.mod", data: text}, {name: in + "m.go"}}, want: text, ok: true},
		{name: "last", entries: []entry{{name: in + "m.go"}, {name: in + "go.mod", data: text, stored: true}}, want: text, ok: true},
		{name: "of far more than 16 MiB", entries: []entry{{name: in + "go.mod", data: text, lie: func(h *zip.FileHeader) { h.UncompressedSize64 = 1 << 60 }}}, ok: true, bad: true},
		{name: "damaged", entries: []entry{{name: in + "go.mod", data: text, lie: func(h *zip.FileHeader) { h.CRC32++ }}}, ok: true, bad: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			data := writeZip(t, test.entries...)
			a, err := unpack.Open(open(t, data), int64(len(data)), moduleM)
			if err != nil {
				t.Fatal(err)
			}
			got, ok, err := a.GoMod()
			if ok != test.ok || errors.Is(err, unpack.ErrMalformed) != test.bad || !test.bad && string(got) != test.want {
				t.Errorf("got %q, %t, %v; want %q, %t, malformed %t", got, ok, err, test.want, test.ok, test.bad)
			}
		})
	}
}

func TestNothingIsWrittenOutside(t *testing.T) {
	for _, name := range []string{"../evil", "../evil/x", "a/../../evil", "/evil", "..", "a/../../../evil", "link/evil", "link/evil/x", "file"} {
		t.Run(strings.ReplaceAll(name, "/", ":"), func(t *testing.T) {
			data := writeZip(t, entry{name: in + "good", data: "good"}, entry{name: in + name, data: "evil"})
			a, err := unpack.Unchecked(bytes.NewReader(data), int64(len(data)), moduleM)
			if err != nil {
				t.Fatal(err)
			}
			top := t.TempDir()
			outside, dir := filepath.Join(top, "outside"), filepath.Join(top, "staging")
			for _, d := range []string{outside, dir} {
				if err := os.Mkdir(d, 0o777); err != nil {
					t.Fatal(err)
				}
			}
			// Links that somebody else has put there.
			if err := errors.Join(os.Symlink(outside, filepath.Join(dir, "link")),
				os.Symlink(filepath.Join(outside, "file"), filepath.Join(dir, "file"))); err != nil {
				t.Skip(err)
			}
			if sum, err := a.Extract(t.Context(), newSlots(t), dir); err == nil {
				t.Errorf("extracted: %s", sum)
			}
			for name := range tree(t, outside) {
				t.Errorf("written outside: %s", name)
			}
			if evil := filepath.Join(top, "evil"); fileExists(evil) || fileExists("/evil") {
				t.Errorf("written: %s", evil)
			}
		})
	}
}

func fileExists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

func TestExtractIntoADirectoryThatIsNotEmpty(t *testing.T) {
	data := writeZip(t, entry{name: in + "a", data: "new"})
	a, err := unpack.Open(open(t, data), int64(len(data)), moduleM)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte("old"), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Extract(t.Context(), newSlots(t), dir); !errors.Is(err, fs.ErrExist) || errors.Is(err, unpack.ErrMalformed) {
		t.Errorf("error %v, want fs.ErrExist that does not blame the zip", err)
	}
	if data, _ := os.ReadFile(filepath.Join(dir, "a")); string(data) != "old" {
		t.Errorf("the file is now %q", data)
	}
	if _, err := a.Extract(t.Context(), newSlots(t), filepath.Join(dir, "missing")); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, unpack.ErrMalformed) {
		t.Errorf("error %v, want fs.ErrNotExist that does not blame the zip", err)
	}
}

// TestNameTooLongForTheDisk shows that it is the zip that is blamed, so that the next mirror is asked.
func TestNameTooLongForTheDisk(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has another error for it")
	}
	for _, name := range []string{strings.Repeat("x", 256), strings.Repeat("x", 256) + "/a"} {
		data := writeZip(t, entry{name: in + name, data: "x"})
		a, err := unpack.Open(open(t, data), int64(len(data)), moduleM)
		if err != nil {
			t.Fatal(err)
		}
		if sum, err := a.Extract(t.Context(), newSlots(t), t.TempDir()); !errors.Is(err, unpack.ErrMalformed) {
			t.Errorf("%s, %v, want ErrMalformed", sum, err)
		}
	}
}

// A changing zip becomes another one when its directory is read for the nth time.
type changing struct {
	one, other *bytes.Reader
	directory  int64
	n          int
}

func (c *changing) ReadAt(p []byte, off int64) (int, error) {
	if off == c.directory {
		c.n--
	}
	if c.n > 0 {
		return c.one.ReadAt(p, off)
	}
	return c.other.ReadAt(p, off)
}

// TestChangedWhileItIsRead tries zips that have other entries after they were measured, or after they were checked.
func TestChangedWhileItIsRead(t *testing.T) {
	const header = 46 + len(in) + 1
	comment := func(n int) func(*zip.FileHeader) {
		return func(h *zip.FileHeader) { h.Comment = strings.Repeat("x", n) }
	}
	one := writeZip(t, entry{name: in + "a", lie: comment(header)})
	two := writeZip(t, entry{name: in + "a", lie: comment(0)}, entry{name: in + "b"})
	directory := func(data []byte) int { return len(data) - 22 - 2*header }
	with := func(data []byte, headers []byte) []byte {
		return slices.Concat(data[:directory(data)], headers, endOf(data))
	}
	headers := func(data []byte) []byte { return bytes.Clone(data[directory(data) : len(data)-22]) }
	for _, test := range []struct {
		name       string
		one, other []byte
	}{
		{"more entries", one, with(one, append(headers(two)[:header], headers(two)[:header]...))},
		{"fewer entries", two, with(two, append(headers(one)[:header], headers(one)[header:]...))},
		{"another prefix", one, with(one, bytes.ReplaceAll(headers(one), []byte(in), []byte(strings.ToUpper(in))))},
		{"a longer name", one, with(one, bytes.Replace(headers(one), []byte{byte(len(in) + 1), 0}, []byte{0, 1}, 1))},
		{"no directory", one, with(one, make([]byte, 2*header))},
		{"cut short", one, one[:directory(one)+10]},
	} {
		for n := 2; n <= 5; n++ { // for its signature, its length, the rules and the contents
			zip := &changing{bytes.NewReader(test.one), bytes.NewReader(test.other), int64(directory(test.one)), n}
			a, err := unpack.Open(zip, int64(len(test.one)), moduleM)
			var sum string
			if err == nil {
				sum, err = a.Hash(t.Context(), newSlots(t))
			}
			if n < 5 && !errors.Is(err, unpack.ErrMalformed) || n == 5 && err != nil {
				t.Errorf("%s at the %dth reading: %s, %v, want ErrMalformed but at the last", test.name, n, sum, err)
			}
		}
	}
}

func TestArchivesWaitForMemory(t *testing.T) {
	data := writeZip(t, entry{name: in + "a", data: "a"})
	a, err := unpack.Open(open(t, data), int64(len(data)), moduleM)
	if err != nil {
		t.Fatal(err)
	}
	slots := newSlots(t)
	synctest.Test(t, func(t *testing.T) {
		unpack.Memory.Acquire(t.Context(), unpack.MaxMemory)
		cause := errors.New("the caller has left")
		leaves, leave := context.WithCancelCause(t.Context())
		left, done := make(chan error, 1), make(chan error, 1)
		go func() {
			_, err := a.Hash(leaves, slots)
			left <- err
		}()
		go func() {
			_, err := a.Hash(t.Context(), slots)
			done <- err
		}()
		synctest.Wait()
		if len(left)+len(done) > 0 {
			t.Error("nobody waits")
		}
		leave(cause)
		if err := <-left; err != cause {
			t.Errorf("error %v, want %v", err, cause)
		}
		unpack.Memory.Release(unpack.MaxMemory)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if !unpack.Memory.TryAcquire(unpack.MaxMemory) {
			t.Error("memory was not given back")
		}
		unpack.Memory.Release(unpack.MaxMemory)
	})
}

func TestCancelled(t *testing.T) {
	cause := errors.New("the caller has left")
	var entries []entry
	for i := range 100 {
		entries = append(entries, entry{name: fmt.Sprint(in, "f", i), data: string(make([]byte, 64<<10)), stored: true})
	}
	data := writeZip(t, entries...)
	a, err := unpack.Open(open(t, data), int64(len(data)), moduleM)
	if err != nil {
		t.Fatal(err)
	}

	t.Run("before", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		dir := t.TempDir()
		if _, err := a.Extract(ctx, newSlots(t), dir); err != cause {
			t.Errorf("error %v, want %v", err, cause)
		}
		if left := tree(t, dir); len(left) > 0 {
			t.Errorf("%d files were extracted", len(left))
		}
		if err := a.Check(ctx); err != cause {
			t.Errorf("error %v of the check, want %v", err, cause)
		}
	})
	t.Run("while waiting for a slot", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			s := newSlots(t)
			s.Acquire(t.Context(), slots)
			done := make(chan error)
			go func() {
				_, err := a.Hash(ctx, s)
				done <- err
			}()
			synctest.Wait()
			cancel(cause)
			if err := <-done; err != cause {
				t.Errorf("error %v, want %v", err, cause)
			}
			s.Release(slots)
		})
	})
	t.Run("between batches", func(t *testing.T) {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			s := semaphore.NewWeighted(1)
			s.Acquire(t.Context(), 1)
			done := make(chan error)
			go func() {
				_, err := a.Extract(ctx, s, dir)
				done <- err
			}()
			synctest.Wait() // all workers wait for the slot, and so does the following, behind them
			mine := make(chan bool)
			go func() {
				s.Acquire(t.Context(), 1)
				cancel(cause)
				s.Release(1)
				close(mine)
			}()
			synctest.Wait()
			s.Release(1)
			<-mine
			if err := <-done; err != cause {
				t.Errorf("error %v, want %v", err, cause)
			}
			if !s.TryAcquire(1) {
				t.Error("the slot was not given back")
			}
		})
		if n := len(tree(t, dir)); n == 0 || n > 5*runtime.GOMAXPROCS(0) {
			t.Errorf("%d files were extracted, want a few for each worker", n)
		}
	})
	t.Run("within a large entry", func(t *testing.T) {
		const size = 64 << 20
		big := writeZip(t, entry{name: in + "big", data: string(make([]byte, size))})
		a, err := unpack.Open(open(t, big), int64(len(big)), moduleM)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		dir := t.TempDir()
		done := make(chan error)
		s := newSlots(t)
		go func() {
			_, err := a.Extract(ctx, s, dir)
			done <- err
		}()
		for !fileExists(filepath.Join(dir, "big")) {
			runtime.Gosched()
		}
		cancel(cause)
		if err := <-done; !errors.Is(err, cause) || errors.Is(err, unpack.ErrMalformed) {
			t.Errorf("error %v, want %v alone", err, cause)
		}
		info, err := os.Stat(filepath.Join(dir, "big"))
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() == size {
			t.Errorf("all %d bytes were written first", size)
		}
	})
}

// TestPooledInflaters shows that an inflater that is closed twice is not given to two readers.
func TestPooledInflaters(t *testing.T) {
	one, two := strings.Repeat("one", 100000), strings.Repeat("two", 100000)
	data := writeZip(t, entry{name: in + "one", data: one}, entry{name: in + "two", data: two})
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	z.RegisterDecompressor(zip.Deflate, unpack.Inflate)
	openEntry := func(i int) io.ReadCloser {
		r, err := z.File[i].Open()
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	closed := openEntry(0)
	closed.Close()
	if err := closed.Close(); err != nil {
		t.Error(err)
	}
	a, b := openEntry(0), openEntry(1)
	defer a.Close()
	defer b.Close()
	first := make([]byte, 10)
	if _, err := io.ReadFull(a, first); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(b); err != nil || string(got) != two {
		t.Errorf("the second entry has %d bytes, %v", len(got), err)
	}
	if got, err := io.ReadAll(a); err != nil || string(first)+string(got) != one {
		t.Errorf("the first entry has %d bytes, %v", len(first)+len(got), err)
	}
	if _, err := closed.Read(first); err == nil {
		t.Error("no error from a read after close")
	}
}
