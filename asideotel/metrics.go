package asideotel

import (
	"context"
	"errors"
	"fmt"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/redaside/aside"
)

// instruments are those that events feed. Immutable.
type instruments struct {
	get, load, write, refresh, wait, probe, command metric.Float64Histogram
	viewHits, replayed                              metric.Int64Counter
}

// buckets are those that the conventions give for db.client.operation.duration, and one below them.
var buckets = metric.WithExplicitBucketBoundaries(.0002, .0005, .001, .005, .01, .05, .1, .5, 1, 5, 10)

func newInstruments(meter metric.Meter) instruments {
	duration := func(name, says string) metric.Float64Histogram {
		h, err := meter.Float64Histogram(name, metric.WithDescription(says), metric.WithUnit("s"), buckets)
		if err != nil {
			otel.Handle(err)
			return noop.Float64Histogram{}
		}
		return h
	}
	counter := func(name, unit, says string) metric.Int64Counter {
		c, err := meter.Int64Counter(name, metric.WithDescription(says), metric.WithUnit(unit))
		if err != nil {
			otel.Handle(err)
			return noop.Int64Counter{}
		}
		return c
	}
	return instruments{
		get:      duration("aside.get.duration", "Duration of reading calls that memory alone did not answer."),
		load:     duration("aside.load.duration", "Duration of loader calls; a batch is one."),
		write:    duration("aside.write.duration", "Duration of writing calls."),
		refresh:  duration("aside.refresh.duration", "Duration of refreshes of stale keys."),
		wait:     duration("aside.wait.duration", "Duration of waits for another call's load, or another process's."),
		probe:    duration("aside.probe.duration", "Duration of probes of Redis."),
		command:  duration("db.client.operation.duration", "Duration of database client operations."),
		viewHits: counter("aside.view.hits", "{key}", "Keys of a view answered from Redis or disk; from memory, too, with Options.HitEvents."),
		replayed: counter("aside.replayed", "{record}", "Records of an outage that were replayed, by result."),
	}
}

// stat is one of the numbers of aside.Stats.
type stat struct {
	name, unit, says string
	get              func(*aside.Stats) int64
	now              bool // it goes up and down
}

var stats = []stat{
	{"aside.stale_hits", "{key}", "Keys answered with a stale value, while it was refreshed or was to be.", func(s *aside.Stats) int64 { return s.StaleHits }, false},
	{"aside.refreshes", "{key}", "Keys whose refresh was begun.", func(s *aside.Stats) int64 { return s.Refreshes }, false},
	{"aside.refreshes_failed", "{key}", "Refreshes whose loader failed, or was not called because too many ran.", func(s *aside.Stats) int64 { return s.RefreshesFailed }, false},
	{"aside.refreshes_refused", "{key}", "Refreshes whose result was not stored, because the key was written or the lock lost meanwhile.", func(s *aside.Stats) int64 { return s.RefreshesRefused }, false},
	{"aside.refreshes_held_off", "{key}", "Refreshes not begun, because another process runs one, or one has failed and its back-off is not over.", func(s *aside.Stats) int64 { return s.RefreshesHeldOff }, false},
	{"aside.audits_same", "{hit}", "Audited hits whose source has what was cached.", func(s *aside.Stats) int64 { return s.AuditsSame }, false},
	{"aside.audits_stale", "{hit}", "Audited hits whose source has something else, though no change of the key was heard of.", func(s *aside.Stats) int64 { return s.AuditsStale }, false},
	{"aside.audits_overtaken", "{hit}", "Audited hits of which nobody knows, because the key changed or ended meanwhile.", func(s *aside.Stats) int64 { return s.AuditsOvertaken }, false},
	{"aside.audits_failed", "{hit}", "Audited hits whose loader failed.", func(s *aside.Stats) int64 { return s.AuditsFailed }, false},
	{"aside.audits_skipped", "{hit}", "Hits that were drawn, and not audited because too many were.", func(s *aside.Stats) int64 { return s.AuditsSkipped }, false},
	{"aside.locks_lost", "{lock}", "Locks of running loads that were found to be gone, or somebody else's.", func(s *aside.Stats) int64 { return s.LocksLost }, false},
	{"aside.loads", "{load}", "Loader calls that returned, a batch counted once.", func(s *aside.Stats) int64 { return s.Loads }, false},
	{"aside.load_errors", "{load}", "Loader calls that returned an error other than not found.", func(s *aside.Stats) int64 { return s.LoadErrors }, false},
	{"aside.loads_not_found", "{key}", "Loaded keys that the loader did not find.", func(s *aside.Stats) int64 { return s.NotFound }, false},
	{"aside.shared_calls", "{call}", "Calls that waited for another call of this process.", func(s *aside.Stats) int64 { return s.Shared }, false},
	{"aside.lock_waits", "{wait}", "Times that a call waited for another process to fill a key.", func(s *aside.Stats) int64 { return s.LockWaits }, false},
	{"aside.fills_refused", "{key}", "Loaded values not stored because the key was set or deleted.", func(s *aside.Stats) int64 { return s.FillsRefused }, false},
	{"aside.too_large", "{key}", "Loaded values not stored because of their size.", func(s *aside.Stats) int64 { return s.TooLarge }, false},
	{"aside.encode_errors", "{key}", "Loaded values that could not be encoded.", func(s *aside.Stats) int64 { return s.EncodeErrors }, false},
	{"aside.decode_errors", "{key}", "Stored values that could not be read.", func(s *aside.Stats) int64 { return s.DecodeErrors }, false},
	{"aside.redis_errors", "{command}", "Commands to Redis that failed.", func(s *aside.Stats) int64 { return s.RedisErrors }, false},
	{"aside.invalidations", "{key}", "Keys that Redis has invalidated.", func(s *aside.Stats) int64 { return s.Invalidations }, false},
	{"aside.gone_early", "{key}", "Keys that were invalidated within a second after they were read: many, if Redis's tracking table is full.", func(s *aside.Stats) int64 { return s.GoneEarly }, false},
	{"aside.flushes", "{flush}", "Times that the whole memory was invalidated.", func(s *aside.Stats) int64 { return s.Flushes }, false},
	{"aside.journaled", "{key}", "Writes kept for replay, by key.", func(s *aside.Stats) int64 { return s.Journaled }, false},
	{"aside.rejected", "{key}", "Times that operations of a key, kept for replay, were put into quarantine: refused for good, or perhaps done already.", func(s *aside.Stats) int64 { return s.Rejected }, false},
	{"aside.outages", "{outage}", "Times that a shard became degraded.", func(s *aside.Stats) int64 { return s.Outages }, false},
	{"aside.failovers", "{failover}", "Times that another server answered than before.", func(s *aside.Stats) int64 { return s.Failovers }, false},
	{"aside.overloaded", "{load}", "Loads not begun because too many were running.", func(s *aside.Stats) int64 { return s.Overloaded }, false},
	{"aside.pending_writes", "{key}", "Writes that wait to be replayed.", func(s *aside.Stats) int64 { return int64(s.Pending) }, true},
	{"aside.memory.entries", "{entry}", "Entries in the local memory.", func(s *aside.Stats) int64 { return int64(s.MemoryEntries) }, true},
	{"aside.memory.size", "By", "Size of the local memory, as estimated.", func(s *aside.Stats) int64 { return s.MemoryBytes }, true},
	{"aside.waiting", "{key}", "Keys for which a call waits, a load runs, or what was loaded is being stored.", func(s *aside.Stats) int64 { return int64(s.Waiting) }, true},
}

