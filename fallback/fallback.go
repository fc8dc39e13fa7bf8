package fallback

import (
	"context"
	"errors"
	"iter"
)

// Op is what a record says has happened to its key. The values are the words that stand in the
// files.
type Op string

// The kinds of records.
const (
	OpSet  Op = "set"  // Set: a value was written explicitly
	OpFill Op = "fill" // a value that a loader returned
	OpDel  Op = "del"  // Del
)

// Record is the newest that a Store knows of a key.
type Record struct {
	Op      Op
	Key     string // any bytes
	Value   string // the bytes as they are to stand in Redis, any; empty for OpDel
	Expires int64  // when the value ends, in ms since 1970 by the Redis server's clock; positive, 0 for OpDel
	Stamp   string // when, by the Redis server's clock as estimated, and by whom: the later of two is the greater string. For OpFill: when the load began
	Slack   int64  // by how many µs that estimate may have been wrong; negative: not known
}

// Store remembers, for one Client, what was written, deleted and loaded while Redis was away. The
// one that aside comes with is [Open]; [NewMemory] forgets with its process. storetest.Run says
// what one of a user's own must do. Safe for concurrent use.
//
// It holds one record per key. An explicit record (OpSet, OpDel) is pending until Redis has
// answered for it. Between two explicit records of a key the one with the greater stamp stays,
// whatever the order in which they come; a fill never replaces an explicit record, and an explicit
// one always replaces a fill; of two fills the one with the greater stamp stays.
type Store interface {
	// Put remembers explicit records: when it returns nil they are as durable as Durable says, all
	// of them; on an error none of them need be, but each may be, whole or not at all. The error is
	// ctx's if that ended first (then each may or may not be remembered), ErrFull, ErrClosed, or
	// says what the disk said (ErrDisk).
	Put(ctx context.Context, records ...Record) error

	// Fill remembers what was loaded, for reading and, unless it is lost before, for replay. It
	// returns at once: no fsync, and no error; what does not fit is left out.
	Fill(record Record)

	// Get returns what is known of a key. A set or a fill that has expired by this machine's clock
	// is returned only if it is an explicit one, which is pending all the same: the caller looks at
	// Expires. A set that has expired for long, a minute at least, may be returned, and replayed,
	// as a delete with its stamp.
	Get(key string) (Record, bool, error)

	// Pending reports whether there is an explicit record for key. It is quick: no I/O, and a few
	// nanoseconds when nothing is pending at all.
	Pending(key string) bool

	// Stamp returns the stamp of what is known of key, of whatever op; as quick as Pending.
	Stamp(key string) (stamp string, ok bool)

	// Records yields all records with op as they are when it comes to them, in no particular order,
	// without blocking others. One that cannot be read is quarantined and left out.
	Records(op Op) iter.Seq[Record]

	// Settle forgets the records of those keys whose stamp still is the one given: Redis has
	// answered for them. When it returns, that is as durable as a Put: a record that comes back
	// after a crash would be served while Redis is away, though Redis has heard of something newer
	// since. (To replay it again would do no harm.) Files may be removed later.
	Settle(records ...Record)

	// Durable reports whether what Put has accepted survives the end of the process.
	Durable() bool

	// Latest is the greatest stamp that the Store has seen, those that were there when it was
	// opened included; "" if none.
	Latest() string

	Stats() Stats

	// Close makes everything that was accepted durable, as far as it ever becomes so, and gives up
	// the directory. It returns when ctx ends at the latest, and says what it left undone. Closing
	// again does nothing and returns the same. Calls after Close return ErrClosed, or nothing.
	Close(ctx context.Context) error
}

// Stats is what a Store holds right now.
type Stats struct {
	Sets, Deletes, Fills int   // records
	Bytes                int64 // on disk, or in memory where there is no disk
	Dirty                int   // records not yet in files of their own
	Quarantined          int   // files and parts put aside because they could not be read, since the Store was opened and before
	Err                  error // what the disk last refused, nil once it works again
}

// Errors of a Store; test with errors.Is.
var (
	// ErrFull says that a record does not fit into Options.MaxBytes, or that the disk is full.
	ErrFull = errors.New("aside: the fallback store is full")

	// ErrLocked says that another process, or another Client of this one, has the directory.
	ErrLocked = errors.New("aside: the fallback directory is in use")

	// ErrDisk says that the disk did not do what it was asked to: nothing was acknowledged.
	ErrDisk = errors.New("aside: the fallback directory cannot be used")

	// ErrClosed says that the Store was closed.
	ErrClosed = errors.New("aside: the fallback store is closed")
)
