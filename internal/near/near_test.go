package near

import (
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/freshness"
	"github.com/redaside/aside/internal/wire"
)

// clock is a memory's idea of time in these tests.
type clock struct{ atomic.Int64 }

func (c *clock) now() int64 { return c.Load() }

// newTest returns a memory, and the Validity of a server that works for ever.
func newTest(maxBytes int64, options ...func(*Options)) (*Memory, *Validity, *clock) {
	c := new(clock)
	c.Store(1)
	v := NewValidity(true)
	v.Restore()
	v.Prove(v.Epoch(), never)
	o := Options{MaxBytes: maxBytes, AwayTTL: 30 * time.Second, Now: c.now}
	for _, set := range options {
		set(&o)
	}
	return New(o), v, c
}

func TestACommittedEntryIsFoundUntilItsTTL(t *testing.T) {
	m, v, c := newTest(1 << 20)
	r := m.Reserve("k", v)
	c.Add(5) // the answer takes its time; the ttl counts from the request
	require.NotNil(t, m.Commit("k", r, Value{Raw: "v", TTL: 100}))
	c.Store(100)
	require.Equal(t, "v", m.Lookup("k").Raw())
	c.Store(101)
	require.Nil(t, m.Lookup("k"))
	require.NotNil(t, m.Commit("forever", m.Reserve("forever", v), Value{Raw: "v", TTL: -1}))
	require.NotNil(t, m.Commit("long", m.Reserve("long", v), Value{Raw: "v", TTL: time.Duration(never)}))
	c.Store(never - 1)
	require.NotNil(t, m.Lookup("forever"))
	require.NotNil(t, m.Lookup("long"))
}

// The race that reservations are for: the push is handled between the answer and its being stored.
func TestAPushThatOvertakesTheAnswerVoidsIt(t *testing.T) {
	m, v, _ := newTest(1 << 20)
	r := m.Reserve("k", v)
	m.Drop("k")
	require.Nil(t, m.Commit("k", r, Value{Raw: "stale", TTL: time.Minute}))
	require.Nil(t, m.Lookup("k"))

	r = m.Reserve("k", v)
	v.NewEpoch() // the connection is lost, and of what was asked on it no change is told
	require.Nil(t, m.Commit("k", r, Value{Raw: "stale", TTL: time.Minute}))

	r = m.Reserve("k", v)
	m.Wake("k") // own fill of another flight: nothing has changed
	require.NotNil(t, m.Commit("k", r, Value{Raw: "v", TTL: time.Minute}))
}

func TestAnEntryIsUsedInItsEpochAndItsLeaseOnly(t *testing.T) {
	m, v, c := newTest(1 << 20)
	other := NewValidity(true)
	other.Prove(other.Epoch(), never)
	m.Commit("k", m.Reserve("k", v), Value{Raw: "v", TTL: time.Hour})
	m.Commit("o", m.Reserve("o", other), Value{Raw: "v", TTL: time.Hour})
	v.Prove(v.Epoch(), 50)
	c.Store(49)
	require.NotNil(t, m.Lookup("k"))
	c.Store(50)
	require.Nil(t, m.Lookup("k"))
	v.Prove(v.Epoch(), 100) // the connection was slow, not lost: what it said still holds
	require.NotNil(t, m.Lookup("k"))
	v.NewEpoch()
	v.Prove(v.Epoch(), 100)
	require.Nil(t, m.Lookup("k"))
	require.NotNil(t, m.Lookup("o"), "another server is not concerned")
}

func TestNothingIsKeptThatNobodyTellsUsOf(t *testing.T) {
	m, _, _ := newTest(1 << 20)
	untracked := NewValidity(false)
	require.Nil(t, m.Commit("k", m.Reserve("k", untracked), Value{Raw: "v", TTL: time.Minute}))
	none, v, _ := newTest(-1)
	require.Nil(t, none.Commit("k", none.Reserve("k", v), Value{Raw: "v", TTL: time.Minute}))
	require.Nil(t, none.Lookup("k"))
	none.Drop("k")
}

