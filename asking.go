package aside

import (
	"cmp"
	"context"
	"errors"
	"sync"

	"github.com/redaside/aside/internal/drill"
	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/near"
	"github.com/redaside/aside/internal/script"
	"github.com/redaside/aside/internal/wire"
)

// The question of a leader to Redis, and what is noted of the answer. What the answer means is decided
// in lead.go.

// leader asks Redis for the keys of the flights that one call leads. What an answer means is
// decided in one place (next), for one key and for many.
type leader struct {
	*Client
	who *caller
	p   *plan
}

// asking is one key that a leader asks for, and what came of it.
type asking struct {
	f        *flight
	bad      string // fingerprint of what the key is known to hold and that is nothing, else ""
	shard    *link.Shard
	reserved near.Reservation // void if the answer must not be kept
	found    finding
	err      error

	stuck   stuck      // the lock that the leader waits for
	meta    *near.Meta // what the header says of what was found; nil: it has none
	expired bool       // a group has made it stale
	cleared bool       // its groups have changed since it was loaded, so it is nothing

	large int64        // bytes that were found, and are to be asked for in turn
	polls int          // how often a lock was found
	waits int64        // since when the leader waits for it, in link.Now's time; 0: it does not
	again bool         // it has been asked for a second time, see mayAskAgain
	drill *drill.Drill // that has it loaded, and Redis not asked; nil: none

	unproven error // why a call with WithFresh gets no answer
}

// note notes what Redis has answered.
func (a *asking) note(found finding, moved bool) {
	a.found, a.err = found, found.err
	if moved {
		a.reserved.Void()
	}
}

// has reports whether a key was found to hold a value or an absence.
func (a *asking) has() bool {
	return a.err == nil && (a.found.content == wire.Value || a.found.content == wire.Absence)
}

// item is what a load has to know of a key.
func (a *asking) item() loadItem {
	item := loadItem{f: a.f, shard: a.shard, drill: a.drill, waited: a.polls > 0}
	if a.err != nil {
		item.free = errors.Is(a.err, link.ErrNotAsked) && a.drill == nil
	} else {
		item.marker, item.locked = a.found.stored, a.reserved.At()
	}
	return item
}

// drilledBy reports whether a drill has the key loaded without a lock. Once Redis was asked, that goes
// on.
func (a *asking) drilledBy(drills *drill.Slot, p *plan) bool {
	if !p.undrilled && a.shard.Asks() && a.bad == "" && a.large == 0 && a.polls == 0 && !a.again {
		a.drill = drills.Load(a.f.key)
	}
	return a.drill != nil
}

// readOrLock asks for one key.
func (l leader) readOrLock(ctx context.Context, a *asking) {
	c, key := l.Client, a.f.key
	sh := c.link.Shard(key)
	a.shard, a.reserved, a.found, a.err = sh, near.Reservation{}, finding{}, link.ErrNotAsked
	if c.unsettled(ctx, key) || sh == nil || a.drilledBy(&c.drill, l.p) {
		return
	}
	a.reserved = c.near.Reserve(key, sh.Valid)
	if a.bad == "" && a.large == 0 && sh.CanBatch() {
		batcher := sh.Batcher(locks)
		if own := batcher.Enter(link.What{Key: key}); own != nil {
			l.awaitBatch(ctx, a, batcher, own)
			return
		}
		defer batcher.Leave()
	}
	marker := c.newMarker(sh)
	q := link.NewCall(script.ReadOrLock, key, marker, c.lockTTL, mostAnswered)
	if a.bad != "" {
		q.Script, q.Args[2] = script.ReplaceOrLock, a.bad
	}
	if q.Expects = a.large; q.Expects > 0 {
		q.Args[2] = anyLength
	}
	c.link.InTurn(ctx, sh, []*link.Call{q}, func() { c.link.Run(ctx, sh, q) })
	found, err := findingOf(q, marker)
	if err != nil && link.Unanswered(err) {
		c.disown(sh, q.Keys, marker)
	}
	if a.err = err; err == nil {
		a.note(found, q.Moved)
	}
}

// awaitBatch is readOrLock for a caller whose request goes with others'.
func (l leader) awaitBatch(ctx context.Context, a *asking, batcher *link.Batcher, own *link.Request) {
	if !own.Wait(ctx, l.lifecycle.ctx) {
		a.err = cmp.Or(ctx.Err(), ErrClosed)
		return
	}
	defer batcher.Release(own)
	if a.err = own.Err; a.err == nil {
		answers := own.Result.(*lockAnswers)
		a.note(answers.found[own.At], answers.q.Moved)
	}
}

