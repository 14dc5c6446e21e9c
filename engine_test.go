package modfetch_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modfetch/modfetch"
	"golang.org/x/mod/module"
)

// A fakeMirror answers without sockets, so that time is free in a bubble, and counts.
type fakeMirror struct {
	name   string
	answer func(ctx context.Context, r modfetch.Request) (*modfetch.Response, error)

	mu    sync.Mutex // guards asked
	asked []modfetch.Request
}

func (m *fakeMirror) String() string { return m.name }

func (m *fakeMirror) Fetch(ctx context.Context, r modfetch.Request) (*modfetch.Response, error) {
	m.mu.Lock()
	m.asked = append(m.asked, r)
	m.mu.Unlock()
	return m.answer(ctx, r)
}

func (m *fakeMirror) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.asked)
}

// An answer is how a fakeMirror answers one request.
type answer = func(context.Context, modfetch.Request) (*modfetch.Response, error)

func fake(name string, a answer) *fakeMirror { return &fakeMirror{name: name, answer: a} }

// inTurn gives each answer once, and the last one from then on.
func inTurn(answers ...answer) answer {
	var mu sync.Mutex
	return func(ctx context.Context, r modfetch.Request) (*modfetch.Response, error) {
		mu.Lock()
		a := answers[0]
		if len(answers) > 1 {
			answers = answers[1:]
		}
		mu.Unlock()
		return a(ctx, r)
	}
}

// sends answers with the .info file that is asked for, or another text.
func sends(text string) answer {
	return func(context.Context, modfetch.Request) (*modfetch.Response, error) {
		return &modfetch.Response{Body: io.NopCloser(strings.NewReader(text)), Size: int64(len(text))}, nil
	}
}

var good = sends(`{"Version":"v1.0.0"}`)

func says(code int) answer {
	return func(_ context.Context, r modfetch.Request) (*modfetch.Response, error) {
		return nil, &modfetch.StatusError{Path: r.Path, Code: code}
	}
}

func answerOf(resp modfetch.Response) answer {
	return func(context.Context, modfetch.Request) (*modfetch.Response, error) { return &resp, nil }
}

// An unreadable body is none that should be read.
type unreadable struct{ testing.TB }

func (b unreadable) Read([]byte) (int, error) {
	b.Error("the body was read")
	return 0, io.EOF
}

func (b unreadable) Close() error { return nil }

func fails(err error) answer {
	return func(context.Context, modfetch.Request) (*modfetch.Response, error) { return nil, err }
}

