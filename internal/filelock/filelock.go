// Package filelock takes the kind of lock on files that the go command takes, but without blocking, so that waiting for
// another process can be cancelled.
package filelock

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"time"

	"github.com/modfetch/modfetch/internal/regular"
)

// Open opens name, creating it if it does not exist, and waits for an exclusive lock on it.
// Closing the file releases the lock. If the lock is held by somebody else, waiting is called once.
func Open(ctx context.Context, name string, waiting func()) (*os.File, error) {
	f, err := regular.Open(name, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, err
	}
	return wait(ctx, f, true, waiting)
}

// Read returns the content of a file, read under a shared lock: at most limit bytes of it.
func Read(ctx context.Context, name string, limit int64) ([]byte, error) {
	f, err := regular.Open(name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	if f, err = wait(ctx, f, false, nil); err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// Write replaces the content of an existing or new file in place, under its lock, as the go command does with files that
// it reads under a lock.
func Write(ctx context.Context, name string, data []byte) error {
	f, err := Open(ctx, name, nil)
	if err != nil {
		return err
	}
	return errors.Join(Overwrite(f, data), f.Close())
}

// Overwrite replaces the content of a locked file. A process that dies in between leaves the old content or the new one:
// the go command takes an empty file for an absent one, but not one that ends in zero bytes.
func Overwrite(f *os.File, data []byte) error {
	if _, err := f.WriteAt(data, 0); err != nil {
		return err
	}
	return f.Truncate(int64(len(data)))
}

// wait tries for the lock with growing, jittered pauses. It closes f if it fails.
func wait(ctx context.Context, f *os.File, exclusive bool, waiting func()) (*os.File, error) {
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		locked, err := try(f, exclusive)
		if err != nil {
			f.Close()
			return nil, &fs.PathError{Op: "lock", Path: f.Name(), Err: err}
		}
		if locked {
			return f, nil
		}
		if waiting != nil {
			waiting()
			waiting = nil
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, &fs.PathError{Op: "wait for the lock of", Path: f.Name(), Err: context.Cause(ctx)}
		case <-time.After(pause/2 + rand.N(pause)):
		}
	}
}
