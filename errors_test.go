package modfetch_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/modfetch/modfetch"
	"golang.org/x/mod/module"
)

func status(code int, detail string) *modfetch.StatusError {
	return &modfetch.StatusError{Mirror: "https://mirror.example", Path: "example.com/m/@v/v1.0.0.zip", Code: code, Detail: detail}
}

var (
	mismatch = &modfetch.ChecksumError{
		Module: moduleM, Got: "h1:got=", Want: "h1:want=", Source: "sum.example", Mirror: "https://mirror.example",
	}
	wrongGoSum = &modfetch.ChecksumError{
		Module: module.Version{Path: "example.com/m", Version: "v1.0.0/go.mod"}, Got: "h1:got=", Want: "h1:want=", Source: "go.sum",
		Mirror: "https://mirror.example", Blame: "go.sum",
	}
)

func TestKindOf(t *testing.T) {
	certificate := &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}
	for name, c := range map[string]struct {
		err  error
		want modfetch.Kind
	}{
		"404":                        {status(404, ""), modfetch.NotFound},
		"410":                        {status(410, ""), modfetch.NotFound},
		"no such file":               {&fs.PathError{Op: "open", Path: "x", Err: fs.ErrNotExist}, modfetch.NotFound},
		"403":                        {status(403, ""), modfetch.Forbidden},
		"no permission":              {&fs.PathError{Op: "open", Path: "x", Err: fs.ErrPermission}, modfetch.Forbidden},
		"ErrForbidden":               {modfetch.ErrForbidden, modfetch.Forbidden},
		"500":                        {status(500, ""), modfetch.Transient},
		"429":                        {status(429, ""), modfetch.Transient},
		"408":                        {status(408, ""), modfetch.Transient},
		"refused":                    {&net.OpError{Op: "dial", Err: errors.New("refused")}, modfetch.Transient},
		"unknown host":               {&net.DNSError{IsNotFound: true}, modfetch.Transient},
		"cut":                        {io.ErrUnexpectedEOF, modfetch.Transient},
		"something":                  {errors.New("something"), modfetch.Transient},
		"ErrTransient":               {modfetch.ErrTransient, modfetch.Transient},
		"204":                        {status(204, ""), modfetch.Corrupt},
		"304":                        {status(304, ""), modfetch.Corrupt},
		"ErrCorrupt":                 {modfetch.ErrCorrupt, modfetch.Corrupt},
		"checksum":                   {mismatch, modfetch.Corrupt},
		"go.sum is wrong":            {wrongGoSum, modfetch.Security},
		"ErrSecurity":                {modfetch.ErrSecurity, modfetch.Security},
		"certificate":                {certificate, modfetch.Security},
		"certificate, wrapped":       {&url.Error{Op: "Get", Err: certificate}, modfetch.Security},
		"canceled":                   {context.Canceled, modfetch.Canceled},
		"deadline":                   {fmt.Errorf("fetching: %w", context.DeadlineExceeded), modfetch.Canceled},
		"cancelled while absent":     {errors.Join(fs.ErrNotExist, context.Canceled), modfetch.Canceled},
		"absent and refused":         {errors.Join(fs.ErrNotExist, fs.ErrPermission), modfetch.Forbidden},
		"absent and corrupt":         {errors.Join(fs.ErrNotExist, modfetch.ErrCorrupt), modfetch.Corrupt},
		"everything and no security": {errors.Join(fs.ErrNotExist, context.Canceled, modfetch.ErrTransient, modfetch.ErrSecurity), modfetch.Security},
	} {
		if got := modfetch.KindOf(c.err); got != c.want {
			t.Errorf("%s: %v is %s, want %s", name, c.err, got, c.want)
		}
		if got := modfetch.KindOf(fmt.Errorf("wrapped: %w", c.err)); got != c.want {
			t.Errorf("%s, wrapped: %s, want %s", name, got, c.want)
		}
	}
}

