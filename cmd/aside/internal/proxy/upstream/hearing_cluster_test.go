package upstream

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/cmd/aside/internal/proxy"
	"github.com/redaside/aside/internal/redistest"
	"github.com/redaside/aside/internal/slot"
)

// Each node's connection is told at its own target, and each command knows in which Hearing it was answered, unless it was sent to two nodes.
func TestEachNodeOfAClusterHasItsOwnHearing(t *testing.T) {
	cluster := redistest.StartCluster(t)
	p := New(Options{
		Redis: rueidis.ClientOption{}, Nodes: cluster.Addrs, DialTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second, MostOwn: 10, Open: proxy.NewBudget(0),
	})
	t.Cleanup(p.Close)
	require.Empty(t, p.AddressOf(0))
	_, err := p.Table(testContext(t))
	require.NoError(t, err)
	runs, ids, slots := make([]string, 3), make([]int64, 3), make([]uint16, 3)
	for i, addr := range cluster.Addrs() {
		_, info, _ := strings.Cut(fmt.Sprint(cluster.Node(i).Do("INFO", "server")), "run_id:")
		runs[i], _, _ = strings.Cut(info, "\r\n")
		o, err := p.ownAt(testContext(t), nil, p.nodeAt(addr), 3) // a connection there, at which it is told
		require.NoError(t, err)
		t.Cleanup(o.Close)
		ids[i], slots[i] = o.id, uint16(i*16384/3+10)
		require.Equal(t, addr, p.AddressOf(slots[i]))
	}
	for _, protocol := range []int{2, 3} {
		for i, addr := range cluster.Addrs() {
			require.ErrorIs(t, p.Listen(testContext(t), addr, protocol, runs[(i+1)%3], ids[i], i, always), errElsewhere, "that is another node")
			require.False(t, p.Hears(addr, protocol, i))
			require.NoError(t, p.Listen(testContext(t), addr, protocol, runs[i], ids[i], i, always))
			require.True(t, p.Hears(addr, protocol, i))
			require.False(t, p.Hears(addr, protocol, (i+1)%3))
			require.NoError(t, p.Prove(addr, protocol, always))
			h := p.Hearing(addr, protocol)
			require.Same(t, h, p.Numbered(h.Number))
			require.NoError(t, p.Listen(testContext(t), addr, protocol, runs[i], ids[i], i, always))
			require.Nil(t, p.Numbered(h.Number), "there is a later one")
			require.True(t, p.Hears(addr, protocol, i))
		}
	}
	ask := func(protocol int, at ...uint16) *Batch {
		b := new(Batch)
		for _, n := range at {
			b.AddAt([]string{"HGETALL", "{" + slot.Tag(n) + "}"}, Place{Slot: n})
		}
		require.NoError(t, p.Do(testContext(t), protocol, b, always))
		return b
	}
	for _, protocol := range []int{2, 3} {
		b := ask(protocol, slots[2], slots[0], slots[1], slots[0])
		for i, node := range []int{2, 0, 1, 0} {
			require.Same(t, p.Hearing(cluster.Addrs()[node], protocol), b.Heard(i))
		}
		require.Nil(t, new(Batch).Heard(0))
		b.Reset()
		require.Nil(t, b.heards)
	}

	cluster.BeginMigration(int(slots[0]), 0, 1)
	b := ask(2, slots[0], slots[1])
	require.Nil(t, b.Heard(0), "it has followed ASK")
	require.Same(t, p.Hearing(cluster.Addrs()[1], 2), b.Heard(1))
	cluster.FinishMigration(int(slots[0]), 0, 1)
	b = ask(2, slots[2], slots[0])
	require.Nil(t, b.Heard(1), "it has followed MOVED")
	require.Same(t, p.Hearing(cluster.Addrs()[2], 2), b.Heard(0))
}
