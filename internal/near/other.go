package near

import (
	"strings"
	"time"
)

// What Redis has said of a key that holds no string is remembered, too: by whoever has read it on another
// connection, whose reads are told on that of the memory's server (CLIENT TRACKING with REDIRECT). It has
// the place of a value of the key, and its rules: what drops and outdates values drops and outdates it, and it
// takes room as they do. But nobody who asks for a value finds it.

// PutOther remembers what was read of key under r, and returns where; nil if r is void, the server does not tell of
// changes, or nothing is kept. ttl is what the key has left, counted from r; negative: it does not expire.
// before, if not nil, is what raw was made of as well, and has that remembered no longer than that would have been. It copies neither
// key nor raw, as Commit.
func (m *Memory) PutOther(key string, r Reservation, raw string, ttl time.Duration, before *Entry) *Entry {
	if m.cache == nil || !r.Pushes() {
		return nil
	}
	e := m.newEntry(key, r, Value{Raw: raw, TTL: ttl})
	e.span |= isOther
	if before != nil {
		e.expires = min(e.expires, before.expires)
	}
	return m.Put(key, r, e)
}

// OtherUnder returns what PutOther has remembered of key in the epoch of r, also while that has no lease; nil: nothing. If
// r still stands when it is put again, no change was told since it was put first.
func (m *Memory) OtherUnder(key string, r Reservation) *Entry {
	if m.cache == nil {
		return nil
	}
	e, ok := m.cache.get(key)
	if !ok || !e.has(isOther) || e.valid != r.valid || e.span != spanOf(r.epoch, isOther) || m.opt.Now() >= e.expires {
		return nil
	}
	return e
}

// Other returns what PutOther has remembered of key, if a value could be served in its place; else nil.
func (m *Memory) Other(key string) *Entry {
	if m.cache == nil {
		return nil
	}
	if e, ok := m.cache.get(key); ok && e.has(isOther) && !e.has(isAway) && e.verifiedAt(m.opt.Now()) {
		return e
	}
	return nil
}

// PutBack remembers was, which Other or OtherBefore has returned and an own write has dropped that waits for the server, until a time at most: it is
// what the key held before all writes of this outage, for OtherBefore. It does nothing if the outage is over, or the key has changed since that drop.
// changes are those of the key then. It copies the key.
func (m *Memory) PutBack(key string, was *Entry, outage, changes uint64, until int64) *Entry {
	e := &Entry{raw: was.raw, ends: was.ends, expires: min(was.expires, until), valid: was.valid, span: spanOf(outage, isAway|isOther), at: was.at}
	if !was.has(isAway) {
		e.expires = min(e.expires, was.valid.unverifiedUntil.Load())
	}
	e.weight.Store(weigh(key, e.raw, 0))
	s := m.stripe(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.cache == nil || s.changesLocked() != changes || outage != e.valid.Outage() || !m.livesAt(key, e.valid) {
		return nil
	}
	m.cache.set(strings.Clone(key), e)
	return e
}

// OtherBefore returns what PutBack has remembered of key in this outage, if it may be used still; else nil.
func (m *Memory) OtherBefore(key string) *Entry {
	if m.cache == nil {
		return nil
	}
	if e, ok := m.cache.get(key); ok && e.has(isOther) && e.has(isAway) && e.valid.Pushes() && e.verifiedAt(m.opt.Now()) {
		return e
	}
	return nil
}

// Epoch is that of the server when r was made.
func (r *Reservation) Epoch() uint64 { return r.epoch }
