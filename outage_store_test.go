package aside_test

import (
	"context"
	"fmt"
	"io"
	"iter"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

// What a review of the outage half found, each with the relapse it would be.

// A fill of one outage must not be served in the next: our own Del, or anybody's, came in between.
func TestWhatWasLoadedInAnEarlierOutageIsNotServed(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	_, option := durable(t)
	c, ctx := newClient(t, proxy.Addr(), hasty, option, func(o *aside.Options) { o.ReplayRate = 1 }), testContext(t)
	proxy.Refuse()
	awaitMode(t, c, aside.Degraded)
	for _, key := range []string{"k", "theirs"} {
		v, err := c.Get(ctx, time.Hour, key, newSource("old").Load)
		require.NoError(t, err)
		require.Equal(t, "old", v)
	}
	for i := range 30 {
		require.NoError(t, c.Set(ctx, time.Hour, fmt.Sprint("o", i), "x"))
	}
	proxy.Heal()
	eventually(t, "recovering", func() bool { return c.Health().Mode == aside.Recovering })
	require.NoError(t, c.Del(ctx, "k"))
	require.Nil(t, server.Do("GET", "k"))
	server.Do("DEL", "theirs")
	proxy.Refuse()
	awaitMode(t, c, aside.Degraded)
	for _, key := range []string{"k", "theirs"} {
		v, err := c.Get(ctx, time.Hour, key, newSource("new").Load)
		require.NoError(t, err)
		require.Equal(t, "new", v, key)
	}
}

// hookedStore is a store that is held up where a test wants it.
type hookedStore struct {
	fallback.Store
	stats  func()
	settle func()
	stamp  func()
	get    func()
	put    func() // before the first Put
	didPut atomic.Bool
	blind  atomic.Bool // Records yields nothing
}

func (h *hookedStore) Stats() fallback.Stats {
	s := h.Store.Stats()
	if h.stats != nil {
		h.stats()
	}
	return s
}

func (h *hookedStore) Settle(records ...fallback.Record) {
	if h.settle != nil && len(records) > 0 {
		h.settle()
	}
	h.Store.Settle(records...)
}

func (h *hookedStore) Stamp(key string) (string, bool) {
	s, ok := h.Store.Stamp(key)
	if h.stamp != nil {
		h.stamp()
	}
	return s, ok
}

func (h *hookedStore) Put(ctx context.Context, records ...fallback.Record) error {
	if h.put != nil && h.didPut.CompareAndSwap(false, true) {
		h.put()
	}
	return h.Store.Put(ctx, records...)
}

func (h *hookedStore) Get(key string) (fallback.Record, bool, error) {
	if h.get != nil {
		h.get()
	}
	return h.Store.Get(key)
}

func (h *hookedStore) Records(op fallback.Op) iter.Seq[fallback.Record] {
	if h.blind.Load() {
		return func(func(fallback.Record) bool) {}
	}
	return h.Store.Records(op)
}

func (h *hookedStore) Close(ctx context.Context) error { _ = h.Store.Close(ctx); return nil }

// A write is kept between the prober's look at the store and its announcement that all is well:
// nobody else would replay it.
func TestAWriteThatIsKeptWhileRedisComesBackIsReplayed(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	var armed atomic.Bool
	looked, goOn := make(chan struct{}), make(chan struct{})
	h := &hookedStore{Store: fallback.NewMemory(0)}
	h.stats = func() {
		if armed.CompareAndSwap(true, false) {
			close(looked)
			<-goOn
		}
	}
	c, ctx := newClient(t, proxy.Addr(), hasty, func(o *aside.Options) { o.Store = h }), testContext(t)
	require.NoError(t, c.Set(ctx, time.Hour, "k", "old"))
	proxy.Refuse()
	eventually(t, "it is noticed", func() bool { return !c.Stats().RedisConnected })
	armed.Store(true)
	proxy.Heal()
	await(t, looked)
	require.ErrorIs(t, c.Del(ctx, "k"), aside.ErrNotDurable)
	close(goOn)
	eventually(t, "it is replayed", func() bool { return server.Do("GET", "k") == nil })
}

func TestWhatCouldNotBeReadJustNowIsReplayedLater(t *testing.T) {
	t.Parallel() // it waits more than it works
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	h := &hookedStore{Store: fallback.NewMemory(0)}
	c, ctx := newClient(t, proxy.Addr(), hasty, func(o *aside.Options) { o.Store = h }), testContext(t)
	require.NoError(t, c.Set(ctx, time.Hour, "k", "old"))
	proxy.Refuse()
	awaitMode(t, c, aside.Degraded)
	require.ErrorIs(t, c.Del(ctx, "k"), aside.ErrNotDurable)
	h.blind.Store(true)
	proxy.Heal()
	awaitMode(t, c, aside.Healthy)
	h.blind.Store(false)
	eventually(t, "it is replayed", func() bool { return server.Do("GET", "k") == nil })
}

// The answer to a record's replay is in, and its key is claimed by the next before the record is
// settled.
func TestARecordIsSettledBeforeItsKeyIsFree(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	h := &hookedStore{Store: fallback.NewMemory(0)}
	answered, settleIt := make(chan struct{}), make(chan struct{})
	looked, askIt := make(chan struct{}), make(chan struct{})
	var n, m atomic.Int32
	var on atomic.Bool
	h.settle = func() {
		if on.Load() && m.Add(1) == 1 {
			close(answered)
			<-settleIt
		}
	}
	h.stamp = func() {
		if on.Load() && n.Add(1) == 2 {
			close(looked)
			<-askIt
		}
	}
	c, ctx := newClient(t, proxy.Addr(), hasty, func(o *aside.Options) { o.Store, o.DisableStamps = h, true }), testContext(t)
	proxy.Refuse()
	awaitMode(t, c, aside.Degraded)
	require.ErrorIs(t, c.Del(ctx, "k"), aside.ErrNotDurable)
	on.Store(true)
	proxy.Heal()
	<-answered
	got := make(chan struct{})
	go func() { defer close(got); _, _, _ = c.Peek(ctx, "k") }()
	select { // it must not get as far as this while the record is not settled
	case <-looked:
	case <-time.After(100 * time.Millisecond):
	}
	close(settleIt)
	eventually(t, "settled", func() bool { return h.Store.Stats().Deletes == 0 })
	require.NoError(t, c.Set(ctx, time.Hour, "k", "acked"))
	close(askIt)
	<-got
	require.Equal(t, "acked", server.Do("GET", "k"))
}

// A disk that hangs holds up nobody beyond its context.
func TestACallEndsWithItsContextWhileTheDiskHangs(t *testing.T) {
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	var on atomic.Bool
	letGo := make(chan struct{})
	h := &hookedStore{Store: fallback.NewMemory(0), get: func() {
		if on.Load() {
			<-letGo
		}
	}}
	c := newClient(t, proxy.Addr(), hasty, func(o *aside.Options) { o.Store = h })
	proxy.Refuse()
	awaitMode(t, c, aside.Degraded)
	_, err := c.Get(testContext(t), time.Hour, "k", newSource("v").Load) // which the store has now
	require.NoError(t, err)
	require.ErrorIs(t, c.Set(testContext(t), time.Millisecond, "k", "v"), aside.ErrNotDurable) // and memory has not
	eventually(t, "it has expired", func() bool {
		_, ok, err := c.Peek(testContext(t), "k")
		return err == nil && !ok
	})
	on.Store(true)
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	got := inBackground(func() (string, error) { return c.Get(ctx, time.Hour, "k", newSource("v").Load) })
	require.ErrorIs(t, await(t, got).Err, context.DeadlineExceeded)
	close(letGo)
}

// Nor does it hide why the call has ended.
func TestAWriteThatTheDiskDoesNotAnswerEndsAsItsContextDoes(t *testing.T) {
	c := newClient(t, "127.0.0.1:1", func(o *aside.Options) {
		o.RequireRedis, o.ConnectTimeout, o.Store = false, 0, silentStore{fallback.NewMemory(0)}
	})
	ctx, cancel := context.WithTimeout(testContext(t), 50*time.Millisecond)
	defer cancel()
	err := c.Set(ctx, time.Hour, "k", "v")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NotErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "cannot be kept")
	ctx, cancel = context.WithCancel(testContext(t))
	time.AfterFunc(10*time.Millisecond, cancel)
	require.ErrorIs(t, c.Del(ctx, "k"), context.Canceled)
}

