package main

import (
	"archive/zip"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/mod/module"
)

// A bench measures.
type bench struct {
	data      string // where sets are kept
	temp      string // for module caches, in memory if there is such a place
	self      string // this program
	modfetch  string // the command
	goCommand string
	rounds    int
	limit     time.Duration // for one process
	seed      uint64
	progress  io.Writer
}

// A sample is what one process took.
type sample struct {
	Wall     float64 `json:"wall_seconds"`
	CPU      float64 `json:"cpu_seconds"` // user and system
	RSS      float64 `json:"peak_rss_bytes"`
	Requests float64 `json:"requests"`
	Sent     float64 `json:"bytes_sent"` // by the mirrors, headers included

	Read     float64        `json:"bytes_read,omitempty"` // of bodies, as the library tells
	Failures map[string]int `json:"failed_attempts,omitempty"`
	Failed   string         `json:"failed,omitempty"` // why the sample is none
}

const defaultLimit = 10 * time.Minute

// Settings of the programs that bench runs of itself.
const (
	treeVariable  = "MODFETCH_BENCH_TREE"
	statsVariable = "MODFETCH_BENCH_STATS"
)

// measure runs the subjects of a case in turn, each round from another one on.
func (b *bench) measure(ctx context.Context, sc scenario) (result, error) {
	r := result{Case: sc.name, About: sc.about, goals: sc.goals}
	set, err := openSet(ctx, b.data, cmp.Or(sc.set, realSet))
	if err != nil {
		return r, err
	}
	rounds := b.rounds
	homes := make([]string, len(sc.subjects))
	if sc.warm {
		rounds *= 5
		for i, s := range sc.subjects {
			if homes[i], err = b.newHome(sc, set); err != nil {
				return r, err
			}
			defer removeAll(homes[i])
			if first, err := b.run(ctx, sc, s, set, homes[i]); err != nil || first.Failed != "" {
				return r, errors.Join(err, errors.New(first.Failed))
			}
		}
	}
	for _, s := range sc.subjects {
		r.Subjects = append(r.Subjects, subjectResult{Name: s.name})
	}
	for round := range rounds {
		for i := range sc.subjects {
			i = (i + round) % len(sc.subjects)
			home := homes[i]
			if !sc.warm {
				if home, err = b.newHome(sc, set); err != nil {
					return r, err
				}
			}
			got, err := b.run(ctx, sc, sc.subjects[i], set, home)
			if !sc.warm {
				removeAll(home)
			}
			if err != nil {
				return r, err
			}
			fmt.Fprintf(b.progress, "%s %d/%d: %s: %s %s\n", sc.name, round+1, rounds, sc.subjects[i].name, seconds(got.Wall), got.Failed)
			r.Subjects[i].Runs = append(r.Subjects[i].Runs, got)
		}
	}
	r.judge()
	return r, nil
}

// newHome makes what a process finds: a home directory, the project and, still empty, a GOPATH.
func (b *bench) newHome(sc scenario, s *set) (string, error) {
	home, err := os.MkdirTemp(b.temp, "home-")
	if err != nil {
		return "", err
	}
	// A go command with telemetry may start another process.
	config := filepath.Join(home, ".config")
	if runtime.GOOS == "darwin" {
		config = filepath.Join(home, "Library", "Application Support")
	}
	telemetry := filepath.Join(config, "go", "telemetry")
	project := filepath.Join(home, "project")
	err = errors.Join(os.MkdirAll(telemetry, 0o777), os.WriteFile(filepath.Join(telemetry, "mode"), []byte("off\n"), 0o666),
		os.Mkdir(project, 0o777))
	for _, name := range []string{"go.mod", "go.sum"} {
		if err != nil || sc.largest || name == "go.sum" && sc.noGoSum {
			break
		}
		var data []byte
		if data, err = os.ReadFile(filepath.Join(s.project(), name)); err == nil {
			err = os.WriteFile(filepath.Join(project, name), data, 0o666)
		}
	}
	return home, err
}

// env is the environment of a process: nothing of the user's settings, and no way to any other network.
func (b *bench) env(home string, set *set, mirrors string) []string {
	config := filepath.Join(home, ".config")
	env := []string{
		"GOPROXY=" + mirrors,
		"GOSUMDB=" + set.log.key,
		"GOENV=off",
		"GOTOOLCHAIN=local",
		"GOWORK=off",
		"GOFLAGS=",
		"GOPATH=" + filepath.Join(home, "gopath"),
		"GOMODCACHE=" + modCache(home),
		"GOCACHE=" + filepath.Join(home, "gocache"),
		"HOME=" + home, "USERPROFILE=" + home, "XDG_CONFIG_HOME=" + config, "APPDATA=" + config, "LOCALAPPDATA=" + config,
		"HTTP_PROXY=http://127.0.0.1:9", "HTTPS_PROXY=http://127.0.0.1:9", // where nobody listens
		"SSL_CERT_FILE=" + certificate(home),
		treeVariable + "=" + set.tree(),
		statsVariable + "=" + stats(home),
	}
	for _, kv := range os.Environ() {
		switch key, _, _ := strings.Cut(kv, "="); strings.ToUpper(key) {
		case "PATH", "GOROOT", "GORACE", "TMPDIR", "TMP", "TEMP", "SYSTEMROOT", "WINDIR":
			env = append(env, kv)
		}
	}
	return env
}

func modCache(home string) string    { return filepath.Join(home, "gopath", "pkg", "mod") }
func certificate(home string) string { return filepath.Join(home, "certificates.pem") }
func stats(home string) string       { return filepath.Join(home, "stats.json") }

