package asidesql

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Errors that a caller branches on; test with [errors.Is].
var (
	// ErrClosed means that the Box was closed: it runs no relay any more.
	ErrClosed = errors.New("asidesql: closed")

	// ErrTable means that the database answers, but that the outbox table is missing, has other
	// columns, or may not be read. [Schema] has the statements that create it.
	ErrTable = errors.New("asidesql: the outbox table cannot be used")
)

// Deleter deletes keys from the cache; an [aside.Client] or an aside.TypedClient is one. It is safe
// for concurrent use. If it returns nil, the keys are deleted, or will be even if this process ends
// now.
//
// [aside.Client]: https://pkg.go.dev/github.com/redaside/aside#Client
type Deleter interface {
	Del(ctx context.Context, keys ...string) error
}

// Options say how a Box works. All but Dialect may be zero.
type Options struct {
	// Dialect is what the database speaks. It has no default.
	Dialect Dialect

	// Table is the name of the outbox table, with its schema if need be: letters, digits and
	// underscores, not quoted. Defaults to "aside_outbox".
	Table string

	// MaxKeyBytes is the longest key that is accepted; longer ones are refused before anything is
	// written. Give it the value of the Client's Options.MaxKeyBytes. At most 65,535. Defaults to 1
	// KiB, as that does.
	MaxKeyBytes int

	// Poll is how often a relay looks for due rows when nothing wakes it. Defaults to 1 second.
	Poll time.Duration

	// Batch is how many rows a relay takes at a time, and how many keys it deletes by one Del. At
	// most 1,000. Defaults to 100.
	Batch int

	// Lease is how long a row that a process has taken, or has written through a Change, is left to
	// that process. If the process dies, a relay takes the row after Lease, and Poll at most.
	// Should it take longer than that, a relay deletes the key once more, which is harmless. At
	// least 100 milliseconds. Defaults to 5 seconds.
	Lease time.Duration

	// MaxRetry is the longest pause after which a relay tries again what has failed: a key that
	// Redis refuses, a Redis or a database that is away. The first is 250 milliseconds, and each is
	// twice the one before. At least 250 milliseconds. Defaults to 10 seconds.
	MaxRetry time.Duration

	// Listen waits for PostgreSQL's notifications, with a connection of the driver's own, since
	// database/sql has no means to. Run calls it in a goroutine of its own. It listens on channel,
	// calls wake once after that and for each notification, and returns when ctx ends or with an
	// error; then Run calls it again after a pause. wake does not block. Relays go on polling as
	// well, so a notification that is lost costs time and nothing else. Defaults to none.
	//
	// With pgx:
	//
	//	func listen(ctx context.Context, channel string, wake func()) error {
	//		conn, err := pgx.Connect(ctx, url)
	//		if err != nil {
	//			return err
	//		}
	//		defer conn.Close(context.WithoutCancel(ctx))
	//		if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil {
	//			return err
	//		}
	//		for wake(); ; wake() {
	//			if _, err := conn.WaitForNotification(ctx); err != nil {
	//				return err
	//			}
	//		}
	//	}
	Listen func(ctx context.Context, channel string, wake func()) error

	// Channel is what Box.Del notifies, with the commit of its transaction, and what Listen listens
	// on: lower-case letters, digits and underscores, 63 at most. Set it in processes that write
	// while others listen. PostgreSQL only. Defaults to "aside_outbox" if there is a Listen, else
	// to none: no notifications are sent.
	Channel string

	// Logger gets a warning, at most one every 10 seconds for each kind, for what fails. Defaults
	// to slog.Default().
	Logger *slog.Logger

	// Observer is told what happens, for metrics. It cannot change what happens, should be quick,
	// and must be safe for concurrent use. Defaults to none.
	Observer func(Event)
}

const (
	firstRetry      = 250 * time.Millisecond
	leastToAsk      = 5 * time.Second  // of one Del; the Client's RedisTimeout ends it sooner
	databaseTimeout = 10 * time.Second // of one statement of a relay, so that a database that hangs is noticed
	mostRows        = 100              // of one INSERT
	mostBatch       = 1000
	mostKeyBytes    = 65535 // a MySQL BLOB
	never           = time.Duration(-1)
)

