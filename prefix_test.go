package aside_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
	"github.com/redaside/aside/internal/wire"
)

func users(c *aside.Client, opts ...aside.ViewOption) *aside.TypedClient[string] {
	return aside.Typed(c, codec.String(), append([]aside.ViewOption{aside.WithPrefix("user:")}, opts...)...)
}

// Callers and loaders of a view with a prefix see keys without it; Redis has them with it.
func TestAPrefixStandsInRedisOnly(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	view := users(c, aside.WithGrace(grace))
	echo := func(_ context.Context, key string) (string, error) { return "of " + key, nil }
	echoes := func(ctx context.Context, keys []string) (map[string]string, error) {
		found := make(map[string]string)
		for _, key := range keys {
			aside.LoadFrom(ctx).For(key).SetTags("t")
			found[key], _ = echo(ctx, key)
		}
		return found, nil
	}
	for range 2 {
		v, err := view.Get(ctx, fresh, "a", echo)
		require.NoError(t, err)
		require.Equal(t, "of a", v)
		r, err := view.Fetch(ctx, fresh, "a", echo)
		require.NoError(t, err)
		require.Equal(t, "of a", r.Value)
		many, err := view.GetMulti(ctx, fresh, []string{"a", "b", "b"}, echoes)
		require.NoError(t, err)
		require.Equal(t, map[string]string{"a": "of a", "b": "of b"}, many)
		results, err := view.FetchMulti(ctx, fresh, []string{"a", "b"}, echoes)
		require.NoError(t, err)
		require.Len(t, results, 2)
		require.Equal(t, "of b", results["b"].Value)
		stored(t, c, "user:a", "user:b")
	}
	require.Equal(t, "of a", server.Do("GET", "user:a"), "a prefix alone leaves values raw")
	require.Contains(t, server.Do("GET", "user:b"), wire.HeaderPrefix, "For takes the loader's key")
	v, ok, err := view.Peek(ctx, "b")
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, "of b", v)

	require.NoError(t, view.Set(ctx, fresh, "c", "set"))
	require.NoError(t, view.SetMulti(ctx, fresh, map[string]string{"d": "set", "e": "set"}))
	for _, key := range []string{"c", "d", "e"} {
		require.Equal(t, "set", server.Do("GET", "user:"+key))
	}
	require.NoError(t, view.Touch(ctx, 10*fresh, "c"))
	require.Greater(t, server.Do("PTTL", "user:c"), (5 * fresh).Milliseconds())
	require.NoError(t, view.Expire(ctx, "c"))
	require.LessOrEqual(t, server.Do("PTTL", "user:c"), grace.Milliseconds())
	v, err = view.Refresh(ctx, fresh, "d", echo)
	require.NoError(t, err)
	require.Equal(t, "of d", v)
	require.NoError(t, view.Del(ctx, "d", "e"))
	require.Nil(t, server.Do("GET", "user:d"))
	v, err = c.Get(ctx, fresh, "user:a", mustNotLoad)
	require.NoError(t, err)
	require.Equal(t, "of a", v, "the Client takes keys as they are in Redis")

	failing := errors.New("no")
	_, err = view.GetMulti(ctx, fresh, []string{"x", "y"}, func(context.Context, []string) (map[string]string, error) { return nil, failing })
	batch, ok := errors.AsType[*aside.BatchError](err)
	require.True(t, ok)
	require.ErrorIs(t, batch.Failed["x"], failing)
	require.ErrorContains(t, err, `"user:x": no`, "an error names the key as it is in Redis")
	_, err = view.Get(ctx, fresh, strings.Repeat("x", 1<<20), echo)
	require.ErrorContains(t, err, `"user:xxx`)
	_, err = view.GetMulti(ctx, fresh, []string{"z"}, func(context.Context, []string) (map[string]string, error) {
		return map[string]string{"user:z": "v"}, nil
	})
	require.ErrorContains(t, err, `returned "user:z" and not "z"`)

	keyed := aside.NewKeyed(users(c), func(id int) string { return fmt.Sprint(id) })
	for range 2 {
		v, err = keyed.Get(ctx, fresh, 7, func(context.Context, int) (string, error) { return "seven", nil })
		require.NoError(t, err)
		require.Equal(t, "seven", v)
		stored(t, c, "user:7")
	}
	require.Equal(t, "seven", server.Do("GET", "user:7"))
}

