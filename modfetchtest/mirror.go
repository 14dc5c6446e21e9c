package modfetchtest

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
)

// A mirror answers the GOPROXY protocol. The zero mirror has no modules.
type mirror struct {
	mu   sync.RWMutex // guards mods
	mods map[string]map[string]*artifacts
}

func (m *mirror) add(id module.Version, a *artifacts) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mods == nil {
		m.mods = make(map[string]map[string]*artifacts)
	}
	if m.mods[id.Path] == nil {
		m.mods[id.Path] = make(map[string]*artifacts)
	}
	m.mods[id.Path][id.Version] = a
}

func (m *mirror) artifacts(id module.Version) *artifacts {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.mods[id.Path][id.Version]
}

// versions returns those of a module, lowest first.
func (m *mirror) versions(path string) []string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.SortedFunc(maps.Keys(m.mods[path]), func(a, b string) int {
		return cmp.Or(semver.Compare(a, b), strings.Compare(a, b))
	})
}

func (m *mirror) clone() *mirror {
	m.mu.RLock()
	defer m.mu.RUnlock()
	c := &mirror{mods: make(map[string]map[string]*artifacts)}
	for path, versions := range m.mods {
		c.mods[path] = maps.Clone(versions)
	}
	return c
}

func (m *mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	escaped, name, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/@")
	p, err := module.UnescapePath(escaped)
	if err != nil {
		text(w, http.StatusNotFound, "not found: "+err.Error())
		return
	}
	versions := m.versions(p)
	if len(versions) == 0 {
		text(w, http.StatusNotFound, "not found: no module "+p)
		return
	}
	switch name {
	case "v/list":
		var list bytes.Buffer
		for _, v := range versions {
			if !module.IsPseudoVersion(v) {
				fmt.Fprintln(&list, v)
			}
		}
		serveContent(w, r, "text/plain; charset=utf-8", list.Bytes())
	case "latest":
		id := module.Version{Path: p, Version: latest(versions)}
		serveContent(w, r, "application/json", m.artifacts(id).info)
	default:
		m.serveFile(w, r, p, versions, name)
	}
}

// serveFile serves v/<version>.info, .mod or .zip.
func (m *mirror) serveFile(w http.ResponseWriter, r *http.Request, p string, versions []string, name string) {
	ext := path.Ext(name)
	escaped, ok := strings.CutPrefix(strings.TrimSuffix(name, ext), "v/")
	version, err := module.UnescapeVersion(escaped)
	if !ok || err != nil {
		text(w, http.StatusNotFound, "not found: no file @"+name+" in the GOPROXY protocol")
		return
	}
	a := m.artifacts(module.Version{Path: p, Version: version})
	if a == nil && ext == ".info" {
		a = m.revision(p, versions, version)
	}
	switch {
	case a == nil:
		text(w, http.StatusNotFound, "not found: "+p+" has no version "+version)
	case ext == ".info":
		serveContent(w, r, "application/json", a.info)
	case ext == ".mod":
		serveContent(w, r, "text/plain; charset=utf-8", a.mod)
	case ext == ".zip":
		serveContent(w, r, "application/zip", a.zip)
	default:
		text(w, http.StatusNotFound, "not found: no file @"+name+" in the GOPROXY protocol")
	}
}

// revision returns the highest version that a branch, tag or commit stands for, or nil.
func (m *mirror) revision(p string, versions []string, rev string) *artifacts {
	for _, v := range slices.Backward(versions) {
		a := m.artifacts(module.Version{Path: p, Version: v})
		var info struct {
			Name   string
			Origin struct{ Ref, Hash string }
		}
		json.Unmarshal(a.info, &info) // an .info may be anything; then it names nothing
		pseudo, _ := module.PseudoVersionRev(v)
		if info.Origin.Ref == "refs/heads/"+rev || info.Origin.Ref == "refs/tags/"+rev {
			return a
		}
		for _, commit := range []string{info.Name, info.Origin.Hash, pseudo} {
			if len(rev) >= 7 && strings.HasPrefix(commit, rev) {
				return a
			}
		}
	}
	return nil
}

// latest returns what @latest names, of at least one version.
func latest(versions []string) string {
	rank := func(v string) int {
		switch {
		case module.IsPseudoVersion(v):
			return 0
		case semver.Prerelease(v) != "":
			return 1
		}
		return 2
	}
	return slices.MaxFunc(versions, func(a, b string) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), semver.Compare(a, b))
	})
}

func serveContent(w http.ResponseWriter, r *http.Request, contentType string, content []byte) {
	setDefault(w.Header(), "Content-Type", contentType)
	setDefault(w.Header(), "ETag", fmt.Sprintf(`"%x"`, sha256.Sum256(content)))
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
}
