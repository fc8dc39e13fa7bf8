package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside/internal/reason"
)

// verdict is what the error of a command means. judge is the one place that decides.
type verdict int

const (
	answered verdict = iota // an answer, if only "no": a reply of a server that works
	moved                   // the key has another node now
	away                    // the server is not there, or there but of no use
	timedOut                // no answer within RedisTimeout; it may still be done
	gaveUp                  // the caller's own context ended; says nothing of Redis
)

// judge says what err means. limited: the command's deadline was RedisTimeout, and not the caller's
// own.
func judge(err error, limited bool) verdict {
	if err == nil || rueidis.IsRedisNil(err) {
		return answered
	}
	if reply, ok := replyOf(err); ok {
		_, isMoved := reply.IsMoved()
		_, isAsk := reply.IsAsk()
		switch {
		case isMoved || isAsk:
			return moved
		case ofNoUse(reply.Error()):
			return away // the prober's commands are refused likewise, so that it sees the end of it
		}
		return answered
	}
	switch {
	case isDial(err): // whose timeout says context.DeadlineExceeded too
		return away
	case errors.Is(err, context.Canceled):
		return gaveUp
	case errors.Is(err, context.DeadlineExceeded) && limited:
		return timedOut
	case errors.Is(err, context.DeadlineExceeded):
		return gaveUp
	}
	return away
}

// replyOf returns the error reply of a server that err is or wraps; false if it is none.
func replyOf(err error) (*rueidis.RedisError, bool) {
	reply, ok := errors.AsType[*rueidis.RedisError](err)
	return reply, ok && !reply.IsNil()
}

// ofNoUse reports whether an error reply says that the server, as it is now, serves nobody, or
// takes no writes; or that it does not let us in: rueidis returns what the handshake of a new
// connection was answered as the answer to the command for which it dialed. What is about one key
// or one value is no such reply, and OOM neither: a full server still deletes, and answers what it
// has.
func ofNoUse(reply string) bool {
	switch replyKind(reply) {
	case "LOADING", "BUSY", "MASTERDOWN", "READONLY", "CLUSTERDOWN", "NOREPLICAS", "MISCONF", "WRONGPASS", "NOAUTH", "DENIED":
		return true
	}
	return forbids(reply, "hello", "auth", "client", "select", "evalsha", "eval") || strings.HasPrefix(reply, "max number of clients") ||
		strings.HasPrefix(reply, "DB index is out of range") || strings.HasPrefix(reply, "invalid password") || strings.HasPrefix(reply, "Client sent AUTH")
}

// forbids reports whether an error reply says that one of these commands is not permitted, or not
// known.
func forbids(reply string, commands ...string) bool {
	if rest, ok := strings.CutPrefix(reply, "unknown command "); ok {
		name, _, _ := strings.Cut(rest, ",")
		name = strings.Trim(name, "'`")
		return slices.ContainsFunc(commands, func(command string) bool { return strings.EqualFold(name, command) })
	}
	return replyKind(reply) == "NOPERM" && slices.ContainsFunc(commands, func(command string) bool {
		return strings.Contains(reply, "'"+command+"'") || strings.Contains(reply, "'"+command+"|")
	})
}

// replyKind is the first word of an error reply as rueidis gives it, which leaves out "ERR". Redis
// 6 wraps what a command in a script said: "ERR Error running script …: -READONLY …".
func replyKind(reply string) string {
	if strings.HasPrefix(reply, "Error running script") {
		if _, inner, ok := strings.Cut(reply, ": -"); ok {
			reply = inner
		}
	}
	kind, _, _ := strings.Cut(reply, " ")
	return kind
}

// explained adds to a reply what it means, where it does not say so itself.
func explained(err error) error {
	if reply, ok := replyOf(err); ok && !errors.Is(err, errNoScripts) && forbids(reply.Error(), "evalsha", "eval") {
		return fmt.Errorf("%w: %w", errNoScripts, reason.Of(err))
	}
	return err
}

// Unanswered reports whether commands may have been executed, though no answer came.
func Unanswered(err error) bool {
	_, reply := rueidis.IsRedisErr(err)
	return !reply && !neverSent(err)
}

// Refused reports whether err is a server's answer to one command, of which it says nothing but
// that it was not done.
func Refused(err error) bool {
	_, reply := rueidis.IsRedisErr(err)
	return reply && judge(err, true) == answered
}

