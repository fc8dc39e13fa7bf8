package aside

import (
	"context"
	"errors"
	"iter"
	"slices"

	"github.com/redaside/aside/fallback"
)

// guardedStore is a store of the user's own: what it does wrong ends neither the process nor a
// goroutine of ours. A call that fails so knows of nothing.
type guardedStore struct {
	user fallback.Store
	says *reports
}

var errNoTransactions = errors.New("Options.Store keeps no transactions (fallback.Transactor)")

// guard calls fn, and logs what keeps it from returning.
func (g guardedStore) guard(fn func()) error {
	err := g.says.life.contained("Options.Store", fn)
	if err != nil {
		g.says.warn(&g.says.seldomDisk, "Options.Store did not return", "error", err)
	}
	return err
}

func (g guardedStore) Put(ctx context.Context, records ...fallback.Record) (err error) {
	if failed := g.guard(func() { err = examined(g.user.Put(ctx, records...)) }); failed != nil {
		return failed
	}
	return err
}

func (g guardedStore) Fill(record fallback.Record) { _ = g.guard(func() { g.user.Fill(record) }) }

func (g guardedStore) Get(key string) (record fallback.Record, ok bool, err error) {
	if failed := g.guard(func() {
		record, ok, err = g.user.Get(key)
		err = examined(err)
	}); failed != nil {
		return fallback.Record{}, false, failed
	}
	return record, ok, err
}

func (g guardedStore) Pending(key string) (pending bool) {
	_ = g.guard(func() { pending = g.user.Pending(key) })
	return pending
}

func (g guardedStore) Stamp(key string) (stamp string, ok bool) {
	_ = g.guard(func() { stamp, ok = g.user.Stamp(key) })
	return stamp, ok
}

func (g guardedStore) Records(op fallback.Op) iter.Seq[fallback.Record] {
	var all []fallback.Record
	_ = g.guard(func() { all = slices.Collect(g.user.Records(op)) })
	return slices.Values(all)
}

func (g guardedStore) Settle(records ...fallback.Record) {
	_ = g.guard(func() { g.user.Settle(records...) })
}

// PutAll is of a store that is a fallback.Transactor.
func (g guardedStore) PutAll(ctx context.Context, records ...fallback.Record) (err error) {
	t, ok := g.user.(fallback.Transactor)
	if !ok {
		return errNoTransactions // nobody asks it to
	}
	if failed := g.guard(func() { err = examined(t.PutAll(ctx, records...)) }); failed != nil {
		return failed
	}
	return err
}

// Reject is of a store that is a fallback.Keeper.
func (g guardedStore) Reject(record fallback.Record, why error) (err error) {
	keeper, ok := g.user.(fallback.Keeper)
	if !ok {
		return nil // it has not been given any operations
	}
	if failed := g.guard(func() { err = examined(keeper.Reject(record, why)) }); failed != nil {
		return failed
	}
	return err
}

func (g guardedStore) Durable() (durable bool) {
	_ = g.guard(func() { durable = g.user.Durable() })
	return durable
}

func (g guardedStore) Latest() (stamp string) {
	_ = g.guard(func() { stamp = g.user.Latest() })
	return stamp
}

func (g guardedStore) Stats() (stats fallback.Stats) {
	_ = g.guard(func() { stats = g.user.Stats() })
	stats.Err = examined(stats.Err)
	return stats
}

func (g guardedStore) Close(ctx context.Context) (err error) {
	if failed := g.guard(func() { err = examined(g.user.Close(ctx)) }); failed != nil {
		return failed
	}
	return err
}
