package aside

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/redistest"
)

// The replay rule on a real server, cell by cell and at random.

// replayBench replays records into one key of a server, with stamps of the test's choosing.
type replayBench struct {
	t      *testing.T
	server *redistest.Server
	c      *Client
	sh     *shard
	now    int64 // µs: what the test takes for now
	key    string
}

func newReplayBench(t *testing.T) *replayBench {
	server := redistest.Start(t)
	c := newConnected(t, server.Addr())
	sh := c.topo.Load().shards[0]
	now, _ := c.serverTime(sh)
	return &replayBench{t: t, server: server, c: c, sh: sh, now: now}
}

// the stamps that the cells are about, in ms before now, and by whom. The margin is 100 ms.
func (b *replayBench) stamp(ms int64, client string, number int64) string {
	s := stamper{client: (client + "0000000000000000")[:stampClient]}
	return s.format(b.now+ms*1000, number)
}

func (b *replayBench) replay(op fallback.Op, stamp, value string, ttl time.Duration) fallback.Verdict {
	b.t.Helper()
	r := fallback.Record{Op: op, Key: b.key, Stamp: stamp}
	if op != fallback.OpDel {
		r.Value, r.Expires = value, b.now/1000+ttl.Milliseconds()
	}
	q := b.c.replayCall(b.sh, &r)
	b.c.run(b.t.Context(), b.sh, q)
	out := replayOutcome(q)
	require.NoError(b.t, out.Err)
	return out.Verdict
}

func (b *replayBench) value() any {
	value, _ := b.server.TryDo("GET", b.key) // nil, too, of another type
	return value
}

// mark is the stamp that is there, with its kind, or "".
func (b *replayBench) mark() string {
	mark, _ := b.server.Do("GET", stampKey(b.key)).(string)
	return mark[:min(len(mark), stampLen+1)]
}

