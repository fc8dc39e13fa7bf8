package aside_test

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/redistest"
)

// reader reads by a connection of its own, and has that told to an ear.
type reader struct {
	t testing.TB
	net.Conn
	r *bufio.Reader
}

func newReader(t testing.TB, server *redistest.Server, ear *aside.Ear) *reader {
	t.Helper()
	nc, err := net.Dial("tcp", server.Addr())
	require.NoError(t, err)
	t.Cleanup(func() { nc.Close() })
	r := &reader{t, nc, bufio.NewReader(nc)}
	r.tellAt(ear)
	return r
}

func (r *reader) tellAt(ear *aside.Ear) {
	r.t.Helper()
	r.do("CLIENT", "TRACKING", "ON", "REDIRECT", fmt.Sprint(ear.ID), "OPTIN")
}

// do sends a command, and waits for the first line of its reply, and for that of a PING.
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

// earOf waits until a client knows its ear.
func earOf(t testing.TB, c *aside.Client) (ear *aside.Ear) {
	t.Helper()
	eventually(t, "there is an ear", func() bool {
		var err error
		ear, err = c.Ear(testContext(t))
		return err == nil
	})
	return ear
}

func TestWhatOthersReadIsKeptUntilItChanges(t *testing.T) {
	for name, change := range map[string]func(*aside.Options){
		"the usual memory": func(*aside.Options) {},
		"a strict LRU":     func(o *aside.Options) { o.MemoryKeys = 100 },
	} {
		t.Run(name, func(t *testing.T) {
			server := redistest.Start(t)
			c, ctx := newClient(t, server.Addr(), change), testContext(t)
			ear := earOf(t, c)
			r := newReader(t, server, ear)
			read := func(ttl time.Duration) bool {
				o := ear.Ask("h")
				r.do("CLIENT", "CACHING", "YES")
				r.do("HGETALL", "h")
				return o.Keep("what was read", ttl)
			}
			keep := func(ttl time.Duration) {
				eventually(t, "it is kept", func() bool {
					if !ear.Listens() { // the client has rested
						ear = earOf(t, c)
						r.tellAt(ear)
					}
					return read(ttl)
				})
			}
			server.Do("HSET", "h", "f", "v")
			keep(-1)
			content, ttl, ok := c.Overheard("h")
			require.True(t, ok)
			require.Equal(t, "what was read", content)
			require.Negative(t, ttl)
			require.False(t, ear.Proven().IsZero())

			_, _, err := c.Peek(ctx, "h") // it is no value
			require.ErrorContains(t, err, "WRONGTYPE")
			_, err = c.LookAway(ctx, "h")
			require.ErrorIs(t, err, aside.ErrRedisAway)
			explained, err := c.Explain(ctx, "h")
			require.NoError(t, err)
			require.NotContains(t, fmt.Sprintf("%+v", explained), "what was read")

			server.Do("HSET", "h", "f", "w")
			eventually(t, "the change is told", func() bool { _, _, ok := c.Overheard("h"); return !ok })
			keep(-1)
			c.Forget("h")
			_, _, ok = c.Overheard("h")
			require.False(t, ok)

			o := ear.Ask("h") // it changes while it is read
			r.do("CLIENT", "CACHING", "YES")
			r.do("HGETALL", "h")
			c.Forget("h")
			require.False(t, o.Keep("what was read", -1))
			require.False(t, aside.Overhearing{}.Keep("nothing", -1))

			keep(50 * time.Millisecond)
			eventually(t, "its end", func() bool { _, _, ok := c.Overheard("h"); return !ok })

			keep(time.Hour)
			server.Do("CLIENT", "KILL", "ID", ear.ID)
			eventually(t, "the connection is lost", func() bool { return !ear.Listens() })
			require.False(t, read(-1))
			require.NotEqual(t, ear.ID, earOf(t, c).ID)
		})
	}
}

// In an outage it is known as long as a value would be.
func TestWhatOthersReadIsKnownInAnOutage(t *testing.T) {
	for _, ttl := range []time.Duration{-1, 500 * time.Millisecond} {
		t.Run(ttl.String(), func(t *testing.T) {
			server := redistest.Start(t)
			c := newClient(t, server.Addr(), hasty, func(o *aside.Options) { o.DegradedTTL, o.LockTTL = ttl, time.Minute })
			ear := earOf(t, c)
			r := newReader(t, server, ear)
			server.Do("SADD", "s", "m")
			o := ear.Ask("s")
			r.do("CLIENT", "CACHING", "YES")
			r.do("SMEMBERS", "s")
			require.True(t, o.Keep("m", -1))
			server.Kill()
			awaitMode(t, c, aside.Degraded)
			if ttl < 0 {
				content, _, ok := c.Overheard("s")
				require.True(t, ok)
				require.Equal(t, "m", content)
			} else {
				eventually(t, "it is known no longer", func() bool { _, _, ok := c.Overheard("s"); return !ok })
			}
			_, err := c.Ear(testContext(t))
			require.ErrorIs(t, err, aside.ErrRedisAway)
		})
	}
}

func TestAClientWithoutMemoryHasNoEar(t *testing.T) {
	server := redistest.Start(t)
	c := newClient(t, server.Addr(), func(o *aside.Options) { o.MemoryBytes = -1 })
	_, err := c.Ear(testContext(t))
	require.ErrorIs(t, err, aside.ErrNoInvalidations)
	require.NoError(t, c.Close())
	_, err = c.Ear(testContext(t))
	require.ErrorIs(t, err, aside.ErrClosed)
}
