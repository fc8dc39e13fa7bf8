package aside

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/near"
	"github.com/redaside/aside/internal/reason"
	"github.com/redaside/aside/internal/script"
	"github.com/redaside/aside/internal/stamp"
	"github.com/redaside/aside/internal/wire"
)

// The writes. Each drops what this process holds of its keys before it begins and before it
// returns, whatever came of it, so that a process reads its own writes and stores nothing that was
// read before; and takes their flights off the table, so that no load that began before it answers
// anybody who asks after it.
//
// A Set or Del that Redis cannot be asked for, or has not answered, goes to the fallback store
// (outage.go).

// Set stores value under key for ttl. A nil error means that Redis has it, or that it is durably
// kept for replay (Options.FallbackDir). A load of the key that is running, here or in another
// process, does not overwrite it.
//
// ttl must be at least a millisecond and is rounded up to whole milliseconds; with more than
// LongestTTL the key does not expire. The errors are
//
//   - ErrTooLarge, or Redis's own error if it refused the write: nothing was written, unless the
//     user of Redis lacks a permission for stamps only (docs/OPERATIONS.md has them);
//   - ErrNotDurable: the write is kept for replay, in memory only;
//   - ErrFull or ErrDisk: it could not be kept;
//   - ErrUnknownOutcome alone: it is durably kept, but Redis may still apply it briefly, because
//     the caller gave up before the command timed out.
//
// ErrNotDurable, ErrFull and ErrDisk come with ErrRedisAway if Redis was not asked, and with
// ErrUnknownOutcome if it may or may not have applied the write. Set waits for a disk that hangs as
// long as ctx allows.
func (c *Client) Set(ctx context.Context, ttl time.Duration, key, value string) error {
	if _, err := c.check(ttl, nil, nil); err != nil {
		return err
	}
	if len(value) > c.opt.MaxValueBytes {
		return fmt.Errorf("%w: the value for key %s has %d bytes, more than Options.MaxValueBytes (%d): nothing was written; Del removes the old value", ErrTooLarge, quoted(key), len(value), c.opt.MaxValueBytes)
	}
	value = strings.Clone(value) // a Set without an answer may still be sent, or is kept: see write
	w := &write{Client: c, verb: "set", script: script.Set, bare: script.SetBare, op: fallback.OpSet, ttl: ttl, value: value}
	w.args = append(w.one.args[:0], wire.Pack(value), script.InMilliseconds(ttl))
	return w.do(ctx, key)
}

// Del removes keys. After a nil error this process never serves their old values. Other processes
// stop serving them when the invalidation arrives, and after StaleLease at the latest; while Redis
// is away, they do so once it is back and the Del has been replayed. Running loads do not bring the
// old values back. Keys that do not exist are no error. The errors are those of Set; with many keys
// they say which keys failed, and the others are removed.
func (c *Client) Del(ctx context.Context, keys ...string) error {
	w := &write{Client: c, verb: "delete", script: script.Del, bare: script.DelBare, op: fallback.OpDel}
	return w.do(ctx, keys...)
}

// Touch gives those of keys that hold a value a new ttl, counted from now. It creates nothing, and
// cached absences keep their own ttl. While Redis is away it does nothing and returns ErrRedisAway:
// it is not replayed. Its other errors are those of Set.
func (c *Client) Touch(ctx context.Context, ttl time.Duration, keys ...string) error {
	if _, err := c.check(ttl, nil, nil); err != nil {
		return err
	}
	if err := c.awaitStored(ctx, keys...); err != nil {
		return err
	}
	w := &write{Client: c, verb: "touch", bare: script.Touch, args: append(append([]string{script.InMilliseconds(ttl), wire.LockPrefix}, wire.PeerPrefixes()...), wire.Absent)}
	return w.do(ctx, keys...)
}