func TestAWaiterIsWokenOnceAndLeavesNothing(t *testing.T) {
	m, v, _ := newTest(1 << 20)
	for _, wake := range []func(){func() { m.Drop("k") }, func() { m.Wake("k") }, m.WakeAll} {
		changed, leave, ok := m.Wait("k", m.Reserve("k", v), nil)
		require.True(t, ok)
		again, leaveAgain, ok := m.Wait("k", m.Reserve("k", v), nil)
		require.True(t, ok)
		require.Equal(t, 1, m.waiting())
		wake()
		<-changed
		<-again
		leave()
		leaveAgain()
		require.Zero(t, m.waiting())
	}
	_, leave, _ := m.Wait("k", m.Reserve("k", v), nil)
	leave()
	require.Zero(t, m.waiting(), "who leaves unwoken takes the entry along")
	r := m.Reserve("k", v)
	m.Drop("k")
	_, _, ok := m.Wait("k", r, nil)
	require.False(t, ok, "it has changed since it was asked for: ask again")
}

// A decoded value is accounted for where it is attached, and only while its entry is still the one
// in memory.
func TestDecodedValuesCount(t *testing.T) {
	m, v, _ := newTest(1 << 20)
	e := m.Commit("k", m.Reserve("k", v), Value{Raw: strings.Repeat("x", 1000), TTL: time.Hour})
	settledSize := func() int64 { // otter weighs in the background
		m.CleanUp()
		_, bytes := m.Size()
		return bytes
	}
	before := settledSize()
	m.KeepDecoded("k", e, &Decoded{By: "codec", Value: new(int)}, 1100)
	require.Greater(t, settledSize(), before+1000)
	m.Drop("k")
	m.KeepDecoded("k", e, &Decoded{By: "other", Value: new(int)}, 5000)
	require.Nil(t, m.Lookup("k"), "what was dropped does not come back")
	require.Zero(t, settledSize())
}

// The estimate of an entry's size is not below what the heap says, and many more keys than there is
// room for stay within the bound.
func TestMemoryStaysWithinItsBytes(t *testing.T) {
	require.LessOrEqual(t, unsafe.Sizeof(Entry{}), uintptr(80), "one byte more costs 16")
	const bound = 16 << 20
	m, v, _ := newTest(bound)
	before := heap()
	for i := range 300_000 { // there is room for some 46,000
		key := fmt.Sprintf("user:%08d", i)
		e := m.Commit(key, m.Reserve(key, v), Value{Raw: strings.Repeat("v", 50), TTL: time.Hour})
		if i%2 == 0 {
			m.KeepDecoded(key, e, &Decoded{By: "codec", Value: &struct{ name, mail string }{key, key}}, 32)
		}
	}
	m.CleanUp()
	grown := heap() - before
	entries, bytes := m.Size()
	t.Logf("%d entries, estimated at %d bytes, take %d bytes of heap", entries, bytes, grown)
	require.LessOrEqual(t, bytes, int64(bound))
	require.LessOrEqual(t, grown, int64(bound))
	require.Greater(t, entries, 10_000)
	runtime.KeepAlive(m)
}

func TestALookupTakesNoAllocation(t *testing.T) {
	for _, keys := range []int{0, 10} {
		m, v, _ := newTest(1<<20, func(o *Options) { o.MaxKeys = keys })
		m.Commit("k", m.Reserve("k", v), Value{Raw: "v", TTL: time.Hour})
		require.Zero(t, testing.AllocsPerRun(100, func() { m.Lookup("k") }))
	}
}

