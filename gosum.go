package modfetch

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
)

// A SumSource has hashes on record. Implementations must be safe for concurrent use.
type SumSource interface {
	// Sums returns the hashes on record for m, whose Version ends in "/go.mod" for a go.mod file. ErrUnlisted: none here,
	// ask the next. Any other error: cannot tell, and the fetch fails.
	Sums(ctx context.Context, m module.Version) ([]string, error)

	// String names the source for people.
	String() string
}

// ErrUnlisted is what a SumSource returns for a module that it has nothing on.
var ErrUnlisted = errors.New("not listed")

// GoSum holds the lines of a go.sum file, or of several that apply together. The zero value is empty and ready to use;
// all methods may be called concurrently.
type GoSum struct {
	mu   sync.RWMutex
	sums map[module.Version][]goSumLine // guarded by mu; hashes in the order of their lines
	name string
}

type goSumLine struct {
	hash string
	from string // file
}

// maxGoSum bounds a go.sum file; the largest in public use are some hundreds of KiB.
const maxGoSum = 64 << 20 // bytes

// emptyGoModSum is the hash of an empty go.mod file, which early versions of the go command recorded by mistake.
const emptyGoModSum = "h1:G7mAYYxgmS0lVkHyy2hEOLQCFB0DlQFTMLWggykrydY="

// ParseGoSum reads the lines of a go.sum file. Its name is used in messages.
func ParseGoSum(name string, data []byte) (*GoSum, error) {
	s := &GoSum{name: name}
	if err := s.parse(name, data); err != nil {
		return nil, err
	}
	return s, nil
}

// LoadGoSum reads go.sum files that apply together: a main module's, or a workspace's go.work.sum and the go.sum of each
// of its modules. A file that does not exist is empty. It is an error if two files contradict each other.
func LoadGoSum(files ...string) (*GoSum, error) {
	s := &GoSum{name: "go.sum"}
	if len(files) > 0 {
		s.name = files[0]
	}
	for _, name := range files {
		f, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		data, err := io.ReadAll(io.LimitReader(f, maxGoSum+1))
		f.Close()
		if err == nil {
			err = s.parse(name, data)
		}
		if err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *GoSum) parse(name string, data []byte) error {
	if len(data) > maxGoSum {
		return fmt.Errorf("%s: %d bytes or more; at most %d are read", name, len(data), maxGoSum)
	}
	if s.sums == nil {
		s.sums = make(map[module.Version][]goSumLine)
	}
	n := 0
	for line := range bytes.Lines(data) {
		n++
		f := strings.Fields(string(line))
		if len(f) == 0 {
			continue
		}
		if len(f) != 3 {
			return fmt.Errorf("%s:%d: malformed line: want a module path, a version and a hash, got %d fields", name, n, len(f))
		}
		if f[2] == emptyGoModSum {
			continue
		}
		key := module.Version{Path: f[0], Version: f[1]}
		for _, old := range s.sums[key] {
			if old.from != name && strings.HasPrefix(old.hash, "h1:") && strings.HasPrefix(f[2], "h1:") && old.hash != f[2] {
				return fmt.Errorf("%s:%d: %s %s is %s, but %s has %s: the files contradict each other",
					name, n, f[0], f[1], f[2], old.from, old.hash)
			}
		}
		s.insert(key, goSumLine{f[2], name})
	}
	return nil
}

// insert adds a line that is not there yet.
func (s *GoSum) insert(key module.Version, l goSumLine) {
	if !slices.ContainsFunc(s.sums[key], func(old goSumLine) bool { return old.hash == l.hash }) {
		s.sums[key] = append(s.sums[key], l)
	}
}

// Sums returns the hashes on record for m in the order of their lines, or ErrUnlisted.
func (s *GoSum) Sums(_ context.Context, m module.Version) ([]string, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var hashes []string
	for _, l := range s.sums[m] {
		hashes = append(hashes, l.hash)
	}
	if hashes == nil {
		return nil, ErrUnlisted
	}
	return hashes, nil
}

// String returns the name of the first file.
func (s *GoSum) String() string { return s.name }

// Add records a verified hash. It does not write any file.
func (s *GoSum) Add(m module.Version, hash string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sums == nil {
		s.sums = make(map[module.Version][]goSumLine)
	}
	s.insert(m, goSumLine{hash, s.name})
}

// WriteTo writes all lines in the go command's order: by path, by version, a version's zip before its go.mod.
func (s *GoSum) WriteTo(w io.Writer) (int64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	keys := make([]module.Version, 0, len(s.sums))
	for key := range s.sums {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b module.Version) int {
		av, aFile, _ := strings.Cut(a.Version, "/")
		bv, bFile, _ := strings.Cut(b.Version, "/")
		return cmp.Or(strings.Compare(a.Path, b.Path), semver.Compare(av, bv), strings.Compare(av, bv), strings.Compare(aFile, bFile))
	})
	var buf bytes.Buffer
	for _, key := range keys {
		hashes := make([]string, 0, 1)
		for _, l := range s.sums[key] {
			hashes = append(hashes, l.hash)
		}
		slices.Sort(hashes)
		for _, h := range hashes {
			fmt.Fprintf(&buf, "%s %s %s\n", key.Path, key.Version, h)
		}
	}
	return buf.WriteTo(w)
}
