package resp

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/redistest"
)

// The first table of docs/PROXY.md, run.

// promise is a row of the table.
type promise struct {
	commands []string // names in examples
	well     string   // what becomes of them while Redis is well: works or refused
	away     string   // and in an outage: works, answered, kept, done (where what it depends on was kept here) or refused
}

const promisesIn = "../../../../../docs/PROXY.md"

// promises reads the table.
func promises(t *testing.T) (rows []promise) {
	t.Helper()
	doc, err := os.ReadFile(promisesIn)
	require.NoError(t, err)
	before, table, ok := strings.Cut(string(doc), "| your application uses | while Redis is well | in an outage |\n|---|---|---|\n")
	require.True(t, ok, "the table is not there")
	require.Less(t, strings.Count(before, "\n"), 12, "it is not the first thing that a reader sees")
	table, _, _ = strings.Cut(table, "\n\n")
	options := []string{"BLOCK", "CLIENT TRACKING", "AUTH"} // are named, and run elsewhere
	verdict := regexp.MustCompile(`^\W*(works|answered|kept|done|refused)\b`)
	for row := range strings.SplitSeq(strings.TrimSpace(table), "\n") {
		cells := strings.Split(strings.Trim(row, "| "), " | ")
		require.Len(t, cells, 3, row)
		p := promise{}
		for i, to := range []*string{&p.well, &p.away} {
			m := verdict.FindStringSubmatch(cells[i+1])
			require.NotNil(t, m, "%q begins with none of works, answered, kept, done, refused", cells[i+1])
			*to = m[1]
		}
		for _, span := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[0], -1) {
			if slices.Contains(options, span[1]) {
				continue
			}
			if _, ok := examples[span[1]]; ok {
				p.commands = append(p.commands, span[1])
				continue
			}
			p.commands = append(p.commands, strings.Fields(span[1])...)
		}
		require.NotEmpty(t, p.commands, row)
		for _, name := range p.commands {
			require.Contains(t, examples, name, "the table names a command of which there is no example here")
		}
		rows = append(rows, p)
	}
	return rows
}

// example is how a command is run. In both K is a key of its own, and L another one.
type example struct {
	known string // commands that are run while Redis is well, by this proxy, separated by "; "
	call  string // the last of it is what is looked at; what stands before it is run on the same connection
}

