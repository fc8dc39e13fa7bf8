package aside_test

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"go.uber.org/goleak"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/harness"
	"github.com/redaside/aside/internal/redistest"
)

// The black-box suite obtains its servers from internal/redistest: REDIS_ADDR, a redis-server
// binary, or a container.

func TestMain(m *testing.M) {
	if role := os.Getenv(childRole); role != "" {
		os.Exit(runChild(role))
	}
	// What runs in parallel waits, for clusters and outages: unless somebody says how much, more of
	// it than processors.
	flag.Parse()
	if n := runtime.GOMAXPROCS(0); n < 4 && flag.Lookup("test.parallel").Value.String() == fmt.Sprint(n) {
		if err := flag.Set("test.parallel", "4"); err != nil {
			panic(err)
		}
	}
	// rueidis sleeps for a second before it looks at a topology again that it could not read, and
	// for five before it closes the connections to nodes that have left, whether it is closed or
	// not. Whatever else is left is ours.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*call).DelayDo.func1"),
		goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*clusterClient)._refresh.func2"),
		goleak.IgnoreAnyFunction("github.com/vmihailenco/msgpack/v5.cachedValue.func1")) // one for each type with an embedded pointer, for good
}

// What tests share with those of other packages.
const patience = harness.Patience

type (
	source = harness.Source
	result = harness.Result
)

var (
	quiet       = harness.Quiet
	testContext = harness.Context
	newClient   = harness.NewClient
	newSource   = harness.NewSource
	mustNotLoad = harness.MustNotLoad

	hasty     = harness.Hasty
	forgetful = harness.Forgetful
	untracked = harness.Untracked

	durable     = harness.Durable
	newDurable  = harness.NewDurable
	files       = harness.Files
	closeClient = harness.Close

	inBackground = harness.InBackground
	eventually   = harness.Eventually
	stored       = harness.Stored
	awaitShared  = harness.AwaitShared
	awaitNobody  = harness.AwaitNobody
	awaitMode    = harness.AwaitMode
	allocations  = harness.Allocations
)

// patient are the options of a client to which a machine that stops for seconds is no outage, and which
// looks for no lock of a load in that time.
func patient(o *aside.Options) {
	o.RedisTimeout, o.LockTTL, o.StaleLease = 20*time.Second, time.Minute, time.Minute
}

func await[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	return harness.Await(t, ch)
}

// plain is the plainest way to connect.
func plain(addr string) rueidis.ClientOption {
	return rueidis.ClientOption{InitAddress: []string{addr}}
}

func counted(t testing.TB, server *redistest.Server) *faultproxy.Proxy {
	t.Helper()
	return harness.Counted(t, server.Addr())
}

// oldRedis says that the server has no GETEX (before 6.2), so that it pushes a fill back to who
// made it: right, at the price of a read more.
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

// containsLibrary reports whether a CLIENT LIST has a connection of ours.
func containsLibrary(list string) bool {
	return strings.Contains(list, "lib-name=rueidis") || strings.Contains(list, "cmd=client|tracking")
}

// crowd counts what runs at once.
type crowd struct{ running, most atomic.Int64 }

// enter counts one more until leave.
func (c *crowd) enter() (leave func()) {
	n := c.running.Add(1)
	for was := c.most.Load(); n > was && !c.most.CompareAndSwap(was, n); was = c.most.Load() {
	}
	return func() { c.running.Add(-1) }
}
