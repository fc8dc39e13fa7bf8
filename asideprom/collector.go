package asideprom

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/redaside/aside"
	"github.com/redaside/aside/fallback"
)

// Collector has the metrics of one client. Make one with [New]. Safe for concurrent use.
type Collector struct {
	client   *aside.Client // immutable, as are the next ones
	observer *Observer     // nil: there are no histograms
	descs    []*prometheus.Desc
	stats    []statsMetric

	hits                                                 *prometheus.Desc
	mode, since, impaired                                *prometheus.Desc
	backlog, backlogBytes, backlogMaxBytes, backlogDirty *prometheus.Desc
	quarantined, durable, diskOK, untrackedTTL           *prometheus.Desc
	replayRunning, replayDone, replayTotal, replayBegan  *prometheus.Desc
	replayVerdicts                                       *prometheus.Desc
}

// Option changes what a Collector has.
type Option func(*Collector)

// WithObserver adds the histograms of o, which must be the Options.Observer of the client, or be
// told by it. Defaults to none.
func WithObserver(o *Observer) Option { return func(c *Collector) { c.observer = o } }

// statsMetric is one field of aside.Stats.
type statsMetric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	of   func(*aside.Stats) float64
}

// New returns the metrics of client, to be registered. It asks the client nothing until it is
// scraped, and may be scraped after the client was closed. It panics if client is nil.
func New(client *aside.Client, options ...Option) *Collector {
	if client == nil {
		panic("asideprom: the client given to New is nil: pass the one that aside.New has returned")
	}
	c := &Collector{client: client}
	for _, option := range options {
		option(c)
	}
	c.hits = c.desc("hits_total", "Keys answered, by the tier that had them.", "tier")
	c.mode = c.desc("mode", "1 for the mode that the shard is in, 0 for the others; the shard is empty where there is one only.", "shard", "mode")
	c.since = c.desc("mode_since_timestamp_seconds", "When the shard came into its mode.", "shard")
	c.impaired = c.desc("impaired", "1 while the shard answers and something does not work all the same: Health.Err, and the log, say what.", "shard")
	c.backlog = c.desc("backlog_records", "Records that wait to be replayed, by what they do.", "kind")
	c.backlogBytes = c.desc("backlog_bytes", "Size of the records that wait to be replayed, on disk or in memory.")
	c.backlogMaxBytes = c.desc("backlog_max_bytes", "The size from which on writes are refused; absent where there is none, or it is not known.")
	c.backlogDirty = c.desc("backlog_dirty_records", "Records that are in the journal and not yet in files of their own.")
	c.quarantined = c.desc("quarantined_files", "Files and parts in quarantine because they could not be read.")
	c.durable = c.desc("fallback_durable", "1 if writes accepted while Redis is away outlive the process.")
	c.diskOK = c.desc("fallback_disk_ok", "0 while the disk returns errors.")
	c.untrackedTTL = c.desc("untracked_ttl_seconds", "How old the local memory may be because Redis tells of no changes; 0: it tells.")
	c.replayRunning = c.desc("replay_running", "1 while a replay runs.", "shard")
	c.replayDone = c.desc("replay_done_records", "Records of the latest replay that have been handled.", "shard")
	c.replayTotal = c.desc("replay_records", "Records of the latest replay.", "shard")
	c.replayBegan = c.desc("replay_began_timestamp_seconds", "When the latest replay began; absent where there was none.", "shard")
	c.replayVerdicts = c.desc("replay_verdict_records", "Records of the latest replay, by result.", "shard", "verdict")
	c.ofStats()
	return c
}

// desc describes one more metric.
func (c *Collector) desc(name, help string, labels ...string) *prometheus.Desc {
	d := prometheus.NewDesc(namespace+name, help, labels, nil)
	c.descs = append(c.descs, d)
	return d
}

// namespace begins all names.
const namespace = "aside_"

