package converge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/fallback/journal"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

// A key is a register: what Peek and Get return is what the last Set left, in some order of the
// operations in which those that did not overlap are as they were. That holds
//
//	one process       with its memory, while Redis is well: it reads its own writes
//	faults            likewise while Redis comes and goes: its memory and its journal are all that it needs (without Get: whose
//	                  loader is asked when Redis is away, and is another register)
//	three processes   without memory, while Redis is well: Redis decides (without Get: callers of one process share its answer, which may
//	                  be as old as what memory would give)
//
// An operation that failed may happen at any later time, or never.
//
// Writes overlap only if Redis answers for all of them. Of two that overlap, of which Redis has
// answered for one and not for the other, the other one is kept, answers readers as long as it
// waits, and is then found to have been the earlier one.

const (
	registerKeys    = 3
	registerWorkers = 4
	mostOps         = 200 // per key and round: what porcupine checks in no time
	checkWithin     = 10 * time.Second
)

func TestAKeyIsARegister(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64N(1 << 32)
	}
	t.Logf("-seed=%d -rounds=%d", seed, *roundsFlag)
	for _, kind := range []registerKind{
		{name: "one process", clients: 1, gets: true},
		{name: "faults", clients: 1, faults: true},
		{name: "three processes", clients: 3, forgetful: true},
	} {
		t.Run(kind.name, func(t *testing.T) {
			lanes := 1
			if kind.faults && redistest.Backend() != "external" { // they wait most of the time
				lanes = *lanesFlag
			}
			var mu sync.Mutex
			var total registerTally // guarded by mu
			var running sync.WaitGroup
			for lane := range lanes {
				server := redistest.Start(t)
				proxy := faultproxy.New(t, server.Addr())
				dir := t.TempDir()
				running.Go(func() { // ends with its rounds
					for i := lane; i < *roundsFlag && !t.Failed(); i += lanes {
						round := registerRound{registerKind: kind, seed: seed + uint64(i), proxy: proxy, dir: filepath.Join(dir, strconv.Itoa(i))}
						round.run(t)
						mu.Lock()
						total.add(&round)
						mu.Unlock()
					}
				})
			}
			running.Wait()
			t.Logf("%d operations: %d Sets, %d Dels, %d reads that found something, %d that did not, %d loads, %d unknown, %d Sets that may be voided; %d histories",
				total.ops, total.sets, total.dels, total.found, total.missed, total.loads, total.unknown, total.voids, total.histories)
			require.Positive(t, total.found)
			require.Positive(t, total.missed)
		})
	}
}

type registerKind struct {
	name      string
	clients   int
	gets      bool
	faults    bool
	forgetful bool // no memory
}

type registerTally struct{ ops, sets, dels, found, missed, loads, unknown, voids, histories int }

func (t *registerTally) add(r *registerRound) {
	for _, ops := range r.ops {
		t.histories++
		for _, o := range ops {
			in, out := o.Input.(registerInput), o.Output.(registerOutput)
			t.ops++
			switch {
			case in.verb == "void":
				t.voids++
			case out.unknown:
				t.unknown++
			case in.verb == "set":
				t.sets++
			case in.verb == "del":
				t.dels++
			case out.value == "":
				t.missed++
			default:
				t.found++
			}
			if out.loads != "" {
				t.loads++
			}
		}
	}
}

type registerInput struct {
	verb  string // set, del, peek, get, void
	value string // of set and void
}

type registerOutput struct {
	value   string // of peek and get; "": nothing
	loads   string // what the loader of this very get gave, if it was called
	during  bool   // of get: the load that gave the value had not ended yet when it began
	unknown bool   // it failed
}

// register is what porcupine is told of a key. Its state is the value, "" for none.
//
// A Set that was kept for replay may be turned into a delete by it, at any time after it began, if
// it finds what a load has left: it cannot know which is newer. That is a void.
//
// A value that was loaded is put there only if there was none, and if nobody has written meanwhile;
// whoever waited for the load has it in either case. A caller after the end of the load finds it
// there, or not at all.
var register = porcupine.NondeterministicModel{
	Init: func() []any { return []any{""} },
	Step: func(state, input, output any) []any {
		in, out := input.(registerInput), output.(registerOutput)
		loads := func(value string) []any {
			if state == "" {
				return []any{state, value}
			}
			return []any{state}
		}
		switch {
		case in.verb == "void":
			if state == in.value {
				return []any{state, ""}
			}
			return []any{state}
		case in.verb == "set" && out.unknown:
			return []any{state, in.value}
		case in.verb == "set":
			return []any{in.value}
		case in.verb == "del" && out.unknown:
			return []any{state, ""}
		case in.verb == "del":
			return []any{""}
		case in.verb == "get" && out.loads != "":
			return loads(out.loads)
		case in.verb == "get" && out.during:
			return loads(out.value)
		case out.unknown || out.value == state:
			return []any{state}
		}
		return nil
	},
	Equal: func(a, b any) bool { return a == b },
	DescribeOperation: func(input, output any) string {
		return fmt.Sprintf("%+v %+v", input, output)
	},
}

