package resp

import (
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/cmd/aside/internal/proxy"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

func serveStrict(t *testing.T) (server *redistest.Server, between *faultproxy.Proxy, store *proxy.Store, c *aside.Client, p *peer) {
	t.Helper()
	server = redistest.Start(t)
	between = faultproxy.New(t, server.Addr())
	store, c = newHastyStore(t, between.Addr(), t.TempDir(), func(o *aside.Options) { o.RedisTimeout, o.LockTTL = time.Second, time.Minute })
	store.Strict(Matcher([]string{"lock:*", "limit:?"}))
	_, addr := serve(t, store, Options{Redis: &rueidis.ClientOption{InitAddress: []string{between.Addr()}}, LocalAnswers: true, KnownKeys: true})
	awaitMode(t, c, aside.Healthy)
	return server, between, store, c, dial(t, addr)
}

// What is read of a strict key is Redis's at that moment, though nobody has told memory yet: here the writer is a
// client of Redis's own, and each read follows its write at once.
func TestAStrictKeyIsReadFromRedis(t *testing.T) {
	server, _, store, _, p := serveStrict(t)
	ctx := testContext(t)
	for i := range 50 {
		value := strings.Repeat("x", i+1)
		server.Do("MSET", "lock:a", value, "limit:1", value)
		require.Equal(t, "$"+value, p.do("GET", "lock:a"))
		require.Equal(t, "*2 $"+value+" $"+value, p.do("MGET", "lock:a", "limit:1"))
		v, err := store.Get(ctx, "lock:a") // as by HTTP
		require.NoError(t, err)
		require.Equal(t, value, v.Data)
		many, err := store.GetMulti(ctx, []string{"lock:a", "other", "limit:1"})
		require.NoError(t, err)
		require.Len(t, many, 2)
		require.Equal(t, value, many["limit:1"].Data)
	}
	for _, row := range [][2]string{
		{"SET lock:b 1 PX 100000", "+OK"}, {"SET lock:b 2 NX", "$-1"}, {"DEL lock:a lock:none", ":1"}, {"EXISTS lock:a lock:b", ":1"}, {"SETEX limit:2 100 5", "+OK"},
		{"INCR limit:2", ":6"}, {"TTL limit:2", ":100"}, {"HSET lock:h f 1", ":1"}, {"MSET lock:c 1 other 2", "+OK"}, {"GET nothing", "$-1"}, {"UNLINK lock:c other", ":2"},
	} {
		require.Equal(t, row[1], p.do(line(row[0])...), row[0])
	}
	require.Contains(t, p.do("GET", "lock:h"), "-WRONGTYPE")
	require.NoError(t, store.Set(ctx, "lock:web", proxy.Value{Data: "<p>", ContentType: "text/html", TTL: proxy.NoExpiry}))
	v, err := store.Get(ctx, "lock:web")
	require.NoError(t, err)
	require.Equal(t, "text/html", v.ContentType)
	require.Equal(t, proxy.NoExpiry, v.TTL)
	require.NoError(t, store.Del(ctx, "lock:web", "other"))
	_, err = store.Get(ctx, "lock:web")
	require.ErrorIs(t, err, aside.ErrNotFound)
}

// In an outage nothing of a strict key is answered or kept, whatever is known of it, with all that may be answered
// of others; and a write whose answer is lost is not kept either.
func TestAStrictKeyIsRefusedInAnOutage(t *testing.T) {
	t.Parallel()
	server, between, store, c, p := serveStrict(t)
	ctx := testContext(t)
	require.Equal(t, "+OK", p.do("SET", "lock:a", "1"))
	require.Equal(t, "+OK", p.do("SET", "other", "1"))
	require.Equal(t, "$1", p.do("GET", "lock:a"))

	between.CutReplies()
	require.Contains(t, p.do("SET", "lock:a", "2"), "-ASIDEUNKNOWN")
	between.Refuse()
	awaitMode(t, c, aside.Degraded)
	require.Zero(t, c.Stats().Pending)

	for _, row := range Outages {
		for _, command := range row.Commands {
			name, options, _ := strings.Cut(command, " ")
			switch row.Outage {
			case Works, Listed, Refused:
				continue
			default:
			}
			args := strictly(name, strings.Split(options, "|")[0])
			if args == nil {
				continue
			}
			require.Contains(t, p.do(args...), "-ASIDEDEGRADED", "%v", args)
		}
	}
	require.Equal(t, "+OK", p.do("MULTI"))
	require.Equal(t, "+QUEUED", p.do("SET", "lock:a", "3"))
	require.Contains(t, p.do("EXEC"), "-", "nothing of it is kept")
	p.do("DISCARD") // if it goes on until then
	require.Zero(t, c.Stats().Pending)
	_, err := store.Get(ctx, "lock:a")
	require.ErrorIs(t, err, proxy.ErrDegraded)
	_, err = store.GetMulti(ctx, []string{"other", "lock:a"})
	require.ErrorIs(t, err, proxy.ErrDegraded)
	require.ErrorIs(t, store.Set(ctx, "lock:a", proxy.Value{Data: "4", TTL: proxy.NoExpiry}), proxy.ErrDegraded)
	require.ErrorIs(t, store.Del(ctx, "other", "lock:a"), proxy.ErrDegraded)
	require.Equal(t, "+OK", p.do("SET", "other", "2"), "others go on")
	require.Equal(t, "*1 $other", p.do("KEYS", "*"))

	server.Do("SET", "lock:a", "by another")
	back(t, between, c)
	require.Equal(t, "$by another", p.do("GET", "lock:a"))
	require.Equal(t, "$2", p.do("GET", "other"))
}

// strictly is a command on strict keys.
func strictly(name, option string) []string {
	with := map[string][]string{
		"SETEX": {"10", "v"}, "PSETEX": {"1000", "v"}, "MSET": {"v"}, "SETNX": {"v"}, "GETSET": {"v"}, "APPEND": {"v"}, "SET": {"v"}, "SETRANGE": {"0", "v"}, "MSETNX": {"v"},
		"HGET": {"f"}, "HMGET": {"f"}, "HEXISTS": {"f"}, "HSTRLEN": {"f"}, "SISMEMBER": {"m"}, "SMISMEMBER": {"m"}, "LRANGE": {"0", "-1"}, "LINDEX": {"0"}, "GETRANGE": {"0", "1"}, "SUBSTR": {"0", "1"},
		"EXPIRE": {"10"}, "PEXPIRE": {"1000"}, "EXPIREAT": {"9999999999"}, "PEXPIREAT": {"9999999999999"}, "INCRBY": {"1"}, "DECRBY": {"1"}, "INCRBYFLOAT": {"1"},
		"HSET": {"f", "v"}, "HMSET": {"f", "v"}, "HSETNX": {"f", "v"}, "HDEL": {"f"}, "SREM": {"m"}, "SADD": {"m"}, "HINCRBY": {"f", "1"}, "HINCRBYFLOAT": {"f", "1"}, "LPUSH": {"e"}, "RPUSH": {"e"},
		"RENAME": {"lock:b"}, "RENAMENX": {"lock:b"}, "COPY": {"lock:b"},
	}
	switch name {
	case "MULTI", "EXEC", "DISCARD":
		return nil
	}
	args := append([]string{name, "lock:a"}, with[name]...)
	switch option {
	case "":
	case "ex":
		args = append(args, option, "10")
	default:
		args = append(args, option)
	}
	return args
}

// With check_app, a command on a strict key is told as one that an outage would refuse.
func TestACommandOnAStrictKeyIsToldBeforeAnOutage(t *testing.T) {
	server := redistest.Start(t)
	store, c := newStore(t, server.Addr(), t.TempDir())
	store.Strict(Matcher([]string{"lock:*"}))
	s, addr := serve(t, store, Options{Redis: &rueidis.ClientOption{InitAddress: []string{server.Addr()}}, CheckApp: true})
	awaitMode(t, c, aside.Healthy)
	p := dial(t, addr)
	for _, command := range []string{"SET lock:a 1", "SET other 1", "MSET other 1 lock:b 1", "HSET lock:h f 1"} {
		require.NotContains(t, p.do(line(command)...), "-", command)
	}
	checked := s.Checked()
	require.Len(t, checked, 3)
	for _, r := range checked {
		require.Equal(t, Refused, r.Outage, r.Command)
		require.Contains(t, r.Example, "lock:")
	}
}
