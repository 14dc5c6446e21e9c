package modfetchtest

import (
	"errors"
	"testing"
	"time"
)

// patience is how long what need not wait for anything may take before it counts as hanging.
var patience = time.Minute

var errHangs = errors.New("it has not returned")

// inTime returns what f does, or fails the test with errHangs if f takes too long. It counts from after on, or at once if that is nil.
func inTime[T any](t *testing.T, what string, after <-chan struct{}, f func() (T, error)) (T, error) {
	t.Helper()
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := f()
		done <- result{value, err}
	}()
	if after != nil {
		select {
		case r := <-done:
			return r.value, r.err
		case <-after:
		}
	}
	select {
	case r := <-done:
		return r.value, r.err
	case <-time.After(patience):
		t.Errorf("%s hangs: it has not returned within %s", what, patience)
		return *new(T), errHangs
	}
}
