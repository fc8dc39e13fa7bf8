package near

import "github.com/maypok86/otter/v2"

// cache is what the entries are kept in: otter, bounded by bytes, which drops what is least useful
// (W-TinyLFU), or a strict LRU, bounded by bytes and keys. One of the two is set; both fields are
// immutable. Safe for concurrent use.
type cache struct {
	otter *otter.Cache[string, *Entry]
	lru   *lru
}

// newCache returns nil, which keeps nothing, if maxBytes is not positive.
func newCache(maxBytes int64, maxKeys int) *cache {
	switch {
	case maxBytes <= 0:
		return nil
	case maxKeys > 0:
		return &cache{lru: newLRU(maxKeys, maxBytes)}
	}
	return &cache{otter: otter.Must(&otter.Options[string, *Entry]{
		MaximumWeight: uint64(maxBytes),
		Weigher:       func(_ string, e *Entry) uint32 { return e.weight.Load() },
	})}
}

func (c *cache) get(key string) (*Entry, bool) {
	if c.lru != nil {
		return c.lru.get(key)
	}
	return c.otter.GetIfPresent(key)
}

func (c *cache) set(key string, e *Entry) {
	if c.lru != nil {
		c.lru.set(key, e)
		return
	}
	c.otter.Set(key, e)
}

func (c *cache) drop(key string) {
	if c.lru != nil {
		c.lru.drop(key)
		return
	}
	c.otter.Invalidate(key)
}

// reweigh gives e another weight, and counts that if e is still there.
func (c *cache) reweigh(key string, e *Entry, weight uint32) {
	if c.lru != nil {
		c.lru.reweigh(key, e, weight)
		return
	}
	e.weight.Store(weight)
	c.otter.ComputeIfPresent(key, func(old *Entry) (*Entry, otter.ComputeOp) {
		if old != e {
			return nil, otter.CancelOp
		}
		return e, otter.WriteOp
	})
}

func (c *cache) close() {
	if c.lru != nil {
		c.lru.clear()
		return
	}
	c.otter.InvalidateAll()
	c.otter.StopAllGoroutines()
}

func (c *cache) size() (entries int, bytes int64) {
	if c.lru != nil {
		return c.lru.size()
	}
	return c.otter.EstimatedSize(), int64(c.otter.WeightedSize())
}

// cleanUp has done what is due and otherwise done in the background.
func (c *cache) cleanUp() {
	if c.otter != nil {
		c.otter.CleanUp()
	}
}
