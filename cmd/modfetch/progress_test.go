package main

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/modfetchtest"
	"golang.org/x/mod/module"
)

func TestLiveLine(t *testing.T) {
	w := newWorld(t)
	w.Fault("/example.com/b/*", modfetchtest.Status(403, "no entry"))
	_, _, stderr := w.modfetch("download", "-progress", "always", "example.com/c@v1.0.0", "example.com/b@v1.0.0")
	// A line that is wiped ends in a carriage return; lines that stay begin at the left.
	var stays []string
	for _, text := range strings.Split(stderr, "\n") {
		parts := strings.Split(text, "\r")
		stays = append(stays, parts[len(parts)-1])
	}
	got := w.steady(strings.Join(stays, "\n"))
	for _, want := range []string{
		"modfetch: fetching example.com/b@v1.0.0 (info): MIRROR: 403 Forbidden: no entry\n",
		"2 modules: 1 downloaded, 1 failed; ",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("not in the output: %q\n%s", want, got)
		}
	}
	if strings.Contains(got, "example.com/c v1.0.0") {
		t.Errorf("modules are printed beside the live line\n%s", got)
	}
}

func TestLiveLineWidth(t *testing.T) {
	for _, test := range []struct {
		width       int
		begin, rest string // what is drawn before the number of modules is known, and then
	}{
		{20, "reading go.mod files", "   1/1234   370 MB"},
		{45, "reading go.mod files   370 MB     0 B/s   0.0", "   1/1234 [>       ]  370 MB     0 B/s   0.0s"},
		{80, "reading go.mod files   370 MB     0 B/s   0.0s", "   1/1234 [>                 ]  370 MB     0 B/s   0.0s  one@v1.0.0 +2"},
		{120, "reading go.mod files   370 MB     0 B/s   0.0s", "   1/1234 [>                                   ]  370 MB     0 B/s   0.0s  " +
			"example.com/one@v1.0.0 +2"},
	} {
		var out strings.Builder
		r := newReport()
		for _, path := range []string{"example.com/one", "example.com/two", "example.com/three/and/a/rather/long/path"} {
			i := modfetch.AttemptInfo{Module: module.Version{Path: path, Version: "v1.0.0"}, Path: path + "/@v/v1.0.0.zip", Mirror: "m"}
			r.attemptStarted(t.Context(), i)
			i.Bytes = 123_456_789
			r.progress(t.Context(), i)
		}
		l := startLiveLine(&screen{w: &out}, r)
		l.bar.SetWidth(test.width)
		l.setPhase("reading go.mod files")
		l.bar.Write()
		l.setTotal(1234)
		l.moduleDone()
		l.bar.Write()
		l.screen.Println("a failure")
		l.stop()
		l.screen.Println("the end")

		text := regexp.MustCompile(`\d+\.\ds`).ReplaceAllString(out.String(), "0.0s")
		for _, line := range regexp.MustCompile(`[\r\n]`).Split(text, -1) {
			if len(line) > test.width {
				t.Errorf("%d columns: a line of %d: %q", test.width, len(line), line)
			}
		}
		if !strings.Contains(text, " \ra failure\n\r") || strings.Count(text, "\n") != 2 || !strings.HasSuffix(text, " \r\rthe end\n") {
			t.Errorf("%d columns: %q", test.width, text)
		}
		for _, want := range []string{test.begin, test.rest} {
			if !strings.Contains(text, "\r"+want) {
				t.Errorf("%d columns, not drawn: %q\n%q", test.width, want, text)
			}
		}
	}
}

func TestFit(t *testing.T) {
	names := []string{"example.com/one@v1.0.0", "example.com/two@v1.0.0", "three.example@v1.0.0"}
	for _, test := range []struct {
		name  string
		names []string
		width int
		want  string
	}{
		{"none", nil, 30, ""},
		{"one", names[:1], 22, "example.com/one@v1.0.0"},
		{"one too long", names[:1], 21, "one@v1.0.0"},
		{"one much too long", names[:1], 9, "+1"},
		{"all", names, 68, strings.Join(names, ", ")},
		{"one left", names, 67, names[0] + ", " + names[1] + " +1"},
		{"two left", names, 48, names[0] + " +2"},
		{"count needs room", names, 24, "one@v1.0.0 +2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := fit(test.names, test.width); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

func TestRate(t *testing.T) {
	var r rate
	start := time.Now()
	for _, step := range []struct {
		seconds int
		n, want int64
	}{
		{0, 0, 0},
		{1, 1000, 1000},
		{2, 1000, 500},
		{3, 6000, 2000},
		{6, 6000, 1000 * 5 / 4}, // the sample of second 2 is the last before the window
		{60, 6000, 0},
	} {
		if got := r.after(step.n, start.Add(time.Duration(step.seconds)*time.Second)); got != step.want {
			t.Errorf("after %d seconds %d, want %d", step.seconds, got, step.want)
		}
	}
}
