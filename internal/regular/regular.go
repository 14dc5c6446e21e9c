// Package regular opens files that must be regular ones. Who can write to a cache can put something else under a file's
// name; a FIFO there would keep os.Open waiting for a writer, and no context ends that.
package regular

import (
	"errors"
	"io/fs"
	"os"
)

// Open is os.OpenFile for regular files: it never waits, and anything else is an error that says so.
func Open(name string, flag int) (*os.File, error) {
	f, err := os.OpenFile(name, flag|nonblock, 0o666)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: name, Err: errors.New("not a regular file")}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
