package modfetch

import (
	"encoding/hex"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"unicode"
)

const hidden = "***" // stands for what may be a secret

// redact prints a URL as scheme, host and path: user name, password and query may all be secrets.
func redact(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// withoutSecrets shows text that may be no URL as far as nothing in it can be a secret: without all up to the last @, and
// without a query. If the rest is more than words, hosts, ports and paths, all is hidden.
func withoutSecrets(text string) string {
	at, query := strings.LastIndexByte(text, '@'), strings.IndexAny(text, "?#")
	if query >= 0 {
		text = text[:query]
	}
	switch {
	case query >= 0 && query < at: // which of both ends a password?
		return hidden
	case at >= 0:
		scheme, _, _ := strings.Cut(text, ":")
		if text = text[at+1:]; scheme == "http" || scheme == "https" || scheme == "file" {
			text = scheme + "://" + text
		}
	}
	if !harmless.MatchString(text) {
		return hidden
	}
	return text
}

var harmless = regexp.MustCompile(`^(file:)?([\w.~+/ -]|://|:[0-9]{1,5}(/|$))*$`)

// quote makes what a server said, or a transport about it, fit for a message: printable, and without the secrets that were
// sent, because servers repeat what they were sent.
func (m *httpMirror) quote(text string, sent []*http.Request) string {
	var secrets []string
	for _, req := range sent {
		secrets = append(secrets, inHeader(req.Header)...)
		if proxy := proxyFor(req, m.client.Transport); proxy != nil && proxy.User != nil {
			password, _ := proxy.User.Password()
			secrets = append(secrets, inHeader(basicAuth(proxy.User.Username(), password))...)
		}
		for pair := range strings.SplitSeq(req.URL.RawQuery, "&") {
			_, value, _ := strings.Cut(pair, "=")
			secrets = append(secrets, pair, value)
		}
	}
	return printable(text, secrets...)
}

// A quotedError stands for an error whose text may not be shown as it is. What it was may still be asked.
type quotedError struct {
	text  string
	cause *error // a pointer, which %#v does not follow
}

func (e *quotedError) Error() string        { return e.text }
func (e *quotedError) Is(target error) bool { return errors.Is(*e.cause, target) }
func (e *quotedError) As(target any) bool   { return errors.As(*e.cause, target) }

// sentKey is the context key of a *[]*http.Request: all that one Fetch has sent, redirects and credentials included.
type sentKey struct{}

// logSent notes what goes out. Transports call it in the goroutine of the Fetch.
func logSent(req *http.Request) {
	if sent, ok := req.Context().Value(sentKey{}).(*[]*http.Request); ok {
		*sent = append(*sent, req)
	}
}

// inHeader lists what a request header holds that may be secret: all but what we have set ourselves.
func inHeader(header http.Header) []string {
	var secrets []string
	for name, values := range header {
		if name == "Accept-Encoding" || name == "Range" || name == "If-Range" {
			continue
		}
		for _, value := range values {
			_, credentials, _ := strings.Cut(value, " ")
			secrets = append(secrets, value, credentials)
		}
	}
	r := &http.Request{Header: header}
	for _, c := range r.Cookies() {
		secrets = append(secrets, c.Value)
	}
	user, password, _ := r.BasicAuth()
	return append(secrets, user, password)
}

const maxQuote = 640 // bytes of foreign text in a message

// printable bounds the length of text, and drops what could rewrite a terminal, control characters and those that turn the
// direction of writing. In place of secrets it puts a mark.
func printable(s string, secrets ...string) string {
	s = strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) && !unicode.Is(unicode.Bidi_Control, r) {
			return r
		}
		return -1
	}, strings.ToValidUTF8(s, ""))
	s = conceal(s, secrets)
	if len(s) > maxQuote {
		s = strings.ToValidUTF8(s[:maxQuote], "") + " ..."
	}
	return s
}

// conceal puts a mark in place of secrets, whether they are escaped or not.
func conceal(text string, secrets []string) string {
	plain, at := unescape(text)
	secret := make([]bool, len(text)+1)
	for _, s := range secrets {
		s, _ := unescape(s)
		if len(s) < 3 { // what is so short keeps nobody out, and is in every other word
			continue
		}
		for i := 0; ; i++ {
			n := strings.Index(plain[i:], s)
			if n < 0 {
				break
			}
			i += n
			for j := at[i]; j < at[i+len(s)]; j++ {
				secret[j] = true
			}
		}
	}
	var b strings.Builder
	for i := range len(text) {
		if !secret[i] {
			b.WriteByte(text[i])
		} else if !secret[i+1] {
			b.WriteString(hidden)
		}
	}
	return b.String()
}

// unescape undoes the escapes of URLs, also where they are escaped once more, and those of quotes. It returns where each
// byte, and the end, is in the text.
func unescape(text string) (plain string, at []int) {
	var b strings.Builder
	for i := 0; i < len(text); {
		at = append(at, i)
		c := text[i]
		i++
		switch c {
		case '\\':
			if i < len(text) && (text[i] == '\\' || text[i] == '"') {
				c = text[i]
				i++
			}
		case '%':
			for c == '%' && i+2 <= len(text) {
				code, err := hex.DecodeString(text[i : i+2])
				if err != nil {
					break
				}
				c = code[0]
				i += 2
			}
		}
		if c == '+' { // of a query that was escaped once more
			c = ' '
		}
		b.WriteByte(c)
	}
	return b.String(), append(at, len(text))
}
