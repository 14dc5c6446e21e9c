package modfetch

import (
	"errors"
	"fmt"
	"net/http"
	"path"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sync/semaphore"
)

// An Option configures a [Fetcher]. The order of options does not matter; an option beats the GoEnv field of the same
// meaning.
type Option func(*config)

// A Strategy says when the next mirror of a tier is asked. The zero value is [Chain].
type Strategy struct {
	equal bool
	after time.Duration
}

// Chain asks the next mirror when the one before has failed.
func Chain() Strategy { return Strategy{} }

// Race asks all mirrors that are joined by `|` at once. The first good go.mod file wins; of a zip, the first that begins to
// answer sends it, and the others are told to stop. Once it is known how soon mirrors answer, a zip is asked of the quickest
// alone, and of the next one if that takes three times as long as usual: a race must not multiply the traffic.
func Race() Strategy { return Strategy{equal: true} }

// Stagger asks the next mirror that is joined by `|` when the one before has failed, or has not answered within d, or
// within a small multiple of the time that it usually takes, whichever is less.
//
// A strategy other than Chain declares mirrors that are joined by `|` equal: the better ones are asked first, and each that
// nothing is known of for one small file. Only files whose bytes can be proven are asked of several mirrors; others come
// from one mirror after the other, in the order given.
func Stagger(d time.Duration) Strategy { return Strategy{equal: true, after: d} }

// A Policy is what is wanted other than by default, which is its zero value.
type Policy struct {
	RequireVerified bool // refuse what a setting exempts from verification, instead of handing it out as Unverified
	StrictComma     bool // never cross a `,` after anything but a 404 or 410, even where the bytes are provably wrong
	NoExtract       bool // Download leaves modules as zips
	Rehash          bool // hash every zip and tree in the module cache again before it is handed out, not only its recorded hash

	// Offline asks no mirror but file systems, those of file:// and [FSMirror], and opens no socket: other mirrors, `direct` and
	// the checksum database's own host are left out of whatever list they stand in. Where somebody was left out, what is
	// neither in the cache nor in a file system is an [OfflineError], not an absence. A Cache, Locker or SumSource that is
	// given does what it does.
	Offline bool

	// AskAll, if it is not 0, is for what no hash covers: a list, the latest version, a branch, tag or commit. All mirrors of
	// the first tier, joined by `|`, are asked at once, and what they say within this time is put together: the union of their
	// lists, the newest version whose go.mod file is verified. If none has answered by then, the first answer counts, and if
	// none has a good one, they are asked in order as without it. `direct`, and paths that a route or a setting such as
	// GONOSUMDB exempts from verification, are left to that order.
	AskAll time.Duration
}

// WithGoEnv takes the go command's settings: mirrors, checksum database, private paths. It implies
// WithModCache(env.GOMODCACHE) if that is set.
func WithGoEnv(env GoEnv) Option { return func(c *config) { c.env = append(c.env, env) } }

// WithGOPROXY takes the mirrors from a list as the go command reads it, such as "https://goproxy.cn|https://goproxy.io,direct".
func WithGOPROXY(list string) Option { return func(c *config) { c.goproxy = append(c.goproxy, list) } }

// WithMirrors adds a tier of mirrors that are equal to each other: they are joined by `|`. Given again, it adds a further
// tier behind a `,`.
func WithMirrors(mirrors ...Mirror) Option {
	return func(c *config) { c.tiers = append(c.tiers, tier{mirrors, true}) }
}

// WithStrategy sets when the next mirror of a tier is asked: [Chain], [Race] or [Stagger]. The default is Chain.
func WithStrategy(s Strategy) Option { return func(c *config) { c.strategy = append(c.strategy, s) } }

// WithRoute sends the paths that match patterns, in the form of GOPRIVATE, to the mirrors of list, in the form of GOPROXY,
// and nowhere else. They are not looked up in the checksum database; of several routes the first that matches counts.
func WithRoute(patterns, list string) Option {
	return func(c *config) { c.routes = append(c.routes, route{patterns: patterns, list: list}) }
}

