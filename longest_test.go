package aside_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/redistest"
)

// A relapse: each attempt ends the connection, and with it what is out on it and what is in memory;
// a kept write does so every five seconds, for ever.
func TestAValueThatRedisWouldNotReadCostsNoConnection(t *testing.T) {
	for name, how := range map[string]struct {
		args    []string
		flushes int64 // until it is known: by the answer to one attempt, or, where that gets lost, by the second
	}{
		"CONFIG tells":            {nil, 0},
		"CONFIG is not permitted": {[]string{"--rename-command", "CONFIG", ""}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			server := redistest.Start(t, redistest.WithArgs(append([]string{"--proto-max-bulk-len", "1mb"}, how.args...)...))
			if !server.CanSignal() {
				redistest.Skip(t, "needs a server of its own")
			}
			c := newClient(t, server.Addr(), func(o *aside.Options) { o.FallbackDir = t.TempDir() })
			ctx := testContext(t)
			long := strings.Repeat("v", 2<<20)
			load := func(context.Context, string) (string, error) { return long, nil }

			began := c.Stats().Flushes
			var err error
			for range 10 {
				if err = c.Set(ctx, time.Minute, "long", long); how.flushes == 0 { // else it may be kept, as the connection has ended
					require.ErrorContains(t, err, "proto-max-bulk-len")
				}
				value, err := c.Get(ctx, time.Minute, "loaded", load)
				require.NoError(t, err)
				require.Equal(t, long, value)
				require.Eventually(t, func() bool { return c.Health().Mode == aside.Healthy }, patience, time.Millisecond)
			}
			require.NotErrorIs(t, err, aside.ErrRedisAway)
			require.LessOrEqual(t, c.Stats().Flushes-began, how.flushes)
			require.NoError(t, c.Set(ctx, time.Minute, "short", "v"))

			// Kept while Redis was away.
			server.Kill()
			require.Eventually(t, func() bool { return c.Health().Mode == aside.Degraded }, patience, time.Millisecond)
			require.NoError(t, c.Set(ctx, time.Minute, "long", long))
			require.NoError(t, c.Set(ctx, time.Minute, "short", "w"))
			server.Restart()
			require.Eventually(t, func() bool { return c.Health().Mode == aside.Healthy }, patience, time.Millisecond)
			require.Eventually(t, func() bool { return c.Stats().Pending <= 1 }, patience, time.Millisecond)
			assert.Equal(t, "w", server.Do("GET", "short"))
			flushes := c.Stats().Flushes
			for range 3 { // a read has it replayed first
				value, err := c.Get(ctx, time.Minute, "long", load)
				require.NoError(t, err)
				require.Len(t, value, len(long))
			}
			assert.LessOrEqual(t, c.Stats().Flushes-flushes, how.flushes)
		})
	}
}
