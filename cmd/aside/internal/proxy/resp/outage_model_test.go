package resp

import (
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
	"github.com/redaside/aside/internal/stamp"
)

// The model of what a proxy has seen and done is a Redis of its own, the shadow: whatever the proxy has
// answered, and not refused, is then sent to the shadow, which must answer the same, byte for byte. It
// is never away, and nobody else writes. So a command that the proxy does in an outage by what it
// knows must do exactly what Redis would have done, and what is replayed must end as it.

var modelCommands = flag.Int("model.commands", 20_000, "how many commands TestAnswersInAnOutageAreNeverWrong sends")

// modelSeed is for others than those of each day.
var modelSeed = flag.Uint64("model.seed", 0, "makes the commands others")

// model drives a proxy, and its shadow.
type model struct {
	t        testing.TB
	random   *rand.Rand
	server   *redistest.Server // behind the proxy
	protocol string            // that all speak
	shadow   *peer
	local    *peer // a Redis that knows what the proxy has done in this outage, and nothing else; nil: only exact answers are given
	proxy    *peer
	client   *aside.Client
	away     bool
	back     bool           // Redis was there for a moment in this outage, or is: some of what waited may have been replayed
	keys     []string       // of strings; often used ones first
	all      []string       // and of other types
	answered map[string]int // in an outage, by command
	refused  map[string]int
	listed   int   // keys, in outages
	heard    int   // keys of which the proxy remembers what was read, as outages begin
	parts    int   // of these, in part
	foreign  *peer // writes to the Redis behind the proxy while it is well; nil: nobody does
	others   int   // commands of foreign between two pipelines of the proxy's clients, at most
	emptied  int   // keys, by the rule of bareValues
	front    *Server
	multi    bool                // transactions of several keys are sent between pipelines
	history  map[string][]string // the latest that was done with a key, and answered
	relapses int                 // outages that began before all was replayed
	faults   map[string]int      // of these, by name
	relapsed int                 // commands in these
}

// note remembers what was answered, for whoever looks for the reason of a failure.
func (m *model) note(args []string, reply string) {
	for i, key := range args {
		if i > 0 && slices.Contains(m.all, key) {
			h := append(m.history[key], fmt.Sprintf("%q %.60s (away: %v)", args, reply, m.away))
			m.history[key] = h[max(0, len(h)-30):]
		}
	}
}

// past is what note has remembered of the keys of a command.
func (m *model) past(args []string) string {
	var b strings.Builder
	for _, key := range args {
		for _, text := range m.history[key] {
			b.WriteString("\n" + text)
		}
	}
	return b.String()
}

// refusal reports whether the proxy has not done it, and says so.
func refusal(reply string) bool { return strings.HasPrefix(reply, "-ASIDEDEGRADED") }

// send sends commands as a pipeline to the proxy, and those that it has not refused to the shadow.
func (m *model) send(all [][]string) {
	m.t.Helper()
	waited := m.recall(all)
	replies := pipelined(m.proxy, all)
	var done [][]string
	var got []string
	for i, args := range all {
		name := strings.ToUpper(args[0])
		m.note(args, replies[i])
		if strings.HasPrefix(replies[i], "-ASIDEUNKNOWN") {
			require.Len(m.t, all, 1, "only what is sent as Redis comes back may meet a connection that is gone: %q", args)
			m.resolve(args)
			return
		}
		if refusal(replies[i]) || strings.HasPrefix(replies[i], "-READONLY") {
			require.True(m.t, m.away, "%q is refused while Redis is well: %s", args, replies[i])
			m.refused[name]++
			continue
		}
		if m.away {
			m.answered[name]++
		}
		done, got = append(done, args), append(got, replies[i])
	}
	want := pipelined(m.shadow, done)
	if m.local != nil && m.away {
		for i, reply := range pipelined(m.local, done) {
			kept := OutageOf(done[i]) == KeptAsOperation
			if kept && reply != got[i] && want[i] != got[i] && m.back && !strings.HasPrefix(m.waits(done), waited) { // that was replayed meanwhile
				m.forget(done)
				reply = m.local.do(done[i]...)
			}
			if kept && (reply == got[i] || got[i] == ":1" && strings.Contains("EXPIREAT PEXPIREAT PERSIST", done[i][0])) {
				want[i] = got[i]
			}
		}
	}
	for i := range done {
		m.compare(done[i], want[i], got[i])
	}
}

