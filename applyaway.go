package aside

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/reason"
)

// What is kept of several keys as one, while Redis is away: in the journal it is one record. From then on each key
// goes by itself (docs/adr/0016).

// applyAway is ApplyAway.
func (o operator) applyAway(ctx context.Context, changes []Change, decide func(map[string]Kept) error) error {
	ops, keys := make([]*operation, len(changes)), make([]string, len(changes))
	for i, change := range changes {
		key := strings.Clone(change.Key)
		if slices.Contains(keys[:i], key) {
			return fmt.Errorf("%w: an ApplyAway names %s twice", ErrInvalidArgument, quoted(key))
		}
		commands, err := o.normal(key, change.Operations)
		if err != nil {
			return err
		}
		ops[i], keys[i] = &operation{key: key, commands: commands, reads: decide != nil}, key
	}
	if err := o.begin(ctx, keys); err != nil {
		return err
	}
	defer o.end(keys)
	seen, ctx := o.watch(ctx, Event{Kind: EventWrite, Op: "apply_away", Key: first(keys), Keys: len(keys)})
	who := enterCall(ctx)
	defer who.leave()
	had, changed := make([]memory, len(ops)), make([]uint64, len(ops))
	for i, op := range ops {
		if had[i] = o.note(op); op.changes() {
			had[i].before = o.drop(keys[i : i+1])
		}
	}
	err := o.keepAll(who, ops, keys, decide)
	for i, op := range ops { // all, before the new ones are there: who sees one of these meets none of what was
		if op.changes() {
			changed[i] = o.drop(keys[i : i+1])
		}
	}
	for i, op := range ops {
		if op.changes() {
			o.remember(op, had[i], changed[i])
		}
	}
	seen.end(err)
	return err
}

// changes reports whether op changes its key, and does not only look at it.
func (op *operation) changes() bool { return len(op.commands) > 0 }

// keepAll keeps all of ops or none.
func (o operator) keepAll(ctx context.Context, ops []*operation, keys []string, decide func(map[string]Kept) error) error {
	if !o.store.Durable() {
		return fmt.Errorf("aside: cannot change %s: %w, and Options.FallbackDir is not set", quotedKeys(keys), link.ErrNotAsked)
	}
	if o.store.transactor() == nil {
		return fmt.Errorf("aside: cannot change %s: %w, and %w", quotedKeys(keys), link.ErrNotAsked, errNoTransactions)
	}
	release, err := o.store.claims.hold(ctx, keys)
	if err != nil {
		return err
	}
	held := newLease(release)
	defer held.letGo()
	if slices.ContainsFunc(keys, func(key string) bool { return o.link.Shard(key).Asks() }) { // see updateAway
		return ErrNotAway
	}
	all, waits := make([]prospect, len(ops)), make(map[string]Kept, len(ops))
	for i, op := range ops {
		if all[i], err = o.look(ctx, op, link.ErrNotAsked); err != nil {
			return err
		}
		waits[op.key] = all[i].waits
	}
	if decide != nil {
		if err := decide(waits); err != nil {
			return err
		}
	}
	var records []fallback.Record
	var late []string // stamps of the last operation of each key
	var changed []prospect
	for _, p := range all {
		if !p.changes() {
			continue
		}
		more, err := o.records(p)
		if err != nil {
			return err
		}
		records, changed, late = append(records, more...), append(changed, p), append(late, more[len(more)-1].Stamp)
	}
	if len(records) == 0 {
		return nil
	}
	o.store.operated.Store(true)
	for i, p := range changed {
		o.store.underWay.enter(p.key, late[i])
	}
	put := newLease(func() {
		for _, p := range changed {
			o.store.underWay.leave(p.key)
		}
	})
	defer put.letGo()
	if err := o.keepTogether(ctx, records, link.ErrNotAsked, held, put); err != nil {
		return fmt.Errorf("aside: cannot change %s: %w", quotedKeys(keys), reason.Of(err))
	}
	for _, p := range changed {
		p.wasKept()
	}
	return nil
}

// keepTogether is keepWrites that keeps all of records or none, if the store can. It returns when ctx ends, though a disk that
// hangs may keep them later; so the leases are shared with what waits for it.
func (c writer) keepTogether(ctx context.Context, records []fallback.Record, cause error, leases ...*lease) error {
	store := c.store.transactor()
	if store == nil || len(records) < 2 {
		return c.keepWrites(ctx, records, cause)
	}
	ctx, cancel := withGrace(ctx)
	answer, gone := make(chan error), make(chan struct{})
	for _, l := range leases {
		l.share()
	}
	waits := c.inBackground(func() { // ends with the disk
		defer cancel()
		err := c.keepBy(ctx, store.PutAll, records, cause)
		select {
		case answer <- err:
		case <-gone: // what was read since the call has left is what was before
			for i := range records {
				c.drop([]string{records[i].Key})
			}
		}
		for _, l := range leases {
			l.letGo()
		}
	})
	if !waits {
		cancel()
		for _, l := range leases {
			l.letGo()
		}
		return ErrClosed
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		select {
		case err := <-answer:
			return err
		default:
		}
		close(gone)
		return fmt.Errorf("%w, and the disk has not answered whether it is kept for later: %w", cause, ctx.Err())
	}
}
