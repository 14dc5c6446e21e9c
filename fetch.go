// Package modfetch makes several unreliable, untrusted Go module mirrors behave like one reliable, trusted one.
//
// A [Fetcher] gets modules from GOPROXY mirrors, asking the next one where the go command would give up, and holds every
// zip and go.mod file against go.sum or the checksum database before anybody sees it. It keeps them in the go command's own
// module cache, exactly as the go command would have left them there, or in any [Cache].
//
// Nothing that comes from outside is trusted: mirrors, and caches that others can write, are storage without authority.
// What vouches for a file is go.sum, or a record that the checksum database has signed; mirrors may carry that record.
//
// Start with [New]. Module paths and versions are plain, not escaped: {Path: "github.com/BurntSushi/toml", Version: "v1.4.0"}.
package modfetch

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"sync"

	"github.com/modfetch/modfetch/internal/flight"
	"github.com/modfetch/modfetch/internal/unpack"
	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
	modzip "golang.org/x/mod/zip"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
)

// A Fetcher gets modules from mirrors and verifies them. Make one with [New]; all methods may be called concurrently, and
// callers that want the same file at the same time share one transfer.
type Fetcher struct {
	*core
	goSum *GoSum
}

// core is what a Fetcher shares with those that WithGoSum made of it.
type core struct {
	settings

	infos flight.Group[module.Version, infoFile]
	mods  flight.Group[fileKey, modFile]
	zips  flight.Group[fileKey, *zipFile]
}

// settings are what New has made of the options, and what is learned under them.
type settings struct {
	routes routes
	engine *engine
	sums   []SumSource
	db     *sumDB      // nil for GOSUMDB=off
	exempt []exemption // settings by which paths are not looked up
	mod    *modCache
	cache  Cache
	locker Locker
	policy Policy
	trace  *Trace
	jobs   int
	cpu    *semaphore.Weighted // goroutines that inflate and hash
	idle   func()              // closes our own client's idle connections; nil for a client of the caller's
	hashed *lru[*zipFile]      // that this process has hashed in the module cache, by module.Version.String
}

// view returns a core over the same settings, cache and mirrors, whose transfers are nobody else's.
func (c *core) view() *core {
	v := &core{settings: c.settings}
	v.join()
	return v
}

// join makes callers who want the same file share its transfer.
func (c *core) join() {
	c.infos.Joined = func(ctx, work context.Context, m module.Version) {
		shareAsked(ctx, work)
		c.trace.joined(ctx, m)
	}
	c.mods.Joined = func(ctx, work context.Context, key fileKey) { c.infos.Joined(ctx, work, key.Version) }
	c.zips.Joined = c.mods.Joined
	c.zips.Held, c.zips.Unused = (*zipFile).hold, (*zipFile).drop
}

// A fileKey joins callers that want the same file held against the same line of go.sum.
type fileKey struct {
	module.Version
	want string // of go.sum; "" if it has no line
	tree bool
}

// A Module is what Download has fetched of one module version.
type Module struct {
	module.Version

	Dir, Zip, GoMod, Info string // files in the module cache; "" without one

	Sum, GoModSum               string // h1: of the zip and of the go.mod file
	VerifiedBy, GoModVerifiedBy string // "go.sum", or the name of the checksum database or other source
	Unverified                  string // instead: the setting that exempts the module, such as "GONOSUMDB=corp.example"
	Mirror                      string // who served the zip, or began to, redacted; "" if it was in the cache
}

// WithGoSum returns a Fetcher that holds files against another go.sum, over the same mirrors, cache and transfers.
func (f *Fetcher) WithGoSum(s *GoSum) *Fetcher { return &Fetcher{f.core, s} }

// Close closes the idle connections of the Fetcher's own client and removes what fetching from repositories has left. It is
// called when no other method is running or will be; the Cache is left alone.
func (f *Fetcher) Close() error {
	if f.idle != nil {
		f.idle()
	}
	return f.routes.direct.close()
}

// check refuses a module version before any request is made for it.
func check(m module.Version) error {
	err := module.Check(m.Path, m.Version)
	canonical := module.CanonicalVersion(m.Version) == m.Version && m.Version != ""
	switch {
	case err != nil && canonical && module.CheckPath(m.Path) == nil:
		major := semver.Major(m.Version)
		return &failure{ErrForbidden, fmt.Sprintf("%s holds no %s: try version %s+incompatible, or path %s/%s; a version such as v1.2.3 needs no suffix",
			m.Path, major, m.Version, m.Path, major), err}
	case err != nil:
		return &failure{ErrForbidden, "want a full version such as v1.2.3 of a path such as example.com/m", err}
	case !canonical:
		return failf(ErrForbidden, "%s: want a full version such as v1.2.3", m)
	}
	return nil
}