// neverSent reports whether an error proves that the server has not seen the command.
func neverSent(err error) bool {
	return errors.Is(err, ErrNotAsked) || errors.Is(err, errGateFull) || isDial(err)
}

func isDial(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

func isNoScript(err error) bool {
	reply, ok := rueidis.IsRedisErr(err)
	return ok && reply.IsNoScript()
}

// IsTryAgain reports whether a call was refused because some of its keys have moved already, and
// others have not.
func IsTryAgain(err error) bool {
	reply, ok := rueidis.IsRedisErr(err)
	return ok && reply.IsTryAgain()
}

// isReply reports whether err is an error reply of one of those kinds.
func isReply(err error, kinds ...string) bool {
	reply, ok := replyOf(err)
	return ok && slices.Contains(kinds, replyKind(reply.Error()))
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// attempt is how calls were asked.
type attempt struct {
	limited bool  // by a bound of ours, which came before the caller's own deadline
	asked   int64 // when, in Link.Now's time
	passed  int64 // what had passed on the connection then
}

// conclude draws the consequences of the answers to calls for the shard and the statistics.
func (l *Link) conclude(sh *Shard, calls []*Call, of attempt) {
	var worst error
	for _, q := range calls {
		switch {
		case q.Moved: // says nothing of this node
		case q.Err != nil:
			worst = q.Err
		default:
			sh.failing.Store(0)
		}
	}
	if worst == nil {
		if len(calls) > 0 {
			sh.gate.settled(of.asked)
		}
		if l.opt.Observed && len(calls) > 0 {
			l.up.Observed(sh.concluded(EventAnswered, calls, l.Now()-of.asked))
		}
		return
	}
	l.counts.redisErrors.Add(1)
	took := l.Now() - of.asked
	failed := sh.concluded(EventFailed, calls, took)
	failed.Err = worst
	l.up.Observed(failed)
	switch what := judge(worst, of.limited); {
	case (what == timedOut || what == gaveUp) && sh.flows(of.asked, of.passed, l.Now(), l.opt.RedisTimeout):
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

// concluded is what has become of calls that took so long.
func (sh *Shard) concluded(kind EventKind, calls []*Call, took int64) Event {
	e := Event{Kind: kind, Addr: sh.Addr, Duration: time.Duration(took)}
	if s := calls[0].Script; s != nil {
		e.Script = s.Name()
	}
	for _, q := range calls {
		e.Keys += len(q.Keys)
	}
	return e
}

// ErrNotAsked is ErrRedisAway for a command that was never sent, so that nothing can have happened.
var ErrNotAsked = fmt.Errorf("%w (not asked)", ErrRedisAway)

// ErrLeftOut is the same for what was left of a batch when one of its pieces had no answer.
var ErrLeftOut = fmt.Errorf("%w: an earlier piece of the batch was not answered", ErrNotAsked)

// errGateFull is the same when Redis is there but has too many commands to answer.
var errGateFull = fmt.Errorf("%w (too many questions are out already)", ErrRedisAway)

// errNoScripts is why a server is of no use though it answers.
var errNoScripts = errors.New("Redis does not run our scripts, so nothing can be cached or written: permit EVALSHA, EVAL and TIME to this user (+evalsha +eval +time), and do not rename them")

// WriteError says what an answer to a write means to whoever asked for it.
func (q *Call) WriteError() error {
	err := q.Err
	if err == nil {
		if q.Untimely() {
			return fmt.Errorf("%w: %w", ErrRedisAway, reason.Of(errClocks))
		}
		_, err := q.Reply.AsInt64()
		return err
	}
	if reply, ok := rueidis.IsRedisErr(err); ok {
		if judge(err, true) == answered && !reply.IsTryAgain() {
			return fmt.Errorf("refused by Redis: %w", err)
		}
		return fmt.Errorf("%w: %w", ErrRedisAway, reason.Of(err))
	}
	if neverSent(err) {
		if errors.Is(err, ErrRedisAway) {
			return err
		}
		return fmt.Errorf("%w: %w", ErrRedisAway, reason.Of(err))
	}
	return fmt.Errorf("%w: %w", ErrUnknownOutcome, reason.Of(err))
}
