package near

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
// its server is asked to prove its lease. It reports whether there is an entry.
func (m *Memory) Examine(key string) (Examined, bool) {
	if m.cache == nil {
		return Examined{}, false
	}
	e := m.cache.peek(key)
	if e == nil {
		return Examined{}, false
	}
	x := Examined{Raw: e.raw, Absent: e.Absent(), Decoded: e.decoded.Load() != nil, Read: e.Read(), At: e.at, Expires: e.expires, Ends: e.expires != never, Meta: e.meta}
	switch now := m.opt.Now(); {
	case now >= e.expires:
		x.State = Expired
	case e.has(isAway) && e.valid.ServesAway(uint64(e.span>>spanShift)):
		x.State = Unverified
	case e.has(isAway):
		x.State = Outdated
	default:
		x.State = e.valid.examine(uint64(e.span>>spanShift), now)
	}
	if x.State == Verified && e.Untracked() {
		x.State = Untracked
	}
	if x.State <= Untracked && e.meta != nil && !e.meta.holds(m.opt.Now(), e.has(isAway)) {
		x.State = Grouped
	}
	return x, true
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