// transact sends a transaction in an outage, which is refused as a whole or done as a whole. (While Redis is well some that are passed on leave
// no stamp, as a SETNX may change nothing: then a Set that waits empties the key.)
func (m *model) transact() {
	m.t.Helper()
	var commands [][]string
	for _, kind := range []string{"k", "h", "s", "l", "k"} {
		key := m.of("1", "2", "3", "4")
		if kind += key; m.random.IntN(3) == 0 {
			continue
		}
		if m.random.IntN(2) == 0 {
			commands = append(commands, []string{m.of("DEL", "UNLINK"), kind})
		}
		for range 1 + m.random.IntN(2) {
			some := map[byte][][]string{
				'k': {{"SET", kind, m.of("1", "5")}, {"INCR", kind}, {"INCRBY", kind, "7"}, {"SETNX", kind, "3"}, {"APPEND", kind, "1"}, {"MSET", kind, "4", "k" + m.of("5", "6"), "6"}, {"SET", kind, "9", "EX", "1000"}, {"GET", kind}, {"GETSET", kind, "2"}},
				'h': {{"HSET", kind, m.of("a", "b"), m.of("1", "2")}, {"HINCRBY", kind, m.of("n", "m"), "2"}, {"HDEL", kind, "a"}, {"EXPIRE", kind, "1000"}, {"HGET", kind, "a"}},
				's': {{"SADD", kind, m.of("a", "b", "c")}, {"SREM", kind, m.of("a", "b")}, {"SISMEMBER", kind, "a"}},
				'l': {{"LPUSH", kind, m.of("a", "b")}, {"RPUSH", kind, "c", "d"}, {"LLEN", kind}},
			}[kind[0]]
			commands = append(commands, some[m.random.IntN(len(some))])
		}
	}
	all := append(append([][]string{{"MULTI"}}, commands...), []string{"EXEC"})
	replies := pipelined(m.proxy, all)
	last := replies[len(replies)-1]
	for _, args := range commands {
		m.note(append([]string{"(in a transaction)"}, args...), last)
	}
	if refusal(last) {
		require.True(m.t, m.away, "%q is refused while Redis is well: %s", commands, last)
		m.refused["EXEC"]++
		return
	}
	if m.away {
		m.answered["EXEC"]++
	}
	got, want, local := elements(last), elements(pipelined(m.shadow, all)[len(all)-1]), []string(nil)
	if m.local != nil && m.away {
		local = elements(pipelined(m.local, all)[len(all)-1])
	}
	require.Len(m.t, got, len(commands), "%q %s", commands, last)
	require.Len(m.t, want, len(commands))
	for i, args := range commands {
		kept := local != nil && OutageOf(args) == KeptAsOperation
		if !kept || got[i] != local[i] && (got[i] != ":1" || args[0] != "EXPIRE") {
			m.compare(args, want[i], got[i])
		}
	}
}

// elements are those of a reply that is an array of what is no array, and of which no value has a word that looks like another.
func elements(reply string) (all []string) {
	for _, word := range strings.Split(reply, " ")[1:] {
		if word != "" && strings.Contains(":+$-_", word[:1]) {
			all = append(all, word)
		} else {
			all[len(all)-1] += " " + word
		}
	}
	return all
}

func pipelined(p *peer, all [][]string) []string {
	p.t.Helper()
	require.NoError(p.t, p.SetDeadline(time.Now().Add(patience)))
	var b strings.Builder
	for _, args := range all {
		b.WriteString(encoded(args...))
	}
	_, err := io.WriteString(p, b.String())
	require.NoError(p.t, err)
	replies := make([]string, len(all))
	for i := range all {
		replies[i] = p.reply()
	}
	return replies
}

