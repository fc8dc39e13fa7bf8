package aside

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// Whatever happens: a lost shard is degraded, nothing but an answer brings it back, and nothing but the end of the replay
// makes it healthy where there was something to replay.
func TestTheModeMachine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		mode, owed := linkDegraded, false // owed: it came back with records, and they have not been replayed
		for i, e := range rapid.SliceOf(rapid.SampledFrom([]modeEvent{lost, back, backEmpty, replayed})).Draw(t, "events") {
			was := mode
			mode = mode.after(e)
			switch {
			case e == lost:
				owed = false
			case was == linkDegraded && e == back:
				owed = true
			case e == replayed:
				owed = false
			}
			switch mode {
			case linkDegraded:
				if e != lost && was != linkDegraded {
					t.Fatalf("event %d made it degraded", i)
				}
			case linkRecovering:
				if !owed {
					t.Fatalf("event %d: recovering with nothing to replay", i)
				}
			case linkHealthy:
				if owed {
					t.Fatalf("event %d: healthy before the replay has ended", i)
				}
			}
		}
	})
}

func TestAShardComesBackAfterThreeGoodProbesAndSomeJitter(t *testing.T) {
	earliest, latest := int64(never), int64(0)
	for range 200 {
		var b comeback
		now := int64(1)
		require.False(t, b.probed(true, false, now))
		require.False(t, b.probed(true, false, now))
		require.False(t, b.probed(false, false, now), "a bad one: from the beginning")
		require.False(t, b.probed(true, false, now))
		require.False(t, b.probed(true, false, now))
		for n := int64(0); ; n += int64(10 * time.Millisecond) {
			if b.probed(true, false, now+n) {
				earliest, latest = min(earliest, n), max(latest, n)
				break
			}
		}
	}
	require.LessOrEqual(t, latest, int64(comebackJitter))
	require.Greater(t, latest-earliest, int64(comebackJitter/2), "they are spread")
	var fresh comeback
	require.True(t, fresh.probed(true, true, 1), "a server that was never away is taken at its word")
}

// newShardOf makes a shard of a client that has no Redis, as if it had one.
func newShardOf(c *Client) *shard {
	sh := c.newShard("", nil, true)
	c.happened(sh, backEmpty, nil)
	return sh
}

func TestTheBreakersRules(t *testing.T) {
	silence := errors.New("no answer")
	for name, row := range map[string]struct {
		happens func(c *Client, sh *shard)
		want    linkMode
	}{
		"four timeouts of callers": {func(c *Client, sh *shard) {
			for range 4 {
				c.failed(sh, silence, callersTimeout)
			}
		}, linkHealthy},
		"five": {func(c *Client, sh *shard) {
			for range 5 {
				c.failed(sh, silence, callersTimeout)
			}
		}, linkDegraded},
		"five, with an answer in between": {func(c *Client, sh *shard) {
			for i := range 5 {
				if i == 3 {
					c.conclude(sh, []*call{{}}, true, c.now(), 0)
				}
				c.failed(sh, silence, callersTimeout)
			}
		}, linkHealthy},
		"one of the prober":   {func(c *Client, sh *shard) { c.failed(sh, silence, probesTimeout) }, linkHealthy},
		"two of the prober":   {func(c *Client, sh *shard) { c.failed(sh, silence, probesTimeout); c.failed(sh, silence, probesTimeout) }, linkDegraded},
		"a broken connection": {func(c *Client, sh *shard) { c.failed(sh, silence, brokenOnly) }, linkHealthy},
		"one timeout, the lease has lapsed": {func(c *Client, sh *shard) {
			sh.valid.Prove(sh.valid.Epoch(), c.now())
			c.failed(sh, silence, callersTimeout)
		}, linkDegraded},
		"a broken connection, the lease has lapsed with it": {func(c *Client, sh *shard) {
			sh.newEpoch()
			c.failed(sh, silence, brokenOnly)
		}, linkHealthy},
		"a refused dial": {func(c *Client, sh *shard) { c.failed(sh, silence, decisive) }, linkDegraded},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newAway(t)
				sh := newShardOf(c)
				sh.valid.Prove(sh.valid.Epoch(), never)
				row.happens(c, sh)
				require.Equal(t, row.want, linkMode(sh.mode.Load()))
			})
		})
	}
}

func TestModeChangesAreToldInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newAway(t)
		var mu sync.Mutex
		var told []string
		slow := make(chan struct{})
		remove := c.OnModeChange(func(m ModeChange) {
			<-slow
			mu.Lock()
			defer mu.Unlock()
			told = append(told, fmt.Sprintf("%s>%s", m.From, m.To))
			if len(told) == 2 {
				panic("one of the user's own")
			}
		})
		sh := newShardOf(c)
		why := errors.New("gone")
		c.happened(sh, lost, why)
		c.happened(sh, lost, why) // no change
		c.happened(sh, back, nil)
		c.happened(sh, replayed, nil)
		close(slow)
		synctest.Wait()
		require.Equal(t, []string{"degraded>healthy", "healthy>degraded", "degraded>recovering", "recovering>healthy"}, told)
		require.EqualValues(t, 1, c.Stats().Outages)
		remove()
		c.happened(sh, lost, why)
		synctest.Wait()
		require.Len(t, told, 4)
	})
}

func TestHealthIsReadableAsJSON(t *testing.T) {
	text, err := json.Marshal(ShardHealth{Addr: "a:1", Mode: Recovering})
	require.NoError(t, err)
	require.Contains(t, string(text), `"Mode":"recovering"`)
	var back ShardHealth
	require.NoError(t, json.Unmarshal(text, &back))
	require.Equal(t, Recovering, back.Mode)
	require.ErrorIs(t, json.Unmarshal([]byte(`{"Mode":"well"}`), &back), ErrInvalidArgument)
}

// Who cannot reach Redis wants to know why.
func TestHealthSaysWhyRedisWasNeverReached(t *testing.T) {
	c, err := New(Options{Redis: rueidis.ClientOption{InitAddress: []string{"127.0.0.1:1"}}, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer c.Close()
	require.ErrorIs(t, c.Health().Err, errNeverReached)
	require.ErrorContains(t, c.Health().Err, "refused")
}

// newLooseLink makes a link that is not used: its shards are.
func newLooseLink() *link {
	return &link{up: linkHooks{Outage: func() func() []any { return nil }}}
}
