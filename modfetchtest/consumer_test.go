package modfetchtest_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestConsumer runs the tests of testdata/consumer in a module of its own outside of this tree, and holds each of them to
// fewer than 15 lines.
func TestConsumer(t *testing.T) {
	goCommand, err := exec.LookPath("go")
	if err != nil {
		t.Skip("there is no go command in PATH to run the tests")
	}
	dir := t.TempDir()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	source := read("testdata/consumer/consumer_test.go")
	// It needs what modfetch needs, so all of it is in the module cache, and what go.sum says of it holds.
	_, requirements, _ := strings.Cut(read("../go.mod"), "\n")
	for name, content := range map[string]string{
		"consumer_test.go": source,
		"go.sum":           read("../go.sum"),
		"go.mod": "module consumer.test\n" + requirements +
			"\nrequire github.com/modfetch/modfetch v0.0.0\n\nreplace github.com/modfetch/modfetch => " + strconv.Quote(root) + "\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), goCommand, "test", "-count=1", "-v", ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOPROXY=off", "GOSUMDB=off", "GOWORK=off", "GOTOOLCHAIN=local")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}

	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "consumer_test.go", source, 0)
	if err != nil {
		t.Fatal(err)
	}
	tests := 0
	for _, decl := range file.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok || !strings.HasPrefix(f.Name.Name, "Test") {
			continue
		}
		tests++
		if lines := fset.Position(f.End()).Line - fset.Position(f.Pos()).Line + 1; lines >= 15 {
			t.Errorf("%s has %d lines", f.Name.Name, lines)
		}
		if !strings.Contains(string(out), "--- PASS: "+f.Name.Name+" ") {
			t.Errorf("%s did not pass", f.Name.Name)
		}
	}
	if tests != 4 {
		t.Errorf("%d tests, want 4", tests)
	}
}
