package benchmarks

import (
	"context"
	"log/slog"
	"runtime"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside"
	"github.com/redaside/aside/benchmarks/internal/bench"
	"github.com/redaside/aside/codec"
)

func TestMain(m *testing.M) { bench.Main(m) }

// users is a client under measurement, as its user sees it.
type users interface {
	get(ctx context.Context, key string, load func(context.Context, string) (bench.User, error)) (bench.User, error)
	// Get is the same for what is stored, without a codec: for what a round trip costs, which a
	// codec would blur on both sides.
	Get(ctx context.Context, key string, load func(context.Context, string) (string, error)) (string, error)
	// stored waits until what get has loaded for key is in Redis: aside's does not.
	stored(ctx context.Context, key string) error
	Close() error
}

type asideUsers struct {
	*aside.Client
	typed *aside.TypedClient[bench.User]
}

func newAside(tb testing.TB, addr string, change ...func(*aside.Options)) *asideUsers {
	tb.Helper()
	o := aside.Options{
		Redis:        rueidis.ClientOption{InitAddress: []string{addr}},
		RequireRedis: true,
		RedisTimeout: time.Second,                   // a machine that stands still for a moment is no outage
		Logger:       slog.New(slog.DiscardHandler), // a line in the middle of a result would hide it from benchstat
	}
	for _, one := range change {
		one(&o)
	}
	c, err := aside.New(o)
	if err != nil {
		tb.Fatal(err)
	}
	return &asideUsers{Client: c, typed: aside.Typed(c, codec.JSON[bench.User]())}
}

func (a *asideUsers) get(ctx context.Context, key string, load func(context.Context, string) (bench.User, error)) (bench.User, error) {
	return a.typed.Get(ctx, bench.TTL, key, load)
}

func (a *asideUsers) Get(ctx context.Context, key string, load func(context.Context, string) (string, error)) (string, error) {
	return a.Client.Get(ctx, bench.TTL, key, load)
}

func (a *asideUsers) stored(ctx context.Context, key string) error {
	_, _, err := a.Peek(ctx, key)
	return err
}

// newUsers makes a client by the name that stands in the result.
var newUsers = map[string]func(tb testing.TB, addr string) users{
	"aside":          func(tb testing.TB, addr string) users { return newAside(tb, addr) },
	"rueidisaside":   newRueidisaside,
	"go-redis-cache": newGoRedisUsers,
	"sturdyc":        newSturdyc,
}

// callers makes RunParallel run this many goroutines.
func callers(b *testing.B, n int) { b.SetParallelism(max(1, n/runtime.GOMAXPROCS(0))) }

// settle gives each measurement the same start: no garbage of what was prepared for it.
func settle(b *testing.B) {
	runtime.GC()
	b.ResetTimer()
}

func trivial(_ context.Context, _ string) (bench.User, error) { return bench.NewUser(1), nil }

// raw is what a user looks like in Redis.
var raw = bench.Encode(bench.NewUser(1))

func trivialRaw(_ context.Context, _ string) (string, error) { return raw, nil }

func must(tb testing.TB, err error) {
	if err != nil {
		tb.Helper()
		tb.Error(err)
	}
}
