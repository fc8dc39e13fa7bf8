package link

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Batcher sends the requests of many callers together. While few are out each goes by itself, at
// once. When maxAlone are out, those that come wait for the first answer, and then go as one script
// call: under load that costs the server, the connection and us a fraction of what as many calls
// would. (What group commit does for a log.) A sender lets the callers that it has answered run
// before it takes what waits: so what they ask next goes along, and does not wait for another call.
// Not in a cluster, where a call must keep to one slot.
// Safe for concurrent use.
type Batcher struct {
	send         func([]*Request)     // answers each request; returns when it has. The slice is its to change. Immutable
	inBackground func(fn func()) bool // see Hooks; immutable
	sender       Sender               // immutable
	yield        func()               // runtime.Gosched; immutable

	// How many calls are still to be sent without a yield. Any sender may write it: a yield more or
	// less does not matter.
	hurries atomic.Int32

	free sync.Pool // of *Request, of callers that have read their answers: its own, as a channel of a synctest bubble serves in no other

	mu   sync.Mutex
	out  int        // commands under way; guarded by mu
	next []*Request // that wait to be sent; guarded by mu
}

// Sender is how the requests of one kind are sent.
type Sender struct {
	// Send answers each request, and returns when it has.
	Send func(sh *Shard, requests []*Request)

	// MaxRequests go in one command; 0: maxRequests.
	MaxRequests int

	// Insist has requests sent although the client closes: they must be answered by Redis, or be
	// known to be unanswered.
	Insist bool

	// Repeats: a command may have a key more than once, and does what comes first first.
	Repeats bool
}

const (
	maxAlone    = 4  // commands out before the next ones go together
	maxRequests = 12 // in one command that reads: the cost of tracking grows with their square up to Redis 7.0

	// In a process without a free core a yield may last as long as the others' turns, tens of
	// milliseconds: after one of more than this, so many calls go without.
	longYield    = time.Millisecond
	withoutYield = 100
)

