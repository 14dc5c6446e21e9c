package modfetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"
	"unicode"
)

// An authAsker finds credentials.
type authAsker interface {
	// ask returns headers by the prefix of the URLs that they belong to, in place of those that it returned before for
	// the same prefix. It is called once with nil before the first request, and for each refusal with its URL.
	ask(ctx context.Context, u *url.URL, refusal *http.Response) (map[string]http.Header, error)
}

const (
	authTimeout = time.Minute
	maxNetrc    = 1 << 20 // bytes
)

// netrcFile reads a netrc file; "" is the user's.
type netrcFile string

func (n netrcFile) ask(context.Context, *url.URL, *http.Response) (map[string]http.Header, error) {
	name := string(n)
	if name == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, nil // no home, no file
		}
		name = filepath.Join(home, ".netrc")
		if legacy := filepath.Join(home, "_netrc"); runtime.GOOS == "windows" && exists(legacy) {
			name = legacy
		}
	}
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("GOAUTH netrc: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxNetrc+1))
	if err != nil {
		return nil, fmt.Errorf("GOAUTH netrc: %w", err)
	}
	if len(data) > maxNetrc {
		return nil, fmt.Errorf("GOAUTH netrc: %s is larger than 1 MiB", name)
	}
	return parseNetrc(string(data)), nil
}

// parseNetrc reads machine, login and password tokens. The first complete entry for a machine counts; default entries,
// which would send a password to anybody, and macros are passed over. Quotes have no meaning.
func parseNetrc(data string) map[string]http.Header {
	known := make(map[string]http.Header)
	var machine, login, password string
	macro := false
	for line := range strings.Lines(data) {
		if macro {
			macro = strings.TrimRight(line, "\r\n") != ""
			continue
		}
		words := strings.Fields(line)
		for len(words) > 0 {
			if words[0] == "default" { // has no value
				machine, words = "", words[1:]
				continue
			}
			if len(words) == 1 {
				break
			}
			key, value := words[0], words[1]
			words = words[2:]
			switch key {
			case "machine":
				machine, login, password = value, "", ""
			case "login":
				login = value
			case "password":
				password = value
			case "macdef":
				macro = true
			}
			if machine != "" && login != "" && password != "" {
				if _, ok := known[machine]; !ok {
					known[machine] = basicAuth(login, password)
				}
				machine = ""
			}
		}
	}
	return known
}

func basicAuth(user, password string) http.Header {
	r := http.Request{Header: make(http.Header)}
	r.SetBasicAuth(user, password)
	return r.Header
}

// gitAuth asks git's credential helpers about what was refused, and tells them whether their answer was good.
type gitAuth struct {
	dir string

	mu      sync.Mutex // guards answers
	answers map[string]gitAnswer
}

// A gitAnswer is what git said for a host.
type gitAnswer struct {
	text     string
	auth     string // the Authorization header made of it
	approved bool
}

func (g *gitAuth) ask(ctx context.Context, u *url.URL, _ *http.Response) (map[string]http.Header, error) {
	if u == nil {
		return nil, nil // git cannot list what it knows
	}
	// As a URL: escaped, a path cannot bring lines of its own.
	text, err := runAuth(ctx, g.dir, "url="+u.String()+"\n\n", "git", "credential", "fill")
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil, nil // git knows nothing, and the server's refusal says more
	}
	if err != nil {
		return nil, fmt.Errorf("GOAUTH git: %w", err)
	}
	values := make(map[string]string)
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimRight(line, "\r\n"), "=")
		values[key] = value
	}
	if values["protocol"] != "https" || values["host"] != u.Host || values["username"] == "" || values["password"] == "" {
		return nil, nil
	}
	header := basicAuth(values["username"], values["password"])
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.answers == nil {
		g.answers = make(map[string]gitAnswer)
	}
	if auth := header.Get("Authorization"); auth != g.answers[u.Host].auth {
		g.answers[u.Host] = gitAnswer{text: text, auth: auth}
	}
	return map[string]http.Header{path.Join(u.Host, values["path"]): header}, nil
}

