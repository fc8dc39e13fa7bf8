package faults_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/stamp"
)

// truth is where values really live, and what is known of each key: a version that only grows, and
// what was acknowledged in which order. A key has one writer, which changes the source first and
// then calls Set or Del, as an application does. So any answer to a call that began after an
// acknowledgement has to be of that version at least, and the same holds for what Redis has in the
// end.
//
// Who has acknowledged is known, too: the store is watched (recorder). Only what Redis itself has
// acknowledged may be lost by Redis (loss).
type truth struct {
	began time.Time
	keys  []*fact

	mu       sync.Mutex // guards all below
	stale    []staleRead
	problems []string // wrong answers and unexpected errors, the first few
}

// fact is what is known of a key.
type fact struct {
	truth   *truth
	name    string
	version atomic.Uint64 // in the source

	newest    atomic.Pointer[ack]    // acknowledged last
	journaled atomic.Pointer[string] // the stamp with which the write that is under way went to the journal; nil: it has not
	tried     uint64                 // the last version written, acknowledged or not; its writer's

	mu   sync.Mutex
	acks []ack // in order; guarded by mu
}

// ack is a write that was acknowledged.
type ack struct {
	version      uint64
	deleted      bool
	stamp        string        // with which it went to the journal; "": Redis has acknowledged it
	began, ended time.Duration // since truth.began
}

// staleRead is an answer older than what was acknowledged before it was asked for.
type staleRead struct {
	fact    *fact
	version uint64
	floor   ack
	began   time.Duration
	by      string
}

const (
	ttl         = time.Hour
	valueLength = 100
)

func newTruth(keys int) *truth {
	tr := &truth{began: time.Now(), keys: make([]*fact, keys)}
	for i := range tr.keys {
		tr.keys[i] = &fact{truth: tr, name: fmt.Sprintf("k%05d", i)}
		tr.keys[i].version.Store(1)
	}
	return tr
}

func (tr *truth) now() time.Duration { return time.Since(tr.began) }

// fact returns what is known of the key with that name, or nil.
func (tr *truth) fact(name string) *fact {
	if i, err := strconv.Atoi(strings.TrimPrefix(name, "k")); err == nil && i < len(tr.keys) && tr.keys[i].name == name {
		return tr.keys[i]
	}
	return nil
}

func (tr *truth) problem(format string, args ...any) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if len(tr.problems) < 10 {
		tr.problems = append(tr.problems, fmt.Sprintf("%7.3f s: ", tr.now().Seconds())+fmt.Sprintf(format, args...))
	}
}

func (f *fact) value(version uint64) string {
	return fmt.Sprintf("%s=%010d%*s", f.name, version, valueLength-len(f.name)-11, ".")
}

// read is the version in a value; false if it is not one of this key, or one that was never
// written.
func (f *fact) read(value string) (version uint64, ok bool) {
	name, rest, _ := strings.Cut(value, "=")
	if name != f.name || len(value) != valueLength {
		return 0, false
	}
	version, err := strconv.ParseUint(rest[:10], 10, 64)
	return version, err == nil && version <= f.version.Load()
}

const (
	writersProcess = "the writer's process"
	otherProcess   = "another process"
)

// load is the loader.
func (tr *truth) load(_ context.Context, name string) (string, error) {
	f := tr.fact(name)
	return f.value(f.version.Load()), nil
}

// write changes the key. Its writer only.
func (f *fact) write(ctx context.Context, c *aside.Client, deleted bool) error {
	a := ack{version: f.version.Add(1), deleted: deleted, began: f.truth.now()}
	f.tried = a.version
	f.journaled.Store(nil)
	var err error
	if deleted {
		err = c.Del(ctx, f.name)
	} else {
		err = c.Set(ctx, ttl, f.name, f.value(a.version))
	}
	if err != nil {
		return err
	}
	a.ended = f.truth.now()
	if stamp := f.journaled.Load(); stamp != nil {
		a.stamp = *stamp
	}
	f.newest.Store(&a)
	f.mu.Lock()
	f.acks = append(f.acks, a)
	f.mu.Unlock()
	return nil
}

