package link

import (
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside/internal/near"
	"github.com/redaside/aside/internal/slot"
)

// Shard is one primary, and what this process knows of it. Its fields stand in groups; each says
// who may touch it. Those that are atomic may be read by anybody.
type Shard struct {
	// Immutable.
	Addr    string         // "" where there is one shard only
	Valid   *near.Validity // whether what was read from it may be served; see there who changes it
	client  rueidis.Client // speaks to this node and no other in a cluster
	plain   bool           // client is rueidis's own, and not one of the user's around it
	session *session       // how client came about; nil in some tests
	traffic *traffic       // what passes on its connections
	stop    chan struct{}  // closed by retire
	kick    chan struct{}  // asks the prober to look at once; buffered, never blocks
	replay  chan struct{}  // asks whoever replays to look at once; buffered, never blocks

	// The mode. Changed with state.mu held.
	mode        atomic.Int32 // a Mode; stored by changeModeLocked only, and Valid with it
	state       modeState
	flaws       atomic.Int32      // how many state has
	gone        atomic.Bool       // it has left the cluster: its mode does not change any more
	backAt      atomic.Int64      // the server's time, in µs, when it was last degraded
	histories   map[string]string // of the primaries so far, by run id; guarded by state.mu
	runIDBefore string            // what it was when the outage began; guarded by state.mu

	// What the prober has found out. Changed by whoever holds the token of probing.
	probing  chan struct{}               // has a token while a probe runs
	proof    proof                       // the running probe's
	watch    flushWatch                  // the prober's, and, before there is one, of the first look
	probeKey atomic.Pointer[string]      // what probes ask for
	heard    atomic.Uint64               // pushes of that key; counted by rueidis's reader
	clock    atomic.Pointer[clockSample] // nil until it has answered
	run      atomic.Pointer[runID]
	primary  atomic.Pointer[string] // the run id of the latest primary
	broken   atomic.Bool            // the last probe found its connection broken
	spread   atomic.Bool            // scripts go to several servers
	turned   atomic.Int64           // when the address last led back to another primary, in Link.Now's time; 0: never, or long ago
	flushed  atomic.Pointer[Flush]  // the latest; nil: there was none, as far as is known
	seen     atomic.Int64           // when it was last well, in Link.Now's time

	// Signs of life. Changed by the prober, and by whoever asks and draws conclusions.
	alive   atomic.Int64 // until when the latest probe counts as a sign of life, in Link.Now's time
	failing atomic.Int32 // weight of the commands without an answer, in a row
	fresh   atomic.Bool  // it has never been away
	dead    atomic.Bool  // rueidis has closed it

	// Whether it is in use.
	used    atomic.Bool // set by whoever asks, see use; cleared by the prober
	resting atomic.Bool // the prober rests; changed by it only

	// In a cluster. Changed by follow, which reads the topology.
	slots atomic.Pointer[[]slotRange] // that it has

	// What is under way. Changed by whoever asks; gate, turns and batchers have locks of their own.
	gate     gate         // bounds the commands that are out
	turns    turns        // of what is large
	batchers [4]Batcher   // of commands that go together under load
	longest  longest      // argument that the server reads
	bulk     atomic.Int64 // bytes of ours on their way to it, behind which others may have to wait, see sends
	expected atomic.Int64 // bytes that it was asked for, as far as that is known
	guessed  atomic.Int64 // likewise, by typical
	typical  atomic.Int64 // bytes that a key of a batch has had lately
}

// runID is what a server calls its own life: it changes with a restart, and another server has
// another.
type runID struct {
	id         string // "" if the server does not tell
	connection uint64 // on which it was read

	replica bool
	history string // the id of its replication

	echoes bool // before Redis 6.2: what a script of ours has read and then deleted is pushed to us
}

// slotRange is some slots of a cluster, both ends included.
type slotRange struct{ from, to uint16 }

func (l *Link) newShard(addr string, client rueidis.Client, tracked bool) *Shard {
	sh := &Shard{
		Addr: addr, client: client, Valid: near.NewValidity(tracked), stop: make(chan struct{}), probing: make(chan struct{}, 1),
		kick: make(chan struct{}, 1), replay: make(chan struct{}, 1), gate: gate{free: make(chan struct{}, 1), room: l.inFlightRoom()}, traffic: l.roads.to(addr),
	}
	if kind := reflect.TypeOf(client); kind != nil && kind.Kind() == reflect.Pointer {
		sh.plain = kind.Elem().PkgPath() == reflect.TypeFor[rueidis.ClientOption]().PkgPath()
	}
	sh.mode.Store(int32(Degraded)) // until the first probe is answered
	sh.state.since = time.Now()
	sh.state.away.begin(l, sh.state.since)
	sh.fresh.Store(true)
	for i := range sh.batchers {
		sh.batchers[i].inBackground, sh.batchers[i].sender, sh.batchers[i].yield = l.up.InBackground, l.up.Senders[i], runtime.Gosched
		sh.batchers[i].send = func(requests []*Request) { l.up.Senders[i].Send(sh, requests) }
	}
	return sh
}

