package link

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/redistest"
	"github.com/redaside/aside/internal/script"
	"github.com/redaside/aside/internal/wire"
)

// newConnected makes a link to a server, and what it is told.
func newConnected(t *testing.T, addr string, change ...func(*Options, *Hooks)) *Link {
	t.Helper()
	closing, end := context.WithCancel(context.Background())
	var background sync.WaitGroup
	l := newLoose(append([]func(*Options, *Hooks){func(o *Options, up *Hooks) {
		o.Redis.InitAddress, o.ClientBuilder = []string{addr}, NewClient
		o.Memory, o.ID, o.FlushKeyTTL = true, "0123456789abcdef", time.Hour
		up.InBackground = func(fn func()) bool {
			if closing.Err() != nil {
				return false
			}
			background.Go(fn)
			return true
		}
	}}, change...)...)
	l.closing = closing
	first := make(chan error, 1)
	background.Go(func() { l.Connect(first) })
	t.Cleanup(func() {
		l.Freeze(end)
		background.Wait()
		l.Close()
	})
	require.NoError(t, <-first)
	return l
}

// next waits for what is told.
func next(t *testing.T, told <-chan string) string {
	t.Helper()
	select {
	case s := <-told:
		return s
	case <-time.After(20 * time.Second):
		require.Fail(t, "nothing was told")
		return ""
	}
}

// read makes a call that reads key, so that the server tells of its changes.
func read(key string) *Call {
	return NewCall(script.Read, key, wire.LockPrefix, strconv.Itoa(MaxBatchBytes))
}

// A link needs no cache: it asks, is told of changes, and notices that the server goes and comes.
func TestALinkStandsByItself(t *testing.T) {
	server := redistest.Start(t)
	changed, modes := make(chan string, 10), make(chan string, 10)
	l := newConnected(t, server.Addr(), func(_ *Options, up *Hooks) {
		up.Invalidated = func(key string) {
			if key == "k" { // Redis 6.0 also tells of keys of ours that a script has read and deleted
				changed <- key
			}
		}
		up.ModeChanged = func(c ModeChange) { modes <- fmt.Sprintf("%s>%s", c.From, c.To) }
	})
	require.Equal(t, "degraded>healthy", next(t, modes))
	sh := l.Shard("k")
	server.Do("SET", "k", "v")
	q := read("k")
	l.Run(t.Context(), sh, q)
	require.NoError(t, q.Err)
	server.Do("SET", "k", "w")
	require.Equal(t, "k", next(t, changed))
	now, slack := l.ServerTime(sh)
	require.InDelta(t, time.Now().UnixMicro(), now, 1e6)
	require.GreaterOrEqual(t, slack, int64(0))
	if !server.CanSignal() {
		return
	}
	server.Kill()
	require.Equal(t, "healthy>degraded", next(t, modes))
	l.Run(t.Context(), sh, q)
	require.ErrorIs(t, q.Err, ErrNotAsked)
	require.ErrorIs(t, q.Err, ErrRedisAway)
	require.False(t, l.Connected())
	require.Equal(t, Degraded, l.Health().Mode)
	server.Restart()
	require.Equal(t, "degraded>healthy", next(t, modes))
	l.Run(t.Context(), sh, q)
	require.NoError(t, q.Err)
}

// What may have been missed is Recovering until those above say that it is made good.
func TestAShardThatHasMissedSomethingRecovers(t *testing.T) {
	server := redistest.Start(t)
	modes := make(chan string, 10)
	l := newConnected(t, server.Addr(), func(_ *Options, up *Hooks) {
		up.ModeChanged = func(c ModeChange) { modes <- fmt.Sprintf("%s>%s", c.From, c.To) }
		up.Unreplayed = func(*Shard) bool { return true }
	})
	require.Equal(t, "degraded>recovering", next(t, modes))
	sh := l.Shards()[0]
	<-sh.ReplayDue()
	require.True(t, sh.Asks())
	l.CaughtUp(sh)
	require.Equal(t, "recovering>healthy", next(t, modes))
}

// A script goes by its hash; a server that does not know it gets it whole, and only those calls
// again.
func TestAScriptThatTheServerDoesNotKnowIsSentWhole(t *testing.T) {
	server := redistest.Start(t)
	l := newConnected(t, server.Addr())
	for range 2 {
		server.Do("SCRIPT", "FLUSH")
		a, b := read("a"), read("b")
		l.RunAll(t.Context(), l.Shard("a"), a, b)
		require.NoError(t, a.Err)
		require.NoError(t, b.Err)
	}
}

