package redistest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	slots     = 16384
	primaries = 3
)

// Cluster is a Redis Cluster of three primaries on loopback, with replicas if asked for. A node
// that dies costs its own slots only (cluster-require-full-coverage no); it is noticed after about
// two seconds.
type Cluster struct {
	t     testing.TB
	nodes []*Server // immutable after StartCluster; the primaries of the beginning first, then their replicas
	ids   []string  // of nodes, as the cluster knows them; likewise
}

// StartCluster starts a cluster whose slots are spread evenly and returns when each node says that
// it is well. It needs a binary, whatever the backend; the test is skipped without.
func StartCluster(t testing.TB, options ...Option) *Cluster {
	t.Helper()
	notShort(t)
	program := needBinary(t, "a cluster")
	set := newSettings(options)
	if set.tls {
		t.Fatal("redistest: a cluster with TLS is not supported")
	}
	c := &Cluster{t: t, nodes: make([]*Server, primaries*(1+set.replicas))}
	for i := range c.nodes {
		node := set
		node.args = append([]string{
			"--cluster-enabled", "yes",
			"--cluster-config-file", "../nodes.conf", // beside the data, so that Restart leaves it
			"--cluster-node-timeout", "2000",
			"--cluster-require-full-coverage", "no",
		}, set.args...)
		c.nodes[i] = startBinary(t, program, node)
	}
	c.form()
	return c
}

// form makes a cluster of nodes that know nothing of each other.
func (c *Cluster) form() {
	c.t.Helper()
	for i, node := range c.nodes {
		c.ids = append(c.ids, node.Do("CLUSTER", "MYID").(string))
		// Distinct from the start: nodes that begin with equal epochs settle them one by one, for
		// seconds.
		node.Do("CLUSTER", "SET-CONFIG-EPOCH", i+1)
		if i < primaries {
			args := []any{"CLUSTER", "ADDSLOTS"}
			for slot := firstSlot(i); slot < firstSlot(i+1); slot++ {
				args = append(args, slot)
			}
			node.Do(args...)
		}
	}
	c.await("to know all others", c.meet)
	c.await("to know each other", func(node int) bool {
		info := c.info(node)
		return info["cluster_known_nodes"] == fmt.Sprint(len(c.nodes))
	})
	for i := primaries; i < len(c.nodes); i++ {
		c.nodes[i].Do("CLUSTER", "REPLICATE", c.ids[i%primaries])
	}
	c.AwaitOK()
}

// meet reports whether a node knows all others, and has it meet those that it does not. A node forgets
// whom it is meeting after the node timeout, for example where the other one did not run meanwhile, and
// then nobody else would begin again.
func (c *Cluster) meet(node int) bool {
	known, err := c.nodes[node].TryDo("CLUSTER", "NODES")
	if err != nil {
		return false
	}
	all := true
	for i, other := range c.nodes {
		if strings.Contains(fmt.Sprint(known), c.ids[i]+" ") {
			continue
		}
		all = false
		if host, port, _ := strings.Cut(other.Addr(), ":"); !strings.Contains(fmt.Sprint(known), ":"+port+"@") {
			c.nodes[node].Do("CLUSTER", "MEET", host, port)
		}
	}
	return all
}

// firstSlot is the first slot of primary i in the beginning; of the one after the last, the number
// of slots.
func firstSlot(i int) int { return i * slots / primaries }

// AwaitOK waits until each node says that all slots are served and each replica is in sync. After a
// Restart, for example.
func (c *Cluster) AwaitOK() {
	c.t.Helper()
	c.await("to be well", func(node int) bool {
		info := c.info(node)
		if info["cluster_state"] != "ok" || info["cluster_slots_ok"] != fmt.Sprint(slots) {
			return false
		}
		known, _ := c.nodes[node].TryDo("CLUSTER", "NODES")
		if strings.Count(fmt.Sprint(known), "slave ") != len(c.nodes)-primaries {
			return false
		}
		role, err := c.nodes[node].TryDo("ROLE")
		return err == nil && inSync(role)
	})
}

func (c *Cluster) info(node int) map[string]string {
	reply, _ := c.nodes[node].TryDo("CLUSTER", "INFO")
	return fields(reply)
}

// await waits until all nodes are ok, one after the other: what this package waits for stays so.
func (c *Cluster) await(what string, ok func(node int) bool) {
	c.t.Helper()
	for i := range c.nodes {
		eventually(c.t, fmt.Sprintf("node %d %s", i, what), func() bool { return ok(i) })
	}
}

