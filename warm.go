package aside

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/reason"
	"github.com/redaside/aside/internal/script"
	"github.com/redaside/aside/internal/wire"
)

// Warming is how a [TypedClient.Warm] goes about it. The zero Warming is usable.
type Warming struct {
	// Rate is how many keys a second are loaded at most: how fast the source may be asked. Keys that
	// are there already do not count. Defaults to 0: as fast as the loader is.
	Rate int

	// Batch is how many keys a call of the loader has at most. Defaults to 64, or to a tenth of Rate
	// if that is less.
	Batch int

	// Progress is called after each batch with what was done so far, by the goroutine that called
	// Warm. Defaults to none.
	Progress func(Warmed)
}

// Warmed is what a [TypedClient.Warm] has done.
type Warmed struct {
	Keys   int // that it has looked at
	There  int // had a value or an absence, or were just being loaded
	Loaded int // were loaded, by this call or, while it ran, by another
	Absent int // were not found by the loader
	Failed int // have none of these
}

const warmBatch = 64

// Warm loads those of keys that Redis does not have, some at a time: before a deployment takes calls,
// or after a flush. It reads no values: only what is missing is loaded, as by GetMulti, with its
// locks, and stored for ttl. What was cleared (Clear, DelTags), or is of an older version (WithVersion),
// and still is in Redis is not missing.
// keys is asked for more as it goes; keys may repeat.
//
// It returns what it has done, and the first error of a key, with how many have failed; it goes on
// after those. When ctx ends, it returns that error at once. The loads of Options.MaxLoads and
// WithMaxLoads are shared with all others: where as many run already, Warm waits its turn for as long
// as ctx lasts. While Redis is away nothing is loaded, since it could not be stored: keys fail with
// ErrRedisAway then.
func (t *TypedClient[T]) Warm(ctx context.Context, ttl time.Duration, keys iter.Seq[string], load BatchLoader[T], how Warming) (done Warmed, _ error) {
	switch {
	case t.c == nil:
		return done, errNilClient
	case load == nil:
		return done, errNilLoader
	case t.wrong != nil:
		return done, t.wrong
	case keys == nil:
		return done, fmt.Errorf("%w: the keys given to Warm are nil: pass an iterator, such as slices.Values(keys)", ErrInvalidArgument)
	case how.Rate < 0:
		return done, fmt.Errorf("%w: Warming.Rate is %d: must be positive, or 0 for no limit", ErrInvalidArgument, how.Rate)
	case how.Batch < 0 || how.Batch > link.MaxBatchKeys*16:
		return done, fmt.Errorf("%w: Warming.Batch is %d: must be from 1 to %d, or 0 for the default", ErrInvalidArgument, how.Batch, link.MaxBatchKeys*16)
	}
	if _, err := t.c.check(ttl, t.calls, nil); err != nil {
		return done, err
	}
	if how.Batch == 0 {
		how.Batch = warmBatch
		if how.Rate > 0 {
			how.Batch = max(min(how.Batch, how.Rate/10), 1)
		}
	}
	w := warmer[T]{t: t, ttl: ttl, load: load, how: how, done: &done}
	batch := make([]string, 0, how.Batch)
	for key := range keys {
		if batch = append(batch, strings.Clone(key)); len(batch) < how.Batch {
			continue
		}
		if err := w.warm(ctx, batch); err != nil {
			return done, err
		}
		batch = batch[:0]
	}
	if len(batch) > 0 {
		if err := w.warm(ctx, batch); err != nil {
			return done, err
		}
	}
	if done.Failed > 0 {
		return done, fmt.Errorf("aside: %d of %d keys could not be warmed; the first: %w", done.Failed, done.Keys, reason.Of(w.first))
	}
	return done, nil
}

// warmer is one Warm. Of one goroutine.
type warmer[T any] struct {
	t     *TypedClient[T]
	ttl   time.Duration
	load  BatchLoader[T]
	how   Warming
	done  *Warmed
	first error // of a key
	next  int64 // when the next batch may be loaded, in link.Now's time
}

