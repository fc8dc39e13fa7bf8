package aside

import (
	"context"
	"slices"
	"time"

	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/script"
)

// A loaded value is early while callers already have it but Redis has not acknowledged it. A load
// answers early when its loader has returned, to the callers that joined before it was called.
// Everything else that this process asks about the key, or does to it, waits until the fill is
// answered; but for Set and Del, after which the fill is refused. See docs/adr/0007.

// maxEarly bounds what is early, in bytes. A single load may exceed it if nothing else is early.
// Without it, callers that ask for keys faster than Redis can store their values would fill our
// memory with them, and their locks would run out.
const (
	maxEarly  = 1 << 20
	earlyItem = 1 << 10 // what an item counts beside its value

	fillGrace = 500 * time.Millisecond // of closeGrace, for what was loaded and waits to be stored
)

// answerEarly gives what the loader has returned to the callers that joined before it was called,
// without having them wait until it is stored. The others must wait: nothing else tells whether
// somebody has changed the key since the load began.
func (l *load) answerEarly() {
	c := l.c
	if all := c.loads.earlyBytes.Add(l.early); c.opt.StoreFirst || all > maxEarly && all > l.early {
		c.loads.earlyBytes.Add(-l.early)
		l.early = 0
		return
	}
	early := l.one.early[:]
	if len(l.items) > 1 {
		early = make([]outcome, len(l.items))
	}
	for i, item := range l.items {
		if item.marker != "" {
			early[i] = l.outcome(i, outcome{entry: item.entry})
			item.f.answerEarly(&early[i])
		}
	}
}

// awaitStored waits until what was loaded for keys, and is early, is stored or cannot be: who has
// something from Get must find it in Redis, too. It waits for RedisTimeout at most, and not for a
// shard that is away.
func (c *Client) awaitStored(ctx context.Context, keys ...string) error {
	if c.loads.earlyBytes.Load() == 0 {
		return nil
	}
	var all []<-chan struct{}
	for _, key := range keys {
		if c.link.Shard(key).Asks() {
			all = c.flights.storing(all, key)
		}
	}
	if len(all) == 0 {
		return nil
	}
	enough := time.NewTimer(c.opt.RedisTimeout)
	defer enough.Stop()
	for _, stored := range all {
		select {
		case <-stored:
		case <-enough.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-c.lifecycle.ctx.Done():
			return ErrClosed
		}
	}
	return nil
}

// store hands out what was loaded, puts it into Redis and memory, and settles the load; perhaps
// after it has returned.
func (l *load) store() {
	c := l.c
	fill := l.one.fill[:0]   // to store
	var giveBack []*loadItem // to be unlocked only
	if len(l.items) > 1 {
		fill = make([]*loadItem, 0, len(l.items))
	}
	l.seeTags()
	for i := range l.items {
		item, out := &l.items[i], &l.out[i]
		item.n = i
		l.decide(i)
		storable, value := item.ttl > 0, l.value(i)
		switch {
		case !out.found:
			c.counted.notFound.Add(1)
		case out.err != nil:
			c.counted.encodeErrors.Add(1)
			l.tell(EventStoreFailed, item.f.key, out.err)
			storable = false
		case len(out.raw) > c.opt.MaxValueBytes:
			c.counted.tooLarge.Add(1)
			l.tell(EventStoreFailed, item.f.key, ErrTooLarge)
			c.warn(&c.seldomStore, "a loaded value is too large, so it is not stored", keyAttr(item.f.key), "bytes", len(out.raw), "MaxValueBytes", c.opt.MaxValueBytes)
			storable = false
		}
		if !storable {
			item.ttl = 0
		}
		if item.marker == "" {
			if item.refresh != nil && !storable {
				l.refreshedNothing(i)
			}
			l.give(i, outcome{free: item.free, entry: l.keepLoad(i)})
			continue
		}
		if item.shard = c.link.Shard(item.f.key); item.shard != nil { // another may have taken over since the lock
			item.reserved = c.near.Reserve(item.f.key, item.shard.Valid)
			if most := c.link.LongestArg(item.shard); storable && int64(len(stored(&value))) > most {
				c.counted.tooLarge.Add(1)
				l.tell(EventStoreFailed, item.f.key, ErrTooLarge)
				c.warn(&c.seldomStore, "a loaded value is too large for Redis, so it is not stored", keyAttr(item.f.key), "bytes", len(out.raw), "proto-max-bulk-len", most)
				storable, item.ttl = false, 0 // and its lock is given back
			}
		}
		l.early += earlyItem
		if !storable {
			giveBack = append(giveBack, item)
			continue
		}
		if item.refresh != nil {
			l.early += int64(len(out.raw))
			fill = append(fill, item)
			continue
		}
		l.early += int64(len(out.raw))
		item.entry = c.near.Prepare(item.f.key, item.reserved, value)
		fill = append(fill, item)
	}
	l.mu.Lock()
	l.storing = true // which may take longer than LockTTL, where much is on the way
	renewed := l.renewed
	l.mu.Unlock()
	l.answerEarly()
	if ttl := c.renewedTTL(); ttl != c.lockTTL && len(fill) > 0 {
		locks := pointers(slices.Clone(l.items))
		c.inBackground(func() { // ends with the answer: now rather than in a third of LockTTL, when it may come too late
			c.over(locks, overLocks{one: script.Renew, many: script.Renew, head: []string{ttl}})
		})
	}
	if l.special != nil {
		l.special.store(l, slices.Concat(fill, giveBack), func(item *loadItem) bool { return slices.Contains(fill, item) })
		l.settled()
		return
	}
	if len(l.items) == 1 && len(fill) == 1 { // the life of a plain Get
		l.fillOne()
		return
	}
	pieces := int64(0)
	if l.early > 0 {
		pieces = renewed + int64(c.opt.LockTTL/3) // so that no lock runs out before its fill
	}
	c.over(fill, overLocks{one: script.Fill, many: script.FillMany, args: l.fillArgs, until: pieces, answer: l.filled})
	if len(giveBack) > 0 {
		c.over(giveBack, overLocks{one: script.Release, many: script.Release, answer: func(_ bool, item *loadItem, ours bool, _ error) {
			l.give(item.n, outcome{proven: ours, gen: item.reserved.Generation()}) // a lock that was ours to the end proves as much as an accepted fill
		}})
	}
	l.settled()
}

