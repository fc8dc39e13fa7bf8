package aside

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/reason"
)

// Mode says how far a shard, a primary of a cluster or the one server, can be relied upon.
//
//	         lost                      back, nothing to replay
//	Healthy ------> Degraded ------------------------------------> Healthy
//	   ^              |   ^
//	   |         back |   | lost
//	   |              v   |
//	   +--------- Recovering
//	     replayed
//
// lost: a connection is refused, or breaks and the prober's next question fails too; five questions in a row are not
// answered (the prober's count three times: it has the connection to itself when nobody asks); or one is not while no
// proof of life is younger than StaleLease; or the server says that it serves nobody, or nobody who writes (LOADING, BUSY, READONLY, NOREPLICAS,
// MISCONF, CLUSTERDOWN, MASTERDOWN), or that it does not let us in or run our scripts (NOAUTH, WRONGPASS, NOPERM for EVALSHA, too many clients).
// back: three good probes in a row, each with a write, and then up to a second more, so that processes do not all return at once;
// a server that was never away is back with the first. replayed: Redis has answered for all that was written meanwhile.
type Mode int32

// The modes.
const (
	// Healthy: Redis answers.
	Healthy Mode = iota
	// Degraded: no caller asks Redis, only the prober does. Memory, disk and loaders answer; writes are kept for replay.
	Degraded
	// Recovering: Redis answers, and what was written meanwhile is being replayed. A key whose record has not been replayed
	// yet has it replayed first by whoever asks for it.
	Recovering
)

func (m Mode) String() string {
	switch m {
	case Healthy:
		return "healthy"
	case Degraded:
		return "degraded"
	case Recovering:
		return "recovering"
	default:
		return fmt.Sprintf("Mode(%d)", int32(m))
	}
}

