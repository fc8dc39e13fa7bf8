package resp

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/redistest"
)

// What was kept meets what a client without the library has written before Redis went away: nothing says which of the
// two is newer. PROXY.md has the rule, #bare-clients.
func TestWhatWasKeptMeetsTheValuesOfBareClients(t *testing.T) {
	server, between, c, addr := cutOff(t, Options{LocalAnswers: true})
	p, bare := dial(t, addr), dial(t, server.Addr())
	cases := []struct{ before, bare, away, after string }{ // commands on a key; what is there at the end
		{"", "SET # old", "SET # new", "+none"},
		{"", "SET # old", "SETEX # 1000 new", "+none"},
		{"", "SET # old", "MSET # new", "+none"},
		{"", "SET # old", "DEL #; SET # new NX", "+none"},
		{"", "SET # 5", "SET # 1; INCR #; APPEND # 0", "+none"},
		{"", "HSET # f v", "SET # new", "+none"},
		{"SET # a; DEL #", "SET # old", "SET # new", "+none"},
		{"SET # a", "DEL #; SET # old", "SET # new", "$new"}, // the stamp of what was set is there, and claims what is
		{"SET # a", "APPEND # b", "SET # new", "$new"},
		{"SET # a", "DEL #", "SET # new", "$new"},
		{"INCR #", "SET # 7", "SET # new", "$new"},
		{"", "SET # old", "DEL #", "+none"},
		{"", "SET # 5", "INCR #", "$6"}, // operations are done on what is there
		{"", "SET # old", "APPEND # er", "$older"},
		{"", "SET # old", "DEL #; RPUSH # a", "*1 $a"},
		{"", "SADD # a", "SADD # b", "set $a $b *2"},
	}
	on := func(i int, commands string, do func(args ...string) string) {
		t.Helper()
		for text := range strings.SplitSeq(commands, "; ") {
			if text != "" {
				reply := do(line(strings.ReplaceAll(text, "#", fmt.Sprint("key", i)))...)
				require.NotEqual(t, "-", reply[:1], "%s: %s", text, reply)
			}
		}
	}
	for i, one := range cases {
		on(i, one.before, p.do)
		on(i, one.bare, bare.do)
	}
	p.do("EVAL", "return 0", "0") // behind which the proxy has heard of that
	between.Refuse()
	awaitMode(t, c, aside.Degraded)
	for i, one := range cases {
		on(i, one.away, p.do)
	}
	back(t, between, c)
	for i, one := range cases {
		require.Equal(t, one.after, contentOf(bare, fmt.Sprint("key", i)), "%+v", one)
	}
	eventually(t, "the connection that the outage has broken is made anew", func() bool { return p.do("PERSIST", "none") == ":0" })
	for i, one := range cases {
		if one.after == "+none" {
			require.Contains(t, []string{"_", "$-1"}, p.do("GET", fmt.Sprint("key", i)), "%+v", one)
		}
		require.Equal(t, "+OK", p.do("SET", fmt.Sprint("key", i), "again"))
		require.Equal(t, "$again", bare.do("GET", fmt.Sprint("key", i)))
	}
}

// Whatever others have written while Redis was well, answers in an outage are right, and what is kept is in Redis
// afterwards; but for the Sets that empty keys, by the rule of bareValues.
func TestAnswersAreNeverWrongThoughOthersWrite(t *testing.T) { //nolint:tparallel // its parts are counted together
	t.Parallel() // there is a wait for each answer
	emptied := 0
	for seed, command := range []func(*model) []string{stringCommand, anyCommand, stringCommand} {
		local := seed > 0
		t.Run(fmt.Sprint("seed ", seed, ", local answers ", local), func(t *testing.T) {
			m, through := newModel(t, uint64(seed), Options{LocalAnswers: local})
			m.answered, m.refused = make(map[string]int), make(map[string]int)
			m.foreign, m.others = m.behind(), 12
			if local {
				m.local = dial(t, redistest.Start(t).Addr())
				m.local.do("HELLO", m.protocol)
			}
			if m.server.Version() < "7" {
				command = ofRedis6(command)
			}
			m.run(through, *modelCommands/8, command)
			emptied += m.emptied
		})
	}
	t.Logf("%d Sets have emptied their keys", emptied)
}

// ofRedis6 makes commands that Redis 6.0 has.
func ofRedis6(command func(*model) []string) func(*model) []string {
	return func(m *model) []string {
		for {
			args := command(m)
			switch name := args[0]; {
			case slices.Contains([]string{"GETEX", "GETDEL", "COPY", "SMISMEMBER", "EXPIRETIME", "PEXPIRETIME"}, name),
				name == "SET" && (slices.Contains(args[3:], "GET") || slices.Contains(args[3:], "0")), // it words that error otherwise
				strings.Contains(name, "EXPIRE") && len(args) > 3:
			default:
				return args
			}
		}
	}
}
