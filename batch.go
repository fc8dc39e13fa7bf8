package aside

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside/internal/reason"
	"github.com/redaside/aside/internal/script"
	"github.com/redaside/aside/internal/slot"
)

// batch is one script call for some of a list's keys.
type batch struct {
	call
	shard    *shard
	of       []int // where its keys stand in the list
	head     int   // how many args are for all keys; the others are as many for each
	notAfter int64 // of a write: when the server must not do it any more, in µs of its clock
}

// batches splits n keys into calls: by shard, in a cluster by slot, and so that none holds up the server for long. head
// is given to each call; args appends what each key needs, always as many.
func (l *link) batches(s *script.Script, head []string, n int, key func(i int) (string, *shard), args func(to []string, i int) []string) []*batch {
	return l.batchesOf(s, head, n, key, args, nil)
}

// batchesOf is batches for answers whose bytes are known.
func (l *link) batchesOf(s *script.Script, head []string, n int, key func(i int) (string, *shard), args func(to []string, i int) []string, answer func(i int) int64) []*batch {
	type place struct {
		shard *shard
		slot  uint16
	}
	type filling struct {
		*batch
		bytes int
	}
	var all []*batch
	open := make(map[place]*filling, 1)
	var more []string
	for i := range n {
		k, sh := key(i)
		at := place{shard: sh}
		if sh == nil || sh.addr != "" {
			at.slot = slot.Of(k)
		}
		bytes := len(k)
		if args != nil {
			more = args(more[:0], i)
			for _, arg := range more {
				bytes += len(arg)
			}
		}
		expects := int64(0)
		if answer != nil {
			expects = answer(i)
			bytes += int(expects)
		}
		f := open[at]
		if f == nil || len(f.keys) == maxBatchKeys || sh != nil && sh.spread.Load() || f.bytes+bytes > maxBatchBytes {
			f = &filling{batch: &batch{call: call{script: s}, shard: sh, head: len(head)}}
			room := 1
			if at.slot == 0 { // else there may be many batches of few keys
				room = min(n-i, maxBatchKeys)
			}
			f.keys, f.of = make([]string, 0, room), make([]int, 0, room)
			f.args = append(make([]string, 0, len(head)+room*len(more)), head...)
			open[at] = f
			all = append(all, f.batch)
		}
		f.keys = append(f.keys, k)
		f.args = append(f.args, more...)
		f.of = append(f.of, i)
		f.bytes += bytes
		f.expects += expects
	}
	return all
}

// pieces says how runBatches goes about it.
type pieces struct {
	first  int                               // keys in the first piece; 0: firstPiece
	before func(sh *shard, batches []*batch) // called for the batches of each piece just before they are sent; or nil
	insist bool                              // what is left goes at once, and all the same, when the shard has not answered, with Close, and
	until  int64                             // from then on, in Client.now's time
}

// runBatches asks every shard, all at the same time, and hands each answer to use, if not nil, as it comes: what
// one shard says must not wait for another that hangs. use is called by several goroutines, for different batches.
//
// A shard is asked in pieces, so that each has a RedisTimeout of its own and the questions of others get in between. The next one has twice as
// many keys if that took little beside the round trip, and half as many if it took long. When it does not answer at all it is not asked for the rest.
func (l *link) runBatches(ctx context.Context, all []*batch, pieces *pieces, use func(*batch)) {
	byShard := make(map[*shard][]*batch, 1)
	for _, b := range all {
		byShard[b.shard] = append(byShard[b.shard], b)
	}
	ask := func(sh *shard, batches []*batch) {
		var failed error
		for room := cmp.Or(pieces.first, firstPiece); len(batches) > 0; {
			if pieces.insist && (l.now() >= pieces.until || failed != nil || l.closing.Err() != nil) {
				room = math.MaxInt
			}
			calls, keys, bytes := make([]*call, 0, len(batches)), 0, int64(0)
			for _, b := range batches {
				keys += len(b.keys)
				bytes += b.size() + b.expects
				if (keys > room || bytes > mostPiece) && len(calls) > 0 {
					break
				}
				calls = append(calls, &b.call)
			}
			began := l.now()
			switch {
			case failed != nil && !pieces.insist:
				for _, q := range calls {
					q.err = fmt.Errorf("%w: %w", errLeftOut, reason.Of(failed))
				}
			default:
				l.inTurn(ctx, sh, calls, func() {
					began = l.now()
					if pieces.before != nil {
						pieces.before(sh, batches[:len(calls)])
					}
					l.runAll(ctx, sh, calls...)
				})
			}
			switch took := time.Duration(l.now()-began) - sh.roundTrip(); {
			case took < l.opt.RedisTimeout/8:
				room = min(2*room, maxPieceKeys)
			case took > l.opt.RedisTimeout/4:
				room = max(room/2, maxBatchKeys)
			}
			if of := sh.perKey(); of > 0 {
				room = max(min(room, int(mostPiece/of)), maxBatchKeys)
			}
			for _, b := range batches[:len(calls)] {
				if _, reply := rueidis.IsRedisErr(b.err); !reply {
					failed = cmp.Or(failed, b.err)
				}
				if use == nil {
					continue
				}
				if len(b.keys) > 1 && isTryAgain(b.err) {
					l.runSingly(ctx, b, use)
				} else {
					use(b)
				}
			}
			batches = batches[len(calls):]
		}
	}
	var others sync.WaitGroup
	left := len(byShard)
	for sh, batches := range byShard {
		if left--; left == 0 {
			ask(sh, batches) // the last one here: a batch for one shard needs no goroutine
			break
		}
		others.Go(func() { ask(sh, batches) })
	}
	others.Wait()
}

// runSingly asks for each key of b by itself.
func (l *link) runSingly(ctx context.Context, b *batch, use func(*batch)) {
	each := (len(b.args) - b.head) / len(b.keys)
	for n, key := range b.keys {
		at := b.head + n*each
		one := &batch{shard: b.shard, of: b.of[n : n+1], head: b.head, call: call{
			script: b.script, keys: []string{key}, args: append(slices.Clone(b.args[:b.head]), b.args[at:at+each]...),
		}}
		l.run(ctx, b.shard, &one.call)
		use(one)
	}
}

const (
	maxBatchKeys  = 64      // keys per script call, so that others get their turn; see also read_or_lock_many.lua
	firstPiece    = 1024    // keys in a call's first piece, see runBatches
	maxPieceKeys  = 8192    // and in any
	maxBatchBytes = 1 << 20 // of values per script call, if it has more than one key
)
