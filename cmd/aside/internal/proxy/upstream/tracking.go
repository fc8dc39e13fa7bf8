package upstream

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Tracking is CLIENT TRACKING of one client before a Redis Cluster. A Login with it has at each node a connection
// that tracks, on which the client's commands travel, so that the node tells it when a key changes that was read:
//
//	client → Login → tracking connection → node: GET k
//	client ← Push  ← tracking connection ← node: >invalidate k
//
// Transactions and blocking commands have connections that redirect what the node has to tell to that one. They
// are kept, as a node tells nothing of what a connection has read that has ended.
//
// Where a node can tell no more, all is to be forgotten, behind the replies that it has given: when a connection
// ends, and when a slot has another primary, which knows nothing of what was read. A move that nobody meets, and a node
// that says nothing any more, are found by asking every so often.
type Tracking struct {
	Options []string         // behind CLIENT TRACKING ON; immutable
	Push    func(raw []byte) // gets what is pushed, and Forget; on many goroutines, until Login.Close has returned, or just after
}

// Forget is what Redis pushes when all is to be forgotten.
const Forget = ">2\r\n$10\r\ninvalidate\r\n_\r\n"

const watchEvery = time.Second // who has which slot, while somebody tracks

// Track is Login for a client that tracks; of the same user as that of from, if that is not nil, else of the proxy's own.
// A ServerError is a node's refusal of the user, or of CLIENT TRACKING.
func (p *Pool) Track(ctx context.Context, from *Login, t *Tracking, n uint16) (*Login, error) {
	l := p.Untracked(from)
	if l == nil {
		l = &Login{pool: p}
	}
	l.tracking, l.tracked = t, make(map[*node]*shared)
	if err := l.first(ctx, 3, n); err != nil {
		l.Close()
		return nil, err
	}
	c := &p.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tracking == nil {
		c.tracking = make(map[*Login]struct{})
		p.running.Go(p.watchSlots) // ends when nobody tracks any more, or with the pool
	}
	c.tracking[l] = struct{}{}
	return l, nil
}

// Untracked is a Login of the same user that does not track; nil if that is the proxy's own.
func (p *Pool) Untracked(from *Login) *Login {
	if !from.Named() {
		return nil
	}
	return &Login{pool: p, user: from.user, password: from.password}
}

// Named reports whether it is of a user of the server's, and not of the proxy's own. nil is not.
func (l *Login) Named() bool { return l != nil && l.user != "" }

// Tracks reports whether it has Tracking. nil has not.
func (l *Login) Tracks() bool { return l != nil && l.tracking != nil }

// watchSlots asks who has which slot, and who is away, as long as somebody tracks.
func (p *Pool) watchSlots() {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-p.ctx.Done():
			return
		}
		c := &p.cluster
		c.mu.Lock()
		if len(c.tracking) == 0 {
			c.tracking = nil
			c.mu.Unlock()
			return
		}
		all := slices.Collect(maps.Keys(c.tracking))
		c.mu.Unlock()
		for _, l := range all {
			l.leaveAway()
		}
		_, _ = p.refresh(p.ctx)
	}
}

// trackersOfLocked are those who must forget all as s replaces old: a slot has another primary.
func (c *cluster) trackersOfLocked(old, s *slots) (all []*Login) {
	if old == nil || old.primary == s.primary {
		return nil
	}
	for l := range c.tracking {
		all = append(all, l)
	}
	return all
}

// leaveAway ends the connections to nodes that are away: they tell nothing any more.
func (l *Login) leaveAway() {
	up := l.pool.options.Up
	if up == nil {
		return
	}
	var away []*shared
	l.mu.Lock()
	for n, s := range l.tracked {
		if !up(n.address) {
			away = append(away, s)
		}
	}
	l.mu.Unlock()
	for _, s := range away {
		s.end(errGivenUp)
	}
}

// forget has the client forget all.
func (l *Login) forget() { l.push([]byte(Forget)) }

func (l *Login) push(raw []byte) {
	l.mu.Lock()
	over := l.over
	l.mu.Unlock()
	if !over {
		l.tracking.Push(raw)
	}
}

// trackedAt is the connection to a node that tracks.
func (l *Login) trackedAt(ctx context.Context, n *node) (*shared, error) {
	l.mu.Lock()
	if s := l.tracked[n]; s != nil && !s.over() {
		l.mu.Unlock()
		return s, nil
	}
	l.mu.Unlock()
	o, err := l.dial(ctx, n, 3)
	if err != nil {
		return nil, err
	}
	if err := o.track(l.tracking.Options); err != nil {
		o.Close()
		return nil, err
	}
	s := &shared{conn: o.dialed, writeTimeout: l.pool.options.WriteTimeout, push: l.push}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		o.Close()
		return nil, fmt.Errorf("%w: %w", ErrNotSent, errClosed)
	}
	l.tracked[n] = s
	l.pool.running.Go(func() { // ends with the connection, which Close ends
		s.run()
		o.Close()
		l.forget()
	})
	return s, nil
}

// track has what is read on the connection tracked.
func (o *Own) track(options []string) error {
	if err := o.SetDeadline(time.Now().Add(o.pool.options.DialTimeout)); err != nil {
		return fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	reply, err := o.ask(append([]string{"CLIENT", "TRACKING", "ON"}, options...)...)
	if err == nil {
		err = o.SetDeadline(time.Time{})
	}
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrNotSent, err)
	case reply[0] != '+':
		return Refused(reply)
	}
	return nil
}

// redirect has what is read on the connection told on that which tracks at its node.
func (l *Login) redirect(ctx context.Context, o *Own) error {
	to, err := l.trackedAt(ctx, o.node)
	if err != nil {
		return err
	}
	o.told = to
	return o.track(append(slices.Clip(l.tracking.Options), "REDIRECT", fmt.Sprint(to.conn.id)))
}

// doTracked is doAt for what is tracked.
func (l *Login) doTracked(ctx context.Context, part *part, alive func() bool) error {
	b := &part.batch
	if b.done == nil {
		b.done = make(chan error, 1)
	}
	for range 2 { // a connection may just have ended
		s, err := l.trackedAt(ctx, part.node)
		if err != nil {
			return err
		}
		if b.alive = alive; s.send(b) {
			return <-b.done
		}
	}
	return fmt.Errorf("%w: its connections end at once", ErrNotSent)
}

// endTracking ends the connections that track. It is called once over is set.
func (l *Login) endTracking() {
	if l.tracking == nil {
		return
	}
	c := &l.pool.cluster
	c.mu.Lock()
	delete(c.tracking, l)
	c.mu.Unlock()
	l.mu.Lock()
	tracked := l.tracked
	l.tracked = nil
	l.mu.Unlock()
	for _, s := range tracked {
		s.end(errClosed)
	}
}
