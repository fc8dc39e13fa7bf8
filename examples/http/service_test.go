package main

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asidetest"
)

// flaky is a database that counts, and fails when told to.
type flaky struct {
	*database
	asked atomic.Int64
	down  atomic.Bool
}

func (f *flaky) Product(ctx context.Context, id string) (Product, error) {
	f.asked.Add(1)
	if f.down.Load() {
		return Product{}, errors.New("the database is down")
	}
	return f.database.Product(ctx, id)
}

var coffee = Product{Name: "Coffee", Cents: 420}

// expect reads a product as a request does.
func expect(t *testing.T, p *Products, id string, want Product) {
	t.Helper()
	if got, err := p.Product(t.Context(), id); got != want || err != nil {
		t.Errorf("%s is %v, %v, want %v", id, got, err, want)
	}
}

// Two clients of one server are two processes of the service.
func TestAChangeIsSeenByAllProcesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, source := asidetest.NewServer(t), &flaky{database: newDatabase()}
		here, there := newProducts(server.Client(), source), newProducts(server.Client(), source)
		for range 10 {
			expect(t, here, "coffee", coffee)
			expect(t, there, "coffee", coffee)
		}
		if n := source.asked.Load(); n != 1 {
			t.Errorf("the database was asked %d times", n)
		}
		dearer := Product{Name: "Coffee", Cents: 450}
		if err := here.SetProduct(t.Context(), "coffee", dearer); err != nil {
			t.Fatal(err)
		}
		expect(t, here, "coffee", dearer)
		synctest.Wait() // for the invalidation
		expect(t, there, "coffee", dearer)

		if _, err := here.Product(t.Context(), "tea"); !errors.Is(err, aside.ErrNotFound) {
			t.Errorf("there is tea: %v", err)
		}
		tea := Product{Name: "Tea", Cents: 350}
		if err := there.SetProduct(t.Context(), "tea", tea); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		expect(t, here, "tea", tea) // its absence was cached
	})
}

// The whole story: Redis goes away, a product is changed meanwhile, and the change arrives.
func TestTheServiceOutlivesRedis(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, source := asidetest.NewServer(t), &flaky{database: newDatabase()}
		client := server.Client()
		here, there := newProducts(client, source), newProducts(server.Client(), source)
		expect(t, here, "coffee", coffee)
		expect(t, there, "coffee", coffee)

		server.Down()
		time.Sleep(time.Second) // until they know
		if mode := client.Health().Mode; mode != aside.Degraded {
			t.Fatalf("the mode is %v", mode)
		}
		expect(t, here, "coffee", coffee) // from memory
		dearer := Product{Name: "Coffee", Cents: 450}
		if err := here.SetProduct(t.Context(), "coffee", dearer); err != nil {
			t.Fatal(err) // with a FallbackDir it is on disk
		}
		expect(t, here, "coffee", dearer)

		server.Up()
		time.Sleep(5 * time.Second) // until it is replayed
		if kept := server.Records(); len(kept) > 0 {
			t.Errorf("still kept: %v", kept)
		}
		expect(t, there, "coffee", dearer)
	})
}

// Within its grace an old product is served while the database is down, and nobody gets its error.
func TestTheServiceOutlivesItsDatabase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &flaky{database: newDatabase()}
		here := newProducts(asidetest.New(t), source)
		expect(t, here, "coffee", coffee)
		source.down.Store(true)
		for range 30 {
			time.Sleep(time.Minute)
			expect(t, here, "coffee", coffee)
		}
		if _, err := here.Product(t.Context(), "tea"); err == nil || errors.Is(err, aside.ErrNotFound) {
			t.Errorf("nobody knows whether there is tea: %v", err)
		}
		time.Sleep(time.Hour)
		source.down.Store(false)
		expect(t, here, "coffee", coffee)
	})
}

// What an outage of Redis would ask of the database, tried out while Redis is well.
func TestADrill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &flaky{database: newDatabase()}
		client := asidetest.New(t)
		here := newProducts(client, source)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		reported := make(chan aside.DrillReport)
		go func() {
			report, err := client.Drill(ctx, aside.DrillRedisDown, 1)
			if err != nil {
				t.Error(err)
			}
			reported <- report
		}()
		synctest.Wait()
		expect(t, here, "coffee", coffee)
		if report := <-reported; report.Loads != 1 || report.Errors != 0 {
			t.Errorf("the drill: %+v", report)
		}
	})
}
