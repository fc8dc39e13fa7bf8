package aside

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/near"
	"github.com/redaside/aside/internal/script"
	"github.com/redaside/aside/internal/stamp"
	"github.com/redaside/aside/internal/wire"
)

// Groups: the keys of a Clearable view, and the values with a tag. Each has a key of its own in
// Redis, whose value is the group's state. A value notes in its header the states of its groups from
// before it was loaded, and is served while they are the same; see docs/adr/0012.
//
//	Clear, DelTags      delete the group's key, as a Del does: pushed, kept in an outage, replayed
//	a reader            finds the key gone, and makes a new state, which no value has noted
//	a load that began   before has noted the old state: what it stores is never served
//
// So a key that is missing for any other reason clears its group as well. No clocks are compared.

// groupTTL is how long the key of a tag outlives its last use. That of a prefix does not expire.
const groupTTL = 30 * 24 * time.Hour

// groupStates are states of groups that Redis was asked for. nil: none.
type groupStates map[*near.Group]int64

// of returns the state of g, if Redis was asked for it.
func (gs groupStates) of(g *near.Group) (int64, bool) {
	state, ok := gs[g]
	return state, ok
}

// add adds those of groups to to whose state is not known, each once.
func (gs groupStates) missing(to []*near.Group, all []near.Membership) []*near.Group {
next:
	for i := range all {
		g := all[i].Group
		if _, ok := gs[g]; ok {
			continue
		}
		if _, ok := g.State(); ok {
			continue
		}
		for _, other := range to {
			if other == g {
				continue next
			}
		}
		to = append(to, g)
	}
	return to
}

// grouper knows the groups of values.
type grouper struct{ *Client }

// newMeta returns what memory keeps of the header of a value of key's, whose load began at started,
// in link.Now's time, if not 0: else that is reckoned from the header. nil: there is no header. It
// reports false for a header that cannot be key's.
func (gr grouper) newMeta(key string, h *wire.Header, started int64) (*near.Meta, bool) {
	if h == nil {
		return nil, true
	}
	if h.Prefix.Length > len(key) {
		return nil, false
	}
	m := &near.Meta{Header: *h, Loaded: started}
	if started == 0 && h.Began > 0 {
		at := gr.link.Now()
		now, slack := gr.link.ServerTime(gr.link.Home(key))
		m.Loaded = cmp.Or(at-(now-h.Began+link.ClockError(slack))*int64(time.Microsecond), -1) // before this process began, where it is negative
	}
	if n := h.Prefix.Length; n > 0 {
		m.Clears = append(m.Clears, near.Membership{Group: gr.near.Group(wire.PrefixGroup(key[:n])), Seen: h.Prefix.Seen})
	}
	for _, tag := range h.Tags {
		m.Clears = append(m.Clears, near.Membership{Group: gr.near.Group(wire.TagGroup(tag.Name)), Seen: tag.SeenCleared})
		m.Expires = append(m.Expires, near.Membership{Group: gr.near.Group(wire.ExpiredGroup(tag.Name)), Seen: tag.SeenExpired})
	}
	if started > 0 {
		gr.heed(m.Clears)
		gr.heed(m.Expires)
	}
	return m, true
}

// heed has groups know that this process has cleared them, and Redis does not know yet: where a loader
// names tags nothing may have referred to them then.
func (gr grouper) heed(all []near.Membership) {
	for i := range all {
		g := all[i].Group
		if g.Changed() != 0 || !gr.store.Pending(g.Key()) {
			continue
		}
		at := gr.link.Now()
		if s, ok := gr.store.Stamp(g.Key()); ok {
			if cleared, ok := stamp.Micros(s); ok {
				now, _ := gr.link.ServerTime(gr.link.Home(g.Key()))
				at -= (now - cleared) * int64(time.Microsecond)
			}
		}
		g.ChangedAt(at)
	}
}

