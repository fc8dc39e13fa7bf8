package aside

import (
	"hash/maphash"
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

// reweigh gives e another weight, and counts that if e is still there.
func (m *memory) reweigh(key string, e *entry, weight uint32) {
	if m.lru != nil {
		m.lru.reweigh(key, e, weight)
		return
	}
	e.weight.Store(weight)
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
	seed     maphash.Seed

	mu     sync.Mutex // guards all below, and the weights of entries that are here
	tables [256]lruTable
	head   lruNode // of the ring: next is what was used last, prev what is dropped next
	keys   int
	bytes  int64
}

// lruTable finds nodes by their keys. Nodes with the same place in it are a chain, which costs a key 8 bytes there and 8 in its node, where a
// Go map would take 40. There are many tables, so that none of them is large when it grows.
type lruTable struct {
	chains []*lruNode // as many as a power of two
	keys   int
}

type lruNode struct {
	prev, next *lruNode // in the ring
	chain      *lruNode // the next one
	key        string
	entry      *entry
}

func newLRU(maxKeys int, maxBytes int64) *lru {
	l := &lru{maxKeys: maxKeys, maxBytes: maxBytes, seed: maphash.MakeSeed()}
	l.clear()
	return l
}

// findLocked returns where the node of key hangs, or would.
func (l *lru) findLocked(key string) (t *lruTable, at **lruNode) {
	hash := maphash.String(l.seed, key)
	t = &l.tables[hash%uint64(len(l.tables))]
	at = t.chainOf(hash / uint64(len(l.tables)))
	for *at != nil && (*at).key != key {
		at = &(*at).chain
	}
	return t, at
}

func (t *lruTable) chainOf(hash uint64) **lruNode {
	if t.chains == nil {
		t.chains = make([]*lruNode, 1)
	}
	return &t.chains[hash%uint64(len(t.chains))]
}

// growLocked makes room in t for twice as many.
func (l *lru) growLocked(t *lruTable) {
	old := t.chains
	t.chains = make([]*lruNode, 2*len(old))
	for _, n := range old {
		for n != nil {
			next := n.chain
			first := t.chainOf(maphash.String(l.seed, n.key) / uint64(len(l.tables)))
			n.chain, *first = *first, n
			n = next
		}
	}
}

func (l *lru) get(key string) (*entry, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, at := l.findLocked(key)
	n := *at
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
	t, at := l.findLocked(key)
	n := *at
	if n == nil {
		n = &lruNode{key: key}
		*at = n
		l.keys++
		if t.keys++; t.keys > len(t.chains) {
			l.growLocked(t)
		}
	} else {
		n.unlink()
		l.bytes -= int64(n.entry.weight.Load())
	}
	n.entry = e
	l.bytes += int64(e.weight.Load())
	l.pushLocked(n)
	l.fitLocked(n)
}

func (l *lru) drop(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, at := l.findLocked(key); *at != nil {
		l.dropLocked(*at)
	}
}

func (l *lru) reweigh(key string, e *entry, weight uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	was := e.weight.Swap(weight)
	if _, at := l.findLocked(key); *at != nil && (*at).entry == e {
		l.bytes += int64(weight) - int64(was)
		l.fitLocked(*at)
	}
}

// fitLocked drops what has no room any more beside n, or n if that never has: it must not drive out all others before it goes itself.
func (l *lru) fitLocked(n *lruNode) {
	if int64(n.entry.weight.Load()) > l.maxBytes {
		l.dropLocked(n)
	}
	for l.keys > l.maxKeys || l.bytes > l.maxBytes {
		l.dropLocked(l.head.prev)
	}
}

func (l *lru) dropLocked(n *lruNode) {
	t, at := l.findLocked(n.key)
	*at = n.chain
	t.keys--
	l.keys--
	n.unlink()
	l.bytes -= int64(n.entry.weight.Load())
}

func (l *lru) pushLocked(n *lruNode) {
	n.prev, n.next = &l.head, l.head.next
	n.prev.next, n.next.prev = n, n
}

func (n *lruNode) unlink() { n.prev.next, n.next.prev = n.next, n.prev }

func (l *lru) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tables, l.keys, l.bytes = [256]lruTable{}, 0, 0
	l.head.prev, l.head.next = &l.head, &l.head
}

func (l *lru) size() (entries int, bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.keys, l.bytes
}
