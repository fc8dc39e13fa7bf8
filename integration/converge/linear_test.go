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
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/fallback/journal"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/harness"
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
//	groups            the first two, in a Clearable view with a tag: Clear and DelTags are Dels of all keys
//	WithFresh         three processes with their memories: each call asks Redis, and shares no older answer; also in a Clearable view with
//	                  a tag, whose groups are cleared by another process
//
// An operation that failed may happen at any later time, or never.
//
// Writes overlap only if Redis answers for all of them. Of two that overlap, of which Redis has
// answered for one and not for the other, the other one is kept, answers readers as long as it
// waits, and is then found to have been the earlier one.

const (
	registerKeys    = 3
	registerWorkers = 4
	mostOps         = 200             // per key and round: what porcupine checks in no time
	checkWithin     = 2 * time.Minute // bounds a history that cannot be checked; it proves nothing about speed
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
		{name: "groups", clients: 1, gets: true, groups: true},
		{name: "groups and faults", clients: 1, faults: true, groups: true},
		{name: "WithFresh", clients: 3, gets: true, fresh: true},
		{name: "groups and WithFresh", clients: 3, gets: true, groups: true, fresh: true},
	} {
		t.Run(kind.name, func(t *testing.T) {
			lanes, rounds := 1, *roundsFlag
			if kind.fresh { // of which there are two
				rounds = (rounds + 1) / 2
			}
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
					for i := lane; i < rounds && !t.Failed(); i += lanes {
						round := registerRound{registerKind: kind, seed: seed + uint64(i), proxy: proxy, dir: filepath.Join(dir, strconv.Itoa(i))}
						round.run(t)
						mu.Lock()
						total.add(&round)
						mu.Unlock()
					}
				})
			}
			running.Wait()
			t.Logf("%d operations: %d Sets, %d Dels, %d Clears and DelTags, %d reads that found something, %d that did not, %d loads, %d unknown, %d Sets that may be voided; %d histories",
				total.ops, total.sets, total.dels, total.clears, total.found, total.missed, total.loads, total.unknown, total.voids, total.histories)
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
	groups    bool // of a Clearable view with a tag
	fresh     bool // reads are WithFresh
}

// registerClient is a client, or a view of one, as a round asks it.
type registerClient struct {
	*aside.Client
	view   *aside.TypedClient[string] // nil: the client itself is asked
	prefix string                     // of the view's keys
	tag    string
	opts   []aside.CallOption
}

func (r *registerRound) of(c *aside.Client) (of registerClient) {
	of.Client = c
	if r.groups {
		of.prefix, of.tag = fmt.Sprintf("r%d-", r.seed), fmt.Sprintf("tag%d", r.seed)
		of.view = aside.Typed(c, codec.String(), aside.WithPrefix(of.prefix), aside.Clearable(), aside.WithTags(of.tag))
	}
	if r.fresh {
		of.opts = append(of.opts, aside.WithFresh())
	}
	return of
}

func (c registerClient) set(ctx context.Context, key, value string) error {
	if c.view == nil {
		return c.Set(ctx, time.Hour, key, value)
	}
	return c.view.Set(ctx, time.Hour, strings.TrimPrefix(key, c.prefix), value)
}

func (c registerClient) peek(ctx context.Context, key string) (value string, err error) {
	switch {
	case len(c.opts) > 0:
		c.opts = append(slices.Clone(c.opts), aside.WithoutLoad())
		value, err = c.get(ctx, key, func(context.Context, string) (string, error) { return "", nil })
		if errors.Is(err, aside.ErrNotCached) {
			err = nil
		}
	case c.view == nil:
		value, _, err = c.Peek(ctx, key)
	default:
		value, _, err = c.view.Peek(ctx, strings.TrimPrefix(key, c.prefix))
	}
	return value, err
}

func (c registerClient) get(ctx context.Context, key string, load aside.Loader[string]) (string, error) {
	if c.view == nil {
		return c.Get(ctx, time.Hour, key, load, c.opts...)
	}
	return c.view.Get(ctx, time.Hour, strings.TrimPrefix(key, c.prefix), load, c.opts...)
}

