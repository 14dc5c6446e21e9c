package modfetchtest_test

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"testing/fstest"
	"time"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/modfetchtest"
	"golang.org/x/mod/module"
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

// A private path goes to a mirror of its own, and the public one never hears of it.
func ExampleServer_Options() {
	public, err := modfetchtest.Start(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer public.Close()
	private := public.Mirror()
	public.Add(modfetchtest.NewModule("corp.test/secret", "v1.0.0").File("secret.go", "package secret\n").Unlisted())

	f, err := modfetch.New(append(public.Options(), modfetch.WithRoute("corp.test", private.URL))...)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	if _, err := f.GoMod(context.Background(), module.Version{Path: "corp.test/secret", Version: "v1.0.0"}); err != nil {
		log.Fatal(err)
	}
	fmt.Println(public.Count("*corp.test*"), "requests to the public mirror,", private.Count("*corp.test*"), "to the private one")

	// Output:
	// 0 requests to the public mirror, 1 to the private one
}

// A client that has seen the database's tree since Fork is shown the other one.
func ExampleServer_Fork() {
	server, err := modfetchtest.Start(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	first, second := module.Version{Path: "example.com/m", Version: "v1.0.0"}, module.Version{Path: "example.com/m", Version: "v1.1.0"}
	for _, m := range []module.Version{first, second} {
		server.Add(modfetchtest.NewModule(m.Path, m.Version).File("m.go", "package m\n"))
	}
	f, err := modfetch.New(server.Options()...)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()

	fork := server.Fork()
	_, err = f.GoMod(context.Background(), first)
	fmt.Println("before:", err)
	server.Fault("/sumdb/*", modfetchtest.Handler(fork.ServeHTTP))
	_, err = f.GoMod(context.Background(), second)
	fmt.Println("after:", modfetch.KindOf(err))

	// Output:
	// before: <nil>
	// after: security
}

// go test -record has the mirror record, and without the flag tests need no network.
func ExampleRecord() {
	anew := flag.Bool("record", false, "ask the mirror, and keep what it says in testdata/recording") // a variable of the package

	open := func() ([]modfetch.Mirror, error) {
		if !*anew {
			return modfetchtest.Replay("testdata/recording")
		}
		m, err := modfetch.HTTPMirror("https://goproxy.cn", nil)
		if err != nil {
			return nil, err
		}
		return modfetchtest.Record("testdata/recording", m)
	}
	mirrors, err := open()
	if err != nil {
		log.Fatal(err)
	}
	f, err := modfetch.New(modfetch.WithMirrors(mirrors...), modfetch.WithPolicy(modfetch.Policy{Offline: !*anew}))
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	versions, err := f.Versions(context.Background(), "rsc.io/quote")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(versions)
}