// settle runs git credential approve or reject for an answer, once for each.
func (g *gitAuth) settle(ctx context.Context, host string, used http.Header, verdict string) {
	g.mu.Lock()
	answer := g.answers[host]
	approve := verdict == "approve"
	if answer.auth != used.Get("Authorization") || approve && answer.approved {
		g.mu.Unlock()
		return
	}
	if answer.approved = true; approve {
		g.answers[host] = answer
	} else {
		delete(g.answers, host)
	}
	g.mu.Unlock()
	runAuth(ctx, g.dir, answer.text, "git", "credential", verdict) // what a helper cannot store is asked again
}

// commandAuth is a program, with arguments, that prints headers for URLs.
type commandAuth []string

func (c commandAuth) ask(ctx context.Context, u *url.URL, refusal *http.Response) (map[string]http.Header, error) {
	args := c[1:len(c):len(c)]
	var stdin strings.Builder
	if u != nil {
		args = append(args, u.String())
		fmt.Fprintf(&stdin, "HTTP/%d.%d %d %s\n", refusal.ProtoMajor, refusal.ProtoMinor, refusal.StatusCode, http.StatusText(refusal.StatusCode))
		for name, values := range refusal.Header {
			for _, value := range values {
				fmt.Fprintf(&stdin, "%s: %s\n", name, value)
			}
		}
		stdin.WriteString("\n")
	}
	out, err := runAuth(ctx, "", stdin.String(), c[0], args...)
	if err != nil {
		return nil, fmt.Errorf("GOAUTH command %s: %w", c[0], err)
	}
	found, err := parseAuth(out)
	if err != nil {
		return nil, fmt.Errorf("GOAUTH command %s: %w", c[0], err)
	}
	return found, nil
}

// parseAuth reads what a command prints: groups of lines with URLs and lines with headers, each ended by an empty line.
func parseAuth(out string) (map[string]http.Header, error) {
	n := 0
	next := func() (line string, err error) {
		n++
		line, rest, ok := strings.Cut(out, "\n")
		if out = rest; !ok {
			return "", fmt.Errorf("line %d of its output ends too soon; want URLs, an empty line, headers, an empty line", n)
		}
		return strings.TrimSuffix(line, "\r"), nil
	}
	found := make(map[string]http.Header)
	for out != "" {
		var prefixes []string
		for {
			line, err := next()
			if err != nil {
				return nil, err
			}
			if line == "" {
				break
			}
			u, err := url.Parse(line)
			if err != nil || u.Scheme != "https" || u.Host == "" {
				return nil, fmt.Errorf("line %d of its output is no https URL where one should be", n)
			}
			prefixes = append(prefixes, path.Join(u.Host, u.Path))
		}
		header := make(http.Header)
		for {
			line, err := next()
			if err != nil {
				return nil, err
			}
			if line == "" {
				break
			}
			name, value, ok := strings.Cut(line, ": ")
			if !ok || name == "" || strings.ContainsFunc(name, notInName) || strings.ContainsFunc(value, notInValue) {
				return nil, fmt.Errorf("line %d of its output is no header where one should be", n)
			}
			header.Add(name, strings.TrimSpace(value))
		}
		for _, prefix := range prefixes {
			found[prefix] = header
		}
	}
	return found, nil
}

func notInName(r rune) bool {
	return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
}

func notInValue(r rune) bool { return unicode.IsControl(r) && r != '\t' }

// runAuth runs a program that knows secrets: what it prints is in no error.
func runAuth(ctx context.Context, dir, stdin, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, authTimeout, fmt.Errorf("took longer than %s", authTimeout))
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	endTogether(cmd)
	cmd.Dir = dir
	cmd.Env = append(cmd.Environ(), "GIT_TERMINAL_PROMPT=0", "GCM_INTERACTIVE=never")
	cmd.Stdin = strings.NewReader(stdin)
	cmd.WaitDelay = time.Second / 2
	var out limitedBuffer
	cmd.Stdout = &out
	err := cmd.Run()
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	return out.buf.String(), err
}