// hangs answers nothing until the request is given up.
func hangs(ctx context.Context, _ modfetch.Request) (*modfetch.Response, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// streams answers with a body of that many bytes: valid JSON, sent in chunks with a pause before each. After stall bytes,
// unless that is negative, nothing more comes.
func streams(size, chunk int, pause time.Duration, stall int) answer {
	return func(ctx context.Context, _ modfetch.Request) (*modfetch.Response, error) {
		text := `{"Version":"v1.0.0"}`
		text += strings.Repeat(" ", size-len(text))
		sent := 0
		body := readerFunc(func(p []byte) (int, error) {
			if sent%chunk == 0 {
				var next <-chan time.Time
				if stall < 0 || sent < stall {
					next = time.After(pause)
				}
				select {
				case <-next:
				case <-ctx.Done():
					return 0, ctx.Err()
				}
			}
			n := copy(p[:min(chunk-sent%chunk, len(p))], text[sent:])
			if sent += n; n == 0 {
				return 0, io.EOF
			}
			return n, nil
		})
		return &modfetch.Response{Body: io.NopCloser(body), Size: int64(size)}, nil
	}
}

// over makes a Fetcher of mirrors given as tiers, for files that nobody vouches for.
func over(t testing.TB, tiers [][]*fakeMirror, opts ...modfetch.Option) *modfetch.Fetcher {
	t.Helper()
	for _, tier := range tiers {
		var mirrors []modfetch.Mirror
		for _, m := range tier {
			mirrors = append(mirrors, m)
		}
		opts = append(opts, modfetch.WithMirrors(mirrors...))
	}
	f, err := modfetch.New(append(opts, modfetch.WithSumDB("off"))...)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// askInfo fetches one small file, which nothing but its .info form decides about.
func askInfo(ctx context.Context, f *modfetch.Fetcher) error {
	_, err := f.Info(ctx, moduleM.Path, moduleM.Version)
	return err
}

func TestHTTPMirrorRetries(t *testing.T) {
	// What net says when a dial runs into its own deadline.
	_, dialTimeout := (&net.Dialer{Timeout: time.Nanosecond}).Dial("tcp", "127.0.0.1:1")
	failure := func(err error) func(*http.Request) (*http.Response, error) {
		return func(*http.Request) (*http.Response, error) { return nil, err }
	}
	status := func(code int, header ...string) func(*http.Request) (*http.Response, error) {
		return func(r *http.Request) (*http.Response, error) { return reply(r, code, "", header...) }
	}
	for name, c := range map[string]struct {
		answer      func(*http.Request) (*http.Response, error)
		tries       int
		least, most time.Duration // waited in all
	}{
		"200":                   {answer: status(200), tries: 1},
		"404":                   {answer: status(404), tries: 1},
		"410":                   {answer: status(410), tries: 1},
		"403":                   {answer: status(403), tries: 1},
		"400":                   {answer: status(400), tries: 1},
		"204":                   {answer: status(204), tries: 1},
		"500":                   {answer: status(500), tries: 4, most: 2 * time.Minute},
		"503":                   {answer: status(503), tries: 4, most: 2 * time.Minute},
		"429":                   {answer: status(429), tries: 4, most: 2 * time.Minute},
		"408":                   {answer: status(408), tries: 4, most: 2 * time.Minute},
		"Retry-After":           {answer: status(429, "Retry-After", "7"), tries: 4, least: 21 * time.Second, most: 21 * time.Second},
		"Retry-After an hour":   {answer: status(503, "Retry-After", "3600"), tries: 4, least: 90 * time.Second, most: 90 * time.Second},
		"Retry-After yesterday": {answer: status(503, "Retry-After", "-9"), tries: 4, most: 2 * time.Minute},
		"connection refused":    {answer: failure(&net.OpError{Op: "dial", Err: errors.New("connection refused")}), tries: 4, most: 2 * time.Minute},
		"dial timeout":          {answer: failure(dialTimeout), tries: 4, most: 2 * time.Minute},
		"broken connection":     {answer: failure(io.ErrUnexpectedEOF), tries: 4, most: 2 * time.Minute},
		"resolver is down":      {answer: failure(&net.DNSError{Err: "server misbehaving", IsTemporary: true}), tries: 4, most: 2 * time.Minute},
		"unknown host":          {answer: failure(&net.DNSError{Err: "no such host", IsNotFound: true}), tries: 1},
		"bad certificate":       {answer: failure(&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}), tries: 1},
		"to http":               {answer: status(302, "Location", "http://mirror.example/"), tries: 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &network{answer: c.answer}
				m := httpMirror(t, "https://mirror.example", n.client())
				start := time.Now()
				get(t, m, modfetch.Request{Path: "example.com/m/@v/list", Retry: true})
				if got := len(n.urls()); got != c.tries {
					t.Errorf("asked %d times, want %d", got, c.tries)
				}
				if waited := time.Since(start); waited < c.least || waited > c.most {
					t.Errorf("waited %s, want %s to %s", waited, c.least, c.most)
				}
				n.asked = nil
				start = time.Now()
				get(t, m, modfetch.Request{Path: "example.com/m/@v/list"})
				if got := len(n.urls()); got != 1 || time.Since(start) != 0 {
					t.Errorf("without Retry asked %d times in %s", got, time.Since(start))
				}
			})
		})
	}
	t.Run("until it answers", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := new(network)
			n.answer = func(r *http.Request) (*http.Response, error) {
				if len(n.urls()) < 3 {
					return reply(r, 500, "")
				}
				return reply(r, 200, "content")
			}
			data, err := get(t, httpMirror(t, "https://mirror.example", n.client()), modfetch.Request{Path: "example.com/m/@v/list", Retry: true})
			if err != nil || data != "content" {
				t.Errorf("got %q, %v", data, err)
			}
		})
	})
	t.Run("until the caller leaves", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := always(503, "", "Retry-After", "20")
			ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
			defer cancel()
			start := time.Now()
			_, err := httpMirror(t, "https://mirror.example", n.client()).Fetch(ctx, modfetch.Request{Path: "example.com/m/@v/list", Retry: true})
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 25*time.Second || len(n.urls()) != 2 {
				t.Errorf("error %v after %s and %d requests, want the caller's deadline", err, time.Since(start), len(n.urls()))
			}
		})
	})
}

