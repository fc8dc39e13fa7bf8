package faults_test

import (
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside"
	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/stamp"
)

// BenchmarkReplay has 100,000 records replayed without a limit of the rate, and writes the same
// data with plain pipelined SETs: batches as large as the replay's, as many under way. The goal is
// 0.35 of that rate. A replay leaves a stamp beside each key, looks before it writes, and takes its
// records off the disk; what each of these costs is told by the cases. bound is the rate of a
// script that looks at nothing and does no more than two SETs for each record, one for the value
// and one for the stamp. The CPU time of server and client for each record tells the same where
// the cores are shared with others.
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
	const records, goal = 100_000, 0.35
	var replayed, plain, bound time.Duration
	var replayCPU, setCPU cpu
	for range b.N {
		b.StopTimer()
		w := &world{t: b}
		single(true)(w)
		tr := newTruth(records)
		passes := make(chan fallback.ReplayReport, 1000) // on a busy machine some may be broken off
		p := w.join(w.direct(), nil, store, func(o *aside.Options) {
			o.ReplayRate = -1
			o.OnReplay = func(r aside.Replay) {
				if !r.Running {
					passes <- r.Report
				}
			}
		})
		server := w.serverCPU(b)
		w.server.Freeze()
		eventually(b, "it is noticed", func() bool { return p.Health().Mode == aside.Degraded })
		tr.writeAll(b, p)
		for end := time.Now().Add(5 * time.Minute); *full && p.Health().Fallback.Dirty > 0 && time.Now().Before(end); {
			time.Sleep(10 * time.Millisecond) // until all have their files, if they are to have any
			if b.Name() != "BenchmarkReplay/files" {
				break
			}
		}
		client := clientCPU(b)
		w.server.Thaw()
		b.StartTimer()
		p.awaitRecovery(b)
		b.StopTimer()
		for applied := 0; applied < records; { // what is told comes a little after what is done
			select {
			case pass := <-passes:
				applied += pass.Applied + pass.Superseded // by itself, if a batch was done and not answered
				replayed += pass.Took
			case <-time.After(patience):
				b.Fatalf("%d records were replayed", applied)
			}
		}
		replayCPU.add(w.serverCPU(b)-server, clientCPU(b)-client)
		for end := time.Now().Add(patience); p.Health().Durable && len(files(b, p.dir)) > 0 && time.Now().Before(end); {
			time.Sleep(10 * time.Millisecond)
		}
		p.close(b)
		server, client = w.serverCPU(b), clientCPU(b)
		plain += w.pipelined(b, tr, false)
		setCPU.add(w.serverCPU(b)-server, clientCPU(b)-client)
		bound += w.pipelined(b, tr, true)
		b.StartTimer()
	}
	ratio := plain.Seconds() / replayed.Seconds()
	b.ReportMetric(float64(b.N)*records/replayed.Seconds(), "replayed/s")
	b.ReportMetric(float64(b.N)*records/plain.Seconds(), "SET/s")
	b.ReportMetric(ratio, "ratio")
	for what, took := range map[string]time.Duration{
		"replay-server": replayCPU.server, "replay-client": replayCPU.client, "SET-server": setCPU.server, "SET-client": setCPU.client,
	} {
		b.ReportMetric(float64(took.Nanoseconds())/1000/float64(b.N)/records, what+"-µs")
	}
	b.ReportMetric(plain.Seconds()/bound.Seconds(), "bound")
	b.Logf("%s: the replay has %.2f × the rate of plain pipelined SET; goal %v", mark(ratio >= goal), ratio, goal)
}

// cpu is CPU time: of the server, and of this process.
type cpu struct{ server, client time.Duration }

func (c *cpu) add(server, client time.Duration) {
	c.server += server
	c.client += client
}

// serverCPU and clientCPU are what has been used so far.
func (w *world) serverCPU(b *testing.B) (used time.Duration) {
	b.Helper()
	info, _ := w.server.Do("INFO", "cpu").(string)
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if name == "used_cpu_user" || name == "used_cpu_sys" {
			seconds, err := strconv.ParseFloat(value, 64)
			if err != nil {
				b.Fatal(err)
			}
			used += time.Duration(seconds * float64(time.Second))
		}
	}
	return used
}

func clientCPU(b *testing.B) time.Duration {
	b.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// pipelined writes all keys in the plainest way, or, scripted, with a stamp each in the plainest
// script, and says how long that took.
func (w *world) pipelined(b *testing.B, tr *truth, scripted bool) time.Duration {
	b.Helper()
	const batch, underWay, perCall = 256, 2, 64 // as fallback.Syncer and the client
	const script = `for i = 1, #KEYS, 2 do
  redis.call('PSETEX', KEYS[i], 3600000, ARGV[i])
  redis.call('HSET', KEYS[i+1], KEYS[i], ARGV[i+1])
end
return 1`
	left := strings.Repeat("s", 24)
	w.server.Empty()
	redis, err := rueidis.NewClient(disableCache(w.direct()))
	if err != nil {
		b.Fatal(err)
	}
	defer redis.Close()
	ctx := testContext(b)
	sha, err := redis.Do(ctx, redis.B().ScriptLoad().Script(script).Build()).ToString()
	if err != nil {
		b.Fatal(err)
	}
	began := time.Now()
	slots := make(chan struct{}, underWay)
	var flying sync.WaitGroup
	for from := 0; from < len(tr.keys); from += batch {
		slots <- struct{}{}
		flying.Go(func() { // ends with the answers
			defer func() { <-slots }()
			var commands rueidis.Commands
			keys := tr.keys[from:min(from+batch, len(tr.keys))]
			if scripted {
				for some := range slices.Chunk(keys, perCall) {
					var names, values []string
					for _, f := range some {
						names, values = append(names, f.name, stamp.Bucket(f.name)), append(values, f.value(f.version.Load()), left)
					}
					commands = append(commands, redis.B().Evalsha().Sha1(sha).Numkeys(int64(len(names))).Key(names...).Arg(values...).Build())
				}
				keys = nil
			}
			for _, f := range keys {
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
