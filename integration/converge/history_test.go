package converge

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// moment is a time since the schedule began.
type moment = time.Duration

const never moment = math.MaxInt64

// who is a node's process: a node that was killed and started again is another one, on the same
// directory.
type who struct{ node, life int }

func (w who) String() string { return fmt.Sprintf("node %d.%d", w.node, w.life) }

// write is one Set or Del of one key, and the version of the source that it made known.
type write struct {
	who
	key          string
	version      int
	set          bool
	ttl          time.Duration
	source       moment // the source did not have that version before
	call, end    moment // end: also that of a call that failed, or whose process was killed
	acknowledged bool
	kept         bool   // for replay
	settled      moment // for what is kept: its node had nothing to replay any more
	until        moment // Redis may do it until then, but for the error of its clock, although it has failed: it was on its way when its process was killed, or its caller left
	note         string

	verb    string        // of a view
	stales  bool          // it is an Expire or ExpireTags: what is there may be served for keeps, and not to a call with WithMaxStale(0)
	keeps   time.Duration // never: until its own end
	grouped bool          // it is one of a group

	outranked moment // see outrank
}

// read is what one key was found to hold.
type read struct {
	who
	key       string
	verb      string
	version   int // 0: nothing
	call, end moment
	asking    bool // its process was not degraded

	value int // the number of the value; 0: it has none
	stale bool
	viewRequest
}

// happening is for people only.
type happening struct {
	at   moment
	what string
}

// history is what a schedule has seen. Safe for concurrent use.
type history struct {
	lease time.Duration

	mu         sync.Mutex // guards all below
	writes     []*write
	reads      []*read
	happenings []happening
	values     []*value // by number, from 1
	stops      []*stop
	probes     map[who][]probe
	lags       map[int][]lag // by node, in order
}

func (h *history) wrote(w *write) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.writes = append(h.writes, w)
}

func (h *history) saw(r *read) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reads = append(h.reads, r)
}

func (h *history) happened(at moment, format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.happenings = append(h.happenings, happening{at, fmt.Sprintf(format, args...)})
}

// settled says that a node was asked at asked, and has answered by at that it has nothing to replay.
func (h *history) settled(node int, asked, at moment) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, w := range h.writes {
		if w.node == node && w.kept && w.settled == never && w.end <= asked {
			w.settled = at
		}
	}
}

// violation is a broken promise.
type violation struct {
	key  string
	what string
}

// contested says that x may have won over the later y: two Sets of different processes that are too
// close.
func (h *history) contested(x, y *write) bool {
	return x != nil && x.set && y.set && h.tooClose(x, y)
}

// binds says that whoever reads so must not see less than w: promise 3, which contains 2 and 6.
//
//	by the same process                      w was acknowledged before the read began
//	by the next process on its directory     likewise, if w was kept for replay
//	by another that asks Redis               and the lease is over since, and if it was kept, it has been replayed
//	by another, with WithFresh               if it was kept, it has been replayed
//	Redis itself, after all was healed       w was acknowledged
//
// What only makes stale binds a call with WithMaxStale(0) so, and others when the grace is over that
// it has left: promises 9 and 10.
func (h *history) binds(w *write, r *read) bool {
	if !w.acknowledged {
		return false
	}
	if r.call <= w.outranked && !r.Strict && h.wasSet(r.value) {
		return false
	}
	later := time.Duration(0)
	if w.stales && !r.Strict {
		if later = w.keeps; later == never {
			return false
		}
	}
	switch {
	case r.verb == "redis":
		return true
	case w.who == r.who:
		return w.end+later < r.call
	case w.kept && w.node == r.node && w.life < r.life && w.end+later < r.call:
		return true
	}
	known := w.end
	if w.kept {
		known = w.settled
	}
	if known == never {
		return false
	}
	if r.Fresh {
		return known+later < r.call
	}
	return r.asking && known+later+h.lease < r.call
}

// outrank notes which of the writes of a key were outranked by an Expire of another node that came
// between a write that is kept and its replay: the replay leaves a value that was Set, as it may be
// newer, until what the Expire has left is over (GUARANTEES, promise 9).
func outrank(writes []*write) {
	for _, w := range writes {
		if !w.kept || w.grouped {
			continue
		}
		for _, s := range writes {
			if s.stales && !s.grouped && s.node != w.node && s.end > w.call && s.call < w.settled {
				w.outranked = max(w.outranked, s.end+s.keeps)
			}
		}
	}
}

// wasSet reports whether a value was Set, rather than loaded.
func (h *history) wasSet(number int) bool { return number > 0 && !h.values[number-1].loaded }

