package aside_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
	"github.com/redaside/aside/internal/stamp"
)

// Refresh loads and replaces whatever is there, for all processes, and others are served meanwhile.
func TestRefreshReplacesWhateverIsThere(t *testing.T) {
	t.Parallel()
	for name, put := range map[string]func(server *redistest.Server){
		"a fresh value":            func(server *redistest.Server) { server.Do("SET", "k", "old", "EX", 7200) },
		"a stale value":            func(server *redistest.Server) { server.Do("SET", "k", "old", "EX", 10) },
		"one that does not expire": func(server *redistest.Server) { server.Do("SET", "k", "old") },
		"an absence":               func(server *redistest.Server) { server.Do("SET", "k", "\x00aside:1n", "EX", 7200) },
		"another version's header": func(server *redistest.Server) { server.Do("SET", "k", "\x00aside:9zz", "EX", 7200) },
		"nothing":                  func(*redistest.Server) {},
		"one whose refresh failed": func(server *redistest.Server) {
			server.Do("SET", "k", "old", "EX", 10)
			server.Do("SET", stamp.RefreshLock("k"), "failed:3:1000", "PX", 60_000)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			c, other, ctx := newClient(t, server.Addr()), newClient(t, server.Addr()), testContext(t)
			put(server)
			served := server.Do("GET", "k") == "old"
			db := newSource("new")
			letGo := db.HoldUp()
			refreshing := inBackground(func() (string, error) { return graceful(c).Refresh(ctx, fresh, "k", db.Load) })
			db.AwaitBegin(t)
			for _, client := range []*aside.Client{c, other} {
				if served {
					value, err := graceful(client).Get(ctx, fresh, "k", mustNotLoad)
					require.NoError(t, err)
					require.Equal(t, "old", value, "nobody waits for it")
				}
			}
			letGo()
			require.Equal(t, result{Value: "new"}, await(t, refreshing))
			eventually(t, "it is stored", func() bool { return server.Do("GET", "k") == "new" })
			require.InDelta(t, (fresh + grace).Milliseconds(), server.Do("PTTL", "k"), 20_000)
			require.Nil(t, server.Do("GET", stamp.RefreshLock("k")), "its lock is given back")
			for _, client := range []*aside.Client{c, other} {
				eventually(t, "all have it", func() bool {
					value, err := graceful(client).Get(ctx, fresh, "k", mustNotLoad)
					return err == nil && value == "new"
				})
			}
			require.EqualValues(t, 1, db.Calls.Load())
		})
	}
}

// What is written or deleted during a Refresh wins, in the process itself and elsewhere.
func TestAWriteDuringARefreshNowWins(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		write func(server *redistest.Server, mine, other *aside.Client)
		holds any
	}{
		"a Set": {func(_ *redistest.Server, mine, _ *aside.Client) {
			must(mine.Set(context.Background(), fresh, "k", "set"))
		}, "set"},
		"another's Set": {func(_ *redistest.Server, _, other *aside.Client) {
			must(other.Set(context.Background(), fresh, "k", "set"))
		}, "set"},
		"a Del":         {func(_ *redistest.Server, mine, _ *aside.Client) { must(mine.Del(context.Background(), "k")) }, nil},
		"another's Del": {func(_ *redistest.Server, _, other *aside.Client) { must(other.Del(context.Background(), "k")) }, nil},
		"another's Expire": {func(_ *redistest.Server, _, other *aside.Client) {
			must(other.Expire(context.Background(), grace, "k"))
		}, "old"},
		"a foreign SET":     {func(server *redistest.Server, _, _ *aside.Client) { server.Do("SET", "k", "foreign") }, "foreign"},
		"a foreign PERSIST": {func(server *redistest.Server, _, _ *aside.Client) { server.Do("PERSIST", "k") }, "old"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			mine, other, ctx := newClient(t, server.Addr()), newClient(t, server.Addr()), testContext(t)
			require.NoError(t, mine.Set(ctx, 2*fresh, "k", "old"))
			db := newSource("new")
			letGo := db.HoldUp()
			refreshing := inBackground(func() (string, error) { return mine.Refresh(ctx, fresh, "k", db.Load) })
			db.AwaitBegin(t)
			row.write(server, mine, other)
			letGo()
			require.Equal(t, result{Value: "new"}, await(t, refreshing), "it is returned")
			require.Equal(t, row.holds, server.Do("GET", "k"), "and not stored")
			require.EqualValues(t, 1, mine.Stats().FillsRefused)
		})
	}
}

