package modfetchtest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/modfetchtest"
	"golang.org/x/mod/module"
)

// recordedModules are in testdata/mod.
var recordedModules = []module.Version{
	{Path: "example.com/m", Version: "v1.0.0"},
	{Path: "example.com/m/v2", Version: "v2.1.0-RC.1"},
	{Path: "example.com/Odd/under_score", Version: "v1.2.3"},
	{Path: "example.com/old", Version: "v3.0.0+incompatible"},
}

func httpMirror(t testing.TB, url string) modfetch.Mirror {
	t.Helper()
	m, err := modfetch.HTTPMirror(url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func record(t testing.TB, dir string, mirrors ...modfetch.Mirror) []modfetch.Mirror {
	t.Helper()
	recorders, err := modfetchtest.Record(dir, mirrors...)
	if err != nil {
		t.Fatal(err)
	}
	return recorders
}

func replay(t testing.TB, dir string) modfetch.Mirror {
	t.Helper()
	m, err := modfetchtest.Replay(dir)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// fetch has a new Fetcher download modules in order, and returns their sums with who vouches for them.
func fetch(t testing.TB, s *modfetchtest.Server, mirrors []modfetch.Mirror, mods ...module.Version) map[module.Version]string {
	t.Helper()
	f, err := modfetch.New(modfetch.WithMirrors(mirrors...), modfetch.WithSumDB(s.GOSUMDB()), modfetch.WithJobs(2))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := make(map[module.Version]string)
	for _, one := range mods {
		for m, err := range f.Download(t.Context(), []module.Version{one}) {
			if err != nil {
				t.Errorf("%s: %v", one, err)
			}
			got[one] = fmt.Sprint(m.Sum, m.GoModSum, m.VerifiedBy, m.GoModVerifiedBy)
		}
	}
	return got
}

// tree returns the content of all files below dir by slash-separated path.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	got := make(map[string]string)
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(filepath.Join(dir, name))
		got[name] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// ask returns all of a mirror's answer.
func ask(m modfetch.Mirror, path string) (string, error) {
	resp, err := m.Fetch(context.Background(), modfetch.Request{Path: path})
	if err != nil {
		return "", err
	}
	data, err := io.ReadAll(resp.Body)
	return string(data), errors.Join(err, resp.Body.Close())
}

func TestReplayServesWhatWasRecorded(t *testing.T) {
	s := modfetchtest.NewServer(t, testdata())
	dir := filepath.Join(t.TempDir(), "new", "recording")
	recorders := record(t, dir, httpMirror(t, s.URL))
	if name := recorders[0].String(); name != s.URL {
		t.Errorf("the recorded mirror calls itself %s", name)
	}
	want := fetch(t, s, recorders, recordedModules...)
	f, err := modfetch.New(modfetch.WithMirrors(recorders...), modfetch.WithSumDB(s.GOSUMDB()))
	if err != nil {
		t.Fatal(err)
	}
	questions := func(f *modfetch.Fetcher) string {
		versions, err := f.Versions(t.Context(), "example.com/old")
		if err != nil {
			t.Error(err)
		}
		latest, err := f.Info(t.Context(), "example.com/m", "latest")
		if err != nil {
			t.Error(err)
		}
		branch, err := f.Info(t.Context(), "example.com/old", "main")
		if err != nil {
			t.Error(err)
		}
		if _, err := f.Versions(t.Context(), "example.com/none"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a module that the mirror does not have: %v", err)
		}
		return fmt.Sprint(versions, latest.Version, branch.Version)
	}
	wantAnswers := questions(f)
	s.Close()

	offline := modfetch.WithPolicy(modfetch.Policy{Offline: true})
	if f, err = modfetch.New(modfetch.WithMirrors(replay(t, dir)), modfetch.WithSumDB(s.GOSUMDB()), offline); err != nil {
		t.Fatal(err)
	}
	if got := questions(f); got != wantAnswers {
		t.Errorf("answers %s, recorded were %s", got, wantAnswers)
	}
	got := fetch(t, s, []modfetch.Mirror{replay(t, dir)}, recordedModules...)
	if !maps.Equal(got, want) || !strings.Contains(got[recordedModules[0]], databaseName(s)) {
		t.Errorf("got %v, recorded was %v", got, want)
	}

	for name := range tree(t, dir) {
		if name != "recording.txtar" && !strings.HasSuffix(name, ".zip") && !strings.Contains(name, "/tile/8/") {
			t.Errorf("there is a file %s", name)
		}
	}
	other, err := modfetch.New(modfetch.WithMirrors(replay(t, dir)), modfetch.WithSumDB(modfetchtest.NewServer(t, nil).GOSUMDB()), offline)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Zip(t.Context(), recordedModules[0]); err == nil {
		t.Error("taken without the database's key")
	}
}

func TestReplayNamesWhatIsNotRecorded(t *testing.T) {
	if _, err := modfetchtest.Replay(t.TempDir()); err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "modfetchtest.Record") {
		t.Errorf("an empty directory: %v", err)
	}
	s := modfetchtest.NewServer(t, testdata())
	dir := t.TempDir()
	fetch(t, s, record(t, dir, httpMirror(t, s.URL)), recordedModules[0])
	m := replay(t, dir)
	for _, path := range []string{"example.com/m/@v/v1.0.1.info", "example.com/m/@v/v1.0.1.zip", "example.com/m/v2/@v/list",
		"example.com/m/@latest", "sumdb/" + databaseName(s) + "/lookup/example.com/m@v1.0.1", "sumdb/" + databaseName(s) + "/tile/8/0/x001/000"} {
		_, err := ask(m, path)
		if err == nil || errors.Is(err, fs.ErrNotExist) || modfetch.KindOf(err) != modfetch.Forbidden {
			t.Errorf("%s: kind %s: %v", path, modfetch.KindOf(err), err)
			continue
		}
		for _, part := range []string{path, dir, "modfetchtest.Record("} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %v, which does not say %s", path, err, part)
			}
		}
	}
	f, err := modfetch.New(modfetch.WithMirrors(m), modfetch.WithSumDB(s.GOSUMDB()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Versions(t.Context(), "example.com/m"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a list that was not recorded: %v", err)
	}
}

// TestRecordingAgainChangesNothing records the same from a database that has grown meanwhile.
func TestRecordingAgainChangesNothing(t *testing.T) {
	s := modfetchtest.NewServer(t, testdata())
	s.AddRecords(300)
	a, b := t.TempDir(), t.TempDir()
	fetch(t, s, record(t, a, httpMirror(t, s.URL)), recordedModules...)
	others := slices.Clone(recordedModules)
	slices.Reverse(others)
	fetch(t, s, record(t, b, httpMirror(t, s.URL)), others...)
	want := tree(t, a)
	if got := tree(t, b); !maps.Equal(got, want) {
		t.Errorf("recorded in another order:\n%q\nwant\n%q", got, want)
	}
	s.AddRecords(1000)
	fetch(t, s, record(t, a, httpMirror(t, s.URL)), recordedModules...)
	if got := tree(t, a); !maps.Equal(got, want) {
		t.Errorf("recorded again:\n%q\nwant\n%q", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
}

// TestRecordingIsAddedTo has a record that the head of the first session does not cover.
func TestRecordingIsAddedTo(t *testing.T) {
	s := modfetchtest.NewServer(t, testdata())
	dir := t.TempDir()
	fetch(t, s, record(t, dir, httpMirror(t, s.URL)), recordedModules[:2]...)
	s.AddRecords(700)
	late := module.Version{Path: "example.com/late", Version: "v1.0.0"}
	s.Add(modfetchtest.NewModule(late.Path, late.Version).File("late.go", "package late\n"))
	fetch(t, s, record(t, dir, httpMirror(t, s.URL)), late)
	s.AddRecords(70)
	fetch(t, s, record(t, dir, httpMirror(t, s.URL)), recordedModules[3])
	s.Close()

	first := recordedModules[0]
	for _, order := range [][]module.Version{{first, late, recordedModules[3], recordedModules[1]}, {late, first}, {recordedModules[3], first, late}} {
		got := fetch(t, s, []modfetch.Mirror{replay(t, dir)}, order...)
		for _, m := range order {
			if !strings.Contains(got[m], databaseName(s)) {
				t.Errorf("%s in the order %v: %q", m, order, got[m])
			}
		}
	}
	text := tree(t, dir)["recording.txtar"]
	if n := strings.Count(text, "go.sum database tree\n"); n != 5 { // four lookups and the head
		t.Errorf("%d notes in\n%s", n, text)
	}
	head := text[strings.Index(text, "go.sum database tree\n"):]
	head = head[:strings.Index(head, "-- ")]
	if n := strings.Count(text, head); n != 5 {
		t.Errorf("%d of 5 notes are that of one head:\n%s", n, text)
	}
}

func TestOnlyWholeAnswersAreRecorded(t *testing.T) {
	for name, fault := range map[string]modfetchtest.Fault{
		"truncated": modfetchtest.Truncate(-10),
		"page":      modfetchtest.HTML(),
		"refused":   modfetchtest.Status(http.StatusForbidden),
		"failed":    modfetchtest.Status(http.StatusBadGateway),
		"reset":     modfetchtest.Reset(),
	} {
		t.Run(name, func(t *testing.T) {
			s := modfetchtest.NewServer(t, testdata())
			s.Fault("*", fault)
			dir := t.TempDir()
			m := record(t, dir, httpMirror(t, s.URL))[0]
			for _, path := range []string{"example.com/m/@v/list", "example.com/m/@v/v1.0.0.zip", "example.com/m/@v/v1.0.0.mod",
				"sumdb/" + databaseName(s) + "/lookup/example.com/m@v1.0.0"} {
				ask(m, path)
			}
			if got := tree(t, dir); len(got) > 0 {
				t.Errorf("recorded: %q", got)
			}
		})
	}
	t.Run("left", func(t *testing.T) {
		s := modfetchtest.NewServer(t, testdata())
		dir := t.TempDir()
		resp, err := record(t, dir, httpMirror(t, s.URL))[0].Fetch(t.Context(), modfetch.Request{Path: "example.com/m/@v/v1.0.0.zip"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(resp.Body, make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := tree(t, dir); len(got) > 0 {
			t.Errorf("recorded: %q", got)
		}
	})
}

func TestRecordAsksForTheWhole(t *testing.T) {
	s := modfetchtest.NewServer(t, testdata())
	for _, path := range []string{"example.com/m/@v/v1.0.0.zip", "example.com/m/@v/v1.0.0.mod"} {
		header, whole := get(t, s.URL+"/"+path)
		for _, req := range []modfetch.Request{{Offset: 10, Length: 5}, {ETag: header.Header.Get("ETag")}} {
			dir := t.TempDir()
			req.Path = path
			resp, err := record(t, dir, httpMirror(t, s.URL))[0].Fetch(t.Context(), req)
			if err != nil {
				t.Errorf("%+v: %v", req, err)
				continue
			}
			got, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || resp.Offset != 0 || string(got) != whole {
				t.Errorf("%+v: offset %d, %d bytes of %d, error %v", req, resp.Offset, len(got), len(whole), err)
			}
			if strings.HasSuffix(path, ".zip") {
				if tree(t, dir)[path] != whole || resp.Size >= 0 { // with a size, parts of it would be asked for
					t.Errorf("%+v: size %d, recorded %q", req, resp.Size, tree(t, dir)[path])
				}
			} else if got, err := ask(replay(t, dir), path); err != nil || got != whole {
				t.Errorf("%+v: recorded %q, %v", req, got, err)
			}
		}
	}
}

// TestBrokenBodiesAreNotRecorded has a mirror whose bodies end too soon, or with an error where the size is unknown.
func TestBrokenBodiesAreNotRecorded(t *testing.T) {
	for _, path := range []string{"a.test/@v/list", "a.test/@v/v1.0.0.zip"} {
		for _, size := range []int64{-1, 3, 5} {
			dir := t.TempDir()
			_, err := ask(record(t, dir, broken(size))[0], path)
			if got := tree(t, dir); err == nil || len(got) > 0 {
				t.Errorf("%s of %d bytes: error %v, recorded %q", path, size, err, got)
			}
		}
	}
}

// broken is a mirror that states a size and sends four bytes; with no size, it breaks off.
type broken int64

func (broken) String() string { return "broken" }

func (size broken) Fetch(context.Context, modfetch.Request) (*modfetch.Response, error) {
	body := io.Reader(strings.NewReader("four"))
	if size < 0 {
		body = io.MultiReader(body, iotest.ErrReader(errors.New("broken off")))
	}
	return &modfetch.Response{Body: io.NopCloser(body), Size: int64(size)}, nil
}

// answers is a mirror of a few files; what is not there does not exist, and what begins with ! is a failure.
type answers struct{ files map[string]string }

func (a *answers) String() string { return "answers" }

func (a *answers) Fetch(_ context.Context, r modfetch.Request) (*modfetch.Response, error) {
	text, ok := a.files[r.Path]
	if !ok {
		return nil, fs.ErrNotExist
	}
	if strings.HasPrefix(text, "!") {
		return nil, errors.New(text)
	}
	return &modfetch.Response{Body: io.NopCloser(iotest.OneByteReader(strings.NewReader(text))), Size: -1}, nil
}

func TestRecordedAbsence(t *testing.T) {
	dir := t.TempDir()
	a := &answers{map[string]string{"a.test/@v/list": "v1.0.0\n", "a.test/failing/@v/list": "!broken"}}
	b := &answers{map[string]string{"b.test/@v/v1.0.0.zip": "zip"}}
	for _, m := range record(t, dir, a, b) {
		for _, path := range []string{"a.test/@v/list", "b.test/@v/v1.0.0.zip", "a.test/failing/@v/list", "none.test/@v/list", "none.test/@v/v1.0.0.zip"} {
			ask(m, path)
		}
	}
	if _, err := ask(record(t, dir, a, b)[0], "one.test/@latest"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what the mirror said is told as %v", err)
	}
	absent := func(want map[string]bool) {
		t.Helper()
		for path, want := range want {
			if _, err := ask(replay(t, dir), path); errors.Is(err, fs.ErrNotExist) != want {
				t.Errorf("%s: %v, want an absence: %t", path, err, want)
			}
		}
	}
	absent(map[string]bool{"none.test/@v/list": true, "none.test/@v/v1.0.0.zip": true, "a.test/@v/list": false, "b.test/@v/v1.0.0.zip": false,
		"a.test/failing/@v/list": false, "one.test/@latest": false})

	// Later it is there: as text, and as a file.
	a.files["none.test/@v/list"], a.files["none.test/@v/v1.0.0.zip"] = "v1.0.0\n", "zip"
	m := record(t, dir, a)[0]
	for _, path := range []string{"none.test/@v/list", "none.test/@v/v1.0.0.zip", "other.test/@v/list"} {
		ask(m, path)
	}
	absent(map[string]bool{"none.test/@v/list": false, "none.test/@v/v1.0.0.zip": false, "other.test/@v/list": true})
	m = record(t, dir, &answers{})[0] // and later still, no more
	for _, path := range []string{"none.test/@v/list", "none.test/@v/v1.0.0.zip"} {
		ask(m, path)
	}
	if text := tree(t, dir)["recording.txtar"]; strings.Contains(text, "none.test/@v/v1.0.0.zip") || strings.Count(text, "none.test/@v/list") != 1 {
		t.Errorf("what is there is listed as absent:\n%s", text)
	}
}

func TestRecordingKeepsBytes(t *testing.T) {
	files := map[string]string{
		"a.test/@v/v1.0.0.mod":  "module a.test\n",
		"a.test/@v/v1.1.0.mod":  "module a.test",
		"a.test/@v/v1.2.0.mod":  "module a.test // -- x\n-- b.test/@v/list --\nv1.0.0\n",
		"a.test/@v/v1.3.0.mod":  "module a.test\r\n",
		"a.test/@v/v1.4.0.mod":  "",
		"a.test/@v/v1.5.0.mod":  "module \xff\n",
		"a.test/@v/list":        "v1.0.0\r\nv1.1.0\r\n",
		"b.test/@v/list":        "",
		"b.test/@v/v1.0.0.zip":  "-- a.test/@v/list --\n",
		"sumdb/x.test/latest":   "no head\n",
		"sumdb/x.test/lookup/a": "no lookup\n",
	}
	dir := t.TempDir()
	m := record(t, dir, &answers{files})[0]
	for path, want := range files {
		if got, err := ask(m, path); err != nil || got != want {
			t.Errorf("%s while it is recorded: %q, %v", path, got, err)
		}
	}
	for path, want := range files {
		got, err := ask(replay(t, dir), path)
		if strings.HasPrefix(path, "sumdb/") {
			if err == nil {
				t.Errorf("%s was recorded: %q", path, got)
			}
		} else if err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", path, got, err, want)
		}
	}
	if text := tree(t, dir)["recording.txtar"]; !utf8.ValidString(text) {
		t.Errorf("no text: %q", text)
	}
}

func TestRecordKeepsInside(t *testing.T) {
	dir := t.TempDir()
	files := make(map[string]string)
	for _, path := range []string{"../a.test/@v/v1.0.0.zip", "/a.test/@v/v1.0.0.zip", "a.test/@v/../../../x.zip", "recording.txtar", "absent", "x.zip",
		"a.test\n-- b.test/@v/list --\nv1.0.0\n-- c.test/@v/list"} {
		files[path] = "x\n"
	}
	m := record(t, filepath.Join(dir, "recording"), &answers{files})[0]
	for path := range files {
		if got, err := ask(m, path); err == nil || modfetch.KindOf(err) != modfetch.Forbidden {
			t.Errorf("%q: %q, error %v", path, got, err)
		}
	}
	if got := tree(t, dir); len(got) > 0 {
		t.Errorf("recorded: %q", got)
	}
}

func TestRecordingHoldsNoSecrets(t *testing.T) {
	s := modfetchtest.NewServer(t, nil)
	const info = `{"Version":"v1.0.0","Time":"2020-01-01T00:00:00Z","Origin":{"VCS":"git","URL":"https://s3cret:s3cret@host.test/m.git?token=s3cret#s3cret","Ref":"refs/tags/v1.0.0"}}`
	m := module.Version{Path: "example.com/m", Version: "v1.0.0"}
	s.Add(modfetchtest.NewModule(m.Path, m.Version).File(".info", info))
	s.Fault("/example.com/other/*", modfetchtest.Status(http.StatusNotFound, "not at s3cret"))
	dir := t.TempDir()
	mirror := record(t, dir, httpMirror(t, s.URL+"?token=s3cret"))
	fetch(t, s, mirror, m)
	ask(mirror[0], "example.com/other/@v/list")
	if got, err := ask(mirror[0], "example.com/m/@latest"); err != nil || got != info {
		t.Errorf("while it is recorded: %s, %v", got, err)
	}
	for name, content := range tree(t, dir) {
		if strings.Contains(content, "s3cret") || strings.Contains(content, strings.TrimPrefix(s.URL, "http://")) {
			t.Errorf("%s holds a secret or the mirror's address:\n%s", name, content)
		}
	}
	const want = `"Origin":{"VCS":"git","URL":"https://host.test/m.git","Ref":"refs/tags/v1.0.0"}}`
	for _, path := range []string{"example.com/m/@latest", "example.com/m/@v/v1.0.0.info"} {
		if got, err := ask(replay(t, dir), path); err != nil || !strings.HasSuffix(got, want+"\n") {
			t.Errorf("%s: %s, %v", path, got, err)
		}
	}
}

// TestRecordingAtOnce has many write while others read, and a head that moves on with each new record.
func TestRecordingAtOnce(t *testing.T) {
	s := modfetchtest.NewServer(t, nil)
	var mods []module.Version
	for i := range 30 {
		m := module.Version{Path: fmt.Sprintf("example.com/m%d", i), Version: "v1.0.0"}
		s.Add(modfetchtest.NewModule(m.Path, m.Version).File("m.go", "package m\n").Unlisted())
		mods = append(mods, m)
	}
	listed := modfetchtest.Middleware(func(honest http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			path, _, _ := strings.Cut(r.URL.Path[strings.Index(r.URL.Path, "example.com"):], "@")
			s.Add(modfetchtest.NewModule(path, "v1.0.0").File("m.go", "package m\n"))
			honest.ServeHTTP(w, r)
		})
	})
	second := s.Mirror()
	s.Fault("/sumdb/*/lookup/*", listed)
	second.Fault("/sumdb/*/lookup/*", listed)
	dir := t.TempDir()
	f, err := modfetch.New(modfetch.WithMirrors(record(t, dir, httpMirror(t, s.URL), httpMirror(t, second.URL))...),
		modfetch.WithSumDB(s.GOSUMDB()), modfetch.WithStrategy(modfetch.Race()))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		seen := 0
		for {
			if data, err := os.ReadFile(filepath.Join(dir, "recording.txtar")); err == nil {
				n := strings.Count(string(data), "\n-- ")
				if n < seen || !strings.HasSuffix(string(data), "\n") {
					t.Errorf("%d entries after %d", n, seen)
				}
				seen = n
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	for m, err := range f.Download(t.Context(), mods) {
		if err != nil {
			t.Errorf("%s: %v", m.Path, err)
		}
	}
	close(done)
	reader.Wait()
	s.Close()
	got := fetch(t, s, []modfetch.Mirror{replay(t, dir)}, mods...)
	if len(got) != len(mods) {
		t.Errorf("%d of %d modules", len(got), len(mods))
	}
	for name := range tree(t, dir) {
		if strings.HasPrefix(filepath.Base(name), ".") {
			t.Errorf("%s was left", name)
		}
	}
}

func TestRecordingThatCannotBeWritten(t *testing.T) {
	dir := t.TempDir()
	m := record(t, dir, &answers{map[string]string{"a.test/@v/list": "v1.0.0\n", "a.test/@v/v1.0.0.zip": "zip"}})[0]
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"a.test/@v/list", "a.test/@v/v1.0.0.zip", "a.test/none/@v/list"} {
		if _, err := ask(m, path); err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v, want an error of the disk that is no absence", path, err)
		}
	}
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(m, "a.test/@v/list"); err != nil {
		t.Errorf("once it can be written: %v", err)
	}
	if got, err := ask(replay(t, dir), "a.test/@v/list"); err != nil || got != "v1.0.0\n" {
		t.Errorf("recorded once it could be written: %q, %v", got, err)
	}
}

// TestRecordingKeepsToOneHead has a database that has grown since its head was recorded, and no partial tiles of old heads any
// more.
func TestRecordingKeepsToOneHead(t *testing.T) {
	s := modfetchtest.NewServer(t, testdata())
	dir := t.TempDir()
	m := record(t, dir, httpMirror(t, s.URL))
	latest := "sumdb/" + databaseName(s) + "/latest"
	head, err := ask(m[0], latest)
	if err != nil {
		t.Fatal(err)
	}
	s.AddRecords(600)
	s.Fault("/sumdb/*.p/*", modfetchtest.Status(http.StatusNotFound))
	fetch(t, s, m, recordedModules...)
	if again, err := ask(m[0], latest); err != nil || again != head {
		t.Errorf("the head is now %s, %v, not %s", again, err, head)
	}
	s.Close()
	fetch(t, s, []modfetch.Mirror{replay(t, dir)}, recordedModules...)
}

// TestTilesAreRecordedOnceTheyAreProven asks for a tile that no lookup has led to.
func TestTilesAreRecordedOnceTheyAreProven(t *testing.T) {
	s := modfetchtest.NewServer(t, testdata())
	s.AddRecords(300)
	dir := t.TempDir()
	path := "sumdb/" + databaseName(s) + "/tile/8/0/000"
	if got, err := ask(record(t, dir, httpMirror(t, s.URL))[0], path); err != nil || len(got) != 8192 {
		t.Errorf("%d bytes, error %v", len(got), err)
	}
	if got := tree(t, dir); len(got) > 0 {
		t.Errorf("recorded %q", slices.Collect(maps.Keys(got)))
	}
}

// TestRecordRefusesFalseProofs has mirrors whose tiles do not prove what they say.
func TestRecordRefusesFalseProofs(t *testing.T) {
	for name, fault := range map[string]modfetchtest.Fault{
		"corrupt": modfetchtest.CorruptRaw(0),
		"missing": modfetchtest.Status(http.StatusNotFound),
		"cut":     modfetchtest.Truncate(-1),
	} {
		t.Run(name, func(t *testing.T) {
			s := modfetchtest.NewServer(t, testdata())
			s.Fault("/sumdb/*/tile/*", fault)
			dir := t.TempDir()
			path := "sumdb/" + databaseName(s) + "/lookup/example.com/m@v1.0.0"
			m := record(t, dir, httpMirror(t, s.URL))[0]
			if _, err := ask(m, path); err == nil || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("error %v", err)
			}
			if got := tree(t, dir); len(got) > 0 {
				t.Errorf("recorded: %q", got)
			}
		})
	}
	t.Run("record", func(t *testing.T) {
		s := modfetchtest.NewServer(t, testdata())
		s.Fault("*/lookup/*", modfetchtest.Middleware(func(honest http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, body := get(t, s.Mirror().URL+r.URL.Path)
				io.WriteString(w, strings.Replace(body, "h1:", "h1:A", 1))
			})
		}))
		dir := t.TempDir()
		m := record(t, dir, httpMirror(t, s.URL))[0]
		if got, err := ask(m, "sumdb/"+databaseName(s)+"/lookup/example.com/m@v1.0.0"); err == nil || !strings.Contains(err.Error(), "signed") {
			t.Errorf("%q, error %v", got, err)
		}
	})
}

// TestWaitingToRecordEnds cancels one lookup while another one waits for its tiles.
func TestWaitingToRecordEnds(t *testing.T) {
	s := modfetchtest.NewServer(t, testdata())
	waits, release := make(chan struct{}), make(chan struct{})
	s.Fault("/sumdb/*/tile/*", modfetchtest.Middleware(func(honest http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			waits <- struct{}{}
			<-release
			honest.ServeHTTP(w, r)
		})
	}).Times(1))
	received := make(chan struct{}, 1)
	m := record(t, t.TempDir(), telling{httpMirror(t, s.URL), received})[0]
	prefix := "sumdb/" + databaseName(s)
	var first sync.WaitGroup
	first.Go(func() {
		if _, err := ask(m, prefix+"/lookup/example.com/m@v1.0.0"); err != nil {
			t.Error(err)
		}
	})
	<-received
	<-waits
	for _, path := range []string{prefix + "/lookup/example.com/m/v2@v2.1.0-!r!c.1", prefix + "/latest"} {
		ctx, cancel := context.WithCancel(t.Context())
		var second sync.WaitGroup
		second.Go(func() {
			if _, err := m.Fetch(ctx, modfetch.Request{Path: path}); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", path, err)
			}
		})
		<-received
		cancel()
		second.Wait()
	}
	close(release)
	first.Wait()
}

