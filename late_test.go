package aside_test

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/redistest"
)

// lateClient does not answer some questions for a key in time.
type lateClient struct {
	rueidis.Client
	key  string
	late atomic.Int32 // how many more
}

func (c *lateClient) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	ask := cmd.Commands() // with a marker, and more behind it than to give it back
	if len(ask) > 6 && slices.Contains(ask, c.key) && slices.ContainsFunc(ask, isMarker) && c.late.Add(-1) >= 0 {
		<-ctx.Done() // then it is not even sent
	}
	return c.Client.Do(ctx, cmd)
}

func isMarker(arg string) bool { return len(arg) > 12 && arg[:12] == "\x00aside:lock:" }

// With one question for a key that nobody answered in time there would be a load beside the holder's.
func TestOneLateAnswerIsNoSecondLoad(t *testing.T) {
	server := redistest.Start(t)
	for _, test := range []struct {
		name  string
		late  int32
		loads int64
	}{{"one late answer", 1, 0}, {"two in a row", 2, 1}} {
		for _, many := range []bool{false, true} {
			t.Run(test.name+map[bool]string{true: ", GetMulti"}[many], func(t *testing.T) {
				server.Empty()
				holder, db := newClient(t, server.Addr()), newSource("the holder's")
				letGo := db.holdUp()
				held := inBackground(func() (string, error) { return holder.Get(testContext(t), time.Minute, "k", db.load) })
				db.awaitBegin(t)

				late := &lateClient{key: "k"}
				c := newClient(t, server.Addr(), func(o *aside.Options) {
					o.RedisTimeout = 100 * time.Millisecond
					o.ClientBuilder = func(option rueidis.ClientOption) (rueidis.Client, error) {
						redis, err := rueidis.NewClient(option)
						late.Client = redis
						return late, err
					}
				})
				late.late.Store(test.late)
				other := newSource("another")
				got := inBackground(func() (string, error) {
					if many {
						values, err := c.GetMulti(testContext(t), time.Minute, []string{"k"}, other.loadMany)
						return values["k"], err
					}
					return c.Get(testContext(t), time.Minute, "k", other.load)
				})
				if test.loads == 0 {
					eventually(t, "it waits for the holder", func() bool { return c.Stats().LockWaits > 0 })
				} else {
					require.Equal(t, result{value: "another"}, await(t, got))
				}
				letGo()
				require.Equal(t, result{value: "the holder's"}, await(t, held))
				if test.loads == 0 {
					require.Equal(t, result{value: "the holder's"}, await(t, got))
				}
				require.Equal(t, test.loads, other.calls.Load())
			})
		}
	}
}
