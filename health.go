package aside

import "github.com/redaside/aside/internal/audit"

// Stats returns what the client has done since New.
func (c *Client) Stats() Stats {
	n, of := &c.counted, c.link.Counts()
	s := Stats{
		MemoryHits: n.memoryHits.sum(), RedisHits: n.redisHits.Load(), Loads: n.loads.Load(), LoadErrors: n.loadErrors.Load(),
		NotFound: n.notFound.Load(), Shared: n.shared.Load(), LockWaits: n.lockWaits.Load(), FillsRefused: n.fillsRefused.Load(), LocksLost: n.locksLost.Load(),
		TooLarge: n.tooLarge.Load(), EncodeErrors: n.encodeErrors.Load(), DecodeErrors: n.decodeErrors.Load(),
		RedisErrors: of.RedisErrors, Invalidations: of.Invalidations, GoneEarly: n.goneEarly.Load(), Flushes: of.Flushes,
		DiskHits: n.diskHits.Load(), Journaled: n.journaled.Load(), Rejected: n.rejected.Load(), Outages: of.Outages, Overloaded: n.overloaded.Load(), Failovers: of.Failovers,
		RedisConnected: c.link.Connected(), Waiting: c.flights.count() + c.refreshes.count(), StaleHits: n.staleHits.Load(),
		Refreshes: n.refreshes.Load(), RefreshesFailed: n.refreshesFailed.Load(), RefreshesRefused: n.refreshesRefused.Load(), RefreshesHeldOff: n.refreshesHeldOff.Load(),
		AuditsSame: n.audits[audit.Same].Load(), AuditsStale: n.audits[audit.Stale].Load(), AuditsOvertaken: n.audits[audit.Overtaken].Load(),
		AuditsFailed: n.audits[audit.Failed].Load(), AuditsSkipped: n.auditsSkipped.Load(),
	}
	fallen := c.store.Stats()
	s.Pending = fallen.Pending()
	s.MemoryEntries, s.MemoryBytes = c.near.Size()
	return s
}

// Health says how the client is doing. It asks nobody: what it says is as old as the latest command
// or probe, up to 2 seconds in a client that nobody uses.
func (c *Client) Health() Health {
	all := c.link.Health()
	h := Health{Mode: Mode(all.Mode), Since: all.Since, Err: all.Err, Durable: c.store.Durable(), Fallback: c.store.Stats(), Replay: c.store.replays.latest(), Drill: drillReport(c.drill.Running())}
	if all.Untracked && c.near.Keeps() {
		h.UntrackedTTL = c.opt.UntrackedTTL
	}
	for _, s := range all.Shards {
		h.Shards = append(h.Shards, ShardHealth{Addr: s.Addr, Mode: Mode(s.Mode), Since: s.Since, Err: s.Err})
	}
	return h
}

// OnModeChange has f called after each change of a shard's mode, one after the other and in order,
// and perhaps for one that has just been. f may take its time and call the Client. remove ends
// that: once it has returned, f is not called for changes to come.
func (c *Client) OnModeChange(f func(ModeChange)) (remove func()) { return c.modes.Watch(f) }
