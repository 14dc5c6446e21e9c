package modfetch

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/modfetch/modfetch/internal/flight"
	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"
)

// A sumDB is a client of one checksum database, reached through whatever mirror answers for it.
//
// Every lookup runs a sumdb.Client of its own, because such a client remembers errors for its life, takes no context and
// hides what went wrong; tiles, records and the tree head are shared between them.
type sumDB struct {
	name     string // as in the key
	key      string // verifier key
	public   bool   // signed by the built-in key of sum.golang.org
	verifier note.Verifier
	explicit []*sumBase // from a URL in GOSUMDB, or nil
	host     *sumBase   // the database's own host
	routes   *routes
	engine   *engine
	store    *sumStore

	lookups flight.Group[module.Version, sumRecord]
	tiles   flight.Group[tlog.Tile, sumFile]

	mu      sync.Mutex // guards the following
	bases   map[Mirror]*sumBase
	records map[module.Version]sumRecord // proven by this sumDB
	active  int                          // lookups under way
	served  sumHead                      // the largest that a Handler has served
	largest int64                        // records in the largest tree whose head a mirror has shown
	forked  error                        // set once the database has signed two histories

	urlRetry, hostRetry atomic.Int64 // of the URL in GOSUMDB and of the database's own host; see sumPlace
}

// A sumRecord is what the database has on one version.
type sumRecord struct {
	zip, goMod []string // h1: hashes
	head       string   // signed note under which the record was proven last
	signed     []byte   // as the database sends it; not kept in memory
}

// The public checksum database, as https://go.dev/ref/mod#checksum-database describes it.
const (
	publicSumDB    = "sum.golang.org"
	publicSumDBKey = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
	chinaSumDB     = "sum.golang.google.cn" // the same database at another host
)

const (
	maxLookup  = 1 << 20 // bytes
	maxRecords = 1 << 14 // in memory
)

// newSumDB reads a GOSUMDB setting, which must not be off.
func newSumDB(setting string, client *http.Client) (*sumDB, error) {
	fields := strings.Fields(setting)
	if len(fields) == 0 || len(fields) > 2 {
		return nil, errors.New("want off, or the name or key of a checksum database, and after a space its URL if it has another one")
	}
	key, url := fields[0], ""
	switch key {
	case publicSumDB:
		key = publicSumDBKey
	case chinaSumDB:
		key, url = publicSumDBKey, "https://"+chinaSumDB
	}
	if len(fields) == 2 {
		url = fields[1]
	}
	verifier, err := note.NewVerifier(key)
	if err != nil {
		return nil, fmt.Errorf("%s is neither a database known by name (%s, %s) nor a verifier key: %w", withoutSecrets(printable(fields[0])), publicSumDB, chinaSumDB, err)
	}
	db := &sumDB{name: verifier.Name(), key: key, public: key == publicSumDBKey, verifier: verifier}
	host, err := HTTPMirror("https://"+db.name, client)
	if err != nil || strings.ContainsAny(db.name, "?#@") || path.Clean("/"+db.name) != "/"+db.name {
		return nil, fmt.Errorf("the database name %q in the key is not a host with or without a path", db.name)
	}
	db.host = &sumBase{Mirror: host, prefix: db.prefix()}
	if url != "" {
		m, err := parseMirror(url, client)
		if err != nil {
			return nil, fmt.Errorf("the URL after the database %w", err)
		}
		// The URL is the database's own, or, as many write it, that of a mirror that has it under /sumdb/.
		db.explicit = []*sumBase{{Mirror: m, prefix: db.prefix()}, {Mirror: m, prefix: db.prefix(), below: true}}
	}
	return db, nil
}

// SumDBKey returns the verifier key of the checksum database that a GOSUMDB setting names: that of sum.golang.org for "", and
// an error for off.
func SumDBKey(gosumdb string) (string, error) {
	switch gosumdb {
	case "":
		gosumdb = publicSumDB
	case "off":
		return "", errors.New("GOSUMDB is off, so there is no checksum database to verify with")
	}
	db, err := newSumDB(gosumdb, newHTTPClient())
	if err != nil {
		return "", err
	}
	return db.key, nil
}

func (db *sumDB) prefix() string { return "sumdb/" + db.name + "/" }

func (db *sumDB) String() string { return db.name }

// Sums returns the hashes that the database has for m. It never returns ErrUnlisted: the database is asked last, and a
// module that it has nothing on is not verified.
func (db *sumDB) Sums(ctx context.Context, m module.Version) ([]string, error) {
	version, isGoMod := strings.CutSuffix(m.Version, "/go.mod")
	m.Version = version
	r, err := db.record(ctx, m)
	if err != nil {
		return nil, err
	}
	if isGoMod {
		return r.goMod, nil
	}
	return r.zip, nil
}

// record returns the proven record of m, once for any number of callers.
func (db *sumDB) record(ctx context.Context, m module.Version) (sumRecord, error) {
	if forked := db.stopped(); forked != nil {
		return sumRecord{}, forked
	}
	db.mu.Lock()
	r, ok := db.records[m]
	db.mu.Unlock()
	if ok {
		return r, nil
	}
	return db.proveRecord(ctx, m)
}

// proveRecord returns the record of m with what the database has signed, proven once for any number of callers.
func (db *sumDB) proveRecord(ctx context.Context, m module.Version) (sumRecord, error) {
	return db.lookups.Do(ctx, m, func(ctx context.Context) (sumRecord, error) {
		db.begin()
		defer db.end(ctx)
		r, err := db.lookup(ctx, m)
		if err == nil {
			err = db.placeOther(ctx)
		}
		if err == nil {
			err = db.stopped() // by another lookup in the meantime
		}
		if err != nil {
			return sumRecord{}, err
		}
		db.keep(m, r)
		return r, nil
	})
}

