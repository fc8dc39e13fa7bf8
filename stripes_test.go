package aside

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/stamp"
)

// The latest writes are kept in mind, however many writers there are: all of the last maxRecents, and none that came
// before. Of two writes of a key the later counts.
func TestTheLatestWritesAreKeptInMind(t *testing.T) {
	var r recents
	at := func(n int) stamp.Proposal { return stamp.Proposal{Text: fmt.Sprintf("%09d", n), Slack: int64(n)} }
	const first = 2*maxRecents + 5
	for n := range first {
		r.add([]string{fmt.Sprint("old", n)}, at(n), int64(n))
	}
	var writers sync.WaitGroup
	for w := range 8 {
		writers.Go(func() {
			for n := first + w; n < first+maxRecents; n += 8 {
				r.add([]string{fmt.Sprint("new", n)}, at(n), int64(n))
			}
		})
	}
	writers.Wait()
	all := r.since(0)
	require.Len(t, all, maxRecents)
	for n := first; n < first+maxRecents; n++ {
		key := fmt.Sprint("new", n)
		require.Equal(t, fallback.Record{Op: fallback.OpDel, Key: key, Stamp: at(n).Text, Slack: int64(n)}, all[key])
	}
	require.Len(t, r.since(first+maxRecents-10), 10)

	var two recents
	two.add([]string{"k", "other"}, at(7), int64(time.Second))
	two.add([]string{"k"}, at(9), int64(time.Second))
	two.add([]string{"k"}, at(8), int64(time.Second))
	require.Equal(t, at(9).Text, two.since(1)["k"].Stamp)
	require.Equal(t, at(7).Text, two.since(1)["other"].Stamp)
	require.Empty(t, two.since(int64(time.Second)+1))
}

// A key is known to be written for as long as one of its writes is under way, and what of that was acknowledged is the
// latest, whichever was told last.
func TestWhichWriteWasAcknowledgedLastIsKnownWhileOthersAreUnderWay(t *testing.T) {
	var o overtakings
	o.begin([]string{"k", "other"})
	o.begin([]string{"k"})
	o.acknowledged("k", "2", true)
	o.acknowledged("k", "1", true)
	o.acknowledged("k", "3", false)
	require.Equal(t, overtaking{writes: 2, done: "3", whole: "2"}, o.of("k"))
	require.Equal(t, overtaking{writes: 1}, o.of("other"))
	o.end([]string{"k", "other"})
	require.Equal(t, overtaking{writes: 1, done: "3", whole: "2"}, o.of("k"))
	o.end([]string{"k"})
	for _, key := range []string{"k", "other"} {
		require.Zero(t, o.of(key))
		require.Empty(t, o.stripe(key).byKey)
	}
}
