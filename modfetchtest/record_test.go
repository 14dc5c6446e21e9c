package modfetchtest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/modfetchtest"
	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/tlog"
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

func record(t testing.TB, dir string, mirror modfetch.Mirror) modfetch.Mirror {
	t.Helper()
	m, err := modfetchtest.Record(dir, mirror)
	if err != nil {
		t.Fatal(err)
	}
	return m[0]
}

func replay(t testing.TB, dir string) modfetch.Mirror {
	t.Helper()
	m, err := modfetchtest.Replay(dir)
	if err != nil || len(m) != 1 {
		t.Fatal(m, err)
	}
	return m[0]
}

// recordAll and replayAll are for several mirrors.
func recordAll(t testing.TB, dir string, mirrors ...modfetch.Mirror) []modfetch.Mirror {
	t.Helper()
	recorders, err := modfetchtest.Record(dir, mirrors...)
	if err != nil {
		t.Fatal(err)
	}
	return recorders
}

func replayAll(t testing.TB, dir string) []modfetch.Mirror {
	t.Helper()
	mirrors, err := modfetchtest.Replay(dir)
	if err != nil {
		t.Fatal(err)
	}
	return mirrors
}

// fetch has a new Fetcher download modules in order, and returns their sums with who vouches for them.
func fetch(t testing.TB, s *modfetchtest.Server, mirror modfetch.Mirror, mods ...module.Version) map[module.Version]string {
	t.Helper()
	f, err := modfetch.New(modfetch.WithMirrors(mirror), modfetch.WithSumDB(s.GOSUMDB()), modfetch.WithJobs(2))
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

// tree returns the content of all files below dir by slash-separated path, of a recording those of its first mirror.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	got := make(map[string]string)
	if _, err := os.Stat(filepath.Join(dir, "1", ".gitattributes")); err == nil {
		dir = filepath.Join(dir, "1")
	}
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || name == ".gitattributes" {
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
	recorder := record(t, dir, httpMirror(t, s.URL))
	if name := recorder.String(); name != s.URL {
		t.Errorf("the recorded mirror calls itself %s", name)
	}
	want := fetch(t, s, recorder, recordedModules...)
	f, err := modfetch.New(modfetch.WithMirrors(recorder), modfetch.WithSumDB(s.GOSUMDB()))
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
	got := fetch(t, s, replay(t, dir), recordedModules...)
	if !maps.Equal(got, want) || !strings.Contains(got[recordedModules[0]], databaseName(s)) {
		t.Errorf("got %v, recorded was %v", got, want)
	}

	if name := replay(t, dir).String(); !strings.Contains(name, "recording "+filepath.Join(dir, "1")) {
		t.Errorf("the recording calls itself %s", name)
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
		got := fetch(t, s, replay(t, dir), order...)
		for _, m := range order {
			if !strings.Contains(got[m], databaseName(s)) {
				t.Errorf("%s in the order %v: %q", m, order, got[m])
			}
		}
	}
	files := tree(t, dir)
	head := files["sumdb/"+databaseName(s)+"/latest"]
	lookups := 0
	for name, content := range files {
		if strings.Contains(name, "/lookup/") {
			lookups++
			if !strings.HasSuffix(content, "\n\n"+head) {
				t.Errorf("%s is not under the head\n%s\n%s", name, head, content)
			}
		}
	}
	if lookups != 4 || !strings.HasPrefix(head, "go.sum database tree\n") {
		t.Errorf("%d lookups, head %q", lookups, head)
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
			m := record(t, dir, httpMirror(t, s.URL))
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
		resp, err := record(t, dir, httpMirror(t, s.URL)).Fetch(t.Context(), modfetch.Request{Path: "example.com/m/@v/v1.0.0.zip"})
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
			resp, err := record(t, dir, httpMirror(t, s.URL)).Fetch(t.Context(), req)
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
			_, err := ask(record(t, dir, broken(size)), path)
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
	m := record(t, dir, a)
	missing := []string{"none.test/@v/list", "none.test/@v/v1.0.0.info", "none.test/@v/v1.0.0.zip", "none.test/@latest", "sumdb/none.test/supported"}
	for _, path := range append(missing, "a.test/@v/list", "a.test/failing/@v/list") {
		if _, err := ask(m, path); errors.Is(err, fs.ErrNotExist) != slices.Contains(missing, path) {
			t.Errorf("what the mirror said of %s is told as %v", path, err)
		}
	}
	absent := func(want map[string]bool) {
		t.Helper()
		for path, want := range want {
			if _, err := ask(replay(t, dir), path); errors.Is(err, fs.ErrNotExist) != want {
				t.Errorf("%s: %v, want an absence: %t", path, err, want)
			}
		}
	}
	want := map[string]bool{"a.test/@v/list": false, "a.test/failing/@v/list": false, "a.test/@latest": false}
	for _, path := range missing {
		want[path] = true
	}
	absent(want)
	want["none.test/@v/list"], want["none.test/@v/v1.0.0.zip"] = false, false

	// Later it is there: as text, and as a zip.
	a.files["none.test/@v/list"], a.files["none.test/@v/v1.0.0.zip"] = "v1.0.0\n", "zip"
	m = record(t, dir, a)
	for path := range a.files {
		ask(m, path)
	}
	absent(want)
	m = record(t, dir, &answers{}) // and later still, no more
	for path := range want {
		ask(m, path)
	}
	want["a.test/@latest"], want["a.test/failing/@v/list"] = true, true
	absent(want)
	for name := range tree(t, dir) {
		if path, ok := strings.CutPrefix(name, "absent/"); ok && !want[path] {
			t.Errorf("%s is there although it exists", name)
		}
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
	m := record(t, dir, &answers{files})
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
	got := tree(t, dir)
	for path, content := range got {
		if content != files[path] {
			t.Errorf("%s holds %q", path, content)
		}
	}
	if len(got) != len(files)-2 {
		t.Errorf("%d files of %d", len(got), len(files)-2)
	}
}

func TestRecordKeepsInside(t *testing.T) {
	dir := t.TempDir()
	files := make(map[string]string)
	for _, path := range []string{"../a.test/@v/v1.0.0.zip", "/a.test/@v/v1.0.0.zip", "a.test/@v/../../../x.zip", "recording", "absent", "x.zip",
		"a.test\n-- b.test/@v/list --\nv1.0.0\n-- c.test/@v/list"} {
		files[path] = "x\n"
	}
	m := record(t, dir, &answers{files})
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
	ask(mirror, "example.com/other/@v/list")
	if got, err := ask(mirror, "example.com/m/@latest"); err != nil || got != info {
		t.Errorf("while it is recorded: %s, %v", got, err)
	}
	for name, content := range tree(t, dir) {
		if strings.Contains(content, "s3cret") || strings.Contains(content, strings.TrimPrefix(s.URL, "http://")) {
			t.Errorf("%s holds a secret or the mirror's address:\n%s", name, content)
		}
	}
	const want = `"Origin":{"Ref":"refs/tags/v1.0.0","URL":"https://host.test/m.git","VCS":"git"}`
	for _, path := range []string{"example.com/m/@latest", "example.com/m/@v/v1.0.0.info"} {
		if got, err := ask(replay(t, dir), path); err != nil || !strings.Contains(got, want) {
			t.Errorf("%s: %s, %v", path, got, err)
		}
	}
}

// TestRecordedInfo has secrets in all kinds of URLs, as JSON can spell them, and what looks like one but is none.
func TestRecordedInfo(t *testing.T) {
	for in, want := range map[string]string{
		`https:\/\/user:s3cret@host.test\/m.git?token=s3cret`: "https://host.test/m.git",
		`https://user:s3cret\u0040host.test/m.git`:            "https://host.test/m.git",
		`https\u003a//user:s3cret@host.test/m.git`:            "https://host.test/m.git",
		`s3cret@host.test:m.git`:                              "host.test:m.git",
		`s3cret:s3cret@host.test/m.git`:                       "host.test/m.git",
		`https://host.test/m.git\u003ftoken=s3cret`:           "https://host.test/m.git",
		`https://host.test/m.git#s3cret`:                      "https://host.test/m.git",
		`//user:s3cret@host.test/m.git`:                       "//host.test/m.git",
		`//s3cret@host.test/m.git`:                            "//host.test/m.git",
		`https://user:a@s3cret@host.test/m.git`:               "https://host.test/m.git",
		`https://user:a\"s3cret@host.test/m.git`:              "https://host.test/m.git",
		`https://user:a s3cret@host.test/m.git`:               "https://host.test/m.git",
		`https://user:a/s3cret@host.test/m.git`:               "https://host.test/m.git",
		`https://user:a?s3cret@host.test/m.git`:               "https://host.test/m.git",
		`https:/user:s3cret@host.test/m.git`:                  "host.test/m.git",
		`s3cret:s3cret://x@host.test`:                         "host.test",
		`https://host.test/a?b\"c`:                            "https://host.test/a",
		`https://host.test/?a\"},{\"x`:                        "https://host.test/",
		`https://host.test/<m>&.git`:                          "https://host.test/<m>&.git",
		`refs/heads/a@b#c`:                                    "refs/heads/a@b#c",
	} {
		for _, format := range []string{`{"Version":"v1.0.0","N":12345678901234567890,"Origin":{"URL":"%s"}}`, `{"Origin":{"URL":"//s3cret@a"},"Origin":{"URL":"%s"}}`, `{"Origin":[{"URL":"%s"}]}`} {
			dir := t.TempDir()
			info := fmt.Sprintf(format, in)
			m := record(t, dir, &answers{map[string]string{"a.test/@v/v1.0.0.info": info, "a.test/@latest": info}})
			for _, path := range []string{"a.test/@v/v1.0.0.info", "a.test/@latest"} {
				if got, err := ask(m, path); err != nil || got != info {
					t.Errorf("while it is recorded %s is %s, %v", info, got, err)
				}
				got, err := ask(replay(t, dir), path)
				wantJSON := strings.NewReplacer(`"`, `\"`).Replace(want)
				if err != nil || !json.Valid([]byte(got)) || strings.Contains(got, "s3cret") || !strings.Contains(got, `"URL":"`+wantJSON+`"`) ||
					strings.Contains(got, `"N"`) != strings.Contains(got, "12345678901234567890") {
					t.Errorf("of %s was kept %s, %v", info, got, err)
				}
			}
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
	s.Fault("/sumdb/*/lookup/*", listed)
	dir := t.TempDir()
	var fetchers []*modfetch.Fetcher // each with a call of Record of its own
	for range 2 {
		f, err := modfetch.New(modfetch.WithMirrors(record(t, dir, httpMirror(t, s.URL))), modfetch.WithSumDB(s.GOSUMDB()))
		if err != nil {
			t.Fatal(err)
		}
		fetchers = append(fetchers, f)
	}
	done := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		m, seen := replay(t, dir), make(map[string]bool)
		for {
			for _, path := range []string{mods[0].Path + "/@v/v1.0.0.mod", mods[1].Path + "/@v/v1.0.0.mod", "sumdb/" + databaseName(s) + "/latest"} {
				got, err := ask(m, path)
				if err == nil && !strings.HasSuffix(got, "\n") || err != nil && (seen[path] || modfetch.KindOf(err) != modfetch.Forbidden) {
					t.Errorf("%s: %q, %v", path, got, err)
				}
				seen[path] = err == nil
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	var writers sync.WaitGroup
	for _, f := range fetchers {
		writers.Go(func() {
			for m, err := range f.Download(t.Context(), mods) {
				if err != nil {
					t.Errorf("%s: %v", m.Path, err)
				}
			}
		})
	}
	writers.Wait()
	close(done)
	reader.Wait()
	s.Close()
	got := fetch(t, s, replay(t, dir), mods...)
	if len(got) != len(mods) {
		t.Errorf("%d of %d modules", len(got), len(mods))
	}
	for name := range tree(t, dir) {
		if strings.HasPrefix(filepath.Base(name), ".") {
			t.Errorf("%s was left", name)
		}
	}
}

// TestRecordingOfARace has a mirror whose files are condemned, and that is asked at the same time as a good one.
func TestRecordingOfARace(t *testing.T) {
	for range 5 {
		s := modfetchtest.NewServer(t, testdata())
		bad := s.Mirror()
		bad.Fault("*.zip", modfetchtest.Corrupt())
		bad.Fault("*.mod", modfetchtest.Corrupt())
		dir := t.TempDir()
		for _, open := range []func() []modfetch.Mirror{
			func() []modfetch.Mirror { return recordAll(t, dir, httpMirror(t, bad.URL), httpMirror(t, s.URL)) },
			func() []modfetch.Mirror { return replayAll(t, dir) },
		} {
			mirrors := open()
			f, err := modfetch.New(modfetch.WithMirrors(mirrors...), modfetch.WithSumDB(s.GOSUMDB()), modfetch.WithStrategy(modfetch.Race()))
			if err != nil {
				t.Fatal(err)
			}
			for m, err := range f.Download(t.Context(), recordedModules) {
				if err != nil {
					t.Errorf("%s of %v: %v", m.Version, mirrors, err)
				}
			}
			f.Close()
			s.Close()
		}
	}
}

// TestRecordingOfAll has mirrors with different lists, of which a Fetcher asks all.
func TestRecordingOfAll(t *testing.T) {
	s := modfetchtest.NewServer(t, nil)
	a := &answers{map[string]string{"a.test/@v/list": "v1.0.0\n"}}
	b := &answers{map[string]string{"a.test/@v/list": "v1.1.0\n"}}
	dir := t.TempDir()
	mirrors := recordAll(t, dir, a, b)
	for range 2 {
		f, err := modfetch.New(modfetch.WithMirrors(mirrors...), modfetch.WithSumDB(s.GOSUMDB()), modfetch.WithPolicy(modfetch.Policy{AskAll: time.Minute}))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := f.Versions(t.Context(), "a.test"); err != nil || !slices.Equal(got, []string{"v1.0.0", "v1.1.0"}) {
			t.Errorf("%v have %v, %v", mirrors, got, err)
		}
		mirrors = replayAll(t, dir)
	}
}

// TestBadDoesNotReplaceGood has a mirror that is bad before a record of the database is kept, then good, then bad again.
func TestBadDoesNotReplaceGood(t *testing.T) {
	s := modfetchtest.NewServer(t, testdata())
	dir := t.TempDir()
	const base = "example.com/m/@v/"
	bad := func() {
		s.Fault("*.zip", modfetchtest.Corrupt())
		s.Fault("*.mod", modfetchtest.Corrupt())
		s.Fault("*/@v/list", modfetchtest.HTML().Header("Content-Type", "Text/HTML; charset=utf-8"))
		s.Fault("*/v2/@v/list", modfetchtest.HTML().Header("Content-Type", "application/xhtml+xml"))
		s.Fault("*/@latest", modfetchtest.Handler(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "{} log in first") }))
		s.Fault("*.info", modfetchtest.Handler(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "log in first") }))
	}
	askAll := func() {
		m := record(t, dir, httpMirror(t, s.URL))
		for _, path := range []string{base + "v1.0.0.mod", base + "v1.0.0.zip", base + "v1.0.0.info", base + "list", "example.com/m/v2/@v/list", "example.com/m/@latest"} {
			_, want := get(t, s.URL+"/"+path)
			if got, err := ask(m, path); err != nil || got != want {
				t.Errorf("%s while it is recorded: %q, %v, want %q", path, got, err, want)
			}
		}
	}
	bad()
	askAll()
	for name := range tree(t, dir) {
		if !strings.HasSuffix(name, ".mod") && !strings.HasSuffix(name, ".zip") { // nothing condemns them yet
			t.Errorf("%s was recorded", name)
		}
	}
	s.ClearFaults()
	ask(record(t, dir, httpMirror(t, s.URL)), "sumdb/"+databaseName(s)+"/lookup/example.com/m@v1.0.0")
	askAll()
	want := tree(t, dir)
	for _, path := range []string{base + "v1.0.0.mod", base + "v1.0.0.zip", base + "list"} {
		if _, good := get(t, s.URL+"/"+path); want[path] != good {
			t.Errorf("kept as %s is %q, want %q", path, want[path], good)
		}
	}
	bad()
	askAll()
	if got := tree(t, dir); !maps.Equal(got, want) {
		t.Errorf("recorded %q, want %q", got, want)
	}
}

// TestRecordingGrows has nothing written again that was there.
func TestRecordingGrows(t *testing.T) {
	s := modfetchtest.NewServer(t, testdata())
	dir := t.TempDir()
	fetch(t, s, record(t, dir, httpMirror(t, s.URL)), recordedModules[:3]...)
	before := make(map[string]fs.FileInfo)
	for name := range tree(t, dir) {
		before[name], _ = os.Stat(filepath.Join(dir, "1", name))
	}
	s.AddRecords(100)
	fetch(t, s, record(t, dir, httpMirror(t, s.URL)), recordedModules[3])
	for name, old := range before {
		if now, err := os.Stat(filepath.Join(dir, "1", name)); err != nil || !os.SameFile(old, now) {
			t.Errorf("%s was written again, %v", name, err)
		}
	}
}

// TestRecordingOfOddVersions has versions that end as files of the protocol do.
func TestRecordingOfOddVersions(t *testing.T) {
	s := modfetchtest.NewServer(t, nil)
	var mods []module.Version
	for _, v := range []string{"v1.0.0", "v1.0.0-rc", "v1.0.0-rc.zip", "v1.0.0-rc.mod", "v1.0.0-rc.info", "v1.0.0-rc.zip.mod"} {
		m := module.Version{Path: "example.com/m", Version: v}
		s.Add(modfetchtest.NewModule(m.Path, m.Version).File("m.go", "package m // "+v+"\n"))
		mods = append(mods, m)
	}
	dir := t.TempDir()
	fetch(t, s, record(t, dir, httpMirror(t, s.URL)), mods...)
	fetch(t, s, record(t, dir, httpMirror(t, s.URL)), mods...) // with their records at hand
	fetch(t, s, replay(t, dir), mods...)
	for _, m := range mods { // with no other's tiles
		dir := t.TempDir()
		fetch(t, s, record(t, dir, httpMirror(t, s.URL)), m)
		fetch(t, s, replay(t, dir), m)
	}
}

// TestRecordRemovesWhatAKilledProcessLeft has two files of processes that write, or did.
func TestRecordRemovesWhatAKilledProcessLeft(t *testing.T) {
	dir := t.TempDir()
	record(t, dir, &answers{})
	for _, name := range []string{".recording-1", ".recording-2"} {
		if err := os.WriteFile(filepath.Join(dir, "1", name), nil, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	past := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(dir, "1", ".recording-1"), past, past); err != nil {
		t.Fatal(err)
	}
	record(t, dir, &answers{})
	if got := slices.Collect(maps.Keys(tree(t, dir))); !slices.Equal(got, []string{".recording-2"}) {
		t.Errorf("left: %q", got)
	}
}

// TestGitLeavesRecordingsAlone asks git about files of a recording in a repository that converts text and puts zips elsewhere.
func TestGitLeavesRecordingsAlone(t *testing.T) {
	git, err := exec.LookPath("git")
	if err != nil {
		t.Skip("there is no git in PATH")
	}
	repo := t.TempDir()
	record(t, filepath.Join(repo, "testdata"), &answers{})
	if err := os.WriteFile(filepath.Join(repo, ".gitattributes"), []byte("* text=auto\n*.zip filter=lfs\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		cmd := exec.CommandContext(t.Context(), git, args...)
		cmd.Dir = repo
		cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %q: %v\n%s", args, err, out)
		}
		return string(out)
	}
	run("init", "--quiet")
	out := run("check-attr", "text", "filter", "--", "testdata/1/a.test/@v/v1.0.0.mod", "testdata/1/a.test/@v/v1.0.0.zip")
	if strings.Count(out, ": unset\n") != 4 {
		t.Errorf("git says\n%s", out)
	}
	run("add", ".")
	if out := run("ls-files"); !strings.Contains(out, "testdata/1/") { // though nothing was asked
		t.Errorf("git keeps\n%s", out)
	}
}

func TestRecordingThatCannotBeWritten(t *testing.T) {
	dir := t.TempDir()
	head := string(tlog.FormatTree(tlog.Tree{N: 1}))
	m := record(t, dir, &answers{map[string]string{"a.test/@v/list": "v1.0.0\n", "a.test/@v/v1.0.0.zip": "zip", "sumdb/a.test/latest": head}})
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"a.test/@v/list", "a.test/@v/v1.0.0.zip", "a.test/none/@v/list", "sumdb/a.test/latest"} {
		if _, err := ask(m, path); err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v, want an error of the disk that is no absence", path, err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "1"), 0o777); err != nil {
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
	head, err := ask(m, latest)
	if err != nil {
		t.Fatal(err)
	}
	s.AddRecords(600)
	s.Fault("/sumdb/*/tile/8/0/000.p/*", modfetchtest.Status(http.StatusNotFound))
	fetch(t, s, m, recordedModules...)
	if now, err := ask(m, latest); err != nil || now == head {
		t.Errorf("while it is recorded the head is %s, %v", now, err)
	}
	if again, err := ask(replay(t, dir), latest); err != nil || again != head {
		t.Errorf("the head is now %s, %v, not %s", again, err, head)
	}
	s.Close()
	fetch(t, s, replay(t, dir), recordedModules...)
}

// TestTilesAreRecordedOnceTheyAreProven asks for a tile that no lookup has led to.
func TestTilesAreRecordedOnceTheyAreProven(t *testing.T) {
	s := modfetchtest.NewServer(t, testdata())
	s.AddRecords(300)
	dir := t.TempDir()
	path := "sumdb/" + databaseName(s) + "/tile/8/0/000"
	if got, err := ask(record(t, dir, httpMirror(t, s.URL)), path); err != nil || len(got) != 8192 {
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
			m := record(t, dir, httpMirror(t, s.URL))
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
		m := record(t, dir, httpMirror(t, s.URL))
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
	m := record(t, t.TempDir(), telling{httpMirror(t, s.URL), received})
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

// TestGoCommandReadsARecording gives it to the go command as files.
func TestGoCommandReadsARecording(t *testing.T) {
	s := modfetchtest.NewServer(t, testdata())
	env := s.Env(t)
	dir := t.TempDir()
	want := fetch(t, s, record(t, dir, httpMirror(t, s.URL)), recordedModules...)
	s.Close()
	env = append(env, "GOPROXY=file:///"+strings.TrimPrefix(filepath.ToSlash(dir), "/")+"/1")
	for _, m := range recordedModules {
		d, err := goModDownload(t, env, m.String())
		if err != nil || !strings.Contains(want[m], d.Sum+d.GoModSum) {
			t.Errorf("%s: %v %s, sums %s and %s, want %s", m, err, d.Error, d.Sum, d.GoModSum, want[m])
		}
	}
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