// silentStore never answers a Put.
type silentStore struct{ fallback.Store }

func (silentStore) Put(ctx context.Context, _ ...fallback.Record) error {
	<-ctx.Done()
	return ctx.Err()
}

// Progress that a slow OnReplay has not heard yet is not told after the end.
func TestTheEndOfAReplayIsTheLastThatIsTold(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	_, option := durable(t)
	var at, most atomic.Int32
	told := make(chan aside.Replay, 100)
	slow := make(chan struct{})
	c, ctx := newClient(t, proxy.Addr(), hasty, option, func(o *aside.Options) {
		o.ReplayRate = 100
		o.OnReplay = func(r aside.Replay) {
			most.Store(max(most.Load(), at.Add(1)))
			<-slow
			told <- r
			at.Add(-1)
		}
	}), testContext(t)
	proxy.Refuse()
	awaitMode(t, c, aside.Degraded)
	for i := range 40 {
		require.NoError(t, c.Set(ctx, time.Hour, fmt.Sprint("k", i), "v"))
	}
	proxy.Heal()
	awaitMode(t, c, aside.Healthy)
	require.False(t, c.Health().Replay.Running)
	close(slow)
	last := await(t, told)
	for last.Running {
		last = await(t, told)
	}
	require.Equal(t, 40, last.Done)
	require.EqualValues(t, 1, most.Load(), "one call after the other")
	require.False(t, c.Health().Replay.Running)
}

