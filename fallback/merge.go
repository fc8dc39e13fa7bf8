package fallback

import (
	"github.com/redaside/aside/internal/deferred"
)

// Merge returns what a Store has of a key once next was put, where it had now of the same key. It
// reports false if now stays as it is. A [Keeper] needs it for records of operations; of others it
// says which of the two stays.
//
//	now         next         the record is then
//	operations  operations   both, if they are of one list; else next, if it is newer
//	a Set, Del  operations   the Set or Del as an operation, and next behind it, if that is newer
//	operations  a Set, Del   that, if it is newer; if it is older than some of them, it, and these
//	a fill      operations   next
func Merge(now, next Record) (Record, bool) {
	if now.Op != OpOperations && next.Op != OpOperations || now.Op == OpFill || next.Op == OpFill {
		newer := replaces(&next, &now)
		return next, newer
	}
	if next.Op != OpOperations {
		return mergeUnder(now, next)
	}
	more, err := deferred.Parse(next.Value)
	if err != nil {
		return now, false
	}
	if len(more.Ops) == 0 {
		return noteOpened(now, more)
	}
	if next.Stamp <= now.Stamp && !(next.Stamp == now.Stamp && now.Op != OpOperations && more.Base()) {
		return now, false
	}
	both := Record{Op: OpOperations, Key: now.Key, Stamp: next.Stamp, Slack: mostSlack(now.Slack, next.Slack)}
	if now.Op == OpOperations {
		there, err := deferred.Parse(now.Value)
		if err != nil || there.ID != more.ID {
			return next, true // the other list was done, or it would have been gone on with
		}
		both.Value, err = deferred.Append(now.Value, more)
		return both, err == nil
	}
	if more.Base() {
		return next, true
	}
	more.Ops = append([]deferred.Op{baseOf(now)}, more.Ops...)
	both.Value = more.String()
	return both, true
}

// mergeUnder is Merge of a Set or Del that comes after operations, and may be older.
func mergeUnder(now, next Record) (Record, bool) {
	if next.Stamp > now.Stamp {
		return next, true
	}
	l, err := deferred.Parse(now.Value)
	if err != nil || l.Base() && l.Ops[0].Stamp >= next.Stamp {
		return now, false
	}
	if l, err = l.Since(baseOf(next)); err != nil {
		return now, false
	}
	now.Value, now.Slack = l.String(), mostSlack(now.Slack, next.Slack)
	return now, true
}

func baseOf(r Record) deferred.Op {
	if r.Op == OpDel {
		return deferred.Del(r.Stamp)
	}
	return deferred.Set(r.Stamp, r.Value, r.Expires)
}

// noteOpened is Merge of what only says that a list was opened.
func noteOpened(now Record, more deferred.List) (Record, bool) {
	if now.Op != OpOperations {
		return now, false
	}
	l, err := deferred.Parse(now.Value)
	if err != nil || l.ID != more.ID || l.Opened {
		return now, false
	}
	l.Opened = true
	now.Value = l.String()
	return now, true
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
func news(next, now *Record) bool {
	if now.Op != OpOperations && next.Op != OpOperations {
		return replaces(next, now)
	}
	_, changed := Merge(*now, *next)
	return changed
}
