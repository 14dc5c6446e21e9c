package modfetch_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/modfetch/modfetch"
	"golang.org/x/mod/module"
)

const (
	hashA = "h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	hashB = "h1:BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBA="
	// emptyGoMod is what early versions of the go command recorded by mistake.
	emptyGoMod = "h1:G7mAYYxgmS0lVkHyy2hEOLQCFB0DlQFTMLWggykrydY="
)

// text returns the lines of a GoSum.
func text(t testing.TB, s *modfetch.GoSum) string {
	t.Helper()
	var buf bytes.Buffer
	n, err := s.WriteTo(&buf)
	if err != nil || n != int64(buf.Len()) {
		t.Errorf("WriteTo returns %d, %v; it wrote %d bytes", n, err, buf.Len())
	}
	return buf.String()
}

func TestParseGoSum(t *testing.T) {
	for _, test := range []struct {
		name string
		data string
		want string // what WriteTo makes of it
	}{
		{"nothing", "", ""},
		{"blank lines", "\n \n\t\r\n\n", ""},
		{"one line", "example.com/m v1.0.0 " + hashA + "\n", "example.com/m v1.0.0 " + hashA + "\n"},
		{"no newline at the end", "example.com/m v1.0.0 " + hashA, "example.com/m v1.0.0 " + hashA + "\n"},
		{"carriage returns", "example.com/m v1.0.0 " + hashA + "\r\nexample.com/n v1.0.0 " + hashA + "\r\n", "example.com/m v1.0.0 " + hashA + "\nexample.com/n v1.0.0 " + hashA + "\n"},
		{"any white space", "\texample.com/m  v1.0.0\t" + hashA + " \n", "example.com/m v1.0.0 " + hashA + "\n"},
		{"twice the same", strings.Repeat("example.com/m v1.0.0 "+hashA+"\n", 2), "example.com/m v1.0.0 " + hashA + "\n"},
		{"two hashes in one file", "m v1 " + hashB + "\nm v1 " + hashA + "\n", "m v1 " + hashA + "\nm v1 " + hashB + "\n"},
		{"another algorithm", "m v1 h2:xyz\nm v1 " + hashA + "\n", "m v1 " + hashA + "\nm v1 h2:xyz\n"},
		{"zip before go.mod", "m v1.0.0/go.mod " + hashA + "\nm v1.0.0 " + hashB + "\n", "m v1.0.0 " + hashB + "\nm v1.0.0/go.mod " + hashA + "\n"},
		{"by path", "b v1.0.0 " + hashA + "\na/b v1.0.0 " + hashA + "\na-b v1.0.0 " + hashA + "\na v1.0.0 " + hashA + "\n",
			"a v1.0.0 " + hashA + "\na-b v1.0.0 " + hashA + "\na/b v1.0.0 " + hashA + "\nb v1.0.0 " + hashA + "\n"},
		{"by version, not by letters", "m v1.10.0 " + hashA + "\nm v1.9.0 " + hashA + "\nm v1.9.0-rc.1 " + hashA + "\nm v1.9.0-rc.1/go.mod " + hashA + "\n",
			"m v1.9.0-rc.1 " + hashA + "\nm v1.9.0-rc.1/go.mod " + hashA + "\nm v1.9.0 " + hashA + "\nm v1.10.0 " + hashA + "\n"},
		{"hash of an empty go.mod", "m v1.0.0/go.mod " + emptyGoMod + "\nm v1.0.0 " + hashA + "\n", "m v1.0.0 " + hashA + "\n"},
		{"hash of an empty go.mod beside another", "m v1.0.0/go.mod " + emptyGoMod + "\nm v1.0.0/go.mod " + hashA + "\n", "m v1.0.0/go.mod " + hashA + "\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, err := modfetch.ParseGoSum("go.sum", []byte(test.data))
			if err != nil {
				t.Fatal(err)
			}
			if got := text(t, s); got != test.want {
				t.Errorf("lines:\n%swant:\n%s", got, test.want)
			}
			if s.String() != "go.sum" {
				t.Errorf("it is called %q", s)
			}
		})
	}
}

func TestParseGoSumErrors(t *testing.T) {
	good := "example.com/m v1.0.0 " + hashA + "\n"
	for _, test := range []struct {
		name string
		data string
		want string
	}{
		{"one field", "oops\n", "my/go.sum:1: "},
		{"two fields", good + "\nexample.com/m v1.0.0\n" + good, "my/go.sum:3: "},
		{"four fields", good + good + "example.com/m v1.0.0 " + hashA + " more", "my/go.sum:3: "},
		{"a conflict left by a merge", good + "<<<<<<< HEAD\n", "my/go.sum:2: "},
		{"a page", "<!DOCTYPE html>\n", "my/go.sum:1: "},
		{"larger than any", strings.Repeat("\n", 64<<20+1), "my/go.sum: 67108865 bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := modfetch.ParseGoSum("my/go.sum", []byte(test.data))
			if err == nil || !strings.HasPrefix(err.Error(), test.want) {
				t.Errorf("error %v, want one that begins with %q", err, test.want)
			}
		})
	}
}

