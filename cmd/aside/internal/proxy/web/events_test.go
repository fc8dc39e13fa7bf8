package web

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/statuspage"
)

// stream is a viewer.
type stream struct {
	t        testing.TB
	response *http.Response
	lines    *bufio.Reader
	cancel   context.CancelFunc
}

func (f *front) watch(headers ...string) *stream {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, f.http.URL+"/events", nil)
	require.NoError(f.t, err)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	response, err := f.http.Client().Do(r) //nolint:bodyclose // stream.close does
	require.NoError(f.t, err)
	s := &stream{f.t, response, bufio.NewReader(response.Body), cancel}
	f.t.Cleanup(s.close)
	require.Equal(f.t, http.StatusOK, response.StatusCode)
	require.Equal(f.t, "text/event-stream", response.Header.Get("Content-Type"))
	require.Equal(f.t, "no-store", response.Header.Get("Cache-Control"))
	return s
}

func (s *stream) close() {
	s.cancel()
	s.response.Body.Close()
}

// shown is what a test looks at of an event, read by the names that the page uses.
type shown struct {
	Mode, Error, Version string
	Now, Since           time.Time
	Tiers                map[string]int64
	Latency              map[string]struct {
		Count int64
		P50   float64 `json:"p50_us"`
		P99   float64 `json:"p99_us"`
		Rate  []int64
	}
	RESP    struct{ Connections, Commands int64 }
	Backlog struct{ Sets, Deletes, Fills, Bytes int64 }
	Replay  struct {
		Running     bool
		Done, Total int
		Began       time.Time
		Verdicts    map[string]int
	}
	Changes []struct {
		At              time.Time
		From, To, Error string
	}
	Durable bool
	Shards  []struct{ Addr, Mode string }
}

// next is the next event.
func (s *stream) next() (event shown) {
	s.t.Helper()
	for {
		line, err := s.lines.ReadString('\n')
		require.NoError(s.t, err)
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			require.NoError(s.t, json.Unmarshal([]byte(data), &event), data)
			return event
		}
	}
}

// until is the first event that is as wanted.
func (s *stream) until(wanted func(shown) bool) shown {
	s.t.Helper()
	for {
		if event := s.next(); wanted(event) {
			return event
		}
	}
}

func (s *stream) ended() {
	s.t.Helper()
	_, err := io.Copy(io.Discard, s.lines)
	require.NoError(s.t, err)
}

func TestAnEventSaysWhatThePageShows(t *testing.T) {
	t.Parallel()
	f := newFront(t, setup{client: []func(*aside.Options){durable(t)}, web: Options{Version: "v9", RESP: func() (int64, int64) { return 3, 4 }}})
	f.put("k", "v")
	f.holds("k", "v")
	f.send("GET", "/get?key=none", "")
	f.server.ObserveRESP(answered("get", 3*time.Millisecond, false))
	viewer := f.watch()
	first := viewer.next()
	require.Equal(t, "healthy", first.Mode)
	require.Equal(t, "v9", first.Version)
	require.Empty(t, first.Error)
	require.Empty(t, first.Changes)
	require.True(t, first.Durable)
	require.Len(t, first.Shards, 1)
	require.WithinDuration(t, time.Now(), first.Now, patience)
	require.Equal(t, int64(1), first.Tiers["memory"]+first.Tiers["redis"])
	require.Equal(t, int64(1), first.Tiers["missed"])
	require.Equal(t, int64(3), first.RESP.Connections)
	later := viewer.until(func(s shown) bool { return s.Latency["http"].Count > 0 && s.Latency["resp"].Count > 0 })
	require.InDelta(t, 3000, later.Latency["resp"].P99, 375)
	require.Positive(t, later.Latency["http"].P50)
	require.Len(t, later.Latency["http"].Rate, 60)

	f.redis.Kill()
	degraded := viewer.until(func(s shown) bool { return s.Mode == "degraded" })
	require.NotEmpty(t, degraded.Error)
	require.WithinDuration(t, time.Now(), degraded.Since, patience)
	require.Len(t, degraded.Changes, 1)
	require.Equal(t, "healthy", degraded.Changes[0].From)
	require.Equal(t, "degraded", degraded.Changes[0].To)
	require.NotEmpty(t, degraded.Changes[0].Error)
	f.put("k", "w")
	waiting := viewer.until(func(s shown) bool { return s.Backlog.Sets == 1 })
	require.Positive(t, waiting.Backlog.Bytes)
	f.redis.RestartKeepingData()
	healthy := viewer.until(func(s shown) bool { return s.Mode == "healthy" && !s.Replay.Running })
	require.Empty(t, healthy.Error)
	require.Equal(t, "healthy", healthy.Changes[0].To, "newest first")
	require.Equal(t, "recovering", healthy.Changes[1].To)
	require.Equal(t, 1, healthy.Replay.Total)
	require.Equal(t, 1, healthy.Replay.Done)
}

