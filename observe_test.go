package aside_test

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

// tally counts events by kind. Safe for concurrent use.
type tally struct {
	mu sync.Mutex
	n  map[aside.EventKind]int
}

func (t *tally) Observe(_ context.Context, e aside.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n == nil {
		t.n = map[aside.EventKind]int{}
	}
	t.n[e.Kind]++
}

func (t *tally) count(kinds ...aside.EventKind) (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := maps.Clone(t.n)
	for _, kind := range kinds {
		n += all[kind]
	}
	return n
}

// Each key that is asked for counts as something, also right after a miss, when Redis does not have
// the value yet and memory must not.
func TestEachGetIsAHitALoadOrShared(t *testing.T) {
	server := redistest.Start(t)
	events := new(tally)
	c, ctx := newClient(t, server.Addr(), func(o *aside.Options) { o.Observer, o.HitEvents = events, true }), testContext(t)
	s := newSource("v")
	for i := range 100 {
		before := events.count(aside.EventHit, aside.EventShared, aside.EventLoad)
		if i%2 == 0 {
			_, err := c.Get(ctx, time.Minute, "k", s.Load)
			require.NoError(t, err)
		} else {
			_, err := c.GetMulti(ctx, time.Minute, []string{"k"}, s.LoadMany)
			require.NoError(t, err)
		}
		require.Greater(t, events.count(aside.EventHit, aside.EventShared, aside.EventLoad), before, "call %d", i)
		if i%10 == 9 {
			require.NoError(t, c.Del(ctx, "k"))
		}
	}
}

func TestWaitsAreObserved(t *testing.T) {
	server := redistest.Start(t)
	events, others := new(tally), new(tally)
	c, ctx := newClient(t, server.Addr(), func(o *aside.Options) { o.Observer = events }), testContext(t)
	other := newClient(t, server.Addr(), func(o *aside.Options) { o.Observer = others })
	s := newSource("v")
	letGo := s.HoldUp()
	defer letGo()
	first := inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "k", s.Load) })
	s.AwaitBegin(t)
	second := inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "k", mustNotLoad) })
	elsewhere := inBackground(func() (string, error) { return other.Get(ctx, time.Minute, "k", mustNotLoad) })
	eventually(t, "one shares, and one waits for the lock", func() bool {
		return c.Stats().Shared == 1 && other.Stats().LockWaits > 0
	})
	letGo()
	for _, done := range []<-chan result{first, second, elsewhere} {
		require.Equal(t, result{Value: "v", Err: nil}, await(t, done))
	}
	require.EqualValues(t, c.Stats().Shared, events.count(aside.EventShared))
	require.Equal(t, 1, others.count(aside.EventLockWait), "one wait, however often it has looked")
	require.Equal(t, "shared", aside.EventShared.String())
	require.Equal(t, "lock-wait", aside.EventLockWait.String())
}

// An event that is told late says when it happened: a relapse would date errors into an outage that
// came after them.
func TestAnEventThatIsToldLateSaysWhenItHappened(t *testing.T) {
	server := redistest.Start(t)
	ctx := testContext(t)
	hold, told := make(chan struct{}), make(chan time.Time, 10)
	c := newClient(t, server.Addr(), func(o *aside.Options) {
		o.Observer = aside.ObserverFunc(func(_ context.Context, e aside.Event) {
			if e.Kind == aside.EventCommand && e.Op == "read_or_lock" {
				<-hold
				told <- e.At
			}
		})
	})
	server.Do("MSET", "a", "v", "b", "v")
	began := time.Now().Add(-time.Minute)
	for _, key := range []string{"a", "b"} {
		value, err := c.Get(ctx, time.Minute, key, mustNotLoad)
		require.NoError(t, err, "nobody waits for an Observer that is told of commands")
		require.Equal(t, "v", value)
	}
	before := time.Now()
	close(hold)
	for range 2 {
		at := await(t, told)
		require.True(t, at.After(began) && !at.After(before), "%v, told after %v", at, before)
	}
}

