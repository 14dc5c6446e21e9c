package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/modfetch/modfetch"
	"golang.org/x/mod/module"
)

// A report gathers what a fetcher does: for the live line while it works, for the summary in the end. Its methods may be
// called concurrently.
type report struct {
	start time.Time

	mu         sync.Mutex // guards the following
	flying     []modfetch.AttemptInfo
	received   int64 // bytes, without those of flying
	mirrors    map[string]*mirrorCount
	vouched    map[module.Version]modfetch.VouchInfo
	condemned  []modfetch.AttemptInfo
	downloaded int // modules
	cached     int
	failed     []string
}

// A mirrorCount is what one mirror has done.
type mirrorCount struct {
	bytes  int64
	failed map[modfetch.Kind]int
}

func newReport() *report {
	return &report{
		start:   time.Now(),
		mirrors: make(map[string]*mirrorCount),
		vouched: make(map[module.Version]modfetch.VouchInfo),
	}
}

func (r *report) attemptStarted(_ context.Context, i modfetch.AttemptInfo) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.flying = append(r.flying, i)
}

func (r *report) progress(_ context.Context, i modfetch.AttemptInfo) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := r.find(i); n >= 0 {
		r.flying[n] = i
	}
}

func (r *report) attemptDone(_ context.Context, i modfetch.AttemptInfo) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := r.find(i); n >= 0 {
		r.flying = slices.Delete(r.flying, n, n+1)
	}
	r.received += i.Bytes
	c := r.mirrors[i.Mirror]
	if c == nil {
		c = &mirrorCount{failed: make(map[modfetch.Kind]int)}
		r.mirrors[i.Mirror] = c
	}
	c.bytes += i.Bytes
	switch {
	case i.Overtaken, i.Kind == "":
		return
	case i.Kind == modfetch.Corrupt:
		r.condemned = append(r.condemned, i)
	}
	c.failed[i.Kind]++
}

func (r *report) find(i modfetch.AttemptInfo) int {
	return slices.IndexFunc(r.flying, func(f modfetch.AttemptInfo) bool {
		return f.Path == i.Path && f.Mirror == i.Mirror && f.Offset == i.Offset
	})
}

func (r *report) vouch(_ context.Context, i modfetch.VouchInfo) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.vouched[i.Module] = i
}

func (r *report) moduleDone(m modfetch.Module) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m.Mirror != "" {
		r.downloaded++
	} else {
		r.cached++
	}
}

func (r *report) moduleFailed(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	first, _, _ := strings.Cut(text, "\n")
	r.failed = append(r.failed, first)
}

// traffic returns the bytes received so far, and the zips under way, longest first.
func (r *report) traffic() (received int64, zips []module.Version) {
	r.mu.Lock()
	defer r.mu.Unlock()
	received = r.received
	for _, i := range r.flying {
		received += i.Bytes
		if strings.HasSuffix(i.Path, ".zip") {
			zips = append(zips, i.Module)
		}
	}
	return received, zips
}

// summary prints what was done, and with failures which modules failed. If all was there already it is one line, unless
// some of it is unverified.
func (r *report) summary(w io.Writer, known []modfetch.MirrorInfo, failures bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintln(w, r.headline())
	r.mirrorLines(w, known)
	line := func(label, text string) { printField(w, label, text) }
	verified, unverified := make(map[string]int), make(map[string]int)
	for _, v := range r.vouched {
		if v.Unverified != "" {
			unverified[v.Unverified]++
		} else {
			verified[v.By]++
		}
	}
	if len(r.mirrors) > 0 {
		for _, by := range slices.Sorted(maps.Keys(verified)) {
			line("verified", fmt.Sprintf("%s  by %s", count(verified[by], "file"), by))
		}
	}
	for _, setting := range slices.Sorted(maps.Keys(unverified)) {
		line("unverified", fmt.Sprintf("%s  because of %s", count(unverified[setting], "file"), setting))
	}
	for _, i := range r.condemned {
		line("condemned", fmt.Sprintf("%s  from %s: %s", i.Path, i.Mirror, reason(i.Err)))
	}
	if failures {
		for _, text := range r.failed {
			line("failed", text)
		}
	}
}