// Request is what one caller asks for one key in a batch.
type Request struct {
	Key  string
	Args []string

	// A request that nobody waits for has an owner, that is told instead.
	Owner Owner

	done chan struct{} // else: gets a token once the rest may be read. It has room for that, and its request may be another's later

	// When it was made, and when its caller leaves at the latest, in Link.Now's time. For senders
	// that want to know.
	Asked, Ends int64

	// Set once, by whoever sends it; Result also by Begin.
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

// What is what a caller asks for.
type What struct {
	Key         string
	Args        []string
	Asked, Ends int64 // see Request
}

// Enter returns nil if the caller may ask for what by itself, and must call Leave after. Else it
// returns the request that waits to be sent, for which the caller waits.
func (b *Batcher) Enter(what What) *Request {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.aloneLocked() {
		return nil
	}
	r, ok := b.free.Get().(*Request)
	if !ok {
		r = &Request{done: make(chan struct{}, 1)}
	}
	r.Key, r.Args, r.Asked, r.Ends = what.Key, what.Args, what.Asked, what.Ends
	b.next = append(b.next, r)
	return r
}

// Release takes back a request of Enter whose answer its caller has read: another's may be made of it.
func (b *Batcher) Release(r *Request) {
	select {
	case <-r.done: // it was answered just as its caller left
	default:
	}
	r.Key, r.Args, r.Result, r.Err, r.answered = "", nil, nil, nil, false
	b.free.Put(r)
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
	if requests := b.take(nil); requests != nil {
		b.sendOn(requests)
	}
}

// sendOn sends requests, and then those that have come meanwhile.
func (b *Batcher) sendOn(requests []*Request) {
	sent := b.inBackground(func() { // ends when nothing is left to be sent, or Close has failed the commands
		for ; requests != nil; requests = b.take(requests) {
			awaited := requests[0].Owner == nil // now: what was answered may be another's again
			b.send(requests)
			if awaited {
				b.letThemRun()
			}
		}
	})
	for ; !sent && requests != nil; requests = b.take(requests) { // closing
		if owner := requests[0].Owner; b.sender.Insist || owner != nil && owner.Insists() {
			b.send(requests)
			continue
		}
		for _, r := range requests {
			r.Answer(nil, 0, ErrClosed)
		}
	}
}

// letThemRun has callers that were answered run first, and ask for more.
func (b *Batcher) letThemRun() {
	if b.hurries.Load() > 0 {
		b.hurries.Add(-1)
		return
	}
	began := time.Now()
	b.yield()
	if time.Since(began) > longYield {
		b.hurries.Store(withoutYield)
	}
}

// Load is how many commands are out, and how many requests wait for them.
func (b *Batcher) Load() (out, waiting int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.out, len(b.next)
}

// take returns what is to be sent next, in the memory of what was sent before. If there is nothing it gives back the
// caller's place. What waits is looked at outside of the lock, at which callers stand.
func (b *Batcher) take(sent []*Request) []*Request {
	clear(sent)
	most := cmp.Or(b.sender.MaxRequests, maxRequests)
	for requests := sent[:0]; ; {
		var back []*Request
		bytes := 0
		for len(requests) < most && bytes <= MaxBatchBytes {
			from := len(requests)
			if requests = b.first(requests, most-from); len(requests) == from {
				break
			}
			requests, back, bytes = b.fitting(requests, from, back, bytes)
		}
		if len(requests) > 0 && len(back) == 0 {
			return requests
		}
		switch out := b.backOrOut(back); {
		case len(requests) > 0:
			return requests
		case out:
			return nil
		}
	}
}

// first removes the first requests that wait, and appends them, so many at most.
func (b *Batcher) first(to []*Request, most int) []*Request {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := min(most, len(b.next))
	to = append(to, b.next[:n]...)
	b.next = slices.Delete(b.next, 0, n)
	return to
}

// fitting drops of requests, from that place on, those whose callers have left, and moves to back those that do not
// fit: a key goes only once unless the sender repeats keys. bytes are those of requests, or too many.
func (b *Batcher) fitting(requests []*Request, from int, back []*Request, bytes int) (fit, others []*Request, size int) {
	fit = requests[:from]
	for i := from; i < len(requests); i++ {
		r := requests[i]
		if r.hasLeft() {
			continue
		}
		if !b.sender.Repeats && slices.ContainsFunc(fit, func(other *Request) bool { return other.Key == r.Key }) {
			back = append(back, r)
			continue
		}
		if bytes += r.Size(); bytes > MaxBatchBytes && len(fit) > 0 {
			back = append(back, requests[i:]...)
			break
		}
		fit = append(fit, r)
	}
	clear(requests[len(fit):])
	return fit, back, bytes
}

// backOrOut has requests wait on, before those that came later; there are some only if others are sent. If nothing
// waits it gives back the caller's place, and reports that.
func (b *Batcher) backOrOut(back []*Request) (out bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.next = slices.Insert(b.next, 0, back...)
	if len(b.next) > 0 {
		return false
	}
	b.out--
	return true
}

// Wait reports whether r is answered; false: the caller leaves first, and then nobody reads the
// answer.
func (r *Request) Wait(ctx, closing context.Context) bool {
	select {
	case <-r.done:
	case <-ctx.Done():
	case <-closing.Done():
	}
	r.mu.Lock() // whoever answers has it, until it needs r no more
	defer r.mu.Unlock()
	r.left = !r.answered
	return r.answered
}

// Begin notes that r is being sent as a part of what; false: its caller has left, so it must not be.
// A caller that leaves from then on finds what in Result, one that has left before finds nil there.
func (r *Request) Begin(what any) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.left {
		r.Result = what
	}
	return !r.left
}

// Size is about how many bytes r takes on its way.
func (r *Request) Size() int {
	bytes := len(r.Key)
	for _, arg := range r.Args {
		bytes += len(arg)
	}
	return bytes
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
	r.done <- struct{}{}
	return true
}
