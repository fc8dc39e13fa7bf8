package fakeredis

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/redaside/aside/internal/deferred"
	"github.com/redaside/aside/internal/redistest"
	"github.com/redaside/aside/internal/script"
	"github.com/redaside/aside/internal/stamp"
	"github.com/redaside/aside/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// peer is a plain client of RESP3, of either server.
type peer struct {
	net.Conn
	r *bufio.Reader
}

func dialed(t testing.TB, conn net.Conn, err error) *peer {
	t.Helper()
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	p := &peer{conn, bufio.NewReader(conn)}
	p.do(t, "HELLO", "3")
	return p
}

func (p *peer) send(t testing.TB, args ...string) {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, arg := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(arg), arg)
	}
	_, err := io.WriteString(p, b.String())
	require.NoError(t, err)
}

// read returns one answer, or a push.
func (p *peer) read(t testing.TB) any {
	t.Helper()
	line, err := p.r.ReadString('\n')
	require.NoError(t, err)
	kind, text := line[0], strings.TrimRight(line[1:], "\r\n")
	n, _ := strconv.Atoi(text)
	switch kind {
	case '_':
		return nil
	case '+':
		return status(text)
	case '-':
		return failure(text)
	case ':':
		return int64(n)
	case '$', '=':
		if n < 0 {
			return nil
		}
		b := make([]byte, n+2)
		_, err := io.ReadFull(p.r, b)
		require.NoError(t, err)
		return string(b[:n])
	case '%':
		n *= 2
	}
	all := make([]any, n)
	for i := range all {
		all[i] = p.read(t)
	}
	if kind == '>' {
		keys := push{}
		list, ok := all[1].([]any)
		if !ok {
			return push(nil)
		}
		for _, key := range list {
			keys = append(keys, key.(string))
		}
		return keys
	}
	return all
}

// until returns the pushes before the next answer, and that.
func (p *peer) until(t testing.TB) (pushed []string, answer any) {
	t.Helper()
	for {
		answer = p.read(t)
		keys, ok := answer.(push)
		if !ok {
			return pushed, answer
		}
		if keys == nil {
			pushed = append(pushed, "(all)")
		}
		pushed = append(pushed, keys...)
	}
}

// heard is what a client hears of a command: the answer, the pushes before it, and those behind it.
type heard struct {
	before []string
	answer any
	after  []string
}

func (p *peer) do(t testing.TB, args ...string) heard {
	t.Helper()
	p.send(t, args...)
	var h heard
	h.before, h.answer = p.until(t)
	p.send(t, "ECHO", "done")
	h.after, _ = p.until(t)
	return h
}

// world is a server with two clients that are tracked, and one that looks.
type world struct{ a, b, looks *peer }

func newWorld(t testing.TB, dial func() (net.Conn, error)) world {
	t.Helper()
	var peers [3]*peer
	for i := range peers {
		conn, err := dial()
		peers[i] = dialed(t, conn, err)
	}
	for _, p := range peers[:2] {
		require.Equal(t, status("OK"), p.do(t, "CLIENT", "TRACKING", "ON", "OPTOUT").answer)
	}
	return world{peers[0], peers[1], peers[2]}
}

