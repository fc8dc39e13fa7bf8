package faultproxy

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Long enough for a byte that is not held to arrive, short enough to wait for in vain.
const inVain = 50 * time.Millisecond

// upstream answers each line "X" with "+X", and pushes what the test wants. Safe for concurrent
// use.
type upstream struct {
	net.Listener
	lines atomic.Int64

	mu    sync.Mutex
	conns []net.Conn
}

func newUpstream(t *testing.T) *upstream {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	u := &upstream{Listener: listener}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := u.Accept()
			if err != nil {
				return
			}
			u.mu.Lock()
			u.conns = append(u.conns, conn)
			u.mu.Unlock()
			wg.Go(func() {
				defer conn.Close()
				for lines := bufio.NewScanner(conn); lines.Scan(); {
					u.lines.Add(1)
					_, _ = io.WriteString(conn, "+"+lines.Text()+"\r\n")
				}
			})
		}
	})
	t.Cleanup(func() {
		u.Close()
		u.mu.Lock()
		for _, conn := range u.conns {
			conn.Close()
		}
		u.mu.Unlock()
		wg.Wait()
	})
	return u
}

func (u *upstream) push(t *testing.T, s string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	_, err := io.WriteString(u.conns[len(u.conns)-1], s)
	require.NoError(t, err)
}

// client is one connection through the proxy.
type client struct {
	t *testing.T
	*net.TCPConn
	r *bufio.Reader
}

func dial(t *testing.T, p *Proxy) *client {
	conn, err := net.Dial("tcp", p.Addr())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	return &client{t, conn.(*net.TCPConn), bufio.NewReader(conn)}
}

func (c *client) send(s string) {
	c.t.Helper()
	_, err := io.WriteString(c, s)
	require.NoError(c.t, err)
}

