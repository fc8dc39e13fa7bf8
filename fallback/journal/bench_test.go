package journal

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redaside/aside/internal/vfs"
)

func benchmarked() Record {
	return Record{
		Op: Set, Key: "user:0123456789", Value: hundred, Expires: 1900000000000,
		Stamp: "019c01d2e3f40000-a1b2c3d4", Slack: 50000,
	}
}

var hundred = string(make([]byte, 100))

func BenchmarkAppend(b *testing.B) {
	for name, mode := range map[string]Sync{"always": Always, "every-second": EverySecond, "os": OS} {
		for _, writers := range []int{1, 8, 64, 512} {
			b.Run(fmt.Sprintf("%s/writers=%d", name, writers), func(b *testing.B) {
				b.ReportAllocs()
				took := fromMany(b, writers, b.N, appendTo(b, mode))
				b.ReportMetric(float64(b.N)/took.Seconds(), "records/s")
			})
		}
	}
}

// BenchmarkAgainstFsyncPerWrite compares 64 writers that share their fsyncs with 64 that write to
// one file and sync it for each record. They take turns, so that both meet the same disk. The first
// are to be 20 times as fast.
func BenchmarkAgainstFsyncPerWrite(b *testing.B) {
	const writers = 64
	shared, each := appendTo(b, Always), syncEach(b)
	var sharedTook, eachTook time.Duration
	var sharedDone, eachDone int
	for b.Loop() {
		sharedTook += fromMany(b, writers, 100*writers, shared)
		sharedDone += 100 * writers
		eachTook += fromMany(b, writers, 4*writers, each)
		eachDone += 4 * writers
	}
	sharedRate, eachRate := float64(sharedDone)/sharedTook.Seconds(), float64(eachDone)/eachTook.Seconds()
	b.ReportMetric(sharedRate, "records/s")
	b.ReportMetric(eachRate, "plain-records/s")
	b.ReportMetric(sharedRate/eachRate, "times")
}

func appendTo(b *testing.B, mode Sync) (write func() error) {
	fsys, err := vfs.Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	j, _, err := Open(fsys, journalDir, Options{Sync: mode}, func(Record) error { return nil })
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := j.Close(context.Background()); err != nil {
			b.Error(err)
		}
		_ = fsys.Close()
	})
	return func() error { return j.Append(b.Context(), benchmarked()) }
}

func syncEach(b *testing.B) (write func() error) {
	f, err := os.Create(filepath.Join(b.TempDir(), "f"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = f.Close() })
	var mu sync.Mutex
	return func() error {
		r := benchmarked()
		part, _ := appendRecord(nil, &r, testSalt, noDB)
		mu.Lock()
		defer mu.Unlock()
		if _, err := f.Write(part); err != nil {
			return err
		}
		return f.Sync()
	}
}

// fromMany writes n records from so many goroutines and says how long that took.
func fromMany(b *testing.B, writers, n int, write func() error) time.Duration {
	began := time.Now()
	var next atomic.Int64
	var all sync.WaitGroup
	for range writers {
		all.Go(func() {
			for next.Add(1) <= int64(n) {
				if err := write(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	return time.Since(began)
}
