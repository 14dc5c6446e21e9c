package modfetch_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modfetch/modfetch"
)

func TestNetrc(t *testing.T) {
	const good = "machine corp.test:8443 login u password p\n"
	for name, c := range map[string]struct {
		netrc string
		want  string // Authorization
	}{
		"plain":                    {good, basic("u", "p")},
		"several lines":            {"machine corp.test:8443\n\tlogin u\n\n\tpassword p\n", basic("u", "p")},
		"password first":           {"machine corp.test:8443 password p login u", basic("u", "p")},
		"CRLF":                     {"machine corp.test:8443\r\nlogin u\r\npassword p\r\n", basic("u", "p")},
		"account":                  {"machine corp.test:8443 login u account a password p", basic("u", "p")},
		"first of two":             {good + "machine corp.test:8443 login x password y\n", basic("u", "p")},
		"first is incomplete":      {"machine corp.test:8443 login x\n" + good, basic("u", "p")},
		"nothing crosses machines": {"machine other.test login x\nmachine corp.test:8443 password p\n", ""},
		"other port":               {"machine corp.test login u password p\n", ""},
		"subdomain":                {"machine test login u password p\nmachine a.corp.test:8443 login u password p", ""},
		"default":                  {"default login u password p\n", ""},
		"default ends a machine":   {"machine corp.test:8443 login u\ndefault password p\n", ""},
		"quotes are ordinary":      {`machine corp.test:8443 login "u" password "p q"`, basic(`"u"`, `"p`)},
		"macro":                    {"macdef init\nmachine corp.test:8443 login x password y\n\n" + good, basic("u", "p")},
		"macro at the end":         {"macdef init\n" + good, ""},
		"macro with a blank line":  {"macdef init\n \n" + good, ""},
		"empty":                    {"", ""},
		"cut":                      {"machine corp.test:8443 login u password", ""},
	} {
		t.Run(name, func(t *testing.T) {
			n := always(200, "v1.0.0\n")
			f := authFetcher(t, n, modfetch.GoEnv{GOAUTH: "netrc", NETRC: writeFile(t, c.netrc)})
			if _, err := f.Versions(t.Context(), "example.com/m"); err != nil {
				t.Fatal(err)
			}
			if got := n.asked[0].Header.Get("Authorization"); got != c.want {
				t.Errorf("sent %q, want %q", got, c.want)
			}
		})
	}
	t.Run("in the home directory", func(t *testing.T) {
		home := t.TempDir()
		t.Setenv("HOME", home)
		t.Setenv("USERPROFILE", home)
		if err := os.WriteFile(filepath.Join(home, ".netrc"), []byte(good), 0o600); err != nil {
			t.Fatal(err)
		}
		n := guarded(401, "Authorization", basic("u", "p"))
		if _, err := authFetcher(t, n, modfetch.GoEnv{GOAUTH: "netrc"}).Versions(t.Context(), "example.com/m"); err != nil {
			t.Error(err)
		}
	})
	t.Run("not there", func(t *testing.T) {
		f := authFetcher(t, always(404, ""), modfetch.GoEnv{GOAUTH: "netrc", NETRC: filepath.Join(t.TempDir(), "none")})
		if _, err := f.Versions(t.Context(), "example.com/m"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("error %v, want fs.ErrNotExist", err)
		}
	})
	t.Run("not in the clear", func(t *testing.T) {
		n := always(200, "v1.0.0\n")
		f := listFetcher(t, "http://corp.test:8443/go", modfetch.WithHTTPClient(n.client()),
			modfetch.WithGoEnv(modfetch.GoEnv{GOAUTH: "netrc", NETRC: writeFile(t, good)}))
		if _, err := f.Versions(t.Context(), "example.com/m"); err != nil || n.asked[0].Header.Get("Authorization") != "" {
			t.Errorf("error %v, sent %q over http", err, n.asked[0].Header)
		}
	})
}

