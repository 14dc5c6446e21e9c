package modfetchtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/modfetch/modfetch"
	"golang.org/x/mod/sumdb/dirhash"
)

// Record returns mirrors that answer as the given ones do and keep the answers in dir, which is made if it is not there.
// Afterwards [Replay] returns as many, which give them without a network.
//
// The mirrors of the user's go command are in [modfetch.Fetcher.Route]'s Tiers, of a Fetcher that was made with
// [modfetch.WithGoEnv]. What a Fetcher has in a cache it does not ask for, so it should record without one.
//
// An answer is kept once all of it has been received, in the file that its path in the GOPROXY protocol names: dir/1 is a
// GOPROXY tree of the first mirror, for file:// too, and dir/2 of the second, so nothing that one says touches what another
// has said. Of a mirror's answers for one path the last counts, but a .mod or .zip file that a kept record of the checksum
// database condemns is not kept. What a mirror says does not exist is an empty file below dir/1/absent. Failures and refusals
// are not kept. Nothing is removed, so a recording can be added to later, by several goroutines and processes at once.
//
// No mirror is named in it, and in .info files URLs are without user names, passwords and queries; private modules are as
// readable as others. Files named .gitattributes have git leave every byte alone.
//
// Of a checksum database a mirror shows one signed head, and all its lookups are kept under it with the tiles that prove them,
// in whatever order they are replayed, and that prove the other mirrors' heads. The head moves on only when a record needs
// it: so who records the same again gets the same files, though the database has grown. Signatures are not verified: that is
// for the client, then and later. A database that no mirror carries is not recorded.
func Record(dir string, mirrors ...modfetch.Mirror) ([]modfetch.Mirror, error) {
	if len(mirrors) == 0 {
		return nil, errors.New("modfetchtest: no mirrors to record")
	}
	s := &session{lock: nth(dir, 0).file(gitFile)}
	var recorders []modfetch.Mirror
	for i, m := range mirrors {
		r := nth(dir, i)
		if err := r.begin(); err != nil {
			return nil, fmt.Errorf("modfetchtest: %w", err)
		}
		s.recorders = append(s.recorders, &recorder{m, r, s})
		recorders = append(recorders, s.recorders[i])
	}
	return recorders, nil
}

// nth returns the recording of one of several mirrors, the first of which has number 0.
func nth(dir string, i int) recording { return recording(filepath.Join(dir, strconv.Itoa(i+1))) }

// Replay returns mirrors that give what those of [Record] have ever kept in dir, in the same order, and open no socket. What is
// not there is refused with an error that says so. It is never [fs.ErrNotExist], which is only what was recorded as absent.
//
// A Fetcher asks elsewhere for what no mirror gives it: the checksum database's own host, and for private paths the servers of
// their repositories. With [modfetch.Policy] Offline it does not.
func Replay(dir string) ([]modfetch.Mirror, error) {
	var mirrors []modfetch.Mirror
	for {
		r := nth(dir, len(mirrors))
		switch _, err := os.Stat(string(r)); {
		case err == nil:
			mirrors = append(mirrors, modfetch.FSMirror(r))
		case !errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("modfetchtest: %w", err)
		case mirrors == nil:
			return nil, fmt.Errorf("modfetchtest: there is no recording in %s: make one with modfetchtest.Record", dir)
		default:
			return mirrors, nil
		}
	}
}

// A recording is the directory of one mirror, and the file system that Replay serves.
type recording string

// A session is what the recorders of one directory share.
type session struct {
	recorders []*recorder
	lock      string // a file; who has locked it may change lookups, in this process or another
}

const (
	absentDir = "absent/"        // has an empty file for each path that does not exist; no module path begins so
	gitFile   = ".gitattributes" // also has git keep the directory of a mirror that was asked nothing
	tempFiles = ".recording-*"
	tempAge   = 10 * time.Minute // after which a temporary file that nobody writes to was left by a process that was killed
	maxText   = 16 << 20         // bytes, as a Fetcher has it
)

func (r recording) String() string { return "recording " + string(r) }

func (r recording) file(path string) string {
	return filepath.Join(string(r), filepath.FromSlash(path))
}

// Stat tells what was recorded as absent from what was not recorded.
func (r recording) Stat(path string) (fs.FileInfo, error) {
	info, err := os.Stat(r.file(path))
	if !errors.Is(err, fs.ErrNotExist) {
		return info, err
	}
	if _, e := os.Stat(r.file(absentDir + path)); e == nil {
		return nil, fmt.Errorf("recorded as absent: %w", err)
	}
	return nil, &unrecordedError{path, string(r)}
}

