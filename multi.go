package aside

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redaside/aside/internal/freshness"
	"github.com/redaside/aside/internal/near"
)

// GetMulti returns the values of keys: from memory, from Redis, and from one call of load for all
// that this process has to load; those that Redis cannot lock have a call of their own. Keys that
// are not found are absent from the map, which is never nil. Keys may repeat. load runs in another
// goroutine and may outlive the call: see [Loader].
//
// Its locks are those of Get, so a key is loaded once for all its callers, single or batched.
// GetMulti waits for keys that others load. If some keys fail, the error is a *BatchError and the
// map has the others. For each key, ttl, options and errors are as for Get.
func (c *Client) GetMulti(ctx context.Context, ttl time.Duration, keys []string, load BatchLoader[string], opts ...CallOption) (map[string]string, error) {
	to := collected[string]{Client: c, values: make(map[string]string, len(keys))}
	err := reader{c}.fetchMulti(ctx, ttl, keys, load, &to, opts...)
	return to.values, err
}

// FetchMulti is [Client.GetMulti] that also tells where each value is from, as Fetch does.
func (c *Client) FetchMulti(ctx context.Context, ttl time.Duration, keys []string, load BatchLoader[string], opts ...CallOption) (map[string]Result[string], error) {
	to := collected[string]{Client: c, results: make(map[string]Result[string], len(keys))}
	err := reader{c}.fetchMulti(ctx, ttl, keys, load, &to, opts...)
	return to.results, err
}

// fetchMulti is GetMulti and FetchMulti.
func (c reader) fetchMulti(ctx context.Context, ttl time.Duration, keys []string, load BatchLoader[string], to *collected[string], opts ...CallOption) error {
	if load == nil {
		return errNilLoader
	}
	p := &plan{ttl: ttl, opts: opts, call: &stringBatchLoad{load}}
	options, err := c.check(ttl, nil, opts)
	if err != nil {
		return err
	}
	to.grace = options.grace
	missing, stale, due := c.fromMemory(ctx, ttl, options, keys, func(key string, hit near.Hit) bool {
		if !hit.Absent() {
			to.inMemory(key, hit.Raw(), &hit)
		}
		return true
	})
	if len(stale)+len(due) > 0 {
		changed, _ := refresher(c).hits(ctx, stale, due, p) // the options are those that were right above
		to.drop(changed)
		to.waited(stale, p)
		missing = append(missing, changed...)
	}
	return c.obtainMulti(ctx, missing, nil, p, func(key string, out *outcome) {
		if !out.absent {
			to.outcome(key, out.raw, out)
		}
	})
}

// stringBatchLoad is a batch loader of strings as loadCaller.
type stringBatchLoad struct{ user BatchLoader[string] }

func (l *stringBatchLoad) load(ctx context.Context, keys []string, out []loaded) error {
	found, err := l.user(ctx, slices.Clone(keys))
	if err != nil {
		return err
	}
	for i, key := range keys {
		if value, ok := found[key]; ok {
			out[i] = loaded{raw: strings.Clone(value), found: true}
		}
	}
	return strangers(keys, found)
}

func (l *stringBatchLoad) readOld(_ string, was *old) (string, error) { return was.raw, nil }

func (l *stringBatchLoad) another() loadCaller { return l }

// strangers returns an error if a batch loader has answered for other keys only than it was asked
// for: that says nothing of those.
func strangers[T any](keys []string, found map[string]T) error {
	asked := func(key string) bool {
		_, ok := found[key]
		return ok
	}
	if len(found) == 0 || slices.ContainsFunc(keys, asked) {
		return nil
	}
	other := slices.Min(slices.Collect(maps.Keys(found)))
	return fmt.Errorf("%w: it returned %s and not %s: the map's keys must be those that it was given", errStrangers, quoted(other), quotedKeys(keys))
}

var errStrangers = errors.New("aside: the batch loader answered for keys that it was not asked for, and for none that it was")

// fromMemory hands what is in memory to use, as far as it will do for a call with these options, and
// returns the keys of which nothing has been used, each once, and those that are stale or due to be
// refreshed. use reports whether it could.
func (c reader) fromMemory(ctx context.Context, ttl time.Duration, options *callOptions, keys []string, use func(key string, hit near.Hit) bool) (missing, stale, due []string) {
	now := c.link.Now() // once: to read the clock takes a quarter of a hit
	for i, key := range keys {
		if hit := c.near.LookupAt(now, key, ttl, &options.need); hit.Entry != nil && ttl >= leastTTL && hit.Verdict != freshness.Unfit && use(key, hit) {
			c.hit(ctx, key, options.view)
			switch hit.Verdict {
			case freshness.Outdated:
				stale = append(stale, key)
			case freshness.Due:
				due = append(due, key)
			}
			continue
		}
		if missing == nil {
			missing = make([]string, 0, len(keys)-i)
		}
		missing = append(missing, key)
	}
	if len(missing) < 2 {
		return missing, stale, due
	}
	seen := make(map[string]struct{}, len(missing))
	return slices.DeleteFunc(missing, func(key string) bool {
		_, again := seen[key]
		seen[key] = struct{}{}
		return again
	}), stale, due
}

