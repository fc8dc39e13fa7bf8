package asidetest_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asidetest"
	"github.com/redaside/aside/codec"
)

// audited is a view whose hits are all audited, and its source.
type audited struct {
	t      *testing.T
	server *asidetest.Server
	client *aside.Client
	view   *aside.TypedClient[string]
	log    strings.Builder
	source atomic.Pointer[string]
	loads  atomic.Int64
	fail   atomic.Bool
	takes  time.Duration
}

func newAudited(t *testing.T, audit aside.Audit[string], opts ...aside.ViewOption) *audited {
	t.Helper()
	a := &audited{t: t, server: asidetest.NewServer(t)}
	a.client = a.server.Client(func(o *aside.Options) { o.Logger = slog.New(slog.NewTextHandler(&a.log, nil)) })
	audit.Fraction = 1
	a.view = aside.Typed(a.client, codec.String(), append(opts, aside.WithAudit(audit))...)
	a.set("first")
	return a
}

func (a *audited) set(value string) { a.source.Store(&value) }

func (a *audited) load(ctx context.Context, _ string) (string, error) {
	a.loads.Add(1)
	if _, ok := ctx.Deadline(); !ok {
		a.t.Error("the loader has no deadline")
	}
	time.Sleep(a.takes)
	switch value := *a.source.Load(); {
	case a.fail.Load():
		return "", errors.New("broken")
	case value == "":
		return "", aside.ErrNotFound
	default:
		return value, nil
	}
}

func (a *audited) get(want string) {
	a.t.Helper()
	got, err := a.view.Get(a.t.Context(), time.Hour, "k", a.load)
	if want == "" {
		require.ErrorIs(a.t, err, aside.ErrNotFound)
		return
	}
	require.NoError(a.t, err)
	require.Equal(a.t, want, got)
}

// found is what the audits have found: same, stale, overtaken, failed.
func (a *audited) found(want ...int64) {
	a.t.Helper()
	synctest.Wait()
	r := a.view.AuditReport()
	require.Equal(a.t, want, []int64{r.Same, r.Stale, r.Overtaken, r.Failed})
}

func TestAnAuditFindsWhatNobodyToldTheCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAudited(t, aside.Audit[string]{}, aside.WithName("prices"))
		a.get("first")
		a.get("first") // a hit
		a.found(1, 0, 0, 0)
		a.set("second")
		time.Sleep(time.Second)
		a.get("first")
		a.found(1, 0, 0, 0)
		time.Sleep(time.Second) // StaleLease: somebody might have told it
		a.found(1, 1, 0, 0)
		require.Equal(t, int64(3), a.loads.Load())
		a.get("first")
		stored, _ := a.server.Get("k")
		require.Equal(t, "first", stored, "an audit replaces nothing")
		time.Sleep(time.Second)
		a.found(1, 2, 0, 0)
		require.Contains(t, a.log.String(), `a cached value is not what its source has, and no change was heard of: whoever changes the source should delete the key" key="\"k\"" view=prices age=1s`)
		require.Equal(t, "prices", a.view.AuditReport().Name)
		require.Zero(t, a.view.AuditReport().SuggestedTTL, "too few audits")

		a.set("")
		time.Sleep(time.Second)
		a.get("first")
		time.Sleep(time.Second)
		a.found(1, 3, 0, 0)
		require.NoError(t, a.view.Del(t.Context(), "k"))
		a.get("")
		a.get("")
		a.found(2, 3, 0, 0)
	})
}

func TestAChangeThatTheCacheIsToldOfIsNotStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, tell := range map[string]func(a *audited){
			"by this process":  func(a *audited) { require.NoError(t, a.client.Del(t.Context(), "k")) },
			"by another":       func(a *audited) { a.server.Del("k") },
			"in an outage":     func(a *audited) { a.server.Down(); time.Sleep(time.Second) },
			"by a slow loader": func(a *audited) { a.takes = 0 },
		} {
			a := newAudited(t, aside.Audit[string]{})
			a.get("first")
			if name == "by a slow loader" {
				a.takes = 2 * time.Second
			}
			a.set("second")
			a.get("first")
			synctest.Wait()
			if name == "by a slow loader" {
				time.Sleep(time.Second)
				a.server.Del("k")
				time.Sleep(2 * time.Second)
			} else {
				tell(a)
				time.Sleep(2 * time.Second)
			}
			a.found(0, 0, 1, 0)
		}
	})
}

// A tag that was expired meanwhile is a change, too.
func TestAnAuditedValueWhoseTagExpiresIsNotStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAudited(t, aside.Audit[string]{}, aside.WithGrace(time.Hour), aside.WithTags("t"))
		a.get("first")
		a.takes = 2 * time.Second
		a.set("second")
		a.get("first")
		time.Sleep(time.Second) // the audit's loader runs
		require.NoError(t, a.client.ExpireTags(t.Context(), "t"))
		_, err := a.view.Get(t.Context(), time.Hour, "other", loader("o")) // so that this process knows the tag's state
		require.NoError(t, err)
		time.Sleep(10 * time.Second)
		a.found(0, 0, 1, 0)
	})
}

// Hits of a Keyed view are those of its view.
func TestHitsOfAKeyedViewAreAudited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAudited(t, aside.Audit[string]{})
		keyed := aside.NewKeyed(a.view, func(key string) string { return key })
		for range 2 {
			value, err := keyed.Get(t.Context(), time.Hour, "k", a.load)
			require.NoError(t, err)
			require.Equal(t, "first", value)
			synctest.Wait()
		}
		a.found(1, 0, 0, 0)
	})
}