// run runs one subject. What goes wrong in its process is in the sample.
func (b *bench) run(ctx context.Context, sc scenario, s subject, set *set, home string) (sample, error) {
	var got sample
	var mirrors []*mirror
	var urls []string
	for _, c := range s.mirrors {
		m, err := startMirror(set, c, b.seed)
		if err != nil {
			return got, err
		}
		defer m.close()
		if c.h2 {
			if err := os.WriteFile(certificate(home), m.certificate(), 0o666); err != nil {
				return got, err
			}
		}
		mirrors, urls = append(mirrors, m), append(urls, m.server.URL)
	}
	programs := map[string]string{"go": b.goCommand, "modfetch": b.modfetch, "bench": b.self}
	args := append([]string{"exec", programs[s.args[0]]}, s.args[1:]...)
	wanted := set.zips
	if sc.largest {
		m := set.largest()
		args = append(args, m.String())
		wanted = map[module.Version]int64{m: set.zips[m]}
	}

	limited, cancel := context.WithTimeout(ctx, b.limit)
	defer cancel()
	cmd := exec.CommandContext(limited, b.self, args...)
	cmd.Dir = filepath.Join(home, "project")
	cmd.Env = b.env(home, set, strings.Join(urls, "|"))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return got, err
	}
	cmd.Cancel, cmd.WaitDelay = stdin.Close, time.Minute
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return got, context.Cause(ctx)
	}
	late := limited.Err() != nil
	if err != nil && !late {
		return got, err
	}
	if err := json.Unmarshal(out, &got); err != nil && !late {
		return got, err
	}
	if late {
		got.Failed = fmt.Sprintf("not done within %s", b.limit)
	}
	for _, m := range mirrors {
		got.Requests += float64(m.requests.Load())
		got.Sent += float64(m.sent.Load())
	}
	if data, err := os.ReadFile(stats(home)); err == nil {
		var c clientStats
		if err := json.Unmarshal(data, &c); err != nil {
			return got, err
		}
		got.Read = float64(c.Read)
		got.Failures = make(map[string]int)
		for name, n := range c.Failures {
			for i, url := range urls { // whose ports differ from run to run
				if kind, ok := strings.CutPrefix(name, url+" "); ok {
					name = fmt.Sprintf("mirror %d: %s", i+1, kind)
					break
				}
			}
			got.Failures[name] += n
		}
	}
	if got.Failed == "" {
		if err := check(set, wanted, modCache(home), s.leaves); err != nil {
			got.Failed = err.Error()
		}
	}
	return got, nil
}

// check makes sure that work was done, and well: the speed of what is wrong is of no interest.
func check(s *set, wanted map[module.Version]int64, modCache string, l leaves) error {
	for m := range wanted {
		if l == zips || l == zipsAndTrees {
			want, err := os.ReadFile(filepath.Join(s.tree(), zipFile(m)))
			if err != nil {
				return err
			}
			got, err := os.ReadFile(filepath.Join(modCache, "cache", "download", zipFile(m)))
			if err != nil {
				return err
			}
			if !bytes.Equal(got, want) {
				return fmt.Errorf("the zip of %s is not the one that a good mirror has", m)
			}
		}
		if l == trees || l == zipsAndTrees {
			if err := checkTree(m, filepath.Join(s.tree(), zipFile(m)), filepath.Join(modCache, filepath.FromSlash(treeName(m)))); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkTree compares the sizes of files.
func checkTree(m module.Version, zipFile, dir string) error {
	z, err := zip.OpenReader(zipFile)
	if err != nil {
		return err
	}
	defer z.Close()
	for _, e := range z.File {
		if strings.HasSuffix(e.Name, "/") {
			continue
		}
		name := filepath.Join(dir, filepath.FromSlash(strings.TrimPrefix(e.Name, m.String()+"/")))
		info, err := os.Lstat(name)
		if err != nil {
			return err
		}
		if info.Size() != int64(e.UncompressedSize64) {
			return fmt.Errorf("%s has %d bytes, want %d", name, info.Size(), e.UncompressedSize64)
		}
	}
	return nil
}

// runExec runs the command in args, until its own standard input ends, and prints what that took.
//
// A process begins with the peak of memory of the one that started it, because the kernel counts what it was before it
// became another program: so this stands between, and is small.
func runExec(args []string) error {
	ctx, cancel := context.WithCancel(context.Background())
	go func() { // until the process ends
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var stderr tail
	cmd.Stderr = &stderr
	start := time.Now()
	err := cmd.Run()
	s := sample{Wall: time.Since(start).Seconds()}
	if p := cmd.ProcessState; p != nil {
		s.CPU = (p.UserTime() + p.SystemTime()).Seconds()
		s.RSS = peakRSS(p)
	}
	if err != nil {
		s.Failed = fmt.Sprintf("%v: %s", err, stderr)
	}
	return json.NewEncoder(os.Stdout).Encode(s)
}

// A tail keeps the end of what is written to it.
type tail []byte

func (t *tail) Write(p []byte) (int, error) {
	*t = append(*t, p...)
	if over := len(*t) - 2000; over > 0 {
		*t = append((*t)[:0], (*t)[over:]...)
	}
	return len(p), nil
}

// removeAll removes a module cache, whose directories are read-only.
func removeAll(dir string) error {
	filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			os.Chmod(name, 0o777)
		}
		return nil
	})
	return os.RemoveAll(dir)
}
