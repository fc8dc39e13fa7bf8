package fallback

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/vfs"
)

// witness drives a store and remembers what it was told, to judge later what is there.
type witness struct {
	d      *Dir
	keys   map[string]*history
	failed bool // the last Put did
}

// history is what a witness knows of a key.
type history struct {
	tried   []Record // all that were put, acknowledged or not
	acked   Record   // the acknowledged one with the greatest stamp
	settled bool     // that one was settled
	fills   []Record // those that came when no explicit record was known, the last acknowledged one being settled
}

func newWitness(d *Dir) *witness { return &witness{d: d, keys: make(map[string]*history)} }

func (w *witness) of(key string) *history {
	if w.keys[key] == nil {
		w.keys[key] = new(history)
	}
	return w.keys[key]
}

func (w *witness) put(records ...Record) {
	for _, r := range records {
		h := w.of(r.Key)
		h.tried = append(h.tried, r)
	}
	if w.d.Put(context.Background(), records...) != nil {
		w.failed = true
		return
	}
	for _, r := range records {
		h := w.of(r.Key)
		if r.Stamp > h.acked.Stamp {
			h.acked, h.settled = r, false
		}
		h.fills = nil
	}
}

func (w *witness) fill(r Record) {
	w.d.Fill(r)
	if h := w.of(r.Key); h.acked.Op == "" || h.settled {
		h.fills = append(h.fills, r)
	}
}

// settle settles what the store has of keys.
func (w *witness) settle(keys ...string) {
	for _, key := range keys {
		r, ok, err := w.d.Get(key)
		if !ok || err != nil {
			continue
		}
		h := w.of(key)
		w.d.Settle(r)
		if r.Op != OpFill && r.Stamp >= h.acked.Stamp {
			h.settled = true
		}
	}
}

// judge says what is wrong with what a store has now.
func (w *witness) judge(d *Dir) error {
	found := all(d)
	var errs []error
	for key, h := range w.keys {
		got, ok := found[key]
		delete(found, key)
		switch {
		case !ok && h.acked.Op != "" && !h.settled:
			errs = append(errs, fmt.Errorf("%q: %s %s was acknowledged, and is not there", key, h.acked.Op, h.acked.Stamp))
		case !ok:
		case got.Op == OpFill:
			if !slices.Contains(h.fills, got) {
				errs = append(errs, fmt.Errorf("%q: there is the fill %s, which was superseded or never made", key, got.Stamp))
			}
		case !slices.Contains(h.tried, got):
			errs = append(errs, fmt.Errorf("%q: there is %s %s = %q, which nobody put", key, got.Op, got.Stamp, got.Value))
		case got.Stamp < h.acked.Stamp:
			errs = append(errs, fmt.Errorf("%q: there is %s %s, though %s %s was acknowledged (settled: %v)", key, got.Op, got.Stamp, h.acked.Op, h.acked.Stamp, h.settled))
		}
		if one, one2, err := d.Get(key); err != nil || one2 != ok || one != got {
			errs = append(errs, fmt.Errorf("%q: Records has %+v, %v, and Get %+v, %v, %w", key, got, ok, one, one2, err))
		}
	}
	for key := range found {
		errs = append(errs, fmt.Errorf("%q is there, of which nobody knows", key))
	}
	return errors.Join(errs...)
}

// scenario is what an outage may be like: writes over one another and over fills, late ones,
// flushes in between, replay, and a second outage.
func (w *witness) scenario() {
	long := strings.Repeat("long ", 400)
	w.put(set("a", "1"))
	w.put(del("b"))
	late := set("c", "late")
	w.put(set("a", `{"second":true}`), set("c", long))
	w.fill(fill("f", long))
	w.fill(fill("g", "\xff"))
	w.put(set("g", "set over a fill"))
	_ = flush(w.d)
	w.put(late) // superseded
	w.put(set("a", "third"), del("c"))
	w.put(del("f")) // over a fill that has a file
	w.fill(fill("h", "loaded"))
	w.settle("b")
	_ = flush(w.d)
	w.put(set("b", "again"))
	w.settle("c")
	w.put(set("c", "again, before its file was removed"))
	w.settle("a")
	w.fill(fill("a", "loaded after the replay"))
	_ = flush(w.d)
	w.put(set("h", "set over a fill that has a file"))
	w.settle("h") // before it gets its file
	w.settle("f", "g")
	_ = flush(w.d)
	w.put(del("a"))
	w.put(set("d", "new"))
	w.settle("a", "b", "c", "d", "g") // nothing is pending any more
	_ = flush(w.d)
	w.put(set("e", "the next outage"), del("a"))
	_ = flush(w.d)
	w.put(set("e", "in the journal only"))
}