// ask asks Redis for the states of groups, with one round trip per shard. What it has no answer for
// is missing.
func (gr grouper) ask(ctx context.Context, all []*near.Group) groupStates {
	if len(all) == 0 {
		return nil
	}
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b *near.Group) int { return strings.Compare(a.Key(), b.Key()) })
	all = slices.Compact(all)
	var pending []string
	for _, g := range all {
		if gr.mayBeUnsettled(g.Key()) {
			pending = append(pending, g.Key())
		}
	}
	unsettled := gr.unsettledOf(ctx, pending)
	var groups []*near.Group
	var shards []*link.Shard
	var reserved []near.Reservation
	for _, g := range all {
		sh := gr.link.Shard(g.Key())
		if !sh.Asks() || unsettled[g.Key()] {
			continue
		}
		groups, shards = append(groups, g), append(shards, sh)
		reserved = append(reserved, gr.near.Reserve(g.Key(), sh.Valid))
	}
	if len(groups) == 0 {
		return nil
	}
	batches := gr.link.Batches(script.Group, nil, link.List{
		Len: len(groups), Key: func(i int) (string, *link.Shard) { return groups[i].Key(), shards[i] },
		Args: func(to []string, i int) []string {
			if wire.IsPrefixGroup(groups[i].Key()) {
				return append(to, "0")
			}
			return append(to, script.InMilliseconds(groupTTL))
		},
	})
	states := make(groupStates, len(groups))
	var mu sync.Mutex // of states
	gr.link.RunBatches(ctx, batches, &link.Pieces{}, func(b *link.Batch) {
		answers, err := groupAnswers(b)
		if err != nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		for n, i := range b.Of {
			state, use := answers[2*n], time.Duration(answers[2*n+1])*time.Millisecond/2 // asked for again then, its life begins anew
			if states[groups[i]] = max(state, 0); state <= 0 {                           // it has none, as on a full server, which clears it
				continue
			}
			if b.Moved {
				reserved[i].Void()
			}
			gr.near.CommitGroup(groups[i], reserved[i], state, use)
		}
	})
	return states
}

// groupAnswers reads what script.Group answers; 0 is no state.
func groupAnswers(b *link.Batch) ([]int64, error) {
	if b.Err != nil {
		return nil, b.Err
	}
	answer, err := b.Reply.ToArray()
	if err != nil {
		return nil, err
	}
	numbers := make([]int64, 2*len(b.Keys))
	for i := range min(len(answer), len(numbers)) {
		if i%2 == 1 {
			if numbers[i], err = answer[i].AsInt64(); err != nil {
				return nil, err
			}
		} else if !answer[i].IsNil() {
			text, err := answer[i].ToString()
			if err != nil {
				return nil, err
			}
			numbers[i], _ = stamp.ReadMicros(text)
		}
	}
	return numbers, nil
}

// verdict is what is known of the groups of a value that Redis was asked for, perhaps after Redis was
// asked for their states. ends: its key expires. grace is what its reader gives it.
func (gr grouper) verdict(m *near.Meta, states groupStates, ends bool, grace time.Duration) near.Verdict {
	switch v := m.Check(gr.link.Now(), false, states.of); {
	case v == near.GroupsUnknown:
		return near.GroupsCleared
	case v == near.GroupsExpired && (!ends || m.GraceOr(grace) == 0):
		return near.GroupsCleared // nobody would refresh it
	default:
		return v
	}
}

// unknown returns the groups of m whose state is not known.
func (gr grouper) unknown(to []*near.Group, m *near.Meta) []*near.Group {
	if m == nil || m.Check(gr.link.Now(), false, nil) != near.GroupsUnknown {
		return to
	}
	return groupStates(nil).missing(groupStates(nil).missing(to, m.Clears), m.Expires)
}

// elsewhere returns the groups of m that are not at sh: an answer of sh proves nothing of them, while
// what is known of the others was told before that answer. sh is nil where nobody knows who has
// answered.
func (gr grouper) elsewhere(m *near.Meta, sh *link.Shard) (groups []*near.Group) {
	if m == nil {
		return nil
	}
	for _, all := range [][]near.Membership{m.Clears, m.Expires} {
		for i := range all {
			if g := all[i].Group; gr.link.Home(g.Key()) != sh {
				groups = append(groups, g)
			}
		}
	}
	return groups
}

// proven decides for a call with WithFresh whether the groups of its value have been cleared, or have
// made it stale. sh is the shard that has answered with that since the call began: its groups are known,
// see elsewhere; nil: there is none, or it tells of no changes. It reports false if not all others could
// be asked for.
func (gr grouper) proven(ctx context.Context, m *near.Meta, sh *link.Shard) (v near.Verdict, ok bool) {
	if m == nil {
		return near.GroupsHold, true
	}
	all := gr.unknown(gr.elsewhere(m, sh), m)
	states := gr.ask(ctx, all)
	if !states.haveAll(all) {
		return near.GroupsUnknown, false
	}
	if v = m.Check(gr.link.Now(), false, states.of); v == near.GroupsUnknown { // a change was told of meanwhile
		v = near.GroupsCleared
	}
	return v, true
}

// haveAll reports whether Redis has told the states of all groups.
func (gs groupStates) haveAll(all []*near.Group) bool {
	for _, g := range all {
		if _, ok := gs[g]; !ok {
			return false
		}
	}
	return true
}

// errGroupsUnproven is why a call has no answer though its key was read.
var errGroupsUnproven = fmt.Errorf("%w for the state of a group of the value, which may have been cleared", link.ErrNotAsked)

