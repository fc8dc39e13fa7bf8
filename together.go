package aside

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/script"
)

// batchedWrites are writes of many callers, of one kind.
type batchedWrites struct {
	*Client
	script *script.Script
}

// writesBy are those that go in calls of s, or, where stamps are disabled, of bare.
func (c *Client) writesBy(s, bare *script.Script) batchedWrites {
	if c.opt.DisableStamps {
		s = bare
	}
	return batchedWrites{c, s}
}

// send sends the writes of requests in one call. Where Redis refuses a call of several, which may be
// for one of them, each is sent by itself, in the same window: so each caller gets the error of its
// own write. What the call has done before it was refused is done once more; see the scripts.
//
// Where the latest commands were not answered, what has waited for long behind them is not sent.
func (c batchedWrites) send(sh *link.Shard, requests []*link.Request) {
	now, oldest := c.link.Now(), int64(math.MinInt64)
	if sh.Silent() {
		oldest = now - int64(c.opt.RedisTimeout/2)
	}
	requests = slices.DeleteFunc(requests, func(r *link.Request) bool {
		if r.Asked < oldest || r.Ends-now < int64(leastLeft/5) {
			r.Answer(&link.Batch{Call: link.Call{Err: errWaitedTooLong}}, 0, nil)
			return true
		}
		return false
	})
	if len(requests) == 0 {
		return
	}
	all := c.newCall(sh, requests)
	calls := []*writesCall{all}
	if !sh.CanBatch() { // no longer
		calls = all.each(firstRun)
	}
	c.run(sh, calls)
	if len(all.requests) > 1 && (link.Refused(all.Err) || link.IsTryAgain(all.Err)) {
		calls = all.each(secondRun)
		c.run(sh, calls)
	}
	for _, call := range calls {
		for i, r := range call.requests {
			r.Answer(&call.Batch, i, nil)
		}
	}
}

// errWaitedTooLong is why a write was not sent that went with others'.
var errWaitedTooLong = fmt.Errorf("%w: it has waited too long for others that are not answered", link.ErrNotAsked)

// writesCall is a script call for the writes of several callers.
type writesCall struct {
	link.Batch
	requests []*link.Request
	slack    int64 // see doable
}

// newCall begins requests. Its window is its own, whatever time their callers have.
func (c batchedWrites) newCall(sh *link.Shard, requests []*link.Request) *writesCall {
	bytes := 0
	for _, r := range requests {
		bytes += r.Size()
	}
	t := &writesCall{requests: requests, Batch: link.Batch{Shard: sh, Head: 1, Call: link.Call{Script: c.script, Args: []string{"", c.stampTTL, firstRun}, Stamped: !c.opt.DisableStamps}}}
	if t.Stamped {
		t.Head = 3
	}
	patience := c.link.Patience(context.Background(), sh, int64(bytes))
	now, slack := c.link.ServerTime(sh)
	t.slack = slack
	t.Args[0], t.NotAfter = link.WriteWindow(now, slack, patience)
	t.begin()
	return t
}

// each is the requests of t in calls of their own; run: whether t may have done them.
func (t *writesCall) each(run string) []*writesCall {
	all := make([]*writesCall, len(t.requests))
	for i := range all {
		all[i] = &writesCall{t.Batch, t.requests[i : i+1], t.slack}
		all[i].begin()
		if t.Stamped {
			all[i].Args[2] = run
		}
	}
	return all
}

// begin begins the requests, but for those whose callers have left, and makes the call for them.
func (t *writesCall) begin() {
	t.requests = slices.DeleteFunc(t.requests, func(r *link.Request) bool { return !r.Begin(&t.Batch) })
	head := t.Args[:t.Head]
	t.Keys = make([]string, 0, len(t.requests))
	t.Args = append(make([]string, 0, t.Head+4*len(t.requests)), head...)
	for _, r := range t.requests {
		t.Keys = append(t.Keys, r.Key)
		t.Args = append(t.Args, r.Args...)
	}
}

// run asks Redis for calls, in one round trip.
func (c batchedWrites) run(sh *link.Shard, all []*writesCall) {
	calls := make([]*link.Call, 0, len(all))
	for _, t := range all {
		switch {
		case !doable(sh, t.slack):
			t.Err = link.ErrNotAsked
		case len(t.requests) > 0:
			calls = append(calls, &t.Call)
		}
	}
	if len(calls) > 0 {
		c.link.RunAll(context.Background(), sh, calls...)
	}
}
