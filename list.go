package modfetch

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
)

const (
	maxInfo = 1 << 20  // bytes
	maxList = 16 << 20 // bytes

	maxUnvouched = 3 // versions that nobody vouches for until a list is left out: an honest one may have a tag that is gone
)

// Versions lists the versions of a module that a mirror knows, or several with [Policy.AskAll], in ascending order, without
// pseudo-versions. No hash covers a list: it may be incomplete or old, and name what does not exist.
func (f *Fetcher) Versions(ctx context.Context, path string) ([]string, error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	all, err := f.versions(ctx, path, nil)
	return all.versions, err
}

// versions puts the lists of the mirrors together, and tells who lags.
func (f *Fetcher) versions(ctx context.Context, path string, e *earlier) (versionList, error) {
	l, err := f.lists(ctx, path, e)
	if err != nil {
		return versionList{}, err
	}
	all, err := l.union(ctx)
	if err != nil {
		return versionList{}, err
	}
	l.lag(ctx, f.trace, all, "")
	return all, nil
}

// A versionList is a mirror's list: tagged versions in ascending order, and the newest pseudo-version among its lines.
type versionList struct {
	versions []string
	pseudo   string

	unvouched int // versions that it showed, and nobody vouches for
}

// shows reports whether a version is in the list.
func (l versionList) shows(v string) bool { return v == l.pseudo || slices.Contains(l.versions, v) }

// lists are what mirrors say of the versions of one module.
type lists struct {
	module string // its path
	path   string // of the file
	said   []said[versionList]
}

// lists asks mirrors for their lists.
func (f *Fetcher) lists(ctx context.Context, path string, e *earlier) (lists, error) {
	name := escapePath(path) + "/@v/list"
	said, err := hear(ctx, f, path, name, maxList, e, func(ctx context.Context, data []byte) (versionList, error) {
		return parseList(ctx, data, path)
	})
	return lists{path, name, said}, err
}

// union puts the lists together.
func (l lists) union(ctx context.Context) (versionList, error) {
	if len(l.said) == 1 {
		return l.said[0].what, nil
	}
	var all versionList
	for _, s := range l.said {
		all.versions = append(all.versions, s.what.versions...)
		if semver.Compare(s.what.pseudo, all.pseudo) > 0 {
			all.pseudo = s.what.pseudo
		}
	}
	var err error
	all.versions, err = inOrder(ctx, all.versions)
	return all, err
}

// without returns lists without the version that err says nobody vouches for, and without a mirror that has shown too many
// such. It returns none if err says something else, or unless some mirrors show the version and others do not: what all show,
// no one of them has made up.
func (f *Fetcher) without(ctx context.Context, l lists, err error) (rest lists) {
	var bad *unvouchedError
	if !errors.As(err, &bad) || ctx.Err() != nil {
		return rest
	}
	v := bad.module.Version
	showing := 0
	for _, s := range l.said {
		if s.what.shows(v) {
			showing++
		}
	}
	if showing == 0 || showing == len(l.said) {
		return rest
	}
	rest = lists{module: l.module, path: l.path}
	for _, s := range l.said {
		if s.what.shows(v) {
			f.trace.unvouched(ctx, AttemptInfo{Module: bad.module, Path: l.path, Mirror: s.mirror.String(), Size: -1, Kind: KindOf(err), Err: err})
			if s.what.unvouched++; s.what.unvouched == maxUnvouched {
				continue
			}
			s.what.versions = slices.DeleteFunc(slices.Clone(s.what.versions), func(o string) bool { return o == v })
			if s.what.pseudo == v {
				s.what.pseudo = ""
			}
		}
		rest.said = append(rest.said, s)
	}
	return rest
}

// lag tells which mirrors lack something of a list: of all versions some, or the one that is vouched for.
func (l lists) lag(ctx context.Context, t *Trace, all versionList, vouched string) {
	for _, s := range l.said {
		i := LagInfo{Module: l.module, Path: l.path, Mirror: s.mirror.String(), Newest: s.what.pseudo, Missing: len(all.versions) - len(s.what.versions)}
		if n := len(s.what.versions); n > 0 {
			i.Newest = s.what.versions[n-1]
		}
		if vouched != "" && all.shows(vouched) && !s.what.shows(vouched) {
			i.Lacks = vouched
		}
		if i.Missing > 0 || i.Lacks != "" {
			t.lagging(ctx, i)
		}
	}
}

// parseList reads a version list: a version and maybe a time on each line. A list of which nothing can be read is a
// failure, not a module without versions. A large one takes seconds, of which nobody who leaves is to wait for the rest.
func parseList(ctx context.Context, data []byte, path string) (versionList, error) {
	var list versionList
	var pseudoTime time.Time
	lines, valid := 0, 0
	for line := range strings.Lines(string(data)) {
		if ctx.Err() != nil {
			return versionList{}, context.Cause(ctx)
		}
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		lines++
		v := fields[0]
		if !canonical(path, v) {
			continue
		}
		valid++
		if !module.IsPseudoVersion(v) {
			list.versions = append(list.versions, v)
			continue
		}
		t, err := module.PseudoVersionTime(v)
		if len(fields) > 1 {
			if stated, timeErr := time.Parse(time.RFC3339, fields[1]); timeErr == nil {
				t, err = stated, nil
			}
		}
		if err == nil && (list.pseudo == "" || t.After(pseudoTime)) {
			list.pseudo, pseudoTime = v, t
		}
	}
	if lines > 0 && valid == 0 {
		return list, failf(ErrCorrupt, "sent a version list without one version that fits %s", path)
	}
	var err error
	list.versions, err = inOrder(ctx, list.versions)
	return list, err
}

