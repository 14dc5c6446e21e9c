package modfetchtest_test

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"testing/fstest"
	"time"

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

// A client that was cut off asks for the rest. What it gets depends on the mirror.
func ExampleFault() {
	server, err := modfetchtest.Start(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	server.Add(modfetchtest.NewModule("example.com/m", "v1.0.0").RawZip([]byte("not a zip, but short")))

	for _, fault := range []modfetchtest.Fault{
		modfetchtest.Fault{}.Latency(time.Millisecond),
		modfetchtest.Fault{}.Ignore("Range"),
		modfetchtest.CorruptRaw(-1),
		modfetchtest.Fault{}.Header("Content-Range", "bytes 15-19/4096"),
	} {
		server.ClearFaults()
		server.Fault("*.zip", fault)
		req, err := http.NewRequest(http.MethodGet, server.URL+"/example.com/m/@v/v1.0.0.zip", nil)
		if err != nil {
			log.Fatal(err)
		}
		req.Header.Set("Range", "bytes=15-")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			log.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%d %q %q\n", resp.StatusCode, body, resp.Header.Get("Content-Range"))
	}

	// Output:
	// 206 "short" "bytes 15-19/20"
	// 200 "not a zip, but short" ""
	// 206 "shoru" "bytes 15-19/20"
	// 206 "short" "bytes 15-19/4096"
}
