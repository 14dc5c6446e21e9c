package modfetch

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"golang.org/x/mod/module"
)

// A FetchError says that no mirror that may be asked had good bytes for one file, and what each of them answered.
//
// It unwraps to the one attempt that tells most: a failure always outranks an absence, so that
// errors.Is(err, fs.ErrNotExist) holds only if every mirror that was asked said that the file does not exist.
type FetchError struct {
	Module   module.Version // Version is empty for a list or a query
	Path     string         // escaped GOPROXY path
	Attempts []Attempt      // in the order of the list; those of a second round behind those of the first
	Hint     string         // what the user may do; "" if there is nothing to say
}

// An Attempt is what one mirror did for one file.
type Attempt struct {
	Mirror string // redacted
	Kind   Kind
	Err    error
}

func (e *FetchError) Error() string {
	var b strings.Builder
	what := e.Module.String()
	if e.Module.Path == "" {
		what = e.Path
	}
	fmt.Fprintf(&b, "fetching %s", what)
	if suffix := e.Path[strings.LastIndexByte(e.Path, '.')+1:]; e.Module.Version != "" && !strings.Contains(suffix, "/") {
		fmt.Fprintf(&b, " (%s)", suffix)
	}
	switch len(e.Attempts) {
	case 0:
		b.WriteString(": no mirror may be asked for it")
	case 1:
		fmt.Fprintf(&b, ": %s: %v", e.Attempts[0].Mirror, e.Attempts[0].Err)
	default:
		b.WriteString(": no mirror gave it")
		for _, a := range e.Attempts {
			fmt.Fprintf(&b, "\n\t%s: %s", a.Mirror, strings.ReplaceAll(a.Err.Error(), "\n", "\n\t\t"))
		}
	}
	if e.Hint != "" {
		b.WriteString("\n\t" + e.Hint)
	}
	return b.String()
}

// Unwrap returns the error of the most telling attempt. It returns one error and not all of them, because one mirror's
// 404 must not make the whole look absent.
func (e *FetchError) Unwrap() error {
	var worst error
	for _, a := range e.Attempts {
		if worst == nil || rank(a.Err) >= rank(worst) {
			worst = a.Err
		}
	}
	return worst
}

// Is makes the error one of the kind of its most telling attempt.
func (e *FetchError) Is(target error) bool {
	switch KindOf(e.Unwrap()) {
	case Forbidden:
		return target == ErrForbidden
	case Transient:
		return target == ErrTransient
	case Corrupt:
		return target == ErrCorrupt
	case Security:
		return target == ErrSecurity
	}
	return false // absence and cancellation are found by Unwrap
}

// A Kind sorts failures by what a caller can do about them.
type Kind string

const (
	NotFound  Kind = "not found" // the mirror says that the path does not exist
	Forbidden Kind = "forbidden" // refused: by the mirror, or by a setting
	Transient Kind = "transient" // may pass: no answer, a timeout, a broken connection, a 5xx
	Corrupt   Kind = "corrupt"   // the answer is not what was asked for: a wrong checksum, a page, a malformed file
	Security  Kind = "security"  // proof that something is not what it claims to be: a forked database, an untrusted certificate
	Canceled  Kind = "canceled"  // the caller went away
)

// rank orders errors by how much they tell; of equal ones the later attempt is told. The end of a list tells little more
// than an absence.
func rank(err error) int {
	if errors.Is(err, errOff) {
		return 1
	}
	return map[Kind]int{NotFound: 0, Transient: 2, Forbidden: 2, Corrupt: 3, Security: 4, Canceled: 5}[KindOf(err)]
}

// Errors to test for with errors.Is. Absence is fs.ErrNotExist, cancellation is the context's error.
var (
	ErrForbidden = errors.New("forbidden")
	ErrTransient = errors.New("transient failure")
	ErrCorrupt   = errors.New("corrupt answer")
	ErrSecurity  = errors.New("security failure")
)

// KindOf sorts err, which may come from any method of this package.
// Of nil it is "". An error it cannot place is Transient: not an absence, and no proof of anything.
func KindOf(err error) Kind {
	var certificate *tls.CertificateVerificationError
	switch {
	case err == nil:
		return ""
	case errors.Is(err, ErrSecurity), errors.As(err, &certificate):
		return Security
	case errors.Is(err, ErrTransient):
		return Transient
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return Canceled
	case errors.Is(err, ErrCorrupt):
		return Corrupt
	case errors.Is(err, ErrForbidden), errors.Is(err, fs.ErrPermission):
		return Forbidden
	case errors.Is(err, fs.ErrNotExist):
		return NotFound
	}
	return Transient
}

