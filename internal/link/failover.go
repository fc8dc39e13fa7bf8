package link

import (
	"cmp"
	"slices"
)

// lastHome is the shard that has a slot, or had it last; nil if none is known.
func (t *topology) lastHome(slot int) *Shard {
	return cmp.Or(t.bySlot[slot], t.last[slot])
}

// noteLast notes which shards had those slots last that have no shard in t: until a failover is
// known there may be a topology without them.
func (t *topology) noteLast(old *topology) {
	if !t.holes || old == nil || old.bySlot == nil {
		return
	}
	t.last = make(map[int]*Shard)
	for i, sh := range t.bySlot {
		if sh == nil {
			t.last[i] = old.lastHome(i)
		}
	}
}

// ran notes which server answers for sh, on which connection.
func (l *Link) ran(sh *Shard, run *runID) {
	sh.run.Store(run)
	if run.id == "" || run.replica {
		return
	}
	if before := sh.primary.Swap(&run.id); before == nil || *before != run.id {
		sh.inTurns(run, l.Now())
		if before == nil {
			return
		}
		l.tookOver(sh, sh, func(string) bool { return true }, "runBefore", *before, "run", run.id)
	}
}

// rehomed notes that a cluster's slots have another primary: by a failover, or because they were
// moved there.
func (l *Link) rehomed(old, next *topology, started []*Shard) {
	if old == nil || next.bySlot == nil || old.bySlot == nil {
		return
	}
	for _, sh := range started {
		for i := range old.bySlot {
			if before := old.lastHome(i); next.bySlot[i] == sh && before != nil && before.Addr != sh.Addr && !slices.Contains(next.shards, before) {
				sh.state.mu.Lock()
				sh.runIDBefore = "of another node"
				sh.state.mu.Unlock()
				l.tookOver(sh, before, func(key string) bool { return old.shardOf(key) != sh }, "nodeBefore", before.Addr)
				break
			}
		}
	}
}

// tookOver tells those above that another server answers for sh than did for before.
func (l *Link) tookOver(sh, before *Shard, had func(key string) bool, attrs ...any) {
	l.counts.failovers.Add(1)
	last := l.Now()
	if seen := before.seen.Load(); seen > 0 {
		last = min(last, seen)
	}
	l.up.TookOver(Takeover{Shard: sh, Since: last, Had: had, Attrs: attrs})
	l.up.InBackground(func() { l.up.Observed(Event{Kind: EventFailover, Addr: sh.Addr}) }) // ends with the Observer; the caller may hold topoMu
	sh.ReplayNow()
}
