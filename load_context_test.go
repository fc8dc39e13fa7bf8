package aside

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/link"
)

// A relapse would be a goroutine for each context that a loader derives, one that ends after the
// load has, or the reason of a caller's context in place of the load's.
func TestContextsOfALoaderEndWithTheLoad(t *testing.T) {
	why := errors.New("the caller's own reason")
	outer, leave := context.WithCancelCause(t.Context())
	who := enterCall(outer)
	defer who.leave()
	l := &load{c: &Client{link: new(link.Link)}, first: who, live: 1}
	ctx := &l.values
	ctx.l = l

	early, cancel := context.WithCancel(ctx)
	require.Len(t, ctx.after, 1, "package context calls AfterFunc, and starts no goroutine")
	cancel()
	require.Empty(t, ctx.after)
	require.NoError(t, ctx.Err())
	require.ErrorIs(t, early.Err(), context.Canceled)

	child, cancel := context.WithTimeout(ctx, time.Hour)
	defer cancel()
	done := ctx.Done()
	leave(why)
	require.NoError(t, ctx.Err(), "it does not end with its caller's")
	require.False(t, ctx.end(context.DeadlineExceeded), "it was not begun, so nothing expires by it")
	<-done
	require.Error(t, child.Err(), "it ends with it, not some time later")
	require.ErrorIs(t, child.Err(), context.DeadlineExceeded)
	require.ErrorIs(t, context.Cause(ctx), context.DeadlineExceeded)
	require.NotErrorIs(t, context.Cause(ctx), why)

	late, cancel := context.WithCancel(ctx)
	defer cancel()
	<-late.Done()
	stop := context.AfterFunc(ctx, func() {})
	require.False(t, stop())
	ctx.end(context.Canceled)
	require.ErrorIs(t, ctx.Err(), context.DeadlineExceeded, "the first reason stays")
}

func TestALoadersContextHasTheDeadlineOfTheLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &load{ended: true, options: new(callOptions)} // expire has nothing to do
		l.options.loadTimeout = time.Second
		ctx := &l.values
		ctx.l = l
		ctx.begin()
		time.Sleep(time.Second - 1)
		require.NoError(t, ctx.Err())
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.ErrorIs(t, ctx.Err(), context.DeadlineExceeded)
		<-ctx.Done()
	})
}

func TestATTLIsWrittenOutOnce(t *testing.T) {
	var texts ttlTexts
	for range 3 {
		require.Equal(t, "60000", texts.of(time.Minute))
	}
	require.Zero(t, testing.AllocsPerRun(100, func() { texts.of(time.Minute) }))
	require.Equal(t, "1500", texts.of(1500*time.Millisecond))
	require.Equal(t, "60000", texts.of(time.Minute))
}

func TestRunningLoadsAreAList(t *testing.T) {
	var ls loads
	a, b, c := new(load), new(load), new(load)
	for _, l := range []*load{a, b, c} {
		ls.add(l)
	}
	require.Equal(t, []*load{c, b, a}, ls.all())
	ls.remove(b)
	require.Equal(t, []*load{c, a}, ls.all())
	ls.remove(a)
	require.Equal(t, []*load{c}, ls.all())
	ls.add(b)
	ls.remove(b)
	require.Equal(t, []*load{c}, ls.all())
	ls.remove(c)
	require.Empty(t, ls.all())
}

// What a loader derives from its context ends with the same cause, however it is derived.
func TestTheCauseOfALostLock(t *testing.T) {
	outer, leave := context.WithCancelCause(t.Context())
	leave(errors.New("the caller's own reason"))
	who := enterCall(outer)
	defer who.leave()
	type key struct{}
	for name, derive := range map[string]func(ctx context.Context) context.Context{
		"itself":    func(ctx context.Context) context.Context { return ctx },
		"WithValue": func(ctx context.Context) context.Context { return context.WithValue(ctx, key{}, 1) },
		"WithCancel": func(ctx context.Context) context.Context {
			ctx, cancel := context.WithCancel(ctx)
			t.Cleanup(cancel)
			return ctx
		},
		"WithTimeout of WithValue": func(ctx context.Context) context.Context {
			ctx, cancel := context.WithTimeout(context.WithValue(ctx, key{}, 1), time.Hour)
			t.Cleanup(cancel)
			return ctx
		},
		"that of a call": func(ctx context.Context) context.Context {
			who := enterCall(ctx)
			t.Cleanup(func() { who.load = nil; who.leave() })
			return who
		},
	} {
		for _, late := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", afterwards"}[late], func(t *testing.T) {
				l := &load{c: &Client{link: new(link.Link)}, first: who, live: 1}
				ctx := &l.values
				ctx.l = l
				var child context.Context
				if !late {
					child = derive(ctx)
					require.NoError(t, context.Cause(child))
				}
				ctx.end(ErrLockLost)
				if late {
					child = derive(ctx)
				}
				<-child.Done()
				require.Equal(t, context.Canceled, child.Err())
				require.Equal(t, ErrLockLost, context.Cause(child))
				require.NoError(t, context.Cause(context.WithoutCancel(child)))
			})
		}
	}
}
