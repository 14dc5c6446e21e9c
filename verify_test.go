package modfetch_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/modfetchtest"
	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/dirhash"
)

// damages are ways in which a module cache can be wrong, each done to a world in which "evil" is another, valid zip and
// tree of the same module version.
var damages = map[string]func(t *testing.T, good, evil string){
	"zip swapped":                        swap("zip"),
	"ziphash swapped":                    swap("ziphash"),
	"tree swapped":                       swap("tree"),
	"go.mod swapped":                     swap("mod"),
	"zip and ziphash swapped":            swap("zip", "ziphash"),
	"zip and tree swapped":               swap("zip", "tree"),
	"ziphash and tree swapped":           swap("ziphash", "tree"),
	"all swapped":                        swap("zip", "ziphash", "tree", "mod"),
	"zip swapped, tree gone":             both(swap("zip"), lose("tree")),
	"zip and ziphash swapped, tree gone": both(swap("zip", "ziphash"), lose("tree")),
	"ziphash gone":                       lose("ziphash"),
	"zip gone":                           lose("zip"),
	"tree gone":                          lose("tree"),
	"zip and ziphash gone":               lose("zip", "ziphash"),
	"ziphash too short":                  overwrite("ziphash", "h1:AAAA"),
	"ziphash of zero bytes":              overwrite("ziphash", strings.Repeat("\x00", 47)),
	"ziphash false":                      overwrite("ziphash", "h1:"+strings.Repeat("A", 43)+"="),
	"broken extraction":                  both(overwrite("partial", ""), lose("tree/m.go")),
	"partial beside a tree":              overwrite("partial", ""),
	"info unparsable":                    overwrite("info", "{"),
	"info of another version":            overwrite("info", `{"Version":"v9.9.9"}`),
	"go.mod of a legacy tool":            overwrite("mod", "//vgo 0.0.4\nmodule example.com/m\n"),
	"zip cut":                            cut("zip"),
	"zip cut, tree gone":                 both(cut("zip"), lose("tree")),
	"leftovers of a process that died": both(lose("zip", "ziphash", "tree"), func(t *testing.T, good, _ string) {
		write(t, part(good, "zip")+"123.tmp", "half a zip")
		write(t, filepath.Join(part(good, "tree")+".tmp-7", "m.go"), "package evil\n")
	}),
}

type damage = func(t *testing.T, good, evil string)

// part names one of the things that module m is in a module cache.
func part(modCache, name string) string {
	if tree, ok := strings.CutPrefix(name, "tree"); ok {
		return filepath.Join(modCache, "example.com", "m@v1.0.0", tree)
	}
	return filepath.Join(modCache, "cache", "download", "example.com", "m", "@v", "v1.0.0."+name)
}

func both(a, b damage) damage {
	return func(t *testing.T, good, evil string) { a(t, good, evil); b(t, good, evil) }
}