func TestBadTransfersAreEndedAndPassedOver(t *testing.T) {
	for name, c := range map[string]struct {
		answer answer
		after  time.Duration // the other mirror is asked
		kind   modfetch.Kind
		says   string
	}{
		"no header":              {hangs, 30 * time.Second, modfetch.Transient, "no answer within 30s"},
		"stall at the start":     {streams(1000, 100, 0, 0), 30 * time.Second, modfetch.Transient, "30s"},
		"stall in the middle":    {streams(1000, 100, 0, 500), 30 * time.Second, modfetch.Transient, "30s"},
		"long pauses":            {streams(1000, 100, 29*time.Second, -1), 87 * time.Second, modfetch.Transient, "too slow"},
		"slow drip":              {streams(1<<20, 1<<10, time.Second, -1), 61 * time.Second, modfetch.Transient, "too slow"},
		"ends when given up":     {endsWhenGivenUp, 30 * time.Second, modfetch.Transient, "30s"},
		"longer than accepted":   {sends(`{"Version":"v1.0.0"}` + strings.Repeat(" ", 1<<20)), 0, modfetch.Corrupt, "1048576"},
		"of unknown size":        {answerOf(modfetch.Response{Body: io.NopCloser(strings.NewReader(strings.Repeat(" ", 8<<20))), Size: -1}), 0, modfetch.Corrupt, "more than the 1048576 bytes"},
		"states too large size":  {answerOf(modfetch.Response{Body: unreadable{t}, Size: 1<<20 + 1}), 0, modfetch.Corrupt, "size of 1048577 bytes"},
		"shorter than stated":    {answerOf(modfetch.Response{Body: io.NopCloser(strings.NewReader(`{"Version":"v1.0.0"}`)), Size: 100}), 0, modfetch.Transient, "cut short after 20 of 100 bytes"},
		"breaks off":             {answerOf(modfetch.Response{Body: io.NopCloser(io.MultiReader(strings.NewReader("{"), readerFunc(func([]byte) (int, error) { return 0, errors.New("connection reset") }))), Size: -1}), 0, modfetch.Transient, "cut short after 1 of an unknown number"},
		"a page":                 {answerOf(modfetch.Response{Body: unreadable{t}, Size: -1, ContentType: "text/html; charset=utf-8"}), 0, modfetch.Corrupt, "HTML page"},
		"a page, shouted":        {answerOf(modfetch.Response{Body: unreadable{t}, Size: -1, ContentType: "Text/HTML"}), 0, modfetch.Corrupt, "HTML page"},
		"an XHTML page":          {answerOf(modfetch.Response{Body: unreadable{t}, Size: -1, ContentType: "application/xhtml+xml"}), 0, modfetch.Corrupt, "HTML page"},
		"starts in the middle":   {answerOf(modfetch.Response{Body: unreadable{t}, Size: 100, Offset: 7}), 0, modfetch.Corrupt, "from byte 7 on"},
		"own deadline":           {fails(fmt.Errorf("dialling: %w", context.DeadlineExceeded)), 0, modfetch.Transient, "timed out"},
		"own cancellation":       {fails(context.Canceled), 0, modfetch.Transient, "timed out"},
		"unknown failure":        {fails(errors.New("weird")), 0, modfetch.Transient, "weird"},
		"absent":                 {fails(fmt.Errorf("open: %w", fs.ErrNotExist)), 0, modfetch.NotFound, ""},
		"large but slow enough":  {streams(500<<10, 5<<10, time.Second, -1), 101 * time.Second, "", ""},
		"slow, but in its grace": {streams(50, 1, time.Second, -1), 51 * time.Second, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				var asked time.Duration
				var ended modfetch.AttemptInfo
				first := fake("first", c.answer)
				second := fake("second", func(ctx context.Context, r modfetch.Request) (*modfetch.Response, error) {
					asked = time.Since(start)
					return good(ctx, r)
				})
				f := over(t, [][]*fakeMirror{{first, second}}, modfetch.WithTrace(&modfetch.Trace{
					AttemptDone: func(_ context.Context, i modfetch.AttemptInfo) {
						if i.Mirror == "first" {
							ended = i
						}
					},
				}))
				if err := askInfo(t.Context(), f); err != nil {
					t.Fatal(err)
				}
				if c.kind == "" {
					asked = time.Since(start)
				}
				if asked != c.after {
					t.Errorf("the first was given up after %s, want %s", asked, c.after)
				}
				if n := second.count(); (n == 1) != (c.kind != "") {
					t.Errorf("the second was asked %d times", n)
				}
				if ended.Kind != c.kind || c.kind != "" && !strings.Contains(ended.Err.Error(), c.says) || ended.Duration != c.after {
					t.Errorf("the first ended %q after %s: %v, want %q and %q", ended.Kind, ended.Duration, ended.Err, c.kind, c.says)
				}
			})
		})
	}
}

