package modfetch_test

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/modfetch/modfetch"
	"golang.org/x/sys/unix"
)

// TestOfflineOpensNoSocket runs a Fetcher in a process that the kernel kills when it opens a socket.
func TestOfflineOpensNoSocket(t *testing.T) {
	if os.Getenv("MODFETCH_NO_SOCKETS") != "" {
		withoutSockets(t)
		return
	}
	s := newWorld(t)
	tree := newTree(t, s, moduleM, moduleUpper)
	run := func(mode string) (string, error) {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestOfflineOpensNoSocket$", "-test.v")
		cmd.Env = append(os.Environ(), "MODFETCH_NO_SOCKETS="+mode, "TREE="+fileURL(tree), "DATABASE="+s.GOSUMDB())
		out, err := cmd.CombinedOutput()
		if strings.Contains(string(out), "--- SKIP") {
			t.Skipf("%s", out)
		}
		return string(out), err
	}
	var exit *exec.ExitError
	for _, mode := range []string{"net", "online"} { // the kernel does kill, and a Fetcher that is not offline is what it would kill
		out, err := run(mode)
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGSYS {
			t.Errorf("%s: error %v, want that it was killed:\n%s", mode, err, out)
		}
	}
	if out, err := run("offline"); err != nil || !strings.Contains(out, "--- PASS") {
		t.Errorf("%v\n%s", err, out)
	}
}

func withoutSockets(t *testing.T) {
	forbidSockets(t)
	mode := os.Getenv("MODFETCH_NO_SOCKETS")
	if mode == "net" {
		net.Listen("tcp", "127.0.0.1:0")
	}
	f, _ := newFetcher(t, modfetch.WithGOPROXY(os.Getenv("TREE")+",https://mirror.test|http://127.0.0.1:1,direct"),
		modfetch.WithSumDB(os.Getenv("DATABASE")), modfetch.WithPrivate("corp.test"),
		modfetch.WithPolicy(modfetch.Policy{Offline: mode == "offline"}))
	for path, m := range download(t, f, moduleM, moduleUpper) {
		if m.VerifiedBy == "" {
			t.Errorf("%s: %+v", path, m)
		}
	}
	for _, m := range []string{"example.com/none", "corp.test/private"} {
		for _, query := range []string{"v1.0.0", "latest", "main", "v1"} {
			var offline *modfetch.OfflineError
			if _, err := f.Info(t.Context(), m, query); !errors.As(err, &offline) {
				t.Errorf("%s@%s: %v", m, query, err)
			}
		}
	}
	f.CompareHeads(t.Context())
}

// forbidSockets makes the kernel kill this process when it opens a socket.
func forbidSockets(t *testing.T) {
	const load, equal, answer = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		t.Skip("no system call of its own for a socket is known here")
	}
	filter := []unix.SockFilter{
		{Code: load, K: 0}, // number of the system call
		{Code: equal, Jt: 1, K: unix.SYS_SOCKET},
		{Code: answer, K: unix.SECCOMP_RET_ALLOW},
		{Code: answer, K: unix.SECCOMP_RET_KILL_PROCESS},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Skip(err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC,
		uintptr(unsafe.Pointer(&program))); errno != 0 {
		t.Skip(errno)
	}
}
