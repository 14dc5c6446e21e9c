package modfetchtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing/fstest"
	"unicode/utf8"

	"github.com/modfetch/modfetch"
	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"
)

// Record returns mirrors that answer as the given ones do and keep the answers in dir, which is made if it is not there.
// Afterwards [Replay] serves them without a network:
//
//	mirrors, err := modfetchtest.Record("testdata/recording", mirror)
//	...
//	f, err := modfetch.New(modfetch.WithMirrors(mirrors...), modfetch.WithGoSum(sums))
//
// An answer is kept once all of it has been received; of several for one path the last counts. As absent is kept what each
// of the mirrors has said does not exist, unless an answer is there. Nothing else is dropped: a recording can be added to
// later. It grows with each answer, in such a way that it can be read at any time. The mirrors may be used by several
// goroutines at once, but only one process at a time, and one call of Record in it, may write to dir.
//
// What is text lies in dir/recording.txtar, sorted by path, so that changes can be read; zips and tiles are files of their
// own. All have their path in the GOPROXY protocol: unpacked beside the others, the text makes dir a GOPROXY tree, for
// file:// too. No mirror is named in it, and in .info files URLs are without user names, passwords and queries; private
// modules are as readable as others. In a repository git has to leave line ends alone (dir/** -text in .gitattributes).
//
// Of a checksum database there is one signed head, and all lookups are kept under it with the tiles that prove them, in
// whatever order they are replayed. The head moves on only when a record needs it: so who records the same again gets the same
// files, though the database has grown. Clients are shown that head while they record, too. Nothing is verified: that is
// for the client, then and later. A database that the mirrors do not carry is not recorded.
func Record(dir string, mirrors ...modfetch.Mirror) ([]modfetch.Mirror, error) {
	if len(mirrors) == 0 {
		return nil, errors.New("modfetchtest: no mirrors to record")
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, fmt.Errorf("modfetchtest: %w", err)
	}
	r, err := readRecording(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("modfetchtest: %w", err)
	}
	r.mirrors = len(mirrors)
	var recorders []modfetch.Mirror
	for _, m := range mirrors {
		recorders = append(recorders, &recorder{m, r})
	}
	return recorders, nil
}

// Replay returns a mirror that serves what [Record] has kept in dir as it is now, and opens no socket. What is not there is
// refused with an error that says so. It is never [fs.ErrNotExist], which is only what was recorded as absent.
func Replay(dir string) (modfetch.Mirror, error) {
	r, err := readRecording(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("modfetchtest: there is no recording in %s: make one with modfetchtest.Record", dir)
	}
	if err != nil {
		return nil, fmt.Errorf("modfetchtest: %w", err)
	}
	return modfetch.FSMirror(r), nil
}

// A recording is what Record keeps: the GOPROXY tree that Replay serves.
type recording struct {
	dir     string
	mirrors int           // being recorded
	proving chan struct{} // holds a token while lookups are changed

	mu     sync.Mutex                    // guards the following
	texts  map[string]string             // by path
	absent map[string]bool               // paths
	denied map[string]map[*recorder]bool // who has said of a path that it does not exist
	dirty  bool                          // texts or absent are not what the file holds

	saving sync.Mutex // held while the file is written, so that the newest comes last
}

const (
	textFile   = "recording.txtar"
	absentFile = "absent" // in textFile: paths, one to a line
	textHead   = "Answers of module mirrors, kept by modfetchtest.Record. Zips and tiles are in files beside this one.\n"
	maxText    = 16 << 20 // bytes, as a Fetcher has it
)

// readRecording returns an empty recording with an error that is fs.ErrNotExist if there is none.
func readRecording(dir string) (*recording, error) {
	r := &recording{dir: dir, proving: make(chan struct{}, 1), texts: make(map[string]string), absent: make(map[string]bool),
		denied: make(map[string]map[*recorder]bool)}
	data, err := os.ReadFile(filepath.Join(dir, textFile))
	_, files := parseTxtar(string(data))
	for _, f := range files {
		if f.name != absentFile {
			r.texts[f.name] = f.data
			continue
		}
		for _, path := range strings.Fields(f.data) {
			r.absent[path] = true
		}
	}
	return r, err
}

// Open makes a recording the file system of a [modfetch.FSMirror].
func (r *recording) Open(path string) (fs.File, error) {
	r.mu.Lock()
	text, ok := r.texts[path]
	absent := r.absent[path]
	r.mu.Unlock()
	switch {
	case ok:
		return fstest.MapFS{path: {Data: []byte(text)}}.Open(path)
	case absent:
		return nil, fmt.Errorf("recorded as absent: %w", fs.ErrNotExist)
	}
	f, err := os.DirFS(r.dir).Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &unrecordedError{path, r.dir}
	}
	return f, err
}

