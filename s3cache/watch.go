package s3cache

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"sync"
	"time"
)

// A watch cancels its context when the store does not move: timer runs while a request does.
type watch struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
}

func newWatch(ctx context.Context) *watch {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(patience, func() {
		cancel(fmt.Errorf("nothing has moved for %v: %w", patience, os.ErrDeadlineExceeded))
	})
	timer.Stop()
	return &watch{ctx, cancel, timer}
}

func (w *watch) stop() {
	w.timer.Stop()
	w.cancel(nil)
}

// A part is bytes on their way to the store. An HTTP transport may go on reading it after its request has failed, and after
// the next has begun; end makes it stop.
type part struct {
	watch *watch

	mu      sync.Mutex // guards the following
	content *bytes.Reader
}

func newPart(content []byte, w *watch) *part {
	return &part{watch: w, content: bytes.NewReader(content)}
}

func (p *part) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n, err := p.content.Read(b)
	if n > 0 {
		p.watch.timer.Reset(patience)
	}
	return n, err
}

func (p *part) Seek(offset int64, whence int) (int64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.content.Seek(offset, whence)
}

// end makes further reads find nothing. It is not called Close, because minio-go would call that before it tries again.
func (p *part) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.content.Reset(nil)
}
