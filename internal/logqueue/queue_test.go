package logqueue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
)

func sized(s string) int { return len(s) }

func missed(n int64) (string, bool) { return fmt.Sprintf("missed %d", n), true }

func TestItemsArriveInOrder(t *testing.T) {
	var got []string
	q := New(Limits{Items: 1000, Bytes: 1 << 20}, sized, missed, func(s string) { got = append(got, s) })
	var want []string
	for i := range 500 {
		want = append(want, strconv.Itoa(i))
		q.Put(want[i])
	}
	require.Zero(t, q.Flush(time.Minute))
	require.Equal(t, want, got)
}

// A caller of Put never waits, memory is bounded, and the count of what was dropped stands where it
// is missing.
func TestAStuckDestinationCostsLinesAndNothingElse(t *testing.T) {
	for name, limits := range map[string]Limits{"items": {Items: 3, Bytes: 1 << 20}, "bytes": {Items: 1 << 20, Bytes: 3}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var got []string
				blocked := make(chan struct{})
				q := New(limits, sized, missed, func(s string) {
					<-blocked
					got = append(got, s)
				})
				q.Put("a")
				synctest.Wait() // it is on its way
				for range 100_000 {
					q.Put("b")
				}
				require.Len(t, q.items, 3)
				require.Equal(t, 100_001, q.Flush(time.Second), "one is being delivered, and the others wait or are lost")
				close(blocked)
				synctest.Wait()
				q.Put("c")
				synctest.Wait()
				require.Equal(t, []string{"a", "b", "b", "b", "missed 99997", "c"}, got)
				require.Nil(t, q.items)
			})
		})
	}
}

func TestTheCountStandsBeforeWhatComesAfterTheGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []string
		next := make(chan struct{})
		q := New(Limits{Items: 1, Bytes: 100}, sized, missed, func(s string) {
			<-next
			got = append(got, s)
		})
		for _, s := range []string{"a", "b", "c"} {
			q.Put(s)
			synctest.Wait()
		}
		next <- struct{}{} // a is delivered, b is next, nothing waits
		synctest.Wait()
		q.Put("d")
		close(next)
		synctest.Wait()
		require.Equal(t, []string{"a", "b", "missed 1", "d"}, got)
	})
}

func TestOneItemMayBeLargerThanTheBound(t *testing.T) {
	var got []string
	q := New(Limits{Items: 3, Bytes: 3}, sized, missed, func(s string) { got = append(got, s) })
	q.Put("longer than that")
	require.Zero(t, q.Flush(time.Minute))
	require.Equal(t, []string{"longer than that"}, got)
}

func TestADestinationThatPanicsOrEndsItsGoroutineLosesThatItemOnly(t *testing.T) {
	var got []string
	q := New(Limits{Items: 1000, Bytes: 1 << 20}, sized, missed, func(s string) {
		switch s {
		case "panic":
			panic(s)
		case "panic(nil)":
			panic(nil) //nolint:govet // it is a panic like any other
		case "exit":
			runtime.Goexit()
		}
		got = append(got, s)
	})
	for range 3 {
		for _, s := range []string{"a", "panic", "exit", "exit", "panic(nil)", "b"} {
			q.Put(s)
		}
	}
	require.Zero(t, q.Flush(time.Minute))
	require.Equal(t, []string{"a", "b", "a", "b", "a", "b"}, got)
}

func TestManyMayPutAndFlush(t *testing.T) {
	var got int
	q := New(Limits{Items: 1 << 20, Bytes: 1 << 30}, sized, missed, func(string) { got++ })
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 1000 {
				q.Put("x")
			}
			q.Flush(time.Minute)
		})
	}
	all.Wait()
	require.Zero(t, q.Flush(time.Minute))
	require.Equal(t, 8000, got)
}

// picky is a handler that is asked for everything from the queue only.
type picky struct {
	slog.Handler
	mu *sync.Mutex // held by the test while it logs
}

func (p picky) check() {
	p.mu.Lock()
	defer p.mu.Unlock() // it is there to be waited for
}

func (p picky) Enabled(ctx context.Context, l slog.Level) bool {
	p.check()
	return p.Handler.Enabled(ctx, l)
}

func (p picky) WithAttrs(attrs []slog.Attr) slog.Handler {
	p.check()
	return picky{p.Handler.WithAttrs(attrs), p.mu}
}

func (p picky) WithGroup(name string) slog.Handler {
	p.check()
	return picky{p.Handler.WithGroup(name), p.mu}
}

func TestAHandlerIsNeverWaitedForAndWritesWhatWasLogged(t *testing.T) {
	var out bytes.Buffer
	var mu sync.Mutex
	text := slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
	h := NewHandler(picky{text, &mu})
	log := slog.New(h)
	mu.Lock()
	ofStore := log.With("store", "dir").WithGroup("g")
	log.Debug("not wanted")
	log.Info("first", "error", errors.New("why"), "n", 1, "d", time.Second)
	ofStore.Warn("second", "a", "b")
	ofStore.Warn("third", slog.Group("more", "c", "d"))
	require.False(t, h.Flush(time.Millisecond))
	mu.Unlock()
	require.True(t, h.Flush(time.Minute))
	require.Equal(t, "level=INFO msg=first error=why n=1 d=1s\nlevel=WARN msg=second store=dir g.a=b\nlevel=WARN msg=third store=dir g.more.c=d\n", out.String())
}

// The bytes of a key may be another request's when its line is written.
func TestWhatIsLoggedIsKept(t *testing.T) {
	var out bytes.Buffer
	var mu sync.Mutex
	h := NewHandler(picky{slog.NewTextHandler(&out, nil), &mu})
	key := []byte("mine")
	mu.Lock()
	slog.New(h).With("of", unsafe.String(&key[0], 4)).Info("line", "key", unsafe.String(&key[0], 4), slog.Group("g", "key", unsafe.String(&key[0], 4)))
	copy(key, "your")
	mu.Unlock()
	require.True(t, h.Flush(time.Minute))
	require.Contains(t, out.String(), "of=mine key=mine g.key=mine")
}
