package main

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   float64
	}{
		{nil, 0},
		{[]float64{7}, 7},
		{[]float64{9, 1}, 5},
		{[]float64{9, 1, 2}, 2},
		{[]float64{100, 3, 1, 2}, 2.5},
	} {
		if got := median(test.values); got != test.want {
			t.Errorf("median of %v is %v, want %v", test.values, got, test.want)
		}
	}
}

func newResult(name string) result {
	r := result{Case: name, About: "cold & <far>", goals: []goal{
		faster(2),
		{metric: "wall", of: modfetchName, to: goName, most: 0.3},
		small,
		faster(3),
	}}
	r.Subjects = []subjectResult{
		// The machine is three times slower in the second round.
		{Name: goName, Runs: []sample{{Wall: 10, CPU: 1, Requests: 6, Sent: 2e6}, {Wall: 30, CPU: 3, Requests: 6, Sent: 2e6}, {Wall: 20, CPU: 2, Requests: 6, Sent: 3e6}}},
		{Name: modfetchName, Runs: []sample{{Wall: 4, RSS: 60 << 20}, {Wall: 12, RSS: 65 << 20}, {Wall: 10, RSS: 70 << 20}}},
	}
	return r
}

func TestGoals(t *testing.T) {
	r := newResult("cold/x")
	r.judge()
	want := []goalResult{
		{Metric: "wall", Of: goName, To: modfetchName, Value: 2.5, Least: 2, Met: true}, // of 2.5, 2.5 and 2, not 20/10
		{Metric: "wall", Of: modfetchName, To: goName, Value: 0.4, Most: 0.3},
		{Metric: "rss", Of: modfetchName, Value: 65 << 20, Most: 64 << 20},
		{Metric: "wall", Of: goName, To: modfetchName, Value: 2.5, Least: 3},
	}
	for i, g := range want {
		if r.Goals[i] != g {
			t.Errorf("got %+v, want %+v", r.Goals[i], g)
		}
	}
	if m := r.Subjects[0].Median; m.Wall != 20 || m.CPU != 2 || m.Sent != 2e6 || m.Requests != 6 {
		t.Errorf("medians %+v", m)
	}
	if r.failed() {
		t.Error("failed")
	}

	r = newResult("cold/x")
	r.Subjects[1].Runs[1].Failed = "alas"
	r.judge()
	for _, g := range r.Goals {
		if g.Met || g.Value != 0 {
			t.Errorf("a failed run: %+v", g)
		}
	}
	if !r.failed() {
		t.Error("not failed")
	}
}

func TestTable(t *testing.T) {
	r := newResult("cold/x")
	r.Subjects[1].Runs[2].Failures = map[string]int{"mirror 2: transient": 3}
	r.judge()
	var out strings.Builder
	r.write(&out)
	const want = `
cold/x: cold & <far>
                     wall     cpu  peak rss  requests     sent  read
  go mod download  20.0 s  2.00 s         -         6  2.00 MB     -
         modfetch  10.0 s    0 ms    65 MiB         0        -     -
  modfetch: attempts that failed: mirror 2: transient: 3
  wall: go mod download / modfetch = 2.5, at least 2: met
  wall: modfetch / go mod download = 0.4, at most 0.3: missed
  rss: modfetch = 65 MiB, at most 64 MiB: missed
  wall: go mod download / modfetch = 2.5, at least 3: missed
`
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
	r.Subjects[0].Runs[0].Failed = "alas\n"
	r = result{Case: r.Case, Subjects: r.Subjects}
	r.judge()
	out.Reset()
	r.write(&out)
	if !strings.Contains(out.String(), "  FAILED: go mod download: alas\n") {
		t.Errorf("got\n%s", out.String())
	}
}

func TestChart(t *testing.T) {
	var results []result
	for _, name := range []string{"cold/x", "scale/20", "scale/80"} {
		r := newResult(name)
		r.judge()
		results = append(results, r)
	}
	var out strings.Builder
	if err := writeChart(&out, results); err != nil {
		t.Fatal(err)
	}
	svg := out.String()
	d := xml.NewDecoder(strings.NewReader(svg))
	elements := make(map[string]int)
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, svg)
		}
		if e, ok := token.(xml.StartElement); ok {
			elements[e.Name.Local]++
		}
	}
	// A bar and a mark for each ratio; a line and two dots for each program; an axis.
	if elements["rect"] != 9 || elements["line"] != 9 || elements["circle"] != 4 || elements["path"] != 3 {
		t.Errorf("elements %v in\n%s", elements, svg)
	}
	for _, want := range []string{
		`class="bar" x="300" y="42" width="291.7"`, // 2.5 of 3
		`class="mark" x1="533.3"`,                  // 2 of 3
		`class="label">cold &amp; &lt;far&gt;</text>`,
		"prefers-color-scheme: dark",
	} {
		if !strings.Contains(svg, want) {
			t.Errorf("no %s in\n%s", want, svg)
		}
	}
	var drawn strings.Builder
	var files []string
	for i, r := range []report{{Results: results[:1]}, {Results: results[1:]}} {
		data, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, filepath.Join(t.TempDir(), strconv.Itoa(i)))
		if err := os.WriteFile(files[i], data, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if err := draw(&drawn, files); err != nil || drawn.String() != svg {
		t.Errorf("drawn from files: %v\n%s", err, drawn.String())
	}
	if err := draw(&drawn, nil); err == nil {
		t.Error("drew nothing")
	}
	out.Reset()
	if err := writeChart(&out, nil); err != nil || strings.Contains(out.String(), "<text") {
		t.Errorf("without results: %v\n%s", err, out.String())
	}
}
