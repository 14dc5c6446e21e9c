// Proxy is a GOPROXY server on loopback, with the checksum database behind it: the go command has mirrors underneath that are
// raced, resumed and verified.
//
//	go run ./examples/proxy &
//	GOPROXY=http://127.0.0.1:8080 go mod download
package main

import (
	"log"
	"net/http"

	"github.com/modfetch/modfetch"
)

func main() {
	env, err := modfetch.SystemGoEnv()
	if err != nil {
		log.Fatal(err)
	}
	f, err := modfetch.New(modfetch.WithGoEnv(env))
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.ListenAndServe("127.0.0.1:8080", &modfetch.Handler{Fetcher: f}))
}