func TestSums(t *testing.T) {
	s, err := modfetch.ParseGoSum("go.sum", []byte("m v1.0.0 h2:x\nm v1.0.0 "+hashB+"\nm v1.0.0 "+hashA+"\nm v1.0.0/go.mod "+hashA+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		m    module.Version
		want []string
	}{
		{module.Version{Path: "m", Version: "v1.0.0"}, []string{"h2:x", hashB, hashA}}, // as in the file: the first decides
		{module.Version{Path: "m", Version: "v1.0.0/go.mod"}, []string{hashA}},
		{module.Version{Path: "m", Version: "v1.0.1"}, nil},
		{module.Version{Path: "M", Version: "v1.0.0"}, nil},
		{module.Version{}, nil},
	} {
		got, err := s.Sums(t.Context(), test.m)
		if !slices.Equal(got, test.want) || (test.want == nil) != errors.Is(err, modfetch.ErrUnlisted) {
			t.Errorf("%v: %q, %v; want %q", test.m, got, err, test.want)
		}
	}
}

func TestZeroGoSum(t *testing.T) {
	s := new(modfetch.GoSum)
	m := module.Version{Path: "example.com/m", Version: "v1.0.0"}
	if _, err := s.Sums(t.Context(), m); !errors.Is(err, modfetch.ErrUnlisted) {
		t.Errorf("error %v, want ErrUnlisted", err)
	}
	if got := text(t, s); got != "" {
		t.Errorf("lines:\n%s", got)
	}
	s.Add(m, hashA)
	s.Add(m, hashA)
	if got, want := text(t, s), "example.com/m v1.0.0 "+hashA+"\n"; got != want {
		t.Errorf("lines:\n%swant:\n%s", got, want)
	}
}

func TestLoadGoSum(t *testing.T) {
	dir := t.TempDir()
	write := func(name, data string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(data), 0o666); err != nil {
			t.Fatal(err)
		}
		return name
	}
	one := write("one.sum", "m v1.0.0 "+hashA+"\nn v1.0.0 "+hashA+"\n")
	two := write("two.sum", "\nm v1.0.0 "+hashA+"\no v1.0.0 "+hashA+"\n")
	wrong := write("wrong.sum", "\nm v1.0.0 "+hashB+"\n")
	other := write("other.sum", "m v1.0.0 h2:x\n")
	both := write("both.sum", "m v1.0.0 "+hashA+"\nm v1.0.0 "+hashB+"\n")
	empty := write("empty.sum", "m v1.0.0 "+emptyGoMod+"\n")
	malformed := write("malformed.sum", "m v1.0.0 "+hashA+"\noops\n")
	missing := filepath.Join(dir, "missing.sum")
	for _, test := range []struct {
		name  string
		files []string
		lines int
		err   []string // parts of the message
	}{
		{name: "none"},
		{name: "one", files: []string{one}, lines: 2},
		{name: "two that agree", files: []string{one, two}, lines: 3},
		{name: "missing", files: []string{missing}},
		{name: "one missing", files: []string{missing, one, missing}, lines: 2},
		{name: "two that contradict each other", files: []string{one, wrong}, err: []string{wrong + ":2: ", one, hashA, hashB, "contradict"}},
		{name: "the same the other way", files: []string{wrong, one}, err: []string{one + ":1: ", wrong, hashA, hashB, "contradict"}},
		{name: "the third contradicts the first", files: []string{one, two, wrong}, err: []string{wrong + ":2: ", one}},
		{name: "two algorithms", files: []string{one, other}, lines: 3},
		{name: "two algorithms the other way", files: []string{other, one}, lines: 3},
		{name: "one file with two hashes", files: []string{both}, lines: 2},
		{name: "one file with two hashes beside another", files: []string{one, both}, err: []string{both + ":2: ", one}},
		{name: "the hash of an empty go.mod", files: []string{one, empty}, lines: 2},
		{name: "malformed", files: []string{one, malformed}, err: []string{malformed + ":2: "}},
		{name: "a directory", files: []string{dir}, err: []string{dir}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, err := modfetch.LoadGoSum(test.files...)
			if test.err != nil {
				if err == nil {
					t.Fatal("no error")
				}
				for _, part := range test.err {
					if !strings.Contains(err.Error(), part) {
						t.Errorf("error %q, want it to say %q", err, part)
					}
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(text(t, s), "\n"); n != test.lines {
				t.Errorf("%d lines, want %d", n, test.lines)
			}
			if len(test.files) > 0 && s.String() != test.files[0] {
				t.Errorf("it is called %q, want %q", s, test.files[0])
			}
		})
	}
}

// TestOrderOfGoSum shows that a go.sum file that the go command wrote comes back byte for byte, whatever its order was.
func TestOrderOfGoSum(t *testing.T) {
	for _, name := range []string{"go.sum", "cmd/modfetch/go.sum", "internal/tools/go.sum"} {
		want, err := os.ReadFile(name)
		if err != nil {
			t.Skip(err)
		}
		lines := strings.SplitAfter(strings.TrimSuffix(string(want), "\n"), "\n")
		lines[len(lines)-1] += "\n"
		for seed := range uint64(3) {
			s, err := modfetch.ParseGoSum(name, []byte(strings.Join(lines, "")))
			if err != nil {
				t.Fatal(err)
			}
			if got := text(t, s); got != string(want) {
				t.Errorf("%s comes back as\n%s", name, got)
			}
			rand.New(rand.NewPCG(seed, 0)).Shuffle(len(lines), func(i, j int) { lines[i], lines[j] = lines[j], lines[i] })
		}
	}
}

// TestOrderIsAlwaysTheSame tries versions that semantic versioning does not order.
func TestOrderIsAlwaysTheSame(t *testing.T) {
	var data strings.Builder
	for _, v := range []string{"v2.0.0", "v2.0.0+incompatible", "v2.0.0+a", "v2.0.0/go.mod", "v2.0.0+incompatible/go.mod", "master", "branch", "x/y"} {
		fmt.Fprintf(&data, "m %s %s\n", v, hashA)
	}
	s, err := modfetch.ParseGoSum("go.sum", []byte(data.String()))
	if err != nil {
		t.Fatal(err)
	}
	want := text(t, s)
	for range 50 {
		if got := text(t, s); got != want {
			t.Fatalf("once\n%sand once\n%s", want, got)
		}
	}
}

func TestGoSumConcurrently(t *testing.T) {
	s := new(modfetch.GoSum)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			m := module.Version{Path: "example.com/m", Version: fmt.Sprintf("v1.%d.0", i%4)}
			for range 20 {
				s.Add(m, hashA)
				if got, err := s.Sums(t.Context(), m); err != nil || len(got) != 1 {
					t.Errorf("%s: %q, %v", m, got, err)
				}
				text(t, s)
			}
		})
	}
	wg.Wait()
	if n := strings.Count(text(t, s), "\n"); n != 4 {
		t.Errorf("%d lines, want 4", n)
	}
}

