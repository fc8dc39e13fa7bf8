package resp

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/cmd/aside/internal/proxy"
)

// What follows from operations is known, and nothing else is.
func TestWhatIsKnownOfAKeyByItsOperations(t *testing.T) {
	now := time.UnixMilli(1_000_000)
	past, future := "999999", "2000000"
	for i, c := range []struct {
		base       aside.Base
		operations string // separated by ";"
		ask, want  string // a command on k; "?" if nobody knows
	}{
		{aside.BaseUnknown, "HSET a 1", "HGET k a", "1"},
		{aside.BaseUnknown, "HSET a 1", "HGET k b", "?"},
		{aside.BaseUnknown, "HSET a 1", "HGETALL k", "?"},
		{aside.BaseNothing, "HSET a 1", "HGETALL k", "[a 1]"},
		{aside.BaseUnknown, "HSET a 1", "TTL k", "?"},
		{aside.BaseNothing, "HSET a 1", "TTL k", "-1"},
		{aside.BaseUnknown, "PEXPIREAT " + future, "TTL k", "?"},
		{aside.BaseUnknown, "PEXPIREAT " + future + ";HSET a 1", "TTL k", "?"},
		{aside.BaseUnknown, "HSET a 1;PEXPIREAT " + future, "TTL k", "1000"},
		{aside.BaseUnknown, "HSET a 1;HDEL a", "EXISTS k", "?"},
		{aside.BaseUnknown, "HSET a 1;HDEL a", "HGET k a", "<nil>"},
		{aside.BaseUnknown, "HINCRBY a 1", "HEXISTS k a", "true"},
		{aside.BaseUnknown, "HINCRBY a 1", "HGET k a", "?"},
		{aside.BaseUnknown, "HSETNX a 1", "HGET k a", "?"},
		{aside.BaseNothing, "HINCRBYFLOAT a 1e5", "HGETALL k", "?"},
		{aside.BaseUnknown, "INCRBY 1", "GET k", "?"},
		{aside.BaseUnknown, "INCRBY 1", "TYPE k", "string"},
		{aside.BaseUnknown, "INCRBY 1;DEL;INCRBY 1", "GET k", "1"},
		{aside.BaseUnknown, "SET 4;INCRBY 1", "GET k", "5"},
		{aside.BaseUnknown, "RPUSH a;LPUSH b", "LINDEX k -1", "a"},
		{aside.BaseUnknown, "RPUSH a;LPUSH b", "LLEN k", "?"},
		{aside.BaseNothing, "SADD a b;SREM a", "SMEMBERS k", "[b]"},
		{aside.BaseNothing, "SADD a;SREM a", "EXISTS k", "0"},
		{aside.BaseNothing, "SADD a;HSET f 1", "SMEMBERS k", "[a]"}, // the second will be refused

		// Where an end has passed, nobody can tell which of what was done behind it came before.
		{aside.BaseNothing, "HSET a 1;PEXPIREAT " + past, "HGETALL k", "[]"},
		{aside.BaseUnknown, "HSET a 1;PEXPIREAT " + past, "EXISTS k", "0"},
		{aside.BaseNothing, "HSET a 1;PEXPIREAT " + past + ";HSET b 2", "HGET k b", "?"},
		{aside.BaseNothing, "HSET a 1;PEXPIREAT " + past + ";HSET b 2", "HGETALL k", "?"},
		{aside.BaseNothing, "HSET a 1;PEXPIREAT " + past + ";DEL;HSET b 2", "HGETALL k", "[b 2]"},
		{aside.BaseNothing, "SET 1 PXAT " + past + ";HSET b 2", "HGET k b", "?"},
	} {
		k := proxy.Kept{Kept: aside.Kept{Base: c.base}}
		for text := range strings.SplitSeq(c.operations, ";") {
			k.Operations = append(k.Operations, line(text))
		}
		s := newStage(1 << 20)
		s.now = now
		s.known["k"] = fold(k, now, nil)
		ask := line(c.ask)
		got := fmt.Sprint(s.do(steps[ask[0]], ask[1:]))
		if s.missing {
			got = "?"
		}
		require.Equal(t, c.want, got, "%d: %s after %s", i, c.ask, c.operations)
	}
}

// Only sums of which all machines say the same are answered.
func TestSumsOfFloatsAreThoseOfRedis(t *testing.T) {
	for _, c := range [][3]string{
		{"0", "1.5", "1.5"}, {"10.5", "0.1", "10.6"}, {"3.0", "1", "4"}, {"-1", "1", "0"}, {"0.1", "0.2", "0.3"}, {"5", "-0.25", "4.75"}, {"1", "x", ""}, {"1e2", "1", ""}, {"", "1", ""}, {"1.", "1", ""}, {" 1", "1", ""},
		{"123456789.1", "1", ""}, {"-0.5", "0.25", "-0.25"}, {"inf", "1", ""},
	} {
		sum, ok := sumOfFloats(c[0], c[1])
		require.Equal(t, c[2] != "", ok, c)
		require.Equal(t, c[2], sum, c)
	}
}

// A command that was to be answered here as Redis was away meets it as it is back, where it is no string's: it is
// Redis's to answer, and not with what it says to a GET.
func TestAKeyThatHoldsNoStringIsRedissToAnswerOnceItIsBack(t *testing.T) {
	h := newHearer(t, "3")
	h.redis.Do("SADD", "s", "a")
	c := &conn{server: h.Server, ctx: proxy.NewLazyContext(t.Context(), time.Now().Add(patience))}
	require.ErrorIs(t, c.learn(newStage(1<<20), []string{"s"}), aside.ErrNotAway)
	_, err := c.counted([]call{{"DEL", steps["DEL"], []string{"s"}}}, []string{"s"})
	require.ErrorIs(t, err, aside.ErrNotAway)
	require.NoError(t, c.learn(newStage(1<<20), []string{"none"}))
}
