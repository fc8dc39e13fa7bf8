package aside

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside/internal/slot"
)

// How a Client is connected. rueidis keeps the connections; this file decides when they may be used:
//
//   - One goroutine connects in the background until it succeeds (connect). Nobody else waits for a dial.
//   - Each shard, a primary, has a prober. It asks on the same connection as everybody else, so an answer proves three
//     things: the server lives, every invalidation sent before it has been handled (Redis puts them on the connection
//     first), and what time it is there.
//   - A shard that does not answer is down: callers leave it alone, only its prober goes on asking. So an outage costs
//     a call at most one RedisTimeout, and after that nothing.

const (
	probeEvery     = 250 * time.Millisecond // at most; a quarter of StaleLease where that is less
	probeTimeout   = 200 * time.Millisecond // at most; RedisTimeout where that is less
	probeDownEvery = 50 * time.Millisecond  // while the shard is down: a refused dial is cheap
	timeoutsToDown = 5                      // in a row, callers' and prober's together
	maxInFlight    = 512                    // questions per node: half of rueidis's ring, which blocks whatever the context says when it is full
	reconcileDown  = 250 * time.Millisecond // between looks at a cluster's topology while a shard is down
	maxBackoff     = time.Second            // between attempts to connect for the first time
	lateMargin     = 100 * time.Millisecond // see notAfter
)

// shard is one primary and what this process knows of it. All fields are safe for concurrent use.
type shard struct {
	addr    string         // "" where there is one shard only
	client  rueidis.Client // speaks to this node and no other in a cluster
	tracked bool           // invalidations are pushed
	stop    chan struct{}  // closed when the node has left the cluster

	ownKey atomic.Pointer[string] // in a cluster: a key in one of its slots, see probe
	dead   atomic.Bool            // rueidis has closed it

	up       atomic.Bool   // answers
	epoch    atomic.Uint64 // the connection; entries read on an earlier one are not used
	lease    atomic.Int64  // until when entries may be used, in Client.now's time
	ahead    atomic.Int64  // µs by which the server's clock is ahead of Client.now
	timeouts atomic.Int32  // in a row
	kick     chan struct{} // asks the prober to look at once; buffered, never blocks
	gate     gate          // bounds the questions that are out
	locks    joint         // questions that go together under load
	fills    joint
}

// joins says whether questions of different keys may go together: not in a cluster, where their slots differ.
func (sh *shard) joins() bool { return sh.addr == "" }

func (c *Client) newShard(addr string, client rueidis.Client, tracked bool) *shard {
	sh := &shard{
		addr: addr, client: client, tracked: tracked, stop: make(chan struct{}),
		kick: make(chan struct{}, 1), gate: gate{free: make(chan struct{}, 1)},
	}
	sh.locks.send = func(seats []*seat) { c.sendLocks(sh, seats) }
	sh.fills.send = func(seats []*seat) { c.sendFills(sh, seats) }
	sh.epoch.Store(1)
	return sh
}

func (sh *shard) probeNow() {
	select {
	case sh.kick <- struct{}{}:
	default:
	}
}

// newEpoch gives up what was read so far, until the prober has proved the next connection.
func (sh *shard) newEpoch() {
	sh.epoch.Add(1)
	sh.lease.Store(0)
	sh.probeNow()
}

// gate lets maxInFlight in at a time. Without contention it is one atomic addition.
type gate struct {
	in   atomic.Int64
	free chan struct{} // a token: somebody has left since; buffered
}

