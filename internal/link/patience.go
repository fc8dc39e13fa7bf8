package link

import (
	"cmp"
	"context"
	"sync/atomic"
	"time"
)

// commandContext is the context of a command. It has no deadline that rueidis could see, which
// would take the connection down with it.
//
// One whose command was answered is used again: two commands are all that most misses cost, and each
// took six pieces of memory for its context. Whoever was given it has let go of it by then: rueidis
// keeps a context only while a call lasts. What a dialer does is not as certain, and nobody knows
// what a client of the user's own does; so those that may have been with them are not used again.
type commandContext struct {
	context.Context // the caller's

	l        *Link
	sh       *Shard
	asked    int64
	passed   int64 // on the shard's connection, when it was asked
	patience time.Duration
	epoch    uint64 // the shard's then
	timer    *time.Timer
	stop     func() bool // ends waiting for the caller's context to end; nil: that never does

	done   chan struct{} // closed by cancel
	closed atomic.Bool   // cancel has been called
	late   atomic.Bool   // by look
	looked atomic.Bool   // look has been called
}

// ask begins a command, which end of the context that it returns must follow. nil: the caller's
// deadline comes before the bound.
func (l *Link) ask(ctx context.Context, sh *Shard, patience time.Duration) *commandContext {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= patience {
		return nil
	}
	q, again := l.contexts.Get().(*commandContext)
	if !again {
		q = &commandContext{l: l, done: make(chan struct{})}
		q.timer = time.AfterFunc(time.Hour, q.look) // so that the field is set before it runs
	}
	q.Context, q.sh, q.patience = ctx, sh, patience
	q.asked, q.passed, q.epoch = l.Now(), sh.traffic.passed.Load(), sh.Valid.Epoch()
	if ctx.Done() != nil {
		q.stop = context.AfterFunc(ctx, q.cancel)
	}
	q.timer.Reset(patience)
	return q
}

// end ends a command. answered: each of its calls was, by the server that it was sent to.
func (q *commandContext) end(answered bool) {
	unused := q.timer.Stop() && !q.looked.Load()
	if q.stop != nil {
		unused = q.stop() && unused
	}
	if !unused || !answered || q.sh.Valid.Epoch() != q.epoch || !q.sh.plain {
		q.cancel()
		return
	}
	q.Context, q.sh, q.stop = nil, nil, nil
	q.l.contexts.Put(q)
}

func (q *commandContext) cancel() {
	if !q.closed.Swap(true) {
		close(q.done)
	}
}

// look ends the command if it has been waited for long enough.
func (q *commandContext) look() {
	q.looked.Store(true)
	left := q.ends() - q.l.Now()
	if left <= 0 {
		q.late.Store(true)
		q.cancel()
		return
	}
	q.timer.Reset(time.Duration(left))
}

func (q *commandContext) ends() int64 {
	t := q.sh.traffic
	all := q.asked + int64(q.patience+q.sh.preparing()+atLinkRate(t.passed.Load()-q.passed))
	quiet := max(q.asked, t.at.Load()) + int64(q.l.opt.RedisTimeout+q.sh.unseen())
	return min(all, max(quiet, q.asked+int64(q.l.opt.RedisTimeout)))
}

// Deadline hides the caller's.
func (q *commandContext) Deadline() (time.Time, bool) { return time.Time{}, false }

func (q *commandContext) Done() <-chan struct{} { return q.done }

func (q *commandContext) Err() error {
	switch {
	case !q.closed.Load():
		return nil
	case q.late.Load():
		return context.DeadlineExceeded
	default:
		return cmp.Or(q.Context.Err(), context.Canceled)
	}
}

// sends notes that bytes are on their way to sh's server, and as many as are expected will be on
// their way back, and returns how long they, and what is ahead of them, may take. arrived must
// follow.
func (sh *Shard) sends(bytes, expected, now int64) time.Duration {
	sh.expected.Add(expected)
	all := sh.bulk.Add(bytes)
	if bytes >= largePiece && all-bytes < largePiece {
		sh.traffic.at.Store(now) // it was idle before: nothing could move
	}
	return atLinkRate(bytes + expected + min(all-bytes, mostAhead))
}

func (sh *Shard) arrived(bytes, expected int64) {
	sh.bulk.Add(-bytes)
	sh.expected.Add(-expected)
}

// SendTime is how long so many bytes may take to sh's server, behind what is on its way already.
func (sh *Shard) SendTime(bytes int64) time.Duration {
	return atLinkRate(bytes + min(sh.bulk.Load(), mostAhead))
}

// unseen is how long what is on its way to sh's server may take without anybody seeing it move.
func (sh *Shard) unseen() time.Duration {
	return atLinkRate(min(sh.bulk.Load(), mostUnseen)) + sh.preparing()
}

// preparing is how long the server may take to put together what it was asked for, before anything
// of it comes.
func (sh *Shard) preparing() time.Duration {
	return atLinkRate(min(sh.expected.Load()+sh.guessed.Load(), mostAhead)) / prepareRate
}

// perKey is how many bytes the values of batches have had lately.
func (sh *Shard) perKey() int64 {
	if sh == nil {
		return 0
	}
	return sh.typical.Load()
}

// guess is how much the answers to batches may be, by what they were lately, where it is not known.
func (sh *Shard) guess(calls []*Call) (bytes int64) {
	for _, q := range calls {
		if len(q.Keys) > 1 && q.Expects == 0 {
			bytes += int64(len(q.Keys)) * (sh.perKey() + keyWork)
		}
	}
	return bytes
}

// learn takes note of how large the answers to batches were. Others' are among what has passed, so
// that it may be too much.
func (sh *Shard) learn(calls []*Call, passed int64) {
	keys := 0
	for _, q := range calls {
		if q.Err != nil {
			return
		}
		keys += len(q.Keys)
	}
	if keys >= MaxBatchKeys {
		sh.typical.Store((sh.typical.Load() + (sh.traffic.passed.Load()-passed)/int64(keys)) / 2)
	}
}

// flows reports whether enough has passed since asked, when so many bytes had, for the lack of an
// answer to say nothing of the server: the latest of it less than recent ago.
func (sh *Shard) flows(asked, passed, now int64, recent time.Duration) bool {
	at := max(asked, sh.traffic.at.Load())
	if now < at+int64(sh.unseen()) {
		return true
	}
	enough := linkRate / 2 * time.Duration(now-asked).Seconds()
	return now < at+int64(recent) && float64(sh.traffic.passed.Load()-passed) > enough
}

// Patience is how long sh's server may take to do a write of so many bytes: as long as its answer
// is waited for where nothing comes meanwhile.
func (l *Link) Patience(ctx context.Context, sh *Shard, bytes int64) time.Duration {
	patience := l.opt.RedisTimeout + sh.SendTime(bytes) + sh.preparing()
	if deadline, ok := ctx.Deadline(); ok {
		patience = min(patience, time.Until(deadline))
	}
	return patience
}

// Delay is how long what is on the way to the servers may keep back a command: of the one to which
// most is; 0 if that is less than a batch.
func (l *Link) Delay() time.Duration {
	ahead := int64(0)
	for _, sh := range l.Shards() {
		ahead = max(ahead, sh.bulk.Load())
	}
	if ahead < MaxBatchBytes {
		return 0
	}
	return atLinkRate(min(ahead, mostAhead))
}
