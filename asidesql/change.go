package asidesql

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redaside/aside"
)

// Execer runs a statement in a transaction. *sql.Tx is one, *sql.Conn is one while it has begun a
// transaction, and the layers over database/sql have one. For a pgx.Tx, write
//
//	type pgxTx struct{ pgx.Tx }
//
//	func (tx pgxTx) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
//		tag, err := tx.Exec(ctx, query, args...)
//		return driver.RowsAffected(tag.RowsAffected()), err
//	}
//
// With *sql.DB, which is no transaction, the keys are deleted whatever becomes of the change.
type Execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// Del writes keys into the outbox, in the transaction tx. If that is committed, a relay deletes
// them, at least once; if it is rolled back, nothing happens. It asks Redis nothing.
//
// A key that is too long is an [aside.ErrTooLarge]: nothing was written, and the transaction can go
// on. Any other error is the database's, and the transaction should be rolled back. Keys may be any
// bytes, and may be written more than once.
func (b *Box) Del(ctx context.Context, tx Execer, keys ...string) error {
	_, err := b.write(ctx, tx, keys, 0, b.opt.Channel)
	return err
}

// Within collects the keys that the transaction tx changes. If it is committed, call Committed.
func (b *Box) Within(tx Execer) *Change { return &Change{box: b, tx: tx} }

// Change is what one transaction deletes from the cache. Like a transaction, it is not for
// concurrent use.
type Change struct {
	box  *Box
	tx   Execer
	ids  []string // of the rows that it has written
	keys []string // of these rows
}

// Del writes keys into the outbox, in the transaction of the Change, as [Box.Del] does. For
// [Options.Lease] relays leave them to Committed.
func (c *Change) Del(ctx context.Context, keys ...string) error {
	// Rows count even if an error follows: of several statements the first may have been done.
	ids, err := c.box.write(ctx, c.tx, keys, c.box.opt.Lease, "")
	for i := range ids {
		c.ids, c.keys = append(c.ids, ids[i]), append(c.keys, strings.Clone(keys[i]))
	}
	return err
}

// Committed deletes the keys of the Change at once, and then removes their rows. Call it after the
// transaction was committed, and not otherwise. Without it, or if this process ends before, a relay
// deletes them after [Options.Lease].
//
// The error is that of Client.Del, which says what it means. The change is committed all the same,
// and relays go on until Del returns nil; so a caller need do nothing. That the rows could not be
// removed is no error: a relay deletes the keys once more.
//
// The keys are deleted even if ctx has ended: only the removal of the rows obeys it.
func (c *Change) Committed(ctx context.Context) error {
	if len(c.keys) == 0 {
		return nil
	}
	ids, keys, b := c.ids, distinct(c.keys), c.box
	c.ids, c.keys = nil, nil
	asking, cancel := b.toAsk(ctx)
	defer cancel()
	began := time.Now()
	if err := b.cache.Del(asking, keys...); err != nil {
		b.count.retried.Add(int64(len(ids)))
		b.observe(Event{Kind: EventRetry, Keys: keys, Duration: time.Since(began), Err: err})
		return err
	}
	b.count.deleted.Add(int64(len(ids)))
	b.observe(Event{Kind: EventDeleted, Keys: keys, Duration: time.Since(began)})
	if b.unreachable() != nil {
		return nil // kept on this machine's disk only: a relay that reaches Redis takes the rows
	}
	for part := range slices.Chunk(ids, b.opt.Batch) {
		if err := b.remove(ctx, part); err != nil {
			b.databaseFailed("rows of deleted keys could not be removed, so the keys are deleted once more", err)
			break
		}
	}
	return nil
}

// Transact begins a transaction, calls fn, commits, and deletes the keys of the Change at once. If
// fn returns an error or panics, it rolls back and returns that error, or lets the panic go on. fn
// neither commits nor rolls back, and does not keep tx or change.
//
// If the error is nil, the transaction was committed. That Redis could not delete the keys now is
// no error: relays go on until they are deleted; Options.Observer and Stats tell. If COMMIT itself
// fails, and the connection is lost, it may have been done or not; if it was, relays delete the
// keys.
func (b *Box) Transact(ctx context.Context, opts *sql.TxOptions, fn func(tx *sql.Tx, change *Change) error) error {
	if fn == nil {
		return errors.New("asidesql: Transact needs a function, and it is nil")
	}
	tx, err := b.db.BeginTx(ctx, opts)
	if err != nil {
		return fmt.Errorf("asidesql: cannot begin a transaction: %w", err)
	}
	defer tx.Rollback() //nolint:errcheck // does nothing after Commit; otherwise an error is on its way already
	change := b.Within(tx)
	if err := fn(tx, change); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("asidesql: cannot commit: %w", err)
	}
	_ = change.Committed(ctx) // observed and counted there; relays go on
	return nil
}

// write writes the rows of keys, which are due after delay, and returns the ids of those that were
// written. It notifies channel unless that is "".
func (b *Box) write(ctx context.Context, tx Execer, keys []string, delay time.Duration, channel string) (ids []string, err error) {
	if tx == nil {
		return nil, errors.New("asidesql: Del needs a transaction, and it is nil")
	}
	for _, key := range keys {
		if len(key) > b.opt.MaxKeyBytes {
			return nil, fmt.Errorf("asidesql: %w: key %s is longer than Options.MaxKeyBytes (%d): shorten or hash it, or raise the limit here and in the Client; nothing was written", aside.ErrTooLarge, quoted(key), b.opt.MaxKeyBytes)
		}
	}
	for part := range slices.Chunk(keys, mostRows) {
		args := make([]any, 0, 2*len(part))
		first := len(ids)
		for _, key := range part {
			ids = append(ids, newID())
			args = append(args, ids[len(ids)-1], []byte(key))
		}
		if _, err := tx.ExecContext(ctx, b.opt.Dialect.insert(b.opt.Table, len(part), delay, channel), args...); err != nil {
			return ids[:first], fmt.Errorf("asidesql: cannot write %d keys into %s, roll back (Box.Check says whether the table is there): %w", len(part), b.opt.Table, err)
		}
		b.count.written.Add(int64(len(part)))
	}
	return ids, nil
}

// remove removes rows, by their ids.
func (b *Box) remove(ctx context.Context, ids []string) error {
	args := padded(ids)
	return b.exec(ctx, b.opt.Dialect.remove(b.opt.Table, len(args)), args)
}

// newID is the id of a row: 6 bytes of time, so that neighbours in the index are of about the same
// age, and 10 random ones. Nothing depends on its order.
func newID() string {
	var id [16]byte
	now := time.Now().UnixMilli()
	for i := range 6 {
		id[i] = byte(now >> (40 - 8*i))
	}
	_, _ = rand.Read(id[6:]) // never fails
	return hex.EncodeToString(id[:])
}

func distinct(keys []string) []string {
	keys = slices.Clone(keys)
	slices.Sort(keys)
	return slices.Compact(keys)
}

// quoted makes a key fit for an error or a log line: any bytes, and not endless.
func quoted(key string) string {
	const most = 64
	if len(key) > most {
		return fmt.Sprintf("%q… (%d bytes)", key[:most], len(key))
	}
	return fmt.Sprintf("%q", key)
}
