package resp

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/cmd/aside/internal/proxy"
	"github.com/redaside/aside/internal/redistest"
)

// Clients as they are.

func TestAPipelineIsAnsweredInOrder(t *testing.T) {
	store, _ := newStore(t, redistest.Start(t).Addr(), "")
	_, addr := serve(t, store, Options{})
	p := dial(t, addr)
	var text strings.Builder
	var want []string
	for i := range 500 {
		key := fmt.Sprint("k", i%7)
		text.WriteString(encoded("SET", key, fmt.Sprint(i)) + encoded("GET", key) + "ECHO inline\r\n" +
			encoded("nonsense") + encoded("EXISTS", key, key) + "*0\r\n" + encoded("INCR", key))
		want = append(want, "+OK", fmt.Sprint("$", i), "$inline", "-ERR unknown command 'nonsense', with args beginning with: ", ":2", fmt.Sprint(":", i+1))
	}
	go func() { _, _ = io.WriteString(p, text.String()) }() // ends with the replies
	for i := range want {
		require.Equal(t, want[i], p.reply(), "reply %d", i)
	}
}

// Every write of the server's is counted: a relapse would be one for each reply, or, worse, a reply
// that waits for what comes after it.
func TestRepliesOfAPipelineAreSentTogetherAndNeverKept(t *testing.T) {
	store, _ := newStore(t, redistest.Start(t).Addr(), "")
	s := New(store, Options{Logger: quiet})
	defer s.Close()
	ours, theirs := tcpPair(t)
	counted := &countedConn{Conn: ours}
	s.accept(counted)
	p := &peer{t, theirs, bufio.NewReader(theirs)}
	require.Equal(t, "+OK", p.do("SET", "a", "v"))
	require.Equal(t, "$v", p.do("GET", "a"))
	counted.writes.Store(0)
	p.send(strings.Repeat(encoded("GET", "a"), 16)) // one segment
	for range 16 {
		require.Equal(t, "$v", p.reply())
	}
	require.LessOrEqual(t, counted.writes.Load(), int64(2))

	// Half a request does not keep the replies to what came before it, wherever it is cut.
	whole := encoded("GET", "a") + encoded("ECHO", "hello")
	for cut := len(encoded("GET", "a")); cut < len(whole); cut++ {
		p.send(whole[:cut])
		require.Equal(t, "$v", p.reply(), "cut at %d", cut)
		p.send(whole[cut:])
		require.Equal(t, "$hello", p.reply())
	}

	// What is held back is bounded: before a pipeline's end is there, its beginning has been
	// answered.
	p.send(encoded("SET", "big", strings.Repeat("x", 5000)))
	require.Equal(t, "+OK", p.reply())
	counted.writes.Store(0)
	p.send(strings.Repeat(encoded("GET", "big"), 20))
	for range 20 {
		require.Len(t, p.reply(), 5001)
	}
	require.GreaterOrEqual(t, counted.writes.Load(), int64(20*5000/heldBack))
}

type countedConn struct {
	net.Conn
	writes atomic.Int64
}

func (c *countedConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

// tcpPair returns both ends of a connection.
func tcpPair(t testing.TB) (server, client net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	client, err = net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	server, err = ln.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { client.Close(); server.Close() })
	require.NoError(t, client.SetDeadline(time.Now().Add(patience)))
	return server, client
}

// A client that reads none of its replies delays no other, costs a bounded amount, and is gone
// after WriteTimeout.
func TestSlowReadersHoldUpNobody(t *testing.T) {
	t.Parallel()
	store, _ := newStore(t, redistest.Start(t).Addr(), "")
	s, addr := serve(t, store, Options{WriteTimeout: 5 * time.Second})
	neighbour := dial(t, addr)
	require.Equal(t, "+OK", neighbour.do("SET", "big", strings.Repeat("x", 1<<20)))
	for range 20 {
		slow := dial(t, addr)
		slow.send(strings.Repeat(encoded("GET", "big"), 100))
	}
	eventually(t, "all have sent", func() bool { return s.Stats().Connected == 21 })
	for range 100 {
		require.Equal(t, "+PONG", neighbour.do("PING"))
	}
	eventually(t, "they are gone", func() bool { return s.Stats().Connected == 1 })
	require.Equal(t, "+PONG", neighbour.do("PING"))
}

