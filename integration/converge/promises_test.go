package converge

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/fallback/journal"
)

// Promises 9 and 10: what may be served of a value, with a grace, tags, and calls that need more. Each
// value has a number, so that it is known when its load began, whoever serves it. Nodes are processes,
// which are stopped now and then for longer than their locks live; the source fails for longer than a
// value and its grace. What a read must not be:
//
//	older than a write that binds it                   binds: promises 2, 3, 6 and 10, also of Expire, Clear and tags
//	of a load that began before, for a Refresh         it loads after it was asked
//	beyond the ttl and the grace of its value          whoever serves it, and whatever fails
//	beyond the ttl, to a call with WithMaxStale(0)     what the result says is as of a moment later
//	of a load that began longer ago than WithMaxAge    counted from the call

// value is one that was loaded or set.
type value struct {
	who
	key        string
	version    int
	loaded     bool
	at, done   moment // when its load began and had ended, or its Set was over; done is never for one of which nobody knows
	ttl, grace time.Duration
}

// stop is a time for which a node stands still.
type stop struct {
	node     int
	from, to moment
}

func (h *history) makes(v *value) (number int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.values = append(h.values, v)
	return len(h.values)
}

func (h *history) made(number int, at, done moment) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := h.values[number-1]
	v.at, v.done = at, done
}

func (h *history) stopped(node int, from moment) *stop {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := &stop{node: node, from: from, to: never}
	h.stops = append(h.stops, s)
	return s
}

// busy is for what the machine may need to pass a value on, beside what faults cost, and what its
// process has kept others waiting for meanwhile.
const busy = 150 * time.Millisecond

// ends is when v, which lives so long, is over at the latest: counted from when it was stored, of which
// only the bounds are known. A load stores under its lock, which others would have after LockTTL.
func (h *history) ends(v *value, life time.Duration, c nodeConfig) moment {
	if v.done == never {
		return never
	}
	late := busy + c.RedisTimeout
	if v.loaded {
		late += c.LockTTL
	}
	for _, s := range h.stops {
		if s.node == v.node && s.to > v.at {
			if s.to == never {
				return never
			}
			late += s.to - max(s.from, v.at)
		}
	}
	return h.behind(v.node, v.done, v.done+late) + life
}

// checkValues returns what was served and should not have been, as far as the values tell.
func (h *history) checkValues(c nodeConfig) (broken []violation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.reads {
		if r.value == 0 {
			continue
		}
		v := h.values[r.value-1]
		wrong := func(format string, args ...any) {
			broken = append(broken, violation{r.key, fmt.Sprintf("%v\nis %s: value %d of %v: %v…%v", r, fmt.Sprintf(format, args...), r.value, v.who, v.at, v.done)})
		}
		switch {
		case v.key != r.key || v.version != r.version:
			wrong("another's")
		case r.verb == "refresh" && v.at < r.call:
			wrong("not what a Refresh has loaded")
		case r.call > h.ends(v, v.ttl+v.grace, c):
			wrong("beyond ttl and grace")
		case r.Strict && v.grace > 0 && r.call > h.ends(v, v.ttl, c):
			wrong("beyond its ttl")
		case r.MaxAge > 0 && v.at != never && r.call-v.at > r.MaxAge:
			wrong("older by %v than its call takes it", r.call-v.at-r.MaxAge)
		}
	}
	return broken
}

// numberOf is the number of a value; 0: it has none.
func numberOf(value string) (number int) {
	_, text, _ := strings.Cut(value, "#")
	number, _ = strconv.Atoi(text)
	return number
}

// numbered is the value with a number of a version of a key.
func numbered(key string, version, number int) string {
	return valueOf(key, version) + "#" + strconv.Itoa(number)
}

// viewSchedule is what a schedule has whose nodes are asked through views. Immutable but for the keys.
type viewSchedule struct {
	ttl     time.Duration
	healthy bool   // networks fall silent, and are slow, for less than RedisTimeout: nobody becomes degraded, so that promises of health are checked
	failing []stop // of the source; of no node
}

