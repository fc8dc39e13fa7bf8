package aside_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/codec/msgpack"
	"github.com/redaside/aside/codec/zstd"
	"github.com/redaside/aside/internal/redistest"
)

// record is what a repository keeps, and hands to loaders as it is.
type record struct {
	Name   string
	Secret string `json:"-"`
	Tags   []string
	By     map[string]any
}

func theRecord() record {
	return record{Name: "Ada", Secret: "s", Tags: []string{"a"}, By: map[string]any{"id": int64(7)}}
}

var theRecordAsJSON = record{Name: "Ada", Tags: []string{"a"}, By: map[string]any{"id": float64(7)}}

// Who loads a value gets what those get who find it, and may change it: the repository keeps its
// own.
func TestAllCallersGetEqualValuesThatAreTheirs(t *testing.T) {
	server := redistest.Start(t)
	for name, way := range map[string]struct {
		change func(*aside.Options)
		away   bool
		opts   []aside.ViewOption
	}{
		"healthy":     {},
		"store first": {change: func(o *aside.Options) { o.StoreFirst = true }},
		"no memory":   {change: func(o *aside.Options) { o.MemoryBytes = -1 }},
		"too large":   {change: func(o *aside.Options) { o.MaxValueBytes = 10 }},
		"away":        {away: true},
		"shared":      {opts: []aside.ViewOption{aside.Shared()}},
	} {
		t.Run(name, func(t *testing.T) {
			server.Do("FLUSHALL")
			addr := server.Addr()
			if way.away {
				addr = "127.0.0.1:1"
			}
			c, ctx := newClient(t, addr, func(o *aside.Options) {
				if o.RequireRedis = !way.away; way.away {
					o.ConnectTimeout = time.Millisecond
				}
				if way.change != nil {
					way.change(o)
				}
			}), testContext(t)
			view := aside.Typed(c, codec.JSON[*record](), way.opts...)
			repository := theRecord()
			spoil := func(r *record) {
				require.Equal(t, &theRecordAsJSON, r)
				if way.opts == nil {
					r.Tags[0], r.By["id"], r.Name = "spoiled", "spoiled", "spoiled"
				}
				require.Equal(t, theRecord(), repository)
			}
			for range 3 {
				r, err := view.Get(ctx, time.Minute, "k", func(context.Context, string) (*record, error) { return &repository, nil })
				require.NoError(t, err)
				spoil(r)
				m, err := view.GetMulti(ctx, time.Minute, []string{"k", "m"}, func(_ context.Context, keys []string) (map[string]*record, error) {
					loaded := make(map[string]*record)
					for _, key := range keys {
						loaded[key] = &repository
					}
					return loaded, nil
				})
				require.NoError(t, err)
				require.Len(t, m, 2)
				spoil(m["k"])
				spoil(m["m"])
			}
		})
	}
}

// Those who wait for a load get values of their own, too.
func TestFollowersGetValuesOfTheirOwn(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	view := aside.Typed(c, codec.JSON[*record]())
	repository, hold := theRecord(), make(chan struct{})
	const n = 8
	got := make(chan *record, n)
	for range n {
		go func() {
			r, err := view.Get(ctx, time.Minute, "k", func(context.Context, string) (*record, error) {
				<-hold
				return &repository, nil
			})
			if err != nil {
				t.Error(err)
			}
			got <- r
		}()
	}
	awaitShared(t, c, n-1)
	close(hold)
	seen := make(map[*record]bool)
	for range n {
		r := await(t, got)
		require.Equal(t, &theRecordAsJSON, r)
		require.NotSame(t, &repository, r)
		require.False(t, seen[r])
		seen[r] = true
		r.Tags[0] = "spoiled"
	}
	require.Equal(t, theRecord(), repository)
}

