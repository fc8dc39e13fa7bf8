package resp

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/cmd/aside/internal/proxy"
	"github.com/redaside/aside/internal/redistest"
)

// What clients send, and how much of it is held.

// A relapse would end the connection, and with it the commands beside the one that is too large.
func TestATooLargeValueCostsItsOwnCommandOnly(t *testing.T) {
	store, _ := newStore(t, redistest.Start(t).Addr(), "")
	s, addr := serve(t, store, Options{MaxValueBytes: 100_000, MaxRequestBytes: 300_000})
	big := strings.Repeat("x", 100_001)
	fits := big[1:]
	tooLarge := "-ERR a string of 100001 bytes is too large: the longest is of 100000 bytes (service.max_value_bytes); nothing was done"
	tooMuch := "-ERR the request is too large: its strings may have 300000 bytes in sum; nothing was done, send fewer at once"
	exchanges := []struct {
		args []string
		want string
	}{
		{[]string{"SET", "a", "1"}, "+OK"},
		{[]string{"SET", "a", big}, tooLarge},
		{[]string{"GET", "a"}, "$1"},
		{[]string{"MSET", "a", "2", "b", big, "c", "3"}, tooLarge},
		{[]string{"MGET", "a", "b", "c"}, "*3 $1 $-1 $-1"},
		{[]string{"SET", "a", strings.Repeat("x", 20<<20)}, strings.Replace(tooLarge, "100001", "20971520", 1)},
		{[]string{"GET", big}, tooLarge},
		{[]string{big}, tooLarge},
		{[]string{big, big, big, big, big}, tooLarge},
		{[]string{"APPEND", "a", big}, tooLarge},
		{[]string{"SETNX", "d", big}, tooLarge},
		{[]string{"SETEX", "d", "10", big}, tooLarge},
		{[]string{"nonsense", big}, tooLarge},
		{[]string{"INCR", "a"}, ":2"},
		{[]string{"MSET", "a", fits, "b", fits, "c", fits}, tooMuch},
		{append([]string{"DEL"}, make([]string, 30_000)...), tooMuch},
		{[]string{"GET", "a"}, "$2"},
		{[]string{"SET", "a", fits}, "+OK"},
		{[]string{"STRLEN", "a"}, ":100000"},
	}
	for _, pipelined := range []bool{false, true} {
		p := dial(t, addr)
		var all strings.Builder
		for _, e := range exchanges {
			if pipelined {
				all.WriteString(encoded(e.args...))
			} else {
				require.Equal(t, e.want, p.do(e.args...), "%.50q", e.args)
			}
		}
		if !pipelined {
			continue
		}
		go func() { _, _ = io.WriteString(p, all.String()) }() // ends with the replies
		for _, e := range exchanges {
			require.Equal(t, e.want, p.reply(), "%.50q", e.args)
		}
	}
	require.Zero(t, s.Stats().ProtocolErrors)

	// Beyond what Redis itself would take, the end is not waited for.
	for text, want := range map[string]string{
		"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$536870913\r\n": "-ERR Protocol error: invalid bulk length\r\n",
	} {
		p := dial(t, addr)
		p.send(text)
		require.Equal(t, want, p.closed())
	}
	require.EqualValues(t, 1, s.Stats().ProtocolErrors)
}

