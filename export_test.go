package modfetch

import "time"

// TreatAsPublic makes the Fetcher take its checksum database for the public one, whose key no test has.
func TreatAsPublic(f *Fetcher) { f.db.public = true }

// Hurry makes retries all but immediate, for all Fetchers of the test binary.
func Hurry() { retryPause = time.Millisecond }
