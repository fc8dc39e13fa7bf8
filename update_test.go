package aside_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

// command is an Update by one command of Redis's own.
func command(c *aside.Client, ctx context.Context, key string, args ...string) error { //nolint:revive // reads like the call
	return c.Update(ctx, []string{key}, func(ctx context.Context, redis rueidis.Client) error {
		return redis.Do(ctx, redis.B().Arbitrary(args[0]).Keys(key).Args(args[1:]...).Build()).Error()
	})
}

func TestAnUpdateIsSeenAtOnceHereAndByOthers(t *testing.T) {
	server := redistest.Start(t)
	c, other, ctx := newClient(t, server.Addr()), newClient(t, server.Addr()), testContext(t)
	require.NoError(t, c.Set(ctx, time.Hour, "k", "0"))
	for i := range 100 {
		value, ok, err := c.Peek(ctx, "k")
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, i, len(value)-1)
		require.NoError(t, command(c, ctx, "k", "APPEND", "+"))
	}
	require.Equal(t, "0"+strings.Repeat("+", 100), server.Do("GET", "k"))
	eventually(t, "the other hears of it", func() bool {
		value, _, err := other.Peek(ctx, "k")
		return err == nil && len(value) == 101
	})
}

// A load that began before an Update must not bring back what was there.
func TestAnUpdateVoidsLoadsThatBeganBefore(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	loading, goOn := make(chan struct{}), make(chan struct{})
	got := inBackground(func() (string, error) {
		return c.Get(ctx, time.Hour, "k", func(context.Context, string) (string, error) {
			close(loading)
			<-goOn
			return "old", nil
		})
	})
	<-loading
	require.NoError(t, command(c, ctx, "k", "SET", "new"))
	close(goOn)
	require.NoError(t, await(t, got).Err)
	require.Equal(t, "new", server.Do("GET", "k"))
	value, _, err := c.Peek(ctx, "k")
	require.NoError(t, err)
	require.Equal(t, "new", value)
}

// What was done by an Update is as good as a Set to a replay: an older Set does not undo it, a
// later one replaces it.
func TestAReplayKnowsWhatAnUpdateHasDone(t *testing.T) {
	t.Parallel() // it waits more than it works
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	_, option := durable(t)
	c, ctx := newClient(t, proxy.Addr(), hasty, option), testContext(t)
	other := newClient(t, server.Addr(), hasty)
	require.NoError(t, c.Set(ctx, time.Hour, "older", "0"))
	_, _, err := c.Peek(ctx, "older")
	require.NoError(t, err)
	proxy.Refuse()
	awaitMode(t, c, aside.Degraded)
	require.ErrorIs(t, command(c, ctx, "older", "INCR"), aside.ErrRedisAway)
	value, _, err := c.Peek(ctx, "older")
	require.NoError(t, err)
	require.Equal(t, "0", value, "nothing has changed it, so it is not forgotten")
	require.Equal(t, "0", server.Do("GET", "older"))
	require.NoError(t, c.Set(ctx, time.Hour, "older", "7"))
	require.NoError(t, other.Set(ctx, time.Hour, "unstamped", "0")) // this takes until u is over: see below
	apart(t)
	require.NoError(t, command(other, ctx, "older", "INCR"))
	require.NoError(t, command(other, ctx, "later", "INCR"))                        // without expiry
	require.NoError(t, command(other, ctx, "later too", "SET", "1", "PX", "60000")) // with one
	apart(t)
	require.NoError(t, c.Set(ctx, time.Hour, "later", "8"))
	require.NoError(t, c.Set(ctx, time.Hour, "later too", "9"))
	proxy.Heal()
	awaitMode(t, c, aside.Healthy)
	require.Equal(t, "1", server.Do("GET", "older"))
	require.Equal(t, "8", server.Do("GET", "later"))
	require.Equal(t, "9", server.Do("GET", "later too"))
}

// apart lets so much time pass that nobody takes what is before it and what is after it for
// simultaneous (u of docs/adr/0005).
func apart(t *testing.T) {
	t.Helper()
	end := time.Now().Add(400 * time.Millisecond) // of a first answer on a busy machine, too
	eventually(t, "the clocks cannot mistake it", func() bool { return time.Now().After(end) })
}

func TestAnUpdateWaitsForWhatIsToBeReplayed(t *testing.T) {
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	_, option := durable(t)
	c, ctx := newClient(t, proxy.Addr(), hasty, option, func(o *aside.Options) { o.ReplayRate = 1 }), testContext(t)
	proxy.Refuse()
	awaitMode(t, c, aside.Degraded)
	for _, key := range []string{"a", "b", "c", "d"} {
		require.NoError(t, c.Set(ctx, time.Hour, key, "41"))
	}
	proxy.Heal()
	eventually(t, "it is recovering", func() bool { return c.Health().Mode != aside.Degraded })
	require.NoError(t, command(c, ctx, "d", "INCR"))
	require.Equal(t, "42", server.Do("GET", "d"))
}

