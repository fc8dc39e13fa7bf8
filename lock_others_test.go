package aside_test

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

// What other clients leave in our keys: locks that nobody renews, the marks of other libraries.

var peerMarks = []string{
	"rueidisid:01HZXK3V9Q8Y6T5R4E3W2Q1AZS", "valkeyid:01HZXK3V9Q8Y6T5R4E3W2Q1AZS", "__redcache:lock:0190f8a4-7b1c-7c3e-9d55-0242ac120002",
}

// A reader would get the mark of another library as the value, or wait for as long as the value may
// live.
func TestAPeersMarkIsNeverAValue(t *testing.T) {
	t.Parallel() // it waits more than it works
	server := redistest.Start(t)
	short := func(o *aside.Options) { o.RedisTimeout, o.LockTTL = 500*time.Millisecond, time.Second }
	for i, mark := range peerMarks {
		c, ctx := newClient(t, server.Addr(), short), testContext(t)
		key := func(name string) string {
			k := fmt.Sprint(name, i)
			server.Do("SET", k, mark, "PX", time.Hour.Milliseconds())
			return k
		}
		_, ok, err := c.Peek(ctx, key("peek"))
		require.NoError(t, err)
		require.False(t, ok)
		_, err = c.Look(ctx, key("look"))
		require.ErrorIs(t, err, aside.ErrNotFound)
		found, err := c.LookMulti(ctx, []string{key("lookmulti")})
		require.NoError(t, err)
		require.Empty(t, found)

		value, err := c.Get(ctx, time.Minute, key("get"), newSource("loaded").Load)
		require.NoError(t, err)
		require.Equal(t, "loaded", value)
		values, err := c.GetMulti(ctx, time.Minute, []string{key("multi")}, newSource("loaded").LoadMany)
		require.NoError(t, err)
		require.Equal(t, map[string]string{fmt.Sprint("multi", i): "loaded"}, values)

		require.NoError(t, c.Touch(ctx, 2*time.Hour, key("touch")))
		require.LessOrEqual(t, server.Do("PTTL", fmt.Sprint("touch", i)), time.Hour.Milliseconds())

		require.NoError(t, c.Set(ctx, time.Minute, key("set"), mark), "what a caller sets is a value, whatever it looks like")
		value, err = c.Get(ctx, time.Minute, fmt.Sprint("set", i), mustNotLoad)
		require.NoError(t, err)
		require.Equal(t, mark, value)
	}
}

// While it loads, a peer is waited for: what it stores is the value.
func TestAPeerThatLoadsIsWaitedFor(t *testing.T) {
	server := redistest.Start(t)
	c := newClient(t, server.Addr())
	server.Do("SET", "k", peerMarks[0], "PX", time.Hour.Milliseconds())
	got := inBackground(func() (string, error) { return c.Get(testContext(t), time.Minute, "k", mustNotLoad) })
	eventually(t, "it waits", func() bool { return c.Stats().LockWaits > 0 })
	server.Do("SET", "k", "the peer's", "PX", time.Hour.Milliseconds())
	r := await(t, got)
	require.NoError(t, r.Err)
	require.Equal(t, "the peer's", r.Value)
}

// A lock of another client that was made an hour long, by a clock that was set back, would be
// waited for that long.
func TestALockThatNobodyRenewsIsWaitedForLockTTL(t *testing.T) {
	t.Parallel() // it waits more than it works
	server := redistest.Start(t)
	for _, many := range []bool{false, true} {
		server.Empty()
		holder, c := newClient(t, server.Addr()), newClient(t, server.Addr(), func(o *aside.Options) {
			o.RedisTimeout, o.LockTTL = 500*time.Millisecond, time.Second
		})
		db := newSource("the holder's")
		letGo := db.HoldUp()
		held := inBackground(func() (string, error) { return holder.Get(testContext(t), time.Minute, "k", db.Load) })
		db.AwaitBegin(t)
		server.Do("PEXPIRE", "k", time.Hour.Milliseconds()) // the holder's LockTTL is 10 s, so that its next renewal is late
		if many {
			values, err := c.GetMulti(testContext(t), time.Minute, []string{"k"}, newSource("loaded").LoadMany)
			require.NoError(t, err)
			require.Equal(t, "loaded", values["k"])
		} else {
			value, err := c.Get(testContext(t), time.Minute, "k", newSource("loaded").Load)
			require.NoError(t, err)
			require.Equal(t, "loaded", value)
		}
		stored(t, c, "k")
		letGo()
		await(t, held)
		require.Equal(t, "loaded", server.Do("GET", "k"), "the overtaken load fills nothing")
	}
}

// A client may have a longer LockTTL than those who wait for it, and takes longer than theirs
// between two renewals.
func TestALongerLockTTLOfAnotherClientIsRespected(t *testing.T) {
	t.Parallel() // it waits more than it works
	server := redistest.Start(t)
	holder := newClient(t, server.Addr(), func(o *aside.Options) { o.LockTTL = 4 * time.Second })
	c := newClient(t, server.Addr(), func(o *aside.Options) { o.RedisTimeout, o.LockTTL = 500*time.Millisecond, time.Second })
	db := newSource("the holder's")
	letGo := db.HoldUp()
	held := inBackground(func() (string, error) { return holder.Get(testContext(t), time.Minute, "k", db.Load) })
	db.AwaitBegin(t)
	got := inBackground(func() (string, error) { return c.Get(testContext(t), time.Minute, "k", mustNotLoad) })
	eventually(t, "it has waited for many times its own LockTTL, and through renewals", func() bool { return c.Stats().LockWaits > 8 })
	letGo()
	require.Equal(t, result{Value: "the holder's"}, await(t, held))
	require.Equal(t, result{Value: "the holder's"}, await(t, got))
}

