package proxy

import "sync/atomic"

// Budget bounds what is used by many at once: bytes of requests that are being received, or
// connections. It never waits: a caller that finds no room says so to the client. Safe for
// concurrent use. A nil Budget has no limit.
type Budget struct {
	limit int64
	used  atomic.Int64
}

// NewBudget returns a Budget of limit; 0 or less for none.
func NewBudget(limit int64) *Budget { return &Budget{limit: limit} }

// Take takes n, and reports whether there was room for it. What was taken must be given back.
func (b *Budget) Take(n int64) bool {
	if b == nil {
		return true
	}
	if used := b.used.Add(n); b.limit > 0 && used > b.limit {
		b.used.Add(-n)
		return false
	}
	return true
}

// Give gives back what Take has taken, all at once or in parts.
func (b *Budget) Give(n int64) {
	if b != nil {
		b.used.Add(-n)
	}
}

// Used is what is taken now.
func (b *Budget) Used() int64 {
	if b == nil {
		return 0
	}
	return b.used.Load()
}

// Limit is what may be taken; 0 for no limit.
func (b *Budget) Limit() int64 {
	if b == nil {
		return 0
	}
	return max(b.limit, 0)
}

// FreeBytes is what each request may hold before it takes from the Budget, so that small ones are
// served whatever the large ones do.
const FreeBytes = 16 << 10

// Share is what one request has taken of a Budget of bytes. The zero value has no limit. Not safe
// for concurrent use.
type Share struct {
	budget      *Budget
	held, taken int64
}

// Share returns a Share of b that has taken nothing yet.
func (b *Budget) Share() Share { return Share{budget: b} }

// Sibling returns a Share of the same Budget that has taken nothing yet.
func (s *Share) Sibling() Share { return Share{budget: s.budget} }

// Hold says that the request holds n bytes more, and reports whether there was room for them; if
// not, they are not counted. The first FreeBytes always have room.
func (s *Share) Hold(n int) bool {
	more := max(s.held+int64(n)-FreeBytes, 0) - s.taken
	if more > 0 {
		if !s.budget.Take(more) {
			return false
		}
		s.taken += more
	}
	s.held += int64(n)
	return true
}

// End gives everything back. The Share may be used again.
func (s *Share) End() {
	if s.taken > 0 {
		s.budget.Give(s.taken)
	}
	s.held, s.taken = 0, 0
}