// Open opens what [modfetch.FSMirror] has found by Stat.
func (r recording) Open(path string) (fs.File, error) { return os.DirFS(string(r)).Open(path) }

// An unrecordedError is not an absence: nobody was asked.
type unrecordedError struct{ path, dir string }

func (e *unrecordedError) Error() string {
	return fmt.Sprintf("%s is not in the recording %s: do the same once, without a cache, with the mirrors of modfetchtest.Record(%q, ...) in place of modfetchtest.Replay's; what they refuse is not recorded",
		e.path, e.dir, filepath.Dir(e.dir))
}

func (e *unrecordedError) Is(target error) bool { return target == modfetch.ErrForbidden }

// begin makes the directory, and removes what a process that was killed has left there.
func (r recording) begin() error {
	if err := os.MkdirAll(string(r), 0o777); err != nil {
		return err
	}
	files, err := os.ReadDir(string(r))
	if err != nil {
		return err
	}
	for _, f := range files {
		temp, _ := filepath.Match(tempFiles, f.Name())
		if info, err := f.Info(); temp && err == nil && time.Since(info.ModTime()) > tempAge {
			os.Remove(r.file(f.Name()))
		}
	}
	if _, err := os.Stat(r.file(gitFile)); err == nil {
		return nil
	}
	return os.WriteFile(r.file(gitFile), []byte("* -text -filter\n"), 0o666)
}

// A recorder is one of the mirrors that are recorded.
type recorder struct {
	modfetch.Mirror
	rec recording
	*session
}

// Fetch always asks for the whole file: a part could not be kept.
func (m *recorder) Fetch(ctx context.Context, req modfetch.Request) (*modfetch.Response, error) {
	if _, err := filepath.Localize(req.Path); err != nil || len(strings.Fields(req.Path)) != 1 ||
		!strings.Contains(req.Path, "/@") && !strings.HasPrefix(req.Path, "sumdb/") {
		return nil, fmt.Errorf("%q is no path of the GOPROXY protocol, so its answer is not recorded: %w", req.Path, modfetch.ErrForbidden)
	}
	database, file := sumdbPath(req.Path)
	req.Offset, req.Length, req.ETag = 0, 0, ""
	resp, err := m.Mirror.Fetch(ctx, req)
	switch {
	case file == "tile", err == nil && (resp.Offset != 0 || isPage(resp.ContentType)):
		return resp, err // tiles that are needed come with the lookups; the rest is refused by every client
	case errors.Is(err, fs.ErrNotExist):
		if failed := m.rec.deny(req.Path); failed != nil {
			return nil, failed
		}
		return nil, err
	case err != nil:
		return nil, err
	case file == "" && strings.HasSuffix(req.Path, ".zip"):
		return m.rec.tee(req.Path, resp)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxText+1))
	switch {
	case err != nil:
		return nil, err
	case len(data) > maxText:
		return nil, fmt.Errorf("%s has more than the %d bytes that are recorded: %w", req.Path, maxText, modfetch.ErrCorrupt)
	case resp.Size >= 0 && resp.Size != int64(len(data)):
		return nil, io.ErrUnexpectedEOF
	case file == "lookup":
		err = m.keepLookup(ctx, database, req.Path, data)
	case file == "latest":
		err = m.keepLatest(ctx, database, data)
	case strings.HasSuffix(req.Path, ".info"), strings.HasSuffix(req.Path, "/@latest"):
		if clean, ok := withoutSecrets(data); ok { // else every client will refuse it
			err = m.rec.keep(req.Path, clean)
		}
	default:
		err = m.rec.keep(req.Path, data)
	}
	if err != nil {
		return nil, err
	}
	return &modfetch.Response{Body: io.NopCloser(bytes.NewReader(data)), Size: int64(len(data)), ContentType: resp.ContentType}, nil
}

// isPage reports whether an answer is one of a portal or an error page, which would take the place of a good list.
func isPage(contentType string) bool {
	kind, _, _ := mime.ParseMediaType(contentType)
	return kind == "text/html" || kind == "application/xhtml+xml"
}

// keep keeps an answer that is in memory.
func (r recording) keep(path string, data []byte) error {
	if kept, err := os.ReadFile(r.file(path)); err == nil && bytes.Equal(kept, data) {
		return nil
	}
	temp, err := r.temp(path)
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name()) // is gone if it was kept
	_, err = temp.Write(data)
	if err := errors.Join(err, temp.Close()); err != nil {
		return r.failed(path, err)
	}
	return r.publish(path, temp.Name())
}

