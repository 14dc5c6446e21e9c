package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/modfetch/modfetch"
)

const serveHelp = `usage: modfetch serve [flags]

Serve is a module mirror, with the checksum database behind it: it fetches what
go commands ask it for from other mirrors, verifies it, and keeps it. Use it by

	GOPROXY=http://127.0.0.1:8080 go mod download

Mirrors, the checksum database and what is private are the go command's
settings here, where serve runs. Everybody who can reach it can read what it
serves, so private modules are refused unless a flag says otherwise. It speaks
HTTP, not HTTPS; what faces a network belongs behind a proxy that does.

  -addr host:port   listen there; the default is 127.0.0.1:8080; port 0 is any
  -cache place      keep files in this directory, which is laid out as a GOPATH,
                    or in s3://bucket/prefix; the default is modfetch-serve in
                    the user's cache directory
  -near dir         the directory in front of s3://; the same default
  -lock url         share the work with servers that have the same s3:// cache,
                    by redis://host:port
  -cache-max size   remove files from the directory when they are more than
                    this, such as 20GB or 500MiB: first lists, @latest and
                    branches, which can be asked for again, then the zips used
                    longest ago, then .info and .mod files, those written
                    longest ago first; .ziphash and .lock files, and the
                    checksum database's records and tiles, stay; it is
                    looked at once a minute, so leave room for what
                    arrives within one
  -mirrors list     use these mirrors instead of those in GOPROXY; the form is
                    alike: 'https://goproxy.cn|https://corp.example';
                    cn stands for five public mirrors that can be reached from
                    mainland China, taken as equal
  -stagger d        take mirrors joined by | as equal: ask the quicker ones
                    first, and the next one too if there is no answer within d,
                    such as 300ms, or within three times what is usual
  -race             take them as equal, and ask all of them at once; for a zip,
                    only until it is known which are quick
  -jobs n           send each mirror at most n requests at a time; the
                    default is 64
  -ttl d            for how long lists of versions, branches and @latest are
                    fresh; the default is 1m
  -offline          ask no mirror; answer 503 for what is not in the cache
  -allow patterns   serve only these modules; the form is that of GOPRIVATE
  -deny patterns    do not serve these
  -private          serve what GOPRIVATE and the like make private, too, and
                    what mirrors give for credentials
  -direct           fetch from repositories where GOPROXY says direct: that runs
                    version control systems on what clients name
  -verbose-errors   tell clients which mirror failed, and why
  -max-requests n   answer 503 while n requests are being answered; the default
                    is 1000
  -admin host:port  have /healthz, /readyz and /metrics there, and not at -addr,
                    where whoever can reach it can read them
  -grace d          wait so long for transfers to end after an interrupt; the
                    default is 1m; a second interrupt ends them at once
  -log level        log to standard error: info, which has a line for each
                    request, and is the default; warn; error; debug; all is JSON
                    but the first line, which says where it listens, and the
                    last error, after which it exits

These paths are no modules:

  /healthz  200 while the process is alive
  /readyz   200 and ok; or degraded and why: 200 while mirrors fail, which the
            log names, since what is in the cache is served, and 503 if the
            cache directory cannot be written, or after an interrupt, when
            only -admin takes new connections
  /metrics  for Prometheus; the names begin with modfetch_; labels name mirrors

The exit code is 0 after an interrupt that all transfers have outlived, 130 if
some were cut, 1 if serving was not possible, and 2 for a mistake in the command
line.
`

const (
	headerTimeout = 10 * time.Second // for a client to send a request
	idleTimeout   = 2 * time.Minute  // between two requests on one connection
	maxHeader     = 16 << 10         // bytes of a request
	slowest       = time.Minute      // for a client to take what was sent; see frontend
)

// A server is one run of modfetch serve.
type server struct {
	settings
	addr, admin string
	cache       string // directory
	shared      string // s3:// behind it; "" for none
	lock        string // redis://; "" for none
	cacheMax    int64  // bytes; 0 is no limit
	maxRequests int
	grace       time.Duration
	level       slog.Level
	handler     *modfetch.Handler

	log     *slog.Logger
	metrics *metrics
	ready   *readiness
	evictor *evictor // nil without cacheMax
	stderr  io.Writer
}

