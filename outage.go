package aside

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/reason"
	"github.com/redaside/aside/internal/wire"
)

// What a Client does without Redis, and what it makes good when Redis is back.
//
// Away, per shard. Reads: memory (near.go) → the fallback store → the loader, of which MaxLoaders may run at once. Writes:
// the fallback store, then memory. An operation that Redis was asked for and has not answered goes to the store as well,
// with the stamp that it had: if it was done, its replay finds that out.
//
// Back. Each shard's replayer hands the store's records to Redis: deletes, then sets, then fills (fallback.Syncer). A record
// leaves the store only when Redis has answered for it. Until then its key is pending, and whoever reads or writes the key
// has the record replayed first:
//
//	app: Del k, while away       app: Set k, now that Redis is back    replayer: delete k     <- would undo the Set
//
// The script that replays knows a later operation of the same client, but the record may be of an earlier process.
// One record is in one replay at a time (claims), and just before it is sent it must still be the one in the store.

// replayVerdicts are the answers of scriptReplay, from 1.
var replayVerdicts = [...]fallback.Verdict{fallback.Applied, fallback.Superseded, fallback.Deleted, fallback.Dropped}

const (
	leastClockError = 50 * time.Millisecond // assumed of any two clocks, however good they look
	mostClockError  = time.Second           // beyond, Redis cannot be told until when it may do a write
	mostRecordError = time.Minute           // beyond, a record is replayed as a delete of now
	overloadWait    = time.Second           // for a loader's turn
	putGrace        = 20 * time.Millisecond // for the disk, when the caller's time is up
	replayRetry     = 5 * time.Second       // between attempts to replay what Redis has refused, or the disk has not given
	maxReaders      = 64                    // of the store at once

	unansweredRetry = 100 * time.Millisecond
)

// recall completes a flight from the fallback store; false if that does not know.
func (c *Client) recall(ctx context.Context, f *flight, room uintptr) bool {
	m, ok := c.recollect(ctx, f.key, room)
	if ok {
		c.complete(f, outcome{raw: m.raw, absent: m.absent, proven: true, gen: m.gen, entry: m.entry})
	}
	return ok
}

// recollection is what the fallback store knows of a key.
type recollection struct {
	raw    string
	absent bool
	left   time.Duration // of its ttl
	at     time.Time     // when it was set or loaded
	gen    uint64        // of the key, before the store was asked
	entry  *entry        // where it was put in memory, if it was

	nothing bool  // there is no value: this process has deleted it, or what it has set has expired
	err     error // it could not be read, so nobody knows
}

// recollect asks the fallback store for key; false if that does not know, or Redis is not away. An explicit record is the
// newest that this process knows of the key for as long as it is pending; but where Redis is not away, and does just not answer for it, the
// loader knows more: others may have written since. What was loaded is as old as what memory holds.
func (c *Client) recollect(ctx context.Context, key string, room uintptr) (m recollection, ok bool) {
	sh := c.home(key)
	m.gen = c.near.generation(key)
	outage := sh.outage.Load()
	record, ok, err := c.known(ctx, key)
	if m.err = err; !ok {
		return m, false
	}
	if record.Op == fallback.OpDel {
		m.nothing = true
		return m, false
	}
	now, _ := c.serverTime(sh)
	m.left = time.Duration(record.Expires-now/1000) * time.Millisecond
	if Mode(sh.mode.Load()) != Degraded {
		return m, false
	}
	made, _ := stampMicros(record.Stamp)
	m.at = time.UnixMicro(made)
	use := m.left
	if record.Op == fallback.OpFill {
		if c.opt.DegradedTTL >= 0 {
			use = min(use, c.opt.DegradedTTL-time.Duration(now-made)*time.Microsecond)
		}
		if made < sh.backAt.Load() { // of an earlier outage: anybody may have deleted it in between
			return m, false
		}
	}
	value, what := wire.Unpack(record.Value)
	m.nothing = m.left <= 0 && record.Op == fallback.OpSet
	if use <= 0 || what != wire.Value && what != wire.Absence {
		return m, false
	}
	c.counts.diskHits.Add(1)
	c.observe(Event{Kind: EventHit, Key: key, Source: SourceDisk})
	m.raw, m.absent = value, what == wire.Absence
	m.entry = c.near.commitAway(key, m.gen, sh, outage, m.raw, m.absent, use, room, nil)
	return m, true
}

