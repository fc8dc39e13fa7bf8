package aside_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
	"github.com/redaside/aside/internal/script"
	"github.com/redaside/aside/internal/stamp"
)

// Where stamps stand: what they cost, and how long they live. See docs/adr/0009.

// number is a counter of INFO.
func number(t testing.TB, server *redistest.Server, section, name string) int64 {
	t.Helper()
	_, after, ok := strings.Cut(server.Do("INFO", section).(string), "\r\n"+name+":")
	require.True(t, ok, "INFO %s has no %s", section, name)
	text, _, _ := strings.Cut(after, "\r\n")
	n, err := strconv.ParseInt(text, 10, 64)
	require.NoError(t, err)
	return n
}

// What a script reads is tracked, and each write of a tracked key is pushed. A stamp is read before
// it is written, and nobody wants to know of it: neither its writer, nor who wrote one beside it.
func TestAStampCausesNoPush(t *testing.T) {
	t.Parallel() // it waits more than it works
	server := redistest.Start(t)
	pushed := make(map[string]int)
	done := make(chan struct{})
	heard := make(chan string, 1000)
	go func() { // ends with heard
		defer close(done)
		for key := range heard {
			pushed[key]++
		}
	}()
	proxy := faultproxy.New(t, server.Addr())
	_, option := durable(t)
	hears := func(o *aside.Options) {
		o.Redis.OnInvalidations = func(messages []rueidis.RedisMessage) {
			for _, m := range messages {
				if key, err := m.ToString(); err == nil {
					heard <- key
				}
			}
		}
	}
	a, ctx := newClient(t, proxy.Addr(), hasty, option, hears), testContext(t)
	b := newClient(t, server.Addr(), hasty, hears)
	keys := make([]string, 200)
	for i := range keys {
		keys[i] = fmt.Sprint("k", i)
	}
	for range 3 {
		for _, c := range []*aside.Client{a, b} {
			for _, key := range keys[:20] {
				require.NoError(t, c.Set(ctx, time.Minute, key, "v"))
			}
			require.NoError(t, c.Del(ctx, keys...))
			require.NoError(t, command(c, ctx, keys[0], "SET", "w"))
		}
	}
	proxy.Refuse()
	awaitMode(t, a, aside.Degraded)
	for i := range 50 {
		require.NoError(t, a.Set(ctx, time.Minute, fmt.Sprint("replayed", i), "v"))
	}
	proxy.Heal()
	awaitMode(t, a, aside.Healthy)
	eventually(t, "the replay is over", func() bool { return a.Health().Fallback.Dirty == 0 })
	require.Equal(t, "v", server.Do("GET", "replayed49"))
	for _, c := range []*aside.Client{a, b} { // a push comes before the next answer
		_, err := c.Get(ctx, time.Minute, "other", func(context.Context, string) (string, error) { return "v", nil })
		require.NoError(t, err)
		c.Close()
	}
	close(heard)
	<-done
	for key, n := range pushed {
		require.False(t, strings.HasPrefix(key, stamp.KeyPrefix), "%d pushes about %s", n, key)
		require.NotContains(t, keys, key, "nobody has read it, and there were %d pushes about it", n)
	}
}

// Where CLIENT CACHING is not permitted writes are done all the same.
func TestWritesDoNotNeedClientCaching(t *testing.T) {
	server := redistest.Start(t)
	if _, err := server.TryDo("ACL", "SETUSER", "app", "on", ">pw", "+@all", "~*", "-client|caching"); err != nil {
		return // Redis 6.0 has no rules for subcommands
	}
	c, ctx := newClient(t, server.Addr(), func(o *aside.Options) { o.Redis.Username, o.Redis.Password = "app", "pw" }), testContext(t)
	for range 3 {
		require.NoError(t, c.Set(ctx, time.Minute, "k", "v"))
		require.NoError(t, c.Del(ctx, "k", "l", "m"))
	}
	require.NoError(t, c.Health().Err)
	require.NotEmpty(t, server.Do("ACL", "LOG"))
}

// What a written key costs the server's memory beyond its value: 64 bytes where keys have 20, on a
// server of 200,000.
func TestStampsAreSmall(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	redis, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{server.Addr()}, DisableCache: true, AlwaysRESP2: true})
	require.NoError(t, err)
	defer redis.Close()
	mine, ok := stamp.Packed(stamp.Stamp{Micros: time.Now().UnixMicro(), Client: "0123456789abcdef", Number: 1}.String())
	require.True(t, ok)
	server.Do("SCRIPT", "LOAD", script.Stamp.Text())
	for _, length := range []int{20, 100} {
		const n = 200_000
		server.Do("FLUSHALL")
		before := number(t, server, "memory", "used_memory")
		var commands rueidis.Commands
		for i := range n {
			key := fmt.Sprintf("%0*d", length, i)
			commands = append(commands, redis.B().Evalsha().Sha1(script.Stamp.SHA()).Numkeys(1).Key(stamp.Bucket(key)).Arg("0-9007199254740991", mine, "3600000", "3600000", key).Build())
			if len(commands) == 1000 {
				for _, answer := range redis.DoMulti(t.Context(), commands...) {
					require.NoError(t, answer.Error())
				}
				commands = nil
			}
		}
		cost := float64(number(t, server, "memory", "used_memory")-before) / n
		t.Logf("keys of %d bytes: %.1f bytes each", length, cost)
		if length == 20 {
			require.Less(t, cost, 68.0)
		}
	}
}

// Clients with different StampTTL write keys of one slot. A stamp lives as long as the one that needs it
// longest says, also where the bucket was long-lived before that one came: what another sweeps by its own
// StampTTL is not what that one needs.
func TestASetRaisesTheStampTTLOfItsBucket(t *testing.T) {
	server := redistest.Start(t)
	ctx := testContext(t)
	of := func(ttl time.Duration) *aside.Client {
		return newClient(t, server.Addr(), func(o *aside.Options) { o.StampTTL = ttl })
	}
	short, long := of(time.Hour), of(24*time.Hour)
	bucket := stamp.Bucket("{slot}")
	require.NoError(t, short.Set(ctx, 100*time.Hour, "{slot}kept", "v"))
	require.NoError(t, long.Set(ctx, time.Minute, "{slot}needed", "v"))
	require.NoError(t, long.Set(ctx, time.Minute, "{slot}old", "v"))

	for field, ago := range map[string]time.Duration{"{slot}needed": 2 * time.Hour, "{slot}old": 25 * time.Hour} {
		left, ok := stamp.ParseLeft(server.Do("HGET", bucket, field).(string))
		require.True(t, ok)
		left.Micros, left.Ends = left.Micros-ago.Microseconds(), 0
		server.Do("HSET", bucket, field, left.String())
	}
	head := []byte(server.Do("HGET", bucket, "").(string))
	require.Len(t, head, 19)
	copy(head[7:13], make([]byte, 6)) // a sweep is due
	server.Do("HSET", bucket, "", string(head))

	require.NoError(t, short.Set(ctx, time.Minute, "{slot}another", "v"))
	require.Equal(t, int64(0), server.Do("HEXISTS", bucket, "{slot}old"), "it is swept")
	require.Equal(t, int64(1), server.Do("HEXISTS", bucket, "{slot}needed"), "its client needs it for a day")
	require.Equal(t, int64(1), server.Do("HEXISTS", bucket, "{slot}kept"))
}
