package aside

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside/internal/near"
	"github.com/redaside/aside/internal/reason"
	"github.com/redaside/aside/internal/slot"
)

// How a Client is connected. rueidis keeps the connections; this file decides when they may be used:
//
//   - One goroutine connects in the background until it succeeds (connect). Nobody else waits for a dial.
//   - Each shard, a primary, has a prober (probe.go). It asks on the same connection as everybody else, so an answer proves
//     that the server lives, that it takes writes, that every invalidation sent before has been handled, and what time it is there.
//   - A shard that does not answer is degraded (mode.go): callers leave it alone, only its prober goes on asking. So an
//     outage costs a call at most one RedisTimeout, and after that nothing.

const (
	probeEvery     = 200 * time.Millisecond // at most; a quarter of StaleLease where that is less
	probeDownEvery = 50 * time.Millisecond  // while the shard is degraded: a refused dial is cheap
	maxInFlight    = 512                    // questions per node, or half of rueidis's ring, which blocks whatever the context says when it is full
	maxRetrack     = time.Minute            // between attempts to be tracked, where that is refused; from a second on
	reconcileDown  = 250 * time.Millisecond // between looks at a cluster's topology while a shard is degraded
	maxBackoff     = time.Second            // between attempts to connect for the first time

	// How much a question without an answer says, see failed.
	failuresToLose = 5 // in a row
	callersTimeout = 1
	probesTimeout  = 3
	brokenOnly     = 0 // a connection is gone: the prober tries the next one
	decisive       = failuresToLose
)

// shard is one primary and what this process knows of it. All fields are safe for concurrent use.
type shard struct {
	addr    string         // "" where there is one shard only
	client  rueidis.Client // speaks to this node and no other in a cluster
	session *session       // how client came about; nil in some tests
	valid   *near.Validity // whether what was read from it may be served; see there who changes it; immutable
	stop    chan struct{}  // closed when the node has left the cluster

	probing  chan struct{}               // has a token while a probe runs
	proof    proof                       // the running probe's
	probeKey atomic.Pointer[string]      // what probes ask for; changed by the prober
	heard    atomic.Uint64               // pushes of that key
	slots    atomic.Pointer[[]slotRange] // in a cluster: that it has
	dead     atomic.Bool                 // rueidis has closed it

	mode  atomic.Int32 // a Mode; valid is degraded when it is
	state modeState
	flaws atomic.Int32 // how many state has

	alive     atomic.Int64                // until when the latest probe counts as a sign of life, in Client.now's time
	clock     atomic.Pointer[clockSample] // nil until it has answered
	failing   atomic.Int32                // weight of the questions without an answer, in a row
	broken    atomic.Bool                 // the last probe found its connection broken
	gone      atomic.Bool                 // it has left the cluster: its mode does not change any more
	bulk      atomic.Int64                // bytes of ours on their way to it, behind which others may have to wait, see sends
	traffic   *traffic                    // what passes on its connections
	guessed   atomic.Int64                // likewise, by typical
	typical   atomic.Int64                // bytes that a key of a batch has had lately
	expected  atomic.Int64                // bytes that it was asked for, as far as that is known
	turns     turns                       // of what is large
	seen      atomic.Int64                // when it was last well, in Client.now's time
	longest   longest                     // argument that the server reads
	backAt    atomic.Int64                // the server's time, in µs, when it was last degraded
	fresh     atomic.Bool                 // it has never been away
	kick      chan struct{}               // asks the prober to look at once; buffered, never blocks
	replay    chan struct{}               // asks the replayer to look at once; buffered, never blocks
	gate      gate                        // bounds the questions that are out
	lockBatch batcher                     // questions that go together under load
	fillBatch batcher

	run         atomic.Pointer[runID]
	primary     atomic.Pointer[string] // the run id of the latest primary
	doubts      doubts                 // what its server may lack
	watch       flushWatch             // the prober's
	histories   map[string]string      // of the primaries so far, by run id; guarded by state.mu
	spread      atomic.Bool            // scripts go to several servers; changed by the prober
	turned      atomic.Int64           // when the address last led back to another primary, in Client.now's time; 0: never, or long ago
	flushedAt   atomic.Int64           // when the database was flushed, at the latest, in the server's µs; 0: never, as far as is known
	runIDBefore string                 // what it was when the outage began; guarded by state.mu
}

// runID is what a server calls its own life: it changes with a restart, and another server has another.
type runID struct {
	id    string // "" if the server does not tell
	epoch uint64 // the connection on which it was read

	replica bool
	history string // the id of its replication

	echoes bool // before Redis 6.2: what a script of ours has read and then deleted is pushed to us
}

// slotRange is some slots of a cluster, both ends included.
type slotRange struct{ from, to uint16 }

