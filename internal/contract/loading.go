package contract

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/harness"
)

// What a loader may do, and what becomes of its callers.

type ctxKey struct{}

func aLoadersErrorReleasesTheLock(t *testing.T, start Start) {
	server := start(t)
	c, other, db, ctx := harness.NewClient(t, server.Addr()), harness.NewClient(t, server.Addr()), harness.NewSource("v"), harness.Context(t)
	broken := errors.New("database is down")
	db.Fail(broken)
	_, err := c.Get(ctx, time.Minute, "k", db.Load)
	require.ErrorIs(t, err, broken)
	require.Nil(t, server.Do("GET", "k"))
	db.Fail(nil)
	value, err := other.Get(ctx, time.Minute, "k", db.Load)
	require.NoError(t, err)
	require.Equal(t, "v", value)
}

func aPanicFreesTheKey(t *testing.T, start Start) {
	server := start(t)
	c, other, db, ctx := harness.NewClient(t, server.Addr()), harness.NewClient(t, server.Addr()), harness.NewSource("v"), harness.Context(t)
	_, err := c.Get(ctx, time.Minute, "k", func(context.Context, string) (string, error) { panic(errors.New("boom")) })
	var p *aside.PanicError
	require.ErrorAs(t, err, &p)
	require.ErrorContains(t, p.Unwrap(), "boom")
	require.Contains(t, string(p.Stack), "aPanicFreesTheKey")
	value, err := other.Get(ctx, time.Minute, "k", db.Load)
	require.NoError(t, err)
	require.Equal(t, "v", value)

	_, err = c.Get(ctx, time.Minute, "exit", func(context.Context, string) (string, error) { runtime.Goexit(); return "", nil })
	require.ErrorContains(t, err, "ended its goroutine")
	require.Nil(t, server.Do("GET", "exit"))
}

func theLeadersCancelledContextDoesNotFailItsFollowers(t *testing.T, start Start) {
	server := start(t)
	c, db, ctx := harness.NewClient(t, server.Addr()), harness.NewSource("v"), harness.Context(t)
	letGo := db.HoldUp()
	leaderCtx, cancel := context.WithCancel(context.WithValue(ctx, ctxKey{}, "the leader's"))
	leader := harness.InBackground(func() (string, error) { return c.Get(leaderCtx, time.Minute, "k", db.Load) })
	db.AwaitBegin(t)
	follower := harness.InBackground(func() (string, error) { return c.Get(ctx, time.Minute, "k", harness.MustNotLoad) })
	harness.AwaitShared(t, c, 1)
	cancel()
	require.ErrorIs(t, harness.Await(t, leader).Err, context.Canceled)
	letGo()
	require.Equal(t, harness.Result{Value: "v"}, harness.Await(t, follower))
	require.EqualValues(t, 1, db.Calls.Load())
}

func theLoaderSeesTheValuesOfTheContextAndADeadline(t *testing.T, start Start) {
	server := start(t)
	c := harness.NewClient(t, server.Addr())
	ctx := context.WithValue(harness.Context(t), ctxKey{}, "trace")
	_, err := c.Get(ctx, time.Minute, "k", func(ctx context.Context, key string) (string, error) {
		require.Equal(t, "k", key)
		require.Equal(t, "trace", ctx.Value(ctxKey{}))
		deadline, ok := ctx.Deadline()
		require.True(t, ok)
		require.WithinDuration(t, time.Now().Add(42*time.Second), deadline, 10*time.Second)
		return "v", nil
	}, aside.WithLoadTimeout(42*time.Second))
	require.NoError(t, err)
}

func aLoadIsCancelledWhenItsLastWaiterHasLeft(t *testing.T, start Start) {
	server := start(t)
	c, ctx := harness.NewClient(t, server.Addr()), harness.Context(t)
	began, ended := make(chan struct{}), make(chan error, 1)
	slow := func(ctx context.Context, _ string) (string, error) {
		close(began)
		<-ctx.Done()
		ended <- ctx.Err()
		return "", ctx.Err()
	}
	leaderCtx, cancelLeader := context.WithCancel(ctx)
	followerCtx, cancelFollower := context.WithCancel(ctx)
	leader := harness.InBackground(func() (string, error) { return c.Get(leaderCtx, time.Minute, "k", slow) })
	harness.Await(t, began)
	follower := harness.InBackground(func() (string, error) { return c.Get(followerCtx, time.Minute, "k", harness.MustNotLoad) })
	harness.AwaitShared(t, c, 1)
	cancelLeader()
	require.ErrorIs(t, harness.Await(t, leader).Err, context.Canceled)
	require.Empty(t, ended, "cancelled though somebody waits")
	cancelFollower()
	require.ErrorIs(t, harness.Await(t, follower).Err, context.Canceled)
	require.ErrorIs(t, harness.Await(t, ended), context.Canceled)
	harness.Eventually(t, "the lock is released", func() bool { return server.Do("GET", "k") == nil })
	// The cancellation is not an answer to those who come now.
	value, err := c.Get(ctx, time.Minute, "k", harness.NewSource("v").Load)
	require.NoError(t, err)
	require.Equal(t, "v", value)
}

