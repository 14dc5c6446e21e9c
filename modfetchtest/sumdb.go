package modfetchtest

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// GOSUMDB returns the key of the checksum database, as the setting GOSUMDB has it. The name in it belongs to this key, so
// the state that clients keep of two servers never mixes, and cannot be resolved: clients find the database through a
// mirror's /sumdb/ path, or not at all. Where mirrors fail they do ask for that name, unless they are offline.
func (s *Server) GOSUMDB() string { return s.db.key }

// GOSUMDBDirect is [Server.GOSUMDB] with the address of the database, which clients then use without asking the mirrors.
func (s *Server) GOSUMDBDirect() string { return s.db.key + " " + s.URL + "/sumdb/" + s.db.name }

// AddRecords appends n records of modules that do not exist to the checksum database. With 256 hashes to a tile, 70,000
// make full tiles at two levels and partial ones at three.
func (s *Server) AddRecords(n int) {
	s.db.mu.Lock()
	defer s.db.mu.Unlock()
	s.db.records, s.db.hashes = slices.Grow(s.db.records, max(n, 0)), slices.Grow(s.db.hashes, 2*max(n, 0))
	for range n {
		s.db.fill(fmt.Sprintf("filler.modfetch.test/r%d", len(s.db.records)))
	}
}

// LieAbout makes the checksum database answer with sum, such as "h1:...", for a module's zip, or for its go.mod file if the
// version ends in "/go.mod". The answer is a new record in the signed log, which stays consistent: only the truth suffers.
func (s *Server) LieAbout(path, version, sum string) {
	s.db.lie(path, version, sum)
}

// Lag starts a second server of the same modules, as [Server.Mirror] does, that goes on showing the checksum database as it
// is now: an honest, but older tree, without the records that are added from here on, here or there. A client that has seen
// a newer tree can hold the two together only with the newer one's tiles, which it must get elsewhere. Closing s closes the
// new server too. Lag panics if there is no port to listen on.
func (s *Server) Lag() *Server { return s.spawn(s.mirror, s.db, s.shown.clone()) }

// Fork starts a server of the same modules whose checksum database has the same key, but tells another story from here on:
// each of the two gets a record of its own, so what is signed by the one from now on contradicts what is signed by the
// other. A client that has seen neither since may follow either: a test calls Fork, has the client fetch from s, and only
// then shows it the fork. Closing s closes the fork too. Fork panics if there is no port to listen on.
func (s *Server) Fork() *Server {
	f := s.db.fork()
	return s.spawn(s.mirror.clone(), f, f)
}

// A database is a checksum database, whose HTTP side is [sumdb.Server].
type database struct {
	name, key string
	signer    signer

	mu      sync.RWMutex // guards the fields below; what they hold is only ever appended to
	records [][]byte
	hashes  []tlog.Hash
	ids     map[module.Version]int64 // the record that a lookup finds
}

type signer struct {
	note.Verifier
	private ed25519.PrivateKey
}

func (s signer) Sign(msg []byte) ([]byte, error) { return ed25519.Sign(s.private, msg), nil }

func newDatabase() (*database, error) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	hash := sha256.Sum256(public)
	name := fmt.Sprintf("sumdb-%x.modfetch.test", hash[:4])
	key, err := note.NewEd25519VerifierKey(name, public)
	if err != nil {
		return nil, err
	}
	verifier, err := note.NewVerifier(key)
	if err != nil {
		return nil, err
	}
	return &database{
		name:   name,
		key:    key,
		signer: signer{verifier, private},
		ids:    make(map[module.Version]int64),
	}, nil
}

// add appends the record of a module, unless it has one.
func (db *database) add(m module.Version, sum, modSum string) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if _, ok := db.ids[m]; !ok {
		db.append(m, sum, modSum)
	}
}

func (db *database) lie(path, version, sum string) {
	version, isMod := strings.CutSuffix(version, "/go.mod")
	m := module.Version{Path: path, Version: version}
	db.mu.Lock()
	defer db.mu.Unlock()
	zip, mod := sum, sum
	if id, ok := db.ids[m]; ok {
		f := strings.Fields(string(db.records[id]))
		zip, mod = f[2], f[5]
	}
	if isMod {
		mod = sum
	} else {
		zip = sum
	}
	db.append(m, zip, mod)
}