// MarshalText implements [encoding.TextMarshaler]: a mode is its name, in JSON too.
func (m Mode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (m *Mode) UnmarshalText(text []byte) error {
	for _, mode := range []Mode{Healthy, Degraded, Recovering} {
		if mode.String() == string(text) {
			*m = mode
			return nil
		}
	}
	return fmt.Errorf("%w: %s is not a mode: healthy, degraded or recovering", ErrInvalidArgument, quoted(string(text)))
}

// modeEvent is what may change a mode.
type modeEvent int

const (
	lost      modeEvent = iota
	back                // with records to replay
	backEmpty           // with none
	replayed
)

// after is the whole machine.
func (m Mode) after(e modeEvent) Mode {
	switch {
	case e == lost:
		return Degraded
	case e == back && m == Degraded:
		return Recovering
	case e == backEmpty && m == Degraded, e == replayed && m == Recovering:
		return Healthy
	}
	return m
}

// ModeChange is one change of a shard's mode.
type ModeChange struct {
	Shard    string // its address in a cluster, else ""
	From, To Mode
	At       time.Time
	Err      error // why it was lost; nil otherwise
}

// Health says how a Client is doing.
type Health struct {
	Mode     Mode          // the worst of its shards': Degraded, else Recovering, else Healthy; Degraded as long as Redis was never reached
	Since    time.Time     // when the shard that decides has changed to it
	Shards   []ShardHealth // sorted by address; empty as long as Redis was never reached
	Err      error         // why it is degraded, or what does not work although it is not; nil: nothing is wrong
	Durable  bool          // what Set and Del accept while Redis is away survives the end of the process
	Fallback fallback.Stats
	Replay   Replay // the latest replay, which may be under way
}

// ShardHealth says how a shard is doing.
type ShardHealth struct {
	Addr  string // "" where there is one shard only
	Mode  Mode
	Since time.Time
	Err   error // why it is degraded, or what does not work although it is not
}

// modeState is a shard's mode.
type modeState struct {
	mu    sync.Mutex // guards all below, and changes of shard.mode
	since time.Time
	err   error // why it is degraded, as of the latest attempt
	flaws map[flaw]error
	away  outageLog
}

// outageLog is what the log says of an outage. Guarded by whoever guards what it is about.
type outageLog struct {
	since time.Time    // when it began
	attrs func() []any // how it goes, as those above tell it
	said  time.Time    // when a line was written last
}

const outageLineEvery = time.Minute

// begin notes that an outage has just been said, or that the client begins without Redis.
func (o *outageLog) begin(l *link, now time.Time) {
	*o = outageLog{since: now, attrs: l.up.Outage(), said: now}
}

// due reports whether it is time for a line, and takes it as written.
func (o *outageLog) due(now time.Time) bool {
	if now.Sub(o.said) < outageLineEvery {
		return false
	}
	o.said = now
	return true
}

// line is how it goes, for the log: since when, and what those above know.
func (o *outageLog) line(now time.Time) []any {
	return append([]any{"since", o.since.UTC().Format(time.RFC3339), "after", asText(now.Sub(o.since))}, o.attrs()...)
}

// asText is a duration for the log, which a JSON handler would write as a number of nanoseconds.
func asText(d time.Duration) string {
	if d > time.Second {
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(10 * time.Microsecond).String()
}

// address is where sh is, for people.
func (l *link) address(sh *shard) string {
	if sh.addr != "" {
		return sh.addr
	}
	if l.opt.Redis.Sentinel.MasterSet != "" && sh.client != nil {
		for addr := range sh.client.Nodes() {
			return addr
		}
	}
	return strings.Join(l.opt.Redis.InitAddress, ",")
}

// remind says once a minute that sh is away, and how it goes.
func (l *link) remind(sh *shard) {
	now := time.Now()
	sh.state.mu.Lock()
	if Mode(sh.mode.Load()) != Degraded || sh.gone.Load() || !sh.state.away.due(now) {
		sh.state.mu.Unlock()
		return
	}
	attrs := append(sh.state.away.line(now), "error", sh.state.errLocked())
	sh.state.mu.Unlock()
	l.opt.Logger.Warn("aside: Redis is still away", append([]any{"address", l.address(sh)}, attrs...)...)
}

// errLocked is what Health says of it.
func (s *modeState) errLocked() error {
	if s.err != nil {
		return s.err
	}
	var errs []error
	for _, what := range slices.Sorted(maps.Keys(s.flaws)) {
		errs = append(errs, s.flaws[what])
	}
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}

// flaw is something of a shard that does not work although it answers.
type flaw string

const (
	flawClock  flaw = "clock"  // it does writes by another clock than the one that it shows
	flawPushes flaw = "pushes" // it does not tell us of changes
)

// asks says whether callers may ask sh: it is not degraded.
func (sh *shard) asks() bool { return sh != nil && Mode(sh.mode.Load()) != Degraded }

// happened is the one place where a shard changes its mode: it logs that once, counts it and has the observers told.
func (l *link) happened(sh *shard, e modeEvent, why error) {
	sh.state.mu.Lock()
	from := Mode(sh.mode.Load())
	to := from.after(e)
	if to == from || sh.gone.Load() {
		if to == Degraded && why != nil {
			sh.state.err = why
		}
		sh.state.mu.Unlock()
		return
	}
	now := time.Now()
	sh.state.since, sh.state.err = now, why
	first := sh.fresh.Load() && from == Degraded
	after := now.Sub(sh.state.away.since)
	if to == Degraded {
		sh.state.away.begin(l, now)
		// What memory holds may be used for a while yet: what was proven when the connection was last known to be well.
		sh.valid.Degrade(l.until(l.opt.DegradedTTL))
		if primary := sh.primary.Load(); from == Healthy && primary != nil { // not what a connection that has just led elsewhere has told
			sh.runIDBefore = *primary
		}
	}
	if from == Degraded {
		server, _ := l.serverTime(sh)
		sh.backAt.Store(server)
	}
	sh.mode.Store(int32(to))
	if from == Degraded {
		sh.valid.Restore()
	}
	l.up.ModeChanged(shardChange{Shard: sh, From: from, To: to, At: now, Err: why})
	sh.state.mu.Unlock()

	switch to {
	case Degraded:
		l.counts.outages.Add(1)
		l.opt.Logger.Warn("aside: Redis is away, going on without it", "address", l.address(sh), "from", from, "to", to, "error", why)
		l.up.Observed(linkEvent{Kind: linkAway, Addr: sh.addr, Err: why})
		sh.probeNow()
		l.topologyMoved() // a replica may have taken over
		l.up.Woken()      // nobody need wait for a push or a lock's end
	case Recovering:
		l.opt.Logger.Info("aside: Redis answers again, replaying what was written meanwhile", "address", l.address(sh), "from", from, "to", to, "after", asText(after))
		l.up.Observed(linkEvent{Kind: linkBack, Addr: sh.addr})
		sh.replayNow()
	case Healthy:
		if first {
			l.opt.Logger.Info("aside: connected", "address", l.address(sh))
		} else {
			l.opt.Logger.Info("aside: Redis is well", "address", l.address(sh), "from", from, "to", to, "after", asText(after))
		}
		sh.replayNow() // a write may have been kept since returned has looked
		if from == Degraded {
			l.up.Observed(linkEvent{Kind: linkBack, Addr: sh.addr})
		}
	}
}

// because notes why sh is degraded, if it is: the cause of an outage may change while it lasts.
func (sh *shard) because(why error) {
	sh.state.mu.Lock()
	defer sh.state.mu.Unlock()
	if Mode(sh.mode.Load()) == Degraded {
		sh.state.err = why
	}
}

// flawed notes that something does not work although sh answers, or, with nil, that it does. What is new is logged once.
func (l *link) flawed(sh *shard, what flaw, why error) {
	if why == nil && sh.flaws.Load() == 0 {
		return
	}
	sh.state.mu.Lock()
	_, known := sh.state.flaws[what]
	switch {
	case why == nil:
		delete(sh.state.flaws, what)
	case sh.state.flaws == nil:
		sh.state.flaws = make(map[flaw]error)
		fallthrough
	default:
		sh.state.flaws[what] = why
	}
	sh.flaws.Store(int32(len(sh.state.flaws)))
	sh.state.mu.Unlock()
	if why != nil && !known {
		l.opt.Logger.Warn("aside: Redis answers, but does not work as it should", "address", l.address(sh), "error", why)
	}
}

// until is the end of a duration that begins now, in Client.now's time; -1 has none.
func (l *link) until(d time.Duration) int64 {
	if now := l.now(); d >= 0 && int64(d) < never-now {
		return now + int64(d)
	}
	return never
}

// returned is called by whoever has found a shard to be well while it is degraded.
func (l *link) returned(sh *shard) {
	if l.up.Unreplayed(sh) {
		l.happened(sh, back, nil)
		return
	}
	l.happened(sh, backEmpty, nil)
}

// comeback counts the good probes of a degraded shard. It belongs to the shard's prober.
type comeback struct {
	good int
	at   int64 // when the jitter ends, in Client.now's time
}

const (
	goodProbes     = 3 // in a row, of a shard that has been away
	comebackJitter = time.Second
)

// probed notes a probe and says whether the shard may come back.
func (b *comeback) probed(ok, fresh bool, now int64) bool {
	if !ok {
		*b = comeback{}
		return false
	}
	if fresh {
		return true
	}
	if b.good++; b.good == goodProbes {
		b.at = now + rand.Int64N(int64(comebackJitter))
	}
	return b.good >= goodProbes && now >= b.at
}

// announcer tells watchers of events, in order, from a goroutine of its own: a slow one delays the next ones only.
type announcer[E any] struct {
	what string // they are called, for the log; immutable

	mu       sync.Mutex // guards all below
	watchers map[int]func(E)
	made     int
	queue    []E
	busy     bool // a goroutine works on the queue
}

// OnModeChange has f called after each change of a shard's mode, one after the other and in order, and perhaps for one that has
// just been. f may take its time and call the Client. remove ends that: once it has returned, f is not called
// for changes to come.
func (c *Client) OnModeChange(f func(ModeChange)) (remove func()) { return c.modes.watch(f) }

func (a *announcer[E]) watch(f func(E)) (remove func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.watchers == nil {
		a.watchers = make(map[int]func(E))
	}
	a.made++
	id := a.made
	a.watchers[id] = f
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.watchers, id)
	}
}

