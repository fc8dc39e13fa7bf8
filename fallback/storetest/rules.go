package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redaside/aside/fallback"
)

// trial is what a rule is checked with.
type trial struct {
	ctx    context.Context
	store  fallback.Store
	reopen func() fallback.Store // nil if it forgets
	stamps int
}

// verify checks a rule with a new store.
func (r rule) verify(t *testing.T, open Open) (err error) {
	t.Helper()
	s, reopen := open(t)
	tr := &trial{ctx: t.Context(), store: s, reopen: reopen}
	defer func() { _ = tr.close() }()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it panicked: %v", p)
		}
	}()
	return r.check(tr)
}

func (t *trial) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return t.store.Close(ctx)
}

// again closes the store and opens it again.
func (t *trial) again() error {
	if err := t.close(); err != nil {
		return fmt.Errorf("Close: %w", err)
	}
	if t.store = t.reopen(); t.store == nil {
		return errors.New("it was opened again, and there is no store")
	}
	return nil
}

// stamp returns a greater stamp each time.
func (t *trial) stamp() string {
	t.stamps++
	return fmt.Sprintf("%016d-storetest", t.stamps)
}

func in(d time.Duration) int64 { return time.Now().Add(d).UnixMilli() }

func (t *trial) set(key, value string) fallback.Record {
	return fallback.Record{Op: fallback.OpSet, Key: key, Value: value, Expires: in(time.Hour), Stamp: t.stamp(), Slack: 100}
}

func (t *trial) del(key string) fallback.Record {
	return fallback.Record{Op: fallback.OpDel, Key: key, Stamp: t.stamp(), Slack: 100}
}

func (t *trial) fill(key, value string) fallback.Record {
	r := t.set(key, value)
	r.Op = fallback.OpFill
	return r
}

func (t *trial) put(records ...fallback.Record) error {
	given := slices.Clone(records)
	if err := t.store.Put(t.ctx, given...); err != nil {
		return fmt.Errorf("Put: %w", err)
	}
	if !slices.Equal(given, records) {
		return errors.New("Put changes the records that it is given")
	}
	return nil
}

// expect reports whether the store has exactly this record for a key.
func (t *trial) expect(want fallback.Record) error {
	got, ok, err := t.store.Get(want.Key)
	switch {
	case err != nil:
		return fmt.Errorf("Get(%s): %w", quote(want.Key), err)
	case !ok:
		return fmt.Errorf("Get(%s) finds nothing, want %s", quote(want.Key), show(want))
	case got != want:
		return fmt.Errorf("Get(%s) returns %s, want %s", quote(want.Key), show(got), show(want))
	}
	return nil
}

// expectNone reports whether the store has no record for a key.
func (t *trial) expectNone(key string) error {
	got, ok, err := t.store.Get(key)
	switch {
	case err != nil:
		return fmt.Errorf("Get(%s): %w", quote(key), err)
	case ok:
		return fmt.Errorf("Get(%s) returns %s, want nothing", quote(key), show(got))
	case t.store.Pending(key):
		return fmt.Errorf("Pending(%s) is true of a key of which Get knows nothing", quote(key))
	}
	return nil
}

func roundTrip(t *trial) error {
	keys := []string{"k", "", " ", "a/../b", "ключ", "\x00\xff\xfe", "{tag}", `"quoted" \ `, "line\nline\r\n", strings.Repeat("long", 200), "\u2028<&>"}
	values := []string{
		"", "v", "0", "null", `{"a": [1, 2.50, "x"]}`, ` {"a":1} `, "{\n  \"a\": 1\n}", `"text"`, "\x00\x01\xff", "\xef\xbf\xbd", "täxt\u2028",
		strings.Repeat("ab\n", 10_000), "\r\n*3\r\n$3\r\nSET\r\n", strings.Repeat("\x00", 3000), `{"a":1}{"a":2}`, "{\"bad\":\"\xff\"}",
	}
	var want []fallback.Record
	for i := range max(len(keys), len(values)) {
		key, value := keys[i%len(keys)], values[i%len(values)]
		if i >= len(keys) {
			key = fmt.Sprintf("value %d", i)
		}
		r := t.set(key, value)
		r.Slack = []int64{0, -1, 1, 1 << 60}[i%4]
		r.Expires += int64(i) + []int64{0, 1 << 50}[i%2]
		want = append(want, r)
	}
	gone := t.del("gone")
	if err := t.put(append(want, gone)...); err != nil {
		return err
	}
	for _, r := range append(want, gone) {
		if err := t.expect(r); err != nil {
			return err
		}
	}
	loaded := t.fill("loaded", "value")
	t.store.Fill(loaded)
	if err := t.expect(loaded); err != nil {
		return err
	}
	return t.expectNone("never written")
}

