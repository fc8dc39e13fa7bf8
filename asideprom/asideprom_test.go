package asideprom_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asideprom"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/internal/redistest"
)

var ctx = context.Background()

// patience bounds every wait of a test for something that has to happen.
const patience = 20 * time.Second

// service has a client and the registry of its process.
type service struct {
	t        testing.TB
	redis    *redistest.Server
	client   *aside.Client
	registry *prometheus.Registry
}

func newService(t testing.TB, change ...func(*aside.Options)) *service {
	t.Helper()
	s := &service{t: t, redis: redistest.Start(t), registry: prometheus.NewPedanticRegistry()}
	durations := asideprom.NewObserver()
	options := aside.Options{
		Redis: rueidis.ClientOption{InitAddress: []string{s.redis.Addr()}}, RequireRedis: true, ConnectTimeout: patience,
		RedisTimeout: 2 * time.Second, LockTTL: 10 * time.Second, Observer: durations, Logger: slog.New(slog.DiscardHandler),
	}
	for _, c := range change {
		c(&options)
	}
	client, err := aside.New(options)
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() }) // where writes are lost, as Redis is away at the end, it says so
	s.client = client
	s.registry.MustRegister(asideprom.New(client, asideprom.WithObserver(durations)))
	return s
}

func durable(t testing.TB) func(*aside.Options) {
	dir := filepath.Join(t.TempDir(), "fallback")
	return func(o *aside.Options) { o.FallbackDir = dir }
}

// value is that of the metric with these labels, or how much a histogram has seen; -1: there is none.
func (s *service) value(name string, labels ...string) float64 {
	s.t.Helper()
	families, err := s.registry.Gather()
	require.NoError(s.t, err)
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
	next:
		for _, m := range family.Metric {
			for i := 0; i < len(labels); i += 2 {
				if labelOf(m, labels[i]) != labels[i+1] {
					continue next
				}
			}
			switch {
			case m.Counter != nil:
				return m.Counter.GetValue()
			case m.Gauge != nil:
				return m.Gauge.GetValue()
			case m.Histogram != nil:
				return float64(m.Histogram.GetSampleCount())
			}
		}
	}
	return -1
}

func labelOf(m *dto.Metric, name string) string {
	for _, pair := range m.Label {
		if pair.GetName() == name {
			return pair.GetValue()
		}
	}
	return ""
}