// announce queues an event. What overtaken says yes to, if not nil, need not be told any more.
func (a *announcer[E]) announce(c *Client, event E, overtaken func(E) bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.watchers) == 0 {
		return
	}
	if overtaken != nil {
		a.queue = slices.DeleteFunc(a.queue, overtaken)
	}
	a.queue = append(a.queue, event)
	if !a.busy {
		a.busy = c.inBackground(func() { a.tell(c) }) // ends with the queue
	}
}

func (a *announcer[E]) tell(c *Client) {
	for {
		a.mu.Lock()
		if len(a.queue) == 0 {
			a.busy = false
			a.mu.Unlock()
			return
		}
		event := a.queue[0]
		a.queue = a.queue[1:]
		ids := slices.Sorted(maps.Keys(a.watchers))
		told := make([]func(E), len(ids))
		for i, id := range ids {
			told[i] = a.watchers[id]
		}
		a.mu.Unlock()
		for _, f := range told {
			if err := c.contained(a.what, func() { f(event) }); err != nil {
				c.warn(&c.seldomObserver, a.what+" did not return", "error", err)
			}
		}
	}
}

var errNeverReached = errors.New("aside: Redis has not been reached yet")

// Health says how the client is doing. It asks nobody.
func (c *Client) Health() Health {
	all := c.link.health()
	h := Health{Mode: all.mode, Since: all.since, Err: all.err, Durable: c.store.Durable(), Fallback: c.store.Stats(), Replay: c.replays.latest()}
	for _, s := range all.shards {
		h.Shards = append(h.Shards, ShardHealth{Addr: s.addr, Mode: s.mode, Since: s.since, Err: s.err})
	}
	return h
}

