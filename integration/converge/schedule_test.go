package converge

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

const (
	nodes          = 3
	workersPerNode = 2
	patience       = 3 * time.Minute // for what has to happen; it proves nothing about speed
)

// Promises 2, 3 and 6, and that in the end all have the same, which is what the source has.
func TestProcessesConverge(t *testing.T) { runSchedules(t, *schedulesFlag, (*schedule).draw) }

// runSchedules runs so many schedules that draw has drawn.
func runSchedules(t *testing.T, schedules int, draw func(*schedule)) {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64N(1 << 32)
	}
	lanes := *lanesFlag
	if redistest.Backend() == "external" { // of which there is one
		lanes = 1
	}
	t.Logf("-seed=%d, %d schedules, -lanes=%d", seed, schedules, lanes)
	began := time.Now()
	next := make(chan uint64)
	reports := make(chan report)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var running sync.WaitGroup
	for range min(lanes, schedules) {
		l := newLane(t)
		running.Go(func() { // ends with next
			for seed := range next {
				reports <- l.run(seed, draw)
			}
		})
	}
	go func() { // ends with the last schedule
		defer close(reports)
		defer running.Wait()
		defer close(next)
		for i := range schedules {
			select {
			case next <- seed + uint64(i):
			case <-ctx.Done():
				return
			}
		}
	}()
	var kept, lossy tally
	failed := 0
	for r := range reports {
		if r.lossy {
			lossy.add(r)
		} else {
			kept.add(r)
		}
		if len(r.failures) == 0 {
			continue
		}
		if failed++; failed > 5 {
			t.Errorf("-run=%s -seed=%d -schedules=1 -views=1 (%s): %d failures, of which the first is: %s", t.Name(), r.seed, r.kind, len(r.failures), r.failures[0])
			continue
		}
		t.Errorf("-run=%s -seed=%d -schedules=1 -views=1 (%s): %d failures, of which the first is: %s\n%s", t.Name(), r.seed, r.kind, len(r.failures), r.failures[0], r.story)
	}
	t.Logf("%v", &kept)
	t.Logf("where Redis lost what it had acknowledged, which is not promised: %v", &lossy)
	t.Logf("%d schedules in %v", kept.schedules+lossy.schedules, time.Since(began).Round(100*time.Millisecond))
	require.Equal(t, schedules, kept.schedules+lossy.schedules, "some were not run")
}

// report is what came of a schedule.
type report struct {
	seed     uint64
	kind     string
	lossy    bool // Redis has lost what it had acknowledged: what is broken is counted, and no failure
	failures []string
	story    string // of the first failure's key

	writes, acknowledged, kept, reads, broken, contests, crashes, expected int
	healing                                                                time.Duration
}

type tally struct {
	schedules, writes, acknowledged, kept, reads, broken, contests, crashes, expected int
	healing, slowest                                                                  time.Duration
	kinds                                                                             map[string]int
}

func (t *tally) add(r report) {
	t.schedules++
	t.writes, t.acknowledged, t.kept, t.reads = t.writes+r.writes, t.acknowledged+r.acknowledged, t.kept+r.kept, t.reads+r.reads
	t.broken, t.contests, t.crashes, t.expected = t.broken+r.broken, t.contests+r.contests, t.crashes+r.crashes, t.expected+r.expected
	t.healing, t.slowest = t.healing+r.healing, max(t.slowest, r.healing)
	if t.kinds == nil {
		t.kinds = make(map[string]int)
	}
	t.kinds[r.kind]++
}

func (t *tally) String() string {
	return fmt.Sprintf("%d schedules %v: %d writes (%d acknowledged, %d kept for replay), %d reads; %d stale, %d saw the earlier of two contested Sets; %d writes had to be there and were; %d kills; back after %v on average, %v at most",
		t.schedules, t.kinds, t.writes, t.acknowledged, t.kept, t.reads, t.broken, t.contests, t.expected, t.crashes,
		(t.healing / time.Duration(max(t.schedules, 1))).Round(time.Millisecond), t.slowest.Round(time.Millisecond))
}

