package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cheggaaa/pb/v3"
	"github.com/cheggaaa/pb/v3/termutil"
	"github.com/mattn/go-isatty"
	"github.com/modfetch/modfetch"
)

// A screen is standard error: lines that stay, and perhaps a live line below them. Its methods may be called
// concurrently.
type screen struct {
	mu   sync.Mutex // guards w and line
	w    io.Writer
	line string // as it stands on the terminal, between carriage returns; "" if there is none
}

// isTerminal reports whether a live line can be shown on w.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && os.Getenv("TERM") != "dumb" && (isatty.IsTerminal(f.Fd()) || isatty.IsCygwinTerminal(f.Fd()))
}

// Println prints text, which may have several lines, above the live line.
func (s *screen) Println(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.line == "" {
		fmt.Fprintln(s.w, text)
		return
	}
	blank := strings.Repeat(" ", pb.CellCount(strings.Trim(s.line, "\r")))
	fmt.Fprint(s.w, "\r", blank, "\r", text, "\n", s.line)
}

// Write draws the live line. The cursor is left at its beginning: behind a full line, what the terminal echoes for ^C would
// begin a new one.
func (s *screen) Write(line []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.line = string(line) + "\r"
	_, err := io.WriteString(s.w, s.line)
	return len(line), err
}

// trace is what a report gathers, and who is waited for.
func (s *screen) trace(r *report) *modfetch.Trace {
	return &modfetch.Trace{
		AttemptStarted: r.attemptStarted,
		Progress:       r.progress,
		AttemptDone:    r.attemptDone,
		Vouched:        r.vouch,
		LockWaiting: func(_ context.Context, name string) {
			s.Println("waiting for another process, which holds " + name)
		},
	}
}

// A liveLine shows what a report gathers: one line that is drawn again and again, and is gone in the end. A nil liveLine
// does nothing. It is started before the number of modules is known.
type liveLine struct {
	screen *screen
	report *report
	bar    *pb.ProgressBar
	phase  atomic.Pointer[string] // what is done until then
	rate   rate
}

const liveTemplate = `{{if .Total}}{{string . "count"}} {{bar . "[" "=" ">" " " "]"}}{{string . "rest"}}{{else}}{{string . "begin"}}{{end}}`

func startLiveLine(s *screen, r *report) *liveLine {
	l := &liveLine{screen: s, report: r, bar: pb.ProgressBarTemplate(liveTemplate).New(0)}
	l.setPhase("")
	l.bar.Set(pb.Terminal, true).Set(pb.Color, false).Set(pb.CleanOnFinish, true)
	l.bar.Set("count", drawn(l.count)).Set("rest", drawn(l.rest)).Set("begin", drawn(l.begin))
	if width, err := termutil.TerminalWidth(); err == nil && width <= 0 {
		l.bar.SetWidth(80) // a terminal that does not know
	}
	l.bar.SetWriter(s).Start()
	return l
}

// drawn is a part of the line that is computed when it is drawn.
type drawn func() string

func (f drawn) String() string { return f() }

func (l *liveLine) setPhase(text string) {
	if l != nil {
		l.phase.Store(&text)
	}
}

func (l *liveLine) setTotal(modules int) {
	if l != nil {
		l.bar.SetTotal(int64(modules))
	}
}

func (l *liveLine) moduleDone() {
	if l != nil {
		l.bar.Increment()
	}
}

func (l *liveLine) stop() {
	if l == nil {
		return
	}
	l.bar.Finish()
	l.screen.mu.Lock()
	defer l.screen.mu.Unlock()
	l.screen.line = ""
}

func (l *liveLine) begin() string {
	received, _ := l.report.traffic()
	text := *l.phase.Load() + " " + l.traffic(received)
	return pb.StripString(text, l.bar.Width())
}

func (l *liveLine) count() string {
	total := fmt.Sprint(l.bar.Total())
	return fmt.Sprintf("%*d/%s", len(total), l.bar.Current(), total)
}

// rest is what comes behind the bar. Its width only depends on that of the terminal, so that the bar stays as it is.
func (l *liveLine) rest() string {
	received, zips := l.report.traffic()
	text := l.traffic(received)
	room := (l.bar.Width() - len(l.count()) - len(text)) * 55 / 100
	if room < 15 {
		return text
	}
	names := make([]string, len(zips))
	for i, m := range zips {
		names[i] = m.String()
	}
	return fmt.Sprintf("%s  %-*s", text, room-2, fit(names, room-2))
}

func (l *liveLine) traffic(received int64) string {
	perSecond := size(l.rate.after(received, time.Now())) + "/s"
	return fmt.Sprintf("%8s %9s %6s", size(received), perSecond, duration(time.Since(l.report.start)))
}

// fit lists module versions as far as they fit into width, and counts the others. The first one may lose leading elements
// of its path.
func fit(names []string, width int) string {
	var text string
	for i, name := range names {
		var others string
		if n := len(names) - i - 1; n > 0 {
			others = fmt.Sprintf(" +%d", n)
		}
		if i > 0 {
			name = text + ", " + name
		}
		for i == 0 && len(name)+len(others) > width {
			_, rest, ok := strings.Cut(name, "/")
			if !ok {
				return fmt.Sprintf("+%d", len(names))
			}
			name = rest
		}
		if len(name)+len(others) > width {
			return fmt.Sprintf("%s +%d", text, len(names)-i)
		}
		text = name
	}
	return text
}

// A rate is how fast something has grown lately.
type rate struct{ samples []sample }

type sample struct {
	n  int64
	at time.Time
}

const rateWindow = 3 * time.Second

// after takes in that n was reached and returns the growth per second.
func (r *rate) after(n int64, now time.Time) int64 {
	r.samples = append(r.samples, sample{n, now})
	for len(r.samples) > 2 && now.Sub(r.samples[1].at) > rateWindow {
		r.samples = r.samples[1:]
	}
	first := r.samples[0]
	if elapsed := now.Sub(first.at); elapsed > 0 {
		return int64(float64(n-first.n) / elapsed.Seconds())
	}
	return 0
}
