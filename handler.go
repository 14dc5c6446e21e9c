package modfetch

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/module"
)

// A Handler serves the GOPROXY protocol, and the checksum database of its Fetcher below /sumdb/. A field that is
// zero, or a time below zero, stands for a sound default; none is changed once it serves.
//
// A zip or go.mod file is verified before its first byte goes out, unless a setting of the Fetcher exempts it. What no hash
// covers is served for as long as it is fresh, then while a new answer is fetched, and while none can be had; Age and
// Cache-Status (RFC 9211) say so, the latter with a negative ttl.
//
// Everybody who reaches a Handler can read what it serves, so what settings make private, or what mirrors give only for the
// Fetcher's own credentials, is refused by default. Credentials of clients are never passed on.
//
// An answer 404 means that the mirrors have said that the file does not exist, or that the request is malformed, which is
// not passed on. 403 is a refusal, 503 a file that is not in the cache where nobody may be asked for it, or 404 if it was the
// client who sent Disable-Module-Fetch: true; 504 is that no mirror answered in time, 502 any other failure.
type Handler struct {
	Fetcher *Fetcher // required

	ListTTL    time.Duration // for which a version list is fresh; 0 is 1 minute
	LatestTTL  time.Duration // the same of @latest, of branches and of the database's tree head; 0 is 1 minute
	InfoTTL    time.Duration // the same of an exact version's .info file; 0 is a day
	AbsenceTTL time.Duration // the same of a statement that something does not exist; 0 is 30 seconds
	MaxStale   time.Duration // for which an answer that is no longer fresh is served while mirrors fail; 0 is a day

	Allow string // patterns, in the form of GOPRIVATE, of paths that are served; "" is all
	Deny  string // patterns of paths that are not served, which beats Allow

	CacheOnly     bool // ask no mirror: what is not in the cache is answered with 503
	ServePrivate  bool // serve clients what settings make private, and what mirrors give only for the Fetcher's credentials
	ServeDirect   bool // fetch from repositories for clients, where the Fetcher's settings say direct
	VerboseErrors bool // tell clients which mirror failed, and why

	Served func(context.Context, ServedInfo) // is called, if it is not nil, when a request has been answered

	setup           sync.Once
	online, offline *Fetcher
	answers         answers
	targets         lru[target] // by path
	tags            zipTags
	malformed       error // in Allow or Deny
}

// ServedInfo describes one answer of a Handler.
type ServedInfo struct {
	Method   string
	Path     string         // of the URL
	File     string         // "list", "latest", "info", "mod", "zip", "supported", "head", "lookup", "tile"; "" for a malformed path
	Module   module.Version // zero for files of the database but a lookup; Version is empty for a list, or that of a query
	Status   int            // HTTP status code; 499 if the client left before there was one
	Bytes    int64          // of the body
	Duration time.Duration
	Hit      bool   // no mirror was asked for it
	Stale    string // "" for a fresh answer; "revalidating" while a new one is fetched, "error" because none could be
	Err      error  // why it was not served, or why nothing newer was
}

func (h *Handler) init() {
	for _, patterns := range []string{h.Allow, h.Deny} {
		if err := checkPatterns(patterns); patterns != "" && err != nil {
			h.malformed = failf(ErrForbidden, "nothing is served: %v", err)
		}
	}
	h.online, h.offline = h.Fetcher.forClients(h.ServeDirect, false), h.Fetcher.forClients(false, true)
	h.answers.alone = h.Fetcher.alone
	h.answers.flights.Joined = func(ctx, work context.Context, _ string) { shareAsked(ctx, work) }
	h.answers.absence = orElse(h.AbsenceTTL, 30*time.Second)
	h.answers.trace = h.Fetcher.trace
	if h.answers.far = h.Fetcher.cache; h.answers.far == nil && h.Fetcher.mod != nil {
		h.answers.far = DirCache(filepath.Join(h.Fetcher.mod.dir, "cache"))
	}
}

// orElse returns a setting, or what is sound without one.
func orElse(setting, sound time.Duration) time.Duration {
	if setting > 0 {
		return setting
	}
	return sound
}

func (h *Handler) latestTTL() time.Duration { return orElse(h.LatestTTL, time.Minute) }
func (h *Handler) infoTTL() time.Duration   { return orElse(h.InfoTTL, 24*time.Hour) }
func (h *Handler) maxStale() time.Duration  { return orElse(h.MaxStale, 24*time.Hour) }

