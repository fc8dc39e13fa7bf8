package resp

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"testing"

	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/redistest"
)

// say sends commands to a connection of its own, all at once or one by one, and returns their
// replies. Each must have one.
func say(t testing.TB, addr, protocol string, pipelined bool, commands ...string) []string {
	t.Helper()
	p := dial(t, addr)
	require.NotContains(t, p.do("HELLO", protocol), "ERR")
	replies := make([]string, len(commands))
	if pipelined {
		var all strings.Builder
		for _, text := range commands {
			all.WriteString(encoded(line(text)...))
		}
		p.send(all.String())
		for i := range replies {
			replies[i] = p.reply()
		}
		return replies
	}
	for i, text := range commands {
		replies[i] = p.do(line(text)...)
	}
	return replies
}

// A relapse would carry out, one by one, what was to be done as a whole or not at all.
func TestNothingOfARefusedTransactionIsDone(t *testing.T) {
	direct := redistest.Start(t)
	store, _ := newStore(t, redistest.Start(t).Addr(), "")
	_, addr := serve(t, store, Options{})
	body := []string{
		"SET x 99", "INCR x", "DEL x", "GET x", "nonsense", "WATCH x", "MULTI", "MULTI x", "SET x", "SELECT 0", "CLIENT REPLY OFF", "PING", "HELLO 3",
		"MSET x 5 y 5", "EXPIRE x 1", "KEYS *", "AUTH a b", "CLIENT SETNAME n", "DISCARD x", "FLUSHALL", "ASKING",
	}
	for _, protocol := range []string{"2", "3"} {
		for _, pipelined := range []bool{false, true} {
			for end, answer := range map[string]string{"EXEC": "-" + execAbort, "EXEC x": "-" + execAbort, "DISCARD": "+OK", "RESET": "+RESET"} {
				t.Run(fmt.Sprintf("RESP%s/%s/pipelined=%v", protocol, end, pipelined), func(t *testing.T) {
					commands := append(append([]string{"SET x 1", "MULTI"}, body...), end, "GET x", "INCR x", "PING")
					replies := say(t, addr, protocol, pipelined, commands...)
					require.Equal(t, "+OK", replies[0])
					for i := 1; i < len(body)+2; i++ {
						require.True(t, strings.HasPrefix(replies[i], "-"), "%q was answered %q", commands[i], replies[i])
					}
					require.Equal(t, []string{answer, "$1", ":2", "+PONG"}, replies[len(body)+2:], "it is over, and nothing was done")
				})
			}
			// What was to be discarded leaves both with the same.
			commands := []string{"SET x 1", "MULTI", "SET x 99", "INCR x", "DISCARD", "GET x", "EXEC", "DISCARD", "MULTI x", "SET x 2", "GET x", "MULTI", "SET x 3", "QUIT"}
			want, got := say(t, direct.Addr(), protocol, pipelined, commands...), say(t, addr, protocol, pipelined, commands...)
			require.Equal(t, append(want[4:11:11], want[13:]...), append(got[4:11:11], got[13:]...))
			require.Equal(t, "$2", say(t, addr, protocol, pipelined, "GET x")[0], "QUIT is no EXEC")
		}
	}
}

// Whatever order they come in: the data is what it would be if each transaction had been discarded.
func TestRandomTransactionsChangeNothing(t *testing.T) {
	server := redistest.Start(t)
	store, _ := newStore(t, server.Addr(), "")
	_, addr := serve(t, store, Options{})
	random := rand.New(rand.NewPCG(9, 1))
	for range 30 {
		server.Empty()
		p := dial(t, addr)
		inside, want := false, 0
		for range 60 {
			switch command := []string{"INCR", "INCR", "MULTI", "EXEC", "DISCARD", "RESET", "SET"}[random.IntN(7)]; command {
			case "INCR":
				if p.do("INCR", "n"); !inside {
					want++
				}
			case "SET":
				if p.do("SET", "n", "10"); !inside {
					want = 10
				}
			case "MULTI":
				require.Contains(t, p.do(command), "-ERR")
				inside = true
			default:
				p.do(command)
				inside = false
			}
		}
		p.do("RESET")
		p.do("INCR", "n")
		require.Equal(t, fmt.Sprint("$", want+1), p.do("GET", "n"))
	}
}

func TestTransactionsOfGoRedisFailAsAWhole(t *testing.T) {
	store, _ := newStore(t, redistest.Start(t).Addr(), "")
	_, addr := serve(t, store, Options{})
	for _, protocol := range []int{2, 3} {
		c, ctx := goredis.NewClient(&goredis.Options{Addr: addr, Protocol: protocol, PoolSize: 1, MaxRetries: -1}), testContext(t)
		t.Cleanup(func() { _ = c.Close() })
		require.NoError(t, c.Set(ctx, "balance", 100, 0).Err())
		for range 3 { // each leaves the connection as it was
			_, err := c.TxPipelined(ctx, func(p goredis.Pipeliner) error {
				p.IncrBy(ctx, "balance", -30)
				p.Set(ctx, "paid", "yes", 0)
				return nil
			})
			require.ErrorContains(t, err, "there are no transactions here")
			require.Equal(t, "100", c.Get(ctx, "balance").Val())
			require.ErrorIs(t, c.Get(ctx, "paid").Err(), goredis.Nil)
			err = c.Watch(ctx, func(*goredis.Tx) error { return nil }, "balance")
			require.ErrorContains(t, err, "there are no transactions here")
			require.NoError(t, c.Incr(ctx, "other").Err())
		}
	}
}