// Where another type keeps writing under the key the cache is left alone, and the value that was
// loaded for one caller is a copy all the same.
func TestWhatIsLoadedForOneCallerAloneIsACopy(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr(), func(o *aside.Options) { o.MemoryBytes = -1 }), testContext(t)
	view := aside.Typed(c, codec.Func(codec.JSON[*record]().Encode, func(s string) (*record, error) {
		if strings.HasPrefix(s, "{") {
			return codec.JSON[*record]().Decode(s)
		}
		return nil, fmt.Errorf("foreign")
	}))
	foreign := newClient(t, server.Addr())
	var loads atomic.Int64
	repository := theRecord()
	server.Do("SET", "k", "foreign")
	_, err := foreign.Get(ctx, time.Minute, "k", mustNotLoad)
	require.NoError(t, err)
	r, err := view.Get(ctx, time.Minute, "k", func(context.Context, string) (*record, error) {
		loads.Add(1)
		return &repository, nil
	})
	require.NoError(t, err)
	require.EqualValues(t, 1, loads.Load())
	require.Equal(t, &theRecordAsJSON, r)
	require.NotSame(t, &repository, r)
}

// What cannot be read back is the loader's own, to who loaded it, and is not loaded several times
// for that.
func TestWhatDoesNotComeBackIsReturnedToWhoLoadedIt(t *testing.T) {
	server := redistest.Start(t)
	logs := new(syncBuffer)
	c, ctx := newClient(t, server.Addr(), logs.to), testContext(t)
	view := aside.Typed(c, codec.Func(func(*record) (string, error) { return "x", nil }, func(string) (*record, error) { return nil, fmt.Errorf("never") }))
	repository, loads := theRecord(), 0
	for i := range 3 {
		r, err := view.Get(ctx, time.Minute, "k", func(context.Context, string) (*record, error) { loads++; return &repository, nil })
		require.NoError(t, err)
		require.Same(t, &repository, r)
		require.Equal(t, i+1, loads)
		m, err := view.GetMulti(ctx, time.Minute, []string{fmt.Sprint("m", i)}, func(_ context.Context, keys []string) (map[string]*record, error) {
			return map[string]*record{keys[0]: &repository}, nil
		})
		require.NoError(t, err)
		require.Same(t, &repository, m[fmt.Sprint("m", i)])
	}
	require.NoError(t, c.Close()) // which has the log written
	require.Contains(t, logs.String(), "type=*aside_test.record")
}

type stamped struct {
	time.Time // its MarshalJSON is promoted
	Name      string
}

type withBase struct {
	*base
	Name string
}

type base struct{ ID int }

// Base is exported for MessagePack, which leaves unexported embedded pointers alone.
type Base struct{ ID int }

type withExported struct {
	*Base
	Name string
}

type cyclic struct {
	Name string
	Up   *cyclic `json:"-"`
}

func TestAValueThatChangesOnItsWayIsLoggedOnce(t *testing.T) {
	server := redistest.Start(t)
	loop := &cyclic{Name: "a"}
	loop.Up = loop
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	checks := map[string]func(t *testing.T, c *aside.Client, logs *syncBuffer){
		"a field left out":                       warns(codec.JSON[record](), record{Secret: "s"}, "view=JSON", "type=aside_test.record", "field=Secret"),
		"int64 in a map":                         warns(codec.JSON[map[string]any](), map[string]any{"id": int64(7)}, `field="[\"id\"]"`, "was=int64", "now=float64"),
		"a promoted marshaller":                  warns(codec.JSON[stamped](), stamped{at, "Ada"}, "field=Name"),
		"a nil embedded pointer":                 warns(msgpack.New[withExported](), withExported{Name: "a"}, "view=MessagePack", "field=Base", "was=nil"),
		"an unexported field":                    warns(codec.Gob[outerHidden](), outerHidden{Name: "a", hidden: 1}, "view=Gob", "field=hidden"),
		"a way back":                             warns(codec.JSON[*cyclic](), loop, "field=Up"),
		"compressed":                             warns(zstd.New(codec.JSON[record](), 0), record{Secret: "s"}, `view=Zstd(JSON)`, "field=Secret"),
		"through functions":                      warns(codec.Func(codec.JSON[record]().Encode, codec.JSON[record]().Decode), record{Secret: "s"}, "field=Secret"),
		"several":                                warns(codec.JSON[record](), theRecord(), "field=Secret", "also="),
		"nothing":                                warns(codec.JSON[record](), theRecordAsJSON),
		"a time of now":                          warns(codec.JSON[stampedField](), stampedField{time.Now()}),
		"a nil embedded pointer that JSON keeps": warns(codec.JSON[withBase](), withBase{Name: "a"}),
	}
	for name, check := range checks {
		t.Run(name, func(t *testing.T) {
			server.Do("FLUSHALL")
			logs := new(syncBuffer)
			check(t, newClient(t, server.Addr(), logs.to), logs)
		})
	}
}

