package main

import (
	"context"
	"io"
	"log/slog"
	"strings"

	"github.com/modfetch/modfetch"
	"github.com/modfetch/modfetch/redislock"
	"github.com/modfetch/modfetch/s3cache"
)

// stores are what servers share: a cache, and who fills it. Both are nil for a server on its own.
type stores struct {
	cache modfetch.Cache
	lock  *redislock.Locker
}

// openStores opens the stores at URLs, of which either may be "". It asks nobody: a store that is down later may be up by then.
func openStores(cacheURL, lockURL string, log *slog.Logger) (s stores, err error) {
	if cacheURL != "" {
		if s.cache, err = s3cache.Open(cacheURL); err != nil {
			return stores{}, usagef("-cache: %s", strings.TrimPrefix(err.Error(), "s3cache: "))
		}
	}
	if lockURL != "" {
		if s.lock, err = redislock.Open(lockURL); err != nil {
			return stores{}, usagef("-lock: %s", strings.TrimPrefix(err.Error(), "redislock: "))
		}
		s.lock.Warn = func(err error) {
			log.Warn("servers cannot wait for each other, and may fetch the same files", "err", err)
		}
	}
	return s, nil
}

func (s stores) options() (options []modfetch.Option) {
	if s.cache != nil {
		options = append(options, modfetch.WithCache(s.cache))
	}
	if s.lock != nil {
		options = append(options, modfetch.WithLocker(s.lock))
	}
	return options
}

func (s stores) Close() error {
	if s.lock != nil {
		return s.lock.Close()
	}
	return nil
}

// A countedCache tells how many bytes are read from it.
type countedCache struct {
	modfetch.Cache
	read func(int)
}

func (c countedCache) Open(ctx context.Context, name string) (io.ReadSeekCloser, error) {
	r, err := c.Cache.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	return countedReader{r, c.read}, nil
}

type countedReader struct {
	io.ReadSeekCloser
	read func(int)
}

func (r countedReader) Read(p []byte) (int, error) {
	n, err := r.ReadSeekCloser.Read(p)
	r.read(n)
	return n, err
}