func TestViewsKeepTheirPromises(t *testing.T) {
	n := *viewsFlag
	if n < 0 {
		n = *schedulesFlag / 5
	}
	runSchedules(t, n, (*schedule).drawViews)
}

// drawViews decides what kind of schedule with views it is.
func (s *schedule) drawViews() {
	one := func(of ...time.Duration) time.Duration { return of[s.rng.IntN(len(of))] }
	s.kind = "views"
	s.active = 2*time.Second + time.Duration(s.rng.IntN(1500))*time.Millisecond
	s.config = nodeConfig{
		Sync:       []journal.Sync{journal.Always, journal.EverySecond, journal.OS}[s.rng.IntN(3)],
		Flush:      one(10*time.Millisecond, 100*time.Millisecond, 3*time.Second),
		ReplayRate: []int{-1, 5000, 20}[s.rng.IntN(3)],
		StaleLease: one(100*time.Millisecond, 200*time.Millisecond),
		LockTTL:    one(200*time.Millisecond, 400*time.Millisecond), RedisTimeout: 100 * time.Millisecond,
		DegradedTTL: one(0, 0, 100*time.Millisecond),
	}
	if s.rng.IntN(8) == 0 {
		s.config.MemoryBytes = -1
	}
	s.views = &viewSchedule{ttl: one(100*time.Millisecond, 250*time.Millisecond)}
	if s.rng.IntN(2) == 0 {
		s.kind, s.views.healthy = "views, healthy", true
		s.config.RedisTimeout, s.config.LockTTL = 750*time.Millisecond, 1500*time.Millisecond
		s.views.ttl = one(250*time.Millisecond, time.Second) // longer than the lease
	}
	prefix := fmt.Sprintf("%d/", s.runs) // as in draw
	s.config.Views = &viewConfig{Prefix: prefix + "group/", Grace: s.config.LockTTL + one(500*time.Millisecond, 900*time.Millisecond)}
	if s.rng.IntN(3) == 0 {
		s.config.Views.Jitter = 0.3
	}
	if s.rng.IntN(3) == 0 {
		s.config.Views.Ahead = 0.3
	}
	if s.rng.IntN(3) == 0 {
		s.config.Views.Soft = 20 * time.Millisecond
	}
	for at := time.Duration(s.rng.IntN(1500)) * time.Millisecond; at < s.active; {
		end := at + s.views.ttl + s.config.Views.Grace + time.Duration(s.rng.IntN(1000))*time.Millisecond
		s.views.failing = append(s.views.failing, stop{from: at, to: min(end, s.active)})
		at = end + time.Second
	}
	ttl := s.views.ttl
	group, bare := s.config.Views.Prefix, prefix+"bare/"
	s.keys = []*keyOf{
		{name: group + "a0", shared: true}, {name: group + "a1", shared: true}, {name: group + "s0", ttl: ttl}, {name: group + "s1", ttl: ttl},
		{name: bare + "a0", shared: true}, {name: bare + "s1", ttl: ttl},
	}
	s.source = &source{rows: make(map[string]int), rng: rand.New(rand.NewPCG(s.seed, 2))}
	for _, k := range s.keys {
		s.source.rows[k.name] = 1
		k.at = -time.Hour
	}
	s.history.lease = s.config.StaleLease
}