// telling is a mirror that tells when a body but that of a tile has been received.
type telling struct {
	modfetch.Mirror
	received chan struct{}
}

func (m telling) Fetch(ctx context.Context, r modfetch.Request) (*modfetch.Response, error) {
	resp, err := m.Mirror.Fetch(ctx, r)
	if err == nil && !strings.Contains(r.Path, "/tile/") {
		resp.Body = tellingBody{resp.Body, m.received}
	}
	return resp, err
}

type tellingBody struct {
	io.ReadCloser
	received chan struct{}
}

func (b tellingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.received <- struct{}{}
	}
	return n, err
}

// TestGoCommandReadsAnUnpackedRecording puts the text where its names say, and gives the tree to the go command as files.
func TestGoCommandReadsAnUnpackedRecording(t *testing.T) {
	s := modfetchtest.NewServer(t, testdata())
	env := s.Env(t)
	dir := t.TempDir()
	want := fetch(t, s, record(t, dir, httpMirror(t, s.URL)), recordedModules...)
	s.Close()
	unpack(t, dir)
	env = append(env, "GOPROXY=file:///"+strings.TrimPrefix(filepath.ToSlash(dir), "/"))
	for _, m := range recordedModules {
		d, err := goModDownload(t, env, m.String())
		if err != nil || !strings.Contains(want[m], d.Sum+d.GoModSum) {
			t.Errorf("%s: %v %s, sums %s and %s, want %s", m, err, d.Error, d.Sum, d.GoModSum, want[m])
		}
	}
}

