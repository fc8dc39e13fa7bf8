package redistest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv("REDISTEST_CHILD") != "" { // see TestAServerDiesWithTheTestThatStartedIt
		m.Run()
		return
	}
	goleak.VerifyTestMain(m)
}

// pinger is a client that is connected through Addr and asks PING.
type pinger struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

func connect(t *testing.T, s *Server) *pinger {
	c, err := net.Dial("tcp", s.Addr())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return &pinger{t, c, bufio.NewReader(c)}
}

func (p *pinger) asks() {
	p.t.Helper()
	_, err := io.WriteString(p, "PING\r\n")
	require.NoError(p.t, err)
}

func (p *pinger) answer(within time.Duration) (string, error) {
	_ = p.SetReadDeadline(time.Now().Add(within))
	line, err := p.r.ReadString('\n')
	return strings.TrimSpace(line), err
}

func (p *pinger) isAnswered() {
	p.t.Helper()
	line, err := p.answer(10 * time.Second)
	require.NoError(p.t, err)
	require.Equal(p.t, "+PONG", line)
}

func TestStartGivesAnEmptyServerThatAnswers(t *testing.T) {
	s := Start(t)
	assert.EqualValues(t, 0, s.Do("DBSIZE"))
	assert.Equal(t, "OK", s.Do("SET", "k", "v"))
	assert.Contains(t, []string{"redis", "valkey"}, s.Name())
	assert.Regexp(t, `^\d+\.\d+\.\d+`, s.Version())
	s.Empty()
	assert.Nil(t, s.Do("GET", "k"))
}

func TestAServerLeavesNothingToTheNext(t *testing.T) {
	for range 2 {
		t.Run("", func(t *testing.T) {
			s := Start(t)
			assert.EqualValues(t, 0, s.Do("DBSIZE"))
			s.Do("SET", "k", "v")
		})
	}
}

func TestDoReturnsEveryKindOfReply(t *testing.T) {
	s := Start(t)
	s.Do("SET", "k", []byte("\r\n\x00"))
	assert.Equal(t, "\r\n\x00", s.Do("GET", "k"))
	assert.Equal(t, int64(3), s.Do("STRLEN", "k"))
	assert.Equal(t, "OK", s.Do("CONFIG", "SET", "slowlog-max-len", 100))
	assert.Equal(t, []any{int64(1), "a", nil, []any{int64(-2), ""}}, s.Do("EVAL", "return {1, 'a', false, {-2, ''}}", 0))
	_, err := s.TryDo("INCR", "k")
	var reply ReplyError
	require.ErrorAs(t, err, &reply)
	assert.Contains(t, reply.Error(), "not an integer")
}

func TestAKilledServerBreaksConnectionsAndRefusesNewOnes(t *testing.T) {
	s := Start(t)
	c := connect(t, s)
	c.asks()
	c.isAnswered()

	s.Kill()
	_, err := c.answer(10 * time.Second)
	require.Error(t, err)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "the connection is still open")
	_, err = net.Dial("tcp", s.Addr())
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	_, err = s.TryDo("PING")
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	s.Kill()
}

func TestRestartComesBackEmptyAtTheSameAddress(t *testing.T) {
	s := Start(t)
	addr := s.Addr()
	for _, before := range []func(){s.Kill, s.Freeze, func() {}} {
		s.Do("SET", "k", "v")
		before()
		s.Restart()
		assert.Equal(t, addr, s.Addr())
		assert.Nil(t, s.Do("GET", "k"))
		c := connect(t, s)
		c.asks()
		c.isAnswered()
	}
}

func TestRestartForgetsScripts(t *testing.T) {
	s := Start(t)
	sha := s.Do("SCRIPT", "LOAD", "return 1")
	s.Restart()
	assert.Equal(t, []any{int64(0)}, s.Do("SCRIPT", "EXISTS", sha))
}

func TestRestartKeepingDataKeepsWhatWasThereAtTheKill(t *testing.T) {
	s := Start(t)
	s.Do("SET", "a", 1)
	s.RestartKeepingData()
	assert.Equal(t, "1", s.Do("GET", "a"))
	s.Do("SET", "b", 2)
	s.Kill()
	s.RestartKeepingData()
	assert.Equal(t, "1", s.Do("GET", "a"))
	assert.Equal(t, "2", s.Do("GET", "b"))
	s.Restart()
	assert.EqualValues(t, 0, s.Do("DBSIZE"))
}

func TestOnlyARealRestartChangesTheRunID(t *testing.T) {
	s := Start(t)
	runID := func() string { return fields(s.Do("INFO", "server"))["run_id"] }
	before := runID()
	require.NotEmpty(t, before)
	s.Restart()
	assert.Equal(t, s.CanSignal(), before != runID())
}