// planViews draws the faults that only such a schedule has.
func (s *schedule) planViews(upTo func(ms int) time.Duration) (faults []fault) {
	active := int(s.active / time.Millisecond)
	for range s.rng.IntN(3) {
		i, at := s.rng.IntN(nodes), upTo(active)
		long := s.config.LockTTL + 20*time.Millisecond + upTo(400)
		if s.views.healthy {
			long = upTo(400)
		}
		var stopped *stop
		faults = append(faults, fault{at, fmt.Sprintf("node %d: stopped", i), func() {
			stopped = s.history.stopped(i, s.now())
			s.signal(i, syscall.SIGSTOP)
		}}, fault{at + long, fmt.Sprintf("node %d: goes on", i), func() {
			s.signal(i, syscall.SIGCONT)
			s.history.mu.Lock()
			defer s.history.mu.Unlock()
			stopped.to = s.now()
		}})
	}
	if s.rng.IntN(3) == 0 {
		i, at := s.rng.IntN(nodes), upTo(active)
		faults = append(faults, fault{at, fmt.Sprintf("node %d: killed", i), func() { s.killNode(i) }},
			fault{at + upTo(200), fmt.Sprintf("node %d: started again", i), func() { s.startNode(i) }})
	}
	at := upTo(active)
	switch draw := s.rng.IntN(10); {
	case draw < 2:
		faults = append(faults, fault{at, "the server freezes", s.server.Freeze}, fault{at + 20*time.Millisecond + upTo(250), "the server thaws", s.server.Thaw})
	case draw < 4 && s.server.CanSignal() && !s.views.healthy:
		faults = append(faults, fault{at, "the server is killed", func() {
			for _, p := range s.proxies { // so that nothing is acknowledged that it will not have
				p.Refuse()
			}
			s.server.Kill()
		}}, fault{at + upTo(400), "the server is started again, with its data", func() {
			s.server.RestartKeepingData()
			for _, p := range s.proxies {
				p.Heal()
			}
		}})
	}
	return faults
}

// signal sends a signal to the process of node i, if there is one.
func (s *schedule) signal(i int, sig syscall.Signal) {
	if p, ok := s.at(i).(*process); ok {
		_ = p.cmd.Process.Signal(sig)
	}
}

// fails reports whether the source fails now.
func (s *schedule) fails() bool {
	now := s.now()
	return slices.ContainsFunc(s.views.failing, func(f stop) bool { return f.from <= now && now < f.to })
}

// loadForViews reads the source for node i.
func (s *schedule) loadForViews(i int) loadFunc {
	return func(keys []string) map[string]string {
		if s.fails() {
			return nil
		}
		_, me := s.process(i)
		me.node = i // also before it is there
		found := make(map[string]string, len(keys))
		numbers := make([]int, len(keys))
		at := s.now()
		s.source.mu.Lock()
		for n, key := range keys {
			version := s.source.rows[key]
			numbers[n] = s.history.makes(&value{who: me, key: key, version: version, loaded: true, at: at, done: never, ttl: s.views.ttl, grace: s.config.Views.Grace})
			found[key] = numbered(key, version, numbers[n])
		}
		var slow time.Duration
		switch draw := s.source.rng.IntN(20); {
		case draw < 10:
			slow = time.Duration(s.source.rng.IntN(10)) * time.Millisecond
		case draw < 15:
			slow = time.Duration(s.source.rng.IntN(250)) * time.Millisecond
		}
		s.source.mu.Unlock()
		time.Sleep(slow)
		for _, number := range numbers {
			s.history.made(number, at, s.now())
		}
		return found
	}
}

func (s *schedule) workViews(n node, me who, k *keyOf, rng *rand.Rand, patience time.Duration) (rest time.Duration) {
	if rng.IntN(10) < 3 {
		s.writeView(n, me, k, rng, patience)
	} else {
		s.readView(n, me, k, rng, patience)
	}
	return time.Duration(rng.IntN(15_000)) * time.Microsecond
}

// inGroup reports whether k is of the Clearable view.
func (s *schedule) inGroup(k *keyOf) bool { return strings.HasPrefix(k.name, s.config.Views.Prefix) }