func greaterStampStays(t *trial) error {
	first, second, third := t.set("k", "first"), t.del("k"), t.set("k", "third")
	for _, step := range []struct{ put, want fallback.Record }{
		{second, second}, {first, second}, {second, second}, {third, third}, {second, third}, {first, third}, {third, third},
	} {
		if err := t.put(step.put); err != nil {
			return err
		}
		if err := t.expect(step.want); err != nil {
			return fmt.Errorf("after Put of %s: %w", show(step.put), err)
		}
	}
	return nil
}

func fillsGiveWay(t *trial) error {
	early := t.fill("k", "early")
	set := t.set("k", "set")
	late := t.fill("k", "late")
	t.store.Fill(late)
	if err := t.put(set); err != nil {
		return err
	}
	if err := t.expect(set); err != nil {
		return fmt.Errorf("an explicit record after a fill with a greater stamp: %w", err)
	}
	t.store.Fill(early)
	t.store.Fill(late)
	if err := t.expect(set); err != nil {
		return fmt.Errorf("fills after an explicit record: %w", err)
	}
	del := t.del("d")
	if err := t.put(del); err != nil {
		return err
	}
	t.store.Fill(t.fill("d", "loaded"))
	if err := t.expect(del); err != nil {
		return fmt.Errorf("a fill after a delete: %w", err)
	}
	return nil
}

func laterFillStays(t *trial) error {
	first, second := t.fill("k", "first"), t.fill("k", "second")
	t.store.Fill(first)
	t.store.Fill(second)
	t.store.Fill(first)
	return t.expect(second)
}

func pendingAndStamp(t *trial) error {
	set, del, fill := t.set("set", "v"), t.del("del"), t.fill("fill", "v")
	if t.store.Pending("set") {
		return errors.New("Pending is true in an empty store")
	}
	if err := t.put(set, del); err != nil {
		return err
	}
	t.store.Fill(fill)
	for key, want := range map[string]bool{"set": true, "del": true, "fill": false, "none": false} {
		if got := t.store.Pending(key); got != want {
			return fmt.Errorf("Pending(%q) is %v, want %v", key, got, want)
		}
	}
	for _, r := range []fallback.Record{set, del, fill} {
		if got, ok := t.store.Stamp(r.Key); !ok || got != r.Stamp {
			return fmt.Errorf("Stamp(%q) is %q, %v, want %q, true", r.Key, got, ok, r.Stamp)
		}
	}
	if got, ok := t.store.Stamp("none"); ok || got != "" {
		return fmt.Errorf("Stamp of a key that is not there is %q, %v", got, ok)
	}
	return nil
}

func recordsYieldsAll(t *trial) error {
	const n = 300
	want := make(map[string]fallback.Record)
	var explicit []fallback.Record
	for i := range n {
		for _, r := range []fallback.Record{t.set(fmt.Sprint("set", i), "value"), t.del(fmt.Sprint("del", i)), t.fill(fmt.Sprint("fill", i), "value")} {
			want[r.Key] = r
			if r.Op == fallback.OpFill {
				t.store.Fill(r)
			} else {
				explicit = append(explicit, r)
			}
		}
	}
	if err := t.put(explicit...); err != nil {
		return err
	}
	for _, op := range []fallback.Op{fallback.OpSet, fallback.OpDel, fallback.OpFill} {
		seen := make(map[string]bool)
		for r := range t.store.Records(op) {
			if r.Op != op || r != want[r.Key] {
				return fmt.Errorf("Records(%s) yields %s", op, show(r))
			}
			if seen[r.Key] {
				return fmt.Errorf("Records(%s) yields %q twice", op, r.Key)
			}
			seen[r.Key] = true
		}
		if len(seen) != n {
			return fmt.Errorf("Records(%s) yields %d records of %d", op, len(seen), n)
		}
	}
	return nil
}

