package deferred

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// A Log says of itself what its text says, whatever was added, and those it was made of stay as they
// were.
func TestALogIsWhatItsTextSays(t *testing.T) {
	commands := []string{"INCRBY 1", "INCRBY -2", "INCRBY 9223372036854775807", "APPEND x", "APPEND \xff", "SET 5", "SET 7 PXAT 1", "DEL", "SADD m", "PERSIST", "PEXPIREAT 2", "SETNX y", "INCRBYFLOAT 0.5"}
	rapid.Check(t, func(t *rapid.T) {
		micros := int64(0)
		some := func() (ops []Op) {
			for range rapid.IntRange(1, 3).Draw(t, "operations") {
				micros += rapid.Int64Range(1, 400_000).Draw(t, "later")
				ops = append(ops, Op{at(micros), strings.Fields(rapid.SampledFrom(commands).Draw(t, "command"))})
			}
			return ops
		}
		all := map[*Log]string{}
		log := LogOf(List{ID: at(1), Opened: rapid.Bool().Draw(t, "opened"), Ops: some()})
		for range rapid.IntRange(0, 12).Draw(t, "additions") {
			all[log] = log.String()
			if rapid.IntRange(0, 5).Draw(t, "begun") == 0 {
				log = log.Begun()
			} else {
				log = log.With(some())
			}
		}
		all[log] = log.String()
		for log, text := range all {
			require.Equal(t, text, log.String(), "it has changed")
			require.Equal(t, len(text), log.Len())
			l, err := Parse(text)
			require.NoError(t, err)
			require.Equal(t, text, l.String())
			require.Equal(t, l.ID, log.ID())
			require.Equal(t, l.Opened, log.Opened())
			require.Equal(t, Value{}.After(l.Ops), log.Now())
		}
	})
}

// An addition must not cost more, the more there are: 50,000 of them would take an hour.
func TestAnAdditionCostsTheSameHoweverManyThereAre(t *testing.T) {
	log := LogOf(List{ID: at(1), Ops: []Op{{at(1), []string{"LPUSH", "a"}}}})
	micros, grown := int64(1), 0
	allocations := testing.AllocsPerRun(50_000, func() {
		micros++
		before := cap(log.body)
		log = log.With([]Op{{at(micros), []string{"LPUSH", "a"}}})
		if cap(log.body) != before {
			grown++
		}
	})
	require.Less(t, allocations, 20.0)
	require.Less(t, grown, 100, "the text is copied when its room is doubled, and not each time")
}
