package modfetch

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/modfetch/modfetch/internal/regular"
	"golang.org/x/mod/module"
)

// An unfinished is what has arrived of a file whose hash is known. A transfer that is interrupted goes on from there: with
// another mirror, or, set aside in a module cache, in another process. Nobody is believed for it; the whole is judged.
type unfinished struct {
	size   int64 // of the whole file; 0 if nothing has arrived
	pieces []piece
}

// missing returns what has not arrived, in order.
func (u *unfinished) missing() []span {
	var gaps []span
	at := int64(0)
	for _, p := range slices.SortedFunc(slices.Values(u.pieces), func(a, b piece) int { return cmp.Compare(a.from, b.from) }) {
		if p.from > at {
			gaps = append(gaps, span{at, p.from})
		}
		at = max(at, p.to)
	}
	if at < u.size {
		gaps = append(gaps, span{at, u.size})
	}
	return gaps
}

// rest returns the range to go on with; 0, 0 is the whole file.
func (u *unfinished) rest() (offset, length int64) {
	if u.size == 0 {
		return 0, 0
	}
	first := u.missing()[0]
	if first.to < u.size {
		length = first.to - first.from
	}
	return first.from, length
}

// arrived counts the bytes that are there. Of a file that is no zip nothing ever is.
func (u *unfinished) arrived() int64 {
	if u == nil {
		return 0
	}
	n := u.size
	for _, gap := range u.missing() {
		n -= gap.to - gap.from
	}
	return n
}

func (u *unfinished) drop() { *u = unfinished{} }

const (
	unfinishedAge = 24 * time.Hour // after which nobody is expected to go on
	minUnfinished = 256 << 10      // bytes; fewer are soon fetched again
	maxUnfinished = 2 << 30        // bytes of all that are set aside
	maxGapList    = 64 << 10       // bytes
	copyStep      = 8 << 20        // bytes, after which a caller that has left is noticed
)

// unfinishedFile is where m's zip is set aside, out of the go command's sight. The name begins with m's, so that the hash need
// not be asked for where there is nothing of m, and ends with that of the hash that the zip has to have.
func (c *modCache) unfinishedFile(m module.Version, sum string) string {
	return filepath.Join(c.dir, "cache", "modfetch", fmt.Sprintf("%x-%x.zip", sha256.Sum256([]byte(m.String())), sha256.Sum256([]byte(sum))))
}

// setAside closes a file of which not all has arrived and keeps it for a later process. Behind the file's own bytes stand a
// list of those that are missing, and its size.
func (c *modCache) setAside(m module.Version, file *os.File, sum string, u *unfinished) error {
	defer file.Close() // if it has not come to that
	var gaps [][2]int64
	for _, gap := range u.missing() {
		gaps = append(gaps, [2]int64{gap.from, gap.to})
	}
	list, err := json.Marshal(gaps)
	if err != nil {
		return err
	}
	if err := file.Truncate(u.size); err != nil {
		return err
	}
	if _, err := file.WriteAt(binary.BigEndian.AppendUint64(list, uint64(u.size)), u.size); err != nil {
		return err
	}
	name := c.unfinishedFile(m, sum)
	total := u.size
	for _, e := range c.unfinished() {
		if info, err := e.Info(); err == nil {
			total += info.Size()
		}
	}
	if total > maxUnfinished {
		return fmt.Errorf("%s is full", filepath.Dir(name))
	}
	if err := errors.Join(file.Close(), os.MkdirAll(filepath.Dir(name), 0o777)); err != nil {
		return err
	}
	return os.Rename(file.Name(), name)
}

// unfinished lists what is set aside.
func (c *modCache) unfinished() []fs.DirEntry {
	entries, _ := os.ReadDir(filepath.Join(c.dir, "cache", "modfetch"))
	return slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return !unfinishedName.MatchString(e.Name()) || !e.Type().IsRegular() })
}

var unfinishedName = regexp.MustCompile(`^[0-9a-f]{64}-[0-9a-f]{64}\.zip$`)

// sweep removes what is too old.
func (c *modCache) sweep(ctx context.Context) {
	for _, e := range c.unfinished() {
		if info, err := e.Info(); err == nil && ctx.Err() == nil && time.Since(info.ModTime()) > unfinishedAge {
			os.Remove(filepath.Join(c.dir, "cache", "modfetch", e.Name()))
		}
	}
}

// takeUp copies what was set aside of m's zip into a staging file; who may write to the original has no hold on a copy.
func (c *modCache) takeUp(ctx context.Context, m module.Version, into *os.File, sum func() string) unfinished {
	c.swept.Do(func() { c.sweep(ctx) })
	of, _, _ := strings.Cut(filepath.Base(c.unfinishedFile(m, "")), "-")
	found := slices.ContainsFunc(c.unfinished(), func(e fs.DirEntry) bool { return strings.HasPrefix(e.Name(), of) })
	if !found || sum() == "" {
		return unfinished{}
	}
	file, err := regular.Open(c.unfinishedFile(m, sum()), os.O_RDONLY)
	if err != nil {
		return unfinished{}
	}
	defer file.Close()
	var u unfinished
	info, err := file.Stat()
	if err == nil {
		u, err = parseUnfinished(file, info.Size())
	}
	if err == nil {
		err = into.Truncate(0)
	}
	for _, p := range u.pieces {
		for at := p.from; at < p.to && err == nil && ctx.Err() == nil; at += copyStep {
			n := min(copyStep, p.to-at)
			_, err = io.Copy(io.NewOffsetWriter(into, at), io.NewSectionReader(file, at, n))
		}
	}
	if ctx.Err() != nil {
		return unfinished{}
	}
	if err != nil {
		os.Remove(file.Name())
		return unfinished{}
	}
	return u
}

// parseUnfinished reads what setAside has written behind a file's own bytes.
func parseUnfinished(r io.ReaderAt, length int64) (unfinished, error) {
	malformed := errors.New("not what an interrupted transfer leaves")
	var size [8]byte
	if length < int64(len(size)) {
		return unfinished{}, malformed
	}
	length -= int64(len(size))
	if _, err := r.ReadAt(size[:], length); err != nil {
		return unfinished{}, err
	}
	u := unfinished{size: int64(binary.BigEndian.Uint64(size[:]))}
	if u.size <= 0 || u.size > maxZip || length < u.size || length-u.size > maxGapList {
		return unfinished{}, malformed
	}
	list := make([]byte, length-u.size)
	if _, err := r.ReadAt(list, u.size); err != nil {
		return unfinished{}, err
	}
	var gaps [][2]int64
	if err := json.Unmarshal(list, &gaps); err != nil {
		return unfinished{}, err
	}
	at := int64(0)
	for _, gap := range append(gaps, [2]int64{u.size, u.size + 1}) {
		if gap[0] < at || gap[0] >= gap[1] {
			return unfinished{}, malformed
		}
		if gap[0] > at {
			u.pieces = append(u.pieces, piece{span: span{at, gap[0]}})
		}
		at = gap[1]
	}
	return u, nil
}