// readOrLockMulti asks for many keys at once. A value completes its flight as soon as its shard has
// answered. Keys of a script call share a marker: with the key it still is unique.
func (l leader) readOrLockMulti(ask []*asking) {
	c := l.Client
	plain := make([]*asking, 0, len(ask))
	var replace []*asking
	var pending []string
	for _, a := range ask {
		if c.mayBeUnsettled(a.f.key) {
			pending = append(pending, a.f.key)
		}
	}
	unsettled := c.unsettledOf(l.who, pending)
	for _, a := range ask {
		a.shard, a.reserved, a.found, a.err = c.link.Shard(a.f.key), near.Reservation{}, finding{}, nil
		if a.shard == nil || unsettled[a.f.key] || a.drilledBy(&c.drill, l.p) {
			a.err = link.ErrNotAsked
			continue
		}
		a.reserved = c.near.Reserve(a.f.key, a.shard.Valid)
		if a.bad != "" {
			replace = append(replace, a)
		} else {
			plain = append(plain, a)
		}
	}
	all := c.link.Batches(script.ReadOrLockMany, nil, link.List{
		Len:   len(plain),
		Key:   func(i int) (string, *link.Shard) { return plain[i].f.key, plain[i].shard },
		Bytes: func(i int) int64 { return plain[i].large },
	})
	asked := plain
	for _, a := range replace {
		all = append(all, &link.Batch{Shard: a.shard, Of: []int{len(asked)}, Call: link.Call{Script: script.ReplaceOrLock, Keys: []string{a.f.key}, Args: []string{a.bad}}})
		asked = append(asked, a)
	}
	for _, b := range all {
		last := mostAnswered
		if len(b.Args) > 0 {
			last = b.Args[0]
		}
		b.Args = []string{c.newMarker(b.Shard), c.lockTTL, last}
		b.Head = len(b.Args)
	}
	var mu sync.Mutex // of what waits for the states of groups
	var waiting []*asking
	var unknown []*near.Group
	c.link.RunBatches(l.who, all, &link.Pieces{}, func(b *link.Batch) {
		marker := b.Args[0]
		found, err := findingsOf(&b.Call, marker)
		if err != nil && link.Unanswered(err) {
			c.disown(b.Shard, b.Keys, marker)
		}
		for n, i := range b.Of {
			a := asked[i]
			if a.err = err; err == nil {
				a.note(found[n], b.Moved)
				if groups := l.unknown(nil, a); len(groups) > 0 {
					mu.Lock()
					waiting, unknown = append(waiting, a), append(unknown, groups...)
					mu.Unlock()
					continue
				}
				l.judge(a, nil)
				l.complete(a)
			}
		}
	})
	l.judgeAll(waiting, unknown)
	for _, a := range waiting {
		l.complete(a)
	}
}

// unknown notes what the header of a value that was found says, and appends its groups whose state
// is not known.
func (l leader) unknown(to []*near.Group, a *asking) []*near.Group {
	a.meta, a.expired, a.cleared = nil, false, false
	if !a.has() || a.found.header == nil {
		return to
	}
	gr := grouper{l.Client}
	var ok bool
	if a.meta, ok = gr.newMeta(a.f.key, a.found.header, 0); !ok {
		a.found.content = wire.Unreadable
		return to
	}
	if l.p.options.need.Proven {
		to = append(to, gr.elsewhere(a.meta, a.answeredBy())...)
	}
	return gr.unknown(to, a.meta)
}

// answeredBy is the shard that has answered; nil: nobody knows, as the key was on its way to another.
func (a *asking) answeredBy() *link.Shard {
	if !a.reserved.Pushes() {
		return nil
	}
	return a.shard
}

// judge decides whether what was found may be served, as far as its groups are concerned: states are
// those that Redis was asked for. What may not be is replaced, as what cannot be read is.
func (l leader) judge(a *asking, states groupStates) {
	if !a.has() {
		return
	}
	if l.p.options.need.Proven && !states.haveAll(grouper{l.Client}.elsewhere(a.meta, a.answeredBy())) {
		a.err = errGroupsUnproven
		return
	}
	switch (grouper{l.Client}).verdict(a.meta, states, a.found.ttl >= 0, l.p.options.grace) {
	case near.GroupsExpired:
		a.expired = true
	case near.GroupsCleared:
		a.cleared = true
	}
	if group := l.p.options.clears; group != nil && !a.meta.Of(group) {
		a.cleared = true // it is older than any clearing
	}
}

// judgeAll is judge for keys some of whose groups are unknown.
func (l leader) judgeAll(some []*asking, unknown []*near.Group) {
	states := grouper{l.Client}.ask(l.who, unknown)
	for _, a := range some {
		l.judge(a, states)
	}
}

// complete completes the flight with what Redis has answered, if that is a value or an absence.
func (l leader) complete(a *asking) {
	found := &a.found
	if !a.has() || a.cleared {
		return
	}
	l.counted.redisHits.Add(1)
	out := outcome{raw: found.value, absent: found.content == wire.Absence, proven: true, gen: a.reserved.Generation(), at: a.reserved.At(), source: SourceRedis, waited: a.polls > 0}
	if found.ttl >= 0 {
		out.ends = a.reserved.At() + int64(found.ttl)
	}
	if out.meta, out.expired = a.meta, a.expired; out.meta != nil {
		out.began = out.meta.Loaded
	}
	out.entry = l.near.Commit(a.f.key, a.reserved, near.Value{Raw: out.raw, Absent: out.absent, TTL: found.ttl, Room: l.p.room, Meta: out.meta})
	l.flights.complete(a.f, out)
	l.observe(l.who, Event{Kind: EventHit, Source: SourceRedis, View: l.p.seen.view(), Key: a.f.key, Keys: 1})
}
