package dbtest

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asidesql"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/harness"
	"github.com/redaside/aside/internal/redistest"
)

var eventually = harness.Eventually

// newBox makes a Box whose relays are quick, and closes it when the test ends.
func newBox(t testing.TB, db database, client asidesql.Deleter, change ...func(*asidesql.Options)) *asidesql.Box {
	t.Helper()
	options := asidesql.Options{Dialect: db.dialect, Poll: 10 * time.Millisecond, MaxRetry: 250 * time.Millisecond, Lease: time.Hour, Logger: harness.Quiet}
	for _, c := range change {
		c(&options)
	}
	box, err := asidesql.New(db.DB, client, options)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, box.Close()) })
	return box
}

// relay runs a relay until the test ends.
func relay(t testing.TB, box *asidesql.Box) {
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- box.Run(context.Background()) }() // ends with Close
	t.Cleanup(func() {
		require.NoError(t, box.Close())
		require.NoError(t, <-ended)
	})
}

// commit runs fn in a transaction.
func commit(t testing.TB, db database, fn func(tx *sql.Tx)) {
	t.Helper()
	tx, err := db.BeginTx(harness.Context(t), nil)
	require.NoError(t, err)
	defer func() { _ = tx.Rollback() }()
	fn(tx)
	require.NoError(t, tx.Commit())
}

// recorder is a Deleter that counts, and fails where fail says so.
type recorder struct {
	fail func(key string) error

	mu      sync.Mutex
	deleted map[string]int // guarded by mu
}

func (r *recorder) Del(_ context.Context, keys ...string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, key := range keys {
		if r.fail != nil {
			if err := r.fail(key); err != nil {
				return err
			}
		}
	}
	if r.deleted == nil {
		r.deleted = make(map[string]int)
	}
	for _, key := range keys {
		r.deleted[key]++
	}
	return nil
}

func (r *recorder) times(key string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.deleted[key]
}

func (r *recorder) keys() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.deleted)
}

func TestAChangeIsDeletedWhenItIsCommitted(t *testing.T) {
	eachDatabase(t, func(t *testing.T, db database) {
		redis := redistest.Start(t)
		client := harness.NewClient(t, redis.Addr())
		ctx := harness.Context(t)
		box := newBox(t, db, client) // no relay runs
		require.NoError(t, client.Set(ctx, time.Minute, "price:1", "old"))
		require.NoError(t, client.Set(ctx, time.Minute, "price:2", "old"))

		err := box.Transact(ctx, nil, func(tx *sql.Tx, change *asidesql.Change) error {
			_, err := tx.ExecContext(ctx, "INSERT INTO prices (id, cents) VALUES ('1', 100)")
			require.NoError(t, err)
			return change.Del(ctx, "price:1", "price:2", "price:1")
		})
		require.NoError(t, err)
		require.Zero(t, redis.Do("EXISTS", "price:1", "price:2"))
		require.Zero(t, db.count(t))
		require.Equal(t, asidesql.Stats{Written: 3, Deleted: 3}, box.Stats())
	})
}

func TestWhatIsRolledBackIsNotDeleted(t *testing.T) {
	eachDatabase(t, func(t *testing.T, db database) {
		ctx := harness.Context(t)
		cache := new(recorder)
		box := newBox(t, db, cache)
		relay(t, box)
		errNo := errors.New("no")
		err := box.Transact(ctx, nil, func(_ *sql.Tx, change *asidesql.Change) error {
			require.NoError(t, change.Del(ctx, "a"))
			return errNo
		})
		require.ErrorIs(t, err, errNo)
		require.PanicsWithValue(t, "in fn", func() {
			_ = box.Transact(ctx, nil, func(_ *sql.Tx, change *asidesql.Change) error {
				require.NoError(t, change.Del(ctx, "b"))
				panic("in fn")
			})
		})
		tx, err := db.BeginTx(ctx, nil)
		require.NoError(t, err)
		require.NoError(t, box.Del(ctx, tx, "c"))
		require.NoError(t, tx.Rollback())

		commit(t, db, func(tx *sql.Tx) { require.NoError(t, box.Del(ctx, tx, "d")) })
		eventually(t, "d is deleted", func() bool { return cache.times("d") > 0 })
		require.Equal(t, 1, cache.keys())
		eventually(t, "the table is empty", func() bool { return db.count(t) == 0 })
	})
}