// obtainMulti is obtain for many keys: it leads all flights that nobody leads yet with one request
// per shard, and calls the loader once for what it has locked, before it waits for anybody else:
// two GetMulti with crossed keys cannot block each other. use is called for each key that has an
// outcome.
//
// keys has each key once; bad has fingerprints of what keys were found to hold and could not be
// decoded.
func (c reader) obtainMulti(ctx context.Context, keys []string, bad map[string]string, p *plan, use func(key string, out *outcome)) error {
	var err error
	if p.options, err = c.check(p.ttl, p.defaults, p.opts); err != nil || len(keys) == 0 {
		return err
	}
	failed := make(map[string]error)
	keys = slices.DeleteFunc(cloned(keys), func(key string) bool {
		err := c.checkKey(key)
		if err != nil {
			failed[key] = err
		}
		return err != nil
	})
	if p.options.withoutLoad {
		c.obtainKeptMulti(ctx, keys, kept{bad, p, failed}, use)
		keys = nil
	}
	if len(keys) > 0 {
		seen, ctx := c.watch(ctx, Event{Kind: EventGet, Op: "get_multi", View: p.options.view, Key: keys[0], Keys: len(keys)})
		p.seen = seen
		maps.Copy(failed, c.findMulti(ctx, keys, bad, p, use))
		seen.end(batchError(failed))
	}
	return batchError(failed)
}

// findMulti is obtainMulti for keys that are in order. It returns the errors.
func (c reader) findMulti(ctx context.Context, keys []string, bad map[string]string, p *plan, use func(key string, out *outcome)) map[string]error {
	failed := make(map[string]error)
	who := enterCall(ctx)
	defer who.leave()
	if p.options.need.Proven {
		for _, key := range keys {
			c.flights.detach(key) // as in obtain
		}
	}
	lost := false
	room := newMultiRoom(len(keys))
	for len(keys) > 0 {
		err := who.Err()
		if c.lifecycle.ctx.Err() != nil {
			err = ErrClosed
		}
		if err != nil {
			for _, key := range keys {
				failed[key] = err
			}
			break
		}
		tickets, led, flights := room.tickets[:0], room.led[:0], flightRoom{needed: len(keys)}
		for _, key := range keys {
			t, err := c.flights.join(who, key, c.near.Generation(key), &flights)
			if err != nil {
				failed[key] = err
				continue
			}
			if lost {
				t.f.insist()
			}
			if t.leader {
				led = append(led, asking{f: t.f, bad: bad[key]})
			}
			tickets = append(tickets, t)
		}
		since := p.seen.now()
		leader{c.Client, who, p}.leadMulti(led)
		for i := range led {
			if err := led[i].unproven; err != nil {
				failed[led[i].f.key] = err
			}
		}
		for i := range tickets {
			if !tickets[i].leader {
				c.counted.shared.Add(1)
			}
		}
		keys = keys[:0]
		r := refresher(c)
		var open settlement
		for i := range tickets {
			t := &tickets[i]
			key := t.f.key
			out, err := t.wait(who)
			out.waited = out.waited || p.waited || !t.leader && out.by != nil
			if p.seen != nil && !t.leader {
				p.seen.shared(t.f.observedLoad(), key, since)
				since = p.seen.now() // the others count from here
			}
			switch {
			case failed[key] != nil:
			case err != nil:
				failed[key] = err
			case out.again && !who.inside():
				failed[key] = errNoValues
			case out.again:
				lost = lost || out.lost
				keys = append(keys, key)
			case out.err != nil && !(out.own(p.call) && isEncodeError(out.err)):
				failed[key] = out.err
			case t.serves(&out) && grouper(c).mayHave(who, t, &out, p) && !(out.drilled && p.undrilled):
				switch verdict := r.judge(t, &out, p); {
				case p.options.need.Proven && out.bare:
					failed[key] = errNoBarrier
				case verdict == freshness.Good:
					p.seen.found(out.source, false)
					use(key, &out)
				default:
					open.add(key, out, verdict)
				}
			default:
				keys = append(keys, key)
			}
		}
		again, wrong := r.settleMulti(who, &open, p, use)
		keys = append(keys, again...)
		maps.Copy(failed, wrong)
		if len(keys) > 0 {
			p.call = p.call.another() // as in find
		}
	}
	room.release()
	return failed
}

// multiRoom is what a call for many keys needs of memory until it returns, and leaves to the next one.
type multiRoom struct {
	keys    int // for which there is room
	tickets []ticket
	led     []asking
}

var multiRooms sync.Pool // of *multiRoom, empty

// mostMultiRoom bounds for how many keys a room is kept.
const mostMultiRoom = 1024

func newMultiRoom(keys int) *multiRoom {
	room, ok := multiRooms.Get().(*multiRoom)
	if !ok || cap(room.tickets) < keys {
		return &multiRoom{keys, make([]ticket, 0, keys), make([]asking, 0, keys)}
	}
	room.keys = keys
	return room
}

// release has another call use the room. Nobody else may look at what is in it any more.
func (room *multiRoom) release() {
	if cap(room.tickets) > mostMultiRoom {
		return
	}
	clear(room.tickets[:room.keys])
	clear(room.led[:room.keys])
	multiRooms.Put(room)
}
