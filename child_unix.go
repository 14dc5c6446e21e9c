//go:build unix

package modfetch

import (
	"os"
	"os/exec"
	"syscall"
	"time"
)

// endTogether lets the end of cmd's context end not only the process, but all that it has started. They get a session of
// their own: one signal reaches them all, and without a terminal none can ask a person, or be stopped for trying.
func endTogether(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error {
		group := -cmd.Process.Pid
		// Asked first, git removes its lock files, over which it would stumble the next time.
		err := syscall.Kill(group, syscall.SIGTERM)
		for i := 0; err == nil && i < 20; i++ {
			time.Sleep(10 * time.Millisecond)
			err = syscall.Kill(group, 0)
		}
		if err != nil {
			return os.ErrProcessDone // and so are its children
		}
		return syscall.Kill(group, syscall.SIGKILL)
	}
}
