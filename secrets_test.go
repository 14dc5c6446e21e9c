package modfetch_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/netip"
	"net/textproto"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/modfetch/modfetch"
)

// texts lists what may be printed of an error and of all that it wraps.
func texts(err error) []string {
	var all []string
	for ; err != nil; err = errors.Unwrap(err) {
		all = append(all, fmt.Sprintf("%v", err), fmt.Sprintf("%+v", err), fmt.Sprintf("%#v", err))
	}
	return all
}

// TestSecretsThatAServerRepeats has servers send back what they were sent, in several forms.
func TestSecretsThatAServerRepeats(t *testing.T) {
	const password = `s3cret ,"/ä&t4il` // the last word shows whether all of it is gone
	escaped := url.QueryEscape(password)
	command := script(t, `printf 'https://corp.test:8443\n\nX-Token: Bearer s3cret.t4il\n\n'`)
	for kind, c := range map[string]struct {
		base   string
		env    modfetch.GoEnv
		cookie string
	}{
		"userinfo":        {base: "https://gopher:" + url.PathEscape(password) + "@corp.test:8443/go"},
		"user name":       {base: "https://" + url.PathEscape(password) + "@corp.test:8443/go"},
		"query":           {base: "https://corp.test:8443/go?a=b&token=" + escaped},
		"query, %2f":      {base: "https://corp.test:8443/go?token=s3cret%2ft4il"},
		"query, no value": {base: "https://corp.test:8443/go?" + escaped},
		"netrc":           {env: modfetch.GoEnv{GOAUTH: "netrc", NETRC: writeFile(t, `machine corp.test:8443 login gopher password s3cret,"/ä&t4il`)}},
		"GOAUTH header":   {env: modfetch.GoEnv{GOAUTH: command}},
		"cookie":          {cookie: "s3cret.t4il"},
	} {
		// said is all that a server knows, as it came and as it means it.
		said := func(r *http.Request) string {
			user, password, _ := r.BasicAuth()
			text := fmt.Sprintf("refused: %s %s %s %s:%s", r.URL, r.URL.RawQuery, r.Header, user, password)
			for _, values := range r.Header {
				text += fmt.Sprintf(" %q", strings.Fields(strings.Join(values, " ")))
			}
			for _, c := range r.Cookies() {
				text += " " + c.Value
			}
			for name, values := range r.URL.Query() {
				text += fmt.Sprintf(" %s=%s %s", name, values, url.Values{name: values}.Encode())
			}
			return text
		}
		for where, answer := range map[string]func(*http.Request) (*http.Response, error){
			"text": func(r *http.Request) (*http.Response, error) {
				return reply(r, 403, said(r), "Content-Type", "text/plain")
			},
			"escaped text": func(r *http.Request) (*http.Response, error) {
				return reply(r, 403, "refused: "+url.QueryEscape(said(r))+" "+url.PathEscape(said(r)), "Content-Type", "text/plain")
			},
			"text with holes": func(r *http.Request) (*http.Response, error) {
				return reply(r, 403, strings.ReplaceAll(said(r), "s3", "s\x003"), "Content-Type", "text/plain")
			},
			"text, cut": func(r *http.Request) (*http.Response, error) {
				text := said(r)
				return reply(r, 403, "refused: "+strings.Repeat("x", 640-12-strings.Index(text, "s3cret"))+text, "Content-Type", "text/plain")
			},
			"text behind a redirect": func(r *http.Request) (*http.Response, error) {
				if strings.HasSuffix(r.URL.Path, "/elsewhere") {
					return reply(r, 403, said(r.Response.Request), "Content-Type", "text/plain")
				}
				return reply(r, 302, "", "Location", "/elsewhere")
			},
			"redirect": func(r *http.Request) (*http.Response, error) {
				return reply(r, 302, "", "Location", "http://other.test/refused:/"+said(r))
			},
			"Content-Encoding": func(r *http.Request) (*http.Response, error) { return reply(r, 200, "", "Content-Encoding", said(r)) },
			"transport": func(r *http.Request) (*http.Response, error) {
				return nil, textproto.ProtocolError(fmt.Sprintf("refused: malformed MIME header line: %q", said(r)))
			},
		} {
			t.Run(kind+", "+where, func(t *testing.T) {
				n := &network{answer: answer}
				client := n.client()
				if c.base == "" {
					c.base = "https://corp.test:8443/go"
				}
				base, err := url.Parse(c.base)
				if err != nil {
					t.Fatal(err)
				}
				client.Jar, _ = cookiejar.New(nil)
				client.Jar.SetCookies(base, []*http.Cookie{{Name: "session", Value: c.cookie, Path: "/"}})
				var told []string
				f := listFetcher(t, c.base, modfetch.WithGoEnv(c.env), modfetch.WithHTTPClient(client), modfetch.WithTrace(&modfetch.Trace{
					AttemptDone: func(_ context.Context, i modfetch.AttemptInfo) { told = append(told, fmt.Sprintf("%+v %#v", i, i)) }}))
				_, err = f.Versions(t.Context(), "example.com/m")
				if err == nil || !strings.Contains(err.Error(), "refused") {
					t.Fatalf("error %v, want one with the text around", err)
				}
				var protocol textproto.ProtocolError
				if transport := where == "transport"; errors.As(err, &protocol) != transport || errors.Is(err, modfetch.ErrTransient) != transport {
					t.Errorf("error %#v has lost what it was", err)
				}
				for _, text := range append(texts(err), told...) {
					for _, secret := range []string{"s3c", "t4il", strings.Fields(basic("gopher", password))[1], strings.Fields(basic(password, ""))[1]} {
						if strings.Contains(text, secret) {
							t.Fatalf("%s is in\n%.2000s", secret, text)
						}
					}
				}
			})
		}
	}
}

