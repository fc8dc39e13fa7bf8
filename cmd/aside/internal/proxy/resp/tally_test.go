package resp

import (
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/cmd/aside/internal/proxy"
	"github.com/redaside/aside/internal/redistest"
)

type answeredKind struct {
	name   string
	failed bool
}

// sums adds up what Observe is told.
type sums struct {
	mu    sync.Mutex
	told  []proxy.Answered
	total map[answeredKind]int
	took  time.Duration
}

func (s *sums) observe(a proxy.Answered) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.total == nil {
		s.total = make(map[answeredKind]int)
	}
	s.told = append(s.told, a)
	s.total[answeredKind{a.Command, a.Failed}] += a.Count
	if a.Command != "HGET" { // what is passed on together has each the time of all
		s.took += time.Duration(a.Count) * a.Took
	}
}

// What is counted is what was sent, one by one and in a pipeline, with failures, commands that wait
// for Redis and commands that are passed on between what is answered from memory.
func TestWhatIsCountedIsWhatWasSent(t *testing.T) {
	server := redistest.Start(t)
	store, c := newStore(t, server.Addr(), "")
	awaitMode(t, c, aside.Healthy)
	server.Do("RPUSH", "list", "a")
	get, hget := []string{"GET", "hot"}, []string{"HGET", "h", "f"}
	var sent [][]string
	for range 300 {
		sent = append(sent, get)
	}
	sent = append(sent, []string{"get", "list"}, get, []string{"GET"}, get, []string{"TTL", "hot"}, []string{"nonsense"}, get, hget, hget, get, get,
		[]string{"STRLEN", "cold"}, []string{"STRLEN", "cold"}, []string{"EXISTS", "hot"}, []string{"TYPE", "hot"}, []string{"PING"}, []string{"SET", "other", "v"},
		[]string{"PTTL", "hot"}, []string{"GET", "aside:own"}, get, []string{"EXISTS", "hot", "list"}, []string{"SETEX", "hot"}, get)
	want := map[answeredKind]int{
		{"GET", false}: 307, {"GET", true}: 3, {"TTL", false}: 1, {"UNKNOWN", true}: 1, {"HGET", false}: 2, {"STRLEN", false}: 2, {"EXISTS", false}: 2,
		{"TYPE", false}: 1, {"PING", false}: 1, {"SET", false}: 2, {"PTTL", false}: 1, {"SETEX", true}: 1,
	}
	for name, atOnce := range map[string]int{"one by one": 1, "seven at once": 7, "all at once": len(sent)} {
		t.Run(name, func(t *testing.T) {
			server.Do("DEL", "cold")
			var seen sums
			s, addr := serve(t, store, Options{Redis: &rueidis.ClientOption{InitAddress: []string{server.Addr()}}, Observe: seen.observe})
			p := dial(t, addr)
			start := time.Now()
			require.Equal(t, "+OK", p.do("SET", "hot", "v"))
			for rest := sent; len(rest) > 0; {
				n := min(atOnce, len(rest))
				var b strings.Builder
				for _, args := range rest[:n] {
					b.WriteString(encoded(args...))
				}
				p.send(b.String())
				for range n {
					p.reply()
				}
				rest = rest[n:]
			}
			require.NoError(t, p.Close())
			eventually(t, "it has ended", func() bool { return s.Stats().Connected == 0 })
			elapsed := time.Since(start)
			seen.mu.Lock()
			defer seen.mu.Unlock()
			require.Equal(t, want, seen.total)
			require.EqualValues(t, len(sent)+1, s.Stats().Commands)
			require.EqualValues(t, 5, s.Stats().Failed)
			for _, a := range seen.told {
				require.GreaterOrEqual(t, a.Took, time.Duration(0))
				require.False(t, a.At.IsZero())
				require.LessOrEqual(t, a.Count, mostTallied)
			}
			require.LessOrEqual(t, seen.took, elapsed, "no time is counted twice")
		})
	}
}

// A tally's time is that of all in it, and a command that has waited has its own.
func TestATallyIsToldWithTheTimeOfEach(t *testing.T) {
	var seen sums
	store, _ := newStore(t, unreachable, "")
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	c := newConn(New(store, Options{Logger: quiet, Observe: seen.observe}), ours, 1)
	start := time.Now()
	c.now = start
	for range 3 {
		require.False(t, c.tally.add("GET", false))
	}
	require.False(t, c.tally.add("TTL", true))
	c.tellUntil(start.Add(40 * time.Microsecond))
	end := start.Add(40 * time.Microsecond)
	require.Equal(t, []proxy.Answered{
		{Command: "GET", Count: 3, Took: 10 * time.Microsecond, At: end},
		{Command: "TTL", Count: 1, Took: 10 * time.Microsecond, At: end, Failed: true},
	}, seen.told)
	require.Equal(t, end, c.now)
	c.tellUntil(end.Add(time.Second))
	require.Len(t, seen.told, 2, "nothing is told twice")
	require.Equal(t, end, c.now)
	for range mostTallied - 1 {
		require.False(t, c.tally.add("GET", false))
	}
	require.True(t, c.tally.add("GET", false))
}

// What waits for Redis, or for the client to take replies, is told by itself. A relapse would give its
// time to those beside it.
func TestWhatHasWaitedIsCountedByItself(t *testing.T) {
	server := redistest.Start(t)
	store, c := newStore(t, server.Addr(), "")
	awaitMode(t, c, aside.Healthy)
	var seen sums
	s, addr := serve(t, store, Options{Observe: seen.observe})
	p := dial(t, addr)
	require.Equal(t, "+OK", p.do("SET", "hot", "value"))
	p.do("GET", "hot")
	strlen := encoded("STRLEN", "hot")
	server.Do("SET", "cold", "v")
	p.send(strlen + encoded("STRLEN", "cold") + strlen + strlen)
	require.Equal(t, ":5", p.reply())
	require.Equal(t, ":1", p.reply())
	require.Equal(t, ":5", p.reply())
	require.Equal(t, ":5", p.reply())
	require.Contains(t, p.do("CLIENT", "LIST"), "cmd=client")
	big := strings.Repeat("b", 2*heldBack)
	require.Equal(t, "+OK", p.do("SET", "big", big))
	require.Equal(t, "$"+big, p.do("GET", "big"))
	p.send(encoded("GET", "hot") + encoded("GET", "hot") + encoded("GET", "big"))
	for _, value := range []string{"value", "value", big} {
		require.Equal(t, "$"+value, p.reply())
	}
	require.NoError(t, p.Close())
	eventually(t, "it has ended", func() bool { return s.Stats().Connected == 0 })
	seen.mu.Lock()
	defer seen.mu.Unlock()
	require.Equal(t, 4, seen.total[answeredKind{"STRLEN", false}])
	require.Equal(t, 5, seen.total[answeredKind{"GET", false}])
	alone, gets := 0, 0
	for _, a := range seen.told {
		switch {
		case a.Command == "STRLEN" && a.Count == 1:
			alone++
		case a.Command == "GET":
			gets++
		}
	}
	require.GreaterOrEqual(t, alone, 2, "the first, before the one that waits, and that one")
	require.GreaterOrEqual(t, gets, 4, "one by one, those before the one that is sent in parts, and that one")
}
