package aside

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/deferred"
	"github.com/redaside/aside/internal/keeping"
	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/reason"
	"github.com/redaside/aside/internal/script"
	"github.com/redaside/aside/internal/stamp"
)

// The replay of operations, each of which must be done once. Redis keeps a ledger beside the key: for
// each list of operations how far it was done, which the script notes that does them. A list that is
// not there was done and forgotten, or was never begun; so it is begun first, and that is noted here:
//
//	begin the list in the ledger        a crash here: it is begun again, and nothing was done
//	note in the store that it is        from here on a list that is not in the ledger is rejected
//	do what the ledger says is left     a crash here: what was done stands in the ledger
//	settle the record
//
// docs/adr/0016 has the order of events for each crash.

// ledgerTTL is for how long Redis remembers how far it has done the operations of a key: from when it
// was first asked to, and from when it last did any. A replay that goes on after that does not know,
// and rejects them.
const ledgerTTL = 7 * 24 * time.Hour

// ledgers is the part of a Client that has Redis do operations, and keeps its ledgers.
type ledgers struct{ *Client }

var (
	errLedgerLost = errors.New("aside: Redis has forgotten how far they were done (the ledger has expired, was evicted, or was lost with a server): they may or may not have been done")
	errUnreadable = errors.New("aside: the operations cannot be read")
)

// replayOperations replays records of operations of sh's keys, whose claims the caller has. margin is
// for how long before a stamp a write of another client counts as at the same time, in µs.
func (o ledgers) replayOperations(ctx context.Context, sh *link.Shard, records []*fallback.Record, margin func(*fallback.Record) int64) []fallback.Outcome {
	outcomes := make([]fallback.Outcome, len(records))
	lists := make([]deferred.List, len(records))
	all := replayedLists{records, lists, outcomes}
	var closed, left []int
	for i, r := range records {
		l, err := deferred.Parse(r.Value)
		if err != nil || len(l.Ops) == 0 {
			outcomes[i] = o.reject(r, l.Ops, errUnreadable)
			continue
		}
		lists[i], left = l, append(left, i)
		if !l.Opened {
			closed = append(closed, i)
		}
	}
	if len(closed) > 0 {
		o.open(ctx, sh, closed, all)
		still := left[:0]
		for _, i := range left {
			if lists[i].Opened {
				still = append(still, i)
			}
		}
		left = still
	}
	o.operate(ctx, sh, left, all, margin)
	return outcomes
}

// replayedLists are records of operations that are replayed, what each holds, and what comes of it.
type replayedLists struct {
	records  []*fallback.Record
	lists    []deferred.List
	outcomes []fallback.Outcome
}

// open begins the lists of those records that are in of, and notes in the store that they are. The
// outcomes of others say why not.
func (o ledgers) open(ctx context.Context, sh *link.Shard, of []int, all replayedLists) {
	records, lists, outcomes := all.records, all.lists, all.outcomes
	keyOf := func(n int) string { return records[of[n]].Key }
	window, over := o.window(ctx, sh)
	batches := o.link.Batches(script.Ledger, []string{window, script.InMilliseconds(ledgerTTL)}, link.List{
		Len: len(of),
		Key: func(n int) (string, *link.Shard) { return stamp.Ledger(keyOf(n)), sh },
		Args: func(to []string, n int) []string {
			id, _ := stamp.Packed(lists[of[n]].ID)
			return append(to, id)
		},
	})
	var notes []fallback.Record
	var begun []int
	o.run(ctx, sh, batches)
	for _, b := range batches {
		failed := o.failureOf(b, over, keyOf)
		for _, n := range b.Of {
			i := of[n]
			if failed != nil {
				outcomes[i] = operationsFailure(failed)
				continue
			}
			begun = append(begun, i)
			notes = append(notes, keeping.Opened(records[i].Key, lists[i].ID))
		}
	}
	if len(notes) == 0 {
		return
	}
	err := o.store.Put(ctx, notes...)
	for _, i := range begun {
		if err != nil {
			outcomes[i] = fallback.Outcome{Verdict: fallback.Refused, Err: fmt.Errorf("aside: that the replay begins cannot be noted: %w", reason.Of(err))}
			continue
		}
		lists[i].Opened = true
	}
}