// state is how a shard, or all of them, are doing.
type linkHealth struct {
	addr   string // of a shard, where there are several
	mode   Mode   // the worst of its shards'
	since  time.Time
	err    error // why it is degraded, or what does not work although it is not
	shards []linkHealth
}

// health says how the shards are doing. It asks nobody.
func (l *link) health() linkHealth {
	h := linkHealth{mode: Degraded, since: l.began, err: l.notReached()}
	t := l.topo.Load()
	if t == nil {
		return h
	}
	for i, sh := range t.shards {
		sh.state.mu.Lock()
		s := linkHealth{addr: sh.addr, mode: Mode(sh.mode.Load()), since: sh.state.since, err: sh.state.errLocked()}
		sh.state.mu.Unlock()
		h.shards = append(h.shards, s)
		if i == 0 || badness(s.mode) > badness(h.mode) || s.mode == h.mode && h.err == nil && s.err != nil {
			h.mode, h.since, h.err = s.mode, s.since, s.err
		}
	}
	slices.SortFunc(h.shards, func(a, b linkHealth) int { return cmp.Compare(a.addr, b.addr) })
	if t.holes && h.mode != Degraded {
		h.mode, h.since, h.err = Degraded, t.since, errHoles
	}
	return h
}

// notReached says why there is no connection yet.
func (l *link) notReached() error {
	if why := l.unreached.Load(); why != nil {
		return fmt.Errorf("%w: %w", errNeverReached, reason.Of(*why))
	}
	return errNeverReached
}

var errHoles = errors.New("aside: some slots of the cluster have no primary that is known")

func badness(m Mode) int { return [...]int{Healthy: 0, Recovering: 1, Degraded: 2}[m] }
