package modfetch

import (
	"container/list"
	"sync"
)

// An lru keeps values by name, up to a number of bytes: then what was used longest ago goes. The zero value is empty.
type lru[V any] struct {
	mu     sync.Mutex // guards the following
	values map[string]*list.Element
	used   list.List // of *lruValue[V], used last in front
	bytes  int64
}

type lruValue[V any] struct {
	name  string
	value V
	size  int64
}

func (l *lru[V]) get(name string) (value V, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.values[name]
	if e == nil {
		return value, false
	}
	l.used.MoveToFront(e)
	return e.Value.(*lruValue[V]).value, true
}

// put replaces a value by one of size bytes. One that is larger than max by itself is not kept; a max of 0 is no limit.
func (l *lru[V]) put(name string, value V, size, max int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.values[name]; e != nil {
		l.drop(e)
	}
	if max > 0 && size > max {
		return
	}
	if l.values == nil {
		l.values = make(map[string]*list.Element)
	}
	l.values[name] = l.used.PushFront(&lruValue[V]{name, value, size})
	l.bytes += size
	for max > 0 && l.bytes > max {
		l.drop(l.used.Back())
	}
}

// drop removes an element; l.mu is held.
func (l *lru[V]) drop(e *list.Element) {
	v := l.used.Remove(e).(*lruValue[V])
	delete(l.values, v.name)
	l.bytes -= v.size
}
