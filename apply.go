package aside

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/redaside/aside/internal/deferred"
)

// Apply does operations on key, in their order and as one: all of them or none. It returns Redis's
// answers, one for each: an int64, a string, nil, or an error where Redis has refused that one.
//
// While Redis is away, or an earlier write of the key waits for replay, it keeps them, as Set does,
// and returns no answers and ErrKept; or ErrNotDurable, if they are kept in memory only. The replay
// does each once, whatever dies meanwhile, unless the key was set or deleted since by somebody who
// uses this library. docs/GUARANTEES.md has the promise and its limits. Before it keeps them, Apply
// calls decide, if that is not nil, with what waits already: an error of decide is returned, and
// nothing is kept. Calls for one key come to decide one after the other; it must not call the Client
// for that key, and must be quick. A Set or Del of the key by this client that runs at the same time
// is not waited for: where it comes between, the operations are kept behind it, and neither decide nor
// the sum that Incr returns knows of it.
//
// Where Redis has the operations and does not answer, Apply returns ErrUnknownOutcome and keeps
// nothing. Its other errors are ErrInvalidArgument for an operation that cannot be kept, whether or
// not Redis is away, and for one on a value that waits with an age, a grace or groups; ErrTooLarge
// for more than Options.MaxValueBytes that wait for one key; ErrFull and ErrDisk; and ErrRedisAway,
// if a store of your own (Options.Store) keeps no operations.
//
// Apply is for keys that are not loaded. What this process has in memory for the key is dropped.
func (c *Client) Apply(ctx context.Context, key string, operations []Operation, decide func(Kept) error) ([]any, error) {
	return operator{writer{c}}.apply(ctx, &operation{key: key, decide: decide, reads: decide != nil}, operations)
}

// Change is what ApplyAway does to a key.
type Change struct {
	Key        string
	Operations []Operation // as of Apply; none: the key is only looked at
}

// ApplyAway keeps operations on several keys as one, while Redis is away for all of them: all are kept, or none, also after a
// crash. Before it keeps them, it calls decide, if that is not nil, with what waits for each key; an error of decide is
// returned, and nothing is kept. No Apply, ApplyAway or UpdateAway of the keys, and no replay, comes between; a Set or Del
// that runs at the same time is as in Apply. decide must not call the Client, and must be quick.
//
// The replay does the operations of each key once, by itself, as those of Apply: others see one key changed before the
// next is, and what somebody else has set or deleted since, or Redis refuses, is not done for that key alone.
//
// The error is nil once all is kept. It is ErrNotAway, and decide is not called, if Redis can be asked for one of the
// keys; ErrRedisAway if there is no Options.FallbackDir, or a store of your own (Options.Store) keeps no transactions
// (fallback.Transactor); ErrInvalidArgument, also for a key that is named twice; ErrTooLarge, ErrFull or ErrDisk, and
// nothing is kept; or ctx's: then all of it may be kept soon, by a disk that has not answered.
func (c *Client) ApplyAway(ctx context.Context, changes []Change, decide func(kept map[string]Kept) error) error {
	return operator{writer{c}}.applyAway(ctx, changes, decide)
}

// Incr adds n to the number that key holds, 0 if it holds nothing, and returns the sum. While Redis
// is away the addition is kept, and done once when it is back: the error is then nil only if the sum
// follows from what this process knows, which what it does not hear of may have changed; else it is
// ErrKept, and the sum 0. It otherwise is Apply.
func (c *Client) Incr(ctx context.Context, key string, n int64) (int64, error) {
	by := Operation{"INCRBY", strconv.FormatInt(n, 10)}
	sum, known := int64(0), false
	op := &operation{key: key, decide: func(k Kept) error {
		if !k.Now.Known {
			return nil
		}
		after := k.Now.value().After([]deferred.Op{{Command: by}})
		var err error
		if sum, err = strconv.ParseInt(after.Text, 10, 64); err != nil || k.Now.Exists && sum-n != number(k.Now.Text) {
			return fmt.Errorf("aside: cannot add %d to %s: value is not an integer or out of range", n, quoted(key))
		}
		known = true
		return nil
	}}
	answers, err := operator{writer{c}}.apply(ctx, op, []Operation{by})
	switch {
	case err == nil:
		if err, ok := answers[0].(error); ok {
			return 0, fmt.Errorf("aside: cannot add %d to %s: %w", n, quoted(key), err)
		}
		sum, _ := answers[0].(int64)
		return sum, nil
	case errors.Is(err, ErrKept) && known:
		return sum, nil
	case errors.Is(err, ErrNotDurable) && known:
		return sum, err
	}
	return 0, err
}

func number(s string) int64 {
	n, _ := strconv.ParseInt(s, 10, 64)
	return n
}

// Kept returns what waits for replay of key, if there are operations. It asks nobody but this process's
// memory and disk.
func (c *Client) Kept(ctx context.Context, key string) (k Kept, ok bool, err error) {
	record, ok, err := c.store.read(ctx, key)
	if err != nil || !ok {
		return Kept{}, false, err
	}
	w, err := waitingOf(record)
	if err != nil {
		return Kept{}, false, err
	}
	k, err = operator{writer{c}}.kept(w, deferred.Value{}, true)
	return k, w.log != nil && err == nil, err
}
