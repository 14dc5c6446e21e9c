package main

import (
	"fmt"
	"runtime"
	"time"
)

// A scenario is a case: subjects that do the same work under conditions that are to be compared.
type scenario struct {
	name     string
	about    string
	set      string // "" for the real one
	noGoSum  bool   // everything is looked up in the checksum database
	warm     bool   // everything is in the module cache already; measured five times as often, because it takes no time
	largest  bool   // not the project, only the module with the largest zip, named as an argument
	subjects []subject
	goals    []goal
}

// A subject is a program, and the mirrors that it is given, joined by `|`.
type subject struct {
	name    string
	args    []string // of go, modfetch, or bench, which is this program
	mirrors []conditions
	leaves  leaves
}

// leaves is what a subject must have left in the module cache.
type leaves int

const (
	nothing leaves = iota
	trees
	zips
	zipsAndTrees
)

// A goal bounds a metric of one subject, or its ratio to that of another.
type goal struct {
	metric string
	of, to string
	least  float64 // 0 for none
	most   float64 // 0 for none
}

const (
	goName       = "go mod download"
	modfetchName = "modfetch"
	floorName    = "floor"
)

func goDownload(c conditions) subject {
	return subject{name: goName, args: []string{"go", "mod", "download"}, mirrors: []conditions{c}, leaves: zipsAndTrees}
}

func modfetchDownload(c conditions) subject {
	return subject{name: modfetchName, args: []string{"modfetch", "download", "-progress=never"}, mirrors: []conditions{c}, leaves: zipsAndTrees}
}

// library drives the library with a strategy, which the command may not have.
func library(name, strategy string, mirrors ...conditions) subject {
	return subject{name: name, args: []string{"bench", "fetch", "-strategy", strategy}, mirrors: mirrors, leaves: zipsAndTrees}
}

// faster is that modfetch takes at most one nth of the time of the go command.
func faster(n float64) goal { return goal{metric: "wall", of: goName, to: modfetchName, least: n} }

// small is the bound on memory, for any case.
var small = goal{metric: "rss", of: modfetchName, most: 64 << 20}

const megabyte = 1_000_000

// cases are all that is measured: speed beside the go command, then mirrors with faults beside a good one.
func cases() []scenario {
	ms := func(n int) conditions { return conditions{latency: time.Duration(n) * time.Millisecond} }
	cold := func(name, about string, c conditions, goals ...goal) scenario {
		return scenario{name: name, about: about, subjects: []subject{goDownload(c), modfetchDownload(c)}, goals: append(goals, small)}
	}
	far, slow := ms(50), ms(50)
	far.h2, slow.rate = true, megabyte

	next := cold("cold/0ms", "cold, no latency", ms(0), faster(2), goal{metric: "wall", of: modfetchName, to: floorName, most: 1.15})
	next.subjects = append(next.subjects, subject{name: floorName, args: []string{"bench", "floor"}, leaves: trees})

	noGoSum := cold("nosum/100ms", "cold, no go.sum, 100 ms", ms(100), faster(15))
	noGoSum.noGoSum = true

	zipOnly := cold("ziponly/0ms", "zips only, no latency", ms(0), faster(3))
	zipOnly.subjects[1].args = append(zipOnly.subjects[1].args, "-no-extract")
	zipOnly.subjects[1].leaves = zips
	zipOnly.subjects = append(zipOnly.subjects, subject{name: floorName, args: []string{"bench", "floor", "-hash"}})

	warm := cold("warm", "everything in the cache", ms(0), faster(4))
	warm.warm = true

	huge := cold("huge", "one zip of nearly 500 MiB", ms(0))
	huge.set = "huge"

	list := []scenario{
		next,
		cold("cold/50ms", "cold, 50 ms", ms(50)),
		cold("cold/200ms", "cold, 200 ms", ms(200), faster(20)),
		cold("cold/50ms-1MBps", "cold, 50 ms, 1 MB/s each", slow, faster(15)),
		noGoSum,
		zipOnly,
		graphOnly("graph/0ms", "go.mod files only", ms(0)),
		graphOnly("graph/100ms", "go.mod files only, 100 ms", ms(100)),
		warm,
		huge,
	}
	if runtime.GOOS == "linux" { // where a certificate to trust can be given to any program
		list = append(list, cold("cold/50ms-h2", "cold, 50 ms, HTTP/2", far))
	}
	for _, n := range []int{20, 80, 160, 320} {
		s := cold(fmt.Sprintf("scale/%d", n), fmt.Sprintf("%d modules, no latency", n), ms(0))
		s.set = fmt.Sprintf("copies-%d", n)
		list = append(list, s)
	}
	return append(list, mirrorCases()...)
}

func graphOnly(name, about string, c conditions) scenario {
	return scenario{name: name, about: about, subjects: []subject{
		{name: "go mod graph", args: []string{"go", "mod", "graph"}, mirrors: []conditions{c}},
		{name: "graph.Load", args: []string{"bench", "fetch", "-graph"}, mirrors: []conditions{c}},
	}}
}

// mirrorCases compare several mirrors, of which some are bad, with one good one, by every strategy.
func mirrorCases() []scenario {
	good := conditions{}
	hangs := conditions{hang: true}
	slow := conditions{latency: 200 * time.Millisecond, rate: megabyte / 5}
	throttled := conditions{rate: megabyte}

	compare := func(name, about string, strategies []strategy, reference subject, metric string, most float64, mirrors ...conditions) scenario {
		s := scenario{name: "mirrors/" + name, about: about, subjects: []subject{reference}}
		for _, strategy := range strategies {
			s.subjects = append(s.subjects, library(strategy.name, strategy.name, mirrors...))
			s.goals = append(s.goals, goal{metric: metric, of: strategy.name, to: reference.name, most: most})
		}
		return s
	}
	alone := library("one good mirror", "chain", good)

	race := compare("bytes", "three good mirrors", strategies, alone, "sent", 1.10, good, good, good)
	for _, strategy := range strategies {
		race.goals = append(race.goals, goal{metric: "read", of: strategy.name, to: alone.name, most: 1.10})
	}

	oneByOne := goDownload(throttled)
	segments := compare("segments", "the largest zip, 1 MB/s each", strategies, oneByOne, "wall", 0, throttled, throttled, throttled)
	segments.largest = true
	for i, strategy := range strategies {
		segments.goals[i] = goal{metric: "wall", of: goName, to: strategy.name, least: 6}
	}
	equal := strategies[1:] // chain keeps to the order of the list, slow mirrors included
	return []scenario{
		compare("bad-first", "one hangs, one slow, one good", equal, alone, "wall", 1.15, hangs, slow, good),
		compare("bad-last", "one good, one slow, one hangs", strategies, alone, "wall", 1.15, good, slow, hangs),
		compare("dies", "one dies, one slow, one good", equal, alone, "wall", 1.15, conditions{dies: 80}, slow, good),
		compare("cut", "every zip broken off once", strategies, alone, "sent", 1.05, conditions{cutOnce: true}),
		segments,
		compare("corrupt", "one corrupts every zip, one good", strategies, alone, "wall", 1.2, conditions{corrupt: true}, good),
		race,
	}
}