// GoMod returns m's verified go.mod file.
func (f *Fetcher) GoMod(ctx context.Context, m module.Version) ([]byte, error) {
	file, err := f.goMod(ctx, m)
	return bytes.Clone(file.data), err // callers that joined share one
}

type modFile struct {
	data []byte
	sum  string
	v    voucher
}

const (
	maxGoMod = modzip.MaxGoMod
	maxZip   = modzip.MaxZipFile
)

func (f *Fetcher) goMod(ctx context.Context, m module.Version) (modFile, error) {
	if err := check(m); err != nil {
		return modFile{}, err
	}
	sumKey := goModKey(m)
	if file, ok := f.goModInModCache(ctx, m); ok {
		return file, nil
	}
	line, _ := f.goSumVoucher(ctx, sumKey)
	return f.mods.Do(ctx, fileKey{m, line.want, false}, func(ctx context.Context) (modFile, error) {
		if file, ok, err := f.storedGoMod(ctx, m); ok || err != nil {
			return file, err
		}
		unlock, err := f.alone(ctx, proxyPath(m, "mod"))
		if err != nil {
			return modFile{}, err
		}
		defer unlock()
		if f.locker != nil { // somebody else may have put it there
			if file, ok, err := f.storedGoMod(ctx, m); ok || err != nil {
				return file, err
			}
		}
		var file modFile
		if _, err := f.fetch(ctx, m.Path, f.wantGoMod(ctx, m, &file)); err != nil {
			return modFile{}, err
		}
		return file, f.storeGoMod(ctx, m, file)
	})
}

// storedGoMod returns m's go.mod file from a cache, if there is one that somebody vouches for.
func (f *Fetcher) storedGoMod(ctx context.Context, m module.Version) (file modFile, ok bool, err error) {
	name, sumKey := proxyPath(m, "mod"), goModKey(m)
	data, inModCache, err := f.stored(ctx, name, maxGoMod)
	if err != nil {
		return modFile{}, false, nil // what cannot be read is fetched again
	}
	file = modFile{data: data, sum: goModSum(data)}
	if file.v, err = f.voucher(ctx, sumKey); err != nil {
		return modFile{}, false, err
	}
	err = f.verdict(ctx, file.v, sumKey, file.sum, "the cache")
	f.trace.cache(ctx, CacheInfo{Name: name, Hit: err == nil, Err: err})
	switch {
	case err == nil && f.mod != nil && !inModCache:
		return file, true, diskError(m, f.mod.putGoMod(ctx, m, data))
	case err == nil:
		return file, true, nil
	case KindOf(err) == Security:
		return modFile{}, false, err
	}
	return modFile{}, false, nil
}

// goModInModCache returns m's go.mod file if the module cache has what go.sum names. There is nothing to share then: reading
// it takes less time than a goroutine.
func (f *Fetcher) goModInModCache(ctx context.Context, m module.Version) (modFile, bool) {
	sumKey, name := goModKey(m), proxyPath(m, "mod")
	line, ok := f.goSumVoucher(ctx, sumKey)
	if !ok || f.mod == nil || m.Path == toolchainPath {
		return modFile{}, false
	}
	data, err := f.mod.read(name, maxGoMod)
	if err != nil || goModSum(data) != line.want {
		return modFile{}, false
	}
	f.trace.cache(ctx, CacheInfo{Name: name, Hit: true})
	return modFile{data, line.want, line}, f.verdict(ctx, line, sumKey, line.want, "the cache") == nil
}

// wantGoMod is what makes the engine get m's go.mod file into file.
func (f *Fetcher) wantGoMod(ctx context.Context, m module.Version, file *modFile) want {
	sumKey := goModKey(m)
	return want{
		module: m, path: proxyPath(m, "mod"), limit: maxGoMod, race: f.mayRace(ctx, sumKey), crosses: f.crosses(sumKey),
		judge: func(ctx context.Context, mirror Mirror, data []byte) (err error) {
			file.data, file.sum = data, goModSum(data)
			if file.v, err = f.voucher(ctx, sumKey); err != nil {
				return &fatalError{err}
			}
			return f.verdict(ctx, file.v, sumKey, file.sum, mirror.String())
		},
	}
}

// storeGoMod keeps a verified go.mod file.
func (f *Fetcher) storeGoMod(ctx context.Context, m module.Version, file modFile) error {
	if f.mod != nil {
		if err := f.mod.putGoMod(ctx, m, file.data); err != nil {
			return diskError(m, err)
		}
	}
	f.keep(ctx, proxyPath(m, "mod"), bytes.NewReader(file.data))
	return nil
}

