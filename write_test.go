package aside_test

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

// A relapse would leave keys with a ttl of centuries, which other readers see, and volatile-* policies evict.
func TestAKeyThatDoesNotExpireHasNoTTLInRedis(t *testing.T) {
	const endless = aside.LongestTTL + time.Hour
	for name, stamps := range map[string]bool{"stamps": true, "without stamps": false} {
		t.Run(name, func(t *testing.T) {
			server := redistest.Start(t)
			proxy := faultproxy.New(t, server.Addr())
			_, option := durable(t)
			c, ctx := newClient(t, proxy.Addr(), hasty, option, func(o *aside.Options) { o.DisableStamps = !stamps }), testContext(t)
			load := func(context.Context, string) (string, error) { return "v", nil }
			loadMany := func(_ context.Context, keys []string) (map[string]string, error) {
				all := map[string]string{}
				for _, key := range keys {
					all[key] = "v"
				}
				return all, nil
			}
			require.NoError(t, c.Set(ctx, endless, "set", "v"))
			require.NoError(t, c.Set(ctx, math.MaxInt64, "longest", "v"))
			require.NoError(t, c.Set(ctx, time.Hour, "touched", "v"))
			require.NoError(t, c.Touch(ctx, endless, "touched"))
			_, err := c.Get(ctx, endless, "loaded", load)
			require.NoError(t, err)
			_, err = c.GetMulti(ctx, endless, []string{"many1", "many2"}, loadMany)
			require.NoError(t, err)
			stored(t, c, "loaded", "many1", "many2")
			require.NoError(t, c.Set(ctx, 60*365*24*time.Hour, "sixty years", "v"))
			require.NoError(t, c.Set(ctx, aside.LongestTTL, "a hundred", "v"))
			endlessKeys := []string{"set", "longest", "touched", "loaded", "many1", "many2"}
			if stamps { // else it is replayed as a delete
				proxy.Refuse()
				awaitMode(t, c, aside.Degraded)
				require.NoError(t, c.Set(ctx, 2*aside.LongestTTL, "away", "v"))
				require.NoError(t, c.Set(ctx, 60*365*24*time.Hour, "away for sixty", "v"))
				proxy.Heal()
				awaitMode(t, c, aside.Healthy)
				endlessKeys = append(endlessKeys, "away")
				require.Positive(t, server.Do("PTTL", "away for sixty"))
			}
			for _, key := range endlessKeys {
				require.EqualValues(t, -1, server.Do("PTTL", key), key)
				require.Equal(t, "v", server.Do("GET", key), key)
				found, err := c.Look(ctx, key)
				require.NoError(t, err)
				require.True(t, found.TTL < 0 || found.TTL > aside.LongestTTL, "%s: %v", key, found.TTL)
			}
			const year = 365 * 24 * 3600
			require.InDelta(t, 60*year, server.Do("TTL", "sixty years"), 60)
			require.InDelta(t, 100*year, server.Do("TTL", "a hundred"), 60)
		})
	}
}