// An unrecordedError is not an absence: nobody was asked.
type unrecordedError struct{ path, dir string }

func (e *unrecordedError) Error() string {
	return fmt.Sprintf("%s is not in the recording %s: do the same once with the mirrors of modfetchtest.Record(%[2]q, ...) in place of modfetchtest.Replay(%[2]q)",
		e.path, e.dir)
}

func (e *unrecordedError) Is(target error) bool { return target == modfetch.ErrForbidden }

// A recorder is one of the mirrors that are recorded.
type recorder struct {
	modfetch.Mirror
	rec *recording
}

// Fetch always asks for the whole file: a part could not be kept.
func (m *recorder) Fetch(ctx context.Context, req modfetch.Request) (*modfetch.Response, error) {
	if !fs.ValidPath(req.Path) || !filepath.IsLocal(filepath.FromSlash(req.Path)) || len(strings.Fields(req.Path)) != 1 ||
		!strings.Contains(req.Path, "/@") && !strings.HasPrefix(req.Path, "sumdb/") {
		return nil, fmt.Errorf("%q is no path of the GOPROXY protocol, so its answer is not recorded: %w", req.Path, modfetch.ErrForbidden)
	}
	database, file := sumdbPath(req.Path)
	req.Offset, req.Length, req.ETag = 0, 0, ""
	resp, err := m.Mirror.Fetch(ctx, req)
	switch {
	case file == "tile", err == nil && (resp.Offset != 0 || strings.HasPrefix(resp.ContentType, "text/html")):
		return resp, err // tiles that are needed come with the lookups; the rest is refused by every client
	case errors.Is(err, fs.ErrNotExist):
		if failed := m.rec.deny(m, req.Path); failed != nil {
			return nil, failed
		}
		return nil, err
	case err != nil:
		return nil, err
	case strings.HasSuffix(req.Path, ".zip"):
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
		data, err = m.rec.keepLookup(ctx, m.Mirror, database, req.Path, data)
	case file == "latest":
		data, err = m.rec.keepLatest(ctx, req.Path, data)
	default:
		err = m.rec.keep(req.Path, data)
	}
	if err != nil {
		return nil, err
	}
	return &modfetch.Response{Body: io.NopCloser(bytes.NewReader(data)), Size: int64(len(data)), ContentType: resp.ContentType}, nil
}

// sumdbPath returns the path of a checksum database, and which of its files a path is.
func sumdbPath(path string) (database, file string) {
	if !strings.HasPrefix(path, "sumdb/") {
		return "", ""
	}
	if base, ok := strings.CutSuffix(path, "/latest"); ok && !strings.Contains(path, "/lookup/") {
		return base, "latest"
	}
	if base, _, ok := strings.Cut(path, "/lookup/"); ok {
		return base, "lookup"
	}
	if base, _, ok := strings.Cut(path, "/tile/"); ok {
		return base, "tile"
	}
	return "", ""
}

// keep keeps an answer that is in memory.
func (r *recording) keep(path string, data []byte) error {
	text, ok := asText(path, data)
	if !ok {
		return r.keepFile(path, data)
	}
	r.mu.Lock()
	r.set(path, text)
	r.mu.Unlock()
	return r.save()
}

// set changes a text. r.mu is held.
func (r *recording) set(path, text string) {
	if old, ok := r.texts[path]; ok && old == text {
		return
	}
	r.texts[path] = text
	delete(r.absent, path)
	r.dirty = true
}

// asText returns what stands for an answer in a txtar archive, where every file ends in a newline. It reports false if that
// would be something else: each byte of a go.mod file counts, of others one newline more does not.
func asText(path string, data []byte) (string, bool) {
	text := string(data)
	if strings.HasSuffix(path, ".info") || strings.HasSuffix(path, "/@latest") {
		text = queries.ReplaceAllString(userinfo.ReplaceAllString(text, "$1"), "$1")
	}
	if text != "" && !strings.HasSuffix(text, "\n") {
		if strings.HasSuffix(path, ".mod") {
			return "", false
		}
		text += "\n"
	}
	for line := range strings.Lines(text) {
		if txtarMarker(line) != "" {
			return "", false
		}
	}
	return text, utf8.ValidString(text)
}

// What may be a secret in a URL that stands in JSON.
var (
	userinfo = regexp.MustCompile(`(://)[^/?#"\s]*@`)
	queries  = regexp.MustCompile(`(://[^?#"\s]*)[?#][^"\s]*`)
)

