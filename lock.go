package aside

import (
	"context"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/redis/rueidis"

	"github.com/redaside/aside/internal/drill"
	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/near"
	"github.com/redaside/aside/internal/script"
	"github.com/redaside/aside/internal/stamp"
	"github.com/redaside/aside/internal/sums"
	"github.com/redaside/aside/internal/wire"
)

// The lock on a key, in Redis. There is no second key: while somebody loads a key, the key itself
// holds that load's marker (see internal/wire), with LockTTL as its expiry.
//
//	read-or-lock   one command, three answers: "here it is", "you load it", "somebody is loading it"
//	fill           the value, if the key still holds our marker
//	renew          LockTTL again, if …
//	release        nothing, if …
//
// A Set or Del during the load replaces or removes the marker, so the fill that follows is refused:
// a load never overwrites what was written after it began. A marker is unique per acquisition, not
// per client: else a load that was overtaken could pass for the next one of the same client.
//
// A hit changes nothing, so it works on a full or a read-only server, where the attempt to lock is
// refused.
//
// The scripts that do this are in internal/script, which also tells why they read and write as they
// do.

// stuck is a lock of somebody else that a leader waits for. A living holder of ours renews its
// lock, so one that is not renewed ends by itself, after the LockTTL of its client at most; but not
// where the server's clock was set back, or where another library has made it, which may give it
// the ttl of the value. So a lock is given up that has not been renewed for LockTTL, unless its
// client may have a longer one.
type stuck struct {
	marker string
	since  int64         // when it was first found, or last found to be renewed, in link.Now's time
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
func (c *Client) newMarker(sh *link.Shard) string {
	var room [128]byte
	b := append(room[:0], c.tokenPrefix...)
	b = strconv.AppendUint(b, c.tokens.Add(1), 36)
	b = append(b, ':')
	now, slack := c.link.ServerTime(sh)
	return string(stamp.AppendMicros(b, now-max(slack, 0))) // too early is the safe side: a replay then does not give way to the load
}

// newTokenPrefix begins all tokens of a client; UUIDv7, so that a person can see when the client
// was made.
func newTokenPrefix() (string, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("aside: no randomness for the client's id: %w", err)
	}
	return wire.LockPrefix + id.String() + ":", nil
}

// What is given to scripts as the most bytes to answer.
var (
	mostAnswered = strconv.Itoa(link.MaxBatchBytes)
	anyLength    = strconv.Itoa(math.MaxInt32)
)

// overLocks is a script to run over items that hold locks. It is bounded by RedisTimeout alone: the
// caller whose load it was may have gone.
type overLocks struct {
	one, many *script.Script                             // for a single item, and for several
	head      []string                                   // what both take first of ARGV
	args      func(to []string, item *loadItem) []string // appends what they take for an item; nil: its marker

	// until, if not 0, is when what is left goes at once, whatever others have to ask; till then it
	// goes in small pieces.
	until int64

	// answer is told for each item, as its shard answers and by several goroutines, whether the
	// lock was still ours; or nil.
	answer func(moved bool, item *loadItem, ours bool, err error)
}

// over runs a script over those items that hold a lock.
func (c *Client) over(items []*loadItem, run overLocks) {
	held, answer := locked(items), run.answer
	if len(held) == 1 { // a plain Get gives back its lock
		moved, ours, err := c.overLock(held[0], link.NewCall(run.one, held[0].lockKey(), run.add(run.head, held[0])...))
		if answer != nil {
			answer(moved, held[0], ours, err)
		}
		return
	}
	how := &link.Pieces{Insist: true, Until: math.MaxInt64}
	if run.until > 0 {
		how.First, how.Until = link.MaxBatchKeys, run.until
	}
	all := c.link.Batches(run.many, run.head, link.List{
		Len:  len(held),
		Key:  func(i int) (string, *link.Shard) { return held[i].lockKey(), held[i].shard },
		Args: func(to []string, i int) []string { return run.add(to, held[i]) },
	})
	c.link.RunBatches(context.Background(), all, how, func(b *link.Batch) {
		if answer == nil {
			return
		}
		ours, err := b.Flags()
		for n, i := range b.Of {
			answer(b.Moved, held[i], err == nil && ours[n] == 1, err)
		}
	})
}

// add appends what the script takes for item.
func (run overLocks) add(to []string, item *loadItem) []string {
	if run.args == nil {
		return append(to, item.marker)
	}
	return run.args(to, item)
}

// locked returns those of items that hold a lock.
func locked(items []*loadItem) []*loadItem {
	bare := func(item *loadItem) bool { return item.marker == "" }
	if slices.ContainsFunc(items, bare) {
		return slices.DeleteFunc(slices.Clone(items), bare)
	}
	return items
}

func pointers[T any](all []T) []*T {
	to := make([]*T, len(all))
	for i := range all {
		to[i] = &all[i]
	}
	return to
}

// overLock runs q, a script over the lock of one item.
func (c *Client) overLock(item *loadItem, q *link.Call) (moved, ours bool, err error) {
	c.link.InTurn(context.Background(), item.shard, []*link.Call{q}, func() { c.link.Run(context.Background(), item.shard, q) })
	flag, err := q.Flag()
	return q.Moved, err == nil && flag == 1, err
}