// lateClient does not answer some commands for a key in time.
type lateClient struct {
	rueidis.Client
	key  string
	late atomic.Int32 // how many more
}

func (c *lateClient) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	ask := cmd.Commands() // with a marker, and more behind it than to give it back
	if len(ask) > 6 && slices.Contains(ask, c.key) && slices.ContainsFunc(ask, isMarker) && c.late.Add(-1) >= 0 {
		<-ctx.Done() // then it is not even sent
	}
	return c.Client.Do(ctx, cmd)
}

func isMarker(arg string) bool { return len(arg) > 12 && arg[:12] == "\x00aside:lock:" }

// A single command that is not answered in time must not lead to a load beside the holder's.
func TestOneLateAnswerIsNoSecondLoad(t *testing.T) {
	t.Parallel() // it waits more than it works
	for _, test := range []struct {
		name  string
		late  int32
		loads int64
	}{{"one late answer", 1, 0}, {"two in a row", 2, 1}} {
		for _, many := range []bool{false, true} {
			t.Run(test.name+map[bool]string{true: ", GetMulti"}[many], func(t *testing.T) {
				t.Parallel()
				server := redistest.Start(t)
				holder, db := newClient(t, server.Addr()), newSource("the holder's")
				letGo := db.HoldUp()
				held := inBackground(func() (string, error) { return holder.Get(testContext(t), time.Minute, "k", db.Load) })
				db.AwaitBegin(t)

				late := &lateClient{key: "k"}
				c := newClient(t, server.Addr(), func(o *aside.Options) {
					o.RedisTimeout = time.Second // for a busy machine, whose other answers must not be late, too
					o.ClientBuilder = func(option rueidis.ClientOption) (rueidis.Client, error) {
						redis, err := rueidis.NewClient(option)
						late.Client = redis
						return late, err
					}
				})
				late.late.Store(test.late)
				other := newSource("another")
				got := inBackground(func() (string, error) {
					if many {
						values, err := c.GetMulti(testContext(t), time.Minute, []string{"k"}, other.LoadMany)
						return values["k"], err
					}
					return c.Get(testContext(t), time.Minute, "k", other.Load)
				})
				if test.loads == 0 {
					eventually(t, "it waits for the holder", func() bool { return c.Stats().LockWaits > 0 })
				} else {
					require.Equal(t, result{Value: "another"}, await(t, got))
				}
				letGo()
				require.Equal(t, result{Value: "the holder's"}, await(t, held))
				if test.loads == 0 {
					require.Equal(t, result{Value: "the holder's"}, await(t, got))
				}
				require.Equal(t, test.loads, other.Calls.Load())
			})
		}
	}
}

// A marker that does not expire is nobody's lock: somebody wrote a value that looks like one, or
// made ours persistent.
func TestALockThatDoesNotEndIsTakenOver(t *testing.T) {
	t.Parallel() // it waits more than it works
	server := redistest.Start(t)
	c := newClient(t, server.Addr(), func(o *aside.Options) { o.RedisTimeout, o.LockTTL = 500*time.Millisecond, time.Second })
	ctx := testContext(t)
	server.Do("SET", "k", "\x00aside:lock:someone")
	value, err := c.Get(ctx, time.Minute, "k", newSource("v").Load)
	require.NoError(t, err)
	require.Equal(t, "v", value)
	server.Do("SET", "m", "\x00aside:lock:someone")
	values, err := c.GetMulti(ctx, time.Minute, []string{"m", "n"}, newSource("v").LoadMany)
	require.NoError(t, err)
	require.Equal(t, map[string]string{"m": "v", "n": "v"}, values)
}

// The caller leaves while its read-or-lock is on its way: the lock that it may have taken is given
// back.
func TestALockThatNobodyHeardOfIsGivenBack(t *testing.T) {
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	c, ctx := newClient(t, proxy.Addr(), func(o *aside.Options) { o.LockTTL = time.Hour }), testContext(t)
	_, err := c.Get(ctx, time.Minute, "warm", newSource("v").Load)
	require.NoError(t, err)
	proxy.Delay(50 * time.Millisecond)
	for i := range 5 {
		short, cancel := context.WithTimeout(ctx, 60*time.Millisecond)
		_, err = c.Get(short, time.Minute, fmt.Sprint("k", i), mustNotLoad)
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded)
		short, cancel = context.WithTimeout(ctx, 60*time.Millisecond)
		_, err = c.GetMulti(short, time.Minute, []string{fmt.Sprint("m", i), fmt.Sprint("n", i)}, newSource("v").LoadMany)
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
	eventually(t, "no lock is left", func() bool { return fmt.Sprint(keysOf(server)) == "[warm]" })
}
