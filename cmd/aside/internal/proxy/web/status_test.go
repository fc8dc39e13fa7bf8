package web

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/statuspage"
)

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
	require.Equal(t, statuspage.Refused{All: 2, Minute: 2}, f.server.snapshot().Refused)

	f = newFront(t, setup{}) // without a directory a write is not acknowledged
	f.redis.Kill()
	f.awaitMode(aside.Degraded)
	require.Equal(t, http.StatusServiceUnavailable, f.send("PUT", "/v1/keys/k", "v").StatusCode)
	require.Equal(t, http.StatusServiceUnavailable, f.send("DELETE", "/v1/keys/k", "").StatusCode)
	require.Equal(t, 2, int(f.metric("aside_refused_requests_total")))
	f.redis.Restart() // so that Close has nothing to say
	eventually(t, "it is replayed", func() bool { return f.client.Stats().Pending == 0 })
}
