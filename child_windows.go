package modfetch

import (
	"context"
	"os/exec"
	"strconv"
	"time"
)

// endTogether lets the end of cmd's context end not only the process, but all that it has started.
func endTogether(cmd *exec.Cmd) {
	cmd.Cancel = func() error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second/3)
		defer cancel()
		if exec.CommandContext(ctx, "taskkill", "/F", "/T", "/PID", strconv.Itoa(cmd.Process.Pid)).Run() == nil {
			return nil
		}
		return cmd.Process.Kill() // it alone, then
	}
}
