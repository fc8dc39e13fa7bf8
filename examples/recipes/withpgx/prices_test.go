package withpgx

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asidesql"
	"github.com/redaside/aside/asidetest"
)

func TestPrices(t *testing.T) {
	ctx := t.Context()
	pool, err := pgxpool.New(ctx, startPostgreSQL(t))
	must(t, err)
	t.Cleanup(pool.Close)
	for _, statement := range []string{asidesql.Schema(asidesql.PostgreSQL), "CREATE TABLE prices (id TEXT PRIMARY KEY, cents INTEGER NOT NULL CHECK (cents >= 0))"} {
		_, err := pool.Exec(ctx, statement)
		must(t, err)
	}
	server := asidetest.NewServer(t)
	process := func() *Prices {
		p, err := New(pool, server.Client())
		must(t, err)
		t.Cleanup(func() { must(t, p.Close()) })
		return p
	}
	here, there := process(), process() // as two processes have them
	get := func(p *Prices) int {
		t.Helper()
		cents, err := p.Price(ctx, "tea")
		must(t, err)
		return cents
	}
	// An invalidation arrives a moment later in the other process.
	becomes := func(p *Prices, want int) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); get(p) != want; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("tea is %d, not %d", get(p), want)
			}
		}
	}

	if _, err := here.Price(ctx, "tea"); !errors.Is(err, aside.ErrNotFound) {
		t.Fatalf("there is tea: %v", err)
	}
	must(t, here.SetPrice(ctx, "tea", 350))
	if cents := get(here); cents != 350 {
		t.Errorf("who has changed it gets %d", cents)
	}
	becomes(there, 350) // its absence was cached

	loads := server.Loads("price:tea")
	if err := here.Discount(ctx, 200); err == nil {
		t.Error("the database accepts a negative price")
	}
	if cents := get(there); cents != 350 || server.Loads("price:tea") != loads {
		t.Errorf("after a rollback tea is %d, loaded %d times", cents, server.Loads("price:tea"))
	}

	relay := make(chan error, 1)
	running, stop := context.WithCancel(ctx)
	go func() { relay <- there.Run(running) }()
	must(t, here.Discount(ctx, 10))
	becomes(here, 315)
	becomes(there, 315)
	stop()
	if err := <-relay; err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