// What memory held when Redis went away is served for AwayTTL; what was loaded since, for as long,
// but in this outage only.
func TestMemoryInAnOutage(t *testing.T) {
	m, v, c := newTest(1<<20, func(o *Options) { o.AwayTTL = 100 })
	v.Prove(v.Epoch(), never)
	require.NotNil(t, m.Commit("old epoch", m.Reserve("old epoch", v), Value{Raw: "v", TTL: -1}))
	v.NewEpoch()
	v.Prove(v.Epoch(), never)
	require.NotNil(t, m.Commit("k", m.Reserve("k", v), Value{Raw: "v", TTL: -1}))
	require.NotNil(t, m.Commit("short", m.Reserve("short", v), Value{Raw: "v", TTL: 50}))
	require.NotNil(t, m.Commit("gone", m.Reserve("gone", v), Value{Raw: "v", TTL: -1}))

	away := func() { v.Degrade(c.now() + 100) }
	v.Restore()
	v.Prove(v.Epoch(), 0)
	require.Nil(t, m.Lookup("k"), "healthy, without a lease")
	away()
	m.Drop("gone")
	require.Nil(t, m.Lookup("gone"))
	require.Nil(t, m.Lookup("old epoch"), "it was unverified before")
	require.NotNil(t, m.CommitAway("loaded", Away{Value: Value{Raw: "v", TTL: time.Hour}, Valid: v, Outage: v.Outage(), Changes: m.Changes("loaded")}))
	c.Add(49)
	require.Equal(t, "v", m.Lookup("k").Raw())
	require.NotNil(t, m.Lookup("short"))
	c.Add(1)
	require.Nil(t, m.Lookup("short"), "its own ttl is over")
	c.Add(49)
	require.NotNil(t, m.Lookup("k"))
	require.NotNil(t, m.Lookup("loaded"))
	c.Add(1)
	require.Nil(t, m.Lookup("k"))
	require.Nil(t, m.Lookup("loaded"))

	require.NotNil(t, m.CommitAway("loaded", Away{Value: Value{Raw: "v", TTL: time.Hour}, Valid: v, Outage: v.Outage(), Changes: m.Changes("loaded")}))
	v.Restore()
	v.Prove(v.Epoch(), never)
	require.NotNil(t, m.Lookup("k"), "same connection: its pushes were not lost but late")
	require.Nil(t, m.Lookup("loaded"), "nobody has told Redis that we have it")
	v.Prove(v.Epoch(), 0)
	away()
	require.Nil(t, m.Lookup("loaded"), "of an earlier outage: anybody may have deleted it in between")

	require.Nil(t, m.CommitAway("late", Away{Value: Value{Raw: "stale", TTL: time.Hour}, Valid: v, Outage: v.Outage() - 1, Changes: m.Changes("late")}), "of the outage before")
	changes := m.Changes("late")
	m.Drop("late")
	require.Nil(t, m.CommitAway("late", Away{Value: Value{Raw: "stale", TTL: time.Hour}, Valid: v, Outage: v.Outage(), Changes: changes, Then: func() { t.Error("recorded") }}), "deleted during its load")
}

// What is loaded while the server is away is stored whatever breaks meanwhile: only a change of its
// key, or another outage, makes it void. A reservation for an answer is void, and nobody waits for a
// push that the lost connection would have had to bring.
func TestALostConnectionVoidsReservationsAndNothingThatIsLoadedAway(t *testing.T) {
	m, v, _ := newTest(1 << 20)
	reserved := m.Reserve("k", v)
	v.Degrade(0)
	changes, gen := m.Changes("k"), m.Generation("k")
	commit := func() *Entry {
		return m.CommitAway("k", Away{Value: Value{Raw: "v", TTL: time.Hour}, Valid: v, Outage: v.Outage(), Changes: changes})
	}
	m.WakeAll()
	require.NotEqual(t, gen, m.Generation("k"))
	require.Nil(t, m.Commit("k", reserved, Value{Raw: "v", TTL: time.Hour}))
	_, _, ok := m.Wait("k", reserved, nil)
	require.False(t, ok)
	require.NotNil(t, commit())
	m.Invalidate("k")
	require.Nil(t, commit(), "it has changed")
	require.Equal(t, changes+2, m.Drop("k"))
	m.WakeAll()
	require.Equal(t, changes+2, m.Changes("k"))
}

// While a new topology takes over there are callers that go by the old one. What they store, under
// a server that has left or lost the slot, must not be served: its key has another home.
func TestWhatIsStoredByAnOldTopologyIsNotServed(t *testing.T) {
	for _, leaves := range []bool{true, false} {
		var home *Validity
		m, old, _ := newTest(1<<20, func(o *Options) { o.Home = func(string) *Validity { return home } })
		home = old
		old.Degrade(0)
		store := func() *Entry { // with what it has looked at last
			return m.CommitAway("k", Away{Value: Value{Raw: "old", TTL: time.Hour}, Valid: old, Outage: old.Outage(), Changes: m.Changes("k")})
		}
		read := func() *Entry { return m.Commit("k", m.Reserve("k", old), Value{Raw: "old", TTL: time.Hour}) }

		require.NotNil(t, store())
		require.NotNil(t, m.Lookup("k"))
		home = NewValidity(true)
		if leaves {
			old.Retire()
		} else {
			old.InvalidateAll()
		}
		old.Prove(old.Epoch(), never) // a node that is cut off from the others may go on answering us
		require.Nil(t, m.Lookup("k"), "stored before the topology changed")
		require.Nil(t, store(), "after")
		require.Nil(t, read(), "after")
		require.Nil(t, m.Lookup("k"))
	}
}