func runServe(ctx context.Context, args []string, _, stderr io.Writer) error {
	s, err := parseServe(args)
	if err != nil {
		return err
	}
	s.stderr = stderr
	s.log = slog.New(slog.NewJSONHandler(stderr, &slog.HandlerOptions{Level: s.level}))
	if err := os.MkdirAll(s.cache, 0o777); err != nil {
		return err
	}
	shared, err := openStores(s.shared, s.lock, s.log)
	if err != nil {
		return err
	}
	defer shared.Close()
	s.metrics = newMetrics()
	s.ready = &readiness{try: func() error { return tryWrite(s.cache) }}
	if err := s.ready.try(); err != nil {
		return fmt.Errorf("-cache: %w", err)
	}
	if s.cacheMax > 0 {
		s.evictor = &evictor{mod: s.env.GOMODCACHE, max: s.cacheMax, log: s.log}
		s.metrics.watchEvictor(s.evictor)
		if shared.cache != nil {
			shared.cache = countedCache{shared.cache, s.evictor.arrived}
		}
	}
	fetcher, err := s.settings.fetcher(nil, append(shared.options(), modfetch.WithTrace(s.trace()))...)
	if err != nil {
		return err
	}
	defer fetcher.Close()
	defer s.handler.Close()
	s.handler.Fetcher, s.metrics.mirrors = fetcher, fetcher.Mirrors
	return s.run(ctx)
}

func parseServe(args []string) (*server, error) {
	s := &server{addr: "127.0.0.1:8080", maxRequests: 1000, grace: time.Minute, handler: new(modfetch.Handler)}
	h := s.handler
	set := flag.NewFlagSet("serve", flag.ContinueOnError)
	set.Func("addr", "", hostPort(&s.addr))
	set.Func("admin", "", hostPort(&s.admin))
	set.StringVar(&s.cache, "cache", "", "")
	near := set.String("near", "", "")
	set.StringVar(&s.lock, "lock", "", "")
	set.Func("cache-max", "", func(text string) (err error) {
		s.cacheMax, err = parseSize(text)
		return err
	})
	set.Func("ttl", "", positive(&h.ListTTL))
	set.Func("grace", "", positive(&s.grace))
	set.Func("max-requests", "", atLeastOne(&s.maxRequests))
	set.BoolVar(&h.CacheOnly, "offline", false, "")
	set.Func("allow", "", patterns(&h.Allow))
	set.Func("deny", "", patterns(&h.Deny))
	set.BoolVar(&h.ServePrivate, "private", false, "")
	set.BoolVar(&h.ServeDirect, "direct", false, "")
	set.BoolVar(&h.VerboseErrors, "verbose-errors", false, "")
	set.TextVar(&s.level, "log", slog.LevelInfo, "")
	if err := s.settings.parse(set, args, "mirrors", "race", "stagger", "jobs"); err != nil {
		return nil, err
	}
	if set.NArg() > 0 {
		return nil, usagef("takes no arguments, only flags; %q is none", set.Arg(0))
	}
	h.LatestTTL = h.ListTTL
	if strings.HasPrefix(s.cache, "s3://") {
		s.cache, s.shared = *near, s.cache
	} else if *near != "" {
		return nil, usagef("-near is for a -cache that is no directory, such as s3://bucket/prefix")
	} else if s.lock != "" {
		return nil, usagef("-lock is for servers with the same -cache s3://bucket/prefix; a directory has its own locks")
	} else if scheme, _, ok := strings.Cut(s.cache, "://"); ok {
		return nil, usagef("-cache: %s:// is not known; want a directory, or s3://bucket/prefix", scheme)
	}
	return s, s.setCache()
}

// setCache makes the directory a GOPATH with its own module cache, in the form in which serving is cheap: a file that has been
// hashed stays where it is. The project and module cache of whoever runs serve have no say.
func (s *server) setCache() (err error) {
	if s.cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return usagef("-cache: want a directory: %v", err)
		}
		s.cache = filepath.Join(dir, "modfetch-serve")
	}
	if s.cache, err = filepath.Abs(s.cache); err != nil {
		return err
	}
	if strings.ContainsRune(s.cache, filepath.ListSeparator) {
		return usagef("-cache: %s has a %q, which separates the directories of a GOPATH", s.cache, filepath.ListSeparator)
	}
	s.env.GOPATH, s.env.GOMODCACHE, s.env.GOFLAGS = s.cache, filepath.Join(s.cache, "pkg", "mod"), ""
	return nil
}

