package modfetch_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modfetch/modfetch"
	"golang.org/x/mod/module"
)

// script writes a program that a test's GOAUTH names. It finds its directory in $dir.
func script(t testing.TB, body string) string {
	t.Helper()
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("there is no shell")
	}
	dir := t.TempDir()
	name := filepath.Join(dir, "helper")
	if err := os.WriteFile(name, []byte("#!"+sh+"\ndir='"+dir+"'\n"+body+"\n"), 0o777); err != nil {
		t.Fatal(err)
	}
	return name
}

// beside returns the text of a file that a script has written beside itself.
func beside(t testing.TB, script, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(filepath.Dir(script), name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return string(data)
}

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// guarded makes a network that answers a list to who sends the header and refuses all others.
func guarded(code int, name string, values ...string) *network {
	return &network{answer: func(r *http.Request) (*http.Response, error) {
		if got := strings.Join(r.Header.Values(name), "\n"); got != strings.Join(values, "\n") {
			return reply(r, code, "")
		}
		return reply(r, 200, "v1.0.0\n")
	}}
}

func authFetcher(t testing.TB, n *network, env modfetch.GoEnv) *modfetch.Fetcher {
	t.Helper()
	return listFetcher(t, "https://corp.test:8443/go", modfetch.WithGoEnv(env), modfetch.WithHTTPClient(n.client()))
}

func writeFile(t testing.TB, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestOffSendsNothing(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	os.WriteFile(filepath.Join(home, ".netrc"), []byte("machine corp.test:8443 login u password p\n"), 0o600)
	for _, goauth := range []string{"off", " off ", ""} {
		n := always(404, "")
		authFetcher(t, n, modfetch.GoEnv{GOAUTH: goauth}).Versions(t.Context(), "example.com/m")
		if len(n.asked) != 1 || n.asked[0].Header.Get("Authorization") != "" {
			t.Errorf("GOAUTH=%q: %d requests, the first with %q", goauth, len(n.asked), n.asked[0].Header)
		}
	}
}

func TestOrderOfCredentials(t *testing.T) {
	netrc := writeFile(t, "machine corp.test:8443 login netrc password p\n")
	says := func(url, who string) string {
		return script(t, "printf '"+url+"\\n\\nAuthorization: "+who+"\\n\\n'")
	}
	host, deep, deeper := says("https://corp.test:8443", "host"), says("https://corp.test:8443/go/", "deep"), says("https://corp.test:8443/go/example.com", "deeper")
	partial, port := says("https://corp.test:8443/go/exam", "partial"), says("https://corp.test", "port")
	for goauth, want := range map[string]string{
		"netrc;" + host:                  basic("netrc", "p"),
		host + ";netrc":                  "host",
		"netrc;" + deep:                  "deep",
		deep + ";" + deeper + ";netrc":   "deeper",
		deeper + ";" + deep:              "deeper",
		"netrc; " + partial + ";" + port: basic("netrc", "p"),
		partial + ";" + port:             "",
	} {
		n := always(200, "v1.0.0\n")
		if _, err := authFetcher(t, n, modfetch.GoEnv{GOAUTH: goauth, NETRC: netrc}).Versions(t.Context(), "example.com/m"); err != nil {
			t.Error(err)
		}
		if got := n.asked[0].Header.Get("Authorization"); got != want {
			t.Errorf("GOAUTH=%s: sent %q, want %q", goauth, got, want)
		}
	}
}

func TestCommandIsAskedAgainAfterARefusal(t *testing.T) {
	helper := script(t, `
echo "args: $*" >>"$dir/log"
cat >>"$dir/stdin"
if [ $# = 2 ]; then printf 'https://corp.test:8443/go\n\nX-Token: s3cret\nX-Token: second\n\n'; fi`)
	n := guarded(401, "X-Token", "s3cret", "second")
	f := listFetcher(t, "https://corp.test:8443/go?q=s3cret", modfetch.WithHTTPClient(n.client()), modfetch.WithGoEnv(modfetch.GoEnv{GOAUTH: "'" + helper + "' 'an arg'"}))
	for _, path := range []string{"example.com/M", "example.com/other"} {
		if _, err := f.Versions(t.Context(), path); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := beside(t, helper, "log"), "args: an arg\nargs: an arg https://corp.test:8443/go/example.com/%21m/@v/list\n"; got != want {
		t.Errorf("ran\n%swant\n%s", got, want)
	}
	if len(n.asked) != 3 {
		t.Errorf("asked %q, want the first URL twice and the second once", n.urls())
	}
	resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(beside(t, helper, "stdin"))), nil)
	if err != nil || resp.StatusCode != 401 {
		t.Errorf("on stdin: %v, %v", resp, err)
	}
}

func TestExpiredTokenIsReplaced(t *testing.T) {
	helper := script(t, `if [ $# = 1 ]; then token=new; else token=old; fi; printf "https://corp.test:8443\n\nX-Token: $token\n\n"`)
	n := guarded(401, "X-Token", "new")
	f := authFetcher(t, n, modfetch.GoEnv{GOAUTH: helper})
	for range 2 {
		if _, err := f.Versions(t.Context(), "example.com/m"); err != nil {
			t.Error(err)
		}
	}
	if len(n.asked) != 3 {
		t.Errorf("%d requests, want 3: the new token is kept", len(n.asked))
	}
}

func TestRefusalHeadIsPassedOn(t *testing.T) {
	helper := script(t, `if [ $# = 1 ]; then cat >"$dir/stdin"; fi`)
	n := &network{answer: func(r *http.Request) (*http.Response, error) {
		resp, err := reply(r, 401, "a body", "Www-Authenticate", "Bearer realm=x")
		resp.ProtoMajor, resp.ProtoMinor = 2, 0
		return resp, err
	}}
	authFetcher(t, n, modfetch.GoEnv{GOAUTH: helper}).Versions(t.Context(), "example.com/m")
	if got, want := beside(t, helper, "stdin"), "HTTP/2.0 401 Unauthorized\nWww-Authenticate: Bearer realm=x\n\n"; got != want {
		t.Errorf("on stdin: %q, want %q", got, want)
	}
}

func TestOneRequestWhereNobodyKnowsMore(t *testing.T) {
	silent, same := script(t, `echo $# >>"$dir/log"`), script(t, `printf 'https://corp.test:8443\n\nX-Token: s3cret\n\n'`)
	for name, goauth := range map[string]string{
		"netrc": "netrc", "silent command": silent, "same again": same, "git": "git " + gitDir(t, script(t, "true")), "all": "netrc;" + silent + ";" + same,
	} {
		for _, code := range []int{404, 403, 408, 429} {
			n := always(code, "")
			f := authFetcher(t, n, modfetch.GoEnv{GOAUTH: goauth, NETRC: writeFile(t, "machine corp.test:8443 login u password p\n")})
			_, err := f.Versions(t.Context(), "example.com/m")
			if errors.Is(err, fs.ErrNotExist) != (code == 404) {
				t.Errorf("%s, %d: error %v", name, code, err)
			}
			if want := map[int]int{404: 1, 403: 1, 408: 4, 429: 4}[code]; len(n.asked) != want { // with the retries of what may pass
				t.Errorf("%s, %d: %d requests, want %d", name, code, len(n.asked), want)
			}
			if log := beside(t, silent, "log"); name == "silent command" && strings.Contains(log, "1") != (code < 408) {
				t.Errorf("%s, %d: run with %q arguments; want again with one unless the refusal is about time", name, code, log)
			}
			os.Remove(filepath.Join(filepath.Dir(silent), "log"))
		}
	}
}

func TestFailureOfASourceIsNoAbsence(t *testing.T) {
	fails := "printf 'https://corp.test:8443\n\nX: s3cret\n\n'; echo s3cret >&2; exit 3"
	unreadable := t.TempDir() // reading a directory fails
	for name, c := range map[string]struct{ goauth, netrc, want string }{
		"exits with 3": {goauth: script(t, fails) + " s3cret", want: "exit status 3"},
		"not there":    {goauth: filepath.Join(t.TempDir(), "none") + " s3cret", want: "no such file"},
		"prints text":  {goauth: script(t, "echo s3cret; echo; echo s3cret"), want: "line 1 of its output is no https URL"},
		"netrc":        {goauth: "netrc", netrc: unreadable, want: unreadable},
		"git":          {goauth: "git " + filepath.Join(t.TempDir(), "none"), want: "GOAUTH git"},
		"second one":   {goauth: "netrc;" + script(t, fails), netrc: writeFile(t, ""), want: "exit status 3"},
	} {
		t.Run(name, func(t *testing.T) {
			env := modfetch.GoEnv{GOAUTH: c.goauth, NETRC: c.netrc}
			if _, err := authFetcher(t, always(200, "v1.0.0\n"), env).Versions(t.Context(), "example.com/m"); err != nil {
				t.Errorf("what needs no credentials: %v", err)
			}
			for _, code := range []int{401, 404} {
				n := always(code, "")
				_, err := authFetcher(t, n, env).Versions(t.Context(), "example.com/m")
				if !errors.Is(err, modfetch.ErrForbidden) || errors.Is(err, fs.ErrNotExist) || len(n.asked) != 1 {
					t.Errorf("%d: error %v after %d requests, want a refusal after 1", code, err, len(n.asked))
				}
				if !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "s3cret") {
					t.Errorf("%d: error %v, want one with %q and no secret", code, err, c.want)
				}
			}
		})
	}
}