func TestReplayDoesWhatTheTableSays(t *testing.T) {
	b := newReplayBench(t)
	const me, them = "aaaa", "bbbb"
	marker := func(ms int64) string {
		return b.c.tokenPrefix + "1:" + string(appendDigits(nil, b.now+ms*1000, stampTime))
	}
	states := map[string]func(){
		"nothing":                 func() {},
		"a fill":                  func() { b.server.Do("SET", b.key, "filled", "PX", 60_000) },
		"a set, newer":            func() { b.put('s', b.stamp(500, them, 1), "theirs") },
		"a set, newer in margin":  func() { b.put('s', b.stamp(50, them, 1), "theirs") },
		"a set, older":            func() { b.put('s', b.stamp(-500, them, 1), "theirs") },
		"a set, expired, a fill":  func() { b.put('S', b.stamp(-500, them, 1), "filled") },
		"a del, newer":            func() { b.put('d', b.stamp(500, them, 1), "") },
		"a del, newer in margin":  func() { b.put('d', b.stamp(50, them, 1), "") },
		"a del, older in margin":  func() { b.put('d', b.stamp(-50, them, 1), "") },
		"a del, older":            func() { b.put('d', b.stamp(-500, them, 1), "") },
		"a del, older, a fill":    func() { b.put('d', b.stamp(-500, them, 1), "filled") },
		"a del, newer, a fill":    func() { b.put('d', b.stamp(500, them, 1), "filled") },
		"a lock, newer":           func() { b.server.Do("SET", b.key, marker(500), "PX", 60_000) },
		"a lock, newer in margin": func() { b.server.Do("SET", b.key, marker(50), "PX", 60_000) },
		"a lock, older":           func() { b.server.Do("SET", b.key, marker(-500), "PX", 60_000) },
		"our own later set":       func() { b.put('s', b.stamp(-500, me, 8), "later") },
		"our own earlier set":     func() { b.put('s', b.stamp(500, me, 6), "earlier") },
		"itself, done":            func() { b.put('s', b.stamp(3, me, 7), "raised") },
		"another type":            func() { b.server.Do("RPUSH", b.key, "x") },
	}
	const mine, kept, lock = "mine", "kept", "lock"
	type cell struct {
		verdict fallback.Verdict
		value   string // what is there then: mine, kept (as it was), lock (the lock), or nothing
		mark    byte   // whose stamp: m with kind of the op, k as it was, 0 where there is none
	}
	const (
		applied, superseded, deleted = fallback.Applied, fallback.Superseded, fallback.Deleted
	)
	for state, row := range map[string]struct{ del, set, fill cell }{
		"nothing":                 {cell{applied, "", 'm'}, cell{applied, mine, 'm'}, cell{applied, mine, 0}},
		"a fill":                  {cell{applied, "", 'm'}, cell{deleted, "", 'm'}, cell{superseded, kept, 0}},
		"a set, newer":            {cell{superseded, kept, 'k'}, cell{superseded, kept, 'k'}, cell{superseded, kept, 'k'}},
		"a set, newer in margin":  {cell{applied, "", 'm'}, cell{superseded, kept, 'k'}, cell{superseded, kept, 'k'}},
		"a set, older":            {cell{applied, "", 'm'}, cell{applied, mine, 'm'}, cell{superseded, kept, 'k'}},
		"a set, expired, a fill":  {cell{applied, "", 'm'}, cell{deleted, "", 'm'}, cell{superseded, kept, 'k'}},
		"a del, newer":            {cell{superseded, "", 'k'}, cell{superseded, "", 'k'}, cell{superseded, "", 'k'}},
		"a del, newer in margin":  {cell{superseded, "", 'k'}, cell{superseded, "", 'k'}, cell{superseded, "", 'k'}},
		"a del, older in margin":  {cell{applied, "", 'm'}, cell{superseded, "", 'k'}, cell{superseded, "", 'k'}},
		"a del, older":            {cell{applied, "", 'm'}, cell{applied, mine, 'm'}, cell{superseded, "", 'k'}},
		"a del, older, a fill":    {cell{applied, "", 'm'}, cell{deleted, "", 'm'}, cell{superseded, kept, 'k'}},
		"a del, newer, a fill":    {cell{superseded, kept, 'k'}, cell{superseded, kept, 'k'}, cell{superseded, kept, 'k'}},
		"a lock, newer":           {cell{applied, lock, 'm'}, cell{superseded, lock, 'm'}, cell{superseded, lock, 0}},
		"a lock, newer in margin": {cell{applied, "", 'm'}, cell{applied, mine, 'm'}, cell{superseded, lock, 0}},
		"a lock, older":           {cell{applied, "", 'm'}, cell{applied, mine, 'm'}, cell{superseded, lock, 0}},
		"our own later set":       {cell{superseded, kept, 'k'}, cell{superseded, kept, 'k'}, cell{superseded, kept, 'k'}},
		"our own earlier set":     {cell{applied, "", 'm'}, cell{applied, mine, 'm'}, cell{superseded, kept, 'k'}},
		"itself, done":            {cell{superseded, kept, 'k'}, cell{superseded, kept, 'k'}, cell{superseded, kept, 'k'}},
		"another type":            {cell{applied, "", 'm'}, cell{deleted, "", 'm'}, cell{superseded, "", 0}},
	} {
		for op, want := range map[fallback.Op]cell{fallback.OpDel: row.del, fallback.OpSet: row.set, fallback.OpFill: row.fill} {
			t.Run(fmt.Sprintf("%s onto %s", op, state), func(t *testing.T) {
				b.t, b.key = t, fmt.Sprint(op, state)
				states[state]()
				if state == "another type" && op == fallback.OpFill {
					require.Equal(t, superseded, b.replay(op, b.stamp(0, me, 7), mine, time.Hour))
					require.EqualValues(t, 1, b.server.Do("LLEN", b.key))
					return
				}
				before, markBefore := b.value(), b.mark()
				for range 2 { // a repetition changes nothing
					verdict := b.replay(op, b.stamp(0, me, 7), mine, time.Hour)
					if want.verdict != 99 {
						require.Equal(t, want.verdict, verdict)
						want.verdict = 99
					}
					switch want.value {
					case "":
						require.Nil(t, b.value())
					case mine:
						require.Equal(t, mine, b.value())
						ms, _ := b.server.Do("PTTL", b.key).(int64)
						require.InDelta(t, time.Hour.Milliseconds(), ms, 60_000)
					default:
						require.Equal(t, before, b.value())
					}
					switch want.mark {
					case 0:
						require.Empty(t, b.mark())
					case 'k':
						require.Equal(t, markBefore, b.mark())
					default:
						require.Equal(t, b.stamp(0, me, 7)+string(op[0]), b.mark())
					}
				}
			})
		}
	}
}

// put makes a stamp and a value. Kind S: of a Set whose own value has expired.
func (b *replayBench) put(kind byte, stamp, value string) {
	if value != "" {
		b.server.Do("SET", b.key, value, "PX", 60_000)
	}
	mark := stamp + string(kind)
	switch kind {
	case 's':
		mark += strconv.FormatInt(b.now/1000+60_000, 10)
	case 'S':
		mark = stamp + "s" + strconv.FormatInt(b.now/1000-1, 10)
	}
	b.server.Do("SET", stampKey(b.key), mark, "PX", 3_600_000)
}