// Register has the numbers of client.Stats and client.Health read at each collection, until
// unregister is called: in the end, before or after client.Close. Register one client: a second one
// of the same Observer would give numbers with the same attributes.
func (o *Observer) Register(client *aside.Client) (unregister func() error, err error) {
	if client == nil {
		return nil, fmt.Errorf("%w: the client is nil: pass the one that aside.New returned, and look at its error first", aside.ErrInvalidArgument)
	}
	var errs []error
	instrument := func(of stat) metric.Int64Observable {
		var made metric.Int64Observable
		var err error
		if of.now {
			made, err = o.meter.Int64ObservableUpDownCounter(of.name, metric.WithDescription(of.says), metric.WithUnit(of.unit))
		} else {
			made, err = o.meter.Int64ObservableCounter(of.name, metric.WithDescription(of.says), metric.WithUnit(of.unit))
		}
		errs = append(errs, err)
		return made
	}
	hits := instrument(stat{name: "aside.hits", unit: "{key}", says: "Keys answered, by the tier that had them."})
	modes := instrument(stat{name: "aside.mode", unit: "1", says: "1 for the mode that Redis, or a shard, is in, 0 for the others.", now: true})
	numbers := make([]metric.Int64Observable, len(stats))
	all := []metric.Observable{hits, modes}
	for i, of := range stats {
		numbers[i] = instrument(of)
		all = append(all, numbers[i])
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("asideotel: cannot make the instruments: %w", err)
	}
	with := func(attrs ...attribute.KeyValue) metric.ObserveOption {
		return metric.WithAttributes(append(attrs, o.base...)...)
	}
	tiers := [...]metric.ObserveOption{
		aside.SourceMemory: with(sourceKey.String("memory")), aside.SourceRedis: with(sourceKey.String("redis")), aside.SourceDisk: with(sourceKey.String("disk")),
	}
	base := with()
	registered, err := o.meter.RegisterCallback(func(_ context.Context, to metric.Observer) error {
		s := client.Stats()
		to.ObserveInt64(hits, s.MemoryHits, tiers[aside.SourceMemory])
		to.ObserveInt64(hits, s.RedisHits, tiers[aside.SourceRedis])
		to.ObserveInt64(hits, s.DiskHits, tiers[aside.SourceDisk])
		for i, of := range stats {
			to.ObserveInt64(numbers[i], of.get(&s), base)
		}
		for _, shard := range client.Health().Shards {
			for _, mode := range []aside.Mode{aside.Healthy, aside.Degraded, aside.Recovering} {
				n := int64(0)
				if shard.Mode == mode {
					n = 1
				}
				to.ObserveInt64(modes, n, with(shardKey.String(shard.Addr), modeKey.String(mode.String())))
			}
		}
		return nil
	}, all...)
	if err != nil {
		return nil, fmt.Errorf("asideotel: cannot register the client: %w", err)
	}
	return registered.Unregister, nil
}
