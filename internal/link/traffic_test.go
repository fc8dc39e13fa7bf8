package link

import (
	"bufio"
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

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

// A connection is given up when it is silent, not when the process did not run: then the answer may be
// there, and nobody has read it yet.
func TestASilentConnectionIsGivenUpAndAStoppedProcessIsNoSilence(t *testing.T) {
	for name, tt := range map[string]struct {
		silent, late, timeout time.Duration
		given                 bool
	}{
		"silent":                             {silent: 2 * time.Second, given: true},
		"silent for less than RedisTimeout":  {silent: 2 * time.Second, timeout: time.Minute},
		"the process did not run":            {silent: 2 * time.Second, late: 2 * time.Second},
		"it did not run for a part of that":  {silent: 4 * time.Second, late: time.Second, given: true},
		"it did not run before the question": {silent: 0, late: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			l := &Link{began: time.Now().Add(-time.Hour), opt: Options{RedisTimeout: tt.timeout}}
			here, there := net.Pipe()
			defer there.Close()
			w := l.watch(here, new(roads), "a")
			defer w.Close()
			w.look.Stop()
			w.writes.Store(2)
			now := l.Now()
			w.quiet.Store(now - int64(tt.silent))
			w.due = now - int64(tt.late)
			w.hangUpIfQuiet()
			require.Equal(t, tt.given, w.closed.Load())
			require.LessOrEqual(t, w.quiet.Load(), l.Now(), "no silence begins in the future")
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
