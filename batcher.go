package aside

import (
	"context"
	"slices"
	"sync"
)

// batcher sends the requests of many callers together. While few are out each goes by itself, at once. When maxAlone are
// out, those that come wait for the first answer, and then go as one script call: under load that costs the server, the
// connection and us a fraction of what as many calls would. (What group commit does for a log.) Not in a cluster, where a call
// must keep to one slot. Safe for concurrent use.
type batcher struct {
	send         func([]*request)     // answers each request; returns when it has. Immutable
	inBackground func(fn func()) bool // see Hooks; immutable

	mu   sync.Mutex
	out  int        // commands under way; guarded by mu
	next []*request // that wait to be sent; guarded by mu
}

const (
	maxAlone    = 4  // commands out before the next ones go together
	maxRequests = 12 // in one command: the cost of tracking grows with their square up to Redis 7.0
)

// request is what one caller asks for one key in a batch.
type request struct {
	key  string
	args []string

	// A request that nobody waits for has an owner, that is told instead.
	owner requestOwner

	done chan struct{} // else: closed once the rest may be read

	// Set once, by whoever sends it.
	result any // what all requests of the batch share
	at     int // where its key stands in it
	err    error

	mu       sync.Mutex
	left     bool // the caller waits no more; guarded by mu
	answered bool // guarded by mu
}

// requestOwner is told of the answer to a request, by whoever sends it.
type requestOwner interface {
	answered(r *request)
	insists() bool // reports whether it is to be sent all the same while the client closes
}

// newRequest makes the request of a caller that waits for it.
func newRequest(key string) *request { return &request{key: key, done: make(chan struct{})} }

// enter reports whether the caller may ask by itself, and must call leave after. Else r waits to be sent.
func (b *batcher) enter(r *request) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.out < maxAlone {
		b.out++
		return true
	}
	b.next = append(b.next, r)
	return false
}

// leave lets those go who have come meanwhile. It does not wait for them.
func (b *batcher) leave() {
	requests := b.take()
	if requests == nil {
		return
	}
	sent := b.inBackground(func() { // ends when nothing is left to be sent, or Close has failed the commands
		for ; requests != nil; requests = b.take() {
			b.send(requests)
		}
	})
	for ; !sent && requests != nil; requests = b.take() { // closing
		if owner := requests[0].owner; owner != nil && owner.insists() {
			b.send(requests)
			continue
		}
		for _, r := range requests {
			r.answer(nil, 0, errIsClosed)
		}
	}
}

// take returns what is to be sent next, a key only once. If there is nothing it gives back the place of the one who asks.
func (b *batcher) take() (requests []*request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	bytes := 0
	b.next = slices.DeleteFunc(b.next, func(r *request) bool {
		if r.hasLeft() {
			return true
		}
		for _, arg := range r.args {
			bytes += len(arg)
		}
		if bytes > maxBatchBytes && len(requests) > 0 {
			return false
		}
		if len(requests) == maxRequests || slices.ContainsFunc(requests, func(other *request) bool { return other.key == r.key }) {
			return false
		}
		requests = append(requests, r)
		return true
	})
	if requests == nil {
		b.out--
	}
	return requests
}

// wait returns true when r is answered, false when the caller leaves first: then nobody reads the answer.
func (r *request) wait(ctx, closing context.Context) bool {
	select {
	case <-r.done:
		return true
	case <-ctx.Done():
	case <-closing.Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.left = !r.answered
	return r.answered
}

func (r *request) hasLeft() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.left
}

// answer hands r its part of a batch's result; false: its caller has left.
func (r *request) answer(result any, at int, err error) bool {
	if r.owner != nil {
		r.result, r.at, r.err = result, at, err
		r.owner.answered(r)
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.left {
		return false
	}
	r.result, r.at, r.err, r.answered = result, at, err, true
	close(r.done)
	return true
}
