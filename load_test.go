package aside_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

// Who waits since before the loader was called has what it returned before that is stored: see ADR
// 7. In these tests the fill hangs in the proxy.

// answerEarly has c load "v" for keys, each by itself, and returns when callers have it and the
// fills hang in the proxy.
func answerEarly(t testing.TB, c *aside.Client, proxy *faultproxy.Proxy, keys ...string) {
	t.Helper()
	ctx, db := testContext(t), newSource("v")
	letGo := db.HoldUp()
	var loading []<-chan result
	for _, key := range keys {
		loading = append(loading, inBackground(func() (string, error) { return c.Get(ctx, time.Minute, key, db.Load) }))
	}
	for range keys {
		db.AwaitBegin(t)
	}
	proxy.CutRequests()
	letGo()
	for _, l := range loading {
		require.Equal(t, result{Value: "v"}, await(t, l))
	}
}

func TestWhatIsLoadedIsAnsweredBeforeItIsStored(t *testing.T) {
	server := redistest.Start(t)
	proxy := counted(t, server)
	c, ctx := newClient(t, proxy.Addr()), testContext(t)
	answerEarly(t, c, proxy, "k")
	require.Contains(t, server.Do("GET", "k"), "\x00aside:lock:")
	// A caller that asks now waits for the fill: only that tells whether the value is still true.
	later := inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "k", mustNotLoad) })
	awaitShared(t, c, 1)
	proxy.Heal()
	require.Equal(t, result{Value: "v"}, await(t, later))
	require.Equal(t, "v", server.Do("GET", "k"))
}

func TestWhoAsksBeforeARefusedFillIsAnsweredLoadsAnew(t *testing.T) {
	server := redistest.Start(t)
	proxy := counted(t, server)
	c, other, ctx := newClient(t, proxy.Addr()), newClient(t, server.Addr()), testContext(t)
	answerEarly(t, c, proxy, "k")
	require.NoError(t, other.Del(ctx, "k"))
	later := inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "k", newSource("new").Load) })
	awaitShared(t, c, 1)
	proxy.Heal()
	require.Equal(t, result{Value: "new"}, await(t, later))
	require.EqualValues(t, 1, c.Stats().FillsRefused)
}

