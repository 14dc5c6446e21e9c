// Proxy serves the .mod and .zip files of modules on loopback, each verified before its first byte goes out:
//
//	go run ./examples/proxy &
//	curl http://127.0.0.1:8080/golang.org/x/text/@v/v0.14.0.mod
package main

import (
	"errors"
	"io"
	"io/fs"
	"log"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/modfetch/modfetch"
	"golang.org/x/mod/module"
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
	log.Fatal(http.ListenAndServe("127.0.0.1:8080", handler(f)))
}

func handler(f *modfetch.Fetcher) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		escaped, file, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/@v/")
		ext := path.Ext(file)
		modPath, pathErr := module.UnescapePath(escaped)
		version, versionErr := module.UnescapeVersion(strings.TrimSuffix(file, ext))
		m := module.Version{Path: modPath, Version: version}
		if err := errors.Join(pathErr, versionErr); err != nil || ext != ".mod" && ext != ".zip" {
			http.Error(w, "not found: this mirror serves .mod and .zip files", http.StatusNotFound)
			return
		}
		if err := serve(w, r, f, m, ext); errors.Is(err, fs.ErrNotExist) {
			http.Error(w, "not found", http.StatusNotFound)
		} else if err != nil {
			log.Print(err)
			http.Error(w, string(modfetch.KindOf(err)), http.StatusBadGateway)
		}
	})
}

func serve(w http.ResponseWriter, r *http.Request, f *modfetch.Fetcher, m module.Version, ext string) error {
	if ext == ".mod" {
		data, err := f.GoMod(r.Context(), m)
		if err == nil {
			w.Write(data)
		}
		return err
	}
	z, err := f.Zip(r.Context(), m)
	if err != nil {
		return err
	}
	defer z.Close()
	http.ServeContent(w, r, ".zip", time.Time{}, io.NewSectionReader(z, 0, z.Size))
	return nil
}