// goModKey is the name under which m's go.mod file stands in go.sum and in the checksum database.
func goModKey(m module.Version) module.Version {
	return module.Version{Path: m.Path, Version: m.Version + "/go.mod"}
}

// goModSum hashes a go.mod file as go.sum does: as a list of files with this one in it.
func goModSum(data []byte) string {
	list := sha256.Sum256(fmt.Appendf(nil, "%x  go.mod\n", sha256.Sum256(data)))
	return "h1:" + base64.StdEncoding.EncodeToString(list[:])
}

// askVoucher makes ask start asking who vouches for m, once, so that the answer travels beside the file; answer waits for
// it. The caller calls leave when it is done, with or without the answer: nothing goes on after that.
func (f *Fetcher) askVoucher(ctx context.Context, m module.Version) (ask func(), answer func() (voucher, error), leave func()) {
	ctx, cancel := context.WithCancel(ctx)
	var v voucher
	var err error
	done := make(chan struct{})
	asked := false
	ask = sync.OnceFunc(func() {
		asked = true
		go func() { // ends with ctx at the latest
			defer close(done)
			v, err = f.voucher(ctx, m)
		}()
	})
	answer = func() (voucher, error) { ask(); <-done; return v, err }
	leave = func() {
		if cancel(); asked {
			<-done
		}
	}
	return ask, answer, leave
}

// mayRace reports whether several mirrors may be asked for m at once: its bytes can be proven, and no setting singles its
// path out.
func (f *Fetcher) mayRace(ctx context.Context, m module.Version) bool {
	if f.routes.rule(m.Path) != nil || matching(f.exempt, m.Path) != "" {
		return false
	}
	_, ok := f.goSumVoucher(ctx, m)
	return ok || f.db != nil
}

// crosses says whether the public checksum database has m on record; see want. What is exempt or routed is never looked
// up, and so never crosses.
func (f *Fetcher) crosses(m module.Version) func(context.Context) bool {
	return func(ctx context.Context) bool {
		v, err := f.voucher(ctx, m)
		return err == nil && v.public
	}
}

// stored returns a small file from the module cache or, if it is not there or cannot be read, from the Cache.
func (f *Fetcher) stored(ctx context.Context, name string, limit int64) (data []byte, inModCache bool, err error) {
	if f.mod != nil {
		if data, err := f.mod.read(name, limit); err == nil {
			return data, true, nil
		}
	}
	if f.cache == nil {
		return nil, false, fs.ErrNotExist
	}
	r, err := f.cache.Open(ctx, name)
	if err != nil {
		if !absent(err) {
			f.trace.cache(ctx, CacheInfo{Name: name, Err: err})
		}
		return nil, false, err
	}
	defer r.Close()
	data, err = io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = failf(ErrCorrupt, "%s in the cache is larger than the %d bytes that are accepted", name, limit)
	}
	return data, false, err
}

// diskError keeps a failure of our own disk from looking like a mirror's statement that a file does not exist.
func diskError(m module.Version, err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return &failure{ErrTransient, "keeping " + m.String(), err}
}

// alone waits until no other process that shares the Cache fetches a file.
func (f *Fetcher) alone(ctx context.Context, name string) (unlock func() error, err error) {
	if f.locker == nil {
		return func() error { return nil }, nil
	}
	unlock, err = f.locker.Lock(ctx, name)
	switch {
	case ctx.Err() != nil && err != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, &failure{ErrTransient, "waiting for the lock of " + name, err}
	}
	return unlock, nil
}

// keep puts a verified file into the Cache. A cache that cannot store must not fail the fetch.
func (f *Fetcher) keep(ctx context.Context, name string, content io.ReadSeeker) {
	if f.cache == nil {
		return
	}
	if err := f.cache.Put(ctx, name, content); err != nil {
		f.trace.cache(ctx, CacheInfo{Name: name, Err: err})
	}
}

// Dir returns the directory of m's verified, extracted files in the module cache, which [WithModCache] names. Its files
// are shared with the go command and must not be changed.
func (f *Fetcher) Dir(ctx context.Context, m module.Version) (string, error) {
	if f.mod == nil {
		return "", errors.New("modfetch: Dir needs a module cache: give WithModCache, or use Extract")
	}
	if _, err := f.zip(ctx, m, true); err != nil {
		return "", err
	}
	return f.mod.tree(m), nil
}

