package sim

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

const (
	now = epoch + 10*minute
	u   = 100_000 // µs
	µs  = 1
)

var here = Env{Now: now, Margin: u, StampTTL: stampTTL, Fenced: true}

// Times in these tests are offsets from t0, which is a minute ago.
const t0 = now - minute

func stampOf(client uint64, counter uint64, at int64) Stamp { return Stamp{t0 + at, client, counter} }

func setAt(s Stamp) Record {
	return Record{Op: OpSet, Stamp: s, Value: "r", Expires: ms(now + minute)}
}

func delAt(s Stamp) Record { return Record{Op: OpDel, Stamp: s} }

// companion is one with its usual expiry and no value of its own.
func companion(s Stamp) Companion { return Companion{Stamp: s, Expires: ms(now + stampTTL)} }

func (c Companion) owning(until int64) Companion { c.ValueExpires = until; return c }

func (c Companion) beside(other int64) Companion { c.Other = t0 + other; return c }

func (c Companion) nothing() State { return State{Companion: c} }

func (c Companion) value(v string) State { return State{Companion: c}.holding(v, ms(now+minute)) }

func (c Companion) marker(at int64) State {
	return State{Content: Lock, Marker: Marker{7, t0 + at}, Expires: ms(now + second), Companion: c}
}