func TestErrorsIs(t *testing.T) {
	targets := map[string]error{
		"forbidden": modfetch.ErrForbidden, "transient": modfetch.ErrTransient, "corrupt": modfetch.ErrCorrupt,
		"security": modfetch.ErrSecurity, "absent": fs.ErrNotExist, "canceled": context.Canceled,
	}
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"400": {status(400, ""), "forbidden"}, "401": {status(401, ""), "forbidden"}, "403": {status(403, ""), "forbidden"},
		"451": {status(451, ""), "forbidden"}, "404": {status(404, ""), "absent"}, "410": {status(410, ""), "absent"},
		"408": {status(408, ""), "transient"}, "429": {status(429, ""), "transient"}, "500": {status(500, ""), "transient"},
		"504": {status(504, ""), "transient"}, "599": {status(599, ""), "transient"}, "204": {status(204, ""), "corrupt"},
		"206": {status(206, ""), "corrupt"}, "302": {status(302, ""), "corrupt"},
		"checksum": {mismatch, "corrupt"}, "go.sum is wrong": {wrongGoSum, "security"},
	} {
		for target, err := range targets {
			if got := errors.Is(fmt.Errorf("wrapped: %w", c.err), err); got != (target == c.want) {
				t.Errorf("%s is %s: %t", name, target, got)
			}
		}
	}
}

func TestFetchErrorTellsTheMostTellingAttempt(t *testing.T) {
	for name, c := range map[string]struct {
		attempts []error
		most     int // index
	}{
		"one":                      {[]error{status(404, "")}, 0},
		"the later absence":        {[]error{status(404, ""), status(410, "")}, 1},
		"failure before absence":   {[]error{status(500, ""), status(404, "")}, 0},
		"failure behind absence":   {[]error{status(404, ""), status(500, "")}, 1},
		"refusal and absence":      {[]error{status(403, ""), status(404, ""), status(410, "")}, 0},
		"the later failure":        {[]error{status(500, ""), status(502, "")}, 1},
		"corrupt and failure":      {[]error{mismatch, status(500, ""), status(403, "")}, 0},
		"security and corrupt":     {[]error{status(204, ""), wrongGoSum, mismatch}, 1},
		"cancelled and everything": {[]error{context.Canceled, wrongGoSum, status(404, "")}, 0},
		"not placed":               {[]error{status(404, ""), errors.New("weird"), status(404, "")}, 1},
	} {
		e := &modfetch.FetchError{Module: moduleM, Path: "example.com/m/@v/v1.0.0.zip"}
		for _, err := range c.attempts {
			e.Attempts = append(e.Attempts, modfetch.Attempt{Mirror: "https://mirror.example", Kind: modfetch.KindOf(err), Err: err})
		}
		if got := errors.Unwrap(e); got != c.attempts[c.most] {
			t.Errorf("%s: unwraps to %v, want %v", name, got, c.attempts[c.most])
		}
		allAbsent := !slices.ContainsFunc(c.attempts, func(err error) bool { return !errors.Is(err, fs.ErrNotExist) })
		if got := errors.Is(e, fs.ErrNotExist); got != allAbsent {
			t.Errorf("%s: is fs.ErrNotExist: %t", name, got)
		}
		if got := modfetch.KindOf(e); got != modfetch.KindOf(c.attempts[c.most]) {
			t.Errorf("%s: is %s", name, got)
		}
	}
	nobody := &modfetch.FetchError{Module: moduleM}
	if errors.Unwrap(nobody) != nil || errors.Is(nobody, fs.ErrNotExist) || modfetch.KindOf(nobody) != modfetch.Transient {
		t.Errorf("without attempts: %v, %s", errors.Unwrap(nobody), modfetch.KindOf(nobody))
	}
}

// TestFetchErrorIsOfItsKind holds that errors.Is and KindOf agree, also where the cause is an error of another package.
func TestFetchErrorIsOfItsKind(t *testing.T) {
	sentinels := map[modfetch.Kind]error{
		modfetch.Forbidden: modfetch.ErrForbidden, modfetch.Transient: modfetch.ErrTransient,
		modfetch.Corrupt: modfetch.ErrCorrupt, modfetch.Security: modfetch.ErrSecurity, modfetch.NotFound: fs.ErrNotExist,
	}
	for name, cause := range map[string]error{
		"404": status(404, ""), "500": status(500, ""), "checksum": mismatch,
		"refused":      &net.OpError{Op: "dial", Err: errors.New("connection refused")},
		"unknown host": &net.DNSError{IsNotFound: true},
		"broken":       io.ErrUnexpectedEOF,
		"permission":   &fs.PathError{Op: "open", Path: "x", Err: fs.ErrPermission},
		"certificate":  &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}},
	} {
		kind := modfetch.KindOf(cause)
		e := &modfetch.FetchError{Attempts: []modfetch.Attempt{{Kind: modfetch.NotFound, Err: status(404, "")}, {Kind: kind, Err: cause}}}
		for k, sentinel := range sentinels {
			if got := errors.Is(e, sentinel); got != (k == kind) {
				t.Errorf("%s: is %v: %t, but its kind is %s", name, sentinel, got, kind)
			}
		}
	}
}