// alike reports whether two answers are the same, but for how far two clocks are apart.
func alike(want, got any) bool {
	switch r := want.(type) {
	case int64:
		f, ok := got.(int64)
		return ok && (r == f || min(r, f) > 1000 && max(r, f)-min(r, f) < 5000)
	case string:
		f, ok := got.(string)
		if !ok {
			return false
		}
		if len(r) == 19 && len(f) == 19 && r[0] == 16 && f[0] == 16 { // a bucket's head
			return near(bigEndian(r[1:7]), bigEndian(f[1:7])) && near(bigEndian(r[7:13]), bigEndian(f[7:13])) && r[13:] == f[13:]
		}
		sr, isStamp := stamp.ParseLeft(r)
		sf, also := stamp.ParseLeft(f)
		if isStamp && also {
			return sr.Client == sf.Client && sr.Number == sf.Number && sr.Changed == sf.Changed && sameTime(sr.Micros, sf.Micros) && sameTime(sr.Other, sf.Other) && near(sr.Ends, sf.Ends)
		}
		if nr, ok := isNumber(r); ok && len(r) == 16 { // the time of made.lua
			nf, also := isNumber(f)
			return also && near(nr/1000, nf/1000)
		}
		if nr, ok := isNumber(r); ok && len(r) == 13 { // the end of refresh.lua
			nf, also := isNumber(f)
			return also && near(nr, nf)
		}
		return r == f
	case failure:
		f, ok := got.(failure)
		return ok && kindOf(r) == kindOf(f)
	case []any:
		f, ok := got.([]any)
		if !ok || len(r) != len(f) {
			return false
		}
		for i := range r {
			if !alike(r[i], f[i]) {
				return false
			}
		}
		return true
	}
	return want == got
}

// sameTime reports whether two times in µs are the same, or both of now.
func sameTime(a, b int64) bool {
	return a == b || near(a/1000, b/1000) && near(a/1000, time.Now().UnixMilli())
}

func near(a, b int64) bool { return max(a, b)-min(a, b) < 5000 }

// kindOf is the first word of an error, wherever the server puts it.
func kindOf(f failure) string {
	for _, kind := range []string{"WRONGTYPE", "OOM", "NOSCRIPT"} {
		if strings.Contains(string(f), kind) {
			return kind
		}
	}
	first, _, _ := strings.Cut(string(f), " ")
	return first
}

// author makes up commands.
type author struct{ *rand.Rand }

func pick[T any](a author, of ...T) T { return of[a.IntN(len(of))] }

const (
	ours   = wire.LockPrefix + "ours:1:0001795000000000"
	theirs = wire.LockPrefix + "theirs:1:4001795000000000"
)

// tooLong is a ttl that is none, since Redis 6.2.
const tooLong = "9223372036854775807"

func (a author) key() string { return pick(a, "{t}a", "{t}b", "{t}c", "{t}d", "{t}e") }

func (a author) keys() []string {
	all := []string{"{t}a", "{t}b", "{t}c", "{t}d", "{t}e"}
	a.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:1+a.IntN(len(all))]
}

func (a author) value() string {
	lived := wire.Header{Began: 1_795_000_000_000_000, TTL: time.Hour, Grace: pick(a, 0, 20*time.Minute, 3*time.Hour)}
	lives := lived
	lives.Began, lives.Absent = 0, true
	return pick(a, "", "v", "w", "17", ours, theirs, wire.Absent, strings.Repeat("long", 20), wire.PackHeader(lived, "v"), wire.PackHeader(lives, ""), wire.PackHeader(wire.Header{Version: 300}, "v"))
}

// ttl is in ms, and ends long after the test.
func (a author) ttl() string {
	return pick(a, "100000", "700000", "7200000", "16777215", "16777216", "4153600000000")
}

func (a author) window() string {
	now := time.Now().UnixMicro()
	const hour = 3_600_000_000
	switch a.IntN(10) {
	case 0:
		return fmt.Sprintf("%d-%d", now-2*hour, now-hour)
	case 1:
		return fmt.Sprintf("%d-%d", now+hour, now+2*hour)
	case 2:
		return fmt.Sprint(now + hour)
	}
	return fmt.Sprintf("%d-%d", now-hour, now+hour)
}

// stamp has a time that is far from now and from those of others, so that both servers judge alike.
func (a author) stamp() string {
	packed, _ := stamp.Packed(a.proposed().String())
	return packed
}

func (a author) proposed() stamp.Stamp {
	at := time.Now().Truncate(10 * time.Minute).Add(time.Minute * time.Duration(pick(a, -60, -50, -20, -20, -10, 20, 30)))
	return stamp.Stamp{Micros: at.UnixMicro(), Client: pick(a, "aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb", "cccccccccccccccc"), Number: int64(a.IntN(9))}
}