// fillOne fills the only item of a load: before it returns, or, where it goes with others' in a
// batch, later.
func (l *load) fillOne() {
	item, request := &l.items[0], &l.one.request
	request.Key, request.Args, request.Owner = item.f.key, l.fillArgs(l.one.args[:0], item), l
	joins := item.shard.CanBatch()
	if joins && !item.shard.Batcher(fills).EnterOwned(request) {
		return
	}
	moved, accepted, err := l.c.overLock(item, &link.Call{Script: script.Fill, Keys: l.keys, Args: request.Args})
	if joins {
		item.shard.Batcher(fills).Leave()
	}
	l.filledOne(moved, accepted, err)
}

func (l *load) filledOne(moved, accepted bool, err error) {
	l.filled(moved, &l.items[0], accepted, err)
	l.settled()
}

// filled hands out an item whose fill was answered.
func (l *load) filled(moved bool, item *loadItem, accepted bool, err error) {
	c := l.c
	out := outcome{proven: accepted, gen: item.reserved.Generation()}
	switch {
	case err != nil:
		out.entry = l.keepLoad(item.n)
	case !accepted:
		c.counted.fillsRefused.Add(1)
	case !moved:
		out.entry = c.near.Put(item.f.key, item.reserved, item.entry)
	}
	l.give(item.n, out)
	switch { // an Observer may ask for this very key
	case err != nil:
		l.tell(EventStoreFailed, item.f.key, err)
	case !accepted:
		l.tell(EventFillRefused, item.f.key, nil)
	}
}

// give completes the flight of item i with what was loaded.
func (l *load) give(i int, out outcome) {
	l.c.near.Wake(l.items[i].f.key)
	l.c.flights.complete(l.items[i].f, l.outcome(i, out))
}

// outcome adds what was loaded for item i to out.
func (l *load) outcome(i int, out outcome) outcome {
	item := &l.items[i]
	out.raw, out.absent, out.meta, out.by = l.out[i].raw, !l.out[i].found, item.meta, l.call
	out.at, out.began, out.source, out.bare, out.waited = l.began, l.began, SourceLoader, item.marker == "", item.waited
	out.drilled = item.drill != nil
	out.unsure = (l.unsure || item.unsure) && item.marker != ""
	if item.ttl > 0 {
		out.ends = l.done + int64(item.ttl)
	}
	if out.absent {
		out.missing = l.missing
	}
	if err := l.out[i].err; err != nil {
		out.err = &encodeError{err}
	}
	return out
}

// fillAnswers are the answers to a batch of fills.
type fillAnswers struct {
	q        *link.Call
	accepted []int64
}

// sendFills fills the keys of requests.
func (c *Client) sendFills(sh *link.Shard, requests []*link.Request) {
	q := &link.Call{Script: script.FillMany, Keys: make([]string, len(requests)), Args: make([]string, 0, 3*len(requests))}
	for i, r := range requests {
		q.Keys[i] = r.Key
		q.Args = append(q.Args, r.Args...)
	}
	c.link.InTurn(context.Background(), sh, []*link.Call{q}, func() { c.link.Run(context.Background(), sh, q) })
	accepted, err := q.Flags()
	answers := &fillAnswers{q, accepted}
	for i, r := range requests {
		r.Answer(answers, i, err)
	}
}

// Insists reports whether a fill is sent although the client closes: else others would wait for
// what we have locked.
func (l *load) Insists() bool { return l.c.link.Now() < l.c.closedAt.Load()+int64(fillGrace) }

// lateFill is the answer to the fill of a load of one, as a worker's task.
type lateFill struct {
	l               *load
	moved, accepted bool
	err             error
}

func (f *lateFill) do() { f.l.filledOne(f.moved, f.accepted, f.err) }

// Answered takes the answer to the fill of a load of one.
func (l *load) Answered(r *link.Request) {
	moved, accepted := false, false
	if answers, ok := r.Result.(*fillAnswers); ok {
		moved, accepted = answers.q.Moved, r.Err == nil && answers.accepted[r.At] == 1
	}
	if l.c.opt.Observer == nil {
		l.filledOne(moved, accepted, r.Err)
	} else { // which may take its time, and ask for keys that wait for this sender
		l.c.work(&lateFill{l, moved, accepted, r.Err})
	}
}
