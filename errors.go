package aside

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/reason"
)

// Errors that a caller branches on; test with [errors.Is].
var (
	// ErrNotFound means that there is no value for the key. A loader returns it (wrapped or not) to
	// have the absence cached for Options.NegativeTTL; a reader gets it while the absence is
	// cached. The callers that waited for the loader get its error unchanged, so that they can test
	// for an error that it wraps, too.
	ErrNotFound = errors.New("aside: not found")

	// ErrClosed means that the Client was closed before the call or while it waited.
	ErrClosed = link.ErrClosed

	// ErrUnchanged is for the function of an Update: it returns it if it has changed nothing.
	ErrUnchanged = errors.New("aside: nothing was changed")

	// ErrNotAway is what UpdateAway returns where Redis can be asked: Update is for that.
	ErrNotAway = errors.New("aside: Redis is not away")

	// ErrRedisAway means that Redis could not be asked: it was never reached, its connection is
	// lost, or it stopped answering. Only calls that need Redis return it: Touch; Peek of a key
	// that neither memory nor the fallback store has; Set and Del, together with the reason why
	// they could not be kept for replay. Get and GetMulti go on without Redis.
	ErrRedisAway = link.ErrRedisAway

	// ErrUnknownOutcome means that a Set, Del or Touch was sent but its answer did not come in
	// time: it may or may not have been done. After the call's deadline, plus the error of the
	// clocks, it will not be done any more, except by replay.
	ErrUnknownOutcome = link.ErrUnknownOutcome

	// ErrNotDurable means that a Set or Del could not be done now and is kept in memory only,
	// because Options.FallbackDir is not set: this process sees it, and replays it when Redis is
	// back, but it is lost if the process ends before.
	ErrNotDurable = errors.New("aside: kept in memory only until Redis is back")

	// ErrNoInvalidations means, in Health, that Redis sends this client no invalidations although
	// it asked for them: its local memory is not used, and callers that wait for another process's
	// load poll.
	ErrNoInvalidations = link.ErrNoInvalidations

	// ErrShared means that a command would have changed a connection that others use at the same
	// time. Use a connection of your own, see rueidis.Client.Dedicated.
	ErrShared = link.ErrShared

	// ErrNotCached is what a Get with WithoutLoad returns where there is no value to be had without
	// loading it.
	ErrNotCached = errors.New("aside: not cached")

	// ErrOverloaded means that as many loaders run already as may (Options.MaxLoads, WithMaxLoads,
	// or while Redis is away Options.MaxLoaders), none of which has returned within a second.
	ErrOverloaded = errors.New("aside: too many loaders run")

	// ErrFull means that a Set or Del does not fit into Options.Fallback.MaxBytes, or that the disk
	// is full; it was not done.
	ErrFull = fallback.ErrFull

	// ErrLocked means that another process, or another Client of this one, has Options.FallbackDir.
	ErrLocked = fallback.ErrLocked

	// ErrDisk means that the fallback directory could not be written: the Set or Del was not done.
	ErrDisk = fallback.ErrDisk

	// ErrTooLarge means that a key or value is beyond Options.MaxKeyBytes or MaxValueBytes.
	ErrTooLarge = errors.New("aside: too large")

	// ErrInvalidArgument means that an argument is wrong: a nil loader, a ttl that is not positive.
	ErrInvalidArgument = errors.New("aside: invalid argument")

	// ErrLoadTimeout means that the loader did not return within its LoadTimeout. Its context was
	// cancelled; the load goes on in its goroutine until it notices, and its result is dropped.
	ErrLoadTimeout = errors.New("aside: the loader did not return within LoadTimeout")

	// ErrLockLost is why the context of a loader ends ([context.Cause]) whose lock was found to be gone
	// or somebody else's: the key was written or deleted, or this process was paused for longer than
	// LockTTL. What the loader returns is dropped. Its callers start over, and no call returns this
	// error.
	ErrLockLost = errors.New("aside: the lock of the load was lost")

	// ErrRecursiveLoad means that a loader asked, through the context that it was given, for a key
	// that it is loading itself, or for a key whose loader waits, in this process, for the first
	// one.
	ErrRecursiveLoad = errors.New("aside: a loader asked for the key that it is loading")
)

// BatchError has the keys of a GetMulti that could not be answered, or of a SetMulti that could not
// be stored, each with its error. The others are in the map beside it, or are stored.
type BatchError struct {
	Failed map[string]error // never empty

	prefix string // of a view with WithPrefix, whose keys in Failed are without
}

func (e *BatchError) Error() string {
	keys := make([]string, 0, len(e.Failed))
	for key := range e.Failed {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	var b strings.Builder
	fmt.Fprintf(&b, "aside: %d keys failed: ", len(keys))
	for i, key := range keys {
		if i == 3 {
			fmt.Fprintf(&b, "; and %d more", len(keys)-i)
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "%s: %v", quoted(e.prefix+key), reason.Of(e.Failed[key]))
	}
	return b.String()
}

// Unwrap returns the errors of all failed keys.
func (e *BatchError) Unwrap() []error {
	errs := make([]error, 0, len(e.Failed))
	for _, err := range e.Failed {
		errs = append(errs, err)
	}
	return errs
}

// encodeError marks a value that was loaded but that its codec could not encode: its callers get it
// all the same.
type encodeError struct{ err error }

func (e *encodeError) Error() string {
	return "aside: the loaded value cannot be encoded: " + reason.Of(e.err).Error()
}
func (e *encodeError) Unwrap() error { return e.err }

// quoted makes a key fit for an error or a log line: any bytes, and not endless.
func quoted(key string) string {
	const most = 64
	if len(key) > most {
		return fmt.Sprintf("%q… (%d bytes)", key[:most], len(key))
	}
	return fmt.Sprintf("%q", key)
}

func isEncodeError(err error) bool {
	_, is := err.(*encodeError) //nolint:errorlint // ours, never wrapped; and no method of the user's is called
	return is
}

func quotedKeys(keys []string) string {
	if len(keys) == 1 {
		return quoted(keys[0])
	}
	return fmt.Sprintf("%s and %d more", quoted(keys[0]), len(keys)-1)
}

// batchError is the error of a GetMulti, or nil.
func batchError(failed map[string]error) error {
	if len(failed) > 0 {
		return &BatchError{Failed: failed}
	}
	return nil
}

// ErrKept is what Apply and Incr return when Redis is away and the operations are durably kept for
// replay: they will be done, once, and what Redis would have answered is not known.
var ErrKept = errors.New("aside: kept until Redis is back, its answer is not known")