// compare compares what the shadow says with what the proxy has said.
func (m *model) compare(args []string, want, got string) {
	m.t.Helper()
	if want == got || saysOtherwise(m.server.Version(), want, got) {
		return
	}
	switch strings.ToUpper(args[0]) {
	case "HGETALL", "HKEYS", "HVALS", "SMEMBERS": // in no order
		want, got = sorted(want), sorted(got)
	}
	if last := strings.ToUpper(args[len(args)-1]); !m.away && (last == "GT" || last == "LT") {
		// The millisecond decides between two ends that are about the same, and the two did not do it in the same one.
		if m.proxy.do("TYPE", args[1]) == m.shadow.do("TYPE", args[1]) {
			m.compare([]string{"PTTL", args[1]}, m.shadow.do("PTTL", args[1]), m.proxy.do("PTTL", args[1]))
			return
		}
	}
	a, errA := strconv.ParseInt(strings.TrimPrefix(want, ":"), 10, 64)
	b, errB := strconv.ParseInt(strings.TrimPrefix(got, ":"), 10, 64)
	if numbers := errA == nil && errB == nil; numbers {
		switch strings.ToUpper(args[0]) {
		case "TTL", "EXPIRETIME": // they were not asked at the same moment
			if a > 0 && b > 0 && max(a-b, b-a) <= 2 {
				return
			}
		case "PTTL", "PEXPIRETIME":
			if a > 0 && b > 0 && max(a-b, b-a) < 2000 {
				return
			}
		case "DEL", "UNLINK": // those that may be there are not counted
			if m.away && 0 <= b && b < a {
				return
			}
		}
	}
	require.Equal(m.t, want, got, "%q (away: %v)%s", args, m.away, m.past(args))
}

// resolve finds out whether a command was done of which the proxy does not know, and goes on from there.
func (m *model) resolve(args []string) {
	m.t.Helper()
	m.replayed()
	server := m.behind()
	all := func(p *peer) (all []string) {
		for _, key := range m.all {
			all = append(all, contentOf(p, key))
		}
		return all
	}
	before := all(m.shadow)
	m.shadow.do(args...)
	after := all(m.shadow)
	for i, is := range all(server) {
		require.Contains(m.t, []string{before[i], after[i]}, is, "%q is either done or not: %s%s", args, m.all[i], m.past(m.all[i:i+1]))
	}
	for _, key := range m.all {
		if dump, ok := strings.CutPrefix(server.do("DUMP", key), "$"); ok && dump != "-1" {
			ttl := max(0, integer(server.do("PTTL", key)))
			require.Equal(m.t, "+OK", m.shadow.do("RESTORE", key, strconv.FormatInt(ttl, 10), dump, "REPLACE"))
		} else {
			m.shadow.do("DEL", key)
		}
	}
}

func integer(reply string) int64 {
	n, _ := strconv.ParseInt(strings.TrimPrefix(reply, ":"), 10, 64)
	return n
}

// behind connects to the Redis behind the proxy, by the protocol of the others.
func (m *model) behind() *peer {
	p := dial(m.t, m.server.Addr())
	require.NotContains(m.t, p.do("HELLO", m.protocol), "ERR")
	return p
}

// replayed waits until nothing waits for Redis.
func (m *model) replayed() {
	m.t.Helper()
	eventually(m.t, "all is replayed", func() bool { return m.client.Health().Mode == aside.Healthy && m.client.Stats().Pending == 0 })
	m.away, m.back = false, false
}

// settled compares what both Redises hold, once nothing waits.
func (m *model) settled() {
	m.t.Helper()
	m.replayed()
	for _, args := range [][]string{{"PERSIST", "none"}, {"HDEL", "none", "f"}} { // connections that the outage has broken are found out, and made anew
		eventually(m.t, "they are", func() bool { return pipelined(m.proxy, [][]string{args})[0] == ":0" })
	}
	server := m.behind()
	for _, key := range m.all {
		require.Equal(m.t, contentOf(m.shadow, key), contentOf(server, key), "%s%s", key, m.past([]string{key}))
		m.compare([]string{"PTTL"}, m.shadow.do("PTTL", key), server.do("PTTL", key))
	}
}

// contentOf is what a Redis holds under key.
func contentOf(p *peer, key string) string {
	switch kind := p.do("TYPE", key); kind {
	case "+string":
		return p.do("GET", key)
	case "+hash":
		return "hash " + sorted(p.do("HGETALL", key))
	case "+set":
		return "set " + sorted(p.do("SMEMBERS", key))
	case "+list":
		return p.do("LRANGE", key, "0", "-1")
	default:
		return kind
	}
}