func TestWhatIsReadAwayIsNotHeld(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const size = 200 << 20
	source := io.MultiReader(strings.NewReader(fmt.Sprintf("*3\r\n$3\r\nSET\r\n$1\r\na\r\n$%d\r\n", size)), io.LimitReader(zeros{}, size),
		strings.NewReader("\r\n"+encoded("PING")))
	all, err := readAll(source, false)
	require.Equal(t, io.EOF, err)
	require.Len(t, all, 2)
	require.Contains(t, all[0][0], "a string of 209715200 bytes is too large")
	require.Equal(t, []string{"PING"}, all[1])
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20))
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// A relapse would let a few connections that never end their requests take all memory there is.
func TestWhatAllConnectionsReceiveIsBoundedInSum(t *testing.T) {
	store, _ := newStore(t, redistest.Start(t).Addr(), "")
	const limit = 10 << 20
	store.LimitReceiving(limit)
	s, addr := serve(t, store, Options{})
	hoarders := make([]*peer, 20)
	for i := range hoarders {
		hoarders[i] = dial(t, addr)
		hoarders[i].send("*3\r\n$3\r\nSET\r\n$1\r\nh\r\n$8000000\r\n" + strings.Repeat("x", 4_000_000))
	}
	neighbour := dial(t, addr)
	eventually(t, "no more is held", func() bool {
		answer := neighbour.do("SET", "large", strings.Repeat("x", 3_000_000))
		require.LessOrEqual(t, store.Receiving().Used(), int64(limit))
		return answer == "-"+tooMuchAtOnce
	})
	require.Equal(t, "+OK", neighbour.do("SET", "small", strings.Repeat("x", 15_000)), "what is small is served")
	require.Len(t, neighbour.do("GET", "small"), 15_001)

	// Each of them may end its request, and is answered.
	var done, busy int
	for _, p := range hoarders {
		p.send(strings.Repeat("x", 4_000_000) + "\r\n" + encoded("PING"))
		switch answer := p.reply(); answer {
		case "+OK":
			done++
		case "-" + tooMuchAtOnce:
			busy++
		default:
			t.Fatal(answer)
		}
		require.Equal(t, "+PONG", p.reply())
		require.LessOrEqual(t, store.Receiving().Used(), int64(limit))
	}
	require.Positive(t, done)
	require.Positive(t, busy)
	require.Equal(t, "+OK", neighbour.do("SET", "large", strings.Repeat("x", 3_000_000)), "there is room again")
	for _, p := range hoarders {
		p.send("*3\r\n$3\r\nSET\r\n$1\r\nh\r\n$8000000\r\n" + strings.Repeat("x", 1_000_000))
		p.Close()
	}
	neighbour.Close()
	eventually(t, "nothing is held for those that have gone", func() bool { return s.Stats().Connected == 0 && store.Receiving().Used() == 0 })
}

func TestARequestThatHasBegunMustArriveInTime(t *testing.T) {
	t.Parallel()
	store, _ := newStore(t, redistest.Start(t).Addr(), "")
	s, addr := serve(t, store, Options{ReceiveTimeout: 300 * time.Millisecond})
	idle := dial(t, addr)
	require.Equal(t, "+PONG", idle.do("PING"))
	for _, text := range []string{"*", "*2\r\n$3\r\nGET\r\n$10\r\nha", "GET a", encoded("PING") + "*3\r\n$3\r\nSET\r\n$1\r\na\r\n$9999999\r\n" + strings.Repeat("x", 100_000)} {
		p := dial(t, addr)
		p.send(text)
		require.Contains(t, p.closed(), "-ERR Protocol error: the request has not arrived within 300ms\r\n", "%.50q", text)
	}
	trickle := dial(t, addr)
	go func() { // ends with the connection
		for {
			if _, err := trickle.Write([]byte("x")); err != nil {
				return
			}
			time.Sleep(10 * time.Millisecond) // a client that sends slowly
		}
	}()
	require.Contains(t, trickle.closed(), "has not arrived within")
	require.Equal(t, "+PONG", idle.do("PING"), "a connection without a request is not ended")
	eventually(t, "they are gone", func() bool { return s.Stats().Connected == 1 })
}

// Most clients' pipelines are sent as a whole before the first reply is read. A relapse waits for
// the client to read, which waits for us to read.
func TestAPipelineOfAnySizeIsAnsweredThoughItsClientReadsLate(t *testing.T) {
	store, _ := newStore(t, redistest.Start(t).Addr(), "")
	const commands = 200_000
	value := strings.Repeat("v", 200) // 40 MB of replies, more than any kernel's buffers hold
	for name, options := range map[string]Options{"plain": {}, "TLS": {TLS: selfSigned(t)}} {
		t.Run(name, func(t *testing.T) {
			s, addr := serve(t, store, options)
			p := dial(t, addr)
			if options.TLS != nil {
				over := tls.Client(p.Conn, &tls.Config{InsecureSkipVerify: true})
				p = &peer{t, over, bufio.NewReader(over)}
			}
			require.Equal(t, "+OK", p.do("SET", "key", value))
			p.send(strings.Repeat(encoded("GET", "key"), commands))
			for range commands {
				require.Equal(t, "$"+value, p.reply())
			}
			require.Equal(t, "+PONG", p.do("PING"), "and goes on")
			require.NoError(t, p.Close())
			eventually(t, "nothing is held any more", func() bool { return s.Stats().Connected == 0 && store.Receiving().Used() == 0 })
		})
	}
}

