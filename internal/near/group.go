package near

import (
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
	"weak"

	"github.com/redaside/aside/internal/shape"
)

// Group is what is known of a group of entries: those whose key has a prefix, or that have a tag. A
// group has a key of its own in Redis, whose value is the group's state, a number that is never used
// again once the key is gone. An entry notes the states of its groups from before its value was
// loaded, and is valid while they are the same. So whatever removes a group's key clears the group.
//
// The state of a group is remembered like an entry, with the Validity of the group's server, but
// each entry refers to it directly. While that server is away, nobody can tell the state: an entry
// then follows the rule for what is unverified, see Meta.holdsAway.
//
// Safe for concurrent use.
type Group struct {
	key string  // in Redis; immutable
	of  *Memory // immutable

	known   atomic.Pointer[groupState] // the latest that Redis said; nil: it may have changed since. Written with the key's stripe locked
	changed atomic.Int64               // when the group was last heard to change, or this process has changed it

	// The latest state that was ever known, and since when: guarded by the key's stripe.
	last  int64
	since int64
}

// groupState is what Redis said of a group. Immutable.
type groupState struct {
	state   int64
	since   int64 // when it was known at the latest
	valid   *Validity
	epoch   uint64 // of valid
	expires int64  // until when it is used, in the memory's time: then the key's life is to be extended
}

// groups finds groups by their keys. Safe for concurrent use.
type groups struct {
	byKey    sync.Map     // of string, the key, and weak.Pointer[Group]: a group lives as long as somebody refers to it
	unheeded atomic.Int64 // when one that nobody referred to was last heard to change. Written with its stripe locked
}

// Group returns the group whose key in Redis is key. It does not keep key's bytes.
func (m *Memory) Group(key string) *Group {
	if g := m.groups.find(key); g != nil {
		return g
	}
	g := &Group{key: strings.Clone(key), of: m}
	p := weak.Make(g)
	for {
		was, taken := m.groups.byKey.LoadOrStore(g.key, p)
		if !taken {
			break
		}
		if other := was.(weak.Pointer[Group]).Value(); other != nil {
			return other
		}
		m.groups.byKey.CompareAndDelete(g.key, was)
	}
	runtime.AddCleanup(g, func(key string) { m.groups.byKey.CompareAndDelete(key, p) }, g.key)
	return g
}

func (gs *groups) find(key string) *Group {
	if p, ok := gs.byKey.Load(key); ok {
		return p.(weak.Pointer[Group]).Value()
	}
	return nil
}

// Key is where the state of g stands in Redis.
func (g *Group) Key() string { return g.key }

// Changed is when g was last heard to change, or this process has changed it; 0: never.
func (g *Group) Changed() int64 { return g.changed.Load() }

// ChangedAt notes that this process has changed g then, when perhaps nothing referred to g. It does
// nothing if a change is known already.
func (g *Group) ChangedAt(at int64) { g.changed.CompareAndSwap(0, max(at, 1)) }

