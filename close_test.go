package aside_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

func TestCloseEndsWhileRedisHangs(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, db, ctx := newClient(t, server.Addr(), hasty), newSource("v"), testContext(t)
	db.HoldUp()
	loading := inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "k", db.Load) })
	db.AwaitBegin(t)
	server.Freeze()
	defer server.Thaw()
	closed := make(chan error, 1)
	go func() { closed <- c.Close() }()
	require.ErrorIs(t, await(t, loading).Err, aside.ErrClosed)
	require.NoError(t, await(t, closed))
}

// What was loaded before Close is stored if Redis answers in time: nobody waits for locks that we
// leave.
func TestCloseStoresWhatWasLoaded(t *testing.T) {
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	c, db, ctx := newClient(t, proxy.Addr(), func(o *aside.Options) { o.LockTTL = time.Hour }), newSource("v"), testContext(t)
	letGo := db.HoldUp()
	const n = 40 // few enough for a slow machine to store them in time
	for i := range n {
		inBackground(func() (string, error) { return c.Get(ctx, time.Minute, fmt.Sprint("k", i), db.Load) })
	}
	for range n {
		db.AwaitBegin(t)
	}
	proxy.Delay(20 * time.Millisecond)
	letGo()
	eventually(t, "all have been loaded", func() bool { return c.Stats().Loads == n })
	require.NoError(t, c.Close())
	for i := range n {
		require.Contains(t, []any{"v", nil}, server.Do("GET", fmt.Sprint("k", i)), "no lock is left")
	}
}

// Fills that wait to be sent with others have nobody who waits for them: Close ends them all the
// same.
func TestCloseEndsFillsThatWaitForOthers(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, db, ctx := newClient(t, server.Addr(), func(o *aside.Options) { o.RedisTimeout = time.Second }), newSource("v"), testContext(t)
	letGo := db.HoldUp()
	const n = 50
	var loading []<-chan result
	for i := range n {
		loading = append(loading, inBackground(func() (string, error) { return c.Get(ctx, time.Minute, fmt.Sprint("k", i), db.Load) }))
	}
	for range n {
		db.AwaitBegin(t)
	}
	server.Freeze()
	defer server.Thaw()
	letGo()
	eventually(t, "all have been loaded", func() bool { return c.Stats().Loads == n })
	require.NoError(t, c.Close(), "nothing is left behind")
	for _, l := range loading {
		if r := await(t, l); r.Err != nil {
			require.ErrorIs(t, r.Err, aside.ErrClosed)
		}
	}
}

func TestCloseWhileConnectingAndWhileRedisIsAway(t *testing.T) {
	server := redistest.Start(t)
	server.Kill()
	for range 3 {
		c, err := aside.New(aside.Options{Redis: rueidis.ClientOption{InitAddress: []string{server.Addr()}}, Logger: quiet})
		require.NoError(t, err)
		require.NoError(t, c.Close())
	}
	hole := faultproxy.New(t, server.Addr())
	hole.Stall()
	c, err := aside.New(aside.Options{Redis: rueidis.ClientOption{InitAddress: []string{hole.Addr()}}, ConnectTimeout: 10 * time.Millisecond, Logger: quiet})
	require.NoError(t, err)
	require.NoError(t, c.Close())
}

func TestCloseSaysWhatItLeftBehind(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, err := aside.New(aside.Options{Redis: rueidis.ClientOption{InitAddress: []string{server.Addr()}}, Logger: quiet})
	require.NoError(t, err)
	began, release, returned := make(chan struct{}), make(chan struct{}), make(chan struct{})
	loading := inBackground(func() (string, error) {
		return c.Get(testContext(t), time.Minute, "k", func(context.Context, string) (string, error) {
			defer close(returned)
			close(began)
			<-release // whatever the context says
			return "", nil
		})
	})
	await(t, began)
	err = c.Close()
	require.ErrorContains(t, err, "left behind")
	require.Equal(t, err, c.Close(), "twice says the same")
	require.ErrorIs(t, await(t, loading).Err, aside.ErrClosed)
	close(release)
	await(t, returned)
}

func TestCloseStoresWhatIsEarly(t *testing.T) {
	server := redistest.Start(t)
	proxy := counted(t, server)
	c := newClient(t, proxy.Addr(), func(o *aside.Options) { o.LockTTL = time.Hour })
	var keys []string
	for i := range 20 {
		keys = append(keys, fmt.Sprint("k", i))
	}
	answerEarly(t, c, proxy, keys...)
	closed := make(chan error, 1)
	go func() { closed <- c.Close() }()
	_, _, err := c.Peek(testContext(t), keys[0]) // which waits, until it is being closed
	require.ErrorIs(t, err, aside.ErrClosed)
	proxy.Heal()
	require.NoError(t, await(t, closed))
	for _, key := range keys {
		require.Equal(t, "v", server.Do("GET", key))
	}
}

// Close with a Redis that hangs, and again.
func TestCloseInAnOutage(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	dir, _ := durable(t)
	c, ctx := newDurable(t, server.Addr(), dir), testContext(t)
	server.Freeze()
	defer server.Thaw()
	require.NoError(t, c.Set(ctx, time.Hour, "k", "v"))
	closeClient(t, c, dir)
	closeClient(t, c, dir)
	require.ErrorIs(t, c.Set(ctx, time.Hour, "k", "v"), aside.ErrClosed)
	found := false
	for _, name := range files(t, dir) {
		content, err := os.ReadFile(name)
		require.NoError(t, err)
		found = found || strings.Contains(string(content), "v")
	}
	require.True(t, found)
}
