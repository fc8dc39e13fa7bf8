package faults_test

import (
	"errors"
	"testing"
	"time"

	"github.com/redaside/aside"
)

// TestOutageCycles has Redis go away and come back again and again, with writes each time: the
// hundredth outage has to be like the first, and to leave as little. Relapse: a goroutine, a
// connection, a file or a record more with each outage.
func TestOutageCycles(t *testing.T) {
	ownServers(t)
	cycles := 20
	if *full {
		cycles = 200
	}
	w := &world{t: t}
	single(true)(w)
	tr, ctx := newTruth(40), testContext(t)
	p := w.join(w.through(), tr)
	cycle := func() {
		w.proxy.Refuse()
		eventually(t, "it is noticed", func() bool { return p.Health().Mode == aside.Degraded })
		for i, f := range tr.keys {
			if err := f.write(ctx, p.Client, i%3 == 0); err != nil {
				t.Fatal(err)
			}
			if f.journaled.Load() == nil {
				t.Fatalf("%s is not in the journal", f.name)
			}
			if err := tr.keys[len(tr.keys)-1-i].get(ctx, p.Client); err != nil {
				t.Fatal(err)
			}
		}
		w.proxy.Heal()
		p.awaitRecovery(t)
		for i, f := range tr.keys {
			want := any(f.value(f.version.Load()))
			if has := w.server.Do("GET", f.name); has != want && (has != nil || i%3 != 0) { // what was deleted may have been loaded since
				t.Fatalf("%s holds %q, acknowledged was %s", f.name, has, f.history())
			}
		}
		eventually(t, "no file is left", func() bool { return len(files(t, p.dir)) == 0 })
		eventually(t, "there is one connection", func() bool { return w.proxy.Connections() == 1 })
	}
	for range 3 {
		cycle()
	}
	eventually(t, "idle workers have gone", func() bool { return p.Stats().Waiting == 0 })
	time.Sleep(1100 * time.Millisecond) // aside keeps the goroutines of loads for a second
	before := newFootprint()
	began := time.Now()
	for range cycles {
		cycle()
	}
	took := time.Since(began)
	more := beyond(before)
	if more != (footprint{}) {
		t.Errorf("%d cycles left behind: %v", cycles, more)
	}
	stale, _ := tr.staleReads(loss{})
	complain(t, "stale reads", stale)
	complain(t, "problems", tr.problems)
	if n := p.Stats().Outages; n < int64(cycles+3) { // a busy machine may look like one more
		t.Errorf("%d outages were counted in %d cycles", n, cycles+3)
	}
	t.Logf("%d cycles, %v each on average, %v more than before", cycles, (took / time.Duration(cycles)).Round(time.Millisecond), more)
}

// writeAll writes each key once, a tenth of them as deletes, from 64 goroutines.
func (tr *truth) writeAll(t testing.TB, p *party) {
	t.Helper()
	const writers = 64
	ctx := testContext(t)
	failed := make(chan error, writers)
	for n := range writers {
		go func() { // ends with its share
			var err error
			for i := n; i < len(tr.keys) && err == nil; i += writers {
				if err = tr.keys[i].write(ctx, p.Client, i%10 == 0); errors.Is(err, aside.ErrNotDurable) {
					err = nil // this case has no directory
				}
			}
			failed <- err
		}()
	}
	for range writers {
		if err := <-failed; err != nil {
			t.Fatal(err)
		}
	}
}