func hostPort(addr *string) func(string) error {
	return func(text string) error {
		*addr = text
		_, port, err := net.SplitHostPort(text)
		if err == nil {
			_, err = net.LookupPort("tcp", port)
		}
		if err != nil {
			return errors.New("want host:port, such as 127.0.0.1:8080")
		}
		return nil
	}
}

// patterns refuses what would silently match nothing.
func patterns(list *string) func(string) error {
	return func(text string) error {
		*list = text
		_, err := modfetch.New(modfetch.WithGOPROXY("off"), modfetch.WithPrivate(text))
		if err != nil {
			return errors.New(strings.TrimPrefix(err.Error(), "modfetch: WithPrivate: "))
		}
		return nil
	}
}

// parseSize reads a number of bytes such as 20GB or 1.5GiB.
func parseSize(text string) (int64, error) {
	number := strings.TrimRight(text, "bBiIkKmMgGtT")
	n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	size := n * sizeUnits[strings.ToLower(text[len(number):])] // 0 for what is no unit
	if err != nil || !(size >= 1 && size < 1<<62) {
		return 0, errors.New("want a size such as 20GB or 500MiB")
	}
	return int64(size), nil
}

var sizeUnits = map[string]float64{"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12,
	"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}

// trace tells metrics, readiness and the log what the Fetcher does.
func (s *server) trace() *modfetch.Trace {
	warn := func(ctx context.Context, what string, attrs ...slog.Attr) {
		if a := answerOf(ctx); a != nil {
			attrs = append(attrs, slog.String("id", a.id))
		}
		s.log.LogAttrs(ctx, slog.LevelWarn, what, attrs...)
	}
	about := func(i modfetch.AttemptInfo) []slog.Attr {
		attrs := []slog.Attr{slog.String("mirror", i.Mirror), slog.String("file", i.Path)}
		if i.Err != nil {
			attrs = append(attrs, slog.String("err", i.Err.Error()))
		}
		return attrs
	}
	var lag lagLog
	return &modfetch.Trace{
		AttemptDone: func(ctx context.Context, i modfetch.AttemptInfo) {
			s.metrics.attemptDone(ctx, i)
			s.ready.attemptDone(ctx, i)
			if s.evictor != nil {
				s.evictor.arrived(int(i.Bytes))
			}
			if i.Kind == modfetch.Corrupt || i.Kind == modfetch.Security {
				warn(ctx, "condemned", about(i)...)
			}
		},
		Crossed: func(ctx context.Context, i modfetch.AttemptInfo) {
			warn(ctx, "crossed a comma: the file was corrupt", about(i)...)
		},
		Cache: func(ctx context.Context, i modfetch.CacheInfo) {
			if i.Err != nil && !errors.Is(i.Err, fs.ErrNotExist) && modfetch.KindOf(i.Err) != modfetch.Canceled {
				warn(ctx, "cache", slog.String("file", i.Name), slog.String("err", i.Err.Error()))
			}
		},
		Head: func(ctx context.Context, i modfetch.HeadInfo) {
			s.metrics.head(ctx, i)
			if lag.worthTelling(i) {
				warn(ctx, "a mirror's tree head lags", slog.String("mirror", i.Mirror), slog.String("database", i.Database),
					slog.Int64("records", i.Behind))
			}
		},
	}
}

// A lagLog keeps mirrors whose tree head lags from filling the log.
type lagLog struct {
	mu   sync.Mutex // guards told
	told map[string]time.Time
}

const lagInterval = 10 * time.Minute

func (l *lagLog) worthTelling(i modfetch.HeadInfo) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i.Behind == 0 || time.Since(l.told[i.Mirror]) < lagInterval {
		return false
	}
	if l.told == nil {
		l.told = make(map[string]time.Time)
	}
	l.told[i.Mirror] = time.Now()
	return true
}

