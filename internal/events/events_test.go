package events_test

import (
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/events"
)

func start(run func()) bool {
	go run()
	return true
}

func call(fn func()) { fn() }

// heard is what a watcher was told, and when.
type heard struct {
	mu   sync.Mutex
	all  []int // guarded by mu
	slow time.Duration
}

func (h *heard) hear(n int) {
	time.Sleep(h.slow)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = append(h.all, n)
}

func (h *heard) list() []int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]int(nil), h.all...)
}

func TestEventsAreToldInOrderAndNobodyWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := events.New[int](start, call)
		slow, quick := &heard{slow: time.Second}, &heard{}
		bus.Watch(slow.hear)
		bus.Watch(quick.hear)
		began := time.Now()
		for n := range 3 {
			bus.Announce(n, nil)
		}
		require.Zero(t, time.Since(began), "whoever announces does not wait")
		time.Sleep(1500 * time.Millisecond)
		require.Equal(t, []int{0}, slow.list())
		require.Equal(t, []int{0}, quick.list(), "each event goes to all before the next")
		require.True(t, bus.Flush(time.Minute))
		require.Equal(t, 3*time.Second, time.Since(began))
		require.Equal(t, []int{0, 1, 2}, slow.list())
		require.Equal(t, []int{0, 1, 2}, quick.list())
		bus.Announce(3, nil) // by a goroutine of its own again
		require.True(t, bus.Flush(time.Minute))
		require.Equal(t, []int{0, 1, 2, 3}, quick.list())
	})
}

func TestWhatIsOvertakenIsNotTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := events.New[int](start, call)
		h := &heard{slow: time.Second}
		bus.Watch(h.hear)
		odd := func(n int) bool { return n%2 == 1 }
		bus.Announce(1, nil)
		synctest.Wait() // it is being told, so nothing overtakes it
		bus.Announce(3, nil)
		bus.Announce(4, nil)
		bus.Announce(5, odd)
		require.True(t, bus.Flush(time.Minute))
		require.Equal(t, []int{1, 4, 5}, h.list())
	})
}

func TestARemovedWatcherHearsNothingToCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := events.New[int](start, call)
		gone, stays := &heard{}, &heard{}
		remove := bus.Watch(gone.hear)
		bus.Watch(stays.hear)
		bus.Announce(1, nil)
		require.True(t, bus.Flush(time.Minute))
		remove()
		remove() // twice is fine
		bus.Announce(2, nil)
		require.True(t, bus.Flush(time.Minute))
		require.Equal(t, []int{1}, gone.list())
		require.Equal(t, []int{1, 2}, stays.list())
	})
}

// A watcher may use the bus that calls it.
func TestAWatcherMayAnnounceWatchAndRemove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := events.New[int](start, call)
		h := &heard{}
		var remove func()
		remove = bus.Watch(func(n int) {
			h.hear(n)
			if n == 1 {
				bus.Announce(2, nil)
				bus.Watch(h.hear)
				remove()
			}
		})
		bus.Announce(1, nil)
		require.True(t, bus.Flush(time.Minute))
		require.Equal(t, []int{1, 2}, h.list())
	})
}

func TestWithoutWatchersNothingIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := events.New[int](start, call)
		bus.Announce(1, nil)
		h := &heard{}
		bus.Watch(h.hear)
		require.True(t, bus.Flush(0))
		require.Empty(t, h.list())
	})
}

func TestFlushDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := events.New[int](start, call)
		h := &heard{slow: time.Hour}
		bus.Watch(h.hear)
		bus.Announce(1, nil)
		began := time.Now()
		require.False(t, bus.Flush(time.Second))
		require.Equal(t, time.Second, time.Since(began))
		require.True(t, bus.Flush(2*time.Hour))
	})
}

// After a Close nobody is told any more, and nobody hangs.
func TestWhereNoGoroutineMayStartNobodyIsTold(t *testing.T) {
	bus := events.New[int](func(func()) bool { return false }, call)
	h := &heard{}
	bus.Watch(h.hear)
	bus.Announce(1, nil)
	bus.Announce(2, nil)
	require.False(t, bus.Flush(time.Hour))
	require.Empty(t, h.list())
}

// What a watcher does to its goroutine costs one event at most, for those behind it.
func TestAWatcherThatPanicsOrEndsItsGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		panics := 0
		bus := events.New[int](start, func(fn func()) {
			defer func() {
				if recover() != nil {
					panics++
				}
			}()
			fn()
		})
		before, after := &heard{}, &heard{}
		bus.Watch(before.hear)
		bus.Watch(func(n int) {
			switch n {
			case 1:
				panic("no")
			case 2:
				runtime.Goexit()
			}
		})
		bus.Watch(after.hear)
		bus.Announce(1, nil)
		bus.Announce(2, nil)
		bus.Flush(time.Minute)
		bus.Announce(3, nil)
		require.True(t, bus.Flush(time.Minute))
		require.Equal(t, 1, panics)
		require.Equal(t, []int{1, 2, 3}, before.list())
		require.Equal(t, []int{1, 3}, after.list())
	})
}

func TestManyAnnounceAtOnce(t *testing.T) {
	bus := events.New[int](start, call)
	h := &heard{}
	bus.Watch(h.hear)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for n := range 100 {
				remove := bus.Watch(func(int) {})
				bus.Announce(n, nil)
				remove()
			}
		})
	}
	all.Wait()
	require.True(t, bus.Flush(time.Minute))
	require.Len(t, h.list(), 800)
}

// Beyond its bound a bus leaves out what comes, says so, and takes more when there is room again.
func TestABoundedBusLeavesOutWhatDoesNotFit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := events.NewBounded[int](2, start, call)
		h := &heard{slow: time.Second}
		bus.Watch(h.hear)
		require.True(t, bus.Announce(0, nil))
		synctest.Wait() // it is being told
		require.True(t, bus.Announce(1, nil))
		require.True(t, bus.Announce(2, nil))
		require.False(t, bus.Announce(3, nil))
		require.True(t, bus.Announce(4, func(queued int) bool { return queued == 2 }), "one that is overtaken makes room")
		require.True(t, bus.Flush(time.Minute))
		require.True(t, bus.Announce(5, nil))
		require.True(t, bus.Flush(time.Minute))
		require.Equal(t, []int{0, 1, 4, 5}, h.list())
	})
}
