package graph

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
)

// A project is what a go.mod or go.work file says: the main modules, and what they replace and exclude.
type project struct {
	file      string
	workspace bool
	replace   replacements // of the go.work
	members   []member     // in the order of the go.work; one if the file is a go.mod
	exclude   map[module.Version]bool
}

// A member is a main module.
type member struct {
	path    string
	file    string // its go.mod
	parsed  *modfile.File
	replace replacements
}

// replacements maps a module to what replaces it: a module, or a directory, which has no version. A key without a
// version stands for all versions.
type replacements map[module.Version]module.Version

func (r replacements) of(m module.Version) (to module.Version, ok bool) {
	if to, ok = r[m]; !ok {
		to, ok = r[module.Version{Path: m.Path}]
	}
	return to, ok
}

func readProject(file string) (*project, error) {
	p := &project{file: file, workspace: !strings.HasSuffix(file, ".mod"), exclude: make(map[module.Version]bool)}
	goMods := []string{file}
	if p.workspace {
		var err error
		if goMods, err = p.readWork(); err != nil {
			return nil, err
		}
	}
	paths := make(map[string]string)
	for _, goMod := range goMods {
		m, err := readMember(goMod)
		if err != nil {
			if p.workspace {
				err = fmt.Errorf("%s uses %s: %w", file, filepath.Dir(goMod), err)
			}
			return nil, err
		}
		if other, ok := paths[m.path]; ok {
			return nil, fmt.Errorf("%s: %s and %s are both module %s; use one of them", file, other, goMod, m.path)
		}
		paths[m.path] = goMod
		p.members = append(p.members, m)
		for _, x := range m.parsed.Exclude {
			p.exclude[x.Mod] = true
		}
	}
	return p, p.checkReplacements()
}

// readWork reads the go.work file and returns the go.mod files of its members.
func (p *project) readWork() (goMods []string, err error) {
	text, err := os.ReadFile(p.file)
	if err != nil {
		return nil, err
	}
	work, err := modfile.ParseWork(p.file, text, nil)
	if err != nil {
		return nil, err
	}
	if len(work.Use) == 0 {
		return nil, fmt.Errorf("%s uses no module; add one with go work use", p.file)
	}
	for _, use := range work.Use {
		goMods = append(goMods, filepath.Join(under(filepath.Dir(p.file), use.Path), "go.mod"))
	}
	p.replace, err = readReplacements(p.file, work.Replace)
	return goMods, err
}

func readMember(file string) (member, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return member{}, err
	}
	f, err := modfile.Parse(file, text, canonical)
	if err != nil {
		return member{}, err
	}
	if f.Module == nil {
		return member{}, fmt.Errorf("%s: no module line, such as: module example.com/name", file)
	}
	path := f.Module.Mod.Path
	if err := module.CheckImportPath(path); err != nil || isToolchain(path) {
		return member{}, fmt.Errorf("%s: %q is no path for a module, such as example.com/name", file, path)
	}
	replace, err := readReplacements(file, f.Replace)
	return member{path: path, file: file, parsed: f, replace: replace}, err
}

// canonical is the modfile.VersionFixer of the project's own files. The go command would look up a version that is not
// canonical and rewrite the file.
func canonical(path, vers string) (string, error) {
	_, major, ok := module.SplitPathVersion(path)
	if !ok {
		return "", fmt.Errorf("malformed module path %q", path)
	}
	if module.CanonicalVersion(vers) != vers {
		return "", fmt.Errorf("%q is not a full version, such as v1.2.3; go mod tidy would look it up", vers)
	}
	return vers, module.CheckPathMajor(vers, major)
}

func readReplacements(file string, list []*modfile.Replace) (replacements, error) {
	all := make(replacements)
	for _, r := range list {
		to := r.New
		if to.Version == "" {
			to.Path = under(filepath.Dir(file), to.Path)
		}
		if other, ok := all[r.Old]; ok && other != to {
			return nil, conflict(file, r.Old, other, to)
		}
		all[r.Old] = to
	}
	return all, nil
}

// under returns a directory that a file in dir names.
func under(dir, path string) string {
	path = filepath.FromSlash(path)
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}

// checkReplacements reports members that replace the same thing differently, where the go.work does not speak.
func (p *project) checkReplacements() error {
	settled := make(map[string]bool)
	for old := range p.replace {
		settled[old.Path] = true
	}
	all := make(replacements)
	for _, m := range p.members {
		if _, ok := p.replace[module.Version{Path: m.path}]; ok {
			return fmt.Errorf("%s replaces its own member %s; drop the replacement or give it a version", p.file, m.path)
		}
		for old, to := range m.replace {
			if settled[old.Path] {
				continue
			}
			if other, ok := all[old]; ok && other != to {
				return conflict(p.file, old, other, to)
			}
			all[old] = to
		}
	}
	return nil
}

func conflict(file string, old, one, other module.Version) error {
	return fmt.Errorf("%s: %v is replaced by both %v and %v; keep one of them", file, old, one, other)
}

// replaced returns what is used for m: itself, or its replacement. The go.work decides, else the last member that speaks
// of m; checkReplacements has seen to it that they do not contradict each other in the same words.
func (p *project) replaced(m module.Version) module.Version {
	if to, ok := p.replace.of(m); ok {
		return to
	}
	used := m
	for _, member := range p.members {
		if to, ok := member.replace.of(m); ok {
			used = to
		}
	}
	return used
}

// needsAll reports whether all selected modules are downloaded, and not only those that go.mod requires.
func (p *project) needsAll() bool {
	f := p.members[0].parsed
	return p.workspace || f.Go != nil && !prunes(f.Go.Version)
}

// explicit returns what the go.mod file requires, excluded versions too: another version of them may be selected.
func (p *project) explicit() []module.Version {
	var list []module.Version
	for _, r := range p.members[0].parsed.Require {
		list = append(list, r.Mod)
	}
	return list
}

// toDownload returns what is downloaded for modules, with what it replaces.
func (p *project) toDownload(modules []module.Version) map[module.Version]module.Version {
	used := make(map[module.Version]module.Version)
	for _, m := range modules {
		if to := p.replaced(m); to.Version != "" {
			used[to] = m
		}
	}
	return used
}

// GoSums returns the go.sum files that apply to a go.mod or go.work file, whether they exist or not: in a workspace its
// own, into which new lines go, and then those of its members. They are needed before [Load], whose Source verifies.
func GoSums(file string) ([]string, error) {
	p, err := readProject(file)
	if err != nil {
		return nil, err
	}
	var files []string
	if p.workspace {
		files = append(files, p.file+".sum")
	}
	for _, m := range p.members {
		files = append(files, strings.TrimSuffix(m.file, ".mod")+".sum")
	}
	return files, nil
}