func recordsLetsOthersIn(t *trial) error {
	const n = 50
	for i := range n {
		if err := t.put(t.set(fmt.Sprint(i), "v")); err != nil {
			return err
		}
	}
	for range t.store.Records(fallback.OpSet) {
		break
	}
	done := make(chan error, 1)
	go func() { // ends with the loop, or never if the store locks itself out
		seen := 0
		for r := range t.store.Records(fallback.OpSet) {
			seen++
			t.store.Settle(r)
			t.store.Fill(t.fill("fill", "v"))
			if err := t.put(t.del("another")); err != nil {
				done <- err
				return
			}
		}
		if seen != n {
			done <- fmt.Errorf("Records yields %d of %d records that are settled as they come", seen, n)
			return
		}
		done <- nil
	}()
	select {
	case err := <-done:
		return err
	case <-time.After(10 * time.Second):
		return errors.New("a loop over Records that uses the store does not end")
	}
}

func settleIsExact(t *trial) error {
	old, next := t.set("k", "old"), t.set("k", "next")
	if err := t.put(old); err != nil {
		return err
	}
	if err := t.put(next); err != nil {
		return err
	}
	t.store.Settle(old)
	if err := t.expect(next); err != nil {
		return fmt.Errorf("after the older one was settled: %w", err)
	}
	if !t.store.Pending("k") {
		return errors.New("after the older one was settled the newer one is not pending any more")
	}
	t.store.Settle(next)
	t.store.Settle(next, t.set("never put", "v"))
	if err := t.expectNone("k"); err != nil {
		return fmt.Errorf("after it was settled: %w", err)
	}
	fill := t.fill("f", "v")
	t.store.Fill(fill)
	t.store.Settle(fill)
	return t.expectNone("f")
}

func writtenAgain(t *trial) error {
	for range 3 {
		for _, r := range []fallback.Record{t.set("k", "v"), t.del("k")} {
			if err := t.put(r); err != nil {
				return err
			}
			if err := t.expect(r); err != nil {
				return err
			}
			t.store.Settle(r)
			if err := t.expectNone("k"); err != nil {
				return err
			}
		}
	}
	return nil
}

func latest(t *trial) error {
	if got := t.store.Latest(); got != "" {
		return fmt.Errorf("Latest of an empty store is %q", got)
	}
	low, high, fill := t.set("a", "v"), t.set("b", "v"), t.fill("c", "v")
	expect := func(when, want string) error {
		if got := t.store.Latest(); got != want {
			return fmt.Errorf("Latest is %q after %s, want %q", got, when, want)
		}
		return nil
	}
	if err := t.put(high, low); err != nil {
		return err
	}
	if err := expect("two Puts", high.Stamp); err != nil {
		return err
	}
	t.store.Fill(fill)
	if err := expect("a fill", fill.Stamp); err != nil {
		return err
	}
	t.store.Settle(low, high, fill)
	if err := expect("all was settled", fill.Stamp); err != nil {
		return err
	}
	if t.reopen == nil {
		return nil
	}
	last := t.del("d")
	if err := t.put(last); err != nil {
		return err
	}
	if err := t.again(); err != nil {
		return err
	}
	if got := t.store.Latest(); got < last.Stamp {
		return fmt.Errorf("Latest is %q after opening again, and %q is pending", got, last.Stamp)
	}
	return nil
}

func expiry(t *trial) error {
	set := t.set("set", "v")
	set.Expires = in(-time.Second)
	fill := t.fill("fill", "v")
	fill.Expires = in(50 * time.Millisecond)
	late := t.fill("late", "v")
	late.Expires = in(-time.Second)
	if err := t.put(set); err != nil {
		return err
	}
	t.store.Fill(fill)
	t.store.Fill(late)
	for in(0) <= fill.Expires {
		time.Sleep(5 * time.Millisecond)
	}
	if err := t.expect(set); err != nil {
		return err
	}
	if !t.store.Pending("set") {
		return errors.New("an expired set is not pending any more")
	}
	if err := t.expectNone("late"); err != nil {
		return err
	}
	for r := range t.store.Records(fallback.OpFill) {
		return fmt.Errorf("Records yields the expired %s", show(r))
	}
	return t.expectNone("fill")
}