// WithGoSum sets the go.sum that files are held against.
func WithGoSum(s *GoSum) Option { return func(c *config) { c.goSum = append(c.goSum, s) } }

// WithSums adds sources of hashes that are asked after go.sum and before the checksum database, in order.
func WithSums(s ...SumSource) Option { return func(c *config) { c.sums = append(c.sums, s...) } }

// WithSumDB sets the checksum database in the form of GOSUMDB. The default is sum.golang.org; "off" has to be said.
func WithSumDB(gosumdb string) Option {
	return func(c *config) { c.gosumdb = append(c.gosumdb, gosumdb) }
}

// WithPrivate adds patterns, in the form of GOPRIVATE, of paths that no mirror and no checksum database may see.
func WithPrivate(patterns string) Option {
	return func(c *config) { c.private = append(c.private, patterns) }
}

// WithModCache keeps files in the go command's module cache in dir, which must be absolute, and extracts trees there. The newest
// tree head of the checksum database is kept there too, and not in GOPATH, unless dir is the GOMODCACHE of [WithGoEnv].
func WithModCache(dir string) Option { return func(c *config) { c.modCache = append(c.modCache, dir) } }

// WithCache keeps files in a Cache: behind the module cache if there is one, else alone.
func WithCache(cache Cache) Option { return func(c *config) { c.cache = append(c.cache, cache) } }

// WithLocker makes processes that share the Cache wait for each other instead of fetching the same file twice.
func WithLocker(l Locker) Option { return func(c *config) { c.locker = append(c.locker, l) } }

// WithHTTPClient sets the client that mirrors given by URL are asked with; see [HTTPMirror].
func WithHTTPClient(client *http.Client) Option {
	return func(c *config) { c.client = append(c.client, client) }
}

// WithJobs sets how many requests to one mirror may be under way at once. The default is 64. From 2 on, at
// most half of them are whole zips: the others are for small files, and for parts of zips.
func WithJobs(n int) Option { return func(c *config) { c.jobs = append(c.jobs, n) } }

// WithTrace sets the hooks that are told what the Fetcher does.
func WithTrace(t *Trace) Option { return func(c *config) { c.trace = append(c.trace, t) } }

// WithPolicy sets the policy.
func WithPolicy(p Policy) Option { return func(c *config) { c.policy = append(c.policy, p) } }

// A config is what options were given: every value, so that one given twice is noticed wherever it stands.
type config struct {
	env      []GoEnv
	goproxy  []string
	tiers    []tier
	strategy []Strategy
	routes   []route
	goSum    []*GoSum
	sums     []SumSource
	gosumdb  []string
	private  []string
	modCache []string
	cache    []Cache
	locker   []Locker
	client   []*http.Client
	jobs     []int
	trace    []*Trace
	policy   []Policy
}

const defaultJobs = 64

// New returns a Fetcher. It does no I/O and reads no environment: settings come from options alone, and contradictory or
// malformed ones are refused here.
//
// There is no built-in mirror: give some by [WithGoEnv], [WithGOPROXY] or [WithMirrors].
func New(opts ...Option) (*Fetcher, error) {
	var c config
	for _, o := range opts {
		o(&c)
	}
	f, err := c.fetcher()
	if err != nil {
		return nil, fmt.Errorf("modfetch: %w", err)
	}
	return f, nil
}

