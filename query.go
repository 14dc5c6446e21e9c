package modfetch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
)

// An Info is what a mirror says of a version. Version is canonical and fits the path; no hash covers the rest.
type Info struct {
	Version string    // canonical
	Time    time.Time // of the commit; zero if the mirror does not say
	Origin  *Origin   `json:",omitempty"` // nil if the mirror does not say
}

// An Origin says where a version was found, in the words of the .info files of the GOPROXY protocol.
type Origin struct {
	VCS       string `json:",omitempty"`
	URL       string `json:",omitempty"`
	Subdir    string `json:",omitempty"`
	Hash      string `json:",omitempty"`
	TagPrefix string `json:",omitempty"`
	TagSum    string `json:",omitempty"`
	Ref       string `json:",omitempty"`
	RepoSum   string `json:",omitempty"`
}

const (
	maxInfo = 1 << 20  // bytes
	maxList = 16 << 20 // bytes
)

// Info resolves a query to a version: an exact version, or "latest". That is the highest release, else the highest
// pre-release, else the newest pseudo-version that the mirror knows; retracted versions are passed over.
//
// A mirror may answer with an old version, but not with a false one: the go.mod file of what it names is verified.
func (f *Fetcher) Info(ctx context.Context, path, query string) (Info, error) {
	if err := module.CheckPath(path); err != nil {
		return Info{}, fmt.Errorf("%w: want a path such as example.com/m", err)
	}
	m := module.Version{Path: path, Version: query}
	switch {
	case query == "latest" || query == "upgrade":
		v, err := f.latest(ctx, path)
		if err != nil {
			return Info{}, err
		}
		m.Version = v
	case module.CanonicalVersion(query) != query || query == "":
		return Info{}, fmt.Errorf("cannot resolve %s@%s: want an exact version such as v1.2.3, or latest", path, query)
	}
	if err := check(m); err != nil {
		return Info{}, err
	}
	file, err := f.info(ctx, m)
	return file.info, err
}

type infoFile struct {
	info Info
	data []byte // as the mirror sent it
}

// info fetches the .info file of an exact version.
func (f *Fetcher) info(ctx context.Context, m module.Version) (infoFile, error) {
	return f.infos.Do(ctx, m, func(ctx context.Context) (infoFile, error) {
		name := proxyPath(m, "info")
		if data, err := f.stored(ctx, name, maxInfo); err == nil {
			info, err := parseInfo(data, m)
			f.trace.cache(ctx, CacheInfo{Name: name, Hit: err == nil, Err: err})
			if err == nil {
				return infoFile{info, data}, nil
			}
		}
		var file infoFile
		_, err := f.engine.fetch(ctx, f.routes.to(m.Path), want{
			module: m, path: name, limit: maxInfo,
			take: func(_ context.Context, _ Mirror, b *body) (err error) {
				if file.data, err = b.all(); err != nil {
					return err
				}
				file.info, err = parseInfo(file.data, m)
				return err
			},
		})
		if err != nil {
			return infoFile{}, err
		}
		if f.mod != nil {
			data, err := json.Marshal(forModCache(file.info))
			if err != nil {
				return infoFile{}, err
			}
			if err := f.mod.put(name, data); err != nil {
				return infoFile{}, err
			}
		}
		f.keep(ctx, name, bytes.NewReader(file.data))
		return file, nil
	})
}

// parseInfo reads the .info file of an exact version.
func parseInfo(data []byte, m module.Version) (Info, error) {
	var info Info
	if err := json.Unmarshal(data, &info); err != nil {
		return Info{}, failf(ErrCorrupt, "sent an .info file that is not JSON: %v", err)
	}
	if info.Version != m.Version {
		return Info{}, failf(ErrCorrupt, "sent an .info file that names version %q", printable(info.Version))
	}
	return info, nil
}

// forModCache drops what the go command does not keep: what says which tags and branches led to the version.
func forModCache(info Info) Info {
	if info.Origin != nil {
		o := *info.Origin
		o.TagPrefix, o.TagSum, o.RepoSum = "", "", ""
		if module.IsPseudoVersion(info.Version) {
			o.Ref = ""
		}
		info.Origin = &o
	}
	return info
}

// Versions lists the versions of a module that a mirror knows, in ascending order, without pseudo-versions. No hash
// covers a list: it may be incomplete or old.
func (f *Fetcher) Versions(ctx context.Context, path string) ([]string, error) {
	list, err := f.list(ctx, path)
	return list.versions, err
}

// A versionList is a mirror's list: tagged versions in ascending order, and the newest pseudo-version among its lines.
type versionList struct {
	versions []string
	pseudo   string
}

