package main

import (
	"context"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/modfetch/modfetch/modfetchtest"
)

func TestList(t *testing.T) {
	for _, test := range []struct {
		name   string
		args   []string
		code   int
		stdout string
		stderr string // in it
	}{
		{"one module", []string{"example.com/a"}, exitOK, "v1.0.0\nv1.1.0\n", ""},
		{"several modules", []string{"example.com/c", "example.com/b"}, exitOK,
			"example.com/c v1.0.0\nexample.com/c v1.1.0\nexample.com/b v1.0.0\n", ""},
		{"one twice", []string{"example.com/b", "example.com/b"}, exitOK, "v1.0.0\n", ""},
		{"no versions", []string{"example.com/untagged"}, exitOK, "", ""},
		{"one fails", []string{"example.com/nope", "example.com/b"}, exitFailed, "example.com/b v1.0.0\n",
			"modfetch: fetching example.com/nope"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			w.Add(modfetchtest.NewModule("example.com/untagged", "v0.0.0-20240102030405-0123456789ab"))
			code, stdout, stderr := w.modfetch(append([]string{"list"}, test.args...)...)
			if code != test.code || stdout != test.stdout || !strings.Contains(stderr, test.stderr) || test.stderr == "" && stderr != "" {
				t.Errorf("exit code %d, want %d; printed\n%swant\n%s", code, test.code, stdout, test.stdout)
			}
		})
	}
}

func TestListJSON(t *testing.T) {
	w := newWorld(t)
	w.Add(modfetchtest.NewModule("example.com/untagged", "v0.0.0-20240102030405-0123456789ab"))
	code, stdout, stderr := w.modfetch("list", "-json", "example.com/a", "example.com/untagged", "example.com/nope")
	got := objects(t, stdout, "")
	if code != exitFailed || stderr != "" || len(got) != 3 {
		t.Errorf("exit code %d, %d objects", code, len(got))
	}
	for path, want := range map[string][]any{"example.com/a": {"v1.0.0", "v1.1.0"}, "example.com/untagged": {}} {
		if versions := got[path].fields["Versions"]; !reflect.DeepEqual(versions, want) {
			t.Errorf("%s: %v, want %v", path, versions, want)
		}
	}
	nope := got["example.com/nope"].fields
	if text, _ := nope["Error"].(string); !strings.Contains(text, "example.com/nope") || nope["Versions"] != nil {
		t.Errorf("of a module that does not exist: %v", nope)
	}
}

func TestListUsesMirrorsFlag(t *testing.T) {
	w := newWorld(t)
	other := modfetchtest.NewServer(t, nil)
	other.Add(modfetchtest.NewModule("example.com/a", "v1.9.0"))
	if _, stdout, _ := w.modfetch("list", "-mirrors", other.URL, "example.com/a"); stdout != "v1.9.0\n" || w.Count("*") > 0 {
		t.Errorf("printed %q, and the mirror in GOPROXY was asked %d times", stdout, w.Count("*"))
	}
}

func TestListIsInterrupted(t *testing.T) {
	w := newWorld(t)
	ctx, interrupt := context.WithCancel(t.Context())
	w.Fault("*", modfetchtest.Handler(func(_ http.ResponseWriter, r *http.Request) {
		interrupt()
		<-r.Context().Done()
	}))
	code, stdout, stderr := w.modfetchUntil(ctx, "list", "-json", "example.com/a")
	if code != exitInterrupted || stdout != "" || stderr != "modfetch: interrupted\n" {
		t.Errorf("exit code %d, printed %s", code, stdout)
	}
}
