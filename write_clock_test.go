package aside

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/redistest"
	"github.com/redaside/aside/internal/script"
)

// The server's clock has jumped ahead of what the prober last saw: a write is taken for late, the
// clock is looked at, once per shard however many keys there are, and the write is done.
func TestAWriteSurvivesAJumpOfTheServersClock(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	c := newConnected(t, proxy.Addr())
	ctx := t.Context()
	sh := c.link.Shards()[0]
	jump := func() {
		sh.Skew(-time.Hour, -time.Hour)
	}
	jump()
	require.NoError(t, c.Set(ctx, time.Minute, "k", "v"))
	require.Equal(t, "v", server.Do("GET", "k"))
	var keys []string
	for i := range 50 * link.MaxBatchKeys {
		keys = append(keys, fmt.Sprint("k", i))
	}
	server.Do("SET", "k7", "v")
	proxy.Delay(200 * time.Millisecond)
	jump()
	short, cancel := context.WithTimeout(ctx, 15*time.Second) // fifty probes one after another take twenty
	defer cancel()
	require.NoError(t, c.Del(short, keys...))
	require.Nil(t, server.Do("GET", "k7"))
}

// A machine has slept, so that nobody knows the server's time: a Set without a deadline does not
// wait for it.
func TestASetDoesNotWaitForAClockThatIsFarOff(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	c := newConnected(t, proxy.Addr())
	proxy.BlackHole()
	c.link.Shards()[0].Skew(0, time.Hour)
	require.ErrorIs(t, c.Set(t.Context(), time.Hour, "k", "v"), ErrNotDurable)
	proxy.Heal()
	for c.Stats().Pending > 0 {
		time.Sleep(time.Millisecond)
	}
}

// The same for writes of many callers that go together: each is done at its second attempt.
func TestWritesOfManyCallersSurviveAJumpOfTheServersClock(t *testing.T) {
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	c := newConnected(t, proxy.Addr())
	sh := c.link.Shards()[0]
	proxy.Delay(5 * time.Millisecond)
	for _, by := range []time.Duration{-time.Hour, time.Hour} { // which the server takes for late, or for another clock
		sh.Skew(by, by)
		var callers sync.WaitGroup
		for i := range 64 {
			callers.Go(func() {
				if err := c.Set(t.Context(), time.Minute, fmt.Sprint("k", i), fmt.Sprint(by)); err != nil {
					t.Error(err)
				}
			})
		}
		callers.Wait()
		for i := range 64 {
			require.Equal(t, fmt.Sprint(by), server.Do("GET", fmt.Sprint("k", i)))
		}
	}
}

// WritesOut and WritesWaiting are how many commands with Sets are out, and how many Sets wait.
func WritesOut(c *Client) int {
	out, _ := c.link.Shards()[0].Batcher(sets).Load()
	return out
}

func WritesWaiting(c *Client) int {
	_, waiting := c.link.Shards()[0].Batcher(sets).Load()
	return waiting
}

// Keys of one call have a stamp each: a later operation of one is not hidden by that of another.
func TestKeysOfOneCallHaveAStampEach(t *testing.T) {
	server := redistest.Start(t)
	c := newConnected(t, server.Addr())
	sh := c.link.Shards()[0]
	var stamps []string
	for range 3 {
		stamps = append(stamps, c.stamps.Next(time.Now().UnixMicro(), 0, func() bool { return false }).Text)
	}
	run := func(s *script.Script, keys []string, args ...string) {
		q := &link.Call{Script: s, Keys: keys, Args: append([]string{fmt.Sprint(time.Now().Add(time.Hour).UnixMicro()), c.stampTTL, secondRun}, args...), Stamped: true}
		c.link.Run(t.Context(), sh, q)
		require.NoError(t, q.Err)
	}
	for _, writes := range []func(first, last string){
		func(first, last string) { run(script.Del, []string{"a", "b"}, last, first) },
		func(first, last string) { run(script.Set, []string{"c", "b"}, last, "v", "60000", first, "v", "60000") },
	} {
		writes(stamps[0], stamps[2])
		run(script.Set, []string{"b"}, stamps[1], "later", "60000")
		require.Equal(t, "later", server.Do("GET", "b"))
		run(script.Del, []string{"b"}, stamps[2])
		stamps = nil
		for range 3 {
			stamps = append(stamps, c.stamps.Next(time.Now().UnixMicro(), 0, func() bool { return false }).Text)
		}
	}
}

// This machine's clock is set while the client rests. Its first write and its first lock are not
// of the future, so what another process has written later wins when it is replayed.
func TestTheClockIsLookedAtAfterARest(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]func(t *testing.T, a *Client, meanwhile func()){
		"a Set": func(t *testing.T, a *Client, meanwhile func()) {
			require.NoError(t, a.Set(t.Context(), time.Minute, "k", "old"))
			meanwhile()
		},
		"a load": func(t *testing.T, a *Client, meanwhile func()) {
			_, err := a.Get(t.Context(), time.Minute, "k", func(context.Context, string) (string, error) {
				meanwhile() // the source was read before
				return "old", nil
			})
			require.NoError(t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			proxy := faultproxy.New(t, server.Addr())
			hasty := func(o *Options) {
				o.RedisTimeout, o.LockTTL, o.FallbackDir = time.Second, 2*time.Second, t.TempDir()
			}
			a, b := newConnected(t, server.Addr(), hasty), newConnected(t, proxy.Addr(), hasty)
			until := func(ok func() bool) {
				for !ok() {
					time.Sleep(time.Millisecond)
				}
			}
			sh := a.link.Shards()[0]
			until(sh.Rests)
			sh.Skew(0, 900*time.Millisecond)
			proxy.Refuse()
			until(func() bool { return b.Health().Mode == Degraded })
			first(t, a, func() {
				// later by more than the margin within which the two could not be ordered, and by less than the clock is off
				time.Sleep(300 * time.Millisecond)
				require.NoError(t, b.Set(t.Context(), time.Minute, "k", "new"))
				proxy.Heal()
				until(func() bool { return b.Stats().Pending == 0 })
			})
			until(func() bool { return a.Stats().Waiting == 0 })
			require.NotEqual(t, "old", server.Do("GET", "k"))
		})
	}
}
