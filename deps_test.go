package modfetch_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/semver"
	"os"
)

// TestImportingModfetchCostsTheseModules pins what a program takes on with this package.
func TestImportingModfetchCostsTheseModules(t *testing.T) {
	goCommand := needGo(t)
	out, err := exec.CommandContext(t.Context(), goCommand, "list", "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	modules := strings.Fields(string(out))
	slices.Sort(modules)
	want := []string{
		"github.com/hashicorp/go-cleanhttp",
		"github.com/hashicorp/go-retryablehttp",
		"github.com/klauspost/compress",
		"github.com/modfetch/modfetch",
		"golang.org/x/mod",
		"golang.org/x/sync",
		"golang.org/x/sys", // file locks
	}
	if got := slices.Compact(modules); !slices.Equal(got, want) {
		t.Errorf("imports of %q, want %q", got, want)
	}
}

// TestModIsNotOlderThanItsAdvisories keeps golang.org/x/mod at a release with the fixes for CVE-2026-56864 and
// CVE-2026-56865 in its checksum database client.
func TestModIsNotOlderThanItsAdvisories(t *testing.T) {
	data, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	file, err := modfile.Parse("go.mod", data, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range file.Require {
		if r.Mod.Path == "golang.org/x/mod" && semver.Compare(r.Mod.Version, "v0.40.0") >= 0 {
			return
		}
	}
	t.Error("go.mod does not require golang.org/x/mod v0.40.0 or newer")
}
