package aside_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
	"github.com/redaside/aside/internal/stamp"
)

func op(words ...string) aside.Operation { return words }

// away returns a client of server, and what takes that away from it and gives it back.
func away(t *testing.T, server *redistest.Server, options ...func(*aside.Options)) (c *aside.Client, cut func(), heal func(left ...int64)) {
	t.Helper()
	proxy := faultproxy.New(t, server.Addr())
	_, option := durable(t)
	c = newClient(t, proxy.Addr(), append([]func(*aside.Options){hasty, option}, options...)...)
	awaitMode(t, c, aside.Healthy)
	cut = func() {
		t.Helper()
		proxy.Refuse()
		awaitMode(t, c, aside.Degraded)
	}
	heal = func(left ...int64) {
		t.Helper()
		proxy.Heal()
		awaitMode(t, c, aside.Healthy)
		want := 0
		if len(left) > 0 {
			want = int(left[0])
		}
		eventually(t, "all replayed", func() bool { return c.Stats().Pending == want })
	}
	return c, cut, heal
}

func TestOperationsAreDoneAtOnceWhileRedisIsWell(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	awaitMode(t, c, aside.Healthy)
	n, err := c.Incr(ctx, "n", 5)
	require.NoError(t, err)
	require.EqualValues(t, 5, n)
	answers, err := c.Apply(ctx, "h", []aside.Operation{op("hset", "a", "1", "b", "2"), op("HINCRBY", "a", "9007199254740993"), op("INCR"), op("HDEL", "b"), op("EXPIRE", "100")}, nil)
	require.NoError(t, err)
	require.Len(t, answers, 5)
	require.EqualValues(t, 2, answers[0])
	require.EqualValues(t, 9007199254740994, answers[1])
	require.ErrorContains(t, answers[2].(error), "WRONGTYPE")
	require.EqualValues(t, 1, answers[3])
	require.EqualValues(t, 1, answers[4])
	require.InDelta(t, 100, server.Do("TTL", "h"), 2)
	_, err = c.Incr(ctx, "h", 1)
	require.ErrorContains(t, err, "WRONGTYPE")
	for _, bad := range []aside.Operation{nil, op("GET"), op("INCRBY", "x"), op("ZADD", "1", "m"), op("SET", "v", "NX"), op("EXPIRE", "1", "NX")} {
		_, err := c.Apply(ctx, "n", []aside.Operation{bad}, nil)
		require.ErrorIs(t, err, aside.ErrInvalidArgument, "%v", bad)
	}
	_, err = c.Apply(ctx, "n", nil, nil)
	require.ErrorIs(t, err, aside.ErrInvalidArgument)
}

// Two processes are away one after the other, and in between somebody without this library adds, too.
func TestAllAdditionsOfTwoOutagesAreThere(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	a, cutA, healA := away(t, server)
	b, cutB, healB := away(t, server)
	ctx := testContext(t)
	sum := int64(0)
	add := func(c *aside.Client, n int64) {
		t.Helper()
		if _, err := c.Incr(ctx, "n", n); err != nil {
			require.ErrorIs(t, err, aside.ErrKept)
		}
		sum += n
	}
	add(a, 1)
	add(b, 10)
	cutA()
	add(a, 100)
	add(b, 1000)
	require.NoError(t, b.Update(ctx, []string{"n"}, func(ctx context.Context, redis rueidis.Client) error {
		return redis.Do(ctx, redis.B().Incrby().Key("n").Increment(5).Build()).Error()
	}))
	sum += 5
	server.Do("INCRBY", "n", 10_000)
	sum += 10_000
	cutB()
	add(a, 100_000)
	add(b, 1_000_000)
	server.Do("INCRBY", "n", 10_000_000)
	sum += 10_000_000
	healB()
	add(b, 100_000_000)
	healA()
	add(a, 1_000_000_000)
	require.Equal(t, fmt.Sprint(sum), server.Do("GET", "n"))
}

// What is kept is done in its order, whatever the type, and once.
func TestOperationsAreKeptInAnOutage(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, cut, heal := away(t, server)
	ctx := testContext(t)
	server.Do("SADD", "s", "old", "gone")
	server.Do("RPUSH", "l", "m")
	server.Do("HSET", "h", "f", "old", "n", "5")
	cut()
	keep := func(key string, ops ...aside.Operation) {
		t.Helper()
		_, err := c.Apply(ctx, key, ops, nil)
		require.ErrorIs(t, err, aside.ErrKept)
	}
	keep("s", op("SADD", "a", "b\xff"), op("SREM", "gone"))
	keep("l", op("LPUSH", "a", "b"), op("RPUSH", "z"))
	keep("h", op("HSET", "f", "new"))
	keep("h", op("HSETNX", "f", "newer"), op("HINCRBY", "n", "2"), op("HDEL", "none"))
	keep("e", op("SET", "v"))
	keep("e", op("APPEND", "w"), op("EXPIRE", "1000"))
	for range 10 {
		keep("n", op("INCR"))
	}
	k, ok, err := c.Kept(ctx, "e")
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, "vw", k.Now.Text)
	require.Equal(t, aside.BaseString, k.Base)
	require.Equal(t, 5, c.Health().Fallback.Operations)
	heal()
	require.ElementsMatch(t, []any{"old", "a", "b\xff"}, server.Do("SMEMBERS", "s"))
	require.Equal(t, []any{"b", "a", "m", "z"}, server.Do("LRANGE", "l", 0, -1))
	require.Equal(t, []any{"new", "7"}, server.Do("HMGET", "h", "f", "n"))
	require.Equal(t, "vw", server.Do("GET", "e"))
	require.InDelta(t, 1000, server.Do("TTL", "e"), 5)
	require.Equal(t, "10", server.Do("GET", "n"))
	require.Zero(t, c.Stats().Rejected)
}

