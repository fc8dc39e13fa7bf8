package aside

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

// What was set in an outage is not younger for a call with WithMaxAge than it is, however much more is
// known of the server's clock by now than when it was set.
func TestAnAgeCountsTheErrorOfTheClock(t *testing.T) {
	server := redistest.Start(t)
	for name, options := range map[string][]CallOption{"raw": nil, "with a tag": {WithTags("x")}} {
		t.Run(name, func(t *testing.T) {
			proxy := faultproxy.New(t, server.Addr())
			c := newConnected(t, proxy.Addr(), func(o *Options) { o.FallbackDir = t.TempDir() })
			ctx := t.Context()
			_, err := c.Get(ctx, time.Hour, "uses the tag "+name, func(context.Context, string) (string, error) { return "v", nil }, options...)
			require.NoError(t, err)
			proxy.Refuse()
			for c.Health().Mode != Degraded {
				_, _, _ = c.Peek(ctx, "asks Redis") // so that it is noticed
			}
			const err100 = 100 * time.Millisecond
			sh := c.link.Shards()[0]
			sh.Skew(err100, 0) // the two clocks differ by so much, so that nobody knows which is right
			require.NoError(t, c.Set(ctx, time.Hour, name, "v", options...))
			set := time.Now()
			sh.Skew(-err100, 0) // the next probe knows
			for range 2 {       // from the store, from memory
				asked := time.Since(set)
				got, err := c.Fetch(ctx, time.Hour, name, nothing)
				require.NoError(t, err)
				require.Equal(t, "v", got.Value)
				require.GreaterOrEqual(t, got.Age, asked, "from %v", got.Source)
				require.Less(t, got.Age, time.Since(set)+3*err100)
			}
			time.Sleep(20 * time.Millisecond) // the age, not a synchronisation
			value, err := c.Get(ctx, time.Hour, name, func(context.Context, string) (string, error) { return "loaded", nil }, WithMaxAge(20*time.Millisecond))
			require.NoError(t, err)
			require.Equal(t, "loaded", value)
		})
	}
}

func nothing(context.Context, string) (string, error) { return "", ErrNotFound }