func TestWhatIsTooOldIsReplayedAsADelete(t *testing.T) {
	b := newReplayBench(t)
	b.key = "k"
	b.put('s', b.stamp(-500, "bbbb", 1), "theirs")
	require.Equal(t, fallback.Deleted, b.replay(fallback.OpSet, b.stamp(0, "aaaa", 1), "expired", -time.Millisecond))
	require.Nil(t, b.value())
	require.Equal(t, b.stamp(0, "aaaa", 1)+"d", b.mark())
	b.key = "old"
	b.server.Do("SET", b.key, "filled")
	require.Equal(t, fallback.Deleted, b.replay(fallback.OpSet, b.stamp(-2*time.Hour.Milliseconds(), "aaaa", 1), "v", time.Hour))
	require.Nil(t, b.value())
	b.key = "fill"
	require.Equal(t, fallback.Dropped, b.replay(fallback.OpFill, b.stamp(-2*time.Hour.Milliseconds(), "aaaa", 1), "v", time.Hour))
	require.Nil(t, b.value())
}

// A clock that was off by more than a second overwrites nothing; where nothing is there is nothing to overwrite.
func TestASetWithAClockThatWasOffReplacesNothing(t *testing.T) {
	b := newReplayBench(t)
	for _, there := range []string{"", "theirs"} {
		b.key = "k" + there
		want, verdict := any("v"), fallback.Applied
		if there != "" {
			b.put('s', b.stamp(-5000, "bbbb", 1), there)
			want, verdict = nil, fallback.Deleted
		}
		q := b.c.replayCall(b.sh, &fallback.Record{
			Op: fallback.OpSet, Key: b.key, Value: "v", Expires: b.now/1000 + 60_000, Stamp: b.stamp(0, "aaaa", 1), Slack: (2 * time.Second).Microseconds(),
		})
		b.c.run(t.Context(), b.sh, q)
		require.Equal(t, verdict, replayOutcome(q).Verdict)
		require.Equal(t, want, b.value())
	}
}

// Sets and deletes of several clients, in any order and any repetition, end in the same state: the greatest set that is beyond the
// margin of the latest delete, else that delete.
func TestReplayInAnyOrderEndsInTheSameState(t *testing.T) {
	b := newReplayBench(t)
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	for trial := range 150 {
		type op struct {
			op    fallback.Op
			ms    int64
			stamp string
		}
		var ops []op
		for client := range 1 + random.IntN(4) {
			ms := -random.Int64N(500)
			for n := range 1 + random.IntN(3) { // one client's times grow with its numbers
				kind := fallback.OpSet
				if random.IntN(2) == 0 {
					kind = fallback.OpDel
				}
				ops = append(ops, op{kind, ms, b.stamp(ms, fmt.Sprint(client, "fff"), int64(n+1))})
				ms += 1 + random.Int64N(300)
			}
		}
		lastDel := int64(-1 << 40)
		sameClientNewer := false // within the margin, between a delete and a set of one client their order decides, whatever others say
		for i, a := range ops {
			if a.op == fallback.OpDel {
				lastDel = max(lastDel, a.ms)
			}
			for _, o := range ops[i+1:] {
				sameClientNewer = sameClientNewer || a.op != o.op && a.stamp[stampTime:stampTime+stampClient] == o.stamp[stampTime:stampTime+stampClient] && o.ms-a.ms <= 100
			}
		}
		if sameClientNewer {
			continue // a store keeps only the newest of one client's: see TestReplayOfOneClientKeepsItsOrder
		}
		want := ""
		for _, a := range ops {
			if a.op == fallback.OpSet && a.ms > lastDel+100 {
				want = max(want, a.stamp)
			}
		}
		for order := range 4 {
			b.key = fmt.Sprintf("k%d.%d", trial, order)
			var done []op
			for i := range 2 * len(ops) {
				done = append(done, ops[i%len(ops)])
			}
			random.Shuffle(len(done), func(i, j int) { done[i], done[j] = done[j], done[i] })
			for _, a := range done {
				b.replay(a.op, a.stamp, a.stamp, time.Hour)
			}
			got, _ := b.value().(string)
			require.Equal(t, want, got, "seed %d, trial %d: %v", seed, trial, done)
			if want != "" {
				require.Equal(t, want+"s", b.mark())
			}
		}
	}
}

// Of one client's operations the later number wins, whatever the clocks said.
func TestReplayOfOneClientKeepsItsOrder(t *testing.T) {
	b := newReplayBench(t)
	first, second := b.stamp(30, "aaaa", 1), b.stamp(0, "aaaa", 2) // the first was raised by the server's clock
	for i, order := range [][]string{{first, second}, {second, first}, {first, second, first}} {
		b.key = fmt.Sprint("set", i)
		for _, stamp := range order {
			b.replay(fallback.OpSet, stamp, stamp, time.Hour)
		}
		require.Equal(t, second, b.value())
		b.key = fmt.Sprint("del", i)
		for _, stamp := range order {
			op := fallback.OpSet
			if stamp == second {
				op = fallback.OpDel
			}
			b.replay(op, stamp, stamp, time.Hour)
		}
		require.Nil(t, b.value())
	}
	require.True(t, slices.IsSorted([]string{second, first}))
}
