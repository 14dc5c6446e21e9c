package modfetchtest_test

import (
	"testing"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/modfetchtest"
)

func TestDirCacheIsALocker(t *testing.T) {
	modfetchtest.TestLocker(t, func(t *testing.T) modfetch.Locker { return modfetch.DirCache(t.TempDir()) })
}
