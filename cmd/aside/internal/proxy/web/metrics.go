package web

import (
	"cmp"
	"log/slog"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/redaside/aside/asideprom"
	"github.com/redaside/aside/cmd/aside/internal/proxy"
)

// metrics are what /metrics and the page tell of requests. Keys are in no label. Safe for
// concurrent use.
type metrics struct {
	handler  http.Handler // immutable, as are the next ones
	registry *prometheus.Registry
	requests *prometheus.HistogramVec  // of HTTP
	commands map[string]*commandSeries // of RESP, in lower and in upper case

	inFlight   prometheus.Gauge
	http, resp window
}

// commandSeries are those of one RESP command. What nobody calls is not exported.
type commandSeries struct {
	name       string
	ok, failed durations
}

// requestsCollector exports how long requests and commands took: one name, whoever has counted.
type requestsCollector struct {
	*prometheus.HistogramVec
	desc *prometheus.Desc
	resp []*commandSeries
}

// Collect implements [prometheus.Collector].
func (c requestsCollector) Collect(to chan<- prometheus.Metric) {
	c.HistogramVec.Collect(to)
	for _, s := range c.resp {
		for status, d := range map[string]*durations{"ok": &s.ok, "error": &s.failed} {
			if m := d.metric(c.desc, "resp", s.name, status); m != nil {
				to <- m
			}
		}
	}
}

// respCommands are those with series of their own. What else clients send is counted as "other":
// else they could make as many series as they like.
var respCommands = strings.Fields(`append auth client command dbsize decr decrby del echo exists expire expireat get getdel getex hello incr incrby info
	keys mget mset persist pexpire pexpireat ping psetex pttl quit scan select set setex setnx strlen ttl type unlink`)

const otherCommand = "other"

func newMetrics(s *Server) *metrics {
	const (
		name = "aside_request_duration_seconds"
		help = "Time from a request's header, or a command, to its answer. status is the HTTP status, or ok or error."
	)
	labels := []string{"frontend", "command", "status"}
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: bounds}, labels),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "aside_http_requests_in_flight", Help: "HTTP requests for values that are being served or wait for their turn.",
		}),
		commands: make(map[string]*commandSeries),
	}
	requests := requestsCollector{HistogramVec: m.requests, desc: prometheus.NewDesc(name, help, labels, nil)}
	for _, command := range slices.Concat(respCommands, []string{otherCommand}) {
		c := &commandSeries{name: command}
		m.commands[command], m.commands[strings.ToUpper(command)] = c, c
		requests.resp = append(requests.resp, c)
	}
	m.registry.MustRegister(requests, m.inFlight, newProxyCollector(s), asideprom.New(s.client, asideprom.WithObserver(s.o.Observer)),
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
	m.http.observe(took, time.Now(), 1)
}

func (m *metrics) observeRESP(a proxy.Answered) {
	c := m.commands[a.Command]
	if c == nil {
		c = m.commands[otherCommand]
		// Most of what is passed on is in the map in neither case, and ToLower would allocate.
		if strings.ContainsFunc(a.Command, unicode.IsLower) {
			c = cmp.Or(m.commands[strings.ToLower(a.Command)], c)
		}
	}
	d := &c.ok
	if a.Failed {
		d = &c.failed
	}
	d.observe(a.Took, a.Count)
	m.resp.observe(a.Took, a.At, a.Count)
}

// proxyCollector asks for what the proxy has beside its client when it is scraped.
type proxyCollector struct {
	s     *Server
	build prometheus.Metric
	descs []*prometheus.Desc // all of them

	missed, refusedRequests, refusedCommands, checked                *prometheus.Desc
	connections, displaced, refused, receiving, streams              *prometheus.Desc
	respConnections, respCommandCount, respRefusedLogins, respInPart *prometheus.Desc
}

