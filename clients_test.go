package aside_test

import (
	"context"
	"crypto/tls"
	"net"
	"testing"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/redistest"
)

// What docs/OPERATIONS.md recommends works: a wrapped client, and a dialer of one's own. Memory is used, and Close closes what is ours.
func TestTheRecipesForClients(t *testing.T) {
	server := redistest.Start(t)
	var built rueidis.Client
	for name, change := range map[string]func(*aside.Options){
		"wrapped": func(o *aside.Options) {
			o.ClientBuilder = func(option rueidis.ClientOption) (rueidis.Client, error) {
				redis, err := rueidis.NewClient(option)
				built = redis
				return timed{redis}, err
			}
		},
		"dialed": func(o *aside.Options) {
			o.Redis.InitAddress = []string{"no.such.host:6379"} // as it is with a socket or a tunnel
			o.Redis.DialCtxFn = func(ctx context.Context, _ string, dialer *net.Dialer, _ *tls.Config) (net.Conn, error) {
				return dialer.DialContext(ctx, "tcp", server.Addr())
			}
		},
		"empty tracking options": func(o *aside.Options) { o.Redis.ClientTrackingOptions = []string{} },
	} {
		t.Run(name, func(t *testing.T) {
			c := newClient(t, server.Addr(), change)
			require.True(t, servesFromMemory(t, c, name))
			require.NoError(t, c.Health().Err)
			require.NoError(t, c.Close())
			if name == "wrapped" {
				require.ErrorIs(t, built.Do(testContext(t), built.B().Ping().Build()).Error(), rueidis.ErrClosing, "it is ours to close")
			}
		})
	}
}
