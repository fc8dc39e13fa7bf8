package aside

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/keeping"
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
//
// Of opts, WithTags and WithMaxAge have an effect: with WithMaxAge the value says when it was set.
func (c *Client) Set(ctx context.Context, ttl time.Duration, key, value string, opts ...CallOption) error {
	if len(opts) == 0 {
		return writer{c}.set(ctx, nil, ttl, key, value)
	}
	options, err := c.check(ttl, nil, opts)
	if err != nil {
		return err
	}
	return writer{c}.set(ctx, options.with(0), ttl, key, value)
}

// set is Set for options that are right; nil: there are none. ttl includes their grace.
func (c writer) set(ctx context.Context, options *callOptions, ttl time.Duration, key, value string) error {
	if _, err := c.check(ttl, nil, nil); err != nil {
		return err
	}
	if err := c.checkValue(key, value); err != nil {
		return err
	}
	value = strings.Clone(value) // a Set without an answer may still be sent, or is kept: see write
	w := c.newWrite()
	defer w.release()
	w.verb, w.view, w.script, w.bare, w.op, w.ttl, w.value = "set", options.viewName(), script.Set, script.SetBare, fallback.OpSet, ttl, value
	w.meta = grouper(c).setMeta(options, ttl, key, grouper(c).seeSet(ctx, options))
	w.args = append(w.one.args[:0], stored(&near.Value{Raw: value, Meta: w.meta}), c.loads.valueTTLs.of(ttl))
	return w.do(ctx, key)
}

// Del removes keys. After a nil error this process never serves their old values. Other processes
// stop serving them when the invalidation arrives, and after StaleLease at the latest; while Redis
// is away, they do so once it is back and the Del has been replayed. Running loads do not bring the
// old values back. Keys that do not exist are no error. The errors are those of Set; with many keys
// they say which keys failed, and the others are removed.
func (c *Client) Del(ctx context.Context, keys ...string) error {
	return writer{c}.del(ctx, "", keys)
}

func (c writer) del(ctx context.Context, view string, keys []string) error {
	w := c.newWrite()
	defer w.release()
	w.verb, w.view, w.script, w.bare, w.op = "delete", view, script.Del, script.DelBare, fallback.OpDel
	return w.do(ctx, keys...)
}

// Touch gives those of keys that hold a value a new ttl, counted from now. It creates nothing, and
// cached absences keep their own ttl. While Redis is away it does nothing and returns ErrRedisAway:
// it is not replayed. Its other errors are those of Set.
func (c *Client) Touch(ctx context.Context, ttl time.Duration, keys ...string) error {
	return writer{c}.touch(ctx, "", ttl, keys)
}

func (c writer) touch(ctx context.Context, view string, ttl time.Duration, keys []string) error {
	if _, err := c.check(ttl, nil, nil); err != nil {
		return err
	}
	if err := c.awaitStored(ctx, keys...); err != nil {
		return err
	}
	w := &write{writer: c, verb: "touch", view: view, bare: script.Touch, args: append(append([]string{script.InMilliseconds(ttl), wire.LockPrefix, wire.AbsentHeaderPrefix}, wire.PeerPrefixes()...), wire.Absent)}
	return w.do(ctx, keys...)
}

// Forget drops what this process has in memory of keys, and running loads of theirs are not kept
// there. The next call for a key asks Redis. It is for keys that were changed in Redis by other
// means than this client, where a caller knows so before Redis's invalidation has arrived here. It
// changes nothing in Redis, asks nobody and does not wait.
func (c *Client) Forget(keys ...string) { writer{c}.drop(keys) }

func (c writer) checkValue(key, value string) error {
	if len(value) <= c.opt.MaxValueBytes {
		return nil
	}
	return fmt.Errorf("%w: the value for key %s has %d bytes, more than Options.MaxValueBytes (%d): nothing was written; Del removes the old value", ErrTooLarge, quoted(key), len(value), c.opt.MaxValueBytes)
}