// beginWrite lets a call begin that changes keys in Redis; endWrite must follow, if it does.
func (c *Client) beginWrite(ctx context.Context, keys []string) error {
	for _, key := range keys {
		if err := c.checkKey(key); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if !c.enter() {
		return ErrClosed
	}
	c.store.begin(keys)
	return nil
}

func (c *Client) endWrite(keys []string) {
	c.store.end(keys)
	c.background.Done()
}

// do does it.
func (w *write) do(ctx context.Context, keys ...string) error {
	if len(keys) == 1 { // the call's keys may be a buffer's that is written again
		w.one.key[0] = strings.Clone(keys[0])
		w.keys = w.one.key[:]
	} else {
		w.keys = cloned(keys)
	}
	if err := w.beginWrite(ctx, w.keys); err != nil {
		return err
	}
	defer w.endWrite(w.keys)
	who := w.one.who.enter(ctx)
	defer who.leave()
	before := w.drop(w.keys)
	var sh *link.Shard
	var outage uint64
	if w.op == fallback.OpSet {
		sh = w.link.Home(w.keys[0])
		outage = sh.Valid.Outage()
	}
	errs, kept := w.perform(who)
	after := w.drop(w.keys)
	if kept && sh != nil && !sh.Asks() && after == before+1 { // nobody else has changed it meanwhile
		w.near.CommitAway(w.keys[0], near.Away{
			Value: near.Value{Raw: w.value, TTL: w.ttl}, Valid: sh.Valid, Outage: outage, Generation: after,
		})
	}
	if len(errs) == 0 && w.op != fallback.OpDel {
		w.readBack(who, w.keys)
	}
	return reason.Join(errs...)
}

// drop drops what this process holds of keys and detaches their flights. It returns the generation
// that begins for the last.
func (c *Client) drop(keys []string) (gen uint64) {
	for _, key := range keys {
		c.store.dropLoad(key)
		gen = c.near.Drop(key)
		c.flights.detach(key)
	}
	return gen
}

// perform asks Redis for a write, and has the store keep what Redis was not asked for or has not
// answered. kept: there is such a write, and the store has it.
func (w *write) perform(ctx context.Context) (errs []error, kept bool) {
	var cause error
	ask, later := w.settleFirst(ctx, w.keys)
	if len(later) > 0 {
		cause = errPending
		if ctx.Err() != nil {
			cause = fmt.Errorf("%w: %w", errPending, ctx.Err())
		}
		if w.op == "" {
			return []error{fmt.Errorf("aside: cannot %s %s: %w", w.verb, quotedKeys(later), reason.Of(cause))}, false
		}
	}
	w.wakeClocks(ctx, ask)
	all := w.batches(ask)
	w.lookAtClocks(ctx, all, func(b *writing) bool { // the machine has slept, or its clock was set
		return !doable(b.Shard, b.stamp.Slack)
	})
	w.execute(ctx, all)
	// The server's clock is not what we take it for: look at it and try again, once.
	untimely := w.lookAtClocks(ctx, all, func(b *writing) bool { return b.Untimely() })
	again := len(untimely) > 0 && ctx.Err() == nil
	if again {
		w.execute(ctx, untimely)
	}

	var records []fallback.Record
	var unknown []*writing
	for _, b := range all {
		err := b.WriteError()
		if again || !b.Untimely() { // once may be by chance
			w.link.JudgeClock(b.Shard, &b.Call)
		}
		switch {
		case err == nil && b.Stamped:
			w.store.acknowledged(b.Keys, b.stamp.Text)
			w.store.recent.add(b.Keys, b.stamp, w.link.Now())
		case err == nil:
		case w.op != "" && (errors.Is(err, ErrRedisAway) || errors.Is(err, ErrUnknownOutcome)):
			if cause == nil || errors.Is(err, ErrUnknownOutcome) {
				cause = err
			}
			for _, key := range b.Keys {
				records = append(records, w.record(key, b.Shard, b.stamp))
			}
			if errors.Is(err, ErrUnknownOutcome) {
				unknown = append(unknown, b)
			}
		default:
			errs = append(errs, fmt.Errorf("aside: cannot %s %s: %w", w.verb, quotedKeys(b.Keys), reason.Of(err)))
		}
	}
	for _, key := range later {
		sh := w.link.Shard(key)
		records = append(records, w.record(key, sh, w.newStamp(sh)))
	}
	if len(records) == 0 {
		return errs, false
	}
	keys := make([]string, len(records))
	for i := range records {
		keys[i] = records[i].Key
	}
	if err := w.keepWrites(ctx, records, cause); err != nil {
		return append(errs, fmt.Errorf("aside: cannot %s %s: %w", w.verb, quotedKeys(keys), reason.Of(err))), errors.Is(err, ErrNotDurable)
	}
	for _, b := range unknown {
		if !w.awaitTooLate(ctx, b) {
			return append(errs, fmt.Errorf("aside: cannot %s %s yet, it is kept for replay: %w", w.verb, quotedKeys(b.Keys), reason.Of(cause))), true
		}
	}
	return errs, true
}

// awaitTooLate waits until the server will not do b any more: what is acknowledged after that
// cannot be undone by it. That is the deadline of the command but for the error of the clocks.
// false: the caller has left long before.
func (w *write) awaitTooLate(ctx context.Context, b *writing) bool {
	left := func() time.Duration {
		now, slack := w.link.ServerTime(b.Shard)
		return time.Duration(b.NotAfter+max(slack, 0)-now+1) * time.Microsecond
	}
	for more := left(); more > 0; more = left() {
		if ctx.Err() != nil && more > putGrace {
			return false
		}
		timer := time.NewTimer(min(more, putGrace)) // the prober may find out meanwhile that the clock was wrong
		select {
		case <-timer.C:
		case <-w.lifecycle.ctx.Done():
			timer.Stop()
			return false
		}
	}
	return true
}

// errPending is the cause where a record of the same key is still waiting to be replayed, so that
// this one must wait too.
var errPending = fmt.Errorf("%w: an earlier write of the key has not been replayed yet", ErrRedisAway)

// settleFirst has earlier records of keys replayed, and parts the keys into those that may be
// written now and those whose record has to wait behind the earlier one.
func (c *Client) settleFirst(ctx context.Context, keys []string) (now, later []string) {
	var pending []string
	for _, key := range keys {
		if c.store.Pending(key) {
			pending = append(pending, key)
		}
	}
	if len(pending) == 0 {
		return keys, nil
	}
	later = c.settle(ctx, pending)
	for _, key := range keys {
		if !slices.Contains(later, key) {
			now = append(now, key)
		}
	}
	return now, later
}

// record is the write of key, to be replayed.
func (w *write) record(key string, sh *link.Shard, s stamp.Proposal) fallback.Record {
	r := fallback.Record{Op: w.op, Key: key, Stamp: s.Text, Slack: s.Slack}
	if w.op == fallback.OpSet {
		now, _ := w.link.ServerTime(sh)
		r.Value, r.Expires = w.args[0], expiresAt(now, w.ttl)
	}
	return r
}