// run sends so many commands, with outages between them.
func (m *model) run(through *faultproxy.Proxy, commands int, anyOf func(*model) []string) {
	m.t.Helper()
	command := func(m *model) []string {
		for {
			if args := anyOf(m); !lacks(m.server.Version(), args) {
				return args
			}
		}
	}
	for sent := 0; sent < commands; {
		for range m.random.IntN(60) {
			sent += m.batch(20, command)
			m.interfere(command)
		}
		m.reads()
		through.Refuse()
		awaitMode(m.t, m.client, aside.Degraded)
		m.away = true
		for _, key := range m.all {
			if e := m.front.heard(key); e != nil {
				if m.heard++; e.part {
					m.parts++
				}
			}
		}
		if m.local != nil {
			m.local.do("FLUSHALL")
		}
		for range m.random.IntN(400) {
			sent += m.batch(20, command)
			if m.multi {
				m.transact()
			}
		}
		m.lists()
		bare := m.bareValues()
		through.Heal()
		m.back = true
		for range m.random.IntN(3) {
			var n int
			bare, n = m.relapse(through, bare, command)
			sent += n
		}
		for m.away && m.client.Health().Mode != aside.Healthy { // what is sent meanwhile meets Redis as it comes back
			sent += m.batch(1, without(bare, command))
		}
		m.settled()
	}
	away := 0
	for _, counts := range []map[string]int{m.answered, m.refused} {
		for _, n := range counts {
			away += n
		}
	}
	m.t.Logf("%d commands while Redis was away, so far; here %d relapses (%v), with %d commands", away, m.relapses, m.faults, m.relapsed)
}

// reads reads before an outage, and waits until all that was changed before is proven to have been told.
func (m *model) reads() {
	m.t.Helper()
	if m.foreign == nil || !m.front.options.Collections {
		return
	}
	eventually(m.t, "what is read is remembered", func() bool { return m.front.hearsAll(int(integer(m.protocol))) })
	for range 5 {
		m.batch(20, wholeOrPart)
	}
	if m.random.IntN(4) == 0 { // that is not waited for
		return
	}
	now := time.Now()
	for _, shard := range m.client.Health().Shards {
		target := m.front.targetAt(shard.Addr)
		eventually(m.t, "a proof", func() bool {
			for _, key := range m.all {
				m.front.heard(key) // somebody wants it
			}
			return target.Proven().After(now) || m.front.targetAt(shard.Addr) != target
		})
	}
}

// hearsAll reports whether what is read by a version of the protocol is remembered, of whichever server.
func (s *Server) hearsAll(protocol int) bool {
	shards := s.store.Client().Health().Shards
	return len(shards) > 0 && !slices.ContainsFunc(shards, func(shard aside.ShardHealth) bool {
		target := s.targetAt(shard.Addr)
		return target == nil || !target.Listens() || !s.pool.Hears(shard.Addr, protocol, target)
	})
}

// interfere lets somebody else write, and waits until the proxy has heard of it.
func (m *model) interfere(command func(*model) []string) {
	m.t.Helper()
	if m.foreign == nil || m.random.IntN(2) == 0 {
		return
	}
	all := make([][]string, m.random.IntN(m.others+1))
	for i := range all {
		all[i] = command(m)
	}
	want, got := pipelined(m.shadow, all), pipelined(m.foreign, all)
	pipelined(m.proxy, [][]string{{"EVAL", "return 0", "0"}}) // behind which nothing is answered that was changed before
	for i, args := range all {
		m.note(append([]string{"(another)"}, args...), got[i])
		m.compare(args, want[i], got[i])
	}
}

