package aside

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/deferred"
	"github.com/redaside/aside/internal/keeping"
	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/near"
	"github.com/redaside/aside/internal/reason"
	"github.com/redaside/aside/internal/stamp"
	"github.com/redaside/aside/internal/wire"
)

// operator is the part of a Client that does operations, or keeps them.
type operator struct{ writer }

// apply is Apply of operations, which it puts into op.
func (o operator) apply(ctx context.Context, op *operation, operations []Operation) ([]any, error) {
	key := strings.Clone(op.key)
	commands, err := o.normal(key, operations)
	if err != nil {
		return nil, err
	}
	if len(commands) == 0 {
		return nil, fmt.Errorf("%w: no operations on %s: give at least one", ErrInvalidArgument, quoted(key))
	}
	keys := []string{key}
	if err := o.begin(ctx, keys); err != nil {
		return nil, err
	}
	defer o.end(keys)
	seen, ctx := o.watch(ctx, Event{Kind: EventWrite, Op: "apply", Key: key, Keys: 1})
	who := enterCall(ctx)
	defer who.leave()
	op.key, op.commands = key, commands
	answers, err := o.applyBegun(who, op)
	seen.end(err)
	return answers, err
}

// normal has operations in one form, and nothing of the caller's.
func (o operator) normal(key string, operations []Operation) ([][]string, error) {
	commands := cloneOperations(operations)
	for i := range commands {
		normal, err := deferred.Normal(commands[i], o.serverMillis(key))
		if err != nil {
			return nil, fmt.Errorf("%w: an operation on %s: %w", ErrInvalidArgument, quoted(key), err)
		}
		commands[i] = normal
	}
	return commands, nil
}

// operation is what one Apply is to do. The goroutine of the call has it.
type operation struct {
	key      string
	commands [][]string
	decide   func(Kept) error
	reads    bool           // decide is the caller's: it may look at all that waits, and not at Kept.Now alone
	held     deferred.Value // what memory had of the key when the call began
	behind   string         // the stamp of what waited then, on which held stands
	outage   uint64         // in which that was; 0: Redis was there
	after    deferred.Value // what that has become, if op was kept behind it
	kept     bool           // it waits for Redis now
	alone    bool           // nothing waited for the key before
}

func (o operator) applyBegun(ctx context.Context, op *operation) ([]any, error) {
	m := o.note(op)
	m.before = o.drop([]string{op.key})
	answers, err := o.do(ctx, op)
	o.remember(op, m, o.drop([]string{op.key}))
	return answers, err
}

// memory is what this process's memory had of a key before its operations.
type memory struct {
	sh            *link.Shard
	now           int64 // by the server's clock, in ms
	outage        uint64
	began, before uint64 // changes of the key, before it was dropped and behind
	read          read
}

// note notes what memory has of op's key, in op and in what it returns. The caller drops that.
func (o operator) note(op *operation) memory {
	m := memory{sh: o.link.Home(op.key), now: o.serverMillis(op.key)}
	// First, so that what comes between is noticed.
	m.outage, m.began = m.sh.Valid.Outage(), o.near.Changes(op.key)
	if op.behind = o.store.pendingStamp(op.key); !m.sh.Asks() {
		op.outage = m.outage
	}
	if e := o.near.Lookup(op.key); e != nil {
		op.held = deferred.Value{Known: true, Exists: !e.Absent(), Text: e.Raw()}
		if ends, ok := e.Ends(); ok {
			op.held.Ends = m.now + (ends-o.link.Now())/int64(time.Millisecond)
		}
	}
	m.read = o.readBefore(op.key)
	return m
}

// remember has memory go on with what op has made of its key, which was dropped again, as its changes-th change.
func (o operator) remember(op *operation, m memory, changes uint64) {
	if m.sh.Asks() || changes != m.before+1 || m.before != m.began+1 { // somebody else has changed it meanwhile
		return
	}
	if op.kept {
		o.putBack(op, m.read, m.outage, changes, m.now)
	}
	if op.after.Known && op.after.Exists {
		ttl := time.Duration(-1)
		if op.after.Ends > 0 {
			ttl = time.Duration(op.after.Ends-m.now) * time.Millisecond
		}
		if op.after.Ends == 0 || ttl > 0 {
			o.near.CommitAway(op.key, near.Away{Value: near.Value{Raw: op.after.Text, TTL: ttl, Began: o.link.Now()}, Valid: m.sh.Valid, Outage: m.outage, Changes: changes})
		}
	}
}

