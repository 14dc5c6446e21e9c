package modfetch

import (
	"context"
	"time"

	"golang.org/x/mod/module"
)

// A Trace is a set of optional hooks that tell what a [Fetcher] does; nil hooks are skipped.
//
// Hooks are called from many goroutines at once and must return quickly. The context is that of the work, which may be
// done for several callers: it carries the values of the first of them.
type Trace struct {
	AttemptStarted func(context.Context, AttemptInfo) // a mirror is asked for a file
	AttemptDone    func(context.Context, AttemptInfo) // and has answered, or failed; once more, with no bytes, for a range that is found wrong later
	Progress       func(context.Context, AttemptInfo) // bytes so far: at most ten times a second for each file
	Crossed        func(context.Context, AttemptInfo) // a `,` is crossed because a file was condemned, not absent
	Cache          func(context.Context, CacheInfo)   // a file was looked for in the cache, or could not be stored
	Vouched        func(context.Context, VouchInfo)   // somebody vouched for a file, or a setting exempts it
	LockWaiting    func(context.Context, string)      // another process holds the named lock
	Head           func(context.Context, HeadInfo)    // a mirror has shown a tree head of the checksum database
	Lagging        func(context.Context, LagInfo)     // a mirror shows less than others do; see Policy.AskAll

	// Unvouched is called for a version that a mirror, not all of them, names in the file at Path, and that is passed over: Err
	// says why.
	Unvouched func(context.Context, AttemptInfo)

	// Joined is called with a caller's own context when the file it wants is already being fetched for somebody else: the
	// hooks for that work get the other's context.
	Joined func(context.Context, module.Version)
}

// AttemptInfo describes one mirror's attempt at one file.
type AttemptInfo struct {
	Module   module.Version // zero for files of the checksum database
	Path     string         // escaped GOPROXY path
	Mirror   string         // redacted
	Offset   int64          // of the first byte that was asked for
	Bytes    int64          // received so far
	Size     int64          // -1 if unknown
	Duration time.Duration  // since the attempt started
	Kind     Kind           // "" on success or while under way
	Err      error

	Overtaken bool // another mirror answered first, and this one was told to stop: that is no failure
}

// CacheInfo describes one look into, or write to, the cache.
type CacheInfo struct {
	Name string // GOPROXY path of the file; that of the .ziphash for a tree, or a zip hashed before
	Hit  bool
	Err  error // why what was there was not used, or could not be stored
}

// VouchInfo says why a file was accepted.
type VouchInfo struct {
	Module     module.Version // Version ends in "/go.mod" for a go.mod file
	Sum        string         // h1:
	By         string         // "go.sum", or the database's name; "" if Unverified
	Unverified string         // the setting that exempts the file
}

// HeadInfo describes a signed tree head of the checksum database that a mirror has shown.
type HeadInfo struct {
	Database string // its name
	Mirror   string // redacted
	Size     int64  // records in the tree
	Behind   int64  // records by which it lags behind the largest tree seen in this process, through whatever mirror
	Err      error  // from CompareHeads: why there is no head, and Size is 0, or why it cannot be compared; nil in Trace.Head
}

// LagInfo describes a mirror that shows less than the others that [Policy.AskAll] made a Fetcher ask.
type LagInfo struct {
	Module string // its path
	Path   string // escaped GOPROXY path of what was asked for
	Mirror string // redacted
	Newest string // version that this mirror shows; "" for none

	// Lacks is a version that others show and this mirror does not, and whose go.mod file is vouched for: the answer to the
	// query. It is "" if the mirror shows the answer, and for Versions, which verifies none.
	Lacks string

	// Missing counts the versions in the lists of others that are not in this mirror's. Nobody vouches for them: a mirror that
	// makes versions up makes all others look as if they lagged.
	Missing int
}

func (t *Trace) attemptStarted(ctx context.Context, i AttemptInfo) {
	if t != nil && t.AttemptStarted != nil {
		t.AttemptStarted(ctx, i)
	}
}

func (t *Trace) attemptDone(ctx context.Context, i AttemptInfo) {
	if t != nil && t.AttemptDone != nil {
		t.AttemptDone(ctx, i)
	}
}

func (t *Trace) progress(ctx context.Context, i AttemptInfo) {
	if t != nil && t.Progress != nil {
		t.Progress(ctx, i)
	}
}

func (t *Trace) crossed(ctx context.Context, i AttemptInfo) {
	if t != nil && t.Crossed != nil {
		t.Crossed(ctx, i)
	}
}

func (t *Trace) cache(ctx context.Context, i CacheInfo) {
	if t != nil && t.Cache != nil {
		t.Cache(ctx, i)
	}
}

func (t *Trace) vouched(ctx context.Context, i VouchInfo) {
	if t != nil && t.Vouched != nil {
		t.Vouched(ctx, i)
	}
}

func (t *Trace) joined(ctx context.Context, m module.Version) {
	if t != nil && t.Joined != nil {
		t.Joined(ctx, m)
	}
}

func (t *Trace) lockWaiting(ctx context.Context, name string) {
	if t != nil && t.LockWaiting != nil {
		t.LockWaiting(ctx, name)
	}
}

func (t *Trace) head(ctx context.Context, i HeadInfo) {
	if t != nil && t.Head != nil {
		t.Head(ctx, i)
	}
}

func (t *Trace) lagging(ctx context.Context, i LagInfo) {
	if t != nil && t.Lagging != nil {
		t.Lagging(ctx, i)
	}
}

func (t *Trace) unvouched(ctx context.Context, i AttemptInfo) {
	if t != nil && t.Unvouched != nil {
		t.Unvouched(ctx, i)
	}
}