type outerHidden struct {
	Name   string
	hidden int
}

type stampedField struct{ At time.Time }

// warns checks that loads of value log one line with all of says, for Get and GetMulti; none if
// there is nothing to say.
func warns[T any](c codec.Codec[T], value T, says ...string) func(t *testing.T, client *aside.Client, logs *syncBuffer) {
	const line = "a value changes on its way"
	return func(t *testing.T, client *aside.Client, logs *syncBuffer) {
		ctx := testContext(t)
		for i := range 20 {
			view := aside.Typed(client, c) // as a service does that makes one for each request
			_, err := view.Get(ctx, time.Minute, fmt.Sprint("k", i), func(context.Context, string) (T, error) { return value, nil })
			require.NoError(t, err)
			_, err = view.GetMulti(ctx, time.Minute, []string{fmt.Sprint("m", i)}, func(_ context.Context, keys []string) (map[string]T, error) {
				return map[string]T{keys[0]: value}, nil
			})
			require.NoError(t, err)
			if len(says) > 0 && i == 0 {
				eventually(t, "the first load says it", func() bool { return strings.Contains(logs.String(), line) })
			}
			if name := fmt.Sprintf("%T", c); strings.Contains(name, "funcCodec") {
				break // functions cannot be compared: each view is one of its own
			}
		}
		require.NoError(t, client.Close()) // which has the log written
		if len(says) == 0 {
			require.NotContains(t, logs.String(), line)
			return
		}
		require.Equal(t, 1, strings.Count(logs.String(), line), logs.String())
		for _, s := range says {
			require.Contains(t, logs.String(), s)
		}
	}
}

// A value that refers to itself ends no process: who loaded it has it, and a Set of it is refused.
func TestAValueThatRefersToItselfCannotBeEncoded(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	loop := &ring{}
	loop.Next = loop
	for i, view := range []*aside.TypedClient[*ring]{
		aside.Typed(c, codec.Gob[*ring]()), aside.Typed(c, msgpack.New[*ring]()), aside.Typed(c, codec.JSON[*ring]()),
		aside.Typed(c, zstd.New(codec.Gob[*ring](), 0)),
		aside.NewTypedClient(c, codec.Gob[*ring]().Encode, codec.Gob[*ring]().Decode),
	} {
		got, err := view.Get(ctx, time.Minute, "k", func(context.Context, string) (*ring, error) { return loop, nil })
		require.NoError(t, err)
		require.Same(t, loop, got)
		m, err := view.GetMulti(ctx, time.Minute, []string{"m"}, func(context.Context, []string) (map[string]*ring, error) { return map[string]*ring{"m": loop}, nil })
		require.NoError(t, err)
		require.Same(t, loop, m["m"])
		stored(t, c, "k", "m")
		require.ErrorContains(t, view.Set(ctx, time.Minute, "k", loop), "refers to itself")
		require.EqualValues(t, 2*(i+1), c.Stats().EncodeErrors)
	}
}

type ring struct{ Next *ring }

// Each view looks at its first loads only, and views of functions that are made anew for each
// request do not look for ever.
func TestTheCheckOfRoundTripsEnds(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr(), untracked), testContext(t)
	var decodes atomic.Int64
	viewOf := func() *aside.TypedClient[int] {
		return aside.Typed(c, codec.Func(func(n int) (string, error) { return fmt.Sprint(n), nil }, func(s string) (n int, err error) {
			decodes.Add(1)
			_, err = fmt.Sscan(s, &n)
			return n, err
		}))
	}
	loadOne := func(view *aside.TypedClient[int], key string) {
		_, err := view.Get(ctx, time.Minute, key, func(context.Context, string) (int, error) { return 1, nil })
		require.NoError(t, err)
	}
	view := viewOf()
	for i := range 100 {
		loadOne(view, fmt.Sprint("a", i))
	}
	require.EqualValues(t, 100+8, decodes.Load())
	decodes.Store(0)
	for i := range 1000 {
		loadOne(viewOf(), fmt.Sprint("b", i))
	}
	require.EqualValues(t, 1000+63, decodes.Load())
}