func TestARelayDeletesAnyKeys(t *testing.T) {
	eachDatabase(t, func(t *testing.T, db database) {
		redis := redistest.Start(t)
		client := harness.NewClient(t, redis.Addr())
		ctx := harness.Context(t)
		box := newBox(t, db, client)
		keys := []string{"", "\x00\xff\xfe", "it's; -- %s ? $1", strings.Repeat("k", 1024)}
		for i := range 250 { // more than one INSERT has, and than one batch
			keys = append(keys, fmt.Sprint("key:", i))
		}
		for _, key := range keys {
			require.NoError(t, client.Set(ctx, time.Minute, key, "old"))
		}
		commit(t, db, func(tx *sql.Tx) { require.NoError(t, box.Del(ctx, tx, keys...)) })
		backlog, err := box.Backlog(ctx)
		require.NoError(t, err)
		require.EqualValues(t, len(keys), backlog.Waiting)
		require.Zero(t, backlog.Parked)

		relay(t, box)
		eventually(t, "the table is empty", func() bool { return db.count(t) == 0 })
		for _, key := range keys {
			require.Zero(t, redis.Do("EXISTS", key), "%q", key)
		}
		require.EqualValues(t, len(keys), box.Stats().Relayed)
		backlog, err = box.Backlog(ctx)
		require.NoError(t, err)
		require.Equal(t, asidesql.Backlog{}, backlog)
	})
}

func TestARowThatIsCommittedLateIsNotSkipped(t *testing.T) {
	// SQLite has one writer at a time, so that none is late.
	for _, open := range []func(testing.TB) database{openPostgreSQL, openMariaDB} {
		db := open(t)
		t.Run(db.dialect.String(), func(t *testing.T) {
			ctx := harness.Context(t)
			cache := new(recorder)
			box := newBox(t, db, cache)
			relay(t, box)
			late, err := db.BeginTx(ctx, nil)
			require.NoError(t, err)
			defer func() { _ = late.Rollback() }()
			require.NoError(t, box.Del(ctx, late, "late"))
			for i := range 20 {
				key := fmt.Sprint("early:", i)
				commit(t, db, func(tx *sql.Tx) { require.NoError(t, box.Del(ctx, tx, key)) })
				eventually(t, "a row that was written later is relayed", func() bool { return cache.times(key) > 0 })
			}
			eventually(t, "they are gone", func() bool { return db.count(t) == 0 })
			require.Zero(t, cache.times("late"))
			require.NoError(t, late.Commit())
			eventually(t, "the late row is relayed", func() bool { return cache.times("late") > 0 })
			eventually(t, "the table is empty", func() bool { return db.count(t) == 0 })
		})
	}
}

func TestRelaysShareTheWork(t *testing.T) {
	eachDatabase(t, func(t *testing.T, db database) {
		ctx := harness.Context(t)
		cache := new(recorder)
		boxes := make([]*asidesql.Box, 3)
		for i := range boxes {
			boxes[i] = newBox(t, db, cache, func(o *asidesql.Options) { o.Batch = 7 })
			relay(t, boxes[i])
		}
		const n = 300
		for i := range n / 3 {
			commit(t, db, func(tx *sql.Tx) {
				require.NoError(t, boxes[0].Del(ctx, tx, fmt.Sprint(3*i), fmt.Sprint(3*i+1), fmt.Sprint(3*i+2)))
			})
		}
		eventually(t, "all are deleted", func() bool { return cache.keys() == n })
		eventually(t, "the table is empty", func() bool { return db.count(t) == 0 })
		for i := range n { // no lease has ended, so nobody has taken what another has
			require.Equal(t, 1, cache.times(fmt.Sprint(i)))
		}
	})
}