func TestSoleMirrorIsTriedAgain(t *testing.T) {
	for name, c := range map[string]struct {
		answers []answer
		asked   int
		ok      bool
	}{
		"cut, then good":     {[]answer{streamsCut, good}, 2, true},
		"cut twice":          {[]answer{streamsCut, streamsCut, good}, 2, false},
		"stalled, then good": {[]answer{streams(1000, 100, 0, 500), good}, 2, true},
		"slow, then good":    {[]answer{streams(1<<20, 1<<10, time.Second, -1), good}, 2, true},
		"corrupt":            {[]answer{sends("{}"), good}, 1, false},
		"404":                {[]answer{says(404), good}, 1, false},
		"403":                {[]answer{says(403), good}, 1, false},
		"cut, then 404":      {[]answer{streamsCut, says(404), good}, 2, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := fake("sole", inTurn(c.answers...))
				err := askInfo(t.Context(), over(t, [][]*fakeMirror{{m}}))
				if (err == nil) != c.ok || m.count() != c.asked {
					t.Errorf("asked %d times, want %d; error %v", m.count(), c.asked, err)
				}
				if !m.asked[0].Retry {
					t.Error("a mirror that is alone was not told to retry by itself")
				}
				if absent := errors.Is(err, fs.ErrNotExist); absent != (name == "404") {
					t.Errorf("%v is fs.ErrNotExist: %t", err, absent)
				}
			})
		})
	}
}

// endsWhenGivenUp sends the beginning, and calls it the end when it is cancelled.
func endsWhenGivenUp(ctx context.Context, _ modfetch.Request) (*modfetch.Response, error) {
	begin := strings.NewReader("{")
	return &modfetch.Response{Size: 100, Body: io.NopCloser(readerFunc(func(p []byte) (int, error) {
		if begin.Len() == 0 {
			<-ctx.Done()
		}
		return begin.Read(p)
	}))}, nil
}

func streamsCut(ctx context.Context, r modfetch.Request) (*modfetch.Response, error) {
	return &modfetch.Response{Body: io.NopCloser(strings.NewReader("{")), Size: 100}, nil
}

func TestTierIsGoneRoundOnceMore(t *testing.T) {
	for name, c := range map[string]struct {
		first, second []answer
		asked         string
		ok            bool
		told          int // attempts in the error
	}{
		"good in the second round":  {[]answer{says(500), good}, []answer{says(503)}, "first second first", true, 0},
		"second is good then":       {[]answer{says(500)}, []answer{says(500), good}, "first second first second", true, 0},
		"never good":                {[]answer{says(500)}, []answer{says(500)}, "first second first second", false, 2},
		"one says it is absent":     {[]answer{says(500), good}, []answer{says(404)}, "first second", false, 2},
		"one says it is forbidden":  {[]answer{says(403), good}, []answer{says(500)}, "first second", false, 2},
		"one is corrupt":            {[]answer{sends("{}"), good}, []answer{says(500)}, "first second", false, 2},
		"404 in the second round":   {[]answer{says(500), says(404)}, []answer{says(500)}, "first second first second", false, 3},
		"nobody has it":             {[]answer{says(404)}, []answer{says(404)}, "first second", false, 2},
		"the first has it straight": {[]answer{good}, []answer{says(500)}, "first", true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var asked []string
				noted := func(name string, a answer) *fakeMirror {
					return fake(name, func(ctx context.Context, r modfetch.Request) (*modfetch.Response, error) {
						if asked = append(asked, name); r.Retry {
							t.Errorf("%s was told to retry while there is another mirror to ask", name)
						}
						return a(ctx, r)
					})
				}
				f := over(t, [][]*fakeMirror{{noted("first", inTurn(c.first...)), noted("second", inTurn(c.second...))}})
				start := time.Now()
				err := askInfo(t.Context(), f)
				if got := strings.Join(asked, " "); got != c.asked || (err == nil) != c.ok {
					t.Errorf("asked %s, want %s; error %v, want success: %t", got, c.asked, err, c.ok)
				}
				var failed *modfetch.FetchError
				if errors.As(err, &failed) && len(failed.Attempts) != c.told {
					t.Errorf("error %v tells of %d attempts, want %d", err, len(failed.Attempts), c.told)
				}
				if again := len(asked) > 2; again != (time.Since(start) > 0) {
					t.Errorf("a pause of %s", time.Since(start))
				}
				if absent := errors.Is(err, fs.ErrNotExist); absent != (name == "nobody has it") {
					t.Errorf("%v is fs.ErrNotExist: %t", err, absent)
				}
			})
		})
	}
}

