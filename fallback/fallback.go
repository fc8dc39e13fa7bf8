package fallback

import (
	"context"
	"errors"
	"iter"
)

// Op is what happened to a record's key. The values are the words in the files.
type Op string

// The kinds of records.
const (
	OpSet  Op = "set"  // Set: a value was written explicitly
	OpFill Op = "fill" // a value that a loader returned
	OpDel  Op = "del"  // Del

	// OpOperations: commands that change the key, whatever it holds; see [Keeper].
	OpOperations Op = "operations"
)

// Record is the newest state of a key in a Store.
type Record struct {
	Op      Op
	Key     string // any bytes
	Value   string // the bytes as they are to stand in Redis, any; empty for OpDel; for OpOperations the commands, as text that this module reads
	Expires int64  // when the value ends, in ms since 1970 by the Redis server's clock; positive, 0 for OpDel and OpOperations
	Stamp   string // the time, by the Redis server's clock as estimated, and the client: the later of two is the greater string. For OpFill: when the load began
	Slack   int64  // by how many µs that estimate may have been wrong; negative: not known
}

// Store keeps, for one Client, what was written, deleted and loaded while Redis was away. [Open]
// returns one that keeps it in a directory, [NewMemory] one that ends with the process.
// storetest.Run checks a store of your own. Safe for concurrent use.
//
// It holds one record per key. An explicit record (OpSet, OpDel) is pending until Redis has
// answered for it. Of two explicit records of a key the one with the greater stamp stays, in
// whatever order they are put; a fill never replaces an explicit record, and an explicit one always
// replaces a fill; of two fills the one with the greater stamp stays.
type Store interface {
	// Put stores explicit records. When it returns nil, all of them are as durable as Durable says.
	// If it fails, any subset may have been kept; each record is kept whole or not at all. The
	// error is ctx's if that ended first, ErrFull, ErrClosed, or ErrDisk with the disk's error.
	Put(ctx context.Context, records ...Record) error

	// Fill stores a loaded value, for reading and, unless it is lost before, for replay. It returns
	// at once, without an fsync and without an error; a value that does not fit is left out.
	Fill(record Record)

	// Get returns the record of a key. A fill that has expired by this machine's clock is not
	// returned. A set that has expired is, because it is still pending: the caller looks at
	// Expires. A set that expired at least a minute ago may be returned, and replayed, as a delete
	// with its stamp.
	Get(key string) (Record, bool, error)

	// Pending reports whether there is an explicit record for key. It is quick: no I/O, and a few
	// nanoseconds when nothing is pending at all.
	Pending(key string) bool

	// Stamp returns the stamp of key's record, of any op; it is as quick as Pending.
	Stamp(key string) (stamp string, ok bool)

	// Records yields all records with op, each as it is when its turn comes, in no particular
	// order, without blocking other calls. A record that cannot be read is quarantined and left
	// out.
	Records(op Op) iter.Seq[Record]

	// Settle removes the given records, because Redis has answered for them; a key whose stamp has
	// changed since keeps its record. When Settle returns, the removal is as durable as a Put:
	// otherwise a record that comes back after a crash would be served while Redis is away,
	// although Redis has newer data. (To replay it again would do no harm.) Files may be removed
	// later.
	Settle(records ...Record)

	// Durable reports whether records that Put has accepted survive the end of the process.
	Durable() bool

	// Latest is the greatest stamp that the Store has seen, including those that it found when it
	// was opened; "" if none.
	Latest() string

	Stats() Stats

	// Close makes everything durable that was accepted and can become so, and releases the
	// directory. It returns when ctx ends at the latest; its error says what it left undone.
	// Closing again does nothing and returns the same error. Calls after Close return ErrClosed, or
	// nothing.
	Close(ctx context.Context) error
}

// Keeper is a Store that can keep operations, as those of [Open] and [NewMemory] can. With another
// one, Client.Apply and Client.Incr return an error while Redis is away.
//
// Put of a record with OpOperations adds to what there is of the key: the record of the key is
// then what [Merge] makes of the two. Operations are explicit: their record is pending until Redis
// has answered for it.
type Keeper interface {
	Store

	// Reject takes a record of operations that Redis has refused for good, or of which nobody knows
	// whether they were done: it keeps it where a person may look at it, as durably as a Put, and
	// counts it as Quarantined. The key's record stays as it is.
	Reject(record Record, why error) error
}

// Transactor is a Keeper that can keep records of several keys as one, as those of [Open] and [NewMemory] can. With
// another one, Client.ApplyAway returns an error, and of what Client.UpdateAway keeps a crash may leave a part.
type Transactor interface {
	Keeper

	// PutAll is Put of records that belong together, Sets, Dels and operations of any keys: it keeps all
	// or none, whatever it returns, also after a crash. From then on each is a record of its own. Once PutAll has begun
	// to write it waits for the disk, even if ctx ends.
	PutAll(ctx context.Context, records ...Record) error
}

// Stats describes what a Store holds right now.
type Stats struct {
	Sets, Deletes, Fills int   // records
	Operations           int   // records of operations; each may be of many
	Bytes                int64 // on disk, or in memory where there is no disk
	MaxBytes             int64 // what Bytes may come to; 0: not known
	Dirty                int   // records not yet in files of their own
	Quarantined          int   // files and parts in quarantine, because they could not be read or were rejected; also from before the Store was opened
	Err                  error // the disk's latest error, nil once it works again
}

// Pending is how many records wait for replay, and were not loaded.
func (s Stats) Pending() int { return s.Sets + s.Deletes + s.Operations }

// Errors of a Store; test with errors.Is.
var (
	// ErrFull means that a record does not fit into Options.MaxBytes, or that the disk is full.
	ErrFull = errors.New("aside: the fallback store is full")

	// ErrLocked means that another process, or another Client of this one, has the directory.
	ErrLocked = errors.New("aside: the fallback directory is in use")

	// ErrDisk means that the disk returned an error: nothing was acknowledged.
	ErrDisk = errors.New("aside: the fallback directory cannot be used")

	// ErrClosed means that the Store was closed.
	ErrClosed = errors.New("aside: the fallback store is closed")
)