var examples = map[string]example{
	"GET": {"SET K v", "GET K"}, "MGET": {"MSET K v L w", "MGET K L"}, "EXISTS": {"SET K v", "EXISTS K"}, "TYPE": {"SET K v", "TYPE K"},
	"TTL": {"SET K v", "TTL K"}, "PTTL": {"SET K v", "PTTL K"}, "STRLEN": {"SET K v", "STRLEN K"}, "GETRANGE": {"SET K hello", "GETRANGE K 1 2"},

	"SET": {"", "SET K v"}, "SET EX": {"", "SET K v EX 1000"}, "SET PX": {"", "SET K v PX 1000000"}, "SETEX": {"", "SETEX K 1000 v"}, "PSETEX": {"", "PSETEX K 1000000 v"},
	"MSET": {"", "MSET K v L w"}, "DEL": {"SET K v; GET K", "DEL K"}, "UNLINK": {"SET K v; GET K", "UNLINK K"},

	"SET NX": {"SET K v", "SET K w NX"}, "SET XX": {"SET K v", "SET K w XX"}, "SET GET": {"SET K v", "SET K w GET"}, "SET KEEPTTL": {"SET K v EX 1000", "SET K w KEEPTTL"},
	"SETNX": {"SET K v", "SETNX K w"}, "GETSET": {"SET K v", "GETSET K w"}, "GETDEL": {"SET K v", "GETDEL K"}, "GETEX": {"SET K v", "GETEX K EX 1000"},
	"INCR": {"SET K 5", "INCR K"}, "INCRBY": {"SET K 5", "INCRBY K 3"}, "DECR": {"SET K 5", "DECR K"}, "DECRBY": {"SET K 5", "DECRBY K 3"},
	"INCRBYFLOAT": {"SET K 5", "INCRBYFLOAT K 0.5"}, "APPEND": {"SET K v", "APPEND K w"}, "SETRANGE": {"SET K hello", "SETRANGE K 0 j"},
	"EXPIRE": {"SET K v", "EXPIRE K 1000"}, "PEXPIRE": {"SET K v", "PEXPIRE K 1000000"}, "EXPIREAT": {"SET K v", "EXPIREAT K 4102444800"},
	"PEXPIREAT": {"SET K v", "PEXPIREAT K 4102444800000"}, "PERSIST": {"SET K v EX 1000", "PERSIST K"}, "RENAME": {"SET K v", "RENAME K L"}, "RENAMENX": {"SET K v; DEL L", "RENAMENX K L"}, "COPY": {"SET K v; DEL L", "COPY K L"}, "EXPIRETIME": {"SET K v", "EXPIRETIME K"},

	"HSET": {"DEL K; HSET K f v", "HSET K g w"}, "HMSET": {"HSET K f v", "HMSET K g w"}, "HSETNX": {"DEL K; HSET K f v", "HSETNX K g w"}, "HDEL": {"DEL K; HSET K f v", "HDEL K f"},
	"HINCRBY": {"DEL K; HSET K f 5", "HINCRBY K f 3"}, "HGET": {"DEL K; HSET K f v", "HGET K f"}, "HMGET": {"DEL K; HSET K f v", "HMGET K f g"}, "HGETALL": {"DEL K; HSET K f v; HGETALL K", "HGETALL K"},
	"HEXISTS": {"DEL K; HSET K f v", "HEXISTS K f"}, "HLEN": {"DEL K; HSET K f v", "HLEN K"}, "HINCRBYFLOAT": {"DEL K; HSET K f 5", "HINCRBYFLOAT K f 0.5"}, "HSTRLEN": {"DEL K; HSET K f v", "HSTRLEN K f"}, "HKEYS": {"DEL K; HSET K f v", "HKEYS K"}, "HVALS": {"DEL K; HSET K f v", "HVALS K"},

	"SADD": {"DEL K; SADD K a", "SADD K b"}, "SREM": {"DEL K; SADD K a b", "SREM K a"}, "SMEMBERS": {"DEL K; SADD K a; SMEMBERS K", "SMEMBERS K"}, "SISMEMBER": {"DEL K; SADD K a", "SISMEMBER K a"},
	"SMISMEMBER": {"DEL K; SADD K a", "SMISMEMBER K a b"}, "SCARD": {"DEL K; SADD K a", "SCARD K"}, "SPOP": {"SADD K a", "SPOP K"}, "SINTER": {"SADD K a", "SINTER K K"}, "SUNION": {"SADD K a", "SUNION K K"},

	"LPUSH": {"DEL K; RPUSH K a", "LPUSH K b"}, "RPUSH": {"DEL K; RPUSH K a", "RPUSH K b"}, "LRANGE": {"DEL K; RPUSH K a; LRANGE K 0 -1", "LRANGE K 0 -1"}, "LINDEX": {"DEL K; RPUSH K a", "LINDEX K 0"}, "LLEN": {"DEL K; RPUSH K a", "LLEN K"},
	"LPOP": {"RPUSH K a", "LPOP K"}, "RPOP": {"RPUSH K a", "RPOP K"}, "LREM": {"RPUSH K a", "LREM K 0 a"}, "LTRIM": {"RPUSH K a", "LTRIM K 0 10"}, "LMOVE": {"RPUSH K a", "LMOVE K L LEFT RIGHT"},

	"ZADD": {"ZADD K 1 a", "ZADD K 2 b"}, "ZINCRBY": {"ZADD K 1 a", "ZINCRBY K 2 a"}, "ZRANGE": {"ZADD K 1 a", "ZRANGE K 0 -1"}, "ZSCORE": {"ZADD K 1 a", "ZSCORE K a"}, "ZREM": {"ZADD K 1 a", "ZREM K a"},
	"XADD": {"", "XADD K 1-1 f v"}, "XRANGE": {"XADD K 1-1 f v", "XRANGE K - +"}, "XLEN": {"XADD K 1-1 f v", "XLEN K"},
	"SETBIT": {"", "SETBIT K 7 1"}, "BITCOUNT": {"SET K v", "BITCOUNT K"}, "GEOADD": {"", "GEOADD K 13.36 38.11 a"}, "PFADD": {"", "PFADD K a"}, "PFCOUNT": {"PFADD K a", "PFCOUNT K"},
	"SORT": {"RPUSH K 2 1", "SORT K"}, "OBJECT": {"SET K v", "OBJECT ENCODING K"}, "TOUCH": {"SET K v", "TOUCH K"}, "MSETNX": {"DEL K L", "MSETNX K v L w"}, "DUMP": {"SET K v", "DUMP K"},

	"EVAL": {"SET K v", "EVAL return_redis.call('GET',KEYS[1]) 1 K"}, "EVALSHA": {"SET K v", "SCRIPT LOAD return_1; EVALSHA e0e1f9fabfc9d4800c877a703b823ac0578ff8db 1 K"},
	"MULTI": {"", "MULTI"}, "EXEC": {"", "MULTI; SET K v; EXEC"}, "WATCH": {"SET K v", "WATCH K"},
	"BLPOP": {"RPUSH K a", "BLPOP K 1"}, "BRPOP": {"RPUSH K a", "BRPOP K 1"}, "BLMOVE": {"RPUSH K a", "BLMOVE K L LEFT RIGHT 1"}, "BZPOPMIN": {"ZADD K 1 a", "BZPOPMIN K 1"}, "XREAD": {"XADD K 1-1 f v", "XREAD BLOCK 10 STREAMS K 0"},
	"SUBSCRIBE": {"", "SUBSCRIBE K"}, "PSUBSCRIBE": {"", "PSUBSCRIBE K*"}, "PUBLISH": {"", "PUBLISH K m"},
	"SCAN": {"SET K v", "SCAN 0 MATCH K COUNT 100000"}, "KEYS": {"SET K v", "KEYS K"}, "RANDOMKEY": {"SET K v", "RANDOMKEY"}, "DBSIZE": {"SET K v", "DBSIZE"}, "FLUSHDB": {"", "FLUSHDB"}, "TIME": {"", "TIME"},

	"PING": {"", "PING"}, "ECHO": {"", "ECHO v"}, "HELLO": {"", "HELLO 2"}, "QUIT": {"", "QUIT"}, "RESET": {"", "RESET"}, "INFO": {"", "INFO server"}, "CLIENT": {"", "CLIENT GETNAME"}, "SELECT 0": {"", "SELECT 0"}, "COMMAND": {"", "COMMAND COUNT"},

	"SELECT 1": {"", "SELECT 1"}, "WAIT": {"", "WAIT 0 0"}, "SYNC": {"", "SYNC"}, "CONFIG SET": {"", "CONFIG SET maxmemory 0"}, "SHUTDOWN": {"", "SHUTDOWN NOSAVE"}, "FLUSHALL": {"", "FLUSHALL"},
}