// finding is what a key was found to hold.
type finding struct {
	content wire.Content
	value   string        // for wire.Value
	header  *wire.Header  // of a value or an absence; nil: it has none
	stored  string        // the bytes, for wire.Unreadable; the marker, for wire.Lock
	mine    bool          // for wire.Lock: we have just set it
	ttl     time.Duration // < 0: does not expire
	large   int64         // bytes of a value that is too large to be answered among others: to be asked for in turn
	err     error         // the server's, for this key
}

// findingsOf reads an answer of a value and its ttl per key, or that all are locked.
func findingsOf(q *link.Call, marker string) ([]finding, error) {
	if q.Err != nil {
		return nil, q.Err
	}
	found := make([]finding, len(q.Keys))
	if _, ok := q.One(); ok {
		for i := range found {
			found[i] = finding{content: wire.Lock, stored: marker, mine: true}
		}
		return found, nil
	}
	answer, err := q.Reply.ToArray()
	if err != nil {
		return nil, err
	}
	if len(answer) != 2*len(q.Keys) {
		return nil, fmt.Errorf("aside: a script answered %d elements for %d keys", len(answer), len(q.Keys))
	}
	for i := range found {
		found[i] = newFinding(answer[2*i], answer[2*i+1], marker)
	}
	return found, nil
}

// findingOf reads the answer for a single key.
func findingOf(q *link.Call, marker string) (finding, error) {
	if q.Err != nil {
		return finding{}, q.Err
	}
	answer, err := q.Reply.ToArray()
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
	if v.IsInt64() {
		if said, err := v.AsInt64(); said == 2 && err == nil {
			f.large, f.err = ttl.AsInt64()
			return f
		}
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
	f.value, f.header, f.content = wire.Unpack(f.stored)
	f.mine = f.content == wire.Lock && f.stored == marker // the first run of a command that was sent twice
	return f
}

// fingerprint names bytes that could not be read, for script.ReplaceOrLock.
func fingerprint(stored string) string {
	sum := sums.SHA1(stored)
	return hex.EncodeToString(sum[:])
}

// disown releases, in the background, what an unanswered read-or-lock may have locked.
func (c *Client) disown(sh *link.Shard, keys []string, marker string) {
	c.inBackground(func() { // ends within RedisTimeout
		args := slices.Repeat([]string{marker}, len(keys))
		c.link.Run(context.Background(), sh, &link.Call{Script: script.Release, Keys: keys, Args: args})
		for _, key := range keys {
			c.near.Wake(key)
		}
	})
}

// renewedTTL is the ttl of a lock that is renewed now, as Redis takes it: LockTTL, and for how long
// its fill may be behind others.
func (c *Client) renewedTTL() string {
	if delay := c.link.Delay(); delay > 0 {
		return script.InMilliseconds(c.opt.LockTTL + delay)
	}
	return c.lockTTL
}

// lockAnswers are the answers to a batch of read-or-lock.
type lockAnswers struct {
	q     *link.Call
	found []finding
}

// sendLocks asks read-or-lock for the keys of requests.
func (c *Client) sendLocks(sh *link.Shard, requests []*link.Request) {
	marker := c.newMarker(sh)
	q := &link.Call{Script: script.ReadOrLockMany, Keys: make([]string, len(requests)), Args: []string{marker, c.lockTTL, mostAnswered}}
	for i, r := range requests {
		q.Keys[i] = r.Key
	}
	c.link.Run(context.Background(), sh, q)
	found, err := findingsOf(q, marker)
	if err != nil && link.Unanswered(err) {
		c.disown(sh, q.Keys, marker)
	}
	answers := &lockAnswers{q, found}
	for i, r := range requests {
		if !r.Answer(answers, i, err) && err == nil && found[i].mine {
			c.disown(sh, []string{r.Key}, marker) // it has left; the lock was taken for nothing
		}
	}
}

// The kinds of commands that go together.
const (
	locks = iota
	fills
	sets
	dels
)

type loadItem struct {
	f      *flight
	shard  *link.Shard // nil without a lock
	marker string      // "" without a lock
	free   bool        // without a lock because Redis is away: there is nobody to ask whether the key has changed
	lost   bool        // its lock was found to be lost; guarded by the load's mu until that has ended
	waited bool        // its leader has waited for another process's load
	unsure bool        // its loader has named a tag whose state Redis does not tell
	locked int64       // before the lock was asked for, in link.Now's time, if others were asked for since

	gen      uint64           // of its key: its changes when the load began, or, if that has failed, its generation when the lock was to be released; see near
	outage   uint64           // of its key's shard then
	held     uint64           // likewise, when its lock was taken or last found to be there; guarded by the load's mu
	n        int              // its place in load.items, for store and renewer
	ttl      time.Duration    // for which it is stored, for store
	reserved near.Reservation // for store
	refresh  *refreshItem     // where its lock is a refresh lock, and what for; else nil
	drill    *drill.Drill     // for which it is loaded without a lock, else nil
	meta     *near.Meta       // what its header is to say; nil: it has none
	entry    *near.Entry      // for store: what memory will have if the fill is accepted
	old      *old             // what it is to replace; nil: nothing, or that is not at hand. Immutable
}

// lockKey is the key that holds its lock.
func (item *loadItem) lockKey() string {
	if item.refresh != nil {
		return item.refresh.lock
	}
	return item.f.key
}