// Whoever reads, and however the answers are delayed: once a change was told, what was there before
// is not served.
func TestWhatHasChangedIsNotServed(t *testing.T) {
	for name, set := range map[string]func(*Options){"otter": func(*Options) {}, "LRU": func(o *Options) { o.MaxKeys = 10 }} {
		t.Run(name, func(t *testing.T) {
			m, v, _ := newTest(1<<20, set)
			var redis atomic.Int64
			var readers sync.WaitGroup
			ends := make(chan struct{})
			for range 4 {
				readers.Go(func() {
					for {
						select {
						case <-ends:
							return
						default:
						}
						r := m.Reserve("k", v)
						answer := redis.Load()
						runtime.Gosched() // the answer is on its way
						m.Commit("k", r, Value{Raw: strconv.FormatInt(answer, 10), TTL: time.Hour})
					}
				})
			}
			served := 0
			for range 2000 {
				now := redis.Add(1)
				m.Invalidate("k")
				for range 10 {
					if e := m.Lookup("k"); e != nil {
						served++
						value, err := strconv.ParseInt(e.Raw(), 10, 64)
						if err != nil || value < now {
							t.Errorf("%q is served after the change to %d was told", e.Raw(), now)
						}
					}
					runtime.Gosched()
				}
			}
			close(ends)
			readers.Wait()
			require.Positive(t, served)
		})
	}
}

// A void reservation stores nothing, and says that nothing is told to us, so that its holder polls.
func TestAVoidReservationStoresNothing(t *testing.T) {
	m, v, _ := newTest(1 << 20)
	r := m.Reserve("k", v)
	require.True(t, r.Pushes())
	r.Void()
	require.False(t, r.Pushes())
	require.Nil(t, m.Commit("k", r, Value{Raw: "v", TTL: time.Hour}))
	e := m.Prepare("k", r, Value{Raw: "v", TTL: time.Hour})
	require.Nil(t, e)
	require.Nil(t, m.Put("k", r, e))
	require.Nil(t, m.Commit("k", Reservation{}, Value{Raw: "v", TTL: time.Hour}))
	_, leave, ok := m.Wait("k", r, nil)
	require.True(t, ok, "but its generation is good")
	leave()
}

// What was loaded is stored once Redis has accepted it, and not if the key has changed meanwhile.
func TestWhatIsLoadedIsPreparedAndPut(t *testing.T) {
	m, v, c := newTest(1 << 20)
	r := m.Reserve("k", v)
	e := m.Prepare("k", r, Value{Raw: "v", TTL: 100})
	require.Nil(t, m.Lookup("k"), "not accepted yet")
	c.Add(7)
	require.Same(t, e, m.Put("k", r, e))
	require.Same(t, e, m.Lookup("k"))
	require.False(t, e.Read())
	require.EqualValues(t, 1, e.At())
	ends, ok := e.Ends()
	require.True(t, ok)
	require.EqualValues(t, 101, ends)

	r = m.Reserve("absent", v)
	e = m.Prepare("absent", r, Value{Absent: true, TTL: -1})
	require.True(t, e.Absent())
	_, ok = e.Ends()
	require.False(t, ok)
	m.Drop("absent")
	require.Nil(t, m.Put("absent", r, e))
	require.Nil(t, m.Lookup("absent"))
}

// MaxTTL ends the use of an entry, not its key; AwayTTL that of what was loaded in an outage,
// unless it is -1.
func TestEntriesAreServedAsLongAsTheOptionsSay(t *testing.T) {
	m, v, c := newTest(1<<20, func(o *Options) { o.MaxTTL = 50 })
	e := m.Commit("k", m.Reserve("k", v), Value{Raw: "v", TTL: 100})
	ends, _ := e.Ends()
	require.EqualValues(t, 101, ends)
	c.Store(50)
	require.NotNil(t, m.Lookup("k"))
	c.Store(51)
	require.Nil(t, m.Lookup("k"))

	for _, bound := range []time.Duration{50, -1} {
		m, v, c := newTest(1<<20, func(o *Options) { o.AwayTTL = bound })
		v.Degrade(never)
		m.CommitAway("k", Away{Value: Value{Raw: "v", TTL: 100}, Valid: v, Outage: v.Outage()})
		c.Store(50)
		require.NotNil(t, m.Lookup("k"))
		c.Store(51)
		require.Equal(t, bound < 0, m.Lookup("k") != nil)
		c.Store(101)
		require.Nil(t, m.Lookup("k"))
	}
}