// ChangedUnheeded has g count as changed if a group that nobody referred to has changed since then: it
// may have been g.
func (g *Group) ChangedUnheeded(then int64) {
	s := g.of.stripe(g.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if at := g.of.groups.unheeded.Load(); at >= then && at > g.changed.Load() {
		g.changed.Store(at)
	}
}

// State is the state of g; false: it is not known now.
func (g *Group) State() (state int64, ok bool) {
	if k := g.known.Load(); k != nil && k.servedAt(g.of.opt.Now()) {
		return k.state, true
	}
	return 0, false
}

// LastState is the latest state of g that was known, unless the group was heard to change since; 0:
// none. since is when it was known first.
func (g *Group) LastState() (state, since int64) {
	if k := g.known.Load(); k != nil {
		return k.state, k.since
	}
	return 0, 0
}

func (k *groupState) servedAt(now int64) bool {
	return now < k.expires && k.valid.ServesRead(k.epoch, now)
}

// CommitGroup stores what Redis has answered for the group's key under r; use is for how long it is
// used at most; negative: without end.
func (m *Memory) CommitGroup(g *Group, r Reservation, state int64, use time.Duration) {
	if !r.Pushes() {
		return
	}
	s := m.stripe(g.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gen != r.gen || r.epoch != r.valid.Epoch() || !m.livesAt(g.key, r.valid) {
		return
	}
	if g.last != state {
		g.last, g.since = state, m.opt.Now()
	}
	expires := int64(never)
	if use >= 0 && int64(use) < never-r.at {
		expires = r.at + int64(use)
	}
	g.known.Store(&groupState{state: state, since: g.since, valid: r.valid, epoch: r.epoch, expires: expires})
}

// dropGroupLocked notes that a key has changed that may be a group's. Its stripe is locked.
func (m *Memory) dropGroupLocked(key string) {
	now := max(m.opt.Now(), 1)
	g := m.groups.find(key)
	if g == nil {
		m.groups.unheeded.Store(now)
		return
	}
	g.known.Store(nil)
	g.changed.Store(now)
}

// Membership is that of a value in a group. Immutable.
type Membership struct {
	Group *Group
	Seen  int64 // the group's state before the value was loaded; 0: unknown
}

// Verdict says whether the groups of a value have changed since it was loaded.
type Verdict int

// The verdicts.
const (
	GroupsHold    Verdict = iota
	GroupsExpired         // it is stale
	GroupsUnknown         // Redis must be asked for the state of a group
	GroupsCleared         // it must not be served
)

// Check says what is known of m's groups at now; away: of what was loaded or set in this outage.
// known, if not nil, knows more: the states of groups that were just asked for; false for others.
func (m *Meta) Check(now int64, away bool, known func(*Group) (int64, bool)) Verdict {
	if m == nil {
		return GroupsHold
	}
	v := m.check(m.Clears, now, away, known)
	if v != GroupsHold {
		return v
	}
	if v = m.check(m.Expires, now, away, known); v == GroupsCleared {
		return GroupsExpired
	}
	return v
}

func (m *Meta) check(all []Membership, now int64, away bool, known func(*Group) (int64, bool)) Verdict {
	verdict := GroupsHold
	for i := range all {
		of := &all[i]
		v := of.check(now, known)
		if v == GroupsUnknown && m.holdsAway(of, now, away) {
			v = GroupsHold
		}
		verdict = max(verdict, v)
	}
	return verdict
}

func (of *Membership) check(now int64, known func(*Group) (int64, bool)) Verdict {
	if known != nil {
		if state, ok := known(of.Group); ok {
			return of.is(state)
		}
	}
	if k := of.Group.known.Load(); k != nil && k.servedAt(now) {
		return of.is(k.state)
	}
	return GroupsUnknown
}

func (of *Membership) is(state int64) Verdict {
	if state == of.Seen && state != 0 {
		return GroupsHold
	}
	return GroupsCleared
}

// holdsAway reports whether a value is served though the state of its group is unknown, because the
// group's server is away: the value must have been loaded since the group was last heard to change,
// under the state that was known last, if any is known, and no longer ago than what is unverified is
// served. What was loaded or set in this outage has its own bound for that.
func (m *Meta) holdsAway(of *Membership, now int64, away bool) bool {
	g := of.Group
	valid := g.of.home(g.key)
	if valid == nil || !valid.degraded.Load() || m.Loaded == 0 || m.Loaded <= g.changed.Load() {
		return false
	}
	if state, _ := g.LastState(); state != 0 && of.Seen != 0 && state != of.Seen {
		return false
	}
	most := int64(g.of.opt.AwayTTL)
	return away || most < 0 || now-m.Loaded < most
}

// grouped reports whether m names groups.
func (m *Meta) grouped() bool { return m != nil && len(m.Clears)+len(m.Expires) > 0 }

// holds reports whether e may be served, as far as its groups are concerned. Those whose state is
// unknown must be asked for.
func (m *Meta) holds(now int64, away bool) bool {
	for i := range m.Clears {
		of := &m.Clears[i]
		if k := of.Group.known.Load(); k != nil && k.state == of.Seen && k.servedAt(now) {
			continue
		}
		if of.check(now, nil) != GroupsUnknown || !m.holdsAway(of, now, away) {
			return false
		}
	}
	for i := range m.Expires {
		of := &m.Expires[i]
		if k := of.Group.known.Load(); k != nil && k.servedAt(now) {
			continue // then fresh says what it is
		}
		if !m.holdsAway(of, now, away) {
			return false
		}
	}
	return true
}

// fresh reports whether no group of m has expired, as far as is known; holds was called before.
func (m *Meta) fresh(now int64) bool {
	for i := range m.Expires {
		of := &m.Expires[i]
		if k := of.Group.known.Load(); k != nil && k.state != of.Seen && k.servedAt(now) {
			return false
		}
	}
	return true
}

// Expired reports whether a group has made e stale, as far as is known.
func (e *Entry) Expired(now int64) bool { return e.meta != nil && !e.meta.fresh(now) }

// Of reports whether m is that of a value in g.
func (m *Meta) Of(g *Group) bool {
	return m != nil && slices.ContainsFunc(m.Clears, func(of Membership) bool { return of.Group == g })
}

// membershipWeight is what the memberships take, beside the groups, which are shared.
func (m *Meta) membershipWeight() int {
	n := len(m.Clears) + len(m.Expires)
	if n == 0 {
		return 0
	}
	return shape.Rounded(n * int(unsafe.Sizeof(Membership{})))
}
