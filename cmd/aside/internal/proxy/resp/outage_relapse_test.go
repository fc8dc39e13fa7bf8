package resp

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

// A relapse: Redis is there for a moment, some of what waits for it is replayed, and then it is away again.

// fault is a way in which Redis is away.
type fault struct {
	name  string
	begin func(server *redistest.Server, through *faultproxy.Proxy)
	end   func(server *redistest.Server, through *faultproxy.Proxy)
}

// faults are that in which connections are lost, and those in which they stand.
var faults = []fault{
	{"refuses", func(_ *redistest.Server, through *faultproxy.Proxy) { through.Refuse() }, func(_ *redistest.Server, through *faultproxy.Proxy) { through.Heal() }},
	{"hangs", func(_ *redistest.Server, through *faultproxy.Proxy) { through.BlackHole() }, func(_ *redistest.Server, through *faultproxy.Proxy) { through.Heal() }},
	{"is read-only", func(server *redistest.Server, _ *faultproxy.Proxy) { server.Do("REPLICAOF", "127.0.0.1", "1") }, func(server *redistest.Server, _ *faultproxy.Proxy) { server.Do("REPLICAOF", "NO", "ONE") }},
}

// relapse is one, in which commands are sent one by one that name none of bare. It returns what bare has become, and how many were sent.
func (m *model) relapse(through *faultproxy.Proxy, bare []string, command func(*model) []string) (_ []string, sent int) {
	m.t.Helper()
	for pending := m.client.Stats().Pending; pending > 0 && m.client.Stats().Pending == pending; {
		sent += m.batch(1, without(bare, command))
	}
	fault := faults[m.random.IntN(len(faults))]
	fault.begin(m.server, through)
	m.away, m.back = true, true
	for fault.name == "is read-only" && m.client.Health().Mode != aside.Degraded { // who writes sees that
		sent += m.batch(1, without(bare, command))
	}
	awaitMode(m.t, m.client, aside.Degraded)
	m.faults[fault.name]++
	for range m.random.IntN(200) {
		sent += m.batch(1, without(bare, command))
		m.relapsed++
	}
	bare = append(bare, m.bareValues()...)
	fault.end(m.server, through)
	m.relapses++
	return bare, sent
}

// recall makes local one that knows of the keys of a single command what waits for them, and nothing else, and returns that: once Redis was there
// again, nobody but the client can say what has been replayed.
func (m *model) recall(all [][]string) (waits string) {
	m.t.Helper()
	if m.local == nil || !m.away || !m.back {
		return ""
	}
	require.Len(m.t, all, 1)
	m.forget(all)
	for _, key := range m.keysOf(all) {
		k, _, err := m.client.Kept(m.t.Context(), key)
		require.NoError(m.t, err)
		if k.Base == aside.BaseString && time.Until(k.Expires) > 0 {
			m.local.do("SET", key, k.Value)
			m.local.do("PEXPIREAT", key, strconv.FormatInt(k.Expires.UnixMilli(), 10))
		}
		for _, o := range k.Operations {
			m.local.do(append([]string{o[0], key}, o[1:]...)...)
		}
	}
	return m.waits(all)
}

// waits is what waits for the keys of commands. What is added comes behind it.
func (m *model) waits(all [][]string) (text string) {
	m.t.Helper()
	for _, key := range m.keysOf(all) {
		k, _, err := m.client.Kept(m.t.Context(), key)
		require.NoError(m.t, err)
		text += fmt.Sprintf("%s %d %q", key, k.Base, k.Value)
		for _, o := range k.Operations {
			text += fmt.Sprintf(" %q", o)
		}
	}
	return text
}

// forget makes local one that knows nothing of the keys of commands.
func (m *model) forget(all [][]string) {
	for _, key := range m.keysOf(all) {
		m.local.do("DEL", key)
	}
}

func (m *model) keysOf(all [][]string) (keys []string) {
	for _, args := range all {
		for _, arg := range args[1:] {
			if slices.Contains(m.all, arg) && !slices.Contains(keys, arg) {
				keys = append(keys, arg)
			}
		}
	}
	return keys
}
