package modfetchtest

import (
	"net/http"
	"slices"
	"time"
)

// A pacedWriter sends a body no faster than at a rate.
type pacedWriter struct {
	http.ResponseWriter
	request *http.Request
	rate    int // bytes per second

	begun time.Time // when the first byte was sent
	sent  int
}

// Write sends b in pieces that are small enough to look like a slow line, and large enough not to keep the test busy.
func (w *pacedWriter) Write(b []byte) (n int, err error) {
	if w.begun.IsZero() {
		w.begun = time.Now()
	}
	for piece := range slices.Chunk(b, max(w.rate/100, 1)) {
		due := w.begun.Add(time.Duration(float64(w.sent) / float64(w.rate) * float64(time.Second)))
		if wait := time.Until(due); wait > 0 {
			http.NewResponseController(w.ResponseWriter).Flush() // what was sent so far
			pause(w.request, wait)
		}
		m, err := w.ResponseWriter.Write(piece)
		n += m
		w.sent += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// Unwrap is for [http.ResponseController].
func (w *pacedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// pause waits for d, unless the client leaves or the server closes: then nothing more is sent.
func pause(r *http.Request, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.Context().Done():
		panic(http.ErrAbortHandler)
	}
}
