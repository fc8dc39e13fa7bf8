package transactions

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/redis/rueidis"
	bolt "go.etcd.io/bbolt"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/internal/redistest"
)

// shop is a database with a cache in front of it.
type shop struct {
	t      *testing.T
	db     *bolt.DB
	prices *aside.TypedClient[string]
}

const (
	ttl = time.Minute
	key = "price:tea"
)

var bucket = []byte("prices")

func newShop(t *testing.T, price string) *shop {
	t.Helper()
	redis := redistest.Start(t)
	client, err := aside.New(aside.Options{Redis: rueidis.ClientOption{InitAddress: []string{redis.Addr()}}, RequireRedis: true, ConnectTimeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(filepath.Join(t.TempDir(), "shop.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(client.Close(), db.Close()); err != nil {
			t.Error(err)
		}
	})
	s := &shop{t: t, db: db, prices: aside.Typed(client, codec.String())}
	s.must(db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucket(bucket)
		return err
	}))
	if price != "" {
		s.must(db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucket).Put([]byte(key), []byte(price)) }))
	}
	return s
}

func (s *shop) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// read loads a price in the transaction that it is given.
func read(tx *bolt.Tx) (string, error) {
	price := tx.Bucket(bucket).Get([]byte(key))
	if price == nil {
		return "", fmt.Errorf("%s: %w", key, aside.ErrNotFound)
	}
	return string(price), nil
}

// load is the right loader: it reads what is committed, in a transaction of its own.
func (s *shop) load(context.Context, string) (price string, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		price, err = read(tx)
		return err
	})
	return price, err
}

// get is what a page of the shop shows: a price, or "none".
func (s *shop) get(load aside.Loader[string]) string {
	s.t.Helper()
	price, err := s.prices.Get(s.t.Context(), ttl, key, load)
	if errors.Is(err, aside.ErrNotFound) {
		return "none"
	}
	s.must(err)
	return price
}

// begin starts a transaction that sets the price, and has not committed it.
func (s *shop) begin(price string) *bolt.Tx {
	s.t.Helper()
	tx, err := s.db.Begin(true)
	s.must(err)
	s.must(tx.Bucket(bucket).Put([]byte(key), []byte(price)))
	return tx
}

func (s *shop) del() {
	s.t.Helper()
	s.must(s.prices.Del(s.t.Context(), key))
}

func (s *shop) expect(want, why string) {
	s.t.Helper()
	if got := s.get(s.load); got != want {
		s.t.Errorf("the shop shows %q instead of %q: %s", got, want, why)
	}
}
