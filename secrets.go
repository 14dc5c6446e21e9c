package modfetch

import (
	"encoding/hex"
	"errors"
	"net/http"
	"strings"
	"unicode"
)

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
	if len(s) > 640 {
		s = strings.ToValidUTF8(s[:640], "") + " ..."
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
