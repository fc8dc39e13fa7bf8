package aside

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/deferred"
	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/script"
	"github.com/redaside/aside/internal/stamp"
	"github.com/redaside/aside/internal/wire"
)

// What a Client makes good when Redis is back. Each shard's replayer hands the store's records to
// Redis: deletes, then sets, then fills (fallback.Syncer). A record leaves the store only when
// Redis has answered for it. Until then its key is pending, and whoever reads or writes the key has
// the record replayed first:
//
//	app: Del k, while away       app: Set k, now that Redis is back    replayer: delete k     <- would undo the Set
//
// The script that replays knows a later operation of the same client, but the record may be of an
// earlier process. One record is in one replay at a time (claims), and just before it is sent it
// must still be the one in the store.

const (
	leastClockError = link.LeastClockError
	mostRecordError = time.Minute     // beyond, a record is replayed as a delete of now
	replayRetry     = 5 * time.Second // between attempts to replay what Redis has refused, or the disk has not given
	unansweredRetry = 100 * time.Millisecond
)

// replayVerdicts are the answers of script.Replay, from 1.
var replayVerdicts = [...]fallback.Verdict{fallback.Applied, fallback.Superseded, fallback.Deleted, fallback.Dropped}

// replayer replays what one shard has missed.
type replayer struct {
	*Client
	sh    *link.Shard
	turns chan struct{} // has one for each batch of a pass that Redis is asked about; nil for what a caller waits for
}

// maxTurns is how many batches of a pass Redis is asked about at once: one is being answered, one
// is on its way, one is being prepared. More would only keep live commands waiting that go the same
// way. Batches that are answered and wait for the disk are not among them.
const maxTurns = 3

// Replay replays records of sh's keys, each once the key is free, settles those that are answered,
// and says what came of each.
func (r replayer) Replay(ctx context.Context, records []fallback.Record) []fallback.Outcome {
	outcomes := make([]fallback.Outcome, len(records))
	left := make([]int, len(records))
	for i := range left {
		left[i] = i
	}
	if len(left) == 0 {
		return outcomes
	}
	fail := func() []fallback.Outcome {
		for _, i := range left {
			outcomes[i] = fallback.Outcome{Verdict: fallback.NoAnswer, Err: ctx.Err()}
		}
		return outcomes
	}
	for {
		if !r.takeTurn(ctx) { // before the claims: a caller must not wait for a batch that waits itself
			return fail()
		}
		mine, others, busy := r.store.claims.take(records, left)
		r.claimed(ctx, records, mine, outcomes)
		if left = others; len(left) == 0 {
			return outcomes
		}
		select {
		case <-busy:
		case <-ctx.Done():
			return fail()
		}
	}
}