// A relapse would have an application that means database 1 read and overwrite database 0.
func TestNothingIsDoneWithTheDataAfterARefusedSELECT(t *testing.T) {
	server := redistest.Start(t)
	store, _ := newStore(t, server.Addr(), "")
	_, addr := serve(t, store, Options{})
	server.Do("SET", "a", "1")
	for _, pipelined := range []bool{false, true} {
		for _, protocol := range []string{"2", "3"} {
			for name, cmd := range commands {
				if !cmd.data() {
					continue
				}
				args := name + strings.Repeat(" a", max(cmd.arity, -cmd.arity)-1)
				replies := say(t, addr, protocol, pipelined, "SELECT 1", args, "SELECT x", args, "PING", "HELLO 2", "CLIENT GETNAME", "SELECT 0", "GET a", "SELECT 7", "GET a", "RESET", "GET a")
				require.Equal(t, []string{"-ERR DB index is out of range", "-" + wrongDB, "-" + notInteger, "-" + wrongDB, "+PONG"}, replies[:5], args)
				require.Equal(t, []string{"+OK", "$1", "-ERR DB index is out of range", "-" + wrongDB, "+RESET", "$1"}, replies[7:], args)
			}
		}
	}
	for _, protocol := range []int{2, 3} {
		c, ctx := goredis.NewClient(&goredis.Options{Addr: addr, DB: 1, Protocol: protocol, MaxRetries: -1}), testContext(t)
		t.Cleanup(func() { _ = c.Close() })
		require.ErrorContains(t, c.Set(ctx, "a", "2", 0).Err(), "DB index is out of range")
		require.ErrorContains(t, c.Get(ctx, "a").Err(), "DB index is out of range")
		_, err := c.Pipelined(ctx, func(p goredis.Pipeliner) error {
			p.Set(ctx, "a", "2", 0)
			return nil
		})
		require.ErrorContains(t, err, "DB index is out of range")
	}
	require.Equal(t, "1", server.Do("GET", "a"))
}

// Whoever turns replies off counts those that come. A relapse would have him take one command's
// reply for another's.
func TestRepliesAreTurnedOffAsInRedis(t *testing.T) {
	for _, protocol := range []string{"2", "3"} {
		w := newTwins(t, protocol)
		for _, commands := range [][]string{
			{"CLIENT REPLY OFF", "SET a 1", "GET a", "CLIENT REPLY ON", "GET a"},
			{"CLIENT REPLY SKIP", "GET a", "ECHO b"},
			{"CLIENT REPLY SKIP", "CLIENT REPLY SKIP", "ECHO a", "ECHO b"},
			{"CLIENT REPLY SKIP", "nonsense", "ECHO b", "ECHO c"},
			{"CLIENT REPLY SKIP", "CLIENT REPLY ON", "ECHO a"},
			{"CLIENT REPLY SKIP", "CLIENT REPLY OFF", "ECHO a", "CLIENT REPLY ON", "ECHO b"},
			{"CLIENT REPLY OFF", "CLIENT REPLY SKIP", "ECHO a", "CLIENT REPLY ON", "ECHO b", "ECHO c"},
			{"CLIENT REPLY OFF", "ECHO a", "RESET", "ECHO b"},
			{"CLIENT REPLY SKIP", "RESET", "ECHO b"},
			{"CLIENT REPLY OFF", "CLIENT REPLY x", "ECHO a"},
			{"CLIENT REPLY x", "CLIENT REPLY", "CLIENT REPLY ON x", "ECHO a"},
			{"CLIENT REPLY SKIP", "CLIENT REPLY", "ECHO a"},
			{"CLIENT REPLY OFF", "*x"},
		} {
			for _, pipelined := range []bool{false, true} {
				answers := make([]string, 2)
				for i, addr := range []string{w.direct.RemoteAddr().String(), w.proxy.RemoteAddr().String()} {
					p := dial(t, addr)
					require.NotContains(t, p.do("HELLO", protocol), "ERR")
					var all strings.Builder
					for _, text := range commands {
						all.WriteString(text + "\r\n")
						if !pipelined {
							p.send(all.String())
							all.Reset()
						}
					}
					p.send(all.String())
					require.NoError(t, p.Conn.(*net.TCPConn).CloseWrite()) // Redis does not heed a QUIT whose reply is off
					answers[i] = p.closed()
				}
				require.Equal(t, answers[0], answers[1], "%q", commands)
			}
		}
	}
}

func TestCommandsThatRedisRefusesTooAreRefusedInItsWords(t *testing.T) {
	for _, protocol := range []string{"2", "3"} {
		w := newTwins(t, protocol)
		for _, text := range []string{
			"SET x 1", "ASKING", "INCR x", "READONLY", "INCR x", "READWRITE", "INCR x", "CLUSTER INFO", "CLUSTER SLOTS", "EXEC", "DISCARD", "MULTI x", "INCR x",
			"EXEC", "SELECT x", "INCR x", "HELLO 3 AUTH nobody x", "HELLO 9", "AUTH nobody x", "INCR x", "GET x",
		} {
			w.same(line(text)...)
		}
		// Redis without pub/sub and MONITOR cannot be had to compare with; what follows is meant as
		// it stands.
		for _, text := range []string{"SUBSCRIBE a", "PSUBSCRIBE a", "SSUBSCRIBE a", "UNSUBSCRIBE", "MONITOR", "WATCH x", "CLIENT TRACKING ON", "CLIENT CACHING YES"} {
			require.Contains(t, w.proxy.do(line(text)...), "-ERR", text)
			w.same("INCR", "x")
		}
	}
}
