package modfetch

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"sync"

	"github.com/modfetch/modfetch/internal/unpack"
	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
)

// A Zip is a verified module zip, open for reading; its ReadAt gives the very bytes that were hashed. In a module cache it
// is the file itself: who may write there could still change it in place, which Extract would notice, but not a reader.
type Zip struct {
	Size int64  // bytes
	Sum  string // h1:

	file   *os.File
	info   fs.FileInfo // of file
	shared bool        // with others, so that its offset is nobody's
	close  func() error
}

// ReadAt implements io.ReaderAt.
func (z *Zip) ReadAt(p []byte, off int64) (int, error) { return z.file.ReadAt(p, off) }

// FS returns the zip's content. Names begin with "path@version/".
func (z *Zip) FS() (fs.FS, error) { return zip.NewReader(z, z.Size) }

// Close releases the file. The Zip is not to be used after it.
func (z *Zip) Close() error { return z.close() }

// Zip returns m's verified zip. The caller closes it.
func (f *Fetcher) Zip(ctx context.Context, m module.Version) (*Zip, error) {
	for range 10 {
		z, err := f.zip(ctx, m, false)
		if err != nil {
			return nil, err
		}
		// What was verified may be gone or replaced by now, by another process: then it is verified again.
		if z.temp != nil {
			return &Zip{z.info.Size(), z.sum, z.temp.file, z.info, true, sync.OnceValue(z.temp.release)}, nil
		}
		file, err := f.mod.open(proxyPath(m, "zip"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		info, err := file.Stat()
		if err == nil && sameFile(info, z.info) {
			return &Zip{z.info.Size(), z.sum, file, info, false, file.Close}, nil
		}
		file.Close()
		if err != nil {
			return nil, err
		}
	}
	return nil, failf(ErrTransient, "the zip of %s changes whenever it has been verified: something else writes to the module cache", m)
}

// A zipFile is a verified zip in the module cache, or in a temporary file.
type zipFile struct {
	temp   *tempZip    // nil in the module cache
	info   fs.FileInfo // before the file was hashed; nil if a tree was asked for and found
	sum    string
	v      voucher
	mirror string   // "" if it was in a cache
	goMod  *modFile // of that mirror, where it took the place of another mirror's
}

// sameFile reports whether a file is still the one that was hashed.
func sameFile(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// zip makes m's zip, and its tree if that is wanted, present and verified.
func (f *Fetcher) zip(ctx context.Context, m module.Version, tree bool) (*zipFile, error) {
	if err := check(m); err != nil {
		return nil, err
	}
	if f.mod != nil && !tree { // what was handed out before takes less time to find than to share
		if z, err := f.lookInModCache(ctx, m, tree); z != nil || err != nil {
			return z, err
		}
	}
	line, _ := f.goSumVoucher(ctx, m)
	goMod, _ := f.goSumVoucher(ctx, goModKey(m)) // see matchGoMod
	return f.zips.Do(ctx, fileKey{m, line.want + goMod.want, tree}, func(ctx context.Context) (*zipFile, error) {
		if f.mod != nil {
			return f.zipInModCache(ctx, m, tree)
		}
		return f.zipInTemp(ctx, m)
	})
}

// zipInModCache looks, takes the version's lock, looks again, and then fetches.
func (f *Fetcher) zipInModCache(ctx context.Context, m module.Version, tree bool) (*zipFile, error) {
	if z, err := f.lookInModCache(ctx, m, tree); z != nil || err != nil {
		return z, err
	}
	unlock, err := f.mod.lock(ctx, m)
	if err != nil {
		return nil, diskError(m, err)
	}
	defer unlock()
	if z, err := f.lookInModCache(ctx, m, tree); z != nil || err != nil {
		return z, err
	}
	s := &staging{f: f, m: m, tree: tree}
	defer s.discard()
	if s.file, err = f.mod.open(proxyPath(m, "zip")); err == nil {
		// A zip is there, but its tree or hash is not, or this process has not hashed it yet.
		err := s.judgeCached(ctx)
		f.trace.cache(ctx, CacheInfo{Name: proxyPath(m, "zip"), Hit: err == nil, Err: err})
		if err == nil {
			z, err := s.publish(ctx)
			return z, diskError(m, err)
		}
		if ctx.Err() != nil || KindOf(err) == Security || !s.judged {
			return nil, err
		}
		s.discard()
		if err := f.mod.condemn(m); err != nil {
			return nil, diskError(m, err)
		}
	}
	if s.file, err = f.mod.stageZip(m); err != nil {
		return nil, diskError(m, err)
	}
	s.temp = true
	if err := s.obtain(ctx); err != nil {
		return nil, err
	}
	z, err := s.publish(ctx)
	return z, diskError(m, err)
}

// lookInModCache returns what is already there, if somebody still vouches for it: nil without an error says to go on.
func (f *Fetcher) lookInModCache(ctx context.Context, m module.Version, tree bool) (*zipFile, error) {
	z := new(zipFile)
	var err error
	if tree {
		if z.sum = f.mod.zipHash(m); z.sum == "" || !f.mod.complete(m) {
			return nil, nil
		}
		if f.policy.Rehash {
			if inTree, err := f.hashTree(ctx, m); err != nil || inTree != z.sum {
				return nil, nil
			}
			if inZip, err := f.hashZip(ctx, m); err != nil || inZip != z.sum {
				return nil, nil
			}
		}
	} else { // what this process has hashed itself
		hashed, ok := f.hashed.get(m.String())
		if !ok || f.policy.Rehash {
			return nil, nil
		}
		if z.info, err = os.Stat(f.mod.file(proxyPath(m, "zip"))); err != nil || !sameFile(z.info, hashed.info) {
			return nil, nil
		}
		z.sum = hashed.sum
	}
	if z.v, err = f.voucher(ctx, m); err != nil {
		return nil, err
	}
	err = f.verdict(ctx, z.v, m, z.sum, "the cache")
	f.trace.cache(ctx, CacheInfo{Name: proxyPath(m, "ziphash"), Hit: err == nil, Err: err})
	switch {
	case err == nil:
		return z, nil
	case KindOf(err) == Security:
		return nil, err
	}
	return nil, nil // it will be replaced
}

// zipInTemp fetches m's zip into a temporary file that is gone when the last of those who get it has released it.
func (f *Fetcher) zipInTemp(ctx context.Context, m module.Version) (z *zipFile, err error) {
	s := &staging{f: f, m: m, temp: true}
	if s.file, err = os.CreateTemp("", "modfetch-*.zip"); err != nil {
		return nil, diskError(m, err)
	}
	if err := s.obtain(ctx); err != nil {
		s.discard()
		return nil, err
	}
	return &zipFile{temp: &tempZip{file: s.file}, info: s.info, sum: s.sum, v: s.v, mirror: s.mirror, goMod: s.goMod}, nil
}

// A tempZip is a temporary file shared by those who have it.
type tempZip struct {
	file *os.File

	mu   sync.Mutex // guards refs
	refs int
}

// hold makes a zip that has arrived belong to n callers, each of which releases it.
func (z *zipFile) hold(n int) {
	if z.temp != nil {
		z.temp.refs = n
	}
}

// drop releases a zip for a caller that has left, or that does not want it.
func (z *zipFile) drop() {
	if z.temp != nil {
		z.temp.release()
	}
}

func (t *tempZip) release() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.refs--; t.refs > 0 {
		return nil
	}
	return errors.Join(t.file.Close(), os.Remove(t.file.Name()))
}

const maxHashed = 1 << 16 // zips of which it is remembered that they were hashed

// A staging is a zip on its way: received, hashed and extracted, and not trusted until somebody has vouched for its hash.
type staging struct {
	f    *Fetcher
	m    module.Version
	tree bool // wanted

	file      *os.File
	temp      bool        // file is ours to remove
	info      fs.FileInfo // of the file before it was hashed: what is written to it later shows
	dir       string      // the extracted tree; "" if there is none
	sum       string
	v         voucher
	archive   *unpack.Archive
	malformed error // what is wrong with the file
	judged    bool  // the voucher was known, so that an error is a verdict on the bytes
	mirror    string
	goMod     *modFile // see zipFile
}

// obtain fills the staging file with bytes that somebody vouches for: from the Cache, else from the mirrors, and then puts them
// into the Cache.
func (s *staging) obtain(ctx context.Context) error {
	if ok, err := s.fromCache(ctx); ok || err != nil {
		return err
	}
	unlock, err := s.f.alone(ctx, proxyPath(s.m, "zip"))
	if err != nil {
		return err
	}
	defer unlock()
	if s.f.locker != nil { // somebody else may have put it there
		if ok, err := s.fromCache(ctx); ok || err != nil {
			return err
		}
	}
	if err := s.fromMirrors(ctx); err != nil {
		return err
	}
	s.f.keep(ctx, proxyPath(s.m, "zip"), s.file)
	return nil
}

// fromCache fills the staging file from the Cache, if it has bytes that somebody vouches for.
func (s *staging) fromCache(ctx context.Context) (ok bool, err error) {
	if s.f.cache == nil {
		return false, nil
	}
	name := proxyPath(s.m, "zip")
	r, err := s.f.cache.Open(ctx, name)
	if err == nil {
		err = s.receive(io.LimitReader(r, maxZip+1))
		r.Close()
		if err == nil {
			err = s.judgeCached(ctx)
		}
	}
	s.f.trace.cache(ctx, CacheInfo{Name: name, Hit: err == nil, Err: err})
	if err != nil && (ctx.Err() != nil || KindOf(err) == Security) {
		return false, err
	}
	return err == nil, nil
}

// fromMirrors fills the staging file from the mirrors, and with what an earlier run has set aside.
func (s *staging) fromMirrors(ctx context.Context) error {
	ask, answer, leave := s.f.askVoucher(ctx, s.m)
	defer leave()
	var u unfinished
	if s.f.mod == nil {
		return s.fetch(ctx, ask, answer, &u)
	}
	sum := func() string { v, _ := answer(); return v.want }
	u = s.f.mod.takeUp(ctx, s.m, s.file, sum)
	took := u.size > 0
	err := s.fetch(ctx, ask, answer, &u)
	if err != nil && KindOf(err) != Security && u.arrived() >= minUnfinished && sum() != "" {
		s.f.mod.setAside(s.m, s.file, sum(), &u) // if that fails, it is fetched again
	} else if kind := KindOf(err); took && (err == nil || kind == Corrupt || kind == Security) {
		os.Remove(s.f.mod.unfinishedFile(s.m, sum()))
	}
	return err
}

// fetch fills the staging file from the mirrors, or with what is missing in it.
func (s *staging) fetch(ctx context.Context, ask func(), answer func() (voucher, error), u *unfinished) error {
	if u.size > 0 && len(u.missing()) == 0 { // the process before had no time to judge it
		if err := s.judgeCached(ctx); err == nil || !s.judged || KindOf(err) == Security {
			return err
		}
		u.drop()
	}
	mirror, err := s.f.fetch(ctx, s.m.Path, want{
		module: s.m, path: proxyPath(s.m, "zip"), limit: maxZip, race: s.f.mayRace(ctx, s.m), crosses: s.f.crosses(s.m),
		into: s.file, unfinished: u, begun: ask,
		known: func(context.Context) bool {
			v, err := answer()
			return err == nil && v.want != ""
		},
		inspect: s.inspect,
		judge: func(ctx context.Context, mirror Mirror, _ []byte) error {
			err := s.decide(ctx, mirror, answer)
			if err != nil && !s.judged {
				return &fatalError{err}
			}
			return err
		},
	})
	if err != nil {
		return err
	}
	s.mirror = mirror.String()
	return nil
}

// receive replaces what is in the staging file.
func (s *staging) receive(r io.Reader) error {
	if err := s.file.Truncate(0); err != nil {
		return &fatalError{err}
	}
	if _, err := s.file.Seek(0, io.SeekStart); err != nil {
		return &fatalError{err}
	}
	_, err := io.Copy(onlyWriter{s.file}, r)
	var path *fs.PathError
	if errors.As(err, &path) && path.Path == s.file.Name() {
		return &fatalError{err} // a full disk is no mirror's fault
	}
	return err
}

// onlyWriter hides os.File's ReadFrom, which would allocate a buffer for each zip.
type onlyWriter struct{ io.Writer }

// judgeCached inspects a file that was in a cache, and decides. After an error no tree is left.
func (s *staging) judgeCached(ctx context.Context) error {
	if err := s.inspect(ctx); err != nil {
		return err
	}
	return s.decide(ctx, nil, func() (voucher, error) { return s.f.voucher(ctx, s.m) })
}

// inspect checks, hashes and extracts the file. An error is the disk's fault, or the caller has left; what is wrong with the
// file itself waits for the verdict.
func (s *staging) inspect(ctx context.Context) (err error) {
	s.judged = false
	s.dropTree() // of what was condemned before
	if s.info, err = s.file.Stat(); err != nil {
		return err
	}
	s.archive, s.malformed = unpack.Open(s.file, s.info.Size(), s.m)
	if s.malformed == nil {
		s.malformed = s.unpack(ctx, s.archive)
	}
	if s.malformed != nil && !errors.Is(s.malformed, unpack.ErrMalformed) {
		s.dropTree()
		return diskError(s.m, s.malformed)
	}
	return nil
}

// decide holds what was inspected against who vouches for it. The mirror is nil for a file that was in a cache.
func (s *staging) decide(ctx context.Context, mirror Mirror, answer func() (voucher, error)) (err error) {
	defer func() {
		if err != nil {
			s.dropTree()
		}
	}()
	if s.v, err = answer(); err != nil {
		return err
	}
	s.judged = true
	if s.malformed != nil {
		return failf(ErrCorrupt, "%v", s.malformed)
	}
	from := "the cache"
	if mirror != nil {
		from = mirror.String()
	}
	if err := s.f.verdict(ctx, s.v, s.m, s.sum, from); err != nil || s.v.unverified == "" {
		return err
	}
	return s.matchGoMod(ctx, mirror)
}

// unpack hashes the archive and extracts it if a tree is wanted.
func (s *staging) unpack(ctx context.Context, a *unpack.Archive) (err error) {
	if !s.tree {
		s.sum, err = a.Hash(ctx, s.f.cpu)
		return err
	}
	if s.dir, err = s.f.mod.stageTree(s.m); err != nil {
		return err
	}
	s.sum, err = a.Extract(ctx, s.f.cpu, s.dir)
	return err
}

// matchGoMod holds a zip that nobody vouches for at least against its go.mod file, which decides what gets built. Where
// nobody vouches for that either, it has to be the zip's own mirror's: what another one has sent proves nothing.
func (s *staging) matchGoMod(ctx context.Context, mirror Mirror) error {
	inZip, ok, err := s.archive.GoMod()
	if err != nil {
		return failf(ErrCorrupt, "%v", err)
	}
	if !ok {
		inZip = []byte("module " + modfile.AutoQuote(s.m.Path) + "\n")
	}
	alone, err := s.f.goMod(ctx, s.m)
	if err != nil {
		return &fatalError{err}
	}
	if bytes.Equal(inZip, alone.data) {
		return nil
	}
	differ := failf(ErrCorrupt, "the go.mod file in the zip of %s is not the one served beside it", s.m)
	if alone.v.unverified == "" || mirror == nil {
		return differ
	}
	var own modFile
	_, err = s.f.engine.fetch(ctx, []tier{{mirrors: []Mirror{mirror}}}, s.f.wantGoMod(ctx, s.m, &own))
	switch {
	case absent(err):
		return failf(ErrCorrupt, "has a zip of %s, but no go.mod file", s.m)
	case err != nil:
		return err
	case !bytes.Equal(inZip, own.data):
		return differ
	}
	s.goMod = &own
	if err := s.f.storeGoMod(ctx, s.m, own); err != nil {
		return &fatalError{err}
	}
	return nil
}

// publish gives the zip, and the tree, their final names in the module cache. The version's lock is held.
func (s *staging) publish(ctx context.Context) (*zipFile, error) {
	if err := s.file.Close(); err != nil {
		return nil, err
	}
	if err := s.f.mod.publishZip(ctx, s.m, s.file.Name(), s.sum); err != nil {
		return nil, err
	}
	s.temp = false
	if s.dir != "" {
		if err := s.f.mod.publishTree(s.m, s.dir); err != nil {
			return nil, err
		}
		s.dir = ""
	} else if err := s.f.mod.clearPartial(s.m); err != nil {
		return nil, err
	}
	z := &zipFile{info: s.info, sum: s.sum, v: s.v, mirror: s.mirror, goMod: s.goMod}
	s.f.hashed.put(s.m.String(), z, 1, maxHashed)
	return z, nil
}

func (s *staging) dropTree() {
	if s.dir != "" {
		removeAll(s.dir)
		s.dir = ""
	}
}

// discard removes what has not been published.
func (s *staging) discard() {
	s.dropTree()
	if s.file != nil {
		s.file.Close() // may be closed already
		if s.temp {
			os.Remove(s.file.Name())
		}
	}
	s.file, s.temp = nil, false
}