// plain is a plain command.
func (a author) plain() []string {
	key := a.key()
	return pick(a,
		[]string{"GET", key}, []string{"SET", key, a.value()}, []string{"SET", key, a.value(), "PX", a.ttl()}, []string{"SET", key, a.value(), "NX", "EX", "1000"},
		[]string{"SET", key, a.value(), "XX", "KEEPTTL"}, []string{"SET", key, "v", "NX", "XX"}, []string{"SET", key, "v", "PX", "0"}, []string{"SET", key, "v", "EX", "x"},
		append([]string{"DEL"}, a.keys()...), append([]string{"UNLINK"}, a.keys()...), append([]string{"EXISTS"}, a.keys()...), append([]string{"MGET"}, a.keys()...),
		[]string{"PEXPIRE", key, a.ttl()}, []string{"PEXPIRE", key, "-1"}, []string{"EXPIRE", key, "1000"}, []string{"PTTL", key}, []string{"TTL", key}, []string{"PERSIST", key},
		[]string{"PEXPIREAT", key, fmt.Sprint(time.Now().Add(time.Hour).UnixMilli())}, []string{"EXPIREAT", key, "1"}, []string{"PEXPIRE", key, tooLong},
		[]string{"GETEX", key}, []string{"GETEX", key, "PX", a.ttl()}, []string{"GETEX", key, "PERSIST"}, []string{"GETDEL", key}, []string{"STRLEN", key}, []string{"TYPE", key},
		[]string{"GETRANGE", key, fmt.Sprint(a.IntN(9) - 4), fmt.Sprint(a.IntN(9) - 4)}, []string{"SETRANGE", key, fmt.Sprint(a.IntN(5)), pick(a, "", "xyz")},
		[]string{"APPEND", key, pick(a, "", "17")}, []string{"INCR", key}, []string{"DECRBY", key, "5"}, []string{"INCRBY", key, "x"}, []string{"SETNX", key, a.value()},
		[]string{"SETEX", key, "1000", a.value()}, []string{"PSETEX", key, a.ttl(), a.value()}, []string{"PSETEX", key, "0", "v"}, []string{"MSET", key, "m", a.key(), a.value()},
		[]string{"RPUSH", key, "x", "y"}, []string{"LPUSH", key, "z"}, []string{"LLEN", key}, []string{"LRANGE", key, fmt.Sprint(a.IntN(5) - 3), fmt.Sprint(a.IntN(5) - 3)},
		[]string{"HSET", key, "f", a.value(), pick(a, "f", "g"), "2"}, []string{"HGET", key, "f"}, []string{"HMGET", key, "f", "h"}, []string{"HGETALL", key}, []string{"HLEN", key},
		[]string{"HDEL", key, pick(a, "f", "g")}, []string{"HEXISTS", key, "g"}, []string{"SADD", key, "m"}, []string{"SREM", key, "m"}, []string{"SMEMBERS", key},
		[]string{"CLIENT", "CACHING", pick(a, "NO", "NO", "NO", "YES")}, []string{"CLIENT", "GETNAME"}, []string{"NONSENSE", key}, []string{"GET"}, []string{"GET", key, "x"}, []string{"PING"},
		[]string{"ECHO", "x"}, []string{"SELECT", "x"}, []string{"SCRIPT", "EXISTS", script.Read.SHA()}, []string{"CLUSTER", "SLOTS"}, []string{"DBSIZE"}, []string{"KEYS", "{t}*"},
	)
}

// bucket is a plain command that leaves in a bucket what a script may find there.
func (a author) bucket() []string {
	bucket, field, now := stamp.Bucket(a.key()), stamp.Field(a.key()), time.Now().UnixMilli()
	const hour = 3_600_000
	// Not an hour: scripts are told to keep stamps for that, and a millisecond more or less would decide.
	h := head{lives: now + pick[int64](a, hour/2, 10*hour), due: now + pick[int64](a, -hour, hour), longest: pick[int64](a, 1, hour)}
	old := stamp.Left{Stamp: a.proposed(), Ends: now + pick[int64](a, -hour, hour), Other: pick[int64](a, 0, (now-hour)*1000), Changed: a.IntN(2) == 0}
	old.Micros -= pick[int64](a, 0, 5*hour*1000)
	return pick(a,
		[]string{"HSET", bucket, "", h.String()}, []string{"HSET", bucket, "", "?"}, []string{"HSET", bucket, field, "?"},
		[]string{"HSET", bucket, field, old.String()}, []string{"HSET", bucket, "{t}gone", old.String()}, []string{"SET", bucket, "x"}, []string{"DEL", bucket},
	)
}

