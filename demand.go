package aside

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/redaside/aside/internal/freshness"
	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/near"
	"github.com/redaside/aside/internal/reason"
)

// A call may need more of a value than that it may be served (WithMaxStale, WithMaxAge, WithFresh).
// What is too stale or too old for it stays where it is, for those that are content with it, and is
// refreshed: the call waits for that, whoever runs it. So a call that needs more costs others nothing,
// also where the loader fails.
//
//	a refresh runs here             the call waits for it, and has what it loads
//	one runs in another process     it waits until the key changes, looks again now and then, and asks again
//	none runs                       it begins one, also while others would not, because the last has failed
//	none can be run                 the loader is called for this call alone: a record of the key waits to be
//	                                replayed, Redis refuses the refresh lock, or a loader makes the call, and
//	                                the refresh might wait for that

// judge is what a flight's outcome is for the caller of p, now. What was loaded after it had asked is
// good.
func (r refresher) judge(t *ticket, out *outcome, p *plan) freshness.Verdict {
	out.judged = r.link.Now()
	if out.newer(p.options.version) {
		return freshness.Good // its view loads for itself, and that is what must be good
	}
	need := p.options.need
	need.Proven = false // it was asked for behind memory
	v := freshness.Value{Ends: out.ends, Began: out.began, Expired: out.expired}
	if out.by != nil {
		if t.leader || t.early {
			return freshness.Good
		}
		v.Ends = 0
	}
	if v.Ends == 0 {
		v.Ends = math.MaxInt64
	}
	if out.meta != nil {
		v.TTL, v.Grace, v.Took = out.meta.TTL, out.meta.Grace, out.meta.Took
	}
	return need.Judge(out.judged, p.ttl, v, rand.ExpFloat64)
}

// settle decides what becomes of what a flight has answered to the caller of p. again: it is to ask
// once more.
func (r refresher) settle(who *caller, t *ticket, out outcome, p *plan) (_ outcome, again bool, _ error) {
	key := t.f.key
	if p.options.need.Proven && out.bare {
		return out, false, errNoBarrier
	}
	switch r.judge(t, &out, p) {
	case freshness.Due:
		p.note(key, &out)
		r.begin([]string{key}, p)
	case freshness.Outdated:
		again = r.again(who, key, &out, p)
		return out, again, nil
	case freshness.Unfit:
		unfit := out // else out would be on the heap wherever it is fit
		d := r.demand(who, map[string]*outcome{key: &unfit}, p)
		if err := d.failed[key]; err != nil {
			return out, false, err
		}
		if got := d.got[key]; got != nil {
			return *got, false, got.err
		}
		return out, true, nil
	}
	return out, false, nil
}

// settlement are the outcomes of a call for many keys that it cannot simply have.
type settlement struct {
	stale, unfit, due map[string]*outcome
}

func (s *settlement) add(key string, out outcome, v freshness.Verdict) {
	to := &s.stale
	switch v {
	case freshness.Unfit:
		to = &s.unfit
	case freshness.Due:
		to = &s.due
	}
	if *to == nil {
		*to = make(map[string]*outcome)
	}
	(*to)[key] = &out
}

// settleMulti is settle for many keys. What the call may have is used, failures are added to failed,
// and the keys returned are to be asked for again.
func (r refresher) settleMulti(who *caller, s *settlement, p *plan, use func(key string, out *outcome)) (again []string, failed map[string]error) {
	for _, of := range []map[string]*outcome{s.due, s.stale} {
		for key, out := range of {
			p.note(key, out)
		}
	}
	if len(s.due) > 0 {
		r.begin(slices.Sorted(maps.Keys(s.due)), p)
	}
	if len(s.stale) > 0 {
		before := p.waited
		again = r.stale(who, slices.Sorted(maps.Keys(s.stale)), p, func(key string) bool { return r.stillHolds(key, s.stale[key]) })
		if p.waited != before {
			for _, out := range s.stale {
				out.judged = r.link.Now()
			}
		}
		for _, key := range again { // it has changed
			delete(s.stale, key)
		}
	}
	var d demanded
	if len(s.unfit) > 0 {
		d = r.demand(who, s.unfit, p)
	}
	for _, of := range []map[string]*outcome{s.due, s.stale, d.got} {
		for key, out := range of {
			use(key, out)
		}
	}
	for key := range s.unfit {
		if d.got[key] == nil && d.failed[key] == nil {
			again = append(again, key)
		}
	}
	return again, d.failed
}

