package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	_ "modernc.org/sqlite"

	"github.com/redaside/aside"
)

const (
	userCount  = 500
	orderCount = 250_000
)

// Profile is what the page of a user shows. It has no pointer, slice or map, so the cache keeps it decoded.
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

// database is a real one, embedded: SQLite in a temporary file. Its queries are slow as slow queries are: nobody made
// an index for them, so each reads all orders. Safe for concurrent use.
type database struct {
	db      *sql.DB
	dir     string
	queries atomic.Int64
}

func openDatabase() (*database, error) {
	dir, err := os.MkdirTemp("", "aside-quickstart-")
	if err != nil {
		return nil, err
	}
	db, err := sql.Open("sqlite", filepath.Join(dir, "shop.db"))
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	d := &database{db: db, dir: dir}
	_, err = db.Exec(fmt.Sprintf(`
		PRAGMA synchronous = OFF;
		CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, city TEXT);
		CREATE TABLE orders (id INTEGER PRIMARY KEY, user_id INTEGER, cents INTEGER);
		WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d)
			INSERT INTO users SELECT i, 'User ' || i, CASE i %% 3 WHEN 0 THEN 'Lisbon' WHEN 1 THEN 'Oslo' ELSE 'Quito' END FROM n;
		WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d)
			INSERT INTO orders SELECT i, 1 + i * 7919 %% %d, 100 + i * 31 %% 9900 FROM n;`, userCount, orderCount, userCount))
	if err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

func (d *database) close() error { return errors.Join(d.db.Close(), os.RemoveAll(d.dir)) }

const profileQuery = `
	SELECT u.id, u.name, u.city, COUNT(o.id), COALESCE(SUM(o.cents), 0)
	FROM users u LEFT JOIN orders o ON +o.user_id = u.id
	WHERE u.id IN (%s) GROUP BY u.id`

// profiles reads many profiles in one query; those that do not exist are missing in the answer.
func (d *database) profiles(ctx context.Context, ids []int) (found []Profile, err error) {
	d.queries.Add(1)
	marks := strings.TrimSuffix(strings.Repeat("?,", len(ids)), ",")
	args := make([]any, len(ids))
	for i, id := range ids {
		args[i] = id
	}
	rows, err := d.db.QueryContext(ctx, fmt.Sprintf(profileQuery, marks), args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var p Profile
		if err := rows.Scan(&p.ID, &p.Name, &p.City, &p.Orders, &p.Cents); err != nil {
			return nil, err
		}
		found = append(found, p)
	}
	return found, rows.Err()
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

func (d *database) move(ctx context.Context, id int, city string) error {
	_, err := d.db.ExecContext(ctx, "UPDATE users SET city = ? WHERE id = ?", city, id)
	return err
}
