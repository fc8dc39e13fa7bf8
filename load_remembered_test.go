package aside_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/internal/redistest"
)

// What is remembered of a load that gave no value: its error, an absence.

var errDown = errors.New("the database is down")

func heldLong(o *aside.Options) { o.ErrorTTL = time.Hour }

// A remembered error hides a value that is in Redis, so whatever may have put one there ends it.
func TestARememberedErrorEndsWithAWrite(t *testing.T) {
	server := redistest.Start(t)
	other := newClient(t, server.Addr())
	for name, test := range map[string]struct {
		write func(ctx context.Context, c *aside.Client) error
		loads bool
	}{
		"Set": {func(ctx context.Context, c *aside.Client) error { return c.Set(ctx, time.Minute, "k", "new") }, false},
		"Del": {func(ctx context.Context, c *aside.Client) error { return c.Del(ctx, "k") }, true},
		"Update": {func(ctx context.Context, c *aside.Client) error {
			return c.Update(ctx, []string{"k"}, func(ctx context.Context, redis rueidis.Client) error {
				return redis.Do(ctx, redis.B().Set().Key("k").Value("new").Build()).Error()
			})
		}, false},
		"another client's Set": {func(ctx context.Context, c *aside.Client) error { return other.Set(ctx, time.Minute, "k", "new") }, false},
		"a foreign SET":        {func(context.Context, *aside.Client) error { server.Do("SET", "k", "new"); return nil }, false},
		"FLUSHALL":             {func(context.Context, *aside.Client) error { server.Do("FLUSHALL"); return nil }, true},
	} {
		for _, many := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", GetMulti"}[many], func(t *testing.T) {
				server.Empty()
				c, ctx, db := newClient(t, server.Addr(), heldLong), testContext(t), newSource("new")
				db.Fail(errDown)
				get := func() (string, error) {
					if !many {
						return c.Get(ctx, time.Minute, "k", db.Load)
					}
					values, err := c.GetMulti(ctx, time.Minute, []string{"k"}, db.LoadMany)
					return values["k"], err
				}
				for range 3 {
					_, err := get()
					require.ErrorIs(t, err, errDown)
				}
				require.EqualValues(t, 1, db.Calls.Load())
				db.Fail(nil)
				require.NoError(t, test.write(ctx, c))
				eventually(t, "it is over", func() bool {
					value, err := get()
					return err == nil && value == "new"
				})
				require.Equal(t, test.loads, db.Calls.Load() > 1)
			})
		}
	}
}

// The lock of another process whose load fails, too, is a change of the key, and ends no memory of an
// error: else a fleet would ask a failing source again and again, one process after the other.
func TestProcessesThatFailDoNotMakeEachOtherForget(t *testing.T) {
	t.Parallel()
	for name, many := range map[string]bool{"Get": false, "GetMulti": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, ctx, db := redistest.Start(t), testContext(t), newSource("v")
			fleet := []*aside.Client{newClient(t, server.Addr(), heldLong), newClient(t, server.Addr(), heldLong), newClient(t, server.Addr(), heldLong)}
			get := func(c *aside.Client) error {
				if !many {
					value, err := c.Get(ctx, time.Minute, "k", db.Load)
					require.Equal(t, err == nil, value == "v")
					return err
				}
				values, err := c.GetMulti(ctx, time.Minute, []string{"k", "l"}, db.LoadMany)
				require.Equal(t, err == nil, values["k"] == "v" && values["l"] == "v")
				return err
			}
			db.Fail(errDown)
			for range 50 {
				for _, c := range fleet {
					require.ErrorIs(t, get(c), errDown)
				}
			}
			require.EqualValues(t, len(fleet), db.Calls.Load(), "each asks the source once")
			require.Empty(t, keysOf(server), "no lock is left")

			db.Fail(nil)
			keys := []string{"k"}
			if many {
				keys = append(keys, "l")
			}
			require.ErrorIs(t, get(fleet[0]), errDown, "nobody has written it")
			require.NoError(t, fleet[0].Del(ctx, keys...))
			require.NoError(t, get(fleet[0]), "a write of its own ends it")
			for _, c := range fleet[1:] {
				eventually(t, "what another has loaded ends it", func() bool { return get(c) == nil })
			}
			require.EqualValues(t, len(fleet)+1, db.Calls.Load())
		})
	}
}

