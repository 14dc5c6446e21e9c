package unpack

import (
	"path"
	"slices"
	"strings"
)

// Dirs lists the directories of the tree below its root, parents first, of an archive that has been extracted.
func (a *Archive) Dirs() (dirs []string) {
	seen := map[string]bool{".": true}
	for r := a.read(); ; {
		e, err := r.next()
		if err != nil {
			return dirs
		}
		if strings.HasSuffix(e.Name, "/") {
			continue
		}
		first := len(dirs)
		for dir := path.Dir(a.name(e)); !seen[dir]; dir = path.Dir(dir) {
			seen[dir] = true
			dirs = append(dirs, dir)
		}
		slices.Reverse(dirs[first:])
	}
}
