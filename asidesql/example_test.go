package asidesql_test

import (
	"context"
	"database/sql"
	"log"
	"time"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asidesql"
)

var (
	ctx    = context.Background()
	db     *sql.DB       // your database
	client *aside.Client // your cache
	box    *asidesql.Box
)

// The outbox of a service. The table is made by your migrations, from asidesql.Schema.
func ExampleNew() {
	box, err := asidesql.New(db, client, asidesql.Options{Dialect: asidesql.PostgreSQL})
	if err != nil {
		log.Fatal(err) // the options are wrong; an absent database is no error
	}
	relays := make(chan error, 1)
	go func() { relays <- box.Run(ctx) }() // ends with ctx, or with Close

	// … serve …

	_ = box.Close() // before client.Close and db.Close
	if err := <-relays; err != nil {
		log.Print(err)
	}
}

func ExampleBox_Transact() {
	err := box.Transact(ctx, nil, func(tx *sql.Tx, change *asidesql.Change) error {
		if _, err := tx.ExecContext(ctx, "UPDATE prices SET cents = $1 WHERE id = $2", 995, "42"); err != nil {
			return err
		}
		return change.Del(ctx, "price:42")
	})
	if err != nil {
		log.Print(err) // nothing has changed
	}
}

// A transaction that is begun and committed elsewhere, by your own helper or by a layer over
// database/sql.
func ExampleBox_Within() {
	remove := func(ctx context.Context, id string) error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }() // does nothing after Commit
		change := box.Within(tx)
		if _, err := tx.ExecContext(ctx, "DELETE FROM prices WHERE id = $1", id); err != nil {
			return err
		}
		if err := change.Del(ctx, "price:"+id); err != nil {
			return err
		}
		if err := tx.Commit(); err != nil {
			return err
		}
		_ = change.Committed(ctx) // relays go on until it is deleted
		return nil
	}
	if err := remove(ctx, "42"); err != nil {
		log.Print(err)
	}
}

// A batch job that need not delete keys itself: a relay does, somewhere.
func ExampleBox_Del() {
	double := func(ctx context.Context, tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, "UPDATE prices SET cents = cents * 2"); err != nil {
			return err
		}
		return box.Del(ctx, tx, "price:41", "price:42", "price:43")
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	if err := double(ctx, tx); err != nil {
		log.Fatal(err, tx.Rollback())
	}
	if err := tx.Commit(); err != nil {
		log.Fatal(err)
	}
}

// What to alert on.
func ExampleBox_Backlog() {
	backlog, err := box.Backlog(ctx)
	if err != nil {
		log.Fatal(err)
	}
	if backlog.Parked > 0 {
		log.Printf("%d keys are not accepted by the client; see last_error in aside_outbox", backlog.Parked)
	}
	if backlog.Oldest > time.Minute {
		log.Printf("%d keys wait, the oldest for %v", backlog.Waiting, backlog.Oldest)
	}
}
