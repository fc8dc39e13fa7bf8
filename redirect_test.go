package aside_test

import (
	"bufio"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/redistest"
)

// reader reads by a connection of its own, and has that told to a target.
type reader struct {
	t testing.TB
	net.Conn
	r *bufio.Reader
}

func newReader(t testing.TB, server *redistest.Server, target *aside.RedirectTarget) *reader {
	t.Helper()
	nc, err := net.Dial("tcp", server.Addr())
	require.NoError(t, err)
	t.Cleanup(func() { nc.Close() })
	r := &reader{t, nc, bufio.NewReader(nc)}
	r.tellAt(target)
	return r
}

func (r *reader) tellAt(target *aside.RedirectTarget) {
	r.t.Helper()
	r.do("CLIENT", "TRACKING", "ON", "REDIRECT", fmt.Sprint(target.ID), "OPTIN")
}

// read sends a read that is tracked, which is the very next command behind CLIENT CACHING YES only.
func (r *reader) read(args ...string) {
	r.t.Helper()
	r.do("CLIENT CACHING YES\r\n" + strings.Join(args, " "))
}

// do sends a command, and waits for its reply, and for that of an ECHO.
func (r *reader) do(args ...string) {
	r.t.Helper()
	require.NoError(r.t, r.SetDeadline(time.Now().Add(10*time.Second)))
	_, err := fmt.Fprintf(r, "%s\r\nECHO done\r\n", strings.Join(args, " "))
	require.NoError(r.t, err)
	for line := ""; line != "done\r\n"; {
		line, err = r.r.ReadString('\n')
		require.NoError(r.t, err)
		require.False(r.t, strings.HasPrefix(line, "-"), "%q: %s", args, line)
	}
}

// targetOf waits until a client knows its target.
func targetOf(t testing.TB, c *aside.Client) (target *aside.RedirectTarget) {
	t.Helper()
	eventually(t, "there is a target", func() bool {
		var err error
		target, err = c.RedirectTarget(testContext(t), "")
		return err == nil
	})
	return target
}

func TestWhatOthersReadIsKeptUntilItChanges(t *testing.T) {
	for name, change := range map[string]func(*aside.Options){
		"the usual memory": func(*aside.Options) {},
		"a strict LRU":     func(o *aside.Options) { o.MemoryKeys = 100 },
	} {
		t.Run(name, func(t *testing.T) {
			server := redistest.Start(t)
			c, ctx := newClient(t, server.Addr(), change), testContext(t)
			target := targetOf(t, c)
			r := newReader(t, server, target)
			read := func(ttl time.Duration) bool {
				o := target.Reserve("h")
				r.read("HGETALL", "h")
				return o.Keep("what was read", ttl)
			}
			keep := func(ttl time.Duration) {
				eventually(t, "it is kept", func() bool {
					if !target.Listens() { // the client has rested
						target = targetOf(t, c)
						r.tellAt(target)
					}
					return read(ttl)
				})
			}
			server.Do("HSET", "h", "f", "v")
			keep(-1)
			content, ttl, ok := c.Redirected("h")
			require.True(t, ok)
			require.Equal(t, "what was read", content)
			require.Negative(t, ttl)
			require.False(t, target.Proven().IsZero())

			_, _, err := c.Peek(ctx, "h") // it is no value
			require.ErrorContains(t, err, "WRONGTYPE")
			_, err = c.LookAway(ctx, "h")
			require.ErrorIs(t, err, aside.ErrRedisAway)
			explained, err := c.Explain(ctx, "h")
			require.NoError(t, err)
			require.NotContains(t, fmt.Sprintf("%+v", explained), "what was read")

			server.Do("HSET", "h", "f", "w")
			eventually(t, "the change is told", func() bool { _, _, ok := c.Redirected("h"); return !ok })
			keep(-1)
			c.Forget("h")
			_, _, ok = c.Redirected("h")
			require.False(t, ok)

			o := target.Reserve("h") // it changes while it is read
			r.read("HGETALL", "h")
			c.Forget("h")
			require.False(t, o.Keep("what was read", -1))
			require.False(t, aside.ReadReservation{}.Keep("nothing", -1))

			keep(-1) // and more of it is read
			o = target.Reserve("h")
			kept := func() (is string) {
				require.False(t, o.Unite(-1, func(before string) string { is = before; return "" }), "all stays as it is")
				return is
			}
			require.True(t, o.Unite(-1, func(before string) string { return before + " and more" }))
			require.Equal(t, "what was read and more", kept())
			c.Forget("h")
			require.Empty(t, kept())
			require.False(t, o.Unite(-1, func(before string) string { return "of " + before }), "it has changed")
			o = target.Reserve("h")
			require.True(t, o.Unite(-1, func(before string) string { return "of nothing" + before }))
			require.Equal(t, "of nothing", kept())
			require.False(t, aside.ReadReservation{}.Unite(-1, func(string) string { return "nothing" }))

			keep(50 * time.Millisecond)
			eventually(t, "its end", func() bool { _, _, ok := c.Redirected("h"); return !ok })

			keep(time.Hour)
			server.Do("CLIENT", "KILL", "ID", target.ID)
			eventually(t, "the connection is lost", func() bool { return !target.Listens() })
			require.False(t, read(-1))
			require.NotEqual(t, target.ID, targetOf(t, c).ID)
		})
	}
}