func (c *config) fetcher() (*Fetcher, error) {
	if err := errors.Join(
		once("WithGoEnv", c.env), once("WithGOPROXY", c.goproxy), once("WithGoSum", c.goSum), once("WithSumDB", c.gosumdb),
		once("WithModCache", c.modCache), once("WithCache", c.cache), once("WithLocker", c.locker),
		once("WithHTTPClient", c.client), once("WithJobs", c.jobs), once("WithTrace", c.trace), once("WithPolicy", c.policy),
		once("WithStrategy", c.strategy),
	); err != nil {
		return nil, err
	}
	env := first(c.env)
	f := &Fetcher{core: &core{settings: settings{
		sums:   c.sums,
		cache:  first(c.cache),
		locker: first(c.locker),
		trace:  first(c.trace),
		policy: first(c.policy),
		cpu:    semaphore.NewWeighted(int64(runtime.GOMAXPROCS(0))),
		hashed: new(lru[*zipFile]),
	}}, goSum: first(c.goSum)}

	f.join()
	f.jobs = defaultJobs
	if len(c.jobs) > 0 {
		if f.jobs = c.jobs[0]; f.jobs < 1 {
			return nil, fmt.Errorf("WithJobs(%d): at least one request must be possible", f.jobs)
		}
	}
	if f.policy.AskAll < 0 {
		return nil, fmt.Errorf("WithPolicy: AskAll is %s: no answer comes within that; want a time such as 2s", f.policy.AskAll)
	}
	f.engine = &engine{
		healths:  healths{jobs: f.jobs},
		judging:  semaphore.NewWeighted(int64(runtime.GOMAXPROCS(0))),
		strict:   f.policy.StrictComma,
		strategy: first(c.strategy),
		trace:    f.trace,
	}

	client := first(c.client)
	if client == nil {
		client = newHTTPClient()
		f.idle = client.CloseIdleConnections
	} else if _, err := guardClient(client); err != nil {
		return nil, fmt.Errorf("WithHTTPClient: %w", err)
	}
	client, err := withAuth(client, env)
	if err != nil {
		return nil, err
	}
	if f.locker != nil && f.cache == nil {
		return nil, errors.New("WithLocker without WithCache: there is nothing to lock; the module cache has its own locks")
	}
	if err := c.setRoutes(f, env, client); err != nil {
		return nil, err
	}
	if err := c.setSumDB(f, env, client); err != nil {
		return nil, err
	}
	if err := c.setModCache(f, env); err != nil {
		return nil, err
	}
	return f, nil
}

// setRoutes decides which mirrors may see which path.
func (c *config) setRoutes(f *Fetcher, env GoEnv, client *http.Client) error {
	r := &f.routes
	r.direct = &direct{}
	list, setting := env.GOPROXY, env.cite("GOPROXY")
	if len(c.goproxy) > 0 {
		list, setting = c.goproxy[0], "WithGOPROXY"
	}
	switch {
	case len(c.tiers) > 0 && len(c.goproxy) > 0:
		return errors.New("WithMirrors and WithGOPROXY contradict each other: name the mirrors once")
	case len(c.tiers) > 0:
		r.tiers = c.tiers
		for _, t := range c.tiers {
			if len(t.mirrors) == 0 {
				return errors.New("WithMirrors: no mirror given")
			}
			for _, m := range t.mirrors {
				if m == nil || !reflect.TypeOf(m).Comparable() {
					return fmt.Errorf("WithMirrors: %T cannot be told from other mirrors; give a pointer", m)
				}
			}
		}
	case list == "" && len(c.goproxy) == 0 && (env.Source("GOPROXY") == "" || env.Source("GOPROXY") == fromDefault):
		return errors.New("no mirrors: give some by WithGOPROXY(\"https://goproxy.cn,direct\"), by WithMirrors, " +
			"or by WithGoEnv(env) with the env of SystemGoEnv, which needs a Go installation or GOPROXY to be set")
	default:
		tiers, err := parseGOPROXY(list, client, r.direct)
		if err != nil {
			return fmt.Errorf("%s %w", setting, err)
		}
		for i := range tiers {
			tiers[i].equal = f.engine.strategy.equal
		}
		r.tiers = tiers
	}
	for _, rule := range c.routes {
		if err := checkPatterns(rule.patterns); err != nil {
			return fmt.Errorf("WithRoute: %w", err)
		}
		tiers, err := parseGOPROXY(rule.list, client, r.direct)
		if err != nil {
			return fmt.Errorf("WithRoute(%q) %w", rule.patterns, err)
		}
		rule.tiers = tiers
		r.rules = append(r.rules, rule)
	}
	if f.policy.Offline {
		*r = r.toOffline(isFiles)
	}
	for _, p := range c.private {
		if err := checkPatterns(p); err != nil {
			return fmt.Errorf("WithPrivate: %w", err)
		}
	}
	for _, s := range []struct{ name, patterns string }{{"GOPRIVATE", env.GOPRIVATE}, {"GONOPROXY", env.GONOPROXY}, {"GONOSUMDB", env.GONOSUMDB}} {
		if s.patterns == "" {
			continue
		}
		if err := checkPatterns(s.patterns); err != nil {
			return fmt.Errorf("%s: %w", env.cite(s.name), err)
		}
	}
	exempt := func(name, patterns string) []exemption {
		list := []exemption{{name, patterns}}
		if patterns == "" || patterns == env.GOPRIVATE {
			list[0] = exemption{"GOPRIVATE", env.GOPRIVATE}
		}
		for _, p := range c.private {
			list = append(list, exemption{"WithPrivate", p})
		}
		return list
	}
	r.noProxy = exempt("GONOPROXY", env.GONOPROXY)
	f.exempt = exempt("GONOSUMDB", env.GONOSUMDB)
	return nil
}