// lane runs one schedule after the other on its server.
type lane struct {
	t       testing.TB
	server  *redistest.Server
	proxies [nodes]*faultproxy.Proxy
	dir     string
	runs    int
}

func newLane(t testing.TB) *lane {
	l := &lane{t: t, server: redistest.Start(t), dir: t.TempDir()}
	for i := range l.proxies {
		l.proxies[i] = faultproxy.New(t, l.server.Addr())
	}
	return l
}

// source is where values really live. Safe for concurrent use.
type source struct {
	mu   sync.Mutex
	rows map[string]int // versions, from 1; guarded by mu
	rng  *rand.Rand     // guarded by mu
}

func (s *source) update(key string) (version int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rows[key]++
	return s.rows[key]
}

// load reads, and then takes its time: what it brings may be old by then.
func (s *source) load(keys []string) map[string]string {
	s.mu.Lock()
	found := make(map[string]string, len(keys))
	for _, key := range keys {
		found[key] = valueOf(key, s.rows[key])
	}
	var slow time.Duration
	switch draw := s.rng.IntN(20); {
	case draw < 10:
		slow = time.Duration(s.rng.IntN(10)) * time.Millisecond
	case draw < 12:
		slow = time.Duration(s.rng.IntN(250)) * time.Millisecond
	}
	s.mu.Unlock()
	time.Sleep(slow)
	return found
}

// keyOf is a key and how it is written.
type keyOf struct {
	name   string
	shared bool          // by Dels only, any number at a time; otherwise by one writer at a time, so that the order of the Sets is the source's
	calm   bool          // never by two processes so close that nobody knows which was later
	ttl    time.Duration // of Sets

	writing sync.Mutex // held while it is written, unless shared
	last    who        // who has written it; guarded by writing
	at      moment     // and until when; guarded by writing
}

// schedule is one run.
type schedule struct {
	*lane
	rng    *rand.Rand // of what is planned; the workers have their own
	seed   uint64
	began  time.Time
	active time.Duration // how long there is work and faults
	source *source
	keys   []*keyOf
	kind   string
	silent bool // nobody reads, so that every Set must be there in the end
	lossy  bool
	kills  bool          // the nodes are processes
	views  *viewSchedule // they are asked through views; nil: they are not

	relapses int // how many replays are interrupted by the next outage; guarded by mu once it runs
	config   nodeConfig

	history history

	mu    sync.Mutex  // guards all below
	nodes [nodes]node // nil while a process is down
	who   [nodes]who  // of nodes
	down  [nodes]bool // it was killed
	modes [nodes]aside.Mode
	crash int
}

func (s *schedule) now() moment { return time.Since(s.began) }

func (l *lane) run(seed uint64, draw func(*schedule)) report {
	l.runs++
	s := &schedule{lane: l, rng: rand.New(rand.NewPCG(seed, 1)), seed: seed}
	draw(s)
	r := s.run()
	r.seed, r.kind, r.lossy = seed, s.kind, s.lossy
	return r
}

