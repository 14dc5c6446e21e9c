// Package bundle carries modules to machines without a network, with the proofs that they are the right ones.
//
// A bundle is a directory, or a zip of one, that is a GOPROXY tree: [Write] puts into it what a go.mod or go.work file
// needs, and the part of the checksum database that proves it under one signed tree head. On a machine that only has the
// bundle, GOPROXY=file:///dir is enough for the go command and for modfetch alike; GOSUMDB stays what it is, and verifies.
//
// A bundle is not trusted. Its key is the one that the machine knows; a bundle that another key has signed is refused.
// [Verify] finds out what of a bundle is damaged, or was never right.
//
//	<module>/@v/list, <version>.info, .mod, .zip    as a mirror has them; for a version that only takes part in the
//	                                                selection of versions, or is only named by go list -m all,
//	                                                there is no .zip, nor a line in the list
//	sumdb/<name>/supported, latest, lookup, tile    the signed head, and what is proven under it
//	go.sum                                          the sums of all zips and .mod files
//	SHA256SUMS                                      what sha256sum -c reads: the sums of all other files
package bundle

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/graph"
	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
	"golang.org/x/mod/sumdb/dirhash"
	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"
)

// Options are what is wanted other than by default, which is the zero value.
type Options struct {
	// Head is the signed tree head of the checksum database under which everything is proven; nil is for the newest. The
	// same head makes the same bundle of the same modules, byte for byte.
	Head []byte

	// Onto are older signed heads, each of a machine or of an earlier bundle. The go command on a machine that knows a head
	// takes a bundle only if it has the tiles that prove that head under the bundle's.
	Onto [][]byte

	// Fetched, if it is not nil, is called as each module is there with all its files, with the number of those that are and of
	// those that will be.
	Fetched func(done, all int)
}

// A Module is what a bundle holds of a module version.
type Module struct {
	module.Version
	Sum, GoModSum string // h1: on record; Sum is "" if there is only a .mod file
	Files         []File // .info, .mod and .zip
}

// A File is a file of a bundle.
type File struct {
	Name   string // with slashes, and escaped as the GOPROXY protocol wants
	Size   int64
	SHA256 string // in hexadecimal
}

// Write writes a bundle of what a project, a go.mod or go.work file, needs, and returns what it holds. A name that ends in
// .zip is that of a file, any other that of a directory. A bundle that is there already is added to: the new one holds its
// modules too, under the new head, and proves the old head. A directory or zip that holds anything else is left alone.
//
// Everything comes from f and is verified before something is written; modules that f does not look up are refused, because
// nothing would prove them elsewhere. f needs a module cache or a Cache, where zips wait until all is there. With the old
// bundle as a [Cache], what it holds is not fetched again.
//
// The bundle appears under its name when it is complete; it comes to be beside it, in a directory that ends in .modfetch-tmp.
// After an error, what was there is there still. Who writes a bundle waits for others who write the same one.
func Write(ctx context.Context, f *modfetch.Fetcher, project, name string, o Options) ([]Module, error) {
	p, err := enter(ctx, name)
	if err != nil {
		return nil, err
	}
	defer p.leave()
	c := &content{f: f, zips: make(map[module.Version]bool), goMods: make(map[module.Version][]byte), infos: make(map[module.Version][]byte)}
	if p.old != nil {
		old, err := c.addOld(p.name)
		if err != nil {
			return nil, err
		}
		if old != nil {
			o.Onto = append(slices.Clip(o.Onto), old)
		}
	}
	g, err := graph.Load(ctx, c, project, 0)
	if err != nil {
		return nil, err
	}
	for _, m := range g.Modules {
		c.zips[m] = true
	}
	if len(c.zips) == 0 {
		return nil, fmt.Errorf("%s needs no modules", project)
	}
	for m := range c.zips {
		if _, ok := c.goMods[m]; !ok {
			c.goMods[m] = nil // the graph has not asked for it
		}
	}
	if err := c.addListed(ctx, project, g.BuildList); err != nil {
		return nil, err
	}
	mods := slices.Collect(maps.Keys(c.goMods))
	module.Sort(mods)
	// First, because it refuses what cannot be proven, and an old bundle with another's signature, before asking anybody.
	if c.sumFiles, err = f.SumFiles(ctx, mods, o.Head, o.Onto...); err != nil {
		return nil, err
	}
	if err := c.fetch(ctx, o.Fetched); err != nil {
		return nil, err
	}
	w, err := create(p.next, strings.HasSuffix(name, ".zip"))
	if err != nil {
		return nil, err
	}
	list, err := c.write(ctx, w, mods)
	if e := w.close(); err == nil {
		err = e
	}
	if err != nil {
		return nil, err
	}
	return list, p.publish()
}