// mirrorLines prints what each mirror has done and what is known of it, which after a failure or an interrupt says where it
// may have hung. r.mu is held.
func (r *report) mirrorLines(w io.Writer, known []modfetch.MirrorInfo) {
	info := func(name string) (info modfetch.MirrorInfo) {
		if i := slices.IndexFunc(known, func(m modfetch.MirrorInfo) bool { return m.Mirror == name }); i >= 0 {
			info = known[i]
		}
		return info
	}
	byFiles := func(a, b string) int { return cmp.Or(info(b).Files-info(a).Files, strings.Compare(a, b)) }
	for _, name := range slices.SortedFunc(maps.Keys(r.mirrors), byFiles) {
		c, info := r.mirrors[name], info(name)
		text := fmt.Sprintf("%s  %s, %s", name, count(info.Files, "file"), size(c.bytes))
		if info.Latency > 0 {
			text += fmt.Sprintf(", answers in %dms", max(1, info.Latency.Milliseconds()))
		}
		for _, kind := range slices.Sorted(maps.Keys(c.failed)) {
			text += fmt.Sprintf(", %d %s", c.failed[kind], kind)
		}
		if !info.Until.IsZero() {
			text += ", passed over by now"
		}
		printField(w, "mirror", text)
	}
}

// broken prints what there is to say of a run that has not come to its end.
func (r *report) broken(w io.Writer, known []modfetch.MirrorInfo) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mirrorLines(w, known)
}

// headline counts modules, bytes and time in one line. r.mu is held.
func (r *report) headline() string {
	modules := r.downloaded + r.cached + len(r.failed)
	switch {
	case modules == 0:
		return "no modules to download"
	case len(r.mirrors) == 0 && len(r.failed) == 0:
		return count(modules, "module") + ": all in the cache"
	}
	var parts []string
	for _, part := range []struct {
		n    int
		what string
	}{{r.downloaded, "downloaded"}, {r.cached, "in the cache"}, {len(r.failed), "failed"}} {
		if part.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", part.n, part.what))
		}
	}
	return fmt.Sprintf("%s: %s; %s in %s", count(modules, "module"), strings.Join(parts, ", "),
		size(r.received), duration(time.Since(r.start)))
}

// reason is an error in a few words.
func reason(err error) string {
	var sum *modfetch.ChecksumError
	if errors.As(err, &sum) {
		return "not what " + sum.Source + " has on record"
	}
	first, _, _ := strings.Cut(err.Error(), "\n")
	return first
}

// message is the text of an error about a module, which it names.
func message(err error, t target) string {
	text := err.Error()
	switch {
	case strings.Contains(text, t.path):
		return text
	case t.query == "":
		return t.path + ": " + text
	}
	return t.String() + ": " + text
}

// printField prints a line that belongs to the one above.
func printField(w io.Writer, label, text string) {
	fmt.Fprintf(w, "  %-11s %s\n", label, printable(text))
}

// printable is text that a mirror has sent, in one line and without what a terminal would obey.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return unicode.ReplacementChar
		}
		return r
	}, text)
}

// count is a number of things.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// size is a number of bytes for people.
func size(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n), 0
	for unit = range 4 {
		if v /= 1000; v < 999.5 {
			break
		}
	}
	if v < 9.95 {
		return fmt.Sprintf("%.1f %cB", v, "kMGT"[unit])
	}
	return fmt.Sprintf("%.0f %cB", v, "kMGT"[unit])
}

// duration is a time for people: 0.3s, 12s, 2m05s.
func duration(d time.Duration) string {
	switch {
	case d < 9950*time.Millisecond:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < 59500*time.Millisecond:
		return fmt.Sprintf("%.0fs", d.Seconds())
	}
	s := int(d.Round(time.Second).Seconds())
	if s < 3600 {
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	}
	return fmt.Sprintf("%dh%02dm", s/3600, s/60%60)
}
