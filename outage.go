package aside

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/redaside/aside/fallback"
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

const (
	leastClockError = 50 * time.Millisecond // assumed of any two clocks, however good they look
	mostRecordError = time.Minute           // beyond, a record is replayed as a delete of now
	overloadWait    = time.Second           // for a loader's turn
	putGrace        = 20 * time.Millisecond // for the disk, when the caller's time is up
	replayRetry     = 5 * time.Second       // between attempts to replay what Redis has refused, or the disk has not given

	unansweredRetry = 100 * time.Millisecond
)

// answerFromStore completes f with what the fallback store holds, and reports whether it holds
// anything.
func (c *Client) answerFromStore(ctx context.Context, f *flight, room uintptr) bool {
	s, ok := c.readStore(ctx, f.key, room)
	if ok {
		c.flights.complete(f, outcome{raw: s.raw, absent: s.absent, proven: true, gen: s.gen, entry: s.entry, ends: c.link.Now() + int64(s.left)})
	}
	return ok
}

// storeAnswer is what the fallback store holds for a key.
type storeAnswer struct {
	raw    string
	absent bool
	left   time.Duration // of its ttl
	at     time.Time     // when it was set or loaded
	gen    uint64        // of the key, before the store was asked
	entry  *near.Entry   // where it was put in memory, if it was

	nothing bool  // there is no value: this process has deleted it, or what it has set has expired
	err     error // it could not be read, so nobody knows
}

// readStore reads key from the fallback store and puts it into memory; false if the store has no
// value, or Redis is not away. The record of a Set or Del is the newest that this process has heard
// of the key, for as long as it is pending; but where Redis is not away, and only does not answer
// for the key, the loader knows more: others may have written since. The record of a load is as old
// as what memory holds.
func (c *Client) readStore(ctx context.Context, key string, room uintptr) (s storeAnswer, ok bool) {
	sh := c.link.Home(key)
	s.gen = c.near.Generation(key)
	outage := sh.Valid.Outage()
	record, ok, err := c.store.read(ctx, key)
	if s.err = err; !ok {
		return s, false
	}
	if record.Op == fallback.OpDel {
		s.nothing = true
		return s, false
	}
	now, _ := c.link.ServerTime(sh)
	s.left = time.Duration(record.Expires-now/1000) * time.Millisecond
	if sh.Asks() {
		return s, false
	}
	made, _ := stamp.Micros(record.Stamp)
	s.at = time.UnixMicro(made)
	use := s.left
	if record.Op == fallback.OpFill {
		if c.opt.DegradedTTL >= 0 {
			use = min(use, c.opt.DegradedTTL-time.Duration(now-made)*time.Microsecond)
		}
		if made < sh.BackAt() { // of an earlier outage: anybody may have deleted it in between
			return s, false
		}
	}
	value, what := wire.Unpack(record.Value)
	s.nothing = s.left <= 0 && record.Op == fallback.OpSet
	if use <= 0 || what != wire.Value && what != wire.Absence {
		return s, false
	}
	c.counted.diskHits.Add(1)
	c.observe(Event{Kind: EventHit, Key: key, Source: SourceDisk})
	s.raw, s.absent = value, what == wire.Absence
	s.entry = c.near.CommitAway(key, near.Away{
		Value: near.Value{Raw: s.raw, Absent: s.absent, TTL: s.left, Room: room},
		Valid: sh.Valid, Outage: outage, Generation: s.gen, Use: use,
	})
	return s, true
}

// keepLoad keeps what was loaded while its shard is degraded: in memory and, without waiting for
// the disk, in the store.
func (l *load) keepLoad(i int) *near.Entry {
	c, item, out := l.c, l.items[i], &l.out[i]
	sh := c.link.Home(item.f.key)
	if sh.Asks() {
		return nil
	}
	ttl := item.ttl
	if out.err != nil || len(out.raw) > c.opt.MaxValueBytes || ttl <= 0 {
		return nil
	}
	key, raw := strings.Clone(item.f.key), strings.Clone(out.raw) // the record holds on to them
	stored := wire.Absent
	if out.found {
		stored = wire.Pack(raw)
	}
	now, slack := c.link.ServerTime(sh)
	record := fallback.Record{
		Op: fallback.OpFill, Key: key, Value: stored, Expires: expiresAt(now, ttl),
		Stamp: c.stamps.Load(now - (c.link.Now()-l.began)/int64(time.Microsecond)), Slack: slack,
	}
	return c.near.CommitAway(key, near.Away{
		Value: near.Value{Raw: raw, Absent: !out.found, TTL: ttl, Room: l.room},
		Valid: sh.Valid, Outage: item.outage, Generation: item.gen,
		Then: func() { c.store.Fill(record) },
	})
}

// refreshedNothing notes that a refresh without a lock has loaded nothing that may be kept: what is
// gone is not served any more, and what remains stale rests.
func (l *load) refreshedNothing(i int) {
	c, item := l.c, &l.items[i]
	key := item.f.key
	if !l.out[i].found && c.near.Generation(key) == item.gen && c.link.Home(key).Valid.Outage() == item.outage {
		c.store.dropLoad(key)
		c.near.Drop(key)
	}
	item.refresh.failed()
}

// expiresAt is the end, in ms, of a ttl that begins at now (µs).
func expiresAt(now int64, ttl time.Duration) int64 {
	return max(now/1000+script.Milliseconds(ttl), 1)
}

// keepWrites puts writes that Redis has not acknowledged into the store; cause says why it has not.
// nil: they survive the end of the process, and are as good as written.
func (c *Client) keepWrites(ctx context.Context, records []fallback.Record, cause error) error {
	defer c.store.settleOvertaken(records)
	ctx, cancel := withGrace(ctx)
	defer cancel()
	if err := c.store.Put(ctx, records...); err != nil {
		return fmt.Errorf("%w, and it cannot be kept for later: %w", cause, reason.Of(err))
	}
	c.counted.journaled.Add(int64(len(records)))
	for i := range records {
		record := &records[i]
		c.observe(Event{Kind: EventJournaled, Key: record.Key, Err: cause})
		if sh := c.link.Shard(record.Key); sh.Asks() {
			sh.ReplayNow()
		}
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
