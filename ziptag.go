package modfetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"io/fs"

	"github.com/modfetch/modfetch/internal/flight"
	"golang.org/x/mod/module"
)

// zipTags are the ETags of zips: the SHA-256 of each file, which is read for it once.
type zipTags struct {
	flights flight.Group[zipName, string]
	known   lru[zipTag] // of the zips in the module cache, by module.Version.String
}

type zipTag struct {
	info fs.FileInfo
	tag  string
}

// A zipName names a file by more than its path, under which there may be another one by now.
type zipName struct {
	path           string
	size, modified int64
}

func (t *zipTags) of(ctx context.Context, m module.Version, z *Zip) (string, error) {
	if last, ok := t.known.get(m.String()); ok && !z.shared && sameFile(last.info, z.info) {
		return last.tag, nil
	}
	// Whose file is read stays until the end, though its client may have left: others may wait for the hash.
	name := zipName{z.file.Name(), z.Size, z.info.ModTime().UnixNano()}
	return t.flights.Do(context.WithoutCancel(ctx), name, func(context.Context) (string, error) {
		hash := sha256.New()
		if _, err := io.Copy(hash, io.NewSectionReader(z, 0, z.Size)); err != nil {
			return "", err
		}
		tag := hex.EncodeToString(hash.Sum(nil))
		if !z.shared {
			t.known.put(m.String(), zipTag{z.info, tag}, 1, maxHashed)
		}
		return tag, nil
	})
}
