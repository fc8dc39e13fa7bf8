package web

import (
	"log/slog"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/redaside/aside"
)

// metrics are what /metrics and the page tell of requests. Keys are in no label. Safe for
// concurrent use.
type metrics struct {
	handler  http.Handler // immutable, as are the next ones
	registry *prometheus.Registry
	requests *prometheus.HistogramVec
	commands map[string]*commandSeries // of RESP, in lower and in upper case

	inFlight   prometheus.Gauge
	http, resp window
}

// commandSeries are those of one RESP command.
type commandSeries struct {
	name       string
	ok, failed series
}

// series is looked up in its vector when it is first used, so that what nobody calls is not
// exported.
type series struct {
	once     sync.Once
	observer prometheus.Observer
}

// respCommands are those with series of their own. What else clients send is counted as "other":
// else they could make as many series as they like.
var respCommands = strings.Fields(`append auth client command dbsize decr decrby del echo exists expire expireat get getdel getex hello incr incrby info
	keys mget mset persist pexpire pexpireat ping psetex pttl quit scan select set setex setnx strlen ttl type unlink`)

const otherCommand = "other"

func newMetrics(s *Server) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "aside_request_duration_seconds",
			Help:    "Time from a request's header, or a command, to its answer. status is the HTTP status, or ok or error.",
			Buckets: []float64{.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		}, []string{"frontend", "command", "status"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "aside_http_requests_in_flight", Help: "HTTP requests for values that are being served or wait for their turn.",
		}),
		commands: make(map[string]*commandSeries),
	}
	for _, command := range slices.Concat(respCommands, []string{otherCommand}) {
		c := &commandSeries{name: command}
		m.commands[command], m.commands[strings.ToUpper(command)] = c, c
	}
	m.registry.MustRegister(m.requests, m.inFlight, newClientCollector(s),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.handler = promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		Registry: m.registry, MaxRequestsInFlight: 8, EnableOpenMetrics: true,
		ErrorLog: slog.NewLogLogger(s.o.Logger.Handler(), slog.LevelError),
	})
	return m
}

func (m *metrics) observeHTTP(command string, took time.Duration, status int) {
	text := "200"
	if status != http.StatusOK {
		text = strconv.Itoa(status)
	}
	m.requests.WithLabelValues("http", command, text).Observe(took.Seconds())
	m.http.observe(took, time.Now())
}

func (m *metrics) observeRESP(command string, took time.Duration, failed bool) {
	c := m.commands[command]
	if c == nil {
		c = m.commands[strings.ToLower(command)]
	}
	if c == nil {
		c = m.commands[otherCommand]
	}
	s, status := &c.ok, "ok"
	if failed {
		s, status = &c.failed, "error"
	}
	s.once.Do(func() { s.observer = m.requests.WithLabelValues("resp", c.name, status) })
	s.observer.Observe(took.Seconds())
	m.resp.observe(took, time.Now())
}

// clientCollector asks the Client when it is scraped.
type clientCollector struct {
	s     *Server
	build prometheus.Metric
	descs []*prometheus.Desc // all of them

	stats                                                                []statsMetric
	hits, missed, refusedRequests                                        *prometheus.Desc
	mode, since                                                          *prometheus.Desc
	backlog, backlogBytes, backlogDirty, quarantined                     *prometheus.Desc
	durable, diskOK, streams                                             *prometheus.Desc
	connections, displaced, refused, receiving                           *prometheus.Desc
	replayRunning, replayDone, replayTotal                               *prometheus.Desc
	replayVerdicts, respConnections, respCommandCount, respRefusedLogins *prometheus.Desc
}

// statsMetric is one field of aside.Stats.
type statsMetric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	of   func(aside.Stats) float64
}

