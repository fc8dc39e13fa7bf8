package resp

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

// connected is a client that is connected through.
func connected(t testing.TB, addr string) *peer {
	t.Helper()
	p := dial(t, addr)
	require.NotContains(t, p.do("HELLO", "3"), "ERR")
	require.Equal(t, "+OK", p.do("CLIENT", "TRACKING", "ON"))
	return p
}

// A relapse would take the reply of what ends the relay for that of RESET, and so on for all that
// follow.
func TestRESETWithinATransactionOfAClientThatIsConnectedThrough(t *testing.T) {
	p := connected(t, passOn(t, redistest.Start(t).Addr()))
	require.Equal(t, "+OK", p.do("MULTI"))
	require.Equal(t, "+QUEUED", p.do("SET", "a", "1"))
	require.Equal(t, "+RESET", p.do("RESET"))
	require.Equal(t, "$x", p.do("ECHO", "x"))
	require.Equal(t, "$-1", p.do("GET", "a"))
}

// Pushes to a connection that clients share would end it.
func TestTrackingIsNotRedirectedToConnectionsOfOthers(t *testing.T) {
	server := redistest.Start(t)
	addr := passOn(t, server.Addr())
	other := dial(t, addr)
	other.do("HELLO", "3")
	require.Equal(t, ":1", other.do("HSET", "h", "f", "v"))
	id := ""
	for text := range strings.SplitSeq(server.Do("CLIENT", "LIST").(string), "\n") {
		if strings.Contains(text, "cmd=hset") {
			_, _ = fmt.Sscanf(text, "id=%s ", &id)
		}
	}
	require.NotEmpty(t, id)
	p := dial(t, addr)
	p.do("HELLO", "3")
	for _, args := range [][]string{{"CLIENT", "TRACKING", "ON", "BCAST", "REDIRECT", id}, {"client", "tracking", "on", "redirect", id, "bcast"}} {
		require.Contains(t, p.do(args...), "-ERR")
	}
	require.Equal(t, ":-1", p.do("CLIENT", "GETREDIR"))
}

func TestAClientThatIsConnectedThroughGetsItsLastReplies(t *testing.T) {
	server := redistest.Start(t)
	s, _, addr := passOnServer(t, server.Addr())
	leaves := connected(t, addr)
	leaves.send(encoded("ECHO", "a") + encoded("ECHO", "b"))
	require.NoError(t, leaves.Conn.(interface{ CloseWrite() error }).CloseWrite())
	require.Equal(t, "$1\r\na\r\n$1\r\nb\r\n", leaves.closed())

	waits := connected(t, addr)
	waits.send(encoded("BLPOP", "l", "0"))
	eventually(t, "it waits", func() bool { return strings.Contains(server.Do("INFO", "clients").(string), "blocked_clients:1") })
	ended := make(chan error, 1)
	go func() { ended <- s.Shutdown(testContext(t)) }()
	eventually(t, "the proxy ends", s.draining.Load)
	server.Do("RPUSH", "l", "v")
	require.Equal(t, "*2\r\n$1\r\nl\r\n$1\r\nv\r\n", waits.closed())
	require.NoError(t, <-ended)
}

// A hung Redis sends nothing, so nothing else tells a subscriber that it misses messages.
func TestASubscriberIsDisconnectedWhenRedisHangs(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	between := faultproxy.New(t, server.Addr())
	_, c, addr := passOnServer(t, between.Addr())
	p := dial(t, addr)
	require.Equal(t, "*3 $subscribe $news :1", p.do("SUBSCRIBE", "news"))
	between.BlackHole()
	awaitMode(t, c, aside.Degraded)
	require.Empty(t, p.closed())
}

// CLIENT REPLY holds for what a client is connected through by, and for what follows.
func TestRepliesThatAreTurnedOffStayOffWhenAClientIsConnectedThrough(t *testing.T) {
	w := newPassingTwins(t, "3")
	for _, text := range []string{
		"CLIENT REPLY OFF|CLIENT TRACKING ON|ECHO no|RESET|ECHO a", "CLIENT REPLY SKIP|CLIENT TRACKING ON|ECHO yes|RESET|ECHO a", "CLIENT REPLY SKIP|ECHO no|CLIENT TRACKING ON|ECHO yes",
	} {
		if strings.Contains(text, "RESET") && lacks(w.behind.Version(), []string{"RESET"}) {
			continue
		}
		answers := make([]string, 0, 2)
		for _, addr := range []string{w.direct.RemoteAddr().String(), w.proxy.RemoteAddr().String()} {
			p := dial(t, addr)
			require.NotContains(t, p.do("HELLO", "3"), "ERR")
			p.send(strings.ReplaceAll(text, "|", "\r\n") + "\r\n")
			require.NoError(t, p.Conn.(interface{ CloseWrite() error }).CloseWrite())
			answers = append(answers, p.closed())
		}
		require.Equal(t, answers[0], answers[1], text)
	}
}
