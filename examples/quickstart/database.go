package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"

	bolt "go.etcd.io/bbolt"

	"github.com/redaside/aside"
)

const (
	userCount  = 2_000
	orderCount = 1_000_000
)

// Profile is what the page of a user shows. It has no pointer, slice or map, so the cache keeps it
// decoded.
type Profile struct {
	ID     int    `json:"id"`
	Name   string `json:"name"`
	City   string `json:"city"`
	Orders int    `json:"orders"`
	Cents  int64  `json:"cents"`
}

func (p Profile) String() string {
	return fmt.Sprintf("%s, %s, %d orders", p.Name, p.City, p.Orders)
}

// database is a real one, embedded: bbolt, in a temporary file. It was chosen because it is built
// in seconds. Its queries are slow as slow queries are: nobody made an index for them, so each
// reads all orders. Safe for concurrent use.
type database struct {
	bolt    *bolt.DB
	dir     string
	queries atomic.Int64
}

// The tables. Keys are ids, big endian, so that they are in order.
var (
	users  = []byte("users")  // id → user as JSON
	orders = []byte("orders") // id → id of the user, cents
)

type user struct{ Name, City string }

func openDatabase() (*database, error) {
	dir, err := os.MkdirTemp("", "aside-quickstart-")
	if err != nil {
		return nil, err
	}
	// NoSync: it is thrown away afterwards.
	db, err := bolt.Open(filepath.Join(dir, "shop.db"), 0o600, &bolt.Options{NoSync: true})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	d := &database{bolt: db, dir: dir}
	if err := db.Update(fill); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

func fill(tx *bolt.Tx) error {
	people, err := tx.CreateBucket(users)
	if err != nil {
		return err
	}
	for id := 1; id <= userCount; id++ {
		if err := putUser(people, id, user{fmt.Sprintf("User %d", id), [...]string{"Lisbon", "Oslo", "Quito"}[id%3]}); err != nil {
			return err
		}
	}
	bought, err := tx.CreateBucket(orders)
	if err != nil {
		return err
	}
	bought.FillPercent = 1 // they come in order
	for id := 1; id <= orderCount; id++ {
		order := binary.BigEndian.AppendUint32(nil, uint32(1+id*7919%userCount))
		order = binary.BigEndian.AppendUint32(order, uint32(100+id*31%9900))
		if err := bought.Put(rowKey(id), order); err != nil {
			return err
		}
	}
	return nil
}

func rowKey(id int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(id)) }

func putUser(people *bolt.Bucket, id int, u user) error {
	stored, err := json.Marshal(u)
	if err != nil {
		return err
	}
	return people.Put(rowKey(id), stored)
}

func (d *database) close() error { return errors.Join(d.bolt.Close(), os.RemoveAll(d.dir)) }

// profiles reads many profiles in one query; those that do not exist are missing in the answer.
func (d *database) profiles(ctx context.Context, ids []int) (found []Profile, err error) {
	d.queries.Add(1)
	err = d.bolt.View(func(tx *bolt.Tx) error {
		byID := make(map[uint32]*Profile, len(ids))
		for _, id := range ids {
			stored := tx.Bucket(users).Get(rowKey(id))
			if stored == nil {
				continue
			}
			var u user
			if err := json.Unmarshal(stored, &u); err != nil {
				return err
			}
			byID[uint32(id)] = &Profile{ID: id, Name: u.Name, City: u.City}
		}
		all := tx.Bucket(orders).Cursor()
		for id, order := all.First(); id != nil; id, order = all.Next() {
			if p := byID[binary.BigEndian.Uint32(order)]; p != nil {
				p.Orders++
				p.Cents += int64(binary.BigEndian.Uint32(order[4:]))
			}
		}
		for _, p := range byID {
			found = append(found, *p)
		}
		return ctx.Err()
	})
	return found, err
}

// profile reads one. ErrNotFound is how a loader says that there is none.
func (d *database) profile(ctx context.Context, id int) (Profile, error) {
	found, err := d.profiles(ctx, []int{id})
	switch {
	case err != nil:
		return Profile{}, err
	case len(found) == 0:
		return Profile{}, fmt.Errorf("user %d: %w", id, aside.ErrNotFound)
	}
	return found[0], nil
}

// move changes where a user lives, in a transaction of its own.
func (d *database) move(id int, city string) error {
	return d.bolt.Update(func(tx *bolt.Tx) error {
		people := tx.Bucket(users)
		var u user
		if err := json.Unmarshal(people.Get(rowKey(id)), &u); err != nil {
			return err
		}
		u.City = city
		return putUser(people, id, u)
	})
}