// TestWaitingIsNotSlowness shows that the least rate is that of the body: a mirror that was busy at first, and said so, has
// all its time to send.
func TestWaitingIsNotSlowness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := new(network)
		n.answer = func(r *http.Request) (*http.Response, error) {
			if len(n.urls()) <= 3 {
				return reply(r, 503, "", "Retry-After", "30")
			}
			return reply(r, 200, `{"Version":"v1.0.0"}`)
		}
		f, err := modfetch.New(modfetch.WithGOPROXY("https://mirror.example"), modfetch.WithSumDB("off"), modfetch.WithHTTPClient(n.client()))
		if err != nil {
			t.Fatal(err)
		}
		if err := askInfo(t.Context(), f); err != nil || len(n.urls()) != 4 {
			t.Errorf("%d requests, want 4; error %v", len(n.urls()), err)
		}
	})
}

func TestStallOfASoleMirrorIsCalledByItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var failed *modfetch.FetchError
		err := askInfo(t.Context(), over(t, [][]*fakeMirror{{fake("sole", streams(1000, 100, 0, 500))}}))
		if !errors.As(err, &failed) || !strings.Contains(failed.Attempts[0].Err.Error(), "30s") {
			t.Errorf("error %v, want one that says after how long a stall was ended", err)
		}
	})
}

func TestCancellingReturnsAtOnce(t *testing.T) {
	for name, a := range map[string]answer{
		"before the header":  hangs,
		"in the body":        streams(1000, 100, time.Second, -1),
		"in a stall":         streams(1000, 100, 0, 500),
		"between two rounds": says(500),
		"mirror hides why": func(ctx context.Context, r modfetch.Request) (*modfetch.Response, error) {
			<-ctx.Done()
			return nil, errors.New("closed")
		},
		"mirror says 404 now": func(ctx context.Context, r modfetch.Request) (*modfetch.Response, error) {
			<-ctx.Done()
			return says(404)(ctx, r)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // which fails if a goroutine is left
				reason := errors.New("the user pressed Ctrl-C")
				ctx, cancel := context.WithCancelCause(t.Context())
				wait := 5 * time.Second
				if name == "between two rounds" {
					wait = time.Millisecond
				}
				time.AfterFunc(wait, func() { cancel(reason) })
				start := time.Now()
				first, second := fake("first", a), fake("second", a)
				err := askInfo(ctx, over(t, [][]*fakeMirror{{first, second}, {second}}))
				if !errors.Is(err, reason) || errors.Is(err, fs.ErrNotExist) {
					t.Errorf("error %v, want %v", err, reason)
				}
				if waited := time.Since(start); waited != wait {
					t.Errorf("returned after %s, want %s", waited, wait)
				}
				if n := first.count() + second.count(); n > 2 {
					t.Errorf("%d requests, want none after the cancellation", n)
				}
			})
		})
	}
}

