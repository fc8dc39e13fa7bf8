package aside_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

// The black-box suite obtains its servers from internal/redistest: REDIS_ADDR, a redis-server binary, or a container.

func TestMain(m *testing.M) {
	if role := os.Getenv(childRole); role != "" {
		os.Exit(runChild(role))
	}
	// rueidis sleeps for a second before it looks at a topology again that it could not read, and for five before it closes
	// the connections to nodes that have left, whether it is closed or not. Whatever else is left is ours.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*call).DelayDo.func1"),
		goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*clusterClient)._refresh.func2"),
		goleak.IgnoreAnyFunction("github.com/vmihailenco/msgpack/v5.cachedValue.func1")) // one for each type with an embedded pointer, for good
}

// patience bounds every wait of a test for something that has to happen. It proves nothing about speed.
const patience = 20 * time.Second

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// stored waits until what c has loaded for keys is in Redis. Get does not, so a test must that goes on to look there.
func stored(t testing.TB, c *aside.Client, keys ...string) {
	t.Helper()
	_, err := c.LookMulti(testContext(t), keys)
	require.NoError(t, err)
}

var quiet = slog.New(slog.DiscardHandler)

// newClient makes a client of the server at addr, ready to ask it, and closes it when the test ends.
func newClient(t testing.TB, addr string, change ...func(*aside.Options)) *aside.Client {
	t.Helper()
	options := aside.Options{
		Redis:          rueidis.ClientOption{InitAddress: []string{addr}},
		ConnectTimeout: patience,
		RequireRedis:   true,
		RedisTimeout:   2 * time.Second, // a loaded machine must not look like an outage; the tests of outages set their own
		LockTTL:        10 * time.Second,
		StaleLease:     5 * time.Second,
		Logger:         quiet,
	}
	for _, c := range change {
		c(&options)
	}
	client, err := aside.New(options)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	return client
}

// plain is the plainest way to connect.
func plain(addr string) rueidis.ClientOption {
	return rueidis.ClientOption{InitAddress: []string{addr}}
}

func untracked(o *aside.Options) { o.Redis.DisableCache = true }

// counted puts a proxy before the server that counts what callers send, not what the prober or a handshake does.
func counted(t testing.TB, server *redistest.Server) *faultproxy.Proxy {
	t.Helper()
	proxy := faultproxy.New(t, server.Addr())
	proxy.Ignore("PING", "TIME", "HELLO", "CLIENT", "CLUSTER")
	return proxy
}

// source is where values really live: a loader that counts, and that a test can hold up.
type source struct {
	calls atomic.Int64

	mu    sync.Mutex
	value string
	err   error
	hold  chan struct{} // a call waits until it is closed; nil: it does not

	began chan string // gets the key of each call, if there is room
}

func newSource(value string) *source { return &source{value: value, began: make(chan string, 1024)} }

func (s *source) set(value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.value = value
}

func (s *source) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// holdUp makes calls wait, after they have read the value, until the returned function is called.
func (s *source) holdUp() (letGo func()) {
	hold := make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hold = hold
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.hold = nil
		close(hold)
	})
}

func (s *source) load(ctx context.Context, key string) (string, error) {
	s.calls.Add(1)
	s.mu.Lock()
	value, err, hold := s.value, s.err, s.hold
	s.mu.Unlock()
	select {
	case s.began <- key:
	default:
	}
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	return value, err
}

// loadMany is the source for a batch: every key has the value.
func (s *source) loadMany(ctx context.Context, keys []string) (map[string]string, error) {
	value, err := s.load(ctx, fmt.Sprint(len(keys)))
	values := make(map[string]string, len(keys))
	for _, key := range keys {
		values[key] = value
	}
	return values, err
}

// awaitBegin waits until a loader call has begun.
func (s *source) awaitBegin(t testing.TB) {
	t.Helper()
	select {
	case <-s.began:
	case <-time.After(patience):
		t.Fatal("no loader was called")
	}
}

func mustNotLoad(context.Context, string) (string, error) {
	return "", fmt.Errorf("the loader was called")
}

// result is what came of a call in the background.
type result struct {
	value string
	err   error
}

// inBackground calls get in a goroutine of its own.
func inBackground(get func() (string, error)) <-chan result {
	done := make(chan result, 1)
	go func() {
		value, err := get()
		done <- result{value, err}
	}()
	return done
}

func await[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

// eventually waits for what another process or server does in its own time.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// awaitShared waits until n callers share a flight of c, or lead it.
func awaitShared(t testing.TB, c *aside.Client, n int64) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d callers share a flight", n), func() bool { return c.Stats().Shared >= n })
}

// awaitNobody waits until nobody waits any more, and all that was loaded is stored. It asks nobody.
func awaitNobody(t testing.TB, c *aside.Client) {
	t.Helper()
	eventually(t, "nobody waits", func() bool { return c.Stats().Waiting == 0 })
}

// oldRedis says that the server has no GETEX (before 6.2), so that it pushes a fill back to who made it: right, at the price
// of a read more.
func oldRedis(server *redistest.Server) bool {
	return server.Name() == "redis" && (strings.HasPrefix(server.Version(), "6.0.") || strings.HasPrefix(server.Version(), "6.1."))
}

// keysOf returns the keys of a server, but for those of probes.
func keysOf(server *redistest.Server) (keys []string) {
	all, _ := server.Do("KEYS", "*").([]any)
	for _, key := range all {
		if key := fmt.Sprint(key); !strings.HasPrefix(key, "aside:probe") {
			keys = append(keys, key)
		}
	}
	return keys
}

// containsLibrary says whether a CLIENT LIST has a connection of ours.
func containsLibrary(list string) bool {
	return strings.Contains(list, "lib-name=rueidis") || strings.Contains(list, "cmd=client|tracking")
}