// TestSumsCannotBeChanged shows that a caller owns the slice that it gets.
func TestSumsCannotBeChanged(t *testing.T) {
	s := new(modfetch.GoSum)
	m := module.Version{Path: "example.com/m", Version: "v1.0.0"}
	s.Add(m, hashA)
	got, _ := s.Sums(t.Context(), m)
	got[0] = hashB
	if again, _ := s.Sums(t.Context(), m); again[0] != hashA {
		t.Errorf("the record is now %q", again)
	}
}

func FuzzParseGoSum(f *testing.F) {
	for _, seed := range []string{
		"", "\n", "a b c\n", "a b c", "a b\n", "a b c d\n", "a b h1:x\na b h1:y\n", "m v1.0.0 " + hashA + "\r\nm v1.0.0/go.mod " + emptyGoMod + "\n",
		"m v2.0.0+a " + hashA + "\nm v2.0.0+b " + hashA + "\n", "a\u00a0b c\n", "a\x00 b c\n", "\xff b c\n", "m v1.0.0/x/y " + hashB,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := modfetch.ParseGoSum("go.sum", data)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "go.sum:") {
				t.Errorf("error %q does not name the file and line", err)
			}
			return
		}
		written := text(t, s)
		again, err := modfetch.ParseGoSum("go.sum", []byte(written))
		if err != nil {
			t.Fatalf("what was written is malformed: %v\n%q", err, written)
		}
		if got := text(t, again); got != written {
			t.Errorf("written %q, and then %q", written, got)
		}
		for line := range strings.Lines(string(data)) {
			f := strings.Fields(line)
			if len(f) == 0 || f[2] == emptyGoMod {
				continue
			}
			for _, s := range []*modfetch.GoSum{s, again} {
				if hashes, err := s.Sums(context.Background(), module.Version{Path: f[0], Version: f[1]}); err != nil || !slices.Contains(hashes, f[2]) {
					t.Errorf("line %q: Sums returns %q, %v", line, hashes, err)
				}
			}
		}
	})
}
