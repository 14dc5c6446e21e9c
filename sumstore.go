package modfetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/modfetch/modfetch/internal/filelock"
	"github.com/modfetch/modfetch/internal/flight"
	"golang.org/x/mod/sumdb"
	"golang.org/x/mod/sumdb/note"
)

// A sumStore keeps a checksum database's proven tiles and records, and the newest tree head seen.
//
// The go command's own head moves forward only together with the tiles that prove it, in the module cache that the go
// command uses: elsewhere the head is kept in memory, and the go command's is where it starts.
type sumStore struct {
	prefix   string // "sumdb/<name>/"
	verifier note.Verifier
	mod      *modCache // where the go command keeps them, or nil
	cache    Cache     // used without mod
	latest   string    // file of the go command's head; "" if GOPATH is unknown

	mu      sync.Mutex // guards the following
	advance bool       // latest may be written
	head    []byte     // in memory, unless advance
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
	if err != nil {
		// The go command's head must not move past tiles that it would not find.
		s.mu.Lock()
		s.advance = false
		s.mu.Unlock()
	}
}

// readHead returns the signed note of the newest head, or nothing for a database never seen before.
func (s *sumStore) readHead(ctx context.Context) ([]byte, error) {
	s.mu.Lock()
	inMemory, advance := s.head, s.advance
	s.mu.Unlock()
	if inMemory != nil || s.latest == "" {
		return inMemory, nil
	}
	head, err := filelock.Read(ctx, s.latest, maxHead)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	head = bytes.Trim(head, "\x00") // what an older process that died has left
	if len(head) > 0 {
		if _, err := note.Open(head, note.VerifierList(s.verifier)); err != nil {
			return nil, failf(ErrSecurity, "the tree head in %s is not signed by the key of %s: %v; "+
				"if you know why (a damaged file, another database of that name), move the file away", s.latest, s.verifier.Name(), err)
		}
	}
	if advance {
		return head, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.head == nil {
		s.head = head
	}
	return s.head, nil
}

// swapHead replaces the newest head if it is still old, else it returns sumdb.ErrWriteConflict.
func (s *sumStore) swapHead(ctx context.Context, old, new []byte) error {
	s.mu.Lock()
	if !s.advance {
		defer s.mu.Unlock()
		if !bytes.Equal(s.head, old) {
			return sumdb.ErrWriteConflict
		}
		s.head = new
		return nil
	}
	s.mu.Unlock()
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

const maxHead = 1 << 20 // bytes of a signed tree head

// A sumBase is a place where a checksum database can be read, as a mirror of its files.
type sumBase struct {
	Mirror
	prefix string      // "sumdb/<name>/", with which all requests begin
	below  bool        // the database lies under prefix, if the mirror supports it; else at the root
	good   atomic.Bool // it has sent something valid

	probes flight.Group[string, error]
	answer atomic.Pointer[error] // to the probe: nil inside for yes; remembered only if it was an answer
}

// Fetch asks once whether the database is supported. Only an answer is remembered, not a failure to get one.
func (b *sumBase) Fetch(ctx context.Context, r Request) (*Response, error) {
	if b.below {
		refusal, err := b.refusal(ctx, r.Retry)
		if err == nil {
			err = refusal
		}
		if err != nil {
			return nil, err
		}
	} else {
		r.Path = strings.TrimPrefix(r.Path, b.prefix)
	}
	return b.Mirror.Fetch(ctx, r)
}

// refusal returns what the mirror said if it does not serve the database.
func (b *sumBase) refusal(ctx context.Context, retry bool) (refusal, err error) {
	if known := b.answer.Load(); known != nil {
		return *known, nil
	}
	return b.probes.Do(ctx, "supported", func(ctx context.Context) (error, error) {
		var refusal error
		resp, err := b.Mirror.Fetch(ctx, Request{Path: b.prefix + "supported", Retry: retry})
		switch {
		case err == nil:
			resp.Body.Close()
		case absent(err):
			refusal = fmt.Errorf("does not serve this checksum database: %w", err)
		default:
			return nil, err
		}
		b.answer.Store(&refusal)
		return refusal, nil
	})
}
