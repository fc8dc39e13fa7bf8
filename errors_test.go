package aside_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

// An error is one sentence with one prefix, however many layers it has come through, and still is
// what it is.
func TestErrorsAreOneSentenceWithOnePrefix(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	ctx := testContext(t)
	check := func(what string, err error, is ...error) {
		t.Helper()
		require.Error(t, err, what)
		require.True(t, strings.HasPrefix(err.Error(), "aside: "), "%s: %v", what, err)
		require.Equal(t, 1, strings.Count(err.Error(), "aside: "), "%s: %v", what, err)
		require.NotContains(t, err.Error(), "\n", what)
		for _, target := range is {
			require.ErrorIs(t, err, target, what)
		}
	}
	redisSays := func(ctx context.Context, redis rueidis.Client) error {
		return redis.Do(ctx, redis.B().Incr().Key("n").Build()).Error()
	}

	// Away, in memory only, and in a directory that is full.
	for name, option := range map[string]func(*aside.Options){
		"in memory": func(*aside.Options) {},
		"full":      func(o *aside.Options) { o.FallbackDir, o.Fallback = t.TempDir(), fallback.Options{MaxBytes: 1 << 20} },
	} {
		proxy := faultproxy.New(t, server.Addr())
		c := newClient(t, proxy.Addr(), hasty, option)
		proxy.Refuse()
		awaitMode(t, c, aside.Degraded)
		require.LessOrEqual(t, strings.Count(c.Health().Err.Error(), "aside: "), 1, "a reason, not a call's error")
		want := aside.ErrNotDurable
		value := "v"
		if name == "full" {
			want, value = aside.ErrFull, strings.Repeat("x", 2<<20)
		}
		check(name+": Set", c.Set(ctx, time.Minute, "k", value), want, aside.ErrRedisAway)
		if name == "in memory" {
			check(name+": Del", c.Del(ctx, "a", "b", "c"), want, aside.ErrRedisAway)
		}
		check(name+": Touch", c.Touch(ctx, time.Minute, "a", "b"), aside.ErrRedisAway)
		check(name+": Update", c.Update(ctx, []string{"n"}, redisSays), aside.ErrRedisAway)
		_, _, err := c.Peek(ctx, "unknown")
		check(name+": Peek", err, aside.ErrRedisAway)
		_, err = c.LookMulti(ctx, []string{"unknown", "nor this"})
		check(name+": LookMulti", err, aside.ErrRedisAway)
		_, err = c.Get(ctx, time.Minute, "failing", func(context.Context, string) (string, error) {
			_, _, err := c.Peek(ctx, "unknown")
			return "", fmt.Errorf("aside: nested: %s", strings.TrimPrefix(err.Error(), "aside: "))
		})
		check(name+": Get", err)
		proxy.Heal()
		eventually(t, "what waits is replayed", func() bool { return c.Stats().Pending == 0 })
	}

	// Well, with what it refuses.
	c := newClient(t, server.Addr(), func(o *aside.Options) { o.MaxValueBytes = 10 })
	server.Do("LPUSH", "list", "v")
	_, _, err := c.Peek(ctx, "list")
	check("Peek of a list", err)
	_, err = c.LookMulti(ctx, []string{"list"})
	if err != nil { // one that is no string is left out by some servers' scripts
		check("LookMulti of a list", err)
	}
	check("too large", c.Set(ctx, time.Minute, "k", "more than ten bytes"), aside.ErrTooLarge)
	check("no ttl", c.Set(ctx, 0, "k", "v"), aside.ErrInvalidArgument)
	_, err = c.Get(ctx, time.Minute, "k", nil)
	check("no loader", err, aside.ErrInvalidArgument)
	_, err = c.Get(ctx, time.Minute, "panics", func(context.Context, string) (string, error) {
		panic(fmt.Errorf("%w: in the loader", aside.ErrOverloaded))
	})
	check("a panic with an error of ours", err, aside.ErrOverloaded)
	view := aside.Typed(c, codec.JSON[any]())
	check("not encodable", view.Set(ctx, time.Minute, "k", make(chan int)))
	_, err = c.GetMulti(ctx, time.Minute, []string{"a", "b", "c", "d"}, func(context.Context, []string) (map[string]string, error) {
		return nil, fmt.Errorf("%w: the database of the loader", aside.ErrRedisAway)
	})
	check("many", err, aside.ErrRedisAway)
	if batch, ok := errors.AsType[*aside.BatchError](err); ok {
		for key, err := range batch.Failed {
			check(key, err)
		}
	}

	// What New refuses.
	dir := t.TempDir()
	first := newClient(t, server.Addr(), func(o *aside.Options) { o.FallbackDir = dir })
	_, err = aside.New(aside.Options{Redis: plain(server.Addr()), FallbackDir: dir, Logger: quiet})
	check("locked", err, aside.ErrLocked)
	_, err = aside.New(aside.Options{Redis: plain("127.0.0.1:1"), RequireRedis: true, ConnectTimeout: 100 * time.Millisecond, Logger: quiet})
	check("required", err, aside.ErrRedisAway)
	closeClient(t, first, dir)
	check("closed", first.Set(ctx, time.Minute, "k", "v"), aside.ErrClosed)
}

func TestNilArgumentsAreErrors(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	_, err := c.Get(ctx, time.Minute, "k", nil)
	require.ErrorIs(t, err, aside.ErrInvalidArgument)
	require.ErrorContains(t, err, "loader is nil")
	_, err = c.GetMulti(ctx, time.Minute, []string{"k"}, nil)
	require.ErrorIs(t, err, aside.ErrInvalidArgument)
	_, err = c.Get(ctx, time.Minute, "k", newSource("v").Load, nil, aside.WithLoadTimeout(-1))
	require.ErrorIs(t, err, aside.ErrInvalidArgument)
	_, err = c.Get(ctx, time.Minute, "k", newSource("v").Load, aside.WithNegativeTTL(-2))
	require.ErrorIs(t, err, aside.ErrInvalidArgument)

	none := aside.Typed[user](c, nil)
	require.NoError(t, c.Set(ctx, time.Minute, "k", "v"))
	for range 2 { // from Redis, from memory
		_, err = none.Get(ctx, time.Minute, "k", func(context.Context, string) (user, error) { return user{}, nil })
		require.ErrorIs(t, err, aside.ErrInvalidArgument)
		require.ErrorContains(t, err, "codec is nil")
	}
	_, err = none.GetMulti(ctx, time.Minute, []string{"k"}, func(context.Context, []string) (map[string]user, error) { return nil, nil })
	require.ErrorContains(t, err, "codec is nil")
	_, _, err = none.Peek(ctx, "k")
	require.ErrorContains(t, err, "codec is nil")
	require.ErrorContains(t, none.Set(ctx, time.Minute, "k", user{}), "codec is nil")

	half := aside.NewTypedClient[user](c, nil, nil)
	require.ErrorContains(t, half.Set(ctx, time.Minute, "k", user{}), "nil")
	_, err = half.Get(ctx, time.Minute, "fresh", func(context.Context, string) (user, error) { return user{ID: 1}, nil })
	require.NoError(t, err, "what was loaded is returned though it cannot be encoded")

	m, err := c.GetMulti(ctx, time.Minute, nil, newSource("v").LoadMany)
	require.NoError(t, err)
	require.NotNil(t, m)
	require.NoError(t, c.Del(ctx))
	require.NoError(t, c.Touch(ctx, time.Minute))
}
