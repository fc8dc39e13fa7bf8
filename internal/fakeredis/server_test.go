package fakeredis

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// tracked is a client that is told what changes of what it has read.
func tracked(t testing.TB, s *Server) *peer {
	t.Helper()
	conn, err := s.Dial()
	p := dialed(t, conn, err)
	require.Equal(t, okay, p.do(t, "CLIENT", "TRACKING", "ON", "OPTOUT").answer)
	return p
}

func started(t testing.TB) *Server {
	t.Helper()
	s := New()
	t.Cleanup(s.Close)
	return s
}

func mustDo(t testing.TB, s *Server, args ...string) any {
	t.Helper()
	answer, err := s.Do(args...)
	require.NoError(t, err)
	return answer
}

// Nobody asks for the key, so nothing but the server's own timer can tell that it has ended.
func TestTheEndOfAKeyIsPushedWhenItComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := started(t)
		p := tracked(t, s)
		mustDo(t, s, "SET", "k", "v", "PX", "5000")
		mustDo(t, s, "SET", "l", "v", "PX", "9000")
		mustDo(t, s, "PEXPIRE", "l", "7000") // and not sooner, or later
		require.Equal(t, int64(2), p.do(t, "EXISTS", "k", "l").answer)
		began := time.Now()
		require.Equal(t, push{"k"}, p.read(t))
		require.Equal(t, 5001*time.Millisecond, time.Since(began), "in the ms in which it ends it is there")
		require.Equal(t, push{"l"}, p.read(t))
		require.Equal(t, 7001*time.Millisecond, time.Since(began))
		require.Equal(t, int64(0), mustDo(t, s, "DBSIZE"))
	})
}

func TestAKeyIsThereInTheMillisecondInWhichItEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := started(t)
		mustDo(t, s, "SET", "k", "v", "PX", "5000")
		time.Sleep(5 * time.Second)
		require.Equal(t, int64(0), mustDo(t, s, "PTTL", "k"))
		time.Sleep(time.Millisecond)
		require.Equal(t, int64(-2), mustDo(t, s, "PTTL", "k"))
	})
}

func TestAFlushIsPushedToAll(t *testing.T) {
	s := started(t)
	a, b := tracked(t, s), tracked(t, s)
	mustDo(t, s, "SET", "k", "v")
	h := a.do(t, "FLUSHALL")
	require.Equal(t, okay, h.answer)
	require.Equal(t, []string{"(all)"}, h.after)
	require.Equal(t, push(nil), b.read(t))
	require.Nil(t, b.do(t, "GET", "k").answer)
}

func TestWhatIsReadAfterCachingNoIsNotTracked(t *testing.T) {
	s := started(t)
	p := tracked(t, s)
	require.Equal(t, okay, p.do(t, "CLIENT", "CACHING", "NO").answer) // of the ECHO that ends do
	p.send(t, "CLIENT", "CACHING", "NO")
	require.Equal(t, okay, p.read(t))
	p.send(t, "GET", "untracked")
	require.Nil(t, p.read(t))
	require.Nil(t, p.do(t, "GET", "tracked").answer)
	mustDo(t, s, "SET", "untracked", "v")
	mustDo(t, s, "SET", "tracked", "v")
	require.Equal(t, push{"tracked"}, p.read(t))
}

func TestDownBreaksConnectionsAndRefusesNewOnes(t *testing.T) {
	s := started(t)
	p := tracked(t, s)
	mustDo(t, s, "SET", "k", "v")
	before := mustDo(t, s, "INFO", "server")
	s.Down()
	_, err := p.r.ReadByte()
	require.ErrorIs(t, err, io.EOF)
	_, err = s.Dial()
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	op, ok := errors.AsType[*net.OpError](err)
	require.True(t, ok)
	require.Equal(t, "dial", op.Op)
	require.Equal(t, "v", mustDo(t, s, "GET", "k"), "who looks from within sees it")
	s.Up()
	require.Equal(t, "v", tracked(t, s).do(t, "GET", "k").answer)
	require.Equal(t, runOf(before), runOf(mustDo(t, s, "INFO", "server")), "it is the same server")
}

