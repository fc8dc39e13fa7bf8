package link

import (
	"context"
	"slices"
	"sync"
)

// Batcher sends the requests of many callers together. While few are out each goes by itself, at
// once. When maxAlone are out, those that come wait for the first answer, and then go as one script
// call: under load that costs the server, the connection and us a fraction of what as many calls
// would. (What group commit does for a log.) Not in a cluster, where a call must keep to one slot.
// Safe for concurrent use.
type Batcher struct {
	send         func([]*Request)     // answers each request; returns when it has. Immutable
	inBackground func(fn func()) bool // see Hooks; immutable

	mu   sync.Mutex
	out  int        // commands under way; guarded by mu
	next []*Request // that wait to be sent; guarded by mu
}

const (
	maxAlone    = 4  // commands out before the next ones go together
	maxRequests = 12 // in one command: the cost of tracking grows with their square up to Redis 7.0
)

// Request is what one caller asks for one key in a batch.
type Request struct {
	Key  string
	Args []string

	// A request that nobody waits for has an owner, that is told instead.
	Owner Owner

	done chan struct{} // else: closed once the rest may be read

	// Set once, by whoever sends it.
	Result any // what all requests of the batch share
	At     int // where its key stands in it
	Err    error

	mu       sync.Mutex
	left     bool // the caller waits no more; guarded by mu
	answered bool // guarded by mu
}

// Owner is told of the answer to a request, by whoever sends it.
type Owner interface {
	Answered(r *Request)
	Insists() bool // reports whether it is to be sent all the same while the client closes
}

// Enter returns nil if the caller may ask for key by itself, and must call Leave after. Else it
// returns the request that waits to be sent, for which the caller waits.
func (b *Batcher) Enter(key string) *Request {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.aloneLocked() {
		return nil
	}
	r := &Request{Key: key, done: make(chan struct{})}
	b.next = append(b.next, r)
	return r
}

// EnterOwned is Enter for a request with an owner. It reports whether the caller may ask by itself.
func (b *Batcher) EnterOwned(r *Request) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.aloneLocked() {
		return true
	}
	b.next = append(b.next, r)
	return false
}

// aloneLocked takes a place among those that ask by themselves, if there is one.
func (b *Batcher) aloneLocked() bool {
	if b.out == maxAlone {
		return false
	}
	b.out++
	return true
}

// Leave sends the requests that have come meanwhile. It does not wait for their answers.
func (b *Batcher) Leave() {
	if requests := b.take(); requests != nil {
		b.sendOn(requests)
	}
}

// sendOn sends requests, and then those that have come meanwhile.
func (b *Batcher) sendOn(requests []*Request) {
	sent := b.inBackground(func() { // ends when nothing is left to be sent, or Close has failed the commands
		for ; requests != nil; requests = b.take() {
			b.send(requests)
		}
	})
	for ; !sent && requests != nil; requests = b.take() { // closing
		if owner := requests[0].Owner; owner != nil && owner.Insists() {
			b.send(requests)
			continue
		}
		for _, r := range requests {
			r.Answer(nil, 0, ErrClosed)
		}
	}
}

// take returns what is to be sent next, a key only once. If there is nothing it gives back the
// caller's place.
func (b *Batcher) take() (requests []*Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	bytes := 0
	b.next = slices.DeleteFunc(b.next, func(r *Request) bool {
		if r.hasLeft() {
			return true
		}
		for _, arg := range r.Args {
			bytes += len(arg)
		}
		if bytes > MaxBatchBytes && len(requests) > 0 {
			return false
		}
		if len(requests) == maxRequests || slices.ContainsFunc(requests, func(other *Request) bool { return other.Key == r.Key }) {
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

// Wait reports whether r is answered; false: the caller leaves first, and then nobody reads the
// answer.
func (r *Request) Wait(ctx, closing context.Context) bool {
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

func (r *Request) hasLeft() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.left
}

// Answer hands r its part of a batch's result, and reports whether anybody takes it: its caller may
// have left.
func (r *Request) Answer(result any, at int, err error) bool {
	if r.Owner != nil {
		r.Result, r.At, r.Err = result, at, err
		r.Owner.Answered(r)
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.left {
		return false
	}
	r.Result, r.At, r.Err, r.answered = result, at, err, true
	close(r.done)
	return true
}
