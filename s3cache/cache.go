// Package s3cache keeps modfetch's verified files in a bucket of an S3-compatible store, where a fleet can share them.
//
//	cache, err := s3cache.Open("s3://bucket/prefix?region=eu-west-1")
//	...
//	f, err := modfetch.New(modfetch.WithGoEnv(env), modfetch.WithCache(cache))
//
// The store is not trusted: a Fetcher compares what it opens with go.sum or the checksum database again, and replaces what
// does not match. Whoever can write to the bucket can make fetches slower, not wrong.
//
// The credentials need the rights to GetObject, PutObject, ListBucket, without which AWS answers 403 and not 404 for what is
// absent, and AbortMultipartUpload.
//
// An upload that was neither completed nor aborted, because its process was killed, is invisible but takes space; a
// lifecycle rule of the bucket (AbortIncompleteMultipartUpload) removes it.
package s3cache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"
	"unicode"

	"github.com/minio/minio-go/v7"
)

const (
	// Larger content is put in parts of this size, one after the other through one buffer, which is all the memory a Put
	// takes. S3 wants 5 MiB at least and 10,000 parts at most.
	partSize = 8 << 20

	// A request that has not moved for so long fails.
	patience = 15 * time.Second

	// An upload that failed is aborted, but a caller who cancelled does not wait longer for that.
	abortPatience = time.Second
)

// A Cache is a modfetch.Cache in a bucket. Each file is an object, with the file's name behind the prefix for a key. Make one
// with Open or New; it is safe for concurrent use.
//
// A file that was opened is read as it was then: once its object has been replaced, what was not yet asked for cannot be
// read any more. After an error, Put leaves the old object, unless only the store's answer was lost.
type Cache struct {
	core   minio.Core
	bucket string
	prefix string // "" or with a slash at its end
}

// New returns a Cache in the bucket, which must exist, below the prefix, which may be empty. The client brings credentials,
// TLS and retries; a store that stalls is given up whatever its time limits are.
func New(client *minio.Client, bucket, prefix string) *Cache {
	if prefix = strings.Trim(prefix, "/"); prefix != "" {
		prefix += "/"
	}
	return &Cache{minio.Core{Client: client}, bucket, prefix}
}

// Open returns the content put last under name. Its reader streams, and asks anew, for what is behind the new place, after
// a Seek.
func (c *Cache) Open(ctx context.Context, name string) (io.ReadSeekCloser, error) {
	key, err := c.key("open", name)
	if err != nil {
		return nil, err
	}
	o := &object{cache: c, key: key}
	if err := o.open(ctx); err != nil {
		return nil, c.pathError("open", key, err)
	}
	return o, nil
}

// Put stores content: in one request, or in parts that become an object together.
func (c *Cache) Put(ctx context.Context, name string, content io.ReadSeeker) error {
	key, err := c.key("put", name)
	if err != nil {
		return err
	}
	w := newWatch(ctx)
	defer w.stop()
	if err := c.put(w, key, content); err != nil {
		return c.pathError("put", key, err)
	}
	return nil
}

func (c *Cache) put(w *watch, key string, content io.ReadSeeker) error {
	size, err := content.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if _, err := content.Seek(0, io.SeekStart); err != nil {
		return err
	}
	buf := make([]byte, min(size, partSize))
	if size <= partSize {
		return c.sendNext(w, content, buf, func(p *part, sum string) error {
			_, err := c.core.PutObject(w.ctx, c.bucket, key, p, size, "", sum, minio.PutObjectOptions{DisableContentSha256: true})
			return err
		})
	}
	var id string
	if err := c.request(w, func() (err error) {
		id, err = c.core.NewMultipartUpload(w.ctx, c.bucket, key, minio.PutObjectOptions{})
		return err
	}); err != nil {
		return err
	}
	if err := c.putParts(w, key, id, content, size, buf); err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(w.ctx), abortPatience)
		defer cancel()
		c.core.AbortMultipartUpload(ctx, c.bucket, key, id) // or else the bucket's lifecycle rule does
		return err
	}
	return nil
}

