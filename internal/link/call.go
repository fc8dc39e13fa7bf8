package link

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside/internal/reason"
	"github.com/redaside/aside/internal/script"
	"github.com/redaside/aside/internal/stamp"
)

// Call is one run of a script on keys of one shard, and of one slot where that matters.
type Call struct {
	Script  *script.Script
	Keys    []string
	Args    []string
	Stamped bool // the script has stamps: the bucket of each key goes behind Keys, and the number of keys behind Args

	// Set by Run and its like.
	Reply rueidis.RedisMessage
	Err   error
	Moved bool // another node than the shard answered: its answer must not be kept in memory

	Expects int64 // bytes of the answer, where they are known to be many

	withheld string // the error that is to be answered, where the server would not read the arguments, see longest
}

// NewCall makes a call for one key, in one piece of memory.
func NewCall(s *script.Script, key string, args ...string) *Call {
	q := &struct {
		Call
		key  [1]string
		args [4]string
	}{Call: Call{Script: s}, key: [1]string{key}}
	q.Call.Keys = q.key[:]
	q.Call.Args = append(q.args[:0], args...)
	return &q.Call
}

// Run asks one command. It returns at the latest when ctx or RedisTimeout ends.
func (l *Link) Run(ctx context.Context, sh *Shard, q *Call) {
	l.RunAll(ctx, sh, q)
}

// RunAll asks several commands of one shard in one round trip.
func (l *Link) RunAll(ctx context.Context, sh *Shard, calls ...*Call) {
	l.RunFor(ctx, sh, l.opt.RedisTimeout, calls...)
}

// RunFor is RunAll with another bound than RedisTimeout. Whatever the bound, what is on the way
// lengthens it, see traffic.go.
func (l *Link) RunFor(ctx context.Context, sh *Shard, patience time.Duration, calls ...*Call) {
	fail := func(err error) {
		for _, q := range calls {
			q.Err = err
		}
	}
	if !sh.Asks() {
		fail(ErrNotAsked)
		return
	}
	sh.use()
	asked, passed := l.Now(), sh.traffic.passed.Load()
	bytes, expected := sizes(calls)
	guessed := sh.guess(calls)
	patience += sh.sends(bytes, expected, asked)
	defer sh.arrived(bytes, expected)
	sh.guessed.Add(guessed)
	defer sh.guessed.Add(-guessed)
	bounded := l.ask(ctx, sh, patience)
	limited := bounded != nil
	if limited {
		ctx = bounded
		defer func() {
			bounded.end(!slices.ContainsFunc(calls, func(q *Call) bool { return q.Err != nil || q.Moved }))
		}()
	}
	if err := sh.gate.enter(ctx); err != nil {
		fail(fmt.Errorf("%w: %w", errGateFull, reason.Of(err)))
		return
	}
	defer func() {
		if what := judge(calls[len(calls)-1].Err, limited); what == timedOut || what == gaveUp {
			sh.gate.giveUp(asked)
			return
		}
		sh.gate.leave()
	}()
	if !sh.Asks() { // was lost while we waited for our turn
		fail(ErrNotAsked)
		return
	}

	sh.longest.withhold(calls, asked)
	epoch := sh.Valid.Epoch()
	send(ctx, sh.client, calls)
	sh.longest.learn(calls, epoch, asked)
	for _, q := range calls {
		if judge(q.Err, limited) != moved {
			continue
		}
		// The cluster client follows redirections. It is asked with the whole script: the other
		// node may not know it.
		q.Moved = true
		if reply, ok := replyOf(q.Err); ok {
			if _, isAsk := reply.IsAsk(); !isAsk { // else it stays where it is, for the time being
				l.topologyMoved()
			}
		}
		if t := l.topo.Load(); t != nil {
			q.Reply, q.Err = t.redis.Do(ctx, q.command(t.redis.B(), true)).ToMessage()
		}
	}
	l.conclude(sh, calls, attempt{limited, asked, passed})
	sh.learn(calls, passed)
}

// send asks a server for calls in one round trip. Scripts go by their hash; one that the server
// does not know is sent again, whole.
func send(ctx context.Context, to rueidis.Client, calls []*Call) {
	sendAs(ctx, to, calls, false)
	resend(ctx, to, calls)
}