// bareValues are the keys of which Redis, while the proxy does not reach it, holds a value that no stamp claims: a
// client without the library has written it. It looks like a loaded one, which may be newer than any Set (ADR 5). So a
// Set that waits now will empty the key, and the shadow's is emptied. Operations are done on such a value. Until all
// is replayed nobody can tell whether a command on these keys comes before or behind that, so none may name them.
func (m *model) bareValues() []string {
	m.t.Helper()
	if m.foreign == nil { // the proxy's own writes have stamps
		return nil
	}
	var bare []string
	server := m.behind()
	for _, key := range m.keys { // nobody does a SET of others
		if server.do("TYPE", key) == "+none" {
			continue
		}
		left, ok := stamp.ParseLeft(strings.TrimPrefix(server.do("HGET", stamp.Bucket(key), stamp.Field(key)), "$"))
		if ok && left.Ends > time.Now().UnixMilli() {
			continue
		}
		bare = append(bare, key)
		kept, operations, err := m.client.Kept(m.t.Context(), key)
		require.NoError(m.t, err)
		if !operations && kept.Base == aside.BaseString {
			m.note([]string{"(the Set will empty)", key}, "")
			m.emptied++
			m.shadow.do("DEL", key)
		}
	}
	return bare
}

// without makes commands that name none of keys.
func without(keys []string, command func(*model) []string) func(*model) []string {
	return func(m *model) []string {
		for {
			args := command(m)
			if !slices.ContainsFunc(args, func(arg string) bool { return slices.Contains(keys, arg) }) {
				return args
			}
		}
	}
}

// lists looks whether the keys that are listed in an outage are those of which EXISTS answers 1.
func (m *model) lists() {
	m.t.Helper()
	ask := make([][]string, len(m.all))
	for i, key := range m.all {
		ask[i] = []string{"EXISTS", key}
	}
	var known []string
	for i, reply := range pipelined(m.proxy, ask) {
		if reply == ":1" {
			known = append(known, m.all[i])
		}
	}
	slices.Sort(known)
	for _, all := range [][]string{listed(m.proxy.do("KEYS", "*")), scanned(m.proxy, "COUNT", "7")} {
		slices.Sort(all)
		require.Equal(m.t, known, all)
	}
	require.Equal(m.t, fmt.Sprint(":", len(known)), m.proxy.do("DBSIZE"))
	m.listed += len(known)
}

// listed are the elements of a reply that is an array of texts without spaces.
func listed(reply string) []string {
	elements := strings.Split(reply, " $")
	return elements[1:]
}

// scanned is what SCAN returns until its end.
func scanned(p *peer, options ...string) (all []string) {
	p.t.Helper()
	for cursor := "0"; ; {
		page := listed(p.do(append([]string{"SCAN", cursor}, options...)...))
		require.NotEmpty(p.t, page)
		cursor, _, _ = strings.Cut(page[0], " ")
		if all = append(all, page[1:]...); cursor == "0" {
			return all
		}
	}
}

func (m *model) batch(most int, command func(*model) []string) int {
	all := make([][]string, 1+m.random.IntN(most))
	for i := range all {
		all[i] = command(m)
	}
	m.send(all)
	return len(all)
}

func (m *model) of(all ...string) string { return all[m.random.IntN(len(all))] }

// key is often one of a few.
func (m *model) key() string {
	if m.random.IntN(2) == 0 {
		return m.of(m.keys[:12]...)
	}
	return m.of(m.keys...)
}

func (m *model) value() string {
	return m.of("1", "-7", "0", "12", "text", "", "3.5", "10.25", "hello world", "9223372036854775806", strings.Repeat("long", 50))
}

func (m *model) span() string { return m.of("1000", "2000", "5000", "0", "-1", "x") }

