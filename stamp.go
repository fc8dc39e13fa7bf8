package aside

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside/internal/slot"
)

// Who wrote last decides what a replay may do, and Redis does not record it. So Set and Del leave a stamp beside the key, in
// a key of its own in the same slot, which outlives the value; loads leave none.
//
//	key:    aside:stamp:{<tag of the slot>}<the data key>
//	value:  <time, 16 digits of µs> <client, 16 hex digits> <operation, 12 digits> <other, 16 digits of µs> <end in ms>
//
// (without the spaces.) other is the time of another client's write, if nobody can tell which of the two was later, else 0. end
// is until when a value that the key holds is this writer's: 0 after a Del, and where a replayed Set was not written. The
// tag puts every possible key's stamp into the key's slot, also that of "}{" or "{}x". See docs/adr/0005 for what is made of it.
//
// The time is a hybrid logical clock's (Kulkarni et al., 2014) that is anchored to the server's TIME: the greatest of that, of
// what the client proposes, and of one more than the stamp that is there. A client proposes its estimate of the server's clock,
// always later than before. It does so once per operation, and retries, the journal and the replay go on using that stamp: who
// meets its own operation, or a later one of the same client, knows that it has nothing to do any more. Between operations of one
// client their numbers decide, which are exact; between those of different clients the times, which are not.

const (
	stampKeyPrefix = "aside:stamp:{"

	stampTime   = 16 // digits
	stampClient = 16
	stampNumber = 12
	stampLen    = stampTime + stampClient + stampNumber

	driftPPM = 200 // by how much two clocks may part: microseconds in a second
)

func stampKey(key string) string {
	return stampKeyPrefix + slot.Tag(slot.Of(key)) + "}" + key
}

// stamp is a proposed stamp.
type stamp struct {
	text  string
	slack int64 // by how many µs its time may be off the server's clock; negative: nobody knows
}

// stamper makes the stamps of a client. Safe for concurrent use.
type stamper struct {
	client string // immutable

	mu     sync.Mutex
	last   int64 // time of the latest stamp, of whatever shard: keys move, and a key's stamps must grow; guarded by mu
	number int64 // of the latest operation; guarded by mu
}

func newStamper() (*stamper, error) {
	var id [stampClient / 2]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, fmt.Errorf("aside: no randomness for the client's id: %w", err)
	}
	return &stamper{client: hex.EncodeToString(id[:])}, nil
}

// after makes sure that stamps to come are greater than s, which another process has left on this disk.
func (st *stamper) after(s string) {
	if t, ok := stampMicros(s); ok {
		st.mu.Lock()
		defer st.mu.Unlock()
		st.last = max(st.last, t)
	}
}

// next returns the stamp of an operation that happens now, by a clock that may be off by slack. Where stamps have run ahead of a
// clock that can be trusted (they were made by one that could not), they come back to it once mayFall says that
// nothing is left that they must be greater than.
func (st *stamper) next(now, slack int64, mayFall func() bool) stamp {
	st.mu.Lock()
	if slack >= 0 && st.last > now+mostClockError.Microseconds() && mayFall() {
		st.last = now
	}
	st.number++
	number, t := st.number, max(now, st.last+1)
	st.last = t
	st.mu.Unlock()
	if slack >= 0 {
		slack += t - now
	}
	return stamp{text: st.format(t, number), slack: slack}
}

func (st *stamper) format(t, number int64) string {
	var room [stampLen]byte
	b := appendDigits(room[:0], t, stampTime)
	b = append(b, st.client...)
	return string(appendDigits(b, number, stampNumber))
}

// appendDigits appends n in exactly that many digits; time before 1970 counts as 1970.
func appendDigits(b []byte, n int64, digits int) []byte {
	const zeros = "0000000000000000"
	var room [20]byte
	text := strconv.AppendInt(room[:0], max(n, 0), 10)
	b = append(b, zeros[:max(digits-len(text), 0)]...)
	return append(b, text...)
}

// stampMicros reads the time of a stamp.
func stampMicros(s string) (int64, bool) {
	if len(s) < stampLen {
		return 0, false
	}
	t, err := strconv.ParseInt(s[:stampTime], 10, 64)
	return t, err == nil
}

// clockSample is what the prober has learned of a server's clock. Immutable.
type clockSample struct {
	ahead     int64 // µs by which it is ahead of Client.now
	wallAhead int64 // and of this machine's clock
	at        int64 // when, in Client.now's time
	error     int64 // µs by which ahead may be wrong: half the round trip
}

// newClockSample: the time was asked for at sent, and answered until got. The server read its clock in between.
func newClockSample(clock []int64, sent, got int64) *clockSample {
	const µs = int64(time.Microsecond)
	server, half := clock[0]*1e6+clock[1], (got-sent)/2/µs
	return &clockSample{ahead: server - sent/µs - half, wallAhead: server - time.Now().UnixMicro() + half, at: got, error: half}
}

// clockTime reads an answer to TIME.
func clockTime(answer rueidis.RedisResult) ([]int64, error) {
	clock, err := answer.AsIntSlice()
	switch {
	case err != nil:
		return nil, err
	case len(clock) != 2, clock[0] < 0, clock[0] > maxClock, clock[1] < 0, clock[1] >= 1_000_000:
		return nil, fmt.Errorf("TIME answered %v, which are not seconds and microseconds: what answers is not Redis, connect to Redis itself", clock)
	}
	return clock, nil
}

// maxClock is the greatest second that is exact in µs in a script's numbers, in the year 2255.
const maxClock = 1<<53/1_000_000 - 1

// writeWindow is when a server may do what it is asked now, as its scripts take it: until patience is over, but for the error of its clock as it
// is known here. Where it is earlier there than it can be, that clock is not the scripts': what they leave as a stamp would be of the future.
func writeWindow(now, slack int64, patience time.Duration) (window string, notAfter int64) {
	var notBefore int64
	if slack >= 0 {
		notBefore = max(now-slack-mostClockError.Microseconds(), 0)
	}
	notAfter = now + patience.Microseconds() + max(slack, 0)
	return strconv.FormatInt(notBefore, 10) + "-" + strconv.FormatInt(notAfter, 10), notAfter
}

// roundTrip is how long the prober's latest question has taken.
func (sh *shard) roundTrip() time.Duration {
	if sh != nil {
		if s := sh.clock.Load(); s != nil {
			return time.Duration(2*s.error) * time.Microsecond
		}
	}
	return 0
}

// serverTime estimates the clock of sh's server, in µs since 1970, and by how much it may be off. While that server has
// never been reached it is this machine's clock, and nobody knows how far that is off (-1). Two clocks are asked: the
// monotonic one stands still while the machine sleeps, the other may be set. Where they part, nobody knows which is right; the
// later one is taken, so that what happens now is later than what has happened.
func (l *link) serverTime(sh *shard) (now, slack int64) {
	wall := time.Now().UnixMicro()
	if sh != nil {
		if s := sh.clock.Load(); s != nil {
			at := l.now()
			steady, set := at/int64(time.Microsecond)+s.ahead, wall+s.wallAhead
			return max(steady, set), s.error + (at-s.at)/int64(time.Second)*driftPPM + max(steady-set, set-steady)
		}
	}
	return wall, -1
}

// newStamp proposes the stamp of a Set or Del of sh's keys.
func (c *Client) newStamp(sh *shard) stamp {
	now, slack := c.serverTime(sh)
	return c.stamps.next(now, slack, func() bool {
		kept := c.store.Stats()
		return kept.Sets+kept.Deletes == 0 && c.writing.Load() <= 1 // no other write is on its way to the store
	})
}