// In an outage it is known as long as a value would be.
func TestWhatOthersReadIsKnownInAnOutage(t *testing.T) {
	for _, ttl := range []time.Duration{-1, 500 * time.Millisecond} {
		t.Run(ttl.String(), func(t *testing.T) {
			server := redistest.Start(t)
			c := newClient(t, server.Addr(), hasty, func(o *aside.Options) { o.DegradedTTL, o.LockTTL = ttl, time.Minute })
			target := targetOf(t, c)
			r := newReader(t, server, target)
			server.Do("SADD", "s", "m")
			o := target.Reserve("s")
			r.read("SMEMBERS", "s")
			require.True(t, o.Keep("m", -1))
			server.Kill()
			awaitMode(t, c, aside.Degraded)
			if ttl < 0 {
				content, _, ok := c.Redirected("s")
				require.True(t, ok)
				require.Equal(t, "m", content)
			} else {
				eventually(t, "it is known no longer", func() bool { _, _, ok := c.Redirected("s"); return !ok })
			}
			_, err := c.RedirectTarget(testContext(t), "")
			require.ErrorIs(t, err, aside.ErrRedisAway)
		})
	}
}

// What was read of a key stands before the operations on it that wait, as long as that is known to be so.
func TestWhatOthersReadStandsBeforeOperations(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c, cut, heal := away(t, server, func(o *aside.Options) { o.DegradedTTL, o.LockTTL, o.RedisTimeout = -1, time.Minute, 5*time.Second })
	ctx := testContext(t)
	target := targetOf(t, c)
	r := newReader(t, server, target)
	keys := []string{"adds", "sets", "dels", "ends", "ended", "refused", "others", "set"}
	for _, key := range keys {
		o := target.Reserve(key)
		r.read("HGETALL", key)
		require.True(t, o.Keep("of "+key, -1))
	}
	cut()
	before := func(key string) string {
		content, _, _ := c.RedirectedBefore(key)
		return content
	}
	for _, key := range keys {
		require.Empty(t, before(key))
		content, _, ok := c.Redirected(key)
		require.True(t, ok)
		require.Equal(t, "of "+key, content)
	}
	apply := func(key string, ops ...aside.Operation) {
		t.Helper()
		_, err := c.Apply(ctx, key, ops, nil)
		require.ErrorIs(t, err, aside.ErrKept)
		_, _, ok := c.Redirected(key)
		require.False(t, ok, "it is not what the key holds now")
	}
	for range 2 {
		apply("adds", op("HSET", "a", "1"))
		require.Equal(t, "of adds", before("adds"))
	}
	apply("sets", op("HSET", "a", "1"), op("SET", "text"), op("DEL"), op("HSET", "a", "1"))
	apply("dels", op("HSET", "a", "1"))
	require.NoError(t, c.Del(ctx, "dels"))
	apply("dels", op("HSET", "a", "1"))
	apply("ended", op("PEXPIRE", "-1"))
	for _, key := range []string{"sets", "dels", "ended"} {
		require.Empty(t, before(key), key)
	}
	apply("ends", op("HSET", "a", "1"), op("PEXPIRE", "300"), op("PERSIST"))
	eventually(t, "the first end", func() bool { return before("ends") == "" })
	_, err := c.Apply(ctx, "refused", []aside.Operation{op("HSET", "a", "1")}, func(aside.Kept) error { return aside.ErrClosed })
	require.ErrorIs(t, err, aside.ErrClosed)
	require.Empty(t, before("refused"))
	_, err = c.Apply(ctx, "others", []aside.Operation{op("HSET", "a", "1")}, func(aside.Kept) error { c.Forget("others"); return nil }) // it is told of
	require.ErrorIs(t, err, aside.ErrKept)
	require.Empty(t, before("others"))
	apply("set", op("HSET", "a", "1"))
	require.NoError(t, c.Set(ctx, time.Hour, "set", "text"))
	require.Empty(t, before("set"))

	heal()
	require.Empty(t, before("adds"))
	cut()
	apply("adds", op("HSET", "b", "1"))
	require.Empty(t, before("adds"), "another outage knows nothing of it")
}

