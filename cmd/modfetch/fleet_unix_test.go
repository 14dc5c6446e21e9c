//go:build unix

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/modfetch/modfetch/modfetchtest"
)

// storesVar is set by the script that starts a real S3 server.
const storesVar = "MODFETCH_TEST_S3"

// fleetVar says of how many modules TestFleet is to have the files.
const fleetVar = "MODFETCH_FLEET"

// TestFleet runs three servers on one S3 bucket and one Redis, behind a round-robin. 32 clients ask for all files of many
// modules: each is downloaded once. Then they ask for as many others while one server is killed and Redis stands still. A hundred
// modules, and three seconds, are enough for every day; MODFETCH_FLEET=1000 makes it a thousand, and ten. Processes, Redis and S3
// are real, and so is the time.
func TestFleet(t *testing.T) {
	bucket := os.Getenv(storesVar)
	if bucket == "" {
		t.Skip("run by scripts/with-stores.sh, which starts an S3 server")
	}
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Skip("run by scripts/with-stores.sh, which installs redis-server")
	}
	modules, still := 100, 3*time.Second
	if text := os.Getenv(fleetVar); text != "" {
		var err error
		if modules, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
		still = 10 * time.Second
	}
	upstream := modfetchtest.NewServer(t, nil)
	var versions [2][]string // names of files without their suffix, of the quiet part and of the other
	for i := range modules {
		for j, version := range []string{"v1.0.0", "v1.1.0"} {
			path := fmt.Sprintf("example.com/m%d", i)
			content := make([]byte, 1<<rand.IntN(17))
			for k := range content {
				content[k] = byte(rand.Uint32())
			}
			upstream.Add(modfetchtest.NewModule(path, version).File("data", string(content)))
			versions[j] = append(versions[j], "/"+path+"/@v/"+version)
		}
	}
	honest := upstream.Mirror() // for what is expected, and not counted

	redis := startRedis(t)
	b, err := url.Parse(bucket)
	if err != nil {
		t.Fatal(err)
	}
	b.Path = fmt.Sprintf("/fleet-%d", rand.Uint64())
	var rr roundRobin
	var servers []*exec.Cmd
	for range 3 {
		env := append(upstream.Env(t), "AWS_ACCESS_KEY_ID="+os.Getenv("AWS_ACCESS_KEY_ID"), "AWS_SECRET_ACCESS_KEY="+os.Getenv("AWS_SECRET_ACCESS_KEY"))
		cmd, base := startCommand(t, env, "-cache", b.String(), "-near", t.TempDir(), "-lock", redis.url, "-log", "warn")
		servers = append(servers, cmd)
		rr.add(t, base)
	}
	front := httptest.NewServer(&rr)
	defer front.Close()

	t.Run("quiet", func(t *testing.T) {
		load := newLoad(front.URL, honest, versions[0])
		load.run(t)
		if len(load.failures) > 0 {
			t.Errorf("%d requests failed, the first: %v", len(load.failures), load.failures[0].err)
		}
		for _, v := range versions[0] {
			for _, suffix := range []string{".info", ".mod", ".zip"} {
				if n := upstream.Count(v + suffix); n != 1 {
					t.Errorf("%s was downloaded %d times", v+suffix, n)
				}
			}
		}
	})
	t.Run("troubled", func(t *testing.T) {
		load := newLoad(front.URL, honest, versions[1])
		load.pause = 32 * (still + 5*time.Second) / time.Duration(3*modules) // so that it lasts for longer than the trouble
		var killed atomic.Pointer[time.Time]
		trouble := time.AfterFunc(3*time.Second, func() {
			redis.cmd.Process.Signal(syscall.SIGSTOP)
			killed.Store(new(time.Now()))
			servers[1].Process.Kill()
		})
		defer trouble.Stop()
		again := time.AfterFunc(3*time.Second+still, func() { redis.cmd.Process.Signal(syscall.SIGCONT) })
		defer again.Stop()
		var goCommands sync.WaitGroup
		for i := range 2 {
			goCommands.Go(func() {
				for n := range 20 {
					m := strings.Replace(versions[1][(i*modules/2+n*7)%modules][1:], "/@v/", "@", 1)
					cmd := exec.CommandContext(t.Context(), "go", "mod", "download", m)
					home := t.TempDir()
					cmd.Dir = home
					cmd.Env = append(upstream.Env(t), "GOPROXY="+front.URL, "GOFLAGS=-modcacherw", "HOME="+home, "GOPATH="+home, "GOMODCACHE="+filepath.Join(home, "mod"))
					if out, err := cmd.CombinedOutput(); err != nil {
						t.Errorf("go mod download %s: %v\n%s", m, err, out)
					}
				}
			})
		}
		load.run(t)
		goCommands.Wait()
		kill := killed.Load()
		if kill == nil {
			t.Fatal("the load has ended before the trouble")
		}
		late := 0
		for _, f := range load.failures {
			if f.at.Sub(*kill) > 3*time.Second {
				late++
				t.Errorf("%v after the kill: %v", f.at.Sub(*kill), f.err)
			}
		}
		total := 3 * modules
		t.Logf("%d of %d requests failed, %d of them later than 3 s after the kill; it took %v; the kill was after 3 s, and Redis stood still for %v", len(load.failures), total, late, load.took, still)
		if len(load.failures)*1000 > 3*total {
			t.Errorf("%d of %d requests failed, the first: %v", len(load.failures), total, load.failures[0].err)
		}
		if load.took < 3*time.Second+still {
			t.Errorf("the load lasted for %v, less than the trouble", load.took)
		}
		twice := 0
		for _, v := range versions[1] {
			for _, suffix := range []string{".info", ".mod", ".zip"} {
				if upstream.Count(v+suffix) > 1 {
					twice++
				}
			}
		}
		t.Logf("%d files were downloaded more than once", twice)
	})
}

