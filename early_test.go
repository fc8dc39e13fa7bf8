package aside_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/redistest"
)

// A tracking table that is too small makes memory useless, and nothing else would say so.
func TestAFullTrackingTableIsNoticed(t *testing.T) {
	server := redistest.Start(t, redistest.WithArgs("--tracking-table-max-keys", "20"))
	var log logged
	c, ctx := newClient(t, server.Addr(), log.option), testContext(t)
	var keys []string
	for i := range 400 {
		keys = append(keys, fmt.Sprint("k", i))
		server.Do("SET", keys[i], "v")
	}
	read := func() {
		values, err := c.GetMulti(ctx, time.Minute, keys, newSource("v").LoadMany)
		require.NoError(t, err)
		require.Len(t, values, len(keys))
	}
	eventually(t, "it is said", func() bool { // what is told a second late, as the machine was held up, is not early
		read()
		return len(log.lines("level=WARN", "tracking table is full")) > 0
	})
	require.GreaterOrEqual(t, c.Stats().GoneEarly, int64(100))
	for range 5 {
		read()
	}
	require.Len(t, log.lines("level=WARN", "tracking table is full"), 1, "once a minute")
}

// Changes now and then are no reason for a line.
func TestOrdinaryChangesAreNotSaid(t *testing.T) {
	server := redistest.Start(t)
	var log logged
	c, ctx := newClient(t, server.Addr(), log.option), testContext(t)
	for i := range 150 {
		for j := range 3 {
			_, err := c.Get(ctx, time.Minute, fmt.Sprint("k", i, j), newSource("v").Load)
			require.NoError(t, err)
		}
		server.Do("SET", fmt.Sprint("k", i, 0), "w")
	}
	require.Empty(t, log.lines("tracking table"))
}
