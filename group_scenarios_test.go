package aside_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
	"github.com/redaside/aside/internal/wire"
)

// What the suites of other libraries ask of tags and of grace, where our own tests did not.

// A value has the tags with which it was stored last, and no others.
func TestAValueHasTheTagsOfItsLastStore(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	for name, change := range map[string]func(*aside.Options){"with memory": func(*aside.Options) {}, "untracked": untracked} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b, ctx := newClient(t, server.Addr(), change), newClient(t, server.Addr(), change), testContext(t)
			old, now := name+" old", name+" now"
			for how, again := range map[string]func(key string) error{
				"another tag":     func(key string) error { return tagged(a, now).Set(ctx, time.Hour, key, "v") },
				"without tags":    func(key string) error { return a.Set(ctx, time.Hour, key, "v") },
				"SetMulti":        func(key string) error { return tagged(a, now).SetMulti(ctx, time.Hour, map[string]string{key: "v"}) },
				"Del, then a Set": func(key string) error { return errors.Join(a.Del(ctx, key), a.Set(ctx, time.Hour, key, "v")) },
				"Refresh": func(key string) error {
					_, err := tagged(a, now).Refresh(ctx, time.Hour, key, newSource("v").Load)
					return err
				},
				"a loader's say": func(key string) error {
					_, err := a.Refresh(ctx, time.Hour, key, func(ctx context.Context, _ string) (string, error) {
						aside.LoadFrom(ctx).SetTags(now)
						return "v", nil
					})
					return err
				},
			} {
				key := name + how
				require.NoError(t, tagged(a, now).Set(ctx, time.Hour, key+" uses the tag", "v"), how)
				if how == "a loader's say" { // where nothing is remembered, the state counts as seen before the load only if it is older
					apart(t)
				}
				require.NoError(t, tagged(a, old).Set(ctx, time.Hour, key, "v"), how)
				require.NoError(t, again(key), how)
				stored(t, a, key)
				require.NoError(t, a.DelTags(ctx, old), how)
				for _, c := range []*aside.Client{a, b} {
					v, err := c.Get(ctx, time.Hour, key, mustNotLoad)
					require.NoError(t, err, how)
					require.Equal(t, "v", v, how)
				}
				require.NoError(t, b.DelTags(ctx, now), how)
				_, ok, err := b.Peek(ctx, key)
				require.NoError(t, err, how)
				require.Equal(t, how == "without tags" || how == "Del, then a Set", ok, how)
			}
		})
	}
}

// What was removed is no stale value for a loader that fails; what was expired is one.
func TestAFailingLoaderIsNotServedWhatWasRemoved(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	down := errors.New("the source is down")
	for name, row := range map[string]struct {
		remove func(c *aside.Client, view *aside.TypedClient[string], ctx context.Context) error
		stale  bool
	}{
		"Del":   {func(_ *aside.Client, v *aside.TypedClient[string], ctx context.Context) error { return v.Del(ctx, "k") }, false},
		"Clear": {func(_ *aside.Client, v *aside.TypedClient[string], ctx context.Context) error { return v.Clear(ctx) }, false},
		"DelTags": {func(c *aside.Client, _ *aside.TypedClient[string], ctx context.Context) error {
			return c.DelTags(ctx, "DelTags")
		}, false},
		"Expire": {func(_ *aside.Client, v *aside.TypedClient[string], ctx context.Context) error {
			return v.Expire(ctx, "k")
		}, true},
		"ExpireTags": {func(c *aside.Client, _ *aside.TypedClient[string], ctx context.Context) error {
			return c.ExpireTags(ctx, "ExpireTags")
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			of := func(c *aside.Client) *aside.TypedClient[string] {
				return aside.Typed(c, codec.String(), aside.WithPrefix(name+":"), aside.Clearable(), aside.WithTags(name), aside.WithGrace(grace), aside.WithErrorTTL(-1))
			}
			a, b := newClient(t, server.Addr()), newClient(t, server.Addr())
			db := newSource("v")
			for _, c := range []*aside.Client{a, b} {
				_, err := of(c).Get(ctx, fresh, "k", db.Load)
				require.NoError(t, err)
				stored(t, c, name+":k")
			}
			require.NoError(t, row.remove(a, of(a), ctx))
			db.Fail(down)
			fails := func(c *aside.Client) bool {
				got, err := of(c).Fetch(ctx, fresh, "k", db.Load)
				if err != nil {
					require.ErrorIs(t, err, down)
					return true
				}
				require.Equal(t, "v", got.Value)
				return false
			}
			if !row.stale {
				require.True(t, fails(a), "this process serves nothing that it has removed")
				eventually(t, "the other has heard of it", func() bool { return fails(b) })
				require.True(t, fails(b))
				cold := newClient(t, server.Addr())
				require.True(t, fails(cold), "a process that starts now neither")
				return
			}
			for range 3 {
				require.False(t, fails(a))
				require.False(t, fails(b))
			}
			for _, c := range []*aside.Client{a, b} {
				_, err := of(c).Get(ctx, fresh, "k", db.Load, aside.WithMaxStale(0))
				require.ErrorIs(t, err, down)
				_, err = of(c).Get(ctx, fresh, "k", mustNotLoad, aside.WithMaxStale(0), aside.WithoutLoad())
				require.ErrorIs(t, err, aside.ErrNotCached)
				_, err = of(c).Get(ctx, fresh, "k", mustNotLoad, aside.WithoutLoad())
				require.NoError(t, err)
			}
		})
	}
}

