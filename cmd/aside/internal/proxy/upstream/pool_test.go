package upstream

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

func TestEachGetsTheRepliesOfItsOwnCommands(t *testing.T) {
	p := newTestPool(t, redistest.Start(t))
	var all sync.WaitGroup
	for client := range 20 {
		all.Go(func() {
			var b Batch
			for i := range 200 {
				b.Reset()
				want := ""
				for j := range 1 + i%5 {
					text := fmt.Sprint(client, "/", i, "/", j)
					b.Add([]string{"ECHO", text})
					want += fmt.Sprintf("$%d\r\n%s\r\n", len(text), text)
				}
				if err := p.Do(context.Background(), 2+client%2, &b, always); err != nil || string(b.Replies) != want || len(b.Ends) != b.Commands {
					t.Errorf("%q, %v instead of %q", b.Replies, err, want)
					return
				}
			}
		})
	}
	all.Wait()
}

func TestRepliesAreInTheVersionThatWasAskedFor(t *testing.T) {
	p := newTestPool(t, redistest.Start(t))
	do(t, p, 2, "HSET", "h", "f", "v")
	require.Equal(t, "*2\r\n$1\r\nf\r\n$1\r\nv\r\n", do(t, p, 2, "HGETALL", "h"))
	require.Equal(t, "%1\r\n$1\r\nf\r\n$1\r\nv\r\n", do(t, p, 3, "HGETALL", "h"))
}

// A relapse would give one client another's reply.
func TestNobodyGetsAReplyAfterAConnectionWasLost(t *testing.T) {
	server := redistest.Start(t)
	p := newTestPool(t, server)
	require.Equal(t, "$1\r\na\r\n", do(t, p, 2, "ECHO", "a"))
	if !server.CanSignal() {
		return
	}
	server.Freeze()
	var given Batch
	given.Add([]string{"ECHO", "late"})
	asked := 0
	require.ErrorIs(t, p.Do(testContext(t), 2, &given, func() bool { asked++; return asked < 3 }), ErrLost)
	var hopeless Batch
	hopeless.Add([]string{"ECHO", "never"})
	require.Error(t, p.Do(context.Background(), 2, &hopeless, func() bool { return false }))
	server.Thaw()
	require.Equal(t, "$1\r\nb\r\n", do(t, p, 2, "ECHO", "b"))
	server.Kill()
	var lost Batch
	lost.Add([]string{"ECHO", "c"})
	require.Error(t, p.Do(testContext(t), 2, &lost, always))
	server.Restart()
	require.Equal(t, "$1\r\nd\r\n", do(t, p, 2, "ECHO", "d"))
}

func TestNothingIsSentWhereNobodyListens(t *testing.T) {
	server := redistest.Start(t)
	p := newTestPool(t, server, func(o *Options) { o.Address = func() string { return "127.0.0.1:1" } })
	var b Batch
	b.Add([]string{"PING"})
	require.ErrorIs(t, p.Do(testContext(t), 2, &b, always), ErrNotSent)
	_, err := p.Table(testContext(t))
	require.ErrorIs(t, err, ErrNotSent)
	_, err = p.Own(testContext(t), 2)
	require.ErrorIs(t, err, ErrNotSent)
	require.Zero(t, p.Owned())
}

func TestAWrongPasswordIsSaid(t *testing.T) {
	server := redistest.Start(t, redistest.WithPassword("s3cret"))
	p := newTestPool(t, server, func(o *Options) { o.Redis.Password = "wrong" })
	_, err := p.Table(testContext(t))
	require.ErrorContains(t, err, "Redis refuses HELLO: WRONGPASS")
}

func TestConnectionsOfClientsOwnAreUsedAgainAndBounded(t *testing.T) {
	server := redistest.Start(t)
	p := newTestPool(t, server, func(o *Options) { o.MostOwn = 2 })
	ask := func(o *Own, args ...string) string {
		var b Batch
		b.Add(args)
		require.NoError(t, o.Do(&b, always))
		return string(b.Replies)
	}
	first, err := p.Own(testContext(t), 2)
	require.NoError(t, err)
	id := ask(first, "CLIENT", "ID")
	first.Release()
	again, err := p.Own(testContext(t), 2)
	require.NoError(t, err)
	require.Equal(t, id, ask(again, "CLIENT", "ID"))
	other, err := p.Own(testContext(t), 3)
	require.NoError(t, err)
	_, err = p.Own(testContext(t), 3)
	require.ErrorIs(t, err, ErrTooMany)
	other.Close()
	other.Close()
	require.EqualValues(t, 1, p.Owned())
	again.Release()
	server.Do("CLIENT", "KILL", "TYPE", "normal")
	fresh, err := p.Own(testContext(t), 2)
	require.NoError(t, err, "what Redis has closed is not handed out")
	require.NotEqual(t, id, ask(fresh, "CLIENT", "ID"))
	var b Batch
	b.Add([]string{"BLPOP", "nothing", "0"})
	asked := 0
	require.ErrorIs(t, fresh.Do(&b, func() bool { asked++; return asked < 3 }), ErrLost)
	require.Equal(t, 3, asked)
	fresh.Close()
	require.Zero(t, p.Owned())
}

// Replies that come in pieces are put together.
func TestRepliesThatComeInPieces(t *testing.T) {
	server := redistest.Start(t)
	between := faultproxy.New(t, server.Addr())
	p := newTestPool(t, server, func(o *Options) { o.Address = between.Addr })
	require.Equal(t, "+OK\r\n", do(t, p, 2, "SET", "k", string(make([]byte, 300_000))))
	require.Len(t, do(t, p, 2, "GET", "k"), 300_000+len("$300000\r\n\r\n"))
	between.Refuse()
	between.Reset()
	var b Batch
	b.Add([]string{"GET", "k"})
	require.Error(t, p.Do(testContext(t), 2, &b, always))
}

// A relapse would keep on asking what was the primary before a failover.
func TestAConnectionToAReplicaIsNotUsedAgain(t *testing.T) {
	server := redistest.Start(t)
	p := newTestPool(t, server)
	ask := func(o *Own, args ...string) string {
		var b Batch
		b.Add(args)
		require.NoError(t, o.Do(&b, always))
		return string(b.Replies)
	}
	own, err := p.Own(testContext(t), 2)
	require.NoError(t, err)
	sharedID, ownID := do(t, p, 2, "CLIENT", "ID"), ask(own, "CLIENT", "ID")
	server.Do("REPLICAOF", "127.0.0.1", "1")
	var b Batch
	for _, args := range [][]string{{"ECHO", "a"}, {"SET", "k", "v"}, {"ECHO", "b"}} {
		b.Add(args)
	}
	require.NoError(t, p.Do(testContext(t), 2, &b, always))
	require.Regexp(t, `^\$1\r\na\r\n-READONLY .*\r\n\$1\r\nb\r\n$`, string(b.Replies), "what was sent is answered")
	require.Contains(t, ask(own, "SET", "k", "v"), "-READONLY ")
	own.Release()
	require.NotEqual(t, sharedID, do(t, p, 2, "CLIENT", "ID"))
	own, err = p.Own(testContext(t), 2)
	require.NoError(t, err)
	require.NotEqual(t, ownID, ask(own, "CLIENT", "ID"))
	own.Close()
}
