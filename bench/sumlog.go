package main

import (
	"context"
	"crypto/rand"
	"hash/fnv"
	"io/fs"
	"net/http"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// A sumLog is a checksum database as large as the public one, so that proofs take as many tiles as there. Its real records
// are strewn all over it; what lies between is one and the same record, so that few hashes have to be kept.
type sumLog struct {
	key     string // a GOSUMDB
	head    []byte // signed
	ids     map[module.Version]int64
	records map[int64][]byte
	real    []map[int64]tlog.Hash // by level: of the subtrees with a real record in them
	filler  []tlog.Hash           // by level: of all others
}

const (
	logSize = 41_234_567 // records
	logName = "sumdb.bench.test"
)

var fillerRecord = []byte("filler.bench.test v1.0.0 h1:0\nfiller.bench.test v1.0.0/go.mod h1:0\n")

func newSumLog(records map[module.Version]string) (*sumLog, error) {
	private, key, err := note.GenerateKey(rand.Reader, logName)
	if err != nil {
		return nil, err
	}
	signer, err := note.NewSigner(private)
	if err != nil {
		return nil, err
	}
	l := &sumLog{key: key, ids: make(map[module.Version]int64), records: make(map[int64][]byte)}
	level := make(map[int64]tlog.Hash)
	for m, text := range records {
		h := fnv.New64a()
		h.Write([]byte(m.String()))
		id := int64(h.Sum64() % logSize)
		for l.records[id] != nil {
			id = (id + 1) % logSize
		}
		l.ids[m], l.records[id] = id, []byte(text)
		level[id] = tlog.RecordHash([]byte(text))
	}
	l.real, l.filler = append(l.real, level), append(l.filler, tlog.RecordHash(fillerRecord))
	for below := 0; logSize>>below > 1; below++ {
		level := make(map[int64]tlog.Hash)
		for n := range l.real[below] {
			level[n/2] = tlog.NodeHash(l.hash(below, n&^1), l.hash(below, n|1))
		}
		l.real, l.filler = append(l.real, level), append(l.filler, tlog.NodeHash(l.filler[below], l.filler[below]))
	}
	root, err := tlog.TreeHash(logSize, tlog.HashReaderFunc(l.readHashes))
	if err != nil {
		return nil, err
	}
	l.head, err = note.Sign(&note.Note{Text: string(tlog.FormatTree(tlog.Tree{N: logSize, Hash: root}))}, signer)
	return l, err
}

func (l *sumLog) hash(level int, n int64) tlog.Hash {
	if h, ok := l.real[level][n]; ok {
		return h
	}
	return l.filler[level]
}

func (l *sumLog) readHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		hashes[i] = l.hash(tlog.SplitStoredHashIndex(index))
	}
	return hashes, nil
}

// handler answers below a mirror's /sumdb/.
func (l *sumLog) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/sumdb/"+logName+"/supported", func(http.ResponseWriter, *http.Request) {})
	mux.Handle("/sumdb/"+logName+"/", http.StripPrefix("/sumdb/"+logName, sumdb.NewServer(l)))
	return mux
}

// Signed implements sumdb.ServerOps, as the following methods do.
func (l *sumLog) Signed(context.Context) ([]byte, error) { return l.head, nil }

func (l *sumLog) ReadRecords(_ context.Context, id, n int64) ([][]byte, error) {
	if id < 0 || n < 0 || id > logSize-n {
		return nil, fs.ErrNotExist
	}
	records := make([][]byte, n)
	for i := range records {
		if records[i] = l.records[id+int64(i)]; records[i] == nil {
			records[i] = fillerRecord
		}
	}
	return records, nil
}

func (l *sumLog) Lookup(_ context.Context, m module.Version) (int64, error) {
	id, ok := l.ids[m]
	if !ok {
		return 0, fs.ErrNotExist
	}
	return id, nil
}

func (l *sumLog) ReadTileData(_ context.Context, t tlog.Tile) ([]byte, error) {
	if hashes := int64(logSize) >> (t.H * t.L); t.N > (hashes-int64(t.W))>>t.H {
		return nil, fs.ErrNotExist
	}
	return tlog.ReadTileData(t, tlog.HashReaderFunc(l.readHashes))
}
