package modfetchtest_test

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"testing/fstest"

	"github.com/modfetch/modfetch/modfetchtest"
)

// In a test, NewServer(t, os.DirFS("testdata/mod")) takes the place of Start and Close.
func Example() {
	server, err := modfetchtest.Start(fstest.MapFS{
		"example.com_greet_v1.0.0.txt": {Data: []byte("-- greet.go --\npackage greet\n")},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	server.Add(modfetchtest.NewModule("example.com/greet", "v1.1.0").File("greet.go", "package greet // better\n"))
	server.Fault("*.mod", modfetchtest.Status(http.StatusServiceUnavailable).Times(1))

	for _, path := range []string{
		"/example.com/greet/@v/list",
		"/example.com/greet/@v/v1.1.0.mod",
		"/example.com/greet/@v/v1.1.0.mod",
	} {
		resp, err := http.Get(server.URL + path)
		if err != nil {
			log.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%d %q\n", resp.StatusCode, body)
	}
	fmt.Println(server.Count("*.mod"), "requests for a go.mod file")

	// Output:
	// 200 "v1.0.0\nv1.1.0\n"
	// 503 "Service Unavailable\n"
	// 200 "module example.com/greet\n"
	// 2 requests for a go.mod file
}