// Whatever else a caller asks about the key, or does to it, finds the value that Get has returned
// to it, and not the lock.
func TestOtherCallsWaitForTheFill(t *testing.T) {
	t.Parallel()
	for name, call := range map[string]func(ctx context.Context, c *aside.Client) (any, error){
		"Peek": func(ctx context.Context, c *aside.Client) (any, error) {
			value, _, err := c.Peek(ctx, "k")
			return value, err
		},
		"Look": func(ctx context.Context, c *aside.Client) (any, error) {
			found, err := c.Look(ctx, "k")
			return found.Value, err
		},
		"LookMulti": func(ctx context.Context, c *aside.Client) (any, error) {
			found, err := c.LookMulti(ctx, []string{"other", "k"})
			return found["k"].Value, err
		},
		"Touch": func(ctx context.Context, c *aside.Client) (any, error) {
			return "v", c.Touch(ctx, time.Hour, "k")
		},
		"Update": func(ctx context.Context, c *aside.Client) (found any, err error) {
			return found, c.Update(ctx, []string{"k"}, func(ctx context.Context, r rueidis.Client) (err error) {
				found, err = r.Do(ctx, r.B().Get().Key("k").Build()).ToString()
				return errors.Join(err, r.Do(ctx, r.B().Pexpire().Key("k").Milliseconds(time.Hour.Milliseconds()).Build()).Error())
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			proxy := counted(t, server)
			c, ctx := newClient(t, proxy.Addr()), testContext(t)
			_, err := c.Get(ctx, time.Minute, "warm", newSource("").Load) // the server knows the scripts
			require.NoError(t, err)
			stored(t, c, "warm")
			proxy.ResetCounts()
			answerEarly(t, c, proxy, "k")
			eventually(t, "the fill was sent", func() bool { return proxy.Commands() == 2 })
			hurried, cancel := context.WithTimeout(ctx, 30*time.Millisecond)
			defer cancel()
			_, err = call(hurried, c)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Equal(t, 2, proxy.Commands(), "it has not asked")
			type answer struct {
				value any
				err   error
			}
			calling := make(chan answer, 1)
			go func() {
				value, err := call(ctx, c)
				calling <- answer{value, err}
			}()
			proxy.Heal()
			require.Equal(t, answer{"v", nil}, await(t, calling))
			if name == "Touch" || name == "Update" {
				require.Greater(t, server.Do("PTTL", "k"), (2 * time.Minute).Milliseconds())
			}
		})
	}
}

// Callers who ask faster than Redis can store wait for it, as else what they have loaded would pile
// up.
func TestOnlySoMuchIsEarly(t *testing.T) {
	server := redistest.Start(t)
	proxy := counted(t, server)
	c, db, ctx := newClient(t, proxy.Addr()), newSource(strings.Repeat("x", 600<<10)), testContext(t)
	letGo := db.HoldUp()
	var answered atomic.Int64
	const n = 4
	var loading []<-chan result
	for i := range n {
		loading = append(loading, inBackground(func() (string, error) {
			defer answered.Add(1)
			return c.Get(ctx, time.Minute, fmt.Sprint("k", i), db.Load)
		}))
	}
	for range n {
		db.AwaitBegin(t)
	}
	proxy.CutRequests()
	before := proxy.Commands()
	letGo()
	eventually(t, "one has its value", func() bool { return answered.Load() > 0 })
	eventually(t, "all fills are on their way", func() bool { return proxy.Commands() >= before+n })
	require.EqualValues(t, 1, answered.Load())
	proxy.Heal()
	for _, l := range loading {
		require.NoError(t, await(t, l).Err)
	}
}

// What nobody waits for is stored in pieces, so that commands of callers who do wait get in
// between.
func TestManyAreStoredInPieces(t *testing.T) {
	server := redistest.Start(t)
	proxy := counted(t, server)
	c, ctx := newClient(t, proxy.Addr()), testContext(t)
	_, err := c.GetMulti(ctx, time.Minute, []string{"warm", "up"}, newSource("").LoadMany) // the server knows the scripts
	require.NoError(t, err)
	stored(t, c, "warm", "up")
	var keys []string
	for i := range 10 * 64 {
		keys = append(keys, fmt.Sprint("k", i))
	}
	proxy.ResetCounts()
	got, err := c.GetMulti(ctx, time.Minute, keys, func(ctx context.Context, keys []string) (map[string]string, error) {
		proxy.CutReplies()
		return newSource("v").LoadMany(ctx, keys)
	})
	require.NoError(t, err)
	require.Len(t, got, len(keys))
	eventually(t, "the locks, and one piece", func() bool { return proxy.Commands() == 10+1 })
	time.Sleep(20 * time.Millisecond) // in which more would come, if it did not wait for an answer
	require.Equal(t, 10+1, proxy.Commands())
	proxy.Heal()
	awaitNobody(t, c)
	require.Equal(t, 10+10, proxy.Commands())
	require.Less(t, proxy.RoundTrips(), 10, "1, 2, 4, and what is left")
	for _, key := range keys {
		require.Equal(t, "v", server.Do("GET", key))
	}
}

// A lock that is only given back holds nobody up either, but for those who came later.
func TestWhatIsNotStoredIsEarlyToo(t *testing.T) {
	server := redistest.Start(t)
	proxy := counted(t, server)
	c, ctx := newClient(t, proxy.Addr(), func(o *aside.Options) { o.MaxValueBytes = 10 }), testContext(t)
	_, err := c.Get(ctx, time.Minute, "absent", func(context.Context, string) (string, error) {
		proxy.CutRequests()
		return "", aside.ErrNotFound
	}, aside.WithNegativeTTL(-1))
	require.ErrorIs(t, err, aside.ErrNotFound)
	require.Contains(t, server.Do("GET", "absent"), "\x00aside:lock:")
	proxy.Heal()
	stored(t, c, "absent")
	require.Nil(t, server.Do("GET", "absent"))
	value, err := c.Get(ctx, time.Minute, "large", func(context.Context, string) (string, error) {
		proxy.CutRequests()
		return "eleven bytes", nil
	})
	require.NoError(t, err)
	require.Equal(t, "eleven bytes", value)
	later := inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "large", mustNotLoad) })
	awaitShared(t, c, 1)
	proxy.Heal()
	require.Equal(t, result{Value: "eleven bytes"}, await(t, later), "the lock was ours to the end")
	require.Nil(t, server.Do("GET", "large"))
}

