package aside

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/redaside/aside/internal/near"
)

// GetMulti returns the values of keys: from memory, from Redis, and from one call of load for all
// that this process has to load. Keys that are not found are absent from the map, which is never
// nil. Keys may repeat. load runs in another goroutine and may outlive the call: see [Loader].
//
// Its locks are those of Get, so a key is loaded once for all its callers, single or batched.
// GetMulti waits for keys that others load. If some keys fail, the error is a *BatchError and the
// map has the others. For each key, ttl, options and errors are as for Get.
func (c *Client) GetMulti(ctx context.Context, ttl time.Duration, keys []string, load BatchLoader[string], opts ...CallOption) (map[string]string, error) {
	values := make(map[string]string, len(keys))
	if load == nil {
		return values, errNilLoader
	}
	p := &plan{ttl: ttl, opts: opts, call: &stringBatchLoad{load}}
	options, err := c.check(ttl, nil, opts)
	if err != nil {
		return values, err
	}
	missing, stale := c.fromMemory(ttl, options.grace, keys, func(key string, e *near.Entry) bool {
		if !e.Absent() {
			values[key] = e.Raw()
		}
		return true
	})
	if len(stale) > 0 {
		changed, _ := refresher{c}.hits(ctx, stale, p) // the options are those that were right above
		for _, key := range changed {
			delete(values, key)
		}
		missing = append(missing, changed...)
	}
	err = c.obtainMulti(ctx, missing, nil, p, func(key string, out outcome) {
		if !out.absent {
			values[key] = out.raw
		}
	})
	return values, err
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

// fromMemory hands what is in memory to use, and returns the keys that are not, each once, and those
// that are stale for a reader with so much grace. use reports whether it could.
func (c *Client) fromMemory(ttl, grace time.Duration, keys []string, use func(key string, e *near.Entry) bool) (missing, stale []string) {
	for i, key := range keys {
		if e, fresh := c.near.LookupFresh(key, grace); e != nil && ttl >= leastTTL && use(key, e) {
			c.hit(key)
			if !fresh {
				stale = append(stale, key)
			}
			continue
		}
		if missing == nil {
			missing = make([]string, 0, len(keys)-i)
		}
		missing = append(missing, key)
	}
	if len(missing) < 2 {
		return missing, stale
	}
	seen := make(map[string]struct{}, len(missing))
	return slices.DeleteFunc(missing, func(key string) bool {
		_, again := seen[key]
		seen[key] = struct{}{}
		return again
	}), stale
}

// obtainMulti is obtain for many keys: it leads all flights that nobody leads yet with one request
// per shard, and calls the loader once for what it has locked, before it waits for anybody else:
// two GetMulti with crossed keys cannot block each other. use is called for each key that has an
// outcome.
//
// keys has each key once; bad has fingerprints of what keys were found to hold and could not be
// decoded.
func (c *Client) obtainMulti(ctx context.Context, keys []string, bad map[string]string, p *plan, use func(key string, out outcome)) error {
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
		c.obtainKeptMulti(ctx, keys, bad, failed, use)
		keys = nil
	}
	who := enterCall(ctx)
	defer who.leave()
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
		tickets := make([]ticket, 0, len(keys))
		var led []asking
		for i, key := range keys {
			t, err := c.flights.join(who, key, c.near.Generation(key))
			if err != nil {
				failed[key] = err
				continue
			}
			if t.leader {
				if led == nil {
					led = make([]asking, 0, len(keys)-i)
				}
				led = append(led, asking{f: t.f, bad: bad[key]})
			}
			tickets = append(tickets, t)
		}
		leader{c, who, p.room}.leadMulti(led, p)
		for i := range tickets { // not before: an Observer may ask for what we lead
			if !tickets[i].leader {
				c.shares(tickets[i].f.key)
			}
		}
		keys = keys[:0]
		var stale map[string]outcome
		for i := range tickets {
			t := &tickets[i]
			key := t.f.key
			out, err := t.wait(who)
			switch {
			case err != nil:
				failed[key] = err
			case out.again && !who.inside():
				failed[key] = errNoValues
			case out.again:
				keys = append(keys, key)
			case out.err != nil && !(out.own(p.call) && isEncodeError(out.err)):
				failed[key] = out.err
			case t.serves(&out):
				if p.options.grace == 0 || !(refresher{c}).isStale(&out, p) {
					use(key, out)
					continue
				}
				if stale == nil {
					stale = make(map[string]outcome)
				}
				stale[key] = out
			default:
				keys = append(keys, key)
			}
		}
		if len(stale) > 0 {
			r := refresher{c}
			still := func(key string) bool {
				out := stale[key]
				return r.stillHolds(key, &out)
			}
			for _, key := range r.stale(who, slices.Sorted(maps.Keys(stale)), p, still) { // it has changed
				keys = append(keys, key)
				delete(stale, key)
			}
			for key, out := range stale {
				use(key, out)
			}
		}
	}
	if len(failed) > 0 {
		return &BatchError{Failed: failed}
	}
	return nil
}
