package aside_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/redistest"
	"github.com/redaside/aside/internal/stamp"
)

// A Set whose record reaches the store only when operations made after it have been replayed, or are
// there, is not settled with these. It comes after them, as it ends after them.
func TestASetThatIsKeptLateIsNotSettledWithOperations(t *testing.T) {
	t.Parallel()
	for _, replayed := range []bool{true, false} {
		server := redistest.Start(t)
		store := newLateSet()
		c, cut, heal := away(t, server, func(o *aside.Options) { o.FallbackDir, o.Store = "", store })
		ctx := testContext(t)
		cut()
		set := make(chan error, 1)
		go func() { set <- c.Set(ctx, time.Hour, "k", "set") }() // ends with the test's context
		<-store.held
		_, err := c.Apply(ctx, "k", []aside.Operation{op("APPEND", "x")}, nil)
		require.ErrorIs(t, err, aside.ErrNotDurable)
		if !replayed {
			close(store.goOn)
			require.ErrorIs(t, <-set, aside.ErrNotDurable)
			close(store.settle)
			heal()
			require.Equal(t, "set", server.Do("GET", "k"))
			continue
		}
		healed := make(chan struct{})
		go func() { heal(); close(healed) }() // ends when all is replayed
		<-store.settling
		close(store.goOn) // it is put under what is being settled
		eventually(t, "it is put", func() bool { return store.put.Load() })
		close(store.settle)
		if err := <-set; err != nil {
			require.ErrorIs(t, err, aside.ErrNotDurable)
		}
		<-healed
		eventually(t, "all replayed", func() bool { return c.Stats().Pending == 0 })
		require.Equal(t, "set", server.Do("GET", "k"))
	}
}

// A Set whose record reaches the store only when operations made after it have left that comes after them, too: Redis has done a
// later one of the same client, so as it is it would be superseded, and a journal has it before what settled those.
func TestASetThatIsKeptBehindOperationsThatHaveLeftIsNotLost(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	store := newLateSet()
	c, cut, heal := away(t, server, func(o *aside.Options) { o.FallbackDir, o.Store = "", store })
	ctx := testContext(t)
	cut()
	set := make(chan error, 1)
	go func() { set <- c.Set(ctx, time.Hour, "k", "set") }() // ends with the test's context
	<-store.held
	_, err := c.Apply(ctx, "k", []aside.Operation{op("APPEND", "x")}, nil)
	require.ErrorIs(t, err, aside.ErrNotDurable)
	close(store.settle)
	heal()
	eventually(t, "the operation is done, and has left", func() bool { return c.Stats().Pending == 0 })
	require.Equal(t, "x", server.Do("GET", "k"))
	close(store.goOn)
	if err := <-set; err != nil {
		require.ErrorIs(t, err, aside.ErrNotDurable)
	}
	eventually(t, "all replayed", func() bool { return c.Stats().Pending == 0 })
	require.Equal(t, "set", server.Do("GET", "k"))
}

// lateSet holds up the first Put of a Set, and the first Settle of operations.
type lateSet struct {
	*fallback.Memory
	first            atomic.Bool
	settled          atomic.Bool
	put              atomic.Bool
	held, goOn       chan struct{}
	settling, settle chan struct{}
}

func newLateSet() *lateSet {
	return &lateSet{Memory: fallback.NewMemory(0), held: make(chan struct{}), goOn: make(chan struct{}), settling: make(chan struct{}), settle: make(chan struct{})}
}

func (s *lateSet) Put(ctx context.Context, records ...fallback.Record) error {
	if records[0].Op == fallback.OpSet && s.first.CompareAndSwap(false, true) {
		close(s.held)
		<-s.goOn
		defer s.put.Store(true)
	}
	return s.Memory.Put(ctx, records...)
}

func (s *lateSet) Settle(records ...fallback.Record) {
	if len(records) > 0 && records[0].Op == fallback.OpOperations && s.settled.CompareAndSwap(false, true) {
		close(s.settling)
		<-s.settle
	}
	s.Memory.Settle(records...)
}

// A Set that comes to the store while operations made after it are being put there may stand behind them in
// the journal, which would drop it: it is kept as of now.
func TestASetBesideOperationsThatAreBeingKeptComesAfterThem(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	memory := fallback.NewMemory(0)
	store := &besideSet{Memory: memory, set: make(chan struct{}), putting: make(chan fallback.Record, 1), goOn: make(chan struct{})}
	c, cut, heal := away(t, server, func(o *aside.Options) { o.FallbackDir, o.Store = "", store })
	ctx := testContext(t)
	cut()
	set, applied := make(chan error, 1), make(chan error, 1)
	go func() { set <- c.Set(ctx, time.Hour, "k", "set") }() // ends with the test's context
	<-store.set
	go func() { // ends with the test's context
		_, err := c.Apply(ctx, "k", []aside.Operation{op("APPEND", "x")}, nil)
		applied <- err
	}()
	operations := <-store.putting
	store.set <- struct{}{}
	require.ErrorIs(t, <-set, aside.ErrNotDurable)
	now, _, err := memory.Get("k")
	require.NoError(t, err)
	require.Equal(t, fallback.OpSet, now.Op)
	require.Greater(t, now.Stamp, operations.Stamp, "whatever the journal has first")
	close(store.goOn)
	require.ErrorIs(t, <-applied, aside.ErrNotDurable)
	heal()
	require.Equal(t, "set", server.Do("GET", "k"))
}