func TestARelayTakesWhatItsWriterHasNotDone(t *testing.T) {
	eachDatabase(t, func(t *testing.T, db database) {
		ctx := harness.Context(t)
		cache := new(recorder)
		long := newBox(t, db, cache)
		short := newBox(t, db, cache, func(o *asidesql.Options) { o.Lease = 100 * time.Millisecond })
		relay(t, long)
		write := func(box *asidesql.Box, key string) {
			commit(t, db, func(tx *sql.Tx) { require.NoError(t, box.Within(tx).Del(ctx, key)) })
		}
		write(long, "leased")
		write(short, "abandoned")
		eventually(t, "the lease ends", func() bool { return cache.times("abandoned") == 1 })
		require.Zero(t, cache.times("leased"))
	})
}

func TestWhileRedisIsAwayRowsStay(t *testing.T) {
	for name, dir := range map[string]bool{"without a FallbackDir": false, "with a FallbackDir": true} {
		t.Run(name, func(t *testing.T) {
			db := openSQLite(t)
			redis := redistest.Start(t)
			client := harness.NewClient(t, redis.Addr(), harness.Hasty, func(o *aside.Options) {
				if dir {
					o.FallbackDir = t.TempDir()
				}
			})
			ctx := harness.Context(t)
			var retries atomic.Int64
			box := newBox(t, db, client, func(o *asidesql.Options) {
				o.Observer = func(e asidesql.Event) {
					if e.Kind == asidesql.EventRetry {
						retries.Add(1)
					}
				}
			})
			require.NoError(t, client.Set(ctx, time.Minute, "a", "old"))
			require.NoError(t, client.Set(ctx, time.Minute, "b", "old"))
			redis.Kill()
			eventually(t, "the client notices", func() bool { return client.Health().Mode == aside.Degraded })
			relay(t, box)
			commit(t, db, func(tx *sql.Tx) { require.NoError(t, box.Del(ctx, tx, "a")) })
			require.NoError(t, box.Transact(ctx, nil, func(_ *sql.Tx, change *asidesql.Change) error { return change.Del(ctx, "b") }))
			if !dir {
				require.EqualValues(t, 1, retries.Load()) // of the change; relays leave it alone
			}
			require.Equal(t, 2, db.count(t))
			_, err := db.ExecContext(ctx, "UPDATE aside_outbox SET due_at = 0") // the lease ends
			require.NoError(t, err)

			redis.RestartKeepingData()
			eventually(t, "the table is empty", func() bool { return db.count(t) == 0 })
			require.Zero(t, redis.Do("EXISTS", "a", "b"))
		})
	}
}

func TestARowStaysUntilItsKeyIsAcknowledged(t *testing.T) {
	eachDatabase(t, func(t *testing.T, db database) {
		ctx := harness.Context(t)
		for _, failure := range []error{aside.ErrNotDurable, aside.ErrUnknownOutcome, aside.ErrFull, aside.ErrDisk, aside.ErrRedisAway, errors.New("NOPERM no permission")} {
			var fail, asked atomic.Bool
			fail.Store(true)
			cache := &recorder{fail: func(string) error {
				if fail.Load() {
					asked.Store(true)
					return failure
				}
				return nil
			}}
			box := newBox(t, db, cache)
			relay(t, box)
			commit(t, db, func(tx *sql.Tx) { require.NoError(t, box.Del(ctx, tx, "a", "b", "c", "d", "e")) })
			eventually(t, "it is tried again", func() bool { return asked.Load() && box.Stats().Retried >= 10 })
			require.Equal(t, 5, db.count(t), "%v", failure)
			var said sql.NullString
			require.NoError(t, db.QueryRowContext(ctx, "SELECT MAX(last_error) FROM aside_outbox").Scan(&said))
			require.Contains(t, said.String, failure.Error())
			fail.Store(false)
			eventually(t, "the table is empty", func() bool { return db.count(t) == 0 })
			require.Equal(t, 5, cache.keys())
			require.NoError(t, box.Close())
		}
	})
}

