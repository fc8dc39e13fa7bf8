package ops

import (
	"time"

	"github.com/redaside/aside/fallback"
)

// Summary counts records.
type Summary struct {
	Sets       int       `json:"sets"`
	Deletes    int       `json:"deletes"`
	Operations int       `json:"operations"` // keys that have some
	Fills      int       `json:"fills"`      // loaded values: not pending, they may be lost
	Expired    int       `json:"expired"`
	ValueBytes int64     `json:"valueBytes"`
	Oldest     time.Time `json:"oldest,omitzero"` // of what is pending
}

// Pending is how many wait for Redis.
func (s *Summary) Pending() int { return s.Sets + s.Deletes + s.Operations }

// Waits says what waits for Redis, with count for a number of things.
func (s *Summary) Waits(count func(n int, what string) string) string {
	said := count(s.Sets, "set") + ", " + count(s.Deletes, "delete")
	if s.Operations > 0 {
		said += ", operations on " + count(s.Operations, "key")
	}
	return said
}

// Add counts one more.
func (s *Summary) Add(r *Record, now time.Time) {
	switch r.Op {
	case fallback.OpSet:
		s.Sets++
	case fallback.OpDel:
		s.Deletes++
	case fallback.OpFill:
		s.Fills++
	case fallback.OpOperations:
		s.Operations++
	}
	s.ValueBytes += int64(len(r.Value))
	if r.Expired(now) {
		s.Expired++
	}
	if at := r.Written(); r.Op != fallback.OpFill && !at.IsZero() && (s.Oldest.IsZero() || at.Before(s.Oldest)) {
		s.Oldest = at
	}
}
