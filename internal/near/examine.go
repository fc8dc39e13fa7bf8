package near

import "iter"

// Examined is what the memory has of a key, for somebody who looks and does not use it.
type Examined struct {
	Raw     string // the value, as its codec wrote it
	Absent  bool   // it is remembered that the key does not exist
	Decoded bool   // a decoded value is kept beside it
	Read    bool   // it was read from Redis, not loaded or set by this process
	At      int64
	Expires int64 // when it is served last; ok is false where it does not expire
	Ends    bool  // whether it expires at all
	Meta    *Meta // what its header says; nil: it has none

	State State
}

// State is whether an entry is served, and if not, why.
type State int

// The states.
const (
	Verified   State = iota // it is served: changes of the key are told
	Unverified              // it is served: its server is away
	Untracked               // it is served: nobody tells of changes, see Options.UntrackedTTL
	Expired                 // it has expired
	Unproven                // it is not served until its server has shown that changes are told
	Outdated                // it is not served any more: changes may have been missed
	Grouped                 // it is not served: a group of it was cleared, or its state must be asked for first
)

// Examine returns what m has of key, and changes nothing: neither what is dropped next, nor whether
// its server is asked to prove its lease. It reports whether there is an entry of a value.
func (m *Memory) Examine(key string) (Examined, bool) {
	if m.cache == nil {
		return Examined{}, false
	}
	e := m.cache.peek(key)
	if e == nil || e.has(isOther) {
		return Examined{}, false
	}
	return Examined{
		Raw: e.raw, Absent: e.Absent(), Decoded: e.decoded.Load() != nil, Read: e.Read(), At: e.at, Expires: e.expires, Ends: e.expires != never, Meta: e.meta,
		State: e.state(m.opt.Now()),
	}, true
}

// Peek returns the entry of key if it may be served, as Lookup does, and changes nothing, as Examine.
func (m *Memory) Peek(key string) *Entry {
	if m.cache == nil {
		return nil
	}
	if e := m.cache.peek(key); e != nil && !e.has(isOther) && e.state(m.opt.Now()) <= Untracked {
		return e
	}
	return nil
}

// Keys yields the keys of all entries, in no order, and changes nothing, as Examine. A key that is there
// all the time is yielded; one that comes or goes meanwhile may be.
func (m *Memory) Keys() iter.Seq[string] {
	return func(yield func(string) bool) {
		if m.cache != nil {
			m.cache.keys(yield)
		}
	}
}

// state says how e is, without wanting it.
func (e *Entry) state(now int64) (s State) {
	switch {
	case now >= e.expires:
		return Expired
	case e.has(isAway) && e.valid.ServesAway(uint64(e.span>>spanShift)):
		s = Unverified
	case e.has(isAway):
		return Outdated
	default:
		s = e.valid.examine(uint64(e.span>>spanShift), now)
	}
	if s == Verified && e.Untracked() {
		s = Untracked
	}
	if s <= Untracked && e.meta != nil && !e.meta.holds(now, e.has(isAway)) {
		return Grouped
	}
	return s
}

// ExamineGroup is the state of the group with that key, as far as it is known; it makes no group.
func (m *Memory) ExamineGroup(key string) (state int64, ok bool) {
	if g := m.groups.find(key); g != nil {
		return g.State()
	}
	return 0, false
}

// examine says how an entry is that was read in epoch, without wanting it.
func (v *Validity) examine(epoch uint64, now int64) State {
	lease := v.lease.Load() // before the epoch: see ServesRead
	present := epoch == v.epoch.Load()
	switch {
	case present && now < lease:
		return Verified
	case v.degraded.Load() && epoch >= v.proven.Load() && now < v.unverifiedUntil.Load():
		return Unverified
	case present:
		return Unproven
	}
	return Outdated
}

// peek returns the entry of key, or nil, as if nobody had looked.
func (c *cache) peek(key string) *Entry {
	if c.lru != nil {
		return c.lru.peek(key)
	}
	node, ok := c.otter.GetEntryQuietly(key)
	if !ok {
		return nil
	}
	return node.Value
}

func (l *lru) peek(key string) *Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, at := l.findLocked(key); *at != nil {
		return (*at).entry
	}
	return nil
}

// keys calls yield with all keys, until it returns false.
func (c *cache) keys(yield func(string) bool) {
	if c.lru != nil {
		c.lru.eachKey(yield)
		return
	}
	c.otter.Keys()(yield)
}

// eachKey collects the keys of one table at a time: nobody waits for all of them.
func (l *lru) eachKey(yield func(string) bool) {
	var some []string
	for i := range l.tables {
		some = some[:0]
		l.mu.Lock()
		for _, n := range l.tables[i].chains {
			for ; n != nil; n = n.chain {
				some = append(some, n.key)
			}
		}
		l.mu.Unlock()
		for _, key := range some {
			if !yield(key) {
				return
			}
		}
	}
}
