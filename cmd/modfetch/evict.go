package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/modfetch/modfetch/internal/filelock"
	"golang.org/x/mod/module"
)

// An evictor keeps the files of a module cache below a size. It removes answers first, which can be asked for again: those
// written longest ago. Then it removes the zips used longest ago, and only if that is not enough the info and go.mod files
// written longest ago. Records and tiles of the checksum database are never removed.
//
// A zip's .ziphash file tells by its time when the zip was used last: the zip's own time has to stay as it is, because it
// tells those who have hashed the zip that it is still the same.
type evictor struct {
	mod string // GOMODCACHE
	max int64  // bytes
	log *slog.Logger

	written   atomic.Int64 // bytes that have arrived since the last walk
	bytes     atomic.Int64 // in the cache, at the last walk
	evictions atomic.Int64 // answers, and versions of which something was removed
	evicted   atomic.Int64 // bytes
}

const (
	walkEvery  = time.Minute // at most
	touchEvery = time.Hour   // how exact the time of use is
	keepFree   = 10          // percent that are made room for, so that not each new zip makes another walk necessary
)

func (e *evictor) downloads() string { return filepath.Join(e.mod, "cache", "download") }

// answers is where the Handler keeps lists, latest versions, the database's tree head, and what branches and other revisions
// are, of which clients choose how many.
func (e *evictor) answers() string { return filepath.Join(e.mod, "cache", "modfetch", "fresh") }

// run makes room at once, and then whenever so much may have arrived that there is too much. The cache can grow beyond the
// limit by what arrives within a minute.
func (e *evictor) run(ctx context.Context) {
	e.walk(ctx)
	tick := time.NewTicker(walkEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if e.bytes.Load()+e.written.Load() > e.max {
			e.walk(ctx)
		}
	}
}

// used notes that a zip is in use.
func (e *evictor) used(m module.Version) {
	path, err := module.EscapePath(m.Path)
	version, versionErr := module.EscapeVersion(m.Version)
	if err != nil || versionErr != nil {
		return
	}
	name := filepath.Join(e.downloads(), filepath.FromSlash(path), "@v", version+".ziphash")
	if info, err := os.Stat(name); err == nil && time.Since(info.ModTime()) > touchEvery {
		now := time.Now()
		os.Chtimes(name, now, now) // if that fails, the zip is removed sooner, and fetched again
	}
}

// arrived notes that a mirror, or a cache behind this one, has sent n bytes.
func (e *evictor) arrived(n int) { e.written.Add(int64(n)) }

// A cachedVersion is what the cache holds of one version of a module, or one answer.
type cachedVersion struct {
	base string // name of its files, without the suffix; of an answer, of its file
	zip  part
	rest part // .info and .mod together, or an answer
}

type part struct {
	size int64     // bytes; 0 if it is not there
	used time.Time // last
}

func (p *part) add(info fs.FileInfo) {
	p.size += info.Size()
	p.use(info)
}

func (p *part) use(info fs.FileInfo) {
	if info.ModTime().After(p.used) {
		p.used = info.ModTime()
	}
}

// walk finds out what there is, and removes what is too much.
func (e *evictor) walk(ctx context.Context) {
	e.written.Store(0) // before: what arrives meanwhile may not be seen
	total, answers, versions, err := e.find(ctx)
	if err != nil {
		if ctx.Err() == nil {
			e.log.Warn("the size of the cache is not known", "err", err)
		}
		return
	}
	e.bytes.Store(total)
	if total <= e.max {
		return
	}
	start, before, bytesBefore := time.Now(), e.evictions.Load(), e.evicted.Load()
	target := e.max - e.max/100*keepFree
	total = e.evict(ctx, answers, total, target, func(v *cachedVersion) *part { return &v.rest }, removeAnswer)
	afterAnswers := e.evictions.Load()
	total = e.evict(ctx, versions, total, target, func(v *cachedVersion) *part { return &v.zip }, locked(removeZip))
	total = e.evict(ctx, versions, total, target, func(v *cachedVersion) *part { return &v.rest }, locked(removeRest))
	e.bytes.Store(total)
	level := slog.LevelInfo
	if total > e.max {
		level = slog.LevelWarn
	}
	e.log.Log(ctx, level, "made room in the cache", "answers", afterAnswers-before, "versions", e.evictions.Load()-afterAnswers,
		"removed", e.evicted.Load()-bytesBefore, "bytes", total, "limit", e.max, "ms", time.Since(start).Milliseconds())
}

