// Package modfetchtest is a module mirror and a checksum database for tests that must not touch the network.
//
// [NewServer] starts both on a loopback port, over modules that a test keeps in files or builds in code:
//
//	server := modfetchtest.NewServer(t, os.DirFS("testdata/mod"))
//	server.Add(modfetchtest.NewModule("example.com/m", "v1.0.0").File("m.go", "package m\n"))
//
// Server.URL is a GOPROXY. Under it, at /sumdb/, answers a checksum database that signs with a key made for this server
// alone; [Server.GOSUMDB] is what a client needs to trust it. [Server.Env] is a whole environment for a go command under
// test. Nothing is trusted beyond that key, and nothing is worth trusting: the key signs whatever the test asks for.
//
// # Modules in files
//
// A file system given to [NewServer] or [Start] holds modules in either or both of two forms; everything else in it is
// left alone.
//
// A txtar archive, whose name ends in .txt or .txtar, is one version of a module. It is named by path and version, with
// _ for each slash, such as example.com_m_v2_v2.0.1.txt; upper case may be written as it is or, for file systems that
// ignore case, as ! and the lower case letter. Where a path has a _ of its own, or the file another name, the first line
// of the archive's comment says which module it is, as path@version or "path version", with or without the word module
// before it. A comment and a file name that name two modules are an error.
//
// A directory whose name contains @, such as example.com/m@v1.0.0, is one version of a module too; the directories above
// it are part of the path.
//
// Two names are special in both forms, and to [Module.File]: what .info and .mod contain is served as the .info and .mod
// files of the protocol, and is not in the zip. Without .mod, the module's go.mod is served. Without either there is one
// that only states the path; it is in the zip as well, unless the version is +incompatible. A go.mod that states another
// path is an error, unless there is a .mod too. Without .info there is one with the version and a fixed time, for a
// pseudo-version the time that it states.
//
// # What the mirror answers
//
// The list holds releases and pre-releases; @latest is the highest release, or else pre-release, or else pseudo-version.
// A branch, tag or commit is answered with the .info that names it: in Origin.Ref or Origin.Hash, in Name (a commit, as
// the go command's own test data have it), or in a pseudo-version; a commit may be shortened to seven digits. Files have
// an ETag, the SHA-256 of their content, and may be asked for in part.
//
// # Faults
//
// [Server.Fault] makes answers go wrong, by path. The faults of one server are its own, also where [Server.Mirror] made
// several servers of the same modules, so that a chain of mirrors can be tested. A [Fault] says what is answered, its
// methods how that arrives and how often:
//
//	far.Fault("*", modfetchtest.Fault{}.Latency(200*time.Millisecond).Bandwidth(200<<10))
//	flaky.Fault("*", modfetchtest.Status(http.StatusBadGateway).Every(3))
//	broken.Fault("*.zip", modfetchtest.Truncate(1000).Times(1))
//	dead.Close()
//
// A client that resumes, by Range and If-Range, meets with servers that
//
//	modfetchtest.Fault{}.Ignore("Range")                             // send the file whole
//	modfetchtest.Fault{}.Header("ETag", "")                          // have no validator; `W/"1"` is a weak one
//	modfetchtest.Corrupt().Every(2)                                  // have now this file, now that, each with its ETag
//	modfetchtest.Corrupt().Ignore("If-Range")                        // send a part of a file that has changed
//	modfetchtest.Fault{}.Header("Content-Range", "bytes 10-99/4096") // are wrong about the whole
//
// The checksum database goes wrong in its own ways:
//
//	server.Fault("/sumdb/*", modfetchtest.Status(http.StatusNotFound)) // not carried by this mirror
//	server.LieAbout("example.com/m", "v1.0.0", "h1:...")               // a record that is wrong
//	lagging := server.Lag()                                            // an older tree than server's
//	fork := server.Fork()                                              // another tree than server's from here on
//	...                                                                // the client sees something of server's tree
//	server.Fault("/sumdb/*", modfetchtest.Handler(fork.ServeHTTP))     // and what it sees next contradicts that
//
// # Time, TLS, HTTP/2
//
// A [Server] listens for plain HTTP/1.1. It is an [http.Handler] too: [net/http/httptest.NewUnstartedServer] puts it behind
// TLS and HTTP/2, and what calls it in a [testing/synctest] bubble meets with Latency and Bandwidth on the bubble's clock.
//
// # Recordings
//
// [Record] keeps what a real mirror says, the checksum database's proofs included, and [Replay] gives it again without a
// network, to a Fetcher that verifies it as it did then. A recording is a directory to commit, such as
// testdata/recording. The example of Record has the flag by which a test makes it anew.
//
// # Caches and locks
//
// [TestCache] and [TestLocker] hold implementations of [modfetch.Cache] and [modfetch.Locker] against their contracts.
package modfetchtest