func lose(parts ...string) damage {
	return func(t *testing.T, good, _ string) {
		chmodAll(part(good, "tree"))
		for _, name := range parts {
			if err := os.RemoveAll(part(good, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func swap(parts ...string) damage {
	return func(t *testing.T, good, evil string) {
		lose(parts...)(t, good, evil)
		for _, name := range parts {
			if name == "tree" {
				if err := os.CopyFS(part(good, name), os.DirFS(part(evil, name))); err != nil {
					t.Fatal(err)
				}
				continue
			}
			data, err := os.ReadFile(part(evil, name))
			if err != nil {
				t.Fatal(err)
			}
			write(t, part(good, name), string(data))
		}
	}
}

func overwrite(name, content string) damage {
	return func(t *testing.T, good, _ string) { write(t, part(good, name), content) }
}

func cut(name string) damage {
	return func(t *testing.T, good, _ string) {
		if err := os.Truncate(part(good, name), 100); err != nil {
			t.Fatal(err)
		}
	}
}

func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o666); err != nil {
		t.Fatal(err)
	}
}

// swappedWorld fills two module caches: one from a mirror with m, and one from a mirror with other bytes under that name.
func swappedWorld(t *testing.T) (opts []modfetch.Option, good, evil string) {
	t.Helper()
	s := newWorld(t)
	f, good := newFetcher(t, s.Options()...)
	download(t, f, moduleM)
	other := modfetchtest.NewServer(t, nil)
	other.Add(modfetchtest.NewModule(moduleM.Path, moduleM.Version).File("m.go", "package evil\n").File("go.mod", "module example.com/m\n\ngo 1.99\n"))
	f, evil = newFetcher(t, other.Options()...)
	download(t, f, moduleM)
	return s.Options(), good, evil
}

func TestDamagedCacheGivesGoodBytesOrAnError(t *testing.T) {
	t.Parallel()
	for name, damage := range damages {
		for _, policy := range []modfetch.Policy{{}, {Rehash: true}} {
			t.Run(fmt.Sprintf("%s, rehash %t", name, policy.Rehash), func(t *testing.T) {
				opts, good, evil := swappedWorld(t)
				tree, err := dirhash.HashDir(part(good, "tree"), moduleM.String(), dirhash.Hash1)
				if err != nil {
					t.Fatal(err)
				}
				goMod, err := os.ReadFile(part(good, "mod"))
				if err != nil {
					t.Fatal(err)
				}
				damage(t, good, evil)
				f, err := modfetch.New(append(opts, modfetch.WithModCache(good), modfetch.WithPolicy(policy))...)
				if err != nil {
					t.Fatal(err)
				}

				z, err := f.Zip(t.Context(), moduleM)
				if err != nil {
					t.Fatalf("Zip: %v", err)
				}
				data, err := io.ReadAll(io.NewSectionReader(z, 0, z.Size))
				if err != nil {
					t.Fatal(err)
				}
				z.Close()
				copied := filepath.Join(t.TempDir(), "copy.zip")
				write(t, copied, string(data))
				if got, err := dirhash.HashZip(copied, dirhash.Hash1); err != nil || got != tree {
					t.Errorf("Zip: hash %s, %v; want %s", got, err, tree)
				}
				if data, err := f.GoMod(t.Context(), moduleM); err != nil || string(data) != string(goMod) {
					t.Errorf("GoMod: %q, %v", data, err)
				}
				// A tree beside a good hash is believed, as the go command believes it, unless it is to be hashed.
				// Here Zip has noticed where a zip was wrong, and dropped the tree with it.
				believed := name == "tree swapped" && !policy.Rehash
				dir, err := f.Dir(t.Context(), moduleM)
				if err != nil {
					t.Fatalf("Dir: %v", err)
				}
				if got, err := dirhash.HashDir(dir, moduleM.String(), dirhash.Hash1); err != nil || (got == tree) == believed {
					t.Errorf("Dir: hash %s, %v; want %s: %t", got, err, tree, !believed)
				}
				download(t, f, moduleM) // and everything else is in order again
				if info, err := os.ReadFile(part(good, "info")); err != nil || !strings.HasPrefix(string(info), `{"Version":"v1.0.0",`) {
					t.Errorf("info %s, %v", info, err)
				}
				for _, name := range files(t, good) {
					if strings.Contains(name, ".tmp") || strings.HasSuffix(name, ".partial") {
						t.Errorf("left: %s", name)
					}
				}
			})
		}
	}
}

func TestDamagedCacheGivesGoodTreesFirst(t *testing.T) {
	t.Parallel()
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			opts, good, evil := swappedWorld(t)
			tree, err := dirhash.HashDir(part(good, "tree"), moduleM.String(), dirhash.Hash1)
			if err != nil {
				t.Fatal(err)
			}
			damage(t, good, evil)
			f, err := modfetch.New(append(opts, modfetch.WithModCache(good))...)
			if err != nil {
				t.Fatal(err)
			}
			dir, err := f.Dir(t.Context(), moduleM)
			if err != nil {
				t.Fatal(err)
			}
			believed := name == "tree swapped" || name == "zip and tree swapped"
			if got, err := dirhash.HashDir(dir, moduleM.String(), dirhash.Hash1); err != nil || (got == tree) == believed {
				t.Errorf("hash %s, %v; want %s: %t", got, err, tree, !believed)
			}
		})
	}
}

