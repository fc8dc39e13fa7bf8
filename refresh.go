package aside

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redaside/aside/internal/freshness"
	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/script"
	"github.com/redaside/aside/internal/stamp"
	"github.com/redaside/aside/internal/wire"
)

// A value is stored for its ttl and a grace, as the bytes that its codec wrote. When only the grace
// is left it is stale: callers get it, and one of them has it refreshed, in the background. See
// docs/adr/0010.
//
//	a caller finds k stale      it answers, and begins a refresh, unless one runs or k rests
//	the refresh lock of k       one script finds that k is stale in Redis, too, and takes the lock, or says
//	                            who has it: then k rests here until that may be over, or k changes
//	the loader                  runs as for a miss; the lock is renewed
//	it returns                  its value replaces k if nothing has changed since the lock was taken
//	it fails                    the lock stays for a back-off: the whole fleet asks once more after that
//	Redis is away               there is no lock, and the back-off is this process's own
//
// Our memory drops k when it is refreshed, rather than keep what was loaded: k may not be tracked.

// refresher refreshes keys for callers that have found them stale.
type refresher struct{ *Client }

// begin has those of keys refreshed, in the background, that are stale for a caller and do not rest.
// It returns the flights of those that are refreshed now. p is not used after it has returned; the
// keys must own their bytes.
func (r refresher) begin(keys []string, p *plan) (flights []*flight) {
	var items []*refreshItem
	for _, key := range keys {
		if f := r.refreshes.running(key); f != nil {
			flights = append(flights, f)
			continue
		}
		gen := r.near.Generation(key)
		if r.refreshes.rests(key, gen, r.link.Now()) {
			continue
		}
		item := r.newItem(key, gen, p)
		if item.old.newer(p.options.version) { // it is those that know the version who refresh it
			continue
		}
		if r.beginItem(item) {
			items, flights = append(items, item), append(flights, item.f)
		}
	}
	r.launch(items, p)
	return flights
}

func (r refresher) newItem(key string, gen uint64, p *plan) *refreshItem {
	return &refreshItem{f: &flight{key: key, stripe: r.flights.stripe(key), waiting: 1}, gen: gen, old: r.oldOf(key, p)}
}

// beginItem notes that item is refreshed, unless it rests or is refreshed already.
func (r refresher) beginItem(item *refreshItem) bool {
	was, ok := r.refreshes.begin(item, r.link.Now())
	item.failures, item.refusals, item.err, item.erred = was.failures, was.refusals, was.err, was.erred
	return ok
}

// launch refreshes items in the background.
func (r refresher) launch(items []*refreshItem, p *plan) {
	if len(items) == 0 {
		return
	}
	own := *p
	own.opts, own.call, own.found, own.seen = nil, p.call.another(), nil, nil
	if !r.inBackground(func() { r.run(items, &own) }) { // ends with the load, or with Close
		r.end(items)
	}
}

// oldOf is what a caller has found for key; nil: it has gone since.
func (r refresher) oldOf(key string, p *plan) *old {
	if found, ok := p.found[key]; ok {
		return found
	}
	if e := r.near.Lookup(key); e != nil {
		return &old{raw: e.Raw(), absent: e.Absent(), meta: e.Meta(), entry: e, expired: e.Expired(r.link.Now())}
	}
	return nil
}

// note notes what was found for key, for its refresh.
func (p *plan) note(key string, out *outcome) {
	if out.entry != nil {
		return
	}
	if p.found == nil {
		p.found = make(map[string]*old)
	}
	p.found[key] = &old{raw: out.raw, absent: out.absent, meta: out.meta, expired: out.expired}
}

// run refreshes keys.
func (r refresher) run(items []*refreshItem, p *plan) {
	seen, ctx := r.watch(context.Background(), Event{Kind: EventRefresh, View: p.options.view, Key: items[0].f.key})
	loads, err := r.runItems(ctx, items, p)
	seen.refreshed(loads, err)
}