func TestSlotIsFreeAgain(t *testing.T) {
	for name, c := range map[string]struct {
		answer answer
		after  time.Duration
	}{
		"success":   {good, 0},
		"failure":   {says(403), 0},
		"no answer": {hangs, 2 * time.Minute},
		"cut":       {streamsCut, 0},
		"corrupt":   {sends("{}"), 0},
		"stall":     {streams(1000, 100, 0, 500), 30 * time.Second},
		"caller":    {hangs, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := fake("sole", inTurn(c.answer, good))
				f := over(t, [][]*fakeMirror{{m}}, modfetch.WithJobs(1))
				ctx := t.Context()
				if name == "caller" {
					timed, cancel := context.WithTimeout(ctx, c.after)
					defer cancel()
					ctx = timed
				}
				askInfo(ctx, f)
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				if err := askInfo(ctx, f); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestJobsBoundRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		busy, most := 0, 0
		m := fake("sole", func(ctx context.Context, r modfetch.Request) (*modfetch.Response, error) {
			mu.Lock()
			busy++
			most = max(most, busy)
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			busy--
			mu.Unlock()
			return nil, &modfetch.StatusError{Code: 404}
		})
		f := over(t, [][]*fakeMirror{{m}}, modfetch.WithJobs(3))
		start := time.Now()
		var wg sync.WaitGroup
		for i := range 12 {
			wg.Go(func() { f.Versions(t.Context(), fmt.Sprintf("example.com/m%d", i)) })
		}
		wg.Wait()
		if most != 3 || time.Since(start) != 4*time.Second {
			t.Errorf("%d requests at once, done after %s; want 3 and 4s", most, time.Since(start))
		}
	})
}

// TestSlotIsGivenUpWithTheBody shows that a file that has arrived does not keep others waiting while somebody is asked to
// vouch for it.
func TestSlotIsGivenUpWithTheBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		arrived, vouch := make(chan struct{}), make(chan struct{})
		m := fake("sole", func(ctx context.Context, r modfetch.Request) (*modfetch.Response, error) {
			if strings.HasSuffix(r.Path, ".mod") {
				return sends("module example.com/m\n")(ctx, r)
			}
			close(arrived)
			return good(ctx, r)
		})
		f := over(t, [][]*fakeMirror{{m}}, modfetch.WithJobs(1), modfetch.WithSums(slowSource{vouch}))
		done := make(chan error)
		go func() { _, err := f.GoMod(t.Context(), moduleM); done <- err }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := askInfo(ctx, f); err != nil {
			t.Errorf("while another file waits for its voucher: %v", err)
		}
		time.Sleep(time.Hour) // is nobody's fault
		close(vouch)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A slowSource has nothing on record, and takes its time to say so.
type slowSource struct{ answer chan struct{} }

func (slowSource) String() string { return "slow source" }

func (s slowSource) Sums(ctx context.Context, _ module.Version) ([]string, error) {
	select {
	case <-s.answer:
		return nil, modfetch.ErrUnlisted
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func TestTraceOfAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log []string
		var progress []time.Time
		note := func(what string) func(context.Context, modfetch.AttemptInfo) {
			return func(_ context.Context, i modfetch.AttemptInfo) {
				log = append(log, strings.TrimSpace(fmt.Sprintf("%s %s %s %d/%d %s %s", i.Mirror, what, i.Path, i.Bytes, i.Size, i.Duration, i.Kind)))
				if i.Module != moduleM || (i.Err != nil) != (i.Kind != "") {
					t.Errorf("%+v", i)
				}
			}
		}
		f := over(t, [][]*fakeMirror{{fake("first", says(404))}, {fake("second", streams(1000, 1, 10*time.Millisecond, -1))}},
			modfetch.WithTrace(&modfetch.Trace{
				AttemptStarted: note("started"),
				AttemptDone:    note("done"),
				Progress: func(_ context.Context, i modfetch.AttemptInfo) {
					progress = append(progress, time.Now())
					if i.Mirror != "second" || i.Size != 1000 || i.Bytes == 0 {
						t.Errorf("progress %+v", i)
					}
				},
			}))
		if err := askInfo(t.Context(), f); err != nil {
			t.Fatal(err)
		}
		want := []string{
			"first started example.com/m/@v/v1.0.0.info 0/-1 0s",
			"first done example.com/m/@v/v1.0.0.info 0/-1 0s not found",
			"second started example.com/m/@v/v1.0.0.info 0/-1 0s",
			"second done example.com/m/@v/v1.0.0.info 1000/1000 10.01s",
		}
		if !slices.Equal(log, want) {
			t.Errorf("trace:\n%s\nwant:\n%s", strings.Join(log, "\n"), strings.Join(want, "\n"))
		}
		if n := len(progress); n < 90 || n > 101 {
			t.Errorf("progress was told %d times in 10s, want at most ten times a second, and not much less", n)
		}
		for i := range progress[1:] {
			if d := progress[i+1].Sub(progress[i]); d < 100*time.Millisecond {
				t.Fatalf("progress again after %s", d)
			}
		}
	})
}
