package web

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

type anyKey struct{}

func TestALazyContextEndsLikeAnyOther(t *testing.T) {
	lazy := func(parent context.Context) *lazyContext {
		return &lazyContext{parent: parent, deadline: time.Now().Add(time.Minute)}
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
		c.end()

		c = lazy(t.Context())
		time.Sleep(2 * time.Minute) // nobody has looked meanwhile
		require.ErrorIs(t, c.Err(), context.DeadlineExceeded)
		<-c.Done()
		c.end()

		parent, cancel := context.WithCancel(t.Context())
		c = lazy(parent)
		child, cancelChild := context.WithCancel(c)
		defer cancelChild()
		cancel()
		<-child.Done()
		require.ErrorIs(t, c.Err(), context.Canceled)
		c.end()

		for _, started := range []bool{true, false} {
			c = lazy(t.Context())
			if started {
				require.NotNil(t, c.Done())
			}
			c.end()
			<-c.Done()
			require.ErrorIs(t, c.Err(), context.Canceled)
			c.end()
		}
	})
}
