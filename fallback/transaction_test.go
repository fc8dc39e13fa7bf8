package fallback

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/redaside/aside/internal/deferred"
	"github.com/redaside/aside/internal/vfs"
)

var transactionKeys = []string{"a", "b", "c"}

// transactions make what a Client does with several keys as one, and with one of them alone. They know what the store is to
// have of all keys after each step.
type transactions struct {
	second int64
	list   map[string]int64  // in which second the list of a key began that waits; 0: none does
	base   map[string]Record // the Set or Del that waits
	state  map[string]string // what waits, as shape has it; "": nothing
	states []string          // of all keys, after each step
	acked  int               // how many of states there were when a Put was acknowledged last
}

func newTransactions() *transactions {
	ts := &transactions{list: make(map[string]int64), base: make(map[string]Record), state: make(map[string]string), acked: 1}
	ts.note()
	return ts
}

func (ts *transactions) note() {
	var all []string
	for _, key := range transactionKeys {
		all = append(all, ts.state[key])
	}
	ts.states = append(ts.states, strings.Join(all, " | "))
}

// changes are the records of one change of key.
func (ts *transactions) changes(key, kind string) (puts []Record) {
	ts.second++
	if kind != "operation" {
		r := Record{Op: Op(kind), Key: key, Stamp: madeAt(ts.second), Slack: 5}
		if kind == "set" {
			r.Value, r.Expires = "v", in(1<<50)
		}
		ts.list[key], ts.base[key], ts.state[key] = 0, r, kind+r.Stamp
		return []Record{r}
	}
	if base, ok := ts.base[key]; ok {
		first := baseOf(base)
		puts = append(puts, Record{Op: OpOperations, Key: key, Stamp: base.Stamp, Slack: 5, Value: deferred.List{ID: madeAt(ts.second), Ops: []deferred.Op{first}}.String()})
		ts.state[key] = strings.Join(first.Command, " ")
		delete(ts.base, key)
	}
	if ts.list[key] == 0 {
		ts.list[key] = ts.second
	}
	if ts.state[key] != "" {
		ts.state[key] += ", "
	}
	add := fmt.Sprint("SADD ", ts.second)
	ts.state[key] += add
	return append(puts, change(key, ts.list[key], ts.second, add))
}

func (ts *transactions) step(d *Dir, kind string) {
	var puts []Record
	switch kind {
	case "flush":
		_ = flush(d) // it may be cut
		return
	case "settle":
		if r, ok, err := d.Get("a"); ok && err == nil {
			d.Settle(r)
		}
		ts.list["a"], ts.state["a"] = 0, ""
		delete(ts.base, "a")
		ts.note()
		return
	case "alone":
		puts = ts.changes("b", "operation")
		if len(puts) > 1 { // of two records the first may be there
			whole := ts.state["b"]
			ts.state["b"], _, _ = strings.Cut(whole, ", SADD")
			ts.note()
			ts.state["b"] = whole
		}
		ts.note()
		if d.Put(context.Background(), puts...) == nil {
			ts.acked = len(ts.states)
		}
		return
	}
	for i, key := range transactionKeys {
		puts = append(puts, ts.changes(key, strings.Fields(kind)[i])...)
	}
	ts.note()
	if d.PutAll(context.Background(), puts...) == nil {
		ts.acked = len(ts.states)
	}
}

// now is what the store has.
func (ts *transactions) now(t require.TestingT, d *Dir) string {
	var all []string
	for _, key := range transactionKeys {
		r, ok, err := d.Get(key)
		require.NoError(t, err)
		state := ""
		if ok {
			if state = shape(r); r.Op != OpOperations {
				state += r.Stamp
			}
		}
		all = append(all, state)
	}
	return strings.Join(all, " | ")
}

func (ts *transactions) allowed() []string { return ts.states[max(ts.acked-1, 0):] }

var transactionSteps = []string{"operation operation operation", "operation operation operation", "operation set del", "set operation operation", "del del set", "alone", "settle", "flush", "flush"}

// The process is killed, or power fails, before any call to the disk, also between the flush of the files and the dropping of the
// journal, and again while that is mended, also by a process of another database: of what PutAll has kept all is there, or
// nothing. A relapse has a state in which one key has its part and another has not.
func TestATransactionIsThereAsAWholeWhereverItIsCut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kinds := rapid.SliceOfN(rapid.SampledFrom(transactionSteps), 1, 9).Draw(t, "steps")
		o := rapid.SampledFrom([]Options{stores()["with memory"], stores()["without memory"]}).Draw(t, "options")
		next := o
		next.DB = rapid.SampledFrom([]int{o.DB, 7}).Draw(t, "next database")
		again := rapid.IntRange(1, 12).Draw(t, "again")
		run := func(cut int) (*vfs.Mem, *transactions) {
			m := vfs.NewMem()
			if cut > 0 {
				m.CutAt(cut)
			}
			ts := newTransactions()
			d, err := OpenFS(m, o)
			if err != nil {
				return m, ts
			}
			for _, kind := range kinds {
				ts.step(d, kind)
			}
			_ = d.Close(context.Background())
			<-d.done
			return m, ts
		}
		whole, _ := run(0)
		for cut := 1; cut <= whole.Calls()+2; cut++ {
			for seed := range uint64(2) {
				m, ts := run(cut)
				if seed == 0 {
					m = m.Kill()
				} else {
					m = m.Crash(seed)
				}
				m = throughOthers(m, next, again)
				d, err := OpenFS(m, o)
				require.NoError(t, err)
				require.Contains(t, ts.allowed(), ts.now(t, d), "cut before call %d of %v, again before call %d by database %d, seed %d", cut, kinds, again, next.DB, seed)
				require.NoError(t, d.Close(context.Background()))
			}
		}
	})
}

