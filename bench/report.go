package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
)

// A report is what was measured, and on what machine.
type report struct {
	Go      string   `json:"go"`
	OS      string   `json:"os"`
	Arch    string   `json:"arch"`
	CPUs    int      `json:"cpus"`
	Rounds  int      `json:"rounds"`
	Seed    uint64   `json:"seed"`
	Results []result `json:"results"`
}

// report measures and prints one case after the other. After an error it returns what there is.
func (b *bench) report(ctx context.Context, scenarios []scenario, stdout io.Writer) (report, error) {
	r := report{runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), b.rounds, b.seed, nil}
	fmt.Fprintf(stdout, "%s %s/%s, %d CPUs, medians of %d, seed %d\n", r.Go, r.OS, r.Arch, r.CPUs, r.Rounds, r.Seed)
	var failed []string
	for _, s := range scenarios {
		result, err := b.measure(ctx, s)
		if err != nil {
			return r, fmt.Errorf("%s: %w", s.name, err)
		}
		result.write(stdout)
		r.Results = append(r.Results, result)
		if result.failed() {
			failed = append(failed, s.name)
		}
	}
	if len(failed) > 0 {
		return r, fmt.Errorf("there were failures in %s", strings.Join(failed, ", "))
	}
	return r, nil
}

// A result is what a case has shown.
type result struct {
	Case     string          `json:"case"`
	About    string          `json:"about"`
	Subjects []subjectResult `json:"subjects"`
	Goals    []goalResult    `json:"goals,omitempty"`

	goals []goal
}

type subjectResult struct {
	Name   string   `json:"name"`
	Median sample   `json:"median"` // of each metric by itself
	Runs   []sample `json:"runs"`
}

type goalResult struct {
	Metric string  `json:"metric"`
	Of     string  `json:"of"`
	To     string  `json:"to,omitempty"`
	Value  float64 `json:"value"` // 0 if a run failed
	Least  float64 `json:"least,omitempty"`
	Most   float64 `json:"most,omitempty"`
	Met    bool    `json:"met"`
}

func (s *sample) metrics() map[string]*float64 {
	return map[string]*float64{"wall": &s.Wall, "cpu": &s.CPU, "rss": &s.RSS, "requests": &s.Requests, "sent": &s.Sent, "read": &s.Read}
}

// judge computes the medians and holds them against the goals.
func (r *result) judge() {
	for i := range r.Subjects {
		s := &r.Subjects[i]
		for name, value := range s.Median.metrics() {
			*value = median(s.all(name))
		}
		for _, run := range s.Runs {
			s.Median.Failed = cmp.Or(s.Median.Failed, run.Failed)
			s.Median.Failures = run.Failures // of the last one, to give an idea
		}
	}
	for _, g := range r.goals {
		of, to := r.subject(g.of), r.subject(g.to)
		out := goalResult{Metric: g.metric, Of: g.of, To: g.to, Least: g.least, Most: g.most}
		if of.Median.Failed == "" && to.Median.Failed == "" {
			values := of.all(g.metric)
			for i, value := range to.all(g.metric) { // in the same round, because machines get slower and faster
				values[i] /= value
			}
			out.Value = median(values)
			out.Met = out.Value >= g.least && (g.most == 0 || out.Value <= g.most)
		}
		r.Goals = append(r.Goals, out)
	}
}

// subject returns that of a name, or one without runs.
func (r *result) subject(name string) subjectResult {
	i := slices.IndexFunc(r.Subjects, func(s subjectResult) bool { return s.Name == name })
	if i < 0 {
		return subjectResult{}
	}
	return r.Subjects[i]
}

func (s *subjectResult) all(metric string) []float64 {
	var values []float64
	for _, run := range s.Runs {
		values = append(values, *run.metrics()[metric])
	}
	return values
}

func (r *result) failed() bool {
	return slices.ContainsFunc(r.Subjects, func(s subjectResult) bool { return s.Median.Failed != "" })
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	values = slices.Sorted(slices.Values(values))
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

// write prints a case as a table for people.
func (r *result) write(w io.Writer) {
	fmt.Fprintf(w, "\n%s: %s\n", r.Case, r.About)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\twall\tcpu\tpeak rss\trequests\tsent\tread\t")
	for _, s := range r.Subjects {
		m := s.Median
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%.0f\t%s\t%s\t\n", s.Name, seconds(m.Wall), seconds(m.CPU), mebibytes(m.RSS), m.Requests,
			megabytes(m.Sent), megabytes(m.Read))
	}
	t.Flush()
	for _, s := range r.Subjects {
		for _, name := range slices.Sorted(maps.Keys(s.Median.Failures)) {
			fmt.Fprintf(w, "  %s: attempts that failed: %s: %d\n", s.Name, name, s.Median.Failures[name])
		}
		if s.Median.Failed != "" {
			fmt.Fprintf(w, "  FAILED: %s: %s\n", s.Name, strings.TrimSpace(s.Median.Failed))
		}
	}
	for _, g := range r.Goals {
		fmt.Fprintf(w, "  %s\n", g)
	}
}

func (g goalResult) String() string {
	value := func(v float64) string { return fmt.Sprintf("%.3g", v) }
	if g.To == "" && g.Metric == "rss" {
		value = mebibytes
	}
	text := g.Metric + ": " + g.Of
	if g.To != "" {
		text += " / " + g.To
	}
	bound := "at least " + value(g.Least)
	if g.Most > 0 {
		bound = "at most " + value(g.Most)
	}
	verdict := "missed"
	if g.Met {
		verdict = "met"
	}
	return fmt.Sprintf("%s = %s, %s: %s", text, value(g.Value), bound, verdict)
}

func seconds(v float64) string {
	switch {
	case v < 1:
		return fmt.Sprintf("%.0f ms", v*1000)
	case v < 10:
		return fmt.Sprintf("%.2f s", v)
	}
	return fmt.Sprintf("%.1f s", v)
}

func mebibytes(v float64) string { return orDash(v, fmt.Sprintf("%.0f MiB", v/(1<<20))) }
func megabytes(v float64) string { return orDash(v, fmt.Sprintf("%.2f MB", v/megabyte)) }

func orDash(v float64, text string) string {
	if v == 0 {
		return "-"
	}
	return text
}
