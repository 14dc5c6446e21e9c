package modfetchtest_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/modfetchtest"
	"golang.org/x/mod/module"
)

// unsigned makes lookups carry a signature that does not hold.
func unsigned(honest http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := httptest.NewRecorder()
		honest.ServeHTTP(a, r)
		body := a.Body.String()
		io.WriteString(w, body[:len(body)-9]+"AAAAAAA=\n")
	})
}

// TestFalseHeadSpoilsNoOtherRecording records a mirror that shows a larger tree than there is beside one that is honest.
func TestFalseHeadSpoilsNoOtherRecording(t *testing.T) {
	s := modfetchtest.NewServer(t, testdata())
	s.AddRecords(10)
	bad := s.Fork()
	bad.AddRecords(100)
	bad.Fault("*/lookup/*", modfetchtest.Middleware(unsigned))
	dir := t.TempDir()
	get := func(title string, mirrors ...modfetch.Mirror) {
		f, err := modfetch.New(modfetch.WithMirrors(mirrors...), modfetch.WithSumDB(s.GOSUMDB()))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for _, m := range recordedModules[:2] {
			if _, err := f.GoMod(t.Context(), m); err != nil {
				t.Errorf("%s, %s: %v", title, m, err)
			}
		}
	}
	mirrors := recordAll(t, dir, httpMirror(t, bad.URL), httpMirror(t, s.URL))
	get("recording", mirrors...)
	get("replay", replayAll(t, dir)...)
	get("recording later, the honest mirror alone", mirrors[1])
	get("replay of the honest mirror", replayAll(t, dir)[1])
}

// TestRecordingChangesNoAnswer has a mirror that has once shown a false head, and then the true one.
func TestRecordingChangesNoAnswer(t *testing.T) {
	s := modfetchtest.NewServer(t, testdata())
	s.AddRecords(10)
	fork := s.Fork()
	fork.AddRecords(100)
	lookup, latest := "sumdb/"+databaseName(s)+"/lookup/example.com/m@v1.0.0", "sumdb/"+databaseName(s)+"/latest"
	dir := t.TempDir()
	ask(record(t, dir, httpMirror(t, fork.URL)), latest)
	m := record(t, dir, httpMirror(t, s.URL))
	_, want := get(t, s.URL+"/"+latest)
	if got, err := ask(m, latest); err != nil || got != want {
		t.Errorf("the head is %q, %v, want %q", got, err, want)
	}
	_, err := ask(m, lookup)
	if err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "make it anew") {
		t.Errorf("error %v, which does not say what to do", err)
	}

	dir = t.TempDir() // anew, and with a head that is older than the mirror's
	m = record(t, dir, httpMirror(t, s.URL))
	ask(m, latest)
	s.AddRecords(100)
	_, want = get(t, s.URL+"/"+lookup)
	if got, err := ask(m, lookup); err != nil || got != want {
		t.Errorf("the mirror's answer is %q, %v, want %q", got, err, want)
	}
}

// TestRecordingGoesOnWithItsHead has a mirror whose new head, which a record needs, is not that of the same tree.
func TestRecordingGoesOnWithItsHead(t *testing.T) {
	s := modfetchtest.NewServer(t, testdata())
	s.AddRecords(300)
	fork := s.Fork()
	dir := t.TempDir()
	if _, err := ask(record(t, dir, httpMirror(t, s.URL)), "sumdb/"+databaseName(s)+"/latest"); err != nil {
		t.Fatal(err)
	}
	fork.AddRecords(10)
	fork.Add(modfetchtest.NewModule("example.com/late", "v1.0.0"))
	before := tree(t, dir)
	_, err := ask(record(t, dir, httpMirror(t, fork.URL)), "sumdb/"+databaseName(s)+"/lookup/example.com/late@v1.0.0")
	if err == nil || !strings.Contains(err.Error(), "does not continue") {
		t.Errorf("error %v", err)
	}
	after := tree(t, dir)
	for name, content := range before {
		if after[name] != content {
			t.Errorf("%s has changed", name)
		}
	}
}