// script is a call of a script.
func (a author) script() []string {
	s := pick(a, script.All()...)
	keys := a.keys()
	var args []string
	each := func(list func()) {
		for range keys {
			list()
		}
	}
	one := func(more ...string) { keys, args = keys[:1], append(args, more...) }
	stamped := func() {
		n := len(keys)
		for _, key := range keys[:n] {
			keys = append(keys, stamp.Bucket(key))
		}
		args = append(args, fmt.Sprint(n))
	}
	marker := func() string { return pick(a, ours, ours, theirs) }
	switch s {
	case script.ReadOrLock:
		one(marker(), a.ttl(), pick(a, "1000", "50", "1"))
	case script.ReadOrLockMany:
		args = []string{marker(), a.ttl(), pick(a, "1000", "50", "1")}
	case script.ReplaceOrLock:
		one(marker(), a.ttl(), sha1hex(a.value()))
	case script.Read:
		one(wire.LockPrefix, pick(a, "1000", "50", "1"))
	case script.Fill:
		one(marker(), a.value(), a.ttl())
	case script.FillMany:
		each(func() { args = append(args, marker(), a.value(), a.ttl()) })
	case script.Renew:
		args = []string{a.ttl()}
		each(func() { args = append(args, marker()) })
	case script.Release, script.ReleaseFailed:
		each(func() { args = append(args, marker()) })
	case script.Refresh:
		keys = []string{"{t}a", "{t}b"}
		a.Shuffle(2, func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
		args = []string{marker(), a.ttl(), pick(a, "1000000", "100", "9000000000", "", "+1000000", "+100"), wire.LockPrefix}
		stamped()
	case script.Refreshed: // it is refused unless somebody knows the end, or there is none: asidetest shows the rest
		keys = []string{"{t}a", "{t}b"}
		a.Shuffle(2, func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
		args = []string{marker(), sha1hex(a.value()), pick(a, "0", fmt.Sprint(time.Now().Add(-time.Hour).UnixMilli())), "", a.value(), pick(a, "0", "100000")}
		stamped()
	case script.RefreshFailed:
		one(marker(), pick(a, "failed:1:1000", "failed:7:99000000"), a.ttl())
	case script.SetBare:
		args = []string{a.window()}
		each(func() { args = append(args, a.value(), a.ttl()) })
	case script.DelBare:
		args = []string{a.window()}
	case script.Touch:
		args = []string{a.window(), a.ttl(), wire.LockPrefix, "\x00other:lock:", wire.Absent}
	case script.Expire:
		args = []string{a.window(), "3600000", a.stamp(), pick(a, "90000", "600000", "9000000000"), wire.LockPrefix, "\x00other:lock:"}
		stamped()
	case script.ExpireBare:
		args = []string{a.window(), pick(a, "90000", "600000", "9000000000"), wire.LockPrefix, "\x00other:lock:"}
	case script.ReplayBare:
		args = []string{a.window()}
		each(func() { args = append(args, pick(a, "set", "del", "fill")) })
	case script.Set:
		args = []string{a.window(), "3600000", pick(a, "", "again")}
		each(func() { args = append(args, a.stamp(), a.value(), a.ttl()) })
		stamped()
	case script.Del:
		args = []string{a.window(), "3600000", pick(a, "", "again"), a.stamp()}
		if a.IntN(2) == 0 {
			args = args[:3]
			each(func() { args = append(args, a.stamp()) })
		}
		stamped()
	case script.Mark:
		args = []string{a.window(), "3600000", a.stamp(), "9000000000000"}
		stamped()
	case script.Stamp:
		keys = []string{stamp.Bucket("{t}a")}
		args = []string{a.window(), a.stamp(), "3600000", pick(a, "0", "100000", "7200000"), a.key()}
	case script.Replay:
		args = []string{a.window(), "3600000", wire.LockPrefix}
		each(func() {
			ends := time.Now().Add(pick(a, time.Hour, 10*time.Hour, -time.Hour)).UnixMilli()
			deed, ok := stamp.AppendDeed(nil, pick[byte](a, 's', 's', 's', 'S', 'd', 'd', 'D', 'f', 'f', 'F'), a.proposed(), pick[int64](a, 1_000_000, 900_000_000), ends)
			if !ok {
				panic("a client's id is hexadecimal")
			}
			args = append(args, string(deed), a.value())
		})
		stamped()
	case script.Ledger:
		for i, key := range keys {
			keys[i] = stamp.Ledger(key)
		}
		args = []string{a.window(), pick(a, "1000000", "100000")}
		each(func() { args = append(args, a.list()) })
	case script.Operate:
		args = []string{a.window(), pick(a, "3600000", "3600000", ""), "1000000"}
		each(func() { args = append(args, pick(a, a.list(), a.list(), ""), "100000", a.operations()) })
		for _, key := range slices.Clone(keys) {
			keys = append(keys, stamp.Ledger(key))
		}
		stamped()
	case script.Time:
		keys = nil
	case script.Group:
		keys = []string{"{t}group", "{t}group2"} // whose values are times
		each(func() { args = append(args, pick(a, "0", "100000", "9000000000")) })
	case script.Made:
		keys, args = []string{"{t}made"}, []string{"7200000"}
	case script.Probe:
		one("7200000")
	case script.Withheld:
		one("TOOLONG it is")
	case script.Explain:
		one(pick(a, "3", "1000"), stamp.Field(keys[0]))
		if a.IntN(2) == 0 {
			keys = append(keys, pick(a, "{t}a", "{t}b"))
		}
		stamped()
	}
	head := []string{"EVAL", s.Text()}
	if a.IntN(3) == 0 {
		head = []string{"EVALSHA", s.SHA()}
	}
	return slices.Concat(head, []string{fmt.Sprint(len(keys))}, keys, args)
}

// list is the name of one of two lists of operations, or of one that is too old.
func (a author) list() string {
	s, _ := stamp.Packed(stamp.Stamp{Micros: time.Now().UnixMicro()/1e10*1e10 - pick[int64](a, 0, 1, 1e13), Client: "00000000000000aa", Number: 1}.String())
	return s
}

// operations are some, each later than the one before.
func (a author) operations() string {
	var l deferred.List
	s := a.proposed()
	for range 1 + a.IntN(3) {
		s.Micros += 1 + a.Int64N(1000)
		ends := fmt.Sprint(time.Now().Add(pick(a, time.Hour, -time.Hour)).UnixMilli())
		l.Ops = append(l.Ops, deferred.Op{Stamp: s.String(), Command: pick(a,
			[]string{"INCRBY", pick(a, "5", "-1", "9223372036854775807")}, []string{"APPEND", "x"}, []string{"SADD", "m", "n"}, []string{"SREM", "n"},
			[]string{"HSET", "f", "1", "g", "x"}, []string{"HDEL", "f"}, []string{"HSETNX", "f", "y"}, []string{"HINCRBY", "f", "2"}, []string{"LPUSH", "a", "b"}, []string{"RPUSH", "c"},
			[]string{"SET", a.value()}, []string{"SET", "7", "PXAT", ends}, []string{"DEL"}, []string{"PEXPIREAT", ends}, []string{"PERSIST"}, []string{"SETNX", "z"},
		)})
	}
	packed, ok := l.Packed()
	if !ok {
		panic("a client's id is hexadecimal")
	}
	return packed
}

// answersOfTheirOwn are not compared: the time, and which server it is.
func answersOfTheirOwn(args []string) bool {
	return slices.ContainsFunc(args, func(arg string) bool {
		return slices.Contains([]string{script.Time.Text(), script.Time.SHA(), script.Who.Text(), script.Who.SHA()}, arg)
	})
}

// sorted are pushes of one command: which key comes first says nothing.
func sorted(keys []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(keys)))
}