var errNoBarrier = fmt.Errorf("aside: WithFresh: nothing proves that a value is still what Redis holds: %w", ErrRedisAway)

// demanded is what has come of keys that a call has demanded. Those that have neither an outcome nor
// an error are to be asked for again.
type demanded struct {
	got    map[string]*outcome
	failed map[string]error
}

// demand gets what was found and will not do for the caller of p anew.
func (r refresher) demand(who *caller, found map[string]*outcome, p *plan) demanded {
	d := demanded{make(map[string]*outcome), make(map[string]error)}
	if p.demands == 0 {
		p.demands = r.link.Now()
	}
	var alone, held []string
	if who.load != nil {
		for key := range found {
			if err := who.recursion(r.Client, key); err != nil {
				d.failed[key] = err
			} else {
				alone = append(alone, key)
			}
		}
		r.loadAlone(who, alone, p, d)
		return d
	}
	for key := range found {
		if err := r.refreshes.failedSince(key, r.link.Now()-int64(p.options.errorTTL)); err != nil {
			d.failed[key] = err
		}
	}
	before := p.waited
	for _, t := range r.insist(found, d.failed, p) {
		key := t.f.key
		out, err := t.wait(who)
		p.waited = p.waited || !t.leader
		switch {
		case err != nil:
			d.failed[key] = err
		case out.again && out.held < 0:
			alone = append(alone, key)
		case out.again && out.held > 0:
			held = append(held, key)
		case out.again, out.err != nil && isEncodeError(out.err): // then it is gone
			p.lost = p.lost || out.lost
		case out.err != nil:
			d.failed[key] = out.err
		case t.serves(&out) && r.meets(who, &t, &out, p): // else a new one is to begin
			out.waited = before || !t.leader
			got := out
			d.got[key] = &got
		}
	}
	r.loadAlone(who, alone, p, d)
	if len(held) > 0 && len(held) == len(found)-len(d.failed) {
		r.awaitOthers(who, held, found, p)
	}
	return d
}

// meets reports whether what a refresh has loaded, which may have begun before the call, is what its
// caller needs.
func (r refresher) meets(who *caller, t *ticket, out *outcome, p *plan) bool {
	if out.began > p.demands {
		return true
	}
	return grouper(r).mayHave(who, t, out, p) && r.judge(t, out, p) != freshness.Unfit
}

// insist has keys refreshed that do not fail already, and returns tickets for that. The caller leads
// those that it has begun.
func (r refresher) insist(found map[string]*outcome, failed map[string]error, p *plan) (tickets []ticket) {
	var items []*refreshItem
	for key, out := range found {
		if failed[key] != nil {
			continue
		}
		p.note(key, out)
		gen := r.near.Generation(key)
		f, mine := r.refreshes.running(key), false
		if f == nil {
			item := r.newItem(key, gen, p)
			item.insists, item.within = true, time.Duration(out.ends-out.at)+time.Millisecond
			if !r.beginItem(item) {
				continue // another has begun
			}
			items = append(items, item)
			f, mine = item.f, true
		}
		f.stripe.mu.Lock()
		f.waiting++
		f.insisted = f.insisted || p.lost
		tickets = append(tickets, ticket{f: f, of: &r.flights, leader: mine, early: f.load == nil && !f.finished, gen: gen})
		f.stripe.mu.Unlock()
	}
	r.launch(items, p)
	return tickets
}

