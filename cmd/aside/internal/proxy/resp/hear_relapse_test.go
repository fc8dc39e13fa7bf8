package resp

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/fallback"
)

// relapse has Redis come back for long enough that what waits for the keys that reads name is replayed, and no more; then meanwhile is called, and
// Redis is away again, in the same recovery.
func (h *hearer) relapse(by fault, reads [][2]string, meanwhile func()) {
	t := h.peer.t
	t.Helper()
	by.end(h.redis, h.through)
	awaitMode(t, h.client, aside.Recovering)
	for _, row := range reads { // whose keys are replayed first
		eventually(t, row[0], func() bool { return h.do(strings.Split(row[0], " ")...) == row[1] })
	}
	meanwhile()
	// Behind that nothing is answered that was changed before.
	eventually(t, "Redis answers", func() bool { return h.do("EVAL", "return 0", "0") == ":0" })
	require.NotEqual(t, aside.Healthy, h.client.Health().Mode)
	h.loseBy(by)
	target := h.targetAt("")
	t.Logf("%s: the library's connection stands: %v, and that which clients share: %v", by.name, target.Listens(), h.pool.Hears("", 2, target))
}

// newRelapser is a hearer whose replay takes minutes: many keys wait, and one a second is replayed.
func newRelapser(t *testing.T, by fault, o Options) *hearer {
	h := newHearerOf(t, "2", o, func(o *aside.Options) { o.ReplayRate = 1 })
	h.redis.Do("HSET", "h", "c", "1", "x", "1")
	h.redis.Do("HSET", "waits", "c", "1")
	h.redis.Do("RPUSH", "l", "1", "2")
	for _, read := range []string{"HGETALL h", "HGETALL waits", "HGETALL n", "SMEMBERS s", "LRANGE l 0 -1"} {
		h.remember(strings.Split(read, " ")...)
	}
	h.loseBy(by)
	fill := []string{"MSET"}
	for i := range 200 {
		fill = append(fill, fmt.Sprint("fill", i), "x")
	}
	require.Equal(t, "+OK", h.do(fill...))
	return h
}

// What was replayed as Redis was there for a moment is in Redis, and others may have changed it there: from then on the proxy knows neither that nor what it
// was done on, though all has not been replayed. It is the same where its connections stand, so that what was read is of the same epoch.
func TestWhatIsReplayedBeforeARelapseIsKnownNoMore(t *testing.T) {
	t.Parallel()
	for _, by := range faults {
		t.Run(by.name, func(t *testing.T) {
			t.Parallel()
			testWhatIsReplayedBeforeARelapse(t, by)
		})
	}
}

