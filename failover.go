package aside

import (
	"cmp"
	"slices"
)

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

// ran notes which server answers for sh, on which connection.
func (l *link) ran(sh *shard, run *runID) {
	sh.run.Store(run)
	if run.id == "" || run.replica {
		return
	}
	if before := sh.primary.Swap(&run.id); before == nil || *before != run.id {
		sh.inTurns(run, l.now())
		if before == nil {
			return
		}
		l.tookOver(sh, sh, func(string) bool { return true }, "runBefore", *before, "run", run.id)
	}
}

// rehomed notes that a cluster's slots have another primary: by a failover, or because they were moved there.
func (l *link) rehomed(old, next *topology, started []*shard) {
	if old == nil || next.bySlot == nil || old.bySlot == nil {
		return
	}
	for _, sh := range started {
		for i := range old.bySlot {
			if before := old.lastHome(i); next.bySlot[i] == sh && before != nil && before.addr != sh.addr && !slices.Contains(next.shards, before) {
				sh.state.mu.Lock()
				sh.runIDBefore = "of another node"
				sh.state.mu.Unlock()
				l.tookOver(sh, before, func(key string) bool { return old.shardOf(key) != sh }, "nodeBefore", before.addr)
				break
			}
		}
	}
}

// tookOver says that another server answers for sh than did for before.
func (l *link) tookOver(sh, before *shard, had func(key string) bool, attrs ...any) {
	l.counts.failovers.Add(1)
	last := l.now()
	if seen := before.seen.Load(); seen > 0 {
		last = min(last, seen)
	}
	l.up.TookOver(takeover{Shard: sh, Since: last, Had: had, Attrs: attrs})
	l.up.InBackground(func() { l.up.Observed(linkEvent{Kind: linkFailover, Addr: sh.addr}) }) // ends with the Observer; the caller may hold topoMu
	sh.replayNow()
}
