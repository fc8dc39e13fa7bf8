package withgorm

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/glebarez/sqlite"
	"gorm.io/gorm"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asidesql"
	"github.com/redaside/aside/asidetest"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestPrices(t *testing.T) {
	ctx := t.Context()
	db, err := gorm.Open(sqlite.Open(filepath.Join(t.TempDir(), "db")+"?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)"), &gorm.Config{TranslateError: true})
	must(t, err)
	pool, err := db.DB()
	must(t, err)
	t.Cleanup(func() { must(t, pool.Close()) })
	must(t, db.AutoMigrate(&Price{}))
	must(t, db.Exec(asidesql.Schema(asidesql.SQLite)).Error)
	server := asidetest.NewServer(t)
	process := func() *Prices {
		p, err := New(db, server.Client(), asidesql.SQLite)
		must(t, err)
		t.Cleanup(func() { must(t, p.Close()) })
		return p
	}
	here, there := process(), process() // as two processes have them
	get := func(p *Prices) int {
		t.Helper()
		price, err := p.Price(ctx, "tea")
		must(t, err)
		return price.Cents
	}
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
	must(t, here.SetPrice(ctx, Price{"tea", 350}))
	if cents := get(here); cents != 350 {
		t.Errorf("who has changed it gets %d", cents)
	}
	becomes(there, 350) // its absence was cached, and an invalidation arrives a moment later

	// As if this process were killed between the commit and the deletion: a relay does it.
	relay := make(chan error, 1)
	running, stop := context.WithCancel(ctx)
	go func() { relay <- there.Run(running) }()
	must(t, db.Transaction(func(tx *gorm.DB) error {
		if err := tx.Save(&Price{"tea", 450}).Error; err != nil {
			return err
		}
		return here.box.Del(ctx, tx.Statement.ConnPool, key("tea"))
	}))
	becomes(here, 450)
	becomes(there, 450)
	stop()
	if err := <-relay; err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
