package web

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/redaside/aside"
)

// drillStatus is a line of the answer to a drill: so far, every second, and in the end. Durations have
// their unit in their name.
type drillStatus struct {
	Running    bool    `json:"running"`
	Error      string  `json:"error,omitempty"` // why it has ended by itself
	Fraction   float64 `json:"fraction"`
	TookMS     int64   `json:"took_ms"`
	MemoryHits int64   `json:"memory_hits"`
	Reads      int64   `json:"reads"`
	Kept       int64   `json:"kept"`
	Unanswered int64   `json:"unanswered"`
}

func drillStatusOf(r aside.DrillReport) drillStatus {
	return drillStatus{
		Fraction: r.Fraction, TookMS: r.Took.Milliseconds(),
		MemoryHits: r.MemoryHits, Reads: r.Reads, Kept: r.Kept, Unanswered: r.Unanswered,
	}
}

// serveDrill runs a drill for as long as its caller stays, and tells it each second what it has shown,
// in lines of JSON. The proxy calls no loaders: what memory does not have is refused, as in an outage.
func (x *exchange) serveDrill() {
	if !x.authorized() || !x.allow(http.MethodPost) {
		return
	}
	fraction, err := strconv.ParseFloat(x.r.URL.Query().Get("fraction"), 64)
	if err != nil || !(fraction > 0 && fraction <= 1) {
		x.fail(problem{problemInvalid, fmt.Sprintf("fraction: %q is not the share of the keys; give a number above 0 and at most 1, such as ?fraction=0.01", shortened(x.r.URL.Query().Get("fraction")))})
		return
	}
	if !x.drilling.CompareAndSwap(false, true) {
		x.fail(problem{problemDrill, aside.ErrDrillRunning.Error()})
		return
	}
	defer x.drilling.Store(false)
	control := http.NewResponseController(x.w)
	_ = control.SetReadDeadline(time.Time{}) // the caller's silence does not end it; only that it leaves does
	ctx, cancel := context.WithCancel(x.r.Context())
	defer cancel()
	ended := make(chan drillStatus, 1)
	var failed error // set before ended is closed
	go func() {      // ends with ctx, or by itself
		defer close(ended)
		var report aside.DrillReport
		report, failed = x.client.Drill(ctx, aside.DrillRedisDown, fraction)
		last := drillStatusOf(report)
		if failed != nil {
			last.Error = failed.Error()
		}
		ended <- last
	}()
	began, stop := false, x.hub.stop
	for tick := time.NewTimer(0); ; {
		select {
		case last := <-ended:
			<-ended // closed: failed is set
			if !began && failed != nil {
				x.fail(problem{problemDrill, failed.Error()})
				return
			}
			x.tellDrill(&began, last)
			return
		case <-tick.C:
			tick.Reset(time.Second)
		case <-stop: // the server is about to
			stop = nil
			cancel()
			continue
		}
		running := x.client.Health().Drill
		if running == nil { // it has not begun, or it has ended
			tick.Reset(10 * time.Millisecond)
			continue
		}
		st := drillStatusOf(*running)
		st.Running = true
		if !x.tellDrill(&began, st) {
			cancel()
		}
	}
}

// tellDrill writes a line, and reports whether the caller has taken it.
func (x *exchange) tellDrill(began *bool, st drillStatus) bool {
	if !*began {
		*began = true
		h := x.w.Header()
		h.Set("Content-Type", "application/x-ndjson")
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Accel-Buffering", "no") // a proxy before us must not keep lines back
		x.answer(http.StatusOK)
	}
	line, err := json.Marshal(st)
	if err != nil {
		panic(fmt.Errorf("a drill's status is not JSON: %w", err))
	}
	return x.send(append(line, '\n'))
}
