package asidetest_test

import (
	"context"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asidetest"
	"github.com/redaside/aside/codec"
)

// What is cleared is gone for all processes: a tag and a view, in an outage and after it, and also
// where a load had begun before.
func TestGroupsInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, ctx := asidetest.NewServer(t), t.Context()
		var loads atomic.Int64
		var slow time.Duration
		load := func(context.Context, string) (string, error) {
			value := strconv.FormatInt(loads.Add(1), 10)
			time.Sleep(slow)
			return value, nil
		}
		a, b := server.Client(), server.Client()
		view := func(c *aside.Client) *aside.TypedClient[string] {
			return aside.Typed(c, codec.String(), aside.WithPrefix("p:"), aside.Clearable(), aside.WithTags("t"), aside.WithGrace(time.Minute))
		}
		get := func(c *aside.Client) string {
			t.Helper()
			value, err := view(c).Get(ctx, time.Hour, "k", load)
			require.NoError(t, err)
			synctest.Wait() // it is stored, and others have heard of it
			return value
		}
		both := func(want string) {
			t.Helper()
			require.Equal(t, want, get(a))
			require.Equal(t, want, get(b))
		}
		both("1")
		both("1")
		require.NoError(t, a.DelTags(ctx, "t"))
		both("2")
		require.NoError(t, view(b).Clear(ctx))
		synctest.Wait() // a has heard of it
		both("3")
		require.NoError(t, a.ExpireTags(ctx, "t"))
		synctest.Wait()
		require.Equal(t, "3", get(b), "it has a grace")
		time.Sleep(time.Second)
		both("4")

		slow = 300 * time.Millisecond
		require.NoError(t, a.Del(ctx, "p:k"))
		synctest.Wait() // b has heard of it
		late := make(chan string)
		go func() { late <- get(b) }()
		time.Sleep(slow / 2)
		require.NoError(t, a.DelTags(ctx, "t"))
		require.Equal(t, "5", <-late, "who asked before may have it")
		slow = 0
		both("6")
		both("6") // a has it in memory now: a push that is on its way when a load begins keeps out what that stores

		server.Down()
		time.Sleep(5 * time.Second)
		require.Equal(t, aside.Degraded, a.Health().Mode)
		require.Equal(t, "6", get(a), "by the state that was known last")
		require.NoError(t, view(a).Clear(ctx), "it is kept")
		require.Equal(t, "7", get(a))
		server.Up()
		time.Sleep(5 * time.Second)
		require.Equal(t, aside.Healthy, a.Health().Mode)
		both("8")
	})
}