// get reads the key as the process that writes it, which must see what it has written.
func (f *fact) get(ctx context.Context, c *aside.Client) error {
	floor, began := f.newest.Load(), f.truth.now()
	value, err := c.Get(ctx, ttl, f.name, f.truth.load)
	if err == nil {
		f.check(value, floor, began, writersProcess)
	}
	return err
}

// getElsewhere reads the key as another process, which must see what Redis has acknowledged more
// than lease ago, as long as that process takes itself to be healthy.
func (f *fact) getElsewhere(ctx context.Context, c *aside.Client, lease time.Duration) error {
	before, began := c.Health(), f.truth.now()
	var floor *ack
	f.mu.Lock()
	for i := range f.acks {
		if a := f.acks[i]; a.stamp == "" && a.ended <= began-lease {
			floor = &a
		}
	}
	f.mu.Unlock()
	value, err := c.Get(ctx, ttl, f.name, f.truth.load)
	after := c.Health()
	if err == nil {
		if before.Mode != aside.Healthy || after.Mode != aside.Healthy || before.Since != after.Since {
			floor = nil
		}
		f.check(value, floor, began, otherProcess)
	}
	return err
}

func (f *fact) check(value string, floor *ack, began time.Duration, by string) {
	version, ok := f.read(value)
	if !ok {
		f.truth.problem("%s of %s read %q", f.name, by, value)
		return
	}
	if floor != nil && version < floor.version {
		f.truth.mu.Lock()
		defer f.truth.mu.Unlock()
		f.truth.stale = append(f.truth.stale, staleRead{f, version, *floor, began, by})
	}
}

// loss says which acknowledgements Redis itself may have broken: of keys whose server lost its
// data, what it had acknowledged before it was gone. What went to the journal may be among them
// only if it was there to be replayed before that.
type loss struct {
	of     func(key string) bool // nil: of none
	struck time.Duration         // when it was gone for certain
}

func (l loss) excuses(f *fact, a ack) bool {
	return l.of != nil && l.of(f.name) && (a.stamp == "" && a.began < l.struck || a.ended < l.struck)
}

// required is the newest version that had to be known at a time, of those acknowledgements that
// nothing excuses.
func (f *fact) required(l loss, at time.Duration) (version uint64) {
	for _, a := range f.acks {
		if a.ended <= at && !l.excuses(f, a) {
			version = a.version
		}
	}
	return version
}

// staleReads tells those that are our fault from those that Redis has caused by losing data.
func (tr *truth) staleReads(l loss) (ours []string, redis int) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, s := range tr.stale {
		if !l.excuses(s.fact, s.floor) || s.by == writersProcess && s.version < s.fact.required(l, s.began) {
			ours = append(ours, fmt.Sprintf("%s read %s at %.3f s: version %d, but %d (journaled: %v, deleted: %v) was acknowledged between %.3f and %.3f s",
				s.by, s.fact.name, s.began.Seconds(), s.version, s.floor.version, s.floor.stamp != "", s.floor.deleted, s.floor.began.Seconds(), s.floor.ended.Seconds()))
		} else {
			redis++
		}
	}
	return ours, redis
}

// verdict is what has become of the acknowledged writes.
type verdict struct {
	lost      []string // ours
	lostRedis int      // Redis had acknowledged them, and lost them with its data
	turned    int      // Sets that the rules of the replay turned into deletes
	locks     int      // keys that are locked though nobody loads
}

