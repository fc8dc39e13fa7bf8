package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"time"
)

const (
	vouchers = 2000 // to begin with; more than are used before the service is killed
	callers  = 100
	redeemed = 100 // vouchers after which it is killed

	apple3, apple1 = `{"stock":3}`, `{"stock":1}`
	lime4          = `{"stock":4}`
	fig2           = `{"stock":2}`

	redisUp     = "Redis up"
	redisDying  = "Redis dying"
	redisAway   = "Redis away"
	serviceDies = "service killed"
)

// story is told from its beginning to its end by tell. The parent plays the database, too: it says
// what loaders find.
type story struct {
	*screen
	pause   time.Duration
	folder  folder
	redis   *server
	service *process
	ledger  ledger
	acked   map[string]string // key and value of each Set that was acknowledged while Redis was away; "": a Del
	broken  bool              // something is not as promised
}

func (t *story) tell(ctx context.Context) error {
	began := time.Now()
	fmt.Fprintln(t.out, t.in(bold, "aside: away and back"))
	t.say("A shop's service keeps what it knows in Redis, through this library. Redis will be killed, then the service. " +
		"Nothing that was acknowledged may be lost, and what was deleted must stay deleted.")
	for _, chapter := range []func(context.Context) error{
		t.redisRuns, t.redisDies, t.lifeGoesOn, t.theServiceDies, t.theServiceComesBack, t.redisComesBack, t.whatHappened,
	} {
		if err := chapter(ctx); err != nil {
			return err
		}
		select {
		case <-time.After(t.pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if t.broken {
		t.news(red, "Not everything is as promised.")
		return nil
	}
	t.news(green, "Everything is as promised. It took %.0f seconds.", time.Since(began).Seconds())
	return nil
}

func (t *story) redisRuns(ctx context.Context) (err error) {
	if err := t.redis.start(ctx); err != nil {
		return err
	}
	if t.service, _, err = startService(ctx, t.settings()); err != nil {
		return err
	}
	t.chapter("Redis runs")
	t.say("redis-server at %s, and the service, with FallbackDir %s", t.redis.addr, t.folder)
	for _, p := range [][2]string{{"apple", apple3}, {"plum", `{"stock":5}`}, {"lime", `{"stock":6}`}} {
		if err := t.set(ctx, "product:"+p[0], p[1]); err != nil {
			return err
		}
	}
	for range 2 { // the second is answered from memory
		if err := t.get(ctx, "product:pear", pear, pear); err != nil {
			return err
		}
	}
	for range 2 {
		if err := t.get(ctx, "product:apple", "", apple3); err != nil {
			return err
		}
	}
	m, err := t.service.do(ctx, command{Do: "vouchers", N: vouchers})
	t.row(fmt.Sprintf("set %d vouchers", vouchers), "ok", "Redis", short(m.Took))
	return err
}

func (t *story) redisDies(ctx context.Context) error {
	const lasts, until = 1500 * time.Millisecond, 500 * time.Millisecond
	t.chapter("Redis is killed, in the middle of a rush")
	t.say("%d callers read a product and write into their carts, again and again.", callers)
	if err := t.service.begin(command{Do: "rush", N: callers, For: lasts}); err != nil {
		return err
	}
	time.Sleep(until)
	t.redis.kill()
	killed := time.Now()
	t.news(red, "kill -9 redis-server")
	noticed := time.Duration(-1)
	if _, err := t.service.await(ctx, 5*time.Second, func(m message) bool {
		if m.Kind == "mode" && m.Mode == "degraded" {
			noticed = time.Unix(0, m.At).Sub(killed)
		}
		return noticed != -1
	}); err != nil {
		return err
	}
	if noticed == -1 {
		return errors.New("the service does not notice that Redis is gone")
	}
	// The kernel closes the connections before we hear of the death, so it may be less than
	// nothing.
	t.news(yellow, "The service is degraded, %s later: memory, disk and loaders answer.", short(max(noticed, 0)))
	m, err := t.service.answer(ctx)
	if err != nil {
		return err
	}
	c := m.Calls
	t.say("%d calls, %d failed. The longest took %s: whoever is on the way when Redis dies waits for RedisTimeout (250 ms) "+
		"at most, and for the disk. %d calls began after it had noticed: no get of these took longer than %s, and no set than %s, "+
		"as what is set is on disk (fsync) before it returns.", c.All, c.Failed, short(c.Longest), c.Away, short(c.AwayGet), short(c.AwaySet))
	if c.Failed > 0 {
		t.wrong("a call failed: %s", c.FirstError)
	}
	if c.Longest > 2*time.Second {
		t.wrong("a call has waited for a dead Redis")
	}
	t.acked = m.Kept
	n := len(m.Values)
	t.ledger.note(fmt.Sprintf("set %d carts", n), redisDying, strconv.Itoa(n), "all there", m.Values)
	return nil
}

func (t *story) lifeGoesOn(ctx context.Context) error {
	t.chapter("Life goes on")
	t.say("What is set or deleted is on disk before the call returns. What was deleted is not served any more: plum is " +
		"sold out, and the database says so.")
	steps := []func() error{
		func() error { return t.get(ctx, "product:pear", pear, pear) },
		func() error { return t.get(ctx, "product:fig", fig2, fig2) },
		func() error { return t.set(ctx, "product:apple", apple1) },
		func() error { return t.get(ctx, "product:apple", "", apple1) },
		func() error { return t.del(ctx, "product:plum") },
		func() error { return t.get(ctx, "product:plum", "", "") }, // not what it was
		func() error { return t.set(ctx, "product:date", `{"stock":9}`) },
		func() error { return t.del(ctx, "product:date") },
		func() error { return t.del(ctx, "product:lime") },
		func() error { return t.set(ctx, "product:lime", lime4) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	note := func(what, key, value string) {
		right := value
		if value == "" {
			right = "gone"
		}
		t.ledger.note(what, redisAway, "yes", right, map[string]string{key: value})
	}
	note("set apple", "product:apple", apple1)
	note("delete plum", "product:plum", "")
	note("set date, then delete", "product:date", "")
	note("delete lime, then set", "product:lime", lime4)
	t.ledger.note("load fig", redisAway, "-", "not put there", map[string]string{"product:fig": ""})
	t.say("(Other processes hear of none of this before Redis is back. What they have in memory they go on serving, for " +
		"DegradedTTL at most: 30 seconds.)")
	return nil
}

func (t *story) theServiceDies(ctx context.Context) error {
	t.chapter("The service is killed, too")
	for deadline := time.Now().Add(30 * time.Second); !t.folder.has("product:apple"); time.Sleep(10 * time.Millisecond) {
		if ctx.Err() != nil || time.Now().After(deadline) {
			return errors.New("what was set does not get its file")
		}
	}
	t.say("It takes one order after another, and deletes the voucher of each.")
	if err := t.service.begin(command{Do: "orders"}); err != nil {
		return err
	}
	var acked []string
	count := func(m message) bool {
		if m.Kind == "acked" {
			acked = append(acked, m.Key)
		}
		return len(acked) >= 2*redeemed
	}
	if enough, err := t.service.await(ctx, 30*time.Second, count); err != nil || !enough {
		return errors.Join(err, errors.New("the service is too slow"))
	}
	for _, m := range t.service.kill() {
		count(m)
	}
	t.news(red, "kill -9 of the service, after %d acknowledgements", len(acked))

	orders, used := make(map[string]string), make(map[string]string)
	for i, key := range acked {
		if n := i/2 + 1; i%2 == 0 {
			orders[key] = orderValue(n)
		} else {
			used[key] = ""
		}
	}
	valid := make(map[string]string)
	for n := len(used) + 2; n <= vouchers; n++ { // the one in between was under way
		valid[voucherKey(n)] = voucherValue
	}
	t.ledger.note(fmt.Sprintf("set %d orders", len(orders)), serviceDies, strconv.Itoa(len(orders)), "all there", orders)
	t.ledger.note(fmt.Sprintf("delete %d vouchers", len(used)), serviceDies, strconv.Itoa(len(used)), "all gone", used)
	underWay := entry{what: "what was under way", when: serviceDies, acked: "no", right: "done: fine, too", either: true}
	if n := len(acked)/2 + 1; len(acked)%2 == 0 {
		underWay.want = map[string]string{orderKey(n): orderValue(n)}
	} else {
		underWay.want = map[string]string{voucherKey(n): ""}
	}
	t.ledger.entries = append(t.ledger.entries, underWay)
	t.ledger.note(fmt.Sprintf("set %d other vouchers", len(valid)), redisUp, strconv.Itoa(len(valid)), "all there", valid)
	maps.Copy(t.acked, orders)
	maps.Copy(t.acked, used)
	maps.Copy(t.acked, map[string]string{"product:apple": apple1, "product:plum": "", "product:date": "", "product:lime": lime4})
	return t.folder.show(t.screen, "product:apple")
}

func (t *story) theServiceComesBack(ctx context.Context) error {
	t.chapter("The service is started again; Redis is still away")
	began := time.Now()
	p, ready, err := startService(ctx, t.settings())
	if err != nil {
		return err
	}
	t.service = p
	t.news(yellow, "It is %s, up after %s, and knows %d sets and %d deletes.", ready.Mode, short(time.Since(began)), ready.Stored.Sets, ready.Stored.Deletes)
	for _, step := range []func() error{
		func() error { return t.get(ctx, "product:apple", "", apple1) },
		func() error { return t.get(ctx, "product:plum", "", "") },
		func() error { return t.get(ctx, orderKey(redeemed), "", orderValue(redeemed)) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	keys := make([]string, 0, len(t.acked))
	for key := range t.acked {
		keys = append(keys, key)
	}
	m, err := t.service.do(ctx, command{Do: "peek", Keys: keys})
	if err != nil {
		return err
	}
	lost := 0
	for key, want := range t.acked {
		if m.Values[key] != want {
			lost++
		}
	}
	t.row(fmt.Sprintf("peek at %d keys", len(keys)), fmt.Sprintf("%d forgotten", lost), m.From, short(m.Took))
	if lost > 0 {
		t.wrong("%d of what was acknowledged is forgotten", lost)
	}
	return nil
}

func (t *story) redisComesBack(ctx context.Context) error {
	t.chapter("Redis comes back, with what it had when it was killed")
	keys := make([]string, redeemed)
	for i := range keys {
		keys[i] = voucherKey(i + 1)
	}
	old, err := t.redis.valuesBeforeAnybody(ctx, keys)
	if err != nil {
		return err
	}
	t.say("A look at it before it is let in: it has %d vouchers that were used.", len(old))
	if err := t.redis.start(ctx); err != nil {
		return err
	}
	back := time.Now()
	t.news(green, "Redis answers.")

	// Recovering, in which a key that is pending is replayed before it is read, even if its turn
	// has not come.
	mode, drawn := "", -1
	var report, news message
	on := func(m message) {
		switch m.Kind {
		case "mode":
			mode, news = m.Mode, m
		case "replay":
			quarter := 4 * m.Done / max(m.Total, 1)
			switch report = m; {
			case m.Finished && drawn < 5:
				t.progress(m.Total, m.Total, time.Since(back))
				drawn = 5
			case mode == "recovering" && !m.Finished && drawn < 5 && (t.terminal || quarter > drawn):
				t.progress(m.Done, max(m.Total, m.Done+1), time.Since(back))
				drawn = quarter
			}
		}
	}
	recovering, err := t.service.await(ctx, 10*time.Second, func(m message) bool { on(m); return mode == "recovering" || mode == "healthy" })
	if err != nil {
		return err
	}
	if !recovering {
		return errors.New("the service does not notice that Redis is back")
	}
	t.news(yellow, "The service is recovering, %s later.", short(max(time.Unix(0, news.At).Sub(back), 0)))
	t.say("It replays, deletes first, %d records a second (5,000 unless asked otherwise). A key whose turn has not come yet "+
		"is replayed when somebody asks for it, before it is read:", replayRate)
	m, err := t.service.do(ctx, command{Do: "peek", Keys: keys})
	if err != nil {
		return err
	}
	t.row(fmt.Sprintf("peek at %d used ones", len(keys)), fmt.Sprintf("%d valid", len(m.Values)), m.From, short(m.Took))
	if len(m.Values) > 0 {
		t.wrong("a voucher that was used is valid again")
	}
	over := func() bool { return mode == "healthy" && report.Finished } // which is told first does not matter
	for !over() {
		healthy, err := t.service.await(ctx, 15*time.Second, func(m message) bool { on(m); return over() })
		if err != nil || !healthy {
			return errors.Join(err, errors.New("the service does not become healthy again"))
		}
	}
	t.news(green, "The service is healthy, %.1f s after Redis was back.", time.Unix(0, news.At).Sub(back).Seconds())
	t.say("Its report: %s.", report.Report)
	t.say("(Values that were loaded meanwhile are dropped, because this server restarted: it might have lost the note that " +
		"they were deleted. The next get loads them.)")
	return nil
}

func (t *story) whatHappened(ctx context.Context) error {
	// A record that Redis has answered for leaves the disk a moment later.
	in, err := t.folder.look()
	for deadline := time.Now().Add(30 * time.Second); err == nil && in.records+len(in.parts) > 0 && time.Now().Before(deadline); in, err = t.folder.look() {
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		return err
	}
	if err := t.service.stop(); err != nil {
		return err
	}
	if in, err = t.folder.look(); err != nil {
		return err
	}
	t.chapter("What happened")
	ok, err := t.ledger.audit(ctx, t.screen, t.redis)
	if err != nil {
		return err
	}
	t.broken = t.broken || !ok
	left := in.records + len(in.parts) + len(in.others)
	t.say("Left in the folder beside the lock: %d files.", left)
	if left > 0 {
		t.wrong("the folder is not empty")
	}
	return nil
}

func (t *story) settings() serviceSettings {
	return serviceSettings{Redis: t.redis.addr, Dir: string(t.folder)}
}

func (t *story) wrong(format string, args ...any) {
	t.broken = true
	t.news(red, "WRONG: "+format, args...)
}

// set, del and get have the service do one thing, print it, and compare it with what it must be.

func (t *story) set(ctx context.Context, key, value string) error {
	m, err := t.service.do(ctx, command{Do: "set", Key: key, Value: value})
	if err != nil {
		return err
	}
	t.row("set "+key, "ok: "+value, m.From, short(m.Took))
	return nil
}

func (t *story) del(ctx context.Context, key string) error {
	m, err := t.service.do(ctx, command{Do: "del", Key: key})
	if err != nil {
		return err
	}
	t.row("del "+key, "ok", m.From, short(m.Took))
	return nil
}

// get asks for a value that must be want, "" for none.
func (t *story) get(ctx context.Context, key, database, want string) error {
	m, err := t.service.do(ctx, command{Do: "get", Key: key, Database: database})
	if err != nil {
		return err
	}
	said := m.Value
	if !m.Found {
		said = "there is none"
	}
	t.row("get "+key, said, m.From, short(m.Took))
	if m.Value != want {
		t.wrong("%s is %q, and must be %q", key, m.Value, want)
	}
	return nil
}