// Random commands and scripts get the same answers and pushes from both, and leave the same behind.
func TestTheFakeDoesWhatRedisDoes(t *testing.T) {
	server := redistest.Start(t)
	// The fake is a newer Redis than some. Up to 7.0 what a script reads makes all its keys tracked.
	// Before 6.2 there is no GETEX, which is a write, so that a full server refuses more.
	older := func(prefixes ...string) bool {
		return server.Name() == "redis" && slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(server.Version(), prefix) })
	}
	pushes, getex := !older("6.", "7.0."), !older("6.0.", "6.1.")
	rounds, steps := 60, 80
	if testing.Short() {
		rounds = 5
	}
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("ASIDE_SEED"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
		seed = n
	}
	fake := New()
	t.Cleanup(fake.Close)
	for round := range rounds {
		server.Do("FLUSHALL")
		server.Do("SCRIPT", "FLUSH")
		server.Do("CONFIG", "SET", "maxmemory", "0")
		fake.Restart()
		theirs, ours := newWorld(t, func() (net.Conn, error) { return net.Dial("tcp", server.Addr()) }), newWorld(t, fake.Dial)
		a, full := author{rand.New(rand.NewPCG(seed, uint64(round)))}, getex && round%4 == 3
		var told []string
		for step := range steps {
			if full && step == steps/2 {
				for _, w := range []world{theirs, ours} {
					require.Equal(t, status("OK"), w.looks.do(t, "CONFIG", "SET", "maxmemory", "1").answer)
				}
			}
			args := a.plain()
			if a.IntN(2) == 0 || !getex && (strings.HasPrefix(args[0], "GET") || slices.Contains(args, tooLong)) {
				args = a.script()
			} else if a.IntN(5) == 0 {
				args = a.bucket()
			}
			untracked := a.IntN(3) == 0
			who := a.IntN(2)
			does := func(w world) (heard, []string) {
				peers := []*peer{w.a, w.b}
				if untracked {
					peers[who].send(t, "CLIENT", "CACHING", "NO")
					_, answer := peers[who].until(t)
					require.Equal(t, okay, answer)
				}
				mine := peers[who].do(t, args...)
				others := peers[1-who].do(t, "PING")
				return mine, append(others.before, others.after...)
			}
			wantMine, wantOther := does(theirs)
			gotMine, gotOther := does(ours)
			told = append(told, fmt.Sprintf("%c: %q, untracked: %v", 'a'+who, named(args), untracked))
			fails := func(what string, want, got any) {
				t.Helper()
				t.Fatalf("ASIDE_SEED=%d, round %d: %s\n  %s says %q,\n  the fake says %q\nafter\n%s", seed, round, what, server.Version(), want, got, strings.Join(told[max(0, len(told)-30):], "\n"))
			}
			if args[0] == "KEYS" || args[0] == "SMEMBERS" || args[0] == "HGETALL" { // in any order
				wantMine.answer, gotMine.answer = sortedList(wantMine.answer), sortedList(gotMine.answer)
			}
			if !answersOfTheirOwn(args) && !alike(wantMine.answer, gotMine.answer) {
				fails("an answer", wantMine.answer, gotMine.answer)
			}
			if pushes {
				if want, got := sorted(wantMine.before), sorted(gotMine.before); !slices.Equal(want, got) {
					fails("pushes before the answer", want, got)
				}
				if want, got := sorted(wantMine.after), sorted(gotMine.after); !slices.Equal(want, got) {
					fails("pushes behind the answer", want, got)
				}
				if want, got := sorted(wantOther), sorted(gotOther); !slices.Equal(want, got) {
					fails("pushes to the other client", want, got)
				}
			}
			for _, look := range [][]string{{"KEYS", "*"}, {"PTTL", a.key()}, {"HGET", stamp.Bucket("{t}a"), a.key()}, {"HGET", stamp.Bucket("{t}a"), "{t}gone"}, {"HGET", stamp.Bucket("{t}a"), ""}, {"PTTL", stamp.Bucket("{t}a")}, {"GET", a.key()}} {
				want, got := theirs.looks.do(t, look...).answer, ours.looks.do(t, look...).answer
				if look[0] == "KEYS" {
					want, got = sortedList(want), sortedList(got)
				}
				if !alike(want, got) {
					fails(fmt.Sprintf("what is left behind, by %q", look), want, got)
				}
			}
		}
		for _, w := range []world{theirs, ours} {
			for _, p := range []*peer{w.a, w.b, w.looks} {
				p.Close()
			}
		}
	}
}

