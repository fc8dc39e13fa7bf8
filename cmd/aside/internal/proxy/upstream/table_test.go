package upstream

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/redaside/aside/cmd/aside/internal/proxy"
	"github.com/redaside/aside/internal/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newTestPool(t testing.TB, server *redistest.Server, change ...func(*Options)) *Pool {
	t.Helper()
	o := Options{
		Redis: rueidis.ClientOption{Password: server.Password()}, Address: server.Addr, DialTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second,
		MostOwn: 10, Open: proxy.NewBudget(0),
	}
	for _, f := range change {
		f(&o)
	}
	p := New(o)
	t.Cleanup(p.Close)
	return p
}

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func always() bool { return true }

// do sends a command and returns its reply.
func do(t testing.TB, p *Pool, protocol int, args ...string) string {
	t.Helper()
	var b Batch
	b.Add(args)
	require.NoError(t, p.Do(testContext(t), protocol, &b, always))
	return string(b.Replies)
}

// Where we find keys by ourselves, the server finds the same.
func TestKeysAreWhereTheServerFindsThem(t *testing.T) {
	p := newTestPool(t, redistest.Start(t))
	table, err := p.Table(testContext(t))
	require.NoError(t, err)
	known := 0
	for _, text := range []string{
		"GET a", "MSET a 1 b 2 c 3", "DEL a b c", "EVAL script 2 a b c d", "EVAL script 0 a", "EVALSHA sha 1 a b", "ZUNIONSTORE d 2 a b WEIGHTS 1 2", "ZINTERSTORE d 1 a",
		"XREAD COUNT 2 STREAMS a b 0 0", "XREAD BLOCK 5 STREAMS a 0", "XREADGROUP GROUP g c STREAMS a >", "GEORADIUS a 1 2 3 m STORE b", "GEORADIUS a 1 2 3 m STOREDIST c",
		"GEORADIUSBYMEMBER a m 1 m STORE b", "OBJECT ENCODING a", "XGROUP CREATE a g $", "XINFO STREAM a", "MEMORY USAGE a", "BITOP AND d a b c", "SORT a", "SORT a STORE b", "SORT a BY w_* GET # STORE c",
		"BLPOP a b c 0", "BRPOPLPUSH a b 0", "RENAME a b", "HSET a f v", "PFMERGE a b c", "SMOVE a b m", "SINTERSTORE d a b", "SET a v EX 5", "RESTORE a 0 x", "LPUSH a b c",
		"COPY a b", "LMPOP 2 a b LEFT", "BLMPOP 0 2 a b LEFT", "ZMPOP 1 a MIN", "SINTERCARD 2 a b LIMIT 1", "ZUNION 2 a b WITHSCORES", "ZDIFFSTORE d 2 a b", "FCALL f 2 a b c", "EVAL_RO s 1 a",
		"GEOSEARCHSTORE d a FROMMEMBER m BYRADIUS 1 m", "ZRANGESTORE d a 0 -1", "XAUTOCLAIM a g c 0 0", "MIGRATE h 1 a 0 5", "HGETEX a FIELDS 1 f", "PUBLISH c m", "PING", "BZMPOP 0 2 a b MIN",
	} {
		args := strings.Split(text, " ")
		command := table.Lookup(args)
		if command == nil {
			continue // the server is older
		}
		want, err := p.KeysOf(testContext(t), args, always)
		require.NoError(t, err)
		if got, ask := command.Keys(args); !ask {
			known++
			require.Equal(t, strings.Join(want, " "), strings.Join(got, " "), text)
		}
	}
	require.Greater(t, known, 15)
}

func TestEachKeywordOfAnOptionNamesAKey(t *testing.T) {
	s := keySpec{keyword: "STORE", index: 6, step: 1}
	command := Command{specs: []keySpec{{index: 1, step: 1}, s}}
	for text, want := range map[string]string{
		"GEORADIUS a 1 2 3 m": "a", "GEORADIUS a 1 2 3 m STORE b": "a b", "GEORADIUS a 1 2 3 m STORE b ASC store c": "a b c", "GEORADIUS a 1 2 3 m STORE STORE b": "a STORE b",
		"GEORADIUS a 1 2 3 m STORE": "a",
	} {
		keys, ask := command.Keys(strings.Split(text, " "))
		require.False(t, ask)
		require.Equal(t, want, strings.Join(keys, " "), text)
	}
}

func FuzzKeysAreAmongTheArguments(f *testing.F) {
	p := newTestPool(f, redistest.Start(f))
	table, err := p.Table(testContext(f))
	require.NoError(f, err)
	names := make([]string, 0, len(table.commands))
	for name := range table.commands {
		names = append(names, name)
	}
	slices.Sort(names)
	f.Add(uint64(1), uint64(2))
	f.Fuzz(func(t *testing.T, a, b uint64) {
		random := rand.New(rand.NewPCG(a, b))
		words := []string{"a", "b", "0", "1", "2", "-1", "99999999999", "STREAMS", "STORE", "9223372036854775807", "GET", ""}
		args := []string{names[random.IntN(len(names))]}
		for range random.IntN(8) {
			args = append(args, words[random.IntN(len(words))])
		}
		keys, _ := table.Lookup(args).Keys(args)
		for _, key := range keys {
			require.Contains(t, args[1:], key)
		}
	})
}

func TestTheServersFlagsAreKnown(t *testing.T) {
	p := newTestPool(t, redistest.Start(t))
	table, err := p.Table(testContext(t))
	require.NoError(t, err)
	lookup := func(text string) *Command { return table.Lookup(strings.Fields(text)) }
	require.True(t, lookup("lpush a b").Write)
	require.True(t, lookup("HGET a f").ReadOnly)
	require.True(t, lookup("BLPOP a 0").Blocking)
	require.True(t, lookup("XREAD STREAMS a 0").Blocking)
	require.False(t, lookup("LPOP a").Blocking)
	require.True(t, lookup("HSET").In("hash"))
	require.Nil(t, lookup("nonsense"))
	require.NotNil(t, lookup("OBJECT nonsense"))
	require.NotNil(t, lookup("FLUSHALL"))
}

func TestADenyListIsRead(t *testing.T) {
	p := newTestPool(t, redistest.Start(t))
	table, err := p.Table(testContext(t))
	require.NoError(t, err)
	d, err := NewDeny([]string{"flushall", "config|set", "@hash"})
	require.NoError(t, err)
	for text, denied := range map[string]bool{"FLUSHALL": true, "flushall async": true, "CONFIG SET a b": true, "config get a": false, "HGET a f": true, "LPUSH a b": false, "CONFIG": false} {
		args := strings.Fields(text)
		require.Equal(t, denied, d.Denies(table.Lookup(args), args), text)
	}
	d, err = NewDeny([]string{"config", "*"})
	require.NoError(t, err)
	require.True(t, d.All())
	for _, wrong := range [][]string{{"none", "a"}, {""}, {"@"}, {"a b"}, {"a|b|c"}, {"@a|b"}} {
		_, err = NewDeny(wrong)
		require.Error(t, err, wrong)
	}
}
