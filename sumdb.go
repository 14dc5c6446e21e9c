package modfetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modfetch/modfetch/internal/flight"
	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"
)

// A sumDB is a client of one checksum database, reached through whatever mirror answers for it. It is a SumSource.
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
	tiles   flight.Group[string, sumFile]

	mu      sync.Mutex // guards the following
	bases   map[Mirror]*sumBase
	records map[module.Version]sumRecord // proven by this sumDB
	active  int                          // lookups under way
	forked  error                        // set once the database has signed two histories

	urlRetry, hostRetry atomic.Int64 // of the URL in GOSUMDB and of the database's own host; see sumPlace
}

// A sumRecord is what the database has on one version.
type sumRecord struct {
	zip, goMod []string // h1: hashes
	head       string   // signed note under which the record was proven last
}

// A sumFile is what a base has sent, not proven yet.
type sumFile struct {
	data []byte
	base *sumBase
}

// The public checksum database, as https://go.dev/ref/mod#checksum-database describes it.
const (
	publicSumDB    = "sum.golang.org"
	publicSumDBKey = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
	chinaSumDB     = "sum.golang.google.cn" // the same database at another host
)

const (
	maxLookup  = 1 << 20 // bytes
	placePause = time.Minute
)

// newSumDB reads a GOSUMDB setting, which must not be off.
func newSumDB(setting string, client *http.Client) (*sumDB, error) {
	fields := strings.Fields(setting)
	if len(fields) == 0 || len(fields) > 2 {
		return nil, fmt.Errorf(`want off, or the name or key of a checksum database, and after a space its URL if it has another one`)
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
	if host, err := HTTPMirror("https://"+db.name, client); err != nil || strings.ContainsAny(db.name, "?#@") {
		return nil, fmt.Errorf("the database name %q in the key is not a host with or without a path", db.name)
	} else {
		db.host = &sumBase{Mirror: host, prefix: db.prefix()}
	}
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
	db.mu.Lock()
	r, ok := db.records[m]
	forked := db.forked
	db.mu.Unlock()
	if forked != nil {
		return sumRecord{}, forked
	}
	if ok {
		return r, nil
	}
	return db.lookups.Do(ctx, m, func(ctx context.Context) (sumRecord, error) {
		db.begin()
		defer db.end(ctx)
		r, err := db.lookup(ctx, m)
		if err == nil {
			db.keep(m, r)
		}
		return r, err
	})
}

func (db *sumDB) keep(m module.Version, r sumRecord) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.records == nil {
		db.records = make(map[module.Version]sumRecord)
	}
	db.records[m] = r
}

// lookup asks for m's record and proves it. What cannot be proven may be the fault of one mirror, or of a local file that
// somebody forged: so it is tried again with other mirrors, and then with all mirrors but without the local files.
func (db *sumDB) lookup(ctx context.Context, m module.Version) (sumRecord, error) {
	var suspects []Mirror
	var unproven error
	for try := range 3 {
		l := &lookup{db: db, ctx: ctx, module: m, fresh: try > 0, bare: try == 2}
		if try == 1 {
			l.suspects = suspects
		}
		r, err := db.prove(l)
		switch {
		case err == nil:
			return r, nil
		case ctx.Err() != nil:
			return r, fmt.Errorf("looking up %s in %s: %w", m, db.name, context.Cause(ctx))
		case l.fork != "":
			return r, err
		case l.failed != nil && unproven == nil:
			return r, db.unavailable(m, l.failed)
		case l.failed == nil:
			unproven = err
		}
		suspects = append(suspects, l.used...)
	}
	return sumRecord{}, failf(ErrSecurity, "the record of %s in the checksum database %s cannot be proven: %v", m, db.name, unproven)
}

// prove runs a lookup. A fork that shows ends the use of the database.
func (db *sumDB) prove(l *lookup) (sumRecord, error) {
	r, err := l.run()
	if l.fork == "" {
		return r, err
	}
	err = failf(ErrSecurity, "the checksum database %s has signed two histories that contradict each other, so it is not used any more:\n%s", db.name, l.fork)
	db.mu.Lock()
	defer db.mu.Unlock()
	db.forked = err
	return r, err
}

// unavailable wraps a failure to reach the database. It is never an absence, even if it was a 404: what cannot be verified
// has not been shown not to exist.
func (db *sumDB) unavailable(m module.Version, err error) error {
	kind := ErrTransient
	switch KindOf(err) {
	case NotFound, Forbidden:
		kind = ErrForbidden
	case Corrupt:
		kind = ErrCorrupt
	case Security:
		kind = ErrSecurity
	}
	return &failure{kind, fmt.Sprintf("cannot verify %s: the checksum database %s", m, db.name), err}
}