// The table above the rule, a line for a cell.
func TestReplayFollowsTheTable(t *testing.T) {
	const a, b, c = 0xa, 0xb, 0xc
	var none Companion
	later := ms(now + minute)
	r := stampOf(a, 5, 0) // the record's
	top := companion(r)
	older, newer := companion(stampOf(b, 1, -u-µs)), companion(stampOf(b, 1, u+µs))
	justOlder, justNewer := companion(stampOf(b, 1, -u)), companion(stampOf(b, 1, u))

	for _, row := range []struct {
		name   string
		before State
		record Record
		after  State
		what   Outcome
	}{
		{"set, nothing there", none.nothing(), setAt(r), top.owning(later).value("r"), Applied},
		{"del, nothing there", none.nothing(), delAt(r), top.nothing(), Applied},
		{"set, a fill", none.value("f"), setAt(r), top.nothing(), Reloads},
		{"del, a fill", none.value("f"), delAt(r), top.nothing(), Applied},
		{"set, a load that began before", none.marker(u), setAt(r), top.owning(later).value("r"), Applied},
		{"del, a load that began before", none.marker(u), delAt(r), top.nothing(), Applied},
		{"set, a load that began after", none.marker(u + µs), setAt(r), top.marker(u + µs), Reloads},
		{"del, a load that began after", none.marker(u + µs), delAt(r), top.marker(u + µs), Applied},

		{"set, an older set's value", older.owning(later).value("v"), setAt(r), top.owning(later).value("r"), Applied},
		{"set, an older set, its value gone", older.owning(later).nothing(), setAt(r), top.owning(later).value("r"), Applied},
		{"set, a fill after an older set expired", older.owning(ms(now)).value("f"), setAt(r), top.nothing(), Reloads},
		{"set, a fill after an older delete", older.value("f"), setAt(r), top.nothing(), Reloads},
		{"set, a load after an older delete", older.marker(-u), setAt(r), top.owning(later).value("r"), Applied},
		{"del, an older set's value", older.owning(later).value("v"), delAt(r), top.nothing(), Applied},
		{"del, a fill after an older delete", older.value("f"), delAt(r), top.nothing(), Applied},

		{"set, newer", newer.owning(later).value("v"), setAt(r), newer.owning(later).value("v"), Superseded},
		{"set, newer, and what may be older", newer.value("f"), setAt(r), newer.nothing(), Superseded},
		{"del, newer set", newer.owning(later).value("v"), delAt(r), newer.owning(later).value("v"), Superseded},
		{"del, newer, and what may be older", newer.value("f"), delAt(r), newer.nothing(), Superseded},
		{"del, newer with a load", newer.marker(0), delAt(r), newer.marker(0), Superseded},

		{"set, contested by an earlier stamp", justOlder.owning(later).value("v"), setAt(r), top.beside(-u).nothing(), Contested},
		{"set, contested by a later stamp", justNewer.owning(later).value("v"), setAt(r), justNewer.beside(0).nothing(), Contested},
		{"set, contested, and a fill", justNewer.value("f"), setAt(r), justNewer.beside(0).nothing(), Contested},
		{"set, contested, and a load before", justNewer.marker(u), setAt(r), justNewer.beside(0).nothing(), Contested},
		{"set, contested, and a load after", justNewer.marker(u + µs), setAt(r), justNewer.beside(0).marker(u + µs), Contested},
		{"del, contested by an earlier stamp", justOlder.owning(later).value("v"), delAt(r), top.beside(-u).nothing(), Applied},
		{"del, contested by a later stamp", justNewer.owning(later).value("v"), delAt(r), justNewer.beside(0).nothing(), Applied},
		{"del, contested, and a fill", justNewer.value("f"), delAt(r), justNewer.beside(0).nothing(), Applied},
		{"contested a third time, earlier", justNewer.beside(50).nothing(), setAt(r), justNewer.beside(50).nothing(), Contested},
		{"contested a third time, later", justNewer.beside(-50).nothing(), setAt(r), justNewer.beside(0).nothing(), Contested},

		{"again", top.owning(later).value("r"), setAt(r), top.owning(later).value("r"), Done},
		{"again, after a load", top.value("f"), setAt(r), top.value("f"), Done},
		{"overtaken by its client", companion(stampOf(a, 6, -2*u)).value("f"), setAt(r), companion(stampOf(a, 6, -2*u)).value("f"), Done},
		{"set after its client's delete", companion(stampOf(a, 4, 0)).nothing(), setAt(r), top.owning(later).value("r"), Applied},
		{"set after its client's later stamp", companion(stampOf(a, 4, 5*u)).nothing(), setAt(r), companion(stampOf(a, 5, 5*u)).owning(later).value("r"), Applied},
		{"set after its client's, which was contested", companion(stampOf(a, 4, -1)).beside(-u).nothing(), setAt(r), top.beside(-u).nothing(), Contested},
		{"set long after its client's, which was contested", companion(stampOf(a, 4, -1)).beside(-u - µs).nothing(), setAt(r), top.owning(later).value("r"), Applied},

		{"set, expired", older.owning(later).value("v"), Record{Op: OpSet, Stamp: r, Value: "r", Expires: ms(now)}, top.nothing(), TooOld},
		{"unsure set", older.owning(later).value("v"), Record{Op: OpSet, Stamp: r, Value: "r", Expires: later, Unsure: true}, companion(stampOf(a, 5, minute)).nothing(), TooOld},
		{"unsure delete", newer.owning(later).value("v"), Record{Op: OpDel, Stamp: r, Unsure: true}, companion(stampOf(a, 5, minute)).nothing(), Applied},
	} {
		t.Run(row.name, func(t *testing.T) {
			after, what := Replay(row.before, row.record, here)
			assert.Equal(t, row.after, after)
			assert.Equal(t, row.what, what)
		})
	}
}

// The order of events that would go wrong if a companion's time could fall. It takes all clocks at
// their worst, so that the simulation meets it once in millions of trials.
func TestAnOwnLaterWriteDoesNotHideAContestedOne(t *testing.T) {
	const e = u / 2
	end := func(env Env) State {
		// A writes while connected, is cut off and writes again; its clock is e behind. C writes;
		// its clock is e ahead. B writes last; its clock is e behind.
		s, _ := Apply(State{}, Write{Op: OpSet, Stamp: Stamp{now - e, 0xa, 1}, Value: "a1", TTL: 60_000, NotAfter: now}, env)
		a := setAt(Stamp{now - e + 10, 0xa, 2})
		c := setAt(Stamp{now + e + 20, 0xc, 1})
		b := setAt(Stamp{now - e + 30, 0xb, 1})
		env.Now += second
		for _, r := range []Record{b, a, c} {
			s, _ = Replay(s, r, env)
		}
		return s
	}
	assert.Equal(t, Nothing, end(here).Content, "B's may be the newest: C's must not be shown")
	relapse := here
	relapse.without = stampNeverFalls
	assert.Equal(t, Value, end(relapse).Content)
}

