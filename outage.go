package aside

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/near"
	"github.com/redaside/aside/internal/reason"
	"github.com/redaside/aside/internal/script"
	"github.com/redaside/aside/internal/stamp"
	"github.com/redaside/aside/internal/wire"
)

// What a Client does while Redis is away; replay.go makes it good when Redis is back.
//
// Per shard. Reads: memory (internal/near) → the fallback store → the loader, of which MaxLoaders
// may run at once. Writes: the fallback store, then memory. An operation that Redis was asked for
// and has not answered goes to the store as well, with the stamp that it had: if it was done, its
// replay finds that out.

// putGrace is how long the disk has when the caller's time is up.
const putGrace = 20 * time.Millisecond

// storeAnswer is what the fallback store holds for a key.
type storeAnswer struct {
	raw    string
	absent bool
	meta   *near.Meta    // what its header says; nil: it has none
	left   time.Duration // of its ttl
	at     time.Time     // when it was set, or its load began
	made   int64         // likewise, in link.Now's time
	gen    uint64        // of the key, before the store was asked
	entry  *near.Entry   // where it was put in memory, if it was
	away   near.Away     // as which it may be put there

	expired bool // a group has made it stale

	nothing bool  // there is no value: this process has deleted it, or what it has set has expired
	err     error // it could not be read, so nobody knows
}

// readStore reads key from the fallback store and puts it into memory; false if the store has no
// value, or Redis is not away. The record of a Set or Del is the newest that this process has heard
// of the key, for as long as it is pending; but where Redis is not away, and only does not answer
// for the key, the loader knows more: others may have written since. The record of a load is as old
// as what memory holds.
func (c *Client) readStore(ctx context.Context, key string, room uintptr) (s storeAnswer, ok bool) {
	if s, ok = c.askStore(ctx, key); ok {
		c.counted.diskHits.Add(1)
		c.observe(ctx, Event{Kind: EventHit, Source: SourceDisk, Key: key, Keys: 1})
		s.away.Room = room
		s.entry = c.near.CommitAway(key, s.away)
	}
	return s, ok
}

// askStore is readStore that leaves memory as it is, and counts nothing.
func (c *Client) askStore(ctx context.Context, key string) (s storeAnswer, ok bool) {
	sh := c.link.Home(key)
	s.gen = c.near.Generation(key)
	changes, outage := c.near.Changes(key), sh.Valid.Outage()
	record, ok, err := c.store.read(ctx, key)
	if s.err = err; !ok {
		return s, false
	}
	if record.Op == fallback.OpOperations {
		if record, ok = asWrite(&record); !ok {
			return s, false // only Redis knows
		}
	}
	if record.Op == fallback.OpDel {
		s.nothing = true
		return s, false
	}
	now, slack := c.link.ServerTime(sh)
	s.left = time.Duration(record.Expires-now/1000) * time.Millisecond
	if sh.Asks() {
		return s, false
	}
	made, _ := stamp.Micros(record.Stamp)
	apart := link.ClockError(slack) + link.ClockError(record.Slack) // what is known of that clock may have changed since
	s.at, s.made = time.UnixMicro(made), cmp.Or(c.link.Now()-(now-made+apart)*int64(time.Microsecond), -1)
	use := s.left
	if record.Op == fallback.OpFill {
		if c.opt.DegradedTTL >= 0 {
			use = min(use, c.opt.DegradedTTL-time.Duration(now-made)*time.Microsecond)
		}
		if made < sh.BackAt() { // of an earlier outage: anybody may have deleted it in between
			return s, false
		}
	}
	value, header, what := wire.Unpack(record.Value)
	s.nothing = s.left <= 0 && record.Op == fallback.OpSet
	meta, ok := grouper{c}.newMeta(key, header, 0)
	if use <= 0 || what != wire.Value && what != wire.Absence || !ok {
		return s, false
	}
	groups := grouper{c}.holdsAway(ctx, meta)
	if s.expired = groups == near.GroupsExpired; !s.expired && groups != near.GroupsHold {
		return s, false
	}
	s.raw, s.absent, s.meta = value, what == wire.Absence, meta
	s.away = near.Away{
		Value: near.Value{Raw: s.raw, Absent: s.absent, TTL: s.left, Began: s.made, Meta: s.meta},
		Valid: sh.Valid, Outage: outage, Changes: changes, Use: use,
	}
	return s, true
}

// expiresAt is the end, in ms, of a ttl that begins at now (µs).
func expiresAt(now int64, ttl time.Duration) int64 {
	return max(now/1000+script.Milliseconds(ttl), 1)
}

// keepWrites puts writes that Redis has not acknowledged into the store; cause says why it has not.
// nil: they survive the end of the process, and are as good as written.
func (c *Client) keepWrites(ctx context.Context, records []fallback.Record, cause error) error {
	return c.keepBy(ctx, c.store.Put, records, cause)
}

// keepBy is keepWrites by a function of the store's.
func (c *Client) keepBy(ctx context.Context, put func(context.Context, ...fallback.Record) error, records []fallback.Record, cause error) error {
	defer c.store.settleOvertaken(records)
	ctx, cancel := withGrace(ctx)
	defer cancel()
	err := put(ctx, records...)
	for i := range records { // also after an error: a store whose caller leaves while it writes has the record all the same
		key := records[i].Key
		if sh := c.link.Shard(key); sh.Asks() && (err == nil || c.store.Pending(key)) {
			sh.ReplayNow()
		}
	}
	if err != nil {
		return fmt.Errorf("%w, and it cannot be kept for later: %w", cause, reason.Of(err))
	}
	c.counted.journaled.Add(int64(len(records)))
	for i := range records {
		c.observe(ctx, Event{Kind: EventJournaled, Key: records[i].Key, Keys: 1, Err: cause})
	}
	if !c.store.Durable() {
		return fmt.Errorf("%w (Options.FallbackDir is not set): %w", ErrNotDurable, reason.Of(cause))
	}
	return nil
}

// withGrace gives what must still be done a little time after ctx has ended.
func withGrace(ctx context.Context) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(putGrace, cancel) })
	return graced{longer, ctx}, func() {
		stop()
		cancel()
	}
}

// graced is a context that ends after another, for the reason for which that has ended.
type graced struct {
	context.Context
	callers context.Context
}

func (g graced) Err() error {
	err := g.Context.Err()
	if err != nil && g.callers.Err() != nil {
		return g.callers.Err()
	}
	return err
}
