package main

// row is one line of the report.
type row struct {
	what     string
	value    func(samples) figure
	unit     string
	digits   int
	target   float64
	atMost   bool // else at least
	noTarget bool // for comparison only
}

// loaderMS is what the loader of BenchmarkStampede takes.
const loaderMS = 50

var rows = []row{
	{what: "hot hit, typed: throughput ÷ DoCache + JSON (a typed rueidisaside Get)", value: times("HotHit", "rueidis", "aside"), unit: "×", digits: 1, target: 30},
	{what: "hot hit, typed: time ÷ bare otter whose values have a ttl", value: times("HotHit", "aside", "otter-ttl"), unit: "×", digits: 2, target: 1.14, atMost: true},
	{what: "hot hit, typed: time ÷ bare otter whose values never end", value: times("HotHit", "aside", "otter"), unit: "×", digits: 2, noTarget: true},
	{what: "hot hit, typed: allocations", value: median("HotHit/aside allocs/op"), target: 0, atMost: true},
	{what: "hot hit, Shared(), struct with a slice: time ÷ bare otter", value: times("HotAccount", "aside-shared", "otter-shared"), unit: "×", digits: 2, target: 1.2, atMost: true},
	{what: "hot hit, Shared(), struct with a slice: allocations", value: median("HotAccount/aside-shared allocs/op"), target: 0, atMost: true},
	{what: "hot hit, typed: throughput ÷ sturdyc", value: times("HotHit", "sturdyc", "aside"), unit: "×", digits: 1, noTarget: true},
	{what: "hot hit, typed: throughput ÷ go-redis/cache with TinyLFU", value: times("HotHit", "go-redis-cache", "aside"), unit: "×", digits: 1, noTarget: true},
	{what: "hot hit, 200-byte struct with a slice: time ÷ rueidisaside with JSON", value: times("HotAccount", "aside", "rueidisaside"), unit: "×", digits: 3, target: 1. / 12, atMost: true},
	{what: "hot hit, 200-byte struct with a slice: time ÷ bare otter and a copy by hand", value: times("HotAccount", "aside", "otter"), unit: "×", digits: 2, target: 5, atMost: true},
	{what: "hot hit, 2 KB with 16 nested structs: time ÷ rueidisaside with JSON", value: times("HotOrder", "aside", "rueidisaside"), unit: "×", digits: 3, noTarget: true},
	{what: "hot hit, 2 KB with 16 nested structs: time ÷ bare otter and a copy by hand", value: times("HotOrder", "aside", "otter"), unit: "×", digits: 2, target: 1.1, atMost: true}, // why no more: ADR 8
	{what: "GetMulti, 100 hot keys, structs with a slice: time ÷ DoMultiCache + JSON", value: times("GetMultiHotAccount", "aside", "rueidis"), unit: "×", digits: 2, target: 0.1, atMost: true},
	{what: "Zipf over 10,000 keys: throughput ÷ rueidisaside", value: times("Zipf", "rueidisaside", "aside"), unit: "×", digits: 1, noTarget: true},
	{what: "Zipf over 10,000 keys: throughput ÷ go-redis/cache", value: times("Zipf", "go-redis-cache", "aside"), unit: "×", digits: 1, noTarget: true},
	{what: "Zipf over 10,000 keys: throughput ÷ sturdyc with Redis behind", value: times("Zipf", "sturdyc", "aside"), unit: "×", digits: 1, noTarget: true},
	{what: "first read of a value in Redis, 64 callers: throughput ÷ rueidisaside", value: times("FirstRead", "rueidisaside", "aside"), unit: "×", digits: 2, target: 1.3},
	{what: "first read of a value in Redis, 64 callers: time ÷ plain pipelined GET", value: times("FirstRead", "aside", "rueidis"), unit: "×", digits: 2, target: 1.5, atMost: true},
	{what: "first read, 64 callers: CPU time of client and server ÷ rueidisaside's", value: cpu("FirstRead/aside", "FirstRead/rueidisaside"), unit: "×", digits: 2, noTarget: true},
	{what: "cold miss, one caller: throughput ÷ rueidisaside", value: times("ColdMiss/callers=1", "rueidisaside", "aside"), unit: "×", digits: 2, noTarget: true},
	{what: "cold miss, 16 callers: throughput ÷ rueidisaside", value: times("ColdMiss/callers=16", "rueidisaside", "aside"), unit: "×", digits: 2, target: 1.7},
	{what: "cold miss, 64 callers: throughput ÷ rueidisaside", value: times("ColdMiss/callers=64", "rueidisaside", "aside"), unit: "×", digits: 2, target: 1.6},
	{what: "cold miss, 16 callers: CPU time of client and server ÷ rueidisaside's", value: cpu("ColdMiss/callers=16/aside", "ColdMiss/callers=16/rueidisaside"), unit: "×", digits: 2, noTarget: true},
	{what: "cold miss, 64 callers: throughput ÷ go-redis/cache, without locks", value: times("ColdMiss/callers=64", "go-redis-cache", "aside"), unit: "×", digits: 2, noTarget: true},
	{what: "cold miss, 64 callers: throughput ÷ sturdyc with Redis behind, without locks", value: times("ColdMiss/callers=64", "sturdyc", "aside"), unit: "×", digits: 2, noTarget: true},
	{what: "cold miss, 64 callers: allocations", value: median("ColdMiss/callers=64/aside allocs/op"), noTarget: true},
	{what: "cold miss, 64 callers: allocations of rueidisaside", value: median("ColdMiss/callers=64/rueidisaside allocs/op"), noTarget: true},
	{what: "cold miss: round trips", value: median("MissTrips/aside trips/miss"), digits: 2, target: 2, atMost: true},
	{what: "cold miss: round trips of rueidisaside", value: median("MissTrips/rueidisaside trips/miss"), digits: 2, noTarget: true},
	{what: "cold miss: round trips of the next read", value: median("MissTrips/aside trips/next"), digits: 2, target: 0, atMost: true},
	{what: "cold miss: round trips of the next read of rueidisaside", value: median("MissTrips/rueidisaside trips/next"), digits: 2, noTarget: true},
	{what: "GetMulti, 100 hot keys: throughput ÷ DoMultiCache + JSON", value: times("GetMultiHot", "rueidis", "aside"), unit: "×", digits: 1, target: 10},
	{what: "GetMulti, 100 cold keys: round trips", value: median("GetMultiCold/aside trips/call"), digits: 2, target: 3, atMost: true},
	{what: "GetMulti, 100 cold keys: round trips of the next call", value: median("GetMultiCold/aside trips/next"), digits: 2, target: 0, atMost: true},
	{what: "GetMulti, 100 cold keys: throughput ÷ pipelines without locks", value: times("GetMultiCold", "rueidis", "aside"), unit: "×", digits: 2, target: 1.3},
	{what: "GetMulti, 100 cold keys: the same of calls that lock and fill and look at nothing", value: times("GetMultiCold", "rueidis", "bare"), unit: "×", digits: 2, noTarget: true},
	{what: "stampede, 4 clients × 200 callers: most loader calls in a round", value: most("Stampede/aside loads/round"), target: 1, atMost: true},
	{what: "stampede: p99 latency beyond the loader's 50 ms", value: beyond("Stampede/aside p99-latency-ms", loaderMS), unit: " ms", digits: 1, target: 12, atMost: true},
	{what: "stampede: p50 wake-up beyond that of goroutines that wait for a channel, ÷ theirs", value: over("Stampede/aside p50-wake-µs", "Stampede/channels p50-wake-µs"), unit: "×", digits: 2, target: 1.5, atMost: true},
	{what: "stampede: p50 wake-up after the loader's return", value: median("Stampede/aside p50-wake-µs"), unit: " µs", noTarget: true},
	{what: "stampede: p50 wake-up of 800 goroutines that wait for a channel, no Redis", value: median("Stampede/channels p50-wake-µs"), unit: " µs", noTarget: true},
	{what: "stampede: p50 wake-up of rueidisaside", value: median("Stampede/rueidisaside p50-wake-µs"), unit: " µs", noTarget: true},
	{what: "one caller in each of 4 clients: p50 wake-up ÷ a plain GET that is as rare", value: ratio("WakeUp/aside p50-wake-µs", "WakeUp/rueidis p50-wake-µs"), unit: "×", digits: 2, target: 1.5, atMost: true},
	{what: "one caller in each of 4 clients: p50 wake-up after the fill", value: median("WakeUp/aside p50-wake-µs"), unit: " µs", noTarget: true},
	{what: "hot hit, one caller, with a grace: time ÷ without", value: times("GroupHit", "grace", "plain"), unit: "×", digits: 2, target: 1.1, atMost: true},
	{what: "hot hit, one caller, with refresh-ahead: time ÷ without", value: times("GroupHit", "ahead", "plain"), unit: "×", digits: 2, target: 1.1, atMost: true},
	{what: "hot hit, one caller, with a prefix: time ÷ without", value: times("GroupHit", "prefix", "plain"), unit: "×", digits: 2, target: 1.1, atMost: true},
	{what: "hot hit, one caller, with grace, refresh-ahead and prefix: time ÷ without", value: times("GroupHit", "all", "plain"), unit: "×", digits: 2, target: 1.1, atMost: true},
	{what: "hot hit, one caller, with grace, refresh-ahead and prefix: allocations", value: median("GroupHit/all allocs/op"), target: 0, atMost: true},
	{what: "hot hit, one caller, Clearable: time ÷ without prefix", value: times("GroupHit", "clearable", "plain"), unit: "×", digits: 2, noTarget: true},
	{what: "hot hit, one caller, with 3 tags: time ÷ without", value: times("GroupHit", "tags", "plain"), unit: "×", digits: 2, target: 2.5, atMost: true},
	{what: "hot hit, one caller, with 3 tags: allocations", value: median("GroupHit/tags allocs/op"), target: 0, atMost: true},
	{what: "Clear of a prefix with 10⁶ entries: round trips", value: median("Clear/entries=1000000 trips/clear"), digits: 0, target: 1, atMost: true},
	{what: "Clear of a prefix with 10³ entries: round trips", value: median("Clear/entries=1000 trips/clear"), digits: 0, noTarget: true},
	{what: "hot key, ttl 500 ms, loader 200 ms, 4 processes × 20 callers: p99 with a grace", value: median("HotKey/grace p99-ms"), unit: " ms", digits: 2, target: 2, atMost: true},
	{what: "hot key, the same: p99 without a grace", value: median("HotKey/none p99-ms"), unit: " ms", digits: 2, noTarget: true},
	{what: "hot key, the same: loads in a ttl by all processes, with a grace", value: median("HotKey/grace loads/ttl"), digits: 2, target: 1, atMost: true},
	{what: "a source that fails, 4 processes × 200 callers: errors", value: median("FailingSource/grace errors"), target: 0, atMost: true},
	{what: "a source that fails, the same: loads in a back-off by all processes", value: median("FailingSource/grace loads/back-off"), digits: 2, target: 1, atMost: true},
	{what: "Set, 64 callers: time ÷ plain SET", value: times("Set", "aside", "rueidis"), unit: "×", digits: 2, target: 1.7, atMost: true},
	{what: "Del, 64 callers: time ÷ plain DEL", value: times("Del", "aside", "rueidis"), unit: "×", digits: 2, target: 1.7, atMost: true},
	{what: "Set: time of calls that do a SET and an HSET for each of up to 32 and nothing else ÷ plain SET", value: ratio("BareSet ns/op", "Set/rueidis ns/op"), unit: "×", digits: 2, noTarget: true},
	{what: "Del: the same, with an UNLINK ÷ plain DEL", value: ratio("BareDel ns/op", "Del/rueidis ns/op"), unit: "×", digits: 2, noTarget: true},
	{what: "Redis's memory for a written key of 20 bytes, beyond that of a plain SET", value: median("KeyMemory/key=20 B/key"), unit: " B", digits: 0, target: 64, atMost: true},
	{what: "Redis's memory for a written key of 100 bytes, beyond that of a plain SET", value: median("KeyMemory/key=100 B/key"), unit: " B", digits: 0, noTarget: true},
	{what: "an idle client: commands in a second", value: median("Idle/aside commands/s"), digits: 1, target: 1, atMost: true},
	{what: "1,000 idle clients: share of a core that Redis spends on them", value: median("Idle/aside %-of-a-core/1000"), unit: " %", digits: 1, target: 2, atMost: true},
	{what: "1,000 idle clients of plain rueidis: the same", value: median("Idle/rueidis %-of-a-core/1000"), unit: " %", digits: 1, noTarget: true},
	{what: "1,000 connections on which nothing is sent: the same", value: median("Idle/silent %-of-a-core/1000"), unit: " %", digits: 1, noTarget: true},
	{what: "an idle client: heap", value: median("Idle/aside heap-KiB"), unit: " KiB", digits: 0, target: 256, atMost: true},
	{what: "an idle client of plain rueidis: heap", value: median("Idle/rueidis heap-KiB"), unit: " KiB", digits: 0, noTarget: true},
	{what: "hot hit without Redis: time ÷ with", value: times("DegradedHit", "degraded", "healthy"), unit: "×", digits: 2, target: 3, atMost: true},
	{what: "hot hit without Redis: allocations", value: median("DegradedHit/degraded allocs/op"), target: 0, atMost: true},
	{what: "Set without Redis, 64 writers, synced: throughput ÷ a synced file each", value: times("DegradedSet", "file", "aside"), unit: "×", digits: 1, target: 20},
	{what: "replay of 100,000 records: rate ÷ plain pipelined SET", value: median("Replay/journal ratio"), unit: "×", digits: 2, target: 0.35},
	{what: "replay: CPU time of Redis for a record ÷ that for a plain SET", value: ratio("Replay/journal replay-server-µs", "Replay/journal SET-server-µs"), unit: "×", digits: 1, noTarget: true},
	{what: "a script that does nothing but SET value and stamp: rate ÷ plain pipelined SET", value: median("Replay/journal bound"), unit: "×", digits: 2, noTarget: true},
	{what: "10⁶ keys through 64 MiB: heap growth ÷ MemoryBytes", value: most("Memory/aside heap/MemoryBytes"), digits: 2, target: 1, atMost: true},
	{what: "10⁶ keys through 64 MiB: goroutines beyond those before", value: most("Memory/aside goroutines"), noTarget: true},
}

