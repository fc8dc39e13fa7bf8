package services_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/redistest"
)

// patience bounds every wait of a test for something that has to happen. It proves nothing about
// speed.
const patience = 30 * time.Second

// newClient makes a client of a server of its own, and closes it when the test ends.
func newClient(t testing.TB) (*aside.Client, *redistest.Server) {
	t.Helper()
	server := redistest.Start(t)
	client, err := aside.New(aside.Options{
		Redis:          rueidis.ClientOption{InitAddress: []string{server.Addr()}},
		ConnectTimeout: patience,
		RequireRedis:   true,
		RedisTimeout:   2 * time.Second,
		LockTTL:        10 * time.Second,
		Logger:         slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	return client, server
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}
