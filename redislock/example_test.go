package redislock_test

import (
	"log"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/redislock"
)

func Example() {
	locker, err := redislock.Open("redis://cache.example:6379")
	if err != nil {
		log.Fatal(err)
	}
	defer locker.Close()
	locker.Warn = func(err error) { log.Print(err) }

	f, err := modfetch.New(
		modfetch.WithGOPROXY("https://proxy.example"),
		modfetch.WithCache(modfetch.DirCache("/mnt/shared")),
		modfetch.WithLocker(locker),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
}
