package bundle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/modfetch/modfetch/internal/filelock"
)

// A place is where a bundle is written. A directory beside it holds the next one until it is complete, and a lock: whoever
// has entered the place is the only one to write there.
type place struct {
	name     string // of the bundle
	temp     string // the directory beside it
	next     string // in temp: the next bundle
	previous string // in temp: the bundle that is replaced
	lock     *os.File
	old      fs.FileInfo // of the bundle that is there; nil if there is none
}

// enter waits until nobody else is in the place, and clears away what a run has left that was killed.
func enter(ctx context.Context, name string) (p *place, err error) {
	isZip := strings.HasSuffix(name, ".zip")
	if name, err = filepath.Abs(name); err != nil {
		return nil, err
	}
	// A link to a directory is as good as the directory. One to a file may lead to anything: the zip takes the link's place.
	if target, err := filepath.EvalSymlinks(name); err == nil && !isZip {
		name = target
	} else if _, e := os.Lstat(name); err != nil && e == nil {
		return nil, fmt.Errorf("%s is a link that leads nowhere; if a run was killed, name the directory it should lead to: %w", name, err)
	}
	temp := name + ".modfetch-tmp"
	p = &place{name: name, temp: temp, next: filepath.Join(temp, "next"), previous: filepath.Join(temp, "previous")}
	if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
		return nil, err
	}
	for p.lock == nil {
		if err := p.tryLock(ctx); err != nil {
			return nil, err
		}
	}
	if err := p.prepare(isZip); err != nil {
		p.leave()
		return nil, err
	}
	return p, nil
}

// tryLock takes the lock, unless who had it has taken the file away.
func (p *place) tryLock(ctx context.Context) error {
	if err := os.Mkdir(p.temp, 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	name := filepath.Join(p.temp, "lock")
	info, err := os.Lstat(p.temp)
	if file, e := os.Lstat(name); err == nil && (!info.IsDir() || e == nil && !file.Mode().IsRegular()) {
		return fmt.Errorf("%s is not what modfetch has left: remove it", p.temp)
	}
	lock, err := filelock.Open(ctx, name, nil)
	if _, gone := os.Lstat(p.temp); gone != nil && errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	locked, err := lock.Stat()
	if now, e := os.Lstat(name); err == nil && e == nil && os.SameFile(locked, now) {
		p.lock = lock
		return nil
	}
	return errors.Join(err, lock.Close())
}

func (p *place) prepare(isZip bool) error {
	if err := os.RemoveAll(p.next); err != nil {
		return err
	}
	if _, err := os.Lstat(p.name); errors.Is(err, fs.ErrNotExist) {
		// By a run that was killed in publish; anything but a directory is not from one.
		if info, err := os.Lstat(p.previous); err == nil && info.IsDir() && !isZip {
			if err := os.Rename(p.previous, p.name); err != nil {
				return err
			}
		}
	} else if err := os.RemoveAll(p.previous); err != nil {
		return fmt.Errorf("the bundle that was replaced cannot be removed; remove %s: %w", p.previous, err)
	}
	var err error
	if p.old, err = os.Stat(p.name); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	switch {
	case err != nil:
		return err
	case isZip && p.old.IsDir():
		return fmt.Errorf("%s is a directory, and the name that of a zip", p.name)
	case !isZip && !p.old.IsDir():
		return fmt.Errorf("%s is a file, and the name not that of a zip", p.name)
	case isZip:
		return nil
	}
	// What would fail in the end fails now.
	if err := os.Rename(p.name, p.previous); err != nil {
		return fmt.Errorf("%s cannot be replaced; if a disk begins there, name a directory below it: %w", p.name, err)
	}
	return os.Rename(p.previous, p.name)
}

// publish puts the next bundle in the place of the one that is there.
func (p *place) publish() error {
	moved := p.old != nil && p.old.IsDir()
	if moved {
		if err := os.Rename(p.name, p.previous); err != nil {
			return err
		}
	}
	if err := os.Rename(p.next, p.name); err != nil {
		if moved {
			err = errors.Join(err, os.Rename(p.previous, p.name))
		}
		return err
	}
	// There is a bundle now; what fails from here on is no failure to write it.
	if p.old != nil {
		os.Chmod(p.name, p.old.Mode().Perm())
	}
	os.RemoveAll(p.previous) // else the next run does it
	return nil
}

func (p *place) leave() {
	os.RemoveAll(p.next) // is gone if it was published
	err := os.Remove(p.lock.Name())
	p.lock.Close()
	if err != nil { // it was open, which matters on Windows
		os.Remove(p.lock.Name())
	}
	os.Remove(p.temp) // unless the previous bundle is in it
}