// words are the commands of an example for a key.
func (e example) words(text, key string) (commands [][]string) {
	for command := range strings.SplitSeq(text, "; ") {
		args := strings.Fields(command)
		for i := range args {
			switch args[i] = strings.ReplaceAll(args[i], "_", " "); {
			case args[i] == "K":
				args[i] = key
			case args[i] == "L":
				args[i] = key + ":other"
			case args[i] == "K*":
				args[i] = key + "*"
			}
		}
		if len(args) > 0 {
			commands = append(commands, args)
		}
	}
	return commands
}

// keyOf is the key of an example.
func keyOf(prefix, name string) string { return prefix + strings.ReplaceAll(name, " ", "-") }

// on runs an example's call on a connection of its own, and returns the last reply.
func (e example) on(t *testing.T, addr, key string) (reply string) {
	t.Helper()
	p := dial(t, addr)
	defer p.Close()
	for _, args := range e.words(e.call, key) {
		p.send(encoded(args...))
		var err error
		if reply, err = readReply(p.r); err != nil || strings.HasPrefix(reply, "-") {
			return reply // "" if it was disconnected
		}
	}
	return reply
}

// lackedBy reports whether a server is too old for it.
func (e example) lackedBy(server *redistest.Server) bool {
	return slices.ContainsFunc(e.words(e.call, "k"), func(args []string) bool { return lacks(server.Version(), args) })
}

// otherReplies are examples whose reply is about the one that answers, or about more than their key.
var otherReplies = []string{"INFO", "HELLO", "TIME", "DBSIZE", "RANDOMKEY", "COMMAND", "PTTL", "FLUSHDB", "SCAN", "DUMP"}

// proxyBefore is a proxy with the settings of the binary, before a server that loses nothing.
func proxyBefore(t *testing.T) (*redistest.Server, *aside.Client, string) {
	t.Helper()
	server := redistest.Start(t, redistest.WithArgs("--appendonly", "yes", "--appendfsync", "always"))
	store, c := newStore(t, server.Addr(), t.TempDir())
	_, addr := serve(t, store, Options{Redis: &rueidis.ClientOption{InitAddress: []string{server.Addr()}}, Deny: defaultDeny(t)})
	return server, c, addr
}

func TestTheFirstTableOfTheDocumentationIsTrueWhileRedisIsWell(t *testing.T) {
	bare := redistest.Start(t)
	_, _, addr := proxyBefore(t)
	for _, row := range promises(t) {
		for _, name := range row.commands {
			e, key := examples[name], keyOf("well:", name)
			if e.lackedBy(bare) {
				continue
			}
			for _, args := range e.words(e.known, key) {
				require.NotRegexp(t, `^-`, dial(t, addr).do(args...), name)
				dial(t, bare.Addr()).do(args...)
			}
			reply := e.on(t, addr, key)
			if row.well == "refused" {
				require.Regexp(t, `^-(ERR|NOPERM) `, reply, name)
				continue
			}
			require.NotRegexp(t, `^-`, reply, name)
			if !slices.Contains(otherReplies, name) {
				require.Equal(t, e.on(t, bare.Addr(), key), reply, name)
			}
		}
	}
}

