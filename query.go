package modfetch

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
)

// An Info is what a mirror says of a version. Version is canonical and fits the path; no hash covers Time and Origin.
type Info struct {
	Version string    // canonical
	Time    time.Time // of the commit; zero if the mirror does not say
	Origin  *Origin   `json:",omitempty"` // nil if the mirror does not say

	// Deprecated is the author's notice in the newest version's verified go.mod file. Only a query that chooses from the
	// list reads that file; for others Deprecated is "", which says nothing.
	Deprecated string `json:"-"`
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

// Info resolves a query to a version, as the go command does:
//
//   - v1.2.3, an exact version, for which nothing but its .info file is read
//   - v1 or v1.2, the highest version that starts so
//   - <v1.2.3 or <=v1.2.3, the highest version there; >v1.2.3 or >=v1.2.3, the lowest
//   - latest or upgrade, the highest version, else the newest pseudo-version that the mirror knows
//   - the name of a branch or tag without a slash, or a commit hash
//
// Where there is a choice, releases come before pre-releases, and retracted versions are passed over; if nothing is left,
// the error is a [NoMatchError]. The newest version's go.mod file says what is retracted; if it is larger than 1 MiB, that
// is an error. An error is fs.ErrNotExist only if the mirrors say so of the list, of the revision, or of the exact version.
// A malformed query is refused before any request.
//
// A mirror may answer with an old version, but not with a false one: what it names fits the path, and its go.mod file is
// verified. With [Policy.AskAll] the newest version counts that any of several mirrors names and that is verified. The
// answer to a revision may change at any time and is never cached under the revision's name.
func (f *Fetcher) Info(ctx context.Context, path, query string) (Info, error) {
	if err := checkPath(path); err != nil {
		return Info{}, err
	}
	q, err := parseQuery(path, query)
	switch {
	case err != nil:
		return Info{}, err
	case q.fits != nil:
		return f.choose(ctx, q)
	case canonical(path, query):
		file, err := f.info(ctx, module.Version{Path: path, Version: query})
		return file.info, err
	}
	info, err := f.revision(ctx, path, query, nil)
	if v := module.CanonicalVersion(query); err != nil && v != "" && v != query {
		// Versions that differ only in what follows the + are the same version.
		if info, err := f.Info(ctx, path, v); err == nil || !absent(err) {
			return info, err
		}
	}
	return info, err
}

// canonical reports whether v is an exact version, in its one form, of a module whose path has been checked.
func canonical(path, v string) bool {
	_, major, _ := module.SplitPathVersion(path)
	return v != "" && len(v) <= maxVersion && module.CanonicalVersion(v) == v && module.CheckPathMajor(v, major) == nil
}

const (
	maxVersion     = 255     // bytes; it is part of the names of files
	maxParsedGoMod = 1 << 20 // bytes; to parse a hostile one costs 250 times its size in memory
)

// checkPath refuses a module path before any request is made for it.
func checkPath(path string) error {
	if err := module.CheckPath(path); err != nil {
		return fmt.Errorf("%w: want a path such as example.com/m", err)
	}
	return nil
}

// A query chooses one version of a list.
type query struct {
	path, text string
	base       string              // the version in the text; "" for latest
	fits       func(v string) bool // nil if the text is not for a list, but an exact version or a revision
	lowest     bool                // choose the lowest, not the highest
	legacy     bool                // +incompatible versions count like others, because the text asks for their major version
}

// parseQuery reads a query, and refuses what cannot be asked of a mirror.
func parseQuery(path, text string) (query, error) {
	const want = "want an exact version such as v1.2.3, or latest, a prefix such as v1.2, a range such as <v1.2.3, or the name of a branch, tag or commit"
	refuse := func(format string, args ...any) (query, error) {
		return query{}, fmt.Errorf("cannot resolve %s@%s: "+format, append([]any{path, printable(text)}, args...)...)
	}
	_, major, _ := module.SplitPathVersion(path)
	q := query{path: path, text: text}
	switch {
	case text == "":
		return refuse("the query is empty; %s", want)
	case len(text) > maxVersion:
		return refuse("it is longer than the %d bytes that a version may have; %s", maxVersion, want)
	case text == "latest" || text == "upgrade":
		q.fits = func(string) bool { return true }
		return q, nil
	case text == "patch":
		return refuse("patch is relative to a version in use, and none is known here; %s", want)
	case text == "none":
		return refuse("none removes a requirement and names no version; %s", want)
	case text[0] == '<' || text[0] == '>':
		op := text[:len(text)-len(strings.TrimPrefix(text[1:], "="))]
		q.base, q.lowest = text[len(op):], op[0] == '>'
		if !semver.IsValid(q.base) {
			return refuse("%q is not a version; want one range such as <v1.2.3 or >=v1.2.3", printable(q.base))
		}
		if short(q.base) && (op == "<=" || op == ">") {
			return refuse("%s stands for many versions, so it is not clear where this range ends; want a full version such as %s%s",
				q.base, op, semver.Canonical(q.base))
		}
		q.fits = func(v string) bool {
			c := semver.Compare(v, q.base)
			return c < 0 && op[0] == '<' || c > 0 && op[0] == '>' || c == 0 && len(op) == 2
		}
	case short(text):
		// A pre-release of v1.2.0 is older than anything called v1.2.
		q.base = text
		q.fits = func(v string) bool { return strings.HasPrefix(v, text+".") && semver.Compare(v, text) >= 0 }
	case semver.IsValid(text) && major != "": // without a suffix, a mirror may know a v2.0.0 as v2.0.0+incompatible
		return q, check(module.Version{Path: path, Version: module.CanonicalVersion(text)})
	case strings.Contains(text, "/"):
		return refuse("a mirror cannot be asked for a name with a slash, only for the hash of its commit; %s", want)
	default:
		if _, err := module.EscapeVersion(text); err != nil || text[0] == '-' {
			return refuse("this is no name that a mirror can be asked for; %s", want)
		}
		return q, nil
	}
	q.legacy = module.CheckPathMajor(q.base, major) != nil
	return q, nil
}

// short reports whether v is a version such as v1 or v1.2, which stands for all that start so.
func short(v string) bool { return semver.IsValid(v) && strings.Count(v, ".") < 2 }

// A NoMatchError says that a module exists, but that no version in a mirror's list answers a query. It is not
// fs.ErrNotExist: nobody vouches for a list, and another mirror may know more.
type NoMatchError struct {
	Path, Query string
	Near        []string // versions around the one that the query names
	Retracted   []string // versions that match, but were retracted by the author
}

func (e *NoMatchError) Error() string {
	s := fmt.Sprintf("no version of %s matches %s", e.Path, e.Query)
	switch {
	case len(e.Retracted) > 0:
		return s + " but retracted ones, which can be asked for by name: " + strings.Join(e.Retracted, ", ")
	case len(e.Near) > 0:
		return s + "; near it are " + strings.Join(e.Near, ", ")
	}
	return s + "; the mirror knows the module, but lists no version of it"
}

const maxNear = 5 // versions named in a NoMatchError

func (q query) noMatch(versions, retracted []string) error {
	e := &NoMatchError{Path: q.path, Query: q.text, Retracted: retracted[max(0, len(retracted)-maxNear):]}
	if q.base != "" {
		i, _ := slices.BinarySearchFunc(versions, q.base, semver.Compare)
		e.Near = versions[max(0, i-(maxNear+1)/2):min(len(versions), i+maxNear/2)]
	}
	return e
}

// choose resolves a query that is answered from the list. Where several mirrors have shown theirs, a version that one of
// them has made up does not spoil the answer.
func (f *Fetcher) choose(ctx context.Context, q query) (Info, error) {
	l, err := f.lists(ctx, q.path, nil)
	if err != nil {
		return Info{}, err
	}
	var why error // of what would have been the answer
	for {
		all, err := l.union(ctx)
		if err != nil {
			return Info{}, err
		}
		info, err := f.chooseFrom(ctx, all, q)
		if err == nil {
			l.lag(ctx, f.trace, all, info.Version)
			return info, nil
		}
		if why == nil || ctx.Err() != nil {
			why = err
		}
		if l = f.without(ctx, l, err); len(l.said) == 0 {
			return Info{}, why
		}
	}
}

// chooseFrom resolves a query from one list.
func (f *Fetcher) chooseFrom(ctx context.Context, list versionList, q query) (Info, error) {
	fitting := slices.DeleteFunc(slices.Clone(list.versions), func(v string) bool { return !q.fits(v) })
	if len(fitting) == 0 && q.base != "" {
		return Info{}, q.noMatch(list.versions, nil)
	}
	newest, err := f.pick(ctx, query{path: q.path}, list.versions)
	if err == nil && newest == "" {
		newest, err = f.untagged(ctx, list, q.path)
	}
	if err != nil {
		return Info{}, err
	}
	if newest == "" {
		return Info{}, q.noMatch(nil, nil)
	}
	file, err := f.newestGoMod(ctx, q.path, newest)
	if err != nil {
		return Info{}, err
	}
	retracted := retractions(file)
	v, err := f.pick(ctx, q, slices.DeleteFunc(slices.Clone(fitting), retracted))
	if err == nil && v == "" && q.base == "" {
		if v = newest; len(list.versions) > 0 {
			v, err = f.untagged(ctx, list, q.path)
		}
		if v != "" && retracted(v) {
			if len(fitting) == 0 {
				fitting = []string{v}
			}
			v = ""
		}
	}
	if err != nil {
		return Info{}, err
	}
	if v == "" {
		return Info{}, q.noMatch(nil, fitting)
	}
	m := module.Version{Path: q.path, Version: v}
	if v != newest { // whose go.mod file has been verified above
		if _, err := f.goModOfNamed(ctx, m); err != nil {
			return Info{}, err
		}
	}
	info, err := f.info(ctx, m)
	if err != nil {
		return Info{}, contradicts(err, m)
	}
	if file.Module != nil {
		info.info.Deprecated = file.Module.Deprecated
	}
	return info.info, nil
}

// pick returns the version that q prefers among versions in ascending order, or "".
func (f *Fetcher) pick(ctx context.Context, q query, versions []string) (string, error) {
	first := slices.IndexFunc(versions, func(v string) bool { return strings.HasSuffix(v, "+incompatible") })
	if !q.legacy && first > 0 {
		m := module.Version{Path: q.path, Version: versions[first-1]}
		data, err := f.goModOfNamed(ctx, m)
		if err != nil {
			return "", err
		}
		// A module with a go.mod file of its own, not one made up for it, has left its +incompatible versions behind.
		if string(data) != "module "+modfile.AutoQuote(q.path)+"\n" {
			versions = versions[:first]
		}
	}
	releases := slices.DeleteFunc(slices.Clone(versions), func(v string) bool { return semver.Prerelease(v) != "" })
	if len(releases) > 0 {
		versions = releases
	}
	switch {
	case len(versions) == 0:
		return "", nil
	case q.lowest:
		return versions[0], nil
	}
	return versions[len(versions)-1], nil
}

// newestGoMod returns the verified go.mod file that speaks for all versions of a module. One that cannot be parsed is the
// author's mistake; it retracts nothing. One that is too large to be parsed may retract something.
func (f *Fetcher) newestGoMod(ctx context.Context, path, version string) (*modfile.File, error) {
	m := module.Version{Path: path, Version: version}
	data, err := f.goModOfNamed(ctx, m)
	if err != nil {
		return nil, err
	}
	if len(data) > maxParsedGoMod {
		return nil, failf(ErrCorrupt, "cannot tell which versions of %s are retracted: the go.mod file of %s has %d bytes, and at most %d are read for that; "+
			"an exact version can be asked for", path, version, len(data), maxParsedGoMod)
	}
	file, err := modfile.ParseLax(m.String()+"/go.mod", data, nil)
	if err != nil {
		return new(modfile.File), nil
	}
	return file, nil
}

// retractions says which versions a go.mod file retracts. It does not hold each against each range: of both there may be
// so many that this would take hours.
func retractions(file *modfile.File) func(v string) bool {
	ranges := file.Retract
	slices.SortFunc(ranges, func(a, b *modfile.Retract) int { return semver.Compare(a.Low, b.Low) })
	for i := 1; i < len(ranges); i++ {
		if highest := ranges[i-1].High; semver.Compare(highest, ranges[i].High) > 0 {
			ranges[i].High = highest // of all that begin here or below
		}
	}
	return func(v string) bool {
		n := sort.Search(len(ranges), func(i int) bool { return semver.Compare(ranges[i].Low, v) > 0 })
		return n > 0 && semver.Compare(v, ranges[n-1].High) <= 0
	}
}

// untagged returns the version that a mirror itself takes for the latest, or else the newest pseudo-version in its list;
// "" if there is neither.
func (f *Fetcher) untagged(ctx context.Context, list versionList, path string) (string, error) {
	info, err := f.ask(ctx, path, escapePath(path)+"/@latest", "", nil)
	if absent(err) {
		return list.pseudo, nil
	}
	return info.Version, err
}

// revision resolves the name of a branch, tag or commit.
func (f *Fetcher) revision(ctx context.Context, path, rev string, e *earlier) (Info, error) {
	info, err := f.ask(ctx, path, proxyPath(module.Version{Path: path, Version: rev}, "info"), rev, e)
	if err == nil {
		m := module.Version{Path: path, Version: info.Version}
		if _, err = f.goModOfNamed(ctx, m); err == nil && f.mod != nil && !exists(f.mod.file(proxyPath(m, "info"))) {
			err = diskError(m, f.putInfo(m, info))
		}
	}
	switch {
	case absent(err) && semver.IsValid(rev) && module.CheckPathMajor(rev, "") != nil:
		return Info{}, fmt.Errorf("resolving %s@%s: %w\n\ta module with a go.mod file has its versions from v2 on under another path: %s/%s",
			path, rev, err, path, semver.Major(rev))
	case err != nil:
		return Info{}, fmt.Errorf("resolving %s@%s: %w", path, printable(rev), err)
	}
	return info, nil
}

// ask asks for an .info file that may name any version. The answer is nobody else's and is not kept: the next one may be
// another. Of several that mirrors give it takes the newest that is vouched for; if they give but one, that is the caller's
// to verify.
func (f *Fetcher) ask(ctx context.Context, path, name, rev string, e *earlier) (Info, error) {
	answers, err := hear(ctx, f, path, name, maxInfo, e, func(_ context.Context, data []byte) (Info, error) {
		return parseAnswer(data, path, rev)
	})
	if err != nil {
		return Info{}, err
	}
	slices.SortStableFunc(answers, func(a, b said[Info]) int { return byVersion(b.what.Version, a.what.Version) })
	for {
		newest := answers[0].what
		n := slices.IndexFunc(answers, func(a said[Info]) bool { return a.what.Version != newest.Version })
		if n < 0 {
			return newest, nil
		}
		m := module.Version{Path: path, Version: newest.Version}
		_, err := f.goModOfNamed(ctx, m)
		if err == nil {
			for _, a := range answers[n:] {
				f.trace.lagging(ctx, LagInfo{Module: path, Path: name, Mirror: a.mirror.String(), Newest: a.what.Version, Lacks: newest.Version})
			}
			return newest, nil
		}
		if ctx.Err() != nil {
			return Info{}, err
		}
		for _, a := range answers[:n] {
			f.trace.unvouched(ctx, AttemptInfo{Module: m, Path: name, Mirror: a.mirror.String(), Size: -1, Kind: KindOf(err), Err: err})
		}
		answers = answers[n:]
	}
}

// goModOfNamed returns the go.mod file of a version that mirrors name.
func (f *Fetcher) goModOfNamed(ctx context.Context, m module.Version) ([]byte, error) {
	data, err := f.GoMod(ctx, m)
	if err != nil {
		return nil, &unvouchedError{m, contradicts(err, m)}
	}
	return data, nil
}

// An unvouchedError says why the go.mod file of a version that mirrors name is not to be had.
type unvouchedError struct {
	module module.Version
	error
}

func (e *unvouchedError) Unwrap() error { return e.error }

// contradicts is the error where mirrors name a version of which they say that it does not exist. That is no absence.
func contradicts(err error, m module.Version) error {
	if !absent(err) {
		return err
	}
	return &failure{ErrTransient, fmt.Sprintf("the mirrors name %s, but do not have it", m), err}
}
