package link

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside/internal/reason"
)

// How a link gets its connections. rueidis keeps them; one goroutine connects in the background
// until it succeeds (connect), so that nobody else waits for a dial. When they may be used, the
// prober (probe.go) and the mode of a shard (mode.go) say.

const (
	maxBackoff = time.Second // between attempts to connect for the first time

	defaultDialTimeout = 250 * time.Millisecond
	defaultTLSTimeout  = time.Second // a handshake takes several round trips, and some time to reckon
	defaultKeepAlive   = 500 * time.Millisecond
	probedKeepAlive    = 5 * time.Second  // where a prober asks: rueidis sends PINGs of its own after a silence as long
	defaultWriteLimit  = 30 * time.Second // see watchedConn

	// What rueidis allocates for each connection. Its own defaults are 512 KiB twice, and a ring of
	// 1,024 commands that takes 346 KiB; what does not fit into a buffer is read and written
	// without it.
	defaultReadBuffer  = 32 << 10 // values come this way
	defaultWriteBuffer = 16 << 10
	defaultRingScale   = 8
)

// Connect runs until the first connection stands, then keeps the topology of a cluster up to date.
// It ends with Close.
func (l *Link) Connect(first chan error) {
	tracked := !l.opt.Redis.DisableCache
	var away outageLog
	var hint struct {
		text string
		at   int64 // in Link.Now's time; 0: there is none
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
		if hint.at == 0 || l.Now()-hint.at >= int64(hintEvery) {
			hint.text, hint.at = l.hint(err), l.Now()
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
		if !l.Sleep(Jitter(backoff)) {
			return
		}
	}
}

// redisOption completes the user's option; see the table in docs/ARCHITECTURE.md for the reasons.
func (l *Link) redisOption(s *session) rueidis.ClientOption {
	o := l.baseOption()
	o.Dialer.KeepAlive = cmp.Or(l.opt.Redis.Dialer.KeepAlive, probedKeepAlive)
	o.RingScaleEachConn = cmp.Or(o.RingScaleEachConn, defaultRingScale)
	o.ReadBufferEachConn = cmp.Or(o.ReadBufferEachConn, defaultReadBuffer)
	o.WriteBufferEachConn = cmp.Or(o.WriteBufferEachConn, defaultWriteBuffer)
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
func (l *Link) baseOption() rueidis.ClientOption {
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

// NewClient is rueidis.NewClient for a server that may be away. For each cluster client that cannot
// connect rueidis leaves a goroutine behind for a second, so nothing is built until somebody
// listens. The connections on which that was seen are those that rueidis gets first: behind a
// balancer over two servers every second dial would lead to the same one.
func NewClient(o rueidis.ClientOption) (rueidis.Client, error) {
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
func (l *Link) build(tracked bool) (*session, error) {
	s := &session{tracked: tracked, roads: &l.roads}
	redis, err := l.callBuilder(l.redisOption(s), func(late rueidis.Client) { s.close(late) })
	s.redis = redis
	return s, err
}

// callBuilder is build for any option. late gets what is returned after Close.
func (l *Link) callBuilder(option rueidis.ClientOption, late func(rueidis.Client)) (redis rueidis.Client, err error) {
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

// ErrNeverReached is the error of whatever needs Redis before it has been reached for the first
// time.
var ErrNeverReached = errors.New("aside: Redis has not been reached yet")

// notReached says why there is no connection yet.
func (l *Link) notReached() error {
	if why := l.unreached.Load(); why != nil {
		return fmt.Errorf("%w: %w", ErrNeverReached, reason.Of(*why))
	}
	return ErrNeverReached
}

// Sleep waits for d, and reports whether it did; false: the client closes.
func (l *Link) Sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-l.closing.Done():
		return false
	}
}

// Jitter spreads d by a fifth either way, so that processes that started together do not stay
// together.
func Jitter(d time.Duration) time.Duration {
	return d - d/5 + rand.N(2*d/5+1)
}
