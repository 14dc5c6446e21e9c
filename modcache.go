package modfetch

import (
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
	"strconv"
	"strings"
	"sync"

	"github.com/modfetch/modfetch/internal/filelock"
	"github.com/modfetch/modfetch/internal/regular"
	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
)

// A modCache is the go command's module cache: what it holds is what the go command would have put there, under the same
// names, in the same order and under the same locks, so that both can work in it at once.
type modCache struct {
	dir   string // GOMODCACHE
	rw    bool   // -modcacherw: trees stay writable
	trace *Trace
	swept sync.Once // see sweep
}

// file returns the place of a file by its GOPROXY path.
func (c *modCache) file(name string) string {
	return filepath.Join(c.dir, "cache", "download", filepath.FromSlash(name))
}

// open opens a file by its GOPROXY path.
func (c *modCache) open(name string) (*os.File, error) {
	return regular.Open(c.file(name), os.O_RDONLY)
}

// read returns the content of a small file by its GOPROXY path.
func (c *modCache) read(name string, limit int64) ([]byte, error) {
	return regular.Read(c.file(name), limit)
}

// tree returns the directory of m's extracted files.
func (c *modCache) tree(m module.Version) string {
	version, _ := module.EscapeVersion(m.Version) // checked when m came in
	return filepath.Join(c.dir, filepath.FromSlash(escapePath(m.Path))+"@"+version)
}

// lock takes the go command's lock on one version, held while its zip and tree are replaced.
func (c *modCache) lock(ctx context.Context, m module.Version) (unlock func() error, err error) {
	name := c.file(proxyPath(m, "lock"))
	if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
		return nil, err
	}
	f, err := filelock.Open(ctx, name, func() { c.trace.lockWaiting(ctx, name) })
	if err != nil {
		return nil, err
	}
	return f.Close, nil
}

// zipHash returns the recorded hash of m's zip, or "" if there is none that is well formed.
func (c *modCache) zipHash(m module.Version) string {
	data, err := c.read(proxyPath(m, "ziphash"), zipHashLen)
	if err != nil || int64(len(data)) != zipHashLen || !bytes.HasPrefix(data, []byte("h1:")) || bytes.IndexByte(data, 0) >= 0 {
		return ""
	}
	return string(data)
}

const zipHashLen = int64(len("h1:") + 44) // SHA-256 in base64

// complete reports whether m's tree is there and no extraction was broken off.
func (c *modCache) complete(m module.Version) bool {
	info, err := os.Stat(c.tree(m))
	if err != nil || !info.IsDir() {
		return false
	}
	_, err = os.Stat(c.file(proxyPath(m, "partial")))
	return errors.Is(err, fs.ErrNotExist)
}

// put stores a small file by rename.
func (c *modCache) put(name string, data []byte) error {
	file := c.file(name)
	if err := os.MkdirAll(filepath.Dir(file), 0o777); err != nil {
		return err
	}
	return writeFile(file, func(f *os.File) error {
		_, err := f.Write(data)
		return err
	})
}

// putGoMod stores a go.mod file and then brings the directory's list up to date.
func (c *modCache) putGoMod(ctx context.Context, m module.Version, data []byte) error {
	name := proxyPath(m, "mod")
	if err := c.put(name, data); err != nil {
		return err
	}
	return c.rebuildList(ctx, filepath.Dir(c.file(name)))
}

// rebuildList writes the versions that have a go.mod file into the list beside them. Like the go command's, the list
// holds no version with an upper-case letter, because its names are read in their escaped form.
func (c *modCache) rebuildList(ctx context.Context, dir string) error {
	f, err := filelock.Open(ctx, filepath.Join(dir, "list"), nil)
	if err != nil {
		return err
	}
	defer f.Close()
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var versions []string
	for _, e := range entries {
		if v, ok := strings.CutSuffix(e.Name(), ".mod"); ok && v != "" && module.CanonicalVersion(v) == v {
			versions = append(versions, v)
		}
	}
	semver.Sort(versions)
	var text bytes.Buffer
	for _, v := range versions {
		text.WriteString(v + "\n")
	}
	if old, err := io.ReadAll(f); err == nil && bytes.Equal(old, text.Bytes()) {
		return nil
	}
	return filelock.Overwrite(f, text.Bytes())
}

// stageZip creates the temporary file into which m's zip is received. Its name is one that the go command cleans up, should
// this process die: it is called with m's lock held, and removes what others left.
func (c *modCache) stageZip(m module.Version) (*os.File, error) {
	zip := c.file(proxyPath(m, "zip"))
	if err := os.MkdirAll(filepath.Dir(zip), 0o777); err != nil {
		return nil, err
	}
	removeLeftovers(filepath.Dir(zip), filepath.Base(zip), ".tmp")
	return createTemp(zip)
}