func (s *schedule) readView(n node, me who, k *keyOf, rng *rand.Rand, patience time.Duration) {
	r := request{Verb: "fetch", Keys: []string{k.name}, TTL: s.views.ttl, Patience: patience, View: &viewRequest{}}
	switch rng.IntN(12) {
	case 0, 1, 2:
		r.View.Strict = true
	case 3, 4:
		r.View.MaxAge = time.Duration(20+rng.IntN(300)) * time.Millisecond
	case 5:
		r.View.Fresh = true
	case 6:
		r.View.Fresh, r.View.Strict = true, true
	case 7:
		r.View.Without, r.View.Strict = true, rng.IntN(2) == 0
	case 8:
		r.Verb = "refresh"
	case 9, 10:
		r.Verb = "fetchmulti"
		r.View.Strict, r.View.Fresh, r.View.Without = rng.IntN(3) == 0, rng.IntN(4) == 0, rng.IntN(4) == 0
		if rng.IntN(4) == 0 {
			r.View.MaxAge = time.Duration(20+rng.IntN(300)) * time.Millisecond
		}
		for _, other := range s.keys {
			if other != k && s.inGroup(other) == s.inGroup(k) {
				r.Keys = append(r.Keys, other.name)
			}
		}
	}
	s.lookAtView(n, me, r)
}

// lookAtView asks n and takes down what it has found.
func (s *schedule) lookAtView(n node, me who, r request) answer {
	call := s.now()
	a := n.do(r)
	end := s.now()
	if a.Err != "" {
		return a
	}
	for key, text := range a.Found {
		got := &read{who: me, key: key, verb: r.Verb, call: call, end: end, asking: a.Asking, stale: a.Stale[key], viewRequest: *r.View}
		if got.version, got.value = versionOf(key, text), numberOf(text); got.version == 0 || got.value == 0 {
			s.t.Errorf("-seed=%d: %v %s of %s returned %q", s.seed, me, r.Verb, key, text)
			continue
		}
		s.history.saw(got)
	}
	return a
}

// writeView changes rows of the source, and then what is cached, by one of the ways in which a view
// can.
func (s *schedule) writeView(n node, me who, k *keyOf, rng *rand.Rand, patience time.Duration) {
	verb := []string{"del", "del", "del", "expire", "expire", "clear", "deltags", "deltags", "expiretags", "expiretags"}[rng.IntN(10)]
	if !k.shared && rng.IntN(2) == 0 {
		verb = []string{"set", "set", "set", "setmulti"}[rng.IntN(4)]
	}
	if !s.inGroup(k) {
		switch verb {
		case "clear", "deltags", "expiretags":
			verb = "expire"
		case "setmulti":
			verb = "set"
		}
	}
	all := []*keyOf{k}
	for _, other := range s.keys {
		same := other != k && s.inGroup(other)
		switch verb {
		case "clear":
		case "deltags", "expiretags":
			same = same && tagOf(other.name) == tagOf(k.name)
		case "setmulti":
			same = same && !other.shared
		default:
			same = false
		}
		if same {
			all = append(all, other)
		}
	}
	for i, k := range all { // Sets of a key are in the order of the source
		if !k.shared && !k.writing.TryLock() {
			all = all[:i]
			break
		}
	}
	defer func() {
		for _, k := range all {
			if !k.shared {
				k.writing.Unlock()
			}
		}
	}()
	if len(all) == 0 || verb == "clear" && len(all) < 4 || (verb == "deltags" || verb == "expiretags" || verb == "setmulti") && len(all) < 2 {
		return
	}
	r := request{Verb: verb, Patience: patience, TTL: s.views.ttl, View: &viewRequest{Values: make(map[string]string)}}
	var writes []*write
	var numbers []int
	for _, k := range all {
		w := &write{who: me, key: k.name, verb: verb, set: verb == "set" || verb == "setmulti", ttl: k.ttl, source: s.now(), settled: never}
		w.grouped = verb == "clear" || verb == "deltags" || verb == "expiretags"
		switch verb {
		case "expire":
			w.stales, w.keeps = true, s.config.Views.Grace+busy
		case "expiretags":
			w.stales, w.keeps = true, never
		}
		w.version = s.source.update(k.name)
		writes = append(writes, w)
		r.Keys = append(r.Keys, k.name)
		if w.set {
			number := s.history.makes(&value{who: me, key: k.name, version: w.version, at: never, done: never, ttl: s.views.ttl, grace: s.config.Views.Grace})
			numbers = append(numbers, number)
			r.Value = numbered(k.name, w.version, number)
			r.View.Values[k.name] = r.Value
		}
	}
	call := s.now()
	a := n.do(r)
	end := s.now()
	for i, w := range writes {
		w.call, w.end, w.note = call, end, a.Err
		if w.note == "" {
			w.note = a.Failed[w.key]
		}
		if w.acknowledged = w.note == ""; !w.acknowledged {
			w.until = end + s.config.RedisTimeout
		}
		w.kept = slices.Contains(a.Kept, w.key) || w.grouped && len(a.Kept) > 0
		s.history.wrote(w)
		if w.set {
			s.history.made(numbers[i], end, max(end, w.until))
		}
	}
}

