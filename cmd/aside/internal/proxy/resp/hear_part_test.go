package resp

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// learn sends reads of a key until so many of its fields are remembered, or members.
func (h *hearer) learn(fields int, reads ...[]string) {
	h.peer.t.Helper()
	eventually(h.peer.t, fmt.Sprintf("%q are remembered", reads), func() bool {
		for _, args := range reads {
			h.do(args...)
		}
		e := h.heard(reads[0][1])
		return e != nil && e.part && len(e.fields)+len(e.members) == fields
	})
}

// What was read field by field while Redis was well is answered in an outage field by field.
func TestFieldsThatWereReadAreAnsweredInAnOutage(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{"2", "3"} {
		t.Run("RESP"+protocol, func(t *testing.T) {
			t.Parallel()
			h := newHearer(t, protocol)
			h.redis.Do("HSET", "h", "a", "1", "b", "", "c", "3", "d", "4")
			h.redis.Do("EXPIRE", "h", "1000")
			h.redis.Do("HSET", "one", "a", "1")
			h.redis.Do("SADD", "s", "x", "y")
			h.learn(4, []string{"HGET", "h", "a"}, []string{"HMGET", "h", "a", "b", "none", "b"}, []string{"HGET", "h", "c"})
			h.learn(1, []string{"HMGET", "one", "none"})
			h.learn(2, []string{"SISMEMBER", "s", "x"}, []string{"SISMEMBER", "s", "z"})
			h.remember("HGET", "nothing", "a")
			asked := [][]string{
				{"HGET", "h", "a"}, {"HGET", "h", "b"}, {"HGET", "h", "none"}, {"HMGET", "h", "c", "none", "a"}, {"HEXISTS", "h", "b"}, {"HEXISTS", "h", "none"}, {"HSTRLEN", "h", "b"},
				{"HGET", "one", "none"}, {"SISMEMBER", "s", "x"}, {"SISMEMBER", "s", "z"}, {"HGET", "s", "a"}, {"SISMEMBER", "h", "a"}, {"GET", "h"},
				{"TYPE", "h"}, {"TYPE", "s"}, {"TYPE", "one"}, {"EXISTS", "h", "s", "one", "nothing"}, {"TTL", "s"}, {"TTL", "nothing"}, {"HGETALL", "nothing"}, {"HLEN", "nothing"},
			}
			want := make([]string, len(asked))
			for i, args := range asked {
				want[i] = h.do(args...)
			}
			ttl := integer(h.do("TTL", "h"))
			h.lose()
			for i, args := range asked {
				require.Equal(t, want[i], h.do(args...), "%q", args)
			}
			require.InDelta(t, ttl, integer(h.do("TTL", "h")), 60)
			for _, args := range [][]string{
				{"HGET", "h", "d"}, {"HMGET", "h", "a", "d"}, {"HEXISTS", "h", "d"}, {"HSTRLEN", "h", "d"}, {"HGETALL", "h"}, {"HKEYS", "h"}, {"HVALS", "h"}, {"HLEN", "h"}, {"HGET", "one", "a"},
				{"SISMEMBER", "s", "y"}, {"SMEMBERS", "s"}, {"SCARD", "s"}, {"HSET", "h", "a", "2"}, {"HDEL", "h", "a"}, {"SADD", "s", "x"}, {"HINCRBY", "h", "a", "1"},
			} {
				require.True(t, refusal(h.do(args...)), "%q", args)
			}
			require.Equal(t, ":1", h.do("DEL", "h"))
			require.Equal(t, ":0", h.do("HLEN", "h"))
		})
	}
}

// All of a key is more than a part of it.
func TestAPartIsReplacedByAllOfItsKey(t *testing.T) {
	h := newHearer(t, "2")
	h.redis.Do("HSET", "k", "a", "1", "b", "2")
	h.learn(1, []string{"HGET", "k", "a"})
	eventually(t, "all is remembered", func() bool {
		h.do("HGETALL", "k")
		e := h.heard("k")
		return e != nil && !e.part
	})
	h.do("HGET", "k", "b")
	require.False(t, h.heard("k").part)
}

