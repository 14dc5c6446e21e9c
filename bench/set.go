package main

import (
	"archive/zip"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/graph"
	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/dirhash"
)

// A set is a project and all that a mirror must have for it. Once made, it stays on disk: project/ has go.mod and go.sum,
// tree/ the .info, .mod and .zip files by their GOPROXY paths.
type set struct {
	dir  string
	zips map[module.Version]int64 // what the project downloads, and how large it is
	log  *sumLog                  // vouches for all files in the tree
}

func (s *set) project() string { return filepath.Join(s.dir, "project") }
func (s *set) tree() string    { return filepath.Join(s.dir, "tree") }

// zipFile is the place of a zip in the tree, and, below cache/download, in a module cache.
func zipFile(m module.Version) string { return filepath.FromSlash(proxyPath(m, "zip")) }

func proxyPath(m module.Version, ext string) string {
	p, _ := module.EscapePath(m.Path) // which was read from such a name, or is one of ours
	v, _ := module.EscapeVersion(m.Version)
	return p + "/@v/" + v + "." + ext
}

// treeName is the place of m's files in a module cache.
func treeName(m module.Version) string {
	return strings.Replace(strings.TrimSuffix(proxyPath(m, ""), "."), "/@v/", "@", 1)
}

// largest returns the module with the largest zip.
func (s *set) largest() module.Version {
	var m module.Version
	for other, size := range s.zips {
		if size > s.zips[m] {
			m = other
		}
	}
	return m
}

// realSet is the one that is downloaded. Its numbers never change: 162 zips, 682 go.mod files.
const realSet = "hugo"

var hugo = module.Version{Path: "github.com/gohugoio/hugo", Version: "v0.140.0"}

// openSet returns a set that is kept in dir, and makes it if it is not there yet.
func openSet(ctx context.Context, dir, name string) (*set, error) {
	final := filepath.Join(dir, name)
	if _, err := os.Stat(final); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return nil, err
		}
		temp, err := os.MkdirTemp(dir, "making-"+name+"-")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(temp) // is gone after the rename
		if err := makeSet(ctx, dir, temp, name); err != nil {
			return nil, fmt.Errorf("preparing %s: %w", name, err)
		}
		if err := os.Rename(temp, final); err != nil {
			return nil, err
		}
	}
	return loadSet(final)
}

func makeSet(ctx context.Context, dir, temp, name string) error {
	s := &set{dir: temp}
	for _, d := range []string{s.project(), s.tree()} {
		if err := os.Mkdir(d, 0o777); err != nil {
			return err
		}
	}
	if name == realSet {
		return s.download(ctx, hugo)
	}
	if name == "huge" {
		return s.add([]module.Version{{Path: "huge.test/m", Version: "v1.0.0"}}, func(i int, w *zip.Writer, prefix string) error {
			return noise(w, prefix, 16, 31<<20)
		})
	}
	n, err := strconv.Atoi(strings.TrimPrefix(name, "copies-"))
	if err != nil {
		return errors.New("there is no such set")
	}
	from, err := openSet(ctx, dir, realSet)
	if err != nil {
		return err
	}
	return s.copies(from, n)
}

// download makes the set of a real module's own go.mod and go.sum, from the mirrors of the Go environment.
func (s *set) download(ctx context.Context, m module.Version) error {
	env, err := modfetch.SystemGoEnv()
	if err != nil {
		return err
	}
	cache := filepath.Join(s.dir, "cache")
	defer os.RemoveAll(cache)
	f, err := modfetch.New(modfetch.WithGoEnv(env), modfetch.WithModCache(cache), modfetch.WithPolicy(modfetch.Policy{NoExtract: true}))
	if err != nil {
		return err
	}
	defer f.Close()
	for _, name := range []string{"go.mod", "go.sum"} {
		if err := copyFromZip(ctx, f, m, name, filepath.Join(s.project(), name)); err != nil {
			return err
		}
	}
	goSum, err := modfetch.LoadGoSum(filepath.Join(s.project(), "go.sum"))
	if err != nil {
		return err
	}
	f = f.WithGoSum(goSum)
	g, err := graph.Load(ctx, f, filepath.Join(s.project(), "go.mod"), 0)
	if err != nil {
		return err
	}
	var failed []error
	for m, err := range f.Download(ctx, g.Modules) {
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", m.Version, err))
		}
	}
	if len(failed) > 0 {
		return errors.Join(failed...)
	}
	own, _, _ := strings.Cut(proxyPath(m, ""), m.Version)
	return s.move(filepath.Join(cache, "cache", "download"), own)
}

func copyFromZip(ctx context.Context, f *modfetch.Fetcher, m module.Version, name, to string) error {
	z, err := f.Zip(ctx, m)
	if err != nil {
		return err
	}
	defer z.Close()
	files, err := z.FS()
	if err != nil {
		return err
	}
	data, err := fs.ReadFile(files, m.String()+"/"+name)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o666)
}

// move takes over from a module cache what a mirror would have, but not what is below the directory own.
func (s *set) move(cache, own string) error {
	return fs.WalkDir(os.DirFS(cache), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ext := path.Ext(name); d.IsDir() || strings.HasPrefix(name, own) || ext != ".info" && ext != ".mod" && ext != ".zip" {
			return nil
		}
		to := filepath.Join(s.tree(), filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(to), 0o777); err != nil {
			return err
		}
		return os.Rename(filepath.Join(cache, filepath.FromSlash(name)), to)
	})
}

