// Buildtool prints the directories of verified, extracted modules, as a build tool needs them:
//
//	go run ./examples/buildtool golang.org/x/text@v0.14.0 github.com/BurntSushi/toml@v1.4.0
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"strings"

	"github.com/modfetch/modfetch"
	"golang.org/x/mod/module"
)

func main() {
	env, err := modfetch.SystemGoEnv()
	if err != nil {
		log.Fatal(err)
	}
	if err := run(context.Background(), env, os.Args[1:], os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, env modfetch.GoEnv, args []string, out io.Writer) error {
	f, err := modfetch.New(modfetch.WithGoEnv(env))
	if err != nil {
		return err
	}
	defer f.Close()
	var mods []module.Version
	for _, arg := range args {
		path, version, _ := strings.Cut(arg, "@")
		mods = append(mods, module.Version{Path: path, Version: version})
	}
	for m, err := range f.Download(ctx, mods) {
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s\t%s\tverified by %s\n", m.Version, m.Dir, m.VerifiedBy)
	}
	return nil
}
