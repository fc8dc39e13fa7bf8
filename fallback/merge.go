package fallback

import (
	"github.com/redaside/aside/internal/deferred"
)

// Merge returns what a Store has of a key once next was put, where it had now of the same key: now, and
// false, if that stays as it is. A [Keeper] needs it for records of operations; of others it
// says which of the two stays.
//
//	now         next         the record is then
//	operations  operations   both, if they are of one list; else next, if it is newer
//	a Set, Del  operations   the Set or Del as an operation, and next behind it, if that is newer
//	operations  a Set, Del   that, if it is newer
//	a fill      operations   next
//
// So no Set or Del comes to stand before operations that were there first. It may be long done: after a
// crash the whole journal is read, though files may be ahead of it, and what was settled is in it, too.
func Merge(now, next Record) (Record, bool) {
	if next.Op != OpOperations || now.Op == OpFill {
		if !replaces(&next, &now) || onlyNotes(&next) {
			return now, false
		}
		return next, true
	}
	if now.Op != OpOperations {
		return mergeBehind(now, next)
	}
	l, err := deferred.Parse(now.Value)
	if err != nil || len(l.Ops) == 0 { // no Put has let it in
		if next.Stamp <= now.Stamp || onlyNotes(&next) {
			return now, false
		}
		return next, true
	}
	both, log, changed := goOn(now, deferred.LogOf(l), next)
	if changed {
		both.Value = log.String()
	}
	return both, changed
}

// goOn is Merge of operations and more of them. In place of a Value the record has a Log.
func goOn(now Record, log *deferred.Log, next Record) (Record, *deferred.Log, bool) {
	more, err := deferred.Parse(next.Value)
	switch {
	case err != nil:
		return now, log, false
	case len(more.Ops) == 0:
		if more.ID != log.ID() || log.Opened() {
			return now, log, false
		}
		return now, log.Begun(), true
	case next.Stamp <= now.Stamp:
		return now, log, false
	case more.ID != log.ID(): // the other list was done, or it would have been gone on with
		return next, deferred.LogOf(more), true
	}
	both := Record{Op: OpOperations, Key: now.Key, Stamp: next.Stamp, Slack: mostSlack(now.Slack, next.Slack)}
	return both, log.With(more.Ops), true
}

// mergeBehind is Merge of a Set or Del and operations.
func mergeBehind(now, next Record) (Record, bool) {
	more, err := deferred.Parse(next.Value)
	if err != nil || len(more.Ops) == 0 {
		return now, false
	}
	if next.Stamp <= now.Stamp && !(next.Stamp == now.Stamp && more.Base()) {
		return now, false
	}
	if more.Base() {
		return next, true
	}
	both := Record{Op: OpOperations, Key: now.Key, Stamp: next.Stamp, Slack: mostSlack(now.Slack, next.Slack)}
	more.Ops = append([]deferred.Op{baseOf(now)}, more.Ops...)
	both.Value = more.String()
	return both, true
}

func baseOf(r Record) deferred.Op {
	if r.Op == OpDel {
		return deferred.Del(r.Stamp)
	}
	return deferred.Set(r.Stamp, r.Value, r.Expires)
}

func mostSlack(a, b int64) int64 {
	if a < 0 || b < 0 {
		return -1
	}
	return max(a, b)
}

// onlyNotes reports whether a record only says that a list of operations was opened: there must be
// one for it.
func onlyNotes(r *Record) bool {
	if r.Op != OpOperations {
		return false
	}
	l, err := deferred.Parse(r.Value)
	return err == nil && len(l.Ops) == 0
}

// news reports whether next changes what there is of its key.
func (e *entry) news(next *Record) bool {
	if next.Op != OpOperations {
		return replaces(next, &e.record)
	}
	_, changed := Merge(e.found().whole(), *next)
	return changed
}
