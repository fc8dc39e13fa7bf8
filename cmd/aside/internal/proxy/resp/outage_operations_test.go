package resp

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

// cutOff is a proxy that can be cut off from a Redis that others reach.
func cutOff(t *testing.T, o Options) (*redistest.Server, *faultproxy.Proxy, *aside.Client, string) {
	t.Helper()
	server := redistest.Start(t)
	between := faultproxy.New(t, server.Addr())
	store, c := newHastyStore(t, between.Addr(), t.TempDir(), func(o *aside.Options) {
		o.RedisTimeout, o.LockTTL, o.DegradedTTL, o.ReadBack = 5*time.Second, time.Minute, -1, true
	})
	o.Redis = &rueidis.ClientOption{InitAddress: []string{between.Addr()}}
	_, addr := serve(t, store, o)
	return server, between, c, addr
}

// back has Redis reached again, and waits until all is replayed.
func back(t *testing.T, between *faultproxy.Proxy, c *aside.Client) {
	t.Helper()
	between.Heal()
	eventually(t, "all is replayed", func() bool { return c.Health().Mode == aside.Healthy && c.Stats().Pending == 0 })
}

// Others go on: to act on what was read before would undo what they do.
func TestWhatWasOnlyReadIsNotActedUpon(t *testing.T) {
	server, between, c, addr := cutOff(t, Options{})
	p := dial(t, addr)
	for _, text := range []string{"SET n 5", "GET n", "HSET h f 1", "HGET h f", "SADD s a", "RPUSH l a"} {
		require.NotContains(t, p.do(line(text)...), "-", text)
	}
	between.Refuse()
	awaitMode(t, c, aside.Degraded)
	require.Equal(t, "$5", p.do("GET", "n"))
	for _, text := range []string{
		"INCR n", "APPEND n 1", "SETNX n 1", "GETDEL n", "RENAME n m", "EXPIRE n 10", "EXPIRE n 10 NX", "PERSIST n", "SET n 1 XX", "COPY n m", "MSETNX n 1 m 1", "HSET h f 2", "HINCRBY h f 1", "HDEL h f",
		"SADD s b", "SREM s a", "LPUSH l b", "HGET h f", "SMEMBERS s", "LLEN l", "SPOP s", "ZADD z 1 a",
	} {
		require.Contains(t, p.do(line(text)...), "-ASIDEDEGRADED", text)
	}
	require.Zero(t, c.Stats().Pending)
	require.Equal(t, "$5", p.do("GET", "n"), "what was refused has not made it forgotten")
	server.Do("SET", "n", "100")
	back(t, between, c)
	require.Equal(t, "100", server.Do("GET", "n"))
}

// What carries its own effect has it on what others have made of the key meanwhile.
func TestOperationsAreDoneOnWhatOthersHaveMadeOfTheKey(t *testing.T) {
	t.Parallel()
	server, between, c, addr := cutOff(t, Options{LocalAnswers: true})
	p := dial(t, addr)
	for _, text := range []string{"SET n 5", "GET n", "HSET h f 1", "SADD s a", "RPUSH l a", "SET kept 1"} {
		require.NotContains(t, p.do(line(text)...), "-", text)
	}
	between.Refuse()
	awaitMode(t, c, aside.Degraded)
	for _, step := range [][2]string{
		{"INCR n", ":6"}, {"INCRBY n 4", ":10"}, {"INCR unread", ":1"}, {"APPEND text x", ":1"}, {"HSET h g 2", ":1"}, {"HSET h g 3", ":0"}, {"HGET h g", "$3"}, {"HINCRBY h f 5", ":5"}, {"HDEL h none", ":0"}, {"HEXISTS h g", ":1"},
		{"SADD s b", ":1"}, {"SADD s b", ":0"}, {"SISMEMBER s b", ":1"}, {"SREM s a", ":0"}, {"SISMEMBER s a", ":0"}, {"LPUSH l b c", ":2"}, {"RPUSH l d", ":3"}, {"LINDEX l 0", "$c"}, {"EXPIRE s 1000", ":1"}, {"TTL s", ":1000"},
		{"HSETNX h nx 1", ":1"}, {"TYPE h", "+hash"}, {"EXISTS h s l", ":3"}, {"GET h", "-" + wrongType}, {"LPUSH s x", "-" + wrongType}, {"HINCRBY h g x", "-" + notInteger},
	} {
		require.Equal(t, step[1], p.do(line(step[0])...), step[0])
	}
	for _, text := range []string{"HGET h f", "HGET h nx", "HGETALL h", "SMEMBERS s", "SISMEMBER s c", "LRANGE l 0 -1", "LINDEX l -2", "LLEN l", "SETNX free 1", "GET text", "GETSET n 1"} {
		require.Contains(t, p.do(line(text)...), "-ASIDEDEGRADED", text)
	}
	for _, args := range [][]any{{"INCRBY", "n", "100"}, {"SET", "unread", "7"}, {"SET", "text", "y"}, {"HSET", "h", "f", "10", "nx", "2"}, {"RPUSH", "l", "z"}} {
		server.Do(args...)
	}
	back(t, between, c)
	for text, want := range map[string]string{
		"GET n": "$110", "GET unread": "$8", "GET text": "$yx", "HMGET h f g nx": "*3 $15 $3 $2", "SMEMBERS s": "*1 $b", "LRANGE l 0 -1": "*5 $c $b $a $z $d",
	} {
		require.Equal(t, want, p.do(line(text)...), text)
	}
}