// inRedis compares what Redis has with what was acknowledged. Nobody writes any more.
func (tr *truth) inRedis(t testing.TB, redis rueidis.Client, l loss) (v verdict) {
	t.Helper()
	ctx := testContext(t)
	names := make([]string, 0, len(tr.keys))
	stamps := make(rueidis.Commands, 0, len(tr.keys))
	for _, f := range tr.keys {
		names = append(names, f.name)
		stamps = append(stamps, redis.B().Hget().Key(stamp.Bucket(f.name)).Field(stamp.Field(f.name)).Build())
	}
	held, err := rueidis.MGet(redis, ctx, names)
	if err != nil {
		t.Fatalf("what Redis has: %v", err)
	}
	left := redis.DoMulti(ctx, stamps...)
	for i, f := range tr.keys {
		last := f.newest.Load()
		raw, err := text(held[f.name])
		if err != nil {
			t.Fatalf("%s: %v", f.name, err)
		}
		if strings.HasPrefix(raw, "\x00aside:lock:") {
			v.locks++
			raw = ""
		}
		if raw != "" {
			version, ok := f.read(raw)
			switch {
			case !ok:
				v.lost = append(v.lost, fmt.Sprintf("%s holds %q", f.name, raw))
			case version < f.required(l, tr.now()):
				v.lost = append(v.lost, fmt.Sprintf("%s holds version %d, acknowledged was %s", f.name, version, f.history()))
			case last != nil && version < last.version:
				v.lostRedis++
			}
			continue
		}
		if last == nil || last.deleted || f.tried != last.version {
			continue // nothing is right; or one does not know, as a later write was refused or has no outcome
		}
		there, err := left[i].ToString()
		if err != nil && !rueidis.IsRedisNil(err) {
			t.Fatalf("the stamp of %s: %v", f.name, err)
		}
		switch {
		case last.replayedAsDelete(there):
			v.turned++
		case l.excuses(f, *last):
			v.lostRedis++
		default:
			v.lost = append(v.lost, fmt.Sprintf("%s holds nothing (stamp %q), acknowledged was %s", f.name, there, f.history()))
		}
	}
	return v
}

// served has a client read every key. While it is well, what it answers must be what was
// acknowledged last, or newer.
func (tr *truth) served(t testing.TB, p *party, l loss) (wrong []string) {
	t.Helper()
	ctx := testContext(t)
	for _, f := range tr.keys {
		for {
			before := p.Health()
			value, err := p.Get(ctx, ttl, f.name, tr.load)
			after := p.Health()
			if before.Mode != aside.Healthy || after.Mode != aside.Healthy || before.Since != after.Since { // a busy machine has looked like an outage
				p.awaitRecovery(t)
				continue
			}
			if version, ok := f.read(value); err != nil || !ok || version < f.required(l, tr.now()) {
				wrong = append(wrong, fmt.Sprintf("%s: %q, %v; acknowledged was %s", f.name, value, err, f.history()))
			}
			break
		}
	}
	return wrong
}

func (f *fact) history() string {
	var b strings.Builder
	for _, a := range f.acks[max(0, len(f.acks)-3):] {
		op, by := "set", "Redis"
		if a.deleted {
			op = "del"
		}
		if a.stamp != "" {
			by = "the journal"
		}
		fmt.Fprintf(&b, "[%s of version %d, by %s, between %.3f and %.3f s]", op, a.version, by, a.began.Seconds(), a.ended.Seconds())
	}
	return b.String()
}

// replayedAsDelete reports whether a stamp in Redis is that of this write, a Set, and its value was
// not written.
func (a ack) replayedAsDelete(there string) bool {
	left, ok := stamp.ParseLeft(there)
	mine, also := stamp.Parse(a.stamp)
	return ok && also && left.Client == mine.Client && left.Number == mine.Number && left.Ends == 0
}

// text is a string that may be missing.
func text(m rueidis.RedisMessage) (string, error) {
	if m.IsNil() {
		return "", nil
	}
	return m.ToString()
}

// endedByContext says that a call has ended with its own deadline, which is not Redis's.
func endedByContext(err error) bool { return errors.Is(err, context.DeadlineExceeded) }
