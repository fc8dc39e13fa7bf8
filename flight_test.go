package aside

import (
	"context"
	"errors"
	"hash/maphash"
	"log/slog"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"
)

// newAway returns a client that never reaches a Redis, for what a flight does in time. Call it in a
// synctest bubble.
func newAway(t *testing.T, change ...func(*Options)) *Client {
	t.Helper()
	options := Options{
		ClientBuilder: func(rueidis.ClientOption) (rueidis.Client, error) { return nil, errors.New("nobody is there") },
		Logger:        slog.New(slog.DiscardHandler),
	}
	for _, c := range change {
		c(&options)
	}
	c, err := New(options)
	require.NoError(t, err)
	t.Cleanup(func() {
		if err := c.Close(); err != nil { // what was set or deleted without Redis, and without a directory
			require.ErrorContains(t, err, "are lost")
		}
	})
	return c
}

func TestTheErrorOfALoaderAnswersNewCallersForFiftyMilliseconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newAway(t)
		broken := errors.New("broken")
		var calls atomic.Int32
		get := func() error {
			_, err := c.Get(t.Context(), time.Minute, "k", func(context.Context, string) (string, error) {
				calls.Add(1)
				return "", broken
			})
			return err
		}
		require.ErrorIs(t, get(), broken)
		time.Sleep((50 * time.Millisecond) - 1)
		require.ErrorIs(t, get(), broken)
		require.EqualValues(t, 1, calls.Load())
		require.Equal(t, 1, c.flights.count())
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.Zero(t, c.flights.count(), "no entry remains after the hold-off")
		require.ErrorIs(t, get(), broken)
		require.EqualValues(t, 2, calls.Load())
		// A write of this process ends the hold-off: the reason may be gone.
		require.ErrorIs(t, c.Del(t.Context(), "k"), ErrRedisAway)
		require.ErrorIs(t, get(), broken)
		require.EqualValues(t, 3, calls.Load())
	})
}

func TestALoadEndsAtItsDeadlineWhateverTheLoaderDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newAway(t, func(o *Options) { o.LoadTimeout = 7 * time.Second })
		release := make(chan struct{})
		for _, heed := range []bool{true, false} {
			began := time.Now()
			_, err := c.Get(t.Context(), time.Minute, "k", func(ctx context.Context, _ string) (string, error) {
				if heed {
					<-ctx.Done()
					return "", ctx.Err()
				}
				<-release
				return "late", nil
			})
			require.ErrorIs(t, err, ErrLoadTimeout)
			require.Equal(t, 7*time.Second, time.Since(began))
			time.Sleep((50 * time.Millisecond))
		}
		_, err := c.Get(t.Context(), time.Minute, "k", func(ctx context.Context, _ string) (string, error) {
			<-ctx.Done()
			return "", ctx.Err()
		}, WithLoadTimeout(time.Second))
		require.ErrorIs(t, err, ErrLoadTimeout)
		close(release)
		require.EqualValues(t, 3, c.Stats().LoadErrors)
	})
}

func TestAWaiterLeavesWithItsOwnContextAndTheOthersStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newAway(t)
		slow := func(ctx context.Context, _ string) (string, error) {
			select {
			case <-time.After(10 * time.Second):
				return "v", nil
			case <-ctx.Done():
				return "", ctx.Err()
			}
		}
		type end struct {
			after time.Duration
			value string
			err   error
		}
		ended := make(chan end, 3)
		began := time.Now()
		for _, patience := range []time.Duration{time.Second, 3 * time.Second, time.Minute} {
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				value, err := c.Get(ctx, time.Minute, "k", slow)
				ended <- end{time.Since(began), value, err}
			}()
		}
		require.Equal(t, end{time.Second, "", context.DeadlineExceeded}, <-ended)
		require.Equal(t, end{3 * time.Second, "", context.DeadlineExceeded}, <-ended)
		require.Equal(t, end{10 * time.Second, "v", nil}, <-ended)
		require.Zero(t, c.flights.count())
	})
}

// While Redis is away there is nobody to ask whether the key was changed: who joins a load late
// shares it all the same, or the database would be asked once per arrival.
func TestWithoutRedisLateCallersShareTheLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newAway(t)
		var calls atomic.Int32
		load := func(context.Context, string) (string, error) {
			calls.Add(1)
			time.Sleep(time.Second)
			return "v", nil
		}
		done := make(chan error)
		for i := range 10 {
			go func() {
				time.Sleep(time.Duration(i) * 50 * time.Millisecond)
				_, err := c.Get(t.Context(), time.Minute, "k", load)
				done <- err
			}()
		}
		for range 10 {
			require.NoError(t, <-done)
		}
		require.EqualValues(t, 1, calls.Load())
		// But not across a write of this process.
		require.ErrorIs(t, c.Del(t.Context(), "k"), ErrRedisAway) // else memory answers
		go func() {
			_, err := c.Get(t.Context(), time.Minute, "k", load)
			done <- err
		}()
		time.Sleep(100 * time.Millisecond)
		require.ErrorIs(t, c.Del(t.Context(), "k"), ErrRedisAway)
		_, err := c.Get(t.Context(), time.Minute, "k", load)
		require.NoError(t, err)
		require.NoError(t, <-done)
		require.EqualValues(t, 3, calls.Load())
	})
}

// A long ErrorTTL would else have as many errors in memory as there are keys that fail.
func TestErrorsThatAreHeldForLongAreBoundedInNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		fs := &flights{
			now:  func() int64 { return int64(time.Since(began)) + 1 },
			asks: func(string) bool { return true }, closing: t.Context(), seed: maphash.MakeSeed(), stripes: make([]flightStripe, 256),
		}
		fail := func(key string) {
			who := enterCall(t.Context())
			defer who.leave()
			ticket, err := fs.join(who, key, 0, nil)
			require.NoError(t, err)
			require.True(t, ticket.leader)
			ticket.f.load = &load{options: &callOptions{errorTTL: time.Hour}}
			ticket.f.told = true
			fs.complete(ticket.f, outcome{err: errors.New("broken")})
		}
		for i := range 3 * maxHeld * len(fs.stripes) {
			fail(strconv.Itoa(i))
		}
		require.Equal(t, 3*maxHeld*len(fs.stripes), fs.count(), "each is held for a moment")
		time.Sleep(2 * defaultErrorTTL)
		synctest.Wait()
		require.LessOrEqual(t, fs.count(), maxHeld*len(fs.stripes))
		require.Greater(t, fs.count(), maxHeld*len(fs.stripes)/2, "up to the bound they are held as long as was asked for")
		fs.dropErrors()
		require.Zero(t, fs.count())
		fail("k")
		time.Sleep(time.Minute)
		require.Equal(t, 1, fs.count(), "what was dropped makes room")
		fs.detach("k")
		for i := range fs.stripes {
			require.Zero(t, fs.stripes[i].held)
		}
	})
}
