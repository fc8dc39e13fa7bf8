package asidetest_test

import (
	"context"
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asidetest"
	"github.com/redaside/aside/codec"
)

// What a Result says is true of the moment at which the call was allowed to have the value, also where
// that becomes stale, or too old, before the call returns: here while the Observer is told, or the value
// is decoded.
func TestAResultIsOfTheMomentAtWhichItWasAllowed(t *testing.T) {
	const ttl, grace, little = time.Second, time.Minute, 20 * time.Millisecond
	type boxed struct{ V any } // each call decodes it
	slowly := codec.Func(func(v boxed) (string, error) {
		raw, err := json.Marshal(v)
		return string(raw), err
	}, func(raw string) (v boxed, err error) {
		time.Sleep(2 * little)
		err = json.Unmarshal([]byte(raw), &v)
		return v, err
	})
	load := func(context.Context, string) (boxed, error) { return boxed{"v"}, nil }
	fetches := map[string]func(ctx context.Context, view *aside.TypedClient[boxed], opts ...aside.CallOption) (aside.Result[boxed], error){
		"Fetch": func(ctx context.Context, view *aside.TypedClient[boxed], opts ...aside.CallOption) (aside.Result[boxed], error) {
			return view.Fetch(ctx, ttl, "k", load, opts...)
		},
		"FetchMulti": func(ctx context.Context, view *aside.TypedClient[boxed], opts ...aside.CallOption) (aside.Result[boxed], error) {
			got, err := view.FetchMulti(ctx, ttl, []string{"k"}, func(context.Context, []string) (map[string]boxed, error) { return map[string]boxed{"k": {"v"}}, nil }, opts...)
			return got["k"], err
		},
		"a client's Fetch": func(ctx context.Context, view *aside.TypedClient[boxed], opts ...aside.CallOption) (aside.Result[boxed], error) {
			got, err := view.Client().Fetch(ctx, ttl, "k", func(context.Context, string) (string, error) { return "", nil }, append([]aside.CallOption{aside.WithGrace(grace)}, opts...)...)
			return aside.Result[boxed]{Value: boxed{"v"}, TTL: got.TTL, Source: got.Source, Age: got.Age, Stale: got.Stale}, err
		},
	}
	for name, fetch := range fetches {
		for need, opt := range map[string]aside.CallOption{"stale": aside.WithMaxStale(0), "age": aside.WithMaxAge(ttl)} {
			for _, from := range []aside.Source{aside.SourceMemory, aside.SourceRedis} {
				t.Run(name+", "+need+", "+from.String(), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						server, ctx := asidetest.NewServer(t), t.Context()
						view := func() *aside.TypedClient[boxed] {
							c := server.Client(func(o *aside.Options) {
								o.HitEvents = true
								o.Observer = aside.ObserverFunc(func(_ context.Context, e aside.Event) {
									if e.Kind == aside.EventGet || e.Kind == aside.EventHit && e.Source == aside.SourceMemory {
										time.Sleep(2 * little)
									}
								})
							})
							return aside.Typed(c, slowly, aside.WithGrace(grace), aside.WithMaxAge(time.Hour)) // the age has the load's time stored
						}
						a, b := view(), view()
						began := time.Now()
						for range 2 { // memory has what was read
							_, err := a.Get(ctx, ttl, "k", load)
							require.NoError(t, err)
						}
						if from == aside.SourceRedis {
							a = b
						}
						time.Sleep(time.Until(began.Add(ttl - little)))
						got, err := fetch(ctx, a, opt)
						require.NoError(t, err)
						require.Equal(t, boxed{"v"}, got.Value)
						require.Equal(t, from, got.Source)
						require.Greater(t, time.Since(began), ttl, "it has become so meanwhile")
						require.False(t, got.Stale)
						require.LessOrEqual(t, got.Age, ttl)
						require.Greater(t, got.TTL, grace)
					})
				})
			}
		}
	}
}
