package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestEnv(t *testing.T) {
	w := newWorld(t)
	file := filepath.Join(w.dir, "env")
	w.write(w.dir, "env", "GOPRIVATE=corp.example\nGOFLAGS=-modcacherw\n")
	t.Setenv("GOENV", file)
	for _, name := range []string{"GOPRIVATE", "GONOPROXY", "GONOSUMDB", "GOFLAGS", "GOAUTH", "NETRC"} {
		t.Setenv(name, "")
	}
	t.Setenv("GOPROXY", "https://me:secret@goproxy.cn/base?token=secret|https://mirror.example,direct")
	t.Setenv("GOSUMDB", "sum.golang.org https://me:secret@sums.example")
	t.Setenv("NETRC", filepath.Join(w.dir, "netrc"))

	_, stdout, stderr := w.modfetch("env", "github.com/some/module", "corp.example/module")
	want := "GOPROXY=https://***@goproxy.cn/base?***|https://mirror.example,direct  # environment\n" +
		"GOSUMDB=sum.golang.org https://***@sums.example  # environment\n" +
		"GOPRIVATE=corp.example  # " + file + "\n" +
		"GONOPROXY=corp.example  # default\n" +
		"GONOSUMDB=corp.example  # default\n" +
		"GOMODCACHE=" + os.Getenv("GOMODCACHE") + "  # environment\n" +
		"GOPATH=" + os.Getenv("GOPATH") + "  # environment\n" +
		"GOFLAGS=-modcacherw  # " + file + "\n" +
		"GOAUTH=netrc  # default\n" +
		"NETRC=" + filepath.Join(w.dir, "netrc") + "  # environment\n" +
		"github.com/some/module\n" +
		"  mirrors     https://goproxy.cn/base|https://mirror.example\n" +
		"  then        direct\n" +
		"  checksums   sum.golang.org  at https://sums.example, https://goproxy.cn/base, https://mirror.example\n" +
		"corp.example/module\n" +
		"  mirrors     direct\n" +
		"  checksums   not looked up, because of GOPRIVATE=corp.example\n"
	if stdout != want || stderr != "" {
		t.Errorf("printed\n%swant\n%s", stdout, want)
	}
	if w.Count("*") > 0 {
		t.Errorf("somebody was asked: %q", w.Requests())
	}

	_, stdout, _ = w.modfetch("env", "-json", "github.com/some/module", "corp.example/module")
	var got envJSON
	if err := json.Unmarshal([]byte(stdout), &got); err != nil {
		t.Fatal(err)
	}
	if plain := got.plain(); plain != want {
		t.Errorf("with -json\n%swant\n%s", plain, want)
	}
	if strings.Contains(stdout, "secret") {
		t.Errorf("a secret in\n%s", stdout)
	}
}

// TestEnvOfMirrors has a database that is read through the mirrors.
func TestEnvOfMirrors(t *testing.T) {
	w := newWorld(t)
	t.Setenv("GOSUMDB", "sum.golang.org")
	t.Setenv("GOPROXY", "https://goproxy.cn,https://mirror.example,off")
	_, stdout, _ := w.modfetch("env", "-json", "example.com/a")
	var got envJSON
	if err := json.Unmarshal([]byte(stdout), &got); err != nil {
		t.Fatal(err)
	}
	want := []routeJSON{{
		Path: "example.com/a", Mirrors: [][]string{{"https://goproxy.cn"}, {"https://mirror.example"}, {"off"}},
		Sums: "sum.golang.org", SumsAt: []string{"https://goproxy.cn", "https://mirror.example", "https://sum.golang.org"},
	}}
	if !reflect.DeepEqual(got.Routes, want) {
		t.Errorf("routes %v, want %v", got.Routes, want)
	}
}

// TestEnvOfWrongSettings shows the settings with the mistake in them.
func TestEnvOfWrongSettings(t *testing.T) {
	w := newWorld(t)
	t.Setenv("GOPROXY", "ftp://me:secret@x.example")
	code, stdout, stderr := w.modfetch("env", "example.com/a")
	if code != exitFailed || !strings.HasPrefix(stdout, "GOPROXY=ftp://***@x.example  # environment\n") || !strings.Contains(stderr, "GOPROXY (environment) has") {
		t.Errorf("exit code %d, printed\n%s", code, stdout)
	}
	if strings.Contains(stdout+stderr, "secret") {
		t.Errorf("a secret in\n%s%s", stdout, stderr)
	}
}

func TestWithoutSecrets(t *testing.T) {
	for value, want := range map[string]string{
		"":                          "",
		"direct":                    "direct",
		"https://goproxy.cn,direct": "https://goproxy.cn,direct",
		"https://goproxy.cn, https://b.example | off":                             "https://goproxy.cn, https://b.example | off",
		"goproxy.cn,b.example":                                                    "goproxy.cn,b.example",
		"https://secret@b.example":                                                "https://***@b.example",
		"https://u:secret@b.example/x,direct":                                     "https://***@b.example/x,direct",
		"u:secret@b.example":                                                      "***@b.example",
		"https://b.example?secret":                                                "https://b.example?***",
		"https://u:sec,ret@b.example,off":                                         "https://***@b.example,off",
		"https://u:secret?x@b.example":                                            "https://***?***",
		"https://u:secret#x@b.example":                                            "https://***@b.example",
		"https://u:secret/x@b.example":                                            "https://***@b.example",
		"https://u:secret@secret@b.example":                                       "https://***@b.example",
		"https://b.example?a=secret,secret|direct":                                "https://b.example?***|direct",
		"https://b.example?a=u@secret":                                            "https://***?***",
		"https://u:secret@a.example|https://c.example,https://u:secret@b.example": "https://***@a.example|https://c.example,https://***@b.example",
		"sum.golang.org+033de0ae+Ac4z/ctda0 https://u:secret@b.example":           "sum.golang.org+033de0ae+Ac4z/ctda0 https://***@b.example",
		"netrc; git /home/me":                                                     "netrc; git /home/me",
	} {
		if got := withoutSecrets(value); got != want {
			t.Errorf("%s: %s, want %s", value, got, want)
		}
	}
}

func FuzzWithoutSecrets(f *testing.F) {
	f.Add("user", "p,a|s?s", "https://goproxy.cn,", ",direct")
	f.Add("u", "://x@", "", "")
	f.Fuzz(func(t *testing.T, user, password, before, after string) {
		const marker = "S3CRET"
		for _, taken := range []string{user, password, before, after} {
			// What follows a separator as a URL, or an end of the list, is another item.
			if strings.Contains(taken, "://") || strings.Contains(taken, "direct") || strings.Contains(taken, "off") || strings.Contains(taken, marker) {
				t.Skip()
			}
		}
		if got := withoutSecrets(before + "https://" + user + ":" + password + marker + "@b.example" + after); strings.Contains(got, marker) {
			t.Errorf("printed %s", got)
		}
	})
}