// inOrder sorts versions, and drops those that are there twice.
func inOrder(ctx context.Context, versions []string) ([]string, error) {
	slices.SortFunc(versions, func(a, b string) int {
		if ctx.Err() != nil {
			return 0 // so that it ends soon
		}
		return byVersion(a, b)
	})
	return slices.Compact(versions), context.Cause(ctx)
}

// byVersion orders versions; of two that are the same but for +incompatible, the one without it comes first.
func byVersion(a, b string) int { return cmp.Or(semver.Compare(a, b), strings.Compare(a, b)) }

// An infoFile is what a mirror says of one version.
type infoFile struct {
	info Info
	data []byte // as the mirror sent it
}

// info fetches the .info file of an exact version.
func (f *Fetcher) info(ctx context.Context, m module.Version) (infoFile, error) {
	file, err := f.infos.Do(ctx, m, func(ctx context.Context) (infoFile, error) {
		if file, ok, err := f.storedInfo(ctx, m); ok {
			return file, err
		}
		unlock, err := f.alone(ctx, proxyPath(m, "info"))
		if err != nil {
			return infoFile{}, err
		}
		defer unlock()
		if f.locker != nil { // somebody else may have put it there
			if file, ok, err := f.storedInfo(ctx, m); ok {
				return file, err
			}
		}
		return f.fetchInfo(ctx, m)
	})
	if o := file.info.Origin; o != nil {
		file.info.Origin = new(*o) // callers that joined share one
	}
	return file, err
}

// storedInfo returns the .info file of an exact version from a cache, if there is one.
func (f *Fetcher) storedInfo(ctx context.Context, m module.Version) (file infoFile, ok bool, err error) {
	name := proxyPath(m, "info")
	data, inModCache, err := f.stored(ctx, name, maxInfo)
	if err != nil {
		return infoFile{}, false, nil
	}
	info, err := parseInfo(data, m)
	f.trace.cache(ctx, CacheInfo{Name: name, Hit: err == nil, Err: err})
	switch {
	case err != nil:
		return infoFile{}, false, nil
	case f.mod != nil && !inModCache:
		return infoFile{info, data}, true, diskError(m, f.putInfo(m, info))
	}
	return infoFile{info, data}, true, nil
}

// fetchInfo asks the mirrors for the .info file of an exact version.
func (f *Fetcher) fetchInfo(ctx context.Context, m module.Version) (infoFile, error) {
	var file infoFile
	name := proxyPath(m, "info")
	_, err := f.fetch(ctx, m.Path, want{
		module: m, path: name, limit: maxInfo,
		judge: func(_ context.Context, _ Mirror, data []byte) (err error) {
			file.data = data
			file.info, err = parseInfo(data, m)
			return err
		},
	})
	if err != nil {
		return infoFile{}, err
	}
	if f.mod != nil {
		if err := f.putInfo(m, file.info); err != nil {
			return infoFile{}, diskError(m, err)
		}
	}
	f.keep(ctx, name, bytes.NewReader(file.data))
	return file, nil
}

// parseInfo reads the .info file of an exact version.
func parseInfo(data []byte, m module.Version) (Info, error) {
	var info Info
	if err := json.Unmarshal(data, &info); err != nil {
		return Info{}, failf(ErrCorrupt, "sent an .info file that is not JSON: %s", printable(err.Error()))
	}
	if info.Version != m.Version {
		return Info{}, failf(ErrCorrupt, "sent an .info file that names version %q", printable(info.Version))
	}
	return info, nil
}

// parseAnswer reads the .info file of a revision, or of the latest version if rev is "": it names a version that fits path.
func parseAnswer(data []byte, path, rev string) (Info, error) {
	var info Info
	if err := json.Unmarshal(data, &info); err != nil {
		return Info{}, failf(ErrCorrupt, "sent an .info file that is not JSON: %s", printable(err.Error()))
	}
	if !canonical(path, info.Version) {
		return Info{}, failf(ErrCorrupt, "sent an .info file that names version %q, which does not fit %s", printable(info.Version), path)
	}
	commit, err := module.PseudoVersionRev(info.Version)
	if _, hexErr := hex.DecodeString(rev); err == nil && hexErr == nil && len(rev) == 40 && !strings.HasPrefix(strings.ToLower(rev), commit) {
		return Info{}, failf(ErrCorrupt, "sent %s, which is another commit", info.Version)
	}
	return info, nil
}

// putInfo stores what is said of a version in the module cache, without what the go command does not keep: which tags and
// branches led to it.
func (f *Fetcher) putInfo(m module.Version, info Info) error {
	if info.Origin != nil {
		o := *info.Origin
		o.TagPrefix, o.TagSum, o.RepoSum = "", "", ""
		if module.IsPseudoVersion(info.Version) {
			o.Ref = ""
		}
		info.Origin = &o
	}
	data, err := json.Marshal(info)
	if err != nil {
		return err
	}
	return f.mod.put(proxyPath(m, "info"), data)
}