func refusals(t *trial) error {
	good := t.set("good", "v")
	for why, change := range map[string]func(*fallback.Record){
		"a set without an end":          func(r *fallback.Record) { r.Expires = 0 },
		"a set that ends before 1970":   func(r *fallback.Record) { r.Expires = -1 },
		"a record without a stamp":      func(r *fallback.Record) { r.Stamp = "" },
		"a stamp with a space":          func(r *fallback.Record) { r.Stamp = "a b" },
		"a stamp of 65 bytes":           func(r *fallback.Record) { r.Stamp = strings.Repeat("0", 65) },
		"a fill":                        func(r *fallback.Record) { r.Op = fallback.OpFill },
		"an op that does not exist":     func(r *fallback.Record) { r.Op = "touch" },
		"a delete that has a value":     func(r *fallback.Record) { r.Op, r.Expires = fallback.OpDel, 0 },
		"a delete that is to end later": func(r *fallback.Record) { r.Op, r.Value = fallback.OpDel, "" },
	} {
		bad := t.set("bad", "v")
		change(&bad)
		if err := t.store.Put(t.ctx, good, bad); err == nil {
			return fmt.Errorf("Put accepts %s", why)
		}
		if err := t.expectNone("bad"); err != nil {
			return fmt.Errorf("after %s was refused: %w", why, err)
		}
	}
	noEnd := t.fill("bad", "v")
	noEnd.Expires = 0
	t.store.Fill(noEnd)
	t.store.Fill(t.set("bad", "v"))
	if err := t.expectNone("bad"); err != nil {
		return fmt.Errorf("after Fill of what is no fill: %w", err)
	}
	return t.put()
}

func endedContext(t *trial) error {
	ctx, cancel := context.WithCancel(t.ctx)
	cancel()
	if err := t.store.Put(ctx, t.set("k", "v")); !errors.Is(err, context.Canceled) {
		return fmt.Errorf("Put with a cancelled context returns %s", said(err))
	}
	return t.put(t.set("k", "v"))
}

func stats(t *trial) error {
	if err := t.put(t.set("a", "v"), t.set("b", "v"), t.del("c"), t.set("d", "v")); err != nil {
		return err
	}
	del := t.del("d")
	if err := t.put(del); err != nil {
		return err
	}
	t.store.Fill(t.fill("e", "v"))
	t.store.Fill(t.fill("a", "v"))
	got := t.store.Stats()
	if got.Sets != 2 || got.Deletes != 2 || got.Fills != 1 || got.Bytes <= 0 || got.Err != nil || got.Quarantined != 0 {
		return fmt.Errorf("after 2 sets, 2 deletes and a fill Stats is %+v", got)
	}
	t.store.Settle(del)
	if got := t.store.Stats(); got.Deletes != 1 {
		return fmt.Errorf("after 1 of 2 deletes was settled Stats is %+v", got)
	}
	return nil
}