func TestAClientWithoutMemoryHasNoRedirectTarget(t *testing.T) {
	server := redistest.Start(t)
	c := newClient(t, server.Addr(), func(o *aside.Options) { o.MemoryBytes = -1 })
	_, err := c.RedirectTarget(testContext(t), "")
	require.ErrorIs(t, err, aside.ErrNoInvalidations)
	require.NoError(t, c.Close())
	_, err = c.RedirectTarget(testContext(t), "")
	require.ErrorIs(t, err, aside.ErrClosed)
}

// In a cluster each node has its own, for the keys of its slots.
func TestEachNodeOfAClusterHasARedirectTarget(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	c := newClient(t, "", func(o *aside.Options) { o.Redis.InitAddress = cluster.Addrs() })
	awaitMode(t, c, aside.Healthy)
	ctx := testContext(t)
	for _, addr := range []string{"", "127.0.0.1:1"} {
		_, err := c.RedirectTarget(ctx, addr)
		require.ErrorIs(t, err, aside.ErrRedisAway, "no node is there")
	}
	keys := make([]string, 3)
	for i := 0; slices.Contains(keys, ""); i++ {
		key := fmt.Sprint("h", i)
		keys[cluster.NodeOf(key)] = key
	}
	targets, readers := make([]*aside.RedirectTarget, 3), make([]*reader, 3)
	read := func(node int, key string) bool {
		var o aside.ReadReservation
		eventually(t, "there is a target", func() bool {
			if targets[node] == nil || !targets[node].Listens() { // the client has rested
				target, err := c.RedirectTarget(ctx, cluster.Addrs()[node])
				if err != nil {
					return false
				}
				targets[node], readers[node] = target, newReader(t, cluster.Node(node), target)
			}
			o = targets[node].Reserve(key)
			return targets[node].Listens()
		})
		if cluster.NodeOf(key) == node {
			readers[node].read("HGETALL", key)
		}
		return o.Keep("read", -1)
	}
	kept := func(key string) bool { _, _, ok := c.Redirected(key); return ok }
	for node, key := range keys {
		eventually(t, "it is kept", func() bool { return read(node, key) && kept(key) })
		require.Equal(t, cluster.Addrs()[node], targets[node].Addr)
		require.Contains(t, cluster.Node(node).Do("INFO", "server"), "run_id:"+targets[node].Server)
	}
	for node, key := range keys {
		require.False(t, read((node+1)%3, key), "its changes are told elsewhere")
		cluster.Node(node).Do("HSET", key, "f", "v")
		eventually(t, "the change is told", func() bool { return !kept(key) })
	}
	eventually(t, "it is kept", func() bool { return read(0, keys[0]) && kept(keys[0]) })
	before := targets[0]
	cluster.MigrateSlot(redistest.Slot(keys[0]), 0, 2)
	eventually(t, "its changes are told elsewhere now", func() bool { return !before.Listens() && !kept(keys[0]) && !read(0, keys[0]) })
	eventually(t, "it is kept there", func() bool { return read(2, keys[0]) && kept(keys[0]) })
}
