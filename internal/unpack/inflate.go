package unpack

import (
	"errors"
	"io"
	"sync"

	"github.com/klauspost/compress/flate"
)

// inflaters pools decompressors: each holds some 40 KiB that a module of small files would allocate thousands of times.
var inflaters sync.Pool

func newInflater(r io.Reader) io.ReadCloser {
	d, _ := inflaters.Get().(io.ReadCloser)
	if d == nil {
		d = flate.NewReader(r)
	} else {
		d.(flate.Resetter).Reset(r, nil)
	}
	return &inflater{d}
}

type inflater struct{ io.ReadCloser }

func (i *inflater) Read(p []byte) (int, error) {
	if i.ReadCloser == nil {
		return 0, errors.New("read after close")
	}
	return i.ReadCloser.Read(p)
}

func (i *inflater) Close() error {
	if i.ReadCloser == nil {
		return nil
	}
	err := i.ReadCloser.Close()
	inflaters.Put(i.ReadCloser)
	i.ReadCloser = nil
	return err
}