// joins says whether questions of different keys may go together: not in a cluster, where their slots differ, nor where they go to several servers. nil, where a slot has no
// home just now, joins nothing.
func (sh *shard) canBatch() bool { return sh != nil && sh.addr == "" && !sh.spread.Load() }

func (l *link) newShard(addr string, client rueidis.Client, tracked bool) *shard {
	sh := &shard{
		addr: addr, client: client, valid: near.NewValidity(tracked), stop: make(chan struct{}), probing: make(chan struct{}, 1),
		kick: make(chan struct{}, 1), replay: make(chan struct{}, 1), gate: gate{free: make(chan struct{}, 1), room: l.inFlightRoom()}, traffic: l.roads.to(addr),
	}
	sh.mode.Store(int32(Degraded)) // until the first probe is answered
	sh.state.since = time.Now()
	sh.state.away.begin(l, sh.state.since)
	sh.fresh.Store(true)
	sh.lockBatch.send = func(requests []*request) { l.up.SendLocks(sh, requests) }
	sh.fillBatch.send = func(requests []*request) { l.up.SendFills(sh, requests) }
	return sh
}

func (sh *shard) probeNow() {
	select {
	case sh.kick <- struct{}{}:
	default:
	}
}

func (sh *shard) replayNow() {
	select {
	case sh.replay <- struct{}{}:
	default:
	}
}

// retire is called when the node has left: nobody may use it, or what was read from it, any more.
func (sh *shard) retire() {
	sh.state.mu.Lock()
	sh.gone.Store(true)
	sh.mode.Store(int32(Degraded))
	sh.valid.Retire()
	sh.state.mu.Unlock()
	sh.beginEpoch()
	close(sh.stop)
}

// invalidateAll gives up all that was read from sh or remembered for it, also for an outage: some of its keys have another home.
func (sh *shard) invalidateAll() {
	sh.valid.InvalidateAll()
	sh.beginEpoch()
}

// newEpoch gives up what was read so far, until the prober has proved the next connection.
func (sh *shard) newEpoch() {
	sh.valid.NewEpoch()
	sh.beginEpoch()
}

// beginEpoch forgets what the prober has learned of the connection that is given up.
func (sh *shard) beginEpoch() {
	sh.alive.Store(0)
	sh.gate.settled(never) // the connection is gone, and what was out on it
	sh.probeNow()
}

// inFlightRoom is how many questions may be out to a node: half of the ring in which rueidis keeps them, if that is small. The other
// half is for the prober's and rueidis's own.
func (l *link) inFlightRoom() int64 {
	if scale := l.opt.Redis.RingScaleEachConn; scale > 0 && scale < 10 {
		return 1 << (scale - 1)
	}
	return maxInFlight
}

// gate lets so many in at a time as there is room for. Without contention it is one atomic addition.
//
// Who has given up a question leaves it behind in rueidis's ring, where it keeps its room until it is answered, which nobody is told:
// but answers are in order, so it has been as soon as a later question is. Or the connection has broken.
type gate struct {
	in   atomic.Int64
	free chan struct{} // a token: somebody has left since; buffered
	room int64         // immutable

	mu     sync.Mutex
	behind int64 // questions that were given up; guarded by mu
	asked  int64 // when the latest of them was; guarded by mu
}

// giveUp is leave for a question that was asked then, and is still out.
func (g *gate) giveUp(asked int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.behind++
	g.asked = max(g.asked, asked)
}

// settled notes that a question that was asked then has been answered, so that nothing is left of earlier ones.
func (g *gate) settled(asked int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.behind > 0 && asked > g.asked {
		g.in.Add(-g.behind)
		g.behind = 0
		g.hint()
	}
}

