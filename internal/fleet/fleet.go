// Package fleet simulates what many processes of this library cost a Redis, from unit costs that
// integration/fleet has measured, and finds what breaks first when they become more. It is
// deterministic. docs/SCALING.md has its tables.
//
// One node is simulated, in steps of a millisecond: what arrives is work for its one thread, and
// what it has not done waits. Hot keys are read from memory by all processes; a write of one is
// pushed to all that hold it, each of which reads it again when it next wants it.
package fleet

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"sort"
	"strings"
	"time"
)

// Costs are what was measured: of a node for each client, and of each event.
type Costs struct {
	Connections      float64 // of a client to a node
	ConnectionMemory float64 // bytes
	IdleCommands     float64 // a second
	IdleCPU          float64 // µs a second
	UsedCommands     float64 // a second, of a client that reads from memory
	UsedCPU          float64 // µs a second
	ReadCPU          float64 // µs of a read that memory does not answer
	Tracked          float64 // bytes for each key and client that has read it
	PushCPU          float64 // µs of a push to one client
	Stamp            float64 // bytes for each written key beyond its value
	WriteCPU         float64 // µs of a Set
}

//go:embed measured.json
var measured []byte

// Measured returns the unit costs of the latest measurement.
func Measured() (Costs, error) {
	var c Costs
	err := json.Unmarshal(measured, &c)
	return c, err
}

// Load is what each process does, but for HotWrites.
type Load struct {
	Name      string
	Used      bool    // memory is read all the time; else the process is idle
	Reads     float64 // of hot keys, a second
	Hot       int     // hot keys, which all processes read
	HotWrites float64 // of all processes together, a second
	ColdReads float64 // of other keys, a second
	Writes    float64 // of keys of its own, a second
	Own       int     // how many those are
}

// Loads are those of docs/SCALING.md.
func Loads() []Load {
	return []Load{
		{Name: "idle"},
		{Name: "reading", Used: true, Reads: 20, Hot: 100, HotWrites: 1, ColdReads: 1},
		{Name: "one hot key", Used: true, Reads: 20, Hot: 1, HotWrites: 1},
		{Name: "writing", Used: true, Reads: 20, Hot: 100, HotWrites: 1, Writes: 5, Own: 1000},
	}
}

// Limits are those of a node, and how long callers wait.
type Limits struct {
	MaxClients   int           // maxclients
	TrackingKeys int           // tracking-table-max-keys
	Memory       float64       // bytes for all but values
	RedisTimeout time.Duration // Options.RedisTimeout
}

// Defaults are Redis's and this library's, and 4 GiB.
func Defaults() Limits {
	return Limits{MaxClients: 10_000, TrackingKeys: 1_000_000, Memory: 4 << 30, RedisTimeout: 250 * time.Millisecond}
}

const (
	length = 10 * time.Second // of a simulation, after as long to become steady
	keyTTL = time.Minute      // of what is read cold: so long Redis tracks it
)

// Result is what a node had to bear.
type Result struct {
	Load      string
	Processes int
	Shards    int

	Connections float64
	Memory      float64 // bytes, without values
	Commands    float64 // of probers, a second
	Reads       float64 // that memory did not answer, a second
	Pushes      float64 // a second
	Busy        float64 // share of its one core
	Longest     time.Duration
	Tracked     float64  // keys
	Broken      []string // which limits are exceeded, the worst first
}

// Simulate has n processes do something to a node of a cluster of so many.
func (c Costs) Simulate(load Load, n, shards int, limits Limits) Result {
	random := rand.New(rand.NewPCG(1, uint64(n)))
	share := 1 / float64(shards)
	hot := int(math.Ceil(float64(load.Hot) * share))
	holds := make([]bool, n*hot)
	for i := range holds {
		holds[i] = true
	}
	r := Result{Load: load.Name, Processes: n, Shards: shards}
	commands, probing := c.IdleCommands, c.IdleCPU
	if load.Used {
		commands, probing = c.UsedCommands, c.UsedCPU
	}
	each := float64(n)
	steady := each * (probing + share*(load.ColdReads*c.ReadCPU+load.Writes*c.WriteCPU)) / 1000 // µs in a ms

	var backlog, work, longest float64 // µs
	var reads, pushes, dueReads, dueWrites float64
	settle := int(length / time.Millisecond)
	for ms := range 2 * settle {
		now := steady
		if hot > 0 {
			for dueWrites += load.HotWrites * share / 1000; dueWrites >= 1; dueWrites-- {
				key := random.IntN(hot)
				now += c.WriteCPU
				for p := key; p < len(holds); p += hot {
					if holds[p] {
						holds[p] = false
						now += c.PushCPU
						pushes++
					}
				}
			}
			for dueReads += each * load.Reads * share / 1000; dueReads >= 1; dueReads-- {
				if i := random.IntN(len(holds)); !holds[i] {
					holds[i] = true
					now += c.ReadCPU
					reads++
				}
			}
		}
		backlog = max(0, backlog+now-1000)
		if ms < settle {
			reads, pushes = 0, 0
			continue
		}
		work += now
		longest = max(longest, backlog)
	}
	seconds := length.Seconds()
	r.Connections, r.Commands = each*c.Connections, each*commands
	r.Reads, r.Pushes = reads/seconds+each*load.ColdReads*share, pushes/seconds
	r.Busy = work / (seconds * 1e6)
	r.Longest = time.Duration(longest) * time.Microsecond
	cold := each * load.ColdReads * share * keyTTL.Seconds()
	r.Tracked = float64(hot) + cold
	r.Memory = each*(c.ConnectionMemory+float64(hot)*c.Tracked+float64(load.Own)*share*c.Stamp) + cold*c.Tracked
	r.judge(limits)
	return r
}

