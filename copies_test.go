package aside_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	protobuf "google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/codec/msgpack"
	"github.com/redaside/aside/codec/proto"
	"github.com/redaside/aside/codec/zstd"
	"github.com/redaside/aside/internal/redistest"
)

// profile is what people cache: a struct with slices, maps and pointers.
type profile struct {
	ID      int
	Name    string
	Tags    []string
	Home    *place
	Visited []place
	Labels  map[string]string
}

type place struct {
	City  string
	Notes []string
}

func newProfile() profile {
	return profile{
		ID: 1, Name: "Ada", Tags: []string{"a", "b"}, Home: &place{"Lisbon", []string{"n"}}, Visited: []place{{"Oslo", []string{"m"}}},
		Labels: map[string]string{"k": "v"},
	}
}

// spoil changes all that can be changed.
func (p *profile) spoil() {
	p.Name, p.Tags[0], p.Home.City, p.Home.Notes[0], p.Visited[0].Notes[0], p.Labels["k"] = "!", "!", "!", "!", "!", "!"
	p.Tags = append(p.Tags, "!")
	delete(p.Labels, "k")
}

// counting is a codec that counts what it decodes.
type counting[T any] struct {
	codec.Codec[T]
	decoded *atomic.Int64
}

func (c counting[T]) Unwrap() codec.Codec[T] { return c.Codec }

func (c counting[T]) Decode(s string) (T, error) {
	c.decoded.Add(1)
	return c.Codec.Decode(s)
}

// knowing is counting for a codec that knows what comes back.
type knowing[T any] struct{ counting[T] }

func (c knowing[T]) RoundTrips(v T, encoded string) bool {
	return c.Codec.(codec.RoundTripper[T]).RoundTrips(v, encoded)
}

// What was loaded is in memory without being decoded, if it comes back as it was. It is a copy:
// a relapse would have all callers read what the loader's owner makes of his value later.
func TestWhatWasLoadedIsKeptAsACopyOfTheLoadersValue(t *testing.T) {
	const looked = 100 // more than the first loads of a view, which are compared with what is decoded
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	var decoded atomic.Int64
	view := aside.Typed[profile](c, knowing[profile]{counting[profile]{codec.JSON[profile](), &decoded}})
	own := make(map[string]*profile)
	var mu sync.Mutex
	load := func(_ context.Context, key string) (profile, error) {
		mu.Lock()
		defer mu.Unlock()
		p := newProfile()
		own[key] = &p
		return p, nil
	}
	for i := range looked {
		_, err := view.Get(ctx, time.Minute, fmt.Sprint("looked at ", i), load)
		require.NoError(t, err)
	}
	before := decoded.Load()
	got, err := view.Get(ctx, time.Minute, "one", load)
	require.NoError(t, err)
	got.spoil()
	keys := []string{"a", "b", "c"}
	_, err = view.GetMulti(ctx, time.Minute, keys, func(ctx context.Context, keys []string) (map[string]profile, error) {
		values := make(map[string]profile)
		for _, key := range keys {
			values[key], _ = load(ctx, key)
		}
		return values, nil
	})
	require.NoError(t, err)
	require.Equal(t, before, decoded.Load())
	for _, p := range own {
		p.spoil()
	}
	for _, key := range append(keys, "one") {
		for range 2 {
			got, err := view.Get(ctx, time.Minute, key, func(context.Context, string) (profile, error) { return profile{}, errors.New("it is in memory") })
			require.NoError(t, err)
			require.Equal(t, newProfile(), got, key)
			got.spoil()
		}
	}

	// One that does not come back as it was is decoded, for each caller to get the same.
	before = decoded.Load()
	got, err = view.Get(ctx, time.Minute, "another", func(context.Context, string) (profile, error) { return profile{Name: "\xff"}, nil })
	require.NoError(t, err)
	require.Equal(t, "\ufffd", got.Name)
	require.Equal(t, before+1, decoded.Load())
}

