package aside_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/codec/msgpack"
	"github.com/redaside/aside/codec/zstd"
	"github.com/redaside/aside/internal/redistest"
)

// replaces checks that what stands under a key counts as nothing: Get and GetMulti load and replace
// it, Peek finds none.
func replaces[T any](c codec.Codec[T], stored string, value T) func(t *testing.T, client *aside.Client, server *redistest.Server) {
	return func(t *testing.T, client *aside.Client, server *redistest.Server) {
		ctx, view := testContext(t), aside.Typed(client, c)
		for _, key := range []string{"p", "g", "m"} {
			server.Do("SET", key, stored)
		}
		_, ok, err := view.Peek(ctx, "p")
		require.NoError(t, err)
		require.False(t, ok)
		got, err := view.Get(ctx, time.Minute, "g", func(context.Context, string) (T, error) { return value, nil })
		require.NoError(t, err)
		require.Equal(t, value, got)
		m, err := view.GetMulti(ctx, time.Minute, []string{"m"}, func(context.Context, []string) (map[string]T, error) { return map[string]T{"m": value}, nil })
		require.NoError(t, err)
		require.Equal(t, map[string]T{"m": value}, m)
		awaitNobody(t, client)
		for _, key := range []string{"g", "m"} {
			require.NotEqual(t, stored, server.Do("GET", key))
			_, ok, err = view.Peek(ctx, key)
			require.NoError(t, err)
			require.True(t, ok)
		}
	}
}

// finds checks that what stands under a key is a value.
func finds[T any](c codec.Codec[T], stored string, value T) func(t *testing.T, client *aside.Client, server *redistest.Server) {
	return func(t *testing.T, client *aside.Client, server *redistest.Server) {
		ctx, view := testContext(t), aside.Typed(client, c)
		server.Do("SET", "k", stored)
		got, err := view.Get(ctx, time.Minute, "k", func(context.Context, string) (T, error) { return value, fmt.Errorf("the loader was called") })
		require.NoError(t, err)
		require.Equal(t, value, got)
		got, ok, err := view.Peek(ctx, "k")
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, value, got)
	}
}

func TestNullAndForeignBytesAreNoValue(t *testing.T) {
	server := redistest.Start(t)
	ada := user{1, "Ada"}
	unmarshal := func(s string) (u user, err error) {
		err = json.Unmarshal([]byte(s), &u)
		return u, err
	}
	for name, check := range map[string]func(t *testing.T, client *aside.Client, server *redistest.Server){
		"null":                     replaces(codec.JSON[user](), "null", ada),
		"null with space":          replaces(codec.JSON[user](), " null\n", ada),
		"null and a pointer":       replaces(codec.JSON[*user](), "null", &ada),
		"null and a number":        replaces(codec.JSON[int](), "null", 7),
		"null and a string":        replaces(codec.JSON[string](), "null", "x"),
		"null and a time":          replaces(codec.JSON[time.Time](), "null", time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)),
		"null and any":             replaces[any](codec.JSON[any](), "null", "x"),
		"null, uncompressed":       replaces(zstd.New(codec.JSON[user](), 0), "null", ada),
		"null through functions":   replaces(codec.Func(codec.JSON[user]().Encode, unmarshal), "null", ada),
		"nil in MessagePack":       replaces(msgpack.New[user](), "\xc0", ada),
		"nil, MessagePack pointer": replaces(msgpack.New[*user](), "\xc0", &ada),
		"null for Gob":             replaces(codec.Gob[user](), "null", ada),

		"another type's object":      replaces(codec.JSON[user](), `{"Price":1,"Currency":"EUR"}`, ada),
		"for a pointer":              replaces(codec.JSON[*user](), `{"Price":1}`, &ada),
		"compressed":                 replaces(zstd.New(codec.JSON[user](), 0), encoded(zstd.New(codec.JSON[map[string]string](), 0), map[string]string{"Price": fmt.Sprintf("%0500d", 1)}), ada),
		"another type's MessagePack": replaces(msgpack.New[user](), encoded(msgpack.New[map[string]int](), map[string]int{"Price": 1}), ada),
		"another type's gob":         replaces(codec.Gob[user](), encoded(codec.Gob[price](), price{Price: 1}), ada),

		"a nil slice":                 finds(codec.JSON[[]int](), "null", nil),
		"a nil map":                   finds(codec.JSON[map[string]int](), "null", nil),
		"a nil slice in MessagePack":  finds(msgpack.New[[]int](), "\xc0", nil),
		"the text null":               finds(codec.String(), "null", "null"),
		"null as a type writes it":    finds(codec.JSON[optional](), "null", optional{}),
		"a zero value":                finds(codec.JSON[user](), `{"ID":0,"Name":""}`, user{}),
		"a zero value, in small":      finds(codec.JSON[*user](), `{"id":0}`, &user{}),
		"one field of an older type":  finds(codec.JSON[user](), `{"Name":"","Old":7}`, user{}),
		"an empty object":             finds(codec.JSON[user](), `{}`, user{}),
		"a zero value in MessagePack": finds(msgpack.New[user](), encoded(msgpack.New[user](), user{}), user{}),
	} {
		t.Run(name, func(t *testing.T) {
			server.Do("FLUSHALL")
			check(t, newClient(t, server.Addr()), server)
		})
	}
}