// Clear removes all values of a view in every process with one command, and nothing else.
func TestClearRemovesAViewsValues(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*aside.Options){"with memory": func(*aside.Options) {}, "untracked": untracked} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			proxy := counted(t, server)
			a, b, ctx := newClient(t, proxy.Addr(), change), newClient(t, server.Addr(), change), testContext(t)
			var db numbered
			of := func(c *aside.Client) *aside.TypedClient[string] { return users(c, aside.Clearable()) }
			get := func(c *aside.Client, key string) string {
				t.Helper()
				v, err := of(c).Get(ctx, time.Hour, key, db.load)
				require.NoError(t, err)
				stored(t, c, "user:"+key)
				return v
			}
			other, err := a.Get(ctx, time.Hour, "users", db.load)
			require.NoError(t, err)
			require.Equal(t, "1", other)
			require.Equal(t, "2", get(a, "k"))
			require.NoError(t, of(a).Set(ctx, time.Hour, "l", "set"))
			require.NoError(t, of(a).SetMulti(ctx, time.Hour, map[string]string{"m": "set"}))
			for range 2 {
				require.Equal(t, "2", get(a, "k"))
				require.Equal(t, "2", get(b, "k"))
				require.Equal(t, "set", get(b, "l"))
				require.Equal(t, "set", get(b, "m"))
			}
			sent := proxy.Commands()
			require.NoError(t, of(a).Clear(ctx))
			require.LessOrEqual(t, proxy.Commands()-sent, 2, "a script, and what keeps its reads untracked")
			require.Equal(t, "3", get(a, "k"))
			require.Equal(t, "4", get(a, "l"))
			eventually(t, "the other has heard of it", func() bool { return get(b, "k") == "3" && get(b, "l") == "4" })
			require.Equal(t, "1", server.Do("GET", "users"))
			_, ok, err := of(a).Peek(ctx, "m")
			require.NoError(t, err)
			require.False(t, ok)

			// A value without a header is older than any clearing, whoever has written it.
			require.NoError(t, users(a).Set(ctx, time.Hour, "raw", "raw"))
			v, err := users(a).Get(ctx, time.Hour, "raw", mustNotLoad)
			require.NoError(t, err)
			require.Equal(t, "raw", v)
			_, ok, err = of(a).Peek(ctx, "raw")
			require.NoError(t, err)
			require.False(t, ok)
			require.Equal(t, "5", get(a, "raw"))
			require.Equal(t, "5", get(b, "raw"))
			v, err = users(b).Get(ctx, time.Hour, "raw", mustNotLoad)
			require.NoError(t, err)
			require.Equal(t, "5", v, "a view that is not Clearable reads it")
			require.NoError(t, users(a).Set(ctx, time.Hour, "raw", "raw"))
			many, err := of(a).GetMulti(ctx, time.Hour, []string{"k", "raw"}, func(_ context.Context, keys []string) (map[string]string, error) {
				require.Equal(t, []string{"raw"}, keys)
				return map[string]string{"raw": "6"}, nil
			})
			require.NoError(t, err)
			require.Equal(t, map[string]string{"k": "3", "raw": "6"}, many)
		})
	}
}

// What was loaded before Clear is not served after it, also while Redis is away, and a replay of the
// clearing undoes nothing that others have loaded since.
func TestClearInAnOutage(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	_, option := durable(t)
	a, b, ctx := newClient(t, proxy.Addr(), hasty, option), newClient(t, server.Addr()), testContext(t)
	var db numbered
	get := func(c *aside.Client, key string) string {
		t.Helper()
		v, err := users(c, aside.Clearable()).Get(ctx, time.Hour, key, db.load)
		require.NoError(t, err)
		return v
	}
	require.Equal(t, "1", get(a, "k"))
	stored(t, a, "user:k")
	require.Equal(t, "1", get(b, "k"))
	proxy.Refuse()
	awaitMode(t, a, aside.Degraded)
	require.Equal(t, "1", get(a, "k"))
	require.NoError(t, users(a, aside.Clearable()).Clear(ctx))
	require.Equal(t, "2", get(a, "k"))
	require.Equal(t, "2", get(a, "k"))
	require.NoError(t, users(a, aside.Clearable()).Set(ctx, time.Hour, "set", "set"))
	require.Equal(t, "set", get(a, "set"))
	require.NoError(t, users(b, aside.Clearable()).Clear(ctx), "the other clears it, too")
	require.Equal(t, "3", get(b, "k"))
	proxy.Heal()
	awaitMode(t, a, aside.Healthy)
	eventually(t, "they agree", func() bool { v := get(a, "k"); return v == get(b, "k") && v != "1" && v != "2" })
}

// The errors of clearing name the prefix or the tag, as the caller has it, and not the key of its group.
func TestTheErrorOfAClearNamesThePrefix(t *testing.T) {
	t.Parallel()
	c, err := aside.New(aside.Options{Redis: plain("127.0.0.1:1"), ConnectTimeout: time.Millisecond, Logger: quiet})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() }) // which says that what was kept is lost
	ctx := testContext(t)
	for want, err := range map[string]error{
		`aside: cannot clear the prefix "user:": `: users(c, aside.Clearable()).Clear(ctx),
		`aside: cannot clear the tag "a": `:        c.DelTags(ctx, "a"),
		`aside: cannot clear the tag "}:tag": `:    c.ExpireTags(ctx, "}:tag"),
	} {
		require.ErrorIs(t, err, aside.ErrNotDurable)
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), "aside:group")
	}
	require.ErrorContains(t, c.DelTags(ctx, "a", "b"), ` and 1 more: `)
}