// Close ends work in the background. It is called when no request is being answered any more, nor will be, and before the
// Fetcher is closed. Its error is always nil.
func (h *Handler) Close() error {
	h.answers.close()
	return nil
}

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.setup.Do(h.init)
	q := &request{h: h, f: h.online, w: w, r: r, info: ServedInfo{Method: r.Method, Path: r.URL.Path}}
	if h.Served != nil {
		q.counted = &counter{ResponseWriter: w, status: http.StatusOK}
		q.w = q.counted
	}
	start := time.Now()
	asked := new(asking)
	ctx := context.WithValue(r.Context(), askedKey{}, asked)
	if !h.ServePrivate {
		ctx = context.WithValue(ctx, anonymousKey{}, true)
	}
	q.disabled, _ = strconv.ParseBool(r.Header.Get("Disable-Module-Fetch"))
	if q.offline = h.CacheOnly || q.disabled; q.offline {
		q.f = h.offline
	}
	if err := q.serve(ctx); err != nil {
		q.fail(err)
	}
	if h.Served != nil {
		q.info.Status, q.info.Bytes = q.counted.status, q.counted.bytes
		q.info.Duration, q.info.Hit = time.Since(start), !asked.anybody()
		h.Served(r.Context(), q.info)
	}
}

// A request is one that is being answered.
type request struct {
	h        *Handler
	f        *Fetcher // of the Handler: the one that may ask mirrors, or the one that may not
	w        http.ResponseWriter
	r        *http.Request
	counted  *counter // w, if somebody wants to know
	disabled bool     // the client wants nothing to be fetched
	offline  bool     // f is the one that may not ask
	info     ServedInfo
}

// errUnknown is the answer to what no mirror needs to be asked for.
var errUnknown = fmt.Errorf("no path of the GOPROXY protocol: %w", fs.ErrNotExist)

// serve finds out what is asked for.
func (q *request) serve(ctx context.Context) error {
	if q.r.Method != http.MethodGet && q.r.Method != http.MethodHead {
		return errMethod
	}
	name, ok := strings.CutPrefix(q.r.URL.Path, "/")
	if !ok || len(name) > maxRequest {
		return errUnknown
	}
	if file, ok := strings.CutPrefix(name, "sumdb/"); ok {
		return q.serveSumDB(ctx, file)
	}
	t, ok := q.h.targets.get(name)
	if !ok {
		if t, ok = parseTarget(strings.Clone(name)); !ok { // else the whole line of the request would stay in memory with it
			return errUnknown
		}
		q.h.targets.put(t.name, t, int64(3*len(name)+targetSize), knownTargets)
	}
	name = t.name
	q.info.File, q.info.Module = t.file, t.module
	switch {
	case t.file == "list":
		return q.serveAnswer(ctx, q.list(t.module.Path, name))
	case t.file == "latest":
		return q.serveAnswer(ctx, q.latest(t.module.Path, name))
	case t.file == "mod":
		return q.serveGoMod(ctx, t.module, name)
	case t.file == "zip":
		return q.serveZip(ctx, t.module, name)
	case t.exact:
		return q.serveAnswer(ctx, q.exact(t.module, name))
	}
	return q.serveAnswer(ctx, q.revision(t.module.Path, t.module.Version, name))
}

// A target is what a path of the GOPROXY protocol names.
type target struct {
	name   string // the path itself
	file   string // "list", "latest", "info", "mod" or "zip"
	module module.Version
	exact  bool // the version is one, and no query, as only that of an .info file may be
}

func parseTarget(name string) (t target, ok bool) {
	escaped, file, ok := strings.Cut(name, "/@")
	path, err := module.UnescapePath(escaped)
	if err != nil || !ok {
		return target{}, false
	}
	t.name, t.module.Path = name, path
	if file == "latest" || file == "v/list" {
		t.file = strings.TrimPrefix(file, "v/")
		return t, true
	}
	file, ok = strings.CutPrefix(file, "v/")
	dot := strings.LastIndexByte(file, '.')
	if !ok || dot < 0 {
		return target{}, false
	}
	if t.module.Version, err = module.UnescapeVersion(file[:dot]); err != nil {
		return target{}, false
	}
	t.file, t.exact = file[dot+1:], canonical(path, t.module.Version)
	switch t.file {
	case "info":
		if !t.exact { // also v2.0.0 of what has no go.mod file: the answer names v2.0.0+incompatible
			asks, err := parseQuery(path, t.module.Version)
			return t, err == nil && asks.fits == nil
		}
		return t, true
	case "mod", "zip":
		return t, t.exact
	}
	return target{}, false
}

const (
	knownTargets = 1 << 20 // bytes of the targets that are remembered: to check a path takes longer
	targetSize   = 256     // bytes of one, beside its names
)