func TestAFrozenServerAnswersAfterThaw(t *testing.T) {
	s := Start(t)
	old := connect(t, s)
	old.asks()
	old.isAnswered()

	s.Freeze()
	young := connect(t, s)
	old.asks()
	young.asks()
	for _, c := range []*pinger{old, young} {
		_, err := c.answer(50 * time.Millisecond)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	}
	s.Thaw()
	old.isAnswered()
	young.isAnswered()
}

func TestWhatWasSentToAFrozenServerIsGoneAfterAKill(t *testing.T) {
	s := Start(t)
	c := connect(t, s)
	c.asks()
	c.isAnswered()
	s.Freeze()
	_, err := io.WriteString(c, "SET late v\r\n")
	require.NoError(t, err)
	s.Restart()
	assert.Nil(t, s.Do("GET", "late"))
}

func TestWithArgsConfiguresTheServer(t *testing.T) {
	s := Start(t, WithArgs("--maxmemory", "5mb", "--maxmemory-policy", "noeviction"), WithArgs("--maxmemory", "7mb"))
	s.Restart()
	assert.Equal(t, []any{"maxmemory", "7340032"}, s.Do("CONFIG", "GET", "maxmemory"))
}

func TestWithPasswordKeepsStrangersOut(t *testing.T) {
	s := Start(t, WithPassword("secret"))
	for range 2 {
		c := connect(t, s)
		c.asks()
		line, err := c.answer(10 * time.Second)
		require.NoError(t, err)
		assert.Contains(t, line, "NOAUTH")
		assert.Equal(t, "secret", s.Password())
		s.Do("SET", "k", "v")
		s.RestartKeepingData()
		assert.Equal(t, "v", s.Do("GET", "k"))
	}
}

func TestWithTLSSpeaksNothingElse(t *testing.T) {
	s := Start(t, WithTLS())
	s.Do("SET", "k", "v")
	s.RestartKeepingData()
	assert.Equal(t, "v", s.Do("GET", "k"))
	require.NotNil(t, s.TLSConfig())

	_, err := settings{}.do(s.Addr(), "PING")
	require.Error(t, err, "the server speaks plain TCP")
	stranger := settings{clientTLS: s.TLSConfig()}
	stranger.clientTLS.RootCAs = nil
	_, err = stranger.do(s.Addr(), "PING")
	require.ErrorContains(t, err, "unknown authority")
	assert.Nil(t, Start(t).TLSConfig())
}

func TestServersOfOneTestAreIndependent(t *testing.T) {
	if Backend() == "external" {
		t.Skip("there is one external server: see TestASecondStartSharesAnExternalServer")
	}
	a, b := Start(t), Start(t)
	a.Do("SET", "k", "v")
	assert.Nil(t, b.Do("GET", "k"))
	a.Kill()
	assert.Equal(t, "PONG", b.Do("PING"))
}

func TestImpossibleOrdersFailTheTest(t *testing.T) {
	s := Start(t)
	for name, order := range map[string]func(s *Server){
		"Thaw of a server that is running":           func(s *Server) { s.Thaw() },
		"Freeze of a server that is killed":          func(s *Server) { s.Kill(); s.Freeze() },
		"EXEC without MULTI":                         func(s *Server) { s.Do("EXEC") },
		"could not save its data before it was kill": func(s *Server) { s.Freeze(); s.RestartKeepingData() },
	} {
		t.Run(name, func(t *testing.T) {
			s.Restart()
			if !s.CanSignal() && strings.Contains(name, "save") {
				t.Skip("what is never killed loses nothing")
			}
			end := run(func(t testing.TB) { order(&Server{t: t, instance: s.instance}) })
			assert.True(t, end.failed)
			assert.Contains(t, end.said, name)
		})
	}
}

func TestSkipFailsWhereNothingMayBeSkipped(t *testing.T) {
	t.Setenv("ASIDE_NO_SKIP", "")
	end := run(func(t testing.TB) { Skip(t, "no such thing here") })
	assert.Equal(t, ending{skipped: true, said: "no such thing here"}, end)

	t.Setenv("ASIDE_NO_SKIP", "1")
	end = run(func(t testing.TB) { Skip(t, "no such thing here") })
	assert.True(t, end.failed)
	assert.Contains(t, end.said, "no such thing here")
}

func TestWithoutAnyServerTheTestFailsAndSaysHowToGetOne(t *testing.T) {
	t.Setenv("ASIDE_BACKEND", "none")
	end := run(func(t testing.TB) { Start(t) })
	assert.True(t, end.failed)
	assert.Contains(t, end.said, "apt-get install redis-server")
	assert.NotContains(t, end.said, "\n")
}