// What is no secret, or too short for one, stays legible.
func TestTextsStayLegible(t *testing.T) {
	const text = `user a and e asked for identity, bytes=5- of "tag"`
	n := always(403, text, "Content-Type", "text/plain")
	_, err := get(t, httpMirror(t, "https://a:@mirror.test?y=e", n.client()), modfetch.Request{Path: "example.com/m/@v/list", Offset: 5, ETag: `"tag"`})
	if want := "403 Forbidden: " + text; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

func TestProxyRepeatsItsPassword(t *testing.T) {
	proxy := rawServer(t, nil, func(request string, _ net.Conn) string {
		_, sent, _ := strings.Cut(request, "Proxy-Authorization: ")
		sent, _, _ = strings.Cut(sent, "\r\n")
		encoded := strings.TrimPrefix(sent, "Basic ")
		if encoded == sent {
			t.Errorf("the proxy was asked without credentials:\n%s", request)
		}
		text := "refused: user gopher by s3cret.t4il in " + sent
		return fmt.Sprintf("HTTP/1.1 407 %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", text, len(text), text)
	})
	u := &url.URL{Scheme: "http", Host: proxy, User: url.UserPassword("gopher", "s3cret.t4il")}
	for _, base := range []string{"https://mirror.test", "http://mirror.test"} {
		own, given := listFetcher(t, base), listFetcher(t, base, modfetch.WithHTTPClient(&http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(u)}}))
		modfetch.SetNetwork(own, func(netip.AddrPort) bool { return false }, http.ProxyURL(u))
		netrc := listFetcher(t, base, modfetch.WithGoEnv(modfetch.GoEnv{GOAUTH: "netrc", NETRC: writeFile(t, "")}),
			modfetch.WithHTTPClient(&http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(u)}}))
		for name, f := range map[string]*modfetch.Fetcher{"own client": own, "given client": given, "with GOAUTH": netrc} {
			_, err := f.Versions(t.Context(), "example.com/m")
			if err == nil || !strings.Contains(err.Error(), "refused: user") {
				t.Errorf("%s, %s: error %v, want the proxy's", base, name, err)
			}
			for _, text := range texts(err) {
				for _, secret := range []string{"gopher", "s3cret", "t4il", strings.Fields(basic("gopher", "s3cret.t4il"))[1]} {
					if strings.Contains(text, secret) {
						t.Errorf("%s, %s: %s is in\n%s", base, name, secret, text)
					}
				}
			}
		}
	}
}

// rawServer answers each request on a connection of its own with whatever bytes, and returns its address.
func rawServer(t testing.TB, secure *tls.Config, answer func(request string, conn net.Conn) string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if secure != nil {
				conn = tls.Server(conn, secure)
			}
			go func() {
				defer conn.Close()
				var request bytes.Buffer
				r := bufio.NewReader(conn)
				if first, err := r.Peek(1); err != nil || first[0] == 22 { // a handshake where none is expected
					io.WriteString(conn, answer("", conn))
					return
				}
				for {
					line, err := r.ReadString('\n')
					request.WriteString(line)
					if line == "\r\n" || err != nil {
						break
					}
				}
				io.WriteString(conn, answer(request.String(), conn))
				if tcp, ok := conn.(*net.TCPConn); ok {
					tcp.CloseWrite()
					io.Copy(io.Discard, conn) // a reset could overtake the answer
				}
			}()
		}
	}()
	return l.Addr().String()
}

