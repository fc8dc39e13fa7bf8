package aside

import (
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/codec/zstd"
)

// clock is a near's idea of time in these tests.
type clock struct{ atomic.Int64 }

func (c *clock) now() int64 { return c.Load() }

func newTestNear(bytes int64) (*memoryNear, *shard, *clock) {
	c := new(clock)
	c.Store(1)
	sh := newLooseLink().newShard("", nil, true)
	sh.valid.Prove(sh.valid.Epoch(), never)
	return newNear(newMemory(bytes, 0), 30*time.Second, c.now), sh, c
}

func TestACommittedEntryIsFoundUntilItsTTL(t *testing.T) {
	n, sh, c := newTestNear(1 << 20)
	r := n.reserve("k", sh)
	c.Add(5) // the answer takes its time; the ttl counts from the question
	require.NotNil(t, n.commit("k", r, "v", false, 100, 0))
	c.Store(100)
	require.Equal(t, "v", n.lookup("k").raw)
	c.Store(101)
	require.Nil(t, n.lookup("k"))
	require.NotNil(t, n.commit("forever", n.reserve("forever", sh), "v", false, -1, 0))
	require.NotNil(t, n.commit("long", n.reserve("long", sh), "v", false, time.Duration(never), 0))
	c.Store(never - 1)
	require.NotNil(t, n.lookup("forever"))
	require.NotNil(t, n.lookup("long"))
}

// The race that reservations are for: the push is handled between the answer and its being stored.
func TestAPushThatOvertakesTheAnswerVoidsIt(t *testing.T) {
	n, sh, _ := newTestNear(1 << 20)
	r := n.reserve("k", sh)
	n.drop("k")
	require.Nil(t, n.commit("k", r, "stale", false, time.Minute, 0))
	require.Nil(t, n.lookup("k"))

	r = n.reserve("k", sh)
	sh.newEpoch() // the connection is lost, and what was asked on it is not told of
	require.Nil(t, n.commit("k", r, "stale", false, time.Minute, 0))

	r = n.reserve("k", sh)
	n.wake("k") // own fill of another flight: nothing has changed
	require.NotNil(t, n.commit("k", r, "v", false, time.Minute, 0))
}

func TestAnEntryIsUsedInItsEpochAndItsLeaseOnly(t *testing.T) {
	n, sh, c := newTestNear(1 << 20)
	other := newLooseLink().newShard("other", nil, true)
	other.valid.Prove(other.valid.Epoch(), never)
	n.commit("k", n.reserve("k", sh), "v", false, time.Hour, 0)
	n.commit("o", n.reserve("o", other), "v", false, time.Hour, 0)
	sh.valid.Prove(sh.valid.Epoch(), 50)
	c.Store(49)
	require.NotNil(t, n.lookup("k"))
	c.Store(50)
	require.Nil(t, n.lookup("k"))
	sh.valid.Prove(sh.valid.Epoch(), 100) // the connection was slow, not lost: what it said still holds
	require.NotNil(t, n.lookup("k"))
	sh.newEpoch()
	sh.valid.Prove(sh.valid.Epoch(), 100)
	require.Nil(t, n.lookup("k"))
	require.NotNil(t, n.lookup("o"), "another shard is not concerned")
}

func TestNothingIsKeptThatNobodyTellsUsOf(t *testing.T) {
	n, _, _ := newTestNear(1 << 20)
	untracked := newLooseLink().newShard("", nil, false)
	require.Nil(t, n.commit("k", n.reserve("k", untracked), "v", false, time.Minute, 0))
	none, sh, _ := newTestNear(-1)
	require.Nil(t, none.commit("k", none.reserve("k", sh), "v", false, time.Minute, 0))
	require.Nil(t, none.lookup("k"))
	none.drop("k")
}

func TestAWaiterIsWokenOnceAndLeavesNothing(t *testing.T) {
	n, sh, _ := newTestNear(1 << 20)
	for _, wake := range []func(){func() { n.drop("k") }, func() { n.wake("k") }, n.wakeAll} {
		changed, leave, ok := n.wait("k", n.reserve("k", sh), nil)
		require.True(t, ok)
		again, leaveAgain, ok := n.wait("k", n.reserve("k", sh), nil)
		require.True(t, ok)
		require.Equal(t, 1, n.waiting())
		wake()
		<-changed
		<-again
		leave()
		leaveAgain()
		require.Zero(t, n.waiting())
	}
	_, leave, _ := n.wait("k", n.reserve("k", sh), nil)
	leave()
	require.Zero(t, n.waiting(), "who leaves unwoken takes the entry along")
	r := n.reserve("k", sh)
	n.drop("k")
	_, _, ok := n.wait("k", r, nil)
	require.False(t, ok, "it has changed since the question: ask again")
}