// What is loaded for ever because of its codec is said once a minute, with view and type; however
// many calls, and views, there are.
func TestACodecThatDoesNotWorkIsNamedInTheLog(t *testing.T) {
	server := redistest.Start(t)
	logs := new(syncBuffer)
	c, ctx := newClient(t, server.Addr(), logs.to), testContext(t)
	never := func(string) (int, error) { return 0, fmt.Errorf("no") }
	for i := range 20 {
		key := fmt.Sprint("k", i)
		_, err := aside.Typed(c, codec.JSON[func()]()).Get(ctx, time.Minute, key, func(context.Context, string) (func(), error) { return func() {}, nil })
		require.NoError(t, err)
		_, err = aside.Typed(c, codec.Gob[chan int]()).GetMulti(ctx, time.Minute, []string{key + "m"}, func(_ context.Context, keys []string) (map[string]chan int, error) {
			return map[string]chan int{keys[0]: nil}, nil
		})
		require.NoError(t, err)
		n, err := aside.NewTypedClient(c, func(int) (string, error) { return "x", nil }, never).Get(ctx, time.Minute, key+"f", func(context.Context, string) (int, error) { return i, nil })
		require.NoError(t, err)
		require.Equal(t, i, n)
		server.Do("SET", key+"b", "{")
		_, _, err = aside.Typed(c, codec.JSON[user]()).Peek(ctx, key+"b")
		require.NoError(t, err)
		_, err = aside.Typed(c, codec.JSON[*user]()).Get(ctx, time.Minute, key+"b", func(context.Context, string) (*user, error) { return &user{}, nil })
		require.NoError(t, err)
	}
	require.EqualValues(t, 40, c.Stats().EncodeErrors)
	require.NoError(t, c.Close()) // which has the log written
	for line, times := range map[string]int{
		`cannot be encoded, so it is not stored, and is loaded at every call" key="\"k0\"" view=JSON type=func()`: 1,
		`view=Gob type="chan int"`: 1,
		`cannot be decoded from what it was encoded to, so it is loaded at every call" key="\"k0f\"" view=Func type=int`: 1,
		`cannot be decoded, so it is loaded again" key="\"k0b\"" view=JSON type=aside_test.user`:                         1,
		`cannot be decoded, so it is loaded again" key="\"k0b\"" view=JSON type=*aside_test.user`:                        1,
		"level=WARN": 5,
	} {
		require.Equal(t, times, strings.Count(logs.String(), line), "%s in\n%s", line, logs.String())
	}
}

// A client that New did not return is the caller's mistake, which each call says.
func TestAViewOfNoClientSaysSo(t *testing.T) {
	ctx, view := testContext(t), aside.Typed[int](nil, codec.JSON[int]())
	_, err := view.Get(ctx, time.Minute, "k", func(context.Context, string) (int, error) { return 1, nil })
	require.ErrorIs(t, err, aside.ErrInvalidArgument)
	require.ErrorContains(t, err, "the view's client is nil")
	m, err := view.GetMulti(ctx, time.Minute, []string{"k"}, func(context.Context, []string) (map[string]int, error) { return nil, nil })
	require.ErrorIs(t, err, aside.ErrInvalidArgument)
	require.NotNil(t, m)
	_, ok, err := view.Peek(ctx, "k")
	require.ErrorIs(t, err, aside.ErrInvalidArgument)
	require.False(t, ok)
	require.ErrorIs(t, view.Set(ctx, time.Minute, "k", 1), aside.ErrInvalidArgument)
	require.ErrorIs(t, view.Del(ctx, "k"), aside.ErrInvalidArgument)
	require.ErrorIs(t, view.Touch(ctx, time.Minute, "k"), aside.ErrInvalidArgument)
	require.Nil(t, view.Client())
}

// syncBuffer is where a client under test logs to.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) to(o *aside.Options) { o.Logger = slog.New(slog.NewTextHandler(s, nil)) }

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