func (w *witness) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return w.d.Close(ctx)
}

// stores are the ways in which the scenario is run.
func stores() map[string]Options {
	forgetful := byHand()
	forgetful.forget = true
	return map[string]Options{"with memory": byHand(), "without memory": forgetful}
}

// stride is 1: every call. In the short form it is a few, so that others are met in each run.
func stride() int {
	if testing.Short() {
		return 1 + rand.IntN(8)
	}
	return 1
}

// calls is how many calls to the disk the scenario makes, with opening and closing.
func calls(t *testing.T, o Options) int {
	m := vfs.NewMem()
	w := newWitness(open(t, m, o))
	w.scenario()
	require.NoError(t, w.judge(w.d))
	require.NoError(t, w.close())
	return m.Calls()
}

// cutAt runs the scenario on a disk that stops before a call. It returns what was told, and the disk.
func cutAt(call int, o Options) (*witness, *vfs.Mem) {
	m := vfs.NewMem()
	m.CutAt(call)
	d, err := OpenFS(m, o)
	w := newWitness(d)
	if err == nil {
		w.scenario()
		_ = w.close()
		<-d.done
	}
	return w, m
}

// Power fails, or the process is killed, before each call to the disk. A relapse looks like "was
// acknowledged, and is not there".
func TestNothingAcknowledgedIsLostWhereverItIsCut(t *testing.T) {
	for name, o := range stores() {
		t.Run(name, func(t *testing.T) {
			n := calls(t, o)
			require.Greater(t, n, 100)
			for cut := 1; cut <= n+2; cut += stride() { // the end may come a few calls later: markers are written when there is time
				w, m := cutAt(cut, o)
				for seed := range uint64(5) {
					reopen(t, w, m.Crash(seed), o, fmt.Sprintf("cut before call %d, power failure with seed %d", cut, seed), int(seed)*7+cut%11)
				}
				reopen(t, w, m.Kill(), o, fmt.Sprintf("killed before call %d", cut), 0)
				if t.Failed() {
					return
				}
			}
		})
	}
}

// The process is killed before each call to the disk, so what was renamed or removed may not be synced; another one opens what it sees and
// does a round; and then power fails.
func TestWhatAKilledProcessHasLeftIsDurableAfterARound(t *testing.T) {
	for name, o := range stores() {
		t.Run(name, func(t *testing.T) {
			n := calls(t, o)
			for cut := 1; cut <= n+2; cut += stride() {
				w, m := cutAt(cut, o)
				what := fmt.Sprintf("killed before call %d", cut)
				left := m.Kill()
				d, err := OpenFS(left, o)
				require.NoError(t, err, what)
				require.NoError(t, flush(d), what)
				there := all(d)
				after := left.Crash(0)
				_ = d.Close(context.Background())
				d, err = OpenFS(after, o)
				require.NoError(t, err, what)
				require.NoError(t, w.judge(d), what)
				for key, r := range all(d) {
					require.Equal(t, there[key], r, "%s: what was gone is back", what)
				}
				require.NoError(t, d.Close(context.Background()), what)
			}
		})
	}
}

// reopen opens what a crash has left, and judges it; if again is not 0, power fails once more while
// it is being opened and flushed.
func reopen(t *testing.T, w *witness, m *vfs.Mem, o Options, what string, again int) {
	t.Helper()
	if again > 0 {
		m.CutAt(again)
		if d, err := OpenFS(m, o); err == nil {
			_ = flush(d)
			_ = d.Close(context.Background())
		}
		m = m.Crash(uint64(again))
		what += fmt.Sprintf(", and again before call %d after that", again)
	}
	d, err := OpenFS(m, o)
	require.NoError(t, err, what)
	require.NoError(t, w.judge(d), what)
	require.Zero(t, d.Stats().Quarantined, what)
	before := all(d)
	next := set("written after it", "v")
	require.NoError(t, d.Put(context.Background(), next), what)
	before[next.Key] = next
	require.NoError(t, flush(d), what)
	require.NoError(t, d.Close(context.Background()), what)
	require.NoError(t, checkFolder(m), what)
	d, err = OpenFS(m, o)
	require.NoError(t, err, what)
	require.Equal(t, before, all(d), what)
	// When all is settled nothing is left.
	for _, r := range before {
		d.Settle(r)
	}
	require.NoError(t, d.Close(context.Background()), what)
	require.Equal(t, []string{lockName}, files(t, m), what)
}

