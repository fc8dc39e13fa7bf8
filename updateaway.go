package aside

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/near"
	"github.com/redaside/aside/internal/reason"
	"github.com/redaside/aside/internal/wire"
)

// Known is what a client has kept of a key while Redis is away, or is to keep of it.
type Known struct {
	// Value is what the key holds; "" if Deleted.
	Value string

	// TTL is what is left of the value's life, or is to be; negative: it does not expire. A value
	// whose TTL is returned as it was given ends when it would have ended.
	TTL time.Duration

	// Deleted means that the key holds nothing: this client has deleted it, or what it has set has
	// expired.
	Deleted bool

	expires int64 // when it ends, as its record says; 0: there is none
}

// UpdateAway is what [Client.Update] is while Redis is away: it changes keys by what this client
// has kept of them. fn gets that, by key. A key that is not in the map is not known: this client
// has neither set nor deleted it since Redis was last told of it, so others may know more. fn
// returns what is to be kept instead, by key, for some of keys or none; its error is returned
// unchanged, and then nothing is kept.
//
// What is kept is a Set or Del of now, for each key by itself, and is replayed as such: a later
// write by another process stays, an earlier one is overwritten. All of it is kept or nothing, also after a
// crash; one key is replayed after the other. No replay of the keys runs
// meanwhile. A Set or Del of one of the keys by this client that runs at the same time is not
// waited for: the later one stays. Of several UpdateAways of a key each sees what the one before
// has kept.
//
// The error is ErrNotAway, and fn is not called, if Redis can be asked for one of the keys: use
// Update. It is ErrRedisAway, and fn is not called, if there is no Options.FallbackDir; ErrTooLarge,
// and nothing is kept; ErrFull, ErrDisk, or ctx's: then all of it may have been kept, or be kept soon, by a disk that has
// not answered. (A store of your own, Options.Store, that is no fallback.Transactor may have kept a part.) fn must not call
// the Client.
func (c *Client) UpdateAway(ctx context.Context, keys []string, fn func(kept map[string]Known) (map[string]Known, error)) error {
	keys = distinct(keys)
	w := writer{c}
	if err := w.begin(ctx, keys); err != nil {
		return err
	}
	seen, ctx := c.watch(ctx, Event{Kind: EventWrite, Op: "update_away", Key: first(keys), Keys: len(keys)})
	err := w.updateAway(ctx, keys, fn)
	seen.end(err)
	return err
}

// Away reports whether Redis is away for key: nobody asks the shard that has it. It takes no lock
// and asks nobody.
func (c *Client) Away(key string) bool { return !c.link.Shard(key).Asks() }

// distinct returns copies of keys, each once.
func distinct(keys []string) []string {
	all := make([]string, 0, len(keys))
	for _, key := range cloned(keys) {
		if !slices.Contains(all, key) {
			all = append(all, key)
		}
	}
	return all
}

// updateAway is UpdateAway behind begin.
func (c writer) updateAway(ctx context.Context, keys []string, fn func(kept map[string]Known) (map[string]Known, error)) error {
	defer c.end(keys)
	who := enterCall(ctx)
	defer who.leave()
	if !c.store.Durable() {
		return fmt.Errorf("aside: cannot update %s: %w, and Options.FallbackDir is not set", quotedKeys(keys), link.ErrNotAsked)
	}
	release, err := c.store.claims.hold(who, keys)
	if err != nil {
		return err
	}
	held := newLease(release)
	defer held.letGo()
	outages := make([]uint64, len(keys))
	for i, key := range keys {
		outages[i] = c.link.Home(key).Valid.Outage()
	}
	// Once it is known that nobody asks Redis, what is pending stays what is newest here: a replay
	// that began before would have the claim.
	if slices.ContainsFunc(keys, func(key string) bool { return !c.Away(key) }) {
		return ErrNotAway
	}
	kept, err := c.keptOf(who, keys)
	if err != nil {
		return err
	}
	next, err := fn(kept)
	if err != nil || len(next) == 0 {
		return err
	}
	next = maps.Clone(next)
	for key, k := range next {
		if !slices.Contains(keys, key) {
			return fmt.Errorf("%w: the function of an UpdateAway of %s changes %s, which is none of these keys", ErrInvalidArgument, quotedKeys(keys), quoted(key))
		}
		if err := c.checkValue(key, k.Value); err != nil {
			return err
		}
	}
	return c.keepNext(who, held, keys, kept, next, outages)
}