// awaitOthers waits until one of keys changes, which other processes refresh, or for a little while: a
// refresh that fails changes nothing.
func (r refresher) awaitOthers(who *caller, keys []string, found map[string]*outcome, p *plan) {
	p.waited = true // also where it has ended already
	changed := make(chan struct{}, 1)
	leaves := make([]func(), 0, len(keys))
	defer func() {
		for _, leave := range leaves {
			leave()
		}
	}()
	for _, key := range keys {
		reserved := r.near.Reserve(key, r.link.Home(key).Valid)
		if reserved.Generation() != found[key].gen {
			return
		}
		_, leave, ok := r.near.Wait(key, reserved, changed)
		if !ok {
			return
		}
		leaves = append(leaves, leave)
	}
	p.looks++
	timer := time.NewTimer(link.Jitter(min(soon<<min(p.looks, 8), 250*time.Millisecond)))
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	case <-who.Done():
	case <-r.lifecycle.ctx.Done():
	}
}

// loadAlone calls the loader of p for its caller alone.
func (r refresher) loadAlone(who *caller, keys []string, p *plan, d demanded) {
	if len(keys) == 0 {
		return
	}
	began, out := r.link.Now(), make([]loaded, len(keys))
	_, err := alone(who, r.Client, p.defaults, p.opts, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, p.call.load(ctx, keys, out)
	})
	for i, key := range keys {
		switch {
		case err != nil && !isNotFound(err):
			d.failed[key] = err
			continue
		case err != nil:
			out[i] = loaded{}
		}
		answer := outcome{raw: out[i].raw, absent: !out[i].found, by: p.call, missing: err, at: began, began: began, source: SourceLoader, bare: !r.link.Home(key).Asks()}
		if out[i].err != nil {
			answer.err = &encodeError{out[i].err}
		}
		d.got[key] = &answer
	}
}

// unproven is the error of a call with WithFresh that Redis has not answered.
func unproven(err error) error {
	if errors.Is(err, ErrRedisAway) {
		return fmt.Errorf("aside: WithFresh: %w", reason.Of(err))
	}
	return fmt.Errorf("aside: WithFresh: %w: %w", ErrRedisAway, reason.Of(err))
}

// alone calls a loader for one call only, with the deadline and the shelter from panics that a
// shared load has.
func alone[R any](ctx context.Context, c *Client, defaults *callOptions, opts []CallOption, load func(context.Context) (R, error)) (value R, err error) {
	options, err := c.callOptions(defaults, opts)
	if err != nil {
		return value, err
	}
	if options.withoutLoad {
		return value, ErrNotCached
	}
	who := enterCall(ctx)
	defer who.leave()
	ctx, cancel := context.WithTimeout(context.WithValue(who, loadFromKey{}, nil), options.loadTimeout)
	defer cancel()
	if failed := c.contained("the loader", func() {
		value, err = load(ctx)
		examine(err)
	}); failed != nil {
		return value, failed
	}
	return value, err
}

// mayHave reports whether a caller may have an outcome that it shares, as far as its groups are
// concerned: another caller's leader may have looked at them before they were cleared, or have known
// of none.
func (gr grouper) mayHave(ctx context.Context, t *ticket, out *outcome, p *plan) bool {
	if t.leader || out.by != nil && t.early {
		return true
	}
	if group := p.options.clears; group != nil && !out.meta.Of(group) {
		return false
	}
	if out.unsure { // it is held for the callers of a moment, see holdsLocked
		if gr.changedSince(out.meta, out.began) {
			gr.flights.dropError(t.f.key)
			return false
		}
		return true
	}
	var v near.Verdict
	if p.options.need.Proven { // the leader has looked, but perhaps at what was known before the call
		v, _ = gr.proven(ctx, out.meta, nil)
	} else {
		v = gr.holds(ctx, out.meta, out.free)
	}
	if v == near.GroupsExpired {
		out.expired = true
		return !out.gone(p.options.grace)
	}
	return v == near.GroupsHold
}
