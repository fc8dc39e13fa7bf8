package fallback

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/slot"
	"github.com/redaside/aside/internal/vfs"
)

// fakeRedis is a Target that takes everything, unless it is told otherwise.
type fakeRedis struct {
	answer func(Record) Outcome // nil: Applied
	before func(batch []Record) // called with each batch

	mu      sync.Mutex
	has     []Record // what was answered for, in order
	batches [][]Record
	flying  int
	most    int // batches at once
}

func (f *fakeRedis) Replay(_ context.Context, records []Record) []Outcome {
	f.mu.Lock()
	f.batches = append(f.batches, records)
	f.flying++
	f.most = max(f.most, f.flying)
	f.mu.Unlock()
	if f.before != nil {
		f.before(records)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.flying--
	out := make([]Outcome, len(records))
	for i, r := range records {
		out[i] = Outcome{Verdict: Applied}
		if f.answer != nil {
			out[i] = f.answer(r)
		}
		if v := out[i].Verdict; v != NoAnswer && v != Refused {
			f.has = append(f.has, r)
		}
	}
	return out
}

var errAway = errors.New("redis is away")

func replay(t *testing.T, s Store, target Target, o SyncerOptions) (ReplayReport, error) {
	t.Helper()
	if o.Rate == 0 {
		o.Rate = -1
	}
	return NewSyncer(s, target, o).Run(t.Context())
}

func fillStore(t *testing.T, s Store, n int) {
	t.Helper()
	for i := range n {
		s.Fill(fill(fmt.Sprint("fill", i), "v"))
		mustPut(t, s, set(fmt.Sprint("set", i), "v"), del(fmt.Sprint("del", i)))
	}
}

func TestRecordsOfASlotComeTogether(t *testing.T) {
	for name, s := range map[string]Store{"memory": NewMemory(0), "disk": open(t, vfs.NewMem(), byHand())} {
		t.Run(name, func(t *testing.T) {
			fillStore(t, s, 600)
			for _, op := range []Op{OpDel, OpSet, OpFill} {
				var slots []uint16
				for r := range s.Records(op) {
					slots = append(slots, slot.Of(r.Key))
				}
				require.Len(t, slots, 600)
				require.IsIncreasing(t, slices.Compact(slots), "a slot comes once")
			}
		})
	}
}

// A record is yielded as it is when its turn comes: not at all once it is settled, also where its key has another one since,
// and the newer where it was replaced.
func TestRecordsAreYieldedAsTheyAreWhenTheirTurnComes(t *testing.T) {
	for name, s := range map[string]Store{"memory": NewMemory(0), "disk": open(t, vfs.NewMem(), byHand())} {
		t.Run(name, func(t *testing.T) {
			const n = 30
			first := make(map[string]Record)
			for i := range n {
				r := set(fmt.Sprint(i), "old")
				first[r.Key] = r
				mustPut(t, s, r)
			}
			now := make(map[string]Record)
			seen := 0
			for r := range s.Records(OpSet) {
				if seen++; seen == 1 {
					delete(first, r.Key)
					for key, old := range first {
						switch i, _ := strconv.Atoi(key); i % 4 {
						case 0:
							s.Settle(old)
						case 1:
							s.Settle(old)
							now[key] = set(key, "again")
							mustPut(t, s, now[key])
						case 2:
							now[key] = set(key, "new")
							mustPut(t, s, now[key])
						case 3:
							mustPut(t, s, del(key))
						}
					}
					continue
				}
				require.Equal(t, now[r.Key], r)
			}
			require.GreaterOrEqual(t, seen, n/4, "those that were replaced")
		})
	}
}

func TestAPassReplaysDeletesThenSetsThenFills(t *testing.T) {
	for name, s := range map[string]Store{"memory": NewMemory(0), "disk": open(t, vfs.NewMem(), byHand())} {
		t.Run(name, func(t *testing.T) {
			fillStore(t, s, 600)
			redis := new(fakeRedis)
			report, err := replay(t, s, redis, SyncerOptions{})
			require.NoError(t, err)
			require.Equal(t, 1800, report.Total)
			require.Equal(t, 1800, report.Applied)
			require.Equal(t, 1800, report.Done())
			require.Positive(t, report.Took)
			require.Equal(t, Stats{}, withoutBytes(s.Stats()))
			ops := make([]Op, 0, len(redis.has))
			for _, r := range redis.has {
				ops = append(ops, r.Op)
			}
			require.Equal(t, []Op{OpDel, OpSet, OpFill}, slices.Compact(ops), "a kind begins when the one before is done")
			for _, b := range redis.batches {
				require.LessOrEqual(t, len(b), batchRecords)
			}
		})
	}
}

// While batches wait for the disk, Redis is to have others to work on; but no more than the rate
// asks for.
func TestMoreBatchesAreInFlightAtAHigherRate(t *testing.T) {
	for rate, want := range map[int]int{-1: mostInFlight, 0: leastInFlight, 5000: leastInFlight, 40_000: 4, 1_000_000: mostInFlight} {
		t.Run(fmt.Sprint(rate), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := NewMemory(1 << 30)
				for i := range 20 * batchRecords {
					mustPut(t, s, del(fmt.Sprint(i)))
				}
				redis := &fakeRedis{before: func([]Record) { time.Sleep(time.Second) }}
				report, err := NewSyncer(s, redis, SyncerOptions{Rate: rate}).Run(t.Context())
				require.NoError(t, err)
				require.Equal(t, 20*batchRecords, report.Applied)
				require.Equal(t, want, redis.most)
			})
		})
	}
}