type price struct{ Price int }

// optional writes null where it holds nothing, as sql.Null types of many libraries do.
type optional struct{ sql.NullString }

func (o optional) MarshalJSON() ([]byte, error) {
	if !o.Valid {
		return []byte("null"), nil
	}
	return json.Marshal(o.String)
}

func (o *optional) UnmarshalJSON(b []byte) error {
	*o = optional{}
	if string(b) == "null" {
		return nil
	}
	o.Valid = true
	return json.Unmarshal(b, &o.String)
}

func encoded[T any](c codec.Codec[T], v T) string {
	s, err := c.Encode(v)
	if err != nil {
		panic(err)
	}
	return s
}

// A loader that returns nil without an error has found nothing: that is remembered as an absence
// is, and never as a value.
func TestANilPointerIsAnAbsence(t *testing.T) {
	server := redistest.Start(t)
	for name, away := range map[string]bool{"healthy": false, "away": true} {
		t.Run(name, func(t *testing.T) {
			server.Do("FLUSHALL")
			c := newClient(t, server.Addr(), func(o *aside.Options) {
				if away {
					o.Redis, o.RequireRedis, o.ConnectTimeout = plain("127.0.0.1:1"), false, time.Millisecond
				}
			})
			absent(t, c, "JSON", codec.JSON[*user](), nil)
			absent(t, c, "MessagePack", msgpack.New[*user](), nil)
			absent(t, c, "Gob", codec.Gob[*user](), nil)
			absent(t, c, "Compress", zstd.New(codec.JSON[*user](), 0), nil)
			absent(t, c, "Func", codec.Func(codec.JSON[*user]().Encode, codec.JSON[*user]().Decode), nil)
			absent(t, c, "any", codec.JSON[any](), nil)
			absent(t, c, "Shared", codec.JSON[*user](), nil, aside.Shared())
			require.Zero(t, c.Stats().EncodeErrors)
			if !away {
				require.Equal(t, "\x00aside:1n", server.Do("GET", "JSON"))
			}
		})
	}
}

