package modfetchtest

import (
	"reflect"
	"strings"
	"testing"
)

func TestTxtar(t *testing.T) {
	tests := []struct {
		name, text string
		comment    string
		files      []file
	}{
		{"empty", "", "", nil},
		{"comment only", "no files\n", "no files\n", nil},
		{"comment without newline", "no files", "no files\n", nil},
		{"files", "c\n-- a --\n1\n2\n-- b/c.go --\n3\n", "c\n", []file{{"a", "1\n2\n"}, {"b/c.go", "3\n"}}},
		{"last file without newline", "-- a --\n1", "", []file{{"a", "1\n"}}},
		{"empty file", "-- a --\n-- b --\n", "", []file{{"a", ""}, {"b", ""}}},
		{"marker without newline", "-- a --", "", []file{{"a", ""}}},
		{"marker with carriage return", "-- a --\r\n1\r\n", "", []file{{"a", "1\r\n"}}},
		{"spaces around a name", "--   a b   --\n", "", []file{{"a b", ""}}},
		{"not markers", "-- --\n--  --\n--a--\n -- a --\n-- a -- \n-- a\n", "-- --\n--  --\n--a--\n -- a --\n-- a -- \n-- a\n", nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			comment, files := parseTxtar(test.text)
			if comment != test.comment || !reflect.DeepEqual(files, test.files) {
				t.Errorf("got comment %q, files %q", comment, files)
			}
		})
	}
}

func FuzzTxtar(f *testing.F) {
	f.Add("comment\n-- a --\n1\n-- b --\n2")
	f.Add("-- a --\r\n-- b --\n\n-- --\n")
	f.Add("--  x --")
	f.Fuzz(func(t *testing.T, text string) {
		comment, files := parseTxtar(text)
		var again strings.Builder
		again.WriteString(comment)
		for _, f := range files {
			if f.name == "" || f.name != strings.TrimSpace(f.name) {
				t.Errorf("file named %q", f.name)
			}
			again.WriteString("-- " + f.name + " --\n" + f.data)
		}
		comment2, files2 := parseTxtar(again.String())
		if comment2 != comment || !reflect.DeepEqual(files2, files) {
			t.Errorf("%q means comment %q, files %q, but written out again comment %q, files %q",
				text, comment, files, comment2, files2)
		}
	})
}

func FuzzIdentify(f *testing.F) {
	f.Add("example.com_m_v1.0.0.txt", "")
	f.Add("x.txtar", "module example.com/!m_n@v2.0.0+incompatible\n")
	f.Add("example.com_!m_n_v1.0.0-!r!c.txt", "example.com/M_n v1.0.0-RC\n")
	f.Fuzz(func(t *testing.T, name, comment string) {
		id, err := identify(name, comment)
		if err == nil && check(id) != nil {
			t.Errorf("file %q with comment %q is %v, which is no module: %v", name, comment, id, check(id))
		}
	})
}
