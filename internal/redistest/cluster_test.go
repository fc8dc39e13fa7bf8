package redistest

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestSlotIsThatOfRedis(t *testing.T) {
	t.Parallel()
	c := StartCluster(t)
	for _, key := range []string{"", "foo", "123456789", "{user}:1", "a{user}b", "{}x", "a{}b", "{", "}{a}", "{a}{b}", "{{a}}", "\x00\xff"} {
		assert.EqualValues(t, c.Node(0).Do("CLUSTER", "KEYSLOT", key), Slot(key), "%q", key)
	}
}

func TestAClusterSpreadsSlotsAndMovesThem(t *testing.T) {
	t.Parallel()
	c := StartCluster(t)
	require.Len(t, c.Addrs(), 3)
	seen := map[int]bool{}
	for i := range 100 {
		key := fmt.Sprintf("key:%d", i)
		node := c.NodeOf(key)
		seen[node] = true
		require.Equal(t, "OK", c.Node(node).Do("SET", key, i))
		_, err := c.Node((node+1)%3).TryDo("GET", key)
		require.ErrorContains(t, err, "MOVED")
	}
	require.Len(t, seen, 3)

	from := c.NodeOf("{k}1")
	to := (from + 1) % 3
	slot := Slot("{k}1")
	c.Node(from).Do("SET", "{k}1", "v")
	c.BeginMigration(slot, from, to)
	assert.Equal(t, "v", c.Node(from).Do("GET", "{k}1"))
	_, err := c.Node(from).TryDo("GET", "{k}2")
	require.ErrorContains(t, err, "ASK "+fmt.Sprint(slot)+" "+c.Addrs()[to])

	c.FinishMigration(slot, from, to)
	assert.Equal(t, to, c.NodeOf("{k}1"))
	assert.Equal(t, "v", c.Node(to).Do("GET", "{k}1"))
	_, err = c.Node(from).TryDo("GET", "{k}1")
	require.ErrorContains(t, err, "MOVED")

	c.MigrateSlot(slot, to, from)
	assert.Equal(t, "v", c.Node(from).Do("GET", "{k}1"))
}

func TestADeadNodeCostsItsOwnSlotsOnly(t *testing.T) {
	t.Parallel()
	c := StartCluster(t, WithPassword("secret"))
	dead := c.NodeOf("a")
	other := c.NodeOf("b")
	require.NotEqual(t, dead, other)
	c.Node(dead).Kill()
	eventually(t, "the others to notice", func() bool {
		return fields(c.Node(other).Do("CLUSTER", "INFO"))["cluster_slots_fail"] != "0"
	})
	assert.Equal(t, "OK", c.Node(other).Do("SET", "b", "v"))
	assert.NotEqual(t, dead, c.NodeOf("b"))

	c.Node(dead).Restart()
	c.AwaitOK()
	assert.Equal(t, dead, c.NodeOf("a"))
	assert.Equal(t, "OK", c.Node(dead).Do("SET", "a", "v"))
}

func TestAReplicaTakesOverFromAPrimaryThatDied(t *testing.T) {
	t.Parallel()
	c := StartCluster(t, WithReplicas(1))
	require.Len(t, c.Addrs(), 6)
	old := c.NodeOf("a")
	c.Node(old).Do("SET", "a", "v")
	replica := c.Node(old + 3)
	eventually(t, "the replica to have it", func() bool { return replica.Do("DBSIZE") == int64(1) })
	c.Node(old).Kill()
	eventually(t, "a replica to take over", func() bool { return c.NodeOf("a") != old })
	assert.Equal(t, "v", c.Node(c.NodeOf("a")).Do("GET", "a"))
}
