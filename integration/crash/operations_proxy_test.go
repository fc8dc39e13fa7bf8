package crash

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

// served is a proxy that is killed.
type served struct {
	cmd        *exec.Cmd
	http, resp string
	ended      chan struct{} // closed when all that it has said was read
}

func serve(t *testing.T, program, redis, dir, answers string) *served {
	t.Helper()
	s := &served{ended: make(chan struct{})}
	s.cmd = exec.Command(program, "serve", "--redis", "redis://"+redis, "--port", "0", "--resp-port", "0", "--fallback-dir", dir, "--kept-answers", answers)
	stdout, err := s.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, s.cmd.Start())
	said := bufio.NewReader(stdout)
	web, resp := regexp.MustCompile(`^ +HTTP +http://(\S+)/ `), regexp.MustCompile(`^ +RESP +(\S+)`)
	for s.http == "" || s.resp == "" {
		line, err := said.ReadString('\n')
		require.NoError(t, err, "the proxy does not start")
		if m := web.FindStringSubmatch(line); m != nil {
			s.http = m[1]
		}
		if m := resp.FindStringSubmatch(line); m != nil {
			s.resp = m[1]
		}
	}
	go func() { // ends with the proxy
		defer close(s.ended)
		_, _ = io.Copy(io.Discard, said)
	}()
	return s
}

func (s *served) kill() {
	_ = s.cmd.Process.Kill()
	<-s.ended
	_ = s.cmd.Wait()
}

// pending is how many writes wait for Redis; -1: it does not say.
func (s *served) pending() int {
	reply, err := http.Get("http://" + s.http + "/metrics")
	if err != nil {
		return -1
	}
	defer reply.Body.Close()
	all, _ := io.ReadAll(reply.Body)
	m := regexp.MustCompile(`(?m)^aside_pending_writes(?:\{[^}]*\})? (\d+)`).FindSubmatch(all)
	if m == nil {
		return -1
	}
	n := -1
	_ = json.Unmarshal(m[1], &n)
	return n
}

// asked is one command that a client of the proxy has sent.
type asked struct {
	key, kind, id string
	said          string // "a": acknowledged; "r": refused, so not done; "": nobody knows
}

// clientOf sends commands over one connection until the proxy dies, in turn on keys of its own. It begins
// each with a DEL, so that in an outage all answers follow from what the proxy has kept, and nothing is
// refused then for want of one.
func clientOf(address, name string) (all []*asked) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	ask := func(line string) (string, bool) {
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.WriteString(conn, line+"\r\n"); err != nil {
			return "", false
		}
		reply, err := in.ReadString('\n')
		return strings.TrimSpace(reply), err == nil
	}
	for n := 0; ; n++ {
		kind := []string{"n", "h", "l", "s", "t"}[n%5]
		key := fmt.Sprintf("via:%s:%s.%d", kind, name, n)
		if reply, ok := ask("DEL " + key); !ok {
			return all
		} else if !strings.HasPrefix(reply, ":") {
			continue // it may come later
		}
		if kind == "t" {
			if reply, ok := ask("DEL " + besideOf(key)); !ok {
				return all
			} else if !strings.HasPrefix(reply, ":") {
				continue
			}
		}
		for i := range 8 {
			op := &asked{key: key, kind: kind, id: fmt.Sprint("id", i)}
			all = append(all, op)
			if kind == "t" {
				reply, ok := transact(ask, "RPUSH "+key+" "+op.id, "HINCRBY "+besideOf(key)+" "+op.id+" 1")
				switch {
				case !ok:
					return all
				case strings.HasPrefix(reply, "*2"):
					op.said = "a"
				case strings.HasPrefix(reply, "-ASIDEDEGRADED"), strings.HasPrefix(reply, "-EXECABORT"):
					op.said = "r"
				}
				continue
			}
			reply, ok := ask(map[string]string{"n": "INCR " + key, "h": "HINCRBY " + key + " " + op.id + " 1", "l": "RPUSH " + key + " " + op.id, "s": "SADD " + key + " " + op.id}[kind])
			switch {
			case !ok:
				return all
			case strings.HasPrefix(reply, ":"):
				op.said = "a"
			case strings.HasPrefix(reply, "-ASIDEDEGRADED"):
				op.said = "r"
			}
		}
	}
}

