// Peak downloads modules, as a program of its own, and prints what was wrong with them, who served them at last, and the most
// memory that it has had. The memory of a test binary would be that of the tests, and of the race detector, too.
//
//	peak [-zips] GOPROXY GOSUMDB GOMODCACHE path@version...
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"strings"

	"github.com/modfetch/modfetch"
	"golang.org/x/mod/module"
)

func main() {
	zips := flag.Bool("zips", false, "extract nothing")
	flag.Parse()
	env := modfetch.GoEnv{GOPROXY: flag.Arg(0), GOSUMDB: flag.Arg(1), GOMODCACHE: flag.Arg(2), GOFLAGS: "-modcacherw"}
	trace := &modfetch.Trace{AttemptDone: func(_ context.Context, i modfetch.AttemptInfo) {
		if i.Err != nil {
			fmt.Println(i.Err)
		}
	}}
	f, err := modfetch.New(modfetch.WithGoEnv(env), modfetch.WithTrace(trace), modfetch.WithJobs(64), modfetch.WithPolicy(modfetch.Policy{NoExtract: *zips}))
	if err != nil {
		log.Fatal(err)
	}
	var mods []module.Version
	for _, arg := range flag.Args()[3:] {
		path, version, _ := strings.Cut(arg, "@")
		mods = append(mods, module.Version{Path: path, Version: version})
	}
	for m, err := range f.Download(context.Background(), mods) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(m.Version, m.Mirror)
	}
	status, err := os.ReadFile("/proc/self/status") // of Linux
	if err != nil {
		log.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "VmHWM:") {
			fmt.Print(line)
		}
	}
}