// stringCommand is any command on strings.
func stringCommand(m *model) []string {
	at := func(unit int64) string { return strconv.FormatInt((time.Now().Unix()+3000)*unit, 10) }
	flags := func(args ...string) []string {
		if m.random.IntN(3) == 0 {
			args = append(args, m.of("NX", "XX", "GT", "LT"))
		}
		return args
	}
	switch m.random.IntN(34) {
	case 0, 1:
		return []string{"GET", m.key()}
	case 2:
		return []string{"MGET", m.key(), m.key()}
	case 3:
		return []string{m.of("EXISTS", "TOUCH"), m.key(), m.key()}
	case 4:
		return []string{m.of("TYPE", "STRLEN", "TTL", "PTTL", "EXPIRETIME", "PEXPIRETIME"), m.key()}
	case 5, 6:
		return []string{m.of("GETRANGE", "SUBSTR"), m.key(), m.of("0", "1", "-3", "100", "x", "-100"), m.of("0", "3", "-1", "-2", "100")}
	case 7, 8, 9:
		return []string{"SET", m.key(), m.value()}
	case 10:
		return append([]string{"SET", m.key(), m.value()}, [][]string{{"EX", "1000"}, {"PX", "5000000"}, {"PX", "0"}}[m.random.IntN(3)]...) // nothing ends while it is looked at
	case 11, 12:
		args := []string{"SET", m.key(), m.value(), m.of("NX", "XX", "GET", "KEEPTTL")}
		if m.random.IntN(2) == 0 {
			args = append(args, m.of("GET", "KEEPTTL", "NX"))
		}
		return args
	case 13:
		return []string{m.of("SETEX", "PSETEX"), m.key(), "500000", m.value()}
	case 14:
		return []string{"MSET", m.key(), m.value(), m.key(), m.value()}
	case 15, 16:
		return []string{m.of("DEL", "UNLINK"), m.key(), m.key()}
	case 17:
		return []string{"SETNX", m.key(), m.value()}
	case 18:
		return []string{"MSETNX", m.key(), m.value(), m.key(), m.value()}
	case 19:
		return []string{"GETSET", m.key(), m.value()}
	case 20:
		return []string{"GETDEL", m.key()}
	case 21:
		return append([]string{"GETEX", m.key()}, [][]string{nil, {"PERSIST"}, {"EX", "1000"}, {"PX", "900000"}, {"EXAT", at(1)}, {"EX"}}[m.random.IntN(6)]...)
	case 22:
		return []string{"APPEND", m.key(), m.value()}
	case 23:
		return []string{"SETRANGE", m.key(), m.of("0", "3", "10", "-1", "x"), m.of("", "abc", "z")}
	case 24:
		return []string{m.of("INCR", "DECR"), m.key()}
	case 25, 26:
		return []string{m.of("INCRBY", "DECRBY"), m.key(), m.of("1", "5", "-3", "x", "9223372036854775807")}
	case 27:
		return []string{"INCRBYFLOAT", m.key(), m.of("1.5", "-0.25", "3", "0.1", "x", "1e2")}
	case 28:
		return flags("EXPIRE", m.key(), m.span())
	case 29:
		return flags("PEXPIRE", m.key(), m.of("1000000", "0", "-5", "x"))
	case 30:
		if m.random.IntN(2) == 0 {
			return flags("PEXPIREAT", m.key(), m.of(at(1000), "1"))
		}
		return flags("EXPIREAT", m.key(), m.of(at(1), "1", "-5", "x"))
	case 31:
		return []string{"PERSIST", m.key()}
	case 32:
		return []string{m.of("RENAME", "RENAMENX"), m.key(), m.key()}
	default:
		args := []string{"COPY", m.key(), m.key()}
		if m.random.IntN(2) == 0 {
			args = append(args, "REPLACE")
		}
		return args
	}
}

// Whatever a proxy answers while Redis is away is what Redis would have answered, and what it keeps is
// then in Redis. A relapse shows the command, what was answered, and what is right.
func TestAnswersInAnOutageAreNeverWrong(t *testing.T) { //nolint:tparallel // its parts are counted together
	t.Parallel() // there is a wait for each answer
	const parts = 2
	ran, answered, refused, version := 0, make(map[string]int), make(map[string]int), ""
	for seed := range uint64(parts) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			m, through := newModel(t, seed, Options{})
			m.answered, m.refused = answered, refused
			m.run(through, *modelCommands/parts, stringCommand)
			require.NotZero(t, m.listed)
			ran++
			version = m.server.Version()
		})
	}
	if ran < parts { // -short or -run has left some out
		return
	}
	for _, row := range Outages {
		for _, name := range row.Commands {
			if st := steps[name]; st != nil && row.Outage != Kept && isOfStrings(name) && !lacks(version, []string{name}) {
				require.NotZero(t, answered[name], "%s was never answered in an outage", name)
				require.NotZero(t, refused[name], "%s was never refused in an outage", name)
				t.Logf("%-12s answered %6d, refused %6d", name, answered[name], refused[name])
			}
		}
	}
}

