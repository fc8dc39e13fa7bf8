package fleet_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/redistest"
)

var (
	full  = flag.Bool("full", false, "10, 100 and 1,000 clients, and a cluster")
	table = flag.String("table", "", "the Markdown file whose part between the marks is replaced by what was measured")
	units = flag.String("units", "", "a JSON file for the unit costs")
)

const (
	patience      = time.Minute
	processes     = 4
	keys          = 100
	writes        = 20
	written       = 2000
	stamped       = 200_000 // keys, over all slots: a stamp shares its bucket's memory with others
	writersAtOnce = 64
)

var value = strings.Repeat("v", 200)

// measured is what a fleet of some size has cost.
type measured struct {
	Clients, Shards int

	Connections      float64 // to a node, for each client
	ConnectionMemory float64 // bytes of a node, for each of them
	Heap             float64 // bytes of a client's process

	IdleCommands float64 // a second that a node counts, for each client
	IdleCPU      float64 // µs of a node in a second, for each client
	UsedCommands float64 // likewise, where a client reads from memory all the time
	UsedCPU      float64

	ReadCPU  float64 // µs of the node for a first read
	Tracked  float64 // bytes for each key and client that has read it
	Items    float64 // of the tracking table, likewise
	Pushes   float64 // for each write and client that has read the key
	PushCPU  float64 // µs of the node for each of them
	Rereads  float64 // commands of callers for each client, when all read again what was written
	Reloads  float64 // likewise, for what was deleted
	Stamp    float64 // bytes for each written key, beyond what a plain SET takes
	Lock     float64 // bytes of a lock while it is held
	WriteCPU float64 // µs of a Set
	PlainCPU float64 // of a plain SET
}

// node is a server, as far as it counts its own costs.
type node struct{ *redistest.Server }

func (n node) info(section, field string) (v float64) {
	for line := range strings.Lines(fmt.Sprint(n.Do("INFO", section))) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			_, err := fmt.Sscanf(rest, "%g", &v)
			if err != nil {
				panic(err)
			}
		}
	}
	return v
}

// cpu is what n has worked, in µs.
func (n node) cpu() float64 {
	return (n.info("cpu", "used_cpu_sys") + n.info("cpu", "used_cpu_user")) * 1e6
}

func (n node) memory() float64 { return n.info("memory", "used_memory") }

// commands is how many n was asked for, with those within scripts and without ours; byName those of
// one name.
func (n node) commands() (all float64, byName map[string]float64) {
	byName = make(map[string]float64)
	for line := range strings.Lines(fmt.Sprint(n.Do("INFO", "commandstats"))) {
		name, rest, ok := strings.Cut(strings.TrimPrefix(line, "cmdstat_"), ":calls=")
		count, _, _ := strings.Cut(rest, ",")
		var calls float64
		if !ok || name == "info" || strings.HasPrefix(name, "config") {
			continue
		}
		if _, err := fmt.Sscanf(count, "%g", &calls); err == nil {
			byName[name] = calls
			all += calls
		}
	}
	return all, byName
}

// awaitRest waits until n is asked for nothing but PING, and with whole probes in between.
func (n node) awaitRest(t *testing.T, clients int) {
	t.Helper()
	for end := time.Now().Add(3 * patience); ; {
		n.Do("CONFIG", "RESETSTAT")
		time.Sleep(2 * time.Second)
		all, byName := n.commands()
		if byName["pexpire"] <= float64(clients)/5 && byName["ping"] >= all/2 {
			return
		}
		require.True(t, time.Now().Before(end), "they do not rest: %v", byName)
	}
}

// rates are what n is asked and works in a second, over so many seconds, for each client.
func (n node) rates(clients int, during func(seconds int)) (commands, cpu float64) {
	const seconds = 10
	n.Do("CONFIG", "RESETSTAT")
	before, began := n.cpu(), time.Now()
	during(seconds)
	all, _ := n.commands()
	took := time.Since(began).Seconds() * float64(clients)
	return all / took, (n.cpu() - before) / took
}

