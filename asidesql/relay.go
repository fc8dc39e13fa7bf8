package asidesql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/redaside/aside"
)

// Run relays: it deletes the keys of due rows and removes these, until ctx ends or Close is called;
// then it finishes what it has in hand and returns nil. Run it in at least one process that lives
// as long as there are changes. It may run in several processes, and several times in one: relays
// share the work.
//
// It goes on while Redis or the database is away, also if that is so from the beginning. It returns
// an [ErrTable] if the outbox table cannot be used when it begins, [aside.ErrClosed] if the Client
// was closed, and [ErrClosed] if the Box was closed before.
func (b *Box) Run(ctx context.Context) error {
	ctx, leave, err := b.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	r := &relay{Box: b, wake: make(chan struct{}, 1), back: make(chan struct{}, 1)}
	if modes, ok := b.cache.(modeWatcher); ok {
		defer modes.OnModeChange(func(aside.ModeChange) { signal(r.back) })()
	}
	if err := r.awaitTable(ctx); err != nil {
		return err
	}
	if b.opt.Listen != nil {
		var listening sync.WaitGroup
		defer listening.Wait()
		ending, cancel := context.WithCancel(ctx)
		defer cancel()                            // before the Wait
		listening.Go(func() { r.listen(ending) }) // ends with Run
	}
	for ctx.Err() == nil {
		taken, err := r.pass(ctx)
		switch {
		case errors.Is(err, aside.ErrClosed):
			return fmt.Errorf("asidesql: the relay ends, the Client is closed: %w", err)
		case err != nil:
			r.sleep(ctx, b.pause(r.failures), r.back) // not r.wake: nothing would be different
			r.failures++
		case taken == b.opt.Batch:
			r.failures = 0 // there may be more
		default:
			r.failures = 0
			r.sleep(ctx, b.opt.Poll/10*9+rand.N(b.opt.Poll/5+1), r.wake)
		}
	}
	return nil
}

// relay is one Run.
type relay struct {
	*Box
	wake     chan struct{} // has a token if there may be due rows; immutable
	back     chan struct{} // has a token if Redis may be back; immutable
	failures int           // passes in a row for which Redis or the database was away; of Run's goroutine
}

// row is one that was taken.
type row struct {
	id, key  string
	attempts int // this one included
}

// pass takes due rows, once, and does what can be done. An error means that there is no point in
// going on at once: all of Redis, or the database, is away.
//
// While this process does not reach Redis at all, it leaves the rows to those that do; a Client
// with a FallbackDir would accept the keys, and be the only one that knows of them.
func (r *relay) pass(ctx context.Context) (taken int, err error) {
	if err := r.unreachable(); err != nil {
		if closed := r.cache.Del(ctx); errors.Is(closed, aside.ErrClosed) { // of no keys
			return 0, closed
		}
		r.warn(&r.seldomRetry, "Redis is away, the outbox waits", "table", r.opt.Table, "error", err)
		return 0, err
	}
	rows, err := r.take(ctx)
	if err != nil {
		if ctx.Err() == nil {
			r.databaseFailed("a relay cannot take rows", err)
		}
		return 0, err
	}
	if len(rows) == 0 {
		return 0, nil
	}
	// What was taken is done even if Run is to end: others would wait for the lease.
	began := time.Now()
	asking, cancel := r.toAsk(ctx)
	defer cancel()
	result := r.delete(asking, rows)
	took := time.Since(began)

	writing := context.WithoutCancel(ctx)
	var failed error
	note := func(what string, err error) {
		if err != nil {
			r.databaseFailed(what, err)
			failed = err
		}
	}
	if len(result.done) > 0 {
		r.count.relayed.Add(int64(len(result.done)))
		r.observe(Event{Kind: EventRelayed, Keys: keysOf(result.done), Duration: took})
		note("rows of deleted keys could not be removed, so the keys are deleted once more", r.remove(writing, idsOf(result.done)))
	}
	for _, f := range result.failed {
		delay := r.pause(f.row.attempts - 1)
		if f.parked {
			delay = never
			r.count.parked.Add(1)
			r.observe(Event{Kind: EventParked, Keys: []string{f.row.key}, Err: f.err})
			r.warn(&r.seldomParked, "the Client does not accept a key of the outbox, its row is parked", "key", quoted(f.row.key), "id", f.row.id, "table", r.opt.Table, "error", f.err)
		} else {
			r.count.retried.Add(1)
			r.observe(Event{Kind: EventRetry, Keys: []string{f.row.key}, Err: f.err})
			r.warn(&r.seldomRetry, "a key of the outbox cannot be deleted, it is tried again", "key", quoted(f.row.key), "after", delay.String(), "attempts", f.row.attempts, "error", f.err)
		}
		note("the error of a key could not be written", r.retry(writing, []row{f.row}, delay, f.err))
	}
	if len(result.away) > 0 {
		r.count.retried.Add(int64(len(result.away)))
		r.observe(Event{Kind: EventRetry, Keys: keysOf(result.away), Duration: took, Err: result.awayErr})
		r.warn(&r.seldomRetry, "Redis is away, keys of the outbox wait", "keys", len(result.away), "error", result.awayErr)
		// Each by its own attempts: with a part of a cluster away, others go on meanwhile.
		for delay, some := range byPause(r.Box, result.away) {
			note("the error of keys could not be written", r.retry(writing, some, delay, result.awayErr))
		}
		if !r.inPart() || errors.Is(result.awayErr, aside.ErrClosed) {
			return len(rows), result.awayErr
		}
	}
	return len(rows), failed
}