// named has the name of a script in place of its text or sum.
func named(args []string) []string {
	args = slices.Clone(args)
	for i := range args {
		for _, s := range script.All() {
			if args[i] == s.Text() || args[i] == s.SHA() {
				args[i] = s.Name()
			}
		}
	}
	return args
}

func sortedList(answer any) any {
	all, ok := answer.([]any)
	if !ok {
		return answer
	}
	var keys []string
	for _, key := range all {
		keys = append(keys, key.(string))
	}
	slices.Sort(keys)
	list := []any{}
	for _, key := range keys {
		list = append(list, key)
	}
	return list
}

// A refresh that is stored leaves the same beside the key: the stamp that was there, without its end.
func TestTheFakeStoresARefreshAsRedisDoes(t *testing.T) {
	server := redistest.Start(t)
	fake := New()
	t.Cleanup(fake.Close)
	dialers := map[string]func() (net.Conn, error){"redis": func() (net.Conn, error) { return net.Dial("tcp", server.Addr()) }, "the fake": fake.Dial}
	const other = 1_700_000_000_000_000
	for name, dial := range dialers {
		conn, err := dial()
		p := dialed(t, conn, err)
		for _, left := range []stamp.Left{{}, {Other: other}, {Changed: true}, {Other: other, Changed: true}} {
			left.Stamp = stamp.Stamp{Micros: time.Now().UnixMicro(), Client: "0123456789abcdef", Number: 7}
			for _, ends := range []int64{0, time.Now().Add(time.Hour).UnixMilli(), time.Now().Add(400 * 24 * time.Hour).UnixMilli()} {
				was := left
				was.Ends = ends
				for _, ttl := range []string{"100000", "0"} {
					require.Equal(t, left.String(), afterRefreshes(t, p, was.String(), ttl), "%s: %+v", name, was)
				}
			}
		}
	}
}