// Batcher sends commands of one kind together: kind is an index into Hooks.Senders.
func (sh *Shard) Batcher(kind int) *Batcher { return &sh.batchers[kind] }

// Left is closed when sh has left the cluster.
func (sh *Shard) Left() <-chan struct{} { return sh.stop }

// ReplayDue gets a token when there may be something to replay.
func (sh *Shard) ReplayDue() <-chan struct{} { return sh.replay }

// BackAt is the server's time, in µs, when sh was last degraded; 0: it has always been.
func (sh *Shard) BackAt() int64 { return sh.backAt.Load() }

// Flushed is the latest flush of its database that was noticed; nil: there was none, as far as is
// known.
func (sh *Shard) Flushed() *Flush { return sh.flushed.Load() }

// Echoes reports whether the server pushes to us what a script of ours has read and then deleted.
func (sh *Shard) Echoes() bool {
	run := sh.run.Load()
	return run != nil && run.echoes
}

// SameServer reports whether the server is, for certain, the one that was lost. restarted: it is,
// for certain, another one, or another life of it.
func (sh *Shard) SameServer() (same, restarted bool) {
	run := sh.run.Load()
	sh.state.mu.Lock()
	defer sh.state.mu.Unlock()
	if run == nil || run.id == "" || sh.runIDBefore == "" {
		return false, false
	}
	return run.id == sh.runIDBefore, run.id != sh.runIDBefore
}

// Asks reports whether callers may ask sh: it is not degraded.
func (sh *Shard) Asks() bool { return sh != nil && Mode(sh.mode.Load()) != Degraded }

// Silent reports whether the latest commands to sh were not answered.
func (sh *Shard) Silent() bool { return sh.failing.Load() > 0 }

// CanBatch reports whether commands for different keys may share one script call: not in a cluster,
// where their slots differ, nor where they go to several servers, nor for nil, where a slot has no
// home just now.
func (sh *Shard) CanBatch() bool { return sh != nil && sh.Addr == "" && !sh.spread.Load() }

// hasSlotOf reports whether key, a probe's, is in a slot that sh has by the present topology.
func (sh *Shard) hasSlotOf(key string) bool {
	ranges := sh.slots.Load()
	if ranges == nil {
		return true
	}
	at := slot.Of(key)
	return slices.ContainsFunc(*ranges, func(r slotRange) bool { return r.from <= at && at <= r.to })
}

// probeNow asks the prober to look at once. It never blocks.
func (sh *Shard) probeNow() {
	select {
	case sh.kick <- struct{}{}:
	default:
	}
}

// ReplayNow has ReplayDue get a token. It never blocks.
func (sh *Shard) ReplayNow() {
	select {
	case sh.replay <- struct{}{}:
	default:
	}
}

// retire is called when the node has left: nobody may use it, or what was read from it, any more.
func (sh *Shard) retire() {
	sh.state.mu.Lock()
	sh.gone.Store(true)
	sh.changeModeLocked(Degraded, 0)
	sh.Valid.Retire()
	sh.state.mu.Unlock()
	sh.beginEpoch()
	close(sh.stop)
}

// invalidateAll gives up all that was read from sh or remembered for it, also for an outage: some
// of its keys have another home.
func (sh *Shard) invalidateAll() {
	sh.Valid.InvalidateAll()
	sh.beginEpoch()
}

// newEpoch gives up what was read so far, until the prober has proved the next connection.
func (sh *Shard) newEpoch() {
	sh.Valid.NewEpoch()
	sh.beginEpoch()
}

// Address is where sh is, for people.
func (l *Link) Address(sh *Shard) string {
	if sh.Addr != "" {
		return sh.Addr
	}
	if l.opt.Redis.Sentinel.MasterSet != "" && sh.client != nil {
		for addr := range sh.client.Nodes() {
			return addr
		}
	}
	return strings.Join(l.opt.Redis.InitAddress, ",")
}

// beginEpoch forgets what the prober has learned of the connection that is given up.
func (sh *Shard) beginEpoch() {
	sh.alive.Store(0)
	sh.gate.settled(never) // the connection is gone, and what was out on it
	sh.probeNow()
}
