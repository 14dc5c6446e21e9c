package modfetch

import "context"

// noDirect stands for `direct` in a mirror list.
type noDirect struct{}

func (noDirect) String() string { return "direct" }

func (noDirect) Fetch(context.Context, Request) (*Response, error) {
	return nil, failf(ErrForbidden, "fetching from a module's own repository is not supported; name a mirror that has it")
}