// result is what became of the rows of a pass.
type result struct {
	done    []row
	failed  []failure // by the key's own fault, or Redis refuses it
	away    []row     // no fault of theirs
	awayErr error
}

type failure struct {
	row    row
	err    error
	parked bool // no attempt can succeed
}

// byPause groups rows by the pause before they are tried again.
func byPause(b *Box, rows []row) map[time.Duration][]row {
	groups := make(map[time.Duration][]row)
	for _, one := range rows {
		delay := b.pause(one.attempts - 1)
		groups[delay] = append(groups[delay], one)
	}
	return groups
}

// mostAway is how many keys in a row may find Redis away before the others are not tried, unless
// only a part of it is.
const mostAway = 3

// delete deletes the keys of rows by one Del, and where that fails by one for each: the error does
// not say which keys it is about.
func (r *relay) delete(ctx context.Context, rows []row) (res result) {
	err := r.cache.Del(ctx, distinct(keysOf(rows))...)
	if err == nil {
		if err := r.unreachable(); err != nil {
			return result{away: rows, awayErr: err}
		}
		return result{done: rows}
	}
	inARow := 0
	for i, one := range rows {
		if len(rows) > 1 {
			err = r.cache.Del(ctx, one.key)
		}
		switch {
		case err == nil:
			res.done = append(res.done, one)
			inARow = 0
		case errors.Is(err, aside.ErrTooLarge) || errors.Is(err, aside.ErrInvalidArgument):
			res.failed = append(res.failed, failure{one, err, true})
		case isAway(err):
			res.away, res.awayErr = append(res.away, one), err
			if inARow++; inARow >= mostAway && !r.inPart() || errors.Is(err, aside.ErrClosed) || ctx.Err() != nil {
				res.away = append(res.away, rows[i+1:]...)
				return res
			}
		default:
			res.failed = append(res.failed, failure{one, err, false})
			inARow = 0
		}
	}
	return res
}

// modeWatcher is what else an aside.Client can do.
type modeWatcher interface {
	Health() aside.Health
	OnModeChange(f func(aside.ModeChange)) (remove func())
}

// unreachable is nil if the Client reaches Redis, or at least a shard of it, and if it does not
// tell.
func (b *Box) unreachable() error {
	modes, ok := b.cache.(modeWatcher)
	if !ok {
		return nil
	}
	health := modes.Health()
	if health.Mode != aside.Degraded {
		return nil
	}
	for _, shard := range health.Shards {
		if shard.Mode != aside.Degraded {
			return nil
		}
	}
	if health.Err == nil {
		return aside.ErrRedisAway
	}
	return fmt.Errorf("%w: %w", aside.ErrRedisAway, health.Err)
}

// inPart reports whether the Client reaches a part of Redis at least, such as the other nodes of a
// cluster of which one is down. false if it does not tell.
func (b *Box) inPart() bool {
	_, tells := b.cache.(modeWatcher)
	return tells && b.unreachable() == nil
}

// isAway reports whether a Del failed for a reason that is not its keys'.
func isAway(err error) bool {
	for _, away := range []error{
		aside.ErrRedisAway, aside.ErrUnknownOutcome, aside.ErrNotDurable, aside.ErrFull, aside.ErrDisk, aside.ErrClosed,
		context.Canceled, context.DeadlineExceeded,
	} {
		if errors.Is(err, away) {
			return true
		}
	}
	return false
}

// take takes due rows.
func (r *relay) take(ctx context.Context) ([]row, error) {
	ctx, cancel := context.WithTimeout(ctx, databaseTimeout)
	defer cancel()
	d, table := r.opt.Dialect, r.opt.Table
	query := d.take(table, r.opt.Batch, r.opt.Lease)
	switch d {
	case MySQL:
		return r.takeInTwo(ctx, query)
	case SQLite: // an UPDATE of nothing would lock out the writers of the whole database
		var one int
		switch err := r.db.QueryRowContext(ctx, d.due(table)).Scan(&one); {
		case errors.Is(err, sql.ErrNoRows):
			return nil, nil
		case err != nil:
			return nil, err
		}
	}
	rows, err := r.db.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	return scan(rows)
}