func TestManyRequestsRunACommandOnce(t *testing.T) {
	helper := script(t, `
echo "$*" >>"$dir/log"
printf 'https://corp.test:8443\n\nX-Token: s3cret\n\n'`)
	gitHelper := script(t, `echo $1 >>"$dir/log"; printf 'username=u\npassword=s3cret\n'`)
	for name, c := range map[string]struct {
		goauth, log, want string
		n                 *network
	}{
		"command": {helper, helper, "\n", guarded(404, "X-Token", "s3cret")},
		"git":     {"git " + gitDir(t, gitHelper), gitHelper, "get\nstore\n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			const many = 32
			if c.n == nil { // all are refused before git is asked
				var refused sync.WaitGroup
				refused.Add(many)
				c.n = &network{answer: func(r *http.Request) (*http.Response, error) {
					if r.Header.Get("Authorization") == basic("u", "s3cret") {
						return reply(r, 200, "v1.0.0\n")
					}
					refused.Done()
					refused.Wait()
					return reply(r, 401, "")
				}}
			}
			f := authFetcher(t, c.n, modfetch.GoEnv{GOAUTH: c.goauth})
			var wg sync.WaitGroup
			for i := range many {
				wg.Go(func() {
					if _, err := f.Versions(t.Context(), fmt.Sprintf("example.com/m%d", i)); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if got := beside(t, c.log, "log"); got != c.want {
				t.Errorf("ran with %q, want %q", got, c.want)
			}
		})
	}
}

func TestCancellingEndsACommand(t *testing.T) {
	for name, goauth := range map[string]string{
		"at the start":    script(t, `: >"$dir/begun"; exec sleep 60`),
		"after a refusal": script(t, `if [ $# = 1 ]; then : >"$dir/begun"; exec sleep 60; fi`),
	} {
		t.Run(name, func(t *testing.T) {
			f := authFetcher(t, always(404, ""), modfetch.GoEnv{GOAUTH: goauth})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			first, second := make(chan error, 1), make(chan error, 1)
			go func() { _, err := f.Versions(ctx, "example.com/m"); first <- err }()
			for !isFile(filepath.Join(filepath.Dir(goauth), "begun")) {
				runtime.Gosched()
			}
			other, leave := context.WithCancel(t.Context())
			go func() { _, err := f.Versions(other, "example.com/m2"); second <- err }()
			leave() // one that waits for the other's command
			for _, done := range []chan error{second, first} {
				select {
				case err := <-done:
					if !errors.Is(err, context.Canceled) {
						t.Errorf("error %v, want context.Canceled", err)
					}
				case <-time.After(10 * time.Second):
					t.Fatal("no return after the cancellation")
				}
				cancel()
			}
		})
	}
}

func isFile(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// A mirror must not be able to use the user's credentials for another server, nor to have helpers run for one.
func TestRedirectElsewhereGetsNoCredentials(t *testing.T) {
	helper := script(t, `echo "$*" >>"$dir/log"; printf 'https://victim.test\n\nX-Token: s3cret\n\n'`)
	gitHelper := script(t, `cat >>"$dir/asked"; printf 'username=u\npassword=s3cret\n'`)
	n := &network{answer: func(r *http.Request) (*http.Response, error) {
		if r.URL.Host == "corp.test:8443" {
			return reply(r, 302, "", "Location", "https://victim.test/x")
		}
		return reply(r, 401, "")
	}}
	f := authFetcher(t, n, modfetch.GoEnv{GOAUTH: "netrc;" + helper + ";git " + gitDir(t, gitHelper),
		NETRC: writeFile(t, "machine victim.test login u password p\n")})
	f.Versions(t.Context(), "example.com/m")
	if len(n.asked) != 2 || n.asked[1].Header.Get("Authorization") != "" || n.asked[1].Header.Get("X-Token") != "" {
		t.Errorf("asked %q, the last with %q", n.urls(), n.asked[len(n.asked)-1].Header)
	}
	if got := beside(t, helper, "log"); got != "\n" {
		t.Errorf("the command was run with %q, want once without arguments", got)
	}
	if got := beside(t, gitHelper, "asked"); got != "" {
		t.Errorf("git was asked for %q", got)
	}
}

// TestSecretsStayWhereTheyBelong sends each kind of secret to a mirror that redirects elsewhere and repeats what it was sent,
// and looks for it in errors, traces, files and requests to others.
func TestSecretsStayWhereTheyBelong(t *testing.T) {
	world := newWorld(t)
	forward := forwardTo(t, world.URL)
	cert, roots, _ := testCertificate(t, "corp.test", "cdn.corp.test", "other.test")
	secrets := []string{"s3cret", strings.TrimPrefix(basic("user", "s3cret"), "Basic "), strings.TrimPrefix(basic("s3cret", ""), "Basic ")}

	var mu sync.Mutex // guards the following
	var target string
	var used int         // requests to corp.test, or the proxy, that carried the secret
	var foreign []string // requests to others, in full
	var carries func(*http.Request) bool
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		dump, _ := httputil.DumpRequest(r, true)
		mu.Lock()
		own := r.TLS != nil && r.Host == "corp.test"
		if !own {
			foreign = append(foreign, string(dump))
		}
		good, to := own && carries(r), target
		if good {
			used++
		}
		mu.Unlock()
		switch {
		case strings.Contains(r.URL.Path, "/broken/"):
			if own {
				http.Redirect(w, r, to+r.URL.Path, http.StatusFound)
				return
			}
			http.Error(w, "what you sent: "+string(dump), http.StatusInternalServerError)
		case strings.Contains(r.URL.Path, "/denied/"):
			http.Error(w, "what you sent: "+strings.Join(strings.Fields(string(dump)), " "), http.StatusForbidden)
		case strings.Contains(r.URL.Path, "/malformed/"):
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nwhat you sent %s\r\n\r\n", strings.Join(strings.Fields(string(dump)), " "))
		case own && !good:
			http.Error(w, "who are you?", http.StatusUnauthorized)
		case own && strings.HasSuffix(r.URL.Path, ".zip"):
			http.Redirect(w, r, to+r.URL.Path, http.StatusTemporaryRedirect)
		default:
			r.Header.Del("Authorization")
			forward.ServeHTTP(w, r)
		}
	})
	secure, plain := httptest.NewUnstartedServer(handler), httptest.NewServer(handler)
	defer plain.Close()
	secure.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	secure.StartTLS()
	defer secure.Close()
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		to := secure.Listener.Addr().String()
		if strings.HasSuffix(address, ":80") {
			to = plain.Listener.Addr().String()
		} else if strings.HasPrefix(address, "127.0.0.1:") {
			to = address // the proxy
		}
		return new(net.Dialer).DialContext(ctx, network, to)
	}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		if r.Header.Get("Proxy-Authorization") == basic("user", "s3cret") {
			used++
		}
		mu.Unlock()
		if r.Method != http.MethodConnect {
			mu.Lock()
			foreign = append(foreign, r.Method+" "+r.Host)
			mu.Unlock()
		}
		if r.Method != http.MethodConnect || strings.HasPrefix(r.Host, "refused.test") {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			fmt.Fprintf(conn, "HTTP/1.1 407 what you sent: %s\r\n\r\n", r.Header.Get("Proxy-Authorization"))
			return
		}
		there, err := dial(r.Context(), "tcp", r.Host)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer there.Close()
		w.WriteHeader(http.StatusOK)
		here, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer here.Close()
		go func() { io.Copy(there, buffered); there.Close() }() // ends with either connection
		io.Copy(here, there)
	}))
	defer proxy.Close()

	command := script(t, `printf 'https://corp.test\n\nX-Token: s3cret\n\n'; echo s3cret >&2`)
	authorization := func(want string) func(*http.Request) bool {
		return func(r *http.Request) bool { return r.Header.Get("Authorization") == want }
	}
	kinds := map[string]struct {
		base    string
		env     modfetch.GoEnv
		proxied bool
		carries func(*http.Request) bool
	}{
		"userinfo":        {base: "https://user:s3cret@corp.test", carries: authorization(basic("user", "s3cret"))},
		"user-name token": {base: "https://s3cret@corp.test", carries: authorization(basic("s3cret", ""))},
		"query":           {base: "https://corp.test?token=s3cret", carries: func(r *http.Request) bool { return r.URL.Query().Get("token") == "s3cret" }},
		"netrc": {env: modfetch.GoEnv{GOAUTH: "netrc", NETRC: writeFile(t, "machine corp.test login user password s3cret\n")},
			carries: authorization(basic("user", "s3cret"))},
		"GOAUTH header": {env: modfetch.GoEnv{GOAUTH: command + " s3cret"}, carries: func(r *http.Request) bool { return r.Header.Get("X-Token") == "s3cret" }},
		"proxy":         {proxied: true, carries: func(*http.Request) bool { return true }},
	}
	for kind, k := range kinds {
		for where, to := range map[string]string{
			"other port": "https://corp.test:8443", "subdomain": "https://cdn.corp.test", "other host": "https://other.test", "http": "http://corp.test",
		} {
			t.Run(kind+", "+where, func(t *testing.T) {
				mu.Lock()
				target, used, foreign, carries = to, 0, nil, k.carries
				mu.Unlock()
				transport := &http.Transport{DialContext: dial, TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
				defer transport.CloseIdleConnections()
				if k.proxied {
					u, _ := url.Parse(proxy.URL)
					u.User = url.UserPassword("user", "s3cret")
					transport.Proxy = http.ProxyURL(u)
				}
				if k.base == "" {
					k.base = "https://corp.test"
				}
				var said []string
				tell := func(what any) {
					mu.Lock()
					defer mu.Unlock()
					said = append(said, fmt.Sprintf("%v %+v %#v", what, what, what))
				}
				attempt := func(_ context.Context, i modfetch.AttemptInfo) { tell(i); tell(i.Err) }
				home := tempDir(t) // of all files
				k.env.GOPATH = filepath.Join(home, "gopath")
				k.env.GOMODCACHE = filepath.Join(home, "modcache")
				t.Setenv("TMPDIR", home)
				f, err := modfetch.New(modfetch.WithGOPROXY(k.base), modfetch.WithSumDB(world.GOSUMDB()), modfetch.WithGoEnv(k.env),
					modfetch.WithCache(modfetch.DirCache(filepath.Join(home, "cache"))),
					modfetch.WithRoute("refused.test", "https://refused.test"), modfetch.WithHTTPClient(&http.Client{Transport: transport}),
					modfetch.WithTrace(&modfetch.Trace{AttemptStarted: attempt, AttemptDone: attempt, Progress: attempt, Crossed: attempt,
						Cache:       func(_ context.Context, i modfetch.CacheInfo) { tell(i) },
						Vouched:     func(_ context.Context, i modfetch.VouchInfo) { tell(i) },
						LockWaiting: func(_ context.Context, name string) { tell(name) },
						Head:        func(_ context.Context, i modfetch.HeadInfo) { tell(i) },
						Joined:      func(_ context.Context, m module.Version) { tell(m) }}))
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				for m, err := range f.Download(t.Context(), []module.Version{moduleM}) {
					tell(m)
					tell(err)
					if (where == "http") != errors.Is(err, modfetch.ErrSecurity) || where != "http" && err != nil {
						t.Errorf("error %v", err)
					}
				}
				for _, path := range []string{"example.com/denied/m", "example.com/malformed/m", "example.com/broken/m", "example.com/none", "refused.test/m"} {
					_, err := f.Versions(t.Context(), path)
					if err == nil {
						t.Errorf("%s: no error", path)
					}
					for ; err != nil; err = errors.Unwrap(err) {
						tell(err)
					}
				}

				mu.Lock()
				defer mu.Unlock()
				if used == 0 {
					t.Error("the secret was never sent where it belongs")
				}
				if (len(foreign) == 0) != (where == "http") {
					t.Errorf("%d requests elsewhere", len(foreign))
				}
				for _, dir := range []string{"gopath", "modcache", "cache"} {
					if where != "http" && len(files(t, filepath.Join(home, dir))) == 0 {
						t.Errorf("no file in %s", dir)
					}
				}
				filepath.WalkDir(home, func(name string, d fs.DirEntry, err error) error {
					if err == nil && !d.IsDir() {
						data, err := os.ReadFile(name)
						if err != nil {
							t.Error(err)
						}
						said = append(said, name+"\n"+string(data))
					}
					return nil
				})
				for _, secret := range secrets {
					for _, s := range append(said, foreign...) {
						if strings.Contains(s, secret) {
							t.Errorf("%s is in\n%.400s", secret, s)
						}
					}
				}
			})
		}
	}
}

// TestSecretsAreInNoOutput runs the test above in a process of its own, and looks for the secrets in what that prints.
func TestSecretsAreInNoOutput(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSecretsStayWhereTheyBelong$")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "PASS\n") {
		t.Fatalf("%v, printed:\n%s", err, out)
	}
	for _, secret := range []string{"s3cret", strings.Fields(basic("user", "s3cret"))[1], strings.Fields(basic("s3cret", ""))[1]} {
		if strings.Contains(string(out), secret) {
			t.Errorf("%s is in\n%s", secret, out)
		}
	}
}