func sleep(seconds int) { time.Sleep(time.Duration(seconds) * time.Second) }

// open makes n clients, and returns a function that tells what the heaps hold for each of them,
// without what a process holds for its first.
func open(children []*child, n int, addrs string) (heap func() float64) {
	tell(children, "open 1 %s", addrs)
	before := tell(children, "heap")
	for i, c := range children {
		tell([]*child{c}, "open %d %s", (n+i)/len(children)-1, addrs)
	}
	return func() float64 { return float64(tell(children, "heap")-before) / float64(n-len(children)) }
}

// measure measures n clients of a server.
func measure(t *testing.T, n int) (m measured) {
	server := node{redistest.Start(t)}
	m.Clients, m.Shards = n, 1
	each := float64(n)
	for i := range keys {
		server.Do("SET", fmt.Sprint("k", i), value, "PX", "3600000")
	}
	children := make([]*child, processes)
	for i := range children {
		children[i] = startChild(t)
	}
	_, alone := server.rates(1, sleep) // what the server works for itself, and for our looks at it
	connections, memory := server.info("clients", "connected_clients"), server.memory()
	heap := open(children, n, server.Addr())
	server.awaitRest(t, n)
	m.Connections = (server.info("clients", "connected_clients") - connections) / each
	m.ConnectionMemory = (server.memory() - memory) / each
	m.Heap = heap()

	m.IdleCommands, m.IdleCPU = server.rates(n, sleep)
	m.UsedCommands, m.UsedCPU = server.rates(n, func(seconds int) { tell(children, "use %d", seconds) })
	m.IdleCPU, m.UsedCPU = m.IdleCPU-alone/each, m.UsedCPU-alone/each
	server.awaitRest(t, n)

	memory = server.memory()
	before := server.cpu()
	tell(children, "get 1 %d", keys) // k0 was read
	m.ReadCPU = (server.cpu() - before) / each / (keys - 1)
	server.awaitRest(t, n)
	m.Tracked = (server.memory() - memory) / each / (keys - 1)
	m.Items = server.info("stats", "tracking_total_items") / each / keys

	pushed := tell(children, "pushes")
	before = server.cpu()
	for i := range writes {
		server.Do("SET", fmt.Sprint("k", i+1), value, "PX", "3600000")
	}
	all := func() bool { return tell(children, "pushes")-pushed >= int64(writes*n) }
	for end := time.Now().Add(patience); !all() && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
	}
	m.Pushes = float64(tell(children, "pushes")-pushed) / writes / each
	m.PushCPU = (server.cpu() - before) / writes / each

	calls := func() float64 {
		_, byName := server.commands()
		return byName["evalsha"] + byName["eval"] - byName["time"] // a whole probe asks a script for the time
	}
	again := func() float64 {
		server.Do("CONFIG", "RESETSTAT")
		tell(children, "get 1 2")
		return calls() / each
	}
	m.Rereads = again()
	server.Do("DEL", "k1")
	m.Reloads = again()
	m.stamps(t)
	return m
}

