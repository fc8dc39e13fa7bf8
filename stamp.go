package aside

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strconv"
	"sync"

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

// newStamp proposes the stamp of a Set or Del of sh's keys.
func (c *Client) newStamp(sh *shard) stamp {
	now, slack := c.serverTime(sh)
	return c.stamps.next(now, slack, func() bool {
		kept := c.store.Stats()
		return kept.Sets+kept.Deletes == 0 && c.writing.Load() <= 1 // no other write is on its way to the store
	})
}
