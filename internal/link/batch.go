package link

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

// Batch is one script call for some of a list's keys.
type Batch struct {
	Call
	Shard    *Shard
	Of       []int // where its keys stand in the list
	Head     int   // how many args are for all keys; the others are as many for each
	NotAfter int64 // of a write: when the server must not do it any more, in µs of its clock
}

// List is many keys for a script, to be split into batches.
type List struct {
	Len   int                               // how many keys there are
	Key   func(i int) (string, *Shard)      // returns one of them, and its shard
	Args  func(to []string, i int) []string // appends the ARGV of key i, always as many; nil: there are none
	Bytes func(i int) int64                 // of the answer about key i, where that is known; nil: it is not
}

// Batches splits a list into calls of s, each with head as its first ARGV: by shard, in a cluster
// by slot, and so that none holds up the server for long.
func (l *Link) Batches(s *script.Script, head []string, list List) []*Batch {
	type place struct {
		shard *Shard
		slot  uint16
	}
	type filling struct {
		Batch
		bytes int
	}
	var all []*Batch
	open := make(map[place]*filling, 1)
	var more []string
	for i := range list.Len {
		k, sh := list.Key(i)
		at := place{shard: sh}
		if sh == nil || sh.Addr != "" {
			at.slot = slot.Of(k)
		}
		bytes := len(k)
		if list.Args != nil {
			more = list.Args(more[:0], i)
			for _, arg := range more {
				bytes += len(arg)
			}
		}
		expects := int64(0)
		if list.Bytes != nil {
			expects = list.Bytes(i)
			bytes += int(expects)
		}
		f := open[at]
		if f == nil || len(f.Keys) == MaxBatchKeys || sh != nil && sh.spread.Load() || f.bytes+bytes > MaxBatchBytes {
			f = &filling{Batch: Batch{Call: Call{Script: s}, Shard: sh, Head: len(head)}}
			room := 1
			if at.slot == 0 { // else there may be many batches of few keys
				room = min(list.Len-i, MaxBatchKeys)
			}
			f.Keys, f.Of = make([]string, 0, room), make([]int, 0, room)
			f.Args = append(make([]string, 0, len(head)+room*len(more)), head...)
			open[at] = f
			all = append(all, &f.Batch)
		}
		f.Keys = append(f.Keys, k)
		f.Args = append(f.Args, more...)
		f.Of = append(f.Of, i)
		f.bytes += bytes
		f.Expects += expects
	}
	return all
}

// Pieces is how RunBatches goes about it.
type Pieces struct {
	First  int                               // keys in the first piece; 0: firstPiece
	Before func(sh *Shard, batches []*Batch) // called for the batches of each piece just before they are sent; or nil
	Insist bool                              // what is left goes at once, and all the same, when the shard has not answered, with Close, and
	Until  int64                             // from then on, in Link.Now's time
}

// RunBatches asks every shard, all at the same time, and hands each answer to use, if not nil, as
// it comes: what one shard says must not wait for another that hangs. use is called by several
// goroutines, for different batches.
//
// A shard is asked in pieces, so that each has a RedisTimeout of its own and the commands of others
// get in between. The next one has twice as many keys if that took little beside the round trip,
// and half as many if it took long. When it does not answer at all it is not asked for the rest.
func (l *Link) RunBatches(ctx context.Context, all []*Batch, pieces *Pieces, use func(*Batch)) {
	byShard := make(map[*Shard][]*Batch, 1)
	for _, b := range all {
		byShard[b.Shard] = append(byShard[b.Shard], b)
	}
	ask := func(sh *Shard, batches []*Batch) {
		var failed error
		for room := cmp.Or(pieces.First, firstPiece); len(batches) > 0; {
			if pieces.Insist && (l.Now() >= pieces.Until || failed != nil || l.closing.Err() != nil) {
				room = math.MaxInt
			}
			calls, keys, bytes := make([]*Call, 0, len(batches)), 0, int64(0)
			for _, b := range batches {
				keys += len(b.Keys)
				bytes += b.Size() + b.Expects
				if (keys > room || bytes > mostPiece) && len(calls) > 0 {
					break
				}
				calls = append(calls, &b.Call)
			}
			began := l.Now()
			switch {
			case failed != nil && !pieces.Insist:
				for _, q := range calls {
					q.Err = fmt.Errorf("%w: %w", ErrLeftOut, reason.Of(failed))
				}
			default:
				l.InTurn(ctx, sh, calls, func() {
					began = l.Now()
					if pieces.Before != nil {
						pieces.Before(sh, batches[:len(calls)])
					}
					l.RunAll(ctx, sh, calls...)
				})
			}
			switch took := time.Duration(l.Now()-began) - sh.roundTrip(); {
			case took < l.opt.RedisTimeout/8:
				room = min(2*room, maxPieceKeys)
			case took > l.opt.RedisTimeout/4:
				room = max(room/2, MaxBatchKeys)
			}
			if of := sh.perKey(); of > 0 {
				room = max(min(room, int(mostPiece/of)), MaxBatchKeys)
			}
			for _, b := range batches[:len(calls)] {
				if _, reply := rueidis.IsRedisErr(b.Err); !reply {
					failed = cmp.Or(failed, b.Err)
				}
				if use == nil {
					continue
				}
				if len(b.Of) > 1 && IsTryAgain(b.Err) { // several of a list, not one that has several keys
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
func (l *Link) runSingly(ctx context.Context, b *Batch, use func(*Batch)) {
	each := (len(b.Args) - b.Head) / len(b.Keys)
	for n, key := range b.Keys {
		at := b.Head + n*each
		one := &Batch{Shard: b.Shard, Of: b.Of[n : n+1], Head: b.Head, Call: Call{
			Script: b.Script, Keys: []string{key}, Args: append(slices.Clone(b.Args[:b.Head]), b.Args[at:at+each]...), Stamped: b.Stamped,
		}}
		l.Run(ctx, b.Shard, &one.Call)
		use(one)
	}
}

// How much goes together.
const (
	MaxBatchKeys  = 64      // keys per script call, so that others get their turn; see also read_or_lock_many.lua
	firstPiece    = 1024    // keys in a call's first piece, see RunBatches
	maxPieceKeys  = 8192    // and in any
	MaxBatchBytes = 1 << 20 // of values per script call, if it has more than one key
)
