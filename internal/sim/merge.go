package sim

import "cmp"

// The rule, as functions of what a key holds. The scripts of the root are this in Lua.
//
// An explicit write (Set or Del) has a stamp: a time on the server's clock, a client, and that
// client's own count of its writes. Between writes of one client the count decides, and is exact.
// Between clients the times decide. That of a record may be off by the error of its client's clock,
// which the client knows; that of a write which a server has done is the server's own time. So two that
// are closer than u are contested, which is twice the greater error of the two: nobody knows which came
// last. What the rule wants is one line:
//
//	the newest Set is visible, unless a write of another client is contested with it; then nothing is.
//
// For this the companion of a key remembers the stamp of the newest write (top), the time of the
// newest write of any other client, as long as that is within u of top (other), until when a
// value at the key is that of top (valueExpires), and the u of these times, where that is greater than
// what is assumed of any record (margin). That is a maximum and a second maximum, so any
// order and any repetition of records ends in the same companion, where all margins are the same.
//
// Replay of a Set or Del r, c being the companion:
//
//	c                                   r is          companion afterwards            value
//	none                                newest        r                               as below
//	same client, c.counter >= r.counter done          c                               kept
//	same client, c.counter <  r.counter newest        r, but no time before c's,      as below; contested if there is an other
//	                                                  other: c's if within u of that
//	other client, c > r+u               superseded    c                               kept, if it is c's; else deleted: an Expire
//	                                                                                  leaves what may be older than r
//	other client, c < r-u               newest        r                               as below
//	other client, else                  contested     the later stamp, other: the earlier's or c's, whichever is later
//
//	the key holds                       newest, Set    newest, Del    contested
//	nothing                             write          -              -
//	the value of c (now < valueExpires) write          delete         delete
//	another value: what a load left     delete         delete         delete
//	a marker with stamp <= r+u          write          delete         delete
//	a marker with stamp >  r+u          keep           keep           keep
//
// The companion is left in each of these cases, also where the Set is not written. valueExpires is
// the Set's own if it was written, else 0. A Set that has expired, or that is older than StampTTL -
// u, is replayed as a Del with its stamp. The companion lives for StampTTL from now, or as long as
// the value that was written with it, if that is longer.
//
// A loaded value has no stamp, and it is deleted rather than overwritten because it may be newer
// than the Set: its source may have been changed by one whose own record has not been replayed yet.
// A load that began more than u after r has read what r wrote, or newer; any other is voided.
//
// A fill is replayed into an empty key without companion only, and only within its ttl and StampTTL
// - u of its load's start, as after that a companion that would forbid it may have gone; and not if
// the server has lost its memory since (Fenced).
//
// A record whose clock may be off by more than e (Unsure) is replayed as a Del that happens now.

// Stamp says when an explicit write happened, and whose it is.
type Stamp struct {
	Time    int64  // µs of the server's clock, as far as the client knew
	Client  uint64 // one life of one process
	Counter uint64 // of that client's writes; its times grow with it
}

// Compare orders stamps by time, client, counter.
func (s Stamp) Compare(t Stamp) int {
	return cmp.Or(cmp.Compare(s.Time, t.Time), cmp.Compare(s.Client, t.Client), cmp.Compare(s.Counter, t.Counter))
}

// Companion is what stands beside a key, in the key of its own.
type Companion struct {
	Stamp              // of the newest write
	Other        int64 // µs: the time of the newest write of another client that may be newer than Stamp's; 0: there is none
	ValueExpires int64 // ms: before this, a value at the key is the one that was written with Stamp; 0: it is not
	Margin       int64 // µs: within this of another client's write nobody knows which was later; 0: within Env's
	Expires      int64 // ms: when it is forgotten; 0: there is no companion
}

// Content is what a key holds.
type Content int

// The kinds of values that a key can hold.
const (
	Nothing Content = iota
	Value
	Lock
)

// Marker is what a key holds while it is being loaded.
type Marker struct {
	ID   uint64 // unique per acquisition
	Time int64  // µs: the client's estimate of the server's clock before the load began
}

// State is what a server has of one key.
type State struct {
	Content   Content
	Value     string // if Content is Value
	Marker    Marker // if Content is Lock
	Expires   int64  // ms; of the value or the lock
	Companion Companion
}

// Op is what a record does.
type Op int

// The operations of records.
const (
	OpSet Op = iota
	OpDel
	OpFill
)