func TestAThousandIdleConnectionsAreServed(t *testing.T) {
	store, _ := newStore(t, redistest.Start(t).Addr(), "")
	s, addr := serve(t, store, Options{})
	peers := make([]*peer, 1000)
	for i := range peers {
		peers[i] = dial(t, addr)
		require.Equal(t, "+PONG", peers[i].do("PING"))
	}
	require.Equal(t, 1000, s.Stats().Connected)
	for _, p := range peers {
		require.Equal(t, "+PONG", p.do("PING"))
	}
	for _, p := range peers {
		p.Close()
	}
	eventually(t, "they are gone", func() bool { return s.Stats().Connected == 0 })
}

func TestOneConnectionTooManyIsToldSo(t *testing.T) {
	store, _ := newStore(t, unreachable, "")
	s, addr := serve(t, store, Options{MaxConnections: 2})
	first, second := dial(t, addr), dial(t, addr)
	require.Equal(t, "+PONG", first.do("PING"))
	require.Equal(t, "+PONG", second.do("PING"))
	require.Equal(t, "-ERR max number of clients reached\r\n", dial(t, addr).closed())
	require.EqualValues(t, 1, s.Stats().Refused)
	first.Close()
	eventually(t, "its place is free", func() bool { return s.Stats().Connected == 1 })
	require.Equal(t, "+PONG", dial(t, addr).do("PING"))
}

func TestIdleConnectionsEnd(t *testing.T) {
	t.Parallel()
	store, _ := newStore(t, unreachable, "")
	_, addr := serve(t, store, Options{IdleTimeout: time.Second})
	idle, half := dial(t, addr), dial(t, addr)
	require.Equal(t, "+PONG", idle.do("PING"))
	half.send("*2\r\n$3\r\nGET\r\n$10\r\nha")
	require.Empty(t, idle.closed())
	require.Empty(t, half.closed(), "half a request is idle, too")
}

func TestATooLongKeyIsRefused(t *testing.T) {
	store, _ := newStore(t, unreachable, "")
	_, addr := serve(t, store, Options{})
	p := dial(t, addr)
	require.Contains(t, p.do("GET", strings.Repeat("k", 1024)), "-ASIDEDEGRADED", "the longest that is none too long")
	_, addr = serve(t, store, Options{MaxKeyBytes: 10})
	p = dial(t, addr)
	for _, text := range []string{"GET", "SET", "DEL", "MGET", "EXISTS", "TTL", "TYPE", "MSET", "INCR", "SETNX", "GETDEL", "STRLEN"} {
		args := []string{text, strings.Repeat("k", 11)}
		if text == "SET" || text == "MSET" || text == "SETNX" {
			args = append(args, "v")
		}
		require.Contains(t, p.do(args...), "-ERR the key or value is too large: keys may have 10 bytes", text)
	}
}

func TestAPanicIsAnErrorOfItsCommandAlone(t *testing.T) {
	var log lockedBuilder
	s := New(proxy.NewStore(nil, 0), Options{Logger: slog.New(slog.NewTextHandler(&log, nil))}) // a Store without a Client: GET panics
	defer s.Close()
	ours, theirs := tcpPair(t)
	s.accept(ours)
	p := &peer{t, theirs, bufio.NewReader(theirs)}
	p.send(encoded("GET", "a") + encoded("PING"))
	require.Contains(t, p.reply(), "-ERR internal error")
	require.Equal(t, "+PONG", p.reply())
	require.EqualValues(t, 1, s.Stats().Panics)
	require.Contains(t, p.do("MSET", "a", "1", "b", "2"), "-ERR internal error", "on goroutines of its own, which nobody else recovers")
	require.EqualValues(t, 3, s.Stats().Panics)
	require.Contains(t, log.String(), "away.go", "the stack says where")
	require.NotContains(t, log.String(), "\"a\"")

	// Where half a reply is out, what followed it would be taken for the other half.
	c := newConn(s, ours, 99)
	c.run("HALF", &command{arity: 1, run: func(c *conn, _ []string) {
		c.array(2)
		c.bulk("the first")
		panic("before the second")
	}}, nil)
	require.True(t, c.closing)
	require.NoError(t, c.during(func() error { return c.ctx.Err() }), "what is passed on next has a time of its own")
	require.EqualValues(t, 4, s.Stats().Panics)
}

