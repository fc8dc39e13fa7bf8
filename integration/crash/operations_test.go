package crash

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

var opKillsFlag = flag.Int("opkills", 60, "how often the operator and its Redis are killed, all in all")

// leastAnswered is how many operations are acknowledged at least, before a test of them ends: however slow
// the machine is, there is something to compare.
const leastAnswered = 100

// aofRedis is a Redis that is killed and keeps what it has acknowledged: its append-only file is synced
// before it answers.
type aofRedis struct {
	t       *testing.T
	program string
	dir     string
	port    string
	cmd     *exec.Cmd
	kills   int
}

func startAOF(t *testing.T) *aofRedis {
	t.Helper()
	program := redistest.Binary()
	if program == "" {
		redistest.Skip(t, "needs a redis-server binary, to kill it")
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	_, port, _ := net.SplitHostPort(free.Addr().String())
	free.Close()
	r := &aofRedis{t: t, program: program, dir: t.TempDir(), port: port}
	r.start()
	t.Cleanup(func() { r.kill() })
	return r
}

func (r *aofRedis) addr() string { return "127.0.0.1:" + r.port }

func (r *aofRedis) start() {
	r.t.Helper()
	r.cmd = exec.Command(r.program, "--port", r.port, "--bind", "127.0.0.1", "--dir", r.dir, "--appendonly", "yes", "--appendfsync", "always", "--save", "", "--logfile", filepath.Join(r.dir, "log"))
	require.NoError(r.t, r.cmd.Start())
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if r.answers() {
			return
		}
		if time.Now().After(end) {
			log, _ := os.ReadFile(filepath.Join(r.dir, "log"))
			r.t.Fatalf("this Redis does not start again:\n%s", log)
		}
	}
}

// answers reports whether it has loaded its file.
func (r *aofRedis) answers() bool {
	conn, err := net.Dial("tcp", r.addr())
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	_, _ = io.WriteString(conn, "PING\r\n")
	reply, _ := bufio.NewReader(conn).ReadString('\n')
	return reply == "+PONG\r\n"
}

func (r *aofRedis) kill() {
	_ = r.cmd.Process.Kill()
	_ = r.cmd.Wait()
	r.kills++
}

// operation is one of which was said that it began.
type operation struct {
	id, kind string
	worker   int
	answered bool // it was acknowledged
}

// A counter, a hash, a list and a set have each acknowledged operation once, and no other twice,
// although the process and Redis are killed while they are kept and while they are replayed.
func TestOperationsSurviveKills(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64N(1 << 32)
	}
	if testing.Short() {
		t.Skip("it needs a Redis server")
	}
	t.Logf("-seed=%d -opkills=%d", seed, *opKillsFlag)
	server := startAOF(t)
	h := &hunt{t: t, rng: rand.New(rand.NewPCG(seed, 99)), proxy: faultproxy.New(t, server.addr()), dir: filepath.Join(t.TempDir(), "fallback"), role: operatorRole}
	var all []*operation
	byID := make(map[string]*operation)
	h.hears = func(line string) {
		word := strings.Fields(line)
		switch word[0] {
		case "opening", "open", "settled", "closed", "e":
		case "b":
			n, err := strconv.Atoi(strings.Split(word[1], ".")[1])
			require.NoError(t, err)
			op := &operation{id: word[1], kind: word[2], worker: n}
			all, byID[op.id] = append(all, op), op
		case "a":
			byID[word[1]].answered = true
		default:
			t.Fatal(line)
		}
	}
	kills, checked := 0, 0
	answered := func() (n int) {
		for _, op := range all {
			if op.answered {
				n++
			}
		}
		return n
	}
	check := func(w *child) {
		w.tell("settle")
		h.await(w, "settled")
		checkOperations(t, server.addr(), all)
		checked++
	}
	for life := 1; kills+server.kills < *opKillsFlag || answered() <= leastAnswered; life++ {
		require.Less(t, life, 20**opKillsFlag, "hardly anything is acknowledged")
		w := h.start()
		if h.rng.IntN(6) > 0 { // else it is killed while it opens
			h.await(w, "open")
		}
		for range 1 + h.rng.IntN(4) {
			h.live(w, time.Duration(h.rng.IntN(120))*time.Millisecond)
			switch h.rng.IntN(6) {
			case 0:
				h.proxy.Refuse()
			case 1:
				h.proxy.CutReplies()
			case 2:
				server.kill()
				server.start()
				h.proxy.Heal()
			case 3:
				h.proxy.BlackHole()
			default:
				h.proxy.Heal()
			}
		}
		if life%5 == 0 {
			h.proxy.Heal()
			check(w)
		}
		require.NoError(t, w.cmd.Process.Kill())
		for line := range w.lines {
			h.hears(line)
		}
		require.ErrorContains(t, w.cmd.Wait(), "killed")
		kills++
	}
	h.proxy.Heal()
	w := h.start()
	h.await(w, "open")
	check(w)
	t.Logf("%d kills of the process and %d of Redis; %d operations begun, %d acknowledged, compared %d times: none lost, none done twice", kills, server.kills, len(all), answered(), checked)
	require.Positive(t, server.kills)
}