func TestAKeyThatCannotBeDeletedDelaysNoOthers(t *testing.T) {
	eachDatabase(t, func(t *testing.T, db database) {
		redis := redistest.Start(t)
		client := harness.NewClient(t, redis.Addr())
		ctx := harness.Context(t)
		long := strings.Repeat("k", 2000)
		narrow := newBox(t, db, client)
		tx, err := db.BeginTx(ctx, nil)
		require.NoError(t, err)
		err = narrow.Del(ctx, tx, "fine", long)
		require.ErrorIs(t, err, aside.ErrTooLarge)
		require.ErrorContains(t, err, "(2000 bytes) is longer than Options.MaxKeyBytes (1024)")
		require.NoError(t, narrow.Del(ctx, tx, "fine")) // the transaction goes on
		require.NoError(t, tx.Commit())

		wide := newBox(t, db, client, func(o *asidesql.Options) { o.MaxKeyBytes = 4096 }) // more than the Client's
		commit(t, db, func(tx *sql.Tx) { require.NoError(t, wide.Del(ctx, tx, "before", long, "after")) })
		for _, key := range []string{"fine", "before", "after"} {
			require.NoError(t, client.Set(ctx, time.Minute, key, "old"))
		}
		relay(t, wide)
		eventually(t, "only the long key is left", func() bool { return db.count(t) == 1 })
		require.Zero(t, redis.Do("EXISTS", "fine", "before", "after"))
		eventually(t, "it is parked", func() bool {
			backlog, err := wide.Backlog(ctx)
			require.NoError(t, err)
			return backlog == asidesql.Backlog{Parked: 1}
		})
		require.EqualValues(t, 1, wide.Stats().Parked)
		var said string
		require.NoError(t, db.QueryRowContext(ctx, "SELECT last_error FROM aside_outbox").Scan(&said))
		require.Contains(t, said, "longer than Options.MaxKeyBytes")
	})
}

func TestARefusedKeyDelaysNoOthers(t *testing.T) {
	db := openSQLite(t)
	ctx := harness.Context(t)
	cache := &recorder{fail: func(key string) error {
		if strings.HasPrefix(key, "refused") {
			return errors.New("NOPERM no permission")
		}
		return nil
	}}
	box := newBox(t, db, cache, func(o *asidesql.Options) { o.Batch = 5 })
	relay(t, box)
	for i := range 20 {
		commit(t, db, func(tx *sql.Tx) {
			require.NoError(t, box.Del(ctx, tx, fmt.Sprint("refused:", i), fmt.Sprint("fine:", i)))
		})
	}
	eventually(t, "the others are deleted", func() bool { return cache.keys() == 20 })
	eventually(t, "only the refused are left", func() bool { return db.count(t) == 20 })
}

// partial is a Deleter that reaches one node of two.
type partial struct{ *recorder }

func (partial) Health() aside.Health {
	return aside.Health{Mode: aside.Degraded, Shards: []aside.ShardHealth{{Addr: "a:1", Mode: aside.Healthy}, {Addr: "b:1", Mode: aside.Degraded}}}
}

func (partial) OnModeChange(func(aside.ModeChange)) (remove func()) { return func() {} }

func TestANodeThatIsAwayDelaysItsOwnKeysOnly(t *testing.T) {
	db := openSQLite(t)
	ctx := harness.Context(t)
	cache := partial{&recorder{fail: func(key string) error {
		if strings.HasPrefix(key, "away") {
			return aside.ErrNotDurable
		}
		return nil
	}}}
	// A pause of the relay itself for each batch with such a key would take minutes.
	box := newBox(t, db, cache, func(o *asidesql.Options) { o.Batch, o.MaxRetry = 10, time.Hour })
	for i := range 30 {
		commit(t, db, func(tx *sql.Tx) {
			keys := []string{fmt.Sprint("fine:", i)}
			for n := range 5 {
				keys = append(keys, fmt.Sprint("away:", i, ":", n))
			}
			require.NoError(t, box.Del(ctx, tx, keys...))
		})
	}
	relay(t, box)
	eventually(t, "the others are deleted", func() bool { return cache.keys() == 30 })
	eventually(t, "only its own are left", func() bool { return db.count(t) == 150 })
}

// pgxTx is the adapter that the documentation of Execer has.
type pgxTx struct{ pgx.Tx }

func (tx pgxTx) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	tag, err := tx.Exec(ctx, query, args...)
	return driver.RowsAffected(tag.RowsAffected()), err
}

