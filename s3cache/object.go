package s3cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"

	"github.com/minio/minio-go/v7"
)

// An object is one that was opened: all that is read of it has the ETag it had then.
type object struct {
	cache  *Cache
	key    string
	etag   string
	size   int64
	offset int64

	body   io.ReadCloser // what comes at offset; nil before it is asked for
	watch  *watch        // of body
	closed bool
}

var errReplaced = errors.New("it has been replaced since it was opened")

// open asks for the whole, so that most files take one request. Cancelling ctx ends that, but not the reads that follow.
func (o *object) open(ctx context.Context) error {
	w := newWatch(context.WithoutCancel(ctx))
	release := context.AfterFunc(ctx, func() { w.cancel(context.Cause(ctx)) })
	body, info, _, err := o.get(w, minio.GetObjectOptions{})
	if !release() && err == nil {
		body.Close()
		err = context.Cause(ctx)
	}
	if err == nil && info.Size < 0 {
		body.Close()
		err = errors.New("the store does not tell the size")
	}
	if err != nil {
		w.stop()
		return err
	}
	o.body, o.watch, o.size, o.etag = body, w, info.Size, info.ETag
	return nil
}

// ask asks for what comes at offset.
func (o *object) ask() error {
	var opts minio.GetObjectOptions
	if err := opts.SetMatchETag(o.etag); err != nil {
		return errors.New("the store gives no ETag to ask for the rest with")
	}
	contentRange := ""
	if o.offset > 0 {
		if err := opts.SetRange(o.offset, o.size-1); err != nil {
			return err
		}
		contentRange = fmt.Sprintf("bytes %d-%d/%d", o.offset, o.size-1, o.size)
	}
	w := newWatch(context.Background())
	body, info, header, err := o.get(w, opts)
	if err == nil && (info.ETag != o.etag || info.Size != o.size-o.offset || header.Get("Content-Range") != contentRange) {
		body.Close()
		err = errReplaced // and the store did not mind the condition
	}
	if err != nil {
		w.stop()
		return err
	}
	o.body, o.watch = body, w
	return nil
}

func (o *object) get(w *watch, opts minio.GetObjectOptions) (body io.ReadCloser, info minio.ObjectInfo, header http.Header, err error) {
	err = o.cache.request(w, func() error {
		body, info, header, err = o.cache.core.GetObject(w.ctx, o.cache.bucket, o.key, opts)
		if minio.ToErrorResponse(err).StatusCode == http.StatusPreconditionFailed {
			return errReplaced
		}
		return err
	})
	return body, info, header, err
}

func (o *object) Read(p []byte) (int, error) {
	switch {
	case o.closed:
		return 0, o.cache.pathError("read", o.key, fs.ErrClosed)
	case o.offset >= o.size:
		return 0, io.EOF
	case len(p) == 0:
		return 0, nil
	}
	if o.body == nil {
		if err := o.ask(); err != nil {
			return 0, o.cache.pathError("read", o.key, err)
		}
	}
	o.watch.timer.Reset(patience) // only reading is timed, not what the caller does between
	n, err := o.body.Read(p)
	o.watch.timer.Stop()
	o.offset += int64(n)
	if err == nil || err == io.EOF && o.offset == o.size {
		return n, err
	}
	if o.watch.ctx.Err() != nil {
		err = context.Cause(o.watch.ctx)
	}
	o.drop()
	return n, o.cache.pathError("read", o.key, err)
}

func (o *object) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += o.offset
	case io.SeekEnd:
		offset += o.size
	default:
		offset = -1
	}
	if o.closed || offset < 0 {
		return 0, o.cache.pathError("seek", o.key, fs.ErrInvalid)
	}
	if offset != o.offset {
		o.drop()
		o.offset = offset
	}
	return offset, nil
}

func (o *object) Close() error {
	if o.closed {
		return o.cache.pathError("close", o.key, fs.ErrClosed)
	}
	o.drop()
	o.closed = true
	return nil
}

func (o *object) drop() {
	if o.body != nil {
		o.watch.stop() // first: closing waits for a body that may have stalled
		o.body.Close()
		o.body = nil
	}
}