// TestEveryCombinationOfZipHashAndTree has each of the three good, swapped for the other module's, or gone, and asks for the
// zip and the tree in both orders, while the mirror is there and while nothing but go.sum is.
//
// There is one exception to good bytes or an error, which is also the go command's: a tree beside the good hash is believed
// unless Policy.Rehash is set, since that hash, not the tree, is what is compared on every call.
func TestEveryCombinationOfZipHashAndTree(t *testing.T) {
	t.Parallel()
	online, good, evil := swappedWorld(t)
	hash := func(dir string) string {
		t.Helper()
		sum, err := dirhash.HashDir(dir, moduleM.String(), dirhash.Hash1)
		if err != nil {
			t.Fatal(err)
		}
		return sum
	}
	sum, evilSum := hash(part(good, "tree")), hash(part(evil, "tree"))
	if sum == evilSum {
		t.Fatal("both modules are the same")
	}
	offline := []modfetch.Option{modfetch.WithGOPROXY("off"), modfetch.WithSumDB("off"), modfetch.WithGoSum(goSum(t, moduleM.Path+" "+moduleM.Version+" "+sum))}

	parts, states := []string{"zip", "ziphash", "tree"}, []string{"good", "swapped", "gone"}
	for n := range 27 {
		state := map[string]string{"zip": states[n/9], "ziphash": states[n/3%3], "tree": states[n%3]}
		for m := range 8 {
			rehash, mirror, zipFirst := m&1 > 0, m&2 > 0, m&4 > 0
			t.Run(fmt.Sprintf("%v rehash %t mirror %t zip first %t", state, rehash, mirror, zipFirst), func(t *testing.T) {
				modCache := tempDir(t)
				if err := os.CopyFS(modCache, os.DirFS(good)); err != nil {
					t.Fatal(err)
				}
				for _, p := range parts {
					switch state[p] {
					case "swapped":
						swap(p)(t, modCache, evil)
					case "gone":
						lose(p)(t, modCache, evil)
					}
				}
				opts := offline
				if mirror {
					opts = online
				}
				f, err := modfetch.New(append(slices.Clone(opts), modfetch.WithModCache(modCache), modfetch.WithPolicy(modfetch.Policy{Rehash: rehash}))...)
				if err != nil {
					t.Fatal(err)
				}
				mayFail := func(err error) {
					t.Helper()
					if mirror || state["zip"] == "good" || errors.Is(err, fs.ErrNotExist) {
						t.Error(err)
					}
				}
				believed := state["tree"] == "swapped" && state["ziphash"] == "good" && !rehash
				zip := func() {
					if state["zip"] == "swapped" {
						believed = false // noticed, and the tree that may have been made of it is removed with it
					}
					z, err := f.Zip(t.Context(), moduleM)
					if err != nil {
						mayFail(err)
						return
					}
					defer z.Close()
					data, err := io.ReadAll(io.NewSectionReader(z, 0, z.Size))
					if err != nil {
						t.Fatal(err)
					}
					name := filepath.Join(t.TempDir(), "copy.zip")
					write(t, name, string(data))
					if got, err := dirhash.HashZip(name, dirhash.Hash1); err != nil || got != sum || z.Sum != sum {
						t.Errorf("Zip: hash %s, stated %s, %v; want %s", got, z.Sum, err, sum)
					}
				}
				if zipFirst {
					zip()
				}
				dir, err := f.Dir(t.Context(), moduleM)
				want := map[bool]string{false: sum, true: evilSum}[believed]
				if err != nil {
					mayFail(err)
				} else if got := hash(dir); got != want {
					t.Errorf("Dir: hash %s, want %s", got, want)
				}
				if !zipFirst {
					zip()
				}
			})
		}
	}
}

// TestZipChangedWhileItIsVouchedFor writes to a zip after it was hashed, before its hash is known to be good.
func TestZipChangedWhileItIsVouchedFor(t *testing.T) {
	opts, good, evil := swappedWorld(t)
	data, err := os.ReadFile(part(evil, "zip"))
	if err != nil {
		t.Fatal(err)
	}
	intruder := &intruder{act: func() { write(t, part(good, "zip"), string(data)) }}
	f, err := modfetch.New(append(opts, modfetch.WithModCache(good), modfetch.WithSums(intruder))...)
	if err != nil {
		t.Fatal(err)
	}
	z, err := f.Zip(t.Context(), moduleM)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	if intruder.act != nil {
		t.Error("nothing was changed")
	}
	fsys, err := z.FS()
	if err != nil {
		t.Fatal(err)
	}
	if text, err := fs.ReadFile(fsys, moduleM.String()+"/m.go"); err != nil || string(text) != "package m\n" {
		t.Errorf("m.go is %q, %v", text, err)
	}
}

