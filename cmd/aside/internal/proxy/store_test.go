package proxy

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

func newStore(t *testing.T, addr, dir string, concurrency int) *Store {
	t.Helper()
	c, err := aside.New(aside.Options{
		Redis: rueidis.ClientOption{InitAddress: []string{addr}}, FallbackDir: dir, Logger: slog.New(slog.DiscardHandler),
		RedisTimeout: 5 * time.Second, LockTTL: time.Minute, // as a machine may need that has much else to do
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return NewStore(c, concurrency)
}

func TestMissesAreCountedAndAnOutageIsNone(t *testing.T) {
	server := redistest.Start(t)
	s, ctx := newStore(t, server.Addr(), "", 0), t.Context()
	require.NoError(t, s.Set(ctx, "k", Value{Data: "v", TTL: NoExpiry}))
	_, err := s.Get(ctx, "none")
	require.ErrorIs(t, err, aside.ErrNotFound)
	_, err = s.GetMulti(ctx, []string{"k", "none", "nor this"})
	require.NoError(t, err)
	require.Equal(t, int64(3), s.Misses())
	server.Kill()
	_, err = s.Get(ctx, "none")
	require.ErrorIs(t, err, ErrDegraded)
	_, err = s.GetMulti(ctx, []string{"k", "none"})
	require.ErrorIs(t, err, ErrDegraded)
	require.Equal(t, int64(3), s.Misses())
}

func TestAValueKeepsItsTypeAndItsTTL(t *testing.T) {
	server := redistest.Start(t)
	s, ctx := newStore(t, server.Addr(), t.TempDir(), 0), t.Context()
	for _, want := range []Value{
		{Data: "plain", TTL: NoExpiry},
		{Data: "", TTL: time.Hour},
		{Data: "<p>", ContentType: "text/html", TTL: time.Hour},
		{Data: envelope + "text/plain\nlooks like one", TTL: NoExpiry},
		{Data: "\x00aside:1n", TTL: NoExpiry},
		{Data: "x", ContentType: "a\nb", TTL: NoExpiry},
	} {
		require.NoError(t, s.Set(ctx, "k", want))
		got, err := s.Get(ctx, "k")
		require.NoError(t, err)
		require.Equal(t, want.Data, got.Data)
		require.Equal(t, strings.ReplaceAll(want.ContentType, "\n", " "), got.ContentType)
		if want.TTL == NoExpiry {
			require.Equal(t, NoExpiry, got.TTL)
		} else {
			require.InDelta(t, want.TTL.Seconds(), got.TTL.Seconds(), 30)
		}
		stored, ok := s.Open(server.Do("GET", "k").(string))
		require.True(t, ok)
		require.Equal(t, want.Data, stored.Data)
		if want.ContentType == "" {
			require.Equal(t, s.Pack(want.Data), server.Do("GET", "k"))
		}
	}
	require.NoError(t, s.Set(ctx, "k", Value{Data: "plain", TTL: NoExpiry}))
	require.Equal(t, "plain", server.Do("GET", "k"), "as any other program reads it")
	require.NoError(t, s.Del(ctx, "k"))
	_, err := s.Get(ctx, "k")
	require.ErrorIs(t, err, aside.ErrNotFound)
}

func TestWhatIsNotKnownIsNotAnswered(t *testing.T) {
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	s, ctx := newStore(t, proxy.Addr(), t.TempDir(), 0), t.Context()
	proxy.Refuse()
	require.Eventually(t, func() bool { return s.Client().Health().Mode == aside.Degraded }, time.Minute, time.Millisecond)
	_, err := s.Get(ctx, "k")
	require.ErrorIs(t, err, ErrDegraded)
	require.ErrorIs(t, err, aside.ErrRedisAway)
	require.NotContains(t, err.Error(), "aside: ", "one sentence")
	_, err = s.GetMulti(ctx, []string{"k"})
	require.ErrorIs(t, err, ErrDegraded)
	_, err = s.Do(ctx, Command{Name: []string{"INCR"}, Key: "k"})
	require.ErrorIs(t, err, ErrDegraded)
	require.NoError(t, s.Set(ctx, "k", Value{Data: "v", TTL: NoExpiry}))
	got, err := s.Get(ctx, "k")
	require.NoError(t, err)
	require.Equal(t, NoExpiry, got.TTL)
	require.NoError(t, s.Del(ctx, "gone"))
	found, err := s.GetMulti(ctx, []string{"k", "gone"})
	require.NoError(t, err)
	require.Len(t, found, 1)
	proxy.Heal()
	require.Eventually(t, func() bool { return s.Client().Health().Mode == aside.Healthy }, time.Minute, time.Millisecond)
	reply, err := s.Do(ctx, Command{Name: []string{"INCR"}, Key: "n"})
	require.NoError(t, err)
	n, err := reply.AsInt64()
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
	reply, err = s.Do(ctx, Command{Name: []string{"SET"}, Key: "absent", Args: []string{"v", "XX"}})
	require.NoError(t, err)
	require.True(t, reply.IsNil())
	_, err = s.Do(ctx, Command{Name: []string{"INCR"}, Key: "k"})
	var refused *rueidis.RedisError
	require.ErrorAs(t, err, &refused)
}

// service.concurrency: 1 is one after the other.
func TestNoMoreThanConcurrencyAreServedAtOnce(t *testing.T) {
	server := redistest.Start(t)
	s := newStore(t, server.Addr(), "", 2)
	var at, most atomic.Int32
	var callers sync.WaitGroup
	for range 50 {
		callers.Go(func() {
			if err := s.enter(t.Context()); err != nil {
				t.Error(err)
				return
			}
			defer s.turns.Leave()
			for now := at.Add(1); ; {
				was := most.Load()
				if now <= was || most.CompareAndSwap(was, now) {
					break
				}
			}
			_, _ = s.client.Look(t.Context(), "k")
			at.Add(-1)
		})
	}
	callers.Wait()
	require.EqualValues(t, 2, most.Load())
}

// In a cluster commands go to their key's own node: those of the others may be dead.
func TestADeadNodeCostsTheOthersKeysNothing(t *testing.T) {
	cluster := redistest.StartCluster(t)
	s, ctx := newStore(t, cluster.Node(0).Addr(), t.TempDir(), 0), t.Context()
	var living []string
	for i := range 60 {
		key := fmt.Sprint("k", i)
		if _, err := cluster.Node(1).TryDo("EXISTS", key); err != nil { // MOVED
			living = append(living, key)
		}
	}
	cluster.Node(1).Kill()
	for i, key := range living {
		reply, err := s.Do(ctx, Command{Name: []string{"INCR"}, Key: key})
		require.NoError(t, err, "the %dth", i)
		n, _ := reply.AsInt64()
		require.EqualValues(t, 1, n)
		_, err = s.Ask(ctx, "TYPE", []string{key})
		require.NoError(t, err)
	}
	require.LessOrEqual(t, s.Client().Stats().Outages, int64(1))
}

// One bound, one meaning: what is longer is none, in Redis, in memory, on disk and in what is
// shown.
func TestATTLOfAHundredYearsIsTheLongest(t *testing.T) {
	server := redistest.Start(t)
	fault := faultproxy.New(t, server.Addr())
	s, ctx := newStore(t, fault.Addr(), t.TempDir(), 0), t.Context()
	set := func(key string, ttl, want time.Duration) {
		t.Helper()
		require.NoError(t, s.Set(ctx, key, Value{Data: "v", TTL: ttl}))
		got, err := s.Get(ctx, key)
		require.NoError(t, err)
		if want == NoExpiry {
			require.Equal(t, NoExpiry, got.TTL)
		} else {
			require.InDelta(t, want.Hours(), got.TTL.Hours(), 1)
		}
	}
	const year = 365 * 24 * time.Hour
	set("none", NoExpiry, NoExpiry)
	set("sixty", 60*year, 60*year)
	set("hundred", LongestTTL, LongestTTL)
	set("longer", LongestTTL+time.Second, NoExpiry)
	require.EqualValues(t, -1, server.Do("TTL", "none"))
	require.EqualValues(t, -1, server.Do("TTL", "longer"))
	require.EqualValues(t, 1, server.Do("PERSIST", "sixty"))
	fault.Refuse()
	require.Eventually(t, func() bool { return s.Client().Health().Mode == aside.Degraded }, time.Minute, time.Millisecond)
	set("away none", NoExpiry, NoExpiry)
	set("away sixty", 60*year, 60*year)
	fault.Heal()
	require.Eventually(t, func() bool { return s.Client().Health().Mode == aside.Healthy }, time.Minute, time.Millisecond)
	require.EqualValues(t, -1, server.Do("TTL", "away none"))
	require.InDelta(t, (60 * year).Seconds(), server.Do("TTL", "away sixty"), 3600)
}