// transact sends a transaction, and returns the first line of the reply to EXEC.
func transact(ask func(string) (string, bool), commands ...string) (reply string, ok bool) {
	for _, line := range append(append([]string{"MULTI"}, commands...), "EXEC") {
		if reply, ok = ask(line); !ok {
			return "", false
		}
	}
	if strings.HasPrefix(reply, "*") {
		for range commands { // an empty line is ignored, and not answered
			if _, ok := ask(""); !ok {
				return "", false
			}
		}
	}
	return reply, true
}

func buildProxy(t *testing.T) (program string) {
	t.Helper()
	if testing.Short() {
		redistest.Skip(t, "needs a Redis server, and a proxy that is built")
	}
	program = filepath.Join(t.TempDir(), "aside")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Dir = "../../cmd/aside" // with the versions in that module's go.mod
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return program
}

// What the proxy acknowledged in outages is done once, and what it refused is not done, with both settings
// of kept_answers, although it and Redis are killed while it keeps and while it replays.
func TestOperationsThroughTheProxySurviveKills(t *testing.T) {
	program := buildProxy(t)
	for _, answers := range []string{"refuse", "local"} {
		t.Run(answers, func(t *testing.T) {
			seed := *seedFlag
			if seed == 0 {
				seed = rand.Uint64N(1 << 32)
			}
			t.Logf("-seed=%d -opkills=%d", seed, *opKillsFlag)
			rng := rand.New(rand.NewPCG(seed, 7))
			server := startAOF(t)
			between := faultproxy.New(t, server.addr())
			dir := filepath.Join(t.TempDir(), "fallback")
			var all []*asked
			kills, acknowledged := 0, 0
			for life := 0; kills+server.kills < *opKillsFlag || acknowledged <= leastAnswered; life++ {
				require.Less(t, life, 20**opKillsFlag, "hardly anything is acknowledged")
				s := serve(t, program, between.Addr(), dir, answers)
				var clients sync.WaitGroup
				said := make([][]*asked, 3)
				for n := range said {
					clients.Go(func() { said[n] = clientOf(s.resp, fmt.Sprintf("%d.%d", life, n)) }) // ends with the proxy
				}
				for range 1 + rng.IntN(4) {
					time.Sleep(time.Duration(rng.IntN(200)) * time.Millisecond) // it works meanwhile
					switch rng.IntN(6) {
					case 0, 1:
						between.Refuse()
					case 2:
						between.CutReplies()
					case 3:
						server.kill()
						server.start()
						between.Heal()
					case 4: // what is done of the replay is not heard of
						was := s.pending()
						between.Heal()
						for end := time.Now().Add(time.Second); was > 0 && s.pending() >= was && time.Now().Before(end); {
							was = max(was, s.pending())
						}
						between.CutReplies()
					default:
						between.Heal()
					}
				}
				s.kill()
				kills++
				clients.Wait()
				for _, some := range said {
					all = append(all, some...)
					for _, op := range some {
						if op.said == "a" {
							acknowledged++
						}
					}
				}
			}
			between.Heal()
			s := serve(t, program, between.Addr(), dir, answers)
			defer s.kill()
			require.Eventually(t, func() bool { return s.pending() == 0 }, 2*patience, 20*time.Millisecond, "not all is replayed")
			checkAsked(t, server.addr(), all)
			sums := make(map[string]int)
			for _, op := range all {
				sums[op.said]++
			}
			t.Logf("%d kills of the proxy and %d of Redis; %d acknowledged, %d refused, of %d nobody knows: none lost, none done twice", kills, server.kills, sums["a"], sums["r"], sums[""])
		})
	}
}