// takeTurn waits until Redis may be asked about one more batch; false: ctx has ended.
func (r replayer) takeTurn(ctx context.Context) bool {
	if r.turns == nil {
		return true
	}
	select {
	case r.turns <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (r replayer) endTurn() {
	if r.turns != nil {
		<-r.turns
	}
}

// claimed replays those records that are mine, and ends the turn as soon as Redis has answered:
// while this waits for the disk, Redis works on the next batch, and the disk takes several at once.
func (r replayer) claimed(ctx context.Context, records []fallback.Record, mine []int, outcomes []fallback.Outcome) {
	if len(mine) == 0 {
		r.endTurn()
		return
	}
	defer r.store.claims.release(records, mine)
	due, of := make([]*fallback.Record, 0, len(mine)), make([]int, 0, len(mine))
	bytes := int64(0)
	for _, i := range mine {
		bytes += int64(len(records[i].Value))
		if r.store.unanswered.waits(records[i].Key, r.link.Now()) {
			outcomes[i] = fallback.Outcome{Verdict: fallback.NoAnswer, Err: errStepUnderWay}
			continue
		}
		if now, ok := r.store.Stamp(records[i].Key); !ok || now != records[i].Stamp {
			outcomes[i] = fallback.Outcome{Verdict: fallback.Superseded} // replayed by somebody else, or overtaken
			continue
		}
		if records[i].Op == fallback.OpOperations {
			// Another replay may have opened the list since it was read.
			now, ok, err := r.store.read(ctx, records[i].Key)
			if err != nil || !ok || now.Stamp != records[i].Stamp {
				outcomes[i] = fallback.Outcome{Verdict: fallback.Refused, Err: cmp.Or(err, errUnreadable)}
				continue
			}
			records[i] = now
		}
		due, of = append(due, &records[i]), append(of, i)
	}
	patience := r.opt.RedisTimeout + r.sh.SendTime(bytes) // as runFor has, for notAfter
	answers := r.askOfAllKinds(ctx, due, patience)
	r.endTurn()
	settled := make([]fallback.Record, 0, len(due))
	acknowledged := due[:0]
	for n, outcome := range answers {
		if outcome.Verdict != fallback.NoAnswer && outcome.Verdict != fallback.Refused {
			outcome.Settled = true
			settled = append(settled, *due[n])
			if (outcome.Verdict == fallback.Applied || outcome.Verdict == fallback.Deleted) && !r.opt.DisableStamps && due[n].Op != fallback.OpOperations {
				acknowledged = append(acknowledged, due[n])
			}
		}
		outcomes[of[n]] = outcome
	}
	r.store.recent.addReplayed(acknowledged, r.link.Now())
	r.store.Settle(settled...) // before the keys are free: who claims one next must not find a record that is done
}

// askOfAllKinds is ask of records among which there may be some of operations.
func (r replayer) askOfAllKinds(ctx context.Context, records []*fallback.Record, patience time.Duration) []fallback.Outcome {
	isOperations := func(of *fallback.Record) bool { return of.Op == fallback.OpOperations }
	if !slices.ContainsFunc(records, isOperations) {
		return r.ask(ctx, records, patience)
	}
	outcomes, flush := make([]fallback.Outcome, len(records)), r.sh.Flushed()
	margin := func(of *fallback.Record) int64 { return r.marginOf(of).Microseconds() }
	var operations, others []*fallback.Record
	var ofOperations, ofOthers []int
	for i, of := range records {
		switch {
		case !isOperations(of):
			others, ofOthers = append(others, of), append(ofOthers, i)
		case r.wasFlushed(flush, of.Stamp, r.marginOf(of)):
			if del := deleteOf(of); del != nil {
				others, ofOthers = append(others, del), append(ofOthers, i)
				continue
			}
			outcomes[i] = fallback.Outcome{Verdict: fallback.Superseded}
		default:
			operations, ofOperations = append(operations, r.behindFlush(flush, of)), append(ofOperations, i)
		}
	}
	for n, outcome := range r.ask(ctx, others, patience) {
		outcomes[ofOthers[n]] = outcome
	}
	for n, outcome := range (ledgers{r.Client}).replayOperations(ctx, r.sh, operations, margin) {
		outcomes[ofOperations[n]] = outcome
	}
	return outcomes
}

// slackOf is by how much a record's clock may have been off.
func (r replayer) slackOf(of *fallback.Record) time.Duration {
	if of.Slack >= 0 {
		return time.Duration(of.Slack) * time.Microsecond
	}
	// Stamped by this machine's clock, which may be off by what it is off now, or was when the client began.
	now, _ := r.link.ServerTime(r.sh)
	wall, since := time.Now().UnixMicro(), r.link.Began().UnixMicro()+r.link.Now()/int64(time.Microsecond)
	return time.Duration(max(now-wall, wall-now, now-since, since-now)) * time.Microsecond
}

// marginOf is how close to a record's time another client's write must be for nobody to know which was
// later.
func (r replayer) marginOf(of *fallback.Record) time.Duration {
	return max(2*r.slackOf(of), stamp.LeastMargin)
}

// ask runs the replay script over records. One that is refused, for a key that we may not write,
// say, must not keep those in its batch from being replayed, so they are then asked for one by one.
func (r replayer) ask(ctx context.Context, records []*fallback.Record, patience time.Duration) []fallback.Outcome {
	outcomes := make([]fallback.Outcome, len(records))
	if len(records) == 0 {
		return outcomes
	}
	ask := func(batches []*link.Batch) (refused []*link.Batch) {
		calls := make([]*link.Call, len(batches))
		for i, b := range batches {
			b.Stamped = !r.opt.DisableStamps
			calls[i] = &b.Call
		}
		r.link.RunAll(ctx, r.sh, calls...)
		for _, b := range batches {
			late := b.Untimely() // so may be what is large; too early says something of the clock
			if late {
				n, _ := b.Reply.AsInt64()
				late = n == 0
			}
			if !late {
				r.link.JudgeClock(r.sh, &b.Call)
			}
			tellOutcomes(outcomes, b)
			if _, reply := rueidis.IsRedisErr(b.Err); reply && len(b.Of) > 1 && outcomes[b.Of[0]].Verdict == fallback.Refused {
				refused = append(refused, b)
			}
		}
		return refused
	}
	if refused := ask(r.batches(records, patience)); len(refused) > 0 {
		var singly []*link.Batch
		for _, b := range refused {
			for _, i := range b.Of {
				one := r.batches(records[i:i+1], patience)[0]
				one.Of[0] = i
				singly = append(singly, one)
			}
		}
		ask(singly)
	}
	return outcomes
}

func (r replayer) batches(records []*fallback.Record, patience time.Duration) []*link.Batch {
	now, off := r.link.ServerTime(r.sh)
	flush := r.sh.Flushed()
	window, _ := link.WriteWindow(now, off, patience)
	list := link.List{Len: len(records), Key: func(i int) (string, *link.Shard) { return records[i].Key, r.sh }}
	if r.opt.DisableStamps {
		list.Args = func(to []string, i int) []string { return append(to, string(records[i].Op)) }
		return r.link.Batches(script.ReplayBare, []string{window}, list)
	}
	list.Args = func(to []string, i int) []string {
		of := records[i]
		op, margin := of.Op[0], r.marginOf(of)
		if margin > 2*mostRecordError {
			op -= 'a' - 'A'
		}
		expires := of.Expires
		if r.wasFlushed(flush, of.Stamp, margin) {
			expires = 0 // it has ended with the flush
		}
		by, _ := stamp.Parse(of.Stamp)
		deed, _ := stamp.AppendDeed(make([]byte, 0, 64), op, by, margin.Microseconds(), expires)
		return append(to, string(deed), of.Value)
	}
	return r.link.Batches(script.Replay, []string{window, script.InMilliseconds(r.opt.StampTTL), wire.LockPrefix}, list)
}

// wasFlushed reports whether an operation, whose time may be off by margin, may be of before flush; nil:
// there was none. What this client has begun once it had noticed that is of after it, however late that
// is by the clocks.
func (r replayer) wasFlushed(flush *link.Flush, by string, margin time.Duration) bool {
	if flush == nil {
		return false
	}
	s, ok := stamp.Parse(by)
	if ok && s.Client == r.stamps.Client() && s.Number > flush.Mark {
		return false
	}
	return !ok || s.Micros-margin.Microseconds() <= flush.At
}

// deleteOf is what is replayed of operations that are all of before a flush: a delete, if there is a SET or DEL
// among them, as it would be of a Set or Del alone; else nothing.
func deleteOf(of *fallback.Record) *fallback.Record {
	l, err := deferred.Parse(of.Value)
	if err != nil {
		return nil
	}
	by, ok := l.Replacing()
	if !ok {
		return nil
	}
	return &fallback.Record{Op: fallback.OpDel, Key: of.Key, Stamp: by, Slack: of.Slack}
}

// behindFlush returns a record of those operations of another, whose last is of after flush, that are not of
// before it. A Set that is left out is a delete, as it would be alone.
func (r replayer) behindFlush(flush *link.Flush, of *fallback.Record) *fallback.Record {
	if flush == nil {
		return of
	}
	l, err := deferred.Parse(of.Value)
	if err != nil {
		return of
	}
	margin := r.marginOf(of)
	left, shorter := l.Since(func(by string) bool { return r.wasFlushed(flush, by, margin) })
	if !shorter {
		return of
	}
	rest := *of
	rest.Value = left.String()
	return &rest
}

// tellOutcomes sets the outcomes of the records that b has asked about.
func tellOutcomes(outcomes []fallback.Outcome, b *link.Batch) {
	all := func(o fallback.Outcome) {
		for _, i := range b.Of {
			outcomes[i] = o
		}
	}
	if b.Err != nil {
		all(replayFailure(b.Err))
		return
	}
	if verdict, ok := b.One(); ok && verdict == 1 {
		all(fallback.Outcome{Verdict: fallback.Applied})
		return
	}
	answers, err := b.Reply.ToArray()
	switch {
	case err != nil && b.Untimely():
		all(fallback.Outcome{Verdict: fallback.NoAnswer, Err: errReplayLate})
		return
	case err != nil || len(answers) != len(b.Keys):
		all(fallback.Outcome{Verdict: fallback.Refused, Err: errors.Join(err, fmt.Errorf("aside: the replay script gave %d answers for %d records", len(answers), len(b.Keys)))})
		return
	}
	for n, i := range b.Of {
		verdict, err := answers[n].AsInt64()
		switch {
		case err != nil:
			outcomes[i] = replayFailure(err)
		case verdict < 1 || verdict > int64(len(replayVerdicts)):
			outcomes[i] = fallback.Outcome{Verdict: fallback.Refused, Err: fmt.Errorf("aside: the replay script answered %d", verdict)}
		default:
			outcomes[i] = fallback.Outcome{Verdict: replayVerdicts[verdict-1]}
		}
	}
}

func replayFailure(err error) fallback.Outcome {
	if link.Refused(err) {
		return fallback.Outcome{Verdict: fallback.Refused, Err: err}
	}
	return fallback.Outcome{Verdict: fallback.NoAnswer, Err: err}
}

var errReplayLate = errors.New("aside: the replay came too late to be done, or too early by the server's clock, and will be tried again")

// run replays what the shard has missed, whenever it is asked to, and says when nothing is left.
func (r replayer) run() {
	retry := time.NewTimer(time.Hour)
	defer retry.Stop()
	for {
		select {
		case <-r.sh.ReplayDue():
		case <-retry.C:
		case <-r.sh.Left():
			r.doubts.drop(r.sh) // not when the client closes: a read may still be on its way, and must not believe the server
			return
		case <-r.lifecycle.ctx.Done():
			return
		}
		if !r.sh.Asks() {
			continue
		}
		if sure, report := r.makeSure(r.lifecycle.ctx, r.sh), r.pass(); !sure || report.Failed > 0 {
			retry.Reset(unansweredRetry)
			continue
		}
		// What was refused, or could not be read just now, must not keep all others waiting. It may
		// also be another shard's.
		if kept := r.store.Stats(); kept.Pending() > 0 {
			retry.Reset(replayRetry)
		}
		r.link.CaughtUp(r.sh)
	}
}

func (r replayer) pass() fallback.ReplayReport {
	if stats := r.store.Stats(); stats.Pending()+stats.Fills == 0 {
		return fallback.ReplayReport{}
	}
	ctx, cancel := context.WithCancel(r.lifecycle.ctx)
	defer cancel()
	same, restarted := r.sh.SameServer()
	var over atomic.Bool // what is told after that is old
	r.turns = make(chan struct{}, maxTurns)
	var belongs func(key string) bool // all, where there is one shard
	if r.sh.Addr != "" {
		belongs = func(key string) bool { return r.link.Shard(key) == r.sh }
	}
	syncer := fallback.NewSyncer(r.store.Store, r, fallback.SyncerOptions{
		Rate:      r.opt.ReplayRate,
		Belongs:   belongs,
		DropFills: r.opt.ReplayFills == ReplayFillsNever || r.opt.ReplayFills == ReplayFillsFenced && !same,
		Progress: func(p fallback.Progress) {
			if !over.Load() {
				r.store.replays.tell(Replay{Shard: r.sh.Addr, Running: true, Done: p.Done, Restarted: restarted, Report: p.Report})
			}
		},
	})
	report, err := syncer.Run(ctx)
	over.Store(true)
	if report.Total == 0 {
		return report
	}
	r.store.replays.tell(Replay{Shard: r.sh.Addr, Done: report.Done(), Restarted: restarted, Report: report})
	if r.observer != nil {
		r.observeAside(Event{
			Kind: EventReplay, Key: r.sh.Addr, Keys: report.Done(), Duration: report.Took, Err: err,
			Replay: &Replay{Shard: r.sh.Addr, Done: report.Done(), Restarted: restarted, Report: report},
		})
	}
	if err != nil && r.lifecycle.ctx.Err() == nil {
		r.warn(&r.seldomReplay, "a replay was broken off, what is left stays on disk", append(r.attrs(report, restarted), "error", err)...)
	} else if err == nil {
		level := slog.LevelInfo
		if report.Refused+report.Rejected > 0 {
			level = slog.LevelWarn
		}
		r.opt.Logger.Log(context.Background(), level, "aside: replayed what Redis has missed", r.attrs(report, restarted)...)
	}
	return report
}

func (r replayer) attrs(report fallback.ReplayReport, restarted bool) []any {
	attrs := []any{
		"address", r.link.Address(r.sh), "after", link.AsText(report.Took), "records", report.Total, "applied", report.Applied, "superseded", report.Superseded, "deleted", report.Deleted,
		"dropped", report.Dropped, "rejected", report.Rejected, "refused", report.Refused, "unanswered", report.Failed, "restarted", restarted,
	}
	if report.Refusal != nil {
		attrs = append(attrs, "refusal", report.Refusal)
	}
	return attrs
}

// makeSure replays, as deletes, what sh may lack of keys; of all for none. false: not all of it was
// answered.
func (c *Client) makeSure(ctx context.Context, sh *link.Shard, keys ...string) bool {
	answered, deleted := true, 0
	for some := range slices.Chunk(c.doubts.of(sh, keys...), link.MaxBatchKeys) {
		for i, outcome := range (replayer{Client: c, sh: sh}).ask(ctx, some, c.opt.RedisTimeout) {
			if outcome.Verdict == fallback.NoAnswer {
				answered = false
				continue
			}
			c.doubts.settled(sh, some[i])
			if outcome.Verdict == fallback.Applied {
				deleted++
			}
		}
	}
	if deleted > 0 {
		c.warn(&c.seldomReplay, "the server that took over lacked what was acknowledged before: deleted there", "address", c.link.Address(sh), "keys", deleted)
	}
	return answered
}