// runItems is run, with the context whose values the loader's has: those of none of its callers. It
// returns how many keys were loaded, and the first error.
func (r refresher) runItems(ctx context.Context, items []*refreshItem, p *plan) (loads int, failed error) {
	who := enterCall(ctx)
	defer who.leave()
	load := r.lock(who, items, p)
	var loading, others []*refreshItem
	for _, item := range items {
		if item.loads {
			loading = append(loading, item)
		} else {
			others = append(others, item)
		}
	}
	r.end(others) // now: they may be refreshed before these loads are over
	if len(load) == 0 {
		return 0, nil
	}
	l := r.newLoad(who, p, load)
	l.special = refreshEnd{}
	r.counted.refreshes.Add(int64(len(load)))
	l.start()
	for i := range load {
		t := ticket{f: load[i].f, of: &r.flights, leader: true, early: false}
		out, err := t.wait(who)
		if err != nil { // the client closes, and the load still has the items
			return len(load), err
		}
		failed = cmp.Or(failed, out.err)
	}
	r.end(loading)
	return len(load), failed
}

// end lets everybody know that the items are not refreshed any more.
func (r refresher) end(items []*refreshItem) {
	for _, item := range items {
		r.flights.complete(item.f, outcome{again: true, held: item.held}) // where it has no outcome yet
		rest := refreshState{}
		if item.rest > 0 {
			rest = refreshState{rests: r.link.Now() + int64(item.rest), ours: item.ours, gen: item.gen, failures: item.failures, refusals: item.refusals, err: item.err, erred: item.erred}
		}
		r.refreshes.end(item.f, rest)
	}
}

// lock takes the refresh locks of those items that are stale in Redis, and returns what is to be
// loaded: those, and the ones whose shard is away.
func (r refresher) lock(who *caller, items []*refreshItem, p *plan) (load []loadItem) {
	var ask []*link.Batch
	for i, item := range items {
		sh := r.link.Shard(item.f.key)
		switch {
		case r.store.Pending(item.f.key): // what this process has written is newer than any load
			item.rest, item.held = soon, -1
			continue
		case !sh.Asks() && r.isFresh(item, p): // Redis would have said so
			continue
		case !sh.Asks():
			item.loads = true
			load = append(load, loadItem{f: item.f, free: true, refresh: item, old: item.old})
			continue
		}
		item.lock, item.marker = stamp.RefreshLock(item.f.key), r.newMarker(sh)
		ask = append(ask, &link.Batch{Shard: sh, Of: []int{i}, Call: link.Call{
			Script: script.Refresh, Keys: []string{item.f.key, item.lock}, Stamped: true,
			Args: []string{item.marker, r.lockTTL, item.due(p), wire.LockPrefix},
		}})
	}
	var mu sync.Mutex // of load
	r.link.RunBatches(who, ask, &link.Pieces{}, func(b *link.Batch) {
		item := items[b.Of[0]]
		mine, err := item.locked(b)
		if item.busy {
			r.counted.refreshesHeldOff.Add(1)
		}
		switch {
		case err != nil:
			if link.Unanswered(err) {
				r.disown(b.Shard, []string{item.lock}, item.marker)
			}
			item.failed(err)
			item.held = -1
		case mine:
			item.loads = true
			mu.Lock()
			defer mu.Unlock()
			load = append(load, loadItem{f: item.f, shard: b.Shard, marker: item.marker, refresh: item, old: item.old})
		case !b.Shard.Valid.Pushes():
			item.rest = min(item.rest, 10*soon) // nobody will tell when it has changed
		}
	})
	return load
}

// isFresh reports whether nobody who needs what p does would find an item due in memory: another call has
// found it so at the same time, and it was refreshed since.
func (r refresher) isFresh(item *refreshItem, p *plan) bool {
	e := r.near.Lookup(item.f.key)
	return !item.insists && e != nil && e.Fresh(r.link.Now(), p.ttl, &p.options.need)
}

// refreshEnd is how a load of refreshes ends.
type refreshEnd struct{}

