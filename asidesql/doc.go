// Package asidesql makes the invalidation of a cache part of a database transaction.
//
// A process that dies between COMMIT and Del leaves the old value in the cache until its ttl. With
// an outbox it does not: the keys to delete are written into a table in the transaction that makes
// the change, and a relay deletes them from the cache, at least once, whoever has died meanwhile.
//
//	box, err := asidesql.New(db, client, asidesql.Options{Dialect: asidesql.PostgreSQL})
//	go box.Run(ctx) // the relay, in at least one process
//
//	err = box.Transact(ctx, nil, func(tx *sql.Tx, change *asidesql.Change) error {
//		if _, err := tx.ExecContext(ctx, "UPDATE prices SET cents = $1 WHERE id = $2", cents, id); err != nil {
//			return err
//		}
//		return change.Del(ctx, "price:"+id)
//	})
//
// # Three ways to write a key
//
//   - [Box.Transact] begins a transaction, commits it, and then deletes the keys itself. Relays see
//     the keys only if this process does not get so far.
//   - [Box.Within] does the same in a transaction that is made elsewhere: after the commit, call
//     [Change.Committed].
//   - [Box.Del] only writes the keys. A relay deletes them: at once if it listens (Options.Listen),
//     else when it polls next.
//
// # What is promised
//
// A key whose transaction was committed is deleted by Client.Del, once or more often. Its row is
// removed only after Del has returned nil: Redis has deleted the key, or the deletion is durably
// kept in Options.FallbackDir of that process's Client. A key whose transaction was rolled back has
// no row. No row is skipped, however late its transaction commits: relays look for rows that are
// there, not for rows after the last one that they have seen.
//
// While a relay's Client does not reach Redis at all, it leaves the rows to other relays; they stay
// until Redis is back. While the database is away, relays wait for it. A key that Redis refuses
// (NOPERM, for example) is tried again, for ever, and does not delay others. A key that the Client
// does not accept at all ([aside.ErrTooLarge]) is parked: its row stays, with the error, and no
// relay takes it any more; see [Box.Backlog].
//
// # How a relay takes rows
//
// A row has a time before which it is not due. A relay takes due rows by moving that time ahead by
// Options.Lease, in one short transaction, deletes the keys, and removes the rows. If it dies in
// between, the rows are due again when the lease is over. Several relays share the work: rows that
// another one is taking are passed over (SKIP LOCKED), not waited for. No transaction is open while
// Redis is asked. The row of a Change begins with a lease for the process that writes it.
//
// Times are those of the database's clock.
package asidesql