// Redis dies between the loader's return and the fill: the callers have their value, and who came
// later loads.
func TestRedisDiesBeforeTheFill(t *testing.T) {
	server := redistest.Start(t)
	proxy := counted(t, server)
	c, ctx := newClient(t, proxy.Addr(), hasty), testContext(t)
	answerEarly(t, c, proxy, "k")
	later := inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "k", newSource("again").Load) })
	awaitShared(t, c, 1)
	proxy.Refuse()
	r := await(t, later)
	require.NoError(t, r.Err)
	require.Contains(t, []string{"v", "again"}, r.Value)
	eventually(t, "it is noticed", func() bool { return c.Health().Mode == aside.Degraded })
	// What was loaded before the outage was noticed is not kept: it may have to be loaded once
	// more.
	eventually(t, "it is remembered here", func() bool {
		again, err := c.Get(ctx, time.Minute, "k", newSource("again").Load)
		require.NoError(t, err)
		require.Contains(t, []string{"v", "again"}, again)
		value, ok, err := c.Peek(ctx, "k")
		return err == nil && ok && value == again
	})
	proxy.Heal()
	awaitMode(t, c, aside.Healthy)
}

// Where a fill is refused with an error, its lock is nobody's: who asks next need not wait until it
// ends.
func TestAFillThatFailsLeavesNoLockBehind(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr(), func(o *aside.Options) { o.LockTTL = time.Hour }), testContext(t)
	var keys []string
	for i := range 300 {
		keys = append(keys, fmt.Sprint("k", i))
	}
	_, err := c.GetMulti(ctx, time.Minute, keys, func(ctx context.Context, keys []string) (map[string]string, error) {
		server.Do("ACL", "SETUSER", "default", "-psetex")
		return newSource("v").LoadMany(ctx, keys)
	})
	require.NoError(t, err)
	stored(t, c, keys...)
	server.Do("ACL", "SETUSER", "default", "+psetex")
	value, err := c.Get(ctx, time.Minute, keys[0], newSource("again").Load)
	require.NoError(t, err)
	require.Equal(t, "again", value)
}

// However long the way to Redis is: no lock runs out because other pieces go first.
func TestPiecesDoNotOutliveTheirLocks(t *testing.T) {
	t.Parallel() // it waits more than it works
	server := redistest.Start(t)
	proxy := counted(t, server)
	c, ctx := newClient(t, proxy.Addr(), func(o *aside.Options) { o.RedisTimeout, o.LockTTL = 2*time.Second, 4*time.Second }), testContext(t)
	var keys []string
	for i := range 3000 {
		keys = append(keys, fmt.Sprint("k", i))
	}
	proxy.Delay(200 * time.Millisecond)
	_, err := c.GetMulti(ctx, time.Minute, keys, newSource("v").LoadMany)
	require.NoError(t, err)
	awaitNobody(t, c)
	require.Zero(t, c.Stats().FillsRefused)
	require.Equal(t, "v", server.Do("GET", keys[len(keys)-1]))
}

func TestStoreFirst(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr(), func(o *aside.Options) { o.StoreFirst = true }), testContext(t)
	for i := range 200 {
		key := fmt.Sprint("k", i)
		_, err := c.Get(ctx, time.Minute, key, newSource("v").Load)
		require.NoError(t, err)
		require.Equal(t, "v", server.Do("GET", key))
		_, err = c.GetMulti(ctx, time.Minute, []string{"m" + key, "n" + key}, newSource("v").LoadMany)
		require.NoError(t, err)
		require.Equal(t, "v", server.Do("GET", "n"+key))
	}
}

// Two hundred who wait for one key decode it once, also where memory does not have it yet.
func TestWhatIsEarlyIsDecodedOnce(t *testing.T) {
	server := redistest.Start(t)
	proxy := counted(t, server)
	c, ctx := newClient(t, proxy.Addr()), testContext(t)
	var decoded atomic.Int64
	view := aside.Typed(c, codec.Func(
		func(n int) (string, error) { return fmt.Sprint(n), nil },
		func(s string) (n int, err error) {
			decoded.Add(1)
			_, err = fmt.Sscan(s, &n)
			return n, err
		}))
	const n = 200
	proxy.CutRequests() // until all have joined, and the loader cannot be called yet
	got := make(chan int, n)
	for range n {
		go func() {
			v, err := view.Get(ctx, time.Minute, "k", func(context.Context, string) (int, error) {
				proxy.CutRequests()
				return 42, nil
			})
			if err != nil {
				t.Error(err)
			}
			got <- v
		}()
	}
	awaitShared(t, c, n-1)
	proxy.Heal()
	for range n {
		require.Equal(t, 42, await(t, got))
	}
	require.EqualValues(t, 2, decoded.Load(), "and once more by the check of a view's first loads")
	proxy.Heal()
	stored(t, c, "k")
	v, err := view.Get(ctx, time.Minute, "k", func(context.Context, string) (int, error) { return 0, fmt.Errorf("the loader was called") })
	require.NoError(t, err)
	require.Equal(t, 42, v)
	if !oldRedis(server) {
		require.EqualValues(t, 2, decoded.Load(), "memory has it decoded")
	}
}
