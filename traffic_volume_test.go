package aside_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

// What is on the way, and not the server, makes an answer late: it must not look like an outage,
// and nothing that is in Redis is loaded. The clients have the timeouts of a service that has set none.
// A machine that is itself late by that much proves nothing: see besides.

// defaults are the timeouts of a service that has set none, and no memory, so that all is asked
// for.
func defaults(o *aside.Options) {
	o.RedisTimeout, o.LockTTL, o.StaleLease, o.MemoryBytes = 0, 0, 0, -1
}

// fillDirectly puts n values of that size into server, as another process would have.
func fillDirectly(t testing.TB, server *redistest.Server, n, size int) (keys []string) {
	t.Helper()
	value := strings.Repeat("v", size)
	c := newClient(t, server.Addr(), untracked, func(o *aside.Options) { o.RedisTimeout, o.LockTTL = 20*time.Second, time.Minute })
	redis, _ := c.Redis()
	for i := 0; i < n; i += 1000 {
		commands := make([]rueidis.Completed, 0, 1000)
		for j := i; j < min(i+1000, n); j++ {
			keys = append(keys, fmt.Sprintf("volume:%d", j))
			commands = append(commands, redis.B().Set().Key(keys[j]).Value(value).Build())
		}
		for _, result := range redis.DoMulti(testContext(t), commands...) {
			require.NoError(t, result.Error())
		}
	}
	return keys
}

// besides sets small values, one after the other, until the returned function is called. Each must
// be acknowledged, and c must never have been without Redis. Where it was, and a server that has nothing
// to do was late meanwhile, too, or server and we had to wait for a processor for much of the time, the
// machine was late: then the function returns false, and what came of all that was asked meanwhile proves
// nothing.
func besides(t testing.TB, c *aside.Client, server *redistest.Server) (end func() (calm bool)) {
	t.Helper()
	const (
		late  = 100 * time.Millisecond // of the 250 that a request has
		queue = 0.4                    // three threads of ours, on two processors that nobody else uses, wait for a third of the time
	)
	stop, latest, waited := make(chan struct{}), watchIdleServer(t), watchProcessors(server)
	var sets sync.WaitGroup
	var failed error
	sets.Go(func() { // ends with stop
		for i := 0; failed == nil; i++ {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			if err := c.Set(testContext(t), time.Minute, "beside", "small"); err != nil {
				failed = fmt.Errorf("small Set %d: %w", i, err)
			}
		}
	})
	return func() (calm bool) {
		t.Helper()
		close(stop)
		sets.Wait()
		busy, share := latest(), waited()
		stats := c.Stats()
		if (busy > late || share > queue) && (failed != nil || stats.Outages+stats.RedisErrors+stats.FillsRefused > 0) {
			t.Logf("an idle server beside was %v late, and what had work to do waited for a processor for %.2f of the time, so %d outages, %d errors, %d refused fills and a Set that may have failed (%v) say nothing of the client",
				busy, share, stats.Outages, stats.RedisErrors, stats.FillsRefused, failed)
			eventually(t, "what was kept is replayed: Close would say that it is lost", func() bool { return c.Stats().Pending == 0 })
			return false
		}
		require.NoError(t, failed)
		require.Equal(t, aside.Healthy, c.Health().Mode)
		require.Zero(t, c.Stats().Outages, "%v", c.Health().Err)
		return true
	}
}

// watchProcessors watches for how much of the time in which server, or we, have something to do they
// wait for a processor, until the returned function is called, which says the larger share. 0 where the
// system does not tell.
func watchProcessors(server *redistest.Server) (waited func() (share float64)) {
	pids := []string{"self"}
	if _, after, ok := strings.Cut(fmt.Sprint(server.Do("INFO", "server")), "process_id:"); ok && redistest.Backend() == "binary" {
		pid, _, _ := strings.Cut(after, "\r\n")
		pids = append(pids, pid)
	}
	began := make([][2]float64, len(pids))
	for i, pid := range pids {
		began[i] = processorTimes(pid)
	}
	return func() (share float64) {
		for i, pid := range pids {
			now := processorTimes(pid)
			if ran, waits := now[0]-began[i][0], now[1]-began[i][1]; ran > 0 && waits > 0 {
				share = max(share, waits/(ran+waits))
			}
		}
		return share
	}
}

