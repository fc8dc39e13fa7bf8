package main

import (
	"context"
	"fmt"
	"sync"

	"github.com/redaside/aside"
)

// database stands for a real one. Safe for concurrent use.
type database struct {
	mu   sync.Mutex
	rows map[string]Product // guarded by mu
}

func newDatabase() *database {
	return &database{rows: map[string]Product{"coffee": {Name: "Coffee", Cents: 420}}}
}

// Product implements Source.
func (d *database) Product(_ context.Context, id string) (Product, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p, ok := d.rows[id]
	if !ok {
		return Product{}, fmt.Errorf("product %q: %w", id, aside.ErrNotFound)
	}
	return p, nil
}

// SetProduct implements Source.
func (d *database) SetProduct(_ context.Context, id string, p Product) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rows[id] = p
	return nil
}