func TestClearNeedsAClearableView(t *testing.T) {
	t.Parallel()
	c, ctx := newClient(t, redistest.Start(t).Addr()), testContext(t)
	require.ErrorIs(t, users(c).Clear(ctx), aside.ErrInvalidArgument)
	require.ErrorContains(t, users(c).Clear(ctx), "WithPrefix and Clearable")
	all := aside.Typed(c, codec.String(), aside.Clearable())
	require.ErrorContains(t, all.Clear(ctx), "add WithPrefix")
	_, err := all.Get(ctx, time.Minute, "k", mustNotLoad)
	require.ErrorContains(t, err, "add WithPrefix")
	require.ErrorIs(t, aside.Typed(nil, codec.String(), aside.Clearable()).Clear(ctx), aside.ErrInvalidArgument)
}

// A hit costs no allocation, with a prefix and with tags.
func TestAHitInAGroupAllocatesNothing(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	load := func(context.Context, string) (string, error) { return "v", nil }
	for name, opts := range map[string][]aside.ViewOption{
		"prefix": nil, "clearable": {aside.Clearable()}, "with a grace": {aside.Clearable(), aside.WithGrace(grace)},
		"tags": {aside.Clearable(), aside.WithTags("x", "y", "z")},
	} {
		view := users(c, opts...)
		get := func() {
			if v, err := view.Get(ctx, time.Hour, name, load); v != "v" || err != nil {
				t.Fatal(v, err)
			}
		}
		get()
		stored(t, c, "user:"+name)
		hits := c.Stats().MemoryHits
		require.Zero(t, allocations(100, get), name)
		require.GreaterOrEqual(t, c.Stats().MemoryHits-hits, int64(100), name)
	}
}

// An Observer is told of a hit under the key as Redis has it, whichever way the value is handed out.
func TestAHitWithAPrefixIsToldWithIt(t *testing.T) {
	server := redistest.Start(t)
	var mu sync.Mutex
	var told []string
	c, ctx := newClient(t, server.Addr(), func(o *aside.Options) {
		o.HitEvents = true
		o.Observer = aside.ObserverFunc(func(_ context.Context, e aside.Event) {
			mu.Lock()
			defer mu.Unlock()
			if e.Kind == aside.EventHit && e.Source == aside.SourceMemory {
				told = append(told, e.Key)
			}
		})
	}), testContext(t)
	prefix := aside.WithPrefix("user:")
	flat, list := aside.Typed(c, codec.JSON[int](), prefix), aside.Typed(c, codec.JSON[[]int](), prefix)
	keyed := aside.NewKeyed(flat, func(key string) string { return key })
	server.Do("SET", "user:flat", "1")
	server.Do("SET", "user:list", "[1]")
	none := func(context.Context, string) (int, error) { return 0, aside.ErrNotFound }
	for range 3 {
		_, err := flat.Get(ctx, time.Minute, "flat", none)
		require.NoError(t, err)
		_, err = list.Get(ctx, time.Minute, "list", func(context.Context, string) ([]int, error) { return nil, aside.ErrNotFound })
		require.NoError(t, err)
		_, err = flat.Get(ctx, time.Minute, "none", none)
		require.ErrorIs(t, err, aside.ErrNotFound)
	}
	_, err := keyed.Get(ctx, time.Minute, "flat", none)
	require.NoError(t, err)
	mu.Lock()
	defer mu.Unlock()
	for _, key := range told {
		require.Contains(t, []string{"user:flat", "user:list", "user:none"}, key)
	}
	require.GreaterOrEqual(t, len(told), 5)
}

// A call that loads nothing has no value of a Clearable view that Clear cannot reach: it is older than
// any clearing.
func TestACallWithoutLoadHeedsClear(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	view := users(c, aside.Clearable())
	server.Do("SET", "user:k", "old", "PX", 3_600_000)
	require.NoError(t, view.Clear(ctx))
	none := func(context.Context, []string) (map[string]string, error) { return mustNotLoadMany() }
	for _, where := range []string{"from Redis", "from memory"} {
		_, err := view.Get(ctx, time.Hour, "k", mustNotLoad, aside.WithoutLoad())
		require.ErrorIs(t, err, aside.ErrNotCached, where)
		many, err := view.GetMulti(ctx, time.Hour, []string{"k"}, none, aside.WithoutLoad())
		require.NoError(t, err, where)
		require.Empty(t, many, where)
	}
}
