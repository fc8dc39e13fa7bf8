package resp

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
)

// answersAs sends commands and compares the answers; "?" is a refusal, "" any other.
func (h *hearer) answersAs(rows [][2]string) {
	h.peer.t.Helper()
	for i, row := range rows {
		args := strings.Split(row[0], " ")
		got := h.do(args...)
		switch args[0] {
		case "HGETALL", "SMEMBERS":
			got, row[1] = sorted(got), sorted(row[1])
		}
		switch row[1] {
		case "?":
			require.True(h.peer.t, refusal(got), "%d: %q: %s", i, args, got)
		case "":
			require.False(h.peer.t, refusal(got), "%d: %q: %s", i, args, got)
		default:
			require.Equal(h.peer.t, row[1], got, "%d: %q", i, args)
		}
	}
}

// What was read before an outage and changed here in it is answered as the sum of both, and that is then in Redis.
func TestWhatWasReadAndThenChangedHereIsAnsweredInAnOutage(t *testing.T) {
	t.Parallel()
	h := newHearerOf(t, "2", Options{LocalAnswers: true})
	for _, key := range []string{"h", "i", "p"} {
		h.redis.Do("HSET", key, "a", "1", "b", "2")
	}
	h.redis.Do("EXPIRE", "h", "1000")
	h.redis.Do("SADD", "s", "x", "y")
	h.redis.Do("SADD", "t", "x", "y")
	h.redis.Do("RPUSH", "l", "1", "2", "3")
	for _, read := range []string{"HGETALL h", "HGETALL i", "HGETALL nothing", "SMEMBERS s", "SMEMBERS t", "LRANGE l 0 -1"} {
		h.remember(strings.Split(read, " ")...)
	}
	h.learn(1, []string{"HGET", "p", "a"})
	h.lose()
	h.answersAs([][2]string{
		{"HSET h a 9", ":1"}, // as before: what was only read does not count for what a write answers
		{"HGETALL h", "*4 $a $9 $b $2"}, {"HLEN h", ":2"}, {"HGET h b", "$2"}, {"HGET h none", "$-1"}, {"TYPE h", "+hash"},
		{"HDEL h b", ":0"}, {"HGETALL h", "*2 $a $9"},
		{"HINCRBY h a 1", ":10"}, {"HSETNX h c 7", ":1"}, {"HGETALL h", "*4 $a $10 $c $7"},
		{"EXPIRE h 500", ""}, {"PERSIST h", ":1"}, {"TTL h", ":-1"}, {"EXPIRE h 5000", ":1"},
		{"HINCRBY i b 5", ":5"}, {"HGET i b", "$7"},
		{"HSET nothing a 1", ":1"}, {"HGETALL nothing", "*2 $a $1"}, {"TTL nothing", ":-1"},
		{"LPUSH l 0", ":1"}, {"RPUSH l 4 5", ":3"}, {"LRANGE l 0 -1", "*6 $0 $1 $2 $3 $4 $5"}, {"LINDEX l 1", "$1"}, {"LLEN l", ":6"},
		{"SADD s z", ":1"}, {"SREM s x", ":0"}, {"SMEMBERS s", "*2 $y $z"}, {"SCARD s", ":2"}, {"SISMEMBER s none", ":0"},
		{"HSET p c 3", ":1"}, {"HMGET p a c", "*2 $1 $3"}, {"HGET p b", "?"}, {"HGETALL p", "?"},
		{"DEL t", ":1"}, {"SADD t q", ":1"}, {"SMEMBERS t", "*1 $q"},
		{"DEL i", ":1"}, {"EXISTS i h", ":1"}, {"HGETALL i", "*0"},
	})
	require.InDelta(t, 5000, integer(h.do("TTL", "h")), 60)
	h.through.Heal()
	eventually(t, "all is replayed", func() bool { return h.client.Health().Mode == aside.Healthy && h.client.Stats().Pending == 0 })
	server := dial(t, h.redis.Addr())
	for _, row := range [][2]string{
		{"HGETALL h", "*4 $a $10 $c $7"}, {"HGETALL nothing", "*2 $a $1"}, {"LRANGE l 0 -1", "*6 $0 $1 $2 $3 $4 $5"}, {"SMEMBERS s", "*2 $y $z"}, {"SMEMBERS t", "*1 $q"},
		{"EXISTS i", ":0"}, {"HMGET p a b c", "*3 $1 $2 $3"},
	} {
		require.Equal(t, sorted(row[1]), sorted(server.do(strings.Split(row[0], " ")...)), row[0])
	}

	h.lose() // the next one knows nothing of it
	h.answersAs([][2]string{{"HSET h a 1", ":1"}, {"HGETALL h", "?"}, {"HGET h c", "?"}, {"HGET h a", "$1"}, {"SADD s q", ":1"}, {"SMEMBERS s", "?"}})
}

// By default what is kept is what needs no answer, and what follows from what was written here.
func TestOnlyWhatIsKeptChangesWhatWasRead(t *testing.T) {
	h := newHearer(t, "2")
	h.redis.Do("HSET", "h", "a", "1", "b", "2")
	h.redis.Do("SADD", "s", "x", "y")
	h.remember("HGETALL", "h")
	h.remember("SMEMBERS", "s")
	h.lose()
	h.answersAs([][2]string{
		{"HSET h a 9", "?"}, {"HGETALL h", "*4 $a $1 $b $2"}, {"EXPIRE h 10", "?"}, {"TTL h", ":-1"},
		{"HMSET h a 3 c 4", "+OK"}, {"HSET h c 5", ":0"}, {"HSET h b 5", "?"}, {"HGETALL h", "*6 $a $3 $b $2 $c $5"},
		{"SADD s z", "?"}, {"SMEMBERS s", "*2 $x $y"},
		{"HMSET s a 1", "+OK"}, {"SMEMBERS s", "*2 $x $y"}, // Redis will refuse it
		{"SET s text", "+OK"}, {"GET s", "$text"}, {"DEL s", ":1"}, {"SADD s z", ":1"}, {"SMEMBERS s", "*1 $z"},
	})
}
