package aside

import (
	"context"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/freshness"
	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/near"
	"github.com/redaside/aside/internal/stamp"
	"github.com/redaside/aside/internal/wire"
)

// What a load stores. This is the one place where what a loader has returned becomes bytes: for Redis,
// for memory and for the disk, with a lock and without.

// lives is for how long what is loaded for item i is fresh, and for how long it is kept after that,
// by what the call and the loader have said. ttl <= 0: it is not stored, as an absence that is not
// remembered.
func (l *load) lives(i int) (ttl, grace time.Duration) {
	ttl, grace = l.ttl, l.options.grace
	said := l.saidOf(i)
	if said.graceful {
		grace = said.grace
	}
	switch {
	case said.noStore:
		ttl = 0
	case !l.out[i].found && l.options.negativeTTL < 0:
		ttl = l.options.negativeTTL
	case said.ttl > 0:
		ttl = said.ttl
	case !l.out[i].found:
		ttl = min(ttl, l.options.negativeTTL)
	}
	return ttl, grace
}

// decide decides for how long what was loaded for item i is stored, and what its header says.
func (l *load) decide(i int) {
	item := &l.items[i]
	ttl, grace := l.lives(i)
	if ttl <= 0 {
		item.ttl = ttl
		return
	}
	if l.options.jitter > 0 {
		ttl = freshness.Jittered(ttl, l.options.jitter, rand.Float64())
	}
	item.ttl = freshness.Sum(ttl, grace)
	if h := l.header(i, ttl, grace); h.Says() {
		item.meta, _ = grouper{l.c}.newMeta(item.f.key, &h, max(l.began, 1))
	}
}

// header is what must be known of item i beside its bytes. It says nothing while the ttl of the key
// and the grace of the view say all: then other programs read the value as its codec has written it.
func (l *load) header(i int, ttl, grace time.Duration) wire.Header {
	h := wire.Header{Absent: !l.out[i].found}
	said := l.saidOf(i)
	if said.ttl > 0 || said.graceful || l.options.need.MaxAge > 0 || l.options.need.Ahead > 0 {
		h.TTL, h.Grace, h.Took = ttl, grace, time.Duration(l.done-l.began)
	}
	if !h.Absent {
		h.Version = l.options.version
	}
	grouper{l.c}.note(&h, l.options, said.tags, l.groups)
	if h.Says() {
		h.Began = l.beganAt(i)
	}
	return h
}

// beganAt is when the load of item i began by the clock of its key's server, in µs: so it can be
// compared in the fleet. It is the time in the marker, which may be too early by the error of our
// knowledge of that clock, and not too late.
func (l *load) beganAt(i int) int64 {
	item := &l.items[i]
	if began, ok := stamp.LastMicros(item.marker); ok {
		return began
	}
	now, slack := l.c.link.ServerTime(l.c.link.Home(item.f.key))
	return now - (l.c.link.Now()-l.began)/int64(time.Microsecond) - link.ClockError(slack)
}

// value is what memory has of item i.
func (l *load) value(i int) near.Value {
	item, out := &l.items[i], &l.out[i]
	return near.Value{Raw: out.raw, Absent: !out.found, TTL: item.ttl, Began: l.began, Room: l.room, Meta: item.meta, Decoded: out.known.decoded, DecodedBytes: out.known.bytes}
}

// fillArgs appends what an item takes of script.Fill's ARGV.
func (l *load) fillArgs(to []string, item *loadItem) []string {
	texts := &l.c.loads.absentTTLs
	if l.out[item.n].found {
		texts = &l.c.loads.valueTTLs
	}
	value := l.value(item.n)
	return append(to, item.marker, stored(&value), texts.of(item.ttl))
}

// seeGroups notes the states of the groups that what is loaded will belong to, before the loader is
// called.
func (l *load) seeGroups() {
	if l.options.clears == nil && len(l.options.tags) == 0 {
		return
	}
	gr := grouper{l.c}
	all := gr.groupsOf(l.options)
	l.groups = gr.see(&l.values, all)
	for _, g := range all {
		if _, ok := l.groups[g]; !ok {
			l.unsure, l.groups[g] = true, 0 // so the load refers to g, which notes when it is cleared
		}
	}
}

// seeTags notes the states of the groups of tags that the loader itself has named. What is known of
// them since before it was called, or is older, it has not overtaken; else nobody knows, and the
// value is nothing to whoever reads it. Where Redis does not tell a state at all the next load would
// be no better: then the item is unsure.
func (l *load) seeTags() {
	gr := grouper{l.c}
	var more []*near.Group
	for i := range l.out {
		for _, g := range gr.groupsOfTags(nil, l.saidOf(i).tags) {
			if _, ok := l.groups[g]; !ok {
				more = append(more, g)
			}
		}
	}
	if len(more) == 0 {
		return
	}
	if l.groups == nil {
		l.groups = make(groupStates, len(more))
	}
	seen := gr.see(context.Background(), more)
	for g, state := range seen {
		last, since := g.LastState()
		sh := gr.link.Home(g.Key())
		if last == state && since <= l.began || state < gr.began(sh, l.began, leastClockError.Microseconds()) {
			l.groups[g] = state
		}
	}
	for i := range l.items {
		for _, g := range gr.groupsOfTags(nil, l.saidOf(i).tags) {
			if _, known := seen[g]; !known && l.groups[g] == 0 {
				l.items[i].unsure, l.groups[g] = true, 0 // as in seeGroups
				g.ChangedUnheeded(l.began)               // nobody had to refer to g while the loader ran
			}
		}
	}
}

// keepLoad keeps what was loaded while its shard is degraded: in memory and, without waiting for
// the disk, in the store.
func (l *load) keepLoad(i int) *near.Entry {
	c, item, out := l.c, l.items[i], &l.out[i]
	sh, ttl := c.link.Home(item.f.key), item.ttl
	if out.err != nil || len(out.raw) > c.opt.MaxValueBytes || ttl <= 0 {
		return nil
	}
	if sh.Asks() {
		if item.drill != nil {
			item.drill.Keep(item.f.key, ttl)
		}
		return nil
	}
	key, value := strings.Clone(item.f.key), l.value(i)
	value.Raw = strings.Clone(out.raw) // the record holds on to it, and to the key
	now, slack := c.link.ServerTime(sh)
	record := fallback.Record{
		Op: fallback.OpFill, Key: key, Value: stored(&value), Expires: expiresAt(now, ttl),
		Stamp: c.stamps.Load(now - (c.link.Now()-l.began)/int64(time.Microsecond)), Slack: slack,
	}
	return c.near.CommitAway(key, near.Away{
		Value: value,
		Valid: sh.Valid, Outage: item.outage, Changes: item.gen,
		Then: func() { c.store.Fill(record) },
	})
}

// refreshedNothing notes that a refresh without a lock has loaded nothing that may be kept: what is
// gone is not served any more, and what remains stale rests.
func (l *load) refreshedNothing(i int) {
	c, item := l.c, &l.items[i]
	key := item.f.key
	if (!l.out[i].found || l.saidOf(i).noStore) && c.near.Changes(key) == item.gen && c.link.Home(key).Valid.Outage() == item.outage {
		c.store.dropLoad(key)
		c.near.Drop(key)
	}
	item.refresh.failed(l.out[i].err)
}