// A ChecksumError says that bytes are not those on record.
// It is Corrupt where a mirror or a cache is to blame, and Security where go.sum contradicts the checksum database.
type ChecksumError struct {
	Module module.Version // Version ends in "/go.mod" for a go.mod file
	Got    string         // h1: of the bytes
	Want   string         // h1: on record
	Source string         // whose record: a go.sum file, or the name of a checksum database
	Mirror string         // who sent the bytes, redacted
	Blame  string         // "" for the mirror; else who is proven wrong, such as a go.sum file
}

func (e *ChecksumError) Error() string {
	s := fmt.Sprintf("checksum mismatch for %s\n\tsent by %s: %s\n\trecorded in %s: %s", e.Module, e.Mirror, e.Got, e.Source, e.Want)
	if e.Blame != "" {
		s += "\n\tthe checksum database agrees with the mirror: the line in " + e.Blame +
			" is wrong, or the module was changed after it was recorded; find out which before you change that line"
	}
	return s
}

func (e *ChecksumError) Is(target error) bool {
	if e.Blame != "" {
		return target == ErrSecurity
	}
	return target == ErrCorrupt
}

// A StatusError is an HTTP status other than success.
type StatusError struct {
	Mirror string // redacted
	Path   string // escaped GOPROXY path
	Code   int    // HTTP status code
	Detail string // the server's own words: plain text, at most 8 lines, without control characters and secrets

	// RetryAfter is for how long the server asks to be left alone, at most 30 seconds; 0 if it does not say so in seconds.
	RetryAfter time.Duration
}

func (e *StatusError) Error() string {
	s := strings.TrimSpace(fmt.Sprintf("%d %s", e.Code, http.StatusText(e.Code)))
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	return s
}

func (e *StatusError) Is(target error) bool {
	switch e.Code {
	case http.StatusNotFound, http.StatusGone:
		return target == fs.ErrNotExist
	case http.StatusRequestTimeout, http.StatusTooManyRequests:
		return target == ErrTransient
	}
	switch {
	case e.Code >= 500:
		return target == ErrTransient
	case e.Code >= 400:
		return target == ErrForbidden
	}
	return target == ErrCorrupt // a 204 or 3xx where a file was asked for
}

// failure is an error of this package with a kind that errors.Is can see.
type failure struct {
	kind error // ErrForbidden, ErrTransient, ErrCorrupt or ErrSecurity
	msg  string
	err  error // cause, may be nil; hidden from errors.Is where it could look like an absence
}

func (e *failure) Error() string {
	if e.err == nil {
		return e.msg
	}
	return e.msg + ": " + e.err.Error()
}

func (e *failure) Is(target error) bool { return target == e.kind }

// As finds the cause: what it was may be told, what it is taken for may not.
func (e *failure) As(target any) bool { return e.err != nil && errors.As(e.err, target) }

// failf makes a failure without a cause.
func failf(kind error, format string, args ...any) error {
	return &failure{kind: kind, msg: fmt.Sprintf(format, args...)}
}

// A timeoutError is a failure to answer in time.
type timeoutError struct{ failure }

func (*timeoutError) Timeout() bool { return true }

func timeoutf(format string, args ...any) error {
	return &timeoutError{failure{kind: ErrTransient, msg: fmt.Sprintf(format, args...)}}
}

// timedOut reports whether an error is that somebody did not answer in time.
func timedOut(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// An OfflineError says that a file is not in the cache, where nobody may be asked for it. It is Forbidden: that says nothing
// of whether the file exists.
type OfflineError struct {
	Path string // escaped GOPROXY path
}

func (e *OfflineError) Error() string {
	return e.Path + " is not in the cache, and no mirror may be asked for it"
}

func (e *OfflineError) Is(target error) bool { return target == ErrForbidden }

// absent reports whether an error is a mirror's own statement that a file does not exist.
func absent(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// mayPass reports whether an error says nothing of what a mirror has: the next answer may be another.
func mayPass(err error) bool { return KindOf(err) == Transient || KindOf(err) == Canceled }

// isStatus reports whether an error is an answer of the mirror's, though no file.
func isStatus(err error) bool {
	var status *StatusError
	return errors.As(err, &status)
}