// find returns the size of all files below cache/download and of the answers, and both answers and versions.
func (e *evictor) find(ctx context.Context) (total int64, answers, versions []cachedVersion, err error) {
	fresh := e.answers()
	index := make(map[string]int) // within one directory
	look := func(name string, d fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, fs.ErrNotExist):
			return nil // gone since its directory was read
		case err != nil:
			return err
		case d.IsDir():
			clear(index)
			return nil
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
		total += info.Size()
		if strings.HasPrefix(name, fresh) {
			answers = append(answers, cachedVersion{base: name, rest: part{info.Size(), info.ModTime()}})
			return nil
		}
		suffix := filepath.Ext(name)
		if filepath.Base(filepath.Dir(name)) != "@v" || !slices.Contains([]string{".zip", ".ziphash", ".info", ".mod"}, suffix) {
			return nil // of the checksum database, a list, a lock, or on its way
		}
		base := strings.TrimSuffix(name, suffix)
		i, ok := index[base]
		if !ok {
			i = len(versions)
			index[base] = i
			versions = append(versions, cachedVersion{base: base})
		}
		v := &versions[i]
		switch suffix {
		case ".zip":
			v.zip.add(info)
		case ".ziphash":
			v.zip.use(info)
		default:
			v.rest.add(info)
		}
		return nil
	}
	if err = filepath.WalkDir(e.downloads(), look); err == nil {
		err = filepath.WalkDir(fresh, look)
	}
	return total, answers, versions, err
}

// evict removes a part of versions, or answers, that used longest ago first, until the target is reached. It returns what is
// left.
func (e *evictor) evict(ctx context.Context, versions []cachedVersion, total, target int64,
	of func(*cachedVersion) *part, remove func(context.Context, *cachedVersion) error) int64 {
	slices.SortFunc(versions, func(a, b cachedVersion) int {
		return cmp.Or(of(&a).used.Compare(of(&b).used), strings.Compare(a.base, b.base))
	})
	for i := range versions {
		v := &versions[i]
		p := of(v)
		if total <= target || ctx.Err() != nil {
			break
		}
		if p.size == 0 {
			continue
		}
		if err := remove(ctx, v); err != nil {
			e.log.Debug("not removed from the cache", "files", v.base, "err", err)
			continue
		}
		total -= p.size
		e.evictions.Add(1)
		e.evicted.Add(p.size)
		p.size = 0
	}
	return total
}

// removeAnswer removes an answer. Nobody has to be kept from writing it: at worst it is asked for once more.
func removeAnswer(_ context.Context, v *cachedVersion) error { return os.Remove(v.base) }

// locked makes remove take the go command's lock on the version. Who holds that is using the version.
func locked(remove func(context.Context, *cachedVersion) error) func(context.Context, *cachedVersion) error {
	return func(ctx context.Context, v *cachedVersion) error {
		waiting, cancel := context.WithCancel(ctx)
		defer cancel()
		lock, err := filelock.Open(waiting, v.base+".lock", cancel)
		if err != nil {
			return err
		}
		defer lock.Close()
		return remove(ctx, v)
	}
}

// removeZip removes a zip, unless it was used since the walk. Its hash stays on record: the go command holds a tree against
// it. On unix, who has opened the zip can read it to its end.
func removeZip(_ context.Context, v *cachedVersion) error {
	if info, err := os.Stat(v.base + ".ziphash"); err == nil && info.ModTime().After(v.zip.used) {
		return errors.New("used meanwhile")
	}
	return os.Remove(v.base + ".zip")
}

// removeRest removes the small files of a version without a zip, and takes it off the list of versions that are here.
func removeRest(ctx context.Context, v *cachedVersion) error {
	if exists(v.base + ".zip") {
		return errors.New("its zip is here")
	}
	for _, suffix := range []string{".info", ".mod"} {
		if err := os.Remove(v.base + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	dir := filepath.Dir(v.base)
	list, err := filelock.Open(ctx, filepath.Join(dir, "list"), nil)
	if err != nil {
		return err
	}
	defer list.Close()
	old, err := io.ReadAll(list)
	if err != nil {
		return err
	}
	var left bytes.Buffer
	for version := range strings.Lines(string(old)) {
		if exists(filepath.Join(dir, strings.TrimSpace(version)+".mod")) {
			left.WriteString(version)
		}
	}
	return filelock.Overwrite(list, left.Bytes())
}
