package aside

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/near"
	"github.com/redaside/aside/internal/script"
	"github.com/redaside/aside/internal/stamp"
	"github.com/redaside/aside/internal/wire"
)

// Explanation is what is known of a key, in all places: why a call gets what it gets. What does not
// apply is nil.
type Explanation struct {
	Key    string
	At     time.Time // when it was looked at
	Client string    // the id of this client, as stamps have it
	Shard  string    // the address of the key's shard in a cluster, else ""
	Mode   Mode      // of that shard

	Memory  *MemoryExplanation  // what the memory of this process has
	Redis   RedisExplanation    // what Redis has
	Stamp   *StampExplanation   // the latest Set or Del, by whom it was
	Lock    *LockExplanation    // who loads it, by the marker in the key
	Refresh *RefreshExplanation // who refreshes it, or has failed to
	Pending *PendingExplanation // what the fallback store has, to be replayed or of a load

	Loading    bool             // a call of this process waits for it
	Refreshing bool             // this process refreshes it
	LastLoad   *LoadExplanation // the latest load of this process that ended without an error, or with ErrNotFound
	LastError  *LoadExplanation // the latest that failed

	Value *string // only if asked for: what memory serves, or else what Redis holds
}

// MemoryExplanation is an entry of this process's memory.
type MemoryExplanation struct {
	State   string    // "verified", "unverified" or "untracked": it is served; "expired", "unproven", "outdated" or "grouped": it is not
	Absent  bool      // it is remembered that there is no value
	Bytes   int       // of the value, as its codec wrote it
	Read    bool      // it was read from Redis, not loaded or set by this process
	Decoded bool      // a decoded value is kept beside it
	At      time.Time // when Redis was asked, or it was loaded or set
	Expires time.Time // when it is served last; zero: it does not expire
	Changed []string  // of what is "grouped": as HeaderExplanation.Changed
}

// RedisExplanation is what a key holds in Redis.
type RedisExplanation struct {
	Asked       bool
	Err         error              // why Redis could not be asked, or what it has refused; the rest is not known then
	Holds       string             // "nothing", "value", "absence", "lock", "unreadable" (of a version that is not known), or "other" (a hash, a list …)
	Type        string             // as Redis's TYPE has it; "" where that is not permitted
	Bytes       int64              // as they stand there, a header included
	TTL         time.Duration      // left; negative: it does not expire
	ForeignLock bool               // the lock is another library's
	Header      *HeaderExplanation // what stands before the value; nil: nothing
}

// HeaderExplanation is what stands before a value whose ttl and grace its view does not say, or that
// belongs to groups.
type HeaderExplanation struct {
	Began   time.Time     // when its load began, or it was set, by the server's clock; zero: unknown
	TTL     time.Duration // for how long it was to be fresh; 0: as the reader's view says
	Grace   time.Duration // for how long it is kept after that
	Took    time.Duration // how long its load took; 0: unknown
	Version int64         // of the value's type; 0: none
	Prefix  int           // length of the prefix to whose group it belongs, in bytes; 0: none
	Tags    []string      // in ascending order

	// Groups says whether the groups of the prefix and the tags have changed since the value was
	// loaded: "unchanged", "cleared" (it counts as a miss), "expired" (it is stale), or "unknown"
	// (Redis does not tell: it is away, or refuses their keys). "": it belongs to none.
	Groups string

	// Changed are the groups for which it counts as "cleared" or "expired": "prefix p" for the prefix
	// p, "tag t" for the tag t. A group whose key is missing in Redis, by DelTags or by eviction, has
	// changed.
	Changed []string
}

// StampExplanation is the stamp of a key: who wrote it last, by Set or Del. Loads leave none.
type StampExplanation struct {
	At        time.Time // when, by the server's clock
	By        string    // the writer's id, see Explanation.Client
	Ours      bool      // it was this client
	Number    int64     // which of that client's writes it was, from 1
	Deleted   bool      // it was a Del, or a Set that was not written by its replay
	Ends      time.Time // until when the value is that writer's; zero after a Del
	Contested time.Time // of another client's write that may have been later; zero: there is none
}

// LockExplanation is the marker of a load.
type LockExplanation struct {
	By    string        // the id of the client that holds it; the time at which that was made is in it (UUIDv7)
	Ours  bool          // it is this client
	Made  time.Time     // when that client was made; zero: not known
	Age   time.Duration // since the load began, by the server's clock
	Left  time.Duration // until it ends, if nobody renews it
	Token string        // the marker
}

