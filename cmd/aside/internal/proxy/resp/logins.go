package resp

import (
	"net"
	"sync"
	"time"
)

// logins keeps account of refused ones: each is answered late, few are answered on one connection,
// and a client is named in the log once a minute. A right password is never delayed: a service that
// has an old one must not lock out its neighbours. Safe for concurrent use.
type logins struct {
	mu      sync.Mutex
	clients map[string]*refusedLogins // by address; at most mostClients; guarded by mu
}

// refusedLogins are those of one client. Guarded by logins.mu.
type refusedLogins struct {
	logged time.Time
	since  int // refused since then, not logged yet
}

const (
	mostGuesses = 5                      // on one connection, which then ends
	guessDelay  = 100 * time.Millisecond // before the first is answered; twice as long for each further one
	mostClients = 1024
	loginsQuiet = time.Minute // between two lines about one client
)

// refused takes note of a refused login. log: it is time to say so, and so many were refused since
// that was said last.
func (l *logins) refused(client net.Addr, now time.Time) (host string, count int, log bool) {
	host = client.String()
	if alone, _, err := net.SplitHostPort(host); err == nil {
		host = alone
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.clients == nil {
		l.clients = make(map[string]*refusedLogins)
	}
	if l.clients[host] == nil && len(l.clients) >= mostClients {
		for other, r := range l.clients {
			if now.Sub(r.logged) >= loginsQuiet {
				delete(l.clients, other)
			}
		}
		if len(l.clients) >= mostClients {
			host = "others" // too many to be told apart
		}
	}
	r := l.clients[host]
	if r == nil {
		r = new(refusedLogins)
		l.clients[host] = r
	}
	r.since++
	if now.Sub(r.logged) < loginsQuiet {
		return host, r.since, false
	}
	count, r.since, r.logged = r.since, 0, now
	return host, count, true
}

// refuseLogin answers a wrong password, late. A connection that goes on guessing ends.
func (c *conn) refuseLogin() {
	s := c.server
	s.refusedLogins.Add(1)
	if host, count, log := s.logins.refused(c.net.RemoteAddr(), time.Now()); log {
		s.options.Logger.Warn("resp: a login was refused: wrong user or password", "client", host, "count", count)
	}
	delay := guessDelay << c.guesses
	c.guesses++
	c.flushReply()
	c.out.flush() // what was answered before need not wait
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.ctx.Done():
	}
	c.error(wrongPass)
	if c.guesses == mostGuesses {
		c.closing = true
	}
}
