package stamp_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/redistest"
	"github.com/redaside/aside/internal/script"
	"github.com/redaside/aside/internal/stamp"
)

// How long stamps and buckets live, by the script that leaves nothing else.

type bucket struct {
	t      *testing.T
	server *redistest.Server
	number int64
}

// leave leaves the stamp of a key {slot}name.
func (b *bucket) leave(name string, keep, ttl time.Duration) {
	b.t.Helper()
	b.number++
	mine, _ := stamp.Packed(stamp.Stamp{Micros: time.Now().UnixMicro(), Client: client, Number: b.number}.String())
	require.EqualValues(b.t, 1, b.server.Do("EVAL", script.Stamp.Text(), 1, b.key(), "0-9007199254740991", mine, keep.Milliseconds(), ttl.Milliseconds(), "{slot}"+name))
}

func (b *bucket) key() string { return stamp.Bucket("{slot}") }

func (b *bucket) has(name string) bool {
	return b.server.Do("HEXISTS", b.key(), "{slot}"+name) == int64(1)
}

func (b *bucket) lives() time.Duration {
	return time.Duration(b.server.Do("PTTL", b.key()).(int64) * int64(time.Millisecond))
}

// until leaves stamps until ok, as somebody who goes on to write. Time is what it waits for.
func (b *bucket) until(what string, keep time.Duration, ok func() bool) {
	b.t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("it never came to be that %s", what)
		}
		b.leave("writer", keep, 0)
	}
}

// Stamps that nobody needs any more leave a bucket that lives on: the bucket holds what was written
// within StampTTL, and what still has its value.
func TestABucketIsSwept(t *testing.T) {
	for _, n := range []int{10, 3000} { // at once, and in steps: Redis keeps the latter in a table
		b := &bucket{t: t, server: redistest.Start(t)}
		const keep = 300 * time.Millisecond
		b.leave("long", keep, time.Hour)
		for i := range n {
			b.leave(fmt.Sprint(i), keep, 0)
		}
		last := fmt.Sprint(n - 1)
		began := time.Now()
		b.until("all that is old is gone", keep, func() bool { return b.server.Do("HLEN", b.key()) == int64(3) })
		require.Greater(t, time.Since(began), keep*9/10)
		require.True(t, b.has("long"))
		require.True(t, b.has("writer"))
		require.False(t, b.has(last))
		require.Greater(t, b.lives(), 50*time.Minute, "as long as the value")
	}
}

// A bucket ends when its last stamp is not needed any more, whoever left it.
func TestABucketLivesAsLongAsItsStamps(t *testing.T) {
	b := &bucket{t: t, server: redistest.Start(t)}
	b.leave("short", time.Minute, 0)
	require.InDelta(t, 90, b.lives().Seconds(), 20)
	b.leave("with a value", time.Minute, 10*time.Minute)
	require.InDelta(t, 630, b.lives().Seconds(), 40)
	b.leave("short", time.Minute, 0)
	require.InDelta(t, 630, b.lives().Seconds(), 40, "it does not end sooner")
	b.leave("of another StampTTL", time.Hour, 0)
	require.InDelta(t, 5400, b.lives().Seconds(), 300)
	for range 5 {
		b.leave("short", time.Minute, 0)
	}
	require.True(t, b.has("of another StampTTL"))
	require.Greater(t, b.lives(), time.Hour-time.Minute)
	b.leave("endless", time.Minute, 200*365*24*time.Hour)
	require.Greater(t, b.lives(), 100*365*24*time.Hour)
}

// The value that made a bucket live long is gone, and so, after a sweep, is the need.
func TestABucketForgetsALongValue(t *testing.T) {
	b := &bucket{t: t, server: redistest.Start(t)}
	const keep = 200 * time.Millisecond
	b.leave("k", keep, 24*time.Hour)
	require.Greater(t, b.lives(), 23*time.Hour)
	b.leave("k", keep, 0) // deleted
	b.until("the bucket is short-lived", keep, func() bool { return b.lives() < time.Second })
}

// A stamp that a client with a long StampTTL has left is not swept by one with a short one.
func TestTheLongestStampTTLCounts(t *testing.T) {
	b := &bucket{t: t, server: redistest.Start(t)}
	b.leave("long", time.Hour, 0)
	for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); {
		b.leave("short", time.Millisecond, 0)
	}
	require.True(t, b.has("long"))
}

// What another version has left stays until the bucket ends: a sweep does not know how long it is
// needed.
func TestASweepLeavesWhatItDoesNotKnow(t *testing.T) {
	t.Parallel() // it waits more than it works
	b := &bucket{t: t, server: redistest.Start(t)}
	const keep = 2 * time.Second // the bucket must not end while the test is held up
	b.leave("old", keep, 0)
	b.server.Do("HSET", b.key(), "{slot}unknown", "\x20of another version")
	b.until("the old stamp is gone", keep, func() bool { return !b.has("old") })
	require.True(t, b.has("unknown"))
	b.server.Do("HSET", b.key(), "", "\x20of another version")
	b.leave("k", keep, 0)
	require.True(t, b.has("k"))
	require.Positive(t, b.lives())
}