// Relapse: net/http ends, at WriteTimeout, what it has not sent all of.
func TestAStreamOutlivesTheServersTimeouts(t *testing.T) {
	t.Parallel()
	const short = 2 * time.Second
	f := newFront(t, setup{web: Options{Pprof: true}, http: func(s *http.Server) { s.ReadTimeout, s.WriteTimeout = short, short }})
	viewer := f.watch()
	for range 4 { // 3 seconds
		viewer.next()
	}
	began := time.Now()
	r := f.send("GET", "/debug/pprof/trace?seconds=3", "")
	require.Equal(t, http.StatusOK, r.StatusCode)
	require.GreaterOrEqual(t, time.Since(began), 3*time.Second)
}

func TestManyViewersSeeAChangeAndAllAreSentAway(t *testing.T) {
	f := newFront(t, setup{})
	var viewers []*stream
	for range 300 {
		viewer := f.watch()
		viewer.next()
		viewers = append(viewers, viewer)
	}
	require.InDelta(t, 300, f.metric("aside_event_streams"), 0)
	viewers[0].close()
	eventually(t, "the one that left is forgotten", func() bool { return f.server.hub.viewers() == 299 })
	viewers = viewers[1:]
	f.redis.Kill()
	for _, viewer := range viewers {
		viewer.until(func(s shown) bool { return s.Mode == "degraded" })
	}
	f.server.Close()
	for _, viewer := range viewers {
		viewer.ended()
	}
	require.Zero(t, f.server.hub.viewers())
}

func TestThereIsAnEndToViewers(t *testing.T) {
	f := newFront(t, setup{})
	for range maxViewers {
		_, ok := f.server.hub.join()
		require.True(t, ok)
	}
	isProblem(t, f.send("GET", "/events", ""), problemBusy)
	f.server.hub.mu.Lock()
	viewers := f.server.hub.all
	f.server.hub.all = map[chan []byte]struct{}{}
	f.server.hub.mu.Unlock()
	for viewer := range viewers {
		f.server.hub.leave(viewer)
	}
}

func TestASlowViewerIsDroppedAndNotWaitedFor(t *testing.T) {
	h := newHub(nil, func() {}, 2*maxViewers)
	slow, ok := h.join()
	require.True(t, ok)
	quick, ok := h.join()
	require.True(t, ok)
	for i := range 3 {
		event := fmt.Append(nil, i)
		h.tell(event)
		require.Equal(t, event, <-quick)
	}
	require.Equal(t, 1, h.viewers())
	require.Equal(t, []byte("0"), <-slow, "it still gets what was there for it")
	require.Equal(t, []byte("1"), <-slow)
	_, ok = <-slow
	require.False(t, ok)
	h.leave(slow)
	h.leave(quick)
	h.close()
	h.wait()
	_, ok = h.join()
	require.False(t, ok)
}

func TestAnEventIsOneLine(t *testing.T) {
	event := eventOf(statuspage.Status{Error: "two\nlines\r", Shards: []statuspage.Shard{}})
	require.True(t, bytes.HasSuffix(event, []byte("}\n\n")))
	require.Equal(t, 3, bytes.Count(event, []byte("\n")))
}

func TestStreamsEndWithTheirTokenOnly(t *testing.T) {
	t.Parallel()
	f := newFront(t, setup{web: Options{Token: "first"}})
	viewer := f.watch("Authorization", "Bearer first")
	viewer.next()
	f.server.SetToken("first")
	for range 3 {
		viewer.next()
	}
	f.server.SetToken("second")
	_, err := io.Copy(io.Discard, viewer.lines)
	require.NoError(t, err)
}
