package main

import (
	"context"
	"fmt"
	"time"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
)

// Product is what the shop sells.
type Product struct {
	Name  string `json:"name"`
	Cents int    `json:"cents"`
}

// Source is where products live. A test passes its own.
type Source interface {
	// Product returns an error that wraps aside.ErrNotFound if there is none.
	Product(ctx context.Context, id string) (Product, error)
	SetProduct(ctx context.Context, id string, p Product) error
}

// Products is the repository: all that the rest of the service knows of products. Nobody else touches
// the source, or the keys.
type Products struct {
	source Source
	cache  *aside.TypedClient[Product]
}

const (
	freshFor = 5 * time.Minute // a change reaches the cache anyway: this is for those who forget to tell it
	grace    = time.Hour       // if the database is slow or down, an old product is better than none
)

// newProducts takes the client and does not make it, so that a test may pass another one.
func newProducts(client *aside.Client, source Source) *Products {
	return &Products{source: source, cache: aside.Typed(client, codec.JSON[Product](),
		aside.WithName("products"),             // in metrics and traces
		aside.WithGrace(grace),                 // serve stale while one process refreshes
		aside.WithJitter(0.1),                  // what is loaded together does not expire together
		aside.WithLoadTimeout(2*time.Second),   // no caller waits for the database for longer
		aside.WithMaxLoads(20),                 // as many connections as the database has for us
		aside.WithNegativeTTL(10*time.Second))} // "there is none" is cached, too
}

// key is the one place that knows what keys look like. Whatever the value depends on is in it.
func key(id string) string { return "product:" + id }

// Product returns a product; the error wraps aside.ErrNotFound if there is none.
func (p *Products) Product(ctx context.Context, id string) (Product, error) {
	return p.cache.Get(ctx, freshFor, key(id), func(ctx context.Context, _ string) (Product, error) {
		return p.source.Product(ctx, id) // by the ctx of the loader, which outlives a caller that leaves
	})
}

// SetProduct changes the source first, and then tells the cache. The key is deleted rather than set: of
// two changes at once the later Del finds whatever the database has in the end.
func (p *Products) SetProduct(ctx context.Context, id string, product Product) error {
	if err := p.source.SetProduct(ctx, id, product); err != nil {
		return err
	}
	// From here on the change is made, so the caller's leaving must not keep the cache from learning
	// of it. While Redis is away, nil means that the deletion is on disk.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := p.cache.Del(ctx, key(id)); err != nil {
		return fmt.Errorf("product %s is changed, but may be served as it was for %v: %w", id, freshFor, err)
	}
	return nil
}
