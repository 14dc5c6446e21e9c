package modfetch

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	forEver   = 365 * 24 * time.Hour
	immutable = "max-age=31536000, immutable" // forEver
	plainText = "text/plain; charset=utf-8"
)

// sendZip sends a zip, or what the client wants of it.
func (q *request) sendZip(z *Zip, tag string) {
	var content io.ReadSeeker = z.file // which the kernel can send by itself
	modified := z.info.ModTime()
	if z.shared {
		content, modified = io.NewSectionReader(z, 0, z.Size), time.Time{}
	}
	if q.describe(z.Size, "application/zip", tag, forEver) {
		if modified.Unix() > 0 { // else it is unknown
			q.w.Header()["Last-Modified"] = []string{modified.UTC().Format(http.TimeFormat)}
		}
		io.CopyN(q.w, content, z.Size)
	} else {
		http.ServeContent(q.w, q.r, "", modified, content)
	}
}

// sendBytes is sendZip for a small file.
func (q *request) sendBytes(body []byte, kind, tag string, fresh time.Duration) {
	if q.describe(int64(len(body)), kind, tag, fresh) {
		q.w.Write(body)
	} else {
		http.ServeContent(q.w, q.r, "", time.Time{}, bytes.NewReader(body))
	}
}

// describe says what is sent. It reports whether that is the whole file, as most clients want it, and as it is: of a small one,
// ServeContent would take half of the time to find that out. It writes fields under their canonical names: to find those takes
// longer than the rest.
func (q *request) describe(size int64, kind, tag string, fresh time.Duration) (whole bool) {
	header := q.w.Header()
	header["Content-Type"] = []string{kind}
	header["X-Content-Type-Options"] = noSniff
	header["Etag"] = []string{`"` + tag + `"`}
	limits := immutable
	if fresh != forEver {
		limits = "max-age=" + strconv.Itoa(int(fresh.Seconds()))
	}
	header["Cache-Control"] = []string{limits}
	asks := q.r.Header
	if q.r.Method != http.MethodGet || asks["Range"] != nil || asks["If-None-Match"] != nil || asks["If-Match"] != nil ||
		asks["If-Modified-Since"] != nil || asks["If-Unmodified-Since"] != nil ||
		header["Content-Encoding"] != nil { // whoever wraps the Handler sends something else
		return false
	}
	header["Accept-Ranges"] = inBytes
	header["Content-Length"] = []string{strconv.FormatInt(size, 10)}
	return true
}

var inBytes, noSniff = []string{"bytes"}, []string{"nosniff"}

var errMethod = errors.New("only GET and HEAD are served")

// statusGone is told of an answer that nobody waits for any more; no client sees it.
const statusGone = 499

// fail answers with an error: one line of which kind it is, and of which mirror by its place in the list, or all of it.
func (q *request) fail(err error) {
	q.info.Err = err
	var offline *OfflineError
	var refused *refusal
	status, kind := http.StatusBadGateway, string(KindOf(err))
	switch KindOf(err) {
	case NotFound:
		status = http.StatusNotFound
	case Forbidden:
		status = http.StatusForbidden
	case Transient:
		if timedOut(err) {
			status, kind = http.StatusGatewayTimeout, "timeout"
		}
	case Canceled:
		status = statusGone
		if q.r.Context().Err() == nil || errors.Is(err, context.DeadlineExceeded) {
			status, kind = http.StatusGatewayTimeout, "timeout"
		}
	}
	header := q.w.Header()
	switch {
	case err == errMethod:
		status, kind = http.StatusMethodNotAllowed, err.Error()
		header.Set("Allow", "GET, HEAD")
	case errors.As(err, &offline) && q.disabled:
		status, kind = http.StatusNotFound, "not in the cache, and Disable-Module-Fetch was asked for"
	case errors.As(err, &offline):
		status, kind = http.StatusServiceUnavailable, "not in the cache, and no mirror is asked"
	}
	text := kind
	switch {
	case errors.As(err, &refused):
		text += " by the setting " + refused.setting + " of this server"
	case q.h.VerboseErrors:
		text = err.Error()
	case offline == nil: // else a mirror that was not asked would be blamed
		text += q.blamed(err)
	}
	header.Set("Cache-Control", "no-store")
	header.Set("Content-Type", plainText)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Content-Length", strconv.Itoa(len(text)+1))
	q.w.WriteHeader(status)
	if q.r.Method != http.MethodHead {
		io.WriteString(q.w, text+"\n")
	}
}

// blamed tells what each mirror did, by its place among those that may be asked.
func (q *request) blamed(err error) string {
	var failed *FetchError
	if !errors.As(err, &failed) {
		return ""
	}
	places, n := make(map[string]int), 0
	for _, t := range q.h.online.routes.to(q.info.Module.Path) {
		for _, m := range t.mirrors {
			if n++; places[m.String()] == 0 {
				places[m.String()] = n
			}
		}
	}
	var text strings.Builder
	for i, a := range failed.Attempts {
		if i == maxBlamed {
			text.WriteString("; ...")
			break
		}
		sep, who := "; ", "the checksum database's host"
		if i == 0 {
			sep = ": "
		}
		if place := places[a.Mirror]; place > 0 {
			who = fmt.Sprint("mirror ", place)
		}
		fmt.Fprintf(&text, "%s%s: %s", sep, who, a.Kind)
	}
	return text.String()
}

const maxBlamed = 16 // mirrors

// A counter counts what is answered.
type counter struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (c *counter) WriteHeader(status int) {
	if status >= 200 {
		c.status = status
	}
	c.ResponseWriter.WriteHeader(status)
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.bytes += int64(n)
	return n, err
}

// ReadFrom lets the kernel send a file.
func (c *counter) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(c.ResponseWriter, r)
	c.bytes += n
	return n, err
}

func (c *counter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// sendAnswer sends an answer and says how old it is.
func (q *request) sendAnswer(a *answer, asks question, kind string) {
	q.info.Stale, q.info.Err = a.stale, a.err
	header := q.w.Header()
	if !a.Time.IsZero() {
		header.Set("Age", strconv.Itoa(int(a.age().Seconds())))
	}
	if a.stale != "" {
		ttl := "" // unknown for a head that is kept
		if !a.Time.IsZero() {
			ttl = fmt.Sprintf("; ttl=%d", int((asks.fresh - a.age()).Seconds()))
		}
		header.Set("Cache-Status", fmt.Sprintf("modfetch; hit%s; detail=%q", ttl, a.stale))
	}
	q.sendBytes(a.body, kind, a.tag, asks.fresh)
}

// tagOf returns an ETag for a small file.
func tagOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