const maxRequest = 4 << 10 // bytes of a path

// allow refuses a path that this Handler does not serve, before anybody is asked about it.
func (q *request) allow(ctx context.Context, path string) error {
	h := q.h
	if err := h.permit(path); err != nil {
		return err
	}
	tiers := q.h.online.routes.to(path)
	if len(tiers) == 0 {
		return failf(ErrForbidden, "%s could only be had from its repository, and this server does not fetch from repositories for clients", path)
	}
	for _, t := range tiers {
		for _, m := range t.mirrors {
			if own, ok := m.(*httpMirror); ok && !h.ServePrivate && own.credentialed(ctx) {
				return failf(ErrForbidden, "%s gives %s for credentials of this server, which does not share them", m, path)
			}
		}
	}
	return nil
}

// permit refuses a path by the settings alone.
func (h *Handler) permit(path string) error {
	f := h.Fetcher
	switch {
	case h.malformed != nil: // it would match nothing
		return h.malformed
	case module.MatchPrefixPatterns(h.Deny, path):
		return &refusal{path, "Deny", h.Deny}
	case h.Allow != "" && !module.MatchPrefixPatterns(h.Allow, path):
		return &refusal{path, "Allow", h.Allow}
	case h.ServePrivate:
		return nil
	}
	private := cmp.Or(matching(f.routes.noProxy, path), matching(f.exempt, path))
	if rule := f.routes.rule(path); rule != nil {
		private = "WithRoute=" + rule.patterns
	}
	if private == "" {
		return nil
	}
	setting, patterns, _ := strings.Cut(private, "=")
	return &refusal{path, setting, patterns}
}

// A refusal is that a setting keeps a path from clients. They are told the setting's name, and never its patterns, which may
// name what is private.
type refusal struct{ path, setting, patterns string }

func (e *refusal) Error() string {
	return fmt.Sprintf("%s is not served to clients, because of %s=%s", e.path, e.setting, e.patterns)
}

func (e *refusal) Is(target error) bool { return target == ErrForbidden }

// list is the question for the versions of a module: what is tagged, or else the newest pseudo-version.
func (q *request) list(path, name string) question {
	f := q.f
	return question{name: name, fresh: orElse(q.h.ListTTL, time.Minute), stale: q.h.maxStale(),
		check: func(ctx context.Context, data []byte) error {
			_, err := parseList(ctx, data, path)
			return err
		},
		ask: func(ctx context.Context, e *earlier) ([]byte, error) {
			all, err := f.versions(ctx, path, e)
			if err != nil {
				return nil, err
			}
			if len(all.versions) == 0 && all.pseudo != "" {
				all.versions = []string{all.pseudo}
			}
			var text bytes.Buffer
			for _, v := range all.versions {
				text.WriteString(v + "\n")
			}
			return text.Bytes(), nil
		}}
}

// latest is the question for the newest version: which a mirror names, or else which its list leads to.
func (q *request) latest(path, name string) question {
	f := q.f
	return q.query(path, "", name, func(ctx context.Context, e *earlier) (Info, error) {
		info, err := f.ask(ctx, path, name, "", e)
		if err == nil {
			_, err = f.goModOfNamed(ctx, module.Version{Path: path, Version: info.Version})
		}
		if !absent(err) {
			return info, err
		}
		chosen, otherErr := f.Info(ctx, path, "latest")
		var none *NoMatchError
		if absent(otherErr) || errors.As(otherErr, &none) {
			return Info{}, err
		}
		*e = earlier{}
		return chosen, otherErr
	})
}

// revision is the question for the version that a branch, tag or commit is.
func (q *request) revision(path, rev, name string) question {
	f := q.f
	return q.query(path, rev, name, func(ctx context.Context, e *earlier) (Info, error) { return f.revision(ctx, path, rev, e) })
}

func (q *request) query(path, rev, name string, ask func(context.Context, *earlier) (Info, error)) question {
	return question{name: name, fresh: q.h.latestTTL(), stale: q.h.maxStale(),
		check: func(_ context.Context, data []byte) error {
			_, err := parseAnswer(data, path, rev)
			return err
		},
		ask: func(ctx context.Context, e *earlier) ([]byte, error) {
			info, err := ask(ctx, e)
			if err != nil {
				return nil, err
			}
			return json.Marshal(info)
		}}
}

// exact is the question for the .info file of an exact version. The Fetcher keeps the file, so that the first answer after a
// start is that one; of all that it says only the version is certain, and so it is asked for again some time.
func (q *request) exact(m module.Version, name string) question {
	f := q.f
	return question{name: name, fresh: q.h.infoTTL(),
		ask: func(ctx context.Context, e *earlier) ([]byte, error) {
			get := f.info
			if e.data != nil {
				get = f.fetchInfo
			}
			file, err := get(ctx, m)
			return file.data, err
		}}
}

