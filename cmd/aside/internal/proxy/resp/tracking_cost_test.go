package resp

import (
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/redistest"
)

// section is a section of INFO of a node, by field.
func section(node *redistest.Server, name string) map[string]string {
	fields := make(map[string]string)
	for line := range strings.Lines(node.Do("INFO", name).(string)) {
		field, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		fields[field] = value
	}
	return fields
}

// calls are the commands that nodes have done since their counts were reset, by name; without those that a test sends for its counts.
func calls(cluster *redistest.Cluster) map[string]int {
	all := make(map[string]int)
	for i := range 3 {
		for field, value := range section(cluster.Node(i), "commandstats") {
			if name, ok := strings.CutPrefix(field, "cmdstat_"); ok && name != "info" && !strings.HasPrefix(name, "config") {
				n, _ := strconv.Atoi(strings.TrimPrefix(strings.Split(value, ",")[0], "calls="))
				all[name] += n
			}
		}
	}
	return all
}

// What a client that tracks costs the nodes of a cluster, as docs/PROXY.md says: a connection to each primary, no command while it is idle, and
// a push for each change of what it has read. What is asked once a second is asked for all of them together.
func TestWhatTrackingBeforeAClusterCosts(t *testing.T) {
	const clients = 100
	cluster := redistest.StartCluster(t)
	s, addr := serveCluster(t, cluster, "")
	keys := keysOfNodes(cluster)
	all := []*tracker{tracks(t, addr)} // the first has the nodes and the proxy make what they make once
	reads := func(some []*tracker) {
		for _, p := range some {
			for _, key := range keys {
				require.Equal(t, "_", p.do("GET", key))
			}
		}
	}
	reads(all)
	number := func(node int, name, field string) int {
		n, err := strconv.Atoi(section(cluster.Node(node), name)[field])
		require.NoError(t, err)
		return n
	}
	held := func() (bytes, goroutines int) {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // what pools hold
		runtime.ReadMemStats(&m)
		return int(m.HeapInuse + m.StackInuse), runtime.NumGoroutine()
	}
	var connections, memory [3]int
	for i := range connections {
		connections[i], memory[i] = number(i, "clients", "connected_clients"), number(i, "memory", "used_memory")
	}
	bytes, goroutines := held()
	for range clients {
		all = append(all, tracks(t, addr))
	}
	reads(all[1:])
	for i := range connections {
		// Whoever asks for the slots has one as well, for a moment.
		require.InDelta(t, clients, number(i, "clients", "connected_clients")-connections[i], 2, "connections to a primary")
		t.Logf("node %d: %.1f KiB for each client", i, float64(number(i, "memory", "used_memory")-memory[i])/clients/1024)
		require.Equal(t, len(all), number(i, "stats", "tracking_total_items"), "readers of its key")
	}
	bytesNow, goroutinesNow := held()
	t.Logf("proxy: %.1f KiB and %.1f goroutines for each client", float64(bytesNow-bytes)/clients/1024, float64(goroutinesNow-goroutines)/clients)
	require.EqualValues(t, len(keys)*len(all), s.pool.Owned(), "of those that may have one of their own")

	reset := func() {
		for i := range connections {
			cluster.Node(i).Do("CONFIG", "RESETSTAT")
		}
	}
	reset()
	began, done := time.Now(), map[string]int(nil)
	eventually(t, "slots are asked for", func() bool {
		done = calls(cluster)
		return done["cluster|slots"]+done["cluster"] >= 5
	})
	t.Logf("all nodes in %.1f s in which nobody asked for anything: %v", time.Since(began).Seconds(), done)
	require.Greater(t, time.Since(began), 2*time.Second, "once a second, for all clients")
	require.Less(t, done["hello"], 10, "by a connection of its own each time")
	for _, name := range []string{"client", "client|tracking", "get"} {
		require.NotContains(t, done, name)
	}
	require.Less(t, done["ping"]-done["time"], clients*len(keys), "the library's own, 20 or 30; that of a whole probe left out, which asks for TIME as well")

	reset()
	reads(all)
	require.Equal(t, len(all)*len(keys), calls(cluster)["get"], "a read is one command")
	for i, key := range keys {
		cluster.Node(i).Do("SET", key, "v")
	}
	for _, p := range all {
		for range keys {
			require.Regexp(t, `^>2 \$invalidate \*1 \$key`, p.reply())
		}
		require.Equal(t, "+PONG", p.do("PING"))
		require.Empty(t, p.told, "a change is told once")
	}
}