// store is the end of store: it replaces what the items set out to replace, by what may be stored
// and otherwise by nothing.
func (refreshEnd) store(l *load, items []*loadItem, storable func(*loadItem) bool) {
	all := make([]*link.Batch, len(items))
	for i, item := range items {
		it := item.refresh
		value, ttl := "", "0"
		if storable(item) {
			args := l.fillArgs(nil, item)
			value, ttl = args[1], args[2]
		}
		all[i] = &link.Batch{Shard: item.shard, Of: []int{i}, Call: link.Call{
			Script: script.Refreshed, Keys: []string{item.f.key, it.lock}, Stamped: true,
			Args: []string{item.marker, it.print, it.end, it.stamp, value, ttl},
		}}
	}
	l.c.link.RunBatches(context.Background(), all, &link.Pieces{Insist: true, Until: math.MaxInt64}, func(b *link.Batch) {
		item := items[b.Of[0]]
		flag, err := b.Flag()
		accepted := err == nil && flag == 1
		switch {
		case err != nil:
			item.refresh.failed(err)
		case accepted:
			l.c.near.Drop(item.f.key)
		default:
			item.refresh.refused()
			l.c.counted.refreshesRefused.Add(1)
		}
		l.filled(true, item, accepted, err)
	})
}

// release leaves the locks for a back-off.
func (refreshEnd) release(l *load, err error) {
	c := l.c
	var all []*link.Batch
	for i := range l.items {
		item, it := &l.items[i], l.items[i].refresh
		q := link.Call{Script: script.Release, Keys: []string{it.lock}, Args: []string{item.marker}}
		switch {
		case l.values.lockLost():
			it.refused()
			c.counted.refreshesRefused.Add(1)
		case err == nil || c.lifecycle.ctx.Err() != nil: // the others may try
		case errors.Is(err, ErrOverloaded):
			it.rest, it.ours, it.err = overloadWait, true, err
			c.counted.refreshesFailed.Add(1)
		default:
			it.failed(err)
			c.counted.refreshesFailed.Add(1)
			keep := 2*it.rest + c.opt.LockTTL
			q.Script = script.RefreshFailed
			q.Args = append(q.Args, "failed:"+strconv.Itoa(it.failures)+":"+script.InMilliseconds(keep), script.InMilliseconds(it.rest+keep))
		}
		if item.marker != "" {
			all = append(all, &link.Batch{Shard: item.shard, Of: []int{i}, Call: q})
		}
	}
	c.link.RunBatches(context.Background(), all, &link.Pieces{Insist: true, Until: math.MaxInt64}, nil)
	for i := range l.items {
		if it := l.items[i].refresh; err != nil && it.err != nil {
			it.erred = c.link.Now()
			c.refreshes.failing(l.items[i].f.key, it.err, it.erred)
		}
		c.flights.complete(l.items[i].f, outcome{err: err, again: err == nil, lost: l.values.lockLost()})
	}
}

// stale counts keys that a caller has found stale, and has those refreshed that do not rest. It
// returns those that are to be asked for again, because they have changed or ended while the caller
// waited for their refresh. still reports whether what was found of a key may be served still.
func (r refresher) stale(ctx context.Context, keys []string, p *plan, still func(key string) bool) (again []string) {
	if !p.options.withoutLoad {
		flights := r.begin(keys, p)
		if p.options.softTimeout > 0 && !p.waited && loadOf(ctx) == nil { // a loader's own call does not wait: the refresh may be that loader's
			p.waited = true
			changed := r.await(ctx, flights, p.options.softTimeout)
			for _, key := range keys {
				if changed[key] || !still(key) {
					again = append(again, key)
				}
			}
		}
	}
	r.counted.staleHits.Add(int64(len(keys) - len(again)))
	return again
}

