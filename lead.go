package aside

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/near"
	"github.com/redaside/aside/internal/script"
	"github.com/redaside/aside/internal/wire"
)

// leader asks Redis for the keys of the flights that one call leads. What an answer means is
// decided in one place (next), for one key and for many.
type leader struct {
	*Client
	who  *caller
	room uintptr // of the plan
}

// asking is one key that a leader asks for, and what came of it.
type asking struct {
	f        *flight
	bad      string // fingerprint of what the key is known to hold and that is nothing, else ""
	shard    *link.Shard
	reserved near.Reservation // void if the answer must not be kept
	found    finding
	err      error

	stuck stuck // the lock that the leader waits for
	large int64 // bytes that were found, and are to be asked for in turn
	polls int   // how often a lock was found
	again bool  // it has been asked for a second time, see mayAskAgain
}

// step is what a leader does next about a key.
type step int

const (
	finished   step = iota // nothing: its flight has its outcome, or the leader has left
	askAgain               // ask Redis once more, at once
	callLoader             // call the loader, with the lock if it is ours
	awaitLock              // wait for somebody else's lock, then ask again
)

// next decides what an answer means. A value or an absence has completed its flight already.
func (l leader) next(a *asking) step {
	f := a.f
	if a.err != nil {
		switch {
		case l.who.Err() != nil:
			return finished
		case l.mayAskAgain(a):
			return askAgain
		}
		l.refusedRead(f.key, a.err)
		if l.answerFromStore(l.who, f, l.room) || l.who.Err() != nil {
			return finished
		}
		return callLoader
	}
	if a.large = a.found.large; a.large > 0 { // to be asked for in turn
		return askAgain
	}
	switch a.found.content {
	case wire.Value, wire.Absence:
		return finished
	case wire.Unreadable:
		a.bad = fingerprint(a.found.stored)
		l.counted.decodeErrors.Add(1)
		l.observe(Event{Kind: EventDecodeFailed, Key: f.key, Err: errUnknownHeader})
		l.warn(&l.seldomDecode, "a stored value has a header of another version, so it is loaded again", keyAttr(f.key))
		return askAgain
	case wire.Lock:
	default:
		return askAgain
	}
	switch {
	case a.found.mine:
		return callLoader
	case a.stuck.overdue(a.found, l.link.Now(), l.opt.LockTTL), l.orphaned(f.key, a.found.stored):
		a.bad = fingerprint(a.found.stored) // it is nobody's
		return askAgain
	}
	l.waitsForLock(f.key)
	return awaitLock
}

var errUnknownHeader = errors.New("aside: the stored value has a header of another version")

// mayAskAgain reports whether a leader should ask once more after an error: one late answer of a
// server that is well must not call the loader while somebody else holds the lock.
func (l leader) mayAskAgain(a *asking) bool {
	if a.again || !a.shard.Asks() || !link.Unanswered(a.err) && !errors.Is(a.err, link.ErrLeftOut) {
		return false
	}
	a.again = true
	return true
}

// note notes what Redis has answered.
func (a *asking) note(found finding, moved bool) {
	a.found, a.err = found, found.err
	if moved {
		a.reserved.Void()
	}
}

// complete completes the flight with what Redis has answered, if that is a value or an absence.
func (l leader) complete(a *asking) {
	found := &a.found
	if a.err != nil || found.content != wire.Value && found.content != wire.Absence {
		return
	}
	l.counted.redisHits.Add(1)
	out := outcome{raw: found.value, absent: found.content == wire.Absence, proven: true, gen: a.reserved.Generation()}
	if found.ttl >= 0 {
		out.ends = a.reserved.At() + int64(found.ttl)
	}
	out.entry = l.near.Commit(a.f.key, a.reserved, near.Value{Raw: out.raw, Absent: out.absent, TTL: found.ttl, Room: l.room})
	l.flights.complete(a.f, out)
	l.observe(Event{Kind: EventHit, Key: a.f.key, Source: SourceRedis})
}

// item is what a load has to know of a key.
func (a *asking) item() loadItem {
	item := loadItem{f: a.f, shard: a.shard}
	if a.err != nil {
		item.free = errors.Is(a.err, link.ErrNotAsked)
	} else {
		item.marker, item.locked = a.found.stored, a.reserved.At()
	}
	return item
}

// lead asks for the key of a flight until it is done or its loader has been started. bad is as in
// asking.
func (l leader) lead(f *flight, bad string, p *plan) {
	defer l.flights.abandon(f)
	for a := (asking{f: f, bad: bad}); ; {
		l.readOrLock(l.who, &a)
		l.complete(&a)
		switch l.next(&a) {
		case finished:
			return
		case callLoader:
			l.newLoadOfOne(l.who, p, a.item()).start()
			return
		case awaitLock:
			if !l.awaitHolder(&a) {
				return
			}
		case askAgain:
		}
	}
}

