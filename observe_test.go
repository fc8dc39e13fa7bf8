package aside_test

import (
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/redistest"
)

// tally counts events by kind. Safe for concurrent use.
type tally struct {
	mu sync.Mutex
	n  map[aside.EventKind]int
}

func (t *tally) Observe(e aside.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n == nil {
		t.n = map[aside.EventKind]int{}
	}
	t.n[e.Kind]++
}

func (t *tally) count(kinds ...aside.EventKind) (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := maps.Clone(t.n)
	for _, kind := range kinds {
		n += all[kind]
	}
	return n
}

// Each key that is asked for counts as something, also right after a miss, when Redis does not have the value yet and memory must not.
func TestEachGetIsAHitALoadOrShared(t *testing.T) {
	server := redistest.Start(t)
	events := new(tally)
	c, ctx := newClient(t, server.Addr(), func(o *aside.Options) { o.Observer = events }), testContext(t)
	s := newSource("v")
	for i := range 100 {
		before := events.count(aside.EventHit, aside.EventShared, aside.EventLoad)
		if i%2 == 0 {
			_, err := c.Get(ctx, time.Minute, "k", s.load)
			require.NoError(t, err)
		} else {
			_, err := c.GetMulti(ctx, time.Minute, []string{"k"}, s.loadMany)
			require.NoError(t, err)
		}
		require.Greater(t, events.count(aside.EventHit, aside.EventShared, aside.EventLoad), before, "call %d", i)
		if i%10 == 9 {
			require.NoError(t, c.Del(ctx, "k"))
		}
	}
}

func TestWaitsAreObserved(t *testing.T) {
	server := redistest.Start(t)
	events, others := new(tally), new(tally)
	c, ctx := newClient(t, server.Addr(), func(o *aside.Options) { o.Observer = events }), testContext(t)
	other := newClient(t, server.Addr(), func(o *aside.Options) { o.Observer = others })
	s := newSource("v")
	letGo := s.holdUp()
	defer letGo()
	first := inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "k", s.load) })
	s.awaitBegin(t)
	second := inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "k", mustNotLoad) })
	elsewhere := inBackground(func() (string, error) { return other.Get(ctx, time.Minute, "k", mustNotLoad) })
	eventually(t, "one shares, and one waits for the lock", func() bool {
		return events.count(aside.EventShared) == 1 && others.count(aside.EventLockWait) > 0
	})
	letGo()
	for _, done := range []<-chan result{first, second, elsewhere} {
		require.Equal(t, result{"v", nil}, await(t, done))
	}
	require.EqualValues(t, c.Stats().Shared, events.count(aside.EventShared))
	require.EqualValues(t, other.Stats().LockWaits, others.count(aside.EventLockWait))
	require.Equal(t, "shared", aside.EventShared.String())
	require.Equal(t, "lock-wait", aside.EventLockWait.String())
}