// changedSince reports whether a group of m was heard to change since then, or this process has
// cleared it.
func (gr grouper) changedSince(m *near.Meta, then int64) bool {
	changed := func(of near.Membership) bool { return of.Group.Changed() >= then }
	return m != nil && (slices.ContainsFunc(m.Clears, changed) || slices.ContainsFunc(m.Expires, changed))
}

// holds says what the groups of a value have come to since it was loaded; away: it was kept for an
// outage. GroupsUnknown: Redis could not be asked.
func (gr grouper) holds(ctx context.Context, m *near.Meta, away bool) near.Verdict {
	v := m.Check(gr.link.Now(), away, nil)
	if v != near.GroupsUnknown {
		return v
	}
	v = m.Check(gr.link.Now(), away, gr.ask(ctx, gr.unknown(nil, m)).of)
	if v != near.GroupsUnknown {
		return v
	}
	// Of one that was known a change was told meanwhile, or the connection is another.
	return m.Check(gr.link.Now(), away, gr.ask(ctx, gr.elsewhere(m, nil)).of)
}

// see returns the states of groups, as what is loaded or set from now on has to note them. While a
// group's server is away it is the one that was known last; without one, it is missing.
func (gr grouper) see(ctx context.Context, all []*near.Group) groupStates {
	states := make(groupStates, len(all))
	var unknown []*near.Group
	for _, g := range all {
		if state, ok := g.State(); ok {
			states[g] = state
		} else {
			unknown = append(unknown, g)
		}
	}
	asked := gr.ask(ctx, unknown)
	for _, g := range unknown {
		if state, ok := asked[g]; ok {
			states[g] = state
		} else if state, _ := g.LastState(); state != 0 && !gr.link.Shard(g.Key()).Asks() {
			states[g] = state
		}
	}
	return states
}

// groupsOf returns the groups of what is loaded or set with options.
func (gr grouper) groupsOf(options *callOptions) (all []*near.Group) {
	if options.clears != nil {
		all = append(all, options.clears)
	}
	return gr.groupsOfTags(all, options.tags)
}

func (gr grouper) groupsOfTags(to []*near.Group, tags []string) []*near.Group {
	for _, tag := range tags {
		to = append(to, gr.near.Group(wire.TagGroup(tag)), gr.near.Group(wire.ExpiredGroup(tag)))
	}
	return to
}

// note adds to h the groups that options name, and those of more tags, with the states that were seen.
func (gr grouper) note(h *wire.Header, options *callOptions, more []string, seen groupStates) {
	if options.clears != nil {
		h.Prefix = wire.Prefixed{Length: len(options.prefix), Seen: seen[options.clears]}
	}
	if len(options.tags)+len(more) == 0 {
		return
	}
	names := slices.Concat(options.tags, more)
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		h.Tags = append(h.Tags, wire.Tag{
			Name: name, SeenCleared: seen[gr.near.Group(wire.TagGroup(name))], SeenExpired: seen[gr.near.Group(wire.ExpiredGroup(name))],
		})
	}
}

// began is when something began that began so at began, in link.Now's time, by the clock of sh's
// server, in µs: at the earliest.
func (gr grouper) began(sh *link.Shard, began, leastError int64) int64 {
	now, slack := gr.link.ServerTime(sh)
	return now - (gr.link.Now()-began)/int64(time.Microsecond) - max(link.ClockError(slack), leastError)
}

// setMeta is what is stored with a value of key's that is set now, for ttl and the grace of options,
// given what seeSet has seen; nil: nothing.
func (gr grouper) setMeta(options *callOptions, ttl time.Duration, key string, seen groupStates) *near.Meta {
	if options == nil || seen == nil && options.version == 0 && options.need.MaxAge == 0 {
		return nil
	}
	h := wire.Header{Version: options.version}
	if options.need.MaxAge > 0 && ttl <= LongestTTL { // as header has it; what does not expire has no ttl to be told
		h.TTL, h.Grace = ttl-options.grace, options.grace
	}
	gr.note(&h, options, nil, seen)
	now := gr.link.Now()
	h.Began = max(gr.began(gr.link.Home(key), now, 0), 1)
	m, _ := gr.newMeta(key, &h, now)
	return m
}

// holdsAway is holds for what was kept for an outage: this process may have cleared a group since, and
// Redis does not know yet.
func (gr grouper) holdsAway(ctx context.Context, m *near.Meta) near.Verdict {
	if m == nil {
		return near.GroupsHold
	}
	for _, all := range [][]near.Membership{m.Clears, m.Expires} {
		for i := range all {
			key := all[i].Group.Key()
			if s, ok := gr.store.Stamp(key); ok && gr.store.Pending(key) {
				if at, ok := stamp.Micros(s); !ok || m.Began <= at {
					return near.GroupsCleared
				}
			}
		}
	}
	return gr.holds(ctx, m, true)
}
