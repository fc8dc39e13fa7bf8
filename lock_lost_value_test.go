package aside_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/internal/redistest"
)

// awaitLoadersReturned waits until no loader of a view runs, nor what is made of its result there.
func awaitLoadersReturned(t *testing.T) {
	t.Helper()
	eventually(t, "the loader has returned", func() bool {
		stacks := make([]byte, 1<<20)
		return !strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "Load[...]).load(")
	})
}

// stubborn is a loader whose first call does not heed that its lock was lost, and returns when it is
// let go.
type stubborn struct {
	calls atomic.Int64
	began chan struct{}
	ends  chan struct{} // closed when the first may return
}

func (s *stubborn) load(ctx context.Context, _ string) (string, error) {
	if s.calls.Add(1) > 1 {
		return "the second", nil
	}
	close(s.began)
	<-ctx.Done()
	<-s.ends
	return "the first", nil
}

func (s *stubborn) loadMany(ctx context.Context, keys []string) (map[string]string, error) {
	value, err := s.load(ctx, keys[0])
	return map[string]string{keys[0]: value}, err
}

// A caller whose lock was lost gets what its second load has returned, also where that cannot be
// encoded, or read back, and the loader of the first comes back late.
func TestALateLoaderOfALostLockAnswersNobody(t *testing.T) { //nolint:tparallel // see awaitLoadersReturned
	broken := errors.New("broken")
	for what, c := range map[string]codec.Codec[string]{
		"encoded":   codec.Func(func(string) (string, error) { return "", broken }, func(s string) (string, error) { return s, nil }),
		"read back": codec.Func(func(s string) (string, error) { return s, nil }, func(string) (string, error) { return "", broken }),
	} {
		for name, get := range map[string]func(ctx context.Context, view *aside.TypedClient[string], s *stubborn) (string, error){
			"Get": func(ctx context.Context, view *aside.TypedClient[string], s *stubborn) (string, error) {
				return view.Get(ctx, time.Minute, "k", s.load)
			},
			"GetMulti": func(ctx context.Context, view *aside.TypedClient[string], s *stubborn) (string, error) {
				all, err := view.GetMulti(ctx, time.Minute, []string{"k"}, s.loadMany)
				return all["k"], err
			},
			"Refresh": func(ctx context.Context, view *aside.TypedClient[string], s *stubborn) (string, error) {
				return view.Refresh(ctx, time.Minute, "k", s.load)
			},
		} {
			t.Run("it cannot be "+what+", "+name, func(t *testing.T) {
				t.Parallel() // beside each other, not beside other tests: see awaitLoadersReturned
				server := redistest.Start(t)
				s := &stubborn{began: make(chan struct{}), ends: make(chan struct{})}
				late := make(chan struct{})
				client, ctx := newClient(t, server.Addr(), quick, func(o *aside.Options) {
					o.StoreFirst = true
					o.Observer = aside.ObserverFunc(func(_ context.Context, e aside.Event) {
						if e.Kind == aside.EventLoad && e.Err == nil { // the second has returned, and its caller does not know yet
							close(s.ends)
							<-late
						}
					})
				}), testContext(t)
				view := aside.Typed(client, c)
				answer := inBackground(func() (string, error) { return get(ctx, view, s) })
				<-s.began
				server.Do("DEL", "k")
				eventually(t, "the lock is lost", func() bool { return client.Stats().LocksLost == 1 })
				<-s.ends
				awaitLoadersReturned(t)
				close(late)
				require.Equal(t, result{Value: "the second"}, await(t, answer))
			})
		}
	}
}
