package modfetch

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"

	"golang.org/x/mod/module"
)

// routes says which mirrors may see a module path, and in which order.
type routes struct {
	tiers   []tier      // for paths that no other rule takes
	rules   []route     // WithRoute: the first that matches takes the path
	noProxy []exemption // GONOPROXY and the like: these paths see no mirror but the module's own origin
	direct  *direct
	offline bool // some mirrors, direct among them, may not be asked
}

// A tier is a set of mirrors joined by `|`: after any failure the next is asked. The `,` between tiers is crossed only
// if the last-written mirror of the tier before it says that the file does not exist.
type tier struct {
	mirrors []Mirror
	equal   bool // they were declared to be: by a strategy, or by WithMirrors
}

type route struct {
	patterns string
	list     string // as written, for messages
	tiers    []tier
}

// to returns the tiers that may be asked about a module path.
func (r *routes) to(path string) []tier {
	if rule := r.rule(path); rule != nil {
		return rule.tiers
	}
	switch {
	case matching(r.noProxy, path) == "":
		return r.tiers
	case r.offline:
		return []tier{{mirrors: []Mirror{offline{}}}}
	case r.direct == nil:
		return nil
	}
	return []tier{{mirrors: []Mirror{r.direct}}}
}

// withoutDirect returns the same routes, without those that lead to the repositories themselves.
func (r *routes) withoutDirect() routes {
	out := r.only(func(m Mirror) bool { return m != r.direct })
	out.direct = nil
	return out
}

// toOffline returns the same routes with the mirrors to keep, and offline in the place of the others.
func (r *routes) toOffline(keep func(Mirror) bool) routes {
	out := r.only(keep, offline{})
	out.offline = true
	return out
}

// only returns the same routes with the mirrors to keep. Where others are left out, instead comes last.
func (r *routes) only(keep func(Mirror) bool, instead ...Mirror) routes {
	only := func(tiers []tier) (kept []tier) {
		left := false
		for _, t := range tiers {
			all := len(t.mirrors)
			t.mirrors = slices.DeleteFunc(slices.Clone(t.mirrors), func(m Mirror) bool { return !keep(m) })
			left = left || len(t.mirrors) < all
			if len(t.mirrors) > 0 {
				kept = append(kept, t)
			}
		}
		if left && instead != nil {
			kept = append(kept, tier{mirrors: instead})
		}
		return kept
	}
	out := *r
	out.tiers, out.rules = only(r.tiers), nil
	for _, rule := range r.rules {
		rule.tiers = only(rule.tiers)
		out.rules = append(out.rules, rule)
	}
	return out
}

// An exemption is a setting whose patterns keep paths from mirrors, or from the checksum database.
type exemption struct{ setting, patterns string }

// matching returns the first exemption that matches path, for messages, or "".
func matching(list []exemption, path string) string {
	for _, e := range list {
		if module.MatchPrefixPatterns(e.patterns, path) {
			return e.setting + "=" + e.patterns
		}
	}
	return ""
}

// rule returns the WithRoute rule for a path, or nil.
func (r *routes) rule(path string) *route {
	for i := range r.rules {
		if module.MatchPrefixPatterns(r.rules[i].patterns, path) {
			return &r.rules[i]
		}
	}
	return nil
}