// Who remembers an error waits for another process's load, and has what comes of it.
func TestWhoRemembersAnErrorWaitsForAnothersLoad(t *testing.T) {
	t.Parallel()
	server, ctx := redistest.Start(t), testContext(t)
	a, b := newClient(t, server.Addr(), heldLong), newClient(t, server.Addr())
	_, err := a.Get(ctx, time.Minute, "k", func(context.Context, string) (string, error) { return "", errDown })
	require.ErrorIs(t, err, errDown)
	loading, release := make(chan struct{}), make(chan struct{})
	loaded := make(chan error, 1)
	go func() { // ends when it is released
		_, err := b.Get(ctx, time.Minute, "k", func(context.Context, string) (string, error) {
			close(loading)
			<-release
			return "v", nil
		})
		loaded <- err
	}()
	<-loading
	waits := a.Stats().LockWaits
	got := make(chan string, 1)
	go func() { // ends with the load
		for {
			value, err := a.Get(ctx, time.Minute, "k", mustNotLoad)
			if !errors.Is(err, errDown) { // it has heard of the lock
				got <- fmt.Sprint(value, err)
				return
			}
		}
	}()
	eventually(t, "it waits", func() bool { return a.Stats().LockWaits > waits })
	close(release)
	require.Equal(t, "v<nil>", <-got)
	require.NoError(t, <-loaded)
}

func TestErrorTTL(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr(), heldLong), testContext(t)
	none := newClient(t, server.Addr(), func(o *aside.Options) { o.ErrorTTL = -1 })
	loads := func(c *aside.Client, key string, err error, opts ...aside.CallOption) int64 {
		db := newSource("")
		db.Fail(err)
		for range 3 {
			_, got := c.Get(ctx, time.Minute, key, db.Load, opts...)
			require.ErrorIs(t, got, err)
		}
		return db.Calls.Load()
	}
	require.EqualValues(t, 1, loads(c, "a", errDown))
	require.EqualValues(t, 3, loads(c, "b", errDown, aside.WithErrorTTL(-1)))
	require.EqualValues(t, 3, loads(none, "c", errDown))
	require.EqualValues(t, 1, loads(none, "d", errDown, aside.WithErrorTTL(time.Hour)))
	require.EqualValues(t, 3, loads(c, "e", fmt.Errorf("query: %w", context.DeadlineExceeded)), "perhaps of one caller only")
	require.EqualValues(t, 3, loads(c, "f", context.Canceled))
}

// Who asks after somebody has been told that there is nothing, and that this is not remembered, is
// told what there is then.
func TestAnAbsenceThatIsNotRememberedIsForgottenAtOnce(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr(), func(o *aside.Options) { o.NegativeTTL = -1 }), testContext(t)
	for i := range 200 {
		key, loads := fmt.Sprint(i), 0
		load := func(context.Context, string) (string, error) {
			loads++
			if loads == 1 {
				return "", aside.ErrNotFound
			}
			return "there", nil
		}
		_, err := c.Get(ctx, time.Minute, key, load)
		require.ErrorIs(t, err, aside.ErrNotFound)
		value, err := c.Get(ctx, time.Minute, key, load)
		require.NoError(t, err)
		require.Equal(t, "there", value)

		key, loads = "m"+key, 0
		many := func(_ context.Context, keys []string) (map[string]string, error) {
			if loads++; loads == 1 {
				return nil, nil
			}
			return map[string]string{key: "there"}, nil
		}
		values, err := c.GetMulti(ctx, time.Minute, []string{key}, many, aside.WithNegativeTTL(-1))
		require.NoError(t, err)
		require.Empty(t, values)
		values, err = c.GetMulti(ctx, time.Minute, []string{key}, many)
		require.NoError(t, err)
		require.Equal(t, map[string]string{key: "there"}, values)
	}
}

// A loader that wraps ErrNotFound and an error of its domain would lose the latter, also for who
// has called it.
func TestTheLoadersOwnNotFoundReachesWhoWaited(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	view := aside.Typed(c, codec.JSON[int]())
	began, letGo := make(chan struct{}), make(chan struct{})
	load := func(context.Context, string) (string, error) {
		close(began)
		<-letGo
		return "", fmt.Errorf("no such user: %w (%w)", sql.ErrNoRows, aside.ErrNotFound)
	}
	first := inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "k", load) })
	<-began
	shared := inBackground(func() (string, error) { return c.Get(ctx, time.Minute, "k", load) })
	awaitShared(t, c, 1)
	close(letGo)
	for _, r := range []result{await(t, first), await(t, shared)} {
		require.ErrorIs(t, r.Err, aside.ErrNotFound)
		require.ErrorIs(t, r.Err, sql.ErrNoRows)
	}
	stored(t, c, "k")
	_, err := c.Get(ctx, time.Minute, "k", mustNotLoad)
	require.Equal(t, aside.ErrNotFound, err, "of what is remembered nobody knows more")

	_, err = view.Get(ctx, time.Minute, "typed", func(context.Context, string) (int, error) { return 0, errors.Join(sql.ErrNoRows, aside.ErrNotFound) })
	require.ErrorIs(t, err, aside.ErrNotFound)
	require.ErrorIs(t, err, sql.ErrNoRows)
}