// Of all that refresh a key one loads at a time, each after it was called, and not beside a load.
func TestRefreshesOfAKeyRunOneAfterAnother(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	a, b, ctx := newClient(t, server.Addr()), newClient(t, server.Addr()), testContext(t)
	db := newSource("before")
	letGo := db.HoldUp()
	cold := inBackground(func() (string, error) { return b.Get(ctx, fresh, "k", db.Load) })
	db.AwaitBegin(t)
	var running crowd
	var callers sync.WaitGroup
	began := make(chan struct{}, 8)
	for i := range 8 {
		c, want := []*aside.Client{a, b}[i%2], fmt.Sprint("v", i)
		callers.Go(func() {
			began <- struct{}{}
			value, err := c.Refresh(ctx, fresh, "k", func(context.Context, string) (string, error) {
				defer running.enter()()
				return want, nil
			})
			require.NoError(t, err)
			require.Equal(t, want, value, "its own loader was called")
		})
	}
	for range 8 {
		<-began
	}
	require.Zero(t, running.most.Load(), "they wait for the load")
	letGo()
	require.Equal(t, result{Value: "before"}, await(t, cold))
	callers.Wait()
	require.EqualValues(t, 1, running.most.Load())
	require.NotEqual(t, "before", server.Do("GET", "k"))
}

// An error leaves what is there; ErrNotFound replaces it. A caller that leaves gives the lock back.
func TestARefreshNowThatLoadsNothing(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	require.NoError(t, c.Set(ctx, fresh, "k", "old"))
	no := errors.New("no")
	for range 2 { // it heeds no back-off
		_, err := c.Refresh(ctx, fresh, "k", func(context.Context, string) (string, error) { return "", no })
		require.ErrorIs(t, err, no)
		require.Equal(t, "old", server.Do("GET", "k"))
	}
	value, err := c.Refresh(ctx, fresh, "k", newSource("new").Load)
	require.NoError(t, err)
	require.Equal(t, "new", value)

	leaving, leave := context.WithCancel(ctx)
	db := newSource("newer")
	letGo := db.HoldUp()
	defer letGo()
	refreshing := inBackground(func() (string, error) { return c.Refresh(leaving, fresh, "k", db.Load) })
	db.AwaitBegin(t)
	leave()
	require.ErrorIs(t, await(t, refreshing).Err, context.Canceled)
	eventually(t, "its lock is given back", func() bool { return server.Do("GET", stamp.RefreshLock("k")) == nil })
	require.Equal(t, "new", server.Do("GET", "k"))

	_, err = c.Refresh(ctx, fresh, "k", func(context.Context, string) (string, error) { return "", aside.ErrNotFound })
	require.ErrorIs(t, err, aside.ErrNotFound)
	require.Equal(t, "\x00aside:1n", server.Do("GET", "k"))
	_, err = c.Refresh(ctx, fresh, "k", func(context.Context, string) (string, error) { return "", aside.ErrNotFound }, aside.WithNegativeTTL(-1))
	require.ErrorIs(t, err, aside.ErrNotFound)
	require.Nil(t, server.Do("GET", "k"))

	// An error of another's load, which answers callers for a while, is not the answer.
	_, err = c.Get(ctx, fresh, "k", func(context.Context, string) (string, error) { return "", no }, aside.WithErrorTTL(time.Hour))
	require.ErrorIs(t, err, no)
	value, err = c.Refresh(ctx, fresh, "k", newSource("loaded").Load)
	require.NoError(t, err)
	require.Equal(t, "loaded", value)
}

