package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside/internal/slot"
)

const (
	defaultReconcile = 5 * time.Second        // between looks at the topology of Sentinel and Cluster, beside their own events
	reconcileDown    = 250 * time.Millisecond // and at a cluster's while a shard is degraded
	maxRetrack       = time.Minute            // between attempts to be tracked, where that is refused; from a second on
)

// topology says which shard has which key. Immutable.
type topology struct {
	session *session
	redis   rueidis.Client // session's
	shards  []*Shard
	bySlot  *[slot.Count]*Shard // nil where there is one shard only; an entry is nil for a slot whose primary is not known
	holes   bool                // there are such slots
	last    map[int]*Shard      // that had such slots last, by slot
	since   time.Time
}

func (t *topology) shardOf(key string) *Shard {
	if t.bySlot == nil {
		return t.shards[0]
	}
	return t.bySlot[slot.Of(key)]
}

// Shard returns the shard that has key, or nil if Redis is not known yet.
func (l *Link) Shard(key string) *Shard {
	if t := l.topo.Load(); t != nil {
		return t.shardOf(key)
	}
	return nil
}

// Shards returns all shards; none while Redis has not been reached.
func (l *Link) Shards() []*Shard {
	if t := l.topo.Load(); t != nil {
		return t.shards
	}
	return nil
}

// Home is Shard for callers that must have one: where none is known it is one that nobody can ask.
func (l *Link) Home(key string) *Shard {
	if sh := l.Shard(key); sh != nil {
		return sh
	}
	return l.noShard
}

// Connected reports whether every shard answers.
func (l *Link) Connected() bool {
	t := l.topo.Load()
	if t == nil || t.holes {
		return false
	}
	for _, sh := range t.shards {
		if !sh.Asks() {
			return false
		}
	}
	return true
}

// topologyMoved asks for a look at the cluster's topology. It never blocks.
func (l *Link) topologyMoved() {
	select {
	case l.moved <- struct{}{}:
	default:
	}
}

// follow keeps the shards in step with a cluster's topology: every few seconds, and when an answer
// says that a slot has moved. Where tracking was refused it asks for it again now and then.
func (l *Link) follow(s *session) {
	cluster, retrack := s.redis.Mode() == rueidis.ClientModeCluster, !s.tracked && !l.opt.Redis.DisableCache
	wait := time.Second
	for again := l.Now() + int64(wait); cluster || retrack; {
		pause := defaultReconcile
		switch {
		case cluster && !l.Connected():
			pause = reconcileDown
		case retrack:
			pause = min(pause, wait)
		}
		timer := time.NewTimer(Jitter(pause))
		select {
		case <-timer.C:
		case <-l.moved:
			timer.Stop()
		case <-l.closing.Done():
			timer.Stop()
			return
		}
		if retrack && l.Now() >= again {
			wait = min(2*wait, maxRetrack)
			again = l.Now() + int64(wait)
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
		if !l.Sleep(20 * time.Millisecond) { // a burst of redirections is one refresh
			return
		}
	}
}

// retracked goes over to a client with tracking, if that is permitted by now.
func (l *Link) retracked() (s *session, ok bool) {
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
		l.Sleep(2 * l.opt.RedisTimeout) // for the commands that are out
		old.session.close(old.redis)
	})
	return s, true
}

// refresh reads the topology and starts and stops probers accordingly. A shard whose slots have
// changed begins a new epoch, so that nothing is served that another node may have changed.
func (l *Link) refresh(s *session) error {
	redis, old := s.redis, l.topo.Load()
	next := &topology{session: s, redis: redis, since: time.Now()}
	if redis.Mode() != rueidis.ClientModeCluster {
		sh := l.newShard("", redis, s.tracked)
		sh.session, next.shards = s, []*Shard{sh}
	} else {
		var err error
		if next, err = l.readCluster(s, old); err != nil {
			return err
		}
	}
	started, gone, lost, filled := next.changes(old)
	// A first look before anyone may use them: New returns with a client that works, or knows that
	// it does not. All at once, so that a hung node does not make the others wait.
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
	l.noShard.state.mu.Lock()
	switch {
	case !next.holes:
		l.noShard.changeModeLocked(Healthy, 0)
	case old == nil || !old.holes:
		l.noShard.changeModeLocked(Degraded, 0)
	}
	l.noShard.state.mu.Unlock()
	next.noteLast(old)
	l.topo.Store(next)
	// Not before: callers that still use the old topology store under the old home. After it
	// nothing is stored there, see near.Options.Home.
	nodes := redis.Nodes()
	for _, sh := range gone {
		sh.retire()
		if sh.session == s && (nodes[sh.Addr] == nil || sh.dead.Load()) { // nobody else will close it
			s.close(sh.client)
		}
	}
	for _, sh := range lost {
		sh.invalidateAll()
	}
	if filled {
		l.noShard.Valid.InvalidateAll()
	}
	for _, sh := range started {
		l.up.InBackground(func() { l.prober(sh) }) // ends with sh.stop or Close
		l.up.Started(sh)
	}
	l.rehomed(old, next, started)
	for _, sh := range next.shards { // which may have got keys with records of another
		sh.ReplayNow()
	}
	if old == nil {
		for _, sh := range started {
			if sh.Asks() {
				return nil
			}
		}
		l.opt.Logger.Warn("aside: Redis accepts connections but cannot be used", "addresses", l.opt.Redis.InitAddress, "error", l.Health().Err)
	}
	return nil
}

// changes says which shards old, which may be nil, does not have, which ones it alone has, and
// which others have lost a slot since. filled: a slot has a home that had none.
func (t *topology) changes(old *topology) (started, gone, lost []*Shard, filled bool) {
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

// readCluster asks CLUSTER SLOTS (CLUSTER SHARDS is wrong after a failover on Redis 7) and pairs it
// with rueidis's nodes.
func (l *Link) readCluster(s *session, old *topology) (*topology, error) {
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
	byAddr := make(map[string]*Shard)
	if old != nil && old.session == s {
		for _, sh := range old.shards {
			byAddr[sh.Addr] = sh
		}
	}
	t := &topology{session: s, redis: s.redis, bySlot: new([slot.Count]*Shard), since: time.Now()}
	ranges := make(map[*Shard][]slotRange)
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