func TestReplayTakesAnOldSetForADelete(t *testing.T) {
	for _, row := range []struct {
		age  int64
		what Outcome
	}{{stampTTL - u, Applied}, {stampTTL - u + µs, TooOld}} {
		r := setAt(Stamp{now - row.age, 1, 1})
		after, what := Replay(State{}, r, here)
		assert.Equal(t, row.what, what)
		assert.Equal(t, r.Stamp, after.Companion.Stamp)
	}
}

func TestACompanionLivesAsLongAsItsValue(t *testing.T) {
	r := setAt(stampOf(1, 1, 0))
	r.Expires = ms(now + 2*stampTTL)
	after, _ := Replay(State{}, r, here)
	assert.Equal(t, r.Expires, after.Companion.Expires)
	after, _ = Apply(State{}, Write{Op: OpSet, Stamp: r.Stamp, Value: "v", TTL: ms(2 * stampTTL), NotAfter: now}, here)
	assert.Equal(t, after.Expires, after.Companion.Expires)
}

func TestReplayWritesAFillWhereNothingIsKnown(t *testing.T) {
	fill := Record{Op: OpFill, Stamp: stampOf(1, 0, 0), Value: "r", Expires: ms(now + minute)}
	with := func(change func(*Record)) Record { r := fill; change(&r); return r }
	lost := here
	lost.Fenced = false
	for _, row := range []struct {
		name   string
		before State
		record Record
		env    Env
		what   Outcome
	}{
		{"nothing there", State{}, fill, here, Applied},
		{"a value", Companion{}.value("f"), fill, here, Dropped},
		{"a marker", Companion{}.marker(-minute), fill, here, Dropped},
		{"a stamp", companion(stampOf(2, 1, -minute)).nothing(), fill, here, Dropped},
		{"expired", State{}, with(func(r *Record) { r.Expires = ms(now) }), here, Dropped},
		{"as old as stamps get", State{}, with(func(r *Record) { r.Stamp.Time = now - stampTTL + u - µs }), here, Dropped},
		{"the server has lost its memory", State{}, fill, lost, Dropped},
		{"by a clock that was off", State{}, with(func(r *Record) { r.Unsure = true }), here, Dropped},
	} {
		t.Run(row.name, func(t *testing.T) {
			after, what := Replay(row.before, row.record, row.env)
			assert.Equal(t, row.what, what)
			if what == Applied {
				assert.Equal(t, State{}.holding("r", fill.Expires), after)
			} else {
				assert.Equal(t, row.before, after)
			}
		})
	}
}

func TestAWriteIsNewerThanAllThatIsThere(t *testing.T) {
	future := companion(stampOf(2, 1, 2*minute)).owning(ms(now + minute)).value("v")
	for _, row := range []struct {
		name     string
		before   State
		proposed int64
		want     int64
	}{
		{"the server's time", State{}, 0, now},
		{"not what was proposed", State{}, 2 * minute, now},
		{"also where what was there is later", future, 0, now},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := Write{Op: OpDel, Stamp: stampOf(1, 1, row.proposed), NotAfter: now}
			after, what := Apply(row.before, w, here)
			assert.Equal(t, Applied, what)
			assert.Equal(t, Companion{Stamp: Stamp{row.want, 1, 1}, Expires: ms(now + stampTTL)}.nothing(), after)
			w.Again = true
			again, what := Apply(after, w, here)
			assert.Equal(t, Done, what)
			assert.Equal(t, after, again)
			again, what = Apply(row.before, w, here)
			assert.Equal(t, Applied, what)
			later := max(now, row.before.Companion.Time+1)
			assert.Equal(t, Companion{Stamp: Stamp{later, 1, 1}, Margin: here.margin(2 * (later - now)), Expires: ms(now + stampTTL)}.nothing(), again, "what it finds is not later")
		})
	}
	after, what := Apply(future, Write{Op: OpDel, NotAfter: now - µs}, here)
	assert.Equal(t, Late, what)
	assert.Equal(t, future, after)
}

