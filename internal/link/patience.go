package link

import (
	"context"
	"sync/atomic"
	"time"
)

// commandContext is the context of a command. It has no deadline that rueidis could see, which
// would take the connection down with it.
type commandContext struct {
	context.Context // ends with the caller's

	l        *Link
	sh       *Shard
	asked    int64
	passed   int64 // on the shard's connection, when it was asked
	patience time.Duration
	cancel   context.CancelFunc
	timer    *time.Timer
	late     atomic.Bool
}

// ask begins a command, which end of the context that it returns must follow. nil: the caller's
// deadline comes before the bound.
func (l *Link) ask(ctx context.Context, sh *Shard, patience time.Duration) *commandContext {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= patience {
		return nil
	}
	q := &commandContext{l: l, sh: sh, asked: l.Now(), passed: sh.traffic.passed.Load(), patience: patience}
	q.Context, q.cancel = context.WithCancel(ctx)
	q.timer = time.AfterFunc(time.Hour, q.look) // so that the field is set before it runs
	q.timer.Reset(patience)
	return q
}

func (q *commandContext) end() {
	q.timer.Stop()
	q.cancel()
}

// look ends the command if it has been waited for long enough.
func (q *commandContext) look() {
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

func (q *commandContext) Err() error {
	err := q.Context.Err()
	if err != nil && q.late.Load() {
		return context.DeadlineExceeded
	}
	return err
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
