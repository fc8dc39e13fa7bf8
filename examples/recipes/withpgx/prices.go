// Package withpgx is a repository on PostgreSQL through a pgxpool, with a cache in front and an outbox
// in the transaction: what is committed reaches the cache, also if the process is killed right after.
package withpgx

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asidesql"
	"github.com/redaside/aside/codec"
)

// Prices is the repository: nobody else touches the table, or the keys. Safe for concurrent use.
type Prices struct {
	pool  *pgxpool.Pool
	db    *sql.DB // over pool, for the outbox
	box   *asidesql.Box
	cache *aside.TypedClient[int]
}

const ttl = 10 * time.Minute

// New makes a repository. Have Run run in at least one process, and call Close in the end.
func New(pool *pgxpool.Pool, client *aside.Client) (*Prices, error) {
	p := &Prices{pool: pool, db: stdlib.OpenDBFromPool(pool), cache: aside.Typed(client, codec.JSON[int](), aside.WithName("prices"))}
	var err error
	p.box, err = asidesql.New(p.db, client, asidesql.Options{Dialect: asidesql.PostgreSQL, Listen: p.listen})
	return p, err
}

func key(id string) string { return "price:" + id }

// Price returns a price in cents; the error wraps aside.ErrNotFound if there is none.
func (p *Prices) Price(ctx context.Context, id string) (int, error) {
	return p.cache.Get(ctx, ttl, key(id), func(ctx context.Context, _ string) (cents int, err error) {
		err = p.pool.QueryRow(ctx, "SELECT cents FROM prices WHERE id = $1", id).Scan(&cents)
		if errors.Is(err, pgx.ErrNoRows) {
			return 0, fmt.Errorf("the price of %s: %w", id, aside.ErrNotFound)
		}
		return cents, err
	})
}

// SetPrice changes a price. The key goes into the outbox in the same transaction, and is deleted after
// the commit; if this process does not get so far, a relay does it.
func (p *Prices) SetPrice(ctx context.Context, id string, cents int) error {
	var change *asidesql.Change
	err := pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "INSERT INTO prices (id, cents) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET cents = $2", id, cents); err != nil {
			return err
		}
		change = p.box.Within(execer{tx})
		return change.Del(ctx, key(id))
	})
	if err != nil {
		return err // nothing is changed, and nothing to be deleted
	}
	_ = change.Committed(ctx) // the change is made; relays go on until the key is deleted
	return nil
}

// Discount changes many rows at once, and leaves the keys to a relay, which PostgreSQL wakes.
func (p *Prices) Discount(ctx context.Context, percent int) error {
	return pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, "UPDATE prices SET cents = cents * (100 - $1::int) / 100 RETURNING id", percent)
		if err != nil {
			return err
		}
		keys, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) {
			var id string
			err := row.Scan(&id)
			return key(id), err
		})
		if err != nil {
			return err
		}
		return p.box.Del(ctx, execer{tx}, keys...)
	})
}

// Run is the relay: it deletes what others have committed and not deleted, until ctx ends.
func (p *Prices) Run(ctx context.Context) error { return p.box.Run(ctx) }

// Close ends Run. The pool stays the caller's to close, after this.
func (p *Prices) Close() error { return errors.Join(p.box.Close(), p.db.Close()) }

// execer lets the outbox write in a transaction of pgx's own.
type execer struct{ tx pgx.Tx }

// ExecContext implements asidesql.Execer.
func (e execer) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	tag, err := e.tx.Exec(ctx, query, args...)
	return driver.RowsAffected(tag.RowsAffected()), err
}

// listen waits for notifications on a connection of the pool.
func (p *Prices) listen(ctx context.Context, channel string, wake func()) error {
	conn, err := p.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	// It listens: nobody else may get it.
	defer func() { _ = conn.Hijack().Close(context.WithoutCancel(ctx)) }()
	if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil {
		return err
	}
	for wake(); ; wake() {
		if _, err := conn.Conn().WaitForNotification(ctx); err != nil {
			return err
		}
	}
}