// records draws Sets and Deletes of three clients that are mostly within a few margins of each
// other. A client's times grow with its counters, as they do in life.
func records(t *rapid.T) (all []Record) {
	for client := uint64(1); client <= 3; client++ {
		at := rapid.Int64Range(-2*u, 2*u).Draw(t, "at")
		for counter := uint64(1); counter <= uint64(rapid.IntRange(0, 3).Draw(t, "n")); counter++ {
			r := delAt(stampOf(client, counter, at))
			if rapid.Bool().Draw(t, "set") {
				r = setAt(r.Stamp)
				r.Value = string(rune('a' + len(all)))
				if rapid.IntRange(0, 9).Draw(t, "life") == 0 {
					r.Expires = ms(now)
				}
			}
			all = append(all, r)
			at += rapid.SampledFrom([]int64{1, u / 3, u - 1, u, u + 1, 3 * u}).Draw(t, "gap")
		}
	}
	return all
}

// shuffled has each record once at least, some more often.
func shuffled(t *rapid.T, all []Record) []Record {
	order := slices.Clone(all)
	for i := range rapid.IntRange(0, 2*len(all)).Draw(t, "repeated") {
		order = append(order, all[i%len(all)])
	}
	seed := rapid.Uint64().Draw(t, "order")
	rand.New(rand.NewPCG(seed, 0)).Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	return order
}

// expected is the one line above the rule: the newest Set, unless a write of another client is
// contested with it.
func expected(all []Record) (s State) {
	if len(all) == 0 {
		return State{}
	}
	top := slices.MaxFunc(all, func(a, b Record) int { return a.Stamp.Compare(b.Stamp) })
	other := int64(math.MinInt64)
	for _, r := range all {
		if r.Stamp.Client != top.Stamp.Client {
			other = max(other, r.Stamp.Time)
		}
	}
	c := companion(top.Stamp)
	if other >= top.Stamp.Time-u {
		c.Other = other
		return c.nothing()
	}
	if top.Op == OpSet && ms(now) < top.Expires {
		return c.owning(top.Expires).value(top.Value)
	}
	return c.nothing()
}

func TestReplayInAnyOrderAndRepetitionEndsInTheSameState(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := records(t)
		var s State
		for _, r := range shuffled(t, all) {
			s, _ = Replay(s, r, here)
		}
		require.Equal(t, expected(all), s)
	})
}

// With loads and fills in between there may be less than without, as a Set yields to what a load
// has left, but never the value of another write.
func TestReplayAmongLoadsBringsNothingBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := records(t)
		var s State
		var lock Marker
		var loaded bool
		load := func() {
			switch rapid.IntRange(0, 6).Draw(t, "load") {
			case 0, 1:
				m := Marker{lock.ID + 1, t0 + rapid.Int64Range(-3*u, 8*u).Draw(t, "began")}
				var found Content
				if s, found = ReadOrLock(s, m, 2000, here); found == Nothing {
					lock = m
				}
			case 2, 3:
				var ok bool
				s, ok = Fill(s, lock, "load", 60_000, here)
				loaded = loaded || ok
			case 4:
				s, _ = Release(s, lock, here)
			case 5:
				var what Outcome
				s, what = Replay(s, Record{Op: OpFill, Stamp: stampOf(9, 0, 0), Value: "load", Expires: ms(now + minute)}, here)
				loaded = loaded || what == Applied
			}
		}
		for _, r := range shuffled(t, all) {
			load()
			s, _ = Replay(s, r, here)
		}
		load()
		want := expected(all)
		require.Equal(t, want.Companion.Stamp, s.Companion.Stamp)
		require.Equal(t, want.Companion.Other, s.Companion.Other)
		if s.Content == Value && s.Value != "load" {
			require.Equal(t, want, s)
		}
		if lock.ID == 0 && !loaded {
			require.Equal(t, want, s)
		}
	})
}

func BenchmarkReplay(b *testing.B) {
	s, _ := Replay(State{}, delAt(stampOf(1, 1, 0)), here)
	r := setAt(stampOf(2, 1, 2*u))
	for b.Loop() {
		_, _ = Replay(s, r, here)
	}
}
