package aside_test

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
	"github.com/redaside/aside/internal/stamp"
)

// A relapse would leave keys with a ttl of centuries, which other readers see, and volatile-*
// policies evict.
func TestAKeyThatDoesNotExpireHasNoTTLInRedis(t *testing.T) {
	const endless = aside.LongestTTL + time.Hour
	for name, stamps := range map[string]bool{"stamps": true, "without stamps": false} {
		t.Run(name, func(t *testing.T) {
			server := redistest.Start(t)
			proxy := faultproxy.New(t, server.Addr())
			_, option := durable(t)
			c, ctx := newClient(t, proxy.Addr(), hasty, option, func(o *aside.Options) { o.DisableStamps = !stamps }), testContext(t)
			load := func(context.Context, string) (string, error) { return "v", nil }
			loadMany := func(_ context.Context, keys []string) (map[string]string, error) {
				all := map[string]string{}
				for _, key := range keys {
					all[key] = "v"
				}
				return all, nil
			}
			require.NoError(t, c.Set(ctx, endless, "set", "v"))
			require.NoError(t, c.Set(ctx, math.MaxInt64, "longest", "v"))
			require.NoError(t, c.Set(ctx, time.Hour, "touched", "v"))
			require.NoError(t, c.Touch(ctx, endless, "touched"))
			_, err := c.Get(ctx, endless, "loaded", load)
			require.NoError(t, err)
			_, err = c.GetMulti(ctx, endless, []string{"many1", "many2"}, loadMany)
			require.NoError(t, err)
			stored(t, c, "loaded", "many1", "many2")
			require.NoError(t, c.Set(ctx, 60*365*24*time.Hour, "sixty years", "v"))
			require.NoError(t, c.Set(ctx, aside.LongestTTL, "a hundred", "v"))
			endlessKeys := []string{"set", "longest", "touched", "loaded", "many1", "many2"}
			if stamps { // else it is replayed as a delete
				proxy.Refuse()
				awaitMode(t, c, aside.Degraded)
				require.NoError(t, c.Set(ctx, 2*aside.LongestTTL, "away", "v"))
				require.NoError(t, c.Set(ctx, 60*365*24*time.Hour, "away for sixty", "v"))
				proxy.Heal()
				awaitMode(t, c, aside.Healthy)
				endlessKeys = append(endlessKeys, "away")
				require.Positive(t, server.Do("PTTL", "away for sixty"))
			}
			for _, key := range endlessKeys {
				require.EqualValues(t, -1, server.Do("PTTL", key), key)
				require.Equal(t, "v", server.Do("GET", key), key)
				found, err := c.Look(ctx, key)
				require.NoError(t, err)
				require.True(t, found.TTL < 0 || found.TTL > aside.LongestTTL, "%s: %v", key, found.TTL)
			}
			const year = 365 * 24 * 3600
			require.InDelta(t, 60*year, server.Do("TTL", "sixty years"), 60)
			require.InDelta(t, 100*year, server.Do("TTL", "a hundred"), 60)
		})
	}
}

// 60 is 60 nanoseconds: nothing would ever be a hit, and nobody be told.
func TestATTLBelowAMillisecondIsRefused(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	view := aside.Typed(c, codec.JSON[int]())
	require.NoError(t, c.Set(ctx, time.Minute, "k", "1"))
	_, err := c.Get(ctx, time.Minute, "k", mustNotLoad) // it is in memory, too
	require.NoError(t, err)
	one := func(context.Context, string) (int, error) { return 1, nil }
	many := func(context.Context, []string) (map[string]int, error) { return nil, nil }
	strings := newSource("")
	for name, call := range map[string]func() error{
		"Get":            func() error { _, err := c.Get(ctx, 60, "k", strings.Load); return err },
		"GetMulti":       func() error { _, err := c.GetMulti(ctx, 60, []string{"k"}, strings.LoadMany); return err },
		"Set":            func() error { return c.Set(ctx, 60, "k", "2") },
		"Touch":          func() error { return c.Touch(ctx, 60, "k") },
		"typed Get":      func() error { _, err := view.Get(ctx, 60, "k", one); return err },
		"typed GetMulti": func() error { _, err := view.GetMulti(ctx, 60, []string{"k"}, many); return err },
		"typed Set":      func() error { return view.Set(ctx, 60, "k", 2) },
		"typed Touch":    func() error { return view.Touch(ctx, 60, "k") },
		"WithNegativeTTL": func() error {
			_, err := c.Get(ctx, time.Minute, "o", strings.Load, aside.WithNegativeTTL(60))
			return err
		},
		"WithLoadTimeout": func() error {
			_, err := c.Get(ctx, time.Minute, "o", strings.Load, aside.WithLoadTimeout(60))
			return err
		},
		"WithErrorTTL": func() error { _, err := c.Get(ctx, time.Minute, "o", strings.Load, aside.WithErrorTTL(60)); return err },
	} {
		err := call()
		require.ErrorIs(t, err, aside.ErrInvalidArgument, name)
		require.ErrorContains(t, err, "60*time.Second", name)
	}
	require.Zero(t, strings.Calls.Load())
	value, err := c.Get(ctx, time.Millisecond, "k", mustNotLoad)
	require.NoError(t, err)
	require.Equal(t, "1", value)
}

