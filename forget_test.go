package aside_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

// A change of which this process has yet to be told is seen by whoever has forgotten the key.
func TestWhatIsForgottenIsReadFromRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	between := faultproxy.New(t, server.Addr())
	c, ctx := newClient(t, between.Addr()), testContext(t)
	look := func(key string) aside.Found {
		t.Helper()
		found, err := c.Look(ctx, key)
		require.NoError(t, err)
		return found
	}
	for _, key := range []string{"a", "b"} {
		require.NoError(t, c.Set(ctx, time.Hour, key, "old"))
		eventually(t, "it is in memory", func() bool { return look(key).Source == aside.SourceMemory })
	}
	between.Delay(100 * time.Millisecond)
	server.Do("MSET", "a", "new", "b", "new")
	c.Forget("a", "unknown")
	found := look("a")
	require.Equal(t, aside.SourceRedis, found.Source)
	require.Equal(t, "new", found.Value)
}

// A view forgets its own keys.
func TestAViewForgetsKeysWithItsPrefix(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	view := aside.Typed(c, codec.String(), aside.WithPrefix("p:"))
	keyed := aside.NewKeyed(view, strconv.Itoa)
	for key, forget := range map[int]func(){1: func() { view.Forget("1") }, 2: func() { keyed.Forget(2) }} {
		require.NoError(t, keyed.Set(ctx, time.Hour, key, "old"))
		eventually(t, "it is in memory", func() bool {
			found, err := c.Look(ctx, "p:"+strconv.Itoa(key))
			return err == nil && found.Source == aside.SourceMemory
		})
		forget()
		found, err := c.Look(ctx, "p:"+strconv.Itoa(key))
		require.NoError(t, err)
		require.Equal(t, aside.SourceRedis, found.Source)
	}
	aside.Typed(nil, codec.String()).Forget("k")
	aside.NewKeyed(view, (func(int) string)(nil)).Forget(1)
}