// A value in memory is decoded once. Every caller has one of its own all the same, by whatever
// verb: a relapse would have one caller read what another has written.
func TestAHitIsACopyThatIsTheCallersToChange(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	var decoded atomic.Int64
	view := aside.Typed[profile](c, counting[profile]{codec.JSON[profile](), &decoded})
	load := func(context.Context, string) (profile, error) { return newProfile(), nil }
	got, err := view.Get(ctx, time.Minute, "k", load)
	require.NoError(t, err)
	got.spoil()
	awaitNobody(t, c)
	got, err = view.Get(ctx, time.Minute, "k", load) // on Redis before 6.2 the first one is pushed out of memory by the fill
	require.NoError(t, err)
	got.spoil()
	before := decoded.Load()
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for range 200 {
				one, err := view.Get(ctx, time.Minute, "k", load)
				if err != nil || !equal(one, newProfile()) {
					t.Errorf("Get: %+v, %v", one, err)
					return
				}
				one.spoil()
				many, err := view.GetMulti(ctx, time.Minute, []string{"k"}, func(context.Context, []string) (map[string]profile, error) { return nil, nil })
				two := many["k"]
				if err != nil || !equal(two, newProfile()) {
					t.Errorf("GetMulti: %+v, %v", two, err)
					return
				}
				two.spoil()
				three, ok, err := view.Peek(ctx, "k")
				if err != nil || !ok || !equal(three, newProfile()) {
					t.Errorf("Peek: %+v, %v, %v", three, ok, err)
					return
				}
				three.spoil()
			}
		})
	}
	callers.Wait()
	require.Equal(t, before, decoded.Load(), "it was decoded again")
	require.Equal(t, "copies", first(view.HitMode()))
}

func equal(a, b profile) bool {
	return a.ID == b.ID && a.Name == b.Name && slices.Equal(a.Tags, b.Tags) && a.Home.City == b.Home.City && slices.Equal(a.Home.Notes, b.Home.Notes) &&
		slices.Equal(a.Visited[0].Notes, b.Visited[0].Notes) && a.Labels["k"] == b.Labels["k"]
}

var errUnwanted = errors.New("the loader was called")

func first(mode aside.HitMode, _ string) string { return mode.String() }

// Those who wait for a load share what it was decoded to, and get copies.
func TestFollowersOfALoadGetCopies(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	view := aside.Typed(c, codec.JSON[profile]())
	hold := make(chan struct{})
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			p, err := view.Get(ctx, time.Minute, "k", func(context.Context, string) (profile, error) {
				<-hold
				return newProfile(), nil
			})
			if err != nil || !equal(p, newProfile()) {
				t.Errorf("%+v, %v", p, err)
				return
			}
			p.spoil()
		})
	}
	awaitShared(t, c, 19)
	close(hold)
	all.Wait()
}

// In an outage memory answers with copies, too.
func TestHitsInAnOutageAreCopies(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr(), hasty, func(o *aside.Options) { o.DegradedTTL = -1 }), testContext(t)
	var decoded atomic.Int64
	view := aside.Typed[profile](c, counting[profile]{codec.Fresh(msgpack.New[profile]()), &decoded})
	load := func(context.Context, string) (profile, error) { return newProfile(), nil }
	server.Kill()
	awaitMode(t, c, aside.Degraded)
	var before int64
	for n := range 5 {
		p, err := view.Get(ctx, time.Minute, "k", load)
		require.NoError(t, err)
		require.True(t, equal(p, newProfile()), "%d: %+v", n, p)
		p.spoil()
		if n == 1 {
			before = decoded.Load()
		}
	}
	require.Equal(t, before, decoded.Load(), "a hit decoded")
}

