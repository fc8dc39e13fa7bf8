package statuspage

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
)

func TestWhatToDoIsTheMostUrgent(t *testing.T) {
	o := &Options{DirSetting: "fallback.dir", MaxBytesSetting: "fallback.max_bytes"}
	away := Status{Mode: aside.Degraded, Durable: true, Redis: "r:6379", Replay: Replay{Verdicts: map[string]int{}}, Backlog: Backlog{Dir: "/d", MaxBytes: 1000}}
	change := func(f func(*Status)) string {
		st := away
		f(&st)
		return st.todo(o)
	}
	require.Equal(t, "Bring back Redis at r:6379. The rest is done here: writes are kept, and replayed then.", away.todo(o))
	require.Contains(t, change(func(s *Status) { s.Durable = false }), "before this process ends")
	require.Contains(t, change(func(s *Status) { s.Backlog.Bytes = 800 }), "raise fallback.max_bytes")
	require.Contains(t, change(func(s *Status) { s.Backlog.Bytes, s.Backlog.Error = 800, "full" }), "See to the disk, or the rights, of /d")
	require.Equal(t, "Nothing: the replay ends by itself.", change(func(s *Status) { s.Mode = aside.Recovering }))
	require.Equal(t, "Nothing.", change(func(s *Status) { s.Mode = aside.Healthy }))
	require.Contains(t, change(func(s *Status) { s.Mode, s.Backlog.Quarantined = aside.Healthy, 1 }), "aside verify /d")
	require.Contains(t, change(func(s *Status) {
		s.Mode, s.Backlog.Sets, s.Replay.Verdicts = aside.Healthy, 1, map[string]int{"refused": 1}
	}), "aside doctor")
}

func TestTheLastMinuteIsWhatHasComeInIt(t *testing.T) {
	var m lastMinute
	at := func(second int64) totals {
		return totals{Tiers{second, 2 * second, 3 * second, 4 * second}, 5 * second}
	}
	for second := range int64(200) {
		now := time.Unix(second, 0)
		total, minute := m.since(now, at(second))
		require.Equal(t, at(second), total)
		require.Equal(t, at(min(second, 60)), minute, "%d", second)
		m.tick(now, at(second))
		m.tick(now.Add(samplesEvery-1), at(second+1)) // of somebody else who looks
	}
}

func TestOnlyTheLastChangesAreKept(t *testing.T) {
	var c changes
	for i := range 50 {
		c.add(aside.ModeChange{Shard: fmt.Sprint(i), From: aside.Healthy, To: aside.Degraded, At: time.Now()})
	}
	list := c.latest()
	require.Len(t, list, keptChanges)
	require.Equal(t, "49", list[0].Shard)
	require.Equal(t, "30", list[len(list)-1].Shard)
}
