package unpack

import (
	"archive/zip"

	"golang.org/x/mod/module"
)

// Bounds on a zip's central directory.
const (
	MaxDirectory = maxDirectory
	MaxEntries   = maxEntries
)

// CheckDirectory is what Open runs before archive/zip.
var CheckDirectory = checkDirectory

// Unchecked makes an Archive of a zip that need not keep any rule, and whose tree has the given directories.
func Unchecked(z *zip.Reader, m module.Version, dirs ...string) *Archive {
	z.RegisterDecompressor(zip.Deflate, inflate)
	return &Archive{prefix: m.String() + "/", zip: z, dirs: dirs}
}
