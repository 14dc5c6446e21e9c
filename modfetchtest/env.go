package modfetchtest

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/modfetch/modfetch"
)

// Options returns what a [modfetch.Fetcher] needs to use s alone: as its mirror, and as its checksum database.
//
// They do not say what is private. A path that [modfetch.WithPrivate] or GOPRIVATE names is not for mirrors: `direct` asks
// its own host, on the network. For tests [modfetch.WithRoute] sends it to another Server instead, as the example shows, or
// [modfetch.Policy] Offline refuses it.
func (s *Server) Options() []modfetch.Option {
	return []modfetch.Option{modfetch.WithGOPROXY(s.URL), modfetch.WithSumDB(s.GOSUMDB())}
}

// Env returns an environment for a go command under test, complete for [os/exec.Cmd].Env: s is its GOPROXY and its checksum
// database, everything is verified, and nothing of the user's is read or written. The home directory, GOPATH, GOMODCACHE
// and GOCACHE are new temporary directories of the test each time, so one environment kept is one warm cache. Appended
// settings win; a test that compiles is faster with the user's GOCACHE, where the standard library is compiled already:
//
//	cmd.Env = append(server.Env(t), "GOPROXY="+first.URL+"|"+second.URL, "GOCACHE="+goCache)
//
// All addresses but loopback ones are to be reached through s as an HTTP proxy, which refuses, and logs the attempt under
// the foreign host. Programs that do not heed HTTPS_PROXY, such as ssh, are not held back.
func (s *Server) Env(tb testing.TB) []string {
	tb.Helper()
	dir := tb.TempDir()
	home := filepath.Join(dir, "home")
	config := filepath.Join(home, ".config")
	if runtime.GOOS == "darwin" {
		config = filepath.Join(home, "Library", "Application Support")
	}
	// Otherwise a go command leaves a child behind that may still write to its home when the test removes it.
	telemetry := filepath.Join(config, "go", "telemetry")
	if err := os.MkdirAll(telemetry, 0o777); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(telemetry, "mode"), []byte("off\n"), 0o666); err != nil {
		tb.Fatal(err)
	}
	env := []string{
		"GOPROXY=" + s.URL,
		"GOSUMDB=" + s.GOSUMDB(),
		"GOPRIVATE=",
		"GONOPROXY=",
		"GONOSUMDB=",
		"GOENV=off",
		"GOTOOLCHAIN=local",
		"GOFLAGS=-modcacherw", // so that the test can remove the cache
		"GOPATH=" + filepath.Join(dir, "gopath"),
		"GOMODCACHE=" + filepath.Join(dir, "modcache"),
		"GOCACHE=" + filepath.Join(dir, "gocache"),
		"HOME=" + home,
		"USERPROFILE=" + home,
		"XDG_CONFIG_HOME=" + config,
		"APPDATA=" + config,
		"LOCALAPPDATA=" + config,
		"HTTP_PROXY=" + s.URL,
		"HTTPS_PROXY=" + s.URL,
	}
	for _, kv := range os.Environ() {
		if inherited(kv) {
			env = append(env, kv)
		}
	}
	return env
}

// inherited reports whether a setting of this process is none that Env makes or that could change what the go command
// fetches.
func inherited(kv string) bool {
	key, _, _ := strings.Cut(kv, "=")
	switch key = strings.ToUpper(key); key {
	case "GOROOT":
		return true
	case "HOME", "USERPROFILE", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "APPDATA", "LOCALAPPDATA", "NETRC",
		"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY":
		return false
	}
	return !strings.HasPrefix(key, "GO")
}