// check returns what is broken, and how many reads saw the earlier of two contested Sets.
func (h *history) check() (broken []violation, contests int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	byKey := make(map[string][]*write)
	for _, w := range h.writes {
		byKey[w.key] = append(byKey[w.key], w)
	}
	for _, writes := range byKey {
		slices.SortFunc(writes, func(a, b *write) int { return cmp.Compare(a.version, b.version) })
		outrank(writes)
	}
	for _, r := range h.reads {
		if r.version == 0 {
			continue
		}
		writes := byKey[r.key]
		n, found := slices.BinarySearchFunc(writes, r.version, func(w *write, version int) int { return cmp.Compare(w.version, version) })
		var seen *write // nil: what the source had at first
		if found {
			seen = writes[n]
			n++
		} else if r.version != 1 {
			broken = append(broken, violation{r.key, fmt.Sprintf("a version that was never written: %v", r)})
			continue
		}
		if seen != nil && seen.source > r.end {
			broken = append(broken, violation{r.key, fmt.Sprintf("a version from the future: %v\nof %v", r, seen)})
			continue
		}
		contest := false
		for _, w := range slices.Backward(writes[n:]) {
			if !h.binds(w, r) {
				continue
			}
			if seen != nil && h.mayStillDo(seen, w.call) {
				continue
			}
			if h.contested(seen, w) {
				contest = true
				continue
			}
			broken = append(broken, violation{r.key, fmt.Sprintf("%v\nis older than %v\nand was %v", r, w, seen)})
			break
		}
		if contest {
			contests++
		}
	}
	return broken, contests
}

// expected says what Redis must hold of a key that nobody has loaded: the newest write, if that was
// acknowledged and no other came close. ok: there is something to expect. version 0: nothing.
func (h *history) expected(key string) (newest *write, version int, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, w := range h.writes {
		if w.key == key && (newest == nil || w.version > newest.version) {
			newest = w
		}
	}
	if newest == nil || !newest.acknowledged || newest.set && newest.ttl < time.Minute {
		return newest, 0, false
	}
	for _, w := range h.writes {
		if w.key == key && (h.tooClose(w, newest) || w.node != newest.node && h.mayStillDo(w, newest.call)) {
			return newest, 0, false
		}
	}
	if newest.set {
		version = newest.version
	}
	return newest, version, true
}

func (w *write) String() string {
	if w == nil {
		return "there from the beginning"
	}
	verb := "Del"
	switch {
	case w.set:
		verb = fmt.Sprintf("Set for %v", w.ttl)
	case w.verb != "":
		verb = w.verb
	}
	outcome := "acknowledged"
	if !w.acknowledged {
		outcome = "failed: " + w.note
	}
	kept := ""
	if w.kept {
		kept = ", kept for replay"
		if w.settled != never {
			kept = fmt.Sprintf(", replayed by %v", w.settled)
		}
	}
	return fmt.Sprintf("%12v…%v %v %s %s of version %d %s%s (source %v)", w.call, w.end, w.who, w.key, verb, w.version, outcome, kept, w.source)
}

func (r *read) String() string {
	found := "nothing"
	if r.version > 0 {
		found = "version " + strconv.Itoa(r.version)
	}
	asking := ""
	if !r.asking {
		asking = " (degraded)"
	}
	for what, is := range map[string]bool{" (stale)": r.stale, " WithMaxStale(0)": r.Strict, " WithFresh": r.Fresh, " WithoutLoad": r.Without} {
		if is {
			asking += what
		}
	}
	if r.MaxAge > 0 {
		asking += fmt.Sprintf(" WithMaxAge(%v)", r.MaxAge)
	}
	if r.value > 0 {
		found += fmt.Sprintf(" (value %d)", r.value)
	}
	return fmt.Sprintf("%12v…%v %v %s %s found %s%s", r.call, r.end, r.who, r.key, r.verb, found, asking)
}

// story is what happened to a key, and around it.
func (h *history) story(key string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := slices.Clone(h.happenings)
	for _, w := range h.writes {
		if w.key == key {
			all = append(all, happening{w.call, w.String()})
		}
	}
	for _, r := range h.reads {
		if r.key == key {
			all = append(all, happening{r.call, r.String()})
		}
	}
	for i, v := range h.values {
		if v.key == key && v.loaded {
			all = append(all, happening{v.at, fmt.Sprintf("%12v…%v %v %s load of version %d, value %d", v.at, v.done, v.who, key, v.version, i+1)})
		}
	}
	slices.SortStableFunc(all, func(a, b happening) int { return cmp.Compare(a.at, b.at) })
	var b strings.Builder
	for _, e := range all {
		if strings.HasPrefix(e.what, "            ") || strings.Contains(e.what, "…") {
			fmt.Fprintf(&b, "  %s\n", e.what)
		} else {
			fmt.Fprintf(&b, "  %12v ---- %s\n", e.at, e.what)
		}
	}
	return b.String()
}