// After a Set or Del that waits, the operations belong to it, and the answer is known.
func TestOperationsFollowASetThatWaits(t *testing.T) {
	server := redistest.Start(t)
	c, cut, heal := away(t, server)
	ctx := testContext(t)
	server.Do("SET", "gone", "100")
	server.Do("SADD", "set", "old")
	cut()
	require.NoError(t, c.Set(ctx, time.Hour, "k", "5"))
	n, err := c.Incr(ctx, "k", 2)
	require.NoError(t, err)
	require.EqualValues(t, 7, n)
	v, ok, err := c.Peek(ctx, "k")
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, "7", v)
	require.NoError(t, c.Del(ctx, "gone", "set"))
	n, err = c.Incr(ctx, "gone", 3)
	require.NoError(t, err)
	require.EqualValues(t, 3, n)
	_, err = c.Apply(ctx, "set", []aside.Operation{op("SADD", "new")}, nil)
	require.ErrorIs(t, err, aside.ErrKept)
	require.NoError(t, c.Set(ctx, time.Hour, "text", "x"))
	_, err = c.Incr(ctx, "text", 1)
	require.ErrorContains(t, err, "not an integer")
	_, err = c.Incr(ctx, "replaced", 1)
	require.ErrorIs(t, err, aside.ErrKept)
	require.NoError(t, c.Set(ctx, time.Hour, "replaced", "v"))
	heal()
	require.Equal(t, "7", server.Do("GET", "k"))
	require.Equal(t, "3", server.Do("GET", "gone"))
	require.Equal(t, []any{"new"}, server.Do("SMEMBERS", "set"))
	require.Equal(t, "x", server.Do("GET", "text"))
	require.Equal(t, "v", server.Do("GET", "replaced"))
}

// What memory held when Redis went away is what an addition's answer follows from. It is still an
// addition.
func TestAnAdditionToWhatMemoryHolds(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, cut, heal := away(t, server)
	ctx := testContext(t)
	require.NoError(t, c.Set(ctx, time.Hour, "k", "5"))
	v, err := c.Get(ctx, time.Hour, "k", newSource("never").Load)
	require.NoError(t, err)
	require.Equal(t, "5", v)
	cut()
	for want := int64(6); want < 9; want++ {
		n, err := c.Incr(ctx, "k", 1)
		require.NoError(t, err)
		require.Equal(t, want, n)
	}
	server.Do("INCRBY", "k", 100)
	heal()
	require.Equal(t, "108", server.Do("GET", "k"))
}

// An error of decide keeps nothing.
func TestDecideMayRefuse(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, cut, heal := away(t, server)
	ctx := testContext(t)
	cut()
	mine := errors.New("mine")
	var met []int
	for i := range 3 {
		_, err := c.Apply(ctx, "k", []aside.Operation{op("SADD", "m")}, func(k aside.Kept) error {
			met = append(met, len(k.Operations))
			if i == 1 {
				return mine
			}
			return nil
		})
		if i == 1 {
			require.ErrorIs(t, err, mine)
			continue
		}
		require.ErrorIs(t, err, aside.ErrKept)
	}
	require.Equal(t, []int{0, 1, 1}, met)
	heal()
	require.Equal(t, []any{"m"}, server.Do("SMEMBERS", "k"))
}

// A Set or Del that somebody has done since drops them; one from before does not.
func TestOperationsOlderThanASetAreDropped(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, cut, heal := away(t, server)
	other, ctx := newClient(t, server.Addr()), testContext(t)
	awaitMode(t, other, aside.Healthy)
	require.NoError(t, other.Set(ctx, time.Hour, "before", "10"))
	cut()
	for _, key := range []string{"before", "set", "del"} {
		_, err := c.Incr(ctx, key, 1)
		require.ErrorIs(t, err, aside.ErrKept)
	}
	time.Sleep(250 * time.Millisecond) // beyond what two clocks may differ
	require.NoError(t, other.Set(ctx, time.Hour, "set", "20"))
	require.NoError(t, other.Set(ctx, time.Hour, "del", "20"))
	require.NoError(t, other.Del(ctx, "del"))
	heal()
	require.Equal(t, "11", server.Do("GET", "before"))
	require.Equal(t, "20", server.Do("GET", "set"))
	require.Nil(t, server.Do("GET", "del"))
}

