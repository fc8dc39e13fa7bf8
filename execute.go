package aside

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/script"
	"github.com/redaside/aside/internal/stamp"
)

// How writes are sent. Each is sent with the time after which its server must not do it any more: a
// command that timed out may otherwise be executed much later, even after this process has gone.
//
//	a: Set k, no answer, kept for replay, acknowledged     b: Set k     server: a's Set k     <- would undo b's
//
// While few are under way each goes by itself, at once. Under load those of one key that come
// meanwhile go together, Sets with Sets and Dels with Dels, as reads and fills do (link.Batcher).
// Each keeps what it would have by itself: its stamp, its caller's context, its error, its second
// attempt.

const (
	maxWrites    = 32                    // in one script call
	mostTogether = 64 << 10              // bytes of a value that goes with others: a longer one would hold them up
	leastLeft    = 50 * time.Millisecond // that the caller of a write which goes with others must have
)

// write is one Set, Del or Touch.
type write struct {
	*Client
	verb   string
	keys   []string
	script *script.Script // with stamps; nil: it leaves none
	bare   *script.Script // without
	args   []string       // behind the window and what is about stamps

	op    fallback.Op // as which it is replayed; "" if not
	ttl   time.Duration
	value string

	one oneKey
}

// oneKey is room for what a write of one key needs, so that it is one piece of memory.
type oneKey struct {
	who     caller
	key     [1]string
	args    [2]string // write.args
	call    [5]string // what the script takes
	item    [3]string // what it takes for the key, in a request
	batch   link.Batch
	writing writing
	all     [1]*writing
	request link.Request // where it goes with others'
	joined  bool         // it has been asked whether it may
}

// writing is a batch of a write.
type writing struct {
	*link.Batch
	stamp stamp.Proposal
}

// batches are the script calls for keys, each with the stamp of what it does.
func (w *write) batches(keys []string) []*writing {
	s, stamped := w.bare, w.stamped()
	if stamped {
		s = w.script
	}
	if len(keys) == 1 {
		one := &w.one
		sh := w.link.Shard(keys[0])
		one.batch = link.Batch{Shard: sh, Call: link.Call{Script: s, Keys: keys, Args: one.call[:0], Stamped: stamped}}
		one.writing = writing{&one.batch, w.newStamp(sh)}
		one.all[0] = &one.writing
		return one.all[:]
	}
	batches := w.link.Batches(s, nil, link.List{
		Len: len(keys), Key: func(i int) (string, *link.Shard) { return keys[i], w.link.Shard(keys[i]) },
	})
	all := make([]*writing, len(batches))
	for i, b := range batches {
		b.Stamped = stamped
		all[i] = &writing{b, w.newStamp(b.Shard)}
	}
	return all
}

// stamped reports whether it leaves stamps.
func (w *write) stamped() bool { return w.script != nil && !w.opt.DisableStamps }

// newStamp proposes the stamp of a Set or Del of sh's keys.
func (w *write) newStamp(sh *link.Shard) stamp.Proposal {
	now, slack := w.link.ServerTime(sh)
	return w.stamps.Next(now, slack, func() bool {
		kept := w.store.Stats()
		return kept.Sets+kept.Deletes == 0 && w.store.writing.Load() <= 1 // no other write is on its way to the store
	})
}

// wakeClocks has the servers' clocks looked at where the prober rests: this machine's may have been
// set meanwhile. It comes before a stamp is proposed, as those to come are later than that.
func (w *write) wakeClocks(ctx context.Context, keys []string) {
	var resting []*link.Shard
	for _, key := range keys {
		if sh := w.link.Shard(key); sh.Rests() && !slices.Contains(resting, sh) {
			resting = append(resting, sh)
		}
	}
	if len(resting) > 0 {
		w.link.LookAtClocks(ctx, resting)
	}
}

// lookAtClocks has the servers' clocks looked at of those of all that need it, and gives these new
// stamps: nothing has been done in the name of the old ones. It returns them.
func (w *write) lookAtClocks(ctx context.Context, all []*writing, needed func(*writing) bool) (some []*writing) {
	for _, b := range all {
		if needed(b) {
			some = append(some, b)
		}
	}
	if len(some) > 0 {
		w.link.LookAtClocks(ctx, shardsOf(some))
		for _, b := range some {
			b.stamp = w.newStamp(b.Shard)
		}
	}
	return some
}

// shardsOf returns the shards of writes, each once.
func shardsOf(all []*writing) (shards []*link.Shard) {
	for _, b := range all {
		if !slices.Contains(shards, b.Shard) {
			shards = append(shards, b.Shard)
		}
	}
	return shards
}

// doable reports whether sh's server, whose clock may be off by slack, can be told until when it may
// do a write: else it could be done at any time.
func doable(sh *link.Shard, slack int64) bool {
	return !sh.Asks() || slack <= link.MostClockError.Microseconds()
}