// lastLookAtView has each node look at a key, once all is well.
func (s *schedule) lastLookAtView(key string) (why string) {
	for i := range nodes {
		for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
			n, me := s.process(i)
			a := s.lookAtView(n, me, request{Verb: "fetch", Keys: []string{key}, TTL: s.views.ttl, Patience: patience, View: &viewRequest{Strict: true}})
			if a.Err == "" && a.Asking {
				break
			}
			// The machine is so busy that Redis seems to be away once more, or the last error is remembered.
			if why := s.awaitHealthy(); why != "" || time.Now().After(end) {
				return fmt.Sprintf("the last Fetch of %s by node %d: %s %s", key, i, a.Err, why)
			}
		}
	}
	return ""
}

// The checker itself: what it must find, and what it must not.
func TestTheCheckerFindsWhatNoCallMayBeServed(t *testing.T) {
	const ms = time.Millisecond
	a, b := who{node: 0}, who{node: 1}
	del := func(w who) *write {
		return &write{who: w, key: "k", version: 2, call: 1000 * ms, end: 1001 * ms, acknowledged: true, settled: never}
	}
	expire := func(w who, keeps time.Duration) *write {
		e := del(w)
		e.stales, e.keeps = true, keeps
		return e
	}
	grouped := func(w *write) *write { w.grouped = true; return w }
	kept := func(w *write, settled moment) *write { w.kept, w.settled = true, settled; return w }
	load := func(at moment) *value {
		return &value{who: a, key: "k", version: 1, loaded: true, at: at, done: at + 10*ms, ttl: 100 * ms, grace: 400 * ms}
	}
	set := func(v *value) *value { v.loaded = false; return v }
	get := func(w who, call moment, r viewRequest) *read {
		return &read{who: w, key: "k", verb: "fetch", version: 1, value: 1, call: call, end: call + ms, asking: true, viewRequest: r}
	}
	degraded := func(r *read) *read { r.asking = false; return r }
	strict, fresh := viewRequest{Strict: true}, viewRequest{Fresh: true}
	config := nodeConfig{LockTTL: 100 * ms, RedisTimeout: 50 * ms}
	const late = busy + 150*ms // of a load
	for name, row := range map[string]struct {
		write   *write
		value   *value
		read    *read
		stopped time.Duration
		broken  bool
	}{
		"a value":                              {value: load(0), read: get(b, 5*ms, viewRequest{})},
		"at its end":                           {value: load(0), read: get(b, 510*ms+late, viewRequest{})},
		"beyond its end":                       {value: load(0), read: get(b, 511*ms+late, viewRequest{}), broken: true},
		"beyond its end, degraded":             {value: load(0), read: degraded(get(b, 511*ms+late, viewRequest{})), broken: true},
		"beyond its end, but late":             {value: load(0), read: get(b, 511*ms+late, viewRequest{}), stopped: 2 * ms},
		"a Set beyond its end":                 {value: set(load(0)), read: get(b, 511*ms+busy+50*ms, viewRequest{}), broken: true},
		"at the end of its ttl":                {value: load(0), read: get(b, 110*ms+late, strict)},
		"beyond its ttl":                       {value: load(0), read: get(b, 111*ms+late, viewRequest{})},
		"beyond its ttl, for who is strict":    {value: load(0), read: get(b, 111*ms+late, strict), broken: true},
		"young":                                {value: load(0), read: get(b, 20*ms, viewRequest{MaxAge: 20 * ms})},
		"old":                                  {value: load(0), read: get(b, 21*ms, viewRequest{MaxAge: 20 * ms}), broken: true},
		"of a later load":                      {value: load(30 * ms), read: get(b, 21*ms, viewRequest{MaxAge: 20 * ms})},
		"a Refresh that has loaded":            {value: load(30 * ms), read: func() *read { r := get(b, 21*ms, viewRequest{}); r.verb = "refresh"; return r }()},
		"a Refresh that has taken another's":   {value: load(20 * ms), read: func() *read { r := get(b, 21*ms, viewRequest{}); r.verb = "refresh"; return r }(), broken: true},
		"another key's":                        {value: func() *value { v := load(0); v.key = "l"; return v }(), read: get(b, 5*ms, viewRequest{}), broken: true},
		"WithFresh, before another's write":    {write: del(a), value: load(900 * ms), read: get(b, 1000*ms, fresh)},
		"WithFresh, after it":                  {write: del(a), value: load(900 * ms), read: get(b, 1002*ms, fresh), broken: true},
		"WithFresh, degraded":                  {write: del(a), value: load(900 * ms), read: degraded(get(b, 1002*ms, fresh)), broken: true},
		"WithFresh, after one that waits":      {write: kept(del(a), never), value: load(900 * ms), read: get(b, 1102*ms, fresh)},
		"WithFresh, after it was replayed":     {write: kept(del(a), 1100*ms), value: load(900 * ms), read: get(b, 1102*ms, fresh), broken: true},
		"after another's Clear, in lease":      {write: grouped(del(a)), value: load(900 * ms), read: get(b, 1100*ms, viewRequest{})},
		"WithFresh, after a Clear, in lease":   {write: grouped(del(a)), value: load(900 * ms), read: get(b, 1100*ms, fresh), broken: true},
		"after a Clear, after the lease":       {write: grouped(del(a)), value: load(1000 * ms), read: get(b, 1102*ms+ms, viewRequest{}), broken: true},
		"after a Clear, degraded":              {write: grouped(del(a)), value: load(1000 * ms), read: degraded(get(b, 1103*ms, viewRequest{}))},
		"after an own Clear, degraded":         {write: grouped(del(a)), value: load(1000 * ms), read: degraded(get(a, 1002*ms, viewRequest{})), broken: true},
		"after an Expire, in its grace":        {write: expire(a, 300*ms), value: load(1000 * ms), read: get(a, 1301*ms, viewRequest{})},
		"after an Expire, beyond":              {write: expire(a, 300*ms), value: load(1000 * ms), read: get(a, 1302*ms, viewRequest{}), broken: true},
		"after another's Expire, beyond":       {write: expire(b, 300*ms), value: load(1000 * ms), read: get(a, 1402*ms, viewRequest{}), broken: true},
		"after an Expire, for who is strict":   {write: expire(a, 300*ms), value: load(1000 * ms), read: get(a, 1002*ms, strict), broken: true},
		"after ExpireTags, until its end":      {write: expire(a, never), value: load(1000 * ms), read: get(a, 1500*ms, viewRequest{})},
		"after ExpireTags, for who is strict":  {write: expire(a, never), value: load(1000 * ms), read: get(a, 1002*ms, strict), broken: true},
		"after the ExpireTags of a killed one": {write: kept(expire(a, never), never), value: load(1000 * ms), read: degraded(get(who{node: 0, life: 1}, 1002*ms, strict)), broken: true},
	} {
		t.Run(name, func(t *testing.T) {
			h := &history{lease: 100 * ms}
			if row.write != nil {
				h.wrote(row.write)
			}
			h.makes(row.value)
			h.saw(row.read)
			if row.stopped > 0 {
				h.stopped(0, 3*ms).to = 3*ms + row.stopped
			}
			broken, _ := h.check()
			broken = append(broken, h.checkValues(config)...)
			require.Equal(t, row.broken, len(broken) > 0, "%v", broken)
		})
	}
}