// A field that ends by itself is told of, too.
func TestAFieldThatHasEndedIsNotAnswered(t *testing.T) {
	h := newHearer(t, "2")
	if strings.HasPrefix(h.do("HPEXPIRE", "k", "1", "FIELDS", "1", "a"), "-") {
		return // a server whose fields do not end
	}
	h.redis.Do("HSET", "k", "a", "1", "b", "2")
	h.learn(1, []string{"HGET", "k", "a"})
	h.redis.Do("HPEXPIRE", "k", "50", "FIELDS", "1", "a")
	eventually(t, "its end", func() bool { return h.do("HGET", "k", "a") == "$-1" })
	eventually(t, "it is told of", func() bool {
		h.do("HGET", "k", "a")
		e := h.heard("k")
		return e != nil && !e.fields["a"].there
	})
}

// partOf reads a hash once more.
func partOf(before string, number uint64, now time.Duration, pairs ...string) string {
	w := wanted{letter: fieldsPart}
	var values []any
	for pair := range slices.Chunk(pairs, 2) {
		w.names = append(w.names, pair[0])
		if values = append(values, nil); pair[1] != "nil" {
			values[len(values)-1] = pair[1]
		}
	}
	return united(before, number, w, values, now)
}

func fieldsOf(t *testing.T, content string, proven time.Duration) map[string]hashField {
	t.Helper()
	e := part(content).entry(&entry{kind: aHash}, proven)
	require.NotNil(t, e)
	require.True(t, e.part)
	return e.fields
}

func TestPartsAreUnited(t *testing.T) {
	one := partOf("", 7, 10, "a", "1", "b", "nil", "a", "1")
	require.Equal(t, map[string]hashField{"a": {value: "1", there: true}, "b": {}}, fieldsOf(t, one, 0), "it was read at once")
	require.Empty(t, partOf(one, 7, 20, "b", "nil"), "nothing is new")
	two := partOf(one, 7, 20, "c", "", "a", "1")
	require.Nil(t, part(two).entry(&entry{kind: aHash}, 20), "it may be of two times")
	require.Equal(t, []string{"a", "b", "c"}, slices.Sorted(maps.Keys(fieldsOf(t, two, 21))))
	require.Equal(t, hashField{there: true}, fieldsOf(t, two, 21)["c"])
	for names, has := range map[string]bool{"a": true, "c b a": true, "a a": true, "d": false, "a d": false, "": false} {
		require.Equal(t, has, wanted{fieldsPart, strings.Split(names, " ")}.isIn(two), names)
		require.False(t, wanted{membersPart, strings.Split(names, " ")}.isIn(two), names)
	}
	require.Len(t, fieldsOf(t, partOf(two, 8, 30, "a", "2"), 0), 1, "what is there is of another Hearing")
	require.Empty(t, partOf(heardContent(7, 'h', []byte("*0\r\n")), 7, 30, "a", "2"), "all is known")
	require.False(t, wanted{letter: 'h'}.isIn(two))
	require.True(t, wanted{fieldsPart, []string{"a"}}.isIn(heardContent(7, '-', nil)))
}

func TestAPartIsBounded(t *testing.T) {
	content := ""
	for i := range mostParts {
		content = partOf(content, 1, 1, fmt.Sprint(i), "v")
		require.False(t, part(content).full())
	}
	full := partOf(content, 1, 2, "more", "v")
	require.True(t, part(full).full())
	require.Len(t, fieldsOf(t, full, 3), mostParts)
	require.True(t, wanted{fieldsPart, []string{"other"}}.isIn(full), "nothing more is remembered")
	require.Empty(t, partOf(full, 1, 3, "other", "v"))

	long := partOf("", 1, 1, "a", strings.Repeat("v", mostPartBytes), "b", "v")
	require.True(t, part(long).full())
	require.Empty(t, fieldsOf(t, long, 0))
	most := partOf("", 1, 1, "a", strings.Repeat("v", mostPartBytes-partHead-fieldHead-1))
	require.False(t, part(most).full())
	require.Len(t, most, mostPartBytes)
}

func BenchmarkIsInAPart(b *testing.B) {
	content := ""
	var names []string
	for i := range mostParts {
		content = partOf(content, 1, 1, fmt.Sprint("a name of a field ", i), "a value of some length")
		names = append(names, fmt.Sprint("a name of a field ", i))
	}
	for name, names := range map[string][]string{"first": names[:1], "last": names[mostParts-1:], "none": {"a name of a field x"}, "all": names, "all from behind": reversed(names)} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				_ = wanted{fieldsPart, names}.isIn(content)
			}
		})
	}
}

func reversed(all []string) []string {
	all = slices.Clone(all)
	slices.Reverse(all)
	return all
}