// checkOperations compares what Redis has with what was said.
func checkOperations(t *testing.T, addr string, all []*operation) {
	t.Helper()
	redis, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{addr}, DisableCache: true})
	require.NoError(t, err)
	defer redis.Close()
	ctx := t.Context()
	for n := range operators {
		for _, kind := range operationKinds {
			key := operationKey(kind, n)
			begun, acknowledged := 0, 0
			for _, op := range all {
				if op.kind == kind && op.worker == n {
					if begun++; op.answered {
						acknowledged++
					}
				}
			}
			times := make(map[string]int)
			var order []string
			switch kind {
			case "n":
				sum, err := redis.Do(ctx, redis.B().Get().Key(key).Build()).AsInt64()
				if err != nil {
					require.True(t, rueidis.IsRedisNil(err), "%v", err)
				}
				require.GreaterOrEqual(t, int(sum), acknowledged, "%s: additions are lost", key)
				require.LessOrEqual(t, int(sum), begun, "%s: additions were done twice", key)
				continue
			case "h":
				fields, err := redis.Do(ctx, redis.B().Hgetall().Key(key).Build()).AsStrMap()
				require.NoError(t, err)
				for id, text := range fields {
					times[id], _ = strconv.Atoi(text)
				}
			case "s":
				order, err = redis.Do(ctx, redis.B().Smembers().Key(key).Build()).AsStrSlice()
				require.NoError(t, err)
			default:
				order, err = redis.Do(ctx, redis.B().Lrange().Key(key).Start(0).Stop(-1).Build()).AsStrSlice()
				require.NoError(t, err)
			}
			for _, id := range order {
				times[id]++
			}
			if kind == "t" {
				beside, err := redis.Do(ctx, redis.B().Hgetall().Key(besideOf(key)).Build()).AsIntMap()
				require.NoError(t, err)
				require.Equal(t, fmt.Sprint(beside), fmt.Sprint(times), "of some transactions one key has its part, and the other has not")
			}
			want := 1
			if kind == "p" {
				want = 2
			}
			var there []string
			for _, op := range all {
				if op.kind != kind || op.worker != n {
					continue
				}
				switch times[op.id] {
				case want:
					there = append(there, op.id)
				case 0:
					require.False(t, op.answered, "%s: %s was acknowledged, and is lost", key, op.id)
				default:
					t.Fatalf("%s: %s was done %d times, of %d", key, op.id, times[op.id], want)
				}
				delete(times, op.id)
			}
			require.Empty(t, times, "%s holds what nobody has begun", key)
			if kind == "l" || kind == "t" {
				require.Equal(t, there, order, "%s: not in their order", key)
			}
		}
	}
}