// listenWith is the function that the documentation of Options.Listen has.
func listenWith(url string) func(ctx context.Context, channel string, wake func()) error {
	return func(ctx context.Context, channel string, wake func()) error {
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return err
		}
		defer conn.Close(context.WithoutCancel(ctx))
		if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil {
			return err
		}
		for wake(); ; wake() {
			if _, err := conn.WaitForNotification(ctx); err != nil {
				return err
			}
		}
	}
}

func TestANotificationWakesTheRelay(t *testing.T) {
	db := openPostgreSQL(t)
	ctx := harness.Context(t)
	cache := new(recorder)
	box := newBox(t, db, cache, func(o *asidesql.Options) {
		o.Poll, o.Listen = time.Hour, listenWith(db.dsn) // only a notification is in time
	})
	writer := newBox(t, db, cache, func(o *asidesql.Options) { o.Channel = "aside_outbox" })
	relay(t, box)
	listeners := func() (n int) {
		require.NoError(t, db.QueryRowContext(ctx, "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND query = 'LISTEN aside_outbox'").Scan(&n))
		return n
	}
	eventually(t, "it listens", func() bool { return listeners() == 1 })

	commit(t, db, func(tx *sql.Tx) { require.NoError(t, writer.Del(ctx, tx, "a")) })
	eventually(t, "a is deleted", func() bool { return cache.times("a") > 0 })

	conn, err := pgx.Connect(ctx, db.dsn)
	require.NoError(t, err)
	defer conn.Close(context.Background())
	tx, err := conn.Begin(ctx)
	require.NoError(t, err)
	require.NoError(t, box.Del(ctx, pgxTx{tx}, "b1", "b2"))
	require.NoError(t, tx.Commit(ctx))
	eventually(t, "b is deleted", func() bool { return cache.times("b1") > 0 && cache.times("b2") > 0 })

	db.exec(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND query = 'LISTEN aside_outbox'")
	eventually(t, "it listens no more", func() bool { return listeners() == 0 })
	commit(t, db, func(tx *sql.Tx) { require.NoError(t, writer.Del(ctx, tx, "c")) }) // nobody listens
	eventually(t, "c is deleted when it listens again", func() bool { return cache.times("c") > 0 })
	eventually(t, "the table is empty", func() bool { return db.count(t) == 0 })
}

func TestATableThatIsMissingIsSaid(t *testing.T) {
	eachDatabase(t, func(t *testing.T, db database) {
		ctx := harness.Context(t)
		box := newBox(t, db, new(recorder))
		require.NoError(t, box.Check(ctx))
		other := newBox(t, db, new(recorder), func(o *asidesql.Options) { o.Table = "elsewhere" })
		for _, err := range []error{other.Check(ctx), other.Run(ctx)} {
			require.ErrorIs(t, err, asidesql.ErrTable)
			require.ErrorContains(t, err, "elsewhere")
			require.ErrorContains(t, err, "asidesql.Schema(asidesql."+db.dialect.String()+")")
		}
		tx, err := db.BeginTx(ctx, nil)
		require.NoError(t, err)
		defer func() { _ = tx.Rollback() }()
		require.ErrorContains(t, other.Del(ctx, tx, "a"), "cannot write 1 keys into elsewhere")
	})
}

func TestATableOfAnotherName(t *testing.T) {
	db := openPostgreSQL(t)
	ctx := harness.Context(t)
	db.exec(t, "CREATE SCHEMA apart")
	schema := asidesql.Schema(db.dialect)
	schema = strings.ReplaceAll(schema, "EXISTS aside_outbox (", "EXISTS apart.gone (")
	schema = strings.ReplaceAll(schema, "ON aside_outbox", "ON apart.gone")
	db.exec(t, schema)
	cache := new(recorder)
	box := newBox(t, db, cache, func(o *asidesql.Options) { o.Table = "apart.gone" })
	relay(t, box)
	commit(t, db, func(tx *sql.Tx) { require.NoError(t, box.Del(ctx, tx, "a")) })
	eventually(t, "it is deleted", func() bool { return cache.times("a") > 0 })
}

func TestARelayWaitsForADatabaseThatIsAway(t *testing.T) {
	db := openPostgreSQL(t)
	ctx := harness.Context(t)
	proxy := faultproxy.New(t, fmt.Sprintf("127.0.0.1:%d", postgres.port))
	proxy.Refuse()
	through := db
	through.dsn = strings.Replace(db.dsn, fmt.Sprintf("127.0.0.1:%d", postgres.port), proxy.Addr(), 1)
	through.DB = through.connect(t)
	cache := new(recorder)
	box := newBox(t, through, cache)
	relay(t, box) // it does not return: that would fail the test
	eventually(t, "it has tried twice", func() bool { return box.Stats().DatabaseErrors >= 2 })
	proxy.Heal()
	write := func(key string) {
		commit(t, db, func(tx *sql.Tx) { require.NoError(t, box.Del(ctx, tx, key)) })
	}
	write("a")
	eventually(t, "a is deleted", func() bool { return cache.times("a") > 0 })
	before := box.Stats().DatabaseErrors
	proxy.Refuse()
	proxy.Reset()
	write("b")
	eventually(t, "it has tried again", func() bool { return box.Stats().DatabaseErrors >= before+2 })
	proxy.Heal()
	eventually(t, "b is deleted", func() bool { return cache.times("b") > 0 })
}

func TestRunEndsWithItsContextAndWithTheClient(t *testing.T) {
	db := openSQLite(t)
	redis := redistest.Start(t)
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	ctx, cancel := context.WithCancel(context.Background())
	box := newBox(t, db, new(recorder))
	ended := make(chan error)
	go func() { ended <- box.Run(ctx) }()
	cancel()
	require.NoError(t, <-ended)
	require.NoError(t, box.Close())
	require.NoError(t, box.Close())
	require.ErrorIs(t, box.Run(context.Background()), asidesql.ErrClosed)

	client, err := aside.New(aside.Options{Redis: redisAt(redis.Addr()), Logger: harness.Quiet})
	require.NoError(t, err)
	require.NoError(t, client.Close())
	box = newBox(t, db, client)
	commit(t, db, func(tx *sql.Tx) { require.NoError(t, box.Del(harness.Context(t), tx, "a")) })
	require.ErrorIs(t, box.Run(context.Background()), aside.ErrClosed)
	require.Equal(t, 1, db.count(t))

	redis.Kill()
	client, err = aside.New(aside.Options{Redis: redisAt(redis.Addr()), ConnectTimeout: time.Millisecond, Logger: harness.Quiet})
	require.NoError(t, err)
	require.Equal(t, aside.Degraded, client.Health().Mode)
	require.NoError(t, client.Close())
	box = newBox(t, db, client)
	require.ErrorIs(t, box.Run(context.Background()), aside.ErrClosed)
	require.NoError(t, db.DB.Close())
}

func TestCallbacksThatPanicEndNothing(t *testing.T) {
	db := openPostgreSQL(t)
	ctx := harness.Context(t)
	cache := new(recorder)
	var listened atomic.Int64
	box := newBox(t, db, cache, func(o *asidesql.Options) {
		o.Observer = func(asidesql.Event) { panic("observer") }
		o.Listen = func(context.Context, string, func()) error {
			listened.Add(1)
			panic("listen")
		}
	})
	relay(t, box)
	commit(t, db, func(tx *sql.Tx) { require.NoError(t, box.Del(ctx, tx, "a")) })
	eventually(t, "it is deleted", func() bool { return cache.times("a") > 0 })
	eventually(t, "Listen is called again", func() bool { return listened.Load() > 1 })
}

func TestWhatTheObserverIsTold(t *testing.T) {
	db := openSQLite(t)
	ctx := harness.Context(t)
	var mu sync.Mutex
	var told []string
	box := newBox(t, db, new(recorder), func(o *asidesql.Options) {
		o.Observer = func(e asidesql.Event) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, fmt.Sprint(e.Kind, e.Keys, e.Err))
		}
	})
	require.NoError(t, box.Transact(ctx, nil, func(_ *sql.Tx, change *asidesql.Change) error { return change.Del(ctx, "b", "a", "b") }))
	commit(t, db, func(tx *sql.Tx) { require.NoError(t, box.Del(ctx, tx, "c")) })
	relay(t, box)
	eventually(t, "both are told", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return slices.Equal(told, []string{"deleted [a b] <nil>", "relayed [c] <nil>"})
	})
}
