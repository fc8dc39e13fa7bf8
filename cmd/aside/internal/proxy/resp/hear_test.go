package resp

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

// hearer is a proxy that remembers what is read, before a Redis that can be taken away.
type hearer struct {
	*Server
	*peer
	redis   *redistest.Server
	through *faultproxy.Proxy
	client  *aside.Client
}

func newHearer(t testing.TB, protocol string, change ...func(*aside.Options)) *hearer {
	return newHearerOf(t, protocol, Options{}, change...)
}

func newHearerOf(t testing.TB, protocol string, o Options, change ...func(*aside.Options)) *hearer {
	redis := redistest.Start(t)
	through := faultproxy.New(t, redis.Addr())
	store, c := newHastyStore(t, through.Addr(), t.TempDir(), append([]func(*aside.Options){func(o *aside.Options) {
		o.RedisTimeout, o.LockTTL, o.DegradedTTL = 5*time.Second, time.Minute, -1
	}}, change...)...)
	o.Redis, o.Collections = &rueidis.ClientOption{InitAddress: []string{through.Addr()}}, true
	s, addr := serve(t, store, o)
	p := dial(t, addr)
	require.NotContains(t, p.do("HELLO", protocol), "ERR")
	return &hearer{s, p, redis, through, c}
}

// do is that of peer, which has patience with each command.
func (h *hearer) do(args ...string) string {
	h.peer.t.Helper()
	require.NoError(h.peer.t, h.SetDeadline(time.Now().Add(patience)))
	return h.peer.do(args...)
}

// remember sends a read until what it answers is remembered.
func (h *hearer) remember(args ...string) (reply string) {
	h.peer.t.Helper()
	eventually(h.peer.t, fmt.Sprintf("%q is remembered", args), func() bool {
		reply = h.do(args...)
		return h.heard(args[1]) != nil
	})
	return reply
}

func anys(all []string) []any {
	some := make([]any, len(all))
	for i, one := range all {
		some[i] = one
	}
	return some
}

// lose takes Redis away.
func (h *hearer) lose() {
	h.peer.t.Helper()
	h.loseBy(faults[0])
}

func (h *hearer) loseBy(by fault) {
	h.peer.t.Helper()
	by.begin(h.redis, h.through)
	eventually(h.peer.t, "Redis is away", func() bool {
		if by.name == "is read-only" { // who writes sees that
			h.do("SET", "lost", "x")
		}
		return h.client.Health().Mode == aside.Degraded
	})
}

// What was read as a whole while Redis was well is answered in an outage as Redis would have.
func TestCollectionsThatWereReadAreAnsweredInAnOutage(t *testing.T) {
	for _, protocol := range []string{"2", "3"} {
		t.Run("RESP"+protocol, func(t *testing.T) {
			h := newHearer(t, protocol)
			h.redis.Do("HSET", "h", "a", "1", "b", "")
			h.redis.Do("EXPIRE", "h", "1000")
			h.redis.Do("SADD", "s", "x", "y")
			h.redis.Do("RPUSH", "l", "1", "2", "3")
			h.redis.Do("HSET", "unread", "a", "1")
			for _, read := range [][]string{{"HGETALL", "h"}, {"SMEMBERS", "s"}, {"LRANGE", "l", "0", "-1"}, {"HGETALL", "nothing"}} {
				h.remember(read...)
			}
			asked := [][]string{
				{"HGETALL", "h"}, {"HKEYS", "h"}, {"HVALS", "h"}, {"HLEN", "h"}, {"HGET", "h", "a"}, {"HGET", "h", "none"}, {"HMGET", "h", "a", "none"},
				{"HEXISTS", "h", "b"}, {"HSTRLEN", "h", "b"}, {"HSTRLEN", "h", "a"}, {"SMEMBERS", "s"}, {"SISMEMBER", "s", "x"}, {"SMISMEMBER", "s", "x", "z"}, {"SCARD", "s"},
				{"LRANGE", "l", "0", "-1"}, {"LRANGE", "l", "1", "1"}, {"LLEN", "l"}, {"LINDEX", "l", "-1"}, {"LINDEX", "l", "7"},
				{"TYPE", "h"}, {"TYPE", "s"}, {"TYPE", "l"}, {"TYPE", "nothing"}, {"EXISTS", "h", "s", "l", "nothing"}, {"TTL", "s"}, {"TTL", "nothing"},
				{"HGETALL", "nothing"}, {"SMEMBERS", "nothing"}, {"GET", "h"}, {"GET", "nothing"}, {"SCARD", "h"}, {"MGET", "h", "nothing"},
			}
			asked = slices.DeleteFunc(asked, func(args []string) bool { return lacks(h.redis.Version(), args) })
			want := make([]string, len(asked))
			for i, args := range asked {
				want[i] = h.do(args...)
			}
			ttl := integer(h.do("TTL", "h"))
			h.lose()
			for i, args := range asked {
				got := h.do(args...)
				switch args[0] {
				case "HGETALL", "HKEYS", "HVALS", "SMEMBERS":
					require.Equal(t, sorted(want[i]), sorted(got), "%q", args)
				default:
					require.Equal(t, want[i], got, "%q", args)
				}
			}
			require.InDelta(t, ttl, integer(h.do("TTL", "h")), 60)
			for _, args := range [][]string{{"HGETALL", "unread"}, {"HGET", "unread", "a"}, {"HSET", "h", "a", "2"}, {"SADD", "s", "z"}, {"RPUSH", "l", "4"}, {"EXPIRE", "h", "10"}} {
				require.True(t, refusal(h.do(args...)), "%q", args)
			}
			require.Equal(t, sorted(want[0]), sorted(h.do("HGETALL", "h")), "what is refused changes nothing")
			require.Equal(t, ":1", h.do("DEL", "h"))
			require.Equal(t, ":0", h.do("HLEN", "h"))
		})
	}
}