func TestATouchOutlivesTheReplayOfItsKey(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	_, option := durable(t)
	c, ctx := newClient(t, proxy.Addr(), hasty, option, func(o *aside.Options) { o.ReplayRate = 5 }), testContext(t)
	proxy.Refuse()
	awaitMode(t, c, aside.Degraded)
	for i := range 20 {
		require.NoError(t, c.Set(ctx, time.Minute, fmt.Sprint("k", i), "v"))
	}
	proxy.Heal()
	eventually(t, "recovering", func() bool { return c.Health().Mode == aside.Recovering })
	for i := range 20 {
		require.NoError(t, c.Touch(ctx, time.Hour, fmt.Sprint("k", i)))
	}
	awaitMode(t, c, aside.Healthy)
	n := 0
	for i := range 20 {
		if ms, _ := server.Do("PTTL", fmt.Sprint("k", i)).(int64); ms < 120_000 {
			n++
		}
	}
	require.Zero(t, n, "keys whose acknowledged Touch is gone")
}

// throttle forwards to addr at some bytes a second.
func throttle(t testing.TB, addr string, perSecond int) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			a, err := l.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", addr)
			if err != nil {
				a.Close()
				continue
			}
			_ = a.(*net.TCPConn).SetReadBuffer(64 << 10)
			go func() { _, _ = io.Copy(a, b); a.Close() }()
			go func() {
				defer b.Close()
				buf := make([]byte, 16<<10)
				for {
					n, err := a.Read(buf)
					if n > 0 {
						if _, err := b.Write(buf[:n]); err != nil {
							return
						}
						time.Sleep(time.Duration(n) * time.Second / time.Duration(perSecond))
					}
					if err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

// What takes longer than RedisTimeout to send is replayed all the same, and does not take its shard
// down for ever.
func TestALargeBacklogOnASlowLinkIsReplayed(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	_, option := durable(t)
	c, ctx := newClient(t, throttle(t, server.Addr(), 50_000_000/8), hasty, option), testContext(t)
	require.NoError(t, c.Set(ctx, time.Hour, "big", strings.Repeat("x", 4<<20)), "it is kept") // 0.7 s on 50 Mbit/s
	server.Freeze()
	awaitMode(t, c, aside.Degraded)
	for i := range 100 {
		require.NoError(t, c.Set(ctx, time.Hour, fmt.Sprint("k", i), strings.Repeat("x", 32<<10)))
	}
	server.Thaw()
	eventually(t, "all is replayed", func() bool { return c.Stats().Pending == 0 })
	require.EqualValues(t, 4<<20, server.Do("STRLEN", "big"))
}

// A Set without an answer is kept after a later Del of this process was done: the record is older
// than what Redis knows.
func TestARecordThatIsOlderThanWhatWasDoneIsNotBelieved(t *testing.T) {
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	h := &hookedStore{Store: fallback.NewMemory(0)}
	putting, goOn := make(chan struct{}), make(chan struct{})
	h.put = func() { close(putting); <-goOn }
	c, ctx := newClient(t, proxy.Addr(), hasty, func(o *aside.Options) { o.Store, o.RedisTimeout = h, 250*time.Millisecond }), testContext(t)
	proxy.CutReplies()
	setting := inBackground(func() (string, error) { return "", c.Set(ctx, time.Hour, "k", "old") })
	await(t, putting)
	proxy.HealDropping()
	eventually(t, "it is deleted", func() bool { return c.Del(ctx, "k") == nil })
	close(goOn)
	require.ErrorIs(t, await(t, setting).Err, aside.ErrNotDurable)
	require.Zero(t, c.Stats().Pending)
	proxy.Refuse()
	awaitMode(t, c, aside.Degraded)
	value, err := c.Get(ctx, time.Hour, "k", newSource("new").Load)
	require.NoError(t, err)
	require.Equal(t, "new", value)
}