// A decoded value is accounted for where it is attached, and only while its entry is still the one in memory.
func TestDecodedValuesCount(t *testing.T) {
	n, sh, _ := newTestNear(1 << 20)
	e := n.commit("k", n.reserve("k", sh), strings.Repeat("x", 1000), false, time.Hour, 0)
	settledSize := func() int64 { // otter weighs in the background
		n.cache.otter.CleanUp()
		_, bytes := n.size()
		return bytes
	}
	before := settledSize()
	n.keep("k", e, &decoded{by: "codec", value: new(int)}, 1100)
	require.Greater(t, settledSize(), before+1000)
	n.drop("k")
	n.keep("k", e, &decoded{by: "other", value: new(int)}, 5000)
	require.Nil(t, n.lookup("k"), "what was dropped does not come back")
	require.Zero(t, settledSize())
}

// The estimate of an entry's size is not below what the heap says, and a million keys stay within the bound.
func TestMemoryStaysWithinItsBytes(t *testing.T) {
	require.LessOrEqual(t, unsafe.Sizeof(entry{}), uintptr(80), "one byte more costs 16")
	const bound = 16 << 20
	n, sh, _ := newTestNear(bound)
	before := heap()
	for i := range 1_000_000 {
		key := fmt.Sprintf("user:%08d", i)
		e := n.commit(key, n.reserve(key, sh), strings.Repeat("v", 50), false, time.Hour, 0)
		if i%2 == 0 {
			n.keep(key, e, &decoded{by: "codec", value: &struct{ name, mail string }{key, key}}, 32)
		}
	}
	n.cache.otter.CleanUp()
	grown := heap() - before
	entries, bytes := n.size()
	t.Logf("%d entries, estimated at %d bytes, take %d bytes of heap", entries, bytes, grown)
	require.LessOrEqual(t, bytes, int64(bound))
	require.LessOrEqual(t, grown, int64(bound))
	require.Greater(t, entries, 10_000)
	runtime.KeepAlive(n)
}

// So it is where values are small as they are stored and large as they are kept: compressed, or a short piece of a long string.
func TestMemoryStaysWithinItsBytesWhateverIsDecoded(t *testing.T) {
	type page struct{ Title, Body string }
	type deep struct {
		Tags []string
		By   map[string]any
		At   *time.Time
	}
	text := func(i int) string { return strings.Repeat(fmt.Sprintf("%08d ", i), 30_000) }
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))
	for name, decodeAll := range map[string]func(t *testing.T, c *Client, sh *shard){
		"compressed":         keeps(zstd.New(codec.JSON[page](), 0), func(i int) page { return page{fmt.Sprint(i), text(i)} }),
		"compressed strings": keeps(zstd.New(codec.String(), 0), text),
		"shared": keeps(zstd.New(codec.JSON[*deep](), 0), func(i int) *deep {
			d := &deep{By: make(map[string]any), At: &at}
			for n := range 1000 {
				d.Tags = append(d.Tags, "tag")
				d.By[fmt.Sprint(n)] = []any{float64(i), "v"}
			}
			return d
		}, Shared()),
		"a piece of what was decoded": keeps(codec.Func(func(s string) (string, error) { return s, nil }, func(s string) (string, error) {
			return strings.Repeat(s, 100_000)[:8], nil
		}), func(i int) string { return fmt.Sprintf("%08d", i) }),
		"plain": keeps(codec.String(), func(i int) string { return text(i)[:100_000] }),
	} {
		t.Run(name, func(t *testing.T) {
			const bound = 8 << 20
			n, sh, _ := newTestNear(bound)
			c := &Client{near: n}
			zstd := zstd.New(codec.String(), 0) // its working memory is not ours
			for range 4 {
				s, err := zstd.Encode(text(0))
				require.NoError(t, err)
				_, err = zstd.Decode(s)
				require.NoError(t, err)
			}
			before := heap()
			decodeAll(t, c, sh)
			n.cache.otter.CleanUp()
			grown := heap() - before
			entries, bytes := n.size()
			t.Logf("%d entries, estimated at %d bytes, take %d bytes of heap", entries, bytes, grown)
			require.LessOrEqual(t, grown, int64(bound)*9/8, "zstd keeps what it decoded last")
			require.Positive(t, entries)
			runtime.KeepAlive(c)
		})
	}
}

// keeps commits four hundred values and decodes them, as hits do.
func keeps[T any](co codec.Codec[T], value func(i int) T, opts ...ViewOption) func(t *testing.T, c *Client, sh *shard) {
	return func(t *testing.T, c *Client, sh *shard) {
		view := Typed(c, co, opts...)
		for i := range 400 {
			raw, err := co.Encode(value(i))
			require.NoError(t, err)
			raw = strings.Clone(raw) // as it comes from Redis
			key := fmt.Sprint("k", i)
			e := c.near.commit(key, c.near.reserve(key, sh), raw, false, time.Hour, view.room)
			_, err = view.decode(key, raw, e)
			require.NoError(t, err)
		}
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestALookupTakesNoAllocation(t *testing.T) {
	n, sh, _ := newTestNear(1 << 20)
	n.commit("k", n.reserve("k", sh), "v", false, time.Hour, 0)
	require.Zero(t, testing.AllocsPerRun(100, func() { n.lookup("k") }))
}

// waiting counts the keys that somebody waits for.
func (n *memoryNear) waiting() (keys int) {
	for i := range n.stripes {
		s := &n.stripes[i]
		s.mu.Lock()
		keys += len(s.waiters)
		s.mu.Unlock()
	}
	return keys
}
