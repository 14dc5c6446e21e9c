package modfetch

import (
	"context"
	"slices"
	"time"

	"golang.org/x/mod/module"
)

// A said is what one mirror says of something that no hash covers.
type said[T any] struct {
	mirror Mirror
	what   T
}

// A parser says what is in an answer; an error passes the mirror over.
type parser[T any] func(context.Context, []byte) (T, error)

// hear asks for a file that no hash covers, and returns what is said of it, at least once: by all mirrors that
// Policy.AskAll makes it ask at the same time, or by the first with a good answer in list order. That order is gone through
// also if none of the former has a good answer: so a failure, an absence and a `,` mean what they always mean.
func hear[T any](ctx context.Context, f *Fetcher, path, name string, limit int64, e *earlier, read parser[T]) ([]said[T], error) {
	w := want{module: module.Version{Path: path}, path: name, limit: limit}
	if all := hearAll(ctx, f, f.together(path), w, read); len(all) > 0 && ctx.Err() == nil {
		if e != nil {
			*e = earlier{} // what they say together is no one mirror's
		}
		return all, nil
	}
	var first said[T]
	var err error
	if e != nil {
		w.before, w.tagged = e.of, e.keep
	}
	w.judge = first.judge(read)
	first.mirror, err = f.fetch(ctx, path, w)
	if err != nil {
		return nil, err
	}
	return []said[T]{first}, nil
}

// An earlier is what a mirror has answered before, if it can be asked whether that has changed.
type earlier struct {
	mirror, etag string
	data         []byte
}

func (e *earlier) of(m Mirror) (etag string, data []byte) {
	if e.etag == "" || m.String() != e.mirror {
		return "", nil
	}
	return e.etag, e.data
}

// keep notes who has answered now.
func (e *earlier) keep(m Mirror, etag string) { e.mirror, e.etag = m.String(), etag }

// hearAll asks mirrors at the same time, each by itself and once. It returns the good answers within Policy.AskAll, else the
// first after it, in the order of mirrors. Who has not answered by then is told to stop, and has not failed.
func hearAll[T any](ctx context.Context, f *Fetcher, mirrors []Mirror, w want, read parser[T]) []said[T] {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	all := make([]said[T], len(mirrors))
	answered := make(chan bool)
	for i, m := range mirrors {
		go func() { // ends with the request and the reading of its answer, at the latest when ctx ends
			w := w
			w.judge = all[i].judge(read)
			all[i].mirror, _ = newRound(f.engine, tier{mirrors: []Mirror{m}}, w, false).run(ctx)
			answered <- all[i].mirror != nil
		}()
	}
	enough, late := false, false
	deadline := time.After(f.policy.AskAll)
	for left := len(mirrors); left > 0; {
		select {
		case good := <-answered:
			enough = enough || good
			left--
		case <-deadline:
			late = true
		}
		if enough && late {
			cancel(errOvertaken)
		}
	}
	return slices.DeleteFunc(all, func(s said[T]) bool { return s.mirror == nil })
}

// judge makes the engine keep in s what is read of an answer.
func (s *said[T]) judge(read parser[T]) func(context.Context, Mirror, []byte) error {
	return func(ctx context.Context, _ Mirror, data []byte) (err error) {
		s.what, err = read(ctx, data)
		return err
	}
}

// together returns the mirrors that are asked at the same time for what no hash covers: those of the first tier, but for one
// that is known to be dead, and for `direct` and `off`, whose turn comes after them. There are none where no record could
// tell what a mirror has invented.
func (f *Fetcher) together(path string) []Mirror {
	if f.policy.AskAll == 0 || f.exemption(path) != "" {
		return nil
	}
	mirrors := slices.DeleteFunc(slices.Clone(f.routes.to(path)[0].mirrors), func(m Mirror) bool { return m == off{} || m == f.routes.direct })
	if len(mirrors) < 2 {
		return nil
	}
	return slices.DeleteFunc(mirrors, func(m Mirror) bool { return f.engine.healths.get(m).passOver() })
}
