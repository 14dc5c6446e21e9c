package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestLiveGoCommandBehindServe sets the go command, with modfetch serve as its mirror, beside the go command with the mirrors of
// the Go environment: cold, then warm, then without any mirror behind the server. MODFETCH_LIVE=1 lets it go there.
func TestLiveGoCommandBehindServe(t *testing.T) {
	if os.Getenv("MODFETCH_LIVE") == "" {
		t.Skip("MODFETCH_LIVE=1 lets this test ask real mirrors")
	}
	const goMod = "module x.test/p\n\ngo 1.25\n\nrequire github.com/spf13/cobra v1.8.0\n"
	const source = "package main\n\nimport \"github.com/spf13/cobra\"\n\nfunc main() { _ = cobra.Command{} }\n"
	commands := []string{
		"go mod download", "go get github.com/spf13/pflag@latest", "go list -m -u all", "go mod tidy", "go list -m -versions golang.org/x/text",
		"go install golang.org/x/tools/cmd/stringer@v0.30.0", "go mod download golang.org/toolchain@v0.0.1-go1.25.0.linux-amd64",
		"go mod download github.com/modfetch-nobody/none@v1.0.0", "go get golang.org/x/text@no-such-branch", "go mod download golang.org/x/text@v0.999.0",
	}
	plain, err := exec.Command("go", "env", "GOPROXY").Output()
	if err != nil {
		t.Fatal(err)
	}
	run := func(mirror, command string) (status string) {
		dir := memoryDir(t)
		for name, text := range map[string]string{"go.mod": goMod, "main.go": source} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		gopath := filepath.Join(dir, "gopath")
		words := strings.Fields(command)
		cmd := exec.CommandContext(t.Context(), words[0], words[1:]...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOPROXY="+mirror, "GOSUMDB=sum.golang.org", "GOFLAGS=-modcacherw -mod=mod", "GOPATH="+gopath,
			"GOMODCACHE="+filepath.Join(gopath, "pkg", "mod"), "GOTOOLCHAIN=local", "GOWORK=off")
		out, err := cmd.CombinedOutput()
		if err == nil {
			return "done"
		}
		return "failed: " + string(out)
	}
	cache := memoryDir(t)
	start := func(args ...string) (stop func(), base string) {
		cmd, base := startCommand(t, os.Environ(), append([]string{"-cache", cache, "-log", "warn"}, args...)...)
		return func() { cmd.Process.Kill() }, base
	}
	compare := func(when, base string) {
		for _, command := range commands {
			began := time.Now()
			direct := run(strings.TrimSpace(string(plain)), command)
			between := time.Now()
			served := run(base, command)
			t.Logf("%s: %s: %.4s directly in %v, %.4s through the server in %v", when, command, direct, between.Sub(began).Round(10*time.Millisecond),
				served, time.Since(between).Round(10*time.Millisecond))
			if strings.HasPrefix(direct, "failed") != strings.HasPrefix(served, "failed") {
				t.Errorf("%s: %s: directly %s, through the server %s", when, command, direct, served)
			}
		}
	}
	stop, base := start("-mirrors", strings.TrimSpace(string(plain)))
	compare("cold", base)
	compare("warm", base)
	stop()
	stop, base = start("-offline")
	defer stop()
	for _, command := range commands {
		if strings.HasPrefix(command, "go install") {
			continue // asks for modules that do not exist, golang.org/x/tools/cmd among them: that is not remembered for long
		}
		if served := run(base, command); strings.HasPrefix(served, "failed") && !regexp.MustCompile("none@|no-such|v0.999").MatchString(command) {
			t.Errorf("without mirrors: %s: %s", command, served)
		}
	}
}

// TestLiveGraphCausesNoZip: the go command reads the graph of a large project through a cold server.
func TestLiveGraphCausesNoZip(t *testing.T) {
	if os.Getenv("MODFETCH_LIVE") == "" {
		t.Skip("MODFETCH_LIVE=1 lets this test ask real mirrors")
	}
	dir, cache := memoryDir(t), memoryDir(t)
	_, base := startCommand(t, os.Environ(), "-cache", cache, "-log", "warn")
	hugo := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", "github.com/gohugoio/hugo@v0.140.0")
	hugo.Env = append(os.Environ(), "GOFLAGS=-modcacherw", "GOPATH="+dir, "GOMODCACHE="+filepath.Join(dir, "mod"), "GOWORK=off")
	if out, err := hugo.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), "go", "list", "-m", "all")
	cmd.Dir = filepath.Join(dir, "mod", "github.com", "gohugoio", "hugo@v0.140.0")
	other := memoryDir(t)
	cmd.Env = append(os.Environ(), "GOPROXY="+base, "GOSUMDB=sum.golang.org", "GOFLAGS=-modcacherw -mod=mod", "GOPATH="+other,
		"GOMODCACHE="+filepath.Join(other, "mod"), "GOTOOLCHAIN=local", "GOWORK=off")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	count := make(map[string]int)
	for name := range snapshot(t, cache) {
		count[filepath.Ext(name)]++
	}
	t.Logf("%d modules; the server has %d .mod, %d .info and %d .zip files", strings.Count(string(out), "\n"), count[".mod"], count[".info"], count[".zip"])
	if count[".zip"] > 0 || count[".mod"] < 500 {
		t.Error(fmt.Sprint("kinds of files: ", count))
	}
}

// startCommand starts the command as a server in a process of its own, and returns where it listens.
func startCommand(t *testing.T, env []string, args ...string) (cmd *exec.Cmd, base string) {
	t.Helper()
	cmd = exec.Command(os.Args[0], "-test.run=^TestCommandInChild$")
	cmd.Env = append(env, commandVar+"=serve -addr 127.0.0.1:0 "+strings.Join(args, " "), "GORACE=atexit_sleep_ms=0")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said []string
	lines := bufio.NewScanner(stderr)
	for base == "" && lines.Scan() {
		said = append(said, lines.Text())
		if _, after, ok := strings.Cut(lines.Text(), "GOPROXY=http://"); ok {
			base = "http://" + strings.Fields(after)[0]
		}
	}
	if base == "" {
		t.Fatalf("the server does not listen:\n%s", strings.Join(said, "\n"))
	}
	done := make(chan struct{})
	go func() { // ends with the process
		defer close(done)
		for lines.Scan() {
			if len(said) < 40 {
				said = append(said, lines.Text())
			}
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-done
		cmd.Wait()
		if t.Failed() {
			t.Logf("%s said:\n%s", base, strings.Join(said, "\n"))
		}
	})
	return cmd, base
}
