package aside_test

import (
	"context"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
	"github.com/redaside/aside/internal/wire"
)

// What is set by a call or a view with WithMaxAge says when that was, so that it is not too old for
// them; a plain Set stays raw.
func TestWhatIsSetWithMaxAgeSaysWhen(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	a, b, ctx := newClient(t, server.Addr()), newClient(t, server.Addr()), testContext(t)
	aged := func(c *aside.Client) *aside.TypedClient[string] {
		return aside.Typed(c, codec.String(), aside.WithMaxAge(time.Hour), aside.WithGrace(grace))
	}
	for name, row := range map[string]struct {
		set        func(key string) error
		ttl, grace time.Duration
	}{
		"a view's Set":      {func(key string) error { return aged(a).Set(ctx, fresh, key, "v") }, fresh, grace},
		"a view's SetMulti": {func(key string) error { return aged(a).SetMulti(ctx, fresh, map[string]string{key: "v"}) }, fresh, grace},
		"a view's Set with an option": {func(key string) error {
			return aside.Typed(a, codec.String(), aside.WithGrace(grace)).Set(ctx, fresh, key, "v", aside.WithMaxAge(time.Minute))
		}, fresh, grace},
		"Set": {func(key string) error { return a.Set(ctx, fresh, key, "v", aside.WithMaxAge(time.Hour)) }, fresh, 0},
		"SetMulti": {func(key string) error {
			return a.SetMulti(ctx, fresh, map[string]string{key: "v"}, aside.WithMaxAge(time.Hour))
		}, fresh, 0},
		"a version": {func(key string) error {
			return aside.Typed(a, codec.String(), aside.WithVersion(1)).Set(ctx, fresh, key, "v")
		}, 0, 0},
	} {
		before := time.Now().Add(-time.Second)
		require.NoError(t, row.set(name))
		value, h, _ := wire.Unpack(server.Do("GET", name).(string))
		require.Equal(t, "v", value)
		require.NotNil(t, h, name)
		require.Equal(t, row.ttl, h.TTL, name)
		require.Equal(t, row.grace, h.Grace, name)
		require.WithinRange(t, time.UnixMicro(h.Began), before, time.Now().Add(time.Second), name)
		for _, c := range []*aside.Client{a, b} {
			value, err := aged(c).Get(ctx, fresh, name, mustNotLoad)
			require.NoError(t, err, name)
			require.Equal(t, "v", value)
		}
	}
	for name, set := range map[string]func(key string) error{
		"plain": func(key string) error { return a.Set(ctx, fresh, key, "v") },
		"plain, with any": func(key string) error {
			return a.Set(ctx, fresh, key, "v", aside.WithMaxAge(0), aside.WithGrace(grace))
		},
		"plain SetMulti": func(key string) error { return a.SetMulti(ctx, fresh, map[string]string{key: "v"}) },
		"a plain view": func(key string) error {
			return aside.Typed(a, codec.String(), aside.WithGrace(grace)).Set(ctx, fresh, key, "v")
		},
	} {
		require.NoError(t, set(name))
		require.Equal(t, "v", server.Do("GET", name), name)
		db := newSource("loaded")
		value, err := aged(b).Get(ctx, fresh, name, db.Load)
		require.NoError(t, err)
		require.Equal(t, "loaded", value, "nobody knows how old it is")
	}
	require.NoError(t, aside.Typed(a, codec.String(), aside.WithMaxAge(time.Hour)).Set(ctx, 2*aside.LongestTTL, "for ever", "v"))
	value, err := aged(b).Get(ctx, fresh, "for ever", mustNotLoad)
	require.NoError(t, err)
	require.Equal(t, "v", value)
}

// What is set grows old like what is loaded.
func TestWhatIsSetGrowsOld(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr(), func(o *aside.Options) { o.ReadBack = true }), testContext(t)
	view := aside.Typed(c, codec.String(), aside.WithMaxAge(time.Hour))
	require.NoError(t, view.Set(ctx, fresh, "k", "v"))
	require.NoError(t, c.Set(ctx, fresh, "raw", "v"))
	began := time.Now()
	eventually(t, "it is older", func() bool { return time.Since(began) > 20*time.Millisecond })
	for _, key := range []string{"k", "raw"} {
		db := newSource("loaded")
		value, err := view.Get(ctx, fresh, key, db.Load, aside.WithMaxAge(10*time.Millisecond))
		require.NoError(t, err)
		require.Equal(t, "loaded", value)
	}
}

// A process knows the age of what it has set and has in memory, also where Redis has it raw: read back,
// or kept in an outage.
func TestAProcessKnowsTheAgeOfWhatItHasSet(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	_, option := durable(t)
	c, ctx := newClient(t, proxy.Addr(), option, func(o *aside.Options) { o.ReadBack, o.RedisTimeout = true, 2*time.Second }), testContext(t)
	get := func(key string) (string, error) {
		return c.Get(ctx, fresh, key, mustNotLoad, aside.WithMaxAge(time.Minute))
	}
	require.NoError(t, c.Set(ctx, fresh, "one", "v"))
	require.NoError(t, c.SetMulti(ctx, fresh, map[string]string{"a": "v", "b": "v"}))
	for _, key := range []string{"one", "a", "b"} {
		value, err := get(key)
		require.NoError(t, err)
		require.Equal(t, "v", value)
		require.Equal(t, "v", server.Do("GET", key), "raw")
	}
	require.NoError(t, c.Update(ctx, []string{"one"}, func(ctx context.Context, r rueidis.Client) error {
		return r.Do(ctx, r.B().Expire().Key("one").Seconds(600).Build()).Error()
	}))
	_, err := get("one")
	require.Error(t, err, "nobody knows what another command has left")
	proxy.Refuse()
	awaitMode(t, c, aside.Degraded)
	require.NoError(t, c.Set(ctx, fresh, "away", "v"))
	value, err := get("away")
	require.NoError(t, err)
	require.Equal(t, "v", value)
}
