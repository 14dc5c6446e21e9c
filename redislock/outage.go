package redislock

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	pause   = 3 * time.Second // during an outage, for one caller to find out whether it is over
	quietly = time.Minute     // between two warnings
)

var errDown = errors.New("no answer lately")

// usable says whether to ask Redis.
func (l *Locker) usable() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if l.life.Err() != nil || now.Before(l.retry) {
		return false
	}
	if !l.retry.IsZero() {
		l.retry = now.Add(pause) // for all others
	}
	return true
}

// report notes whether Redis has done what it was asked for.
func (l *Locker) report(err error) {
	l.mu.Lock()
	if err == nil {
		l.retry = time.Time{}
		l.mu.Unlock()
		return
	}
	now := time.Now()
	l.retry = now.Add(pause)
	warn := l.Warn != nil && l.life.Err() == nil && now.Sub(l.warned) >= quietly
	if warn {
		l.warned = now
	}
	l.mu.Unlock()
	if warn {
		l.Warn(fmt.Errorf("redislock: fetching without locks: Redis at %s: %w", l.addr, l.plain(err)))
	}
}

// plain is err as far as it cannot show credentials: a server may repeat what it was sent.
func (l *Locker) plain(err error) error {
	var dial *dialError
	var op *net.OpError
	var timeout net.Error
	var answer redis.Error
	switch {
	case errors.As(err, &dial): // nothing had been sent yet
		return dial.error
	case errors.Is(err, errDown):
		return err
	case errors.Is(err, io.EOF):
		return errors.New("it closes the connection")
	case errors.As(err, &answer):
		if code, _, _ := strings.Cut(answer.Error(), " "); codes.MatchString(code) {
			return fmt.Errorf("it answers %s", code)
		}
		return errors.New("it answers with an error")
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("no answer within %v", patience)
	case errors.As(err, &op):
		return op
	case l.life.Err() != nil:
		return errClosed
	}
	return errors.New("not an answer of Redis")
}

var codes = regexp.MustCompile(`^(ERR|NOAUTH|WRONGPASS|NOPERM|LOADING|READONLY|OOM|MISCONF|MASTERDOWN|MOVED|CLUSTERDOWN|BUSY|NOREPLICAS|UNKILLABLE|NOPROTO|EXECABORT)$`)

// dialer returns how to connect. What cannot be connected becomes a connection that fails when it is used, because of a dial
// that fails go-redis writes a line to stderr, each time.
func (l *Locker) dialer(o *redis.Options) func(ctx context.Context, network, addr string) (net.Conn, error) {
	dial := new(net.Dialer).DialContext
	if o.TLSConfig != nil {
		dial = (&tls.Dialer{Config: o.TLSConfig}).DialContext
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(l.life, cancel)()
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return notConnected{err: &dialError{err}}, nil
		}
		return conn, nil
	}
}

type dialError struct{ error }

func (e *dialError) Unwrap() error { return e.error }

type notConnected struct {
	net.Conn // nil: nobody asks a connection for more if it cannot write
	err      error
}

func (c notConnected) Read([]byte) (int, error)         { return 0, c.err }
func (c notConnected) Write([]byte) (int, error)        { return 0, c.err }
func (c notConnected) Close() error                     { return nil }
func (c notConnected) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c notConnected) SetDeadline(time.Time) error      { return nil }
func (c notConnected) SetReadDeadline(time.Time) error  { return nil }
func (c notConnected) SetWriteDeadline(time.Time) error { return nil }