// A transaction of one key is one record, also for the next process.
func TestATransactionInAnOutageIsDoneAsAWhole(t *testing.T) {
	server, dir := redistest.Start(t), t.TempDir()
	store, c := newStore(t, server.Addr(), dir)
	redis := &rueidis.ClientOption{InitAddress: []string{server.Addr()}}
	first, addr := serve(t, store, Options{Redis: redis})
	server.Kill()
	awaitMode(t, c, aside.Degraded)
	p := dial(t, addr)
	require.Equal(t, ":0", p.do("DEL", "t2", "t3"))
	do := func(reply string, texts ...string) {
		t.Helper()
		require.Equal(t, "+OK", p.do("MULTI"))
		for _, text := range texts {
			require.Equal(t, "+QUEUED", p.do(line(text)...), text)
		}
		require.Equal(t, reply, p.do("EXEC"), texts)
	}
	do("*3 :0 :2 *4 $a $1 $b $2", "DEL h", "HSET h a 1 b 2", "HGETALL h")
	do("*4 :3 :1 :1 :0", "HINCRBY h b 1", "HDEL h a", "EXPIRE h 1000", "HSETNX h b x")
	do("*3 +OK :2 $2", "SET n 1", "INCR n", "GET n")
	do("*2 $2 *2 $b $3", "GET n", "HGETALL h") // reads only
	do("*0")
	do("*4 +OK :1 :1 $1", "SET t1 1", "LPUSH t2 a", "INCR t3", "GET t1")
	do("*2 +OK -WRONGTYPE Operation against a key holding the wrong kind of value", "SET t4 1", "HSET t1 f v") // all is known
	for _, texts := range []string{"SET x 1; INCR y", "INCR unknown", "SET x 1; GET unknown", "GETSET n 1; INCR m", "HSET t1 f v; LPUSH t2 b", "SET x 1; LPUSH unknown a"} {
		require.Equal(t, "+OK", p.do("MULTI"))
		for text := range strings.SplitSeq(texts, "; ") {
			require.Equal(t, "+QUEUED", p.do(line(text)...))
		}
		require.Contains(t, p.do("EXEC"), "-ASIDEDEGRADED", texts)
	}
	for _, texts := range []string{"SET x 1; ZADD x 1 a", "SET x", "SET x 1; PUBLISH a b", "SET aside:x 1", "WATCH x", "MULTI"} {
		require.Equal(t, "+OK", p.do("MULTI"))
		reply := ""
		for text := range strings.SplitSeq(texts, "; ") {
			reply = p.do(line(text)...)
		}
		require.Contains(t, reply, "-", texts)
		if texts != "WATCH x" && texts != "MULTI" {
			require.Equal(t, "-"+execAbort, p.do("EXEC"), texts)
		} else {
			require.Equal(t, "+OK", p.do("DISCARD"))
		}
	}
	require.Equal(t, "+OK", p.do("MULTI"))
	require.Equal(t, "+RESET", p.do("RESET"))
	require.Equal(t, "-ERR EXEC without MULTI", p.do("EXEC"))
	require.Equal(t, "+OK", p.do("MULTI"))
	require.Equal(t, "+QUEUED", p.do("SET", "late", "1"))
	late := p

	require.Contains(t, dial(t, addr).do("GET", "x"), "-ASIDEDEGRADED", "nothing was done")
	server.RestartKeepingData()
	awaitMode(t, c, aside.Healthy)
	require.Contains(t, late.do("EXEC"), "Redis has come back since MULTI: nothing of the transaction was done")
	require.Equal(t, "$-1", late.do("GET", "late"))
	require.NoError(t, first.Close())
	eventually(t, "all is replayed", func() bool { return c.Stats().Pending == 0 })
	require.Equal(t, "3", server.Do("HGET", "h", "b"))
	require.Equal(t, "1", server.Do("GET", "t1"))
	require.Equal(t, []any{"a"}, server.Do("LRANGE", "t2", 0, -1))
	require.Equal(t, "1", server.Do("GET", "t3"))
	require.EqualValues(t, 1, server.Do("HLEN", "h"))
	require.Equal(t, "2", server.Do("GET", "n"))
	require.NotEqualValues(t, -1, server.Do("TTL", "h"))
}