// setSumDB decides who vouches for what go.sum does not name.
func (c *config) setSumDB(f *Fetcher, env GoEnv, client *http.Client) error {
	setting, source := env.GOSUMDB, env.cite("GOSUMDB")
	if len(c.gosumdb) > 0 {
		setting, source = c.gosumdb[0], "WithSumDB"
	} else if setting == "" {
		setting = publicSumDB
	}
	if setting == "off" {
		return nil
	}
	db, err := newSumDB(setting, client)
	if err != nil {
		return fmt.Errorf("%s is %q: %w", source, withoutSecrets(setting), err)
	}
	db.routes, db.engine = &f.routes, f.engine
	if f.policy.Offline {
		db = db.toOffline(&f.routes, isFiles)
	}
	f.db = db
	return nil
}

// setModCache decides where files are kept, the database's among them.
func (c *config) setModCache(f *Fetcher, env GoEnv) error {
	dir, source := env.GOMODCACHE, env.cite("GOMODCACHE")
	if len(c.modCache) > 0 {
		dir, source = c.modCache[0], "WithModCache"
	}
	if dir != "" || len(c.modCache) > 0 {
		if !filepath.IsAbs(dir) {
			return fmt.Errorf("%s is %q: the module cache must be an absolute path", source, dir)
		}
		rw, err := env.modCacheRW()
		if err != nil {
			return err
		}
		if _, err := env.modFlag(); err != nil {
			return err
		}
		f.mod = &modCache{dir: filepath.Clean(dir), rw: rw, trace: f.trace}
	}
	if f.db == nil {
		return nil
	}
	s := &sumStore{prefix: f.db.prefix(), verifier: f.db.verifier, mod: f.mod, cache: f.cache}
	switch {
	case s.mod != nil:
		s.cache = DirCache(filepath.Join(f.mod.dir, "cache"))
	case s.cache == nil:
		s.cache = &MemCache{MaxBytes: sumMemory}
	}
	if state := env.sumdbDir(); state != "" {
		s.latest = filepath.Join(state, filepath.FromSlash(f.db.name), "latest")
		s.advance = f.mod != nil && filepath.Clean(env.GOMODCACHE) == f.mod.dir
	}
	f.db.store = s
	return nil
}

const sumMemory = 32 << 20 // bytes of tiles and records without a cache

func first[T any](given []T) (v T) {
	if len(given) > 0 {
		v = given[0]
	}
	return v
}

func once[T any](name string, given []T) error {
	if len(given) > 1 {
		return fmt.Errorf("%s is given %d times: which one counts?", name, len(given))
	}
	return nil
}

// checkPatterns refuses a glob that would silently match nothing: a private path would leak.
func checkPatterns(patterns string) error {
	for p := range strings.SplitSeq(patterns, ",") {
		if p == "" {
			continue
		}
		if _, err := path.Match(p, ""); err != nil {
			return fmt.Errorf("malformed pattern %q in %q", p, patterns)
		}
		if strings.TrimSpace(p) != p {
			return fmt.Errorf("pattern %q in %q has spaces, which match no path", p, patterns)
		}
	}
	if strings.Trim(patterns, ",") == "" {
		return fmt.Errorf("no patterns in %q", patterns)
	}
	return nil
}