// withoutSecrets returns an .info file without what may be secret in its URLs. It reports false if it is no JSON.
func withoutSecrets(info []byte) ([]byte, bool) {
	d := json.NewDecoder(bytes.NewReader(info))
	d.UseNumber()
	var value any
	if !json.Valid(info) || d.Decode(&value) != nil {
		return nil, false
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(cleaned(value))
	return b.Bytes(), err == nil
}

func cleaned(value any) any {
	switch v := value.(type) {
	case map[string]any:
		for key := range v {
			v[key] = cleaned(v[key])
		}
	case []any:
		for i := range v {
			v[i] = cleaned(v[i])
		}
	case string:
		return cleanedURL(v)
	}
	return value
}

// cleanedURL rather cuts off too much than too little: what does not parse as a URL may hold a password too.
func cleanedURL(s string) string {
	if !strings.Contains(s, ":") && !strings.HasPrefix(s, "//") {
		return s // such as a branch's name, in which an @ means nothing
	}
	if i := strings.LastIndex(s, "@"); i >= 0 {
		scheme, _, ok := strings.Cut(s, "//")
		s = s[i+1:]
		if ok && strings.Index(scheme, ":") == len(scheme)-1 {
			s = scheme + "//" + s
		}
	}
	if i := strings.IndexAny(s, "?#"); i >= 0 {
		s = s[:i]
	}
	return s
}

func (r recording) temp(path string) (*os.File, error) {
	f, err := os.CreateTemp(string(r), tempFiles)
	if err != nil {
		return nil, r.failed(path, err)
	}
	return f, nil
}

// publish gives a file that was received its final name, unless it is known to be bad.
func (r recording) publish(path, temp string) error {
	name := r.file(path)
	if r.condemned(path, temp) {
		return nil
	}
	err := os.MkdirAll(filepath.Dir(name), 0o777)
	if err == nil {
		err = os.Chmod(temp, 0o644)
	}
	if err == nil {
		err = os.Rename(temp, name)
	}
	if err != nil {
		return r.failed(path, err)
	}
	os.Remove(r.file(absentDir + path)) // counts no more
	return nil
}

// condemned reports whether a record that is kept names another hash for a file. Nobody has verified the record, but no
// bytes that contradict it can be replayed.
func (r recording) condemned(path, file string) bool {
	sum := r.sum(path)
	if sum == "" {
		return false
	}
	if strings.HasSuffix(path, ".zip") {
		got, err := dirhash.HashZip(file, dirhash.Hash1)
		return err != nil || got != sum
	}
	data, err := os.ReadFile(file)
	return err != nil || hashGoMod(data) != sum
}

// failed keeps a failure of the disk from looking like an absence.
func (r recording) failed(path string, err error) error {
	return fmt.Errorf("recording %s in %s: %v", path, string(r), err)
}

// deny notes that a path does not exist, unless it once did.
func (r recording) deny(path string) error {
	if _, err := os.Stat(r.file(path)); err == nil {
		return nil
	}
	return r.keep(absentDir+path, nil)
}

// tee keeps a zip while it is read. Its size is not told: who knew it would ask for the second half by itself.
func (r recording) tee(path string, resp *modfetch.Response) (*modfetch.Response, error) {
	temp, err := r.temp(path)
	if err != nil {
		resp.Body.Close()
		return nil, err
	}
	body := &teeBody{ReadCloser: resp.Body, r: r, path: path, temp: temp, size: resp.Size}
	return &modfetch.Response{Body: body, Size: -1, ContentType: resp.ContentType}, nil
}

// A teeBody is a zip on its way.
type teeBody struct {
	io.ReadCloser
	r       recording
	path    string
	temp    *os.File
	n, size int64 // bytes there, and in all; the latter -1 if unknown
	ended   bool  // temp is closed, and has its final name or is gone
}

func (b *teeBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.ended {
		return n, err
	}
	if _, err := b.temp.Write(p[:n]); err != nil {
		return 0, b.r.failed(b.path, err)
	}
	b.n += int64(n)
	if err != io.EOF {
		return n, err
	}
	if b.size >= 0 && b.n != b.size {
		return n, io.ErrUnexpectedEOF
	}
	b.ended = true
	defer os.Remove(b.temp.Name()) // is gone if it was kept
	if err := b.temp.Close(); err != nil {
		return n, b.r.failed(b.path, err)
	}
	if err := b.r.publish(b.path, b.temp.Name()); err != nil {
		return n, err
	}
	return n, io.EOF
}

func (b *teeBody) Close() error {
	if !b.ended {
		b.ended = true
		b.temp.Close()
		os.Remove(b.temp.Name())
	}
	return b.ReadCloser.Close()
}