// A background refresh gives a value the tags of the call that has begun it, and those that its loader
// names now: tags that it had before are gone.
func TestARefreshKeepsTheTagsOfItsCall(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	for name, opts := range map[string][]aside.ViewOption{
		"stale": {aside.WithGrace(grace)},
		"ahead": {aside.WithRefreshAhead(0.9)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b, ctx := newClient(t, server.Addr()), newClient(t, server.Addr()), testContext(t)
			tag := func(of string) string { return name + " " + of }
			require.NoError(t, tagged(a, tag("call"), tag("first"), tag("second")).Set(ctx, time.Hour, name+" uses the tags", "v"))
			var db numbered
			says := tag("first")
			get := func(c *aside.Client) string {
				t.Helper()
				v, err := aside.Typed(c, codec.String(), append(opts, aside.WithTags(tag("call")))...).Get(ctx, fresh, name, func(ctx context.Context, key string) (string, error) {
					aside.LoadFrom(ctx).SetTags(says)
					return db.load(ctx, key)
				})
				require.NoError(t, err)
				return v
			}
			refreshed := func(from string) string {
				t.Helper()
				stored(t, a, name)
				value, header, _ := wire.Unpack(server.Do("GET", name).(string))
				header.Took = 0                                                       // where that is known, a quick load is refreshed at its very end
				server.Do("SET", name, wire.PackHeader(*header, value), "PX", 30_000) // in its grace, and near its end
				eventually(t, "it is refreshed", func() bool { return get(a) != from })
				awaitNobody(t, a)
				v := get(a)
				server.Do("PEXPIRE", name, time.Hour.Milliseconds())
				return v
			}
			require.Equal(t, "1", get(a))
			says = tag("second")
			v := refreshed("1")
			require.NoError(t, b.DelTags(ctx, tag("first")))
			eventually(t, "both have it still", func() bool { return get(b) == v && get(a) == v })
			require.NoError(t, b.DelTags(ctx, tag("second")))
			next := get(b)
			require.NotEqual(t, v, next)
			stored(t, b, name)
			v = refreshed(next)
			require.NoError(t, b.DelTags(ctx, tag("call")))
			require.NotEqual(t, v, get(b))
		})
	}
}

// Three processes with values that share tags; each clears, and what is left is what has none of them.
func TestTagsOfThreeProcesses(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	ctx := testContext(t)
	var all []*aside.Client
	for range 3 {
		all = append(all, newClient(t, server.Addr()))
	}
	tags := map[string][]string{"xy": {"x", "y"}, "yz": {"y", "z"}, "xz": {"x", "z"}, "none": nil}
	for i, key := range []string{"xy", "yz", "xz", "none"} {
		require.NoError(t, tagged(all[i%3], tags[key]...).Set(ctx, time.Hour, key, key))
	}
	has := func(c *aside.Client) (keys string) {
		found, err := c.LookMulti(ctx, []string{"xy", "yz", "xz", "none"})
		require.NoError(t, err)
		for _, key := range []string{"xy", "yz", "xz", "none"} {
			if f, ok := found[key]; ok {
				require.Equal(t, key, f.Value)
				keys += key + " "
			}
		}
		return keys
	}
	everybody := func(want string) {
		t.Helper()
		for _, c := range all {
			eventually(t, fmt.Sprint("all have ", want), func() bool { return has(c) == want })
		}
	}
	everybody("xy yz xz none ")
	require.NoError(t, all[0].DelTags(ctx))
	require.NoError(t, all[1].DelTags(ctx, "never used"))
	everybody("xy yz xz none ")
	require.NoError(t, all[0].DelTags(ctx, "x", "never used"))
	require.Equal(t, "yz none ", has(all[0]))
	everybody("yz none ")
	require.NoError(t, tagged(all[0], "x").Set(ctx, time.Hour, "xz", "xz"))
	everybody("yz xz none ")
	require.NoError(t, all[2].DelTags(ctx, "y", "z"))
	everybody("xz none ")
}

