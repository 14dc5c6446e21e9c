//go:build !unix

package regular

const nonblock = 0 // no file's name makes an open wait
