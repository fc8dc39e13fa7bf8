package upstream

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// OwnAs is Own for a connection that has logged in as a user of the server's. It is for its client
// alone: another never gets it. A ServerError is the server's refusal of the login.
func (p *Pool) OwnAs(ctx context.Context, protocol int, user, password string) (*Own, error) {
	as := (&Login{pool: p, user: user, password: password}).options()
	o, err := p.dialOwn(ctx, &as, &p.one, protocol)
	if err == nil {
		o.old = true
	}
	return o, err
}

// Urgent sends a command on a connection that is made for it, as those that exist may be held up, and
// returns its reply; in a cluster to all primaries, as a user of the server's, if that is not nil. It is for
// what a server answers that answers nothing else, as it runs a script: SCRIPT KILL.
func (p *Pool) Urgent(ctx context.Context, as *Login, protocol int, args []string) ([]byte, error) {
	nodes := []*node{&p.one}
	if s := p.cluster.known.Load(); s != nil {
		nodes = s.primaries
	}
	options := p.options
	if as != nil {
		options = as.options()
	}
	options.Redis.SelectDB = 0 // SELECT is not answered either
	var replies [][]byte
	for _, n := range nodes {
		reply, err := p.urgentAt(ctx, &options, n, protocol, args)
		if err != nil {
			return nil, err
		}
		replies = append(replies, reply)
	}
	return oneSucceeded(replies), nil
}

func (p *Pool) urgentAt(ctx context.Context, options *Options, n *node, protocol int, args []string) ([]byte, error) {
	d, err := options.dial(ctx, n.address, protocol, ownBuffer)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	defer d.Close()
	err = d.SetDeadline(time.Now().Add(p.options.WriteTimeout))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	reply, err := d.ask(args...)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLost, err)
	}
	return reply, nil
}

// Unblock ends the waiting of the command for which o is used, as CLIENT UNBLOCK does, and returns
// the server's reply. Another goroutine may use o meanwhile. how is TIMEOUT or ERROR.
func (p *Pool) Unblock(ctx context.Context, o *Own, how string, alive func() bool) ([]byte, error) {
	var b Batch
	b.Add([]string{"CLIENT", "UNBLOCK", strconv.FormatInt(o.id, 10), how})
	err := p.doAt(ctx, o.node, o.protocol, &b, alive)
	return b.Replies, err
}