// Record is a write that waits in a journal.
type Record struct {
	Op      Op
	Stamp   Stamp  // for a fill only the time counts: the start of its load
	Value   string // of a Set or a fill
	Expires int64  // ms; of a Set or a fill
	Margin  int64  // µs: u, twice the error of the clock, where that is more than Env's
	Unsure  bool   // the clock may have been off by more than any margin allows
}

// Write is a Set or a Del that is sent to a server that answers.
type Write struct {
	Op       Op
	Stamp    Stamp // proposed
	Value    string
	TTL      int64 // ms
	NotAfter int64 // µs: later it must not be done any more. See Env.
	Again    bool  // it may have been done already
}

// Env is what a script knows besides the key.
type Env struct {
	Now      int64 // µs: the server's TIME
	Margin   int64 // µs: u of what does not say more of itself
	StampTTL int64 // µs
	Fenced   bool  // the server's memory goes back to before the outage: what is missing was never there

	without rule // which rules are left out, to show that they are needed
}

// Outcome is what became of a write or a record.
type Outcome int

// Outcomes. Of these only Late leaves something to do.
const (
	Applied    Outcome = iota // done as asked
	Done                      // this write, or a later one of the same client, has been here already
	Superseded                // a newer write is there
	Contested                 // deleted: a write of another client may be newer or older
	TooOld                    // a Set that was replayed as a delete
	Reloads                   // a Set that was not written: a load left a value, or is under way; the next read has it afresh
	Dropped                   // a fill that must not be written
	Late                      // not done, it is after NotAfter
)

func (o Outcome) String() string {
	return [...]string{"applied", "done", "superseded", "contested", "too old", "reloads", "dropped", "late"}[o]
}

func ms(us int64) int64 { return us / 1000 }

// At returns a state without what has expired at a time.
func (s State) At(now int64) State {
	if s.Content != Nothing && ms(now) >= s.Expires {
		s = State{Companion: s.Companion}
	}
	if s.Companion.Expires != 0 && ms(now) >= s.Companion.Expires {
		s.Companion = Companion{}
	}
	return s
}

func (s State) emptied() State { return State{Companion: s.Companion} }

func (s State) holding(value string, expires int64) State {
	s = s.emptied()
	s.Content, s.Value, s.Expires = Value, value, expires
	return s
}

// leave puts a companion beside the key.
func (s State) leave(c Companion, e Env) State {
	c.Expires = ms(e.Now) + ms(e.StampTTL)
	if c.ValueExpires != forEver {
		c.Expires = max(c.Expires, c.ValueExpires)
	}
	if e.without.has(stampOutlivesValue) && c.ValueExpires != 0 {
		c.Expires = c.ValueExpires
	}
	s.Companion = c
	return s
}

// Apply does a write in the server. It is newer than all that the server has done, since it has
// been made before its caller was answered. So it has the server's time, however wrong the client takes
// that to be, and need not look at what is there: only one that may have been done already does. Where
// what it finds has a later time the server's clock has been another one, and nobody knows how far that
// is off.
//
// That depends on NotAfter being over, by the server's clock, when the caller is answered: what is
// done later could overwrite a write that began after this one was acknowledged (from the journal,
// as its outcome is unknown).
func Apply(s State, w Write, e Env) (State, Outcome) {
	s = s.At(e.Now)
	if e.Now > w.NotAfter {
		return s, Late
	}
	c, stamp, margin := s.Companion, w.Stamp, int64(0)
	stamp.Time = e.Now
	if w.Again {
		if c.Expires != 0 && c.Client == w.Stamp.Client && c.Counter >= w.Stamp.Counter {
			return s, Done
		}
		stamp.Time = max(e.Now, c.Time+1)
		margin = e.margin(2 * (stamp.Time - e.Now))
	}
	if e.without.has(writesHaveServersTime) {
		stamp.Time, margin = max(stamp.Time, w.Stamp.Time), 0
	}
	if w.Op == OpDel {
		s = s.emptied()
		if e.without.has(deleteLeavesStamp) {
			s.Companion = Companion{}
			return s, Applied
		}
		return s.leave(Companion{Stamp: stamp, ValueExpires: e.ofDelete(), Margin: margin}, e), Applied
	}
	expires := ms(e.Now) + w.TTL
	return s.holding(w.Value, expires).leave(Companion{Stamp: stamp, ValueExpires: expires, Margin: margin}, e), Applied
}