func (o Options) withDefaults() Options {
	o.Table = cmp.Or(o.Table, "aside_outbox")
	o.MaxKeyBytes = cmp.Or(o.MaxKeyBytes, 1024)
	o.Poll = cmp.Or(o.Poll, time.Second)
	o.Batch = cmp.Or(o.Batch, 100)
	o.Lease = cmp.Or(o.Lease, 5*time.Second)
	o.MaxRetry = cmp.Or(o.MaxRetry, 10*time.Second)
	if o.Listen != nil {
		o.Channel = cmp.Or(o.Channel, "aside_outbox")
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o
}

func (o Options) validate() error {
	var errs []error
	wrong := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("asidesql: Options."+format, args...))
	}
	if o.Dialect < PostgreSQL || o.Dialect > MySQL {
		wrong("Dialect is %v: it must be PostgreSQL, SQLite or MySQL", o.Dialect)
	}
	if !tableName.MatchString(o.Table) {
		wrong("Table is %q: it must be a name, or schema.name, of letters, digits and underscores", o.Table)
	}
	if o.MaxKeyBytes < 1 || o.MaxKeyBytes > mostKeyBytes {
		wrong("MaxKeyBytes is %d: it must be from 1 to %d", o.MaxKeyBytes, mostKeyBytes)
	}
	if o.Batch < 1 || o.Batch > mostBatch {
		wrong("Batch is %d: it must be from 1 to %d", o.Batch, mostBatch)
	}
	if o.Poll < time.Millisecond {
		wrong("Poll is %v: it must be at least 1ms", o.Poll)
	}
	if o.Lease < 100*time.Millisecond {
		wrong("Lease is %v: it must be at least 100ms", o.Lease)
	}
	if o.MaxRetry < firstRetry {
		wrong("MaxRetry is %v: it must be at least %v", o.MaxRetry, firstRetry)
	}
	if o.Channel != "" && !channelName.MatchString(o.Channel) {
		wrong("Channel is %q: it must be up to 63 lower-case letters, digits and underscores, and not begin with a digit", o.Channel)
	}
	if o.Dialect != PostgreSQL && (o.Channel != "" || o.Listen != nil) {
		wrong("Channel and Listen are for PostgreSQL, and Dialect is %v: leave them out, relays poll", o.Dialect)
	}
	return errors.Join(errs...)
}

// Box is the outbox of a database. Safe for concurrent use.
type Box struct {
	db    *sql.DB  // immutable
	cache Deleter  // immutable
	opt   Options  // with defaults; immutable
	count counters // atomic

	seldomDatabase, seldomRetry, seldomParked, seldomListen, seldomObserver atomic.Int64 // when that was last logged

	mu     sync.Mutex
	closed bool           // guarded by mu
	relays sync.WaitGroup // every Run; added to with mu held, while closed is false
	ended  chan struct{}  // closed by Close; immutable
}

// New makes a Box that keeps its rows in db and deletes keys by client. It asks neither: see
// [Box.Check]. The error names each option that is wrong.
func New(db *sql.DB, client Deleter, opt Options) (*Box, error) {
	if db == nil || client == nil {
		return nil, errors.New("asidesql: New needs a database and a client, and one of them is nil")
	}
	opt = opt.withDefaults()
	if err := opt.validate(); err != nil {
		return nil, err
	}
	return &Box{db: db, cache: client, opt: opt, ended: make(chan struct{})}, nil
}

// Check returns nil if the outbox table is there and has the columns of [Schema]. It returns an
// [ErrTable] if the database answers and the table cannot be used, else the database's error.
func (b *Box) Check(ctx context.Context) error {
	err := b.check(ctx)
	if err == nil || ctx.Err() != nil {
		return err
	}
	// Is it the table, or the database? Drivers have no common answer, so: if the database answers,
	// and the table still cannot be read after that, it is the table.
	if b.db.PingContext(ctx) != nil {
		return fmt.Errorf("asidesql: the database cannot be reached: %w", err)
	}
	if err = b.check(ctx); err == nil || ctx.Err() != nil {
		return err
	}
	return fmt.Errorf("%w: %s: %w: create it with the statements of asidesql.Schema(asidesql.%v)", ErrTable, b.opt.Table, err, b.opt.Dialect)
}

func (b *Box) check(ctx context.Context) error {
	rows, err := b.db.QueryContext(ctx, check(b.opt.Table))
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() { // there are none; some drivers run the query only now
	}
	return rows.Err()
}

// Close ends every Run and waits until it has returned. Each finishes what it has in hand, which
// takes as long as Redis and the database take to answer; where these hang, their timeouts end it.
// It closes neither the database nor the Client; close these after it. Rows
// can still be written. Closing twice is fine; the error is nil.
func (b *Box) Close() error {
	b.mu.Lock()
	if !b.closed {
		b.closed = true
		close(b.ended)
	}
	b.mu.Unlock()
	b.relays.Wait()
	return nil
}

// enter begins a Run; leave must follow if the error is nil. The context ends with ctx and with
// Close.
func (b *Box) enter(ctx context.Context) (running context.Context, leave func(), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, nil, ErrClosed
	}
	b.relays.Add(1)
	running, cancel := context.WithCancel(ctx)
	stop := make(chan struct{})
	go func() { // ends with leave
		select {
		case <-b.ended:
			cancel()
		case <-stop:
		}
	}()
	return running, func() {
		close(stop)
		cancel()
		b.relays.Done()
	}, nil
}
