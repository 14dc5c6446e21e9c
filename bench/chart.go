package main

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// Sizes of the chart, in pixels.
const (
	chartWidth = 720
	labelWidth = 290
	barStart   = labelWidth + 10
	barWidth   = chartWidth - barStart - 70
	rowHeight  = 26
	lineHeight = 220 // of the diagram of lines
)

// A chart is an SVG of bars and lines. Its colors follow the reader's preference for light or dark.
type chart struct {
	body strings.Builder
	y    int
}

// draw draws the results in files.
func draw(w io.Writer, files []string) error {
	var results []result
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		var r report
		if err := json.Unmarshal(data, &r); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		results = append(results, r.Results...)
	}
	if len(results) == 0 {
		return errors.New("draw: no results; want files that -json has written")
	}
	return writeChart(w, results)
}

// writeChart draws the ratios of times: how many times as fast as the go command, then how many times what one good mirror
// takes, then how time grows with the number of modules.
func writeChart(w io.Writer, results []result) error {
	c := &chart{y: 10}
	var speed, cost []bar
	for _, r := range results {
		for _, g := range r.Goals {
			switch {
			case g.To == "":
			case g.Least > 0:
				speed = append(speed, bar{r.About, g.Metric, g.Of, g.To, g.Value, g.Least})
			default:
				cost = append(cost, bar{r.About, g.Metric, g.Of, g.To, g.Value, g.Most})
			}
		}
	}
	c.bars("Times as fast as go mod download (longer is better; the mark is the goal)", speed, func(b bar) string {
		if b.to == modfetchName {
			return b.about
		}
		return b.about + ", " + b.to
	})
	c.bars("Cost as a multiple of the other's (shorter is better; the mark is the bound)", cost, func(b bar) string {
		if b.metric != "wall" {
			return b.about + ", " + b.of + ": " + b.metric
		}
		return b.about + ": " + b.of + " / " + b.to
	})
	c.lines(results)
	_, err := fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img">
<style>
text { font: 13px system-ui, sans-serif; fill: #24292f; }
.title { font-weight: 600; }
.label { text-anchor: end; }
.bar, .dot { fill: #0a7ea4; }
.line { fill: none; stroke: #0a7ea4; stroke-width: 2; }
.other { stroke: #8c959f; }
.otherdot { fill: #8c959f; }
.mark { stroke: #cf222e; stroke-width: 2; }
.axis { stroke: #8c959f; stroke-width: 1; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; }
.bar, .dot { fill: #4cc2e8; }
.line { stroke: #4cc2e8; }
.other { stroke: #8b949e; }
.otherdot { fill: #8b949e; }
.mark { stroke: #ff7b72; }
}
</style>
%s</svg>
`, chartWidth, c.y, chartWidth, c.y, c.body.String())
	return err
}

// A bar is one goal that is a ratio.
type bar struct {
	about, metric, of, to string
	value, bound          float64
}

func (c *chart) bars(title string, bars []bar, label func(bar) string) {
	if len(bars) == 0 {
		return
	}
	c.title(title)
	longest := 0.0
	for _, b := range bars {
		longest = max(longest, b.value, b.bound)
	}
	for _, b := range bars {
		x := func(v float64) float64 { return barStart + barWidth*v/longest }
		middle := c.y + rowHeight/2
		c.text(labelWidth, middle+4, "label", label(b))
		fmt.Fprintf(&c.body, `<rect class="bar" x="%d" y="%d" width="%.1f" height="%d" rx="2"/>`+"\n", barStart, c.y+4, x(b.value)-barStart, rowHeight-8)
		if b.bound > 0 {
			fmt.Fprintf(&c.body, `<line class="mark" x1="%.1f" y1="%d" x2="%.1f" y2="%d"/>`+"\n", x(b.bound), c.y+1, x(b.bound), c.y+rowHeight-1)
		}
		text := fmt.Sprintf("%.3g", b.value)
		if b.value == 0 {
			text = "failed"
		}
		c.text(x(max(b.value, b.bound))+8, middle+4, "", text)
		c.y += rowHeight
	}
	c.y += 14
}

// lines draws the time of the cases that only differ in the number of modules.
func (c *chart) lines(results []result) {
	type point struct{ n, wall float64 }
	series := make(map[string][]point)
	last := point{}
	for _, r := range results {
		var n float64
		if _, err := fmt.Sscanf(r.Case, "scale/%g", &n); err != nil || r.failed() {
			continue
		}
		for _, name := range []string{goName, modfetchName} {
			s := r.subject(name)
			p := point{n, s.Median.Wall}
			series[name] = append(series[name], p)
			last = point{max(last.n, p.n), max(last.wall, p.wall)}
		}
	}
	if last.wall == 0 {
		return
	}
	c.title("Seconds for so many modules (grey: go mod download)")
	top, bottom := c.y+10, c.y+lineHeight
	x := func(n float64) float64 { return 60 + (chartWidth-140)*n/last.n }
	y := func(wall float64) float64 { return float64(bottom) - float64(bottom-top)*wall/last.wall }
	fmt.Fprintf(&c.body, `<path class="axis" fill="none" d="M60 %d V%d H%d"/>`+"\n", top, bottom, chartWidth-60)
	for _, name := range []string{goName, modfetchName} {
		line, dot, above := "line", "dot", -16 // so that labels of points that meet do not
		if name == goName {
			line, dot, above = "line other", "otherdot", 6
		}
		path := "M60 " + fmt.Sprint(bottom)
		for _, p := range series[name] {
			path += fmt.Sprintf(" L%.1f %.1f", x(p.n), y(p.wall))
			fmt.Fprintf(&c.body, `<circle class="%s" cx="%.1f" cy="%.1f" r="3"/>`+"\n", dot, x(p.n), y(p.wall))
			c.text(x(p.n)+6, int(y(p.wall))-above, "", fmt.Sprintf("%.2g", p.wall))
			if name == modfetchName {
				c.text(x(p.n)-10, bottom+18, "", fmt.Sprint(p.n))
			}
		}
		fmt.Fprintf(&c.body, `<path class="%s" d="%s"/>`+"\n", line, path)
	}
	c.y = bottom + 34
}

func (c *chart) title(s string) {
	c.y += 8
	c.text(10, c.y+8, "title", s)
	c.y += 20
}

func (c *chart) text(x float64, y int, class, s string) {
	fmt.Fprintf(&c.body, `<text x="%.1f" y="%d" class="%s">`, x, y, class)
	xml.EscapeText(&c.body, []byte(s)) // into memory, which does not fail
	c.body.WriteString("</text>\n")
}
