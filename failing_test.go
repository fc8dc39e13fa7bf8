package aside_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/redistest"
	"github.com/redaside/aside/internal/stamp"
)

// Sources that fail.

// Each process of the fleet says that what it serves is stale because a refresh has failed: the one
// whose loader it was says why.
func TestAllProcessesSayThatARefreshHasFailed(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	a, b, ctx := newClient(t, server.Addr()), newClient(t, server.Addr()), testContext(t)
	server.Do("SET", "k", "1", "PX", (grace / 2).Milliseconds())
	down := errors.New("the database is down")
	fetch := func(c *aside.Client, load aside.Loader[string]) aside.Result[string] {
		found, err := graceful(c).Fetch(ctx, fresh, "k", load)
		require.NoError(t, err)
		require.Equal(t, "1", found.Value)
		require.True(t, found.Stale)
		return found
	}
	db := newSource("2")
	db.Fail(down)
	require.NoError(t, fetch(a, db.Load).StaleErr, "nothing has failed yet")
	eventually(t, "it has failed", refreshed(a))
	require.ErrorIs(t, fetch(a, db.Load).StaleErr, down)
	require.EqualValues(t, 1, a.Stats().Refreshes)
	require.EqualValues(t, 1, a.Stats().RefreshesFailed)
	server.Do("PEXPIRE", stamp.RefreshLock("k"), time.Hour.Milliseconds()) // a long back-off

	fetch(b, mustNotLoad)
	eventually(t, "it is held off", refreshed(b))
	require.ErrorContains(t, fetch(b, mustNotLoad).StaleErr, "another process has failed")
	require.Zero(t, b.Stats().Refreshes)
	require.EqualValues(t, 1, b.Stats().RefreshesHeldOff)
	require.EqualValues(t, 1, db.Calls.Load())

	server.Do("SET", "l", "1", "PX", (grace / 2).Milliseconds())
	server.Do("SET", stamp.RefreshLock("l"), anothersLock, "PX", time.Hour.Milliseconds())
	_, err := graceful(b).Get(ctx, fresh, "l", mustNotLoad)
	require.NoError(t, err)
	eventually(t, "it is held off", refreshed(b))
	found, err := graceful(b).Fetch(ctx, fresh, "l", mustNotLoad)
	require.NoError(t, err)
	require.NoError(t, found.StaleErr, "it is being refreshed")
	require.EqualValues(t, 2, b.Stats().RefreshesHeldOff)
}

// A refresh whose result is refused counts as such.
func TestRefusedRefreshesAreCounted(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	server.Do("SET", "k", "1", "PX", (grace / 2).Milliseconds())
	_, err := graceful(c).Get(ctx, fresh, "k", func(context.Context, string) (string, error) {
		server.Do("SET", "k", "foreign", "PX", time.Hour.Milliseconds())
		return "2", nil
	})
	require.NoError(t, err)
	eventually(t, "it is refused", func() bool { return c.Stats().RefreshesRefused == 1 })
	require.EqualValues(t, 1, c.Stats().Refreshes)
	require.Zero(t, c.Stats().RefreshesFailed)
}

// A failed load with nothing stale is remembered in its process only.
func TestAFailedLoadIsOfItsProcessOnly(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	a, b, ctx := newClient(t, server.Addr()), newClient(t, server.Addr()), testContext(t)
	db := newSource("v")
	db.Fail(errDown)
	for range 3 {
		_, err := graceful(a).Get(ctx, fresh, "k", db.Load, aside.WithErrorTTL(time.Hour))
		require.ErrorIs(t, err, errDown)
	}
	require.EqualValues(t, 1, db.Calls.Load())
	require.Empty(t, keysOf(server), "nothing is left in Redis: no lock, no back-off")
	_, err := graceful(b).Get(ctx, fresh, "k", db.Load, aside.WithErrorTTL(-1))
	require.ErrorIs(t, err, errDown)
	require.EqualValues(t, 2, db.Calls.Load(), "another process asks for itself")
}

// The back-off of a refresh is of what is stale: once that is gone it holds nobody off.
func TestABackOffEndsWithWhatIsStale(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(server *redistest.Server, c *aside.Client){
		"deleted":       func(_ *redistest.Server, c *aside.Client) { must(c.Del(context.Background(), "k")) },
		"a foreign DEL": func(server *redistest.Server, _ *aside.Client) { server.Do("DEL", "k") },
		"ended":         func(server *redistest.Server, _ *aside.Client) { server.Do("PEXPIRE", "k", 1) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			a, b, ctx := newClient(t, server.Addr()), newClient(t, server.Addr()), testContext(t)
			server.Do("SET", "k", "1", "PX", (grace / 2).Milliseconds())
			db := newSource("2")
			db.Fail(errDown)
			get := func(c *aside.Client) (string, error) {
				return graceful(c).Get(ctx, fresh, "k", db.Load, aside.WithErrorTTL(-1))
			}
			_, err := get(a)
			require.NoError(t, err)
			eventually(t, "it has failed", func() bool {
				return strings.HasPrefix(fmt.Sprint(server.Do("GET", stamp.RefreshLock("k"))), "failed:1:")
			})
			server.Do("PEXPIRE", stamp.RefreshLock("k"), time.Hour.Milliseconds())
			eventually(t, "the refresh is over", refreshed(a))
			_, err = get(b)
			require.NoError(t, err)
			eventually(t, "it is held off", refreshed(b))
			require.EqualValues(t, 1, db.Calls.Load())
			end(server, a)
			for _, c := range []*aside.Client{a, b} {
				eventually(t, "it loads, and has the error", func() bool {
					_, err := get(c)
					return errors.Is(err, errDown)
				})
			}
			db.Fail(nil)
			value, err := get(b)
			require.NoError(t, err)
			require.Equal(t, "2", value)
		})
	}
}
