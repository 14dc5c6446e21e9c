package redislock_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
)

// A fake is a server that answers what a test wants it to.
type fake struct {
	url         string
	connections atomic.Int32
}

// newFake starts a fake. answer returns the bytes to send for a command, and false for a server that has nothing to say,
// and keeps the connection. Without it, connections are closed.
func newFake(t *testing.T, answer func(command []string) (string, bool)) *fake {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{url: "redis://" + listener.Addr().String()}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			f.connections.Add(1)
			if answer == nil {
				conn.Close()
				continue
			}
			go func() {
				defer conn.Close()
				for r := bufio.NewReader(conn); ; {
					command, err := readCommand(r)
					if err != nil {
						return
					}
					if text, ok := answer(command); ok {
						io.WriteString(conn, text)
					}
				}
			}()
		}
	}()
	return f
}

// readCommand reads an array of bulk strings.
func readCommand(r *bufio.Reader) (command []string, err error) {
	length := func(kind byte) (n int, err error) {
		line, err := r.ReadString('\n')
		if err != nil {
			return 0, err
		}
		if line[0] != kind {
			return 0, fmt.Errorf("%q does not begin with %q", line, kind)
		}
		return strconv.Atoi(strings.TrimSpace(line[1:]))
	}
	n, err := length('*')
	for ; err == nil && n > 0; n-- {
		var size int
		if size, err = length('$'); err != nil {
			break
		}
		word := make([]byte, size+len("\r\n"))
		_, err = io.ReadFull(r, word)
		command = append(command, string(word[:size]))
	}
	return command, err
}

// freeAddr returns a loopback address on which nothing listens.
func freeAddr(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func dial(addr string) error {
	conn, err := net.Dial("tcp", addr)
	if err == nil {
		conn.Close()
	}
	return err
}
