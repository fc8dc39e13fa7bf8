package aside_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/internal/redistest"
)

type point struct{ X, Y int }

// pointViews returns a getter of a value that is in memory, for a view without audits and one with.
func pointViews(t testing.TB) (plain, audited func()) {
	t.Helper()
	ctx, client := testContext(t), newClient(t, redistest.Start(t).Addr())
	getter := func(opts ...aside.ViewOption) func() {
		view := aside.Typed(client, codec.JSON[point](), opts...)
		return func() {
			got, err := view.Get(ctx, time.Hour, "k", func(context.Context, string) (point, error) { return point{1, 2}, nil })
			if err != nil || got != (point{1, 2}) {
				t.Errorf("got %v, %v", got, err)
			}
		}
	}
	plain, audited = getter(), getter(aside.WithAudit(aside.Audit[point]{Fraction: 1e-6}))
	eventually(t, "it is in memory", func() bool {
		plain()
		return client.Stats().MemoryHits > 10
	})
	return plain, audited
}

func TestAHitThatIsNotAuditedAllocatesNothing(t *testing.T) {
	_, audited := pointViews(t)
	require.Zero(t, testing.AllocsPerRun(1000, audited))
}

// BenchmarkAudit is a hit with and without audits.
func BenchmarkAudit(b *testing.B) {
	plain, audited := pointViews(b)
	for name, get := range map[string]func(){"without": plain, "with": audited} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				get()
			}
		})
	}
}
