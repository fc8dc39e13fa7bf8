package link

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"
)

func TestHalfOfTheRingMayBeOut(t *testing.T) {
	for scale, room := range map[int]int64{0: 128, 1: 1, 3: 4, 9: 256, 10: 512, 14: 512} {
		l := &Link{opt: Options{Redis: rueidis.ClientOption{RingScaleEachConn: scale}}}
		require.Equal(t, room, l.inFlightRoom(), "RingScaleEachConn %d", scale)
	}
}

// What was given up keeps its room until a later command is answered.
func TestARequestThatWasGivenUpKeepsItsRoom(t *testing.T) {
	g := gate{free: make(chan struct{}, 1), room: 2}
	full, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, g.enter(t.Context()))
	require.NoError(t, g.enter(t.Context()))
	g.giveUp(10)
	g.giveUp(11)
	require.Error(t, g.enter(full))
	g.settled(11) // asked no later than the latest of them
	require.Error(t, g.enter(full))
	g.settled(12)
	require.NoError(t, g.enter(full))
	require.NoError(t, g.enter(full))
	require.Error(t, g.enter(full))
}

func TestLargeValuesGoInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var turns turns
		come := make(chan int, 3)
		ctx, cancel := context.WithCancel(t.Context())
		require.True(t, turns.take(t.Context(), 2*mostAhead), "the first passes whatever it brings")
		go func() {
			if !turns.take(ctx, mostAhead) {
				come <- 1
			}
		}()
		synctest.Wait()
		for range 2 {
			go func() {
				turns.take(t.Context(), mostAhead/2)
				come <- 2
			}()
		}
		synctest.Wait()
		require.Empty(t, come)
		cancel()
		require.Equal(t, 1, <-come, "who does not wait any more has left")
		synctest.Wait()
		require.Empty(t, come)
		turns.give(2 * mostAhead)
		require.Equal(t, 2, <-come)
		require.Equal(t, 2, <-come)
		turns.give(mostAhead / 2)
		turns.give(mostAhead / 2)
		require.Zero(t, turns.out)
	})
}
