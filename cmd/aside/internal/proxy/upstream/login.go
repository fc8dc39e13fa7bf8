package upstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
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
	idle []*Own     // one of a node at most
	over bool       // Close was called
}

const trustedFor = time.Second // a connection that was used just now is not looked at

// Login logs in at a primary, that of a slot if it is there, and keeps the connection. A ServerError is its
// refusal of user or password; other errors are those of Own.
func (p *Pool) Login(ctx context.Context, protocol int, user, password string, n uint16) (*Login, error) {
	s, err := p.slots(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	l := &Login{pool: p, user: user, password: password}
	err = ErrNotSent
	for _, n := range append([]*node{s.of(n)}, s.primaries...) {
		if up := p.options.Up; up != nil && !up(n.address) {
			continue
		}
		var o *Own
		if o, err = l.take(ctx, n, protocol); err == nil {
			o.Release()
			return l, nil
		}
		if !errors.Is(err, ErrNotSent) {
			break
		}
	}
	return nil, err
}

// options are those of the pool, for connections of the user's.
func (l *Login) options() Options {
	as := l.pool.options
	as.Redis.Username, as.Redis.Password, as.Redis.AuthCredentialsFn = l.user, l.password, nil
	return as
}

// Do is Pool.Do as this user, for a batch of AddAt. The error may also be that of Login, or ErrTooMany:
// nothing was done then.
func (l *Login) Do(ctx context.Context, protocol int, b *Batch, alive func() bool) error {
	return l.pool.doInCluster(ctx, l, protocol, b, alive)
}

// doAt is Do at a node.
func (l *Login) doAt(ctx context.Context, n *node, protocol int, b *Batch, alive func() bool) error {
	o, err := l.take(ctx, n, protocol)
	if err != nil {
		return err
	}
	if err := o.Do(b, alive); err != nil {
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
		if time.Since(o.since) < trustedFor || o.quiet() {
			return o, nil
		}
		o.Close()
	}
	options := l.options()
	o, err := l.pool.dialOwn(ctx, &options, n, protocol)
	var said ServerError
	switch {
	case err == nil:
		o.login = l
		return o, nil
	case errors.As(err, &said) && strings.HasPrefix(string(said), "WRONGPASS "):
		return nil, said
	default:
		return nil, err
	}
}

// keep takes back a connection. Another to the same node, as while a transaction had this one, or of the
// version of the protocol that the client spoke before, is of no more use.
func (l *Login) keep(o *Own) {
	l.mu.Lock()
	drop := []*Own{o}
	if !l.over && !o.old {
		drop = nil
		l.idle = slices.DeleteFunc(l.idle, func(other *Own) bool {
			same := other.node == o.node || other.protocol != o.protocol
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
}