func (c *Cache) putParts(w *watch, key, id string, content io.Reader, size int64, buf []byte) error {
	var parts []minio.CompletePart
	for size > 0 {
		buf = buf[:min(size, partSize)]
		n := len(parts) + 1
		if err := c.sendNext(w, content, buf, func(p *part, sum string) error {
			sent, err := c.core.PutObjectPart(w.ctx, c.bucket, key, id, n, p, int64(len(buf)),
				minio.PutObjectPartOptions{Sha256Hex: sum, DisableContentSha256: true})
			parts = append(parts, minio.CompletePart{PartNumber: n, ETag: sent.ETag})
			return err
		}); err != nil {
			return err
		}
		size -= int64(len(buf))
	}
	return c.request(w, func() error {
		_, err := c.core.CompleteMultipartUpload(w.ctx, c.bucket, key, id, parts, minio.PutObjectOptions{})
		return err
	})
}

// sendNext fills buf from content, and sends it with its SHA-256 for the store to check. DisableContentSha256 disables
// something else: the signature in chunks that minio-go uses over plain HTTP, which not all stores understand, and with
// which it sends empty content so that connections cannot be used again.
func (c *Cache) sendNext(w *watch, content io.Reader, buf []byte, send func(p *part, sum string) error) error {
	if _, err := io.ReadFull(content, buf); err == io.EOF {
		return io.ErrUnexpectedEOF // it had said to be longer
	} else if err != nil {
		return err
	}
	sum := sha256.Sum256(buf)
	p := newPart(buf, w)
	defer p.end()
	return c.request(w, func() error { return send(p, hex.EncodeToString(sum[:])) })
}

// key returns the object's key for a name.
func (c *Cache) key(op, name string) (string, error) {
	if !fs.ValidPath(name) || name == "." || strings.ContainsFunc(name, unicode.IsControl) {
		return "", &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	return c.prefix + name, nil
}

func (c *Cache) pathError(op, key string, err error) error {
	return &fs.PathError{Op: op, Path: "s3://" + c.bucket + "/" + key, Err: err}
}

// request does what speaks with the store. Its error says what went wrong without what may be a secret; for that, minio's
// own is not in its chain.
func (c *Cache) request(w *watch, do func() error) error {
	w.timer.Reset(patience)
	defer w.timer.Stop()
	err := do()
	if err == nil {
		return nil
	}
	if w.ctx.Err() != nil {
		return context.Cause(w.ctx)
	}
	if said, ok := errors.AsType[minio.ErrorResponse](err); ok {
		switch {
		case said.XMLName.Local == "":
			// minio-go makes a NoSuchKey of every 404, also of a proxy's or another server's.
			err = fmt.Errorf("%d %s, from what does not answer as S3 does", said.StatusCode, http.StatusText(said.StatusCode))
		case said.StatusCode == http.StatusNotFound && said.Code == minio.NoSuchKey:
			return fs.ErrNotExist
		default:
			err = fmt.Errorf("%d %s: %s", said.StatusCode, said.Code, said.Message)
		}
	}
	if failed, ok := errors.AsType[*url.Error](err); ok {
		err = failed.Err
	}
	return errors.New(c.redact(err.Error()))
}

// redact makes text fit for a message: printable, short, and without what was sent along, since stores repeat it.
func (c *Cache) redact(text string) string {
	creds, _ := c.core.GetCreds()
	for _, secret := range []string{creds.SecretAccessKey, creds.SessionToken, creds.AccessKeyID} {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "***")
		}
	}
	text = signed.ReplaceAllString(text, "***")
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, text)
	if len(text) > 300 {
		text = strings.ToValidUTF8(text[:300], "") + "..."
	}
	return text
}

// signed matches a URL's query and a signature.
var signed = regexp.MustCompile(`\?\S*|\b[0-9a-fA-F]{64}\b`)
