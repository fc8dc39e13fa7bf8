package aside

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/redistest"
	"github.com/redaside/aside/internal/script"
	"github.com/redaside/aside/internal/wire"
)

func newConnected(t *testing.T, addr string, change ...func(*Options)) *Client {
	t.Helper()
	o := Options{
		Redis: rueidis.ClientOption{InitAddress: []string{addr}}, ConnectTimeout: 20 * time.Second, RequireRedis: true,
		RedisTimeout: 2 * time.Second, LockTTL: 10 * time.Second, Logger: slog.New(slog.DiscardHandler),
	}
	for _, one := range change {
		one(&o)
	}
	c, err := New(o)
	require.NoError(t, err)
	t.Cleanup(func() {
		err := c.Close()
		if o.FallbackDir != "" && errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, fallback.ErrDisk) {
			err = awaitDisk(o.FallbackDir)
		}
		require.NoError(t, err)
	})
	return c
}

// awaitDisk waits until the disk has done its part for a closed client, as harness.Closed does for the
// tests of another package: that Close gives it 2 seconds is nothing of theirs.
func awaitDisk(dir string) error {
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		store, err := fallback.Open(dir, fallback.Options{Logger: slog.New(slog.DiscardHandler)})
		switch {
		case err == nil:
			return store.Close(context.Background())
		case !errors.Is(err, fallback.ErrLocked) || time.Now().After(end):
			return err
		}
	}
}

// Each acquisition has a marker of its own, with the server's time in it, and only that marker
// fills.
func TestAMarkerIsUniquePerAcquisition(t *testing.T) {
	server := redistest.Start(t)
	c := newConnected(t, server.Addr())
	ctx, sh := t.Context(), c.link.Shards()[0]
	acquire := func() finding {
		a := asking{f: &flight{key: "k"}}
		leader{c, nil, &plan{}}.readOrLock(ctx, &a)
		require.NoError(t, a.err)
		return a.found
	}
	first := acquire()
	require.True(t, first.mine)
	require.Regexp(t, `^\x00aside:lock:[0-9a-f-]{36}:[0-9a-z]+:[0-9]{16}$`, first.stored)
	again := acquire()
	require.Equal(t, wire.Lock, again.content)
	require.False(t, again.mine, "our own client's other acquisition is somebody else's lock")
	require.Positive(t, again.ttl)

	server.Do("DEL", "k")
	second := acquire()
	require.True(t, second.mine)
	require.NotEqual(t, first.stored, second.stored)
	run := func(s *script.Script, args ...string) int64 {
		q := link.NewCall(s, "k", args...)
		c.link.Run(ctx, sh, q)
		flags, err := q.Flags()
		require.NoError(t, err)
		return flags[0]
	}
	require.Zero(t, run(script.Fill, first.stored, "stale", "60000"), "the first load was overtaken")
	require.Zero(t, run(script.Renew, "60000", first.stored))
	require.Zero(t, run(script.Release, first.stored))
	require.EqualValues(t, 1, run(script.Renew, "60000", second.stored))
	require.Greater(t, server.Do("PTTL", "k"), int64(20_000))
	require.EqualValues(t, 1, run(script.Fill, second.stored, "v", "60000"))
	require.Zero(t, run(script.Fill, second.stored, "twice", "60000"), "a fill that is sent twice is refused")
	require.Equal(t, "v", server.Do("GET", "k"))
}

// The stamp of a marker is the server's time at the start of the load.
func TestAMarkersStampIsTheServersTime(t *testing.T) {
	server := redistest.Start(t)
	c := newConnected(t, server.Addr())
	sh := c.link.Shards()[0]
	clock := server.Do("TIME").([]any)
	var seconds, micros, stamp int64
	_, err := fmt.Sscan(clock[0].(string), &seconds)
	require.NoError(t, err)
	_, err = fmt.Sscan(clock[1].(string), &micros)
	require.NoError(t, err)
	marker := c.newMarker(sh)
	_, err = fmt.Sscan(marker[len(marker)-16:], &stamp)
	require.NoError(t, err)
	require.InDelta(t, seconds*1e6+micros, stamp, 1e6)
}

// Who finds a lock of ours looks whether its load is under way, while that load may just be
// storing. (For the race detector.)
func TestALockOfOurOwnIsLookedUpWhileItsLoadIsStored(t *testing.T) {
	server := redistest.Start(t)
	c := newConnected(t, server.Addr())
	for i := range 20 {
		var asking sync.WaitGroup
		_, err := c.GetMulti(t.Context(), time.Minute, []string{fmt.Sprint("a", i), fmt.Sprint("b", i), fmt.Sprint("c", i)}, func(_ context.Context, keys []string) (map[string]string, error) {
			found := make(map[string]string)
			for _, key := range keys {
				found[key] = "v"
			}
			waits := c.counted.lockWaits.Load()
			for range 4 {
				for _, key := range keys {
					writer{c}.drop([]string{key}) // as a write does last, so that the next Get asks
					asking.Go(func() {
						_, err := c.Get(t.Context(), time.Minute, key, func(context.Context, string) (string, error) { return "", fmt.Errorf("%s is being loaded", key) })
						if err != nil {
							t.Error(err)
						}
					})
				}
			}
			for c.counted.lockWaits.Load() == waits {
				runtime.Gosched()
			}
			return found, nil
		})
		require.NoError(t, err)
		asking.Wait()
	}
}

func TestWhenALockHasHadItsTime(t *testing.T) {
	const second = int64(time.Second)
	lock := func(ttl time.Duration) finding { return finding{stored: "\x00aside:lock:a", ttl: ttl} }
	var s stuck
	look := func(at int64, f finding) bool { return s.overdue(f, at*second, 2*time.Second) }

	require.False(t, look(1, lock(2*time.Second)))
	require.False(t, look(2, lock(time.Second)))
	require.False(t, look(3, lock(time.Second)), "renewed since")
	require.False(t, look(4, lock(2*time.Second)), "renewed again")
	require.False(t, look(5, finding{stored: "\x00aside:lock:b", ttl: time.Hour}), "another lock")
	require.False(t, look(6, finding{stored: "\x00aside:lock:b", ttl: time.Hour - time.Second}))
	require.True(t, look(7, finding{stored: "\x00aside:lock:b", ttl: time.Hour - 2*time.Second}), "nobody's LockTTL is an hour")

	require.False(t, look(10, lock(time.Hour)))
	require.False(t, look(12, lock(2*time.Second)), "a living holder has put it right")
	require.False(t, look(20, lock(30*time.Second)))
	require.False(t, look(25, lock(25*time.Second)), "perhaps its client's LockTTL is 30 seconds")
	require.True(t, look(36, lock(14*time.Second)), "then it would have been renewed by now")

	s = stuck{}
	require.False(t, look(50, lock(-time.Millisecond)))
	require.True(t, look(52, lock(-time.Millisecond)), "it does not end")
	require.False(t, look(60, finding{stored: "rueidisid:1", ttl: 30 * time.Second}))
	require.True(t, look(62, finding{stored: "rueidisid:1", ttl: 28 * time.Second}), "others do not renew")
}
