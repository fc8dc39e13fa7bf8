package aside

import (
	"context"

	"github.com/redaside/aside/internal/script"
)

// What goes together under load, see batcher: the commands that lock keys, and those that fill them.

// The kinds of commands that go together.
const (
	locks = iota
	fills
)

// lockAnswers are the answers to a batch of read-or-lock.
type lockAnswers struct {
	q     *call
	found []finding
}

// sendLocks asks read-or-lock for the keys of requests.
func (c *Client) sendLocks(sh *shard, requests []*request) {
	marker := c.newMarker(sh)
	q := &call{script: script.ReadOrLockMany, keys: make([]string, len(requests)), args: []string{marker, c.lockTTL, mostAnswered}}
	for i, r := range requests {
		q.keys[i] = r.key
	}
	c.run(context.Background(), sh, q)
	found, err := q.findings(marker)
	if err != nil && unanswered(err) {
		c.disown(sh, q.keys, marker)
	}
	answers := &lockAnswers{q, found}
	for i, r := range requests {
		if !r.answer(answers, i, err) && err == nil && found[i].mine {
			c.disown(sh, []string{r.key}, marker) // it has left; the lock was taken for nothing
		}
	}
}

// fillAnswers are the answers to a batch of fills.
type fillAnswers struct {
	q        *call
	accepted []int64
}

// sendFills fills the keys of requests.
func (c *Client) sendFills(sh *shard, requests []*request) {
	q := &call{script: script.FillMany, keys: make([]string, len(requests)), args: make([]string, 0, 3*len(requests))}
	for i, r := range requests {
		q.keys[i] = r.key
		q.args = append(q.args, r.args...)
	}
	c.inTurn(context.Background(), sh, []*call{q}, func() { c.run(context.Background(), sh, q) })
	accepted, err := q.flags()
	answers := &fillAnswers{q, accepted}
	for i, r := range requests {
		r.answer(answers, i, err)
	}
}

// insists reports whether a fill is sent although the client closes: else others would wait for what we have locked.
func (l *load) insists() bool { return l.c.now() < l.c.closedAt.Load()+int64(fillGrace) }

// answered takes the answer to the fill of a load of one.
func (l *load) answered(r *request) {
	moved, accepted := false, false
	if answers, ok := r.result.(*fillAnswers); ok {
		moved, accepted = answers.q.moved, r.err == nil && answers.accepted[r.at] == 1
	}
	if l.c.opt.Observer == nil {
		l.filledOne(moved, accepted, r.err)
	} else { // which may take its time, and ask for keys that wait for this sender
		l.c.work(func() { l.filledOne(moved, accepted, r.err) })
	}
}