// warm loads what is missing of a batch, once its turn has come. The error ends the Warm.
func (w *warmer[T]) warm(ctx context.Context, batch []string) error {
	c := w.t.c
	missing, err := reader{c}.missing(ctx, w.t.fulls(batch), w.failed)
	if err != nil {
		return err
	}
	w.done.Keys += len(batch)
	for _, key := range batch {
		if _, ok := missing[w.t.full(key)]; !ok {
			w.done.There++
		}
	}
	left := make([]string, 0, len(missing))
	for key, is := range missing {
		if is {
			left = append(left, w.t.short(key))
		}
	}
	for len(left) > 0 {
		if err := c.lifecycle.pause(ctx, time.Duration(w.next-c.link.Now())); err != nil {
			return err
		}
		if w.how.Rate > 0 {
			w.next = max(w.next, c.link.Now()) + int64(len(left))*int64(time.Second)/int64(w.how.Rate)
		}
		to := collected[T]{Client: c, values: make(map[string]T, len(left)), undrilled: true} // a drill stores nothing
		err := w.t.fetchMulti(ctx, w.ttl, left, w.load, &to)
		found := to.values
		w.done.Loaded += len(found)
		failed := map[string]error{}
		if batch, ok := errors.AsType[*BatchError](err); ok {
			failed = batch.Failed
		} else if err != nil {
			return err
		}
		var again []string
		for _, key := range left {
			switch err, bad := failed[key]; {
			case bad && errors.Is(err, ErrOverloaded):
				again = append(again, key)
			case bad:
				w.failed(key, err)
			default:
				if _, ok := found[key]; !ok {
					w.done.Absent++
				}
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if c.lifecycle.ctx.Err() != nil {
			return ErrClosed
		}
		left = again
	}
	if w.how.Progress != nil {
		w.how.Progress(*w.done)
	}
	return nil
}

func (w *warmer[T]) failed(_ string, err error) {
	w.done.Failed++
	if w.first == nil {
		w.first = err
	}
}

// missing returns those of keys, each once, that Redis has nothing for, without reading what it has;
// false for those whose shard could not tell, of which failed is told.
func (c reader) missing(ctx context.Context, keys []string, failed func(key string, err error)) (map[string]bool, error) {
	missing := make(map[string]bool)
	if c.lifecycle.ctx.Err() != nil {
		return missing, ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return missing, err
	}
	who := enterCall(ctx)
	defer who.leave()
	fails := func(key string, err error) {
		missing[key] = false
		failed(key, err)
	}
	byShard, seen := make(map[*link.Shard][]*link.Call, 1), make(map[string]bool, len(keys))
	for _, key := range keys {
		if seen[key] {
			continue
		}
		seen[key] = true
		sh := c.link.Shard(key)
		if err := c.checkKey(key); err != nil {
			fails(key, err)
		} else if !sh.Asks() {
			fails(key, link.ErrNotAsked)
		} else {
			byShard[sh] = append(byShard[sh], link.NewCall(script.Read, key, wire.LockPrefix, "0")) // 0 bytes: a value is not sent
		}
	}
	for sh, calls := range byShard {
		for len(calls) > 0 {
			some := calls[:min(len(calls), link.MaxBatchKeys)]
			calls = calls[len(some):]
			c.link.RunAll(who, sh, some...)
			for _, q := range some {
				found, err := findingOf(q, "")
				switch key := q.Keys[0]; {
				case err != nil && ctx.Err() != nil:
					return missing, ctx.Err()
				case err != nil:
					fails(key, cannotRead(key, err))
				case found.large == 0 && found.content == wire.None:
					missing[key] = true
				}
			}
		}
	}
	return missing, nil
}

// pause waits for so long, unless ctx or the client ends before.
func (lc *lifecycle) pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-lc.ctx.Done():
		return ErrClosed
	}
}