// Each key of a list is asked for once, in batches that do not hold up the server.
func TestAListIsAskedForInBatches(t *testing.T) {
	server := redistest.Start(t)
	l := newConnected(t, server.Addr())
	const keys = 3*MaxBatchKeys + 1
	for i := range keys {
		server.Do("SET", fmt.Sprint("k", i), wire.LockPrefix+strconv.Itoa(i))
	}
	all := l.Batches(script.Release, nil, List{
		Len:  keys,
		Key:  func(i int) (string, *Shard) { key := fmt.Sprint("k", i); return key, l.Shard(key) },
		Args: func(to []string, i int) []string { return append(to, wire.LockPrefix+strconv.Itoa(i)) },
	})
	require.Len(t, all, 4)
	seen := make(map[int]bool)
	l.RunBatches(t.Context(), all, &Pieces{}, func(b *Batch) {
		flags, err := b.Flags()
		require.NoError(t, err)
		for n, i := range b.Of {
			require.EqualValues(t, 1, flags[n])
			require.False(t, seen[i])
			seen[i] = true
		}
	})
	require.Len(t, seen, keys)
	require.Nil(t, server.Do("GET", "k0"))
}

// While few commands are out each goes by itself; those that come then go together, a key once in
// each.
func TestRequestsGoTogetherUnderLoad(t *testing.T) {
	var sent [][]string
	var b Batcher
	b.inBackground, b.yield = func(fn func()) bool { fn(); return true }, func() {}
	b.send = func(requests []*Request) {
		var keys []string
		for i, r := range requests {
			keys = append(keys, r.Key)
			r.Answer("all", i, nil)
		}
		sent = append(sent, keys)
	}
	for range maxAlone {
		require.Nil(t, b.Enter(What{Key: "alone"}))
	}
	waiting := []*Request{b.Enter(What{Key: "a"}), b.Enter(What{Key: "b"}), b.Enter(What{Key: "a"}), b.Enter(What{Key: "gone"})}
	require.NotContains(t, waiting, (*Request)(nil))
	left, cancel := context.WithCancel(t.Context())
	cancel()
	require.False(t, waiting[3].Wait(left, t.Context()))
	b.Leave()
	require.Equal(t, [][]string{{"a", "b"}, {"a"}}, sent)
	require.True(t, waiting[1].Wait(left, t.Context()), "it is answered, whatever its context says")
	require.Equal(t, "all", waiting[1].Result)
	require.Equal(t, 1, waiting[1].At)
	require.False(t, waiting[3].Answer("late", 0, nil), "its caller has left")
	b.inBackground = func(func()) bool { return false }
	b.out = maxAlone
	r := b.Enter(What{Key: "closing"})
	require.NotNil(t, r)
	b.Leave()
	require.ErrorIs(t, r.Err, ErrClosed)
}

// What answered callers ask next goes along with what waits.
func TestAnsweredCallersAskBeforeTheNextCallGoes(t *testing.T) {
	b := Batcher{sender: Sender{MaxRequests: 2}, out: maxAlone}
	b.inBackground = func(fn func()) bool { fn(); return true }
	for _, key := range []string{"a", "b", "c"} {
		require.NotNil(t, b.Enter(What{Key: key}))
	}
	var sent [][]string
	b.send = func(requests []*Request) {
		var keys []string
		for i, r := range requests {
			keys = append(keys, r.Key)
			r.Answer(nil, i, nil)
		}
		sent = append(sent, keys)
		clear(requests) // a sender may: what was answered is its callers' again
	}
	b.yield = func() {
		if len(sent) == 1 {
			require.NotNil(t, b.Enter(What{Key: "a's next"}))
		}
	}
	b.Leave()
	require.Equal(t, [][]string{{"a", "b"}, {"c", "a's next"}}, sent)
	out, waiting := b.Load()
	require.Equal(t, []int{maxAlone - 1, 0}, []int{out, waiting})
}

// Where the process is so busy that a yield lasts long, calls do not wait for one each time; nor ever
// where nobody waits for the answers.
func TestAYieldThatLastsLongIsRare(t *testing.T) {
	for _, row := range []struct {
		lasts  time.Duration
		owner  Owner
		yields int
	}{
		{0, nil, 3 * (withoutYield + 1)},
		{longYield, nil, 3 * (withoutYield + 1)},
		{longYield + 1, nil, 3},
		{0, nobody{}, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			b, yields := Batcher{sender: Sender{MaxRequests: 1}, out: maxAlone}, 0
			b.inBackground = func(fn func()) bool { fn(); return true }
			for range 3 * (withoutYield + 1) {
				require.False(t, b.EnterOwned(&Request{Owner: row.owner, done: make(chan struct{}, 1)}))
			}
			b.send = func(requests []*Request) { requests[0].Answer(nil, 0, nil) }
			b.yield = func() { yields++; time.Sleep(row.lasts) }
			b.Leave()
			require.Equal(t, row.yields, yields)
		})
	}
}

type nobody struct{}