// run serves until ctx ends, and then lets transfers end.
func (s *server) run(ctx context.Context) error {
	listener, err := net.Listen("tcp", s.addr)
	if err != nil {
		return fmt.Errorf("-addr: %w", err)
	}
	defer listener.Close()
	address := localAddress(listener.Addr())
	if err := s.checkMirrors(address); err != nil {
		return err
	}
	main := s.newHTTPServer(s.handlers())
	servers, where := map[*http.Server]net.Listener{main: listener}, listener.Addr().String()
	if s.admin != "" {
		l, err := net.Listen("tcp", s.admin)
		if err != nil {
			return fmt.Errorf("-admin: %w", err)
		}
		servers[s.newHTTPServer(s.adminPaths(http.NotFoundHandler()))] = l
		where += ", and metrics on " + l.Addr().String()
	}
	fmt.Fprintf(s.stderr, "modfetch: serving on %s; use it with GOPROXY=http://%s\n", where, address)

	var background sync.WaitGroup
	defer background.Wait()
	if s.evictor != nil {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		background.Go(func() { s.evictor.run(ctx) })
	}
	failed := make(chan error, len(servers))
	for server, l := range servers {
		defer server.Close()
		background.Go(func() { failed <- server.Serve(l) })
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	s.ready.end()
	listener.Close() // Shutdown would too, but after the log has told of it
	s.log.Info("shutting down")
	wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.grace)
	defer cancel()
	if err := main.Shutdown(wait); errors.Is(err, context.DeadlineExceeded) { // not that the listener was closed already
		return fmt.Errorf("transfers were cut, %s after the interrupt", s.grace)
	}
	return nil
}

func (s *server) newHTTPServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
}

// handlers is the Handler with all that is around it.
func (s *server) handlers() http.Handler {
	f := &frontend{next: s.handler, log: s.log, metrics: s.metrics, slots: make(chan struct{}, s.maxRequests), patience: slowest}
	s.handler.Served = f.served
	if s.evictor != nil {
		s.handler.Served = func(ctx context.Context, i modfetch.ServedInfo) {
			f.served(ctx, i)
			if i.File == "zip" && i.Status < 400 {
				s.evictor.used(i.Module)
			}
		}
	}
	if s.admin != "" {
		return f
	}
	return s.adminPaths(f)
}

// adminPaths answers what is no module: their paths have a dot in the first element. It is no http.ServeMux, which would
// redirect requests for paths that are not clean.
func (s *server) adminPaths(next http.Handler) http.Handler {
	metrics := s.metrics.handler()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/healthz":
			io.WriteString(w, "ok\n")
		case "/readyz":
			s.ready.ServeHTTP(w, r)
		case "/metrics":
			metrics.ServeHTTP(w, r)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// localAddress is where a client on this machine reaches a listener.
func localAddress(a net.Addr) string {
	tcp, ok := a.(*net.TCPAddr)
	if !ok || !tcp.IP.IsUnspecified() {
		return a.String()
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(tcp.Port))
}

// checkMirrors refuses a list without a mirror, by which nothing would be served, and one with this server in it: GOPROXY may
// be set to it already, for the go command.
func (s *server) checkMirrors(address string) error {
	_, port, _ := net.SplitHostPort(address)
	list, setting := cmp.Or(s.mirrors, s.env.GOPROXY), "GOPROXY"
	if s.mirrors != "" {
		setting = "-mirrors"
	}
	mirrors := false
	for item := range strings.FieldsFuncSeq(list, func(r rune) bool { return r == ',' || r == '|' }) {
		item = strings.TrimSpace(item)
		if item == "direct" && !mirrors && !s.handler.ServeDirect {
			return fmt.Errorf("%s names no mirror before direct, so nothing could be served; name some by -mirrors, "+
				"or fetch from repositories, by -direct", setting)
		}
		mirrors = mirrors || item != ""
		u, err := url.Parse(item)
		if err != nil || u.Port() != port {
			continue
		}
		ip := net.ParseIP(u.Hostname())
		if u.Host == address || u.Hostname() == "localhost" || ip.IsLoopback() {
			return fmt.Errorf("%s has http://%s, which is this server itself; give it others by -mirrors", setting, u.Host)
		}
	}
	return nil
}