func TestAnUpdateSaysWhatHasHappened(t *testing.T) {
	t.Parallel() // it waits more than it works
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	c, ctx := newClient(t, proxy.Addr(), hasty), testContext(t)
	own := errors.New("own")
	require.Equal(t, own, c.Update(ctx, []string{"k"}, func(context.Context, rueidis.Client) error { return own }))
	require.NoError(t, c.Set(ctx, time.Hour, "k", "no number"))
	err := command(c, ctx, "k", "INCR")
	_, reply := rueidis.IsRedisErr(err)
	require.True(t, reply)
	require.NotErrorIs(t, err, aside.ErrRedisAway)
	require.True(t, rueidis.IsRedisNil(command(c, ctx, "absent", "SET", "v", "XX")))
	require.ErrorIs(t, c.Update(ctx, []string{strings.Repeat("k", 2000)}, nil), aside.ErrTooLarge)
	require.Equal(t, aside.Healthy, c.Health().Mode)

	proxy.CutReplies()
	err = command(c, ctx, "k", "SET", "v")
	require.ErrorIs(t, err, aside.ErrUnknownOutcome)
	require.NotErrorIs(t, err, aside.ErrRedisAway)
	eventually(t, "it was done all the same", func() bool { return server.Do("GET", "k") == "v" })
	proxy.Heal()
	require.NoError(t, c.Close())
	require.ErrorIs(t, command(c, ctx, "k", "INCR"), aside.ErrClosed)
}

// What has changed nothing must not look like the latest write: what others have written while they
// were cut off would lose to it.
func TestAnUpdateThatChangesNothingLeavesNoStamp(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	require.NoError(t, c.Update(ctx, []string{"k"}, func(context.Context, rueidis.Client) error { return aside.ErrUnchanged }))
	require.Empty(t, keysOf(server))
	require.NoError(t, command(c, ctx, "k", "SET", "v"))
	require.Len(t, server.Do("KEYS", "aside:stamps:*"), 1)
}

// An error of a connection to another node of a cluster is not held against the key's own.
func TestAnUpdateBlamesNoNodeForAnother(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	c, ctx := newClient(t, "", hasty, func(o *aside.Options) { o.Redis.InitAddress = cluster.Addrs() }), testContext(t)
	ours := ""
	for i := 0; ours == ""; i++ {
		if _, err := cluster.Node(0).TryDo("EXISTS", fmt.Sprint("k", i)); err == nil {
			ours = fmt.Sprint("k", i)
		}
	}
	cluster.Node(1).Kill()
	elsewhere := &net.OpError{Op: "dial", Net: "tcp", Addr: tcpAddr(t, cluster.Node(1).Addr()), Err: syscall.ECONNREFUSED}
	for range 5 {
		require.Error(t, c.Update(ctx, []string{ours}, func(context.Context, rueidis.Client) error { return elsewhere }))
	}
	require.NoError(t, command(c, ctx, ours, "INCR"))
	for _, sh := range c.Health().Shards {
		if sh.Addr == cluster.Node(0).Addr() {
			require.Equal(t, aside.Healthy, sh.Mode)
		}
	}
}

// The function talks to others, too. What they answer is its own affair, whatever it looks like.
func TestAnUpdatesOwnErrorsSayNothingAboutRedis(t *testing.T) { //nolint:tparallel // its parts have one client
	t.Parallel() // it waits more than it works
	server := redistest.Start(t)
	full := redistest.Start(t, redistest.WithPassword("secret"))
	c, ctx := newClient(t, server.Addr(), hasty), testContext(t)
	other, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{full.Addr()}, Password: "secret", DisableCache: true})
	require.NoError(t, err)
	defer other.Close()
	full.Do("REPLICAOF", "127.0.0.1", "1")
	for name, own := range map[string]func(context.Context) error{
		"a dial":            func(context.Context) error { _, err := net.Dial("tcp", "127.0.0.1:1"); return err },
		"a context's end":   func(context.Context) error { return context.DeadlineExceeded },
		"a cancellation":    func(context.Context) error { return fmt.Errorf("query: %w", context.Canceled) },
		"the end of a file": func(context.Context) error { return io.ErrUnexpectedEOF },
		"a closed client":   func(context.Context) error { return rueidis.ErrClosing },
		"another Redis": func(ctx context.Context) error {
			return other.Do(ctx, other.B().Set().Key("k").Value("v").Build()).Error()
		},
		"its own deadline":   func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
		"a network's answer": func(context.Context) error { return &net.DNSError{Err: "no such host", Name: "db", IsTimeout: true} },
	} {
		t.Run(name, func(t *testing.T) {
			var was error
			for range 6 {
				err := c.Update(ctx, []string{"n"}, func(ctx context.Context, redis rueidis.Client) error {
					if err := redis.Do(ctx, redis.B().Incr().Key("n").Build()).Error(); err != nil {
						return err
					}
					was = own(ctx)
					return was
				})
				require.True(t, was == err, "%v became %v", was, err) //nolint:errorlint // the very same
				require.NotErrorIs(t, err, aside.ErrRedisAway)
				require.NotErrorIs(t, err, aside.ErrUnknownOutcome)
			}
			require.NoError(t, c.Set(ctx, time.Hour, "k", "v"))
			require.Equal(t, aside.Healthy, c.Health().Mode)
			require.Zero(t, c.Stats().Outages)
		})
	}

	// What Redis itself has answered is judged, however the function wraps it, and whichever way it
	// asks.
	server.Do("REPLICAOF", "127.0.0.1", "1")
	err = c.Update(ctx, []string{"k"}, func(ctx context.Context, redis rueidis.Client) error {
		return redis.Dedicated(func(d rueidis.DedicatedClient) error {
			return fmt.Errorf("in vain: %w", d.Do(ctx, d.B().Incr().Key("n").Build()).Error())
		})
	})
	require.True(t, errors.Is(err, aside.ErrRedisAway) || errors.Is(err, aside.ErrUnknownOutcome), "READONLY, or the connection was given up for it: %v", err)
	require.ErrorContains(t, err, "in vain")
	awaitMode(t, c, aside.Degraded)
}

func tcpAddr(t *testing.T, addr string) net.Addr {
	t.Helper()
	a, err := net.ResolveTCPAddr("tcp", addr)
	require.NoError(t, err)
	return a
}
