package modfetchtest

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/dirhash"
	modzip "golang.org/x/mod/zip"
)

// A Module is one version of a module for [Server.Add]. Its methods return a changed copy, so calls can be chained and one
// Module can be the start of several.
type Module struct {
	id       module.Version
	files    []file
	rawZip   []byte
	unlisted bool
}

type file struct{ name, data string }

// NewModule returns a module without files. It panics if path or version is not one a mirror could be asked for, which
// is a mistake in the test: the path must be valid, the version canonical.
func NewModule(path, version string) Module {
	id := module.Version{Path: path, Version: version}
	if err := check(id); err != nil {
		panic("modfetchtest: " + err.Error())
	}
	return Module{id: id}
}

// check leaves out what [module.Check] says of a version that does not fit the path's major version suffix, because a
// mirror may well be asked for that.
func check(id module.Version) error {
	if err := module.CheckPath(id.Path); err != nil {
		return err
	}
	if canonical := module.CanonicalVersion(id.Version); canonical == "" || canonical != id.Version {
		return fmt.Errorf("%s: version %q is not canonical, such as v1.0.0", id.Path, id.Version)
	}
	return nil
}

// File adds a file, by its slash-separated name in the module; a name given again replaces the file. The names .info and
// .mod are special, see the package comment. What does not belong in a module zip, such as most of vendor, is left out
// of it, as the go command does.
func (m Module) File(name, content string) Module {
	m.files = append(slices.Clip(m.files), file{name, content})
	return m
}

// RawZip serves b as the zip, whatever it is: a zip against the rules, or no zip. The checksum database lists the h1 of b,
// or, if b cannot be hashed, of the zip that it stands in for.
func (m Module) RawZip(b []byte) Module {
	m.rawZip = b
	return m
}

// Unlisted keeps the module out of the checksum database, as if it were private.
func (m Module) Unlisted() Module {
	m.unlisted = true
	return m
}

// artifacts are the files that a mirror has of one version of a module, and their hashes.
type artifacts struct {
	info, mod, zip []byte
	sum, modSum    string
}

func (m Module) build() (*artifacts, error) {
	content := make(map[string]string)
	for _, f := range m.files {
		content[f.name] = f.data
	}
	mod, hasMod := content[".mod"]
	gomod, hasGoMod := content["go.mod"]
	switch {
	case !hasMod && hasGoMod:
		mod = gomod
	case !hasMod:
		mod = "module " + m.id.Path + "\n"
		if !strings.HasSuffix(m.id.Version, "+incompatible") {
			content["go.mod"] = mod
		}
	}
	info, hasInfo := content[".info"]
	if !hasInfo {
		info = synthesizeInfo(m.id.Version)
	}
	delete(content, ".mod")
	delete(content, ".info")

	a := &artifacts{info: []byte(info), mod: []byte(mod), zip: m.rawZip}
	var err error
	a.modSum = hashGoMod(a.mod)
	if a.zip != nil {
		if a.sum, err = hashZip(a.zip); err == nil {
			return a, nil
		}
	}
	var files []modzip.File
	for name, data := range content {
		files = append(files, file{name, data})
	}
	slices.SortFunc(files, func(a, b modzip.File) int { return strings.Compare(a.Path(), b.Path()) })
	var buf bytes.Buffer
	if err := modzip.Create(&buf, m.id, files); err != nil {
		return nil, fmt.Errorf("%s: %w; RawZip takes a zip that was made otherwise", m.id, err)
	}
	if a.zip == nil {
		a.zip = buf.Bytes()
	}
	a.sum, err = hashZip(buf.Bytes())
	return a, err
}

func synthesizeInfo(version string) string {
	t := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	if module.IsPseudoVersion(version) {
		t, _ = module.PseudoVersionTime(version)
	}
	info, _ := json.Marshal(struct {
		Version string
		Time    time.Time
	}{version, t})
	return string(info)
}

func hashGoMod(b []byte) string {
	sum, _ := dirhash.Hash1([]string{"go.mod"}, func(string) (io.ReadCloser, error) { // fails where this function fails
		return io.NopCloser(bytes.NewReader(b)), nil
	})
	return sum
}

func hashZip(b []byte) (string, error) {
	zr, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return "", err
	}
	var names []string
	byName := make(map[string]*zip.File)
	for _, f := range zr.File {
		names = append(names, f.Name)
		byName[f.Name] = f // the last of a name, for which dirhash.HashZip decides too
	}
	return dirhash.Hash1(names, func(name string) (io.ReadCloser, error) { return byName[name].Open() })
}

// A file is a [modzip.File] and its own [fs.FileInfo].

func (f file) Path() string                 { return f.name }
func (f file) Lstat() (fs.FileInfo, error)  { return f, nil }
func (f file) Open() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(f.data)), nil }

func (f file) Name() string       { return path.Base(f.name) }
func (f file) Size() int64        { return int64(len(f.data)) }
func (f file) Mode() fs.FileMode  { return 0o644 }
func (f file) ModTime() time.Time { return time.Time{} }
func (f file) IsDir() bool        { return false }
func (f file) Sys() any           { return nil }