// RefreshExplanation is what stands in the way of a refresh.
type RefreshExplanation struct {
	LockExplanation
	Failures int // how often it has failed in a row; not 0: nobody holds it, it is kept for a back-off
}

// PendingExplanation is a record of the fallback store.
type PendingExplanation struct {
	Op      string    // "set", "del", or "fill" for a load
	At      time.Time // when it was made
	By      string    // by whose client
	Bytes   int       // of the value
	Expires time.Time // when the value ends; zero for a del
	Replays bool      // it waits to be replayed
	Err     error     // it could not be read
}

// ExplainOption changes what Explain says.
type ExplainOption func(*explaining)

type explaining struct{ value bool }

// ExplainValue has Explain also report the value, its first MiB.
func ExplainValue() ExplainOption { return func(e *explaining) { e.value = true } }

// Explain tells what memory, Redis and the fallback store have of key, who wrote it and who loads
// it, and how its latest load ended. It changes none of that: nothing is loaded, replayed, kept or
// dropped, and Redis tracks nothing for it. Where Redis cannot be asked Redis.Err says so, and the
// rest is there all the same. The error is ErrTooLarge or ErrInvalidArgument for a key that cannot
// be one, ErrClosed, or ctx's.
func (c *Client) Explain(ctx context.Context, key string, options ...ExplainOption) (Explanation, error) {
	return explainer{c}.explain(ctx, strings.Clone(key), options)
}

// explainer looks at a key for Explain.
type explainer struct{ *Client }

func (c explainer) explain(ctx context.Context, key string, options []ExplainOption) (Explanation, error) {
	var o explaining
	for _, option := range options {
		option(&o)
	}
	if err := c.checkKey(key); err != nil {
		return Explanation{}, err
	}
	if c.lifecycle.ctx.Err() != nil {
		return Explanation{}, ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return Explanation{}, err
	}
	who := enterCall(ctx)
	defer who.leave()
	x := Explanation{Key: key, At: time.Now(), Client: c.stamps.Client(), Mode: Degraded}
	if sh := c.link.Shard(key); sh != nil {
		x.Shard = sh.Addr
		for _, health := range c.link.Health().Shards {
			if health.Addr == sh.Addr {
				x.Mode = Mode(health.Mode)
			}
		}
	}
	c.memory(who, &x, o.value)
	c.local(&x)
	c.kept(who, &x)
	c.asked(who, &x, o.value)
	return x, ctx.Err()
}

// memory explains what this process's memory has.
func (c explainer) memory(ctx context.Context, x *Explanation, value bool) {
	e, ok := c.near.Examine(x.Key)
	if !ok {
		return
	}
	m := &MemoryExplanation{
		State:  [...]string{near.Verified: "verified", near.Unverified: "unverified", near.Untracked: "untracked", near.Expired: "expired", near.Unproven: "unproven", near.Outdated: "outdated", near.Grouped: "grouped"}[e.State],
		Absent: e.Absent, Bytes: len(e.Raw), Read: e.Read, Decoded: e.Decoded, At: c.wall(e.At),
	}
	if e.Ends {
		m.Expires = c.wall(e.Expires)
	}
	x.Memory = m
	if e.State == near.Grouped {
		_, m.Changed = c.groups(ctx, x.Key, &e.Meta.Header)
	}
	if value && !e.Absent && e.State <= near.Untracked {
		x.Value = firstOf(e.Raw)
	}
}

// local explains what this process does with the key, and did.
func (c explainer) local(x *Explanation) {
	x.Loading = c.flights.busy(x.Key)
	x.Refreshing = c.refreshes.running(x.Key) != nil
	x.LastLoad, x.LastError = c.loads.ended.of(x.Key, c.wall)
}

// kept explains what the fallback store has.
func (c explainer) kept(ctx context.Context, x *Explanation) {
	record, ok, err := c.store.read(ctx, x.Key)
	switch {
	case err != nil && ctx.Err() == nil:
		x.Pending = &PendingExplanation{Err: err, Replays: c.store.Pending(x.Key)}
	case ok:
		k := &PendingExplanation{Op: string(record.Op), Bytes: len(record.Value), Replays: record.Op != fallback.OpFill}
		if s, ok := stamp.Parse(record.Stamp); ok {
			k.At, k.By = time.UnixMicro(s.Micros), s.Client
		}
		if record.Op != fallback.OpDel {
			k.Expires = time.UnixMilli(record.Expires)
		}
		x.Pending = k
	}
}