// content is what goes into a bundle. As a graph.Source it keeps the go.mod files that it hands out.
type content struct {
	f        *modfetch.Fetcher
	zips     map[module.Version]bool // those of which there is a zip
	sumFiles map[string][]byte       // of the checksum database

	mu     sync.Mutex                // guards the following while an errgroup runs
	goMods map[module.Version][]byte // of all modules
	infos  map[module.Version][]byte
}

func (c *content) GoMod(ctx context.Context, m module.Version) ([]byte, error) {
	data, err := c.f.GoMod(ctx, m)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.goMods[m] = data
	return data, nil
}

// addOld adds the modules of the bundle that is there, and returns its head; nil if it is an empty directory.
func (c *content) addOld(name string) (head []byte, err error) {
	old, err := open(name)
	if err != nil {
		return nil, err
	}
	defer old.close()
	if len(old.names)+len(old.odd)+len(old.empty) == 0 {
		return nil, nil
	}
	listed, err := old.manifest()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s holds something else than a bundle, so nothing is written to it", name)
	} else if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	prefix := sumPrefix(old.names)
	for _, file := range slices.Concat(old.names, old.odd) {
		if _, ok := listed[file]; file != manifestName && (!ok || !belongs(file, prefix)) {
			return nil, fmt.Errorf("%s holds %q, which is no part of the bundle in it, so nothing is written to it", name, file)
		}
	}
	for file := range listed {
		switch m, ext, ok := parseName(file); {
		case ok && ext == ".zip":
			c.zips[m] = true
		case ok && ext == ".mod":
			c.goMods[m] = nil
		}
	}
	return old.head()
}

