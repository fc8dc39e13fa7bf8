package aside

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/redis/rueidis"

	"github.com/redaside/aside/internal/reason"
	"github.com/redaside/aside/internal/script"
	"github.com/redaside/aside/internal/slot"
	"github.com/redaside/aside/internal/sums"
	"github.com/redaside/aside/internal/wire"
)

// The lock on a key, in Redis. There is no second key: while somebody loads a key, the key itself holds that load's
// marker (see internal/wire), with LockTTL as its expiry.
//
//	read-or-lock   one question, three answers: "here it is", "you load it", "somebody is loading it"
//	fill           the value, if the key still holds our marker
//	renew          LockTTL again, if …
//	release        nothing, if …
//
// A Set or Del during the load replaces or removes the marker, so the fill that follows is refused: a load never
// overwrites what was written after it began. A marker is unique per acquisition, not per client: else a load that was
// overtaken could pass for the next one of the same client.
//
// A hit changes nothing, so it works on a full or a read-only server, where the attempt to lock is refused.
//
// The scripts that do this are in internal/script, which also tells why they read and write as they do.

const (
	maxBatchKeys  = 64      // keys per script call, so that others get their turn; see also read_or_lock_many.lua
	firstPiece    = 1024    // keys in a call's first piece, see runBatches
	maxPieceKeys  = 8192    // and in any
	maxBatchBytes = 1 << 20 // of values per script call, if it has more than one key
)

// stuck is a lock of somebody else that a leader waits for. A living holder of ours renews its lock, so one that is not renewed ends by itself,
// after the LockTTL of its client at most; but not where the server's clock was set back, or where another library has made it, which may
// give it the ttl of the value. So a lock is given up that has not been renewed for LockTTL, unless its client may have a longer one.
type stuck struct {
	marker string
	since  int64         // when it was first found, or last found to be renewed, in Client.now's time
	ttl    time.Duration // its PTTL then
}

const (
	renewalShows  = 100 * time.Millisecond // more than two looks at a PTTL differ by, beside the time in between
	longestOthers = time.Minute            // a LockTTL that another client may have, if it is longer than ours
)

// overdue notes that the lock was found, and reports whether it has had its time.
func (s *stuck) overdue(found finding, now int64, lockTTL time.Duration) bool {
	passed := time.Duration(now - s.since)
	switch drift := found.ttl - (s.ttl - passed); {
	case s.marker != found.stored, found.ttl >= 0 && (drift > renewalShows || drift < -renewalShows):
		*s = stuck{found.stored, now, found.ttl}
		return false
	case s.ttl > lockTTL && s.ttl <= longestOthers && !wire.PeerLock(found.stored):
		return passed >= max(lockTTL, s.ttl/2+renewalShows) // it would have been renewed twice
	}
	return passed >= lockTTL
}

// newMarker returns a marker for a load that begins now, on sh's clock; nobody has used it before.
func (c *Client) newMarker(sh *shard) string {
	var room [128]byte
	b := append(room[:0], c.tokenPrefix...)
	b = strconv.AppendUint(b, c.tokens.Add(1), 36)
	b = append(b, ':')
	now, _ := c.serverTime(sh)
	return string(appendDigits(b, now, stampTime))
}

// newTokenPrefix begins all tokens of a client; UUIDv7, so that a person can see when the client was made.
func newTokenPrefix() (string, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("aside: no randomness for the client's id: %w", err)
	}
	return wire.LockPrefix + id.String() + ":", nil
}

// milliseconds is d as Redis takes it: rounded up, so that what is asked to live at all does.
func milliseconds(d time.Duration) string {
	ms := int64(d / time.Millisecond)
	if d%time.Millisecond != 0 {
		ms++
	}
	return strconv.FormatInt(ms, 10)
}

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

