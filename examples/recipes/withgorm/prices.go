// Package withgorm is a repository on gorm, with a cache in front and an outbox in the transaction. The
// cache is told in the repository, and not by hooks of the model: a hook runs before the commit.
package withgorm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asidesql"
	"github.com/redaside/aside/codec"
)

// Price is a row, and what is cached.
type Price struct {
	ID    string `gorm:"primaryKey"`
	Cents int
}

// Prices is the repository: nobody else touches the table, or the keys. Safe for concurrent use.
type Prices struct {
	db    *gorm.DB
	box   *asidesql.Box
	cache *aside.TypedClient[Price]
}

const ttl = 10 * time.Minute

// New makes a repository on db, which speaks dialect.
func New(db *gorm.DB, client *aside.Client, dialect asidesql.Dialect) (*Prices, error) {
	pool, err := db.DB()
	if err != nil {
		return nil, err
	}
	box, err := asidesql.New(pool, client, asidesql.Options{Dialect: dialect})
	return &Prices{db: db, box: box, cache: aside.Typed(client, codec.JSON[Price](), aside.WithName("prices"))}, err
}

func key(id string) string { return "price:" + id }

// Price returns a price; the error wraps aside.ErrNotFound if there is none.
func (p *Prices) Price(ctx context.Context, id string) (Price, error) {
	return p.cache.Get(ctx, ttl, key(id), func(ctx context.Context, _ string) (price Price, err error) {
		err = p.db.WithContext(ctx).Take(&price, "id = ?", id).Error
		if errors.Is(err, gorm.ErrRecordNotFound) {
			return price, fmt.Errorf("the price of %s: %w", id, aside.ErrNotFound)
		}
		return price, err
	})
}

// SetPrice changes a price. The key goes into the outbox in the same transaction, and is deleted after
// the commit; if this process does not get so far, a relay does it.
func (p *Prices) SetPrice(ctx context.Context, price Price) error {
	var change *asidesql.Change
	err := p.db.WithContext(ctx).Transaction(func(tx *gorm.DB) error {
		if err := tx.Clauses(clause.OnConflict{UpdateAll: true}).Create(&price).Error; err != nil {
			return err
		}
		change = p.box.Within(tx.Statement.ConnPool) // which is the *sql.Tx
		return change.Del(ctx, key(price.ID))
	})
	if err != nil {
		return err // nothing is changed, and nothing to be deleted
	}
	_ = change.Committed(ctx) // the change is made; relays go on until the key is deleted
	return nil
}

// Run is the relay: it deletes what others have committed and not deleted, until ctx ends.
func (p *Prices) Run(ctx context.Context) error { return p.box.Run(ctx) }

// Close ends Run.
func (p *Prices) Close() error { return p.box.Close() }