// known returns what the store has of key. A disk that hangs must not hold up a caller whose time is over, so it is read by
// somebody else, of whom there are not too many.
func (c *Client) known(ctx context.Context, key string) (fallback.Record, bool, error) {
	if _, ok := c.store.Stamp(key); !ok {
		return fallback.Record{}, false, nil
	}
	type answer struct {
		record fallback.Record
		ok     bool
		err    error
	}
	answers := make(chan answer, 1)
	select {
	case c.readers <- struct{}{}:
	case <-ctx.Done():
		return fallback.Record{}, false, ctx.Err()
	case <-c.closing.Done():
		return fallback.Record{}, false, ErrClosed
	}
	reading := c.inBackground(func() { // ends with the disk
		defer func() { <-c.readers }()
		record, ok, err := c.store.Get(key)
		if err != nil {
			c.warn(&c.seldomDisk, "the fallback store cannot be read", keyAttr(key), "error", err)
		}
		answers <- answer{record, ok && err == nil, err}
	})
	if !reading {
		<-c.readers
		return fallback.Record{}, false, ErrClosed
	}
	select {
	case a := <-answers:
		return a.record, a.ok, a.err
	case <-ctx.Done():
		return fallback.Record{}, false, ctx.Err()
	case <-c.closing.Done():
		return fallback.Record{}, false, ErrClosed
	}
}

// forgetFill drops what a loader has returned for key from the store: Redis knows something newer now.
func (c *Client) forgetFill(key string) {
	if stamp, ok := c.store.Stamp(key); ok && !c.store.Pending(key) {
		c.store.Settle(fallback.Record{Op: fallback.OpFill, Key: key, Stamp: stamp})
	}
}

// retain keeps what was loaded while its shard is degraded: in memory and, without waiting for the disk, in the store.
func (l *load) retain(i int) *entry {
	c, item, out := l.c, l.items[i], &l.out[i]
	sh := c.home(item.f.key)
	if Mode(sh.mode.Load()) != Degraded {
		return nil
	}
	ttl := l.ttlOf(i)
	if out.err != nil || len(out.raw) > c.opt.MaxValueBytes || ttl <= 0 {
		return nil
	}
	key, raw := strings.Clone(item.f.key), strings.Clone(out.raw) // the record holds on to them
	stored := wire.Absent
	if out.found {
		stored = wire.Pack(raw)
	}
	now, slack := c.serverTime(sh)
	record := fallback.Record{
		Op: fallback.OpFill, Key: key, Value: stored, Expires: expiresAt(now, ttl),
		Stamp: c.stamps.format(now-(c.now()-l.began)/int64(time.Microsecond), 0), Slack: slack,
	}
	return c.near.commitAway(item.f.key, item.gen, sh, item.outage, raw, !out.found, ttl, l.room, func() { c.store.Fill(record) })
}

// expiresAt is the end of a ttl that begins at now (µs), in ms and rounded up as milliseconds does.
func expiresAt(now int64, ttl time.Duration) int64 {
	ms := int64(ttl / time.Millisecond)
	if ttl%time.Millisecond != 0 {
		ms++
	}
	return max(now/1000+ms, 1)
}

