package faults_test

import (
	"testing"
	"time"

	"github.com/redaside/aside"
)

const backlogRecords = 10_000

// runBacklog measures the way back with 10,000 records to replay, at the usual rate of 5,000 a
// second.
func runBacklog(t *testing.T) (back time.Duration) {
	const records = backlogRecords
	w := &world{t: t}
	single(true)(w)
	tr := newTruth(records)
	p := w.join(w.through(), tr)
	w.proxy.Refuse()
	eventually(t, "it is noticed", func() bool { return p.Health().Mode == aside.Degraded })
	began := time.Now()
	tr.writeAll(t, p)
	wrote := time.Since(began)
	if pending := p.Stats().Pending; pending != records {
		t.Fatalf("%d records are pending", pending)
	}
	w.proxy.Heal()
	healed := time.Now()
	p.awaitRecovery(t)
	back = time.Since(healed)
	t.Logf("back to health with %d records after %v (of it the replay %v); they had taken %v to write", records, ms(back), ms(p.Health().Replay.Report.Took), ms(wrote))
	for _, f := range tr.keys {
		f.mu.Lock()
		last := f.acks[len(f.acks)-1]
		f.mu.Unlock()
		if has := w.server.Do("GET", f.name); last.deleted != (has == nil) {
			t.Fatalf("%s holds %q, acknowledged was %s", f.name, has, f.history())
		}
	}
	eventually(t, "no file is left", func() bool { return len(files(t, p.dir)) == 0 })
	return back
}