// presentable reports whether an error's text is bounded and does nothing to a terminal.
func presentable(text string) bool {
	return len(text) < 4<<10 && !strings.ContainsFunc(text, func(r rune) bool {
		return r == unicode.ReplacementChar || r != '\n' && r != '\t' && !unicode.IsPrint(r) || unicode.Is(unicode.Bidi_Control, r)
	})
}

// TestForeignTextIsBoundedAndPrintable puts hostile text into every place of an answer.
func TestForeignTextIsBoundedAndPrintable(t *testing.T) {
	t.Parallel()
	type place struct {
		answer func(noise string) string
		ask    modfetch.Request
	}
	header := func(status, name string) place {
		return place{answer: func(noise string) string { return "HTTP/1.1 " + status + "\r\n" + name + ": " + noise + "\r\n\r\n" }}
	}
	location := func(before, after string) place {
		return place{answer: func(noise string) string {
			return "HTTP/1.1 302 Found\r\nLocation: " + before + noise + after + "\r\nContent-Length: 0\r\n\r\n"
		}}
	}
	body := func(status, kind, before, after string) place {
		return place{answer: func(noise string) string {
			return "HTTP/1.1 " + status + "\r\nContent-Type: " + kind + "\r\n\r\n" + before + noise + after
		}}
	}
	places := map[string]place{
		"all":         {answer: func(noise string) string { return noise + "\r\n\r\n" }},
		"status code": {answer: func(noise string) string { return "HTTP/1.1 " + noise + "\r\n\r\n" }},
		"version":     {answer: func(noise string) string { return "HTTP/" + noise + " 200 OK\r\n\r\n" }},
		"reason":      {answer: func(noise string) string { return "HTTP/1.1 500 " + noise + "\r\n\r\n" }},
		"header line": {answer: func(noise string) string { return "HTTP/1.1 200 OK\r\n" + noise + "\r\n\r\n" }},
		"header name": {answer: func(noise string) string { return "HTTP/1.1 200 OK\r\n" + noise + ": x\r\n\r\n" }},
		"first line":  {answer: func(noise string) string { return "HTTP/1.1 200 OK\r\n " + noise + "\r\n\r\n" }},
		"chunk": {answer: func(noise string) string {
			return "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + noise + "\r\n"
		}},
		"trailer": {answer: func(noise string) string {
			return "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + noise + "\r\n\r\n"
		}},
		"informational": {answer: func(noise string) string { return "HTTP/1.1 103 " + noise + "\r\nX: " + noise + "\r\n\r\n" }},
		"two lengths": {answer: func(noise string) string {
			return "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2" + noise + "\r\n\r\n"
		}},
		"length":          header("200 OK", "Content-Length"),
		"transfer":        header("200 OK", "Transfer-Encoding"),
		"encoding":        header("200 OK", "Content-Encoding"),
		"ETag":            header("404 Not Found", "ETag"),
		"retry":           header("503 Unavailable", "Retry-After"),
		"challenge":       header("401 Unauthorized", "WWW-Authenticate"),
		"location":        location("", ""),
		"location, host":  location("http://", "/x"),
		"location, port":  location("http://mirror.test:", "/x"),
		"location, user":  location("http://", "@127.0.0.1:1/x"),
		"location, IPv6":  location("http://[::1%25", "]:1/x"),
		"location, path":  location("http://127.0.0.1:1/", ""),
		"location, other": location("x", "://mirror.test/x"),
		"text":            body("404 Not Found", "text/plain", "", ""),
		"text, many lines": {answer: func(noise string) string {
			return "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\n\r\n" + strings.Repeat(noise[:min(30, len(noise))]+"\n", 1000)
		}},
		"type": {answer: func(noise string) string {
			return "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain; " + noise + "\r\n\r\nno"
		}},
		"page":          body("200 OK", "text/html", "", ""),
		"list":          body("200 OK", "text/plain", "", ""),
		"version named": body("200 OK", "application/json", `{"Version":"`, `"}`),
		"time":          body("200 OK", "application/json", `{"Version":"v1.0.0","Time":"`, `"}`),
		"part": {ask: modfetch.Request{Offset: 5}, answer: func(noise string) string {
			return "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes " + noise + "\r\n\r\n"
		}},
	}
	for name, p := range places {
		t.Run(name, func(t *testing.T) {
			checkNoise(t, "http://", nil, p.ask, func(noise string, _ net.Conn) string { return p.answer(noise) })
		})
	}
	t.Run("handshake", func(t *testing.T) {
		checkNoise(t, "https://", nil, modfetch.Request{}, func(noise string, _ net.Conn) string { return noise })
	})
	t.Run("HTTP for a handshake", func(t *testing.T) {
		checkNoise(t, "https://", nil, modfetch.Request{}, func(noise string, _ net.Conn) string { return "HTTP/1.1 " + noise })
	})
	t.Run("GOAWAY", func(t *testing.T) {
		cert, _, _ := testCertificate(t)
		secure := &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}
		checkNoise(t, "https://", secure, modfetch.Request{}, func(noise string, conn net.Conn) string {
			noise = noise[:min(len(noise), 16<<10-8)]
			frame := []byte("\x00\x00\x00\x04\x00\x00\x00\x00\x00" + "\x00\x00\x00\x07\x00\x00\x00\x00\x00" + "\x00\x00\x00\x00\x00\x00\x00\x02")
			binary.BigEndian.PutUint32(frame[8:], uint32(8+len(noise))) // over a byte that is zero anyway
			return string(frame) + noise
		})
	})
	t.Run("certificate", func(t *testing.T) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
			DNSNames: []string{"\x1b[31m" + strings.Repeat("x", 20<<10)}}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		if leaf, err := x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		} else {
			roots.AddCert(leaf)
		}
		secure := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
		addr := rawServer(t, secure, func(string, net.Conn) string { return "" })
		dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}
		client := &http.Client{Transport: &http.Transport{DialContext: dial, TLSClientConfig: &tls.Config{RootCAs: roots}}}
		_, err = listFetcher(t, "https://mirror.test", modfetch.WithHTTPClient(client)).Versions(t.Context(), "example.com/m")
		if !errors.Is(err, modfetch.ErrSecurity) || !strings.Contains(err.Error(), "certificate is valid for") {
			t.Errorf("error %.300q, want one about the certificate", err)
		}
		for _, text := range texts(err) {
			if !presentable(text) {
				t.Errorf("%d bytes: %.300q", len(text), text)
			}
		}
	})
	t.Run("proxy", func(t *testing.T) {
		checkNoise(t, "proxy", nil, modfetch.Request{}, func(noise string, _ net.Conn) string {
			return "HTTP/1.1 407 " + noise + "\r\nX: " + noise + "\r\n\r\n"
		})
	})
}