func withoutBytes(s Stats) Stats {
	s.Bytes, s.MaxBytes, s.Dirty = 0, 0, 0
	return s
}

func TestLargeRecordsMakeSmallBatches(t *testing.T) {
	s := NewMemory(1 << 30)
	for i := range 10 {
		mustPut(t, s, set(fmt.Sprint(i), strings.Repeat("v", batchBytes/3)))
	}
	mustPut(t, s, set("alone", strings.Repeat("v", 2*batchBytes)))
	redis := &fakeRedis{}
	report, err := replay(t, s, redis, SyncerOptions{})
	require.NoError(t, err)
	require.Equal(t, 11, report.Applied)
	for _, b := range redis.batches {
		size := 0
		for _, r := range b {
			size += len(r.Key) + len(r.Value)
		}
		require.True(t, size <= batchBytes || len(b) == 1)
	}
}

// Each verdict: where it is counted, and whether the record stays.
func TestOnlyWhatRedisHasAnsweredForIsSettled(t *testing.T) {
	errFull := errors.New("OOM command not allowed")
	verdicts := map[string]Outcome{
		"applied": {Verdict: Applied}, "superseded": {Verdict: Superseded}, "deleted": {Verdict: Deleted}, "dropped": {Verdict: Dropped},
		"refused": {Verdict: Refused, Err: errFull}, "no answer": {Verdict: NoAnswer, Err: errAway},
	}
	s := NewMemory(0)
	for key := range verdicts {
		mustPut(t, s, set(key, "v"))
	}
	redis := &fakeRedis{answer: func(r Record) Outcome { return verdicts[r.Key] }}
	report, err := replay(t, s, redis, SyncerOptions{})
	require.ErrorIs(t, err, errAway)
	require.Equal(t, []int{1, 1, 1, 1, 1, 1}, []int{report.Applied, report.Superseded, report.Deleted, report.Dropped, report.Refused, report.Failed})
	require.ErrorIs(t, report.Refusal, errFull)
	require.Equal(t, err, report.Err)
	require.Len(t, all(s), 2)
	require.True(t, s.Pending("refused"))
	require.True(t, s.Pending("no answer"))
	line := report.String()
	for _, part := range []string{"replayed 5 of 6 records", "1 superseded", "1 refused", "1 without an answer", "OOM", "broken off: redis is away"} {
		require.Contains(t, line, part)
	}
	require.NotContains(t, line, "\n")
}

func TestWhatItsTargetHasSettledIsNotSettledAgain(t *testing.T) {
	s := NewMemory(0)
	fillStore(t, s, 3)
	redis := &fakeRedis{answer: func(r Record) Outcome { return Outcome{Verdict: Applied, Settled: r.Op == OpSet} }}
	report, err := replay(t, s, redis, SyncerOptions{})
	require.NoError(t, err)
	require.Equal(t, 9, report.Applied)
	stats := s.Stats()
	require.Equal(t, 3, stats.Sets, "this target has only said so")
	require.Zero(t, stats.Deletes+stats.Fills)
}