func TestMalformedGOAUTH(t *testing.T) {
	for name, c := range map[string]struct{ goauth, want string }{
		"off among others":   {"netrc;off", "item 2 is off"},
		"empty item":         {"netrc;;off", "item 2 is empty"},
		"open quote":         {"helper 's3cret", "item 1 has a quote"},
		"git alone":          {"git", "item 1 is git"},
		"git relative":       {"git s3cret", "item 1 is git"},
		"git in two places":  {"git /a /s3cret", "item 1 is git"},
		"off with a command": {"off;helper s3cret", "item 1 is off"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := modfetch.New(modfetch.WithGoEnv(modfetch.GoEnv{GOAUTH: c.goauth}), modfetch.WithGOPROXY("https://corp.test"))
			if err == nil || !strings.Contains(err.Error(), "GOAUTH: "+c.want) || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("error %v, want one with %q and no secret", err, c.want)
			}
		})
	}
}

// gitDir makes a repository whose credential helper is the given script.
func gitDir(t testing.TB, helper string) string {
	t.Helper()
	git, err := exec.LookPath("git")
	if err != nil {
		t.Skip("there is no git")
	}
	t.Setenv("GIT_CONFIG_GLOBAL", filepath.Join(t.TempDir(), "none"))
	t.Setenv("GIT_CONFIG_NOSYSTEM", "1")
	t.Setenv("GIT_ASKPASS", "")
	t.Setenv("SSH_ASKPASS", "")
	dir := t.TempDir()
	for _, args := range [][]string{{"init", "-q"}, {"config", "credential.helper", helper}} {
		cmd := exec.CommandContext(t.Context(), git, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %s: %v\n%s", args, err, out)
		}
	}
	return dir
}

// A credential store keeps one password; git tells it what became of it.
const storeScript = `
cat >"$dir/$1"
echo $1 >>"$dir/log"
case $1 in
get) if [ -f "$dir/password" ]; then echo username=u; echo password=$(cat "$dir/password"); fi;;
erase) rm -f "$dir/password";;
esac`