// Extract writes m's verified files to dir, which must be empty or absent. Files have mode 0444.
func (f *Fetcher) Extract(ctx context.Context, m module.Version, dir string) error {
	if entries, err := os.ReadDir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	} else if len(entries) > 0 {
		return fmt.Errorf("modfetch: extract %s: %s is not empty", m, dir)
	}
	z, err := f.Zip(ctx, m)
	if err != nil {
		return err
	}
	defer z.Close()
	dir = filepath.Clean(dir)
	if err := os.MkdirAll(filepath.Dir(dir), 0o777); err != nil {
		return diskError(m, err)
	}
	staged, err := mkdirTemp(dir)
	if err != nil {
		return diskError(m, err)
	}
	defer os.RemoveAll(staged) // is gone after the rename
	a, err := unpack.Open(z.file, z.Size, m)
	if err != nil {
		return err
	}
	sum, err := a.Extract(ctx, f.cpu, staged)
	if err != nil {
		return err
	}
	if sum != z.Sum {
		return failf(ErrCorrupt, "extract %s: its zip was changed while it was read", m)
	}
	os.Remove(dir) // if it was there, it was empty
	return diskError(m, os.Rename(staged, dir))
}

// Download fetches modules with all their files, many at once, and yields each as it completes. An error belongs to the
// module that comes with it, of which Version is set; the others go on. Breaking the loop stops the rest.
func (f *Fetcher) Download(ctx context.Context, mods []module.Version) iter.Seq2[Module, error] {
	type result struct {
		m   Module
		err error
	}
	return func(yield func(Module, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		results, left := make(chan result), make(chan struct{})
		var g errgroup.Group
		queue := make(chan module.Version, len(mods))
		for _, m := range mods {
			queue <- m
		}
		close(queue)
		for range min(f.jobs, len(mods)) { // requests are bounded by themselves; this bounds staged files
			g.Go(func() error { // ends when all modules have been fetched, or have failed because ctx has ended
				for m := range queue {
					out, err := f.download(ctx, m)
					select {
					case results <- result{out, err}:
					case <-left:
					}
				}
				return nil
			})
		}
		go func() {
			g.Wait()
			close(results)
		}()
		defer func() {
			close(left)
			cancel()
			for range results { // until everybody has left
			}
		}()
		for r := range results {
			if !yield(r.m, r.err) {
				return
			}
		}
	}
}

// download fetches the files of one module side by side, unless they are all there.
func (f *Fetcher) download(ctx context.Context, m module.Version) (Module, error) {
	out := Module{Version: m}
	if err := check(m); err != nil {
		return out, err
	}
	z, goMod := f.inModCache(ctx, m)
	var err error
	if z == nil {
		g, ctx := errgroup.WithContext(ctx)
		g.Go(func() error {
			_, err := f.info(ctx, m)
			return err
		})
		g.Go(func() (err error) {
			goMod, err = f.goMod(ctx, m)
			return err
		})
		g.Go(func() (err error) {
			z, err = f.zip(ctx, m, f.mod != nil && !f.policy.NoExtract)
			return err
		})
		err = g.Wait()
	}
	if z != nil {
		z.drop() // without a module cache it is in the Cache, or wanted by nobody
		out.Sum, out.VerifiedBy, out.Unverified, out.Mirror = z.sum, z.v.by, z.v.unverified, z.mirror
		if z.goMod != nil {
			goMod = *z.goMod
		}
	}
	out.GoModSum, out.GoModVerifiedBy = goMod.sum, goMod.v.by
	out.Unverified = cmp.Or(out.Unverified, goMod.v.unverified)
	if f.mod == nil {
		return out, err
	}
	// As far as it got: a file that is named here is there.
	file := func(suffix string, known bool) string {
		name := f.mod.file(proxyPath(m, suffix))
		if !known && !exists(name) {
			return ""
		}
		return name
	}
	out.Info, out.GoMod, out.Zip = file("info", err == nil), file("mod", err == nil), file("zip", false)
	if err == nil && !f.policy.NoExtract {
		out.Dir = f.mod.tree(m)
	}
	return out, err
}

// inModCache returns what goes with a tree if all of it is in the module cache, and is what go.sum names; else nil.
func (f *Fetcher) inModCache(ctx context.Context, m module.Version) (*zipFile, modFile) {
	if _, ok := f.goSumVoucher(ctx, m); !ok || f.mod == nil || f.policy.NoExtract {
		return nil, modFile{}
	}
	name := proxyPath(m, "info")
	data, err := f.mod.read(name, maxInfo)
	if err != nil {
		return nil, modFile{}
	}
	if _, err := parseInfo(data, m); err != nil {
		return nil, modFile{}
	}
	f.trace.cache(ctx, CacheInfo{Name: name, Hit: true})
	goMod, ok := f.goModInModCache(ctx, m)
	if !ok {
		return nil, modFile{}
	}
	z, err := f.lookInModCache(ctx, m, true)
	if err != nil {
		return nil, modFile{} // it will be found again, and reported
	}
	return z, goMod
}
