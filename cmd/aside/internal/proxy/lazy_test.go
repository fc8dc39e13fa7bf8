package proxy

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

type anyKey struct{}

func TestALazyContextEndsLikeAnyOther(t *testing.T) {
	lazy := func(parent context.Context) *LazyContext {
		return NewLazyContext(parent, time.Now().Add(time.Minute))
	}
	synctest.Test(t, func(t *testing.T) {
		c := lazy(context.WithValue(t.Context(), anyKey{}, "v"))
		deadline, ok := c.Deadline()
		require.True(t, ok)
		require.Equal(t, time.Minute, time.Until(deadline))
		require.Equal(t, "v", c.Value(anyKey{}))
		require.NoError(t, c.Err())
		<-c.Done()
		require.Equal(t, time.Minute, -time.Until(deadline.Add(-time.Minute)), "not sooner, not later")
		require.ErrorIs(t, c.Err(), context.DeadlineExceeded)
		c.End()

		c = lazy(t.Context())
		time.Sleep(2 * time.Minute) // nobody has looked meanwhile
		require.ErrorIs(t, c.Err(), context.DeadlineExceeded)
		<-c.Done()
		c.End()

		parent, cancel := context.WithCancel(t.Context())
		c = lazy(parent)
		child, cancelChild := context.WithCancel(c)
		defer cancelChild()
		cancel()
		<-child.Done()
		require.ErrorIs(t, c.Err(), context.Canceled)
		c.End()

		for _, started := range []bool{true, false} {
			c = lazy(t.Context())
			if started {
				require.NotNil(t, c.Done())
			}
			c.End()
			<-c.Done()
			require.ErrorIs(t, c.Err(), context.Canceled)
			c.End()
		}
	})
}

// A context that nobody waits on has no timer, and is one all the same.
func TestARequestsContextEndsWithItsTimeItsCommandAndItsServer(t *testing.T) {
	life, stop := context.WithCancel(context.WithValue(context.Background(), anyKey{}, "value"))
	defer stop()
	begin := func(d time.Duration) *LazyContext { return NewLazyContext(life, time.Now().Add(d)) }

	r := begin(time.Hour)
	require.NoError(t, r.Err())
	require.Equal(t, "value", r.Value(anyKey{}))
	require.True(t, r.End())
	require.ErrorIs(t, r.Err(), context.Canceled)
	<-r.Done()

	r = begin(-1)
	require.ErrorIs(t, r.Err(), context.DeadlineExceeded)
	<-r.Done()
	require.ErrorIs(t, r.Err(), context.DeadlineExceeded)

	r = begin(time.Hour)
	child, cancel := context.WithCancel(r)
	defer cancel()
	require.Equal(t, "value", child.Value(anyKey{}))
	require.False(t, r.End(), "somebody may still have it")
	<-child.Done()

	r = begin(time.Hour)
	stop()
	require.ErrorIs(t, r.Err(), context.Canceled)
	<-r.Done()
	require.ErrorIs(t, r.Err(), context.Canceled)
}
