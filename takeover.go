package aside

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/stamp"
)

// A server that takes over, by a failover or because a name leads elsewhere now, may lack what the
// one before has acknowledged last: replication does not wait. No outage need come between. What
// tells is the run id.
//
//	a: Del k, acknowledged by the old primary     the new one never heard of it     everybody: Get k    <- would be what was deleted
//
// So a client keeps in mind for a while which keys it has written, with their stamps, and has these
// writes replayed at the new server as deletes under the stamps that they had: where the write is
// known, or a newer one, nothing is done; else the key is deleted, and loaded when it is wanted. A
// Set is not put back: another process's Del that came after it may be lost, too.

const (
	recentFor  = 30 * time.Second // how long an acknowledged write is kept in mind
	maxRecents = 4096             // how many, at most
)

// recents are the latest writes that Redis has acknowledged. Safe for concurrent use.
type recents struct {
	count atomic.Uint64 // of all writes so far
	rings [recentRings]recentRing
}

// recentRings take writes in turn, so that writers seldom wait for each other.
const recentRings = 16

type recentRing struct {
	mu     sync.Mutex
	writes []recentWrite // a ring of maxRecents / recentRings once it has them; guarded by mu
	next   int           // where the next one goes, then; guarded by mu
}

type recentWrite struct {
	key   string
	stamp stamp.Proposal
	at    int64 // in link.Now's time
}

// add adds a write of keys, which must be strings of their own.
func (r *recents) add(keys []string, s stamp.Proposal, now int64) {
	for _, key := range keys {
		r.addOne(recentWrite{key, s, now})
	}
}

// addReplayed adds what has been replayed.
func (r *recents) addReplayed(records []*fallback.Record, now int64) {
	for _, record := range records {
		r.addOne(recentWrite{strings.Clone(record.Key), stamp.Proposal{Text: record.Stamp, Slack: record.Slack}, now})
	}
}

func (r *recents) addOne(w recentWrite) {
	const most = maxRecents / recentRings
	ring := &r.rings[r.count.Add(1)%recentRings]
	ring.mu.Lock()
	defer ring.mu.Unlock()
	if len(ring.writes) < most {
		ring.writes = append(ring.writes, w)
		return
	}
	ring.writes[ring.next] = w
	ring.next = (ring.next + 1) % most
}

// since returns the latest write of each key since then, as records of deletes.
func (r *recents) since(then int64) map[string]fallback.Record {
	records := make(map[string]fallback.Record)
	for i := range r.rings {
		ring := &r.rings[i]
		ring.mu.Lock()
		for _, w := range ring.writes {
			if w.at >= then && w.stamp.Text > records[w.key].Stamp {
				records[w.key] = fallback.Record{Op: fallback.OpDel, Key: w.key, Stamp: w.stamp.Text, Slack: w.stamp.Slack}
			}
		}
		ring.mu.Unlock()
	}
	return records
}

// doubts are writes that a server may lack: until it has answered for them, their keys are not read
// from it. Safe for concurrent use.
type doubts struct {
	shards atomic.Int32 // len of byShard; for the many callers that ask when there are none

	mu      sync.Mutex
	byShard map[*link.Shard]map[string]fallback.Record // by key; guarded by mu
}

// about reports whether there are any about sh.
func (d *doubts) about(sh *link.Shard) bool {
	if d.shards.Load() == 0 {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.byShard[sh]) > 0
}

func (d *doubts) add(sh *link.Shard, records map[string]fallback.Record) {
	if len(records) == 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	byKey := d.byShard[sh]
	if byKey == nil {
		byKey = make(map[string]fallback.Record, len(records))
		if d.byShard == nil {
			d.byShard = make(map[*link.Shard]map[string]fallback.Record)
		}
		d.byShard[sh] = byKey
	}
	for key, record := range records {
		if record.Stamp > byKey[key].Stamp {
			byKey[key] = record
		}
	}
	d.shards.Store(int32(len(d.byShard)))
}

// of returns the doubts about keys of sh; about all for none.
func (d *doubts) of(sh *link.Shard, keys ...string) (records []*fallback.Record) {
	if d.shards.Load() == 0 {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(keys) == 0 {
		for _, record := range d.byShard[sh] {
			records = append(records, &record)
		}
	}
	for _, key := range keys {
		if record, ok := d.byShard[sh][key]; ok {
			records = append(records, &record)
		}
	}
	return records
}

// settled ends a doubt that has been answered, unless there is a newer one.
func (d *doubts) settled(sh *link.Shard, record *fallback.Record) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if byKey := d.byShard[sh]; byKey[record.Key].Stamp == record.Stamp {
		delete(byKey, record.Key)
		if len(byKey) == 0 {
			delete(d.byShard, sh)
		}
	}
	d.shards.Store(int32(len(d.byShard)))
}

// drop ends all doubts about a shard that is not used any more.
func (d *doubts) drop(sh *link.Shard) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.byShard, sh)
	d.shards.Store(int32(len(d.byShard)))
}
