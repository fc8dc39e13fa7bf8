package aside_test

import (
	"crypto/tls"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

func TestAnAddressThatIsNoneIsRefusedWithTheRecipe(t *testing.T) {
	for address, remedy := range map[string]string{
		"redis://127.0.0.1:6379":        `rueidis.ParseURL("redis://…")`,
		"rediss://app:secret@cache:1/0": `rueidis.ParseURL("rediss://…")`,
		"unix:///run/redis.sock":        `rueidis.ParseURL("unix://…")`,
		"/run/redis.sock":               `rueidis.ParseURL("unix:///path")`,
		"127.0.0.1":                     "missing port",
		"cache":                         "missing port",
		"::1":                           "[::1]:6379",
		"127.0.0.1:6379 ":               "without spaces",
		" 127.0.0.1:6379":               "without spaces",
		"a:1 b:2":                       "without spaces",
		"a:1,b:2":                       "several addresses",
		"user:secret@cache:6379":        "host:port",
		"cache:":                        "is no port",
		"cache:0":                       "is no port",
		"cache:65536":                   "is no port",
		"cache:no-such-service":         "is no port",
		"":                              "leave the list empty",
	} {
		_, err := aside.New(aside.Options{Redis: plain(address), Logger: quiet})
		require.Error(t, err, address)
		require.ErrorContains(t, err, "aside: Options.Redis.InitAddress is [")
		require.ErrorContains(t, err, remedy, address)
		require.NotContains(t, err.Error(), "secret", address)
	}
	for _, address := range []string{"127.0.0.1:1", "localhost:1", "[::1]:1", ":1", "localhost:http"} {
		c, err := aside.New(aside.Options{Redis: plain(address), Logger: quiet, ConnectTimeout: time.Millisecond})
		require.NoError(t, err, address)
		require.NoError(t, c.Close())
	}
	option := plain("anything that my dialer takes")
	option.DialFn = func(string, *net.Dialer, *tls.Config) (net.Conn, error) { return nil, net.ErrClosed }
	c, err := aside.New(aside.Options{Redis: option, Logger: quiet, ConnectTimeout: time.Millisecond})
	require.NoError(t, err)
	require.NoError(t, c.Close())
}

// Whoever comes to the wrong door is told which it is.
func TestWhyRedisCannotBeReachedIsSaid(t *testing.T) {
	t.Parallel()
	secure := redistest.Start(t, redistest.WithTLS())
	open := redistest.Start(t)
	full := redistest.Start(t, redistest.WithReplication()) // without a proxy before it
	full.Do("CONFIG", "SET", "maxclients", "1")
	held, err := net.Dial("tcp", full.Addr())
	require.NoError(t, err)
	t.Cleanup(func() { held.Close() })
	eventually(t, "it is full", func() bool { _, err := full.TryDo("PING"); return err != nil })
	for name, row := range map[string]struct {
		option rueidis.ClientOption
		says   string
	}{
		"a plain client at a TLS port": {plain(secure.Addr()), "speaks TLS"},
		"a TLS client at a plain port": {rueidis.ClientOption{InitAddress: []string{open.Addr()}, TLSConfig: secure.TLSConfig()}, "speaks no TLS"},
		"a server that is full":        {plain(full.Addr()), "max number of clients"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if name == "a server that is full" && strings.HasPrefix(full.Version(), "6.") {
				return // it says so and closes at once, and the answer gets lost
			}
			var log logged
			c, err := aside.New(aside.Options{Redis: row.option, Logger: slogTo(&log), ConnectTimeout: 2 * time.Second})
			require.NoError(t, err)
			defer c.Close()
			eventually(t, "it is said", func() bool { return strings.Contains(errorText(c.Health().Err), row.says) })
			require.ErrorContains(t, c.Health().Err, row.option.InitAddress[0])
			require.Equal(t, aside.Degraded, c.Health().Mode)
			time.Sleep(300 * time.Millisecond) // several attempts
			log.await(t, 1, "level=WARN", row.says, "address="+row.option.InitAddress[0])
			log.await(t, 1, "level=WARN")

			_, err = aside.New(aside.Options{Redis: row.option, Logger: quiet, RequireRedis: true, ConnectTimeout: 2 * time.Second})
			require.ErrorContains(t, err, row.says)
		})
	}
}

// A server that is far away: the handshake of TLS, HELLO and a command take a round trip each, at
// the start and when the connection was lost.
func TestAServerThatIsFarAwayIsReached(t *testing.T) {
	t.Parallel() // it waits more than it works
	for _, secure := range []bool{false, true} {
		var options []redistest.Option
		if secure {
			options = append(options, redistest.WithTLS())
		}
		server := redistest.Start(t, options...)
		proxy := faultproxy.New(t, server.Addr())
		proxy.Delay(65 * time.Millisecond)
		c, err := aside.New(aside.Options{Redis: rueidis.ClientOption{InitAddress: []string{proxy.Addr()}, TLSConfig: tlsOf(server, secure)}, Logger: quiet,
			ConnectTimeout: patience, RedisTimeout: 500 * time.Millisecond}) // a script that is not known yet takes two round trips
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		reached := func() bool { // a write of a busy machine may be too late, and is kept: then a later one is done
			return c.Health().Mode == aside.Healthy && c.Set(testContext(t), time.Minute, "k", "v") == nil
		}
		eventually(t, "it is reached", reached)
		for range 2 {
			proxy.Reset()
			eventually(t, "it is back", reached)
		}
		require.NoError(t, c.Close())
	}
}

func tlsOf(server *redistest.Server, secure bool) *tls.Config {
	if !secure {
		return nil
	}
	return server.TLSConfig()
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// What the log says of a start, an outage and its end.
func TestTheLogOfAnOutage(t *testing.T) {
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	_, option := durable(t)
	var log logged
	c, ctx := newClient(t, proxy.Addr(), hasty, option, log.option), testContext(t)
	log.await(t, 1, "level=INFO", `msg="aside: connected"`, "address="+proxy.Addr())
	require.Empty(t, log.lines("from=degraded"))
	proxy.Refuse()
	awaitMode(t, c, aside.Degraded)
	require.NoError(t, c.Set(ctx, time.Minute, "k", "v"))
	log.await(t, 1, "level=WARN", "Redis is away", "address="+proxy.Addr(), "error=")
	proxy.Heal()
	awaitMode(t, c, aside.Healthy)
	log.await(t, 1, "level=INFO", "replayed what Redis has missed", "address="+proxy.Addr(), "after=", "applied=1", "refused=0", "restarted=false")
	log.await(t, 1, "level=INFO", "Redis is well", "address="+proxy.Addr(), "after=", "from=recovering to=healthy")
}

// Health has the cause of now, not the first.
func TestHealthHasThePresentCause(t *testing.T) {
	server := redistest.Start(t)
	proxy := faultproxy.New(t, server.Addr())
	c := newClient(t, proxy.Addr(), hasty)
	proxy.Refuse()
	eventually(t, "refused", func() bool { return strings.Contains(errorText(c.Health().Err), "refused") })
	server.Do("REPLICAOF", "127.0.0.1", "1")
	proxy.Heal()
	eventually(t, "a replica", func() bool { return strings.Contains(errorText(c.Health().Err), "READONLY") })
	require.NotContains(t, errorText(c.Health().Err), "does not answer")
	server.Do("REPLICAOF", "NO", "ONE")
	awaitMode(t, c, aside.Healthy)
	require.NoError(t, c.Health().Err)
}