// begin and end bracket a lookup. Heads move on while lookups are under way, so the last one to end proves every record
// again under the final head where that is another: afterwards the tiles on disk suffice to verify all of them offline.
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
	if err != nil {
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
	g.SetLimit(settleWidth)
	for _, m := range old {
		g.Go(func() error {
			l := &lookup{db: db, ctx: ctx, module: m}
			if r, err := db.prove(l); err == nil {
				db.keep(m, r)
			}
			return nil // the record stays proven under the older head
		})
	}
	g.Wait()
}

const settleWidth = 8

// A sumPlace is where the database may be read; if it cannot be read there, the next one is tried.
type sumPlace struct {
	tiers []tier
	retry *atomic.Int64 // Unix time in nanoseconds before which the place is passed over; nil is never
}

// places returns where the database may be read for a module path: at the URL that GOSUMDB names, at the mirrors that may
// see the path, less those under suspicion, and last at its own host, unless GOSUMDB names another. GOSUMDB names who may
// hear of every path that is looked up.
func (db *sumDB) places(path string, suspects []Mirror) []sumPlace {
	var places []sumPlace
	if db.explicit != nil {
		own, below := db.explicit[0], db.explicit[1]
		if below.good.Load() {
			own, below = below, own
		}
		places = append(places, sumPlace{[]tier{{[]Mirror{own, below}}}, &db.urlRetry})
	}
	var tiers []tier
	for _, t := range db.routes.to(path) {
		var bases []Mirror
		for _, m := range t.mirrors {
			if m == db.routes.direct || m == (off{}) || slices.Contains(suspects, m) {
				continue
			}
			bases = append(bases, db.base(m))
		}
		if bases != nil {
			tiers = append(tiers, tier{bases})
		}
	}
	if tiers != nil {
		places = append(places, sumPlace{tiers: tiers})
	}
	if db.explicit == nil {
		places = append(places, sumPlace{[]tier{{[]Mirror{db.host}}}, &db.hostRetry})
	}
	return places
}

// base returns the database's place at a mirror.
func (db *sumDB) base(m Mirror) *sumBase {
	db.mu.Lock()
	defer db.mu.Unlock()
	b := db.bases[m]
	if b == nil {
		b = &sumBase{Mirror: m, prefix: db.prefix(), below: true}
		if db.bases == nil {
			db.bases = make(map[Mirror]*sumBase)
		}
		db.bases[m] = b
	}
	return b
}

// read gets one file of the database from the first of its places that has it. A place that could not be reached is passed
// over for a while, if there is another.
func (db *sumDB) read(ctx context.Context, path string, suspects []Mirror, w want) (Mirror, error) {
	var attempts []Attempt
	places := db.places(path, suspects)
	for i, p := range places {
		alone := len(attempts) == 0 && i == len(places)-1
		if p.retry != nil && !alone && time.Now().UnixNano() < p.retry.Load() {
			continue
		}
		m, err := db.engine.fetch(ctx, p.tiers, w)
		if err == nil || ctx.Err() != nil {
			return m, err
		}
		if p.retry != nil && KindOf(err) == Transient {
			p.retry.Store(time.Now().Add(placePause).UnixNano())
		}
		var failed *FetchError
		if !errors.As(err, &failed) {
			return nil, err
		}
		attempts = append(attempts, failed.Attempts...)
	}
	return nil, &FetchError{Path: w.path, Attempts: attempts}
}

// A lookup is one run of a sumdb.Client: its ClientOps, and what happened in it.
type lookup struct {
	db       *sumDB
	ctx      context.Context
	module   module.Version
	suspects []Mirror // not to be asked
	fresh    bool     // do not join reads of other lookups
	bare     bool     // do not use local files

	mu     sync.Mutex // guards the following
	head   []byte     // as read or written last
	record []byte     // from a mirror; stored once it has yielded a line
	used   []Mirror   // who sent something
	failed error      // first read that failed
	fork   string     // the client's report of one
}