// What Redis refuses for good goes to the quarantine, and is counted; the rest of the list is done.
func TestWhatCannotBeDoneIsRejected(t *testing.T) {
	server := redistest.Start(t)
	c, cut, heal := away(t, server)
	ctx := testContext(t)
	server.Do("SET", "text", "x")
	server.Do("SET", "most", "9223372036854775807")
	server.Do("SADD", "set", "m")
	cut()
	for key, ops := range map[string][]aside.Operation{
		"text": {op("INCR"), op("APPEND", "y")},
		"most": {op("INCR")},
		"set":  {op("HSET", "f", "v"), op("SADD", "n")},
	} {
		_, err := c.Apply(ctx, key, ops, nil)
		require.ErrorIs(t, err, aside.ErrKept)
	}
	heal()
	require.Equal(t, "xy", server.Do("GET", "text"))
	require.Equal(t, "9223372036854775807", server.Do("GET", "most"))
	require.ElementsMatch(t, []any{"m", "n"}, server.Do("SMEMBERS", "set"))
	require.EqualValues(t, 3, c.Stats().Rejected)
	h := c.Health()
	require.Equal(t, 3, h.Fallback.Quarantined)
	require.Equal(t, 3, h.Replay.Report.Rejected)
	require.Error(t, h.Replay.Report.Refusal)
}

// A ledger that is lost says nothing, so what was begun is not repeated. What was not is done.
func TestALostLedgerIsNotGuessed(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, cut, heal := away(t, server)
	ctx := testContext(t)
	add := func() {
		t.Helper()
		_, err := c.Incr(ctx, "n", 1)
		require.ErrorIs(t, err, aside.ErrKept)
	}
	server.Do("ACL", "SETUSER", "default", "-incrby") // so that it is begun, and not done
	cut()
	add()
	_, err := c.Apply(ctx, "s", []aside.Operation{op("SADD", "m")}, nil)
	require.ErrorIs(t, err, aside.ErrKept)
	heal(1)
	require.Equal(t, []any{"m"}, server.Do("SMEMBERS", "s"))
	require.Equal(t, 1, c.Health().Replay.Report.Refused)
	require.Zero(t, c.Stats().Rejected)
	cut()
	server.Do("ACL", "SETUSER", "default", "+incrby")
	server.Do("DEL", stamp.Ledger("n"))
	heal(0)
	require.EqualValues(t, 1, c.Stats().Rejected)
	require.ErrorContains(t, c.Health().Replay.Report.Refusal, "forgotten")
	require.Nil(t, server.Do("GET", "n"))
	cut()
	server.Do("DEL", stamp.Ledger("n"))
	add()
	heal(0)
	require.Equal(t, "1", server.Do("GET", "n"))
}

// What ended before the replay ends only what was there: not what came in its place, and not where
// there was nothing to end.
func TestWhatHasEndedTakesNothingAlongThatCameInItsPlace(t *testing.T) {
	server := redistest.Start(t)
	c, cut, heal := away(t, server)
	ctx := testContext(t)
	server.Do("SET", "deleted", "old")
	cut()
	require.NoError(t, c.Set(ctx, 300*time.Millisecond, "based", "v"))
	for key, ops := range map[string][]aside.Operation{
		"based":    {op("DEL"), op("SADD", "m")},
		"replaced": {op("SET", "a", "PX", "300"), op("SET", "b")},
		"deleted":  {op("PEXPIRE", "300"), op("DEL"), op("SADD", "m")},
		"none":     {op("PEXPIRE", "300"), op("SADD", "m")},
		"ended":    {op("SET", "1", "PX", "300"), op("INCR")},
		"counted":  {op("INCR"), op("PEXPIRE", "300"), op("INCR")},
	} {
		_, err := c.Apply(ctx, key, ops, nil)
		require.ErrorIs(t, err, aside.ErrKept)
	}
	time.Sleep(400 * time.Millisecond) // they end
	heal()
	require.Equal(t, "b", server.Do("GET", "replaced"))
	for _, key := range []string{"based", "deleted", "none"} {
		require.Equal(t, []any{"m"}, server.Do("SMEMBERS", key), key)
	}
	require.Nil(t, server.Do("GET", "ended"))
	require.Nil(t, server.Do("GET", "counted"))
}

// What was stored with a header is no number and no text to Redis. The operation is refused at once, as
// Redis would refuse it, and not kept and rejected later.
func TestAValueWithAHeaderIsNotChangedByOperations(t *testing.T) {
	t.Parallel()
	c, cut, heal := away(t, redistest.Start(t))
	ctx := testContext(t)
	cut()
	require.NoError(t, c.Set(ctx, time.Hour, "n", "5", aside.WithTags("t")))
	_, err := c.Incr(ctx, "n", 1)
	require.ErrorIs(t, err, aside.ErrInvalidArgument)
	_, err = c.Apply(ctx, "n", []aside.Operation{op("DEL"), op("INCR")}, nil)
	require.ErrorIs(t, err, aside.ErrKept)
	heal()
	require.Zero(t, c.Stats().Rejected)
	n, err := c.Incr(ctx, "n", 1)
	require.NoError(t, err)
	require.EqualValues(t, 2, n)
}
