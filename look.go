package aside

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside/fallback"
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

	Untracked bool // it is from a memory that Redis tells of no changes: it may be as old as Options.UntrackedTTL

	meta  *near.Meta // what its header says; nil: it has none
	began int64      // when its load began, or it was set, in link.Now's time; 0: not known
	away  bool       // Redis was not asked

	by *link.Shard // that has answered; nil: none, or nobody knows, or it tells of no changes

	expired bool // a group has made it stale
}

// gone is that of an outcome.
func (f *Found) gone(grace time.Duration) bool {
	return f.expired && (f.TTL < 0 || f.meta.GraceOr(grace) == 0)
}

// Peek returns the value of key without ever loading it, or false if there is none or it is just
// being loaded. What [Client.ExpireTags] has made stale counts as none, unless the value has a grace
// of its own (Load.SetGrace). The error is ErrRedisAway when neither memory nor Redis can answer, or say
// whether the value's tag or view was cleared, Redis's own error if it refused the read, or ctx's.
func (c *Client) Peek(ctx context.Context, key string) (string, bool, error) {
	found, _, ok, err := c.look(ctx, key, "peek", "")
	if !ok || found.gone(0) {
		return "", false, err
	}
	return found.Value, true, err
}

// Look is like Peek, and also reports the ttl, the source and the time. The error is ErrNotFound if
// there is no value or it is just being loaded; otherwise it is as for Peek.
func (c *Client) Look(ctx context.Context, key string) (Found, error) {
	found, _, ok, err := c.look(ctx, key, "look", "")
	if err == nil && ok && found.gone(0) {
		found, ok = Found{}, false
	}
	if err == nil && !ok {
		err = ErrNotFound
	}
	return found, err
}

// LookMulti is Look for many keys. It asks each shard for 64 keys at a time; each round trip may
// take RedisTimeout. Keys without a value are left out. If a key fails, LookMulti returns the error
// of the first such key and no values.
func (c *Client) LookMulti(ctx context.Context, keys []string) (map[string]Found, error) {
	all, err := reader{c}.lookAll(ctx, keys)
	maps.DeleteFunc(all, func(_ string, found Found) bool { return found.gone(0) })
	return all, err
}

// lookAll is LookMulti for readers of any grace.
func (c reader) lookAll(ctx context.Context, keys []string) (map[string]Found, error) {
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
			c.hit(ctx, key, "")
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
	if len(left) == 0 {
		return all, nil
	}
	watched, ctx := c.watch(ctx, Event{Kind: EventGet, Op: "look_multi", Key: left[0], Keys: len(left)})
	err := c.lookMulti(ctx, left, pending, func(key string, found Found) {
		watched.found(found.Source, false)
		all[key] = found
	})
	watched.end(err)
	if err != nil {
		return nil, err
	}
	return all, nil
}

