// Package harness is what the black-box tests of aside share: a client that is ready, a source of
// values that a test can hold up, and waiting for events instead of sleeping.
package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/faultproxy"
)

// Patience bounds what a client waits for on behalf of a test, which has to happen. It proves nothing
// about speed.
const Patience = 20 * time.Second

// longest bounds every wait of a test itself: on a machine that has much else to do, three probes in a
// row that are answered in time may be long in coming.
const longest = 3 * Patience

// Quiet logs nothing.
var Quiet = slog.New(slog.DiscardHandler)

// Buffer keeps what is written to it. The zero Buffer is empty. Safe for concurrent use.
type Buffer struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// Context ends after nine times Patience, as a test may wait for several things, and with the test.
func Context(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*longest)
	t.Cleanup(cancel)
	return ctx
}

// NewClient makes a client of the server at addr, ready to ask it, and closes it when the test
// ends.
func NewClient(t testing.TB, addr string, change ...func(*aside.Options)) *aside.Client {
	t.Helper()
	options := aside.Options{
		Redis:          rueidis.ClientOption{InitAddress: []string{addr}},
		ConnectTimeout: Patience,
		RequireRedis:   true,
		RedisTimeout:   2 * time.Second, // a loaded machine must not look like an outage; the tests of outages set their own
		LockTTL:        10 * time.Second,
		StaleLease:     5 * time.Second,
		Logger:         Quiet,
	}
	for _, c := range change {
		c(&options)
	}
	client, err := aside.New(options)
	require.NoError(t, err)
	t.Cleanup(func() { Close(t, client, options.FallbackDir) })
	return client
}

// Hasty are the options of a client that is to notice an outage while a test runs, and not to take a
// starved process for one.
func Hasty(o *aside.Options) {
	o.RedisTimeout, o.LockTTL, o.StaleLease = time.Second, 2*time.Second, time.Second
}

// Forgetful clients serve nothing unverified.
func Forgetful(o *aside.Options) { o.DegradedTTL = 1 }

// Untracked clients have no pushes, and so no memory.
func Untracked(o *aside.Options) { o.Redis.DisableCache = true }

// Counted puts a proxy before the server at addr that counts what callers send, not what the prober
// or a handshake does.
func Counted(t testing.TB, addr string) *faultproxy.Proxy {
	t.Helper()
	proxy := faultproxy.New(t, addr)
	proxy.Ignore("PING", "TIME", "HELLO", "CLIENT", "CLUSTER")
	return proxy
}

// Stored waits until what c has loaded for keys is in Redis. Get does not, so a test must that goes
// on to look there. A hasty client may take a busy machine for an outage: then it asks again.
func Stored(t testing.TB, c *aside.Client, keys ...string) {
	t.Helper()
	ctx := Context(t)
	Eventually(t, "what was loaded is stored", func() bool {
		_, err := c.LookMulti(ctx, keys)
		if !errors.Is(err, aside.ErrRedisAway) {
			require.NoError(t, err)
		}
		return err == nil
	})
}

// Result is what came of a call in the background.
type Result struct {
	Value string
	Err   error
}

// InBackground calls get in a goroutine of its own.
func InBackground(get func() (string, error)) <-chan Result {
	done := make(chan Result, 1)
	go func() {
		value, err := get()
		done <- Result{value, err}
	}()
	return done
}

// Await returns what comes from ch.
func Await[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(longest):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

// Eventually waits for what another process or server does in its own time.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(longest); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// AwaitShared waits until n callers share a flight of c, or lead it.
func AwaitShared(t testing.TB, c *aside.Client, n int64) {
	t.Helper()
	Eventually(t, fmt.Sprintf("%d callers share a flight", n), func() bool { return c.Stats().Shared >= n })
}

// AwaitNobody waits until nobody waits any more, and all that was loaded is stored. It sends no
// command.
func AwaitNobody(t testing.TB, c *aside.Client) {
	t.Helper()
	Eventually(t, "nobody waits", func() bool { return c.Stats().Waiting == 0 })
}

// AwaitMode waits until the worst shard of c is in that mode.
func AwaitMode(t testing.TB, c *aside.Client, mode aside.Mode) {
	t.Helper()
	Eventually(t, "it is "+mode.String(), func() bool { return c.Health().Mode == mode })
}

// Allocations is testing.AllocsPerRun of what a call needs by itself: the least of some attempts, as the
// client's own goroutines allocate, too, and more of that falls into an attempt the slower the machine is.
func Allocations(runs int, call func()) (least float64) {
	least = testing.AllocsPerRun(runs, call)
	for range 9 {
		if least == 0 {
			break
		}
		least = min(least, testing.AllocsPerRun(runs, call))
	}
	return least
}