func TestARefusalDoesNotEndThePass(t *testing.T) {
	s := NewMemory(0)
	fillStore(t, s, 1000)
	redis := &fakeRedis{answer: func(r Record) Outcome {
		if r.Op == OpSet {
			return Outcome{Verdict: Refused, Err: errors.New("OOM")}
		}
		return Outcome{Verdict: Applied}
	}}
	report, err := replay(t, s, redis, SyncerOptions{})
	require.NoError(t, err)
	require.Equal(t, 2000, report.Applied)
	require.Equal(t, 1000, report.Refused)
	require.Equal(t, 1000, s.Stats().Sets)
}

// Redis goes away in the middle, again and again; each pass goes on where the last one was broken
// off.
func TestABrokenPassIsRunAgain(t *testing.T) {
	m := vfs.NewMem()
	d := open(t, m, byHand())
	fillStore(t, d, 500)
	answered := make(map[string]int)
	left := 0
	redis := &fakeRedis{answer: func(r Record) Outcome {
		if left--; left < 0 {
			return Outcome{Verdict: NoAnswer, Err: errAway}
		}
		answered[r.Key]++
		return Outcome{Verdict: Applied}
	}}
	done := 0
	for pass := 0; ; pass++ {
		require.Less(t, pass, 20)
		left = 137
		report, err := replay(t, d, redis, SyncerOptions{})
		done += report.Done()
		stats := d.Stats()
		require.Equal(t, 1500-done, stats.Sets+stats.Deletes+stats.Fills, "what was answered for is gone, the rest is there")
		if err == nil {
			break
		}
		require.ErrorIs(t, err, errAway)
		if pass%3 == 0 { // the process, too
			require.NoError(t, d.Close(t.Context()))
			d = open(t, m, byHand())
		}
	}
	require.Len(t, answered, 1500)
	for key, n := range answered {
		require.Equal(t, 1, n, key)
	}
}

func TestANewerRecordIsNotSettledByTheOldersAnswer(t *testing.T) {
	s := NewMemory(0)
	mustPut(t, s, set("k", "old"))
	newer := set("k", "new")
	redis := &fakeRedis{before: func(batch []Record) {
		if batch[0].Value == "old" {
			mustPut(t, s, newer)
		}
	}}
	_, err := replay(t, s, redis, SyncerOptions{})
	require.NoError(t, err)
	if len(redis.has) == 1 { // or the pass has found it, too
		expect(t, s, newer)
		_, err = replay(t, s, redis, SyncerOptions{})
		require.NoError(t, err)
	}
	require.Equal(t, "new", redis.has[1].Value)
	expectNone(t, s, "k")
}

func TestAShardReplaysItsOwnKeysOnly(t *testing.T) {
	for name, s := range map[string]Store{"own": NewMemory(0), "somebody else's": struct{ Store }{NewMemory(0)}} {
		t.Run(name, func(t *testing.T) {
			fillStore(t, s, 300)
			redis := &fakeRedis{}
			report, err := replay(t, s, redis, SyncerOptions{Belongs: func(key string) bool { return strings.HasSuffix(key, "1") }})
			require.NoError(t, err)
			require.Equal(t, 90, report.Applied)
			require.Len(t, all(s), 810)
			for _, r := range redis.has {
				require.True(t, strings.HasSuffix(r.Key, "1"))
			}
			if name == "own" {
				require.Equal(t, 90, report.Total)
			}
		})
	}
}

func TestFillsMayBeDroppedUnasked(t *testing.T) {
	s := NewMemory(0)
	fillStore(t, s, 300)
	redis := &fakeRedis{}
	report, err := replay(t, s, redis, SyncerOptions{DropFills: true})
	require.NoError(t, err)
	require.Equal(t, 600, report.Applied)
	require.Equal(t, 300, report.Dropped)
	require.Empty(t, all(s))
	for _, r := range redis.has {
		require.NotEqual(t, OpFill, r.Op)
	}
}

func TestAnAnswerForTooFewCountsAsNone(t *testing.T) {
	s := NewMemory(0)
	mustPut(t, s, set("a", "v"), set("b", "v"))
	report, err := replay(t, s, shortAnswer{}, SyncerOptions{})
	require.Error(t, err)
	require.Equal(t, 1, report.Applied)
	require.Equal(t, 1, report.Failed)
	require.Len(t, all(s), 1)
}

type shortAnswer struct{}