// An intruder acts once, when it is asked for the hash of a zip, on which it has nothing.
type intruder struct{ act func() }

func (*intruder) String() string { return "intruder" }

func (i *intruder) Sums(_ context.Context, m module.Version) ([]string, error) {
	if i.act != nil && !strings.HasSuffix(m.Version, "/go.mod") {
		i.act()
		i.act = nil
	}
	return nil, modfetch.ErrUnlisted
}

// TestRecordedHashIsNotTakenForTheComputedOne swaps the recorded hash of a zip that this process has hashed, and asks for it
// with a go.sum that wants the other.
func TestRecordedHashIsNotTakenForTheComputedOne(t *testing.T) {
	opts, good, evil := swappedWorld(t)
	f, err := modfetch.New(append(opts, modfetch.WithModCache(good))...)
	if err != nil {
		t.Fatal(err)
	}
	z, err := f.Zip(t.Context(), moduleM)
	if err != nil {
		t.Fatal(err)
	}
	z.Close()
	swap("ziphash")(t, good, evil)
	recorded, err := os.ReadFile(part(good, "ziphash"))
	if err != nil {
		t.Fatal(err)
	}
	other := f.WithGoSum(goSum(t, moduleM.Path+" "+moduleM.Version+" "+string(recorded)))
	var sum *modfetch.ChecksumError
	if z, err := other.Zip(t.Context(), moduleM); !errors.As(err, &sum) {
		t.Errorf("error %v, want a checksum mismatch", err)
		if err == nil {
			z.Close()
		}
	}
}

func TestVerifyNamesWhatDiffersAndRehashRepairsIt(t *testing.T) {
	t.Parallel()
	want := map[string][]string{
		"zip swapped": {"zip"}, "ziphash swapped": {"ziphash"}, "tree swapped": {"tree"}, "go.mod swapped": {"mod"},
		"zip and ziphash swapped": {"zip", "ziphash"}, "all swapped": {"mod", "zip", "ziphash", "tree"},
		"ziphash gone": nil, "zip gone": nil, "tree gone": nil, "zip cut": {"zip"}, "ziphash false": {"ziphash"}, "broken extraction": nil,
	}
	for name, parts := range want {
		t.Run(name, func(t *testing.T) {
			opts, good, evil := swappedWorld(t)
			damages[name](t, good, evil)
			f, err := modfetch.New(append(opts, modfetch.WithModCache(good), modfetch.WithPolicy(modfetch.Policy{Rehash: true}))...)
			if err != nil {
				t.Fatal(err)
			}
			found, err := f.Verify(t.Context(), moduleM)
			if err != nil {
				t.Fatal(err)
			}
			var got, names []string
			for _, d := range found {
				got = append(got, d.Name)
				if d.Want == "" || d.Got == d.Want || !strings.HasPrefix(d.Source, "sumdb-") {
					t.Errorf("%+v", d)
				}
			}
			for _, p := range parts {
				names = append(names, part(good, p))
			}
			if !slices.Equal(got, names) {
				t.Errorf("differences in %q, want %q", got, names)
			}
			download(t, f, moduleM)
			if found, err := f.Verify(t.Context(), moduleM); err != nil || found != nil {
				t.Errorf("after the repair: %v, %v", found, err)
			}
		})
	}
	t.Run("nothing there", func(t *testing.T) {
		f, modCache := newFetcher(t, newWorld(t).Options()...)
		if found, err := f.Verify(t.Context(), moduleM); err != nil || found != nil {
			t.Errorf("%v, %v", found, err)
		}
		if left := files(t, modCache); len(left) > 0 {
			t.Errorf("made: %q", left)
		}
	})
	t.Run("other version", func(t *testing.T) {
		f, _ := newFetcher(t, newWorld(t).Options()...)
		if _, err := f.Verify(t.Context(), module.Version{Path: "example.com/m", Version: "v1"}); err == nil {
			t.Error("no error for a version that is not canonical")
		}
	})
}