func testWhatIsReplayedBeforeARelapse(t *testing.T, by fault) {
	h := newRelapser(t, by, Options{LocalAnswers: true})
	h.answersAs([][2]string{
		{"HSETNX n a 1", ":1"}, {"HGETALL n", "*2 $a $1"}, {"HSET h a 1", ":1"}, {"HDEL h x", ":0"}, {"HGETALL h", "*4 $a $1 $c $1"}, {"HEXISTS h x", ":0"},
		{"SADD s a b", ":2"}, {"SMEMBERS s", "*2 $a $b"}, {"RPUSH l 3", ":1"}, {"LLEN l", ":3"}, {"LRANGE l 0 -1", "*3 $1 $2 $3"}, {"EXPIRE l 500", ":1"},
		{"DEL d", ":0"}, {"SADD d a d", ":2"}, {"SMEMBERS d", "*2 $a $d"}, {"SET k 5", "+OK"}, {"INCR k", ":6"},
		{"HSET later a 1", ":1"}, {"HSET waits a 1", ":1"}, {"HGETALL waits", "*4 $a $1 $c $1"},
	})
	other := dial(t, h.redis.Addr())
	h.relapse(by, [][2]string{{"HLEN n", ":1"}, {"HLEN h", ":2"}, {"SCARD s", ":2"}, {"LLEN l", ":3"}, {"SCARD d", ":2"}, {"STRLEN k", ":1"}}, func() {
		for _, args := range []string{"HDEL n a", "HSET h x 2", "SREM s a", "LPOP l", "SADD d e", "INCR k", "HDEL waits c"} {
			other.do(strings.Split(args, " ")...)
		}
	})
	h.answersAs([][2]string{
		{"HGETALL n", "?"}, {"HGET n a", "?"}, {"HLEN h", "?"}, {"HGET h x", "?"}, {"HGET h c", "?"}, {"SMEMBERS s", "?"}, {"SISMEMBER s a", "?"}, {"LRANGE l 0 -1", "?"}, {"LINDEX l -1", "?"},
		{"TTL l", "?"}, {"TYPE s", "?"}, {"EXISTS h", "?"}, {"SMEMBERS d", "?"}, {"GET k", "?"}, {"MGET k", "?"},
		{"HGET later a", "$1"}, {"HGET waits a", "$1"}, {"HGET waits c", "?"}, {"HGETALL waits", "?"}, // these were not replayed
	})
	h.answersAs([][2]string{ // what waits now is all that answers go by
		{"HSETNX n d 1", ":1"}, {"HSET n d 0 c 2", ":1"}, {"PERSIST n", ":1"}, {"HGETALL n", "?"}, {"HGET n a", "?"}, {"HDEL n d a", ":1"},
		{"HSET h y 1", ":1"}, {"HGETALL h", "?"}, {"HGET h y", "$1"}, {"HGET h c", "?"},
		{"SADD s z", ":1"}, {"SMEMBERS s", "?"}, {"SCARD s", "?"}, {"RPUSH l 4", ":1"}, {"LRANGE l 0 -1", "?"}, {"LINDEX l -1", "$4"}, {"TTL l", "?"},
		{"SREM d e a", ":0"}, {"SMEMBERS d", "?"}, {"SISMEMBER d a", ":0"}, {"INCR k", ":1"}, {"HSET later b 1", ":1"},
	})
	h.relapse(by, [][2]string{{"HLEN n", ":1"}, {"HLEN h", ":4"}, {"SCARD s", ":2"}, {"LLEN l", ":3"}, {"SCARD d", ":1"}, {"STRLEN k", ":1"}, {"HLEN later", ":2"}, {"HLEN waits", ":1"}}, func() {})
	for _, row := range [][2]string{
		{"HGETALL n", "*2 $c $2"}, {"HMGET h a c x y", "*4 $1 $1 $2 $1"}, {"SMEMBERS s", "*2 $b $z"}, {"LRANGE l 0 -1", "*3 $2 $3 $4"}, {"SMEMBERS d", "*1 $d"}, {"GET k", "$8"}, {"HLEN later", ":2"},
	} {
		require.Equal(t, sorted(row[1]), sorted(other.do(strings.Split(row[0], " ")...)), row[0])
	}
}

// By default what does not follow from what waits is refused then.
func TestWhatIsReplayedBeforeARelapseAnswersNoWrite(t *testing.T) {
	t.Parallel()
	for _, by := range faults {
		t.Run(by.name, func(t *testing.T) {
			t.Parallel()
			testWhatIsReplayedAnswersNoWrite(t, by)
		})
	}
}

func testWhatIsReplayedAnswersNoWrite(t *testing.T, by fault) {
	h := newRelapser(t, by, Options{})
	h.answersAs([][2]string{{"DEL d", ":0"}, {"SADD d a d", ":2"}, {"SREM d e", ":0"}, {"DEL n", ":0"}, {"HSET n a 1", ":1"}, {"HSET n a 2", ":0"}, {"SET k 5", "+OK"}, {"INCR k", ":6"}, {"DEL gone", ":0"}, {"SETNX gone x", ":1"}})
	h.relapse(by, [][2]string{{"SCARD d", ":2"}, {"HLEN n", ":1"}, {"STRLEN k", ":1"}, {"STRLEN gone", ":1"}}, func() {})
	h.answersAs([][2]string{
		{"SREM d a", "?"}, {"SREM d e", "?"}, {"SADD d a", "?"}, {"HSET n a 3", "?"}, {"HDEL n a", "?"}, {"INCR k", "?"}, {"SETNX gone y", "?"}, {"EXPIRE d 10", "?"},
		{"HMSET n b 1", "+OK"}, {"HSET n b 2", ":0"}, {"HSET n a 2", "?"}, {"HGETALL n", "?"},
	})
}

