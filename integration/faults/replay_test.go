package faults_test

import (
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside"
	"github.com/redaside/aside/fallback"
)

// BenchmarkReplay has 100,000 records replayed without a limit of the rate, and writes the same data with plain pipelined
// SETs: batches as large as the replay's, as many under way. The goal is half of that rate. A replay leaves a stamp beside each
// key, looks before it writes, and takes its records off the disk; what each of these costs is told by the cases.
//
//	memory    without a directory
//	journal   with one, but the records have no files of their own yet, as after a short outage
//	files     with one file for each, as after a long one (with -full: to make them takes a minute)
func BenchmarkReplay(b *testing.B) {
	b.Run("memory", func(b *testing.B) {
		benchmarkReplay(b, func(o *aside.Options) { o.FallbackDir = "" })
	})
	b.Run("journal", func(b *testing.B) {
		benchmarkReplay(b, func(o *aside.Options) { o.Fallback.FlushInterval, o.Fallback.MaxQueue = time.Hour, 1<<30 })
	})
	if *full {
		b.Run("files", func(b *testing.B) { benchmarkReplay(b, func(*aside.Options) {}) })
	}
}

func benchmarkReplay(b *testing.B, store func(*aside.Options)) {
	ownServers(b)
	const records, goal = 100_000, 0.5
	var replayed, plain time.Duration
	for range b.N {
		b.StopTimer()
		w := &world{t: b}
		single(true)(w)
		tr := newTruth(records)
		var passes []fallback.ReplayReport // on a busy machine some may be broken off; written by the replayer, which awaitRecovery waits for
		p := w.join(w.direct(), nil, store, func(o *aside.Options) {
			o.ReplayRate = -1
			o.OnReplay = func(r aside.Replay) {
				if !r.Running {
					passes = append(passes, r.Report)
				}
			}
		})
		w.server.Freeze()
		eventually(b, "it is noticed", func() bool { return p.Health().Mode == aside.Degraded })
		tr.writeAll(b, p)
		for end := time.Now().Add(5 * time.Minute); *full && p.Health().Fallback.Dirty > 0 && time.Now().Before(end); {
			time.Sleep(10 * time.Millisecond) // until all have their files, if they are to have any
			if b.Name() != "BenchmarkReplay/files" {
				break
			}
		}
		w.server.Thaw()
		b.StartTimer()
		p.awaitRecovery(b)
		b.StopTimer()
		applied := 0
		for _, pass := range passes {
			applied += pass.Applied + pass.Superseded // by itself, if a batch was done and not answered
			replayed += pass.Took
		}
		if applied != records {
			b.Fatalf("%d records were replayed: %v", applied, passes)
		}
		for end := time.Now().Add(patience); p.Health().Durable && len(files(b, p.dir)) > 0 && time.Now().Before(end); {
			time.Sleep(10 * time.Millisecond)
		}
		p.close(b)
		plain += w.pipelined(b, tr)
		b.StartTimer()
	}
	ratio := plain.Seconds() / replayed.Seconds()
	b.ReportMetric(float64(b.N)*records/replayed.Seconds(), "replayed/s")
	b.ReportMetric(float64(b.N)*records/plain.Seconds(), "SET/s")
	b.ReportMetric(ratio, "ratio")
	b.Logf("%s: the replay has %.2f × the rate of plain pipelined SET; goal %v", mark(ratio >= goal), ratio, goal)
}

// pipelined writes all keys in the plainest way, and says how long that took.
func (w *world) pipelined(b *testing.B, tr *truth) time.Duration {
	b.Helper()
	const batch, underWay = 256, 2 // as fallback.Syncer
	w.server.Empty()
	redis, err := rueidis.NewClient(disableCache(w.direct()))
	if err != nil {
		b.Fatal(err)
	}
	defer redis.Close()
	ctx, began := testContext(b), time.Now()
	slots := make(chan struct{}, underWay)
	var flying sync.WaitGroup
	for from := 0; from < len(tr.keys); from += batch {
		slots <- struct{}{}
		flying.Go(func() { // ends with the answers
			defer func() { <-slots }()
			var commands rueidis.Commands
			for _, f := range tr.keys[from:min(from+batch, len(tr.keys))] {
				commands = append(commands, redis.B().Set().Key(f.name).Value(f.value(f.version.Load())).Px(ttl).Build())
			}
			for _, answer := range redis.DoMulti(ctx, commands...) {
				if err := answer.Error(); err != nil {
					b.Error(err)
				}
			}
		})
	}
	flying.Wait()
	return time.Since(began)
}