// A load is 32 clients that ask for all files of modules, each once, in one random order.
type load struct {
	base   string
	honest *modfetchtest.Server
	names  []string
	pause  time.Duration // of each client after each request

	mu       sync.Mutex // guards failures
	failures []failure
	took     time.Duration
}

type failure struct {
	at  time.Time
	err error
}

func newLoad(base string, honest *modfetchtest.Server, versions []string) *load {
	l := &load{base: base, honest: honest}
	for _, v := range versions {
		l.names = append(l.names, v+".info", v+".mod", v+".zip")
	}
	rand.Shuffle(len(l.names), func(i, j int) { l.names[i], l.names[j] = l.names[j], l.names[i] })
	return l
}

func (l *load) run(t *testing.T) {
	queue := make(chan string, len(l.names))
	for _, name := range l.names {
		queue <- name
	}
	close(queue)
	began := time.Now()
	var clients sync.WaitGroup
	for range 32 {
		clients.Go(func() {
			for name := range queue {
				if err := l.get(t, name); err != nil {
					l.mu.Lock()
					l.failures = append(l.failures, failure{time.Now(), fmt.Errorf("%s: %w", name, err)})
					l.mu.Unlock()
				}
				time.Sleep(l.pause)
			}
		})
	}
	clients.Wait()
	l.took = time.Since(began)
}

// get returns why a file could not be had; what is taken for whole must be the file.
func (l *load) get(t *testing.T, name string) error {
	status, got, err := get(l.base + name)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("%d: %s", status, got)
	}
	_, want, err := get(l.honest.URL + name)
	if err != nil {
		t.Error(err)
		return nil
	}
	if strings.HasSuffix(name, ".info") {
		var a, b struct{ Version string }
		if json.Unmarshal(got, &a) != nil || json.Unmarshal(want, &b) != nil || a != b {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	} else if !bytes.Equal(got, want) {
		t.Errorf("%s: got %d bytes with hash %x, want %d", name, len(got), sha256.Sum256(got), len(want))
	}
	return nil
}

func get(url string) (status int, body []byte, err error) {
	resp, err := http.Get(url)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

// A roundRobin passes each request to the next server, and on if there is no answer, as nginx does by default.
type roundRobin struct {
	next    atomic.Uint64
	servers []*url.URL
	proxy   httputil.ReverseProxy
}

func (r *roundRobin) add(t *testing.T, base string) {
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	r.servers = append(r.servers, u)
	r.proxy.Rewrite = func(*httputil.ProxyRequest) {}
	r.proxy.Transport = r
	r.proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, err error) {
		http.Error(w, err.Error(), http.StatusBadGateway)
	}
}

func (r *roundRobin) ServeHTTP(w http.ResponseWriter, req *http.Request) { r.proxy.ServeHTTP(w, req) }

func (r *roundRobin) RoundTrip(req *http.Request) (resp *http.Response, err error) {
	first := r.next.Add(1)
	for i := range r.servers {
		to := req.Clone(req.Context())
		u := r.servers[(first+uint64(i))%uint64(len(r.servers))]
		to.URL.Scheme, to.URL.Host = u.Scheme, u.Host
		if resp, err = http.DefaultTransport.RoundTrip(to); err == nil || req.Context().Err() != nil {
			return resp, err
		}
	}
	return resp, err
}

type redisServer struct {
	cmd *exec.Cmd
	url string
}

// startRedis starts a Redis of the test's own, so that it can be stopped.
func startRedis(t *testing.T) redisServer {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "redis.sock")
	cmd := exec.Command("redis-server", "--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		if conn, err := net.Dial("unix", socket); err == nil {
			conn.Close()
			return redisServer{cmd, "unix://" + socket}
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("redis-server does not listen")
	return redisServer{}
}