// What goes with a write in an outage is done although no entry is kept, and before anybody can see
// the entry.
func TestThenIsCalledIfTheKeyHasNotChanged(t *testing.T) {
	for _, maxBytes := range []int64{1 << 20, -1} {
		m, v, _ := newTest(maxBytes)
		require.Equal(t, maxBytes > 0, m.Keeps())
		v.Degrade(never)
		then := 0
		e := m.CommitAway("k", Away{Value: Value{Raw: "v", TTL: time.Hour}, Valid: v, Outage: v.Outage(), Changes: m.Changes("k"), Then: func() {
			then++
			require.Nil(t, m.Lookup("k"))
		}})
		require.Equal(t, 1, then)
		require.Equal(t, m.Keeps(), e != nil)
	}
}

// Early is told of what an invalidation finds in memory, and of what it comes before; not of what
// this process drops.
func TestEarlyInvalidationsAreTold(t *testing.T) {
	var told []string
	m, v, _ := newTest(1<<20, func(o *Options) {
		o.Early = func(e *Entry) { told = append(told, fmt.Sprint(e.Raw(), e.Read())) }
	})
	m.Invalidate("k")
	m.Commit("k", m.Reserve("k", v), Value{Raw: "read", TTL: time.Hour})
	m.Invalidate("k")
	require.Nil(t, m.Lookup("k"))
	r := m.Reserve("k", v)
	e := m.Prepare("k", r, Value{Raw: "loaded", TTL: time.Hour})
	m.Invalidate("k")
	m.Put("k", r, e)
	require.Equal(t, []string{"readtrue", "loadedfalse"}, told)

	m.Commit("k", m.Reserve("k", v), Value{Raw: "v", TTL: time.Hour})
	m.Drop("k")
	r = m.Reserve("k", v)
	v.NewEpoch()
	m.Invalidate("k")
	m.Commit("k", r, Value{Raw: "v", TTL: time.Hour})
	require.Len(t, told, 2, "and of nothing that was read on another connection")
}

// A codec finds its own decoded value and no other's.
func TestADecodedValueIsItsCodecs(t *testing.T) {
	m, v, _ := newTest(1 << 20)
	e := m.Commit("k", m.Reserve("k", v), Value{Raw: "1", TTL: time.Hour, Room: 8})
	require.Nil(t, e.DecodedBy("codec"))
	one := 1
	m.KeepDecoded("k", e, &Decoded{By: "codec", Value: &one}, 8)
	require.Same(t, &one, e.DecodedBy("codec"))
	require.Nil(t, e.DecodedBy("another"))
}

// A hint wakes a caller that waits for several keys; one token is enough for many.
func TestAHintIsGivenForEachKeyThatChanges(t *testing.T) {
	m, v, _ := newTest(1 << 20)
	hint := make(chan struct{}, 1)
	for _, key := range []string{"a", "b"} {
		_, _, ok := m.Wait(key, m.Reserve(key, v), hint)
		require.True(t, ok)
	}
	m.Wake("a")
	m.Invalidate("b")
	<-hint
	require.Empty(t, hint)
	require.Zero(t, m.waiting())
}

// Close drops what there is.
func TestNothingIsLeftAfterClose(t *testing.T) {
	for _, keys := range []int{0, 10} {
		m, v, _ := newTest(1<<20, func(o *Options) { o.MaxKeys = keys })
		m.Commit("k", m.Reserve("k", v), Value{Raw: "v", TTL: time.Hour})
		m.CleanUp()
		entries, bytes := m.Size()
		require.Equal(t, 1, entries)
		require.Positive(t, bytes)
		m.Close()
		require.Nil(t, m.Lookup("k"))
		entries, _ = m.Size()
		require.Zero(t, entries)
	}
	none, _, _ := newTest(-1)
	none.Close()
	none.CleanUp()
	entries, bytes := none.Size()
	require.Zero(t, entries)
	require.Zero(t, bytes)
}

