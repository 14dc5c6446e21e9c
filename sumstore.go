package modfetch

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/modfetch/modfetch/internal/filelock"
	"golang.org/x/mod/sumdb"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// A sumStore keeps a checksum database's proven tiles and records, and the newest tree head seen.
//
// The go command's own head moves forward only together with the tiles that prove it, in the module cache that the go
// command uses. Elsewhere it is read, never written, and another head is kept beside the tiles.
type sumStore struct {
	prefix   string // "sumdb/<name>/"
	verifier note.Verifier
	mod      *modCache // where the go command keeps them, or nil
	cache    Cache     // of the head unless advance, and of the rest without mod
	latest   string    // file of the go command's head; "" if GOPATH is unknown

	mu      sync.Mutex // guards the following
	advance bool       // latest may be written
	head    []byte     // unless advance
	other   []byte     // another head that somebody else keeps, until it has been placed on the line of this one
	stored  []byte     // what the Cache holds of head, as far as is known
	linked  []byte     // the head up to which every step was made, and proven, here
	reports int        // that were put into the Cache

	evidence sync.Mutex // held while the files of evidence are counted and one is added
}

var errNotStored = errors.New("not stored")

// read returns a tile or record.
func (s *sumStore) read(ctx context.Context, name string) ([]byte, error) {
	if s.mod != nil {
		data, err := filelock.Read(ctx, s.mod.file(s.prefix+name), maxLookup)
		if err == nil && len(data) == 0 {
			err = errNotStored // the go command's sign of a write that was broken off
		}
		return data, err
	}
	r, err := s.cache.Open(ctx, s.prefix+name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(io.LimitReader(r, maxLookup))
}

// write stores a tile or record. What cannot be stored will be fetched again.
func (s *sumStore) write(ctx context.Context, name string, data []byte) {
	if s.mod == nil {
		s.cache.Put(ctx, s.prefix+name, bytes.NewReader(data))
		return
	}
	file := s.mod.file(s.prefix + name)
	err := os.MkdirAll(filepath.Dir(file), 0o777)
	if err == nil {
		err = filelock.Write(ctx, file, data)
	}
	if err != nil && ctx.Err() == nil {
		// The go command's head must not move past tiles that it would not find. Who was cancelled moves no head.
		s.mu.Lock()
		s.advance = false
		s.mu.Unlock()
	}
}

// readHead returns the signed note of the newest head, or nothing for a database never seen before.
func (s *sumStore) readHead(ctx context.Context) ([]byte, error) {
	s.mu.Lock()
	head, advance := s.head, s.advance
	s.mu.Unlock()
	if advance {
		return s.readLatest(ctx)
	}
	if head != nil {
		return head, nil
	}
	theirs, err := s.readLatest(ctx)
	if err != nil {
		return nil, err
	}
	ours, err := s.readOwn(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.head == nil {
		s.head, s.stored = ours, ours
		if ours == nil {
			s.head = theirs
		} else if !bytes.Equal(ours, theirs) && len(theirs) > 0 {
			s.other = theirs
		}
	}
	return s.head, nil
}

// readLatest returns the go command's head.
func (s *sumStore) readLatest(ctx context.Context) ([]byte, error) {
	if s.latest == "" {
		return nil, nil
	}
	head, err := filelock.Read(ctx, s.latest, maxHead)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	head = bytes.Trim(head, "\x00") // what an older process that died has left
	return head, s.checkHead(head, s.latest)
}

// readOwn returns the head that is kept in the Cache.
func (s *sumStore) readOwn(ctx context.Context) ([]byte, error) {
	r, err := s.cache.Open(ctx, s.ownName())
	if err != nil {
		return nil, nil // a cache that cannot be read costs memory of the past, and nothing else
	}
	defer r.Close()
	head, err := io.ReadAll(io.LimitReader(r, maxHead))
	if head = bytes.Trim(head, "\x00"); err != nil || len(head) == 0 { // as a crash may leave a file
		return nil, nil
	}
	return head, s.checkHead(head, s.place(s.ownName()))
}

func (s *sumStore) ownName() string { return "modfetch/" + s.prefix + "latest" }

// place tells people where the Cache keeps a file.
func (s *sumStore) place(name string) string {
	if dir, ok := s.cache.(DirCache); ok {
		return filepath.Join(string(dir), filepath.FromSlash(name))
	}
	return name + " in the cache"
}

// checkHead refuses a head that is kept, but not signed by the database's key.
func (s *sumStore) checkHead(head []byte, file string) error {
	if len(head) == 0 {
		return nil
	}
	if _, err := note.Open(head, note.VerifierList(s.verifier)); err != nil {
		return failf(ErrSecurity, "the tree head in %s is not signed by the key of %s: %v; "+
			"if you know why (a damaged file, another database of that name), move the file away", file, s.verifier.Name(), err)
	}
	return nil
}

// takeOther returns, once, a head that somebody else keeps: the go command, or another process with this Cache.
func (s *sumStore) takeOther() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	other := s.other
	s.other = nil
	return other
}

// swapHead replaces the newest head if it is still old, else it returns sumdb.ErrWriteConflict.
func (s *sumStore) swapHead(ctx context.Context, old, new []byte) error {
	if err := ctx.Err(); err != nil {
		return err // its tiles may not have been written
	}
	s.mu.Lock()
	advance := s.advance
	if !advance && !bytes.Equal(s.head, old) {
		s.mu.Unlock()
		return sumdb.ErrWriteConflict
	}
	if !advance {
		s.head = new
	}
	s.mu.Unlock()
	if advance {
		if err := s.swapLatest(ctx, old, new); err != nil {
			return err
		}
	} else {
		s.writeOwn(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if bytes.Equal(s.linked, old) {
		s.linked = new
	}
	return nil
}

// writeOwn keeps the head in the Cache, unless a larger one is there. What somebody else has put there in the meantime is to be
// placed. Another lookup may have moved the head meanwhile: whoever puts last must put the newest.
func (s *sumStore) writeOwn(ctx context.Context) {
	for {
		there, _ := s.readOwn(ctx)
		s.mu.Lock()
		head := s.head
		if there != nil && !bytes.Equal(there, s.stored) {
			s.other = there
		}
		if s.size(there) > s.size(head) { // another process has seen more
			s.stored = there
			s.mu.Unlock()
			return
		}
		s.stored = head
		s.mu.Unlock()
		err := s.cache.Put(ctx, s.ownName(), bytes.NewReader(head))
		s.mu.Lock()
		latest := bytes.Equal(head, s.head)
		s.mu.Unlock()
		if err != nil || latest {
			return
		}
	}
}

// size returns how many records there are under a head that is kept.
func (s *sumStore) size(head []byte) int64 {
	n, err := note.Open(head, note.VerifierList(s.verifier))
	if err != nil {
		return 0
	}
	tree, _ := tlog.ParseTree([]byte(n.Text))
	return tree.N
}

// swapLatest replaces the go command's head.
func (s *sumStore) swapLatest(ctx context.Context, old, new []byte) error {
	if err := os.MkdirAll(filepath.Dir(s.latest), 0o777); err != nil {
		return &failure{ErrTransient, "keeping the tree head", err}
	}
	f, err := filelock.Open(ctx, s.latest, nil)
	if err != nil {
		return fmt.Errorf("keeping the tree head: %w", err)
	}
	defer f.Close()
	now, err := io.ReadAll(io.LimitReader(f, maxHead))
	if err != nil {
		return err
	}
	if now = bytes.Trim(now, "\x00"); len(now) > 0 && !bytes.Equal(now, old) {
		return sumdb.ErrWriteConflict
	}
	return filelock.Overwrite(f, new)
}

// isLinked reports whether all that was proven here is proven under head too, because every step to it was made here.
func (s *sumStore) isLinked(head []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Equal(s.linked, head)
}

func (s *sumStore) link(head []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.linked = head
}

// keepEvidence keeps a report for people, and says where. The error says why it is not kept. A mirror can cause any number of
// reports: what was kept first stays.
func (s *sumStore) keepEvidence(ctx context.Context, report string) (where string, err error) {
	sum := sha256.Sum256([]byte(report))
	name := fmt.Sprintf("evidence-%x.txt", sum[:8])
	if s.latest != "" {
		file := filepath.Join(filepath.Dir(s.latest), name)
		return "in " + file, s.writeEvidence(file, report)
	}
	name = "modfetch/" + s.prefix + name
	return "in " + s.place(name), s.cacheEvidence(ctx, name, report)
}

func (s *sumStore) writeEvidence(file, report string) error {
	s.evidence.Lock()
	defer s.evidence.Unlock()
	dir := filepath.Dir(file)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	kept := 0
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "evidence-") && e.Name() != filepath.Base(file) {
			kept++
		}
	}
	if kept >= maxEvidence {
		return fmt.Errorf("%s holds %d files of evidence already", dir, kept)
	}
	return os.WriteFile(file, []byte(report), 0o666)
}

// cacheEvidence counts what this process has put there: a Cache cannot be listed.
func (s *sumStore) cacheEvidence(ctx context.Context, name, report string) error {
	if r, err := s.cache.Open(ctx, name); err == nil {
		return r.Close()
	}
	s.mu.Lock()
	s.reports++
	full := s.reports > maxEvidence
	s.mu.Unlock()
	if full {
		return fmt.Errorf("the cache was given %d files of evidence already", maxEvidence)
	}
	return s.cache.Put(ctx, name, strings.NewReader(report))
}

const (
	maxHead     = 1 << 20 // bytes of a signed tree head
	maxEvidence = 64      // files
)
