package aside

import (
	"context"
	"slices"
	"sync"

	"github.com/redaside/aside/internal/script"
)

// joint sends the questions of many callers together. While few are out each goes by itself, at once. When maxAlone are
// out, those who come wait for the first answer, and then go as one script call: under load that costs the server, the
// connection and us a fraction of what as many calls would. (What group commit does for a log.) There is one for locks and
// one for fills per shard; not in a cluster, where a call must keep to one slot.
type batcher struct {
	send func([]*request) // answers each seat; returns when it has

	mu   sync.Mutex
	out  int        // questions under way; guarded by mu
	next []*request // who waits to be sent; guarded by mu
}

const (
	maxAlone    = 4  // questions out before the next ones are joined
	maxRequests = 12 // questions in one: the cost of tracking grows with their square up to Redis 7.0
)

// seat is a caller's place in a joint question.
type request struct {
	key string

	// Of a fill: nobody waits, the sender tells the load.
	args []string
	load *load

	// Of a lock: done is closed by the sender, after which the rest may be read.
	done chan struct{}
	call *call // the one that the answer came with
	at   int   // where its key stands in it

	mu       sync.Mutex
	left     bool // the caller waits no more; guarded by mu
	answered bool // guarded by mu
}

// enter reports true if the caller may ask by itself, and must call leave after. Else s waits to be sent.
func (j *batcher) enter(s *request) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.out < maxAlone {
		j.out++
		return true
	}
	j.next = append(j.next, s)
	return false
}

// leave lets those go who have come meanwhile. It does not wait for them.
func (j *batcher) leave(c *Client) {
	seats := j.take()
	if seats == nil {
		return
	}
	sent := c.inBackground(func() { // ends when nobody is left to be sent, or Close has failed the questions
		for ; seats != nil; seats = j.take() {
			j.send(seats)
		}
	})
	for ; !sent && seats != nil; seats = j.take() { // closing
		if seats[0].load != nil && c.now() < c.closedAt.Load()+int64(fillGrace) {
			j.send(seats) // else others would wait for what we have locked
			continue
		}
		for _, s := range seats {
			s.answer(&call{err: ErrClosed}, 0)
		}
	}
}

// take returns who is to be sent next, a key only once. If there is nobody it gives back the place of the one who asks.
func (j *batcher) take() (seats []*request) {
	j.mu.Lock()
	defer j.mu.Unlock()
	bytes := 0
	j.next = slices.DeleteFunc(j.next, func(s *request) bool {
		if s.hasLeft() {
			return true
		}
		for _, arg := range s.args {
			bytes += len(arg)
		}
		if bytes > maxBatchBytes && len(seats) > 0 {
			return false
		}
		if len(seats) == maxRequests || slices.ContainsFunc(seats, func(other *request) bool { return other.key == s.key }) {
			return false
		}
		seats = append(seats, s)
		return true
	})
	if seats == nil {
		j.out--
	}
	return seats
}

// wait returns true when s is answered, false when the caller leaves first: then nobody reads the answer.
func (s *request) wait(ctx, closing context.Context) bool {
	select {
	case <-s.done:
		return true
	case <-ctx.Done():
	case <-closing.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = !s.answered
	return s.answered
}

func (s *request) hasLeft() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.left
}

// answer hands q to the caller of s; false: it has left.
func (s *request) answer(q *call, at int) bool {
	if l := s.load; l != nil {
		accepted := q.err == nil && q.ours[at] == 1
		if l.c.opt.Observer == nil {
			l.filledOne(q.moved, accepted, q.err)
		} else { // which may take its time, and ask for keys that wait for this sender
			l.c.work(func() { l.filledOne(q.moved, accepted, q.err) })
		}
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left {
		return false
	}
	s.call, s.at, s.answered = q, at, true
	close(s.done)
	return true
}

// sendLocks asks read-or-lock for the keys of seats.
func (c *Client) sendLocks(sh *shard, seats []*request) {
	marker := c.newMarker(sh)
	q := &call{script: script.ReadOrLockMany, keys: make([]string, len(seats)), args: []string{marker, c.lockTTL, mostAnswered}}
	for i, s := range seats {
		q.keys[i] = s.key
	}
	c.run(context.Background(), sh, q)
	q.found, q.err = q.findings(marker)
	if q.err != nil && c.unanswered(q.err) {
		c.disown(sh, q.keys, marker)
	}
	for i, s := range seats {
		if !s.answer(q, i) && q.err == nil && q.found[i].mine {
			c.disown(sh, []string{s.key}, marker) // it has left; the lock was taken for nothing
		}
	}
}

// sendFills fills the keys of seats.
func (c *Client) sendFills(sh *shard, seats []*request) {
	q := &call{script: script.FillMany, keys: make([]string, len(seats)), args: make([]string, 0, 3*len(seats))}
	for i, s := range seats {
		q.keys[i] = s.key
		q.args = append(q.args, s.args...)
	}
	c.inTurn(context.Background(), sh, []*call{q}, func() { c.run(context.Background(), sh, q) })
	q.ours, q.err = q.flags()
	for i, s := range seats {
		s.answer(q, i)
	}
}