// The texts are what people read, and search for.
func TestErrorTexts(t *testing.T) {
	attempt := func(mirror string, err error) modfetch.Attempt {
		return modfetch.Attempt{Mirror: mirror, Kind: modfetch.KindOf(err), Err: err}
	}
	zip := modfetch.FetchError{Module: moduleM, Path: "example.com/m/@v/v1.0.0.zip"}
	with := func(e modfetch.FetchError, hint string, attempts ...modfetch.Attempt) error {
		e.Attempts, e.Hint = attempts, hint
		return &e
	}
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"status":             {status(404, ""), "404 Not Found"},
		"status with detail": {status(404, "no such module\n\tnone at all"), "404 Not Found: no such module\n\tnone at all"},
		"status without name": {
			status(522, "origin is down"),
			"522: origin is down",
		},
		"checksum": {mismatch, "checksum mismatch for example.com/m@v1.0.0\n\tsent by https://mirror.example: h1:got=\n\trecorded in sum.example: h1:want="},
		"go.sum is wrong": {wrongGoSum, "checksum mismatch for example.com/m@v1.0.0/go.mod\n\tsent by https://mirror.example: h1:got=\n\t" +
			"recorded in go.sum: h1:want=\n\tthe checksum database agrees with the mirror: the line in go.sum is wrong, or the module was " +
			"changed after it was recorded; find out which before you change that line"},
		"one attempt":   {with(zip, "", attempt("https://a.example", status(404, "gone"))), "fetching example.com/m@v1.0.0 (zip): https://a.example: 404 Not Found: gone"},
		"no attempt":    {with(zip, ""), "fetching example.com/m@v1.0.0 (zip): no mirror may be asked for it"},
		"hint":          {with(zip, "try |", attempt("https://a.example", status(403, ""))), "fetching example.com/m@v1.0.0 (zip): https://a.example: 403 Forbidden\n\ttry |"},
		"many attempts": {with(zip, "", attempt("https://a.example", status(404, "a\n\tb")), attempt("direct", errors.New("no go command"))), "fetching example.com/m@v1.0.0 (zip): no mirror gave it\n\thttps://a.example: 404 Not Found: a\n\t\t\tb\n\tdirect: no go command"},
		"list":          {with(modfetch.FetchError{Module: module.Version{Path: "example.com/m"}, Path: "example.com/m/@v/list"}, "", attempt("https://a.example", status(500, ""))), "fetching example.com/m: https://a.example: 500 Internal Server Error"},
		"database file": {with(modfetch.FetchError{Path: "sumdb/sum.example/latest"}, "", attempt("https://a.example", status(500, ""))), "fetching sumdb/sum.example/latest: https://a.example: 500 Internal Server Error"},
	} {
		if got := c.err.Error(); got != c.want {
			t.Errorf("%s:\n%s\nwant:\n%s", name, got, c.want)
		}
	}
}

// TestErrorsOfAFetcher pins how the pieces come together.
func TestErrorsOfAFetcher(t *testing.T) {
	s := newWorld(t)
	second := s.Mirror()
	second.Close() // its port refuses connections
	f, err := modfetch.New(modfetch.WithGOPROXY(s.URL+"|"+second.URL+",direct"), modfetch.WithSumDB(s.GOSUMDB()))
	if err != nil {
		t.Fatal(err)
	}
	missing := module.Version{Path: "example.com/missing", Version: "v1.0.0"}
	_, err = f.GoMod(t.Context(), missing)
	var failed *modfetch.FetchError
	if !errors.As(err, &failed) || failed.Module != missing || failed.Path != "example.com/missing/@v/v1.0.0.mod" {
		t.Fatalf("error %#v", err)
	}
	var kinds []modfetch.Kind
	for _, a := range failed.Attempts {
		kinds = append(kinds, a.Kind)
	}
	if !slices.Equal(kinds, []modfetch.Kind{modfetch.NotFound, modfetch.Transient}) || modfetch.KindOf(err) != modfetch.Transient {
		t.Errorf("attempts are %q, all is %s", kinds, modfetch.KindOf(err))
	}
	for _, say := range []string{
		"fetching example.com/missing@v1.0.0 (mod): no mirror gave it", "\n\t" + s.URL + ": 404 Not Found: not found: no module example.com/missing",
		"\n\t" + second.URL + ": ", "\n\tnot asked: direct, because a , goes on only after a 404 or 410; with | before it, it would be asked after any failure of " + second.URL,
	} {
		if !strings.Contains(err.Error(), say) {
			t.Errorf("error %v, want one that says %q", err, say)
		}
	}
}