const (
	mostExplained = 1 << 20  // bytes of a value that Explain reports
	headExplained = 64 << 10 // and that tell what it is
)

// asked explains what Redis has.
func (c explainer) asked(ctx context.Context, x *Explanation, value bool) {
	last := headExplained - 1
	if value {
		last = mostExplained - 1
	}
	sh := c.link.Shard(x.Key)
	q := link.NewCall(script.Explain, x.Key, fmt.Sprint(last), stamp.Field(x.Key))
	q.Keys, q.Stamped = append(q.Keys, stamp.RefreshLock(x.Key)), true
	c.link.Run(ctx, sh, q)
	if link.Refused(q.Err) { // perhaps there are no grace, and no permission for its keys
		q.Keys, q.Err = q.Keys[:1], nil
		c.link.Run(ctx, sh, q)
	}
	a, err := explained(q)
	if err != nil {
		x.Redis.Err = err
		return
	}
	now, _ := c.link.ServerTime(sh)
	x.Redis = RedisExplanation{Asked: true, Type: a.kind, Bytes: max(a.size, 0), TTL: a.ttl, Holds: "nothing"}
	switch {
	case a.size > 0 || a.kind == "string":
		c.holds(ctx, x, a, now, value)
	case a.size < 0:
		x.Redis.Holds = "other"
	}
	if left, ok := stamp.ParseLeft(a.stamp); ok {
		x.Stamp = &StampExplanation{At: time.UnixMicro(left.Micros), By: left.Client, Ours: left.Client == x.Client, Number: left.Number, Deleted: left.Ends == 0}
		if left.Ends != 0 {
			x.Stamp.Ends = time.UnixMilli(left.Ends)
		}
		if left.Other != 0 {
			x.Stamp.Contested = time.UnixMicro(left.Other)
		}
	}
	if a.held != "" {
		x.Refresh = &RefreshExplanation{}
		if _, err := fmt.Sscanf(a.held, "failed:%d:", &x.Refresh.Failures); err != nil {
			x.Refresh.LockExplanation = c.marker(a.held, now)
		}
		x.Refresh.Left = a.heldTTL
	}
}

// holds explains a string.
func (c explainer) holds(ctx context.Context, x *Explanation, a *explanation, now int64, value bool) {
	v, header, what := wire.Unpack(a.head)
	if header != nil {
		x.Redis.Header = c.header(ctx, x.Key, header)
	}
	switch what {
	case wire.Value:
		x.Redis.Holds = "value"
		if value && x.Value == nil && (x.Memory == nil || !x.Memory.Absent) {
			x.Value = firstOf(v)
		}
	case wire.Absence:
		x.Redis.Holds = "absence"
	case wire.Lock:
		x.Redis.Holds, x.Redis.ForeignLock = "lock", wire.PeerLock(a.head)
		lock := c.marker(a.head, now)
		lock.Left = a.ttl
		x.Lock = &lock
	default:
		x.Redis.Holds = "unreadable"
	}
}

// header explains what stands before a value.
func (c explainer) header(ctx context.Context, key string, h *wire.Header) *HeaderExplanation {
	x := &HeaderExplanation{TTL: h.TTL, Grace: h.Grace, Took: h.Took, Version: h.Version, Prefix: h.Prefix.Length}
	if h.Began > 0 {
		x.Began = time.UnixMicro(h.Began)
	}
	for _, tag := range h.Tags {
		x.Tags = append(x.Tags, tag.Name)
	}
	x.Groups, x.Changed = c.groups(ctx, key, h)
	return x
}