// checkAsked compares what Redis has with what was said.
func checkAsked(t *testing.T, addr string, all []*asked) {
	t.Helper()
	redis, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{addr}, DisableCache: true})
	require.NoError(t, err)
	defer redis.Close()
	ctx, byKey := t.Context(), make(map[string][]*asked)
	for _, op := range all {
		byKey[op.key] = append(byKey[op.key], op)
	}
	for key, ops := range byKey {
		times := make(map[string]int)
		sum := 0
		switch ops[0].kind {
		case "n":
			n, err := redis.Do(ctx, redis.B().Get().Key(key).Build()).AsInt64()
			require.True(t, err == nil || rueidis.IsRedisNil(err), "%v", err)
			sum = int(n)
		case "h":
			fields, err := redis.Do(ctx, redis.B().Hgetall().Key(key).Build()).AsIntMap()
			require.NoError(t, err)
			for id, n := range fields {
				times[id] = int(n)
			}
		case "s", "l", "t":
			read := redis.B().Smembers().Key(key).Build()
			if ops[0].kind != "s" {
				read = redis.B().Lrange().Key(key).Start(0).Stop(-1).Build()
			}
			ids, err := redis.Do(ctx, read).AsStrSlice()
			require.NoError(t, err)
			for _, id := range ids {
				times[id]++
			}
			if ops[0].kind == "t" {
				beside, err := redis.Do(ctx, redis.B().Hgetall().Key(besideOf(key)).Build()).AsIntMap()
				require.NoError(t, err)
				require.Equal(t, fmt.Sprint(beside), fmt.Sprint(times), "%s: of some transactions one key has its part, and the other has not", key)
			}
		}
		least, most := 0, 0
		for _, op := range ops {
			low, high := 0, 1
			switch op.said {
			case "a":
				low = 1
			case "r":
				high = 0
			}
			least, most = least+low, most+high
			if op.kind != "n" {
				require.GreaterOrEqual(t, times[op.id], low, "%s: %s was acknowledged, and is lost", key, op.id)
				require.LessOrEqual(t, times[op.id], high, "%s: %s was done too often", key, op.id)
			}
		}
		if ops[0].kind == "n" {
			require.GreaterOrEqual(t, sum, least, "%s: additions are lost", key)
			require.LessOrEqual(t, sum, most, "%s: additions were done twice", key)
		}
	}
}

// Two proxies are cut off one after the other, in outages that overlap, and in between a client without a
// proxy adds to the same number: what all were told is done is there, once.
func TestAdditionsOfTwoProxiesAndABareClientAddUp(t *testing.T) {
	program, server := buildProxy(t), startAOF(t)
	var between []*faultproxy.Proxy
	var proxies []*served
	for range 2 {
		between = append(between, faultproxy.New(t, server.addr()))
		s := serve(t, program, between[len(between)-1].Addr(), t.TempDir(), "local")
		t.Cleanup(s.kill)
		proxies = append(proxies, s)
	}
	acknowledged, unknown, kept := 0, 0, 0
	add := func(address string, times int) {
		t.Helper()
		conn, err := net.Dial("tcp", address)
		require.NoError(t, err)
		defer conn.Close()
		in := bufio.NewReader(conn)
		for range times {
			_, err := io.WriteString(conn, "INCR sum\r\n")
			require.NoError(t, err)
			reply, err := in.ReadString('\n')
			require.NoError(t, err)
			switch {
			case strings.HasPrefix(reply, ":"):
				acknowledged++
			case strings.HasPrefix(reply, "-ASIDEUNKNOWN"):
				unknown++
			default:
				require.True(t, strings.HasPrefix(reply, "-ASIDEDEGRADED"), "%s", reply)
			}
		}
	}
	all := func() {
		add(proxies[0].resp, 20)
		add(server.addr(), 20)
		add(proxies[1].resp, 20)
		kept += max(0, proxies[0].pending()) + max(0, proxies[1].pending())
	}
	for range 5 {
		all()
		between[0].Refuse()
		all()
		between[1].Refuse()
		all()
		between[0].Heal()
		all()
		require.Eventually(t, func() bool { return proxies[0].pending() == 0 }, patience, 5*time.Millisecond)
		all()
		between[1].Heal()
		all()
		require.Eventually(t, func() bool { return proxies[1].pending() == 0 }, patience, 5*time.Millisecond)
	}
	redis, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{server.addr()}, DisableCache: true})
	require.NoError(t, err)
	defer redis.Close()
	sum, err := redis.Do(t.Context(), redis.B().Get().Key("sum").Build()).AsInt64()
	require.NoError(t, err)
	t.Logf("%d acknowledged, of %d nobody knows, the sum is %d", acknowledged, unknown, sum)
	require.GreaterOrEqual(t, int(sum), acknowledged)
	require.LessOrEqual(t, int(sum), acknowledged+unknown)
	require.Positive(t, kept, "nothing was kept: there was no outage")
}
