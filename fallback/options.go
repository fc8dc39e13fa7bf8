package fallback

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/redaside/aside/fallback/journal"
)

// Sync is what a Put waits for.
type Sync = journal.Sync

// The values of Sync: see the constants of the same names in package journal.
const (
	Always      = journal.Always
	EverySecond = journal.EverySecond
	OS          = journal.OS
)

// Options configures a [Dir]. The zero value is usable.
type Options struct {
	// DB is the Redis database that the records belong to. Records of other databases in the
	// directory are neither served nor changed. Defaults to 0.
	DB int

	// Sync says when Put returns: Always when the disk has it, so that it survives a loss of power;
	// EverySecond and OS when the operating system has it, so that it survives the end of the
	// process. Defaults to Always.
	Sync Sync

	// FlushInterval is how often records in the journal get files of their own, and how often
	// writes that the disk refused are tried again. Only the size of the journal depends on it.
	// Defaults to 3 seconds.
	FlushInterval time.Duration

	// MaxQueue is how many records may wait for their files; more get them before the interval is
	// over. Under a load that fills the queue again at once, the disk is left to the writers half
	// of the time, and more records may wait. Defaults to 1000.
	MaxQueue int

	// MaxBytes bounds the journal and the record files, in bytes of their contents; the file system
	// rounds up, commonly to 4 KiB a file and as much for its folder. Quarantine is not counted.
	// Fills are dropped first, and never take more than three quarters. Then Put of a set returns
	// ErrFull. The last MiB, or sixteenth if that is less, is reserved for deletes. Defaults to 1
	// GiB.
	MaxBytes int64

	// MemoryBytes bounds the values kept in memory: those that wait for their files, and the newest
	// of the others, so that they are read and replayed without the disk. When waiting values
	// exceed it, Put waits for the disk. Keys, with about 300 bytes each, are always in memory and
	// not counted. Defaults to 64 MiB.
	MemoryBytes int64

	// Logger gets a line when the directory is opened and was not empty, one when the disk fails
	// and one when it works again, and one for each file that is put into quarantine. No line has a
	// key or a value. Defaults to slog.Default().
	Logger *slog.Logger

	dir    string // for messages; Open knows it
	hurry  int    // see the constant; for tests
	forget bool   // values leave memory as soon as they are in files; for tests
}

func (o Options) withDefaults() Options {
	o.FlushInterval = cmp.Or(o.FlushInterval, 3*time.Second)
	o.MaxQueue = cmp.Or(o.MaxQueue, 1000)
	o.MaxBytes = cmp.Or(o.MaxBytes, 1<<30)
	o.MemoryBytes = cmp.Or(o.MemoryBytes, 64<<20)
	o.dir = cmp.Or(o.dir, "the fallback directory")
	o.hurry = cmp.Or(o.hurry, hurry)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o
}

// Validate reports every problem at once. A field that is zero is none.
func (o Options) Validate() error { return o.withDefaults().validate() }

const (
	longestInterval = 24 * time.Hour
	mostBytes       = math.MaxInt64 / 2
)

// validate expects the defaults to be in place.
func (o Options) validate() error {
	var errs []error
	bad := func(field string, value any, remedy string) {
		errs = append(errs, fmt.Errorf("aside: fallback.Options.%s is %v: %s", field, value, remedy))
	}
	if o.DB < 0 {
		bad("DB", o.DB, "must be the number of a Redis database, 0 or more")
	}
	switch o.Sync {
	case Always, EverySecond, OS:
	default:
		bad("Sync", int(o.Sync), "must be fallback.Always, fallback.EverySecond or fallback.OS")
	}
	if o.FlushInterval < 0 || o.FlushInterval > longestInterval {
		bad("FlushInterval", o.FlushInterval, fmt.Sprintf("must be positive and at most %v, or 0 for the default", longestInterval))
	}
	if o.MaxQueue < 0 || o.MaxQueue > math.MaxInt32 {
		bad("MaxQueue", o.MaxQueue, fmt.Sprintf("must be positive and at most %d, or 0 for the default", math.MaxInt32))
	}
	if o.MaxBytes < 0 || o.MaxBytes > mostBytes {
		bad("MaxBytes", o.MaxBytes, fmt.Sprintf("must be positive and at most %d, or 0 for the default", int64(mostBytes)))
	}
	if o.MemoryBytes < 0 || o.MemoryBytes > mostBytes {
		bad("MemoryBytes", o.MemoryBytes, fmt.Sprintf("must be positive and at most %d, or 0 for the default", int64(mostBytes)))
	}
	return errors.Join(errs...)
}

// reserve is the part of maxBytes that is kept for deletes.
func reserve(maxBytes int64) int64 { return min(1<<20, maxBytes/16) }
