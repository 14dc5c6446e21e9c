// Proxy is a GOPROXY server on loopback: versions, and .info, .mod and .zip files, the latter two verified before their first
// byte goes out.
//
//	go run ./examples/proxy &
//	curl http://127.0.0.1:8080/golang.org/x/text/@v/v0.14.0.mod
package main

import (
	"encoding/json"
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
		escaped, file, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/@")
		modPath, err := module.UnescapePath(escaped)
		if err != nil {
			err = fs.ErrNotExist
		} else {
			err = serve(w, r, f, modPath, file)
		}
		switch {
		case errors.Is(err, fs.ErrNotExist):
			http.Error(w, "not found", http.StatusNotFound)
		case modfetch.KindOf(err) == modfetch.Forbidden:
			http.Error(w, "forbidden", http.StatusForbidden)
		case err != nil:
			log.Print(err)
			http.Error(w, string(modfetch.KindOf(err)), http.StatusBadGateway)
		}
	})
}

// serve answers for one file: "latest", "v/list", or "v/" and a version with the ending .info, .mod or .zip.
func serve(w http.ResponseWriter, r *http.Request, f *modfetch.Fetcher, modPath, file string) error {
	ext := path.Ext(file)
	version, err := module.UnescapeVersion(strings.TrimPrefix(strings.TrimSuffix(file, ext), "v/"))
	if err != nil {
		return fs.ErrNotExist
	}
	m := module.Version{Path: modPath, Version: version}
	switch {
	case file == "v/list":
		versions, err := f.Versions(r.Context(), modPath)
		if err == nil {
			io.WriteString(w, strings.Join(versions, "\n"))
		}
		return err
	case file == "latest" || ext == ".info":
		info, err := f.Info(r.Context(), modPath, version)
		if err == nil {
			err = json.NewEncoder(w).Encode(info)
		}
		return err
	case ext == ".mod":
		data, err := f.GoMod(r.Context(), m)
		if err == nil {
			w.Write(data)
		}
		return err
	case ext == ".zip":
		z, err := f.Zip(r.Context(), m)
		if err != nil {
			return err
		}
		defer z.Close()
		http.ServeContent(w, r, ".zip", time.Time{}, io.NewSectionReader(z, 0, z.Size))
		return nil
	}
	return fs.ErrNotExist
}
