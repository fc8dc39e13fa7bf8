package web

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
)

func TestWhatToDoIsTheMostUrgent(t *testing.T) {
	away := status{Mode: aside.Degraded, Durable: true, Redis: "r:6379", Replay: replayStatus{Verdicts: map[string]int{}}, Backlog: backlogStatus{Dir: "/d", MaxBytes: 1000}}
	change := func(f func(*status)) string {
		st := away
		f(&st)
		return st.todo()
	}
	require.Equal(t, "Bring back Redis at r:6379. The rest is done here: writes are kept, and replayed then.", away.todo())
	require.Contains(t, change(func(s *status) { s.Durable = false }), "before this process ends")
	require.Contains(t, change(func(s *status) { s.Backlog.Bytes = 800 }), "raise fallback.max_bytes")
	require.Contains(t, change(func(s *status) { s.Backlog.Bytes, s.Backlog.Error = 800, "full" }), "See to the disk, or the rights, of /d")
	require.Equal(t, "Nothing: the replay ends by itself.", change(func(s *status) { s.Mode = aside.Recovering }))
	require.Equal(t, "Nothing.", change(func(s *status) { s.Mode = aside.Healthy }))
	require.Contains(t, change(func(s *status) { s.Mode, s.Backlog.Quarantined = aside.Healthy, 1 }), "aside verify /d")
	require.Contains(t, change(func(s *status) {
		s.Mode, s.Backlog.Sets, s.Replay.Verdicts = aside.Healthy, 1, map[string]int{"refused": 1}
	}), "aside doctor")
}

func TestTheLastMinuteIsWhatHasComeInIt(t *testing.T) {
	var m lastMinute
	at := func(second int64) totals {
		return totals{tiers{second, 2 * second, 3 * second, 4 * second}, 5 * second}
	}
	for second := range int64(200) {
		total, minute := m.since(at(second))
		require.Equal(t, at(second), total)
		require.Equal(t, at(min(second, windowSeconds)), minute, "%d", second)
		m.tick(at(second))
	}
}

// Requests that the outage costs are counted, in whatever way they are asked; what is not there,
// and what is answered, is none.
func TestRequestsRefusedByTheOutageAreCounted(t *testing.T) {
	f := newFront(t, setup{client: []func(*aside.Options){durable(t)}})
	f.put("k", "v")
	f.holds("k", "v")
	f.send("GET", "/get?key=none", "")
	f.redis.Kill()
	f.awaitMode(aside.Degraded)
	f.put("kept", "v")
	f.holds("kept", "v")
	require.Zero(t, f.metric("aside_refused_requests_total"))
	require.Equal(t, http.StatusServiceUnavailable, f.send("GET", "/get?key=unknown", "").StatusCode)
	require.Equal(t, http.StatusServiceUnavailable, f.send("POST", "/v1/mget", `{"keys":["kept","unknown"]}`).StatusCode)
	require.Equal(t, 2, int(f.metric("aside_refused_requests_total")))
	require.Equal(t, refused{2, 2}, f.server.snapshot().Refused)

	f = newFront(t, setup{}) // without a directory a write is not acknowledged
	f.redis.Kill()
	f.awaitMode(aside.Degraded)
	require.Equal(t, http.StatusServiceUnavailable, f.send("PUT", "/v1/keys/k", "v").StatusCode)
	require.Equal(t, http.StatusServiceUnavailable, f.send("DELETE", "/v1/keys/k", "").StatusCode)
	require.Equal(t, 2, int(f.metric("aside_refused_requests_total")))
	f.redis.Restart() // so that Close has nothing to say
	eventually(t, "it is replayed", func() bool { return f.client.Stats().Pending == 0 })
}