// The disk fails at each call. A relapse looks like an acknowledged record that is not there, or a
// store that does not work again.
func TestNothingAcknowledgedIsLostWhereverTheDiskFails(t *testing.T) {
	for _, f := range []struct {
		name  string
		fault vfs.Fault
	}{
		{"one I/O error", vfs.FaultIO},
		{"one call finds the disk full", vfs.FaultNoSpace},
		{"one fsync fails", vfs.Fault{Err: syscall.EIO, On: vfs.CallSync | vfs.CallSyncDir}},
		{"all calls fail from then on", vfs.Fault{Err: syscall.EIO, Sticky: true}},
		{"the disk is full from then on", vfs.Fault{Err: syscall.ENOSPC, On: vfs.CallWrite | vfs.CallCreate | vfs.CallMkdir, Sticky: true}},
		{"fsync fails from then on", vfs.Fault{Err: syscall.EIO, On: vfs.CallSync, Sticky: true}},
	} {
		for name, o := range stores() {
			t.Run(f.name+", "+name, func(t *testing.T) {
				n := calls(t, o)
				for at := 1; at <= n; at += stride() {
					m := vfs.NewMem()
					m.FailAt(at, f.fault)
					failing(t, m, o, fmt.Sprintf("at call %d", at))
					if t.Failed() {
						return
					}
				}
			})
		}
	}
}

func failing(t *testing.T, m *vfs.Mem, o Options, what string) {
	d, err := OpenFS(m, o)
	if err != nil {
		require.ErrorIs(t, err, ErrDisk, what)
		m.Heal()
		d, err = OpenFS(m, o)
	}
	require.NoError(t, err, what)
	w := newWitness(d)
	w.scenario()
	require.NoError(t, w.judge(d), what)

	m.Heal()
	next := set("written after it", "v")
	require.NoError(t, d.Put(context.Background(), next), what)
	w.of(next.Key).tried, w.of(next.Key).acked = []Record{next}, next
	require.NoError(t, flush(d), what)
	require.NoError(t, d.Stats().Err, what)
	require.Zero(t, d.Stats().Dirty, what)
	require.NoError(t, w.judge(d), what)
	before := all(d)
	require.NoError(t, d.Close(context.Background()), what)
	require.NoError(t, checkFolder(m), what)

	d, err = OpenFS(m, o)
	require.NoError(t, err, what)
	require.NoError(t, w.judge(d), what)
	require.Equal(t, before, all(d), what)
	require.Zero(t, d.Stats().Quarantined, what)
	for _, r := range before {
		d.Settle(r)
	}
	require.NoError(t, d.Close(context.Background()), what)
	require.Equal(t, []string{lockName}, files(t, m), what)
}

// hooked is a disk that calls before it does what it is asked to.
type hooked struct {
	*vfs.Mem
	rename func(name string)
	open   func(name string) error
}

func (h *hooked) Rename(from, to string) error {
	if h.rename != nil {
		h.rename(to)
	}
	return h.Mem.Rename(from, to)
}

func (h *hooked) OpenFile(name string, flag int, perm fs.FileMode) (vfs.File, error) {
	if h.open != nil && flag == os.O_RDONLY {
		if err := h.open(name); err != nil {
			return nil, err
		}
	}
	return h.Mem.OpenFile(name, flag, perm)
}

// Only what was in the journal when the round began may be dropped at its end.
func TestWhatIsPutDuringAFlushStaysInTheJournal(t *testing.T) {
	h := &hooked{Mem: vfs.NewMem()}
	d := open(t, h, byHand())
	a, meanwhile, a2 := set("a", "v"), set("meanwhile", "v"), set("a", "changed meanwhile")
	mustPut(t, d, a)
	h.rename = func(string) {
		h.rename = nil
		mustPut(t, d, meanwhile, a2)
	}
	require.NoError(t, flush(d))
	d = open(t, h.Crash(0), byHand())
	expect(t, d, a2, meanwhile)
}

// What is settled while it is being written leaves a file that nobody needs, and an older one of
// its key that nobody may see again.
func TestWhatIsSettledDuringAFlushLeavesNothing(t *testing.T) {
	for _, key := range []string{"a", "b"} { // the one whose file is written, and the one that is next
		h := &hooked{Mem: vfs.NewMem()}
		d := open(t, h, byHand())
		mustPut(t, d, set("a", "old"), set("b", "old"), set("c", "stays"))
		require.NoError(t, flush(d))
		records := map[string]Record{"a": del("a"), "b": del("b")}
		mustPut(t, d, records["a"], records["b"])
		h.rename = func(string) {
			h.rename = nil
			d.Settle(records[key])
		}
		require.NoError(t, flush(d))
		crashed := open(t, h.Crash(0), byHand())
		if got, ok := all(crashed)[key]; ok {
			require.Equal(t, records[key], got)
		}
	}
}

