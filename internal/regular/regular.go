// Package regular opens files that must be regular ones. Who can write to a cache can put something else under a file's
// name; a FIFO there would keep os.Open waiting for a writer, and no context ends that.
package regular

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// Open is os.OpenFile for regular files: it never waits, and anything else is an error that says so.
func Open(name string, flag int) (*os.File, error) {
	f, _, err := open(name, flag)
	return f, err
}

func open(name string, flag int) (*os.File, fs.FileInfo, error) {
	f, err := os.OpenFile(name, flag|nonblock, 0o666)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: name, Err: errors.New("not a regular file")}
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// Read returns the content of a small regular file. One that has more than limit bytes is an error.
func Read(name string, limit int64) ([]byte, error) {
	f, info, err := open(name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var data bytes.Buffer
	data.Grow(int(min(info.Size(), limit)) + bytes.MinRead)
	n, err := data.ReadFrom(io.LimitReader(f, limit+1))
	if err == nil && n > limit {
		err = &fs.PathError{Op: "read", Path: name, Err: fmt.Errorf("more than the %d bytes that are accepted", limit)}
	}
	return data.Bytes(), err
}