// begin lets a call begin that changes keys in Redis; end must follow, if it does.
func (c writer) begin(ctx context.Context, keys []string) error {
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

func (c writer) end(keys []string) {
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
	if err := w.begin(ctx, w.keys); err != nil {
		return err
	}
	seen, ctx := w.watch(ctx, Event{Kind: EventWrite, Op: w.verb, View: w.view, Key: first(w.keys), Keys: len(w.keys)})
	err := w.doBegun(ctx)
	seen.end(err)
	return err
}

// first is the first of keys, or "".
func first(keys []string) string {
	if len(keys) == 0 {
		return ""
	}
	return keys[0]
}

// doBegun is do behind begin.
func (w *write) doBegun(ctx context.Context) error {
	defer w.end(w.keys)
	who := enterCall(ctx)
	defer who.leave()
	before := w.drop(w.keys)
	var sh *link.Shard
	var outage uint64
	if w.op == fallback.OpSet {
		sh = w.link.Home(w.keys[0])
		outage = sh.Valid.Outage()
	}
	began := w.link.Now()
	failed, kept := w.perform(who)
	after := w.drop(w.keys)
	if kept && sh != nil && !sh.Asks() && after == before+1 { // nobody else has changed it meanwhile
		w.near.CommitAway(w.keys[0], near.Away{
			Value: near.Value{Raw: w.value, TTL: w.ttl, Began: w.link.Now(), Meta: w.meta}, Valid: sh.Valid, Outage: outage, Changes: after,
		})
	}
	w.done = len(failed) == 0 && !kept
	if len(failed) == 0 && w.op != fallback.OpDel {
		w.readBack(who, w.keys, ownSet{w, began})
	}
	errs := make([]error, len(failed))
	for i, f := range failed {
		errs[i] = w.says(f, f.keys)
	}
	return reason.Join(errs...)
}

// failure is why a write of some keys is not done, or not yet.
type failure struct {
	keys []string
	err  error
	kept bool // it is kept for replay, although Redis may still do it
}

// verbClear is what a write of groups' keys is called.
const verbClear = "clear"

// says is the error of a failure for some of its keys.
func (w *write) says(f failure, keys []string) error {
	what := quotedKeys(keys)
	if kind, name, ok := wire.GroupOf(keys[0]); ok && w.verb == verbClear {
		if what = fmt.Sprintf("the %s %s", kind, quoted(name)); len(keys) > 1 {
			what = fmt.Sprintf("%s and %d more", what, len(keys)-1)
		}
	}
	if f.kept {
		return fmt.Errorf("aside: cannot %s %s yet, it is kept for replay: %w", w.verb, what, reason.Of(f.err))
	}
	return fmt.Errorf("aside: cannot %s %s: %w", w.verb, what, reason.Of(f.err))
}

// drop drops what this process holds of keys and detaches their flights. It returns how many changes
// of the last were told, this one included.
func (c writer) drop(keys []string) (changes uint64) {
	for _, key := range keys {
		c.store.dropLoad(key)
		changes = c.near.Drop(key)
		c.flights.detach(key)
		c.older.detach(key)
	}
	return changes
}

// perform asks Redis for a write, and has the store keep what Redis was not asked for or has not
// answered. kept: there is such a write, and the store has it.
func (w *write) perform(ctx context.Context) (failed []failure, kept bool) {
	var cause error
	ask, later := w.settleFirst(ctx, w.keys)
	if len(later) > 0 {
		cause = errPending
		if ctx.Err() != nil {
			cause = fmt.Errorf("%w: %w", errPending, ctx.Err())
		}
		if w.op == "" {
			return []failure{{keys: later, err: cause}}, false
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
	all = w.singly(ctx, all)

	var records []fallback.Record
	var unknown []*writing
	for _, b := range all {
		err := b.WriteError()
		if again || !b.Untimely() { // once may be by chance
			w.link.JudgeClock(b.Shard, &b.Call)
		}
		switch {
		case err == nil && b.Stamped:
			w.store.acknowledged(b.Keys, b.stamp.Text, w.op != "")
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
			failed = append(failed, failure{keys: b.Keys, err: err})
		}
	}
	for _, key := range later {
		records = append(records, w.recordOfNow(key))
	}
	if len(records) == 0 {
		return failed, false
	}
	keys := make([]string, len(records))
	for i := range records {
		keys[i] = records[i].Key
	}
	err := w.keepWrites(ctx, records, cause)
	if err == nil || errors.Is(err, ErrNotDurable) {
		if again := w.keepAgain(ctx, records, cause); again != nil {
			err = again
		}
	}
	if err != nil {
		return append(failed, failure{keys: keys, err: err}), errors.Is(err, ErrNotDurable)
	}
	for i, b := range unknown {
		if w.awaitTooLate(ctx, b) {
			continue
		}
		for _, b := range unknown[i:] {
			failed = append(failed, failure{keys: b.Keys, err: cause, kept: true})
		}
		break
	}
	return failed, true
}

// keepAgain keeps, as of now, those of records that came late: operations were made after them and were
// there before them, so the store has not taken them (fallback.Merge), or were replayed already:
//
//	Set k: stamp 1    Apply k: stamp 2, kept    the Set comes to the store    <- it would be lost
//
// So it does with those that may have come late to the journal, as operations that are later are on their way:
//
//	Set k: stamp 1    Apply k: stamp 2, in the journal    Set k: in the journal, in memory    Apply k: in memory
//	the process is killed    <- the journal has the Set last, and it would be lost
//
// And those that were overtaken on their way, by operations that have been replayed since:
//
//	Set k: stamp 1    Apply k: stamp 2, kept and replayed    Set k: in memory    <- Redis has 2 of this client, so 1 would be superseded
//
// Neither call has seen the other end before it began, so the Set may come after the operations.
func (w *write) keepAgain(ctx context.Context, records []fallback.Record, cause error) error {
	if !w.store.operated.Load() {
		return nil
	}
	ctx, cancel := withGrace(ctx)
	defer cancel()
	for _, record := range records {
		if err := w.keepLate(ctx, record, cause); err != nil {
			return err
		}
	}
	return nil
}

// keepLate is keepAgain of one record.
func (w *write) keepLate(ctx context.Context, record fallback.Record, cause error) error {
	for {
		if now, ok := w.store.Stamp(record.Key); !ok || now != record.Stamp {
			return w.keepOneAgain(ctx, record, cause)
		}
		if !w.store.underWay.later(record.Key, record.Stamp) {
			if w.store.underWay.passed(record.Key, record.Stamp) {
				return w.keepOneAgain(ctx, record, cause)
			}
			return nil
		}
		record = w.recordOfNow(record.Key)
		if err := w.keepWrites(ctx, []fallback.Record{record}, cause); err != nil && !errors.Is(err, ErrNotDurable) {
			return err
		}
	}
}

// keepOneAgain is keepAgain of a record that is not the store's any more, or never was; or is, and was overtaken.
func (w *write) keepOneAgain(ctx context.Context, record fallback.Record, cause error) error {
	release, err := w.store.claims.hold(ctx, []string{record.Key})
	if err != nil {
		return fmt.Errorf("%w: %w", cause, err)
	}
	defer release()
	if w.store.Pending(record.Key) {
		there, ok, err := w.store.read(ctx, record.Key)
		if err != nil {
			return fmt.Errorf("%w: %w", cause, reason.Of(err))
		}
		if ok && keeping.Stands(there, record.Stamp) {
			return nil
		}
	}
	return w.keepWrites(ctx, []fallback.Record{w.recordOfNow(record.Key)}, cause)
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
func (c writer) settleFirst(ctx context.Context, keys []string) (now, later []string) {
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
		r.Value, r.Expires = w.argsOf(key)[0], expiresAt(now, w.ttl)
	}
	return r
}

// recordOfNow is record with a new stamp.
func (w *write) recordOfNow(key string) fallback.Record {
	sh := w.link.Shard(key)
	return w.record(key, sh, w.newStamp(sh))
}

// seeSet returns the states of the groups of what is set now, with options; nil: it has none.
func (gr grouper) seeSet(ctx context.Context, options *callOptions) groupStates {
	if options == nil {
		return nil
	}
	all := gr.groupsOf(options)
	if len(all) == 0 {
		return nil
	}
	who := enterCall(ctx)
	defer who.leave()
	return gr.see(who, all)
}
