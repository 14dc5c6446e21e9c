//go:build !(unix || windows)

package modfetch

import "os/exec"

// endTogether does nothing: on these systems the end of cmd's context ends that one process.
func endTogether(cmd *exec.Cmd) {}