// exposition is what Prometheus would scrape.
func (s *service) exposition() []byte {
	s.t.Helper()
	families, err := s.registry.Gather()
	require.NoError(s.t, err)
	var text bytes.Buffer
	for _, family := range families {
		_, err := expfmt.MetricFamilyToText(&text, family)
		require.NoError(s.t, err)
	}
	return text.Bytes()
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

var errDatabase = errors.New("the database is away")

func TestWhatAClientDoesIsCounted(t *testing.T) {
	s := newService(t, durable(t))
	load := func(value string, err error) func(context.Context, string) (string, error) {
		return func(context.Context, string) (string, error) { return value, err }
	}
	for range 3 {
		_, err := s.client.Get(ctx, time.Minute, "secret-key", load("v", nil))
		require.NoError(t, err)
	}
	_, err := s.client.Get(ctx, time.Minute, "secret-missing", load("", aside.ErrNotFound))
	require.ErrorIs(t, err, aside.ErrNotFound)
	_, err = s.client.Get(ctx, time.Minute, "secret-broken", load("", errDatabase))
	require.ErrorIs(t, err, errDatabase)

	stats := s.client.Stats()
	require.Positive(t, stats.MemoryHits)
	for _, c := range []struct {
		want   float64
		name   string
		labels []string
	}{
		{float64(stats.MemoryHits), "aside_hits_total", []string{"tier", "memory"}},
		{float64(stats.RedisHits), "aside_hits_total", []string{"tier", "redis"}},
		{0, "aside_hits_total", []string{"tier", "disk"}},
		{3, "aside_loads_total", nil},
		{1, "aside_load_errors_total", nil},
		{1, "aside_loads_not_found_total", nil},
		{1, "aside_load_duration_seconds", []string{"view", "", "result", "ok"}},
		{1, "aside_load_duration_seconds", []string{"result", "not_found"}},
		{1, "aside_load_duration_seconds", []string{"result", "error"}},
		{1, "aside_mode", []string{"mode", "healthy"}},
		{0, "aside_mode", []string{"mode", "degraded"}},
		{0, "aside_mode", []string{"mode", "recovering"}},
		{0, "aside_impaired", nil},
		{1, "aside_redis_connected", nil},
		{1, "aside_fallback_durable", nil},
		{1, "aside_fallback_disk_ok", nil},
		{0, "aside_untracked_ttl_seconds", nil},
		{1 << 30, "aside_backlog_max_bytes", nil},
		{-1, "aside_replay_began_timestamp_seconds", nil},
	} {
		require.InDelta(t, c.want, s.value(c.name, c.labels...), 0, "%s %v", c.name, c.labels)
	}
	require.NotContains(t, strings.ToLower(string(s.exposition())), "secret", "no key is in a label")

	s.redis.Kill()
	eventually(t, "it is degraded", func() bool { return s.value("aside_mode", "mode", "degraded") == 1 })
	require.NoError(t, s.client.Set(ctx, time.Minute, "secret-key", "w"))
	require.NoError(t, s.client.Del(ctx, "secret-other"))
	require.InDelta(t, 1, s.value("aside_outages_total"), 0)
	require.InDelta(t, 0, s.value("aside_redis_connected"), 0)
	require.InDelta(t, 0, s.value("aside_impaired"), 0, "it does not answer at all")
	require.InDelta(t, 2, s.value("aside_pending_writes"), 0)
	require.InDelta(t, 2, s.value("aside_journaled_total"), 0)
	require.InDelta(t, 1, s.value("aside_backlog_records", "kind", "set"), 0)
	require.InDelta(t, 1, s.value("aside_backlog_records", "kind", "delete"), 0)
	require.Positive(t, s.value("aside_backlog_bytes"))
	require.InDelta(t, float64(time.Now().Unix()), s.value("aside_mode_since_timestamp_seconds"), patience.Seconds())
	s.redis.RestartKeepingData()
	eventually(t, "it is replayed", func() bool {
		return s.value("aside_mode", "mode", "healthy") == 1 && s.value("aside_replay_running") == 0
	})
	require.InDelta(t, 2, s.value("aside_replay_records"), 0)
	require.InDelta(t, 2, s.value("aside_replay_done_records"), 0)
	sum := 0.0
	for _, verdict := range []string{"applied", "superseded", "deleted", "dropped", "refused", "failed"} {
		sum += s.value("aside_replay_verdict_records", "verdict", verdict)
	}
	require.InDelta(t, 2, sum, 0)
	require.Positive(t, s.value("aside_replay_began_timestamp_seconds"))
}

// A field that is new in Stats has a metric, too.
func TestEachFieldOfStatsIsExported(t *testing.T) {
	s := newService(t)
	renamed := map[string]string{
		"MemoryHits": "hits_total", "RedisHits": "hits_total", "DiskHits": "hits_total", "NotFound": "loads_not_found_total", "Shared": "shared_calls_total",
		"Pending": "pending_writes", "RedisConnected": "redis_connected", "MemoryEntries": "memory_entries", "MemoryBytes": "memory_bytes", "Waiting": "waiting_keys",
	}
	words := regexp.MustCompile(`[A-Z][a-z]*`)
	for field := range reflect.TypeFor[aside.Stats]().Fields() {
		name := renamed[field.Name]
		if name == "" {
			name = strings.ToLower(strings.Join(words.FindAllString(field.Name, -1), "_")) + "_total"
		}
		require.GreaterOrEqual(t, s.value("aside_"+name), 0.0, "%s is not exported as aside_%s", field.Name, name)
	}
}

func TestDurationsAreMeasuredByViewAndCommand(t *testing.T) {
	s := newService(t)
	named := aside.Typed(s.client, codec.String(), aside.WithName("prices"))
	_, err := named.Get(ctx, time.Minute, "k", func(context.Context, string) (string, error) { return "v", nil })
	require.NoError(t, err)
	require.InDelta(t, 1, s.value("aside_load_duration_seconds", "view", "prices", "result", "ok"), 0)
	eventually(t, "its commands are measured", func() bool {
		return s.value("aside_command_duration_seconds", "command", "read_or_lock", "result", "ok") >= 1 &&
			s.value("aside_command_duration_seconds", "command", "fill", "result", "ok") >= 1
	})
	require.NoError(t, s.client.Update(ctx, []string{"n"}, func(ctx context.Context, redis rueidis.Client) error {
		return redis.Do(ctx, redis.B().Incr().Key("n").Build()).Error()
	}))
	s.redis.Do("HSET", "hash", "f", "v")
	_, _, err = s.client.Peek(ctx, "hash")
	require.Error(t, err)
	eventually(t, "so is what Redis refuses", func() bool {
		return s.value("aside_command_duration_seconds", "command", "read", "result", "error") >= 1
	})

	// Another process loads.
	other := newService(t, func(o *aside.Options) { o.Redis.InitAddress = []string{s.redis.Addr()} })
	began, letGo := make(chan struct{}), make(chan struct{})
	done := make(chan error, 2)
	go func() {
		_, err := other.client.Get(ctx, time.Minute, "slow", func(context.Context, string) (string, error) {
			close(began)
			<-letGo
			return "v", nil
		})
		done <- err
	}()
	<-began
	go func() {
		_, err := named.Get(ctx, time.Minute, "slow", func(context.Context, string) (string, error) { return "", errDatabase })
		done <- err
	}()
	eventually(t, "it waits", func() bool { return s.client.Stats().LockWaits > 0 })
	close(letGo)
	require.NoError(t, <-done)
	require.NoError(t, <-done)
	require.InDelta(t, 1, s.value("aside_lock_wait_duration_seconds", "view", "prices"), 0)
}

// Relapse: names that are made of data are series without end.
func TestThereIsAnEndToViews(t *testing.T) {
	o := asideprom.NewObserver()
	registry := prometheus.NewRegistry()
	registry.MustRegister(asideprom.New(newService(t).client, asideprom.WithObserver(o)))
	for i := range 1000 {
		o.Observe(ctx, aside.Event{Kind: aside.EventLoad, View: fmt.Sprint("view", i), Duration: time.Millisecond})
		o.Observe(ctx, aside.Event{Kind: aside.EventHit, Source: aside.SourceMemory, View: "hits"})
	}
	count, err := testutil.GatherAndCount(registry, "aside_load_duration_seconds")
	require.NoError(t, err)
	require.Equal(t, 3*101, count)
}

// Relapse: the alert on what does not work although Redis answers could never fire.
func TestWhatDoesNotWorkAlthoughRedisAnswersIsShown(t *testing.T) {
	s := newService(t, func(o *aside.Options) {
		o.StaleLease = 100 * time.Millisecond
		o.ClientBuilder = func(option rueidis.ClientOption) (rueidis.Client, error) {
			option.PipelineMultiplex = 2 // invalidations do not come in order then
			return rueidis.NewClient(option)
		}
	})
	eventually(t, "it is impaired", func() bool {
		_, err := s.client.Get(ctx, time.Minute, "k", func(context.Context, string) (string, error) { return "v", nil })
		require.NoError(t, err)
		require.NoError(t, s.client.Del(ctx, "k"))
		return s.value("aside_impaired") == 1
	})
	require.InDelta(t, 1, s.value("aside_mode", "mode", "healthy"), 0)
}

func TestEachShardHasItsMode(t *testing.T) {
	cluster := redistest.StartCluster(t)
	s := newService(t, func(o *aside.Options) { o.Redis.InitAddress = cluster.Addrs() })
	for _, addr := range cluster.Addrs() {
		require.InDelta(t, 1, s.value("aside_mode", "shard", addr, "mode", "healthy"), 0)
		require.InDelta(t, 0, s.value("aside_impaired", "shard", addr), 0)
	}
}

func TestNamesKeepPrometheusConventions(t *testing.T) {
	s := newService(t, durable(t))
	problems, err := testutil.GatherAndLint(s.registry)
	require.NoError(t, err)
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	path, err := exec.LookPath("promtool")
	if err != nil {
		redistest.Skip(t, "this test needs promtool: apt-get install prometheus")
	}
	check := exec.CommandContext(ctx, path, "check", "metrics")
	check.Stdin = bytes.NewReader(s.exposition())
	said, err := check.CombinedOutput()
	require.NoError(t, err, string(said))
	require.Empty(t, string(said))
}

func TestTwoClientsOfAProcessAreToldApart(t *testing.T) {
	a, b := newService(t), newService(t)
	registry := prometheus.NewRegistry()
	for name, s := range map[string]*service{"a": a, "b": b} {
		prometheus.WrapRegistererWith(prometheus.Labels{"cache": name}, registry).MustRegister(asideprom.New(s.client))
	}
	require.NoError(t, a.client.Set(ctx, time.Minute, "k", "v"))
	_, _, err := a.client.Peek(ctx, "k")
	require.NoError(t, err)
	a.registry, b.registry = registry, registry
	require.InDelta(t, 1, a.value("aside_hits_total", "cache", "a", "tier", "redis"), 0)
	require.InDelta(t, 0, a.value("aside_hits_total", "cache", "b", "tier", "redis"), 0)
}

func TestAScrapeAfterCloseIsNoError(t *testing.T) {
	s := newService(t)
	require.NoError(t, s.client.Close())
	require.GreaterOrEqual(t, s.value("aside_loads_total"), 0.0)
}

// A hit costs no allocation, with all of it registered.
func TestAHitAllocatesNothing(t *testing.T) {
	s := newService(t)
	load := func(context.Context, string) (string, error) { return "v", nil }
	get := func() {
		if _, err := s.client.Get(ctx, time.Hour, "k", load); err != nil {
			t.Error(err)
		}
	}
	eventually(t, "it is in memory", func() bool { get(); return s.client.Stats().MemoryHits > 0 })
	require.Zero(t, testing.AllocsPerRun(1000, get))
}

func TestWithoutAClientThereAreNoMetrics(t *testing.T) {
	require.PanicsWithValue(t, "asideprom: the client given to New is nil: pass the one that aside.New has returned", func() { asideprom.New(nil) })
}
