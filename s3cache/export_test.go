package s3cache

import (
	"context"
	"net/url"
	"time"
)

const (
	PartSize = partSize
	Patience = patience
)

// Signed returns a signed URL of what is stored under a name, which tells endpoint, style, region and key without a request.
func (c *Cache) Signed(ctx context.Context, name string) (*url.URL, error) {
	return c.core.PresignedGetObject(ctx, c.bucket, c.prefix+name, time.Minute, nil)
}

// Uploads returns the keys of uploads that were neither completed nor aborted.
func (c *Cache) Uploads(ctx context.Context) (keys []string, err error) {
	found, err := c.core.ListMultipartUploads(ctx, c.bucket, c.prefix, "", "", "", 1000)
	for _, u := range found.Uploads {
		keys = append(keys, u.Key)
	}
	return keys, err
}