func aLoaderThatDoesNotHeedItsContextIsLeftBehind(t *testing.T, start Start) {
	server := start(t)
	c, ctx := harness.NewClient(t, server.Addr()), harness.Context(t)
	release := make(chan struct{})
	returned := make(chan struct{})
	_, err := c.Get(ctx, time.Minute, "k", func(context.Context, string) (string, error) {
		defer close(returned)
		<-release
		return "too late", nil
	}, aside.WithLoadTimeout(50*time.Millisecond))
	require.ErrorIs(t, err, aside.ErrLoadTimeout)
	require.Nil(t, server.Do("GET", "k"), "its lock is released")
	close(release)
	harness.Await(t, returned)
	require.Nil(t, server.Do("GET", "k"), "what it returns then is dropped")
}

func aLoaderThatAsksForItsOwnKeyGetsAnError(t *testing.T, start Start) {
	server := start(t)
	c, ctx := harness.NewClient(t, server.Addr()), harness.Context(t)
	var get func(ctx context.Context, key string) (string, error)
	get = func(ctx context.Context, _ string) (string, error) { return c.Get(ctx, time.Minute, "k", get) }
	_, err := get(ctx, "k")
	require.ErrorIs(t, err, aside.ErrRecursiveLoad)

	// Through another key, and through a batch.
	_, err = c.Get(ctx, time.Minute, "a", func(ctx context.Context, _ string) (string, error) {
		return c.Get(ctx, time.Minute, "b", func(ctx context.Context, _ string) (string, error) {
			m, err := c.GetMulti(ctx, time.Minute, []string{"c", "a"}, harness.NewSource("v").LoadMany)
			require.Equal(t, map[string]string{"c": "v"}, m)
			return "", err
		})
	})
	require.ErrorIs(t, err, aside.ErrRecursiveLoad)
	// Other keys are fine.
	value, err := c.Get(ctx, time.Minute, "x", func(ctx context.Context, _ string) (string, error) {
		return c.Get(ctx, time.Minute, "y", harness.NewSource("v").Load)
	})
	require.NoError(t, err)
	require.Equal(t, "v", value)
}

func closeWakesEverybodyAndGivesUpItsLocks(t *testing.T, start Start) {
	server := start(t)
	c, other, db, ctx := harness.NewClient(t, server.Addr()), harness.NewClient(t, server.Addr()), harness.NewSource("v"), harness.Context(t)
	db.HoldUp()
	loading := harness.InBackground(func() (string, error) { return c.Get(ctx, time.Minute, "k", db.Load) })
	db.AwaitBegin(t)
	foreign := harness.NewSource("v")
	letGo := foreign.HoldUp()
	holder := harness.InBackground(func() (string, error) { return other.Get(ctx, time.Minute, "theirs", foreign.Load) })
	foreign.AwaitBegin(t)
	waiting := harness.InBackground(func() (string, error) { return c.Get(ctx, time.Minute, "theirs", harness.MustNotLoad) })
	harness.Eventually(t, "it waits", func() bool { return c.Stats().LockWaits == 1 })
	require.NoError(t, c.Close())
	require.ErrorIs(t, harness.Await(t, loading).Err, aside.ErrClosed)
	require.ErrorIs(t, harness.Await(t, waiting).Err, aside.ErrClosed)
	require.Nil(t, server.Do("GET", "k"), "the lock was given up")
	require.NoError(t, c.Close(), "twice is fine")
	letGo()
	require.NoError(t, harness.Await(t, holder).Err)

	_, err := c.Get(ctx, time.Minute, "k", harness.MustNotLoad)
	require.ErrorIs(t, err, aside.ErrClosed)
	_, err = c.GetMulti(ctx, time.Minute, []string{"k"}, db.LoadMany)
	require.ErrorIs(t, err, aside.ErrClosed)
	_, _, err = c.Peek(ctx, "k")
	require.ErrorIs(t, err, aside.ErrClosed)
	require.ErrorIs(t, c.Set(ctx, time.Minute, "k", "v"), aside.ErrClosed)
	require.ErrorIs(t, c.Del(ctx, "k"), aside.ErrClosed)
	require.ErrorIs(t, c.Touch(ctx, time.Minute, "k"), aside.ErrClosed)
	c.Stats()
}
