package aside

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/near"
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

// writer is the part of a Client that changes keys in Redis.
type writer struct{ *Client }

// write is one Set, Del, Touch or Expire, of one key or of many.
type write struct {
	writer
	verb   string
	view   string // the name of the view, for the Observer
	keys   []string
	script *script.Script // with stamps; nil: it leaves none
	bare   *script.Script // without
	args   []string       // behind the window and what is about stamps

	op     fallback.Op // as which it is replayed; "" if not
	ttl    time.Duration
	value  string
	values map[string]string // of a SetMulti, as they are stored, in place of args and value
	alone  bool              // it does not go with others', for it is none of their kinds

	meta *near.Meta // what the header of value says; nil: it has none

	one oneKey

	done bool // Redis has answered for all of it, and nothing is kept
}

// newWrite returns a write that is empty.
func (c writer) newWrite() *write {
	w, ok := writes.Get().(*write)
	if !ok {
		w = new(write)
	}
	w.writer = c
	return w
}

// release has another call use w, unless it may still be sent, or is kept. What lives longer, commands and the latest
// writes that are kept in mind, has strings of it and none of its memory; and the caller's context has memory of its own,
// as what is derived from it may ask it at any time.
func (w *write) release() {
	if !w.done {
		return
	}
	*w = write{}
	writes.Put(w)
}

var writes sync.Pool // of *write, empty

// oneKey is room for what a write of one key needs, so that it is in the write's own memory.
type oneKey struct {
	key     [1]string
	args    [2]string // write.args
	call    [6]string // what the script takes
	item    [3]string // what it takes for the key, in a request
	batch   link.Batch
	writing writing
	all     [1]*writing
	joined  bool // it has been asked whether it may
}

// writing is a batch of a write.
type writing struct {
	*link.Batch
	stamp stamp.Proposal
	again bool // it may have been done already
}

// What the scripts of Set and Del are told: whether they may have done it already.
const (
	firstRun  = ""
	secondRun = "again"
)

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
		one.writing = writing{Batch: &one.batch, stamp: w.newStamp(sh)}
		one.all[0] = &one.writing
		return one.all[:]
	}
	list := link.List{Len: len(keys), Key: func(i int) (string, *link.Shard) { return keys[i], w.link.Shard(keys[i]) }}
	if w.values != nil { // how long they are, for now
		list.Args = func(to []string, i int) []string { return append(to, w.values[keys[i]]) }
	}
	batches := w.link.Batches(s, nil, list)
	all := make([]*writing, len(batches))
	for i, b := range batches {
		b.Stamped = stamped
		all[i] = &writing{Batch: b, stamp: w.newStamp(b.Shard)}
	}
	return all
}

// stamped reports whether it leaves stamps.
func (w *write) stamped() bool { return w.script != nil && !w.opt.DisableStamps }

// newStamp proposes the stamp of a Set or Del of sh's keys.
func (w *write) newStamp(sh *link.Shard) stamp.Proposal { return w.newStamps(sh, 1) }

// newStamps proposes those of n operations of one call, of which the last tells all.
func (w *write) newStamps(sh *link.Shard, n int) stamp.Proposal {
	now, slack := w.link.ServerTime(sh)
	return w.stamps.NextOf(n, now, slack, func() bool {
		kept := w.store.Stats()
		return kept.Pending() == 0 && w.store.writing.Load() <= 1 // no other write is on its way to the store
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
		b.Args = w.appendItems(w.appendHead(b.Args[:0], b), b)
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

// singly sends again, each by itself, the Sets that a server has refused together, which may be for
// one of them; and returns what all has become. What was done of them before is done once more.
func (w *write) singly(ctx context.Context, all []*writing) []*writing {
	if w.values == nil {
		return all
	}
	var each []*writing
	all = slices.DeleteFunc(all, func(b *writing) bool {
		if len(b.Keys) == 1 || !link.Refused(b.Err) {
			return false
		}
		for i := range b.Keys {
			each = append(each, &writing{&link.Batch{Shard: b.Shard, Call: link.Call{Script: b.Script, Keys: b.Keys[i : i+1 : i+1], Stamped: b.Stamped}}, b.stamp, true})
		}
		return true
	})
	if len(each) > 0 {
		w.execute(ctx, each)
	}
	return append(all, each...)
}

// appendHead appends what the script takes first: room for the window, for how long stamps live, and
// whether it may have done b.
func (w *write) appendHead(to []string, b *writing) []string {
	if to = append(to, ""); !w.stamped() {
		return to
	}
	to = append(to, w.stampTTL)
	switch {
	case w.script != script.Set && w.script != script.Del: // others always look what is there
	case b.again:
		to = append(to, secondRun)
	default:
		to = append(to, firstRun)
	}
	return to
}

// appendItems appends what it takes for each key of b, or for all of them.
func (w *write) appendItems(to []string, b *writing) []string {
	if w.values == nil {
		return w.appendItem(to, b, w.args)
	}
	for _, key := range b.Keys {
		to = w.appendItem(to, b, w.argsOf(key))
	}
	return to
}

func (w *write) appendItem(to []string, b *writing, args []string) []string {
	if w.stamped() {
		to = append(to, b.stamp.Packed())
	}
	return append(to, args...)
}

// argsOf are the args for a key.
func (w *write) argsOf(key string) []string {
	if w.values == nil {
		return w.args
	}
	return []string{w.values[key], script.InMilliseconds(w.ttl)}
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
	if asked, ends, ok := w.canJoin(ctx, b); ok {
		batcher := b.Shard.Batcher(w.kind())
		if request := batcher.Enter(link.What{Key: b.Keys[0], Args: w.appendItems(w.one.item[:0], b), Asked: asked, Ends: ends}); request != nil {
			b.await(ctx, batcher, request)
			return
		}
		defer batcher.Leave()
	}
	b.Args = w.appendItems(w.appendHead(b.Args[:0], b), b)
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

// canJoin reports whether b may go with others: once, its second attempt goes by itself. It returns
// since when b waits, and when its caller leaves at the latest, as a request has them.
func (w *write) canJoin(ctx context.Context, b *writing) (asked, ends int64, ok bool) {
	if w.op == "" || w.alone || !b.Shard.CanBatch() || len(w.value) > mostTogether || w.one.joined {
		return 0, 0, false
	}
	w.one.joined = true
	asked = w.link.Now()
	if deadline, ok := ctx.Deadline(); ok {
		left := time.Until(deadline)
		return asked, asked + int64(left), left >= leastLeft
	}
	return asked, math.MaxInt64, true
}

// await returns when b, which goes with others as r, is answered, or its caller leaves.
func (b *writing) await(ctx context.Context, batcher *link.Batcher, r *link.Request) {
	answered := r.Wait(ctx, context.Background())
	with, begun := r.Result.(*link.Batch)
	switch {
	case answered:
		b.Reply, b.Err, b.NotAfter = with.Reply, with.Err, with.NotAfter
		batcher.Release(r)
	case begun: // the caller leaves, while it may be done
		b.Err, b.NotAfter = ctx.Err(), with.NotAfter
	default:
		b.Err = fmt.Errorf("%w: %w", link.ErrNotAsked, ctx.Err())
	}
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
		q.Args = append(q.Args, w.argsOf(key)...)
		w.link.Run(ctx, b.Shard, q)
		if b.Reply, b.Err = q.Reply, q.Err; q.Err != nil || q.Untimely() {
			return false
		}
	}
	return true
}
