package fallback

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/fallback/journal"
)

func benchStore(b *testing.B, o Options) *Dir {
	b.Helper()
	o.Logger = quiet()
	d, err := Open(b.TempDir(), o)
	require.NoError(b, err)
	b.Cleanup(func() { _ = d.Close(context.Background()) })
	return d
}

var benchValue = `{"name":"` + strings.Repeat("v", 100) + `"}`

func benchRecord(n int64) Record {
	return Record{
		Op: OpSet, Key: fmt.Sprint("user:", n%10_000), Value: benchValue,
		Expires: time.Now().Add(time.Hour).UnixMilli(), Stamp: fmt.Sprintf("%016d0123456789abcdef%012d", n, n), Slack: 100,
	}
}

// BenchmarkPut has 64 writers. The last case is how it would be without a journal: a file for each
// write, synced, renamed, its folder synced.
func BenchmarkPut(b *testing.B) {
	writers := func(b *testing.B, put func(n int64) error) {
		var n atomic.Int64
		b.SetParallelism(32) // times GOMAXPROCS
		b.ResetTimer()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := put(n.Add(1)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	for name, mode := range map[string]journal.Sync{"always": journal.Always, "every-second": journal.EverySecond, "os": journal.OS} {
		b.Run("sync-"+name, func(b *testing.B) {
			d := benchStore(b, Options{Sync: mode})
			writers(b, func(n int64) error { return d.Put(context.Background(), benchRecord(n)) })
			b.StopTimer()
		})
	}
	b.Run("one-file-each", func(b *testing.B) {
		d := benchStore(b, Options{FlushInterval: time.Hour, MaxQueue: 1 << 30})
		for i := range 256 {
			require.NoError(b, d.fs.MkdirAll(fmt.Sprintf("%02x", i), 0o700))
		}
		writers(b, func(n int64) error {
			r := benchRecord(n)
			folder := fmt.Sprintf("%02x", n%256)
			if _, err := d.replaceFile(fmt.Sprintf("%s/%d.json", folder, n), encodeFile(&r, 0), true); err != nil {
				return err
			}
			return d.fs.SyncDir(folder)
		})
		b.StopTimer()
	})
}

func BenchmarkGet(b *testing.B) {
	d := benchStore(b, Options{})
	b.Run("nothing-pending", func(b *testing.B) {
		for b.Loop() {
			if d.Pending("user:1") {
				b.Fatal("?")
			}
		}
	})
	for i := range int64(1000) {
		require.NoError(b, d.Put(context.Background(), benchRecord(i)))
	}
	b.Run("pending", func(b *testing.B) {
		for b.Loop() {
			if !d.Pending("user:1") {
				b.Fatal("?")
			}
		}
	})
	b.Run("memory", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, ok, _ := d.Get("user:1"); !ok {
				b.Fatal("?")
			}
		}
	})
	b.Run("memory-parallel", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, ok, _ := d.Get("user:1"); !ok {
					b.Fatal("?")
				}
			}
		})
	})
	require.NoError(b, flush(d))
	d.x.mu.Lock()
	d.o.forget = true
	d.trimLocked()
	d.x.mu.Unlock()
	b.Run("file", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, ok, _ := d.Get("user:1"); !ok {
				b.Fatal("?")
			}
		}
	})
}

// BenchmarkReplay is what the Syncer and the store cost a replay, beside Redis. One operation is
// 100,000 records.
func BenchmarkReplay(b *testing.B) {
	const n = 100_000
	for _, name := range []string{"memory", "disk"} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				var s Store = NewMemory(1 << 30)
				if name == "disk" { // all in the journal, as after an outage of a second
					s = benchStore(b, Options{FlushInterval: time.Hour, MaxQueue: 1 << 30})
				}
				batch := make([]Record, 0, 1000)
				for i := range int64(n) {
					r := benchRecord(i)
					r.Key = fmt.Sprint("user:", i)
					if batch = append(batch, r); len(batch) == cap(batch) {
						require.NoError(b, s.Put(context.Background(), batch...))
						batch = batch[:0]
					}
				}
				b.StartTimer()
				report, err := NewSyncer(s, allApplied{}, SyncerOptions{Rate: -1}).Run(context.Background())
				b.StopTimer()
				require.NoError(b, err)
				require.Equal(b, n, report.Applied)
				_ = s.Close(context.Background())
				b.StartTimer()
			}
			b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "records/s")
		})
	}
}

type allApplied struct{}

func (allApplied) Replay(_ context.Context, records []Record) []Outcome {
	out := make([]Outcome, len(records))
	for i := range out {
		out[i].Verdict = Applied
	}
	return out
}

// BenchmarkFlush writes the files of 1,000 new records, and then removes them.
func BenchmarkFlush(b *testing.B) {
	d := benchStore(b, Options{FlushInterval: time.Hour, MaxQueue: 1 << 30})
	const n = 1000
	var wrote, removed time.Duration
	for round := range int64(b.N) {
		records := make([]Record, n)
		for i := range records {
			records[i] = benchRecord(round*n + int64(i))
		}
		require.NoError(b, d.Put(context.Background(), records...))
		began := time.Now()
		require.NoError(b, flush(d))
		wrote += time.Since(began)
		began = time.Now()
		d.Settle(records...)
		require.NoError(b, flush(d))
		removed += time.Since(began)
	}
	b.ReportMetric(float64(wrote.Microseconds())/n/float64(b.N), "µs/file-written")
	b.ReportMetric(float64(removed.Microseconds())/n/float64(b.N), "µs/file-removed")
}

// BenchmarkOpen opens a store with 10,000 record files. One operation is one record.
func BenchmarkOpen(b *testing.B) {
	const n = 10_000
	dir := b.TempDir()
	o := Options{Logger: quiet(), FlushInterval: time.Hour, MaxQueue: 1 << 30}
	fillIt := func() {
		d, err := Open(dir, o)
		require.NoError(b, err)
		for i := range int64(n) { // fills, as they need no sync
			r := benchRecord(i)
			r.Op, r.Key = OpFill, fmt.Sprint("user:", i)
			d.Fill(r)
		}
		require.NoError(b, d.Close(context.Background()))
	}
	fillIt()
	var took time.Duration
	for range b.N {
		began := time.Now()
		d, err := Open(dir, o)
		took += time.Since(began)
		require.NoError(b, err)
		require.Equal(b, n, d.Stats().Fills)
		require.NoError(b, d.Close(context.Background()))
	}
	b.ReportMetric(float64(took.Microseconds())/n/float64(b.N), "µs/record")
}
