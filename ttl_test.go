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

// 60 is 60 nanoseconds: nothing would ever be a hit, and nobody be told.
func TestATTLBelowAMillisecondIsRefused(t *testing.T) {
	server := redistest.Start(t)
	c, ctx := newClient(t, server.Addr()), testContext(t)
	view := aside.Typed(c, codec.JSON[int]())
	require.NoError(t, c.Set(ctx, time.Minute, "k", "1"))
	_, err := c.Get(ctx, time.Minute, "k", mustNotLoad) // it is in memory, too
	require.NoError(t, err)
	one := func(context.Context, string) (int, error) { return 1, nil }
	many := func(context.Context, []string) (map[string]int, error) { return nil, nil }
	strings := newSource("")
	for name, call := range map[string]func() error{
		"Get":            func() error { _, err := c.Get(ctx, 60, "k", strings.load); return err },
		"GetMulti":       func() error { _, err := c.GetMulti(ctx, 60, []string{"k"}, strings.loadMany); return err },
		"Set":            func() error { return c.Set(ctx, 60, "k", "2") },
		"Touch":          func() error { return c.Touch(ctx, 60, "k") },
		"typed Get":      func() error { _, err := view.Get(ctx, 60, "k", one); return err },
		"typed GetMulti": func() error { _, err := view.GetMulti(ctx, 60, []string{"k"}, many); return err },
		"typed Set":      func() error { return view.Set(ctx, 60, "k", 2) },
		"typed Touch":    func() error { return view.Touch(ctx, 60, "k") },
		"WithNegativeTTL": func() error {
			_, err := c.Get(ctx, time.Minute, "o", strings.load, aside.WithNegativeTTL(60))
			return err
		},
		"WithLoadTimeout": func() error {
			_, err := c.Get(ctx, time.Minute, "o", strings.load, aside.WithLoadTimeout(60))
			return err
		},
		"WithErrorTTL": func() error { _, err := c.Get(ctx, time.Minute, "o", strings.load, aside.WithErrorTTL(60)); return err },
	} {
		err := call()
		require.ErrorIs(t, err, aside.ErrInvalidArgument, name)
		require.ErrorContains(t, err, "60*time.Second", name)
	}
	require.Zero(t, strings.calls.Load())
	value, err := c.Get(ctx, time.Millisecond, "k", mustNotLoad)
	require.NoError(t, err)
	require.Equal(t, "1", value)
}
