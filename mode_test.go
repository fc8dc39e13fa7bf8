package aside

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/link"
)

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
	require.ErrorIs(t, c.Health().Err, link.ErrNeverReached)
	require.ErrorContains(t, c.Health().Err, "refused")
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
		change := func(from, to Mode) { c.modeChanged(link.ModeChange{From: link.Mode(from), To: link.Mode(to)}) }
		change(Degraded, Healthy)
		change(Healthy, Degraded)
		change(Degraded, Recovering)
		change(Recovering, Healthy)
		close(slow)
		synctest.Wait()
		require.Equal(t, []string{"degraded>healthy", "healthy>degraded", "degraded>recovering", "recovering>healthy"}, told)
		remove()
		change(Healthy, Degraded)
		synctest.Wait()
		require.Len(t, told, 4)
	})
}