// keepFile keeps an answer in a file of its own.
func (r *recording) keepFile(path string, data []byte) error {
	temp, err := os.CreateTemp(r.dir, ".recording-*")
	if err != nil {
		return r.failed(path, err)
	}
	defer os.Remove(temp.Name()) // is gone after the rename
	_, err = temp.Write(data)
	if err := errors.Join(err, temp.Close()); err != nil {
		return r.failed(path, err)
	}
	return r.publish(path, temp.Name())
}

// publish gives a file that was received its final name.
func (r *recording) publish(path, temp string) error {
	name := filepath.Join(r.dir, filepath.FromSlash(path))
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
	if path == textFile {
		return nil
	}
	r.mu.Lock()
	if _, ok := r.texts[path]; ok || r.absent[path] {
		delete(r.texts, path)
		delete(r.absent, path)
		r.dirty = true
	}
	r.mu.Unlock()
	return r.save()
}

// failed keeps a failure of the disk from looking like an absence.
func (r *recording) failed(path string, err error) error {
	return fmt.Errorf("recording %s in %s: %v", path, r.dir, err)
}

// deny notes that a mirror says of a path that it does not exist. What one says and another does not is no absence.
func (r *recording) deny(m *recorder, path string) error {
	_, missing := os.Lstat(filepath.Join(r.dir, filepath.FromSlash(path)))
	r.mu.Lock()
	if r.denied[path] == nil {
		r.denied[path] = make(map[*recorder]bool)
	}
	r.denied[path][m] = true
	_, isText := r.texts[path]
	if len(r.denied[path]) == r.mirrors && !isText && missing != nil && !r.absent[path] {
		r.absent[path] = true
		r.dirty = true
	}
	r.mu.Unlock()
	return r.save()
}

// save writes the texts, once for all who have changed them meanwhile.
func (r *recording) save() error {
	r.saving.Lock()
	defer r.saving.Unlock()
	r.mu.Lock()
	dirty := r.dirty
	var text []byte
	if dirty {
		text = r.format()
	}
	r.dirty = false
	r.mu.Unlock()
	if !dirty {
		return nil
	}
	err := r.keepFile(textFile, text)
	if err != nil {
		r.mu.Lock()
		r.dirty = true
		r.mu.Unlock()
	}
	return err
}

// format returns the txtar archive. r.mu is held.
func (r *recording) format() []byte {
	var b bytes.Buffer
	b.WriteString(textHead)
	if len(r.absent) > 0 {
		b.WriteString("-- " + absentFile + " --\n" + strings.Join(slices.Sorted(maps.Keys(r.absent)), "\n") + "\n")
	}
	for _, path := range slices.Sorted(maps.Keys(r.texts)) {
		b.WriteString("-- " + path + " --\n" + r.texts[path])
	}
	return b.Bytes()
}

// tee keeps a zip while it is read. Its size is not told: who knew it would ask for the second half by itself.
func (r *recording) tee(path string, resp *modfetch.Response) (*modfetch.Response, error) {
	temp, err := os.CreateTemp(r.dir, ".recording-*")
	if err != nil {
		resp.Body.Close()
		return nil, r.failed(path, err)
	}
	body := &teeBody{ReadCloser: resp.Body, r: r, path: path, temp: temp, size: resp.Size}
	return &modfetch.Response{Body: body, Size: -1, ContentType: resp.ContentType}, nil
}