// ofStats makes the metrics that are one number of Stats each.
func (c *Collector) ofStats() {
	counter := func(name, help string, of func(*aside.Stats) int64) {
		c.stats = append(c.stats, statsMetric{c.desc(name, help), prometheus.CounterValue, func(s *aside.Stats) float64 { return float64(of(s)) }})
	}
	gauge := func(name, help string, of func(*aside.Stats) float64) {
		c.stats = append(c.stats, statsMetric{c.desc(name, help), prometheus.GaugeValue, of})
	}
	counter("stale_hits_total", "Keys answered with a stale value, while it was refreshed or was to be.", func(s *aside.Stats) int64 { return s.StaleHits })
	counter("refreshes_total", "Keys whose refresh was begun.", func(s *aside.Stats) int64 { return s.Refreshes })
	counter("refreshes_failed_total", "Refreshes whose loader failed, or was not called because too many ran.", func(s *aside.Stats) int64 { return s.RefreshesFailed })
	counter("refreshes_refused_total", "Refreshes whose result was not stored, because the key was written or the lock lost meanwhile.", func(s *aside.Stats) int64 { return s.RefreshesRefused })
	counter("refreshes_held_off_total", "Refreshes not begun, because another process runs one, or one has failed and its back-off is not over.", func(s *aside.Stats) int64 { return s.RefreshesHeldOff })
	counter("audits_same_total", "Audited hits whose source has what was cached.", func(s *aside.Stats) int64 { return s.AuditsSame })
	counter("audits_stale_total", "Audited hits whose source has something else, though no change of the key was heard of.", func(s *aside.Stats) int64 { return s.AuditsStale })
	counter("audits_overtaken_total", "Audited hits of which nobody knows, because the key changed or ended meanwhile.", func(s *aside.Stats) int64 { return s.AuditsOvertaken })
	counter("audits_failed_total", "Audited hits whose loader failed.", func(s *aside.Stats) int64 { return s.AuditsFailed })
	counter("audits_skipped_total", "Hits that were drawn, and not audited because too many were.", func(s *aside.Stats) int64 { return s.AuditsSkipped })
	counter("loads_total", "Loader calls that returned, a batch counted once.", func(s *aside.Stats) int64 { return s.Loads })
	counter("load_errors_total", "Loader calls that returned an error other than not found.", func(s *aside.Stats) int64 { return s.LoadErrors })
	counter("loads_not_found_total", "Loaded keys that the loader did not find.", func(s *aside.Stats) int64 { return s.NotFound })
	counter("shared_calls_total", "Calls that waited for another call of this process.", func(s *aside.Stats) int64 { return s.Shared })
	counter("lock_waits_total", "Times that a call waited for another process to fill a key.", func(s *aside.Stats) int64 { return s.LockWaits })
	counter("locks_lost_total", "Locks of running loads that were found to be gone, or somebody else's.", func(s *aside.Stats) int64 { return s.LocksLost })
	counter("fills_refused_total", "Loaded values not stored because the key was set or deleted.", func(s *aside.Stats) int64 { return s.FillsRefused })
	counter("too_large_total", "Loaded values not stored because of their size.", func(s *aside.Stats) int64 { return s.TooLarge })
	counter("encode_errors_total", "Loaded values that could not be encoded.", func(s *aside.Stats) int64 { return s.EncodeErrors })
	counter("decode_errors_total", "Stored values that could not be read.", func(s *aside.Stats) int64 { return s.DecodeErrors })
	counter("redis_errors_total", "Commands to Redis that failed.", func(s *aside.Stats) int64 { return s.RedisErrors })
	counter("invalidations_total", "Keys that Redis has invalidated.", func(s *aside.Stats) int64 { return s.Invalidations })
	counter("gone_early_total", "Keys that were invalidated within a second after they were read: many, if Redis's tracking table is full.", func(s *aside.Stats) int64 { return s.GoneEarly })
	counter("flushes_total", "Times that the whole memory was invalidated.", func(s *aside.Stats) int64 { return s.Flushes })
	counter("journaled_total", "Writes kept for replay, by key.", func(s *aside.Stats) int64 { return s.Journaled })
	counter("rejected_total", "Times that operations of a key, kept for replay, were put into quarantine: refused for good, or perhaps done already.", func(s *aside.Stats) int64 { return s.Rejected })
	counter("outages_total", "Times that a shard became degraded.", func(s *aside.Stats) int64 { return s.Outages })
	counter("failovers_total", "Times that another server answered than before.", func(s *aside.Stats) int64 { return s.Failovers })
	counter("overloaded_total", "Loads not begun because too many were running.", func(s *aside.Stats) int64 { return s.Overloaded })
	gauge("pending_writes", "Writes that wait to be replayed.", func(s *aside.Stats) float64 { return float64(s.Pending) })
	gauge("redis_connected", "1 if no shard is degraded.", func(s *aside.Stats) float64 { return number(s.RedisConnected) })
	gauge("memory_entries", "Entries in the local memory.", func(s *aside.Stats) float64 { return float64(s.MemoryEntries) })
	gauge("memory_bytes", "Size of the local memory's entries, as estimated.", func(s *aside.Stats) float64 { return float64(s.MemoryBytes) })
	gauge("waiting_keys", "Keys for which a call waits or a load runs.", func(s *aside.Stats) float64 { return float64(s.Waiting) })
}