func (shortAnswer) Replay(context.Context, []Record) []Outcome { return []Outcome{{Verdict: Applied}} }

func TestAPassEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewMemory(0)
		fillStore(t, s, 1000)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		report, err := NewSyncer(s, &fakeRedis{}, SyncerOptions{Rate: 500}).Run(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Second, report.Took)
		require.InDelta(t, 500, report.Done(), 26)
		require.Zero(t, report.Failed)
		stats := s.Stats()
		require.Equal(t, 3000-report.Done(), stats.Sets+stats.Deletes+stats.Fills)
	})
}

func TestTheRateIsKept(t *testing.T) {
	for _, test := range []struct {
		rate, records int
		took          time.Duration
	}{
		{0, 20_000, 4 * time.Second}, // the default is 5,000
		{100, 500, 5 * time.Second},
		{1, 10, 10 * time.Second},
		{-1, 20_000, 0},
	} {
		t.Run(fmt.Sprint(test.rate), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := NewMemory(0)
				var records []Record
				for i := range test.records {
					records = append(records, del(fmt.Sprint(i)))
				}
				mustPut(t, s, records...)
				began := time.Now()
				var most atomic.Int64
				redis := &fakeRedis{before: func(batch []Record) {
					most.Store(max(most.Load(), int64(len(batch))))
				}}
				report, err := NewSyncer(s, redis, SyncerOptions{Rate: test.rate}).Run(t.Context())
				require.NoError(t, err)
				require.Equal(t, test.records, report.Applied)
				// The last batch need not be waited for.
				slack := time.Duration(0)
				if test.rate >= 0 {
					slack = time.Duration(most.Load()) * time.Second / time.Duration(max(test.rate, 1))
					if test.rate == 0 {
						slack = time.Duration(most.Load()) * time.Second / 5000
					}
				}
				require.InDelta(t, test.took, time.Since(began), float64(slack)+1e6)
			})
		})
	}
}

// Time in which nothing was sent is not made up for: it would hit a Redis that has just come back.
func TestThereIsNoBurstAfterAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		most, _, limit := SyncerOptions{Rate: 200}.limits()
		require.Equal(t, 10, most)
		require.NoError(t, limit.WaitN(t.Context(), most))
		time.Sleep(time.Minute)
		began := time.Now()
		for range 3 {
			require.NoError(t, limit.WaitN(t.Context(), most))
		}
		require.Equal(t, 100*time.Millisecond, time.Since(began))
	})
}

func TestProgressIsToldNowAndThenAndAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewMemory(0)
		fillStore(t, s, 1000)
		var told []Progress
		var at []time.Time
		report, err := NewSyncer(s, &fakeRedis{}, SyncerOptions{Rate: 1000, Progress: func(p Progress) {
			told = append(told, p)
			at = append(at, time.Now())
		}}).Run(t.Context())
		require.NoError(t, err)
		require.Greater(t, len(told), 15)
		for i := range told {
			require.Equal(t, 3000, told[i].Total)
			if i > 0 {
				require.Greater(t, told[i].Done, told[i-1].Done)
			}
			if i > 0 && i < len(told)-1 {
				require.GreaterOrEqual(t, at[i].Sub(at[i-1]), 100*time.Millisecond)
			}
		}
		require.Equal(t, Progress{Done: 3000, Total: 3000, Report: report}, told[len(told)-1])
	})
}

func TestProgressDoesNotSteer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, call := range map[string]func(Progress){
			"panics": func(Progress) { panic("no") },
			"slow":   func(Progress) { time.Sleep(time.Hour) },
		} {
			s := NewMemory(0)
			fillStore(t, s, 1000)
			began := time.Now()
			report, err := NewSyncer(s, &fakeRedis{}, SyncerOptions{Rate: 1000, Progress: call}).Run(t.Context())
			require.NoError(t, err, name)
			require.Equal(t, 3000, report.Applied, name)
			require.InDelta(t, 3*time.Second, time.Since(began), float64(150*time.Millisecond), name)
			time.Sleep(3 * time.Hour)
		}
	})
}

func TestPassesAtOnceDoNoHarm(t *testing.T) {
	d := open(t, vfs.NewMem(), byHand())
	fillStore(t, d, 1000)
	redis := &fakeRedis{}
	syncer := NewSyncer(d, redis, SyncerOptions{Rate: -1})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if _, err := syncer.Run(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.Empty(t, all(d))
}