// untimely reports whether the server has refused q for the time, see lib/clock.lua in internal/script.
func (q *call) untimely() bool {
	n, err := q.reply.AsInt64()
	return q.err == nil && err == nil && n <= 0
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

// sizes is about how many bytes calls take on their way, and back, as far as that is known.
func sizes(calls []*call) (bytes, expected int64) {
	for _, q := range calls {
		bytes += q.size()
		expected += q.expects
	}
	return bytes, expected
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

// conclude draws the consequences of the answers for the shard and the statistics. passed is what had passed on the connection when
// the question was asked.
func (l *link) conclude(sh *shard, calls []*call, limited bool, asked, passed int64) {
	var worst error
	for _, q := range calls {
		switch {
		case q.moved: // says nothing of this node
		case q.err != nil:
			worst = q.err
		default:
			sh.failing.Store(0)
		}
	}
	if worst == nil {
		if len(calls) > 0 {
			sh.gate.settled(asked)
		}
		return
	}
	l.counts.redisErrors.Add(1)
	took := l.now() - asked
	l.up.Observed(linkEvent{Kind: linkFailed, Addr: sh.addr, Duration: time.Duration(took), Err: worst})
	switch what := judge(worst, limited); {
	case (what == timedOut || what == gaveUp) && sh.flows(asked, passed, l.now(), l.opt.RedisTimeout):
	case what == timedOut:
		l.failed(sh, worst, callersTimeout)
	case what == gaveUp: // a deadline shorter than RedisTimeout; silence all the same, if it was long enough to say something
		if errors.Is(worst, context.DeadlineExceeded) && took >= int64(l.opt.RedisTimeout)*2/5 {
			l.failed(sh, worst, callersTimeout)
		}
	case what == away:
		_, reply := rueidis.IsRedisErr(worst)
		if reply || isDial(worst) || errors.Is(worst, rueidis.ErrClosing) {
			l.failed(sh, worst, decisive)
		} else {
			l.failed(sh, worst, brokenOnly)
		}
	}
}

// questionContext bounds a question. limited says that the bound comes before the caller's own deadline.
func boundedContext(ctx context.Context, patience time.Duration) (_ context.Context, limited bool, _ context.CancelFunc) {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= patience {
		return ctx, false, func() {}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	return ctx, true, cancel
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
			keys = append(keys, stampKey(key))
		}
	}
	if whole {
		return b.Eval().Script(q.script.Text()).Numkeys(int64(len(keys))).Key(keys...).Arg(q.args...).Build()
	}
	return b.Evalsha().Sha1(q.script.SHA()).Numkeys(int64(len(keys))).Key(keys...).Arg(q.args...).Build()
}

func isNoScript(err error) bool {
	reply, ok := rueidis.IsRedisErr(err)
	return ok && reply.IsNoScript()
}

// batch is one script call for some of a list's keys.
type batch struct {
	call
	shard    *shard
	of       []int // where its keys stand in the list
	head     int   // how many args are for all keys; the others are as many for each
	notAfter int64 // of a write: when the server must not do it any more, in µs of its clock
}

// batches splits n keys into calls: by shard, in a cluster by slot, and so that none holds up the server for long. head
// is given to each call; args appends what each key needs, always as many.
func (l *link) batches(s *script.Script, head []string, n int, key func(i int) (string, *shard), args func(to []string, i int) []string) []*batch {
	return l.batchesOf(s, head, n, key, args, nil)
}

// batchesOf is batches for answers whose bytes are known.
func (l *link) batchesOf(s *script.Script, head []string, n int, key func(i int) (string, *shard), args func(to []string, i int) []string, answer func(i int) int64) []*batch {
	type place struct {
		shard *shard
		slot  uint16
	}
	type filling struct {
		*batch
		bytes int
	}
	var all []*batch
	open := make(map[place]*filling, 1)
	var more []string
	for i := range n {
		k, sh := key(i)
		at := place{shard: sh}
		if sh == nil || sh.addr != "" {
			at.slot = slot.Of(k)
		}
		bytes := len(k)
		if args != nil {
			more = args(more[:0], i)
			for _, arg := range more {
				bytes += len(arg)
			}
		}
		expects := int64(0)
		if answer != nil {
			expects = answer(i)
			bytes += int(expects)
		}
		f := open[at]
		if f == nil || len(f.keys) == maxBatchKeys || sh != nil && sh.spread.Load() || f.bytes+bytes > maxBatchBytes {
			f = &filling{batch: &batch{call: call{script: s}, shard: sh, head: len(head)}}
			room := 1
			if at.slot == 0 { // else there may be many batches of few keys
				room = min(n-i, maxBatchKeys)
			}
			f.keys, f.of = make([]string, 0, room), make([]int, 0, room)
			f.args = append(make([]string, 0, len(head)+room*len(more)), head...)
			open[at] = f
			all = append(all, f.batch)
		}
		f.keys = append(f.keys, k)
		f.args = append(f.args, more...)
		f.of = append(f.of, i)
		f.bytes += bytes
		f.expects += expects
	}
	return all
}

// pieces says how runBatches goes about it.
type pieces struct {
	first  int                               // keys in the first piece; 0: firstPiece
	before func(sh *shard, batches []*batch) // called for the batches of each piece just before they are sent; or nil
	insist bool                              // what is left goes at once, and all the same, when the shard has not answered, with Close, and
	until  int64                             // from then on, in Client.now's time
}

// runBatches asks every shard, all at the same time, and hands each answer to use, if not nil, as it comes: what
// one shard says must not wait for another that hangs. use is called by several goroutines, for different batches.
//
// A shard is asked in pieces, so that each has a RedisTimeout of its own and the questions of others get in between. The next one has twice as
// many keys if that took little beside the round trip, and half as many if it took long. When it does not answer at all it is not asked for the rest.
func (l *link) runBatches(ctx context.Context, all []*batch, pieces *pieces, use func(*batch)) {
	byShard := make(map[*shard][]*batch, 1)
	for _, b := range all {
		byShard[b.shard] = append(byShard[b.shard], b)
	}
	ask := func(sh *shard, batches []*batch) {
		var failed error
		for room := cmp.Or(pieces.first, firstPiece); len(batches) > 0; {
			if pieces.insist && (l.now() >= pieces.until || failed != nil || l.closing.Err() != nil) {
				room = math.MaxInt
			}
			calls, keys, bytes := make([]*call, 0, len(batches)), 0, int64(0)
			for _, b := range batches {
				keys += len(b.keys)
				bytes += b.size() + b.expects
				if (keys > room || bytes > mostPiece) && len(calls) > 0 {
					break
				}
				calls = append(calls, &b.call)
			}
			began := l.now()
			switch {
			case failed != nil && !pieces.insist:
				for _, q := range calls {
					q.err = fmt.Errorf("%w: %w", errLeftOut, reason.Of(failed))
				}
			default:
				l.inTurn(ctx, sh, calls, func() {
					began = l.now()
					if pieces.before != nil {
						pieces.before(sh, batches[:len(calls)])
					}
					l.runAll(ctx, sh, calls...)
				})
			}
			switch took := time.Duration(l.now()-began) - sh.roundTrip(); {
			case took < l.opt.RedisTimeout/8:
				room = min(2*room, maxPieceKeys)
			case took > l.opt.RedisTimeout/4:
				room = max(room/2, maxBatchKeys)
			}
			if of := sh.perKey(); of > 0 {
				room = max(min(room, int(mostPiece/of)), maxBatchKeys)
			}
			for _, b := range batches[:len(calls)] {
				if _, reply := rueidis.IsRedisErr(b.err); !reply {
					failed = cmp.Or(failed, b.err)
				}
				if use == nil {
					continue
				}
				if len(b.keys) > 1 && isTryAgain(b.err) {
					l.runSingly(ctx, b, use)
				} else {
					use(b)
				}
			}
			batches = batches[len(calls):]
		}
	}
	var others sync.WaitGroup
	left := len(byShard)
	for sh, batches := range byShard {
		if left--; left == 0 {
			ask(sh, batches) // the last one here: a batch for one shard needs no goroutine
			break
		}
		others.Go(func() { ask(sh, batches) })
	}
	others.Wait()
}

// isTryAgain reports whether a call was refused because some of its keys have moved already, and others have not.
func isTryAgain(err error) bool {
	reply, ok := rueidis.IsRedisErr(err)
	return ok && reply.IsTryAgain()
}

// runSingly asks for each key of b by itself.
func (l *link) runSingly(ctx context.Context, b *batch, use func(*batch)) {
	each := (len(b.args) - b.head) / len(b.keys)
	for n, key := range b.keys {
		at := b.head + n*each
		one := &batch{shard: b.shard, of: b.of[n : n+1], head: b.head, call: call{
			script: b.script, keys: []string{key}, args: append(slices.Clone(b.args[:b.head]), b.args[at:at+each]...),
		}}
		l.run(ctx, b.shard, &one.call)
		use(one)
	}
}

// overLocks runs a script over those items that hold a lock, and reports for each, as its shard answers and from several
// goroutines, whether it still was ours. It is bounded by RedisTimeout alone: the caller whose load it was may have gone.
// until, if not 0, is when what is left goes at once, whatever others have to ask; till then it goes in small pieces.
func (c *Client) overLocks(one, many *script.Script, head []string, items []*loadItem, until int64, args func(to []string, item *loadItem) []string, answer func(moved bool, item *loadItem, ours bool, err error)) {
	held := items
	if bare := func(item *loadItem) bool { return item.marker == "" }; slices.ContainsFunc(items, bare) {
		held = slices.DeleteFunc(slices.Clone(items), bare)
	}
	if len(held) == 1 { // a plain Get gives back its lock
		moved, ours, err := c.overLock(one, held[0], args(head, held[0]))
		if answer != nil {
			answer(moved, held[0], ours, err)
		}
		return
	}
	how := &pieces{insist: true}
	if until > 0 {
		how.first, how.until = maxBatchKeys, until
	} else {
		how.until = never
	}
	all := c.batches(many, head, len(held), func(i int) (string, *shard) { return held[i].f.key, held[i].shard },
		func(to []string, i int) []string { return args(to, held[i]) })
	c.runBatches(context.Background(), all, how, func(b *batch) {
		if answer == nil {
			return
		}
		ours, err := b.flags()
		for n, i := range b.of {
			answer(b.moved, held[i], err == nil && ours[n] == 1, err)
		}
	})
}

// overLock is overLocks for one.
func (c *Client) overLock(s *script.Script, item *loadItem, args []string) (moved, ours bool, err error) {
	q := newCall(s, item.f.key, args...)
	c.inTurn(context.Background(), item.shard, []*call{q}, func() { c.run(context.Background(), item.shard, q) })
	flags, err := q.flags()
	return q.moved, err == nil && flags[0] == 1, err
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

// finding is what a key was found to hold.
type finding struct {
	content wire.Content
	value   string        // for wire.Value
	stored  string        // the bytes, for wire.Unreadable; the marker, for wire.Lock
	mine    bool          // for wire.Lock: we have just set it
	ttl     time.Duration // < 0: does not expire
	large   int64         // bytes of a value that is too large to be answered among others: to be asked for in turn
	err     error         // the server's, for this key
}

// findings reads an answer of a value and its ttl per key.
func (q *call) findings(marker string) ([]finding, error) {
	if q.err != nil {
		return nil, q.err
	}
	answer, err := q.reply.ToArray()
	if err != nil {
		return nil, err
	}
	if len(answer) != 2*len(q.keys) {
		return nil, fmt.Errorf("aside: a script answered %d elements for %d keys", len(answer), len(q.keys))
	}
	found := make([]finding, len(q.keys))
	for i := range found {
		found[i] = newFinding(answer[2*i], answer[2*i+1], marker)
	}
	return found, nil
}

// finding reads the answer for a single key.
func (q *call) finding(marker string) (finding, error) {
	if q.err != nil {
		return finding{}, q.err
	}
	answer, err := q.reply.ToArray()
	if err != nil {
		return finding{}, err
	}
	if len(answer) != 2 {
		return finding{}, fmt.Errorf("aside: a script answered %d elements for one key", len(answer))
	}
	f := newFinding(answer[0], answer[1], marker)
	return f, f.err
}

func newFinding(v, ttl rueidis.RedisMessage, marker string) (f finding) {
	if v.IsNil() {
		return finding{}
	}
	if said, err := v.AsInt64(); v.IsInt64() && said == 2 && err == nil {
		f.large, f.err = ttl.AsInt64()
		return f
	}
	if v.IsInt64() {
		return finding{content: wire.Lock, stored: marker, mine: true}
	}
	if f.stored, f.err = v.ToString(); f.err != nil {
		return f
	}
	var ms int64
	if ms, f.err = ttl.AsInt64(); f.err != nil {
		return f
	}
	f.ttl = time.Duration(ms) * time.Millisecond
	f.value, f.content = wire.Unpack(f.stored)
	f.mine = f.content == wire.Lock && f.stored == marker // the first run of a question that was sent twice
	return f
}

// fingerprint names bytes that could not be read, for script.ReplaceOrLock.
func fingerprint(stored string) string {
	sum := sums.SHA1(stored)
	return hex.EncodeToString(sum[:])
}

// disown releases, in the background, what an unanswered read-or-lock may have locked.
func (c *Client) disown(sh *shard, keys []string, marker string) {
	c.inBackground(func() { // ends within RedisTimeout
		args := slices.Repeat([]string{marker}, len(keys))
		c.run(context.Background(), sh, &call{script: script.Release, keys: keys, args: args})
		for _, key := range keys {
			c.near.Wake(key)
		}
	})
}