func newProxyCollector(s *Server) *proxyCollector {
	c := &proxyCollector{s: s}
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		d := prometheus.NewDesc("aside_"+name, help, labels, nil)
		c.descs = append(c.descs, d)
		return d
	}
	c.missed = desc("misses_total", "Keys asked for that had no value.")
	c.refusedRequests = desc("refused_requests_total", "Requests, HTTP and RESP, answered with an error as Redis is away, or the fallback directory full or failing.")
	c.refusedCommands = desc("refused_commands_total", "Commands, by RESP, answered ASIDEDEGRADED.", "command")
	c.checked = desc("check_app_commands_total", "Commands, by RESP while Redis is well, that an outage would refuse, or answer or keep only where what they need is known (service.check_app).", "command", "outage")
	c.connections = desc("http_connections", "Clients connected by HTTP.")
	c.displaced = desc("http_connections_displaced_total", "Idle HTTP connections that were closed for others, as all were in use.")
	c.refused = desc("http_connections_refused_total", "HTTP connections that were refused, as all were in use and none was idle.")
	c.receiving = desc("receiving_bytes", "Bytes that all requests that are being received hold, beyond 16 KiB each.")
	c.streams = desc("event_streams", "Viewers of the status page.")
	c.respConnections = desc("resp_connections", "Clients connected by RESP.")
	c.respCommandCount = desc("resp_commands_total", "Commands served by RESP.")
	c.respRefusedLogins = desc("resp_refused_logins_total", "Logins by RESP that were refused, for a wrong user or password.")
	c.respInPart = desc("resp_answers_in_part_total", "Commands by RESP that list keys, answered by those known here as Redis is away (service.outage_keys).")
	c.build = prometheus.MustNewConstMetric(desc("build_info", "1; the labels say what is running.", "version", "goversion"),
		prometheus.GaugeValue, 1, s.o.Version, runtime.Version())
	return c
}

// Describe implements [prometheus.Collector].
func (c *proxyCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range c.descs {
		ch <- desc
	}
}

// Collect implements [prometheus.Collector].
func (c *proxyCollector) Collect(ch chan<- prometheus.Metric) {
	count := func(desc *prometheus.Desc, n int64) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(n))
	}
	gauge := func(desc *prometheus.Desc, n int64) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(n))
	}
	ch <- c.build
	count(c.missed, c.s.store.Misses())
	count(c.refusedRequests, c.s.store.Refused())
	if c.s.o.Refusals != nil {
		of := make(map[string]int64)
		for _, r := range c.s.o.Refusals() {
			of[strings.ToLower(r.Command)] += r.Count
		}
		for command, n := range of {
			ch <- prometheus.MustNewConstMetric(c.refusedCommands, prometheus.CounterValue, float64(n), strings.ToValidUTF8(command, "?"))
		}
	}
	if c.s.o.Checked != nil {
		of := make(map[[2]string]int64)
		for _, r := range c.s.o.Checked() {
			of[[2]string{strings.ToLower(r.Command), r.Outage}] += r.Count
		}
		for labels, n := range of {
			ch <- prometheus.MustNewConstMetric(c.checked, prometheus.CounterValue, float64(n), strings.ToValidUTF8(labels[0], "?"), labels[1])
		}
	}
	gauge(c.connections, int64(c.s.conns.count()))
	count(c.displaced, c.s.conns.displaced.Load())
	count(c.refused, c.s.conns.refused.Load())
	gauge(c.receiving, c.s.store.Receiving().Used())
	gauge(c.streams, int64(c.s.hub.viewers()))
	if c.s.o.RESP != nil {
		connections, commands := c.s.o.RESP()
		gauge(c.respConnections, connections)
		count(c.respCommandCount, commands)
	}
	if c.s.o.RefusedLogins != nil {
		count(c.respRefusedLogins, c.s.o.RefusedLogins())
	}
	if c.s.o.InPart != nil {
		count(c.respInPart, c.s.o.InPart())
	}
}