func TestGitCredentials(t *testing.T) {
	const ok, refusal = 200, 401
	for name, c := range map[string]struct {
		passwords []string // in the store before each of several requests; "" leaves it
		accepted  string
		hidden    bool // the server says 404, not 401
		log       string
		requests  int
		fails     bool
	}{
		"good":                        {passwords: []string{"good", ""}, accepted: "good", log: "get store", requests: 3},
		"refused again":               {passwords: []string{"bad", ""}, accepted: "good", log: "get erase get", requests: 3, fails: true},
		"bad, then good":              {passwords: []string{"bad", "good"}, accepted: "good", log: "get erase get store", requests: 4},
		"nothing known":               {passwords: []string{""}, accepted: "good", log: "get", requests: 1, fails: true},
		"refused again, but with 404": {passwords: []string{"bad"}, accepted: "good", hidden: true, log: "get", requests: 2, fails: true},
		"good for what is not there":  {passwords: []string{"good"}, accepted: "good", hidden: true, log: "get store", requests: 2},
	} {
		t.Run(name, func(t *testing.T) {
			helper := script(t, storeScript)
			code := refusal
			if c.hidden {
				code = 404
			}
			n := guarded(code, "Authorization", basic("u", c.accepted))
			f := authFetcher(t, n, modfetch.GoEnv{GOAUTH: "git " + gitDir(t, helper)})
			var err error
			for _, password := range c.passwords {
				if password != "" {
					if err := os.WriteFile(filepath.Join(filepath.Dir(helper), "password"), []byte(password), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				_, err = f.Versions(t.Context(), "example.com/m")
			}
			if (err != nil) != c.fails {
				t.Errorf("error %v, want one: %t", err, c.fails)
			}
			if got := strings.Join(strings.Fields(beside(t, helper, "log")), " "); got != c.log || len(n.asked) != c.requests {
				t.Errorf("the store was told %q in %d requests, want %q in %d", got, len(n.asked), c.log, c.requests)
			}
			if last := n.asked[len(n.asked)-1].Header.Get("Authorization"); name == "refused again" && last != "" {
				t.Errorf("a password that was refused is sent again: %q", last)
			}
			if got := beside(t, helper, "get"); !strings.Contains(got, "protocol=https\n") || !strings.Contains(got, "host=corp.test:8443\n") {
				t.Errorf("git asked for %q", got)
			}
			if got := beside(t, helper, "store"); got != "" && !strings.Contains(got, "password="+c.accepted+"\n") {
				t.Errorf("git stored %q", got)
			}
		})
	}
	t.Run("expired", func(t *testing.T) {
		helper := script(t, storeScript)
		store := filepath.Join(filepath.Dir(helper), "password")
		accepted := "old"
		n := &network{answer: func(r *http.Request) (*http.Response, error) {
			if r.Header.Get("Authorization") != basic("u", accepted) {
				return reply(r, refusal, "")
			}
			return reply(r, ok, "v1.0.0\n")
		}}
		f := authFetcher(t, n, modfetch.GoEnv{GOAUTH: "git " + gitDir(t, helper)})
		for _, accepted = range []string{"old", "new"} {
			os.WriteFile(store, []byte(accepted), 0o600)
			_, err := f.Versions(t.Context(), "example.com/m")
			if accepted == "new" { // the refused password takes its successor with it in this simple store
				os.WriteFile(store, []byte(accepted), 0o600)
				_, err = f.Versions(t.Context(), "example.com/m")
			}
			if err != nil {
				t.Error(err)
			}
		}
		if got := strings.Fields(beside(t, helper, "log")); strings.Join(got, " ") != "get store erase get get store" {
			t.Errorf("the store was told %q", got)
		}
	})
}

// A refusal that arrives late is about the password it was sent with, not about the one that has replaced it.
func TestLateRefusalDoesNotEraseANewPassword(t *testing.T) {
	helper := script(t, storeScript)
	store := filepath.Join(filepath.Dir(helper), "password")
	arrived, release := make(chan struct{}), make(chan struct{})
	var mu sync.Mutex // guards accepted
	accepted := "old"
	n := &network{answer: func(r *http.Request) (*http.Response, error) {
		mu.Lock()
		good := r.Header.Get("Authorization") == basic("u", accepted)
		late := accepted == "new" && !good && strings.Contains(r.URL.Path, "/late/")
		mu.Unlock()
		if good {
			return reply(r, 200, "v1.0.0\n")
		}
		if late {
			arrived <- struct{}{}
			<-release
		}
		return reply(r, 401, "")
	}}
	f := authFetcher(t, n, modfetch.GoEnv{GOAUTH: "git " + gitDir(t, helper)})
	fetch := func(path string) {
		if _, err := f.Versions(t.Context(), path); err != nil {
			t.Error(err)
		}
	}
	os.WriteFile(store, []byte("old"), 0o600)
	fetch("example.com/m")
	mu.Lock()
	accepted = "new"
	mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { fetch("example.com/late/m") })
	<-arrived
	f.Versions(t.Context(), "example.com/m") // erases the old one
	os.WriteFile(store, []byte("new"), 0o600)
	fetch("example.com/m")
	close(release)
	wg.Wait()
	if got := strings.Join(strings.Fields(beside(t, helper, "log")), " "); got != "get store erase get get store" {
		t.Errorf("the store was told %q", got)
	}
}

// A mirror must not be able to put lines of its own into the question that git is asked.
func TestGitIsNotAskedForAnotherHost(t *testing.T) {
	helper := script(t, `cat >>"$dir/asked"; printf 'username=u\npassword=s3cret\n'`)
	n := &network{answer: func(r *http.Request) (*http.Response, error) {
		if strings.HasSuffix(r.URL.Path, "/list") {
			return reply(r, 302, "", "Location", "/x%0ahost=victim.test%0apath=y")
		}
		return reply(r, 401, "")
	}}
	authFetcher(t, n, modfetch.GoEnv{GOAUTH: "git " + gitDir(t, helper)}).Versions(t.Context(), "example.com/m")
	for _, r := range n.asked {
		if got := r.Header.Get("Authorization"); got != "" {
			t.Errorf("%s was sent %q", r.URL, got)
		}
	}
	if got := beside(t, helper, "asked"); strings.Contains(got, "host=victim.test") {
		t.Errorf("git was asked for\n%s", got)
	}
}

func TestParseAuth(t *testing.T) {
	for name, c := range map[string]struct {
		out  string
		want string // prefixes with headers, as fmt prints them; "error ..."
	}{
		"empty":         {"", "map[]"},
		"one":           {"https://a.test\n\nX: 1\n\n", "map[a.test:map[X:[1]]]"},
		"two URLs":      {"https://a.test\nhttps://b.test/api/\n\nx: 1\nX: 2\nY:  3 \n\n", "map[a.test:map[X:[1 2] Y:[3]] b.test/api:map[X:[1 2] Y:[3]]]"},
		"two sets":      {"https://a.test\n\nX: 1\n\nhttps://b.test\n\nX: 2\n\n", "map[a.test:map[X:[1]] b.test:map[X:[2]]]"},
		"no headers":    {"https://a.test\n\n\n", "map[a.test:map[]]"},
		"CRLF":          {"https://a.test\r\n\r\nX: 1\r\n\r\n", "map[a.test:map[X:[1]]]"},
		"no end":        {"https://a.test\n\nX: 1\n", "error line 4"},
		"no empty line": {"https://a.test\nX: 1\n\n", "error line 2"},
		"http":          {"http://a.test\n\nX: 1\n\n", "error line 1"},
		"header first":  {"X: 1\n\nhttps://a.test\n\n", "error line 1"},
		"continuation":  {"https://a.test\n\nX: 1\n 2\n\n", "error line 4"},
		"no colon":      {"https://a.test\n\nX 1\n\n", "error line 3"},
		"space in name": {"https://a.test\n\nX Y: 1\n\n", "error line 3"},
		"control":       {"https://a.test\n\nX: 1\x002\n\n", "error line 3"},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := modfetch.ParseAuth(c.out)
			got := fmt.Sprint(found)
			if err != nil {
				got = "error " + err.Error()
			}
			if got != c.want && !(err != nil && strings.HasPrefix(got, c.want+" ")) {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func FuzzParseAuth(f *testing.F) {
	f.Add("https://a.test\nhttps://b.test/api/\n\nX: 1\nY: 2\n\n")
	f.Add("https://a.test/../b\n\n\nX: 1\n\n")
	f.Fuzz(func(t *testing.T, out string) {
		found, err := modfetch.ParseAuth(out)
		if err != nil && (found != nil || len(err.Error()) > 200) {
			t.Errorf("%v with %v", err, found)
		}
		for prefix, header := range found {
			if prefix == "" || strings.HasPrefix(prefix, "/") || strings.HasSuffix(prefix, "/") {
				t.Errorf("prefix %q", prefix)
			}
			for _, values := range header {
				if strings.ContainsAny(strings.Join(values, ""), "\r\n\x00") {
					t.Errorf("header %q", header)
				}
			}
		}
	})
}

func FuzzParseNetrc(f *testing.F) {
	f.Add("machine a.test login u password p\ndefault login x password y\nmacdef m\nx\n\nmachine b.test\nlogin u\npassword p")
	f.Fuzz(func(t *testing.T, text string) {
		for machine, header := range modfetch.ParseNetrc(text) {
			if !strings.Contains(text, machine) || len(header) != 1 || !strings.Contains(text, "password") {
				t.Errorf("%q: %q", machine, header)
			}
		}
	})
}

// testCertificate makes a certificate for names that is its own root, and writes it to a file for the go command.
func testCertificate(t testing.TB, names ...string) (cert tls.Certificate, roots *x509.CertPool, file string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: names, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots, writeFile(t, string(text))
}

// forwardTo answers like the server at base.
func forwardTo(t testing.TB, base string) http.Handler {
	t.Helper()
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	return &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(u) }, Transport: &http.Transport{DisableKeepAlives: true}}
}

// TestCredentialsAreThoseOfTheGoCommand compares what the two send last for each file.
func TestCredentialsAreThoseOfTheGoCommand(t *testing.T) {
	goCommand := needGo(t)
	if _, err := os.Stat("/proc/self"); err != nil {
		t.Skip("the go command reads SSL_CERT_FILE on Linux")
	}
	world := newWorld(t)
	forward := forwardTo(t, world.URL)
	cert, roots, certFile := testCertificate(t)
	var mu sync.Mutex
	var accept string
	sent := make(map[string]string)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := r.Header.Get("Authorization") + r.Header.Get("X-Token")
		mu.Lock()
		sent[r.URL.Path] = header
		good := header == accept
		mu.Unlock()
		if !good {
			http.Error(w, "denied", http.StatusUnauthorized)
			return
		}
		forward.ServeHTTP(w, r)
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	server.StartTLS()
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "https://")
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	defer client.CloseIdleConnections()
	says := func(path, token string) string {
		return script(t, "printf 'https://"+host+path+"\\n\\nX-Token: "+token+"\\n\\n'")
	}
	good := "machine " + host + "\n\tlogin u\n\tpassword p\n"

	for name, c := range map[string]struct{ goauth, netrc, accept string }{
		"netrc":                {"netrc", "macdef m\nmachine " + host + " login x password y\n\n" + good + good + "default login x password y\n", basic("u", "p")},
		"netrc, first of two":  {"netrc", good + "machine " + host + " login x password y\n", basic("u", "p")},
		"netrc, quotes":        {"netrc", "machine " + host + ` login "u" password "p q"`, basic(`"u"`, `"p`)},
		"netrc, default":       {"netrc", "default login u password p\n", basic("u", "p")},
		"netrc, no port":       {"netrc", "machine 127.0.0.1 login u password p\n", basic("u", "p")},
		"off":                  {"off", good, basic("u", "p")},
		"command":              {says("", "t"), "", "t"},
		"longest prefix":       {"netrc;" + says("", "host") + ";" + says("/example.com/m/", "t"), good, "t"},
		"first of equals":      {"netrc;" + says("", "t"), good, basic("u", "p")},
		"not a whole element":  {says("/example.c", "t"), "", "t"},
		"only when refused":    {script(t, `[ $# = 1 ] && printf 'https://`+host+`\n\nX-Token: t\n\n'`), "", "t"},
		"of the URL, repeated": {script(t, `[ $# = 1 ] && printf "$1\n\nX-Token: t\n\n"; true`), "", "t"},
		"command fails":        {"netrc;" + script(t, "exit 1"), good, basic("u", "p")},
		"git":                  {"git " + gitDir(t, script(t, `[ $1 = get ] && printf 'username=u\npassword=p\n'; true`)), "", basic("u", "p")},
		"git knows nothing":    {"git " + gitDir(t, script(t, "true")), "", basic("u", "p")},
	} {
		t.Run(name, func(t *testing.T) {
			mu.Lock()
			accept = c.accept
			clear(sent)
			mu.Unlock()
			netrc := writeFile(t, c.netrc)
			cmd := exec.CommandContext(t.Context(), goCommand, "mod", "download", moduleM.String())
			cmd.Dir = t.TempDir()
			cmd.Env = append(world.Env(t), "GOPROXY="+server.URL, "GOSUMDB=off", "GOAUTH="+c.goauth, "NETRC="+netrc, "SSL_CERT_FILE="+certFile)
			out, goErr := cmd.CombinedOutput()
			mu.Lock()
			theirs := maps.Clone(sent)
			clear(sent)
			mu.Unlock()
			f, _ := newFetcher(t, modfetch.WithGOPROXY(server.URL), modfetch.WithSumDB("off"), modfetch.WithHTTPClient(client),
				modfetch.WithGoEnv(modfetch.GoEnv{GOAUTH: c.goauth, NETRC: netrc}))
			_, err := f.Dir(t.Context(), moduleM)
			if (err == nil) != (goErr == nil) {
				t.Errorf("error %v; the go command's: %v\n%s", err, goErr, out)
			}
			for path, header := range sent {
				if header != theirs[path] && theirs[path] != "" || header == "" && theirs[path] != "" {
					t.Errorf("%s: sent %q, the go command %q", path, header, theirs[path])
				}
			}
			if len(sent) == 0 || len(theirs) == 0 {
				t.Errorf("asked for %q, the go command for %q", sent, theirs)
			}
		})
	}
}
