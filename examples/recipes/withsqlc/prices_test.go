package withsqlc

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"path/filepath"
	"testing"
	"time"

	_ "github.com/glebarez/go-sqlite" // the driver "sqlite"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asidesql"
	"github.com/redaside/aside/asidetest"
	"github.com/redaside/aside/examples/recipes/withsqlc/db"
)

//go:embed schema.sql
var schema string

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestPrices(t *testing.T) {
	ctx := t.Context()
	pool, err := sql.Open("sqlite", filepath.Join(t.TempDir(), "db")+"?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)")
	must(t, err)
	t.Cleanup(func() { must(t, pool.Close()) })
	for _, script := range []string{schema, asidesql.Schema(asidesql.SQLite)} {
		_, err = pool.ExecContext(ctx, script)
		must(t, err)
	}
	server := asidetest.NewServer(t)
	process := func() *Prices {
		p, err := New(pool, server.Client(), asidesql.SQLite)
		must(t, err)
		t.Cleanup(func() { must(t, p.Close()) })
		return p
	}
	here, there := process(), process() // as two processes have them
	becomes := func(p *Prices, want int64) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
			price, err := p.Price(ctx, "tea")
			if err == nil && price.Cents == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("tea is %v (%v), not %d", price, err, want)
			}
		}
	}

	for _, p := range []*Prices{here, there} {
		if _, err := p.Price(ctx, "tea"); !errors.Is(err, aside.ErrNotFound) {
			t.Fatalf("there is tea: %v", err)
		}
	}
	must(t, here.SetPrice(ctx, db.Price{ID: "tea", Cents: 350}))
	if price, err := here.Price(ctx, "tea"); err != nil || price.Cents != 350 {
		t.Errorf("who has changed it gets %v, %v", price, err)
	}
	becomes(there, 350) // its absence was cached, and an invalidation arrives a moment later

	// As if this process were killed between the commit and the deletion: a relay does it.
	relay := make(chan error, 1)
	running, stop := context.WithCancel(ctx)
	go func() { relay <- there.Run(running) }()
	tx, err := pool.BeginTx(ctx, nil)
	must(t, err)
	must(t, here.queries.WithTx(tx).SetPrice(ctx, db.SetPriceParams{ID: "tea", Cents: 450}))
	must(t, here.box.Del(ctx, tx, here.cache.Name("tea")))
	must(t, tx.Commit())
	becomes(here, 450)
	becomes(there, 450)
	stop()
	if err := <-relay; err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
