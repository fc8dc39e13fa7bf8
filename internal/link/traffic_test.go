package link

import (
	"bufio"
	"context"
	"io"
	"net"
	"strings"
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

// What rueidis writes passes through a buffer that is smaller than a large piece.
func TestWhatIsWrittenPassesAsItMoves(t *testing.T) {
	l := &Link{opt: Options{}}
	for name, tt := range map[string]struct {
		write func(w *bufio.Writer)
		least int64
		most  int64
	}{
		"a large value": {func(w *bufio.Writer) { _, _ = w.WriteString("$1048576\r\n" + strings.Repeat("v", 1<<20)) }, 1<<20 - largePiece, 1<<20 + largePiece},
		"a large one behind a command": {func(w *bufio.Writer) {
			_, _ = w.WriteString("*1\r\n")
			_, _ = w.WriteString(strings.Repeat("v", 1<<20))
		}, 1<<20 - 2*largePiece, 1<<20 + largePiece},
		"many of some size": {func(w *bufio.Writer) {
			for range 64 {
				_, _ = w.WriteString(strings.Repeat("v", 16<<10))
			}
		}, 1<<20 - 2*largePiece, 1 << 20},
		"many small ones": {func(w *bufio.Writer) {
			for range 1 << 10 {
				_, _ = w.WriteString("*1\r\n$4\r\nPING\r\n")
				_ = w.Flush()
			}
		}, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			here, there := net.Pipe()
			go func() { _, _ = io.Copy(io.Discard, there) }() // ends with there
			defer there.Close()
			var ways roads
			conn := l.watch(here, &ways, "a")
			defer conn.Close()
			w := bufio.NewWriterSize(conn, defaultWriteBuffer)
			tt.write(w)
			require.NoError(t, w.Flush())
			passed := ways.to("a").passed.Load()
			require.GreaterOrEqual(t, passed, tt.least)
			require.LessOrEqual(t, passed, tt.most)
		})
	}
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