// How much is read ahead has an end, and so has the patience with a client that never reads.
func TestWhoNeverReadsCostsABoundedAmount(t *testing.T) {
	store, _ := newStore(t, redistest.Start(t).Addr(), "")
	s, addr := serve(t, store, Options{WriteTimeout: time.Second, MaxRequestBytes: 1 << 20, MaxValueBytes: 1 << 20})
	neighbour := dial(t, addr)
	require.Equal(t, "+OK", neighbour.do("SET", "key", strings.Repeat("v", 100_000)))
	var senders sync.WaitGroup
	for range 3 {
		p := dial(t, addr)
		senders.Go(func() { // ends when it is cut off
			for {
				if _, err := io.WriteString(p, strings.Repeat(encoded("GET", "key"), 1000)); err != nil {
					return
				}
			}
		})
	}
	gone := make(chan struct{})
	go func() { senders.Wait(); close(gone) }() // ends with them
	for over := false; !over; {
		select {
		case <-gone:
			over = true
		default:
		}
		require.LessOrEqual(t, store.Receiving().Used(), int64(3<<20))
		require.Equal(t, "+PONG", neighbour.do("PING"))
	}
	eventually(t, "they are gone", func() bool { return s.Stats().Connected == 1 && store.Receiving().Used() == 0 })
}

func TestNothingIsReadAheadOfWhoHasYetToLogIn(t *testing.T) {
	t.Parallel()
	store, _ := newStore(t, unreachable, "")
	_, addr := serve(t, store, Options{Password: "s3cret", WriteTimeout: time.Second})
	p := dial(t, addr)
	for {
		if _, err := io.WriteString(p, strings.Repeat(encoded("GET", "key"), 10_000)); err != nil {
			break
		}
		require.Zero(t, store.Receiving().Used())
	}
}

// Redis and the journal need descriptors, too.
func TestClientsLeaveDescriptorsForOthers(t *testing.T) {
	store, _ := newStore(t, unreachable, "")
	budget := store.Connections()
	if budget.Limit() == 0 {
		t.Skip("there is no limit of open files here")
	}
	s, addr := serve(t, store, Options{})
	first := dial(t, addr)
	require.Equal(t, "+PONG", first.do("PING"))
	rest := budget.Limit() - budget.Used()
	require.True(t, budget.Take(rest)) // as the other front end does
	require.Equal(t, "-ERR max number of clients reached\r\n", dial(t, addr).closed())
	require.EqualValues(t, 1, s.Stats().Refused)
	require.Equal(t, "+PONG", first.do("PING"))
	budget.Give(rest)
	require.Equal(t, "+PONG", dial(t, addr).do("PING"))
	first.Close()
	eventually(t, "its place is free", func() bool { return budget.Used() == 1 })
}

// The read side alone, with a connection whose writes never end: whatever order things happen in,
// nothing that was sent is lost or turned round.
func TestWhatWasReadAheadIsReadInOrder(t *testing.T) {
	for round := range 20 {
		ours, theirs := net.Pipe()
		budget := proxy.NewBudget(1 << 20)
		in := newIntake(ours, budget, 1<<20)
		sent := make([]byte, 3<<20)
		for i := range sent {
			sent[i] = byte(i * 7 / 3)
		}
		go func() { // ends with what it sends
			for rest := sent; len(rest) > 0; {
				n := min(len(rest), 1+(len(rest)*31+round)%50_000)
				_, _ = theirs.Write(rest[:n])
				rest = rest[n:]
			}
			theirs.Close()
		}()
		var got []byte
		buf := make([]byte, 10_000)
		for i := 0; ; i++ {
			if i%(round+2) == 0 {
				in.readAhead()
			}
			n, err := in.Read(buf)
			got = append(got, buf[:n]...)
			if err != nil {
				require.Equal(t, io.EOF, err)
				break
			}
			require.LessOrEqual(t, budget.Used(), int64(1<<20))
		}
		require.True(t, string(sent) == string(got))
		ours.Close()
		in.end()
		require.Zero(t, budget.Used())
	}
}