type registerTally struct{ ops, sets, dels, clears, found, missed, loads, unknown, voids, histories int }

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
			case in.verb == "clear":
				t.clears++
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
	verb  string // set, del, peek, get, void; clear, which is a del of all keys
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
// it finds what a load has left: it cannot know which is newer. That is a void. So may a Set in a
// group whose state could not be known, of whose clearing by another process its own has not heard
// yet, or that is cleared beside it.
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
		case (in.verb == "del" || in.verb == "clear") && out.unknown:
			return []any{state, ""}
		case in.verb == "del" || in.verb == "clear":
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
	begins     map[string]int64         // by value that was loaded: when its loader was called
	ends       map[string]int64         // likewise: when that load has ended, if anybody knows
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
	r.begins = make(map[string]int64)
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
			for r.step(r.of(clients[i%len(clients)]), i, rng) {
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
	for i, c := range clients {
		if err := harness.Closed(c, r.dirOf(i)); err != nil {
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
		if r.groups {
			ops = besideClears(ops)
		}
		endVoids(ops)
		if why := r.sharesOld(ops); why != "" {
			t.Errorf("-seed=%d -rounds=1, key %s: %s", r.seed, key, why)
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

// besideClears returns ops with what Clears and DelTags do to the Sets that overlap them. A Set may have
// noted the states of its groups before the Clear and reach Redis after it: then it is void, with what it
// has replaced.
func besideClears(ops []porcupine.Operation) (all []porcupine.Operation) {
	for _, o := range ops {
		in := o.Input.(registerInput)
		beside := slices.ContainsFunc(ops, func(other porcupine.Operation) bool {
			return other.Input.(registerInput).verb == "clear" && other.Call < o.Return && o.Call < other.Return
		})
		if all = append(all, o); beside && in.verb == "set" {
			void := porcupine.Operation{ClientId: o.ClientId, Input: registerInput{"void", in.value}, Call: o.Call, Output: registerOutput{}, Return: math.MaxInt64}
			all = append(all, void)
		}
	}
	return all
}

// endVoids has each void happen before the next write of its key has ended: after that it changes
// nothing. Else porcupine would have to look at each order of all of them.
func endVoids(ops []porcupine.Operation) {
	over := make(map[string]int64) // by value: when its Set was over
	for _, o := range ops {
		if in := o.Input.(registerInput); in.verb == "set" {
			over[in.value] = o.Return
		}
	}
	for i := range ops {
		void := ops[i].Input.(registerInput)
		if void.verb != "void" {
			continue
		}
		for _, o := range ops {
			switch o.Input.(registerInput).verb {
			case "set", "del", "clear":
				if o.Call > over[void.value] {
					ops[i].Return = min(ops[i].Return, o.Return)
				}
			}
		}
	}
}

// sharesOld reports a Get that was given what a load brought which had begun before a write that was
// over when the Get began: only who has asked before the write may have that. porcupine is not told, as
// a load is not an operation of its own.
func (r *registerRound) sharesOld(ops []porcupine.Operation) (why string) {
	for _, o := range ops {
		out := o.Output.(registerOutput)
		began, loaded := r.begins[out.value]
		if o.Input.(registerInput).verb != "get" || !loaded || out.unknown {
			continue
		}
		for _, w := range ops {
			switch in := w.Input.(registerInput); in.verb {
			case "set", "del", "clear":
				if !w.Output.(registerOutput).unknown && w.Call > began && w.Return < o.Call {
					return fmt.Sprintf("a Get at %v returned %s, whose load began at %v, before %+v at %v…%v",
						moment(o.Call), out.value, moment(began), in, moment(w.Call), moment(w.Return))
				}
			}
		}
	}
	return ""
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

// dirOf is the directory of client i.
func (r *registerRound) dirOf(i int) string { return filepath.Join(r.dir, strconv.Itoa(i)) }

func (r *registerRound) open(i int) (*aside.Client, error) {
	options := aside.Options{
		Redis: rueidis.ClientOption{InitAddress: []string{r.proxy.Addr()}}, ConnectTimeout: patience, RequireRedis: true,
		RedisTimeout: 2 * time.Second, LockTTL: 10 * time.Second, StaleLease: 5 * time.Second, // a busy machine must not look like an outage
		FallbackDir: r.dirOf(i), Fallback: fallback.Options{Sync: journal.OS, FlushInterval: 20 * time.Millisecond},
		Logger: slog.New(slog.DiscardHandler),
		Observer: aside.ObserverFunc(func(_ context.Context, e aside.Event) {
			if e.Kind == aside.EventJournaled {
				r.mu.Lock()
				r.kept[e.Key]++
				r.mu.Unlock()
				r.happened("client %d: kept for replay: %s: %v", i, e.Key, e.Err)
			}
		}),
	}
	if r.faults {
		options.RedisTimeout, options.LockTTL, options.StaleLease, options.DegradedTTL = 50*time.Millisecond, 100*time.Millisecond, 200*time.Millisecond, -1
	}
	if r.forgetful {
		options.MemoryBytes = -1
	}
	options.StoreFirst = r.fresh // else others ask Redis for what a Get has returned and not stored yet
	return aside.New(options)
}

// step does one operation; false: there were enough.
func (r *registerRound) step(c registerClient, worker int, rng *rand.Rand) (more bool) {
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
	case draw == 4 && r.groups && rng.IntN(2) == 0:
		in.verb = "clear"
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
	all := []string{key}
	if in.verb == "clear" {
		all = all[:0]
		for i := range registerKeys {
			all = append(all, fmt.Sprintf("r%d-%d", r.seed, i))
		}
	}
	if !reads {
		for _, key := range all {
			defer r.write(key, hurried || r.faults)() //nolint:revive // there are few keys, and the step ends soon
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
		err = c.set(ctx, key, in.value)
	case "del":
		err = c.Del(ctx, key)
	case "clear":
		if n%2 == 0 {
			err = c.view.Clear(ctx)
		} else {
			err = c.DelTags(ctx, c.tag)
		}
	case "peek":
		out.value, err = c.peek(ctx, key)
	case "get":
		out.value, err = c.get(ctx, key, func(context.Context, string) (string, error) {
			r.mu.Lock()
			r.begins[loaded], r.ends[loaded] = r.now(), math.MaxInt64
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
	// A Set without an outcome is kept, and replayed, perhaps before anybody is told of it.
	if in.verb == "set" && (r.gets && (out.unknown || r.kept[key] > kept) || r.groups && (r.faults || r.clients > 1)) {
		r.ops[key] = append(r.ops[key], porcupine.Operation{
			ClientId: worker, Input: registerInput{"void", in.value}, Call: call, Output: registerOutput{}, Return: math.MaxInt64,
		})
	}
	for _, key := range all {
		r.ops[key] = append(r.ops[key], porcupine.Operation{ClientId: worker, Input: in, Call: call, Output: out, Return: end})
	}
	return true
}

// write waits until key may be written, alone or beside others, and returns what ends that.
func (r *registerRound) write(key string, alone bool) (end func()) {
	r.mu.Lock()
	mu := r.alone[key]
	if mu == nil {
		mu = new(sync.RWMutex)
		r.alone[key] = mu
	}
	r.mu.Unlock()
	if alone {
		mu.Lock()
		return mu.Unlock
	}
	mu.RLock()
	return mu.RUnlock
}