func (g *gate) enter(ctx context.Context) error {
	waited := false
	for g.in.Add(1) > g.room {
		g.in.Add(-1)
		waited = true
		select {
		case <-g.free:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if waited && g.in.Load() < g.room {
		g.hint() // two may have left and one token been lost: pass it on
	}
	return nil
}

func (g *gate) leave() {
	g.in.Add(-1)
	g.hint()
}

func (g *gate) hint() {
	select {
	case g.free <- struct{}{}:
	default:
	}
}

// topology says which shard has which key. Immutable.
type topology struct {
	session *session
	redis   rueidis.Client // link's
	shards  []*shard
	bySlot  *[slot.Count]*shard // nil where there is one shard only; an entry is nil for a slot whose primary is not known
	holes   bool                // there are such slots
	last    map[int]*shard      // who had them last, by slot
	since   time.Time
}

func (t *topology) shardOf(key string) *shard {
	if t.bySlot == nil {
		return t.shards[0]
	}
	return t.bySlot[slot.Of(key)]
}

// shardOf returns the shard that has key, or nil if Redis is not known yet.
func (l *link) shardOf(key string) *shard {
	if t := l.topo.Load(); t != nil {
		return t.shardOf(key)
	}
	return nil
}

// home is shardOf for what must have a shard: where none is known it is one that nobody can ask.
func (l *link) home(key string) *shard {
	if sh := l.shardOf(key); sh != nil {
		return sh
	}
	return l.noShard
}

// redisOption completes the user's option; see the table in docs/ARCHITECTURE.md for the reasons.
func (l *link) redisOption(s *session) rueidis.ClientOption {
	o := l.baseOption()
	if s.tracked {
		o.ClientTrackingOptions = []string{"OPTOUT"}
		theirs := o.OnInvalidations
		o.OnInvalidations = func(keys []rueidis.RedisMessage) {
			keys = l.invalidated(keys)
			if theirs != nil && (keys == nil || len(keys) > 0) {
				// In rueidis's reader, on which everything waits.
				l.up.Told("Options.Redis.OnInvalidations", func() { theirs(keys) })
			}
		}
	} else {
		o.DisableCache, o.OnInvalidations = true, nil
	}
	o.DialCtxFn = l.dialer(o, s)
	return o
}

// baseOption is what all of our connections have in common.
func (l *link) baseOption() rueidis.ClientOption {
	o := l.opt.Redis
	o.ClientTrackingOptions = nil
	o.PipelineMultiplex, o.BlockingPipeline = -1, -1
	o.RetryDelay = func(_ int, _ rueidis.Completed, err error) time.Duration {
		if !isDial(err) && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
			return 0
		}
		return -1
	}
	o.Dialer.Timeout = cmp.Or(o.Dialer.Timeout, dialTimeout(o.TLSConfig))
	o.Dialer.KeepAlive = cmp.Or(o.Dialer.KeepAlive, defaultKeepAlive)
	o.ConnWriteTimeout = cmp.Or(o.ConnWriteTimeout, defaultWriteLimit)
	if o.Sentinel.MasterSet != "" {
		o.Sentinel.TopologyRefreshInterval = cmp.Or(o.Sentinel.TopologyRefreshInterval, defaultReconcile)
		o.Sentinel.Dialer.Timeout = cmp.Or(o.Sentinel.Dialer.Timeout, dialTimeout(o.Sentinel.TLSConfig))
		o.Sentinel.Dialer.KeepAlive = cmp.Or(o.Sentinel.Dialer.KeepAlive, defaultKeepAlive)
	}
	o.ClusterOption.ShardsRefreshInterval = cmp.Or(o.ClusterOption.ShardsRefreshInterval, defaultReconcile)
	return o
}

// link is a rueidis client and what is known of its connections. Safe for concurrent use.
type session struct {
	tracked bool           // our tracking was asked for; immutable
	roads   *roads         // what passes is counted there; immutable
	redis   rueidis.Client // immutable once ClientBuilder has returned it

	mu    sync.Mutex                // guards all below; never held while calling out
	used  bool                      // something was dialed through our option
	conns map[string][]*watchedConn // by address: what was dialed and not closed since, as of the latest dial
}

// ours reports whether redis dialed through the option that its builder was given. Any other client belongs to somebody else.
func (l *session) ours() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.used
}

// close closes the client and what it says of its nodes, unless they are somebody else's.
func (l *session) close(clients ...rueidis.Client) {
	if l == nil || !l.ours() {
		return
	}
	for _, client := range clients {
		client.Close()
	}
}

// dialed notes a new connection.
func (l *session) dialed(addr string, conn *watchedConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.used = true
	if l.conns == nil {
		l.conns = make(map[string][]*watchedConn)
	}
	for at, conns := range l.conns {
		l.conns[at] = slices.DeleteFunc(conns, func(old *watchedConn) bool { return old.closed.Load() })
	}
	l.conns[addr] = append(l.conns[addr], conn)
}

