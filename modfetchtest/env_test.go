package modfetchtest_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modfetch/modfetch/modfetchtest"
)

type download struct {
	Path, Version, Error, Info, GoMod, Zip, Dir, Sum, GoModSum string
}

// goCommand returns a go command to run in dir.
func goCommand(t *testing.T, env []string, dir string, args ...string) *exec.Cmd {
	t.Helper()
	name, err := exec.LookPath("go")
	if err != nil {
		t.Skip("there is no go command in PATH to be the client")
	}
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	cmd.Env = env
	return cmd
}

// goModDownload lets the go command download one module, outside any module.
func goModDownload(t *testing.T, env []string, query string) (download, error) {
	t.Helper()
	stdout, err := goCommand(t, env, t.TempDir(), "mod", "download", "-json", query).Output()
	var d download
	json.Unmarshal(stdout, &d) // it prints nothing where it says all on standard error
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		d.Error += string(exit.Stderr)
	}
	return d, err
}

func TestGoCommandDownloads(t *testing.T) {
	s := modfetchtest.NewServer(t, testdata())
	s.Add(modfetchtest.NewModule("example.com/code", "v1.0.0").File("code.go", "package code\n"))
	env := s.Env(t)
	for _, test := range []struct{ name, query, path, version string }{
		{"archive", "example.com/m@v1.0.0", "example.com/m", "v1.0.0"},
		{"upper case", "example.com/Odd/under_score@v1.2.3", "example.com/Odd/under_score", "v1.2.3"},
		{"major version and upper case version", "example.com/m/v2@v2.1.0-RC.1", "example.com/m/v2", "v2.1.0-RC.1"},
		{"incompatible", "example.com/old@v3.0.0+incompatible", "example.com/old", "v3.0.0+incompatible"},
		{"branch", "example.com/old@main", "example.com/old", "v0.0.0-20210102030405-abcdef012345"},
		{"directory", "example.com/tree@latest", "example.com/tree", "v1.0.0"},
		{"code", "example.com/code@v1", "example.com/code", "v1.0.0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			d, err := goModDownload(t, env, test.query)
			if err != nil {
				t.Fatalf("%v: %s", err, d.Error)
			}
			if d.Path != test.path || d.Version != test.version {
				t.Errorf("got %s@%s, want %s@%s", d.Path, d.Version, test.path, test.version)
			}
			if got := d.Path + " " + d.Version + " " + d.Sum + "\n" + d.Path + " " + d.Version + "/go.mod " + d.GoModSum + "\n"; got != s.GoSum(d.Path, d.Version) {
				t.Errorf("sums %q, want %q", got, s.GoSum(d.Path, d.Version))
			}
			if _, err := os.Stat(d.Dir); err != nil {
				t.Error(err)
			}
		})
	}
	if s.Count("/sumdb/*/lookup/*") == 0 || s.Count("/sumdb/*/tile/*") == 0 {
		t.Errorf("the go command verified nothing: %q", s.Requests())
	}
}