// times is the time of a by that of b, which is the throughput of b by that of a. What was measured
// in the same round is compared: rounds differ more than what is measured in one.
func times(bench, a, b string) func(samples) figure {
	return ratio(bench+"/"+a+" ns/op", bench+"/"+b+" ns/op")
}

func ratio(a, b string) func(samples) figure {
	return func(s samples) figure {
		var ratios []float64
		for i := range min(len(s[a]), len(s[b])) {
			ratios = append(ratios, s[a][i]/s[b][i])
		}
		return newFigure(ratios)
	}
}

// cpu is the CPU time of client and server that a takes by that of b. What was measured in the same
// round is compared.
func cpu(a, b string) func(samples) figure {
	return func(s samples) figure {
		sum := func(of string) []float64 {
			client, server := s[of+" µs-client/op"], s[of+" µs-server/op"]
			both := make([]float64, min(len(client), len(server)))
			for i := range both {
				both[i] = client[i] + server[i]
			}
			return both
		}
		both := samples{"a": sum(a), "b": sum(b)}
		return ratio("a", "b")(both)
	}
}

func median(what string) func(samples) figure {
	return func(s samples) figure { return newFigure(s[what]) }
}

func most(what string) func(samples) figure {
	return func(s samples) figure {
		f := newFigure(s[what])
		f.value = f.high
		return f
	}
}

// over is how much longer a takes than b, by b. What was measured in the same round is compared.
func over(a, b string) func(samples) figure {
	return func(s samples) figure {
		f := ratio(a, b)(s)
		f.value, f.low, f.high = f.value-1, f.low-1, f.high-1
		return f
	}
}

func beyond(what string, floor float64) func(samples) figure {
	return func(s samples) figure {
		f := newFigure(s[what])
		f.value, f.low, f.high = f.value-floor, f.low-floor, f.high-floor
		return f
	}
}
