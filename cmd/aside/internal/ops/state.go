package ops

import (
	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/deferred"
)

// journalState is what the journal says of a key.
type journalState struct {
	explicit bool   // there was a set or a delete: a fill has gone with it
	best     Record // without an Op if what there was is settled
	settled  string // the greatest stamp that was
	opened   string // the list of operations whose replay has begun

	log *deferred.Log // of best, whose Value it is, where operations are added one after the other; else nil
}

// goOn adds operations to those of their list, and reports whether that is all there is to do. It does
// as fallback.Merge does, without reading all of them each time.
func (s *journalState) goOn(next *fallback.Record, part string) bool {
	if s.best.Op != fallback.OpOperations || next.Op != fallback.OpOperations {
		return false
	}
	more, err := deferred.Parse(next.Value)
	if err != nil {
		return false
	}
	if s.log == nil {
		there, err := deferred.Parse(s.best.Value)
		if err != nil || len(there.Ops) == 0 {
			return false
		}
		s.log = deferred.LogOf(there)
	}
	if more.ID != s.log.ID() || next.Stamp <= s.best.Stamp {
		return false
	}
	s.log = s.log.With(more.Ops)
	s.best.Stamp, s.best.File = next.Stamp, part
	if s.best.Slack < 0 || next.Slack < 0 {
		s.best.Slack = -1
	} else {
		s.best.Slack = max(s.best.Slack, next.Slack)
	}
	return true
}

// whole gives best its Value again.
func (s *journalState) whole() {
	if s.log != nil {
		s.best.Value, s.log = s.log.String(), nil
	}
}

// begun is a record as the journal's note says of it that its replay has begun, if it does.
func (s *journalState) begun(record fallback.Record) fallback.Record {
	if s.opened == "" || record.Op != fallback.OpOperations {
		return record
	}
	note := deferred.List{ID: s.opened, Opened: true}
	merged, _ := fallback.Merge(record, fallback.Record{Op: fallback.OpOperations, Key: record.Key, Stamp: s.opened, Value: note.String()})
	return merged
}