func valueOf(key string, version int) string { return key + "@" + strconv.Itoa(version) }

// versionOf reads a value of key; 0 if it is none of it.
func versionOf(key, value string) int {
	value, _, _ = strings.Cut(value, "#")
	text, ok := strings.CutPrefix(value, key+"@")
	version, err := strconv.Atoi(text)
	if !ok || err != nil || version < 1 {
		return 0
	}
	return version
}

// The checker itself: what it must find, and what it must not.
func TestTheCheckerFindsWhatIsBroken(t *testing.T) {
	const ms = time.Millisecond
	a, b := who{node: 0}, who{node: 1}
	set := func(w who, version int, call, end moment) *write {
		return &write{who: w, key: "k", version: version, set: true, ttl: time.Hour, source: call, call: call, end: end, acknowledged: true, settled: never}
	}
	del := func(w who, version int, call, end moment) *write {
		d := set(w, version, call, end)
		d.set = false
		return d
	}
	kept := func(w *write, settled moment) *write { w.kept, w.settled = true, settled; return w }
	failed := func(w *write) *write { w.acknowledged = false; return w }
	late := func(w *write, until moment) *write { w.acknowledged, w.until = false, until; return w }
	get := func(w who, version int, call moment) *read {
		return &read{who: w, key: "k", verb: "get", version: version, call: call, end: call + ms, asking: true}
	}
	degraded := func(r *read) *read { r.asking = false; return r }
	for name, row := range map[string]struct {
		writes   []*write
		read     *read
		broken   bool
		contests int
		probe    time.Duration // how long the probes of node 0 take
	}{
		"nothing was written":                            {nil, get(a, 1, 0), false, 0, 0},
		"a version that nobody has made":                 {nil, get(a, 2, 0), true, 0, 0},
		"the future":                                     {[]*write{del(b, 2, 10*ms, 11*ms)}, get(a, 2, 5*ms), true, 0, 0},
		"own write, newer":                               {[]*write{set(a, 2, 1*ms, 2*ms)}, get(a, 2, 3*ms), false, 0, 0},
		"own write, older":                               {[]*write{set(a, 2, 1*ms, 2*ms)}, get(a, 1, 3*ms), true, 0, 0},
		"own write, older, degraded":                     {[]*write{set(a, 2, 1*ms, 2*ms)}, degraded(get(a, 1, 3*ms)), true, 0, 0},
		"own write, nothing":                             {[]*write{set(a, 2, 1*ms, 2*ms)}, get(a, 0, 3*ms), false, 0, 0},
		"own write, before it ended":                     {[]*write{set(a, 2, 1*ms, 4*ms)}, get(a, 1, 3*ms), false, 0, 0},
		"own write that failed":                          {[]*write{failed(set(a, 2, 1*ms, 2*ms))}, get(a, 1, 3*ms), false, 0, 0},
		"own write before the one that failed":           {[]*write{del(a, 2, 1*ms, 2*ms), failed(set(a, 3, 3*ms, 4*ms))}, get(a, 1, 5*ms), true, 0, 0},
		"another's, that a killed one came after":        {[]*write{late(set(a, 2, 1*ms, 2*ms), 20*ms), del(b, 3, 10*ms, 11*ms)}, get(b, 2, 25*ms), false, 0, 0},
		"another's, that a killed one came too late for": {[]*write{late(set(a, 2, 1*ms, 2*ms), 20*ms), del(b, 3, 30*ms, 31*ms)}, get(b, 2, 45*ms), true, 0, 0},
		"another's, in the lease":                        {[]*write{del(b, 2, 1*ms, 2*ms)}, get(a, 1, 50*ms), false, 0, 0},
		"another's, after the lease":                     {[]*write{del(b, 2, 1*ms, 2*ms)}, get(a, 1, 103*ms), true, 0, 0},
		"another's, after the lease, degraded":           {[]*write{del(b, 2, 1*ms, 2*ms)}, degraded(get(a, 1, 103*ms)), false, 0, 0},
		"another's, kept":                                {[]*write{kept(del(b, 2, 1*ms, 2*ms), never)}, get(a, 1, 900*ms), false, 0, 0},
		"another's, replayed":                            {[]*write{kept(del(b, 2, 1*ms, 2*ms), 500*ms)}, get(a, 1, 601*ms), true, 0, 0},
		"two Sets, close":                                {[]*write{set(a, 2, 1*ms, 2*ms), set(b, 3, 50*ms, 51*ms)}, get(a, 2, 900*ms), false, 1, 0},
		"two Sets, far apart":                            {[]*write{set(a, 2, 1*ms, 2*ms), set(b, 3, 150*ms, 151*ms)}, get(a, 2, 900*ms), true, 0, 0},
		"two Sets of one process, close":                 {[]*write{set(a, 2, 1*ms, 2*ms), set(a, 3, 50*ms, 51*ms)}, get(b, 2, 900*ms), true, 0, 0},
		"two Sets of one node, killed in between":        {[]*write{set(a, 2, 1*ms, 2*ms), set(who{node: 0, life: 1}, 3, 50*ms, 51*ms)}, get(b, 2, 900*ms), true, 0, 0},
		"a Set and a Del, close":                         {[]*write{set(a, 2, 1*ms, 2*ms), del(b, 3, 50*ms, 51*ms)}, get(a, 2, 900*ms), true, 0, 0},
		"two Sets, close, and one that nobody contests":  {[]*write{set(a, 2, 1*ms, 2*ms), set(b, 3, 50*ms, 51*ms), set(b, 4, 200*ms, 201*ms)}, get(a, 2, 900*ms), true, 0, 0},
		"killed, and it was on disk": {
			[]*write{kept(del(a, 2, 1*ms, 2*ms), never)}, degraded(get(who{node: 0, life: 1}, 1, 9*ms)), true, 0, 0,
		},
		"killed, and it was in Redis":                               {[]*write{del(a, 2, 1*ms, 2*ms)}, degraded(get(who{node: 0, life: 1}, 1, 9*ms)), false, 0, 0},
		"two Sets, as far apart as clocks err that are known so":    {[]*write{set(a, 2, 1*ms, 2*ms), set(b, 3, 300*ms, 301*ms)}, get(a, 2, 900*ms), false, 1, 80 * ms},
		"two Sets, further apart":                                   {[]*write{set(a, 2, 1*ms, 2*ms), set(b, 3, 400*ms, 401*ms)}, get(a, 2, 900*ms), true, 0, 80 * ms},
		"two Sets before a clock was known so":                      {[]*write{set(a, 2, -200*ms, -199*ms), set(b, 3, -50*ms, -49*ms)}, get(a, 2, 900*ms), true, 0, 80 * ms},
		"two Sets of one node, killed in between, by such clocks":   {[]*write{set(a, 2, 1*ms, 2*ms), set(who{node: 0, life: 1}, 3, 250*ms, 251*ms)}, get(b, 2, 900*ms), false, 1, 80 * ms},
		"two Sets of one process, close, by such clocks":            {[]*write{set(a, 2, 1*ms, 2*ms), set(a, 3, 50*ms, 51*ms)}, get(b, 2, 900*ms), true, 0, 80 * ms},
		"another's, that a killed one came after, by such clocks":   {[]*write{late(set(a, 2, 1*ms, 2*ms), 20*ms), del(b, 3, 90*ms, 91*ms)}, get(b, 2, 150*ms), false, 0, 80 * ms},
		"another's, that a killed one came too late for, with them": {[]*write{late(set(a, 2, 1*ms, 2*ms), 20*ms), del(b, 3, 110*ms, 111*ms)}, get(b, 2, 150*ms), true, 0, 80 * ms},
		"Redis in the end":                                          {[]*write{kept(del(a, 2, 1*ms, 2*ms), never)}, &read{key: "k", verb: "redis", version: 1, call: 9 * ms}, true, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			h := &history{lease: 100 * ms}
			for _, w := range row.writes {
				h.wrote(w)
			}
			h.saw(row.read)
			h.probed(a, 0, row.probe)
			broken, contests := h.check()
			require.Equal(t, row.broken, len(broken) > 0, "%v", broken)
			require.Equal(t, row.contests, contests)
		})
	}
	h := &history{}
	h.wrote(set(a, 2, 1*ms, 2*ms))
	h.wrote(del(b, 3, 200*ms, 201*ms))
	_, version, ok := h.expected("k")
	require.True(t, ok)
	require.Zero(t, version)
	h.wrote(set(b, 4, 203*ms, 204*ms))
	_, version, ok = h.expected("k")
	require.True(t, ok)
	require.Equal(t, 4, version)
	h.wrote(set(a, 5, 206*ms, 207*ms))
	_, _, ok = h.expected("k")
	require.False(t, ok, "contested")
}