func TestRefreshRefusesWhatItCannotDo(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	db := newSource("v")
	_, err := c.Refresh(ctx, 0, "k", db.Load)
	require.ErrorIs(t, err, aside.ErrInvalidArgument)
	_, err = c.Refresh(ctx, fresh, "k", nil)
	require.ErrorIs(t, err, aside.ErrInvalidArgument)
	_, err = c.Refresh(ctx, fresh, "k", db.Load, aside.WithoutLoad())
	require.ErrorContains(t, err, "WithoutLoad")
	_, err = aside.Typed[string](nil, codec.String()).Refresh(ctx, fresh, "k", db.Load)
	require.ErrorIs(t, err, aside.ErrInvalidArgument)
	server.Do("RPUSH", "list", "x")
	_, err = c.Refresh(ctx, fresh, "list", db.Load)
	require.ErrorContains(t, err, "refused by Redis")
	require.Zero(t, db.Calls.Load())
	server.Do("SET", "k", "v")
	for _, key := range []string{"k", "cold"} { // a loader that refreshes its own key would wait for itself
		_, err = c.Refresh(ctx, fresh, key, func(ctx context.Context, key string) (string, error) { return c.Refresh(ctx, fresh, key, db.Load) })
		require.ErrorIs(t, err, aside.ErrRecursiveLoad)
	}
	require.NoError(t, c.Close())
	_, err = c.Refresh(ctx, fresh, "k", db.Load)
	require.ErrorIs(t, err, aside.ErrClosed)
}

// While Redis is away the process refreshes for itself. What it has written and not replayed is newer.
func TestRefreshInAnOutage(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	_, option := durable(t)
	c, ctx := newClient(t, proxy.Addr(), hasty, option), testContext(t)
	server.Do("SET", "k", "old", "EX", 3600)
	_, err := c.Get(ctx, fresh, "k", mustNotLoad)
	require.NoError(t, err)
	proxy.Refuse()
	awaitMode(t, c, aside.Degraded)
	value, err := c.Refresh(ctx, fresh, "k", newSource("new").Load)
	require.NoError(t, err)
	require.Equal(t, "new", value)
	value, err = c.Get(ctx, fresh, "k", mustNotLoad)
	require.NoError(t, err)
	require.Equal(t, "new", value)
	require.NoError(t, c.Set(ctx, fresh, "set", "mine"))
	_, err = c.Refresh(ctx, fresh, "set", newSource("never").Load)
	require.ErrorIs(t, err, aside.ErrRedisAway)
	value, err = c.Get(ctx, fresh, "set", mustNotLoad)
	require.NoError(t, err)
	require.Equal(t, "mine", value)
}

// What cannot be encoded or read back is its caller's all the same.
func TestARefreshedValueThatCannotBeKept(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	server.Do("SET", "k", "1")
	fails := errors.New("no")
	view := aside.NewTypedClient(c, func(int) (string, error) { return "", fails }, func(string) (int, error) { return 0, nil })
	load := func(context.Context, string) (int, error) { return 7, nil }
	value, err := view.Refresh(ctx, fresh, "k", load)
	require.NoError(t, err)
	require.Equal(t, 7, value)
	view = aside.NewTypedClient(c, func(int) (string, error) { return "x", nil }, func(string) (int, error) { return 0, fails })
	value, err = view.Refresh(ctx, fresh, "k", load)
	require.NoError(t, err)
	require.Equal(t, 7, value)
	ints := aside.Typed(c, codec.JSON[int]())
	value, err = ints.Refresh(ctx, fresh, "k", load)
	require.NoError(t, err)
	require.Equal(t, 7, value)
	require.Equal(t, "7", server.Do("GET", "k"))
}
