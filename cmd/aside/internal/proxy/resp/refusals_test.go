package resp

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/redistest"
)

// counted are the refusals as "command client count example".
func counted(s *Server) (lines []string) {
	for _, r := range s.Refusals() {
		lines = append(lines, fmt.Sprintf("%s|%s|%d|%s", r.Command, r.Client, r.Count, r.Example))
	}
	return lines
}

func TestWhatAnOutageRefusesIsCountedByCommandAndClient(t *testing.T) {
	server := redistest.Start(t)
	store, c := newStore(t, server.Addr(), t.TempDir())
	s, addr := serve(t, store, Options{Redis: &rueidis.ClientOption{InitAddress: []string{server.Addr()}}})
	named, library, nameless := dial(t, addr), dial(t, addr), dial(t, addr)
	require.Equal(t, "+OK", named.do("CLIENT", "SETNAME", "shop"))
	require.Equal(t, "+OK", library.do("CLIENT", "SETINFO", "LIB-NAME", "ioredis"))
	require.Equal(t, ":1", named.do("ZADD", "board", "1", "ann"))
	require.Equal(t, ":0", library.do("PUBLISH", "news", "hello"))
	require.Empty(t, s.Refusals())

	server.Kill()
	awaitMode(t, c, aside.Degraded)
	for range 3 {
		require.Contains(t, named.do("ZADD", "board", "1", "secret"), "-ASIDEDEGRADED")
	}
	require.Contains(t, library.do("EVAL", "return 1", "1", "limit:ann", "secret"), "-ASIDEDEGRADED")
	require.Contains(t, library.do("BLPOP", "jobs", "more jobs", "1"), "-ASIDEDEGRADED")
	require.Contains(t, nameless.do("OBJECT", "ENCODING", "never-seen"), "-ASIDEDEGRADED")
	require.Contains(t, nameless.do("GET", "never-seen"), "-ASIDEDEGRADED")
	require.Equal(t, "+OK", nameless.do("SET", "kept", "v"))
	require.Contains(t, nameless.do("NONSENSE"), "-ERR unknown command")
	eval, object := "EVAL|ioredis|1|EVAL limit:ann …", "OBJECT|ENCODING||1|OBJECT ENCODING never-seen"
	if server.Version() < "7" { // where such keys are, and that commands have others within, COMMAND does not say
		eval, object = "EVAL|ioredis|1|EVAL …", "OBJECT||1|OBJECT never-seen …"
	}
	require.Equal(t, []string{"ZADD|shop|3|ZADD board …", "BLPOP|ioredis|1|BLPOP jobs \"more jobs\" …", eval, "GET||1|GET never-seen", object}, counted(s))
}

// A client may send anything, and call itself anything.
func TestRefusalsTakeBoundedMemory(t *testing.T) {
	store, _ := newStore(t, unreachable, t.TempDir())
	s, addr := serve(t, store, Options{Redis: &rueidis.ClientOption{InitAddress: []string{unreachable}}})
	p := dial(t, addr)
	for i := range mostRefusals + 50 {
		require.Contains(t, p.do(fmt.Sprintf("COMMAND%d", i)+strings.Repeat("x", 100), "k"), "-ASIDEDEGRADED")
	}
	all := s.Refusals()
	require.Len(t, all, mostRefusals+1)
	require.Equal(t, "OTHER", all[0].Command)
	require.Equal(t, int64(50), all[0].Count)
	require.LessOrEqual(t, len(all[1].Command), longestName)
	require.WithinDuration(t, time.Now(), all[0].Last, patience)
}

// It counts, and changes nothing.
func TestWhatAnOutageWouldRefuseIsCountedWhileRedisIsWell(t *testing.T) {
	server := redistest.Start(t)
	option := &rueidis.ClientOption{InitAddress: []string{server.Addr()}}
	store, c := newStore(t, server.Addr(), t.TempDir())
	s, addr := serve(t, store, Options{Redis: option, CheckApp: true})
	p := dial(t, addr)
	require.Equal(t, "+OK", p.do("CLIENT", "SETNAME", "shop"))
	require.Equal(t, "+OK", p.do("SET", "k", "1"))
	require.Equal(t, "$1", p.do("GET", "k"))
	require.Equal(t, ":2", p.do("INCR", "k"))
	require.Equal(t, ":1", p.do("ZADD", "z", "1", "secret"))
	require.Equal(t, ":1", p.do("ZADD", "y", "1", "secret"))
	require.Equal(t, "+OK", p.do("MULTI"))
	require.Equal(t, "+QUEUED", p.do("ZADD", "z", "1", "b"))
	require.Equal(t, "*1 :1", p.do("EXEC"))
	require.Equal(t, "$embstr", p.do("OBJECT", "ENCODING", "other")[:1]+"embstr")
	require.Equal(t, ":1", p.do("DEL", "k"))
	want := map[string]Outage{"ZADD 2 ZADD z …": Refused, "GET 1 GET k": Answered, "INCR 1 INCR k": KeptAsOperation, "MULTI 1 MULTI": KeptIfKnown, "OBJECT|ENCODING 1 OBJECT ENCODING other": Refused}
	if server.Version() < "7" {
		delete(want, "OBJECT|ENCODING 1 OBJECT ENCODING other")
		want["OBJECT 1 OBJECT other …"] = Refused
	}
	got := make(map[string]Outage)
	for _, r := range s.Checked() {
		require.Equal(t, "shop", r.Client)
		got[fmt.Sprintf("%s %d %s", r.Command, r.Count, r.Example)] = r.Outage
	}
	require.Equal(t, want, got)
	require.Empty(t, s.Refusals())

	server.Kill()
	awaitMode(t, c, aside.Degraded)
	require.Contains(t, p.do("ZADD", "z", "1", "c"), "-ASIDEDEGRADED")
	require.Len(t, s.Checked(), len(want), "what is refused is not what would be")
	require.Len(t, s.Refusals(), 1)
}
