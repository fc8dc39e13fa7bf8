package aside_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/redistest"
)

// commandsSeen is how often a server was asked what, without what tests ask.
func commandsSeen(server *redistest.Server) (byName map[string]int, all int) {
	byName = make(map[string]int)
	for line := range strings.Lines(fmt.Sprint(server.Do("INFO", "commandstats"))) {
		name, rest, _ := strings.Cut(strings.TrimPrefix(line, "cmdstat_"), ":calls=")
		n := 0
		_, _ = fmt.Sscanf(rest, "%d", &n)
		if name = strings.ToLower(name); n == 0 || name == "info" || strings.HasPrefix(name, "config") {
			continue
		}
		byName[name] = n
		all += n
	}
	return byName, all
}

// awaitRest waits until nobody asks the server anything but PING.
func awaitRest(t testing.TB, server *redistest.Server, clients int) {
	t.Helper()
	eventually(t, "the probers rest", func() bool {
		server.Do("CONFIG", "RESETSTAT")
		var byName map[string]int
		var all int
		eventually(t, "they ask", func() bool {
			byName, all = commandsSeen(server)
			return all >= 2*clients
		})
		return byName["ping"] == all
	})
}

// An idle client sends a command a second at most. The server counts them.
func TestAnIdleClientSendsACommandASecondAtMost(t *testing.T) {
	t.Parallel() // it waits more than it works
	const clients = 5
	server := redistest.Start(t)
	for i := range clients {
		c := newClient(t, server.Addr(), hasty)
		_, err := c.Get(testContext(t), time.Minute, fmt.Sprint("k", i), func(context.Context, string) (string, error) { return "v", nil })
		require.NoError(t, err)
	}
	awaitRest(t, server, clients)
	began := time.Now()
	server.Do("CONFIG", "RESETSTAT")
	var byName map[string]int
	var all int
	eventually(t, "some PINGs", func() bool {
		byName, all = commandsSeen(server)
		return all >= 5*clients
	})
	require.LessOrEqual(t, float64(all), (time.Since(began).Seconds()+1)*clients, byName)
}

// The lease of an idle client lapses. Its first read goes to Redis, and the next ones are from
// memory again.
func TestTheFirstReadAfterARestProvesTheLeaseAnew(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c := newClient(t, server.Addr(), hasty, func(o *aside.Options) { o.StaleLease = 20 * time.Millisecond })
	ctx, from := testContext(t), newSource("v")
	get := func() string {
		value, err := c.Get(ctx, time.Minute, "k", from.Load)
		require.NoError(t, err)
		return value
	}
	hits := func() int64 { return c.Stats().MemoryHits }
	hit := func() bool {
		before := hits()
		get()
		return hits() > before
	}
	eventually(t, "it is read from memory", hit)
	for range 2 {
		awaitRest(t, server, 1)
		before := hits()
		require.Equal(t, "v", get())
		require.Equal(t, before, hits(), "a lease that has lapsed is believed")
		eventually(t, "it is read from memory again", hit)
	}
	awaitRest(t, server, 1)
	require.NoError(t, c.Set(ctx, time.Minute, "k", "w"), "the clock is good enough for the first write")
	require.Equal(t, "w", server.Do("GET", "k"))
	require.Equal(t, aside.Healthy, c.Health().Mode)
}

// An outage is noticed though nobody uses the client, and so is its end.
func TestAnIdleClientNoticesAnOutage(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	if !server.CanSignal() {
		redistest.Skip(t, "the server cannot be frozen")
	}
	c := newClient(t, server.Addr(), hasty)
	awaitRest(t, server, 1)
	server.Freeze()
	eventually(t, "it notices", func() bool { return c.Health().Mode == aside.Degraded })
	server.Thaw()
	eventually(t, "it is back", func() bool { return c.Health().Mode == aside.Healthy })
}

// Pushes that are lost while a client rests, and come again before it wakes, leave nothing old: what
// its memory had is read anew.
func TestPushesThatAreLostAtRestAreNotMissed(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	middle := newMiddleman(t, server.Addr())
	c, ctx, from := newClient(t, middle.Addr(), hasty), testContext(t), newSource("old")
	get := func(key string) string {
		value, err := c.Get(ctx, time.Minute, key, from.Load)
		require.NoError(t, err)
		return value
	}
	hits := func() bool {
		before := c.Stats().MemoryHits
		get("a")
		get("b")
		return c.Stats().MemoryHits == before+2
	}
	eventually(t, "both are in memory", hits)
	awaitRest(t, server, 1)
	middle.set(func() { middle.drop = true })
	server.Do("SET", "a", "new")
	server.Do("SET", "b", "new")
	awaitRest(t, server, 1) // two PINGs, and more than StaleLease
	middle.set(func() { middle.drop = false })
	require.Equal(t, "new", get("a"))
	eventually(t, "both are in memory again", func() bool {
		require.Equal(t, "new", get("b"))
		return hits()
	})
	require.NoError(t, c.Health().Err)
}