// judge lists the limits that are exceeded, the worst first: by how much.
func (r *Result) judge(l Limits) {
	type excess struct {
		what string
		by   float64
	}
	all := []excess{
		{"maxclients", r.Connections / float64(l.MaxClients)},
		{"the node's CPU", r.Busy},
		{"RedisTimeout", float64(r.Longest) / float64(l.RedisTimeout)},
		{"tracking-table-max-keys", r.Tracked / float64(l.TrackingKeys)},
		{"memory", r.Memory / l.Memory},
	}
	for {
		worst := -1
		for i, e := range all {
			if e.by > 1 && (worst < 0 || e.by > all[worst].by) {
				worst = i
			}
		}
		if worst < 0 {
			return
		}
		r.Broken = append(r.Broken, all[worst].what)
		all[worst].by = 0
	}
}

// most is where Breaks gives up.
const most = 100_000

// Breaks finds how many processes a node bears, to two digits, and what breaks with more. What is
// too much for some is too much for more.
func (c Costs) Breaks(load Load, shards int, limits Limits) (bears int, first Result) {
	var sizes []int
	for step := 1; step*10 < most; step *= 10 {
		for i := 10; i < 100; i++ {
			sizes = append(sizes, i*step)
		}
	}
	i := sort.Search(len(sizes), func(i int) bool {
		return len(c.Simulate(load, sizes[i], shards, limits).Broken) > 0
	})
	if i > 0 {
		bears = sizes[i-1]
	}
	if i == len(sizes) {
		return bears, Result{Load: load.Name, Shards: shards}
	}
	return bears, c.Simulate(load, sizes[i], shards, limits)
}

// Report writes the tables of docs/SCALING.md: n processes, and what breaks first.
func (c Costs) Report(n int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d processes:\n\n| load | shards | connections | memory without values | probes' commands/s | reads/s | pushes/s | core | longest queue | beyond a limit |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|---|\n", n)
	for _, load := range Loads() {
		for _, shards := range []int{1, 3, 10} {
			r := c.Simulate(load, n, shards, Defaults())
			broken := strings.Join(r.Broken, ", ")
			if broken == "" {
				broken = "–"
			}
			fmt.Fprintf(&b, "| %s | %d | %.0f | %.0f MiB | %.0f | %.0f | %.0f | %.0f %% | %v | %s |\n", r.Load, r.Shards, r.Connections, r.Memory/(1<<20), r.Commands, r.Reads, r.Pushes, 100*r.Busy, r.Longest.Round(time.Millisecond), broken)
		}
	}
	b.WriteString("\nWhat breaks first:\n\n| load | shards | processes that a node bears | what breaks with more | with maxclients raised | what breaks then |\n|---|--:|--:|---|--:|---|\n")
	raised := Defaults()
	raised.MaxClients = math.MaxInt32
	for _, load := range Loads() {
		for _, shards := range []int{1, 3, 10} {
			bears, first := c.Breaks(load, shards, Defaults())
			more, next := c.Breaks(load, shards, raised)
			fmt.Fprintf(&b, "| %s | %d | %d | %s | %d | %s |\n", load.Name, shards, bears, first.first(), more, next.first())
		}
	}
	return b.String()
}

func (r *Result) first() string {
	if len(r.Broken) == 0 {
		return "nothing"
	}
	return r.Broken[0]
}

// The marks between which docs/SCALING.md has a report.
const (
	begin = "<!-- simulated -->\n"
	end   = "<!-- end of what was simulated -->\n"
)

// Replace returns a page with its report replaced; unchanged, if it has no marks.
func Replace(page, report string) string {
	head, rest, _ := strings.Cut(page, begin)
	_, tail, ok := strings.Cut(rest, end)
	if !ok {
		return page
	}
	return head + begin + "\n" + report + "\n" + end + tail
}
