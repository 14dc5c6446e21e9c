package modfetch_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/modfetchtest"
	"golang.org/x/mod/module"
)

// sumTree writes go.mod files, and what proves them under the head that s shows, to a directory, and returns its URL.
func sumTree(t testing.TB, s *modfetchtest.Server, mods []module.Version, older ...[]byte) string {
	t.Helper()
	f := newGoClient(t, s, s.URL)
	files, err := f.SumFiles(t.Context(), mods, nil, older...)
	if err != nil {
		t.Fatal(err)
	}
	tree := make(fstest.MapFS)
	for name, data := range files {
		tree[name] = &fstest.MapFile{Data: data}
	}
	for _, m := range mods {
		goMod, err := f.GoMod(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		tree[proxyPath(t, m)+".mod"] = &fstest.MapFile{Data: goMod}
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, fs.FS(tree)); err != nil {
		t.Fatal(err)
	}
	return "file:///" + strings.TrimPrefix(filepath.ToSlash(dir), "/")
}

// TestTreesUnderOtherHeads: a tree of files may be older than what a client knows, or newer without the proof. By itself it
// proves nothing then; beside the newer one, that was written onto its head, it does.
func TestTreesUnderOtherHeads(t *testing.T) {
	s := newLog(t)
	lag := s.Lag()
	s.AddRecords(300)
	older := sumTree(t, lag, []module.Version{moduleM})
	plain := sumTree(t, s, []module.Version{moduleV2, moduleOld, moduleUpper})
	onto := sumTree(t, s, []module.Version{moduleV2}, []byte(honestSum(t, lag, "latest")))
	goMod := func(c *goClient, list string, m module.Version) error {
		env := c.env
		env.GOPROXY = list
		_, err := newBareFetcher(t, modfetch.WithGoEnv(env), (&homeHost{}).option()).GoMod(t.Context(), m)
		return err
	}

	c := newGoClient(t, s, older)
	c.mustLookUp(t, moduleM)
	env := c.env
	env.GOPROXY = plain
	f := newBareFetcher(t, modfetch.WithGoEnv(env), (&homeHost{}).option())
	var lookups sync.WaitGroup // which share the tiles that are missing
	for _, m := range []module.Version{moduleV2, moduleOld, moduleUpper} {
		lookups.Go(func() {
			if _, err := f.GoMod(t.Context(), m); !strings.Contains(fmt.Sprint(err), "modfetch bundle -onto") {
				t.Errorf("newer without the proof: %v", err)
			}
		})
	}
	lookups.Wait()
	if err := goMod(c, onto, moduleV2); err != nil {
		t.Errorf("newer with the proof: %v", err)
	}

	for _, list := range []string{older + "|" + onto, onto + "|" + older, older + "," + onto, onto + "," + older} {
		c := newGoClient(t, s, onto)
		c.mustLookUp(t, moduleV2)
		if err := goMod(c, older, moduleM); !strings.Contains(fmt.Sprint(err), "a bundle with a newer head") {
			t.Errorf("older: %v", err)
		}
		if err := goMod(c, list, moduleM); err != nil {
			t.Errorf("older and newer in %s: %v", list, err)
		}
	}
}

// sumFiles returns the files that prove a record, and the number of records under their head.
func sumFiles(t *testing.T, mirrors string, s *modfetchtest.Server, older ...[]byte) (files map[string][]byte, n int) {
	t.Helper()
	f, err := modfetch.New(modfetch.WithGOPROXY(mirrors), modfetch.WithSumDB(s.GOSUMDB()), modfetch.WithModCache(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if files, err = f.SumFiles(t.Context(), []module.Version{moduleM}, nil, older...); err != nil {
		t.Fatal(err)
	}
	_, err = fmt.Sscanf(string(files["sumdb/"+databaseOf(s)+"/latest"]), "go.sum database tree\n%d\n", &n)
	if err != nil {
		t.Fatal(err)
	}
	return files, n
}

// TestSumFilesUnderTheNewestHead has a mirror that lags, before one that does not.
func TestSumFilesUnderTheNewestHead(t *testing.T) {
	s := newLog(t)
	lag := s.Lag()
	_, old := sumFiles(t, lag.URL, s)
	s.AddRecords(700)
	files, n := sumFiles(t, lag.URL+"|"+s.URL, s)
	if n != old+700 {
		t.Errorf("proven under %d records, want %d", n, old+700)
	}
	// A head that is given may be newer than what any mirror shows by now.
	head := files["sumdb/"+databaseOf(s)+"/latest"]
	quiet := s.Mirror()
	quiet.Fault("/sumdb/*/latest", modfetchtest.Status(http.StatusNotFound))
	if _, n := sumFiles(t, lag.URL+"|"+quiet.URL, s, head); n != old+700 {
		t.Errorf("proven under %d records, want %d", n, old+700)
	}
	if _, n := sumFiles(t, quiet.URL, s, head); n != old+700 {
		t.Errorf("proven under %d records, want %d", n, old+700)
	}
}

// TestCancelledSumFiles cancels at each request in turn.
func TestCancelledSumFiles(t *testing.T) {
	s := newLog(t)
	for _, part := range []string{"lookup/*/*", "latest", "tile/*"} {
		ctx, cancel := context.WithCancel(t.Context())
		m := s.Mirror()
		m.Fault("/sumdb/*/"+part, modfetchtest.Middleware(func(honest http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				cancel()
				honest.ServeHTTP(w, r)
			})
		}))
		f, err := modfetch.New(modfetch.WithGOPROXY(m.URL), modfetch.WithSumDB(s.GOSUMDB()), modfetch.WithModCache(t.TempDir()))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		_, err = f.SumFiles(ctx, []module.Version{moduleM}, nil)
		if !errors.Is(err, context.Canceled) || modfetch.KindOf(err) != modfetch.Canceled {
			t.Errorf("%s: %s error %v", part, modfetch.KindOf(err), err)
		}
		if !strings.Contains(strings.Join(m.Requests(), " "), strings.TrimSuffix(part, "/*")[:4]) {
			t.Errorf("%s: requested %q", part, m.Requests())
		}
	}
}
