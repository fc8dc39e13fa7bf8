package aside

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/redistest"
	"github.com/redaside/aside/internal/script"
	"github.com/redaside/aside/internal/sim"
	"github.com/redaside/aside/internal/stamp"
	"github.com/redaside/aside/internal/wire"
)

// The replay rule on a real server, cell by cell and at random.

// replayBench replays records into one key of a server, with stamps of the test's choosing.
type replayBench struct {
	t      *testing.T
	server *redistest.Server
	c      *Client
	sh     *link.Shard
	now    int64 // µs: what the test takes for now
	key    string
}

func newReplayBench(t *testing.T, change ...func(*Options)) *replayBench {
	server := redistest.Start(t)
	c := newConnected(t, server.Addr(), change...)
	sh := c.link.Shards()[0]
	now, _ := c.link.ServerTime(sh)
	return &replayBench{t: t, server: server, c: c, sh: sh, now: now}
}

// the stamps that the cells are about, in ms before now, and by whom. The margin is 100 ms.
func (b *replayBench) stamp(ms int64, client string, number int64) string {
	return stamp.Stamp{Micros: b.now + ms*1000, Client: (client + "0000000000000000")[:16], Number: number}.String()
}

func (b *replayBench) replay(op fallback.Op, stamp, value string, ttl time.Duration) fallback.Verdict {
	b.t.Helper()
	r := fallback.Record{Op: op, Key: b.key, Stamp: stamp}
	if op != fallback.OpDel {
		r.Value, r.Expires = value, b.now/1000+ttl.Milliseconds()
	}
	out := b.ask(&r)
	require.NoError(b.t, out.Err)
	return out.Verdict
}

func (b *replayBench) ask(r *fallback.Record) fallback.Outcome {
	return replayer{Client: b.c, sh: b.sh}.ask(b.t.Context(), []*fallback.Record{r}, time.Minute)[0]
}

func (b *replayBench) value() any {
	value, _ := b.server.TryDo("GET", b.key) // nil, too, of another type
	return value
}

// mark is the stamp that is there, or "".
func (b *replayBench) mark() string {
	mark, _ := b.server.Do("HGET", stamp.Bucket(b.key), stamp.Field(b.key)).(string)
	return mark
}