// TestRecordingOfAKilledProcess was left while lookups were put under a new head: some have it, some have not.
func TestRecordingOfAKilledProcess(t *testing.T) {
	s := modfetchtest.NewServer(t, testdata())
	dir := t.TempDir()
	m := record(t, dir, httpMirror(t, s.URL))
	fetch(t, s, m, recordedModules[:2]...)
	database := filepath.Join(dir, "1", "sumdb", databaseName(s))
	old := tree(t, database)
	s.AddRecords(70_000)
	late := module.Version{Path: "example.com/late", Version: "v1.0.0"}
	s.Add(modfetchtest.NewModule(late.Path, late.Version).File("late.go", "package late\n"))
	fetch(t, s, m, late)
	s.Close()
	for _, left := range [][]string{{"latest"}, {"lookup/example.com/m@v1.0.0"}, {"latest", "lookup/example.com/m@v1.0.0"}} {
		done := tree(t, database)
		for _, name := range left {
			if done[name] == old[name] {
				t.Fatalf("%s was not changed", name)
			}
			if err := os.WriteFile(filepath.Join(database, name), []byte(old[name]), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		for _, order := range [][]module.Version{{recordedModules[0], recordedModules[1], late}, {late, recordedModules[0]}, {recordedModules[1], recordedModules[0]}} {
			fetch(t, s, replay(t, dir), order...)
		}
		for name, content := range done {
			if err := os.WriteFile(filepath.Join(database, name), []byte(content), 0o666); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestRecordingsOfOneDatabase has lookups that were answered by one mirror or another while the database grew.
func TestRecordingsOfOneDatabase(t *testing.T) {
	s := modfetchtest.NewServer(t, testdata())
	s.AddRecords(300)
	dir := t.TempDir()
	mirrors := recordAll(t, dir, httpMirror(t, s.URL), httpMirror(t, s.Mirror().URL), httpMirror(t, s.Mirror().URL))
	for i, order := range []int{1, 0, 2, 1} {
		late := module.Version{Path: "example.com/late", Version: fmt.Sprintf("v1.0.%d", i)}
		s.Add(modfetchtest.NewModule(late.Path, late.Version).File("late.go", "package late\n"))
		fetch(t, s, mirrors[order], late)
		s.AddRecords(1000)
	}
	s.Close()
	replays := replayAll(t, dir)
	for _, order := range [][]int{{0, 1, 2, 3}, {3, 2, 1, 0}, {2, 0}, {0, 2}, {1, 3}, {2, 3}, {3, 0}} {
		f, err := modfetch.New(modfetch.WithMirrors(replays...), modfetch.WithSumDB(s.GOSUMDB()), modfetch.WithPolicy(modfetch.Policy{Offline: true}))
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range order {
			if _, err := f.GoMod(t.Context(), module.Version{Path: "example.com/late", Version: fmt.Sprintf("v1.0.%d", i)}); err != nil {
				t.Errorf("%d of the order %v: %v", i, order, err)
			}
		}
		f.Close()
	}
}

// TestRecordingOfALaggingMirror has the older head recorded after the newer one, by a mirror that has no tiles of that.
func TestRecordingOfALaggingMirror(t *testing.T) {
	s := modfetchtest.NewServer(t, testdata())
	s.AddRecords(300)
	lagging := s.Lag()
	s.AddRecords(1000)
	late := module.Version{Path: "example.com/late", Version: "v1.0.0"}
	s.Add(modfetchtest.NewModule(late.Path, late.Version).File("late.go", "package late\n"))
	dir := t.TempDir()
	mirrors := recordAll(t, dir, httpMirror(t, s.URL), httpMirror(t, lagging.URL))
	fetch(t, s, mirrors[0], late)
	fetch(t, s, mirrors[1], recordedModules[0])
	s.Close()
	f, err := modfetch.New(modfetch.WithMirrors(replayAll(t, dir)...), modfetch.WithSumDB(s.GOSUMDB()), modfetch.WithPolicy(modfetch.Policy{Offline: true}))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []module.Version{late, recordedModules[0]} {
		if _, err := f.GoMod(t.Context(), m); err != nil {
			t.Errorf("%s: %v", m, err)
		}
	}
}
