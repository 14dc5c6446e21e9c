package modfetch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/module"
)

// direct is the mirror behind `direct`: an installed go command that fetches from a module's own repository. What it
// brings is verified like any mirror's answer.
type direct struct {
	mu  sync.Mutex // guards dir
	dir string     // of the child's module cache; "" before it is needed
}

// directTimeout bounds one run of the go command, clones included. The engine applies it.
const directTimeout = 10 * time.Minute

func (d *direct) String() string { return "direct" }

func (d *direct) Fetch(ctx context.Context, r Request) (*Response, error) {
	path, suffix, ok := strings.Cut(r.Path, "/@")
	path, err := module.UnescapePath(path) // checks it too
	if !ok || err != nil {
		return nil, failf(ErrForbidden, "%s is not the path of a module's file", r.Path)
	}
	name, isFile := strings.CutPrefix(suffix, "v/")
	ext := filepath.Ext(name)
	var m module.Version // of a file that the child leaves in its cache
	var args []string
	switch {
	case suffix == "latest":
		args = []string{"list", "-m", "-json", path + "@latest"}
	case suffix == "v/list":
		args = []string{"list", "-m", "-json", "-versions", "-retracted", path}
	case isFile && (ext == ".info" || ext == ".mod" || ext == ".zip"):
		version, err := module.UnescapeVersion(strings.TrimSuffix(name, ext))
		if err != nil || strings.HasPrefix(version, "-") {
			return nil, failf(ErrForbidden, "%s is not a version that can be fetched directly", name)
		}
		args = []string{"list", "-m", "-json", path + "@" + version}
		if ext == ".zip" {
			args = []string{"mod", "download", "-json", path + "@" + version}
		}
		if ext != ".info" {
			if m = (module.Version{Path: path, Version: version}); check(m) != nil {
				return nil, failf(ErrForbidden, "%s is not a version that can be fetched directly", name)
			}
		}
	default:
		return nil, failf(ErrForbidden, "%s is not the path of a module's file", r.Path)
	}
	out, cache, err := d.run(ctx, args...)
	switch {
	case err != nil:
		return nil, err
	case m.Path != "":
		return FSMirror(os.DirFS(filepath.Join(cache, "cache", "download"))).Fetch(ctx, Request{Path: r.Path})
	case suffix == "v/list":
		return memResponse([]byte(strings.Join(out.Versions, "\n"))), nil
	}
	data, err := json.Marshal(Info{Version: out.Version, Time: out.Time, Origin: out.Origin})
	return memResponse(data), err
}

func memResponse(data []byte) *Response {
	return &Response{Body: memReader{bytes.NewReader(data)}, Size: int64(len(data))}
}

// goOutput holds the fields that `go list -m -json` and `go mod download -json` share with us.
type goOutput struct {
	Version  string
	Versions []string
	Time     time.Time
	Origin   *Origin
	Error    any // a string, or an object with the field Err
}

// run runs the go command in an empty directory, with a module cache of its own and nothing that could ask anybody but
// the module's origin, or a person.
func (d *direct) run(ctx context.Context, args ...string) (out goOutput, cache string, err error) {
	goCommand, err := exec.LookPath("go")
	if err != nil {
		return out, "", failf(ErrForbidden, "fetching from a module's own repository needs the go command, which is not on PATH: "+
			"install Go, or set GOPROXY (or a route) to a mirror that has the module")
	}
	dir, err := d.home()
	if err != nil {
		return out, "", &failure{ErrTransient, "a directory for the go command", err}
	}
	cache = filepath.Join(dir, "mod")
	cmd := exec.CommandContext(ctx, goCommand, args...)
	cmd.Dir = filepath.Join(dir, "empty")
	endTogether(cmd)
	cmd.WaitDelay = time.Second / 2
	cmd.Env = append(os.Environ(), "GOWORK=off", "GO111MODULE=on", "GOFLAGS=-modcacherw", "GOTOOLCHAIN=local", "GOPROXY=direct", "GOSUMDB=off",
		"GOPATH="+dir, "GOMODCACHE="+cache, "GIT_TERMINAL_PROMPT=0", "GCM_INTERACTIVE=never", "PWD="+cmd.Dir)
	var stdout, stderr limitedBuffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	runErr := cmd.Run()
	if ctx.Err() != nil {
		return out, "", context.Cause(ctx)
	}
	text := stderr.buf.String()
	if json.Unmarshal(stdout.buf.Bytes(), &out) == nil && out.Error != nil {
		text = fmt.Sprint(out.Error)
		if object, ok := out.Error.(map[string]any); ok {
			text = fmt.Sprint(object["Err"])
		}
	}
	if runErr != nil || out.Error != nil {
		if text = printable(strings.TrimSpace(text)); text == "" && runErr != nil {
			text = runErr.Error()
		}
		if strings.Contains(text, "unknown revision") {
			return out, "", fmt.Errorf("%w: %s", fs.ErrNotExist, text)
		}
		return out, "", failf(ErrTransient, "the go command said: %s", text)
	}
	return out, cache, nil
}

// home returns the directory for the child's module cache, which is made when it is first needed.
func (d *direct) home() (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dir != "" {
		return d.dir, nil
	}
	dir, err := os.MkdirTemp("", "modfetch-direct-")
	if err != nil {
		return "", err
	}
	// A module of its own keeps the child from one around the directory, whose go.sum it would write unverified sums to.
	empty := filepath.Join(dir, "empty")
	err = os.Mkdir(empty, 0o777)
	if err == nil {
		err = os.WriteFile(filepath.Join(empty, "go.mod"), []byte("module empty\n"), 0o666)
	}
	if err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	d.dir = dir
	return dir, nil
}

// close removes the child's module cache.
func (d *direct) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir := d.dir
	d.dir = ""
	if dir == "" {
		return nil
	}
	return removeAll(dir)
}

// A limitedBuffer keeps a child's output, up to a limit. It has no ReadFrom, by which a copy would go around Write.
type limitedBuffer struct{ buf bytes.Buffer }

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if b.buf.Len()+len(p) > maxList {
		return 0, errors.New("too much output")
	}
	return b.buf.Write(p)
}