func (s *schedule) run() (r report) {
	defer func() {
		if len(r.failures) > 0 && r.story == "" {
			r.story = s.history.story("")
		}
	}()
	fail := func(format string, args ...any) { r.failures = append(r.failures, fmt.Sprintf(format, args...)) }
	for _, p := range s.proxies {
		p.HealDropping()
	}
	s.server.Empty()
	s.began = time.Now()
	for i := range nodes {
		if err := s.open(i); err != nil {
			fail("node %d does not start: %v", i, err)
		}
	}
	defer func() {
		for i := range nodes {
			if n := s.at(i); n != nil {
				if err := n.end(); err != nil {
					fail("node %d does not end: %v", i, err)
				}
			}
		}
	}()
	if len(r.failures) > 0 {
		return r
	}
	s.began = time.Now()
	var working, watching sync.WaitGroup
	for i := range nodes {
		for n := range workersPerNode {
			rng := rand.New(rand.NewPCG(s.seed, uint64(10+i*workersPerNode+n)))
			work := s.work
			if s.views != nil {
				work = s.workViews
			}
			working.Go(func() { s.worker(i, rng, work) }) // ends when the schedule's active time does
		}
		if !s.silent && s.views == nil {
			rng := rand.New(rand.NewPCG(s.seed, uint64(100+i)))
			working.Go(func() { s.glance(i, rng) }) // likewise
		}
	}
	watch, stopWatching := context.WithCancel(context.Background())
	defer watching.Wait()
	defer stopWatching()
	for i := range nodes {
		watching.Go(func() { s.watch(watch, i) }) // ends with watch
	}
	for _, f := range s.plan() {
		time.Sleep(time.Until(s.began.Add(f.at)))
		s.history.happened(s.now(), "%s", f.what)
		f.do()
	}
	working.Wait()
	for i, p := range s.proxies {
		if s.rng.IntN(2) == 0 {
			p.Heal()
		} else {
			p.HealDropping()
		}
		s.startNode(i)
	}
	healed := s.now()
	s.history.happened(healed, "all is healed")
	if why := s.awaitHealthy(); why != "" {
		fail("%s", why)
		return r
	}
	r.healing = s.now() - healed
	s.history.happened(s.now(), "all are healthy, nothing is pending")
	time.Sleep(s.config.StaleLease + s.config.LockTTL + 20*time.Millisecond)
	stopWatching()
	watching.Wait()
	s.conclude(&r, fail)
	return r
}

// conclude compares what there is in the end with what was written, and checks what was read
// before.
func (s *schedule) conclude(r *report, fail func(string, ...any)) {
	suspect := ""
	for i := range nodes {
		s.health(i) // the rest of what it has noted
	}
	for _, k := range s.keys {
		if s.views != nil {
			if why := s.lastLookAtView(k.name); why != "" {
				fail("%s", why)
			}
			continue
		}
		stored, all, why := s.lastLook(k.name)
		if why != "" {
			fail("%s", why)
			continue
		}
		if len(slices.Compact(slices.Clone(all))) > 1 {
			fail("%s: the nodes do not agree: %v", k.name, all)
			suspect = k.name
		}
		if newest, want, ok := s.history.expected(k.name); ok && s.silent {
			if r.expected++; stored != want {
				fail("%s: Redis has version %d, but nobody has loaded it, and nobody contests\n%v", k.name, stored, newest)
				suspect = k.name
			}
		}
	}
	broken, contests := s.history.check()
	broken = append(broken, s.history.checkValues(s.config)...)
	r.broken, r.contests = len(broken), contests
	if !s.lossy {
		for _, b := range broken {
			fail("%s", b.what)
			suspect = cmp.Or(suspect, b.key)
		}
	}
	if suspect != "" {
		r.story = s.history.story(suspect)
	}
	for _, w := range s.history.writes {
		r.writes++
		if w.acknowledged {
			r.acknowledged++
		}
		if w.kept {
			r.kept++
		}
	}
	r.reads, r.crashes = len(s.history.reads), s.crash
}

// lastLook says which version of key Redis has, and which one each node then gives.
func (s *schedule) lastLook(key string) (stored int, all []int, why string) {
	value, err := s.server.TryDo("GET", key)
	if err != nil {
		return 0, nil, err.Error()
	}
	text, _ := value.(string)
	if stored = versionOf(key, text); text != "" && stored == 0 {
		return 0, nil, fmt.Sprintf("Redis has %q in %s", text, key)
	}
	s.history.saw(&read{key: key, verb: "redis", version: stored, call: s.now(), end: s.now(), asking: true})
	for i := range nodes {
		for end := time.Now().Add(patience); ; {
			n, me := s.process(i)
			call := s.now()
			a := n.do(request{Verb: "get", Keys: []string{key}, TTL: time.Hour, Patience: patience})
			if a.Err != "" {
				return 0, nil, fmt.Sprintf("the last Get of %s by node %d: %s", key, i, a.Err)
			}
			if version := versionOf(key, a.Found[key]); a.Asking {
				s.history.saw(&read{who: me, key: key, verb: "last get", version: version, call: call, end: s.now(), asking: true})
				all = append(all, version)
				break
			}
			// The machine is so busy that Redis seems to be away once more.
			if why := s.awaitHealthy(); why != "" || time.Now().After(end) {
				return 0, nil, "the last Get of " + key + ": it is not well for long enough; " + why
			}
		}
	}
	return stored, all, ""
}