// What another has changed since it was read is not answered, whoever that was, and however.
func TestCollectionsThatOthersHaveChangedAreNotAnswered(t *testing.T) {
	h := newHearer(t, "2")
	for i, change := range [][]string{
		{"HSET", "k", "a", "2"}, {"DEL", "k"}, {"EXPIRE", "k", "100"}, {"EVAL", "return redis.call('HDEL', KEYS[1], 'b')", "1", "k"}, {"RENAME", "k", "other"}, {"FLUSHALL"},
	} {
		for _, read := range [][]string{{"HGETALL", "k"}, {"HGET", "k", "a"}} {
			for _, own := range []bool{false, true} {
				if own && change[0] == "FLUSHALL" {
					continue
				}
				t.Run(fmt.Sprint(read[0], " and ", change[0], " of ones own: ", own), func(t *testing.T) {
					h.redis.Do("HSET", "k", "a", fmt.Sprint(i), "b", "1")
					h.remember(read...)
					if own {
						h.do(change...)
					} else {
						h.redis.Do(anys(change)...)
					}
					eventually(t, "it is not remembered any more", func() bool { return h.heard("k") == nil })
					h.redis.Do("DEL", "k", "other")
				})
			}
		}
	}
}

// Redis tells nobody of changes of what a connection has read that has ended.
func TestWhatAnEndedConnectionHasReadIsNotAnswered(t *testing.T) {
	t.Parallel()
	h := newHearer(t, "3")
	h.redis.Do("HSET", "k", "a", "1")
	h.remember("HGETALL", "k")
	before := h.pool.Hearing("", 3)
	h.redis.Do("CLIENT", "KILL", "ID", before.ID)
	h.redis.Do("HSET", "k", "a", "2")
	eventually(t, "another connection listens", func() bool { return h.pool.Hearing("", 3) != before })
	require.Nil(t, h.heard("k"))
	require.Equal(t, "%1 $a $2", h.remember("HGETALL", "k"))
}

// A connection whose reads nobody hears of any more goes on, and listens anew.
func TestAnEarThatIsGoneIsReplaced(t *testing.T) {
	t.Parallel()
	for _, protocol := range []int{2, 3} {
		t.Run(fmt.Sprint("RESP", protocol), func(t *testing.T) {
			t.Parallel()
			h := newHearer(t, fmt.Sprint(protocol))
			h.redis.Do("SADD", "k", "a")
			h.remember("SMEMBERS", "k")
			before, target := h.pool.Hearing("", protocol), h.targetAt("")
			h.redis.Do("CLIENT", "KILL", "ID", target.ID)
			h.redis.Do("SADD", "k", "b") // RESP3: Redis tells the connection that nobody was told
			eventually(t, "another target listens", func() bool { return h.targetAt("") != target && h.pool.Hears("", protocol, h.targetAt("")) })
			require.Equal(t, before.ID, h.pool.Hearing("", protocol).ID, "it is the same connection")
			require.Nil(t, h.heard("k"))
			require.Equal(t, ":2", h.do("SCARD", "k"))
			h.remember("SMEMBERS", "k")
			require.Equal(t, ":1", h.do("SREM", "k", "a"))
			require.Nil(t, h.heard("k"))
		})
	}
}

// What ends does so in an outage, too.
func TestWhatWasReadEndsInAnOutage(t *testing.T) {
	t.Parallel()
	h := newHearer(t, "2")
	eventually(t, "it is remembered before its end", func() bool {
		h.redis.Do("RPUSH", "k", "a")
		h.redis.Do("PEXPIRE", "k", "3000")
		h.do("EVAL", "return 0", "0") // behind which the proxy has heard of that
		h.do("LRANGE", "k", "0", "-1")
		e := h.heard("k")
		return e != nil && e.exists
	})
	h.lose()
	eventually(t, "its end", func() bool { return refusal(h.do("LLEN", "k")) })
	require.True(t, refusal(h.do("EXISTS", "k")))
}
