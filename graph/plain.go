package graph

import (
	"slices"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
)

// blocks are the verbs whose lines may be in a block.
var blocks = []string{"require", "exclude", "replace", "retract", "tool", "godebug"}

// plain reads a go.mod file that is written the way the go command writes it, as nearly all are, in a fraction of the
// time that a syntax tree takes. Of any other it says that it cannot tell: what is an error, and what a quoted or otherwise
// unusual word means, is for modfile to say.
func (p *project) plain(file []byte) (mod *goMod, ok bool) {
	for _, c := range file {
		switch {
		case c == '\n', c == '\t':
		case c < ' ', c >= 0x7f, c == '"', c == '\'', c == '`':
			return nil, false
		}
	}
	mod = &goMod{}
	block, goVersion := "", ""
	for line := range strings.Lines(string(file)) {
		line, _, _ = strings.Cut(line, "//")
		verb, words := block, strings.Fields(line)
		switch {
		case len(words) == 0:
			continue
		case block == "" && len(words) == 2 && words[1] == "(":
			if block = words[0]; !slices.Contains(blocks, block) {
				return nil, false
			}
			continue
		case block == "":
			verb, words = words[0], words[1:]
		case len(words) == 1 && words[0] == ")":
			block = ""
			continue
		}
		if strings.ContainsAny(line, "()*") { // no block, and perhaps no comment
			return nil, false
		}
		switch verb {
		case "module":
			if len(words) != 1 || mod.path != "" || strings.ContainsAny(line, "[]{},") {
				return nil, false
			}
			mod.path = strings.Clone(words[0])
		case "go":
			if len(words) != 1 || goVersion != "" || !modfile.GoVersionRE.MatchString(words[0]) {
				return nil, false
			}
			goVersion = words[0]
		case "require":
			if len(words) != 2 || strings.ContainsAny(line, "[]{},") {
				return nil, false
			}
			m := module.Version{Path: words[0], Version: words[1]}
			_, major, ok := module.SplitPathVersion(m.Path)
			if !ok || module.CanonicalVersion(m.Version) != m.Version || module.CheckPathMajor(m.Version, major) != nil {
				return nil, false
			}
			p.require(mod, module.Version{Path: strings.Clone(m.Path), Version: strings.Clone(m.Version)}) // not the whole file
		case "exclude", "godebug", "replace", "retract", "tool", "toolchain":
			// They say nothing to others.
		default:
			return nil, false
		}
	}
	mod.prunes = prunes(goVersion)
	return mod, block == ""
}
