package modfetchtest

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
)

// load returns the modules in fsys, in an order that depends on nothing but their names: it becomes that of the records
// in the checksum database.
func load(fsys fs.FS) ([]Module, error) {
	if fsys == nil {
		return nil, nil
	}
	var mods []Module
	from := make(map[module.Version]string)
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var m Module
		switch ext := path.Ext(name); {
		case d.IsDir() && strings.Index(d.Name(), "@") > 0:
			if m, err = loadDir(fsys, name); err == nil {
				err = fs.SkipDir // its files are the module's, not archives
			}
		case d.Type().IsRegular() && (ext == ".txt" || ext == ".txtar"):
			m, err = loadTxtar(fsys, name)
		default:
			return nil
		}
		if err != nil && err != fs.SkipDir {
			return err
		}
		if other := from[m.id]; other != "" {
			return fmt.Errorf("%s is both in %s and in %s", m.id, other, name)
		}
		from[m.id] = name
		mods = append(mods, m)
		return err
	})
	slices.SortFunc(mods, func(a, b Module) int {
		return cmp.Or(strings.Compare(a.id.Path, b.id.Path), semver.Compare(a.id.Version, b.id.Version),
			strings.Compare(a.id.Version, b.id.Version))
	})
	return mods, err
}

// loadDir reads a directory named path@version.
func loadDir(fsys fs.FS, dir string) (Module, error) {
	p, v, _ := strings.Cut(dir, "@")
	id, err := parseID(p, v)
	if err != nil {
		return Module{}, fmt.Errorf("%s: a directory with an @ in its name is a module version: %w", dir, err)
	}
	m := Module{id: id}
	err = fs.WalkDir(fsys, dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() { // links and the like are in no module zip
			return err
		}
		data, err := fs.ReadFile(fsys, name)
		m.files = append(m.files, file{strings.TrimPrefix(name, dir+"/"), string(data)})
		return err
	})
	if err != nil {
		return m, err
	}
	return m, m.checkGoMod(dir)
}

func loadTxtar(fsys fs.FS, name string) (Module, error) {
	data, err := fs.ReadFile(fsys, name)
	if err != nil {
		return Module{}, err
	}
	comment, files := parseTxtar(string(data))
	id, err := identify(name, comment)
	if err != nil {
		return Module{}, fmt.Errorf("%s: %w", name, err)
	}
	m := Module{id: id, files: files}
	return m, m.checkGoMod(name)
}

// checkGoMod finds the archive that was copied for another module. Who wants the two to differ says so with a .mod file.
func (m Module) checkGoMod(name string) error {
	var stated string
	for _, f := range m.files {
		switch f.name {
		case ".mod":
			return nil
		case "go.mod":
			stated = modfile.ModulePath([]byte(f.data))
		}
	}
	if stated != "" && stated != m.id.Path {
		return fmt.Errorf("%s is %s, but its go.mod says module %s; if that is meant, give a .mod file too", name, m.id, stated)
	}
	return nil
}

// identify says which module a txtar archive is.
func identify(name, comment string) (module.Version, error) {
	stem := strings.TrimSuffix(path.Base(name), path.Ext(name))
	named, nameErr := parseStem(stem)
	line, _, _ := strings.Cut(comment, "\n")
	line = strings.TrimPrefix(strings.TrimSpace(line), "module ")
	stated, err := parseLine(line)
	switch {
	case err == nil && (nameErr != nil || named == stated || spells(stem, stated)):
		return stated, nil
	case err == nil:
		return module.Version{}, fmt.Errorf("the file name means %s, but the comment begins with %s", named, stated)
	case nameErr == nil:
		return named, nil
	}
	return module.Version{}, fmt.Errorf("no module is named, neither by the file, as in example.com_m_v1.0.0.txt (%w), "+
		"nor by the first line of its comment, as in module example.com/m@v1.0.0", nameErr)
}

func parseStem(stem string) (module.Version, error) {
	i := strings.LastIndex(stem, "_v")
	if i < 0 {
		return module.Version{}, errors.New("no _v in it")
	}
	return parseID(strings.ReplaceAll(stem[:i], "_", "/"), stem[i+1:])
}

func parseLine(line string) (module.Version, error) {
	if p, v, ok := strings.Cut(line, "@"); ok {
		return parseID(p, v)
	}
	p, v, _ := strings.Cut(line, " ")
	return parseID(p, strings.TrimSpace(v))
}

// spells reports whether stem is how a file of the module may be named.
func spells(stem string, id module.Version) bool {
	p, _ := module.EscapePath(id.Path)
	v, _ := module.EscapeVersion(id.Version)
	underscored := func(p, v string) string { return strings.ReplaceAll(p, "/", "_") + "_" + v }
	return stem == underscored(p, v) || stem == underscored(id.Path, id.Version)
}

// parseID accepts both escaped and plain names: no plain one contains the ! of an escape.
func parseID(p, v string) (id module.Version, err error) {
	if strings.Contains(p, "!") {
		if p, err = module.UnescapePath(p); err != nil {
			return id, err
		}
	}
	if strings.Contains(v, "!") {
		if v, err = module.UnescapeVersion(v); err != nil {
			return id, err
		}
	}
	id = module.Version{Path: p, Version: v}
	return id, check(id)
}