// addListed adds what is not needed, but named by go list -m all: that wants the .info files. In a workspace nothing is left out
// of what is needed.
func (c *content) addListed(ctx context.Context, project string, list []module.Version) error {
	if !strings.HasSuffix(project, ".mod") {
		return nil
	}
	text, err := os.ReadFile(project)
	if err != nil {
		return err
	}
	file, err := modfile.Parse(project, text, nil)
	if err != nil {
		return err
	}
	others := slices.DeleteFunc(slices.Clone(list), func(m module.Version) bool {
		_, ok := c.goMods[m]
		isReplaced := slices.ContainsFunc(file.Replace, func(r *modfile.Replace) bool { return r.Old.Path == m.Path })
		return ok || isReplaced || c.f.Route(m.Path).Exempts != ""
	})
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for _, m := range others {
		g.Go(func() error {
			err := c.addInfo(gctx, m)
			if errors.Is(err, fs.ErrNotExist) {
				return nil // some go.mod file requires it, and nobody has noticed
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			c.goMods[m] = nil
			return err
		})
	}
	return g.Wait()
}

const atOnce = 16 // small files

// addInfo writes m's .info file. The mirror's own words are not kept: in them no two mirrors agree.
func (c *content) addInfo(ctx context.Context, m module.Version) error {
	info, err := c.f.Info(ctx, m.Path, m.Version)
	if err != nil {
		return err
	}
	text, err := json.Marshal(version{info.Version, info.Time})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.infos[m] = text
	return err
}

// fetch gets what is missing. The zips are left where f keeps them.
func (c *content) fetch(ctx context.Context, fetched func(done, all int)) error {
	done := 0
	for _, err := range c.f.Download(ctx, slices.Collect(maps.Keys(c.zips))) {
		if err != nil {
			return err
		}
		if done++; fetched != nil {
			fetched(done, len(c.zips))
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	goMods, infos := maps.Clone(c.goMods), maps.Clone(c.infos)
	for m, data := range goMods {
		if data == nil {
			g.Go(func() error {
				_, err := c.GoMod(gctx, m)
				return err
			})
		}
		if infos[m] == nil {
			g.Go(func() error { return c.addInfo(gctx, m) })
		}
	}
	return g.Wait()
}

// A version is what an .info file says.
type version struct {
	Version string
	Time    time.Time `json:",omitzero"`
}

// write writes all files, in the order of their names, and the manifest.
func (c *content) write(ctx context.Context, w writer, mods []module.Version) ([]Module, error) {
	files, prefix := maps.Clone(c.sumFiles), sumPrefix(slices.Collect(maps.Keys(c.sumFiles)))
	sums, list := new(modfetch.GoSum), make([]Module, len(mods))
	zips := make(map[string]*Module)
	versions := make(map[string][]string)
	for i, m := range mods {
		_, text, _, err := tlog.ParseRecord(files[prefix+lookupName(m)])
		if err != nil {
			return nil, err
		}
		r, err := parseRecord(text, m)
		if err != nil {
			return nil, err
		}
		list[i] = Module{Version: m, GoModSum: r.goMod}
		if got := goModSum(c.goMods[m]); got != r.goMod {
			return nil, fmt.Errorf("the go.mod file of %s is %s, but the checksum database has %s", m, got, r.goMod)
		}
		files[fileName(m, ".info")], files[fileName(m, ".mod")] = c.infos[m], c.goMods[m]
		sums.Add(module.Version{Path: m.Path, Version: m.Version + "/go.mod"}, r.goMod)
		if !c.zips[m] {
			continue
		}
		list[i].Sum = r.zip
		files[fileName(m, ".zip")], zips[fileName(m, ".zip")] = nil, &list[i]
		sums.Add(m, r.zip)
		versions[m.Path] = append(versions[m.Path], m.Version)
	}
	for path, versions := range versions {
		files[listName(path)] = versionList(versions)
	}
	var goSum bytes.Buffer
	if _, err := sums.WriteTo(&goSum); err != nil {
		return nil, err
	}
	files[goSumName] = goSum.Bytes()

	written := make(map[string]File)
	var manifest bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(files)) {
		file, err := File{}, ctx.Err()
		if m := zips[name]; m != nil && err == nil {
			file, err = writeZip(ctx, c.f, w, name, m)
		} else if err == nil {
			file, err = writeFile(w, name, bytes.NewReader(files[name]))
		}
		if err != nil {
			return nil, err
		}
		written[name] = file
		fmt.Fprintf(&manifest, "%s  %s\n", file.SHA256, name)
	}
	for i := range list {
		for _, ext := range []string{".info", ".mod", ".zip"} {
			if file, ok := written[fileName(list[i].Version, ext)]; ok {
				list[i].Files = append(list[i].Files, file)
			}
		}
	}
	_, err := writeFile(w, manifestName, &manifest)
	return list, err
}

func writeZip(ctx context.Context, f *modfetch.Fetcher, w writer, name string, m *Module) (File, error) {
	z, err := f.Zip(ctx, m.Version)
	if err != nil {
		return File{}, err
	}
	defer z.Close()
	if z.Sum != m.Sum {
		return File{}, fmt.Errorf("the zip of %s is %s, but the checksum database has %s", m.Version, z.Sum, m.Sum)
	}
	return writeFile(w, name, io.NewSectionReader(z, 0, z.Size))
}

func writeFile(w writer, name string, r io.Reader) (File, error) {
	sum := sha256.New()
	n, err := w.add(name, io.TeeReader(r, sum))
	return File{name, n, hex.EncodeToString(sum.Sum(nil))}, err
}

// A record is what the checksum database has on a module version.
type record struct{ zip, goMod string } // h1:

// parseRecord reads the text of m's record.
func parseRecord(text []byte, m module.Version) (r record, err error) {
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		switch {
		case len(f) != 3 || f[0] != m.Path || !strings.HasPrefix(f[2], "h1:"):
		case f[1] == m.Version:
			r.zip = f[2]
		case f[1] == m.Version+"/go.mod":
			r.goMod = f[2]
		}
	}
	if r.zip == "" || r.goMod == "" {
		return record{}, fmt.Errorf("it is no record of %s", m)
	}
	return r, nil
}

// Names of files.
const (
	manifestName = "SHA256SUMS"
	goSumName    = "go.sum"
)

// fileName returns the name of a file of m, whose path and version have been checked.
func fileName(m module.Version, ext string) string {
	path, _ := module.EscapePath(m.Path)
	version, _ := module.EscapeVersion(m.Version)
	return path + "/@v/" + version + ext
}

func listName(path string) string {
	escaped, _ := module.EscapePath(path)
	return escaped + "/@v/list"
}

// lookupName returns the name of the record of m, behind the database's prefix.
func lookupName(m module.Version) string {
	path, _ := module.EscapePath(m.Path)
	version, _ := module.EscapeVersion(m.Version)
	return "lookup/" + path + "@" + version
}

// parseLookupName is the reverse of lookupName.
func parseLookupName(name string) (m module.Version, ok bool) {
	name, ok = strings.CutPrefix(name, "lookup/")
	path, version, ok2 := strings.Cut(name, "@")
	m, _, ok3 := parseName(path + "/@v/" + version + ".mod")
	return m, ok && ok2 && ok3
}

// sumPrefix returns what the names of the checksum database's files begin with, "sumdb/<name>/", or "" if there is no head.
func sumPrefix(names []string) string {
	for _, name := range names {
		if prefix, ok := strings.CutSuffix(name, "/latest"); ok && strings.HasPrefix(prefix, "sumdb/") {
			return prefix + "/"
		}
	}
	return ""
}

// parseName is the reverse of fileName.
func parseName(name string) (m module.Version, ext string, ok bool) {
	dir, file, ok := strings.Cut(name, "/@v/")
	if !ok {
		return module.Version{}, "", false
	}
	ext = path.Ext(file)
	var err, err2 error
	m.Path, err = module.UnescapePath(dir)
	m.Version, err2 = module.UnescapeVersion(strings.TrimSuffix(file, ext))
	ok = err == nil && err2 == nil && module.Check(m.Path, m.Version) == nil && slices.Contains([]string{".info", ".mod", ".zip"}, ext)
	return m, ext, ok
}

// belongs reports whether name may be that of a file of a bundle, whose checksum database has the prefix.
func belongs(name, prefix string) bool {
	if sumName, ok := strings.CutPrefix(name, prefix); ok && prefix != "" {
		_, isLookup := parseLookupName(sumName)
		_, notTile := tlog.ParseTilePath(sumName)
		return sumName == "supported" || sumName == "latest" || isLookup || notTile == nil
	}
	_, _, ok := parseName(name)
	path, isList := strings.CutSuffix(name, "/@v/list")
	_, notPath := module.UnescapePath(path)
	return ok || isList && notPath == nil || name == goSumName
}

// versionList is the content of a list, in which pseudo-versions do not belong.
func versionList(versions []string) []byte {
	var text []byte
	slices.SortFunc(versions, func(a, b string) int { return cmp.Or(semver.Compare(a, b), strings.Compare(a, b)) })
	for _, v := range versions {
		if !module.IsPseudoVersion(v) {
			text = append(text, v+"\n"...)
		}
	}
	return text
}

func goModSum(data []byte) string {
	sum, _ := dirhash.Hash1([]string{"go.mod"}, func(string) (io.ReadCloser, error) { // which has no way to fail
		return io.NopCloser(bytes.NewReader(data)), nil
	})
	return sum
}