func absent[T any](t *testing.T, client *aside.Client, key string, c codec.Codec[T], none T, opts ...aside.ViewOption) {
	t.Helper()
	ctx, view, loads := testContext(t), aside.Typed(client, c, opts...), 0
	for range 3 {
		_, err := view.Get(ctx, time.Minute, key, func(context.Context, string) (T, error) { loads++; return none, nil })
		require.ErrorIs(t, err, aside.ErrNotFound, key)
		m, err := view.GetMulti(ctx, time.Minute, []string{key + "m", key}, func(_ context.Context, keys []string) (map[string]T, error) {
			loads++
			require.Equal(t, []string{key + "m"}, keys)
			return map[string]T{keys[0]: none}, nil
		})
		require.NoError(t, err)
		require.NotNil(t, m)
		require.Empty(t, m)
		_, ok, err := view.Peek(ctx, key)
		require.NoError(t, err)
		require.False(t, ok)
	}
	require.Equal(t, 2, loads, key)
	require.ErrorIs(t, view.Set(ctx, time.Minute, key, none), aside.ErrInvalidArgument, key)
}

type user struct {
	ID   int
	Name string
}

func TestTypedValuesAreTheCallersToChange(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	type deep struct {
		Tags []string
		By   map[string]int
	}
	view := aside.Typed(c, codec.JSON[deep]())
	load := func(context.Context, string) (deep, error) {
		return deep{Tags: []string{"a"}, By: map[string]int{"x": 1}}, nil
	}
	for range 4 {
		v, err := view.Get(ctx, time.Minute, "k", load)
		require.NoError(t, err)
		require.Equal(t, deep{Tags: []string{"a"}, By: map[string]int{"x": 1}}, v)
		v.Tags[0], v.By["x"] = "spoiled", 2
		m, err := view.GetMulti(ctx, time.Minute, []string{"k"}, func(context.Context, []string) (map[string]deep, error) { return nil, nil })
		require.NoError(t, err)
		require.Equal(t, "a", m["k"].Tags[0])
		m["k"].Tags[0] = "spoiled"
	}
	shared := aside.Typed(c, codec.JSON[deep](), aside.Shared())
	one, err := shared.Get(ctx, time.Minute, "k", load)
	require.NoError(t, err)
	two, err := shared.Get(ctx, time.Minute, "k", load)
	require.NoError(t, err)
	require.Same(t, &one.Tags[0], &two.Tags[0], "Shared decodes once")
	again, err := view.Get(ctx, time.Minute, "k", load)
	require.NoError(t, err)
	require.NotSame(t, &one.Tags[0], &again.Tags[0], "and only for views that are Shared")
}

func TestAFlatValueFromMemoryIsNotDecodedAgain(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	decodes := 0
	view := aside.NewTypedClient(c, codec.JSON[user]().Encode, func(s string) (user, error) {
		decodes++
		return codec.JSON[user]().Decode(s)
	})
	load := func(context.Context, string) (user, error) { return user{1, "Ada"}, nil }
	for range 5 {
		u, err := view.Get(ctx, time.Minute, "k", load)
		require.NoError(t, err)
		require.Equal(t, user{1, "Ada"}, u)
		awaitNobody(t, c)
	}
	if oldRedis(server) {
		require.LessOrEqual(t, decodes, 3, "once more if the first was faster than the push of the fill")
	} else {
		require.Equal(t, 2, decodes, "by who loaded it, and by the check of a view's first loads")
	}
	allocs := allocations(100, func() { _, _ = view.Get(ctx, time.Minute, "k", load) })
	require.Zero(t, allocs)
	// A view made anew for each request shares what was decoded.
	_, err := aside.Typed(c, codec.JSON[user]()).Get(ctx, time.Minute, "k", load)
	require.NoError(t, err)
	making := allocations(100, func() { aside.Typed(c, codec.JSON[user]()) })
	allocs = allocations(100, func() { _, _ = aside.Typed(c, codec.JSON[user]()).Get(ctx, time.Minute, "k", load) })
	require.LessOrEqual(t, allocs, making)
}