// stageTree creates the empty directory into which m's zip is extracted, under m's lock.
func (c *modCache) stageTree(m module.Version) (string, error) {
	tree := c.tree(m)
	parent, base := filepath.Split(tree)
	if err := os.MkdirAll(parent, 0o777); err != nil {
		return "", err
	}
	removeLeftovers(parent, base+".tmp-", "")
	if runtime.GOOS == "windows" {
		// There a directory cannot be renamed while anything in it is open, and scanners open new files: extract in
		// place, behind the marker of an extraction that is not complete.
		if err := errors.Join(c.distrust(m), c.mark(m)); err != nil {
			return "", err
		}
		return tree, os.Mkdir(tree, 0o777)
	}
	return mkdirTemp(tree)
}

// publishZip gives a verified zip its final name, and records its hash. A tree made from another zip goes first: the three
// are one thing. m's lock is held.
func (c *modCache) publishZip(ctx context.Context, m module.Version, staged, sum string) error {
	if c.zipHash(m) != sum {
		if err := c.distrust(m); err != nil {
			return err
		}
	}
	zip := c.file(proxyPath(m, "zip"))
	recordHash := func() error {
		if c.zipHash(m) == sum {
			return nil
		}
		return filelock.Write(ctx, zip+"hash", []byte(sum))
	}
	// The go command extracts whatever zip lies beside a hash that is on record. So where a zip is replaced, the new one
	// comes before its hash; where there is none, the hash comes first, as the go command has it.
	if staged == zip {
		return recordHash()
	}
	if exists(zip) {
		if err := os.Rename(staged, zip); err != nil {
			return err
		}
		return recordHash()
	}
	if err := recordHash(); err != nil {
		return err
	}
	return os.Rename(staged, zip)
}

// condemn removes m's zip, and the tree that may have been made from it. While a hash is on record the go command would
// extract whatever zip lies beside it.
func (c *modCache) condemn(m module.Version) error {
	return errors.Join(c.distrust(m), os.Remove(c.file(proxyPath(m, "zip"))))
}

// distrust removes m's tree, behind the marker that tells the go command not to use what is left of it.
func (c *modCache) distrust(m module.Version) error {
	if !exists(c.tree(m)) {
		return nil
	}
	if err := c.mark(m); err != nil {
		return err
	}
	return removeAll(c.tree(m))
}

// mark puts up the marker of an extraction that is not complete.
func (c *modCache) mark(m module.Version) error {
	name := c.file(proxyPath(m, "partial"))
	f, err := regular.Open(name, os.O_WRONLY|os.O_CREATE)
	if err == nil {
		return f.Close()
	}
	if _, statErr := os.Stat(name); statErr == nil {
		return nil // whatever it is, it marks
	}
	return err
}

// clearPartial removes the marker of a broken extraction once nothing is left of the tree.
func (c *modCache) clearPartial(m module.Version) error {
	if exists(c.tree(m)) {
		return nil
	}
	if err := os.Remove(c.file(proxyPath(m, "partial"))); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// publishTree gives a verified tree its final name and takes the write permission from its directories. m's lock is held.
func (c *modCache) publishTree(m module.Version, staged string) error {
	tree, partial := c.tree(m), c.file(proxyPath(m, "partial"))
	if staged != tree {
		if err := c.distrust(m); err != nil {
			return err
		}
		if err := os.Rename(staged, tree); err != nil {
			return err
		}
	}
	if err := os.Remove(partial); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if c.rw {
		return nil
	}
	filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			if info, err := d.Info(); err == nil {
				os.Chmod(path, info.Mode()&^0o222) // best effort, as a guard against accidents only
			}
		}
		return nil
	})
	return nil
}

// removeAll removes a directory tree whose directories may be read-only.
func removeAll(dir string) error {
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			os.Chmod(path, 0o777) // what cannot be changed is reported by RemoveAll
		}
		return nil
	})
	return os.RemoveAll(dir)
}

// removeLeftovers removes what a process that died has left under names with the given beginning and end.
func removeLeftovers(dir, prefix, suffix string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if name := e.Name(); strings.HasPrefix(name, prefix) && strings.HasSuffix(name, suffix) {
			removeAll(filepath.Join(dir, name))
		}
	}
}

// createTemp creates a file whose name is the given one with a number and .tmp appended, as the go command's are.
func createTemp(name string) (*os.File, error) {
	for range 1000 {
		f, err := os.OpenFile(fmt.Sprintf("%s%d.tmp", name, rand.IntN(1e9)), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
		if !errors.Is(err, fs.ErrExist) {
			return f, err
		}
	}
	return nil, &fs.PathError{Op: "create a temporary file for", Path: name, Err: fs.ErrExist}
}

// mkdirTemp creates an empty directory beside the named one, with the permissions that it would have.
func mkdirTemp(name string) (string, error) {
	dir := name + ".tmp-" + strconv.Itoa(rand.IntN(1e9))
	return dir, os.Mkdir(dir, 0o777)
}

// writeFile writes a file under a temporary name and renames it.
func writeFile(name string, write func(*os.File) error) error {
	f, err := createTemp(name)
	if err != nil {
		return err
	}
	err = errors.Join(write(f), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}
