package asidetest_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/asidetest"
)

// A renewal without an answer says nothing of the lock, and one that has run out in an outage is no
// reason to start over: all loads of all processes would. In a bubble, as nothing may happen for long.
func TestNoOutageEndsALoad(t *testing.T) {
	for name, row := range map[string]struct{ away, back func(s *asidetest.Server) }{
		"no answer":           {(*asidetest.Server).Freeze, (*asidetest.Server).Up},
		"down":                {(*asidetest.Server).Down, (*asidetest.Server).Up},
		"down, and restarted": {(*asidetest.Server).Down, (*asidetest.Server).Restart},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := asidetest.NewServer(t)
				c := server.Client()
				calls := 0
				value, err := c.Get(t.Context(), time.Minute, "k", func(ctx context.Context, _ string) (string, error) {
					calls++
					time.Sleep(time.Second) // it is renewed
					require.Contains(t, server.Do("GET", "k"), "\x00aside:lock:")
					row.away(server)
					time.Sleep(5 * time.Second) // more than LockTTL
					require.NoError(t, ctx.Err())
					row.back(server)
					time.Sleep(10 * time.Second)
					require.Nil(t, server.Do("GET", "k"), "it has run out")
					return "v", ctx.Err()
				})
				require.NoError(t, err)
				require.Equal(t, "v", value)
				require.Equal(t, 1, calls)
				require.Zero(t, c.Stats().LocksLost)
			})
		})
	}
}