// leadMulti is lead for many flights, those of asked. It returns when each is done or its loader
// has been started: one call of the loader for what was locked in a round, before anybody else is
// waited for.
func (l leader) leadMulti(asked []asking, p *plan) {
	defer func() {
		for i := range asked {
			l.flights.abandon(asked[i].f)
		}
	}()
	ask := pointers(asked)
	waits := heldLocks{leader: l}
	defer waits.leave()
	for ; len(ask) > 0; ask = waits.ready() {
		l.readOrLockMulti(ask)
		if l.who.Err() != nil { // nobody will load what was locked
			for _, a := range ask {
				if a.err == nil && a.found.mine {
					l.disown(a.shard, []string{a.f.key}, a.found.stored)
				}
			}
			return
		}
		var load []loadItem
		for _, a := range ask {
			switch l.next(a) {
			case finished:
			case callLoader:
				if load == nil {
					load = make([]loadItem, 0, len(ask))
				}
				load = append(load, a.item())
			case awaitLock:
				waits.add(a)
			case askAgain:
				waits.again = append(waits.again, a)
			}
		}
		if len(load) > 0 {
			l.newLoad(l.who, p, load).start()
		}
	}
}

// awaitHolder waits until somebody else's lock has changed hands; false: the caller or the client
// has ended first.
func (l leader) awaitHolder(a *asking) bool {
	changed, leave, ok := l.near.Wait(a.f.key, a.reserved, nil)
	if !ok {
		return l.who.Err() == nil // it has changed while the answer was on its way
	}
	defer leave()
	timer := time.NewTimer(l.patience(a))
	defer timer.Stop()
	select {
	case <-changed:
		return true
	case <-timer.C:
		return true
	case <-l.who.Done():
		return false
	case <-l.lifecycle.ctx.Done():
		return false
	}
}

// patience is how long to wait for a push about a lock, by its ttl. Where nothing is pushed, it is
// the time until the next look.
func (l leader) patience(a *asking) time.Duration {
	const slack = 10 * time.Millisecond // Redis removes an expired key when it is asked for it
	ttl, polls := a.found.ttl, a.polls
	a.polls++
	end := min(max(ttl, 0), l.opt.LockTTL) + slack
	if ttl < 0 { // a marker that does not expire was not made by us; never wait for it for ever
		end = l.opt.LockTTL
	}
	if !a.reserved.Pushes() {
		return min(end, link.Jitter(min(time.Millisecond<<min(polls, 10), 50*time.Millisecond)))
	}
	return end
}

// heldLocks are the keys of a leadMulti that somebody else is loading.
type heldLocks struct {
	leader
	changed chan struct{} // gets a token when one of them changes; buffered, made with the first
	held    []heldLock
	again   []*asking // to be asked for at once
}

type heldLock struct {
	*asking
	changed <-chan struct{}
	leave   func()
	due     int64 // when to look again in any case, in link.Now's time
}

func (w *heldLocks) add(a *asking) {
	if w.changed == nil {
		w.changed = make(chan struct{}, 1)
	}
	changed, leave, ok := w.near.Wait(a.f.key, a.reserved, w.changed)
	if !ok {
		w.again = append(w.again, a)
		return
	}
	w.held = append(w.held, heldLock{asking: a, changed: changed, leave: leave, due: w.link.Now() + int64(w.patience(a))})
}

// ready waits until there is something to ask for again, and returns it; nil: nothing is held any
// more, or the caller or the client has ended.
func (w *heldLocks) ready() []*asking {
	found := w.again
	w.again = nil
	for len(found) == 0 && len(w.held) > 0 {
		due := int64(math.MaxInt64)
		for _, h := range w.held {
			due = min(due, h.due)
		}
		timer := time.NewTimer(time.Duration(due - w.link.Now()))
		select {
		case <-w.changed:
		case <-timer.C:
		case <-w.who.Done():
		case <-w.lifecycle.ctx.Done():
		}
		timer.Stop()
		if w.who.Err() != nil || w.lifecycle.ctx.Err() != nil {
			return nil
		}
		now := w.link.Now()
		w.held = slices.DeleteFunc(w.held, func(h heldLock) bool {
			select {
			case <-h.changed:
			default:
				if now < h.due {
					return false
				}
			}
			h.leave()
			found = append(found, h.asking)
			return true
		})
	}
	return found
}

func (w *heldLocks) leave() {
	for _, h := range w.held {
		h.leave()
	}
}

// readOrLock asks for one key.
func (c *Client) readOrLock(ctx context.Context, a *asking) {
	key := a.f.key
	sh := c.link.Shard(key)
	a.shard, a.reserved, a.found, a.err = sh, near.Reservation{}, finding{}, link.ErrNotAsked
	if c.unsettled(ctx, key) || sh == nil {
		return
	}
	a.reserved = c.near.Reserve(key, sh.Valid)
	if a.bad == "" && a.large == 0 && sh.CanBatch() {
		if own := sh.Batcher(locks).Enter(key); own != nil {
			c.awaitBatch(ctx, a, own)
			return
		}
		defer sh.Batcher(locks).Leave()
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
func (c *Client) awaitBatch(ctx context.Context, a *asking, own *link.Request) {
	if !own.Wait(ctx, c.lifecycle.ctx) {
		a.err = cmp.Or(ctx.Err(), ErrClosed)
		return
	}
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
		if a.shard == nil || unsettled[a.f.key] {
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
				l.complete(a)
			}
		}
	})
}