// open returns how many connections there are to addr, "" for any address but those of sentinels: to that with the most.
func (l *session) open(addr string, sentinels []string) (most int) {
	if l == nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for at, conns := range l.conns {
		if at != addr && (addr != "" || slices.Contains(sentinels, at)) {
			continue
		}
		n := 0
		for _, conn := range conns {
			if !conn.closed.Load() {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}

// hangUp closes the connections to addr, "" for all but those to sentinels. rueidis dials again when it is asked next.
func (l *session) hangUp(addr string, sentinels []string) {
	if l == nil {
		return
	}
	l.mu.Lock()
	var conns []*watchedConn
	for at, open := range l.conns {
		if at == addr || addr == "" && !slices.Contains(sentinels, at) {
			conns = append(conns, open...)
		}
	}
	l.mu.Unlock()
	for _, conn := range conns {
		conn.hangUp()
	}
}

// dialer wraps the user's way to dial. Close ends a dial, we know our connections, and each new one begins an epoch.
// rueidis reports a lost connection too, but it may use the next one before it does:
//
//	old connection fails   caller dials anew   prober: PONG on the new one  <- would vouch for what was read on the old
func (l *link) dialer(o rueidis.ClientOption, s *session) func(context.Context, string, *net.Dialer, *tls.Config) (net.Conn, error) {
	dial := l.plainDialer(o)
	return func(ctx context.Context, dst string, d *net.Dialer, t *tls.Config) (net.Conn, error) {
		conn, err := dial(ctx, dst, d, t)
		if err != nil {
			return nil, err
		}
		if o.DisableTCPNoDelay { // rueidis would look for the connection itself
			disableNoDelay(conn)
		}
		watched := l.watch(conn, s.roads, dst)
		if watched == nil { // rueidis's two readers would take each other's answers
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: fmt.Errorf("aside: Options.Redis.DialCtxFn returned a connection to %s that it had returned before: each call must make one of its own", dst)}
		}
		s.dialed(dst, watched)
		l.dialed(s, dst)
		return watched, nil
	}
}

// plainDialer dials as the user wants it, until Close.
func (l *link) plainDialer(o rueidis.ClientOption) func(context.Context, string, *net.Dialer, *tls.Config) (net.Conn, error) {
	dial := o.DialCtxFn
	if dial == nil && o.DialFn != nil {
		dial = func(_ context.Context, dst string, d *net.Dialer, t *tls.Config) (net.Conn, error) {
			return o.DialFn(dst, d, t)
		}
	}
	if user := dial; user != nil { // rueidis has others wait for a dial that does not return
		dial = func(ctx context.Context, dst string, d *net.Dialer, t *tls.Config) (conn net.Conn, err error) {
			if failed := l.up.Contain("the dialer of Options.Redis", func() {
				conn, err = user(ctx, dst, d, t)
				err = l.up.Examine(err)
			}); failed != nil {
				return nil, &net.OpError{Op: "dial", Net: "tcp", Err: failed}
			}
			return conn, err
		}
	}
	if dial == nil {
		dial = func(ctx context.Context, dst string, d *net.Dialer, t *tls.Config) (net.Conn, error) {
			if t != nil {
				return (&tls.Dialer{NetDialer: d, Config: t}).DialContext(ctx, "tcp", dst)
			}
			return d.DialContext(ctx, "tcp", dst)
		}
	}
	return func(ctx context.Context, dst string, d *net.Dialer, t *tls.Config) (net.Conn, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(l.closing, cancel)()
		conn, err := dial(ctx, dst, d, t)
		if err == nil && conn == nil {
			err = &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("aside: Options.Redis.DialCtxFn returned neither a connection nor an error")}
		}
		return conn, err
	}
}

func disableNoDelay(conn net.Conn) {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	if plain, ok := conn.(*net.TCPConn); ok {
		_ = plain.SetNoDelay(false)
	}
}

// dialed begins a new epoch for the shard at addr. With one shard the address says nothing: Sentinel may have moved it.
func (l *link) dialed(s *session, addr string) {
	t := l.topo.Load()
	if t == nil || t.session != s {
		return
	}
	for _, sh := range t.shards {
		if t.bySlot == nil || sh.addr == addr {
			sh.newEpoch()
		}
	}
}

// invalidated is called by rueidis, in order with the replies of the connection. It must not block: rueidis fails the
// calls that are pending on a lost connection only after it returns. It returns those keys that are not of probes.
func (l *link) invalidated(keys []rueidis.RedisMessage) (others []rueidis.RedisMessage) {
	if keys == nil { // a connection is lost (it is not said which), or everything was flushed
		l.counts.flushes.Add(1)
		if t := l.topo.Load(); t != nil {
			for _, sh := range t.shards {
				sh.newEpoch()
			}
		}
		l.up.Lost()
		return nil
	}
	others = keys
	for i := range keys {
		key, err := keys[i].ToString()
		switch {
		case err == nil && l.heardProbe(key):
			if len(others) == len(keys) {
				others = slices.Clone(keys[:i])
			}
			continue
		case err == nil:
			l.up.Invalidated(key)
		}
		if len(others) < len(keys) {
			others = append(others, keys[i])
		}
	}
	l.counts.invalidations.Add(int64(len(others)))
	return others
}

// connect runs until the first connection stands, then keeps the topology of a cluster up to date. It ends with Close.
func (l *link) connect(first chan error) {
	tracked := !l.opt.Redis.DisableCache
	var away outageLog
	var hint struct {
		text string
		at   int64 // in Client.now's time; 0: there is none
	}
	for backoff := 10 * time.Millisecond; ; backoff = min(2*backoff, maxBackoff) {
		s, err := l.build(tracked)
		if errors.Is(err, rueidis.ErrNoCache) && tracked {
			l.opt.Logger.Warn("aside: the server pushes no invalidations: no local memory, waiters poll; trying again", "error", err)
			tracked = false
			continue
		}
		if err == nil {
			if err = l.refresh(s); err == nil {
				select {
				case old := <-first:
					_ = old // New has not read the last error, and need not
				default:
				}
				first <- nil
				l.follow(s)
				return
			}
			s.close(s.redis)
		}
		if hint.at == 0 || l.now()-hint.at >= int64(hintEvery) {
			hint.text, hint.at = l.hint(err), l.now()
		}
		err = l.unreachable(err, hint.text)
		l.unreached.Store(&err)
		select {
		case first <- err:
		default:
		}
		switch now := time.Now(); {
		case l.closing.Err() != nil:
		case away.since.IsZero():
			away.begin(l, now)
			l.opt.Logger.Warn("aside: cannot reach Redis, going on without it and trying again", "address", strings.Join(l.opt.Redis.InitAddress, ","), "error", err)
		case away.due(now):
			l.opt.Logger.Warn("aside: Redis is still away", append(append([]any{"address", strings.Join(l.opt.Redis.InitAddress, ",")}, away.line(now)...), "error", err)...)
		}
		if !l.sleep(jitter(backoff)) {
			return
		}
	}
}

// newRueidis is rueidis.NewClient for a server that may be away. For each cluster client that cannot connect rueidis leaves
// a goroutine behind for a second, so nothing is built until somebody listens. The connections on which that was seen are those that
// rueidis gets first: behind a balancer over two servers every second dial would lead to the same one.
func newRueidis(o rueidis.ClientOption) (rueidis.Client, error) {
	ctx, cancel := context.WithTimeout(context.Background(), o.Dialer.Timeout)
	defer cancel()
	results := make(chan error, len(o.InitAddress))
	dialer, secure := &o.Dialer, o.TLSConfig
	if o.Sentinel.MasterSet != "" { // the addresses are those of sentinels
		dialer, secure = &o.Sentinel.Dialer, o.Sentinel.TLSConfig
	}
	waiting := &spares{conns: make(map[string]net.Conn)}
	defer waiting.end()
	dial := o.DialCtxFn
	for _, addr := range o.InitAddress {
		go func() { // ends with its dial
			conn, err := dial(ctx, addr, dialer, secure)
			if err == nil {
				waiting.put(addr, conn)
			}
			results <- err
		}()
	}
	o.DialCtxFn = func(ctx context.Context, dst string, d *net.Dialer, t *tls.Config) (net.Conn, error) {
		if conn := waiting.take(dst); conn != nil {
			return conn, nil
		}
		return dial(ctx, dst, d, t)
	}
	var errs []error
	for range o.InitAddress {
		err := <-results
		if err == nil {
			return rueidis.NewClient(o)
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// spares are connections that nobody uses yet. Safe for concurrent use.
type spares struct {
	mu    sync.Mutex
	conns map[string]net.Conn // by address; nil once nobody will ask any more; guarded by mu
}

func (s *spares) put(addr string, conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil || s.conns[addr] != nil {
		_ = conn.Close()
		return
	}
	s.conns[addr] = conn
}

func (s *spares) take(addr string) net.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	conn := s.conns[addr]
	delete(s.conns, addr)
	return conn
}

func (s *spares) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, conn := range s.conns {
		_ = conn.Close()
	}
	s.conns = nil
}

// build calls the user's ClientBuilder, which may neither panic through us nor keep Close waiting.
func (l *link) build(tracked bool) (*session, error) {
	s := &session{tracked: tracked, roads: &l.roads}
	redis, err := l.callBuilder(l.redisOption(s), func(late rueidis.Client) { s.close(late) })
	s.redis = redis
	return s, err
}

// callBuilder is build for any option. late gets what is returned after Close.
func (l *link) callBuilder(option rueidis.ClientOption, late func(rueidis.Client)) (redis rueidis.Client, err error) {
	type built struct {
		redis rueidis.Client
		err   error
	}
	done := make(chan built, 1)
	go func() { // ends when ClientBuilder returns: rueidis's does within its dial timeouts, which Close cancels
		var b built
		if err := l.up.Contain("Options.ClientBuilder", func() {
			b.redis, b.err = l.opt.ClientBuilder(option)
			b.err = l.up.Examine(b.err)
		}); err != nil {
			b = built{err: fmt.Errorf("aside: Options.ClientBuilder did not return: %w", err)}
		}
		if b.err == nil && b.redis == nil {
			b.err = errors.New("aside: Options.ClientBuilder returned neither a client nor an error")
		}
		done <- b
	}()
	select {
	case b := <-done:
		return b.redis, b.err
	case <-l.closing.Done():
		go func() { // ends as above
			if b := <-done; b.redis != nil {
				late(b.redis)
			}
		}()
		return nil, ErrClosed
	}
}

// follow keeps the shards in step with a cluster's topology: every few seconds, and when an answer says that a slot has moved. Where
// tracking was refused it asks for it again now and then.
func (l *link) follow(s *session) {
	cluster, retrack := s.redis.Mode() == rueidis.ClientModeCluster, !s.tracked && !l.opt.Redis.DisableCache
	wait := time.Second
	for again := l.now() + int64(wait); cluster || retrack; {
		pause := defaultReconcile
		switch {
		case cluster && !l.connected():
			pause = reconcileDown
		case retrack:
			pause = min(pause, wait)
		}
		timer := time.NewTimer(jitter(pause))
		select {
		case <-timer.C:
		case <-l.moved:
			timer.Stop()
		case <-l.closing.Done():
			timer.Stop()
			return
		}
		if retrack && l.now() >= again {
			wait = min(2*wait, maxRetrack)
			again = l.now() + int64(wait)
			if next, ok := l.retracked(); ok {
				s, retrack = next, false
				continue
			}
		}
		if !cluster {
			continue
		}
		if err := l.refresh(s); err != nil && l.closing.Err() == nil {
			l.up.Warn("cannot read the cluster's topology", "error", err)
		}
		if !l.sleep(20 * time.Millisecond) { // a burst of redirections is one refresh
			return
		}
	}
}

// retracked goes over to a client with tracking, if that is permitted by now.
func (l *link) retracked() (s *session, ok bool) {
	s, err := l.build(true)
	if err != nil {
		return nil, false
	}
	old := l.topo.Load()
	if err := l.refresh(s); err != nil {
		s.close(s.redis)
		return nil, false
	}
	l.opt.Logger.Info("aside: the server pushes invalidations now, so the local memory is used", "addresses", l.opt.Redis.InitAddress)
	l.up.InBackground(func() { // ends with that
		l.sleep(2 * l.opt.RedisTimeout) // for the questions that are out
		old.session.close(old.redis)
	})
	return s, true
}

// refresh reads the topology and starts and stops probers accordingly. A shard whose slots have changed begins a new
// epoch, so that nothing is served that another node may have changed.
func (l *link) refresh(s *session) error {
	redis, old := s.redis, l.topo.Load()
	next := &topology{session: s, redis: redis, since: time.Now()}
	if redis.Mode() != rueidis.ClientModeCluster {
		sh := l.newShard("", redis, s.tracked)
		sh.session, next.shards = s, []*shard{sh}
	} else {
		var err error
		if next, err = l.readCluster(s, old); err != nil {
			return err
		}
	}
	started, gone, lost, filled := next.changes(old)
	// A first look before anyone may use them: New returns with a client that works, or knows that it does not. All at
	// once, so that a hung node does not make the others wait.
	var look sync.WaitGroup
	for _, sh := range started {
		look.Go(func() {
			if ok := l.probe(sh); ok && sh.fresh.Load() {
				l.lookAround(sh)
				l.returned(sh)
			}
		})
	}
	look.Wait()
	l.topoMu.Lock()
	defer l.topoMu.Unlock()
	if l.closing.Err() != nil {
		return ErrClosed
	}
	switch {
	case !next.holes:
		l.noShard.mode.Store(int32(Healthy))
		l.noShard.valid.Restore()
	case old == nil || !old.holes:
		l.noShard.valid.Degrade(0)
		l.noShard.mode.Store(int32(Degraded))
	}
	next.remember(old)
	l.topo.Store(next)
	// Not before: who still uses the old topology stores under the old home. After it nothing is stored there, see near.Options.Home.
	nodes := redis.Nodes()
	for _, sh := range gone {
		sh.retire()
		if sh.session == s && (nodes[sh.addr] == nil || sh.dead.Load()) { // nobody else will close it
			s.close(sh.client)
		}
	}
	for _, sh := range lost {
		sh.invalidateAll()
	}
	if filled {
		l.noShard.valid.InvalidateAll()
	}
	for _, sh := range started {
		l.up.InBackground(func() { l.prober(sh) }) // ends with sh.stop or Close
		l.up.Started(sh)
	}
	l.rehomed(old, next, started)
	for _, sh := range next.shards { // which may have got keys with records of another
		sh.replayNow()
	}
	if old == nil {
		for _, sh := range started {
			if sh.asks() {
				return nil
			}
		}
		l.opt.Logger.Warn("aside: Redis accepts connections but cannot be used", "addresses", l.opt.Redis.InitAddress, "error", l.health().err)
	}
	return nil
}

// changes says which shards old, which may be nil, does not have, which ones it alone has, and which others have lost a slot since. filled: a
// slot has a home that had none.
func (t *topology) changes(old *topology) (started, gone, lost []*shard, filled bool) {
	if old == nil {
		return t.shards, nil, nil, true
	}
	for _, sh := range t.shards {
		if !slices.Contains(old.shards, sh) {
			started = append(started, sh)
		}
	}
	for _, sh := range old.shards {
		if !slices.Contains(t.shards, sh) {
			gone = append(gone, sh)
		}
	}
	if t.bySlot == nil || old.bySlot == nil {
		return started, gone, nil, false
	}
	for i, now := range t.bySlot {
		switch before := old.bySlot[i]; {
		case before == now:
		case before == nil:
			filled = true
		case !slices.Contains(gone, before) && !slices.Contains(lost, before):
			lost = append(lost, before)
		}
	}
	return started, gone, lost, filled
}

// readCluster asks CLUSTER SLOTS (CLUSTER SHARDS is wrong after a failover on Redis 7) and pairs it with rueidis's nodes.
func (l *link) readCluster(s *session, old *topology) (*topology, error) {
	nodes := s.redis.Nodes()
	var answer []rueidis.RedisMessage
	var asked string
	err := errors.New("no node is known")
	for addr, node := range nodes { // in map order, which is random: the first that answers
		asked = addr
		ctx, cancel := context.WithTimeout(l.closing, l.opt.RedisTimeout)
		answer, err = node.Do(ctx, node.B().ClusterSlots().Build()).ToArray()
		cancel()
		if err == nil || l.closing.Err() != nil {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("aside: CLUSTER SLOTS: %w", err)
	}
	byAddr := make(map[string]*shard)
	if old != nil && old.session == s {
		for _, sh := range old.shards {
			byAddr[sh.addr] = sh
		}
	}
	t := &topology{session: s, redis: s.redis, bySlot: new([slot.Count]*shard), since: time.Now()}
	ranges := make(map[*shard][]slotRange)
	for _, row := range answer {
		parts, err := row.ToArray()
		if err != nil || len(parts) < 3 {
			continue
		}
		from, err1 := parts[0].AsInt64()
		to, err2 := parts[1].AsInt64()
		primary, err3 := parts[2].ToArray()
		if err1 != nil || err2 != nil || err3 != nil || len(primary) < 2 || from < 0 || to >= slot.Count {
			continue
		}
		host, _ := primary[0].ToString()
		port, _ := primary[1].AsInt64()
		if host == "" || host == "?" { // the server does not know its own name: it is the one that was asked
			host, _, _ = net.SplitHostPort(asked)
		}
		addr := net.JoinHostPort(host, strconv.FormatInt(port, 10))
		node := nodes[addr]
		if node == nil { // rueidis does not know it, or has given it up: so do we, until it does
			continue
		}
		sh := byAddr[addr]
		if sh == nil || sh.dead.Load() {
			sh = l.newShard(addr, node, s.tracked)
			sh.session = s
			byAddr[addr] = sh
		}
		if ranges[sh] == nil {
			t.shards = append(t.shards, sh)
		}
		ranges[sh] = append(ranges[sh], slotRange{uint16(from), uint16(to)})
		for i := from; i <= to; i++ {
			t.bySlot[i] = sh
		}
	}
	if len(t.shards) == 0 {
		return nil, errors.New("aside: CLUSTER SLOTS names no primary")
	}
	for sh, has := range ranges {
		sh.slots.Store(&has)
	}
	for _, sh := range t.bySlot {
		t.holes = t.holes || sh == nil
	}
	return t, nil
}

// topologyMoved asks for a look at the cluster's topology. It never blocks.
func (l *link) topologyMoved() {
	select {
	case l.moved <- struct{}{}:
	default:
	}
}

// connected says whether every shard answers.
func (l *link) connected() bool {
	t := l.topo.Load()
	if t == nil || t.holes {
		return false
	}
	for _, sh := range t.shards {
		if !sh.asks() {
			return false
		}
	}
	return true
}

// failed notes that a question to sh was not answered and decides whether the shard is lost.
func (l *link) failed(sh *shard, err error, weight int32) {
	if errors.Is(err, rueidis.ErrClosing) && l.closing.Err() == nil {
		sh.dead.Store(true)
		l.topologyMoved()
	}
	if weight < decisive {
		lapsed := weight > brokenOnly && sh.valid.Tracked() && l.now() >= max(sh.valid.Lease(), sh.alive.Load())
		if sh.failing.Add(weight) < failuresToLose && !lapsed {
			sh.probeNow()
			return
		}
	}
	sh.fresh.Store(false)
	l.happened(sh, lost, explained(err))
}

// verdict says what the error of a question means. judge is the one place that decides.
type verdict int

const (
	answered verdict = iota // an answer, if only "no": a reply of a server that works
	moved                   // the key has another node now
	away                    // the server is not there, or there but of no use
	timedOut                // no answer within RedisTimeout; it may still be done
	gaveUp                  // the caller's own context ended; says nothing of Redis
)

// judge is told whether the deadline of the question was RedisTimeout or the caller's own.
func judge(err error, limited bool) verdict {
	if err == nil || rueidis.IsRedisNil(err) {
		return answered
	}
	if reply, ok := replyOf(err); ok {
		_, isMoved := reply.IsMoved()
		_, isAsk := reply.IsAsk()
		switch {
		case isMoved || isAsk:
			return moved
		case ofNoUse(reply.Error()):
			return away // the prober's questions are refused likewise, so that it sees the end of it
		}
		return answered
	}
	switch {
	case isDial(err): // whose timeout says context.DeadlineExceeded too
		return away
	case errors.Is(err, context.Canceled):
		return gaveUp
	case errors.Is(err, context.DeadlineExceeded) && limited:
		return timedOut
	case errors.Is(err, context.DeadlineExceeded):
		return gaveUp
	}
	return away
}

// replyOf returns the error reply of a server that err is or wraps; false if it is none.
func replyOf(err error) (*rueidis.RedisError, bool) {
	reply, ok := errors.AsType[*rueidis.RedisError](err)
	return reply, ok && !reply.IsNil()
}

// ofNoUse reports whether an error reply says that the server, as it is now, serves nobody, or nobody who writes; or that it does not let
// us in: rueidis returns what the handshake of a new connection was answered as the answer to the question for which it dialed.
// What is about one key or one value is no such reply, and OOM neither: a full server still deletes, and answers what it has.
func ofNoUse(reply string) bool {
	switch replyKind(reply) {
	case "LOADING", "BUSY", "MASTERDOWN", "READONLY", "CLUSTERDOWN", "NOREPLICAS", "MISCONF", "WRONGPASS", "NOAUTH", "DENIED":
		return true
	}
	return forbids(reply, "hello", "auth", "client", "select", "evalsha", "eval") || strings.HasPrefix(reply, "max number of clients") ||
		strings.HasPrefix(reply, "DB index is out of range") || strings.HasPrefix(reply, "invalid password") || strings.HasPrefix(reply, "Client sent AUTH")
}

// forbids reports whether an error reply says that one of these commands is not permitted, or not known.
func forbids(reply string, commands ...string) bool {
	if rest, ok := strings.CutPrefix(reply, "unknown command "); ok {
		name, _, _ := strings.Cut(rest, ",")
		name = strings.Trim(name, "'`")
		return slices.ContainsFunc(commands, func(command string) bool { return strings.EqualFold(name, command) })
	}
	return replyKind(reply) == "NOPERM" && slices.ContainsFunc(commands, func(command string) bool {
		return strings.Contains(reply, "'"+command+"'") || strings.Contains(reply, "'"+command+"|")
	})
}

// replyKind is the first word of an error reply as rueidis gives it, which leaves out "ERR". Redis 6 wraps what a command in a script said:
// "ERR Error running script …: -READONLY …".
func replyKind(reply string) string {
	if strings.HasPrefix(reply, "Error running script") {
		if _, inner, ok := strings.Cut(reply, ": -"); ok {
			reply = inner
		}
	}
	kind, _, _ := strings.Cut(reply, " ")
	return kind
}

// explained adds to a reply what it means, where it does not say so itself.
func explained(err error) error {
	if reply, ok := replyOf(err); ok && !errors.Is(err, errNoScripts) && forbids(reply.Error(), "evalsha", "eval") {
		return fmt.Errorf("%w: %w", errNoScripts, reason.Of(err))
	}
	return err
}

// neverSent says that an error proves that the server has not seen the question.
func neverSent(err error) bool {
	return errors.Is(err, errNotAsked) || errors.Is(err, errGateFull) || isDial(err)
}

func isDial(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

func (l *link) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-l.closing.Done():
		return false
	}
}

// jitter spreads d by a fifth either way, so that processes that started together do not stay together.
func jitter(d time.Duration) time.Duration {
	return d - d/5 + rand.N(2*d/5+1)
}
