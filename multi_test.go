package aside_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/internal/redistest"
)

// A batch that waits for a dead holder does not keep others from a key of it that is there.
func TestABatchThatWaitsHoldsNobodyElse(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	for i := range 5 {
		server.Do("SET", fmt.Sprint("dead", i), "\x00aside:lock:dead", "PX", 3_600_000)
	}
	server.Do("SET", "live", "\x00aside:lock:alive", "PX", 3_600_000)
	waiting, cancel := context.WithCancel(ctx)
	batch := make(chan map[string]string, 1)
	go func() {
		values, _ := c.GetMulti(waiting, time.Minute, []string{"dead0", "dead1", "live", "dead2", "dead3", "dead4"}, newSource("v").LoadMany)
		batch <- values
	}()
	eventually(t, "it waits", func() bool { return c.Stats().LockWaits >= 6 })
	server.Do("SET", "live", "v") // its holder fills it
	value, err := c.Get(ctx, time.Minute, "live", mustNotLoad)
	require.NoError(t, err)
	require.Equal(t, "v", value)
	cancel()
	require.Equal(t, map[string]string{"live": "v"}, await(t, batch))
	awaitNobody(t, c)
}

// A polling batch looks at all its keys in one go.
func TestAPollingBatchLooksAtAllItsKeysAtOnce(t *testing.T) {
	server := redistest.Start(t)
	proxy := counted(t, server)
	a, b, ctx := newClient(t, server.Addr(), untracked), newClient(t, proxy.Addr(), untracked), testContext(t)
	keys := make([]string, 300)
	for i := range keys {
		keys[i] = fmt.Sprint("k", i)
	}
	db := newSource("v")
	letGo := db.HoldUp()
	first := make(chan error, 1)
	go func() { _, err := a.GetMulti(ctx, time.Minute, keys, db.LoadMany); first <- err }()
	db.AwaitBegin(t)
	second := make(chan error, 1)
	go func() { _, err := b.GetMulti(ctx, time.Minute, keys, db.LoadMany); second <- err }()
	eventually(t, "it polls", func() bool { return b.Stats().LockWaits >= 1500 })
	require.Less(t, proxy.RoundTrips(), 150, "of the 1,500 that it takes one by one")
	letGo()
	require.NoError(t, await(t, first))
	require.NoError(t, await(t, second))
	require.EqualValues(t, 1, db.Calls.Load())
}

// A batch loader that answers for other keys only says nothing about those it was asked for.
func TestABatchLoaderThatAnswersForOtherKeysIsAnError(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	load := func(context.Context, []string) (map[string]string, error) {
		return map[string]string{"1": "v", "2": "v"}, nil
	}
	for name, get := range map[string]func() (map[string]string, error){
		"GetMulti": func() (map[string]string, error) { return c.GetMulti(ctx, time.Minute, []string{"u:1", "u:2"}, load) },
		"typed": func() (map[string]string, error) {
			return aside.Typed(c, codec.String()).GetMulti(ctx, time.Minute, []string{"u:3", "u:4"}, load)
		},
	} {
		values, err := get()
		require.Empty(t, values, name)
		var batch *aside.BatchError
		require.ErrorAs(t, err, &batch, name)
		require.Len(t, batch.Failed, 2, name)
		require.NotErrorIs(t, err, aside.ErrNotFound, name)
		require.ErrorContains(t, err, `"1"`, name)
	}
	awaitNobody(t, c)
	require.EqualValues(t, 0, server.Do("EXISTS", "u:1", "u:2", "u:3", "u:4"))
	value, err := c.Get(ctx, time.Minute, "u:1", newSource("v").Load)
	require.NoError(t, err)
	require.Equal(t, "v", value)
}

func TestABatchThatFailsConcludesNothing(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	broken := errors.New("half of the database is down")
	server.Do("SET", "redis", "r")
	got, err := c.GetMulti(ctx, time.Minute, []string{"a", "b", "redis"}, func(context.Context, []string) (map[string]string, error) {
		return map[string]string{"a": "1"}, broken
	})
	require.ErrorIs(t, err, broken)
	var batch *aside.BatchError
	require.ErrorAs(t, err, &batch)
	require.ElementsMatch(t, []string{"a", "b"}, slices.Collect(maps.Keys(batch.Failed)))
	require.Equal(t, map[string]string{"redis": "r"}, got)
	require.Nil(t, server.Do("GET", "a"))
	require.Nil(t, server.Do("GET", "b"), "not remembered as absent")
	got, err = c.GetMulti(ctx, time.Minute, []string{"all", "gone"}, func(context.Context, []string) (map[string]string, error) {
		return nil, aside.ErrNotFound
	})
	require.NoError(t, err)
	require.Empty(t, got)
	_, err = c.GetMulti(ctx, time.Minute, []string{"p"}, func(context.Context, []string) (map[string]string, error) { panic("boom") })
	var p *aside.PanicError
	require.ErrorAs(t, err, &p)
}

func TestBatchesWithCrossedKeysDoNotBlockEachOther(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	a, b, ctx := newClient(t, server.Addr()), newClient(t, server.Addr()), testContext(t)
	for round := range 20 {
		var keys []string
		for i := range 20 {
			keys = append(keys, fmt.Sprint(round, "/", i))
		}
		backwards := slices.Clone(keys)
		slices.Reverse(backwards)
		dbA, dbB := newSource("v"), newSource("v")
		var callers sync.WaitGroup
		for _, f := range []func() (map[string]string, error){
			func() (map[string]string, error) { return a.GetMulti(ctx, time.Minute, keys, dbA.LoadMany) },
			func() (map[string]string, error) { return a.GetMulti(ctx, time.Minute, backwards, dbA.LoadMany) },
			func() (map[string]string, error) { return b.GetMulti(ctx, time.Minute, backwards, dbB.LoadMany) },
			func() (map[string]string, error) {
				v, err := b.Get(ctx, time.Minute, keys[3], dbB.Load)
				return map[string]string{keys[3]: v}, err
			},
		} {
			callers.Go(func() {
				got, err := f()
				if err != nil || got[keys[3]] != "v" {
					t.Errorf("%v, %v", got, err)
				}
			})
		}
		callers.Wait()
	}
}

func TestABatchLoadGoesOnWhileOneOfItsKeysIsWaitedFor(t *testing.T) {
	server := redistest.Start(t)
	c, db, ctx := newClient(t, server.Addr()), newSource("v"), testContext(t)
	letGo := db.HoldUp()
	batchCtx, cancel := context.WithCancel(ctx)
	batch := make(chan error, 1)
	go func() {
		_, err := c.GetMulti(batchCtx, time.Minute, []string{"a", "b", "c"}, db.LoadMany)
		batch <- err
	}()
	db.AwaitBegin(t)
	single := inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "b", mustNotLoad) })
	awaitShared(t, c, 1)
	cancel()
	require.ErrorIs(t, await(t, batch), context.Canceled)
	again := inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "a", mustNotLoad) }) // revived
	awaitShared(t, c, 2)
	letGo()
	require.Equal(t, result{Value: "v"}, await(t, single))
	require.Equal(t, result{Value: "v"}, await(t, again))
	require.EqualValues(t, 1, db.Calls.Load())
}
