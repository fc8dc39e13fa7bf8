package near

import (
	"hash/maphash"
	"sync"
)

// lru holds the entries that were used last: at most maxKeys, and at most maxBytes of them. Each
// use takes its one mutex, which is what it costs to know the order exactly. Safe for concurrent
// use.
type lru struct {
	maxKeys  int          // immutable
	maxBytes int64        // immutable
	seed     maphash.Seed // immutable

	mu     sync.Mutex // guards all below, and the weights of entries that are here
	tables [256]lruTable
	head   lruNode // of the ring: next is what was used last, prev what is dropped next
	keys   int
	bytes  int64
}

// lruTable finds nodes by their keys. Nodes with the same place in it are a chain, which costs a
// key 8 bytes there and 8 in its node, where a Go map would take 40. There are many tables, so that
// none of them is large when it grows. Guarded by the lru's mu, as lruNode is.
type lruTable struct {
	chains []*lruNode // as many as a power of two
	keys   int
}

type lruNode struct {
	prev, next *lruNode // in the ring
	chain      *lruNode // the next one
	key        string
	entry      *Entry
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

func (l *lru) get(key string) (*Entry, bool) {
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

func (l *lru) set(key string, e *Entry) {
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

func (l *lru) reweigh(key string, e *Entry, weight uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	was := e.weight.Swap(weight)
	if _, at := l.findLocked(key); *at != nil && (*at).entry == e {
		l.bytes += int64(weight) - int64(was)
		l.fitLocked(*at)
	}
}

// fitLocked drops what has no room any more beside n, or n if that never has: it must not drive out
// all others before it goes itself.
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
