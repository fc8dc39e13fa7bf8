package aside

import (
	"context"

	"github.com/redaside/aside/internal/link"
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
	q     *link.Call
	found []finding
}

// sendLocks asks read-or-lock for the keys of requests.
func (c *Client) sendLocks(sh *link.Shard, requests []*link.Request) {
	marker := c.newMarker(sh)
	q := &link.Call{Script: script.ReadOrLockMany, Keys: make([]string, len(requests)), Args: []string{marker, c.lockTTL, mostAnswered}}
	for i, r := range requests {
		q.Keys[i] = r.Key
	}
	c.link.Run(context.Background(), sh, q)
	found, err := findingsOf(q, marker)
	if err != nil && link.Unanswered(err) {
		c.disown(sh, q.Keys, marker)
	}
	answers := &lockAnswers{q, found}
	for i, r := range requests {
		if !r.Answer(answers, i, err) && err == nil && found[i].mine {
			c.disown(sh, []string{r.Key}, marker) // it has left; the lock was taken for nothing
		}
	}
}

// fillAnswers are the answers to a batch of fills.
type fillAnswers struct {
	q        *link.Call
	accepted []int64
}

// sendFills fills the keys of requests.
func (c *Client) sendFills(sh *link.Shard, requests []*link.Request) {
	q := &link.Call{Script: script.FillMany, Keys: make([]string, len(requests)), Args: make([]string, 0, 3*len(requests))}
	for i, r := range requests {
		q.Keys[i] = r.Key
		q.Args = append(q.Args, r.Args...)
	}
	c.link.InTurn(context.Background(), sh, []*link.Call{q}, func() { c.link.Run(context.Background(), sh, q) })
	accepted, err := q.Flags()
	answers := &fillAnswers{q, accepted}
	for i, r := range requests {
		r.Answer(answers, i, err)
	}
}

// insists reports whether a fill is sent although the client closes: else others would wait for what we have locked.
func (l *load) Insists() bool { return l.c.link.Now() < l.c.closedAt.Load()+int64(fillGrace) }

// answered takes the answer to the fill of a load of one.
func (l *load) Answered(r *link.Request) {
	moved, accepted := false, false
	if answers, ok := r.Result.(*fillAnswers); ok {
		moved, accepted = answers.q.Moved, r.Err == nil && answers.accepted[r.At] == 1
	}
	if l.c.opt.Observer == nil {
		l.filledOne(moved, accepted, r.Err)
	} else { // which may take its time, and ask for keys that wait for this sender
		l.c.work(func() { l.filledOne(moved, accepted, r.Err) })
	}
}