type registerRound struct {
	registerKind
	seed  uint64
	proxy *faultproxy.Proxy
	dir   string
	began time.Time

	mu         sync.Mutex                       // guards all below
	ops        map[string][]porcupine.Operation // by key
	count      map[string]int                   // of ops begun
	happenings []happening
	alone      map[string]*sync.RWMutex // by key: held by a write that may not be answered, shared by the others
	kept       map[string]int           // by key: how many writes were kept for replay
	ends       map[string]int64         // by value that was loaded: when that load has ended, if anybody knows
}

func (r *registerRound) now() int64 { return int64(time.Since(r.began)) }

func (r *registerRound) happened(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.happenings = append(r.happenings, happening{time.Since(r.began), fmt.Sprintf(format, args...)})
}

func (r *registerRound) run(t *testing.T) {
	r.began = time.Now()
	r.ops, r.count, r.ends = make(map[string][]porcupine.Operation), make(map[string]int), make(map[string]int64)
	r.kept, r.alone = make(map[string]int), make(map[string]*sync.RWMutex)
	r.proxy.HealDropping()
	rng := rand.New(rand.NewPCG(r.seed, 1))
	clients := make([]*aside.Client, r.clients)
	for i := range clients {
		var err error
		if clients[i], err = r.open(i); err != nil {
			t.Errorf("-seed=%d: %v", r.seed, err)
			return
		}
		clients[i].OnModeChange(func(m aside.ModeChange) { r.happened("client %d: %v > %v", i, m.From, m.To) })
	}
	var working sync.WaitGroup
	stop := make(chan struct{})
	for i := range registerWorkers {
		working.Go(func() { // ends with stop, or with enough operations
			rng := rand.New(rand.NewPCG(r.seed, uint64(2+i)))
			for r.step(clients[i%len(clients)], i, rng) {
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	if r.faults {
		type fault struct {
			what string
			do   func()
		}
		some := []fault{
			{"refused", r.proxy.Refuse}, {"black hole", r.proxy.BlackHole}, {"requests are cut", r.proxy.CutRequests},
			{"replies are cut", r.proxy.CutReplies}, {"reset", r.proxy.Reset}, {"healed", r.proxy.Heal}, {"healed, dropping", r.proxy.HealDropping},
		}
		for range 1 + rng.IntN(4) {
			time.Sleep(time.Duration(rng.IntN(60)) * time.Millisecond)
			for _, f := range []fault{some[rng.IntN(5)], some[5+rng.IntN(2)]} {
				r.happened("%s", f.what)
				f.do()
				time.Sleep(time.Duration(rng.IntN(200)) * time.Millisecond)
			}
		}
		time.Sleep(time.Duration(rng.IntN(1000)) * time.Millisecond) // some come back meanwhile
		close(stop)
	}
	working.Wait()
	for _, c := range clients {
		if err := c.Close(); err != nil {
			t.Errorf("-seed=%d: %v", r.seed, err)
		}
	}
	for key, ops := range r.ops {
		for i := range ops {
			out := ops[i].Output.(registerOutput)
			if end, ok := r.ends[out.value]; ok {
				out.during = ops[i].Call <= end
			}
			if _, ok := r.ends[out.loads]; !ok {
				out.loads = ""
			}
			ops[i].Output = out
		}
		result, info := porcupine.CheckOperationsVerbose(register.ToModel(), ops, checkWithin)
		if result == porcupine.Ok {
			continue
		}
		path := filepath.Join(os.TempDir(), fmt.Sprintf("aside-%s-%d.html", key, r.seed))
		_ = porcupine.VisualizePath(register.ToModel(), info, path)
		var story []happening
		for _, o := range firstIllegal(ops) {
			story = append(story, happening{moment(o.Call), fmt.Sprintf("…%-12v worker %d %+v %+v", moment(o.Return), o.ClientId, o.Input, o.Output)})
		}
		for _, h := range r.happenings {
			if h.at >= story[0].at && (!strings.Contains(h.what, "kept for") || strings.Contains(h.what, key)) {
				story = append(story, h)
			}
		}
		slices.SortStableFunc(story, func(a, b happening) int { return cmp.Compare(a.at, b.at) })
		text := ""
		for _, h := range story {
			text += fmt.Sprintf("  %12v %s\n", h.at, h.what)
		}
		t.Errorf("-seed=%d -rounds=1, key %s: %s; see %s\n%s", r.seed, key, result, path, text)
	}
}

// firstIllegal returns the end of the shortest beginning of ops that is illegal by itself. What has
// not returned by then may have happened or not.
func firstIllegal(ops []porcupine.Operation) []porcupine.Operation {
	const around = 25
	ops = slices.Clone(ops)
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return cmp.Compare(a.Return, b.Return) })
	for _, last := range ops {
		var begun []porcupine.Operation
		for _, o := range ops {
			if o.Call > last.Return {
				continue
			}
			if o.Return > last.Return {
				out := o.Output.(registerOutput)
				o.Output, o.Return = registerOutput{unknown: true, loads: out.loads}, math.MaxInt64
			}
			begun = append(begun, o)
		}
		if porcupine.CheckOperationsTimeout(register.ToModel(), begun, checkWithin) == porcupine.Illegal {
			slices.SortFunc(begun, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
			return begun[max(0, len(begun)-around):]
		}
	}
	return ops
}

func (r *registerRound) open(i int) (*aside.Client, error) {
	options := aside.Options{
		Redis: rueidis.ClientOption{InitAddress: []string{r.proxy.Addr()}}, ConnectTimeout: patience, RequireRedis: true,
		RedisTimeout: 2 * time.Second, LockTTL: 10 * time.Second, StaleLease: 200 * time.Millisecond, // a busy machine must not look like an outage
		FallbackDir: filepath.Join(r.dir, fmt.Sprint(i)), Fallback: fallback.Options{Sync: journal.OS, FlushInterval: 20 * time.Millisecond},
		Logger: slog.New(slog.DiscardHandler),
		Observer: aside.ObserverFunc(func(e aside.Event) {
			if e.Kind == aside.EventJournaled {
				r.mu.Lock()
				r.kept[e.Key]++
				r.mu.Unlock()
				r.happened("client %d: kept for replay: %s: %v", i, e.Key, e.Err)
			}
		}),
	}
	if r.faults {
		options.RedisTimeout, options.LockTTL, options.DegradedTTL = 50*time.Millisecond, 100*time.Millisecond, -1
	}
	if r.forgetful {
		options.MemoryBytes = -1
	}
	return aside.New(options)
}

// step does one operation; false: there were enough.
func (r *registerRound) step(c *aside.Client, worker int, rng *rand.Rand) (more bool) {
	key := fmt.Sprintf("r%d-%d", r.seed, rng.IntN(registerKeys))
	r.mu.Lock()
	n, kept := r.count[key], r.kept[key]
	r.count[key]++
	more = len(r.count) < registerKeys
	for _, n := range r.count {
		more = more || n < mostOps
	}
	r.mu.Unlock()
	if n >= mostOps {
		return more
	}
	if r.faults {
		time.Sleep(time.Duration(rng.IntN(12_000)) * time.Microsecond) // so that it lasts
	}
	in := registerInput{verb: "peek"}
	switch draw := rng.IntN(10); {
	case draw < 3:
		in = registerInput{verb: "set", value: fmt.Sprintf("%s:set%d", key, n)}
	case draw < 5:
		in.verb = "del"
	case draw < 8 && r.gets:
		in.verb = "get"
	}
	reads := in.verb == "peek" || in.verb == "get"
	hurried := rng.IntN(20) == 0 && (reads || r.clients == 1) // a caller with little time (not of several processes: their replays would contest)
	var out registerOutput
	var err error
	loaded := fmt.Sprintf("%s:load%d", key, n)
	slow := time.Duration(rng.IntN(1000)) * time.Microsecond
	if !reads {
		r.mu.Lock()
		alone := r.alone[key]
		if alone == nil {
			alone = new(sync.RWMutex)
			r.alone[key] = alone
		}
		r.mu.Unlock()
		if hurried || r.faults {
			alone.Lock()
			defer alone.Unlock()
		} else {
			alone.RLock()
			defer alone.RUnlock()
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	if hurried {
		cancel()
		ctx, cancel = context.WithTimeout(context.Background(), time.Duration(rng.IntN(1000))*time.Microsecond)
	}
	defer cancel()
	call := r.now()
	switch in.verb {
	case "set":
		err = c.Set(ctx, time.Hour, key, in.value)
	case "del":
		err = c.Del(ctx, key)
	case "peek":
		out.value, _, err = c.Peek(ctx, key)
	case "get":
		out.value, err = c.Get(ctx, time.Hour, key, func(context.Context, string) (string, error) {
			r.mu.Lock()
			r.ends[loaded] = math.MaxInt64
			r.mu.Unlock()
			time.Sleep(slow)
			return loaded, nil
		})
	}
	end := r.now()
	if err != nil {
		if in.verb == "peek" {
			return true // it knows nothing
		}
		out, end = registerOutput{unknown: true}, math.MaxInt64
		if errors.Is(err, aside.ErrNotFound) {
			return true
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if in.verb == "get" {
		out.loads = loaded
		if _, ok := r.ends[loaded]; ok && !out.unknown {
			r.ends[loaded] = end
		}
	}
	if in.verb == "set" && r.gets && r.kept[key] > kept {
		r.ops[key] = append(r.ops[key], porcupine.Operation{
			ClientId: worker, Input: registerInput{"void", in.value}, Call: call, Output: registerOutput{}, Return: math.MaxInt64,
		})
	}
	r.ops[key] = append(r.ops[key], porcupine.Operation{ClientId: worker, Input: in, Call: call, Output: out, Return: end})
	return true
}