func TestReplayDoesWhatTheTableSays(t *testing.T) {
	b := newReplayBench(t)
	const me, them = "aaaa", "bbbb"
	marker := func(ms int64) string {
		return b.c.tokenPrefix + "1:" + string(stamp.AppendMicros(nil, b.now+ms*1000))
	}
	states := map[string]func(){
		"nothing":                 func() {},
		"a fill":                  func() { b.server.Do("SET", b.key, "filled", "PX", 60_000) },
		"a set, newer":            func() { b.put('s', b.stamp(500, them, 1), "theirs") },
		"a set, newer in margin":  func() { b.put('s', b.stamp(50, them, 1), "theirs") },
		"a set, older in margin":  func() { b.put('s', b.stamp(-50, them, 1), "theirs") },
		"a set, older":            func() { b.put('s', b.stamp(-500, them, 1), "theirs") },
		"a set, expired, a fill":  func() { b.put('S', b.stamp(-500, them, 1), "filled") },
		"a del, newer":            func() { b.put('d', b.stamp(500, them, 1), "") },
		"a del, newer in margin":  func() { b.put('d', b.stamp(50, them, 1), "") },
		"a del, older in margin":  func() { b.put('d', b.stamp(-50, them, 1), "") },
		"a del in margin, a fill": func() { b.put('d', b.stamp(50, them, 1), "filled") },
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
		mark    byte   // whose stamp: m mine, k as it was, c both, as they are contested, 0 where there is none
	}
	const (
		applied, superseded, deleted = fallback.Applied, fallback.Superseded, fallback.Deleted
	)
	for state, row := range map[string]struct{ del, set, fill cell }{
		"nothing":                 {cell{applied, "", 'm'}, cell{applied, mine, 'm'}, cell{applied, mine, 0}},
		"a fill":                  {cell{applied, "", 'm'}, cell{deleted, "", 'm'}, cell{superseded, kept, 0}},
		"a set, newer":            {cell{superseded, kept, 'k'}, cell{superseded, kept, 'k'}, cell{superseded, kept, 'k'}},
		"a set, newer in margin":  {cell{applied, "", 'c'}, cell{deleted, "", 'c'}, cell{superseded, kept, 'k'}},
		"a set, older in margin":  {cell{applied, "", 'c'}, cell{deleted, "", 'c'}, cell{superseded, kept, 'k'}},
		"a set, older":            {cell{applied, "", 'm'}, cell{applied, mine, 'm'}, cell{superseded, kept, 'k'}},
		"a set, expired, a fill":  {cell{applied, "", 'm'}, cell{deleted, "", 'm'}, cell{superseded, kept, 'k'}},
		"a del, newer":            {cell{superseded, "", 'k'}, cell{superseded, "", 'k'}, cell{superseded, "", 'k'}},
		"a del, newer in margin":  {cell{applied, "", 'c'}, cell{deleted, "", 'c'}, cell{superseded, "", 'k'}},
		"a del, older in margin":  {cell{applied, "", 'c'}, cell{deleted, "", 'c'}, cell{superseded, "", 'k'}},
		"a del in margin, a fill": {cell{applied, "", 'c'}, cell{deleted, "", 'c'}, cell{superseded, kept, 'k'}},
		"a del, older":            {cell{applied, "", 'm'}, cell{applied, mine, 'm'}, cell{superseded, "", 'k'}},
		"a del, older, a fill":    {cell{applied, "", 'm'}, cell{deleted, "", 'm'}, cell{superseded, kept, 'k'}},
		"a del, newer, a fill":    {cell{superseded, "", 'k'}, cell{superseded, "", 'k'}, cell{superseded, kept, 'k'}}, // an Expire may have left it
		"a lock, newer":           {cell{applied, lock, 'm'}, cell{superseded, lock, 'm'}, cell{superseded, lock, 0}},
		"a lock, newer in margin": {cell{applied, "", 'm'}, cell{applied, mine, 'm'}, cell{superseded, lock, 0}},
		"a lock, older":           {cell{applied, "", 'm'}, cell{applied, mine, 'm'}, cell{superseded, lock, 0}},
		"our own later set":       {cell{superseded, kept, 'k'}, cell{superseded, kept, 'k'}, cell{superseded, kept, 'k'}},
		"our own earlier set":     {cell{applied, "", 'M'}, cell{applied, mine, 'M'}, cell{superseded, kept, 'k'}},
		"itself, done":            {cell{superseded, kept, 'k'}, cell{superseded, kept, 'k'}, cell{superseded, kept, 'k'}},
		"another type":            {cell{applied, "", 'm'}, cell{deleted, "", 'm'}, cell{superseded, "", 0}},
	} {
		for op, want := range map[fallback.Op]cell{fallback.OpDel: row.del, fallback.OpSet: row.set, fallback.OpFill: row.fill} {
			t.Run(fmt.Sprintf("%s onto %s", op, state), func(t *testing.T) {
				b.t, b.key = t, fmt.Sprint(op, state)
				states[state]()
				before, markBefore := b.value(), b.mark()
				own := b.stamp(0, me, 7)
				for round := range 2 { // a repetition changes nothing
					verdict := b.replay(op, own, mine, time.Hour)
					if round == 0 {
						require.Equal(t, want.verdict, verdict)
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
					mark := b.mark()
					switch want.mark {
					case 0:
						require.Empty(t, mark)
					case 'k':
						require.Equal(t, markBefore, mark)
					case 'm':
						left := parsed(t, mark)
						require.Equal(t, own, left.Stamp.String())
						require.Zero(t, left.Other)
						require.Equal(t, want.value == mine, left.Ends != 0)
					case 'M': // its time does not fall below that of the operation before
						want, ok := stamp.Parse(own)
						require.True(t, ok)
						want.Micros = parsed(t, markBefore).Micros
						require.Equal(t, want, parsed(t, mark).Stamp)
					case 'c':
						before := parsed(t, markBefore).Stamp.String()
						earlier, ok := stamp.Micros(min(own, before))
						require.True(t, ok)
						left := parsed(t, mark)
						require.Equal(t, max(own, before), left.Stamp.String())
						require.Equal(t, earlier, left.Other)
						require.Zero(t, left.Ends)
					}
				}
				if state == "another type" && op == fallback.OpFill {
					require.EqualValues(t, 1, b.server.Do("LLEN", b.key))
				}
			})
		}
	}
}

// parsed is a stamp that Redis holds.
func parsed(t testing.TB, mark string) stamp.Left {
	t.Helper()
	left, ok := stamp.ParseLeft(mark)
	require.True(t, ok, "%q is no stamp", mark)
	return left
}

// put makes a stamp and a value. Kind S: of a Set whose own value has expired.
func (b *replayBench) put(kind byte, of, value string) {
	if value != "" {
		b.server.Do("SET", b.key, value, "PX", 60_000)
	}
	by, ok := stamp.Parse(of)
	require.True(b.t, ok)
	ends := int64(0)
	switch kind {
	case 's':
		ends = b.now/1000 + 60_000
	case 'S':
		ends = b.now/1000 - 1
	}
	b.server.Do("HSET", stamp.Bucket(b.key), stamp.Field(b.key), stamp.Left{Stamp: by, Ends: ends}.String())
}

// A refresh replaces the value that came with a stamp by a loaded one, which may be newer than a Set
// that is replayed later.
func TestASetIsNotReplayedOntoWhatARefreshHasLoaded(t *testing.T) {
	b := newReplayBench(t)
	for name, ttl := range map[string]int{"a value": 30_000, "nothing, and somebody loads": 0} {
		t.Run(name, func(t *testing.T) {
			b.t, b.key = t, name
			b.put('s', b.stamp(-500, "bbbb", 1), "theirs")
			lock := stamp.RefreshLock(b.key)
			eval := func(s *script.Script, args ...any) []any {
				answer, err := b.server.TryDo(append([]any{"EVAL", s.Text(), 4, b.key, lock, stamp.Bucket(b.key), stamp.Bucket(lock)}, args...)...)
				require.NoError(t, err)
				return answer.([]any)
			}
			taken := eval(script.Refresh, "marker", 10_000, 100_000, wire.LockPrefix, 2)
			require.EqualValues(t, 2, taken[0])
			require.Equal(t, b.mark(), taken[4])
			require.Equal(t, []any{int64(1)}, eval(script.Refreshed, "marker", taken[2], taken[3], taken[4], "loaded", ttl, 2))
			if ttl == 0 {
				require.Nil(t, b.value())
				b.server.Do("SET", b.key, "loaded", "PX", 30_000)
			}
			require.Equal(t, "loaded", b.value())
			want := parsed(t, taken[4].(string))
			want.Ends = 0
			require.Equal(t, want, parsed(t, b.mark()), "whose stamp it is stays")
			require.Equal(t, fallback.Deleted, b.replay(fallback.OpSet, b.stamp(0, "aaaa", 1), "older", time.Hour))
			require.Nil(t, b.value())
		})
	}
}

func TestWhatIsTooOldIsReplayedAsADelete(t *testing.T) {
	b := newReplayBench(t)
	b.key = "k"
	b.put('s', b.stamp(-500, "bbbb", 1), "theirs")
	require.Equal(t, fallback.Deleted, b.replay(fallback.OpSet, b.stamp(0, "aaaa", 1), "expired", -time.Millisecond))
	require.Nil(t, b.value())
	require.Equal(t, b.stamp(0, "aaaa", 1), parsed(t, b.mark()).Stamp.String())
	require.Zero(t, parsed(t, b.mark()).Ends)
	b.key = "old"
	b.server.Do("SET", b.key, "filled")
	require.Equal(t, fallback.Deleted, b.replay(fallback.OpSet, b.stamp(-2*time.Hour.Milliseconds(), "aaaa", 1), "v", time.Hour))
	require.Nil(t, b.value())
	b.key = "fill"
	require.Equal(t, fallback.Dropped, b.replay(fallback.OpFill, b.stamp(-2*time.Hour.Milliseconds(), "aaaa", 1), "v", time.Hour))
	require.Nil(t, b.value())
}

// A clock that was off by more than a minute, or whose time is yet to come: nobody can say what the
// set would overwrite.
func TestASetWithAClockThatWasOffIsADeleteOfNow(t *testing.T) {
	b := newReplayBench(t)
	for _, there := range []string{"", "theirs", "future"} {
		b.key = "k" + there
		at, slack := int64(0), (2 * time.Minute).Microseconds()
		if there == "future" {
			at, slack = 60_000, 0
		}
		if there != "" {
			b.put('s', b.stamp(5000, "bbbb", 1), there)
		}
		for _, want := range []fallback.Verdict{fallback.Deleted, fallback.Superseded} {
			require.Equal(t, want, b.ask(&fallback.Record{
				Op: fallback.OpSet, Key: b.key, Value: "v", Expires: b.now/1000 + 60_000, Stamp: b.stamp(at, "aaaa", 1), Slack: slack,
			}).Verdict)
			require.Nil(t, b.value())
			require.NotEqual(t, b.now+at*1000, parsed(t, b.mark()).Micros)
			require.InDelta(t, b.now, parsed(t, b.mark()).Micros, 30e6)
		}
	}
}

// The scripts are what internal/sim simulates: the same random events on a real server and in the
// model. What is replayed is some seconds old; what is done by a healthy client has the server's
// time, which the model is told.
func TestTheScriptsDoWhatIsSimulated(t *testing.T) {
	b := newReplayBench(t)
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	base := b.now - 10_000_000
	const ttl = 60_000 // ms
	env := sim.Env{Now: b.now, Margin: 2 * leastClockError.Microseconds(), StampTTL: time.Hour.Microseconds(), Fenced: true}
	stampOf := func(s sim.Stamp) stamp.Stamp {
		return stamp.Stamp{Micros: s.Time, Client: fmt.Sprintf("%016x", s.Client), Number: int64(s.Counter)}
	}
	stampText := func(s sim.Stamp) string {
		return stampOf(s).String()
	}
	for trial := range 400 {
		b.key = fmt.Sprint("k", trial)
		var model sim.State
		var story []string
		counters, markers := map[uint64]uint64{}, uint64(0)
		last := map[uint64]int64{}
		for range 2 + random.IntN(10) {
			client := uint64(1 + random.IntN(3))
			next := func() sim.Stamp {
				counters[client]++
				last[client] = max(last[client]+1, base+random.Int64N(400_000))
				return sim.Stamp{Time: last[client], Client: client, Counter: counters[client]}
			}
			value := fmt.Sprint("v", random.Uint32())
			switch what := random.IntN(12); what {
			case 0, 1: // a healthy Set or Del
				w := sim.Write{Op: sim.OpSet, Stamp: next(), Value: value, TTL: ttl, NotAfter: base * 2}
				mine, _ := stamp.Packed(stampText(w.Stamp))
				s, args := script.Set, []string{fmt.Sprint(w.NotAfter), "3600000", firstRun, mine, value, fmt.Sprint(ttl)}
				if w.Again = random.IntN(3) == 0; w.Again {
					args[2] = secondRun
				}
				if what == 1 {
					w.Op, s, args = sim.OpDel, script.Del, args[:4]
				}
				q := &link.Call{Script: s, Keys: []string{b.key}, Args: args, Stamped: true}
				b.c.link.Run(t.Context(), b.sh, q)
				require.NoError(t, q.Err)
				done := env
				done.Now = parsed(t, b.mark()).Micros
				var out sim.Outcome
				model, out = sim.Apply(model, w, done)
				story = append(story, fmt.Sprintf("apply %+v: %v", w, out))
			case 2: // a load begins
				markers++
				m := sim.Marker{ID: markers, Time: base + random.Int64N(400_000)}
				var was sim.Content
				model, was = sim.ReadOrLock(model, m, 60_000, env)
				b.server.Do("SET", b.key, fmt.Sprintf("%sx:%d:%016d", wire.LockPrefix, m.ID, m.Time), "NX", "PX", 60_000)
				story = append(story, fmt.Sprintf("lock %+v: was %v", m, was))
			case 3: // and ends
				if model.Content == sim.Lock {
					m := model.Marker
					model, _ = sim.Fill(model, m, value, ttl, env)
					q := link.NewCall(script.Fill, b.key, fmt.Sprintf("%sx:%d:%016d", wire.LockPrefix, m.ID, m.Time), value, fmt.Sprint(ttl))
					b.c.link.Run(t.Context(), b.sh, q)
					require.NoError(t, q.Err)
					story = append(story, "fill "+value)
				}
			default: // a record is replayed, and perhaps again
				r := sim.Record{Op: sim.Op(random.IntN(3)), Stamp: next(), Value: value, Expires: b.now/1000 + ttl}
				if random.IntN(3) == 0 { // the clock was off by more than is assumed
					r.Margin = env.Margin + random.Int64N(300_000)/2*2
				}
				if random.IntN(5) == 0 {
					r.Expires = b.now/1000 - 1
				}
				for range 1 + random.IntN(2) {
					var out sim.Outcome
					model, out = sim.Replay(model, r, env)
					record := &fallback.Record{
						Op: [...]fallback.Op{fallback.OpSet, fallback.OpDel, fallback.OpFill}[r.Op], Key: b.key, Value: value, Expires: r.Expires, Stamp: stampText(r.Stamp), Slack: r.Margin / 2,
					}
					require.NoError(t, b.ask(record).Err, "seed %d: %s", seed, strings.Join(story, "\n"))
					story = append(story, fmt.Sprintf("replay %+v: %v", r, out))
				}
			}
			about := fmt.Sprintf("seed %d, trial %d:\n%s", seed, trial, strings.Join(story, "\n"))
			got := b.value()
			switch model.Content {
			case sim.Nothing:
				require.Nil(t, got, about)
			case sim.Value:
				require.Equal(t, model.Value, got, about)
			case sim.Lock:
				require.Contains(t, got, fmt.Sprintf("%sx:%d:", wire.LockPrefix, model.Marker.ID), about)
			}
			mark, c := b.mark(), model.Companion
			if c.Expires == 0 {
				require.Empty(t, mark, about)
				continue
			}
			left, ok := stamp.ParseLeft(mark)
			require.True(t, ok, about)
			require.Equal(t, stampOf(c.Stamp), left.Stamp, about)
			require.Equal(t, c.Other, left.Other, about)
			require.Equal(t, c.Margin, left.Margin, about)
			require.Equal(t, c.ValueExpires != 0, left.Ends != 0, about)
		}
	}
}

// A clock may be ahead by what its client knows. What it stamped has been made by now, and is not later
// than what the server does next.
func TestWhatIsReplayedIsNotOfLaterThanNow(t *testing.T) {
	b := newReplayBench(t)
	now := func() int64 {
		now, slack := b.c.link.ServerTime(b.sh)
		return now + slack
	}
	for _, op := range []fallback.Op{fallback.OpSet, fallback.OpDel} {
		b.key = string(op)
		slack := (2 * time.Second).Microseconds()
		_ = b.ask(&fallback.Record{Op: op, Key: b.key, Value: "v", Expires: b.now/1000 + 60_000, Stamp: b.stamp(3_000, "aaaa", 1), Slack: slack})
		there := parsed(t, b.mark())
		require.Equal(t, 2*slack, there.Margin)
		require.LessOrEqual(t, there.Micros, now())
		mine, _ := stamp.Packed(b.stamp(4_000, "bbbb", 1))
		b.server.Do("EVAL", script.Del.Text(), 2, b.key, stamp.Bucket(b.key), fmt.Sprint(2*b.now), 3_600_000, secondRun, mine, 1)
		there = parsed(t, b.mark())
		require.Zero(t, there.Margin)
		require.LessOrEqual(t, there.Micros, now())
		// As a record of another client that was made since says of itself, with the usual margin.
		later := there.Stamp
		later.Micros, later.Client = there.Micros-150_000, "0123456789abcdef"
		require.Equal(t, fallback.Superseded, b.replay(fallback.OpSet, later.String(), "older", time.Hour))
		later.Micros = there.Micros + 50_000
		require.Equal(t, fallback.Deleted, b.replay(fallback.OpSet, later.String(), "within the margin", time.Hour))
		require.Nil(t, b.value())
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
}

// Records go to Redis in batches. Each must fare as it would alone.
func TestABatchIsReplayedRecordByRecord(t *testing.T) {
	b := newReplayBench(t)
	const n = 200
	replay := func(prefix string, alone bool) (outcomes []fallback.Outcome, left []any) {
		random := rand.New(rand.NewPCG(1, 2)) // twice the same
		var records []*fallback.Record
		for i := range n {
			b.key = fmt.Sprint(prefix, i)
			switch random.IntN(4) {
			case 0:
				b.put('s', b.stamp(random.Int64N(2000)-1000, "bbbb", 1), "theirs")
			case 1:
				b.server.Do("SET", b.key, "filled")
			case 2:
				b.server.Do("LPUSH", b.key, "of another type")
			}
			op := [...]fallback.Op{fallback.OpSet, fallback.OpDel, fallback.OpFill}[random.IntN(3)]
			r := &fallback.Record{Op: op, Key: b.key, Stamp: b.stamp(0, "aaaa", int64(1+i))}
			if op != fallback.OpDel {
				r.Value, r.Expires = fmt.Sprint("v", i), b.now/1000+[]int64{-1, 600_000}[random.IntN(2)]
			}
			records = append(records, r)
		}
		if !alone {
			outcomes = replayer{Client: b.c, sh: b.sh}.ask(t.Context(), records, time.Minute)
		}
		for _, r := range records {
			if alone {
				outcomes = append(outcomes, b.ask(r))
			}
			b.key = r.Key
			left = append(left, b.value(), b.mark())
		}
		return outcomes, left
	}
	for _, slot := range []string{"", "{t}"} { // each key in another slot; all in one, so that they share a bucket
		outcomes, left := replay(slot+"together", false)
		wantOutcomes, wantLeft := replay(slot+"alone", true)
		require.Equal(t, wantOutcomes, outcomes, slot)
		require.Equal(t, wantLeft, left, slot)
	}
}

// Keys of a bucket have their stamps left together. Where the script ends in the middle of them, those
// of what it has done must be there: else a record that is sent again, by itself, is done again.
func TestAReplayThatEndsInTheMiddleHasLeftItsStamps(t *testing.T) {
	b := newReplayBench(t)
	b.server.Do("SET", "{t}a", "old")
	b.server.Do("ACL", "SETUSER", "default", "-set", "-psetex")
	defer b.server.Do("ACL", "SETUSER", "default", "+set", "+psetex")
	outcomes := replayer{Client: b.c, sh: b.sh}.ask(t.Context(), []*fallback.Record{
		{Op: fallback.OpDel, Key: "{t}a", Stamp: b.stamp(0, "aaaa", 1)},
		{Op: fallback.OpSet, Key: "{t}b", Stamp: b.stamp(0, "aaaa", 2), Value: "v", Expires: b.now/1000 + 60_000},
	}, time.Minute)
	require.Equal(t, fallback.Superseded, outcomes[0].Verdict, "it was done once more, alone, and found itself done")
	require.Equal(t, fallback.Refused, outcomes[1].Verdict)
	require.Error(t, outcomes[1].Err)
}

// One record that Redis refuses, for a key that we may not write, must not keep those in its batch
// from being replayed.
func TestARefusedRecordDoesNotHoldUpItsBatch(t *testing.T) {
	b := newReplayBench(t)
	b.server.Do("ACL", "SETUSER", "default", "resetkeys", "~ours:*", "~aside:*")
	var records []*fallback.Record
	for i, key := range []string{"ours:1", "theirs:1", "ours:2"} {
		records = append(records, &fallback.Record{Op: fallback.OpSet, Key: key, Value: "v", Expires: b.now/1000 + 60_000, Stamp: b.stamp(0, "aaaa", int64(1+i))})
	}
	outcomes := replayer{Client: b.c, sh: b.sh}.ask(t.Context(), records, time.Minute)
	require.Equal(t, fallback.Outcome{Verdict: fallback.Applied}, outcomes[0])
	require.Equal(t, fallback.Refused, outcomes[1].Verdict)
	require.Error(t, outcomes[1].Err)
	require.Equal(t, fallback.Outcome{Verdict: fallback.Applied}, outcomes[2])
	require.Equal(t, "v", b.server.Do("GET", "ours:2"))
}

// slowSettle is a store whose disk hangs: Settle says that it waits, and then does until it may go on.
type slowSettle struct {
	fallback.Store
	waits chan struct{}
	goOn  chan struct{}
}

func (s *slowSettle) Settle(records ...fallback.Record) {
	s.waits <- struct{}{}
	<-s.goOn
	s.Store.Settle(records...)
}

// While the records of one batch wait for the disk, Redis is asked about the next ones. Their keys
// stay claimed until the disk has them.
func TestRedisDoesNotWaitForTheDisk(t *testing.T) {
	disk := &slowSettle{Store: fallback.NewMemory(0), waits: make(chan struct{}), goOn: make(chan struct{})}
	b := newReplayBench(t, func(o *Options) { o.Store = disk })
	r := replayer{Client: b.c, sh: b.sh, turns: make(chan struct{}, 1)}
	answers := make(chan fallback.Outcome)
	for i := range 3 {
		record := fallback.Record{
			Op: fallback.OpSet, Key: fmt.Sprint("k", i), Value: "v", Expires: b.now/1000 + 60_000, Stamp: b.stamp(0, "aaaa", int64(1+i)),
		}
		require.NoError(t, disk.Put(t.Context(), record))
		go func() { answers <- r.Replay(t.Context(), []fallback.Record{record})[0] }() // ends below
	}
	for i := range 3 {
		select {
		case <-disk.waits:
		case <-time.After(time.Minute):
			t.Fatalf("%d batches have been answered", i)
		}
	}
	for i := range 3 {
		require.Equal(t, "v", b.server.Do("GET", fmt.Sprint("k", i)))
		_, others, busy := b.c.store.claims.take([]fallback.Record{{Key: fmt.Sprint("k", i)}}, []int{0})
		require.Equal(t, []int{0}, others)
		require.NotNil(t, busy)
	}
	close(disk.goOn)
	for range 3 {
		require.Equal(t, fallback.Outcome{Verdict: fallback.Applied, Settled: true}, <-answers)
	}
	require.Empty(t, b.c.store.claims.byKey)
}

// A batch that has to wait for its turn holds no key, and ends with its pass.
func TestABatchWithoutATurnClaimsNothing(t *testing.T) {
	b := newReplayBench(t)
	r := replayer{Client: b.c, sh: b.sh, turns: make(chan struct{}, 1)}
	r.turns <- struct{}{}
	record := fallback.Record{Op: fallback.OpDel, Key: "k", Stamp: b.stamp(0, "aaaa", 1)}
	require.NoError(t, b.c.store.Put(t.Context(), record))
	ctx, cancel := context.WithCancel(t.Context())
	answer := make(chan []fallback.Outcome)
	go func() { answer <- r.Replay(ctx, []fallback.Record{record}) }() // ends with ctx
	caller := replayer{Client: b.c, sh: b.sh}
	out := caller.Replay(t.Context(), []fallback.Record{record})
	require.NoError(t, out[0].Err, "a caller needs no turn")
	// The client, which has just been made, may look for what waits, and be earlier.
	require.Contains(t, []fallback.Verdict{fallback.Applied, fallback.Superseded}, out[0].Verdict)
	cancel()
	require.Equal(t, []fallback.Outcome{{Verdict: fallback.NoAnswer, Err: context.Canceled}}, <-answer)
	require.Len(t, r.turns, 1)
}

func TestClaimsAreReleasedTogether(t *testing.T) {
	var cl claims
	records := []fallback.Record{{Key: "a"}, {Key: "b"}, {Key: "a"}, {Key: "c"}}
	mine, others, busy := cl.take(records, []int{0, 1, 2})
	require.Equal(t, []int{0, 1}, mine)
	require.Equal(t, []int{2}, others, "one replay of a key at a time")
	theirs, waiting, alsoBusy := cl.take(records, []int{1, 3})
	require.Equal(t, []int{3}, theirs)
	require.Equal(t, []int{1}, waiting)
	cl.release(records, theirs)
	select {
	case <-busy:
		t.Fatal("a is not free")
	case <-alsoBusy:
		t.Fatal("b is not free")
	default:
	}
	cl.release(records, mine)
	<-busy
	<-alsoBusy
	require.Empty(t, cl.byKey)
}

// What another version has left orders nothing: the key is emptied, and what is replayed next is
// compared with the stamp of the record.
func TestAReplayEmptiesAKeyWhoseStampItDoesNotKnow(t *testing.T) {
	b := newReplayBench(t)
	for op, want := range map[fallback.Op]fallback.Verdict{fallback.OpSet: fallback.Deleted, fallback.OpDel: fallback.Applied, fallback.OpFill: fallback.Superseded} {
		b.key = "k" + string(op)
		b.put('s', b.stamp(-5000, "bbbb", 1), "theirs")
		b.server.Do("HSET", stamp.Bucket(b.key), stamp.Field(b.key), "\x20of another version")
		require.Equal(t, want, b.replay(op, b.stamp(-1000, "aaaa", 1), "v", time.Hour), op)
		if op == fallback.OpFill {
			require.Equal(t, "theirs", b.value())
			continue
		}
		require.Nil(t, b.value(), op)
		require.Equal(t, b.stamp(-1000, "aaaa", 1), parsed(t, b.mark()).Stamp.String())
		require.Equal(t, fallback.Applied, b.replay(fallback.OpSet, b.stamp(0, "bbbb", 2), "next", time.Hour))
		require.Equal(t, "next", b.value())
	}
}

// A stamp lives as long as its value: however long ago that was set, a replayed Set knows whose it
// is, and replaces it.
func TestAReplayKnowsWhoseALongLivedValueIs(t *testing.T) {
	b := newReplayBench(t)
	b.key = "{slot}k"
	day := (24 * time.Hour).Milliseconds()
	b.server.Do("SET", b.key, "of yesterday")
	by, _ := stamp.Parse(b.stamp(-day, "bbbb", 1))
	b.server.Do("HSET", stamp.Bucket(b.key), b.key, stamp.Left{Stamp: by, Ends: b.now/1000 + day}.String())
	for i := range 100 { // others write in the slot
		require.NoError(t, b.c.Set(t.Context(), time.Minute, fmt.Sprint("{slot}", i), "v"))
	}
	require.Equal(t, fallback.Applied, b.replay(fallback.OpSet, b.stamp(0, "aaaa", 1), "v", time.Hour))
	require.Equal(t, "v", b.value())
	require.EqualValues(t, 1, b.server.Do("PERSIST", stamp.Bucket(b.key)), "it has an end")
}

// Where a bucket was evicted its keys are as keys that were never written: a value of theirs counts
// as loaded, so a replayed Set removes it.
func TestAReplayAfterAnEviction(t *testing.T) {
	b := newReplayBench(t)
	for i, op := range []fallback.Op{fallback.OpSet, fallback.OpDel} {
		b.key = fmt.Sprint("k", i)
		require.NoError(t, b.c.Set(t.Context(), time.Minute, b.key, "theirs"))
		b.server.Do("DEL", stamp.Bucket(b.key))
		b.replay(op, b.stamp(-5000, "aaaa", 1), "older", time.Hour)
		require.Nil(t, b.value())
		require.Equal(t, b.stamp(-5000, "aaaa", 1), parsed(t, b.mark()).Stamp.String())
	}
}

// Nothing is over at an hour, or wherever: an operation of the same client that came later is seen
// by one that comes late, however far apart they are within StampTTL.
func TestAStampIsSeenHoweverOldItIs(t *testing.T) {
	b := newReplayBench(t)
	for _, ago := range []time.Duration{time.Second, 30 * time.Minute, 59 * time.Minute} {
		b.key = "k" + ago.String()
		b.put('s', b.stamp(-ago.Milliseconds(), "aaaa", 9), "later")
		require.Equal(t, fallback.Superseded, b.replay(fallback.OpSet, b.stamp(-ago.Milliseconds()-1, "aaaa", 8), "earlier", time.Hour))
		require.Equal(t, "later", b.value())
	}
}
