package modfetch

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
)

const (
	maxInfo = 1 << 20  // bytes
	maxList = 16 << 20 // bytes
)

// Versions lists the versions of a module that a mirror knows, in ascending order, without pseudo-versions. No hash
// covers a list: it may be incomplete or old.
func (f *Fetcher) Versions(ctx context.Context, path string) ([]string, error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	list, err := f.list(ctx, path)
	return list.versions, err
}

// A versionList is a mirror's list: tagged versions in ascending order, and the newest pseudo-version among its lines.
type versionList struct {
	versions []string
	pseudo   string
}

func (f *Fetcher) list(ctx context.Context, path string) (versionList, error) {
	escaped, _ := module.EscapePath(path) // a checked path can be escaped
	var list versionList
	_, err := f.fetch(ctx, path, want{
		module: module.Version{Path: path}, path: escaped + "/@v/list", limit: maxList,
		judge: func(_ context.Context, _ Mirror, data []byte) (err error) {
			list, err = parseList(data, path)
			return err
		},
	})
	return list, err
}

// parseList reads a version list: a version and maybe a time on each line. A list of which nothing can be read is a
// failure, not a module without versions.
func parseList(data []byte, path string) (versionList, error) {
	var list versionList
	var pseudoTime time.Time
	lines, valid := 0, 0
	for line := range strings.Lines(string(data)) {
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
	semver.Sort(list.versions)
	list.versions = slices.Compact(list.versions)
	return list, nil
}

// An infoFile is what a mirror says of one version.
type infoFile struct {
	info Info
	data []byte // as the mirror sent it
}

// info fetches the .info file of an exact version.
func (f *Fetcher) info(ctx context.Context, m module.Version) (infoFile, error) {
	file, err := f.infos.Do(ctx, m, func(ctx context.Context) (infoFile, error) {
		name := proxyPath(m, "info")
		if data, inModCache, err := f.stored(ctx, name, maxInfo); err == nil {
			info, err := parseInfo(data, m)
			f.trace.cache(ctx, CacheInfo{Name: name, Hit: err == nil, Err: err})
			switch {
			case err == nil && f.mod != nil && !inModCache:
				return infoFile{info, data}, diskError(m, f.putInfo(m, info))
			case err == nil:
				return infoFile{info, data}, nil
			}
		}
		var file infoFile
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
	})
	if o := file.info.Origin; o != nil {
		file.info.Origin = new(*o) // callers that joined share one
	}
	return file, err
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
