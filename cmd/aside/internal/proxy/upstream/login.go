package upstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Login is a user of the server's as whom the commands of one client are passed on to a Redis Cluster. Its
// connections are of that client alone: one to each node that a command of it was for, made by the first.
// A node knows its own users only, so one node may refuse whom another has let in. It belongs to one
// goroutine, but for what a Batch does at several nodes.
type Login struct {
	pool           *Pool  // immutable, as what follows
	user, password string // given again to each node

	mu   sync.Mutex // guards what follows; never held while calling out
	idle []*Own     // one of a node, and those on which something was written
	over bool       // Close was called

	tracking *Tracking         // nil: nothing is tracked; immutable
	tracked  map[*node]*shared // the connections that do; guarded by mu

	lost atomic.Bool // a connection has ended on which something was written, and Wait has not said so
}

const trustedFor = time.Second // a connection that was used just now is not looked at

// Login logs in at a primary, that of a slot if it is there, and keeps the connection. A ServerError is its
// refusal of user or password; other errors are those of Own.
func (p *Pool) Login(ctx context.Context, protocol int, user, password string, n uint16) (*Login, error) {
	l := &Login{pool: p, user: user, password: password}
	if err := l.first(ctx, protocol, n); err != nil {
		return nil, err
	}
	return l, nil
}

// first makes a connection to a primary, that of a slot if it is there.
func (l *Login) first(ctx context.Context, protocol int, n uint16) error {
	s, err := l.pool.slots(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	err = ErrNotSent
	for _, n := range append([]*node{s.of(n)}, s.primaries...) {
		if up := l.pool.options.Up; up != nil && !up(n.address) {
			continue
		}
		if l.tracking != nil {
			_, err = l.trackedAt(ctx, n)
		} else {
			var o *Own
			if o, err = l.take(ctx, n, protocol); err == nil {
				o.Release()
			}
		}
		if !errors.Is(err, ErrNotSent) {
			break
		}
	}
	return err
}

// options are those of the pool, for connections of the user's.
func (l *Login) options() Options {
	as := l.pool.options
	if l.Named() {
		as.Redis.Username, as.Redis.Password, as.Redis.AuthCredentialsFn = l.user, l.password, nil
	}
	return as
}

// Do is Pool.Do as this user, for a batch of AddAt. The error may also be that of Login, or ErrTooMany:
// nothing was done then.
func (l *Login) Do(ctx context.Context, protocol int, b *Batch, alive func() bool) error {
	return l.pool.doInCluster(ctx, l, protocol, b, alive)
}

// doAt is Do of a part.
func (l *Login) doAt(ctx context.Context, part *part, protocol int, alive func() bool) error {
	if l.tracking != nil {
		return l.doTracked(ctx, part, alive)
	}
	o, err := l.take(ctx, part.node, protocol)
	if err != nil {
		return err
	}
	o.wrote = o.wrote || part.writes
	if err := o.Do(&part.batch, alive); err != nil {
		o.Close()
		return err
	}
	o.Release()
	return nil
}

// take returns a connection to a node that nobody else uses until its Release or Close.
func (l *Login) take(ctx context.Context, n *node, protocol int) (*Own, error) {
	l.mu.Lock()
	var o *Own
	if i := slices.IndexFunc(l.idle, func(o *Own) bool { return o.node == n && o.protocol == protocol }); i >= 0 {
		o = l.idle[i]
		l.idle = slices.Delete(l.idle, i, i+1)
	}
	l.mu.Unlock()
	if o != nil {
		if (o.told == nil || !o.told.over()) && (time.Since(o.since) < trustedFor || o.quiet()) {
			return o, nil
		}
		o.Close()
	}
	o, err := l.dial(ctx, n, protocol)
	if err == nil && l.tracking != nil {
		if err = l.redirect(ctx, o); err != nil {
			o.Close()
		}
	}
	if err != nil {
		return nil, err
	}
	return o, nil
}

// dial makes a connection to a node.
func (l *Login) dial(ctx context.Context, n *node, protocol int) (*Own, error) {
	options := l.options()
	o, err := l.pool.dialOwn(ctx, &options, n, protocol)
	var said ServerError
	switch {
	case err == nil:
		o.login = l
		return o, nil
	case errors.As(err, &said) && said.WrongPass():
		return nil, said
	default:
		return nil, err
	}
}

// Wait is WAIT or WAITAOF, on each connection on which something was written: how many replicas have what was
// written on it, only it can ask. The reply is the least of what they are answered. It waits until alive, which
// is asked now and then, by several goroutines at once, reports that nothing is waited for any more. The error
// is ErrLost if that cannot be known, as one of them has ended since; the next call is about what is written
// after it. Otherwise errors are those of Do.
func (l *Login) Wait(ctx context.Context, protocol int, n uint16, args []string, alive func() bool) ([]byte, error) {
	if l.lost.Load() {
		l.lost.Store(false)
		return nil, fmt.Errorf("%w: a connection has ended on which something was written", ErrLost)
	}
	l.mu.Lock()
	asked, idle := []*Own(nil), l.idle
	l.idle = nil
	for _, o := range idle {
		if o.wrote {
			asked = append(asked, o)
		} else {
			l.idle = append(l.idle, o)
		}
	}
	l.mu.Unlock()
	if len(asked) == 0 {
		o, err := l.pool.OwnAt(ctx, l, protocol, n)
		if err != nil {
			return nil, err
		}
		asked = append(asked, o)
	}
	replies, errs := make([][]byte, len(asked)), make([]error, len(asked))
	var failed atomic.Bool
	var all sync.WaitGroup
	for i, o := range asked {
		all.Go(func() { // ends with the reply, or when nothing is waited for
			var b Batch
			b.Add(args)
			if errs[i] = o.Do(&b, func() bool { return !failed.Load() && alive() }); errs[i] != nil {
				failed.Store(true)
				o.Close()
				return
			}
			replies[i] = b.Replies
			o.Release()
		})
	}
	all.Wait()
	if failed.Load() {
		l.lost.Store(false)
		return nil, errors.Join(errs...)
	}
	return joins["agg_min"](replies), nil
}

// keep takes back a connection. Another to the same node, as while a transaction had this one, or of the
// version of the protocol that the client spoke before, is of no more use, unless something was written on it.
func (l *Login) keep(o *Own) {
	l.mu.Lock()
	drop := []*Own{o}
	if !l.over && !o.old && (o.told == nil || !o.told.over()) {
		drop = nil
		l.idle = slices.DeleteFunc(l.idle, func(other *Own) bool {
			same := (other.node == o.node || other.protocol != o.protocol) && !other.wrote && other.told == nil
			if same {
				drop = append(drop, other)
			}
			return same
		})
		l.idle = append(l.idle, o)
	}
	l.mu.Unlock()
	for _, other := range drop {
		other.Close()
	}
}

// Close ends all connections that are not in use; those that are end with their Release.
func (l *Login) Close() {
	l.mu.Lock()
	idle := l.idle
	l.idle, l.over = nil, true
	l.mu.Unlock()
	for _, o := range idle {
		o.Close()
	}
	l.endTracking()
}