func TestTheModeOfHitsIsSaid(t *testing.T) {
	server := redistest.Start(t)
	c := newClient(t, server.Addr())
	own := codec.Func(codec.JSON[profile]().Encode, codec.JSON[profile]().Decode)
	type holder struct{ Any any }
	for name, says := range map[string]struct {
		mode func() (aside.HitMode, string)
		want aside.HitMode
		why  string
	}{
		"flat":         {aside.Typed(c, codec.JSON[user]()).HitMode, aside.HitCopies, "aside_test.user holds no pointers, slices or maps"},
		"a struct":     {aside.Typed(c, codec.JSON[profile]()).HitMode, aside.HitCopies, "by a plan for aside_test.profile; a value in which two pointers lead to the same memory, or an unexported field refers to something, or that is very large or deep, is decoded"},
		"compressed":   {aside.Typed(c, zstd.New(codec.JSON[profile](), 0)).HitMode, aside.HitCopies, "by a plan"},
		"shared":       {aside.Typed(c, codec.JSON[profile](), aside.Shared()).HitMode, aside.HitShares, "the view was made with Shared"},
		"an interface": {aside.Typed(c, codec.JSON[holder]()).HitMode, aside.HitDecodes, "Any: an interface (interface {}) may hold anything"},
		"functions":    {aside.Typed(c, own).HitMode, aside.HitDecodes, "the codec does not say that it makes all that a value refers to: see codec.Fresh"},
		"promised":     {aside.Typed(c, codec.Fresh(own)).HitMode, aside.HitCopies, "by a plan"},
		"a message":    {aside.Typed(c, proto.New[*structpb.Struct]()).HitMode, aside.HitCopies, "by the codec"},
		"a function": {
			aside.Typed(c, own, aside.WithClone(func(p profile) profile { return p })).HitMode, aside.HitCopies, "by the function given to WithClone",
		},
		"messagepack":     {aside.Typed(c, msgpack.New[profile]()).HitMode, aside.HitDecodes, "see codec.Fresh"},
		"bytes":           {aside.Typed(c, codec.Bytes()).HitMode, aside.HitDecodes, "to decode bytes is to copy them"},
		"a promise twice": {aside.Typed(c, zstd.New(codec.Fresh(proto.New[*structpb.Struct]()), 0)).HitMode, aside.HitCopies, "by the codec"},
		"no codec":        {aside.Typed[profile](c, nil).HitMode, aside.HitDecodes, "there is no codec"},
	} {
		mode, why := says.mode()
		require.Equal(t, says.want, mode, name)
		require.Contains(t, why, says.why, name)
	}
}

// A view's own function makes the copies; one that panics costs a decode.
func TestWithClone(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	var decoded, cloned atomic.Int64
	inner := codec.JSON[profile]()
	co := codec.Func(inner.Encode, func(s string) (profile, error) {
		decoded.Add(1)
		return inner.Decode(s)
	})
	panics := false
	view := aside.Typed(c, co, aside.WithClone(func(p profile) profile {
		cloned.Add(1)
		if panics {
			panic("a bug")
		}
		p.Tags, p.Visited, p.Labels, p.Home = slices.Clone(p.Tags), []place{{"Oslo", []string{"m"}}}, map[string]string{"k": "v"}, &place{"Lisbon", []string{"n"}}
		return p
	}))
	require.NoError(t, view.Set(ctx, time.Minute, "k", newProfile()))
	load := func(context.Context, string) (profile, error) { return profile{}, errUnwanted }
	for range 10 {
		p, err := view.Get(ctx, time.Minute, "k", load)
		require.NoError(t, err)
		require.Equal(t, newProfile(), p)
		p.spoil()
	}
	require.EqualValues(t, 1, decoded.Load())
	require.EqualValues(t, 10, cloned.Load())
	panics = true
	for range 3 {
		p, err := view.Get(ctx, time.Minute, "k", load)
		require.NoError(t, err)
		require.Equal(t, newProfile(), p)
		p.spoil()
	}
	require.EqualValues(t, 4, decoded.Load())

	for says, option := range map[string]aside.ViewOption{
		"the function given to WithClone is nil: leave the option out, or pass a function that copies a value": aside.WithClone[profile](nil),
		"the function given to WithClone is a func(string) string, and the view is of aside_test.profile: pass a func(aside_test.profile) aside_test.profile": aside.WithClone(func(s string) string {
			return s
		}),
	} {
		wrong := aside.Typed(c, inner, option)
		_, err := wrong.Get(ctx, time.Minute, "k", load)
		require.ErrorIs(t, err, aside.ErrInvalidArgument)
		require.ErrorContains(t, err, says)
		_, err = wrong.GetMulti(ctx, time.Minute, []string{"k"}, func(context.Context, []string) (map[string]profile, error) { return nil, errUnwanted })
		require.ErrorIs(t, err, aside.ErrInvalidArgument)
		_, _, err = wrong.Peek(ctx, "k")
		require.ErrorIs(t, err, aside.ErrInvalidArgument)
		require.ErrorIs(t, wrong.Set(ctx, time.Minute, "k", profile{}), aside.ErrInvalidArgument)
	}
}

