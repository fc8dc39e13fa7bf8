package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/cmd/aside/internal/proxy"
)

// manyReply is the answer to an mget.
type manyReply struct {
	Encoding string
	Values   map[string]manyValue
	Missing  []string
}

func decodeMany(t testing.TB, r reply) (got manyReply) {
	t.Helper()
	require.Equal(t, http.StatusOK, r.StatusCode, r.body)
	require.NoError(t, json.Unmarshal([]byte(r.body), &got), r.body)
	return got
}

func TestAWriteSurvivesAnOutage(t *testing.T) {
	f := newFront(t, setup{client: []func(*aside.Options){durable(t)}})
	f.put("before", "v")
	f.put("deleted", "v")
	require.Equal(t, http.StatusOK, f.send("GET", "/readyz", "").StatusCode)
	f.redis.Kill()
	f.awaitMode(aside.Degraded)

	r := f.put("meanwhile", "w", "Content-Type", "text/css")
	require.Equal(t, "degraded", r.Header.Get(modeHeader))
	r = f.send("DELETE", "/v1/keys/deleted", "")
	require.Equal(t, http.StatusNoContent, r.StatusCode)
	require.Equal(t, "degraded", r.Header.Get(modeHeader))

	r = f.send("GET", "/v1/keys/meanwhile", "")
	require.Equal(t, "w", r.body)
	require.Equal(t, "text/css", r.Header.Get("Content-Type"))
	require.Equal(t, "degraded", r.Header.Get(modeHeader))
	require.Regexp(t, `^aside; hit; detail=(memory|disk)$`, r.Header.Get("Cache-Status"))
	r = f.send("GET", "/v1/keys/deleted", "")
	isProblem(t, r, problemNotFound)
	require.Equal(t, "degraded", r.Header.Get(modeHeader))

	r = f.send("GET", "/v1/keys/never-seen", "")
	require.Contains(t, isProblem(t, r, problemDegraded), "not known")
	require.Equal(t, "1", r.Header.Get("Retry-After"))
	require.Equal(t, "aside; fwd=miss; detail=degraded", r.Header.Get("Cache-Status"))
	require.Equal(t, "degraded", r.Header.Get(modeHeader))
	head := f.send("HEAD", "/v1/keys/never-seen", "")
	require.Equal(t, http.StatusServiceUnavailable, head.StatusCode)
	require.Empty(t, head.body)
	isProblem(t, f.send("POST", "/v1/mget", `{"keys":["meanwhile","never-seen"]}`), problemDegraded)
	r = f.send("POST", "/v1/mget", `{"keys":["meanwhile","deleted"]}`)
	require.Equal(t, "degraded", r.Header.Get(modeHeader))
	many := decodeMany(t, r)
	require.Equal(t, "w", many.Values["meanwhile"].Value)
	require.Equal(t, []string{"deleted"}, many.Missing)

	r = f.send("GET", "/readyz", "")
	require.Equal(t, http.StatusOK, r.StatusCode, "it is of use")
	var ready struct {
		Status, Mode string
		Durable      bool
		Pending      int
		Since        time.Time
	}
	require.NoError(t, json.Unmarshal([]byte(r.body), &ready))
	require.Equal(t, "ready", ready.Status)
	require.Equal(t, "degraded", ready.Mode)
	require.True(t, ready.Durable)
	require.Equal(t, 2, ready.Pending)
	require.WithinDuration(t, time.Now(), ready.Since, patience)
	require.Equal(t, http.StatusOK, f.send("GET", "/healthz", "").StatusCode)

	f.redis.RestartKeepingData()
	f.awaitMode(aside.Healthy)
	require.Nil(t, f.redis.Do("GET", "deleted"))
	r = f.send("GET", "/v1/keys/meanwhile", "")
	require.Equal(t, "w", r.body)
	require.Equal(t, "text/css", r.Header.Get("Content-Type"), "its type has come through, too")
	require.Empty(t, r.Header.Get(modeHeader))
	f.holds("before", "v")
}