// execute sends writes.
func (w *write) execute(ctx context.Context, all []*writing) {
	if len(all) == 1 && len(all[0].Keys) == 1 {
		w.executeOne(ctx, all[0])
		return
	}
	batches := make([]*link.Batch, 0, len(all))
	for _, b := range all {
		if _, slack := w.link.ServerTime(b.Shard); !doable(b.Shard, slack) {
			b.Err = link.ErrNotAsked
			continue
		}
		b.Args = w.appendItem(w.appendHead(b.Args[:0]), b)
		batches = append(batches, b.Batch)
	}
	w.link.RunBatches(ctx, batches, &link.Pieces{Before: func(sh *link.Shard, piece []*link.Batch) {
		w.openWindow(ctx, sh, piece)
	}}, nil)
	for _, b := range all {
		if link.IsTryAgain(b.Err) {
			w.executeMoving(ctx, b)
		}
	}
}

// appendHead appends what the script takes first: room for the window, and for how long stamps live.
func (w *write) appendHead(to []string) []string {
	if to = append(to, ""); w.stamped() {
		to = append(to, w.stampTTL)
	}
	return to
}

// appendItem appends what it takes for a key of b, or for all of them.
func (w *write) appendItem(to []string, b *writing) []string {
	if w.stamped() {
		to = append(to, b.stamp.Packed())
	}
	return append(to, w.args...)
}

// openWindow says from when to when sh's server may do what is about to be sent to it.
func (w *write) openWindow(ctx context.Context, sh *link.Shard, piece []*link.Batch) {
	if !sh.Asks() {
		return
	}
	bytes := int64(0)
	for _, b := range piece {
		bytes += b.Size()
	}
	patience := w.link.Patience(ctx, sh, bytes)
	now, slack := w.link.ServerTime(sh)
	for _, b := range piece {
		b.Args[0], b.NotAfter = link.WriteWindow(now, slack, patience)
	}
}

// executeOne sends a write of one key, perhaps with others'.
func (w *write) executeOne(ctx context.Context, b *writing) {
	if _, slack := w.link.ServerTime(b.Shard); !doable(b.Shard, slack) {
		b.Err = link.ErrNotAsked
		return
	}
	if w.canJoin(ctx, b) {
		batcher := b.Shard.Batcher(w.kind())
		if !w.join(ctx, batcher, b) {
			return
		}
		defer batcher.Leave()
	}
	b.Args = w.appendItem(w.appendHead(b.Args[:0]), b)
	w.link.InTurn(ctx, b.Shard, []*link.Call{&b.Call}, func() {
		w.openWindow(ctx, b.Shard, []*link.Batch{b.Batch})
		w.link.Run(ctx, b.Shard, &b.Call)
	})
	if b.Stamped && link.IsTryAgain(b.Err) {
		w.executeMoving(ctx, b)
	}
}

// kind is that of the requests with which a Set or Del goes.
func (w *write) kind() int {
	if w.op == fallback.OpSet {
		return sets
	}
	return dels
}

// canJoin reports whether b may go with others: once, its second attempt goes by itself.
func (w *write) canJoin(ctx context.Context, b *writing) bool {
	if w.op == "" || !b.Shard.CanBatch() || len(w.value) > mostTogether || w.one.joined {
		return false
	}
	w.one.joined = true
	r := &w.one.request
	r.Asked, r.Ends = w.link.Now(), math.MaxInt64
	if deadline, ok := ctx.Deadline(); ok {
		left := time.Until(deadline)
		r.Ends = r.Asked + int64(left)
		return left >= leastLeft
	}
	return true
}

// join has b go with others, and returns when that is answered or the caller leaves. It reports
// whether b is to go by itself, for which nothing has been done.
func (w *write) join(ctx context.Context, batcher *link.Batcher, b *writing) (alone bool) {
	r := &w.one.request
	r.Key, r.Args = b.Keys[0], w.appendItem(w.one.item[:0], b)
	if batcher.Join(r) {
		return true
	}
	answered := r.Wait(ctx, context.Background())
	with, begun := r.Result.(*link.Batch)
	switch {
	case answered:
		b.Reply, b.Err, b.NotAfter = with.Reply, with.Err, with.NotAfter
	case begun: // the caller leaves, while it may be done
		b.Err, b.NotAfter = ctx.Err(), with.NotAfter
	default:
		b.Err = fmt.Errorf("%w: %w", link.ErrNotAsked, ctx.Err())
	}
	return false
}

// executeMoving does a write whose slot is moving, as far as it can. What fails is kept with a new
// stamp: its replay would find the one that was left, or may have been, and take it for done.
func (w *write) executeMoving(ctx context.Context, b *writing) {
	if done := w.moveAlong(ctx, b); !done && b.Stamped {
		b.stamp = w.newStamp(b.Shard)
	}
}