// stamps measures what a write and a lock leave in Redis, in one without other clients.
func (m *measured) stamps(t *testing.T) {
	server := node{redistest.Start(t)}
	c, err := aside.New(aside.Options{Redis: rueidis.ClientOption{InitAddress: []string{server.Addr()}}, RequireRedis: true, ConnectTimeout: patience, MemoryBytes: -1, RedisTimeout: time.Second})
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	key := func(i int) string { return fmt.Sprintf("key-of-20-by-%07d", i) }
	cost := func(write func(key string) error) (memory, cpu float64) {
		server.Do("FLUSHALL")
		cpu = server.cpu()
		for i := range written { // one at a time
			require.NoError(t, write(key(i)))
		}
		cpu = (server.cpu() - cpu) / written
		server.Do("FLUSHALL")
		memory = server.memory()
		var writers sync.WaitGroup
		for w := range writersAtOnce {
			writers.Go(func() {
				for i := w; i < stamped; i += writersAtOnce {
					if err := write(key(i)); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		writers.Wait()
		return (server.memory() - memory) / stamped, cpu
	}
	plain, _ := c.Redis()
	bare, plainCPU := cost(func(key string) error {
		return plain.Do(t.Context(), plain.B().Set().Key(key).Value(value).ExSeconds(3600).Build()).Error()
	})
	withStamp, writeCPU := cost(func(key string) error { return c.Set(t.Context(), time.Hour, key, value) })
	m.Stamp, m.WriteCPU, m.PlainCPU = withStamp-bare, writeCPU, plainCPU
	_, err = c.Get(t.Context(), time.Hour, "key-that-is-locked--", func(context.Context, string) (string, error) {
		size, err := server.TryDo("MEMORY", "USAGE", "key-that-is-locked--")
		if n, ok := size.(int64); ok {
			m.Lock = float64(n)
		}
		return value, err
	})
	require.NoError(t, err)
}

// measureCluster measures what idles in a cluster of three shards: means of its nodes.
func measureCluster(t *testing.T, n int) (m measured) {
	cluster := redistest.StartCluster(t)
	addrs := cluster.Addrs()
	m.Clients, m.Shards = n, len(addrs)
	children := make([]*child, processes)
	for i := range children {
		children[i] = startChild(t)
	}
	nodes := make([]node, len(addrs))
	var connections, memory, alone float64
	for i := range nodes {
		nodes[i] = node{cluster.Node(i)}
		connections += nodes[i].info("clients", "connected_clients")
		memory += nodes[i].memory()
		_, cpu := nodes[i].rates(1, sleep)
		alone += cpu
	}
	heap := open(children, n, strings.Join(addrs, " "))
	time.Sleep(8 * time.Second) // what rueidis leaves open for a while after it has learned of the nodes
	for _, node := range nodes {
		node.awaitRest(t, n)
	}
	all := float64(n * len(nodes))
	for _, node := range nodes {
		m.Connections += node.info("clients", "connected_clients") / all
		m.ConnectionMemory += node.memory() / all
		commands, cpu := node.rates(n, sleep)
		m.IdleCommands += commands / float64(len(nodes))
		m.IdleCPU += cpu / float64(len(nodes))
	}
	m.Connections -= connections / all
	m.ConnectionMemory -= memory / all
	m.IdleCPU -= alone / all
	m.Heap = heap()
	return m
}

// TestFleet measures, and looks that what a client costs does not grow with how many there are.
func TestFleet(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: this test needs a server")
	}
	if redistest.Binary() == "" {
		redistest.Skip(t, "the fleet needs a server binary: apt-get install redis-server, or set REDIS_SERVER")
	}
	t.Setenv("ASIDE_BACKEND", "binary")
	sizes := []int{10}
	if *full {
		sizes = []int{10, 100, 1000}
	}
	var all []measured
	for _, n := range sizes {
		t.Run(fmt.Sprint(n), func(t *testing.T) { all = append(all, measure(t, n)) })
	}
	for _, n := range sizes[:1] {
		t.Run(fmt.Sprintf("cluster/%d", n), func(t *testing.T) { all = append(all, measureCluster(t, n)) })
	}
	if t.Failed() {
		return
	}
	for _, m := range all {
		t.Logf("%+v", m)
		require.LessOrEqual(t, m.IdleCommands, 1.2, "commands of an idle client in a second")
		require.InDelta(t, 1, m.Connections, 0.1+1/float64(m.Clients))
		if m.Shards == 1 {
			require.LessOrEqual(t, m.Heap, 256.*1024, "heap of an idle client")
			require.InDelta(t, 1, m.Pushes, 0.05, "pushes for a write and a reader")
			require.InDelta(t, 1, m.Items, 0.05, "items of the tracking table for a key and a reader")
			require.LessOrEqual(t, m.Rereads, 1.05)
		}
	}
	if *table != "" {
		write(t, *table, all)
	}
	if *units != "" {
		text, err := json.MarshalIndent(all[len(sizes)-1], "", "\t")
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(*units, append(text, '\n'), 0o644))
	}
}

// The marks in docs/SCALING.md between which is what was measured.
const (
	begin = "<!-- measured -->\n"
	end   = "<!-- end of what was measured -->\n"
)

func write(t *testing.T, path string, all []measured) {
	old, err := os.ReadFile(path)
	require.NoError(t, err)
	head, rest, ok := strings.Cut(string(old), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	require.True(t, ok && ok2, "%s has no marks", path)
	var b strings.Builder
	fmt.Fprintf(&b, "\nMeasured on %s by `make fleet-measure`, with redis %s, %s/%s, %d cores, which %d processes of clients and the server share.\n\n| |", time.Now().Format(time.DateOnly), version(t), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), processes)
	for _, m := range all {
		if m.Shards > 1 {
			fmt.Fprintf(&b, " %d, cluster of %d |", m.Clients, m.Shards)
		} else {
			fmt.Fprintf(&b, " %d clients |", m.Clients)
		}
	}
	b.WriteString("\n|---|" + strings.Repeat("---:|", len(all)) + "\n")
	row := func(what, format string, of func(measured) float64, clusters bool) {
		fmt.Fprintf(&b, "| %s |", what)
		for _, m := range all {
			if m.Shards > 1 && !clusters {
				b.WriteString(" – |")
				continue
			}
			fmt.Fprintf(&b, " "+format+" |", of(m))
		}
		b.WriteString("\n")
	}
	row("connections to a node, for each client", "%.2f", func(m measured) float64 { return m.Connections }, true)
	row("memory of a node for each of them", "%.1f KiB", func(m measured) float64 { return m.ConnectionMemory / 1024 }, true)
	row("heap of an idle client", "%.0f KiB", func(m measured) float64 { return m.Heap / 1024 }, true)
	row("idle: commands a second at a node, for each client", "%.2f", func(m measured) float64 { return m.IdleCommands }, true)
	row("idle: CPU of a node for each client", "%.0f µs/s", func(m measured) float64 { return m.IdleCPU }, true)
	row("idle: share of a core, all clients", "%.2f %%", func(m measured) float64 { return m.IdleCPU * float64(m.Clients) / 1e4 }, true)
	row("in use, all reads from memory: commands a second for each client, those within scripts included", "%.1f", func(m measured) float64 { return m.UsedCommands }, false)
	row("in use: CPU for each client", "%.0f µs/s", func(m measured) float64 { return m.UsedCPU }, false)
	row("a first read: CPU", "%.1f µs", func(m measured) float64 { return m.ReadCPU }, false)
	row("tracking table: items for each key and client that has read it", "%.2f", func(m measured) float64 { return m.Items }, false)
	row("tracking table: memory for each of them", "%.0f B", func(m measured) float64 { return m.Tracked }, false)
	row("pushes for each write and client that has read the key", "%.2f", func(m measured) float64 { return m.Pushes }, false)
	row("CPU for each push", "%.1f µs", func(m measured) float64 { return m.PushCPU }, false)
	row("scripts for each client, when all read a written key again", "%.2f", func(m measured) float64 { return m.Rereads }, false)
	row("scripts for each client, when all read a deleted key again, fill included", "%.2f", func(m measured) float64 { return m.Reloads }, false)
	row("memory for each written key beyond its value, keys of 20 bytes, 200,000 of them", "%.0f B", func(m measured) float64 { return m.Stamp }, false)
	row("memory of a lock while it is held", "%.0f B", func(m measured) float64 { return m.Lock }, false)
	row("a Set, one at a time: CPU", "%.1f µs", func(m measured) float64 { return m.WriteCPU }, false)
	row("a plain SET, one at a time: CPU", "%.1f µs", func(m measured) float64 { return m.PlainCPU }, false)
	b.WriteString("\n")
	require.NoError(t, os.WriteFile(path, []byte(head+begin+b.String()+end+tail), 0o644))
}

func version(t *testing.T) string { return redistest.Start(t).Version() }
