package link

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// A server closes the connection on which an argument is longer than its proto-max-bulk-len (512
// MB, if nobody has changed it). All that is out on it is lost, and so is the memory of this
// process; a kept write would do that again at each attempt to replay it.
//
// So a new connection asks for the bound (CONFIG GET), and what exceeds it is not sent: a script
// answers in its place, with an error that says why. It is judged like any other refusal of one
// write. Where CONFIG is not permitted, attempts tell: by the error that the server answers before
// it closes, or, as that may get lost, by two connections in a row that end while something long is
// being sent. What is as long is then not sent for a while.

// longest is how long an argument may be. Safe for concurrent use.
type longest struct {
	said    atomic.Int64 // by the server; 0: it does not tell
	failed  atomic.Int64 // the shortest that was refused; 0: none
	retryAt atomic.Int64 // when to try such a one again, in Link.Now's time
	suspect atomic.Pointer[suspicion]
}

// suspicion is that a connection has ended because of a long argument.
type suspicion struct {
	bytes int64
	epoch uint64 // the connection
	at    int64  // in Link.Now's time
}

const (
	suspectFor   = time.Minute      // beyond, two ends have nothing to do with each other
	longestRetry = 10 * time.Minute // somebody may have raised it
	leastLongest = 1 << 20          // Redis accepts no lower bound
)

// most returns the longest argument that may be sent.
func (l *longest) most(now int64) int64 {
	if said := l.said.Load(); said > 0 {
		return said
	}
	if failed := l.failed.Load(); failed > 0 && now < l.retryAt.Load() {
		return failed - 1
	}
	return math.MaxInt64
}

// LongestArg is the length of the longest argument that sh's server reads, as far as is known.
func (l *Link) LongestArg(sh *Shard) int64 { return sh.longest.most(l.Now()) }

// refused notes that the server has refused an argument of that length.
func (l *longest) refused(bytes, now int64) {
	if was := l.failed.Load(); was == 0 || bytes < was || now >= l.retryAt.Load() {
		l.failed.Store(bytes)
		l.retryAt.Store(now + int64(longestRetry))
	}
}

// heed takes the answer to CONFIG GET proto-max-bulk-len. An error says nothing: many do not permit
// it.
func (l *longest) heed(answer rueidis.RedisResult) {
	fields, err := answer.AsStrMap()
	if err != nil {
		l.said.Store(0)
		return
	}
	said, err := strconv.ParseInt(fields["proto-max-bulk-len"], 10, 64)
	if err != nil || said < 0 {
		said = 0
	}
	l.said.Store(said)
}

// longestArg is the length of the longest argument of q.
func (q *Call) longestArg() (bytes int64) {
	for _, arg := range q.Args {
		bytes = max(bytes, int64(len(arg)))
	}
	return bytes
}

// withhold has those calls that the server would not read answered by an error.
func (l *longest) withhold(calls []*Call, now int64) {
	most := l.most(now)
	for _, q := range calls {
		q.withheld = ""
		if bytes := q.longestArg(); bytes > most {
			q.withheld = fmt.Sprintf("TOOLONG %d bytes are more than Redis reads, %d by its proto-max-bulk-len: raise that, or lower Options.MaxValueBytes", bytes, most)
		}
	}
}

// learn looks for refusals that withhold could not foresee. epoch is the connection on which calls
// were sent.
func (l *longest) learn(calls []*Call, epoch uint64, now int64) {
	for _, q := range calls {
		bytes := q.longestArg()
		if bytes < leastLongest || q.withheld != "" || l.said.Load() > 0 {
			continue
		}
		reply, isReply := replyOf(q.Err)
		switch {
		case isReply && strings.Contains(reply.Error(), "invalid bulk length"):
			l.refused(bytes, now)
		case isReply || q.Err == nil:
			l.suspect.Store(nil)
		case judge(q.Err, true) != away || neverSent(q.Err):
		default:
			was := l.suspect.Load()
			switch {
			case was == nil || now-was.at > int64(suspectFor):
				l.suspect.Store(&suspicion{bytes, epoch, now})
			case was.epoch != epoch: // not the same end once more
				l.suspect.Store(nil)
				l.refused(min(bytes, was.bytes), now)
			}
		}
	}
}