// An Observer that asks for other keys waits for fills, and must not be what they wait for.
func TestAnObserverMayAsk(t *testing.T) {
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	ctx := testContext(t)
	var c *aside.Client
	var refused atomic.Int64
	c = newClient(t, proxy.Addr(), func(o *aside.Options) {
		o.Observer = aside.ObserverFunc(func(_ context.Context, e aside.Event) {
			if e.Kind == aside.EventFillRefused {
				_, err := c.Get(ctx, time.Minute, "again-"+e.Key, newSource("v").Load)
				require.NoError(t, err)
				refused.Add(1)
			}
		})
	})
	db := newSource("v")
	letGo := db.HoldUp()
	const n = 100
	var loading []<-chan result
	for i := range n {
		loading = append(loading, inBackground(func() (string, error) { return c.Get(ctx, time.Minute, fmt.Sprint("k", i), db.Load) }))
	}
	for i := range n {
		db.AwaitBegin(t)
		server.Do("DEL", fmt.Sprint("k", i))
	}
	for i := range n { // those that had not begun then
		server.Do("DEL", fmt.Sprint("k", i))
	}
	proxy.Delay(5 * time.Millisecond)
	letGo()
	for _, l := range loading {
		require.Equal(t, result{Value: "v"}, await(t, l))
	}
	eventually(t, "all fills are refused", func() bool { return refused.Load() == n })
}

// An Observer that is told that commands have failed may ask for keys whose commands wait for
// those.
func TestAnObserverOfErrorsMayAsk(t *testing.T) {
	t.Run("an error", func(t *testing.T) {
		observerMayAsk(t, aside.EventRedisError, func(p *faultproxy.Proxy) { p.Reset(); p.Heal() })
	})
	t.Run("away", func(t *testing.T) { observerMayAsk(t, aside.EventRedisAway, func(p *faultproxy.Proxy) { p.Refuse() }) })
}

// observerMayAsk has an Observer ask, when it is told of kind, for what the callers wait for that
// fail then.
func observerMayAsk(t *testing.T, kind aside.EventKind, fail func(*faultproxy.Proxy)) {
	t.Helper()
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	ctx := testContext(t)
	const n = 20
	var c *aside.Client
	var ready atomic.Bool
	told := make(chan result, 10*n)
	c = newClient(t, proxy.Addr(), func(o *aside.Options) {
		o.Observer = aside.ObserverFunc(func(_ context.Context, e aside.Event) {
			if e.Kind != kind || !ready.Load() {
				return
			}
			for i := range n {
				if _, err := c.Get(ctx, time.Minute, fmt.Sprint("k", i), newSource("v").Load); err != nil {
					told <- result{Err: err}
					return
				}
			}
			told <- result{}
		})
	})
	proxy.Delay(time.Second)
	before := proxy.Commands()
	var asking []<-chan result
	for i := range n {
		asking = append(asking, inBackground(func() (string, error) { return c.Get(ctx, time.Minute, fmt.Sprint("k", i), newSource("v").Load) }))
	}
	eventually(t, "some commands are out", func() bool { return proxy.Commands() >= before+4 && c.Stats().Waiting == n })
	ready.Store(true)
	fail(proxy)
	for _, a := range asking {
		require.Equal(t, result{Value: "v"}, await(t, a))
	}
	require.NoError(t, await(t, told).Err)
}

// An Observer that is told of a wait may ask for other keys of the same GetMulti.
func TestAnObserverOfWaitsMayAsk(t *testing.T) {
	server := redistest.Start(t)
	ctx := testContext(t)
	holder := newClient(t, server.Addr())
	var c *aside.Client
	told := make(chan result, 10)
	c = newClient(t, server.Addr(), func(o *aside.Options) {
		o.Observer = aside.ObserverFunc(func(_ context.Context, e aside.Event) {
			if e.Kind == aside.EventLockWait && e.Key == "a" {
				value, err := c.Get(ctx, time.Minute, "b", mustNotLoad)
				told <- result{Value: value, Err: err}
			}
		})
	})
	db := newSource("v")
	letGo := db.HoldUp()
	var loading []<-chan result
	for _, key := range []string{"a", "b"} {
		loading = append(loading, inBackground(func() (string, error) { return holder.Get(ctx, time.Minute, key, db.Load) }))
		db.AwaitBegin(t)
	}
	both := inBackground(func() (string, error) {
		values, err := c.GetMulti(ctx, time.Minute, []string{"a", "b"}, newSource("other").LoadMany)
		return values["a"] + values["b"], err
	})
	eventually(t, "it waits for both", func() bool { return c.Stats().LockWaits > 0 })
	letGo()
	require.Equal(t, result{Value: "vv"}, await(t, both))
	require.Equal(t, result{Value: "v"}, await(t, told))
	for _, l := range loading {
		require.Equal(t, result{Value: "v"}, await(t, l))
	}
}

