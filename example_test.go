package modfetch_test

import (
	"context"
	"crypto/subtle"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/modfetchtest"
	"golang.org/x/mod/module"
)

// A build tool wants the directory of a module.
func Example_buildTool() {
	srv, ctx := exampleServer(), context.Background()
	defer srv.Close()

	f, err := modfetch.New(modfetch.WithGOPROXY(srv.URL), modfetch.WithSumDB(srv.GOSUMDB()))
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	for m, err := range f.Download(ctx, []module.Version{{Path: "example.com/m", Version: "v1.0.0"}}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(m.Version, m.Sum)
	}
	// Output: example.com/m@v1.0.0 h1:fCHMqo5ggHEQvwcrsN81zr5orRk5lClR36KRHpfUjKg=
}

// A proxy serves zips that have been verified before their first byte goes out.
func ExampleFetcher_Zip() {
	f, err := modfetch.New(modfetch.WithGOPROXY("https://goproxy.cn|https://goproxy.io"), modfetch.WithCache(modfetch.DirCache("/var/cache/modfetch")))
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("GET /zip/{version}/{path...}", func(w http.ResponseWriter, r *http.Request) {
		z, err := f.Zip(r.Context(), module.Version{Path: r.PathValue("path"), Version: r.PathValue("version")})
		if err != nil {
			http.Error(w, string(modfetch.KindOf(err)), http.StatusBadGateway)
			return
		}
		defer z.Close()
		http.ServeContent(w, r, ".zip", time.Time{}, io.NewSectionReader(z, 0, z.Size))
	})
}

func exampleServer() *modfetchtest.Server {
	srv, err := modfetchtest.Start(nil)
	if err != nil {
		log.Fatal(err)
	}
	srv.Add(modfetchtest.NewModule("example.com/m", "v1.0.0").File("m.go", "package m\n"))
	return srv
}

// A Handler is an http.Handler like others: who may come in is decided in front of it.
func ExampleHandler() {
	f, err := modfetch.New(modfetch.WithGOPROXY("https://goproxy.cn|https://goproxy.io"))
	if err != nil {
		log.Fatal(err)
	}
	token := []byte(os.Getenv("TOKEN"))
	if len(token) == 0 {
		log.Fatal("TOKEN is not set") // else no password would be the right one
	}
	modules := &modfetch.Handler{Fetcher: f, Allow: "github.com/corp,golang.org/x"}
	withToken := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, given, _ := r.BasicAuth() // as the go command takes it from ~/.netrc
		if subtle.ConstantTimeCompare([]byte(given), token) == 0 {
			w.Header().Set("WWW-Authenticate", `Basic realm="modules"`)
			http.Error(w, "want a token", http.StatusUnauthorized)
			return
		}
		modules.ServeHTTP(w, r)
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:8080", withToken))
}