func TestBackendsAreTriedInOrder(t *testing.T) {
	if Binary() == "" {
		Skip(t, "needs a server binary")
	}
	t.Setenv("ASIDE_BACKEND", "")
	t.Setenv("REDIS_ADDR", "127.0.0.1:1")
	assert.Equal(t, "external", Backend())
	t.Setenv("REDIS_ADDR", "")
	assert.Equal(t, "binary", Backend())
	t.Setenv("ASIDE_BACKEND", "docker")
	assert.Equal(t, "docker", Backend())

	t.Setenv("REDIS_SERVER", "/some/where")
	assert.Equal(t, "/some/where", Binary())
}

func TestAPortThatIsTakenIsNotMistakenForOurs(t *testing.T) {
	program := needBinary(t, "this test")
	stranger := startBinary(t, program, settings{}) // it even answers
	b := &binary{program: program, dir: t.TempDir(), port: stranger.backend.(*binary).port}
	require.ErrorIs(t, b.start(true), errPortTaken)
	assert.Equal(t, "PONG", stranger.Do("PING"))
}

func TestAServerThatDoesNotStartIsReportedWithItsLog(t *testing.T) {
	program := needBinary(t, "this test")
	end := run(func(t testing.TB) { startBinary(t, program, settings{args: []string{"--no-such-setting", "1"}}) })
	assert.True(t, end.failed)
	assert.Contains(t, end.said, "no-such-setting")
}

func TestAServerDiesWithTheTestThatStartedIt(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux kills it")
	}
	program := needBinary(t, "this test")
	if addrFile := os.Getenv("REDISTEST_CHILD"); addrFile != "" {
		s := startBinary(t, program, settings{})
		require.NoError(t, os.WriteFile(addrFile, []byte(s.Addr()), 0o600))
		select {} // until we are killed
	}
	addrFile := t.TempDir() + "/addr"
	child := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$")
	child.Env = append(os.Environ(), "REDISTEST_CHILD="+addrFile, "TMPDIR="+t.TempDir())
	require.NoError(t, child.Start())
	var addr string
	eventually(t, "a server", func() bool {
		b, _ := os.ReadFile(addrFile)
		addr = string(b)
		return addr != ""
	})
	_, err := settings{}.do(addr, "PING")
	require.NoError(t, err)
	require.NoError(t, child.Process.Kill())
	_ = child.Wait()
	eventually(t, "the server to die", func() bool {
		_, err := settings{}.do(addr, "PING")
		return errors.Is(err, syscall.ECONNREFUSED)
	})
}

// ending is how a test ended that run ran.
type ending struct {
	failed, skipped bool
	said            string
}

// run runs what is to fail or skip its test.
func run(test func(t testing.TB)) (end ending) {
	fake := &fakeT{end: &end}
	done := make(chan struct{})
	go func() { // ends with the test
		defer close(done)
		defer func() {
			for _, cleanup := range slices.Backward(fake.cleanups) {
				cleanup()
			}
			for _, dir := range fake.dirs {
				_ = os.RemoveAll(dir)
			}
		}()
		test(fake)
	}()
	<-done
	return end
}

// fakeT is as much of a testing.T as this package uses.
type fakeT struct {
	testing.TB // nil: anything else panics
	end        *ending
	cleanups   []func()
	dirs       []string
}

func (f *fakeT) Helper()          {}
func (f *fakeT) Name() string     { return "fake" }
func (f *fakeT) Failed() bool     { return f.end.failed }
func (f *fakeT) Cleanup(c func()) { f.cleanups = append(f.cleanups, c) }
func (f *fakeT) TempDir() string {
	dir, err := os.MkdirTemp("", "redistest")
	if err != nil {
		f.Fatal(err)
	}
	f.dirs = append(f.dirs, dir)
	return dir
}
func (f *fakeT) Logf(string, ...any)               {}
func (f *fakeT) Errorf(format string, args ...any) { f.end.failed = true; f.say(format, args...) }
func (f *fakeT) Fatalf(format string, args ...any) { f.Errorf(format, args...); runtime.Goexit() }
func (f *fakeT) Fatal(args ...any)                 { f.Fatalf("%s", fmt.Sprint(args...)) }
func (f *fakeT) Skip(args ...any) {
	f.end.skipped = true
	f.say("%s", fmt.Sprint(args...))
	runtime.Goexit()
}
func (f *fakeT) say(format string, args ...any) { f.end.said += fmt.Sprintf(format, args...) }
