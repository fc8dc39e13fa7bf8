// Package withsqlc is a repository on code that sqlc has generated, with a cache in front and an outbox
// in the transaction. The row that sqlc makes is what is cached.
package withsqlc

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asidesql"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/examples/recipes/withsqlc/db"
)

// Prices is the repository: nobody else touches the table, or the keys. Safe for concurrent use.
type Prices struct {
	pool    *sql.DB
	queries *db.Queries
	box     *asidesql.Box
	cache   *aside.Keyed[string, db.Price]
}

const ttl = 10 * time.Minute

// New makes a repository on pool, which speaks dialect.
func New(pool *sql.DB, client *aside.Client, dialect asidesql.Dialect) (*Prices, error) {
	box, err := asidesql.New(pool, client, asidesql.Options{Dialect: dialect})
	view := aside.Typed(client, codec.JSON[db.Price](), aside.WithName("prices"))
	return &Prices{pool, db.New(pool), box, aside.NewKeyed(view, func(id string) string { return "price:" + id })}, err
}

// Price returns a price; the error wraps aside.ErrNotFound if there is none.
func (p *Prices) Price(ctx context.Context, id string) (db.Price, error) {
	return p.cache.Get(ctx, ttl, id, func(ctx context.Context, id string) (db.Price, error) {
		price, err := p.queries.Price(ctx, id)
		if errors.Is(err, sql.ErrNoRows) {
			return price, fmt.Errorf("the price of %s: %w", id, aside.ErrNotFound)
		}
		return price, err
	})
}

// SetPrice changes a price. The key goes into the outbox in the same transaction, and is deleted after
// the commit; if this process does not get so far, a relay does it.
func (p *Prices) SetPrice(ctx context.Context, price db.Price) error {
	tx, err := p.pool.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // nothing is left of it after a commit
	if err := p.queries.WithTx(tx).SetPrice(ctx, db.SetPriceParams(price)); err != nil {
		return err
	}
	change := p.box.Within(tx)
	if err := change.Del(ctx, p.cache.Name(price.ID)); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	_ = change.Committed(ctx) // the change is made; relays go on until the key is deleted
	return nil
}

// Run is the relay: it deletes what others have committed and not deleted, until ctx ends.
func (p *Prices) Run(ctx context.Context) error { return p.box.Run(ctx) }

// Close ends Run.
func (p *Prices) Close() error { return p.box.Close() }
