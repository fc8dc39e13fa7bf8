package aside

import (
	"sync"

	"github.com/maypok86/otter/v2"
)

// memory is what near keeps its entries in: otter, bounded by bytes, which drops what is least useful (W-TinyLFU), or, with
// Options.MemoryKeys, a strict LRU. nil keeps nothing. Safe for concurrent use.
type memory struct {
	otter *otter.Cache[string, *entry]
	lru   *lru
}

func newMemory(maxBytes int64, maxKeys int) *memory {
	switch {
	case maxBytes <= 0:
		return nil
	case maxKeys > 0:
		return &memory{lru: newLRU(maxKeys, maxBytes)}
	}
	return &memory{otter: otter.Must(&otter.Options[string, *entry]{
		MaximumWeight: uint64(maxBytes),
		Weigher:       func(_ string, e *entry) uint32 { return e.weight.Load() },
	})}
}

func (m *memory) get(key string) (*entry, bool) {
	if m.lru != nil {
		return m.lru.get(key)
	}
	return m.otter.GetIfPresent(key)
}

func (m *memory) set(key string, e *entry) {
	if m.lru != nil {
		m.lru.set(key, e)
		return
	}
	m.otter.Set(key, e)
}

func (m *memory) drop(key string) {
	if m.lru != nil {
		m.lru.drop(key)
		return
	}
	m.otter.Invalidate(key)
}

// reweigh takes note of e's new weight, if e is still there.
func (m *memory) reweigh(key string, e *entry) {
	if m.lru != nil {
		m.lru.reweigh(key, e)
		return
	}
	m.otter.ComputeIfPresent(key, func(old *entry) (*entry, otter.ComputeOp) {
		if old != e {
			return nil, otter.CancelOp
		}
		return e, otter.WriteOp
	})
}

func (m *memory) close() {
	if m.lru != nil {
		m.lru.clear()
		return
	}
	m.otter.InvalidateAll()
	m.otter.StopAllGoroutines()
}

func (m *memory) size() (entries int, bytes int64) {
	if m.lru != nil {
		return m.lru.size()
	}
	return m.otter.EstimatedSize(), int64(m.otter.WeightedSize())
}

// lru holds the entries that were used last: at most maxKeys, and at most maxBytes of them. Each use takes its one mutex, which is what it
// costs to know the order exactly. Safe for concurrent use.
type lru struct {
	maxKeys  int
	maxBytes int64

	mu    sync.Mutex // guards all below
	byKey map[string]*lruNode
	head  lruNode // of the ring: next is what was used last, prev what is dropped next
	bytes int64
}

type lruNode struct {
	prev, next *lruNode
	key        string
	entry      *entry
	weight     int64 // as it was counted
}

func newLRU(maxKeys int, maxBytes int64) *lru {
	l := &lru{maxKeys: maxKeys, maxBytes: maxBytes}
	l.clear()
	return l
}

func (l *lru) get(key string) (*entry, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.byKey[key]
	if n == nil {
		return nil, false
	}
	if l.head.next != n {
		n.unlink()
		l.pushLocked(n)
	}
	return n.entry, true
}

func (l *lru) set(key string, e *entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.byKey[key]
	if n == nil {
		n = &lruNode{key: key}
		l.byKey[key] = n
	} else {
		n.unlink()
	}
	n.entry = e
	l.pushLocked(n)
	l.weighLocked(n)
}

func (l *lru) drop(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.byKey[key]; n != nil {
		l.dropLocked(n)
	}
}

func (l *lru) reweigh(key string, e *entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.byKey[key]; n != nil && n.entry == e {
		l.weighLocked(n)
	}
}

// weighLocked counts n as it is now, and drops what has no room any more, or n if that never has.
func (l *lru) weighLocked(n *lruNode) {
	weight := int64(n.entry.weight.Load())
	if weight > l.maxBytes { // it must not drive out all others before it goes itself
		l.dropLocked(n)
		return
	}
	l.bytes += weight - n.weight
	n.weight = weight
	for len(l.byKey) > l.maxKeys || l.bytes > l.maxBytes {
		l.dropLocked(l.head.prev)
	}
}

func (l *lru) dropLocked(n *lruNode) {
	n.unlink()
	delete(l.byKey, n.key)
	l.bytes -= n.weight
}

func (l *lru) pushLocked(n *lruNode) {
	n.prev, n.next = &l.head, l.head.next
	n.prev.next, n.next.prev = n, n
}

func (n *lruNode) unlink() { n.prev.next, n.next.prev = n.next, n.prev }

func (l *lru) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.byKey, l.bytes = make(map[string]*lruNode), 0
	l.head.prev, l.head.next = &l.head, &l.head
}

func (l *lru) size() (entries int, bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.byKey), l.bytes
}