// The refresh of a caller that has not waited for it any longer is stored as its loader says.
func TestALoaderIsHeededAfterASoftTimeout(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	db := newSource("old")
	view := aside.Typed(c, codec.String(), aside.WithGrace(grace), aside.WithSoftTimeout(time.Millisecond))
	load := func(ctx context.Context, key string) (string, error) {
		v, err := db.Load(ctx, key)
		aside.LoadFrom(ctx).SetTTL(2 * fresh)
		aside.LoadFrom(ctx).SetTags("slow")
		return v, err
	}
	require.NoError(t, tagged(c, "slow").Set(ctx, time.Hour, "uses the tag", "v"))
	// Redis 6.0 tells of the tag's key when it is made, as if it had changed, so the first load may not
	// know its state. What it stores is not served then, and the next load knows it.
	loads := 0
	eventually(t, "k is kept", func() bool {
		_, err := view.Get(ctx, fresh, "k", load)
		require.NoError(t, err)
		stored(t, c, "k")
		loads++
		_, err = c.Look(ctx, "k")
		return err == nil
	})
	if !oldRedis(server) {
		require.Equal(t, 1, loads)
	}
	server.Do("PEXPIRE", "k", grace.Milliseconds()/2)
	eventually(t, "memory has heard of it", func() bool {
		found, err := c.Look(ctx, "k")
		return err == nil && found.TTL <= grace
	})
	db.Set("new")
	letGo := db.HoldUp()
	got, err := view.Fetch(ctx, fresh, "k", load)
	require.NoError(t, err)
	require.Equal(t, "old", got.Value)
	require.True(t, got.Stale)
	letGo()
	eventually(t, "it is refreshed", func() bool {
		got, err = view.Fetch(ctx, fresh, "k", load)
		return err == nil && got.Value == "new"
	})
	require.False(t, got.Stale)
	require.InDelta(t, (2*fresh + grace).Milliseconds(), server.Do("PTTL", "k"), 20_000)
	require.NoError(t, c.DelTags(ctx, "slow"))
	_, ok, err := view.Peek(ctx, "k")
	require.NoError(t, err)
	require.False(t, ok)
}

// What ExpireTags has made stale in an outage is stale for others, too, once that is replayed: also where
// its process has ended before.
func TestExpireTagsInAnOutageIsReplayed(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	dir, option := durable(t)
	a, b, ctx := newClient(t, proxy.Addr(), option), newClient(t, server.Addr()), testContext(t)
	var db numbered
	get := func(c *aside.Client) string {
		t.Helper()
		view := aside.Typed(c, codec.String(), aside.WithTags("x"), aside.WithGrace(grace))
		v, err := view.Get(ctx, fresh, "k", db.load, aside.WithMaxStale(0))
		require.NoError(t, err)
		return v
	}
	require.Equal(t, "1", get(a))
	stored(t, a, "k")
	require.Equal(t, "1", get(b))
	proxy.Refuse()
	awaitMode(t, a, aside.Degraded)
	require.NoError(t, a.ExpireTags(ctx, "x"))
	require.NotEqual(t, "1", get(a))
	require.Equal(t, "1", get(b), "nobody has told the other")
	closeClient(t, a, dir)

	next := newDurable(t, server.Addr(), dir)
	eventually(t, "it is replayed", func() bool { return next.Stats().Pending == 0 && next.Health().Mode == aside.Healthy })
	eventually(t, "the other has heard of it", func() bool { return get(b) != "1" })
	require.NotEqual(t, "1", get(next))
}