// read is what memory had of a key that holds no string.
type read struct {
	*near.Entry      // nil: nothing
	behind      bool // operations that wait have come after it
}

func (o operator) readBefore(key string) read {
	if e := o.near.OtherBefore(key); e != nil {
		return read{e, true}
	}
	return read{o.near.Other(key), false}
}

// putBack has memory go on with what was read before op, which was kept: it stands before all operations of this outage, until the key
// ends by one of them. What waited already when it was read may be part of it, or not; and behind a SET or DEL it says nothing.
func (o operator) putBack(op *operation, was read, outage, changes uint64, now int64) {
	if was.Entry == nil || !was.behind && !op.alone || op.after.Known {
		return
	}
	until := int64(math.MaxInt64)
	for _, command := range op.commands {
		switch command[0] {
		case "SET", "DEL":
			return
		case "PEXPIREAT":
			ends, err := strconv.ParseInt(command[1], 10, 64)
			if err != nil {
				return
			}
			if left := ends - now; left < math.MaxInt64/int64(time.Millisecond)-o.link.Now()/int64(time.Millisecond)-1 {
				until = min(until, o.link.Now()+left*int64(time.Millisecond))
			}
		}
	}
	o.near.PutBack(op.key, was.Entry, outage, changes, until)
}

// do has Redis do op, or keeps it.
func (o operator) do(ctx context.Context, op *operation) ([]any, error) {
	keys := []string{op.key}
	if err := o.awaitStored(ctx, keys...); err != nil {
		return nil, err
	}
	cause := errPending
	if _, later := o.settleFirst(ctx, keys); len(later) == 0 {
		answers, err := o.send(ctx, op)
		if err == nil || !errors.Is(err, ErrRedisAway) {
			return answers, err
		}
		cause = err
	}
	return nil, o.keep(ctx, op, cause)
}

// newStamps proposes the stamps of so many operations, of which the last tells all.
func (o operator) newStamps(sh *link.Shard, n int) stamp.Proposal {
	return (&write{writer: o.writer}).newStamps(sh, n)
}

// send asks Redis to do op now. The error is ErrRedisAway only if it has not, and will not.
func (o operator) send(ctx context.Context, op *operation) ([]any, error) {
	sh := o.link.Shard(op.key)
	if !sh.Asks() {
		return nil, link.ErrNotAsked
	}
	var q *link.Call
	for try := 0; ; try++ {
		_, slack := o.link.ServerTime(sh)
		if !doable(sh, slack) {
			if try > 0 {
				return nil, link.ErrNotAsked
			}
			o.link.LookAtClocks(ctx, []*link.Shard{sh})
			continue
		}
		by := o.newStamps(sh, len(op.commands))
		packed, ok := deferred.Together("-", by.Text, op.commands).Packed()
		if !ok {
			return nil, fmt.Errorf("aside: cannot change %s: its operations have no stamps", quoted(op.key))
		}
		q = ledgers{o.Client}.call([]string{op.key}, []string{"", "0", packed})
		o.link.InTurn(ctx, sh, []*link.Call{q}, func() {
			if sh.Asks() {
				now, slack := o.link.ServerTime(sh)
				q.Args[0], _ = link.WriteWindow(now, slack, o.link.Patience(ctx, sh, q.Size()))
			}
			o.link.Run(ctx, sh, q)
		})
		if q.Untimely() && try == 0 && ctx.Err() == nil {
			o.link.LookAtClocks(ctx, []*link.Shard{sh})
			continue
		}
		break
	}
	o.link.JudgeClock(sh, q)
	if q.Err != nil || q.Untimely() {
		return nil, fmt.Errorf("aside: cannot change %s: %w", quoted(op.key), reason.Of(q.WriteError()))
	}
	verdict, rest, err := operated(q.Reply, 0)
	if err != nil {
		return nil, err
	}
	if verdict != operatedDone || len(rest) != 1 {
		text := "refused"
		if len(rest) > 0 {
			text, _ = rest[0].ToString()
		}
		return nil, fmt.Errorf("aside: cannot change %s: refused by Redis: %s", quoted(op.key), text)
	}
	said, err := rest[0].ToArray()
	if err != nil {
		return nil, err
	}
	answers := make([]any, len(op.commands))
	for i := range min(len(said), len(answers)) {
		answers[i] = answerOf(said[i])
		if text, ok := answers[i].(string); ok && (op.commands[i][0] == "INCRBY" || op.commands[i][0] == "HINCRBY") { // more than Lua has
			answers[i], _ = strconv.ParseInt(text, 10, 64)
		}
	}
	o.readBack(ctx, []string{op.key}, ownSet{})
	return answers, nil
}