// serveAnswer serves what no hash covers.
func (q *request) serveAnswer(ctx context.Context, asks question) error {
	if err := q.allow(ctx, q.info.Module.Path); err != nil {
		return err
	}
	a, err := q.h.answers.get(ctx, asks, q.offline)
	var missing *OfflineError
	if asks.check == nil && errors.As(err, &missing) { // what is not kept among the answers may be in the Fetcher's cache
		var data []byte
		data, err = asks.ask(ctx, new(earlier))
		a = &answer{body: data, tag: tagOf(data)} // of unknown age
	}
	if err != nil {
		return err
	}
	kind := "application/json"
	if q.info.File == "list" {
		kind = plainText
	}
	q.sendAnswer(a, asks, kind)
	return nil
}

// serveGoMod serves a verified go.mod file. Its h1: hash covers its bytes, and no others.
func (q *request) serveGoMod(ctx context.Context, m module.Version, name string) error {
	a, err := q.goMod(ctx, m, name)
	if err != nil {
		return err
	}
	q.sendBytes(a.body, plainText, a.tag, forEver)
	return nil
}

// goMod returns a verified go.mod file. One that was verified may lie in memory, where it is held against who vouches for it
// each time, as on a disk.
func (q *request) goMod(ctx context.Context, m module.Version, name string) (*answer, error) {
	get := func() (*answer, error) {
		file, err := q.f.goMod(ctx, m)
		return &answer{body: file.data, tag: file.sum}, err
	}
	a, err := q.unlessAbsent(ctx, m, name, get)
	if err != nil {
		return nil, err
	}
	v, err := q.f.voucher(ctx, goModKey(m))
	if err == nil {
		err = q.f.verdict(ctx, v, goModKey(m), a.tag, "memory")
	}
	if err != nil { // it is decided anew
		if a, err = get(); err != nil {
			return nil, err
		}
		q.h.answers.put(name, a)
	}
	return a, nil
}

// serveZip serves a verified zip. Its ETag is the hash of the file: its h1: covers names and contents, and two files can share
// it. A version that does not exist is found out by its go.mod file, for which no lock file is made, and so is one for which
// go.sum, or another source, names another go.mod file. The checksum database vouches for both files at once.
func (q *request) serveZip(ctx context.Context, m module.Version, name string) error {
	_, exists := q.f.hashed.get(m.String())
	if _, listed, err := q.f.localVoucher(ctx, goModKey(m)); !exists || listed || err != nil {
		if _, err := q.goMod(ctx, m, strings.TrimSuffix(name, "zip")+"mod"); err != nil {
			return err
		}
	}
	var z *Zip
	_, err := q.unlessAbsent(ctx, m, name, func() (a *answer, err error) {
		z, err = q.f.Zip(ctx, m)
		return nil, err
	})
	if err != nil {
		return err
	}
	defer z.Close()
	tag, err := q.h.tags.of(ctx, m, z)
	if err != nil {
		return diskError(m, err)
	}
	q.sendZip(z, tag)
	return nil
}

// unlessAbsent gets a file of m, unless it is in memory, or the mirrors have said a moment ago that it does not exist.
func (q *request) unlessAbsent(ctx context.Context, m module.Version, name string, get func() (*answer, error)) (*answer, error) {
	if err := q.allow(ctx, m.Path); err != nil {
		return nil, err
	}
	a, ok := q.h.answers.near.get(name)
	switch {
	case ok && !a.Absent:
		return a, nil
	case ok && a.age() < q.h.answers.absence:
		return nil, errKnownAbsent
	}
	a, err := get()
	switch {
	case absent(err):
		q.h.answers.put(name, &answer{Time: time.Now(), Absent: true})
	case err == nil && a != nil:
		q.h.answers.put(name, a)
	}
	return a, err
}

// forClients returns the Fetcher for those who are not its owner: without `direct` unless that is wanted, and without anybody
// to ask if it is offline. Cache, mirrors and what was learned of them are the same.
func (f *Fetcher) forClients(direct, offline bool) *Fetcher {
	v := f.view()
	if !direct {
		v.routes = v.routes.withoutDirect()
	}
	if offline {
		nobody := func(Mirror) bool { return false }
		v.routes, v.locker = v.routes.toOffline(nobody), nil
		if f.db != nil {
			v.db = f.db.toOffline(&v.routes, nobody)
		}
	}
	return &Fetcher{v, f.goSum}
}