// A record that waits for the next batch of the same round is settled: what it had superseded is
// still in its file, and the journal is about to be dropped.
func TestWhatWasSupersededGoesBeforeTheJournalDoes(t *testing.T) {
	h := &hooked{Mem: vfs.NewMem()}
	d := open(t, h, byHand())
	mustPut(t, d, set("last", "old"))
	require.NoError(t, flush(d))
	for i := range flushBatch {
		mustPut(t, d, set(fmt.Sprint(i), "v"))
	}
	last := del("last")
	mustPut(t, d, last)
	h.rename = func(string) {
		h.rename = nil
		d.Settle(last)
	}
	require.NoError(t, flush(d))
	d = open(t, h.Crash(0), byHand())
	if got, ok := all(d)["last"]; ok {
		require.Equal(t, last, got)
	}
	require.Equal(t, flushBatch, d.Stats().Sets)
}

// A fill is not synced, but what it takes the place of must be gone for good.
func TestAFillOverASettledRecordBringsNothingBack(t *testing.T) {
	// In a folder that is not removed with the file, as there is another one in it.
	var key, neighbour string
	for i, seen := 0, map[string]string{}; neighbour == ""; i++ {
		key = fmt.Sprint(i)
		folder := digestOf(key).folder(0)
		neighbour, seen[folder] = seen[folder], key
	}
	for fail := range 6 {
		m := vfs.NewMem()
		d := open(t, m, byHand())
		mustPut(t, d, set(key, "old"), set(neighbour, "v"))
		require.NoError(t, flush(d))
		gone := del(key)
		mustPut(t, d, gone)
		d.Settle(gone)
		d.Fill(fill(key, "loaded"))
		m.FailAt(fail, vfs.Fault{Err: syscall.EIO, On: vfs.CallSyncDir})
		_ = flush(d)
		m.Heal()
		require.NoError(t, flush(d))
		d = open(t, m.Crash(0), byHand())
		if got, ok := all(d)[key]; ok {
			require.NotEqual(t, "old", got.Value, "when sync %d failed", fail)
		}
	}
}

// While a reader looks for a file it goes, and comes again: the record was settled and put once
// more.
func TestAReaderIsNotMisledByAFileThatComesAgain(t *testing.T) {
	o := byHand()
	o.forget = true
	h := &hooked{Mem: vfs.NewMem()}
	d := open(t, h, o)
	r := set("k", "v")
	mustPut(t, d, r, set("other", "v"))
	require.NoError(t, flush(d))
	h.open = func(string) error {
		h.open = nil
		d.Settle(r)
		require.NoError(t, flush(d))
		require.False(t, exists(t, h, pathOf("k")))
		mustPut(t, d, r)
		require.NoError(t, flush(d))
		return fs.ErrNotExist
	}
	expect(t, d, r)
	require.True(t, d.Pending("k"))
}

// Writers, a replay and the flusher at once, and power fails somewhere in it.
func TestNothingAcknowledgedIsLostUnderConcurrency(t *testing.T) {
	rounds := 300
	if testing.Short() {
		rounds = 60
	}
	for round := range rounds {
		m := vfs.NewMem()
		m.CutAt(20 + 7*round%400)
		d, err := OpenFS(m, Options{Logger: quiet(), MaxQueue: 1, FlushInterval: time.Millisecond, hurry: 2})
		require.NoError(t, err)
		var wg sync.WaitGroup
		witnesses := make([]*witness, 6)
		for g := range witnesses {
			w := newWitness(d)
			witnesses[g] = w
			wg.Go(func() { // ends with the machine
				for i := 0; ; i++ {
					key := fmt.Sprint(g, "-", i%4)
					r := Record{Op: OpSet, Key: key, Value: strings.Repeat("v", 100*(i%5)), Expires: 1 << 50, Stamp: fmt.Sprintf("%06d", i)}
					switch i % 6 {
					case 1:
						r = Record{Op: OpDel, Key: key, Stamp: r.Stamp}
					case 4:
						w.settle(key)
						r.Op = OpFill
						w.fill(r)
						continue
					}
					if w.put(r); w.failed {
						return
					}
				}
			})
		}
		wg.Wait()
		_ = d.Close(context.Background())
		again, err := OpenFS(m.Crash(uint64(round%3)), byHand())
		require.NoError(t, err)
		for _, w := range witnesses[1:] {
			maps.Copy(witnesses[0].keys, w.keys)
		}
		require.NoError(t, witnesses[0].judge(again), "round %d", round)
		require.NoError(t, again.Close(context.Background()))
	}
}
