package aside

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/near"
	"github.com/redaside/aside/internal/script"
)

// SetMulti is Set for many keys: each is stored under the rules of Set, or not, by itself. Redis
// gets them in script calls of up to 64 keys and 1 MiB, in a cluster one for each slot, all of which
// are sent at once (8,192 keys and 8 MiB of a shard, then the next ones).
//
// If some keys fail, the error is a *BatchError with the error that Set would have returned for
// each, and all others are stored. A ttl that is wrong, a ctx that has ended and a closed client are
// errors of the whole, for which nothing was done. An empty map is no error.
func (c *Client) SetMulti(ctx context.Context, ttl time.Duration, values map[string]string, opts ...CallOption) error {
	options, err := c.check(ttl, nil, opts)
	if err != nil {
		return err
	}
	return writer{c}.setMulti(ctx, options.with(0), ttl, values, nil)
}

// setMulti is SetMulti for a ttl that is right, and includes the grace of options. failed are keys
// whose values cannot be stored; it may be nil.
func (c writer) setMulti(ctx context.Context, options *callOptions, ttl time.Duration, values map[string]string, failed map[string]error) error {
	if failed == nil {
		failed = make(map[string]error)
	}
	w := &write{writer: c, verb: "set", view: options.viewName(), script: script.Set, bare: script.SetBare, op: fallback.OpSet, ttl: ttl, alone: true}
	w.values = make(map[string]string, len(values)) // a Set without an answer may still be sent, or is kept: see Set
	gr := grouper(c)
	var seen groupStates
	if len(values) > 0 {
		seen = gr.seeSet(ctx, options) // once for all: where nothing is pushed, each look is a round trip
	}
	for key, value := range values {
		err := c.checkKey(key)
		if err == nil {
			err = c.checkValue(key, value)
		}
		if err != nil {
			failed[key] = err
			continue
		}
		w.values[strings.Clone(key)] = strings.Clone(stored(&near.Value{Raw: value, Meta: gr.setMeta(options, ttl, key, seen)}))
	}
	w.keys = slices.Sorted(maps.Keys(w.values))
	if err := w.doMulti(ctx, failed); err != nil {
		return err
	}
	return batchError(failed)
}

// doMulti does it, and adds those keys to failed that are not done.
func (w *write) doMulti(ctx context.Context, failed map[string]error) error {
	if err := w.begin(ctx, w.keys); err != nil {
		return err
	}
	if len(w.keys) == 0 {
		w.end(w.keys)
		return nil
	}
	seen, ctx := w.watch(ctx, Event{Kind: EventWrite, Op: "set_multi", View: w.view, Key: w.keys[0], Keys: len(w.keys)})
	w.doMultiBegun(ctx, failed)
	seen.end(batchError(failed))
	return nil
}

// doMultiBegun is doMulti behind begin.
func (w *write) doMultiBegun(ctx context.Context, failed map[string]error) {
	defer w.end(w.keys)
	who := enterCall(ctx)
	defer who.leave()
	w.drop(w.keys)
	began := w.link.Now()
	some, _ := w.perform(who)
	w.drop(w.keys) // what is kept comes back into memory when it is asked for: see readStore
	for _, f := range some {
		for _, key := range f.keys {
			failed[key] = w.says(f, []string{key})
		}
	}
	w.readBack(who, slices.DeleteFunc(slices.Clone(w.keys), func(key string) bool { return failed[key] != nil }), ownSet{w, began})
}