// A head that is not known says nothing of how long the bucket is needed, so it lives on as it did.
func TestAnUnknownHeadDoesNotShortenABucket(t *testing.T) {
	b := &bucket{t: t, server: redistest.Start(t)}
	b.leave("long", time.Minute, 100*time.Hour)
	b.server.Do("HSET", b.key(), "", "\x20of another version")
	b.leave("k", time.Minute, 0)
	require.Greater(t, b.lives(), 99*time.Hour)
	b.server.Do("HDEL", b.key(), "")
	b.leave("k", time.Minute, 0)
	require.Greater(t, b.lives(), 99*time.Hour)
}

// Redis gives HSCAN a hash in one piece as a whole. All that is dead of it goes in one step, also
// where it is more than Lua can have as arguments.
func TestABucketInOnePieceIsSweptHoweverLong(t *testing.T) {
	b := &bucket{t: t, server: redistest.Start(t)}
	b.server.Do("CONFIG", "SET", "hash-max-ziplist-entries", 20_000) // hash-max-listpack-entries, for all versions
	const n = 9000
	old := stamp.Left{Stamp: stamp.Stamp{Micros: time.Now().Add(-time.Hour).UnixMicro(), Client: client, Number: 1}}.String()
	args := []any{"HSET", b.key()}
	for i := range n {
		args = append(args, fmt.Sprint("{slot}", i), old)
	}
	b.leave("k", time.Second, 0)
	b.server.Do(args...)
	b.until("all that is old is gone", time.Second, func() bool { return b.server.Do("HLEN", b.key()).(int64) < n })
	require.LessOrEqual(t, b.server.Do("HLEN", b.key()), int64(3))
}

// A bucket that may not be read is left as it is: the write is refused. What is no hash is no bucket. HMGET
// is all that reading takes.
func TestABucketThatMayNotBeReadStays(t *testing.T) {
	b := &bucket{t: t, server: redistest.Start(t)}
	mine, _ := stamp.Packed(stamp.Stamp{Micros: time.Now().UnixMicro(), Client: client, Number: 9}.String())
	const window = "0-9007199254740991"
	for name, write := range map[string][]any{
		"stamp":          {script.Stamp.Text(), 1, b.key(), window, mine, 60_000, 0, "{slot}l"},
		"Set":            {script.Set.Text(), 2, "{slot}l", b.key(), window, 60_000, "", mine, "v", 60_000, 1},
		"Set, once more": {script.Set.Text(), 2, "{slot}l", b.key(), window, 60_000, "again", mine, "v", 60_000, 1},
		"Del":            {script.Del.Text(), 2, "{slot}l", b.key(), window, 60_000, "", mine, 1},
		"Del, once more": {script.Del.Text(), 2, "{slot}l", b.key(), window, 60_000, "again", mine, 1},
	} {
		t.Run(name, func(t *testing.T) {
			b.server.Do("DEL", b.key(), "{slot}l")
			b.leave("k", time.Minute, 0)
			b.server.Do("ACL", "SETUSER", "default", "-hmget")
			_, err := b.server.TryDo(append([]any{"EVAL"}, write...)...)
			b.server.Do("ACL", "SETUSER", "default", "+hmget", "-hget")
			require.Error(t, err)
			_, err = b.server.TryDo(append([]any{"EVAL"}, write...)...)
			b.server.Do("ACL", "SETUSER", "default", "+hget")
			require.NoError(t, err)
			require.True(t, b.has("k"))
			require.True(t, b.has("l"))
			b.server.Do("SET", b.key(), "a string")
			_, err = b.server.TryDo(append([]any{"EVAL"}, write...)...)
			require.NoError(t, err)
			require.True(t, b.has("l"))
		})
	}
}

// When a value ends is found again by the script of an Update, a millisecond later perhaps. A bucket that was
// swept lives on for that: else each would have it live longer again.
func TestASweptBucketOutlivesItsLastStampByALittle(t *testing.T) {
	b := &bucket{t: t, server: redistest.Start(t)}
	b.leave("k", time.Minute, 2*time.Hour)
	left, ok := stamp.ParseLeft(b.server.Do("HGET", b.key(), "{slot}k").(string))
	require.True(t, ok)
	head := []byte(b.server.Do("HGET", b.key(), "").(string))
	copy(head[1:7], "\xff\xff\xff\xff\xff\xff")  // lives
	copy(head[7:13], "\x00\x00\x00\x00\x00\x00") // due
	b.server.Do("HSET", b.key(), "", string(head))
	b.leave("l", time.Minute, 0)
	var lives int64
	for _, c := range []byte(b.server.Do("HGET", b.key(), "").(string))[1:7] {
		lives = lives<<8 | int64(c)
	}
	require.EqualValues(t, 10, lives-left.Ends)
}
