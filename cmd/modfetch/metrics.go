package main

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/modfetch/modfetch"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics are what /metrics shows. Labels are kinds of files, outcomes, and the mirrors of the settings: nothing that clients
// can make more of.
type metrics struct {
	registry *prometheus.Registry

	requests *prometheus.CounterVec // by file and outcome
	seconds  *prometheus.HistogramVec
	bytes    *prometheus.CounterVec
	hits     *prometheus.CounterVec
	misses   *prometheus.CounterVec
	stale    *prometheus.CounterVec
	inFlight prometheus.Gauge

	attempts  *prometheus.HistogramVec // by mirror
	condemned *prometheus.CounterVec
	demotions *prometheus.CounterVec
	behind    *prometheus.GaugeVec

	mirrors func() []modfetch.MirrorInfo // of the Fetcher, which does not exist yet when its Trace is made

	mu     sync.Mutex           // guards paused
	paused map[string]time.Time // until when a mirror was passed over when that was last looked at
}

func newMetrics() *metrics {
	m := &metrics{registry: prometheus.NewRegistry(), paused: make(map[string]time.Time)}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
		m.registry.MustRegister(c)
		return c
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
		m.registry.MustRegister(h)
		return h
	}
	m.requests = counter("modfetch_requests_total", "Requests answered.", "file", "outcome")
	m.seconds = histogram("modfetch_request_duration_seconds", "Time to answer a request, with its body.",
		[]float64{.001, .005, .025, .1, .25, .5, 1, 2.5, 5, 10, 30, 120}, "file")
	m.bytes = counter("modfetch_response_bytes_total", "Bytes of bodies sent to clients.", "file")
	m.hits = counter("modfetch_hits_total", "Files served for which no mirror was asked.", "file")
	m.misses = counter("modfetch_misses_total", "Files served for which a mirror was asked.", "file")
	m.stale = counter("modfetch_stale_total", "Answers that were no longer fresh.", "file", "why")
	m.inFlight = prometheus.NewGauge(prometheus.GaugeOpts{Name: "modfetch_requests_in_flight", Help: "Requests being answered."})
	m.attempts = histogram("modfetch_upstream_duration_seconds", "Time a mirror took for a file, with its body, or to fail.",
		[]float64{.01, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 120}, "mirror")
	m.condemned = counter("modfetch_upstream_condemned_total", "Answers of a mirror that were not what was asked for.", "mirror")
	m.demotions = counter("modfetch_upstream_demotions_total", "Times a mirror began to be passed over because it failed.", "mirror")
	m.behind = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "modfetch_sumdb_behind_records",
		Help: "Records by which the tree head that a mirror has shown last lags behind the largest one seen."}, []string{"mirror"})
	m.registry.MustRegister(m.inFlight, m.behind, mirrorCollector{m},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// watchEvictor adds the size of a cache that has a limit.
func (m *metrics) watchEvictor(e *evictor) {
	gauge := func(name, help string, value func() int64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(value()) })
	}
	counter := func(name, help string, value func() int64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(value()) })
	}
	m.registry.MustRegister(
		gauge("modfetch_cache_bytes", "Size of the cache, and what mirrors have sent since it was looked at.",
			func() int64 { return e.bytes.Load() + e.written.Load() }),
		gauge("modfetch_cache_limit_bytes", "Size beyond which files are removed from the cache.", func() int64 { return e.max }),
		counter("modfetch_evictions_total", "Lists and the like, zips, and pairs of info and go.mod files, removed from the cache.",
			e.evictions.Load),
		counter("modfetch_evicted_bytes_total", "Bytes removed from the cache.", e.evicted.Load))
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// answered counts a request.
func (m *metrics) answered(a *answer, elapsed time.Duration) {
	file := a.info.File
	if file == "" {
		file = "none"
	}
	m.requests.WithLabelValues(file, a.outcome()).Inc()
	m.seconds.WithLabelValues(file).Observe(elapsed.Seconds())
	m.bytes.WithLabelValues(file).Add(float64(a.bytes))
	switch a.info.Status {
	case http.StatusOK, http.StatusPartialContent, http.StatusNotModified: // a refusal asks no mirror, but is no hit
		if a.info.Hit {
			m.hits.WithLabelValues(file).Inc()
		} else {
			m.misses.WithLabelValues(file).Inc()
		}
	}
	if a.info.Stale != "" {
		m.stale.WithLabelValues(file, a.info.Stale).Inc()
	}
}

// attemptDone counts what a mirror has answered.
func (m *metrics) attemptDone(_ context.Context, i modfetch.AttemptInfo) {
	if i.Overtaken || i.Kind == modfetch.Canceled {
		return
	}
	m.attempts.WithLabelValues(i.Mirror).Observe(i.Duration.Seconds())
	switch i.Kind {
	case modfetch.Corrupt, modfetch.Security:
		m.condemned.WithLabelValues(i.Mirror).Inc()
	case modfetch.Transient:
	default:
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, mirror := range m.mirrors() {
		if !mirror.Until.IsZero() && time.Now().After(m.paused[mirror.Mirror]) {
			m.demotions.WithLabelValues(mirror.Mirror).Inc()
		}
		m.paused[mirror.Mirror] = mirror.Until
	}
}

func (m *metrics) head(_ context.Context, i modfetch.HeadInfo) {
	m.behind.WithLabelValues(i.Mirror).Set(float64(i.Behind))
}

// A mirrorCollector shows what the Fetcher has learned of its mirrors.
type mirrorCollector struct{ *metrics }

var (
	mirrorBytes   = prometheus.NewDesc("modfetch_upstream_bytes_total", "Bytes received from a mirror.", []string{"mirror"}, nil)
	mirrorFiles   = prometheus.NewDesc("modfetch_upstream_files_total", "Good files received from a mirror.", []string{"mirror"}, nil)
	mirrorFailed  = prometheus.NewDesc("modfetch_upstream_failures_total", "Failures of a mirror.", []string{"mirror", "kind"}, nil)
	mirrorLatency = prometheus.NewDesc("modfetch_upstream_latency_seconds", "Median time to the header of a mirror's latest answers.", []string{"mirror"}, nil)
	mirrorPaused  = prometheus.NewDesc("modfetch_upstream_passed_over", "1 while a mirror is passed over because it failed.", []string{"mirror"}, nil)
)

func (c mirrorCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{mirrorBytes, mirrorFiles, mirrorFailed, mirrorLatency, mirrorPaused} {
		ch <- d
	}
}

func (c mirrorCollector) Collect(ch chan<- prometheus.Metric) {
	shown := make(map[string]bool)
	for _, i := range c.mirrors() {
		if shown[i.Mirror] {
			continue // differs from one before only in what is not printed, such as a user name
		}
		shown[i.Mirror] = true
		show := func(d *prometheus.Desc, t prometheus.ValueType, value float64, kind ...string) {
			ch <- prometheus.MustNewConstMetric(d, t, value, append([]string{i.Mirror}, kind...)...)
		}
		show(mirrorBytes, prometheus.CounterValue, float64(i.Bytes))
		show(mirrorFiles, prometheus.CounterValue, float64(i.Files))
		show(mirrorLatency, prometheus.GaugeValue, i.Latency.Seconds())
		for kind, n := range i.Failures {
			show(mirrorFailed, prometheus.CounterValue, float64(n), string(kind))
		}
		paused := 0.0
		if !i.Until.IsZero() {
			paused = 1
		}
		show(mirrorPaused, prometheus.GaugeValue, paused)
	}
}
