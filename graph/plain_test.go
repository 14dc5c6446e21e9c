package graph

import (
	"reflect"
	"testing"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
)

// FuzzPlain: what plain can tell, modfile says too.
func FuzzPlain(f *testing.F) {
	for _, text := range []string{
		"",
		"module example.com/m\n\ngo 1.24.0\n\nrequire (\n\ta.test/a v1.0.0\n\tb.test/b/v2 v2.0.0-pre // indirect\n)\n\nrequire c.test/c v1.2.3+incompatible\n",
		"// Deprecated: no.\nmodule m // indeed\nrequire x.test/x v1.0.0\nrequire x.test/x v2.0.0+incompatible\nexclude x.test/x v1.0.0\n",
		"module m\nreplace (\n\ta.test/a => ../a\n\tb.test/b v1.0.0 => c.test/c v1.0.0\n)\nretract [v1.0.0, v1.1.0] // (why)\ntoolchain go1.24.1\n",
		"module m\ntool a.test/a/cmd\ngodebug default=go1.21\nignore ./node_modules\n",
		"module m\ngo 1.16\nrequire go 1.21\nrequire gopkg.in/yaml.v3 v3.0.1\nrequire gopkg.in/yaml.v2 v3.0.1\n",
		"module \"m\"\n", "module m\nmodule m\n", "go 1.17\ngo 1.18\n", "go 1.17beta\n", "require (\n", "require a.test/a latest\n", "require ( )\n",
		"module m n\n", "module a,b\n", "module m(\n", "require a.test/a( v1.0.0\n", "require a.test/a v1.0\n", "ignore\n", "require a.test/a v2.0.0\n",
		"require gopkg.in/a v1.0.0\n", "module (\n\tm\n)\n", "module m /* no */\n", "module m\nrequire a,b v1.0.0\n", "module m\\\nn\n", "( (\n)\n", "/* (\n)\n", "exclude /* x\n", "unknown (\n\tx\n)\n", "exclude x (\n)\n",
	} {
		f.Add([]byte(text))
	}
	p := &project{exclude: map[module.Version]bool{{Path: "x.test/x", Version: "v1.0.0"}: true}}
	f.Fuzz(func(t *testing.T, file []byte) {
		got, ok := p.plain(file)
		if !ok {
			return
		}
		parsed, err := modfile.ParseLax("go.mod", file, nil)
		if err != nil {
			t.Fatalf("%q is read, but modfile says: %v", file, err)
		}
		if want := p.goMod(parsed); !reflect.DeepEqual(got, want) {
			t.Errorf("%q is read as %+v, but modfile says %+v", file, got, want)
		}
	})
}