// isOfStrings reports whether stringCommand has a command.
func isOfStrings(name string) bool {
	switch name {
	case "SADD", "SREM", "SCARD", "SMEMBERS", "SISMEMBER", "SMISMEMBER":
		return false
	}
	return name[0] != 'H' && name[0] != 'L' && name != "RPUSH"
}

// Likewise for what is kept as operations, of which the proxy knows a part. With local answers they
// are those of a Redis that knows only what the proxy has done in this outage, where they are not exact.
func TestOperationsInAnOutageAreNeverWrong(t *testing.T) {
	t.Parallel() // there is a wait for each answer
	for _, local := range []bool{false, true} {
		t.Run(fmt.Sprint("local answers ", local), func(t *testing.T) {
			t.Parallel()
			m, through := newModel(t, 2, Options{LocalAnswers: local})
			m.answered, m.refused, m.multi = make(map[string]int), make(map[string]int), true
			if local {
				m.local = dial(t, redistest.Start(t).Addr())
				m.local.do("HELLO", "2")
			}
			m.run(through, *modelCommands/2, anyCommand)
			require.NotZero(t, m.answered["EXEC"])
			require.True(t, local || m.refused["EXEC"] > 0)
			t.Logf("%-12s answered %6d, refused %6d", "EXEC", m.answered["EXEC"], m.refused["EXEC"])
			for _, row := range Outages {
				for _, name := range row.Commands {
					if steps[name] != nil && !isOfStrings(name) && !lacks(m.server.Version(), []string{name}) {
						require.NotZero(t, m.answered[name], "%s was never answered in an outage", name)
						require.True(t, local || name == "HMSET" || m.refused[name] > 0, "%s was never refused", name)
						t.Logf("%-12s answered %6d, refused %6d", name, m.answered[name], m.refused[name])
					}
				}
			}
		})
	}
}

// What was read while Redis was well, as a whole or field by field, is never answered wrongly either, whoever has changed it before Redis
// went away: the proxy's clients, others, or an end that has come.
func TestWhatWasReadIsNeverAnsweredWrongly(t *testing.T) {
	t.Parallel() // there is a wait for each answer
	for seed := range uint64(2) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			m, through := newModel(t, seed, Options{Collections: true, LocalAnswers: seed == 1})
			m.answered, m.refused = make(map[string]int), make(map[string]int)
			m.foreign, m.others = m.behind(), 3
			if seed == 1 {
				m.local = dial(t, redistest.Start(t).Addr())
				m.local.do("HELLO", "3")
			}
			m.run(through, *modelCommands/4, readingCommand)
			require.NotZero(t, m.heard)
			t.Logf("%d keys were remembered as outages began, %d of them in part", m.heard, m.parts)
			for _, name := range []string{"HGETALL", "SMEMBERS", "LRANGE", "HGET", "HMGET", "SISMEMBER"} {
				t.Logf("%-12s answered %6d, refused %6d", name, m.answered[name], m.refused[name])
			}
		})
	}
}

// readingCommand is a command on a collection, and often reads all or a part of it.
func readingCommand(m *model) []string {
	for m.random.IntN(3) > 0 {
		args := anyCommand(m)
		if !strings.HasPrefix(args[1], "k") && !lacks(m.server.Version(), args) {
			return args
		}
	}
	return wholeOrPart(m)
}

func wholeOrPart(m *model) []string {
	key := strings.TrimPrefix(m.key(), "k")
	switch m.random.IntN(6) {
	case 0:
		return []string{"HGETALL", "h" + key}
	case 1:
		return []string{"SMEMBERS", "s" + key}
	case 2:
		return []string{"LRANGE", "l" + key, "0", "-1"}
	case 3:
		return []string{"HGET", "h" + key, m.of("a", "b", "c", "n")}
	case 4:
		return []string{"HMGET", "h" + key, m.of("a", "b"), m.of("c", "d")}
	default:
		return []string{"SISMEMBER", "s" + key, m.of("a", "b", "c", "d")}
	}
}