func TestWhatFailsIsNoFinding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAudited(t, aside.Audit[string]{Equal: func(cached, loaded string) bool {
			if loaded == "panic" {
				panic("at the comparison")
			}
			return strings.EqualFold(cached, loaded)
		}})
		a.get("first")
		again := func(source string) {
			a.set(source)
			time.Sleep(time.Second)
			a.get("first")
		}
		again("FIRST")
		a.found(1, 0, 0, 0)
		again("panic")
		a.found(1, 0, 0, 1)
		a.fail.Store(true)
		again("second")
		a.found(1, 0, 0, 2)
	})
}

func TestAuditsAreBoundedAndBesideTheCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAudited(t, aside.Audit[string]{AtOnce: 2, PerSecond: 1000})
		a.get("first")
		a.takes = 5 * time.Second
		began := time.Now()
		for range 100 {
			a.get("first")
			time.Sleep(10 * time.Millisecond)
		}
		require.Equal(t, time.Second, time.Since(began), "no hit waits for an audit")
		require.Equal(t, int64(3), a.loads.Load())
		time.Sleep(10 * time.Second)
		r := a.view.AuditReport()
		require.Equal(t, []int64{100, 98, 2}, []int64{r.Sampled, r.Skipped, r.Same})
	})
}

func TestAnAuditOfABatchHasABatchLoader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := asidetest.NewServer(t)
		view := aside.Typed(server.Client(), codec.JSON[int](), aside.WithAudit(aside.Audit[int]{Fraction: 1, AtOnce: 10, PerSecond: 1e6}))
		var asked [][]string
		load := func(ctx context.Context, keys []string) (map[string]int, error) {
			asked = append(asked, keys)
			require.Nil(t, ctx.Value(contextKey{}), "nobody gives an audit values")
			return map[string]int{keys[0]: 1}, nil
		}
		for range 2 {
			_, err := view.GetMulti(t.Context(), time.Hour, []string{"a"}, load)
			require.NoError(t, err)
		}
		_, err := view.GetMulti(context.WithValue(t.Context(), contextKey{}, "value"), time.Hour, []string{"a"}, load)
		require.NoError(t, err)
		synctest.Wait()
		require.Equal(t, [][]string{{"a"}, {"a"}}, asked, "the second hit came too soon")
		time.Sleep(time.Second)
		_, err = view.GetMulti(context.WithValue(t.Context(), contextKey{}, "value"), time.Hour, []string{"a"}, load)
		require.NoError(t, err)
		synctest.Wait()
		require.Len(t, asked, 3)
		require.Equal(t, int64(2), view.AuditReport().Same)
	})
}

type contextKey struct{}

// An outage that begins while an audit loads does not make it a load of the outage, which would be
// kept.
func TestAnAuditInAnOutageKeepsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAudited(t, aside.Audit[string]{})
		a.get("first")
		a.set("second")
		a.takes = 5 * time.Second
		a.get("first")
		synctest.Wait()
		a.server.Down()
		time.Sleep(10 * time.Second)
		require.Equal(t, aside.Degraded, a.client.Health().Mode)
		a.found(0, 0, 1, 0)
		loads := a.loads.Load()
		a.get("first")
		a.found(0, 0, 2, 0)
		require.Equal(t, loads, a.loads.Load(), "none begins in an outage")
		require.Zero(t, a.client.Health().Fallback.Fills)
	})
}

func TestAuditsThatCannotBe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := asidetest.New(t)
		for _, row := range []struct {
			audit aside.ViewOption
			want  string
		}{
			{aside.WithAudit(aside.Audit[string]{}), "Audit.Fraction is 0: must be above 0"},
			{aside.WithAudit(aside.Audit[string]{Fraction: math.NaN()}), "Audit.Fraction is NaN"},
			{aside.WithAudit(aside.Audit[string]{Fraction: 1.5}), "Audit.Fraction is 1.5"},
			{aside.WithAudit(aside.Audit[string]{Fraction: 1, AtOnce: -1}), "Audit.AtOnce is -1"},
			{aside.WithAudit(aside.Audit[string]{Fraction: 1, PerSecond: -1}), "Audit.PerSecond is -1"},
			{aside.WithAudit(aside.Audit[string]{Fraction: 1, StaleShare: 1}), "Audit.StaleShare is 1"},
			{aside.WithAudit(aside.Audit[int]{Fraction: 1}), "WithAudit was given a aside.Audit[int], and the view is of string"},
		} {
			view := aside.Typed(client, codec.String(), row.audit)
			_, err := view.Get(t.Context(), time.Hour, "k", loader("v"))
			require.ErrorIs(t, err, aside.ErrInvalidArgument)
			require.ErrorContains(t, err, row.want)
		}
		require.Zero(t, aside.Typed(client, codec.String()).AuditReport(), "there is none")
		_, err := aside.Typed(nil, codec.String(), aside.WithAudit(aside.Audit[string]{Fraction: 1})).Get(t.Context(), time.Hour, "k", loader("v"))
		require.ErrorIs(t, err, aside.ErrInvalidArgument)
	})
}

// Close waits for audits, and ends them.
func TestCloseEndsAudits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := asidetest.NewServer(t)
		client := server.Client()
		view := aside.Typed(client, codec.String(), aside.WithAudit(aside.Audit[string]{Fraction: 1}))
		for i := range 2 {
			_, err := view.Get(t.Context(), time.Hour, "k", func(ctx context.Context, _ string) (string, error) {
				if i == 1 {
					<-ctx.Done()
				}
				return fmt.Sprint(i), ctx.Err()
			})
			require.NoError(t, err)
		}
		synctest.Wait()
		began := time.Now()
		require.NoError(t, client.Close())
		require.Less(t, time.Since(began), time.Second)
		require.Equal(t, int64(1), view.AuditReport().Failed)
	})
}