func (db *database) clone() *database {
	db.mu.RLock()
	defer db.mu.RUnlock()
	return &database{
		name:    db.name,
		key:     db.key,
		signer:  db.signer,
		records: slices.Clip(db.records),
		hashes:  slices.Clip(db.hashes),
		ids:     maps.Clone(db.ids),
	}
}

func (db *database) fork() *database {
	f := db.clone()
	n := len(f.records)
	f.fill(fmt.Sprintf("fork.modfetch.test/there%d", n))
	db.mu.Lock()
	defer db.mu.Unlock()
	db.fill(fmt.Sprintf("fork.modfetch.test/here%d", n))
	return f
}

// fill appends a record of a module that does not exist. The caller holds db.mu, or owns db.
func (db *database) fill(path string) {
	hash := sha256.Sum256([]byte(path))
	sum := "h1:" + base64.StdEncoding.EncodeToString(hash[:])
	db.append(module.Version{Path: path, Version: "v1.0.0"}, sum, sum)
}

// append appends a record and makes lookups find it. The caller holds db.mu, or owns db.
func (db *database) append(m module.Version, sum, modSum string) {
	id := int64(len(db.records))
	text := record(m, sum, modSum)
	hashes, err := tlog.StoredHashes(id, text, tlog.HashReaderFunc(db.readHashes))
	if err != nil {
		panic(err) // readHashes has all hashes there are
	}
	db.records = append(db.records, text)
	db.hashes = append(db.hashes, hashes...)
	db.ids[m] = id
}

// record returns the text of a record, which is two lines of go.sum.
func record(m module.Version, sum, modSum string) []byte {
	return fmt.Appendf(nil, "%s %s %s\n%s %s/go.mod %s\n", m.Path, m.Version, sum, m.Path, m.Version, modSum)
}

func (db *database) readHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		hashes[i] = db.hashes[index]
	}
	return hashes, nil
}

// Signed returns the tree's signed head.
func (db *database) Signed(context.Context) ([]byte, error) {
	db.mu.RLock()
	defer db.mu.RUnlock()
	size := int64(len(db.records))
	hash, err := tlog.TreeHash(size, tlog.HashReaderFunc(db.readHashes))
	if err != nil {
		return nil, err
	}
	head := tlog.FormatTree(tlog.Tree{N: size, Hash: hash})
	return note.Sign(&note.Note{Text: string(head)}, db.signer)
}

// ReadRecords returns n records, the first of them id.
func (db *database) ReadRecords(_ context.Context, id, n int64) ([][]byte, error) {
	db.mu.RLock()
	defer db.mu.RUnlock()
	size := int64(len(db.records))
	if id < 0 || id > size-n {
		return nil, fs.ErrNotExist
	}
	return db.records[id : id+n : id+n], nil
}

// Lookup returns the number of a module's record.
func (db *database) Lookup(_ context.Context, m module.Version) (int64, error) {
	db.mu.RLock()
	defer db.mu.RUnlock()
	id, ok := db.ids[m]
	if !ok {
		// sumdb.Server asks os.IsNotExist, which does not unwrap what fmt.Errorf wraps.
		return 0, &fs.PathError{Op: "lookup", Path: m.String(), Err: fs.ErrNotExist}
	}
	return id, nil
}

// ReadTileData returns the hashes of a tile.
func (db *database) ReadTileData(_ context.Context, t tlog.Tile) ([]byte, error) {
	db.mu.RLock()
	defer db.mu.RUnlock()
	hashes := int64(len(db.records)) >> (t.H * t.L) // at the level of the tile
	if t.N > (hashes-int64(t.W))>>t.H {             // without shifting t.N, which may overflow
		return nil, fs.ErrNotExist
	}
	return tlog.ReadTileData(t, tlog.HashReaderFunc(db.readHashes))
}