// besideSet holds up the first Put of a Set, and that of operations.
type besideSet struct {
	*fallback.Memory
	first   atomic.Bool
	set     chan struct{}
	putting chan fallback.Record
	goOn    chan struct{}
}

func (s *besideSet) Put(ctx context.Context, records ...fallback.Record) error {
	switch {
	case records[0].Op == fallback.OpOperations:
		s.putting <- records[len(records)-1]
		<-s.goOn
	case s.first.CompareAndSwap(false, true):
		s.set <- struct{}{}
		<-s.set
	}
	return s.Memory.Put(ctx, records...)
}

// The ledger forgets a list a week after its last operation was done, and not after it began.
func TestALedgerKeepsWhatWasDoneOfAnOldList(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, cut, heal := away(t, server)
	ctx := testContext(t)
	old, _ := stamp.Packed(stamp.Stamp{Micros: time.Now().Add(-30 * 24 * time.Hour).UnixMicro(), Client: "c0ffeec0ffeec0ff", Number: 1}.String())
	moved := func(at time.Time) string {
		by, _ := stamp.Packed(stamp.Stamp{Micros: at.UnixMicro(), Client: "c0ffeec0ffeec0ff", Number: 2}.String())
		return by + by[:7]
	}
	for _, of := range []struct {
		entry string
		stays int64
	}{{moved(time.Now().Add(-time.Hour)), 1}, {moved(time.Now().Add(-8 * 24 * time.Hour)), 0}, {"", 0}} {
		cut()
		server.Do("HSET", stamp.Ledger("n"), old, of.entry, old+"!", "refused")
		_, err := c.Incr(ctx, "n", 1)
		require.ErrorIs(t, err, aside.ErrKept)
		heal()
		require.Equal(t, of.stays, server.Do("HEXISTS", stamp.Ledger("n"), old))
		require.Equal(t, of.stays, server.Do("HEXISTS", stamp.Ledger("n"), old+"!"))
	}
	require.Equal(t, "3", server.Do("GET", "n"))
}

// A list that was half done when its key still lived, and is gone on with when that has ended: what
// came before the end has ended with it.
func TestAnEndCountsForTheRestOfAListThatWasBegunBefore(t *testing.T) {
	t.Parallel() // it waits more than it works
	server := redistest.Start(t)
	c, cut, heal := away(t, server)
	ctx := testContext(t)
	cut()
	const life = 15 * time.Second // a busy machine has to come so far before it ends
	ends, lasts := time.Now().Add(life), fmt.Sprint(life.Milliseconds())
	for key, first := range map[string]aside.Operation{"set": op("SET", "1", "PX", lasts), "expire": op("PEXPIRE", lasts)} {
		_, err := c.Apply(ctx, key, []aside.Operation{op("INCR"), first, op("APPEND", "0"), op("INCR")}, nil)
		require.ErrorIs(t, err, aside.ErrKept)
	}
	_, err := c.Apply(ctx, "lives", []aside.Operation{op("INCR"), op("PEXPIRE", lasts), op("PERSIST"), op("APPEND", "0")}, nil)
	require.ErrorIs(t, err, aside.ErrKept)
	server.Do("ACL", "SETUSER", "default", "-append")
	heal(3)
	eventually(t, "half of it", func() bool { return c.Health().Replay.Report.Refused == 3 })
	require.Less(t, server.Do("PTTL", "set"), life.Milliseconds())
	require.Equal(t, "1", server.Do("GET", "lives"))
	require.True(t, time.Now().Before(ends), "too slow: nothing is half done before the end")
	eventually(t, "the end", func() bool { return server.Do("EXISTS", "set", "expire") == int64(0) })
	cut()
	server.Do("ACL", "SETUSER", "default", "+append")
	heal()
	require.Nil(t, server.Do("GET", "set"))
	require.Nil(t, server.Do("GET", "expire"))
	require.Equal(t, "10", server.Do("GET", "lives"))
	require.Zero(t, c.Stats().Rejected)
}

// A Set that comes between Apply's look at what waits and its Put stays before the operations, also where its
// value is in its file only by then. A relapse has the operations alone: the Set was acknowledged, and is lost.
func TestASetThatComesBesideAnApplyStaysBeforeIt(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	const most = 8 << 10
	c, cut, heal := away(t, server, func(o *aside.Options) {
		o.Fallback = fallback.Options{MemoryBytes: most, FlushInterval: 10 * time.Millisecond}
	})
	ctx := testContext(t)
	value := strings.Repeat("v", 1000)
	cut()
	_, err := c.Apply(ctx, "k", []aside.Operation{op("APPEND", "w")}, func(k aside.Kept) error {
		assert.False(t, k.Now.Known)
		set := make(chan error, 1)
		go func() { // another caller; ends with the test's context
			err := c.Set(ctx, time.Hour, "k", value)
			for i := 0; i < 2*most/len(value) && err == nil; i++ { // which are newer, so k's leaves memory first
				err = c.Set(ctx, time.Hour, fmt.Sprint("other", i), value)
			}
			set <- err
		}()
		if err := <-set; err != nil {
			return err
		}
		eventually(t, "all is in files", func() bool { return c.Health().Fallback.Dirty == 0 })
		return nil
	})
	require.ErrorIs(t, err, aside.ErrKept)
	v, ok, err := c.Peek(ctx, "k")
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, value+"w", v)
	heal()
	require.Equal(t, value+"w", server.Do("GET", "k"))
	require.InDelta(t, 3600, server.Do("TTL", "k"), 60)
	require.Zero(t, c.Stats().Rejected)
}