// remember puts writes that Redis has not answered for into the store. cause is why. nil: they are as good as written.
func (c *Client) remember(ctx context.Context, records []fallback.Record, cause error) error {
	ctx, cancel := withGrace(ctx)
	defer cancel()
	if err := c.store.Put(ctx, records...); err != nil {
		return fmt.Errorf("%w, and it cannot be kept for later: %w", cause, reason.Of(err))
	}
	c.counts.journaled.Add(int64(len(records)))
	for i := range records {
		record := &records[i]
		c.observe(Event{Kind: EventJournaled, Key: record.Key, Err: cause})
		if sh := c.shardOf(record.Key); sh.asks() {
			sh.replayNow()
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

// settle has the pending records of keys replayed, as far as their shards can be asked, and returns the keys that are
// pending all the same.
func (c *Client) settle(ctx context.Context, keys []string) (pending []string) {
	byShard := make(map[*shard][]fallback.Record, 1)
	for _, key := range keys {
		sh := c.shardOf(key)
		if !sh.asks() {
			continue
		}
		if record, ok, _ := c.known(ctx, key); ok && record.Op != fallback.OpFill {
			byShard[sh] = append(byShard[sh], record)
		}
	}
	var shards sync.WaitGroup
	for sh, records := range byShard {
		shards.Go(func() { c.replayRecords(ctx, sh, records) }) // ends within the time of a replay
	}
	shards.Wait()
	for _, key := range keys {
		if c.store.Pending(key) {
			pending = append(pending, key)
		}
	}
	return pending
}

// unsettled says that key has a record that could not be replayed just now.
func (c *Client) unsettled(ctx context.Context, key string) bool {
	if c.store.Pending(key) && len(c.settle(ctx, []string{key})) > 0 {
		return true
	}
	return c.doubtful(ctx, key)
}

// mayBeUnsettled reports whether it is worth asking.
func (c *Client) mayBeUnsettled(key string) bool {
	return c.store.Pending(key) || c.home(key).doubts.some.Load()
}

// doubtful reports whether key's server may still lack what it was told by its predecessor's client, see takeover.go.
func (c *Client) doubtful(ctx context.Context, key string) bool {
	sh := c.home(key)
	return sh.doubts.some.Load() && sh.asks() && !c.makeSure(ctx, sh, key)
}

// overtakings know, of the keys that are being written, which write Redis has acknowledged last. A write without an answer, which is
// then kept for replay, may be older than that:
//
//	Set k, no answer     Del k, done     the Set is kept     Redis goes     Get k    <- would be what was deleted
//
// Its replay would find that out, but until then this process would believe the record. Safe for concurrent use.
type overtakings struct {
	mu    sync.Mutex
	byKey map[string]*overtaking // of keys with a write under way; guarded by mu
}

type overtaking struct {
	writes int
	done   string // the greatest stamp that Redis has acknowledged
}

func (o *overtakings) begin(keys []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.byKey == nil {
		o.byKey = make(map[string]*overtaking)
	}
	for _, key := range keys {
		of := o.byKey[key]
		if of == nil {
			of = new(overtaking)
			o.byKey[key] = of
		}
		of.writes++
	}
}

func (o *overtakings) end(keys []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, key := range keys {
		of := o.byKey[key]
		if of.writes--; of.writes == 0 {
			delete(o.byKey, key)
		}
	}
}

// acknowledged notes that Redis has done a write; kept notes that one is in the store. Whichever comes later for two writes of a
// key settles the older.
func (c *Client) acknowledged(keys []string, stamp string) {
	c.overtaking.mu.Lock()
	for _, key := range keys {
		of := c.overtaking.byKey[key]
		of.done = max(of.done, stamp)
	}
	c.overtaking.mu.Unlock()
	for _, key := range keys {
		c.settleOlder(key, stamp)
	}
}

func (c *Client) kept(records []fallback.Record) {
	for i := range records {
		c.overtaking.mu.Lock()
		done := c.overtaking.byKey[records[i].Key].done
		c.overtaking.mu.Unlock()
		c.settleOlder(records[i].Key, done)
	}
}

// settleOlder settles the pending record of key if this client has made it before the write with that stamp.
func (c *Client) settleOlder(key, stamp string) {
	if was, ok := c.store.Stamp(key); ok && len(was) == stampLen && was < stamp && was[stampTime:stampTime+stampClient] == c.stamps.client {
		c.store.Settle(fallback.Record{Op: fallback.OpDel, Key: key, Stamp: was})
	}
}

// claims are the keys whose records are being replayed. Safe for concurrent use.
type claims struct {
	mu    sync.Mutex
	byKey map[string]chan struct{} // closed when the key is free again; guarded by mu
}

// take claims key; otherwise it returns what is closed when it is free again.
func (cl *claims) take(key string) <-chan struct{} {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if taken := cl.byKey[key]; taken != nil {
		return taken
	}
	if cl.byKey == nil {
		cl.byKey = make(map[string]chan struct{})
	}
	cl.byKey[key] = make(chan struct{})
	return nil
}

func (cl *claims) release(key string) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	close(cl.byKey[key])
	delete(cl.byKey, key)
}

// replayRecords replays records of sh's keys, each once the key is free, settles those that are answered, and says what came
// of each.
func (c *Client) replayRecords(ctx context.Context, sh *shard, records []fallback.Record) []fallback.Outcome {
	outcomes := make([]fallback.Outcome, len(records))
	left := make([]int, len(records))
	for i := range left {
		left[i] = i
	}
	for len(left) > 0 {
		var mine, others []int
		var busy <-chan struct{}
		for _, i := range left {
			if taken := c.claims.take(records[i].Key); taken != nil {
				others, busy = append(others, i), taken
			} else {
				mine = append(mine, i)
			}
		}
		c.replayClaimed(ctx, sh, records, mine, outcomes)
		if left = others; len(left) == 0 {
			break
		}
		select {
		case <-busy:
		case <-ctx.Done():
			for _, i := range left {
				outcomes[i] = fallback.Outcome{Verdict: fallback.NoAnswer, Err: ctx.Err()}
			}
			return outcomes
		}
	}
	return outcomes
}

func (c *Client) replayClaimed(ctx context.Context, sh *shard, records []fallback.Record, mine []int, outcomes []fallback.Outcome) {
	defer func() {
		for _, i := range mine {
			c.claims.release(records[i].Key)
		}
	}()
	var due []*fallback.Record
	var of []int
	bytes := int64(0)
	for _, i := range mine {
		bytes += int64(len(records[i].Value))
	}
	patience := c.opt.RedisTimeout + atLinkRate(bytes+min(sh.bulk.Load(), mostAhead)) // as runFor has, for notAfter
	for _, i := range mine {
		if stamp, ok := c.store.Stamp(records[i].Key); !ok || stamp != records[i].Stamp {
			outcomes[i] = fallback.Outcome{Verdict: fallback.Superseded} // replayed by somebody else, or overtaken
			continue
		}
		due, of = append(due, &records[i]), append(of, i)
	}
	var settled []fallback.Record
	for n, outcome := range c.askReplay(ctx, sh, due, patience) {
		outcomes[of[n]] = outcome
		if outcome.Verdict != fallback.NoAnswer && outcome.Verdict != fallback.Refused {
			settled = append(settled, *due[n])
			if (outcome.Verdict == fallback.Applied || outcome.Verdict == fallback.Deleted) && !c.opt.DisableStamps {
				c.recent.add([]string{due[n].Key}, stamp{due[n].Stamp, due[n].Slack}, c.now())
			}
		}
	}
	c.store.Settle(settled...) // before the keys are free: who claims one next must not find a record that is done
}

// askReplay runs the replay script over records. One that is refused, for a key that we may not write, say, must not keep those in
// its batch from being replayed, so they are then asked for one by one.
func (c *Client) askReplay(ctx context.Context, sh *shard, records []*fallback.Record, patience time.Duration) []fallback.Outcome {
	outcomes := make([]fallback.Outcome, len(records))
	if len(records) == 0 {
		return outcomes
	}
	ask := func(batches []*batch) (refused []*batch) {
		calls := make([]*call, len(batches))
		for i, b := range batches {
			b.stamped = !c.opt.DisableStamps
			calls[i] = &b.call
		}
		c.runAll(ctx, sh, calls...)
		for _, b := range batches {
			if early, err := b.reply.AsInt64(); !b.untimely() || err == nil && early < 0 { // too late may be what is large
				c.judgeClock(sh, &b.call)
			}
			for n, i := range b.of {
				outcomes[i] = replayOutcome(&b.call, n)
			}
			if _, reply := rueidis.IsRedisErr(b.err); reply && len(b.of) > 1 && outcomes[b.of[0]].Verdict == fallback.Refused {
				refused = append(refused, b)
			}
		}
		return refused
	}
	if refused := ask(c.replayBatches(sh, records, patience)); len(refused) > 0 {
		var singly []*batch
		for _, b := range refused {
			for _, i := range b.of {
				one := c.replayBatches(sh, records[i:i+1], patience)[0]
				one.of[0] = i
				singly = append(singly, one)
			}
		}
		ask(singly)
	}
	return outcomes
}

func (c *Client) replayBatches(sh *shard, records []*fallback.Record, patience time.Duration) []*batch {
	now, off := c.serverTime(sh)
	window, _ := writeWindow(now, off, patience)
	place := func(i int) (string, *shard) { return records[i].Key, sh }
	if c.opt.DisableStamps {
		return c.batches(scriptReplayBare, []string{window}, len(records), place, func(to []string, i int) []string { return append(to, string(records[i].Op)) })
	}
	return c.batches(scriptReplay, []string{window, milliseconds(c.opt.StampTTL), wire.LockPrefix}, len(records), place, func(to []string, i int) []string {
		r := records[i]
		slack := time.Duration(r.Slack) * time.Microsecond
		if r.Slack < 0 { // stamped by this machine's clock, which may be off by what it is off now, or was when the client began
			wall, since := time.Now().UnixMicro(), c.started.UnixMicro()+c.now()/int64(time.Microsecond)
			slack = time.Duration(max(now-wall, wall-now, now-since, since-now)) * time.Microsecond
		}
		doubt := "0"
		if slack > mostRecordError {
			doubt = "1"
		}
		margin := 2 * max(slack, leastClockError)
		expires := r.Expires
		if sh.wasFlushed(r, margin) {
			expires = 0 // it has ended with the flush
		}
		return append(to, string(r.Op), r.Stamp, strconv.FormatInt(margin.Microseconds(), 10), r.Value, strconv.FormatInt(expires, 10), doubt)
	})
}

// replayOutcome is what q has answered for its nth record.
func replayOutcome(q *call, n int) fallback.Outcome {
	if q.err != nil {
		return replayFailure(q.err)
	}
	if q.untimely() {
		return fallback.Outcome{Verdict: fallback.NoAnswer, Err: errReplayLate}
	}
	answers, err := q.reply.ToArray()
	if err != nil || len(answers) != len(q.keys) {
		return fallback.Outcome{Verdict: fallback.Refused, Err: errors.Join(err, fmt.Errorf("aside: the replay script gave %d answers for %d records", len(answers), len(q.keys)))}
	}
	verdict, err := answers[n].AsInt64()
	switch {
	case err != nil:
		return replayFailure(err)
	case verdict < 1 || verdict > int64(len(replayVerdicts)):
		return fallback.Outcome{Verdict: fallback.Refused, Err: fmt.Errorf("aside: the replay script answered %d", verdict)}
	}
	return fallback.Outcome{Verdict: replayVerdicts[verdict-1]}
}

func replayFailure(err error) fallback.Outcome {
	if _, reply := rueidis.IsRedisErr(err); reply && judge(err, true) == answered {
		return fallback.Outcome{Verdict: fallback.Refused, Err: err}
	}
	return fallback.Outcome{Verdict: fallback.NoAnswer, Err: err}
}

var errReplayLate = errors.New("aside: the replay came too late to be done, or too early by the server's clock, and will be tried again")

// replayTarget is a shard as fallback.Syncer sees it.
type replayTarget struct {
	c  *Client
	sh *shard
}

func (t replayTarget) Replay(ctx context.Context, records []fallback.Record) []fallback.Outcome {
	return t.c.replayRecords(ctx, t.sh, records)
}

// Replay is one pass of replaying what a shard has missed.
type Replay struct {
	Shard     string // its address in a cluster, else ""
	Running   bool
	Done      int  // records handled so far, of Report.Total
	Restarted bool // the server is not the one that was lost: it may lack what that had acknowledged. false: it is, or nobody knows
	Report    fallback.ReplayReport
}

// replays keeps the latest, and tells.
type replays struct {
	announcer[Replay]

	mu   sync.Mutex
	last Replay // guarded by mu
}

func (r *replays) latest() Replay {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}

func (c *Client) replaying(r Replay) {
	c.replays.mu.Lock()
	defer c.replays.mu.Unlock()
	c.replays.last = r
	c.replays.announce(c, r, func(queued Replay) bool { return queued.Running && queued.Shard == r.Shard }) // it has been overtaken
}

// replayer replays what sh has missed, whenever it is asked to, and says when nothing is left.
func (c *Client) replayer(sh *shard) {
	defer c.background.Done()
	retry := time.NewTimer(time.Hour)
	defer retry.Stop()
	for {
		select {
		case <-sh.replay:
		case <-retry.C:
		case <-sh.stop:
			return
		case <-c.closing.Done():
			return
		}
		if !sh.asks() {
			continue
		}
		if sure, report := c.makeSure(c.closing, sh), c.replayPass(sh); !sure || report.Failed > 0 {
			retry.Reset(unansweredRetry)
			continue
		}
		// What was refused, or could not be read just now, must not keep all others waiting. It may also be another shard's.
		if kept := c.store.Stats(); kept.Sets+kept.Deletes > 0 {
			retry.Reset(replayRetry)
		}
		c.happened(sh, replayed, nil)
	}
}

func (c *Client) replayPass(sh *shard) fallback.ReplayReport {
	if stats := c.store.Stats(); stats.Sets+stats.Deletes+stats.Fills == 0 {
		return fallback.ReplayReport{}
	}
	ctx, cancel := context.WithCancel(c.closing)
	defer cancel()
	same, restarted := c.sameServer(sh)
	var over atomic.Bool // what is told after that is old
	syncer := fallback.NewSyncer(c.store, replayTarget{c, sh}, fallback.SyncerOptions{
		Rate:      c.opt.ReplayRate,
		Belongs:   func(key string) bool { return c.shardOf(key) == sh },
		DropFills: c.opt.ReplayFills == ReplayFillsNever || c.opt.ReplayFills == ReplayFillsFenced && !same,
		Progress: func(p fallback.Progress) {
			if !over.Load() {
				c.replaying(Replay{Shard: sh.addr, Running: true, Done: p.Done, Restarted: restarted, Report: p.Report})
			}
		},
	})
	report, err := syncer.Run(ctx)
	over.Store(true)
	if report.Total == 0 {
		return report
	}
	c.replaying(Replay{Shard: sh.addr, Done: report.Done(), Restarted: restarted, Report: report})
	if err != nil && c.closing.Err() == nil {
		c.warn(&c.seldomReplay, "a replay was broken off, what is left stays on disk", append(c.replayAttrs(sh, report, restarted), "error", err)...)
	} else if err == nil {
		level := slog.LevelInfo
		if report.Refused > 0 {
			level = slog.LevelWarn
		}
		c.opt.Logger.Log(context.Background(), level, "aside: replayed what Redis has missed", c.replayAttrs(sh, report, restarted)...)
	}
	return report
}

func (c *Client) replayAttrs(sh *shard, r fallback.ReplayReport, restarted bool) []any {
	attrs := []any{
		"address", c.address(sh), "after", asText(r.Took), "records", r.Total, "applied", r.Applied, "superseded", r.Superseded, "deleted", r.Deleted,
		"dropped", r.Dropped, "refused", r.Refused, "unanswered", r.Failed, "restarted", restarted,
	}
	if r.Refusal != nil {
		attrs = append(attrs, "refusal", r.Refusal)
	}
	return attrs
}

// sameServer reports whether sh's server is, for certain, the one that was lost: missing stamps then prove that nothing was written. restarted: it is,
// for certain, another one, or another life of it.
func (c *Client) sameServer(sh *shard) (same, restarted bool) {
	run := sh.run.Load()
	sh.state.mu.Lock()
	defer sh.state.mu.Unlock()
	if run == nil || run.id == "" || sh.runIDBefore == "" {
		return false, false
	}
	return run.id == sh.runIDBefore, run.id != sh.runIDBefore
}