// operate does what is left of the lists that are in of.
func (o ledgers) operate(ctx context.Context, sh *link.Shard, of []int, all replayedLists, margin func(*fallback.Record) int64) {
	if len(of) == 0 {
		return
	}
	records, lists, outcomes := all.records, all.lists, all.outcomes
	keyOf := func(n int) string { return records[of[n]].Key }
	batches := o.link.Batches(script.Operate, nil, link.List{
		Len: len(of),
		Key: func(n int) (string, *link.Shard) { return keyOf(n), sh },
		Args: func(to []string, n int) []string {
			i := of[n]
			id, _ := stamp.Packed(lists[i].ID)
			packed, _ := lists[i].Packed()
			return append(to, id, strconv.FormatInt(margin(records[i]), 10), packed)
		},
	})
	over := int64(0)
	for _, b := range batches {
		b.Call = *o.call(b.Keys, b.Args)
		b.Args[0], over = o.window(ctx, sh)
	}
	o.run(ctx, sh, batches)
	for _, b := range batches {
		failed := o.failureOf(b, over, keyOf)
		for n, at := range b.Of {
			i := of[at]
			if failed != nil {
				outcomes[i] = operationsFailure(failed)
				continue
			}
			outcomes[i] = o.outcome(records[i], lists[i], b, n)
		}
	}
}

// outcome is what became of the nth list of b.
func (o ledgers) outcome(record *fallback.Record, l deferred.List, b *link.Batch, n int) fallback.Outcome {
	verdict, rest, err := operated(b.Reply, n)
	if err != nil {
		return fallback.Outcome{Verdict: fallback.Refused, Err: err}
	}
	switch verdict {
	case operatedLost:
		return o.reject(record, l.Ops, errLedgerLost)
	case operatedNot:
		text := "refused"
		if len(rest) > 0 {
			text, _ = rest[0].ToString()
		}
		return fallback.Outcome{Verdict: fallback.Refused, Err: errors.New(text)}
	case operatedDone, operatedSuperseded:
		var refused []string
		if len(rest) > 0 {
			refused, _ = rest[0].AsStrSlice()
		}
		done := fallback.Outcome{Verdict: fallback.Applied}
		if verdict == operatedSuperseded {
			done.Verdict = fallback.Superseded
		}
		if len(refused) < 2 {
			return done
		}
		bad := make(map[string]bool)
		for i := 0; i < len(refused); i += 2 {
			bad[refused[i]] = true
		}
		var ops []deferred.Op
		for _, op := range l.Ops {
			if packed, _ := stamp.Packed(op.Stamp); bad[packed] {
				ops = append(ops, op)
			}
		}
		if len(ops) == 0 { // a flush has taken along those that were refused: see behindFlush
			return done
		}
		return o.reject(record, ops, errors.New("refused by Redis: "+refused[1]))
	}
	return fallback.Outcome{Verdict: fallback.Refused, Err: fmt.Errorf("aside: the script for operations answered %d", verdict)}
}

// reject puts operations of a record into quarantine; if that fails, the record stays.
func (o ledgers) reject(record *fallback.Record, ops []deferred.Op, why error) fallback.Outcome {
	bad := *record
	if len(ops) > 0 {
		l := deferred.List{ID: ops[0].Stamp, Ops: ops}
		bad.Value, bad.Stamp = l.String(), l.Last()
	}
	if err := o.store.reject(bad, why); err != nil {
		return fallback.Outcome{Verdict: fallback.Refused, Err: fmt.Errorf("aside: operations that cannot be done cannot be put aside: %w", reason.Of(err))}
	}
	o.counted.rejected.Add(1)
	o.warn(&o.seldomReplay, "operations were not done, and are in quarantine", keyAttr(record.Key), "operations", len(ops), "error", why)
	return fallback.Outcome{Verdict: fallback.Rejected, Err: why}
}

