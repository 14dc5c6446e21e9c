// Serve is a Handler as a program of its own, whose memory is nobody else's. It prints its address, and serves until its input
// ends.
//
//	serve GOPROXY GOSUMDB GOMODCACHE
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"

	"github.com/modfetch/modfetch"
)

func main() {
	f, err := modfetch.New(modfetch.WithGOPROXY(os.Args[1]), modfetch.WithSumDB(os.Args[2]), modfetch.WithModCache(os.Args[3]))
	if err != nil {
		log.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(l.Addr())
	go http.Serve(l, &modfetch.Handler{Fetcher: f})
	io.Copy(io.Discard, os.Stdin)
}