func number(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// Describe implements [prometheus.Collector].
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range c.descs {
		ch <- desc
	}
	if c.observer != nil {
		c.observer.describe(ch)
	}
}

// Collect implements [prometheus.Collector].
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	stats, health := c.client.Stats(), c.client.Health()
	for _, m := range c.stats {
		ch <- prometheus.MustNewConstMetric(m.desc, m.kind, m.of(&stats))
	}
	for tier, n := range map[string]int64{"memory": stats.MemoryHits, "redis": stats.RedisHits, "disk": stats.DiskHits} {
		ch <- prometheus.MustNewConstMetric(c.hits, prometheus.CounterValue, float64(n), tier)
	}
	gauges := gauges(ch)
	shards := health.Shards
	if len(shards) == 0 { // Redis was never reached
		shards = []aside.ShardHealth{{Mode: health.Mode, Since: health.Since, Err: health.Err}}
	}
	for _, shard := range shards {
		for _, mode := range []aside.Mode{aside.Healthy, aside.Degraded, aside.Recovering} {
			gauges.set(c.mode, number(shard.Mode == mode), shard.Addr, mode.String())
		}
		gauges.set(c.since, float64(shard.Since.UnixMilli())/1000, shard.Addr)
		gauges.set(c.impaired, number(shard.Mode != aside.Degraded && shard.Err != nil), shard.Addr)
	}

	f := health.Fallback
	gauges.set(c.backlog, float64(f.Sets), "set")
	gauges.set(c.backlog, float64(f.Deletes), "delete")
	gauges.set(c.backlog, float64(f.Fills), "fill")
	gauges.set(c.backlog, float64(f.Operations), "operations")
	gauges.set(c.backlogBytes, float64(f.Bytes))
	if f.MaxBytes > 0 {
		gauges.set(c.backlogMaxBytes, float64(f.MaxBytes))
	}
	gauges.set(c.backlogDirty, float64(f.Dirty))
	gauges.set(c.quarantined, float64(f.Quarantined))
	gauges.set(c.durable, number(health.Durable))
	gauges.set(c.diskOK, number(f.Err == nil))
	gauges.set(c.untrackedTTL, health.UntrackedTTL.Seconds())

	replay := health.Replay
	gauges.set(c.replayRunning, number(replay.Running), replay.Shard)
	gauges.set(c.replayDone, float64(replay.Done), replay.Shard)
	gauges.set(c.replayTotal, float64(replay.Report.Total), replay.Shard)
	if began := replay.Report.Began; !began.IsZero() {
		gauges.set(c.replayBegan, float64(began.UnixMilli())/1000, replay.Shard)
	}
	for verdict, n := range verdicts(replay.Report) {
		gauges.set(c.replayVerdicts, float64(n), replay.Shard, verdict)
	}
	if c.observer != nil {
		c.observer.collect(ch)
	}
}

// gauges are told by their values.
type gauges chan<- prometheus.Metric

func (g gauges) set(desc *prometheus.Desc, v float64, labels ...string) {
	g <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v, labels...)
}

func verdicts(r fallback.ReplayReport) map[string]int {
	return map[string]int{
		"applied": r.Applied, "superseded": r.Superseded, "deleted": r.Deleted, "dropped": r.Dropped, "refused": r.Refused, "failed": r.Failed,
	}
}
