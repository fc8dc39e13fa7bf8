package aside

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/redistest"
)

// The server's clock has jumped ahead of what the prober last saw: a write is taken for late, the
// clock is looked at, once per shard however many keys there are, and the write is done.
func TestAWriteSurvivesAJumpOfTheServersClock(t *testing.T) {
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	c := newConnected(t, proxy.Addr())
	ctx := t.Context()
	sh := c.link.Shards()[0]
	jump := func() {
		sh.Skew(-time.Hour, -time.Hour)
	}
	jump()
	require.NoError(t, c.Set(ctx, time.Minute, "k", "v"))
	require.Equal(t, "v", server.Do("GET", "k"))
	var keys []string
	for i := range 50 * link.MaxBatchKeys {
		keys = append(keys, fmt.Sprint("k", i))
	}
	server.Do("SET", "k7", "v")
	proxy.Delay(20 * time.Millisecond)
	jump()
	short, cancel := context.WithTimeout(ctx, time.Second) // fifty probes one after another take two
	defer cancel()
	require.NoError(t, c.Del(short, keys...))
	require.Nil(t, server.Do("GET", "k7"))
}

// A machine has slept, so that nobody knows the server's time: a Set without a deadline does not
// wait for it.
func TestASetDoesNotWaitForAClockThatIsFarOff(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	c := newConnected(t, proxy.Addr())
	proxy.BlackHole()
	c.link.Shards()[0].Skew(0, time.Hour)
	require.ErrorIs(t, c.Set(t.Context(), time.Hour, "k", "v"), ErrNotDurable)
	proxy.Heal()
	for c.Stats().Pending > 0 {
		time.Sleep(time.Millisecond)
	}
}
