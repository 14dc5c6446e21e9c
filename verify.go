package modfetch

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/modfetch/modfetch/internal/regular"
	"github.com/modfetch/modfetch/internal/unpack"
	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/dirhash"
)

// A Difference is something in the module cache that is not what is on record.
type Difference struct {
	Name   string // the file, or the directory of the tree
	Got    string // its h1: hash, or what is wrong with it
	Want   string // the h1: hash on record
	Source string // whose record: a go.sum file, a checksum database, or for exempt modules the module cache's own
}

// Verify hashes everything that the module cache holds of m again: the go.mod file, the zip and its recorded hash, and the
// tree. It reports what differs from go.sum or the checksum database, and changes nothing; what is not there does not
// differ. A Fetcher with Policy.Rehash repairs it: GoMod and Dir replace what is wrong.
func (f *Fetcher) Verify(ctx context.Context, m module.Version) ([]Difference, error) {
	if err := check(m); err != nil {
		return nil, err
	}
	if f.mod == nil {
		return nil, errors.New("modfetch: Verify needs a module cache: give WithModCache")
	}
	var found []Difference
	goMod := f.mod.file(proxyPath(m, "mod"))
	if exists(goMod) {
		v, err := f.voucher(ctx, goModKey(m))
		if err != nil {
			return nil, err
		}
		data, err := f.mod.read(proxyPath(m, "mod"), maxGoMod)
		got := goModSum(data)
		if err != nil {
			got = err.Error()
		}
		if v.want != "" && got != v.want {
			found = append(found, Difference{goMod, got, v.want, v.source})
		}
	}

	zip, tree := f.mod.file(proxyPath(m, "zip")), f.mod.tree(m)
	if !exists(zip) && !exists(tree) {
		return found, nil
	}
	v, err := f.voucher(ctx, m)
	if err != nil {
		return nil, err
	}
	unlock, err := f.mod.lock(ctx, m) // nobody replaces what is being hashed
	if err != nil {
		return nil, err
	}
	defer unlock()
	recorded := f.mod.zipHash(m)
	if v.want == "" {
		v.want, v.source = recorded, zip+"hash"
	}
	differs := func(name, got string, err error) {
		if err != nil {
			got = err.Error()
		}
		if got != v.want {
			found = append(found, Difference{name, got, v.want, v.source})
		}
	}
	if exists(zip) {
		got, err := f.hashZip(ctx, m)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		differs(zip, got, err)
	}
	if exists(zip + "hash") {
		differs(zip+"hash", recorded, nil)
	}
	if f.mod.complete(m) {
		got, err := f.hashTree(ctx, m)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		differs(tree, got, err)
	}
	return found, nil
}

// hashZip returns the h1: hash of m's zip in the module cache.
func (f *Fetcher) hashZip(ctx context.Context, m module.Version) (string, error) {
	file, err := f.mod.open(proxyPath(m, "zip"))
	if err != nil {
		return "", err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return "", err
	}
	a, err := unpack.Open(file, info.Size(), m)
	if err != nil {
		return "", err
	}
	return a.Hash(ctx, f.cpu)
}

// hashTree returns the h1: hash of m's tree in the module cache.
func (f *Fetcher) hashTree(ctx context.Context, m module.Version) (string, error) {
	tree := f.mod.tree(m)
	names, err := dirhash.DirFiles(tree, m.String())
	if err != nil {
		return "", err
	}
	return dirhash.Hash1(names, func(name string) (io.ReadCloser, error) {
		file, err := regular.Open(filepath.Join(tree, strings.TrimPrefix(name, m.String())), os.O_RDONLY)
		return reading{ctx, file}, err
	})
}

// reading is an open file that can be read until ctx ends.
type reading struct {
	ctx context.Context
	io.ReadCloser
}

func (r reading) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.ReadCloser.Read(p)
}