// parseGOPROXY reads a list as the go command does: `,` and `|` end an item and say when the next one is asked; spaces
// around items and empty items are dropped; `direct` and `off` end the list.
func parseGOPROXY(list string, client *http.Client, direct *direct) ([]tier, error) {
	var tiers []tier
	var t tier
	n, query := 0, false // items, and whether one of them had a query
	for list != "" {
		item, sep := list, byte(',')
		if i := strings.IndexAny(list, ",|"); i >= 0 {
			item, sep, list = list[:i], list[i], list[i+1:]
		} else {
			list = ""
		}
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		n++
		var m Mirror
		switch item {
		case "direct":
			m, list = direct, ""
		case "off":
			m, list = off{}, ""
		default:
			var err error
			if m, err = newMirror(item, client); err != nil {
				// An item may be a piece of the password before the next @, or of a query that has begun.
				if text := withoutSecrets(item); text != hidden && !query && !strings.Contains(list, "@") {
					return nil, fmt.Errorf("has %q: %w", text, err)
				}
				return nil, fmt.Errorf("has item %d of the list, not shown because it may hold a secret: %w", n, err)
			}
		}
		query = query || strings.ContainsAny(item, "?#")
		t.mirrors = append(t.mirrors, m)
		if sep == ',' || list == "" {
			tiers = append(tiers, t)
			t = tier{}
		}
	}
	if t.mirrors != nil { // only separators came after a `|`
		tiers = append(tiers, t)
	}
	if len(tiers) == 0 {
		return nil, fmt.Errorf("names no mirror; want URLs, direct or off, separated by , or |")
	}
	return tiers, nil
}

// parseMirror reads the URL of a mirror that stands alone.
func parseMirror(item string, client *http.Client) (Mirror, error) {
	m, err := newMirror(item, client)
	if err != nil {
		return nil, fmt.Errorf("has %q: %w", withoutSecrets(item), err)
	}
	return m, nil
}

// newMirror reads one item of a GOPROXY list. Its errors leave it to the caller to name the item.
func newMirror(item string, client *http.Client) (Mirror, error) {
	if strings.HasPrefix(item, ".") || strings.HasPrefix(item, "file:") && !strings.HasPrefix(item, "file:/") { // no host is named so
		return nil, errors.New("a directory is given as file:///absolute/dir")
	}
	if strings.ContainsAny(item, ".:/") && !strings.Contains(item, ":/") && !path.IsAbs(item) {
		item = "https://" + item
	}
	u, err := url.Parse(item)
	if err != nil {
		return nil, errMalformed
	}
	switch u.Scheme {
	case "http", "https":
		return newHTTPMirror(u, client)
	case "file":
		if u.Host != "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Path == "" {
			return nil, errors.New("a file URL has a path and nothing else, such as file:///var/goproxy")
		}
		return fileMirror(u), nil
	}
	return nil, errors.New("want an http, https or file URL, direct or off")
}

// off is the GOPROXY item that forbids to go on. It is a refusal, not an absence.
type off struct{}

func (off) String() string { return "off" }

func (off) Fetch(context.Context, Request) (*Response, error) {
	return nil, errOff
}

var errOff = &failure{kind: ErrForbidden, msg: "the mirror list ends in off: no further source may be asked"}

// offline stands for the mirrors that may not be asked: what they have is not known, and so not absent.
type offline struct{}

func (offline) String() string { return "offline" }

func (offline) Fetch(_ context.Context, r Request) (*Response, error) {
	return nil, &OfflineError{r.Path}
}

// isOffline reports whether a mirror stands for those that may not be asked. It has a tier to itself.
func isOffline(m Mirror) bool {
	if b, ok := m.(*sumBase); ok {
		m = b.Mirror
	}
	return m == offline{}
}

// isFiles reports whether a mirror opens no socket.
func isFiles(m Mirror) bool {
	_, ok := m.(*fsMirror)
	return ok
}

// A Route says who would be asked about a module path; nobody is.
type Route struct {
	Tiers   [][]Mirror // in order; the mirrors of a tier are joined by `|`, a `,` stands between tiers
	Sums    string     // the checksum database that would be asked for what go.sum does not name; "" for none
	SumsAt  []Mirror   // where it would be read, in order
	Exempts string     // the setting because of which it would not be asked; "" if it would
}

// Route returns who would be asked about a module path, lookups included.
func (f *Fetcher) Route(path string) Route {
	var r Route
	for _, t := range f.routes.to(path) {
		r.Tiers = append(r.Tiers, t.mirrors)
	}
	if r.Exempts = f.exemption(path); r.Exempts != "" {
		return r
	}
	r.Sums = f.db.name
	for _, p := range f.db.lookupPlaces(path) {
		for _, t := range p.tiers {
			r.SumsAt = append(r.SumsAt, t.mirrors...)
		}
	}
	return r
}