func TestGoCommandBuilds(t *testing.T) {
	s := modfetchtest.NewServer(t, nil)
	s.Add(modfetchtest.NewModule("example.com/word", "v1.2.0").File("word.go", "package word\n\nconst World = \"world\"\n"))
	s.Add(modfetchtest.NewModule("example.com/greet/v2", "v2.0.1").
		File("go.mod", "module example.com/greet/v2\n\ngo 1.26\n\nrequire example.com/word v1.2.0\n").
		File("greet.go", "package greet\n\nimport \"example.com/word\"\n\nconst Greeting = \"hello, \" + word.World\n"))
	env, dir := s.Env(t), t.TempDir()
	for name, content := range map[string]string{
		"go.mod": "module example.com/app\n\ngo 1.26\n",
		"app.go": "package app\n\nimport greet \"example.com/greet/v2\"\n\nvar _ [12]int = [len(greet.Greeting)]int{}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"get", "example.com/greet/v2@latest"}, {"mod", "download"}, {"build", "./..."}, {"mod", "verify"}} {
		if out, err := goCommand(t, env, dir, args...).CombinedOutput(); err != nil {
			t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	sum, err := os.ReadFile(filepath.Join(dir, "go.sum"))
	if want := s.GoSum("example.com/greet/v2", "v2.0.1") + s.GoSum("example.com/word", "v1.2.0"); string(sum) != want {
		t.Errorf("go.sum %q, %v, want %q", sum, err, want)
	}
	for _, lookup := range []string{"/sumdb/*/lookup/example.com/greet/v2@v2.0.1", "/sumdb/*/lookup/example.com/word@v1.2.0"} {
		if s.Count(lookup) != 1 {
			t.Errorf("%d requests for %s, want one", s.Count(lookup), lookup)
		}
	}
}

// TestGoCommandTakesServersInTurn uses several servers with one GOPATH, which holds what is known of their databases, and
// one module cache.
func TestGoCommandTakesServersInTurn(t *testing.T) {
	a, b := modfetchtest.NewServer(t, nil), modfetchtest.NewServer(t, nil)
	env := a.Env(t)
	for i, s := range []*modfetchtest.Server{a, b, a, b} {
		path := fmt.Sprintf("example.com/m%d", i)
		s.Add(modfetchtest.NewModule(path, "v1.0.0"))
		d, err := goModDownload(t, append(env, "GOPROXY="+s.URL, "GOSUMDB="+s.GOSUMDB()), path+"@v1.0.0")
		if err != nil || !strings.Contains(s.GoSum(path, "v1.0.0"), d.Sum) {
			t.Errorf("%s: %v: %s", path, err, d.Error)
		}
		if lookup := "/sumdb/" + databaseName(s) + "/lookup/" + path + "@v1.0.0"; s.Count(lookup) != 1 {
			t.Errorf("%s was not looked up: %q", path, s.Requests())
		}
	}
}

// TestGoCommandNeedsOnlyLoopback runs tests again where there is no other network.
func TestGoCommandNeedsOnlyLoopback(t *testing.T) {
	const inside = "MODFETCHTEST_ONLY_LOOPBACK"
	if os.Getenv(inside) != "" {
		interfaces, err := net.Interfaces()
		if err != nil {
			t.Error(err)
		}
		for _, i := range interfaces {
			if i.Flags&net.FlagLoopback == 0 && i.Flags&net.FlagUp != 0 {
				t.Errorf("there is %s as well", i.Name)
			}
		}
		return
	}
	const up = "ip link set lo up"
	if out, err := exec.CommandContext(t.Context(), "unshare", "-rn", "sh", "-c", up).CombinedOutput(); err != nil {
		t.Skipf("a network namespace cannot be made with unshare -rn and %s: %v\n%s", up, err, out)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	tests := []string{"TestGoCommandNeedsOnlyLoopback", "TestGoCommandDownloads", "TestGoCommandBuilds", "TestGoCommandTakesServersInTurn"}
	cmd := exec.CommandContext(t.Context(), "unshare", "-rn", "sh", "-c", up+` && exec "$0" "$@"`,
		self, "-test.v", "-test.run=^("+strings.Join(tests, "|")+")$")
	cmd.Env = append(os.Environ(), inside+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	for _, name := range tests {
		if !strings.Contains(string(out), "--- PASS: "+name+" ") {
			t.Errorf("%s did not pass:\n%s", name, out)
		}
	}
}

func TestGoCommandRefuses(t *testing.T) {
	for _, test := range []struct {
		name string
		set  func(*modfetchtest.Server)
		want string
	}{
		{"corrupt zip", func(s *modfetchtest.Server) { s.Fault("*.zip", modfetchtest.Corrupt()) }, "checksum mismatch"},
		{"corrupt go.mod", func(s *modfetchtest.Server) { s.Fault("*.mod", modfetchtest.Corrupt()) }, "checksum mismatch"},
		{"wrong version", func(s *modfetchtest.Server) { s.Fault("*.info", modfetchtest.WrongVersion("v1.0.1")) }, "v1.0.1"},
		{"lying database", func(s *modfetchtest.Server) {
			s.LieAbout("example.com/m", "v1.0.0", "h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
		}, "checksum mismatch"},
		{"corrupt lookup", func(s *modfetchtest.Server) { s.Fault("/sumdb/*/lookup/*", modfetchtest.Corrupt()) }, "verifying"},
		{"corrupt tiles", func(s *modfetchtest.Server) { s.Fault("/sumdb/*/tile/*", modfetchtest.Corrupt()) }, "verifying"},
		{"truncated zip", func(s *modfetchtest.Server) { s.Fault("*.zip", modfetchtest.Truncate(-10)) }, "EOF"},
		{"no database", func(s *modfetchtest.Server) { s.Fault("/sumdb/*", modfetchtest.Status(404)) }, "verifying"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := modfetchtest.NewServer(t, testdata())
			test.set(s)
			d, err := goModDownload(t, s.Env(t), "example.com/m@v1.0.0")
			if err == nil || !strings.Contains(d.Error, test.want) {
				t.Errorf("%v: %q, want %q", err, d.Error, test.want)
			}
		})
	}
	t.Run("unlisted module", func(t *testing.T) {
		s := modfetchtest.NewServer(t, nil)
		s.Add(modfetchtest.NewModule("example.com/private", "v1.0.0").Unlisted())
		if d, err := goModDownload(t, s.Env(t), "example.com/private@v1.0.0"); err == nil || !strings.Contains(d.Error, "verifying") {
			t.Errorf("%v: %q", err, d.Error)
		}
	})
}

func TestGoCommandDetectsAFork(t *testing.T) {
	s := modfetchtest.NewServer(t, testdata())
	fork := s.Fork()
	env := s.Env(t)
	if d, err := goModDownload(t, env, "example.com/m@v1.0.0"); err != nil {
		t.Fatalf("%v: %s", err, d.Error)
	}
	d, err := goModDownload(t, append(env, "GOPROXY="+fork.URL), "example.com/tree@v1.0.0")
	if err == nil || !strings.Contains(d.Error, "SECURITY ERROR") {
		t.Errorf("%v: %q", err, d.Error)
	}
}

func TestGoCommandFailsOver(t *testing.T) {
	s := modfetchtest.NewServer(t, testdata())
	m := s.Mirror()
	s.Fault("/example.com/*", modfetchtest.Status(503))
	d, err := goModDownload(t, append(s.Env(t), "GOPROXY="+s.URL+"|"+m.URL), "example.com/m@v1.0.0")
	if err != nil || m.Count("*.zip") != 1 {
		t.Errorf("%v: %s; requests %q", err, d.Error, m.Requests())
	}
}

func TestGoCommandCannotLeave(t *testing.T) {
	s := modfetchtest.NewServer(t, nil)
	d, err := goModDownload(t, append(s.Env(t), "GOPROXY=https://mirror.example"), "corp.example/m@v1.0.0")
	if err == nil {
		t.Fatalf("downloaded %+v", d)
	}
	log := s.Log()
	if len(log) == 0 || log[0].Method != "CONNECT" || log[0].Path != "mirror.example:443" || log[0].Status != 403 {
		t.Errorf("requests %+v, want one refused to mirror.example:443; %s", log, d.Error)
	}
}

func TestTelemetryIsOff(t *testing.T) {
	env := modfetchtest.NewServer(t, nil).Env(t)
	if out, err := goCommand(t, env, t.TempDir(), "telemetry").CombinedOutput(); err != nil || string(out) != "off\n" {
		t.Errorf("go telemetry: %q, %v", out, err)
	}
}

func TestEnvIsClosed(t *testing.T) {
	t.Setenv("GOFLAGS", "-mod=vendor")
	t.Setenv("GOINSECURE", "*")
	t.Setenv("NETRC", "/etc/netrc")
	t.Setenv("https_proxy", "http://corp.example")
	t.Setenv("MODFETCHTEST_KEPT", "1")
	s := modfetchtest.NewServer(t, nil)
	env := make(map[string]string)
	for _, kv := range s.Env(t) {
		key, value, _ := strings.Cut(kv, "=")
		if _, ok := env[key]; ok {
			t.Errorf("%s is there twice", key)
		}
		env[key] = value
	}
	for key, want := range map[string]string{
		"GOPROXY": s.URL, "GOSUMDB": s.GOSUMDB(), "GOFLAGS": "-modcacherw", "GOENV": "off", "GOTOOLCHAIN": "local",
		"GONOSUMDB": "", "GOPRIVATE": "", "GONOPROXY": "", "GOINSECURE": "", "NETRC": "", "https_proxy": "",
		"MODFETCHTEST_KEPT": "1",
	} {
		if env[key] != want {
			t.Errorf("%s=%s, want %s", key, env[key], want)
		}
	}
	for _, key := range []string{"HOME", "GOPATH", "GOMODCACHE", "GOCACHE"} {
		if !filepath.IsAbs(env[key]) || !strings.HasPrefix(env[key], os.TempDir()) {
			t.Errorf("%s=%s is not a temporary directory", key, env[key])
		}
	}
}