func (db *sumDB) keep(m module.Version, r sumRecord) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.records == nil || len(db.records) >= maxRecords { // what is forgotten is proven again from the store
		db.records = make(map[module.Version]sumRecord)
	}
	r.signed = nil
	db.records[m] = r
}

// lookup asks for m's record and proves it. What cannot be proven may be the fault of one mirror, or of a local file that
// somebody forged, and a tile that is nowhere may belong to a head that only one mirror has seen: so every mirror is then
// asked by itself, first with the local files and then without them.
func (db *sumDB) lookup(ctx context.Context, m module.Version) (sumRecord, error) {
	l := &lookup{db: db, ctx: ctx, module: m}
	r, err := l.run()
	if err == nil {
		return r, nil
	}
	first, heads, used := l, l.heads, l.used
	var unproven error // what was got was not enough for a proof
	if l.failed == nil {
		unproven = err
	}
	for _, bare := range []bool{false, true} {
		if ctx.Err() != nil || l.fork != "" || unproven == nil && (bare || heads == nil) {
			break
		}
		for _, base := range db.all() {
			l = &lookup{db: db, ctx: ctx, module: m, only: base, bare: bare}
			r, err := l.run()
			if err == nil {
				return r, db.place(ctx, heads)
			}
			if ctx.Err() != nil || l.fork != "" {
				break
			}
			if l.failed == nil && unproven == nil {
				unproven = err
			}
			heads, used = append(heads, l.heads...), append(used, l.used...)
		}
	}
	if l.fork != "" {
		return sumRecord{}, db.stop(ctx, l.fork)
	}
	if heads == nil && ctx.Err() == nil { // not even the kept head could be proven: what do they show now?
		for _, base := range db.all() {
			l := &lookup{db: db, ctx: ctx, module: m, only: base}
			l.ReadRemote("/" + l.lookupName())
			heads = append(heads, l.heads...)
		}
	}
	if err := db.place(ctx, heads); err != nil {
		return sumRecord{}, err
	}
	switch {
	case ctx.Err() != nil:
		return sumRecord{}, fmt.Errorf("looking up %s in %s: %w", m, db.name, context.Cause(ctx))
	case unproven == nil:
		return sumRecord{}, unavailable(fmt.Sprintf("cannot verify %s: the checksum database %s", m, db.name), db.hintLink(ctx, first.failed, heads))
	}
	return sumRecord{}, db.cannotProve(ctx, m, unproven, heads, used)
}

// hintLink explains a missing tile. Files do not have all of them, and the error names no cause. It may be the error of other
// lookups too, and is left as it is.
func (db *sumDB) hintLink(ctx context.Context, err error, heads []sumHead) error {
	var failed *FetchError
	kept, _ := db.keptHead(ctx)
	if !errors.As(err, &failed) || !strings.HasPrefix(failed.Path, db.prefix()+"tile/") || kept.tree.N == 0 {
		return err
	}
	for _, h := range heads {
		if !isFiles(h.from.Mirror) || h.tree.N == kept.tree.N {
			continue
		}
		hinted := *failed
		hinted.Hint = fmt.Sprintf("%s lacks the tiles that link its tree head, of %d records, to the one that is kept here, of %d: ", h.from, h.tree.N, kept.tree.N)
		if h.tree.N < kept.tree.N {
			hinted.Hint += "take a bundle with a newer head, or name the one that brought the head kept here beside it"
		} else {
			hinted.Hint += "the bundle must be written onto the head that is kept (modfetch bundle -onto)"
		}
		return &hinted
	}
	return err
}

// unavailable wraps a failure to reach the database. It is never an absence, even if it was a 404: what cannot be verified
// has not been shown not to exist.
func unavailable(msg string, err error) error {
	kind := ErrTransient
	switch KindOf(err) {
	case NotFound, Forbidden:
		kind = ErrForbidden
	case Corrupt:
		kind = ErrCorrupt
	case Security:
		kind = ErrSecurity
	}
	return &failure{kind, msg, err}
}

// begin and end bracket a lookup. A head that moves forward here moves with the tiles that prove it; but another process may
// move it too, with tiles that are not in this cache. Then the last lookup to end proves every record again under the final
// head: afterwards the tiles on disk suffice to verify all of them offline.
func (db *sumDB) begin() {
	db.mu.Lock()
	db.active++
	db.mu.Unlock()
}

func (db *sumDB) end(ctx context.Context) {
	db.mu.Lock()
	db.active--
	idle := db.active == 0
	db.mu.Unlock()
	if !idle || db.store.mod == nil {
		return
	}
	head, err := db.store.readHead(ctx)
	if err != nil || db.store.isLinked(head) {
		return
	}
	var old []module.Version
	db.mu.Lock()
	for m, r := range db.records {
		if r.head != string(head) {
			old = append(old, m)
		}
	}
	db.mu.Unlock()
	var g errgroup.Group
	g.SetLimit(proveWidth)
	for _, m := range old {
		g.Go(func() error {
			l := &lookup{db: db, ctx: ctx, module: m}
			r, err := l.run()
			if err == nil {
				db.keep(m, r)
			} else if l.fork != "" {
				db.stop(ctx, l.fork)
			}
			return err
		})
	}
	if g.Wait() == nil {
		db.store.link(head)
	}
}

const proveWidth = 8 // lookups at a time when records are proven again