func (g *gate) enter(ctx context.Context) error {
	waited := false
	for g.in.Add(1) > maxInFlight {
		g.in.Add(-1)
		waited = true
		select {
		case <-g.free:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if waited && g.in.Load() < maxInFlight {
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
	redis  rueidis.Client
	shards []*shard
	bySlot *[slot.Count]*shard // nil where there is one shard only; an entry is nil for a slot whose primary is not known
	holes  bool                // there are such slots
}

func (t *topology) shardOf(key string) *shard {
	if t.bySlot == nil {
		return t.shards[0]
	}
	return t.bySlot[slot.Of(key)]
}

// shardOf returns the shard that has key, or nil if Redis is not known yet.
func (c *Client) shardOf(key string) *shard {
	if t := c.topo.Load(); t != nil {
		return t.shardOf(key)
	}
	return nil
}

// isUp says whether the shard that has key answers.
func (c *Client) isUp(key string) bool {
	sh := c.shardOf(key)
	return sh != nil && sh.up.Load()
}

// redisOption completes the user's option; see the table in docs/ARCHITECTURE.md for the reasons.
func (c *Client) redisOption() rueidis.ClientOption {
	o := c.opt.Redis
	o.PipelineMultiplex, o.BlockingPipeline = -1, -1
	o.RetryDelay = func(_ int, _ rueidis.Completed, err error) time.Duration {
		if !isDial(err) && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
			return 0
		}
		return -1
	}
	o.Dialer.Timeout = cmp.Or(o.Dialer.Timeout, defaultDialTimeout)
	o.Dialer.KeepAlive = cmp.Or(o.Dialer.KeepAlive, defaultKeepAlive)
	o.ConnWriteTimeout = cmp.Or(o.ConnWriteTimeout, defaultWriteLimit)
	if o.Sentinel.MasterSet != "" {
		o.Sentinel.TopologyRefreshInterval = cmp.Or(o.Sentinel.TopologyRefreshInterval, defaultReconcile)
		o.Sentinel.Dialer.Timeout = cmp.Or(o.Sentinel.Dialer.Timeout, defaultDialTimeout)
		o.Sentinel.Dialer.KeepAlive = cmp.Or(o.Sentinel.Dialer.KeepAlive, defaultKeepAlive)
	}
	o.ClusterOption.ShardsRefreshInterval = cmp.Or(o.ClusterOption.ShardsRefreshInterval, defaultReconcile)
	if !o.DisableCache {
		o.ClientTrackingOptions = []string{"OPTOUT"}
		theirs := o.OnInvalidations
		o.OnInvalidations = func(keys []rueidis.RedisMessage) {
			c.invalidated(keys)
			if theirs != nil {
				defer func() { // in rueidis's reader: a panic would be the end of the process
					if p := recover(); p != nil {
						c.warn(&c.seldomObserver, "Options.Redis.OnInvalidations panicked", "panic", p)
					}
				}()
				theirs(keys)
			}
		}
	}
	o.DialCtxFn = c.dialer(o)
	return o
}

// dialer wraps the user's way to dial. Two things are added: Close ends a dial, and each new connection begins an epoch.
// rueidis reports a lost connection too, but it may use the next one before it does:
//
//	old connection fails   caller dials anew   prober: PONG on the new one  <- would vouch for what was read on the old
func (c *Client) dialer(o rueidis.ClientOption) func(context.Context, string, *net.Dialer, *tls.Config) (net.Conn, error) {
	dial := o.DialCtxFn
	if dial == nil && o.DialFn != nil {
		dial = func(_ context.Context, dst string, d *net.Dialer, t *tls.Config) (net.Conn, error) {
			return o.DialFn(dst, d, t)
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
		defer context.AfterFunc(c.closing, cancel)()
		conn, err := dial(ctx, dst, d, t)
		if err == nil {
			c.dialed(dst)
		}
		return conn, err
	}
}

// dialed begins a new epoch for the shard at addr. With one shard the address says nothing: Sentinel may have moved it.
func (c *Client) dialed(addr string) {
	t := c.topo.Load()
	if t == nil {
		return
	}
	for _, sh := range t.shards {
		if t.bySlot == nil || sh.addr == addr {
			sh.newEpoch()
		}
	}
}

// invalidated is called by rueidis, in order with the replies of the connection. It must not block: rueidis fails the
// calls that are pending on a lost connection only after it returns.
func (c *Client) invalidated(keys []rueidis.RedisMessage) {
	if keys == nil { // a connection is lost (it is not said which), or everything was flushed
		c.counts.flushes.Add(1)
		if t := c.topo.Load(); t != nil {
			for _, sh := range t.shards {
				sh.newEpoch()
			}
		}
		c.near.wakeAll()
		return
	}
	c.counts.invalidations.Add(int64(len(keys)))
	for i := range keys {
		if key, err := keys[i].ToString(); err == nil {
			c.near.drop(key)
		}
	}
}

// connect runs until the first connection stands, then keeps the topology of a cluster up to date. It ends with Close.
func (c *Client) connect(first chan error) {
	defer c.background.Done()
	option := c.redisOption()
	var lastErr string
	for backoff := 10 * time.Millisecond; ; backoff = min(2*backoff, maxBackoff) {
		redis, err := c.build(option)
		if errors.Is(err, rueidis.ErrNoCache) && !option.DisableCache {
			c.opt.Logger.Warn("aside: the server pushes no invalidations: no local memory, waiters poll", "error", err)
			option.DisableCache, option.ClientTrackingOptions, option.OnInvalidations = true, nil, nil
			continue
		}
		if err == nil {
			if err = c.refresh(redis, !option.DisableCache); err == nil {
				select {
				case old := <-first:
					_ = old // New has not read the last error, and need not
				default:
				}
				first <- nil
				c.follow(redis, !option.DisableCache)
				return
			}
			redis.Close()
		}
		select {
		case first <- err:
		default:
		}
		if msg := err.Error(); msg != lastErr && c.closing.Err() == nil {
			c.opt.Logger.Warn("aside: cannot reach Redis, going on without it and trying again", "error", err)
			lastErr = msg
		}
		if !c.sleep(jitter(backoff)) {
			return
		}
	}
}

// newRueidis is rueidis.NewClient for a server that may be away. For each cluster client that cannot connect rueidis leaves
// a goroutine behind for a second, so nothing is built until somebody listens.
func newRueidis(o rueidis.ClientOption) (rueidis.Client, error) {
	ctx, cancel := context.WithTimeout(context.Background(), o.Dialer.Timeout)
	defer cancel()
	results := make(chan error, len(o.InitAddress))
	dialer, secure := &o.Dialer, o.TLSConfig
	if o.Sentinel.MasterSet != "" { // the addresses are those of sentinels
		dialer, secure = &o.Sentinel.Dialer, o.Sentinel.TLSConfig
	}
	for _, addr := range o.InitAddress {
		go func() { // ends with its dial
			conn, err := o.DialCtxFn(ctx, addr, dialer, secure)
			if err == nil {
				_ = conn.Close()
			}
			results <- err
		}()
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

// build calls the user's ClientBuilder, which may neither panic through us nor keep Close waiting.
func (c *Client) build(option rueidis.ClientOption) (redis rueidis.Client, err error) {
	type built struct {
		redis rueidis.Client
		err   error
	}
	done := make(chan built, 1)
	go func() { // ends when ClientBuilder returns: rueidis's does within its dial timeouts, which Close cancels
		var b built
		defer func() {
			if p := recover(); p != nil {
				b = built{err: fmt.Errorf("aside: Options.ClientBuilder panicked: %v", p)}
			}
			done <- b
		}()
		b.redis, b.err = c.opt.ClientBuilder(option)
		if b.err == nil && b.redis == nil {
			b.err = errors.New("aside: Options.ClientBuilder returned neither a client nor an error")
		}
	}()
	select {
	case b := <-done:
		return b.redis, b.err
	case <-c.closing.Done():
		go func() { // ends as above
			if b := <-done; b.redis != nil {
				b.redis.Close()
			}
		}()
		return nil, ErrClosed
	}
}

// follow keeps the shards in step with a cluster's topology: every few seconds, and when an answer says that a slot has moved.
func (c *Client) follow(redis rueidis.Client, tracked bool) {
	if redis.Mode() != rueidis.ClientModeCluster {
		return
	}
	for {
		pause := defaultReconcile
		if !c.connected() {
			pause = reconcileDown
		}
		timer := time.NewTimer(jitter(pause))
		select {
		case <-timer.C:
		case <-c.moved:
			timer.Stop()
		case <-c.closing.Done():
			timer.Stop()
			return
		}
		if err := c.refresh(redis, tracked); err != nil && c.closing.Err() == nil {
			c.warn(&c.seldomRedis, "cannot read the cluster's topology", "error", err)
		}
		if !c.sleep(20 * time.Millisecond) { // a burst of redirections is one refresh
			return
		}
	}
}

// refresh reads the topology and starts and stops probers accordingly. A shard whose slots have changed begins a new
// epoch, so that nothing is served that another node may have changed.
func (c *Client) refresh(redis rueidis.Client, tracked bool) error {
	old := c.topo.Load()
	next := &topology{redis: redis}
	if redis.Mode() != rueidis.ClientModeCluster {
		next.shards = []*shard{c.newShard("", redis, tracked)}
	} else {
		var err error
		if next, err = c.readCluster(redis, old, tracked); err != nil {
			return err
		}
	}
	started := next.shards
	if old != nil {
		started = nil
		known := make(map[*shard]bool, len(old.shards))
		for _, sh := range old.shards {
			known[sh] = true
		}
		for _, sh := range next.shards {
			if !known[sh] {
				started = append(started, sh)
			}
			delete(known, sh)
		}
		nodes := redis.Nodes()
		for sh := range known { // left over: gone
			sh.up.Store(false)
			sh.newEpoch()
			close(sh.stop)
			if nodes[sh.addr] == nil || sh.dead.Load() { // nobody else will close it
				sh.client.Close()
			}
		}
		for i := range next.bySlot {
			if before := old.bySlot[i]; before != nil && before != next.bySlot[i] {
				before.newEpoch()
			}
		}
	}
	// A first look before anyone may use them: New returns with a client that works, or knows that it does not. All at
	// once, so that a hung node does not make the others wait.
	var look sync.WaitGroup
	for _, sh := range started {
		look.Go(func() { c.probe(sh) })
	}
	look.Wait()
	c.topoMu.Lock()
	defer c.topoMu.Unlock()
	if c.closing.Err() != nil {
		return ErrClosed
	}
	c.topo.Store(next)
	for _, sh := range started {
		c.background.Add(1)
		go c.prober(sh) // ends with sh.stop or Close
	}
	if old == nil {
		for _, sh := range started {
			if sh.up.Load() {
				return nil
			}
		}
		c.opt.Logger.Warn("aside: Redis accepts connections but does not answer", "addresses", c.opt.Redis.InitAddress)
	}
	return nil
}

// readCluster asks CLUSTER SLOTS (CLUSTER SHARDS is wrong after a failover on Redis 7) and pairs it with rueidis's nodes.
func (c *Client) readCluster(redis rueidis.Client, old *topology, tracked bool) (*topology, error) {
	nodes := redis.Nodes()
	var answer []rueidis.RedisMessage
	var asked string
	err := errors.New("no node is known")
	for addr, node := range nodes { // in map order, which is random: the first that answers
		asked = addr
		ctx, cancel := context.WithTimeout(c.closing, c.opt.RedisTimeout)
		answer, err = node.Do(ctx, node.B().ClusterSlots().Build()).ToArray()
		cancel()
		if err == nil || c.closing.Err() != nil {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("aside: CLUSTER SLOTS: %w", err)
	}
	byAddr := make(map[string]*shard)
	if old != nil {
		for _, sh := range old.shards {
			byAddr[sh.addr] = sh
		}
	}
	t := &topology{redis: redis, bySlot: new([slot.Count]*shard)}
	used := make(map[*shard]bool)
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
			sh = c.newShard(addr, node, tracked)
			byAddr[addr] = sh
		}
		if !used[sh] {
			used[sh] = true
			t.shards = append(t.shards, sh)
			key := slot.KeyIn(uint16(from))
			sh.ownKey.Store(&key)
		}
		for i := from; i <= to; i++ {
			t.bySlot[i] = sh
		}
	}
	if len(t.shards) == 0 {
		return nil, errors.New("aside: CLUSTER SLOTS names no primary")
	}
	for _, sh := range t.bySlot {
		t.holes = t.holes || sh == nil
	}
	return t, nil
}

// topologyMoved asks for a look at the cluster's topology. It never blocks.
func (c *Client) topologyMoved() {
	select {
	case c.moved <- struct{}{}:
	default:
	}
}

// connected says whether every shard answers.
func (c *Client) connected() bool {
	t := c.topo.Load()
	if t == nil || t.holes {
		return false
	}
	for _, sh := range t.shards {
		if !sh.up.Load() {
			return false
		}
	}
	return true
}

func (c *Client) prober(sh *shard) {
	defer c.background.Done()
	every := min(probeEvery, c.opt.StaleLease/4)
	for {
		pause := jitter(every)
		if !sh.up.Load() {
			pause = jitter(probeDownEvery)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-sh.kick:
			timer.Stop()
		case <-sh.stop:
			timer.Stop()
			return
		case <-c.closing.Done():
			timer.Stop()
			return
		}
		c.probe(sh)
	}
}

// probe asks once. PING, because it is refused while the server loads its data; TIME for the clock. In a cluster also for a
// key of its own: a primary that the others have given up, or that has given up its slots, answers PING all the same, but
// what it has heard of is not what has happened.
func (c *Client) probe(sh *shard) {
	ctx, cancel := context.WithTimeout(c.closing, min(probeTimeout, c.opt.RedisTimeout))
	defer cancel()
	epoch, sent := sh.epoch.Load(), c.now()
	questions := append(make([]rueidis.Completed, 0, 3), sh.client.B().Ping().Build(), sh.client.B().Time().Build())
	if key := sh.ownKey.Load(); key != nil {
		questions = append(questions, sh.client.B().Exists().Key(*key).Build())
	}
	answers := sh.client.DoMulti(ctx, questions...)
	err := answers[0].Error()
	var clock []int64
	if err == nil {
		clock, err = answers[1].AsIntSlice()
	}
	if err == nil && len(clock) != 2 {
		err = fmt.Errorf("aside: TIME answered %d elements", len(clock))
	}
	if c.closing.Err() != nil {
		return
	}
	if err != nil {
		c.failed(sh, err, errors.Is(err, context.DeadlineExceeded))
		return
	}
	// The server read its clock between sent and now; the middle is wrong by half a round trip at most.
	sh.ahead.Store(clock[0]*1e6 + clock[1] - (sent+c.now())/2/int64(time.Microsecond))
	serves := len(answers) == 2 || answers[2].Error() == nil
	if !serves {
		c.topologyMoved()
	}
	if serves && epoch == sh.epoch.Load() { // else the answer came on another connection than the entries
		sh.lease.Store(sent + int64(c.opt.StaleLease))
	}
	sh.timeouts.Store(0)
	if !sh.up.Swap(true) {
		c.opt.Logger.Info("aside: Redis answers", "shard", sh.addr)
		c.observe(Event{Kind: EventRedisBack, Key: sh.addr})
	}
}

// failed notes that a question to sh was not answered and decides whether the shard is down.
func (c *Client) failed(sh *shard, err error, timeout bool) {
	if errors.Is(err, rueidis.ErrClosing) && c.closing.Err() == nil {
		sh.dead.Store(true)
		c.topologyMoved()
	}
	if timeout {
		lapsed := c.now() >= sh.lease.Load() && sh.tracked
		if sh.timeouts.Add(1) < timeoutsToDown && !lapsed {
			sh.probeNow()
			return
		}
	}
	if sh.up.Swap(false) {
		c.opt.Logger.Warn("aside: Redis is away, going on without it", "shard", sh.addr, "error", err)
		c.observe(Event{Kind: EventRedisAway, Key: sh.addr, Err: err})
		sh.probeNow()
		c.topologyMoved() // a replica may have taken over
		c.near.wakeAll()  // nobody need wait for a push or a lock's end
	}
}

// serverTime estimates the clock of sh's server, in µs since 1970.
func (c *Client) serverTime(sh *shard) int64 {
	return c.now()/int64(time.Microsecond) + sh.ahead.Load()
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
	if reply, ok := rueidis.IsRedisErr(err); ok {
		_, isMoved := reply.IsMoved()
		_, isAsk := reply.IsAsk()
		switch {
		case isMoved || isAsk:
			return moved
		case strings.HasPrefix(reply.Error(), "LOADING"), strings.HasPrefix(reply.Error(), "MASTERDOWN"):
			// These two refuse PING as well, so that the prober sees the end of it. READONLY and CLUSTERDOWN concern
			// some commands and keys only: an answer.
			return away
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

// neverSent says that an error proves that the server has not seen the question.
func neverSent(err error) bool {
	return errors.Is(err, errNotAsked) || errors.Is(err, errGateFull) || isDial(err)
}

func isDial(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

func (c *Client) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.closing.Done():
		return false
	}
}

// jitter spreads d by a fifth either way, so that processes that started together do not stay together.
func jitter(d time.Duration) time.Duration {
	return d - d/5 + rand.N(2*d/5+1)
}
