package aside

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside/internal/reason"
	"github.com/redaside/aside/internal/script"
	"github.com/redaside/aside/internal/stamp"
)

// call is one run of a script on keys of one shard, and of one slot where that matters.
type call struct {
	script  *script.Script
	keys    []string
	args    []string
	stamped bool // the keys' stamps are KEYS too, behind them

	reply rueidis.RedisMessage
	err   error
	moved bool // another node than the shard answered: its answer must not be kept in memory

	expects int64 // bytes of the answer, where they are known to be many

	withheld string // the error that is to be answered, where the server would not read the arguments, see longest
}

// newCall makes a call for one key, in one piece of memory.
func newCall(s *script.Script, key string, args ...string) *call {
	q := &struct {
		call
		key  [1]string
		args [4]string
	}{call: call{script: s}, key: [1]string{key}}
	q.call.keys = q.key[:]
	q.call.args = append(q.args[:0], args...)
	return &q.call
}

// run asks one question. It returns at the latest when ctx or RedisTimeout ends.
func (l *link) run(ctx context.Context, sh *shard, q *call) {
	l.runAll(ctx, sh, q)
}

// runAll asks several questions of one shard in one round trip.
func (l *link) runAll(ctx context.Context, sh *shard, calls ...*call) {
	l.runFor(ctx, sh, l.opt.RedisTimeout, calls...)
}

// runFor is runAll with another bound than RedisTimeout. Whatever the bound, what is on the way lengthens it, see traffic.go.
func (l *link) runFor(ctx context.Context, sh *shard, patience time.Duration, calls ...*call) {
	fail := func(err error) {
		for _, q := range calls {
			q.err = err
		}
	}
	if !sh.asks() {
		fail(errNotAsked)
		return
	}
	asked, passed := l.now(), sh.traffic.passed.Load()
	bytes, expected := sizes(calls)
	guessed := sh.guess(calls)
	patience += sh.sends(bytes, expected, asked)
	defer sh.arrived(bytes, expected)
	sh.guessed.Add(guessed)
	defer sh.guessed.Add(-guessed)
	ctx, limited, end := l.ask(ctx, sh, patience)
	defer end()
	if err := sh.gate.enter(ctx); err != nil {
		fail(fmt.Errorf("%w: %w", errGateFull, reason.Of(err)))
		return
	}
	defer func() {
		if what := judge(calls[len(calls)-1].err, limited); what == timedOut || what == gaveUp {
			sh.gate.giveUp(asked)
			return
		}
		sh.gate.leave()
	}()
	if !sh.asks() { // was lost while we waited for our turn
		fail(errNotAsked)
		return
	}

	sh.longest.withhold(calls, asked)
	epoch := sh.valid.Epoch()
	l.send(ctx, sh.client, calls, false)
	sh.longest.learn(calls, epoch, asked)
	var again, elsewhere []*call
	for _, q := range calls {
		switch {
		case isNoScript(q.err):
			again = append(again, q)
		case judge(q.err, limited) == moved:
			elsewhere = append(elsewhere, q)
		}
	}
	if len(again) > 0 {
		l.send(ctx, sh.client, again, true)
	}
	for _, q := range elsewhere {
		// The cluster client follows redirections. It is asked with the whole script: the other node may not know it.
		q.moved = true
		if reply, ok := replyOf(q.err); ok {
			if _, isAsk := reply.IsAsk(); !isAsk { // else it stays where it is, for the time being
				l.topologyMoved()
			}
		}
		if t := l.topo.Load(); t != nil {
			q.reply, q.err = t.redis.Do(ctx, q.command(t.redis.B(), true)).ToMessage()
		}
	}
	l.conclude(sh, calls, limited, asked, passed)
	sh.learn(calls, passed)
}

func (l *link) send(ctx context.Context, to rueidis.Client, calls []*call, whole bool) {
	if len(calls) == 1 {
		q := calls[0]
		q.reply, q.err = to.Do(ctx, q.command(to.B(), whole)).ToMessage()
		return
	}
	commands := make([]rueidis.Completed, len(calls))
	for i, q := range calls {
		commands[i] = q.command(to.B(), whole)
	}
	for i, result := range to.DoMulti(ctx, commands...) {
		calls[i].reply, calls[i].err = result.ToMessage()
	}
}

func (q *call) command(b rueidis.Builder, whole bool) rueidis.Completed {
	if q.withheld != "" {
		return b.Eval().Script(script.Withheld.Text()).Numkeys(1).Key(q.keys[0]).Arg(q.withheld).Build()
	}
	keys := q.keys
	if q.stamped {
		keys = slices.Grow(slices.Clone(keys), len(keys))
		for _, key := range q.keys {
			keys = append(keys, stamp.Key(key))
		}
	}
	if whole {
		return b.Eval().Script(q.script.Text()).Numkeys(int64(len(keys))).Key(keys...).Arg(q.args...).Build()
	}
	return b.Evalsha().Sha1(q.script.SHA()).Numkeys(int64(len(keys))).Key(keys...).Arg(q.args...).Build()
}

// flags reads an answer of one number per key.
func (q *call) flags() ([]int64, error) {
	if q.err != nil {
		return nil, q.err
	}
	flags, err := q.reply.AsIntSlice()
	if err == nil && len(flags) != len(q.keys) {
		err = fmt.Errorf("aside: a script answered %d numbers for %d keys", len(flags), len(q.keys))
	}
	return flags, err
}

// size is about how many bytes q takes on its way.
func (q *call) size() (bytes int64) {
	for _, key := range q.keys {
		bytes += int64(len(key))
	}
	for _, arg := range q.args {
		bytes += int64(len(arg))
	}
	return bytes
}

// sizes is about how many bytes calls take on their way, and back, as far as that is known.
func sizes(calls []*call) (bytes, expected int64) {
	for _, q := range calls {
		bytes += q.size()
		expected += q.expects
	}
	return bytes, expected
}

// questionContext bounds a question. limited says that the bound comes before the caller's own deadline.
func boundedContext(ctx context.Context, patience time.Duration) (_ context.Context, limited bool, _ context.CancelFunc) {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= patience {
		return ctx, false, func() {}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	return ctx, true, cancel
}