func (l *lookup) run() (sumRecord, error) {
	client := sumdb.NewClient(l)
	zip, err := client.Lookup(l.module.Path, l.module.Version)
	if err != nil {
		return sumRecord{}, err
	}
	goMod, err := client.Lookup(l.module.Path, l.module.Version+"/go.mod")
	if err != nil {
		return sumRecord{}, err
	}
	r := sumRecord{zip: hashes(zip), goMod: hashes(goMod), head: string(l.head)}
	if r.zip == nil && r.goMod == nil {
		return r, fmt.Errorf("it was answered with the record of another module")
	}
	if l.record != nil {
		l.db.store.write(l.ctx, l.lookupName(), l.record)
	}
	return r, nil
}

func (l *lookup) lookupName() string {
	path, _ := module.EscapePath(l.module.Path)
	version, _ := module.EscapeVersion(l.module.Version)
	return "lookup/" + path + "@" + version
}

// hashes takes the last field of each go.sum line.
func hashes(lines []string) []string {
	var out []string
	for _, line := range lines {
		out = append(out, line[strings.LastIndexByte(line, ' ')+1:])
	}
	return out
}

// ReadRemote reads a lookup or a tile.
func (l *lookup) ReadRemote(path string) ([]byte, error) {
	name := strings.TrimPrefix(path, "/")
	read := func(ctx context.Context) (sumFile, error) { return l.read(ctx, name) }
	var file sumFile
	var err error
	if l.fresh || strings.HasPrefix(name, "lookup/") {
		file, err = read(l.ctx)
	} else {
		file, err = l.db.tiles.Do(l.ctx, name, read)
	}
	tile, tileErr := tlog.ParseTilePath(name)
	partial := tileErr == nil && tile.W < 1<<tile.H // may be gone because the full tile has replaced it, which is asked for next
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil && !slices.Contains(l.used, file.base.Mirror):
		l.used = append(l.used, file.base.Mirror)
	case err != nil && !(partial && absent(err)) && l.failed == nil:
		l.failed = err
	}
	return file.data, err
}

// read gets a lookup or a tile from the first base that has one of the right form.
func (l *lookup) read(ctx context.Context, name string) (file sumFile, err error) {
	w := want{path: l.db.prefix() + name, limit: maxLookup}
	check := l.checkLookup
	if tile, err := tlog.ParseTilePath(name); err == nil {
		size := tile.W * tlog.HashSize
		w.limit = int64(size)
		check = func(data []byte) error {
			if len(data) != size {
				return failf(ErrCorrupt, "sent a tile of %d bytes, not %d", len(data), size)
			}
			return nil
		}
	}
	w.take = func(_ context.Context, _ Mirror, b *body) (err error) {
		if file.data, err = b.all(); err != nil {
			return err
		}
		return check(file.data)
	}
	m, err := l.db.read(ctx, l.module.Path, l.suspects, w)
	if err == nil {
		file.base = m.(*sumBase)
		file.base.good.Store(true)
	}
	return file, err
}

// checkLookup refuses a reply that the database has not signed, so that another mirror is asked.
func (l *lookup) checkLookup(data []byte) error {
	_, _, head, err := tlog.ParseRecord(data)
	if err == nil {
		_, err = note.Open(head, note.VerifierList(l.db.verifier))
	}
	if err != nil {
		return failf(ErrCorrupt, "sent a record that is not signed by %s: %v", l.db.name, err)
	}
	return nil
}

func (l *lookup) ReadConfig(file string) ([]byte, error) {
	if file == "key" {
		return []byte(l.db.key), nil
	}
	head, err := l.db.store.readHead(l.ctx)
	if err != nil {
		l.fail(err)
		return nil, err
	}
	l.setHead(head)
	return head, nil
}

func (l *lookup) WriteConfig(_ string, old, new []byte) error {
	if err := l.db.store.swapHead(l.ctx, old, new); err != nil {
		if err != sumdb.ErrWriteConflict {
			l.fail(err)
		}
		return err
	}
	l.setHead(new)
	return nil
}

func (l *lookup) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed == nil {
		l.failed = err
	}
}

func (l *lookup) setHead(head []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.head = head
}

func (l *lookup) ReadCache(file string) ([]byte, error) {
	if l.bare {
		return nil, errNotStored
	}
	return l.db.store.read(l.ctx, strings.TrimPrefix(file, l.db.name+"/"))
}

// WriteCache stores a tile, which is authentic by now. A record waits until it is known to be the right one.
func (l *lookup) WriteCache(file string, data []byte) {
	name := strings.TrimPrefix(file, l.db.name+"/")
	if strings.HasPrefix(name, "lookup/") {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.record = bytes.Clone(data)
		return
	}
	l.db.store.write(l.ctx, name, data)
}

func (l *lookup) Log(string) {}

func (l *lookup) SecurityError(msg string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fork = msg
}