// ReadOrLock locks the key if it holds nothing. The answer is what it held.
func ReadOrLock(s State, m Marker, ttl int64, e Env) (State, Content) {
	s = s.At(e.Now)
	if s.Content != Nothing {
		return s, s.Content
	}
	s.Content, s.Marker, s.Expires = Lock, m, ms(e.Now)+ttl
	return s, Nothing
}

// Renew prolongs a lock.
func Renew(s State, m Marker, ttl int64, e Env) (State, bool) {
	s = s.At(e.Now)
	if s.Content != Lock || s.Marker.ID != m.ID {
		return s, false
	}
	s.Expires = ms(e.Now) + ttl
	if e.without.has(markerKeepsStart) {
		s.Marker.Time = e.Now
	}
	return s, true
}

// Fill stores what was loaded under a lock, if that is still there.
func Fill(s State, m Marker, value string, ttl int64, e Env) (State, bool) {
	s = s.At(e.Now)
	if s.Content != Lock || s.Marker.ID != m.ID {
		return s, false
	}
	return s.holding(value, ms(e.Now)+ttl), true
}

// Release gives a lock up.
func Release(s State, m Marker, e Env) (State, bool) {
	s = s.At(e.Now)
	if s.Content != Lock || s.Marker.ID != m.ID {
		return s, false
	}
	return s.emptied(), true
}

// Replay merges a record into a key.
func Replay(s State, r Record, e Env) (State, Outcome) {
	s = s.At(e.Now)
	u := max(r.Margin, e.Margin)
	if r.Op == OpFill {
		return replayFill(s, r, e)
	}
	verdict := Applied
	asSet := r.Op == OpSet
	if asSet && (ms(e.Now) >= r.Expires || e.Now > r.Stamp.Time+e.StampTTL-u) {
		asSet, verdict = false, TooOld // what it has replaced must not come back
		expired := ms(e.Now) >= r.Expires
		switch {
		case expired && e.without.has(expiredSetDeletes):
			return s, Dropped
		case !expired && e.without.has(oldSetDeletes):
			asSet, verdict = true, Applied
		}
	}

	c := s.Companion
	if (r.Unsure || r.Stamp.Time > e.Now+u) && !e.without.has(unsureIsNow) { // or its clock was ahead by more than it may be
		if c.Expires != 0 && c.Client == r.Stamp.Client && c.Counter >= r.Stamp.Counter {
			return s, Done
		}
		if asSet {
			verdict = TooOld
		}
		r.Stamp.Time = max(e.Now, c.Time+1)
		return s.emptied().leave(Companion{Stamp: r.Stamp, ValueExpires: e.ofDelete(), Margin: e.margin(2 * (r.Stamp.Time - e.Now))}, e), verdict
	}

	if !e.without.has(writesHaveServersTime) {
		r.Stamp.Time = min(r.Stamp.Time, e.Now)
	}
	apart := u
	if !e.without.has(marginIsRemembered) {
		apart = max(u, c.Margin)
	}
	next, contested := Companion{Stamp: r.Stamp, Margin: e.margin(u)}, false
	switch {
	case c.Expires == 0:
	case c.Client == r.Stamp.Client && !e.without.has(sameClientCounts):
		if c.Counter >= r.Stamp.Counter {
			return s, Done
		}
		// c may have been done while connected, by a server whose clock is ahead of what the client
		// takes it for. Were the time to fall, Other could be the later one, and a third client's
		// Set be compared with the wrong one of them.
		if !e.without.has(stampNeverFalls) {
			next.Time = max(next.Time, c.Time)
		}
		next.Margin = e.margin(apart)
		if c.Other != 0 && c.Other >= next.Time-apart && !e.without.has(otherIsRemembered) {
			next.Other, contested = c.Other, true
		}
	case c.Time > r.Stamp.Time+apart:
		if s.Content == Value && ms(e.Now) >= c.ValueExpires {
			s = s.emptied()
		}
		return s, Superseded
	case c.Time < r.Stamp.Time-apart:
	case e.without.has(olderIsContested) && c.Stamp.Compare(r.Stamp) >= 0:
		return s, Superseded
	case e.without.has(newerIsContested) && c.Stamp.Compare(r.Stamp) < 0:
	default:
		contested = true
		next.Margin = e.margin(apart)
		switch {
		case c.Stamp.Compare(r.Stamp) < 0:
			next.Other = c.Time
		case e.without.has(topIsNewest):
		default:
			next.Stamp, next.Other = c.Stamp, max(c.Other, r.Stamp.Time)
		}
	}
	if contested && asSet {
		verdict = Contested
	}

	switch {
	case s.Content == Lock && s.Marker.Time > r.Stamp.Time+u && !e.without.has(newerLoadStays):
		if asSet && !contested {
			verdict = Reloads
			if e.without.has(yieldingLeavesStamp) {
				return s, verdict
			}
		}
	case asSet && !contested && (s.Content != Value || s.ownValue(e)):
		next.ValueExpires = r.Expires
		s = s.holding(r.Value, r.Expires)
	case s.Content == Lock && e.without.has(olderLoadIsVoided):
	default:
		if asSet && !contested {
			verdict = Reloads
		}
		s = s.emptied()
	}
	if next.ValueExpires == 0 && r.Op == OpDel {
		if e.without.has(deleteLeavesStamp) {
			s.Companion = Companion{}
			return s, verdict
		}
		next.ValueExpires = e.ofDelete()
	}
	return s.leave(next, e), verdict
}