// await waits for refreshes, for so long, and returns the keys that they have loaded.
func (r refresher) await(ctx context.Context, flights []*flight, patience time.Duration) (changed map[string]bool) {
	who := enterCall(ctx)
	defer who.leave()
	timed, cancel := context.WithTimeout(who, patience)
	defer cancel()
	changed = make(map[string]bool)
	for _, f := range flights {
		f.stripe.mu.Lock()
		f.waiting++
		f.stripe.mu.Unlock()
		t := ticket{f: f, of: &r.flights}
		if out, err := t.wait(timed); err == nil && !out.again && out.err == nil {
			changed[f.key] = true
		}
	}
	return changed
}

// isStale reports whether what was found is stale for a caller who gives values so much grace. What
// was loaded is not.
func isStale(out *outcome, now int64, grace time.Duration) bool {
	return out.expired || out.by == nil && out.ends != 0 && freshness.Stale(now, out.ends, out.meta.GraceOr(grace))
}

// again reports whether the caller of p is to ask once more for what it has found stale, because that
// has changed while the caller waited.
func (r refresher) again(ctx context.Context, key string, out *outcome, p *plan) bool {
	p.note(key, out)
	before := p.waited
	again := len(r.stale(ctx, []string{key}, p, func(string) bool { return r.stillHolds(key, out) })) > 0
	if p.waited != before {
		out.judged = r.link.Now()
	}
	return again
}

// stillHolds reports whether what Redis or the store has answered may be served still: nothing was
// heard of a change since, and it has not ended. Where it is in memory, it must be served from there.
func (r refresher) stillHolds(key string, out *outcome) bool {
	return r.near.Generation(key) == out.gen && r.link.Now() < out.ends && (out.entry == nil || r.near.Lookup(key) == out.entry)
}

// stillInMemory returns a function that reports whether what memory has for one of keys now may be
// served still.
func (r refresher) stillInMemory(keys []string, p *plan) func(key string) bool {
	if p.options.softTimeout == 0 { // nobody waits
		return nil
	}
	gens := make(map[string]uint64, len(keys))
	for _, key := range keys {
		gens[key] = r.near.Generation(key)
	}
	return func(key string) bool { return r.near.Generation(key) == gens[key] && r.near.Lookup(key) != nil }
}

// leaves reports whether a call has nothing left to do about what memory has for its key, and whether
// it may have that.
func (r refresher) leaves(key string, v freshness.Verdict, o *callOptions) (nothing, serves bool) {
	switch v {
	case freshness.Good:
		return true, true
	case freshness.Unfit:
		return true, false
	}
	stale := v == freshness.Outdated
	if !o.withoutLoad && (stale && o.softTimeout > 0 || !r.refreshes.rests(key, r.near.Generation(key), r.link.Now())) {
		return false, true
	}
	if stale {
		r.counted.staleHits.Add(1)
	}
	return true, true
}

// hit does what leaves has left to do, and reports whether the call may have what memory had: else
// that has changed meanwhile.
func (r refresher) hit(ctx context.Context, key string, v freshness.Verdict, p *plan) (_ bool, err error) {
	if p.options, err = r.check(p.ttl, p.defaults, p.opts); err != nil {
		return false, err
	}
	keys := []string{strings.Clone(key)}
	if v == freshness.Due {
		r.begin(keys, p)
		return true, nil
	}
	return len(r.stale(ctx, keys, p, r.stillInMemory(keys, p))) == 0, nil
}

// hits is hit for many keys, stale ones and those that are due; it returns those that have changed.
func (r refresher) hits(ctx context.Context, stale, due []string, p *plan) (changed []string, err error) {
	if p.options, err = r.check(p.ttl, p.defaults, p.opts); err != nil {
		return nil, err
	}
	if len(due) > 0 && !p.options.withoutLoad {
		r.begin(once(due), p)
	}
	if len(stale) == 0 {
		return nil, nil
	}
	stale = once(stale)
	return r.stale(ctx, stale, p, r.stillInMemory(stale, p)), nil
}

// once returns keys that own their bytes, each once.
func once(keys []string) []string {
	keys = cloned(keys)
	slices.Sort(keys)
	return slices.Compact(keys)
}
