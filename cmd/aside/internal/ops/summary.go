package ops

import (
	"time"

	"github.com/redaside/aside/fallback"
)

// Summary counts records.
type Summary struct {
	Sets       int       `json:"sets"`
	Deletes    int       `json:"deletes"`
	Fills      int       `json:"fills"` // loaded values: not pending, they may be lost
	Expired    int       `json:"expired"`
	ValueBytes int64     `json:"valueBytes"`
	Oldest     time.Time `json:"oldest,omitzero"` // of what is pending
}

// Pending is how many wait for Redis.
func (s *Summary) Pending() int { return s.Sets + s.Deletes }

// Add counts one more.
func (s *Summary) Add(r *Record, now time.Time) {
	switch r.Op {
	case fallback.OpSet:
		s.Sets++
	case fallback.OpDel:
		s.Deletes++
	case fallback.OpFill:
		s.Fills++
	}
	s.ValueBytes += int64(len(r.Value))
	if r.Expired(now) {
		s.Expired++
	}
	if at := r.Written(); r.Op != fallback.OpFill && !at.IsZero() && (s.Oldest.IsZero() || at.Before(s.Oldest)) {
		s.Oldest = at
	}
}