// answerOf is Redis's answer to one operation.
func answerOf(m rueidis.RedisMessage) any {
	if err := m.Error(); err != nil {
		if rueidis.IsRedisNil(err) {
			return nil
		}
		return err
	}
	if n, err := m.AsInt64(); err == nil && m.IsInt64() {
		return n
	}
	s, _ := m.ToString()
	return s
}

// keep keeps op for replay; cause says why it is not done now.
func (o operator) keep(ctx context.Context, op *operation, cause error) error {
	if !o.store.keepsOperations() {
		return fmt.Errorf("aside: cannot change %s: %w, and Options.Store keeps no operations (fallback.Keeper)", quoted(op.key), cause)
	}
	turn, cancel := withGrace(ctx)
	defer cancel()
	release, err := o.store.claims.hold(turn, []string{op.key})
	if err != nil {
		return fmt.Errorf("aside: cannot change %s: %w: %w", quoted(op.key), cause, err)
	}
	defer release()
	p, err := o.look(turn, op, cause)
	if err != nil {
		return err
	}
	if op.decide != nil {
		if err := op.decide(p.waits); err != nil {
			return err
		}
	}
	records, err := o.records(p)
	if err != nil {
		return err
	}
	o.store.operated.Store(true)
	o.store.underWay.enter(op.key, records[len(records)-1].Stamp)
	err = o.keepWrites(turn, records, cause)
	o.store.underWay.leave(op.key)
	if err == nil || errors.Is(err, ErrNotDurable) {
		p.wasKept()
	}
	if err != nil {
		if errors.Is(err, ErrNotDurable) {
			err = fmt.Errorf("aside: the change of %s is kept: %w", quoted(op.key), reason.Of(err))
		}
		return err
	}
	return fmt.Errorf("aside: the change of %s is kept: %w", quoted(op.key), ErrKept)
}

// prospect is an operation that is to be kept, and what waits for its key.
type prospect struct {
	*operation
	there waiting
	waits Kept
}

// look looks at what waits for op's key, which the caller has claimed.
func (o operator) look(ctx context.Context, op *operation, cause error) (p prospect, err error) {
	p.operation = op
	if p.there, err = o.store.waiting(ctx, op.key); err != nil {
		return p, fmt.Errorf("aside: cannot change %s: %w, and it cannot be kept for later: %w", quoted(op.key), cause, reason.Of(err))
	}
	held := op.held
	if op.behind != o.store.pendingStamp(op.key) || op.outage != 0 && op.outage != o.link.Home(op.key).Valid.Outage() {
		held = deferred.Value{} // others were kept behind it, or Redis was there, since
	}
	if p.waits, err = o.kept(p.there, held, op.reads); err != nil {
		return p, err
	}
	if p.waits.headed && !replacesAll(op.commands) {
		return p, fmt.Errorf("%w: cannot change %s: its value was stored with an age, a grace, a version or groups, which Redis's own commands do not know: use Set or Update", ErrInvalidArgument, quoted(op.key))
	}
	return p, nil
}