// checkNoise has a server answer with noise, and looks at the errors that come of it.
func checkNoise(t *testing.T, scheme string, secure *tls.Config, ask modfetch.Request, answer func(noise string, conn net.Conn) string) {
	t.Helper()
	const evil = "\x1b]0;evil\x07\x1b[31m\u202e\u2066\u200f\u009b2J\xff\u2028\x00\x7f"
	failed := 0
	for name, noise := range map[string]string{
		"sequences": evil + "and some words", "directions": "some words \u202edrow\u2066\u200f", "50 KB": strings.Repeat("evil", 12<<10),
		"100 KB": strings.Repeat("words "+evil, 3000),
	} {
		addr := rawServer(t, secure, func(_ string, conn net.Conn) string { return answer(noise, conn) })
		tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, MaxResponseHeaderBytes: 64 << 10, ForceAttemptHTTP2: true}
		t.Cleanup(tr.CloseIdleConnections)
		base := scheme + addr
		if scheme == "proxy" {
			base, tr.Proxy = "https://mirror.test", http.ProxyURL(&url.URL{Scheme: "http", Host: addr})
		}
		client := &http.Client{Transport: tr}
		f := listFetcher(t, base, modfetch.WithHTTPClient(client))
		_, versions := f.Versions(t.Context(), "example.com/m")
		errs := map[string]error{"Versions": versions}
		if modfetch.KindOf(versions) != modfetch.Transient { // which is tried often enough
			_, errs["Info"] = f.Info(t.Context(), "example.com/m", "v1.0.0")
			_, errs["GoMod"] = f.GoMod(t.Context(), moduleM)
		}
		ask.Path = "example.com/m/@v/v1.0.0.zip"
		_, errs["Fetch"] = get(t, httpMirror(t, base, client), ask)
		for what, err := range errs {
			if err != nil {
				failed++
			}
			for _, text := range texts(err) {
				if !presentable(text) {
					t.Errorf("%s, %s: %d bytes: %.300q", name, what, len(text), text)
				}
			}
		}
	}
	if failed == 0 {
		t.Error("no error")
	}
}