// What is read as Redis is there for a moment is what later operations are done on, and nothing from before.
func TestWhatIsReadBeforeARelapseTakesThePlaceOfWhatWasReadBefore(t *testing.T) {
	h := newHearerOf(t, "2", Options{LocalAnswers: true})
	h.redis.Do("HSET", "h", "c", "1", "x", "1")
	h.remember("HGETALL", "h")
	h.remember("SMEMBERS", "s")
	h.lose()
	h.answersAs([][2]string{{"HSET h a 1", ":1"}, {"HGETALL h", "*6 $a $1 $c $1 $x $1"}, {"SADD s a", ":1"}, {"SMEMBERS s", "*1 $a"}})
	h.through.Heal()
	awaitMode(t, h.client, aside.Healthy)
	other := dial(t, h.redis.Addr())
	for _, row := range [][2]string{{"HLEN h", ":3"}, {"SCARD s", ":1"}} {
		eventually(t, row[0], func() bool { return h.do(strings.Split(row[0], " ")...) == row[1] })
	}
	other.do("HDEL", "h", "a")
	other.do("SADD", "s", "b")
	eventually(t, "Redis answers", func() bool { return h.do("EVAL", "return 0", "0") == ":0" })
	h.remember("HGETALL", "h")
	h.remember("SMEMBERS", "s")
	h.lose()
	h.answersAs([][2]string{
		{"HGETALL h", "*4 $c $1 $x $1"}, {"SMEMBERS s", "*2 $a $b"},
		{"HSET h y 2", ":1"}, {"HGETALL h", "*6 $c $1 $x $1 $y $2"}, {"HDEL h x a", ":0"}, {"HGETALL h", "*4 $c $1 $y $2"}, {"SREM s a", ":0"}, {"SMEMBERS s", "*1 $b"},
	})
}

// steppedStore does something else before it says what waits for a key, once.
type steppedStore struct {
	*fallback.Memory
	step atomic.Pointer[func(key string)]
}

func (*steppedStore) Durable() bool { return true }

func (s *steppedStore) Get(key string) (fallback.Record, bool, error) {
	if step := s.step.Load(); step != nil {
		(*step)(key)
	}
	return s.Memory.Get(key)
}

// The same in the midst of a read: what was read before is not what the operations stand behind that are met then.
func TestARelapseInTheMidstOfARead(t *testing.T) {
	t.Parallel()
	for at := int32(1); at <= 2; at++ { // it is looked at for what a GET would answer first
		t.Run(fmt.Sprint("at look ", at), func(t *testing.T) {
			t.Parallel()
			store := &steppedStore{Memory: fallback.NewMemory(0)}
			h := newHearerOf(t, "2", Options{LocalAnswers: true}, func(o *aside.Options) { o.FallbackDir, o.Store = "", store })
			h.redis.Do("HSET", "h", "c", "1", "x", "1")
			h.remember("HGETALL", "h")
			h.lose()
			h.answersAs([][2]string{{"HSET h a 1", ":1"}, {"HGETALL h", "*6 $a $1 $c $1 $x $1"}})
			two := &hearer{h.Server, dial(t, h.RemoteAddr().String()), h.redis, h.through, h.client}
			var looks atomic.Int32
			step := func(key string) {
				if key != "h" || looks.Add(1) < at {
					return
				}
				store.step.Store(nil)
				h.through.Heal()
				eventually(t, "all is replayed", func() bool { return h.client.Health().Mode == aside.Healthy && h.client.Stats().Pending == 0 })
				h.redis.Do("HDEL", "h", "a", "x")
				eventually(t, "that is told", func() bool { return two.do("HLEN", "h") == ":1" })
				two.remember("HGETALL", "h")
				two.lose()
				two.answersAs([][2]string{{"HSET h y 2", ":1"}, {"HGETALL h", "*4 $c $1 $y $2"}})
			}
			store.step.Store(&step)
			if got := h.do("HGETALL", "h"); !refusal(got) {
				require.Contains(t, []string{sorted("*6 $a $1 $c $1 $x $1"), sorted("*2 $c $1"), sorted("*4 $c $1 $y $2")}, sorted(got), "what it held at some time")
			}
			require.Nil(t, store.step.Load())
			h.answersAs([][2]string{{"HGETALL h", "*4 $c $1 $y $2"}})
		})
	}
}