// wasKept notes that the store has the operation.
func (p prospect) wasKept() {
	was := p.there.Op
	p.kept, p.alone = true, was != fallback.OpOperations && was != fallback.OpSet && was != fallback.OpDel
	p.after = p.waits.Now.value().After(operationsOf(p.commands))
}

// replacesAll reports whether no command reads the string that was there before them.
func replacesAll(commands [][]string) bool {
	for _, command := range commands {
		switch command[0] {
		case "SET", "DEL":
			return true
		case "PEXPIREAT", "PERSIST":
		default:
			return false
		}
	}
	return true
}

// operationsOf are commands without stamps.
func operationsOf(commands [][]string) []deferred.Op {
	ops := make([]deferred.Op, len(commands))
	for i, command := range commands {
		ops[i].Command = command
	}
	return ops
}

// records are what is put into the store for an operation where there is what waits. The error is ErrTooLarge.
func (o operator) records(p prospect) ([]fallback.Record, error) {
	records := o.recordsOf(o.link.Home(p.key), p.there, p.commands)
	bytes := p.there.bytes()
	for i := range records {
		bytes += len(records[i].Value)
	}
	if bytes > o.opt.MaxValueBytes {
		return nil, fmt.Errorf("%w: the operations that wait for key %s would have %d bytes, more than Options.MaxValueBytes (%d): nothing was kept", ErrTooLarge, quoted(p.key), bytes, o.opt.MaxValueBytes)
	}
	return records, nil
}

func (o operator) recordsOf(sh *link.Shard, was waiting, commands [][]string) []fallback.Record {
	list := ""
	if was.log != nil {
		list = was.log.ID()
	}
	return keeping.Records(was.Record, list, o.newStamps(sh, len(commands)), commands)
}

// kept is what follows from what waits, or from what memory held. Unless it is to be whole, it has Now
// only: to read all operations takes the longer, the more there are.
func (o operator) kept(w waiting, held deferred.Value, whole bool) (k Kept, err error) {
	now := held
	switch w.Op {
	case fallback.OpSet:
		k.Base, k.Value, k.Expires = BaseString, w.Value, time.UnixMilli(w.Expires)
		now = deferred.Value{Known: true, Exists: true, Text: w.Value, Ends: w.Expires}
	case fallback.OpDel:
		k.Base, now = BaseNothing, deferred.Value{Known: true}
	case fallback.OpOperations:
		if after := w.log.Now(); after.Known || !held.Known {
			now = after
		}
		if whole {
			if err := k.read(w); err != nil {
				return Kept{}, err
			}
		}
	case fallback.OpFill:
	}
	if value, _, what := wire.Unpack(k.Value); k.Base == BaseString && what == wire.Value {
		k.Value = value
	}
	k.Now = Content{Known: now.Known, Exists: now.Exists, Text: now.Text}
	k.headed = now.Exists && strings.HasPrefix(now.Text, wire.HeaderPrefix)
	if value, _, what := wire.Unpack(now.Text); now.Exists && what == wire.Value {
		k.Now.Text = value
	}
	if now.Ends > 0 {
		k.Now.Ends = time.UnixMilli(now.Ends)
		if now.Ends <= o.serverMillis(w.Key) {
			k.Now = Content{Known: true}
		}
	}
	return k, nil
}

// read reads all operations that wait.
func (k *Kept) read(w waiting) error {
	l, err := deferred.Parse(w.log.String())
	if err != nil {
		return unreadable(w.Key, err)
	}
	if l.Base() {
		first := l.Ops[0].Command
		l.Ops = l.Ops[1:]
		k.Base = BaseNothing
		if first[0] == "SET" {
			k.Base, k.Value = BaseString, first[1]
			if len(first) == 4 {
				ends, _ := strconv.ParseInt(first[3], 10, 64)
				k.Expires = time.UnixMilli(ends)
			}
		}
	}
	for _, op := range l.Ops {
		k.Operations = append(k.Operations, op.Command)
	}
	return nil
}

func (o operator) serverMillis(key string) int64 {
	now, _ := o.link.ServerTime(o.link.Home(key))
	return now / 1000
}