// SET and INCR of one key at once, by many clients: each INCR answers what it has made of what was there.
// A relapse would lose the SET, or an INCR.
func TestWritesOfOneKeyAreKeptApart(t *testing.T) {
	_, between, c, addr := cutOff(t, Options{})
	between.Refuse()
	awaitMode(t, c, aside.Degraded)
	require.Equal(t, "+OK", dial(t, addr).do("SET", "n", "0"))
	const clients, each, jump = 8, 60, 1_000_000
	answers := make([][]int, clients)
	var all sync.WaitGroup
	for i := range clients {
		p := dial(t, addr)
		all.Go(func() {
			for range each {
				n, _ := strconv.Atoi(strings.TrimPrefix(p.do("INCR", "n"), ":"))
				answers[i] = append(answers[i], n)
			}
		})
	}
	p := dial(t, addr)
	eventually(t, "they are at it", func() bool { return p.do("GET", "n") != "$0" })
	for i := range 20 {
		require.Equal(t, "+OK", p.do("SET", "n", strconv.Itoa((i+1)*jump)))
	}
	all.Wait()
	seen := make(map[int]bool)
	greatest := 20 * jump
	for _, some := range answers {
		for _, n := range some {
			require.False(t, seen[n], "%d was answered twice", n)
			seen[n] = true
			greatest = max(greatest, n)
		}
	}
	require.Equal(t, fmt.Sprint("$", greatest), p.do("GET", "n"))
	for n := greatest; n > 20*jump; n-- {
		require.True(t, seen[n], "%d was lost", n)
	}
}

// A few flows of applications, by the clients that they have.
func TestClientsInAnOutage(t *testing.T) {
	server, between, c, addr := cutOff(t, Options{LocalAnswers: true})
	ctx := testContext(t)
	between.Refuse()
	awaitMode(t, c, aside.Degraded)
	for _, protocol := range []int{2, 3} {
		client := goredis.NewClient(&goredis.Options{Addr: addr, Protocol: protocol, MaxRetries: -1})
		t.Cleanup(func() { _ = client.Close() })
		of := func(key string) string { return fmt.Sprint(key, protocol) }
		_, err := client.TxPipelined(ctx, func(p goredis.Pipeliner) error { // a session is made
			p.Del(ctx, of("session"))
			p.HSet(ctx, of("session"), "user", "ann", "visits", 1)
			p.Expire(ctx, of("session"), time.Hour)
			return nil
		})
		require.NoError(t, err)
		require.NoError(t, client.HIncrBy(ctx, of("session"), "visits", 2).Err())
		session, err := client.HGetAll(ctx, of("session")).Result()
		require.NoError(t, err)
		require.Equal(t, map[string]string{"user": "ann", "visits": "3"}, session)
		n, err := client.Incr(ctx, of("visits")).Result() // a counter
		require.NoError(t, err)
		require.EqualValues(t, 1, n)
		require.NoError(t, client.SAdd(ctx, of("online"), "ann", "bob").Err())
		online, err := client.SIsMember(ctx, of("online"), "bob").Result()
		require.NoError(t, err)
		require.True(t, online)
		require.NoError(t, client.LPush(ctx, of("jobs"), "1", "2").Err())
		_, err = client.SetNX(ctx, of("lock"), "me", time.Minute).Result()
		require.ErrorContains(t, err, "ASIDEDEGRADED", "nobody knows whether it is free")
		err = client.Watch(ctx, func(*goredis.Tx) error { return nil }, of("visits"))
		require.ErrorContains(t, err, "ASIDEDEGRADED")
	}
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{addr}, DisableCache: true, ForceSingleClient: true})
	require.NoError(t, err)
	t.Cleanup(client.Close)
	require.NoError(t, client.Do(ctx, client.B().Sadd().Key("tags").Member("a").Build()).Error())
	require.NoError(t, client.Dedicated(func(d rueidis.DedicatedClient) error {
		replies := d.DoMulti(ctx, d.B().Multi().Build(), d.B().Del().Key("tags").Build(), d.B().Sadd().Key("tags").Member("b", "c").Build(), d.B().Exec().Build())
		answers, err := replies[3].ToArray()
		require.NoError(t, err)
		require.Len(t, answers, 2)
		return err
	}))
	tags, err := client.Do(ctx, client.B().Smembers().Key("tags").Build()).AsStrSlice()
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"b", "c"}, tags)
	server.Do("INCRBY", "visits2", "41")
	back(t, between, c)
	require.Equal(t, "42", server.Do("GET", "visits2"))
	require.Equal(t, "3", server.Do("HGET", "session3", "visits"))
	require.EqualValues(t, 2, server.Do("SCARD", "tags"))
	require.EqualValues(t, 2, server.Do("LLEN", "jobs2"))
}