// unpack writes the files of a txtar archive beside it.
func unpack(t testing.TB, dir string) {
	t.Helper()
	var name, content string
	write := func() {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o777), os.WriteFile(file, []byte(content), 0o666)); err != nil && name != "" {
			t.Fatal(err)
		}
	}
	for line := range strings.Lines(tree(t, dir)["recording.txtar"]) {
		if next, ok := strings.CutPrefix(line, "-- "); ok {
			if name != "" {
				write()
			}
			name, content = strings.TrimSuffix(next, " --\n"), ""
			continue
		}
		content += line
	}
	write()
}

// TestGoCommandBehindAReplay serves a recording to the go command by a Handler.
func TestGoCommandBehindAReplay(t *testing.T) {
	s := modfetchtest.NewServer(t, testdata())
	dir := t.TempDir()
	want := fetch(t, s, record(t, dir, httpMirror(t, s.URL)), recordedModules...)
	f, err := modfetch.New(modfetch.WithMirrors(replay(t, dir)), modfetch.WithSumDB(s.GOSUMDB()))
	if err != nil {
		t.Fatal(err)
	}
	front := modfetchtest.NewServer(t, nil)
	front.Fault("*", modfetchtest.Handler((&modfetch.Handler{Fetcher: f}).ServeHTTP))
	env := append(front.Env(t), "GOSUMDB="+s.GOSUMDB())
	s.Close()
	for _, m := range recordedModules {
		d, err := goModDownload(t, env, m.String())
		if err != nil || !strings.Contains(want[m], d.Sum+d.GoModSum) {
			t.Errorf("%s: %v %s, sums %s and %s, want %s", m, err, d.Error, d.Sum, d.GoModSum, want[m])
		}
	}
}