// resend sends those calls whole whose scripts the server has said not to know.
func resend(ctx context.Context, to rueidis.Client, calls []*Call) {
	var unknown []*Call
	for _, q := range calls {
		if isNoScript(q.Err) {
			unknown = append(unknown, q)
		}
	}
	if len(unknown) > 0 {
		sendAs(ctx, to, unknown, true)
	}
}

// sendAs has CLIENT CACHING NO ahead of each call with stamps: what a script reads is tracked, and
// nobody wants to be told of stamps. Where that is not permitted, or nothing is tracked, the server
// answers an error, which means nothing.
func sendAs(ctx context.Context, to rueidis.Client, calls []*Call, whole bool) {
	if len(calls) == 1 && !calls[0].Stamped {
		q := calls[0]
		q.Reply, q.Err = to.Do(ctx, q.command(to.B(), whole)).ToMessage()
		return
	}
	commands := make([]rueidis.Completed, 0, 2*len(calls))
	for _, q := range calls {
		if q.Stamped {
			commands = append(commands, to.B().ClientCaching().No().Build())
		}
		commands = append(commands, q.command(to.B(), whole))
	}
	results := to.DoMulti(ctx, commands...)
	for _, q := range calls {
		if q.Stamped {
			results = results[1:]
		}
		q.Reply, q.Err = results[0].ToMessage()
		results = results[1:]
	}
}

func (q *Call) command(b rueidis.Builder, whole bool) rueidis.Completed {
	if q.withheld != "" {
		return b.Eval().Script(script.Withheld.Text()).Numkeys(1).Key(q.Keys[0]).Arg(q.withheld).Build()
	}
	keys, args := q.Keys, q.Args
	if q.Stamped {
		keys = stamp.AppendBuckets(append(make([]string, 0, 2*len(keys)), keys...), keys)
		args = append(slices.Clip(args), strconv.Itoa(len(q.Keys)))
	}
	if whole {
		return b.Eval().Script(q.Script.Text()).Numkeys(int64(len(keys))).Key(keys...).Arg(args...).Build()
	}
	return b.Evalsha().Sha1(q.Script.SHA()).Numkeys(int64(len(keys))).Key(keys...).Arg(args...).Build()
}

// Flags reads an answer of one number per key, or of one for all.
func (q *Call) Flags() ([]int64, error) {
	if q.Err != nil {
		return nil, q.Err
	}
	if n, ok := q.One(); ok {
		flags := make([]int64, len(q.Keys))
		for i := range flags {
			flags[i] = n
		}
		return flags, nil
	}
	flags, err := q.Reply.AsIntSlice()
	if err == nil && len(flags) != len(q.Keys) {
		err = fmt.Errorf("aside: a script answered %d numbers for %d keys", len(flags), len(q.Keys))
	}
	return flags, err
}

// One returns the answer, if that is one number.
func (q *Call) One() (n int64, ok bool) {
	if !q.Reply.IsInt64() {
		return 0, false
	}
	n, err := q.Reply.AsInt64()
	return n, err == nil
}

// Flag is Flags for one key.
func (q *Call) Flag() (int64, error) {
	if q.Err != nil {
		return 0, q.Err
	}
	answer, err := q.Reply.ToArray()
	if err != nil {
		return 0, err
	}
	if len(answer) != 1 {
		return 0, fmt.Errorf("aside: a script answered %d numbers for one key", len(answer))
	}
	return answer[0].AsInt64()
}

// Size is about how many bytes q takes on its way.
func (q *Call) Size() (bytes int64) {
	for _, key := range q.Keys {
		bytes += int64(len(key))
	}
	for _, arg := range q.Args {
		bytes += int64(len(arg))
	}
	return bytes
}

// sizes is about how many bytes calls take on their way, and back, as far as that is known.
func sizes(calls []*Call) (bytes, expected int64) {
	for _, q := range calls {
		bytes += q.Size()
		expected += q.Expects
	}
	return bytes, expected
}

// boundedContext bounds a command. limited reports whether the bound comes before the caller's own
// deadline.
func boundedContext(ctx context.Context, patience time.Duration) (_ context.Context, limited bool, _ context.CancelFunc) {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= patience {
		return ctx, false, func() {}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	return ctx, true, cancel
}
