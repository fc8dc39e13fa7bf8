package resp

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/cmd/aside/internal/proxy"
	"github.com/redaside/aside/internal/redistest"
)

// A relapse would keep a stranger's connection for as long as it sends RESET.
func TestAStrangerHasTenSecondsWhateverItSends(t *testing.T) {
	for _, text := range []string{"RESET\r\n", "PING\r\n", "HELLO 3\r\n", "\r\n", "*0\r\n", "AUTH wrong\r\n"} {
		synctest.Test(t, func(t *testing.T) {
			s := New(proxy.NewStore(nil, 0), Options{Password: "s3cret", Logger: quiet})
			ours, theirs := net.Pipe()
			began := time.Now()
			s.accept(ours)
			go func() { _, _ = io.Copy(io.Discard, theirs) }() // ends with the connection
			for {
				if _, err := io.WriteString(theirs, text); err != nil {
					break
				}
				time.Sleep(time.Second)
			}
			require.LessOrEqual(t, time.Since(began), handshakeFor+time.Second, "%q", text)
			require.NoError(t, s.Close())
		})
	}
	synctest.Test(t, func(t *testing.T) { // a client that has been logged in has as long again
		s := New(proxy.NewStore(nil, 0), Options{Password: "s3cret", Logger: quiet})
		ours, theirs := net.Pipe()
		s.accept(ours)
		r := bufio.NewReader(theirs)
		for _, text := range []string{"AUTH s3cret", "RESET", "AUTH s3cret", "PING"} {
			_, err := io.WriteString(theirs, text+"\r\n")
			require.NoError(t, err)
			reply, err := readReply(r)
			require.NoError(t, err)
			require.NotContains(t, reply, "-", text)
			time.Sleep(handshakeFor - time.Second)
		}
		theirs.Close()
		require.NoError(t, s.Close())
	})
}

func TestGuessesOfPasswordsAreFewAndLateAndSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log lockedBuilder
		s := New(proxy.NewStore(nil, 0), Options{Password: "s3cret", Logger: slog.New(slog.NewTextHandler(&log, nil))})
		ours, theirs := net.Pipe()
		s.accept(ours)
		began := time.Now()
		go func() { // ends with the connection; all at once, as a guesser does
			_, _ = io.WriteString(theirs, strings.Repeat(encoded("AUTH", "guess")+encoded("HELLO", "3", "AUTH", "default", "guess"), 1000))
		}()
		replies, _ := io.ReadAll(theirs)
		require.Equal(t, strings.Repeat("-"+wrongPass+"\r\n", mostGuesses), string(replies), "then it is over")
		require.Equal(t, guessDelay*(1<<mostGuesses-1), time.Since(began))
		require.EqualValues(t, mostGuesses, s.Stats().RefusedLogins)
		require.Equal(t, 1, strings.Count(log.String(), "a login was refused"))
		require.Contains(t, log.String(), "level=WARN")
		require.NotContains(t, log.String(), "guess")

		// A right password is not kept waiting, and ends the count.
		ours, theirs = net.Pipe()
		s.accept(ours)
		r := bufio.NewReader(theirs)
		for range 3 {
			for _, password := range []string{"wrong", "wrong", "wrong", "s3cret"} {
				began := time.Now()
				_, _ = io.WriteString(theirs, encoded("AUTH", password))
				reply, err := readReply(r)
				require.NoError(t, err)
				if password == "s3cret" {
					require.Equal(t, "+OK", reply)
					require.Zero(t, time.Since(began))
				} else {
					require.Equal(t, "-"+wrongPass, reply)
				}
			}
		}
		theirs.Close()
		require.NoError(t, s.Close())
	})
}

func TestAClientThatGuessesIsNamedOnceAMinute(t *testing.T) {
	var l logins
	now := time.Now()
	at := func(host string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(host), Port: 1} }
	_, count, log := l.refused(at("192.0.2.1"), now)
	require.True(t, log)
	require.Equal(t, 1, count)
	for range 100 {
		_, _, log = l.refused(at("192.0.2.1"), now.Add(loginsQuiet-1))
		require.False(t, log)
	}
	host, count, log := l.refused(at("192.0.2.1"), now.Add(loginsQuiet))
	require.True(t, log)
	require.Equal(t, 101, count)
	require.Equal(t, "192.0.2.1", host)
	for i := range 10 * mostClients { // nor does it help to come from many
		_, _, _ = l.refused(at(fmt.Sprintf("2001:db8::%x", i)), now)
		require.LessOrEqual(t, len(l.clients), mostClients+1)
	}
}

// The stamps decide what a replay may write: a client that could set them could undo others'
// writes.
func TestTheLibrarysOwnKeysAreNobodyElses(t *testing.T) {
	server := redistest.Start(t)
	store, _ := newStore(t, server.Addr(), "")
	_, addr := serve(t, store, Options{})
	p := dial(t, addr)
	require.Equal(t, "+OK", p.do("SET", "k", "v"))
	stamps := server.Do("KEYS", "aside:stamps:*").([]any)
	require.Len(t, stamps, 1)
	before := server.Do("HGETALL", stamps[0])
	for _, key := range []string{stamps[0].(string), "aside:probe", "aside:probe:{06S}", "aside:anything"} {
		for name, cmd := range commands {
			if !cmd.data() || cmd.keys == noKey {
				continue
			}
			args := append([]string{name}, key, "1", "1")
			args = args[:max(2, max(cmd.arity, -cmd.arity))]
			require.Equal(t, "-ERR "+proxy.ErrReserved.Error(), p.do(args...), "%q", args)
		}
		for _, text := range []string{"MGET k KEY", "DEL k KEY", "EXISTS KEY k", "MSET k w KEY 1", "SET KEY 1 NX", "SET KEY 1 GET", "SET KEY 1 EXAT 1", "GETEX KEY EX 10", "EXPIRE KEY 1 NX"} {
			require.Equal(t, "-ERR "+proxy.ErrReserved.Error(), p.do(line(strings.ReplaceAll(text, "KEY", key))...), text)
		}
	}
	require.Equal(t, before, server.Do("HGETALL", stamps[0]))
	require.Equal(t, "$v", p.do("GET", "k"))
	require.Equal(t, "*1 $k", p.do("KEYS", "*"))
	require.Equal(t, "*2 $0 *1 $k", p.do("SCAN", "0", "COUNT", "1000"))
	require.Equal(t, ":1", p.do("DBSIZE"))
	require.Equal(t, "+OK", p.do("SET", "asides", "v"), "only what begins with it")
}
