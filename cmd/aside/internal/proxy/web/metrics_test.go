package web

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/cmd/aside/internal/proxy"
)

// scrape reads /metrics as Prometheus would.
func (f *front) scrape() map[string]*dto.MetricFamily {
	f.t.Helper()
	r := f.send("GET", "/metrics", "")
	require.Equal(f.t, http.StatusOK, r.StatusCode, r.body)
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(r.body))
	require.NoError(f.t, err)
	return families
}

// metric is the value of a counter or gauge, or the count of a histogram, with these labels: name,
// value, name, value.
func (f *front) metric(name string, labels ...string) float64 {
	f.t.Helper()
	family := f.scrape()[name]
	if family == nil {
		return -1
	}
next:
	for _, m := range family.Metric {
		for i := 0; i < len(labels); i += 2 {
			found := false
			for _, pair := range m.Label {
				found = found || pair.GetName() == labels[i] && pair.GetValue() == labels[i+1]
			}
			if !found {
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
	return -1
}

func TestMetricsCountWhatHappened(t *testing.T) {
	f := newFront(t, setup{
		client: []func(*aside.Options){durable(t)},
		web:    Options{Version: "v1.2.3", RESP: func() (int64, int64) { return 7, 42 }, RefusedLogins: func() int64 { return 3 }, InPart: func() int64 { return 4 }},
	})
	f.put("secret-key", "v")
	for range 3 {
		f.holds("secret-key", "v")
	}
	f.send("GET", "/get?key=secret-missing", "")
	f.send("POST", "/v1/mget", `{"keys":["secret-key","secret-missing"]}`)
	f.send("BREW", "/v1/keys/secret-key", "")
	f.server.ObserveRESP(answered("get", time.Millisecond, false))
	f.server.ObserveRESP(proxy.Answered{Command: "GET", Count: 3, Took: time.Millisecond, At: time.Now()})
	f.server.ObserveRESP(answered("GeT", time.Millisecond, true))
	f.server.ObserveRESP(answered("SECRET-COMMAND", time.Millisecond, true))
	f.server.ObserveRESP(answered("secret-other", time.Millisecond, true))

	const requests = "aside_request_duration_seconds"
	for _, c := range []struct {
		want   float64
		name   string
		labels []string
	}{
		{1, requests, []string{"frontend", "http", "command", "put", "status", "204"}},
		{3, requests, []string{"frontend", "http", "command", "get", "status", "200"}},
		{1, requests, []string{"frontend", "http", "command", "get", "status", "404"}},
		{1, requests, []string{"frontend", "http", "command", "mget", "status", "200"}},
		{1, requests, []string{"frontend", "http", "command", "other", "status", "405"}},
		{4, requests, []string{"frontend", "resp", "command", "get", "status", "ok"}},
		{1, requests, []string{"frontend", "resp", "command", "get", "status", "error"}},
		{2, requests, []string{"frontend", "resp", "command", "other", "status", "error"}},
		{2, "aside_misses_total", nil},
		{0, "aside_http_requests_in_flight", nil},
		{1, "aside_build_info", []string{"version", "v1.2.3"}},
		{1, "aside_mode", []string{"mode", "healthy"}},
		{0, "aside_mode", []string{"mode", "degraded"}},
		{0, "aside_mode", []string{"mode", "recovering"}},
		{1, "aside_redis_connected", nil},
		{1, "aside_fallback_durable", nil},
		{1, "aside_fallback_disk_ok", nil},
		{0, "aside_backlog_records", []string{"kind", "set"}},
		{7, "aside_resp_connections", nil},
		{42, "aside_resp_commands_total", nil},
		{3, "aside_resp_refused_logins_total", nil},
		{4, "aside_resp_answers_in_part_total", nil},
		{0, "aside_event_streams", nil},
		{0, "aside_outages_total", nil},
	} {
		require.InDelta(t, c.want, f.metric(c.name, c.labels...), 0, "%s %v", c.name, c.labels)
	}
	stats := f.client.Stats()
	require.Positive(t, stats.MemoryHits+stats.RedisHits)
	require.InDelta(t, stats.MemoryHits, f.metric("aside_hits_total", "tier", "memory"), 0)
	require.InDelta(t, stats.RedisHits, f.metric("aside_hits_total", "tier", "redis"), 0)
	require.NotContains(t, strings.ToLower(f.send("GET", "/metrics", "").body), "secret",
		"no key, and nothing else that a client chooses, is in a label")

	f.redis.Kill()
	f.awaitMode(aside.Degraded)
	f.put("secret-key", "w")
	f.send("DELETE", "/v1/keys/other", "")
	require.InDelta(t, 1, f.metric("aside_mode", "mode", "degraded"), 0)
	require.InDelta(t, 1, f.metric("aside_outages_total"), 0)
	require.InDelta(t, 1, f.metric("aside_backlog_records", "kind", "set"), 0)
	require.InDelta(t, 1, f.metric("aside_backlog_records", "kind", "delete"), 0)
	require.InDelta(t, 2, f.metric("aside_pending_writes"), 0)
	require.InDelta(t, 2, f.metric("aside_journaled_total"), 0)
	require.Positive(t, f.metric("aside_backlog_bytes"))
	require.InDelta(t, float64(time.Now().Unix()), f.metric("aside_mode_since_timestamp_seconds"), patience.Seconds())
	f.redis.RestartKeepingData()
	f.awaitMode(aside.Healthy)
	require.InDelta(t, 2, f.metric("aside_replay_records"), 0)
	require.InDelta(t, 2, f.metric("aside_replay_done_records"), 0)
	require.InDelta(t, 0, f.metric("aside_replay_running"), 0)
}

func TestMetricsKeepPrometheusConventions(t *testing.T) {
	f := newFront(t, setup{web: Options{RESP: func() (int64, int64) { return 0, 0 }}})
	f.put("k", "v")
	f.server.ObserveRESP(answered("get", time.Millisecond, false))
	problems, err := testutil.GatherAndLint(f.server.metrics.registry)
	require.NoError(t, err)
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	// What is collected has been described: else the registry refuses it only when it is scraped.
	count, err := testutil.GatherAndCount(f.server.metrics.registry)
	require.NoError(t, err)
	require.Greater(t, count, 60)
}

func TestAMetricOfEachCommandIsFoundInEitherCase(t *testing.T) {
	f := newFront(t, setup{})
	for _, command := range respCommands {
		f.server.ObserveRESP(answered(command, 0, false))
		f.server.ObserveRESP(answered(strings.ToUpper(command), 0, false))
	}
	for _, m := range f.scrape()["aside_request_duration_seconds"].Metric {
		require.Equal(t, uint64(2), m.Histogram.GetSampleCount(), "%v", m.Label)
	}
	require.Len(t, f.scrape()["aside_request_duration_seconds"].Metric, len(respCommands))
}

func answered(command string, took time.Duration, failed bool) proxy.Answered {
	return proxy.Answered{Command: command, Count: 1, Took: took, At: time.Now(), Failed: failed}
}
