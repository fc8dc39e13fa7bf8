package aside

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/near"
	"github.com/redaside/aside/internal/reason"
	"github.com/redaside/aside/internal/script"
	"github.com/redaside/aside/internal/wire"
)

// Looking is reading without loading.

// Found is what a key was found to hold.
type Found struct {
	Value  string
	TTL    time.Duration // left; negative if it does not expire
	Source Source        // SourceMemory, SourceRedis or SourceDisk
	At     time.Time     // when Redis was asked, or, while it is away, when the value was set or loaded
}

// Peek returns the value of key without ever loading it, or false if there is none or it is just
// being loaded. The error is ErrRedisAway when neither memory nor Redis can answer, Redis's own
// error if it refused the read, or ctx's.
func (c *Client) Peek(ctx context.Context, key string) (string, bool, error) {
	found, _, ok, err := c.look(ctx, key)
	return found.Value, ok, err
}

// Look is like Peek, and also reports the ttl, the source and the time. The error is ErrNotFound if
// there is no value or it is just being loaded; otherwise it is as for Peek.
func (c *Client) Look(ctx context.Context, key string) (Found, error) {
	found, _, ok, err := c.look(ctx, key)
	if err == nil && !ok {
		err = ErrNotFound
	}
	return found, err
}

// LookMulti is Look for many keys. It asks each shard for 64 keys at a time; each round trip may
// take RedisTimeout. Keys without a value are left out. If a key fails, LookMulti returns the error
// of the first such key and no values.
func (c *Client) LookMulti(ctx context.Context, keys []string) (map[string]Found, error) {
	if c.lifecycle.ctx.Err() != nil {
		return nil, ErrClosed
	}
	if err := c.awaitStored(ctx, keys...); err != nil {
		return nil, err
	}
	all := make(map[string]Found, len(keys))
	seen := make(map[string]bool, len(keys))
	var left, pending []string
	for _, key := range keys {
		if err := c.checkKey(key); err != nil {
			return nil, err
		}
		if seen[key] {
			continue
		}
		seen[key] = true
		if e := c.near.Lookup(key); e != nil {
			c.hit(key)
			if !e.Absent() {
				all[key] = c.inMemory(e)
			}
			continue
		}
		key = strings.Clone(key)
		left = append(left, key)
		if c.mayBeUnsettled(key) {
			pending = append(pending, key)
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	who := enterCall(ctx)
	defer who.leave()
	unsettled := c.unsettledOf(who, pending)
	byShard := make(map[*link.Shard][]*glance, 1)
	for _, key := range left {
		sh := c.link.Shard(key)
		if sh.Asks() && !unsettled[key] {
			byShard[sh] = append(byShard[sh], c.newGlance(key, sh))
			continue
		}
		found, _, ok, err := c.lookAway(who, key)
		if err != nil {
			return nil, cannotRead(key, err)
		}
		if ok {
			all[key] = found
		}
	}
	var asking sync.WaitGroup
	var failed atomic.Pointer[glance]
	for sh, glances := range byShard {
		asking.Go(func() { // ends with the answers, or when one does not come within RedisTimeout
			for some := range slices.Chunk(glances, link.MaxBatchKeys) {
				calls := make([]*link.Call, len(some))
				for i, g := range some {
					calls[i] = g.q
				}
				c.link.RunAll(who, sh, calls...)
				if _, reply := rueidis.IsRedisErr(some[0].q.Err); some[0].q.Err != nil && !reply { // a reply is about its key alone
					failed.Store(some[0])
				}
				if failed.Load() != nil {
					return // nobody gets the others
				}
			}
		})
	}
	asking.Wait()
	if g := failed.Load(); g != nil {
		_, _, _, err := c.seen(who, g)
		return nil, cannotRead(g.key, err)
	}
	for _, glances := range byShard {
		for _, g := range glances {
			found, _, ok, err := c.seen(who, g)
			if err != nil {
				return nil, cannotRead(g.key, err)
			}
			if ok {
				all[g.key] = found
			}
		}
	}
	return all, nil
}

func cannotRead(key string, err error) error {
	return fmt.Errorf("aside: cannot read %s: %w", quoted(key), reason.Of(err))
}

// look also returns where the value is in memory.
func (c *Client) look(ctx context.Context, key string) (found Found, e *near.Entry, ok bool, err error) {
	if err := c.awaitStored(ctx, key); err != nil {
		return Found{}, nil, false, err
	}
	if e := c.near.Lookup(key); e != nil {
		c.hit(key)
		return c.inMemory(e), e, !e.Absent(), nil
	}
	if err := c.checkKey(key); err != nil {
		return Found{}, nil, false, err
	}
	if c.lifecycle.ctx.Err() != nil {
		return Found{}, nil, false, ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return Found{}, nil, false, err
	}
	key = strings.Clone(key) // see obtain
	who := enterCall(ctx)
	defer who.leave()
	sh := c.link.Shard(key)
	if !sh.Asks() || c.unsettled(who, key) {
		return c.lookAway(who, key)
	}
	g := c.newGlance(key, sh)
	c.link.Run(who, sh, g.q)
	return c.seen(who, g)
}

// glance is a command that reads a key and locks nothing.
type glance struct {
	key string
	sh  *link.Shard
	r   near.Reservation
	q   *link.Call
}

func (c *Client) newGlance(key string, sh *link.Shard) *glance {
	return &glance{key, sh, c.near.Reserve(key, sh.Valid), link.NewCall(script.Read, key, wire.LockPrefix, mostAnswered)}
}

// seen says what came of a glance.
func (c *Client) seen(ctx context.Context, g *glance) (Found, *near.Entry, bool, error) {
	found, err := findingOf(g.q, "")
	if sh := g.sh; err == nil && found.large > 0 { // to be asked for in turn
		g.r = c.near.Reserve(g.key, sh.Valid)
		g.q = link.NewCall(script.Read, g.key, wire.LockPrefix, anyLength)
		g.q.Expects = found.large
		c.link.InTurn(ctx, sh, []*link.Call{g.q}, func() { c.link.Run(ctx, sh, g.q) })
		found, err = findingOf(g.q, "")
	}
	if err != nil {
		switch {
		case ctx.Err() != nil:
			err = ctx.Err()
		case link.Refused(err): // WRONGTYPE, NOPERM
			err = fmt.Errorf("aside: refused by Redis: %w", err)
		case !errors.Is(err, ErrRedisAway):
			err = fmt.Errorf("%w: %w", ErrRedisAway, reason.Of(err))
		}
		return Found{}, nil, false, err
	}
	what := found.content
	if what != wire.Value && what != wire.Absence {
		return Found{}, nil, false, nil
	}
	c.counted.redisHits.Add(1)
	c.observe(Event{Kind: EventHit, Key: g.key, Source: SourceRedis})
	var e *near.Entry
	if !g.q.Moved {
		e = c.near.Commit(g.key, g.r, near.Value{Raw: found.value, Absent: what == wire.Absence, TTL: found.ttl})
	}
	return Found{Value: found.value, TTL: found.ttl, Source: SourceRedis, At: c.wall(g.r.At())}, e, what == wire.Value, nil
}

// readBacks is how often readBack asks for a key. A push about what the key held before the write
// comes right behind the write's own answer; where it comes after the first read was begun, that
// answer cannot be kept, and the next can.
const readBacks = 3

// readBack reads keys that were just written into memory, if Options.ReadBack says so. It cannot
// fail: what it could not read is read when somebody asks for it.
func (c *Client) readBack(ctx context.Context, keys []string) {
	if !c.opt.ReadBack || !c.near.Keeps() {
		return
	}
	for range readBacks {
		byShard := make(map[*link.Shard][]*glance, 1)
		for _, key := range keys {
			if sh := c.link.Shard(key); sh.Asks() && sh.Valid.Tracked() && !c.store.Pending(key) {
				byShard[sh] = append(byShard[sh], c.newGlance(key, sh))
			}
		}
		keys = nil
		for sh, glances := range byShard {
			for some := range slices.Chunk(glances, link.MaxBatchKeys) {
				calls := make([]*link.Call, len(some))
				for i, g := range some {
					calls[i] = g.q
				}
				c.link.RunFor(ctx, sh, c.opt.RedisTimeout+1, calls...) // see LookMulti
				for _, g := range some {
					found, err := findingOf(g.q, "")
					if err != nil || g.q.Moved || found.content != wire.Value {
						continue
					}
					if c.near.Commit(g.key, g.r, near.Value{Raw: found.value, TTL: found.ttl}) == nil {
						keys = append(keys, g.key)
					}
				}
			}
		}
	}
}

// lookAway looks into the fallback store.
func (c *Client) lookAway(ctx context.Context, key string) (Found, *near.Entry, bool, error) {
	s, ok := c.readStore(ctx, key, 0)
	switch {
	case ok:
		return Found{Value: s.raw, TTL: s.left, Source: SourceDisk, At: s.at}, s.entry, !s.absent, nil
	case ctx.Err() != nil: // perhaps before the disk has answered
		return Found{}, nil, false, ctx.Err()
	case s.err != nil:
		return Found{}, nil, false, fmt.Errorf("%w, and what is kept for it cannot be read: %w", link.ErrNotAsked, reason.Of(s.err))
	case s.nothing && !c.link.Shard(key).Asks():
		return Found{}, nil, false, nil
	}
	return Found{}, nil, false, link.ErrNotAsked
}

func (c *Client) inMemory(e *near.Entry) Found {
	f := Found{Value: e.Raw(), TTL: -1, Source: SourceMemory, At: c.wall(e.At())}
	if ends, ok := e.Ends(); ok {
		f.TTL = time.Duration(max(ends-c.link.Now(), 0))
	}
	return f
}

// wall is the time of day of a moment of now.
func (c *Client) wall(at int64) time.Time { return c.link.Began().Add(time.Duration(at)) }
