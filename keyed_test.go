package aside_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/internal/redistest"
)

type tenantsUser struct{ tenant, user int }

func nameOfUser(id tenantsUser) string { return fmt.Sprintf("user:%d:%d", id.tenant, id.user) }

// Each call of a keyed view does what that of its view does, under the name of the key.
func TestKeysOfATypeOfTheirOwn(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	users := aside.NewKeyed(aside.Typed(c, codec.String(), aside.WithGrace(grace)), nameOfUser)
	id, gone := tenantsUser{1, 2}, tenantsUser{1, 3}
	load := func(_ context.Context, asked tenantsUser) (string, error) {
		if asked == gone {
			return "", aside.ErrNotFound
		}
		return fmt.Sprint(asked), nil
	}
	for range 3 { // from the loader, from Redis, from memory
		value, err := users.Get(ctx, fresh, id, load)
		require.NoError(t, err)
		require.Equal(t, "{1 2}", value)
		_, err = users.Get(ctx, fresh, gone, load)
		require.ErrorIs(t, err, aside.ErrNotFound)
		stored(t, c, "user:1:2", "user:1:3")
	}
	require.EqualValues(t, 2, c.Stats().Loads)
	require.Equal(t, "{1 2}", server.Do("GET", "user:1:2"))
	got, err := users.Fetch(ctx, fresh, id, load)
	require.NoError(t, err)
	require.Equal(t, aside.SourceMemory, got.Source)

	require.NoError(t, users.Set(ctx, fresh, id, "set"))
	value, ok, err := users.Peek(ctx, id)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, "set", value)
	value, err = users.Refresh(ctx, fresh, id, load)
	require.NoError(t, err)
	require.Equal(t, "{1 2}", value)
	require.NoError(t, users.Expire(ctx, id))
	require.LessOrEqual(t, server.Do("PTTL", "user:1:2"), grace.Milliseconds())
	require.NoError(t, users.SetMulti(ctx, fresh, map[tenantsUser]string{id: "a", gone: "b"}))
	all, err := users.GetMulti(ctx, fresh, []tenantsUser{id, gone, id}, nil)
	require.ErrorIs(t, err, aside.ErrInvalidArgument, "a nil loader")
	require.Empty(t, all)
	all, err = users.GetMulti(ctx, fresh, []tenantsUser{id, gone, id}, func(context.Context, []tenantsUser) (map[tenantsUser]string, error) { panic("they are there") })
	require.NoError(t, err)
	require.Equal(t, map[tenantsUser]string{id: "a", gone: "b"}, all)
	require.NoError(t, users.Del(ctx, id, gone))
	require.EqualValues(t, 0, server.Do("EXISTS", "user:1:2", "user:1:3"))
	require.Equal(t, "user:1:2", users.Name(id))
	require.Same(t, c, users.View().Client())
}

// A batch loader answers for keys, not for names: what it was not asked for is nobody's.
func TestABatchLoaderAnswersForKeys(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	names := func(n int) string { return "n:" + strconv.Itoa(n%100) }
	numbers := aside.NewKeyed(aside.Typed(c, codec.JSON[int]()), names)
	all, err := numbers.GetMulti(ctx, fresh, []int{1, 2, 3, 2}, func(_ context.Context, asked []int) (map[int]int, error) {
		slices.Sort(asked)
		require.Equal(t, []int{1, 2, 3}, asked)
		return map[int]int{1: 10, 102: 1020, 7: 70}, nil
	})
	require.NoError(t, err)
	require.Equal(t, map[int]int{1: 10}, all)
	stored(t, c, "n:1", "n:2", "n:3")
	require.Equal(t, "\x00aside:1n", server.Do("GET", "n:2"), "102 has its name, and is another key")

	_, err = numbers.GetMulti(ctx, fresh, []int{5, 105}, func(context.Context, []int) (map[int]int, error) { return nil, nil })
	require.ErrorContains(t, err, "keys 5 and 105 have the same name")
	require.ErrorContains(t, numbers.SetMulti(ctx, fresh, map[int]int{5: 1, 105: 2}), "have the same name")
	require.ErrorContains(t, numbers.Del(ctx, 5, 105), "have the same name")
	require.ErrorContains(t, numbers.Expire(ctx, 5, 105), "have the same name")
	_, err = numbers.GetMulti(ctx, fresh, []int{8}, func(context.Context, []int) (map[int]int, error) { return map[int]int{9: 1}, nil })
	require.ErrorContains(t, err, "not asked for")
}

