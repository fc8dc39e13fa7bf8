package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"

	"github.com/redis/rueidis"
)

// link is a rueidis client and what is known of its connections. Safe for concurrent use.
type session struct {
	tracked bool           // our tracking was asked for; immutable
	roads   *roads         // what passes is counted there; immutable
	redis   rueidis.Client // immutable once ClientBuilder has returned it

	mu    sync.Mutex                // guards all below; never held while calling out
	used  bool                      // something was dialed through our option
	conns map[string][]*watchedConn // by address: what was dialed and not closed since, as of the latest dial
}

// ours reports whether redis dialed through the option that its builder was given. Any other client
// belongs to somebody else.
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

// open returns how many connections there are to addr, "" for any address but those of sentinels:
// to that with the most.
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

// hangUp closes the connections to addr, "" for all but those to sentinels. rueidis dials again
// when it is asked next.
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

// dialer wraps the user's way to dial. Close ends a dial, we know our connections, and each new one
// begins an epoch. rueidis reports a lost connection too, but it may use the next one before it
// does:
//
//	old connection fails   caller dials anew   prober: PONG on the new one
//	                                           <- would vouch for what was read on the old
func (l *Link) dialer(o rueidis.ClientOption, s *session) func(context.Context, string, *net.Dialer, *tls.Config) (net.Conn, error) {
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
func (l *Link) plainDialer(o rueidis.ClientOption) func(context.Context, string, *net.Dialer, *tls.Config) (net.Conn, error) {
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

// dialed begins a new epoch for the shard at addr. With one shard the address says nothing:
// Sentinel may have moved it.
func (l *Link) dialed(s *session, addr string) {
	t := l.topo.Load()
	if t == nil || t.session != s {
		return
	}
	for _, sh := range t.shards {
		if t.bySlot == nil || sh.Addr == addr {
			sh.newEpoch()
		}
	}
}