// window is that of what is about to be sent; "" if nothing will be. Once the link's clock is past over, no server does it.
func (o ledgers) window(ctx context.Context, sh *link.Shard) (window string, over int64) {
	if !sh.Asks() {
		return "", 0
	}
	now, slack := o.link.ServerTime(sh)
	patience := o.link.Patience(ctx, sh, 0)
	window, _ = link.WriteWindow(now, slack, patience)
	return window, o.link.Now() + int64(patience) + (2*max(slack, 0)+1)*int64(time.Microsecond)
}

// failureOf is why the step of b was not done, as far as is known. Without an answer it may still be done, until over; keyOf
// names the keys of what b is of.
func (o ledgers) failureOf(b *link.Batch, over int64, keyOf func(int) string) error {
	switch {
	case b.Err == nil && b.Untimely():
		return errOperationsLate
	case b.Err != nil && !link.Refused(b.Err):
		keys := make([]string, len(b.Of))
		for n, i := range b.Of {
			keys[n] = keyOf(i)
		}
		o.store.unanswered.note(keys, over, o.link.Now())
	}
	return b.Err
}

func (o ledgers) run(ctx context.Context, sh *link.Shard, batches []*link.Batch) {
	calls := make([]*link.Call, len(batches))
	for i, b := range batches {
		calls[i] = &b.Call
	}
	o.link.RunAll(ctx, sh, calls...)
	for _, b := range batches {
		o.link.JudgeClock(sh, &b.Call)
	}
}

var errOperationsLate = errors.New("aside: the replay of operations came too late to be done, or too early by the server's clock, and will be tried again")

var errStepUnderWay = errors.New("aside: a step of an earlier replay of the key had no answer, and may still be done: it will be tried again when it is too late for that")

func operationsFailure(err error) fallback.Outcome {
	if link.Refused(err) {
		return fallback.Outcome{Verdict: fallback.Refused, Err: err}
	}
	return fallback.Outcome{Verdict: fallback.NoAnswer, Err: err}
}

// call is a run of script.Operate on keys, with what it takes for each in args.
func (o ledgers) call(keys, args []string) *link.Call {
	q := &link.Call{Script: script.Operate, Keys: make([]string, 0, 2*len(keys)), Args: make([]string, 0, len(args)+4), Stamped: !o.opt.DisableStamps}
	q.Keys = append(q.Keys, keys...)
	for _, key := range keys {
		q.Keys = append(q.Keys, stamp.Ledger(key))
	}
	q.Args = append(q.Args, "", o.stampTTL, script.InMilliseconds(ledgerTTL))
	if !q.Stamped {
		q.Args[1] = ""
	}
	q.Args = append(q.Args, args...)
	if !q.Stamped {
		q.Args = append(q.Args, strconv.Itoa(len(q.Keys)))
	}
	return q
}

// The answers of script.Operate for a key.
const (
	operatedDone       = 1
	operatedSuperseded = 2
	operatedLost       = 5
	operatedNot        = 7
)

// operated reads what script.Operate has answered for the ith key.
func operated(reply rueidis.RedisMessage, i int) (verdict int64, rest []rueidis.RedisMessage, err error) {
	all, err := reply.ToArray()
	if err != nil {
		return 0, nil, err
	}
	if i >= len(all) {
		return 0, nil, fmt.Errorf("aside: a script gave %d answers, and none for key %d", len(all), i)
	}
	one, err := all[i].ToArray()
	if err != nil {
		return 0, nil, err
	}
	if len(one) == 0 {
		return 0, nil, errors.New("aside: a script gave an empty answer")
	}
	verdict, err = one[0].AsInt64()
	return verdict, one[1:], err
}