func TestAKeyedViewThatCannotBe(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	c := newClient(t, redistest.Start(t).Addr())
	load := func(context.Context, int) (string, error) { return "v", nil }
	for what, keyed := range map[string]*aside.Keyed[int, string]{
		"NewKeyed is nil: make": aside.NewKeyed[int, string](nil, strconv.Itoa),
		"NewKeyed is nil: pass": aside.NewKeyed[int](aside.Typed(c, codec.String()), nil),
		"the view's client":     aside.NewKeyed(aside.Typed(nil, codec.String()), strconv.Itoa),
		"WithGrace":             aside.NewKeyed(aside.Typed(c, codec.String(), aside.WithGrace(-1)), strconv.Itoa),
	} {
		_, err := keyed.Get(ctx, fresh, 1, load)
		require.ErrorIs(t, err, aside.ErrInvalidArgument)
		require.ErrorContains(t, err, what)
		_, err = keyed.Fetch(ctx, fresh, 1, load)
		require.ErrorContains(t, err, what)
		_, err = keyed.Refresh(ctx, fresh, 1, load)
		require.ErrorContains(t, err, what)
		_, err = keyed.GetMulti(ctx, fresh, []int{1}, nil)
		require.ErrorContains(t, err, what)
		_, _, err = keyed.Peek(ctx, 1)
		require.ErrorContains(t, err, what)
		require.ErrorContains(t, keyed.Set(ctx, fresh, 1, "v"), what)
		require.ErrorContains(t, keyed.SetMulti(ctx, fresh, nil), what)
		require.ErrorContains(t, keyed.Del(ctx, 1), what)
		require.ErrorContains(t, keyed.Expire(ctx, 1), what)
	}
	_, err := aside.NewKeyed(aside.Typed(c, codec.String()), strconv.Itoa).Get(ctx, fresh, 1, nil)
	require.ErrorIs(t, err, aside.ErrInvalidArgument)
	_, err = aside.NewKeyed(aside.Typed(c, codec.String()), strconv.Itoa).Get(ctx, 0, 1, load)
	require.ErrorIs(t, err, aside.ErrInvalidArgument)
}

// A hit allocates what the name does, and nothing else.
func TestAHitOfAKeyedViewAllocatesItsNameOnly(t *testing.T) {
	c, ctx := newClient(t, redistest.Start(t).Addr()), testContext(t)
	type price struct{ Cents int }
	prices := aside.NewKeyed(aside.Typed(c, codec.JSON[price](), aside.WithGrace(grace), aside.WithLoadTimeout(time.Second)), func(n int) string { return "price:" + strconv.Itoa(n) })
	load := func(context.Context, int) (price, error) { return price{7}, nil }
	get := func() {
		if value, err := prices.Get(ctx, fresh, 1234, load); err != nil || value.Cents != 7 {
			t.Fatal(value, err)
		}
	}
	get()
	stored(t, c, "price:1234")
	get()
	names := allocations(100, func() {
		if prices.Name(1234) == "" {
			t.Fatal()
		}
	})
	require.InDelta(t, names, allocations(100, get), 0)
	require.EqualValues(t, 1, c.Stats().Loads)
}

// What a Keyed sets takes the options of a Set, as its view does.
func TestAKeyedViewSetsTags(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	numbers := aside.NewKeyed(aside.Typed(c, codec.JSON[int]()), strconv.Itoa)
	require.NoError(t, numbers.Set(ctx, time.Hour, 1, 10, aside.WithTags("x")))
	require.NoError(t, numbers.SetMulti(ctx, time.Hour, map[int]int{2: 20, 3: 30}, aside.WithTags("x")))
	require.NoError(t, numbers.Set(ctx, time.Hour, 4, 40))
	require.NoError(t, c.DelTags(ctx, "x"))
	for key := range 5 {
		_, found, err := numbers.Peek(ctx, key)
		require.NoError(t, err)
		require.Equal(t, key == 4, found, key)
	}
}
