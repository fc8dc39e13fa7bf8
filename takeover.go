package aside

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redaside/aside/fallback"
)

// A server that takes over, by a failover or because a name leads elsewhere now, may lack what the one before has acknowledged last: replication does
// not wait. No outage need come between. What tells is the run id.
//
//	a: Del k, acknowledged by the old primary     the new one never heard of it     everybody: Get k    <- would be what was deleted
//
// So a client keeps in mind for a while which keys it has written, with their stamps, and has these writes replayed at the new server as deletes
// under the stamps that they had: where the write is known, or a newer one, nothing is done; else the key is deleted, and loaded when it is wanted.
// A Set is not put back: another process's Del that came after it may be lost, too.

const (
	recentFor  = 30 * time.Second // how long an acknowledged write is kept in mind
	maxRecents = 4096             // how many, at most
)

// recents are the latest writes that Redis has acknowledged, oldest first from the next place on. Safe for concurrent use.
type recents struct {
	mu     sync.Mutex
	writes []recentWrite // a ring of maxRecents once it has them; guarded by mu
	next   int           // where the next one goes, then; guarded by mu
}

type recentWrite struct {
	key   string
	stamp stamp
	at    int64 // in Client.now's time
}

func (r *recents) add(keys []string, s stamp, now int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, key := range keys {
		w := recentWrite{strings.Clone(key), s, now}
		if len(r.writes) < maxRecents {
			r.writes = append(r.writes, w)
			continue
		}
		r.writes[r.next] = w
		r.next = (r.next + 1) % maxRecents
	}
}

// since returns the latest write of each key since then, as records of deletes.
func (r *recents) since(then int64) map[string]fallback.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	records := make(map[string]fallback.Record)
	for _, w := range r.writes {
		if w.at >= then && w.stamp.text > records[w.key].Stamp {
			records[w.key] = fallback.Record{Op: fallback.OpDel, Key: w.key, Stamp: w.stamp.text, Slack: w.stamp.slack}
		}
	}
	return records
}

// doubts are writes that the server may lack. Safe for concurrent use.
type doubts struct {
	mu    sync.Mutex
	byKey map[string]fallback.Record // guarded by mu
}

func (d *doubts) add(records map[string]fallback.Record) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.byKey == nil {
		d.byKey = make(map[string]fallback.Record, len(records))
	}
	maps.Copy(d.byKey, records)
}

func (d *doubts) take() []*fallback.Record {
	d.mu.Lock()
	defer d.mu.Unlock()
	records := make([]*fallback.Record, 0, len(d.byKey))
	for _, record := range d.byKey {
		records = append(records, &record)
	}
	d.byKey = nil
	return records
}

// ran notes which server answers for sh, on which connection.
func (c *Client) ran(sh *shard, run *runID) {
	sh.run.Store(run)
	if run.id == "" || run.replica {
		return
	}
	if before := sh.primary.Swap(&run.id); before == nil || *before != run.id {
		sh.inTurns(run, c.now())
		if before == nil {
			return
		}
		c.tookOver(sh, func(string) bool { return true }, "runBefore", *before, "run", run.id)
	}
}

// lastHome is who has, or had last, a slot; nil if nobody is known.
func (t *topology) lastHome(slot int) *shard {
	return cmp.Or(t.bySlot[slot], t.last[slot])
}

// remember notes who had the slots last that nobody has by t: between a failover and its being known there may be a topology without them.
func (t *topology) remember(old *topology) {
	if !t.holes || old == nil || old.bySlot == nil {
		return
	}
	t.last = make(map[int]*shard)
	for i, sh := range t.bySlot {
		if sh == nil {
			t.last[i] = old.lastHome(i)
		}
	}
}

// rehomed notes that a cluster's slots have another primary: by a failover, or because they were moved there.
func (c *Client) rehomed(old, next *topology, started []*shard) {
	if old == nil || next.bySlot == nil || old.bySlot == nil {
		return
	}
	for _, sh := range started {
		for i := range old.bySlot {
			if before := old.lastHome(i); next.bySlot[i] == sh && before != nil && before.addr != sh.addr && !slices.Contains(next.shards, before) {
				sh.state.mu.Lock()
				sh.runIDBefore = "of another node"
				sh.state.mu.Unlock()
				c.tookOver(sh, func(key string) bool { return old.shardOf(key) != sh }, "nodeBefore", before.addr)
				break
			}
		}
	}
}

// tookOver says that another server answers for sh, and has it look at what it may lack of the keys that were elsewhere before.
func (c *Client) tookOver(sh *shard, elsewhere func(key string) bool, attrs ...any) {
	c.counts.failovers.Add(1)
	lacking := c.recent.since(c.now() - int64(recentFor))
	maps.DeleteFunc(lacking, func(key string, _ fallback.Record) bool { return c.shardOf(key) != sh || !elsewhere(key) })
	sh.doubts.add(lacking)
	c.opt.Logger.Warn("aside: another server answers than before: a failover, a restart, or an address that leads elsewhere", append([]any{"address", c.address(sh), "recentWrites", len(lacking)}, attrs...)...)
	c.observe(Event{Kind: EventFailover, Key: sh.addr})
	sh.replayNow()
}

// makeSure replays, as deletes, what sh may lack. false: not all of it was answered.
func (c *Client) makeSure(sh *shard) bool {
	records := sh.doubts.take()
	unanswered := make(map[string]fallback.Record)
	deleted := 0
	for some := range slices.Chunk(records, maxBatchKeys) {
		for i, outcome := range c.askReplay(c.closing, sh, some, c.opt.RedisTimeout) {
			switch outcome.Verdict {
			case fallback.NoAnswer:
				unanswered[some[i].Key] = *some[i]
			case fallback.Applied:
				deleted++
			}
		}
	}
	if len(unanswered) > 0 {
		sh.doubts.add(unanswered)
	}
	if deleted > 0 {
		c.opt.Logger.Warn("aside: the server that took over lacked what was acknowledged before: deleted there", "address", c.address(sh), "keys", deleted)
	}
	return len(unanswered) == 0
}