// moveAlong does a write key by key, and with stamps in two steps, each of one key: see
// script.Stamp. It reports whether all of them are done.
func (w *write) moveAlong(ctx context.Context, b *writing) (done bool) {
	for _, key := range b.Keys {
		if b.Stamped {
			q := link.NewCall(script.Stamp, stamp.Bucket(key), b.Args[0], b.stamp.Packed(), w.stampTTL, script.InMilliseconds(w.ttl))
			q.Args = append(q.Args, key)
			w.link.Run(ctx, b.Shard, q)
			b.Reply, b.Err = q.Reply, q.Err
			if said, err := q.Reply.AsInt64(); q.Err != nil || err != nil || said <= 0 {
				return false
			} else if said == 2 {
				continue
			}
		}
		q := link.NewCall(w.bare, key, b.Args[0])
		q.Args = append(q.Args, w.args...)
		w.link.Run(ctx, b.Shard, q)
		if b.Reply, b.Err = q.Reply, q.Err; q.Err != nil || q.Untimely() {
			return false
		}
	}
	return true
}

// batchedWrites are writes of many callers, of one kind.
type batchedWrites struct {
	*Client
	script *script.Script
}

// writesBy are those that go in calls of s, or, where stamps are disabled, of bare.
func (c *Client) writesBy(s, bare *script.Script) batchedWrites {
	if c.opt.DisableStamps {
		s = bare
	}
	return batchedWrites{c, s}
}

// send sends the writes of requests in one call. Where Redis refuses a call of several, which may be
// for one of them, each is sent by itself, in the same window: so each caller gets the error of its
// own write. What the call has done before it was refused is done once more; see the scripts.
//
// Where the latest commands were not answered, what has waited for long behind them is not sent.
func (c batchedWrites) send(sh *link.Shard, requests []*link.Request) {
	now, oldest := c.link.Now(), int64(math.MinInt64)
	if sh.Silent() {
		oldest = now - int64(c.opt.RedisTimeout/2)
	}
	requests = slices.DeleteFunc(requests, func(r *link.Request) bool {
		if r.Asked < oldest || r.Ends-now < int64(leastLeft/5) {
			r.Answer(&link.Batch{Call: link.Call{Err: errWaitedTooLong}}, 0, nil)
			return true
		}
		return false
	})
	if len(requests) == 0 {
		return
	}
	all := c.newCall(sh, requests)
	calls := []*writesCall{all}
	if !sh.CanBatch() { // no longer
		calls = all.each()
	}
	c.run(sh, calls)
	if len(all.requests) > 1 && (link.Refused(all.Err) || link.IsTryAgain(all.Err)) {
		calls = all.each()
		c.run(sh, calls)
	}
	for _, call := range calls {
		for i, r := range call.requests {
			r.Answer(&call.Batch, i, nil)
		}
	}
}

// errWaitedTooLong is why a write was not sent that went with others'.
var errWaitedTooLong = fmt.Errorf("%w: it has waited too long for others that are not answered", link.ErrNotAsked)

// writesCall is a script call for the writes of several callers.
type writesCall struct {
	link.Batch
	requests []*link.Request
	slack    int64 // see doable
}

// newCall begins requests. Its window is its own, whatever time their callers have.
func (c batchedWrites) newCall(sh *link.Shard, requests []*link.Request) *writesCall {
	bytes := 0
	for _, r := range requests {
		bytes += r.Size()
	}
	t := &writesCall{requests: requests, Batch: link.Batch{Shard: sh, Head: 1, Call: link.Call{Script: c.script, Args: []string{"", c.stampTTL}, Stamped: !c.opt.DisableStamps}}}
	if t.Stamped {
		t.Head = 2
	}
	patience := c.link.Patience(context.Background(), sh, int64(bytes))
	now, slack := c.link.ServerTime(sh)
	t.slack = slack
	t.Args[0], t.NotAfter = link.WriteWindow(now, slack, patience)
	t.begin()
	return t
}

// each is the requests of t in calls of their own.
func (t *writesCall) each() []*writesCall {
	all := make([]*writesCall, len(t.requests))
	for i := range all {
		all[i] = &writesCall{t.Batch, t.requests[i : i+1], t.slack}
		all[i].begin()
	}
	return all
}

// begin begins the requests, but for those whose callers have left, and makes the call for them.
func (t *writesCall) begin() {
	t.requests = slices.DeleteFunc(t.requests, func(r *link.Request) bool { return !r.Begin(&t.Batch) })
	head := t.Args[:t.Head]
	t.Keys = make([]string, 0, len(t.requests))
	t.Args = append(make([]string, 0, t.Head+4*len(t.requests)), head...)
	for _, r := range t.requests {
		t.Keys = append(t.Keys, r.Key)
		t.Args = append(t.Args, r.Args...)
	}
}

// run asks Redis for calls, in one round trip.
func (c batchedWrites) run(sh *link.Shard, all []*writesCall) {
	calls := make([]*link.Call, 0, len(all))
	for _, t := range all {
		switch {
		case !doable(sh, t.slack):
			t.Err = link.ErrNotAsked
		case len(t.requests) > 0:
			calls = append(calls, &t.Call)
		}
	}
	if len(calls) > 0 {
		c.link.RunAll(context.Background(), sh, calls...)
	}
}
