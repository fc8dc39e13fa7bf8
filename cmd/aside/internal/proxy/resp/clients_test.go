package resp

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"math/big"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/redistest"
)

// The clients that people have.

// tool returns a function that runs one of Redis's own programs against addr.
func tool(t testing.TB, name, addr string) func(stdin string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		redistest.Skip(t, name+" is not installed: apt-get install redis-tools")
	}
	host, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	return func(stdin string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(testContext(t), path, append([]string{"-h", host, "-p", port}, args...)...)
		cmd.Stdin = strings.NewReader(stdin)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		require.NoError(t, cmd.Run(), out.String())
		return strings.TrimSuffix(out.String(), "\n")
	}
}

func TestRedisCLIWorks(t *testing.T) {
	store, _ := newStore(t, redistest.Start(t).Addr(), "")
	_, addr := serve(t, store, Options{Password: "s3cret"})
	cli := tool(t, "redis-cli", addr)
	require.Contains(t, cli("", "PING"), "NOAUTH")
	for i, version := range []string{"-2", "-3"} {
		run := func(args ...string) string {
			return cli("", append([]string{version, "--no-auth-warning", "-a", "s3cret"}, args...)...)
		}
		require.Equal(t, "OK", run("SET", "key", "a value", "EX", "100"))
		require.Equal(t, "a value", run("GET", "key"))
		require.Equal(t, "100", run("TTL", "key"))
		require.Equal(t, "1", run("DEL", "key"))
		require.Empty(t, run("GET", "key"))
		require.Contains(t, run("INFO"), "aside_mode:healthy")
		require.Contains(t, run("INFO", "stats"), fmt.Sprintf("keyspace_misses:%d\r", i+1))
		require.Contains(t, run("INFO", "server"), "redis_version:7")
		require.NotContains(t, run("INFO", "server"), "aside_mode")
		require.Contains(t, run("COMMAND", "DOCS", "get"), "Returns the value of a key.")
		require.Equal(t, strconv.Itoa(len(commands)), run("COMMAND", "COUNT"))
		require.Contains(t, run("COMMAND"), "psetex")
		require.Contains(t, run("CLIENT", "LIST"), "addr=127.0.0.1")
		require.Contains(t, run("CLIENT", "INFO"), "addr=127.0.0.1")
		var settings any
		require.NoError(t, json.Unmarshal([]byte(run("--json", "CONFIG", "GET", "*")), &settings))
		require.Equal(t, "no", lookup(settings, "appendonly"))
	}
	many := cli("SET a 1\nINCR a\nGET a\nnonsense\n", "--no-auth-warning", "-a", "s3cret")
	require.Equal(t, "OK\n2\n2\nERR unknown command 'nonsense', with args beginning with: \n", many)
}

// lookup reads a setting from what CONFIG GET is in JSON: an object, or, from RESP2, a list.
func lookup(settings any, name string) any {
	if object, ok := settings.(map[string]any); ok {
		return object[name]
	}
	list := settings.([]any)
	for i := 0; i < len(list); i += 2 {
		if list[i] == name {
			return list[i+1]
		}
	}
	return nil
}

func TestRedisBenchmarkWorks(t *testing.T) {
	store, _ := newStore(t, redistest.Start(t).Addr(), "")
	s, addr := serve(t, store, Options{})
	out := tool(t, "redis-benchmark", addr)("", "-t", "ping,set,get,incr,mset", "-n", "2000", "-P", "16", "-c", "10", "-r", "100", "-q")
	for _, name := range []string{"PING_INLINE", "PING_MBULK", "SET", "GET", "INCR", "MSET (10 keys)"} {
		require.Regexp(t, `(?m)\b`+strings.NewReplacer("(", `\(`, ")", `\)`).Replace(name)+`: [0-9.]+ requests per second`, strings.ReplaceAll(out, "\r", "\n"))
	}
	require.NotContains(t, out, "WARNING")
	require.NotContains(t, out, "rror")
	require.GreaterOrEqual(t, s.Stats().Commands, int64(12_000))
	require.Zero(t, s.Stats().Failed)
}

func TestGoRedisWorks(t *testing.T) {
	server := redistest.Start(t)
	store, _ := newStore(t, server.Addr(), "")
	_, addr := serve(t, store, Options{Password: "s3cret"})
	for _, protocol := range []int{2, 3} {
		t.Run(fmt.Sprint("RESP", protocol), func(t *testing.T) {
			server.Empty()
			c, ctx := goredis.NewClient(&goredis.Options{Addr: addr, Password: "s3cret", Protocol: protocol, ClientName: "tester"}), testContext(t)
			defer c.Close()
			require.NoError(t, c.Set(ctx, "a", "1", time.Minute).Err())
			require.Equal(t, "1", c.Get(ctx, "a").Val())
			require.ErrorIs(t, c.Get(ctx, "none").Err(), goredis.Nil)
			require.InDelta(t, 60, c.TTL(ctx, "a").Val().Seconds(), 2)
			require.True(t, c.SetNX(ctx, "lock", "me", time.Minute).Val())
			require.False(t, c.SetNX(ctx, "lock", "you", time.Minute).Val())
			require.Equal(t, "me", c.GetDel(ctx, "lock").Val())
			require.EqualValues(t, 42, c.IncrBy(ctx, "a", 41).Val())
			require.Equal(t, []any{"42", nil}, c.MGet(ctx, "a", "none").Val())
			require.NoError(t, c.MSet(ctx, "b", "2", "c", "3").Err())
			require.Equal(t, []string{"a", "b", "c"}, sortedStrings(c.Keys(ctx, "*").Val()))
			var scanned []string
			for it := c.Scan(ctx, 0, "*", 2).Iterator(); it.Next(ctx); {
				scanned = append(scanned, it.Val())
			}
			require.Equal(t, []string{"a", "b", "c"}, sortedStrings(scanned))
			require.EqualValues(t, 3, c.DBSize(ctx).Val())
			require.EqualValues(t, 2, c.Del(ctx, "a", "b", "none").Val())
			require.Equal(t, "tester", c.ClientGetName(ctx).Val())
			require.Len(t, c.Command(ctx).Val(), len(commands))
			replies, err := c.Pipelined(ctx, func(p goredis.Pipeliner) error {
				for i := range 100 {
					p.Set(ctx, fmt.Sprint("p", i), i, 0)
					p.Get(ctx, fmt.Sprint("p", i))
				}
				return nil
			})
			require.NoError(t, err)
			require.Equal(t, "99", replies[199].(*goredis.StringCmd).Val())
		})
	}
	wrong := goredis.NewClient(&goredis.Options{Addr: addr, Password: "wrong", MaxRetries: -1})
	defer wrong.Close()
	require.ErrorContains(t, wrong.Ping(testContext(t)).Err(), "WRONGPASS")
}