func (c *client) receives(lines ...string) {
	c.t.Helper()
	for _, want := range lines {
		require.NoError(c.t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
		got, err := c.r.ReadString('\n')
		require.NoError(c.t, err)
		require.Equal(c.t, want, strings.TrimSpace(got))
	}
}

func (c *client) receivesNothing() {
	c.t.Helper()
	require.NoError(c.t, c.SetReadDeadline(time.Now().Add(inVain)))
	_, err := c.r.ReadByte()
	require.ErrorIs(c.t, err, os.ErrDeadlineExceeded)
}

func (c *client) isReset() {
	c.t.Helper()
	require.NoError(c.t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
	_, err := c.r.ReadByte()
	require.ErrorIs(c.t, err, syscall.ECONNRESET)
}

func TestForwardsBothWaysAndHangsUpWithTheServer(t *testing.T) {
	u := newUpstream(t)
	p := New(t, u.Addr().String())
	c := dial(t, p)
	c.send("A\nB\n")
	c.receives("+A", "+B")
	assert.Equal(t, 1, p.Connections())

	u.mu.Lock()
	u.conns[0].(*net.TCPConn).CloseWrite()
	u.mu.Unlock()
	_, err := c.r.ReadByte()
	require.ErrorIs(t, err, io.EOF)
	c.Close()
	require.Eventually(t, func() bool { return p.Connections() == 0 }, 10*time.Second, time.Millisecond)
}

func TestAHalfClosedClientStillGetsItsReplies(t *testing.T) {
	p := New(t, newUpstream(t).Addr().String())
	c := dial(t, p)
	c.send("A\n")
	require.NoError(t, c.CloseWrite())
	c.receives("+A")
	_, err := c.r.ReadByte()
	require.ErrorIs(t, err, io.EOF, "an orderly end must not look like a reset")
}

func TestHealDeliversWhatABlackHoleHeld(t *testing.T) {
	u := newUpstream(t)
	p := New(t, u.Addr().String())
	old := dial(t, p)
	old.send("A\n")
	old.receives("+A")

	p.BlackHole()
	old.send("B\n")
	young := dial(t, p)
	young.send("C\n")
	old.receivesNothing()
	young.receivesNothing()
	assert.EqualValues(t, 1, u.lines.Load(), "requests arrived through a black hole")

	p.Heal()
	old.receives("+B")
	young.receives("+C")
}

func TestACommandWhoseClientHasGoneArrivesAfterHeal(t *testing.T) {
	u := newUpstream(t)
	p := New(t, u.Addr().String())
	p.BlackHole()
	c := dial(t, p)
	c.send("A\n")
	c.Close()
	require.Eventually(t, func() bool { return p.Commands() == 1 && p.Connections() == 0 }, 10*time.Second, time.Millisecond)

	p.Heal()
	require.Eventually(t, func() bool { return u.lines.Load() == 1 }, 10*time.Second, time.Millisecond)
}

func TestHealDroppingResetsWhatABlackHoleHeld(t *testing.T) {
	u := newUpstream(t)
	p := New(t, u.Addr().String())
	c := dial(t, p)
	p.BlackHole()
	c.send("A\n")
	c.receivesNothing()
	p.HealDropping()
	c.isReset()

	again := dial(t, p)
	again.send("B\n")
	again.receives("+B")
	assert.EqualValues(t, 1, u.lines.Load(), "a request that was held arrived although it was to be dropped")
}

func TestHealDroppingKeepsConnectionsThatNothingHeld(t *testing.T) {
	p := New(t, newUpstream(t).Addr().String())
	old := dial(t, p)
	old.send("A\n")
	old.receives("+A")
	p.Stall()
	young := dial(t, p)
	young.send("B\n")
	young.receivesNothing()
	p.HealDropping()
	young.isReset()
	old.send("C\n")
	old.receives("+C")
}

func TestCutRequestsLetsPushesThrough(t *testing.T) {
	u := newUpstream(t)
	p := New(t, u.Addr().String())
	c := dial(t, p)
	c.send("A\n")
	c.receives("+A")
	p.CutRequests()
	c.send("B\n")
	u.push(t, "+push\r\n")
	c.receives("+push")
	assert.EqualValues(t, 1, u.lines.Load())
	p.Heal()
	c.receives("+B")
}

func TestCutRepliesLetsCommandsTakeEffect(t *testing.T) {
	u := newUpstream(t)
	p := New(t, u.Addr().String())
	c := dial(t, p)
	p.CutReplies()
	c.send("A\n")
	require.Eventually(t, func() bool { return u.lines.Load() == 1 }, 10*time.Second, time.Millisecond)
	c.receivesNothing()
	p.Heal()
	c.receives("+A")
}

func TestStallHoldsNewConnectionsOnly(t *testing.T) {
	p := New(t, newUpstream(t).Addr().String())
	old := dial(t, p)
	old.send("A\n")
	old.receives("+A")
	p.Stall()
	young := dial(t, p)
	young.send("B\n")
	young.receivesNothing()
	old.send("C\n")
	old.receives("+C")
	p.Heal()
	young.receives("+B")
}

func TestResetBreaksOpenConnectionsOnly(t *testing.T) {
	p := New(t, newUpstream(t).Addr().String())
	c := dial(t, p)
	c.send("A\n")
	c.receives("+A")
	p.Reset()
	c.isReset()
	again := dial(t, p)
	again.send("B\n")
	again.receives("+B")
}

func TestResetAfterCutsAReplyInItsMiddleAndOnlyOnce(t *testing.T) {
	p := New(t, newUpstream(t).Addr().String())
	c := dial(t, p)
	p.ResetAfter(4)
	c.send("HELLO\n")
	got, err := io.ReadAll(c)
	require.ErrorIs(t, err, syscall.ECONNRESET)
	assert.Equal(t, "+HEL", string(got))

	again := dial(t, p)
	again.send("HELLO\n")
	again.receives("+HELLO")

	p.ResetAfter(0)
	again.send("A\n")
	again.isReset()
}

func TestRefuseRefusesAndHealListensOnTheSamePort(t *testing.T) {
	p := New(t, newUpstream(t).Addr().String())
	addr := p.Addr()
	c := dial(t, p)
	c.send("A\n")
	c.receives("+A")

	p.Refuse()
	c.isReset()
	_, err := net.Dial("tcp", addr)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)

	p.Heal()
	require.Equal(t, addr, p.Addr())
	again := dial(t, p)
	again.send("B\n")
	again.receives("+B")
}

func TestDelayIsLatencyAndNotAThrottle(t *testing.T) {
	const delay, n = 50 * time.Millisecond, 20
	p := New(t, newUpstream(t).Addr().String())
	c := dial(t, p)
	c.send("A\n")
	c.receives("+A")

	p.Delay(delay)
	begin := time.Now()
	for i := range n { // each its own chunk, without waiting for answers
		c.send(string(rune('a'+i)) + "\n")
	}
	for i := range n {
		c.receives("+" + string(rune('a'+i)))
	}
	took := time.Since(begin)
	assert.GreaterOrEqual(t, took, 2*delay, "there and back")
	assert.Less(t, took, n*delay, "commands in flight together waited one after the other")
}

func TestHealEndsADelayForWhatIsInFlight(t *testing.T) {
	p := New(t, newUpstream(t).Addr().String())
	c := dial(t, p)
	p.Delay(time.Hour)
	c.send("A\n")
	c.receivesNothing()
	p.Heal()
	c.receives("+A")
}

func TestSetUpstreamMovesNewConnections(t *testing.T) {
	first, second := newUpstream(t), newUpstream(t)
	p := New(t, first.Addr().String())
	old := dial(t, p)
	old.send("A\n")
	old.receives("+A")
	p.SetUpstream(second.Addr().String())
	young := dial(t, p)
	young.send("B\n")
	young.receives("+B")
	old.send("C\n")
	old.receives("+C")
	assert.EqualValues(t, 2, first.lines.Load())
	assert.EqualValues(t, 1, second.lines.Load())
}

func TestAnUpstreamThatRefusesResetsTheClient(t *testing.T) {
	u := newUpstream(t)
	p := New(t, u.Addr().String())
	u.Close()
	c, err := net.Dial("tcp", p.Addr())
	if err == nil {
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
	}
	require.ErrorIs(t, err, syscall.ECONNRESET)
}

func TestCountsCommandsAndRoundTrips(t *testing.T) {
	u := newUpstream(t)
	p := New(t, u.Addr().String())
	p.Ignore("ping", "HELLO")
	c := dial(t, p)

	c.send("HELLO 3\n")
	c.receives("+HELLO 3")
	assert.Zero(t, p.Commands())

	c.send("get a\nset b c\n")
	c.receives("+get a", "+set b c")
	assert.Equal(t, 2, p.Commands())
	assert.Equal(t, 1, p.RoundTrips(), "a pipeline is one round trip")

	c.send("PING\n")
	c.receives("+PING")
	u.push(t, ">2\r\n+invalidate\r\n+a\r\n")
	c.receives(">2", "+invalidate", "+a")
	c.send("GET d\n")
	c.receives("+GET d")
	assert.Equal(t, 2, p.RoundTrips())
	assert.Equal(t, []string{"SET", "GET"}, p.LastCommands(2))
	assert.Equal(t, []string{"GET", "SET", "GET"}, p.LastCommands(9))

	p.ResetCounts()
	assert.Zero(t, p.Commands())
	assert.Zero(t, p.RoundTrips())
	assert.Empty(t, p.LastCommands(9))
	c.send("GET d\n")
	c.receives("+GET d")
	assert.Equal(t, 1, p.RoundTrips())
}

func TestNeitherAPushNorAnIgnoredReplyEndsARoundTrip(t *testing.T) {
	u := newUpstream(t)
	p := New(t, u.Addr().String())
	p.Ignore("PING")
	c := dial(t, p)
	c.send("PING\n")
	c.receives("+PING")

	p.CutRequests() // so that no reply to GET is under way
	c.send("GET a\n")
	u.push(t, ">1\r\n+invalidate\r\n")
	c.receives(">1", "+invalidate")
	c.send("GET b\n")
	require.Eventually(t, func() bool { return p.Commands() == 2 }, 10*time.Second, time.Millisecond)
	assert.Equal(t, 1, p.RoundTrips())
}

func TestCleanupClosesEverythingWhateverTheFault(t *testing.T) {
	u := newUpstream(t)
	for name, fault := range map[string]func(*Proxy){
		"none": func(*Proxy) {}, "black hole": (*Proxy).BlackHole, "stall": (*Proxy).Stall, "refuse": (*Proxy).Refuse,
		"delay": func(p *Proxy) { p.Delay(time.Hour) },
	} {
		var c *client
		var addr string
		t.Run(name, func(inner *testing.T) {
			p := New(inner, u.Addr().String())
			addr = p.Addr()
			c = dial(t, p)
			c.send("A\n")
			c.receives("+A")
			fault(p)
		})
		c.isReset()
		_, err := net.Dial("tcp", addr)
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
	}
}

func TestReservedPortsAreFreeAndDistinct(t *testing.T) {
	seen := map[int]bool{}
	for range 50 {
		port := ReservePort(t)
		require.False(t, seen[port])
		seen[port] = true
	}
}

func TestManyClientsUnderChangingFaultsEndWithoutALeak(t *testing.T) {
	p := New(t, newUpstream(t).Addr().String())
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				conn, err := net.DialTimeout("tcp", p.Addr(), time.Second)
				if err != nil {
					continue
				}
				_ = conn.SetDeadline(time.Now().Add(20 * time.Millisecond))
				for i := 0; i < 10 && err == nil; i++ {
					_, err = io.WriteString(conn, "A\n")
					if err == nil {
						_, err = io.ReadFull(conn, make([]byte, 4))
					}
				}
				if err != nil && errors.Is(err, io.ErrUnexpectedEOF) {
					t.Error("half a reply without a reset")
				}
				conn.Close()
			}
		})
	}
	for range 20 {
		for _, fault := range []func(){
			p.BlackHole, p.HealDropping, p.CutReplies, p.Heal, p.Stall, p.Reset, p.Refuse, p.Heal,
			func() { p.Delay(time.Millisecond) }, func() { p.ResetAfter(100) }, p.Heal,
		} {
			fault()
			p.Connections()
		}
	}
	close(stop)
	wg.Wait()
	c := dial(t, p)
	c.send("A\n")
	c.receives("+A")
}