func newClientCollector(s *Server) *clientCollector {
	var all []*prometheus.Desc
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		d := prometheus.NewDesc("aside_"+name, help, labels, nil)
		all = append(all, d)
		return d
	}
	c := &clientCollector{
		s:               s,
		hits:            desc("hits_total", "Keys answered, by the tier that had them.", "tier"),
		missed:          desc("misses_total", "Keys asked for that had no value."),
		refusedRequests: desc("refused_requests_total", "Requests, HTTP and RESP, answered with an error as Redis is away, or the fallback directory full or failing."),

		mode:    desc("mode", "1 for the mode that the shard is in, 0 for the others; the shard is empty where there is one only.", "shard", "mode"),
		since:   desc("mode_since_timestamp_seconds", "When the shard came into its mode.", "shard"),
		backlog: desc("backlog_records", "Records that wait to be replayed, by what they do.", "kind"),

		backlogBytes:      desc("backlog_bytes", "Size of the records that wait to be replayed, on disk or in memory."),
		backlogDirty:      desc("backlog_dirty_records", "Records that are in the journal and not yet in files of their own."),
		quarantined:       desc("quarantined_files", "Files and parts in quarantine because they could not be read."),
		durable:           desc("fallback_durable", "1 if writes accepted while Redis is away outlive the process."),
		diskOK:            desc("fallback_disk_ok", "0 while the disk returns errors."),
		connections:       desc("http_connections", "Clients connected by HTTP."),
		displaced:         desc("http_connections_displaced_total", "Idle HTTP connections that were closed for others, as all were in use."),
		refused:           desc("http_connections_refused_total", "HTTP connections that were refused, as all were in use and none was idle."),
		receiving:         desc("receiving_bytes", "Bytes that all requests that are being received hold, beyond 16 KiB each."),
		streams:           desc("event_streams", "Viewers of the status page."),
		replayRunning:     desc("replay_running", "1 while a replay runs.", "shard"),
		replayDone:        desc("replay_done_records", "Records of the latest replay that have been handled.", "shard"),
		replayTotal:       desc("replay_records", "Records of the latest replay.", "shard"),
		replayVerdicts:    desc("replay_verdict_records", "Records of the latest replay, by result.", "shard", "verdict"),
		respConnections:   desc("resp_connections", "Clients connected by RESP."),
		respCommandCount:  desc("resp_commands_total", "Commands served by RESP."),
		respRefusedLogins: desc("resp_refused_logins_total", "Logins by RESP that were refused, for a wrong user or password."),
	}
	counter := func(name, help string, of func(aside.Stats) int64) {
		c.stats = append(c.stats, statsMetric{desc(name, help), prometheus.CounterValue, func(s aside.Stats) float64 { return float64(of(s)) }})
	}
	gauge := func(name, help string, of func(aside.Stats) float64) {
		c.stats = append(c.stats, statsMetric{desc(name, help), prometheus.GaugeValue, of})
	}
	counter("loads_total", "Loader calls that returned, a batch counted once.", func(s aside.Stats) int64 { return s.Loads })
	counter("load_errors_total", "Loader calls that returned an error other than not found.", func(s aside.Stats) int64 { return s.LoadErrors })
	counter("loads_not_found_total", "Loaded keys that the loader did not find.", func(s aside.Stats) int64 { return s.NotFound })
	counter("shared_calls_total", "Calls that waited for another call of this process.", func(s aside.Stats) int64 { return s.Shared })
	counter("lock_waits_total", "Times that a call waited for another process to fill a key.", func(s aside.Stats) int64 { return s.LockWaits })
	counter("fills_refused_total", "Loaded values not stored because the key was set or deleted.", func(s aside.Stats) int64 { return s.FillsRefused })
	counter("too_large_total", "Loaded values not stored because of their size.", func(s aside.Stats) int64 { return s.TooLarge })
	counter("encode_errors_total", "Loaded values that could not be encoded.", func(s aside.Stats) int64 { return s.EncodeErrors })
	counter("decode_errors_total", "Stored values that could not be read.", func(s aside.Stats) int64 { return s.DecodeErrors })
	counter("redis_errors_total", "Commands to Redis that failed.", func(s aside.Stats) int64 { return s.RedisErrors })
	counter("invalidations_total", "Keys that Redis has invalidated.", func(s aside.Stats) int64 { return s.Invalidations })
	counter("gone_early_total", "Keys that were invalidated within a second after they were read: many, if Redis's tracking table is full.", func(s aside.Stats) int64 { return s.GoneEarly })
	counter("flushes_total", "Times that the whole memory was invalidated.", func(s aside.Stats) int64 { return s.Flushes })
	counter("journaled_total", "Writes kept for replay, by key.", func(s aside.Stats) int64 { return s.Journaled })
	counter("outages_total", "Times that a shard became degraded.", func(s aside.Stats) int64 { return s.Outages })
	counter("failovers_total", "Times that another server answered than before.", func(s aside.Stats) int64 { return s.Failovers })
	counter("overloaded_total", "Loads not begun because too many were running.", func(s aside.Stats) int64 { return s.Overloaded })
	gauge("pending_writes", "Writes that wait to be replayed.", func(s aside.Stats) float64 { return float64(s.Pending) })
	gauge("redis_connected", "1 if no shard is degraded.", func(s aside.Stats) float64 { return number(s.RedisConnected) })
	gauge("memory_entries", "Entries in the local memory.", func(s aside.Stats) float64 { return float64(s.MemoryEntries) })
	gauge("memory_bytes", "Size of the local memory's entries, as estimated.", func(s aside.Stats) float64 { return float64(s.MemoryBytes) })
	gauge("waiting_keys", "Keys for which a call waits or a load runs.", func(s aside.Stats) float64 { return float64(s.Waiting) })
	c.build = prometheus.MustNewConstMetric(desc("build_info", "1; the labels say what is running.", "version", "goversion"),
		prometheus.GaugeValue, 1, s.o.Version, runtime.Version())
	c.descs = all
	return c
}