func TestRestartForgetsAll(t *testing.T) {
	s := started(t)
	p := tracked(t, s)
	mustDo(t, s, "SET", "k", "v")
	before := mustDo(t, s, "INFO", "server")
	s.Down()
	s.Restart()
	_, err := p.r.ReadByte()
	require.ErrorIs(t, err, io.EOF)
	require.Nil(t, tracked(t, s).do(t, "GET", "k").answer)
	require.NotEqual(t, runOf(before), runOf(mustDo(t, s, "INFO", "server")))
}

func runOf(info any) string {
	for line := range strings.Lines(info.(string)) {
		if run, ok := strings.CutPrefix(line, "run_id:"); ok {
			return strings.TrimSpace(run)
		}
	}
	return ""
}

func TestAFrozenServerDoesLaterWhatWasSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := started(t)
		p := tracked(t, s)
		s.Freeze()
		p.send(t, "SET", "k", "v")
		conn, err := s.Dial() // it is let in
		require.NoError(t, err)
		defer conn.Close()
		require.NoError(t, p.SetDeadline(time.Now().Add(time.Second)))
		_, err = p.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Nil(t, mustDo(t, s, "GET", "k"))
		require.NoError(t, p.SetDeadline(time.Time{}))
		p.Close() // a kernel has what was sent all the same
		s.Up()
		synctest.Wait()
		require.Equal(t, "v", mustDo(t, s, "GET", "k"))
	})
}

func TestDownOfAFrozenServerForgetsWhatWasSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := started(t)
		p := tracked(t, s)
		s.Freeze()
		p.send(t, "SET", "k", "v")
		synctest.Wait()
		s.Down()
		s.Up()
		synctest.Wait()
		require.Nil(t, mustDo(t, s, "GET", "k"))
	})
}

func TestAKeyThatEndsWhileTheServerIsFrozenIsPushedAfterwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := started(t)
		p := tracked(t, s)
		mustDo(t, s, "SET", "k", "v", "PX", "100")
		require.Equal(t, "v", p.do(t, "GET", "k").answer)
		s.Freeze()
		time.Sleep(time.Second)
		began := time.Now()
		go s.Up()
		require.Equal(t, push{"k"}, p.read(t))
		require.Less(t, time.Since(began), time.Millisecond)
	})
}

func TestWhatIsNoCommandEndsTheConnection(t *testing.T) {
	for name, sent := range map[string]string{
		"inline":    "GET k\r\n",
		"too many":  "*9999999\r\n",
		"too long":  "*1\r\n$999999999999\r\n",
		"negative":  "*-5\r\n",
		"no number": "*x\r\n",
		"no end":    strings.Repeat("*", 70_000) + "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			s := started(t)
			conn, err := s.Dial()
			require.NoError(t, err)
			defer conn.Close()
			_, err = io.WriteString(conn, sent)
			require.NoError(t, err)
			said, err := io.ReadAll(conn)
			require.NoError(t, err)
			require.True(t, strings.HasPrefix(string(said), "-ERR Protocol error"), "%q", said)
		})
	}
}

func TestOtherLuaIsRefusedByName(t *testing.T) {
	s := started(t)
	_, err := s.Do("EVAL", "return 1", "0")
	require.ErrorContains(t, err, "runs no Lua")
	_, err = s.Do("EVALSHA", strings.Repeat("0", 40), "0")
	require.ErrorContains(t, err, "NOSCRIPT")
}

func TestClientKillEndsAllOthers(t *testing.T) {
	s := started(t)
	a, b := tracked(t, s), tracked(t, s)
	require.Equal(t, int64(1), a.do(t, "CLIENT", "KILL", "TYPE", "normal").answer)
	_, err := b.r.ReadByte()
	require.ErrorIs(t, err, io.EOF)
	require.Equal(t, status("PONG"), a.do(t, "PING").answer)
}
