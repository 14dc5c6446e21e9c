package modfetch

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb"
	"golang.org/x/mod/sumdb/tlog"
)

// A lookup is one run of a sumdb.Client: its ClientOps, and what happened in it.
type lookup struct {
	db     *sumDB
	ctx    context.Context
	module module.Version
	only   *sumBase // whose tiles are used, and whose record if it may be asked; nil for anybody's
	bare   bool     // do not use local files

	mu     sync.Mutex // guards the following
	head   []byte     // as read or written last
	record []byte     // from a mirror; stored once it has yielded a line
	signed []byte     // the record, wherever it is from
	heads  []sumHead  // that mirrors have sent
	used   []string   // mirrors that have sent something
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
	r := sumRecord{zip: hashes(zip), goMod: hashes(goMod), head: string(l.head), signed: l.signed}
	if r.zip == nil && r.goMod == nil {
		return sumRecord{}, errors.New("the record that is stored for it is that of another module")
	}
	if l.record != nil {
		l.db.store.write(l.ctx, l.lookupName(), l.record)
	}
	return r, nil
}

func (l *lookup) lookupName() string {
	version, _ := module.EscapeVersion(l.module.Version)
	return "lookup/" + escapePath(l.module.Path) + "@" + version
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
	var file sumFile
	tile, err := tlog.ParseTilePath(name)
	if err == nil {
		file, err = l.db.readTile(l.ctx, tile, l.only)
	} else {
		file, err = l.db.read(l.ctx, prefer(l.db.lookupPlaces(l.module.Path), l.only), name, maxLookup, l.checkLookup)
	}
	if err != nil {
		l.fail(err)
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if from := file.base.String(); !slices.Contains(l.used, from) {
		l.used = append(l.used, from)
	}
	return file.data, nil
}

// checkLookup refuses a reply that the database has not signed, or that is about another module, so that another mirror is
// asked. What it says is proven later.
func (l *lookup) checkLookup(data []byte, from *sumBase) error {
	_, text, note, err := tlog.ParseRecord(data)
	if err != nil {
		return failf(ErrCorrupt, "sent what is no record of %s: %v", l.db.name, err)
	}
	head, err := l.db.openHead(note, from)
	if err != nil {
		return failf(ErrCorrupt, "sent a record that is not signed by %s: %v", l.db.name, err)
	}
	l.mu.Lock()
	l.heads = append(l.heads, head)
	l.mu.Unlock()
	l.db.saw(l.ctx, head)
	for line := range bytes.Lines(text) {
		path, version, _ := strings.Cut(string(line), " ")
		version, _, _ = strings.Cut(version, " ")
		if path == l.module.Path && strings.TrimSuffix(version, "/go.mod") == l.module.Version {
			return nil
		}
	}
	return failf(ErrSecurity, "sent a record without a line for %s", l.module)
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
	name := strings.TrimPrefix(file, l.db.name+"/")
	data, err := l.db.store.read(l.ctx, name)
	if err == nil && name == l.lookupName() {
		l.mu.Lock()
		l.signed = data
		l.mu.Unlock()
	}
	return data, err
}

// WriteCache stores a tile, which is authentic by now. A record waits until it is known to be the right one.
func (l *lookup) WriteCache(file string, data []byte) {
	name := strings.TrimPrefix(file, l.db.name+"/")
	if strings.HasPrefix(name, "lookup/") {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.record = bytes.Clone(data)
		l.signed = l.record
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