// afterRefreshes is the stamp beside a key that had this one, after it was refreshed with and without
// regard to when it ends, and without regard to anything.
func afterRefreshes(t *testing.T, p *peer, was, ttl string) any {
	keys, left := []string{"4", "k", "lock", stamp.Bucket("k"), stamp.Bucket("lock")}, any(nil)
	for _, within := range []string{"200000", "+200000", ""} {
		args := []string{"SET", "k", "v", "PX", "100000"}
		if within != "200000" { // then also what does not expire
			args = args[:3]
		}
		p.do(t, args...)
		p.do(t, "HSET", stamp.Bucket("k"), "k", was)
		taken := p.do(t, slices.Concat([]string{"EVAL", script.Refresh.Text()}, keys, []string{"m", "10000", within, wire.LockPrefix, "2"})...).answer.([]any)
		require.Len(t, taken, 5)
		done := p.do(t, slices.Concat([]string{"EVAL", script.Refreshed.Text()}, keys, []string{"m", taken[2].(string), taken[3].(string), taken[4].(string), "w", ttl, "2"})...)
		require.Equal(t, []any{int64(1)}, done.answer)
		next := p.do(t, "HGET", stamp.Bucket("k"), "k").answer
		if left != nil {
			require.Equal(t, left, next)
		}
		left = next
	}
	p.do(t, "DEL", stamp.Bucket("k"))
	return left
}