// anyCommand is any command; a key holds one type only, unless this proxy knows that it holds nothing.
func anyCommand(m *model) []string {
	key := func(kind string) string { return kind + strings.TrimPrefix(m.key(), "k") }
	h, s, l := key("h"), key("s"), key("l")
	either := m.of(h, s, l, m.key())
	field := func() string { return m.of("a", "b", "c", "d") }
	number := func() string { return m.of("1", "5", "-3", "x") }
	switch m.random.IntN(40) {
	case 0, 1, 2:
		return []string{"HSET", h, field(), m.value(), field(), m.of("1", "2", "v")}
	case 3:
		return []string{m.of("HSETNX"), h, field(), m.value()}
	case 4:
		return []string{"HMSET", h, field(), m.of("1", "2")}
	case 5:
		return []string{"HDEL", h, field(), field()}
	case 6, 7:
		return []string{"HINCRBY", h, m.of("n", "m"), number()}
	case 8:
		return []string{"HINCRBYFLOAT", h, m.of("f", "g"), m.of("1.5", "-0.25", "2", "x")}
	case 9, 10:
		return []string{m.of("HGET", "HEXISTS", "HSTRLEN"), h, m.of("a", "b", "n", "f")}
	case 11:
		return []string{"HMGET", h, field(), field()}
	case 12:
		return []string{m.of("HGETALL", "HKEYS", "HVALS", "HLEN"), h}
	case 13, 14, 15:
		return []string{"SADD", s, field(), field()}
	case 16:
		return []string{"SREM", s, field(), field()}
	case 17:
		return []string{"SISMEMBER", s, field()}
	case 18:
		return []string{"SMISMEMBER", s, field(), field()}
	case 19:
		return []string{m.of("SMEMBERS", "SCARD"), s}
	case 20, 21:
		return []string{m.of("LPUSH", "RPUSH"), l, field(), field()}
	case 22:
		return []string{"LRANGE", l, m.of("0", "1", "-2"), m.of("-1", "1", "100")}
	case 23:
		return []string{"LINDEX", l, m.of("0", "-1", "3", "-5")}
	case 24:
		return []string{"LLEN", l}
	case 25, 26, 27:
		return []string{m.of("DEL", "UNLINK"), either}
	case 28:
		return []string{m.of("TYPE", "EXISTS", "TTL", "PTTL", "GET"), either}
	case 29:
		return []string{"EXPIRE", either, m.of("1000", "2000", "-1")}
	case 30:
		return []string{"PEXPIREAT", either, strconv.FormatInt(time.Now().UnixMilli()+4_000_000, 10)}
	case 31:
		return []string{"PERSIST", either}
	default:
		return stringCommand(m)
	}
}

// newModel makes a proxy before a Redis that can be taken away, and a shadow.
func newModel(t testing.TB, seed uint64, o Options) (*model, *faultproxy.Proxy) {
	server, shadow := redistest.Start(t), redistest.Start(t)
	through := faultproxy.New(t, server.Addr())
	store, c := newHastyStore(t, through.Addr(), t.TempDir(), func(o *aside.Options) {
		o.RedisTimeout, o.LockTTL, o.DegradedTTL, o.ReplayRate, o.ReadBack = 5*time.Second, time.Minute, -1, -1, true
	})
	o.Redis, o.KnownKeys = &rueidis.ClientOption{InitAddress: []string{through.Addr()}}, true
	front, addr := serve(t, store, o)
	m := &model{
		front: front,
		t:     t, random: rand.New(rand.NewPCG(seed, 14+*modelSeed)), server: server, shadow: dial(t, shadow.Addr()), proxy: dial(t, addr), client: c, history: make(map[string][]string), faults: make(map[string]int)}
	m.protocol = []string{"2", "3"}[seed%2]
	require.NotContains(t, m.shadow.do("HELLO", m.protocol), "ERR")
	require.NotContains(t, m.proxy.do("HELLO", m.protocol), "ERR")
	for i := range 150 {
		m.keys = append(m.keys, fmt.Sprint("k", i))
	}
	m.all = slices.Clone(m.keys)
	for _, kind := range []string{"h", "s", "l"} {
		for i := range m.keys {
			m.all = append(m.all, fmt.Sprint(kind, i))
		}
	}
	return m, through
}