// copies makes a project of n modules that are alike: renamed copies of 20 real ones, in turn, of some 400 KB each.
func (s *set) copies(from *set, n int) error {
	const kinds, size = 20, 400 << 10
	real := slices.SortedFunc(maps.Keys(from.zips), func(a, b module.Version) int {
		far := func(m module.Version) int64 { return max(from.zips[m]-size, size-from.zips[m]) }
		return cmp.Or(cmp.Compare(far(a), far(b)), strings.Compare(a.Path, b.Path))
	})
	real = real[:min(kinds, len(real))]
	mods := make([]module.Version, n)
	for i := range mods {
		mods[i] = module.Version{Path: fmt.Sprintf("copies.test/m%03d", i), Version: "v1.0.0"}
	}
	return s.add(mods, func(i int, w *zip.Writer, prefix string) error {
		m := real[i%len(real)]
		z, err := zip.OpenReader(filepath.Join(from.tree(), zipFile(m)))
		if err != nil {
			return err
		}
		defer z.Close()
		for _, e := range z.File {
			name := strings.TrimPrefix(e.Name, m.String()+"/")
			if name == "go.mod" {
				continue
			}
			raw, err := e.OpenRaw()
			if err != nil {
				return err
			}
			header := e.FileHeader
			header.Name = prefix + name
			to, err := w.CreateRaw(&header)
			if err != nil {
				return err
			}
			if _, err := io.Copy(to, raw); err != nil {
				return err
			}
		}
		return nil
	})
}

// noise writes files that cannot be compressed.
func noise(w *zip.Writer, prefix string, files int, size int64) error {
	for i := range files {
		to, err := w.Create(fmt.Sprintf("%snoise%d", prefix, i))
		if err != nil {
			return err
		}
		if _, err := io.CopyN(to, rand.NewChaCha8([32]byte{byte(i)}), size); err != nil {
			return err
		}
	}
	return nil
}

// add makes a project that requires mods, which require nothing. Fill writes the files of one of them but its go.mod.
func (s *set) add(mods []module.Version, fill func(i int, w *zip.Writer, prefix string) error) error {
	goMod := "module project.test\n\ngo 1.24\n"
	var goSum strings.Builder
	for i, m := range mods {
		own := "module " + m.Path + "\n\ngo 1.24\n"
		goMod += "\nrequire " + m.Path + " " + m.Version + "\n"
		at := func(ext string) string { return filepath.Join(s.tree(), filepath.FromSlash(proxyPath(m, ext))) }
		if err := os.MkdirAll(filepath.Dir(at("zip")), 0o777); err != nil {
			return err
		}
		info := fmt.Sprintf(`{"Version":%q,"Time":"2024-01-01T00:00:00Z"}`, m.Version)
		if err := errors.Join(os.WriteFile(at("info"), []byte(info), 0o666), os.WriteFile(at("mod"), []byte(own), 0o666)); err != nil {
			return err
		}
		if err := writeZip(at("zip"), func(w *zip.Writer) error {
			to, err := w.Create(m.String() + "/go.mod")
			if err != nil {
				return err
			}
			if _, err := io.WriteString(to, own); err != nil {
				return err
			}
			return fill(i, w, m.String()+"/")
		}); err != nil {
			return err
		}
		sum, err := dirhash.HashZip(at("zip"), dirhash.Hash1)
		if err != nil {
			return err
		}
		fmt.Fprintf(&goSum, "%s %s %s\n%s %s/go.mod %s\n", m.Path, m.Version, sum, m.Path, m.Version, goModSum([]byte(own)))
	}
	return errors.Join(os.WriteFile(filepath.Join(s.project(), "go.mod"), []byte(goMod), 0o666),
		os.WriteFile(filepath.Join(s.project(), "go.sum"), []byte(goSum.String()), 0o666))
}

func writeZip(name string, fill func(*zip.Writer) error) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	w := zip.NewWriter(f)
	return errors.Join(fill(w), w.Close(), f.Close())
}

// loadSet reads a set that has been made, all of it: what is measured later should find it in memory.
func loadSet(dir string) (*set, error) {
	s := &set{dir: dir, zips: make(map[module.Version]int64)}
	goSum, err := modfetch.LoadGoSum(filepath.Join(s.project(), "go.sum"))
	if err != nil {
		return nil, err
	}
	records := make(map[module.Version]string)
	err = fs.WalkDir(os.DirFS(s.tree()), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		m, ext, err := parseProxyPath(name)
		if err != nil {
			return err
		}
		f, err := os.Open(filepath.Join(s.tree(), filepath.FromSlash(name)))
		if err != nil {
			return err
		}
		defer f.Close()
		if ext != ".mod" {
			n, err := io.Copy(io.Discard, f)
			if ext == ".zip" {
				s.zips[m] = n
			}
			return err
		}
		data, err := io.ReadAll(f)
		if err != nil {
			return err
		}
		// A record is about both files. Of a zip that nobody asks for, any hash will do.
		zip := goModSum(nil)
		if sums, err := goSum.Sums(context.Background(), m); err == nil {
			zip = sums[0]
		}
		records[m] = fmt.Sprintf("%s %s %s\n%s %s/go.mod %s\n", m.Path, m.Version, zip, m.Path, m.Version, goModSum(data))
		return nil
	})
	if err != nil {
		return nil, err
	}
	s.log, err = newSumLog(records)
	return s, err
}

func parseProxyPath(name string) (m module.Version, ext string, err error) {
	p, v, _ := strings.Cut(name, "/@v/")
	ext = path.Ext(v)
	if m.Path, err = module.UnescapePath(p); err != nil {
		return m, ext, err
	}
	m.Version, err = module.UnescapeVersion(strings.TrimSuffix(v, ext))
	return m, ext, err
}

func goModSum(data []byte) string {
	sum, _ := dirhash.Hash1([]string{"go.mod"}, func(string) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data)), nil
	})
	return sum // reading memory does not fail
}
