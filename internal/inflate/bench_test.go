package inflate_test

import (
	"archive/zip"
	"bytes"
	"cmp"
	stdlib "compress/flate"
	"go/build"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/flate"
	"github.com/modfetch/modfetch/internal/inflate"
)

// A deflated file, as it lies in a module zip.
type deflated struct {
	src  []byte
	size int
}

// sources are Go files of GOROOT, compressed as archive/zip does it.
func sources(b *testing.B, least, most int) (all []deflated) {
	var buf bytes.Buffer
	w, _ := stdlib.NewWriter(&buf, 5)
	filepath.WalkDir(filepath.Join(build.Default.GOROOT, "src", "net"), func(name string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(name, ".go") {
			data, err := os.ReadFile(name)
			if err == nil && least <= len(data) && len(data) <= most {
				buf.Reset()
				w.Reset(&buf)
				w.Write(data)
				w.Close()
				all = append(all, deflated{bytes.Clone(buf.Bytes()), len(data)})
			}
		}
		return nil
	})
	if len(all) == 0 {
		b.Skip("there is no source code in GOROOT")
	}
	return all
}

// zips are the entries of up to 64 MiB in the zips of the module cache.
func zips(b *testing.B) (all []deflated) {
	cache := cmp.Or(os.Getenv("GOMODCACHE"), filepath.Join(build.Default.GOPATH, "pkg", "mod"))
	total := 0
	filepath.WalkDir(filepath.Join(cache, "cache", "download"), func(name string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(name, ".zip") {
			return nil
		}
		z, err := zip.OpenReader(name)
		if err != nil {
			return nil
		}
		defer z.Close()
		for _, e := range z.File {
			if e.Method != zip.Deflate || e.UncompressedSize64 > 1<<20 {
				continue
			}
			r, err := e.OpenRaw()
			if err != nil {
				b.Fatal(err)
			}
			src, err := io.ReadAll(r)
			if err != nil {
				b.Fatal(err)
			}
			all = append(all, deflated{src, int(e.UncompressedSize64)})
			if total += int(e.UncompressedSize64); total > 64<<20 {
				return fs.SkipAll
			}
		}
		return nil
	})
	if len(all) == 0 {
		b.Skip("there are no zips in the module cache")
	}
	return all
}

func BenchmarkDecode(b *testing.B) {
	for _, set := range []struct {
		name string
		all  func(b *testing.B) []deflated
	}{
		{"go=0-4K", func(b *testing.B) []deflated { return sources(b, 0, 4<<10) }},
		{"go=4-40K", func(b *testing.B) []deflated { return sources(b, 4<<10, 40<<10) }},
		{"go=40K-1M", func(b *testing.B) []deflated { return sources(b, 40<<10, 1<<20) }},
		{"zips", zips},
	} {
		b.Run(set.name, func(b *testing.B) {
			all := set.all(b)
			total, most := 0, 0
			for _, e := range all {
				total += e.size
				most = max(most, e.size)
			}
			dst := make([]byte, most)
			run := func(by string, decode func(dst, src []byte) error) {
				b.Run("by="+by, func(b *testing.B) {
					b.SetBytes(int64(total))
					for b.Loop() {
						for _, e := range all {
							if err := decode(dst[:e.size], e.src); err != nil {
								b.Fatal(err)
							}
						}
					}
				})
			}
			run("inflate", new(inflate.Decoder).Decode)
			run("klauspost", reading(flate.NewReader(bytes.NewReader(nil))))
			run("stdlib", reading(stdlib.NewReader(bytes.NewReader(nil))))
		})
	}
}

func reading(r io.Reader) func(dst, src []byte) error {
	var end [1]byte
	return func(dst, src []byte) error {
		r.(stdlib.Resetter).Reset(bytes.NewReader(src), nil)
		if _, err := io.ReadFull(r, dst); err != nil {
			return err
		}
		if _, err := r.Read(end[:]); err != io.EOF {
			return err
		}
		return nil
	}
}
