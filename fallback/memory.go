package fallback

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/redaside/aside/internal/deferred"
)

// Memory is a [Store] that ends with its process. Make one with [NewMemory]. Safe for concurrent
// use.
type Memory struct {
	x   *index
	max int64 // immutable

	lost     error // what Close says; guarded by x.mu
	rejected int   // guarded by x.mu
}

var _ Transactor = (*Memory)(nil)

// NewMemory returns a Store without a disk, for clients that have no directory: what is written
// while Redis is away is replayed if the process lives that long. maxBytes bounds keys, values and
// about 300 bytes for each; 0 stands for 64 MiB. Fills are thrown away first; then Put of a set
// returns ErrFull; the last MiB, or sixteenth if that is less, is kept for deletes.
func NewMemory(maxBytes int64) *Memory {
	return &Memory{x: newIndex(), max: max(cmp.Or(maxBytes, 64<<20), 0)}
}

// Put implements [Store]. It remembers all records or none.
func (m *Memory) Put(ctx context.Context, records ...Record) error {
	if err := validateAll(records); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	now := time.Now().UnixMilli()
	m.x.expire(now, false)
	m.x.mu.Lock()
	defer m.x.mu.Unlock()
	if m.x.closed.Load() {
		return ErrClosed
	}
	need, limit := int64(0), m.max
	for i := range records {
		r := &records[i]
		switch e := m.x.byKey[r.Key]; {
		case onlyNotes(r): // it makes nothing longer; and what could not be noted could not be replayed, nor leave
			continue
		case e == nil || e.record.Op == OpFill: // a fill may have to go, and then frees nothing more
			need += cost(r)
		case r.Op == OpOperations:
			need += cost(r) // at most: it comes to what there is
		case e.news(r):
			need += cost(r) - e.cost()
		}
		if r.Op != OpDel {
			limit = m.max - reserve(m.max)
		}
	}
	if need > 0 && !m.roomLocked(need, limit) {
		return fmt.Errorf("%w: NewMemory's maxBytes (%d) would be exceeded: raise it, write less while Redis is away, or keep a directory", ErrFull, m.max)
	}
	for i := range records {
		m.x.mergeLocked(&records[i], now, false)
	}
	return nil
}

// PutAll implements [Transactor].
func (m *Memory) PutAll(ctx context.Context, records ...Record) error {
	if err := noNotes(records); err != nil {
		return err
	}
	return m.Put(ctx, records...)
}

// noNotes returns an error if one of records only says that a list was opened: it belongs to no others.
func noNotes(records []Record) error {
	for i := range records {
		if onlyNotes(&records[i]) {
			return errors.New("aside: a fallback.Record that only says that operations were begun is in a PutAll: use Put")
		}
	}
	return nil
}

// roomLocked throws fills away until need more bytes fit below limit, and reports whether they fit.
func (m *Memory) roomLocked(need, limit int64) bool {
	for m.x.cost+need > limit {
		oldest := m.x.fills.first()
		if oldest == nil {
			return false
		}
		m.x.removeLocked(oldest)
	}
	return true
}

// Fill implements [Store].
func (m *Memory) Fill(r Record) {
	now := time.Now().UnixMilli()
	if r.Op != OpFill || r.validate() != nil || r.Expires <= now {
		return
	}
	m.x.expire(now, false)
	m.x.mu.Lock()
	defer m.x.mu.Unlock()
	if m.x.closed.Load() {
		return
	}
	if e := m.x.byKey[r.Key]; e != nil {
		if !replaces(&r, &e.record) {
			return
		}
		m.x.removeLocked(e) // it is out of date even if the new one does not fit
	}
	if limit := fillLimit(m.max); cost(&r) <= limit && m.roomLocked(cost(&r), limit) {
		m.x.mergeLocked(&r, now, false)
	}
}

// Get implements [Store].
func (m *Memory) Get(key string) (Record, bool, error) {
	if m.x.closed.Load() {
		return Record{}, false, ErrClosed
	}
	f, ok := m.x.find(key)
	if !ok || f.Op == OpFill && f.Expires <= time.Now().UnixMilli() {
		return Record{}, false, nil
	}
	return f.whole(), true, nil
}

// Operations is as that of [Dir].
func (m *Memory) Operations(key string) (*deferred.Log, Record, bool) { return m.x.logOf(key) }

// Pending implements [Store].
func (m *Memory) Pending(key string) bool { return m.x.isPending(key) }

// Stamp implements [Store].
func (m *Memory) Stamp(key string) (stamp string, ok bool) { return m.x.stamp(key) }

// Records implements [Store].
func (m *Memory) Records(op Op) iter.Seq[Record] {
	return func(yield func(Record) bool) {
		for f := range m.x.bySlot(op) {
			if m.x.closed.Load() {
				return
			}
			if op == OpFill && f.Expires <= time.Now().UnixMilli() {
				continue
			}
			if !yield(f.whole()) {
				return
			}
		}
	}
}

// Keys yields the keys of all records but those of OpDel, as [Dir.Keys] does.
func (m *Memory) Keys() iter.Seq[string] { return m.x.keys() }

// Settle implements [Store].
func (m *Memory) Settle(records ...Record) {
	m.x.mu.Lock()
	defer m.x.mu.Unlock()
	for i := range records {
		m.x.settleLocked(&records[i])
	}
}

// Reject implements [Keeper]: it counts the record.
func (m *Memory) Reject(Record, error) error {
	m.x.mu.Lock()
	defer m.x.mu.Unlock()
	m.rejected++
	return nil
}

// Durable implements [Store]: it says false.
func (m *Memory) Durable() bool { return false }

// Latest implements [Store].
func (m *Memory) Latest() string { return m.x.latestStamp() }

// Stats implements [Store].
func (m *Memory) Stats() Stats {
	m.x.mu.RLock()
	defer m.x.mu.RUnlock()
	return Stats{Sets: m.x.sets, Deletes: m.x.deletes, Operations: m.x.operations, Fills: m.x.loaded, Bytes: m.x.cost, MaxBytes: m.max, Quarantined: m.rejected}
}

// Close implements [Store]. Records that are pending are lost, and the error says how many.
func (m *Memory) Close(context.Context) error {
	m.x.mu.Lock()
	defer m.x.mu.Unlock()
	if m.x.closed.Load() {
		return m.lost
	}
	m.x.closed.Store(true)
	if n := m.x.pending.Load(); n > 0 {
		m.lost = fmt.Errorf("aside: %d writes and deletes that were to be replayed are lost: there was no directory to keep them", n)
	}
	for _, e := range m.x.byKey {
		m.x.removeLocked(e)
	}
	return m.lost
}

func (m *Memory) count(belongs func(key string) bool) int {
	return m.x.count(belongs, time.Now().UnixMilli())
}

// fillLimit is how much of max bytes may be in use for one more fill to be taken. The rest is for
// what matters: a Put should not have to wait for room.
func fillLimit(maxBytes int64) int64 { return maxBytes - maxBytes/4 - reserve(maxBytes) }

// validateAll says what is wrong with records that somebody wants to Put.
func validateAll(records []Record) error {
	for i := range records {
		if err := records[i].validate(); err != nil {
			return err
		}
		if records[i].Op == OpFill {
			return fmt.Errorf("aside: fallback.Record.Op is %q in a Put: use Fill", OpFill)
		}
	}
	return nil
}
