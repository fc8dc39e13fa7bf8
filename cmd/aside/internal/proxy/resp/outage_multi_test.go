package resp

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
)

// Readers of several keys, by one command or by a transaction, see all of a transaction or nothing, while others write
// the same keys one by one and in another order. A relapse has a reader see one number changed and the other not, or hangs.
func TestReadersSeeAllOfATransactionInAnOutage(t *testing.T) {
	t.Parallel() // there is a wait for each answer
	server, between, c, addr := cutOff(t, Options{})
	between.Refuse()
	awaitMode(t, c, aside.Degraded)
	p := dial(t, addr)
	require.Equal(t, ":0", p.do("DEL", "a", "b", "h", "x"))
	require.Equal(t, "+OK", p.do("MSET", "a", "0", "b", "0"))
	others := make([]string, 100) // so many keys are read between the two
	for i := range others {
		others[i] = fmt.Sprint("between", i)
		require.Equal(t, "+OK", p.do("SET", others[i], "v"))
	}
	many := append(append([]string{"MGET", "a"}, others...), "b")
	const times = 200
	var writers, readers sync.WaitGroup
	stop := make(chan struct{})
	for n := range 3 {
		p := dial(t, addr)
		commands := []string{"INCR a", "HINCRBY h f 1", "INCR b"}
		if n == 1 {
			commands = []string{"INCR b", "INCR a", "RPUSH x v"}
		}
		writers.Go(func() {
			for range times {
				p.send(encoded("MULTI"))
				for _, text := range commands {
					p.send(encoded(line(text)...))
				}
				p.send(encoded("EXEC"))
				for range len(commands) + 1 {
					require.NotContains(t, p.reply(), "-")
				}
				require.Contains(t, p.reply(), "*3 ")
				require.Contains(t, p.do("INCR", fmt.Sprint("own", n)), "-ASIDEDEGRADED")
			}
		})
	}
	for n := range 2 {
		p := dial(t, addr)
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				var reply string
				if n == 0 {
					reply = p.do(many...)
				} else {
					p.send(encoded("MULTI") + encoded("GET", "b") + encoded("GET", "a") + encoded("EXEC"))
					for range 3 {
						p.reply()
					}
					reply = p.reply()
				}
				words := strings.Fields(reply)
				require.GreaterOrEqual(t, len(words), 3)
				require.Equal(t, words[1], words[len(words)-1])
			}
		})
	}
	writers.Wait()
	close(stop)
	readers.Wait()
	back(t, between, c)
	for _, key := range []string{"a", "b"} {
		require.Equal(t, fmt.Sprint(3*times), server.Do("GET", key))
	}
	require.Equal(t, fmt.Sprint(2*times), server.Do("HGET", "h", "f"))
	require.EqualValues(t, times, server.Do("LLEN", "x"))
}