// takeInTwo takes rows where a statement cannot return what it updates.
func (r *relay) takeInTwo(ctx context.Context, query string) ([]row, error) {
	tx, err := r.db.BeginTx(ctx, withoutGaps)
	if err != nil {
		return nil, err
	}
	defer tx.Rollback() //nolint:errcheck // does nothing after Commit; otherwise an error is on its way already
	found, err := tx.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	rows, err := scan(found)
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	args := padded(idsOf(rows))
	if _, err := tx.ExecContext(ctx, r.opt.Dialect.lease(r.opt.Table, len(args), r.opt.Lease), args...); err != nil {
		return nil, err
	}
	return rows, tx.Commit()
}

func scan(found *sql.Rows) (rows []row, err error) {
	defer found.Close()
	for found.Next() {
		var one row
		var key []byte
		if err := found.Scan(&one.id, &key, &one.attempts); err != nil {
			return nil, err
		}
		one.key = string(key)
		rows = append(rows, one)
	}
	return rows, found.Err()
}

// retry makes rows due after delay, or never.
func (r *relay) retry(ctx context.Context, rows []row, delay time.Duration, why error) error {
	const most = 500
	text := strings.ReplaceAll(why.Error(), "\x00", "")
	args := append([]any{strings.ToValidUTF8(text[:min(len(text), most)], "")}, padded(idsOf(rows))...)
	return r.exec(ctx, r.opt.Dialect.retry(r.opt.Table, len(args)-1, delay), args)
}

// withoutGaps is for MySQL: with its default, InnoDB locks the gaps between the rows that a
// statement changes, and a transaction of the service that inserts there would be the victim of a
// deadlock.
var withoutGaps = &sql.TxOptions{Isolation: sql.LevelReadCommitted}

// exec runs a statement by itself.
func (b *Box) exec(ctx context.Context, query string, args []any) error {
	ctx, cancel := context.WithTimeout(ctx, databaseTimeout)
	defer cancel()
	if b.opt.Dialect != MySQL {
		_, err := b.db.ExecContext(ctx, query, args...)
		return err
	}
	tx, err := b.db.BeginTx(ctx, withoutGaps)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // does nothing after Commit; otherwise an error is on its way already
	if _, err := tx.ExecContext(ctx, query, args...); err != nil {
		return err
	}
	return tx.Commit()
}

// toAsk is the context of a Del. It does not end with ctx: what has been taken, or committed, is
// deleted. It is not shorter for a short Lease, or a slow Redis would never be waited for.
func (b *Box) toAsk(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), max(b.opt.Lease, leastToAsk))
}

// pause is how long to wait after so many failures before this one.
func (b *Box) pause(before int) time.Duration {
	return min(firstRetry<<min(max(before, 0), 16), b.opt.MaxRetry)
}

// sleep waits for d, until ctx ends, or until it is woken.
func (r *relay) sleep(ctx context.Context, d time.Duration, wake <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-wake:
	case <-ctx.Done():
	}
}

// awaitTable checks the table, as soon as the database answers. nil if ctx ends before.
func (r *relay) awaitTable(ctx context.Context) error {
	for failures := 0; ctx.Err() == nil; failures++ {
		checking, cancel := context.WithTimeout(ctx, databaseTimeout)
		err := r.Check(checking)
		cancel()
		if err == nil || errors.Is(err, ErrTable) {
			return err
		}
		if ctx.Err() == nil {
			r.databaseFailed("a relay cannot begin", err)
		}
		r.sleep(ctx, r.pause(failures), nil)
	}
	return nil
}

// listen has Options.Listen wake the relay, again and again until ctx ends.
func (r *relay) listen(ctx context.Context) {
	for failures := 0; ctx.Err() == nil; failures++ {
		began := time.Now()
		err := contained("Options.Listen", func() error {
			return r.opt.Listen(ctx, r.opt.Channel, func() { signal(r.wake) })
		})
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("asidesql: Options.Listen returned before its context ended")
		}
		r.warn(&r.seldomListen, "nothing listens for notifications, so the relay only polls", "error", err)
		if time.Since(began) > r.opt.MaxRetry {
			failures = 0
		}
		r.sleep(ctx, r.pause(failures), nil)
	}
}

// signal puts a token into c, which has room for one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it has one
	}
}

func keysOf(rows []row) []string {
	keys := make([]string, len(rows))
	for i := range rows {
		keys[i] = rows[i].key
	}
	return keys
}

func idsOf(rows []row) []string {
	ids := make([]string, len(rows))
	for i := range rows {
		ids[i] = rows[i].id
	}
	return ids
}