// Addrs are the addresses of all nodes: the primaries of the beginning first, then their replicas.
func (c *Cluster) Addrs() []string {
	addrs := make([]string, len(c.nodes))
	for i, node := range c.nodes {
		addrs[i] = node.Addr()
	}
	return addrs
}

// Node is node i of Addrs. Its Do speaks to that node only and follows no redirection.
func (c *Cluster) Node(i int) *Server { return c.nodes[i] }

// NodeOf is the node that owns key's slot now, as the first node that answers believes.
func (c *Cluster) NodeOf(key string) int {
	c.t.Helper()
	for i := range c.nodes {
		if owner := c.owner(i, Slot(key)); owner != "" {
			return slices.Index(c.ids, owner)
		}
	}
	c.t.Fatalf("redistest: no node knows who owns the slot of %q", key)
	return -1
}

// owner is the id of the node that owns a slot, as another one believes; "" if that one does not
// answer or know.
func (c *Cluster) owner(node, slot int) string {
	if !c.nodes[node].isRunning() {
		return ""
	}
	reply, err := c.nodes[node].TryDo("CLUSTER", "SLOTS")
	if err != nil {
		return ""
	}
	for _, row := range reply.([]any) { // first slot, last slot, [host, port, id, …] of the primary, …
		row := row.([]any)
		if row[0].(int64) <= int64(slot) && int64(slot) <= row[1].(int64) {
			return row[2].([]any)[2].(string)
		}
	}
	return ""
}

// MigrateSlot moves a slot and its keys from one primary to another, as redis-cli --cluster reshard
// does.
func (c *Cluster) MigrateSlot(slot, from, to int) {
	c.t.Helper()
	c.BeginMigration(slot, from, to)
	c.FinishMigration(slot, from, to)
}

// BeginMigration opens a slot for its move. Until FinishMigration the old owner serves the keys
// that it has and answers ASK for others.
func (c *Cluster) BeginMigration(slot, from, to int) {
	c.t.Helper()
	c.nodes[to].Do("CLUSTER", "SETSLOT", slot, "IMPORTING", c.ids[from])
	c.nodes[from].Do("CLUSTER", "SETSLOT", slot, "MIGRATING", c.ids[to])
}

// FinishMigration moves the keys and gives the slot to its new owner. From then on the old one
// answers MOVED.
func (c *Cluster) FinishMigration(slot, from, to int) {
	c.t.Helper()
	host, port, _ := strings.Cut(c.nodes[to].Addr(), ":")
	for {
		keys := c.nodes[from].Do("CLUSTER", "GETKEYSINSLOT", slot, 1000).([]any)
		if len(keys) == 0 {
			break
		}
		args := []any{"MIGRATE", host, port, "", 0, answerWithin.Milliseconds()}
		if password := c.nodes[to].Password(); password != "" {
			args = append(args, "AUTH", password)
		}
		c.nodes[from].Do(append(append(args, "KEYS"), keys...)...)
	}
	// The new owner first: should the old one be asked in between, it must not find that nobody has
	// the slot.
	c.nodes[to].Do("CLUSTER", "SETSLOT", slot, "NODE", c.ids[to])
	c.nodes[from].Do("CLUSTER", "SETSLOT", slot, "NODE", c.ids[to])
	for i := range primaries { // the others would hear of it by gossip, but on Redis 6.0 sometimes never
		if i != to && i != from && c.nodes[i].isRunning() {
			c.nodes[i].Do("CLUSTER", "SETSLOT", slot, "NODE", c.ids[to])
		}
	}
	// A node that has not heard of the new owner's epoch yet would take the slot back without a
	// newer one, and lose it again.
	epoch, _ := strconv.Atoi(c.info(to)["cluster_my_epoch"])
	c.await("to see the slot move", func(node int) bool {
		if !c.nodes[node].isRunning() {
			return true
		}
		current, _ := strconv.Atoi(c.info(node)["cluster_current_epoch"])
		return c.owner(node, slot) == c.ids[to] && current >= epoch
	})
}

// Slot is the slot of a key: CRC16 (XMODEM) of the key, or of what is between the first { and the
// next } if that is not nothing, modulo 16384.
func Slot(key string) int {
	if _, after, ok := strings.Cut(key, "{"); ok {
		if tag, _, ok := strings.Cut(after, "}"); ok && tag != "" {
			key = tag
		}
	}
	var crc uint16
	for i := range len(key) {
		crc ^= uint16(key[i]) << 8
		for range 8 {
			carry := crc&0x8000 != 0
			crc <<= 1
			if carry {
				crc ^= 0x1021
			}
		}
	}
	return int(crc) % slots
}