func TestWhatDoesNotDecodeIsLoadedAgain(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	view := aside.Typed(c, codec.JSON[user]())
	load := func(context.Context, string) (user, error) { return user{1, "Ada"}, nil }
	for i, bad := range []string{"{", "", "[1]", "\x00aside:9?", "\x00aside:1?", "\x00aside:1e?"} {
		overwrite(t, c, server, "k", bad)
		u, err := view.Get(ctx, time.Minute, "k", load)
		require.NoError(t, err, "%q", bad)
		require.Equal(t, user{1, "Ada"}, u)
		stored(t, c, "k")
		require.Equal(t, `{"ID":1,"Name":"Ada"}`, server.Do("GET", "k"), "%q is replaced", bad)
		require.GreaterOrEqual(t, c.Stats().DecodeErrors, int64(i+1))

		overwrite(t, c, server, "m", bad)
		m, err := view.GetMulti(ctx, time.Minute, []string{"m", "k"}, func(_ context.Context, keys []string) (map[string]user, error) {
			require.Equal(t, []string{"m"}, keys)
			return map[string]user{"m": {2, "Bob"}}, nil
		})
		require.NoError(t, err)
		require.Equal(t, map[string]user{"m": {2, "Bob"}, "k": {1, "Ada"}}, m)
		_, ok, err := view.Peek(ctx, "m")
		require.NoError(t, err)
		require.True(t, ok)
	}
}

// overwrite sets a key behind the back of c and waits until c has been told.
func overwrite(t *testing.T, c *aside.Client, server *redistest.Server, key, value string) {
	t.Helper()
	ctx := testContext(t)
	_, tracked, err := c.Peek(ctx, key) // if there is something, there will be a push
	require.NoError(t, err)
	before := c.Stats().Invalidations
	server.Do("SET", key, value)
	if !tracked {
		return
	}
	eventually(t, "the push has come", func() bool { return c.Stats().Invalidations > before })
}

// Two types share a key: each finds what it cannot read. Nobody loops, everybody gets what its own
// loader says.
func TestTwoTypesOnOneKeyDoNotLoop(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	numbers := aside.Typed(c, codec.JSON[int]())
	names := aside.Typed(c, codec.JSON[map[string]string]())
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for range 50 {
				n, err := numbers.Get(ctx, time.Minute, "k", func(context.Context, string) (int, error) { return 7, nil })
				if err != nil || n != 7 {
					t.Errorf("%v, %v", n, err)
				}
			}
		})
		callers.Go(func() {
			for range 50 {
				m, err := names.GetMulti(ctx, time.Minute, []string{"k"}, func(context.Context, []string) (map[string]map[string]string, error) {
					return map[string]map[string]string{"k": {"a": "b"}}, nil
				})
				if err != nil || m["k"]["a"] != "b" {
					t.Errorf("%v, %v", m, err)
				}
			}
		})
	}
	callers.Wait()
}

func TestWhatCannotBeEncodedIsReturnedToWhoLoadedIt(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	view := aside.Typed(c, codec.JSON[func()]()) // JSON cannot
	called := 0
	f, err := view.Get(ctx, time.Minute, "k", func(context.Context, string) (func(), error) { return func() { called++ }, nil })
	require.NoError(t, err)
	f()
	require.Equal(t, 1, called)
	require.EqualValues(t, 1, c.Stats().EncodeErrors)
	stored(t, c, "k")
	require.Nil(t, server.Do("GET", "k"))
	f, err = view.Get(ctx, time.Minute, "k", func(context.Context, string) (func(), error) { return func() { called += 10 }, nil })
	require.NoError(t, err, "the next caller loads for itself")
	f()
	require.Equal(t, 11, called)
	called = 1
	m, err := view.GetMulti(ctx, time.Minute, []string{"m"}, func(context.Context, []string) (map[string]func(), error) {
		return map[string]func(){"m": func() { called++ }}, nil
	})
	require.NoError(t, err)
	m["m"]()
	require.Equal(t, 2, called)
	require.Error(t, view.Set(ctx, time.Minute, "k", func() {}))
}