// processorTimes is for how long the threads of a process have run, and waited to run, in nanoseconds.
func processorTimes(pid string) (times [2]float64) {
	threads, _ := filepath.Glob("/proc/" + pid + "/task/*/schedstat")
	for _, thread := range threads {
		text, _ := os.ReadFile(thread)
		var ran, waited float64
		if n, _ := fmt.Sscan(string(text), &ran, &waited); n == 2 {
			times[0], times[1] = times[0]+ran, times[1]+waited
		}
	}
	return times
}

// watchIdleServer asks a server that nobody else uses, all the time, until the returned function is
// called, which says how late an answer was at most.
func watchIdleServer(t testing.TB) (latest func() time.Duration) {
	t.Helper()
	conn, err := net.Dial("tcp", redistest.Start(t).Addr())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	stop, most := make(chan struct{}), make(chan time.Duration, 1)
	go func() { // ends with stop
		longest := time.Duration(0)
		for in := bufio.NewReader(conn); ; {
			const nap = 2 * time.Millisecond
			began := time.Now()
			select {
			case <-stop:
				most <- longest
				return
			case <-time.After(nap):
			}
			if _, err := io.WriteString(conn, "PING\r\n"); err == nil {
				_, _ = in.ReadString('\n')
			}
			longest = max(longest, time.Since(began)-nap)
		}
	}()
	return func() time.Duration {
		close(stop)
		return <-most
	}
}

func TestManyKeysAtOnceAreNoOutage(t *testing.T) {
	for _, test := range []struct{ keys, bytes int }{{500, 100 << 10}, {5_000, 10 << 10}, {20_000, 1 << 10}, {40_000, 100}} {
		t.Run(fmt.Sprintf("%d of %d bytes", test.keys, test.bytes), func(t *testing.T) {
			server := redistest.Start(t)
			keys := fillDirectly(t, server, test.keys, test.bytes)
			c, db := newClient(t, server.Addr(), defaults), newSource("loaded")
			end := besides(t, c, server)
			values, err := c.GetMulti(testContext(t), time.Minute, keys, db.LoadMany)
			if !end() {
				return
			}
			require.NoError(t, err)
			require.Len(t, values, len(keys))
			require.Zero(t, db.Calls.Load())
		})
	}
}

func TestLargeValuesOnASlowLinkAreNoOutage(t *testing.T) {
	for _, test := range []struct{ keys, bytes, megabits int }{{3, 8 << 20, 100}, {4, 8 << 20, 400}, {16, 4 << 20, 1000}} {
		t.Run(fmt.Sprintf("%d of %d bytes at %d Mbit", test.keys, test.bytes, test.megabits), func(t *testing.T) {
			server := redistest.Start(t)
			keys := fillDirectly(t, server, test.keys, test.bytes)
			proxy := faultproxy.New(t, server.Addr())
			c, db := newClient(t, proxy.Addr(), defaults), newSource("loaded")
			proxy.Throttle(test.megabits * 1e6 / 8)
			end := besides(t, c, server)
			var gets []<-chan result
			for _, key := range keys {
				gets = append(gets, inBackground(func() (string, error) { return c.Get(testContext(t), time.Minute, key, db.Load) }))
			}
			var got []result
			for _, get := range gets {
				got = append(got, await(t, get))
			}
			if !end() {
				return
			}
			for i, r := range got {
				require.NoError(t, r.Err, keys[i])
				require.Len(t, r.Value, test.bytes, keys[i])
			}
			require.Zero(t, db.Calls.Load())
		})
	}
}