// An Observer that is told of a fill may ask for its key.
func TestAnObserverMayAskForTheKey(t *testing.T) {
	server := redistest.Start(t)
	proxy := counted(t, server)
	ctx := testContext(t)
	var c *aside.Client
	told := make(chan result, 1)
	c = newClient(t, proxy.Addr(), func(o *aside.Options) {
		o.Observer = aside.ObserverFunc(func(_ context.Context, e aside.Event) {
			if e.Kind == aside.EventFillRefused {
				_, _, err := c.Peek(ctx, e.Key)
				if err == nil {
					_, err = c.Get(ctx, time.Minute, e.Key, newSource("new").Load)
				}
				told <- result{Err: err}
			}
		})
	})
	answerEarly(t, c, proxy, "k")
	server.Do("DEL", "k")
	proxy.Heal()
	require.NoError(t, await(t, told).Err)
}

func TestTheObserverAndTheStatisticsSeeWhatHappens(t *testing.T) {
	server := redistest.Start(t)
	var mu sync.Mutex
	seen := map[string]int{}
	c := newClient(t, server.Addr(), func(o *aside.Options) {
		o.HitEvents = true
		o.Observer = aside.ObserverFunc(func(_ context.Context, e aside.Event) {
			mu.Lock()
			defer mu.Unlock()
			seen[e.Kind.String()+" "+e.Source.String()]++
		})
	})
	ctx := testContext(t)
	server.Do("SET", "redis", "r")
	for range 2 {
		_, err := c.Get(ctx, time.Minute, "redis", mustNotLoad)
		require.NoError(t, err)
	}
	_, err := c.Get(ctx, time.Minute, "k", newSource("v").Load)
	require.NoError(t, err)
	of := func(what string) int {
		mu.Lock()
		defer mu.Unlock()
		return seen[what]
	}
	require.Equal(t, 1, of("hit redis"))
	require.Equal(t, 1, of("hit memory"))
	require.Equal(t, 1, of("load loader"))
	eventually(t, "it is told that Redis is there", func() bool { return of("redis-back none") == 1 })
	s := c.Stats()
	require.EqualValues(t, 1, s.MemoryHits)
	require.EqualValues(t, 1, s.RedisHits)
	require.EqualValues(t, 1, s.Loads)
	require.True(t, s.RedisConnected)
	if !oldRedis(server) {
		stored(t, c, "k")
		require.Equal(t, 2, c.Stats().MemoryEntries)
	}
}

func TestAnObserverThatPanicsHarmsNobody(t *testing.T) {
	server := redistest.Start(t)
	c := newClient(t, server.Addr(), func(o *aside.Options) {
		o.Observer = aside.ObserverFunc(func(context.Context, aside.Event) { panic("boom") })
	})
	ctx := testContext(t)
	for range 3 {
		value, err := c.Get(ctx, time.Minute, "k", newSource("v").Load)
		require.NoError(t, err)
		require.Equal(t, "v", value)
	}
}

// BenchmarkObserved reads from Redis with an Observer and without: what it costs to tell one.
func BenchmarkObserved(b *testing.B) {
	server := redistest.Start(b)
	nothing := aside.ObserverFunc(func(context.Context, aside.Event) {})
	for name, observer := range map[string]aside.Observer{"nobody": nil, "somebody": nothing} {
		b.Run(name, func(b *testing.B) {
			c := newClient(b, server.Addr(), untracked, func(o *aside.Options) { o.Observer = observer })
			load := func(context.Context, string) (string, error) { return "v", nil }
			b.ReportAllocs()
			for b.Loop() {
				_, _ = c.Get(context.Background(), time.Hour, "k", load)
			}
		})
	}
}