// The disk fails at any call: the store has all of each transaction, or nothing of it, at once and after a restart.
func TestATransactionIsThereAsAWholeWhereverTheDiskFails(t *testing.T) {
	kinds := []string{"set operation operation", "flush", "operation operation operation", "alone", "flush", "operation set del", "settle", "del del set", "operation operation operation", "flush"}
	for name, fault := range map[string]vfs.Fault{
		"one I/O error":          vfs.FaultIO,
		"one call finds it full": vfs.FaultNoSpace,
		"fsync fails for ever":   {Err: syscall.EIO, On: vfs.CallSync, Sticky: true},
	} {
		for at := 1; ; at++ {
			m := vfs.NewMem()
			d := open(t, m, byHand())
			m.FailAt(at, fault)
			ts := newTransactions()
			before := m.Calls()
			for _, kind := range kinds {
				acked := ts.acked
				was := ts.now(t, d)
				ts.step(d, kind)
				got := ts.now(t, d)
				if len(strings.Fields(kind)) == 3 {
					require.Contains(t, []string{was, ts.states[len(ts.states)-1]}, got, "%s at call %d: %s", name, at, kind)
				}
				if ts.acked == acked && kind != "flush" && kind != "settle" { // it was refused: what is there now is another story
					break
				}
			}
			got := ts.now(t, d)
			done := m.Calls()-before < at
			m.Heal()
			d, err := OpenFS(m.Kill(), byHand())
			require.NoError(t, err)
			require.Contains(t, append(ts.allowed(), got), ts.now(t, d), "%s at call %d", name, at)
			require.NoError(t, d.Close(context.Background()))
			if done {
				break
			}
		}
	}
}

// The journal ends at any byte, as after a loss of power within a write.
func TestATransactionIsThereAsAWholeWhereverTheJournalEnds(t *testing.T) {
	m := vfs.NewMem()
	d := open(t, m, byHand())
	ts := newTransactions()
	for _, kind := range []string{"operation operation operation", "flush", "operation set del", "alone", "operation operation operation"} {
		ts.step(d, kind)
	}
	parts := files(t, m)
	i := slices.IndexFunc(parts, func(name string) bool { return filepath.Ext(name) == ".aof" })
	whole := content(t, m, parts[i])
	require.Contains(t, string(whole), " t 0 - 3 ")
	seen := make(map[string]bool)
	for cut := range len(whole) + 1 {
		killed := m.Kill()
		overwrite(t, killed, parts[i], whole[:cut])
		d, err := OpenFS(killed, byHand())
		require.NoError(t, err)
		got := ts.now(t, d)
		require.Contains(t, ts.states, got, "cut at byte %d", cut)
		seen[got] = true
		require.NoError(t, d.Close(context.Background()))
	}
	require.Greater(t, len(seen), 3)
}

// A disk that hangs keeps nothing of a transaction in the index, where readers and the flusher would find it, and all of it once it goes on:
// PutAll does not return before. Of one that has no room nothing is kept either.
func TestATransactionWaitsForTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := vfs.NewMem()
		d := open(t, m, byHand())
		mustPut(t, d, set("a", "v"))
		ctx, cancel := context.WithCancel(t.Context())
		m.Hang()
		answer := make(chan error, 1)
		go func() { // ends when the disk goes on
			answer <- d.PutAll(ctx, change("a", 1<<30, 1<<30, "SADD x"), change("b", 1, 2, "SADD x"))
		}()
		m.AwaitHung()
		cancel()
		synctest.Wait()
		require.Empty(t, answer)
		expectNone(t, d, "b")
		m.Unhang()
		require.NoError(t, <-answer)
		for _, key := range []string{"a", "b"} {
			r, ok, err := d.Get(key)
			require.NoError(t, err)
			require.True(t, ok)
			require.Contains(t, shape(r), "SADD x")
		}
	})

	o := byHand()
	o.MaxBytes = 1 << 20
	full := open(t, vfs.NewMem(), o)
	require.ErrorIs(t, full.PutAll(t.Context(), change("a", 1, 1, "SADD x"), set("b", strings.Repeat("v", 1<<20))), ErrFull)
	expectNone(t, full, "a", "b")
	require.ErrorIs(t, NewMemory(1<<20).PutAll(t.Context(), change("a", 1, 1, "SADD x"), set("b", strings.Repeat("v", 1<<20))), ErrFull)
	require.ErrorContains(t, full.PutAll(t.Context(), opened("a", 1), set("b", "v")), "use Put")
}