// open starts node i.
func (s *schedule) open(i int) (err error) {
	config := s.config
	config.Addr = s.proxies[i].Addr()
	config.Dir = filepath.Join(s.dir, fmt.Sprintf("%d.%d", s.runs, i))
	var n node
	switch {
	case s.views != nil:
		n, err = startProcess(config, s.loadForViews(i))
	case s.kills:
		n, err = startProcess(config, s.source.load)
	default:
		n, err = newLocal(config, s.source.load)
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nodes[i] = n
	s.who[i].node = i
	return nil
}

func (s *schedule) at(i int) node {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nodes[i]
}

func (s *schedule) killNode(i int) {
	s.mu.Lock()
	n := s.nodes[i]
	s.nodes[i] = nil
	if n != nil {
		s.crash++
		s.who[i].life++
	}
	s.mu.Unlock()
	if p, ok := n.(*process); ok {
		if err := p.kill(); err != nil {
			s.t.Errorf("-seed=%d: node %d: %v", s.seed, i, err)
		}
	}
}

func (s *schedule) startNode(i int) {
	if s.at(i) != nil {
		return
	}
	if err := s.open(i); err != nil {
		s.t.Errorf("-seed=%d: node %d: %v", s.seed, i, err)
	}
}

// health asks how node i is, and notes what that tells of its clock and of the machine. A process that
// is down is as one that crashes at once.
func (s *schedule) health(i int) answer {
	n, me := s.process(i)
	if n == nil {
		return errCrashed
	}
	asked := s.now()
	a := n.do(request{Verb: "health"})
	s.history.lagged(i, asked, s.now())
	for _, p := range a.Probes {
		s.history.probed(me, time.Unix(0, p.Began).Sub(s.began), p.Took)
	}
	return a
}

func (s *schedule) process(i int) (node, who) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nodes[i], s.who[i]
}

// watch takes down when node i owes nothing.
func (s *schedule) watch(ctx context.Context, i int) {
	var working sync.WaitGroup
	defer working.Wait()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	last := aside.Healthy
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		at := s.now()
		a := s.health(i)
		if a.Crashed {
			continue
		}
		if a.Mode != last {
			s.history.happened(s.now(), "node %d is %v, owes %d writes and %d fills", i, a.Mode, a.Pending, a.Fills)
			last = a.Mode
			if a.Mode == aside.Recovering && s.relapse() {
				working.Go(func() { s.interrupt(i) }) // ends within a few hundred milliseconds
			}
		}
		if a.Pending == 0 {
			s.history.settled(i, at, s.now())
		}
	}
}

// relapse reports whether there is to be another outage while a node recovers.
func (s *schedule) relapse() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.relapses--
	return s.relapses >= 0
}

func (s *schedule) interrupt(i int) {
	p := s.proxies[i]
	time.Sleep(time.Duration(rand.IntN(150)) * time.Millisecond)
	s.history.happened(s.now(), "node %d: black hole, while it recovers", i)
	p.BlackHole()
	time.Sleep(time.Duration(50+rand.IntN(200)) * time.Millisecond)
	s.history.happened(s.now(), "node %d: healed", i)
	p.Heal()
}

func (s *schedule) awaitHealthy() (why string) {
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		why = ""
		for i := range nodes {
			if a := s.health(i); a.Crashed || a.Mode != aside.Healthy || a.Pending > 0 {
				why = fmt.Sprintf("node %d is not well %v after all was healed: %+v", i, patience, a)
			}
		}
		if why == "" || time.Now().After(end) {
			return why
		}
	}
}
