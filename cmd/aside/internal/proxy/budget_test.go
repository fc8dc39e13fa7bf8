package proxy

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestABudgetIsNeverOverdrawn(t *testing.T) {
	b := NewBudget(100)
	require.True(t, b.Take(100))
	require.False(t, b.Take(1))
	require.EqualValues(t, 100, b.Used(), "what found no room takes none")
	b.Give(40)
	require.True(t, b.Take(40))
	b.Give(100)
	require.Zero(t, b.Used())

	var takers sync.WaitGroup
	var most atomic.Int64
	for range 50 {
		takers.Go(func() {
			for range 1000 {
				if b.Take(3) {
					if holders := most.Add(3); holders > 100 {
						t.Errorf("%d of 100 are taken", holders)
					}
					most.Add(-3)
					b.Give(3)
				}
			}
		})
	}
	takers.Wait()
	require.Zero(t, b.Used())

	for _, unlimited := range []*Budget{nil, NewBudget(0)} {
		require.True(t, unlimited.Take(1<<60))
		unlimited.Give(1 << 60)
		require.Zero(t, unlimited.Used())
		require.Zero(t, unlimited.Limit())
	}
}

func TestASmallRequestTakesNothingOfTheBudget(t *testing.T) {
	b := NewBudget(1000)
	large, small := b.Share(), b.Share()
	require.True(t, large.Hold(FreeBytes))
	require.Zero(t, b.Used())
	require.True(t, large.Hold(1000))
	require.EqualValues(t, 1000, b.Used())
	require.False(t, large.Hold(1))
	require.True(t, small.Hold(FreeBytes-1), "whatever the large ones hold")
	require.True(t, small.Hold(1))
	require.False(t, small.Hold(1))
	large.End()
	require.Zero(t, b.Used())
	require.True(t, small.Hold(1))
	require.EqualValues(t, 1, b.Used())
	small.End()
	large.End()
	require.Zero(t, b.Used())

	var none Share
	require.True(t, none.Hold(1<<40))
	none.End()
}

func TestDescriptorsAreLeftForRedisAndTheJournal(t *testing.T) {
	for limit, want := range map[int64]int64{0: 0, 16: 8, 256: 192, 1024: 960, 1 << 20: 1<<20 - 64} {
		require.Equal(t, want, connectionsOf(limit), "of %d", limit)
	}
}