func number(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// Describe implements [prometheus.Collector].
func (c *clientCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range c.descs {
		ch <- desc
	}
}

// Collect implements [prometheus.Collector].
func (c *clientCollector) Collect(ch chan<- prometheus.Metric) {
	count := func(desc *prometheus.Desc, n int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(desc *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v, labels...)
	}
	ch <- c.build
	stats, health := c.s.client.Stats(), c.s.client.Health()
	for _, m := range c.stats {
		ch <- prometheus.MustNewConstMetric(m.desc, m.kind, m.of(stats))
	}
	count(c.hits, stats.MemoryHits, "memory")
	count(c.hits, stats.RedisHits, "redis")
	count(c.hits, stats.DiskHits, "disk")
	count(c.missed, c.s.store.Misses())
	count(c.refusedRequests, c.s.store.Refused())

	shards := health.Shards
	if len(shards) == 0 { // Redis was never reached
		shards = []aside.ShardHealth{{Mode: health.Mode, Since: health.Since}}
	}
	for _, shard := range shards {
		for _, mode := range []aside.Mode{aside.Healthy, aside.Degraded, aside.Recovering} {
			gauge(c.mode, number(shard.Mode == mode), shard.Addr, mode.String())
		}
		gauge(c.since, float64(shard.Since.UnixMilli())/1000, shard.Addr)
	}

	f := health.Fallback
	gauge(c.backlog, float64(f.Sets), "set")
	gauge(c.backlog, float64(f.Deletes), "delete")
	gauge(c.backlog, float64(f.Fills), "fill")
	gauge(c.backlogBytes, float64(f.Bytes))
	gauge(c.backlogDirty, float64(f.Dirty))
	gauge(c.quarantined, float64(f.Quarantined))
	gauge(c.durable, number(health.Durable))
	gauge(c.diskOK, number(f.Err == nil))
	gauge(c.connections, float64(c.s.conns.count()))
	count(c.displaced, c.s.conns.displaced.Load())
	count(c.refused, c.s.conns.refused.Load())
	gauge(c.receiving, float64(c.s.store.Receiving().Used()))
	gauge(c.streams, float64(c.s.hub.viewers()))

	replay := health.Replay
	gauge(c.replayRunning, number(replay.Running), replay.Shard)
	gauge(c.replayDone, float64(replay.Done), replay.Shard)
	gauge(c.replayTotal, float64(replay.Report.Total), replay.Shard)
	for _, v := range verdicts(replay.Report) {
		gauge(c.replayVerdicts, float64(v.n), replay.Shard, v.name)
	}
	if c.s.o.RESP != nil {
		connections, commands := c.s.o.RESP()
		gauge(c.respConnections, float64(connections))
		count(c.respCommandCount, commands)
	}
	if c.s.o.RefusedLogins != nil {
		count(c.respRefusedLogins, c.s.o.RefusedLogins())
	}
}
