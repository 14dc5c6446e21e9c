//go:build unix

package regular_test

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/modfetch/modfetch/internal/regular"
	"golang.org/x/sys/unix"
)

// what makes a name what a test needs it to be.
var what = map[string]func(name string) error{
	"nothing":   func(string) error { return nil },
	"file":      func(name string) error { return os.WriteFile(name, []byte("text"), 0o666) },
	"FIFO":      func(name string) error { return unix.Mkfifo(name, 0o666) },
	"directory": func(name string) error { return os.Mkdir(name, 0o777) },
	"device":    func(name string) error { return os.Symlink("/dev/zero", name) },
	"socket": func(name string) error {
		l, err := net.Listen("unix", name)
		if err != nil {
			return err
		}
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		return l.Close()
	},
	"link to a file": func(name string) error {
		return errors.Join(os.WriteFile(name+" itself", []byte("text"), 0o666), os.Symlink(name+" itself", name))
	},
	"link to a FIFO": func(name string) error {
		return errors.Join(unix.Mkfifo(name+" itself", 0o666), os.Symlink(name+" itself", name))
	},
}

// open opens a name, and fails the test where that takes time.
func open(t *testing.T, name string, flag int) (*os.File, error) {
	t.Helper()
	type result struct {
		f   *os.File
		err error
	}
	done := make(chan result, 1)
	go func() { f, err := regular.Open(name, flag); done <- result{f, err} }()
	select {
	case r := <-done:
		return r.f, r.err
	case <-time.After(10 * time.Second):
		t.Fatalf("%s is still being opened", name)
		return nil, nil
	}
}

func TestOpen(t *testing.T) {
	dir, err := os.MkdirTemp("", "") // a socket's name must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for what, create := range what {
		for access, flag := range map[string]int{"read": os.O_RDONLY, "write": os.O_WRONLY | os.O_CREATE, "both": os.O_RDWR | os.O_CREATE} {
			t.Run(what+" to "+access, func(t *testing.T) {
				name := filepath.Join(dir, strings.ReplaceAll(what+access, " ", ""))
				if err := create(name); err != nil {
					t.Fatal(err)
				}
				f, err := open(t, name, flag)
				if err == nil {
					defer f.Close()
				}
				switch {
				case what == "nothing" && flag == os.O_RDONLY:
					if !errors.Is(err, fs.ErrNotExist) {
						t.Errorf("error %v, want fs.ErrNotExist", err)
					}
				case what == "nothing" || strings.HasSuffix(what, "file"):
					if err != nil {
						t.Error(err)
					}
				default:
					if err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), name) {
						t.Errorf("error %v, want one that names %s", err, name)
					}
					// What cannot even be opened the system has its own word for.
					if flag == os.O_RDONLY && what != "socket" && !strings.HasSuffix(err.Error(), ": not a regular file") {
						t.Errorf("error %v, want one that says what is wrong", err)
					}
				}
			})
		}
	}
}

func TestARefusedFileIsClosed(t *testing.T) {
	name := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(name, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, name, os.O_RDONLY); err == nil {
		t.Fatal("no error")
	}
	// Writing to a FIFO that nobody has open to read is refused.
	if w, err := os.OpenFile(name, os.O_WRONLY|unix.O_NONBLOCK, 0); !errors.Is(err, unix.ENXIO) {
		t.Errorf("error %v: somebody has it open", err)
		w.Close()
	}
}

func TestRead(t *testing.T) {
	dir, err := os.MkdirTemp("", "") // a socket's name must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for what, create := range what {
		t.Run(what, func(t *testing.T) {
			name := filepath.Join(dir, strings.ReplaceAll(what, " ", ""))
			if err := create(name); err != nil {
				t.Fatal(err)
			}
			for limit, ok := range map[int64]bool{3: false, 4: true, 1 << 40: true} {
				data, err := regular.Read(name, limit)
				switch {
				case what == "nothing":
					if !errors.Is(err, fs.ErrNotExist) {
						t.Errorf("error %v, want fs.ErrNotExist", err)
					}
				case strings.HasSuffix(what, "file"):
					if ok != (err == nil) || ok && string(data) != "text" {
						t.Errorf("at most %d bytes: %q, error %v", limit, data, err)
					}
				case err == nil || !strings.Contains(err.Error(), name):
					t.Errorf("%q, error %v, want one that names %s", data, err, name)
				}
				if what != "nothing" && !strings.HasSuffix(what, "file") && what != "socket" && !strings.HasSuffix(err.Error(), ": not a regular file") {
					t.Errorf("error %v, want one that says what is wrong", err)
				}
			}
		})
	}
}

// Files of the kernel's own say that they are empty, as one does that is written to meanwhile.
func TestReadMoreThanStated(t *testing.T) {
	const name = "/proc/self/status"
	if info, err := os.Stat(name); err != nil || info.Size() != 0 {
		t.Skip("there is no such file here")
	}
	if data, err := regular.Read(name, 1<<20); err != nil || !strings.Contains(string(data), "Threads:") {
		t.Errorf("%q, error %v", data, err)
	}
	if data, err := regular.Read(name, 100); err == nil {
		t.Errorf("%q, want an error", data)
	}
}