// A value in which two pointers lead to one thing keeps that: it is decoded for each call.
func TestAValueThatCannotBeCopiedIsDecoded(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	type pair struct{ A, B *int }
	var decoded atomic.Int64
	view := aside.Typed(c, codec.Fresh(codec.Func(func(p pair) (string, error) { return "x", nil }, func(string) (pair, error) {
		decoded.Add(1)
		n := new(int)
		return pair{n, n}, nil
	})))
	require.NoError(t, view.Set(ctx, time.Minute, "k", pair{}))
	for n := range int64(5) {
		p, err := view.Get(ctx, time.Minute, "k", func(context.Context, string) (pair, error) { return pair{}, errUnwanted })
		require.NoError(t, err)
		require.Same(t, p.A, p.B)
		require.Zero(t, *p.A)
		*p.A = 1
		require.LessOrEqual(t, decoded.Load(), n+2, "the first is decoded twice: to look at it, and for its caller")
	}
	// A view of the same codec that shares is not taken for one that copies, nor the other way
	// round.
	shared := aside.Typed(c, codec.JSON[profile](), aside.Shared())
	copies := aside.Typed(c, codec.JSON[profile]())
	require.NoError(t, copies.Set(ctx, time.Minute, "p", newProfile()))
	one, _, err := shared.Peek(ctx, "p")
	require.NoError(t, err)
	two, _, err := copies.Peek(ctx, "p")
	require.NoError(t, err)
	two.spoil()
	require.Equal(t, newProfile(), one)
}

// A protobuf message is cloned by its codec.
func TestMessagesAreCloned(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	message, err := structpb.NewStruct(map[string]any{"a": []any{"b", 1.0}})
	require.NoError(t, err)
	var decoded atomic.Int64
	view := aside.Typed[*structpb.Struct](c, counting[*structpb.Struct]{proto.New[*structpb.Struct](), &decoded})
	require.NoError(t, view.Set(ctx, time.Minute, "k", message))
	for range 5 {
		got, ok, err := view.Peek(ctx, "k")
		require.NoError(t, err)
		require.True(t, ok)
		require.True(t, protobuf.Equal(message, got))
		got.Fields["a"].GetListValue().Values[0] = structpb.NewNullValue()
		delete(got.Fields, "a")
	}
	require.EqualValues(t, 1, decoded.Load())
}

// A hit on a struct with slices, a map and a pointer costs what its copy takes.
func TestAHitAllocatesItsCopyOnly(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	type tagged struct {
		ID   int
		Tags []string
	}
	view := aside.Typed(c, codec.JSON[tagged]())
	require.NoError(t, view.Set(ctx, time.Minute, "k", tagged{1, []string{"a", "b"}}))
	load := func(context.Context, string) (tagged, error) { return tagged{}, errUnwanted }
	_, err := view.Get(ctx, time.Minute, "k", load)
	require.NoError(t, err)
	require.LessOrEqual(t, allocations(100, func() { _, _ = view.Get(ctx, time.Minute, "k", load) }), 1.0)
}

// A value that is large once it is decoded stays in memory as bytes, and drives out no others.
func TestAValueThatGrowsWhenDecodedDrivesOutNothing(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr(), func(o *aside.Options) { o.MemoryBytes = 8 << 20 }), testContext(t)
	small, large := aside.Typed(c, codec.JSON[string]()), aside.Typed(c, codec.JSON[[]map[string]int]())
	text := strings.Repeat("v", 100_000)
	fill := func(key string) {
		_, err := small.Get(ctx, time.Minute, key, func(context.Context, string) (string, error) { return text, nil })
		require.NoError(t, err)
	}
	for i := range 20 {
		fill(fmt.Sprint("k", i))
	}
	many := make([]map[string]int, 20_000)
	for i := range many {
		many[i] = map[string]int{"a": 1}
	}
	require.NoError(t, large.Set(ctx, time.Minute, "large", many))
	before := c.Stats().MemoryEntries
	for range 5 {
		got, err := large.Get(ctx, time.Minute, "large", func(context.Context, string) ([]map[string]int, error) { return nil, errUnwanted })
		require.NoError(t, err)
		require.Len(t, got, len(many))
	}
	require.Equal(t, before+1, c.Stats().MemoryEntries)
	require.GreaterOrEqual(t, c.Stats().MemoryHits, int64(4))
}