// lookMulti is LookMulti behind memory; pending are those of keys whose record may have to be
// replayed first. use is called for each key that has a value, by this goroutine.
func (c reader) lookMulti(ctx context.Context, left, pending []string, use func(key string, found Found)) error {
	who := enterCall(ctx)
	defer who.leave()
	unsettled := c.unsettledOf(who, pending)
	byShard := make(map[*link.Shard][]*glance, 1)
	for _, key := range left {
		sh := c.link.Shard(key)
		if sh.Asks() && !unsettled[key] {
			if c.drill.Refuses(key) {
				return cannotRead(key, errDrilled)
			}
			byShard[sh] = append(byShard[sh], c.newGlance(key, sh))
			continue
		}
		found, _, ok, err := c.lookAway(who, key)
		if err != nil {
			return cannotRead(key, err)
		}
		if ok {
			use(key, found)
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
		return cannotRead(g.key, err)
	}
	grouper(c).seeFound(who, byShard)
	for _, glances := range byShard {
		for _, g := range glances {
			found, _, ok, err := c.seen(who, g)
			if err != nil {
				return cannotRead(g.key, err)
			}
			if ok {
				use(g.key, found)
			}
		}
	}
	return nil
}

func cannotRead(key string, err error) error {
	return fmt.Errorf("aside: cannot read %s: %w", quoted(key), reason.Of(err))
}

var errDrilled = fmt.Errorf("%w: a drill runs (Client.Drill)", ErrRedisAway)

// look also returns where the value is in memory. op and view are for the Observer.
func (c *Client) look(ctx context.Context, key, op, view string) (found Found, e *near.Entry, ok bool, err error) {
	if err := c.awaitStored(ctx, key); err != nil {
		return Found{}, nil, false, err
	}
	if e := c.near.Lookup(key); e != nil {
		c.hit(ctx, key, view)
		return c.inMemory(e), e, !e.Absent(), nil
	}
	return c.lookPast(ctx, key, op, view)
}

// lookPast is look without memory.
func (c *Client) lookPast(ctx context.Context, key, op, view string) (found Found, e *near.Entry, ok bool, err error) {
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
	seen, ctx := c.watch(ctx, Event{Kind: EventGet, Op: op, View: view, Key: key, Keys: 1})
	found, e, ok, err = reader{c}.lookBehind(ctx, key)
	seen.found(found.Source, false)
	seen.end(err)
	return found, e, ok, err
}

// lookBehind is look behind memory.
func (c reader) lookBehind(ctx context.Context, key string) (Found, *near.Entry, bool, error) {
	who := enterCall(ctx)
	defer who.leave()
	sh := c.link.Shard(key)
	if !sh.Asks() || c.unsettled(who, key) {
		return c.lookAway(who, key)
	}
	if c.drill.Refuses(key) {
		return Found{}, nil, false, errDrilled
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
	meta, ok := grouper{c}.newMeta(g.key, found.header, 0)
	if !ok {
		return Found{}, nil, false, nil
	}
	groups := grouper{c}.holds(ctx, meta, false)
	switch {
	case groups == near.GroupsUnknown && ctx.Err() != nil:
		return Found{}, nil, false, ctx.Err()
	case groups == near.GroupsUnknown:
		return Found{}, nil, false, errGroupsUnproven
	case groups == near.GroupsCleared:
		return Found{}, nil, false, nil
	}
	c.counted.redisHits.Add(1)
	c.observe(ctx, Event{Kind: EventHit, Source: SourceRedis, Key: g.key, Keys: 1})
	var e *near.Entry
	if !g.q.Moved {
		e = c.near.Commit(g.key, g.r, near.Value{Raw: found.value, Absent: what == wire.Absence, TTL: found.ttl, Meta: meta})
	}
	f := Found{Value: found.value, TTL: found.ttl, Source: SourceRedis, At: c.wall(g.r.At()), meta: meta, expired: groups == near.GroupsExpired}
	if meta != nil {
		f.began = meta.Loaded
	}
	if !g.q.Moved && g.r.Pushes() {
		f.by = g.sh
	}
	return f, e, what == wire.Value, nil
}

// readBacks is how often readBack asks for a key. A push about what the key held before the write
// comes right behind the write's own answer; where it comes after the first read was begun, that
// answer cannot be kept, and the next can.
const readBacks = 3

// ownSet is a Set or SetMulti, and when it began, in link.Now's time. The zero ownSet is none.
type ownSet struct {
	w     *write
	began int64
}

// age returns since when key has held what was found, at the latest: since it was set, if those are
// its bytes. 0: nobody knows, or its header says it.
func (s ownSet) age(key string, found *finding) int64 {
	if s.w == nil || s.w.op != fallback.OpSet || found.header != nil {
		return 0
	}
	value := s.w.value
	if s.w.values != nil {
		value, _, _ = wire.Unpack(s.w.values[key])
	}
	if value != found.value {
		return 0
	}
	return s.began
}

// readBack reads keys that were just written into memory, if Options.ReadBack says so. It cannot
// fail: what it could not read is read when somebody asks for it. What set has written has an age in
// memory, though not in Redis.
func (c *Client) readBack(ctx context.Context, keys []string, set ownSet) {
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
					meta, ok := grouper{c}.newMeta(g.key, found.header, 0)
					if !ok {
						continue
					}
					v := near.Value{Raw: found.value, TTL: found.ttl, Meta: meta, Began: set.age(g.key, &found)}
					var e *near.Entry
					if v.Began != 0 {
						e = c.near.Put(g.key, g.r, c.near.Prepare(g.key, g.r, v))
					} else {
						e = c.near.Commit(g.key, g.r, v)
					}
					if e == nil {
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
	found, ok, err := c.foundInStore(ctx, key, &s, ok)
	return found, s.entry, ok, err
}

// foundInStore is what the store's answer comes to.
func (c *Client) foundInStore(ctx context.Context, key string, s *storeAnswer, known bool) (Found, bool, error) {
	switch {
	case known:
		return Found{Value: s.raw, TTL: s.left, Source: SourceDisk, At: s.at, meta: s.meta, began: s.made, away: true, expired: s.expired}, !s.absent, nil
	case ctx.Err() != nil: // perhaps before the disk has answered
		return Found{}, false, ctx.Err()
	case s.err != nil:
		return Found{}, false, fmt.Errorf("%w, and what is kept for it cannot be read: %w", link.ErrNotAsked, reason.Of(s.err))
	case s.nothing && !c.link.Shard(key).Asks():
		return Found{}, false, nil
	}
	return Found{}, false, link.ErrNotAsked
}

func (c *Client) inMemory(e *near.Entry) Found { return c.inMemoryAt(e, c.link.Now()) }

func (c *Client) inMemoryAt(e *near.Entry, now int64) Found {
	f := Found{Value: e.Raw(), TTL: -1, Source: SourceMemory, At: c.wall(e.At()), meta: e.Meta(), away: e.Unverified(), expired: e.Expired(now), Untracked: e.Untracked()}
	f.began, _ = e.Began()
	if ends, ok := e.Ends(); ok {
		f.TTL = time.Duration(max(ends-now, 0))
	}
	return f
}

// wall is the time of day of a moment of now.
func (c *Client) wall(at int64) time.Time { return c.link.Began().Add(time.Duration(at)) }

// seeFound asks for the groups of what glances have found, all at once, so that memory knows them.
func (gr grouper) seeFound(ctx context.Context, byShard map[*link.Shard][]*glance) {
	var unknown []*near.Group
	for _, glances := range byShard {
		for _, g := range glances {
			if found, err := findingOf(g.q, ""); err == nil && found.header.Grouped() {
				m, _ := gr.newMeta(g.key, found.header, 0)
				unknown = gr.unknown(unknown, m)
			}
		}
	}
	gr.ask(ctx, unknown)
}