func TestLargeValuesAreStoredThroughASlowLink(t *testing.T) {
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	c, ctx := newClient(t, proxy.Addr(), defaults), testContext(t)
	proxy.Throttle(100e6 / 8)
	large := strings.Repeat("v", 8<<20)
	db := newSource(large)
	end := besides(t, c, server)
	var writes []<-chan result
	for i := range 2 {
		writes = append(writes, inBackground(func() (string, error) { return "", c.Set(ctx, time.Minute, fmt.Sprintf("set:%d", i), large) }))
	}
	_, err := c.Get(ctx, time.Minute, "loaded", db.Load)
	require.NoError(t, err)
	var wrote []result
	for _, write := range writes {
		wrote = append(wrote, await(t, write))
	}
	awaitNobody(t, c)
	if !end() {
		return
	}
	for _, r := range wrote {
		require.NoError(t, r.Err)
	}
	proxy.Throttle(0)
	for _, key := range []string{"set:0", "set:1", "loaded"} {
		value, ok, err := c.Peek(ctx, key)
		require.NoError(t, err)
		require.True(t, ok, key)
		require.Len(t, value, len(large))
	}
}

func TestADelOfManyKeysIsNoOutage(t *testing.T) {
	server := redistest.Start(t)
	keys := fillDirectly(t, server, 100_000, 10)
	c := newClient(t, server.Addr(), defaults)
	end := besides(t, c, server)
	err := c.Del(testContext(t), keys...)
	if !end() {
		return
	}
	require.NoError(t, err)
	found, err := c.LookMulti(testContext(t), keys[:1000])
	require.NoError(t, err)
	require.Empty(t, found)
}

// A frozen server is noticed though large values are on the way to it and from it.
func TestAFreezeIsNoticedBehindLargeValues(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	keys := fillDirectly(t, server, 4, 8<<20)
	proxy := faultproxy.New(t, server.Addr())
	c, db := newClient(t, proxy.Addr(), defaults, func(o *aside.Options) { o.FallbackDir = t.TempDir() }), newSource("loaded")
	proxy.Throttle(50e6 / 8)
	ctx := t.Context()
	var gets sync.WaitGroup
	for _, key := range keys {
		gets.Go(func() { _, _ = c.Get(ctx, time.Minute, key, db.Load) })
	}
	gets.Go(func() { _ = c.Set(ctx, time.Minute, "large", strings.Repeat("v", 8<<20)) })
	proxy.BlackHole()
	eventually(t, "the freeze is noticed", func() bool { return c.Health().Mode == aside.Degraded })
	gets.Wait()
	require.EqualValues(t, len(keys), db.Calls.Load())
}

// What callers have given up stays in rueidis's ring until it is answered. If it were full, others
// would wait in it whatever their context says.
func TestASmallRingIsNeverFull(t *testing.T) {
	server := redistest.Start(t)
	proxy := counted(t, server)
	c := newClient(t, proxy.Addr(), func(o *aside.Options) {
		o.Redis.RingScaleEachConn, o.RedisTimeout, o.LockTTL, o.StaleLease = 3, 20*time.Second, time.Minute, time.Minute
	})
	proxy.CutReplies()
	proxy.ResetCounts()
	ctx, cancel := context.WithCancel(context.Background())
	var gets sync.WaitGroup
	for i := range 30 {
		gets.Go(func() { _, _ = c.Get(ctx, time.Minute, fmt.Sprint(i), mustNotLoad) })
	}
	eventually(t, "as many commands are out as may be", func() bool { return proxy.Commands() >= 4 })
	cancel()
	gets.Wait()
	next, end := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer end()
	_, err := c.Get(next, time.Minute, "next", mustNotLoad)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	proxy.Heal()
	value, err := c.Get(testContext(t), time.Minute, "next", newSource("v").Load)
	require.NoError(t, err)
	require.Equal(t, "v", value)
}