func TestTheFirstTableOfTheDocumentationIsTrueInAnOutage(t *testing.T) {
	t.Parallel()
	bare := redistest.Start(t) // does what is kept at once
	server, c, addr := proxyBefore(t)
	rows := promises(t)
	for _, row := range rows {
		for _, name := range row.commands {
			e, key := examples[name], keyOf("away:", name)
			if e.lackedBy(bare) {
				continue
			}
			for _, args := range e.words(e.known, key) {
				require.NotRegexp(t, `^-`, dial(t, addr).do(args...), name)
			}
			if row.away == "answered" { // what was read lately is known; by what is not passed on
				e.on(t, addr, key)
				dial(t, addr).do("GET", key)
			}
		}
	}
	before := state(t, server.Addr(), "away:")
	server.Kill()
	awaitMode(t, c, aside.Degraded)
	for _, row := range rows {
		for _, name := range row.commands {
			e, key := examples[name], keyOf("away:", name)
			if e.lackedBy(bare) {
				continue
			}
			reply := e.on(t, addr, key)
			switch row.away {
			case "refused":
				require.Regexp(t, `^(-|$)`, reply, name)
				if row.well != "refused" {
					require.Regexp(t, `^(-ASIDEDEGRADED |-EXECABORT |$)`, reply, name)
				}
			case "answered":
				require.NotRegexp(t, `^-`, reply, "%s of what is known", name)
				require.Regexp(t, `^-ASIDEDEGRADED `, e.on(t, addr, "never seen"), "%s of what is not known", name)
				fallthrough
			case "works", "kept", "done":
				if row.away == "done" {
					require.Regexp(t, `^-ASIDEDEGRADED `, reply, "%s of what was there before", name)
					key = keyOf("kept:", name)
					for _, args := range e.words(e.known, key) {
						require.NotRegexp(t, `^-`, dial(t, addr).do(args...), name)
					}
					reply = e.on(t, addr, key)
				}
				for _, args := range e.words(e.known, key) {
					dial(t, bare.Addr()).do(args...)
				}
				if want := e.on(t, bare.Addr(), key); !slices.Contains(otherReplies, name) {
					require.Equal(t, want, reply, name)
				}
			}
		}
	}
	server.RestartKeepingData()
	awaitMode(t, c, aside.Healthy)
	after, model := state(t, server.Addr(), "away:"), state(t, bare.Addr(), "away:")
	for _, row := range rows {
		for _, name := range row.commands {
			for _, key := range []string{keyOf("away:", name), keyOf("away:", name) + ":other"} {
				want, what := before[key], "what was refused has changed nothing"
				if row.away == "kept" {
					want, what = model[key], "what was kept is replayed"
				}
				require.Equal(t, want, after[key], "%s: %s", name, what)
			}
		}
	}
	require.Equal(t, state(t, bare.Addr(), "kept:"), state(t, server.Addr(), "kept:"), "what was kept is replayed")
}

// state is what a server has under keys with a prefix: its type, its value, and whether it expires.
func state(t *testing.T, addr, prefix string) map[string]string {
	t.Helper()
	p := dial(t, addr)
	all := make(map[string]string)
	keys := strings.Split(p.do("KEYS", prefix+"*"), " $")
	for _, key := range keys[1:] {
		kind := p.do("TYPE", key)
		read := map[string][]string{
			"+string": {"GET", key}, "+hash": {"HGETALL", key}, "+list": {"LRANGE", key, "0", "-1"}, "+set": {"SORT", key, "ALPHA"}, "+zset": {"ZRANGE", key, "0", "-1", "WITHSCORES"}, "+stream": {"XRANGE", key, "-", "+"},
		}[kind]
		require.NotNil(t, read, kind)
		expires := "for ever"
		if p.do("TTL", key) != ":-1" {
			expires = "expires"
		}
		all[key] = kind + " " + p.do(read...) + " " + expires
	}
	return all
}

// defaultDeny is the default of service.deny.
func defaultDeny(t *testing.T) []string {
	t.Helper()
	doc, err := os.ReadFile(promisesIn)
	require.NoError(t, err)
	m := regexp.MustCompile("`service.deny` \\| list \\| `([a-z,-]+)`").FindSubmatch(doc)
	require.NotNil(t, m)
	return strings.Split(string(m[1]), ",")
}