// lockedBuilder is a strings.Builder for many.
type lockedBuilder struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuilder) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuilder) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestShutdownAnswersWhatIsUnderWay(t *testing.T) {
	server := redistest.Start(t)
	store, _ := newStore(t, server.Addr(), "")
	under, proceed := make(chan struct{}), make(chan struct{})
	var once sync.Once
	s, addr := serve(t, store, Options{Observe: func(a proxy.Answered) {
		if a.Command == "ECHO" {
			once.Do(func() { close(under); <-proceed })
		}
	}})
	busy, idle, half := dial(t, addr), dial(t, addr), dial(t, addr)
	require.Equal(t, "+PONG", idle.do("PING"))
	half.send("*2\r\n$3\r\nGET")
	busy.send(encoded("ECHO", "1") + encoded("ECHO", "2") + encoded("ECHO", "3"))
	<-under
	done := make(chan error, 1)
	go func() { done <- s.Shutdown(testContext(t)) }() // ends with busy's connection
	require.Empty(t, idle.closed())
	require.Empty(t, half.closed())
	_, err := net.Dial("tcp", addr)
	require.Error(t, err, "nobody is let in any more")
	select {
	case err := <-done:
		t.Fatalf("it has not waited: %v", err)
	default:
	}
	close(proceed)
	require.Equal(t, "$1\r\n1\r\n$1\r\n2\r\n$1\r\n3\r\n", busy.closed())
	require.NoError(t, <-done)
	require.Zero(t, s.Stats().Connected)
}

func TestShutdownCutsOffWhatDoesNotEnd(t *testing.T) {
	store, _ := newStore(t, redistest.Start(t).Addr(), "")
	s, addr := serve(t, store, Options{})
	slow := dial(t, addr)
	require.Equal(t, "+OK", slow.do("SET", "big", strings.Repeat("x", 1<<20)))
	slow.send(strings.Repeat(encoded("GET", "big"), 100)) // and takes nothing of it
	eventually(t, "it is being served", func() bool { return s.Stats().Commands > 2 })
	ctx, cancel := context.WithTimeout(testContext(t), 100*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, s.Shutdown(ctx), context.DeadlineExceeded)
	require.Zero(t, s.Stats().Connected)
}

func TestObserveIsToldOfEachCommand(t *testing.T) {
	type seen struct {
		name   string
		failed bool
	}
	all := make(chan seen, 10)
	store, _ := newStore(t, unreachable, "")
	_, addr := serve(t, store, Options{Observe: func(a proxy.Answered) {
		if a.Took >= 0 {
			all <- seen{a.Command, a.Failed}
		}
	}})
	p := dial(t, addr)
	p.do("ping")
	p.do("nonsense")
	p.do("GET", "a")
	for _, want := range []seen{{"PING", false}, {"UNKNOWN", true}, {"GET", true}} {
		require.Equal(t, want, <-all)
	}
}

func TestObserveIsToldOfEachKindInABatch(t *testing.T) {
	server := redistest.Start(t)
	store, c := newStore(t, server.Addr(), "")
	awaitMode(t, c, aside.Healthy)
	all := make(chan proxy.Answered, 10)
	s, addr := serve(t, store, Options{
		Redis: &rueidis.ClientOption{InitAddress: []string{server.Addr()}}, Observe: func(a proxy.Answered) { all <- a },
	})
	server.Do("SET", "s", "v")
	p := dial(t, addr)
	hget, wrong, llen := encoded("HGET", "h", "f"), encoded("HGET", "s", "f"), encoded("LLEN", "l")
	p.send(hget + hget + hget + wrong + llen + llen + hget)
	for range 7 {
		p.reply()
	}
	type kind struct {
		name   string
		failed bool
	}
	total := make(map[kind]int)
	for count := 0; count < 7; {
		a := <-all
		count += a.Count
		require.False(t, a.At.IsZero())
		require.GreaterOrEqual(t, a.Took, time.Duration(0))
		total[kind{a.Command, a.Failed}] += a.Count
	}
	require.Equal(t, map[kind]int{{"HGET", false}: 4, {"HGET", true}: 1, {"LLEN", false}: 2}, total)
	require.Equal(t, int64(7), s.Stats().Commands)
	require.Equal(t, int64(1), s.Stats().Failed)
}

func TestOptionsThatCannotBeRightAreReportedAtOnce(t *testing.T) {
	err := Options{MaxValueBytes: -1, MaxKeyBytes: -2, MaxConnections: -3, IdleTimeout: -4, ReceiveTimeout: -8, RequestTimeout: -5, WriteTimeout: -6, DB: -7}.Validate()
	for _, name := range []string{
		"MaxValueBytes is -1", "MaxKeyBytes is -2", "MaxConnections is -3",
		"IdleTimeout is -4ns", "ReceiveTimeout is -8ns", "RequestTimeout is -5ns", "WriteTimeout is -6ns", "DB is -7",
	} {
		require.ErrorContains(t, err, name)
	}
	require.NoError(t, Options{}.Validate())
}