// keptOf is what the store has of explicit writes of keys.
func (c writer) keptOf(ctx context.Context, keys []string) (map[string]Known, error) {
	all := make(map[string]Known, len(keys))
	for _, key := range keys {
		record, ok, err := c.store.read(ctx, key)
		switch {
		case err != nil:
			return nil, fmt.Errorf("aside: cannot update %s: %w, and what is kept for it cannot be read: %w", quoted(key), link.ErrNotAsked, reason.Of(err))
		case !ok || record.Op == fallback.OpFill:
			continue
		case record.Op == fallback.OpOperations:
			if record, ok = asWrite(&record); !ok {
				continue // only Redis knows
			}
		}
		now, _ := c.link.ServerTime(c.link.Home(key))
		k := Known{Deleted: true}
		if left := time.Duration(record.Expires-now/1000) * time.Millisecond; record.Op == fallback.OpSet && left > 0 {
			if value, _, what := wire.Unpack(record.Value); what == wire.Value {
				k = Known{Value: value, TTL: left, expires: record.Expires}
			}
			if left > LongestTTL {
				k.TTL = -1
			}
		}
		all[key] = k
	}
	return all, nil
}

// keepNext keeps next as one record of the journal. A store of the user's own may keep a part of it; so values come
// first: it is better that one is there twice than not at all.
func (c writer) keepNext(ctx context.Context, held *lease, keys []string, kept, next map[string]Known, outages []uint64) error {
	var sets, deletes []fallback.Record
	before := make([]uint64, len(keys))
	w := &write{writer: c}
	for i, key := range keys {
		k, ok := next[key]
		if !ok {
			continue
		}
		k.Value = strings.Clone(k.Value) // the record holds on to it
		next[key] = k
		before[i] = c.drop(keys[i : i+1])
		sh := c.link.Home(key)
		s := w.newStamp(sh)
		record := fallback.Record{Op: fallback.OpDel, Key: key, Stamp: s.Text, Slack: s.Slack}
		if k.Deleted {
			deletes = append(deletes, record)
			continue
		}
		record.Op, record.Value = fallback.OpSet, stored(&near.Value{Raw: k.Value})
		switch was, ok := kept[key]; {
		case ok && !was.Deleted && was.TTL == k.TTL:
			record.Expires = was.expires
			if now, _ := c.link.ServerTime(sh); k.TTL > 0 { // fn may have taken long
				k.TTL = max(1, time.Duration(was.expires-now/1000)*time.Millisecond)
				next[key] = k
			}
		case k.TTL < 0:
			k.TTL = wire.Endless
			fallthrough
		default:
			now, _ := c.link.ServerTime(sh)
			record.Expires = expiresAt(now, k.TTL)
		}
		sets = append(sets, record)
	}
	err := c.keepTogether(ctx, append(sets, deletes...), link.ErrNotAsked, held)
	for i, key := range keys {
		k, ok := next[key]
		if !ok {
			continue
		}
		after := c.drop(keys[i : i+1])
		if err == nil && !k.Deleted && c.Away(key) && after == before[i]+1 { // nobody else has changed it meanwhile
			c.near.CommitAway(key, near.Away{
				Value: near.Value{Raw: k.Value, TTL: k.TTL, Began: c.link.Now()}, Valid: c.link.Home(key).Valid, Outage: outages[i], Changes: after,
			})
		}
	}
	if err != nil {
		return fmt.Errorf("aside: cannot update %s: %w", quotedKeys(keys), reason.Of(err))
	}
	return nil
}