func (f *Fetcher) list(ctx context.Context, path string) (versionList, error) {
	if err := module.CheckPath(path); err != nil {
		return versionList{}, fmt.Errorf("%w: want a path such as example.com/m", err)
	}
	escaped, _ := module.EscapePath(path) // a checked path can be escaped
	var list versionList
	_, err := f.engine.fetch(ctx, f.routes.to(path), want{
		module: module.Version{Path: path}, path: escaped + "/@v/list", limit: maxList,
		take: func(_ context.Context, _ Mirror, b *body) error {
			data, err := b.all()
			if err != nil {
				return err
			}
			list, err = parseList(data, path)
			return err
		},
	})
	return list, err
}

// parseList reads a version list: a version and maybe a time on each line. A list of which nothing can be read is a
// failure, not a module without versions.
func parseList(data []byte, path string) (versionList, error) {
	_, major, _ := module.SplitPathVersion(path)
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
		if module.CanonicalVersion(v) != v || module.CheckPathMajor(v, major) != nil {
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

// latest resolves the query of that name.
func (f *Fetcher) latest(ctx context.Context, path string) (string, error) {
	list, err := f.list(ctx, path)
	if err != nil {
		return "", err
	}
	candidates, err := f.candidates(ctx, path, list.versions)
	if err != nil {
		return "", err
	}
	if len(candidates) > 0 {
		return candidates[0], nil
	}
	v, err := f.askLatest(ctx, path)
	if errors.Is(err, fs.ErrNotExist) && list.pseudo != "" {
		v, err = list.pseudo, nil
	}
	if err != nil {
		return "", err
	}
	_, err = f.GoMod(ctx, module.Version{Path: path, Version: v})
	return v, err
}

// candidates orders versions by preference and leaves out those that the newest one's go.mod file retracts.
func (f *Fetcher) candidates(ctx context.Context, path string, versions []string) ([]string, error) {
	if len(versions) == 0 {
		return nil, nil
	}
	ordered := preferred(versions)
	newest, err := f.goModOf(ctx, path, ordered[0])
	if err != nil {
		return nil, err
	}
	if strings.HasSuffix(ordered[0], "+incompatible") {
		// A path that has moved to go.mod files has left its old major versions behind.
		compatible := slices.DeleteFunc(slices.Clone(ordered), func(v string) bool { return strings.HasSuffix(v, "+incompatible") })
		if len(compatible) > 0 {
			file, err := f.goModOf(ctx, path, compatible[0])
			if err != nil {
				return nil, err
			}
			if file.Go != nil || len(file.Require) > 0 {
				ordered, newest = compatible, file
			}
		}
	}
	kept := slices.DeleteFunc(ordered, func(v string) bool {
		return slices.ContainsFunc(newest.Retract, func(r *modfile.Retract) bool {
			return semver.Compare(r.Low, v) <= 0 && semver.Compare(v, r.High) <= 0
		})
	})
	if len(kept) == 0 {
		return nil, nil
	}
	_, err = f.goModOf(ctx, path, kept[0])
	return kept, err
}

// preferred orders versions from the highest release to the lowest pre-release.
func preferred(versions []string) []string {
	ordered := slices.Clone(versions)
	slices.Reverse(ordered)
	slices.SortStableFunc(ordered, func(a, b string) int {
		pre := func(v string) int { return min(len(semver.Prerelease(v)), 1) }
		return pre(a) - pre(b)
	})
	return ordered
}

// goModOf returns a version's verified go.mod file, parsed as that of a dependency.
func (f *Fetcher) goModOf(ctx context.Context, path, version string) (*modfile.File, error) {
	m := module.Version{Path: path, Version: version}
	data, err := f.GoMod(ctx, m)
	if err != nil {
		return nil, err
	}
	file, err := modfile.ParseLax(m.String()+"/go.mod", data, nil)
	if err != nil {
		return nil, failf(ErrCorrupt, "malformed go.mod file: %v", err)
	}
	return file, nil
}

// askLatest asks for the version that a mirror itself takes for the latest.
func (f *Fetcher) askLatest(ctx context.Context, path string) (string, error) {
	escaped, _ := module.EscapePath(path)
	var info Info
	_, err := f.engine.fetch(ctx, f.routes.to(path), want{
		module: module.Version{Path: path}, path: escaped + "/@latest", limit: maxInfo,
		take: func(_ context.Context, _ Mirror, b *body) error {
			data, err := b.all()
			if err != nil {
				return err
			}
			if err := json.Unmarshal(data, &info); err != nil {
				return failf(ErrCorrupt, "sent a latest version that is not JSON: %v", err)
			}
			if err := module.Check(path, info.Version); err != nil {
				return failf(ErrCorrupt, "sent a latest version that does not fit: %v", err)
			}
			return nil
		},
	})
	return info.Version, err
}
