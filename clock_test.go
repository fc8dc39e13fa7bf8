package aside_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

// What stands in between may answer TIME itself, by another clock or in other units. What is
// written goes by the clock of the scripts.
func TestAnotherClockThanThatOfTheScriptsIsNotBelieved(t *testing.T) {
	t.Parallel() // it waits more than it works
	for name, answer := range map[string]func() string{
		"behind":       func() string { return timeReply(time.Now().Add(-time.Hour)) },
		"ahead":        func() string { return timeReply(time.Now().Add(time.Hour)) },
		"a day ahead":  func() string { return timeReply(time.Now().Add(24 * time.Hour)) },
		"milliseconds": func() string { return fmt.Sprintf("*2\r\n$13\r\n%d\r\n$7\r\n1000000\r\n", time.Now().UnixMilli()) },
		"one number":   func() string { return fmt.Sprintf(":%d\r\n", time.Now().Unix()) },
		"refused":      func() string { return "-ERR unknown command 'TIME'\r\n" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			front := between(t, func(args []string) (int, string) {
				if verb(args) == "TIME" {
					return 0, answer()
				}
				return 0, ""
			}, server.Addr())
			proxy := faultproxy.New(t, front)
			a, ctx := newClient(t, proxy.Addr(), hasty), testContext(t)
			b := newClient(t, server.Addr(), hasty)
			require.NoError(t, a.Set(ctx, time.Minute, "k", "1"))
			require.NoError(t, a.Del(ctx, "k"))
			require.NoError(t, a.Touch(ctx, time.Minute, "k"))
			require.NoError(t, a.Set(ctx, time.Minute, "k", "2"))
			require.NoError(t, a.Health().Err)

			// Another process's Set, made while it was cut off and after this one, is newer.
			cut := faultproxy.New(t, server.Addr())
			late := newClient(t, cut.Addr(), hasty)
			cut.Refuse()
			awaitMode(t, late, aside.Degraded)
			time.Sleep(250 * time.Millisecond) // beyond the error that clocks are reckoned with
			require.ErrorIs(t, late.Set(ctx, time.Minute, "k", "3"), aside.ErrNotDurable)
			cut.Heal()
			eventually(t, "it is replayed", func() bool { return late.Stats().Pending == 0 })
			value, ok, err := b.Peek(ctx, "k")
			require.NoError(t, err)
			require.True(t, ok)
			require.Equal(t, "3", value)
		})
	}
}

func timeReply(now time.Time) string {
	s, us := fmt.Sprint(now.Unix()), fmt.Sprint(now.Nanosecond()/1000)
	return fmt.Sprintf("*2\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n", len(s), s, len(us), us)
}

// Where the clock that is shown to the prober is not the one by which writes are done, none is done
// at a wrong time, all are kept, and it is said.
func TestAWriteByAnotherClockIsRefusedAndSaid(t *testing.T) {
	for name, off := range map[string]time.Duration{"behind": -time.Hour, "ahead": time.Hour} {
		t.Run(name, func(t *testing.T) {
			server := redistest.Start(t)
			var lies atomic.Bool
			lies.Store(true)
			front := between(t, func(args []string) (int, string) {
				if lies.Load() && strings.HasPrefix(verb(args), "EVAL") && args[len(args)-1] == "aside:probe" {
					return 0, timeReply(time.Now().Add(off))
				}
				return 0, ""
			}, server.Addr())
			c, ctx := newClient(t, front, hasty), testContext(t)
			require.NoError(t, c.Health().Err)
			err := c.Set(ctx, time.Minute, "k", "v")
			require.ErrorIs(t, err, aside.ErrNotDurable)
			require.ErrorIs(t, err, aside.ErrRedisAway)
			require.ErrorContains(t, err, "another clock")
			require.Nil(t, server.Do("GET", "k"))
			require.ErrorIs(t, c.Touch(ctx, time.Minute, "other"), aside.ErrRedisAway)
			require.Equal(t, aside.Healthy, c.Health().Mode)
			require.ErrorContains(t, c.Health().Err, "another clock")
			require.ErrorContains(t, c.Health().Shards[0].Err, "another clock")

			lies.Store(false)
			eventually(t, "it is replayed, and all is well", func() bool { return c.Stats().Pending == 0 && c.Health().Err == nil })
			require.Nil(t, server.Do("GET", "k"), "when it was made, and when it ends, nobody knows: a delete")
			require.NoError(t, c.Set(ctx, time.Minute, "k", "new"))
			require.Equal(t, "new", server.Do("GET", "k"))
		})
	}
}

// A clock that cannot be read is no clock.
func TestAnOddTimeIsNoTime(t *testing.T) {
	for name, answer := range map[string]string{
		"a million microseconds": "*2\r\n$10\r\n1764166000\r\n$7\r\n1000000\r\n",
		"three elements":         "*3\r\n:1764166000\r\n:1\r\n:1\r\n",
		"one element":            "*1\r\n:1764166000\r\n",
		"no number":              "*2\r\n+now\r\n:1\r\n",
		"before time began":      "*2\r\n:-5\r\n:1\r\n",
		"milliseconds":           "*2\r\n:1764166000000\r\n:1\r\n",
		"text":                   "+soon\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			server := redistest.Start(t)
			front := between(t, func(args []string) (int, string) {
				if strings.HasPrefix(verb(args), "EVAL") && args[len(args)-1] == "aside:probe" {
					return 0, answer
				}
				return 0, ""
			}, server.Addr())
			c := newClient(t, front, hasty, func(o *aside.Options) { o.RequireRedis = false })
			require.Equal(t, aside.Degraded, c.Health().Mode)
			require.Error(t, c.Health().Err)
			require.NotErrorIs(t, c.Health().Err, aside.ErrClosed)
		})
	}
}