func concurrent(t *trial) error {
	const goroutines, rounds, keys = 8, 40, 5
	var mu sync.Mutex
	greatest := make(map[string]fallback.Record)
	make1 := func(r *rand.Rand) fallback.Record {
		mu.Lock()
		defer mu.Unlock()
		key := fmt.Sprint("k", r.IntN(keys))
		if r.IntN(3) == 0 {
			return t.del(key)
		}
		return t.set(key, fmt.Sprint("value ", t.stamps))
	}
	var wg sync.WaitGroup
	errs := make([]error, goroutines)
	for g := range goroutines {
		wg.Go(func() { // ends after its rounds
			random := rand.New(rand.NewPCG(1, uint64(g)))
			for range rounds {
				r := make1(random)
				if err := t.put(r); err != nil {
					errs[g] = err
					return
				}
				got, ok, err := t.store.Get(r.Key)
				if err != nil || !ok || got.Stamp < r.Stamp {
					errs[g] = fmt.Errorf("after Put of %s Get returns %s, %v, %s", show(r), show(got), ok, said(err))
					return
				}
				t.store.Fill(t.fillWith(r.Key, r.Stamp))
				t.store.Settle(fallback.Record{Op: fallback.OpSet, Key: r.Key, Stamp: "nobody's"})
				t.store.Pending(r.Key)
				for range t.store.Records(fallback.OpSet) {
					break
				}
				mu.Lock()
				if r.Stamp > greatest[r.Key].Stamp {
					greatest[r.Key] = r
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, want := range greatest {
		if err := t.expect(want); err != nil {
			return err
		}
	}
	return nil
}

func (t *trial) fillWith(key, stamp string) fallback.Record {
	return fallback.Record{Op: fallback.OpFill, Key: key, Value: "loaded", Expires: in(time.Hour), Stamp: stamp}
}

func closing(t *trial) error {
	set := t.set("k", "v")
	if err := t.put(set); err != nil {
		return err
	}
	first := t.close()
	if t.store.Durable() && first != nil {
		return fmt.Errorf("Close of a store that has kept all returns %w", first)
	}
	if again := t.close(); said(again) != said(first) {
		return fmt.Errorf("Close returns %s, and then %s", said(first), said(again))
	}
	if err := t.store.Put(t.ctx, t.set("k2", "v")); !errors.Is(err, fallback.ErrClosed) {
		return fmt.Errorf("Put after Close returns %s", said(err))
	}
	if r, ok, err := t.store.Get("k"); ok || err != nil && !errors.Is(err, fallback.ErrClosed) {
		return fmt.Errorf("Get after Close returns %s, %v, %s", show(r), ok, said(err))
	}
	t.store.Fill(t.fill("k3", "v"))
	t.store.Settle(set)
	t.store.Stats()
	if t.store.Pending("k") {
		return errors.New("Pending is true after Close")
	}
	if _, ok := t.store.Stamp("k"); ok {
		return errors.New("Stamp knows a key after Close")
	}
	for r := range t.store.Records(fallback.OpSet) {
		return fmt.Errorf("Records yields %s after Close", show(r))
	}
	return nil
}

func durable(t *trial) error {
	switch {
	case t.store.Durable() && t.reopen == nil:
		return errors.New("it says that it is durable, and there is no way to open it again")
	case !t.store.Durable() && t.reopen != nil:
		return errors.New("it says that it is not durable, and there is a way to open it again")
	case t.reopen == nil:
		return nil
	}
	var pending, settled []fallback.Record
	for i := range 100 {
		set, del, done := t.set(fmt.Sprint("set", i), strings.Repeat("v", 50*i)), t.del(fmt.Sprint("del", i)), t.set(fmt.Sprint("done", i), "v")
		if err := t.put(set, del, done); err != nil {
			return err
		}
		t.store.Settle(done)
		pending, settled = append(pending, set, del), append(settled, done)
		if i%40 == 39 {
			if err := t.again(); err != nil {
				return err
			}
		}
	}
	for range 2 {
		if err := t.again(); err != nil {
			return err
		}
		for _, r := range pending {
			if err := t.expect(r); err != nil {
				return fmt.Errorf("after opening again: %w", err)
			}
			if !t.store.Pending(r.Key) {
				return fmt.Errorf("after opening again %q is not pending", r.Key)
			}
		}
		for _, r := range settled { // it may be replayed once more, as what it was
			if got, ok, err := t.store.Get(r.Key); err != nil || ok && got != r {
				return fmt.Errorf("after opening again %q, which was settled, is %s, %s", r.Key, show(got), said(err))
			}
		}
	}
	return nil
}

func supersededStaysAway(t *trial) error {
	if t.reopen == nil {
		return nil
	}
	old, fill := t.set("k", "old"), t.fill("f", "loaded")
	if err := t.put(old); err != nil {
		return err
	}
	t.store.Fill(fill)
	if err := t.again(); err != nil { // they may have got into files now
		return err
	}
	del, set := t.del("k"), t.set("f", "set")
	if err := t.put(del, set); err != nil {
		return err
	}
	t.store.Settle(del, set)
	if err := t.again(); err != nil {
		return err
	}
	for _, want := range []fallback.Record{del, set} {
		if got, ok, err := t.store.Get(want.Key); err != nil || ok && got != want {
			return fmt.Errorf("%s was superseded by %s, which was settled; after opening again it is %s, %s", quote(want.Key), show(want), show(got), said(err))
		}
	}
	keys := make([]string, 0, 2)
	for _, op := range []fallback.Op{fallback.OpSet, fallback.OpDel, fallback.OpFill} {
		for r := range t.store.Records(op) {
			if r != del && r != set {
				keys = append(keys, r.Key)
			}
		}
	}
	if slices.Sort(keys); len(keys) > 0 {
		return fmt.Errorf("Records yields what was superseded, of %q", keys)
	}
	return nil
}

func said(err error) string {
	if err == nil {
		return "no error"
	}
	return err.Error()
}

// show and quote show bytes in an error, and of many only the beginning.
func show(r fallback.Record) string {
	return fmt.Sprintf("{%s %s = %s, expires %d, stamp %q, slack %d}", r.Op, quote(r.Key), quote(r.Value), r.Expires, r.Stamp, r.Slack)
}

func quote(s string) string {
	const most = 60
	if len(s) > most {
		return fmt.Sprintf("%q… (%d bytes)", s[:most], len(s))
	}
	return fmt.Sprintf("%q", s)
}

func operations(t *trial) error {
	keeper, ok := t.store.(fallback.Keeper)
	if !ok {
		return nil // it need not be one: then Client.Apply says so while Redis is away
	}
	stamp := func(n int) string { return fmt.Sprintf("%016d00000000000000aa%012d", n, n) }
	list := func(id int, at, command string) string {
		return fmt.Sprintf("{\"id\": %q, \"opened\": false, \"operations\": [\n{\"stamp\": %q, \"command\": [%s]}\n]}", stamp(id), at, command)
	}
	made := func(key string, id, at int, command string) fallback.Record {
		return fallback.Record{Op: fallback.OpOperations, Key: key, Stamp: stamp(at), Slack: 1, Value: list(id, stamp(at), fmt.Sprintf("%q,\"m\"", command))}
	}
	set := t.set("set", "v")
	set.Stamp = "0000000000000001" // before them
	// Who puts operations behind a Set brings it along as the first.
	first := fallback.Record{Op: fallback.OpOperations, Key: set.Key, Stamp: set.Stamp, Slack: set.Slack, Value: list(2, set.Stamp, fmt.Sprintf("\"SET\",%q,\"PXAT\",\"%d\"", set.Value, set.Expires))}
	came := t.set("came", "w") // after they had been made: it comes before them all the same
	came.Stamp = set.Stamp
	late := t.del("k") // of before them: a store that has read it again must not do it before them
	late.Stamp = set.Stamp
	puts := []fallback.Record{came, made("k", 2, 2, "SADD"), made("k", 2, 3, "SREM"), late, set, first, made("set", 2, 2, "APPEND"), made("came", 2, 2, "APPEND")}
	want := make(map[string]fallback.Record)
	for _, r := range puts {
		for range 2 { // what comes twice is there once
			if err := t.put(r); err != nil {
				return err
			}
		}
		if now, ok := want[r.Key]; ok {
			r, _ = fallback.Merge(now, r)
		}
		want[r.Key] = r
	}
	for _, r := range want {
		if err := t.expect(r); err != nil {
			return err
		}
		if !t.store.Pending(r.Key) {
			return fmt.Errorf("Pending(%s) is false of a key whose operations wait", quote(r.Key))
		}
	}
	if n := t.store.Stats().Operations; n != len(want) {
		return fmt.Errorf("Stats().Operations is %d, want %d", n, len(want))
	}
	if n := len(slices.Collect(t.store.Records(fallback.OpOperations))); n != len(want) {
		return fmt.Errorf("Records(OpOperations) yields %d, want %d", n, len(want))
	}
	if err := keeper.Reject(want["k"], errors.New("refused")); err != nil {
		return fmt.Errorf("Reject: %w", err)
	}
	if t.store.Stats().Quarantined != 1 || !t.store.Pending("k") {
		return errors.New("Reject does not count what it was given, or changes the record of the key")
	}
	t.store.Settle(want["k"], want["set"], want["came"])
	return errors.Join(t.expectNone("k"), t.expectNone("set"), t.expectNone("came"))
}

func transaction(t *trial) error {
	transactor, ok := t.store.(fallback.Transactor)
	if !ok {
		return nil // it need not be one: then Client.ApplyAway says so
	}
	set, del := t.set("set", "v"), t.del("del")
	broken := t.set("broken", "v")
	broken.Expires = 0
	if err := transactor.PutAll(t.ctx, t.set("whole", "v"), broken, t.del("other")); err == nil {
		return errors.New("PutAll takes a value without an end")
	}
	ended, cancel := context.WithCancel(t.ctx)
	cancel()
	if err := transactor.PutAll(ended, t.set("whole", "v"), t.del("other")); !errors.Is(err, context.Canceled) {
		return fmt.Errorf("PutAll with a context that has ended does not return its error, but: %w", err)
	}
	if err := transactor.PutAll(t.ctx, set, del); err != nil {
		return fmt.Errorf("PutAll: %w", err)
	}
	return errors.Join(t.expect(set), t.expect(del), t.expectNone("whole"), t.expectNone("other"))
}
