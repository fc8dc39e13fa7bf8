package fleet

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// costs are simple ones, so that results can be told by hand.
var costs = Costs{
	Connections: 1, ConnectionMemory: 10_000, IdleCommands: 1, IdleCPU: 10, UsedCommands: 20, UsedCPU: 100,
	ReadCPU: 10, Tracked: 50, PushCPU: 5, Stamp: 60, WriteCPU: 20,
}

func TestAnIdleFleetCostsItsSum(t *testing.T) {
	r := costs.Simulate(Load{Name: "idle"}, 1000, 1, Defaults())
	require.InDelta(t, 0.01, r.Busy, 1e-9)
	require.InDelta(t, 1000, r.Commands, 1e-6)
	require.InDelta(t, 1000, r.Connections, 1e-6)
	require.InDelta(t, 1e7, r.Memory, 1)
	require.Zero(t, r.Longest)
	require.Empty(t, r.Broken)
}

// A write of a key that all hold is one push to each, and then one read of each.
func TestAWriteIsPushedToAllReaders(t *testing.T) {
	load := Load{Used: true, Reads: 20, Hot: 1, HotWrites: 1}
	r := costs.Simulate(load, 1000, 1, Defaults())
	require.InDelta(t, 1000, r.Pushes, 5)
	require.InDelta(t, 1000, r.Reads, 5)
	require.GreaterOrEqual(t, r.Longest, 4*time.Millisecond, "1,000 pushes at once take 5 ms")
	require.InDelta(t, 0.1+0.015, r.Busy, 0.001)
}

func TestTheSameFleetCostsTheSame(t *testing.T) {
	for _, load := range Loads() {
		require.Equal(t, costs.Simulate(load, 777, 3, Defaults()), costs.Simulate(load, 777, 3, Defaults()))
	}
}

// Each limit can be what breaks first.
func TestWhatBreaksFirst(t *testing.T) {
	for name, row := range map[string]struct {
		load   Load
		change func(*Costs, *Limits)
		bears  int
	}{
		"maxclients":              {Load{}, func(*Costs, *Limits) {}, 10_000},
		"the node's CPU":          {Load{Used: true}, func(_ *Costs, l *Limits) { l.MaxClients = 1e9; l.RedisTimeout = time.Hour }, 10_000},
		"RedisTimeout":            {Load{Used: true, Reads: 1, Hot: 1, HotWrites: 0.5}, func(c *Costs, _ *Limits) { c.PushCPU = 1000 }, 280},
		"tracking-table-max-keys": {Load{ColdReads: 1}, func(_ *Costs, l *Limits) { l.TrackingKeys = 6000 }, 100},
		"memory":                  {Load{}, func(_ *Costs, l *Limits) { l.Memory = 1e6 }, 100},
	} {
		t.Run(name, func(t *testing.T) {
			c, l := costs, Defaults()
			row.change(&c, &l)
			bears, first := c.Breaks(row.load, 1, l)
			require.Equal(t, name, first.first())
			require.Equal(t, row.bears, bears)
		})
	}
}

// A cluster divides what keys cost, and not what connections cost.
func TestACluster(t *testing.T) {
	load := Load{Used: true, Reads: 20, Hot: 30, HotWrites: 30, ColdReads: 3}
	one, three := costs.Simulate(load, 500, 1, Defaults()), costs.Simulate(load, 500, 3, Defaults())
	require.InDelta(t, one.Connections, three.Connections, 1e-6)
	require.InDelta(t, one.Commands, three.Commands, 1e-6)
	require.InDelta(t, one.Reads/3, three.Reads, one.Reads/20)
	require.InDelta(t, one.Pushes/3, three.Pushes, one.Pushes/20)
}

// What was measured is complete, so that the tables can be made.
func TestTheMeasuredCosts(t *testing.T) {
	c, err := Measured()
	require.NoError(t, err)
	for name, v := range map[string]float64{
		"Connections": c.Connections, "ConnectionMemory": c.ConnectionMemory, "IdleCommands": c.IdleCommands, "IdleCPU": c.IdleCPU,
		"UsedCommands": c.UsedCommands, "UsedCPU": c.UsedCPU, "ReadCPU": c.ReadCPU, "Tracked": c.Tracked, "PushCPU": c.PushCPU,
		"Stamp": c.Stamp, "WriteCPU": c.WriteCPU,
	} {
		require.Positive(t, v, name)
	}
	require.Equal(t, c.Report(100), c.Report(100))
}

// The page has what make fleet prints.
func TestThePageHasThisReport(t *testing.T) {
	page, err := os.ReadFile("../../docs/SCALING.md")
	require.NoError(t, err)
	c, err := Measured()
	require.NoError(t, err)
	report := c.Report(10_000)
	require.Contains(t, string(page), report, "write it there: go run ./internal/fleet/cmd/fleet -table docs/SCALING.md")
	require.Equal(t, string(page), Replace(string(page), report))
}
