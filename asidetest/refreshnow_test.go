package asidetest_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asidetest"
)

// A Refresh of a key that is not there returns the error with which it could not load: it would
// start over for as long as its context lasts.
func TestARefreshOfNothingSaysWhyItCannotLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, ctx := asidetest.NewServer(t), t.Context()
		client := server.Client(func(o *aside.Options) { o.MaxLoads = 1 })
		letGo := make(chan struct{})
		var holding sync.WaitGroup
		holding.Go(func() {
			_, err := client.Get(ctx, time.Hour, "other", func(context.Context, string) (string, error) {
				<-letGo
				return "v", nil
			})
			require.NoError(t, err)
		})
		synctest.Wait()
		short, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		_, err := client.Refresh(short, time.Hour, "k", mustNotLoad)
		require.ErrorIs(t, err, aside.ErrOverloaded)
		_, err = client.Refresh(short, time.Hour, "k", mustNotLoad, aside.WithLoadTimeout(2*time.Millisecond))
		require.ErrorIs(t, err, aside.ErrLoadTimeout)
		close(letGo)
		holding.Wait()
		value, err := client.Refresh(short, time.Hour, "k", loader("new"))
		require.NoError(t, err)
		require.Equal(t, "new", value)
	})
}

// What another caller's load has failed with is no error of a Refresh that has waited for it.
func TestARefreshLoadsAfterALoadThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, ctx := asidetest.NewServer(t), t.Context()
		client := server.Client()
		var getting sync.WaitGroup
		getting.Go(func() {
			_, err := client.Get(ctx, time.Hour, "k", func(ctx context.Context, _ string) (string, error) {
				<-ctx.Done()
				return "", ctx.Err()
			}, aside.WithLoadTimeout(time.Second))
			require.ErrorIs(t, err, aside.ErrLoadTimeout)
		})
		synctest.Wait()
		value, err := client.Refresh(ctx, time.Hour, "k", loader("new"))
		require.NoError(t, err)
		require.Equal(t, "new", value)
		getting.Wait()
	})
}