// A write that was not answered may have been done, and says so.
func TestAnUnansweredWriteIsOfUnknownOutcome(t *testing.T) {
	t.Parallel() // it waits more than it works
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	c, ctx := newClient(t, proxy.Addr(), hasty), testContext(t)
	require.NoError(t, c.Set(ctx, time.Minute, "k", "before"))
	_, _, err := c.Peek(ctx, "k")
	require.NoError(t, err)
	proxy.CutReplies()
	require.ErrorIs(t, c.Set(ctx, time.Minute, "k", "after"), aside.ErrUnknownOutcome)
	require.Equal(t, "after", server.Do("GET", "k"), "here it was done")
	proxy.Heal()
	eventually(t, "it is back", func() bool { return c.Stats().RedisConnected })
	value, err := c.Get(ctx, time.Minute, "k", mustNotLoad)
	require.NoError(t, err)
	require.Equal(t, "after", value, "memory does not hold what the write replaced")
}

// abandonedStore is a store whose disk is too slow for its callers: each Put ends with its context, and the store has the
// records all the same, as fallback.Dir does.
type abandonedStore struct{ fallback.Store }

func (s abandonedStore) Put(ctx context.Context, records ...fallback.Record) error {
	if err := s.Store.Put(context.WithoutCancel(ctx), records...); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

func (abandonedStore) Durable() bool { return true }

// A write whose caller leaves, first Redis and then the disk, waits in the store all the same. It is replayed as soon as it can
// be: else it would wait for the next outage, or for somebody who asks for its key.
func TestAWriteIsReplayedThoughItsCallerHasLeftTheDisk(t *testing.T) {
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	c, ctx := newClient(t, proxy.Addr(), func(o *aside.Options) {
		o.Store = abandonedStore{fallback.NewMemory(1 << 20)}
		o.RedisTimeout, o.LockTTL = 20*time.Second, time.Minute // no outage, whose end would replay it
	}), testContext(t)
	require.NoError(t, c.Set(ctx, time.Minute, "k", "before"))
	require.NoError(t, c.Del(ctx, "other")) // so that the server knows the script
	proxy.CutReplies()
	hurried, leave := context.WithCancel(ctx)
	left := make(chan error, 1)
	go func() { left <- c.Del(hurried, "k") }() // ends with its context
	eventually(t, "Redis has done it", func() bool { return server.Do("GET", "k") == nil })
	leave()
	require.ErrorIs(t, <-left, context.Canceled)
	require.Equal(t, 1, c.Stats().Pending)
	proxy.Heal()
	eventually(t, "it is replayed", func() bool { return c.Stats().Pending == 0 })
}

// A command that its caller has given up on may reach the server much later. Then it must not be
// done.
func TestALateWriteIsNotDone(t *testing.T) {
	t.Parallel() // it waits more than it works
	for _, verb := range []string{"Set", "Del", "Touch"} {
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			proxy := faultproxy.New(t, server.Addr())
			c, ctx := newClient(t, proxy.Addr(), func(o *aside.Options) { o.RedisTimeout = time.Second }), testContext(t)
			require.NoError(t, c.Set(ctx, time.Minute, "k", "v"))
			scripts := scriptCalls(server)
			proxy.CutRequests()
			var err error
			switch verb {
			case "Set":
				err = c.Set(ctx, time.Hour, "k", "late")
			case "Del":
				err = c.Del(ctx, "k")
			case "Touch":
				err = c.Touch(ctx, time.Hour, "k")
			}
			require.ErrorIs(t, err, aside.ErrUnknownOutcome)
			late := time.Now().Add(400 * time.Millisecond) // past the deadline and its margin
			eventually(t, "it is late", func() bool { return time.Now().After(late) })
			if verb != "Touch" { // which is not replayed
				require.NoError(t, newClient(t, server.Addr()).Set(ctx, time.Minute, "k", "v")) // newer than its replay, too
			}
			proxy.Heal()
			eventually(t, "the command has arrived", func() bool { return scriptCalls(server) > scripts })
			eventually(t, "it is back", func() bool { return c.Stats().RedisConnected && c.Stats().Pending == 0 })
			require.Equal(t, "v", server.Do("GET", "k"))
			require.LessOrEqual(t, server.Do("PTTL", "k"), int64(60_000))
		})
	}
}

// scriptCalls is how many scripts the server has run.
func scriptCalls(server *redistest.Server) (n int) {
	for line := range strings.SplitSeq(fmt.Sprint(server.Do("INFO", "commandstats")), "\r\n") {
		if strings.HasPrefix(line, "cmdstat_eval") {
			calls, _, _ := strings.Cut(line[strings.Index(line, "calls=")+6:], ",")
			more, _ := strconv.Atoi(calls)
			n += more
		}
	}
	return n
}

// Every key's stamp lives in the key's own slot, and a person can see whose it is.
func TestStampsLiveInTheKeysSlot(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	c, ctx := newClient(t, "", patient, func(o *aside.Options) { o.Redis.InitAddress = cluster.Addrs() }), testContext(t)
	keys := []string{"k", "", "{}", "{}x", "}{", "}", "{", "a{b", "{a}b", "{a}{b}", "\x00\xff", "aside:stamps:{0}k"}
	for _, key := range keys {
		require.NoError(t, c.Set(ctx, time.Hour, key, "v"), "%q", key)
		require.NoError(t, c.Del(ctx, key), "%q", key)
	}
	require.NoError(t, c.Del(ctx, keys...))
	stamps := map[string]bool{}
	for i := range 3 {
		buckets, _ := cluster.Node(i).Do("KEYS", "aside:stamps:*").([]any)
		for _, bucket := range buckets {
			fields, _ := cluster.Node(i).Do("HKEYS", bucket).([]any)
			for _, field := range fields {
				stamps[field.(string)] = true
			}
		}
	}
	delete(stamps, "") // the heads
	require.Len(t, stamps, len(keys))
	for _, key := range keys {
		require.True(t, stamps[stamp.Field(key)], "%q", key)
	}
}
