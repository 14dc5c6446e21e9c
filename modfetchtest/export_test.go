package modfetchtest

import "time"

// SetPatience makes what hangs fail sooner.
func SetPatience(d time.Duration) { patience = d }