func TestWithoutADirectoryAWriteIsKeptInMemoryAndSaysSo(t *testing.T) {
	f := newFront(t, setup{})
	f.redis.Kill()
	f.awaitMode(aside.Degraded)
	r := f.send("PUT", "/v1/keys/k", "v")
	require.Contains(t, isProblem(t, r, problemNotDurable), "lost if the process ends before")
	require.Equal(t, "1", r.Header.Get("Retry-After"))
	f.holds("k", "v")
	isProblem(t, f.send("DELETE", "/v1/keys/k", ""), problemNotDurable)
	isProblem(t, f.send("GET", "/v1/keys/k", ""), problemNotFound)
	r = f.send("GET", "/readyz", "")
	require.Contains(t, r.body, `"durable":false`)
	f.redis.Restart()
	f.awaitMode(aside.Healthy)
	require.Equal(t, http.StatusNoContent, f.send("PUT", "/v1/keys/k", "v").StatusCode)
}

func TestWhatDoesNotFitIsNotDone(t *testing.T) {
	f := newFront(t, setup{client: []func(*aside.Options){durable(t), func(o *aside.Options) { o.Fallback.MaxBytes = 1 << 20 }}})
	f.redis.Kill()
	f.awaitMode(aside.Degraded)
	require.Contains(t, isProblem(t, f.send("PUT", "/v1/keys/large", strings.Repeat("v", 2<<20)), problemFull), "it was not done")
	isProblem(t, f.send("GET", "/v1/keys/large", ""), problemDegraded)
	f.put("small", "v")
}

func TestAFrozenRedisHoldsUpNobodyForLong(t *testing.T) {
	f := newFront(t, setup{client: []func(*aside.Options){durable(t), hasty}, web: Options{RequestTimeout: patience}})
	f.put("before", "v")
	f.holds("before", "v")
	f.redis.Freeze()
	f.put("meanwhile", "w") // the first waits for RedisTimeout, and is journaled then
	f.awaitMode(aside.Degraded)
	f.holds("meanwhile", "w")
	f.redis.Thaw()
	f.awaitMode(aside.Healthy)
	f.holds("meanwhile", "w")
}

func TestEachErrorOfTheStoreHasItsProblem(t *testing.T) {
	away := fmt.Errorf("x: %w", aside.ErrRedisAway)
	for _, c := range []struct {
		err  error
		want problemKind
	}{
		{fmt.Errorf("x: %w", aside.ErrNotFound), problemNotFound},
		{aside.ErrTooLarge, problemTooLarge},
		{aside.ErrInvalidArgument, problemInvalid},
		{fmt.Errorf("%w: %w", away, aside.ErrFull), problemFull},
		{fmt.Errorf("%w: %w", away, aside.ErrDisk), problemDisk},
		{fmt.Errorf("%w: %w", aside.ErrNotDurable, away), problemNotDurable},
		{fmt.Errorf("%w: %w", aside.ErrNotDurable, aside.ErrUnknownOutcome), problemNotDurable},
		{fmt.Errorf("%w: %w", aside.ErrUnknownOutcome, context.DeadlineExceeded), problemUnknown},
		{fmt.Errorf("%w: %w", proxy.ErrConcurrency, context.DeadlineExceeded), problemBusy},
		{fmt.Errorf("%w: %w", proxy.ErrConcurrency, context.Canceled), problemGone},
		{aside.ErrOverloaded, problemBusy},
		{aside.ErrClosed, problemStopping},
		{fmt.Errorf("%w: %w", proxy.ErrDegraded, away), problemDegraded},
		{away, problemDegraded},
		{context.Canceled, problemGone},
		{context.DeadlineExceeded, problemTimeout},
		{errors.New("surprise"), problemInternal},
	} {
		p := problemOf(c.err)
		require.Equal(t, c.want, p.kind, "%v", c.err)
		if c.want != problemNotFound {
			require.Contains(t, p.detail, c.err.Error())
		}
	}
}
