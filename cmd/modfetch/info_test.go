package main

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/modfetch/modfetch/modfetchtest"
)

func TestInfo(t *testing.T) {
	const a = "example.com/a v1.1.0\n" +
		"  time        2024-05-06T07:08:09Z\n" +
		"  vcs         git\n" +
		"  url         https://example.com/a\n" +
		"  hash        0123456789abcdef0123456789abcdef01234567\n" +
		"  ref         refs/tags/v1.1.0\n"
	const old = "example.com/old v1.2.0\n  time        2024-01-01T00:00:00Z\n"
	for _, test := range []struct {
		name   string
		args   []string
		code   int
		stdout string
		stderr string // in it
	}{
		{"no query", []string{"example.com/a"}, exitOK, a, ""},
		{"version", []string{"example.com/a@v1.1.0"}, exitOK, a, ""},
		{"range", []string{"example.com/a@>v1.0.0"}, exitOK, a, ""},
		{"one twice", []string{"example.com/a", "example.com/a@latest"}, exitOK, a, ""},
		{"deprecated", []string{"example.com/old"}, exitOK, old + "  deprecated  use example.com/a \uFFFD[31minstead\n", ""},
		{"deprecated, but not asked", []string{"example.com/old@v1.2.0"}, exitOK, old, ""},
		{"no match", []string{"example.com/a@v3", "example.com/a"}, exitFailed, a, "modfetch: no version of example.com/a matches v3"},
		{"no such version", []string{"example.com/a@v1.0.7"}, exitFailed, "", "\n\tversions near it: v1.0.0, v1.1.0\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			addOld(w)
			code, stdout, stderr := w.modfetch(append([]string{"info"}, test.args...)...)
			if code != test.code || stdout != test.stdout || !strings.Contains(stderr, test.stderr) || test.stderr == "" && stderr != "" {
				t.Errorf("exit code %d, want %d; printed\n%swant\n%s", code, test.code, stdout, test.stdout)
			}
		})
	}
}

// addOld adds a module whose deprecation would turn a terminal red.
func addOld(w *world) {
	w.Add(modfetchtest.NewModule("example.com/old", "v1.2.0").
		File("go.mod", "// Deprecated: use example.com/a\n// \x1b[31minstead\nmodule example.com/old\n").
		File(".info", `{"Version":"v1.2.0","Time":"2024-01-01T00:00:00Z"}`))
}

func TestInfoJSON(t *testing.T) {
	w := newWorld(t)
	addOld(w)
	code, stdout, stderr := w.modfetch("info", "-json", "example.com/a@v1.1", "example.com/old", "example.com/nope")
	got := objects(t, stdout, "")
	if code != exitFailed || stderr != "" || len(got) != 3 {
		t.Fatalf("exit code %d, %d objects", code, len(got))
	}
	var want map[string]any
	if err := json.Unmarshal([]byte(`{"Path":"example.com/a","Query":"v1.1","Version":"v1.1.0","Time":"2024-05-06T07:08:09Z",`+
		`"Origin":{"VCS":"git","URL":"https://example.com/a","Hash":"0123456789abcdef0123456789abcdef01234567","Ref":"refs/tags/v1.1.0"}}`),
		&want); err != nil {
		t.Fatal(err)
	}
	if fields := got["example.com/a"].fields; !reflect.DeepEqual(fields, want) {
		t.Errorf("printed %v, want %v", fields, want)
	}
	if text := got["example.com/old"].fields["Deprecated"]; text != "use example.com/a\n\x1b[31minstead" {
		t.Errorf("deprecated: %q", text)
	}
	nope := got["example.com/nope"].fields
	if keys := slices.Sorted(maps.Keys(nope)); !slices.Equal(keys, []string{"Error", "Path", "Query"}) || nope["Query"] != "latest" {
		t.Errorf("of a module that does not exist: %v", nope)
	}
}

// TestInfoIsVerified has a mirror that makes up a go.mod file for the version that it calls the latest.
func TestInfoIsVerified(t *testing.T) {
	w := newWorld(t)
	w.Fault("/example.com/c/@v/*.mod", modfetchtest.Corrupt())
	code, stdout, stderr := w.modfetch("info", "example.com/c")
	if code != exitFailed || stdout != "" || !strings.Contains(stderr, "checksum mismatch") {
		t.Errorf("exit code %d, printed %s", code, stdout)
	}
}
