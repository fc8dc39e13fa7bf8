package aside_test

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/redistest"
)

// steppedStore does something else before it says when a key was kept, at one of the times at which it is asked.
type steppedStore struct {
	*fallback.Memory
	looks atomic.Int64
	at    int64
	step  func()
}

func (*steppedStore) Durable() bool { return true }

func (s *steppedStore) Stamp(key string) (string, bool) {
	if key == "n" && s.step != nil && s.looks.Add(1) == s.at {
		step := s.step
		s.step = nil
		step()
	}
	return s.Memory.Stamp(key)
}

// Two additions at the same time to a number that memory knows have two sums, or the later says that it does not know
// its own. A relapse has both answer the same.
func TestAdditionsAtTheSameTimeInAnOutage(t *testing.T) {
	t.Parallel()
	const looks = 2 // at the store, before an addition has its turn; then the other one would wait for it
	for at := int64(1); at <= looks; at++ {
		t.Run(fmt.Sprint("at look ", at), func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			store := &steppedStore{Memory: fallback.NewMemory(0), at: at}
			c, cut, heal := away(t, server, func(o *aside.Options) { o.FallbackDir, o.Store = "", store })
			ctx := testContext(t)
			server.Do("SET", "n", "5", "EX", "1000")
			value, _, err := c.Peek(ctx, "n")
			require.NoError(t, err)
			require.Equal(t, "5", value)
			cut()
			var within int64
			var withinErr error
			store.step = func() { within, withinErr = c.Incr(ctx, "n", 1) }
			sum, err := c.Incr(ctx, "n", 1)
			require.Nil(t, store.step)
			for _, err := range []error{err, withinErr} {
				require.True(t, err == nil || errors.Is(err, aside.ErrKept), "%v", err)
			}
			switch {
			case err == nil && withinErr == nil:
				require.ElementsMatch(t, []int64{6, 7}, []int64{sum, within})
			case err == nil:
				require.Contains(t, []int64{6, 7}, sum)
			}
			heal()
			require.Equal(t, "7", server.Do("GET", "n"))
		})
	}
}
