package aside

import (
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
	"github.com/redaside/aside/internal/near"
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
		item := &refreshItem{f: &flight{key: key, stripe: r.flights.stripe(key), waiting: 1}, gen: gen}
		was, ok := r.refreshes.begin(item.f, item.gen, r.link.Now())
		if item.failures, item.refusals = was.failures, was.refusals; ok {
			items, flights = append(items, item), append(flights, item.f)
		}
	}
	if len(items) == 0 {
		return flights
	}
	own := *p
	own.opts, own.call = nil, p.call.another()
	if !r.inBackground(func() { r.run(items, &own) }) { // ends with the load, or with Close
		r.end(items)
	}
	return flights
}

// run refreshes keys.
func (r refresher) run(items []*refreshItem, p *plan) {
	who := enterCall(context.Background()) // the loader's context has its values: none
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
		return
	}
	l := r.newLoad(who, p, load)
	l.special = refreshEnd{}
	l.start()
	for i := range load {
		t := ticket{f: load[i].f, of: &r.flights, leader: true, early: false}
		if _, err := t.wait(who); err != nil { // the client closes, and the load still has the items
			return
		}
	}
	r.end(loading)
}

// end lets everybody know that the items are not refreshed any more.
func (r refresher) end(items []*refreshItem) {
	for _, item := range items {
		r.flights.complete(item.f, outcome{again: true}) // where it has no outcome yet
		rest := refreshState{}
		if item.rest > 0 {
			rest = refreshState{rests: r.link.Now() + int64(item.rest), ours: item.ours, gen: item.gen, failures: item.failures, refusals: item.refusals}
		}
		r.refreshes.end(item.f, rest)
	}
}

// lock takes the refresh locks of those items that are stale in Redis, and returns what is to be
// loaded: those, and the ones whose shard is away.
func (r refresher) lock(who *caller, items []*refreshItem, p *plan) (load []loadItem) {
	var ask []*link.Batch
	grace := script.InMilliseconds(p.options.grace)
	for i, item := range items {
		sh := r.link.Shard(item.f.key)
		switch {
		case r.store.Pending(item.f.key): // what this process has written is newer than any load
			item.rest = soon
			continue
		case !sh.Asks():
			item.loads = true
			load = append(load, loadItem{f: item.f, free: true, refresh: item})
			continue
		}
		item.lock, item.marker = stamp.RefreshLock(item.f.key), r.newMarker(sh)
		ask = append(ask, &link.Batch{Shard: sh, Of: []int{i}, Call: link.Call{
			Script: script.Refresh, Keys: []string{item.f.key, item.lock}, Stamped: true,
			Args: []string{item.marker, r.lockTTL, grace, wire.LockPrefix},
		}})
	}
	var mu sync.Mutex // of load
	r.link.RunBatches(who, ask, &link.Pieces{}, func(b *link.Batch) {
		item := items[b.Of[0]]
		mine, err := item.locked(b)
		switch {
		case err != nil:
			if link.Unanswered(err) {
				r.disown(b.Shard, []string{item.lock}, item.marker)
			}
			item.failed()
		case mine:
			item.loads = true
			mu.Lock()
			defer mu.Unlock()
			load = append(load, loadItem{f: item.f, shard: b.Shard, marker: item.marker, refresh: item})
		case !b.Shard.Valid.Pushes():
			item.rest = min(item.rest, 10*soon) // nobody will tell when it has changed
		}
	})
	return load
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
			item.refresh.failed()
		case accepted:
			l.c.near.Drop(item.f.key)
		default:
			item.refresh.refused()
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
		case err == nil || c.lifecycle.ctx.Err() != nil: // the others may try
		case errors.Is(err, ErrOverloaded):
			it.rest, it.ours = overloadWait, true
		default:
			it.failed()
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
		c.flights.complete(l.items[i].f, outcome{err: err, again: err == nil})
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

// isStale reports whether what was found is stale for the caller of p.
func (r refresher) isStale(out *outcome, p *plan) bool {
	return out.ends > 0 && freshness.Stale(r.link.Now(), out.ends, p.options.grace)
}

// again reports whether the caller of p is to ask once more for what it has found, because that was
// stale and has changed while the caller waited.
func (r refresher) again(ctx context.Context, key string, out *outcome, p *plan) bool {
	return r.isStale(out, p) && len(r.stale(ctx, []string{key}, p, func(string) bool { return r.stillHolds(key, out) })) > 0
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

// serves reports whether a call may have what memory has for its key, with nothing left to do: it is
// fresh for the call, or stale and not to be refreshed by it.
func (r refresher) serves(key string, e *near.Entry, defaults *callOptions, opts []CallOption) (bool, error) {
	options, err := r.callOptions(defaults, opts)
	if err != nil {
		return false, err
	}
	if e.FreshAt(r.link.Now(), options.grace) {
		return true, nil
	}
	if !options.withoutLoad && (options.softTimeout > 0 || !r.refreshes.rests(key, r.near.Generation(key), r.link.Now())) {
		return false, nil
	}
	r.counted.staleHits.Add(1)
	return true, nil
}

// hit begins what serves has left to do, and reports whether the call may have what memory had: else
// that has changed meanwhile.
func (r refresher) hit(ctx context.Context, key string, p *plan) (_ bool, err error) {
	if p.options, err = r.check(p.ttl, p.defaults, p.opts); err != nil {
		return false, err
	}
	keys := []string{strings.Clone(key)}
	return len(r.stale(ctx, keys, p, r.stillInMemory(keys, p))) == 0, nil
}

// hits is hit for many keys; it returns those that have changed.
func (r refresher) hits(ctx context.Context, keys []string, p *plan) (changed []string, err error) {
	if p.options, err = r.check(p.ttl, p.defaults, p.opts); err != nil || len(keys) == 0 {
		return nil, err
	}
	keys = cloned(keys)
	slices.Sort(keys)
	keys = slices.Compact(keys)
	return r.stale(ctx, keys, p, r.stillInMemory(keys, p)), nil
}