// A teeBody is a zip on its way.
type teeBody struct {
	io.ReadCloser
	r       *recording
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
	defer os.Remove(b.temp.Name()) // is gone after the rename
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

// keepLatest keeps the first head of a database that is shown, and returns the one that is kept.
func (r *recording) keepLatest(ctx context.Context, path string, data []byte) ([]byte, error) {
	if err := r.takeTurn(ctx); err != nil {
		return nil, err
	}
	defer r.endTurn()
	r.mu.Lock()
	head, ok := r.texts[path]
	r.mu.Unlock()
	if ok {
		return []byte(head), nil
	}
	if _, err := tlog.ParseTree(data); err != nil {
		return data, nil // every client will refuse it
	}
	return data, r.keep(path, data)
}

func (r *recording) takeTurn(ctx context.Context) error {
	select {
	case r.proving <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (r *recording) endTurn() { <-r.proving }

// keepLookup keeps a record under the head that is kept, or, if that is too old for it, all records under its own; and the
// tiles that prove them. It returns the answer with the head that is kept.
func (r *recording) keepLookup(ctx context.Context, m modfetch.Mirror, database, path string, data []byte) ([]byte, error) {
	id, _, signed, err := tlog.ParseRecord(data)
	if err != nil {
		return data, nil // every client will refuse it
	}
	tree, err := tlog.ParseTree(signed)
	if err != nil || id < 0 || id >= tree.N {
		return data, nil
	}
	if err := r.takeTurn(ctx); err != nil {
		return nil, err
	}
	defer r.endTurn()

	head, toProve := string(signed), make(map[string]string)
	r.mu.Lock()
	kept, err := tlog.ParseTree([]byte(r.texts[database+"/latest"]))
	if err == nil && id < kept.N {
		head, tree = r.texts[database+"/latest"], kept
	} else {
		for name, text := range r.texts {
			if strings.HasPrefix(name, database+"/lookup/") {
				toProve[name] = text
			}
		}
	}
	r.mu.Unlock()
	toProve[path] = string(data)
	if err := r.prove(ctx, m, database, tree, toProve); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("recording the proof of %s in %s: %v", path, r.dir, err) // a tile's absence is not that of the record
	}

	r.mu.Lock()
	for name, text := range toProve {
		record, _, _ := strings.Cut(text, "\n\n")
		r.set(name, record+"\n\n"+head)
	}
	r.set(database+"/latest", head)
	text := r.texts[path]
	r.mu.Unlock()
	return []byte(text), r.save()
}

// prove makes sure that the tiles are there by which lookups can be proven to be in a tree.
func (r *recording) prove(ctx context.Context, m modfetch.Mirror, database string, tree tlog.Tree, lookups map[string]string) error {
	tiles := &tileKeeper{r: r, ctx: ctx, mirror: m, database: database}
	var indexes []int64
	var want []tlog.Hash
	paths := slices.Sorted(maps.Keys(lookups))
	for _, path := range paths {
		id, text, _, err := tlog.ParseRecord([]byte(lookups[path]))
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		indexes = append(indexes, tlog.StoredHashIndex(0, id))
		want = append(want, tlog.RecordHash(text))
	}
	hashes, err := tlog.TileHashReader(tree, tiles).ReadHashes(indexes)
	if err != nil {
		return err
	}
	for i, hash := range hashes {
		if hash != want[i] {
			return fmt.Errorf("%s is not what the database has signed", paths[i])
		}
	}
	return tiles.failed
}

// A tileKeeper is the [tlog.TileReader] that reads tiles of a recording or else of a mirror, and keeps those that belong to
// the tree.
type tileKeeper struct {
	r        *recording
	ctx      context.Context
	mirror   modfetch.Mirror
	database string
	failed   error // to keep one
}

func (k *tileKeeper) Height() int { return 8 } // as every client has it

func (k *tileKeeper) path(t tlog.Tile) string { return k.database + "/" + t.Path() }

func (k *tileKeeper) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	var g errgroup.Group
	g.SetLimit(8)
	for i, t := range tiles {
		g.Go(func() (err error) {
			data[i], err = fs.ReadFile(os.DirFS(k.r.dir), k.path(t))
			if err != nil || len(data[i]) != t.W*tlog.HashSize {
				data[i], err = k.fetch(t)
			}
			return err
		})
	}
	return data, g.Wait()
}

// fetch gets a tile. A partial one may be gone once the full one is there, which begins with it.
func (k *tileKeeper) fetch(t tlog.Tile) ([]byte, error) {
	resp, err := k.mirror.Fetch(k.ctx, modfetch.Request{Path: k.path(t), Retry: true})
	if full := 1 << t.H; errors.Is(err, fs.ErrNotExist) && t.W < full {
		whole := t
		whole.W = full
		data, err := k.fetch(whole)
		return data[:min(len(data), t.W*tlog.HashSize)], err
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", k.path(t), err)
	}
	defer resp.Body.Close()
	size := t.W * tlog.HashSize
	data, err := io.ReadAll(io.LimitReader(resp.Body, int64(size)+1))
	if err == nil && len(data) != size {
		err = fmt.Errorf("%s has %d bytes, not %d", k.path(t), len(data), size)
	}
	return data, err
}

func (k *tileKeeper) SaveTiles(tiles []tlog.Tile, data [][]byte) {
	for i, t := range tiles {
		if kept, err := fs.ReadFile(os.DirFS(k.r.dir), k.path(t)); err == nil && bytes.Equal(kept, data[i]) {
			continue
		}
		if err := k.r.keepFile(k.path(t), data[i]); err != nil && k.failed == nil {
			k.failed = err
		}
	}
}
