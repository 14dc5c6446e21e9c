//go:build unix

package main

import (
	"os"
	"runtime"
	"syscall"
)

// peakRSS returns bytes.
func peakRSS(p *os.ProcessState) float64 {
	usage, ok := p.SysUsage().(*syscall.Rusage)
	switch {
	case !ok:
		return 0
	case runtime.GOOS == "darwin" || runtime.GOOS == "ios":
		return float64(usage.Maxrss)
	}
	return float64(usage.Maxrss) * 1024
}