// What is kept holds on to nothing larger: a relapse would let memory grow far beyond MemoryBytes.
func TestAPieceOfWhatWasDecodedIsKeptByItself(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	var freed atomic.Int64
	pieces := codec.Fresh(codec.Func(func([]string) (string, error) { return "x", nil }, func(string) ([]string, error) {
		whole := make([]byte, 1<<20)
		runtime.AddCleanup(&whole[0], func(int) { freed.Add(1) }, 0)
		return []string{unsafe.String(&whole[0], 8)}, nil
	}))
	view := aside.Typed(c, pieces)
	require.NoError(t, view.Set(ctx, time.Minute, "k", []string{"x"}))
	for range 3 {
		got, ok, err := view.Peek(ctx, "k")
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, []string{strings.Repeat("\x00", 8)}, got)
	}
	eventually(t, "what was decoded is let go", func() bool { runtime.GC(); return freed.Load() == 1 })
	require.Equal(t, 1, c.Stats().MemoryEntries)
}

// A view that copies does not take the place of one that shares.
func TestASharedValueStaysBesideAViewThatCopies(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	var decoded atomic.Int64
	co := counting[profile]{codec.JSON[profile](), &decoded}
	shared, copies := aside.Typed[profile](c, co, aside.Shared()), aside.Typed[profile](c, co)
	require.NoError(t, copies.Set(ctx, time.Minute, "k", newProfile()))
	one, _, err := shared.Peek(ctx, "k")
	require.NoError(t, err)
	for range 10 {
		two, _, err := copies.Peek(ctx, "k")
		require.NoError(t, err)
		two.spoil()
		again, _, err := shared.Peek(ctx, "k")
		require.NoError(t, err)
		require.Same(t, one.Home, again.Home)
	}
	require.Equal(t, newProfile(), one)
	require.EqualValues(t, 11, decoded.Load(), "once to share it, and for each caller of the other")
}

// Functions are not compared: what one view's function hands out is nothing to another's.
func TestViewsWithFunctionsOfTheirOwnShareNothing(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	shallow := aside.Typed(c, codec.JSON[profile](), aside.WithClone(func(p profile) profile { return p }))
	deep := aside.Typed(c, codec.JSON[profile](), aside.WithClone(func(p profile) profile {
		p.Tags = slices.Clone(p.Tags)
		return p
	}))
	require.NoError(t, deep.Set(ctx, time.Minute, "k", newProfile()))
	spoilt, _, err := shallow.Peek(ctx, "k")
	require.NoError(t, err)
	spoilt.Tags[0] = "!"
	got, _, err := deep.Peek(ctx, "k")
	require.NoError(t, err)
	require.Equal(t, newProfile(), got)
}

// fragile is a codec whose methods need what a nil pointer has not.
type fragile struct{ fresh bool }

func (fragile) Encode(profile) (string, error) { return "", nil }
func (fragile) Decode(string) (profile, error) { return profile{}, nil }
func (f fragile) DecodesFresh() bool           { return f.fresh }

// A codec that panics when it is asked, and a function that returns nothing, cost a decode.
func TestWhatAViewIsMadeOfMayFail(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	mode, why := aside.Typed[profile](c, (*fragile)(nil)).HitMode()
	require.Equal(t, aside.HitDecodes, mode)
	require.Contains(t, why, "the codec panicked")

	view := aside.Typed(c, codec.JSON[*profile](), aside.WithClone(func(*profile) *profile { return nil }))
	value := newProfile()
	require.NoError(t, view.Set(ctx, time.Minute, "k", &value))
	for range 3 {
		got, ok, err := view.Peek(ctx, "k")
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, &value, got)
	}
}