func (nobody) Answered(*Request) {}
func (nobody) Insists() bool     { return false }

// A caller that has left is not sent for; one that leaves later finds what it was sent in.
func TestARequestIsSentOnlyIfItsCallerIsThere(t *testing.T) {
	b := Batcher{sender: Sender{MaxRequests: 2, Insist: true}, out: maxAlone}
	b.inBackground = func(func()) bool { return false } // the client closes
	left, cancel := context.WithCancel(t.Context())
	cancel()
	var requests []*Request
	for _, key := range []string{"left", "leaves", "stays", "one more"} {
		requests = append(requests, b.Enter(What{Key: key}))
	}
	require.False(t, requests[0].Wait(left, t.Context()))
	require.False(t, requests[0].Begin("sent in this"))
	require.Nil(t, requests[0].Result)
	var sent [][]string
	b.send = func(some []*Request) {
		var keys []string
		for _, r := range some {
			require.True(t, r.Begin("sent in this"))
			keys = append(keys, r.Key)
		}
		if sent = append(sent, keys); len(sent) == 1 {
			require.False(t, requests[1].Wait(left, t.Context()))
			require.Equal(t, "sent in this", requests[1].Result)
		}
		for i, r := range some {
			r.Answer("answered", i, nil)
		}
	}
	b.Leave()
	require.Equal(t, [][]string{{"leaves", "stays"}, {"one more"}}, sent, "it insists, though the client closes")
	require.Equal(t, "sent in this", requests[1].Result)
	require.Equal(t, "answered", requests[2].Result)
	out, waiting := b.Load()
	require.Equal(t, []int{maxAlone - 1, 0}, []int{out, waiting})
}

// A request is used again once its caller has read the answer, and not as long as whoever answers has it. What a caller
// has left behind is nobody else's.
func TestARequestIsUsedAgain(t *testing.T) {
	b := Batcher{sender: Sender{MaxRequests: 1}, out: maxAlone}
	b.inBackground = func(func()) bool { return false }
	b.send = func(some []*Request) { some[0].Answer("answered", 7, ErrClosed) }
	left, cancel := context.WithCancel(t.Context())
	cancel()

	first := b.Enter(What{"first", []string{"arg"}, 1, 2})
	require.True(t, first.Begin("sent"))
	answers := make(chan bool)
	first.mu.Lock()
	go func() { answers <- first.Answer("answered", 7, ErrClosed) }()
	waits := make(chan bool)
	go func() { waits <- first.Wait(left, left) }()
	first.mu.Unlock()
	if !<-waits { // it has left before
		require.False(t, <-answers)
	} else {
		require.True(t, <-answers)
		require.Equal(t, "answered", first.Result)
		b.Release(first)
	}

	for range 100 { // the token of one that was answered as its caller left is not the next one's
		r := b.Enter(What{"next", nil, 3, 4})
		require.Equal(t, []any{"next", []string(nil), int64(3), int64(4), nil, error(nil)}, []any{r.Key, r.Args, r.Asked, r.Ends, r.Result, r.Err})
		require.False(t, r.answered)
		require.Empty(t, r.done)
		require.True(t, r.Answer("answered", 0, nil))
		require.True(t, r.Wait(left, left))
		b.Release(r)
	}

	gone := b.Enter(What{Key: "gone"})
	require.False(t, gone.Wait(left, left))
	require.NotSame(t, gone, b.Enter(What{Key: "another"}))
}

// Requests of one key, of which a command takes one, hold up nobody who asks for another key, nor do those whose callers
// have left.
func TestRequestsThatDoNotFitHoldUpNobody(t *testing.T) {
	left, cancel := context.WithCancel(t.Context())
	cancel()
	for _, repeats := range []bool{false, true} {
		b := Batcher{sender: Sender{MaxRequests: 3, Repeats: repeats}, out: maxAlone}
		for range 7 {
			b.Enter(What{Key: "hot"})
			require.False(t, b.Enter(What{Key: "gone"}).Wait(left, left))
		}
		b.Enter(What{Key: "a"})
		b.Enter(What{Key: "b"})
		var commands [][]string
		var requests []*Request
		for requests = b.take(nil); requests != nil; requests = b.take(requests) {
			var keys []string
			for _, r := range requests {
				keys = append(keys, r.Key)
			}
			commands = append(commands, keys)
		}
		hot := []string{"hot"}
		if repeats {
			require.Equal(t, [][]string{{"hot", "hot", "hot"}, {"hot", "hot", "hot"}, {"hot", "a", "b"}}, commands)
		} else {
			require.Equal(t, [][]string{{"hot", "a", "b"}, hot, hot, hot, hot, hot, hot}, commands)
		}
		out, waiting := b.Load()
		require.Equal(t, []int{maxAlone - 1, 0}, []int{out, waiting})
	}
}