// groups says what has become of the groups of a value since it was loaded, and which have changed.
func (c explainer) groups(ctx context.Context, key string, h *wire.Header) (what string, because []string) {
	if !h.Grouped() {
		return "", nil
	}
	type group struct {
		name, key string
		seen      int64
	}
	var clears, expires []group
	if n := h.Prefix.Length; n > 0 && n <= len(key) {
		clears = append(clears, group{"prefix " + key[:n], wire.PrefixGroup(key[:n]), h.Prefix.Seen})
	}
	for _, tag := range h.Tags {
		clears = append(clears, group{"tag " + tag.Name, wire.TagGroup(tag.Name), tag.SeenCleared})
		expires = append(expires, group{"tag " + tag.Name, wire.ExpiredGroup(tag.Name), tag.SeenExpired})
	}
	unknown := false
	changed := func(all []group) (names []string) {
		keys := make([]string, len(all))
		for i := range all {
			keys[i] = all[i].key
		}
		states := c.states(ctx, keys)
		for _, g := range all {
			state, ok := states[g.key]
			unknown = unknown || !ok
			if ok && (state != g.seen || state == 0) {
				names = append(names, g.name)
			}
		}
		return names
	}
	if names := changed(clears); len(names) > 0 {
		return "cleared", names
	}
	if names := changed(expires); len(names) > 0 {
		return "expired", names
	}
	if unknown {
		return "unknown", nil
	}
	return "unchanged", nil
}

// states returns the states of the groups with these keys, as far as this process knows them or Redis
// tells them; 0: there is none, so the group was cleared. Unlike a reader's look this makes none, and
// Redis tracks nothing for it.
func (c explainer) states(ctx context.Context, keys []string) map[string]int64 {
	states := make(map[string]int64, len(keys))
	byShard := make(map[*link.Shard][]*link.Call)
	for _, key := range keys {
		if c.store.Pending(key) { // it was cleared here, and Redis does not know yet
			states[key] = 0
			continue
		}
		if state, ok := c.near.ExamineGroup(key); ok {
			states[key] = state
			continue
		}
		q := link.NewCall(script.Explain, key, "63", stamp.Field(key))
		q.Stamped = true
		sh := c.link.Shard(key)
		byShard[sh] = append(byShard[sh], q)
	}
	for sh, calls := range byShard {
		c.link.RunAll(ctx, sh, calls...)
		for _, q := range calls {
			switch a, err := explained(q); {
			case err != nil, a.size < 0 && a.kind == "": // refused
			default:
				states[q.Keys[0]], _ = stamp.ReadMicros(a.head)
			}
		}
	}
	return states
}

func firstOf(value string) *string {
	v := strings.Clone(value[:min(len(value), mostExplained)])
	return &v
}

// marker explains a marker: <prefix><client>:<counter>:<when the load began, in µs>.
func (c explainer) marker(token string, now int64) LockExplanation {
	l := LockExplanation{Token: token, Ours: strings.HasPrefix(token, c.tokenPrefix)}
	rest, ours := strings.CutPrefix(token, wire.LockPrefix)
	if !ours {
		return l
	}
	parts := strings.Split(rest, ":")
	l.By, l.Made = parts[0], clientMade(parts[0])
	if began, ok := stamp.Micros(parts[len(parts)-1] + strings.Repeat("0", 28)); ok && len(parts) == 3 {
		l.Age = time.Duration(max(now-began, 0)) * time.Microsecond
	}
	return l
}

// explanation is the answer of script.Explain.
type explanation struct {
	kind, head, stamp, held string
	size                    int64
	ttl, heldTTL            time.Duration
}

func explained(q *link.Call) (*explanation, error) {
	if q.Err != nil {
		return nil, q.Err
	}
	answer, err := q.Reply.ToArray()
	if err != nil {
		return nil, err
	}
	if len(answer) != 7 {
		return nil, fmt.Errorf("aside: a script answered %d elements about a key", len(answer))
	}
	a := new(explanation)
	for i, to := range map[int]*string{0: &a.kind, 3: &a.head, 4: &a.stamp, 5: &a.held} {
		if !answer[i].IsNil() {
			if *to, err = answer[i].ToString(); err != nil {
				return nil, err
			}
		}
	}
	for i, to := range map[int]*time.Duration{2: &a.ttl, 6: &a.heldTTL} {
		ms, err := answer[i].AsInt64()
		if err != nil {
			return nil, err
		}
		*to = time.Duration(ms) * time.Millisecond
	}
	a.size, err = answer[1].AsInt64()
	return a, err
}

// clientMade is when the client of a token was made; the zero time if its id does not say.
func clientMade(id string) time.Time {
	parsed, err := uuid.Parse(id)
	if err != nil || parsed.Version() != 7 {
		return time.Time{}
	}
	s, ns := parsed.Time().UnixTime()
	return time.Unix(s, ns)
}