// ownValue says that the value at the key is the one that the companion's Set has written.
func (s State) ownValue(e Env) bool {
	switch {
	case e.without.has(fillIsDeleted):
		return true
	case s.Companion.Expires == 0:
		return false
	case e.without.has(valueExpiresCounts) && s.Companion.ValueExpires != 0:
		return true
	}
	return ms(e.Now) < s.Companion.ValueExpires
}

func replayFill(s State, r Record, e Env) (State, Outcome) {
	switch {
	case s.Content != Nothing,
		r.Unsure || r.Stamp.Time > e.Now+max(r.Margin, e.Margin),
		s.Companion.Expires != 0 && !e.without.has(fillMindsStamps),
		ms(e.Now) >= r.Expires,
		e.Now > r.Stamp.Time+e.StampTTL-max(r.Margin, e.Margin) && !e.without.has(oldFillIsDropped),
		!e.Fenced && !e.without.has(fillIsFenced):
		return s, Dropped
	}
	return s.holding(r.Value, r.Expires), Applied
}

// rule names the rules, so that a test can leave one out and see what comes of it.
type rule uint32

const (
	sameClientCounts      rule = 1 << iota // writes of one client go by their counters
	otherIsRemembered                      // the companion knows the contested write of another client
	olderIsContested                       // a record that is older than the companion by no more than u deletes
	newerIsContested                       // a record that is newer than the companion by no more than u deletes
	stampNeverFalls                        // nor does a client's own later write make a companion's time an earlier one
	topIsNewest                            // a contested companion keeps the later of both stamps
	deleteLeavesStamp                      // a delete leaves a companion
	ownerIsNoDelete                        // a value beside the companion of a delete is a load's
	valueExpiresCounts                     // a value beside the companion of a Set that has expired is a load's
	fillIsDeleted                          // a Set does not overwrite what a load left
	stampOutlivesValue                     // a companion lives for StampTTL at least
	expiredSetDeletes                      // an expired Set is replayed as a delete
	oldSetDeletes                          // so is one that is older than companions live
	newerLoadStays                         // a load that began later is left alone
	olderLoadIsVoided                      // a load that began earlier is not
	yieldingLeavesStamp                    // a Set that yields to a load leaves its stamp
	markerKeepsStart                       // a marker's time is the load's start, not its last renewal
	fillMindsStamps                        // a fill is not written where there is a companion
	oldFillIsDropped                       // nor if it is older than companions live
	fillIsFenced                           // nor if the server has lost its memory
	unsureIsNow                            // a record whose clock was off is a delete of now
	lateIsRefused                          // a write is not done after its caller has been answered (see world.go)
	waitsItOut                             // a caller whose write is in doubt is not answered before (see world.go)
	writesHaveServersTime                  // a write that a server does has that server's time, and no record has a later one
	marginIsRemembered                     // a companion knows how far its times may be off, if that is far
)

func (r rule) has(one rule) bool { return r&one != 0 }

const forEver = 1 << 50 // ms

// margin is u as a companion has it.
func (e Env) margin(u int64) int64 {
	if u <= e.Margin {
		return 0
	}
	return u
}

// ofDelete is the ValueExpires of a delete.
func (e Env) ofDelete() int64 {
	if e.without.has(ownerIsNoDelete) {
		return forEver
	}
	return 0
}