// waiting counts the keys that somebody waits for.
func (m *Memory) waiting() (keys int) {
	for i := range m.stripes {
		s := &m.stripes[i]
		s.mu.Lock()
		keys += len(s.waiters)
		s.mu.Unlock()
	}
	return keys
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

type lasting struct{}

func (lasting) Lasting() {}

// What is kept beside an entry is attached to whichever the key has, passes to the next entry of the
// same value and version, and gives way to no codec's value; a change of the key ends it.
func TestWhatIsKeptBesideAnEntryLasts(t *testing.T) {
	m, v, _ := newTest(1 << 20)
	commit := func(raw string, version int64) *Entry {
		e := m.Commit("k", m.Reserve("k", v), Value{Raw: raw, TTL: time.Hour, Meta: &Meta{Header: wire.Header{Version: version}}})
		require.NotNil(t, e)
		return e
	}
	all := func(*Entry) bool { return true }
	keep := func(gen uint64, fits func(*Entry) bool) {
		m.KeepBeside("k", gen, &Decoded{By: "codec", Value: lasting{}}, 100, fits)
	}
	keep(m.Generation("k"), all) // there is no entry
	first := commit("v", 2)
	gen := m.Generation("k")
	keep(gen, func(*Entry) bool { return false })
	require.Nil(t, first.DecodedBy("codec"))
	keep(gen-1, all)
	require.Nil(t, first.DecodedBy("codec"), "it has changed since")
	m.KeepDecoded("k", first, &Decoded{By: "other", Value: new(int)}, 1)
	keep(gen, all)
	require.Equal(t, lasting{}, first.DecodedBy("codec"))
	m.KeepDecoded("k", first, &Decoded{By: "other", Value: new(int)}, 1)
	require.Equal(t, lasting{}, first.DecodedBy("codec"))
	second := commit("v", 2)
	require.NotSame(t, first, second)
	require.Equal(t, lasting{}, second.DecodedBy("codec"))
	require.Equal(t, first.weight.Load(), second.weight.Load())
	require.Nil(t, commit("v", 3).DecodedBy("codec"))
	require.Nil(t, commit("w", 3).DecodedBy("codec"))
	keep(m.Generation("k"), all)
	m.Invalidate("k")
	require.Nil(t, commit("w", 3).DecodedBy("codec"))
	keep(m.Generation("k"), all)
	v.NewEpoch()
	require.Nil(t, commit("w", 3).DecodedBy("codec"), "on another connection: a change may have been missed")
}

// Where no changes are told, the same value says nothing of what was kept beside it: time ends it.
func TestWhatIsKeptBesideAnUntrackedEntryEndsWithIt(t *testing.T) {
	m, _, _ := newTest(1<<20, func(o *Options) { o.UntrackedTTL = time.Minute })
	v := NewValidity(false)
	commit := func() *Entry {
		e := m.Commit("k", m.Reserve("k", v), Value{Raw: "v", TTL: time.Hour, Meta: &Meta{Header: wire.Header{Version: 2}}})
		require.NotNil(t, e)
		return e
	}
	first := commit()
	m.KeepDecoded("k", first, &Decoded{By: "codec", Value: lasting{}}, 100)
	require.Equal(t, lasting{}, first.DecodedBy("codec"))
	require.Nil(t, commit().DecodedBy("codec"))
}

// A key that is put together is found as a whole one is, however long it is, and costs no allocation
// up to a length.
func TestAKeyIsFoundByItsTwoParts(t *testing.T) {
	for _, n := range []int{1, 6, 46, 47, 48, 49, 127, 128, 129, 1000} {
		for _, split := range []int{1, n / 2, n} {
			key := strings.Repeat("k", n-1) + "!"
			m, valid, _ := newTest(1 << 20)
			require.NotNil(t, m.Commit(key, m.Reserve(key, valid), Value{Raw: "v", TTL: time.Hour}))
			prefix, need := NewPrefix(key[:split]), freshness.Need{}
			require.NotNil(t, m.LookupJoined(&prefix, key[split:], time.Hour, &need).Entry, "%d, %d", n, split)
			require.Nil(t, m.LookupJoined(&prefix, key[split:]+"x", time.Hour, &need).Entry)
			if n <= 128 {
				require.Zero(t, testing.AllocsPerRun(10, func() { m.LookupJoined(&prefix, key[split:], time.Hour, &need) }), n)
			}
		}
	}
}
