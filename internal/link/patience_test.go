package link

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/near"
	"github.com/redaside/aside/internal/redistest"
	"github.com/redaside/aside/internal/script"
)

func newContextLink() (*Link, *Shard) {
	l := &Link{opt: Options{RedisTimeout: time.Second}, began: time.Now()}
	return l, &Shard{Valid: near.NewValidity(true), traffic: new(traffic), plain: true}
}

func TestACommandsContextEndsWithItsBoundAndItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, sh := newContextLink()
		late := l.ask(t.Context(), sh, time.Second)
		time.Sleep(time.Second - 1)
		require.NoError(t, late.Err())
		time.Sleep(time.Nanosecond)
		<-late.Done()
		require.ErrorIs(t, late.Err(), context.DeadlineExceeded)
		late.end(true)

		ctx, leave := context.WithCancel(t.Context())
		left := l.ask(ctx, sh, time.Second)
		require.NotSame(t, late, left)
		leave()
		<-left.Done()
		require.ErrorIs(t, left.Err(), context.Canceled)
		left.end(true)
		require.Nil(t, l.contexts.Get(), "one that has ended is not used again")
	})
}

// A relapse would be a command that ends by another's bound, or a context that changes in the hands
// of somebody who still has it.
func TestACommandsContextIsUsedAgainOnlyIfNobodyHasIt(t *testing.T) {
	used := func(t *testing.T, answered bool, during func(l *Link, sh *Shard, q *commandContext)) bool {
		t.Helper()
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		again := false
		for range 64 { // with the race detector, a pool loses some
			l, sh := newContextLink()
			q := l.ask(ctx, sh, time.Minute)
			during(l, sh, q)
			q.end(answered)
			next, ok := l.contexts.Get().(*commandContext)
			again = again || ok
			if ok {
				require.Same(t, q, next)
				require.NoError(t, next.Err())
			}
		}
		return again
	}
	nothing := func(*Link, *Shard, *commandContext) {}
	require.True(t, used(t, true, nothing))
	require.False(t, used(t, false, nothing), "it may be out")
	require.False(t, used(t, true, func(_ *Link, sh *Shard, _ *commandContext) { sh.Valid.NewEpoch() }), "a dialer may have it")
	require.False(t, used(t, true, func(_ *Link, sh *Shard, _ *commandContext) { sh.plain = false }), "a client of the user's may have it")
	require.False(t, used(t, true, func(_ *Link, _ *Shard, q *commandContext) { q.look() }), "its timer has run")
}

func TestASecondCommandsContextIsTheFirsts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, sh := newContextLink()
		first := l.ask(context.Background(), sh, time.Second)
		time.Sleep(time.Second / 2)
		first.end(true)
		second := l.ask(context.Background(), sh, time.Second)
		time.Sleep(time.Second - 1)
		require.NoError(t, second.Err(), "the bound of the first is over, and not of the second")
		time.Sleep(time.Nanosecond)
		<-second.Done()
		require.ErrorIs(t, second.Err(), context.DeadlineExceeded)
	})
}

// wrapped is a client of the user's around rueidis's.
type wrapped struct{ rueidis.Client }

func TestAClientOfTheUsersIsNotTakenForRueidisOwn(t *testing.T) {
	l := newConnected(t, redistest.Start(t).Addr())
	sh := l.Shards()[0]
	require.True(t, sh.plain)
	require.False(t, l.newShard("", &wrapped{sh.client}, true).plain)
	require.False(t, l.newShard("", wrapped{sh.client}, true).plain)
	require.False(t, l.newShard("", nil, true).plain)
}

// A relapse would be four pieces of memory more for each command.
func TestCommandsUseTheContextOfEarlierOnes(t *testing.T) {
	l := newConnected(t, redistest.Start(t).Addr())
	sh := l.Shards()[0]
	left := 0
	for range 200 {
		l.Run(context.Background(), sh, NewCall(script.Read, "k", "a", "1"))
		if q, ok := l.contexts.Get().(*commandContext); ok {
			left++
			l.contexts.Put(q)
		}
	}
	require.Greater(t, left, 100, "a pool loses some, to the garbage collector and under the race detector")
}