func TestRueidisWorksWithoutItsCache(t *testing.T) {
	store, _ := newStore(t, redistest.Start(t).Addr(), "")
	_, addr := serve(t, store, Options{Password: "s3cret"})
	o := rueidis.ClientOption{InitAddress: []string{addr}, Password: "s3cret", DisableCache: true, ForceSingleClient: true}
	c, err := rueidis.NewClient(o)
	require.NoError(t, err)
	defer c.Close()
	ctx := testContext(t)
	require.NoError(t, c.Do(ctx, c.B().Set().Key("a").Value("v").ExSeconds(60).Build()).Error())
	value, err := c.Do(ctx, c.B().Get().Key("a").Build()).ToString()
	require.NoError(t, err)
	require.Equal(t, "v", value)
	require.True(t, rueidis.IsRedisNil(c.Do(ctx, c.B().Get().Key("none").Build()).Error()))

	o.DisableCache = false
	_, err = rueidis.NewClient(o)
	require.ErrorContains(t, err, "DisableCache", "it is told what to do")
}

func sortedStrings(all []string) []string {
	return strings.Fields(sorted(strings.Join(all, " ")))
}

func TestNobodyIsLetInWithoutThePassword(t *testing.T) {
	t.Parallel()
	store, _ := newStore(t, unreachable, "")
	_, addr := serve(t, store, Options{Password: "s3cret"})
	p := dial(t, addr)
	for _, text := range []string{"PING", "GET a", "nonsense", "CLIENT LIST", "INFO", "CONFIG GET *", "SELECT 0", "COMMAND"} {
		require.Equal(t, "-"+noAuth, p.do(line(text)...), text)
	}
	require.Equal(t, "-"+noAuthHello, p.do("HELLO", "3"))
	require.Equal(t, "-"+wrongPass, p.do("AUTH", "wrong"))
	require.Equal(t, "-"+wrongPass, p.do("AUTH", "other", "s3cret"))
	require.Equal(t, "-"+wrongPass, p.do("HELLO", "3", "AUTH", "default", "wrong"))
	require.Equal(t, "-"+noAuth, p.do("PING"))
	require.Contains(t, p.do("HELLO", "3", "AUTH", "default", "s3cret", "SETNAME", "me"), "$proto :3")
	require.Equal(t, "$me", p.do("CLIENT", "GETNAME"))
	require.Equal(t, "+RESET", p.do("RESET"))
	require.Equal(t, "-"+noAuth, p.do("PING"))
	require.Equal(t, "+OK", p.do("AUTH", "default", "s3cret"))
	require.Equal(t, "$-1", p.do("CLIENT", "GETNAME"), "RESP2 again, and nameless")
	require.Equal(t, "-"+noTracking, p.do("CLIENT", "TRACKING", "ON"))
	require.Equal(t, "+OK", p.do("QUIT"))
	require.Empty(t, p.closed())
}

func TestTheOneDatabaseIsTheConfiguredOne(t *testing.T) {
	store, _ := newStore(t, unreachable, "")
	_, addr := serve(t, store, Options{DB: 3})
	p := dial(t, addr)
	require.Equal(t, "+OK", p.do("SELECT", "3"))
	require.Equal(t, "-ERR DB index is out of range", p.do("SELECT", "0"))
}

// selfSigned is how TLS is served in a test.
func selfSigned(t testing.TB) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

func TestTLSIsSpoken(t *testing.T) {
	served := selfSigned(t)
	certificate, err := x509.ParseCertificate(served.Certificates[0].Certificate[0])
	require.NoError(t, err)
	trusted := x509.NewCertPool()
	trusted.AddCert(certificate)

	store, _ := newStore(t, unreachable, "")
	s, addr := serve(t, store, Options{TLS: served})
	nc, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: trusted})
	require.NoError(t, err)
	p := &peer{t, nc, bufio.NewReader(nc)}
	require.NoError(t, p.SetDeadline(time.Now().Add(patience)))
	require.Equal(t, "+PONG", p.do("PING"))
	p.send("*x\r\n")
	require.Equal(t, "-ERR Protocol error: invalid multibulk length\r\n", p.closed())
	p.Close()

	plain := dial(t, addr)
	plain.send("PING\r\n")
	require.NotContains(t, plain.closed(), "PONG", "nothing is said in clear")
	eventually(t, "both are gone", func() bool { return s.Stats().Connected == 0 })
}
